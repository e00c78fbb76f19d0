//! Which volume suits a claim best.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{capacity, claim_reference, class_of_claim, class_of_volume, means, requested, volume_phase};
use crate::selector::Selector;

/// Why a volume that a claim names does not do for it; `None` when it does.
/// Source: Kubernetes 1.36, `checkVolumeSatisfyClaim`.
pub(super) fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Some(format!("the volume is marked for deletion {:?}", volume.metadata.name.as_deref().unwrap_or_default()));
    }
    let problem = if !is_large_enough(claim, volume) {
        "requested PV is too small"
    } else if class_of_claim(claim) != class_of_volume(volume) {
        "storageClassName does not match"
    } else if !has_attributes(claim, volume) {
        "volumeAttributesClassName does not match"
    } else if !has_mode(claim, volume) {
        "incompatible volumeMode"
    } else if !allows_access(claim, volume) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(problem.to_owned())
}

fn has_attributes(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let offered = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    asked.unwrap_or_default() == offered.unwrap_or_default()
}

/// Whether a volume is what the claim asks for: a file system, or a block device.
pub(super) fn has_mode(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let offered = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    asked.unwrap_or("Filesystem") == offered.unwrap_or("Filesystem")
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

/// In how many ways a volume can be used.
fn ways(volume: &PersistentVolume) -> usize {
    let mut modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    modes.sort();
    modes.dedup();
    modes.len()
}

/// Of the volumes that do, those that can be used in the fewest ways come first; among these the one that was reserved for the claim, or
/// else the smallest free one. `only_reserved` for claims whose volume is chosen together with a node: then the scheduler reserves it.
/// Source: Kubernetes 1.36, `findByClaim`, `FindMatchingVolume`.
pub(super) fn best(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], only_reserved: bool) -> Option<Arc<PersistentVolume>> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()).map(Selector::or_everything);
    let does = |volume: &PersistentVolume| {
        let is_usable = volume.metadata.deletion_timestamp.is_none() && is_large_enough(claim, volume);
        is_usable && has_mode(claim, volume) && has_attributes(claim, volume) && allows_access(claim, volume)
    };
    let is_reserved = |volume: &PersistentVolume| claim_reference(volume).is_some_and(|reference| means(reference, &claim.metadata));
    let is_free = |volume: &PersistentVolume| {
        let is_free = !only_reserved && claim_reference(volume).is_none() && volume_phase(volume) == "Available";
        is_free && class_of_claim(claim) == class_of_volume(volume) && selector.as_ref().is_none_or(|selector| selector.selects_object(&volume.metadata))
    };
    let by_size = |one: &PersistentVolume, other: &PersistentVolume| match (capacity(one), capacity(other)) {
        (Some(one), Some(other)) => one.sub(&other).signum().cmp(&0),
        _ => std::cmp::Ordering::Equal,
    };
    let usable = volumes.iter().filter(|volume| does(volume)).filter_map(|volume| match is_reserved(volume) {
        true => Some((false, volume)),
        false => is_free(volume).then_some((true, volume)),
    });
    let best = usable.min_by(|(one_is_free, one), (other_is_free, other)| {
        let order = (ways(one), one_is_free).cmp(&(ways(other), other_is_free));
        order.then_with(|| if *one_is_free { by_size(one, other) } else { std::cmp::Ordering::Equal })
    });
    best.map(|(_, volume)| volume.clone())
}
