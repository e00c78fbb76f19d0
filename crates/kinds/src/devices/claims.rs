//! What is wrong with what a claim asks for.
//!
//! Source: Kubernetes `pkg/apis/resource/validation/validation.go`, `validateDeviceClaim`.

use meta::{FieldError, FieldPath, validation as rules};
use serde_json::Value;

use super::parts::{RequestNames, configuration, duplicates, filled_label, fully_qualified, list, selectors, text, tolerations, too_many};
use crate::problems::one_of;

const MOST_REQUESTS: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_CONSTRAINTS: usize = 32;
/// Configurations of a claim, and of a class.
pub const MOST_CONFIGURATIONS: usize = 32;

/// Problems of what a claim asks for.
pub fn validate(spec: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let devices = spec.get("devices").unwrap_or(&Value::Null);
    let path = path.child("devices");
    let names = RequestNames::of(devices);
    requests(devices, &path.child("requests"), problems);
    let (at, constraints) = (path.child("constraints"), list(devices, "constraints"));
    if !too_many(constraints.len(), MOST_CONSTRAINTS, &at, problems) {
        for (index, one) in constraints.iter().enumerate() {
            constraint(one, &names, &at.index(index), problems);
        }
    }
    let (at, configurations) = (path.child("config"), list(devices, "config"));
    if !too_many(configurations.len(), MOST_CONFIGURATIONS, &at, problems) {
        for (index, one) in configurations.iter().enumerate() {
            names.references(one, &at.index(index), problems);
            configuration(one, &at.index(index), problems);
        }
    }
}

fn requests(devices: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let all = list(devices, "requests");
    if too_many(all.len(), MOST_REQUESTS, path, problems) {
        return;
    }
    for (index, request) in all.iter().enumerate() {
        let at = path.index(index);
        filled_label(text(request, "name"), &at.child("name"), problems);
        let alternatives = list(request, "firstAvailable");
        match (request.get("exactly").filter(|exactly| exactly.is_object()), alternatives.is_empty()) {
            (None, true) => problems.push(FieldError::required(&at, "exactly one of `exactly` or `firstAvailable` is required")),
            (Some(_), false) => {
                let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                problems.push(FieldError::invalid(&at, Value::Null, detail));
            }
            (Some(exactly), true) => exact(exactly, &at.child("exactly"), problems),
            (None, false) => {
                let at = at.child("firstAvailable");
                if too_many(alternatives.len(), MOST_ALTERNATIVES, &at, problems) {
                    continue;
                }
                for (position, alternative) in alternatives.iter().enumerate() {
                    filled_label(text(alternative, "name"), &at.index(position).child("name"), problems);
                    exact(alternative, &at.index(position), problems);
                }
                duplicates(alternatives.iter().map(|one| text(one, "name")), &at, problems);
            }
        }
    }
    duplicates(all.iter().map(|request| text(request, "name")), path, problems);
}

fn exact(request: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let (at, class) = (path.child("deviceClassName"), text(request, "deviceClassName"));
    if class.is_empty() {
        problems.push(FieldError::required(&at, ""));
    } else {
        problems.extend(rules::invalid_each(&at, class, rules::dns1123_subdomain_problems(class)));
    }
    selectors(request, path, problems);
    let (mode, count) = (text(request, "allocationMode"), request.get("count").and_then(Value::as_i64).unwrap_or_default());
    match mode {
        "ExactCount" if count <= 0 => problems.push(FieldError::invalid(&path.child("count"), count, "must be greater than zero")),
        "All" if count != 0 => {
            problems.push(FieldError::invalid(&path.child("count"), count, "must not be specified when allocationMode is 'All'"));
        }
        "ExactCount" | "All" => {}
        other => one_of(other, &["All", "ExactCount"], &path.child("allocationMode"), problems),
    }
    tolerations(request, path, problems);
}

fn constraint(one: &Value, names: &RequestNames<'_>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    names.references(one, path, problems);
    let given = |field: &str| one.get(field).and_then(Value::as_str);
    match (given("matchAttribute"), given("distinctAttribute")) {
        (Some(name), _) => fully_qualified(name, &path.child("matchAttribute"), problems),
        (None, Some(name)) => fully_qualified(name, &path.child("distinctAttribute"), problems),
        (None, None) => {
            // Upstream says so of none as well.
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            problems.push(FieldError::required(path, detail));
        }
    }
}
