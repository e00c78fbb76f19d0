//! What a claim and a volume look like when they belong together, or no longer do. Nothing here writes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PRE_RESIZE_CAPACITY, annotation, capacity, claim_phase, claim_reference, granted, volume_of};

fn annotate(metadata: &mut ObjectMeta, name: &str) {
    metadata.annotations.get_or_insert_default().insert(name.to_owned(), "yes".to_owned());
}

/// The volume, reserved for the claim.
pub(super) fn taken(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let known = claim_reference(volume);
    if known.is_some_and(|reference| reference.uid == claim.metadata.uid) {
        return volume.clone();
    }
    let mut taken = volume.clone();
    if known.is_none() {
        annotate(&mut taken.metadata, BOUND_BY_CONTROLLER);
    }
    taken.spec.get_or_insert_default().claim_ref = Some(client::events::reference(claim));
    taken
}

/// The volume, free again. One that its user had reserved for a claim of that name stays so.
/// Source: Kubernetes 1.36, `unbindVolume`.
pub(super) fn freed(volume: &PersistentVolume) -> PersistentVolume {
    let mut freed = volume.clone();
    let by_us = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    if let Some(annotations) = &mut freed.metadata.annotations {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
    if let Some(spec) = &mut freed.spec {
        match &mut spec.claim_ref {
            Some(reference) if !by_us => reference.uid = None,
            reference => *reference = None,
        }
    }
    freed
}

/// The claim, with its volume.
pub(super) fn settled(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut settled = claim.clone();
    let name = volume.metadata.name.as_deref();
    if volume_of(claim) != name {
        annotate(&mut settled.metadata, BOUND_BY_CONTROLLER);
        settled.spec.get_or_insert_default().volume_name = name.map(str::to_owned);
    }
    if annotation(&claim.metadata, BIND_COMPLETED).is_none() {
        annotate(&mut settled.metadata, BIND_COMPLETED);
    }
    settled
}

/// The claim, with a status that tells of its volume. Later growth of the volume is told by whoever lets it grow.
pub(super) fn with_volume_status(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut told = claim.clone();
    let offered = volume.spec.clone().unwrap_or_default();
    let status = told.status.get_or_insert_default();
    if claim_phase(claim) != "Bound" || granted(claim).is_none() && capacity(volume).is_some() {
        status.phase = Some("Bound".to_owned());
        status.capacity = offered.capacity;
        // The file system in it is smaller still.
        if let Some(before) = annotation(&volume.metadata, PRE_RESIZE_CAPACITY).and_then(meta::quantity::canonicalize) {
            status.capacity = Some([("storage".to_owned(), Quantity(before))].into());
        }
        status.current_volume_attributes_class_name = offered.volume_attributes_class_name.filter(|name| !name.is_empty());
    }
    status.access_modes = offered.access_modes;
    told
}

/// The claim in another phase, without a volume.
pub(super) fn without_volume(claim: &PersistentVolumeClaim, phase: &str) -> PersistentVolumeClaim {
    let mut told = claim.clone();
    let status = told.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.access_modes = None;
    status.capacity = None;
    told
}

/// The volume in a phase, with a message where something went wrong. In the same phase as before it stays as it was.
pub(super) fn in_phase(volume: &PersistentVolume, phase: &str, message: Option<&str>, now: Timestamp) -> PersistentVolume {
    let mut told = volume.clone();
    let status = told.status.get_or_insert_default();
    if status.phase.as_deref() != Some(phase) {
        status.phase = Some(phase.to_owned());
        status.message = message.map(str::to_owned);
        status.last_phase_transition_time = Some(Time(now));
    }
    told
}
