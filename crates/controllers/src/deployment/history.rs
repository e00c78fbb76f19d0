//! Old sets are kept so that one can go back to them, up to a limit.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::revision;
use super::rollout::{Rollout, size};

/// Kept when the Deployment does not say how many. The API fills it in; this is for objects older than that.
const DEFAULT_LIMIT: i32 = 10;

/// The sets to remove: those of the lowest revisions, empty and settled.
/// Source: Kubernetes 1.36, `cleanupDeployment`.
pub(super) fn surplus(rollout: &Rollout) -> Vec<ReplicaSet> {
    let limit = rollout.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(DEFAULT_LIMIT);
    let mut old: Vec<&ReplicaSet> = rollout.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    old.sort_by_key(|set| revision::of(set));
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let settled = |set: &&&ReplicaSet| {
        let status = set.status.clone().unwrap_or_default();
        size(set) == 0 && status.replicas == 0 && status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0)
    };
    old.iter().take(surplus).filter(settled).map(|set| (**set).clone()).collect()
}
