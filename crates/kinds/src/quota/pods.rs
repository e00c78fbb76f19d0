//! What a pod uses: what its containers ask for at its busiest moment. A pod that has ended uses nothing but its place in
//! the store.

use std::collections::BTreeMap;

use api::{
    apimachinery::pkg::api::resource::Quantity as Written,
    core::v1::{Container, Pod},
};
use meta::quantity::Quantity;

/// What a quota can demand that every container says. Source: Kubernetes `pkg/quota/v1/evaluator/core/pods.go`.
const MUST_BE_SAID: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// Whether a pod has ended, and gave back what it used.
fn has_ended(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

/// `requests` or `limits`, and of what; none where pods do not use such a thing.
fn place(name: &str) -> Option<(&str, &str)> {
    match name.split_once('.') {
        Some(("requests", "storage")) => None,
        Some((kind @ ("requests" | "limits"), resource)) => Some((kind, resource)),
        _ if matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") => Some(("requests", name)),
        _ => None,
    }
}

/// Whether pods use what a quota calls `name`.
pub fn concerns(name: &str) -> bool {
    matches!(name, "pods" | "count/pods") || place(name).is_some()
}

/// What a pod uses of what a quota calls `name`; none where pods use no such thing.
pub fn amount(pod: &Pod, name: &str) -> Option<Quantity> {
    let ended = has_ended(pod);
    match name {
        "count/pods" => Some(Quantity::from_integer(1)),
        "pods" => Some(Quantity::from_integer(i64::from(!ended))),
        _ => {
            let (kind, resource) = place(name)?;
            Some(if ended { Quantity::from_integer(0) } else { asked(pod, kind, resource) })
        }
    }
}

fn of_list(list: Option<&BTreeMap<String, Written>>, resource: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(resource)?.0).ok()
}

fn of_container(container: &Container, kind: &str, resource: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    of_list(if kind == "limits" { resources.limits.as_ref() } else { resources.requests.as_ref() }, resource)
}

/// What a pod asks for: its containers together with the init containers that go on running, or the largest of the other
/// init containers with those that run beside it; what the pod as a whole says goes before; and the overhead of its runtime.
/// Source: Kubernetes `PodRequests`.
pub fn asked(pod: &Pod, kind: &str, resource: &str) -> Quantity {
    let zero = || Quantity::from_integer(0);
    let Some(spec) = &pod.spec else { return zero() };
    let of = |container: &Container| of_container(container, kind, resource).unwrap_or_else(zero);
    let running = spec.containers.iter().fold(zero(), |sum, container| sum.add(&of(container)));
    let (mut sidecars, mut largest) = (zero(), zero());
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        let at_its_time = if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.add(&own);
            sidecars
        } else {
            sidecars.add(&own)
        };
        largest = larger(largest, at_its_time);
    }
    let mut total = larger(running.add(&sidecars), largest);
    let whole = spec.resources.as_ref().and_then(|resources| of_list(if kind == "limits" { resources.limits.as_ref() } else { resources.requests.as_ref() }, resource));
    if let Some(whole) = whole {
        total = whole;
    }
    if let Some(overhead) = of_list(spec.overhead.as_ref(), resource) {
        total = total.add(&overhead);
    }
    total
}

fn larger(one: Quantity, other: Quantity) -> Quantity {
    if one.sub(&other).signum() >= 0 { one } else { other }
}

/// What containers must say since a quota limits it, but do not: `cpu for: a,b; memory for: b`. None where nothing is missing.
pub fn unsaid<'a>(pod: &Pod, limited: impl Iterator<Item = &'a String>) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in limited.filter(|name| MUST_BE_SAID.contains(&name.as_str())) {
        let Some((kind, resource)) = place(name) else { continue };
        let whole = spec.resources.as_ref().and_then(|resources| of_list(if kind == "limits" { resources.limits.as_ref() } else { resources.requests.as_ref() }, resource));
        if whole.is_some() {
            continue;
        }
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            if of_container(container, kind, resource).is_none() {
                missing.entry(name).or_default().push(&container.name);
            }
        }
    }
    let parts: Vec<String> = missing.iter().map(|(name, containers)| format!("{name} for: {}", containers.join(","))).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
    }

    #[track_caller]
    fn check(spec: Value, name: &str, expected: &str) {
        assert_eq!(amount(&pod(spec), name).unwrap().to_string(), expected);
    }

    #[test]
    fn a_pod_uses_what_it_needs_at_its_busiest_moment() {
        check(json!({"containers": [container("a", "1")], "initContainers": [container("b", "3")]}), "requests.cpu", "3");
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}});
        check(json!({"containers": [container("a", "1")], "initContainers": [sidecar]}), "cpu", "1500m");
        check(json!({"containers": [container("a", "1")], "overhead": {"cpu": "250m"}}), "cpu", "1250m");
        check(json!({"containers": [container("a", "1")], "resources": {"requests": {"cpu": "2"}}}), "cpu", "2");
    }

    #[test]
    fn a_pod_that_has_ended_uses_its_place_only() {
        let mut ended = pod(json!({"containers": [container("a", "1")]}));
        ended.status.get_or_insert_default().phase = Some("Failed".to_owned());
        assert!(amount(&ended, "pods").unwrap().is_zero() && amount(&ended, "cpu").unwrap().is_zero());
        assert_eq!(amount(&ended, "count/pods").unwrap().to_string(), "1");
        assert!(amount(&ended, "services").is_none());
    }

    #[test]
    fn containers_must_say_what_is_limited() {
        let names: Vec<String> = ["requests.cpu", "memory", "pods"].into_iter().map(str::to_owned).collect();
        let two = pod(json!({"containers": [container("a", "1"), {"name": "b"}]}));
        assert_eq!(unsaid(&two, names.iter()).unwrap(), "memory for: a,b; requests.cpu for: b");
        assert_eq!(unsaid(&two, names.iter().skip(2)), None);
    }
}
