//! What is wrong with containers of all three sorts.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `validateContainers`, `validateInitContainers`,
//! `validateEphemeralContainers`, `validateContainerCommon`.

use std::collections::{HashMap, HashSet};

use api::core::v1::{Container, ContainerPort, EphemeralContainer, Lifecycle, PodSpec, Probe, Volume};
use meta::{FieldError, FieldPath, validation as rules};

use super::{environment, ephemeral_containers, mounts, resources, security};
use crate::problems::{filled, one_of, port_or_name, port_number};

/// What containers are judged against.
pub struct Surroundings<'a> {
    /// Volumes of the pod by name.
    pub volumes: HashMap<&'a str, &'a Volume>,
    /// Names of its resource claims.
    pub claims: Vec<&'a str>,
    /// The pod around them.
    pub spec: &'a PodSpec,
    /// Whether it is a pod and no template, of which some rules are kept from for what was stored long ago.
    pub is_pod: bool,
}

/// Problems of all containers.
pub fn all(around: &Surroundings<'_>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let spec = around.spec;
    let at = path.child("containers");
    if spec.containers.is_empty() {
        problems.push(FieldError::required(&at, ""));
    }
    let mut names = HashSet::new();
    for (index, one) in spec.containers.iter().enumerate() {
        let at = at.index(index);
        common(one, around, &at, problems);
        if !names.insert(one.name.as_str()) {
            problems.push(FieldError::duplicate(&at.child("name"), one.name.as_str()));
        }
        duties(one, around, &at, problems);
        restarts(one, &at, problems);
        host_network_ports(one, around, &at.child("ports"), problems);
    }
    host_ports(&spec.containers, 0, &at, problems);
    let at = path.child("initContainers");
    for (index, one) in spec.init_containers.iter().flatten().enumerate() {
        initial(one, around, &mut names, &at.index(index), problems);
        // They run one after the other, so that two of them may have the same port. Upstream counts each from zero.
        host_ports(std::slice::from_ref(one), 0, &at, problems);
    }
    let others = names.clone();
    for (index, one) in spec.ephemeral_containers.iter().flatten().enumerate() {
        ephemeral(one, around, &others, &mut names, &path.child("ephemeralContainers").index(index), problems);
    }
}

fn initial<'a>(one: &'a Container, around: &Surroundings<'_>, names: &mut HashSet<&'a str>, at: &FieldPath, problems: &mut Vec<FieldError>) {
    common(one, around, at, problems);
    restarts(one, at, problems);
    if !names.insert(one.name.as_str()) {
        problems.push(FieldError::duplicate(&at.child("name"), one.name.as_str()));
    }
    if one.restart_policy.as_deref() == Some("Always") {
        duties(one, around, at, problems);
        return;
    }
    let set = [
        ("lifecycle", one.lifecycle.is_some()),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
    ];
    for (field, _) in set.into_iter().filter(|(_, set)| *set) {
        problems.push(FieldError::forbidden(&at.child(field), "may not be set for init containers without restartPolicy=Always"));
    }
}

fn ephemeral<'a>(
    one: &'a EphemeralContainer,
    around: &Surroundings<'_>,
    others: &HashSet<&str>,
    names: &mut HashSet<&'a str>,
    at: &FieldPath,
    problems: &mut Vec<FieldError>,
) {
    common(&as_container(one), around, at, problems);
    if !names.insert(one.name.as_str()) {
        problems.push(FieldError::duplicate(&at.child("name"), one.name.as_str()));
    }
    ephemeral_containers::validate_one(one, others, at, problems);
}

/// What an ephemeral container has in common with the others.
fn as_container(one: &EphemeralContainer) -> Container {
    Container {
        name: one.name.clone(),
        image: one.image.clone(),
        termination_message_policy: one.termination_message_policy.clone(),
        ports: one.ports.clone(),
        env: one.env.clone(),
        env_from: one.env_from.clone(),
        volume_mounts: one.volume_mounts.clone(),
        volume_devices: one.volume_devices.clone(),
        image_pull_policy: one.image_pull_policy.clone(),
        resources: one.resources.clone(),
        resize_policy: one.resize_policy.clone(),
        security_context: one.security_context.clone(),
        ..Container::default()
    }
}

