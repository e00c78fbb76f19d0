//! `emptyDir`: a directory of the pod's own, on disk or in memory.

use std::{io, os::unix::fs::PermissionsExt, path::Path};

use async_trait::async_trait;
use k8s_openapi::{api::core::v1::Volume, apimachinery::pkg::api::resource::Quantity};

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
        let failed = |problem: std::io::Error| format!("could not make {}: {problem}", path.display());
        if medium == "Memory" {
            std::fs::create_dir_all(&path).map_err(failed)?;
            if !mounts::is_mounted(&path)? {
                mounts::mount_tmpfs(&path, memory_size(request, source.size_limit.as_ref()), request.fs_group())?;
            }
        } else if !path.exists() {
            make(&path, request.fs_group()).map_err(failed)?;
        }
        Ok(Made::at(path))
    }
}

/// Makes the directory with its mode and owner all at once: once it is there, these are the containers' business, and a
/// database that closed its directory to others must find it closed.
fn make(path: &Path, group: Option<u32>) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    std::fs::create_dir_all(&unfinished)?;
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o777))?;
    if let Some(group) = group {
        ownership::give_to_group(&unfinished, group)?;
    }
    std::fs::rename(unfinished, path)
}

/// How large a volume in memory may grow, in bytes: never more than the pod's memory, which pays for it, or the node's.
fn memory_size(request: &Request<'_>, limit: Option<&Quantity>) -> Option<u64> {
    let bytes = |amount: Amount| u64::try_from(amount.as_units()).ok().filter(|size| *size > 0);
    let wanted = limit.and_then(|limit| Amount::parse(&limit.0)).and_then(bytes);
    let of_pod = crate::pod::resources::pod_limit(request.pod, "memory").and_then(bytes);
    [wanted, of_pod, Some(request.context.machine.memory_bytes)].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_new_directory_is_open_to_all_and_belongs_to_the_group() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("volumes/cache");
        make(&path, Some(1234)).unwrap();
        let facts = std::fs::metadata(&path).unwrap();
        assert_eq!((facts.mode() & 0o7777, facts.gid()), (0o2777, 1234));
        assert_eq!(std::fs::read_dir(directory.path().join("volumes")).unwrap().count(), 1, "nothing unfinished is left");
    }
}
