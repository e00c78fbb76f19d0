//! Kinds that extend the API: CustomResourceDefinition and APIService. Both are read as plain trees, so that schemas of
//! custom resources pass through untouched.

use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::{Map, Value};

use crate::{
    cells,
    problems::{filled, one_of},
    strategy::{Column, Strategy},
};

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Behaviour of definitions. Their schemas are judged where they are read, by the API server.
pub struct CustomResourceDefinitionStrategy;

impl Strategy for CustomResourceDefinitionStrategy {
    type Kind = Map<String, Value>;

    fn default(&self, definition: &mut Self::Kind) {
        let Some(names) = definition.get_mut("spec").and_then(|spec| spec.get_mut("names")).and_then(Value::as_object_mut) else { return };
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            if !kind.is_empty() && names.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                names.insert(field.to_owned(), value.into());
            }
        }
    }
    fn validate(&self, definition: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = definition.get("spec").unwrap_or(&Value::Null);
        let names = spec.get("names").unwrap_or(&Value::Null);
        let (group, plural) = (text(spec, "group"), text(names, "plural"));
        let name = definition.get("metadata").map(|metadata| text(metadata, "name")).unwrap_or_default();
        if name != format!("{plural}.{group}") {
            problems.push(FieldError::invalid(&FieldPath::new("metadata").child("name"), name, "must be spec.names.plural+\".\"+spec.group"));
        }
        if group.is_empty() {
            problems.push(FieldError::required(&path.child("group"), ""));
        } else if !group.contains('.') {
            problems.push(FieldError::invalid(&path.child("group"), group, "should be a domain with at least one dot"));
        } else {
            problems.extend(meta::validation::invalid_each(&path.child("group"), group, meta::validation::dns1123_subdomain_problems(group)));
        }
        one_of(text(spec, "scope"), &["Cluster", "Namespaced"], &path.child("scope"), &mut problems);
        let versions = spec.get("versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let stored = versions.iter().filter(|version| version.get("storage").and_then(Value::as_bool) == Some(true)).count();
        if stored != 1 {
            let detail = "must have exactly one version marked as storage version";
            problems.push(FieldError::invalid(&path.child("versions"), Value::Array(versions.to_vec()), detail));
        }
        for (index, version) in versions.iter().enumerate() {
            let at = path.child("versions").index(index);
            let name = text(version, "name");
            problems.extend(meta::validation::invalid_each(&at.child("name"), name, meta::validation::dns1035_label_problems(name)));
            if version.get("schema").and_then(|schema| schema.get("openAPIV3Schema")).is_none() {
                problems.push(FieldError::required(&at.child("schema").child("openAPIV3Schema"), "schemas are required"));
            }
        }
        for field in ["plural", "singular", "kind", "listKind"] {
            filled(text(names, field), &path.child("names").child(field), &mut problems);
        }
        problems
    }
    fn validate_update(&self, definition: &Self::Kind, old: &Self::Kind) -> Vec<FieldError> {
        let mut problems = self.validate(definition);
        let path = FieldPath::new("spec");
        let at = |object: &Self::Kind, names: &[&str]| names.iter().try_fold(object.get("spec")?, |value, name| value.get(*name)).cloned();
        for field in [&["group"][..], &["scope"], &["names", "plural"], &["names", "kind"]] {
            let at_path = field.iter().fold(path.clone(), |path, name| path.child(name));
            crate::problems::immutable(&at(definition, field), &at(old, field), &at_path, &mut problems);
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        &[Column::NAME, Column { name: "Created At", ..Column::AGE }]
    }
    fn row(&self, _definition: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), cells::created(raw)]
    }
}

/// Behaviour of APIServices.
pub struct ApiServiceStrategy;

impl Strategy for ApiServiceStrategy {
    type Kind = Map<String, Value>;

    fn validate(&self, service: &Self::Kind) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let spec = service.get("spec").unwrap_or(&Value::Null);
        let wanted = format!("{}.{}", text(spec, "version"), text(spec, "group"));
        let name = service.get("metadata").map(|metadata| text(metadata, "name")).unwrap_or_default();
        if name != wanted {
            problems.push(FieldError::invalid(&FieldPath::new("metadata").child("name"), name, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}")));
        }
        filled(text(spec, "version"), &path.child("version"), &mut problems);
        for (field, low, high) in [("groupPriorityMinimum", 0, 20_000), ("versionPriority", 0, 1000)] {
            let number = spec.get(field).and_then(Value::as_i64).unwrap_or_default();
            if number <= low || number > high {
                let detail = format!("must be positive and less than {high}");
                problems.push(FieldError::invalid(&path.child(field), number, detail));
            }
        }
        if let Some(target) = spec.get("service").filter(|target| target.is_object()) {
            filled(text(target, "namespace"), &path.child("service").child("namespace"), &mut problems);
            filled(text(target, "name"), &path.child("service").child("name"), &mut problems);
        }
        problems
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Service", "Who serves it."), Column::text("Available", "Whether it is served."), Column::AGE] }
    }
    fn row(&self, service: &Self::Kind, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let target = service.get("spec").and_then(|spec| spec.get("service")).filter(|target| target.is_object());
        let conditions = service.get("status").and_then(|status| status.get("conditions")).and_then(Value::as_array).map(Vec::as_slice);
        let available = conditions.unwrap_or_default().iter().find(|condition| text(condition, "type") == "Available");
        let words = match available {
            Some(condition) if text(condition, "status") == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", text(condition, "status"), text(condition, "reason")),
            None => "Unknown".to_owned(),
        };
        vec![
            raw.name().into(),
            target.map_or_else(|| "Local".to_owned(), |target| format!("{}/{}", text(target, "namespace"), text(target, "name"))).into(),
            words.into(),
            cells::created(raw),
        ]
    }
}