fn common(container: &Container, around: &Surroundings<'_>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let at = path.child("name");
    if container.name.is_empty() {
        problems.push(FieldError::required(&at, ""));
    } else {
        problems.extend(rules::invalid_each(&at, &container.name, rules::dns1123_label_problems(&container.name)));
    }
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        problems.push(FieldError::required(&path.child("image"), ""));
    }
    if around.is_pod && image.trim() != image {
        problems.push(FieldError::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    match container.termination_message_policy.as_deref() {
        // Defaults fill it in.
        None | Some("File" | "FallbackToLogsOnError") => {}
        Some("") => problems.push(FieldError::required(&path.child("terminationMessagePolicy"), "")),
        Some(other) => problems.push(FieldError::not_supported(&path.child("terminationMessagePolicy"), other, &["File", "FallbackToLogsOnError"])),
    }
    ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports"), problems);
    environment::variables(container, path, problems);
    mounts::mounts(container, &around.volumes, &path.child("volumeMounts"), problems);
    mounts::devices(container, &around.volumes, &path.child("volumeDevices"), problems);
    one_of(container.image_pull_policy.as_deref().unwrap_or_default(), &["Always", "IfNotPresent", "Never"], &path.child("imagePullPolicy"), problems);
    if let Some(found) = &container.resources {
        resources::of_container(found, &around.claims, &path.child("resources"), problems);
    }
    resize_policies(container, around.spec, &path.child("resizePolicy"), problems);
    if let Some(context) = &container.security_context {
        security::container(context, around.spec.host_users != Some(false), &path.child("securityContext"), problems);
    }
}

fn resize_policies(container: &Container, spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            problems.push(FieldError::duplicate(&path.index(index), policy.resource_name.as_str()));
        }
        one_of(&policy.resource_name, &["cpu", "memory"], path, problems);
        one_of(&policy.restart_policy, &["NotRequired", "RestartContainer"], path, problems);
        if spec.restart_policy.as_deref() == Some("Never") && policy.restart_policy != "NotRequired" {
            problems.push(FieldError::invalid(path, policy.restart_policy.as_str(), "must be 'NotRequired' when `restartPolicy` is 'Never'"));
        }
    }
}

/// What a container says of its own restarts. Source: KEP-5307 and Kubernetes since 1.34, `validateContainerRestartPolicy`.
fn restarts(container: &Container, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MOST_RULES: usize = 20;
    const MOST_CODES: usize = 255;
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let (policy, list) = (path.child("restartPolicy"), path.child("restartPolicyRules"));
    match container.restart_policy.as_deref() {
        None if !rules.is_empty() => problems.push(FieldError::required(&policy, "must specify restartPolicy when restart rules are used")),
        None | Some("Always" | "Never" | "OnFailure") => {}
        Some(other) => problems.push(FieldError::not_supported(&policy, other, &["Always", "Never", "OnFailure"])),
    }
    if rules.len() > MOST_RULES {
        problems.push(FieldError::too_long(&list, MOST_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = list.index(index);
        if !matches!(rule.action.as_str(), "Restart" | "RestartAllContainers") {
            problems.push(FieldError::not_supported(&at.child("action"), rule.action.as_str(), &["Restart", "RestartAllContainers"]));
        }
        let at = at.child("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            problems.push(FieldError::required(&at, "must be specified"));
            continue;
        };
        if !matches!(codes.operator.as_str(), "In" | "NotIn") {
            problems.push(FieldError::not_supported(&at.child("operator"), codes.operator.as_str(), &["In", "NotIn"]));
        }
        if codes.values.as_ref().is_some_and(|values| values.len() > MOST_CODES) {
            problems.push(FieldError::too_long(&at.child("values"), MOST_CODES));
        }
    }
}

/// Probes and hooks, of containers that stay.
fn duties(container: &Container, around: &Surroundings<'_>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(found) = &container.lifecycle {
        lifecycle(found, around.spec.termination_grace_period_seconds, &path.child("lifecycle"), problems);
    }
    for (field, found) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        if let Some(found) = found {
            probe(found, field != "readinessProbe", &path.child(field), problems);
        }
    }
}

fn ports(ports: &[ContainerPort], path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let wrong = rules::port_name_problems(name);
            if !wrong.is_empty() {
                problems.extend(rules::invalid_each(&at.child("name"), name, wrong));
            } else if !names.insert(name) {
                problems.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        if port.container_port == 0 {
            problems.push(FieldError::required(&at.child("containerPort"), ""));
        } else {
            port_number(port.container_port, &at.child("containerPort"), problems);
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            port_number(number, &at.child("hostPort"), problems);
        }
        super::validation::protocol(port.protocol.as_deref(), &at.child("protocol"), problems);
    }
}

fn host_network_ports(container: &Container, around: &Surroundings<'_>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if around.spec.host_network != Some(true) {
        return;
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let number = port.host_port.unwrap_or_default();
        if (around.is_pod || number != 0) && number != port.container_port {
            let detail = "must match `containerPort` when `hostNetwork` is true";
            problems.push(FieldError::invalid(&path.index(index).child("hostPort"), number, detail));
        }
    }
}

