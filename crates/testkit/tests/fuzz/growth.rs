//! Objects that grow: fields that their types know, with values that such fields could have. What comes out is often valid, and where it is
//! not, it is so in a way that only validation can tell.

use meta::schema::{Field, Item, Schema, Shape, Types};
use rand::{Rng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};

/// Deeper than any honest object.
const DEEPEST: usize = 7;

const WORDS: &[&str] = &["a", "b", "default", "app", "example.com/a", "example.com", "10.0.0.1", "http", "1", "Always", "TCP", "/a", "a.b", ""];

/// Adds a few fields somewhere in the object.
pub fn grow(random: &mut impl Rng, schema: &Schema, object: &mut Value) {
    if let Value::Object(map) = object {
        let mut path = Path { types: &schema.types, random };
        path.object(map, schema.root, 0);
    }
}

struct Path<'a, R> {
    types: &'a Types,
    random: &'a mut R,
}

impl<R: Rng> Path<'_, R> {
    fn object(&mut self, map: &mut Map<String, Value>, of: meta::schema::TypeIndex, depth: usize) {
        let types = self.types;
        let fields: Vec<&Field> = types.object(of).fields.iter().filter(|field| !matches!(&*field.name, "apiVersion" | "kind")).collect();
        for field in fields.iter().filter(|field| field.required && !map.contains_key(&*field.name)).copied().collect::<Vec<_>>() {
            let value = self.sample(&field.item, &field.name, depth + 1);
            map.insert(field.name.to_string(), value);
        }
        for _ in 0..self.random.random_range(1..4) {
            let Some(field) = fields.choose(self.random).copied() else { return };
            // Metadata and status are long, and mostly the server's own.
            if matches!(&*field.name, "metadata" | "status") && self.random.random_ratio(3, 4) {
                continue;
            }
            match (map.get_mut(&*field.name), &field.item.shape) {
                (Some(Value::Object(inner)), Shape::Object(index)) => self.object(inner, *index, depth + 1),
                (Some(Value::Array(list)), Shape::List { items, .. }) => match (list.choose_mut_of(self.random), &items.shape) {
                    (Some(Value::Object(inner)), Shape::Object(index)) => self.object(inner, *index, depth + 1),
                    _ => list.push(self.sample(items, &field.name, depth + 1)),
                },
                (Some(_), _) if self.random.random_ratio(2, 3) => {}
                _ => {
                    let value = self.sample(&field.item, &field.name, depth + 1);
                    map.insert(field.name.to_string(), value);
                }
            }
        }
    }

    fn sample(&mut self, item: &Item, name: &str, depth: usize) -> Value {
        if let Some(default) = item.default.as_deref().filter(|_| self.random.random_ratio(1, 4)) {
            return default.clone();
        }
        let random = &mut *self.random;
        match &item.shape {
            Shape::String => json!(match name {
                "name" | "image" | "key" | "namespace" if random.random_ratio(3, 4) => "a",
                _ => WORDS.choose(random).unwrap_or(&"a"),
            }),
            Shape::Boolean => json!(random.random::<bool>()),
            Shape::Integer32 | Shape::Integer64 => json!([0, 1, 2, 80, -1].choose(random)),
            Shape::Double => json!([0.5, 1.0, -2.25].choose(random)),
            Shape::Quantity => json!(["0", "1", "100m", "1Gi", "1500m"].choose(random)),
            Shape::IntOrString => [json!(0), json!(80), json!("25%"), json!("http"), json!("")].choose(random).cloned().unwrap_or_default(),
            Shape::Time => json!(["2026-01-01T00:00:00Z", "1969-12-31T23:59:59Z"].choose(random)),
            Shape::MicroTime => json!(["2026-01-01T00:00:00.000001Z", "1969-12-31T23:59:59.500000Z"].choose(random)),
            Shape::Bytes => json!(["", "YQ==", "AAEC"].choose(random)),
            Shape::Any => [json!({}), json!({"a": [1, null, "b"]}), json!("a"), json!(1.5)].choose(random).cloned().unwrap_or_default(),
            Shape::FieldsV1 => json!({"f:metadata": {"f:labels": {"f:a": {}}}}),
            Shape::Object(index) => {
                let mut map = Map::new();
                if depth < DEEPEST && random.random_ratio(9, 10) {
                    self.object(&mut map, *index, depth);
                }
                Value::Object(map)
            }
            Shape::Map { values, .. } => {
                let count = random.random_range(0..3);
                Value::Object((0..count).map(|_| (self.key(), self.sample(values, "", depth + 1))).collect())
            }
            Shape::List { items, .. } => {
                let count = if depth < DEEPEST { random.random_range(0..3) } else { 0 };
                (0..count).map(|_| self.sample(items, name, depth + 1)).collect()
            }
        }
    }

    fn key(&mut self) -> String {
        (*["a", "app", "example.com/a", "cpu", "memory"].choose(self.random).unwrap_or(&"a")).to_owned()
    }
}

/// One of a list's elements, to be changed.
trait ChooseMut {
    fn choose_mut_of(&mut self, random: &mut impl Rng) -> Option<&mut Value>;
}

impl ChooseMut for Vec<Value> {
    fn choose_mut_of(&mut self, random: &mut impl Rng) -> Option<&mut Value> {
        let length = self.len();
        if length == 0 { None } else { self.get_mut(random.random_range(0..length)) }
    }
}
