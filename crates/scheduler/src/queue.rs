//! Which pod is next. Pods that were refused wait for an event that may help them; after a failure each waits for its
//! back-off as well. Holds no time of its own: `now` is handed in.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{metrics::Metrics, pod_info::PodInfo};

/// A pod that was refused is tried again after this time whatever happened, should an event have been misjudged.
/// Source: upstream's `podMaxInUnschedulablePodsDuration`.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What moves a pod whose attempt came to nothing, in upstream's words.
const ATTEMPT_FAILED: &str = "ScheduleAttemptFailure";

/// How long pods wait after attempts that failed.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first. Upstream's `podInitialBackoffSeconds`.
    pub first: Duration,
    /// At most. Upstream's `podMaxBackoffSeconds`.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

/// Higher priority first, then who came earlier.
type Rank = (Reverse<i32>, u64, String);

#[derive(Debug)]
enum State {
    Active,
    /// Until this time.
    BackingOff(Duration),
    /// Until something happens that may change the mind of one of these filters, or until the time.
    Waiting(Vec<usize>, Duration),
    /// Being worked on: nothing wakes it but the outcome or a change of the pod.
    InHand,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    order: u64,
    attempts: u32,
    /// When it came here first.
    since: Duration,
    not_before: Duration,
    state: State,
}

/// How many pods wait, by what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// For their turn.
    pub active: usize,
    /// For their back-off.
    pub backing_off: usize,
    /// For the cluster to change.
    pub waiting: usize,
}

/// Pods that want a node.
#[derive(Debug, Default)]
pub struct Queue {
    backoff: Backoff,
    metrics: Metrics,
    entries: HashMap<String, Entry>,
    active: BTreeSet<Rank>,
    backing_off: BTreeSet<(Duration, String)>,
    waiting: BTreeSet<(Duration, String)>,
    next_order: u64,
}

impl Queue {
    /// An empty one.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }
    /// The same, whose comings and goings are counted there.
    #[must_use]
    pub fn counted_by(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }
    fn rank(entry: &Entry) -> Rank {
        (Reverse(entry.pod.priority), entry.order, entry.pod.uid.clone())
    }

    fn leave_state(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        match &entry.state {
            State::Active => {
                self.active.remove(&Self::rank(entry));
            }
            State::BackingOff(until) => {
                self.backing_off.remove(&(*until, uid.to_owned()));
            }
            State::Waiting(_, until) => {
                self.waiting.remove(&(*until, uid.to_owned()));
            }
            State::InHand => {}
        }
    }

    /// `event` is what moves it, in upstream's words.
    fn activate(&mut self, uid: &str, now: Duration, event: &'static str) {
        self.leave_state(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.not_before > now {
            entry.state = State::BackingOff(entry.not_before);
            self.backing_off.insert((entry.not_before, uid.to_owned()));
            self.metrics.incoming("backoff", event);
        } else {
            entry.state = State::Active;
            let rank = Self::rank(entry);
            self.active.insert(rank);
            self.metrics.incoming("active", event);
        }
    }

    /// Adds a pod, or takes in how it changed; a changed pod is tried again.
    pub fn add(&mut self, pod: Arc<PodInfo>, now: Duration) {
        let uid = pod.uid.clone();
        self.leave_state(&uid);
        let event = if let Some(entry) = self.entries.get_mut(&uid) {
            entry.pod = pod;
            "UnschedulablePodUpdate"
        } else {
            let order = self.next_order;
            self.next_order += 1;
            self.entries.insert(uid.clone(), Entry { pod, order, attempts: 0, since: now, not_before: Duration::ZERO, state: State::InHand });
            "UnschedulablePodAdd"
        };
        self.activate(&uid, now, event);
    }
    /// Takes a pod out for good.
    pub fn remove(&mut self, uid: &str) {
        self.leave_state(uid);
        self.entries.remove(uid);
    }
    /// Whether a pod is here.
    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }
    /// The next pod. It stays known here until [`Queue::remove`], [`Queue::refused`] or [`Queue::failed`].
    pub fn pop(&mut self, now: Duration) -> Option<Arc<PodInfo>> {
        let is_due = |entry: &&(Duration, String)| entry.0 <= now;
        loop {
            let (due, event) = match (self.backing_off.first().filter(is_due), self.waiting.first().filter(is_due)) {
                (Some(due), _) => (due, "BackoffComplete"),
                (None, Some(due)) => (due, "UnschedulableTimeout"),
                (None, None) => break,
            };
            let uid = due.1.clone();
            self.activate(&uid, now, event);
        }
        let (_, _, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.state = State::InHand;
        entry.attempts += 1;
        Some(entry.pod.clone())
    }
    fn back_off(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let doublings = entry.attempts.saturating_sub(1).min(16);
        entry.not_before = now + self.backoff.first.saturating_mul(2_u32.pow(doublings)).min(self.backoff.longest);
    }
    /// The pod fits nowhere; these filters say so.
    pub fn refused(&mut self, uid: &str, refused_by: Vec<usize>, now: Duration) {
        self.back_off(uid, now);
        if let Some(entry) = self.entries.get_mut(uid)
            && matches!(entry.state, State::InHand)
        {
            let until = now + LONGEST_WAIT;
            entry.state = State::Waiting(refused_by, until);
            self.waiting.insert((until, uid.to_owned()));
            self.metrics.incoming("unschedulable", ATTEMPT_FAILED);
        }
    }
    /// Its binding failed; it is tried again after its back-off.
    pub fn failed(&mut self, uid: &str, now: Duration) {
        self.back_off(uid, now);
        self.activate(uid, now, ATTEMPT_FAILED);
    }
    /// Something happened, in upstream's words: pods that it `may_help` are tried again.
    pub fn happened(&mut self, event: &'static str, now: Duration, mut may_help: impl FnMut(&Arc<PodInfo>, &[usize]) -> bool) {
        let helped = |uid: &&String| match self.entries.get(*uid) {
            Some(Entry { pod, state: State::Waiting(refused_by, _), .. }) => may_help(pod, refused_by),
            _ => false,
        };
        let woken: Vec<String> = self.waiting.iter().map(|(_, uid)| uid).filter(helped).cloned().collect();
        for uid in woken {
            self.activate(&uid, now, event);
        }
    }
    /// How often a pod was tried, and when it came.
    pub fn history(&self, uid: &str) -> Option<(u32, Duration)> {
        self.entries.get(uid).map(|entry| (entry.attempts, entry.since))
    }
    /// How many pods wait, by what for.
    pub fn pending(&self) -> Pending {
        Pending { active: self.active.len(), backing_off: self.backing_off.len(), waiting: self.waiting.len() }
    }
    /// Whether pods wait for something to happen.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
    /// When the next back-off or the longest wait ends.
    pub fn next_wake(&self) -> Option<Duration> {
        let first = |set: &BTreeSet<(Duration, String)>| set.first().map(|(until, _)| *until);
        first(&self.backing_off).into_iter().chain(first(&self.waiting)).min()
    }
    /// Number of pods here.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(PodInfo { uid: uid.to_owned(), priority, ..PodInfo::default() })
    }

