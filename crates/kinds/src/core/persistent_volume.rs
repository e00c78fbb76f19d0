//! PersistentVolume: storage that outlives pods.

use api::core::v1::PersistentVolume;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::one_of,
    strategy::{Column, Strategy},
};

/// Behaviour of persistent volumes.
pub struct PersistentVolumeStrategy;

const MODES: &[&str] = &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

impl Strategy for PersistentVolumeStrategy {
    type Kind = PersistentVolume;

    fn default(&self, volume: &mut PersistentVolume) {
        if let Some(host) = volume.spec.as_mut().and_then(|spec| spec.host_path.as_mut()) {
            host.type_.get_or_insert_default();
        }
    }
    fn validate(&self, volume: &PersistentVolume) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let empty = api::core::v1::PersistentVolumeSpec::default();
        let spec = volume.spec.as_ref().unwrap_or(&empty);
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        if modes.is_empty() {
            problems.push(FieldError::required(&path.child("accessModes"), ""));
        }
        for mode in modes {
            one_of(mode, MODES, &path.child("accessModes"), &mut problems);
        }
        match &spec.capacity {
            None => problems.push(FieldError::required(&path.child("capacity"), "")),
            Some(capacity) if !capacity.contains_key("storage") || capacity.len() > 1 => problems.push(FieldError::not_supported(
                &path.child("capacity"),
                serde_json::to_value(capacity).unwrap_or_default(),
                &["storage"],
            )),
            Some(_) => {}
        }
        one_of(spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default(), &["Delete", "Recycle", "Retain"], &path.child("persistentVolumeReclaimPolicy"), &mut problems);
        if sources(volume).is_empty() {
            problems.push(FieldError::required(&path, "must specify a volume type"));
        }
        if spec.local.is_some() && spec.node_affinity.is_none() {
            problems.push(FieldError::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
        }
        problems
    }
    fn validate_update(&self, volume: &PersistentVolume, old: &PersistentVolume) -> Vec<FieldError> {
        let mut problems = self.validate(volume);
        if sources(volume) != sources(old) {
            problems.push(FieldError::forbidden(&FieldPath::new("spec").child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"));
        }
        if let (Some(new), Some(old)) = (&volume.spec, &old.spec) {
            crate::problems::immutable(&new.volume_mode, &old.volume_mode, &FieldPath::new("volumeMode"), &mut problems);
        }
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::NAME,
            Column::text("Capacity", "How much it holds."),
            Column::text("Access Modes", "How it can be mounted."),
            Column::text("Reclaim Policy", "What happens once its claim is gone."),
            Column::text("Status", "Whether it is claimed."),
            Column::text("Claim", "Who claims it."),
            Column::text("StorageClass", "Its class."),
            Column::text("VolumeAttributesClass", "Its class of attributes."),
            Column::text("Reason", "Why it is in its state."),
            Column::AGE,
            Column::text("VolumeMode", "A file system or a block device.").wide(),
        ];
        COLUMNS
    }
    fn row(&self, volume: &PersistentVolume, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let empty = api::core::v1::PersistentVolumeSpec::default();
        let spec = volume.spec.as_ref().unwrap_or(&empty);
        let status = volume.status.as_ref();
        let claim = spec.claim_ref.as_ref().map(|claim| {
            format!("{}/{}", claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default())
        });
        let phase = if volume.metadata.deletion_timestamp.is_some() { Some("Terminating") } else { status.and_then(|status| status.phase.as_deref()) };
        vec![
            raw.name().into(),
            cells::quantity(spec.capacity.as_ref(), "storage").unwrap_or_default().into(),
            cells::access_modes(spec.access_modes.as_ref()),
            cells::text(spec.persistent_volume_reclaim_policy.as_deref()),
            cells::text(phase),
            cells::text(claim.as_deref()),
            cells::text(spec.storage_class_name.as_deref()),
            cells::or_unset(spec.volume_attributes_class_name.as_deref()),
            cells::text(status.and_then(|status| status.reason.as_deref())),
            cells::created(raw),
            cells::or_unset(spec.volume_mode.as_deref()),
        ]
    }
}

/// Where the storage is: every field that is none of the general ones.
fn sources(volume: &PersistentVolume) -> serde_json::Map<String, Value> {
    let general = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    match serde_json::to_value(&volume.spec) {
        Ok(Value::Object(map)) => map.into_iter().filter(|(key, _)| !general.contains(&key.as_str())).collect(),
        _ => serde_json::Map::new(),
    }
}
