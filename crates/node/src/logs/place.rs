//! Opening what a pod's directory holds: below it, and through no link.
//!
//! The directories of logs and last words belong to the node, but a pod may be given them by a volume of type hostPath, as collectors of
//! logs are. It must not be able to show their reader any other file of the machine, nor to have one renamed or removed, nor to hold a
//! reader up with a pipe. Logs are written by the shim, which takes the same care (`shim/src/log_file.rs`).

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// So many parts at the end of a log's path are the pod's: `POD/CONTAINER/RESTARTS.log`.
pub const PARTS: usize = 3;

fn not_a_path() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is no path of a file")
}

/// The directory of a file whose last `parts` names are a pod's, opened through no link among them.
///
/// # Errors
/// What the kernel says; `ELOOP` where there is a link.
pub fn directory(path: &Path, parts: usize) -> io::Result<OwnedFd> {
    let root = path.ancestors().nth(parts).filter(|root| !root.as_os_str().is_empty()).unwrap_or(Path::new("/"));
    let inside = path.strip_prefix(root).ok().and_then(Path::parent).ok_or_else(not_a_path)?;
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    let root = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(&root, inside, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?)
}

/// The last name of a path.
///
/// # Errors
/// It has none.
pub fn name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(not_a_path)
}

/// Opens a file for reading whose last `parts` names are a pod's.
///
/// # Errors
/// What the kernel says; also where it is no file.
pub fn open(path: &Path, parts: usize) -> io::Result<File> {
    open_in(&directory(path, parts)?, name(path)?)
}

/// Opens a file of a directory for reading.
///
/// # Errors
/// As for [`open`].
pub fn open_in(directory: impl AsFd, name: &OsStr) -> io::Result<File> {
    // Without waiting for whoever writes to a pipe of that name.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

/// The names of the files in a directory that begin with `prefix`, sorted.
///
/// # Errors
/// What the kernel says.
pub fn files_named(directory: &OwnedFd, prefix: &str) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && name.starts_with(prefix)
            && entry.file_type() != FileType::Directory
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A path to what is open, for calls that take no descriptor.
#[must_use]
pub fn path_of(open: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_of_a_pod_is_followed_and_no_pipe_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("logs");
        let log = root.join("a_web_1/c/0.log");
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        std::fs::write(&log, "mine").unwrap();
        assert_eq!(io::read_to_string(open(&log, PARTS).unwrap()).unwrap(), "mine");
        // The node's own directory may lie behind a link.
        symlink("logs", directory.path().join("other")).unwrap();
        assert!(open(&directory.path().join("other/a_web_1/c/0.log"), PARTS).is_ok());

        std::fs::create_dir_all(directory.path().join("stolen")).unwrap();
        std::fs::write(directory.path().join("stolen/0.log"), "secret").unwrap();
        let refused = |path: &Path| open(path, PARTS).unwrap_err().raw_os_error();
        std::fs::remove_file(&log).unwrap();
        symlink(directory.path().join("stolen/0.log"), &log).unwrap();
        assert_eq!(refused(&log), Some(libc::ELOOP), "the file is a link");
        symlink(directory.path().join("stolen"), root.join("a_web_1/d")).unwrap();
        assert_eq!(refused(&root.join("a_web_1/d/0.log")), Some(libc::ELOOP), "its directory is a link");
        std::fs::create_dir_all(directory.path().join("whole/c")).unwrap();
        symlink(directory.path().join("whole"), root.join("a_web_2")).unwrap();
        assert_eq!(refused(&root.join("a_web_2/c/0.log")), Some(libc::ELOOP), "the pod's directory is a link");
        let pipe = root.join("a_web_1/c/1.log");
        rustix::fs::mkfifoat(CWD, &pipe, Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(open(&pipe, PARTS).unwrap_err().to_string(), "it is no file");
    }
}
