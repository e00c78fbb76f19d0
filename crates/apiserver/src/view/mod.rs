//! The MemoryView: every object as encoded bytes, snapshots for LIST and a bounded history for WATCH.
//!
//! It is fed by one watch over the whole store; nothing else keeps objects. Each resource has a map (persistent, so that a
//! snapshot is a pointer) and a history of events bounded in bytes, with more of them while they are fresh. Watchers keep no
//! queue of their own: each has a cursor into the shared history and is woken when it grows, so a slow client costs nothing and
//! a thousand watchers share one rendering. An older state is the newest one with the events since taken back.

pub mod stored;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};
use store::{Change, Expect, KeyRange, Page, ReadAt, Revision, Store, StoreError, StoreEvent, StoreKey, StoredValue};
use tokio::sync::{oneshot, watch};
use tracing::error;

pub use stored::{DamagedValue, StoredObject};

/// Bytes of history kept per resource. At 1 KiB an object that is some thousand events: minutes of a busy cluster.
const HISTORY_BYTES: usize = 8 * 1024 * 1024;
/// How long events are kept beyond that: a client may list, do this and that, and watch from what it listed.
/// Source: Kubernetes, `eventFreshDuration` of the watch cache.
pub const FRESH: Duration = Duration::from_secs(75);
/// Bytes of history that are not exceeded, however fresh. Renderings come on top of it.
const LARGEST_HISTORY_BYTES: usize = 2 * HISTORY_BYTES;

/// What happened to one object.
#[derive(Debug)]
pub struct ViewEvent {
    /// When.
    pub revision: Revision,
    /// What it is now, none where it was deleted.
    pub new: Option<Arc<StoredObject>>,
    /// What it was, none where it was created.
    pub old: Option<Arc<StoredObject>>,
    seen: Instant,
    frames: [OnceLock<Bytes>; 3],
    /// The last state under the revision of its deletion, made once for all watchers.
    deleted: OnceLock<Arc<StoredObject>>,
}

/// Types of watch events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// It appeared (or began to match).
    Added,
    /// It changed.
    Modified,
    /// It went (or ceased to match).
    Deleted,
}

impl EventType {
    /// The text in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

fn frame(kind: &str, object_length: usize, put_object: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let parts: [&[u8]; 4] = [b"{\"type\":\"", kind.as_bytes(), b"\",\"object\":", b"}\n"];
    let [start, kind, middle, end] = parts;
    let mut frame = Vec::with_capacity(object_length + parts.map(<[u8]>::len).iter().sum::<usize>());
    for part in [start, kind, middle] {
        frame.extend_from_slice(part);
    }
    put_object(&mut frame);
    frame.extend_from_slice(end);
    frame.into()
}

/// A watch frame in JSON around an encoded object.
pub fn json_frame(kind: &str, object: &[u8]) -> Bytes {
    frame(kind, object.len(), |frame| frame.extend_from_slice(object))
}

/// A watch frame in JSON around an object in its stored version.
pub fn object_frame(kind: EventType, object: &StoredObject) -> Bytes {
    frame(kind.as_str(), object.json_length(), |frame| object.put_json(frame))
}

impl ViewEvent {
    fn new(revision: Revision, new: Option<Arc<StoredObject>>, old: Option<Arc<StoredObject>>) -> Self {
        Self { revision, new, old, seen: Instant::now(), frames: Default::default(), deleted: OnceLock::new() }
    }
    /// The object a watcher is shown for an event of this type: a deletion shows the last state under its own revision.
    pub fn shown(&self, kind: EventType) -> Option<Arc<StoredObject>> {
        match (kind, &self.new, &self.old) {
            (EventType::Deleted, _, Some(old)) => Some(self.deleted.get_or_init(|| Arc::new(old.at_revision(self.revision))).clone()),
            (_, Some(new), _) => Some(new.clone()),
            _ => None,
        }
    }
    /// The JSON frame in the stored version, made once for all watchers.
    pub fn frame(&self, kind: EventType) -> Option<Bytes> {
        let slot = &self.frames[kind as usize];
        if let Some(frame) = slot.get() {
            return Some(frame.clone());
        }
        let object = self.shown(kind)?;
        Some(slot.get_or_init(|| object_frame(kind, &object)).clone())
    }
    fn weight(&self) -> usize {
        self.new.as_ref().or(self.old.as_ref()).map_or(64, |object| object.weight())
    }
}

#[derive(Default)]
struct State {
    objects: OrdMap<Arc<str>, Arc<StoredObject>>,
    history: VecDeque<Arc<ViewEvent>>,
    history_bytes: usize,
    /// Events up to this revision are forgotten.
    forgotten: Revision,
}

impl State {
    /// Whether the oldest event is one too many.
    fn exceeds(&self, now: Instant) -> bool {
        let is_fresh = self.history.front().is_some_and(|oldest| now.saturating_duration_since(oldest.seen) < FRESH);
        self.history_bytes > if is_fresh { LARGEST_HISTORY_BYTES } else { HISTORY_BYTES }
    }
}

/// Objects of one resource.
pub struct ResourceView {
    state: RwLock<State>,
    changed: watch::Sender<Revision>,
}

/// Objects of one resource at one revision.
#[derive(Clone)]
pub struct Snapshot {
    /// When.
    pub revision: Revision,
    /// `NAMESPACE/NAME` or `NAME` to object, in key order.
    pub objects: OrdMap<Arc<str>, Arc<StoredObject>>,
}

impl Snapshot {
    /// Objects whose key starts with a prefix (`NAMESPACE/` or nothing), strictly after a key where one is given.
    pub fn range<'a>(&'a self, prefix: &'a str, after: Option<&str>) -> impl Iterator<Item = &'a Arc<StoredObject>> + 'a {
        use std::ops::Bound;
        let start: Bound<Arc<str>> = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.into()),
            _ => Bound::Included(prefix.into()),
        };
        self.objects.range((start, Bound::Unbounded)).map(|(_, object)| object).take_while(move |object| object.key.starts_with(prefix))
    }
}

