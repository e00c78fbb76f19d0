//! Objects in the form and encoding a client asked for.
//!
//! Stored JSON is sent as it is. Everything else is made once per object revision on first demand and kept in a cache
//! bounded in bytes, shared by all readers.

use std::{
    collections::VecDeque,
    mem,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use api::protobuf::ListParts;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use kinds::{ServedKind, scheme::TableColumn};
use meta::{ApiError, Object};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use smallvec::SmallVec;
use store::Revision;

use crate::{
    codec,
    core::{Core, RequestContext},
    http_body::{Body, full},
    list_body::list_body,
    negotiation::{Encoding, Form, Negotiated},
    view::StoredObject,
};

/// Bytes of renderings kept.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// What a rendering occupies beside its bytes, roughly.
const OVERHEAD_BYTES: usize = 128;

/// What of an object goes with its row of a Table.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Included {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Included {
    /// What `includeObject` asks for.
    pub fn asked(text: Option<&str>) -> Self {
        match text {
            Some("Object") => Self::Object,
            Some("None") => Self::None,
            _ => Self::Metadata,
        }
    }
}

/// What an object is rendered as.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Shape {
    Document(Negotiated),
    /// A row holds ages, so it is good for a second of time.
    Row { included: Included, second: i64 },
}

struct Rendering {
    shape: Shape,
    /// Objects may be served in several versions, and definitions change. Kept weakly, so that the address is not given to another.
    kind: Weak<dyn ServedKind>,
    made: Weak<Made>,
}

/// The bytes of a rendering.
struct Made {
    bytes: Bytes,
    /// Where the object itself begins, behind its envelope, and where it ends; all of it where there is no envelope. Lists take it from there.
    body: Range<usize>,
}

/// The renderings of one object at one revision, as far as [`Renderings`] keeps them. Most objects have one at most, which lies here itself,
/// so that a list of thousands does not look up a place in memory more than it must.
#[derive(Default)]
pub(crate) struct Rendered(Mutex<SmallVec<[Rendering; 1]>>);

impl std::fmt::Debug for Rendered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} renderings", self.0.lock().len())
    }
}

#[derive(Default)]
struct Kept {
    order: VecDeque<Arc<Made>>,
    bytes: usize,
}

/// Keeps renderings, the latest up to a number of bytes. They are found through their objects.
#[derive(Default)]
pub struct Renderings {
    kept: Mutex<Kept>,
    made: AtomicU64,
}

impl Renderings {
    /// How many renderings were made: with enough room one for each form of each object and revision that anybody asked for.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn get_or_make(
        &self,
        stored: &StoredObject,
        kind: &Arc<dyn ServedKind>,
        shape: Shape,
        make: impl FnOnce() -> Result<Bytes, ApiError>,
    ) -> Result<Arc<Made>, ApiError> {
        // Held while it is made: whoever wants the same waits for it rather than making it too.
        let mut known = stored.rendered.0.lock();
        let mut same = known.iter().filter(|one| one.shape == shape && std::ptr::addr_eq(one.kind.as_ptr(), Arc::as_ptr(kind)));
        if let Some(found) = same.next().and_then(|one| one.made.upgrade()) {
            return Ok(found);
        }
        let bytes = make()?;
        let has_envelope = matches!(shape, Shape::Document(Negotiated { encoding: Encoding::Protobuf, .. }));
        let body = if has_envelope { codec::protobuf_body(&bytes)? } else { 0..bytes.len() };
        let made = Arc::new(Made { bytes, body });
        self.made.fetch_add(1, Ordering::Relaxed);
        known.retain(|one| {
            let is_past = matches!((one.shape, shape), (Shape::Row { second: old, .. }, Shape::Row { second: new, .. }) if old < new);
            !is_past && one.made.strong_count() > 0 && one.kind.strong_count() > 0
        });
        known.push(Rendering { shape, kind: Arc::downgrade(kind), made: Arc::downgrade(&made) });
        drop(known);
        let mut kept = self.kept.lock();
        kept.bytes += made.bytes.len() + OVERHEAD_BYTES;
        kept.order.push_back(made.clone());
        while kept.bytes > CACHE_BYTES {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.bytes = kept.bytes.saturating_sub(oldest.bytes.len() + OVERHEAD_BYTES);
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
        return Ok(stored.json());
    }
    if negotiated.form == Form::Table {
        let row = row(core, kind, stored, Included::Metadata, (core.clock)())?;
        return table(kind, &[row], &table_metadata(stored.revision), true, negotiated.encoding);
    }
    Ok(document(core, kind, stored, negotiated)?.bytes.clone())
}

