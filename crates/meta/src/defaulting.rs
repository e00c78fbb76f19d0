//! Default values from the schema: filled in where a field is absent and the object it belongs to is there.

use serde_json::{Map, Value};

use crate::{
    object::Object,
    schema::{Item, ObjectType, Schema, Shape, Types},
};

/// Fills in the defaults an object lacks. Values filled in get their own defaults, too; an absent parent stays absent, unless Go's types
/// cannot tell it from an empty one.
/// `null` counts as absent where the field may not be null.
pub fn apply_defaults(schema: &Schema, object: &mut Object) {
    default_object(&schema.types, schema.root(), &mut object.0);
}

fn default_object(types: &Types, of: &ObjectType, map: &mut Map<String, Value>) {
    for field in &of.fields {
        match map.get_mut(&*field.name) {
            Some(value) if value.is_null() && !field.item.nullable && field.item.default.is_some() => {
                if let Some(default) = &field.item.default {
                    *value = (**default).clone();
                    default_item(types, &field.item, value);
                }
            }
            Some(value) => default_item(types, &field.item, value),
            None => {
                if let Some(default) = &field.item.default {
                    let mut value = (**default).clone();
                    default_item(types, &field.item, &mut value);
                    map.insert(field.name.to_string(), value);
                } else if let Shape::Object(index) = field.item.shape
                    && field.omits_zero
                {
                    let mut inner = Map::new();
                    default_object(types, types.object(index), &mut inner);
                    // Upstream shows what must be there, however empty.
                    if field.required || !inner.is_empty() {
                        map.insert(field.name.to_string(), Value::Object(inner));
                    }
                }
            }
        }
    }
}

fn default_item(types: &Types, item: &Item, value: &mut Value) {
    match (&item.shape, value) {
        (Shape::Object(index), Value::Object(map)) => default_object(types, types.object(*index), map),
        (Shape::Map { values, .. }, Value::Object(map)) if matters(values) => {
            map.values_mut().for_each(|value| default_element(types, values, value));
        }
        (Shape::List { items, .. }, Value::Array(list)) if matters(items) => {
            list.iter_mut().for_each(|value| default_element(types, items, value));
        }
        _ => {}
    }
}

/// Elements and map values have a default only where they are null.
fn default_element(types: &Types, item: &Item, value: &mut Value) {
    if let Some(default) = item.default.as_ref().filter(|_| value.is_null() && !item.nullable) {
        *value = (**default).clone();
    }
    default_item(types, item, value);
}

/// Whether anything in such a value could have a default.
fn matters(item: &Item) -> bool {
    item.default.is_some() || matches!(item.shape, Shape::Object(_) | Shape::Map { .. } | Shape::List { .. })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::schema::fixture::{field, field_with_default, list_of_objects, schema};

    fn example() -> Schema {
        schema(&[
            (
                "Root",
                vec![
                    field_with_default("size", Shape::Integer32, json!(3)),
                    field_with_default("part", Shape::Object(crate::schema::TypeIndex(1)), json!({})),
                    field("absent", Shape::Object(crate::schema::TypeIndex(1))),
                    field("ports", list_of_objects(1, &["port"])),
                ],
            ),
            ("Part", vec![field_with_default("protocol", Shape::String, json!("TCP")), field("port", Shape::Integer32)]),
        ])
    }

    #[track_caller]
    fn check(before: Value, after: Value) {
        let mut object = Object::from_value(before).unwrap();
        apply_defaults(&example(), &mut object);
        assert_eq!(object.into_value(), after);
    }

    #[test]
    fn absent_fields_are_filled_in_where_their_parent_is() {
        check(json!({}), json!({"size": 3, "part": {"protocol": "TCP"}}));
        check(json!({"size": 1, "part": {"protocol": "UDP"}}), json!({"size": 1, "part": {"protocol": "UDP"}}));
        check(
            json!({"size": null, "ports": [{"port": 1}, {"protocol": "UDP"}, null]}),
            json!({"size": 3, "part": {"protocol": "TCP"}, "ports": [{"port": 1, "protocol": "TCP"}, {"protocol": "UDP"}, null]}),
        );
    }

    #[test]
    fn a_null_that_may_be_one_is_kept() {
        let mut schema = example();
        let types = Arc::make_mut(&mut schema.types);
        for field in &mut types.objects[0].fields {
            field.item.nullable = true;
        }
        let mut object = Object::from_value(json!({"size": null, "part": null})).unwrap();
        apply_defaults(&schema, &mut object);
        assert_eq!(object.into_value(), json!({"size": null, "part": null}));
    }
}
