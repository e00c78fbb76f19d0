//! A custom kind as the generic handler sees it: everything follows from one version of its definition.
//!
//! Source: Kubernetes `apiextensions-apiserver/pkg/registry/customresource`.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kinds::{DeletionGrace, KindInfo, NameRule, ServedKind, SubresourceInfo, WriteContext, scheme::TableColumn};
use meta::{FieldError, FieldPath, GroupVersion, GroupVersionKind, Object, schema::Schema};
use serde_json::{Value, json};

use super::{json_path::JsonPath, ratcheting};

/// Verbs of a custom resource, in the order discovery lists them.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// Verbs while its definition is being deleted.
const TERMINATING_VERBS: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];
const SUBRESOURCE_VERBS: [&str; 3] = ["get", "patch", "update"];

struct PrinterColumn {
    column: TableColumn,
    path: JsonPath,
}

/// One served version of a definition.
pub struct CustomKind {
    info: KindInfo,
    schema: Schema,
    columns: Vec<PrinterColumn>,
    selectable: Vec<(String, JsonPath)>,
    /// There is, or was, another version objects may be stored in.
    several_versions: bool,
    /// Converts between versions, where they differ in more than their name.
    webhook: Option<Value>,
    deprecation: Option<String>,
    /// Versions that are not served, but that managers of fields may have written in when they were.
    unserved: Arc<[(String, Schema)]>,
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    list(value, name).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The schema of a version, as written in the definition.
pub fn raw_schema(version: &Value) -> Option<&Value> {
    version.pointer("/schema/openAPIV3Schema")
}

/// The shape of a version. Its generation is the definition's, which grows with every change of its specification.
///
/// # Errors
/// What keeps the schema from being structural.
pub fn shape(version: &Value, generation: i64, path: &FieldPath) -> Result<Schema, Vec<FieldError>> {
    let Some(meta_type) = api::type_named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") else {
        return Err(vec![FieldError::required(path, "the built-in ObjectMeta is not known")]);
    };
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let raw = raw_schema(version).unwrap_or(&anything);
    meta::structural::schema_from_crd(raw, (api::types(), meta_type), u32::try_from(generation).unwrap_or(u32::MAX), path)
}

