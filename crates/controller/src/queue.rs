//! Which keys wait to be reconciled. A key is there once, however often it is added; one that is being worked on is handed out again
//! only afterwards; one that failed waits longer each time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use client::{Clock, ObjectKey};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The wait after a key's first failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// The longest wait. Source of both: Kubernetes 1.36, `client-go/util/workqueue/default_rate_limiters.go`.
const LONGEST_RETRY: Duration = Duration::from_secs(1000);

/// Keys that wait, with the rules above. Shared by whoever adds and whoever works.
pub struct WorkQueue {
    state: Mutex<State>,
    /// Woken for each key that becomes ready.
    ready: Notify,
    /// Woken when the earliest delay changes.
    delays_changed: Notify,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<ObjectKey>,
    entries: HashMap<ObjectKey, Entry>,
    delayed: BTreeSet<(Duration, ObjectKey)>,
    added: u64,
    retried: u64,
}

/// What is known of a key. Forgotten as soon as all of it is the default.
#[derive(Default, PartialEq, Eq)]
struct Entry {
    waiting: bool,
    working: bool,
    /// Added while being worked on.
    again: bool,
    failures: u32,
    due: Option<Duration>,
    /// While it waits, since when; while it is worked on, since when that.
    since: Option<Duration>,
}

impl WorkQueue {
    /// An empty queue.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), ready: Notify::new(), delays_changed: Notify::new(), clock })
    }

    /// Wants a key reconciled as soon as somebody has time.
    pub fn add(&self, key: ObjectKey) {
        let now = self.clock.elapsed();
        self.state.lock().add(key, now, &self.ready);
    }

    /// Wants a key reconciled after `delay` at the latest.
    pub fn add_after(&self, key: ObjectKey, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = self.clock.elapsed().saturating_add(delay);
        let mut state = self.state.lock();
        state.retried += 1;
        let entry = state.entries.entry(key.clone()).or_default();
        match entry.due {
            Some(earlier) if earlier <= due => return,
            Some(later) => drop(state.delayed.remove(&(later, key.clone()))),
            None => {}
        }
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.due = Some(due);
        }
        state.delayed.insert((due, key));
        if state.delayed.first().is_some_and(|(first, _)| *first == due) {
            self.delays_changed.notify_one();
        }
    }

    /// The next key to work on, and how long it waited. Whoever takes one must hand it back with [`WorkQueue::done`] or [`WorkQueue::failed`].
    pub async fn next(&self) -> (ObjectKey, Duration) {
        loop {
            let woken = self.ready.notified();
            {
                let mut state = self.state.lock();
                if let Some(key) = state.ready.pop_front() {
                    let mut waited = Duration::ZERO;
                    if let Some(entry) = state.entries.get_mut(&key) {
                        let now = self.clock.elapsed();
                        waited = entry.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
                        entry.since = Some(now);
                        entry.waiting = false;
                        entry.working = true;
                    }
                    // A wake-up is remembered only once, so whoever takes one key passes the word on.
                    if !state.ready.is_empty() {
                        self.ready.notify_one();
                    }
                    return (key, waited);
                }
            }
            woken.await;
        }
    }

    /// A key was reconciled: its failures are forgotten.
    pub fn done(&self, key: &ObjectKey) {
        let now = self.clock.elapsed();
        self.state.lock().hand_back(key, 0, now, &self.ready);
    }

    /// A key could not be reconciled: it comes again, later with each failure. Returns when.
    pub fn failed(&self, key: &ObjectKey) -> Duration {
        let now = self.clock.elapsed();
        let failures = {
            let mut state = self.state.lock();
            let failures = state.entries.get(key).map_or(0, |entry| entry.failures).saturating_add(1);
            state.hand_back(key, failures, now, &self.ready);
            failures
        };
        let delay = FIRST_RETRY.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(LONGEST_RETRY);
        self.add_after(key.clone(), delay);
        delay
    }

    /// Moves keys whose delay is over to the waiting ones, for ever. One task per queue runs this; it sleeps until the earliest delay.
    pub async fn run_delays(&self) {
        loop {
            let changed = self.delays_changed.notified();
            let next = self.release_due();
            match next {
                None => changed.await,
                Some(wait) => {
                    tokio::select! {
                        () = changed => {}
                        () = self.clock.sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// Makes ready what is due; returns how long until the next one is.
    fn release_due(&self) -> Option<Duration> {
        let now = self.clock.elapsed();
        let mut state = self.state.lock();
        while let Some((due, _)) = state.delayed.first() {
            if *due > now {
                return Some(*due - now);
            }
            if let Some((_, key)) = state.delayed.pop_first() {
                if let Some(entry) = state.entries.get_mut(&key) {
                    entry.due = None;
                }
                state.add(key, now, &self.ready);
            }
        }
        None
    }

    /// How many keys wait for somebody to have time.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a key was to come again later, for whatever reason.
    pub fn retried(&self) -> u64 {
        self.state.lock().retried
    }

    /// For each key that is worked on, how long it has been.
    pub fn worked_on(&self) -> Vec<Duration> {
        let now = self.clock.elapsed();
        self.state.lock().entries.values().filter(|entry| entry.working).filter_map(|entry| Some(now.saturating_sub(entry.since?))).collect()
    }

    /// How many keys were added so far, repetitions of waiting ones not counted.
    pub fn added(&self) -> u64 {
        self.state.lock().added
    }
}

impl State {
    fn add(&mut self, key: ObjectKey, now: Duration, ready: &Notify) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.working {
            entry.again = true;
        } else if !entry.waiting {
            entry.waiting = true;
            entry.since = Some(now);
            self.ready.push_back(key);
            self.added += 1;
            ready.notify_one();
        }
    }

    fn hand_back(&mut self, key: &ObjectKey, failures: u32, now: Duration, ready: &Notify) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.working = false;
        entry.since = None;
        entry.failures = failures;
        if std::mem::take(&mut entry.again) {
            self.add(key.clone(), now, ready);
        } else if *entry == Entry::default() {
            self.entries.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::FakeClock;
    use futures::FutureExt;

    fn queue() -> (Arc<WorkQueue>, FakeClock) {
        let clock = FakeClock::new(jiff::Timestamp::UNIX_EPOCH);
        (WorkQueue::new(Arc::new(clock.clone())), clock)
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::cluster(name)
    }

    fn take(queue: &WorkQueue) -> Option<String> {
        queue.release_due();
        queue.next().now_or_never().map(|(key, _)| key.to_string())
    }

    #[test]
    fn a_key_added_twice_is_handed_out_once() {
        let (queue, _) = queue();
        queue.add(key("a"));
        queue.add(key("b"));
        queue.add(key("a"));
        assert_eq!((take(&queue), take(&queue), take(&queue)), (Some("a".into()), Some("b".into()), None));
    }

    #[test]
    fn a_key_added_while_it_is_worked_on_comes_again_afterwards() {
        let (queue, _) = queue();
        queue.add(key("a"));
        take(&queue);
        queue.add(key("a"));
        assert_eq!(take(&queue), None);
        queue.done(&key("a"));
        assert_eq!(take(&queue), Some("a".into()));
        queue.done(&key("a"));
        assert!(queue.state.lock().entries.is_empty());
    }

    #[test]
    fn a_delayed_key_comes_at_the_earliest_of_its_times() {
        let (queue, clock) = queue();
        queue.add_after(key("a"), Duration::from_secs(10));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(20));
        clock.advance(Duration::from_secs(4));
        assert_eq!(take(&queue), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(take(&queue), Some("a".into()));
        queue.done(&key("a"));
        clock.advance(Duration::from_secs(60));
        assert_eq!(take(&queue), None);
    }

    #[test]
    fn failures_wait_longer_each_time_until_one_success() {
        let (queue, clock) = queue();
        queue.add(key("a"));
        let mut waits = Vec::new();
        for _ in 0..20 {
            assert_eq!(take(&queue), Some("a".into()));
            let wait = queue.failed(&key("a"));
            waits.push(wait.as_millis());
            clock.advance(wait);
        }
        assert_eq!(waits[..4], [5, 10, 20, 40]);
        assert_eq!(waits[19], 1_000_000);
        take(&queue);
        queue.done(&key("a"));
        queue.add(key("a"));
        take(&queue);
        assert_eq!(queue.failed(&key("a")).as_millis(), 5);
    }

    #[test]
    fn it_is_told_how_long_keys_waited_and_have_been_worked_on() {
        let (queue, clock) = queue();
        queue.add(key("a"));
        clock.advance(Duration::from_secs(3));
        assert_eq!(queue.next().now_or_never(), Some((key("a"), Duration::from_secs(3))));
        clock.advance(Duration::from_secs(2));
        assert_eq!((queue.worked_on(), queue.retried()), (vec![Duration::from_secs(2)], 0));
        queue.failed(&key("a"));
        assert_eq!((queue.worked_on(), queue.retried()), (vec![], 1));
    }

    #[tokio::test]
    async fn every_waiting_worker_gets_a_key() {
        let (queue, _) = queue();
        let workers: Vec<_> = (0..4).map(|_| tokio::spawn({ let queue = queue.clone(); async move { queue.next().await } })).collect();
        tokio::task::yield_now().await;
        for name in ["a", "b", "c", "d"] {
            queue.add(key(name));
        }
        for worker in workers {
            tokio::time::timeout(Duration::from_secs(60), worker).await.unwrap().unwrap();
        }
    }
}
