//! What a namespace uses of the things a quota limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kinds::quota;
use meta::quantity::Quantity as Amount;

/// What is counted.
pub(super) struct Counted<'a> {
    pub pods: &'a [Arc<Pod>],
    pub services: &'a [Arc<Service>],
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// Objects of a group's resource; `None` while nobody knows.
    pub count: &'a dyn Fn(&str, &str) -> Option<usize>,
}

/// Old names of counts. Source: Kubernetes 1.36, `pkg/quota/v1/evaluator/core/registry.go`.
const COUNTED_BY_NAME: [&str; 4] = ["configmaps", "secrets", "resourcequotas", "replicationcontrollers"];

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

fn sum(amounts: impl Iterator<Item = Amount>) -> Option<Amount> {
    Some(amounts.fold(Amount::from_integer(0), |sum, amount| sum.add(&amount)))
}

fn amount(name: &str, quota: &ResourceQuota, counted: &Counted<'_>) -> Option<Amount> {
    if quota::pods::concerns(name) {
        let of_pod = |pod: &Arc<Pod>| quota::scopes::selects(quota, pod).then(|| quota::pods::amount(pod, name)).flatten();
        return sum(counted.pods.iter().filter_map(of_pod));
    }
    let number = |count: usize| Some(Amount::from_integer(i64::try_from(count).unwrap_or(i64::MAX)));
    if let Some(resource) = name.strip_prefix("count/") {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        return number((counted.count)(group, resource)?);
    }
    match name {
        "services" => return number(counted.services.len()),
        name if name.starts_with("services.") => return sum(counted.services.iter().filter_map(|service| quota::of_service(service, name))),
        name if name.ends_with("persistentvolumeclaims") || name.ends_with("requests.storage") => {
            let selected = counted.claims.iter().filter(|claim| quota::scopes::selects_claim(quota, claim));
            return sum(selected.filter_map(|claim| quota::of_claim(claim, name)));
        }
        _ => {}
    }
    let resource = COUNTED_BY_NAME.iter().find(|other| **other == name)?;
    number((counted.count)("", resource)?)
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
