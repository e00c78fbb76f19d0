//! A tree brought into the shape of its schema, in place and in one walk.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{
    MAX_PROBLEMS, ReadError,
    time::{ZERO_MICRO_TIME, ZERO_TIME, canonical_micro_time, canonical_time, looks_canonical},
};
use crate::{
    object::Object,
    quantity::{Quantity, QuantityError},
    schema::{Item, ObjectType, Schema, Shape, Types, UnknownFields},
};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The object in shape, and the paths of the unknown fields that were dropped, in the order of the alphabet.
pub(super) fn normalise(value: Value, schema: &Schema) -> Result<(Object, Vec<String>), ReadError> {
    let Value::Object(mut map) = value else {
        return Err(ReadError::Malformed(format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", describe(&value))));
    };
    let mut walk = Walk { types: &schema.types, unknown: Vec::new() };
    walk.object(&mut map, schema.root(), &Place::root(), true)?;
    Ok((Object(map), walk.unknown))
}

/// Where the walk stands, as a list on the stack: nothing is allocated unless there is something to report.
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    /// A field of an object type.
    Field(&'a str),
    /// A key of a map.
    Key(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    fn root() -> Self {
        Self { parent: None, step: Step::Root }
    }
    fn below(&'a self, step: Step<'a>) -> Place<'a> {
        Place { parent: Some(self), step }
    }
    fn steps(&self) -> Vec<Step<'a>> {
        let mut steps = Vec::new();
        let mut place = Some(self);
        while let Some(here) = place {
            steps.push(here.step);
            place = here.parent;
        }
        steps.reverse();
        steps
    }
    /// With keys and indexes, as strict validation shows it.
    fn path(&self) -> String {
        let mut path = String::new();
        for step in self.steps() {
            match step {
                Step::Root => {}
                Step::Field(name) | Step::Key(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) | Step::Key(name) => {
                    path.push('.');
                    path.push_str(name);
                }
                Step::Index(index) => {
                    let _ = write!(path, "[{index}]");
                }
            }
        }
        path
    }
    /// Names of fields only, as Go's decoder shows it.
    fn fields(&self) -> String {
        let names: Vec<&str> = self.steps().into_iter().filter_map(|step| if let Step::Field(name) = step { Some(name) } else { None }).collect();
        names.join(".")
    }
}

/// Whose value it is, for messages, and whether Go's types rule it.
#[derive(Clone, Copy)]
struct Owner<'a> {
    owner: &'a ObjectType,
    built_in: bool,
}

enum Verdict {
    Keep,
    Drop,
}

struct Walk<'s> {
    types: &'s Types,
    /// Paths of fields that no type names, at most [`MAX_PROBLEMS`].
    unknown: Vec<String>,
}

