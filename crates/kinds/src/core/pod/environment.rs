//! What is wrong with the environment variables of a container, and with the paths into a pod that they may be taken from.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidateEnv`, `ValidateEnvFrom`.

use api::core::v1::{Container, EnvVar, FileKeySelector, ObjectFieldSelector, PodSpec, ResourceFieldSelector};
use meta::{FieldError, FieldPath, quantity::Quantity, validation as rules};

use crate::problems::filled;

/// Problems of single variables and of sources of many.
pub fn variables(container: &Container, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let at = path.child("env").index(index);
        if variable.name.is_empty() {
            problems.push(FieldError::required(&at.child("name"), ""));
        } else {
            problems.extend(rules::invalid_each(&at.child("name"), &variable.name, rules::relaxed_environment_name_problems(&variable.name)));
        }
        value_from(variable, &at.child("valueFrom"), problems);
    }
    let list = path.child("envFrom");
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let at = list.index(index);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            problems.extend(rules::invalid_each(&at.child("prefix"), prefix, rules::relaxed_environment_name_problems(prefix)));
        }
        let names = [("configMapRef", source.config_map_ref.as_ref().map(|map| &map.name)), ("secretRef", source.secret_ref.as_ref().map(|secret| &secret.name))];
        let given: Vec<_> = names.iter().filter_map(|(field, name)| name.map(|name| (field, name))).collect();
        for (field, name) in &given {
            let at = at.child(field).child("name");
            filled(name, &at, problems);
            if !name.is_empty() {
                problems.extend(rules::invalid_each(&at, name, rules::NameRule::Dns1123Subdomain.problems(name, true)));
            }
        }
        match given.len() {
            0 => problems.push(FieldError::invalid(&list, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => problems.push(FieldError::invalid(&list, "", "may not have more than one field specified at a time")),
        }
    }
}

