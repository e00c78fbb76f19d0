//! The scheduler's own compact view: nodes, and the pods that are on them or are about to be.

use std::{collections::BTreeMap, sync::Arc};

use api::core::v1::Node;

use crate::framework::{NodeInfo, PodInfo, Resources};

/// Nodes by name. A pod is *assumed* from the decision until its binding is seen in the watch.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeInfo>,
    /// Node of each pod that is on one, by UID.
    places: BTreeMap<String, String>,
    /// Pods with required anti-affinity: they object to newcomers.
    objecting: BTreeMap<String, String>,
}

impl Cluster {
    /// All nodes that exist. Names of nodes that only pods speak of are left out.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|node| node.allowed_pods > 0)
    }
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes().count()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }
    /// Pods on nodes that have required anti-affinity, with their nodes.
    pub fn objecting(&self) -> impl Iterator<Item = (&Arc<PodInfo>, &NodeInfo)> {
        self.objecting.iter().filter_map(|(uid, node)| {
            let node = self.nodes.get(node)?;
            Some((node.pods.get(uid)?, node))
        })
    }
    /// Takes in a node as it is now; whether anything that matters changed, and whether it is new.
    pub fn apply_node(&mut self, node: &Node) -> (bool, bool) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let allowed_pods = allocatable
            .and_then(|list| list.get("pods"))
            .and_then(|quantity| quantity.0.parse::<meta::quantity::Quantity>().ok())
            .and_then(|quantity| usize::try_from(quantity.value()).ok())
            .unwrap_or_default();
        let spec = node.spec.clone().unwrap_or_default();
        let entry = self.nodes.entry(name.clone()).or_insert_with(|| NodeInfo { name, ..NodeInfo::default() });
        let is_new = entry.allowed_pods == 0 && allowed_pods > 0;
        let new = (
            node.metadata.labels.clone().unwrap_or_default(),
            spec.taints.unwrap_or_default(),
            spec.unschedulable.unwrap_or_default(),
            Resources::of(allocatable.into_iter().flatten()),
            allowed_pods,
        );
        let changed = (&entry.labels, &entry.taints, &entry.unschedulable, &entry.allocatable, &entry.allowed_pods) != (&new.0, &new.1, &new.2, &new.3, &new.4);
        (entry.labels, entry.taints, entry.unschedulable, entry.allocatable, entry.allowed_pods) = new;
        (changed, is_new)
    }
    /// Forgets a node; its pods stay known until they go themselves.
    pub fn delete_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.allowed_pods = 0;
            if node.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }
    /// Puts a pod on a node (or moves it there, or takes in how it changed).
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.uid);
        let entry = self.nodes.entry(node.to_owned()).or_insert_with(|| NodeInfo { name: node.to_owned(), ..NodeInfo::default() });
        entry.requested.add(&pod.requests, 1);
        if !pod.required_anti_affinity.is_empty() {
            self.objecting.insert(pod.uid.clone(), node.to_owned());
        }
        self.places.insert(pod.uid.clone(), node.to_owned());
        entry.pods.insert(pod.uid.clone(), pod);
    }
    /// Takes a pod off its node; whether it was on one.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(name) = self.places.remove(uid) else { return false };
        self.objecting.remove(uid);
        if let Some(node) = self.nodes.get_mut(&name)
            && let Some(pod) = node.pods.remove(uid)
        {
            node.requested.add(&pod.requests, -1);
        }
        true
    }
    /// The node a pod is on, or is about to be.
    pub fn place_of(&self, uid: &str) -> Option<&str> {
        self.places.get(uid).map(String::as_str)
    }
}
