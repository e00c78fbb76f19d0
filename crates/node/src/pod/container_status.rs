//! What the API shows of one container: state, last state, restarts, image, readiness.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use container_runtime::{ContainerId, ContainerState as Life, ContainerStatus as Observed};
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser,
        LinuxContainerUser, Pod, ResourceRequirements, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Role, annotations, init_containers, plan::{LaunchFailure, ProbeState, crash_loop_message, newest}, resize::shown_resources};

/// What the status of a container depends on.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The pod, with the status the API has.
    pub pod: &'a Pod,
    /// The pod with what it was granted.
    pub granted: &'a Pod,
    /// Its containers in the runtime.
    pub containers: &'a [Observed],
    /// What the probes say.
    pub probes: &'a HashMap<ContainerId, ProbeState>,
    /// Launches that failed before there was a container.
    pub launch_failures: &'a BTreeMap<String, LaunchFailure>,
    /// Containers in their back-off.
    pub crash_loops: &'a BTreeMap<String, Duration>,
    /// Termination messages.
    pub messages: &'a HashMap<ContainerId, String>,
    /// All init containers are done: what has no record then is lost, not new.
    pub initialized: bool,
    /// Nothing of the pod will run any more.
    pub is_terminated: bool,
}

/// The status of one container.
#[must_use]
pub fn container_status(sources: &Sources<'_>, role: Role, container: &Container) -> ContainerStatus {
    let name = &container.name;
    let newest = newest_shown(sources.containers, name);
    let api = api_status(sources.pod, name);
    let (state, last_state) = match newest {
        Some(newest) => observed_states(sources, container, newest, api),
        None => unobserved_states(sources, role, container, api),
    };
    let probes = newest.filter(|newest| matches!(newest.state, Life::Running { .. })).map(|newest| {
        sources.probes.get(&newest.id).copied().unwrap_or(ProbeState {
            started: container.startup_probe.is_none(),
            ready: container.readiness_probe.is_none(),
            failed: None,
        })
    });
    let started = probes.is_some_and(|probes| probes.started);
    let ready = match role {
        Role::Init => state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code == 0),
        Role::Ephemeral => false,
        Role::Main | Role::Sidecar => started && probes.is_some_and(|probes| probes.ready),
    };
    let annotation = |key| newest.and_then(|newest| newest.spec.annotations.get(key)).cloned();
    let has_resources = |resources: &ResourceRequirements| newest.is_some() && (resources.requests.is_some() || resources.limits.is_some());
    let granted = container.resources.clone().filter(has_resources);
    let shown = match newest.filter(|newest| role != Role::Ephemeral && matches!(newest.state, Life::Running { .. })) {
        Some(newest) => Some(shown_resources(sources.granted, container, &newest.spec.resources)).filter(has_resources),
        None => granted.clone(),
    };
    ContainerStatus {
        name: name.clone(),
        image: annotation(annotations::IMAGE).or_else(|| container.image.clone()).unwrap_or_default(),
        image_id: annotation(annotations::IMAGE_REFERENCE).or_else(|| api.map(|api| api.image_id.clone())).unwrap_or_default(),
        container_id: newest.map(|newest| shown_id(&newest.id)).or_else(|| api.and_then(|api| api.container_id.clone())),
        restart_count: newest.map_or_else(|| api.map_or(0, |api| api.restart_count), |newest| i32::try_from(newest.spec.attempt).unwrap_or(i32::MAX)),
        ready,
        started: Some(started),
        last_state: last_state.filter(|state| *state != ContainerState::default()),
        state: Some(state),
        allocated_resources: granted.and_then(|resources| resources.requests),
        resources: shown,
        user: newest.and_then(|newest| newest.user.clone()).map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser { uid, gid, supplemental_groups: Some(groups).filter(|groups| !groups.is_empty()) }),
        }),
        volume_mounts: volume_mounts(container),
        // Only what the pod asks for; the runtime does not tell what the image does.
        stop_signal: newest.and_then(|newest| newest.spec.stop_signal.clone()),
        ..ContainerStatus::default()
    }
}

/// The newest container of a name; while its successor is only being made, that is the one that ended. So a restart is counted when it
/// has come about, and who sees the count sees it run.
fn newest_shown<'a>(all: &'a [Observed], name: &str) -> Option<&'a Observed> {
    let newest = newest(all, name)?;
    if newest.state != Life::Created {
        return Some(newest);
    }
    let earlier = all.iter().filter(|other| other.spec.name == name && other.spec.attempt < newest.spec.attempt);
    Some(earlier.max_by_key(|other| other.spec.attempt).unwrap_or(newest))
}

/// A container's identifier as users see it.
#[must_use]
pub fn shown_id(id: &ContainerId) -> String {
    format!("knarr://{}", id.0)
}

fn api_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|status| status.name == name)
}

fn observed_states(
    sources: &Sources<'_>,
    container: &Container,
    newest: &Observed,
    api: Option<&ContainerStatus>,
) -> (ContainerState, Option<ContainerState>) {
    let previous = sources
        .containers
        .iter()
        .filter(|other| other.spec.name == newest.spec.name && other.spec.attempt < newest.spec.attempt)
        .max_by_key(|other| other.spec.attempt);
    let previous_state = match previous {
        Some(previous) => terminated(sources, previous),
        None => api.filter(|_| newest.spec.attempt > 0).and_then(|api| remembered(newest, api)),
    };
    match &newest.state {
        Life::Running { started_at, .. } => {
            let running = ContainerStateRunning { started_at: Some(Time(*started_at)) };
            (ContainerState { running: Some(running), ..ContainerState::default() }, previous_state)
        }
        Life::Created => match sources.launch_failures.get(&container.name) {
            Some(failure) => (waiting(&failure.reason, &failure.message), previous_state),
            None => (starting(sources.pod), previous_state),
        },
        Life::Exited { .. } => {
            let state = terminated(sources, newest);
            if let Some(failure) = sources.launch_failures.get(&container.name).filter(|_| !sources.is_terminated) {
                return (waiting(&failure.reason, &failure.message), state);
            }
            if let Some(delay) = sources.crash_loops.get(&container.name).filter(|_| !sources.is_terminated) {
                let message = crash_loop_message(sources.pod, &container.name, *delay);
                return (waiting("CrashLoopBackOff", &message), state);
            }
            (state.unwrap_or_default(), previous_state)
        }
    }
}

