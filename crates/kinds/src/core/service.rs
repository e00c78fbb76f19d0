//! Service: one stable address for many pods. Addresses and node ports are handed out by the API server's effects.

mod type_change;

use std::collections::HashSet;

use api::{
    apimachinery::pkg::util::intstr::IntOrString,
    core::v1::{ClientIPConfig, Service, ServiceSpec, SessionAffinityConfig},
};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use super::pod::validation::protocol;
use crate::{
    cells,
    problems::{labels, one_of, ordinary_address, port_number, port_or_name},
    status_rules::load_balancer_end,
    strategy::{Column, NameRule, Strategy, WriteContext},
    warnings,
};

/// Behaviour of services.
pub struct ServiceStrategy;

const CLUSTER_IP: &str = "ClusterIP";

fn kind_of(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(CLUSTER_IP)
}

fn set(place: &mut Option<String>, value: &str) {
    if place.as_deref().unwrap_or_default().is_empty() {
        *place = Some(value.to_owned());
    }
}

impl Strategy for ServiceStrategy {
    type Kind = Service;

    fn default(&self, service: &mut Service) {
        let Some(spec) = &mut service.spec else { return };
        let (affinity, kind) = (spec.session_affinity.as_deref().unwrap_or("None").to_owned(), kind_of(spec).to_owned());
        if affinity == "None" {
            spec.session_affinity_config = None;
        } else if affinity == "ClientIP" {
            let client = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default).client_ip.get_or_insert_with(ClientIPConfig::default);
            client.timeout_seconds.get_or_insert(10_800);
        }
        for port in spec.ports.iter_mut().flatten() {
            let unset = match &port.target_port {
                None => true,
                Some(IntOrString::Int(number)) => *number == 0,
                Some(IntOrString::String(name)) => name.is_empty(),
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        let external = spec.external_ips.as_ref().is_some_and(|all| !all.is_empty());
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == CLUSTER_IP && external) {
            set(&mut spec.external_traffic_policy, "Cluster");
        }
        if kind != "ExternalName" {
            set(&mut spec.internal_traffic_policy, "Cluster");
        }
        if kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports.is_none() {
            spec.allocate_load_balancer_node_ports = Some(true);
        }
        let ends = service.status.as_mut().and_then(|status| status.load_balancer.as_mut()).and_then(|balancer| balancer.ingress.as_mut());
        for end in ends.into_iter().flatten().filter(|_| kind == "LoadBalancer") {
            if end.ip.as_deref().is_some_and(|ip| !ip.is_empty()) {
                end.ip_mode.get_or_insert_with(|| "VIP".to_owned());
            }
        }
    }
    fn validate_status_update(&self, service: &Service, _old: &Service) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("status").child("loadBalancer").child("ingress");
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ends = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
        if !ends.is_empty() && service.spec.as_ref().is_none_or(|spec| kind_of(spec) != "LoadBalancer") {
            problems.push(FieldError::forbidden(&path, "may only be used when `spec.type` is \"LoadBalancer\""));
            return problems;
        }
        for (index, end) in ends.iter().enumerate() {
            let at = path.index(index);
            load_balancer_end(end.ip.as_deref(), end.hostname.as_deref(), &at, &mut problems);
            let has_address = end.ip.as_deref().is_some_and(|ip| !ip.is_empty());
            match end.ip_mode.as_deref() {
                None if has_address => problems.push(FieldError::required(&at.child("ipMode"), "must be specified when `ip` is set")),
                Some(_) if !has_address => problems.push(FieldError::forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set")),
                Some(mode) if !matches!(mode, "Proxy" | "VIP") => {
                    problems.push(FieldError::not_supported(&at.child("ipMode"), mode, &["Proxy", "VIP"]));
                }
                _ => {}
            }
        }
        problems
    }
    fn prepare_update(&self, _context: &WriteContext, service: &mut Service, old: &Service) {
        if let (Some(new), Some(old)) = (&mut service.spec, &old.spec) {
            type_change::drop_unused(new, old);
        }
    }
    fn validate(&self, service: &Service) -> Vec<FieldError> {
        let empty = ServiceSpec::default();
        validate_spec(service.spec.as_ref().unwrap_or(&empty))
    }
    fn validate_update(&self, service: &Service, old: &Service) -> Vec<FieldError> {
        let mut problems = self.validate(service);
        let (Some(new), Some(known)) = (&service.spec, &old.spec) else { return problems };
        let path = FieldPath::new("spec");
        let (kind, old_kind) = (kind_of(new), kind_of(known));
        if kind != "ExternalName" && old_kind != "ExternalName" {
            let old_ips = known.cluster_ips.as_deref().unwrap_or_default();
            let ips = new.cluster_ips.as_deref().unwrap_or_default();
            let headless = |ips: &[String]| ips == ["None"];
            // Neither is a balancer, so that nothing below concerns them.
            if headless(old_ips) && headless(ips) {
                return problems;
            }
            if let (Some(first), Some(given)) = (old_ips.first(), ips.first())
                && first != given
            {
                problems.push(FieldError::invalid(&path.child("clusterIPs").index(0), ips.to_vec(), "may not change once set"));
            }
            if old_ips.first().is_some() && ips.is_empty() {
                problems.push(FieldError::invalid(&path.child("clusterIPs").index(0), Value::Null, "primary clusterIP can not be unset"));
            }
        }
        if old_kind == "LoadBalancer" && kind == "LoadBalancer" && new.load_balancer_class != known.load_balancer_class {
            let shown = serde_json::json!(new.load_balancer_class);
            problems.push(FieldError::invalid(&path.child("loadBalancerClass"), shown, "may not change once set"));
        }
        if type_change::has_health_check(known) && type_change::has_health_check(new) && new.health_check_node_port != known.health_check_node_port {
            problems.push(FieldError::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
        }
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn status_warnings(&self, service: &Object) -> Vec<String> {
        // Upstream names the item, not its address.
        warnings::reported(service, &["status", "loadBalancer", "ingress"], "ip", |path| path)
    }
    fn warnings(&self, service: &Service, _old: Option<&Service>) -> Vec<String> {
        let Some(spec) = &service.spec else { return Vec::new() };
        let mut told = Vec::new();
        if service.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("service.kubernetes.io/topology-aware-hints")) {
            let words = "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead";
            told.push(words.to_owned());
        }
        let path = FieldPath::new("spec");
        let each = |field: &str, all: Option<&Vec<String>>, told: &mut Vec<String>| {
            for (index, text) in all.into_iter().flatten().enumerate() {
                told.extend(warnings::ip(text, &path.child(field).index(index)));
            }
        };
        each("clusterIPs", spec.cluster_ips.as_ref(), &mut told);
        let kind = spec.type_.as_deref().unwrap_or_default();
        let is_headless = kind == "ClusterIP" && spec.cluster_ip.as_deref() == Some("None");
        let balancer = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
        let outside = spec.external_ips.as_ref().is_some_and(|all| !all.is_empty());
        let has_affinity = spec.session_affinity.as_deref() != Some("None");
        for (is_set, field) in [(balancer.is_some(), "loadBalancerIP"), (outside, "externalIPs"), (has_affinity, "SessionAffinity")] {
            if is_headless && is_set {
                told.push(format!("spec.{field} is ignored for headless services"));
            }
        }
        each("externalIPs", spec.external_ips.as_ref(), &mut told);
        if outside && !is_headless && kind != "ExternalName" {
            told.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
        }
        told.extend(balancer.and_then(|ip| warnings::ip(ip, &path.child("loadBalancerIP"))));
        for (index, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
            told.extend(warnings::cidr(range, &path.child("loadBalancerSourceRanges").index(index)));
        }
        if kind == "ExternalName" && outside {
            told.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
        }
        if kind != "ExternalName" && spec.external_name.as_ref().is_some_and(|name| !name.is_empty()) {
            told.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
        }
        if spec.traffic_distribution.as_deref() == Some("PreferClose") {
            told.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
        }
        told
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1035Label
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }
    fn selectable_fields(&self, service: &Service) -> Vec<(&'static str, String)> {
        let spec = service.spec.as_ref();
        vec![
            ("spec.clusterIP", spec.and_then(|spec| spec.cluster_ip.clone()).unwrap_or_default()),
            ("spec.type", spec.and_then(|spec| spec.type_.clone()).unwrap_or_default()),
        ]
    }
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::NAME,
            Column::text("Type", "How it can be reached."),
            Column::text("Cluster-IP", "Its address inside the cluster."),
            Column::text("External-IP", "Its addresses outside."),
            Column::text("Port(s)", "Its ports."),
            Column::AGE,
            Column::text("Selector", "Labels of its pods.").wide(),
        ];
        COLUMNS
    }
    fn row(&self, service: &Service, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let empty = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let ports = spec.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            match port.node_port.filter(|number| *number > 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
                None => format!("{}/{protocol}", port.port),
            }
        });
        let first = spec.cluster_ips.as_ref().and_then(|all| all.first()).or(spec.cluster_ip.as_ref());
        vec![
            raw.name().into(),
            kind_of(spec).into(),
            cells::or_none(first.map(String::as_str)),
            external_addresses(service, spec),
            cells::joined(ports),
            cells::created(raw),
            cells::labels(spec.selector.as_ref()),
        ]
    }
}

