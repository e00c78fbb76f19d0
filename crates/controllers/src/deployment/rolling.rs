//! Rolling updates: old pods go only as new ones become available. How many may be missing or extra is in `rollout.rs`; recreating is
//! in `recreate.rs`.

use super::rollout::{Rollout, available, max_unavailable, size};

/// One step. True when the sets' sizes needed no change.
/// Source: Kubernetes 1.36, `rolloutRolling`.
pub(super) fn step(rollout: &mut Rollout) -> bool {
    rollout.ensure_new();
    if rollout.created || resize_new(rollout) {
        return false;
    }
    !shrink_old(rollout)
}

/// Sizes the new set; true when that changed it.
fn resize_new(rollout: &mut Rollout) -> bool {
    let desired = rollout.desired();
    let target = match &rollout.new {
        Some(new) if size(new) == desired => return false,
        Some(new) if size(new) > desired => desired,
        _ => rollout.new_size(),
    };
    let Some(new) = &mut rollout.new else { return false };
    if size(new) == target {
        return false;
    }
    Rollout::resize(&rollout.deployment, new, target);
    true
}

/// Shrinks old sets as far as availability allows: first by pods that are not available anyway. True when that changed one.
/// Source: Kubernetes 1.36, `reconcileOldReplicaSets`.
fn shrink_old(rollout: &mut Rollout) -> bool {
    if rollout.old.iter().map(size).sum::<i32>() == 0 {
        return false;
    }
    let least_available = rollout.desired() - max_unavailable(&rollout.deployment);
    let new_unavailable = rollout.new.as_ref().map_or(0, |new| size(new) - available(new));
    let most_removed = rollout.total() - least_available - new_unavailable;
    if most_removed <= 0 {
        return false;
    }
    let mut removed = 0;
    for set in &mut rollout.old {
        let unavailable = size(set) - available(set);
        let fewer = unavailable.min(most_removed - removed);
        if size(set) > 0 && fewer > 0 {
            let to = size(set) - fewer;
            Rollout::resize(&rollout.deployment, set, to);
            removed += fewer;
        }
    }
    let mut dispensable = rollout.all().map(available).sum::<i32>() - least_available;
    for set in &mut rollout.old {
        let fewer = size(set).min(dispensable);
        if fewer > 0 {
            let to = size(set) - fewer;
            Rollout::resize(&rollout.deployment, set, to);
            dispensable -= fewer;
            removed += fewer;
        }
    }
    removed > 0
}
