//! Starting one container: objects, image, spec, create, start, postStart hook.

use std::{net::IpAddr, sync::Arc, time::Duration};

use client::EventType;
use container_runtime::{ContainerId, ContainerState, RuntimeError, SandboxId};
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use super::{Role, container_spec::{Parts, container_spec}, find_container, plan::{LaunchFailure, newest}, spec};
use crate::{
    clock::after,
    config::Context,
    hooks,
    metrics::Metrics,
    objects::Subscriptions,
    volume::{self, Prepared},
};

/// Reason of a container whose description cannot be met.
pub const CONFIG_ERROR: &str = "CreateContainerConfigError";
/// When what only a change of the pod or its objects can heal is tried again; such a change wakes the pod at once.
const RETRY_CONFIG: Duration = Duration::from_secs(10);
/// How long an error of starting stays in the status before the crash back-off takes over.
const SHOW_ERROR: Duration = Duration::from_secs(1);

/// One start of one container.
pub struct Launch {
    /// What everything shares.
    pub context: Arc<Context>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container's name.
    pub container: String,
    /// What it is to the pod.
    pub role: Role,
    /// How often it was started before.
    pub attempt: u32,
    /// How often all containers of the pod were started anew before.
    pub round: u32,
    /// A container that was created but never started, to be removed first.
    pub replaces: Option<ContainerId>,
    /// Where it runs.
    pub sandbox: SandboxId,
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// The pod's volumes.
    pub volumes: Arc<Prepared>,
    /// Config maps and secrets.
    pub objects: Subscriptions,
    /// The pod is to stop: what merely waits is given up.
    pub cancel: CancellationToken,
}

/// How a launch ended.
#[derive(Debug)]
pub enum Launched {
    /// The container runs, or ran.
    Started,
    /// It could not be started.
    Failed(LaunchFailure),
    /// The pod stops.
    Cancelled,
}

impl Launch {
    /// Starts the container.
    pub async fn run(self) -> Launched {
        let cancel = self.cancel.clone();
        match self.create(&cancel).await {
            Ok(Some(id)) => self.start(&id, &cancel).await,
            Ok(None) => Launched::Cancelled,
            Err(failure) => {
                Metrics::count(&self.context.metrics.failed_starts);
                Launched::Failed(failure)
            }
        }
    }

    fn failure(&self, reason: &str, message: String, wait: Duration) -> LaunchFailure {
        LaunchFailure { reason: reason.to_owned(), message, retry_at: after(self.context.config.clock.now(), wait) }
    }

    fn tell(&self, kind: EventType, reason: &str, message: String) {
        self.context.events.container(&self.pod, &self.container, kind, reason, message);
    }

    /// Everything up to a created container; `None` where the pod stops meanwhile.
    async fn create(&self, cancel: &CancellationToken) -> Result<Option<ContainerId>, LaunchFailure> {
        let runtime = &self.context.config.runtime;
        let Some((_, container)) = find_container(&self.pod, &self.container) else { return Ok(None) };
        if let Some(stale) = &self.replaces
            && let Err(problem) = runtime.remove_container(stale).await
        {
            return Err(self.failure("CreateContainerError", problem.to_string(), RETRY_CONFIG));
        }
        let Some(objects) = cancel.run_until_cancelled(self.objects.snapshot()).await else { return Ok(None) };
        let ensure = self.context.images.ensure(&self.pod, &container, &objects, &self.context.metrics);
        let Some(image) = cancel.run_until_cancelled(ensure).await else { return Ok(None) };
        let image = image?;
        let mounted = cancel.run_until_cancelled(volume::image::mount(&self.context, &self.pod, &container, &objects)).await;
        let Some(mounted) = mounted else { return Ok(None) };
        mounted?;
        let target = self.target().await.map_err(|message| {
            self.tell(EventType::Warning, "Failed", format!("Error: {message}"));
            self.failure(CONFIG_ERROR, message, RETRY_CONFIG)
        })?;
        let parts = Parts {
            processes_of: target.as_ref(),
            context: &self.context,
            pod: &self.pod,
            container: &container,
            role: self.role,
            attempt: self.attempt,
            round: self.round,
            image: &image,
            pod_ips: &self.pod_ips,
            volumes: &self.volumes,
            objects: &objects,
        };
        let Some(spec) = cancel.run_until_cancelled(container_spec(&parts)).await else { return Ok(None) };
        let spec = spec.map_err(|message| {
            self.tell(EventType::Warning, "Failed", format!("Error: {message}"));
            self.failure(CONFIG_ERROR, message, RETRY_CONFIG)
        })?;
        match runtime.create_container(&self.sandbox, &spec).await {
            Ok(id) => {
                self.tell(EventType::Normal, "Created", format!("Created container: {}", self.container));
                Ok(Some(id))
            }
            Err(problem) => {
                let reason = if matches!(problem, RuntimeError::InvalidSpec(_)) { CONFIG_ERROR } else { "CreateContainerError" };
                self.tell(EventType::Warning, "Failed", format!("Error: {problem}"));
                Err(self.failure(reason, problem.to_string(), RETRY_CONFIG))
            }
        }
    }

    /// The running container whose processes an ephemeral one is to see.
    async fn target(&self) -> Result<Option<ContainerId>, String> {
        let ephemeral = spec(&self.pod).ephemeral_containers.iter().flatten().find(|container| container.name == self.container);
        let Some(name) = ephemeral.and_then(|container| container.target_container_name.as_deref()).filter(|name| !name.is_empty()) else { return Ok(None) };
        let containers = self.context.config.runtime.list_containers(Some(&self.sandbox)).await.map_err(|problem| problem.to_string())?;
        let newest = newest(&containers, name).filter(|container| matches!(container.state, ContainerState::Running { .. }));
        newest.map(|container| Some(container.id.clone())).ok_or_else(|| format!("unable to find target container {name}"))
    }

    async fn start(&self, id: &ContainerId, cancel: &CancellationToken) -> Launched {
        let runtime = &self.context.config.runtime;
        if let Err(problem) = runtime.start_container(id).await {
            Metrics::count(&self.context.metrics.failed_starts);
            self.tell(EventType::Warning, "Failed", format!("Error: {problem}"));
            return Launched::Failed(self.failure("RunContainerError", problem.to_string(), SHOW_ERROR));
        }
        Metrics::count(&self.context.metrics.started_containers);
        self.tell(EventType::Normal, "Started", format!("Started container {}", self.container));
        let Some((_, container)) = find_container(&self.pod, &self.container) else { return Launched::Started };
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else { return Launched::Started };
        let target = hooks::Target { pod: &self.pod, container: &container, id, pod_ips: &self.pod_ips };
        let Some(result) = cancel.run_until_cancelled(hooks::run(&self.context, &target, hook)).await else { return Launched::Cancelled };
        let Err(problem) = result else { return Launched::Started };
        self.tell(EventType::Warning, "FailedPostStartHook", "PostStartHook failed".to_owned());
        self.tell(EventType::Normal, "Killing", "FailedPostStartHook".to_owned());
        tracing::warn!(pod = super::full_name(&self.pod), container = self.container, %problem, "postStart hook failed");
        if let Err(problem) = runtime.stop_container(id, Duration::from_secs(2)).await {
            tracing::warn!(container = id.0, %problem, "could not stop a container whose postStart hook failed");
        }
        Launched::Failed(self.failure("PostStartHookError", "PostStartHook failed".to_owned(), SHOW_ERROR))
    }
}
