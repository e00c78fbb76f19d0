//! JSON trees become messages.

use base64::Engine as _;
use meta::{
    read::{ZERO_MICRO_TIME, ZERO_TIME},
    schema::{ObjectType, Shape, TypeIndex},
};
use serde_json::Value;

use super::{Object, ProtobufError, wire};
use crate::table::{WireField, WireForm};

const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// What is wrong with a value, or what is wrong further in, where it is named already.
enum Problem {
    Here(&'static str),
    Below(ProtobufError),
}

impl From<ProtobufError> for Problem {
    fn from(error: ProtobufError) -> Self {
        Self::Below(error)
    }
}

pub(super) fn object(index: TypeIndex, value: &Value, out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    let table = crate::table();
    let object = table.types.object(index);
    let Value::Object(map) = value else {
        return Err(ProtobufError::Field { object: object.name.to_string(), field: String::new(), problem: "an object is needed" });
    };
    fields(object, map, table.wire.get(index.0 as usize).map(|facts| &**facts).unwrap_or_default(), 16, out)
}

/// Writes the fields of one message; `shift` finds its number in the paths. Neighbours that share it lie together in a
/// message that JSON flattens.
fn fields(object: &ObjectType, map: &Object, facts: &[WireField], shift: u32, out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    for group in facts.chunk_by(|left, right| left.path >> shift == right.path >> shift) {
        let Some(first) = group.first() else { continue };
        let number = first.path >> shift & 0xff;
        if first.path & ((1 << shift) - 1) != 0 {
            let start = out.len();
            let (before, after) = wire::nested(out, number, |out| {
                let before = out.len();
                fields(object, map, group, shift - 8, out).map(|()| (before, out.len()))
            })?;
            if before == after {
                out.truncate(start);
            }
            continue;
        }
        let Some(field) = object.fields.get(usize::from(first.field)) else { continue };
        let Some(content) = map.get(&*field.name).filter(|content| !content.is_null()) else { continue };
        self::field(number, &field.item.shape, first.form, content, out).map_err(|problem| match problem {
            Problem::Here(problem) => ProtobufError::Field { object: object.name.to_string(), field: field.name.to_string(), problem },
            Problem::Below(error) => error,
        })?;
    }
    Ok(())
}

fn field(number: u32, shape: &Shape, form: WireForm, value: &Value, out: &mut Vec<u8>) -> Result<(), Problem> {
    match shape {
        Shape::List { items, .. } if form != WireForm::Wrapped => {
            let elements = value.as_array().ok_or(Problem::Here("a list is needed"))?;
            elements.iter().filter(|element| form == WireForm::Raw || !element.is_null()).try_for_each(|element| single(number, &items.shape, form, element, out))
        }
        Shape::Map { values, .. } => {
            let map = value.as_object().ok_or(Problem::Here("a map is needed"))?;
            map.iter().filter(|(_, content)| form == WireForm::Raw || !content.is_null()).try_for_each(|(key, content)| {
                wire::nested(out, number, |out| {
                    wire::put_bytes(out, 1, key.as_bytes());
                    single(2, &values.shape, form, content, out)
                })
            })
        }
        _ => single(number, shape, form, value, out),
    }
}

fn single(number: u32, shape: &Shape, form: WireForm, value: &Value, out: &mut Vec<u8>) -> Result<(), Problem> {
    let text = || value.as_str().ok_or(Problem::Here("a text is needed"));
    match shape {
        Shape::String => wire::put_bytes(out, number, text()?.as_bytes()),
        Shape::Boolean => wire::put_integer(out, number, value.as_bool().ok_or(Problem::Here("true or false is needed"))?.into()),
        Shape::Integer32 | Shape::Integer64 => wire::put_integer(out, number, integer(value)?),
        Shape::Double => wire::put_double(out, number, value.as_f64().ok_or(Problem::Here("a number is needed"))?),
        Shape::Bytes => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text()?).map_err(|_| Problem::Here("the text is not base64"))?;
            wire::put_bytes(out, number, &bytes);
        }
        Shape::Quantity => match value {
            Value::String(text) => wire::nested(out, number, |out| wire::put_bytes(out, 1, text.as_bytes())),
            Value::Number(amount) => wire::nested(out, number, |out| wire::put_bytes(out, 1, amount.to_string().as_bytes())),
            _ => return Err(Problem::Here("a quantity is needed")),
        },
        Shape::IntOrString => {
            let (kind, amount, text) = match value {
                Value::String(text) => (1, 0, text.as_str()),
                _ => (0, integer(value)?, ""),
            };
            wire::nested(out, number, |out| {
                wire::put_integer(out, 1, kind);
                wire::put_integer(out, 2, amount);
                wire::put_bytes(out, 3, text.as_bytes());
            });
        }
        Shape::Time | Shape::MicroTime if matches!(text()?, ZERO_TIME | ZERO_MICRO_TIME) => wire::nested(out, number, |_| ()),
        Shape::Time | Shape::MicroTime => {
            let time: jiff::Timestamp = text()?.parse().map_err(|_| Problem::Here("the text is not a time"))?;
            // Seconds are rounded down and nanoseconds count upwards from there, also before 1970.
            let (seconds, nanoseconds) = match (time.as_second(), i64::from(time.subsec_nanosecond())) {
                (seconds, below @ ..0) => (seconds - 1, below + 1_000_000_000),
                parts => parts,
            };
            wire::nested(out, number, |out| {
                wire::put_integer(out, 1, seconds);
                wire::put_integer(out, 2, if matches!(shape, Shape::MicroTime) { nanoseconds } else { 0 });
            });
        }
        Shape::FieldsV1 => put_json(number, value, out),
        Shape::Any => any(number, form, value, out)?,
        Shape::Object(index) => wire::nested(out, number, |out| object(*index, value, out))?,
        // Only lists inside a message of their own stand here.
        Shape::List { items, .. } => {
            let elements = value.as_array().ok_or(Problem::Here("a list is needed"))?;
            wire::nested(out, number, |out| {
                elements.iter().filter(|element| !element.is_null()).try_for_each(|element| single(1, &items.shape, WireForm::Plain, element, out))
            })?;
        }
        Shape::Map { .. } => return Err(Problem::Here("a map inside a list or map has no form in protobuf")),
    }
    Ok(())
}