fn external_addresses(service: &Service, spec: &ServiceSpec) -> Value {
    let own = spec.external_ips.as_deref().unwrap_or_default();
    match kind_of(spec) {
        "ExternalName" => cells::text(spec.external_name.as_deref()),
        "LoadBalancer" => {
            let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()).and_then(|balancer| balancer.ingress.as_deref());
            let given = ingress.unwrap_or_default().iter().filter_map(|one| one.ip.as_ref().or(one.hostname.as_ref()));
            let all: Vec<&String> = given.chain(own).collect();
            if all.is_empty() { "<pending>".into() } else { cells::joined(all) }
        }
        _ => cells::joined(own),
    }
}

/// Families of addresses, and that the addresses are of them.
fn families(spec: &ServiceSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if kind_of(spec) == "ExternalName" {
        return;
    }
    let (families, addresses) = (spec.ip_families.as_deref().unwrap_or_default(), spec.cluster_ips.as_deref().unwrap_or_default());
    let mut seen = HashSet::new();
    for (index, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(index);
        one_of(family, &["IPv4", "IPv6"], &at, problems);
        if !seen.insert(family.as_str()) {
            problems.push(FieldError::duplicate(&at, family.as_str()));
        }
    }
    if let Some(policy) = spec.ip_family_policy.as_deref() {
        one_of(policy, &["PreferDualStack", "RequireDualStack", "SingleStack"], &path.child("ipFamilyPolicy"), problems);
    }
    let at = path.child("clusterIPs");
    let shown = || addresses.to_vec();
    match (spec.cluster_ip.as_deref().unwrap_or_default(), addresses.first()) {
        ("", Some(_)) => problems.push(FieldError::invalid(&at, shown(), "must be empty when `clusterIP` is not specified")),
        (first, Some(given)) if first != given => problems.push(FieldError::invalid(&at, shown(), "first value must match `clusterIP`")),
        _ => {}
    }
    if addresses.len() > 1 && addresses.first().is_some_and(|first| first == "None") {
        problems.push(FieldError::invalid(&at, shown(), "'None' must be the first and only value"));
        return;
    }
    if addresses.len() > 2 {
        problems.push(FieldError::invalid(&at, shown(), "may only hold up to 2 values"));
    }
    let parsed: Vec<std::net::IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    if parsed.len() != addresses.len() {
        return;
    }
    if parsed.len() > 1 && parsed.iter().all(std::net::IpAddr::is_ipv6) == parsed.iter().any(std::net::IpAddr::is_ipv6) {
        problems.push(FieldError::invalid(&at, shown(), "may specify no more than one IP for each IP family"));
    }
    for (index, (address, family)) in parsed.iter().zip(families).enumerate() {
        let expected = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        if matches!(family.as_str(), "IPv4" | "IPv6") && family != expected {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            problems.push(FieldError::invalid(&at.index(index), address.to_string(), detail));
        }
    }
}

