//! What pods that are on nodes say about newcomers: "not beside me" (required anti-affinity), "I like company of that kind"
//! (preferred affinity, and required affinity too). Pods that say the same are one entry, so a newcomer is compared with each
//! different saying once, not with each pod.

use std::{collections::HashMap, sync::Arc};

use crate::{
    census::Domains,
    node_info::NodeInfo,
    pod_info::PodInfo,
    terms::{AffinityTerm, Namespaces},
};

/// How a saying is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tone {
    /// Required anti-affinity: amounts are numbers of pods that object.
    Objection,
    /// Preferences: amounts are sums of weights.
    Liking,
    /// Required affinity: amounts are numbers of pods, which a weight is given by the profile.
    Company,
}

#[derive(Debug)]
struct Saying {
    term: AffinityTerm,
    domains: Domains,
    pods: usize,
}

/// All sayings.
#[derive(Debug, Default)]
pub struct Standing {
    sayings: HashMap<(Tone, Arc<str>), Saying>,
}

fn sayings_of(pod: &PodInfo) -> impl Iterator<Item = (Tone, &AffinityTerm, i64)> {
    let objections = pod.required_anti_affinity.iter().map(|term| (Tone::Objection, term, 1));
    let company = pod.required_affinity.iter().map(|term| (Tone::Company, term, 1));
    objections.chain(company).chain(pod.preferred_affinity.iter().map(|(weight, term)| (Tone::Liking, term, i64::from(*weight))))
}

impl Standing {
    /// A pod came onto the node of a slot.
    pub fn add(&mut self, pod: &PodInfo, slot: usize, nodes: &[NodeInfo]) {
        for (tone, term, amount) in sayings_of(pod) {
            let saying = self.sayings.entry((tone, term.id.clone())).or_insert_with(|| {
                let mut domains = Domains::default();
                for node in nodes.iter().filter(|node| node.exists) {
                    domains.set_node(node.slot, node.labels.get(&term.topology_key), true);
                }
                Saying { term: term.clone(), domains, pods: 0 }
            });
            saying.pods += 1;
            saying.domains.add(slot, amount);
        }
    }
    /// A pod left the node of a slot.
    pub fn remove(&mut self, pod: &PodInfo, slot: usize) {
        for (tone, term, amount) in sayings_of(pod) {
            let key = (tone, term.id.clone());
            let Some(saying) = self.sayings.get_mut(&key) else { continue };
            saying.pods -= 1;
            saying.domains.add(slot, -amount);
            if saying.pods == 0 {
                self.sayings.remove(&key);
            }
        }
    }
    /// A node changed its labels, came or went.
    pub fn recount(&mut self, node: &NodeInfo) {
        for saying in self.sayings.values_mut() {
            let label = node.labels.get(&saying.term.topology_key).filter(|_| node.exists);
            saying.domains.set_node(node.slot, label, true);
        }
        for pod in node.pods.values() {
            for (tone, term, amount) in sayings_of(pod) {
                if let Some(saying) = self.sayings.get_mut(&(tone, term.id.clone())) {
                    saying.domains.add(node.slot, amount);
                }
            }
        }
    }
    /// What is said in a tone about such a pod: keys for [`Standing::around`].
    pub fn about(&self, pod: &PodInfo, tone: Tone, namespaces: &Namespaces) -> Vec<(Tone, Arc<str>)> {
        let meant = self.sayings.iter().filter(|((known, _), saying)| *known == tone && saying.term.matches(pod, namespaces));
        meant.map(|(key, _)| key.clone()).collect()
    }
    /// The amount of a saying in the domain of a node.
    pub fn around(&self, key: &(Tone, Arc<str>), slot: usize) -> i64 {
        self.sayings.get(key).and_then(|saying| saying.domains.around(slot)).unwrap_or_default()
    }
}
