//! How many pods of a kind are in each domain, kept up to date with every pod that comes or goes. Spreading and affinity ask
//! nothing else, so that deciding about a pod costs no walk over the other pods.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::core::v1::Toleration;

use crate::{
    node_info::NodeInfo,
    pod_info::PodInfo,
    terms::{AffinityTerm, Namespaces, NodeRequirement, untolerated},
};

/// Which pods are counted, by which label of their nodes.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Says the same where the same is counted.
    pub id: Arc<str>,
    /// The label whose values are the domains.
    pub topology_key: String,
    /// All of these must mean the pod.
    pub terms: Vec<AffinityTerm>,
    /// Where not empty: only pods of this controller.
    pub controller: String,
    /// Pods that are being deleted do not count.
    pub living_only: bool,
    /// Nodes that count.
    pub eligible: Eligibility,
}

/// Nodes on which pods count, and whose domains exist.
#[derive(Debug, Clone, Default)]
pub struct Eligibility {
    /// They have these labels.
    pub keys: Vec<String>,
    /// They meet this.
    pub requirement: Option<Arc<NodeRequirement>>,
    /// Their taints are tolerated.
    pub tolerations: Option<Vec<Toleration>>,
}

impl Eligibility {
    fn includes(&self, node: &NodeInfo) -> bool {
        self.keys.iter().all(|key| node.labels.contains_key(key))
            && self.requirement.as_ref().is_none_or(|requirement| requirement.holds(node))
            && self.tolerations.as_ref().is_none_or(|tolerations| untolerated(&node.taints, tolerations).is_none())
    }
}

impl Counted {
    /// Whether a pod is counted.
    pub fn counts(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        !(self.living_only && pod.terminating)
            && (self.controller.is_empty() || self.controller == pod.controller)
            && self.terms.iter().all(|term| term.matches(pod, namespaces))
    }
    /// Whether the labels of namespaces have a say.
    pub fn depends_on_namespaces(&self) -> bool {
        self.terms.iter().any(|term| !term.namespace_selector.is_nothing() && !term.namespace_selector.is_everything())
    }
    /// Whether pods count on this node.
    pub fn includes(&self, node: &NodeInfo) -> bool {
        node.exists && self.eligible.includes(node)
    }
}

