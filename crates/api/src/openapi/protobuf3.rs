//! The protobuf form of an OpenAPI version 3 document: the messages of `openapi.v3`, as Go clients read them.
//!
//! Message and field numbers follow the published `OpenAPIv3.proto`. Only what our own documents hold is written. Version 2 has other
//! messages, in `protobuf.rs`.

use serde_json::Value;

use super::protobuf::{any, double, extensions, flag, list, named, text, texts, whole};
use crate::protobuf::wire::{nested, put_bytes, put_double, put_integer};

/// Writes a whole document.
pub(super) fn document(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 18);
    text(&mut out, 1, &value["openapi"]);
    nested(&mut out, 2, |out| {
        text(out, 1, &value["info"]["title"]);
        text(out, 6, &value["info"]["version"]);
    });
    nested(&mut out, 4, |out| named(out, 1, &value["paths"], path_item));
    nested(&mut out, 5, |out| {
        let components = &value["components"];
        nested(out, 1, |out| named(out, 1, &components["schemas"], schema_or_reference));
        nested(out, 7, |out| {
            named(out, 1, &components["securitySchemes"], |out, scheme| {
                nested(out, 1, |out| {
                    text(out, 1, &scheme["type"]);
                    text(out, 2, &scheme["description"]);
                    text(out, 3, &scheme["name"]);
                    text(out, 4, &scheme["in"]);
                });
            });
        });
    });
    out
}

fn path_item(out: &mut Vec<u8>, value: &Value) {
    for (method, number) in [("get", 4), ("put", 5), ("post", 6), ("delete", 7), ("options", 8), ("head", 9), ("patch", 10)] {
        if let Some(operation) = value.get(method) {
            nested(out, number, |out| self::operation(out, operation));
        }
    }
    for item in list(&value["parameters"]) {
        nested(out, 13, |out| parameter(out, item));
    }
}

fn operation(out: &mut Vec<u8>, value: &Value) {
    texts(out, 1, &value["tags"]);
    text(out, 3, &value["description"]);
    text(out, 5, &value["operationId"]);
    for item in list(&value["parameters"]) {
        nested(out, 6, |out| parameter(out, item));
    }
    if let Some(body) = value.get("requestBody") {
        nested(out, 7, |out| {
            nested(out, 1, |out| {
                text(out, 1, &body["description"]);
                nested(out, 2, |out| named(out, 1, &body["content"], media_type));
                flag(out, 3, &body["required"]);
            });
        });
    }
    nested(out, 8, |out| {
        named(out, 2, &value["responses"], |out, response| {
            nested(out, 1, |out| {
                text(out, 1, &response["description"]);
                if response.get("content").is_some() {
                    nested(out, 3, |out| named(out, 1, &response["content"], media_type));
                }
            });
        });
    });
    if let Value::Object(map) = value {
        extensions(out, 13, map);
    }
}

fn media_type(out: &mut Vec<u8>, value: &Value) {
    if let Some(schema) = value.get("schema") {
        nested(out, 1, |out| schema_or_reference(out, schema));
    }
}

fn parameter(out: &mut Vec<u8>, value: &Value) {
    nested(out, 1, |out| {
        text(out, 1, &value["name"]);
        text(out, 2, &value["in"]);
        text(out, 3, &value["description"]);
        flag(out, 4, &value["required"]);
        if let Some(schema) = value.get("schema") {
            nested(out, 10, |out| schema_or_reference(out, schema));
        }
    });
}

fn schema_or_reference(out: &mut Vec<u8>, value: &Value) {
    if value.get("$ref").is_some() {
        nested(out, 2, |out| text(out, 1, &value["$ref"]));
    } else {
        nested(out, 1, |out| schema(out, value));
    }
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    let Value::Object(map) = value else { return };
    flag(out, 1, &value["nullable"]);
    if let Some(example) = map.get("example") {
        any(out, 7, example);
    }
    text(out, 9, &value["title"]);
    double(out, 10, &value["multipleOf"]);
    double(out, 11, &value["maximum"]);
    flag(out, 12, &value["exclusiveMaximum"]);
    double(out, 13, &value["minimum"]);
    flag(out, 14, &value["exclusiveMinimum"]);
    whole(out, 15, &value["maxLength"]);
    whole(out, 16, &value["minLength"]);
    text(out, 17, &value["pattern"]);
    whole(out, 18, &value["maxItems"]);
    whole(out, 19, &value["minItems"]);
    flag(out, 20, &value["uniqueItems"]);
    whole(out, 21, &value["maxProperties"]);
    whole(out, 22, &value["minProperties"]);
    texts(out, 23, &value["required"]);
    for item in list(&value["enum"]) {
        any(out, 24, item);
    }
    text(out, 25, &value["type"]);
    for (name, number) in [("allOf", 26), ("oneOf", 27), ("anyOf", 28)] {
        for item in list(&value[name]) {
            nested(out, number, |out| schema_or_reference(out, item));
        }
    }
    if let Some(not) = map.get("not") {
        nested(out, 29, |out| schema(out, not));
    }
    if let Some(items) = map.get("items") {
        nested(out, 30, |out| nested(out, 1, |out| schema_or_reference(out, items)));
    }
    if map.contains_key("properties") {
        nested(out, 31, |out| named(out, 1, &value["properties"], schema_or_reference));
    }
    match map.get("additionalProperties") {
        Some(Value::Bool(allowed)) => nested(out, 32, |out| put_integer(out, 2, (*allowed).into())),
        Some(inner) => nested(out, 32, |out| nested(out, 1, |out| schema_or_reference(out, inner))),
        None => {}
    }
    if let Some(default) = map.get("default") {
        // There is no way to write an object or a list here; upstream's converter leaves them empty, too.
        nested(out, 33, |out| match default {
            Value::Number(number) => put_double(out, 1, number.as_f64().unwrap_or_default()),
            Value::Bool(boolean) => put_integer(out, 2, (*boolean).into()),
            Value::String(text) => put_bytes(out, 3, text.as_bytes()),
            _ => {}
        });
    }
    text(out, 34, &value["description"]);
    text(out, 35, &value["format"]);
    extensions(out, 36, map);
}
