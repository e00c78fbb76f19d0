//! Fields that no schema names, taken out of objects that did not come through the normalising reader (webhook answers,
//! objects stored under an older schema).

use serde_json::{Map, Value};

use crate::{
    object::Object,
    schema::{Item, ObjectType, Schema, Shape, Types, UnknownFields},
};

/// Takes unknown fields out and lists their paths.
pub fn prune(schema: &Schema, object: &mut Object) -> Vec<String> {
    let mut pruned = Vec::new();
    prune_object(&schema.types, schema.root(), &mut object.0, &mut pruned, true);
    pruned
}

fn prune_object(types: &Types, of: &ObjectType, map: &mut Map<String, Value>, pruned: &mut Vec<String>, root: bool) {
    map.retain(|key, value| {
        let known = pruned.len();
        let keep = match of.field(key) {
            Some(field) => {
                prune_item(types, &field.item, value, pruned);
                true
            }
            None => matches!(of.unknown, UnknownFields::Keep) || root && matches!(key.as_str(), "apiVersion" | "kind" | "metadata"),
        };
        if keep { put_in_front(pruned, known, key) } else { pruned.push(key.clone()) }
        keep
    });
}

fn prune_item(types: &Types, item: &Item, value: &mut Value, pruned: &mut Vec<String>) {
    match (&item.shape, value) {
        (Shape::Object(index), Value::Object(map)) => prune_object(types, types.object(*index), map, pruned, false),
        (Shape::Map { values, .. }, Value::Object(map)) => {
            for (key, value) in map.iter_mut() {
                let known = pruned.len();
                prune_item(types, values, value, pruned);
                put_in_front(pruned, known, key);
            }
        }
        (Shape::List { items, .. }, Value::Array(list)) => {
            for (index, value) in list.iter_mut().enumerate() {
                let known = pruned.len();
                prune_item(types, items, value, pruned);
                if pruned.len() > known {
                    put_in_front(pruned, known, &format!("[{index}]"));
                }
            }
        }
        _ => {}
    }
}

fn put_in_front(pruned: &mut [String], known: usize, part: &str) {
    for path in pruned.iter_mut().skip(known) {
        *path = if path.starts_with('[') { format!("{part}{path}") } else { format!("{part}.{path}") };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::fixture::{field, list_of_objects, schema};

    #[test]
    fn unknown_fields_are_taken_out_and_named() {
        let mut schema = schema(&[
            ("Root", vec![field("parts", list_of_objects(1, &[])), field("free", Shape::Object(crate::schema::TypeIndex(2)))]),
            ("Part", vec![field("port", Shape::Integer32)]),
            ("Free", vec![field("part", Shape::Object(crate::schema::TypeIndex(1)))]),
        ]);
        std::sync::Arc::make_mut(&mut schema.types).objects[2].unknown = UnknownFields::Keep;
        let mut object =
            Object::from_value(json!({"kind": "X", "a": 1, "parts": [{"port": 1}, {"port": 2, "b": {"c": 1}}], "free": {"x": 1, "part": {"y": 1}}})).unwrap();
        assert_eq!(prune(&schema, &mut object), ["a", "free.part.y", "parts[1].b"]);
        assert_eq!(object.into_value(), json!({"kind": "X", "parts": [{"port": 1}, {"port": 2}], "free": {"x": 1, "part": {}}}));
    }
}
