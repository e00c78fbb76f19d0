//! What a namespace uses of the things a quota limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meta::quantity::Quantity as Amount;

use super::{Pods, pod_usage};

/// What is counted.
pub(super) struct Counted<'a> {
    pub pods: &'a Pods,
    pub services: &'a [Arc<Service>],
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// Objects of a group's resource; `None` while nobody knows.
    pub count: &'a dyn Fn(&str, &str) -> Option<usize>,
}

/// Old names of counts. Source: Kubernetes 1.36, `pkg/quota/v1/evaluator/core/registry.go`.
const COUNTED_BY_NAME: [(&str, &str); 6] = [
    ("services", "services"),
    ("configmaps", "configmaps"),
    ("secrets", "secrets"),
    ("resourcequotas", "resourcequotas"),
    ("replicationcontrollers", "replicationcontrollers"),
    ("persistentvolumeclaims", "persistentvolumeclaims"),
];

/// What is used of everything the quota limits. What cannot be counted yet stays as it was.
pub(super) fn used(quota: &ResourceQuota, counted: &Counted<'_>, before: &BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let names = hard.into_iter().flatten().map(|(name, _)| name);
    let entry = |name: &String| {
        let amount = amount(name, quota, counted).map(|amount| Quantity(amount.to_string()));
        Some((name.clone(), amount.or_else(|| before.get(name).cloned())?))
    };
    names.filter_map(entry).collect()
}

fn amount(name: &str, quota: &ResourceQuota, counted: &Counted<'_>) -> Option<Amount> {
    let number = |count: usize| Some(Amount::from_integer(i64::try_from(count).unwrap_or(i64::MAX)));
    if let Some(amount) = pod_usage::amount(name, quota, counted.pods) {
        return Some(amount);
    }
    if let Some(resource) = name.strip_prefix("count/") {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        return number((counted.count)(group, resource)?);
    }
    let of_type = |wanted: &str| counted.services.iter().filter(|service| service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some(wanted)).count();
    match name {
        "services.loadbalancers" => return number(of_type("LoadBalancer")),
        "services.nodeports" => return number(node_ports(counted.services)),
        "services" => return number(counted.services.len()),
        "persistentvolumeclaims" => return number(counted.claims.len()),
        "requests.storage" => return Some(storage(counted.claims.iter())),
        _ => {}
    }
    if let Some((class, what)) = name.split_once(".storageclass.storage.k8s.io/") {
        let of_class = || counted.claims.iter().filter(|claim| claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) == Some(class));
        return match what {
            "persistentvolumeclaims" => number(of_class().count()),
            "requests.storage" => Some(storage(of_class())),
            _ => None,
        };
    }
    let (_, resource) = COUNTED_BY_NAME.iter().find(|(other, _)| *other == name)?;
    number((counted.count)("", resource)?)
}

/// The ports of Services that are open on every node.
fn node_ports(services: &[Arc<Service>]) -> usize {
    let ports = |service: &Arc<Service>| {
        let Some(spec) = &service.spec else { return 0 };
        let ports = spec.ports.as_deref().unwrap_or_default();
        match spec.type_.as_deref() {
            Some("NodePort") => ports.len(),
            Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => ports.iter().filter(|port| port.node_port.is_some_and(|port| port != 0)).count(),
            Some("LoadBalancer") => ports.len(),
            _ => 0,
        }
    };
    services.iter().map(ports).sum()
}

fn storage<'a>(claims: impl Iterator<Item = &'a Arc<PersistentVolumeClaim>>) -> Amount {
    let request = |claim: &Arc<PersistentVolumeClaim>| Amount::parse(&claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0).ok();
    claims.filter_map(request).fold(Amount::from_integer(0), |sum, amount| sum.add(&amount))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_limited_is_counted() {
        let names = ["pods", "requests.cpu", "services", "services.nodeports", "secrets", "count/deployments.apps", "count/unknown.example.com", "requests.storage"];
        let hard: BTreeMap<&str, &str> = names.iter().map(|name| (*name, "10")).collect();
        let quota: ResourceQuota = serde_json::from_value(json!({ "spec": { "hard": hard } })).unwrap();
        let service: Service = serde_json::from_value(json!({ "spec": { "type": "NodePort", "ports": [{ "port": 80 }, { "port": 81 }] } })).unwrap();
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({ "spec": { "resources": { "requests": { "storage": "1Gi" } } } })).unwrap();
        let pod = serde_json::from_value(json!({ "spec": { "containers": [{ "name": "a", "resources": { "requests": { "cpu": "250m" } } }] } })).unwrap();
        let counted = Counted {
            pods: &[Arc::new(pod)],
            services: &[Arc::new(service)],
            claims: &[Arc::new(claim)],
            count: &|group, resource| match (group, resource) {
                ("", "secrets") => Some(3),
                ("apps", "deployments") => Some(2),
                _ => None,
            },
        };
        let before = BTreeMap::from([("count/unknown.example.com".to_owned(), Quantity("4".to_owned()))]);
        let used = used(&quota, &counted, &before);
        let texts: Vec<_> = used.iter().map(|(name, amount)| format!("{name}={}", amount.0)).collect();
        assert_eq!(
            texts,
            ["count/deployments.apps=2", "count/unknown.example.com=4", "pods=1", "requests.cpu=250m", "requests.storage=1Gi", "secrets=3", "services=1", "services.nodeports=2"]
        );
    }
}
