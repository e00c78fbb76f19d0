//! One step of a path inside an object, as managed fields name it: `f:name`, `k:{"name":"web"}`, `v:"value"`, `i:3`.

use std::{cmp::Ordering, fmt};

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Element {
    /// A field of an object or a key of a map.
    Field(Box<str>),
    /// The element of a list that has these keys; sorted by name.
    Key(Vec<(Box<str>, Value)>),
    /// The element of a set that has this value.
    Value(Value),
    /// The element of a list at this index.
    Index(i64),
}

impl Element {
    /// From its form in `fieldsV1`; `None` where it has none of the four forms.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.get(2..)?;
        match text.get(..2)? {
            "f:" => Some(Self::Field(rest.into())),
            "k:" => match crate::read::parse_untyped(rest.as_bytes()).ok()? {
                Value::Object(map) => {
                    let mut keys: Vec<(Box<str>, Value)> = map.into_iter().map(|(name, value)| (name.into(), value)).collect();
                    keys.sort_by(|left, right| left.0.cmp(&right.0));
                    Some(Self::Key(keys))
                }
                _ => None,
            },
            "v:" => crate::read::parse_untyped(rest.as_bytes()).ok().map(Self::Value),
            "i:" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }
    /// Its form in `fieldsV1`.
    pub fn to_key(&self) -> String {
        match self {
            Self::Field(name) => {
                let mut key = String::with_capacity(name.len() + 2);
                key.push_str("f:");
                key.push_str(name);
                key
            }
            Self::Key(keys) => {
                let map: Map<String, Value> = keys.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
                format!("k:{}", Value::Object(map))
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl Eq for Element {}
impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(left), Self::Field(right)) => left.cmp(right),
            (Self::Key(left), Self::Key(right)) => {
                for ((left_name, left_value), (right_name, right_value)) in left.iter().zip(right) {
                    let ordering = left_name.cmp(right_name).then_with(|| compare_values(left_value, right_value));
                    if ordering != Ordering::Equal {
                        return ordering;
                    }
                }
                left.len().cmp(&right.len())
            }
            (Self::Value(left), Self::Value(right)) => compare_values(left, right),
            (Self::Index(left), Self::Index(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// Any total order of values that agrees with their equality.
fn compare_values(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => left.to_string().cmp(&right.to_string()),
        },
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        _ => {
            let rank = |value: &Value| match value {
                Value::Null => 0,
                Value::Bool(_) => 1,
                Value::Number(_) => 2,
                Value::String(_) => 3,
                Value::Array(_) => 4,
                Value::Object(_) => 5,
            };
            rank(left).cmp(&rank(right)).then_with(|| left.to_string().cmp(&right.to_string()))
        }
    }
}

impl fmt::Display for Element {
    /// As conflicts show it: `.name`, `[name="web"]`, `[="value"]`, `[3]`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(formatter, ".{name}"),
            Self::Key(keys) => {
                let texts: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(formatter, "[{}]", texts.join(","))
            }
            Self::Value(value) => write!(formatter, "[={value}]"),
            Self::Index(index) => write!(formatter, "[{index}]"),
        }
    }
}
