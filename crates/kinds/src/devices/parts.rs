//! What several kinds about devices have in common: names, selectors, tolerations, configurations.
//!
//! Source: Kubernetes `pkg/apis/resource/validation/validation.go`, with the limits of `pkg/apis/resource/types.go`.

use std::collections::HashSet;

use meta::{FieldError, FieldPath, validation as rules};
use serde_json::Value;

use crate::{
    core::pod::affinity,
    problems::{filled, one_of},
};

const MOST_SELECTORS: usize = 32;
const MOST_TOLERATIONS: usize = 16;
const MOST_BINDING_CONDITIONS: usize = 4;
const LONGEST_EXPRESSION: usize = 10 * 1024;
const LARGEST_PARAMETERS: usize = 10 * 1024;
/// Requests that a constraint or a configuration is about.
const MOST_REFERENCES: usize = 32;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn label(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    problems.extend(rules::invalid_each(path, name, rules::dns1123_label_problems(name)));
}

/// A label that upstream's declarative rules ask for.
pub(crate) fn filled_label(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if name.is_empty() {
        problems.push(FieldError::required(path, ""));
    } else {
        label(name, path, problems);
    }
}

/// More than there may be: says so, and the elements are not looked at.
pub(crate) fn too_many(count: usize, most: usize, path: &FieldPath, problems: &mut Vec<FieldError>) -> bool {
    if count > most {
        problems.push(FieldError::too_many(path, count, most));
    }
    count > most
}

/// Elements that are there twice.
pub(crate) fn duplicates<'a>(keys: impl Iterator<Item = &'a str>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, key) in keys.enumerate() {
        if !seen.insert(key) {
            problems.push(FieldError::duplicate(&path.index(index), key));
        }
    }
}

/// The name of a driver, which is that of a CSI driver.
pub(crate) fn driver(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST: usize = 63;
    if name.is_empty() {
        problems.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > LONGEST {
        problems.push(FieldError::too_long(path, LONGEST));
    }
    let lower = name.to_lowercase();
    problems.extend(rules::invalid_each(path, name, rules::dns1123_subdomain_problems(&lower)));
}

/// The name of a pool: subdomains with slashes between them.
pub(crate) fn pool(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST: usize = 253;
    filled(name, path, problems);
    if name.len() > LONGEST {
        problems.push(FieldError::too_long(path, LONGEST));
    }
    for segment in name.split('/').filter(|_| !name.is_empty()) {
        problems.extend(rules::invalid_each(path, segment, rules::dns1123_subdomain_problems(segment)));
    }
}

fn identifier(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST: usize = 32;
    if name.len() > LONGEST {
        problems.push(FieldError::too_long(path, LONGEST));
    }
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
        problems.push(FieldError::invalid(path, name, rules::pattern_problem(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])));
    }
}

/// The name of an attribute or a capacity, with or without the domain that it belongs to.
pub(crate) fn qualified(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match name.split_once('/') {
        None => identifier(name, path, problems),
        Some((_, rest)) if rest.contains('/') => problems.push(FieldError::invalid(path, name, "must not contain more than one slash")),
        Some((domain, rest)) => {
            if domain.is_empty() {
                problems.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                driver(domain, path, problems);
            }
            if rest.is_empty() {
                problems.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(rest, path, problems);
            }
        }
    }
}

/// The same with a domain in any case.
pub(crate) fn fully_qualified(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    qualified(name, path, problems);
    if !name.contains('/') {
        problems.push(FieldError::invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"));
    }
}

pub(crate) fn selectors(parent: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let all = list(parent, "selectors");
    let path = path.child("selectors");
    if too_many(all.len(), MOST_SELECTORS, &path, problems) {
        return;
    }
    for (index, selector) in all.iter().enumerate() {
        let at = path.index(index).child("cel");
        let Some(cel) = selector.get("cel").filter(|cel| cel.is_object()) else {
            problems.push(FieldError::required(&at, ""));
            continue;
        };
        let expression = text(cel, "expression");
        filled(expression, &at.child("expression"), problems);
        if expression.len() > LONGEST_EXPRESSION {
            problems.push(FieldError::too_long(&at.child("expression"), LONGEST_EXPRESSION));
        }
    }
}

pub(crate) fn tolerations(parent: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let all = list(parent, "tolerations");
    let path = path.child("tolerations");
    if too_many(all.len(), MOST_TOLERATIONS, &path, problems) {
        return;
    }
    for (index, toleration) in all.iter().enumerate() {
        let (at, key, value) = (path.index(index), text(toleration, "key"), text(toleration, "value"));
        if !key.is_empty() {
            problems.extend(rules::invalid_each(&at.child("key"), key, rules::qualified_name_problems(key)));
        }
        match text(toleration, "operator") {
            "Exists" if !value.is_empty() => problems.push(FieldError::invalid(&at.child("value"), value, "must be empty for operator `Exists`")),
            "Exists" => {}
            "Equal" => problems.extend(rules::invalid_each(&at.child("value"), value, rules::label_value_problems(value))),
            other => one_of(other, &["Equal", "Exists"], &at.child("operator"), problems),
        }
        let effect = text(toleration, "effect");
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            problems.push(FieldError::not_supported(&at.child("effect"), effect, &EFFECTS));
        }
    }
}

