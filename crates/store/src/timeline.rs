//! What is current, what happened lately, and who watches: the part in memory that every local store shares.
//!
//! A [`Timeline`] knows nothing of durability. Its one writer decides what happens (checks `Expect`, makes it durable)
//! and then calls [`Timeline::publish`]; readers and watches may come from any thread. The current state is a persistent
//! map, so a listing takes a snapshot in constant time and never holds up the writer. The past is the list of recent
//! events, bounded in bytes; a state of the past is the current one with the events since then undone.
//! A watch has no queue of its own: it is a position in that list, so a slow watch costs nothing and, when the list's
//! tail has passed it, ends with [`StoreError::Compacted`].

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::Stream;
use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};

use crate::{KeyRange, Listing, Page, ReadAt, Revision, StoreError, StoreEvent, StoreKey, StoredValue};

/// What one kept event costs besides the value it keeps alive: the event itself and its share of the key.
const EVENT_OVERHEAD_BYTES: usize = std::mem::size_of::<StoreEvent>() + 32;

/// Events that a watch takes over at once, so that it holds the lock only briefly.
const EVENTS_PER_TURN: usize = 256;

/// The current state, its recent past, and those who watch it.
pub struct Timeline {
    state: RwLock<State>,
    /// Watches that have seen everything. Filled only under a read lock of `state`, so that no event slips between.
    sleepers: Mutex<Sleepers>,
}

struct State {
    current: OrdMap<StoreKey, StoredValue>,
    newest: Revision,
    /// The oldest state that can be had: all events after it are kept.
    oldest: Revision,
    events: VecDeque<StoreEvent>,
    events_bytes: usize,
    events_limit_bytes: usize,
    closed: Option<StoreError>,
}

#[derive(Default)]
struct Sleepers {
    next_watch: u64,
    wakers: HashMap<u64, Waker>,
}

/// One write that happened, ready to be seen.
#[derive(Debug, Clone)]
pub enum Happened {
    /// The key has this value now; the value's revision is the write's.
    Put(StoreKey, StoredValue),
    /// The key is gone since this revision.
    Deleted(StoreKey, Revision),
}

impl Timeline {
    /// An empty timeline at revision zero that keeps about this many bytes of history.
    pub fn new(history_limit_bytes: usize) -> Arc<Self> {
        Self::restore(OrdMap::new(), Revision::default(), history_limit_bytes)
    }

