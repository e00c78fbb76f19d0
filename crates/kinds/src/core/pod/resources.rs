//! What is wrong with what containers ask for and may use.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `validateResourceRequirements`.

use std::collections::{BTreeMap, HashSet};

use api::{
    apimachinery::pkg::api::resource::Quantity as Text,
    core::v1::{ResourceClaim, ResourceRequirements},
};
use meta::{FieldError, FieldPath, quantity::Quantity, validation as rules};

use crate::resource_names as names;

/// Problems of one container's requirements; `claims` are the names of the pod's resource claims.
pub fn of_container(found: &ResourceRequirements, claims: &[&str], path: &FieldPath, problems: &mut Vec<FieldError>) {
    requirements(found, path, problems);
    claim_names(found.claims.as_deref().unwrap_or_default(), claims, &path.child("claims"), problems);
}

/// Problems of what a runtime adds to a pod.
pub fn overhead(found: &BTreeMap<String, Text>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let as_limits = ResourceRequirements { limits: Some(found.clone()), ..ResourceRequirements::default() };
    of_container(&as_limits, &[], path, problems);
}

fn parsed(text: &Text) -> Option<Quantity> {
    Quantity::parse(&text.0).ok()
}

fn requirements(found: &ResourceRequirements, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let (limits, requests) = (found.limits.iter().flatten(), found.requests.iter().flatten());
    for (name, amount) in limits.clone() {
        let at = path.child("limits").key(name);
        problems.extend(names::container_problems(name, &at));
        amount_problems(name, amount, &at, problems);
    }
    for (name, amount) in requests.clone() {
        let at = path.child("requests").key(name);
        problems.extend(names::container_problems(name, &at));
        amount_problems(name, amount, &at, problems);
        within_limit(name, amount, found, path, problems);
    }
    let named = |check: fn(&str) -> bool| limits.clone().chain(requests.clone()).any(|(name, _)| check(name));
    if named(names::is_huge_pages) && !named(|name| matches!(name, "cpu" | "memory")) {
        problems.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

fn amount_problems(name: &str, amount: &Text, path: &FieldPath, problems: &mut Vec<FieldError>) {
    problems.extend(names::amount_problems(name, &amount.0, path));
    let size = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok()).map(|size| size.value());
    if let (Some(size), Some(amount)) = (size, parsed(amount))
        && names::is_huge_pages(name)
        && (size <= 0 || amount.value() % size != 0)
    {
        problems.push(FieldError::invalid(path, amount.to_string(), format!("{amount} is not positive integer multiple of {name}")));
    }
}

fn within_limit(name: &str, amount: &Text, found: &ResourceRequirements, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(amount) = parsed(amount) else { return };
    let limit = found.limits.as_ref().and_then(|limits| limits.get(name)).and_then(parsed);
    let overcommits = names::may_overcommit(name);
    let at = path.child("requests");
    match limit {
        Some(limit) if limit != amount && !overcommits => {
            problems.push(FieldError::invalid(&at, amount.to_string(), format!("must be equal to {name} limit of {limit}")));
        }
        Some(limit) if limit.sub(&amount).signum() < 0 => {
            problems.push(FieldError::invalid(&at, amount.to_string(), format!("must be less than or equal to {name} limit of {limit}")));
        }
        None if !overcommits => problems.push(FieldError::required(&path.child("limits"), "Limit must be set for non overcommitable resources")),
        _ => {}
    }
}

fn claim_names(claims: &[ResourceClaim], known: &[&str], path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut seen: HashSet<(&str, Option<&str>)> = HashSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let at = path.index(index);
        let (name, request) = (claim.name.as_str(), claim.request.as_deref().filter(|request| !request.is_empty()));
        if name.is_empty() {
            problems.push(FieldError::required(&at, ""));
            continue;
        }
        if let Some(request) = request {
            problems.extend(rules::invalid_each(&at.child("request"), request, rules::dns1123_label_problems(request)));
        }
        if seen.contains(&(name, None)) || (request.is_none() && seen.iter().any(|(other, _)| *other == name)) {
            problems.push(FieldError::duplicate(&at, name));
        } else if let Some(request) = request.filter(|request| seen.contains(&(name, Some(request)))) {
            problems.push(FieldError::duplicate(&at, format!("{name}/{request}")));
        }
        seen.insert((name, request));
        if !known.contains(&name) {
            let mut problem = FieldError::not_found(&at, name);
            let mut sorted = known.to_vec();
            sorted.sort_unstable();
            problem.detail = if known.is_empty() {
                "must be one of the names in pod.spec.resourceClaims which is empty".to_owned()
            } else {
                format!("must be one of the names in pod.spec.resourceClaims: {}", sorted.join(", "))
            };
            problems.push(problem);
        }
    }
}
