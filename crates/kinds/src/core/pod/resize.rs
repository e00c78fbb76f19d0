//! Changing the resources of a pod that runs: `pods/resize`.
//!
//! Source: KEP-1287 and Kubernetes 1.36, `ValidatePodResize`.

use std::collections::BTreeMap;

use api::{
    apimachinery::pkg::api::resource::Quantity,
    core::v1::{Container, Pod, PodSpec, ResourceRequirements},
};
use meta::{FieldError, FieldPath, quantity::Quantity as Amount};

use super::{is_mirror, keep_metadata, quality, validation};

/// The resources that may change while a container runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Takes back everything but resources and resize policies; what became of these is for [`validate`] to judge.
pub fn prepare(pod: &mut Pod, old: &Pod) {
    keep_metadata(pod, old);
    pod.status.clone_from(&old.status);
    let (Some(new), Some(old)) = (&mut pod.spec, &old.spec) else { return };
    if new.containers.len() != old.containers.len() || count(new) != count(old) {
        return;
    }
    let mut kept = old.clone();
    take_resources(&mut kept.containers, &new.containers);
    if let (Some(to), Some(from)) = (&mut kept.init_containers, &new.init_containers) {
        take_resources(to, from);
    }
    kept.resources.clone_from(&new.resources);
    *new = kept;
}

fn count(spec: &PodSpec) -> usize {
    spec.init_containers.as_ref().map_or(0, Vec::len)
}

fn take_resources(to: &mut [Container], from: &[Container]) {
    for (to, from) in to.iter_mut().zip(from) {
        // Also the name, so that a renamed or moved container is seen.
        to.name.clone_from(&from.name);
        to.resources.clone_from(&from.resources);
        to.resize_policy.clone_from(&from.resize_policy);
    }
}

/// Problems of a resize.
pub fn validate(pod: &Pod, old: &Pod) -> Vec<FieldError> {
    let path = FieldPath::new("spec");
    let (Some(new), Some(old_spec)) = (&pod.spec, &old.spec) else { return Vec::new() };
    if is_mirror(old) {
        return vec![FieldError::forbidden(&FieldPath::new(""), "static pods cannot be resized")];
    }
    if old_spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return vec![FieldError::forbidden(&FieldPath::new(""), "windows pods cannot be resized")];
    }
    if new.containers.len() != old_spec.containers.len() {
        return vec![FieldError::forbidden(&path.child("containers"), "containers may not be added or removed on resize")];
    }
    if count(new) != count(old_spec) {
        return vec![FieldError::forbidden(&path.child("initContainers"), "initContainers may not be added or removed on resize")];
    }
    let mut problems = validation::known_pod(pod);
    for (list, new, old) in lists(new, old_spec) {
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            let at = path.child(list).index(index);
            if new.name != old.name {
                problems.push(FieldError::forbidden(&at.child("name"), format!("{list} may not be renamed or reordered on resize")));
                continue;
            }
            let is_run_to_end = list == "initContainers" && old.restart_policy.as_deref() != Some("Always");
            if is_run_to_end && new.resources != old.resources {
                problems.push(FieldError::forbidden(&at.child("resources"), "resources for non-sidecar init containers are immutable"));
            }
            removed(new.resources.as_ref(), old.resources.as_ref(), &at.child("resources"), &mut problems);
        }
    }
    removed(new.resources.as_ref(), old_spec.resources.as_ref(), &path.child("resources"), &mut problems);
    // The class that the pod was given stands, as it does in its status.
    let class = old.status.as_ref().and_then(|status| status.qos_class.as_deref()).unwrap_or_else(|| quality::class_of(old_spec));
    let changed = quality::class_of(new);
    if changed != class {
        problems.push(FieldError::invalid(&path, changed, "Pod QOS Class may not change as a result of resizing"));
    }
    if !is_otherwise_equal(new, old_spec) {
        problems.push(FieldError::forbidden(&path, "only cpu and memory resources are mutable"));
    }
    problems
}

fn lists<'a>(new: &'a PodSpec, old: &'a PodSpec) -> [(&'static str, &'a [Container], &'a [Container]); 2] {
    [
        ("containers", &new.containers, &old.containers),
        ("initContainers", new.init_containers.as_deref().unwrap_or_default(), old.init_containers.as_deref().unwrap_or_default()),
    ]
}

/// Requests and limits of processor and memory that were there must stay.
fn removed(new: Option<&ResourceRequirements>, old: Option<&ResourceRequirements>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    type List = Option<BTreeMap<String, Quantity>>;
    let is_gone = |list: fn(&ResourceRequirements) -> &List| {
        let has = |side: Option<&ResourceRequirements>, name: &str| side.and_then(|side| list(side).as_ref()).is_some_and(|list| list.contains_key(name));
        RESIZABLE.iter().any(|name| has(old, name) && !has(new, name))
    };
    if is_gone(|side| &side.requests) {
        problems.push(FieldError::forbidden(&path.child("requests"), "resource requests cannot be removed"));
    }
    if is_gone(|side| &side.limits) {
        problems.push(FieldError::forbidden(&path.child("limits"), "resource limits cannot be removed"));
    }
}

