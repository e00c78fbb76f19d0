//! PersistentVolumeClaim: what storage somebody asks for.

use api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, quantity::Quantity, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::{filled, immutable, label_selector, one_of},
    strategy::{Column, Strategy, WriteContext},
    warnings,
};

/// Behaviour of claims.
pub struct PersistentVolumeClaimStrategy;

/// Whether a resource may stand in a claim's status: storage, or one of somebody else's.
fn resource_key(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) -> bool {
    let before = problems.len();
    problems.extend(rules::invalid_each(path, name, rules::qualified_name_problems(name)));
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    if problems.len() == before && native && name != "storage" {
        problems.push(FieldError::not_supported(path, name, &["storage"]));
    }
    problems.len() == before
}

/// Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidatePersistentVolumeClaimStatusUpdate`.
fn validate_status(status: &PersistentVolumeClaimStatus, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const RESIZING: &[&str] =
        &["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"];
    let basic = |amount: &str, path: &FieldPath, problems: &mut Vec<FieldError>| {
        let negative = Quantity::parse(amount).ok().filter(|amount| amount.signum() < 0);
        if let Some(amount) = &negative {
            problems.push(FieldError::invalid(path, amount.value(), "must be a valid resource quantity"));
        }
        negative.is_none()
    };
    for (name, amount) in status.capacity.iter().flatten() {
        basic(&amount.0, &path.child("capacity").key(name), problems);
    }
    // Upstream says it in the singular.
    let at = path.child("allocatedResourceStatus");
    for (name, state) in status.allocated_resource_statuses.iter().flatten() {
        resource_key(name, &at, problems);
        if !RESIZING.contains(&state.as_str()) {
            problems.push(FieldError::not_supported(&at, name.as_str(), RESIZING));
        }
    }
    let at = path.child("allocatedResources");
    for (name, amount) in status.allocated_resources.iter().flatten() {
        resource_key(name, &at, problems);
        if basic(&amount.0, &at.key(name), problems) {
            problems.extend(crate::resource_names::amount_problems("storage", &amount.0, &at.key(name)));
        }
    }
}

/// Problems of a claim's specification.
pub fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &FieldPath) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        problems.push(FieldError::required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    for mode in modes {
        one_of(mode, &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"], &path.child("accessModes"), &mut problems);
    }
    let others = modes.iter().any(|mode| matches!(mode.as_str(), "ReadOnlyMany" | "ReadWriteMany" | "ReadWriteOnce"));
    if others && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        problems.push(FieldError::forbidden(&path.child("accessModes"), "may not use ReadWriteOncePod with other access modes"));
    }
    if let Some(selector) = &spec.selector {
        problems.extend(label_selector(selector, &path.child("selector")));
    }
    let at = path.child("resources").key("storage");
    match spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()).and_then(|requests| requests.get("storage")) {
        None => problems.push(FieldError::required(&at, "")),
        Some(amount) => {
            if Quantity::parse(&amount.0).is_ok_and(|parsed| parsed.signum() <= 0) {
                problems.push(FieldError::invalid(&at, amount.0.as_str(), "must be greater than zero"));
            }
        }
    }
    for (field, name) in [("storageClassName", &spec.storage_class_name), ("volumeAttributesClassName", &spec.volume_attributes_class_name)] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            problems.extend(rules::invalid_each(&path.child(field), name, rules::dns1123_subdomain_problems(name)));
        }
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|mode| !matches!(*mode, "Block" | "Filesystem")) {
        problems.push(FieldError::not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]));
    }
    data_sources(spec, path, &mut problems);
    problems
}

