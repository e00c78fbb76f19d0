//! The durable store of a single server: everything in memory for reading, every write in a log before it is acknowledged.
//!
//! [`EmbeddedStore::open`] reads the log (`log.rs`, batches as in `batch.rs`) into a [`Timeline`] and starts one writing
//! thread (`writer.rs`). That takes whatever is queued as one batch: checks each `Expect` against memory, appends once,
//! syncs once, publishes the events and acknowledges (group commit). `ledger.rs` decides which old batches can go,
//! `expiry.rs` what has outlived its lifetime, `disk.rs` is the file below the log. An idle store has no timer and no
//! thread that wakes.
//!
//! The directory holds `log.redb`, `encryption-keys` (see [`store::transformer::key_file`]) and `lock`.
//!
//! What is promised, and what tests show (`bad_disks.rs`, `killed.rs`): after the process is killed or the power
//! fails, every acknowledged write is there, once, and no write is there by half, given that the disk keeps what it said
//! it had synced. A full disk refuses writes with [`StoreError::NoSpace`] until there is room again; any other failure of
//! the disk ends writing for good ([`StoreError::Poisoned`]), since after a failed sync nobody knows what is on the disk.
//! A disk that forgets what it had synced is noticed where it leaves a gap or garbage (every batch is numbered and has a
//! checksum); a disk that goes back to an older, consistent state as a whole cannot be told from a restored backup.

#[cfg(test)]
mod bad_disks;
mod batch;
mod disk;
mod expiry;
#[cfg(test)]
mod killed;
mod ledger;
mod lock;
mod log;
mod open;
#[cfg(test)]
mod witness;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use store::transformer::configured::{Rule, Rules};
use store::{
    Change, Expect, KeyRange, Listing, Page, ReadAt, Revision, Store, StoreError, StoreEvent, StoreKey, StoredValue,
    Timeline, ValueTransformer,
};
use tokio::sync::oneshot;

use crate::disk::Medium;
pub use crate::open::OpenError;
use crate::writer::{Request, WriteRequest};

/// How a store behaves; the default is what a server wants.
#[derive(Clone)]
pub struct Options {
    /// Bytes of recent history kept in memory for watches and reads of the past. The API server keeps a history of its
    /// own, so this only has to bridge the moments in which that falls behind.
    pub history_bytes: usize,
    /// Writes are refused when the file system has less room than this, so that the disk does not fill up in the middle
    /// of one. Deletions may use half of it, since they are how room is made.
    pub reserve_bytes: u64,
    /// Values of keys with these prefixes are encrypted.
    pub encrypted_prefixes: Vec<String>,
    /// What an administrator configured instead, for the resources that it names.
    pub encryption_rules: Rules,
    /// Where the encryption keys are; none for `encryption-keys` in the store's directory. Made at the first start.
    pub key_file: Option<PathBuf>,
    /// Stands between memory and log instead of encryption with the key file.
    pub transformer: Option<Arc<dyn ValueTransformer>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history_bytes: 4 * 1024 * 1024,
            reserve_bytes: 16 * 1024 * 1024,
            encrypted_prefixes: vec!["/registry/secrets/".to_owned()],
            encryption_rules: Rules::default(),
            key_file: None,
            transformer: None,
        }
    }
}

/// The durable store. Dropping it closes it; [`Self::close`] does so without blocking a task.
pub struct EmbeddedStore {
    timeline: Arc<Timeline>,
    medium: Arc<dyn Medium>,
    rules: Rules,
    queue: mpsc::Sender<Request>,
    /// Why the writing thread takes no more writes.
    ended: Arc<Mutex<Option<StoreError>>>,
    writing_thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Finishes the writes that are queued, closes the log cleanly and releases the directory. Later calls fail with
    /// [`StoreError::Closed`], and watches end with it.
    pub async fn close(&self) {
        let (closed, when_closed) = oneshot::channel();
        // An error of either means that it is closed already.
        if self.queue.send(Request::Close(Some(closed))).is_ok() {
            let _ = when_closed.await;
        }
    }

    /// Encrypts by other rules from now on. What was sealed before reads as stale where the new ones would seal it otherwise, and can be
    /// read for as long as this process lives; after the next start it needs its key, which the rules should keep until all of it is written
    /// again.
    pub fn replace_encryption_rules(&self, rules: Vec<Rule>) {
        // An error means that it is closed, and writes nothing more.
        let _ = self.queue.send(Request::Rules(rules));
    }

    fn why_ended(&self) -> StoreError {
        let why = self.ended.lock().clone();
        why.unwrap_or(StoreError::Closed)
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        let _ = self.queue.send(Request::Close(None));
        if let Some(thread) = self.writing_thread.get_mut().take() {
            // It catches its own panics, so there is nothing to learn from it.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &StoreKey, at: ReadAt) -> Result<Option<StoredValue>, StoreError> {
        let mut found = self.timeline.get(key, at)?;
        if let Some(value) = &mut found {
            value.stale_encryption |= self.rules.make_stale(key, value.revision);
        }
        Ok(found)
    }

    async fn list(&self, range: &KeyRange, at: ReadAt, page: Page) -> Result<Listing, StoreError> {
        self.timeline.list(range, at, &page)
    }

    async fn write(&self, key: &StoreKey, expect: Expect, change: Change) -> Result<Revision, StoreError> {
        let (answer, answered) = oneshot::channel();
        let request = WriteRequest { key: key.clone(), expect, change, answer };
        self.queue.send(Request::Write(request)).map_err(|_| self.why_ended())?;
        answered.await.unwrap_or_else(|_| Err(self.why_ended()))
    }

    fn watch(&self, range: KeyRange, after: Revision) -> BoxStream<'static, Result<StoreEvent, StoreError>> {
        self.timeline.watch(range, after).boxed()
    }

    async fn current(&self) -> Result<Revision, StoreError> {
        Ok(self.timeline.newest())
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.timeline.compact(before);
        Ok(())
    }

    async fn size_bytes(&self) -> Result<u64, StoreError> {
        let place = self.medium.place();
        self.medium.used_bytes().map_err(|error| StoreError::Unavailable(format!("cannot tell the size of {place}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_embedded_store_keeps_the_contract() {
        let directories = Mutex::new(Vec::new());
        let make_store = || {
            let directory = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(directory.path(), Options::default()).unwrap();
            directories.lock().push(directory);
            async move { store }
        };
        store::contract::run(make_store).await;
    }

    #[tokio::test]
    async fn an_acknowledged_write_is_in_the_watch_at_the_first_poll() {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path(), Options::default()).unwrap();
        let mut watch = store.watch(KeyRange::prefix(""), Revision(0));
        for number in 0..100 {
            let key = StoreKey::new(format!("/registry/a/{number}"));
            let change = Change::Put { value: "x".into(), expires_after: None };
            let revision = store.write(&key, Expect::Absent, change).await.unwrap();
            loop {
                match futures::poll!(watch.next()) {
                    std::task::Poll::Ready(Some(Ok(StoreEvent::Put { new, .. }))) if new.revision == revision => break,
                    std::task::Poll::Ready(Some(Ok(StoreEvent::Progress(_)))) => {}
                    other => panic!("revision {revision} is not there: {other:?}"),
                }
            }
        }
    }
}
