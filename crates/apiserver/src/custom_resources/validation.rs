//! What is wrong with a CustomResourceDefinition, in upstream's words.
//!
//! Source: Kubernetes `apiextensions-apiserver/pkg/apis/apiextensions/validation`.

use std::collections::BTreeSet;

use meta::{FieldError, FieldPath, Object, validation::NameRule};
use serde_json::Value;

use super::{
    conditions::{self, APPROVAL},
    json_path::JsonPath,
    kind::{raw_schema, shape},
};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// Source: upstream's `MaxSelectableFields`.
const MAXIMUM_SELECTABLE_FIELDS: usize = 8;

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn versions(definition: &Object) -> &[Value] {
    definition.get(&["spec", "versions"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn is_set(version: &Value, name: &str) -> bool {
    version.get(name).and_then(Value::as_bool) == Some(true)
}

/// A new definition.
pub fn definition(new: &Object) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let spec = FieldPath::new("spec");
    let group = new.text(&["spec", "group"]).unwrap_or_default();
    let wanted = format!("{}.{group}", new.text(&["spec", "names", "plural"]).unwrap_or_default());
    if new.name() != wanted {
        problems.push(FieldError::invalid(&FieldPath::new("metadata").child("name"), new.name(), "must be spec.names.plural+\".\"+spec.group"));
    }
    approval(new, &mut problems);
    if group.is_empty() {
        problems.push(FieldError::required(&spec.child("group"), ""));
    } else {
        let wrong = NameRule::Dns1123Subdomain.problems(group, false);
        if !wrong.is_empty() {
            problems.push(FieldError::invalid(&spec.child("group"), group, wrong.join(",")));
        } else if !group.contains('.') {
            problems.push(FieldError::invalid(&spec.child("group"), group, "should be a domain with at least one dot"));
        }
    }
    match new.text(&["spec", "scope"]).unwrap_or_default() {
        "Cluster" | "Namespaced" => {}
        "" => problems.push(FieldError::required(&spec.child("scope"), "")),
        other => problems.push(FieldError::not_supported(&spec.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    if new.get(&["spec", "preserveUnknownFields"]).and_then(Value::as_bool) == Some(true) {
        problems.push(FieldError::invalid(
            &spec.child("preserveUnknownFields"),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
    all_versions(new, &spec, &mut problems);
    if let Some(given) = new.get(&["spec", "names"]) {
        names(given, true, &spec.child("names"), &mut problems);
    }
    conversion(new, &spec.child("conversion"), &mut problems);
    problems
}

/// A changed definition.
pub fn definition_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut problems = definition(new);
    // A name once given stands, also where rules have changed since.
    if new.name() == old.name() {
        problems.retain(|problem| problem.path.as_str() != "metadata.name");
    }
    let mut fixed = vec![["spec", "group"].as_slice(), &["spec", "names", "plural"]];
    if conditions::is_true(old, "Established") {
        fixed.extend([["spec", "scope"].as_slice(), &["spec", "names", "kind"]]);
    }
    for path in fixed {
        let (after, before) = (new.get(path), old.get(path));
        if after != before {
            problems.push(FieldError::invalid(&FieldPath::new(path.join(".")), after.cloned().unwrap_or_default(), "field is immutable"));
        }
    }
    problems.extend(stored_versions(new));
    problems
}

/// A changed status: names that were accepted are names, where there are any.
pub fn definition_status(new: &Object) -> Vec<FieldError> {
    let mut problems = Vec::new();
    if let Some(accepted) = new.get(&["status", "acceptedNames"]) {
        names(accepted, false, &FieldPath::new("status").child("acceptedNames"), &mut problems);
    }
    problems.extend(stored_versions(new));
    problems
}

/// Versions that objects may still be stored in must stay.
pub fn stored_versions(new: &Object) -> Vec<FieldError> {
    let path = FieldPath::new("status").child("storedVersions");
    let stored = new.get(&["status", "storedVersions"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if stored.is_empty() {
        return vec![FieldError::invalid(&path, Value::Array(Vec::new()), "must have at least one stored version")];
    }
    let mut problems = Vec::new();
    for (index, name) in stored.iter().filter_map(Value::as_str).enumerate() {
        if !versions(new).iter().any(|version| text(version, "name") == name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            problems.push(FieldError::invalid(&path.index(index), name, why));
        }
    }
    problems
}

fn approval(new: &Object, problems: &mut Vec<FieldError>) {
    let path = FieldPath::new("metadata").child("annotations").key(APPROVAL);
    match conditions::approval(new) {
        Some(condition) if condition.reason == "MissingAnnotation" => problems.push(FieldError::required(&path, condition.message)),
        Some(condition) if condition.reason == "InvalidAnnotation" => {
            let given = new.text(&["metadata", "annotations", APPROVAL]).unwrap_or_default();
            problems.push(FieldError::invalid(&path, given, condition.message));
        }
        _ => {}
    }
}

/// A version's part stands at the top where all versions have the same, as in upstream's internal form.
fn place(versions: &[Value], of: impl Fn(&Value) -> Option<&Value>, spec: &FieldPath, index: usize, below: &FieldPath, top: &FieldPath) -> Option<FieldPath> {
    let mut all = versions.iter().map(of);
    let first = all.next().flatten();
    if all.all(|other| other == first) {
        return (index == 0).then(|| top.clone());
    }
    Some(FieldPath::new(format!("{spec}.versions[{index}].{below}")))
}

fn all_versions(new: &Object, spec: &FieldPath, problems: &mut Vec<FieldError>) {
    let all = versions(new);
    let path = spec.child("versions");
    let names: Vec<&str> = all.iter().map(|version| text(version, "name")).collect();
    if names.iter().collect::<BTreeSet<_>>().len() != names.len() {
        problems.push(FieldError::invalid(&path, names.clone(), "must contain unique version names"));
    }
    if all.iter().filter(|version| is_set(version, "storage")).count() != 1 {
        problems.push(FieldError::invalid(&path, names, "must have exactly one version marked as storage version"));
    }
    for (index, version) in all.iter().enumerate() {
        let here = path.index(index);
        let name = text(version, "name");
        let wrong = meta::validation::dns1035_label_problems(name);
        if !wrong.is_empty() {
            problems.push(FieldError::invalid(&here.child("name"), name, wrong.join(",")));
        }
        if version.get("deprecationWarning").is_some_and(Value::is_string) {
            warning_text(version, &here.child("deprecationWarning"), problems);
        }
        if raw_schema(version).is_none() {
            problems.push(FieldError::required(&here.child("schema").child("openAPIV3Schema"), "schemas are required"));
        }
        let validation = FieldPath::new("schema.openAPIV3Schema");
        if let Some(at) = place(all, raw_schema, spec, index, &validation, &spec.child("validation").child("openAPIV3Schema"))
            && let Err(mistakes) = shape(version, 0, &at)
        {
            problems.extend(mistakes);
        }
        let subresources = FieldPath::new("subresources");
        if let Some(at) = place(all, |version| version.get("subresources"), spec, index, &subresources, &spec.child("subresources"))
            && let Some(scale) = version.pointer("/subresources/scale").filter(|scale| scale.is_object())
        {
            scale_paths(scale, &at.child("scale"), problems);
        }
        let columns = FieldPath::new("additionalPrinterColumns");
        if let Some(at) = place(all, |version| version.get("additionalPrinterColumns"), spec, index, &columns, &spec.child("additionalPrinterColumns")) {
            for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
                printer_column(column, &at.index(index), problems);
            }
        }
        let fields = FieldPath::new("selectableFields");
        if let Some(at) = place(all, |version| version.get("selectableFields"), spec, index, &fields, &spec.child("selectableFields")) {
            selectable_fields(version, &at, problems);
        }
    }
}

fn warning_text(version: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let words = text(version, "deprecationWarning");
    if !is_set(version, "deprecated") {
        problems.push(FieldError::invalid(path, words, "can only be set for deprecated versions"));
    }
    if words.len() > 256 {
        problems.push(FieldError::invalid(path, words, "must be <= 256 bytes"));
    }
    if words.is_empty() {
        problems.push(FieldError::invalid(path, words, "must not be an empty string"));
    }
    if words.chars().any(char::is_control) {
        problems.push(FieldError::invalid(path, words, "must only contain printable UTF-8 characters"));
    }
}

fn scale_paths(scale: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (name, roots, words) in [
        ("specReplicasPath", [".spec."].as_slice(), "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ] {
        let given = text(scale, name);
        let at = path.child(name);
        if given.is_empty() {
            if name != "labelSelectorPath" {
                problems.push(FieldError::required(&at, ""));
            }
        } else if JsonPath::parse(given).ok().is_none_or(|parsed| parsed.simple().is_none()) {
            problems.push(FieldError::invalid(&at, given, "should be a simple json path without array notation"));
        } else if !roots.iter().any(|root| given.starts_with(root)) {
            problems.push(FieldError::invalid(&at, given, words));
        }
    }
}

fn printer_column(column: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    if text(column, "name").is_empty() {
        problems.push(FieldError::required(&path.child("name"), ""));
    }
    match text(column, "type") {
        "" => problems.push(FieldError::required(&path.child("type"), format!("must be one of {}", COLUMN_TYPES.join(",")))),
        kind if !COLUMN_TYPES.contains(&kind) => {
            problems.push(FieldError::invalid(&path.child("type"), kind, format!("must be one of {}", COLUMN_TYPES.join(","))));
        }
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        problems.push(FieldError::invalid(&path.child("format"), format, format!("must be one of {}", COLUMN_FORMATS.join(","))));
    }
    match text(column, "jsonPath") {
        "" => problems.push(FieldError::required(&path.child("jsonPath"), "")),
        given => {
            if let Err(why) = JsonPath::parse(given) {
                problems.push(FieldError::invalid(&path.child("jsonPath"), given, format!("is an invalid json path: {why}")));
            }
        }
    }
}

fn selectable_fields(version: &Value, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let fields = list(version, "selectableFields");
    if fields.len() > MAXIMUM_SELECTABLE_FIELDS {
        problems.push(FieldError::too_many(path, fields.len(), MAXIMUM_SELECTABLE_FIELDS));
    }
    let mut seen = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let given = text(field, "jsonPath");
        let at = path.index(index).child("jsonPath");
        if given.is_empty() {
            problems.push(FieldError::required(&at, ""));
            continue;
        }
        if !seen.insert(given) {
            problems.push(FieldError::duplicate(&at, given));
        }
        let parsed = JsonPath::parse(given).ok();
        let Some(names) = parsed.as_ref().and_then(JsonPath::simple) else {
            problems.push(FieldError::invalid(&at, given, "is an invalid path: does not refer to a valid field"));
            continue;
        };
        if names.first() == Some(&"metadata") {
            problems.push(FieldError::invalid(&at, given, "must not point to fields in metadata"));
            continue;
        }
        let schema = names.iter().try_fold(raw_schema(version).unwrap_or(&Value::Null), |schema, name| schema.get("properties")?.get(*name));
        match schema.map(|schema| text(schema, "type")) {
            Some("string" | "integer" | "boolean") => {}
            Some(_) => problems.push(FieldError::invalid(
                &at,
                given,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            )),
            None => problems.push(FieldError::invalid(&at, given, "is an invalid path: does not refer to a valid field")),
        }
    }
}

/// Names of a kind, which may be missing where they are only reported.
fn names(names: &Value, required: bool, path: &FieldPath, problems: &mut Vec<FieldError>) {
    for (name, kind) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let given = text(names, name);
        let at = path.child(name);
        if given.is_empty() {
            if required {
                problems.push(FieldError::required(&at, ""));
            }
            continue;
        }
        let checked = if kind { given.to_lowercase() } else { given.to_owned() };
        let wrong = meta::validation::dns1035_label_problems(&checked);
        if !wrong.is_empty() {
            let words = wrong.join(",");
            let words = if kind { format!("may have mixed case, but should otherwise match: {words}") } else { words };
            problems.push(FieldError::invalid(&at, given, words));
        }
    }
    for name in ["shortNames", "categories"] {
        for (index, given) in list(names, name).iter().filter_map(Value::as_str).enumerate() {
            let wrong = meta::validation::dns1035_label_problems(given);
            if !wrong.is_empty() {
                problems.push(FieldError::invalid(&path.child(name).index(index), given, wrong.join(",")));
            }
        }
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        problems.push(FieldError::invalid(&path.child("listKind"), kind, "kind and listKind may not be the same"));
    }
}

fn conversion(new: &Object, path: &FieldPath, problems: &mut Vec<FieldError>) {
    let Some(conversion) = new.get(&["spec", "conversion"]).filter(|conversion| conversion.is_object()) else { return };
    let webhook = conversion.get("webhook").filter(|webhook| webhook.is_object());
    match text(conversion, "strategy") {
        "None" => {
            if webhook.is_some() {
                problems.push(FieldError::forbidden(&path.child("webhook"), "should not be set when strategy is not set to Webhook"));
            }
        }
        "Webhook" => match webhook {
            None => problems.push(FieldError::required(&path.child("webhook"), "required when strategy is set to Webhook")),
            Some(webhook) => {
                if !webhook.get("clientConfig").is_some_and(Value::is_object) {
                    problems.push(FieldError::required(&path.child("webhook").child("clientConfig"), "required when strategy is set to Webhook"));
                }
                if list(webhook, "conversionReviewVersions").is_empty() {
                    problems.push(FieldError::required(&path.child("webhook").child("conversionReviewVersions"), ""));
                }
            }
        },
        "" => problems.push(FieldError::required(&path.child("strategy"), "")),
        other => problems.push(FieldError::not_supported(&path.child("strategy"), other, &["None", "Webhook"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Object {
        Object::from_value(json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
                "conversion": {"strategy": "None"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
            "status": {"storedVersions": ["v1"]},
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(edit: impl Fn(&mut Value), expected: &str) {
        let mut value = good().into_value();
        edit(&mut value);
        let problems: Vec<String> = definition(&Object::from_value(value).unwrap()).iter().map(ToString::to_string).collect();
        assert_eq!(problems.join("; "), expected);
    }

    #[test]
    fn a_plain_definition_is_right() {
        check(|_| {}, "");
    }

    #[test]
    fn mistakes_are_told_in_upstreams_words() {
        check(
            |value| value["metadata"]["name"] = json!("widget.example.com"),
            r#"metadata.name: Invalid value: "widget.example.com": must be spec.names.plural+"."+spec.group"#,
        );
        check(
            |value| value["spec"]["versions"][0]["storage"] = json!(false),
            r#"spec.versions: Invalid value: ["v1"]: must have exactly one version marked as storage version"#,
        );
        check(|value| value["spec"]["scope"] = json!("Both"), r#"spec.scope: Unsupported value: "Both": supported values: "Cluster", "Namespaced""#);
        check(
            |value| value["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"spec": {}}}),
            "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
        );
        check(
            |value| value["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".status.n", "statusReplicasPath": ".status.n"}}),
            r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.n": should be a json path under .spec"#,
        );
    }

    #[test]
    fn the_kind_of_an_established_definition_is_fixed() {
        let mut old = good();
        old.set(&["status", "conditions"], json!([{"type": "Established", "status": "True"}]));
        let mut new = old.clone();
        new.set(&["spec", "names", "kind"], json!("Gadget"));
        let problems: Vec<String> = definition_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(problems, [r#"spec.names.kind: Invalid value: "Gadget": field is immutable"#]);
    }

    #[test]
    fn a_stored_version_must_stay() {
        let mut new = good();
        new.set(&["status", "storedVersions"], json!(["v0", "v1"]));
        assert_eq!(stored_versions(&new).len(), 1);
    }
}