const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Place {
    domain: u32,
    counted: bool,
    amount: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Total {
    amount: i64,
    nodes: u32,
}

/// Amounts by domain, each the sum of what its nodes contribute.
#[derive(Debug, Default)]
pub struct Domains {
    ids: HashMap<String, u32>,
    totals: Vec<Total>,
    /// By the slot of the node.
    places: Vec<Place>,
    /// How many domains have each amount; the first is the least.
    by_amount: BTreeMap<i64, u32>,
    sum: i64,
}

impl Domains {
    /// Says in which domain a node is, and whether it counts. What was on it is forgotten.
    pub fn set_node(&mut self, slot: usize, domain: Option<&String>, counted: bool) {
        self.forget_node(slot);
        let Some(domain) = domain else { return };
        let id = *self.ids.entry(domain.clone()).or_insert_with(|| {
            self.totals.push(Total::default());
            u32::try_from(self.totals.len() - 1).unwrap_or(NOWHERE)
        });
        if self.places.len() <= slot {
            self.places.resize(slot + 1, Place { domain: NOWHERE, counted: false, amount: 0 });
        }
        if let Some(place) = self.places.get_mut(slot) {
            *place = Place { domain: id, counted, amount: 0 };
        }
        if counted {
            self.change(id, 0, 1);
        }
    }
    /// Forgets a node and what was on it.
    pub fn forget_node(&mut self, slot: usize) {
        let Some(place) = self.places.get_mut(slot) else { return };
        let old = std::mem::replace(place, Place { domain: NOWHERE, counted: false, amount: 0 });
        if old.counted {
            self.change(old.domain, -old.amount, -1);
        }
    }
    /// Adds to what a node contributes.
    pub fn add(&mut self, slot: usize, amount: i64) {
        if let Some(place) = self.places.get_mut(slot).filter(|place| place.counted) {
            place.amount += amount;
            let domain = place.domain;
            self.change(domain, amount, 0);
        }
    }
    fn change(&mut self, domain: u32, amount: i64, nodes: i32) {
        let Some(total) = self.totals.get_mut(domain as usize) else { return };
        if total.nodes > 0
            && let Some(count) = self.by_amount.get_mut(&total.amount)
        {
            *count -= 1;
            if *count == 0 {
                self.by_amount.remove(&total.amount);
            }
        }
        total.amount += amount;
        total.nodes = total.nodes.saturating_add_signed(nodes);
        self.sum += amount;
        if total.nodes > 0 {
            *self.by_amount.entry(total.amount).or_default() += 1;
        }
    }
    /// The amount of the domain a node is in; none where it is in none.
    pub fn around(&self, slot: usize) -> Option<i64> {
        let place = self.places.get(slot)?;
        self.totals.get(place.domain as usize).map(|total| total.amount)
    }
    /// In how many domains these nodes are; nodes that are in none are in one more.
    pub fn among(&self, slots: &[usize]) -> usize {
        let domains = slots.iter().map(|slot| self.places.get(*slot).map_or(NOWHERE, |place| place.domain).min(u32::try_from(self.totals.len()).unwrap_or(NOWHERE)));
        if self.totals.len() < 64 {
            return domains.fold(0_u64, |seen, domain| seen | 1 << domain).count_ones() as usize;
        }
        let mut seen = vec![false; self.totals.len() + 1];
        domains.for_each(|domain| if let Some(seen) = seen.get_mut(domain as usize) { *seen = true });
        seen.into_iter().filter(|seen| *seen).count()
    }
    /// The smallest amount of a domain.
    pub fn fewest(&self) -> i64 {
        self.by_amount.keys().next().copied().unwrap_or_default()
    }
    /// How many domains there are.
    pub fn len(&self) -> usize {
        self.by_amount.values().map(|count| *count as usize).sum()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_amount.is_empty()
    }
    /// All amounts together.
    pub fn sum(&self) -> i64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_follow_nodes_that_move_between_domains() {
        let mut domains = Domains::default();
        let (east, west) = ("east".to_owned(), "west".to_owned());
        domains.set_node(0, Some(&east), true);
        domains.set_node(1, Some(&east), true);
        domains.set_node(2, Some(&west), true);
        domains.add(0, 3);
        domains.add(1, 1);
        assert_eq!((domains.around(1), domains.around(2), domains.fewest(), domains.len()), (Some(4), Some(0), 0, 2));
        domains.set_node(0, Some(&west), true);
        domains.add(0, 3);
        assert_eq!((domains.around(1), domains.around(2), domains.fewest()), (Some(1), Some(3), 1));
        domains.forget_node(1);
        assert_eq!((domains.len(), domains.fewest(), domains.sum()), (1, 3, 3));
    }

    #[test]
    fn domains_are_counted_among_some_nodes() {
        for domains_in_all in [4, 100] {
            let mut domains = Domains::default();
            for slot in 0..2 * domains_in_all {
                domains.set_node(slot, Some(&format!("{}", slot / 2)), slot % 3 > 0);
            }
            assert_eq!([&[][..], &[0], &[0, 1], &[1, 2, 7], &[1, 500], &[500, 501]].map(|slots| domains.among(slots)), [0, 1, 1, 3, 2, 1], "of {domains_in_all}");
        }
    }

    #[test]
    fn a_node_that_does_not_count_still_sees_its_domain() {
        let mut domains = Domains::default();
        let east = "east".to_owned();
        domains.set_node(0, Some(&east), true);
        domains.set_node(1, Some(&east), false);
        domains.add(0, 2);
        domains.add(1, 5);
        assert_eq!(domains.around(1), Some(2));
    }
}
