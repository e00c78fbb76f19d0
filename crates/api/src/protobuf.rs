//! Kubernetes' protobuf, driven by the table of facts: no code per type.
//!
//! A document is the four bytes `k8s\0` and a message `Unknown` with apiVersion, kind and the object's own message. A watch is
//! a row of frames, each a length of four bytes, big-endian, and a `WatchEvent` without that prefix. Objects are JSON trees on
//! our side, as everywhere; [`decode_object`] yields what upstream's types would print as JSON.

mod decode;
mod encode;
pub(crate) mod wire;

use std::borrow::Cow;

use meta::{GroupVersion, schema::Schema};
use serde_json::{Map, Value};

/// Media type of documents.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every document starts with.
const MAGIC: &[u8] = b"k8s\0";

/// Objects may be nested this deep, which no honest one comes near.
const MAX_DEPTH: usize = 100;

/// Why bytes are not an object, or an object cannot be written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtobufError {
    /// A length or number points behind the end.
    #[error("the protobuf message is cut off")]
    Truncated,
    /// A number longer than ten bytes, field number 0, or a group.
    #[error("the protobuf message is malformed")]
    Malformed,
    /// Nested deeper than any honest object.
    #[error("the protobuf message is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A field does not hold what its type says.
    #[error("field {field} of {object}: {problem}")]
    Field {
        /// Definition name of the type.
        object: String,
        /// Field in JSON.
        field: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// apiVersion and kind are of no built-in type.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\" in protobuf; send JSON")]
    UnknownKind {
        /// As sent.
        api_version: String,
        /// As sent.
        kind: String,
    },
    /// The content is compressed or of another media type.
    #[error("content type \"{0}\" inside a protobuf document is not understood; send the object's own protobuf message")]
    UnknownContent(String),
    /// Custom resources have no protobuf form.
    #[error("custom resources have no protobuf form; ask for JSON")]
    NotBuiltIn,
}

/// A document taken apart: `Unknown` of upstream's `runtime` package.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope<'a> {
    /// As sent; empty where the bytes had no envelope.
    pub api_version: Cow<'a, str>,
    /// As sent; empty where the bytes had no envelope.
    pub kind: Cow<'a, str>,
    /// Empty for none.
    pub content_encoding: Cow<'a, str>,
    /// Empty for protobuf.
    pub content_type: Cow<'a, str>,
    /// The object's own message.
    pub raw: &'a [u8],
}

/// Takes a document apart. Bytes without the prefix are taken as an object's own message.
///
/// # Errors
/// Where the envelope is malformed.
pub fn decode(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    match bytes.strip_prefix(MAGIC) {
        Some(envelope) => decode::envelope(envelope),
        None => Ok(Envelope { raw: bytes, ..Envelope::default() }),
    }
}

/// Reads an object's own message. apiVersion and kind of whole objects stand in the envelope and are not set.
///
/// Zeros that upstream's types would leave out of JSON are left out here too; unknown fields are skipped.
///
/// # Errors
/// Where the bytes are malformed or the schema is not a built-in one.
pub fn decode_object(schema: &Schema, raw: &[u8]) -> Result<Value, ProtobufError> {
    built_in(schema)?;
    decode::object(schema.root, raw, 0).map(Value::Object)
}

/// Reads a document of any built-in kind, with apiVersion and kind.
///
/// # Errors
/// Where the bytes are malformed, have no envelope, or the kind is not built in.
pub fn decode_document(bytes: &[u8]) -> Result<Value, ProtobufError> {
    decode::document(bytes, 0).map(Value::Object)
}

/// Writes an object's own message, without an envelope.
///
/// # Errors
/// Where the object does not have its schema's shape or the schema is not a built-in one.
pub fn encode_object(schema: &Schema, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    built_in(schema)?;
    let mut out = Vec::with_capacity(512);
    encode::object(schema.root, value, &mut out)?;
    Ok(out)
}

/// Writes a whole object (or list, or `Status`) that says its apiVersion and kind.
///
/// # Errors
/// Where the kind is not built in or the object does not have its shape.
pub fn encode_document(value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let schema = schema_of(api_version, kind)?;
    Ok(wrap(api_version, kind, &encode_object(&schema, value)?))
}

/// Puts an object's own message into an envelope.
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(api_version, kind, raw.len(), raw.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(ENVELOPE_END);
    out
}

/// Begins an envelope around a message of a known length, with room for so many bytes more.
fn envelope_head(api_version: &str, kind: &str, length: usize, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    wire::nested(&mut out, 1, |out| {
        wire::put_bytes(out, 1, api_version.as_bytes());
        wire::put_bytes(out, 2, kind.as_bytes());
    });
    wire::put_length(&mut out, 2, length);
    out
}

/// What is behind a message in its envelope: neither an encoding nor a media type.
const ENVELOPE_END: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// A list that is written piece by piece, so that it need not lie in memory as a whole: its head, then each item by
/// [`ListParts::put_item`], then [`ListParts::END`].
#[derive(Debug)]
pub struct ListParts {
    /// Everything before the items.
    pub head: Vec<u8>,
    /// How many bytes all items take.
    pub items_length: usize,
}

impl ListParts {
    /// What follows the items.
    pub const END: &[u8] = ENVELOPE_END;

    /// Begins a list with its apiVersion, kind (`PodList`) and metadata, whose items (each an object's own message, [`Envelope::raw`])
    /// have these lengths in bytes.
    ///
    /// # Errors
    /// Where the metadata is not a list's.
    pub fn new(api_version: &str, kind: &str, metadata: &Value, item_lengths: impl Iterator<Item = usize>) -> Result<Self, ProtobufError> {
        let list_meta = crate::type_named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").ok_or(ProtobufError::NotBuiltIn)?;
        let mut meta = Vec::new();
        encode::object(list_meta, metadata, &mut meta)?;
        let items_length = item_lengths.map(wire::bytes_field_length).sum::<usize>();
        let mut head = envelope_head(api_version, kind, wire::bytes_field_length(meta.len()) + items_length, meta.len());
        wire::put_bytes(&mut head, 1, &meta);
        Ok(Self { head, items_length })
    }

    /// Writes an item.
    pub fn put_item(out: &mut Vec<u8>, item: &[u8]) {
        wire::put_bytes(out, 2, item);
    }
}

/// One frame of a watch: its length and a `WatchEvent` around a document. `event` is `ADDED`, `MODIFIED`, `DELETED`,
/// `BOOKMARK` or `ERROR`.
pub fn encode_watch_event(event: &str, document: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(document.len() + 32);
    out.extend_from_slice(&[0; 4]);
    wire::put_bytes(&mut out, 1, event.as_bytes());
    wire::nested(&mut out, 2, |out| wire::put_bytes(out, 1, document));
    // Objects are limited to a few MiB, far below what four bytes can say.
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    if let Some(prefix) = out.first_chunk_mut::<4>() {
        *prefix = length.to_be_bytes();
    }
    out
}

fn built_in(schema: &Schema) -> Result<(), ProtobufError> {
    if std::sync::Arc::ptr_eq(&schema.types, crate::types()) { Ok(()) } else { Err(ProtobufError::NotBuiltIn) }
}

fn schema_of(api_version: &str, kind: &str) -> Result<Schema, ProtobufError> {
    crate::schema(&GroupVersion::parse(api_version).kind(kind))
        .ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

type Object = Map<String, Value>;
