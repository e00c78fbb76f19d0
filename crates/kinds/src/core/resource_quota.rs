//! ResourceQuota: what a namespace as a whole may use.

use std::collections::BTreeMap;

use api::{
    apimachinery::pkg::api::resource::Quantity as Text,
    core::v1::{ResourceQuota, ResourceQuotaSpec},
};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    resource_names,
    strategy::{Column, Strategy},
};

fn amounts(amounts: Option<&BTreeMap<String, Text>>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (name, amount) in amounts.into_iter().flatten() {
        let at = path.key(name);
        problems.extend(resource_names::quota_problems(name, &at));
        problems.extend(resource_names::amount_problems(name, &amount.0, &at));
    }
}

const SCOPES: &[&str] =
    &["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating", "VolumeAttributesClass"];
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods"];

/// Whether a scope says anything about what is counted.
fn applies(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => COMPUTE.contains(&resource),
    }
}

fn scopes(spec: &ResourceQuotaSpec, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let counted: Vec<&str> = spec.hard.iter().flatten().map(|(name, _)| name.as_str()).filter(|name| resource_names::is_quota_name(name)).collect();
    let given = spec.scopes.as_deref().unwrap_or_default();
    let at = path.child("scopes");
    for scope in given {
        if !SCOPES.contains(&scope.as_str()) {
            problems.push(FieldError::invalid(&at, given.to_vec(), "unsupported scope"));
        }
        for _ in counted.iter().filter(|name| !applies(scope, name)) {
            problems.push(FieldError::invalid(&at, given.to_vec(), "unsupported scope applied to resource"));
        }
    }
    conflicting(given.iter().map(String::as_str).collect(), &at, given, problems);
    let Some(selector) = &spec.scope_selector else { return };
    let at = path.child("scopeSelector").child("matchExpressions");
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    for requirement in requirements {
        let (scope, operator, values) = (requirement.scope_name.as_str(), requirement.operator.as_str(), requirement.values.as_deref().unwrap_or_default());
        if !SCOPES.contains(&scope) {
            problems.push(FieldError::invalid(&at.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in counted.iter().filter(|name| !applies(scope, name)) {
            problems.push(FieldError::invalid(&at, serde_json::to_value(selector).unwrap_or_default(), "unsupported scope applied to resource"));
        }
        if matches!(scope, "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity") && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            problems.push(FieldError::invalid(&at.child("operator"), operator, detail));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                problems.push(FieldError::required(&at.child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                problems.push(FieldError::invalid(&at.child("values"), values.to_vec(), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => problems.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator")),
        }
    }
    conflicting(requirements.iter().map(|requirement| requirement.scope_name.as_str()).collect(), &at, given, problems);
}

fn conflicting(scopes: Vec<&str>, path: &FieldPath, shown: &[String], problems: &mut Vec<FieldError>) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            problems.push(FieldError::invalid(path, shown.to_vec(), "conflicting scopes"));
        }
    }
}

/// Behaviour of quotas.
pub struct ResourceQuotaStrategy;

impl Strategy for ResourceQuotaStrategy {
    type Kind = ResourceQuota;

    fn validate(&self, quota: &ResourceQuota) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec").child("hard");
        amounts(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()), &path, &mut problems);
        if let Some(spec) = &quota.spec {
            scopes(spec, &FieldPath::new("spec"), &mut problems);
        }
        problems
    }
    fn validate_status_update(&self, quota: &ResourceQuota, _old: &ResourceQuota) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("status");
        amounts(quota.status.as_ref().and_then(|status| status.hard.as_ref()), &path.child("hard"), &mut problems);
        amounts(quota.status.as_ref().and_then(|status| status.used.as_ref()), &path.child("used"), &mut problems);
        problems
    }
    fn validate_update(&self, quota: &ResourceQuota, old: &ResourceQuota) -> Vec<FieldError> {
        let mut problems = self.validate(quota);
        let sorted = |quota: &ResourceQuota| {
            let mut scopes = quota.spec.as_ref().and_then(|spec| spec.scopes.clone()).unwrap_or_default();
            scopes.sort();
            scopes
        };
        if sorted(quota) != sorted(old) {
            problems.push(FieldError::invalid(&FieldPath::new("spec").child("scopes"), sorted(quota), "field is immutable"));
        }
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Request", "Requests in use, of what is allowed."),
            Column::text("Limit", "Limits in use, of what is allowed."),
            Column::AGE,
        ] }
    }
    fn row(&self, quota: &ResourceQuota, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let status = quota.status.as_ref();
        let hard = status.and_then(|status| status.hard.as_ref()).or_else(|| quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()));
        let used = status.and_then(|status| status.used.as_ref());
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, amount) in hard.into_iter().flatten() {
            let text = format!("{name}: {}/{}", cells::quantity(used, name).unwrap_or_else(|| "0".to_owned()), amount.0);
            if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
        }
        vec![raw.name().into(), requests.join(", ").into(), limits.join(", ").into(), cells::created(raw)]
    }
}
