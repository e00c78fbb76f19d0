//! An object against the structural schema of its kind.

use serde_json::{Map, Value};

use super::rules;
use crate::{
    field::{FieldError, FieldPath},
    object::Object,
    schema::{Item, ListType, ObjectType, Rules, Schema, Shape, Types},
    validation::{NameRule, dns1035_label_problems, validate_object_meta},
};

/// What an object breaks of its schema's types and value rules. Expressions (`x-kubernetes-validations`) are not evaluated.
pub fn validate(schema: &Schema, object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let root = schema.root();
    check_fields(&schema.types, root, &object.0, &FieldPath::root(), &mut errors);
    if let Some(rules) = &root.rules {
        check_rules(rules, &Value::Object(object.0.clone()), &FieldPath::root(), &mut errors);
    }
    errors
}

fn check_fields(types: &Types, of: &ObjectType, map: &Map<String, Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    // Built-in types (metadata) have been checked by the reader, and have validation of their own.
    if !of.name.is_empty() {
        return;
    }
    for field in &of.fields {
        match map.get(&*field.name) {
            Some(value) => check_item(types, &field.item, value, &path.child(&field.name), errors),
            None if field.required => errors.push(FieldError::required(&path.child(&field.name), "")),
            None => {}
        }
    }
    if of.embedded_resource && !path.as_str().is_empty() {
        check_embedded(map, path, errors);
    }
}

/// An object within an object says what it is, and its metadata are such as any object may have.
///
/// Source: Kubernetes `apiextensions-apiserver/pkg/apiserver/schema/objectmeta/validation.go`, `validateEmbeddedResource`.
fn check_embedded(map: &Map<String, Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match map.get(name).and_then(Value::as_str) {
            None => errors.push(FieldError::required(&at, "must not be empty")),
            Some("") => errors.push(FieldError::invalid(&at, "", "must not be empty")),
            Some(version) if name == "apiVersion" && version.matches('/').count() > 1 => {
                errors.push(FieldError::invalid(&at, version, format!("unexpected GroupVersion string: {version}")));
            }
            Some(kind) if name == "kind" => {
                let problems = dns1035_label_problems(&kind.to_lowercase());
                if !problems.is_empty() {
                    errors.push(FieldError::invalid(&at, kind, format!("may have mixed case, but should otherwise match: {}", problems.join(","))));
                }
            }
            Some(_) => {}
        }
    }
    if let Some(Value::Object(metadata)) = map.get("metadata") {
        let mut object = Object(Map::from_iter([("metadata".to_owned(), Value::Object(metadata.clone()))]));
        if object.name().is_empty() {
            // It needs none.
            object.set(&["metadata", "name"], Value::String("fakename".to_owned()));
        }
        let namespaced = !object.namespace().is_empty();
        errors.extend(validate_object_meta(&object, namespaced, NameRule::PathSegment, &path.child("metadata")));
    }
}

fn check_rules(rules: &Rules, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    rules::check(rules, value, path, errors);
    if let Some(logical) = &rules.logical {
        check_logical(logical, value, path, errors);
    }
}

