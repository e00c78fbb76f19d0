//! Defaults of pods and pod templates that depend on other fields.
//!
//! Source: Kubernetes `pkg/apis/core/v1/defaults.go`. Constant ones stand in the table of facts.

use std::collections::BTreeMap;

use api::{
    apimachinery::pkg::api::resource::Quantity,
    core::v1::{Container, EphemeralContainer, PodSpec, PodTemplateSpec, Probe, ResourceRequirements},
};
use meta::quantity;

/// `Always` for the tag `latest` and for none, else `IfNotPresent`.
pub fn pull_policy_of(image: &str) -> &'static str {
    let without_digest = image.split_once('@');
    let name = without_digest.map_or(image, |(name, _)| name);
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.rsplit_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if without_digest.is_some() => "IfNotPresent",
        None => "Always",
    }
}

fn set<T>(place: &mut Option<T>, value: T) {
    if place.is_none() {
        *place = Some(value);
    }
}

/// The canonical text of an amount, as upstream's readers write it back.
fn round_up(list: Option<&mut BTreeMap<String, Quantity>>) {
    for quantity in list.into_iter().flat_map(BTreeMap::values_mut) {
        if let Ok(parsed) = quantity::Quantity::parse(&quantity.0) {
            quantity.0 = parsed.rounded_up(-3).to_string();
        }
    }
}

fn resources(resources: &mut ResourceRequirements, requests_follow_limits: bool) {
    round_up(resources.limits.as_mut());
    round_up(resources.requests.as_mut());
    if requests_follow_limits && let Some(limits) = &resources.limits && !limits.is_empty() {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

fn grpc_probe(probe: Option<&mut Probe>) {
    if let Some(grpc) = probe.and_then(|probe| probe.grpc.as_mut()) {
        set(&mut grpc.service, String::new());
    }
}

fn container(container: &mut Container, of_pod: bool, host_network: bool) {
    if container.image_pull_policy.as_deref().unwrap_or_default().is_empty() {
        container.image_pull_policy = Some(pull_policy_of(container.image.as_deref().unwrap_or_default()).to_owned());
    }
    if let Some(found) = &mut container.resources {
        resources(found, of_pod);
    }
    if host_network {
        for port in container.ports.iter_mut().flatten() {
            set(&mut port.host_port, port.container_port);
        }
    }
    grpc_probe(container.liveness_probe.as_mut());
    grpc_probe(container.readiness_probe.as_mut());
    grpc_probe(container.startup_probe.as_mut());
}

fn ephemeral(container: &mut EphemeralContainer) {
    if container.image_pull_policy.as_deref().unwrap_or_default().is_empty() {
        container.image_pull_policy = Some(pull_policy_of(container.image.as_deref().unwrap_or_default()).to_owned());
    }
}

/// Defaults of a pod's specification. Those only a real pod gets (requests from limits, service links) are left out for
/// templates, as upstream does.
pub fn spec(spec: &mut PodSpec, of_pod: bool) {
    // Both names of the account are kept equal for old clients.
    match (&spec.service_account_name, &spec.service_account) {
        (Some(name), _) if !name.is_empty() => spec.service_account = Some(name.clone()),
        (_, Some(name)) if !name.is_empty() => spec.service_account_name = Some(name.clone()),
        _ => {}
    }
    let host_network = spec.host_network == Some(true);
    for one in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        container(one, of_pod, host_network);
    }
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral);
    for volume in spec.volumes.iter_mut().flatten() {
        if let Some(image) = &mut volume.image
            && image.pull_policy.as_deref().unwrap_or_default().is_empty()
        {
            image.pull_policy = Some(pull_policy_of(image.reference.as_deref().unwrap_or_default()).to_owned());
        }
        let has_source = serde_json::to_value(&*volume).ok().and_then(|value| value.as_object().map(|map| map.len() > 1)).unwrap_or(true);
        if !has_source {
            volume.empty_dir = Some(api::core::v1::EmptyDirVolumeSource::default());
        }
    }
    if of_pod {
        set(&mut spec.enable_service_links, true);
    }
    if let Some(pod_resources) = &mut spec.resources {
        resources(pod_resources, false);
    }
    if of_pod {
        super::whole_resources::default(spec);
    }
    if let Some(overhead) = &mut spec.overhead {
        round_up(Some(overhead));
    }
}

/// Defaults of a template.
pub fn template(template: &mut PodTemplateSpec) {
    if let Some(found) = &mut template.spec {
        spec(found, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:v1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy_of(image), policy, "{image}");
        }
    }
}
