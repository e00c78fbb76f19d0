//! What pods use of a quota. A pod that has ended uses nothing; one that the quota's scopes leave out neither.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceQuota, ScopedResourceSelectorRequirement};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meta::quantity::Quantity as Amount;

use super::Pods;
use crate::pods;

/// What all pods use of something; `None` when it is nothing that pods use.
pub(super) fn amount(name: &str, quota: &ResourceQuota, all: &Pods) -> Option<Amount> {
    let scoped = |pod: &&std::sync::Arc<Pod>| in_scope(quota, pod);
    if name == "count/pods" {
        return Some(Amount::from_integer(all.iter().filter(scoped).count() as i64));
    }
    let using = all.iter().filter(|pod| !pods::is_finished(pod)).filter(scoped);
    if name == "pods" {
        return Some(Amount::from_integer(using.count() as i64));
    }
    let (kind, resource) = match name.split_once('.') {
        Some(("requests", "storage")) => return None,
        Some((kind @ ("requests" | "limits"), resource)) => (kind, resource),
        _ if matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") => ("requests", name),
        _ => return None,
    };
    Some(using.fold(Amount::from_integer(0), |sum, pod| sum.add(&of_pod(pod, kind, resource))))
}

fn of_container(container: &Container, kind: &str, resource: &str) -> Amount {
    let list: Option<&BTreeMap<String, Quantity>> =
        container.resources.as_ref().and_then(|resources| if kind == "limits" { resources.limits.as_ref() } else { resources.requests.as_ref() });
    list.and_then(|list| Amount::parse(&list.get(resource)?.0).ok()).unwrap_or_else(|| Amount::from_integer(0))
}

/// What a pod asks for: its containers together with the init containers that go on running, or the largest of the other init containers
/// with those that run beside it; and the overhead of its runtime.
/// Source: Kubernetes 1.36, `PodRequests`.
fn of_pod(pod: &Pod, kind: &str, resource: &str) -> Amount {
    let Some(spec) = &pod.spec else { return Amount::from_integer(0) };
    let zero = || Amount::from_integer(0);
    let running = spec.containers.iter().fold(zero(), |sum, container| sum.add(&of_container(container, kind, resource)));
    let mut sidecars = zero();
    let mut largest = zero();
    for container in spec.init_containers.iter().flatten() {
        let own = of_container(container, kind, resource);
        let at_its_time = if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.add(&own);
            sidecars
        } else {
            sidecars.add(&own)
        };
        largest = larger(largest, at_its_time);
    }
    let mut total = larger(running.add(&sidecars), largest);
    if let Some(overhead) = spec.overhead.as_ref().and_then(|overhead| Amount::parse(&overhead.get(resource)?.0).ok()) {
        total = total.add(&overhead);
    }
    total
}

fn larger(one: Amount, other: Amount) -> Amount {
    if one.sub(&other).signum() >= 0 { one } else { other }
}

/// Whether a pod is one that the quota is about.
fn in_scope(quota: &ResourceQuota, pod: &Pod) -> bool {
    let Some(spec) = &quota.spec else { return true };
    let by_name = spec.scopes.iter().flatten().all(|scope| {
        let requirement = ScopedResourceSelectorRequirement { scope_name: scope.clone(), operator: "Exists".to_owned(), values: None };
        matches(&requirement, pod)
    });
    let selector = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    by_name && selector.into_iter().all(|requirement| matches(requirement, pod))
}

fn matches(requirement: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let is_terminating = spec.active_deadline_seconds.is_some();
    match requirement.scope_name.as_str() {
        "Terminating" => is_terminating,
        "NotTerminating" => !is_terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => reaches_other_namespaces(pod),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().filter(|class| !class.is_empty());
            let listed = class.is_some_and(|class| requirement.values.iter().flatten().any(|value| value == class));
            match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => class.is_some(),
                "DoesNotExist" => class.is_none(),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether no container asks for any processor time or memory, or limits them.
fn is_best_effort(pod: &Pod) -> bool {
    let spec = pod.spec.iter();
    let mut containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let asks = |container: &Container| {
        let names = ["cpu", "memory"];
        ["requests", "limits"].into_iter().any(|kind| names.into_iter().any(|name| !of_container(container, kind, name).is_zero()))
    };
    !containers.any(asks)
}

fn reaches_other_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return false };
    let affine = affinity.pod_affinity.iter().flat_map(|affinity| {
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().map(|term| &term.pod_affinity_term);
        affinity.required_during_scheduling_ignored_during_execution.iter().flatten().chain(preferred)
    });
    let averse = affinity.pod_anti_affinity.iter().flat_map(|affinity| {
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().map(|term| &term.pod_affinity_term);
        affinity.required_during_scheduling_ignored_during_execution.iter().flatten().chain(preferred)
    });
    affine.chain(averse).any(|term| term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn pod(spec: serde_json::Value) -> Arc<Pod> {
        serde_json::from_value(json!({ "spec": spec })).map(Arc::new).unwrap()
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({ "name": "a", "resources": { "requests": { "cpu": cpu } } })
    }

    fn check(quota: serde_json::Value, name: &str, pods: &Pods, expected: &str) {
        let quota: ResourceQuota = serde_json::from_value(json!({ "spec": quota })).unwrap();
        assert_eq!(amount(name, &quota, pods).unwrap().to_string(), expected);
    }

    #[test]
    fn a_pod_uses_what_it_needs_at_its_busiest_moment() {
        let big_start = pod(json!({ "containers": [container("1")], "initContainers": [container("3")] }));
        let with_sidecar = pod(json!({ "containers": [container("1")], "initContainers": [{ "name": "s", "restartPolicy": "Always", "resources": { "requests": { "cpu": "500m" } } }] }));
        check(json!({}), "requests.cpu", std::slice::from_ref(&big_start), "3");
        check(json!({}), "cpu", &[big_start, with_sidecar], "4500m");
    }

    #[test]
    fn scopes_leave_pods_out() {
        let pods = [pod(json!({ "containers": [{ "name": "a" }] })), pod(json!({ "containers": [container("1")], "activeDeadlineSeconds": 5, "priorityClassName": "high" }))];
        check(json!({ "scopes": ["BestEffort"] }), "pods", &pods, "1");
        check(json!({ "scopes": ["Terminating"] }), "pods", &pods, "1");
        check(json!({ "scopes": ["NotTerminating", "NotBestEffort"] }), "pods", &pods, "0");
        let high = json!({ "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "In", "values": ["high"] }] });
        check(json!({ "scopeSelector": high }), "requests.cpu", &pods, "1");
    }
}