    /// A timeline that starts from a state read back from the medium; the past before `newest` counts as compacted.
    pub fn restore(current: OrdMap<StoreKey, StoredValue>, newest: Revision, history_limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(State {
                current,
                newest,
                oldest: newest,
                events: VecDeque::new(),
                events_bytes: 0,
                events_limit_bytes: history_limit_bytes,
                closed: None,
            }),
            sleepers: Mutex::default(),
        })
    }

    /// The newest revision.
    pub fn newest(&self) -> Revision {
        self.state.read().newest
    }

    /// The current value, whether or not the timeline was closed.
    pub fn peek(&self, key: &StoreKey) -> Option<StoredValue> {
        self.state.read().current.get(key).cloned()
    }

    /// See [`crate::Store::get`].
    pub fn get(&self, key: &StoreKey, at: ReadAt) -> Result<Option<StoredValue>, StoreError> {
        let state = self.state.read();
        state.check_open()?;
        let revision = state.resolve(at)?;
        let undone = state.events_after(revision).find(|event| event_key(event) == Some(key));
        Ok(match undone {
            Some(first_since) => event_old(first_since).cloned(),
            None => state.current.get(key).cloned(),
        })
    }

    /// See [`crate::Store::list`].
    pub fn list(&self, range: &KeyRange, at: ReadAt, page: &Page) -> Result<Listing, StoreError> {
        let (revision, snapshot) = {
            let state = self.state.read();
            state.check_open()?;
            let revision = state.resolve(at)?;
            (revision, state.snapshot(range, revision))
        };
        let start = match &page.after {
            Some(after) if after.as_str() >= range.prefix.as_str() => Bound::Excluded(after.clone()),
            _ => Bound::Included(StoreKey::new(&range.prefix)),
        };
        let mut rest = snapshot
            .range((start, Bound::Unbounded))
            .take_while(|(key, _)| range.contains(key))
            .map(|(key, value)| (key.clone(), value.clone()));
        let items: Vec<_> = rest.by_ref().take(page.limit.unwrap_or(usize::MAX)).collect();
        let more = rest.next().is_some();
        Ok(Listing { revision, items, more })
    }

    /// See [`crate::Store::watch`]. Polling it never waits for what [`Timeline::publish`] has already made visible.
    pub fn watch(self: &Arc<Self>, range: KeyRange, after: Revision) -> Watch {
        let mut sleepers = self.sleepers.lock();
        let id = sleepers.next_watch;
        sleepers.next_watch += 1;
        drop(sleepers);
        Watch {
            timeline: Arc::clone(self),
            id,
            range,
            position: after,
            reported: None,
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// Makes writes visible, all at once. Their revisions must be larger than all before and in increasing order.
    /// A deletion of a key that is not there only moves the revision.
    pub fn publish(&self, writes: impl IntoIterator<Item = Happened>) {
        let mut state = self.state.write();
        for write in writes {
            state.apply(write);
        }
        state.forget_beyond_limit();
        drop(state);
        self.wake_watches();
    }

    /// Forgets the states before a revision; a revision beyond the newest means all of the past.
    pub fn compact(&self, before: Revision) {
        let mut state = self.state.write();
        let before = before.min(state.newest);
        while state.events.front().is_some_and(|event| event_revision(event) <= before) {
            state.forget_oldest_event();
        }
        state.oldest = state.oldest.max(before);
        drop(state);
        // A watch that had not yet seen what is gone now must learn so.
        self.wake_watches();
    }

    /// Fails every later read with `reason` and ends every watch with it, after the events it has yet to see.
    pub fn close(&self, reason: StoreError) {
        self.state.write().closed.get_or_insert(reason);
        self.wake_watches();
    }

    fn wake_watches(&self) {
        let wakers = std::mem::take(&mut self.sleepers.lock().wakers);
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

impl State {
    fn check_open(&self) -> Result<(), StoreError> {
        match &self.closed {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    fn resolve(&self, at: ReadAt) -> Result<Revision, StoreError> {
        match at {
            ReadAt::Latest => Ok(self.newest),
            ReadAt::Revision(requested) => self.check_kept(requested).map(|()| requested),
        }
    }

    fn check_kept(&self, requested: Revision) -> Result<(), StoreError> {
        if requested > self.newest {
            Err(StoreError::Future { requested, newest: self.newest })
        } else if requested < self.oldest {
            Err(StoreError::Compacted { requested, oldest: self.oldest })
        } else {
            Ok(())
        }
    }

    fn events_after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &StoreEvent> {
        let start = self.events.partition_point(|event| event_revision(event) <= revision);
        self.events.range(start..)
    }

    /// The state at a kept revision, right at least within the range.
    fn snapshot(&self, range: &KeyRange, revision: Revision) -> OrdMap<StoreKey, StoredValue> {
        let mut snapshot = self.current.clone();
        for event in self.events_after(revision).rev() {
            let Some(key) = event_key(event).filter(|key| range.contains(key)) else { continue };
            match event_old(event) {
                Some(old) => snapshot.insert(key.clone(), old.clone()),
                None => snapshot.remove(key),
            };
        }
        snapshot
    }

    fn apply(&mut self, write: Happened) {
        match write {
            Happened::Put(key, new) => {
                self.newest = new.revision;
                let old = self.current.insert(key.clone(), new.clone());
                self.remember(StoreEvent::Put { key, new, old });
            }
            Happened::Deleted(key, revision) => {
                self.newest = revision;
                if let Some(old) = self.current.remove(&key) {
                    self.remember(StoreEvent::Delete { key, old, revision });
                }
            }
        }
    }

    fn remember(&mut self, event: StoreEvent) {
        self.events_bytes += event_cost_bytes(&event);
        self.events.push_back(event);
    }

    fn forget_beyond_limit(&mut self) {
        while self.events_bytes > self.events_limit_bytes && !self.events.is_empty() {
            self.forget_oldest_event();
        }
    }

    fn forget_oldest_event(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.events_bytes = self.events_bytes.saturating_sub(event_cost_bytes(&event));
            self.oldest = self.oldest.max(event_revision(&event));
        }
    }
}

fn event_key(event: &StoreEvent) -> Option<&StoreKey> {
    match event {
        StoreEvent::Put { key, .. } | StoreEvent::Delete { key, .. } => Some(key),
        StoreEvent::Progress(_) => None,
    }
}

fn event_old(event: &StoreEvent) -> Option<&StoredValue> {
    match event {
        StoreEvent::Put { old, .. } => old.as_ref(),
        StoreEvent::Delete { old, .. } => Some(old),
        StoreEvent::Progress(_) => None,
    }
}

fn event_revision(event: &StoreEvent) -> Revision {
    match event {
        StoreEvent::Put { new, .. } => new.revision,
        StoreEvent::Delete { revision, .. } | StoreEvent::Progress(revision) => *revision,
    }
}

/// An event keeps only its old value alive: the new one is current, or is the old one of a later event.
fn event_cost_bytes(event: &StoreEvent) -> usize {
    EVENT_OVERHEAD_BYTES + event_old(event).map_or(0, |old| old.value.len())
}

/// A position in a [`Timeline`], as a stream of the events after it.
pub struct Watch {
    timeline: Arc<Timeline>,
    id: u64,
    range: KeyRange,
    /// Everything up to here is yielded or in `ready`.
    position: Revision,
    /// The last `Progress` that was yielded.
    reported: Option<Revision>,
    ready: VecDeque<StoreEvent>,
    ended: bool,
}

impl Watch {
    /// Fills `ready`, or leaves a waker where there is nothing new.
    fn advance(&mut self, context: &Context<'_>) -> Result<(), StoreError> {
        let state = self.timeline.state.read();
        state.check_kept(self.position)?;
        let mut caught_up = true;
        for (count, event) in state.events_after(self.position).enumerate() {
            if self.ready.len() == EVENTS_PER_TURN || count == EVENTS_PER_TURN * 64 {
                caught_up = false;
                break;
            }
            self.position = event_revision(event);
            if event_key(event).is_some_and(|key| self.range.contains(key)) {
                self.ready.push_back(event.clone());
            }
        }
        if !caught_up {
            return Ok(());
        }
        self.position = state.newest;
        if self.reported != Some(self.position) {
            self.reported = Some(self.position);
            self.ready.push_back(StoreEvent::Progress(self.position));
            return Ok(());
        }
        if self.ready.is_empty() {
            state.check_open()?;
            let mut sleepers = self.timeline.sleepers.lock();
            sleepers.wakers.entry(self.id).or_insert_with(|| context.waker().clone()).clone_from(context.waker());
        }
        Ok(())
    }
}

impl Stream for Watch {
    type Item = Result<StoreEvent, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let before = self.position;
            if let Err(error) = self.advance(context) {
                self.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
            if self.ready.is_empty() && self.position == before {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.timeline.sleepers.lock().wakers.remove(&self.id);
    }
}
