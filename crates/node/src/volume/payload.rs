//! The files of a volume made from objects of the API: which keys become which files, with which modes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod};

use crate::{
    objects::{Kind, Snapshot},
    pod::field_values::{NodeFacts, field_value, resource_value},
};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, root where none.
    pub owner: Option<u32>,
}

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, File>;

/// What a volume takes from one config map or secret.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Keys and their paths; all keys under their own names where none.
    pub items: Option<&'a [KeyToPath]>,
    /// Modes of files without one of their own.
    pub default_mode: u32,
    /// It may be missing, and so may its keys.
    pub optional: bool,
}

/// Permission bits out of the API's number.
#[must_use]
pub fn mode(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o7777
}

/// Adds the files of a config map or secret.
///
/// # Errors
/// It, or one of its keys, is missing and not optional; upstream's words.
pub fn add_object(payload: &mut Payload, objects: &Snapshot, selection: &Selection<'_>) -> Result<(), String> {
    let word = selection.kind.word();
    let content = match objects.content(selection.kind, selection.namespace, selection.name)? {
        Some(content) => content,
        None if selection.optional => return Ok(()),
        None => return Err(format!("{word} \"{}\" not found", selection.name)),
    };
    let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
        for (key, value) in &content.data {
            payload.insert(key.clone(), File { data: value.clone(), mode: selection.default_mode, owner: None });
        }
        return Ok(());
    };
    for item in items {
        let Some(value) = content.data.get(&item.key) else {
            if selection.optional {
                continue;
            }
            return Err(match selection.kind {
                Kind::ConfigMap => format!("configmap references non-existent config key: {}", item.key),
                Kind::Secret | Kind::TrustBundles | Kind::CertificateRequests => format!("references non-existent {word} key: {}", item.key),
            });
        };
        payload.insert(safe_path(&item.path)?, File { data: value.clone(), mode: mode(item.mode, selection.default_mode), owner: None });
    }
    Ok(())
}

/// Adds the files of the downward API.
///
/// # Errors
/// A field or resource that is not offered.
pub fn add_fields(payload: &mut Payload, pod: &Pod, items: &[DownwardAPIVolumeFile], default_mode: u32, facts: &NodeFacts) -> Result<(), String> {
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            field_value(pod, &field.field_path, facts).ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?
        } else if let Some(selector) = &item.resource_field_ref {
            resource_value(pod, None, selector, facts).ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?
        } else {
            continue;
        };
        payload.insert(safe_path(&item.path)?, File { data: value.into_bytes(), mode: mode(item.mode, default_mode), owner: None });
    }
    Ok(())
}

/// A path that stays inside the volume. The API server has checked it; this is the last gate before the file system.
///
/// # Errors
/// It is absolute, climbs out, or touches the names that atomic updates use.
pub fn safe_path(path: &str) -> Result<String, String> {
    let bad = path.is_empty() || path.starts_with('/') || path.starts_with("..") || path.split('/').any(|part| part == ".." || part.is_empty());
    if bad { Err(format!("invalid path: {path:?}")) } else { Ok(path.to_owned()) }
}
