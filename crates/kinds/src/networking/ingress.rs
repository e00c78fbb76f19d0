//! Ingress: which host and path of the outside leads to which service.

use api::networking::v1::{Ingress, IngressBackend, IngressSpec};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::{filled, port_number},
    status_rules::load_balancer_end,
    strategy::{Column, Strategy},
};

/// Behaviour of ingresses.
pub struct IngressStrategy;

fn backend(backend: &IngressBackend, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => problems.push(FieldError::invalid(path, "", "cannot set both resource and service backends")),
        (None, None) => problems.push(FieldError::invalid(path, "", "resource or service backend is required")),
        (None, Some(resource)) => {
            let at = path.child("resource");
            if let Some(group) = &resource.api_group {
                problems.extend(rules::invalid_each(&at.child("apiGroup"), group, rules::dns1123_subdomain_problems(group)));
            }
            for (field, text) in [("kind", &resource.kind), ("name", &resource.name)] {
                filled(text, &at.child(field), problems);
                problems.extend(rules::invalid_each(&at.child(field), text, rules::path_segment_problems(text)));
            }
        }
        (Some(service), None) => {
            let at = path.child("service");
            if service.name.is_empty() {
                problems.push(FieldError::required(&at.child("name"), ""));
            } else {
                problems.extend(rules::invalid_each(&at.child("name"), &service.name, rules::dns1123_label_problems(&service.name)));
            }
            let (name, number) = service.port.as_ref().map_or((None, None), |port| (port.name.as_deref(), port.number));
            let at = at.child("port");
            match (name.filter(|name| !name.is_empty()), number.filter(|number| *number != 0)) {
                (Some(_), Some(_)) => problems.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
                (Some(name), None) => problems.extend(rules::invalid_each(&at.child("name"), name, rules::port_name_problems(name))),
                (None, Some(number)) => port_number(number, &at.child("number"), problems),
                (None, None) => problems.push(FieldError::required(path, "port name or number is required")),
            }
        }
    }
}

fn host(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if name.contains('*') {
        problems.extend(rules::invalid_each(path, name, rules::wildcard_dns1123_subdomain_problems(name)));
    } else {
        problems.extend(rules::invalid_each(path, name, rules::dns1123_subdomain_problems(name)));
    }
}

impl Strategy for IngressStrategy {
    type Kind = Ingress;

