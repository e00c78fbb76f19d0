//! `emptyDir`: a directory of the pod's own, on disk or in memory.

use std::os::unix::fs::PermissionsExt;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Made, Plugin, Request, mounts, ownership};
use crate::quantity::Amount;

/// The plug-in.
pub struct EmptyDir;

#[async_trait]
impl Plugin for EmptyDir {
    fn handles(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn prepare(&self, request: &Request<'_>) -> Result<Made, String> {
        let source = request.volume.empty_dir.clone().unwrap_or_default();
        let medium = source.medium.unwrap_or_default();
        let path = match medium.as_str() {
            "" => request.disk_directory("empty-dir"),
            "Memory" => request.memory_directory("empty-dir"),
            other => return Err(format!("medium {other} is not offered by this node")),
        };
        std::fs::create_dir_all(&path).map_err(|problem| format!("could not make {}: {problem}", path.display()))?;
        if medium == "Memory" && !mounts::is_mounted(&path) {
            let wanted = source.size_limit.as_ref().and_then(|limit| Amount::parse(&limit.0)).map(Amount::as_units).and_then(|size| u64::try_from(size).ok());
            let pod_limit = crate::pod::resources::pod_limit(request.pod, "memory").and_then(|limit| u64::try_from(limit.as_units()).ok());
            // Never more than the pod's memory, which pays for it, or the node's.
            let size = [wanted.filter(|size| *size > 0), pod_limit, Some(request.context.machine.memory_bytes)].into_iter().flatten().min();
            mounts::mount_tmpfs(&path, size)?;
        }
        let change = || {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
            match request.fs_group() {
                Some(group) if !ownership::root_belongs(&path, group) => ownership::give_to_group(&path, group),
                _ => Ok(()),
            }
        };
        // Only when new: later its mode is the containers' business.
        let is_new = std::fs::symlink_metadata(&path).is_ok_and(|facts| facts.permissions().mode() & 0o777 != 0o777)
            || request.fs_group().is_some_and(|group| !ownership::root_belongs(&path, group));
        if is_new {
            change().map_err(|problem: std::io::Error| format!("could not change the owner of {}: {problem}", path.display()))?;
        }
        Ok(Made::at(path))
    }
}
