//! Who serves behind a Service, found in its EndpointSlices: the API server reaches Services without a cluster address, so
//! it needs no service proxy of its own.

use std::net::IpAddr;

use api::discovery::v1::EndpointSlice;
use dialer::Target;
use meta::{ApiError, Object};
use serde_json::Value;

use crate::core::Core;

/// One pod, or something else, that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackEnd {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Node it runs on, where that is known.
    pub node: Option<String>,
}

impl BackEnd {
    /// How it is dialled.
    pub fn target(&self) -> Target {
        match self.node.as_ref().filter(|node| !node.is_empty()) {
            Some(node) => Target::Pod { node: node.clone(), address: self.address, port: self.port },
            None => Target::Address { host: self.address.to_string(), port: self.port },
        }
    }
}

/// The name of a Service's port that is given by name or number.
///
/// # Errors
/// 503 for a number that the Service does not have.
pub fn port_name(service: &Object, port: &str) -> Result<String, ApiError> {
    let Ok(number) = port.parse::<u64>() else { return Ok(port.to_owned()) };
    let ports = service.get(&["spec", "ports"]).and_then(Value::as_array);
    let found = ports.into_iter().flatten().find(|entry| entry.get("port").and_then(Value::as_u64) == Some(number));
    let found = found.ok_or_else(|| ApiError::unavailable(format!("no service port {number} found for service {:?}", service.name())))?;
    Ok(found.get("name").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// The ready back ends of a Service's port; `allowed` leaves out addresses that may not be reached.
pub fn ready(core: &Core, namespace: &str, service: &str, port_name: &str, allowed: impl Fn(&str) -> Option<IpAddr>) -> Vec<BackEnd> {
    let mut found = Vec::new();
    let view = core.view_named("endpointslices.discovery.k8s.io");
    let of_service = |stored: &&std::sync::Arc<crate::view::StoredObject>| stored.label("kubernetes.io/service-name") == Some(service);
    for stored in core.view.snapshot(&view).range(&format!("{namespace}/"), None).filter(of_service) {
        let Ok(slice) = stored.typed::<EndpointSlice>() else { continue };
        let port = slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            if is_ready && let Some(address) = endpoint.addresses.first().and_then(|address| allowed(address)) {
                found.push(BackEnd { address, port, node: endpoint.node_name.clone() });
            }
        }
    }
    found
}
