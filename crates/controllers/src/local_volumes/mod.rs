//! The provisioner that comes with every cluster: volumes that are directories on the disk of one node.
//!
//! A claim of the class `local-path` waits until its first pod has a node; then the volume is made for that node ([`volume`] says what it
//! looks like), which from then on ties every pod with the claim to it. The directory itself is made and removed by the node
//! (`node::volume::local_volumes`); here is only the bookkeeping: making the objects, letting them grow, and removing them once their
//! claim is gone. `persistent_volumes` binds claims and volumes; this is no different from a provisioner that somebody installs.

mod class;
mod volume;

use async_trait::async_trait;
use client::{
    Api, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, Patch, PatchParams, PostParams, Preconditions, key_of,
};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use crate::ControllerContext;
use crate::persistent_volumes::{
    BIND_COMPLETED, PROVISIONED_BY, PROVISIONERS, SELECTED_NODE, annotation, capacity, claim_reference, class_of_claim, granted, pods_by_claim, requested, selected_node, volume_of,
    volume_phase, waits_for_consumer,
};

/// Who makes these volumes; in classes, and as the driver in volumes.
pub const PROVISIONER: &str = "local-path.knarr.io";
/// On a volume: the node that has it, so that a node can follow its own and no others.
pub const NODE_LABEL: &str = "knarr.io/local-volume-node";

const CONTROLLER: &str = "local-volume-provisioner";

/// Starts the controller, and makes the class where it is missing.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let pods = context.informers.of::<Pod>();
    let controller = LocalVolumes {
        client: context.client(CONTROLLER),
        claims: context.informers.of(),
        volumes: context.informers.of(),
        classes: context.informers.of(),
        nodes: context.informers.of(),
        pods_by_claim: pods_by_claim(&pods),
        pods,
        events: context.events(CONTROLLER),
    };
    runner.start(controller, 3);
    class::start(context, runner);
}

struct LocalVolumes {
    client: client::Client,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_claim: Index<Pod>,
    events: EventRecorder,
}

fn is_ours(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER)
}

impl LocalVolumes {
    /// A claim that asks us for a volume gets one, as soon as its node is known.
    async fn provide(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<Outcome, ReconcileError> {
        let Some(class) = self.classes.get(&ObjectKey::cluster(class_of_claim(claim))) else { return Ok(Outcome::Settled) };
        let users = self.pods_by_claim.get(&format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name));
        let Some(node) = selected_node(claim, &users) else {
            if !waits_for_consumer(&class) {
                let message = "local volumes are made for the node of their first pod, so their class must have the volumeBindingMode WaitForFirstConsumer";
                self.events.record(claim, EventType::Warning, "ProvisioningFailed", message);
            }
            return Ok(Outcome::Settled);
        };
        let Some(node) = self.nodes.get(&ObjectKey::cluster(&node)) else { return self.choose_again(key, claim).await };
        let made = match volume::for_claim(claim, &class, &node) {
            Ok(made) => made,
            Err(why) => {
                self.events.record(claim, EventType::Warning, "ProvisioningFailed", why);
                return Ok(Outcome::Settled);
            }
        };
        let name = made.metadata.name.clone().unwrap_or_default();
        match Api::<PersistentVolume>::all(self.client.clone()).create(&PostParams::default(), &made).await {
            Err(error) if client::is_already_exists(&error) => {}
            other => {
                other.doing(|| format!("create volume {name} for claim {key}"))?;
                self.events.record(claim, EventType::Normal, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
            }
        }
        Ok(Outcome::Settled)
    }

    /// The node that was chosen is gone: the scheduler has to choose another one.
    async fn choose_again(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<Outcome, ReconcileError> {
        if annotation(&claim.metadata, SELECTED_NODE).is_none() {
            return Ok(Outcome::Settled);
        }
        let patch = json!({ "metadata": { "annotations": { SELECTED_NODE: null }, "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version } });
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("let another node be chosen for claim {key}")),
        }
    }

    /// A claim that asks for more than it got gets it: a directory is as large as the disk it lies on, so only the numbers change.
    async fn grow(&self, key: &ObjectKey, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<Outcome, ReconcileError> {
        let (Some(asked), Some(has)) = (requested(claim), granted(claim)) else { return Ok(Outcome::Settled) };
        if asked.sub(&has).signum() <= 0 {
            return Ok(Outcome::Settled);
        }
        let amount = asked.to_string();
        if capacity(volume).is_none_or(|capacity| asked.sub(&capacity).signum() > 0) {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let patch = json!({ "spec": { "capacity": { "storage": amount } } });
            Api::<PersistentVolume>::all(self.client.clone()).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.doing(|| format!("let volume {name} grow"))?;
        }
        let patch = json!({ "status": { "capacity": { "storage": amount } } });
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if client::is_not_found(&error) => {}
            other => {
                other.doing(|| format!("let claim {key} grow"))?;
                self.events.record(claim, EventType::Normal, "VolumeResizeSuccessful", format!("Resize volume succeeded: {amount}"));
            }
        }
        Ok(Outcome::Settled)
    }

    /// A volume whose claim is gone goes, too, where its policy says so. The node removes the directory when it sees that.
    async fn reclaim(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let is_due = |volume: &PersistentVolume| {
            let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
            is_ours(volume) && volume_phase(volume) == "Released" && policy == Some("Delete") && volume.metadata.deletion_timestamp.is_none()
        };
        let Some(volume) = self.volumes.get(key).filter(|volume| is_due(volume)) else { return Ok(Outcome::Settled) };
        let preconditions = Preconditions { uid: volume.metadata.uid.clone(), resource_version: volume.metadata.resource_version.clone() };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match Api::<PersistentVolume>::all(self.client.clone()).delete(&key.name, &parameters).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|()| Outcome::Settled).doing(|| format!("remove volume {key}")),
        }
    }
}

#[async_trait]
impl Reconciler for LocalVolumes {
    fn name(&self) -> &'static str {
        CONTROLLER
    }

