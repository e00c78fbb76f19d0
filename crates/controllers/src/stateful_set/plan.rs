//! What a StatefulSet does next. In order (the default), it does one thing at a time: it creates, waits for or removes one pod, and goes
//! on when that is done; in parallel, nothing waits for anything.

use std::sync::Arc;
use std::time::Duration;

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

/// What is to be done now, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods whose node has not taken them on yet: they may wait for claims that are gone.
    pub need_claims: Vec<Arc<Pod>>,
    /// Pods that ended; others of their numbers follow.
    pub replace: Vec<Arc<Pod>>,
    /// Pods that lost the labels or volumes of their number, with them.
    pub update: Vec<Pod>,
    /// Pods of numbers that are wanted: what becomes of their claims may have been decided anew.
    pub stay: Vec<Arc<Pod>>,
    pub create: Vec<Pod>,
    /// Pods of numbers that are not wanted any more, the highest first: their claims may go with them.
    pub leave: Vec<Arc<Pod>>,
    pub delete: Vec<Arc<Pod>>,
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
    /// Absent where the set does not say. Percentages are rounded down, whatever the description of the field says.
    /// Source: Kubernetes 1.36, `getStatefulSetMaxUnavailable`.
    max_unavailable: Option<i32>,
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
            max_unavailable: crate::scaled_value(rolling.max_unavailable.as_ref(), replicas, false).map(|most| most.max(1)),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        }
    }

    fn contains(&self, ordinal: i32) -> bool {
        ordinal >= self.start && ordinal < self.start.saturating_add(self.replicas)
    }

    fn is_available(&self, pod: &Pod, now: Timestamp) -> bool {
        pods::is_available(pod, self.min_ready_seconds, now)
    }

    /// Whether a pod that may be missing is not available, or is not going to be much longer.
    fn is_unavailable(&self, pod: Option<&Arc<Pod>>, now: Timestamp) -> bool {
        pod.is_none_or(|pod| pods::is_terminating(pod) || !self.is_available(pod, now))
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

/// Decides.
/// Source: Kubernetes 1.36, `defaultStatefulSetControl.updateStatefulSet`.
pub(super) fn plan(set: &StatefulSet, templates: &Templates, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let wanted = Wanted::new(&spec);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut numbered: Vec<(i32, Arc<Pod>)> = pods.iter().filter_map(|pod| Some((identity::ordinal(name, pod)?, pod.clone()))).collect();
    numbered.sort_by_key(|(ordinal, _)| *ordinal);
    let mut plan = Plan { status: status(set, templates, &numbered, &wanted, now), ..Plan::default() };
    plan.check_after = pods::next_available_in(numbered.iter().map(|(_, pod)| pod), wanted.min_ready_seconds, now);
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let numbers = wanted.start..wanted.start.saturating_add(wanted.replicas);
    let slots: Vec<Slot> = numbers
        .map(|ordinal| (ordinal, numbered.iter().find(|(other, _)| *other == ordinal).map(|(_, pod)| pod.clone())))
        .collect();
    let mut condemned: Vec<Arc<Pod>> = numbered.iter().filter(|(ordinal, _)| !wanted.contains(*ordinal)).map(|(_, pod)| pod.clone()).collect();
    condemned.reverse();
    if !fill(set, templates, &wanted, &slots, &mut plan, now) {
        return plan;
    }
    plan.leave.clone_from(&condemned);
    if shrink(&wanted, &slots, &condemned, &mut plan, now) && wanted.is_rolling {
        match wanted.max_unavailable {
            None => roll_one(templates, &wanted, &slots, &mut plan, now),
            Some(most) => roll_several(most, templates, &wanted, &slots, &mut plan, now),
        }
    }
    plan
}

/// A number that is wanted, with its pod.
type Slot = (i32, Option<Arc<Pod>>);

/// Creates what is missing and replaces what has ended. False when everything else has to wait, which it does in order only.
/// Source: Kubernetes 1.36, `processReplica`.
fn fill(set: &StatefulSet, templates: &Templates, wanted: &Wanted, slots: &[Slot], plan: &mut Plan, now: Timestamp) -> bool {
    let current_replicas = set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
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
                plan.replace.push(pod.clone());
            }
            if wanted.in_order {
                return false;
            }
            continue;
        }
        let is_pending = pods::phase(pod) == "Pending";
        if is_pending {
            plan.need_claims.push(pod.clone());
        }
        let is_settled = !pods::is_terminating(pod) && is_running_and_ready(pod) && wanted.is_available(pod, now);
        if wanted.in_order && !is_settled {
            return false;
        }
        let mut identified = (**pod).clone();
        if !identity::identify(set, &mut identified, *ordinal) {
            plan.update.push(identified);
        }
        if !is_pending {
            plan.stay.push(pod.clone());
        }
    }
    true
}

