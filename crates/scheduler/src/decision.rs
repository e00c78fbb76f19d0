//! One pod, all nodes, one answer. Pure: tests are tables of a cluster, a pod, and the expected node or reasons.

use std::collections::BTreeMap;

use rand::Rng;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, NodeInfo, PodInfo, Score, Verdict},
};

/// The plug-ins, in order.
pub struct Profile {
    /// Reasons not to.
    pub filters: Vec<Box<dyn Filter>>,
    /// Preferences.
    pub scores: Vec<Box<dyn Score>>,
}

/// Why a pod fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes were refused, by reason.
    pub reasons: BTreeMap<String, usize>,
    /// What may change that.
    pub retry_on: Vec<ClusterEvent>,
}

impl Refusal {
    /// In upstream's words: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut parts: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        format!("0/{} nodes are available: {}.", self.nodes, parts.join(", "))
    }
}

/// Picks a node.
///
/// # Errors
/// The reasons, where none fits.
pub fn decide(profile: &Profile, pod: &PodInfo, cluster: &Cluster) -> Result<String, Refusal> {
    let mut refusal = Refusal::default();
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    let filters: Vec<&dyn Filter> = profile.filters.iter().map(AsRef::as_ref).filter(|filter| filter.concerns(pod)).collect();
    for node in cluster.nodes() {
        refusal.nodes += 1;
        let refused = filters.iter().find_map(|filter| match filter.filter(pod, node, cluster) {
            Verdict::Fits => None,
            Verdict::NotNow(reason) | Verdict::Never(reason) => Some((*filter, reason)),
        });
        match refused {
            None => fitting.push(node),
            Some((filter, reason)) => {
                *refusal.reasons.entry(reason).or_default() += 1;
                for event in filter.retry_on() {
                    if !refusal.retry_on.contains(event) {
                        refusal.retry_on.push(*event);
                    }
                }
            }
        }
    }
    match fitting.as_slice() {
        [] => {
            if !refusal.retry_on.contains(&ClusterEvent::NodeAdded) {
                refusal.retry_on.push(ClusterEvent::NodeAdded);
            }
            Err(refusal)
        }
        [only] => Ok(only.name.clone()),
        _ => Ok(best(profile, pod, &fitting, cluster)),
    }
}

/// Stretches raw scores over 0 to 100. Source: Kubernetes `scheduler/framework/plugins/helper`, `DefaultNormalizeScore`.
fn normalize(raw: &[i64], higher_is_better: bool) -> Vec<i64> {
    let highest = raw.iter().copied().max().unwrap_or_default();
    let lowest = raw.iter().copied().min().unwrap_or_default().min(0);
    let span = highest - lowest;
    if span == 0 {
        return vec![if higher_is_better { 0 } else { 100 }; raw.len()];
    }
    raw.iter()
        .map(|score| {
            let scaled = (score - lowest) * 100 / span;
            if higher_is_better { scaled } else { 100 - scaled }
        })
        .collect()
}

fn best(profile: &Profile, pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> String {
    let mut totals = vec![0_i64; nodes.len()];
    for plugin in profile.scores.iter().filter(|plugin| plugin.concerns(pod)) {
        let raw = plugin.score(pod, nodes, cluster);
        let scores = if plugin.is_normalized() { raw } else { normalize(&raw, plugin.higher_is_better()) };
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    // Among equals one is drawn, so that a burst of equal pods does not pile up on the first name.
    let highest = totals.iter().copied().max().unwrap_or_default();
    let mut equals = nodes.iter().zip(&totals).filter(|(_, total)| **total == highest).map(|(node, _)| node);
    let count = equals.clone().count();
    equals.nth(rand::rng().random_range(0..count.max(1))).map(|node| node.name.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_stretched_and_turned() {
        assert_eq!(normalize(&[0, 5, 10], true), [0, 50, 100]);
        assert_eq!(normalize(&[0, 5, 10], false), [100, 50, 0]);
        assert_eq!(normalize(&[0, 0], true), [0, 0]);
        assert_eq!(normalize(&[-10, 0], true), [0, 100]);
    }
}
