//! What a Deployment's sets and status should become, decided from what they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::progress::{Conditions, PROGRESSING};
use super::rollout::{Rollout, is_recreate};
use super::{history, progress, proportional, recreate, revision, rolling};

/// What is to be written, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The set of a new template.
    pub create: Option<ReplicaSet>,
    /// Sets with another size or other annotations than now, and the size they have now.
    pub update: Vec<(ReplicaSet, i32)>,
    /// Sets that history no longer needs.
    pub delete: Vec<ReplicaSet>,
    /// All annotations of the Deployment, where its revision has to change.
    pub annotations: Option<BTreeMap<String, String>>,
    /// The status.
    pub status: DeploymentStatus,
    /// When to look again although nothing has changed.
    pub check_after: Option<Duration>,
}

impl Plan {
    /// What remains of the plan when the new set could not be created: its condition.
    pub(super) fn creation_failed(self, deployment: &Deployment, message: String, now: Timestamp) -> Self {
        let mut status = deployment.status.clone().unwrap_or_default();
        if progress::has_deadline(deployment) {
            let mut conditions = Conditions::new(status.conditions.take().unwrap_or_default(), now);
            conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", message);
            status.conditions = conditions.into_option();
        }
        Self { status, ..Self::default() }
    }
}

/// Decides. `has_pods` tells whether a set still has pods that have not ended, however it is sized.
/// Source: Kubernetes 1.36, `DeploymentController.syncDeployment`.
pub(super) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], has_pods: impl Fn(&ReplicaSet) -> bool, now: Timestamp) -> Plan {
    let mut rollout = Rollout::new(deployment, sets, now);
    let is_paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    let mut check_after = None;
    let mut delete = Vec::new();

    let status = if deployment.metadata.deletion_timestamp.is_some() {
        progress::status(&rollout)
    } else {
        progress::note_pause(&mut rollout, is_paused);
        if is_paused || proportional::was_resized(&rollout) {
            revision::sync(&mut rollout);
            proportional::scale(&mut rollout);
            if is_paused {
                delete = history::surplus(&rollout);
            }
            progress::status(&rollout)
        } else {
            let settled = if is_recreate(deployment) { recreate::step(&mut rollout, has_pods) } else { rolling::step(&mut rollout) };
            let status = progress::status_with_progress(&mut rollout);
            if settled && progress::is_complete(deployment, &deployment.status.clone().unwrap_or_default()) {
                delete = history::surplus(&rollout);
            }
            check_after = progress::time_until_deadline(deployment, &status, now);
            status
        }
    };
    let annotations = rollout.deployment.metadata.annotations.clone();
    let annotations = if annotations == deployment.metadata.annotations { None } else { annotations };
    delete.retain(|set| set.metadata.deletion_timestamp.is_none());
    let update = rollout.changed_sets(sets);
    Plan { create: rollout.created.then(|| rollout.new.clone()).flatten(), update, delete, annotations, status, check_after }
}

#[cfg(test)]
mod tests;
