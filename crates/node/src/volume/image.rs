//! `image`: the files of an image, for reading only.
//!
//! Here its place is made. The image is got and mounted there when a container that uses it starts, since trouble with it is told as
//! trouble with a container's own image is. Source: KEP-4639.

use std::path::PathBuf;

use async_trait::async_trait;
use container_runtime::RuntimeError;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::{Made, Plugin, PreparedVolume, Request};
use crate::{clock::after, config::Context, objects::Snapshot, pod::{self, plan::LaunchFailure}};

/// The plug-in.
pub struct Image;

#[async_trait]
impl Plugin for Image {
    fn handles(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn prepare(&self, request: &Request<'_>) -> Result<Made, String> {
        let path = place(request.context, request.pod, &request.volume.name);
        std::fs::create_dir_all(&path).map_err(|problem| format!("could not make {}: {problem}", path.display()))?;
        Ok(Made { volume: PreparedVolume { path, read_only: true }, refresh_at: None })
    }
}

fn place(context: &Context, pod: &Pod, volume: &str) -> PathBuf {
    context.config.pod_run_directory(pod::uid(pod)).join("volumes/image").join(volume)
}

/// Gets and mounts the images that a container mounts.
///
/// # Errors
/// Reason and message for the container's waiting state, and when to try again.
pub async fn mount(context: &Context, pod: &Pod, container: &Container, objects: &Snapshot) -> Result<(), LaunchFailure> {
    let is_mounted = |volume: &&Volume| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
    for volume in pod::spec(pod).volumes.iter().flatten().filter(is_mounted) {
        let Some(source) = &volume.image else { continue };
        let wanted = Container {
            name: container.name.clone(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Container::default()
        };
        let image = context.images.ensure(pod, &wanted, objects, &context.metrics).await?;
        let failed = |problem: RuntimeError| LaunchFailure {
            reason: "CreateContainerError".to_owned(),
            message: format!("failed to mount image volume \"{}\": {problem}", volume.name),
            retry_at: after(context.config.clock.now(), std::time::Duration::from_secs(10)),
        };
        context.config.runtime.mount_image(&image.id, &place(context, pod, &volume.name)).await.map_err(failed)?;
    }
    Ok(())
}
