//! What is wrong with a pod's specification.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidatePodSpec`.

use std::collections::HashSet;

use api::core::v1::{Container, ContainerPort, EnvVar, Lifecycle, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, Sysctl, Toleration, VolumeMount};
use meta::{FieldError, FieldPath, quantity::Quantity, validation as rules};
use serde_json::Value;

use super::volumes;
use crate::problems::{filled, one_of, port_number, port_or_name};

/// Problems of a template within a workload.
pub fn template(template: &PodTemplateSpec, path: &FieldPath) -> Vec<FieldError> {
    let mut problems = Vec::new();
    if let Some(metadata) = &template.metadata {
        let metadata_path = path.child("metadata");
        problems.extend(crate::problems::labels(metadata.labels.as_ref(), &metadata_path.child("labels")));
        for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
            problems.extend(rules::invalid_each(
                &metadata_path.child("annotations"),
                key,
                rules::qualified_name_problems(&key.to_lowercase()),
            ));
        }
    }
    match &template.spec {
        Some(spec) => problems.extend(pod_spec(spec, &path.child("spec"))),
        None => problems.push(FieldError::required(&path.child("spec").child("containers"), "")),
    }
    if template.spec.as_ref().is_some_and(|spec| spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty())) {
        problems.push(FieldError::forbidden(&path.child("spec").child("ephemeralContainers"), "ephemeral containers not allowed in pod template"));
    }
    problems
}

