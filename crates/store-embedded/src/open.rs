//! Opening a store: the directory, its lock, its keys, and reading the log back into memory.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use imbl::OrdMap;
use parking_lot::Mutex;
use store::transformer::key_file::{self, KeyFileError};
use store::transformer::configured::Configured;
use store::transformer::{Encryption, Opened, TransformError};
use store::{Revision, StoredValue, Timeline, ValueTransformer};

use crate::batch::{self, BatchBuilder, Deadline, Record};
use crate::disk::{LogFile, Medium};
use crate::expiry::Expiry;
use crate::ledger::Ledger;
use crate::lock::DirectoryLock;
use crate::log::{Log, LogError};
use crate::writer::Writer;
use crate::{EmbeddedStore, Options};

/// Why a store could not be opened. Each is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory could not be used.
    #[error("could not {step} {path}")]
    Access {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another server has it open.
    #[error("the store in {directory} is in use by another server{}: stop that one first, or choose another data directory", holder.map(|id| format!(" (process {id})")).unwrap_or_default())]
    InUse {
        /// The store's directory.
        directory: PathBuf,
        /// The other process, where it says.
        holder: Option<u32>,
    },
    /// What is there is not what a store leaves.
    #[error("the store in {directory} is damaged ({reason}): restore the directory from a backup, or move it away to start with an empty cluster")]
    Damaged {
        /// The store's directory.
        directory: String,
        /// What was found.
        reason: String,
    },
    /// The log is gone while the keys are there.
    #[error("{directory} holds encryption keys but no log: restore `log.redb` from a backup, or move the directory away to start with an empty cluster")]
    LogMissing {
        /// The store's directory.
        directory: String,
    },
    /// The keys are gone while the log is there.
    #[error("the key file {key_file} is missing, without which the store's Secrets cannot be read: restore it from its backup")]
    KeysMissing {
        /// Where it should be.
        key_file: PathBuf,
    },
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// A value does not open.
    #[error("a value in the store in {directory} cannot be read")]
    Transform {
        /// The store's directory.
        directory: String,
        /// Which, and why.
        #[source]
        source: TransformError,
    },
    /// There is not even room to start.
    #[error("there is no space left in {directory} to open the store: free some space and start again")]
    NoSpace {
        /// The store's directory.
        directory: String,
    },
    /// The disk fails.
    #[error("the store in {directory} cannot be opened: {reason}")]
    Failed {
        /// The store's directory.
        directory: String,
        /// What the disk says.
        reason: String,
    },
}

impl EmbeddedStore {
    /// Opens the store in a directory, making both where they are missing. Reads everything, so it blocks for a moment.
    pub fn open(directory: &Path, options: Options) -> Result<Arc<Self>, OpenError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| OpenError::Access { step: "create", path: directory.to_owned(), source })?;
        let lock = DirectoryLock::acquire(directory)?;
        let medium: Arc<dyn Medium> = Arc::new(LogFile::new(directory));
        let (log, transformer) = match &options.transformer {
            Some(transformer) => (open_log(&*medium)?, Arc::clone(transformer)),
            None => {
                let key_file = options.key_file.clone().unwrap_or_else(|| directory.join("encryption-keys"));
                open_with_keys(directory, &*medium, &key_file, &options)?
            }
        };
        Self::start(medium, log, transformer, &options, Some(lock))
    }

    /// Reads the log and starts the writing thread.
    pub(crate) fn start(
        medium: Arc<dyn Medium>,
        mut log: Log,
        transformer: Arc<dyn ValueTransformer>,
        options: &Options,
        lock: Option<DirectoryLock>,
    ) -> Result<Arc<Self>, OpenError> {
        if log.numbers().is_none() {
            // The first batch says that this is a store, if an empty one; without it the keys could be made anew.
            let birth = BatchBuilder::new().finish(Revision(0));
            log.append(&birth, 0).map_err(|error| explain(&*medium, error))?;
        }
        let Content { current, newest, ledger, expiry } = read_back(&*medium, &log, &*transformer)?;
        let timeline = Timeline::restore(current, newest, options.history_bytes);
        let ended = Arc::new(Mutex::new(None));
        let (queue, requests) = mpsc::channel();
        let writer = Writer {
            requests,
            timeline: Arc::clone(&timeline),
            medium: Arc::clone(&medium),
            transformer,
            rules: options.encryption_rules.clone(),
            reserve_bytes: options.reserve_bytes,
            last_batch: log.numbers().map_or(0, |numbers| *numbers.end()),
            log: Some(log),
            ledger,
            expiry,
            newest,
            poisoned: None,
            ended: Arc::clone(&ended),
            lock,
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(|source| OpenError::Access {
            step: "start the writing thread for",
            path: medium.place().into(),
            source,
        })?;
        Ok(Arc::new(Self { timeline, medium, rules: options.encryption_rules.clone(), queue, ended, writing_thread: Mutex::new(Some(thread)) }))
    }
}

