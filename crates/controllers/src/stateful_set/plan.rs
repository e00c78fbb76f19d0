//! What a StatefulSet does next. In order (the default), it does one thing at a time: it creates, waits for or removes one pod, and goes
//! on when that is done; in parallel, creating and removing wait for nothing.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::identity;
use crate::pods;

/// The template most pods still have, and the one they should get; each with its revision's name.
#[derive(Debug, Clone)]
pub(super) struct Templates {
    pub current_name: String,
    pub current: PodTemplateSpec,
    pub update_name: String,
    pub update: PodTemplateSpec,
    pub collisions: Option<i32>,
}

/// A pod to remove.
#[derive(Debug)]
pub(super) struct Deletion {
    pub pod: Arc<Pod>,
    /// The set shrinks, so no other pod of this number will come.
    pub for_good: bool,
    /// Kind, reason and message, where the removal itself does not say enough.
    pub event: Option<(EventType, &'static str, String)>,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: Vec<Pod>,
    pub delete: Vec<Deletion>,
    /// Pods that lost the labels or volumes of their number, with them.
    pub update: Vec<Pod>,
    pub status: StatefulSetStatus,
    pub check_after: Option<Duration>,
}

/// What a set wants, with its defaults.
struct Wanted {
    start: i32,
    replicas: i32,
    in_order: bool,
    is_rolling: bool,
    has_rolling_settings: bool,
    partition: i32,
    max_unavailable: i32,
    min_ready_seconds: i32,
}

impl Wanted {
    fn new(spec: &StatefulSetSpec) -> Self {
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        let rolling = strategy.rolling_update.unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1).max(0);
        Self {
            start: spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0),
            replicas,
            in_order: spec.pod_management_policy.as_deref() != Some("Parallel"),
            is_rolling: strategy.type_.as_deref() != Some("OnDelete"),
            has_rolling_settings: spec.update_strategy.as_ref().is_some_and(|strategy| strategy.rolling_update.is_some()),
            partition: rolling.partition.unwrap_or(0),
            max_unavailable: crate::scaled_value(rolling.max_unavailable.as_ref(), replicas, true).unwrap_or(1).max(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        }
    }

    fn contains(&self, ordinal: i32) -> bool {
        ordinal >= self.start && ordinal < self.start.saturating_add(self.replicas)
    }
}

/// Whether the set wants a pod of this number.
pub(super) fn belongs(set: &StatefulSet, pod: &Pod) -> bool {
    let ordinal = identity::ordinal(set.metadata.name.as_deref().unwrap_or_default(), pod);
    set.spec.as_ref().zip(ordinal).is_some_and(|(spec, ordinal)| Wanted::new(spec).contains(ordinal))
}

