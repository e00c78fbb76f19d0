//! The store that keeps nothing when the process ends: for tests, and as the measure of the other fillings.
//!
//! Lifetimes run on tokio's clock, so a test that pauses it moves expiry too (`tokio::time::advance`).

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::timeline::Happened;
use crate::{
    Change, Expect, KeyRange, Listing, Page, ReadAt, Revision, Store, StoreError, StoreEvent, StoreKey, StoredValue,
    Timeline,
};

/// History that a [`MemoryStore`] keeps unless told otherwise.
const DEFAULT_HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// A store in memory. Clones share the same content.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    timeline: Arc<Timeline>,
    writer: Mutex<Writer>,
    /// Tells the expiry task that there is an earlier deadline, or that the store is gone.
    deadlines_changed: Arc<Notify>,
}

#[derive(Default)]
struct Writer {
    /// A deadline counts only while the key is still at the revision it was set with.
    deadlines: BTreeSet<(Instant, Revision, StoreKey)>,
    expiry_task_runs: bool,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_history_limit(DEFAULT_HISTORY_BYTES)
    }

    /// An empty store that keeps about this many bytes of old values for watches and old listings.
    pub fn with_history_limit(bytes: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                timeline: Timeline::new(bytes),
                writer: Mutex::default(),
                deadlines_changed: Arc::new(Notify::new()),
            }),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.timeline.close(StoreError::Unavailable("the memory store was dropped".to_owned()));
        self.deadlines_changed.notify_one();
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &StoreKey, at: ReadAt) -> Result<Option<StoredValue>, StoreError> {
        self.inner.timeline.get(key, at)
    }

    async fn list(&self, range: &KeyRange, at: ReadAt, page: Page) -> Result<Listing, StoreError> {
        self.inner.timeline.list(range, at, &page)
    }

    async fn write(&self, key: &StoreKey, expect: Expect, change: Change) -> Result<Revision, StoreError> {
        let mut writer = self.inner.writer.lock();
        let current = self.inner.timeline.peek(key);
        if !expect.holds(current.as_ref()) {
            return Err(StoreError::Conflict { current });
        }
        let revision = self.inner.timeline.newest().next();
        let happened = match change {
            Change::Delete => Happened::Deleted(key.clone(), revision),
            Change::Put { value, expires_after } => {
                // A lifetime too long for the clock is as good as none.
                if let Some(deadline) = expires_after.and_then(|lifetime| Instant::now().checked_add(lifetime)) {
                    writer.deadlines.insert((deadline, revision, key.clone()));
                    self.inner.deadlines_changed.notify_one();
                    if !std::mem::replace(&mut writer.expiry_task_runs, true) {
                        let changed = Arc::clone(&self.inner.deadlines_changed);
                        tokio::spawn(expire(Arc::downgrade(&self.inner), changed));
                    }
                }
                Happened::Put(key.clone(), StoredValue { value, revision, stale_encryption: false })
            }
        };
        self.inner.timeline.publish([happened]);
        Ok(revision)
    }

    fn watch(&self, range: KeyRange, after: Revision) -> BoxStream<'static, Result<StoreEvent, StoreError>> {
        self.inner.timeline.watch(range, after).boxed()
    }

    async fn current(&self) -> Result<Revision, StoreError> {
        Ok(self.inner.timeline.newest())
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.inner.timeline.compact(before);
        Ok(())
    }

    async fn size_bytes(&self) -> Result<u64, StoreError> {
        let everything = self.inner.timeline.list(&KeyRange::prefix(""), ReadAt::Latest, &Page::default())?;
        Ok(everything.items.iter().map(|(key, value)| (key.as_str().len() + value.value.len()) as u64).sum())
    }
}

impl Inner {
    /// Deletes what is due; returns the next deadline.
    fn expire_due(&self, now: Instant) -> Option<Instant> {
        let mut writer = self.writer.lock();
        while let Some((deadline, revision, key)) = writer.deadlines.pop_first() {
            if deadline > now {
                writer.deadlines.insert((deadline, revision, key));
                return Some(deadline);
            }
            if self.timeline.peek(&key).is_some_and(|value| value.revision == revision) {
                self.timeline.publish([Happened::Deleted(key, self.timeline.newest().next())]);
            }
        }
        None
    }
}

async fn expire(store: Weak<Inner>, deadlines_changed: Arc<Notify>) {
    loop {
        let Some(next) = store.upgrade().map(|store| store.expire_due(Instant::now())) else { return };
        match next {
            Some(deadline) => tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                () = deadlines_changed.notified() => {}
            },
            None => deadlines_changed.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_memory_store_keeps_the_contract() {
        crate::contract::run(async || Arc::new(MemoryStore::new())).await;
    }

    #[tokio::test]
    async fn a_watch_ends_when_the_store_is_dropped() {
        let store = MemoryStore::new();
        let mut watch = store.watch(KeyRange::prefix(""), Revision(0));
        drop(store);
        assert!(matches!(watch.next().await, Some(Ok(StoreEvent::Progress(_)))));
        assert!(matches!(watch.next().await, Some(Err(StoreError::Unavailable(_)))));
        assert!(watch.next().await.is_none());
    }

    #[tokio::test]
    async fn history_beyond_its_limit_is_compacted_away() {
        let store = MemoryStore::with_history_limit(10_000);
        let key = StoreKey::new("/registry/configmaps/default/big");
        let mut expect = Expect::Absent;
        for _ in 0..20 {
            let change = Change::Put { value: vec![0; 1024].into(), expires_after: None };
            expect = Expect::AtRevision(store.write(&key, expect, change).await.unwrap());
        }
        let too_old = store.watch(KeyRange::prefix(""), Revision(1)).next().await;
        assert!(matches!(too_old, Some(Err(StoreError::Compacted { requested: Revision(1), .. }))), "{too_old:?}");
        let recent = store.watch(KeyRange::prefix(""), Revision(18)).next().await;
        assert!(matches!(recent, Some(Ok(StoreEvent::Put { .. }))), "{recent:?}");
    }
}
