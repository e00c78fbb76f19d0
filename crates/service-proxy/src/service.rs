//! What matters of a Service, read once.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::Service;
use netlink::IpRange;

/// How long a client keeps its endpoint where the Service does not say. Source: Kubernetes API, `ClientIPConfig`.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10800);

/// Where traffic may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// To every endpoint.
    Cluster,
    /// To endpoints on this node.
    Local,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty where it has none; endpoints are found by it.
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// The port on every node.
    pub node_port: Option<u16>,
}

/// What matters of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Addresses in the cluster.
    pub cluster_addresses: Vec<IpAddr>,
    /// `externalIPs`.
    pub external_addresses: Vec<IpAddr>,
    /// Addresses of the load balancer that sends packets on unchanged.
    pub balancer_addresses: Vec<IpAddr>,
    /// Who may use those; everybody where empty.
    pub balancer_sources: Vec<IpRange>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// How long a client keeps its endpoint.
    pub affinity: Option<Duration>,
    /// Where traffic from outside may go.
    pub external_policy: Policy,
    /// Where traffic from inside may go.
    pub internal_policy: Policy,
    /// Where load balancers ask whether this node has endpoints.
    pub health_check_port: Option<u16>,
}

/// IP protocol number; nothing that Services cannot have.
pub fn protocol_number(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.into_iter().filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Labels of Services that this proxy has nothing to do with, whatever their value: another proxy serves them, or nobody.
/// Source: Kubernetes 1.36, `cmd/kube-proxy/app/server.go`.
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

impl ServiceFacts {
    /// Reads a Service; none for those that need no proxy: headless ones, names of others, and those that a label takes
    /// away from us (`NOT_OURS`).
    pub fn of(service: &Service) -> Option<Self> {
        let labels = service.metadata.labels.as_ref();
        if labels.is_some_and(|labels| NOT_OURS.iter().any(|label| labels.contains_key(*label))) {
            return None;
        }
        let spec = service.spec.as_ref()?;
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        if kind == "ExternalName" {
            return None;
        }
        let listed = spec.cluster_ips.iter().flatten();
        let mut cluster_addresses = addresses(listed);
        if cluster_addresses.is_empty() {
            cluster_addresses = addresses(&spec.cluster_ip);
        }
        if cluster_addresses.is_empty() {
            return None;
        }
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol_number(port.protocol.as_deref())?,
                port: port_number(port.port)?,
                node_port: port.node_port.and_then(port_number).filter(|_| kind != "ClusterIP"),
            })
        });
        let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let policy = |local| if local { Policy::Local } else { Policy::Cluster };
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref())
            .and_then(|client| client.timeout_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok());
        Some(Self {
            cluster_addresses,
            external_addresses: addresses(spec.external_ips.iter().flatten()),
            balancer_addresses: if kind == "LoadBalancer" { balancer_addresses(service) } else { Vec::new() },
            balancer_sources: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .filter_map(|text| text.trim().parse().ok())
                .collect(),
            ports: ports.collect(),
            affinity: (spec.session_affinity.as_deref() == Some("ClientIP"))
                .then(|| seconds.map_or(DEFAULT_AFFINITY, Duration::from_secs)),
            external_policy: policy(is_local(&spec.external_traffic_policy)),
            internal_policy: policy(is_local(&spec.internal_traffic_policy)),
            health_check_port: spec
                .health_check_node_port
                .and_then(port_number)
                .filter(|_| kind == "LoadBalancer" && is_local(&spec.external_traffic_policy)),
        })
    }
}

/// Addresses with `ipMode: Proxy` are left to the balancer: packets to them must go through it.
fn balancer_addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    addresses(ingress.filter(|entry| entry.ip_mode.as_deref() != Some("Proxy")).filter_map(|entry| entry.ip.as_ref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_that_a_label_gives_to_others_are_left_alone() {
        let read = |labels| {
            let service = json!({"metadata": {"labels": labels}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}});
            ServiceFacts::of(&serde_json::from_value(service).unwrap())
        };
        assert!(read(json!({"app": "web"})).is_some());
        assert!(read(json!({"service.kubernetes.io/headless": ""})).is_none());
        assert!(read(json!({"service.kubernetes.io/service-proxy-name": "other"})).is_none());
    }
}
