//! What may be reported of a pod, and what may not be taken back.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidatePodStatusUpdate`.

use std::{collections::HashSet, net::IpAddr};

use api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, ResourceClaim};
use meta::{FieldError, FieldPath, validation as rules};
use serde_json::json;

use super::annotations;

/// The largest id of a user or group. Source: `apimachinery/pkg/util/validation`, `maxUserID`.
const LARGEST_ID: i64 = i32::MAX as i64;

/// Whether a container may leave its end whatever the pod's policy is: sidecars, and those with rules of their own.
fn restarts_by_itself(spec: &PodSpec, name: &str) -> bool {
    let ordinary = spec.containers.iter().any(|container| container.name == name && (container.restart_policy.is_some() || container.restart_policy_rules.is_some()));
    let initial = spec.init_containers.iter().flatten().any(|container| {
        container.name == name && (container.restart_policy.as_deref() == Some("Always") || container.restart_policy_rules.is_some())
    });
    ordinary || initial
}

/// A container that ended stays ended where it is never started anew.
fn transitions(new: Option<&Vec<ContainerStatus>>, old: Option<&Vec<ContainerStatus>>, policy: &str, spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if policy == "Always" {
        return;
    }
    for (index, known) in old.into_iter().flatten().enumerate() {
        let Some(ended) = known.state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
        if (ended.exit_code != 0 && policy == "OnFailure") || restarts_by_itself(spec, &known.name) {
            continue;
        }
        let goes_on = |status: &&ContainerStatus| status.name == known.name && status.state.as_ref().is_none_or(|state| state.terminated.is_none());
        for _ in new.into_iter().flatten().filter(goes_on) {
            problems.push(FieldError::forbidden(&path.index(index).child("state"), "may not be transitioned to non-terminated state"));
        }
    }
}

/// At most one address of each family, and each of them one.
fn addresses(list: &[&str], shown: serde_json::Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, address) in list.iter().enumerate() {
        problems.extend(rules::invalid_each(&path.index(index), address, rules::ip_problems(address)));
    }
    if list.len() < 2 {
        return;
    }
    let families: HashSet<bool> = list.iter().filter_map(|address| address.parse::<IpAddr>().ok()).map(|address| address.is_ipv4()).collect();
    if families.len() < 2 || list.len() > 2 {
        problems.push(FieldError::invalid(path, shown, "may specify no more than one IP for each IP family"));
    }
    let mut seen = HashSet::new();
    for (index, address) in list.iter().enumerate().filter(|(_, address)| !seen.insert(**address)) {
        problems.push(FieldError::duplicate(&path.index(index), *address));
    }
}

/// As whom containers run.
fn users(statuses: Option<&Vec<ContainerStatus>>, windows: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, status) in statuses.into_iter().flatten().enumerate() {
        let Some(user) = status.user.as_ref().and_then(|user| user.linux.as_ref()) else { continue };
        let at = path.index(index).child("linux");
        if windows {
            problems.push(FieldError::forbidden(&at, "cannot be set for a windows pod"));
            continue;
        }
        let mut id = |id: i64, path: FieldPath| {
            if !(0..=LARGEST_ID).contains(&id) {
                problems.push(FieldError::invalid(&path, id, rules::inclusive_range(0, LARGEST_ID)));
            }
        };
        id(user.uid, at.child("uid"));
        id(user.gid, at.child("gid"));
        for (position, group) in user.supplemental_groups.iter().flatten().enumerate() {
            id(*group, at.child("supplementalGroups").index(position));
        }
    }
}

/// What is known of the devices that a container was given: each is one that it asks for, and told of once.
fn allocated(statuses: Option<&Vec<ContainerStatus>>, containers: &[Container], path: &FieldPath, problems: &mut Vec<FieldError>) {
    const HEALTHS: &[&str] = &["Healthy", "Unhealthy", "Unknown"];
    for (index, status) in statuses.into_iter().flatten().enumerate() {
        let list = path.index(index).child("allocatedResourcesStatus");
        // A status of a container that is not there says nothing that could be judged.
        let resources = containers.iter().find(|container| container.name == status.name).map(|container| container.resources.clone().unwrap_or_default());
        for (position, found) in status.allocated_resources_status.iter().flatten().enumerate() {
            let at = list.index(position);
            if let Some(resources) = &resources {
                let (known, words) = if found.name.starts_with("claim:") {
                    let words = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
                    let name = |claim: &ResourceClaim| match claim.request.as_deref() {
                        None | Some("") => format!("claim:{}", claim.name),
                        Some(request) => format!("claim:{}/{request}", claim.name),
                    };
                    (resources.claims.iter().flatten().any(|claim| name(claim) == found.name), words)
                } else {
                    (resources.requests.iter().flatten().any(|(name, _)| *name == found.name), "must match one of the container's resource requests")
                };
                if !known {
                    problems.push(FieldError::invalid(&at.child("name"), found.name.as_str(), words));
                }
            }
            let mut seen = HashSet::new();
            for (place, device) in found.resources.iter().flatten().enumerate() {
                let at = at.child("resources").index(place);
                let health = device.health.as_deref().unwrap_or_default();
                if !HEALTHS.contains(&health) {
                    problems.push(FieldError::not_supported(&at.child("health"), health, HEALTHS));
                }
                if !seen.insert(device.resource_id.as_str()) {
                    problems.push(FieldError::duplicate(&at.child("resourceID"), device.resource_id.as_str()));
                }
            }
        }
    }
}

