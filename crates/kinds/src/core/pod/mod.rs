//! Pod: containers that share an address and volumes on one node.

pub mod affinity;
mod annotations;
pub mod columns;
pub mod container;
pub mod defaults;
pub mod environment;
pub mod ephemeral_containers;
pub mod mounts;
pub mod quality;
pub mod resize;
pub mod resources;
pub mod security;
mod status;
pub mod update;
pub mod validation;
pub mod volumes;
pub mod warnings;
pub mod whole_resources;

use api::core::v1::{Pod, PodStatus};
use jiff::Timestamp;
use meta::{FieldError, Object};
use serde_json::Value;

use crate::strategy::{Column, DeletionGrace, Strategy, WriteContext};

/// Behaviour of pods.
pub struct PodStrategy;

/// Marks the API's copy of a pod that a node runs from a file of its own, a mirror pod.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Whether a pod is the API's copy of one that a node runs from a file.
fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION))
}

/// What a subresource may not change of the metadata: everything that people write.
fn keep_metadata(pod: &mut Pod, old: &Pod) {
    pod.metadata.labels.clone_from(&old.metadata.labels);
    pod.metadata.annotations.clone_from(&old.metadata.annotations);
    pod.metadata.finalizers.clone_from(&old.metadata.finalizers);
    pod.metadata.owner_references.clone_from(&old.metadata.owner_references);
}

/// `Pending` where nothing was reported yet.
fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

impl Strategy for PodStrategy {
    type Kind = Pod;

    fn default(&self, pod: &mut Pod) {
        if let Some(spec) = &mut pod.spec {
            defaults::spec(spec, true);
        }
    }
    fn prepare_create(&self, _context: &WriteContext, pod: &mut Pod) {
        let class = pod.spec.as_ref().map(quality::class_of);
        let gated = pod.spec.as_ref().is_some_and(|spec| spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()));
        let conditions = gated.then(|| {
            vec![api::core::v1::PodCondition {
                type_: "PodScheduled".to_owned(),
                status: "False".to_owned(),
                reason: Some("SchedulingGated".to_owned()),
                message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
                ..api::core::v1::PodCondition::default()
            }]
        });
        pod.status =
            Some(PodStatus { phase: Some("Pending".to_owned()), qos_class: class.map(str::to_owned), conditions, ..PodStatus::default() });
    }
    fn prepare_status_update(&self, _context: &WriteContext, pod: &mut Pod, old: &Pod) {
        pod.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
        pod.metadata.owner_references.clone_from(&old.metadata.owner_references);
        let (Some(status), Some(known)) = (&mut pod.status, &old.status) else { return };
        // Reporters that know nothing of these keep them.
        let reported = |generation: Option<i64>| generation.filter(|generation| *generation != 0);
        status.qos_class = status.qos_class.take().filter(|class| !class.is_empty()).or_else(|| known.qos_class.clone());
        status.observed_generation = reported(status.observed_generation).or(known.observed_generation);
        for condition in status.conditions.iter_mut().flatten() {
            let before = known.conditions.iter().flatten().find(|one| one.type_ == condition.type_);
            condition.observed_generation = reported(condition.observed_generation).or_else(|| before?.observed_generation);
        }
    }
    fn validate(&self, pod: &Pod) -> Vec<FieldError> {
        validation::new_pod(pod)
    }
    fn validate_update(&self, pod: &Pod, old: &Pod) -> Vec<FieldError> {
        update::validate(pod, old)
    }
    fn validate_status_update(&self, pod: &Pod, old: &Pod) -> Vec<FieldError> {
        status::validate(pod, old)
    }
    fn has_rules_for(&self, subresource: &str) -> bool {
        matches!(subresource, "resize" | "ephemeralcontainers")
    }
    fn prepare_subresource_update(&self, subresource: &str, pod: &mut Pod, old: &Pod) {
        match subresource {
            "resize" => resize::prepare(pod, old),
            "ephemeralcontainers" => ephemeral_containers::prepare(pod, old),
            _ => {}
        }
    }
    fn validate_subresource_update(&self, subresource: &str, pod: &Pod, old: &Pod) -> Vec<FieldError> {
        match subresource {
            "resize" => resize::validate(pod, old),
            "ephemeralcontainers" => ephemeral_containers::validate(pod, old),
            _ => Vec::new(),
        }
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn status_warnings(&self, pod: &Object) -> Vec<String> {
        let of = |list| crate::warnings::reported(pod, &["status", list], "ip", |path| path.child("ip"));
        [of("podIPs"), of("hostIPs")].concat()
    }
    fn warnings(&self, pod: &Pod, old: Option<&Pod>) -> Vec<String> {
        // Whoever changes a pod was told when it was made.
        let Some(spec) = pod.spec.as_ref().filter(|_| old.is_none()) else { return Vec::new() };
        warnings::name_of_pod(&pod.metadata).into_iter().chain(warnings::of_pod(&pod.metadata, spec)).collect()
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }
    fn selectable_fields(&self, pod: &Pod) -> Vec<(&'static str, String)> {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let of_spec = |get: fn(&api::core::v1::PodSpec) -> Option<&String>| spec.and_then(get).cloned().unwrap_or_default();
        let of_status = |get: fn(&PodStatus) -> Option<&String>| status.and_then(get).cloned().unwrap_or_default();
        let address = status.and_then(|status| status.pod_ips.as_ref()).and_then(|all| all.first()).map(|first| first.ip.clone());
        vec![
            ("spec.nodeName", of_spec(|spec| spec.node_name.as_ref())),
            ("spec.restartPolicy", of_spec(|spec| spec.restart_policy.as_ref())),
            ("spec.schedulerName", of_spec(|spec| spec.scheduler_name.as_ref())),
            ("spec.serviceAccountName", of_spec(|spec| spec.service_account_name.as_ref())),
            ("spec.hostNetwork", spec.is_some_and(|spec| spec.host_network == Some(true)).to_string()),
            ("status.phase", of_status(|status| status.phase.as_ref())),
            ("status.podIP", address.clone().unwrap_or_else(|| of_status(|status| status.pod_ip.as_ref()))),
            ("status.podIPs", address.unwrap_or_default()),
            ("status.nominatedNodeName", of_status(|status| status.nominated_node_name.as_ref())),
        ]
    }
    fn columns(&self) -> &'static [Column] {
        columns::COLUMNS
    }
    fn row(&self, pod: &Pod, raw: &Object, now: Timestamp) -> Vec<Value> {
        columns::row(pod, raw, now)
    }
    fn deletion_grace(&self, pod: &Pod, requested: Option<i64>) -> DeletionGrace {
        // Nobody runs an unscheduled or finished pod, so nobody would finish its deletion.
        let scheduled = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
        if !scheduled || matches!(phase(pod), "Succeeded" | "Failed") {
            return DeletionGrace::Immediate;
        }
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        match requested.unwrap_or(own) {
            0 => DeletionGrace::Immediate,
            // A negative period means the shortest one there is.
            ..0 => DeletionGrace::Seconds(1),
            seconds => DeletionGrace::Seconds(seconds),
        }
    }
}
