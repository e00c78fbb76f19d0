//! Stopping one container: preStop hook, stop signal, and a kill at the deadline. The hook of a sidecar may run ahead of the rest.
//! Source: Kubernetes 1.36, `pkg/kubelet/kuberuntime`, `killContainer`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use client::EventType;
use container_runtime::{ContainerId, RuntimeError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{find_container, plan::{FailedProbe, KillReason}};
use crate::{clock::until, config::Context, hooks};

/// What preStop hooks, and others whose turn comes first, leave of the grace period at least.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// How far a stop is when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// At its beginning.
    First,
    /// The hook has run ahead.
    HookHasRun,
    /// It is repeated with an earlier deadline: the hook has run, or is given up.
    Repeated,
}

/// One stop of one container.
pub struct Stop {
    /// What everything shares.
    pub context: Arc<Context>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container's name.
    pub name: String,
    /// The container.
    pub id: ContainerId,
    /// When it is killed if it is still there.
    pub deadline: Timestamp,
    /// Why.
    pub reason: KillReason,
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// How far it is.
    pub stage: Stage,
}

impl Stop {
    /// Stops the container; returns when it has ended.
    ///
    /// # Errors
    /// The runtime could not stop it.
    pub async fn run(self) -> Result<(), RuntimeError> {
        let config = &self.context.config;
        let remaining = || until(self.deadline, config.clock.now());
        let is_in_time = !remaining().is_zero();
        if self.stage == Stage::First {
            self.say_farewell().await;
        }
        let grace = match self.stage {
            Stage::First if is_in_time => remaining().max(LEAST_GRACE),
            Stage::HookHasRun => remaining().max(LEAST_GRACE),
            Stage::First | Stage::Repeated => remaining(),
        };
        config.runtime.stop_container(&self.id, grace).await
    }

    /// Tells of the stop and runs the preStop hook, until the deadline at most.
    pub async fn say_farewell(&self) {
        let message = match self.reason {
                KillReason::PodStops | KillReason::AllRestart => format!("Stopping container {}", self.name),
                KillReason::Probe(FailedProbe::Liveness) => format!("Container {} failed liveness probe, will be restarted", self.name),
                KillReason::Probe(FailedProbe::Startup) => format!("Container {} failed startup probe, will be restarted", self.name),
                KillReason::Resized => format!("Container {} resize requires restart", self.name),
                KillReason::DefinitionChanged => format!("Container {} definition changed, will be restarted", self.name),
        };
        self.context.events.container(&self.pod, &self.name, EventType::Normal, "Killing", message);
        self.pre_stop(until(self.deadline, self.context.config.clock.now())).await;
    }

    async fn pre_stop(&self, grace: Duration) {
        let Some((_, container)) = find_container(&self.pod, &self.name) else { return };
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else { return };
        if grace.is_zero() {
            return;
        }
        let target = hooks::Target { pod: &self.pod, container: &container, id: &self.id, pod_ips: &self.pod_ips };
        let mut ended = std::pin::pin!(self.context.config.clock.sleep(grace));
        let result = tokio::select! {
            result = hooks::run(&self.context, &target, hook) => result,
            () = &mut ended => Err("it took longer than the grace period".to_owned()),
        };
        if let Err(problem) = result {
            self.context.events.container(&self.pod, &self.name, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
            tracing::warn!(pod = super::full_name(&self.pod), container = self.name, %problem, "preStop hook failed");
        }
    }
}
