//! A part of a volume, mounted so that no symbolic link inside the volume can lead out of it.
//!
//! The path is opened by the kernel itself, below the volume and never beyond it (`openat2`, `RESOLVE_IN_ROOT` would follow
//! links as if the volume were the root; `RESOLVE_BENEATH` refuses those that leave it). What was opened is what is mounted.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// The path of a part of a volume, made as directories where it is missing.
///
/// # Errors
/// It leads out of the volume, or cannot be made.
pub fn resolve(volume: &Path, inside: &str) -> Result<PathBuf, String> {
    let bad = |problem: &str| format!("subPath {inside:?} {problem}");
    let mut parts = Vec::new();
    for component in Path::new(inside).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir => {}
            _ => return Err(bad("must stay inside the volume")),
        }
    }
    let mut place: OwnedFd = rustix::fs::openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|problem| bad(&problem.to_string()))?;
    let root = place.try_clone().map_err(|problem| bad(&problem.to_string()))?;
    let mut so_far = PathBuf::new();
    for part in parts {
        so_far.push(&part);
        let open = || rustix::fs::openat2(&root, &so_far, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS);
        place = match open() {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(place.as_fd(), &part, Mode::from_raw_mode(0o750)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(problem) => return Err(bad(&format!("could not be made: {problem}"))),
                }
                open().map_err(|problem| bad(&problem.to_string()))?
            }
            Err(Errno::XDEV) => return Err(bad("leads out of the volume")),
            Err(problem) => return Err(bad(&problem.to_string())),
        };
    }
    let facts = rustix::fs::fstat(&place).map_err(|problem| bad(&problem.to_string()))?;
    if FileType::from_raw_mode(facts.st_mode) == FileType::Symlink {
        return Err(bad("is a symbolic link"));
    }
    // The path of what was opened, with all links resolved.
    use std::os::fd::AsRawFd;
    let resolved = std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd())).map_err(|problem| bad(&problem.to_string()))?;
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn parts_are_made_and_links_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().canonicalize().unwrap();
        assert_eq!(resolve(&volume, "a/b").unwrap(), volume.join("a/b"));
        std::fs::write(volume.join("file"), "x").unwrap();
        assert_eq!(resolve(&volume, "./file").unwrap(), volume.join("file"));
        symlink("a/b", volume.join("inside")).unwrap();
        assert_eq!(resolve(&volume, "inside").unwrap(), volume.join("a/b"));
        symlink("/etc", volume.join("outside")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        for bad in ["../x", "/etc", "outside", "outside/passwd", "up", "up/x"] {
            assert!(resolve(&volume, bad).is_err(), "{bad}");
        }
    }
}