/// What keeps a device from being used. `known` is its effect before, which may stay whatever it is.
pub(crate) fn taint(taint: &Value, known: Option<&str>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
    problems.extend(rules::invalid_each(&path.child("key"), key, rules::qualified_name_problems(key)));
    if !value.is_empty() {
        problems.extend(rules::invalid_each(&path.child("value"), value, rules::label_value_problems(value)));
    }
    if known != Some(effect) {
        one_of(effect, &EFFECTS, &path.child("effect"), problems);
    }
}

/// What must and what must not be said of a device before a pod is bound to its node.
pub(crate) fn binding_conditions(parent: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let names = |field: &str| -> Vec<&str> { list(parent, field).iter().filter_map(Value::as_str).collect() };
    let (good, bad) = (names("bindingConditions"), names("bindingFailureConditions"));
    for (field, names) in [("bindingConditions", &good), ("bindingFailureConditions", &bad)] {
        let at = path.child(field);
        if !too_many(names.len(), MOST_BINDING_CONDITIONS, &at, problems) {
            for (index, name) in names.iter().enumerate() {
                problems.extend(rules::invalid_each(&at.index(index), name, rules::qualified_name_problems(name)));
            }
        }
        duplicates(names.iter().copied(), &at, problems);
    }
    for (index, name) in bad.iter().enumerate().filter(|(_, name)| good.contains(name)) {
        let detail = "bindingFailureConditions must not overlap with bindingConditions";
        problems.push(FieldError::invalid(&path.child("bindingFailureConditions").index(index), *name, detail));
    }
    for (field, missing, other, detail) in [
        ("bindingConditions", &good, &bad, "bindingConditions are required to use bindingFailureConditions"),
        ("bindingFailureConditions", &bad, &good, "bindingFailureConditions are required to use bindingConditions"),
    ] {
        if missing.is_empty() && !other.is_empty() {
            problems.push(FieldError::invalid(&path.child(field), Value::Null, detail));
        }
    }
}

/// Something of a driver's own, which is only asked to be an object and not too large.
pub(crate) fn raw(value: Option<&Value>, most: usize, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match value {
        None | Some(Value::Null) => problems.push(FieldError::required(path, "")),
        Some(value) if value.to_string().len() > most => problems.push(FieldError::too_long(path, most)),
        Some(Value::Object(_)) => {}
        Some(_) => problems.push(FieldError::invalid(path, "<value omitted>", "must be a valid JSON object")),
    }
}

/// What a driver is told of devices.
pub(crate) fn configuration(one: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let at = path.child("opaque");
    let Some(opaque) = one.get("opaque").filter(|opaque| opaque.is_object()) else {
        problems.push(FieldError::required(&at, ""));
        return;
    };
    driver(text(opaque, "driver"), &at.child("driver"), problems);
    raw(opaque.get("parameters"), LARGEST_PARAMETERS, &at.child("parameters"), problems);
}

/// The names of a claim's requests, and of the alternatives in them.
pub(crate) struct RequestNames<'a>(Vec<(&'a str, Vec<&'a str>)>);

impl<'a> RequestNames<'a> {
    /// Those of what a claim asks for.
    pub(crate) fn of(devices: &'a Value) -> Self {
        let alternatives = |request: &'a Value| list(request, "firstAvailable").iter().map(|one| text(one, "name")).collect();
        Self(list(devices, "requests").iter().map(|request| (text(request, "name"), alternatives(request))).collect())
    }
    fn has(&self, name: &str) -> bool {
        let (name, alternative) = name.split_once('/').map_or((name, None), |(name, alternative)| (name, Some(alternative)));
        self.0.iter().any(|(known, alternatives)| *known == name && alternative.is_none_or(|one| alternatives.contains(&one)))
    }
    /// Problems of something that names a request or an alternative of one.
    pub(crate) fn reference(&self, name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
        const DETAIL: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        let segments: Vec<&str> = name.split('/').collect();
        if segments.len() <= 2 {
            for segment in segments {
                label(segment, path, problems);
            }
            if self.has(name) {
                return;
            }
        }
        problems.push(FieldError::invalid(path, name, DETAIL));
    }
    /// The same of a list of them.
    pub(crate) fn references(&self, parent: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
        let names: Vec<&str> = list(parent, "requests").iter().filter_map(Value::as_str).collect();
        let path = path.child("requests");
        if too_many(names.len(), MOST_REFERENCES, &path, problems) {
            return;
        }
        for (index, name) in names.iter().enumerate() {
            self.reference(name, &path.index(index), problems);
        }
        duplicates(names.into_iter(), &path, problems);
    }
}

/// Nodes, by a selector such as persistent volumes have.
pub(crate) fn nodes(selector: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    // What does not have their shape was refused when it was read.
    if let Ok(selector) = serde_json::from_value(selector.clone()) {
        affinity::node_selector(&selector, path, problems);
    }
}
