//! What objects use of a ResourceQuota. The API server's admission charges new objects with it, and the quota controller
//! counts what there is; both must come to the same.
//!
//! - [`pods`]: what a pod uses
//! - [`scopes`]: which pods and claims a quota is about
//!
//! Source: Kubernetes `pkg/quota/v1/evaluator/core`.

pub mod pods;
pub mod scopes;

use api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use meta::{names::GroupResource, quantity::Quantity};

/// Resources that a quota may name without `count/`. Source: Kubernetes `pkg/quota/v1/evaluator/core/registry.go`.
const COUNTED_BY_NAME: [&str; 5] = ["configmaps", "secrets", "resourcequotas", "replicationcontrollers", "services"];

/// An object as quotas see it.
#[derive(Debug, Clone, Copy)]
pub enum Used<'a> {
    /// A pod.
    Pod(&'a Pod),
    /// A Service.
    Service(&'a Service),
    /// A claim.
    Claim(&'a PersistentVolumeClaim),
    /// Anything else is only counted.
    Other,
}

impl Used<'_> {
    /// What an object of a resource uses of what a quota calls `name`; none where that is no matter of such objects, or the
    /// quota is not about this one.
    pub fn amount(&self, resource: &GroupResource, quota: &ResourceQuota, name: &str) -> Option<Quantity> {
        match self {
            Self::Pod(pod) if !scopes::selects(quota, pod) => return None,
            Self::Pod(pod) if name != "count/pods" => return pods::amount(pod, name),
            Self::Pod(_) => {}
            Self::Claim(claim) if !scopes::selects_claim(quota, claim) => return None,
            Self::Claim(claim) if !name.starts_with("count/") => return of_claim(claim, name),
            Self::Claim(_) => {}
            // Nothing else has scopes.
            _ if scopes::is_scoped(quota) => return None,
            Self::Service(service) if name.starts_with("services.") => return of_service(service, name),
            _ => {}
        }
        let counts = match name.strip_prefix("count/") {
            Some(counted) => counted == resource.to_string(),
            None => resource.group.is_empty() && COUNTED_BY_NAME.contains(&name) && *resource.resource == *name,
        };
        counts.then(|| Quantity::from_integer(1))
    }
}

/// What a Service uses of `services.nodeports` and `services.loadbalancers`.
pub fn of_service(service: &Service, name: &str) -> Option<Quantity> {
    let spec = service.spec.as_ref();
    let kind = spec.and_then(|spec| spec.type_.as_deref()).unwrap_or_default();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let allocates = spec.and_then(|spec| spec.allocate_load_balancer_node_ports) != Some(false);
    let count = match (name, kind) {
        ("services.loadbalancers", kind) => usize::from(kind == "LoadBalancer"),
        ("services.nodeports", "NodePort") => ports.len(),
        ("services.nodeports", "LoadBalancer") if allocates => ports.len(),
        ("services.nodeports", "LoadBalancer") => ports.iter().filter(|port| port.node_port.is_some_and(|port| port != 0)).count(),
        ("services.nodeports", _) => 0,
        _ => return None,
    };
    Some(Quantity::from_integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

/// What a claim uses: of all claims, and of those of its class.
pub fn of_claim(claim: &PersistentVolumeClaim, name: &str) -> Option<Quantity> {
    let what = match name.split_once(".storageclass.storage.k8s.io/") {
        Some((class, what)) => {
            let own = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
            if own != Some(class) {
                return None;
            }
            what
        }
        None => name,
    };
    match what {
        "persistentvolumeclaims" => Some(Quantity::from_integer(1)),
        "requests.storage" => {
            let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
            let asked = requests.and_then(|requests| Quantity::parse(&requests.get("storage")?.0).ok());
            Some(asked.unwrap_or_else(|| Quantity::from_integer(0)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(used: Used<'_>, resource: (&str, &str), name: &str, expected: Option<&str>) {
        let found = used.amount(&GroupResource::new(resource.0, resource.1), &ResourceQuota::default(), name).map(|amount| amount.to_string());
        assert_eq!(found.as_deref(), expected, "{name}");
    }

    #[test]
    fn objects_are_counted_by_their_names() {
        check(Used::Other, ("apps", "replicasets"), "count/replicasets.apps", Some("1"));
        check(Used::Other, ("apps", "replicasets"), "count/replicasets.extensions", None);
        check(Used::Other, ("", "secrets"), "secrets", Some("1"));
        check(Used::Other, ("", "secrets"), "count/secrets", Some("1"));
        check(Used::Other, ("example.com", "secrets"), "secrets", None);
    }

    #[test]
    fn services_use_ports_and_claims_use_storage() {
        let service: Service = serde_json::from_value(json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}})).unwrap();
        check(Used::Service(&service), ("", "services"), "services.nodeports", Some("2"));
        check(Used::Service(&service), ("", "services"), "services.loadbalancers", Some("1"));
        check(Used::Service(&service), ("", "services"), "services", Some("1"));
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}}})).unwrap();
        check(Used::Claim(&claim), ("", "persistentvolumeclaims"), "requests.storage", Some("2Gi"));
        check(Used::Claim(&claim), ("", "persistentvolumeclaims"), "gold.storageclass.storage.k8s.io/persistentvolumeclaims", Some("1"));
        check(Used::Claim(&claim), ("", "persistentvolumeclaims"), "iron.storageclass.storage.k8s.io/requests.storage", None);
    }
}