fn host_ports(containers: &[Container], first: usize, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (position, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", port.protocol.as_deref().unwrap_or_default(), port.host_ip.as_deref().unwrap_or_default());
            if !seen.insert(key.clone()) {
                problems.push(FieldError::duplicate(&path.index(first + index).child("ports").index(position).child("hostPort"), key));
            }
        }
    }
}

const ONE_HANDLER: &str = "may not specify more than 1 handler type";

fn probe(probe: &Probe, once: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let handler = Handler { exec: probe.exec.as_ref(), http_get: probe.http_get.as_ref(), tcp_socket: probe.tcp_socket.as_ref(), grpc: probe.grpc.as_ref(), sleep: None };
    handler.validate(None, path, problems);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if let Some(value) = value {
            problems.extend(rules::values::validate_non_negative(i64::from(value), &path.child(field)));
        }
    }
    if let Some(seconds) = probe.termination_grace_period_seconds {
        let at = path.child("terminationGracePeriodSeconds");
        if seconds <= 0 {
            problems.push(FieldError::invalid(&at, seconds, "must be greater than 0"));
        }
        if !once {
            problems.push(FieldError::invalid(&at, seconds, "must not be set for readinessProbes"));
        }
    }
    if once && let Some(threshold) = probe.success_threshold.filter(|threshold| *threshold != 1) {
        problems.push(FieldError::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

/// What a probe or a hook does: exactly one of these.
struct Handler<'a> {
    exec: Option<&'a api::core::v1::ExecAction>,
    http_get: Option<&'a api::core::v1::HTTPGetAction>,
    tcp_socket: Option<&'a api::core::v1::TCPSocketAction>,
    grpc: Option<&'a api::core::v1::GRPCAction>,
    sleep: Option<i64>,
}

impl Handler<'_> {
    fn validate(&self, grace: Option<i64>, path: &FieldPath, problems: &mut Vec<FieldError>) {
        let mut handlers = 0;
        let mut is_first = |present: bool, field: &str, problems: &mut Vec<FieldError>| {
            if !present {
                return false;
            }
            handlers += 1;
            if handlers > 1 {
                problems.push(FieldError::forbidden(&path.child(field), ONE_HANDLER));
            }
            handlers == 1
        };
        if is_first(self.exec.is_some(), "exec", problems) && self.exec.is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty)) {
            problems.push(FieldError::required(&path.child("exec").child("command"), ""));
        }
        if is_first(self.http_get.is_some(), "httpGet", problems)
            && let Some(get) = self.http_get
        {
            http_get(get, &path.child("httpGet"), problems);
        }
        if is_first(self.tcp_socket.is_some(), "tcpSocket", problems)
            && let Some(socket) = self.tcp_socket
        {
            port_or_name(&socket.port, &path.child("tcpSocket").child("port"), problems);
        }
        if is_first(self.grpc.is_some(), "grpc", problems)
            && let Some(call) = self.grpc
        {
            port_number(call.port, &path.child("grpc").child("port"), problems);
        }
        if is_first(self.sleep.is_some(), "sleep", problems)
            && let (Some(seconds), Some(grace)) = (self.sleep, grace)
            && !(0..=grace).contains(&seconds)
        {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            problems.push(FieldError::invalid(&path.child("sleep"), seconds, detail));
        }
        if handlers == 0 {
            problems.push(FieldError::required(path, "must specify a handler type"));
        }
    }
}

fn http_get(get: &api::core::v1::HTTPGetAction, path: &FieldPath, problems: &mut Vec<FieldError>) {
    filled(get.path.as_deref().unwrap_or_default(), &path.child("path"), problems);
    port_or_name(&get.port, &path.child("port"), problems);
    let scheme = get.scheme.as_deref().unwrap_or_default();
    if !matches!(scheme, "HTTP" | "HTTPS") {
        problems.push(FieldError::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in get.http_headers.iter().flatten() {
        problems.extend(rules::invalid_each(&path.child("httpHeaders"), &header.name, rules::http_header_name_problems(&header.name)));
    }
}

fn lifecycle(found: &Lifecycle, grace: Option<i64>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (field, hook) in [("postStart", &found.post_start), ("preStop", &found.pre_stop)] {
        let Some(hook) = hook else { continue };
        let sleep = hook.sleep.as_ref().map(|sleep| sleep.seconds);
        let handler = Handler { exec: hook.exec.as_ref(), http_get: hook.http_get.as_ref(), tcp_socket: hook.tcp_socket.as_ref(), grpc: None, sleep };
        handler.validate(grace, &path.child(field), problems);
    }
}
