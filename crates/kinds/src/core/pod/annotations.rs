//! What is wrong with the annotations that mean something of a pod, most of them older ways to say what has a field today.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidatePodSpecificAnnotations` and `ValidatePodSpecificAnnotationUpdates`.

use std::collections::BTreeMap;

use api::core::v1::{AppArmorProfile, Pod, PodSpec, SeccompProfile, SecurityContext, Toleration};
use meta::{FieldError, FieldPath};

use super::{MIRROR_ANNOTATION, validation, volumes};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

fn all(pod: &Pod) -> impl Iterator<Item = (&str, &str)> {
    pod.metadata.annotations.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Every container of a pod: where it stands, its name and its security context.
fn containers<'a>(spec: &'a PodSpec, path: &FieldPath) -> Vec<(FieldPath, &'a str, Option<&'a SecurityContext>)> {
    let mut found = Vec::new();
    for (list, containers) in [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &*spec.containers)] {
        found.extend(containers.iter().enumerate().map(|(index, one)| (path.child(list).index(index), one.name.as_str(), one.security_context.as_ref())));
    }
    let later = spec.ephemeral_containers.iter().flatten().enumerate();
    found.extend(later.map(|(index, one)| (path.child("ephemeralContainers").index(index), one.name.as_str(), one.security_context.as_ref())));
    found
}

/// Problems of the annotations themselves.
pub fn validate(pod: &Pod, spec: &PodSpec, problems: &mut Vec<FieldError>) {
    let path = FieldPath::new("metadata").child("annotations");
    for (key, value) in all(pod) {
        let at = path.key(key);
        if key == MIRROR_ANNOTATION && spec.node_name.as_deref().unwrap_or_default().is_empty() {
            problems.push(FieldError::invalid(&at, value, "must set spec.nodeName if mirror pod annotation is set"));
        } else if key == DELETION_COST && !is_deletion_cost(value) {
            problems.push(FieldError::invalid(&at, value, "must be a 32bit integer"));
        } else if key == TOLERATIONS && !value.is_empty() {
            match serde_json::from_str::<Vec<Toleration>>(value) {
                Ok(list) => problems.extend(validation::tolerations(&list, &path.child(TOLERATIONS))),
                Err(error) => problems.push(FieldError::invalid(&path, TOLERATIONS, error.to_string())),
            }
        } else if key == SECCOMP_OF_POD || key.starts_with(SECCOMP_OF_CONTAINER) {
            seccomp(value, &path.child(key), problems);
        } else if let Some(container) = key.strip_prefix(APP_ARMOR) {
            if !containers(spec, &path).iter().any(|(_, name, _)| *name == container) {
                problems.push(FieldError::invalid(&at, container, "container not found"));
            }
            if !matches!(value, "" | "runtime/default" | "unconfined") && !value.starts_with("localhost/") {
                problems.push(FieldError::invalid(&at, value, format!("invalid AppArmor profile name: {value:?}")));
            }
        }
    }
}

/// Without a sign in front of a positive number, and without zeros before it.
fn is_deletion_cost(text: &str) -> bool {
    let padded = text.trim_start_matches('-').starts_with('0') && text != "0";
    !text.starts_with('+') && !padded && text.parse::<i32>().is_ok()
}

fn seccomp(value: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match value.strip_prefix("localhost/") {
        Some(file) => volumes::descending(file, path, problems),
        None if matches!(value, "runtime/default" | "docker/default" | "unconfined") => {}
        None => problems.push(FieldError::invalid(path, value, "must be a valid seccomp profile")),
    }
}

/// What says the same twice must say it in the same way. A new pod only: what was stored before is left in peace.
pub fn validate_against_fields(pod: &Pod, spec: &PodSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let nothing = BTreeMap::new();
    let annotations = pod.metadata.annotations.as_ref().unwrap_or(&nothing);
    let of_pod = spec.security_context.as_ref();
    if let (Some(profile), Some(value)) = (of_pod.and_then(|context| context.seccomp_profile.as_ref()), annotations.get(SECCOMP_OF_POD)) {
        seccomp_agrees(value, profile, &path.child("securityContext").child("seccompProfile"), problems);
    }
    let windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    for (at, name, context) in containers(spec, path) {
        let at = at.child("securityContext");
        if let (Some(profile), Some(value)) =
            (context.and_then(|context| context.seccomp_profile.as_ref()), annotations.get(&format!("{SECCOMP_OF_CONTAINER}{name}")))
        {
            seccomp_agrees(value, profile, &at.child("seccompProfile"), problems);
        }
        let profile = context.and_then(|context| context.app_armor_profile.as_ref()).or_else(|| of_pod.and_then(|context| context.app_armor_profile.as_ref()));
        if let (Some(profile), Some(value), false) = (profile, annotations.get(&format!("{APP_ARMOR}{name}")), windows) {
            app_armor_agrees(value, profile, &at.child("appArmorProfile"), problems);
        }
    }
}

fn agrees(value: &str, kind: &str, file: Option<&str>, defaults: &[&str], what: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let same_kind = match kind {
        "Unconfined" => value == "unconfined",
        "RuntimeDefault" => defaults.contains(&value),
        "Localhost" => value.starts_with("localhost/"),
        _ => return,
    };
    if !same_kind {
        problems.push(FieldError::forbidden(&path.child("type"), format!("{what} type in annotation and field must match")));
    } else if kind == "Localhost" && value.strip_prefix("localhost/") != file {
        problems.push(FieldError::forbidden(&path.child("localhostProfile"), format!("{what} profile in annotation and field must match")));
    }
}

fn seccomp_agrees(value: &str, profile: &SeccompProfile, path: &FieldPath, problems: &mut Vec<FieldError>) {
    agrees(value, &profile.type_, profile.localhost_profile.as_deref(), &["runtime/default", "docker/default"], "seccomp", path, problems);
}

fn app_armor_agrees(value: &str, profile: &AppArmorProfile, path: &FieldPath, problems: &mut Vec<FieldError>) {
    agrees(value, &profile.type_, profile.localhost_profile.as_deref(), &["runtime/default"], "apparmor", path, problems);
}

/// Problems of a change: what decides how a pod is confined, and whose copy it is, stays.
pub fn validate_update(pod: &Pod, old: &Pod, problems: &mut Vec<FieldError>) {
    let path = FieldPath::new("metadata").child("annotations");
    let value_in = |pod: &Pod, key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let what = |key: &str| match key {
        MIRROR_ANNOTATION => Some("mirror pod annotation"),
        key if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, value) in all(old) {
        if let Some(what) = what(key).filter(|_| value_in(pod, key).as_deref() != Some(value)) {
            problems.push(FieldError::forbidden(&path.key(key), format!("may not remove or update {what}")));
        }
    }
    for (key, _) in all(pod) {
        if let Some(what) = what(key).filter(|_| value_in(old, key).is_none()) {
            problems.push(FieldError::forbidden(&path.key(key), format!("may not add {what}")));
        }
    }
}
