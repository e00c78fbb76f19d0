//! PodTopologySpread: pods of one kind are spread over zones, hosts or whatever label says; and, unless a pod has its own
//! constraints, those of one controller and of the same Services are spread over nodes and zones.
//!
//! Source: the Kubernetes page "Pod Topology Spread Constraints"; of which pods are of one kind where nothing says so, Kubernetes 1.36,
//! `pkg/scheduler/framework/plugins/helper/spread.go`.

use std::{borrow::Cow, sync::Arc};

use meta::selector::{LabelSelector, Operator, Requirement};

use crate::{
    census::{Counted, Domains, Eligibility},
    cluster::{Cluster, CountId},
    framework::{ClusterEvent, Filter, Prepared, Scale, Score, Verdict},
    pod_info::{PodInfo, Spread},
    terms::AffinityTerm,
};

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const LABEL_REASON: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// A constraint for pods that have none, counting the pods of the same controller and Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultConstraint {
    /// The label whose values are the domains.
    pub topology_key: String,
    /// How uneven it may be.
    pub max_skew: i64,
    /// A rule; otherwise it is a preference.
    pub is_hard: bool,
}

/// The plug-in.
#[derive(Debug, Clone)]
pub struct TopologySpread {
    /// Constraints for pods that have none.
    pub defaults: Vec<DefaultConstraint>,
    /// Whether nodes without some of the labels of default constraints count too, as upstream's own defaults have it.
    pub lenient: bool,
}

impl Default for TopologySpread {
    fn default() -> Self {
        let soft = |key: &str, max_skew| DefaultConstraint { topology_key: key.to_owned(), max_skew, is_hard: false };
        Self { defaults: vec![soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)], lenient: true }
    }
}

struct Constraint {
    max_skew: i64,
    min_domains: Option<usize>,
    itself: i64,
    count: CountId,
    /// Each node is a domain of its own.
    is_by_host: bool,
}

impl TopologySpread {
    fn constraints(&self, pod: &PodInfo, is_hard: bool, cluster: &mut Cluster) -> Vec<Constraint> {
        let defaults = self.defaults_of(pod, is_hard, cluster);
        let wanted = pod.spread.iter().filter(|spread| spread.is_hard == is_hard).chain(&defaults);
        wanted
            .map(|spread| Constraint {
                max_skew: spread.max_skew,
                min_domains: spread.min_domains,
                itself: i64::from(spread.counts_itself),
                is_by_host: spread.counted.topology_key == "kubernetes.io/hostname",
                count: cluster.count_of(&spread.counted),
            })
            .collect()
    }
    /// The constraints of a pod that says none, as far as they are rules or preferences.
    fn defaults_of(&self, pod: &PodInfo, is_hard: bool, cluster: &Cluster) -> Vec<Spread> {
        if !pod.spread.is_empty() || self.defaults.iter().all(|default| default.is_hard != is_hard) {
            return Vec::new();
        }
        let labels = cluster.labels_of_services(pod);
        if labels.is_empty() && !pod.spreads_by_default {
            return Vec::new();
        }
        let controller = if pod.spreads_by_default { pod.controller.clone() } else { String::new() };
        let requirement = |(key, value): (String, String)| Requirement { key, operator: Operator::Equals, values: vec![value] };
        let requirements: Vec<Requirement> = labels.into_iter().map(requirement).collect();
        let alike = self.defaults.iter().filter(|other| other.is_hard == is_hard);
        let keys: Vec<String> = if self.lenient { Vec::new() } else { alike.clone().map(|other| other.topology_key.clone()).collect() };
        let spread = |default: &DefaultConstraint| {
            let term = (!requirements.is_empty()).then(|| {
                let selector = LabelSelector::of(requirements.clone());
                AffinityTerm::new(selector, vec![pod.namespace.clone()], LabelSelector::nothing(), default.topology_key.clone())
            });
            let of_services = term.as_ref().map_or("", |term| &*term.id);
            let counted = Counted {
                id: format!("controller|{controller}|{}|{}|{of_services}", default.topology_key, self.lenient).into(),
                topology_key: default.topology_key.clone(),
                terms: term.into_iter().collect(),
                controller: controller.clone(),
                living_only: true,
                eligible: Eligibility { keys: keys.clone(), ..Eligibility::default() },
            };
            Spread { max_skew: default.max_skew, min_domains: None, counted, counts_itself: true, is_hard }
        };
        alike.map(spread).collect()
    }
}

