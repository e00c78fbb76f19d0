//! `metadata`, the same for every kind: when created, and what an update may change.

use serde_json::Value;

use super::{invalid_each, names::NameRule, qualified_name_problems, validate_labels};
use crate::{
    field::{FieldError, FieldPath},
    names::GroupVersion,
    object::Object,
};

/// Largest sum of keys and values of annotations, in bytes.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
const MAX_MANAGER_BYTES: usize = 128;
const MAX_SUBRESOURCE_BYTES: usize = 256;
const IMMUTABLE: &str = "field is immutable";

fn texts<'a>(object: &'a Object, name: &str) -> Vec<&'a str> {
    let list = object.get(&["metadata", name]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Metadata of a new object; its name must have been generated already.
pub fn validate_object_meta(object: &Object, namespaced: bool, name_rule: NameRule, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (name, generate_name, namespace) = (object.name(), object.generate_name(), object.namespace());
    if !generate_name.is_empty() {
        errors.extend(invalid_each(&path.child("generateName"), generate_name, name_rule.problems(generate_name, true)));
    }
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
    } else {
        errors.extend(invalid_each(&path.child("name"), name, name_rule.problems(name, false)));
    }
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(&path.child("namespace"), "")),
        (true, false) => errors.extend(invalid_each(&path.child("namespace"), namespace, NameRule::Dns1123Label.problems(namespace, false))),
        (false, false) => errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type")),
        (false, true) => {}
    }
    if object.generation() < 0 {
        errors.push(FieldError::invalid(&path.child("generation"), object.generation(), "must be greater than or equal to 0"));
    }
    errors.extend(common(object, path));
    errors.extend(validate_finalizer_names(&texts(object, "finalizers"), &path.child("finalizers")));
    errors
}

/// What is judged the same at creation and update.
fn common(object: &Object, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(labels) = object.labels() {
        errors.extend(validate_labels(labels, &path.child("labels")));
    }
    if let Some(annotations) = object.annotations() {
        errors.extend(validate_annotations(annotations, &path.child("annotations")));
    }
    if let Some(owners) = object.get(&["metadata", "ownerReferences"]).and_then(Value::as_array) {
        errors.extend(validate_owner_references(owners, &path.child("ownerReferences")));
    }
    if let Some(managers) = object.get(&["metadata", "managedFields"]).and_then(Value::as_array) {
        errors.extend(validate_managed_fields(managers, &path.child("managedFields")));
    }
    errors
}

/// Keys and total size of annotations.
pub fn validate_annotations(annotations: &serde_json::Map<String, Value>, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in annotations {
        if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            errors.extend(invalid_each(path, key, qualified_name_problems(&key.to_ascii_lowercase())));
        } else {
            errors.extend(invalid_each(path, key, qualified_name_problems(key)));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > MAX_ANNOTATION_BYTES {
        errors.push(FieldError::too_long(path, MAX_ANNOTATION_BYTES));
    }
    errors
}

fn validate_owner_references(owners: &[Value], path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for owner in owners {
        let text = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or_default();
        let api_version = GroupVersion::parse(text("apiVersion"));
        if api_version.version.is_empty() {
            errors.push(FieldError::invalid(&path.child("apiVersion"), text("apiVersion"), "version must not be empty"));
        }
        for name in ["kind", "name", "uid"] {
            if text(name).is_empty() {
                errors.push(FieldError::invalid(&path.child(name), "", "must not be empty"));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            errors.push(FieldError::invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => errors.push(FieldError::invalid(
                    path,
                    Value::Array(owners.to_vec()),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                )),
            }
        }
    }
    errors
}

/// Names of finalizers, and that garbage collection is not told two things.
pub fn validate_finalizer_names(finalizers: &[&str], path: &FieldPath) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        finalizers.iter().flat_map(|finalizer| invalid_each(path, finalizer, qualified_name_problems(finalizer))).collect();
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        let list: Vec<Value> = finalizers.iter().map(|finalizer| Value::from(*finalizer)).collect();
        errors.push(FieldError::invalid(path, list, "finalizer orphan and foregroundDeletion cannot be both set"));
    }
    errors
}

/// Names of field managers, as in `managedFields` and the query parameter.
pub fn validate_field_manager(manager: &str, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > MAX_MANAGER_BYTES {
        errors.push(FieldError::too_long(path, MAX_MANAGER_BYTES));
    }
    for (position, character) in manager.char_indices().filter(|(_, character)| character.is_control()) {
        let code = u32::from(character);
        errors.push(FieldError::invalid(path, manager, format!("invalid character U+{code:04X} (at position {position})")));
    }
    errors
}

