//! Definitions of types: shapes from the table, words from the descriptions.

use meta::schema::{Item, ListType, Shape, TypeIndex, Types, UnknownFields};
use serde_json::{Map, Value, json};

use super::{Dialect, PublishedKind, descriptions::Descriptions};
use crate::table::WireForm;

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

/// Definitions as they are asked for, each with all that it refers to.
pub(super) struct Schemas {
    pub(super) dialect: Dialect,
    descriptions: Descriptions,
    definitions: Map<String, Value>,
}

/// Types of which one field is given, with the field that says which, if one does. Source: `+union` in the types of Kubernetes 1.36.
const UNIONS: &[(&str, &str, &[&str])] = &[
    ("io.k8s.api.core.v1.AppArmorProfile", "type", &["localhostProfile"]),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "", &["podGroupName"]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", &["localhostProfile"]),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &["queuing"]),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type", &["exempt", "limited"]),
    ("io.k8s.api.flowcontrol.v1.Subject", "kind", &["group", "serviceAccount", "user"]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupSchedulingPolicy", "", &["basic", "gang"]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupTemplateReference", "", &["workload"]),
];

/// The name of a field in Go.
fn capitalised(field: &str) -> String {
    let mut letters = field.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

impl Schemas {
    pub(super) fn new(dialect: Dialect, descriptions: Descriptions) -> Self {
        Self { dialect, descriptions, definitions: Map::new() }
    }

    /// All definitions by name.
    pub(super) fn finish(self) -> Map<String, Value> {
        self.definitions
    }

    /// A reference to a type of the table by its definition name, which is defined if it was not.
    pub(super) fn named(&mut self, name: &str) -> Value {
        match crate::type_named(name) {
            Some(index) => self.object(index),
            None => self.special(name),
        }
    }

    /// References to a kind and to its lists, defined if they were not. None for kinds that have no definition, such as the
    /// options of streaming subresources.
    pub(super) fn kind(&mut self, kind: &PublishedKind) -> (Option<Value>, Option<Value>) {
        match &kind.custom {
            None => {
                let own = self.built_in(&kind.kind);
                let list = kind.list_kind.as_ref().and_then(|list| self.built_in(&kind.kind.group_version().kind(list)));
                (own, list)
            }
            Some(schema) => {
                let (own, list) = self.custom(kind, schema);
                (Some(own), Some(list))
            }
        }
    }

    /// A reference to a built-in kind.
    pub(super) fn built_in(&mut self, kind: &meta::GroupVersionKind) -> Option<Value> {
        let index = crate::table().root(&kind.group, &kind.version, &kind.kind)?;
        Some(self.object(index))
    }

    fn custom(&mut self, kind: &PublishedKind, schema: &Value) -> (Value, Value) {
        let mut own = schema.clone();
        let open = self.dialect == Dialect::V2 && own["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true);
        if open {
            // Where old clients see properties, they take all others for mistakes.
            own = json!({});
        } else if self.dialect == Dialect::V2 {
            strip_for_v2(&mut own);
        }
        let name = custom_name(kind);
        let list_name = format!("{name}List");
        let metadata = described(self.dialect, self.named(&format!("{META}.ObjectMeta")), OBJECT_METADATA);
        if let Value::Object(own) = &mut own {
            own.insert("type".to_owned(), json!("object"));
            if !open && let Value::Object(properties) = own.entry("properties").or_insert_with(|| json!({})) {
                properties.values_mut().for_each(|property| complete_embedded(self.dialect, property, &metadata));
                add_type_meta(properties);
                properties.insert("metadata".to_owned(), metadata);
            }
            own.insert("x-kubernetes-group-version-kind".to_owned(), json!([gvk_of(&kind.kind.group, &kind.kind.version, &kind.kind.kind)]));
        }
        let reference = self.dialect.reference(&name);
        let list_kind = kind.list_kind.clone().unwrap_or_else(|| format!("{}List", kind.kind.kind));
        let mut properties = Map::new();
        add_type_meta(&mut properties);
        properties.insert("items".to_owned(), json!({"type": "array", "description": common_words("items"), "items": reference}));
        properties.insert("metadata".to_owned(), described(self.dialect, self.named(&format!("{META}.ListMeta")), common_words("metadata").unwrap_or_default()));
        let list = json!({
            "type": "object",
            "description": format!("{list_kind} is a list of {}.", kind.kind.kind),
            "required": ["items"],
            "properties": properties,
            "x-kubernetes-group-version-kind": [gvk_of(&kind.kind.group, &kind.kind.version, &list_kind)],
        });
        self.definitions.insert(name, own);
        self.definitions.insert(list_name.clone(), list);
        (reference, self.dialect.reference(&list_name))
    }

    fn object(&mut self, index: TypeIndex) -> Value {
        let types = crate::types();
        let object = types.object(index);
        let reference = self.dialect.reference(&object.name);
        if self.definitions.contains_key(&*object.name) {
            return reference;
        }
        // Types may contain themselves; from here on this one counts as defined.
        self.definitions.insert(object.name.to_string(), Value::Null);
        let words = self.descriptions.of(&object.name);
        let mut definition = Map::new();
        definition.insert("type".to_owned(), json!("object"));
        let list_words = list_description(&object.name).filter(|_| object.embedded_resource && !words.is_object());
        let is_list = list_words.is_some();
        let description = words["description"].as_str().map(str::to_owned).or(list_words);
        if let Some(description) = description {
            definition.insert("description".to_owned(), Value::String(description));
        }
        let facts = crate::table().wire.get(index.0 as usize).map(|facts| &**facts).unwrap_or_default();
        let mut properties = Map::new();
        for (position, field) in object.fields.iter().enumerate() {
            let form = facts.iter().find(|fact| usize::from(fact.field) == position).map_or(WireForm::Plain, |fact| fact.form);
            let extensions = object.name.starts_with(EXTENSIONS);
            let mut property = self.item(&field.item, form, extensions);
            if let Some(words) = words["properties"][&*field.name].as_str().or_else(|| common_words(&field.name).filter(|_| is_list)) {
                property = described(self.dialect, property, words);
            }
            // A list's items are never applied, so upstream says nothing of who owns them.
            if let (true, "items", Value::Object(property)) = (is_list, &*field.name, &mut property) {
                property.remove("x-kubernetes-list-type");
            }
            if let Value::Object(property) = &mut property {
                let strategy = [(field.patch.merge, "merge"), (field.patch.retain_keys, "retainKeys"), (field.patch.replace, "replace")];
                let strategy: Vec<&str> = strategy.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
                if !strategy.is_empty() {
                    property.insert("x-kubernetes-patch-strategy".to_owned(), json!(strategy.join(",")));
                }
                if let Some(key) = &field.patch.merge_key {
                    property.insert("x-kubernetes-patch-merge-key".to_owned(), json!(key));
                }
            }
            properties.insert(field.name.to_string(), property);
        }
        if !properties.is_empty() {
            definition.insert("properties".to_owned(), Value::Object(properties));
        }
        let required: Vec<&str> = object.fields.iter().filter(|field| field.required).map(|field| &*field.name).collect();
        if !required.is_empty() {
            definition.insert("required".to_owned(), json!(required));
        }
        if object.atomic {
            definition.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
        if let Some((_, discriminator, fields)) = UNIONS.iter().find(|(name, ..)| *name == &*object.name) {
            let mut union = Map::new();
            if !discriminator.is_empty() {
                union.insert("discriminator".to_owned(), json!(discriminator));
            }
            let fields: Map<String, Value> = fields.iter().map(|field| ((*field).to_owned(), json!(capitalised(field)))).collect();
            union.insert("fields-to-discriminateBy".to_owned(), Value::Object(fields));
            definition.insert("x-kubernetes-unions".to_owned(), json!([union]));
        }
        let kinds: Vec<Value> = crate::table().kinds_of(index).map(|(group, version, kind)| gvk_of(group, version, kind)).collect();
        if !kinds.is_empty() {
            definition.insert("x-kubernetes-group-version-kind".to_owned(), Value::Array(kinds));
        }
        self.definitions.insert(object.name.to_string(), Value::Object(definition));
        reference
    }

    fn item(&mut self, item: &Item, form: WireForm, extensions: bool) -> Value {
        let mut schema = match &item.shape {
            Shape::String => json!({"type": "string"}),
            Shape::Boolean => json!({"type": "boolean"}),
            Shape::Integer32 => json!({"type": "integer", "format": "int32"}),
            Shape::Integer64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Quantity => self.special("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Shape::IntOrString => self.special("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Shape::Time => self.special(&format!("{META}.Time")),
            Shape::MicroTime => self.special(&format!("{META}.MicroTime")),
            Shape::FieldsV1 => self.special(&format!("{META}.FieldsV1")),
            Shape::Any => match form {
                WireForm::SchemaOrBool => self.special(&format!("{EXTENSIONS}.JSONSchemaPropsOrBool")),
                WireForm::SchemaOrList => self.special(&format!("{EXTENSIONS}.JSONSchemaPropsOrArray")),
                WireForm::SchemaOrNames => self.special(&format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray")),
                WireForm::Plain | WireForm::Raw | WireForm::Wrapped if extensions => self.special(&format!("{EXTENSIONS}.JSON")),
                WireForm::Plain | WireForm::Raw | WireForm::Wrapped => self.special("io.k8s.apimachinery.pkg.runtime.RawExtension"),
            },
            Shape::Object(index) => self.object(*index),
            Shape::Map { values, atomic } => {
                let mut schema = json!({"type": "object", "additionalProperties": self.item(values, form, extensions)});
                if *atomic {
                    set(&mut schema, "x-kubernetes-map-type", json!("atomic"));
                }
                schema
            }
            Shape::List { items, list } => {
                let mut schema = json!({"type": "array", "items": self.item(items, form, extensions)});
                list_extensions(&mut schema, list);
                schema
            }
        };
        // Upstream publishes what a scalar becomes, never whole objects; version 2 has no defaults at all.
        let default = item.default.as_ref().filter(|default| self.dialect == Dialect::V3 && !default.is_object() && !default.is_null());
        if let Some(default) = default {
            schema = beside_reference(self.dialect, schema);
            set(&mut schema, "default", (**default).clone());
        }
        schema
    }

    /// A reference to a type that is no object with fields.
    fn special(&mut self, name: &str) -> Value {
        let reference = self.dialect.reference(name);
        if !self.definitions.contains_key(name) {
            let mut schema = match (name.rsplit('.').next().unwrap_or(name), self.dialect) {
                ("Quantity", Dialect::V2) => json!({"type": "string"}),
                ("Quantity", Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                ("IntOrString", Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
                ("IntOrString", Dialect::V3) => json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
                ("Time" | "MicroTime", _) => json!({"type": "string", "format": "date-time"}),
                ("FieldsV1" | "RawExtension" | "Patch", _) => json!({"type": "object"}),
                _ => json!({}),
            };
            let words = self.descriptions.of(name);
            if words["description"].is_string() {
                set(&mut schema, "description", words["description"].clone());
            }
            self.definitions.insert(name.to_owned(), schema);
        }
        reference
    }
}

/// In version 3 nothing may stand beside a reference, so that it moves inwards.
fn beside_reference(dialect: Dialect, schema: Value) -> Value {
    match (dialect, schema) {
        (Dialect::V3, Value::Object(schema)) if schema.contains_key("$ref") => json!({"allOf": [schema]}),
        (_, schema) => schema,
    }
}

/// Adds words to a property.
fn described(dialect: Dialect, schema: Value, words: &str) -> Value {
    let mut schema = beside_reference(dialect, schema);
    set(&mut schema, "description", json!(words));
    schema
}

fn set(schema: &mut Value, name: &str, value: Value) {
    if let Value::Object(schema) = schema {
        schema.insert(name.to_owned(), value);
    }
}

fn list_extensions(schema: &mut Value, list: &ListType) {
    let kind = match list {
        ListType::Atomic => "atomic",
        ListType::Set => "set",
        ListType::Map(keys) => {
            set(schema, "x-kubernetes-list-map-keys", json!(keys));
            "map"
        }
    };
    set(schema, "x-kubernetes-list-type", json!(kind));
}

/// Lists have no type of their own in `k8s-openapi` and so no words.
fn list_description(name: &str) -> Option<String> {
    let (_, list) = name.rsplit_once('.')?;
    let kind = list.strip_suffix("List").filter(|kind| !kind.is_empty())?;
    Some(format!("{list} is a list of {kind}."))
}

fn gvk_of(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Words for `metadata` of custom resources; those of built-in kinds come with their types.
const OBJECT_METADATA: &str =
    "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Words for the fields that every kind or list has. The beginnings are upstream's: `kubectl explain` is searched for them.
fn common_words(field: &str) -> Option<&'static str> {
    Some(match field {
        "apiVersion" => "APIVersion defines the group and version of the schema that this object is written in.",
        "kind" => "Kind is what this object is, in upper camel case. It never changes.",
        "metadata" => "The list's revision, and where it goes on.",
        "items" => "The objects of this list.",
        _ => return None,
    })
}

fn add_type_meta(properties: &mut Map<String, Value>) {
    for field in ["apiVersion", "kind"] {
        properties.insert(field.to_owned(), json!({"type": "string", "description": common_words(field)}));
    }
}

/// Objects within an object have what every object has. Where version 2 says that one may hold anything, naming some of it would
/// exclude the rest.
fn complete_embedded(dialect: Dialect, schema: &mut Value, metadata: &Value) {
    let Value::Object(map) = schema else { return };
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(|property| complete_embedded(dialect, property, metadata));
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(name) {
            complete_embedded(dialect, inner, metadata);
        }
    }
    let is = |name: &str| map.get(name) == Some(&Value::Bool(true));
    if !is("x-kubernetes-embedded-resource") || dialect == Dialect::V2 && is("x-kubernetes-preserve-unknown-fields") {
        return;
    }
    if let Value::Object(properties) = map.entry("properties").or_insert_with(|| json!({})) {
        add_type_meta(properties);
        properties.insert("metadata".to_owned(), metadata.clone());
    }
    if let Value::Array(required) = map.entry("required").or_insert_with(|| json!([])) {
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(json!(name));
            }
        }
    }
}

/// Definitions of custom resources are named like Java classes: the group backwards, then version and kind.
fn custom_name(kind: &PublishedKind) -> String {
    let mut parts: Vec<&str> = kind.kind.group.split('.').rev().collect();
    parts.extend([&*kind.kind.version, &*kind.kind.kind]);
    parts.join(".")
}

/// Version 2 has no words for alternatives and null. What is left says less, never something else. Where old clients see an object
/// that may hold anything, they refuse nulls in it, and they cannot read lists of nothing in particular: such have no type.
/// Source: Kubernetes `apiextensions-apiserver/pkg/controller/openapi/v2/conversion.go`.
fn strip_for_v2(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for name in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(name);
    }
    let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let nullable = map.remove("nullable") == Some(Value::Bool(true));
    if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) || nullable {
        map.remove("type");
    }
    if open || nullable {
        map.remove("items");
        map.remove("properties");
    }
    let has_type = |name: &str| map.get("type").is_some_and(|known| known == name);
    if open && has_type("object") || has_type("array") && !map.contains_key("items") {
        map.remove("type");
    }
    let may_be_null = |property: &Value| property["nullable"] == true;
    let absent: Vec<String> = match map.get("properties") {
        Some(Value::Object(properties)) => properties.iter().filter(|(_, property)| may_be_null(property)).map(|(name, _)| name.clone()).collect(),
        _ => Vec::new(),
    };
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !absent.iter().any(|absent| name == absent));
        if required.is_empty() {
            map.remove("required");
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(strip_for_v2);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(name) {
            strip_for_v2(inner);
        }
    }
}

/// A shape without references and words.
pub(super) fn inline(types: &Types, index: TypeIndex) -> Value {
    let object = types.object(index);
    let mut schema = json!({"type": "object"});
    if !object.fields.is_empty() {
        let properties: Map<String, Value> = object.fields.iter().map(|field| (field.name.to_string(), inline_item(types, &field.item))).collect();
        set(&mut schema, "properties", Value::Object(properties));
    }
    let required: Vec<&str> = object.fields.iter().filter(|field| field.required).map(|field| &*field.name).collect();
    if !required.is_empty() {
        set(&mut schema, "required", json!(required));
    }
    if object.atomic {
        set(&mut schema, "x-kubernetes-map-type", json!("atomic"));
    }
    if matches!(object.unknown, UnknownFields::Keep) {
        set(&mut schema, "x-kubernetes-preserve-unknown-fields", json!(true));
    }
    schema
}

fn inline_item(types: &Types, item: &Item) -> Value {
    let mut schema = match &item.shape {
        Shape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Shape::String | Shape::Quantity => json!({"type": "string"}),
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Integer32 => json!({"type": "integer", "format": "int32"}),
        Shape::Integer64 => json!({"type": "integer", "format": "int64"}),
        Shape::Double => json!({"type": "number"}),
        Shape::IntOrString => json!({"x-kubernetes-int-or-string": true}),
        Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::FieldsV1 => json!({"type": "object"}),
        // Named types may contain themselves and only stand in metadata here.
        Shape::Object(index) if !types.object(*index).name.is_empty() => json!({"type": "object"}),
        Shape::Object(index) => inline(types, *index),
        Shape::Map { values, atomic } => {
            let mut schema = json!({"type": "object", "additionalProperties": inline_item(types, values)});
            if *atomic {
                set(&mut schema, "x-kubernetes-map-type", json!("atomic"));
            }
            schema
        }
        Shape::List { items, list } => {
            let mut schema = json!({"type": "array", "items": inline_item(types, items)});
            list_extensions(&mut schema, list);
            schema
        }
    };
    if item.nullable {
        set(&mut schema, "nullable", json!(true));
    }
    if let Some(default) = &item.default {
        set(&mut schema, "default", (**default).clone());
    }
    schema
}
