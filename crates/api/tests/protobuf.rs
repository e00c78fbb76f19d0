//! Every kind survives the way into protobuf and back, hostile bytes are refused, and known bytes mean what they should.

use api::protobuf::{self, ProtobufError};
use meta::{
    GroupVersion, GroupVersionKind,
    schema::{Item, Shape, TypeIndex},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// An object with something in every field. Types that contain themselves (`inside` holds those around) do so once.
fn maximal(index: TypeIndex, inside: &mut Vec<TypeIndex>) -> Option<Value> {
    if inside.iter().filter(|around| **around == index).count() > 1 {
        return None;
    }
    inside.push(index);
    let object = api::types().object(index);
    let mut map = Map::new();
    for field in object.fields.iter().filter(|field| field.number > 0) {
        if let Some(value) = sample(&object.name, &field.name, &field.item, inside) {
            map.insert(field.name.to_string(), value);
        }
    }
    inside.pop();
    Some(Value::Object(map))
}

fn maximal_of(schema: &meta::schema::Schema) -> Value {
    maximal(schema.root, &mut Vec::new()).expect("nothing is around it")
}

fn sample(object: &str, name: &str, item: &Item, inside: &mut Vec<TypeIndex>) -> Option<Value> {
    Some(match &item.shape {
        // Schemas are not `Any` JSON in protobuf but messages of their own.
        Shape::Any if object.ends_with("JSONSchemaProps") => match name {
            "items" => json!([{"type": "string"}, {"minimum": 1.5}]),
            "dependencies" => json!(["a", "b"]),
            "additionalItems" => json!(false),
            "additionalProperties" => json!({"type": "integer", "maximum": -3}),
            _ => json!({"free": [1, "two", null]}),
        },
        Shape::Any => json!({"free": [1, "two", null]}),
        Shape::String => json!("text"),
        Shape::Boolean => json!(true),
        Shape::Integer32 => json!(-7),
        Shape::Integer64 => json!(1_i64 << 40),
        Shape::Double => json!(2.5),
        Shape::Quantity => json!("100m"),
        Shape::IntOrString => json!("25%"),
        Shape::Time => json!("2026-04-01T10:11:12Z"),
        Shape::MicroTime => json!("2026-04-01T10:11:12.000042Z"),
        Shape::Bytes => json!("aGVsbG8="),
        Shape::FieldsV1 => json!({"f:metadata": {"f:labels": {".": {}}}}),
        Shape::Object(index) => maximal(*index, inside)?,
        Shape::Map { values, .. } => json!({"one": sample(object, name, values, inside)?}),
        Shape::List { items, .. } => json!([sample(object, name, items, inside)?]),
    })
}

fn schema(api_version: &str, kind: &str) -> meta::schema::Schema {
    api::schema(&GroupVersion::parse(api_version).kind(kind)).unwrap_or_else(|| panic!("no {api_version} {kind}"))
}

#[track_caller]
fn check_same(schema: &meta::schema::Schema, value: &Value) {
    let bytes = protobuf::encode_object(schema, value).unwrap_or_else(|problem| panic!("{}: {problem}", schema.root().name));
    let back = protobuf::decode_object(schema, &bytes).unwrap_or_else(|problem| panic!("{}: {problem}", schema.root().name));
    assert_eq!(&back, value, "{}", schema.root().name);
}

#[test]
fn every_kind_comes_back_as_it_was() {
    for resource in api::resources() {
        let kind = GroupVersionKind::new(resource.group, resource.version, resource.kind);
        let schema = api::schema(&kind).expect("every resource has a type");
        check_same(&schema, &maximal_of(&schema));
        if let Some(list) = resource.list_kind() {
            let schema = api::schema(&GroupVersionKind::new(resource.group, resource.version, &list)).expect("every list has a type");
            check_same(&schema, &maximal_of(&schema));
        }
    }
    for (api_version, kind) in [
        ("v1", "Status"),
        ("v1", "DeleteOptions"),
        ("policy/v1", "Eviction"),
        ("autoscaling/v1", "Scale"),
        ("authentication.k8s.io/v1", "TokenRequest"),
        ("meta.k8s.io/v1", "PartialObjectMetadata"),
        ("meta.k8s.io/v1", "PartialObjectMetadataList"),
        ("v1", "APIResourceList"),
        ("v1", "APIGroupList"),
        ("v1", "APIVersions"),
        ("apidiscovery.k8s.io/v2", "APIGroupDiscoveryList"),
        ("admission.k8s.io/v1", "AdmissionReview"),
    ] {
        let schema = schema(api_version, kind);
        check_same(&schema, &maximal_of(&schema));
    }
}

#[test]
fn every_list_has_its_metadata_first_and_its_items_second() {
    for list in api::resources().iter().filter_map(|resource| Some((resource, resource.list_kind()?))) {
        let (resource, kind) = list;
        let schema = api::schema(&GroupVersionKind::new(resource.group, resource.version, &kind)).expect("every list has a type");
        let number = |name: &str| schema.root().field(name).map(|field| field.number);
        assert_eq!((number("metadata"), number("items")), (Some(1), Some(2)), "{kind}");
    }
}

#[test]
fn a_required_time_that_nobody_set_is_gos_zero_time() {
    let service = schema("v1", "Service");
    let condition = |time: Value| json!({"status": {"conditions": [{"type": "A", "status": "True", "reason": "B", "message": "", "lastTransitionTime": time}]}});
    let zero = condition("0001-01-01T00:00:00Z".into());
    let read = meta::read::read_json(condition(Value::Null).to_string().as_bytes(), &service).unwrap();
    assert_eq!(Value::Object(read.object.0), zero);
    let bytes = protobuf::encode_object(&service, &zero).unwrap();
    // Field 4, with nothing in it, as Go writes it.
    assert!(bytes.windows(2).any(|window| window == [0x22, 0x00]));
    assert_eq!(protobuf::decode_object(&service, &bytes).unwrap(), zero);
}

#[test]
fn a_pod_reads_like_protoc_wrote_it() {
    // Written by `protoc --encode` from upstream's field numbers: metadata.name "web", spec.containers[0] {name "c",
    // image "nginx"}, spec.volumes[0] {name "v", emptyDir {}} inside volumeSource, spec.terminationGracePeriodSeconds 0.
    let raw = [
        0x0a, 0x05, 0x0a, 0x03, b'w', b'e', b'b', // metadata
        0x12, 0x17, // spec
        0x0a, 0x07, 0x0a, 0x01, b'v', 0x12, 0x02, 0x12, 0x00, // volumes
        0x12, 0x0a, 0x0a, 0x01, b'c', 0x12, 0x05, b'n', b'g', b'i', b'n', b'x', // containers
        0x20, 0x00, // terminationGracePeriodSeconds
    ];
    let pod = schema("v1", "Pod");
    let value = json!({
        "metadata": {"name": "web"},
        "spec": {
            "containers": [{"name": "c", "image": "nginx"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 0,
        },
    });
    assert_eq!(protobuf::decode_object(&pod, &raw), Ok(value.clone()));
    assert_eq!(protobuf::encode_object(&pod, &value).as_deref(), Ok(&raw[..]));
}

#[test]
fn zeros_are_absent_but_where_they_say_something() {
    let pod = schema("v1", "Pod");
    let value = json!({"spec": {
        "hostNetwork": false, "nodeName": "", "automountServiceAccountToken": false, "priority": 0,
        "containers": [{"name": "", "image": "", "ports": [{"containerPort": 0, "protocol": ""}], "securityContext": {"runAsUser": 0}}],
    }});
    let bytes = protobuf::encode_object(&pod, &value).expect("it fits");
    assert_eq!(
        protobuf::decode_object(&pod, &bytes),
        Ok(json!({"spec": {
            "automountServiceAccountToken": false, "priority": 0,
            "containers": [{"name": "", "ports": [{"containerPort": 0}], "securityContext": {"runAsUser": 0}}],
        }}))
    );
    let claim = schema("v1", "PersistentVolumeClaim");
    check_same(&claim, &json!({"spec": {"storageClassName": ""}}));
    check_same(&schema("apps/v1", "Deployment"), &json!({"spec": {"replicas": 0, "selector": {}, "template": {"spec": {"containers": [{"name": "c"}]}}}}));
}

#[test]
fn zero_times_and_empty_quantities_are_absent() {
    let meta = api::schema_named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("it is known");
    assert_eq!(protobuf::decode_object(&meta, &[0x42, 0x00]), Ok(json!({})));
    // 1970 itself is a time.
    assert_eq!(protobuf::decode_object(&meta, &[0x42, 0x04, 0x08, 0x00, 0x10, 0x00]), Ok(json!({"creationTimestamp": "1970-01-01T00:00:00Z"})));
}

#[test]
fn documents_say_what_they_are() {
    let options = json!({"apiVersion": "policy/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Foreground"});
    let bytes = protobuf::encode_document(&options).expect("it fits");
    assert!(bytes.starts_with(b"k8s\0"));
    let envelope = protobuf::decode(&bytes).expect("it is an envelope");
    assert_eq!((&*envelope.api_version, &*envelope.kind), ("policy/v1", "DeleteOptions"));
    assert_eq!(protobuf::decode_document(&bytes), Ok(options));
    assert!(matches!(protobuf::encode_document(&json!({"apiVersion": "example.com/v1", "kind": "Thing"})), Err(ProtobufError::UnknownKind { .. })));
}

#[test]
fn a_list_is_its_items_joined() {
    let pod = schema("v1", "Pod");
    let items: Vec<Vec<u8>> = ["a", "b"].iter().map(|name| protobuf::encode_object(&pod, &json!({"metadata": {"name": name}})).expect("it fits")).collect();
    let parts = protobuf::ListParts::new("v1", "PodList", &json!({"resourceVersion": "7"}), items.iter().map(Vec::len)).expect("it fits");
    let mut bytes = parts.head.clone();
    items.iter().for_each(|item| protobuf::ListParts::put_item(&mut bytes, item));
    assert_eq!(bytes.len(), parts.head.len() + parts.items_length);
    bytes.extend_from_slice(protobuf::ListParts::END);
    assert_eq!(
        protobuf::decode_document(&bytes),
        Ok(json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}))
    );
}

#[test]
fn a_watch_frame_has_its_length_and_the_document_inside() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}});
    let frame = protobuf::encode_watch_event("ADDED", &protobuf::encode_document(&pod).expect("it fits"));
    let (length, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().expect("four bytes")) as usize, event.len());
    let schema = schema("v1", "WatchEvent");
    assert_eq!(protobuf::decode_object(&schema, event), Ok(json!({"type": "ADDED", "object": pod})));
}

