//! Which keys are to be deleted when: the lifetimes of events and the like, by the wall clock.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use store::{Revision, StoreKey};

use crate::batch::Deadline;

/// Least time between two rounds of deletions: a burst of events ends in a few batches, not in as many wake-ups.
const PAUSE: Duration = Duration::from_secs(1);

/// All deadlines that still count. A deadline belongs to the revision it was written with, and goes with it.
#[derive(Default)]
pub(crate) struct Expiry {
    in_order: BTreeSet<(Deadline, Revision, StoreKey)>,
    by_revision: HashMap<Revision, Deadline>,
    not_before: Option<Deadline>,
}

impl Deadline {
    pub(crate) fn now() -> Self {
        Self(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    pub(crate) fn after(self, lifetime: Duration) -> Self {
        Self(self.0.saturating_add(millis(lifetime)))
    }

    /// Zero where it has passed.
    pub(crate) fn time_from(self, now: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Expiry {
    pub(crate) fn insert(&mut self, key: StoreKey, revision: Revision, deadline: Deadline) {
        self.in_order.insert((deadline, revision, key));
        self.by_revision.insert(revision, deadline);
    }

    /// Forgets the deadline of a value that is no longer current.
    pub(crate) fn remove(&mut self, key: &StoreKey, revision: Revision) {
        if let Some(deadline) = self.by_revision.remove(&revision) {
            self.in_order.remove(&(deadline, revision, key.clone()));
        }
    }

    pub(crate) fn deadline_of(&self, revision: Revision) -> Option<Deadline> {
        self.by_revision.get(&revision).copied()
    }

    /// When there is something to delete next.
    pub(crate) fn next(&self) -> Option<Deadline> {
        let (first, _, _) = self.in_order.first()?;
        Some(self.not_before.map_or(*first, |not_before| not_before.max(*first)))
    }

    /// What is to be deleted now, at most so many. They stay until [`Self::remove`] says they are gone.
    pub(crate) fn due(&self, now: Deadline, limit: usize) -> Vec<(StoreKey, Revision)> {
        if self.next().is_none_or(|next| next > now) {
            return Vec::new();
        }
        let due = self.in_order.iter().take_while(|(deadline, _, _)| *deadline <= now);
        due.take(limit).map(|(_, revision, key)| (key.clone(), *revision)).collect()
    }

    /// Nothing is due until a moment after `now`: after a round of deletions, and also after one that could not be
    /// written, since nothing tells when a full disk has room again.
    pub(crate) fn pause(&mut self, now: Deadline) {
        self.not_before = Some(now.after(PAUSE));
    }
}
