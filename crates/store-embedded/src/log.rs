//! The log: numbered batches in redb, appended at one end and dropped at the other, each append durable.
//!
//! `examples/log_choice.rs` is why: an entry per batch touches only the right edge of redb's tree, and was both faster
//! and steadier than fjall and than an entry per object. redb never writes over what the last commit needs, checks
//! what it reads after a crash, and keeps no thread of its own. What a batch holds is `batch.rs`'s business.

use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use crate::disk::{DiskFailure, FirstFailure, Medium, WatchedDisk};

const BATCHES: TableDefinition<u64, &[u8]> = TableDefinition::new("batches");

/// redb's cache: the store reads the log only once, at its start.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

pub(crate) struct Log {
    database: Database,
    first_failure: FirstFailure,
    /// The numbers of the batches it holds, none missing in between.
    numbers: Option<RangeInclusive<u64>>,
}

/// Why the log does not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LogError {
    #[error("no space left")]
    Full,
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Failed(String),
}

impl Log {
    /// Opens the log, making it where there is none, and repairing what a crash left.
    pub(crate) fn open(medium: &dyn Medium) -> Result<Self, LogError> {
        let disk = medium.open().map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => LogError::Full,
            _ => LogError::Failed(format!("open: {error}")),
        })?;
        let (disk, first_failure) = WatchedDisk::new(disk);
        // A garbled file can break assumptions inside redb; that must end in a sentence, not in a panic.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| Self::open_database(disk)));
        match opened {
            Ok(Ok((database, numbers))) => Ok(Self { database, first_failure, numbers }),
            Ok(Err(error)) => Err(classify(&first_failure, error)),
            Err(_) => Err(LogError::Damaged("its structure makes no sense".to_owned())),
        }
    }

    fn open_database(disk: WatchedDisk) -> Result<(Database, Option<RangeInclusive<u64>>), redb::Error> {
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(disk)?;
        let numbers = match database.begin_read()?.open_table(BATCHES) {
            Ok(table) => match (table.first()?, table.last()?) {
                (Some((first, _)), Some((last, _))) => Some(first.value()..=last.value()),
                _ => None,
            },
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok((database, numbers))
    }

    /// The numbers of the batches it holds.
    pub(crate) fn numbers(&self) -> Option<&RangeInclusive<u64>> {
        self.numbers.as_ref()
    }

    /// Hands out every batch in order.
    pub(crate) fn read<E: From<LogError>>(&self, mut each: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let Some(numbers) = &self.numbers else { return Ok(()) };
        let failed = |error: redb::Error| classify(&self.first_failure, error);
        let transaction = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let table = transaction.open_table(BATCHES).map_err(|error| failed(error.into()))?;
        let mut expected = *numbers.start();
        for entry in table.iter().map_err(|error| failed(error.into()))? {
            let (number, batch) = entry.map_err(|error| failed(error.into()))?;
            if number.value() != expected {
                let found = number.value();
                return Err(LogError::Damaged(format!("batch {expected} is missing before batch {found}")).into());
            }
            each(expected, batch.value())?;
            expected = expected.saturating_add(1);
        }
        Ok(())
    }

    /// Appends a batch under the next number and drops the `drop_oldest` oldest ones, all or nothing. Returns when it is
    /// durable. After any error the log must not be used again, only opened anew.
    pub(crate) fn append(&mut self, batch: &[u8], drop_oldest: u64) -> Result<u64, LogError> {
        let (first, next) = match &self.numbers {
            Some(numbers) => (*numbers.start(), numbers.end().saturating_add(1)),
            None => (1, 1),
        };
        let first_kept = first.saturating_add(drop_oldest).min(next);
        let written = std::panic::catch_unwind(AssertUnwindSafe(|| self.commit(batch, next, first..first_kept)));
        match written {
            Ok(Ok(())) => {
                self.numbers = Some(first_kept..=next);
                Ok(next)
            }
            Ok(Err(error)) => Err(classify(&self.first_failure, error)),
            Err(_) => Err(LogError::Failed("redb panicked".to_owned())),
        }
    }

    fn commit(&self, batch: &[u8], number: u64, dropped: std::ops::Range<u64>) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(BATCHES)?;
            table.insert(number, batch)?;
            for number in dropped {
                table.remove(number)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn classify(first_failure: &FirstFailure, error: redb::Error) -> LogError {
    match (first_failure.lock().clone(), error) {
        (Some(DiskFailure { is_full: true, .. }), _) => LogError::Full,
        (Some(DiskFailure { reason, .. }), _) => LogError::Failed(reason),
        // With no failure of the disk it is about the content; that includes `InvalidData` for "not a redb file".
        (None, redb::Error::Corrupted(reason)) => LogError::Damaged(reason),
        (None, error @ redb::Error::UpgradeRequired(_)) => LogError::Damaged(error.to_string()),
        (None, redb::Error::Io(error)) => LogError::Damaged(error.to_string()),
        (None, error) => LogError::Failed(error.to_string()),
    }
}
