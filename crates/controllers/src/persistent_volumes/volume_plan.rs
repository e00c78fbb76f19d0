//! What is to be done about a volume.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{PROVISIONED_BY, annotation, claim_reference, volume_of, volume_phase};

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is free, or reserved for a claim that has not taken it yet.
    Offer,
    /// Its claim is about to name it: whoever binds the two says the rest.
    Leave,
    /// A claim has it.
    Keep,
    /// Its claim is gone; nothing happens to the data.
    Release,
    /// Its claim is gone, and it should go or be wiped, but nobody can do that.
    Fail { reason: &'static str, message: &'static str },
    /// Another volume was chosen for its claim.
    Free,
}

/// Decides. `claim` is the one the volume refers to, if that exists with the same uid.
/// Source: Kubernetes 1.36, `syncVolume` and `reclaimVolume`.
pub(super) fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    let Some(reference) = claim_reference(volume) else { return Step::Offer };
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return Step::Offer;
    }
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain");
    let Some(claim) = claim else {
        return match policy {
            // Whoever made it removes it.
            "Delete" if annotation(&volume.metadata, PROVISIONED_BY).is_some() => Step::Release,
            "Delete" if volume_phase(volume) == "Released" || volume_phase(volume) == "Failed" => {
                Step::Fail { reason: "VolumeFailedDelete", message: "error getting deleter volume plugin for volume: no deletable volume plugin matched" }
            }
            "Recycle" if volume_phase(volume) == "Released" || volume_phase(volume) == "Failed" => {
                Step::Fail { reason: "VolumeFailedRecycle", message: "No recycler plugin found for the volume!" }
            }
            _ => Step::Release,
        };
    };
    match volume_of(claim) {
        Some(name) if Some(name) == volume.metadata.name.as_deref() => Step::Keep,
        None => Step::Leave,
        Some(_) if policy == "Delete" && annotation(&volume.metadata, PROVISIONED_BY).is_some() => Step::Release,
        Some(_) => Step::Free,
    }
}
