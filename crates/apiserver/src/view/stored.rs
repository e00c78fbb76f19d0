//! The bytes of one object: how they lie in the store, and how they are sent.
//!
//! A stored value is `head | JSON`, where the JSON carries no resourceVersion. The head holds what reads need without
//! decoding: labels, selectable fields and the generation of the schema it was defaulted under. When a value enters the
//! [`super::MemoryView`] its revision is spliced in once; from then on a plain read is a clone of [`Bytes`].

use std::{collections::BTreeMap, sync::{Arc, atomic::{AtomicU64, Ordering}}};

use bytes::{BufMut, Bytes, BytesMut};
use meta::Object;
use serde_json::{Map, Value, value::RawValue};
use store::Revision;

use crate::rendering::Rendered;

/// Objects decoded by this process.
static DECODED: AtomicU64 = AtomicU64::new(0);

/// How many stored objects this process has decoded: what plain reads never do.
pub fn decoded() -> u64 {
    DECODED.load(Ordering::Relaxed)
}

/// First byte of every stored value; grows when the layout changes.
const LAYOUT: u8 = 1;

/// What is known about an object without decoding it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Generation of the schema it was defaulted under.
    pub schema_generation: u32,
    /// Labels, in name order.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Selectable fields beside name and namespace.
    pub fields: Vec<(Box<str>, Box<str>)>,
}

/// An object as it is kept in memory and sent.
#[derive(Debug)]
pub struct StoredObject {
    /// Everything after the resource's prefix: `NAMESPACE/NAME` or `NAME`.
    pub key: Arc<str>,
    /// The write that made it.
    pub revision: Revision,
    /// Facts for selectors.
    pub head: Head,
    /// JSON in the stored version, with its resourceVersion.
    pub json: Bytes,
    /// Where the body of a list item begins: after `{"kind":…,"apiVersion":…,`.
    item_start: u32,
    /// Length of the revision's digits, which follow `item_start` at a known place.
    revision_digits: u32,
    /// What it was rendered as, as far as that is still kept.
    pub(crate) rendered: Rendered,
    /// What informers in this process read it as.
    decoded: client::shared::Decoded,
}

impl client::shared::Shared for StoredObject {
    fn text(&self) -> &[u8] {
        &self.json
    }
    fn decoded(&self) -> &client::shared::Decoded {
        &self.decoded
    }
}

/// Why bytes from the store could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored value of {key} cannot be read: {reason}")]
pub struct DamagedValue {
    /// Whose.
    pub key: String,
    /// What is wrong.
    pub reason: &'static str,
}

const REVISION_PREFIX: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";

fn put_text(buffer: &mut BytesMut, text: &str) {
    buffer.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    buffer.put_slice(text.as_bytes());
}

