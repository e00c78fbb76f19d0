//! Which pod is next. Pods that were refused wait for an event that may help them; after a failure each waits for its
//! back-off as well. Holds no time of its own: `now` is handed in.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::framework::{ClusterEvent, PodInfo};

/// First wait after a failed attempt. Source: upstream's `podInitialBackoffSeconds`.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait. Source: upstream's `podMaxBackoffSeconds`.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Higher priority first, then who came earlier.
type Rank = (Reverse<i32>, u64, String);

#[derive(Debug)]
enum State {
    Active,
    /// Until this time.
    BackingOff(Duration),
    /// Until one of these happens.
    Waiting(Vec<ClusterEvent>),
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    order: u64,
    attempts: u32,
    not_before: Duration,
    state: State,
}

/// Pods that want a node.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeSet<Rank>,
    backing_off: BTreeSet<(Duration, String)>,
    next_order: u64,
}

impl Queue {
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
            State::Waiting(_) => {}
        }
    }

    fn activate(&mut self, uid: &str, now: Duration) {
        self.leave_state(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.not_before > now {
            entry.state = State::BackingOff(entry.not_before);
            self.backing_off.insert((entry.not_before, uid.to_owned()));
        } else {
            entry.state = State::Active;
            let rank = Self::rank(entry);
            self.active.insert(rank);
        }
    }

    /// Adds a pod, or takes in how it changed; a changed pod is tried again.
    pub fn add(&mut self, pod: Arc<PodInfo>, now: Duration) {
        let uid = pod.uid.clone();
        self.leave_state(&uid);
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.pod = pod;
        } else {
            let order = self.next_order;
            self.next_order += 1;
            self.entries.insert(uid.clone(), Entry { pod, order, attempts: 0, not_before: Duration::ZERO, state: State::Active });
        }
        self.activate(&uid, now);
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
        while let Some((until, uid)) = self.backing_off.first().cloned() {
            if until > now {
                break;
            }
            self.activate(&uid, now);
        }
        let (_, _, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        // Being worked on: nothing wakes it but the outcome or a change of the pod.
        entry.state = State::Waiting(Vec::new());
        entry.attempts += 1;
        Some(entry.pod.clone())
    }
    fn back_off(entry: &mut Entry, now: Duration) {
        let doublings = entry.attempts.saturating_sub(1).min(8);
        entry.not_before = now + (FIRST_BACKOFF * 2_u32.pow(doublings)).min(LONGEST_BACKOFF);
    }
    /// The pod fits nowhere; it waits for one of these events.
    pub fn refused(&mut self, uid: &str, retry_on: Vec<ClusterEvent>, now: Duration) {
        if let Some(entry) = self.entries.get_mut(uid)
            && matches!(entry.state, State::Waiting(_))
        {
            Self::back_off(entry, now);
            entry.state = State::Waiting(retry_on);
        }
    }
    /// Its binding failed; it is tried again after its back-off.
    pub fn failed(&mut self, uid: &str, now: Duration) {
        if let Some(entry) = self.entries.get_mut(uid) {
            Self::back_off(entry, now);
            self.activate(uid, now);
        }
    }
    /// Something happened.
    pub fn happened(&mut self, event: ClusterEvent, now: Duration) {
        let woken: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(&entry.state, State::Waiting(events) if events.contains(&event)))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in woken {
            self.activate(&uid, now);
        }
    }
    /// When the next back-off ends.
    pub fn next_wake(&self) -> Option<Duration> {
        self.backing_off.first().map(|(until, _)| *until)
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
        let mut info = PodInfo::of(&api::core::v1::Pod::default());
        info.uid = uid.to_owned();
        info.priority = priority;
        Arc::new(info)
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
        queue.refused("a", vec![ClusterEvent::NodeAdded], Duration::ZERO);
        queue.happened(ClusterEvent::AssignedPodGone, Duration::from_secs(5));
        assert_eq!(next(&mut queue, 5), "-");
        queue.happened(ClusterEvent::NodeAdded, Duration::from_millis(500));
        assert_eq!(queue.next_wake(), Some(Duration::from_secs(1)));
        assert_eq!(next(&mut queue, 0), "-");
        assert_eq!(next(&mut queue, 1), "a");
    }

    #[test]
    fn a_removed_pod_never_comes() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        queue.remove("a");
        assert_eq!(next(&mut queue, 0), "-");
        assert!(queue.is_empty());
    }
}
