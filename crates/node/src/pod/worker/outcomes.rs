//! What the worker's tasks come to, and what the worker learns from it.

use std::{net::IpAddr, sync::{Arc, atomic::Ordering}};

use client::{EventType, revision_of, status_code};
use container_runtime::{ContainerId, ResourceLimits, RuntimeError, SandboxId, SandboxState, SandboxStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    super::{full_name, launch::Launched, plan::{HookState, Need}, sandbox::SandboxError},
    VolumeInputs, Worker,
};
use crate::{api_error::words, clock::after, metrics::Metrics, volume::{Prepared, VolumeError}};

/// What a task of the worker came to.
pub(super) enum Outcome {
    Volumes(Result<Prepared, VolumeError>, Box<VolumeInputs>),
    Sandbox(Result<(Box<SandboxStatus>, Vec<IpAddr>), SandboxError>),
    SandboxStopped(SandboxId, Result<(), String>),
    Launched(String, Launched),
    /// The limits the sandbox has now, and whether all went well.
    Resized(SandboxId, ResourceLimits, Result<(), String>),
    Killed(ContainerId, Timestamp, Result<(), RuntimeError>),
    /// The preStop hook of a sidecar ran, or was cut off.
    HookRan(ContainerId),
    Written(Result<Box<Pod>, client::Error>),
    Released(Result<(), String>),
    Deleted(Result<(), client::Error>),
    /// Something old was removed; nothing follows from it.
    Tidied,
}

