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
    /// Whether there may be two pods on a node at all.
    pub allows_surge: bool,
    surge: i32,
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
        let allows_surge = is_rolling && crate::scaled_value(rolling.max_surge.as_ref(), 1, true).is_some_and(|surge| surge > 0);
        Self { is_rolling, allows_surge, surge: if is_rolling { surge } else { 0 }, unavailable, min_ready_seconds: spec.min_ready_seconds.unwrap_or(0) }
    }
}

/// One step of an update, when nothing else is to be done.
/// Source: Kubernetes 1.36, `DaemonSetsController.rollingUpdate`.
pub(super) fn step(set: &DaemonSet, fits: &BTreeMap<&str, Fit>, pods: &BTreeMap<String, Vec<Arc<Pod>>>, hash: &str, limits: &Limits, plan: &mut Plan, now: Timestamp) {
    if !limits.is_rolling || set.metadata.deletion_timestamp.is_some() {
        return;
    }
    let is_available = |pod: &Arc<Pod>| pods::is_available(pod, limits.min_ready_seconds, now);
    if limits.surge == 0 {
        replace(set, fits, pods, hash, limits, is_available, plan);
    } else {
        surge(set, fits, pods, hash, limits, is_available, plan);
    }
}

/// The pods of a node that do not leave: of the present template, and of an older one. `None` where there are several of one kind, which
/// are cut first.
fn pods_of<'a>(set: &DaemonSet, on_node: &'a [Arc<Pod>], hash: &str) -> Option<(Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>)> {
    let staying = on_node.iter().filter(|pod| !pods::is_terminating(pod));
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = staying.partition(|pod| is_current(set, pod, hash));
    (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
}

/// Removes old pods, so that at most `maxUnavailable` nodes are without one.
fn replace(
    set: &DaemonSet,
    fits: &BTreeMap<&str, Fit>,
    pods: &BTreeMap<String, Vec<Arc<Pod>>>,
    hash: &str,
    limits: &Limits,
    is_available: impl Fn(&Arc<Pod>) -> bool,
    plan: &mut Plan,
) {
    let mut unavailable = 0;
    let (mut must, mut may) = (Vec::new(), Vec::new());
    for (node, fit) in fits {
        let Some(on_node) = pods.get(*node) else {
            unavailable += i32::from(fit.should_run);
            continue;
        };
        match pods_of(set, on_node, hash) {
            None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
            Some((Some(new), None)) => unavailable += i32::from(!is_available(new)),
            Some((None, Some(old))) if is_available(old) => may.push(old),
            // A pod that does not work is no loss, but its node counts as one that is without.
            Some((None, Some(old))) => {
                unavailable += 1;
                must.push(old);
            }
        }
    }
    let room = usize::try_from(limits.unavailable - unavailable).unwrap_or(0);
    plan.delete.extend(must.into_iter().chain(may.into_iter().take(room)).map(|old| (old.clone(), None)));
}

/// Starts new pods beside old ones, at most `maxSurge` beside those that work, and removes old pods that are not needed any more.
fn surge(
    set: &DaemonSet,
    fits: &BTreeMap<&str, Fit>,
    pods: &BTreeMap<String, Vec<Arc<Pod>>>,
    hash: &str,
    limits: &Limits,
    is_available: impl Fn(&Arc<Pod>) -> bool,
    plan: &mut Plan,
) {
    let desired = fits.values().filter(|fit| fit.should_run).count();
    let (mut surging, mut available) = (0, 0_usize);
    let (mut must, mut may) = (Vec::new(), Vec::new());
    let mut out_of_place = Vec::new();
    for (node, fit) in fits {
        let Some((new, old)) = pods_of(set, pods.get(*node).map(Vec::as_slice).unwrap_or_default(), hash) else {
            surging += 1;
            continue;
        };
        available += usize::from(old.or(new).is_some_and(&is_available));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) if !fit.should_run && is_available(old) => out_of_place.push(old),
            (None, Some(old)) if !fit.should_run => plan.delete.push((old.clone(), None)),
            (None, Some(old)) if is_available(old) => may.push(*node),
            (None, Some(_)) => must.push(*node),
            (Some(new), Some(old)) if is_available(new) => plan.delete.push((old.clone(), None)),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    // A pod where none should be any more still does its work until as many as wanted do it elsewhere.
    let dispensable = available.saturating_sub(desired);
    plan.delete.extend(out_of_place.into_iter().take(dispensable).map(|old| (old.clone(), None)));
    let room = usize::try_from(limits.surge - surging).unwrap_or(0);
    plan.create.extend(must.into_iter().chain(may.into_iter().take(room)).map(str::to_owned));
}
