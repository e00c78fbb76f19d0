//! The group `storage.k8s.io`.

use api::storage::v1::{CSIDriver, CSINode, StorageClass, VolumeAttachment};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::{filled, immutable, one_of},
    strategy::{Column, Strategy},
};

/// Behaviour of storage classes.
pub struct StorageClassStrategy;

/// The present name and the one of old.
const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

impl Strategy for StorageClassStrategy {
    type Kind = StorageClass;

    fn validate(&self, class: &StorageClass) -> Vec<FieldError> {
        let mut problems = Vec::new();
        filled(&class.provisioner, &FieldPath::new("provisioner"), &mut problems);
        for key in class.parameters.iter().flatten().map(|(key, _)| key).filter(|key| key.is_empty()) {
            problems.push(FieldError::invalid(&FieldPath::new("parameters"), key.as_str(), "field can not be empty."));
        }
        let policy = class.reclaim_policy.as_deref().unwrap_or_default();
        one_of(policy, &["Delete", "Retain"], &FieldPath::new("reclaimPolicy"), &mut problems);
        let mode = class.volume_binding_mode.as_deref().unwrap_or_default();
        one_of(mode, &["Immediate", "WaitForFirstConsumer"], &FieldPath::new("volumeBindingMode"), &mut problems);
        problems
    }
    fn validate_update(&self, class: &StorageClass, old: &StorageClass) -> Vec<FieldError> {
        let mut problems = self.validate(class);
        if class.parameters != old.parameters {
            problems.push(FieldError::forbidden(&FieldPath::new("parameters"), "updates to parameters are forbidden."));
        }
        if class.provisioner != old.provisioner {
            problems.push(FieldError::forbidden(&FieldPath::new("provisioner"), "updates to provisioner are forbidden."));
        }
        if class.reclaim_policy != old.reclaim_policy {
            problems.push(FieldError::forbidden(&FieldPath::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden."));
        }
        immutable(&class.volume_binding_mode, &old.volume_binding_mode, &FieldPath::new("volumeBindingMode"), &mut problems);
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Provisioner", "Who makes volumes of it."),
            Column::text("ReclaimPolicy", "What happens once their claims are gone."),
            Column::text("VolumeBindingMode", "When a claim gets its volume."),
            Column { kind: "boolean", ..Column::text("AllowVolumeExpansion", "Whether volumes can grow.") },
            Column::AGE,
        ] }
    }
    fn row(&self, class: &StorageClass, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let annotations = class.metadata.annotations.as_ref();
        let is_default = DEFAULT_CLASS.iter().any(|key| annotations.and_then(|all| all.get(*key)).is_some_and(|value| value == "true"));
        let name = if is_default { format!("{} (default)", raw.name()) } else { raw.name().to_owned() };
        vec![
            name.into(),
            class.provisioner.as_str().into(),
            class.reclaim_policy.as_deref().unwrap_or("Delete").into(),
            class.volume_binding_mode.as_deref().unwrap_or("<unset>").into(),
            class.allow_volume_expansion.unwrap_or(false).into(),
            cells::created(raw),
        ]
    }
}

/// Behaviour of drivers of storage.
pub struct CsiDriverStrategy;

impl Strategy for CsiDriverStrategy {
    type Kind = CSIDriver;

