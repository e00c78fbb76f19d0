//! What is wrong with where a pod wants to run: selectors of nodes, affinities and topology spread.
//!
//! Source: Kubernetes `pkg/apis/core/validation/validation.go`, `validateAffinity`, `ValidateNodeSelector`,
//! `validateTopologySpreadConstraints`.

use std::collections::HashSet;

use api::{
    apimachinery::pkg::apis::meta::v1::LabelSelector,
    core::v1::{Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm},
};
use meta::{FieldError, FieldPath, validation as rules};

use crate::problems::{label_selector, one_of};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Problems of all three affinities.
pub fn affinity(affinity: &Affinity, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(nodes) = &affinity.node_affinity {
        let at = path.child("nodeAffinity");
        if let Some(required) = &nodes.required_during_scheduling_ignored_during_execution {
            node_selector(required, &at.child(REQUIRED), problems);
        }
        for (index, term) in nodes.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
            let at = at.child(PREFERRED).index(index);
            weight(term.weight, &at, problems);
            // Values that no label can have match nothing, which harms no preference.
            node_term(&term.preference, true, &at.child("preference"), problems);
        }
    }
    if let Some(pods) = &affinity.pod_affinity {
        let at = path.child("podAffinity");
        pod_terms(pods.required_during_scheduling_ignored_during_execution.as_deref(), pods.preferred_during_scheduling_ignored_during_execution.as_deref(), &at, problems);
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let at = path.child("podAntiAffinity");
        pod_terms(pods.required_during_scheduling_ignored_during_execution.as_deref(), pods.preferred_during_scheduling_ignored_during_execution.as_deref(), &at, problems);
    }
}

fn weight(weight: i32, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if !(1..=100).contains(&weight) {
        problems.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

/// Problems of a selector of nodes.
pub fn node_selector(selector: &NodeSelector, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let at = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        problems.push(FieldError::required(&at, "must have at least one node selector term"));
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        node_term(term, false, &at.index(index), problems);
    }
}

fn node_term(term: &NodeSelectorTerm, any_value: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        label_requirement(requirement, any_value, &path.child("matchExpressions").index(index), problems);
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        field_requirement(requirement, &path.child("matchFields").index(index), problems);
    }
}

