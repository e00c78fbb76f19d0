//! Objects in the form and encoding a client asked for.
//!
//! Stored JSON is sent as it is. Everything else is made once per object revision on first demand and kept in a cache
//! bounded in bytes, shared by all readers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use kinds::ServedKind;
use meta::{ApiError, Object};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use store::Revision;

use crate::{
    codec,
    core::{Core, RequestContext},
    http_body::{Body, full},
    negotiation::{Encoding, Form, Negotiated},
    view::StoredObject,
};

/// Bytes of renderings kept.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

#[derive(PartialEq, Eq, Hash, Clone)]
struct CacheKey {
    resource: meta::GroupVersionResource,
    key: Arc<str>,
    revision: Revision,
    schema_generation: u32,
    negotiated: Negotiated,
}

#[derive(Default)]
struct Cache {
    entries: HashMap<CacheKey, Bytes>,
    order: VecDeque<CacheKey>,
    bytes: usize,
}

/// The cache of renderings.
#[derive(Default)]
pub struct Renderings {
    cache: Mutex<Cache>,
}

impl Renderings {
    fn get_or_make(&self, key: CacheKey, make: impl FnOnce() -> Result<Bytes, ApiError>) -> Result<Bytes, ApiError> {
        if let Some(found) = self.cache.lock().entries.get(&key) {
            return Ok(found.clone());
        }
        let made = make()?;
        let mut cache = self.cache.lock();
        if cache.entries.insert(key.clone(), made.clone()).is_none() {
            cache.bytes += made.len() + 128;
            cache.order.push_back(key);
        }
        while cache.bytes > CACHE_BYTES {
            let Some(oldest) = cache.order.pop_front() else { break };
            if let Some(gone) = cache.entries.remove(&oldest) {
                cache.bytes = cache.bytes.saturating_sub(gone.len() + 128);
            }
        }
        Ok(made)
    }
}

/// One stored object as bytes. Protobuf comes with its envelope; a Table has one row.
///
/// # Errors
/// 500 for damage.
pub fn render(core: &Core, kind: &Arc<dyn ServedKind>, stored: &StoredObject, negotiated: Negotiated) -> Result<Bytes, ApiError> {
    if negotiated == Negotiated::JSON && core.is_plain(kind, stored) {
        return Ok(stored.json.clone());
    }
    let key = CacheKey {
        resource: kind.info().resource(),
        key: stored.key.clone(),
        revision: stored.revision,
        schema_generation: kind.schema().generation,
        negotiated,
    };
    // Cells of a table hold ages of other things than the object, so tables are made anew.
    if negotiated.form == Form::Table {
        let object = core.served_object(kind, stored)?;
        return encode_value(core, kind, &table(kind, &[(object, stored.revision)], Some(stored.revision), "Metadata", (core.clock)(), true), negotiated);
    }
    core.renderings.get_or_make(key, || {
        let object = core.served_object(kind, stored)?;
        match negotiated.form {
            Form::Metadata => encode_value(core, kind, &partial_metadata(&object).into_value(), negotiated),
            Form::Whole | Form::Table => encode_object(kind, &object, negotiated.encoding),
        }
    })
}

/// An object of a kind in an encoding.
///
/// # Errors
/// 500 where it cannot be expressed.
pub fn encode_object(kind: &Arc<dyn ServedKind>, object: &Object, encoding: Encoding) -> Result<Bytes, ApiError> {
    match encoding {
        Encoding::Json => serde_json::to_vec(&object.0).map(Bytes::from).map_err(ApiError::internal),
        Encoding::Yaml => codec::yaml(&Value::Object(object.0.clone())),
        Encoding::Protobuf => codec::protobuf(kind.schema(), object),
    }
}

/// Any object of the meta group (Table, PartialObjectMetadata, Status) in an encoding.
///
/// # Errors
/// 500 where it cannot be expressed.
pub fn encode_value(_core: &Core, _kind: &Arc<dyn ServedKind>, value: &Value, negotiated: Negotiated) -> Result<Bytes, ApiError> {
    encode_meta(value, negotiated.encoding)
}

/// Any object whose kind `api` knows by name, in an encoding; what protobuf cannot express goes as JSON.
///
/// # Errors
/// 500 where it cannot be expressed.
pub fn encode_meta(value: &Value, encoding: Encoding) -> Result<Bytes, ApiError> {
    match encoding {
        Encoding::Json => serde_json::to_vec(value).map(Bytes::from).map_err(ApiError::internal),
        Encoding::Yaml => codec::yaml(value),
        Encoding::Protobuf => codec::protobuf_by_name(value),
    }
}

/// An object with nothing but its metadata.
pub fn partial_metadata(object: &Object) -> Object {
    let mut partial = Map::new();
    partial.insert("kind".to_owned(), json!("PartialObjectMetadata"));
    partial.insert("apiVersion".to_owned(), json!("meta.k8s.io/v1"));
    partial.insert("metadata".to_owned(), object.0.get("metadata").cloned().unwrap_or_else(|| json!({})));
    Object(partial)
}

