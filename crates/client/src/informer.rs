//! The objects of one feed, kept in memory and shared by everybody in the process who reads them.
//!
//! Order of things for each change: first the objects and indexes, then the revision, then the handlers. So whoever is woken by a
//! handler finds the change in the cache, and whoever sees a revision finds everything up to it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use api::Json;
use tokio::sync::{mpsc, watch};

use crate::pool::Shelf;
use crate::{FeedEvent, Index, ObjectKey, Pool, key_of, revision_of};

/// What an informer can hold: any type of the API.
pub trait Watchable: kube_core::Resource + Json + Clone + Debug + Send + Sync + 'static {}
impl<K: kube_core::Resource + Json + Clone + Debug + Send + Sync + 'static> Watchable for K {}

/// Takes away of an object what nobody reads who keeps it.
pub type Shorten<K> = fn(&mut K);

/// One object was created (`old` is absent), changed, or removed (`new` is absent). Both are given where an object was replaced
/// by another of the same name, too: compare uids where that matters.
#[derive(Debug)]
pub struct Change<K> {
    /// Which object.
    pub key: ObjectKey,
    /// As it was.
    pub old: Option<Arc<K>>,
    /// As it is.
    pub new: Option<Arc<K>>,
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), old: self.old.clone(), new: self.new.clone() }
    }
}

impl<K> Change<K> {
    /// The object as it is, or as it last was.
    pub fn latest(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// Told of each change; `false` means that it need not be told again.
type Handler<K> = Box<dyn FnMut(&Change<K>) -> bool + Send>;

/// A shared view of a collection. Cheap to clone.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<K> {
    cache: RwLock<Cache<K>>,
    /// Held while a change is applied and told, and while a handler is added: so each handler sees every change once, in order.
    handlers: Mutex<Vec<Handler<K>>>,
    position: watch::Sender<Position>,
}

struct Cache<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    /// Where others may have the same objects.
    shelf: Shelf<K>,
    indexes: Vec<(&'static str, Index<K>)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Position {
    synced: bool,
    revision: u64,
}

impl<K: Watchable> Default for Informer<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Watchable> Informer<K> {
    /// An empty one that nothing feeds yet. Others get theirs from [`crate::Informers`].
    pub fn new() -> Self {
        Self::sharing(&Pool::default())
    }

    /// The same, which keeps objects once that other informers of the pool have too.
    pub fn sharing(pool: &Pool) -> Self {
        let cache = RwLock::new(Cache { objects: BTreeMap::new(), shelf: pool.shelf(), indexes: Vec::new() });
        Self { shared: Arc::new(Shared { cache, handlers: Mutex::default(), position: watch::Sender::default() }) }
    }

    /// The object with this key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.cache.read().objects.get(key).cloned()
    }

