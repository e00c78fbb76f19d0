//! What several controllers want to know of pods, and how pods are made from a template.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Api, Index, Informer, Patch, PatchParams};
use controller::ownership::controller_of;
use controller::{Doing, ReconcileError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::json;

/// The annotation by which a user says which pods of a set are cheaper to lose.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What `kubectl apply` keeps for itself: the pod once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes away of a pod what neither controllers nor the scheduler look at, which is more than half of it, and there may be a hundred
/// thousand pods. Informers of the control plane hold pods so: who needs more (or writes a pod back as a whole) has to read it.
pub fn shorten(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(spec) = &mut pod.spec {
        spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(shorten_container);
        spec.ephemeral_containers = None;
        spec.volumes = spec.volumes.take().map(|mut volumes| {
            volumes.retain(|volume| !is_part_of_pod(volume));
            volumes.shrink_to_fit();
            volumes
        });
    }
    let containers: Vec<&Container> = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten())).collect();
    if let Some(status) = &mut pod.status {
        for status in status.container_statuses.iter_mut().chain(&mut status.init_container_statuses).flatten() {
            shorten_status(status, containers.iter().find(|container| container.name == status.name).copied());
        }
        status.ephemeral_container_statuses = None;
    }
}

fn shorten_container(container: &mut Container) {
    let whole = std::mem::take(container);
    *container = Container {
        name: whole.name,
        image: whole.image,
        ports: whole.ports,
        resources: whole.resources,
        restart_policy: whole.restart_policy,
        ..Container::default()
    };
}

fn shorten_status(status: &mut ContainerStatus, container: Option<&Container>) {
    status.image.clear();
    status.image.shrink_to_fit();
    status.image_id.clear();
    status.image_id.shrink_to_fit();
    (status.container_id, status.volume_mounts, status.user, status.allocated_resources_status) = (None, None, None, None);
    // What a node keeps for a container is of interest only while it is being resized.
    let requests = container.and_then(|container| container.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    let has_what_it_asks_for = status.allocated_resources.as_ref() == requests
        && status.resources.as_ref().is_none_or(|resources| resources.requests.as_ref() == requests);
    if has_what_it_asks_for {
        (status.allocated_resources, status.resources) = (None, None);
    }
}

/// Whether it is made for the pod and goes with it, and nobody but its node has anything to do with it.
fn is_part_of_pod(volume: &Volume) -> bool {
    volume.projected.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.host_path.is_some()
        || volume.image.is_some()
}

/// The pod's phase; empty when it has no status yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether all its containers have ended for good.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it is asked to go.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it runs or is going to.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// One of the pod's conditions.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether it is ready to serve.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// When it became ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|condition| condition.status == "True")?.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until the pod is available: ready for `min_ready_seconds`. `Some(0)` when it is; `None` when it is not even ready.
pub fn time_until_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let ready_for = Duration::try_from(now.duration_since(ready_since(pod)?)).unwrap_or_default();
    Some(Duration::from_secs(min_ready_seconds as u64).saturating_sub(ready_for))
}

/// Whether it was ready for at least `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    time_until_available(pod, min_ready_seconds, now) == Some(Duration::ZERO)
}

/// When the next of these pods becomes available just by time passing.
pub fn next_available_in<'a>(pods: impl IntoIterator<Item = &'a Arc<Pod>>, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    pods.into_iter().filter_map(|pod| time_until_available(pod, min_ready_seconds, now)).filter(|wait| !wait.is_zero()).min()
}

/// Pods by the uid of their controller, and those without one under [`orphans_of`].
pub fn by_controller(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index("controller", |pod| match controller_of(&pod.metadata) {
        Some(reference) => vec![reference.uid.clone()],
        None => vec![orphans_of(pod.metadata.namespace.as_deref().unwrap_or_default())],
    })
}

/// Under which value [`by_controller`] keeps a namespace's pods without a controller.
pub fn orphans_of(namespace: &str) -> String {
    format!("orphans of {namespace}")
}

/// Pods by the name of their node.
pub fn by_node(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index("node", |pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).into_iter().collect())
}

