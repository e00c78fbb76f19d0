//! Messages become JSON trees.

use base64::Engine as _;
use meta::{
    read::{ZERO_MICRO_TIME, ZERO_TIME},
    schema::{Field, ObjectType, Shape, TypeIndex},
};
use serde_json::{Number, Value};

use super::{Envelope, MAGIC, MAX_DEPTH, Object, ProtobufError, schema_of, wire::{Data, Reader}};
use crate::table::{WireField, WireForm};

const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Nanoseconds may be missing or nonsense; only the seconds place an object in time.
const NANOSECONDS: std::ops::Range<i64> = 0..1_000_000_000;

pub(super) fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let mut found = Envelope::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, data)) = reader.next()? {
        let Data::Bytes(content) = data else { continue };
        match number {
            1 => {
                let mut names = Reader::new(content);
                while let Some((number, data)) = names.next()? {
                    match (number, data) {
                        (1, Data::Bytes(text)) => found.api_version = String::from_utf8_lossy(text),
                        (2, Data::Bytes(text)) => found.kind = String::from_utf8_lossy(text),
                        _ => {}
                    }
                }
            }
            2 => found.raw = content,
            3 => found.content_encoding = String::from_utf8_lossy(content),
            4 => found.content_type = String::from_utf8_lossy(content),
            _ => {}
        }
    }
    Ok(found)
}

pub(super) fn document(bytes: &[u8], depth: usize) -> Result<Object, ProtobufError> {
    let found = super::decode(bytes)?;
    if !found.content_encoding.is_empty() {
        return Err(ProtobufError::UnknownContent(found.content_encoding.into_owned()));
    }
    let mut object = match &*found.content_type {
        "" | super::MEDIA_TYPE => object(schema_of(&found.api_version, &found.kind)?.root, found.raw, depth)?,
        "application/json" => serde_json::from_slice(found.raw).map_err(|_| ProtobufError::Malformed)?,
        other => return Err(ProtobufError::UnknownContent(other.to_owned())),
    };
    object.insert("apiVersion".to_owned(), Value::String(found.api_version.into_owned()));
    object.insert("kind".to_owned(), Value::String(found.kind.into_owned()));
    Ok(object)
}

pub(super) fn object(index: TypeIndex, bytes: &[u8], depth: usize) -> Result<Object, ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let table = crate::table();
    let object = table.types.object(index);
    let facts = table.wire.get(index.0 as usize).map(|facts| &**facts).unwrap_or_default();
    let mut values = Values::new();
    Message { object, facts, depth }.read(bytes, 0, 0, &mut values)?;
    let named = |(field, value): (u16, Value)| Some((object.fields.get(usize::from(field))?.name.to_string(), value));
    Ok(values.into_iter().filter_map(named).collect())
}

/// Fields that were found, by position. Most objects have few of their fields, so that looking through these is quicker than
/// keeping a place for each.
type Values = Vec<(u16, Value)>;

fn found(values: &mut Values, field: u16) -> Option<&mut Value> {
    // Elements of one list follow each other, so that the newest is most often the one.
    values.iter_mut().rev().find(|(known, _)| *known == field).map(|(_, value)| value)
}

/// One object while it is read.
struct Message<'t> {
    object: &'t ObjectType,
    facts: &'t [WireField],
    depth: usize,
}

