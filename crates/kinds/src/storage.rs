//! The group `storage.k8s.io`.

use std::collections::{BTreeMap, HashSet};

use api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttachmentStatus, VolumeAttributesClass};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, quantity::Quantity, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::{filled, immutable, label_selector, one_of},
    strategy::{Column, Strategy},
    warnings,
};

/// Behaviour of storage classes.
pub struct StorageClassStrategy;

/// The present name and the one of old.
const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// Settings for a driver.
///
/// Source: Kubernetes `pkg/apis/storage/validation/validation.go`, `validateParameters`.
fn parameters(all: Option<&BTreeMap<String, String>>, may_be_empty: bool, problems: &mut Vec<FieldError>) {
    const MOST: usize = 512;
    const LARGEST: usize = 256 * 1024;
    let path = FieldPath::new("parameters");
    let count = all.map_or(0, BTreeMap::len);
    if count > MOST {
        problems.push(FieldError::too_long(&path, MOST));
        return;
    }
    let mut size = 0;
    for (key, value) in all.into_iter().flatten() {
        if key.is_empty() {
            problems.push(FieldError::invalid(&path, key.as_str(), "field can not be empty."));
        }
        size += key.len() + value.len();
    }
    if size > LARGEST {
        problems.push(FieldError::too_long(&path, LARGEST));
    }
    if !may_be_empty && count == 0 {
        problems.push(FieldError::required(&path, "must contain at least one key/value pair"));
    }
}

fn topologies(class: &StorageClass, problems: &mut Vec<FieldError>) {
    let path = FieldPath::new("allowedTopologies");
    for (index, term) in class.allowed_topologies.iter().flatten().enumerate() {
        let at = path.index(index).child("matchLabelExpressions");
        let mut keys = HashSet::new();
        for (position, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
            let at = at.index(position);
            if requirement.values.is_empty() {
                problems.push(FieldError::required(&at.child("values"), ""));
            }
            let mut values = HashSet::new();
            for (place, value) in requirement.values.iter().enumerate().filter(|(_, value)| !values.insert(value.as_str())) {
                problems.push(FieldError::duplicate(&at.child("values").index(place), value.as_str()));
            }
            problems.extend(rules::invalid_each(&at.child("key"), &requirement.key, rules::qualified_name_problems(&requirement.key)));
            if !keys.insert(requirement.key.as_str()) {
                problems.push(FieldError::duplicate(&at.child("key"), requirement.key.as_str()));
            }
        }
    }
}

fn driver_name(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST: usize = 63;
    filled(name, path, problems);
    if name.len() > LONGEST {
        problems.push(FieldError::too_long(path, LONGEST));
    }
    problems.extend(rules::invalid_each(path, name, rules::dns1123_subdomain_problems(&name.to_lowercase())));
}

/// Behaviour of classes of attributes of volumes.
pub struct VolumeAttributesClassStrategy;

impl Strategy for VolumeAttributesClassStrategy {
    type Kind = VolumeAttributesClass;

    fn validate(&self, class: &VolumeAttributesClass) -> Vec<FieldError> {
        let mut problems = Vec::new();
        driver_name(&class.driver_name, &FieldPath::new("driverName"), &mut problems);
        parameters(class.parameters.as_ref(), false, &mut problems);
        problems
    }
    fn validate_update(&self, class: &VolumeAttributesClass, old: &VolumeAttributesClass) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if class.driver_name != old.driver_name {
            problems.push(FieldError::forbidden(&FieldPath::new("driverName"), "updates to driverName are forbidden."));
        }
        if class.parameters != old.parameters {
            problems.push(FieldError::forbidden(&FieldPath::new("parameters"), "updates to parameters are forbidden."));
        }
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("DriverName", "Whose attributes they are."), Column::AGE] }
    }
    fn row(&self, class: &VolumeAttributesClass, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), class.driver_name.as_str().into(), cells::created(raw)]
    }
}

/// Behaviour of what drivers report of the room that is left.
pub struct StorageCapacityStrategy;

impl Strategy for StorageCapacityStrategy {
    type Kind = CSIStorageCapacity;

