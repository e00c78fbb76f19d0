//! What is to be done about a claim.

use std::sync::Arc;

use client::EventType;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, annotation, claim_reference, class_of_claim, matching, means, volume_of, waits_for_consumer};

/// The provisioner of classes whose volumes are made by hand.
const NONE: &str = "kubernetes.io/no-provisioner";

/// What to say in an event.
pub(super) type Said = Option<(EventType, &'static str, String)>;

/// The next step.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet.
    Wait(Said),
    /// It belongs to this volume; make both say so.
    Bind(Arc<PersistentVolume>),
    /// Somebody has to make a volume: the one with this name.
    Provision { provisioner: String },
    /// Its volume is gone for good.
    Lose { reason: &'static str, message: &'static str },
}

/// What is known around a claim.
pub(super) struct Facts<'a> {
    /// The volume it names, if that exists.
    pub named: Option<Arc<PersistentVolume>>,
    /// Volumes of its class, and those reserved for it.
    pub candidates: &'a [Arc<PersistentVolume>],
    /// Its class, if that exists.
    pub class: Option<&'a StorageClass>,
    /// The node its first pod will be on.
    pub node: Option<&'a str>,
    /// A pod that waits for it and is on no node yet.
    pub waiting_pod: Option<&'a str>,
}

/// Decides.
/// Source: Kubernetes 1.36, `syncClaim`.
pub(super) fn plan(claim: &PersistentVolumeClaim, facts: &Facts<'_>) -> Step {
    let reference = facts.named.as_deref().and_then(claim_reference);
    let was_bound = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    match (was_bound, volume_of(claim), &facts.named) {
        (true, None, _) => Step::Lose { reason: "ClaimLost", message: "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!" },
        (true, Some(_), None) => Step::Lose { reason: "ClaimLost", message: "Bound claim has lost its PersistentVolume. Data on the volume is lost!" },
        (true, Some(_), Some(volume)) => match reference {
            Some(reference) if reference.uid != claim.metadata.uid => {
                Step::Lose { reason: "ClaimMisbound", message: "Two claims are bound to the same volume, this one is bound incorrectly" }
            }
            _ => Step::Bind(volume.clone()),
        },
        (false, None, _) => without_name(claim, facts),
        (false, Some(_), None) => Step::Wait(None),
        (false, Some(name), Some(volume)) => match reference {
            None => match matching::mismatch(claim, volume) {
                None => Step::Bind(volume.clone()),
                Some(why) => Step::Wait(Some((EventType::Warning, "VolumeMismatch", format!("Cannot bind to requested volume \"{name}\": {why}")))),
            },
            Some(reference) if means(reference, &claim.metadata) => Step::Bind(volume.clone()),
            // The user chose a volume that somebody else has: that one may let it go.
            Some(_) if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_none() => {
                Step::Wait(Some((EventType::Warning, "FailedBinding", format!("volume \"{name}\" already bound to a different claim."))))
            }
            Some(_) => Step::Lose { reason: "ClaimMisbound", message: "Two claims are bound to the same volume, this one is bound incorrectly" },
        },
    }
}

fn without_name(claim: &PersistentVolumeClaim, facts: &Facts<'_>) -> Step {
    let is_delayed = facts.class.is_some_and(waits_for_consumer);
    if let Some(volume) = matching::best(claim, facts.candidates, is_delayed) {
        return Step::Bind(volume);
    }
    let normal = |reason, message: String| Step::Wait(Some((EventType::Normal, reason, message)));
    let class = class_of_claim(claim);
    if is_delayed && facts.node.is_none() {
        return match facts.waiting_pod {
            None => normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            Some(pod) => normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        };
    }
    if class.is_empty() {
        return normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set".to_owned());
    }
    let failed = |message: String| Step::Wait(Some((EventType::Warning, "ProvisioningFailed", message)));
    match facts.class.map(|class| class.provisioner.as_str()) {
        None => failed(format!("storageclass.storage.k8s.io \"{class}\" not found")),
        // With delayed binding the scheduler says what is missing.
        Some(NONE) if is_delayed => Step::Wait(None),
        Some(NONE) => failed(format!("no volume plugin matched name: {NONE}")),
        Some(provisioner) => Step::Provision { provisioner: provisioner.to_owned() },
    }
}