impl Filter for TopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Prepared {
        let constraints = self.constraints(pod, true, cluster);
        if constraints.is_empty() {
            return Prepared::Indifferent;
        }
        Prepared::each(move |node, cluster| {
            for constraint in &constraints {
                let Some(domains) = cluster.domains(constraint.count) else { continue };
                let Some(here) = domains.around(node.slot) else { return Verdict::never(LABEL_REASON) };
                let enough = constraint.min_domains.is_none_or(|wanted| domains.len() >= wanted);
                let fewest = if enough { domains.fewest() } else { 0 };
                if here + constraint.itself - fewest > constraint.max_skew {
                    return Verdict::not_now(REASON);
                }
            }
            Verdict::Fits
        })
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[
            ClusterEvent::NodeAdded,
            ClusterEvent::NodeChanged,
            ClusterEvent::NodeGone,
            ClusterEvent::AssignedPodGone,
            ClusterEvent::AssignedPodChanged,
        ]
    }
    fn looks_beyond_the_node(&self) -> bool {
        true
    }
    fn minds(&self, waiting: &PodInfo, other: &PodInfo, cluster: &Cluster) -> bool {
        let defaults = self.defaults_of(waiting, true, cluster);
        let mut rules = waiting.spread.iter().filter(|spread| spread.is_hard).chain(&defaults);
        rules.any(|spread| spread.counted.counts(other, &cluster.namespaces))
    }
}

impl Score for TopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn weight(&self) -> i64 {
        2
    }
    fn score(&self, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster) -> Option<(Scale, Vec<i64>)> {
        let constraints = self.constraints(pod, false, cluster);
        if constraints.is_empty() {
            return None;
        }
        let lenient = pod.spread.is_empty() && self.lenient;
        let known: Vec<(&Constraint, &Domains)> = constraints.iter().filter_map(|constraint| Some((constraint, cluster.domains(constraint.count)?))).collect();
        // Nodes without one of the labels are the last choice, and do not matter to the others.
        let has_labels = |slot: &usize| lenient || known.iter().all(|(_, domains)| domains.around(*slot).is_some());
        let labelled: Cow<'_, [usize]> = if slots.iter().all(has_labels) { slots.into() } else { slots.iter().copied().filter(has_labels).collect() };
        // A label with many values among the nodes to choose from says less about each, so it weighs more.
        let weight = |constraint: &Constraint, domains: &Domains| {
            let size = if constraint.is_by_host { labelled.len() } else { domains.among(&labelled) };
            (size as f64 + 2.0).ln()
        };
        let counts: Vec<(&Constraint, &Domains, f64)> = known.iter().map(|(constraint, domains)| (*constraint, *domains, weight(constraint, domains))).collect();
        let raw = |slot: usize| {
            let mut sum = 0.0;
            for (constraint, domains, weight) in &counts {
                match domains.around(slot) {
                    Some(here) => sum += here as f64 * weight + (constraint.max_skew - 1) as f64,
                    // A node without the label is the last choice.
                    None if lenient => {}
                    None => return None,
                }
            }
            Some(sum.round() as i64)
        };
        let scores: Vec<Option<i64>> = slots.iter().map(|slot| raw(*slot)).collect();
        let highest = scores.iter().flatten().copied().max().unwrap_or_default();
        let lowest = scores.iter().flatten().copied().min().unwrap_or_default();
        let score = |raw: &Option<i64>| raw.map_or(0, |raw| if highest == 0 { 100 } else { 100 * (highest + lowest - raw) / highest });
        Some((Scale::Done, scores.iter().map(score).collect()))
    }
}
