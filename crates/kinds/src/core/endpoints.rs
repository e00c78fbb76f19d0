//! Endpoints: addresses behind a service, in the form before slices.

use api::core::v1::Endpoints;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::port_number,
    strategy::{Column, Strategy},
};

/// Behaviour of Endpoints.
pub struct EndpointsStrategy;

/// How many addresses a row shows before it says how many more there are.
const SHOWN: usize = 3;

fn shown(endpoints: &Endpoints) -> String {
    let mut list: Vec<String> = Vec::new();
    let mut total = 0;
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.as_deref().unwrap_or_default();
        for address in subset.addresses.iter().flatten() {
            if ports.is_empty() {
                total += 1;
                if list.len() < SHOWN {
                    list.push(address.ip.clone());
                }
            }
            for port in ports {
                total += 1;
                if list.len() < SHOWN {
                    let host = if address.ip.contains(':') { format!("[{}]", address.ip) } else { address.ip.clone() };
                    list.push(format!("{host}:{}", port.port));
                }
            }
        }
    }
    match total {
        0 => "<none>".to_owned(),
        total if total > SHOWN => format!("{} + {} more...", list.join(","), total - SHOWN),
        _ => list.join(","),
    }
}

impl Strategy for EndpointsStrategy {
    type Kind = Endpoints;

    fn has_defaults(&self) -> bool {
        false
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, endpoints: &Endpoints, _old: Option<&Endpoints>) -> Vec<String> {
        let labels = endpoints.metadata.labels.as_ref();
        // The controller writes addresses as they should be written.
        if labels.and_then(|labels| labels.get("endpoints.kubernetes.io/managed-by")).is_some_and(|by| by == "endpoint-controller") {
            return Vec::new();
        }
        let mut told = Vec::new();
        for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
            let path = FieldPath::new("subsets").index(index);
            for (field, addresses) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)] {
                for (position, address) in addresses.iter().flatten().enumerate() {
                    told.extend(crate::warnings::ip(&address.ip, &path.child(field).index(position).child("ip")));
                }
            }
        }
        told
    }
    fn validate(&self, endpoints: &Endpoints) -> Vec<FieldError> {
        let mut problems = Vec::new();
        for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
            let path = FieldPath::new("subsets").index(index);
            let ready = subset.addresses.as_deref().unwrap_or_default();
            let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
            if ready.is_empty() && not_ready.is_empty() {
                problems.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
                for (position, address) in addresses.iter().enumerate() {
                    let at = path.child(field).index(position);
                    problems.extend(rules::invalid_each(&at.child("ip"), &address.ip, rules::ip_problems(&address.ip)));
                    if let Some(host) = address.hostname.as_deref().filter(|host| !host.is_empty()) {
                        problems.extend(rules::invalid_each(&at.child("hostname"), host, rules::dns1123_label_problems(host)));
                    }
                    if let Some(node) = &address.node_name {
                        problems.extend(rules::invalid_each(&at.child("nodeName"), node, rules::dns1123_subdomain_problems(node)));
                    }
                    crate::problems::ordinary_address(&address.ip, &at.child("ip"), &mut problems);
                }
            }
            let ports = subset.ports.as_deref().unwrap_or_default();
            for (position, port) in ports.iter().enumerate() {
                let at = path.child("ports").index(position);
                let name = port.name.as_deref().unwrap_or_default();
                if name.is_empty() && ports.len() > 1 {
                    problems.push(FieldError::required(&at.child("name"), ""));
                } else if !name.is_empty() {
                    problems.extend(rules::invalid_each(&at.child("name"), name, rules::dns1123_label_problems(name)));
                }
                port_number(port.port, &at.child("port"), &mut problems);
                super::pod::validation::protocol(port.protocol.as_deref(), &at.child("protocol"), &mut problems);
                if let Some(name) = &port.app_protocol {
                    problems.extend(rules::invalid_each(&at.child("appProtocol"), name, rules::qualified_name_problems(name)));
                }
            }
        }
        problems
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Endpoints", "Addresses and ports."), Column::AGE] }
    }
    fn row(&self, endpoints: &Endpoints, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), shown(endpoints).into(), cells::created(raw)]
    }
}
