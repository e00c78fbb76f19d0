//! Resources of a pod as a whole, `spec.resources`.
//!
//! Source: KEP-2837 and Kubernetes 1.36, `validatePodResources` and `defaultPodRequests`.

use std::collections::BTreeMap;

use api::{
    apimachinery::pkg::api::resource::Quantity,
    core::v1::{Container, PodSpec},
};
use meta::{FieldError, FieldPath, quantity::Quantity as Amount};

type List = BTreeMap<String, Quantity>;

/// Whether a pod as a whole may ask for a resource.
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn amount(list: Option<&List>, name: &str) -> Option<Amount> {
    list?.get(name).and_then(|text| Amount::parse(&text.0).ok())
}

fn request(container: &Container, name: &str) -> Option<Amount> {
    amount(container.resources.as_ref()?.requests.as_ref(), name)
}

fn larger(one: Amount, other: Amount) -> Amount {
    if other.sub(&one).signum() > 0 { other } else { one }
}

/// What the containers ask for together, init containers and sidecars counted as the scheduler does; none where none asks.
fn together(spec: &PodSpec, name: &str) -> Option<Amount> {
    let zero = Amount::parse("0").ok()?;
    let (mut main, mut sidecars, mut init, mut any) = (zero.clone(), zero.clone(), zero, false);
    for container in &spec.containers {
        if let Some(amount) = request(container, name) {
            any = true;
            main = main.add(&amount);
        }
    }
    for container in spec.init_containers.iter().flatten() {
        let Some(amount) = request(container, name) else { continue };
        any = true;
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.add(&amount);
            init = larger(init, sidecars.clone());
        } else {
            init = larger(init, sidecars.add(&amount));
        }
    }
    any.then(|| larger(main.add(&sidecars), init))
}

/// Requests that are left out: what the containers ask for together, else the limit.
pub fn default(spec: &mut PodSpec) {
    let Some(whole) = &spec.resources else { return };
    if whole.requests.is_none() && whole.limits.is_none() {
        return;
    }
    let mut requests = whole.requests.clone().unwrap_or_default();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let named: Vec<String> = containers.flat_map(|container| container.resources.iter().flat_map(|found| found.requests.iter().flatten().map(|(name, _)| name.clone()))).collect();
    for name in named.iter().filter(|name| matches!(name.as_str(), "cpu" | "memory")) {
        if let Some(sum) = together(spec, name) {
            requests.entry(name.clone()).or_insert_with(|| Quantity(sum.to_string()));
        }
    }
    for (name, limit) in whole.limits.iter().flatten() {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    if let Some(whole) = &mut spec.resources {
        whole.requests = Some(requests).filter(|requests| !requests.is_empty());
    }
}

/// Problems of what the pod as a whole asks for.
pub fn validate(spec: &PodSpec, path: &FieldPath) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let Some(whole) = &spec.resources else { return problems };
    let at = path.child("resources");
    if whole.claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        problems.push(FieldError::forbidden(&at.child("claims"), "may not be set for Resources at pod-level"));
    }
    for (field, list) in [("limits", &whole.limits), ("requests", &whole.requests)] {
        for (name, quantity) in list.iter().flatten() {
            let at = at.child(field).key(name);
            if !is_of_pods(name) {
                problems.push(FieldError::not_supported(&at, name.as_str(), &["cpu", "hugepages-", "memory"]));
            }
            if Amount::parse(&quantity.0).is_ok_and(|amount| amount.signum() < 0) {
                problems.push(FieldError::invalid(&at, quantity.0.as_str(), "must be greater than or equal to 0"));
            }
        }
    }
    for (name, quantity) in whole.requests.iter().flatten() {
        let Ok(wanted) = Amount::parse(&quantity.0) else { continue };
        let at = at.child("requests").key(name);
        if let Some(limit) = amount(whole.limits.as_ref(), name).filter(|limit| limit.sub(&wanted).signum() < 0) {
            problems.push(FieldError::invalid(&at, quantity.0.as_str(), format!("must be less than or equal to {name} limit of {limit}")));
        }
        if let Some(sum) = together(spec, name).filter(|sum| wanted.sub(sum).signum() < 0) {
            problems.push(FieldError::invalid(&at, quantity.0.as_str(), format!("must be greater than or equal to aggregate container requests of {sum}")));
        }
    }
    for (list, containers) in [("containers", &*spec.containers), ("initContainers", spec.init_containers.as_deref().unwrap_or_default())] {
        for (index, container) in containers.iter().enumerate() {
            for (name, quantity) in container.resources.iter().flat_map(|found| found.limits.iter().flatten()) {
                let (Ok(limit), Some(bound)) = (Amount::parse(&quantity.0), amount(whole.limits.as_ref(), name)) else { continue };
                if bound.sub(&limit).signum() < 0 {
                    let at = path.child(list).index(index).child("resources").child("limits").key(name);
                    problems.push(FieldError::invalid(&at, quantity.0.as_str(), format!("must be less than or equal to pod limits of {bound}")));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(whole: Value, container: Value) -> PodSpec {
        serde_json::from_value(json!({ "resources": whole, "containers": [{ "name": "c", "resources": container }, { "name": "d", "resources": container }] })).unwrap()
    }

    #[test]
    fn requests_come_from_the_containers_and_then_from_the_limits() {
        let mut spec = spec(json!({ "limits": { "cpu": "2", "memory": "1Gi" } }), json!({ "requests": { "cpu": "250m" } }));
        default(&mut spec);
        let requests = spec.resources.unwrap().requests.unwrap();
        assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("500m", "1Gi"));
    }

    #[track_caller]
    fn check(whole: Value, container: Value, expected: &[&str]) {
        let told: Vec<String> = validate(&spec(whole, container), &FieldPath::new("spec")).into_iter().map(|problem| problem.to_string()).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn the_whole_holds_its_parts() {
        check(json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "2" } }), json!({ "requests": { "cpu": "500m" }, "limits": { "cpu": "2" } }), &[]);
        check(
            json!({ "requests": { "cpu": "1" } }),
            json!({ "requests": { "cpu": "1" } }),
            &["spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2"],
        );
        check(
            json!({ "limits": { "memory": "1Gi" } }),
            json!({ "limits": { "memory": "2Gi" } }),
            &[
                "spec.containers[0].resources.limits[memory]: Invalid value: \"2Gi\": must be less than or equal to pod limits of 1Gi",
                "spec.containers[1].resources.limits[memory]: Invalid value: \"2Gi\": must be less than or equal to pod limits of 1Gi",
            ],
        );
        check(
            json!({ "requests": { "ephemeral-storage": "1Gi" } }),
            json!({}),
            &["spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\""],
        );
    }
}