fn any(number: u32, form: WireForm, value: &Value, out: &mut Vec<u8>) -> Result<(), Problem> {
    let schema = |number: u32, value: &Value, out: &mut Vec<u8>| -> Result<(), Problem> {
        let index = crate::type_named(SCHEMA).ok_or(Problem::Here("schemas are not in the table"))?;
        Ok(wire::nested(out, number, |out| object(index, value, out))?)
    };
    match (form, value) {
        (WireForm::SchemaOrBool, Value::Bool(allowed)) => {
            wire::nested(out, number, |out| wire::put_integer(out, 1, (*allowed).into()));
            Ok(())
        }
        // Upstream says that anything is allowed wherever a schema is given.
        (WireForm::SchemaOrBool, Value::Object(_)) => wire::nested(out, number, |out| {
            wire::put_integer(out, 1, 1);
            schema(2, value, out)
        }),
        (WireForm::SchemaOrList | WireForm::SchemaOrNames, Value::Object(_)) => wire::nested(out, number, |out| schema(1, value, out)),
        (WireForm::SchemaOrList, Value::Array(elements)) => {
            wire::nested(out, number, |out| elements.iter().try_for_each(|element| schema(2, element, out)))
        }
        (WireForm::SchemaOrNames, Value::Array(elements)) => wire::nested(out, number, |out| {
            elements.iter().try_for_each(|element| {
                wire::put_bytes(out, 2, element.as_str().ok_or(Problem::Here("names are needed"))?.as_bytes());
                Ok(())
            })
        }),
        (WireForm::SchemaOrBool | WireForm::SchemaOrList | WireForm::SchemaOrNames, _) => Err(Problem::Here("a schema is needed")),
        (WireForm::Plain | WireForm::Raw | WireForm::Wrapped, _) => {
            put_json(number, value, out);
            Ok(())
        }
    }
}

fn put_json(number: u32, value: &Value, out: &mut Vec<u8>) {
    wire::nested(out, number, |out| wire::put_bytes(out, 1, value.to_string().as_bytes()));
}

fn integer(value: &Value) -> Result<i64, Problem> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole)).ok_or(Problem::Here("a whole number is needed"))
}