fn put_pairs(buffer: &mut BytesMut, pairs: &[(Box<str>, Box<str>)]) {
    buffer.put_u16(u16::try_from(pairs.len()).unwrap_or(u16::MAX));
    for (name, value) in pairs {
        put_text(buffer, name);
        put_text(buffer, value);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<Box<str>> {
        let length = self.u32()? as usize;
        Some(std::str::from_utf8(self.take(length)?).ok()?.into())
    }
    fn pairs(&mut self) -> Option<Vec<(Box<str>, Box<str>)>> {
        let count = self.u16()?;
        (0..count).map(|_| Some((self.text()?, self.text()?))).collect()
    }
}

/// Labels of an object, in name order.
pub fn labels_of(object: &Object) -> Vec<(Box<str>, Box<str>)> {
    object
        .labels()
        .map(|labels| labels.iter().filter_map(|(name, value)| Some((name.as_str().into(), value.as_str()?.into()))).collect())
        .unwrap_or_default()
}

/// What of an object can be selected by, for [`Head::fields`].
pub fn fields_of(kind: &dyn kinds::ServedKind, object: &Object) -> Vec<(Box<str>, Box<str>)> {
    kind.selectable_fields(object).into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Encodes an object for the store. Its resourceVersion is left out.
///
/// # Errors
/// Where JSON cannot express it (never for what the reader lets in).
pub fn encode(object: &Object, schema_generation: u32, fields: Vec<(Box<str>, Box<str>)>) -> Result<Bytes, serde_json::Error> {
    let head = Head { schema_generation, labels: labels_of(object), fields };
    let mut json = Vec::with_capacity(1024);
    json.extend_from_slice(b"{\"kind\":");
    serde_json::to_writer(&mut json, object.kind())?;
    json.extend_from_slice(b",\"apiVersion\":");
    serde_json::to_writer(&mut json, object.api_version())?;
    json.extend_from_slice(b",");
    let item_start = json.len();
    json.extend_from_slice(b"\"metadata\":{");
    let empty = Map::new();
    let metadata = object.0.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut first = true;
    for (name, value) in metadata {
        if name == "resourceVersion" {
            continue;
        }
        if !first {
            json.push(b',');
        }
        first = false;
        serde_json::to_writer(&mut json, name)?;
        json.push(b':');
        serde_json::to_writer(&mut json, value)?;
    }
    json.push(b'}');
    for (name, value) in &object.0 {
        if matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            continue;
        }
        json.push(b',');
        serde_json::to_writer(&mut json, name)?;
        json.push(b':');
        serde_json::to_writer(&mut json, value)?;
    }
    json.push(b'}');
    Ok(with_head(&head, item_start, &json))
}

fn with_head(head: &Head, item_start: usize, json: &[u8]) -> Bytes {
    let mut buffer = BytesMut::with_capacity(json.len() + 512);
    buffer.put_u8(LAYOUT);
    buffer.put_u32(head.schema_generation);
    put_pairs(&mut buffer, &head.labels);
    put_pairs(&mut buffer, &head.fields);
    buffer.put_u32(u32::try_from(item_start).unwrap_or_default());
    buffer.put_slice(json);
    buffer.freeze()
}

/// The members of a JSON object by name, each as its text.
pub type Members<'a> = BTreeMap<String, &'a RawValue>;

/// As [`encode`], of an object that is text already: its members, of which `metadata` is given apart.
///
/// # Errors
/// Where JSON cannot express a name, which it can.
pub fn encode_members(head: &Head, object: &Members<'_>, metadata: &Members<'_>) -> Result<Bytes, serde_json::Error> {
    let mut json = Vec::with_capacity(1024);
    let put = |json: &mut Vec<u8>, name: &str, value: &RawValue| {
        serde_json::to_writer(&mut *json, name)?;
        json.push(b':');
        json.extend_from_slice(value.get().as_bytes());
        json.push(b',');
        Ok::<_, serde_json::Error>(())
    };
    json.push(b'{');
    for name in ["kind", "apiVersion"] {
        put(&mut json, name, object.get(name).copied().unwrap_or(RawValue::NULL))?;
    }
    let item_start = json.len();
    json.extend_from_slice(b"\"metadata\":{");
    for (name, value) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
        put(&mut json, name, value)?;
    }
    close(&mut json);
    json.push(b',');
    for (name, value) in object.iter().filter(|(name, _)| !matches!(name.as_str(), "kind" | "apiVersion" | "metadata")) {
        put(&mut json, name, value)?;
    }
    close(&mut json);
    Ok(with_head(head, item_start, &json))
}

/// Ends an object, in the place of the comma behind its last member.
fn close(json: &mut Vec<u8>) {
    if json.last() == Some(&b',') {
        json.pop();
    }
    json.push(b'}');
}

impl StoredObject {
    /// Reads a stored value and splices its revision in.
    ///
    /// # Errors
    /// Where the bytes do not have the layout [`encode`] writes.
    pub fn decode(key: &str, value: &[u8], revision: Revision) -> Result<Self, DamagedValue> {
        let damaged = |reason| DamagedValue { key: key.to_owned(), reason };
        let mut reader = Reader(value);
        if reader.take(1) != Some(&[LAYOUT]) {
            return Err(damaged("unknown layout; was it written by a newer version?"));
        }
        let (Some(schema_generation), Some(labels), Some(fields), Some(item_start)) =
            (reader.u32(), reader.pairs(), reader.pairs(), reader.u32())
        else {
            return Err(damaged("its head is cut off"));
        };
        let plain = reader.0;
        let (Some(before), Some(rest)) = (plain.get(..item_start as usize), plain.get(item_start as usize..)) else {
            return Err(damaged("its body is cut off"));
        };
        let Some(rest) = rest.strip_prefix(b"\"metadata\":{") else {
            return Err(damaged("its metadata is not where it should be"));
        };
        let digits = revision.0.to_string();
        let mut json = BytesMut::with_capacity(plain.len() + digits.len() + 24);
        json.put_slice(before);
        json.put_slice(REVISION_PREFIX);
        json.put_slice(digits.as_bytes());
        json.put_slice(if rest.first() == Some(&b'}') { b"\"" } else { b"\"," });
        json.put_slice(rest);
        Ok(Self {
            key: key.into(),
            revision,
            head: Head { schema_generation, labels, fields },
            json: json.freeze(),
            item_start,
            revision_digits: u32::try_from(digits.len()).unwrap_or_default(),
            rendered: Rendered::default(),
            decoded: Default::default(),
        })
    }

