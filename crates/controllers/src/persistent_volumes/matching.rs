//! Which volume suits a claim best.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{capacity, claim_reference, class_of_claim, class_of_volume, means, requested, volume_phase};
use crate::selector::Selector;

/// Why a volume that a claim names does not do for it; `None` when it does.
/// Source: Kubernetes 1.36, `checkVolumeSatisfyClaim`.
pub(super) fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    let asked = claim.spec.clone().unwrap_or_default();
    let offered = volume.spec.clone().unwrap_or_default();
    if !is_large_enough(claim, volume) {
        return Some("requested PV is too small");
    }
    if class_of_claim(claim) != class_of_volume(volume) {
        return Some("storageClassName does not match");
    }
    let attributes = |name: Option<String>| name.unwrap_or_default();
    if attributes(asked.volume_attributes_class_name) != attributes(offered.volume_attributes_class_name) {
        return Some("volumeAttributesClassName does not match");
    }
    if mode(asked.volume_mode.as_ref()) != mode(offered.volume_mode.as_ref()) {
        return Some("incompatible volumeMode");
    }
    if !allows_access(claim, volume) {
        return Some("incompatible accessMode");
    }
    None
}

fn is_large_enough(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    match (requested(claim), capacity(volume)) {
        (Some(asked), Some(offered)) => offered.sub(&asked).signum() >= 0,
        (None, _) => true,
        (Some(_), None) => false,
    }
}

fn allows_access(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let offered = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).all(|mode| offered.contains(mode))
}

/// The volume that was reserved for the claim, or else the smallest free one that does. `only_reserved` for claims whose volume is
/// chosen together with a node: then the scheduler reserves it.
/// Source: Kubernetes 1.36, `FindMatchingVolume`.
pub(super) fn best(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], only_reserved: bool) -> Option<Arc<PersistentVolume>> {
    let asked = claim.spec.clone().unwrap_or_default();
    let usable: Vec<_> = volumes.iter().filter(|volume| volume.metadata.deletion_timestamp.is_none()).collect();
    let is_reserved = |volume: &&&Arc<PersistentVolume>| claim_reference(volume).is_some_and(|reference| means(reference, &claim.metadata));
    let suits = |volume: &PersistentVolume| {
        is_large_enough(claim, volume)
            && allows_access(claim, volume)
            && volume.spec.as_ref().is_some_and(|spec| {
                let mode = |mode: &Option<String>| mode.as_deref().unwrap_or("Filesystem") == "Block";
                mode(&spec.volume_mode) == mode(&asked.volume_mode)
            })
    };
    if let Some(reserved) = usable.iter().filter(is_reserved).find(|volume| suits(volume)) {
        return Some((**reserved).clone());
    }
    if only_reserved {
        return None;
    }
    let selector = asked.selector.as_ref().map(Selector::or_everything);
    let is_free = |volume: &PersistentVolume| claim_reference(volume).is_none() && volume_phase(volume) == "Available";
    let selected = |volume: &PersistentVolume| selector.as_ref().is_none_or(|selector| selector.selects_object(&volume.metadata));
    let free = usable.into_iter().filter(|volume| is_free(volume) && mismatch(claim, volume).is_none() && selected(volume));
    let smallest = free.min_by(|one, other| match (capacity(one), capacity(other)) {
        (Some(one), Some(other)) => one.sub(&other).signum().cmp(&0),
        _ => std::cmp::Ordering::Equal,
    });
    smallest.cloned()
}
