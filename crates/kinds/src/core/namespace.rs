//! Namespace: a scope of names.

use api::core::v1::Namespace;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    strategy::{Column, NameRule, Strategy, WriteContext},
};

/// Behaviour of namespaces.
pub struct NamespaceStrategy;

fn label_with_name(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
        namespace.metadata.labels.get_or_insert_default().insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

/// What is wrong with a finalizer of a namespace.
/// Source: Kubernetes 1.36, `validateFinalizerName`.
pub fn finalizer_problems(finalizer: &str, path: &FieldPath) -> Vec<FieldError> {
    let mut problems = meta::validation::invalid_each(path, finalizer, meta::validation::qualified_name_problems(finalizer));
    if !finalizer.contains('/') && finalizer != "kubernetes" {
        problems.push(FieldError::invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified"));
    }
    problems
}

impl Strategy for NamespaceStrategy {
    type Kind = Namespace;

    fn default(&self, namespace: &mut Namespace) {
        label_with_name(namespace);
    }
    fn prepare_create(&self, _context: &WriteContext, namespace: &mut Namespace) {
        // A generated name is known only now.
        label_with_name(namespace);
        let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
            finalizers.push("kubernetes".to_owned());
        }
    }
    fn prepare_update(&self, _context: &WriteContext, namespace: &mut Namespace, old: &Namespace) {
        // Only the finalize subresource takes finalizers away.
        namespace.spec.clone_from(&old.spec);
    }
    fn validate(&self, namespace: &Namespace) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec").child("finalizers");
        for finalizer in namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()) {
            problems.extend(finalizer_problems(finalizer, &path));
        }
        problems
    }
    fn validate_status_update(&self, namespace: &Namespace, _old: &Namespace) -> Vec<FieldError> {
        let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let path = FieldPath::new("status").child("Phase");
        match (namespace.metadata.deletion_timestamp.is_some(), phase) {
            (true, phase) if phase != "Terminating" => vec![FieldError::invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")],
            (false, phase) if phase != "Active" => vec![FieldError::invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty")],
            _ => Vec::new(),
        }
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Label
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["status.phase", "name"]
    }
    fn selectable_fields(&self, namespace: &Namespace) -> Vec<(&'static str, String)> {
        vec![
            ("status.phase", namespace.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()),
            ("name", namespace.metadata.name.clone().unwrap_or_default()),
        ]
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Status", "Whether it is in use or going away."), Column::AGE] }
    }
    fn row(&self, namespace: &Namespace, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::text(namespace.status.as_ref().and_then(|status| status.phase.as_deref())), cells::created(raw)]
    }
}
