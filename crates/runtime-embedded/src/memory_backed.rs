//! Directories that never reach a disk: bundles and plans hold the values of Secrets.

use std::{ffi::CString, io, path::Path};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// `TMPFS_MAGIC` and `RAMFS_MAGIC`
const MEMORY_FILE_SYSTEMS: [rustix::fs::FsWord; 2] = [0x0102_1994, 0x8584_58f6];

/// Makes a directory, and a tmpfs of it where it is not on one. Gives whether it had to mount.
///
/// # Errors
/// Where it can be neither.
pub fn ensure(path: &Path) -> io::Result<bool> {
    std::fs::create_dir_all(path)?;
    if MEMORY_FILE_SYSTEMS.contains(&rustix::fs::statfs(path)?.f_type) {
        return Ok(false);
    }
    let options = CString::new("mode=0700")?;
    mount("knarr", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("could not mount a tmpfs at {}: {error}", path.display())))?;
    Ok(true)
}

/// Takes a mount away; fine where there is none.
///
/// # Errors
/// What the kernel says.
pub fn remove_mount(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