    fn triggers(&self) -> Vec<Trigger> {
        let claims = self.claims.clone();
        vec![
            Trigger::itself(&self.claims),
            // Volumes have no namespace, so their keys cannot be taken for those of claims.
            Trigger::on(&self.volumes, |change| {
                let Some(volume) = change.new.as_ref().filter(|volume| is_ours(volume)) else { return Vec::new() };
                let claim = claim_reference(volume).and_then(|claim| Some(ObjectKey::namespaced(claim.namespace.as_deref()?, claim.name.as_deref()?)));
                claim.into_iter().chain([change.key.clone()]).collect()
            }),
            Trigger::on(&self.pods, |change| {
                let Some(pod) = change.new.as_ref().filter(|pod| !crate::pods::node_name(pod).is_empty()) else { return Vec::new() };
                if change.old.as_ref().is_some_and(|old| !crate::pods::node_name(old).is_empty()) {
                    return Vec::new();
                }
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                crate::persistent_volumes::claims_of(pod).iter().map(|claim| ObjectKey::namespaced(namespace, claim)).collect()
            }),
            Trigger::on(&self.classes, move |change| {
                let of_class = claims.list().into_iter().filter(|claim| class_of_claim(claim) == &*change.key.name);
                of_class.map(|claim| key_of(&*claim)).collect()
            }),
            Trigger::reads(&self.nodes),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        if key.namespace.is_none() {
            return self.reclaim(key).await;
        }
        let Some(claim) = self.claims.get(key).filter(|claim| claim.metadata.deletion_timestamp.is_none()) else { return Ok(Outcome::Settled) };
        if let Some(name) = volume_of(&claim) {
            let volume = self.volumes.get(&ObjectKey::cluster(name)).filter(|volume| is_ours(volume));
            return match volume.filter(|_| annotation(&claim.metadata, BIND_COMPLETED).is_some()) {
                Some(volume) => self.grow(key, &claim, &volume).await,
                None => Ok(Outcome::Settled),
            };
        }
        let asks_us = PROVISIONERS.iter().any(|name| annotation(&claim.metadata, name) == Some(PROVISIONER));
        let is_there = self.volumes.get(&ObjectKey::cluster(&volume::name(&claim))).is_some();
        if asks_us && !is_there { self.provide(key, &claim).await } else { Ok(Outcome::Settled) }
    }
}