    fn validate(&self, ingress: &Ingress) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let empty = IngressSpec::default();
        let spec = ingress.spec.as_ref().unwrap_or(&empty);
        let ruled = spec.rules.as_deref().unwrap_or_default();
        if ruled.is_empty() && spec.default_backend.is_none() {
            problems.push(FieldError::invalid(&path, serde_json::json!(ruled), "either `defaultBackend` or `rules` must be specified"));
        }
        if let Some(default) = &spec.default_backend {
            backend(default, &path.child("defaultBackend"), &mut problems);
        }
        for (index, rule) in ruled.iter().enumerate() {
            let at = path.child("rules").index(index);
            if let Some(name) = rule.host.as_deref().filter(|name| !name.is_empty()) {
                if rules::ip_problems(name).is_empty() {
                    problems.push(FieldError::invalid(&at.child("host"), name, "must be a DNS name, not an IP address"));
                }
                host(name, &at.child("host"), &mut problems);
            }
            let Some(http) = &rule.http else { continue };
            if http.paths.is_empty() {
                problems.push(FieldError::required(&at.child("http").child("paths"), ""));
            }
            for (position, one) in http.paths.iter().enumerate() {
                let at = at.child("http").child("paths").index(position);
                let text = one.path.as_deref().unwrap_or_default();
                match one.path_type.as_str() {
                    "" => {
                        problems.push(FieldError::required(&at.child("pathType"), "pathType must be specified"));
                        continue;
                    }
                    "Exact" | "Prefix" => {
                        if !text.starts_with('/') {
                            problems.push(FieldError::invalid(&at.child("path"), text, "must be an absolute path"));
                        }
                        for wrong in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|wrong| text.contains(wrong)) {
                            problems.push(FieldError::invalid(&at.child("path"), text, format!("must not contain '{wrong}'")));
                        }
                        for wrong in ["/..", "/."].into_iter().filter(|wrong| text.ends_with(wrong)) {
                            problems.push(FieldError::invalid(&at.child("path"), text, format!("cannot end with '{wrong}'")));
                        }
                    }
                    "ImplementationSpecific" => {
                        if !text.is_empty() && !text.starts_with('/') {
                            problems.push(FieldError::invalid(&at.child("path"), text, "must be an absolute path"));
                        }
                    }
                    other => problems.push(FieldError::not_supported(&at.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"])),
                }
                backend(&one.backend, &at.child("backend"), &mut problems);
            }
        }
        for (index, tls) in spec.tls.iter().flatten().enumerate() {
            for (position, name) in tls.hosts.iter().flatten().enumerate() {
                host(name, &path.child("tls").index(index).child("hosts").index(position), &mut problems);
            }
        }
        for (index, tls) in spec.tls.iter().flatten().enumerate() {
            if let Some(name) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) {
                problems.extend(rules::invalid_each(&path.child("tls").index(index).child("secretName"), name, rules::dns1123_subdomain_problems(name)));
            }
        }
        if let Some(class) = &spec.ingress_class_name {
            problems.extend(rules::invalid_each(&path.child("ingressClassName"), class, rules::dns1123_subdomain_problems(class)));
        }
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn status_warnings(&self, ingress: &Object) -> Vec<String> {
        crate::warnings::reported(ingress, &["status", "loadBalancer", "ingress"], "ip", |path| path.child("ip"))
    }
    fn warnings(&self, ingress: &Ingress, old: Option<&Ingress>) -> Vec<String> {
        let class = "kubernetes.io/ingress.class";
        let is_old = ingress.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(class));
        let is_told = old.is_none() && is_old && ingress.spec.as_ref().is_none_or(|spec| spec.ingress_class_name.is_none());
        is_told.then(|| format!("annotation {class:?} is deprecated, please use 'spec.ingressClassName' instead")).into_iter().collect()
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn validate_status_update(&self, ingress: &Ingress, _old: &Ingress) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let path = FieldPath::new("status").child("loadBalancer").child("ingress");
        for (index, end) in balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default().iter().enumerate() {
            load_balancer_end(end.ip.as_deref(), end.hostname.as_deref(), &path.index(index), &mut problems);
        }
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Class", "Who serves it."),
            Column::text("Hosts", "Names it is for."),
            Column::text("Address", "Where it is served."),
            Column::text("Ports", "On which ports."),
            Column::AGE,
        ] }
    }
    fn row(&self, ingress: &Ingress, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let empty = IngressSpec::default();
        let spec = ingress.spec.as_ref().unwrap_or(&empty);
        let hosts: Vec<&str> = spec.rules.iter().flatten().filter_map(|rule| rule.host.as_deref()).filter(|host| !host.is_empty()).collect();
        let hosts = match hosts.len() {
            0 => "*".to_owned(),
            count if count > 3 => format!("{} + {} more...", hosts.get(..3).unwrap_or_default().join(","), count - 3),
            _ => hosts.join(","),
        };
        let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let addresses: Vec<&str> = balancer
            .and_then(|balancer| balancer.ingress.as_deref())
            .unwrap_or_default()
            .iter()
            .filter_map(|one| one.ip.as_deref().or(one.hostname.as_deref()))
            .collect();
        vec![
            raw.name().into(),
            cells::or_none(spec.ingress_class_name.as_deref()),
            hosts.into(),
            addresses.join(",").into(),
            if spec.tls.as_ref().is_some_and(|all| !all.is_empty()) { "80, 443" } else { "80" }.into(),
            cells::created(raw),
        ]
    }
}
