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

/// A text out of a closed set, which the message shows in the order given here.
pub fn one_of(text: &str, allowed: &[&str], path: &FieldPath, problems: &mut Vec<FieldError>) {
    if !allowed.contains(&text) {
        if text.is_empty() {
            problems.push(FieldError::required(path, ""));
        } else {
            problems.push(FieldError::not_supported(path, text, allowed));
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

/// An address that others can reach: none of the loopback, of a single link, or of nobody.
///
/// Source: Kubernetes `pkg/apis/core/validation/validation.go`, `ValidateNonSpecialIP`.
pub fn ordinary_address(text: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    use std::net::IpAddr;
    let Ok(address) = text.parse::<IpAddr>() else {
        problems.push(FieldError::invalid(path, text, "must be a valid IP address"));
        return;
    };
    let (link_local, link_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(address) => (address.is_unicast_link_local(), address.segments().first().is_some_and(|first| first & 0xff0f == 0xff02)),
    };
    let mut wrong = |is: bool, detail: String| {
        if is {
            problems.push(FieldError::invalid(path, text, detail));
        }
    };
    wrong(address.is_unspecified(), format!("may not be unspecified ({text})"));
    wrong(address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    wrong(link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    wrong(link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
}

/// Ranges of which there is no more than one of each family, as upstream words it.
pub fn one_of_each_family(ranges: &[String], path: &FieldPath, problems: &mut Vec<FieldError>) {
    let is_v6 = |range: &String| range.contains(':');
    if ranges.len() > 2 || (ranges.len() == 2 && ranges.iter().filter(|range| is_v6(range)).count() != 1) {
        problems.push(FieldError::invalid(path, ranges.to_vec(), "may specify no more than one CIDR for each IP family"));
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

/// A percentage that is at most the whole.
pub fn one_hundred_percent(value: Option<&IntOrString>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(IntOrString::String(text)) = value else { return };
    if text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()).is_some_and(|number| number > 100) {
        problems.push(FieldError::invalid(path, text.as_str(), "must not be greater than 100%"));
    }
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

/// Counts of a workload's status: none negative, and none above the count that bounds it.
///
/// Source: Kubernetes `pkg/apis/apps/validation/validation.go`, `ValidateDeploymentStatus` and its kin.
pub fn status_counts(counts: &[(&str, Option<i64>)], bounds: &[(&str, &str, &str)], problems: &mut Vec<FieldError>) {
    let path = FieldPath::new("status");
    let count = |name: &str| counts.iter().find(|(known, _)| *known == name).and_then(|(_, count)| *count).unwrap_or_default();
    for (name, value) in counts {
        not_negative(*value, &path.child(name), problems);
    }
    for (lower, upper, detail) in bounds {
        if count(lower) > count(upper) {
            problems.push(FieldError::invalid(&path.child(lower), count(lower), *detail));
        }
    }
}

/// What [`status_counts`] says of a count above that of all replicas.
pub const ABOVE_REPLICAS: &str = "cannot be greater than status.replicas";

/// A count that may only grow.
pub fn only_grows(new: Option<i32>, old: Option<i32>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(old) = old
        && new.is_none_or(|new| new < old)
    {
        problems.push(FieldError::invalid(path, new.unwrap_or_default(), "cannot be decremented"));
    }
}

/// A template whose pods must restart for ever; `kind` is who says so.
pub fn always_restarts(template: &PodTemplateSpec, kind: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(spec) = &template.spec else { return };
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if policy != "Always" && !policy.is_empty() {
        problems.push(FieldError::not_supported(&path.child("spec").child("restartPolicy"), policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        problems.push(FieldError::forbidden(&path.child("spec").child("activeDeadlineSeconds"), format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}