/// Opens log and keys, or makes both. One without the other is a loss that must not be papered over with a new one.
fn open_with_keys(
    directory: &Path,
    medium: &dyn Medium,
    key_file: &Path,
    options: &Options,
) -> Result<(Log, Arc<dyn ValueTransformer>), OpenError> {
    let access = |step, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Access { step, path, source }
    };
    let keys_exist = key_file.try_exists().map_err(access("look for", key_file))?;
    let log_exists = medium.length().map_err(access("look into", directory))? > 0;
    if keys_exist && !log_exists {
        return Err(OpenError::LogMissing { directory: medium.place() });
    }
    let log = open_log(medium)?;
    let keys = match (keys_exist, log.numbers()) {
        (true, _) => key_file::load(key_file)?,
        (false, None) => key_file::create(key_file)?,
        (false, Some(_)) => return Err(OpenError::KeysMissing { key_file: key_file.to_owned() }),
    };
    let own = Encryption::new(keys, options.encrypted_prefixes.iter().cloned());
    Ok((log, Arc::new(Configured::new(options.encryption_rules.clone(), own))))
}

pub(crate) fn open_log(medium: &dyn Medium) -> Result<Log, OpenError> {
    Log::open(medium).map_err(|error| explain(medium, error))
}

fn explain(medium: &dyn Medium, error: LogError) -> OpenError {
    let directory = medium.place();
    match error {
        LogError::Full => OpenError::NoSpace { directory },
        LogError::Damaged(reason) => OpenError::Damaged { directory, reason },
        LogError::Failed(reason) => OpenError::Failed { directory, reason },
    }
}

/// What a log amounts to.
struct Content {
    current: OrdMap<store::StoreKey, StoredValue>,
    newest: Revision,
    ledger: Ledger,
    expiry: Expiry,
}

fn read_back(medium: &dyn Medium, log: &Log, transformer: &dyn ValueTransformer) -> Result<Content, OpenError> {
    struct Found {
        /// Only the last value of an object must open: what came before may have been sealed by a key that is gone since.
        opened: Result<Opened, TransformError>,
        revision: Revision,
        deadline: Option<Deadline>,
        batch: usize,
    }
    let mut found: BTreeMap<store::StoreKey, Found> = BTreeMap::new();
    let mut newest = Revision(0);
    let mut batches: Vec<(u64, Vec<_>)> = Vec::new();
    let outcome = log.read(|number, bytes| -> Result<(), LogError> {
        let damaged = |reason| LogError::Damaged(format!("batch {number}: {reason}"));
        let (revision, records) = batch::read(bytes).map_err(damaged)?;
        if revision < newest {
            return Err(damaged(format!("it ends at revision {revision}, after {newest}")));
        }
        newest = revision;
        for record in records {
            match record {
                Record::Put { key, revision, deadline, sealed } => {
                    let opened = transformer.open(&key, sealed);
                    found.insert(key, Found { opened, revision, deadline, batch: batches.len() });
                }
                Record::Delete { key, .. } => {
                    found.remove(&key);
                }
            }
        }
        batches.push((bytes.len() as u64, Vec::new()));
        Ok(())
    });
    outcome.map_err(|error| explain(medium, error))?;

    let mut ledger = Ledger::new();
    let mut expiry = Expiry::default();
    let mut current = OrdMap::new();
    for (key, Found { opened, revision, deadline, batch }) in found {
        let opened = opened.map_err(|source| OpenError::Transform { directory: medium.place(), source })?;
        let value = StoredValue { value: opened.value, revision, stale_encryption: opened.stale };
        ledger.came(&key, &value);
        if let Some((_, puts)) = batches.get_mut(batch) {
            puts.push((key.clone(), value.revision));
        }
        if let Some(deadline) = deadline {
            expiry.insert(key.clone(), value.revision, deadline);
        }
        current.insert(key, value);
    }
    for (bytes, puts) in batches {
        ledger.appended(bytes, puts);
    }
    Ok(Content { current, newest, ledger, expiry })
}
