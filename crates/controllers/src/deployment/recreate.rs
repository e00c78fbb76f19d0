//! Recreating: all old pods are gone before the first new one is made. Rolling updates are in `rolling.rs`.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::revision;
use super::rollout::{Rollout, size};

/// One step. True when the sets needed no change. `has_pods` tells whether a set has pods that have not ended.
/// Source: Kubernetes 1.36, `rolloutRecreate`.
pub(super) fn step(rollout: &mut Rollout, has_pods: impl Fn(&ReplicaSet) -> bool) -> bool {
    revision::sync(rollout);
    let mut shrunk = false;
    for set in rollout.old.iter_mut().filter(|set| size(set) > 0) {
        Rollout::resize(&rollout.deployment, set, 0);
        shrunk = true;
    }
    if shrunk || rollout.old.iter().any(has_pods) {
        return false;
    }
    rollout.ensure_new();
    let desired = rollout.desired();
    match &mut rollout.new {
        Some(new) if !rollout.created && size(new) != desired => {
            Rollout::resize(&rollout.deployment, new, desired);
            false
        }
        _ => !rollout.created,
    }
}
