//! The pod conditions that the node owns, with upstream's reasons and messages.
//! Source: Kubernetes 1.36, `pkg/kubelet/status/generate.go`.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Role, containers, resize::Progress, spec};

/// The conditions that the node writes; others belong to others and are left alone.
pub const OWNED: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// Conditions that the node writes while something lasts, and takes away afterwards.
pub const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// A condition's status with its reason and message.
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { holds: true, reason: "", message: String::new() }
    }
    fn no(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// The conditions as they are now. Their transition times stay where their status did not change.
#[must_use]
pub fn conditions(
    pod: &Pod,
    phase: &str,
    has_sandbox: bool,
    initialized: bool,
    statuses: &[(Role, ContainerStatus)],
    now: Timestamp,
) -> Vec<PodCondition> {
    let sandbox = if has_sandbox { Verdict::yes() } else { Verdict::no("", String::new()) };
    let ready_containers = containers_ready(pod, phase, statuses);
    let ready = ready(pod, &ready_containers);
    let verdicts = [sandbox, initialized_verdict(pod, phase, initialized, statuses), ready, ready_containers];
    OWNED.into_iter().zip(verdicts).map(|(type_, verdict)| condition(pod, type_, verdict, now)).collect()
}

/// Whether all containers of a pod are being started anew, which is told of pods with a rule that may ask for it.
#[must_use]
pub fn restarting_all(pod: &Pod, phase: &str, is_restarting: bool, now: Timestamp) -> PodCondition {
    let verdict = match phase {
        "Succeeded" => Verdict::no("PodCompleted", String::new()),
        "Failed" => Verdict::no("PodFailed", String::new()),
        _ if is_restarting => Verdict { holds: true, reason: "RestartAllContainersStarted", message: "container exited with restart policy rule".to_owned() },
        _ => Verdict::no("", String::new()),
    };
    condition(pod, "AllContainersRestarting", verdict, now)
}

/// A condition, since when it is so.
fn condition(pod: &Pod, type_: &str, verdict: Verdict, now: Timestamp) -> PodCondition {
    let old = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let status = if verdict.holds { "True" } else { "False" };
    let unchanged = old.iter().find(|old| old.type_ == type_ && old.status == status);
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(verdict.reason.to_owned()).filter(|reason| !reason.is_empty()),
        message: Some(verdict.message).filter(|message| !message.is_empty()),
        last_transition_time: unchanged.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

/// What became of a change of the pod's resources: nothing to say once it is done.
#[must_use]
pub fn resize(pod: &Pod, progress: &Progress, now: Timestamp) -> Vec<PodCondition> {
    let condition = |type_: &str, reason: Option<&str>, message: Option<&String>| PodCondition {
        reason: reason.map(str::to_owned),
        message: message.cloned(),
        ..lasting(pod, type_, now)
    };
    let pending = progress.pending.as_ref().map(|refusal| condition("PodResizePending", Some(refusal.reason), Some(&refusal.message)));
    let error = progress.error.as_ref();
    let in_progress = progress.in_progress.then(|| condition("PodResizeInProgress", error.map(|_| "Error"), error));
    pending.into_iter().chain(in_progress).collect()
}

/// A condition that holds, since when it began to.
fn lasting(pod: &Pod, type_: &str, now: Timestamp) -> PodCondition {
    let old = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let unchanged = old.iter().find(|old| old.type_ == type_ && old.status == "True");
    PodCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        last_transition_time: unchanged.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

/// Says of an evicted pod that it was not its own fault: workload controllers replace it without counting a failure.
#[must_use]
pub fn disruption(pod: &Pod, message: &str, now: Timestamp) -> PodCondition {
    let (reason, message) = (Some("TerminationByKubelet".to_owned()), Some(message.to_owned()));
    PodCondition { reason, message, ..lasting(pod, "DisruptionTarget", now) }
}

fn initialized_verdict(pod: &Pod, phase: &str, initialized: bool, statuses: &[(Role, ContainerStatus)]) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { holds: true, reason: "PodCompleted", message: String::new() };
    }
    if initialized {
        return Verdict::yes();
    }
    let incomplete = containers(pod).filter(|(role, _)| matches!(role, Role::Init | Role::Sidecar)).filter(|(role, container)| {
        !statuses.iter().any(|(_, status)| {
            status.name == container.name
                && match role {
                    Role::Sidecar => status.started == Some(true),
                    _ => status.ready,
                }
        })
    });
    let names: Vec<_> = incomplete.map(|(_, container)| container.name.clone()).collect();
    Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: [{}]", names.join(" ")))
}

fn containers_ready(pod: &Pod, phase: &str, statuses: &[(Role, ContainerStatus)]) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", String::new()),
        "Failed" => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for (role, container) in containers(pod).filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar)) {
        match statuses.iter().find(|(_, status)| status.name == container.name) {
            None if role == Role::Main => unknown.push(container.name.clone()),
            Some((_, status)) if !status.ready => unready.push(container.name.clone()),
            _ => {}
        }
    }
    if unknown.is_empty() && unready.is_empty() {
        return Verdict::yes();
    }
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
    }
    if !unready.is_empty() {
        parts.push(format!("containers with unready status: [{}]", unready.join(" ")));
    }
    Verdict::no("ContainersNotReady", parts.join(", "))
}

fn ready(pod: &Pod, containers: &Verdict) -> Verdict {
    if !containers.holds {
        return Verdict::no(containers.reason, containers.message.clone());
    }
    let old = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let problems: Vec<_> = spec(pod)
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| match old.iter().find(|condition| condition.type_ == gate.condition_type) {
            None => Some(format!("corresponding condition of pod readiness gate \"{}\" does not exist.", gate.condition_type)),
            Some(condition) if condition.status != "True" => {
                Some(format!("the status of pod readiness gate \"{}\" is not \"True\", but {}", gate.condition_type, condition.status))
            }
            Some(_) => None,
        })
        .collect();
    if problems.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", problems.join(", ")) }
}
