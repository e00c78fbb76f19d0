//! Requests and limits as cgroup settings, of containers and of whole pods.
//! Source: Kubernetes 1.36, `pkg/kubelet/cm/helpers_linux.go`.

use std::collections::BTreeMap;

use container_runtime::ResourceLimits;
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{Role, containers, qos::{QosClass, qos_class}, spec};
use crate::quantity::{Amount, amount_of};

const MINIMUM_SHARES: i64 = 2;
const MAXIMUM_SHARES: i64 = 262_144;
/// Length of a scheduling period in microseconds.
const PERIOD_MICROSECONDS: i64 = 100_000;
const MINIMUM_QUOTA_MICROSECONDS: i64 = 1000;

/// Weight for an amount of CPU: 1024 for each.
#[must_use]
pub fn cpu_shares(millicores: i64) -> u64 {
    let shares = millicores.saturating_mul(1024) / 1000;
    u64::try_from(shares.clamp(MINIMUM_SHARES, MAXIMUM_SHARES)).unwrap_or(2)
}

fn cpu_quota(millicores: i64) -> i64 {
    (millicores.saturating_mul(PERIOD_MICROSECONDS) / 1000).max(MINIMUM_QUOTA_MICROSECONDS)
}

/// The limits of one container's cgroup. One without a limit of CPU or memory has that of its pod, where that has one as a whole, so that
/// runtimes that look at their own cgroup see what they really can have.
/// Source: Kubernetes 1.36, `pkg/kubelet/kuberuntime/kuberuntime_container_linux.go`, `getCPULimit` and `getMemoryLimit`.
#[must_use]
pub fn container_limits(pod: &Pod, container: &Container) -> ResourceLimits {
    let empty = ResourceRequirements::default();
    let resources = container.resources.as_ref().unwrap_or(&empty);
    let limit = |name| container_limit(pod, container, name);
    let request = |name| amount_of(resources.requests.as_ref(), name);
    let cpu_limit = limit("cpu");
    ResourceLimits {
        cpu_shares: Some(cpu_shares(request("cpu").or(cpu_limit).unwrap_or_default().as_thousandths())),
        cpu_quota_microseconds: cpu_limit.map(|limit| cpu_quota(limit.as_thousandths())),
        cpu_period_microseconds: cpu_limit.map(|_| PERIOD_MICROSECONDS.unsigned_abs()),
        memory_bytes: limit("memory").map(Amount::as_units),
        memory_request_bytes: request("memory").filter(|amount| !amount.is_zero()).map(Amount::as_units),
        pids: None,
        huge_page_bytes: huge_pages(resources.limits.as_ref()),
    }
}

/// A container's limit of a resource, or that of its whole pod where it has none of its own.
#[must_use]
pub fn container_limit(pod: &Pod, container: &Container, resource: &str) -> Option<Amount> {
    let of = |resources: Option<&ResourceRequirements>| amount_of(resources?.limits.as_ref(), resource).filter(|amount| !amount.is_zero());
    of(container.resources.as_ref()).or_else(|| of(spec(pod).resources.as_ref()))
}

fn huge_pages(limits: Option<&BTreeMap<String, Quantity>>) -> BTreeMap<String, u64> {
    let sizes = limits.into_iter().flatten().filter_map(|(name, quantity)| Some((name.strip_prefix("hugepages-")?, quantity)));
    sizes
        .filter_map(|(size, quantity)| {
            let bytes = u64::try_from(Amount::parse(&quantity.0)?.as_units()).ok()?;
            // The kernel names sizes without the `i`: `2MB`, `1GB`.
            Some((size.replace('i', "B"), bytes))
        })
        .collect()
}

/// The limits of the whole pod's cgroup: of what its containers ask for together, limits only where every one has them.
#[must_use]
pub fn pod_limits(pod: &Pod) -> ResourceLimits {
    let requested = |name: &str| pod_request(pod, name);
    let limited = |name: &str| pod_limit(pod, name);
    let class = qos_class(pod);
    let cpu_limit = limited("cpu").filter(|_| class != QosClass::BestEffort);
    let huge = containers(pod).fold(BTreeMap::new(), |mut sum: BTreeMap<String, u64>, (_, container)| {
        for (size, bytes) in huge_pages(container.resources.as_ref().and_then(|resources| resources.limits.as_ref())) {
            *sum.entry(size).or_default() += bytes;
        }
        sum
    });
    ResourceLimits {
        cpu_shares: Some(cpu_shares(requested("cpu").as_thousandths())),
        cpu_quota_microseconds: cpu_limit.map(|limit| cpu_quota(limit.as_thousandths())),
        cpu_period_microseconds: cpu_limit.map(|_| PERIOD_MICROSECONDS.unsigned_abs()),
        memory_bytes: limited("memory").filter(|_| class != QosClass::BestEffort).map(Amount::as_units),
        memory_request_bytes: None,
        pids: None,
        huge_page_bytes: huge,
    }
}

/// What a pod asks for of one resource: containers and sidecars together, or the largest init container beside the
/// sidecars before it, whichever is more; plus overhead. Source: KEP-753, "Resources calculation".
#[must_use]
pub fn pod_request(pod: &Pod, resource: &str) -> Amount {
    let overhead = amount_of(spec(pod).overhead.as_ref(), resource).unwrap_or_default();
    let whole = spec(pod).resources.as_ref().and_then(|resources| amount_of(resources.requests.as_ref(), resource));
    whole.unwrap_or_else(|| containers_request(pod, resource)) + overhead
}

