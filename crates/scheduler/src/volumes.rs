//! Claims, volumes, storage classes and what nodes can attach, as far as the choice of a node depends on them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Volume},
    storage::v1::{CSINode, StorageClass},
};
use client::ObjectKey;
use meta::quantity::Quantity;

use crate::{node_info::NodeInfo, pod_info::PodInfo, terms::{matches_selector, selector_of}};

/// On a claim: the node for which its volume is made.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// What is known of storage.
#[derive(Debug, Default)]
pub struct Volumes {
    /// Claims.
    pub claims: BTreeMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    /// Volumes, by name.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// Classes, by name.
    pub classes: BTreeMap<String, Arc<StorageClass>>,
    /// What nodes can attach, by node.
    pub attachable: BTreeMap<String, Arc<CSINode>>,
    /// How many pods on nodes use a claim.
    users: HashMap<ObjectKey, usize>,
    /// Volumes that were chosen for a claim, until the claim is seen bound.
    pub reserved: HashMap<String, ObjectKey>,
}

/// The claim a volume of a pod stands for, if it does.
pub fn claim_of(pod: &PodInfo, volume: &Volume) -> Option<ObjectKey> {
    let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => claim.claim_name.clone(),
        (None, Some(_)) => format!("{}-{}", pod.name, volume.name),
        (None, None) => return None,
    };
    Some(ObjectKey::namespaced(&pod.namespace, &name))
}

/// The claims of a pod.
pub fn claims_of(pod: &PodInfo) -> impl Iterator<Item = ObjectKey> {
    pod.volumes.iter().filter_map(|volume| claim_of(pod, volume))
}

fn is_wait(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Whether a volume and its claim belong together for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let bound_by_now = claim.metadata.annotations.as_ref().is_some_and(|notes| notes.contains_key("pv.kubernetes.io/bind-completed"));
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_ref().is_some_and(|name| !name.is_empty())) && (bound_by_now || phase == Some("Bound"))
}

/// Whether a node is where a volume can be used.
pub fn is_reachable(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    affinity.and_then(|affinity| affinity.required.as_ref()).is_none_or(|selector| matches_selector(selector, node))
}

fn storage(list: Option<&BTreeMap<String, api::apimachinery::pkg::api::resource::Quantity>>) -> i64 {
    list.and_then(|list| list.get("storage")).and_then(|quantity| quantity.0.parse::<Quantity>().ok()).map_or(0, |quantity| quantity.value())
}

/// How much a claim asks for.
fn wanted_by(claim: &PersistentVolumeClaim) -> i64 {
    storage(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.requests.as_ref()))
}

/// Whether somebody chose this claim for a volume.
fn is_reserved_for(volume: &PersistentVolume, key: &ObjectKey, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).is_some_and(|reference| {
        let is_same = reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid));
        is_same && reference.name.as_deref() == Some(&*key.name) && reference.namespace.as_deref() == key.namespace.as_deref()
    })
}

/// What is to be done for the claims of a pod before it is bound.
#[derive(Debug, Clone, Default)]
pub struct VolumePlan {
    /// Volumes to be given to claims.
    pub matches: Vec<(ObjectKey, String)>,
    /// Claims whose volumes are to be made for the node.
    pub provision: Vec<ObjectKey>,
}

impl VolumePlan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.matches.is_empty() && self.provision.is_empty()
    }
}

