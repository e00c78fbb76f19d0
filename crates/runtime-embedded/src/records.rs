//! Small JSON records on disk, replaced as a whole: a reader sees the old or the new one, never a part.

use std::{
    io::{self, Write},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// Writes a record: to a file beside it, to the medium, then into its place.
///
/// # Errors
/// Where the disk does not take it; the old record is then still there.
pub fn write(path: &Path, record: &impl Serialize) -> io::Result<()> {
    write_bytes(path, &serde_json::to_vec(record)?)
}

/// Writes bytes like [`write`].
///
/// # Errors
/// Where the disk does not take them.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.to_string_lossy();
    let temporary = directory.join(format!(".{name}.{:08x}", rand::random::<u32>()));
    let written = (|| {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // Only a leftover; the next start would remove it as well.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Reads a record; none where there is none.
///
/// # Errors
/// Where it cannot be read or makes no sense.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The kernel's name for this boot. What was written under another one survived a crash or a power cut at best by luck.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// A new identifier of 64 hexadecimal digits.
#[must_use]
pub fn new_id() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}