/// A revision that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Forgotten; this is the oldest a watch may start from.
    TooOld {
        /// Oldest revision there is.
        oldest: Revision,
    },
    /// Not there yet.
    TooNew {
        /// Newest revision.
        newest: Revision,
    },
}

impl ResourceView {
    fn new(revision: Revision) -> Self {
        Self { state: RwLock::new(State { forgotten: revision, ..State::default() }), changed: watch::Sender::new(revision) }
    }
    /// One object as it is now. The key is `NAMESPACE/NAME` or `NAME`.
    pub fn get(&self, key: &str) -> Option<Arc<StoredObject>> {
        self.state.read().objects.get(key).cloned()
    }
    /// Everything as it is now. The revision is that of the whole view, given by the caller.
    fn snapshot(&self, revision: Revision) -> Snapshot {
        Snapshot { revision, objects: self.state.read().objects.clone() }
    }
    /// Everything as it was.
    ///
    /// # Errors
    /// [`Unavailable::TooOld`] where its history is forgotten.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, Unavailable> {
        let state = self.state.read();
        if revision < state.forgotten {
            return Err(Unavailable::TooOld { oldest: state.forgotten });
        }
        let mut objects = state.objects.clone();
        for event in state.history.iter().rev().take_while(|event| event.revision > revision) {
            match (&event.old, &event.new) {
                (Some(old), _) => {
                    objects.insert(old.key.clone(), old.clone());
                }
                (None, Some(new)) => {
                    objects.remove(&new.key);
                }
                (None, None) => {}
            }
        }
        Ok(Snapshot { revision, objects })
    }
    /// Events after a revision, at most `limit`.
    ///
    /// # Errors
    /// [`Unavailable::TooOld`] where some of them are forgotten.
    pub fn events_after(&self, revision: Revision, limit: usize) -> Result<Vec<Arc<ViewEvent>>, Unavailable> {
        let state = self.state.read();
        if revision < state.forgotten {
            return Err(Unavailable::TooOld { oldest: state.forgotten });
        }
        let start = state.history.partition_point(|event| event.revision <= revision);
        Ok(state.history.range(start..).take(limit).cloned().collect())
    }
    /// Tells of changes: holds the revision of the newest event.
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }
    /// Revision of the newest event; that of the view's start where there was none.
    pub fn newest(&self) -> Revision {
        *self.changed.borrow()
    }
    /// Number of objects.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Forgets the history of a resource that has no objects any more, once watchers have had the time to see how they went. A
    /// resource that nobody serves any more would keep it for ever.
    pub fn forget_what_is_gone(&self, now: Instant) {
        let mut state = self.state.write();
        let is_fresh = state.history.back().is_some_and(|newest| now.saturating_duration_since(newest.seen) < FRESH);
        if !state.objects.is_empty() || is_fresh {
            return;
        }
        let Some(newest) = state.history.back().map(|newest| newest.revision) else { return };
        (state.history, state.history_bytes, state.forgotten) = (VecDeque::new(), 0, newest);
    }
    fn apply(&self, event: ViewEvent) {
        let revision = event.revision;
        {
            let mut state = self.state.write();
            match (&event.new, &event.old) {
                (Some(new), _) => {
                    state.objects.insert(new.key.clone(), new.clone());
                }
                (None, Some(old)) => {
                    state.objects.remove(&old.key);
                }
                (None, None) => {}
            }
            let now = event.seen;
            state.history_bytes += event.weight();
            state.history.push_back(Arc::new(event));
            while state.exceeds(now) {
                let Some(oldest) = state.history.pop_front() else { break };
                state.history_bytes = state.history_bytes.saturating_sub(oldest.weight());
                state.forgotten = oldest.revision;
            }
        }
        self.changed.send_replace(revision);
    }
}

