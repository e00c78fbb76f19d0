//! Rolling updates of a DaemonSet: node by node, either the old pod goes first (within `maxUnavailable`) or the new one comes first
//! (within `maxSurge`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;

use super::fit::Fit;
use super::plan::{Plan, is_current};
use crate::pods;

/// How many nodes may be in between.
pub(super) struct Limits {
    is_rolling: bool,
    pub surge: i32,
    unavailable: i32,
    pub min_ready_seconds: i32,
}

impl Limits {
    /// Of a set with pods on `desired` nodes.
    pub fn new(set: &DaemonSet, desired: i32) -> Self {
        let spec = set.spec.clone().unwrap_or_default();
        let strategy = spec.update_strategy.unwrap_or_default();
        let is_rolling = strategy.type_.as_deref() != Some("OnDelete");
        let rolling = strategy.rolling_update.unwrap_or_default();
        let surge = crate::scaled_value(rolling.max_surge.as_ref(), desired, true).unwrap_or(0).max(0);
        let unavailable = crate::scaled_value(rolling.max_unavailable.as_ref(), desired, true).unwrap_or(1).max(0);
        // When both come to nothing, one node may be without a pod.
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        Self { is_rolling, surge: if is_rolling { surge } else { 0 }, unavailable, min_ready_seconds: spec.min_ready_seconds.unwrap_or(0) }
    }
}

/// One step of an update, when nothing else is to be done.
/// Source: Kubernetes 1.36, `DaemonSetsController.rollingUpdate`.
pub(super) fn step(set: &DaemonSet, fits: &BTreeMap<&str, Fit>, pods: &BTreeMap<String, Vec<Arc<Pod>>>, hash: &str, limits: &Limits, plan: &mut Plan, now: Timestamp) {
    if !limits.is_rolling || set.metadata.deletion_timestamp.is_some() {
        return;
    }
    let is_available = |pod: &Arc<Pod>| pods::is_available(pod, limits.min_ready_seconds, now) && !pods::is_terminating(pod);
    let limit = if limits.surge == 0 { limits.unavailable } else { limits.surge };
    let mut between = 0;
    let mut must = Vec::new();
    let mut may = Vec::new();
    for (node, fit) in fits {
        let on_node = pods.get(*node).map(Vec::as_slice).unwrap_or_default();
        let (current, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = on_node.iter().partition(|pod| is_current(pod, hash));
        match (current.first(), old.first()) {
            (None, None) => between += i32::from(fit.should_run && limits.surge == 0),
            (Some(new), None) => between += i32::from(limits.surge == 0 && !is_available(new)),
            (Some(_), Some(_)) => between += 1,
            (None, Some(old)) if pods::is_terminating(old) => between += 1,
            (None, Some(old)) if is_available(old) => may.push((*node, *old)),
            // A pod that does not work is no loss, but its node counts as one that is without.
            (None, Some(old)) => {
                between += i32::from(limits.surge == 0);
                must.push((*node, *old));
            }
        }
    }
    let room = usize::try_from(limit - between).unwrap_or(0);
    for (node, old) in must.into_iter().chain(may.into_iter().take(room)) {
        if limits.surge == 0 {
            plan.delete.push((old.clone(), None));
        } else {
            plan.create.push(node.to_owned());
        }
    }
}
