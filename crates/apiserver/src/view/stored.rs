//! The bytes of one object: how they lie in the store, and how they are sent.
//!
//! A stored value is `head | JSON`, where the JSON carries no resourceVersion and is packed (LZ4) where it is long. The head holds what reads need without
//! decoding: labels, selectable fields and the generation of the schema it was defaulted under. The [`super::MemoryView`] keeps the
//! very bytes that the store keeps, so an object is in memory once; its revision is put in on the way out, which is a copy of the
//! text that an answer would make anyway.
//!
//! Packing halves what a large cluster takes of memory and disk for text. Most of a pod is names of fields, many of them several times
//! (managed fields repeat every one), and to unpack it takes a few microseconds, which is little beside reading it as JSON.

use std::{borrow::Cow, collections::BTreeMap, sync::{Arc, atomic::{AtomicU64, Ordering}}};

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

/// First byte of a stored value; a new layout gets a new one.
const PLAIN: u8 = 1;
/// As [`PLAIN`], but the JSON is preceded by its length and packed.
const PACKED: u8 = 2;

/// Shorter JSON is not packed: it would shrink by little, and small objects are what is read and written most.
const PACKED_FROM_BYTES: usize = 2048;
/// Nothing longer is unpacked; far more than a request may bring.
const LONGEST_JSON_BYTES: usize = 256 << 20;

/// What is known about an object without decoding it, as it is written.
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
    /// Generation of the schema it was defaulted under.
    pub schema_generation: u32,
    /// As the store has it, and shared with it. Its layout was checked when this was made.
    value: Bytes,
    /// Where the selectable fields begin.
    fields_start: u32,
    /// Where the JSON begins, packed or not.
    json_start: u32,
    /// Where the content of its metadata begins, in the JSON.
    metadata_start: u32,
    /// How long the JSON is.
    json_length: u32,
    is_packed: bool,
    /// Whether its metadata is `{}`, so that no comma follows what is put in.
    has_empty_metadata: bool,
    /// What it was rendered as, as far as that is still kept.
    pub(crate) rendered: Rendered,
    /// What informers in this process read it as.
    decoded: client::shared::Decoded,
}

impl client::shared::Shared for StoredObject {
    fn text(&self) -> Bytes {
        self.json()
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

const METADATA: &[u8] = b"\"metadata\":{";
const REVISION_PREFIX: &[u8] = b"\"resourceVersion\":\"";
/// Where the labels begin: behind the layout and the schema's generation.
const LABELS_START: usize = 5;

fn put_text(buffer: &mut BytesMut, text: &str) {
    buffer.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    buffer.put_slice(text.as_bytes());
}

/// As the count of pairs: there are this many or more, and how many follows.
const MANY_PAIRS: u16 = u16::MAX;

fn put_pairs(buffer: &mut BytesMut, pairs: &[(Box<str>, Box<str>)]) {
    match u16::try_from(pairs.len()) {
        Ok(count) if count < MANY_PAIRS => buffer.put_u16(count),
        _ => {
            buffer.put_u16(MANY_PAIRS);
            buffer.put_u32(u32::try_from(pairs.len()).unwrap_or(u32::MAX));
        }
    }
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
    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        std::str::from_utf8(self.take(length)?).ok()
    }
    /// How many pairs follow.
    fn pair_count(&mut self) -> Option<u32> {
        match self.u16()? {
            MANY_PAIRS => self.u32(),
            count => Some(count.into()),
        }
    }
    /// Passes over pairs of texts; none where they are damaged.
    fn skip_pairs(&mut self) -> Option<()> {
        let count = self.pair_count()?;
        (0..count).try_for_each(|_| self.text().and(self.text()).map(drop))
    }
}

/// Pairs of texts of a head that was read before.
struct Pairs<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Pairs<'a> {
    fn at(value: &'a [u8], start: usize) -> Self {
        let mut reader = Reader(value.get(start..).unwrap_or_default());
        let left = reader.pair_count().unwrap_or_default();
        Self { reader, left }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((self.reader.text()?, self.reader.text()?))
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
    Ok(with_head(&head, item_start, &json, may_be_packed(object.kind())))
}

/// A sealed value's length would tell of its content.
fn may_be_packed(kind: &str) -> bool {
    kind != "Secret"
}

fn with_head(head: &Head, item_start: usize, json: &[u8], may_be_packed: bool) -> Bytes {
    let packed = (may_be_packed && json.len() >= PACKED_FROM_BYTES).then(|| lz4_flex::block::compress(json)).filter(|packed| packed.len() < json.len() / 4 * 3);
    let count_length = |count: usize| if count < MANY_PAIRS.into() { 2 } else { 6 };
    let pairs = |pairs: &[(Box<str>, Box<str>)]| count_length(pairs.len()) + pairs.iter().map(|(name, value)| 8 + name.len() + value.len()).sum::<usize>();
    // Exactly as much as it takes: it stays in memory as long as the object does.
    let mut buffer = BytesMut::with_capacity(LABELS_START + pairs(&head.labels) + pairs(&head.fields) + 4 + packed.as_ref().map_or(json.len(), |packed| 4 + packed.len()));
    buffer.put_u8(if packed.is_some() { PACKED } else { PLAIN });
    buffer.put_u32(head.schema_generation);
    put_pairs(&mut buffer, &head.labels);
    put_pairs(&mut buffer, &head.fields);
    buffer.put_u32(u32::try_from(item_start).unwrap_or_default());
    match &packed {
        Some(packed) => {
            buffer.put_u32(u32::try_from(json.len()).unwrap_or_default());
            buffer.put_slice(packed);
        }
        None => buffer.put_slice(json),
    }
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
    let may_be_packed = object.get("kind").is_some_and(|kind| serde_json::from_str::<&str>(kind.get()).is_ok_and(may_be_packed));
    Ok(with_head(head, item_start, &json, may_be_packed))
}

/// Ends an object, in the place of the comma behind its last member.
fn close(json: &mut Vec<u8>) {
    if json.last() == Some(&b',') {
        json.pop();
    }
    json.push(b'}');
}

/// Unpacks JSON of a known length; none where it has another.
fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    if length > LONGEST_JSON_BYTES {
        return None;
    }
    lz4_flex::block::decompress(packed, length).ok().filter(|json| json.len() == length)
}

