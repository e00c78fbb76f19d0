//! Mounts of the node itself: in-memory volumes and parts of volumes.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Whether something is mounted at a path.
///
/// # Errors
/// Nobody knows: the kernel's list could not be read.
pub fn is_mounted(path: &Path) -> Result<bool, String> {
    Ok(below(path)?.iter().any(|mounted| mounted == path))
}

/// Mounts an in-memory file system that everybody may write to, limited to a size and owned by a group where one is given.
///
/// # Errors
/// The kernel's answer in words.
pub fn mount_tmpfs(path: &Path, size_bytes: Option<u64>, group: Option<u32>) -> Result<(), String> {
    let mut options = match group {
        Some(group) => format!("mode=2777,gid={group}"),
        None => "mode=0777".to_owned(),
    };
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let options = std::ffi::CString::new(options).map_err(|problem| problem.to_string())?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .map_err(|problem| format!("could not mount a tmpfs at {}: {problem}", path.display()))
}

/// Unmounts everything at and below a directory, the innermost first.
///
/// # Errors
/// The kernel's answer in words. Whoever wants to remove the directory must not: there may be other people's files in it.
pub fn unmount_below(directory: &Path) -> Result<(), String> {
    let mut mounted = below(directory)?;
    mounted.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in mounted {
        // Lazily: a container that is still ending may hold it.
        rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|problem| format!("could not unmount {}: {problem}", path.display()))?;
    }
    Ok(())
}

fn below(directory: &Path) -> Result<Vec<PathBuf>, String> {
    // As bytes: one mount point that is no UTF-8, whosever it is, must not hide all others.
    let table = std::fs::read("/proc/self/mountinfo").map_err(|problem| format!("could not read what is mounted: {problem}"))?;
    Ok(points(&table).filter(|point| point.starts_with(directory)).collect())
}

/// The mount points of a list.
fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape)
}

/// Paths in mountinfo have spaces and the like as octal numbers.
fn unescape(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut result = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(byte) = bytes.get(position) {
        let code = bytes.get(position + 1..position + 4).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(decoded) => {
                result.push(decoded);
                position += 4;
            }
            None => {
                result.push(*byte);
                position += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_paths_are_read() {
        assert_eq!(unescape(b"/a\\040b/c"), PathBuf::from("/a b/c"));
        assert_eq!(unescape(b"/a\\"), PathBuf::from("/a\\"));
    }

    #[test]
    fn a_mount_point_that_is_no_text_does_not_hide_others() {
        use std::os::unix::ffi::OsStrExt;
        let directory = tempfile::tempdir().unwrap();
        let (odd, other) = (directory.path().join(std::ffi::OsStr::from_bytes(b"\xff")), directory.path().join("other"));
        for place in [&odd, &other] {
            std::fs::create_dir(place).unwrap();
            mount_tmpfs(place, Some(4096), None).unwrap();
        }
        let found = (is_mounted(&odd), is_mounted(&other));
        unmount_below(directory.path()).unwrap();
        assert_eq!(found, (Ok(true), Ok(true)));
        assert_eq!((is_mounted(&odd), is_mounted(&other)), (Ok(false), Ok(false)));
    }
}
