//! The scheduler's own compact view: nodes, the pods that are on them or are about to be, and what is counted about these.
//!
//! Everything in it is brought up to date by each change; nothing is copied for a decision. To try what would be if a pod were
//! not there, take it out, look, and put it back.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::core::v1::Node;

use crate::{
    census::{Counted, Domains},
    node_info::{NodeChange, NodeInfo},
    pod_info::PodInfo,
    standing::Standing,
    terms::Namespaces,
    volumes::Volumes,
};

/// So many counts are kept before those nobody asked for lately are dropped.
const COUNTS: usize = 512;
/// Counts that were not asked for during so many decisions are old.
const OLD: u64 = 4096;

/// So many labels may be kept for controllers whose pods are gone.
const FEW_LABELS: usize = 1024;

/// A count somebody asked for. Valid until the next decision begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountId(usize);

#[derive(Debug)]
struct Count {
    what: Counted,
    domains: Domains,
    asked: u64,
}

/// Nodes by slot. A pod is *assumed* from the decision until its binding is seen in the watch.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    slots: HashMap<String, usize>,
    free: Vec<usize>,
    /// Slots of the nodes that exist, in the order they came.
    order: Vec<usize>,
    /// Slot of each pod that is on a node, by UID.
    places: HashMap<String, usize>,
    counts: Vec<Option<Count>>,
    count_ids: HashMap<Arc<str>, usize>,
    decisions: u64,
    /// What pods on nodes say about newcomers.
    pub standing: Standing,
    /// Labels of namespaces.
    pub namespaces: Namespaces,
    /// What Services select, by namespace and name; namespaces without any are not there.
    services: HashMap<String, BTreeMap<String, BTreeMap<String, String>>>,
    /// How many nodes have an image.
    pub image_nodes: HashMap<String, usize>,
    /// Claims, volumes and what limits them.
    pub volumes: Volumes,
    /// Pods for which room is being made, with the slot of the node.
    nominated: BTreeMap<String, (Arc<PodInfo>, usize)>,
    /// Labels that a pod of each controller had, by the controller's UID.
    labels: HashMap<String, Arc<BTreeMap<String, String>>>,
    /// When so many are kept, those are dropped that no pod has any more.
    labels_limit: usize,
}