fn label_requirement(requirement: &NodeSelectorRequirement, any_value: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let at = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            problems.push(FieldError::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            problems.push(FieldError::forbidden(&at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            problems.push(FieldError::required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => problems.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    label_name(&requirement.key, &path.child("key"), problems);
    if !any_value {
        for (index, value) in values.iter().enumerate() {
            problems.extend(rules::invalid_each(&at.index(index), value, rules::label_value_problems(value)));
        }
    }
}

fn field_requirement(requirement: &NodeSelectorRequirement, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() == 1 => {}
        "In" | "NotIn" => problems.push(FieldError::required(
            &path.child("values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        )),
        other => problems.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    if requirement.key != "metadata.name" {
        problems.push(FieldError::invalid(&path.child("key"), requirement.key.as_str(), "not a valid field selector key"));
        return;
    }
    for (index, value) in values.iter().enumerate() {
        problems.extend(rules::invalid_each(&path.child("values").index(index), value, rules::dns1123_subdomain_problems(value)));
    }
}

fn label_name(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    problems.extend(rules::invalid_each(path, name, rules::qualified_name_problems(name)));
}

fn pod_terms(required: Option<&[PodAffinityTerm]>, preferred: Option<&[WeightedPodAffinityTerm]>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (index, term) in required.into_iter().flatten().enumerate() {
        pod_term(term, &path.child(REQUIRED).index(index), problems);
    }
    for (index, term) in preferred.into_iter().flatten().enumerate() {
        let at = path.child(PREFERRED).index(index);
        weight(term.weight, &at, problems);
        pod_term(&term.pod_affinity_term, &at.child("podAffinityTerm"), problems);
    }
}

fn pod_term(term: &PodAffinityTerm, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)] {
        if let Some(selector) = selector {
            problems.extend(label_selector(selector, &path.child(field)));
        }
    }
    for name in term.namespaces.iter().flatten() {
        problems.extend(rules::invalid_each(&path.child("namespace"), name, rules::dns1123_label_problems(name)));
    }
    let (matched, mismatched) = (term.match_label_keys.as_deref().unwrap_or_default(), term.mismatch_label_keys.as_deref().unwrap_or_default());
    for (field, keys) in [("matchLabelKeys", matched), ("mismatchLabelKeys", mismatched)] {
        let at = path.child(field);
        if !keys.is_empty() && term.label_selector.is_none() {
            problems.push(FieldError::forbidden(&at, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            label_name(key, &at.index(index), problems);
        }
    }
    for (index, key) in matched.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        let at = path.child("matchLabelKeys").index(index);
        problems.push(FieldError::invalid(&at, key.as_str(), "exists in both matchLabelKeys and mismatchLabelKeys"));
    }
    let at = path.child("topologyKey");
    if term.topology_key.is_empty() {
        problems.push(FieldError::required(&at, "can not be empty"));
    }
    label_name(&term.topology_key, &at, problems);
}

/// Problems of constraints on how pods are spread.
pub fn spread(constraints: &[TopologySpreadConstraint], path: &FieldPath, problems: &mut Vec<FieldError>) {
    const POSITIVE: &str = "must be greater than zero";
    let identity = |constraint: &TopologySpreadConstraint| (constraint.topology_key.clone(), constraint.when_unsatisfiable.clone());
    for (index, constraint) in constraints.iter().enumerate() {
        let at = path.index(index);
        if constraint.max_skew <= 0 {
            problems.push(FieldError::invalid(&at.child("maxSkew"), constraint.max_skew, POSITIVE));
        }
        if constraint.topology_key.is_empty() {
            problems.push(FieldError::required(&at.child("topologyKey"), "can not be empty"));
        }
        let action = constraint.when_unsatisfiable.as_str();
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            problems.push(FieldError::not_supported(&at.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]));
        }
        if constraints.iter().skip(index + 1).any(|other| identity(other) == identity(constraint)) {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            problems.push(FieldError::duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        if let Some(domains) = constraint.min_domains {
            if domains <= 0 {
                problems.push(FieldError::invalid(&at.child("minDomains"), domains, POSITIVE));
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                problems.push(FieldError::invalid(&at.child("minDomains"), domains, detail));
            }
        }
        for (field, policy) in [("nodeAffinityPolicy", &constraint.node_affinity_policy), ("nodeTaintsPolicy", &constraint.node_taints_policy)] {
            if let Some(policy) = policy {
                one_of(policy, &["Honor", "Ignore"], &at.child(field), problems);
            }
        }
        spread_keys(constraint.match_label_keys.as_deref().unwrap_or_default(), constraint.label_selector.as_ref(), &at.child("matchLabelKeys"), problems);
        if let Some(selector) = &constraint.label_selector {
            problems.extend(label_selector(selector, &at.child("labelSelector")));
        }
    }
}

fn spread_keys(keys: &[String], selector: Option<&LabelSelector>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if keys.is_empty() {
        return;
    }
    let mut selected: HashSet<&str> = HashSet::new();
    match selector {
        None => problems.push(FieldError::forbidden(path, "must not be specified when labelSelector is not set")),
        Some(selector) => {
            selected.extend(selector.match_labels.iter().flatten().map(|(key, _)| key.as_str()));
            selected.extend(selector.match_expressions.iter().flatten().map(|requirement| requirement.key.as_str()));
        }
    }
    for (index, key) in keys.iter().enumerate() {
        label_name(key, &path.index(index), problems);
        if selected.contains(key.as_str()) {
            problems.push(FieldError::invalid(&path.index(index), key.as_str(), "exists in both matchLabelKeys and labelSelector"));
        }
    }
}

/// Whether a change of the affinity to nodes of a pod that is held back only narrows where it may go.
///
/// Source: `validateNodeAffinityMutation`.
pub fn only_narrowed(new: Option<&Affinity>, old: Option<&Affinity>, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let terms = |affinity: Option<&Affinity>| -> Vec<NodeSelectorTerm> {
        let required = affinity.and_then(|affinity| affinity.node_affinity.as_ref()).and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
        required.map(|selector| selector.node_selector_terms.clone()).unwrap_or_default()
    };
    let (new, old) = (terms(new), terms(old));
    let at = path.child(REQUIRED).child("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        let shown = serde_json::to_value(&new).unwrap_or_default();
        problems.push(FieldError::invalid(&at, shown, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"));
        return;
    }
    let grows = |new: Option<&[NodeSelectorRequirement]>, old: Option<&[NodeSelectorRequirement]>| new.unwrap_or_default().starts_with(old.unwrap_or_default());
    for (index, (new, old)) in new.iter().zip(&old).enumerate() {
        let was_empty = old.match_expressions.as_ref().is_none_or(Vec::is_empty) && old.match_fields.as_ref().is_none_or(Vec::is_empty);
        let is_empty = new.match_expressions.as_ref().is_none_or(Vec::is_empty) && new.match_fields.as_ref().is_none_or(Vec::is_empty);
        let fine = grows(new.match_expressions.as_deref(), old.match_expressions.as_deref()) && grows(new.match_fields.as_deref(), old.match_fields.as_deref());
        if (was_empty && !is_empty) || !fine {
            let shown = serde_json::to_value(new).unwrap_or_default();
            problems.push(FieldError::invalid(&at.index(index), shown, "only additions are allowed (no mutations or deletions)"));
        }
    }
}

