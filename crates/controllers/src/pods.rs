//! What several controllers want to know of pods, and how pods are made from a template.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Api, Index, Informer, Patch, PatchParams};
use controller::ownership::controller_of;
use controller::{Doing, ReconcileError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::json;

/// The annotation by which a user says which pods of a set are cheaper to lose.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

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
        conditions.retain(|other| other.type_ != condition.type_);
        conditions.push(PodCondition { last_transition_time: Some(Time(now)), ..condition });
    }
    let mut status = json!({ "conditions": conditions });
    if let Some(phase) = phase {
        status["phase"] = phase.into();
    }
    let patch = json!({ "metadata": { "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version }, "status": status });
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if client::is_not_found(&error) => Ok(()),
        other => other.map(drop).doing(|| format!("say in pod {name} why it goes")),
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
