//! What the API shows of a pod, as a pure function, and the smallest patch that brings it there.
//! Source: Kubernetes 1.36, `pkg/kubelet`, `generateAPIPodStatus` and `getPhase`.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use container_runtime::{ContainerId, ContainerState, ContainerStatus as Observed};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Map, Value, json};

use super::{
    Role, conditions,
    container_status::{Sources, container_status},
    containers,
    plan::{EVICTED, Ended, PREEMPTED, SHUT_DOWN, LaunchFailure, ProbeState, newest},
    qos::qos_class,
    resize::Progress,
    restart::{could_restart_all, is_restarting_all},
    spec, uid, uses_host_network,
};

/// Everything a pod's status depends on.
#[derive(Debug, Clone, Copy)]
pub struct StatusInput<'a> {
    /// The pod, with the status the API has.
    pub pod: &'a Pod,
    /// The same with the resources that it was granted.
    pub granted: &'a Pod,
    /// What became of a change of its resources.
    pub progress: &'a Progress,
    /// The time.
    pub now: Timestamp,
    /// Its containers in the runtime.
    pub containers: &'a [Observed],
    /// It has a sandbox with a network.
    pub has_sandbox: bool,
    /// Its addresses, the primary one first.
    pub pod_ips: &'a [IpAddr],
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// What the probes say.
    pub probes: &'a HashMap<ContainerId, ProbeState>,
    /// Launches that failed before there was a container.
    pub launch_failures: &'a BTreeMap<String, LaunchFailure>,
    /// Containers in their back-off.
    pub crash_loops: &'a BTreeMap<String, Duration>,
    /// Termination messages.
    pub messages: &'a HashMap<ContainerId, String>,
    /// How it ended, where it did.
    pub ended: Option<&'a Ended>,
    /// Containers that ended are started anew, whatever the restart policy says.
    pub is_replacing: bool,
    /// Nothing of it runs, and nothing will.
    pub is_terminated: bool,
}