/// Where its first contents come from.
fn data_sources(spec: &PersistentVolumeClaimSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let old = spec.data_source.as_ref().map(|source| (source.api_group.as_deref(), source.kind.as_str(), source.name.as_str()));
    let new = spec.data_source_ref.as_ref().map(|source| (source.api_group.as_deref(), source.kind.as_str(), source.name.as_str()));
    for (field, source) in [("dataSource", old), ("dataSourceRef", new)] {
        let (Some((group, kind, name)), at) = (source, path.child(field)) else { continue };
        filled(name, &at.child("name"), problems);
        filled(kind, &at.child("kind"), problems);
        match group.unwrap_or_default() {
            "" if kind != "PersistentVolumeClaim" => {
                problems.push(FieldError::invalid(&at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"));
            }
            "" => {}
            group => problems.extend(rules::invalid_each(&at.child("apiGroup"), group, rules::dns1123_subdomain_problems(group))),
        }
    }
    let namespace = spec.data_source_ref.as_ref().and_then(|source| source.namespace.as_deref()).unwrap_or_default();
    let shown = path.child("dataSource");
    if !namespace.is_empty() {
        problems.extend(rules::invalid_each(&path.child("dataSourceRef").child("namespace"), namespace, rules::dns1123_label_problems(namespace)));
        if old.is_some() {
            problems.push(FieldError::invalid(path, shown.as_str(), "may not be specified when dataSourceRef.namespace is specified"));
        }
    } else if old.is_some() && new.is_some() && old != new {
        problems.push(FieldError::invalid(path, shown.as_str(), "must match dataSourceRef"));
    }
}

/// Parts of bytes that are asked for.
pub fn fractions(spec: Option<&PersistentVolumeClaimSpec>, path: &FieldPath) -> Vec<String> {
    let Some(resources) = spec.and_then(|spec| spec.resources.as_ref()) else { return Vec::new() };
    let amounts = [("requests", resources.requests.as_ref()), ("limits", resources.limits.as_ref())];
    amounts.into_iter().filter_map(|(field, amounts)| warnings::fraction(amounts, "storage", &path.child("resources").child(field))).collect()
}

impl Strategy for PersistentVolumeClaimStrategy {
    type Kind = PersistentVolumeClaim;

    fn default(&self, claim: &mut PersistentVolumeClaim) {
        // Old and new form of the source mean the same.
        if let Some(spec) = &mut claim.spec {
            match (&spec.data_source, &spec.data_source_ref) {
                (Some(source), None) => {
                    spec.data_source_ref = Some(api::core::v1::TypedObjectReference {
                        api_group: source.api_group.clone(),
                        kind: source.kind.clone(),
                        name: source.name.clone(),
                        namespace: None,
                    });
                }
                (None, Some(reference)) if reference.namespace.as_deref().unwrap_or_default().is_empty() => {
                    spec.data_source = Some(api::core::v1::TypedLocalObjectReference {
                        api_group: reference.api_group.clone(),
                        kind: reference.kind.clone(),
                        name: reference.name.clone(),
                    });
                }
                _ => {}
            }
        }
    }
    fn prepare_create(&self, _context: &WriteContext, claim: &mut PersistentVolumeClaim) {
        claim.status.get_or_insert_default().phase = Some("Pending".to_owned());
    }
    fn validate(&self, claim: &PersistentVolumeClaim) -> Vec<FieldError> {
        let empty = PersistentVolumeClaimSpec::default();
        validate_spec(claim.spec.as_ref().unwrap_or(&empty), &FieldPath::new("spec"))
    }
    fn validate_status_update(&self, claim: &PersistentVolumeClaim, _old: &PersistentVolumeClaim) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if let Some(status) = &claim.status {
            validate_status(status, &FieldPath::new("status"), &mut problems);
        }
        problems
    }
    fn validate_update(&self, claim: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Vec<FieldError> {
        let mut problems = self.validate(claim);
        let (Some(new), Some(known)) = (&claim.spec, &old.spec) else { return problems };
        let bound = old.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let mut adopted = new.clone();
        if known.volume_name.as_deref().unwrap_or_default().is_empty() {
            adopted.volume_name.clone_from(&known.volume_name);
        }
        if known.storage_class_name.is_none() {
            // A class may be filled in later, by the default class.
            adopted.storage_class_name.clone_from(&known.storage_class_name);
        }
        let path = FieldPath::new("spec");
        let read = |amounts: Option<&std::collections::BTreeMap<String, api::apimachinery::pkg::api::resource::Quantity>>| {
            amounts.and_then(|amounts| amounts.get("storage")).and_then(|text| Quantity::parse(&text.0).ok())
        };
        let asked = |spec: &PersistentVolumeClaimSpec| read(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
        let (wanted, had) = (asked(new), asked(known));
        if bound {
            adopted.volume_attributes_class_name.clone_from(&known.volume_attributes_class_name);
            if let (Some(to), Some(from)) = (&mut adopted.resources, &known.resources)
                && let (Some(to), Some(from)) = (&mut to.requests, from.requests.as_ref().and_then(|requests| requests.get("storage")))
            {
                to.insert("storage".to_owned(), from.clone());
            }
        }
        if adopted != *known {
            problems.push(FieldError::forbidden(
                &path,
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            ));
        }
        if let (Some(wanted), Some(had)) = (wanted, had)
            && wanted.sub(&had).signum() < 0
        {
            let there = read(old.status.as_ref().and_then(|status| status.capacity.as_ref()));
            // One that nothing was given to may ask for anything; it is refused above.
            if there.is_some_and(|there| wanted.sub(&there).signum() <= 0) {
                problems.push(FieldError::forbidden(&path.child("resources").child("requests").child("storage"), "field can not be less than status.capacity"));
            }
        }
        immutable(&new.volume_mode, &known.volume_mode, &FieldPath::new("volumeMode"), &mut problems);
        let at = path.child("volumeAttributesClassName");
        match (&known.volume_attributes_class_name, new.volume_attributes_class_name.as_deref()) {
            (Some(_), None) => problems.push(FieldError::forbidden(&at, "update from non-nil value to nil is forbidden")),
            (Some(known), Some("")) if !known.is_empty() => problems.push(FieldError::forbidden(&at, "update from non-nil value to an empty string is forbidden")),
            _ => {}
        }
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, claim: &PersistentVolumeClaim, _old: Option<&PersistentVolumeClaim>) -> Vec<String> {
        let annotations = claim.metadata.annotations.as_ref();
        let old_class = annotations.and_then(|all| all.get_key_value("volume.beta.kubernetes.io/storage-class"));
        let of_class = old_class.map(|(key, _)| format!("metadata.annotations[{key}]: deprecated since v1.8; use \"storageClassName\" attribute instead"));
        of_class.into_iter().chain(fractions(claim.spec.as_ref(), &FieldPath::new("spec"))).collect()
    }
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::NAME,
            Column::text("Status", "Whether it got a volume."),
            Column::text("Volume", "Which."),
            Column::text("Capacity", "How much that holds."),
            Column::text("Access Modes", "How that can be mounted."),
            Column::text("StorageClass", "The class asked for."),
            Column::text("VolumeAttributesClass", "The class of attributes asked for."),
            Column::AGE,
            Column::text("VolumeMode", "A file system or a block device.").wide(),
        ];
        COLUMNS
    }
    fn row(&self, claim: &PersistentVolumeClaim, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let empty = PersistentVolumeClaimSpec::default();
        let spec = claim.spec.as_ref().unwrap_or(&empty);
        let status = claim.status.as_ref();
        let phase =
            if claim.metadata.deletion_timestamp.is_some() { Some("Terminating") } else { status.and_then(|status| status.phase.as_deref()) };
        let bound = spec.volume_name.as_deref().filter(|name| !name.is_empty());
        let capacity = bound.map(|_| cells::quantity(status.and_then(|status| status.capacity.as_ref()), "storage").unwrap_or_else(|| "0".to_owned()));
        let modes = bound.and_then(|_| status.and_then(|status| status.access_modes.as_ref()));
        vec![
            raw.name().into(),
            cells::text(phase),
            cells::text(bound),
            capacity.unwrap_or_default().into(),
            cells::access_modes(modes),
            cells::text(cells::storage_class(raw).or(spec.storage_class_name.as_deref())),
            cells::or_unset(spec.volume_attributes_class_name.as_deref()),
            cells::created(raw),
            cells::or_unset(spec.volume_mode.as_deref()),
        ]
    }
}