/// Every served version of a definition, with the names it was granted. `terminating` takes away the verbs that make objects.
///
/// # Errors
/// What keeps a schema from being structural.
pub fn kinds_of(definition: &Object, names: &Value, terminating: bool) -> Result<Vec<CustomKind>, Vec<FieldError>> {
    let group = definition.text(&["spec", "group"]).unwrap_or_default();
    let versions: Vec<&Value> =
        definition.get(&["spec", "versions"]).and_then(Value::as_array).map(|versions| versions.iter().collect()).unwrap_or_default();
    let is_set = |version: &Value, name: &str| version.get(name).and_then(Value::as_bool) == Some(true);
    let Some(storage) = versions.iter().find(|version| is_set(version, "storage")).map(|version| text(version, "name")) else { return Ok(Vec::new()) };
    let webhook = definition.get(&["spec", "conversion", "webhook"]).filter(|_| definition.text(&["spec", "conversion", "strategy"]) == Some("Webhook"));
    let stored_before = definition.get(&["status", "storedVersions"]).and_then(Value::as_array).is_some_and(|stored| stored.len() > 1);
    let unserved: Arc<[(String, Schema)]> = versions
        .iter()
        .filter(|version| !is_set(version, "served"))
        .filter_map(|version| Some((text(version, "name").to_owned(), shape(version, definition.generation(), &FieldPath::new("spec")).ok()?)))
        .collect();
    let mut kinds = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, "name");
        if !is_set(version, "served") {
            continue;
        }
        let path = FieldPath::new("spec").child("versions").index(index).child("schema").child("openAPIV3Schema");
        let schema = shape(version, definition.generation(), &path)?;
        let kind = GroupVersionKind::new(group, name, text(names, "kind"));
        let mut subresources = Vec::new();
        if version.pointer("/subresources/status").is_some_and(Value::is_object) {
            subresources.push(SubresourceInfo { name: "status".to_owned(), kind: kind.clone(), verbs: owned(&SUBRESOURCE_VERBS) });
        }
        if version.pointer("/subresources/scale").is_some_and(Value::is_object) {
            let scale = GroupVersionKind::new("autoscaling", "v1", "Scale");
            subresources.push(SubresourceInfo { name: "scale".to_owned(), kind: scale, verbs: owned(&SUBRESOURCE_VERBS) });
        }
        let deprecation = is_set(version, "deprecated").then(|| match text(version, "deprecationWarning") {
            "" => format!("{group}/{name} {} is deprecated", kind.kind),
            words => words.to_owned(),
        });
        let list_kind = match text(names, "listKind") {
            "" => format!("{}List", kind.kind),
            given => given.to_owned(),
        };
        let info = KindInfo {
            kind,
            list_kind,
            plural: text(names, "plural").into(),
            singular: text(names, "singular").to_owned(),
            short_names: texts(names, "shortNames"),
            categories: texts(names, "categories"),
            namespaced: definition.text(&["spec", "scope"]) == Some("Namespaced"),
            verbs: owned(if terminating { &TERMINATING_VERBS } else { &VERBS }),
            subresources,
            storage_version: GroupVersion::new(group, storage),
            custom: true,
        };
        kinds.push(CustomKind {
            info,
            schema,
            columns: columns_of(version),
            selectable: list(version, "selectableFields")
                .filter_map(|field| {
                    let path = text(field, "jsonPath");
                    Some((path.trim_start_matches('.').to_owned(), JsonPath::parse(path).ok()?))
                })
                .collect(),
            several_versions: versions.len() > 1 || stored_before,
            webhook: webhook.cloned(),
            deprecation,
            unserved: unserved.clone(),
        });
    }
    Ok(kinds)
}

fn columns_of(version: &Value) -> Vec<PrinterColumn> {
    let mut columns: Vec<PrinterColumn> = list(version, "additionalPrinterColumns")
        .filter_map(|column| {
            Some(PrinterColumn {
                path: JsonPath::parse(text(column, "jsonPath")).ok()?,
                column: TableColumn {
                    name: text(column, "name").to_owned(),
                    kind: text(column, "type").to_owned(),
                    format: text(column, "format").to_owned(),
                    description: match text(column, "description") {
                        "" => format!("Custom resource definition column (in JSONPath format): {}", text(column, "jsonPath")),
                        words => words.to_owned(),
                    },
                    priority: column.get("priority").and_then(Value::as_i64).and_then(|priority| priority.try_into().ok()).unwrap_or_default(),
                },
            })
        })
        .collect();
    if columns.is_empty()
        && let Ok(path) = JsonPath::parse(".metadata.creationTimestamp")
    {
        columns.push(PrinterColumn { column: TableColumn::from(&kinds::Column::AGE), path });
    }
    columns
}

/// A cell by the type of its column; values of another type show as nothing.
fn cell(kind: &str, value: &Value) -> Value {
    match kind {
        "integer" => value.as_i64().or_else(|| value.as_f64().map(|number| number as i64)).map_or(Value::Null, Value::from),
        "number" => value.as_f64().map_or(Value::Null, |_| value.clone()),
        "boolean" => value.as_bool().map_or(Value::Null, Value::from),
        "date" => match value.as_str() {
            Some(time) if time.parse::<Timestamp>().is_ok() => value.clone(),
            Some(_) => json!("<invalid>"),
            None => Value::Null,
        },
        _ => match value {
            Value::Null => Value::Null,
            Value::String(_) => value.clone(),
            other => json!(other.to_string()),
        },
    }
}

impl CustomKind {
    fn has_status(&self) -> bool {
        self.info.subresource("status").is_some()
    }
    fn stored_as(object: &mut Object, version: &GroupVersion) {
        object.0.insert("apiVersion".to_owned(), json!(version.to_string()));
    }
    fn check_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let problems = meta::structural::validate(&self.schema, new);
        ratcheting::new_problems(problems, new, old)
    }
}

