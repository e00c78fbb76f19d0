//! Whether the cache already shows what a controller wrote. A controller that acts on a cache that is behind its own writes would
//! create a second set of pods; so it notes each write, and waits (for the event that will wake it anyway) until the cache shows it.
//!
//! Upstream counts expected events instead ("expectations"). Revisions need no counting and cannot drift.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Clock, Informer, ObjectKey, Watchable, key_of, revision_of};
use parking_lot::Mutex;

/// After this long a note is dropped: the cache then has had every chance, and acting twice is better than never.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// Notes of writes to objects of kind `K`, per key of the owner that is reconciled.
pub struct Writes<K> {
    informer: Informer<K>,
    clock: Arc<dyn Clock>,
    noted: Mutex<HashMap<ObjectKey, Noted>>,
}

struct Noted {
    /// The cache must have come this far.
    revision: u64,
    /// These must be gone from the cache, or be on their way out: key and uid.
    leaving: Vec<(ObjectKey, String)>,
    since: Duration,
}

impl<K: Watchable> Writes<K> {
    /// No write noted yet.
    pub fn new(informer: Informer<K>, clock: Arc<dyn Clock>) -> Self {
        Self { informer, clock, noted: Mutex::default() }
    }

    /// `owner` wrote `object`, as the API returned it.
    pub fn wrote(&self, owner: &ObjectKey, object: &K) {
        let revision = revision_of(object);
        self.note(owner, |noted| noted.revision = noted.revision.max(revision));
    }

    /// `owner` asked for the removal of `object`.
    pub fn deleted(&self, owner: &ObjectKey, object: &K) {
        let leaving = (key_of(object), object.meta().uid.clone().unwrap_or_default());
        self.note(owner, |noted| noted.leaving.push(leaving));
    }

    fn note(&self, owner: &ObjectKey, change: impl FnOnce(&mut Noted)) {
        let since = self.clock.elapsed();
        let mut all = self.noted.lock();
        let noted = all.entry(owner.clone()).or_insert_with(|| Noted { revision: 0, leaving: Vec::new(), since });
        noted.since = since;
        change(noted);
    }

    /// Whether the cache shows everything that was noted for `owner`. If not, the owner's next event will tell.
    pub fn are_visible(&self, owner: &ObjectKey) -> bool {
        let mut all = self.noted.lock();
        let Some(noted) = all.get_mut(owner) else { return true };
        let reached = self.informer.revision() >= noted.revision;
        noted.leaving.retain(|(key, uid)| {
            self.informer.get(key).is_some_and(|object| object.meta().uid.as_ref() == Some(uid) && object.meta().deletion_timestamp.is_none())
        });
        let visible = reached && noted.leaving.is_empty();
        let forgotten = self.clock.elapsed().saturating_sub(noted.since) > FORGET_AFTER;
        if forgotten && !visible {
            tracing::warn!(%owner, "the cache did not show a write in {FORGET_AFTER:?}; going on without");
        }
        if visible || forgotten {
            all.remove(owner);
        }
        visible || forgotten
    }

    /// How long until notes of `owner` that are still not visible are dropped.
    pub fn patience() -> Duration {
        FORGET_AFTER
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.noted.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{FakeClock, FeedEvent};
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, revision: u64) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.uid = Some(format!("uid-{name}"));
        pod.metadata.resource_version = Some(revision.to_string());
        pod
    }

    #[test]
    fn a_write_is_visible_once_the_cache_has_come_that_far() {
        let informer = Informer::new();
        let clock = FakeClock::new(jiff::Timestamp::UNIX_EPOCH);
        let writes = Writes::new(informer.clone(), Arc::new(clock.clone()));
        let owner = ObjectKey::namespaced("x", "set");
        assert!(writes.are_visible(&owner));
        writes.wrote(&owner, &pod("a", 7));
        informer.apply(FeedEvent::Put(pod("other", 6)));
        assert!(!writes.are_visible(&owner));
        assert!(writes.are_visible(&ObjectKey::namespaced("x", "another")));
        informer.apply(FeedEvent::Put(pod("a", 7)));
        assert!(writes.are_visible(&owner));

        writes.deleted(&owner, &pod("a", 7));
        assert!(!writes.are_visible(&owner));
        clock.advance(FORGET_AFTER + Duration::from_secs(1));
        assert!(writes.are_visible(&owner), "patience has an end");

        writes.deleted(&owner, &pod("a", 7));
        let mut replacement = pod("a", 9);
        replacement.metadata.uid = Some("another".to_owned());
        informer.apply(FeedEvent::Put(replacement));
        assert!(writes.are_visible(&owner), "another object of the same name is not the one that leaves");
    }
}
