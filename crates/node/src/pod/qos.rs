//! Quality of service classes: whose memory is taken first when a node runs short.
//! Source: Kubernetes documentation, "Pod Quality of Service Classes"; scores from `pkg/kubelet/qos/policy.go`.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Role, containers};
use crate::quantity::amount_of;

/// A pod's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits for CPU and memory, equal to its requests.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl QosClass {
    /// As in `status.qosClass`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod.
#[must_use]
pub fn qos_class(pod: &Pod) -> QosClass {
    let amount = |list: Option<&std::collections::BTreeMap<_, _>>, name| amount_of(list, name).filter(|amount| !amount.is_zero());
    let mut guaranteed = true;
    let mut any = false;
    let pod_level = super::spec(pod).resources.as_ref();
    let judged: Vec<_> = match pod_level.filter(|resources| resources.requests.is_some() || resources.limits.is_some()) {
        Some(resources) => vec![resources.clone()],
        None => containers(pod)
            .filter(|(role, _)| *role != Role::Ephemeral)
            .map(|(_, container)| container.resources.clone().unwrap_or_default())
            .collect(),
    };
    for resources in &judged {
        for name in ["cpu", "memory"] {
            let limit = amount(resources.limits.as_ref(), name);
            let request = amount(resources.requests.as_ref(), name).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// How readily the kernel kills a container's processes when memory runs out: -997 (last) to 1000 (first). What the pod asks for as a whole
/// beyond its containers is theirs in equal parts; a sidecar is never killed sooner than the least of the containers it serves.
/// Source: Kubernetes 1.36, `GetContainerOOMScoreAdjust`.
#[must_use]
pub fn oom_score_adjust(pod: &Pod, container: &Container, memory_capacity_bytes: u64) -> i32 {
    let spec = super::spec(pod);
    let is_critical = spec.priority.unwrap_or(0) >= 2_000_000_000;
    if is_critical && spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return -997;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = |container: &Container| container.resources.as_ref().and_then(|resources| amount_of(resources.requests.as_ref(), "memory")).unwrap_or_default().as_units();
            let mut counted = request(container);
            let is_sidecar_here = super::is_sidecar(container) && super::init_containers(pod).iter().any(|init| init.name == container.name);
            if is_sidecar_here && let Some(least) = spec.containers.iter().map(request).min() {
                counted = counted.max(least);
            }
            let capacity = i128::from(memory_capacity_bytes.max(1));
            let share = i128::from(counted.saturating_add(unassigned_memory(pod))) * 1000 / capacity;
            let score = 1000 - i32::try_from(share).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

/// The memory a pod asks for as a whole beyond what its containers do, for each of them.
fn unassigned_memory(pod: &Pod) -> i64 {
    let whole = super::spec(pod).resources.as_ref().and_then(|resources| amount_of(resources.requests.as_ref(), "memory")).filter(|amount| !amount.is_zero());
    let count = super::spec(pod).containers.len() + super::init_containers(pod).len();
    let (Some(whole), Ok(count)) = (whole, i64::try_from(count.max(1))) else { return 0 };
    whole.as_units().saturating_sub(super::resources::containers_request(pod, "memory").as_units()).max(0) / count
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The score of the container called `c`, of `capacity` 1000 bytes.
    #[track_caller]
    fn check(spec: Value, expected: i32) {
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": spec })).unwrap();
        let (_, container) = super::super::find_container(&pod, "c").unwrap();
        assert_eq!(oom_score_adjust(&pod, &container, 1000), expected);
    }

    #[test]
    fn the_score_falls_with_what_is_asked_for() {
        let asks = |memory: &str| json!({ "name": "c", "resources": { "requests": { "memory": memory } } });
        check(json!({ "containers": [asks("100")] }), 900);
        check(json!({ "containers": [asks("1")] }), 999);
        check(json!({ "containers": [asks("2000")] }), 3);
        check(json!({ "containers": [{ "name": "c" }] }), 1000);
        let whole = json!({ "limits": { "cpu": "1", "memory": "10" } });
        check(json!({ "containers": [{ "name": "c", "resources": whole }] }), -997);
        check(json!({ "containers": [asks("100")], "priority": 2_000_001_000, "priorityClassName": "system-node-critical" }), -997);
        check(json!({ "containers": [asks("100")], "priority": 2_000_000_000, "priorityClassName": "system-cluster-critical" }), 900);
    }

    #[test]
    fn what_only_the_pod_asks_for_is_shared() {
        let asks = |name: &str, memory: &str| json!({ "name": name, "resources": { "requests": { "memory": memory } } });
        check(json!({ "resources": { "requests": { "memory": "400" } }, "containers": [asks("c", "100"), { "name": "d" }] }), 750);
        check(json!({ "resources": { "requests": { "cpu": "1" } }, "containers": [asks("c", "100")] }), 900);
    }

    #[test]
    fn a_sidecar_is_not_killed_before_what_it_serves() {
        let asks = |name: &str, memory: &str| json!({ "name": name, "resources": { "requests": { "memory": memory } } });
        let sidecar = json!({ "name": "c", "restartPolicy": "Always", "resources": { "requests": { "memory": "10" } } });
        check(json!({ "initContainers": [sidecar], "containers": [asks("a", "300"), asks("b", "200")] }), 800);
        check(json!({ "initContainers": [sidecar], "containers": [asks("a", "5")] }), 990);
    }
}