/// The status of a pod.
#[must_use]
pub fn pod_status(input: &StatusInput<'_>) -> PodStatus {
    let pod = input.pod;
    let initialized = is_initialized(input);
    let sources = Sources {
        pod,
        granted: input.granted,
        containers: input.containers,
        probes: input.probes,
        launch_failures: input.launch_failures,
        crash_loops: input.crash_loops,
        messages: input.messages,
        initialized,
        is_terminated: input.is_terminated,
    };
    let statuses: Vec<(Role, ContainerStatus)> =
        containers(input.granted).map(|(role, container)| (role, container_status(&sources, role, &container))).collect();
    let old = pod.status.clone().unwrap_or_default();
    let (mut phase, mut reason, mut message) = (phase(input, &statuses, initialized), None, None);
    let still_runs = statuses.iter().any(|(_, status)| status.state.as_ref().is_some_and(|state| state.running.is_some()));
    if let Some(old_phase) = old.phase.as_deref().filter(|phase| matches!(*phase, "Succeeded" | "Failed")) {
        phase = if old_phase == "Failed" { "Failed" } else { "Succeeded" };
        (reason, message) = (old.reason.clone(), old.message.clone());
    } else if let Some(ended) = input.ended {
        // A terminal phase is told only once nothing runs: others take it as leave to reuse what the pod held.
        if input.is_terminated && !still_runs {
            phase = ended.phase;
            (reason, message) = (ended.reason.clone(), ended.message.clone());
        } else if matches!(phase, "Succeeded" | "Failed") {
            phase = if old.phase.as_deref() == Some("Pending") { "Pending" } else { "Running" };
        }
    } else if matches!(phase, "Succeeded" | "Failed") && !input.is_terminated {
        phase = if old.phase.as_deref() == Some("Running") { "Running" } else { "Pending" };
    }
    let pod_ips: Vec<PodIP> = if uses_host_network(pod) {
        if input.has_sandbox || !old.pod_ips.clone().unwrap_or_default().is_empty() { input.host_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect() } else { Vec::new() }
    } else if input.pod_ips.is_empty() && (input.is_terminated || input.ended.is_some()) {
        old.pod_ips.clone().unwrap_or_default()
    } else {
        input.pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()
    };
    let mut conditions = conditions::conditions(pod, phase, input.has_sandbox, initialized, &statuses, input.now);
    if let Some(ended) = input.ended {
        let words = match ended.reason.as_deref() {
            Some(EVICTED | SHUT_DOWN) => ended.message.as_deref(),
            Some(PREEMPTED) => Some("Pod was preempted by Kubelet to accommodate a critical pod."),
            _ => None,
        };
        conditions.extend(words.map(|words| conditions::disruption(pod, words, input.now)));
    }
    if could_restart_all(pod) {
        conditions.push(conditions::restarting_all(pod, phase, is_restarting_all(pod, input.containers), input.now));
    }
    conditions.extend(conditions::resize(pod, input.progress, input.now));
    let whole = spec(input.granted).resources.clone().filter(|_| input.has_sandbox);
    let of = |wanted: &[Role]| {
        let list: Vec<_> = statuses.iter().filter(|(role, _)| wanted.contains(role)).map(|(_, status)| status.clone()).collect();
        Some(list).filter(|list| !list.is_empty())
    };
    PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        init_container_statuses: of(&[Role::Init, Role::Sidecar]),
        container_statuses: of(&[Role::Main]),
        ephemeral_container_statuses: of(&[Role::Ephemeral]),
        host_ip: input.host_ips.first().map(ToString::to_string),
        host_ips: Some(input.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: pod_ips.first().map(|ip| ip.ip.clone()),
        pod_ips: Some(pod_ips).filter(|ips| !ips.is_empty()),
        start_time: old.start_time.clone().or(Some(Time(input.now))),
        qos_class: old.qos_class.clone().or_else(|| Some(qos_class(pod).name().to_owned())),
        observed_generation: pod.metadata.generation,
        allocated_resources: whole.as_ref().and_then(|whole| whole.requests.clone()),
        resources: whole,
        ..PodStatus::default()
    }
}

