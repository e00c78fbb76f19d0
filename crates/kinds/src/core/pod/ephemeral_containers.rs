//! Adding containers for debugging to a pod that runs: `pods/ephemeralcontainers`.
//!
//! Source: KEP-277 and Kubernetes 1.36, `ValidatePodEphemeralContainersUpdate` and `validateEphemeralContainers`.

use std::collections::HashSet;

use api::core::v1::{EphemeralContainer, Pod, PodSpec};
use meta::{FieldError, FieldPath};

use super::{is_mirror, keep_metadata, validation};

/// Takes back everything but the list itself.
pub fn prepare(pod: &mut Pod, old: &Pod) {
    keep_metadata(pod, old);
    pod.status.clone_from(&old.status);
    let (Some(new), Some(old)) = (&mut pod.spec, &old.spec) else { return };
    let list = new.ephemeral_containers.take();
    *new = PodSpec { ephemeral_containers: list, ..old.clone() };
}

/// Problems of a change: what is there must stay as it is.
pub fn validate(pod: &Pod, old: &Pod) -> Vec<FieldError> {
    let path = FieldPath::new("spec");
    let (Some(new), Some(old_spec)) = (&pod.spec, &old.spec) else { return Vec::new() };
    if is_mirror(old) {
        return vec![FieldError::forbidden(&FieldPath::new(""), "static pods do not support ephemeral containers")];
    }
    let mut problems = validation::known_pod(pod);
    let path = path.child("ephemeralContainers");
    let list = new.ephemeral_containers.as_deref().unwrap_or_default();
    for known in old_spec.ephemeral_containers.iter().flatten() {
        let name = &known.name;
        // A patch may reorder them, so each is looked for.
        match list.iter().find(|container| container.name == *name) {
            None => problems.push(FieldError::forbidden(&path, format!("existing ephemeral containers {name:?} may not be removed\n"))),
            Some(now) if now != known => problems.push(FieldError::forbidden(&path, format!("existing ephemeral containers {name:?} may not be changed\n"))),
            Some(_) => {}
        }
    }
    problems
}

/// Problems of one ephemeral container beyond those that every container may have. `names` are those of the pod's other containers.
pub fn validate_one(container: &EphemeralContainer, names: &HashSet<&str>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(target) = container.target_container_name.as_deref().filter(|target| !target.is_empty())
        && !names.contains(target)
    {
        problems.push(FieldError::not_found(&path.child("targetContainerName"), target));
    }
    let resources = container.resources.as_ref();
    let has_resources = resources.is_some_and(|found| found.limits.is_some() || found.requests.is_some() || found.claims.is_some());
    for (field, is_set) in [
        ("ports", container.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
        ("resources", has_resources),
        ("resizePolicy", container.resize_policy.as_ref().is_some_and(|list| !list.is_empty())),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty())),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if is_set {
            problems.push(FieldError::forbidden(&path.child(field), "cannot be set for an Ephemeral Container"));
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if value.as_deref().is_some_and(|text| !text.is_empty()) {
                problems.push(FieldError::forbidden(&path.child("volumeMounts").index(index).child(field), "cannot be set for an Ephemeral Container"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(ephemeral: Value) -> Pod {
        let spec = json!({ "containers": [{ "name": "c", "image": "i" }], "ephemeralContainers": ephemeral, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst" });
        let mut pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": spec })).unwrap();
        super::super::defaults::spec(pod.spec.as_mut().unwrap(), true);
        pod
    }

    #[track_caller]
    fn check(old: Value, new: Value, expected: &[&str]) {
        let (mut new, old) = (pod(new), pod(old));
        new.spec.as_mut().unwrap().containers[0].image = Some("other".to_owned());
        prepare(&mut new, &old);
        assert_eq!(new.spec.as_ref().unwrap().containers[0].image.as_deref(), Some("i"), "nothing else changes");
        let told: Vec<String> = validate(&new, &old).into_iter().map(|problem| problem.to_string()).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn containers_are_added_and_stay() {
        let one = json!([{ "name": "d", "image": "i", "targetContainerName": "c" }]);
        check(json!([]), one.clone(), &[]);
        check(one.clone(), json!([]), &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed\n"]);
        check(one, json!([{ "name": "d", "image": "j" }]), &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be changed\n"]);
    }

    #[test]
    fn they_have_neither_ports_nor_probes_nor_unknown_targets() {
        check(
            json!([]),
            json!([{ "name": "d", "image": "i", "targetContainerName": "x", "ports": [{ "containerPort": 1, "protocol": "TCP" }], "resources": { "limits": { "cpu": "1" } } }]),
            &[
                "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
                "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
                "spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container",
            ],
        );
    }
}
