//! What matters of an EndpointSlice, read once.

use std::net::IpAddr;

use client::ObjectKey;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::service::protocol_number;

/// Names the Service that a slice belongs to. Source: Kubernetes API, `discovery.k8s.io/v1`.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One address behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its addresses; all stand for the same pod.
    pub address: IpAddr,
    /// Whether it takes new flows.
    pub ready: bool,
    /// Whether it answers, ready or not.
    pub serving: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<String>,
    /// Zones whose clients should use it.
    pub for_zones: Vec<String>,
    /// Nodes whose clients should use it.
    pub for_nodes: Vec<String>,
}

/// What matters of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFacts {
    /// Port numbers by name and protocol.
    pub ports: Vec<(String, u8, u16)>,
    /// Addresses.
    pub backends: Vec<Backend>,
}

impl SliceFacts {
    /// Reads a slice, and which Service it belongs to; none for those of headless Services and of names.
    pub fn of(slice: &EndpointSlice) -> Option<(ObjectKey, Self)> {
        let labels = slice.metadata.labels.as_ref()?;
        if labels.contains_key("service.kubernetes.io/headless") || slice.address_type == "FQDN" {
            return None;
        }
        let service = ObjectKey::namespaced(slice.metadata.namespace.as_deref()?, labels.get(SERVICE_NAME)?);
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
            Some((port.name.clone().unwrap_or_default(), protocol_number(port.protocol.as_deref())?, number))
        });
        let mut backends = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            // What is not known counts as ready, and serving follows ready. Source: `EndpointConditions`.
            let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
            let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
            let hints = endpoint.hints.as_ref();
            let for_zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
            let for_nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
            let backend = |address| Backend {
                address,
                ready,
                serving,
                terminating,
                node: endpoint.node_name.clone(),
                for_zones: for_zones.clone().map(|zone| zone.name.clone()).collect(),
                for_nodes: for_nodes.clone().map(|node| node.name.clone()).collect(),
            };
            // All addresses of an endpoint stand for the same pod, so the first will do.
            backends.extend(endpoint.addresses.first().and_then(|text| text.parse().ok()).map(backend));
        }
        Some((service, Self { ports: ports.collect(), backends }))
    }
}
