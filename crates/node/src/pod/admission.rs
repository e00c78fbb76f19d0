//! Whether this node can run a pod at all; the scheduler has looked before, but pods may also be placed by hand.
//! Source of words: Kubernetes 1.36, `pkg/kubelet/lifecycle/predicate.go`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};

use super::{containers, resources::pod_request, sandbox::host_ports, spec, sysctls};
use crate::{machine::Allocatable, quantity::Amount};

/// What a node can give.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Amounts of the resources.
    pub allocatable: &'a Allocatable,
    /// Most pods.
    pub max_pods: u32,
    /// The node's labels; not known before the API was reached, which a pod from a file does not wait for.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// The node's object, for its name.
    pub node_name: &'a str,
    /// Kernel parameters that pods may set beyond the safe ones.
    pub allowed_sysctls: &'a [String],
    /// The kernel has AppArmor.
    pub has_app_armor: bool,
}

/// Why a pod is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The node has too little of something.
    Short(Shortage),
    /// Anything else, for which it does not matter what else runs, or which no room helps.
    Other {
        /// `status.reason`
        reason: &'static str,
        /// `status.message`
        message: String,
    },
}

/// What a node has too little of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The resource, or `pods`.
    pub resource: &'static str,
    /// What the pod asks for.
    pub requested: Amount,
    /// What others were granted.
    pub used: Amount,
    /// What there is for all.
    pub capacity: Amount,
}

impl Shortage {
    /// How much has to become free.
    #[must_use]
    pub fn missing(&self) -> Amount {
        self.used + self.requested - self.capacity
    }

    /// An amount of a resource as upstream counts it: processors in thousandths.
    #[must_use]
    pub fn counted(resource: &str, amount: Amount) -> i64 {
        if resource == "cpu" { amount.as_thousandths() } else { amount.as_units() }
    }

    fn message(&self) -> String {
        let shown = |amount| Self::counted(self.resource, amount);
        format!(
            "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
            self.resource,
            shown(self.requested),
            shown(self.used),
            shown(self.capacity)
        )
    }
}

impl Obstacle {
    /// Reason and message for the pod's status, in upstream's words.
    #[must_use]
    pub fn told(self) -> (String, String) {
        match self {
            Self::Short(shortage) => (format!("OutOf{}", shortage.resource), shortage.message()),
            Self::Other { reason, message } => (reason.to_owned(), message),
        }
    }
}

