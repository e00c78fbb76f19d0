//! The file that holds the encryption keys: one `NAME HEX` a line, `#` for remarks; the first key writes, all read.
//!
//! Whoever has this file and the store's directory has the Secrets, so it is readable by its owner only, and a backup
//! belongs elsewhere than the store's. To rotate: [`add_key`], restart, write every stale value again, and remove the old
//! line once none is stale.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use super::encryption::{EncryptionKey, KEY_BYTES};

/// Readable and writable by its owner, by nobody else.
const PRIVATE: u32 = 0o600;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("could not {step} the key file {path}")]
    Access {
        /// What was tried.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("the key file {path} is open to others (mode {mode:o}): run `chmod 600` on it, and change the keys if anybody else may have read them")]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A line is no key.
    #[error("line {line} of the key file {path} is not `NAME` and 64 hexadecimal digits: restore the file from its backup")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
    },
    /// There is no key in it.
    #[error("the key file {path} holds no key: restore it from its backup")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a new key in {path}")]
    NoRandomness {
        /// Which file.
        path: PathBuf,
    },
}

/// Reads the keys.
pub fn load(path: &Path) -> Result<Vec<EncryptionKey>, KeyFileError> {
    parse(path, &read(path)?)
}

/// Makes the file with one new key and returns that. Never overwrites one.
pub fn create(path: &Path) -> Result<Vec<EncryptionKey>, KeyFileError> {
    let text = format!("# Encryption keys of this cluster's Secrets. Keep a copy in a safe place.\n{}", new_line(path)?);
    let written = write_new(path, &text);
    written.map_err(|source| KeyFileError::Access { step: "create", path: path.to_owned(), source })?;
    load(path)
}

/// Puts a new key first, which from the next start on writes; the others still read.
pub fn add_key(path: &Path) -> Result<(), KeyFileError> {
    let old = read(path)?;
    parse(path, &old)?;
    let text = new_line(path)? + &old;
    let written = replace(path, &text);
    written.map_err(|source| KeyFileError::Access { step: "replace", path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, KeyFileError> {
    let access = |source| KeyFileError::Access { step: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(access)?;
    let mode = file.metadata().map_err(access)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(access)?;
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<EncryptionKey>, KeyFileError> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let malformed = || KeyFileError::Malformed { path: path.to_owned(), line: number + 1 };
        let (name, secret) = line.split_once(' ').ok_or_else(malformed)?;
        let secret = from_hex(secret.trim()).ok_or_else(malformed)?;
        keys.push(EncryptionKey::new(name, &secret).ok_or_else(malformed)?);
    }
    if keys.is_empty() { Err(KeyFileError::Empty { path: path.to_owned() }) } else { Ok(keys) }
}

fn new_line(path: &Path) -> Result<String, KeyFileError> {
    let mut random = [0_u8; KEY_BYTES + 4];
    let no_randomness = |_| KeyFileError::NoRandomness { path: path.to_owned() };
    SystemRandom::new().fill(&mut random).map_err(no_randomness)?;
    let (name, secret) = random.split_at(4);
    Ok(format!("key-{} {}\n", to_hex(name), to_hex(secret)))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..text.len()).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// The whole file or none of it, also when the machine stops in the middle.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    if path.try_exists()? {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    replace(path, text)
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    // Whatever an interrupted run left is worth nothing, and its mode is not known.
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_private_and_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let created = create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, PRIVATE);
        assert_eq!(load(&path).unwrap().first().map(EncryptionKey::id), created.first().map(EncryptionKey::id));
        assert!(matches!(create(&path), Err(KeyFileError::Access { .. })), "a key file is never overwritten");
    }

    #[test]
    fn an_added_key_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let old = create(&path).unwrap();
        add_key(&path).unwrap();
        let keys = load(&path).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.last().map(EncryptionKey::id), old.first().map(EncryptionKey::id));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, PRIVATE);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(&path), Err(KeyFileError::TooOpen { mode: 0o640, .. })));
    }

    #[test]
    fn malformed_lines_are_named_by_number() {
        let path = Path::new("keys");
        let good = format!("one {}", "ab".repeat(32));
        for (text, line) in [("# remark\nnonsense", 2), ("one abcd", 1), (&format!("{good}\n\ntwo {}", "zz".repeat(32)), 3)] {
            let error = parse(path, text).unwrap_err();
            assert!(matches!(error, KeyFileError::Malformed { line: found, .. } if found == line), "{text}: {error}");
        }
        assert!(matches!(parse(path, "# nothing\n"), Err(KeyFileError::Empty { .. })));
        assert_eq!(parse(path, &good).unwrap().len(), 1);
    }
}
