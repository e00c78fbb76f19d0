//! A node as plug-ins see it: what it is, and what is on it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::core::v1::{Node, Taint};
use indexmap::IndexMap;
use meta::quantity::Quantity;

use crate::{pod_info::PodInfo, resources::Resources};

/// A node and what is on it.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// Its place in the cluster's view.
    pub slot: usize,
    /// Whether there is such a node; pods may speak of one that is gone or to come.
    pub exists: bool,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: usize,
    /// Sizes of the images it has, by every name.
    pub images: HashMap<String, i64>,
    /// What its pods ask for.
    pub requested: Resources,
    /// What its pods count as in scores: CPU and memory.
    pub weight: (i64, i64),
    /// Its pods, by UID.
    pub pods: IndexMap<String, Arc<PodInfo>>,
}

/// What changed about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeChange {
    /// It is new.
    pub is_new: bool,
    /// Something that a filter may look at.
    pub matters: bool,
    /// Something that says which pods count where.
    pub place: bool,
}

impl NodeInfo {
    /// Takes in the node as it is now.
    pub fn read(&mut self, node: &Node) -> NodeChange {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let allowed_pods = allocatable
            .and_then(|list| list.get("pods"))
            .and_then(|quantity| quantity.0.parse::<Quantity>().ok())
            .and_then(|quantity| usize::try_from(quantity.value()).ok())
            .unwrap_or_default();
        let spec = node.spec.as_ref();
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or_default();
        let resources = Resources::of(allocatable.into_iter().flatten());
        let place = self.labels != labels || self.taints != taints;
        let matters = place || self.unschedulable != unschedulable || self.allocatable != resources || self.allowed_pods != allowed_pods;
        let change = NodeChange { is_new: !self.exists, matters, place: place || !self.exists };
        let images = status.into_iter().flat_map(|status| status.images.iter().flatten());
        self.images = images
            .flat_map(|image| image.names.iter().flatten().map(|name| (name.clone(), image.size_bytes.unwrap_or_default())))
            .collect();
        (self.labels, self.taints, self.unschedulable, self.allocatable, self.allowed_pods) = (labels, taints, unschedulable, resources, allowed_pods);
        self.exists = true;
        change
    }
    /// Puts a pod here.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.count(&pod, 1);
        self.pods.insert(pod.uid.clone(), pod);
    }
    /// Takes a pod away.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.swap_remove(uid)?;
        self.count(&pod, -1);
        Some(pod)
    }
    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.requested.add(&pod.requests, sign);
        let (cpu, memory) = pod.weight;
        self.weight = (self.weight.0.saturating_add(sign * cpu), self.weight.1.saturating_add(sign * memory));
    }
}