/// Everything that keeps a pod from running beside those that run already; the first is what its status tells.
#[must_use]
pub fn obstacles(pod: &Pod, running: &[&Pod], offer: &Offer<'_>) -> Vec<Obstacle> {
    let other = |reason: &'static str, message: String| Obstacle::Other { reason, message };
    if let Some(os) = spec(pod).os.as_ref().filter(|os| os.name != "linux") {
        return vec![other("PodOSNotSupported", format!("Failed to admit pod as the OS field doesn't match node OS: {}", os.name))];
    }
    let mut found = Vec::new();
    let count = |number: usize| Amount::units(i64::try_from(number).unwrap_or(i64::MAX));
    if running.len() >= usize::try_from(offer.max_pods).unwrap_or(usize::MAX) {
        let (used, capacity) = (count(running.len()), Amount::units(i64::from(offer.max_pods)));
        found.push(Obstacle::Short(Shortage { resource: "pods", requested: Amount::units(1), used, capacity }));
    }
    found.extend(shortages(pod, running, offer.allocatable).map(Obstacle::Short));
    let mut selector = spec(pod).node_selector.iter().flatten();
    if offer.labels.is_some_and(|labels| selector.any(|(key, value)| labels.get(key) != Some(value))) {
        found.push(other("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned()));
    }
    if let Some(wanted) = spec(pod).node_name.as_deref().filter(|wanted| !wanted.is_empty() && *wanted != offer.node_name) {
        found.push(other("NodeName", format!("Predicate NodeName failed: node(s) didn't match the requested node name {wanted}")));
    }
    if let Err(message) = sysctls::check(pod, offer.allowed_sysctls) {
        found.push(other("SysctlForbidden", message));
    }
    if let Some(why) = app_armor_problem(pod, offer.has_app_armor) {
        found.push(other("AppArmor", format!("Cannot enforce AppArmor: {why}")));
    }
    let taken: BTreeSet<_> = running.iter().flat_map(|other| host_ports(other)).map(|port| (port.protocol, port.host_port, port.host_ip)).collect();
    let clashes = host_ports(pod).into_iter().any(|port| {
        taken.iter().any(|(protocol, number, address)| {
            *protocol == port.protocol && *number == port.host_port && (address.is_none() || port.host_ip.is_none() || *address == port.host_ip)
        })
    });
    if clashes {
        found.push(other("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned()));
    }
    found
}

/// Why a pod does not get the AppArmor profiles that it asks for: without a word it would run with less protection than it counts on. The
/// runtime's own default is to apply none, so that can be had where there is AppArmor. Source: Kubernetes 1.36, `pkg/security/apparmor`.
fn app_armor_problem(pod: &Pod, has_app_armor: bool) -> Option<&'static str> {
    let of_pod = spec(pod).security_context.as_ref().and_then(|security| security.app_armor_profile.clone());
    let of_containers = containers(pod).filter_map(|(_, container)| container.security_context.as_ref().and_then(|security| security.app_armor_profile.clone()));
    let wanted: Vec<String> = of_pod.into_iter().chain(of_containers).map(|profile| profile.type_).filter(|kind| kind != "Unconfined").collect();
    match (wanted.is_empty(), has_app_armor) {
        (true, _) => None,
        (false, false) => Some("AppArmor is not enabled on the host"),
        (false, true) => wanted.iter().any(|kind| kind == "Localhost").then_some("the runtime of this node applies no profiles of the host"),
    }
}

/// Whether what a pod asks for fits beside what others were granted.
///
/// # Errors
/// The first resource that is short, in upstream's words.
pub fn fits(pod: &Pod, running: &[&Pod], allocatable: &Allocatable) -> Result<(), (String, String)> {
    shortages(pod, running, allocatable).next().map_or(Ok(()), |shortage| Err(Obstacle::Short(shortage).told()))
}

fn shortages<'a>(pod: &'a Pod, running: &'a [&Pod], allocatable: &Allocatable) -> impl Iterator<Item = Shortage> + 'a {
    let resources = [("cpu", allocatable.cpu), ("memory", allocatable.memory), ("ephemeral-storage", allocatable.ephemeral_storage)];
    resources.into_iter().filter_map(|(resource, capacity)| {
        let requested = pod_request(pod, resource);
        let used = running.iter().fold(Amount::default(), |sum, other| sum + pod_request(other, resource));
        (!requested.is_zero() && used + requested > capacity).then_some(Shortage { resource, requested, used, capacity })
    })
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
    fn check(new: &Pod, running: &[&Pod], labels: &[(&str, &str)], expected: &[&str]) {
        let allocatable = Allocatable { cpu: Amount::units(2), ..Allocatable::default() };
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let offer = Offer { allocatable: &allocatable, max_pods: 2, labels: Some(&labels), node_name: "n", allowed_sysctls: &[], has_app_armor: false };
        let found: Vec<String> = obstacles(new, running, &offer).into_iter().map(|obstacle| obstacle.told().0).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_profile_that_cannot_be_enforced_is_not_left_out_in_silence() {
        let problem = |of_pod: &str, of_container: &str, has_app_armor| {
            let context = |kind: &str| json!({ "appArmorProfile": { "type": kind, "localhostProfile": "p" } });
            let pod = json!({ "metadata": {}, "spec": { "securityContext": context(of_pod), "containers": [{ "name": "a", "securityContext": context(of_container) }] } });
            app_armor_problem(&serde_json::from_value(pod).unwrap(), has_app_armor)
        };
        let missing = Some("AppArmor is not enabled on the host");
        assert_eq!(problem("Unconfined", "Unconfined", false), None);
        assert_eq!((problem("RuntimeDefault", "Unconfined", false), problem("Unconfined", "Localhost", false)), (missing, missing));
        assert_eq!(problem("RuntimeDefault", "RuntimeDefault", true), None);
        assert_eq!(problem("Unconfined", "Localhost", true), Some("the runtime of this node applies no profiles of the host"));
        assert_eq!(app_armor_problem(&pod("1", 80), false), None);
    }

    #[test]
    fn a_pod_must_fit() {
        let fast = [("disk", "fast")];
        check(&pod("1", 80), &[], &fast, &[]);
        check(&pod("1", 80), &[&pod("1", 81)], &fast, &[]);
        check(&pod("1", 80), &[&pod("1500m", 81)], &fast, &["OutOfcpu"]);
        check(&pod("1", 80), &[&pod("1", 80)], &fast, &["NodePorts"]);
        check(&pod("1", 80), &[], &[], &["NodeAffinity"]);
        check(&pod("0", 80), &[&pod("0", 81), &pod("0", 82)], &fast, &["OutOfpods"]);
        check(&pod("1", 80), &[&pod("1", 80), &pod("1", 82)], &[], &["OutOfpods", "OutOfcpu", "NodeAffinity", "NodePorts"]);
    }
}
