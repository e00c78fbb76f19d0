//! YAML text to a tree, with duplicate fields noted. Keys that are no strings become strings, as upstream's conversion does.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{MAX_DEPTH, MAX_PROBLEMS, ReadError};

/// Parses the one document of a YAML text, and lists the keys that stood twice in their mapping; the later one won.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), ReadError> {
    let malformed = |error: &dyn fmt::Display| ReadError::Malformed(format!("error converting YAML to JSON: yaml: {error}"));
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(&error))?;
    if opens_too_often(text) {
        return Err(malformed(&"exceeded max depth"));
    }
    let duplicates = RefCell::new(Vec::new());
    let node = Node { depth: 0, duplicates: &duplicates, stop_at: None };
    let value = node.deserialize(serde_yaml_ng::Deserializer::from_str(text)).map_err(|error| malformed(&error))?;
    Ok((value, duplicates.into_inner()))
}

/// The parser takes time in proportion to how many brackets are open, for each token, and looks at depth only when it has read
/// everything. Brackets in texts are counted, too; no sensible document has that many which do not close.
fn opens_too_often(text: &str) -> bool {
    let mut open = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > 2 * MAX_DEPTH
    })
}

#[derive(Clone, Copy)]
struct Node<'a> {
    depth: usize,
    duplicates: &'a RefCell<Vec<String>>,
    /// Which duplicate is an error, so that the parser says its line; the first is 0.
    stop_at: Option<usize>,
}

impl Node<'_> {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth < MAX_DEPTH { Ok(Self { depth: self.depth + 1, ..self }) } else { Err(E::custom("exceeded max depth")) }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value that JSON has, too")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("JSON has no such number"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(below)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(KeyOf { map: &map, node: self })? {
            if map.contains_key(&key) && self.duplicates.borrow().len() < MAX_PROBLEMS {
                self.duplicates.borrow_mut().push(key.clone());
            }
            let value = access.next_value_seed(below)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Reads the next key of a mapping.
struct KeyOf<'a> {
    /// What came before it.
    map: &'a Map<String, Value>,
    node: Node<'a>,
}

impl<'de> DeserializeSeed<'de> for KeyOf<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl KeyOf<'_> {
    fn found<E: serde::de::Error>(self, key: String) -> Result<String, E> {
        if self.node.stop_at == Some(self.node.duplicates.borrow().len()) && self.map.contains_key(&key) {
            return Err(E::custom("already set"));
        }
        Ok(key)
    }
}

impl Visitor<'_> for KeyOf<'_> {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key that is a scalar")
    }
    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<String, E> {
        self.found(value.to_string())
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<String, E> {
        self.found(value.to_string())
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<String, E> {
        self.found(value.to_string())
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<String, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("JSON has no such number"))?;
        self.found(number.to_string())
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<String, E> {
        self.found(value.to_owned())
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<String, E> {
        self.found("null".to_owned())
    }
}

/// Bytes that are parsed again, in all, to say lines; a text of usual size has all its lines said.
const LINE_BUDGET_BYTES: usize = 4 << 20;

/// The duplicate keys of a text that was parsed before, as Go's YAML library words them.
pub(super) fn describe(bytes: &[u8], duplicates: &[String]) -> String {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let mut words = "yaml: unmarshal errors:".to_owned();
    for (number, key) in duplicates.iter().enumerate() {
        // The parser tells of lines only where it fails, so each duplicate is made a failure once.
        let line = if (number + 1) * text.len() <= LINE_BUDGET_BYTES { line_of(text, number) } else { None };
        let _ = match line {
            Some(line) => write!(words, "\n  line {line}: key {key:?} already set in map"),
            None => write!(words, "\n  key {key:?} already set in map"),
        };
    }
    words
}

fn line_of(text: &str, number: usize) -> Option<usize> {
    let found = RefCell::new(Vec::new());
    let node = Node { depth: 0, duplicates: &found, stop_at: Some(number) };
    let error = node.deserialize(serde_yaml_ng::Deserializer::from_str(text)).err()?;
    Some(error.location()?.line())
}