/// Every object of the cluster. See the module's text.
pub struct MemoryView {
    store: Arc<dyn Store>,
    resources: RwLock<HashMap<Box<str>, Arc<ResourceView>>>,
    applied: watch::Sender<Revision>,
    /// Writers waiting for their own revision: one wake-up each, however many write at once.
    waiting: Mutex<BTreeMap<Revision, Vec<oneshot::Sender<()>>>>,
    started_at: Revision,
}

/// The resource prefix (`/registry/pods/`) and the rest of a key.
fn split_key(key: &str) -> Option<(&str, &str)> {
    let rest = key.strip_prefix("/registry/")?;
    let end = "/registry/".len() + rest.find('/')? + 1;
    Some((key.get(..end)?, key.get(end..)?))
}

impl MemoryView {
    /// Loads everything and follows the store from there.
    ///
    /// # Errors
    /// Where the store cannot be listed.
    pub async fn open(store: Arc<dyn Store>) -> Result<Arc<Self>, StoreError> {
        let listing = store.list(&KeyRange::prefix(""), ReadAt::Latest, Page::default()).await?;
        let revision = listing.revision;
        let view = Arc::new(Self {
            store: store.clone(),
            resources: RwLock::default(),
            applied: watch::Sender::new(revision),
            waiting: Mutex::default(),
            started_at: revision,
        });
        for (key, value) in listing.items {
            let Some((prefix, name)) = split_key(key.as_str()) else { continue };
            match StoredObject::decode(name, value.value, value.revision) {
                Ok(object) => {
                    let resource = view.resource(prefix);
                    resource.state.write().objects.insert(object.key.clone(), Arc::new(object));
                }
                Err(damage) => error!(%damage, "an object is left out"),
            }
        }
        let follower = view.clone();
        let mut events = store.watch(KeyRange::prefix(""), revision);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => follower.apply(event),
                    // The end of the process, not a failure.
                    Err(StoreError::Closed) => break,
                    Err(failure) => {
                        error!(%failure, "the view cannot follow the store any more; restart the server");
                        break;
                    }
                }
            }
        });
        Ok(view)
    }

    /// The view of one resource, by its prefix (`/registry/pods/`).
    pub fn resource(&self, prefix: &str) -> Arc<ResourceView> {
        if let Some(found) = self.resources.read().get(prefix) {
            return found.clone();
        }
        // History before the view was opened is not known.
        self.resources.write().entry(prefix.into()).or_insert_with(|| Arc::new(ResourceView::new(self.started_at))).clone()
    }

    /// The revision everything up to which is visible here.
    pub fn revision(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Tells of progress of the whole view.
    pub fn progress(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    /// Waits until a revision is visible.
    pub async fn wait_for(&self, revision: Revision) {
        if self.revision() >= revision {
            return;
        }
        let (done, seen) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            // Looked at again under the lock, which the follower takes after it has moved on.
            if self.revision() >= revision {
                return;
            }
            waiting.entry(revision).or_default().push(done);
        }
        // The sender is only dropped together with `self`.
        let _ = seen.await;
    }

    fn advance(&self, revision: Revision) {
        self.applied.send_if_modified(|seen| {
            let newer = revision > *seen;
            if newer {
                *seen = revision;
            }
            newer
        });
        let mut waiting = self.waiting.lock();
        while let Some(entry) = waiting.first_entry() {
            if *entry.key() > revision {
                break;
            }
            for done in entry.remove() {
                // A writer that went away does not care.
                let _ = done.send(());
            }
        }
    }

    /// A consistent snapshot of one resource as it is now.
    pub fn snapshot(&self, resource: &ResourceView) -> Snapshot {
        // Read before the map: the map may be newer than the revision it is labelled with, never older. Watching on from
        // it then repeats an event at worst, which informers take; to keep it exact, newer events are taken back.
        let revision = self.revision();
        resource.snapshot_at(revision).unwrap_or_else(|_| resource.snapshot(revision))
    }

    /// Writes, and returns when the write is durable and visible here.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&self, key: &str, expect: Expect, change: Change) -> Result<Revision, StoreError> {
        let revision = self.store.write(&StoreKey::new(key), expect, change).await?;
        self.wait_for(revision).await;
        Ok(revision)
    }

    /// The store below, for size metrics and for values written under an old encryption key.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn apply(&self, event: StoreEvent) {
        match event {
            StoreEvent::Progress(revision) => self.advance(revision),
            StoreEvent::Put { key, new, .. } => {
                let revision = new.revision;
                self.apply_change(&key, Some(&new), revision);
            }
            StoreEvent::Delete { key, revision, .. } => self.apply_change(&key, None, revision),
        }
    }

    fn apply_change(&self, key: &StoreKey, new: Option<&StoredValue>, revision: Revision) {
        if let Some((prefix, name)) = split_key(key.as_str()) {
            let resource = self.resource(prefix);
            let old = resource.get(name);
            let new = match new.map(|value| StoredObject::decode(name, value.value.clone(), revision)) {
                None => None,
                Some(Ok(object)) => Some(Arc::new(object)),
                Some(Err(damage)) => {
                    error!(%damage, "an object is left out");
                    None
                }
            };
            if new.is_some() || old.is_some() {
                resource.apply(ViewEvent::new(revision, new, old));
            }
        }
        self.advance(revision);
    }
}