/// Whether two specifications differ in nothing but what may be resized.
fn is_otherwise_equal(new: &PodSpec, old: &PodSpec) -> bool {
    let strip = |spec: &PodSpec| {
        let mut spec = spec.clone();
        let whole = spec.resources.take();
        let mut left = vec![left_over(whole.as_ref())];
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let resources = container.resources.take();
            left.push(left_over(resources.as_ref()));
        }
        (spec, left)
    };
    strip(new) == strip(old)
}

/// What resources say beyond processor and memory, with amounts as numbers.
fn left_over(resources: Option<&ResourceRequirements>) -> (Vec<(String, Amount)>, Vec<(String, Amount)>, String) {
    let others = |list: Option<&BTreeMap<String, Quantity>>| -> Vec<(String, Amount)> {
        let others = list.into_iter().flatten().filter(|(name, _)| !RESIZABLE.contains(&name.as_str()));
        others.filter_map(|(name, amount)| Some((name.clone(), Amount::parse(&amount.0).ok()?))).collect()
    };
    let claims = resources.and_then(|resources| resources.claims.as_ref()).filter(|claims| !claims.is_empty());
    (
        others(resources.and_then(|resources| resources.limits.as_ref())),
        others(resources.and_then(|resources| resources.requests.as_ref())),
        claims.map(|claims| format!("{claims:?}")).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "a", "namespace": "n" }, "spec": spec })).unwrap();
        let spec = pod.spec.as_mut().unwrap();
        spec.restart_policy = Some("Always".to_owned());
        spec.dns_policy = Some("ClusterFirst".to_owned());
        super::super::defaults::spec(spec, true);
        pod
    }

    fn burstable() -> Value {
        json!({ "containers": [
            { "name": "c", "image": "i", "resources": { "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "cpu": "200m", "memory": "64Mi" } } },
            { "name": "d", "image": "i", "resources": { "requests": { "cpu": "100m" } } },
        ], "initContainers": [{ "name": "i", "image": "i", "resources": { "requests": { "cpu": "100m" } } }] })
    }

    /// Changes the burstable pod, and gives the words of what is wrong with that.
    fn told(old: Value, change: impl Fn(&mut Value)) -> Vec<String> {
        let mut new = old.clone();
        change(&mut new);
        let (mut new, old) = (pod(new), pod(old));
        prepare(&mut new, &old);
        validate(&new, &old).into_iter().map(|problem| problem.to_string()).collect()
    }

    #[track_caller]
    fn refused(change: impl Fn(&mut Value), words: &str) {
        let told = told(burstable(), change);
        assert!(told.iter().any(|problem| problem.contains(words)), "{told:?} instead of {words:?}");
    }

    #[test]
    fn processor_and_memory_may_change_and_nothing_else_does() {
        let old = pod(burstable());
        let mut wanted = burstable();
        wanted["containers"][0]["resources"] = json!({ "requests": { "cpu": "150m", "memory": "32Mi" }, "limits": { "cpu": "300m", "memory": "128Mi" } });
        wanted["containers"][0]["image"] = json!("other");
        wanted["priority"] = json!(7);
        let mut new = pod(wanted);
        new.metadata.labels = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        prepare(&mut new, &old);
        assert_eq!(validate(&new, &old), Vec::new());
        let spec = new.spec.unwrap();
        assert_eq!((spec.containers[0].image.as_deref(), spec.priority, new.metadata.labels), (Some("i"), None, None));
        assert_eq!(spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap()["memory"].0, "128Mi");
    }

    #[test]
    fn what_upstream_refuses_is_refused_in_its_words() {
        let first = |field: &'static str, value: Value| move |pod: &mut Value| pod["containers"][0]["resources"][field] = value.clone();
        refused(first("limits", json!({ "cpu": "200m" })), "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed");
        refused(|pod| pod["containers"][1]["resources"] = json!({}), "spec.containers[1].resources.requests: Forbidden: resource requests cannot be removed");
        refused(first("requests", json!({ "cpu": "300m", "memory": "64Mi" })), "must be less than or equal to cpu limit of 200m");
        refused(first("limits", json!({ "cpu": "200m", "memory": "64Mi", "ephemeral-storage": "1Gi" })), "only cpu and memory resources are mutable");
        refused(|pod| pod["containers"].as_array_mut().unwrap().swap(0, 1), "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize");
        refused(|pod| drop(pod["containers"].as_array_mut().unwrap().pop()), "containers may not be added or removed on resize");
        refused(
            |pod| pod["initContainers"][0]["resources"]["requests"]["cpu"] = json!("1"),
            "spec.initContainers[0].resources: Forbidden: resources for non-sidecar init containers are immutable",
        );
        refused(|pod| pod["containers"][0]["resizePolicy"] = json!([{ "resourceName": "cpu", "restartPolicy": "RestartContainer" }]), "only cpu and memory");
    }

    #[test]
    fn the_class_stays() {
        let plain = json!({ "containers": [{ "name": "c", "image": "i" }] });
        let words = told(plain, |pod| pod["containers"][0]["resources"] = json!({ "requests": { "cpu": "1" } }));
        assert_eq!(words, ["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"]);
    }

    #[test]
    fn mirror_pods_are_not_resized() {
        let mut old = pod(burstable());
        old.metadata.annotations = Some(BTreeMap::from([(super::super::MIRROR_ANNOTATION.to_owned(), "x".to_owned())]));
        assert_eq!(validate(&old, &old).len(), 1);
    }
}