    /// The object of this name in `namespace`.
    pub fn get_in(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&ObjectKey::namespaced(namespace, name))
    }

    /// All objects, by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.cache.read().objects.values().cloned().collect()
    }

    /// All objects of one namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let cache = self.shared.cache.read();
        let first = ObjectKey::namespaced(namespace, "");
        let of_namespace = cache.objects.range(first..).take_while(|(key, _)| key.namespace.as_deref() == Some(namespace));
        of_namespace.map(|(_, object)| object.clone()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.cache.read().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An index by the texts that `extract` finds in an object. Whoever asks for the same `name` shares one index, so a name must
    /// always stand for the same function.
    pub fn index(&self, name: &'static str, extract: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        let mut cache = self.shared.cache.write();
        if let Some((_, index)) = cache.indexes.iter().find(|(existing, _)| *existing == name) {
            return index.clone();
        }
        let index = Index::new(Box::new(extract));
        for (key, object) in &cache.objects {
            index.update(key, None, Some(object));
        }
        cache.indexes.push((name, index.clone()));
        index
    }

    /// Calls `handler` for every object there is (as created), and then for each change, in order, on the feed's task. It should be
    /// quick, and must not add handlers to the same informer.
    pub fn on_change(&self, mut handler: impl FnMut(&Change<K>) + Send + 'static) {
        self.add_handler(Box::new(move |change| {
            handler(change);
            true
        }));
    }

    /// A channel of every object there is (as created) and then of each change, in order. Nothing is lost or waited for, so the
    /// receiver must keep reading; dropping it ends the subscription.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Change<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.add_handler(Box::new(move |change| sender.send(change.clone()).is_ok()));
        receiver
    }

    fn add_handler(&self, mut handler: Handler<K>) {
        let mut handlers = self.shared.handlers.lock();
        let existing: Vec<_> = self.shared.cache.read().objects.iter().map(|(key, object)| (key.clone(), object.clone())).collect();
        let wants_more =
            existing.into_iter().all(|(key, object)| handler(&Change { key, old: None, new: Some(object) }));
        if wants_more {
            handlers.push(handler);
        }
    }

    /// Waits until everything that exists was read once.
    pub async fn has_synced(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.shared.position.subscribe().wait_for(|position| position.synced).await;
    }

    /// Whether everything that exists was read once.
    pub fn is_synced(&self) -> bool {
        self.shared.position.borrow().synced
    }

    /// The newest revision that this cache reflects.
    pub fn revision(&self) -> u64 {
        self.shared.position.borrow().revision
    }

    /// Waits until the cache reflects `revision`. Only a revision of an object of this collection is sure to come.
    pub async fn caught_up_with(&self, revision: u64) {
        let _ = self.shared.position.subscribe().wait_for(|position| position.revision >= revision).await;
    }

    /// Takes in what the feed delivers. Public for tests, which play the feed.
    pub fn apply(&self, event: FeedEvent<K>) {
        self.take_in(event.map(Arc::new));
    }

    /// Takes in what the feed delivers.
    pub(crate) fn take_in(&self, event: FeedEvent<Arc<K>>) {
        let mut handlers = self.shared.handlers.lock();
        let mut changes = Vec::new();
        let (revision, synced) = match event {
            FeedEvent::Replaced { objects, revision } => {
                let mut cache = self.shared.cache.write();
                let mut gone: std::collections::BTreeSet<ObjectKey> = cache.objects.keys().cloned().collect();
                for object in objects {
                    gone.remove(&key_of(&*object));
                    changes.extend(cache.put(object));
                }
                changes.extend(gone.into_iter().filter_map(|key| cache.remove(key)));
                (revision.parse().unwrap_or_default(), true)
            }
            FeedEvent::Put(object) => {
                let revision = revision_of(&*object);
                changes.extend(self.shared.cache.write().put(object));
                (revision, false)
            }
            FeedEvent::Deleted(object) => {
                changes.extend(self.shared.cache.write().remove(key_of(&*object)));
                (revision_of(&*object), false)
            }
            FeedEvent::Progress(revision) => (revision.parse().unwrap_or_default(), false),
        };
        self.shared.position.send_if_modified(|position| {
            let modified = revision > position.revision || synced && !position.synced;
            position.revision = position.revision.max(revision);
            position.synced |= synced;
            modified
        });
        for change in &changes {
            handlers.retain_mut(|handler| handler(change));
        }
    }
}

impl<K: Watchable> Cache<K> {
    fn put(&mut self, mut object: Arc<K>) -> Option<Change<K>> {
        // Nobody but the API server looks at managed fields, and they are often half of an object.
        if object.meta().managed_fields.is_some() {
            Arc::make_mut(&mut object).meta_mut().managed_fields = None;
        }
        let key = key_of(&*object);
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old
            && old.meta().uid == object.meta().uid
            && old.meta().resource_version.is_some()
            && old.meta().resource_version == object.meta().resource_version
        {
            return None;
        }
        let new = self.shelf.share(object);
        self.objects.insert(key.clone(), new.clone());
        Some(self.reindex(Change { key, old, new: Some(new) }))
    }

