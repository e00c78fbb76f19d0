//! Rules about statuses that several kinds share.

use std::{collections::BTreeMap, collections::HashSet, net::IpAddr};

use api::apimachinery::pkg::{api::resource::Quantity as Text, apis::meta::v1::Condition};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, validation as rules};
use serde_json::Value;

use crate::{problems::not_negative, resource_names};

/// Conditions in the common form. Source: Kubernetes `apimachinery/pkg/apis/meta/v1/validation`, `ValidateConditions`.
pub fn conditions(conditions: Option<&Vec<Condition>>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST_REASON: usize = 1024;
    const LONGEST_MESSAGE: usize = 32 * 1024;
    let mut seen = HashSet::new();
    for (index, condition) in conditions.into_iter().flatten().enumerate() {
        let at = path.index(index);
        if !seen.insert(condition.type_.as_str()) {
            problems.push(FieldError::duplicate(&at.child("type"), condition.type_.as_str()));
        }
        problems.extend(rules::invalid_each(&at.child("type"), &condition.type_, rules::qualified_name_problems(&condition.type_)));
        if !matches!(condition.status.as_str(), "True" | "False" | "Unknown") {
            problems.push(FieldError::not_supported(&at.child("status"), condition.status.as_str(), &["False", "True", "Unknown"]));
        }
        if let Some(generation) = condition.observed_generation.filter(|generation| *generation < 0) {
            problems.push(FieldError::invalid(&at.child("observedGeneration"), generation, "must be greater than or equal to zero"));
        }
        // What is not given is read as the beginning of time.
        if condition.last_transition_time.0 == Timestamp::UNIX_EPOCH {
            problems.push(FieldError::required(&at.child("lastTransitionTime"), "must be set"));
        }
        let reason = condition.reason.as_str();
        if reason.is_empty() {
            problems.push(FieldError::required(&at.child("reason"), "must be set"));
        } else if !is_reason(reason) {
            let words = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', \
                and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', \
                regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
            problems.push(FieldError::invalid(&at.child("reason"), reason, words));
        }
        for (field, text, longest) in [("reason", reason, LONGEST_REASON), ("message", &condition.message, LONGEST_MESSAGE)] {
            if text.len() > longest {
                problems.push(FieldError::too_long(&at.child(field), longest));
            }
        }
    }
}

/// The same, of a kind that is read as a tree.
pub fn untyped_conditions(list: &[Value], path: &FieldPath, problems: &mut Vec<FieldError>) {
    // What does not have their shape was refused when it was read.
    let typed: Vec<Condition> = list.iter().filter_map(|condition| serde_json::from_value(condition.clone()).ok()).collect();
    conditions(Some(&typed), path, problems);
}

fn is_reason(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"_,:".contains(&byte);
    let end = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match text.as_bytes() {
        [first, rest @ ..] => first.is_ascii_alphabetic() && rest.iter().all(|byte| inside(*byte)) && rest.last().is_none_or(end),
        [] => false,
    }
}

/// The address and the name of one end of a load balancer.
pub fn load_balancer_end(ip: Option<&str>, hostname: Option<&str>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(ip) = ip.filter(|ip| !ip.is_empty()) {
        problems.extend(rules::invalid_each(&path.child("ip"), ip, rules::ip_problems(ip)));
    }
    if let Some(hostname) = hostname.filter(|hostname| !hostname.is_empty()) {
        let at = path.child("hostname");
        problems.extend(rules::invalid_each(&at, hostname, rules::dns1123_subdomain_problems(hostname)));
        if hostname.parse::<IpAddr>().is_ok() {
            problems.push(FieldError::invalid(&at, hostname, "must be a DNS name, not an IP address"));
        }
    }
}

/// Amounts of resources, each at its name below `path`.
pub fn amounts(amounts: Option<&BTreeMap<String, Text>>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (name, amount) in amounts.into_iter().flatten() {
        problems.extend(resource_names::amount_problems(name, &amount.0, &path.child(name)));
    }
}

/// Counts that must not be negative, each a field of the status.
pub fn counts(counts: &[(&str, Option<i32>)], problems: &mut Vec<FieldError>) {
    for (name, count) in counts {
        not_negative(count.map(i64::from), &FieldPath::new("status").child(name), problems);
    }
}

/// Conditions of which each has a type of its own, as some old kinds have them.
pub fn types_of_conditions<'a>(types: impl Iterator<Item = Option<&'a str>>, problems: &mut Vec<FieldError>) {
    let path = FieldPath::new("status").child("conditions");
    let mut seen = HashSet::new();
    for (index, kind) in types.map(Option::unwrap_or_default).enumerate() {
        let at = path.index(index).child("type");
        if !seen.insert(kind) {
            problems.push(FieldError::duplicate(&at, kind));
        }
        if kind.is_empty() {
            problems.push(FieldError::required(&at, "must not be empty"));
        }
    }
}