fn claims(status: &PodStatus, spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, claim) in status.resource_claim_statuses.iter().flatten().enumerate() {
        let at = path.index(index).child("name");
        if !spec.resource_claims.iter().flatten().any(|known| known.name == claim.name) {
            problems.push(FieldError::invalid(&at, claim.name.as_str(), "must match the name of an entry in `spec.resourceClaims`"));
        }
        if !seen.insert(claim.name.as_str()) {
            problems.push(FieldError::duplicate(&at, claim.name.as_str()));
        }
        if let Some(name) = claim.resource_claim_name.as_deref() {
            problems.extend(rules::invalid_each(&at, name, rules::dns1123_subdomain_problems(name)));
        }
    }
}

/// The claim that was made for what containers ask for by the names of extended resources. Source: KEP-5004 and Kubernetes since 1.34.
fn claim_of_resources(status: &PodStatus, spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(found) = &status.extended_resource_claim_status else { return };
    let name = found.resource_claim_name.as_str();
    problems.extend(rules::invalid_each(&path.child("resourceClaimName"), name, rules::dns1123_subdomain_problems(name)));
    for (index, mapping) in found.request_mappings.iter().enumerate() {
        let at = path.child("requestMappings").index(index);
        let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        if !containers.any(|container| container.name == mapping.container_name) {
            let words = "must match the name of an entry in `spec.initContainers.name` or `spec.containers.name`";
            problems.push(FieldError::invalid(&at.child("containerName"), mapping.container_name.as_str(), words));
        }
        let request = mapping.request_name.as_str();
        problems.extend(rules::invalid_each(&at.child("requestName"), request, rules::dns1123_label_problems(request)));
    }
}

/// Problems of a change of the status.
pub fn validate(pod: &Pod, old: &Pod) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let (Some(new), Some(spec)) = (&pod.status, &old.spec) else { return problems };
    let path = FieldPath::new("status");
    let nothing = PodStatus::default();
    let known = old.status.as_ref().unwrap_or(&nothing);
    annotations::validate(pod, spec, &mut problems);
    annotations::validate_update(pod, old, &mut problems);
    problems.extend(rules::values::validate_non_negative(new.observed_generation.unwrap_or_default(), &path.child("observedGeneration")));
    for (index, condition) in new.conditions.iter().flatten().enumerate() {
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            // Upstream says `metadata`, and the name of the field in Go.
            let at = FieldPath::new("metadata").child("conditions").index(index).child("Type");
            problems.extend(rules::invalid_each(&at, &condition.type_, rules::qualified_name_problems(&condition.type_)));
        }
        let at = FieldPath::new("metadata").child("conditions").index(index).child("observedGeneration");
        problems.extend(rules::values::validate_non_negative(condition.observed_generation.unwrap_or_default(), &at));
    }
    if let Some(node) = new.nominated_node_name.as_deref().filter(|node| !node.is_empty())
        && new.nominated_node_name != known.nominated_node_name
    {
        problems.extend(rules::invalid_each(&path.child("nominatedNodeName"), node, rules::dns1123_subdomain_problems(node)));
    }
    if new.qos_class != known.qos_class && known.qos_class.is_some() {
        problems.push(FieldError::invalid(&path.child("qosClass"), json!(new.qos_class), "field is immutable"));
    }
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    for (field, policy, statuses, before) in [
        ("containerStatuses", policy, &new.container_statuses, &known.container_statuses),
        ("initContainerStatuses", policy, &new.init_container_statuses, &known.init_container_statuses),
        // Those never start anew.
        ("ephemeralContainerStatuses", "Never", &new.ephemeral_container_statuses, &known.ephemeral_container_statuses),
    ] {
        transitions(statuses.as_ref(), before.as_ref(), policy, spec, &path.child(field), &mut problems);
        users(statuses.as_ref(), windows, &path.child(field), &mut problems);
    }
    allocated(new.container_statuses.as_ref(), &spec.containers, &path.child("containerStatuses"), &mut problems);
    allocated(new.init_container_statuses.as_ref(), spec.init_containers.as_deref().unwrap_or_default(), &path.child("initContainerStatuses"), &mut problems);
    for (index, status) in new.ephemeral_container_statuses.iter().flatten().enumerate() {
        if status.allocated_resources_status.as_ref().is_some_and(|list| !list.is_empty()) {
            let at = path.child("ephemeralContainerStatuses").index(index).child("allocatedResourcesStatus");
            problems.push(FieldError::forbidden(&at, "must not be specified in container status"));
        }
    }
    claim_of_resources(new, spec, &path.child("extendedResourceClaimStatus"), &mut problems);
    claims(new, spec, &path.child("resourceClaimStatuses"), &mut problems);
    let of_pod: Vec<&str> = new.pod_ips.iter().flatten().map(|address| address.ip.as_str()).collect();
    addresses(&of_pod, json!(new.pod_ips), &path.child("podIPs"), &mut problems);
    let of_host: Vec<&str> = new.host_ips.iter().flatten().map(|address| address.ip.as_str()).collect();
    if let Some(first) = of_host.first()
        && new.host_ip.as_deref().unwrap_or_default() != *first
    {
        problems.push(FieldError::invalid(&path.child("hostIPs").index(0).child("ip"), *first, "must be equal to `hostIP`"));
    }
    addresses(&of_host, json!(new.host_ips), &path.child("hostIPs"), &mut problems);
    problems
}