fn wrong_type(wanted: &str, value: &Value, path: &FieldPath) -> FieldError {
    let found = type_name(value);
    FieldError::type_invalid(path, found, format!("{path} in body must be of type {wanted}: {found:?}"))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn check_item(types: &Types, item: &Item, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if value.is_null() && item.nullable {
        return;
    }
    let wanted = match (&item.shape, value) {
        (Shape::Any, _) => None,
        (Shape::IntOrString, value) => (!(value.is_string() || is_whole(value))).then_some("integer,string"),
        (Shape::String | Shape::Time | Shape::MicroTime | Shape::Bytes | Shape::Quantity, value) => (!value.is_string()).then_some("string"),
        (Shape::Boolean, value) => (!value.is_boolean()).then_some("boolean"),
        (Shape::Integer32 | Shape::Integer64, value) => (!is_whole(value)).then_some("integer"),
        (Shape::Double, value) => (!value.is_number()).then_some("number"),
        (Shape::Object(_) | Shape::Map { .. } | Shape::FieldsV1, value) => (!value.is_object()).then_some("object"),
        (Shape::List { .. }, value) => (!value.is_array()).then_some("array"),
    };
    if let Some(wanted) = wanted {
        errors.push(wrong_type(wanted, value, path));
        return;
    }
    match (&item.shape, value) {
        (Shape::Object(index), Value::Object(map)) => {
            let of = types.object(*index);
            check_fields(types, of, map, path, errors);
            if let Some(rules) = &of.rules {
                check_rules(rules, value, path, errors);
            }
        }
        (Shape::Map { values, .. }, Value::Object(map)) => {
            for (key, value) in map {
                check_item(types, values, value, &path.child(key), errors);
            }
        }
        (Shape::List { items, list: kind }, Value::Array(list)) => {
            for (index, value) in list.iter().enumerate() {
                check_item(types, items, value, &path.index(index), errors);
            }
            check_distinct(kind, list, path, errors);
        }
        _ => {}
    }
    if let Some(rules) = &item.rules {
        check_rules(rules, value, path, errors);
    }
}

/// Elements of sets and keyed lists must differ.
fn check_distinct(kind: &ListType, list: &[Value], path: &FieldPath, errors: &mut Vec<FieldError>) {
    let identity = |value: &Value| match kind {
        ListType::Atomic => None,
        ListType::Set => Some(value.clone()),
        ListType::Map(keys) => {
            let map = value.as_object()?;
            Some(Value::Object(keys.iter().filter_map(|key| map.get(&**key).map(|value| (key.to_string(), value.clone()))).collect()))
        }
    };
    let mut seen = std::collections::HashSet::new();
    for (index, value) in list.iter().enumerate() {
        if let Some(identity) = identity(value)
            && !seen.insert(identity.to_string()) {
                errors.push(FieldError::duplicate(&path.index(index), identity));
            }
    }
}

fn check_logical(logical: &Value, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let list = |name: &str| logical.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut fail = |detail: &str| {
        let name = path.as_str();
        errors.push(FieldError::invalid(path, "", format!("{name:?} must {detail}")));
    };
    let problems = |schema: &Value| {
        let mut problems = Vec::new();
        check_json(schema, value, path, &mut problems);
        problems
    };
    // Each alternative is evaluated once: nested alternatives would otherwise cost exponentially.
    let all_problems = |name: &str| -> Vec<Vec<FieldError>> { list(name).iter().map(problems).collect() };
    let mut more = Vec::new();
    let any_of = all_problems("anyOf");
    if !any_of.is_empty() && !any_of.iter().any(Vec::is_empty) {
        fail("validate at least one schema (anyOf)");
        more.extend(closest(any_of));
    }
    let one_of = all_problems("oneOf");
    if !one_of.is_empty() {
        match one_of.iter().filter(|problems| problems.is_empty()).count() {
            1 => {}
            0 => {
                fail("validate one and only one schema (oneOf). Found none valid");
                more.extend(closest(one_of));
            }
            found => fail(&format!("validate one and only one schema (oneOf). Found {found} valid alternatives")),
        }
    }
    let all_of = all_problems("allOf");
    if all_of.iter().any(|problems| !problems.is_empty()) {
        let none = all_of.iter().all(|problems| !problems.is_empty());
        fail(if none { "validate all the schemas (allOf). None validated" } else { "validate all the schemas (allOf)" });
        more.extend(all_of.into_iter().flatten());
    }
    if logical.get("not").is_some_and(|schema| problems(schema).is_empty()) {
        fail("not validate the schema (not)");
    }
    errors.extend(more);
}

/// The alternative that was missed by the least.
fn closest(alternatives: Vec<Vec<FieldError>>) -> Vec<FieldError> {
    alternatives.into_iter().min_by_key(Vec::len).unwrap_or_default()
}

/// A value against a schema in JSON, as it stands in logical rules.
pub(super) fn check_json(schema: &Value, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if let Some(wanted) = schema.get("type").and_then(Value::as_str) {
        let fits = match wanted {
            "integer" => is_whole(value),
            "number" => value.is_number(),
            other => other == type_name(value),
        };
        let may_be_null = schema.get("nullable").and_then(Value::as_bool) == Some(true);
        if !(fits || value.is_null() && may_be_null) {
            errors.push(wrong_type(wanted, value, path));
            return;
        }
    }
    if schema.get("x-kubernetes-int-or-string").and_then(Value::as_bool) == Some(true) && !(value.is_string() || is_whole(value)) {
        errors.push(wrong_type("integer,string", value, path));
        return;
    }
    match value {
        Value::Object(map) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            for (name, value) in map {
                let schema = properties.and_then(|properties| properties.get(name)).or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()));
                if let Some(schema) = schema {
                    check_json(schema, value, &path.child(name), errors);
                }
            }
        }
        Value::Array(list) => {
            if let Some(schema) = schema.get("items") {
                for (index, value) in list.iter().enumerate() {
                    check_json(schema, value, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
    if let Some(rules) = rules::rules_of(schema) {
        check_rules(&rules, value, path, errors);
    }
}
