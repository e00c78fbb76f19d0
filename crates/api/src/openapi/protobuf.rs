//! The protobuf form of an OpenAPI version 2 document: the messages of `openapi.v2`, as Go clients read them.
//!
//! Message and field numbers follow the published `OpenAPIv2.proto`. Only what our own documents hold is written.

use serde_json::{Map, Value};

use crate::protobuf::wire::{nested, put_bytes, put_double, put_integer};

/// Writes a whole document.
pub(super) fn document(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    text(&mut out, 1, &value["swagger"]);
    nested(&mut out, 2, |out| {
        text(out, 1, &value["info"]["title"]);
        text(out, 2, &value["info"]["version"]);
    });
    nested(&mut out, 8, |out| named(out, 2, &value["paths"], path_item));
    nested(&mut out, 9, |out| named(out, 1, &value["definitions"], schema));
    for requirement in list(&value["security"]) {
        nested(&mut out, 12, |out| named(out, 1, requirement, |out, scopes| texts(out, 1, scopes)));
    }
    nested(&mut out, 13, |out| {
        named(out, 1, &value["securityDefinitions"], |out, definition| {
            // The only kind we publish: a key in a header.
            nested(out, 2, |out| {
                text(out, 1, &definition["type"]);
                text(out, 2, &definition["name"]);
                text(out, 3, &definition["in"]);
                text(out, 4, &definition["description"]);
            });
        });
    });
    out
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        put_bytes(out, number, text.as_bytes());
    }
}

pub(super) fn texts(out: &mut Vec<u8>, number: u32, value: &Value) {
    for item in list(value) {
        text(out, number, item);
    }
}

pub(super) fn flag(out: &mut Vec<u8>, number: u32, value: &Value) {
    if value == &Value::Bool(true) {
        put_integer(out, number, 1);
    }
}

pub(super) fn whole(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(value) = value.as_i64() {
        put_integer(out, number, value);
    }
}

pub(super) fn double(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(value) = value.as_f64() {
        put_double(out, number, value);
    }
}

/// A map as pairs of name (1) and value (2).
pub(super) fn named(out: &mut Vec<u8>, number: u32, value: &Value, write: impl Fn(&mut Vec<u8>, &Value)) {
    for (name, value) in value.as_object().into_iter().flatten() {
        nested(out, number, |out| {
            put_bytes(out, 1, name.as_bytes());
            nested(out, 2, |out| write(out, value));
        });
    }
}

/// `Any`: YAML text, of which JSON is a part.
pub(super) fn any(out: &mut Vec<u8>, number: u32, value: &Value) {
    nested(out, number, |out| put_bytes(out, 2, value.to_string().as_bytes()));
}

pub(super) fn extensions(out: &mut Vec<u8>, number: u32, map: &Map<String, Value>) {
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        nested(out, number, |out| {
            put_bytes(out, 1, name.as_bytes());
            any(out, 2, value);
        });
    }
}

fn path_item(out: &mut Vec<u8>, value: &Value) {
    for (method, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)] {
        if let Some(operation) = value.get(method) {
            nested(out, number, |out| self::operation(out, operation));
        }
    }
    for item in list(&value["parameters"]) {
        nested(out, 9, |out| parameter(out, item));
    }
}

fn operation(out: &mut Vec<u8>, value: &Value) {
    texts(out, 1, &value["tags"]);
    text(out, 3, &value["description"]);
    text(out, 5, &value["operationId"]);
    texts(out, 6, &value["produces"]);
    texts(out, 7, &value["consumes"]);
    for item in list(&value["parameters"]) {
        nested(out, 8, |out| parameter(out, item));
    }
    nested(out, 9, |out| {
        named(out, 1, &value["responses"], |out, response| {
            nested(out, 1, |out| {
                text(out, 1, &response["description"]);
                if let Some(content) = response.get("schema") {
                    nested(out, 2, |out| nested(out, 1, |out| schema(out, content)));
                }
            });
        });
    });
    texts(out, 10, &value["schemes"]);
    if let Value::Object(map) = value {
        extensions(out, 13, map);
    }
}

/// `ParametersItem` around `Parameter` around the one of five kinds that fits.
fn parameter(out: &mut Vec<u8>, value: &Value) {
    nested(out, 1, |out| match value["in"].as_str() {
        Some("body") => nested(out, 1, |out| {
            text(out, 1, &value["description"]);
            text(out, 2, &value["name"]);
            text(out, 3, &value["in"]);
            flag(out, 4, &value["required"]);
            nested(out, 5, |out| schema(out, &value["schema"]));
        }),
        place => nested(out, 2, |out| {
            let is_path = place == Some("path");
            nested(out, if is_path { 4 } else { 3 }, |out| {
                flag(out, 1, &value["required"]);
                text(out, 2, &value["in"]);
                text(out, 3, &value["description"]);
                text(out, 4, &value["name"]);
                // Query parameters have `allowEmptyValue` as number 5, which moves all that follow.
                text(out, if is_path { 5 } else { 6 }, &value["type"]);
                text(out, if is_path { 6 } else { 7 }, &value["format"]);
            });
        }),
    });
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    let Value::Object(map) = value else { return };
    text(out, 1, &value["$ref"]);
    text(out, 2, &value["format"]);
    text(out, 3, &value["title"]);
    text(out, 4, &value["description"]);
    if let Some(default) = map.get("default") {
        any(out, 5, default);
    }
    double(out, 6, &value["multipleOf"]);
    double(out, 7, &value["maximum"]);
    flag(out, 8, &value["exclusiveMaximum"]);
    double(out, 9, &value["minimum"]);
    flag(out, 10, &value["exclusiveMinimum"]);
    whole(out, 11, &value["maxLength"]);
    whole(out, 12, &value["minLength"]);
    text(out, 13, &value["pattern"]);
    whole(out, 14, &value["maxItems"]);
    whole(out, 15, &value["minItems"]);
    flag(out, 16, &value["uniqueItems"]);
    whole(out, 17, &value["maxProperties"]);
    whole(out, 18, &value["minProperties"]);
    texts(out, 19, &value["required"]);
    for item in list(&value["enum"]) {
        any(out, 20, item);
    }
    match map.get("additionalProperties") {
        Some(Value::Bool(allowed)) => nested(out, 21, |out| put_integer(out, 2, (*allowed).into())),
        Some(inner) => nested(out, 21, |out| nested(out, 1, |out| schema(out, inner))),
        None => {}
    }
    if let Some(kind) = value["type"].as_str() {
        nested(out, 22, |out| put_bytes(out, 1, kind.as_bytes()));
    }
    if let Some(items) = map.get("items") {
        nested(out, 23, |out| nested(out, 1, |out| schema(out, items)));
    }
    if map.contains_key("properties") {
        nested(out, 25, |out| named(out, 1, &value["properties"], schema));
    }
    if let Some(example) = map.get("example") {
        any(out, 30, example);
    }
    extensions(out, 31, map);
}