impl Volumes {
    /// A pod with claims came onto a node (1) or left it (-1).
    pub fn used(&mut self, pod: &PodInfo, sign: isize) {
        for claim in claims_of(pod) {
            let users = self.users.entry(claim.clone()).or_default();
            *users = users.saturating_add_signed(sign);
            if *users == 0 {
                self.users.remove(&claim);
            }
        }
    }
    /// Whether a pod on a node uses a claim.
    pub fn is_used(&self, claim: &ObjectKey) -> bool {
        self.users.contains_key(claim)
    }
    /// The class of a claim.
    pub fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<&Arc<StorageClass>> {
        self.classes.get(claim.spec.as_ref()?.storage_class_name.as_ref()?)
    }
    /// Whether a claim gets its volume only when the node of its first pod is known.
    pub fn waits_for_consumer(&self, claim: &PersistentVolumeClaim) -> bool {
        self.class_of(claim).is_some_and(|class| is_wait(class))
    }
    /// The volume of a bound claim.
    pub fn volume_of(&self, claim: &PersistentVolumeClaim) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(claim.spec.as_ref()?.volume_name.as_ref()?)
    }
    /// The volumes that unbound claims of a pod would get on a node; none where there is no way.
    pub fn plan(&self, claims: &[ObjectKey], node: &NodeInfo) -> Option<VolumePlan> {
        let mut plan = VolumePlan::default();
        let mut chosen: HashSet<&String> = HashSet::new();
        let mut asked: Vec<(i64, &ObjectKey, &Arc<PersistentVolumeClaim>)> = Vec::with_capacity(claims.len());
        for key in claims {
            let claim = self.claims.get(key)?;
            asked.push((wanted_by(claim), key, claim));
        }
        // The smaller ones first, so that each gets the smallest that does.
        asked.sort_by_key(|(size, ..)| *size);
        for (_, key, claim) in asked {
            // A volume is being made for it where the scheduler said once.
            let elsewhere = claim.metadata.annotations.as_ref().and_then(|notes| notes.get(SELECTED_NODE)).map(|selected| *selected != node.name);
            if elsewhere == Some(true) {
                return None;
            }
            if let Some(name) = elsewhere.is_none().then(|| self.best(key, claim, node, &chosen)).flatten() {
                chosen.insert(name);
                plan.matches.push((key.clone(), name.clone()));
                continue;
            }
            let class = self.class_of(claim)?;
            let in_topology = || {
                let terms = class.allowed_topologies.as_deref().unwrap_or_default();
                let holds = |key: &str, values: &[String]| node.labels.get(key).is_some_and(|value| values.contains(value));
                terms.is_empty() || terms.iter().any(|term| term.match_label_expressions.iter().flatten().all(|wanted| holds(&wanted.key, &wanted.values)))
            };
            if class.provisioner == "kubernetes.io/no-provisioner" || !in_topology() {
                return None;
            }
            plan.provision.push(key.clone());
        }
        Some(plan)
    }
    /// The volume that a claim would get on a node: the one that is reserved for it, if that can be used there, or else the smallest.
    /// Source: Kubernetes 1.36, `FindMatchingVolume`.
    fn best(&self, key: &ObjectKey, claim: &PersistentVolumeClaim, node: &NodeInfo, chosen: &HashSet<&String>) -> Option<&String> {
        let fitting = || self.volumes.iter().filter(|(name, volume)| !chosen.contains(name) && self.fits(key, claim, volume));
        if let Some((name, volume)) = fitting().find(|(_, volume)| is_reserved_for(volume, key, claim)) {
            return is_reachable(volume, node).then_some(name);
        }
        let here = fitting().filter(|(_, volume)| is_reachable(volume, node));
        here.min_by_key(|(_, volume)| storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))).map(|(name, _)| name)
    }
    fn fits(&self, key: &ObjectKey, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
        let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec) else { return false };
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        let is_reserved = is_reserved_for(volume, key, claim);
        let is_free = || spec.claim_ref.is_none() && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
        let is_selected = || wanted.selector.as_ref().is_none_or(|selector| selector_of(Some(selector)).matches_map(&volume.metadata.labels.clone().unwrap_or_default()));
        volume.metadata.deletion_timestamp.is_none()
            && self.reserved.get(name).is_none_or(|holder| holder == key)
            && (is_reserved || is_free() && is_selected())
            && spec.volume_attributes_class_name.as_deref().unwrap_or_default() == wanted.volume_attributes_class_name.as_deref().unwrap_or_default()
            && spec.storage_class_name.as_deref().unwrap_or_default() == wanted.storage_class_name.as_deref().unwrap_or_default()
            && spec.volume_mode.as_deref().unwrap_or("Filesystem") == wanted.volume_mode.as_deref().unwrap_or("Filesystem")
            && wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode))
            && storage(spec.capacity.as_ref()) >= wanted_by(claim)
    }
}
