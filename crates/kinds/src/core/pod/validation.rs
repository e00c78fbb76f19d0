//! What is wrong with a pod's specification as a whole; containers, volumes, affinities and security have files of their own.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidatePodSpec`.

use std::collections::HashSet;

use api::core::v1::{Pod, PodSpec, PodTemplateSpec, Toleration};
use meta::{FieldError, FieldPath, validation as rules};

use super::{affinity, annotations, container, environment, resources, security, volumes, whole_resources};
use crate::problems::one_of;

/// Problems of a new pod.
pub fn new_pod(pod: &Pod) -> Vec<FieldError> {
    let path = FieldPath::new("spec");
    let Some(spec) = &pod.spec else { return vec![FieldError::required(&path.child("containers"), "")] };
    let mut problems = known_pod(pod);
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        problems.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if gated && spec.node_name.as_deref().is_some_and(|node| !node.is_empty()) {
        problems.push(FieldError::forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared"));
    }
    annotations::validate_against_fields(pod, spec, &path, &mut problems);
    problems
}

/// Problems of a pod, new or changed.
pub fn known_pod(pod: &Pod) -> Vec<FieldError> {
    let path = FieldPath::new("spec");
    let Some(spec) = &pod.spec else { return Vec::new() };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut problems = pod_spec(spec, Some(name), &path);
    if spec.service_account_name.as_deref().unwrap_or_default().is_empty() {
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            for (position, _) in sources.enumerate().filter(|(_, source)| source.service_account_token.is_some()) {
                let at = path.child("volumes").index(index).child("projected").child("sources").index(position).child("serviceAccountToken");
                problems.push(FieldError::forbidden(&at, "must not be specified when serviceAccountName is not set"));
            }
        }
    }
    annotations::validate(pod, spec, &mut problems);
    problems
}

/// Problems of a template within a workload.
pub fn template(template: &PodTemplateSpec, path: &FieldPath) -> Vec<FieldError> {
    let mut problems = Vec::new();
    if let Some(metadata) = &template.metadata {
        // Upstream leaves `metadata` out of these two paths.
        problems.extend(crate::problems::labels(metadata.labels.as_ref(), &path.child("labels")));
        for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
            problems.extend(rules::invalid_each(
                &path.child("annotations"),
                key,
                rules::qualified_name_problems(&key.to_lowercase()),
            ));
        }
    }
    match &template.spec {
        Some(spec) => problems.extend(pod_spec(spec, None, &path.child("spec"))),
        None => problems.push(FieldError::required(&path.child("spec").child("containers"), "")),
    }
    if template.spec.as_ref().is_some_and(|spec| spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty())) {
        problems.push(FieldError::forbidden(&path.child("spec").child("ephemeralContainers"), "ephemeral containers not allowed in pod template"));
    }
    problems
}

/// Problems of a specification, of the pod of that name or of a template.
fn pod_spec(spec: &PodSpec, pod_name: Option<&str>, path: &FieldPath) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let (volumes, volume_problems) = volumes::validate(spec.volumes.as_deref().unwrap_or_default(), pod_name.unwrap_or_default(), &path.child("volumes"));
    problems.extend(volume_problems);
    let claims: Vec<&str> = spec.resource_claims.iter().flatten().map(|claim| claim.name.as_str()).filter(|name| !name.is_empty()).collect();
    resource_claims(spec, &path.child("resourceClaims"), &mut problems);
    container::all(&container::Surroundings { volumes, claims, spec, is_pod: pod_name.is_some() }, path, &mut problems);
    problems.extend(whole_resources::validate(spec, path));
    domain_names(spec, path, &mut problems);
    security::pod(spec, path, &mut problems);
    security::operating_system(spec, path, &mut problems);
    if let Some(found) = &spec.affinity {
        affinity::affinity(found, &path.child("affinity"), &mut problems);
    }
    affinity::spread(spec.topology_spread_constraints.as_deref().unwrap_or_default(), &path.child("topologySpreadConstraints"), &mut problems);
    if let Some(found) = &spec.overhead {
        resources::overhead(found, &path.child("overhead"), &mut problems);
    }
    names(spec, path, &mut problems);
    host_name(spec, path, &mut problems);
    environment::volumes_of_files(spec, path, &mut problems);
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    one_of(policy, &["Always", "OnFailure", "Never"], &path.child("restartPolicy"), &mut problems);
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
        for (position, name) in alias.hostnames.iter().flatten().enumerate() {
            problems.extend(rules::invalid_each(&at.child("hostnames").index(position), name, rules::dns1123_subdomain_problems(name)));
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
    // Source: Kubernetes 1.36, `core/v1/types.go`, whose rules for a group are declared beside its fields.
    if let Some(group) = &spec.scheduling_group {
        let at = path.child("schedulingGroup");
        match group.pod_group_name.as_deref() {
            None => problems.push(FieldError::invalid(&at, "", "must specify one of: `podGroupName`")),
            Some(name) => problems.extend(rules::invalid_each(&at.child("podGroupName"), name, rules::dns1123_subdomain_problems(name))),
        }
    }
    if let Some(policy) = spec.preemption_policy.as_deref() {
        match policy {
            "" => problems.push(FieldError::required(&path.child("preemptionPolicy"), "")),
            "PreemptLowerPriority" | "Never" => {}
            other => problems.push(FieldError::not_supported(&path.child("preemptionPolicy"), other, &["PreemptLowerPriority", "Never"])),
        }
    }
    problems
}