/// How the container before ended, where only the API knows of it: its record went with a reboot, or was removed.
fn remembered(newest: &Observed, api: &ContainerStatus) -> Option<ContainerState> {
    let state = api.state.as_ref();
    let is_of_newest = api.container_id.as_deref() == Some(shown_id(&newest.id).as_str());
    match state {
        Some(state) if !is_of_newest && state.terminated.is_some() => Some(state.clone()),
        Some(state) if !is_of_newest && state.running.is_some() => Some(lost(LOST_WHILE_RUNNING)),
        _ => api.last_state.clone(),
    }
}

/// The message of a container that was running when it was last heard of.
const LOST_WHILE_RUNNING: &str = "The container could not be located when the pod was deleted.  The container used to be Running";

/// How a container ended of which nobody knows how.
fn lost(message: &str) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some(message.to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

/// States of a container without a record in the runtime: it is new, cannot be started, or was lost with its record.
fn unobserved_states(sources: &Sources<'_>, role: Role, container: &Container, api: Option<&ContainerStatus>) -> (ContainerState, Option<ContainerState>) {
    let old_state = api.and_then(|api| api.state.clone()).unwrap_or_default();
    let old_last = api.and_then(|api| api.last_state.clone());
    if old_state.terminated.is_some() {
        return (old_state, old_last);
    }
    if sources.is_terminated {
        return match (sources.initialized, role) {
            (true, Role::Main | Role::Sidecar) => (lost("The container could not be located when the pod was terminated"), old_last),
            _ => (Some(old_state).filter(|state| *state != ContainerState::default()).unwrap_or_else(|| starting(sources.pod)), old_last),
        };
    }
    let last = if old_state.running.is_some() {
        Some(lost(LOST_WHILE_RUNNING))
    } else {
        old_last
    };
    match sources.launch_failures.get(&container.name) {
        Some(failure) => (waiting(&failure.reason, &failure.message), last),
        None => (starting(sources.pod), last),
    }
}

/// The waiting state of a container whose turn has not come or that is being made.
fn starting(pod: &Pod) -> ContainerState {
    let reason = if init_containers(pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    waiting(reason, "")
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = Some(message.to_owned()).filter(|message| !message.is_empty());
    ContainerState { waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }), ..ContainerState::default() }
}

/// What all termination messages of a pod may take together, in bytes; each container has an equal part of it. Source: Kubernetes 1.36,
/// `MaxPodTerminationMessageLogLength`, `normalizeStatus`.
const ALL_MESSAGES: usize = 12 * 1024;

/// A termination message as far as its container's part of the pod's limit goes.
fn part_of_message(pod: &Pod, message: &str) -> String {
    let most = ALL_MESSAGES / super::containers(pod).count().max(1);
    let end = (0..=most.min(message.len())).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    message.get(..end).unwrap_or_default().to_owned()
}

/// The terminated state of an ended container.
fn terminated(sources: &Sources<'_>, container: &Observed) -> Option<ContainerState> {
    let Life::Exited { started_at, exit } = &container.state else { return None };
    let reason = match exit {
        exit if exit.unknown => "ContainerStatusUnknown",
        exit if exit.out_of_memory => "OOMKilled",
        exit if started_at.is_none() && !exit.message.is_empty() => "StartError",
        exit if exit.code == 0 => "Completed",
        _ => "Error",
    };
    let message = if exit.message.is_empty() { sources.messages.get(&container.id).cloned() } else { Some(exit.message.clone()) };
    Some(ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(shown_id(&container.id)),
            exit_code: exit.code,
            finished_at: Some(Time(exit.finished_at)),
            started_at: started_at.map(Time).or(Some(Time(exit.finished_at))),
            reason: Some(reason.to_owned()),
            message: message.filter(|message| !message.is_empty()).map(|message| part_of_message(sources.pod, &message)),
            signal: None,
        }),
        ..ContainerState::default()
    })
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<_> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: mount.read_only.unwrap_or(false).then(|| match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled".to_owned(),
                _ => "Disabled".to_owned(),
            }),
            ..VolumeMountStatus::default()
        })
        .collect();
    Some(mounts).filter(|mounts| !mounts.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn termination_messages_share_what_the_pod_may_say() {
        let pod = |count: usize| -> Pod {
            let containers: Vec<_> = (0..count).map(|number| json!({ "name": format!("c{number}"), "image": "i" })).collect();
            serde_json::from_value(json!({ "metadata": {}, "spec": { "initContainers": [{ "name": "i", "image": "i" }], "containers": containers } })).unwrap()
        };
        let length = |count, message: &str| part_of_message(&pod(count), message).len();
        let message = "x".repeat(4096);
        assert_eq!((length(1, &message), length(2, &message), length(3, &message), length(11, &message)), (4096, 4096, 3072, 1024));
        assert_eq!(length(3, &"é".repeat(2000)), 3072, "no character is cut");
        assert_eq!(length(2, "\u{20ac}"), 3);
    }
}
