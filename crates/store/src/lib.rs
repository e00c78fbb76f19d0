//! The Store seam: ordered, versioned, opaque bytes, and nothing of JSON or kinds.
//!
//! Fillings: [`memory`] here, for tests; `store-embedded`, durable; etcd later. All pass [`contract`].
//! Only the API server opens a store. Both local stores keep what is current and what happened lately in a
//! [`timeline::Timeline`]; [`transformer`] is what encrypts between memory and medium. Promises:
//! * Every acknowledged write has a [`Revision`] larger than all before it, and is durable (memory store excepted).
//! * A watch yields every event after its start revision, in order, none twice and none skipped, or ends with
//!   [`StoreError::Compacted`].
//! * A value handed out is the value handed in, byte for byte.
//! * An event is in its watches before the write is acknowledged: whoever polls a local store's watch after its own write
//!   returned gets that event at once, without waiting for another task.

pub mod contract;
pub mod memory;
pub mod timeline;
pub mod transformer;

pub use memory::MemoryStore;
pub use timeline::Timeline;
pub use transformer::ValueTransformer;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// A point in the store's history. Zero is before the first write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of the write after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A key: `/registry/RESOURCE[.GROUP]/[NAMESPACE/]NAME`, compared bytewise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreKey(pub std::sync::Arc<str>);

impl StoreKey {
    /// Makes a key from its text.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().into())
    }
    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// All keys that start with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The prefix; empty for everything.
    pub prefix: String,
}

impl KeyRange {
    /// All keys below a prefix.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }
    /// Whether a key is in the range.
    pub fn contains(&self, key: &StoreKey) -> bool {
        key.as_str().starts_with(&self.prefix)
    }
}

/// Bytes with the revision that wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredValue {
    /// The value as it was written.
    pub value: Bytes,
    /// The write that made it.
    pub revision: Revision,
    /// Written under an encryption key (or none) that is no longer the first one: write it again when convenient.
    pub stale_encryption: bool,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last written at exactly this revision.
    AtRevision(Revision),
}

impl Expect {
    /// Whether a key's current value (none where it does not exist) is as expected.
    pub fn holds(&self, current: Option<&StoredValue>) -> bool {
        match (self, current) {
            (Self::Absent, None) => true,
            (Self::AtRevision(expected), Some(current)) => current.revision == *expected,
            (Self::Absent, Some(_)) | (Self::AtRevision(_), None) => false,
        }
    }
}

/// What a write does.
#[derive(Debug, Clone)]
pub enum Change {
    /// Sets the value; with a lifetime it is deleted (with an ordinary delete event) when that has passed.
    Put {
        /// The bytes.
        value: Bytes,
        /// Lifetime, none for ever.
        expires_after: Option<std::time::Duration>,
    },
    /// Removes the key.
    Delete,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Start strictly after this key.
    pub after: Option<StoreKey>,
    /// At most this many, none for all.
    pub limit: Option<usize>,
}

/// Keys and values at one revision.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The revision the listing shows.
    pub revision: Revision,
    /// In key order.
    pub items: Vec<(StoreKey, StoredValue)>,
    /// More keys follow after the last item.
    pub more: bool,
}

/// Which state a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAt {
    /// Linearizable: everything acknowledged before the read began.
    Latest,
    /// Exactly this revision, or [`StoreError::Compacted`] where it is no longer (or never was) kept.
    Revision(Revision),
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEvent {
    /// A key was written.
    Put {
        /// Which.
        key: StoreKey,
        /// What it is now; its revision is the event's.
        new: StoredValue,
        /// What it was, none where it was absent.
        old: Option<StoredValue>,
    },
    /// A key was removed.
    Delete {
        /// Which.
        key: StoreKey,
        /// What it was.
        old: StoredValue,
        /// The revision of the removal.
        revision: Revision,
    },
    /// Every event of this range up to this revision has been yielded.
    Progress(Revision),
}

/// Why the store could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// `Expect` did not hold.
    #[error("the key changed meanwhile")]
    Conflict {
        /// What is there now.
        current: Option<StoredValue>,
    },
    /// The revision is older than what is kept.
    #[error("revision {requested} is compacted away; the oldest kept is {oldest}")]
    Compacted {
        /// Asked for.
        requested: Revision,
        /// Oldest that can be had.
        oldest: Revision,
    },
    /// The revision lies in the future.
    #[error("revision {requested} is not there yet; the newest is {newest}")]
    Future {
        /// Asked for.
        requested: Revision,
        /// Newest there is.
        newest: Revision,
    },
    /// It was closed, as the process is about to end.
    #[error("the store is closed")]
    Closed,
    /// The disk is full: reads go on, and writes do again when there is room.
    #[error("the data directory {directory} is full: free some space, then writing goes on")]
    NoSpace {
        /// Where.
        directory: String,
    },
    /// The medium failed; the store refuses every further write, since none could be promised.
    #[error("the store at {place} cannot promise durable writes any more: {reason}")]
    Poisoned {
        /// Where.
        place: String,
        /// What happened first.
        reason: String,
    },
    /// What is on the medium is not what was written there.
    #[error("the store at {place} is damaged: {reason}")]
    Corrupt {
        /// Where.
        place: String,
        /// What was found.
        reason: String,
    },
    /// The store is shutting down or out of reach.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

impl StoreError {
    /// Whether the same call may succeed later without a change of its arguments.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::Unavailable(_) | Self::Future { .. } => true,
            Self::Conflict { .. } | Self::Compacted { .. } | Self::Poisoned { .. } | Self::Corrupt { .. } | Self::Closed => false,
        }
    }
}

/// Ordered, versioned, opaque bytes. See the module's promises.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One value.
    async fn get(&self, key: &StoreKey, at: ReadAt) -> Result<Option<StoredValue>, StoreError>;
    /// A range in key order, at one revision.
    async fn list(&self, range: &KeyRange, at: ReadAt, page: Page) -> Result<Listing, StoreError>;
    /// Writes when `expect` holds, else fails with [`StoreError::Conflict`]. Returns when the write is durable.
    async fn write(&self, key: &StoreKey, expect: Expect, change: Change) -> Result<Revision, StoreError>;
    /// Events strictly after `after`, in order. `Progress` comes at least when the stream catches up.
    fn watch(&self, range: KeyRange, after: Revision) -> BoxStream<'static, Result<StoreEvent, StoreError>>;
    /// The newest revision; linearizable.
    async fn current(&self) -> Result<Revision, StoreError>;
    /// Forgets history before a revision (values that are current stay).
    async fn compact(&self, before: Revision) -> Result<(), StoreError>;
    /// Bytes on the medium, for metrics.
    async fn size_bytes(&self) -> Result<u64, StoreError>;
}