    fn validate(&self, driver: &CSIDriver) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        for mode in driver.spec.volume_lifecycle_modes.iter().flatten() {
            one_of(mode, &["Ephemeral", "Persistent"], &path.child("volumeLifecycleModes"), &mut problems);
        }
        if let Some(policy) = driver.spec.fs_group_policy.as_deref() {
            one_of(policy, &["File", "None", "ReadWriteOnceWithFSType"], &path.child("fsGroupPolicy"), &mut problems);
        }
        problems
    }
    fn validate_update(&self, driver: &CSIDriver, old: &CSIDriver) -> Vec<FieldError> {
        let mut problems = self.validate(driver);
        let path = FieldPath::new("spec");
        immutable(&driver.spec.attach_required, &old.spec.attach_required, &path.child("attachedRequired"), &mut problems);
        immutable(&driver.spec.volume_lifecycle_modes, &old.spec.volume_lifecycle_modes, &path.child("volumeLifecycleModes"), &mut problems);
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column { kind: "boolean", ..Column::text("AttachRequired", "Whether volumes are attached to nodes first.") },
            Column { kind: "boolean", ..Column::text("PodInfoOnMount", "Whether it is told of the pod.") },
            Column { kind: "boolean", ..Column::text("StorageCapacity", "Whether it tells how much room is left.") },
            Column::text("TokenRequests", "Tokens it is given."),
            Column { kind: "boolean", ..Column::text("RequiresRepublish", "Whether it is asked again and again.") },
            Column::text("Modes", "How long its volumes live."),
            Column::AGE,
        ] }
    }
    fn row(&self, driver: &CSIDriver, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = &driver.spec;
        let tokens = spec.token_requests.iter().flatten().map(|request| request.audience.as_str());
        let tokens: Vec<&str> = tokens.collect();
        vec![
            raw.name().into(),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            if tokens.is_empty() { "<unset>".to_owned() } else { tokens.join(",") }.into(),
            spec.requires_republish.unwrap_or(false).into(),
            cells::joined(spec.volume_lifecycle_modes.iter().flatten()),
            cells::created(raw),
        ]
    }
}

/// Behaviour of what nodes know of their drivers.
pub struct CsiNodeStrategy;

impl Strategy for CsiNodeStrategy {
    type Kind = CSINode;

    fn validate(&self, node: &CSINode) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let mut names = std::collections::HashSet::new();
        for (index, driver) in node.spec.drivers.iter().enumerate() {
            let path = FieldPath::new("spec").child("drivers").index(index);
            filled(&driver.name, &path.child("name"), &mut problems);
            filled(&driver.node_id, &path.child("nodeID"), &mut problems);
            if !names.insert(&driver.name) {
                problems.push(FieldError::duplicate(&path.child("name"), driver.name.as_str()));
            }
        }
        problems
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::integer("Drivers", "How many drivers it has."), Column::AGE] }
    }
    fn row(&self, node: &CSINode, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), node.spec.drivers.len().into(), cells::created(raw)]
    }
}

/// Behaviour of attachments.
pub struct VolumeAttachmentStrategy;

impl Strategy for VolumeAttachmentStrategy {
    type Kind = VolumeAttachment;

    fn validate(&self, attachment: &VolumeAttachment) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &attachment.spec;
        filled(&spec.attacher, &path.child("attacher"), &mut problems);
        filled(&spec.node_name, &path.child("nodeName"), &mut problems);
        match (&spec.source.inline_volume_spec, &spec.source.persistent_volume_name) {
            (None, None) => problems.push(FieldError::required(&path.child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
            (Some(_), Some(_)) => problems.push(FieldError::invalid(&path.child("source"), "", "must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
            _ => {}
        }
        problems
    }
    fn validate_update(&self, attachment: &VolumeAttachment, old: &VolumeAttachment) -> Vec<FieldError> {
        let mut problems = self.validate(attachment);
        immutable(&attachment.spec, &old.spec, &FieldPath::new("spec"), &mut problems);
        problems
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Attacher", "Who attaches."),
            Column::text("PV", "Which volume."),
            Column::text("Node", "To which node."),
            Column { kind: "boolean", ..Column::text("Attached", "Whether it is done.") },
            Column::AGE,
        ] }
    }
    fn row(&self, attachment: &VolumeAttachment, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![
            raw.name().into(),
            attachment.spec.attacher.as_str().into(),
            cells::text(attachment.spec.source.persistent_volume_name.as_deref()),
            attachment.spec.node_name.as_str().into(),
            attachment.status.as_ref().is_some_and(|status| status.attached).into(),
            cells::created(raw),
        ]
    }
}
