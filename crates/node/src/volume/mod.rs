//! Volumes: one plug-in a file, all behind one small trait.
//!
//! * [`empty_dir`], [`host_path`], [`image`], [`nfs`]: directories; [`claim`]: persistent volumes, of which [`local_volumes`] are kept here
//! * [`content`]: configMap, secret, downwardAPI and projected volumes, which are files made from the API's objects;
//!   [`payload`] collects them, [`atomic`] writes them so that a reader sees the old or the new ones, never a mixture
//! * [`sub_path`]: a part of a volume, safe against symbolic links; [`ownership`]: `fsGroup`
//!
//! Whatever may hold a secret lies below the run directory, which is in memory, and nowhere else.

pub mod atomic;
pub mod claim;
pub mod content;
pub mod empty_dir;
pub mod host_path;
pub mod image;
pub mod local_volumes;
pub mod mounts;
pub mod nfs;
pub mod ownership;
pub mod payload;
pub mod sub_path;
pub mod trust_bundles;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::{
    config::Context,
    objects::{Kind, Reference, Snapshot},
    pod,
};

/// A volume that containers can mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedVolume {
    /// Where it lies on the host.
    pub path: PathBuf,
    /// Nobody may write to it.
    pub read_only: bool,
}

/// All volumes of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Each by its name in the pod.
    pub volumes: BTreeMap<String, PreparedVolume>,
    /// When they must be prepared again, since a token or a certificate runs out.
    pub refresh_at: Option<Timestamp>,
}

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub struct VolumeError {
    /// Its name in the pod.
    pub volume: String,
    /// Why, in words.
    pub reason: String,
}

/// What a plug-in is asked for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// What everything shares.
    pub context: &'a Context,
    /// The pod.
    pub pod: &'a Pod,
    /// The volume.
    pub volume: &'a Volume,
    /// Config maps and secrets.
    pub objects: &'a Snapshot,
    /// The pod's addresses.
    pub pod_ips: &'a [IpAddr],
}

impl Request<'_> {
    /// A directory for the volume on disk.
    #[must_use]
    pub fn disk_directory(&self, plugin: &str) -> PathBuf {
        self.context.config.pod_directory(pod::uid(self.pod)).join("volumes").join(plugin).join(&self.volume.name)
    }

    /// A directory for the volume in memory.
    #[must_use]
    pub fn memory_directory(&self, plugin: &str) -> PathBuf {
        self.context.config.pod_run_directory(pod::uid(self.pod)).join("volumes").join(plugin).join(&self.volume.name)
    }

    /// The group that owns the pod's volumes.
    #[must_use]
    pub fn fs_group(&self) -> Option<u32> {
        let security = pod::spec(self.pod).security_context.as_ref()?;
        security.fs_group.and_then(|group| u32::try_from(group).ok())
    }
}

/// A volume made by a plug-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The volume.
    pub volume: PreparedVolume,
    /// When it must be made again.
    pub refresh_at: Option<Timestamp>,
}

impl Made {
    /// A volume that never needs refreshing.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { volume: PreparedVolume { path, read_only: false }, refresh_at: None }
    }
}

/// Makes volumes of some kinds.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Whether a volume is of its kind.
    fn handles(&self, volume: &Volume) -> bool;
    /// Makes a volume, or brings it up to date: repeating it is harmless.
    ///
    /// # Errors
    /// Why it could not be made, in words.
    async fn prepare(&self, request: &Request<'_>) -> Result<Made, String>;
}

static PLUGINS: [&dyn Plugin; 6] = [&empty_dir::EmptyDir, &host_path::HostPath, &image::Image, &nfs::Nfs, &content::Content, &claim::Claim];

/// Makes all volumes of a pod, or brings them up to date.
///
/// # Errors
/// The first volume that could not be made.
pub async fn prepare(context: &Context, pod: &Pod, objects: &Snapshot, pod_ips: &[IpAddr]) -> Result<Prepared, VolumeError> {
    let mut prepared = Prepared::default();
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let fail = |reason: String| VolumeError { volume: volume.name.clone(), reason };
        let plugin = PLUGINS
            .iter()
            .find(|plugin| plugin.handles(volume))
            .ok_or_else(|| fail("no volume plugin matched; this node offers emptyDir, hostPath, image, nfs, configMap, secret, projected, downwardAPI and claims".to_owned()))?;
        let made = plugin.prepare(&Request { context, pod, volume, objects, pod_ips }).await.map_err(fail)?;
        prepared.refresh_at = [prepared.refresh_at, made.refresh_at].into_iter().flatten().min();
        prepared.volumes.insert(volume.name.clone(), made.volume);
    }
    Ok(prepared)
}

/// Takes all volumes of a pod away, with everything else that the node keeps of it in files, logs excepted.
///
/// # Errors
/// What could not be removed.
pub async fn release(context: &Context, pod_uid: &str) -> Result<(), String> {
    let directories = [context.config.pod_run_directory(pod_uid), context.config.pod_directory(pod_uid)];
    let remove = move || {
        for directory in directories {
            mounts::unmount_below(&directory)?;
            match std::fs::remove_dir_all(&directory) {
                Err(problem) if problem.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("could not remove {}: {problem}", directory.display()));
                }
                _ => {}
            }
        }
        Ok(())
    };
    tokio::task::spawn_blocking(remove).await.map_err(|problem| problem.to_string())?
}

/// All config maps, secrets, trust bundles and requests for certificates that a pod needs.
#[must_use]
pub fn references(pod: &Pod) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    for projection in pod::spec(pod).volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten() {
        if projection.cluster_trust_bundle.is_some() {
            found.insert(Reference::trust_bundles());
        }
        if projection.pod_certificate.is_some() {
            found.insert(Reference::certificate_requests(pod::spec(pod).node_name.as_deref().unwrap_or_default()));
        }
    }
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            found.insert(Reference { kind, namespace: pod::namespace(pod).to_owned(), name: name.to_owned() });
        }
    };
    for volume in pod::spec(pod).volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            add(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &volume.secret {
            add(Kind::Secret, source.secret_name.as_deref().unwrap_or_default());
        }
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            if let Some(source) = &source.config_map {
                add(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &source.secret {
                add(Kind::Secret, &source.name);
            }
        }
    }
    for (_, container) in pod::containers(pod) {
        for from in container.env_from.iter().flatten() {
            if let Some(source) = &from.config_map_ref {
                add(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &from.secret_ref {
                add(Kind::Secret, &source.name);
            }
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(selector) = &source.config_map_key_ref {
                add(Kind::ConfigMap, &selector.name);
            }
            if let Some(selector) = &source.secret_key_ref {
                add(Kind::Secret, &selector.name);
            }
        }
    }
    for secret in pod::spec(pod).image_pull_secrets.iter().flatten() {
        add(Kind::Secret, &secret.name);
    }
    found
}