fn validate_spec(spec: &ServiceSpec) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let path = FieldPath::new("spec");
    let kind = kind_of(spec);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        problems.push(FieldError::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            problems.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", format!("may not be set to 'None' for {kind} services")));
        }
        "ExternalName" => {
            let name = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
            let set = [
                ("clusterIPs", spec.cluster_ips.as_ref().is_some_and(|all| !all.is_empty())),
                ("ipFamilies", spec.ip_families.as_ref().is_some_and(|all| !all.is_empty())),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ];
            for (field, _) in set.into_iter().filter(|(_, set)| *set) {
                problems.push(FieldError::forbidden(&path.child(field), "may not be set for ExternalName services"));
            }
            if name.is_empty() {
                problems.push(FieldError::required(&path.child("externalName"), ""));
            } else {
                problems.extend(rules::invalid_each(&path.child("externalName"), name, rules::dns1123_subdomain_problems(name)));
            }
        }
        _ => {}
    }
    let many = ports.len() > 1;
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = path.child("ports").index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            if many {
                problems.push(FieldError::required(&at.child("name"), ""));
            }
        } else {
            problems.extend(rules::invalid_each(&at.child("name"), name, rules::dns1123_label_problems(name)));
            if !names.insert(name) {
                problems.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        port_number(port.port, &at.child("port"), &mut problems);
        protocol(port.protocol.as_deref(), &at.child("protocol"), &mut problems);
        if let Some(target) = &port.target_port {
            port_or_name(target, &at.child("targetPort"), &mut problems);
        }
        if let Some(name) = &port.app_protocol {
            problems.extend(rules::invalid_each(&at.child("appProtocol"), name, rules::qualified_name_problems(name)));
        }
        let key = (port.protocol.as_deref(), port.port);
        if !numbers.insert(key) {
            // Upstream shows an empty port with nothing but these in it.
            let shown = serde_json::json!({"protocol": port.protocol, "port": port.port, "targetPort": 0});
            problems.push(FieldError::duplicate(&at, shown));
        }
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            if kind == CLUSTER_IP {
                problems.push(FieldError::forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'"));
            }
            if !node_ports.insert((port.protocol.as_deref(), number)) {
                problems.push(FieldError::duplicate(&at.child("nodePort"), number));
            }
        }
    }
    problems.extend(labels(spec.selector.as_ref(), &path.child("selector")));
    one_of(spec.session_affinity.as_deref().unwrap_or_default(), &["ClientIP", "None"], &path.child("sessionAffinity"), &mut problems);
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let seconds = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()).and_then(|client| client.timeout_seconds);
        if let Some(seconds) = seconds.filter(|seconds| !(1..=86_400).contains(seconds)) {
            problems.push(FieldError::invalid(
                &path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds"),
                seconds,
                "must be greater than 0 and less than 86400",
            ));
        }
    }
    one_of(kind, &[CLUSTER_IP, "ExternalName", "LoadBalancer", "NodePort"], &path.child("type"), &mut problems);
    for (index, address) in spec.cluster_ips.iter().flatten().enumerate() {
        if address != "None" && !address.is_empty() {
            problems.extend(rules::invalid_each(&path.child("clusterIPs").index(index), address, rules::ip_problems(address)));
        }
    }
    if spec.cluster_ips.is_none()
        && let Some(address) = spec.cluster_ip.as_deref().filter(|address| !address.is_empty() && *address != "None")
    {
        problems.extend(rules::invalid_each(&path.child("clusterIP"), address, rules::ip_problems(address)));
    }
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        let at = path.child("externalIPs").index(index);
        let wrong = rules::ip_problems(address);
        if wrong.is_empty() {
            ordinary_address(address, &at, &mut problems);
        }
        problems.extend(rules::invalid_each(&at, address, wrong));
    }
    families(spec, &path, &mut problems);
    if let Some(wish) = spec.traffic_distribution.as_deref() {
        one_of(wish, &["PreferClose", "PreferSameNode", "PreferSameZone"], &path.child("trafficDistribution"), &mut problems);
    }
    if let Some(policy) = spec.internal_traffic_policy.as_deref() {
        one_of(policy, &["Cluster", "Local"], &path.child("internalTrafficPolicy"), &mut problems);
    }
    if let Some(policy) = spec.external_traffic_policy.as_deref().filter(|policy| !policy.is_empty()) {
        if matches!(kind, "NodePort" | "LoadBalancer") || spec.external_ips.as_ref().is_some_and(|all| !all.is_empty()) {
            one_of(policy, &["Cluster", "Local"], &path.child("externalTrafficPolicy"), &mut problems);
        } else {
            problems.push(FieldError::invalid(&path.child("externalTrafficPolicy"), policy, "may only be set for externally-accessible services"));
        }
    }
    if spec.health_check_node_port.is_some_and(|port| port != 0) && !type_change::has_health_check(spec) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        problems.push(FieldError::invalid(&path.child("healthCheckNodePort"), spec.health_check_node_port, why));
    }
    if kind != "LoadBalancer" {
        if spec.load_balancer_class.is_some() {
            problems.push(FieldError::forbidden(&path.child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'"));
        }
        if spec.allocate_load_balancer_node_ports.is_some() {
            problems.push(FieldError::forbidden(&path.child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'"));
        }
        if spec.load_balancer_source_ranges.as_ref().is_some_and(|all| !all.is_empty()) {
            problems.push(FieldError::forbidden(&path.child("LoadBalancerSourceRanges"), "may only be used when `type` is 'LoadBalancer'"));
        }
    } else if let Some(class) = &spec.load_balancer_class {
        problems.extend(rules::invalid_each(&path.child("loadBalancerClass"), class, rules::qualified_name_problems(class)));
    }
    for (index, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        let range = range.trim();
        problems.extend(rules::invalid_each(&path.child("LoadBalancerSourceRanges").index(index), range, rules::cidr_problems(range)));
    }
    problems
}
