//! Workload, which says of what groups of pods something consists, and PodGroup, one of those groups.
//!
//! Source: Kubernetes `pkg/apis/scheduling/validation/validation.go`.

use std::collections::HashSet;

use meta::{FieldError, FieldPath, validation as rules};
use serde_json::{Map, Value};

use crate::{
    problems::{filled, immutable},
    status_rules,
    strategy::{NameRule, Strategy, WriteContext},
};

/// Behaviour of workloads.
pub struct WorkloadStrategy;
/// Behaviour of groups.
pub struct PodGroupStrategy;

const MOST_TEMPLATES: usize = 8;

fn part<'a>(object: &'a Map<String, Value>, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn name(text: &str, path: &FieldPath, label: bool, problems: &mut Vec<FieldError>) {
    if text.is_empty() {
        problems.push(FieldError::required(path, ""));
    } else {
        let wrong = if label { rules::dns1123_label_problems(text) } else { rules::dns1123_subdomain_problems(text) };
        problems.extend(rules::invalid_each(path, text, wrong));
    }
}

fn policy(policy: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let given = |field: &str| policy.get(field).filter(|value| !value.is_null());
    match (given("basic"), given("gang")) {
        (None, None) => problems.push(FieldError::invalid(path, "", "must specify one of: `basic`, `gang`")),
        (Some(_), Some(_)) => {
            problems.push(FieldError::invalid(path, "{`basic`, `gang`}", "exactly one of `basic`, `gang` is required, but multiple fields are set"));
        }
        (None, Some(gang)) => {
            let at = path.child("gang").child("minCount");
            match gang.get("minCount").and_then(Value::as_i64).unwrap_or_default() {
                0 => problems.push(FieldError::required(&at, "")),
                count if count < 0 => problems.push(FieldError::invalid(&at, count, "must be greater than or equal to 1")),
                _ => {}
            }
        }
        (Some(_), None) => {}
    }
}

fn claims(owner: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, claim) in list(owner, "resourceClaims").iter().enumerate() {
        let at = path.child("resourceClaims").index(index);
        name(text(claim, "name"), &at.child("name"), true, problems);
        if !seen.insert(text(claim, "name")) {
            problems.push(FieldError::duplicate(&at, text(claim, "name")));
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            if let Some(given) = claim.get(field).and_then(Value::as_str) {
                problems.extend(rules::invalid_each(&at.child(field), given, rules::dns1123_subdomain_problems(given)));
            }
        }
        let given = ["resourceClaimName", "resourceClaimTemplateName"].iter().filter(|field| claim.get(**field).is_some()).count();
        if given != 1 {
            let detail = if given == 0 {
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            } else {
                "exactly one of `resourceClaimName`, `resourceClaimTemplateName` is required, but multiple fields are set"
            };
            let shown = if given == 0 { "" } else { "{`resourceClaimName`, `resourceClaimTemplateName`}" };
            problems.push(FieldError::invalid(&at, shown, detail));
        }
    }
}

impl Strategy for WorkloadStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, workload: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, spec) = (FieldPath::new("spec"), part(workload, "spec"));
        controller(spec, &path, &mut problems);
        let (at, templates) = (path.child("podGroupTemplates"), list(spec, "podGroupTemplates"));
        if templates.is_empty() {
            problems.push(FieldError::required(&at, "must have at least one item"));
        } else if templates.len() > MOST_TEMPLATES {
            problems.push(FieldError::too_many(&at, templates.len(), MOST_TEMPLATES));
            return problems;
        }
        let mut seen = HashSet::new();
        for (index, template) in templates.iter().enumerate() {
            let at = at.index(index);
            name(text(template, "name"), &at.child("name"), true, &mut problems);
            if !seen.insert(text(template, "name")) {
                problems.push(FieldError::duplicate(&at, text(template, "name")));
            }
            policy(template.get("schedulingPolicy").unwrap_or(&Value::Null), &at.child("schedulingPolicy"), &mut problems);
            claims(template, &at, &mut problems);
        }
        problems
    }
    fn validate_update(&self, workload: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, new, known) = (FieldPath::new("spec"), part(workload, "spec"), part(old, "spec"));
        // Who controls it may be told later, once.
        if known.get("controllerRef").is_some() {
            immutable(&new.get("controllerRef"), &known.get("controllerRef"), &path.child("controllerRef"), &mut problems);
        } else {
            controller(new, &path, &mut problems);
        }
        immutable(&new.get("podGroupTemplates"), &known.get("podGroupTemplates"), &path.child("podGroupTemplates"), &mut problems);
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
}

fn controller(spec: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(reference) = spec.get("controllerRef").filter(|reference| reference.is_object()) else { return };
    let at = path.child("controllerRef");
    let group = text(reference, "apiGroup");
    if !group.is_empty() {
        problems.extend(rules::invalid_each(&at.child("apiGroup"), group, rules::dns1123_subdomain_problems(group)));
    }
    for field in ["kind", "name"] {
        let given = text(reference, field);
        filled(given, &at.child(field), problems);
        problems.extend(rules::invalid_each(&at.child(field), given, rules::path_segment_problems(given)));
    }
}

impl Strategy for PodGroupStrategy {
    type Kind = Map<String, Value>;

    fn prepare_create(&self, _context: &WriteContext, group: &mut Self::Kind) {
        group.remove("status");
    }
    fn validate(&self, group: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, spec) = (FieldPath::new("spec"), part(group, "spec"));
        if let Some(reference) = spec.get("podGroupTemplateRef").filter(|reference| reference.is_object()) {
            let at = path.child("podGroupTemplateRef");
            match reference.get("workload").filter(|workload| workload.is_object()) {
                None => problems.push(FieldError::invalid(&at, "", "must specify one of: `workload`")),
                Some(workload) => {
                    let at = at.child("workload");
                    name(text(workload, "workloadName"), &at.child("workloadName"), false, &mut problems);
                    name(text(workload, "podGroupTemplateName"), &at.child("podGroupTemplateName"), true, &mut problems);
                }
            }
        }
        policy(spec.get("schedulingPolicy").unwrap_or(&Value::Null), &path.child("schedulingPolicy"), &mut problems);
        claims(spec, &path, &mut problems);
        problems
    }
    fn validate_update(&self, group: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let (path, new, known) = (FieldPath::new("spec"), part(group, "spec"), part(old, "spec"));
        let fields = ["podGroupTemplateRef", "schedulingPolicy", "schedulingConstraints", "resourceClaims", "disruptionMode", "priorityClassName", "priority"];
        for field in fields {
            immutable(&new.get(field), &known.get(field), &path.child(field), &mut problems);
        }
        problems
    }
    fn status_keeps_metadata(&self) -> bool {
        true
    }
    fn validate_status_update(&self, group: &Self::Kind, _old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let conditions = list(part(group, "status"), "conditions");
        status_rules::untyped_conditions(conditions, &FieldPath::new("status").child("conditions"), &mut problems);
        problems
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }
    fn tracks_generation(&self) -> bool {
        true
    }
}
