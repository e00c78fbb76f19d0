//! RoleBinding and ClusterRoleBinding: who may do what a role says.

use api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use super::GROUP;
use crate::{
    cells,
    problems::filled,
    strategy::{Column, NameRule, Strategy},
};

/// Behaviour of role bindings.
pub struct RoleBindingStrategy;
/// Behaviour of cluster role bindings.
pub struct ClusterRoleBindingStrategy;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Role", "What may be done."),
    Column::AGE,
    Column::text("Users", "Users who may.").wide(),
    Column::text("Groups", "Groups that may.").wide(),
    Column::text("ServiceAccounts", "Service accounts that may.").wide(),
];

fn default_subjects(subjects: Option<&mut Vec<Subject>>) {
    for subject in subjects.into_iter().flatten() {
        if matches!(subject.kind.as_str(), "User" | "Group") && subject.api_group.as_deref().unwrap_or_default().is_empty() {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

fn validate(reference: &RoleRef, subjects: Option<&Vec<Subject>>, namespaced: bool) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let path = FieldPath::new("roleRef");
    let group = reference.api_group.as_deref().unwrap_or_default();
    if group != GROUP {
        problems.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&reference.kind.as_str()) {
        problems.push(FieldError::not_supported(&path.child("kind"), reference.kind.as_str(), kinds));
    }
    if reference.name.is_empty() {
        problems.push(FieldError::required(&path.child("name"), ""));
    } else {
        problems.extend(rules::invalid_each(&path.child("name"), &reference.name, rules::path_segment_problems(&reference.name)));
    }
    for (index, subject) in subjects.into_iter().flatten().enumerate() {
        let at = FieldPath::new("subjects").index(index);
        filled(&subject.name, &at.child("name"), &mut problems);
        let group = subject.api_group.as_deref().unwrap_or_default();
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    problems.extend(rules::invalid_each(&at.child("name"), &subject.name, rules::dns1123_subdomain_problems(&subject.name)));
                }
                if !group.is_empty() {
                    problems.push(FieldError::not_supported(&at.child("apiGroup"), group, &[""]));
                }
                filled(subject.namespace.as_deref().unwrap_or_default(), &at.child("namespace"), &mut problems);
            }
            "User" | "Group" => {
                if group != GROUP {
                    problems.push(FieldError::not_supported(&at.child("apiGroup"), group, &[GROUP]));
                }
            }
            other => problems.push(FieldError::not_supported(&at.child("kind"), other, &["ServiceAccount", "User", "Group"])),
        }
    }
    problems
}

fn same_role(new: &RoleRef, old: &RoleRef, problems: &mut Vec<FieldError>) {
    if new != old {
        problems.push(FieldError::invalid(&FieldPath::new("roleRef"), serde_json::to_value(new).unwrap_or_default(), "cannot change roleRef"));
    }
}

fn cells_of(reference: &RoleRef, subjects: Option<&Vec<Subject>>, raw: &Object) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let names: Vec<String> = subjects
            .into_iter()
            .flatten()
            .filter(|subject| subject.kind == kind)
            .map(|subject| match &subject.namespace {
                Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{}", subject.name),
                _ => subject.name.clone(),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        raw.name().into(),
        format!("{}/{}", reference.kind, reference.name).into(),
        cells::created(raw),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

impl Strategy for RoleBindingStrategy {
    type Kind = RoleBinding;

    fn default(&self, binding: &mut RoleBinding) {
        default_subjects(binding.subjects.as_mut());
    }
    fn validate(&self, binding: &RoleBinding) -> Vec<FieldError> {
        validate(&binding.role_ref, binding.subjects.as_ref(), true)
    }
    fn validate_update(&self, binding: &RoleBinding, old: &RoleBinding) -> Vec<FieldError> {
        let mut problems = self.validate(binding);
        same_role(&binding.role_ref, &old.role_ref, &mut problems);
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
    fn row(&self, binding: &RoleBinding, raw: &Object, _now: Timestamp) -> Vec<Value> {
        cells_of(&binding.role_ref, binding.subjects.as_ref(), raw)
    }
}

impl Strategy for ClusterRoleBindingStrategy {
    type Kind = ClusterRoleBinding;

    fn default(&self, binding: &mut ClusterRoleBinding) {
        default_subjects(binding.subjects.as_mut());
    }
    fn validate(&self, binding: &ClusterRoleBinding) -> Vec<FieldError> {
        validate(&binding.role_ref, binding.subjects.as_ref(), false)
    }
    fn validate_update(&self, binding: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Vec<FieldError> {
        let mut problems = self.validate(binding);
        same_role(&binding.role_ref, &old.role_ref, &mut problems);
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
    fn row(&self, binding: &ClusterRoleBinding, raw: &Object, _now: Timestamp) -> Vec<Value> {
        cells_of(&binding.role_ref, binding.subjects.as_ref(), raw)
    }
}
