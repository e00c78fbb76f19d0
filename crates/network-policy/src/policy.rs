//! What matters of a NetworkPolicy, read once.

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1, util::intstr::IntOrString},
};
use meta::selector::LabelSelector;
use netlink::IpRange;

/// A policy. A direction that it does not speak of is none.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyFacts {
    /// Names the sets that belong to it.
    pub uid: String,
    /// Its namespace, which is that of the pods it selects.
    pub namespace: String,
    /// Those pods.
    pub pods: LabelSelector,
    /// What may come to them.
    pub ingress: Option<Vec<Allowed>>,
    /// What may leave them.
    pub egress: Option<Vec<Allowed>>,
}

/// One rule: these peers on these ports.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowed {
    /// None means anybody.
    pub peers: Vec<Peer>,
    /// None means all.
    pub ports: Vec<Port>,
}

/// Whom a pod talks to.
#[derive(Debug, Clone, PartialEq)]
pub enum Peer {
    /// Addresses, but for some.
    Block(IpRange, Vec<IpRange>),
    /// Pods, of the policy's own namespace where no namespaces are selected.
    Pods {
        /// The namespaces.
        namespaces: Option<LabelSelector>,
        /// The pods in them.
        pods: LabelSelector,
    },
}

/// A port, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its protocol's number.
    pub protocol: u8,
    /// Which.
    pub numbers: Numbers,
}

/// Numbers of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Numbers {
    /// All.
    All,
    /// From the first to the last.
    Range(u16, u16),
    /// What the receiving pod calls so.
    Named(String),
}

/// The IP protocol number of a transport protocol.
pub fn protocol_number(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

/// A selector that cannot be read selects nothing, so that a mistake opens nothing.
fn selector(selector: Option<&v1::LabelSelector>) -> LabelSelector {
    let value = selector.and_then(|selector| serde_json::to_value(selector).ok());
    value.and_then(|value| LabelSelector::from_json(&value).ok()).unwrap_or_else(LabelSelector::nothing)
}

fn peer(peer: &NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let except = block.except.iter().flatten().map(|range| range.parse()).collect::<Result<_, _>>().ok()?;
        return Some(Peer::Block(block.cidr.parse().ok()?, except));
    }
    let pods = peer.pod_selector.as_ref().map_or_else(LabelSelector::everything, |pods| selector(Some(pods)));
    Some(Peer::Pods { namespaces: peer.namespace_selector.as_ref().map(|namespaces| selector(Some(namespaces))), pods })
}

fn port(port: &NetworkPolicyPort) -> Option<Port> {
    let numbers = match &port.port {
        None => Numbers::All,
        Some(IntOrString::String(name)) => Numbers::Named(name.clone()),
        Some(IntOrString::Int(first)) => Numbers::Range(u16::try_from(*first).ok()?, u16::try_from(port.end_port.unwrap_or(*first)).ok()?),
    };
    Some(Port { protocol: protocol_number(port.protocol.as_deref())?, numbers })
}

/// What cannot be read is left out of a list; a list of which nothing is left must not become "anybody".
fn allowed(peers: Option<&Vec<NetworkPolicyPeer>>, ports: Option<&Vec<NetworkPolicyPort>>) -> Option<Allowed> {
    let (all_peers, all_ports) = (peers.map(Vec::as_slice).unwrap_or_default(), ports.map(Vec::as_slice).unwrap_or_default());
    let rule = Allowed { peers: all_peers.iter().filter_map(peer).collect(), ports: all_ports.iter().filter_map(port).collect() };
    (rule.peers.is_empty() == all_peers.is_empty() && rule.ports.is_empty() == all_ports.is_empty()).then_some(rule)
}

impl PolicyFacts {
    /// Reads a policy.
    pub fn of(policy: &NetworkPolicy) -> Option<Self> {
        let spec = policy.spec.as_ref()?;
        let (ingress, egress) = (spec.ingress.as_deref().unwrap_or_default(), spec.egress.as_deref().unwrap_or_default());
        // Where it does not say, it speaks of what comes, and of what leaves if it has rules for that.
        let speaks_of = |direction: &str, otherwise: bool| match spec.policy_types.as_deref() {
            Some(types) if !types.is_empty() => types.iter().any(|one| one == direction),
            _ => otherwise,
        };
        Some(Self {
            uid: policy.metadata.uid.clone()?,
            namespace: policy.metadata.namespace.clone()?,
            pods: spec.pod_selector.as_ref().map_or_else(LabelSelector::everything, |pods| selector(Some(pods))),
            ingress: speaks_of("Ingress", true).then(|| ingress.iter().filter_map(|rule| allowed(rule.from.as_ref(), rule.ports.as_ref())).collect()),
            egress: speaks_of("Egress", !egress.is_empty()).then(|| egress.iter().filter_map(|rule| allowed(rule.to.as_ref(), rule.ports.as_ref())).collect()),
        })
    }
}