fn is_created(pod: &Pod) -> bool {
    !pods::phase(pod).is_empty()
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

fn is_healthy(pod: &Pod) -> bool {
    is_running_and_ready(pod) && !pods::is_terminating(pod)
}

/// Decides.
/// Source: Kubernetes 1.36, `defaultStatefulSetControl.updateStatefulSet`.
pub(super) fn plan(set: &StatefulSet, templates: &Templates, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let wanted = Wanted::new(&spec);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut numbered: Vec<(i32, Arc<Pod>)> = pods.iter().filter_map(|pod| Some((identity::ordinal(name, pod)?, pod.clone()))).collect();
    numbered.sort_by_key(|(ordinal, _)| *ordinal);
    let mut plan = Plan { status: status(set, templates, &numbered, &wanted, now), ..Plan::default() };
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let numbers = wanted.start..wanted.start.saturating_add(wanted.replicas);
    let slots: Vec<(i32, Option<Arc<Pod>>)> = numbers
        .map(|ordinal| (ordinal, numbered.iter().find(|(other, _)| *other == ordinal).map(|(_, pod)| pod.clone())))
        .collect();
    let mut condemned: Vec<Arc<Pod>> = numbered.iter().filter(|(ordinal, _)| !wanted.contains(*ordinal)).map(|(_, pod)| pod.clone()).collect();
    condemned.reverse();
    let everything_stands = fill(set, templates, &wanted, &slots, &mut plan, now);
    if !everything_stands {
        return plan;
    }
    let all_gone = shrink(&wanted, &slots, &condemned, &mut plan, now);
    if all_gone && wanted.is_rolling {
        roll(templates, &wanted, &slots, &mut plan, now);
    }
    plan
}

/// Creates what is missing and replaces what has ended. False when the next thing has to wait for one of these pods.
fn fill(set: &StatefulSet, templates: &Templates, wanted: &Wanted, slots: &[(i32, Option<Arc<Pod>>)], plan: &mut Plan, now: Timestamp) -> bool {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let current_replicas = set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
    let mut blocked = false;
    for (ordinal, pod) in slots {
        let Some(pod) = pod else {
            // Numbers below the partition stay with the template most pods have.
            let bound = if wanted.has_rolling_settings { wanted.partition } else { current_replicas };
            let stays = wanted.is_rolling && *ordinal < wanted.start.saturating_add(bound);
            let (template, revision) = if stays { (&templates.current, &templates.current_name) } else { (&templates.update, &templates.update_name) };
            plan.create.push(identity::pod(set, template, revision, *ordinal));
            if wanted.in_order {
                return false;
            }
            continue;
        };
        if pods::is_finished(pod) {
            if !pods::is_terminating(pod) {
                let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
                let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
                let (kind, reason, word) = if pods::phase(pod) == "Failed" {
                    (EventType::Warning, "RecreatingFailedPod", "failed")
                } else {
                    (EventType::Normal, "RecreatingTerminatedPod", "terminated")
                };
                let message = format!("StatefulSet {namespace}/{name} is recreating {word} Pod {pod_name}");
                plan.delete.push(Deletion { pod: pod.clone(), for_good: false, event: Some((kind, reason, message)) });
            }
            if wanted.in_order {
                return false;
            }
            blocked = true;
            continue;
        }
        if pods::is_terminating(pod) {
            if wanted.in_order {
                return false;
            }
            continue;
        }
        let mut identified = (**pod).clone();
        if !identity::identify(set, &mut identified, *ordinal) {
            plan.update.push(identified);
        }
        if wanted.in_order {
            if !is_running_and_ready(pod) {
                return false;
            }
            let wait = pods::time_until_available(pod, wanted.min_ready_seconds, now).unwrap_or_default();
            if !wait.is_zero() {
                plan.check_after = Some(wait);
                return false;
            }
        }
    }
    // Pods that were only just asked for count as unavailable; updates wait for them.
    !blocked && plan.create.is_empty()
}

/// Removes pods whose number is too high, the highest first. True when none is left.
fn shrink(wanted: &Wanted, slots: &[(i32, Option<Arc<Pod>>)], condemned: &[Arc<Pod>], plan: &mut Plan, now: Timestamp) -> bool {
    let first_unhealthy = slots.iter().filter_map(|(_, pod)| pod.as_ref()).find(|pod| !is_healthy(pod));
    let first_unhealthy = first_unhealthy.or_else(|| condemned.iter().rev().find(|pod| !is_healthy(pod)));
    for pod in condemned {
        if pods::is_terminating(pod) {
            if wanted.in_order {
                return false;
            }
            continue;
        }
        // An unhealthy pod holds up the removal of others, except its own.
        let is_first_unhealthy = first_unhealthy.is_some_and(|unhealthy| unhealthy.metadata.uid == pod.metadata.uid);
        if wanted.in_order && !is_first_unhealthy {
            if !is_running_and_ready(pod) {
                return false;
            }
            let wait = pods::time_until_available(pod, wanted.min_ready_seconds, now).unwrap_or_default();
            if !wait.is_zero() {
                plan.check_after = Some(wait);
                return false;
            }
        }
        plan.delete.push(Deletion { pod: pod.clone(), for_good: true, event: None });
        if wanted.in_order {
            return false;
        }
    }
    condemned.is_empty()
}

/// Replaces pods of an old template, the highest number first, down to the partition; at most `max_unavailable` at a time.
fn roll(templates: &Templates, wanted: &Wanted, slots: &[(i32, Option<Arc<Pod>>)], plan: &mut Plan, now: Timestamp) {
    let is_available = |pod: &Pod| is_healthy(pod) && pods::is_available(pod, wanted.min_ready_seconds, now);
    let mut unavailable = 0;
    let last = wanted.start.saturating_add(wanted.partition);
    for (_, pod) in slots.iter().rev().filter(|(ordinal, _)| *ordinal >= last) {
        if unavailable >= wanted.max_unavailable {
            return;
        }
        let Some(pod) = pod else {
            unavailable += 1;
            continue;
        };
        let is_outdated = identity::revision(pod) != Some(&templates.update_name);
        if is_outdated && !pods::is_terminating(pod) {
            plan.delete.push(Deletion { pod: pod.clone(), for_good: false, event: None });
            if identity::revision(pod) == Some(&templates.current_name) {
                plan.status.current_replicas = plan.status.current_replicas.map(|count| count - 1);
            }
            unavailable += 1;
        } else if !is_available(pod) {
            let wait = pods::time_until_available(pod, wanted.min_ready_seconds, now);
            plan.check_after = wait.filter(|wait| !wait.is_zero()).or(plan.check_after);
            unavailable += 1;
        }
    }
}

fn status(set: &StatefulSet, templates: &Templates, numbered: &[(i32, Arc<Pod>)], wanted: &Wanted, now: Timestamp) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| numbered.iter().filter(|(_, pod)| test(pod)).count() as i32;
    let of_revision = |pod: &Pod, name: &str| is_created(pod) && !pods::is_terminating(pod) && identity::revision(pod) == Some(name);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&is_created),
        ready_replicas: Some(count(&is_running_and_ready)),
        available_replicas: Some(count(&|pod| is_running_and_ready(pod) && pods::is_available(pod, wanted.min_ready_seconds, now))),
        current_replicas: Some(count(&|pod| of_revision(pod, &templates.current_name))),
        updated_replicas: Some(count(&|pod| of_revision(pod, &templates.update_name))),
        current_revision: Some(templates.current_name.clone()),
        update_revision: Some(templates.update_name.clone()),
        collision_count: templates.collisions.or(Some(0)),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let whole = wanted.replicas;
    let is_complete = wanted.is_rolling && status.replicas == whole && status.updated_replicas == Some(whole) && status.ready_replicas == Some(whole);
    if is_complete {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    for count in [&mut status.ready_replicas, &mut status.current_replicas, &mut status.updated_replicas] {
        *count = count.filter(|count| *count != 0);
    }
    status
}

#[cfg(test)]
mod tests;
