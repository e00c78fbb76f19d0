//! The one file below the log: the seam where tests put a disk that fills up, lies or loses power.
//!
//! redb does its reading and writing through [`redb::StorageBackend`]. [`Medium`] makes such backends, again after a full
//! disk; [`WatchedDisk`] passes every call on and remembers the first failure, since redb reports later ones only as
//! consequences of the first.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;

/// Where the log's one file is, and how full that place is.
pub(crate) trait Medium: Send + Sync + 'static {
    /// Opens the file, making it where it is missing.
    fn open(&self) -> std::io::Result<Box<dyn StorageBackend>>;
    /// Length of the file, zero where there is none.
    fn length(&self) -> std::io::Result<u64>;
    /// Bytes that the file takes on the medium.
    fn used_bytes(&self) -> std::io::Result<u64>;
    /// Bytes that can still be written.
    fn free_bytes(&self) -> std::io::Result<u64>;
    /// What to call the place in messages.
    fn place(&self) -> String;
}

/// The log in a directory of a real file system.
pub(crate) struct LogFile {
    directory: PathBuf,
    path: PathBuf,
}

impl LogFile {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), path: directory.join("log.redb") }
    }
}

impl Medium for LogFile {
    fn open(&self) -> std::io::Result<Box<dyn StorageBackend>> {
        let new = !self.path.try_exists()?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        if new {
            // Else the file's name could be lost with the power although its content was synced.
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(Box::new(FileDisk(file)))
    }

    fn length(&self) -> std::io::Result<u64> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn used_bytes(&self) -> std::io::Result<u64> {
        // The file has holes, so its length says little. `stat` counts in units of 512 bytes, whatever the block size.
        Ok(std::fs::metadata(&self.path)?.blocks() * 512)
    }

    fn free_bytes(&self) -> std::io::Result<u64> {
        let status = rustix::fs::statvfs(&self.directory)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }
}

#[derive(Debug)]
struct FileDisk(File);

impl StorageBackend for FileDisk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// The first thing that went wrong on a disk.
#[derive(Debug, Clone)]
pub(crate) struct DiskFailure {
    /// A write that found no room and so changed nothing that counts. A failed sync is never that: after it nobody knows
    /// what is on the disk, whatever its reason.
    pub(crate) is_full: bool,
    pub(crate) reason: String,
}

/// Shared between the disk that redb owns and the log that wants to know.
pub(crate) type FirstFailure = Arc<Mutex<Option<DiskFailure>>>;

#[derive(Debug)]
pub(crate) struct WatchedDisk {
    disk: Box<dyn StorageBackend>,
    first_failure: FirstFailure,
}

impl WatchedDisk {
    pub(crate) fn new(disk: Box<dyn StorageBackend>) -> (Self, FirstFailure) {
        let first_failure = FirstFailure::default();
        (Self { disk, first_failure: Arc::clone(&first_failure) }, first_failure)
    }

    fn note<T>(&self, step: &str, outcome: std::io::Result<T>) -> std::io::Result<T> {
        if let Err(error) = &outcome {
            let no_room = matches!(
                error.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge
            );
            self.first_failure
                .lock()
                .get_or_insert_with(|| DiskFailure { is_full: no_room && step != "sync", reason: format!("{step}: {error}") });
        }
        outcome
    }
}

impl StorageBackend for WatchedDisk {
    fn len(&self) -> std::io::Result<u64> {
        self.note("length", self.disk.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.note("read", self.disk.read(offset, out))
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.note("resize", self.disk.set_len(len))
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.note("sync", self.disk.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.note("write", self.disk.write(offset, data))
    }
    fn close(&self) -> std::io::Result<()> {
        self.disk.close()
    }
}