fn value_from(variable: &EnvVar, from: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(source) = &variable.value_from else { return };
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        field_selector(field, FIELDS, &from.child("fieldRef"), problems);
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        resource_selector(resource, false, &from.child("resourceFieldRef"), problems);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        key_reference(&key.name, &key.key, &from.child("configMapKeyRef"), problems);
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        key_reference(&key.name, &key.key, &from.child("secretKeyRef"), problems);
    }
    if let Some(key) = &source.file_key_ref {
        sources += 1;
        file_key(key, &from.child("fileKeyRef"), problems);
    }
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        problems.push(FieldError::invalid(from, "", detail));
    } else if variable.value.as_deref().is_some_and(|value| !value.is_empty()) {
        problems.push(FieldError::invalid(from, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        problems.push(FieldError::invalid(from, "", "may not have more than one field specified at a time"));
    }
}

/// Source: Kubernetes `pkg/apis/core/validation/validation.go` since 1.34, `validateFileKeySelector`.
fn file_key(selector: &FileKeySelector, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let (volume, file, key) = (selector.volume_name.as_str(), selector.path.as_str(), selector.key.as_str());
    if key.is_empty() {
        problems.push(FieldError::required(&path.child("key"), ""));
    } else {
        problems.extend(rules::invalid_each(&path.child("key"), key, rules::relaxed_environment_name_problems(key)));
    }
    if volume.is_empty() {
        problems.push(FieldError::required(&path.child("volumeName"), ""));
    } else {
        problems.extend(rules::invalid_each(&path.child("volumeName"), volume, rules::dns1123_label_problems(volume)));
    }
    if file.is_empty() {
        problems.push(FieldError::required(&path.child("path"), ""));
    } else {
        super::volumes::not_reserved(file, &path.child("path"), problems);
    }
}

/// Files are read out of volumes that begin and end with their pod. Source: as above, `validateFileKeyRefVolumes`.
pub fn volumes_of_files(spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    for (list, containers) in [("containers", &*spec.containers), ("initContainers", spec.init_containers.as_deref().unwrap_or_default())] {
        for (index, container) in containers.iter().enumerate() {
            for (position, variable) in container.env.iter().flatten().enumerate() {
                let Some(name) = variable.value_from.as_ref().and_then(|from| from.file_key_ref.as_ref()).map(|key| key.volume_name.as_str()) else { continue };
                if name.is_empty() {
                    continue;
                }
                let at = path.child(list).index(index).child("env").index(position).child("valueFrom").child("fileKeyRef").child("volumeName");
                match volumes.iter().find(|volume| volume.name == name) {
                    None => problems.push(FieldError::not_found(&at, name)),
                    Some(volume) if volume.empty_dir.is_none() => {
                        problems.push(FieldError::invalid(&at, name, "referenced volume must be of type emptyDir"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

fn key_reference(name: &str, key: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    problems.extend(rules::invalid_each(&path.child("name"), name, rules::dns1123_subdomain_problems(name)));
    if key.is_empty() {
        problems.push(FieldError::required(&path.child("key"), ""));
    } else {
        problems.extend(rules::invalid_each(&path.child("key"), key, rules::config_map_key_problems(key)));
    }
}

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// All paths that a pod's fields can be named by, wherever.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "spec.hostNetwork",
    "spec.hostname",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];

/// A field of the pod, among `supported` or a single label or annotation.
pub fn field_selector(selector: &ObjectFieldSelector, supported: &[&str], path: &FieldPath, problems: &mut Vec<FieldError>) {
    let (version, text) = (selector.api_version.as_deref().unwrap_or_default(), selector.field_path.as_str());
    let at = path.child("fieldPath");
    if version.is_empty() {
        problems.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    if text.is_empty() {
        problems.push(FieldError::required(&at, ""));
        return;
    }
    let subscript = text.strip_suffix("']").and_then(|text| text.split_once("['"));
    let name = subscript.map_or(text, |(name, _)| name);
    if version != "v1" {
        problems.push(FieldError::invalid(&at, text, format!("error converting fieldPath: unsupported pod version: {version}")));
    } else if !KNOWN_FIELDS.contains(&name) {
        problems.push(FieldError::invalid(&at, text, format!("error converting fieldPath: field label not supported: {text}")));
    } else if let Some((name, key)) = subscript {
        match name {
            "metadata.annotations" => problems.extend(rules::invalid_each(path, &key.to_lowercase(), rules::qualified_name_problems(&key.to_lowercase()))),
            "metadata.labels" => problems.extend(rules::invalid_each(path, key, rules::qualified_name_problems(key))),
            other => problems.push(FieldError::invalid(path, other, "does not support subscript")),
        }
    } else if !supported.contains(&text) {
        problems.push(FieldError::not_supported(&at, text, supported));
    }
}

const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

/// What a container may use or asks for; `in_volume` must say of which container.
pub fn resource_selector(selector: &ResourceFieldSelector, in_volume: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let name = selector.resource.as_str();
    let huge = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if in_volume && selector.container_name.as_deref().unwrap_or_default().is_empty() {
        problems.push(FieldError::required(&path.child("containerName"), ""));
    } else if name.is_empty() {
        problems.push(FieldError::required(&path.child("resource"), ""));
    } else if !huge && !RESOURCES.contains(&name) {
        problems.push(FieldError::not_supported(&path.child("resource"), name, RESOURCES));
    }
    let Some(divisor) = selector.divisor.as_ref().and_then(|text| Quantity::parse(&text.0).ok()).filter(|divisor| !divisor.is_zero()) else { return };
    let divisor = divisor.to_string();
    const SIZES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let what = match name.split_once('.').map(|(_, resource)| resource) {
        Some("cpu") if !matches!(divisor.as_str(), "1m" | "1") => {
            problems.push(FieldError::invalid(&path.child("divisor"), name, "only divisor's values 1m and 1 are supported with the cpu resource"));
            return;
        }
        Some("memory") => "memory",
        Some("ephemeral-storage") => "local ephemeral storage",
        _ if huge => "hugepages",
        _ => return,
    };
    if !SIZES.contains(&divisor.as_str()) {
        let detail = format!("only divisor's values {} are supported with the {what} resource", SIZES.join(", "));
        problems.push(FieldError::invalid(&path.child("divisor"), name, detail));
    }
}
