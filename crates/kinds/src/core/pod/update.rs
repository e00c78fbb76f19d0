//! What may change of a pod.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidatePodUpdate`.

use api::core::v1::{Affinity, Container, Pod, PodSpec, Toleration};
use meta::{FieldError, FieldPath};

use super::{affinity, annotations, validation};

const IMMUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Copies the fields that may change of `from` into `to`, so that the rest can be compared.
fn adopt_images(to: &mut [Container], from: &[Container]) {
    for (container, other) in to.iter_mut().zip(from) {
        container.image.clone_from(&other.image);
    }
}

fn only_added(new: &[Toleration], old: &[Toleration]) -> bool {
    old.iter().all(|toleration| {
        new.iter().any(|candidate| {
            // The period of a known toleration may change.
            let same = Toleration { toleration_seconds: toleration.toleration_seconds, ..candidate.clone() };
            same == *toleration
        })
    })
}

fn images(new: &[Container], path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, container) in new.iter().enumerate() {
        let image = container.image.as_deref().unwrap_or_default();
        if image.is_empty() {
            problems.push(FieldError::required(&path.index(index).child("image"), ""));
        }
    }
}

/// Problems of a change of anything but the status.
pub fn validate(pod: &Pod, old: &Pod) -> Vec<FieldError> {
    let path = FieldPath::new("spec");
    let (Some(new), Some(old_spec)) = (&pod.spec, &old.spec) else { return Vec::new() };
    let mut problems = validation::known_pod(pod);
    annotations::validate_update(pod, old, &mut problems);
    if new.containers.len() != old_spec.containers.len() {
        problems.push(FieldError::forbidden(&path.child("containers"), "pod updates may not add or remove containers"));
        return problems;
    }
    let initial = |spec: &PodSpec| spec.init_containers.as_ref().map_or(0, Vec::len);
    if initial(new) != initial(old_spec) {
        problems.push(FieldError::forbidden(&path.child("initContainers"), "pod updates may not add or remove containers"));
        return problems;
    }
    images(&new.containers, &path.child("containers"), &mut problems);
    images(new.init_containers.as_deref().unwrap_or_default(), &path.child("initContainers"), &mut problems);
    let deadline = path.child("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old_spec.active_deadline_seconds) {
        (Some(wanted), _) if !(0..=i64::from(i32::MAX)).contains(&wanted) => {
            problems.push(FieldError::invalid(&deadline, wanted, meta::validation::inclusive_range(0, i64::from(i32::MAX))));
            return problems;
        }
        (Some(wanted), Some(known)) if wanted > known => {
            problems.push(FieldError::invalid(&deadline, wanted, "must be less than or equal to previous value"));
            return problems;
        }
        (None, Some(_)) => {
            problems.push(FieldError::invalid(&deadline, serde_json::Value::Null, "must not update from a positive integer to nil value"));
        }
        _ => {}
    }
    let tolerations = new.tolerations.as_deref().unwrap_or_default();
    let old_tolerations = old_spec.tolerations.as_deref().unwrap_or_default();
    if tolerations != old_tolerations {
        if !only_added(tolerations, old_tolerations) {
            problems.push(FieldError::forbidden(&path.child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"));
        }
    }
    let gates = new.scheduling_gates.as_deref().unwrap_or_default();
    let old_gates = old_spec.scheduling_gates.as_deref().unwrap_or_default();
    for (index, gate) in gates.iter().enumerate() {
        if !old_gates.contains(gate) {
            problems.push(FieldError::forbidden(
                &path.child("schedulingGates").index(index).child("name"),
                format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name),
            ));
        }
    }
    let mut adopted = new.clone();
    adopt_images(&mut adopted.containers, &old_spec.containers);
    if let (Some(to), Some(from)) = (&mut adopted.init_containers, &old_spec.init_containers) {
        adopt_images(to, from);
    }
    adopted.active_deadline_seconds = old_spec.active_deadline_seconds;
    adopted.tolerations.clone_from(&old_spec.tolerations);
    adopted.scheduling_gates.clone_from(&old_spec.scheduling_gates);
    if old_spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) && new.termination_grace_period_seconds == Some(1) {
        adopted.termination_grace_period_seconds = old_spec.termination_grace_period_seconds;
    }
    if !old_gates.is_empty() {
        // A pod that is held back from scheduling may still be told where it must not go.
        let kept = old_spec.node_selector.iter().flatten().all(|(key, value)| new.node_selector.as_ref().and_then(|new| new.get(key)) == Some(value));
        if !kept {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            problems.push(FieldError::invalid(&path.child("nodeSelector"), serde_json::json!(new.node_selector), detail));
        }
        adopted.node_selector.clone_from(&old_spec.node_selector);
        affinity::only_narrowed(new.affinity.as_ref(), old_spec.affinity.as_ref(), &path.child("affinity").child("nodeAffinity"), &mut problems);
        let old_nodes = old_spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
        let affinity = adopted.affinity.get_or_insert_default();
        affinity.node_affinity = old_nodes;
        if *affinity == Affinity::default() {
            adopted.affinity.clone_from(&old_spec.affinity);
        }
    }
    if adopted != *old_spec {
        problems.push(FieldError::forbidden(&path, IMMUTABLE));
    }
    problems
}