impl Message<'_> {
    /// Reads the message itself or (`level` above 0) one that JSON flattens into it.
    fn read(&self, bytes: &[u8], prefix: u32, level: u32, values: &mut Values) -> Result<(), ProtobufError> {
        let mut reader = Reader::new(bytes);
        while let Some((number, data)) = reader.next()? {
            if number > 0xff {
                continue;
            }
            let place = prefix | number << (16 - 8 * level);
            let Some(fact) = self.facts.get(self.facts.partition_point(|fact| fact.path < place)) else { continue };
            if fact.path == place {
                let Some(field) = self.object.fields.get(usize::from(fact.field)) else { continue };
                self.field(field, *fact, data, values).map_err(|problem| match problem {
                    Problem::Here(problem) => ProtobufError::Field { object: self.object.name.to_string(), field: field.name.to_string(), problem },
                    Problem::Below(error) => error,
                })?;
            } else if level < 2 && fact.path >> (16 - 8 * level) == place >> (16 - 8 * level) {
                let Data::Bytes(inner) = data else { return Err(ProtobufError::Malformed) };
                self.read(inner, place, level + 1, values)?;
            }
        }
        Ok(())
    }

    fn field(&self, field: &Field, fact: WireField, data: Data<'_>, values: &mut Values) -> Result<(), Problem> {
        match &field.item.shape {
            Shape::List { items, .. } if fact.form != WireForm::Wrapped => {
                if found(values, fact.field).is_none() {
                    values.push((fact.field, Value::Array(Vec::new())));
                }
                let Some(Value::Array(elements)) = found(values, fact.field) else { return Ok(()) };
                match (&items.shape, data) {
                    // Packed lists, which our own kinds never send but protobuf allows.
                    (Shape::Integer32 | Shape::Integer64 | Shape::Boolean, Data::Bytes(packed)) => {
                        let mut numbers = Reader::new(packed);
                        while !numbers.is_empty() {
                            elements.push(self.present(&items.shape, fact.form, Data::Varint(numbers.varint()?))?);
                        }
                    }
                    _ => elements.push(self.present(&items.shape, fact.form, data)?),
                }
            }
            Shape::Map { values: of, .. } => {
                let Data::Bytes(entry) = data else { return Err(Problem::Here("a map's entry is needed")) };
                let (key, content) = self.entry(&of.shape, fact.form, entry)?;
                match found(values, fact.field) {
                    Some(Value::Object(map)) => {
                        map.insert(key, content);
                    }
                    _ => values.push((fact.field, Value::Object(std::iter::once((key, content)).collect()))),
                }
            }
            shape => {
                // Of a field that comes twice, the last one counts.
                values.retain(|(field, _)| *field != fact.field);
                let value = self.single(shape, fact.form, data)?.filter(|value| fact.keeps_zero || !is_zero(shape, value));
                let value = value.or_else(|| match shape {
                    Shape::Time if field.required => Some(Value::from(ZERO_TIME)),
                    Shape::MicroTime if field.required && &*field.name != "eventTime" => Some(Value::from(ZERO_MICRO_TIME)),
                    _ => None,
                });
                values.extend(value.map(|value| (fact.field, value)));
            }
        }
        Ok(())
    }

    fn entry(&self, shape: &Shape, form: WireForm, bytes: &[u8]) -> Result<(String, Value), Problem> {
        let (mut key, mut content) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, data)) = reader.next()? {
            match (number, data) {
                (1, Data::Bytes(text)) => key = text_of(text)?,
                (2, data) => content = Some(self.present(shape, form, data)?),
                _ => {}
            }
        }
        let content = match (content, shape) {
            (Some(content), _) => content,
            // A value that is left out is that type's zero.
            (None, Shape::Boolean | Shape::Integer32 | Shape::Integer64) => self.present(shape, form, Data::Varint(0))?,
            (None, _) => self.present(shape, form, Data::Bytes(&[]))?,
        };
        Ok((key, content))
    }

    /// An element of a list or map, which has a value even where a field would be left out.
    fn present(&self, shape: &Shape, form: WireForm, data: Data<'_>) -> Result<Value, Problem> {
        Ok(self.single(shape, form, data)?.unwrap_or_else(|| match shape {
            Shape::Quantity => Value::String("0".to_owned()),
            _ => Value::Null,
        }))
    }

    /// One value; none where upstream's type would print nothing or null.
    fn single(&self, shape: &Shape, form: WireForm, data: Data<'_>) -> Result<Option<Value>, Problem> {
        let number = || match data {
            Data::Varint(number) => Ok(number.cast_signed()),
            _ => Err(Problem::Here("a number is needed")),
        };
        let bytes = || match data {
            Data::Bytes(bytes) => Ok(bytes),
            _ => Err(Problem::Here("bytes are needed")),
        };
        Ok(Some(match shape {
            Shape::String => Value::String(text_of(bytes()?)?),
            Shape::Boolean => Value::Bool(number()? != 0),
            // Upstream keeps the low 32 bits, whatever stands above them.
            Shape::Integer32 => Value::from(number()? as i32),
            Shape::Integer64 => Value::from(number()?),
            Shape::Double => match data {
                Data::Fixed64(bits) => return Ok(double(f64::from_bits(bits))),
                _ => return Err(Problem::Here("a number of eight bytes is needed")),
            },
            Shape::Bytes => Value::String(base64::engine::general_purpose::STANDARD.encode(bytes()?)),
            Shape::Quantity => return Ok(bytes_at(bytes()?, 1)?.map(text_of).transpose()?.filter(|text| !text.is_empty()).map(Value::String)),
            Shape::IntOrString => int_or_string(bytes()?)?,
            Shape::Time => return timestamp(bytes()?, false),
            Shape::MicroTime => return timestamp(bytes()?, true),
            Shape::FieldsV1 => return json(bytes_at(bytes()?, 1)?),
            Shape::Any => return self.any(form, bytes()?),
            Shape::Object(index) => Value::Object(object(*index, bytes()?, self.depth + 1)?),
            // Only lists inside a message of their own stand here.
            Shape::List { items, .. } => {
                let mut elements = Vec::new();
                let mut reader = Reader::new(bytes()?);
                while let Some((number, data)) = reader.next()? {
                    if number == 1 {
                        elements.push(self.present(&items.shape, WireForm::Plain, data)?);
                    }
                }
                Value::Array(elements)
            }
            Shape::Map { .. } => return Err(Problem::Here("a map inside a list or map has no form in protobuf")),
        }))
    }

    fn any(&self, form: WireForm, bytes: &[u8]) -> Result<Option<Value>, Problem> {
        let schema = |bytes: &[u8]| -> Result<Value, Problem> {
            let index = crate::type_named(SCHEMA).ok_or(Problem::Here("schemas are not in the table"))?;
            Ok(Value::Object(object(index, bytes, self.depth + 1)?))
        };
        let (schema_number, other_number) = match form {
            WireForm::SchemaOrBool => (2, 1),
            WireForm::SchemaOrList | WireForm::SchemaOrNames => (1, 2),
            WireForm::Plain | WireForm::Raw | WireForm::Wrapped => {
                return match bytes_at(bytes, 1)? {
                    Some(raw) if raw.starts_with(MAGIC) => Ok(Some(Value::Object(document(raw, self.depth + 1)?))),
                    raw => json(raw),
                };
            }
        };
        if let Some(found) = bytes_at(bytes, schema_number)? {
            return schema(found).map(Some);
        }
        let mut allowed = false;
        let mut elements = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, data)) = reader.next()? {
            match data {
                Data::Varint(value) if number == other_number => allowed = value != 0,
                Data::Bytes(content) if number == other_number && form == WireForm::SchemaOrList => elements.push(schema(content)?),
                Data::Bytes(content) if number == other_number => elements.push(Value::String(text_of(content)?)),
                _ => {}
            }
        }
        Ok(Some(if form == WireForm::SchemaOrBool { Value::Bool(allowed) } else { Value::Array(elements) }))
    }
}