    fn validate(&self, capacity: &CSIStorageCapacity) -> Vec<FieldError> {
        let at = FieldPath::new("storageClassName");
        let class = capacity.storage_class_name.as_str();
        let mut problems = rules::invalid_each(&at, class, rules::dns1123_subdomain_problems(class));
        for (field, amount) in [("capacity", &capacity.capacity), ("maximumVolumeSize", &capacity.maximum_volume_size)] {
            let amount = amount.as_ref().and_then(|text| Quantity::parse(&text.0).ok());
            if let Some(amount) = amount.filter(|amount| amount.signum() < 0) {
                problems.push(FieldError::invalid(&FieldPath::new(field), amount.to_string(), "must be greater than or equal to 0"));
            }
        }
        if let Some(selector) = &capacity.node_topology {
            problems.extend(label_selector(selector, &FieldPath::new("nodeTopology")));
        }
        problems
    }
    fn validate_update(&self, capacity: &CSIStorageCapacity, old: &CSIStorageCapacity) -> Vec<FieldError> {
        let mut problems = self.validate(capacity);
        immutable(&capacity.node_topology, &old.node_topology, &FieldPath::new("nodeTopology"), &mut problems);
        immutable(&capacity.storage_class_name, &old.storage_class_name, &FieldPath::new("storageClassName"), &mut problems);
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, capacity: &CSIStorageCapacity, _old: Option<&CSIStorageCapacity>) -> Vec<String> {
        let Some(topology) = &capacity.node_topology else { return Vec::new() };
        let at = FieldPath::new("nodeTopology");
        let mut told = Vec::new();
        for (index, one) in topology.match_expressions.iter().flatten().enumerate() {
            let at = at.child("matchExpressions").index(index).child("key");
            told.extend(warnings::node_label(&one.key).map(|words| format!("{at}: {} is {words}", one.key)));
        }
        for label in topology.match_labels.iter().flatten().map(|(label, _)| label) {
            told.extend(warnings::node_label(label).map(|words| format!("{}: {words}", at.child("matchLabels").child(label))));
        }
        told
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("StorageClassName", "Of which class."), Column::text("Capacity", "How much room is left.")] }
    }
    fn row(&self, capacity: &CSIStorageCapacity, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let room = cells::or_unset(capacity.capacity.as_ref().map(|text| text.0.as_str()));
        vec![raw.name().into(), capacity.storage_class_name.as_str().into(), room]
    }
}

impl Strategy for StorageClassStrategy {
    type Kind = StorageClass;

