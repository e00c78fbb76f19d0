//! YAML text to a tree, with duplicate fields noted. Keys that are no strings become strings, as upstream's conversion does.

use std::{cell::RefCell, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{MAX_DEPTH, MAX_PROBLEMS, ReadError, Tree};

/// Parses the one document of a YAML text.
pub(crate) fn parse(bytes: &[u8]) -> Result<Tree, ReadError> {
    let malformed = |error: &dyn fmt::Display| ReadError::Malformed(format!("error converting YAML to JSON: yaml: {error}"));
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(&error))?;
    if opens_too_often(text) {
        return Err(malformed(&"exceeded max depth"));
    }
    let duplicates = RefCell::new(Vec::new());
    let node = Node { depth: 0, duplicates: &duplicates };
    let value = node.deserialize(serde_yaml_ng::Deserializer::from_str(text)).map_err(|error| malformed(&error))?;
    Ok(Tree { value, duplicates: duplicates.into_inner() })
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
}

impl Node<'_> {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth < MAX_DEPTH { Ok(Self { depth: self.depth + 1, ..self }) } else { Err(E::custom("exceeded max depth")) }
    }
    fn put_in_front(&self, known: usize, part: &str) {
        for path in self.duplicates.borrow_mut().iter_mut().skip(known) {
            *path = if path.starts_with('[') { format!("{part}{path}") } else { format!("{part}.{path}") };
        }
    }
    fn known(&self) -> usize {
        self.duplicates.borrow().len()
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
        loop {
            let known = self.known();
            let Some(value) = access.next_element_seed(below)? else { return Ok(Value::Array(list)) };
            self.put_in_front(known, &format!("[{}]", list.len()));
            list.push(value);
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut map = Map::new();
        while let Some(Key(key)) = access.next_key()? {
            let known = self.known();
            let value = access.next_value_seed(below)?;
            self.put_in_front(known, &key);
            if map.contains_key(&key) && self.known() < MAX_PROBLEMS {
                self.duplicates.borrow_mut().push(key.clone());
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duplicates = RefCell::new(Vec::new());
        match (Node { depth: MAX_DEPTH, duplicates: &duplicates }).deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Null => Ok(Self("null".to_owned())),
            Value::Bool(value) => Ok(Self(value.to_string())),
            Value::Number(value) => Ok(Self(value.to_string())),
            Value::Array(_) | Value::Object(_) => Err(D::Error::custom("a key must be a scalar")),
        }
    }
}
