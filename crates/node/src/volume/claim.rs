//! `persistentVolumeClaim` and `ephemeral` volumes: the persistent volume that the claim is bound to, as a path on this node.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Volume};
use client::Api;

use super::{Made, Plugin, PreparedVolume, Request, host_path, local_volumes, nfs, ownership};
use crate::{api_error::words, pod};

/// The plug-in.
pub struct Claim;

#[async_trait]
impl Plugin for Claim {
    fn handles(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn prepare(&self, request: &Request<'_>) -> Result<Made, String> {
        let source = request.volume.persistent_volume_claim.clone();
        let claim_name = match &source {
            Some(source) => source.claim_name.clone(),
            None => format!("{}-{}", pod::name(request.pod), request.volume.name),
        };
        let client = request.context.config.client.clone();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), pod::namespace(request.pod));
        let claim = claims.get(&claim_name).await.map_err(|problem| format!("failed to get persistentvolumeclaim \"{claim_name}\": {}", words(&problem)))?;
        let volume_name = claim.spec.and_then(|spec| spec.volume_name).filter(|name| !name.is_empty());
        let volume_name = volume_name.ok_or_else(|| format!("persistentvolumeclaim \"{claim_name}\" is not bound"))?;
        let volumes: Api<PersistentVolume> = Api::all(client);
        let volume = volumes.get(&volume_name).await.map_err(|problem| format!("failed to get persistentvolume \"{volume_name}\": {}", words(&problem)))?;
        // Directories of other nodes are not here, and an empty one in their place would pass for lost data.
        let elsewhere = volume.metadata.labels.as_ref().and_then(|labels| labels.get(local_volumes::NODE_LABEL)).filter(|node| **node != request.context.config.name);
        if let Some(node) = elsewhere {
            return Err(format!("Storage node affinity check failed for volume \"{volume_name}\": it is on the node {node}"));
        }
        let spec = volume.spec.unwrap_or_default();
        // A claim may name whatever volume it likes; it has it when the volume says so, too.
        if spec.claim_ref.as_ref().is_none_or(|reference| reference.uid != claim.metadata.uid) {
            return Err(format!("persistentvolume \"{volume_name}\" is not bound to the claim \"{claim_name}\""));
        }
        if spec.volume_mode.as_deref() == Some("Block") {
            return Err(format!("persistentvolume \"{volume_name}\" is a block device, which this node does not offer"));
        }
        let (path, takes_group) = locate(request, &volume_name, &spec).await?;
        let only_reads = spec.access_modes.iter().flatten().all(|mode| mode == "ReadOnlyMany") && spec.access_modes.is_some();
        let read_only = source.and_then(|source| source.read_only).unwrap_or(false) || only_reads;
        if let Some(group) = request.fs_group().filter(|_| takes_group && !read_only) {
            let policy = pod::spec(request.pod).security_context.as_ref().and_then(|security| security.fs_group_change_policy.as_deref());
            let (top, given, is_lazy) = (path.clone(), request.disk_directory("given"), policy == Some("OnRootMismatch"));
            // A volume may hold millions of files.
            let work = tokio::task::spawn_blocking(move || {
                give_once(&top, &given, group, is_lazy).map_err(|problem| format!("could not change the owner of {}: {problem}", top.display()))
            });
            work.await.map_err(|problem| problem.to_string())??;
        }
        Ok(Made { volume: PreparedVolume { path, read_only }, refresh_at: None })
    }
}

/// Gives a volume to its pod's group, once in the pod's life: `given` tells that it was done. A lazy one is content with a volume whose
/// top belongs to the group.
fn give_once(volume: &Path, given: &Path, group: u32, is_lazy: bool) -> std::io::Result<()> {
    if given.exists() {
        return Ok(());
    }
    if !is_lazy || !ownership::root_belongs(volume, group) {
        ownership::give_to_group(volume, group)?;
    }
    std::fs::create_dir_all(given)
}

/// Where a volume is on this node, and whether the pod's group may be given it.
async fn locate(request: &Request<'_>, name: &str, spec: &PersistentVolumeSpec) -> Result<(PathBuf, bool), String> {
    if let Some(source) = &spec.host_path {
        host_path::check(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
        return Ok((source.path.clone().into(), false));
    }
    if let Some(source) = &spec.local {
        host_path::check(Path::new(&source.path), "Directory")?;
        return Ok((source.path.clone().into(), true));
    }
    if let Some(source) = &spec.nfs {
        let path = nfs::mount(source, request.disk_directory("nfs"), spec.mount_options.clone().unwrap_or_default()).await?;
        return Ok((path, false));
    }
    if let Some(source) = spec.csi.as_ref().filter(|source| source.driver == local_volumes::DRIVER) {
        let made = request.context.local_volumes.make(&source.volume_handle);
        return Ok((made.map_err(|problem| format!("could not make the directory of volume \"{name}\": {problem}"))?, true));
    }
    Err(format!("persistentvolume \"{name}\" is neither a hostPath, local or NFS volume nor one of the driver {}, the only ones this node offers", local_volumes::DRIVER))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_volume_is_given_anew_to_each_pod_unless_its_top_is_enough() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, file) = (directory.path().join("volume"), directory.path().join("volume/file"));
        std::fs::create_dir(&volume).unwrap();
        let given = |pod: &str| directory.path().join(pod);
        let group_after = |pod: &str, is_lazy| {
            give_once(&volume, &given(pod), 1234, is_lazy).unwrap();
            std::fs::metadata(&file).unwrap().gid()
        };
        let restore = || {
            std::fs::write(&file, "").unwrap();
            std::os::unix::fs::chown(&file, None, Some(0)).unwrap();
        };
        restore();
        assert_eq!(group_after("lazy", true), 1234, "its top was somebody else's");
        restore();
        assert_eq!(group_after("lazy too", true), 0, "its top is the group's");
        assert_eq!(group_after("eager", false), 1234);
        restore();
        assert_eq!(group_after("eager", false), 0, "what the pod does afterwards is its own business");
        assert_eq!(group_after("eager too", false), 1234);
    }
}
