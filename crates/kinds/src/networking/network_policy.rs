//! NetworkPolicy: who may talk to which pods.

use api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::{label_selector, port_number, port_or_name},
    strategy::{Column, Strategy},
};

/// Behaviour of network policies.
pub struct NetworkPolicyStrategy;

fn peers(peers: Option<&Vec<NetworkPolicyPeer>>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, peer) in peers.into_iter().flatten().enumerate() {
        let at = path.index(index);
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        for (field, selector) in [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)] {
            if let Some(selector) = selector {
                problems.extend(label_selector(selector, &at.child(field)));
            }
        }
        match &peer.ip_block {
            Some(_) if selects => problems.push(FieldError::forbidden(&at, "may not specify both ipBlock and another peer")),
            None if !selects => problems.push(FieldError::required(&at, "must specify a peer")),
            Some(block) => {
                let at = at.child("ipBlock");
                if block.cidr.is_empty() {
                    problems.push(FieldError::required(&at.child("cidr"), ""));
                    continue;
                }
                problems.extend(rules::invalid_each(&at.child("cidr"), &block.cidr, rules::cidr_problems(&block.cidr)));
                for (position, except) in block.except.iter().flatten().enumerate() {
                    let at = at.child("except").index(position);
                    problems.extend(rules::invalid_each(&at, except, rules::cidr_problems(except)));
                    if rules::is_strict_subset(except, &block.cidr) == Some(false) {
                        problems.push(FieldError::invalid(&at, except.as_str(), "must be a strict subset of `cidr`"));
                    }
                }
            }
            None => {}
        }
    }
}

fn ports(ports: Option<&Vec<NetworkPolicyPort>>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let at = path.index(index);
        if let Some(protocol) = port.protocol.as_deref() {
            crate::core::pod::validation::protocol(Some(protocol), &at.child("protocol"), problems);
        }
        if let Some(number) = &port.port {
            port_or_name(number, &at.child("port"), problems);
        }
        if let Some(end) = port.end_port {
            match &port.port {
                Some(api::apimachinery::pkg::util::intstr::IntOrString::Int(start)) if end < *start => {
                    problems.push(FieldError::invalid(&at.child("endPort"), end, "must be greater than or equal to `port`"));
                    port_number(end, &at.child("endPort"), problems);
                }
                Some(api::apimachinery::pkg::util::intstr::IntOrString::Int(_)) => port_number(end, &at.child("endPort"), problems),
                Some(_) => problems.push(FieldError::invalid(&at.child("endPort"), end, "may not be specified when `port` is non-numeric")),
                None => problems.push(FieldError::invalid(&at.child("endPort"), end, "may not be specified when `port` is not specified")),
            }
        }
    }
}

impl Strategy for NetworkPolicyStrategy {
    type Kind = NetworkPolicy;

    fn default(&self, policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
    }
    fn validate(&self, policy: &NetworkPolicy) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let Some(spec) = &policy.spec else { return problems };
        if let Some(selector) = &spec.pod_selector {
            problems.extend(label_selector(selector, &path.child("podSelector")));
        }
        for (index, rule) in spec.ingress.iter().flatten().enumerate() {
            let at = path.child("ingress").index(index);
            ports(rule.ports.as_ref(), &at.child("ports"), &mut problems);
            peers(rule.from.as_ref(), &at.child("from"), &mut problems);
        }
        for (index, rule) in spec.egress.iter().flatten().enumerate() {
            let at = path.child("egress").index(index);
            ports(rule.ports.as_ref(), &at.child("ports"), &mut problems);
            peers(rule.to.as_ref(), &at.child("to"), &mut problems);
        }
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.len() > 2 {
            problems.push(FieldError::invalid(&path.child("policyTypes"), types.to_vec(), "may not specify more than two policyTypes"));
            return problems;
        }
        for (index, kind) in spec.policy_types.iter().flatten().enumerate() {
            if !matches!(kind.as_str(), "Ingress" | "Egress") {
                problems.push(FieldError::not_supported(&path.child("policyTypes").index(index), kind.as_str(), &["Ingress", "Egress"]));
            }
        }
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, policy: &NetworkPolicy, _old: Option<&NetworkPolicy>) -> Vec<String> {
        let Some(spec) = &policy.spec else { return Vec::new() };
        let path = FieldPath::new("spec");
        let incoming = spec.ingress.iter().flatten().enumerate().map(|(index, rule)| (rule.from.as_ref(), path.child("ingress").index(index).child("from")));
        let outgoing = spec.egress.iter().flatten().enumerate().map(|(index, rule)| (rule.to.as_ref(), path.child("egress").index(index).child("to")));
        let mut told = Vec::new();
        for (peers, path) in incoming.chain(outgoing) {
            for (index, peer) in peers.into_iter().flatten().enumerate() {
                let Some(block) = &peer.ip_block else { continue };
                let at = path.index(index).child("ipBlock");
                told.extend(crate::warnings::cidr(&block.cidr, &at.child("cidr")));
                for (position, except) in block.except.iter().flatten().enumerate() {
                    told.extend(crate::warnings::cidr(except, &at.child("except").index(position)));
                }
            }
        }
        told
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Pod-Selector", "Which pods it guards."), Column::AGE] }
    }
    fn row(&self, policy: &NetworkPolicy, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        vec![raw.name().into(), cells::selector(selector), cells::created(raw)]
    }
}