/// A Table of objects. `include` is `None`, `Metadata` or `Object`; `columns` are left out of later watch events.
pub fn table(kind: &Arc<dyn ServedKind>, objects: &[(Object, Revision)], revision: Option<Revision>, include: &str, now: Timestamp, columns: bool) -> Value {
    let definitions = kind.columns();
    let dates: Vec<bool> = definitions.iter().map(|column| column.kind == "date").collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|(object, _)| {
            let mut cells = kind.row(object, now);
            for (cell, _) in cells.iter_mut().zip(&dates).filter(|(_, date)| **date) {
                // Date columns carry a timestamp from the strategy and an age to the client, as upstream's printers do.
                if let Some(Ok(since)) = cell.as_str().map(str::parse::<Timestamp>) {
                    *cell = Value::String(kinds::plain::age(Some(since), now));
                }
            }
            let mut row = Map::new();
            row.insert("cells".to_owned(), Value::Array(cells));
            match include {
                "Object" => {
                    row.insert("object".to_owned(), Value::Object(object.0.clone()));
                }
                "None" => {}
                _ => {
                    row.insert("object".to_owned(), partial_metadata(object).into_value());
                }
            }
            Value::Object(row)
        })
        .collect();
    let mut metadata = Map::new();
    if let Some(revision) = revision {
        metadata.insert("resourceVersion".to_owned(), json!(revision.to_string()));
    }
    let column_values: Vec<Value> = if columns {
        definitions
            .iter()
            .map(|column| {
                // Upstream's definitions show ages as strings by the time the table leaves.
                let kind = if column.kind == "date" && column.name != "Created At" { "string" } else { column.kind.as_str() };
                json!({"name": column.name, "type": kind, "format": column.format, "description": column.description, "priority": column.priority})
            })
            .collect()
    } else {
        Vec::new()
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": column_values,
        "rows": rows,
    })
}

/// A list's own metadata.
#[derive(Debug, Clone, Default)]
pub struct ListMetadata {
    /// `resourceVersion`
    pub revision: Revision,
    /// `continue`
    pub continue_token: String,
    /// `remainingItemCount`
    pub remaining: Option<usize>,
}

impl ListMetadata {
    /// As JSON.
    pub fn value(&self) -> Map<String, Value> {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), json!(self.revision.to_string()));
        if !self.continue_token.is_empty() {
            metadata.insert("continue".to_owned(), json!(self.continue_token));
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".to_owned(), json!(remaining));
        }
        metadata
    }
}

/// A list of stored objects as bytes.
///
/// # Errors
/// 500 for damage.
pub fn render_list(core: &Core, context: &RequestContext, kind: &Arc<dyn ServedKind>, items: &[Arc<StoredObject>], list: &ListMetadata, negotiated: Negotiated) -> Result<Bytes, ApiError> {
    let info = kind.info();
    match (negotiated.form, negotiated.encoding) {
        (Form::Whole, Encoding::Json) => {
            let mut buffer = BytesMut::with_capacity(256 + items.iter().map(|item| item.json.len() + 1).sum::<usize>());
            buffer.put_slice(b"{\"kind\":");
            buffer.put_slice(&serde_json::to_vec(&info.list_kind).unwrap_or_default());
            buffer.put_slice(b",\"apiVersion\":");
            buffer.put_slice(&serde_json::to_vec(&info.kind.group_version().to_string()).unwrap_or_default());
            buffer.put_slice(b",\"metadata\":");
            buffer.put_slice(&serde_json::to_vec(&list.value()).unwrap_or_default());
            buffer.put_slice(b",\"items\":[");
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    buffer.put_u8(b',');
                }
                if !core.is_plain(kind, item) {
                    buffer.put_slice(&render(core, kind, item, Negotiated::JSON)?);
                } else if info.custom {
                    buffer.put_slice(&item.json);
                } else {
                    // Items of built-in lists carry neither kind nor apiVersion.
                    buffer.put_u8(b'{');
                    buffer.put_slice(&item.item_body());
                }
            }
            buffer.put_slice(b"]}\n");
            Ok(buffer.freeze())
        }
        (Form::Whole, Encoding::Protobuf) => {
            let bodies = items
                .iter()
                .map(|item| render(core, kind, item, negotiated).and_then(|bytes| codec::protobuf_body(&bytes)))
                .collect::<Result<Vec<_>, _>>()?;
            codec::protobuf_list(&info.kind.group_version().to_string(), &info.list_kind, list, &bodies)
        }
        (Form::Table, _) => {
            let objects = items
                .iter()
                .map(|item| Ok((core.served_object(kind, item)?, item.revision)))
                .collect::<Result<Vec<_>, ApiError>>()?;
            let include = context.query.include_object.as_deref().unwrap_or("Metadata");
            let mut value = table(kind, &objects, None, include, context.now, true);
            if let Some(place) = value.get_mut("metadata") {
                *place = Value::Object(list.value());
            }
            encode_meta(&value, negotiated.encoding)
        }
        (Form::Metadata, _) => {
            let mut values = Vec::with_capacity(items.len());
            for item in items {
                values.push(partial_metadata(&core.served_object(kind, item)?).into_value());
            }
            encode_meta(
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list.value(), "items": values}),
                negotiated.encoding,
            )
        }
        (Form::Whole, Encoding::Yaml) => {
            let objects = items.iter().map(|item| core.served_object(kind, item).map(Object::into_value)).collect::<Result<Vec<_>, _>>()?;
            codec::yaml(&json!({"kind": info.list_kind, "apiVersion": info.kind.group_version().to_string(), "metadata": list.value(), "items": objects}))
        }
    }
}

/// An answer with bytes of a negotiated encoding.
pub fn respond(code: StatusCode, negotiated: Negotiated, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(negotiated.content_type()));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An error as a Status in the encoding the client takes.
pub fn error_answer(error: &ApiError, accept: &str) -> Response<Body> {
    let encoding = crate::negotiation::negotiate(accept, true).map_or(Encoding::Json, |negotiated| negotiated.encoding);
    let status = error.to_status();
    let negotiated = Negotiated { encoding, form: Form::Whole };
    let (negotiated, bytes) = match encode_meta(&status, encoding) {
        Ok(bytes) => (negotiated, bytes),
        Err(_) => (Negotiated::JSON, Bytes::from(status.to_string())),
    };
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = respond(code, negotiated, bytes);
    if error.retry_after_seconds > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(error.retry_after_seconds));
    }
    response
}