impl ServedKind for CustomKind {
    fn info(&self) -> &KindInfo {
        &self.info
    }
    fn schema(&self) -> &Schema {
        &self.schema
    }
    fn from_storage(&self, mut object: Object) -> Result<Object, String> {
        let version = self.info.kind.group_version();
        if self.webhook.is_some() && object.api_version() != version.to_string() {
            return Err(format!("{} {} is stored in version {} and was not converted", self.info.kind.kind, object.name(), object.api_version()));
        }
        Self::stored_as(&mut object, &version);
        Ok(object)
    }
    fn to_storage(&self, mut object: Object) -> Result<Object, String> {
        if self.webhook.is_some() && object.api_version() != self.info.storage_version.to_string() {
            return Err(format!("{} {} has version {} and was not converted", self.info.kind.kind, object.name(), object.api_version()));
        }
        Self::stored_as(&mut object, &self.info.storage_version);
        Ok(object)
    }
    fn converts(&self) -> bool {
        self.several_versions
    }
    fn looks_as_stored(&self) -> bool {
        self.webhook.is_none()
    }
    fn unserved_version(&self, version: &str) -> Option<&Schema> {
        self.unserved.iter().find_map(|(name, schema)| (name == version).then_some(schema))
    }
    fn conversion_webhook(&self) -> Option<&Value> {
        self.webhook.as_ref()
    }
    fn default(&self, object: &mut Object) -> Result<(), String> {
        // Also what was stored under an earlier schema, and what webhooks made, is held to the present one.
        meta::pruning::prune(&self.schema, object);
        meta::defaulting::apply_defaults(&self.schema, object);
        Ok(())
    }
    fn finish_create(&self, _context: &WriteContext, new: &mut Object) -> Result<Vec<FieldError>, String> {
        Ok(meta::structural::validate(&self.schema, new))
    }
    fn finish_update(&self, _context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        if !self.has_status() && new.0.get("status") != old.0.get("status") {
            // Without the subresource a status is a field like any other, and counts.
            new.set(&["metadata", "generation"], json!(old.generation() + 1));
        }
        Ok(self.check_update(new, old))
    }
    fn finish_status_update(&self, _context: &WriteContext, new: &mut Object, old: &Object) -> Result<Vec<FieldError>, String> {
        Ok(self.check_update(new, old))
    }
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
    fn deprecation(&self) -> Option<String> {
        self.deprecation.clone()
    }
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn allows_create_on_update(&self) -> bool {
        false
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn selectable_fields(&self, object: &Object) -> Vec<(String, String)> {
        self.selectable
            .iter()
            .map(|(name, path)| {
                let names = path.simple().unwrap_or_default();
                let value = match object.get(&names) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Null) | None => String::new(),
                    Some(other) => other.to_string(),
                };
                (name.clone(), value)
            })
            .collect()
    }
    fn is_selectable(&self, field: &str) -> bool {
        self.selectable.iter().any(|(name, _)| name == field)
    }
    fn columns(&self) -> Vec<TableColumn> {
        std::iter::once(TableColumn::from(&kinds::Column::NAME)).chain(self.columns.iter().map(|column| column.column.clone())).collect()
    }
    fn row(&self, object: &Object, _now: Timestamp) -> Vec<Value> {
        let mut cells = vec![json!(object.name())];
        let whole = Value::Object(object.0.clone());
        cells.extend(self.columns.iter().map(|column| column.path.find(&whole).first().map_or(Value::Null, |value| cell(&column.column.kind, value))));
        cells
    }
    fn deletion_grace(&self, _object: &Object, _requested: Option<i64>) -> DeletionGrace {
        DeletionGrace::Immediate
    }
    fn orphans_by_default(&self) -> bool {
        false
    }
    fn lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Kinds behind the trait, as the Scheme keeps them.
