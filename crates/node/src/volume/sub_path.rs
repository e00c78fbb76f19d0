//! A part of a volume, mounted so that no symbolic link inside the volume can lead out of it.
//!
//! The kernel itself opens the path below the volume and never beyond it (`openat2` with `RESOLVE_BENEATH`), and exactly
//! what was opened is bound to a path of the node's own. A container that swaps a directory for a link in the meantime
//! gains nothing: the link is not looked at again. (Upstream had to learn this twice: CVE-2017-1002101, CVE-2021-25741.)

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags},
};

use super::mounts;

/// Binds a part of a volume to `target`, which is made. Where the part is missing, it is made as a directory.
///
/// # Errors
/// It leads out of the volume, cannot be made, or cannot be mounted.
pub fn bind(volume: &Path, inside: &str, target: &Path) -> Result<(), String> {
    let part = open(volume, inside)?;
    let bad = |problem: &dyn std::fmt::Display| format!("could not mount subPath {inside:?} at {}: {problem}", target.display());
    let facts = rustix::fs::fstat(&part).map_err(|problem| bad(&problem))?;
    mounts::unmount_below(target)?;
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(|problem| bad(&problem))?;
    }
    // What is mounted and what it is mounted on must both be directories, or both not.
    let is_directory = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
    match std::fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() == is_directory => {}
        Ok(there) if there.is_dir() => std::fs::remove_dir(target).map_err(|problem| bad(&problem))?,
        Ok(_) => std::fs::remove_file(target).map_err(|problem| bad(&problem))?,
        Err(_) => {}
    }
    let made = match (std::fs::symlink_metadata(target).is_ok(), is_directory) {
        (true, _) => Ok(()),
        (false, true) => std::fs::create_dir(target),
        (false, false) => std::fs::File::create(target).map(|_| ()),
    };
    made.map_err(|problem| bad(&problem))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(part.as_fd(), "", flags).map_err(|problem| bad(&problem))?;
    rustix::mount::move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(|problem| bad(&problem))
}

/// Where the parts of one container's volumes are bound, numbered as its mounts.
#[must_use]
pub fn target(run_directory: &Path, container: &str, index: usize) -> PathBuf {
    run_directory.join("sub-paths").join(container).join(index.to_string())
}

/// Opens a part of a volume, made as directories where it is missing.
fn open(volume: &Path, inside: &str) -> Result<OwnedFd, String> {
    let bad = |problem: &str| format!("subPath {inside:?} {problem}");
    let mut parts = Vec::new();
    for component in Path::new(inside).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir => {}
            _ => return Err(bad("must stay inside the volume")),
        }
    }
    let root: OwnedFd = rustix::fs::openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|problem| bad(&problem.to_string()))?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&root).map_err(|problem| bad(&problem.to_string()))?.st_mode & 0o7777);
    let mut place = root.try_clone().map_err(|problem| bad(&problem.to_string()))?;
    let mut so_far = PathBuf::new();
    for part in parts {
        so_far.push(&part);
        let below = || rustix::fs::openat2(&root, &so_far, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS);
        place = match below() {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                let is_new = match rustix::fs::mkdirat(place.as_fd(), &part, Mode::from_raw_mode(0o750)) {
                    Ok(()) => true,
                    Err(Errno::EXIST) => false,
                    Err(problem) => return Err(bad(&format!("could not be made: {problem}"))),
                };
                let made = below().map_err(|problem| bad(&problem.to_string()))?;
                if is_new {
                    // As open as the volume itself, whatever our own mask says. By the descriptor, not the path.
                    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
                    rustix::fs::chmod(path, mode).map_err(|problem| bad(&format!("could not be made: {problem}")))?;
                }
                made
            }
            Err(Errno::XDEV) => return Err(bad("leads out of the volume")),
            Err(problem) => return Err(bad(&problem.to_string())),
        };
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn parts_are_made_and_links_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().canonicalize().unwrap();
        let resolve = |inside: &str| open(&volume, inside).map(|part| std::fs::read_link(format!("/proc/self/fd/{}", part.as_raw_fd())).unwrap());
        assert_eq!(resolve("a/b").unwrap(), volume.join("a/b"));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&volume.join("a/b")), mode(&volume), "as open as the volume");
        std::fs::write(volume.join("file"), "x").unwrap();
        assert_eq!(resolve("./file").unwrap(), volume.join("file"));
        symlink("a/b", volume.join("inside")).unwrap();
        assert_eq!(resolve("inside").unwrap(), volume.join("a/b"));
        symlink("/etc", volume.join("outside")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        for bad in ["../x", "/etc", "outside", "outside/passwd", "up", "up/x"] {
            assert!(resolve(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bound_part_stays_what_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, target) = (directory.path().join("volume"), target(&directory.path().join("run"), "c", 0));
        std::fs::create_dir_all(volume.join("part")).unwrap();
        std::fs::write(volume.join("part/file"), "mine").unwrap();
        bind(&volume, "part", &target).unwrap();
        std::fs::rename(volume.join("part"), volume.join("away")).unwrap();
        symlink("/etc", volume.join("part")).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "mine");
        bind(&volume, "away/file", &target).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "mine");
        mounts::unmount_below(directory.path()).unwrap();
    }
}
