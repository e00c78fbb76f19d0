//! How a Deployment is doing: its counts, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rollout::{Rollout, available, desired, max_unavailable};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// A deadline of this many seconds means none. Source: Kubernetes 1.36, `HasProgressDeadline`.
const NO_DEADLINE: i32 = i32::MAX;

/// A Deployment's conditions, with the rules for changing them.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    all: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    pub fn new(all: Vec<DeploymentCondition>, now: Timestamp) -> Self {
        Self { all, now }
    }

    pub fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.all.iter().find(|condition| condition.type_ == kind)
    }

    /// Sets a condition, unless it says the same for the same reason already. The time of transition is that of the last change of
    /// its status.
    pub fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        if self.get(kind).is_some_and(|current| current.status == status && current.reason.as_deref() == Some(reason)) {
            return;
        }
        self.replace(kind, status, reason, message);
    }

    /// Sets a condition with a fresh time of update, even if it says the same already.
    fn replace(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let now = Some(Time(self.now));
        let transition = self.get(kind).filter(|current| current.status == status).and_then(|current| current.last_transition_time.clone());
        self.remove(kind);
        self.all.push(DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: now.clone(),
            last_transition_time: transition.or(now),
        });
    }

    pub fn remove(&mut self, kind: &str) {
        self.all.retain(|condition| condition.type_ != kind);
    }

    pub fn into_option(self) -> Option<Vec<DeploymentCondition>> {
        (!self.all.is_empty()).then_some(self.all)
    }
}

/// Whether a rollout without progress is at some time called failed.
pub(super) fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Says that a rollout is paused, or goes on, so that the pause does not count as lack of progress.
/// Source: Kubernetes 1.36, `checkPausedConditions`.
pub(super) fn note_pause(rollout: &mut Rollout, is_paused: bool) {
    if !has_deadline(&rollout.deployment) {
        return;
    }
    let reason = rollout.conditions.get(PROGRESSING).and_then(|condition| condition.reason.clone());
    if reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let said_paused = reason.as_deref() == Some("DeploymentPaused");
    if is_paused && !said_paused {
        rollout.conditions.set(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
    } else if !is_paused && said_paused {
        rollout.conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned());
    }
}

/// The counts and whether enough pods are available.
/// Source: Kubernetes 1.36, `calculateStatus`.
pub(super) fn status(rollout: &Rollout) -> DeploymentStatus {
    let deployment = &rollout.deployment;
    let sum = |count: fn(&ReplicaSet) -> i32| rollout.all().map(count).sum::<i32>();
    let available_pods = sum(available);
    let mut conditions = rollout.conditions.clone();
    if available_pods >= desired(deployment) - max_unavailable(deployment) {
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned());
    } else {
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned());
    }
    let some = |count: i32| (count != 0).then_some(count);
    let replicas = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let old_status = deployment.status.clone().unwrap_or_default();
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(replicas)),
        updated_replicas: some(rollout.new.as_ref().map_or(0, replicas)),
        ready_replicas: some(sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0))),
        available_replicas: some(available_pods),
        unavailable_replicas: some((rollout.total() - available_pods).max(0)),
        terminating_replicas: Some(sum(|set| set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0))),
        collision_count: old_status.collision_count,
        conditions: conditions.into_option(),
    }
}

/// The status, and whether the rollout gets on.
/// Source: Kubernetes 1.36, `syncRolloutStatus`.
pub(super) fn status_with_progress(rollout: &mut Rollout) -> DeploymentStatus {
    let mut new = status(rollout);
    let mut conditions = Conditions::new(new.conditions.take().unwrap_or_default(), rollout.now);
    let deployment = &rollout.deployment;
    let old = deployment.status.clone().unwrap_or_default();
    let what = match &rollout.new {
        Some(set) => format!("ReplicaSet \"{}\"", set.metadata.name.as_deref().unwrap_or_default()),
        None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let current = rollout.conditions.get(PROGRESSING);
    let was_complete = new.replicas == new.updated_replicas && current.is_some_and(|current| current.reason.as_deref() == Some(COMPLETE));
    if !has_deadline(deployment) {
        conditions.remove(PROGRESSING);
    } else if !was_complete {
        if is_complete(deployment, &new) {
            conditions.set(PROGRESSING, "True", COMPLETE, format!("{what} has successfully progressed."));
        } else if is_progressing(&old, &new) {
            conditions.replace(PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."));
        } else if is_timed_out(deployment, &conditions, rollout.now) {
            conditions.set(PROGRESSING, "False", TIMED_OUT, format!("{what} has timed out progressing."));
        }
    }
    match replica_failure(rollout) {
        Some((status, reason, message)) => conditions.set(REPLICA_FAILURE, &status, &reason, message),
        None => conditions.remove(REPLICA_FAILURE),
    }
    new.conditions = conditions.into_option();
    new
}

/// A failure to make or remove pods: that of the new set before those of old ones.
fn replica_failure(rollout: &Rollout) -> Option<(String, String, String)> {
    rollout.new.iter().chain(&rollout.old).find_map(|set| {
        let condition = set.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == REPLICA_FAILURE)?;
        Some((condition.status.clone(), condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default()))
    })
}

/// Whether all pods are of the new template and available, and no other is left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = desired(deployment);
    let all = [status.updated_replicas, status.replicas, status.available_replicas];
    all.iter().all(|count| count.unwrap_or(0) == wanted) && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    new.updated_replicas.unwrap_or(0) > old.updated_replicas.unwrap_or(0)
        || outdated(new) < outdated(old)
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}

fn is_timed_out(deployment: &Deployment, conditions: &Conditions, now: Timestamp) -> bool {
    let Some(condition) = conditions.get(PROGRESSING) else { return false };
    match condition.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => remaining(deployment, condition, now).is_some_and(|remaining| remaining.is_zero()),
    }
}

/// How much of the deadline is left since the last sign of progress.
fn remaining(deployment: &Deployment, condition: &DeploymentCondition, now: Timestamp) -> Option<Duration> {
    let since = condition.last_update_time.as_ref()?.0;
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(deadline(deployment)?.saturating_sub(waited))
}

/// When to look whether the deadline has passed.
pub(super) fn time_until_deadline(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let condition = status.conditions.as_ref()?.iter().find(|condition| condition.type_ == PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(COMPLETE | TIMED_OUT)) || is_complete(deployment, status) {
        return None;
    }
    // Stamps are whole seconds: one more, so that it has surely passed then.
    Some(remaining(deployment, condition, now)? + Duration::from_secs(1))
}
