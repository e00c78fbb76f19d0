//! The table of facts checks itself: nothing that clients rely on may be missing from any type.

use std::collections::HashSet;

use meta::schema::{Item, ListType, ObjectType, Shape, TypeIndex};

fn walk(item: &Item, visit: &mut impl FnMut(&Item)) {
    visit(item);
    match &item.shape {
        Shape::Map { values, .. } => walk(values, visit),
        Shape::List { items, .. } => walk(items, visit),
        _ => {}
    }
}

fn object_of(item: &Item) -> Option<&'static ObjectType> {
    match &item.shape {
        Shape::Object(index) => Some(api::types().object(*index)),
        _ => None,
    }
}

#[test]
fn every_field_has_a_number_but_those_that_the_envelope_carries() {
    for object in &api::types().objects {
        for field in &object.fields {
            let in_envelope = object.embedded_resource && ["apiVersion", "kind"].contains(&&*field.name);
            let without_protobuf = object.name.ends_with("pkg.version.Info");
            assert!(field.number > 0 || in_envelope || without_protobuf, "{}.{}", object.name, field.name);
        }
    }
}

#[test]
fn fields_are_sorted_and_named_once() {
    for object in &api::types().objects {
        assert!(object.fields.is_sorted_by(|left, right| left.name < right.name), "{}", object.name);
    }
}

#[test]
fn keys_of_lists_and_merges_are_fields_of_their_elements() {
    for object in &api::types().objects {
        for field in &object.fields {
            let element = match &field.item.shape {
                Shape::List { items, .. } => object_of(items),
                _ => None,
            };
            if let (Some(key), Some(element)) = (&field.patch.merge_key, element) {
                assert!(element.field(key).is_some(), "{}.{} merges by {key}", object.name, field.name);
            }
            walk(&field.item, &mut |item| {
                if let Shape::List { items, list: ListType::Map(keys) } = &item.shape {
                    let element = object_of(items).unwrap_or_else(|| panic!("{}.{} has keys but no objects", object.name, field.name));
                    for key in keys {
                        assert!(element.field(key).is_some(), "{}.{} has key {key}", object.name, field.name);
                    }
                }
            });
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let count = api::types().objects.len();
    for object in &api::types().objects {
        for field in &object.fields {
            walk(&field.item, &mut |item| {
                if let Shape::Object(TypeIndex(index)) = item.shape {
                    assert!((index as usize) < count, "{}.{}", object.name, field.name);
                }
            });
        }
    }
}

#[test]
fn names_lead_to_types_and_back() {
    let mut seen = HashSet::new();
    for object in &api::types().objects {
        if seen.insert(&object.name) {
            let index = api::type_named(&object.name).unwrap_or_else(|| panic!("{} is not found", object.name));
            assert_eq!(api::types().object(index).name, object.name);
        }
    }
    assert!(seen.len() > 750, "only {} types", seen.len());
}

#[test]
fn well_known_facts_are_there() {
    let container = api::schema_named("io.k8s.api.core.v1.Container").expect("containers are known");
    let ports = container.root().field("ports").expect("they have ports");
    assert!(matches!(&ports.item.shape, Shape::List { list: ListType::Map(keys), .. } if keys.iter().map(|key| &**key).eq(["containerPort", "protocol"])));
    assert_eq!(ports.patch.merge_key.as_deref(), Some("containerPort"));
    assert_eq!(ports.number, 6);
    let port = match &ports.item.shape {
        Shape::List { items, .. } => object_of(items).expect("they are objects"),
        other => panic!("ports are {other:?}"),
    };
    assert_eq!(port.field("protocol").expect("they have a protocol").item.default.as_deref(), Some(&serde_json::json!("TCP")));
    let pod = api::schema(&meta::GroupVersionKind::new("", "v1", "Pod")).expect("pods are known");
    assert_eq!(&*pod.root().name, "io.k8s.api.core.v1.Pod");
    assert!(api::schema(&meta::GroupVersionKind::new("batch", "v1", "DeleteOptions")).is_some());
}
