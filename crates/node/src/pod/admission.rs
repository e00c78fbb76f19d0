//! Whether this node can run a pod at all; the scheduler has looked before, but pods may also be placed by hand.
//! Source of words: Kubernetes 1.36, `pkg/kubelet/lifecycle/predicate.go`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};

use super::{resources::pod_request, sandbox::host_ports, spec, sysctls};
use crate::{machine::Allocatable, quantity::Amount};

/// What a node can give.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Amounts of the resources.
    pub allocatable: &'a Allocatable,
    /// Most pods.
    pub max_pods: u32,
    /// The node's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The node's object, for its name.
    pub node_name: &'a str,
    /// Kernel parameters that pods may set beyond the safe ones.
    pub allowed_sysctls: &'a [String],
}

/// Admits a pod beside those that run already, or gives reason and message of its failure.
///
/// # Errors
/// What does not fit, in upstream's words.
pub fn admit(pod: &Pod, running: &[&Pod], offer: &Offer<'_>) -> Result<(), (String, String)> {
    if let Some(os) = spec(pod).os.as_ref().filter(|os| os.name != "linux") {
        return Err(("PodOSNotSupported".to_owned(), format!("Failed to admit pod as the OS field doesn't match node OS: {}", os.name)));
    }
    let refuse = |reason: &str, message: String| Err((reason.to_owned(), message));
    if running.len() >= usize::try_from(offer.max_pods).unwrap_or(usize::MAX) {
        return refuse("OutOfpods", format!("Node didn't have enough resource: pods, requested: 1, used: {}, capacity: {}", running.len(), offer.max_pods));
    }
    fits(pod, running, offer.allocatable)?;
    let selector = spec(pod).node_selector.iter().flatten();
    if selector.into_iter().any(|(key, value)| offer.labels.get(key) != Some(value)) {
        return refuse("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if let Some(wanted) = spec(pod).node_name.as_deref().filter(|wanted| !wanted.is_empty() && *wanted != offer.node_name) {
        return refuse("NodeName", format!("Predicate NodeName failed: node(s) didn't match the requested node name {wanted}"));
    }
    let taken: BTreeSet<_> = running.iter().flat_map(|other| host_ports(other)).map(|port| (port.protocol, port.host_port, port.host_ip)).collect();
    let clashes = host_ports(pod).into_iter().any(|port| {
        taken.iter().any(|(protocol, number, address)| {
            *protocol == port.protocol && *number == port.host_port && (address.is_none() || port.host_ip.is_none() || *address == port.host_ip)
        })
    });
    if let Err(message) = sysctls::check(pod, offer.allowed_sysctls) {
        return refuse("SysctlForbidden", message);
    }
    if clashes {
        return refuse("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned());
    }
    Ok(())
}

/// Whether what a pod asks for fits beside what others were granted.
///
/// # Errors
/// The resource that is short, in upstream's words.
pub fn fits(pod: &Pod, running: &[&Pod], allocatable: &Allocatable) -> Result<(), (String, String)> {
    let resources = [
        ("cpu", allocatable.cpu, true),
        ("memory", allocatable.memory, false),
        ("ephemeral-storage", allocatable.ephemeral_storage, false),
    ];
    for (resource, capacity, in_thousandths) in resources {
        let requested = pod_request(pod, resource);
        let used = running.iter().fold(Amount::default(), |sum, other| sum + pod_request(other, resource));
        if !requested.is_zero() && used + requested > capacity {
            let shown = |amount: Amount| if in_thousandths { amount.as_thousandths() } else { amount.as_units() };
            return Err((
                format!("OutOf{resource}"),
                format!(
                    "Node didn't have enough resource: {resource}, requested: {}, used: {}, capacity: {}",
                    shown(requested),
                    shown(used),
                    shown(capacity)
                ),
            ));
        }
    }
    Ok(())
}

/// A node's labels.
#[must_use]
pub fn labels(node: &Node) -> BTreeMap<String, String> {
    node.metadata.labels.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, port: u16) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": { "nodeSelector": { "disk": "fast" }, "containers": [{
            "name": "a", "resources": { "requests": { "cpu": cpu } }, "ports": [{ "containerPort": 80, "hostPort": port }] }] } }))
        .unwrap()
    }

    #[track_caller]
    fn check(new: &Pod, running: &[&Pod], labels: &[(&str, &str)], expected: Option<&str>) {
        let allocatable = Allocatable { cpu: Amount::units(2), ..Allocatable::default() };
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let offer = Offer { allocatable: &allocatable, max_pods: 2, labels: &labels, node_name: "n", allowed_sysctls: &[] };
        assert_eq!(admit(new, running, &offer).err().map(|(reason, _)| reason).as_deref(), expected);
    }

    #[test]
    fn a_pod_must_fit() {
        let fast = [("disk", "fast")];
        check(&pod("1", 80), &[], &fast, None);
        check(&pod("1", 80), &[&pod("1", 81)], &fast, None);
        check(&pod("1", 80), &[&pod("1500m", 81)], &fast, Some("OutOfcpu"));
        check(&pod("1", 80), &[&pod("1", 80)], &fast, Some("NodePorts"));
        check(&pod("1", 80), &[], &[], Some("NodeAffinity"));
        check(&pod("0", 80), &[&pod("0", 81), &pod("0", 82)], &fast, Some("OutOfpods"));
    }
}
