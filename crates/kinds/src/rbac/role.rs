//! Role and ClusterRole: what may be done.

use api::rbac::v1::{ClusterRole, PolicyRule, Role};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::label_selector,
    strategy::{Column, NameRule, Strategy},
};

/// Behaviour of roles.
pub struct RoleStrategy;
/// Behaviour of cluster roles.
pub struct ClusterRoleStrategy;

const COLUMNS: &[Column] = &[Column::NAME, Column { name: "Created At", ..Column::AGE }];

fn validate_rules(rules: Option<&Vec<PolicyRule>>, namespaced: bool, problems: &mut Vec<FieldError>) {
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let path = FieldPath::new("rules").index(index);
        let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        if rule.verbs.is_empty() {
            problems.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if given(&rule.non_resource_urls) {
            let urls = rule.non_resource_urls.clone().unwrap_or_default();
            if namespaced {
                problems.push(FieldError::invalid(&path.child("nonResourceURLs"), urls.clone(), "namespaced rules cannot apply to non-resource URLs"));
            }
            if given(&rule.api_groups) || given(&rule.resources) || given(&rule.resource_names) {
                problems.push(FieldError::invalid(&path.child("nonResourceURLs"), urls, "rules cannot apply to both regular resources and non-resource URLs"));
            }
            continue;
        }
        if !given(&rule.api_groups) {
            problems.push(FieldError::required(&path.child("apiGroups"), "resource rules must supply at least one api group"));
        }
        if !given(&rule.resources) {
            problems.push(FieldError::required(&path.child("resources"), "resource rules must supply at least one resource"));
        }
    }
}

impl Strategy for RoleStrategy {
    type Kind = Role;

    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, role: &Role) -> Vec<FieldError> {
        let mut problems = Vec::new();
        validate_rules(role.rules.as_ref(), true, &mut problems);
        problems
    }
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, _role: &Role, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::created(raw)]
    }
}

impl Strategy for ClusterRoleStrategy {
    type Kind = ClusterRole;

    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, role: &ClusterRole) -> Vec<FieldError> {
        let mut problems = Vec::new();
        validate_rules(role.rules.as_ref(), false, &mut problems);
        if let Some(aggregation) = &role.aggregation_rule {
            let path = FieldPath::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
            if selectors.is_empty() {
                problems.push(FieldError::required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil"));
            }
            for (index, selector) in selectors.iter().enumerate() {
                problems.extend(label_selector(selector, &path.index(index)));
            }
        }
        problems
    }
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, _role: &ClusterRole, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::created(raw)]
    }
}
