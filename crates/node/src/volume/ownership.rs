//! `fsGroup`: the group that owns a pod's volumes.
//! Source: Kubernetes 1.36, `pkg/volume/volume_linux.go`.

use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

/// Gives a directory and everything in it to a group that may read and write it; new files inherit the group.
///
/// # Errors
/// The first file that could not be changed.
pub fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    let facts = std::fs::symlink_metadata(path)?;
    if facts.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if facts.is_symlink() {
        return Ok(());
    }
    let wanted = facts.mode() & 0o7777 | if facts.is_dir() { 0o2770 } else { 0o660 };
    // Changing the owner clears set-group-id bits: the mode comes after it.
    if wanted != facts.mode() & 0o7777 || facts.gid() != group {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(wanted))?;
    }
    if facts.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_to_group(&entry?.path(), group)?;
        }
    }
    Ok(())
}

/// Whether the top of a volume already belongs to the group (`fsGroupChangePolicy: OnRootMismatch`).
#[must_use]
pub fn root_belongs(path: &Path, group: u32) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|facts| facts.gid() == group && facts.mode() & 0o2770 == 0o2770)
}
