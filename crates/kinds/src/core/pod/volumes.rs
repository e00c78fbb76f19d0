//! What is wrong with a pod's volumes.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidateVolumes`.

use std::collections::HashSet;

use api::core::v1::{KeyToPath, Volume};
use meta::{FieldError, FieldPath, validation as rules};

use crate::problems::{filled, one_of};

/// Names of the volumes, and their problems.
pub fn validate<'a>(volumes: &'a [Volume], path: &FieldPath) -> (HashSet<&'a str>, Vec<FieldError>) {
    let mut names = HashSet::new();
    let mut problems = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let at = path.index(index);
        source(volume, &at, &mut problems);
        if volume.name.is_empty() {
            problems.push(FieldError::required(&at.child("name"), ""));
        } else {
            problems.extend(rules::invalid_each(&at.child("name"), &volume.name, rules::dns1123_label_problems(&volume.name)));
            if !names.insert(volume.name.as_str()) {
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

fn no_backsteps(text: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if text.split('/').any(|part| part == "..") {
        problems.push(FieldError::invalid(path, text, "must not contain '..'"));
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
        if !item.path.is_empty() {
            descending(&item.path, &at.child("path"), problems);
        }
        mode(item.mode, &at.child("mode"), problems);
    }
}

fn source(volume: &Volume, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let sources = serde_json::to_value(volume).ok().and_then(|value| value.as_object().map(|map| map.len())).unwrap_or(2);
    match sources {
        0 | 1 => problems.push(FieldError::required(path, "must specify a volume type")),
        2 => {}
        _ => problems.push(FieldError::forbidden(path, "may not specify more than 1 volume type")),
    }
    if let Some(host) = &volume.host_path {
        let at = path.child("hostPath");
        filled(&host.path, &at.child("path"), problems);
        no_backsteps(&host.path, &at.child("path"), problems);
        let kinds = ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
        one_of(host.type_.as_deref().unwrap_or_default(), &kinds, &at.child("type"), problems);
    }
    if let Some(secret) = &volume.secret {
        let at = path.child("secret");
        filled(secret.secret_name.as_deref().unwrap_or_default(), &at.child("secretName"), problems);
        mode(secret.default_mode, &at.child("defaultMode"), problems);
        items(secret.items.as_ref(), &at, problems);
    }
    if let Some(map) = &volume.config_map {
        let at = path.child("configMap");
        filled(&map.name, &at.child("name"), problems);
        mode(map.default_mode, &at.child("defaultMode"), problems);
        items(map.items.as_ref(), &at, problems);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        filled(&claim.claim_name, &path.child("persistentVolumeClaim").child("claimName"), problems);
    }
    if let Some(nfs) = &volume.nfs {
        let at = path.child("nfs");
        filled(&nfs.server, &at.child("server"), problems);
        filled(&nfs.path, &at.child("path"), problems);
        if !nfs.path.is_empty() && !nfs.path.starts_with('/') {
            problems.push(FieldError::invalid(&at.child("path"), nfs.path.as_str(), "must be an absolute path"));
        }
    }
    if let Some(csi) = &volume.csi {
        filled(&csi.driver, &path.child("csi").child("driver"), problems);
    }
    if let Some(downward) = &volume.downward_api {
        mode(downward.default_mode, &path.child("downwardAPI").child("defaultMode"), problems);
        for (index, item) in downward.items.iter().flatten().enumerate() {
            downward_item(item, &path.child("downwardAPI").index(index), problems);
        }
    }
    if let Some(projected) = &volume.projected {
        let at = path.child("projected");
        mode(projected.default_mode, &at.child("defaultMode"), problems);
        for (index, one) in projected.sources.iter().flatten().enumerate() {
            let at = at.child("sources").index(index);
            if let Some(token) = &one.service_account_token {
                let at = at.child("serviceAccountToken");
                let seconds = token.expiration_seconds.unwrap_or(3600);
                if seconds < 600 {
                    problems.push(FieldError::invalid(&at.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"));
                } else if seconds > 1 << 32 {
                    problems.push(FieldError::invalid(&at.child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"));
                }
                filled(&token.path, &at.child("path"), problems);
                descending(&token.path, &at.child("path"), problems);
            }
            if let Some(secret) = &one.secret {
                filled(&secret.name, &at.child("secret").child("name"), problems);
                items(secret.items.as_ref(), &at.child("secret"), problems);
            }
            if let Some(map) = &one.config_map {
                filled(&map.name, &at.child("configMap").child("name"), problems);
                items(map.items.as_ref(), &at.child("configMap"), problems);
            }
            for (position, item) in one.downward_api.iter().flat_map(|api| api.items.iter().flatten()).enumerate() {
                downward_item(item, &at.child("downwardAPI").index(position), problems);
            }
        }
    }
}

const FILE_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn downward_item(item: &api::core::v1::DownwardAPIVolumeFile, path: &FieldPath, problems: &mut Vec<FieldError>) {
    filled(&item.path, &path.child("path"), problems);
    descending(&item.path, &path.child("path"), problems);
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(_), Some(_)) => problems.push(FieldError::invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")),
        (None, None) => problems.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required")),
        (Some(field), None) => super::validation::field_path(&field.field_path, &path.child("fieldRef").child("fieldPath"), FILE_FIELDS, problems),
        (None, Some(resource)) => filled(&resource.container_name.clone().unwrap_or_default(), &path.child("resourceFieldRef").child("containerName"), problems),
    }
    mode(item.mode, &path.child("mode"), problems);
}
