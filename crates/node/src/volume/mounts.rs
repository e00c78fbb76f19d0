//! Mounts of the node itself: in-memory volumes and parts of volumes.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Whether something is mounted at a path.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    below(path).iter().any(|mounted| mounted == path)
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
/// The kernel's answer in words.
pub fn unmount_below(directory: &Path) -> Result<(), String> {
    let mut mounted = below(directory);
    mounted.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in mounted {
        // Lazily: a container that is still ending may hold it.
        rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|problem| format!("could not unmount {}: {problem}", path.display()))?;
    }
    Ok(())
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// Paths in mountinfo have spaces and the like as octal numbers.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
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
        assert_eq!(unescape("/a\\040b/c"), PathBuf::from("/a b/c"));
        assert_eq!(unescape("/a\\"), PathBuf::from("/a\\"));
    }
}