impl<'s> Walk<'s> {
    fn object(&mut self, map: &mut Map<String, Value>, of: &'s ObjectType, place: &Place<'_>, root: bool) -> Result<(), ReadError> {
        let built_in = !of.name.is_empty();
        let owner = Owner { owner: of, built_in };
        let is_metadata = &*of.name == OBJECT_META;
        let mut failure = None;
        // Both sides are sorted, so that one pass over the fields finds them all.
        let mut next = 0;
        map.retain(|key, value| {
            if failure.is_some() {
                return true;
            }
            while of.fields.get(next).is_some_and(|field| *field.name < **key) {
                next += 1;
            }
            let field = of.fields.get(next).filter(|field| *field.name == **key).or_else(|| of.field(key));
            let Some(field) = field else {
                if root && matches!(key.as_str(), "apiVersion" | "kind") {
                    return true;
                }
                return match of.unknown {
                    UnknownFields::Keep => {
                        whole_numbers(value);
                        true
                    }
                    UnknownFields::Prune => {
                        if self.unknown.len() < MAX_PROBLEMS {
                            self.unknown.push(place.below(Step::Key(key)).path());
                        }
                        false
                    }
                };
            };
            if is_metadata && matches!(value, Value::String(text) if text.is_empty()) {
                return false;
            }
            match self.item(value, &field.item, owner, &place.below(Step::Field(&field.name))) {
                Ok(Verdict::Keep) => {
                    let empty = match &*value {
                        Value::Array(list) => list.is_empty(),
                        Value::Object(map) => {
                            map.is_empty() && (matches!(field.item.shape, Shape::Map { .. }) || field.omits_zero && matches!(field.item.shape, Shape::Object(_)))
                        }
                        scalar => field.omits_zero && is_zero(&field.item.shape, scalar),
                    };
                    // An empty map has no form in protobuf, so that it cannot be required to be there.
                    let required = field.required && !matches!(field.item.shape, Shape::Map { .. });
                    !empty || !built_in || required || matches!(field.item.shape, Shape::Any | Shape::FieldsV1)
                }
                Ok(Verdict::Drop) => false,
                Err(error) => {
                    failure = Some(error);
                    true
                }
            }
        });
        if built_in {
            for field in of.fields.iter().filter(|field| field.required) {
                let zero = match field.item.shape {
                    Shape::Time => ZERO_TIME,
                    // An event may be without one, as those of the core group are.
                    Shape::MicroTime if &*field.name != "eventTime" => ZERO_MICRO_TIME,
                    _ => continue,
                };
                map.entry(&*field.name).or_insert_with(|| Value::from(zero));
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn item(&mut self, value: &mut Value, item: &'s Item, owner: Owner<'s>, place: &Place<'_>) -> Result<Verdict, ReadError> {
        if value.is_null() {
            let kept = item.nullable || matches!(item.shape, Shape::Any) && !owner.built_in && item.default.is_none();
            return Ok(if kept { Verdict::Keep } else { Verdict::Drop });
        }
        let built_in = owner.built_in;
        match (&item.shape, &mut *value) {
            (Shape::Any | Shape::FieldsV1, value) => whole_numbers(value),
            (Shape::String, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) | (Shape::Double, Value::Number(_)) => {}
            (Shape::IntOrString, Value::String(_)) => {}
            (Shape::Integer32 | Shape::Integer64 | Shape::IntOrString, Value::Number(_)) => {
                if !built_in {
                    whole_numbers(value);
                } else {
                    let whole = value.as_i64();
                    let wide = matches!(item.shape, Shape::Integer64);
                    if !whole.is_some_and(|number| wide || i32::try_from(number).is_ok()) {
                        return Err(self.mismatch(value, item, owner, place));
                    }
                }
            }
            (Shape::Quantity, Value::String(text)) => match Quantity::parse(text.trim()) {
                Ok(quantity) => {
                    let canonical = quantity.to_string();
                    if canonical != *text {
                        *text = canonical;
                    }
                }
                Err(_) if !built_in => {}
                Err(error) => return Err(ReadError::WrongType(error.to_string())),
            },
            (Shape::Quantity, Value::Number(number)) => match Quantity::parse(&number.to_string()) {
                Ok(quantity) => *value = Value::String(quantity.to_string()),
                Err(_) if !built_in => {}
                Err(error) => return Err(ReadError::WrongType(error.to_string())),
            },
            (Shape::Time, Value::String(text)) => {
                if !looks_canonical(text) {
                    *text = canonical_time(text).ok_or_else(|| time_error(text, "2006-01-02T15:04:05Z07:00"))?;
                }
            }
            (Shape::MicroTime, Value::String(text)) => {
                *text = canonical_micro_time(text).ok_or_else(|| time_error(text, "2006-01-02T15:04:05.000000Z07:00"))?;
            }
            (Shape::Bytes, Value::String(text)) => {
                if text.contains(['\n', '\r']) {
                    text.retain(|character| !matches!(character, '\n' | '\r'));
                }
                if built_in && STANDARD.decode(text.as_bytes()).is_err() {
                    return Err(ReadError::WrongType(format!("illegal base64 data at input byte {}", first_bad_byte(text))));
                }
            }
            (Shape::Object(index), Value::Object(map)) => {
                let of = self.types.object(*index);
                self.object(map, of, place, false)?;
            }
            (Shape::Map { values, .. }, Value::Object(map)) => {
                let mut failure = None;
                for (key, value) in map.iter_mut() {
                    let below = place.below(Step::Key(key));
                    match self.item(value, values, owner, &below) {
                        Ok(Verdict::Drop) if built_in => *value = zero(values),
                        Ok(_) => {}
                        Err(error) => failure = failure.or(Some(error)),
                    }
                }
                if let Some(error) = failure {
                    return Err(error);
                }
                if !built_in && !values.nullable && !matches!(values.shape, Shape::Any) {
                    map.retain(|_, value| !value.is_null());
                }
            }
            (Shape::List { items, .. }, Value::Array(list)) => {
                for (index, value) in list.iter_mut().enumerate() {
                    let verdict = self.item(value, items, owner, &place.below(Step::Index(index)))?;
                    if built_in && matches!(verdict, Verdict::Drop) {
                        *value = zero(items);
                    }
                }
            }
            _ if built_in => return Err(self.mismatch(value, item, owner, place)),
            // Reported with the other rules of the custom resource's schema.
            (_, value) => whole_numbers(value),
        }
        Ok(Verdict::Keep)
    }

    fn mismatch(&self, value: &Value, item: &Item, owner: Owner<'_>, place: &Place<'_>) -> ReadError {
        let found = match (value, &item.shape) {
            (Value::Number(number), Shape::Integer32 | Shape::Integer64 | Shape::IntOrString) => format!("number {number}"),
            _ => describe(value).to_owned(),
        };
        ReadError::WrongType(match item.shape {
            Shape::Quantity => QuantityError::Format.to_string(),
            Shape::IntOrString => format!("json: cannot unmarshal {found} into Go value of type int32"),
            Shape::Time | Shape::MicroTime => format!("json: cannot unmarshal {found} into Go value of type string"),
            _ => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {}",
                short_name(&owner.owner.name),
                place.fields(),
                self.go_type(item)
            ),
        })
    }

    fn go_type(&self, item: &Item) -> String {
        match &item.shape {
            Shape::Any | Shape::FieldsV1 => "interface {}".to_owned(),
            Shape::String => "string".to_owned(),
            Shape::Boolean => "bool".to_owned(),
            Shape::Integer32 => "int32".to_owned(),
            Shape::Integer64 => "int64".to_owned(),
            Shape::Double => "float64".to_owned(),
            Shape::Quantity => "resource.Quantity".to_owned(),
            Shape::IntOrString => "intstr.IntOrString".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::MicroTime => "v1.MicroTime".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Object(index) => {
                let name = &self.types.object(*index).name;
                let mut parts = name.rsplit('.');
                let kind = parts.next().unwrap_or_default();
                format!("{}.{kind}", parts.next().unwrap_or("v1"))
            }
            Shape::Map { values, .. } => format!("map[string]{}", self.go_type(values)),
            Shape::List { items, .. } => format!("[]{}", self.go_type(items)),
        }
    }
}

fn short_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether a scalar is what Go's type has where nothing is said.
fn is_zero(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::String | Shape::Bytes, Value::String(text)) => text.is_empty(),
        (Shape::Boolean, Value::Bool(value)) => !value,
        (Shape::Integer32 | Shape::Integer64 | Shape::Double, Value::Number(number)) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What Go's types hold where a list or a map says `null`.
fn zero(item: &Item) -> Value {
    match item.shape {
        Shape::String | Shape::Bytes => Value::from(""),
        Shape::Boolean => Value::Bool(false),
        Shape::Integer32 | Shape::Integer64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Object(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

/// Writes numbers such as `3.0` as `3`, as Go does when it prints them.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64()) {
                // Up to here every whole number has one floating form.
                if float.fract() == 0.0 && float.abs() < 9e15 {
                    *value = Value::from(float as i64);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

fn time_error(text: &str, layout: &str) -> ReadError {
    let (rest, wanted) = failing_part(text, layout);
    ReadError::WrongType(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {wanted:?}"))
}

/// From where on a time stops fitting, and the part of Go's layout that stands there.
fn failing_part<'a>(text: &'a str, layout: &str) -> (&'a str, &'static str) {
    let parts: [(usize, usize, &'static str); 11] = [
        (0, 4, "2006"),
        (4, 1, "-"),
        (5, 2, "01"),
        (7, 1, "-"),
        (8, 2, "02"),
        (10, 1, "T"),
        (11, 2, "15"),
        (13, 1, ":"),
        (14, 2, "04"),
        (16, 1, ":"),
        (17, 2, "05"),
    ];
    for (start, length, name) in parts {
        let fits = text.get(start..start + length).is_some_and(|part| {
            if length == 1 { part == name } else { part.bytes().all(|byte| byte.is_ascii_digit()) }
        });
        if !fits {
            return (text.get(start..).unwrap_or_default(), name);
        }
    }
    (text.get(19..).unwrap_or_default(), if layout.contains(".000000") { ".000000" } else { "Z07:00" })
}

/// The position Go's decoder names: the first byte that is not base64, or the end.
fn first_bad_byte(text: &str) -> usize {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    match text.bytes().position(|byte| !digit(byte)) {
        Some(at) if text.as_bytes().get(at) == Some(&b'=') && text.len().is_multiple_of(4) && text.len() - at <= 2 => at,
        Some(at) => at,
        None => text.len() / 4 * 4,
    }
}