    fn next(queue: &mut Queue, seconds: u64) -> String {
        queue.pop(Duration::from_secs(seconds)).map_or_else(|| "-".to_owned(), |pod| pod.uid.clone())
    }

    #[test]
    fn the_more_important_comes_first_then_the_earlier() {
        let mut queue = Queue::default();
        for (uid, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            queue.add(pod(uid, priority), Duration::ZERO);
        }
        assert_eq!([next(&mut queue, 0), next(&mut queue, 0), next(&mut queue, 0), next(&mut queue, 0)], ["b", "a", "c", "-"]);
    }

    #[test]
    fn a_refused_pod_waits_for_its_event_and_its_back_off() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        assert_eq!(next(&mut queue, 0), "a");
        queue.refused("a", vec![7], Duration::ZERO);
        queue.happened("NodeAdd", Duration::from_secs(5), |_, refused_by| refused_by.contains(&8));
        assert_eq!(next(&mut queue, 5), "-");
        queue.happened("NodeAdd", Duration::from_millis(500), |_, refused_by| refused_by.contains(&7));
        assert_eq!(queue.next_wake(), Some(Duration::from_secs(1)));
        assert_eq!(next(&mut queue, 0), "-");
        assert_eq!(next(&mut queue, 1), "a");
    }

    #[test]
    fn what_moves_pods_is_counted_and_how_many_wait_is_told() {
        let metrics = Metrics::default();
        let mut queue = Queue::default().counted_by(metrics.clone());
        for uid in ["a", "b", "c"] {
            queue.add(pod(uid, 0), Duration::ZERO);
        }
        assert_eq!([next(&mut queue, 0), next(&mut queue, 0)], ["a", "b"]);
        queue.refused("a", vec![7], Duration::ZERO);
        queue.failed("b", Duration::ZERO);
        assert_eq!(queue.pending(), Pending { active: 1, backing_off: 1, waiting: 1 });
        queue.happened("NodeAdd", Duration::from_secs(2), |_, _| true);
        assert_eq!([next(&mut queue, 2), next(&mut queue, 2), next(&mut queue, 2)], ["a", "b", "c"]);
        assert_eq!(queue.history("a"), Some((2, Duration::ZERO)));
        let text = metrics.text();
        for (event, into, count) in [
            ("UnschedulablePodAdd", "active", 3),
            ("ScheduleAttemptFailure", "unschedulable", 1),
            ("ScheduleAttemptFailure", "backoff", 1),
            ("NodeAdd", "active", 1),
            ("BackoffComplete", "active", 1),
        ] {
            let line = format!("scheduler_queue_incoming_pods_total{{event=\"{event}\",queue=\"{into}\"}} {count}\n");
            assert!(text.contains(&line), "{line}is not in\n{text}");
        }
    }

    #[test]
    fn a_removed_pod_never_comes() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        queue.remove("a");
        assert_eq!(next(&mut queue, 0), "-");
        assert!(queue.is_empty());
    }

    #[test]
    fn a_pod_that_nothing_helps_is_tried_again_after_five_minutes() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        assert_eq!(next(&mut queue, 0), "a");
        queue.refused("a", vec![7], Duration::ZERO);
        assert_eq!(queue.next_wake(), Some(LONGEST_WAIT));
        assert_eq!([next(&mut queue, 299), next(&mut queue, 300)], ["-", "a"]);
    }
}
