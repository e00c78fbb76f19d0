//! Which pods a DaemonSet lacks, which it has too many, and what it reports.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Clock, EventType};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;

use super::daemon_pod::{GENERATION_ANNOTATION, GENERATION_LABEL};
use super::fit::{Fit, fit};
use super::rolling::{self, Limits};
use crate::pods;
use crate::revisions::REVISION_LABEL;

/// What to say about a removal.
pub(super) type Said = Option<(EventType, &'static str, String)>;

/// What is to be done now.
#[derive(Default)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<(Arc<Pod>, Said)>,
    pub status: DaemonSetStatus,
    pub check_after: Option<Duration>,
}

/// How often pods of a set failed on a node lately, so that one that always fails is not started over and over without a pause.
pub(super) struct Failures {
    clock: Arc<dyn Clock>,
    /// Per set, its generation and node: failures in a row, and the time of the last one.
    counts: Mutex<HashMap<(String, i64, String), (u32, Duration)>>,
}

/// The first and the longest pause, and how long after the last failure all is forgotten. Source: Kubernetes 1.36, `failedPodsBackoff`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

impl Failures {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, counts: Mutex::default() }
    }

    /// How long a failed pod has to stay before it is replaced. Zero counts as one more replacement.
    fn pause(&self, set: &DaemonSet, node: &str) -> Duration {
        let generation = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        let now = self.clock.elapsed();
        let mut counts = self.counts.lock();
        counts.retain(|_, (_, last)| now.saturating_sub(*last) < LONGEST_PAUSE * 2);
        let (count, last) = counts.entry((set.metadata.uid.clone().unwrap_or_default(), generation, node.to_owned())).or_insert((0, now));
        let pause = if *count == 0 { Duration::ZERO } else { FIRST_PAUSE.saturating_mul(1 << (*count - 1).min(10)).min(LONGEST_PAUSE) };
        let left = pause.saturating_sub(now.saturating_sub(*last));
        if left.is_zero() {
            *count = count.saturating_add(1);
            *last = now;
        }
        left
    }
}

/// Whether a pod was made from the present template: by its revision, or by the number that templates had before there were revisions.
/// Source: Kubernetes 1.36, `IsPodUpdated`.
pub(super) fn is_current(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let label = |name: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let generation = set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(GENERATION_ANNOTATION)?.parse::<i64>().ok());
    let is_of_generation = generation.is_some_and(|generation| label(GENERATION_LABEL) == Some(&generation.to_string()));
    is_of_generation || !hash.is_empty() && label(REVISION_LABEL) == Some(hash)
}

/// Those bound to their node first, then the oldest.
/// Source: Kubernetes 1.36, `podByCreationTimestampAndPhase`.
fn by_age(pod: &Pod) -> impl Ord {
    (pods::node_name(pod).is_empty(), pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.metadata.name.clone())
}

/// Whether there is nothing left to do about a pod: it ended and is being removed.
pub(super) fn is_over(pod: &Pod) -> bool {
    pods::is_finished(pod) && pods::is_terminating(pod)
}

/// Decides. `pods` are the set's pods by node, without those that are over.
/// Source: Kubernetes 1.36, `DaemonSetsController.manage`, `rollingUpdate` and `updateDaemonSetStatus`.
pub(super) fn plan(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &BTreeMap<String, Vec<Arc<Pod>>>,
    hash: &str,
    collisions: Option<i32>,
    failures: &Failures,
    now: Timestamp,
) -> Plan {
    let fits: BTreeMap<&str, Fit> = nodes.iter().map(|node| (node.metadata.name.as_deref().unwrap_or_default(), fit(set, node))).collect();
    let desired = fits.values().filter(|fit| fit.should_run).count() as i32;
    let limits = Limits::new(set, desired);
    let mut plan = Plan { status: status(set, &fits, pods, hash, collisions, now), ..Plan::default() };
    for (node, fit) in &fits {
        let on_node = pods.get(*node).map(Vec::as_slice).unwrap_or_default();
        manage_node(set, node, *fit, on_node, hash, &limits, failures, &mut plan, now);
    }
    // Pods of nodes that are gone are the pod garbage collector's; those meant for one that is gone were never bound.
    for (node, on_node) in pods.iter().filter(|(node, _)| !fits.contains_key(node.as_str())) {
        let unbound = on_node.iter().filter(|pod| !node.is_empty() && pods::node_name(pod).is_empty() && !pods::is_terminating(pod));
        plan.delete.extend(unbound.map(|pod| (pod.clone(), None)));
    }
    if plan.create.is_empty() && plan.delete.is_empty() {
        rolling::step(set, &fits, pods, hash, &limits, &mut plan, now);
    }
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let next = pods::next_available_in(pods.values().flatten(), min_ready, now);
    plan.check_after = plan.check_after.into_iter().chain(next).min();
    plan
}