/// Problems of a specification.
pub fn pod_spec(spec: &PodSpec, path: &FieldPath) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let (volume_names, volume_problems) = volumes::validate(spec.volumes.as_deref().unwrap_or_default(), &path.child("volumes"));
    problems.extend(volume_problems);
    containers(spec, &volume_names, path, &mut problems);
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    one_of(policy, &["Always", "OnFailure", "Never"], &path.child("restartPolicy"), &mut problems);
    let dns_policy = spec.dns_policy.as_deref().unwrap_or_default();
    one_of(dns_policy, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], &path.child("dnsPolicy"), &mut problems);
    if dns_policy == "None" && spec.dns_config.as_ref().and_then(|config| config.nameservers.as_ref()).is_none_or(Vec::is_empty) {
        problems.push(FieldError::required(
            &path.child("dnsConfig").child("nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        ));
    }
    if let Some(config) = &spec.dns_config {
        let servers = config.nameservers.as_deref().unwrap_or_default();
        if servers.len() > 3 {
            problems.push(FieldError::invalid(
                &path.child("dnsConfig").child("nameservers"),
                servers.to_vec(),
                "must not have more than 3 nameservers",
            ));
        }
        for (index, server) in servers.iter().enumerate() {
            problems.extend(rules::invalid_each(
                &path.child("dnsConfig").child("nameservers").index(index),
                server,
                rules::ip_problems(server),
            ));
        }
    }
    let name_of = |value: &Option<String>, field: &str, check: fn(&str) -> Vec<String>, problems: &mut Vec<FieldError>| {
        if let Some(text) = value.as_deref().filter(|text| !text.is_empty()) {
            problems.extend(rules::invalid_each(&path.child(field), text, check(text)));
        }
    };
    name_of(&spec.service_account_name, "serviceAccountName", rules::dns1123_subdomain_problems, &mut problems);
    name_of(&spec.node_name, "nodeName", rules::dns1123_subdomain_problems, &mut problems);
    name_of(&spec.hostname, "hostname", rules::dns1123_label_problems, &mut problems);
    name_of(&spec.subdomain, "subdomain", rules::dns1123_label_problems, &mut problems);
    name_of(&spec.priority_class_name, "priorityClassName", rules::dns1123_subdomain_problems, &mut problems);
    name_of(&spec.runtime_class_name, "runtimeClassName", rules::dns1123_subdomain_problems, &mut problems);
    name_of(&spec.scheduler_name, "schedulerName", rules::qualified_name_problems, &mut problems);
    problems.extend(crate::problems::labels(spec.node_selector.as_ref(), &path.child("nodeSelector")));
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        problems.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), seconds, rules::inclusive_range(1, i64::from(i32::MAX))));
    }
    problems.extend(tolerations(spec.tolerations.as_deref().unwrap_or_default(), &path.child("tolerations")));
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = path.child("hostAliases").index(index);
        problems.extend(rules::invalid_each(&at.child("ip"), &alias.ip, rules::ip_problems(&alias.ip)));
        for name in alias.hostnames.iter().flatten() {
            problems.extend(rules::invalid_each(&at.child("hostnames"), name, rules::dns1123_subdomain_problems(name)));
        }
    }
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        problems.extend(rules::invalid_each(
            &path.child("readinessGates").index(index).child("conditionType"),
            &gate.condition_type,
            rules::qualified_name_problems(&gate.condition_type),
        ));
    }
    let mut gates = HashSet::new();
    for (index, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let at = path.child("schedulingGates").index(index);
        problems.extend(rules::invalid_each(&at, &gate.name, rules::qualified_name_problems(&gate.name)));
        if !gates.insert(&gate.name) {
            problems.push(FieldError::duplicate(&at, gate.name.as_str()));
        }
    }
    if !gates.is_empty() && spec.node_name.as_deref().is_some_and(|node| !node.is_empty()) {
        problems.push(FieldError::forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared"));
    }
    problems.extend(super::whole_resources::validate(spec, path));
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        problems.push(FieldError::invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    if let Some(context) = &spec.security_context {
        let at = path.child("securityContext");
        for (field, value) in [("fsGroup", context.fs_group), ("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
            identifier(value, &at.child(field), &mut problems);
        }
        for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
            identifier(Some(*group), &at.child("supplementalGroups").index(index), &mut problems);
        }
        if let Some(policy) = &context.fs_group_change_policy {
            one_of(policy, &["OnRootMismatch", "Always"], &at.child("fsGroupChangePolicy"), &mut problems);
        }
        kernel_parameters(context.sysctls.as_deref().unwrap_or_default(), &at.child("sysctls"), &mut problems);
    }
    for (index, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let at = path.child("topologySpreadConstraints").index(index);
        if constraint.max_skew <= 0 {
            problems.push(FieldError::invalid(&at.child("maxSkew"), constraint.max_skew, "must be greater than zero"));
        }
        filled(&constraint.topology_key, &at.child("topologyKey"), &mut problems);
        one_of(&constraint.when_unsatisfiable, &["DoNotSchedule", "ScheduleAnyway"], &at.child("whenUnsatisfiable"), &mut problems);
        if let Some(selector) = &constraint.label_selector {
            problems.extend(crate::problems::label_selector(selector, &at.child("labelSelector")));
        }
    }
    problems
}

/// Names of kernel parameters, by their form alone: which of them a node lets a pod set is the node's business.
fn kernel_parameters(settings: &[Sysctl], path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MAX_NAME: usize = 253;
    let mut seen = HashSet::new();
    for (index, setting) in settings.iter().enumerate() {
        let at = path.index(index).child("name");
        if setting.name.is_empty() {
            problems.push(FieldError::required(&at, ""));
        } else if setting.name.len() > MAX_NAME || !setting.name.split(['.', '/']).all(is_parameter_segment) {
            problems.push(FieldError::invalid(
                &at,
                setting.name.as_str(),
                r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ));
        } else if !seen.insert(setting.name.replace('/', ".")) {
            problems.push(FieldError::duplicate(&at, setting.name.as_str()));
        }
    }
}

fn is_parameter_segment(segment: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = segment.as_bytes();
    let ends_are_plain = bytes.first().copied().is_some_and(is_plain) && bytes.last().copied().is_some_and(is_plain);
    ends_are_plain && bytes.iter().all(|byte| is_plain(*byte) || matches!(byte, b'-' | b'_'))
}

fn identifier(value: Option<i64>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(value) = value.filter(|value| !(0..=i64::from(i32::MAX)).contains(value)) {
        problems.push(FieldError::invalid(path, value, rules::inclusive_range(0, i64::from(i32::MAX))));
    }
}

/// Problems of tolerations.
pub fn tolerations(tolerations: &[Toleration], path: &FieldPath) -> Vec<FieldError> {
    let mut problems = Vec::new();
    for (index, toleration) in tolerations.iter().enumerate() {
        let at = path.index(index);
        let key = toleration.key.as_deref().unwrap_or_default();
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        if !key.is_empty() {
            problems.extend(rules::invalid_each(&at.child("key"), key, rules::qualified_name_problems(key)));
        }
        if key.is_empty() && operator != "Exists" {
            problems.push(FieldError::invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            problems.push(FieldError::invalid(&at.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator {
            "" | "Equal" => problems.extend(rules::invalid_each(&at.child("operator"), value, rules::label_value_problems(value))),
            "Exists" if !value.is_empty() => {
                problems.push(FieldError::invalid(&at.child("operator"), value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            _ => problems.push(FieldError::not_supported(&at.child("operator"), operator, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            one_of(effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"], &at.child("effect"), &mut problems);
        }
    }
    problems
}

fn containers(spec: &PodSpec, volumes: &HashSet<&str>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if spec.containers.is_empty() {
        problems.push(FieldError::required(&path.child("containers"), ""));
    }
    let host_network = spec.host_network == Some(true);
    let mut names: HashSet<&str> = HashSet::new();
    let mut host_ports = HashSet::new();
    for (index, one) in spec.containers.iter().enumerate() {
        let at = path.child("containers").index(index);
        container(one, volumes, host_network, &at, problems);
        never_restarted(spec, one, &at, problems);
        if let Some(policy) = one.restart_policy.as_deref() {
            one_of(policy, &["Always", "Never", "OnFailure"], &at.child("restartPolicy"), problems);
        }
        if !one.name.is_empty() && !names.insert(one.name.as_str()) {
            problems.push(FieldError::duplicate(&at.child("name"), one.name.as_str()));
        }
        for (position, port) in one.ports.iter().flatten().enumerate() {
            if let Some(number) = port.host_port.filter(|number| *number != 0) {
                let key = (port.protocol.as_deref().unwrap_or("TCP"), port.host_ip.as_deref().unwrap_or_default(), number);
                if !host_ports.insert(key) {
                    problems.push(FieldError::duplicate(&at.child("ports").index(position).child("hostPort"), number));
                }
            }
        }
    }
    for (index, one) in spec.init_containers.iter().flatten().enumerate() {
        let at = path.child("initContainers").index(index);
        container(one, volumes, host_network, &at, problems);
        never_restarted(spec, one, &at, problems);
        let sidecar = one.restart_policy.as_deref() == Some("Always");
        if !one.name.is_empty() && !names.insert(one.name.as_str()) {
            problems.push(FieldError::duplicate(&at.child("name"), one.name.as_str()));
        }
        if !sidecar {
            for (field, present) in [
                ("lifecycle", one.lifecycle.is_some()),
                ("livenessProbe", one.liveness_probe.is_some()),
                ("readinessProbe", one.readiness_probe.is_some()),
                ("startupProbe", one.startup_probe.is_some()),
            ] {
                if present {
                    problems.push(FieldError::forbidden(&at.child(field), "may not be set for init containers without restartPolicy=Always"));
                }
            }
        }
    }
    let targets = names.clone();
    for (index, one) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = path.child("ephemeralContainers").index(index);
        super::ephemeral_containers::validate_one(one, &targets, &at, problems);
        name(&one.name, &at.child("name"), problems);
        if !one.name.is_empty() && !names.insert(one.name.as_str()) {
            problems.push(FieldError::duplicate(&at.child("name"), one.name.as_str()));
        }
        if one.image.as_deref().unwrap_or_default().is_empty() {
            problems.push(FieldError::required(&at.child("image"), ""));
        }
    }
}

fn name(text: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if text.is_empty() {
        problems.push(FieldError::required(path, ""));
    } else {
        problems.extend(rules::invalid_each(path, text, rules::dns1123_label_problems(text)));
    }
}

fn container(container: &Container, volumes: &HashSet<&str>, host_network: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    name(&container.name, &path.child("name"), problems);
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        problems.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim() != image {
        problems.push(FieldError::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    if let Some(policy) = container.termination_message_policy.as_deref() {
        one_of(policy, &["File", "FallbackToLogsOnError"], &path.child("terminationMessagePolicy"), problems);
    }
    ports(container.ports.as_deref().unwrap_or_default(), host_network, &path.child("ports"), problems);
    environment(container.env.as_deref().unwrap_or_default(), &path.child("env"), problems);
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let at = path.child("envFrom").index(index);
        match (&source.config_map_ref, &source.secret_ref) {
            (Some(_), Some(_)) => problems.push(FieldError::invalid(&at, "", "may not have more than one field specified at a time")),
            (None, None) => problems.push(FieldError::invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`")),
            (Some(map), None) => filled(&map.name, &at.child("configMapRef").child("name"), problems),
            (None, Some(secret)) => filled(&secret.name, &at.child("secretRef").child("name"), problems),
        }
    }
    mounts(container, volumes, path, problems);
    resize_policy(container, path, problems);
    one_of(container.image_pull_policy.as_deref().unwrap_or_default(), &["Always", "IfNotPresent", "Never"], &path.child("imagePullPolicy"), problems);
    if let Some(found) = &container.resources {
        resources(found, &path.child("resources"), problems);
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
    if let Some(found) = &container.lifecycle {
        lifecycle(found, &path.child("lifecycle"), problems);
    }
    if let Some(context) = &container.security_context {
        let at = path.child("securityContext");
        identifier(context.run_as_user, &at.child("runAsUser"), problems);
        identifier(context.run_as_group, &at.child("runAsGroup"), problems);
        if context.allow_privilege_escalation == Some(false) {
            if context.privileged == Some(true) {
                problems.push(FieldError::invalid(&at, Value::Null, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
            }
            let adds = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_deref()).unwrap_or_default();
            if adds.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
                problems.push(FieldError::invalid(
                    &at,
                    Value::Null,
                    "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
                ));
            }
        }
    }
}

/// What must happen to a container when its resources change. Source: Kubernetes 1.36, `validateResizePolicy`.
fn resize_policy(container: &Container, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        let at = path.child("resizePolicy").index(index);
        if !seen.insert(&policy.resource_name) {
            problems.push(FieldError::duplicate(&path.child("resizePolicy"), policy.resource_name.as_str()));
        }
        match policy.resource_name.as_str() {
            "" => problems.push(FieldError::required(&at.child("resourceName"), "")),
            name => one_of(name, &["cpu", "memory"], &at.child("resourceName"), problems),
        }
        match policy.restart_policy.as_str() {
            "" => problems.push(FieldError::required(&at.child("restartPolicy"), "")),
            text => one_of(text, &["NotRequired", "RestartContainer"], &at.child("restartPolicy"), problems),
        }
    }
}

/// A container of a pod that never restarts any cannot ask for a restart when it is resized.
fn never_restarted(spec: &PodSpec, container: &Container, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let policy = container.restart_policy.as_deref().or(spec.restart_policy.as_deref());
    for (index, policy) in container.resize_policy.iter().flatten().enumerate().filter(|_| policy == Some("Never")) {
        if policy.restart_policy == "RestartContainer" {
            let at = path.child("resizePolicy").index(index).child("restartPolicy");
            problems.push(FieldError::invalid(&at, policy.restart_policy.as_str(), "must be 'NotRequired' when `restartPolicy` is 'Never'"));
        }
    }
}

fn ports(ports: &[ContainerPort], host_network: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
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
            if host_network && number != port.container_port {
                problems.push(FieldError::invalid(
                    &at.child("hostPort"),
                    number,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
        protocol(port.protocol.as_deref(), &at.child("protocol"), problems);
    }
}

/// `TCP`, `UDP` or `SCTP`.
pub fn protocol(protocol: Option<&str>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match protocol.unwrap_or_default() {
        "" => problems.push(FieldError::required(path, "")),
        text => one_of(text, &["SCTP", "TCP", "UDP"], path, problems),
    }
}

fn environment(variables: &[EnvVar], path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, variable) in variables.iter().enumerate() {
        let at = path.index(index);
        if variable.name.is_empty() {
            problems.push(FieldError::required(&at.child("name"), ""));
        } else {
            problems.extend(rules::invalid_each(&at.child("name"), &variable.name, rules::relaxed_environment_name_problems(&variable.name)));
        }
        let Some(source) = &variable.value_from else { continue };
        let from = at.child("valueFrom");
        let mut sources = 0;
        if let Some(field) = &source.field_ref {
            sources += 1;
            let at = from.child("fieldRef");
            filled(&field.field_path, &at.child("fieldPath"), problems);
            field_path(&field.field_path, &at.child("fieldPath"), ENVIRONMENT_FIELDS, problems);
        }
        if let Some(resource) = &source.resource_field_ref {
            sources += 1;
            filled(&resource.resource, &from.child("resourceFieldRef").child("resource"), problems);
        }
        if let Some(key) = &source.config_map_key_ref {
            sources += 1;
            key_reference(&key.name, &key.key, &from.child("configMapKeyRef"), problems);
        }
        if let Some(key) = &source.secret_key_ref {
            sources += 1;
            key_reference(&key.name, &key.key, &from.child("secretKeyRef"), problems);
        }
        if source.file_key_ref.is_some() {
            sources += 1;
        }
        match sources {
            0 => problems.push(FieldError::invalid(
                &from,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            )),
            1 if variable.value.as_deref().is_some_and(|value| !value.is_empty()) => {
                problems.push(FieldError::invalid(&from, "", "may not be specified when `value` is not empty"));
            }
            1 => {}
            _ => problems.push(FieldError::invalid(&from, "", "may not have more than one field specified at a time")),
        }
    }
}

const ENVIRONMENT_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// A path into the pod, among `supported` or a single label or annotation.
pub fn field_path(text: &str, path: &FieldPath, supported: &[&str], problems: &mut Vec<FieldError>) {
    if text.is_empty() || supported.contains(&text) {
        return;
    }
    let subscript = ["metadata.labels['", "metadata.annotations['"].iter().any(|prefix| text.starts_with(prefix) && text.ends_with("']"));
    if !subscript {
        problems.push(FieldError::not_supported(path, text, supported));
    }
}

fn key_reference(name: &str, key: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    filled(name, &path.child("name"), problems);
    if key.is_empty() {
        problems.push(FieldError::required(&path.child("key"), ""));
    } else {
        problems.extend(rules::invalid_each(&path.child("key"), key, rules::config_map_key_problems(key)));
    }
}

fn mounts(container: &Container, volumes: &HashSet<&str>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut points = HashSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = path.child("volumeMounts").index(index);
        let VolumeMount { name, mount_path, .. } = mount;
        if name.is_empty() {
            problems.push(FieldError::required(&at.child("name"), ""));
        } else if !volumes.contains(name.as_str()) {
            problems.push(FieldError::not_found(&at.child("name"), name.as_str()));
        }
        filled(mount_path, &at.child("mountPath"), problems);
        if !mount_path.is_empty() && !points.insert(mount_path.as_str()) {
            problems.push(FieldError::invalid(&at.child("mountPath"), mount_path.as_str(), "must be unique"));
        }
        if let Some(sub_path) = mount.sub_path.as_deref().filter(|text| !text.is_empty()) {
            volumes::descending(sub_path, &at.child("subPath"), problems);
            if mount.sub_path_expr.as_deref().is_some_and(|text| !text.is_empty()) {
                problems.push(FieldError::invalid(&at.child("subPathExpr"), mount.sub_path_expr.clone().unwrap_or_default(), "subPathExpr and subPath are mutually exclusive"));
            }
        }
        if let Some(mode) = &mount.mount_propagation {
            one_of(mode, &["Bidirectional", "HostToContainer", "None"], &at.child("mountPropagation"), problems);
        }
    }
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let at = path.child("volumeDevices").index(index);
        if device.name.is_empty() {
            problems.push(FieldError::required(&at.child("name"), ""));
        } else if !volumes.contains(device.name.as_str()) {
            problems.push(FieldError::not_found(&at.child("name"), device.name.as_str()));
        }
        filled(&device.device_path, &at.child("devicePath"), problems);
    }
}

fn resources(found: &ResourceRequirements, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let parsed = |text: &str| Quantity::parse(text).ok();
    let check = |list: &Option<std::collections::BTreeMap<String, _>>, field: &str, problems: &mut Vec<FieldError>| {
        for (name, quantity) in list.iter().flatten() {
            let quantity: &api::apimachinery::pkg::api::resource::Quantity = quantity;
            let at = path.child(field).key(name);
            problems.extend(rules::invalid_each(&at, name, rules::qualified_name_problems(name)));
            if !name.contains('/') && !is_container_resource(name) {
                problems.push(FieldError::invalid(&at, name.as_str(), "must be a standard resource for containers"));
            }
            if parsed(&quantity.0).is_some_and(|amount| amount.signum() < 0) {
                problems.push(FieldError::invalid(&at, quantity.0.as_str(), "must be greater than or equal to 0"));
            }
        }
    };
    check(&found.limits, "limits", problems);
    check(&found.requests, "requests", problems);
    for (name, request) in found.requests.iter().flatten() {
        let limit = found.limits.as_ref().and_then(|limits| limits.get(name));
        let overcommits = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        match (parsed(&request.0), limit.and_then(|limit| parsed(&limit.0))) {
            (Some(amount), Some(bound)) if bound.sub(&amount).signum() < 0 => problems.push(FieldError::invalid(
                &path.child("requests"),
                request.0.as_str(),
                format!("must be less than or equal to {name} limit of {bound}"),
            )),
            (Some(amount), Some(bound)) if !overcommits && bound != amount => problems.push(FieldError::invalid(
                &path.child("requests"),
                request.0.as_str(),
                format!("must be equal to {name} limit of {bound}"),
            )),
            (Some(_), None) if !overcommits => problems.push(FieldError::required(&path.child("limits"), "Limit must be set for non overcommitable resources")),
            _ => {}
        }
    }
}

fn is_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

fn probe(probe: &Probe, once: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut handlers = 0;
    if let Some(exec) = &probe.exec {
        handlers += 1;
        if exec.command.as_ref().is_none_or(Vec::is_empty) {
            problems.push(FieldError::required(&path.child("exec").child("command"), ""));
        }
    }
    if let Some(get) = &probe.http_get {
        handlers += 1;
        if handlers > 1 {
            problems.push(FieldError::forbidden(&path.child("httpGet"), "may not specify more than 1 handler type"));
        }
        http_get(get, &path.child("httpGet"), problems);
    }
    if let Some(socket) = &probe.tcp_socket {
        handlers += 1;
        if handlers > 1 {
            problems.push(FieldError::forbidden(&path.child("tcpSocket"), "may not specify more than 1 handler type"));
        }
        port_or_name(&socket.port, &path.child("tcpSocket").child("port"), problems);
    }
    if let Some(call) = &probe.grpc {
        handlers += 1;
        if handlers > 1 {
            problems.push(FieldError::forbidden(&path.child("grpc"), "may not specify more than 1 handler type"));
        }
        port_number(call.port, &path.child("grpc").child("port"), problems);
    }
    if handlers == 0 {
        problems.push(FieldError::required(path, "must specify a handler type"));
    }
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
        if !once {
            problems.push(FieldError::invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes"));
        } else if seconds <= 0 {
            problems.push(FieldError::invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0"));
        }
    }
    if once && let Some(threshold) = probe.success_threshold.filter(|threshold| *threshold != 1) {
        problems.push(FieldError::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

fn http_get(get: &api::core::v1::HTTPGetAction, path: &FieldPath, problems: &mut Vec<FieldError>) {
    filled(get.path.as_deref().unwrap_or_default(), &path.child("path"), problems);
    port_or_name(&get.port, &path.child("port"), problems);
    one_of(get.scheme.as_deref().unwrap_or_default(), &["HTTP", "HTTPS"], &path.child("scheme"), problems);
    for header in get.http_headers.iter().flatten() {
        problems.extend(rules::invalid_each(&path.child("httpHeaders"), &header.name, rules::http_header_name_problems(&header.name)));
    }
}

fn lifecycle(found: &Lifecycle, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (field, handler) in [("postStart", &found.post_start), ("preStop", &found.pre_stop)] {
        let Some(handler) = handler else { continue };
        let at = path.child(field);
        let count = usize::from(handler.exec.is_some())
            + usize::from(handler.http_get.is_some())
            + usize::from(handler.tcp_socket.is_some())
            + usize::from(handler.sleep.is_some());
        if count == 0 {
            problems.push(FieldError::required(&at, "must specify a handler type"));
        } else if count > 1 {
            problems.push(FieldError::forbidden(&at, "may not specify more than 1 handler type"));
        }
        if handler.exec.as_ref().is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty)) {
            problems.push(FieldError::required(&at.child("exec").child("command"), ""));
        }
        if let Some(get) = &handler.http_get {
            http_get(get, &at.child("httpGet"), problems);
        }
        if let Some(socket) = &handler.tcp_socket {
            port_or_name(&socket.port, &at.child("tcpSocket").child("port"), problems);
        }
    }
}
