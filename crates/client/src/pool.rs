//! Objects that several informers of a process hold alike, kept once: the parts of one process have caches of their own, since each
//! reads as itself, but an object of one revision is the same for all that may see it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Watchable;

/// Kept apart from the objects that are gone before these are looked for.
const SMALLEST_SWEEP: usize = 1024;

/// What informers share. Clones share it. It keeps nothing alive.
///
/// All informers of a pool must read from the same cluster, or objects with the same UID and revision would be mistaken for each other.
#[derive(Clone, Default)]
pub struct Pool {
    shelves: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>>,
}

impl Pool {
    pub(crate) fn shelf<K: Watchable>(&self) -> Shelf<K> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves.entry(TypeId::of::<K>()).or_insert_with(|| Box::new(Shelf::<K>::default()));
        shelf.downcast_ref::<Shelf<K>>().cloned().unwrap_or_default()
    }
}

/// The objects of one kind.
pub(crate) struct Shelf<K> {
    known: Arc<Mutex<Known<K>>>,
    hashing: Arc<RandomState>,
}

impl<K> Clone for Shelf<K> {
    fn clone(&self) -> Self {
        Self { known: self.known.clone(), hashing: self.hashing.clone() }
    }
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Self { known: Arc::default(), hashing: Arc::default() }
    }
}

struct Known<K> {
    /// By what UID and revision hash to; two that hash alike are kept apart by looking.
    objects: HashMap<u64, Weak<K>>,
    /// With so many, those that are gone are looked for.
    sweep_at: usize,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), sweep_at: SMALLEST_SWEEP }
    }
}

impl<K: Watchable> Shelf<K> {
    /// The same object as somebody else has it, or else this one.
    pub(crate) fn share(&self, object: Arc<K>) -> Arc<K> {
        // One that was handed over within the process is shared already (see [`crate::shared`]), and its weak reference is there.
        if Arc::weak_count(&object) > 0 {
            return object;
        }
        let meta = object.meta();
        let (Some(uid), Some(revision)) = (&meta.uid, &meta.resource_version) else { return object };
        let id = self.hashing.hash_one((uid, revision));
        let mut known = self.known.lock();
        if let Some(other) = known.objects.get(&id).and_then(Weak::upgrade) {
            let is_same = other.meta().uid == meta.uid && other.meta().resource_version == meta.resource_version;
            return if is_same { other } else { object };
        }
        if known.objects.len() >= known.sweep_at {
            known.objects.retain(|_, object| object.strong_count() > 0);
            // A gone object's place is not free before its entry is, so they are not left to become many.
            known.sweep_at = (known.objects.len() + known.objects.len() / 8).max(SMALLEST_SWEEP);
        }
        known.objects.insert(id, Arc::downgrade(&object));
        object
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(uid: &str, revision: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.to_owned());
        pod.metadata.resource_version = Some(revision.to_owned());
        Arc::new(pod)
    }

    #[test]
    fn an_object_of_one_revision_is_kept_once() {
        let pool = Pool::default();
        let (one, other) = (pool.shelf(), pool.shelf());
        let first = one.share(pod("a", "1"));
        assert!(Arc::ptr_eq(&first, &other.share(pod("a", "1"))));
        assert!(!Arc::ptr_eq(&first, &other.share(pod("a", "2"))));
        assert!(!Arc::ptr_eq(&first, &other.share(pod("b", "1"))));
    }

    #[test]
    fn what_has_no_revision_is_nobody_elses() {
        let shelf = Pool::default().shelf();
        assert!(!Arc::ptr_eq(&shelf.share(Arc::default()), &shelf.share(Arc::<Pod>::default())));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let shelf = Pool::default().shelf();
        for number in 0..10 * SMALLEST_SWEEP {
            drop(shelf.share(pod("a", &number.to_string())));
        }
        let kept = shelf.known.lock().objects.len();
        assert!(kept <= SMALLEST_SWEEP + 1, "{kept}");
    }
}
