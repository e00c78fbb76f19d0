//! A container's root: its image's layers and its own writable one, put together where only this helper and the container
//! see it. Nothing is mounted in the host's namespace, so nothing is left behind there.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use container_runtime::MountPropagation;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::{
    plan::StartPlan,
    pod_users::{PodUsers, Stage},
};

/// Whether a container wants to see mounts that are made later, or show its own.
#[must_use]
pub fn wants_propagation(plan: &StartPlan) -> bool {
    plan.spec.mounts.iter().any(|mount| mount.propagation != MountPropagation::Private)
}

/// Makes a mount namespace of our own and mounts the root in it; gives where. Of a pod with users of its own, the plan's sources
/// are replaced by what is mounted through them.
///
/// # Errors
/// What the kernel says.
pub fn mount_root(plan: &mut StartPlan, users: Option<&PodUsers>) -> io::Result<PathBuf> {
    // SAFETY: this process has one thread, and no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    if let Some(users) = users {
        let stage = Stage::gather(users, plan).map_err(io::Error::other)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        stage.lay(plan)?;
        // The one who mounts an overlay is the one who works in its writable layer.
        users.as_their_root(|| mount_overlay(plan, &stage.root))?;
        return Ok(stage.root);
    }
    let target = plan.bundle.join("rootfs");
    std::fs::create_dir_all(&target)?;
    if wants_propagation(plan) {
        // Other mounts keep their peers on the host; only the one that holds the bundle must not show our root there.
        mount_change(mount_that_holds(&target)?.as_path(), MountPropagationFlags::PRIVATE)?;
    } else {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    }
    mount_overlay(plan, &target)?;
    Ok(target)
}

fn mount_overlay(plan: &StartPlan, target: &Path) -> io::Result<()> {
    // Relative names keep the options within the one page that the kernel reads.
    rustix::process::chdir(&plan.layers_directory)?;
    let lower: Vec<&str> = plan.layers.iter().rev().map(String::as_str).collect();
    // An image without layers still needs a lower side.
    let lower = if lower.is_empty() { escape(&plan.bundle.join("empty"))? } else { lower.join(":") };
    let (upper, work) = (escape(&plan.upper)?, escape(&plan.work)?);
    let options = |extra: &str| CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work},index=off,metacopy=off{extra}")).map_err(io::Error::from);
    // A container's writable layer does not outlive a crash of the machine, so it need not be synced; kernels before
    // 5.10 do not know that option.
    let mounted = match mount("overlay", target, "overlay", MountFlags::empty(), Some(options(",volatile")?.as_c_str())) {
        Err(rustix::io::Errno::INVAL) => mount("overlay", target, "overlay", MountFlags::empty(), Some(options("")?.as_c_str())),
        other => other,
    };
    rustix::process::chdir("/")?;
    mounted.map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("could not put {} layers together: {error}", plan.layers.len())))
}

/// Commas and colons separate an overlay's options.
fn escape(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not UTF-8", path.display())))?;
    if text.contains([',', ':', '\\']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{text} holds a comma, colon or backslash, which an overlay cannot take")));
    }
    Ok(text.to_owned())
}

/// The mount point above a path.
fn mount_that_holds(path: &Path) -> io::Result<PathBuf> {
    let path = std::fs::canonicalize(path)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| path.starts_with(point)).max_by_key(|point| point.components().count()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

