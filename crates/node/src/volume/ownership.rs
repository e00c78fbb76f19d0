//! `fsGroup`: the group that owns a pod's volumes.
//! Source: Kubernetes 1.36, `pkg/volume/volume_linux.go`.
//!
//! Another pod may be at work in the volume, so nothing in it is named twice: each file is opened once, without following links, and
//! what was opened is changed. A path might lead out of the volume by the time that it is used.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags},
    io::Errno,
};

/// How deep directories may lie in each other; each level takes an open file. Deeper ones have no path that a program could name.
const MAXIMUM_DEPTH: usize = 1024;

/// Gives a directory and everything in it to a group that may read and write it; new files inherit the group.
///
/// # Errors
/// The first file that could not be changed.
pub fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    let top = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    give(top.as_fd(), group, 0)
}

fn give(file: BorrowedFd<'_>, group: u32, depth: usize) -> io::Result<()> {
    let facts = rustix::fs::fstat(file)?;
    let kind = FileType::from_raw_mode(facts.st_mode);
    if facts.st_gid != group {
        rustix::fs::chownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    }
    if kind == FileType::Symlink {
        return Ok(());
    }
    let is_directory = kind == FileType::Directory;
    let mode = facts.st_mode & 0o7777;
    let wanted = mode | if is_directory { 0o2770 } else { 0o660 };
    // Changing the owner clears set-group-id bits: the mode comes after it.
    if wanted != mode || facts.st_gid != group {
        // This is how a file is changed that was opened to be nothing but named.
        std::fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), std::fs::Permissions::from_mode(wanted))?;
    }
    if !is_directory {
        return Ok(());
    }
    if depth == MAXIMUM_DEPTH {
        return Err(io::Error::other(format!("its directories lie more than {MAXIMUM_DEPTH} deep in each other")));
    }
    let directory = rustix::fs::openat(file, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match rustix::fs::openat(&directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(child) => give(child.as_fd(), group, depth + 1)?,
            // Somebody has removed it meanwhile.
            Err(Errno::NOENT) => {}
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok(())
}

/// Whether the top of a volume already belongs to the group (`fsGroupChangePolicy: OnRootMismatch`).
#[must_use]
pub fn root_belongs(path: &Path, group: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|facts| facts.gid() == group && facts.mode() & 0o2770 == 0o2770)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::symlink,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    fn facts(path: &Path) -> (u32, u32) {
        std::fs::symlink_metadata(path).map(|facts| (facts.gid(), facts.mode() & 0o7777)).unwrap()
    }

    #[test]
    fn everything_in_a_volume_is_given_and_nothing_that_links_point_to() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        std::fs::write(volume.join("a/b/file"), "").unwrap();
        std::fs::write(&outside, "").unwrap();
        std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        assert!(!root_belongs(&volume, 1234));
        give_to_group(&volume, 1234).unwrap();
        assert!(root_belongs(&volume, 1234));
        assert_eq!((facts(&volume).0, facts(&volume).1 & 0o2770), (1234, 0o2770));
        assert_eq!((facts(&volume.join("a/b")).0, facts(&volume.join("a/b/file")).1 & 0o660), (1234, 0o660));
        assert_eq!(facts(&volume.join("link")).0, 1234);
        assert_eq!(facts(&outside), (0, 0o600));
    }

    #[test]
    fn a_directory_that_becomes_a_link_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        for place in [&volume.join("real"), &outside] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join("file"), "").unwrap();
            std::fs::set_permissions(place.join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, volume.join("link")).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // What a container may do that has the volume, too.
                while !over.load(Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(CWD, volume.join("real"), CWD, volume.join("link"), rustix::fs::RenameFlags::EXCHANGE);
                }
            });
            for group in 2000..3000 {
                give_to_group(&volume, group).unwrap();
                if facts(&outside.join("file")) != (0, 0o600) {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(facts(&outside.join("file")), (0, 0o600));
    }
}
