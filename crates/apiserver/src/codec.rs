//! Bytes to objects and back, in every encoding the server speaks. The algorithms live in `meta` and `api`; this module
//! picks one by content type and turns their errors into answers.

use std::ops::Range;

use bytes::Bytes;
use kinds::ServedKind;
use meta::{ApiError, GroupVersionKind, Object, Reason, read::ReadOutcome, schema::Schema};
use serde_json::Value;


/// Content types of bodies.
enum BodyType {
    Json,
    Yaml,
    Protobuf,
}

fn body_type(content_type: &str, protobuf: bool) -> Result<BodyType, ApiError> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => Ok(BodyType::Json),
        "application/yaml" => Ok(BodyType::Yaml),
        "application/vnd.kubernetes.protobuf" if protobuf => Ok(BodyType::Protobuf),
        _ => {
            let known = if protobuf {
                "application/json, application/yaml, application/vnd.kubernetes.protobuf"
            } else {
                "application/json, application/yaml"
            };
            Err(ApiError::new(
                415,
                Reason::UnsupportedMediaType,
                format!("the body of the request was in an unknown format - accepted media types include: {known}"),
            ))
        }
    }
}

fn cannot_handle(kind: &dyn ServedKind, why: impl std::fmt::Display) -> ApiError {
    let info = kind.info();
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}", kind = info.kind.kind, version = &*info.kind.version))
}

/// Reads a body as an object of a kind.
///
/// # Errors
/// 400 and 415.
pub fn read_object(content_type: &str, bytes: &Bytes, kind: &dyn ServedKind) -> Result<ReadOutcome, ApiError> {
    match body_type(content_type, !kind.info().custom)? {
        BodyType::Json => meta::read::read_json(bytes, kind.schema()).map_err(|error| cannot_handle(kind, error)),
        BodyType::Yaml => meta::read::read_yaml(bytes, kind.schema()).map_err(|error| cannot_handle(kind, error)),
        BodyType::Protobuf => {
            let (header, value) = decode_protobuf(kind.schema(), bytes).map_err(|error| cannot_handle(kind, error))?;
            let mut outcome = meta::read::normalise_value(value, kind.schema()).map_err(|error| cannot_handle(kind, error))?;
            outcome.object.0.insert("apiVersion".to_owned(), Value::String(header.0));
            outcome.object.0.insert("kind".to_owned(), Value::String(header.1));
            Ok(outcome)
        }
    }
}

/// Reads the object of an apply patch, which is YAML or JSON.
///
/// # Errors
/// 400
pub fn read_applied(bytes: &Bytes, kind: &dyn ServedKind) -> Result<ReadOutcome, ApiError> {
    let yaml = || meta::read::read_yaml(bytes, kind.schema());
    let read = match bytes.first() {
        // JSON is read faster as JSON. Upstream reads it as YAML, whose words for duplicate fields are wanted.
        Some(b'{') => meta::read::read_json(bytes, kind.schema()).and_then(|outcome| if outcome.problems.is_empty() { Ok(outcome) } else { yaml() }),
        _ => yaml(),
    };
    read.map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}

/// Reads the body of a delete.
///
/// # Errors
/// 400 and 415.
pub fn read_delete_options(content_type: &str, bytes: &Bytes) -> Result<Object, ApiError> {
    read_meta(content_type, bytes, &GroupVersionKind::new("", "v1", "DeleteOptions"))
}

/// Reads a body of a kind that is not served by itself (DeleteOptions, Scale, Eviction, TokenRequest, …).
///
/// # Errors
/// 400 and 415.
pub fn read_meta(content_type: &str, bytes: &Bytes, kind: &GroupVersionKind) -> Result<Object, ApiError> {
    let Some(schema) = api::schema(kind) else { return Err(ApiError::internal(format!("the shape of {kind} is not known"))) };
    let bad = |error: String| ApiError::bad_request(format!("the body of the request cannot be handled as a {}: {error}", kind.kind));
    let outcome = match body_type(content_type, true)? {
        BodyType::Json => meta::read::read_json(bytes, &schema).map_err(|error| bad(error.to_string()))?,
        BodyType::Yaml => meta::read::read_yaml(bytes, &schema).map_err(|error| bad(error.to_string()))?,
        BodyType::Protobuf => {
            let ((api_version, kind_name), value) = decode_protobuf(&schema, bytes).map_err(bad)?;
            let mut outcome = meta::read::normalise_value(value, &schema).map_err(|error| bad(error.to_string()))?;
            outcome.object.0.insert("apiVersion".to_owned(), Value::String(api_version));
            outcome.object.0.insert("kind".to_owned(), Value::String(kind_name));
            outcome
        }
    };
    Ok(outcome.object)
}

fn decode_protobuf(schema: &Schema, bytes: &Bytes) -> Result<((String, String), Value), String> {
    if !bytes.starts_with(b"k8s\0") {
        return Err("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".to_owned());
    }
    let unknown = api::protobuf::decode(bytes).map_err(|error| error.to_string())?;
    let value = api::protobuf::decode_object(schema, unknown.raw).map_err(|error| error.to_string())?;
    Ok(((unknown.api_version.into_owned(), unknown.kind.into_owned()), value))
}

/// An object as protobuf, in its envelope.
///
/// # Errors
/// Never for objects that have their schema's shape.
pub fn protobuf(schema: &Schema, object: &Object) -> Result<Bytes, ApiError> {
    let value = Value::Object(object.0.clone());
    let raw = api::protobuf::encode_object(schema, &value).map_err(ApiError::internal)?;
    Ok(api::protobuf::wrap(object.api_version(), object.kind(), &raw).into())
}

/// An object whose schema is found by its kind.
///
/// # Errors
/// 406 where the kind has no protobuf form.
pub fn protobuf_by_name(value: &Value) -> Result<Bytes, ApiError> {
    api::protobuf::encode_document(value).map(Bytes::from).map_err(|error| ApiError::new(406, Reason::NotAcceptable, error.to_string()))
}

/// Where the object inside an envelope begins and ends.
///
/// # Errors
/// 500 where there is no envelope.
pub fn protobuf_body(bytes: &Bytes) -> Result<Range<usize>, ApiError> {
    let unknown = api::protobuf::decode(bytes).map_err(ApiError::internal)?;
    let body = bytes.slice_ref(unknown.raw);
    // An empty slice may lie anywhere.
    let start = if body.is_empty() { 0 } else { body.as_ptr().addr() - bytes.as_ptr().addr() };
    Ok(start..start + body.len())
}

/// How many bytes at the head of a [`protobuf_frame`] tell the length of the rest.
pub const PROTOBUF_FRAME_LENGTH_BYTES: usize = 4;

/// A watch event around an object in its envelope, with its length before it.
pub fn protobuf_frame(kind: &str, object: &[u8]) -> Bytes {
    api::protobuf::encode_watch_event(kind, object).into()
}

/// YAML.
///
/// # Errors
/// 500 where it cannot be expressed.
pub fn yaml(value: &Value) -> Result<Bytes, ApiError> {
    Ok(crate::yaml::write(value).into())
}