/// Removes pods whose number is too high or too low, the highest first. False when everything else has to wait, which it does in order only.
/// Source: Kubernetes 1.36, `processCondemned`.
fn shrink(wanted: &Wanted, slots: &[Slot], condemned: &[Arc<Pod>], plan: &mut Plan, now: Timestamp) -> bool {
    let is_unavailable = |pod: &&Arc<Pod>| wanted.is_unavailable(Some(pod), now);
    let first_unavailable = slots.iter().filter_map(|(_, pod)| pod.as_ref()).find(is_unavailable);
    let first_unavailable = first_unavailable.or_else(|| condemned.iter().rev().find(is_unavailable));
    for pod in condemned {
        if !pods::is_terminating(pod) {
            // A pod that is not available holds up the removal of others, except its own.
            let is_first = first_unavailable.is_some_and(|unavailable| unavailable.metadata.uid == pod.metadata.uid);
            let is_settled = is_running_and_ready(pod) && wanted.is_available(pod, now);
            if !wanted.in_order || is_first || is_settled {
                plan.delete.push(pod.clone());
            }
        }
        if wanted.in_order {
            return false;
        }
    }
    true
}

/// The numbers from the partition on, the highest first.
fn to_roll<'a>(wanted: &Wanted, slots: &'a [Slot]) -> impl Iterator<Item = Option<&'a Arc<Pod>>> {
    let last = wanted.start.saturating_add(wanted.partition);
    slots.iter().rev().filter(move |(ordinal, _)| *ordinal >= last).map(|(_, pod)| pod.as_ref())
}

/// Whether a pod is to be made anew from the newest template.
fn is_outdated(templates: &Templates, pod: &Pod) -> bool {
    identity::revision(pod) != Some(&templates.update_name) && !pods::is_terminating(pod)
}

fn remake(templates: &Templates, pod: &Arc<Pod>, plan: &mut Plan) {
    plan.delete.push(pod.clone());
    if identity::revision(pod) == Some(&templates.current_name) {
        plan.status.current_replicas = plan.status.current_replicas.map(|count| count - 1);
    }
}

/// Replaces pods of an old template, the highest number first, down to the partition; one at a time.
/// Source: Kubernetes 1.36, `updateStatefulSet`, where `MaxUnavailableStatefulSet` is off.
fn roll_one(templates: &Templates, wanted: &Wanted, slots: &[Slot], plan: &mut Plan, now: Timestamp) {
    for pod in to_roll(wanted, slots) {
        match pod {
            Some(pod) if is_outdated(templates, pod) => return remake(templates, pod, plan),
            pod if wanted.is_unavailable(pod, now) => return,
            _ => {}
        }
    }
}

/// The same for sets that say how many may be missing at a time. Pods that are missing anyway come first in parallel, else an update that
/// mends a broken one would wait for ever for what it is to mend.
/// Source: Kubernetes 1.37, `updateStatefulSetAfterInvariantEstablished`: that of 1.36 has this defect and is therefore off there.
fn roll_several(most: i32, templates: &Templates, wanted: &Wanted, slots: &[Slot], plan: &mut Plan, now: Timestamp) {
    let unavailable = slots.iter().filter(|(_, pod)| wanted.is_unavailable(pod.as_ref(), now)).count();
    let mut room = usize::try_from(most).unwrap_or(0).saturating_sub(unavailable);
    let outdated: Vec<&Arc<Pod>> = to_roll(wanted, slots).flatten().filter(|pod| is_outdated(templates, pod)).collect();
    for pod in &outdated {
        if !wanted.in_order && !wanted.is_available(pod, now) {
            remake(templates, pod, plan);
        }
    }
    for pod in outdated {
        if room > 0 && (wanted.in_order || wanted.is_available(pod, now)) {
            remake(templates, pod, plan);
            room -= 1;
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
