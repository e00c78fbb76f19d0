//! PodTopologySpread: pods of one kind are spread over zones, hosts or whatever label says; and, unless a pod has its own
//! constraints, those of one controller are spread over nodes.
//!
//! Source: the Kubernetes page "Pod Topology Spread Constraints".

use std::collections::BTreeMap;

use api::core::v1::TopologySpreadConstraint;
use meta::selector::LabelSelector;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, NodeInfo, PodInfo, Score, Verdict, tolerates},
    plugins::node_affinity::required_holds,
};

/// The plug-in for a pod's own constraints.
pub struct TopologySpread;

/// Spreads pods of one controller over nodes where they say nothing themselves.
pub struct OwnerSpread;

const REASON: &str = "node(s) didn't match pod topology spread constraints";

fn matches(pod: &PodInfo, constraint: &TopologySpreadConstraint, selector: &LabelSelector, other: &PodInfo) -> bool {
    other.namespace == pod.namespace
        && !other.terminating
        && selector.matches_map(&other.labels)
        && constraint.match_label_keys.iter().flatten().all(|key| pod.labels.get(key).is_none_or(|value| other.labels.get(key) == Some(value)))
}

/// Whether a node counts for a constraint of this pod.
fn counts(pod: &PodInfo, constraint: &TopologySpreadConstraint, node: &NodeInfo) -> bool {
    let honours = |policy: Option<&String>, usual: bool| policy.map_or(usual, |policy| policy == "Honor");
    (!honours(constraint.node_affinity_policy.as_ref(), true) || required_holds(pod, node))
        && (!honours(constraint.node_taints_policy.as_ref(), false)
            || node
                .taints
                .iter()
                .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
                .all(|taint| pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))))
}

/// Matching pods in each domain.
fn domains(pod: &PodInfo, constraint: &TopologySpreadConstraint, selector: &LabelSelector, cluster: &Cluster) -> BTreeMap<String, i64> {
    let mut domains: BTreeMap<String, i64> = BTreeMap::new();
    for node in cluster.nodes().filter(|node| counts(pod, constraint, node)) {
        if let Some(domain) = node.labels.get(&constraint.topology_key) {
            let here = node.pods.values().filter(|other| matches(pod, constraint, selector, other)).count();
            *domains.entry(domain.clone()).or_default() += i64::try_from(here).unwrap_or(i64::MAX);
        }
    }
    domains
}

fn is_hard(constraint: &TopologySpreadConstraint) -> bool {
    constraint.when_unsatisfiable == "DoNotSchedule"
}

impl Filter for TopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn concerns(&self, pod: &PodInfo) -> bool {
        pod.spread.iter().any(|(constraint, _)| is_hard(constraint))
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, cluster: &Cluster) -> Verdict {
        for (constraint, selector) in pod.spread.iter().filter(|(constraint, _)| is_hard(constraint)) {
            let Some(domain) = node.labels.get(&constraint.topology_key) else {
                return Verdict::Never(format!("{REASON} (missing required label)"));
            };
            let domains = domains(pod, constraint, selector, cluster);
            let enough = constraint.min_domains.is_none_or(|wanted| domains.len() >= usize::try_from(wanted).unwrap_or_default());
            let fewest = if enough { domains.values().copied().min().unwrap_or_default() } else { 0 };
            let itself = i64::from(selector.matches_map(&pod.labels));
            let here = domains.get(domain).copied().unwrap_or_default();
            if here + itself - fewest > i64::from(constraint.max_skew) {
                return Verdict::NotNow(REASON.to_owned());
            }
        }
        Verdict::Fits
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::AssignedPodGone, ClusterEvent::AssignedPodChanged]
    }
}

impl Score for TopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn weight(&self) -> i64 {
        2
    }
    fn higher_is_better(&self) -> bool {
        false
    }
    fn concerns(&self, pod: &PodInfo) -> bool {
        pod.spread.iter().any(|(constraint, _)| !is_hard(constraint))
    }
    fn score(&self, pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64> {
        let mut totals = vec![0_i64; nodes.len()];
        for (constraint, selector) in pod.spread.iter().filter(|(constraint, _)| !is_hard(constraint)) {
            let domains = domains(pod, constraint, selector, cluster);
            let worst = domains.values().copied().max().unwrap_or_default() + 1;
            for (total, node) in totals.iter_mut().zip(nodes) {
                *total += node.labels.get(&constraint.topology_key).and_then(|domain| domains.get(domain)).copied().unwrap_or(worst);
            }
        }
        totals
    }
}

impl Score for OwnerSpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn weight(&self) -> i64 {
        2
    }
    fn higher_is_better(&self) -> bool {
        false
    }
    fn concerns(&self, pod: &PodInfo) -> bool {
        pod.spread.is_empty() && !pod.controller.is_empty()
    }
    fn score(&self, pod: &PodInfo, nodes: &[&NodeInfo], _cluster: &Cluster) -> Vec<i64> {
        let siblings = |node: &NodeInfo| node.pods.values().filter(|other| other.controller == pod.controller && !other.terminating).count();
        nodes.iter().map(|node| i64::try_from(siblings(node)).unwrap_or(i64::MAX)).collect()
    }
}