impl StoredObject {
    /// Reads a stored value.
    ///
    /// # Errors
    /// Where the bytes do not have the layout [`encode`] writes.
    pub fn decode(key: &str, value: Bytes, revision: Revision) -> Result<Self, DamagedValue> {
        let damaged = |reason| DamagedValue { key: key.to_owned(), reason };
        let Ok(length) = u32::try_from(value.len()) else { return Err(damaged("it is too long")) };
        let mut reader = Reader(&value);
        let is_packed = match reader.take(1) {
            Some(&[PLAIN]) => false,
            Some(&[PACKED]) => true,
            _ => return Err(damaged("unknown layout; was it written by a newer version?")),
        };
        // How far it is read; no more than `length`.
        let position = |reader: &Reader<'_>| length - reader.0.len() as u32;
        let head = |reader: &mut Reader<'_>| {
            let schema_generation = reader.u32()?;
            reader.skip_pairs()?;
            let fields_start = position(reader);
            reader.skip_pairs()?;
            let item_start = reader.u32()?;
            let json_length = if is_packed { reader.u32()? } else { reader.0.len() as u32 };
            Some((schema_generation, fields_start, item_start, json_length))
        };
        let Some((schema_generation, fields_start, item_start, json_length)) = head(&mut reader) else {
            return Err(damaged("its head is cut off"));
        };
        let json_start = position(&reader);
        let json = if is_packed {
            Cow::Owned(unpack(reader.0, json_length as usize).ok_or_else(|| damaged("its body cannot be unpacked"))?)
        } else {
            Cow::Borrowed(reader.0)
        };
        let mut reader = Reader(&json);
        if reader.take(item_start as usize).is_none() {
            return Err(damaged("its body is cut off"));
        }
        if reader.take(METADATA.len()) != Some(METADATA) || reader.0.is_empty() {
            return Err(damaged("its metadata is not where it should be"));
        }
        let metadata_start = json_length - reader.0.len() as u32;
        let has_empty_metadata = reader.0.first() == Some(&b'}');
        drop(json);
        Ok(Self {
            key: key.into(),
            revision,
            schema_generation,
            value,
            fields_start,
            json_start,
            metadata_start,
            json_length,
            is_packed,
            has_empty_metadata,
            rendered: Rendered::default(),
            decoded: Default::default(),
        })
    }

    /// The same object under a later revision: what a DELETED event shows.
    #[must_use]
    pub fn at_revision(&self, revision: Revision) -> Self {
        Self {
            key: self.key.clone(),
            revision,
            schema_generation: self.schema_generation,
            value: self.value.clone(),
            fields_start: self.fields_start,
            json_start: self.json_start,
            metadata_start: self.metadata_start,
            json_length: self.json_length,
            is_packed: self.is_packed,
            has_empty_metadata: self.has_empty_metadata,
            rendered: Rendered::default(),
            decoded: Default::default(),
        }
    }

    /// JSON as it is stored, without its resourceVersion.
    pub fn unversioned(&self) -> Cow<'_, [u8]> {
        let body = self.value.get(self.json_start as usize..).unwrap_or_default();
        // What could not be unpacked was damage when this was made.
        if self.is_packed { Cow::Owned(unpack(body, self.json_length as usize).unwrap_or_default()) } else { Cow::Borrowed(body) }
    }

    /// Where the body of a list item begins: what is before it tells kind and apiVersion.
    fn item_start(&self) -> usize {
        (self.metadata_start as usize).saturating_sub(METADATA.len())
    }

    fn length_from(&self, start: usize) -> usize {
        let digits = self.revision.0.checked_ilog10().unwrap_or_default() as usize + 1;
        let closing = if self.has_empty_metadata { 1 } else { 2 };
        self.json_length as usize - start + REVISION_PREFIX.len() + digits + closing
    }

    /// Length of what [`StoredObject::put_json`] writes, in bytes.
    pub fn json_length(&self) -> usize {
        self.length_from(0)
    }

    /// Length of what [`StoredObject::put_item_body`] writes, in bytes.
    pub fn item_body_length(&self) -> usize {
        self.length_from(self.item_start())
    }

    fn put_from(&self, buffer: &mut Vec<u8>, start: usize) {
        let json = self.unversioned();
        let (head, rest) = json.split_at_checked(self.metadata_start as usize).unwrap_or_default();
        buffer.extend_from_slice(head.get(start..).unwrap_or_default());
        buffer.extend_from_slice(REVISION_PREFIX);
        // Writing a number to memory does not fail.
        let _ = serde_json::to_writer(&mut *buffer, &self.revision.0);
        buffer.extend_from_slice(if self.has_empty_metadata { b"\"" } else { b"\"," });
        buffer.extend_from_slice(rest);
    }

    /// Writes the JSON in the stored version, with its resourceVersion.
    pub fn put_json(&self, buffer: &mut Vec<u8>) {
        self.put_from(buffer, 0);
    }

    /// Writes the JSON after `{` of a list item without kind and apiVersion.
    pub fn put_item_body(&self, buffer: &mut Vec<u8>) {
        self.put_from(buffer, self.item_start());
    }

    /// JSON in the stored version, with its resourceVersion.
    pub fn json(&self) -> Bytes {
        let mut buffer = Vec::with_capacity(self.json_length());
        self.put_json(&mut buffer);
        buffer.into()
    }

    /// The object as a tree.
    ///
    /// # Errors
    /// Where the bytes are no JSON object: damage.
    pub fn object(&self) -> Result<Object, DamagedValue> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        serde_json::from_slice::<Map<String, Value>>(&self.json())
            .map(Object)
            .map_err(|_| DamagedValue { key: self.key.to_string(), reason: "its body is no JSON object" })
    }

    /// A typed copy.
    ///
    /// # Errors
    /// Where the bytes do not have the type's shape.
    pub fn typed<K: serde::de::DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        serde_json::from_slice(&self.json())
    }

    /// Namespace, empty for cluster-wide objects.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }
    /// Name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }
    /// Its labels, in name order.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        Pairs::at(&self.value, LABELS_START)
    }
    /// Selectable fields beside name and namespace.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        Pairs::at(&self.value, self.fields_start as usize)
    }
    /// Its head in the form in which it is written.
    pub fn head(&self) -> Head {
        fn owned<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(Box<str>, Box<str>)> {
            pairs.map(|(name, value)| (name.into(), value.into())).collect()
        }
        Head { schema_generation: self.schema_generation, labels: owned(self.labels()), fields: owned(self.fields()) }
    }
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
    /// The value of a selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.fields().find(|(known, _)| *known == name).map(|(_, value)| value),
        }
    }
    /// Rough number of bytes it occupies.
    pub fn weight(&self) -> usize {
        self.value.len() + self.key.len() + 256
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
        let stored = StoredObject::decode("n/x", value.clone(), Revision(41)).unwrap();
        assert_eq!(stored.object().unwrap().resource_version(), "41");
        assert_eq!(stored.head(), Head { schema_generation: 3, labels: vec![("app".into(), "web".into())], fields: vec![("type".into(), "Opaque".into())] });
        assert_eq!(stored.label("app"), Some("web"));
        assert_eq!(stored.field("type"), Some("Opaque"));
        let deleted = stored.at_revision(Revision(1000));
        assert_eq!(deleted.object().unwrap().resource_version(), "1000");
        assert!(stored.json().starts_with(br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"41","#));
        let mut item = Vec::new();
        stored.put_item_body(&mut item);
        assert!(item.starts_with(br#""metadata":{"resourceVersion":"41","#));
        assert!(stored.json().ends_with(&item));
        assert_eq!((stored.json().len(), item.len()), (stored.json_length(), stored.item_body_length()));
    }

    #[test]
    fn the_bytes_are_those_of_the_store() {
        let value = encode(&sample(), 0, Vec::new()).unwrap();
        let stored = StoredObject::decode("n/x", value.clone(), Revision(41)).unwrap();
        for object in [&stored, &stored.at_revision(Revision(42))] {
            assert!(value.as_ptr_range().contains(&object.unversioned().as_ptr()));
        }
    }

    /// An object of some length.
    fn long(kind: &str, text: String) -> Object {
        let mut object = sample();
        object.0.insert("kind".to_owned(), kind.into());
        object.0.insert("data".to_owned(), serde_json::json!({"a": text}));
        object
    }

    #[test]
    fn long_json_is_packed_and_given_as_it_was() {
        let object = long("ConfigMap", "some text ".repeat(1000));
        let value = encode(&object, 3, Vec::new()).unwrap();
        assert!(value.len() < 1000, "{}", value.len());
        let stored = StoredObject::decode("n/x", value, Revision(7)).unwrap();
        let mut expected = object.0.clone();
        expected["metadata"]["resourceVersion"] = "7".into();
        assert_eq!(stored.object().unwrap().0, expected);
        assert_eq!(stored.at_revision(Revision(8)).object().unwrap().resource_version(), "8");
        let mut item = Vec::new();
        stored.put_item_body(&mut item);
        assert!(item.starts_with(br#""metadata":{"resourceVersion":"7","#) && stored.json().ends_with(&item));
        assert_eq!((stored.json().len(), item.len()), (stored.json_length(), stored.item_body_length()));
        let plain = with_head(&stored.head(), 0, &stored.unversioned(), false);
        assert!(plain.len() > 10_000);
    }

    #[test]
    fn what_packing_would_tell_of_or_not_shrink_is_stored_as_it_is() {
        let mut state = 1u64;
        let mut any_letter = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'0' + (state >> 58) as u8)
        };
        let noise: String = std::iter::repeat_with(&mut any_letter).filter(char::is_ascii_alphanumeric).take(4000).collect();
        for object in [long("Secret", "some text ".repeat(1000)), long("ConfigMap", noise), sample()] {
            assert_eq!(encode(&object, 0, Vec::new()).unwrap().first(), Some(&PLAIN));
        }
    }

    #[test]
    fn more_labels_than_two_bytes_count_are_all_read() {
        for count in [65_534, 65_535, 65_536, 70_000] {
            let mut object = sample();
            object.0["metadata"]["labels"] = (0..count).map(|index| (format!("l{index}"), Value::from("v"))).collect::<Map<_, _>>().into();
            let value = encode(&object, 3, vec![("type".into(), "Opaque".into())]).unwrap();
            let stored = StoredObject::decode("n/x", value, Revision(7)).unwrap();
            assert_eq!(stored.labels().count(), count);
            assert_eq!((stored.label(&format!("l{}", count - 1)), stored.field("type")), (Some("v"), Some("Opaque")));
            assert_eq!(stored.object().unwrap().labels().map(|labels| labels.len()), Some(count));
        }
    }

    #[test]
    fn metadata_without_content_gets_a_revision() {
        let stored = StoredObject::decode("x", encode(&Object(Map::new()), 0, Vec::new()).unwrap(), Revision(5)).unwrap();
        assert_eq!(stored.object().unwrap().resource_version(), "5");
        assert_eq!(stored.json().len(), stored.json_length());
    }

    #[test]
    fn cut_off_values_are_damage_and_no_panic() {
        for value in [sample(), long("ConfigMap", "some text ".repeat(300))].map(|object| encode(&object, 0, Vec::new()).unwrap()) {
            check_cut_off(&value);
        }
    }

    fn check_cut_off(value: &Bytes) {
        for length in 0..value.len() {
            let _ = StoredObject::decode("n/x", value.slice(..length), Revision(1)).map(|stored| (stored.object().is_ok(), stored.head()));
        }
        assert!(StoredObject::decode("n/x", value.slice(..10), Revision(1)).is_err());
    }
}