    fn validate(&self, class: &StorageClass) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let at = FieldPath::new("provisioner");
        filled(&class.provisioner, &at, &mut problems);
        if !class.provisioner.is_empty() {
            problems.extend(rules::invalid_each(&at, &class.provisioner, rules::qualified_name_problems(&class.provisioner.to_lowercase())));
        }
        parameters(class.parameters.as_ref(), true, &mut problems);
        let policy = class.reclaim_policy.as_deref().unwrap_or_default();
        one_of(policy, &["Delete", "Retain"], &FieldPath::new("reclaimPolicy"), &mut problems);
        let mode = class.volume_binding_mode.as_deref().unwrap_or_default();
        one_of(mode, &["Immediate", "WaitForFirstConsumer"], &FieldPath::new("volumeBindingMode"), &mut problems);
        topologies(class, &mut problems);
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
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, class: &StorageClass, _old: Option<&StorageClass>) -> Vec<String> {
        let mut told = Vec::new();
        for (index, term) in class.allowed_topologies.iter().flatten().enumerate() {
            let at = FieldPath::new("allowedTopologies").index(index).child("matchLabelExpressions");
            for (position, one) in term.match_label_expressions.iter().flatten().enumerate() {
                told.extend(warnings::node_label(&one.key).map(|words| format!("{}: {words}", at.index(position).child("key"))));
            }
        }
        told
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Provisioner", "Who makes volumes of it."),
            Column::text("ReclaimPolicy", "What happens once their claims are gone."),
            Column::text("VolumeBindingMode", "When a claim gets its volume."),
            Column::text("AllowVolumeExpansion", "Whether volumes can grow."),
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
            class.volume_binding_mode.as_deref().unwrap_or("Immediate").into(),
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
        // The name is a driver's, so that it is bound to its length.
        driver_name(driver.metadata.name.as_deref().unwrap_or_default(), &FieldPath::new("metadata").child("name"), &mut problems);
        let mut audiences = HashSet::new();
        for (index, request) in driver.spec.token_requests.iter().flatten().enumerate() {
            let at = path.child("tokenRequests").index(index);
            if !audiences.insert(request.audience.as_str()) {
                problems.push(FieldError::duplicate(&at.child("audience"), request.audience.as_str()));
            }
            if let Some(seconds) = request.expiration_seconds {
                if seconds < 600 {
                    problems.push(FieldError::invalid(&at.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"));
                } else if seconds > 1 << 32 {
                    problems.push(FieldError::invalid(&at.child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"));
                }
            }
        }
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
            driver_name(&driver.name, &path.child("name"), &mut problems);
            filled(&driver.node_id, &path.child("nodeID"), &mut problems);
            if driver.node_id.len() > 256 {
                problems.push(FieldError::invalid(&path.child("nodeID"), driver.node_id.as_str(), "must be 256 characters or less"));
            }
            if let Some(count) = driver.allocatable.as_ref().and_then(|room| room.count).filter(|count| *count < 0) {
                problems.push(FieldError::invalid(&path.child("allocatable").child("count"), count, "must be greater than or equal to 0"));
            }
            let mut keys = HashSet::new();
            for key in driver.topology_keys.iter().flatten() {
                if !keys.insert(key.as_str()) {
                    problems.push(FieldError::duplicate(&path.child("topologyKeys"), key.as_str()));
                }
                problems.extend(rules::invalid_each(&path.child("topologyKeys"), key, rules::qualified_name_problems(key)));
            }
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

/// What a driver reports of an attachment. Source: Kubernetes `pkg/apis/storage/validation/validation.go`, `validateVolumeAttachmentStatus`.
fn attachment_status(status: &VolumeAttachmentStatus, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const MOST_METADATA: usize = 256 * 1024;
    const LONGEST_MESSAGE: usize = 1024;
    let size: usize = status.attachment_metadata.iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
    if size > MOST_METADATA {
        problems.push(FieldError::too_long(&path.child("attachmentMetadata"), MOST_METADATA));
    }
    for (field, error) in [("attachError", &status.attach_error), ("detachError", &status.detach_error)] {
        let Some(error) = error else { continue };
        if error.message.as_deref().is_some_and(|message| message.len() > LONGEST_MESSAGE) {
            problems.push(FieldError::too_long(&path.child(field).child("message"), LONGEST_MESSAGE));
        }
        if let Some(code) = error.error_code.filter(|code| *code < 0) {
            problems.push(FieldError::invalid(&path.child(field).child("errorCode"), code, rules::inclusive_range(0, i64::from(i32::MAX))));
        }
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
        if !spec.attacher.is_empty() {
            driver_name(&spec.attacher, &path.child("attacher"), &mut problems);
        }
        problems.extend(rules::invalid_each(&path.child("nodeName"), &spec.node_name, rules::dns1123_subdomain_problems(&spec.node_name)));
        match (&spec.source.inline_volume_spec, &spec.source.persistent_volume_name) {
            (None, None) => problems.push(FieldError::required(&path.child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
            (None, Some(name)) if name.is_empty() => problems.push(FieldError::required(&path.child("source").child("persistentVolumeName"), "must specify non empty persistentVolumeName")),
            (Some(_), Some(_)) => problems.push(FieldError::invalid(&path.child("source"), "", "must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
            _ => {}
        }
        if let Some(status) = &attachment.status {
            attachment_status(status, &FieldPath::new("status"), &mut problems);
        }
        problems
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, attachment: &VolumeAttachment, old: &VolumeAttachment) -> Vec<FieldError> {
        self.validate_update(attachment, old)
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
            Column { format: "name", ..Column::text("Attacher", "Who attaches.") },
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