fn document(core: &Core, kind: &Arc<dyn ServedKind>, stored: &StoredObject, negotiated: Negotiated) -> Result<Arc<Made>, ApiError> {
    core.renderings.get_or_make(stored, kind, Shape::Document(negotiated), || {
        let object = core.served_object(kind, stored)?;
        match negotiated.form {
            Form::Metadata => encode_meta(&partial_metadata(&object).into_value(), negotiated.encoding),
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

/// The row that an object is in Tables, in JSON.
///
/// # Errors
/// 500 for damage.
pub fn row(core: &Core, kind: &Arc<dyn ServedKind>, stored: &StoredObject, included: Included, now: Timestamp) -> Result<Bytes, ApiError> {
    let second = now.as_second();
    // Ages count whole seconds, so every row of one second is the same.
    let now = Timestamp::from_second(second).unwrap_or(now);
    let made = core.renderings.get_or_make(stored, kind, Shape::Row { included, second }, || {
        let object = core.served_object(kind, stored)?;
        let mut cells = kind.row(&object, now);
        for (cell, _) in cells.iter_mut().zip(kind.columns()).filter(|(_, column)| is_age(column)) {
            // Date columns carry a timestamp from the strategy and an age to the client, as upstream's printers do.
            if let Some(Ok(since)) = cell.as_str().map(str::parse::<Timestamp>) {
                *cell = Value::String(kinds::plain::age(Some(since), now));
            }
        }
        let mut row = Map::new();
        row.insert("cells".to_owned(), Value::Array(cells));
        match included {
            Included::Object => {
                row.insert("object".to_owned(), object.into_value());
            }
            Included::None => {}
            Included::Metadata => {
                row.insert("object".to_owned(), partial_metadata(&object).into_value());
            }
        }
        serde_json::to_vec(&row).map(Bytes::from).map_err(ApiError::internal)
    })?;
    Ok(made.bytes.clone())
}

/// The metadata of a Table about one object.
pub fn table_metadata(revision: Revision) -> Map<String, Value> {
    Map::from_iter([("resourceVersion".to_owned(), json!(revision.to_string()))])
}

/// Whether a column shows how long ago something was. Kinds without a printer upstream show the time itself instead.
fn is_age(column: &TableColumn) -> bool {
    column.kind == "date" && column.name != "Created At"
}

/// A Table of rows that [`row`] made. `columns` are left out of later watch events.
///
/// # Errors
/// 406 where the encoding has no tables.
pub fn table(kind: &Arc<dyn ServedKind>, rows: &[Bytes], metadata: &Map<String, Value>, columns: bool, encoding: Encoding) -> Result<Bytes, ApiError> {
    let definitions = if columns { kind.columns() } else { Default::default() };
    let definitions: Vec<Value> = definitions
        .iter()
        .map(|column| {
            // Upstream's definitions show ages as strings by the time the table leaves.
            let kind = if is_age(column) { "string" } else { column.kind.as_str() };
            json!({"name": column.name, "type": kind, "format": column.format, "description": column.description, "priority": column.priority})
        })
        .collect();
    let mut buffer = BytesMut::with_capacity(512 + 256 * definitions.len() + rows.iter().map(|row| row.len() + 1).sum::<usize>());
    buffer.put_slice(b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    buffer.put_slice(&serde_json::to_vec(metadata).map_err(ApiError::internal)?);
    buffer.put_slice(b",\"columnDefinitions\":");
    buffer.put_slice(&serde_json::to_vec(&definitions).map_err(ApiError::internal)?);
    buffer.put_slice(b",\"rows\":[");
    put_joined(&mut buffer, rows);
    buffer.put_slice(b"]}");
    match encoding {
        Encoding::Json => Ok(buffer.freeze()),
        Encoding::Yaml | Encoding::Protobuf => encode_meta(&serde_json::from_slice(&buffer).map_err(ApiError::internal)?, encoding),
    }
}

fn put_joined(buffer: &mut BytesMut, parts: &[Bytes]) {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            buffer.put_u8(b',');
        }
        buffer.put_slice(part);
    }
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

/// Kind of lists of nothing but metadata.
const METADATA_LIST: &str = "PartialObjectMetadataList";

/// A list in protobuf, of objects without their envelopes.
fn protobuf_list(core: &Core, kind: &Arc<dyn ServedKind>, items: &[Arc<StoredObject>], list: &ListMetadata, negotiated: Negotiated, of: (&str, &str)) -> Result<Body, ApiError> {
    let made = items.iter().map(|item| document(core, kind, item, negotiated)).collect::<Result<Vec<_>, _>>()?;
    let parts = ListParts::new(of.0, of.1, &Value::Object(list.value()), made.iter().map(|made| made.body.len())).map_err(ApiError::internal)?;
    let length = parts.head.len() + parts.items_length + ListParts::END.len();
    let put = |made: &Arc<Made>, out: &mut Vec<u8>| ListParts::put_item(out, made.bytes.get(made.body.clone()).unwrap_or_default());
    Ok(list_body(parts.head, made, put, ListParts::END, length))
}

/// An item of a list in JSON.
enum Item {
    /// As it is stored.
    Stored(Arc<StoredObject>),
    /// What it had to be made into.
    Made(Bytes),
}

/// A list in JSON.
fn json_list(core: &Core, kind: &Arc<dyn ServedKind>, items: &[Arc<StoredObject>], list: &ListMetadata) -> Result<Body, ApiError> {
    const END: &[u8] = b"]}\n";
    let info = kind.info();
    // Items of built-in lists carry neither kind nor apiVersion.
    let is_whole = info.custom;
    let mut length = END.len() + items.len().saturating_sub(1);
    let item = |item: &Arc<StoredObject>| {
        if core.is_plain(kind, item) {
            length += if is_whole { item.json_length() } else { 1 + item.item_body_length() };
            return Ok(Item::Stored(item.clone()));
        }
        let made = render(core, kind, item, Negotiated::JSON)?;
        length += made.len();
        Ok(Item::Made(made))
    };
    let items = items.iter().map(item).collect::<Result<Vec<_>, ApiError>>()?;
    let mut head = serde_json::to_vec(&json!({"kind": info.list_kind, "apiVersion": info.kind.group_version().to_string(), "metadata": list.value()})).map_err(ApiError::internal)?;
    // Its last brace comes after the items.
    head.pop();
    head.extend_from_slice(b",\"items\":[");
    let mut is_first = true;
    let put = move |item: &Item, out: &mut Vec<u8>| {
        if !mem::take(&mut is_first) {
            out.push(b',');
        }
        match item {
            Item::Made(bytes) => out.extend_from_slice(bytes),
            Item::Stored(stored) if is_whole => stored.put_json(out),
            Item::Stored(stored) => {
                out.push(b'{');
                stored.put_item_body(out);
            }
        }
    };
    let length = length + head.len();
    Ok(list_body(head, items, put, END, length))
}

/// A list of stored objects.
///
/// # Errors
/// 500 for damage.
pub fn render_list(core: &Core, context: &RequestContext, kind: &Arc<dyn ServedKind>, items: &[Arc<StoredObject>], list: &ListMetadata, negotiated: Negotiated) -> Result<Body, ApiError> {
    let info = kind.info();
    Ok(match (negotiated.form, negotiated.encoding) {
        (Form::Whole, Encoding::Json) => json_list(core, kind, items, list)?,
        (Form::Whole, Encoding::Protobuf) => {
            protobuf_list(core, kind, items, list, negotiated, (&info.kind.group_version().to_string(), &info.list_kind))?
        }
        (Form::Table, _) => {
            let included = Included::asked(context.query.include_object.as_deref());
            let rows = items.iter().map(|item| row(core, kind, item, included, context.now)).collect::<Result<Vec<_>, _>>()?;
            full(table(kind, &rows, &list.value(), true, negotiated.encoding)?)
        }
        (Form::Metadata, Encoding::Protobuf) => protobuf_list(core, kind, items, list, negotiated, ("meta.k8s.io/v1", METADATA_LIST))?,
        (Form::Metadata, Encoding::Json) => full(metadata_list(core, kind, items, list)?),
        (Form::Metadata, Encoding::Yaml) => full(codec::yaml(&serde_json::from_slice(&metadata_list(core, kind, items, list)?).map_err(ApiError::internal)?)?),
        (Form::Whole, Encoding::Yaml) => {
            let objects = items.iter().map(|item| core.served_object(kind, item).map(Object::into_value)).collect::<Result<Vec<_>, _>>()?;
            full(codec::yaml(&json!({"kind": info.list_kind, "apiVersion": info.kind.group_version().to_string(), "metadata": list.value(), "items": objects}))?)
        }
    })
}

/// A list of nothing but metadata, in JSON.
fn metadata_list(core: &Core, kind: &Arc<dyn ServedKind>, items: &[Arc<StoredObject>], list: &ListMetadata) -> Result<Bytes, ApiError> {
    let form = Negotiated { encoding: Encoding::Json, form: Form::Metadata };
    let parts = items.iter().map(|item| render(core, kind, item, form)).collect::<Result<Vec<_>, _>>()?;
    let mut buffer = BytesMut::with_capacity(256 + parts.iter().map(|part| part.len() + 1).sum::<usize>());
    let head = json!({"kind": METADATA_LIST, "apiVersion": "meta.k8s.io/v1", "metadata": list.value()});
    let head = serde_json::to_vec(&head).map_err(ApiError::internal)?;
    // Its last brace comes after the items.
    buffer.put_slice(head.strip_suffix(b"}").unwrap_or(&head));
    buffer.put_slice(b",\"items\":[");
    put_joined(&mut buffer, &parts);
    buffer.put_slice(b"]}");
    Ok(buffer.freeze())
}

/// An answer with bytes of a negotiated encoding.
pub fn respond(code: StatusCode, negotiated: Negotiated, bytes: Bytes) -> Response<Body> {
    respond_with(code, negotiated, full(bytes))
}

/// An answer with a body of a negotiated encoding.
pub fn respond_with(code: StatusCode, negotiated: Negotiated, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
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
