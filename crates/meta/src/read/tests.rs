use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::{
    Shape, TypeIndex, UnknownFields,
    fixture::{config_map, deployment, field, list_of, map_of, schema},
};

#[track_caller]
fn check(schema: &Schema, text: &str, object: Value, problems: &[&str]) {
    let outcome = read_json(text.as_bytes(), schema).unwrap();
    assert_eq!(outcome.object.into_value(), object, "of {text}");
    assert_eq!(outcome.problems, problems, "of {text}");
}

#[test]
fn a_plain_object_is_read_as_it_is() {
    let text = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"é\n\u00e9\ud83d\ude00"}}"#;
    check(&config_map(), text, serde_json::from_str(text).unwrap(), &[]);
    check(&config_map(), " { \"data\" : { } } \n", json!({}), &[]);
}

#[test]
fn unknown_and_duplicate_fields_are_named_once_and_dropped() {
    check(
        &deployment(),
        r#"{"spce":{"x":1,"x":2},"metadata":{"name":"a","name":"b","foo":1},"spec":{"replicas":1,"replicas":2,"template":{"spec":{"containers":[
            {"name":"a"},{"name":"b","nmae":"c","ports":[{"containerPort":1,"containerPort":2}]}]}}}}"#,
        json!({"metadata": {"name": "b"}, "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 2}]}]}}}}),
        &[
            r#"unknown field "spce""#,
            r#"duplicate field "metadata.name""#,
            r#"unknown field "metadata.foo""#,
            r#"duplicate field "spec.replicas""#,
            r#"unknown field "spec.template.spec.containers[1].nmae""#,
            r#"duplicate field "spec.template.spec.containers[1].ports[0].containerPort""#,
        ],
    );
    check(&config_map(), r#"{"Data":{"a":"b"}}"#, json!({}), &[r#"unknown field "Data""#]);
    check(&config_map(), r#"{"data":{"a":"b","a":"c"}}"#, json!({"data": {"a": "c"}}), &[r#"duplicate field "data.a""#]);
}

#[test]
fn nulls_and_empty_values_are_dropped_as_gos_types_drop_them() {
    check(
        &deployment(),
        r#"{"metadata":{"name":"a","namespace":"","creationTimestamp":null,"labels":{},"annotations":{"a":null},"finalizers":[]},
            "spec":{"paused":false,"strategy":{},"template":{"metadata":{"creationTimestamp":null},"spec":{"containers":[],"volumes":[],"nodeSelector":null}}},"status":{}}"#,
        json!({"metadata": {"name": "a", "annotations": {"a": ""}},
            "spec": {"paused": false, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": []}}}, "status": {}}),
        &[],
    );
}

#[test]
fn quantities_and_times_become_canonical() {
    check(
        &deployment(),
        r#"{"spec":{"template":{"spec":{"containers":[{"limits":{"cpu":"1000m","memory":1024,"x":0.5}}]}}},"status":{"startTime":"2026-01-01T01:00:00.5+01:00"}}"#,
        json!({"spec": {"template": {"spec": {"containers": [{"limits": {"cpu": "1", "memory": "1024", "x": "500m"}}]}}}, "status": {"startTime": "2026-01-01T00:00:00Z"}}),
        &[],
    );
}

#[track_caller]
fn refused(schema: &Schema, text: &str, error: &str) {
    assert_eq!(read_json(text.as_bytes(), schema).unwrap_err().to_string(), error, "of {text}");
}

#[test]
fn wrong_types_are_refused_in_gos_words() {
    let deployment = deployment();
    for (text, error) in [
        (r#"{"spec":{"replicas":"3"}}"#, "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"spec":{"replicas":3.5}}"#, "json: cannot unmarshal number 3.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"spec":{"replicas":3.0}}"#, "json: cannot unmarshal number 3.0 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"spec":{"replicas":3000000000}}"#, "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"spec":[]}"#, "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec"),
        (r#"{"spec":{"paused":1}}"#, "json: cannot unmarshal number into Go struct field DeploymentSpec.spec.paused of type bool"),
        (r#"{"metadata":{"labels":{"a":1}}}"#, "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"args":[true]}]}}}}"#,
            "json: cannot unmarshal bool into Go struct field Container.spec.template.spec.containers.args of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"limits":{"cpu":"lots"}}]}}}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (r#"{"spec":{"strategy":{"rollingUpdate":{"maxSurge":true}}}}"#, "json: cannot unmarshal bool into Go value of type int32"),
        (r#"{"status":{"startTime":"yesterday"}}"#, r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#),
        (r#"{"status":{"startTime":1}}"#, "json: cannot unmarshal number into Go value of type string"),
    ] {
        refused(&deployment, text, error);
    }
    refused(&config_map(), r#"{"binaryData":{"a":"!"}}"#, "illegal base64 data at input byte 0");
    refused(&config_map(), "[]", "json: cannot unmarshal array into Go value of type map[string]interface {}");
}

#[test]
fn malformed_json_is_refused_in_gos_words() {
    let schema = config_map();
    for (text, error) in [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        (r#"{"a"}"#, "invalid character '}' after object key"),
        (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
        (r#"{a:1}"#, "invalid character 'a' looking for beginning of object key string"),
        (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
        (r#"{"a":[1 2]}"#, "invalid character '2' after array element"),
        (r#"{"a":tru}"#, "invalid character '}' in literal true (expecting 'e')"),
        (r#"{"a":-}"#, "invalid character '}' in numeric literal"),
        (r#"{"a":1.}"#, "invalid character '}' after decimal point in numeric literal"),
        (r#"{"a":1e}"#, "invalid character '}' in exponent of numeric literal"),
        (r#"{"a":01}"#, "invalid character '1' after object key:value pair"),
        (r#"{"a":"\x"}"#, "invalid character 'x' in string escape code"),
        (r#"{"a":"\u12g4"}"#, "invalid character 'g' in \\u hexadecimal character escape"),
        ("{\"a\":\"\n\"}", "invalid character '\\n' in string literal"),
        (r#"{} x"#, "invalid character 'x' after top-level value"),
        ("not json", "invalid character 'o' in literal null (expecting 'u')"),
        ("<html>", "invalid character '<' looking for beginning of value"),
    ] {
        assert_eq!(read_json(text.as_bytes(), &schema).unwrap_err(), ReadError::Malformed(error.to_owned()), "of {text}");
    }
}

#[test]
fn deep_nesting_is_refused_without_harm() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert!(parse_untyped(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(parse_untyped(nested(MAX_DEPTH + 1).as_bytes()), Err(ReadError::Malformed("exceeded max depth".to_owned())));
        assert!(parse_untyped(nested(1_000_000).as_bytes()).is_err());
        assert!(parse_untyped(open.repeat(1_000_000).as_bytes()).is_err());
        assert!(parse_untyped_yaml(nested(100_000).as_bytes()).is_err());
    }
}

#[test]
fn odd_texts_are_read_as_go_reads_them() {
    let value = |text: &[u8]| parse_untyped(text).unwrap();
    assert_eq!(value(br#""\ud800""#), json!("\u{fffd}"));
    assert_eq!(value(br#""\ud800\u0041""#), json!("\u{fffd}A"));
    assert_eq!(value(b"\"a\xff\""), json!("a\u{fffd}"));
    assert_eq!(value(b"-0"), json!(0));
    assert_eq!(value(b"18446744073709551615"), json!(u64::MAX));
    assert_eq!(value(b"1e2"), json!(100.0));
    assert!(parse_untyped(b"1e999").is_err());
}

#[test]
fn yaml_is_read_with_its_duplicates() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  name: b\ndata:\n  1: x\n  y: |\n    text\nfoo: [1]\n";
    let outcome = read_yaml(text.as_bytes(), &config_map()).unwrap();
    assert_eq!(
        outcome.object.into_value(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"1": "x", "y": "text\n"}})
    );
    assert_eq!(outcome.problems, ["yaml: unmarshal errors:\n  line 5: key \"name\" already set in map", r#"unknown field "foo""#]);
    let nested = read_yaml(b"a.b/c:\n  x: 1\n  x: 2\na.b/c: 3\n", &config_map()).unwrap();
    assert_eq!(nested.problems[0], "yaml: unmarshal errors:\n  line 3: key \"x\" already set in map\n  line 4: key \"a.b/c\" already set in map");
    for text in ["a: [", "a: .nan", "? [a]\n: b", "\u{0}", "a: 1\n---\nb: 1\n", "", "- a"] {
        assert!(read_yaml(text.as_bytes(), &config_map()).is_err(), "{text:?}");
    }
    assert!(read_yaml(b"\xff", &config_map()).is_err());
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
    assert!(parse_untyped_yaml(bomb.as_bytes()).is_err());
}

#[test]
fn wrong_types_in_custom_resources_are_left_to_their_schema() {
    let mut schema = schema(&[
        (
            "",
            vec![
                field("count", Shape::Integer64),
                field("names", list_of(Shape::String, crate::schema::ListType::Atomic)),
                field("free", Shape::Object(TypeIndex(1))),
                field("any", Shape::Any),
                field("map", map_of(Shape::String)),
            ],
        ),
        ("", vec![]),
    ]);
    std::sync::Arc::make_mut(&mut schema.types).objects[1].unknown = UnknownFields::Keep;
    check(
        &schema,
        r#"{"apiVersion":"a/v1","kind":"X","count":"x","names":[null,1],"free":{"a":3.0,"b":null},"any":null,"map":{"a":null,"b":"c"},"extra":1}"#,
        json!({"apiVersion": "a/v1", "kind": "X", "count": "x", "names": [null, 1], "free": {"a": 3, "b": null}, "any": null, "map": {"b": "c"}}),
        &[r#"unknown field "extra""#],
    );
    check(&schema, r#"{"count":3.0,"names":[],"map":{},"free":{}}"#, json!({"count": 3, "names": [], "map": {}, "free": {}}), &[]);
    check(&schema, r#"{"count":null}"#, json!({}), &[]);
}

#[test]
fn what_was_read_is_read_again_unchanged() {
    let text = r#"{"metadata":{"name":"a","labels":{"x":"y"}},"spec":{"replicas":1,"template":{"spec":{"containers":[{"limits":{"cpu":"1500m"}}]}}}}"#;
    let once = read_json(text.as_bytes(), &deployment()).unwrap().object;
    assert_eq!(normalise_value(once.clone().into_value(), &deployment()).unwrap().object, once);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Eighths have one form; of others serde sometimes reads the neighbour.
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        "(name|1Gi|2026-01-01T00:00:00Z|\\PC{0,5})".prop_map(Value::from),
    ];
    let name = "(metadata|spec|template|containers|name|labels|replicas|ports|limits|status|startTime|strategy|x)";
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_is_read_as_serde_reads_it(value in any_json()) {
        let text = value.to_string();
        prop_assert_eq!(parse_untyped(text.as_bytes()), Ok(serde_json::from_str::<Value>(&text).unwrap()));
    }
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = (parse_untyped(&bytes), read_yaml(&bytes, &config_map()));
    }
    #[test]
    fn nearly_json_is_read_or_refused(text in "[{}\\[\\]:,\"\\\\truefalsn0-9eE+. u]{0,40}") {
        let ours = parse_untyped(text.as_bytes());
        let theirs = serde_json::from_str::<Value>(&text);
        // serde refuses numbers out of range and lone surrogates, too; here neither is generated.
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}: {:?} against {:?}", text, ours, theirs);
    }
    #[test]
    fn any_tree_is_brought_into_shape_or_refused(value in any_json()) {
        if let Ok(outcome) = normalise_value(json!({"spec": value}), &deployment()) {
            let again = normalise_value(outcome.object.clone().into_value(), &deployment()).unwrap();
            prop_assert_eq!(again.object, outcome.object);
        }
    }
}