/// A status for a pod that was never run here: refused on admission, or evicted.
#[must_use]
pub fn failed_status(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        start_time: pod.status.as_ref().and_then(|status| status.start_time.clone()).or(Some(Time(now))),
        qos_class: Some(qos_class(pod).name().to_owned()),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Whether the main containers may run: all init containers are done, all sidecars started; or one of the main ones ran.
fn is_initialized(input: &StatusInput<'_>) -> bool {
    if spec(input.pod).containers.iter().any(|container| newest(input.containers, &container.name).is_some()) {
        return true;
    }
    containers(input.pod).all(|(role, container)| match role {
        Role::Main | Role::Ephemeral => true,
        Role::Init => matches!(newest(input.containers, &container.name).map(|newest| &newest.state),
            Some(ContainerState::Exited { exit, .. }) if exit.code == 0),
        Role::Sidecar => newest(input.containers, &container.name).is_some_and(|newest| {
            matches!(newest.state, ContainerState::Running { .. })
                && input.probes.get(&newest.id).map_or(container.startup_probe.is_none(), |probes| probes.started)
        }),
    })
}

fn phase(input: &StatusInput<'_>, statuses: &[(Role, ContainerStatus)], initialized: bool) -> &'static str {
    let policy = spec(input.pod).restart_policy.as_deref().unwrap_or("Always");
    let state = |status: &ContainerStatus| status.state.clone().unwrap_or_default();
    if !initialized {
        let failed = statuses
            .iter()
            .any(|(role, status)| *role == Role::Init && policy == "Never" && state(status).terminated.is_some_and(|terminated| terminated.exit_code != 0));
        return if failed || input.is_terminated { "Failed" } else { "Pending" };
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for (_, status) in statuses.iter().filter(|(role, _)| *role == Role::Main) {
        let now = state(status);
        if now.running.is_some() {
            running += 1;
        } else if let Some(terminated) = now.terminated {
            stopped += 1;
            succeeded += usize::from(terminated.exit_code == 0);
        } else if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if waiting > 0 {
        return if input.is_terminated { "Failed" } else { "Pending" };
    }
    match (running, stopped) {
        (0, 0) => "Pending",
        (0, stopped) if input.is_terminated => if stopped == succeeded { "Succeeded" } else { "Failed" },
        (0, _) if policy == "Always" || input.is_replacing => "Running",
        (0, stopped) if stopped == succeeded => "Succeeded",
        (0, _) if policy == "Never" => "Failed",
        _ => "Running",
    }
}

/// The strategic merge patch of `/status` that leads from what the API has to what it should have; `None` where nothing
/// differs. It names the UID, so that it can never hit a later pod of the same name.
#[must_use]
pub fn status_patch(pod: &Pod, wanted: &PodStatus) -> Option<Value> {
    let old = tidy(serde_json::to_value(pod.status.as_ref()).unwrap_or_default());
    let new = tidy(serde_json::to_value(wanted).unwrap_or_default());
    let (Value::Object(new), empty) = (new, Map::new()) else { return None };
    let old = old.as_object().unwrap_or(&empty);
    let mut patch = Map::new();
    const OWNED_FIELDS: [&str; 15] = [
        "allocatedResources",
        "phase", "reason", "message", "initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses", "hostIP", "hostIPs", "podIP",
        "podIPs", "startTime", "qosClass", "observedGeneration", "resources",
    ];
    for field in OWNED_FIELDS {
        match (old.get(field), new.get(field)) {
            (old, Some(new)) if old != Some(new) => {
                let mut value = new.clone();
                // These two merge by address; an address that is gone must go.
                if let (Value::Array(list), "podIPs" | "hostIPs", Some(_)) = (&mut value, field, old) {
                    list.insert(0, json!({ "$patch": "replace" }));
                }
                patch.insert(field.to_owned(), value);
            }
            (Some(_), None) => {
                patch.insert(field.to_owned(), Value::Null);
            }
            _ => {}
        }
    }
    let no_conditions = Vec::new();
    let old_conditions = old.get("conditions").and_then(Value::as_array).unwrap_or(&no_conditions);
    let new_conditions = new.get("conditions").and_then(Value::as_array).unwrap_or(&no_conditions);
    let is_new = |wanted: &Value| new_conditions.iter().any(|condition| condition.get("type") == wanted.get("type"));
    let gone: Vec<Value> = old_conditions
        .iter()
        .filter(|old| old.get("type").and_then(Value::as_str).is_some_and(|kind| conditions::PASSING.contains(&kind)) && !is_new(old))
        .map(|old| json!({ "$patch": "delete", "type": old.get("type") }))
        .collect();
    if !gone.is_empty() || new_conditions.iter().any(|condition| !old_conditions.contains(condition)) {
        let with_gone_fields = new_conditions.iter().map(|condition| {
            // Merging keeps what is not named: a reason that is gone must be named to go.
            let mut condition = condition.clone();
            let before = old_conditions.iter().find(|old| old.get("type") == condition.get("type")).and_then(Value::as_object);
            if let (Some(condition), Some(before)) = (condition.as_object_mut(), before) {
                for key in before.keys().filter(|key| *key != "lastProbeTime") {
                    condition.entry(key.clone()).or_insert(Value::Null);
                }
            }
            condition
        });
        patch.insert("conditions".to_owned(), Value::Array(with_gone_fields.chain(gone).collect()));
    }
    (!patch.is_empty()).then(|| json!({ "metadata": { "uid": uid(pod) }, "status": patch }))
}

/// Drops nulls and empty maps and lists, which the API server does not keep.
fn tidy(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, tidy(value)))
                .filter(|(_, value)| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()) && value.as_array().is_none_or(|list| !list.is_empty()))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(tidy).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
