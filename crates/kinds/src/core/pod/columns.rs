//! `kubectl get pods`: readiness, the one word for what a pod is up to, and its restarts.
//!
//! Source: Kubernetes `pkg/printers/internalversion/printers.go`, `printPod`.

use api::core::v1::{ContainerStatus, Pod};
use jiff::Timestamp;
use meta::Object;
use serde_json::Value;

use crate::{cells, strategy::Column};

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Ready", "Containers that are ready, of all."),
    Column::text("Status", "What the pod is up to."),
    Column::text("Restarts", "How often its containers were started anew, and when last."),
    Column::AGE,
    Column::text("IP", "Its address.").wide(),
    Column::text("Node", "Where it runs.").wide(),
    Column::text("Nominated Node", "Where room is being made for it.").wide(),
    Column::text("Readiness Gates", "Further conditions it needs to be ready.").wide(),
];

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i32,
    restarted: Option<Timestamp>,
}

fn later(known: Option<Timestamp>, status: &ContainerStatus) -> Option<Timestamp> {
    let finished = status.last_state.as_ref().and_then(|state| state.terminated.as_ref()).and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0);
    known.max(finished)
}

/// Why a container ended: its reason, else its signal or exit code.
fn end_reason(prefix: &str, ended: &api::core::v1::ContainerStateTerminated) -> String {
    match (ended.reason.as_deref().unwrap_or_default(), ended.signal.unwrap_or_default()) {
        ("", 0) => format!("{prefix}ExitCode:{}", ended.exit_code),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

fn summary(pod: &Pod) -> Summary {
    let spec = pod.spec.as_ref();
    let empty = api::core::v1::PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let phase = status.phase.as_deref().unwrap_or_default();
    let mut total = spec.map_or(0, |spec| spec.containers.len());
    let mut ready = 0;
    let mut reason = status.reason.clone().filter(|reason| !reason.is_empty()).unwrap_or_else(|| phase.to_owned());
    let condition = |kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    if condition("PodScheduled").is_some_and(|found| found.reason.as_deref() == Some("SchedulingGated")) {
        "SchedulingGated".clone_into(&mut reason);
    }
    let init_containers = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let is_sidecar = |name: &str| {
        init_containers.iter().any(|container| container.name == name && container.restart_policy.as_deref() == Some("Always"))
    };
    total += init_containers.iter().filter(|container| container.restart_policy.as_deref() == Some("Always")).count();
    let (mut restarts, mut restarted) = (0, None);
    let (mut sidecar_restarts, mut sidecar_restarted) = (0, None);
    let mut initialising = false;
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        restarts += container.restart_count;
        restarted = later(restarted, container);
        let sidecar = is_sidecar(&container.name);
        if sidecar {
            sidecar_restarts += container.restart_count;
            sidecar_restarted = later(sidecar_restarted, container);
        }
        let state = container.state.as_ref();
        let ended = state.and_then(|state| state.terminated.as_ref());
        let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
        if ended.is_some_and(|ended| ended.exit_code == 0) {
            continue;
        }
        if sidecar && container.started == Some(true) {
            if container.ready {
                ready += 1;
            }
            continue;
        }
        reason = if let Some(ended) = ended {
            end_reason("Init:", ended)
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", init_containers.len())
        };
        initialising = true;
        break;
    }
    if !initialising || condition("Initialized").is_some_and(|found| found.status == "True") {
        (restarts, restarted) = (sidecar_restarts, sidecar_restarted);
        let mut any_running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            restarts += container.restart_count;
            restarted = later(restarted, container);
            let state = container.state.as_ref();
            let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
                reason = end_reason("", ended);
            } else if container.ready && state.is_some_and(|state| state.running.is_some()) {
                any_running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && any_running {
            reason = if condition("Ready").is_some_and(|found| found.status == "True") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            "Unknown".clone_into(&mut reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut reason);
        }
    }
    Summary { reason, ready, total, restarts, restarted }
}

/// The cells.
pub fn row(pod: &Pod, raw: &Object, now: Timestamp) -> Vec<Value> {
    let summary = summary(pod);
    let restarts = match summary.restarted {
        Some(when) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, crate::plain::age(Some(when), now)),
        _ => summary.restarts.to_string(),
    };
    let status = pod.status.as_ref();
    let address = status.and_then(|status| {
        status.pod_ips.as_ref().and_then(|all| all.first()).map(|first| first.ip.as_str()).or(status.pod_ip.as_deref())
    });
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let gates_cell = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let met = gates
            .iter()
            .filter(|gate| {
                let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
                conditions.iter().any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
            })
            .count();
        format!("{met}/{}", gates.len())
    };
    vec![
        raw.name().into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        cells::created(raw),
        cells::or_none(address),
        cells::or_none(pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())),
        cells::or_none(status.and_then(|status| status.nominated_node_name.as_deref())),
        gates_cell.into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(status: Value, ready: &str, word: &str, restarts: &str) {
        let raw = Object::from_value(json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}, "status": status}))
            .unwrap();
        let pod: Pod = raw.decode().unwrap();
        let row = row(&pod, &raw, "2026-01-01T00:10:00Z".parse().unwrap());
        assert_eq!((&row[1], &row[2], &row[3]), (&json!(ready), &json!(word), &json!(restarts)));
    }

    #[test]
    fn one_word_tells_what_a_pod_is_up_to() {
        check(json!({"phase": "Pending"}), "0/1", "Pending", "0");
        check(json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}), "0/1", "Init:0/1", "0");
        check(
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}}}]}),
            "1/1",
            "Running",
            "2 (5m ago)",
        );
        check(json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}}]}), "0/1", "ExitCode:3", "0");
        check(
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "0/1",
            "CrashLoopBackOff",
            "0",
        );
    }
}