fn names(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let checks: [(&str, &Option<String>, fn(&str) -> Vec<String>); 6] = [
        ("serviceAccountName", &spec.service_account_name, rules::dns1123_subdomain_problems),
        ("nodeName", &spec.node_name, rules::dns1123_subdomain_problems),
        ("hostname", &spec.hostname, rules::dns1123_label_problems),
        ("subdomain", &spec.subdomain, rules::dns1123_label_problems),
        ("priorityClassName", &spec.priority_class_name, rules::dns1123_subdomain_problems),
        ("runtimeClassName", &spec.runtime_class_name, rules::dns1123_subdomain_problems),
    ];
    for (field, value, check) in checks {
        if let Some(text) = value.as_deref().filter(|text| !text.is_empty()) {
            problems.extend(rules::invalid_each(&path.child(field), text, check(text)));
        }
    }
}

/// The name that a pod sees of itself in place of all others. Source: KEP-4762 and Kubernetes since 1.34, `validatePodHostName`.
fn host_name(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST: usize = 64;
    let Some(name) = spec.hostname_override.as_deref() else { return };
    let at = path.child("hostnameOverride");
    problems.extend(rules::invalid_each(&at, name, rules::dns1123_subdomain_problems(name)));
    if name.len() > LONGEST {
        problems.push(FieldError::too_long(&at, LONGEST));
    }
    for (set, other) in [(spec.set_hostname_as_fqdn, "setHostnameAsFQDN"), (spec.host_network, "hostNetwork")] {
        if set == Some(true) {
            problems.push(FieldError::forbidden(&at, format!("may not be specified when {other} is true")));
        }
    }
}

fn resource_claims(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut names = HashSet::new();
    for (index, claim) in spec.resource_claims.iter().flatten().enumerate() {
        let at = path.index(index);
        if claim.name.is_empty() {
            problems.push(FieldError::required(&at.child("name"), ""));
        } else if names.insert(claim.name.as_str()) {
            problems.extend(rules::invalid_each(&at.child("name"), &claim.name, rules::dns1123_label_problems(&claim.name)));
        } else {
            problems.push(FieldError::duplicate(&at.child("name"), claim.name.as_str()));
        }
        let shown = || serde_json::to_value(claim).unwrap_or_default();
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                problems.push(FieldError::invalid(&at, shown(), detail));
            }
            (None, None) => {
                problems.push(FieldError::invalid(&at, shown(), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"));
            }
            _ => {}
        }
        for (field, name) in [("resourceClaimName", &claim.resource_claim_name), ("resourceClaimTemplateName", &claim.resource_claim_template_name)] {
            if let Some(name) = name {
                problems.extend(rules::invalid_each(&at.child(field), name, rules::dns1123_subdomain_problems(name)));
            }
        }
    }
}

fn domain_names(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MOST_SERVERS: usize = 3;
    const MOST_SEARCHES: usize = 32;
    const LONGEST_SEARCH: usize = 2048;
    let policy = spec.dns_policy.as_deref().unwrap_or_default();
    match policy {
        "" => problems.push(FieldError::required(&path.child("dnsPolicy"), "")),
        "ClusterFirstWithHostNet" | "ClusterFirst" | "Default" | "None" => {}
        other => problems.push(FieldError::not_supported(&path.child("dnsPolicy"), other, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"])),
    }
    let at = path.child("dnsConfig");
    let Some(config) = &spec.dns_config else {
        if policy == "None" {
            problems.push(FieldError::required(&at, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if policy == "None" && servers.is_empty() {
        problems.push(FieldError::required(&at.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"));
        return;
    }
    if servers.len() > MOST_SERVERS {
        problems.push(FieldError::invalid(&at.child("nameservers"), servers.to_vec(), format!("must not have more than {MOST_SERVERS} nameservers")));
    }
    for (index, server) in servers.iter().enumerate() {
        problems.extend(rules::invalid_each(&at.child("nameservers").index(index), server, rules::ip_problems(server)));
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > MOST_SEARCHES {
        problems.push(FieldError::invalid(&at.child("searches"), searches.to_vec(), format!("must not have more than {MOST_SEARCHES} search paths")));
    }
    if searches.join(" ").len() > LONGEST_SEARCH {
        let detail = format!("must not have more than {LONGEST_SEARCH} characters (including spaces) in the search list");
        problems.push(FieldError::invalid(&at.child("searches"), searches.to_vec(), detail));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        problems.extend(rules::invalid_each(&at.child("searches").index(index), search, rules::dns1123_subdomain_with_underscore_problems(search)));
    }
    for (index, _) in config.options.iter().flatten().enumerate().filter(|(_, option)| option.name.as_deref().unwrap_or_default().is_empty()) {
        problems.push(FieldError::required(&at.child("options").index(index), "must not be empty"));
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
            "" | "Equal" => {
                let wrong = rules::label_value_problems(value);
                if !wrong.is_empty() {
                    problems.push(FieldError::invalid(&at.child("operator"), value, wrong.join(";")));
                }
            }
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

/// `TCP`, `UDP` or `SCTP`.
pub fn protocol(protocol: Option<&str>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match protocol.unwrap_or_default() {
        "" => problems.push(FieldError::required(path, "")),
        text => one_of(text, &["SCTP", "TCP", "UDP"], path, problems),
    }
}

