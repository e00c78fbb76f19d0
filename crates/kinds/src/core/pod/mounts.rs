//! What is wrong with where a container sees volumes.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidateVolumeMounts`, `ValidateVolumeDevices`.

use std::collections::{HashMap, HashSet};

use api::core::v1::{Container, Volume, VolumeMount};
use meta::{FieldError, FieldPath};

use super::volumes::descending;
use crate::problems::filled;

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Problems of volumes that are seen as directories.
pub fn mounts(container: &Container, volumes: &HashMap<&str, &Volume>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let mut points = HashSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = path.index(index);
        let (name, point) = (mount.name.as_str(), mount.mount_path.as_str());
        filled(name, &at.child("name"), problems);
        if !volumes.contains_key(name) {
            problems.push(FieldError::not_found(&at.child("name"), name));
        }
        filled(point, &at.child("mountPath"), problems);
        if !points.insert(point) {
            problems.push(FieldError::invalid(&at.child("mountPath"), point, "must be unique"));
        }
        if devices.iter().any(|device| device.name == name) {
            problems.push(FieldError::invalid(&at.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| device.device_path == point) {
            problems.push(FieldError::invalid(&at.child("mountPath"), point, "must not already exist as a path in volumeDevices"));
        }
        // Upstream names the list and not the element in what follows.
        let below = text(&mount.sub_path);
        if !below.is_empty() {
            descending(below, &path.child("subPath"), problems);
        }
        let expression = text(&mount.sub_path_expr);
        if !expression.is_empty() {
            if !below.is_empty() {
                problems.push(FieldError::invalid(&at.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive"));
            }
            descending(expression, &path.child("subPathExpr"), problems);
        }
        propagation(mount, container, &path.child("mountPropagation"), problems);
        read_only(mount, &path.child("recursiveReadOnly"), problems);
    }
}

fn propagation(mount: &VolumeMount, container: &Container, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(mode) = mount.mount_propagation.as_deref() else { return };
    if !matches!(mode, "Bidirectional" | "HostToContainer" | "None") {
        problems.push(FieldError::not_supported(path, mode, &["Bidirectional", "HostToContainer", "None"]));
    }
    let privileged = container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
    if mode == "Bidirectional" && !privileged {
        problems.push(FieldError::forbidden(path, "Bidirectional mount propagation is available only to privileged containers"));
    }
}

fn read_only(mount: &VolumeMount, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                problems.push(FieldError::forbidden(path, "may only be specified when readOnly is true"));
            }
            if mount.mount_propagation.as_deref().is_some_and(|mode| mode != "None") {
                problems.push(FieldError::forbidden(path, "may only be specified when mountPropagation is None or not specified"));
            }
        }
        Some(other) => problems.push(FieldError::not_supported(path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

/// Problems of volumes that are seen as devices.
pub fn devices(container: &Container, volumes: &HashMap<&str, &Volume>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let (mut names, mut points) = (HashSet::new(), HashSet::new());
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let at = path.index(index);
        let (name, point) = (device.name.as_str(), device.device_path.as_str());
        filled(name, &at.child("name"), problems);
        if names.contains(name) {
            problems.push(FieldError::invalid(&at.child("name"), name, "must be unique"));
        }
        match volumes.get(name) {
            None => problems.push(FieldError::not_found(&at.child("name"), name)),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                problems.push(FieldError::invalid(&at.child("name"), name, detail));
            }
            Some(_) => {}
        }
        filled(point, &at.child("devicePath"), problems);
        if points.contains(point) {
            problems.push(FieldError::invalid(&at.child("devicePath"), point, "must be unique"));
        }
        if point.split('/').any(|part| part == "..") {
            problems.push(FieldError::invalid(&at.child("devicePath"), point, "can not contain backsteps ('..')"));
        } else {
            points.insert(point);
        }
        if mounts.iter().any(|mount| mount.name == name) {
            problems.push(FieldError::invalid(&at.child("name"), name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| mount.mount_path == point) {
            problems.push(FieldError::invalid(&at.child("devicePath"), point, "must not already exist as a path in volumeMounts"));
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
