//! NodeAffinity: node selectors and required node affinity must hold; preferred node affinity counts.

use api::core::v1::NodeAffinity as Wanted;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, NodeInfo, PodInfo, Score, Verdict},
};

/// The plug-in.
pub struct NodeAffinity;

fn wanted(pod: &PodInfo) -> Option<&Wanted> {
    pod.affinity.as_ref()?.node_affinity.as_ref()
}

/// Whether selector and required affinity of a pod hold for a node; spreading asks this too.
pub fn required_holds(pod: &PodInfo, node: &NodeInfo) -> bool {
    pod.node_selector.iter().all(|(name, value)| node.labels.get(name) == Some(value))
        && wanted(pod)
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
            .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| node.matches_term(term)))
}

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn concerns(&self, pod: &PodInfo) -> bool {
        !pod.node_selector.is_empty() || wanted(pod).is_some()
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _cluster: &Cluster) -> Verdict {
        if required_holds(pod, node) { Verdict::Fits } else { Verdict::Never("node(s) didn't match Pod's node affinity/selector".to_owned()) }
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged]
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn weight(&self) -> i64 {
        2
    }
    fn concerns(&self, pod: &PodInfo) -> bool {
        wanted(pod).is_some_and(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.is_some())
    }
    fn score(&self, pod: &PodInfo, nodes: &[&NodeInfo], _cluster: &Cluster) -> Vec<i64> {
        let terms = wanted(pod).and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default();
        nodes
            .iter()
            .map(|node| terms.iter().filter(|term| node.matches_term(&term.preference)).map(|term| i64::from(term.weight)).sum())
            .collect()
    }
}
