//! File operations below a root directory that nothing can lead out of: no `..`, no symbolic link, no magic link.
//!
//! Images are written by strangers. Whatever path comes out of one is resolved by the kernel as if the image's root were
//! the machine's (`openat2` with `RESOLVE_IN_ROOT`), never by joining strings.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// A directory that serves as root.
pub struct Root {
    directory: OwnedFd,
}

/// Splits a path from an image into the names it goes through; none where it tries to climb out with `..`.
#[must_use]
pub fn components(path: &Path) -> Option<Vec<PathBuf>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(PathBuf::from(name)),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(names)
}

impl Root {
    /// Opens a directory as root.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let directory = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { directory })
    }

    /// Opens a path below the root, following symbolic links as the image's own programs would.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        // The kernel answers EAGAIN where it cannot rule out that a rename raced with the walk.
        for _ in 0..32 {
            match rustix::fs::openat2(&self.directory, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(rustix::io::Errno::AGAIN.into())
    }

    /// Opens a directory and makes what is missing of it, owned by `owner`.
    ///
    /// # Errors
    /// What the kernel says; also where the path climbs with `..`.
    pub fn make_directories(&self, path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_at(path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let names = components(path).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut so_far = PathBuf::new();
        let mut directory = self.open_at(Path::new("."), flags)?;
        for name in names {
            so_far.push(&name);
            directory = match self.open_at(&so_far, flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(mode)) {
                        Err(rustix::io::Errno::EXIST) | Ok(()) => {}
                        Err(error) => return Err(error.into()),
                    }
                    if let Some((user, group)) = owner {
                        let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
                        rustix::fs::chownat(&directory, &name, Some(user), Some(group), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                    }
                    self.open_at(&so_far, flags)?
                }
                other => other?,
            };
        }
        Ok(directory)
    }

    /// Reads a small file; none where it does not exist or is no regular file.
    ///
    /// # Errors
    /// What the kernel says, and where the file is longer than `limit_bytes`.
    pub fn read(&self, path: &Path, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        // Without O_NONBLOCK, a FIFO in the image would hold us up for ever.
        let file = match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is longer than {limit_bytes} bytes", path.display())));
        }
        Ok(Some(bytes))
    }
}

/// A path by which the kernel finds an open descriptor again.
#[must_use]
pub fn path_of(descriptor: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_the_root_stays_inside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(directory.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("etc/climb")).unwrap();
        std::os::unix::fs::symlink("/secret", root.join("etc/absolute")).unwrap();
        std::os::unix::fs::symlink("/proc/self/root", root.join("etc/magic")).unwrap();
        let inside = Root::open(&root).unwrap();
        for name in ["etc/climb", "etc/absolute", "/etc/../../secret"] {
            assert_eq!(inside.read(Path::new(name), 100).unwrap().unwrap(), b"inside", "{name}");
        }
        assert_eq!(inside.read(Path::new("etc/magic/etc/passwd"), 1 << 20).unwrap(), None);
    }

    #[test]
    fn missing_directories_are_made_through_links_inside() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink("/real", directory.path().join("link")).unwrap();
        Root::open(directory.path()).unwrap().make_directories(Path::new("/link/a/b"), 0o755, None).unwrap();
        assert!(directory.path().join("real/a/b").is_dir());
        assert!(Root::open(directory.path()).unwrap().make_directories(Path::new("x/../../y"), 0o755, None).is_err());
    }
}
