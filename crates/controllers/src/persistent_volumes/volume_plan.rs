//! What is to be done about a volume.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{MIGRATED_TO, PROVISIONED_BY, annotation, claim_reference, matching, volume_of, volume_phase};

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
    Fail { reason: &'static str, message: String },
    /// Its claim is gone, which was said before, or something went wrong with it, which stays said.
    Stay,
    /// It is reserved for a claim that cannot use it: one is a file system, the other a block device.
    Mismatch,
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
    let Some(claim) = claim else { return released(volume, policy) };
    match volume_of(claim) {
        Some(name) if Some(name) == volume.metadata.name.as_deref() => Step::Keep,
        None if !matching::has_mode(claim, volume) => Step::Mismatch,
        None => Step::Leave,
        Some(_) if policy == "Delete" && annotation(&volume.metadata, PROVISIONED_BY).is_some() => released(volume, policy),
        Some(_) => Step::Free,
    }
}

/// What is to be done about a volume whose claim is gone: first it says so.
fn released(volume: &PersistentVolume, policy: &str) -> Step {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    if volume_phase(volume) == "Failed" {
        return Step::Stay;
    }
    if volume_phase(volume) != "Released" {
        return Step::Release;
    }
    match policy {
        "Delete" => match undeletable(volume, name) {
            Some(message) => Step::Fail { reason: "VolumeFailedDelete", message },
            // Whoever made it removes it.
            None => Step::Stay,
        },
        "Recycle" => Step::Fail { reason: "VolumeFailedRecycle", message: "No recycler plugin found for the volume!".to_owned() },
        _ => Step::Stay,
    }
}

/// Why nobody can remove what is in a volume; `None` where somebody is responsible for that.
/// Source: Kubernetes 1.36, `findDeletablePlugin`.
fn undeletable(volume: &PersistentVolume, name: &str) -> Option<String> {
    if let Some(maker) = annotation(&volume.metadata, PROVISIONED_BY) {
        return maker.starts_with("kubernetes.io/").then(|| format!("no volume plugin matched name: {maker}"));
    }
    let spec = volume.spec.as_ref();
    if annotation(&volume.metadata, MIGRATED_TO).is_some() || spec.is_some_and(|spec| spec.csi.is_some()) {
        return None;
    }
    match spec.and_then(|spec| spec.host_path.as_ref()) {
        Some(directory) => Some(format!("host_path deleter only supports /tmp/.+ but received provided {}", directory.path)),
        None => Some(format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(volume: Value, claim: Option<Value>, expected: Step) {
        let mut whole = json!({
            "metadata": { "name": "v", "annotations": volume["annotations"] },
            "spec": { "claimRef": { "namespace": "x", "name": "c", "uid": "1" } },
            "status": { "phase": volume["phase"] },
        });
        for (name, value) in volume["spec"].as_object().into_iter().flatten() {
            whole["spec"][name] = value.clone();
        }
        let claim = claim.map(|spec| serde_json::from_value(json!({ "metadata": { "name": "c", "namespace": "x", "uid": "1" }, "spec": spec })).unwrap());
        assert_eq!(plan(&serde_json::from_value(whole).unwrap(), claim.as_ref()), expected, "{volume}");
    }

    #[test]
    fn a_volume_follows_its_claim() {
        check(json!({}), Some(json!({ "volumeName": "v" })), Step::Keep);
        check(json!({}), Some(json!({})), Step::Leave);
        check(json!({ "spec": { "volumeMode": "Block" } }), Some(json!({})), Step::Mismatch);
        check(json!({}), Some(json!({ "volumeName": "w" })), Step::Free);
        check(json!({ "spec": { "claimRef": { "namespace": "x", "name": "c" } } }), None, Step::Offer);
        check(json!({ "spec": { "claimRef": null } }), None, Step::Offer);
    }

    #[test]
    fn a_volume_without_its_claim_is_released_and_then_reclaimed_by_whom_it_may_concern() {
        let delete = |phase: &str, source: Value, annotations: Value| json!({ "phase": phase, "annotations": annotations, "spec": { "persistentVolumeReclaimPolicy": "Delete", "local": source["local"], "csi": source["csi"], "hostPath": source["hostPath"] } });
        let by = |maker: &str| json!({ "pv.kubernetes.io/provisioned-by": maker });
        let fails = |message: &str| Step::Fail { reason: "VolumeFailedDelete", message: message.to_owned() };
        check(delete("Bound", json!({}), by("x.example")), None, Step::Release);
        check(delete("Released", json!({}), by("x.example")), None, Step::Stay);
        check(delete("Failed", json!({}), by("x.example")), None, Step::Stay);
        check(delete("Released", json!({ "csi": { "driver": "d", "volumeHandle": "h" } }), json!({})), None, Step::Stay);
        check(delete("Bound", json!({ "local": { "path": "/x" } }), json!({})), None, Step::Release);
        check(delete("Released", json!({ "local": { "path": "/x" } }), json!({})), None, fails("error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched"));
        check(delete("Released", json!({ "hostPath": { "path": "/x" } }), json!({})), None, fails("host_path deleter only supports /tmp/.+ but received provided /x"));
        check(delete("Released", json!({}), by("kubernetes.io/glusterfs")), None, fails("no volume plugin matched name: kubernetes.io/glusterfs"));
        check(delete("Bound", json!({}), by("x.example")), Some(json!({ "volumeName": "w" })), Step::Release);
        let recycle = json!({ "phase": "Released", "spec": { "persistentVolumeReclaimPolicy": "Recycle" } });
        check(recycle, None, Step::Fail { reason: "VolumeFailedRecycle", message: "No recycler plugin found for the volume!".to_owned() });
        for (phase, expected) in [("Bound", Step::Release), ("Released", Step::Stay), ("Failed", Step::Stay)] {
            check(json!({ "phase": phase, "spec": { "persistentVolumeReclaimPolicy": "Retain" } }), None, expected);
        }
    }
}