impl Cluster {
    /// Slots of all nodes that exist.
    pub fn order(&self) -> &[usize] {
        &self.order
    }
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.order.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
    /// The node of a slot.
    pub fn at(&self, slot: usize) -> Option<&NodeInfo> {
        self.nodes.get(slot)
    }
    /// All nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.order.iter().filter_map(|slot| self.nodes.get(*slot))
    }
    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(*self.slots.get(name)?)
    }
    /// The slot of the node a pod is on, or is about to be.
    pub fn place_of(&self, uid: &str) -> Option<usize> {
        self.places.get(uid).copied()
    }

    /// Lets a pod share its labels with others of its controller, where they are the same: there are many such pods, and labels are
    /// the largest part of one.
    pub fn share_labels(&mut self, pod: &mut PodInfo) {
        if pod.controller.is_empty() {
            return;
        }
        match self.labels.get(&pod.controller) {
            Some(known) if *known == pod.labels => pod.labels = known.clone(),
            _ => {
                if self.labels.len() >= self.labels_limit {
                    self.labels.retain(|_, labels| Arc::strong_count(labels) > 1);
                    self.labels_limit = FEW_LABELS.max(2 * self.labels.len());
                }
                self.labels.insert(pod.controller.clone(), pod.labels.clone());
            }
        }
    }

    fn slot_of(&mut self, name: &str) -> usize {
        if let Some(slot) = self.slots.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(NodeInfo::default());
            self.nodes.len() - 1
        });
        if let Some(node) = self.nodes.get_mut(slot) {
            *node = NodeInfo { name: name.to_owned(), slot, ..NodeInfo::default() };
        }
        self.slots.insert(name.to_owned(), slot);
        slot
    }

    /// Takes in a node as it is now.
    pub fn apply_node(&mut self, node: &Node) -> NodeChange {
        let slot = self.slot_of(node.metadata.name.as_deref().unwrap_or_default());
        let Some(known) = self.nodes.get_mut(slot) else { return NodeChange::default() };
        let before: Vec<String> = known.images.keys().cloned().collect();
        let change = known.read(node);
        let after: Vec<String> = known.images.keys().cloned().collect();
        for image in after {
            *self.image_nodes.entry(image).or_default() += 1;
        }
        self.forget_images(&before);
        if change.is_new {
            self.order.push(slot);
        }
        if change.place {
            self.recount(slot);
        }
        change
    }

    fn forget_images(&mut self, images: &[String]) {
        for image in images {
            if let Some(count) = self.image_nodes.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    self.image_nodes.remove(image);
                }
            }
        }
    }

    /// Forgets a node; its pods stay known until they go themselves.
    pub fn delete_node(&mut self, name: &str) {
        let Some(slot) = self.slots.get(name).copied() else { return };
        let Some(node) = self.nodes.get_mut(slot) else { return };
        node.exists = false;
        let images: Vec<String> = std::mem::take(&mut node.images).into_keys().collect();
        let is_empty = node.pods.is_empty();
        self.forget_images(&images);
        self.order.retain(|known| *known != slot);
        self.recount(slot);
        if is_empty {
            self.free_slot(name, slot);
        }
    }

    fn free_slot(&mut self, name: &str, slot: usize) {
        self.slots.remove(name);
        self.free.push(slot);
        self.nominated.retain(|_, (_, nominated)| *nominated != slot);
    }

    /// Counts anew what is on a node, after it changed in a way that says which pods count where.
    fn recount(&mut self, slot: usize) {
        let Some(node) = self.nodes.get(slot) else { return };
        for count in self.counts.iter_mut().flatten() {
            count_node(count, node, &self.namespaces);
        }
        self.standing.recount(node);
    }

    /// Puts a pod on a node (or moves it there, or takes in how it changed).
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        let slot = self.slot_of(node);
        self.place_at(pod, slot);
    }

    /// As [`Cluster::place`], by the node's slot.
    pub fn place_at(&mut self, pod: Arc<PodInfo>, slot: usize) {
        if self.places.get(&pod.uid) == Some(&slot)
            && let Some(known) = self.nodes.get_mut(slot).and_then(|node| node.pods.get_mut(&pod.uid))
            && known.weighs_like(&pod)
        {
            *known = pod;
            return;
        }
        self.remove(&pod.uid);
        self.count(&pod, slot, 1);
        self.places.insert(pod.uid.clone(), slot);
        self.volumes.used(&pod, 1);
        self.standing.add(&pod, slot, &self.nodes);
        if let Some(node) = self.nodes.get_mut(slot) {
            node.add(pod);
        }
    }

    fn count(&mut self, pod: &PodInfo, slot: usize, sign: i64) {
        for count in self.counts.iter_mut().flatten() {
            if count.what.counts(pod, &self.namespaces) {
                count.domains.add(slot, sign);
            }
        }
    }

    /// Takes a pod off its node, and returns it with the slot it was in.
    pub fn remove(&mut self, uid: &str) -> Option<(Arc<PodInfo>, usize)> {
        let slot = self.places.remove(uid)?;
        let node = self.nodes.get_mut(slot)?;
        let pod = node.remove(uid)?;
        self.standing.remove(&pod, slot);
        let gone = (!node.exists && node.pods.is_empty()).then(|| node.name.clone());
        self.volumes.used(&pod, -1);
        self.count(&pod, slot, -1);
        if let Some(name) = gone {
            self.free_slot(&name, slot);
        }
        Some((pod, slot))
    }

    /// The amounts of something counted; from the first question on they are kept up to date.
    pub fn count_of(&mut self, what: &Counted) -> CountId {
        if let Some(index) = self.count_ids.get(&what.id) {
            if let Some(Some(count)) = self.counts.get_mut(*index) {
                count.asked = self.decisions;
            }
            return CountId(*index);
        }
        let mut count = Count { what: what.clone(), domains: Domains::default(), asked: self.decisions };
        for slot in &self.order {
            if let Some(node) = self.nodes.get(*slot) {
                count_node(&mut count, node, &self.namespaces);
            }
        }
        let index = self.counts.iter().position(Option::is_none).unwrap_or_else(|| {
            self.counts.push(None);
            self.counts.len() - 1
        });
        if let Some(place) = self.counts.get_mut(index) {
            *place = Some(count);
        }
        self.count_ids.insert(what.id.clone(), index);
        CountId(index)
    }

    /// What a count amounts to.
    pub fn domains(&self, id: CountId) -> Option<&Domains> {
        self.counts.get(id.0)?.as_ref().map(|count| &count.domains)
    }

    /// To be called before each decision: drops counts that nobody asks for any more.
    pub fn begin_decision(&mut self) {
        self.decisions += 1;
        if self.count_ids.len() > COUNTS {
            let before = self.decisions.saturating_sub(OLD);
            self.drop_counts(|count| count.asked < before);
        }
    }

    fn drop_counts(&mut self, is_dropped: impl Fn(&Count) -> bool) {
        for place in &mut self.counts {
            if let Some(count) = place.take_if(|count| is_dropped(count)) {
                self.count_ids.remove(&count.what.id);
            }
        }
    }

    /// Takes in the labels of a namespace; none where it is gone. Whether they changed.
    pub fn apply_namespace(&mut self, name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        if self.namespaces.get(name) == labels {
            return false;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels.clone()),
            None => self.namespaces.remove(name),
        };
        self.drop_counts(|count| count.what.depends_on_namespaces());
        true
    }

    /// Takes in what a Service selects; none where it selects nothing, or is gone.
    pub fn apply_service(&mut self, namespace: &str, name: &str, selector: Option<&BTreeMap<String, String>>) {
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) => {
                self.services.entry(namespace.to_owned()).or_default().insert(name.to_owned(), selector.clone());
            }
            None => {
                let Some(services) = self.services.get_mut(namespace) else { return };
                services.remove(name);
                if services.is_empty() {
                    self.services.remove(namespace);
                }
            }
        }
    }

    /// All labels by which the Services of a pod's namespace select it.
    pub fn labels_of_services(&self, pod: &PodInfo) -> BTreeMap<String, String> {
        let Some(services) = self.services.get(&pod.namespace) else { return BTreeMap::new() };
        let selects = |selector: &&BTreeMap<String, String>| selector.iter().all(|(name, value)| pod.labels.get(name) == Some(value));
        services.values().filter(selects).flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Notes that room is being made for a pod on a node, or that it is not any more.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: Option<&str>) {
        match node.and_then(|node| self.slots.get(node)) {
            Some(slot) => self.nominated.insert(pod.uid.clone(), (pod.clone(), *slot)),
            None => self.nominated.remove(&pod.uid),
        };
    }
    /// Forgets that room is being made for a pod.
    pub fn forget_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }
    /// Whether room is being made for anybody.
    pub fn has_nominations(&self) -> bool {
        !self.nominated.is_empty()
    }
    /// Pods for which room is being made on a node.
    pub fn nominated_on(&self, slot: usize) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.nominated.values().filter(move |(_, nominated)| *nominated == slot).map(|(pod, _)| pod)
    }
    /// The slot where room is being made for a pod.
    pub fn nomination_of(&self, uid: &str) -> Option<usize> {
        self.nominated.get(uid).map(|(_, slot)| *slot)
    }
}

fn count_node(count: &mut Count, node: &NodeInfo, namespaces: &Namespaces) {
    if !node.exists {
        return count.domains.forget_node(node.slot);
    }
    count.domains.set_node(node.slot, node.labels.get(&count.what.topology_key), count.what.includes(node));
    let amount = node.pods.values().filter(|pod| count.what.counts(pod, namespaces)).count();
    count.domains.add(node.slot, i64::try_from(amount).unwrap_or(i64::MAX));
}
