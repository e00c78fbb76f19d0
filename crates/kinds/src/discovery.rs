//! The group `discovery.k8s.io`: EndpointSlice, some of the addresses behind a service.

use api::discovery::v1::EndpointSlice;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::{immutable, one_of, port_number},
    strategy::{Column, Strategy},
};

/// Behaviour of slices.
pub struct EndpointSliceStrategy;

/// Most addresses of one endpoint, ports of a slice and endpoints of a slice.
const MOST: (usize, usize, usize) = (100, 20_000, 1000);

fn listed(all: Vec<String>) -> Value {
    match all.len() {
        0 => "<unset>".into(),
        count if count > 3 => format!("{} + {} more...", all.get(..3).unwrap_or_default().join(","), count - 3).into(),
        _ => all.join(",").into(),
    }
}

impl Strategy for EndpointSliceStrategy {
    type Kind = EndpointSlice;

    fn has_defaults(&self) -> bool {
        false
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, slice: &EndpointSlice, _old: Option<&EndpointSlice>) -> Vec<String> {
        let mut told = Vec::new();
        if slice.address_type == "FQDN" {
            told.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
            return told;
        }
        let by = slice.metadata.labels.as_ref().and_then(|labels| labels.get("endpointslice.kubernetes.io/managed-by"));
        // Controllers write addresses as they should be written.
        if by.is_some_and(|by| by == "endpointslice-controller.k8s.io" || by == "endpointslicemirroring-controller.k8s.io") {
            return told;
        }
        for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
            let path = FieldPath::new("endpoints").index(index).child("addresses");
            for (position, address) in endpoint.addresses.iter().enumerate() {
                told.extend(crate::warnings::ip(address, &path.index(position)));
            }
        }
        told
    }
    fn validate(&self, slice: &EndpointSlice) -> Vec<FieldError> {
        let mut problems = Vec::new();
        one_of(&slice.address_type, &["FQDN", "IPv4", "IPv6"], &FieldPath::new("addressType"), &mut problems);
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > MOST.2 {
            problems.push(FieldError::too_many(&FieldPath::new("endpoints"), endpoints.len(), MOST.2));
            return problems;
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let path = FieldPath::new("endpoints").index(index);
            if endpoint.addresses.is_empty() {
                problems.push(FieldError::required(&path.child("addresses"), "must contain at least 1 address"));
            } else if endpoint.addresses.len() > MOST.0 {
                problems.push(FieldError::too_many(&path.child("addresses"), endpoint.addresses.len(), MOST.0));
            }
            for (position, address) in endpoint.addresses.iter().enumerate() {
                let at = path.child("addresses").index(position);
                let wrong = match slice.address_type.as_str() {
                    "IPv4" | "IPv6" if rules::ip_problems(address).is_empty() => {
                        crate::problems::ordinary_address(address, &at, &mut problems);
                        let wanted = slice.address_type == "IPv6";
                        if address.contains(':') == wanted { Vec::new() } else { vec![format!("must be an {} address", slice.address_type)] }
                    }
                    "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => vec!["must be a valid IPv4 address".to_owned()],
                    "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => vec!["must be a valid IPv6 address".to_owned()],
                    "FQDN" => rules::dns1123_subdomain_problems(address.trim_end_matches('.')),
                    _ => Vec::new(),
                };
                problems.extend(rules::invalid_each(&at, address, wrong));
            }
            if let Some(node) = &endpoint.node_name {
                problems.extend(rules::invalid_each(&path.child("nodeName"), node, rules::dns1123_subdomain_problems(node)));
            }
            if let Some(host) = &endpoint.hostname {
                problems.extend(rules::invalid_each(&path.child("hostname"), host, rules::dns1123_label_problems(host)));
            }
        }
        let mut names = std::collections::HashSet::new();
        for (index, port) in slice.ports.iter().flatten().enumerate() {
            let path = FieldPath::new("ports").index(index);
            let name = port.name.as_deref().unwrap_or_default();
            if !name.is_empty() {
                problems.extend(rules::invalid_each(&path.child("name"), name, rules::dns1123_label_problems(name)));
            }
            if !names.insert(name) {
                problems.push(FieldError::duplicate(&path.child("name"), name));
            }
            if let Some(name) = &port.app_protocol {
                problems.extend(rules::invalid_each(&path.child("appProtocol"), name, rules::qualified_name_problems(name)));
            }
            if let Some(number) = port.port {
                port_number(number, &path.child("port"), &mut problems);
            }
            if let Some(protocol) = port.protocol.as_deref() {
                one_of(protocol, &["SCTP", "TCP", "UDP"], &path.child("protocol"), &mut problems);
            }
        }
        problems
    }
    fn validate_update(&self, slice: &EndpointSlice, old: &EndpointSlice) -> Vec<FieldError> {
        let mut problems = self.validate(slice);
        immutable(&slice.address_type, &old.address_type, &FieldPath::new("addressType"), &mut problems);
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("AddressType", "Which kind of addresses."),
            Column::text("Ports", "Which ports."),
            Column::text("Endpoints", "Which addresses."),
            Column::AGE,
        ] }
    }
    fn row(&self, slice: &EndpointSlice, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let ports = slice.ports.iter().flatten().map(|port| port.port.map_or_else(|| "*".to_owned(), |number| number.to_string())).collect();
        let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect();
        vec![raw.name().into(), slice.address_type.as_str().into(), listed(ports), listed(addresses), cells::created(raw)]
    }
}