pub fn served(kinds: Vec<CustomKind>) -> Vec<Arc<dyn ServedKind>> {
    kinds.into_iter().map(|kind| Arc::new(kind) as Arc<dyn ServedKind>).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Object {
        Object::from_value(json!({
            "metadata": {"name": "widgets.example.com", "generation": 4},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [
                    {"name": "v1", "served": true, "storage": true,
                     "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "spec": {"type": "object", "properties": {
                            "size": {"type": "integer", "minimum": 1, "default": 3}, "color": {"type": "string"}}},
                        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}},
                     "subresources": {"status": {}},
                     "selectableFields": [{"jsonPath": ".spec.color"}],
                     "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
                    {"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
                     "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
                    {"name": "v0", "served": false, "storage": false}
                ],
            },
        }))
        .unwrap()
    }

    fn kinds() -> Vec<CustomKind> {
        let definition = definition();
        kinds_of(&definition, definition.get(&["spec", "names"]).unwrap(), false).unwrap()
    }

    #[test]
    fn every_served_version_is_a_kind() {
        let kinds = kinds();
        let versions: Vec<&str> = kinds.iter().map(|kind| &*kind.info().kind.version).collect();
        assert_eq!(versions, ["v1", "v1beta1"]);
        assert_eq!(kinds[0].info().list_kind, "WidgetList");
        assert_eq!(kinds[0].info().storage_prefix(), "/registry/widgets.example.com/");
        assert_eq!(kinds[0].schema().generation, 4);
        assert_eq!(kinds[1].deprecation().as_deref(), Some("example.com/v1beta1 Widget is deprecated"));
    }

    #[test]
    fn defaults_are_filled_in_and_unknown_fields_dropped() {
        let mut object = Object::from_value(json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"strange": 1}})).unwrap();
        kinds()[0].default(&mut object).unwrap();
        assert_eq!(object.0["spec"], json!({"size": 3}));
    }

    #[test]
    fn an_object_of_one_version_is_shown_in_another() {
        let kinds = kinds();
        let object = Object::from_value(json!({"apiVersion": "example.com/v1", "kind": "Widget"})).unwrap();
        let shown = kinds[1].from_storage(object).unwrap();
        assert_eq!(shown.api_version(), "example.com/v1beta1");
        assert_eq!(kinds[1].to_storage(shown).unwrap().api_version(), "example.com/v1");
    }

    #[test]
    fn rows_and_selectable_fields_follow_their_paths() {
        let kind = &kinds()[0];
        let object = Object::from_value(json!({"metadata": {"name": "a"}, "spec": {"size": 7, "color": "red"}})).unwrap();
        assert_eq!(kind.row(&object, Timestamp::UNIX_EPOCH), [json!("a"), json!(7)]);
        assert_eq!(kind.selectable_fields(&object), [("spec.color".to_owned(), "red".to_owned())]);
        assert!(kind.is_selectable("spec.color"));
        assert!(!kind.is_selectable("spec.size"));
    }

    #[test]
    fn a_mistake_is_refused_unless_it_was_there_before() {
        let kind = &kinds()[0];
        let context = WriteContext { now: Timestamp::UNIX_EPOCH, user: String::new(), groups: Vec::new(), uid: String::new(), extra: std::collections::BTreeMap::new(), dry_run: false };
        let old = Object::from_value(json!({"spec": {"size": 0, "color": "red"}})).unwrap();
        assert_eq!(kind.finish_create(&context, &mut old.clone()).unwrap().len(), 1);
        let mut new = Object::from_value(json!({"spec": {"size": 0, "color": "blue"}})).unwrap();
        assert!(kind.finish_update(&context, &mut new, &old).unwrap().is_empty());
        let mut worse = Object::from_value(json!({"spec": {"size": -1, "color": "red"}})).unwrap();
        assert_eq!(kind.finish_update(&context, &mut worse, &old).unwrap().len(), 1);
    }

    #[test]
    fn cells_show_what_fits_their_column() {
        assert_eq!(cell("string", &json!(["a"])), json!("[\"a\"]"));
        assert_eq!(cell("integer", &json!("a")), Value::Null);
        assert_eq!(cell("date", &json!("yesterday")), json!("<invalid>"));
    }
}
