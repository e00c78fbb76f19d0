//! PersistentVolume: storage that outlives pods.

use api::core::v1::PersistentVolume;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, quantity::Quantity, validation as rules};
use serde_json::Value;

use super::pod;
use crate::{
    cells,
    problems::one_of,
    strategy::{Column, Strategy},
    warnings,
};

/// Behaviour of persistent volumes.
pub struct PersistentVolumeStrategy;

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

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
        if modes.iter().any(|mode| mode == "ReadWriteOncePod") && modes.iter().any(|mode| mode != "ReadWriteOncePod" && MODES.contains(&mode.as_str())) {
            problems.push(FieldError::forbidden(&path.child("accessModes"), "may not use ReadWriteOncePod with other access modes"));
        }
        let at = path.child("capacity");
        let capacity = spec.capacity.clone().unwrap_or_default();
        if capacity.is_empty() {
            problems.push(FieldError::required(&at, ""));
        }
        if !capacity.contains_key("storage") || capacity.len() > 1 {
            problems.push(FieldError::not_supported(&at, serde_json::json!(capacity), &["storage"]));
        }
        for (name, amount) in &capacity {
            let Ok(amount) = Quantity::parse(&amount.0) else { continue };
            if amount.value() < 0 {
                problems.push(FieldError::invalid(&at.key(name), amount.value(), "must be a valid resource quantity"));
            }
            if amount.signum() <= 0 {
                problems.push(FieldError::invalid(&at.key(name), amount.to_string(), "must be greater than zero"));
            }
        }
        let reclaim = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
        one_of(reclaim, &["Delete", "Recycle", "Retain"], &path.child("persistentVolumeReclaimPolicy"), &mut problems);
        if let Some(affinity) = &spec.node_affinity {
            let at = path.child("nodeAffinity").child("required");
            match &affinity.required {
                Some(selector) => pod::affinity::node_selector(selector, &at, &mut problems),
                None => problems.push(FieldError::required(&at, "must specify required node constraints")),
            }
        }
        source(volume, &path, &mut problems);
        let is_root = spec.host_path.as_ref().is_some_and(|host| host.path.split('/').all(|part| matches!(part, "" | ".")));
        if is_root && reclaim == "Recycle" {
            problems.push(FieldError::forbidden(&path.child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"));
        }
        if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
            problems.extend(rules::invalid_each(&path.child("storageClassName"), class, rules::dns1123_subdomain_problems(class)));
        }
        if let Some(mode) = spec.volume_mode.as_deref().filter(|mode| !matches!(*mode, "Block" | "Filesystem")) {
            problems.push(FieldError::not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]));
        }
        if let Some(class) = &spec.volume_attributes_class_name {
            let at = path.child("volumeAttributesClassName");
            if class.is_empty() {
                problems.push(FieldError::required(&at, "an empty string is disallowed"));
            } else {
                problems.extend(rules::invalid_each(&at, class, rules::dns1123_subdomain_problems(class)));
            }
            if spec.csi.is_none() {
                problems.push(FieldError::required(&path.child("csi"), "has to be specified when using volumeAttributesClassName"));
            }
        }
        problems
    }
    fn validate_update(&self, volume: &PersistentVolume, old: &PersistentVolume) -> Vec<FieldError> {
        let mut problems = self.validate(volume);
        let mut adopted = volume.clone();
        // The secret for growing may be added later.
        if let (Some(new), Some(known)) = (adopted.spec.as_mut().and_then(|spec| spec.csi.as_mut()), old.spec.as_ref().and_then(|spec| spec.csi.as_ref()))
            && known.controller_expand_secret_ref.is_none()
        {
            new.controller_expand_secret_ref = None;
        }
        if sources(&adopted) != sources(old) {
            problems.push(FieldError::forbidden(&FieldPath::new("spec").child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"));
        }
        if let (Some(new), Some(old)) = (&volume.spec, &old.spec) {
            crate::problems::immutable(&new.volume_mode, &old.volume_mode, &FieldPath::new("volumeMode"), &mut problems);
            if old.node_affinity.is_some() && new.node_affinity != old.node_affinity {
                let shown = serde_json::json!(new.node_affinity);
                problems.push(FieldError::invalid(&FieldPath::new("nodeAffinity"), shown, "field is immutable, except for updating from beta label to GA"));
            }
            if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
                let at = FieldPath::new("spec").child("volumeAttributesClassName");
                problems.push(FieldError::forbidden(&at, "update from non-nil value to nil is forbidden"));
            }
        }
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, volume: &PersistentVolume, _old: Option<&PersistentVolume>) -> Vec<String> {
        let mut told = Vec::new();
        for (key, words) in [
            ("volume.beta.kubernetes.io/storage-class", "deprecated since v1.8; use \"storageClassName\" attribute instead"),
            ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
        ] {
            if volume.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key)) {
                told.push(format!("metadata.annotations[{key}]: {words}"));
            }
        }
        let Some(spec) = &volume.spec else { return told };
        if spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
            let words = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
            told.push(format!("spec.persistentVolumeReclaimPolicy: {words}"));
        }
        let nodes = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
        for (index, term) in nodes.iter().flat_map(|nodes| nodes.node_selector_terms.iter()).enumerate() {
            let at = FieldPath::new("spec").child("nodeAffinity").child("required").child("nodeSelectorTerms").index(index);
            warnings::node_selector_term(term, false, &at, &mut told);
        }
        for (is_set, field, words) in [
            (spec.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            (spec.photon_persistent_disk.is_some(), "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
            (spec.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            (spec.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            (spec.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            (spec.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if is_set {
                told.push(format!("spec.{field}: {words}"));
            }
        }
        told
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
            cells::quantity(spec.capacity.as_ref(), "storage").unwrap_or_else(|| "0".to_owned()).into(),
            cells::access_modes(spec.access_modes.as_ref()),
            cells::text(spec.persistent_volume_reclaim_policy.as_deref()),
            cells::text(phase),
            cells::text(claim.as_deref()),
            cells::text(cells::storage_class(raw).or(spec.storage_class_name.as_deref())),
            cells::or_unset(spec.volume_attributes_class_name.as_deref()),
            cells::text(status.and_then(|status| status.reason.as_deref())),
            cells::created(raw),
            cells::or_unset(spec.volume_mode.as_deref()),
        ]
    }
}

/// Every kind of source in the order in which upstream looks at them: the first counts, the others are too many.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn source(volume: &PersistentVolume, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let tree = sources(volume);
    let mut given = SOURCES.iter().filter_map(|name| tree.get(*name).map(|source| (*name, source)));
    let Some((name, first)) = given.next() else {
        problems.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    let shown = if name == "gcePersistentDisk" { "persistentDisk" } else { name };
    pod::volumes::drivers(name, first, true, &path.child(shown), problems);
    if name == "local" && volume.spec.as_ref().is_some_and(|spec| spec.node_affinity.is_none()) {
        problems.push(FieldError::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
    }
    for (name, _) in given {
        let shown = if name == "cephfs" { "cephFS" } else { name };
        problems.push(FieldError::forbidden(&path.child(shown), "may not specify more than 1 volume type"));
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
