//! InterPodAffinity: pods that must, must not, would or would rather not be together.

use crate::{
    cluster::Cluster,
    framework::{AffinityTerm, ClusterEvent, Filter, NodeInfo, PodInfo, Score, Verdict},
};

/// The plug-in.
pub struct InterPodAffinity;

/// Whether a pod that the term means is in the node's domain.
fn found_in_domain(term: &AffinityTerm, node: &NodeInfo, cluster: &Cluster) -> bool {
    let Some(domain) = node.labels.get(&term.topology_key) else { return false };
    cluster
        .nodes()
        .filter(|other| other.labels.get(&term.topology_key) == Some(domain))
        .any(|other| other.pods.values().any(|pod| !pod.finished && term.matches(pod)))
}

fn found_anywhere(term: &AffinityTerm, cluster: &Cluster) -> bool {
    cluster.nodes().any(|node| node.labels.contains_key(&term.topology_key) && node.pods.values().any(|pod| term.matches(pod)))
}

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, cluster: &Cluster) -> Verdict {
        if !pod.required_affinity.is_empty() {
            let together = pod.required_affinity.iter().all(|term| found_in_domain(term, node, cluster));
            // The first of a group that wants to be together with itself may go anywhere the labels exist.
            let first = || {
                pod.required_affinity.iter().all(|term| {
                    term.matches(pod) && node.labels.contains_key(&term.topology_key) && !found_anywhere(term, cluster)
                })
            };
            if !together && !first() {
                return Verdict::Never("node(s) didn't match pod affinity rules".to_owned());
            }
        }
        if pod.required_anti_affinity.iter().any(|term| found_in_domain(term, node, cluster)) {
            return Verdict::NotNow("node(s) didn't match pod anti-affinity rules".to_owned());
        }
        let objects = cluster.objecting().any(|(other, place)| {
            other.required_anti_affinity.iter().any(|term| {
                term.matches(pod)
                    && place.labels.get(&term.topology_key).is_some_and(|domain| node.labels.get(&term.topology_key) == Some(domain))
            })
        });
        if objects {
            return Verdict::NotNow("node(s) didn't satisfy existing pods anti-affinity rules".to_owned());
        }
        Verdict::Fits
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::AssignedPodGone, ClusterEvent::AssignedPodChanged]
    }
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
    fn weight(&self) -> i64 {
        2
    }
    fn concerns(&self, pod: &PodInfo) -> bool {
        !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty()
    }
    fn score(&self, pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64> {
        let sum = |terms: &[(i32, AffinityTerm)], node: &NodeInfo| -> i64 {
            terms.iter().filter(|(_, term)| found_in_domain(term, node, cluster)).map(|(weight, _)| i64::from(*weight)).sum()
        };
        nodes.iter().map(|node| sum(&pod.preferred_affinity, node) - sum(&pod.preferred_anti_affinity, node)).collect()
    }
}
