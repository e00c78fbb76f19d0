//! PersistentVolumes and the claims on them find each other, and part again.
//!
//! [`claims`] looks at a claim: [`claim_plan`] decides, [`matching`] finds the volume that fits best, [`binding`] says what the two look
//! like when they belong together. [`volumes`] looks at a volume: [`volume_plan`] decides whether it is free, taken or to be reclaimed.
//! [`protection`] lets neither go while it is used, [`expansion`] says who has to let a claim grow. Volumes are made elsewhere: by a provisioner, of which `local_volumes` is one.

mod binding;
mod claim_plan;
mod claims;
mod expansion;
mod matching;
mod protection;
#[cfg(test)]
mod tests;
mod volume_plan;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Index, Informer};
use controller::Runner;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::quantity::Quantity as Amount;

use crate::ControllerContext;

/// On a claim: it was bound once, so losing its volume is a loss.
pub(crate) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: it was not the user who chose the other one.
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a volume: who looks after it, though a part of Kubernetes made it once.
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// On a claim: who is to make its volume. Both names are in use.
pub(crate) const PROVISIONERS: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// On a claim: the node that the scheduler chose for its first pod.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a volume: how much the file system in it holds, while that has not grown with it.
const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
/// The old place of the class of a claim or volume.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// On the class that claims without one get.
pub(crate) const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

const CONTROLLER: &str = "persistent-volume-binder";

/// Starts the controllers.
pub fn start(context: &ControllerContext, runner: &Runner) {
    runner.start(claims::Claims::new(context), 3);
    runner.start(volumes::Volumes::new(context), 3);
    protection::start(context, runner);
    expansion::start(context, runner);
}

/// The value of an annotation; none for an empty one.
pub(crate) fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// The class of a claim; empty for none.
pub(crate) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, CLASS_ANNOTATION).or(class).unwrap_or_default()
}

/// The class of a volume; empty for none.
fn class_of_volume(volume: &PersistentVolume) -> &str {
    let class = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, CLASS_ANNOTATION).or(class).unwrap_or_default()
}

/// The volume a claim names; none for an empty name.
pub(crate) fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Who may have a volume, or has it.
pub(crate) fn claim_reference(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a reference means this claim. One without uid, which users write, means any of that name.
fn means(reference: &ObjectReference, claim: &ObjectMeta) -> bool {
    let uid = reference.uid.as_deref().filter(|uid| !uid.is_empty());
    reference.name == claim.name && reference.namespace == claim.namespace && uid.is_none_or(|uid| claim.uid.as_deref() == Some(uid))
}

fn storage(amounts: Option<&BTreeMap<String, Quantity>>) -> Option<Amount> {
    Amount::parse(&amounts?.get("storage")?.0).ok()
}

/// How much a claim asks for.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Option<Amount> {
    storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref())
}

/// How much a claim got, as its status says.
pub(crate) fn granted(claim: &PersistentVolumeClaim) -> Option<Amount> {
    storage(claim.status.as_ref()?.capacity.as_ref())
}

/// How much a volume holds.
pub(crate) fn capacity(volume: &PersistentVolume) -> Option<Amount> {
    storage(volume.spec.as_ref()?.capacity.as_ref())
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(crate) fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether volumes of a class wait until a pod needs them.
pub(crate) fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Pods by the claims they use, as `namespace/name`.
pub(crate) fn pods_by_claim(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index("claim", |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        claims_of(pod).into_iter().map(|claim| format!("{namespace}/{claim}")).collect()
    })
}

/// The names of the claims a pod uses, those of its ephemeral volumes included.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claim = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
        (None, None) => None,
    });
    claim.collect()
}

/// Where a claim's first pod will run: as the scheduler says in the claim, or because a pod that uses it is on a node already, whoever
/// put it there.
pub(crate) fn selected_node(claim: &PersistentVolumeClaim, users: &[Arc<Pod>]) -> Option<String> {
    let by_scheduler = annotation(&claim.metadata, SELECTED_NODE).map(str::to_owned);
    let bound = || users.iter().filter(|pod| !crate::pods::is_finished(pod)).map(|pod| crate::pods::node_name(pod)).find(|node| !node.is_empty());
    by_scheduler.or_else(|| bound().map(str::to_owned))
}
