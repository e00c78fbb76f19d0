//! NodeAffinity: node selectors and required node affinity must hold; preferred node affinity counts.

use std::sync::Arc;

use api::core::v1::{NodeAffinity as Added, NodeSelector};

use crate::{
    cluster::Cluster,
    framework::{Check, ClusterEvent, Filter, Prepared, Scale, Score, Verdict},
    node_info::NodeInfo,
    pod_info::PodInfo,
    terms::{matches_selector, matches_term},
};

/// The plug-in.
#[derive(Default, Clone)]
pub struct NodeAffinity {
    /// What the profile asks for on behalf of every pod.
    pub added: Option<Arc<Added>>,
}

/// The names of the nodes that a selector can hold for, where each of its terms says some; those of pods of a DaemonSet do.
/// Source: Kubernetes 1.36, `nodeaffinity`, `PreFilter`.
fn names_in(selector: &NodeSelector) -> Option<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    for term in &selector.node_selector_terms {
        let fields = term.match_fields.iter().flatten().filter(|field| field.key == "metadata.name" && field.operator == "In");
        let mut lists = fields.map(|field| field.values.clone().unwrap_or_default());
        let first = lists.next()?;
        let named = lists.fold(first, |left, other| left.into_iter().filter(|name| other.contains(name)).collect());
        all.extend(named);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Prepared {
        let added = self.added.clone().filter(|added| added.required_during_scheduling_ignored_during_execution.is_some());
        if pod.node_requirement.is_empty() && added.is_none() {
            return Prepared::Indifferent;
        }
        let requirement = pod.node_requirement.clone();
        let names = requirement.selector.as_ref().and_then(names_in);
        if names.as_ref().is_some_and(Vec::is_empty) {
            return Prepared::Nowhere("pod affinity terms conflict".to_owned());
        }
        let check: Check = Box::new(move |node: &NodeInfo, _: &Cluster| {
            let required = added.as_ref().and_then(|added| added.required_during_scheduling_ignored_during_execution.as_ref());
            if required.is_some_and(|selector| !matches_selector(selector, node)) {
                Verdict::never("node(s) didn't match scheduler-enforced node affinity")
            } else if requirement.holds(node) {
                Verdict::Fits
            } else {
                Verdict::never("node(s) didn't match Pod's node affinity/selector")
            }
        });
        match names {
            Some(names) => Prepared::Among(names, check),
            None => Prepared::Each(check),
        }
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
    fn score(&self, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster) -> Option<(Scale, Vec<i64>)> {
        let added = self.added.as_ref().and_then(|added| added.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default();
        if pod.preferred_nodes.is_empty() && added.is_empty() {
            return None;
        }
        let terms = || pod.preferred_nodes.iter().chain(added);
        let liked = |node: &NodeInfo| terms().filter(|term| matches_term(&term.preference, node)).map(|term| i64::from(term.weight)).sum();
        Some((Scale::Most, slots.iter().map(|slot| cluster.at(*slot).map_or(0, liked)).collect()))
    }
}