/// A pod made from a template, owned by `owner`, with a generated name.
/// Source: Kubernetes 1.36, `GetPodFromTemplate`.
pub fn from_template(template: &PodTemplateSpec, owner_name: &str, namespace: &str, owner: OwnerReference) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner_name}-")),
            namespace: Some(namespace.to_owned()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Sorts pods so that those whose loss hurts least come first: not assigned, pending, not ready, cheap, crowded on one node, ready or
/// created a short while ago, often restarted. `related` are all pods of the same workload.
/// Source: Kubernetes 1.36, `ActivePodsWithRanks.Less`; ages count by their magnitude so that not always the newest go.
pub fn sort_by_loss(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *crowd.entry(node_name(pod)).or_default() += 1;
    }
    let magnitude = |since: Option<Timestamp>| {
        let age = since.map_or(0, |since| now.duration_since(since).as_nanos().max(0));
        128 - age.leading_zeros()
    };
    pods.sort_by_cached_key(|pod| {
        let phase_rank = match phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let cost = pod.metadata.annotations.as_ref().and_then(|all| all.get(DELETION_COST)?.parse::<i32>().ok()).unwrap_or(0);
        let neighbours = crowd.get(node_name(pod)).copied().unwrap_or(0);
        (
            (!node_name(pod).is_empty(), phase_rank, is_ready(pod), cost, std::cmp::Reverse(neighbours)),
            (magnitude(ready_since(pod)), std::cmp::Reverse(restarts(pod))),
            (magnitude(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)), pod.metadata.uid.clone()),
        )
    });
}

/// Sorts pods so that those that came least far come first: not assigned, pending, not ready, ready for a short time, often restarted, new.
/// Source: Kubernetes 1.36, `ActivePods.Less`.
pub fn sort_by_progress(pods: &mut [Arc<Pod>]) {
    pods.sort_by_cached_key(|pod| {
        let phase_rank = match phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let ready = std::cmp::Reverse(ready_since(pod));
        let made = std::cmp::Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        (!node_name(pod).is_empty(), phase_rank, is_ready(pod), ready, std::cmp::Reverse(restarts(pod)), made)
    });
}

/// Sets one of a pod's conditions, and its phase where one is given, provided that the pod was not changed meanwhile. A pod that is
/// gone needs no condition.
pub async fn add_condition(api: &Api<Pod>, pod: &Pod, condition: PodCondition, phase: Option<&str>, now: Timestamp) -> Result<(), ReconcileError> {
    change_status(api, pod, Some(condition), phase, now).await
}