/// What a pod's containers ask for of one resource, whatever the pod asks for as a whole.
#[must_use]
pub fn containers_request(pod: &Pod, resource: &str) -> Amount {
    aggregate(pod, |container| Some(container_request(container, resource))).unwrap_or_default()
}

/// A pod's limit of one resource; none where a container has none.
#[must_use]
pub fn pod_limit(pod: &Pod, resource: &str) -> Option<Amount> {
    let overhead = amount_of(spec(pod).overhead.as_ref(), resource).unwrap_or_default();
    let whole = spec(pod).resources.as_ref().and_then(|resources| amount_of(resources.limits.as_ref(), resource));
    let limit = |container: &Container| {
        container.resources.as_ref().and_then(|resources| amount_of(resources.limits.as_ref(), resource)).filter(|amount| !amount.is_zero())
    };
    whole.or_else(|| aggregate(pod, limit)).map(|limit| limit + overhead)
}

/// What one container asks for: its request, or its limit where there is no request.
#[must_use]
pub fn container_request(container: &Container, resource: &str) -> Amount {
    let Some(resources) = &container.resources else { return Amount::default() };
    amount_of(resources.requests.as_ref(), resource).or_else(|| amount_of(resources.limits.as_ref(), resource)).unwrap_or_default()
}

fn aggregate(pod: &Pod, amount: impl Fn(&Container) -> Option<Amount>) -> Option<Amount> {
    let (mut together, mut sidecars, mut init_peak) = (Amount::default(), Amount::default(), Amount::default());
    for (role, container) in containers(pod) {
        match role {
            Role::Main => together = together + amount(&container)?,
            Role::Sidecar => {
                sidecars = sidecars + amount(&container)?;
                init_peak = init_peak.max(sidecars);
            }
            Role::Init => init_peak = init_peak.max(sidecars + amount(&container)?),
            Role::Ephemeral => {}
        }
    }
    Some((together + sidecars).max(init_peak))
}

/// Where a pod's cgroup lies below the runtime's root.
#[must_use]
pub fn cgroup_parent(pod: &Pod) -> String {
    let pod_directory = format!("pod{}", super::uid(pod));
    match qos_class(pod) {
        QosClass::Guaranteed => pod_directory,
        QosClass::Burstable => format!("burstable/{pod_directory}"),
        QosClass::BestEffort => format!("besteffort/{pod_directory}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "a", "uid": "u" }, "spec": spec })).unwrap()
    }

    #[test]
    fn limits_become_quota_and_shares() {
        let pod = pod(json!({ "containers": [{ "name": "a", "resources": {
            "requests": { "cpu": "250m", "memory": "64Mi" }, "limits": { "cpu": "500m", "memory": "128Mi" } } }] }));
        let limits = container_limits(&pod, &spec(&pod).containers[0]);
        assert_eq!((limits.cpu_shares, limits.cpu_quota_microseconds, limits.memory_bytes), (Some(256), Some(50_000), Some(128 << 20)));
        assert_eq!(cgroup_parent(&pod), "burstable/podu");
        assert_eq!(pod_limits(&pod).memory_bytes, Some(128 << 20));
    }

    #[test]
    fn a_pod_without_requests_is_best_effort_and_unlimited() {
        let pod = pod(json!({ "containers": [{ "name": "a" }] }));
        assert_eq!(cgroup_parent(&pod), "besteffort/podu");
        let limits = pod_limits(&pod);
        assert_eq!((limits.cpu_shares, limits.cpu_quota_microseconds, limits.memory_bytes), (Some(2), None, None));
    }

    #[test]
    fn one_container_without_a_limit_leaves_the_pod_unlimited() {
        let pod = pod(json!({ "containers": [{ "name": "a", "resources": { "limits": { "memory": "1Gi" } } }, { "name": "b" }] }));
        assert_eq!(pod_limits(&pod).memory_bytes, None);
    }

    #[test]
    fn a_container_without_a_limit_has_its_pods() {
        let check = |own: serde_json::Value, expected: (u64, Option<i64>, Option<i64>)| {
            let pod = pod(json!({
                "resources": { "requests": { "cpu": "1" }, "limits": { "cpu": "2", "memory": "1Gi" } },
                "containers": [{ "name": "a", "resources": own }] }));
            let limits = container_limits(&pod, &spec(&pod).containers[0]);
            assert_eq!((limits.cpu_shares.unwrap(), limits.cpu_quota_microseconds, limits.memory_bytes), expected);
        };
        check(json!({}), (2048, Some(200_000), Some(1 << 30)));
        check(json!({ "requests": { "cpu": "500m" } }), (512, Some(200_000), Some(1 << 30)));
        check(json!({ "limits": { "cpu": "500m" } }), (512, Some(50_000), Some(1 << 30)));
        check(json!({ "limits": { "memory": "64Mi" }, "requests": { "cpu": "1" } }), (1024, Some(200_000), Some(64 << 20)));
    }

    #[test]
    fn sidecars_count_beside_init_and_main_containers() {
        let ask = |cpu: &str| json!({ "requests": { "cpu": cpu } });
        let pod = pod(json!({
            "initContainers": [
                { "name": "s", "restartPolicy": "Always", "resources": ask("1") },
                { "name": "i", "resources": ask("3") } ],
            "containers": [{ "name": "a", "resources": ask("2") }] }));
        assert_eq!(pod_request(&pod, "cpu"), Amount::units(4));
    }
}