#[test]
fn unknown_fields_are_skipped() {
    let pod = schema("v1", "Pod");
    // Number 99 as text, 98 as a number, 300 as a number.
    let raw = [0x9a, 0x06, 0x01, b'x', 0x90, 0x06, 0x05, 0xe0, 0x12, 0x01, 0x0a, 0x03, 0x0a, 0x01, b'p'];
    assert_eq!(protobuf::decode_object(&pod, &raw), Ok(json!({"metadata": {"name": "p"}})));
}

#[test]
fn packed_numbers_are_read_like_single_ones() {
    let context = api::schema_named("io.k8s.api.core.v1.PodSecurityContext").expect("it is known");
    let wanted = json!({"supplementalGroups": [1, 2]});
    assert_eq!(protobuf::encode_object(&context, &wanted).as_deref(), Ok(&[0x20, 1, 0x20, 2][..]));
    for raw in [&[0x20, 1, 0x20, 2][..], &[0x22, 2, 1, 2][..]] {
        assert_eq!(protobuf::decode_object(&context, raw), Ok(wanted.clone()));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let pod = schema("v1", "Pod");
    let problem = protobuf::encode_object(&pod, &json!({"spec": {"containers": [{"name": 7}]}})).expect_err("a name is a text");
    assert_eq!(problem.to_string(), "field name of io.k8s.api.core.v1.Container: a text is needed");
    let problem = protobuf::decode_object(&pod, &[0x0a, 0x02, 0x08, 0x01]).expect_err("a name is a text");
    assert_eq!(problem.to_string(), "field name of io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta: bytes are needed");
}

#[test]
fn bottomless_messages_are_refused() {
    // JSONSchemaProps.not (28) in itself, far deeper than any honest schema.
    let mut raw = Vec::new();
    for _ in 0..2000 {
        let mut outer = vec![0xe2, 0x01];
        let mut length = raw.len();
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.append(&mut raw);
        raw = outer;
    }
    let props = api::schema_named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").expect("it is known");
    assert_eq!(protobuf::decode_object(&props, &raw), Err(ProtobufError::TooDeep));
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let pod = schema("v1", "Pod");
        let _ = protobuf::decode_object(&pod, &bytes);
        let _ = protobuf::decode_document(&[b"k8s\0", &bytes[..]].concat());
    }

    #[test]
    fn no_damage_causes_a_panic(position in 0_usize..4000, byte: u8, cut in 0_usize..4000) {
        let crd = schema("apiextensions.k8s.io/v1", "CustomResourceDefinition");
        for schema in [schema("v1", "Pod"), crd] {
            let mut bytes = protobuf::encode_object(&schema, &maximal_of(&schema)).expect("it fits");
            let length = bytes.len();
            bytes[position % length] = byte;
            bytes.truncate(length - cut % length);
            if let Ok(value) = protobuf::decode_object(&schema, &bytes) {
                let _ = protobuf::encode_object(&schema, &value);
            }
        }
    }
}
