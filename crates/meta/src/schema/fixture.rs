//! Small schemas for this crate's tests.

use std::sync::Arc;

use serde_json::Value;

use super::{Field, Item, ListType, ObjectType, PatchStrategy, Schema, Shape, TypeIndex, Types, UnknownFields};

pub(crate) fn field(name: &str, shape: Shape) -> Field {
    Field { name: name.into(), number: 0, required: false, omits_zero: false, item: Item::of(shape), patch: PatchStrategy::default() }
}

pub(crate) fn required(name: &str, shape: Shape) -> Field {
    Field { required: true, ..field(name, shape) }
}

pub(crate) fn field_with_default(name: &str, shape: Shape, default: Value) -> Field {
    let mut field = field(name, shape);
    field.item.default = Some(Arc::new(default));
    field
}

pub(crate) fn merged(mut field: Field, key: &str) -> Field {
    field.patch = PatchStrategy { merge: true, retain_keys: false, replace: false, merge_key: (!key.is_empty()).then(|| key.into()) };
    field
}

pub(crate) fn map_of(shape: Shape) -> Shape {
    Shape::Map { values: Box::new(Item::of(shape)), atomic: false }
}

pub(crate) fn list_of(shape: Shape, list: ListType) -> Shape {
    Shape::List { items: Box::new(Item::of(shape)), list }
}

pub(crate) fn list_of_objects(index: u32, keys: &[&str]) -> Shape {
    let list = if keys.is_empty() { ListType::Atomic } else { ListType::Map(keys.iter().map(|key| (*key).into()).collect()) };
    list_of(Shape::Object(TypeIndex(index)), list)
}

/// Types by name; the first is the root.
pub(crate) fn schema(types: &[(&str, Vec<Field>)]) -> Schema {
    let objects = types
        .iter()
        .map(|(name, fields)| {
            let mut fields = fields.clone();
            fields.sort_by(|left, right| left.name.cmp(&right.name));
            let name = match *name {
                "" => String::new(),
                "ObjectMeta" => "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".to_owned(),
                name => format!("io.k8s.api.example.v1.{name}"),
            };
            ObjectType { name: name.into(), fields, unknown: UnknownFields::Prune, atomic: false, embedded_resource: false, rules: None }
        })
        .collect();
    Schema { types: Arc::new(Types { objects }), root: TypeIndex(0), generation: 0 }
}

fn meta_fields() -> Vec<Field> {
    let mut fields: Vec<Field> = ["name", "generateName", "namespace", "uid", "resourceVersion", "selfLink"].map(|name| field(name, Shape::String)).into();
    fields.push(field("generation", Shape::Integer64));
    fields.push(field("creationTimestamp", Shape::Time));
    fields.push(field("deletionTimestamp", Shape::Time));
    fields.push(field("labels", map_of(Shape::String)));
    fields.push(field("annotations", map_of(Shape::String)));
    fields.push(merged(field("finalizers", list_of(Shape::String, ListType::Set)), ""));
    fields.push(field("managedFields", list_of(Shape::Any, ListType::Atomic)));
    fields
}

/// A ConfigMap as built in.
pub(crate) fn config_map() -> Schema {
    schema(&[
        (
            "ConfigMap",
            vec![
                field("apiVersion", Shape::String),
                field("kind", Shape::String),
                field("metadata", Shape::Object(TypeIndex(1))),
                field("data", map_of(Shape::String)),
                field("binaryData", map_of(Shape::Bytes)),
                field("immutable", Shape::Boolean),
            ],
        ),
        ("ObjectMeta", meta_fields()),
    ])
}

/// A Deployment, in essence.
pub(crate) fn deployment() -> Schema {
    let object = |index| Shape::Object(TypeIndex(index));
    let mut strategy = field("strategy", object(9));
    strategy.patch.retain_keys = true;
    let mut volumes = merged(field("volumes", list_of_objects(8, &["name"])), "name");
    volumes.patch.retain_keys = true;
    schema(&[
        (
            "Deployment",
            vec![
                field("apiVersion", Shape::String),
                field("kind", Shape::String),
                field("metadata", object(1)),
                field("spec", object(2)),
                field("status", object(7)),
            ],
        ),
        ("ObjectMeta", meta_fields()),
        (
            "DeploymentSpec",
            vec![
                field_with_default("replicas", Shape::Integer32, 1.into()),
                field("paused", Shape::Boolean),
                field("selector", map_of(Shape::String)),
                strategy,
                required("template", object(3)),
            ],
        ),
        ("PodTemplateSpec", vec![field("metadata", object(1)), field("spec", object(4))]),
        (
            "PodSpec",
            vec![
                merged(required("containers", list_of_objects(5, &["name"])), "name"),
                volumes,
                field("nodeSelector", map_of(Shape::String)),
                field("tolerations", list_of_objects(8, &[])),
            ],
        ),
        (
            "Container",
            vec![
                field("name", Shape::String),
                field("image", Shape::String),
                field("args", list_of(Shape::String, ListType::Atomic)),
                merged(field("ports", list_of_objects(6, &["containerPort", "protocol"])), "containerPort"),
                merged(field("env", list_of_objects(8, &["name"])), "name"),
                field("limits", map_of(Shape::Quantity)),
            ],
        ),
        (
            "ContainerPort",
            vec![
                field("name", Shape::String),
                required("containerPort", Shape::Integer32),
                field_with_default("protocol", Shape::String, "TCP".into()),
            ],
        ),
        ("DeploymentStatus", vec![field("replicas", Shape::Integer32), field("startTime", Shape::Time)]),
        (
            "Named",
            vec![field("name", Shape::String), field("value", Shape::String), field("emptyDir", map_of(Shape::String)), field("hostPath", map_of(Shape::String))],
        ),
        ("Strategy", vec![field("type", Shape::String), field("rollingUpdate", object(10))]),
        ("RollingUpdate", vec![field("maxSurge", Shape::IntOrString)]),
    ])
}