#[cfg(test)]
mod tests {
    use meta::Object;

    use super::*;

    /// An event about an object of one mebibyte, of a kind that is stored as it is.
    fn large_event(revision: u64, seen: Instant) -> ViewEvent {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "a".repeat(1 << 20)}});
        let serde_json::Value::Object(object) = object else { panic!("an object is one") };
        let value = stored::encode(&Object(object), 0, Vec::new()).unwrap();
        let stored = StoredObject::decode("n/x", value, Revision(revision)).unwrap();
        ViewEvent { seen, ..ViewEvent::new(Revision(revision), Some(Arc::new(stored)), None) }
    }

    fn kept(view: &ResourceView) -> usize {
        let oldest = view.state.read().forgotten;
        view.events_after(oldest, usize::MAX).unwrap().len()
    }

    #[test]
    fn the_history_of_what_is_gone_is_forgotten_when_it_was_seen() {
        let view = ResourceView::new(Revision(0));
        let start = Instant::now();
        let event = large_event(1, start);
        let object = event.new.clone();
        view.apply(event);
        view.forget_what_is_gone(start + 2 * FRESH);
        assert_eq!(kept(&view), 1, "it is not gone");
        view.apply(ViewEvent { seen: start, ..ViewEvent::new(Revision(2), None, object) });
        view.forget_what_is_gone(start + FRESH / 2);
        assert_eq!(kept(&view), 2, "somebody may not have seen it go");
        view.forget_what_is_gone(start + FRESH);
        assert_eq!(kept(&view), 0);
        assert_eq!(view.events_after(Revision(2), 1).map(|events| events.len()), Ok(0));
        assert_eq!(view.events_after(Revision(1), 1).map(|events| events.len()), Err(Unavailable::TooOld { oldest: Revision(2) }));
        view.apply(large_event(3, start + FRESH));
        assert_eq!(view.events_after(Revision(2), 1).map(|events| events.len()), Ok(1));
    }

    #[test]
    fn fresh_history_is_kept_for_longer() {
        let view = ResourceView::new(Revision(0));
        let start = Instant::now();
        (1..=15).for_each(|revision| view.apply(large_event(revision, start)));
        assert_eq!(view.events_after(Revision(0), usize::MAX).map(|events| events.len()), Ok(15));
        view.apply(large_event(16, start + FRESH));
        assert_eq!(kept(&view), 7);
        assert_eq!(view.events_after(Revision(0), 1).map(|events| events.len()), Err(Unavailable::TooOld { oldest: Revision(9) }));
        (17..=50).for_each(|revision| view.apply(large_event(revision, start + FRESH)));
        assert_eq!(kept(&view), 15);
    }
}
