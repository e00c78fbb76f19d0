//! What matters of a Pod.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::Pod;

use crate::policy::protocol_number;

/// A pod with addresses of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    pub node: String,
    /// Its named ports: name, protocol, number.
    pub ports: Vec<(String, u8, u16)>,
}

impl PodFacts {
    /// Reads a pod; none for those that have ended, have no address yet, or use their node's.
    pub fn of(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let addresses: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok()).collect();
        if ended || spec.host_network == Some(true) || addresses.is_empty() {
            return None;
        }
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            Some((port.name.clone()?, protocol_number(port.protocol.as_deref())?, u16::try_from(port.container_port).ok()?))
        });
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses,
            node: spec.node_name.clone().unwrap_or_default(),
            ports: ports.collect(),
        })
    }
}
