//! What is wrong with a pod's volumes, and with the sources that persistent volumes have as well.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidateVolumes`.

use std::collections::{BTreeSet, HashMap};

use api::core::v1::{DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume};
use meta::{FieldError, FieldPath, quantity::Quantity, validation as rules};
use serde_json::Value;

use super::environment;
use crate::problems::{filled, label_selector, one_of};

/// Volumes by name, and their problems. `pod_name` is empty for templates.
pub fn validate<'a>(volumes: &'a [Volume], pod_name: &str, path: &FieldPath) -> (HashMap<&'a str, &'a Volume>, Vec<FieldError>) {
    let mut names = HashMap::new();
    let mut problems = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let at = path.index(index);
        source(volume, pod_name, &at, &mut problems);
        if volume.name.is_empty() {
            problems.push(FieldError::required(&at.child("name"), ""));
        } else {
            problems.extend(rules::invalid_each(&at.child("name"), &volume.name, rules::dns1123_label_problems(&volume.name)));
            if names.insert(volume.name.as_str(), volume).is_some() {
                problems.push(FieldError::duplicate(&at.child("name"), volume.name.as_str()));
            }
        }
    }
    (names, problems)
}

/// A path that stays below where it starts.
pub fn descending(text: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if text.starts_with('/') {
        problems.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    no_backsteps(text, path, problems);
}

/// A path without steps back.
pub fn no_backsteps(text: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if text.split('/').any(|part| part == "..") {
        problems.push(FieldError::invalid(path, text, "must not contain '..'"));
    }
}

/// A path below a volume that is no name of the kubelet's own, which begin with two dots.
pub fn not_reserved(text: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    descending(text, path, problems);
    if text.starts_with("..") && text != ".." && !text.starts_with("../") {
        problems.push(FieldError::invalid(path, text, "must not start with '..'"));
    }
}

fn mode(value: Option<i32>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(value) = value.filter(|value| !(0..=0o777).contains(value)) {
        problems.push(FieldError::invalid(path, value, "must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

fn items(items: Option<&Vec<KeyToPath>>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, item) in items.into_iter().flatten().enumerate() {
        let at = path.child("items").index(index);
        filled(&item.key, &at.child("key"), problems);
        filled(&item.path, &at.child("path"), problems);
        not_reserved(&item.path, &at.child("path"), problems);
        mode(item.mode, &at.child("mode"), problems);
    }
}

/// Every kind of source in the order in which upstream looks at them: the first counts, the others are too many.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn source(volume: &Volume, pod_name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let tree = serde_json::to_value(volume).unwrap_or_default();
    let mut given = SOURCES.iter().filter(|name| tree.get(**name).is_some_and(|source| !source.is_null()));
    let Some(name) = given.next() else {
        problems.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    let at = path.child(name);
    match *name {
        "emptyDir" => {
            let limit = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()).and_then(|text| Quantity::parse(&text.0).ok());
            if limit.is_some_and(|limit| limit.signum() < 0) {
                problems.push(FieldError::forbidden(&at.child("sizeLimit"), "SizeLimit field must be a valid resource quantity"));
            }
        }
        "ephemeral" => ephemeral(volume, pod_name, path, problems),
        _ => typed(volume, &at, problems),
    }
    drivers(name, &tree[*name], false, &at, problems);
    for name in given {
        // Two of them are misspelt upstream.
        let shown = match *name {
            "cephfs" => "cephFS",
            "downwardAPI" => "downwarAPI",
            name => name,
        };
        problems.push(FieldError::forbidden(&path.child(shown), "may not specify more than 1 volume type"));
    }
}

fn ephemeral(volume: &Volume, pod_name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let at = path.child("ephemeral").child("volumeClaimTemplate");
    match volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) {
        None => problems.push(FieldError::required(&at, "")),
        Some(template) => {
            if let Some(metadata) = &template.metadata {
                problems.extend(crate::problems::labels(metadata.labels.as_ref(), &at.child("metadata").child("labels")));
                let set = [("name", metadata.name.is_some()), ("namespace", metadata.namespace.is_some()), ("generateName", metadata.generate_name.is_some())];
                for (field, _) in set.into_iter().filter(|(_, set)| *set) {
                    problems.push(FieldError::forbidden(&at.child("metadata").child(field), "cannot be set"));
                }
            }
            problems.extend(crate::core::persistent_volume_claim::validate_spec(&template.spec, &at.child("spec")));
        }
    }
    if !pod_name.is_empty() && !volume.name.is_empty() {
        let claim = format!("{pod_name}-{}", volume.name);
        for problem in rules::dns1123_subdomain_problems(&claim) {
            problems.push(FieldError::invalid(&path.child("name"), volume.name.as_str(), format!("PVC name {claim:?}: {problem}")));
        }
    }
}

/// Sources that have files in them.
fn typed(volume: &Volume, at: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(secret) = &volume.secret {
        filled(secret.secret_name.as_deref().unwrap_or_default(), &at.child("secretName"), problems);
        mode(secret.default_mode, &at.child("defaultMode"), problems);
        items(secret.items.as_ref(), at, problems);
    }
    if let Some(map) = &volume.config_map {
        filled(&map.name, &at.child("name"), problems);
        mode(map.default_mode, &at.child("defaultMode"), problems);
        items(map.items.as_ref(), at, problems);
    }
    if let Some(downward) = &volume.downward_api {
        mode(downward.default_mode, &at.child("defaultMode"), problems);
        // Upstream does not say which of the files.
        for item in downward.items.iter().flatten() {
            downward_item(item, at, problems);
        }
    }
    if let Some(projected) = &volume.projected {
        projection(projected, at, problems);
    }
    if let Some(image) = &volume.image {
        filled(image.reference.as_deref().unwrap_or_default(), &at.child("reference"), problems);
        one_of(image.pull_policy.as_deref().unwrap_or_default(), &["Always", "IfNotPresent", "Never"], &at.child("pullPolicy"), problems);
    }
}

fn projection(projected: &ProjectedVolumeSource, at: &FieldPath, problems: &mut Vec<FieldError>) {
    mode(projected.default_mode, &at.child("defaultMode"), problems);
    let mut paths = BTreeSet::new();
    let mut taken = |file: &str, shown: &str, problems: &mut Vec<FieldError>| {
        if !file.is_empty() && !paths.insert(file.to_owned()) {
            problems.push(FieldError::invalid(at, shown, "conflicting duplicate paths"));
        }
    };
    for (index, one) in projected.sources.iter().flatten().enumerate() {
        let here = at.child("sources").index(index);
        let mut sources = 0;
        for (field, source) in [
            ("secret", one.secret.as_ref().map(|secret| (&secret.name, &secret.items))),
            ("configMap", one.config_map.as_ref().map(|map| (&map.name, &map.items))),
        ] {
            let Some((name, keys)) = source else { continue };
            sources += 1;
            filled(name, &here.child(field).child("name"), problems);
            items(keys.as_ref(), &here.child(field), problems);
            for item in keys.iter().flatten() {
                taken(&item.path, name, problems);
            }
        }
        if let Some(downward) = &one.downward_api {
            sources += 1;
            for item in downward.items.iter().flatten() {
                downward_item(item, &here.child("downwardAPI"), problems);
                taken(&item.path, &item.path, problems);
            }
        }
        if let Some(token) = &one.service_account_token {
            sources += 1;
            let expiration = here.child("serviceAccountToken").child("expirationSeconds");
            let seconds = token.expiration_seconds.unwrap_or(3600);
            if seconds < 600 {
                problems.push(FieldError::invalid(&expiration, seconds, "may not specify a duration less than 10 minutes"));
            } else if seconds > 1 << 32 {
                problems.push(FieldError::invalid(&expiration, seconds, "may not specify a duration larger than 2^32 seconds"));
            }
            filled(&token.path, &at.child("path"), problems);
            not_reserved(&token.path, &at.child("path"), problems);
        }
        if let Some(bundle) = &one.cluster_trust_bundle {
            sources += 1;
            trust_bundle(bundle, &here.child("clusterTrustBundle"), problems);
            taken(&bundle.path, &bundle.path, problems);
        }
        if sources > 1 {
            problems.push(FieldError::forbidden(&here, "may not specify more than 1 volume type per source"));
        }
    }
}

fn trust_bundle(bundle: &api::core::v1::ClusterTrustBundleProjection, at: &FieldPath, problems: &mut Vec<FieldError>) {
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => {
            let shown = serde_json::to_value(bundle).unwrap_or_default();
            problems.push(FieldError::invalid(at, shown, "only one of name and signerName may be used"));
        }
        (Some(name), None) => {
            if name.is_empty() {
                problems.push(FieldError::required(&at.child("name"), "must be a valid object name"));
            }
            if let Some(selector) = &bundle.label_selector {
                let shown = serde_json::to_value(selector).unwrap_or_default();
                problems.push(FieldError::invalid(&at.child("labelSelector"), shown, "labelSelector must be unset if name is specified"));
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                problems.push(FieldError::required(&at.child("signerName"), "must be a valid signer name"));
            }
            if let Some(selector) = &bundle.label_selector {
                problems.extend(label_selector(selector, &at.child("labelSelector")));
            }
        }
        (None, None) => problems.push(FieldError::required(at, "either name or signerName must be specified")),
    }
    filled(&bundle.path, &at.child("path"), problems);
    not_reserved(&bundle.path, &at.child("path"), problems);
}

const FILE_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn downward_item(item: &DownwardAPIVolumeFile, path: &FieldPath, problems: &mut Vec<FieldError>) {
    filled(&item.path, &path.child("path"), problems);
    not_reserved(&item.path, &path.child("path"), problems);
    if let Some(field) = &item.field_ref {
        environment::field_selector(field, FILE_FIELDS, &path.child("fieldRef"), problems);
        if item.resource_field_ref.is_some() {
            problems.push(FieldError::invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"));
        }
    } else if let Some(resource) = &item.resource_field_ref {
        environment::resource_selector(resource, true, &path.child("resourceFieldRef"), problems);
    } else {
        problems.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
    }
    mode(item.mode, &path.child("mode"), problems);
}

fn text<'a>(source: &'a Value, field: &str) -> &'a str {
    source.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Texts that a source must have.
fn needed(kind: &str) -> &'static [&'static str] {
    match kind {
        "hostPath" | "local" => &["path"],
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => &["volumeID"],
        "nfs" => &["server", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "glusterfs" => &["endpoints", "path"],
        "persistentVolumeClaim" => &["claimName"],
        "rbd" => &["image"],
        "quobyte" => &["volume"],
        "flexVolume" | "csi" => &["driver"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "azureDisk" => &["diskName", "diskURI"],
        "storageos" => &["volumeName"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        _ => &[],
    }
}

/// Problems of the sources that say where a volume lies, of pods and of persistent volumes; the latter name secrets with their namespace.
pub fn drivers(kind: &str, source: &Value, persistent: bool, at: &FieldPath, problems: &mut Vec<FieldError>) {
    for field in needed(kind) {
        filled(text(source, field), &at.child(field), problems);
    }
    match kind {
        "hostPath" if !text(source, "path").is_empty() => {
            no_backsteps(text(source, "path"), &at.child("path"), problems);
            let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
            if !kinds.contains(&text(source, "type")) {
                problems.push(FieldError::not_supported(&at.child("type"), text(source, "type"), &kinds));
            }
        }
        "local" => no_backsteps(text(source, "path"), &at.child("path"), problems),
        "gitRepo" => descending(text(source, "directory"), &at.child("directory"), problems),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = source.get("partition").and_then(Value::as_i64).unwrap_or_default();
            if !(0..=255).contains(&partition) {
                problems.push(FieldError::invalid(&at.child("partition"), partition, rules::inclusive_range(1, 255)));
            }
        }
        "nfs" if !text(source, "path").starts_with('/') => {
            problems.push(FieldError::invalid(&at.child("path"), text(source, "path"), "must be an absolute path"));
        }
        "iscsi" => iscsi(source, persistent, at, problems),
        "rbd" | "cephfs" if source.get("monitors").and_then(Value::as_array).is_none_or(Vec::is_empty) => {
            problems.push(FieldError::required(&at.child("monitors"), ""));
        }
        "flocker" => flocker(source, at, problems),
        "quobyte" => quobyte(source, at, problems),
        "fc" => fibre_channel(source, at, problems),
        "flexVolume" => flexible(source, at, problems),
        "azureDisk" => azure_disk(source, at, problems),
        "csi" => {
            let driver = text(source, "driver");
            if !driver.is_empty() {
                problems.extend(rules::invalid_each(&at.child("driver"), driver, rules::dns1123_subdomain_problems(&driver.to_lowercase())));
            }
            if driver.len() > 63 {
                problems.push(FieldError::too_long(&at.child("driver"), 63));
            }
            interface(source, persistent, at, problems);
        }
        "cinder" | "storageos" => {
            if let Some(secret) = source.get("secretRef") {
                let fields: &[&str] = if persistent { &["name", "namespace"] } else { &["name"] };
                for field in fields {
                    filled(text(secret, field), &at.child("secretRef").child(field), problems);
                }
            }
        }
        _ => {}
    }
}

fn interface(source: &Value, persistent: bool, at: &FieldPath, problems: &mut Vec<FieldError>) {
    if !persistent {
        if let Some(secret) = source.get("nodePublishSecretRef") {
            filled(text(secret, "name"), &at.child("nodePublishSecretRef").child("name"), problems);
        }
        return;
    }
    filled(text(source, "volumeHandle"), &at.child("volumeHandle"), problems);
    for field in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
        let Some(secret) = source.get(field) else { continue };
        let checks: [(&str, fn(&str) -> Vec<String>); 2] = [("name", rules::dns1123_subdomain_problems), ("namespace", rules::dns1123_label_problems)];
        for (name, check) in checks {
            let (value, at) = (text(secret, name), at.child(field).child(name));
            filled(value, &at, problems);
            if !value.is_empty() {
                problems.extend(rules::invalid_each(&at, value, check(value)));
            }
        }
    }
}

fn iscsi(source: &Value, persistent: bool, at: &FieldPath, problems: &mut Vec<FieldError>) {
    let known = |name: &str| ["iqn", "eui", "naa"].iter().any(|prefix| name.starts_with(prefix));
    let is_valid = |name: &str| {
        let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match name.get(..4) {
            Some("eui.") => digits(&name[4..], 16),
            Some("naa.") => digits(&name[4..], 32),
            Some("iqn.") => {
                let date = name[4..].as_bytes();
                date.len() > 8 && date[..4].iter().all(u8::is_ascii_digit) && date[4] == b'-' && date[5..7].iter().all(u8::is_ascii_digit) && date[7] == b'.' && name.contains(':')
            }
            _ => false,
        }
    };
    let prefix = if persistent { "must be valid format" } else { "must be valid format starting with iqn, eui, or naa" };
    for (field, shown) in [("iqn", "iqn"), ("initiatorName", "initiatorname")] {
        let name = text(source, field);
        if name.is_empty() {
            continue;
        }
        if !known(name) {
            problems.push(FieldError::invalid(&at.child(shown), name, prefix));
        } else if !is_valid(name) {
            problems.push(FieldError::invalid(&at.child(shown), name, "must be valid format"));
        }
    }
    let unit = source.get("lun").and_then(Value::as_i64).unwrap_or_default();
    if !(0..=255).contains(&unit) {
        problems.push(FieldError::invalid(&at.child("lun"), unit, rules::inclusive_range(0, 255)));
    }
    let authenticates = ["chapAuthDiscovery", "chapAuthSession"].iter().any(|field| source.get(*field).and_then(Value::as_bool) == Some(true));
    if authenticates && source.get("secretRef").is_none() {
        problems.push(FieldError::required(&at.child("secretRef"), ""));
    }
}

fn flocker(source: &Value, at: &FieldPath, problems: &mut Vec<FieldError>) {
    let name = text(source, "datasetName");
    match (name.is_empty(), text(source, "datasetUUID").is_empty()) {
        (true, true) => problems.push(FieldError::required(at, "one of datasetName and datasetUUID is required")),
        (false, false) => problems.push(FieldError::invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")),
        _ => {}
    }
    if name.contains('/') {
        problems.push(FieldError::invalid(&at.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(source: &Value, at: &FieldPath, problems: &mut Vec<FieldError>) {
    const DETAIL: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(source, "registry");
    if registry.is_empty() {
        problems.push(FieldError::required(&at.child("registry"), DETAIL));
    } else if text(source, "tenant").len() >= 65 {
        problems.push(FieldError::required(&at.child("tenant"), "must be a UUID and may not exceed a length of 64 characters"));
    } else {
        for _ in registry.split(',').filter(|pair| !pair.contains(':')) {
            problems.push(FieldError::invalid(&at.child("registry"), registry, DETAIL));
        }
    }
}

fn fibre_channel(source: &Value, at: &FieldPath, problems: &mut Vec<FieldError>) {
    let list = |field: &str| source.get(field).and_then(Value::as_array).filter(|list| !list.is_empty());
    match (list("targetWWNs"), list("wwids")) {
        (None, None) => problems.push(FieldError::required(&at.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")),
        (Some(names), Some(_)) => {
            problems.push(FieldError::invalid(&at.child("targetWWNs"), names.clone(), "targetWWNs and wwids can not be specified simultaneously"));
        }
        _ => {}
    }
    if list("targetWWNs").is_some() {
        match source.get("lun").and_then(Value::as_i64) {
            None => problems.push(FieldError::required(&at.child("lun"), "lun is required if targetWWNs is specified")),
            Some(unit) if !(0..=255).contains(&unit) => problems.push(FieldError::invalid(&at.child("lun"), unit, rules::inclusive_range(0, 255))),
            Some(_) => {}
        }
    }
}

fn flexible(source: &Value, at: &FieldPath, problems: &mut Vec<FieldError>) {
    for key in source.get("options").and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key) {
        let namespace = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            problems.push(FieldError::invalid(&at.child("options").key(key), key.as_str(), "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
}

fn azure_disk(source: &Value, at: &FieldPath, problems: &mut Vec<FieldError>) {
    for (field, known) in [("cachingMode", ["None", "ReadOnly", "ReadWrite"]), ("kind", ["Dedicated", "Managed", "Shared"])] {
        let value = text(source, field);
        if source.get(field).is_some() && !known.contains(&value) {
            problems.push(FieldError::not_supported(&at.child(field), value, &known));
        }
    }
    let place = text(source, "diskURI");
    match source.get("kind").and_then(Value::as_str) {
        Some("Managed") if !place.starts_with("/subscriptions/") => problems.push(FieldError::not_supported(
            &at.child("diskURI"),
            place,
            &["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"],
        )),
        Some(kind) if kind != "Managed" && !place.starts_with("https://") => problems.push(FieldError::not_supported(
            &at.child("diskURI"),
            place,
            &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"],
        )),
        _ => {}
    }
}