    /// The same object under a later revision: what a DELETED event shows.
    #[must_use]
    pub fn at_revision(&self, revision: Revision) -> Self {
        let digits = revision.0.to_string();
        let start = self.item_start as usize + REVISION_PREFIX.len();
        let end = start + self.revision_digits as usize;
        let mut json = BytesMut::with_capacity(self.json.len() + 4);
        json.put_slice(self.json.get(..start).unwrap_or_default());
        json.put_slice(digits.as_bytes());
        json.put_slice(self.json.get(end..).unwrap_or_default());
        Self {
            key: self.key.clone(),
            revision,
            head: self.head.clone(),
            json: json.freeze(),
            item_start: self.item_start,
            revision_digits: u32::try_from(digits.len()).unwrap_or_default(),
            rendered: Rendered::default(),
            decoded: Default::default(),
        }
    }

    /// The JSON after `{` of a list item without kind and apiVersion.
    pub fn item_body(&self) -> &[u8] {
        self.json.get(self.item_start as usize..).unwrap_or_default()
    }

    /// The object as a tree.
    ///
    /// # Errors
    /// Where the bytes are no JSON object: damage.
    pub fn object(&self) -> Result<Object, DamagedValue> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        serde_json::from_slice::<Map<String, Value>>(&self.json)
            .map(Object)
            .map_err(|_| DamagedValue { key: self.key.to_string(), reason: "its body is no JSON object" })
    }

    /// A typed copy.
    ///
    /// # Errors
    /// Where the bytes do not have the type's shape.
    pub fn typed<K: serde::de::DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        serde_json::from_slice(&self.json)
    }

    /// Namespace, empty for cluster-wide objects.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }
    /// Name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.head.labels.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
    }
    /// The value of a selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.head.fields.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value),
        }
    }
    /// Rough number of bytes it occupies.
    pub fn weight(&self) -> usize {
        self.json.len() + self.key.len() + 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Object {
        Object(
            serde_json::from_str(r#"{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"},"metadata":{"name":"x","namespace":"n","labels":{"app":"web"},"resourceVersion":"7"}}"#)
                .unwrap(),
        )
    }

    #[test]
    fn a_revision_is_spliced_in_and_replaced() {
        let value = encode(&sample(), 3, vec![("type".into(), "Opaque".into())]).unwrap();
        let stored = StoredObject::decode("n/x", &value, Revision(41)).unwrap();
        assert_eq!(stored.object().unwrap().resource_version(), "41");
        assert_eq!(stored.head.schema_generation, 3);
        assert_eq!(stored.label("app"), Some("web"));
        assert_eq!(stored.field("type"), Some("Opaque"));
        let deleted = stored.at_revision(Revision(1000));
        assert_eq!(deleted.object().unwrap().resource_version(), "1000");
        assert!(stored.json.starts_with(br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"41","#));
        assert!(stored.item_body().starts_with(br#""metadata":{"#));
    }

    #[test]
    fn cut_off_values_are_damage_and_no_panic() {
        let value = encode(&sample(), 0, Vec::new()).unwrap();
        for length in 0..value.len() {
            let _ = StoredObject::decode("n/x", &value[..length], Revision(1)).map(|stored| stored.object().is_ok());
        }
        assert!(StoredObject::decode("n/x", &value[..10], Revision(1)).is_err());
    }
}
