//! Taking away what is left of a pod on this node.

use std::time::Duration;

use container_runtime::{ContainerState, ContainerStatus, RuntimeError, SandboxId, SandboxStatus};
use k8s_openapi::api::core::v1::Pod;

use super::{name, namespace, uid};
use crate::{config::Context, logs::place, volume};

/// Stops a sandbox and frees its addresses; its containers' records stay.
///
/// # Errors
/// Either step failed, in words.
pub async fn stop_sandbox(context: &Context, id: &SandboxId) -> Result<(), String> {
    context.config.runtime.stop_sandbox(id).await.map_err(|problem| problem.to_string())?;
    context.config.network.detach(&id.0).await.map_err(|problem| problem.to_string())
}

/// Removes what is left of a pod on this node: sandboxes, logs, tokens, back-offs.
pub async fn forget_pod(context: &Context, pod: &Pod, sandboxes: Vec<SandboxId>) {
    for sandbox in sandboxes {
        if let Err(problem) = context.config.runtime.remove_sandbox(&sandbox).await {
            tracing::warn!(sandbox = sandbox.0, %problem, "could not remove a sandbox");
        }
    }
    let logs = context.config.pod_log_directory(namespace(pod), name(pod), uid(pod));
    if let Err(problem) = tokio::fs::remove_dir_all(&logs).await
        && problem.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %logs.display(), %problem, "could not remove a pod's logs");
    }
    context.images.forget(uid(pod));
    context.tokens.forget(uid(pod));
    context.certificates.forget(uid(pod));
}

/// The log of a container that is removed, with its rotated parts.
pub fn remove_old_logs(container: &ContainerStatus) {
    let Ok(directory) = place::directory(&container.log_path, place::PARTS) else { return };
    let Some(file) = container.log_path.file_name().and_then(|name| name.to_str()) else { return };
    for name in place::files_named(&directory, file).unwrap_or_default() {
        let _ = rustix::fs::unlinkat(&directory, name, rustix::fs::AtFlags::empty());
    }
}

/// Removes a sandbox that no pod of the API belongs to: its containers get the grace period they were made with.
///
/// # Errors
/// The first step that failed, in words.
pub async fn remove_orphan(context: &Context, sandbox: &SandboxStatus) -> Result<(), String> {
    let runtime = &context.config.runtime;
    let words = |problem: RuntimeError| problem.to_string();
    let containers = runtime.list_containers(Some(&sandbox.id)).await.map_err(words)?;
    let running = containers.into_iter().filter(|container| matches!(container.state, ContainerState::Running { .. }));
    let stops = running.map(|container| {
        let seconds = container.spec.annotations.get(super::annotations::GRACE_SECONDS).and_then(|seconds| seconds.parse().ok()).unwrap_or(30);
        async move { runtime.stop_container(&container.id, Duration::from_secs(seconds)).await }
    });
    for result in futures::future::join_all(stops).await {
        result.map_err(words)?;
    }
    stop_sandbox(context, &sandbox.id).await?;
    runtime.remove_sandbox(&sandbox.id).await.map_err(words)?;
    let logs = context.config.pod_log_directory(&sandbox.spec.pod_namespace, &sandbox.spec.pod_name, &sandbox.spec.pod_uid);
    drop(tokio::fs::remove_dir_all(logs).await);
    volume::release(context, &sandbox.spec.pod_uid).await
}