    fn remove(&mut self, key: ObjectKey) -> Option<Change<K>> {
        let old = self.objects.remove(&key)?;
        Some(self.reindex(Change { key, old: Some(old), new: None }))
    }

    fn reindex(&self, change: Change<K>) -> Change<K> {
        for (_, index) in &self.indexes {
            index.update(&change.key, change.old.as_ref(), change.new.as_ref());
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, revision: u64, node: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("default".to_owned());
        pod.metadata.resource_version = Some(revision.to_string());
        pod.metadata.managed_fields = Some(Vec::new());
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        pod
    }

    #[test]
    fn informers_of_a_pool_hold_an_object_once() {
        let pool = crate::Pool::default();
        let (one, other, stranger) = (Informer::sharing(&pool), Informer::sharing(&pool), Informer::new());
        let mut pod = pod("a", 1, "x");
        pod.metadata.uid = Some("uid".to_owned());
        for informer in [&one, &other, &stranger] {
            informer.apply(FeedEvent::Put(pod.clone()));
        }
        let held = |informer: &Informer<Pod>| informer.get_in("default", "a").unwrap();
        assert!(Arc::ptr_eq(&held(&one), &held(&other)));
        assert!(!Arc::ptr_eq(&held(&one), &held(&stranger)));
    }

    fn by_node(informer: &Informer<Pod>) -> Index<Pod> {
        informer.index("node", |pod| pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect())
    }

    fn told(receiver: &mut mpsc::UnboundedReceiver<Change<Pod>>) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(change) = receiver.try_recv() {
            let revision = |pod: &Option<Arc<Pod>>| pod.as_ref().map_or("-".to_owned(), |pod| revision_of(&**pod).to_string());
            lines.push(format!("{}: {} -> {}", change.key, revision(&change.old), revision(&change.new)));
        }
        lines
    }

    #[test]
    fn a_new_listing_tells_only_what_differs() {
        let informer = Informer::new();
        let mut early = informer.subscribe();
        let index = by_node(&informer);
        informer.apply(FeedEvent::Replaced { objects: vec![pod("a", 1, "x"), pod("b", 2, "x"), pod("c", 3, "y")], revision: "5".into() });
        assert!(informer.is_synced());
        assert_eq!(told(&mut early), ["default/a: - -> 1", "default/b: - -> 2", "default/c: - -> 3"]);
        informer.apply(FeedEvent::Replaced { objects: vec![pod("a", 1, "x"), pod("b", 7, "y")], revision: "9".into() });
        assert_eq!(told(&mut early), ["default/b: 2 -> 7", "default/c: 3 -> -"]);
        assert_eq!((index.count("x"), index.count("y")), (1, 1));
        assert_eq!(informer.revision(), 9);
    }

    #[test]
    fn a_late_subscriber_is_told_what_is_there_first() {
        let informer = Informer::new();
        informer.apply(FeedEvent::Put(pod("a", 4, "x")));
        let mut late = informer.subscribe();
        informer.apply(FeedEvent::Deleted(pod("a", 6, "x")));
        assert_eq!(told(&mut late), ["default/a: - -> 4", "default/a: 4 -> -"]);
        assert_eq!(by_node(&informer).count("x"), 0);
        assert_eq!(informer.revision(), 6);
    }

    #[test]
    fn a_namespace_is_listed_without_its_neighbours() {
        let informer = Informer::new();
        for (namespace, name) in [("a", "z"), ("b", "1"), ("b", "2"), ("c", "0")] {
            let mut object = pod(name, 1, "x");
            object.metadata.namespace = Some(namespace.to_owned());
            informer.apply(FeedEvent::Put(object));
        }
        let names: Vec<_> = informer.list_in("b").iter().map(|pod| key_of(&**pod).to_string()).collect();
        assert_eq!(names, ["b/1", "b/2"]);
        assert_eq!(informer.get_in("c", "0").unwrap().metadata.managed_fields, None);
    }
}