impl Worker {
    pub(super) fn take_joined(&mut self, joined: Result<Outcome, tokio::task::JoinError>) {
        match joined {
            Ok(outcome) => self.take(outcome),
            Err(problem) if problem.is_cancelled() => {}
            Err(problem) => {
                // A task panicked: nobody knows how far it came, so everything is looked at anew.
                tracing::error!(pod = full_name(&self.pod), %problem, "a task of a pod's worker failed");
                self.launching = None;
                self.is_resizing = false;
                self.refreshing = false;
                self.writing = false;
                self.deleting = false;
                self.adopting = false;
                self.killing.retain(|_, killing| !killing.task.is_finished());
                for hook in self.hooks.values_mut().filter(|hook| hook.task.is_finished()) {
                    hook.state = HookState::Done;
                }
                if matches!(self.volumes, Need::Busy) {
                    self.volumes = Need::Broken(());
                }
                if matches!(self.sandbox, Need::Busy) {
                    self.sandbox = Need::Missing;
                    self.look_again.store(true, Ordering::Release);
                }
                self.pause_now();
            }
        }
    }

    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Volumes(result, inputs) => {
                self.refreshing = false;
                self.volume_inputs = *inputs;
                match result {
                    Ok(prepared) => {
                        self.prepared = Arc::new(prepared);
                        self.volumes = Need::Ready(());
                        self.pause.reset();
                    }
                    Err(problem) => {
                        self.context.events.pod(&self.pod, EventType::Warning, "FailedMount", problem.to_string());
                        if !matches!(self.volumes, Need::Ready(())) {
                            self.volumes = Need::Broken(());
                        }
                        self.pause_now();
                        // A missing object wakes us when it appears: then there is nothing to wait for.
                        if self.objects.now() != self.volume_inputs.objects {
                            self.pause_until = None;
                        }
                    }
                }
            }
            Outcome::Sandbox(Ok((sandbox, addresses))) => {
                self.adopting = false;
                self.pod_ips = addresses;
                self.sandbox = Need::Ready(sandbox.id.clone());
                if !self.sandboxes.iter().any(|known| known.id == sandbox.id) {
                    Metrics::count(&self.context.metrics.started_pods);
                    self.sandboxes.push(*sandbox);
                }
                self.remove_old_sandboxes();
                self.pause.reset();
            }
            Outcome::Sandbox(Err(problem)) => {
                self.adopting = false;
                self.context.events.pod(&self.pod, EventType::Warning, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {problem}"));
                self.sandbox = match self.sandboxes.last() {
                    Some(newest) if newest.state == SandboxState::Ready => Need::Broken(newest.id.clone()),
                    _ => Need::Missing,
                };
                self.pause_now();
            }
            Outcome::SandboxStopped(id, Ok(())) => {
                for sandbox in self.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id) {
                    sandbox.state = SandboxState::NotReady;
                }
                self.pod_ips.clear();
                self.sandbox = Need::Missing;
                self.pause.reset();
            }
            Outcome::SandboxStopped(id, Err(problem)) => {
                self.context.events.pod(&self.pod, EventType::Warning, "FailedKillPod", format!("error killing pod: {problem}"));
                self.sandbox = Need::Broken(id);
                self.pause_now();
            }
            Outcome::Launched(name, launched) => {
                if self.launching.as_ref().is_some_and(|(launching, _)| *launching == name) {
                    self.launching = None;
                }
                match launched {
                    Launched::Started => {
                        self.launch_failures.remove(&name);
                    }
                    Launched::Failed(failure) => {
                        self.failed_with = self.inputs(self.objects.now());
                        self.launch_failures.insert(name, failure);
                    }
                    Launched::Cancelled => {}
                }
            }
            Outcome::Resized(id, limits, result) => {
                self.is_resizing = false;
                for sandbox in self.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id) {
                    sandbox.spec.resources = limits.clone();
                }
                match result {
                    Ok(()) => {
                        self.progress.error = None;
                        self.pause.reset();
                    }
                    Err(problem) => {
                        if self.progress.error.as_ref() != Some(&problem) {
                            self.tell(EventType::Warning, "ResizeError", "Pod resize error", Some(&problem));
                        }
                        self.progress.error = Some(problem);
                        self.pause_now();
                    }
                }
            }
            Outcome::Killed(id, deadline, result) => {
                if self.killing.get(&id).is_some_and(|killing| killing.deadline == deadline) {
                    self.killing.remove(&id);
                }
                if let Err(problem) = result {
                    tracing::warn!(pod = full_name(&self.pod), container = id.0, %problem, "could not stop a container");
                    self.pause_now();
                }
            }
            Outcome::HookRan(id) => {
                if let Some(hook) = self.hooks.get_mut(&id) {
                    hook.state = HookState::Done;
                }
            }
            Outcome::Written(result) => self.take_written(result),
            Outcome::Released(Ok(())) => {
                self.volumes = Need::Missing;
                self.pause.reset();
            }
            Outcome::Released(Err(problem)) => {
                tracing::warn!(pod = full_name(&self.pod), problem, "could not release a pod's volumes");
                self.volumes = Need::Broken(());
                self.pause_now();
            }
            Outcome::Tidied => {}
            Outcome::Deleted(result) => {
                self.deleting = false;
                match result {
                    Ok(()) => self.is_deleted = true,
                    // Gone already, or replaced by another pod of the same name.
                    Err(problem) if matches!(status_code(&problem), Some(404 | 409)) => self.is_deleted = true,
                    Err(problem) => {
                        tracing::warn!(pod = full_name(&self.pod), problem = words(&problem), "could not delete a stopped pod");
                        self.write_pause_until = Some(after(self.now(), self.write_pause.next_delay()));
                    }
                }
            }
        }
    }

    fn take_written(&mut self, result: Result<Box<Pod>, client::Error>) {
        self.writing = false;
        match result {
            Ok(pod) => {
                self.write_pause.reset();
                if self.is_static {
                    // Somebody may have made another one meanwhile.
                    if self.mirror.as_ref().is_some_and(|mirror| mirror.metadata.uid == pod.metadata.uid && revision_of(&*pod) >= revision_of(&**mirror)) {
                        self.take_mirror(Some(Arc::from(pod)));
                    }
                } else if pod.metadata.uid == self.pod.metadata.uid && revision_of(&*pod) >= revision_of(&*self.pod) {
                    self.pod = Arc::from(pod);
                }
            }
            Err(problem) => {
                // Where the pod is gone (404) or replaced (409), the watch says so soon.
                if !matches!(status_code(&problem), Some(404 | 409)) {
                    tracing::warn!(pod = full_name(&self.pod), problem = words(&problem), "could not write a pod's status");
                }
                self.write_pause_until = Some(after(self.now(), self.write_pause.next_delay()));
            }
        }
    }
}