/// Where something is wrong: with the field at hand, which the caller can name, or further in, where it is named already.
enum Problem {
    Here(&'static str),
    Below(ProtobufError),
}

impl From<ProtobufError> for Problem {
    fn from(error: ProtobufError) -> Self {
        Self::Below(error)
    }
}

fn text_of(bytes: &[u8]) -> Result<String, Problem> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Problem::Here("the text is not UTF-8"))
}

/// The last field of that number, as protobuf has it.
fn bytes_at(message: &[u8], wanted: u32) -> Result<Option<&[u8]>, ProtobufError> {
    let mut found = None;
    let mut reader = Reader::new(message);
    while let Some((number, data)) = reader.next()? {
        if let Data::Bytes(bytes) = data
            && number == wanted
        {
            found = Some(bytes);
        }
    }
    Ok(found)
}

fn integer_at(message: &[u8], wanted: u32) -> Result<Option<i64>, ProtobufError> {
    let mut found = None;
    let mut reader = Reader::new(message);
    while let Some((number, data)) = reader.next()? {
        if let Data::Varint(value) = data
            && number == wanted
        {
            found = Some(value.cast_signed());
        }
    }
    Ok(found)
}

fn json(text: Option<&[u8]>) -> Result<Option<Value>, Problem> {
    match text {
        None | Some([]) => Ok(None),
        Some(text) => serde_json::from_slice(text).map(Some).map_err(|_| Problem::Here("the text inside is not JSON")),
    }
}

fn int_or_string(message: &[u8]) -> Result<Value, Problem> {
    if integer_at(message, 1)? == Some(1) {
        return Ok(Value::String(bytes_at(message, 3)?.map(text_of).transpose()?.unwrap_or_default()));
    }
    Ok(Value::from(integer_at(message, 2)?.unwrap_or_default() as i32))
}

/// An empty message is upstream's zero time, printed as null.
fn timestamp(message: &[u8], microseconds: bool) -> Result<Option<Value>, Problem> {
    if message.is_empty() {
        return Ok(None);
    }
    let seconds = integer_at(message, 1)?.unwrap_or_default();
    let nanoseconds = if microseconds { integer_at(message, 2)?.filter(|nanoseconds| NANOSECONDS.contains(nanoseconds)).unwrap_or_default() } else { 0 };
    let time = jiff::Timestamp::new(seconds, nanoseconds as i32).map_err(|_| Problem::Here("the time is out of range"))?;
    Ok(Some(Value::String(if microseconds { format!("{time:.6}") } else { time.to_string() })))
}

/// Whole numbers are printed without a fraction, as upstream prints them; what JSON cannot say is left out.
fn double(value: f64) -> Option<Value> {
    let whole = value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0;
    if whole { Some(Value::from(value as i64)) } else { Number::from_f64(value).map(Value::Number) }
}

fn is_zero(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::String | Shape::Bytes, Value::String(text)) => text.is_empty(),
        (Shape::Boolean, Value::Bool(value)) => !value,
        (Shape::Integer32 | Shape::Integer64 | Shape::Double, Value::Number(number)) => number.as_f64() == Some(0.0),
        _ => false,
    }
}
