//! `persistentVolumeClaim` and `ephemeral` volumes whose persistent volume is a path on this node.

use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use client::Api;

use super::{Made, Plugin, PreparedVolume, Request, host_path, ownership};
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
        let spec = volume.spec.unwrap_or_default();
        let path = if let Some(source) = &spec.host_path {
            host_path::check(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
            source.path.clone()
        } else if let Some(source) = &spec.local {
            host_path::check(Path::new(&source.path), "Directory")?;
            source.path.clone()
        } else {
            return Err(format!("persistentvolume \"{volume_name}\" is neither a hostPath nor a local volume, the only ones this node offers"));
        };
        if let Some(group) = request.fs_group().filter(|group| spec.local.is_some() && !ownership::root_belongs(Path::new(&path), *group)) {
            ownership::give_to_group(Path::new(&path), group).map_err(|problem| format!("could not change the owner of {path}: {problem}"))?;
        }
        let only_reads = spec.access_modes.iter().flatten().all(|mode| mode == "ReadOnlyMany") && spec.access_modes.is_some();
        let read_only = source.and_then(|source| source.read_only).unwrap_or(false) || only_reads;
        Ok(Made { volume: PreparedVolume { path: path.into(), read_only }, refresh_at: None })
    }
}