/// The same, where there may be no condition to set.
pub async fn change_status(api: &Api<Pod>, pod: &Pod, condition: Option<PodCondition>, phase: Option<&str>, now: Timestamp) -> Result<(), ReconcileError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    if let Some(condition) = condition {
        set_condition(&mut conditions, PodCondition { observed_generation: pod.metadata.generation, ..condition }, now);
    }
    let mut status = json!({ "conditions": conditions });
    if let Some(phase) = phase {
        status["phase"] = phase.into();
        status["observedGeneration"] = json!(pod.metadata.generation);
    }
    let patch = json!({ "metadata": { "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version }, "status": status });
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if client::is_not_found(&error) => Ok(()),
        other => other.map(drop).doing(|| format!("say in pod {name} why it goes")),
    }
}

/// Sets a condition where it is, or at the end. It is as old as the one before where that said the same.
/// Source: Kubernetes 1.36, `pkg/api/v1/pod`, `UpdatePodCondition`.
pub fn set_condition(conditions: &mut Vec<PodCondition>, condition: PodCondition, now: Timestamp) {
    let now = Some(Time(now));
    match conditions.iter_mut().find(|known| known.type_ == condition.type_) {
        Some(known) => {
            let since = if known.status == condition.status { known.last_transition_time.take().or(now) } else { now };
            *known = PodCondition { last_transition_time: since, ..condition };
        }
        None => conditions.push(PodCondition { last_transition_time: now, ..condition }),
    }
}

/// The node a pod is bound to; empty when to none.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// The most restarts of any of the pod's containers.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;

    #[test]
    fn a_condition_keeps_its_place_and_its_age_where_it_says_the_same() {
        let condition = |kind: &str, status: &str, reason: &str| PodCondition { type_: kind.to_owned(), status: status.to_owned(), reason: Some(reason.to_owned()), ..PodCondition::default() };
        let mut conditions = Vec::new();
        let at = |second| Timestamp::from_second(second).unwrap();
        set_condition(&mut conditions, condition("A", "True", "x"), at(1));
        set_condition(&mut conditions, condition("B", "True", "x"), at(2));
        set_condition(&mut conditions, condition("A", "True", "y"), at(3));
        let told = |condition: &PodCondition| (condition.type_.clone(), condition.reason.clone().unwrap(), condition.last_transition_time.clone().unwrap().0);
        assert_eq!(conditions.iter().map(told).collect::<Vec<_>>(), [("A".to_owned(), "y".to_owned(), at(1)), ("B".to_owned(), "x".to_owned(), at(2))]);
        set_condition(&mut conditions, condition("A", "False", "y"), at(4));
        assert_eq!(told(&conditions[0]).2, at(4));
    }

    #[test]
    fn a_shortened_pod_has_what_controllers_and_the_scheduler_look_at() {
        let amounts = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}});
        let whole = |allocated: &str| {
            serde_json::from_value::<Pod>(json!({
                "metadata": {"name": "a", "annotations": {LAST_APPLIED: "{}", "kept": "yes"}},
                "spec": {
                    "nodeName": "n",
                    "containers": [{"name": "c", "image": "i", "args": ["x"], "env": [{"name": "A"}], "ports": [{"containerPort": 80}], "resources": amounts,
                        "readinessProbe": {}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                    "initContainers": [{"name": "s", "restartPolicy": "Always", "command": ["y"]}],
                    "volumes": [{"name": "t", "projected": {}}, {"name": "d", "persistentVolumeClaim": {"claimName": "d"}}, {"name": "e", "ephemeral": {}}],
                },
                "status": {"phase": "Running", "containerStatuses": [{
                    "name": "c", "image": "i", "imageID": "i@sha256:0", "containerID": "x://0", "ready": true, "restartCount": 3, "state": {"running": {}},
                    "allocatedResources": {"cpu": allocated}, "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}},
                }]},
            }))
            .unwrap()
        };
        let expected = |more: serde_json::Value| {
            let mut expected = json!({
                "metadata": {"name": "a", "annotations": {"kept": "yes"}},
                "spec": {
                    "nodeName": "n",
                    "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "resources": amounts}],
                    "initContainers": [{"name": "s", "restartPolicy": "Always"}],
                    "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "d"}}, {"name": "e", "ephemeral": {}}],
                },
                "status": {"phase": "Running", "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3, "state": {"running": {}}}]},
            });
            expected["status"]["containerStatuses"][0].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<Pod>(expected).unwrap()
        };
        let (mut settled, mut resizing) = (whole("100m"), whole("200m"));
        shorten(&mut settled);
        assert_eq!(settled, expected(json!({})));
        shorten(&mut resizing);
        assert_eq!(resizing, expected(json!({"allocatedResources": {"cpu": "200m"}, "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}})));
    }

    /// A pod in `x`, of a phase, on a node or not, ready since a second or not.
    pub(crate) fn pod(name: &str, phase: &str, node: &str, ready_since: Option<i64>) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("x".to_owned());
        pod.metadata.uid = Some(format!("uid-{name}"));
        pod.metadata.creation_timestamp = Some(second(0));
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned()).filter(|node| !node.is_empty());
        let ready = PodCondition {
            type_: "Ready".to_owned(),
            status: if ready_since.is_some() { "True" } else { "False" }.to_owned(),
            last_transition_time: ready_since.map(second),
            ..PodCondition::default()
        };
        pod.status = Some(PodStatus { phase: Some(phase.to_owned()), conditions: Some(vec![ready]), ..PodStatus::default() });
        Arc::new(pod)
    }

    pub(crate) fn second(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn a_pod_is_available_when_it_was_ready_long_enough() {
        let ready = pod("a", "Running", "n", Some(100));
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!(is_available(&ready, 0, at(100)));
        assert_eq!(time_until_available(&ready, 10, at(104)), Some(Duration::from_secs(6)));
        assert!(is_available(&ready, 10, at(110)));
        assert!(!is_available(&pod("b", "Running", "n", None), 0, at(110)));
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = [
            pod("old", "Running", "a", Some(10)),
            pod("young", "Running", "b", Some(990)),
            pod("crowded", "Running", "c", Some(10)),
            pod("neighbour", "Running", "c", Some(5)),
            pod("unready", "Running", "d", None),
            pod("pending", "Pending", "e", None),
            pod("unassigned", "Pending", "", None),
        ];
        let mut sorted = pods.to_vec();
        sort_by_loss(&mut sorted, &pods, Timestamp::from_second(1000).unwrap());
        let names: Vec<_> = sorted.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        assert_eq!(names[..5], ["unassigned", "pending", "unready", "crowded", "neighbour"]);
        assert_eq!(names[5..], ["young", "old"]);
    }
}
