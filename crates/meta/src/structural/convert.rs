//! From a definition's `openAPIV3Schema` to a [`Schema`], with the checks that make it structural.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{rules, validate::check_json};
use crate::{
    field::{FieldError, FieldPath},
    read::MAX_DEPTH,
    schema::{Field, Item, ListType, ObjectType, PatchStrategy, Rules, Schema, Shape, TypeIndex, Types, UnknownFields},
};

/// What a structural schema must not use, and what value rules must not say.
const UNSUPPORTED: &[&str] =
    &["$ref", "definitions", "dependencies", "deprecated", "discriminator", "id", "patternProperties", "readOnly", "writeOnly", "xml", "additionalItems"];
const ONLY_STRUCTURAL: &[&str] = &[
    "type",
    "default",
    "additionalProperties",
    "nullable",
    "title",
    "description",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
];
const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// Converts a version's `openAPIV3Schema`. `meta_type` is the built-in ObjectMeta, which is copied into the new arena for the root and
/// every embedded resource. `path` is that of the schema, for messages.
///
/// # Errors
/// What keeps the schema from being structural.
pub fn schema_from_crd(schema: &Value, meta_type: (&Types, TypeIndex), generation: u32, path: &FieldPath) -> Result<Schema, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut builder = Builder { types: Types::default(), meta: TypeIndex(0), errors: Vec::new() };
    // The root's place is taken first.
    builder.types.objects.push(ObjectType::default());
    builder.meta = builder.copy(meta_type.0, meta_type.1, &mut HashMap::new());
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => {}
        None | Some("") => errors.push(FieldError::required(&path.child("type"), "must not be empty at the root")),
        Some(other) => errors.push(FieldError::invalid(&path.child("type"), other, "must be object at the root")),
    }
    if schema.get("nullable").and_then(Value::as_bool) == Some(true) {
        errors.push(FieldError::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    let mut root = builder.object(schema, path, true, 0);
    root.embedded_resource = true;
    if let Some(place) = builder.types.objects.first_mut() {
        *place = root;
    }
    errors.append(&mut builder.errors);
    let schema = Schema { types: Arc::new(builder.types), root: TypeIndex(0), generation };
    if errors.is_empty() { Ok(schema) } else { Err(errors) }
}

struct Builder {
    types: Types,
    meta: TypeIndex,
    errors: Vec<FieldError>,
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn simple_field(name: &str, shape: Shape) -> Field {
    Field { name: name.into(), number: 0, required: false, omits_zero: false, item: Item::of(shape), patch: PatchStrategy::default() }
}

impl Builder {
    /// Copies a type and all it reaches.
    fn copy(&mut self, from: &Types, index: TypeIndex, known: &mut HashMap<TypeIndex, TypeIndex>) -> TypeIndex {
        if let Some(copied) = known.get(&index) {
            return *copied;
        }
        let place = self.types.objects.len();
        let copied = TypeIndex(u32::try_from(place).unwrap_or(u32::MAX));
        known.insert(index, copied);
        self.types.objects.push(ObjectType::default());
        let mut of = from.object(index).clone();
        for field in &mut of.fields {
            self.copy_shape(from, &mut field.item.shape, known);
        }
        if let Some(place) = self.types.objects.get_mut(place) {
            *place = of;
        }
        copied
    }
    fn copy_shape(&mut self, from: &Types, shape: &mut Shape, known: &mut HashMap<TypeIndex, TypeIndex>) {
        match shape {
            Shape::Object(index) => *index = self.copy(from, *index, known),
            Shape::Map { values, .. } => self.copy_shape(from, &mut values.shape, known),
            Shape::List { items, .. } => self.copy_shape(from, &mut items.shape, known),
            _ => {}
        }
    }

    fn object(&mut self, schema: &Value, path: &FieldPath, root: bool, depth: usize) -> ObjectType {
        self.check_supported(schema, path);
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        let keep = flag(schema, "x-kubernetes-preserve-unknown-fields");
        let mut value_rules = rules::rules_of(schema).unwrap_or_default();
        let required: Vec<Box<str>> = std::mem::take(&mut value_rules.required);
        let mut fields: Vec<Field> = Vec::new();
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        for (name, property) in properties {
            let path = path.child("properties").key(name);
            if root || embedded {
                match name.as_str() {
                    "metadata" => {
                        self.check_metadata(property, &path);
                        // What it says about names is a rule of the whole object.
                        let rule = json!({ "properties": { "metadata": property } });
                        let logical = value_rules.logical.get_or_insert_with(|| Value::Object(Map::new()));
                        if let Some(list) = logical.as_object_mut().map(|map| map.entry("allOf").or_insert_with(|| Value::Array(Vec::new())))
                            && let (Value::Array(list), true) = (list, property.get("properties").is_some()) {
                                list.push(rule);
                            }
                        continue;
                    }
                    "apiVersion" | "kind" => {
                        if !matches!(text(property, "type"), "string") {
                            self.errors.push(FieldError::invalid(&path.child("type"), text(property, "type"), "must be string"));
                        }
                        continue;
                    }
                    _ => {}
                }
            }
            let item = self.item(property, &path, "specified object fields", depth);
            let mut field = simple_field(name, Shape::Any);
            field.item = item;
            fields.push(field);
        }
        if root || embedded {
            fields.push(simple_field("apiVersion", Shape::String));
            fields.push(simple_field("kind", Shape::String));
            fields.push(simple_field("metadata", Shape::Object(self.meta)));
        }
        fields.sort_by(|left, right| left.name.cmp(&right.name));
        for name in required {
            match fields.iter_mut().find(|field| field.name == name) {
                Some(field) => field.required = true,
                None => value_rules.required.push(name),
            }
        }
        self.check_logical(schema, schema, path, path);
        let map_type = text(schema, "x-kubernetes-map-type");
        if !matches!(map_type, "" | "atomic" | "granular") {
            self.errors.push(FieldError::not_supported(&path.child("x-kubernetes-map-type"), map_type, &["atomic", "granular"]));
        }
        if embedded && properties.is_empty() && !keep {
            self.errors.push(FieldError::required(
                &path.child("properties"),
                "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
            ));
        }
        let no_rules = value_rules.logical.as_ref().is_some_and(|logical| *logical == json!({ "allOf": [] }));
        if no_rules {
            value_rules.logical = None;
        }
        ObjectType {
            name: Box::default(),
            fields,
            unknown: if keep { UnknownFields::Keep } else { UnknownFields::Prune },
            atomic: map_type == "atomic",
            embedded_resource: embedded,
            rules: Some(Arc::new(value_rules)).filter(|rules| !is_empty(rules)),
        }
    }

    fn item(&mut self, schema: &Value, path: &FieldPath, place: &str, depth: usize) -> Item {
        if depth > MAX_DEPTH {
            self.errors.push(FieldError::forbidden(path, "is nested too deeply"));
            return Item::of(Shape::Any);
        }
        let kind = text(schema, "type");
        let keep = flag(schema, "x-kubernetes-preserve-unknown-fields");
        let int_or_string = flag(schema, "x-kubernetes-int-or-string");
        let mut of_object = false;
        if schema.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(false) {
            self.errors.push(FieldError::invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"));
        }
        if flag(schema, "x-kubernetes-embedded-resource") && kind != "object" {
            self.errors.push(FieldError::invalid(&path.child("type"), kind, "must be object if x-kubernetes-embedded-resource is true"));
        }
        let shape = match kind {
            "" if int_or_string => Shape::IntOrString,
            "" if keep => Shape::Any,
            "" => {
                self.errors.push(FieldError::required(&path.child("type"), format!("must not be empty for {place}")));
                Shape::Any
            }
            _ if int_or_string => {
                self.errors.push(FieldError::invalid(&path.child("type"), kind, "must be empty if x-kubernetes-int-or-string is true"));
                Shape::IntOrString
            }
            "string" => Shape::String,
            "boolean" => Shape::Boolean,
            "integer" => Shape::Integer64,
            "number" => Shape::Double,
            "array" => self.list(schema, path, depth),
            "object" => match schema.get("additionalProperties") {
                Some(Value::Bool(false)) => {
                    self.errors.push(FieldError::forbidden(&path.child("additionalProperties"), "additionalProperties cannot be set to false"));
                    Shape::Any
                }
                Some(additional) if !additional.is_null() => {
                    if schema.get("properties").and_then(Value::as_object).is_some_and(|properties| !properties.is_empty()) {
                        self.errors.push(FieldError::forbidden(
                            &path.child("additionalProperties"),
                            "additionalProperties and properties are mutual exclusive",
                        ));
                    }
                    let values = match additional {
                        Value::Bool(true) => Item::of(Shape::Any),
                        values => self.item(values, &path.child("additionalProperties"), "specified object fields", depth + 1),
                    };
                    Shape::Map { values: Box::new(values), atomic: text(schema, "x-kubernetes-map-type") == "atomic" }
                }
                _ => {
                    of_object = true;
                    let place = self.types.objects.len();
                    self.types.objects.push(ObjectType::default());
                    let of = self.object(schema, path, false, depth + 1);
                    if let Some(place) = self.types.objects.get_mut(place) {
                        *place = of;
                    }
                    Shape::Object(TypeIndex(u32::try_from(place).unwrap_or(u32::MAX)))
                }
            },
            other => {
                self.errors.push(FieldError::not_supported(&path.child("type"), other, TYPES));
                Shape::Any
            }
        };
        if !of_object {
            self.check_supported(schema, path);
            if int_or_string {
                // `anyOf: [{type: integer}, {type: string}]` is the one place where types may stand in it.
                let mut plain = schema.clone();
                if let Some(map) = plain.as_object_mut() {
                    let named = |list: Option<&Value>| {
                        list == Some(&json!([{ "type": "integer" }, { "type": "string" }]))
                    };
                    if named(map.get("anyOf")) {
                        map.remove("anyOf");
                    }
                    if let Some(Value::Array(all)) = map.get_mut("allOf") {
                        all.retain(|one| !named(one.get("anyOf")));
                    }
                }
                self.check_logical(schema, &plain, path, path);
            } else {
                self.check_logical(schema, schema, path, path);
            }
        }
        let mut item = Item::of(shape);
        item.nullable = flag(schema, "nullable");
        if !of_object {
            item.rules = rules::rules_of(schema).map(Arc::new);
        }
        if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
            let mut problems = Vec::new();
            check_json(schema, default, &path.child("default"), &mut problems);
            self.errors.append(&mut problems);
            item.default = Some(Arc::new(default.clone()));
        }
        item
    }

    fn list(&mut self, schema: &Value, path: &FieldPath, depth: usize) -> Shape {
        let items = match schema.get("items") {
            Some(Value::Array(_)) => {
                self.errors.push(FieldError::forbidden(&path.child("items"), "items must be a schema object and not an array"));
                Item::of(Shape::Any)
            }
            Some(items @ Value::Object(_)) => self.item(items, &path.child("items"), "specified array items", depth + 1),
            _ => {
                self.errors.push(FieldError::required(&path.child("items"), "must be specified"));
                Item::of(Shape::Any)
            }
        };
        let keys: Vec<Box<str>> = schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect();
        let kind = text(schema, "x-kubernetes-list-type");
        let keys_path = path.child("x-kubernetes-list-map-keys");
        if kind != "map" && !keys.is_empty() {
            self.errors.push(FieldError::forbidden(&keys_path, "must not be used if x-kubernetes-list-type is not map"));
        }
        let list = match kind {
            "" | "atomic" => ListType::Atomic,
            "set" => ListType::Set,
            "map" => {
                if keys.is_empty() {
                    self.errors.push(FieldError::required(&keys_path, "must not be empty if x-kubernetes-list-type is map"));
                }
                match &items.shape {
                    Shape::Object(index) => {
                        let of = self.types.object(*index).clone();
                        for (index, key) in keys.iter().enumerate() {
                            match of.field(key) {
                                None => self.errors.push(FieldError::invalid(
                                    &keys_path.index(index),
                                    &**key,
                                    "entries must all be names of item properties",
                                )),
                                Some(field) if !field.required && field.item.default.is_none() => self.errors.push(FieldError::required(
                                    &path.child("items").child("properties").key(key).child("default"),
                                    "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                                )),
                                Some(_) => {}
                            }
                        }
                    }
                    _ => self.errors.push(FieldError::invalid(
                        &path.child("items").child("type"),
                        schema.get("items").map(|items| text(items, "type")).unwrap_or_default(),
                        "must be object if parent array's x-kubernetes-list-type is map",
                    )),
                }
                ListType::Map(keys)
            }
            other => {
                self.errors.push(FieldError::not_supported(&path.child("x-kubernetes-list-type"), other, &["atomic", "map", "set"]));
                ListType::Atomic
            }
        };
        Shape::List { items: Box::new(items), list }
    }

    fn check_supported(&mut self, schema: &Value, path: &FieldPath) {
        for name in UNSUPPORTED {
            let set = schema.get(*name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
            if set {
                self.errors.push(FieldError::forbidden(&path.child(name), format!("{name} is not supported")));
            }
        }
        if flag(schema, "uniqueItems") {
            self.errors.push(FieldError::forbidden(
                &path.child("uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ));
        }
        let pattern = text(schema, "pattern");
        if !pattern.is_empty()
            && let Err(error) = rules::pattern(pattern) {
                self.errors.push(FieldError::invalid(
                    &path.child("pattern"),
                    pattern,
                    format!("must be a valid regular expression, but isn't: {error}"),
                ));
            }
        let list_type = text(schema, "x-kubernetes-list-type");
        if !list_type.is_empty() && text(schema, "type") != "array" {
            self.errors.push(FieldError::invalid(
                &path.child("type"),
                text(schema, "type"),
                "must be array if x-kubernetes-list-type is specified",
            ));
        }
    }

    fn check_metadata(&mut self, schema: &Value, path: &FieldPath) {
        let allowed = |map: &Map<String, Value>| {
            map.keys().all(|key| matches!(key.as_str(), "type" | "properties" | "description"))
                && map
                    .get("properties")
                    .and_then(Value::as_object)
                    .is_none_or(|properties| properties.keys().all(|name| matches!(name.as_str(), "name" | "generateName")))
        };
        if text(schema, "type") != "object" {
            self.errors.push(FieldError::invalid(&path.child("type"), text(schema, "type"), "must be object"));
        }
        if !schema.as_object().is_some_and(allowed) {
            self.errors.push(FieldError::forbidden(
                path,
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            ));
        }
    }

    /// Logical rules may only restrict what the schema itself declares.
    fn check_logical(&mut self, declared: &Value, schema: &Value, declared_path: &FieldPath, path: &FieldPath) {
        for name in ["allOf", "anyOf", "oneOf"] {
            for (index, nested) in schema.get(name).and_then(Value::as_array).into_iter().flatten().enumerate() {
                self.check_nested(Some(declared), nested, declared_path, &path.child(name).index(index));
            }
        }
        if let Some(nested) = schema.get("not").filter(|nested| nested.is_object()) {
            self.check_nested(Some(declared), nested, declared_path, &path.child("not"));
        }
    }

    fn check_nested(&mut self, declared: Option<&Value>, nested: &Value, declared_path: &FieldPath, path: &FieldPath) {
        let Some(declared) = declared else {
            self.errors.push(FieldError::required(declared_path, format!("because it is defined in {path}")));
            return;
        };
        let int_or_string = flag(declared, "x-kubernetes-int-or-string");
        for name in ONLY_STRUCTURAL {
            let set = nested.get(*name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)) && value.as_str() != Some(""));
            if set && !(int_or_string && *name == "type") {
                self.errors.push(FieldError::forbidden(&path.child(name), "must be empty to be structural"));
            }
        }
        self.check_supported(nested, path);
        for (name, property) in nested.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let below = declared.get("properties").and_then(|properties| properties.get(name));
            let below = below.or_else(|| declared.get("additionalProperties").filter(|additional| additional.is_object()));
            let implied = matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
            if below.is_none() && (implied || flag(declared, "x-kubernetes-preserve-unknown-fields")) {
                continue;
            }
            self.check_nested(below, property, &declared_path.child("properties").key(name), &path.child("properties").key(name));
        }
        if let Some(items) = nested.get("items").filter(|items| items.is_object()) {
            self.check_nested(declared.get("items"), items, &declared_path.child("items"), &path.child("items"));
        }
        self.check_logical(declared, nested, declared_path, path);
    }
}

fn is_empty(rules: &Rules) -> bool {
    rules.min_properties.is_none()
        && rules.max_properties.is_none()
        && rules.one_of_values.is_empty()
        && rules.required.is_empty()
        && rules.logical.is_none()
        && rules.expressions.is_none()
        && rules.format.is_none()
}