fn validate_managed_fields(entries: &[Value], path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = path.index(index);
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            errors.push(FieldError::invalid(&path.child("operation"), text("operation"), "must be `Apply` or `Update`"));
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            errors.push(FieldError::invalid(&path.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`"));
        }
        errors.extend(validate_field_manager(text("manager"), &path.child("manager")));
        if text("subresource").len() > MAX_SUBRESOURCE_BYTES {
            errors.push(FieldError::too_long(&path.child("subresource"), MAX_SUBRESOURCE_BYTES));
        }
    }
    errors
}

/// What an update may change of the metadata; paths start at `metadata`.
pub fn validate_object_meta_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let path = FieldPath::new("metadata");
    let mut errors = Vec::new();
    if old.deletion_timestamp().is_some() {
        let kept = texts(old, "finalizers");
        let mut added: Vec<&str> = texts(new, "finalizers").into_iter().filter(|finalizer| !kept.contains(finalizer)).collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
            errors.push(FieldError::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    list.join(", ")
                ),
            ));
        }
    }
    if new.resource_version().is_empty() {
        errors.push(FieldError::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    if new.generation() < old.generation() {
        errors.push(FieldError::invalid(&path.child("generation"), new.generation(), "must not be decremented"));
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let [before, after] = [old, new].map(|object| object.get(&["metadata", name]).filter(|value| value.as_str() != Some("")));
        if before != after {
            let shown = after.cloned().unwrap_or(if before.is_some_and(Value::is_number) || name.ends_with("Timestamp") {
                Value::Null
            } else {
                Value::from("")
            });
            errors.push(FieldError::invalid(&path.child(name), shown, IMMUTABLE));
        }
    }
    errors.extend(common(new, &path));
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[track_caller]
    fn check(metadata: Value, expected: &[&str]) {
        let object = object(json!({"metadata": metadata}));
        let errors = validate_object_meta(&object, true, NameRule::Dns1123Subdomain, &FieldPath::new("metadata"));
        let starts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(starts.len(), expected.len(), "{starts:#?}");
        for (text, expected) in starts.iter().zip(expected) {
            assert!(text.starts_with(expected), "{text} should start with {expected}");
        }
    }

    #[test]
    fn new_metadata_is_judged() {
        check(json!({"name": "web", "namespace": "default"}), &[]);
        check(json!({"namespace": "default"}), &["metadata.name: Required value: name or generateName is required"]);
        check(json!({"name": "web"}), &["metadata.namespace: Required value"]);
        check(json!({"name": "Web", "namespace": "default"}), &["metadata.name: Invalid value: \"Web\": a lowercase RFC 1123 subdomain"]);
        check(
            json!({"name": "web", "namespace": "default", "generateName": "W-", "labels": {"a": "-"}, "annotations": {"EXAMPLE.com/A": "", "a b": "c"}}),
            &["metadata.generateName: Invalid value", "metadata.labels: Invalid value: \"-\"", "metadata.annotations: Invalid value: \"a b\""],
        );
        check(
            json!({"name": "web", "namespace": "default", "annotations": {"a": "x".repeat(MAX_ANNOTATION_BYTES)}}),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
        check(
            json!({"name": "web", "namespace": "default", "finalizers": ["orphan", "foregroundDeletion", "a/b/c"]}),
            &["metadata.finalizers: Invalid value: \"a/b/c\"", "metadata.finalizers: Invalid value: [\"orphan\""],
        );
        check(
            json!({"name": "web", "namespace": "default", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Event", "name": "x", "uid": "1", "controller": true},
                {"apiVersion": "", "kind": "A", "name": "", "uid": "1", "controller": true},
            ]}),
            &[
                "metadata.ownerReferences: Invalid value: {",
                "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty",
                "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
                "metadata.ownerReferences: Invalid value: [",
            ],
        );
        check(
            json!({"name": "web", "namespace": "default", "managedFields": [{"operation": "Guess", "fieldsType": "x", "manager": "a\u{1}"}]}),
            &["metadata.managedFields[0].operation", "metadata.managedFields[0].fieldsType", "metadata.managedFields[0].manager"],
        );
    }

    #[test]
    fn what_names_an_object_never_changes() {
        let old = object(json!({"metadata": {"name": "a", "namespace": "n", "uid": "1", "resourceVersion": "5", "generation": 2}}));
        assert_eq!(validate_object_meta_update(&old, &old), []);
        let new = object(json!({"metadata": {"name": "b", "uid": "2", "resourceVersion": "", "generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        let texts: Vec<String> = validate_object_meta_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.namespace: Invalid value: \"\": field is immutable",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: \"2026-01-01T00:00:00Z\": field is immutable",
            ]
        );
    }

    #[test]
    fn no_finalizer_is_added_to_what_is_being_deleted() {
        let meta = |finalizers: Value| {
            object(json!({"metadata": {"name": "a", "resourceVersion": "1", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}}))
        };
        assert_eq!(validate_object_meta_update(&meta(json!([])), &meta(json!(["x.io/a"]))), []);
        let errors = validate_object_meta_update(&meta(json!(["x.io/a", "x.io/b"])), &meta(json!(["x.io/a"])));
        assert_eq!(
            errors[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x.io/b\"}"
        );
    }
}
