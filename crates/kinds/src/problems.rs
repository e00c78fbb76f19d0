//! Small checks that many kinds share, on typed values. Rules about texts stand in [`meta::validation`].

use std::collections::BTreeMap;

use api::{
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
    core::v1::PodTemplateSpec,
};
use meta::{FieldError, FieldPath, validation as rules};
use serde_json::Value;

/// A text that must be given.
pub fn filled(text: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if text.is_empty() {
        problems.push(FieldError::required(path, ""));
    }
}

/// A text out of a closed set.
pub fn one_of(text: &str, allowed: &[&str], path: &FieldPath, problems: &mut Vec<FieldError>) {
    if !allowed.contains(&text) {
        if text.is_empty() {
            problems.push(FieldError::required(path, ""));
        } else {
            let mut sorted = allowed.to_vec();
            sorted.sort_unstable();
            problems.push(FieldError::not_supported(path, text, &sorted));
        }
    }
}

/// The number of a port.
pub fn port_number(number: i32, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for problem in rules::port_number_problems(i64::from(number)) {
        problems.push(FieldError::invalid(path, number, problem));
    }
}

/// The number or name of a port.
pub fn port_or_name(port: &IntOrString, path: &FieldPath, problems: &mut Vec<FieldError>) {
    match port {
        IntOrString::Int(number) => port_number(*number, path, problems),
        IntOrString::String(name) => problems.extend(rules::invalid_each(path, name, rules::port_name_problems(name))),
    }
}

/// A whole number that is not negative.
pub fn not_negative(value: Option<i64>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(value) = value {
        problems.extend(rules::values::validate_non_negative(value, path));
    }
}

/// A whole number that is not negative, or a percentage.
pub fn int_or_percent(value: Option<&IntOrString>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(value) = value else { return };
    let value = match value {
        IntOrString::Int(number) => Value::from(*number),
        IntOrString::String(text) => Value::from(text.as_str()),
    };
    problems.extend(rules::values::validate_non_negative_int_or_percent(&value, path));
}

/// A number or percentage of nothing: `0` or `0%`.
pub fn is_zero(value: Option<&IntOrString>) -> bool {
    match value {
        None => true,
        Some(IntOrString::Int(number)) => *number == 0,
        Some(IntOrString::String(text)) => text == "0%" || text == "0",
    }
}

/// Keys and values of labels.
pub fn labels(labels: Option<&BTreeMap<String, String>>, path: &FieldPath) -> Vec<FieldError> {
    let mut problems = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        problems.extend(rules::invalid_each(path, key, rules::qualified_name_problems(key)));
        problems.extend(rules::invalid_each(path, value, rules::label_value_problems(value)));
    }
    problems
}

/// A label selector.
pub fn label_selector(selector: &LabelSelector, path: &FieldPath) -> Vec<FieldError> {
    match serde_json::to_value(selector) {
        Ok(value) => rules::validate_label_selector(&value, path),
        Err(_) => Vec::new(),
    }
}

/// Whether a selector selects everything.
pub fn is_empty_selector(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether labels fulfil a selector. Operators that do not exist fulfil nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value_of = |key: &str| labels.and_then(|labels| labels.get(key));
    selector.match_labels.iter().flatten().all(|(key, value)| value_of(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let (value, among) = (value_of(&requirement.key), requirement.values.as_deref().unwrap_or_default());
            match requirement.operator.as_str() {
                "In" => value.is_some_and(|value| among.contains(value)),
                "NotIn" => value.is_none_or(|value| !among.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The selector of a workload, and that its template fulfils it.
pub fn workload_selector(selector: &LabelSelector, template: &PodTemplateSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let at = path.child("selector");
    if is_empty_selector(selector) {
        problems.push(FieldError::required(&at, ""));
        return;
    }
    problems.extend(label_selector(selector, &at));
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
    if !selects(selector, labels) {
        let shown = labels.map(|labels| serde_json::json!(labels)).unwrap_or(Value::Null);
        problems.push(FieldError::invalid(&path.child("template").child("metadata").child("labels"), shown, "`selector` does not match template `labels`"));
    }
}

/// Something that may never change.
pub fn immutable<T: PartialEq + serde::Serialize>(new: &T, old: &T, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if new != old {
        problems.push(FieldError::invalid(path, serde_json::to_value(new).unwrap_or_default(), "field is immutable"));
    }
}

/// A template whose pods must restart for ever.
pub fn always_restarts(template: &PodTemplateSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(spec) = &template.spec else { return };
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if policy != "Always" && !policy.is_empty() {
        problems.push(FieldError::not_supported(&path.child("spec").child("restartPolicy"), policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        problems.push(FieldError::forbidden(&path.child("spec").child("activeDeadlineSeconds"), "activeDeadlineSeconds in this template is not Supported"));
    }
}