#[expect(clippy::too_many_arguments, reason = "all of them are what one node's decision depends on")]
fn manage_node(set: &DaemonSet, node: &str, fit: Fit, on_node: &[Arc<Pod>], hash: &str, limits: &Limits, failures: &Failures, plan: &mut Plan, now: Timestamp) {
    if !fit.may_stay {
        plan.delete.extend(on_node.iter().filter(|pod| !pods::is_terminating(pod)).map(|pod| (pod.clone(), None)));
        return;
    }
    if on_node.is_empty() {
        if fit.should_run {
            plan.create.push(node.to_owned());
        }
        return;
    }
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut running: Vec<&Arc<Pod>> = Vec::new();
    for pod in on_node {
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        match pods::phase(pod) {
            _ if pods::is_terminating(pod) => {}
            "Failed" => {
                let pause = failures.pause(set, node);
                if pause.is_zero() {
                    let message = format!("Found failed daemon pod {namespace}/{pod_name} on node {node}, will try to kill it");
                    plan.delete.push((pod.clone(), Some((EventType::Warning, "FailedDaemonPod", message))));
                } else {
                    plan.check_after = Some(plan.check_after.map_or(pause, |other| other.min(pause)));
                }
            }
            "Succeeded" => {
                let message = format!("Found succeeded daemon pod {namespace}/{pod_name} on node {node}, will try to delete it");
                plan.delete.push((pod.clone(), Some((EventType::Normal, "SucceededDaemonPod", message))));
            }
            _ => running.push(pod),
        }
    }
    // One pod per node, the oldest; while a node surges, one of each template.
    running.sort_by_key(|pod| by_age(pod));
    if !limits.allows_surge {
        plan.delete.extend(running.iter().skip(1).map(|pod| ((*pod).clone(), None)));
        return;
    }
    if running.is_empty() && fit.should_run {
        // The one that leaves is not waited for.
        plan.create.push(node.to_owned());
    }
    let (current, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.into_iter().partition(|pod| is_current(set, pod, hash));
    plan.delete.extend(current.iter().skip(1).chain(old.iter().skip(1)).map(|pod| ((*pod).clone(), None)));
    // The old pod has done its part as soon as the new one is there to take over, or when it does not work any more.
    if let (Some(new), Some(old)) = (current.first(), old.first())
        && (!pods::is_ready(old) || pods::is_available(new, limits.min_ready_seconds, now))
    {
        plan.delete.push(((*old).clone(), None));
    }
}

fn status(set: &DaemonSet, fits: &BTreeMap<&str, Fit>, pods: &BTreeMap<String, Vec<Arc<Pod>>>, hash: &str, collisions: Option<i32>, now: Timestamp) -> DaemonSetStatus {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let (mut desired, mut current, mut misscheduled, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
    for (node, fit) in fits {
        let on_node = pods.get(*node).map(Vec::as_slice).unwrap_or_default();
        if !fit.should_run {
            misscheduled += i32::from(!on_node.is_empty());
            continue;
        }
        desired += 1;
        // While a node surges, the old pod counts.
        let Some(pod) = on_node.iter().min_by_key(|pod| by_age(pod)) else { continue };
        current += 1;
        ready += i32::from(pods::is_ready(pod));
        available += i32::from(pods::is_available(pod, min_ready, now));
        updated += i32::from(is_current(set, pod, hash));
    }
    let some = |count: i32| (count != 0).then_some(count);
    DaemonSetStatus {
        observed_generation: set.metadata.generation,
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misscheduled,
        number_ready: ready,
        updated_number_scheduled: some(updated),
        number_available: some(available),
        number_unavailable: some(desired - available),
        collision_count: collisions,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}

#[cfg(test)]
mod tests;
