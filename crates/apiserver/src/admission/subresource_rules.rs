//! What `namespaces/finalize` and `certificatesigningrequests/approval` may change: nothing but what they are for.
//!
//! First in the chain, so that everybody after it sees what will be written. Source: the strategies of the two in
//! Kubernetes `pkg/registry`.

use async_trait::async_trait;
use meta::{ApiError, FieldError, FieldPath, Object};
use serde_json::{Value, json};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::{Core, format_time},
};

/// The plug-in.
pub struct SubresourceRules;

fn list<'a>(object: &'a Object, path: &[&str]) -> &'a [Value] {
    object.get(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn of_type<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|known| known.get("type").and_then(Value::as_str) == Some(kind))
}

fn restore(new: &mut Object, old: &Object, field: &str) {
    match old.0.get(field) {
        Some(value) => new.0.insert(field.to_owned(), value.clone()),
        None => new.0.remove(field),
    };
}

/// Keeps everything but the conditions, and fills in their times.
fn approve(new: &mut Object, old: &Object, now: &str) -> Vec<FieldError> {
    let mut conditions = list(new, &["status", "conditions"]).to_vec();
    let before = list(old, &["status", "conditions"]);
    restore(new, old, "spec");
    restore(new, old, "status");
    let path = FieldPath::new("status").child("conditions");
    let mut problems = Vec::new();
    for condition in &mut conditions {
        let kind = condition.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = condition.get("status").and_then(Value::as_str).unwrap_or("True").to_owned();
        let known = of_type(before, &kind);
        if matches!(kind.as_str(), "Approved" | "Denied" | "Failed") && status != "True" {
            problems.push(FieldError::not_supported(&path.child("status"), status.as_str(), &["True"]));
        }
        let same = known.is_some_and(|known| known.get("status").and_then(Value::as_str) == Some(status.as_str()));
        let since = known.filter(|_| same).and_then(|known| known.get("lastTransitionTime")).cloned();
        let Some(fields) = condition.as_object_mut() else { continue };
        fields.insert("status".to_owned(), json!(status));
        for (field, value) in [("lastUpdateTime", json!(now)), ("lastTransitionTime", since.unwrap_or_else(|| json!(now)))] {
            if fields.get(field).is_none_or(Value::is_null) {
                fields.insert(field.to_owned(), value);
            }
        }
    }
    if of_type(&conditions, "Approved").is_some() && of_type(&conditions, "Denied").is_some() {
        problems.push(FieldError::invalid(&path, "Approved", "Approved and Denied conditions are mutually exclusive"));
    }
    for kind in ["Approved", "Denied"] {
        if of_type(before, kind).is_some() && of_type(&conditions, kind).is_none() {
            problems.push(FieldError::forbidden(&path, format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    if !conditions.is_empty() {
        new.set(&["status", "conditions"], Value::Array(conditions));
    }
    problems
}

/// What is wrong with the finalizers that a namespace is to have.
/// Source: Kubernetes 1.36, `ValidateNamespaceFinalizeUpdate`.
fn finalizers(namespace: &Object) -> Vec<FieldError> {
    let path = FieldPath::new("spec").child("finalizers");
    let names = list(namespace, &["spec", "finalizers"]).iter().filter_map(Value::as_str).enumerate();
    names.flat_map(|(index, name)| kinds::core::namespace::finalizer_problems(name, &path.index(index))).collect()
}

#[async_trait]
impl AdmissionPlugin for SubresourceRules {
    fn name(&self) -> &'static str {
        "SubresourceRules"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        let (Operation::Update, Some(new), Some(old)) = (attributes.operation, object, old) else { return Ok(()) };
        let problems = match (&*info.kind.group, &*info.plural, attributes.subresource) {
            ("", "namespaces", "finalize") => {
                restore(new, old, "status");
                finalizers(new)
            }
            ("certificates.k8s.io", "certificatesigningrequests", "approval") => approve(new, old, &format_time((core.clock)())),
            _ => Vec::new(),
        };
        if problems.is_empty() { Ok(()) } else { Err(ApiError::invalid(&info.group_kind(), attributes.name, problems)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(conditions: Value, spec: &str) -> Object {
        Object::from_value(json!({"metadata": {"name": "c"}, "spec": {"signerName": spec}, "status": {"conditions": conditions}})).unwrap()
    }

    #[test]
    fn a_namespace_may_only_wait_for_finalizers_that_it_could_have() {
        let namespace = Object::from_value(json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes", "mine", "a.b/c", "a b/c"]}})).unwrap();
        let problems = finalizers(&namespace);
        let fields: Vec<_> = problems.iter().map(|problem| problem.path.to_string()).collect();
        assert_eq!(fields, ["spec.finalizers[1]", "spec.finalizers[3]"], "{problems:?}");
    }

    #[test]
    fn an_approval_changes_conditions_only_and_gets_its_times() {
        let old = request(json!([]), "a");
        let mut new = request(json!([{"type": "Approved", "status": "True"}]), "b");
        assert!(approve(&mut new, &old, "now").is_empty());
        assert_eq!(new.text(&["spec", "signerName"]), Some("a"));
        assert_eq!(list(&new, &["status", "conditions"])[0]["lastTransitionTime"], "now");
    }

    #[test]
    fn nothing_is_approved_and_denied_and_no_verdict_is_taken_back() {
        let old = request(json!([{"type": "Approved", "status": "True"}]), "a");
        assert_eq!(approve(&mut request(json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]), "a"), &old, "").len(), 1);
        assert_eq!(approve(&mut request(json!([]), "a"), &old, "").len(), 1);
    }
}
