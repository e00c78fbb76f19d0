//! A Deployment of another size: while it rolls (or is paused in the middle), all its sets grow and shrink in proportion, so that a
//! bad template does not get all of the new pods.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::revision::{self, DESIRED_REPLICAS, MAX_REPLICAS, annotation};
use super::rollout::{Rollout, available, is_recreate, max_surge, size};

/// Whether the Deployment was resized since its sets were.
pub(super) fn was_resized(rollout: &Rollout) -> bool {
    let active = rollout.all().filter(|set| size(set) > 0);
    let meant_for = active.filter_map(|set| annotation(set, DESIRED_REPLICAS)?.parse::<i32>().ok());
    meant_for.into_iter().any(|size| size != rollout.desired())
}

/// Resizes the sets for the Deployment's size.
/// Source: Kubernetes 1.36, `DeploymentController.scale`.
pub(super) fn scale(rollout: &mut Rollout) {
    let desired = rollout.desired();
    let deployment = rollout.deployment.clone();
    let mut sets: Vec<&mut ReplicaSet> = rollout.old.iter_mut().chain(&mut rollout.new).collect();
    let active = sets.iter().filter(|set| size(set) > 0).count();
    if active <= 1 {
        // One set at most has pods: it, or else the newest, gets all of them.
        let only = match sets.iter().position(|set| size(set) > 0) {
            Some(position) => sets.get_mut(position),
            None => sets.last_mut(),
        };
        if let Some(set) = only
            && size(set) != desired
        {
            Rollout::resize(&deployment, set, desired);
        }
        return;
    }
    if rollout.new.as_ref().is_some_and(|new| is_saturated(new, desired)) {
        for set in rollout.old.iter_mut().filter(|set| size(set) > 0) {
            Rollout::resize(&deployment, set, 0);
        }
        return;
    }
    if is_recreate(&deployment) {
        return;
    }
    let mut active: Vec<&mut ReplicaSet> = rollout.old.iter_mut().chain(&mut rollout.new).filter(|set| size(set) > 0).collect();
    let allowed = if desired > 0 { desired + max_surge(&deployment) } else { 0 };
    let to_add = allowed - active.iter().map(|set| size(set)).sum::<i32>();
    // The largest first; among equals the newest when growing, the oldest when shrinking. They are oldest first now.
    if to_add > 0 {
        active.reverse();
    }
    active.sort_by_key(|set| std::cmp::Reverse(size(set)));
    let status_replicas = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let most = desired + max_surge(&deployment);
    let mut added = 0;
    let mut targets: Vec<i32> = Vec::new();
    for set in &active {
        let share = if to_add == 0 || to_add == added { 0 } else { share(set, desired, most, status_replicas) };
        let left = to_add - added;
        let share = if to_add > 0 { share.min(left) } else { share.max(left) };
        added += share;
        targets.push(size(set) + share);
    }
    if let Some(first) = targets.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, target) in active.into_iter().zip(targets) {
        let before = size(set);
        if before != target {
            Rollout::resize(&deployment, set, target);
        } else {
            revision::note_sizes(&deployment, set);
        }
    }
}

/// By how much a set changes in proportion to the whole.
/// Source: Kubernetes 1.36, `getReplicaSetFraction`.
fn share(set: &ReplicaSet, desired: i32, most: i32, status_replicas: i32) -> i32 {
    if desired == 0 {
        return -size(set);
    }
    let before = annotation(set, MAX_REPLICAS).and_then(|text| text.parse().ok()).filter(|before| *before > 0).unwrap_or(status_replicas);
    if before == 0 {
        return 0;
    }
    let exact = f64::from(size(set)) * f64::from(most) / f64::from(before);
    exact.round() as i32 - size(set)
}

/// Whether the new set has all the pods of the Deployment, available.
fn is_saturated(new: &ReplicaSet, desired: i32) -> bool {
    size(new) == desired && annotation(new, DESIRED_REPLICAS).and_then(|text| text.parse().ok()) == Some(desired) && available(new) == desired
}
