//! Secondary indexes of an informer: from a text (a node's name, an owner's uid) to the objects that have it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::ObjectKey;

/// Which texts an object is found under.
pub(crate) type Extract<K> = dyn Fn(&K) -> Vec<String> + Send + Sync;

/// The objects of an informer by something else than their key. Cheap to clone; kept up to date by the informer.
pub struct Index<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    extract: Box<Extract<K>>,
    entries: RwLock<HashMap<String, BTreeMap<ObjectKey, Arc<K>>>>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K> Index<K> {
    pub(crate) fn new(extract: Box<Extract<K>>) -> Self {
        Self { inner: Arc::new(Inner { extract, entries: RwLock::default() }) }
    }

    /// The objects found under `value`, by key.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        self.inner.entries.read().get(value).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// How many objects are found under `value`.
    pub fn count(&self, value: &str) -> usize {
        self.inner.entries.read().get(value).map(BTreeMap::len).unwrap_or_default()
    }

    /// Every text under which something is found.
    pub fn values(&self) -> Vec<String> {
        self.inner.entries.read().keys().cloned().collect()
    }

    pub(crate) fn update(&self, key: &ObjectKey, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        let before = old.map(|object| (self.inner.extract)(object)).unwrap_or_default();
        let after = new.map(|object| (self.inner.extract)(object)).unwrap_or_default();
        if before.is_empty() && after.is_empty() {
            return;
        }
        let mut entries = self.inner.entries.write();
        for value in before.iter().filter(|value| !after.contains(value)) {
            if let Some(objects) = entries.get_mut(value) {
                objects.remove(key);
                if objects.is_empty() {
                    entries.remove(value);
                }
            }
        }
        if let Some(object) = new {
            for value in after {
                entries.entry(value).or_default().insert(key.clone(), object.clone());
            }
        }
    }
}
