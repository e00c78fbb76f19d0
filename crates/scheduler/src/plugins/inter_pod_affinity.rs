//! InterPodAffinity: pods that must, must not, would or would rather not be together, whichever of them says so.

use std::sync::Arc;

use crate::{
    census::{Counted, Eligibility},
    cluster::{Cluster, CountId},
    framework::{ClusterEvent, Filter, Prepared, Scale, Score, Verdict},
    pod_info::PodInfo,
    standing::Tone,
    terms::AffinityTerm,
};

/// The plug-in.
#[derive(Debug, Clone)]
pub struct InterPodAffinity {
    /// What it counts that a pod on a node requires company as the newcomer is.
    pub hard_weight: i64,
    /// Whether preferences of pods on nodes are left out for newcomers that have none.
    pub ignores_standing_preferences: bool,
}

impl Default for InterPodAffinity {
    fn default() -> Self {
        Self { hard_weight: 1, ignores_standing_preferences: false }
    }
}

/// Pods that all of the terms mean, by the domains of the first.
fn counted(first: &AffinityTerm, terms: &[AffinityTerm]) -> Counted {
    let mut id = format!("all|{}", first.topology_key);
    for term in terms {
        id.push('|');
        id.push_str(&term.id);
    }
    Counted {
        id: id.into(),
        topology_key: first.topology_key.clone(),
        terms: terms.to_vec(),
        eligible: Eligibility { keys: vec![first.topology_key.clone()], ..Eligibility::default() },
        ..Counted::default()
    }
}

fn around(cluster: &Cluster, count: CountId, slot: usize) -> Option<i64> {
    cluster.domains(count)?.around(slot)
}

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Prepared {
        let together: Vec<CountId> = pod.required_affinity.iter().map(|term| cluster.count_of(&counted(term, &pod.required_affinity))).collect();
        let apart: Vec<CountId> =
            pod.required_anti_affinity.iter().map(|term| cluster.count_of(&counted(term, std::slice::from_ref(term)))).collect();
        let objections = cluster.standing.about(pod, Tone::Objection, &cluster.namespaces);
        if together.is_empty() && apart.is_empty() && objections.is_empty() {
            return Prepared::Indifferent;
        }
        let means_itself = pod.required_affinity.iter().all(|term| term.matches(pod, &cluster.namespaces));
        Prepared::each(move |node, cluster| {
            let (mut has_labels, mut has_company) = (true, true);
            for count in &together {
                match around(cluster, *count, node.slot) {
                    None => has_labels = false,
                    Some(amount) => has_company &= amount > 0,
                }
            }
            // The first of a group that wants to be together with itself may go anywhere the labels exist.
            let is_first = || means_itself && together.iter().all(|count| cluster.domains(*count).is_none_or(|domains| domains.sum() == 0));
            if !has_labels || !has_company && !is_first() {
                return Verdict::never("node(s) didn't match pod affinity rules");
            }
            if apart.iter().any(|count| around(cluster, *count, node.slot).unwrap_or_default() > 0) {
                return Verdict::not_now("node(s) didn't match pod anti-affinity rules");
            }
            if objections.iter().any(|saying| cluster.standing.around(saying, node.slot) > 0) {
                return Verdict::not_now("node(s) didn't satisfy existing pods anti-affinity rules");
            }
            Verdict::Fits
        })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[
            ClusterEvent::NodeAdded,
            ClusterEvent::NodeChanged,
            ClusterEvent::AssignedPodGone,
            ClusterEvent::AssignedPodChanged,
            ClusterEvent::NamespaceChanged,
        ]
    }
    fn looks_beyond_the_node(&self) -> bool {
        true
    }
    fn minds(&self, waiting: &PodInfo, other: &PodInfo, cluster: &Cluster) -> bool {
        let mut wanted = waiting.required_affinity.iter().chain(&waiting.required_anti_affinity);
        wanted.any(|term| term.matches(other, &cluster.namespaces)) || other.required_anti_affinity.iter().any(|term| term.matches(waiting, &cluster.namespaces))
    }
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
    fn weight(&self) -> i64 {
        2
    }
    fn score(&self, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster) -> Option<(Scale, Vec<i64>)> {
        let own: Vec<(i64, CountId)> = pod
            .preferred_affinity
            .iter()
            .map(|(weight, term)| (i64::from(*weight), cluster.count_of(&counted(term, std::slice::from_ref(term)))))
            .collect();
        let (mut liked, mut company) = (Vec::new(), Vec::new());
        if !own.is_empty() || !self.ignores_standing_preferences {
            liked = cluster.standing.about(pod, Tone::Liking, &cluster.namespaces);
            if self.hard_weight > 0 {
                company = cluster.standing.about(pod, Tone::Company, &cluster.namespaces);
            }
        }
        if own.is_empty() && liked.is_empty() && company.is_empty() {
            return None;
        }
        let score = |slot: usize| {
            let wanted: i64 = own.iter().map(|(weight, count)| weight * around(cluster, *count, slot).unwrap_or_default()).sum();
            let liked: i64 = liked.iter().map(|saying| cluster.standing.around(saying, slot)).sum();
            let company: i64 = company.iter().map(|saying| cluster.standing.around(saying, slot)).sum();
            wanted + liked + company * self.hard_weight
        };
        Some((Scale::Span, slots.iter().map(|slot| score(*slot)).collect()))
    }
}
