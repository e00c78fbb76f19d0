use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    defaulting::apply_defaults,
    field::{FieldError, FieldPath},
    object::Object,
    read::normalise_value,
    schema::{Schema, TypeIndex, fixture::config_map},
};

fn convert(schema: &Value) -> Result<Schema, Vec<FieldError>> {
    let built_in = config_map();
    schema_from_crd(schema, (&built_in.types, TypeIndex(1)), 1, &FieldPath::new("schema"))
}

fn spec(properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

#[track_caller]
fn check(schema: &Value, object: Value, expected: &[&str]) {
    let schema = convert(schema).unwrap();
    let object = normalise_value(object, &schema).unwrap().object;
    let texts: Vec<String> = validate(&schema, &object).iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
}

#[test]
fn values_are_judged_by_type_and_rules_in_upstreams_words() {
    let schema = spec(json!({
        "replicas": {"type": "integer", "minimum": 1, "maximum": 5},
        "ratio": {"type": "number", "exclusiveMinimum": true, "minimum": 0, "multipleOf": 0.5},
        "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
        "mode": {"type": "string", "enum": ["fast", "slow"]},
        "at": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": true},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "on": {"type": "boolean"},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 2},
        "maybe": {"type": "string", "nullable": true},
    }));
    let of = |spec: Value| json!({"spec": spec});
    check(&schema, of(json!({"replicas": 3, "ratio": 1.5, "name": "ab", "mode": "fast", "port": 1, "maybe": null, "at": "2026-01-01T00:00:00Z"})), &[]);
    check(&schema, of(json!({"replicas": "three"})), &[r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#]);
    check(&schema, of(json!({"replicas": 0})), &["spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1"]);
    check(&schema, of(json!({"replicas": 6})), &["spec.replicas: Invalid value: 6: spec.replicas in body should be less than or equal to 5"]);
    check(&schema, of(json!({"replicas": 1.5})), &[r#"spec.replicas: Invalid value: "number": spec.replicas in body must be of type integer: "number""#]);
    check(&schema, of(json!({"ratio": 0})), &["spec.ratio: Invalid value: 0: spec.ratio in body should be greater than 0"]);
    check(&schema, of(json!({"ratio": 0.7})), &["spec.ratio: Invalid value: 0.7: spec.ratio in body should be a multiple of 0.5"]);
    check(
        &schema,
        of(json!({"name": "A"})),
        &[
            r#"spec.name: Invalid value: "A": spec.name in body should be at least 2 chars long"#,
            r#"spec.name: Invalid value: "A": spec.name in body should match '^[a-z]+$'"#,
        ],
    );
    check(&schema, of(json!({"name": "abcde"})), &["spec.name: Too long: may not be longer than 4"]);
    check(&schema, of(json!({"mode": "medium"})), &[r#"spec.mode: Unsupported value: "medium": supported values: "fast", "slow""#]);
    check(&schema, of(json!({"at": "now"})), &[r#"spec.at: Invalid value: "now": spec.at in body must be of type date-time: "now""#]);
    check(&schema, of(json!({"port": true})), &[r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#]);
    check(&schema, of(json!({"list": []})), &["spec.list: Invalid value: []: spec.list in body should have at least 1 items"]);
    check(&schema, of(json!({"list": ["a", "b", "c"]})), &["spec.list: Too many: 3: must have at most 2 items"]);
    check(&schema, of(json!({"list": ["a", "a"]})), &[r#"spec.list[1]: Duplicate value: "a""#]);
    check(&schema, of(json!({"list": [1]})), &[r#"spec.list[0]: Invalid value: "integer": spec.list[0] in body must be of type string: "integer""#]);
    check(&schema, of(json!({"on": "yes"})), &[r#"spec.on: Invalid value: "string": spec.on in body must be of type boolean: "string""#]);
    check(&schema, of(json!({"map": {"a": "b"}})), &[r#"spec.map.a: Invalid value: "string": spec.map.a in body must be of type integer: "string""#]);
    check(&schema, json!({"spec": []}), &[r#"spec: Invalid value: "array": spec in body must be of type object: "array""#]);
}

#[test]
fn required_fields_must_be_there() {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["a", "b"], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}});
    check(&schema, json!({}), &["spec: Required value"]);
    check(&schema, json!({"spec": {"a": null, "b": "x"}}), &["spec.a: Required value"]);
}

#[test]
fn logical_rules_are_evaluated() {
    let mut schema = spec(json!({"a": {"type": "integer"}, "b": {"type": "integer"}}));
    schema["properties"]["spec"]["oneOf"] = json!([{"required": ["a"]}, {"required": ["b"]}]);
    check(&schema, json!({"spec": {"a": 1}}), &[]);
    check(
        &schema,
        json!({"spec": {"a": 1, "b": 1}}),
        &[r#"spec: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#],
    );
    check(
        &schema,
        json!({"spec": {}}),
        &[r#"spec: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found none valid"#, "spec.a: Required value"],
    );
    let mut schema = spec(json!({"a": {"type": "integer", "anyOf": [{"minimum": 10}, {"maximum": 1}], "not": {"enum": [0]}}}));
    check(&schema, json!({"spec": {"a": 1}}), &[]);
    check(
        &schema,
        json!({"spec": {"a": 5}}),
        &[r#"spec.a: Invalid value: "": "spec.a" must validate at least one schema (anyOf)"#, "spec.a: Invalid value: 5: spec.a in body should be greater than or equal to 10"],
    );
    check(&schema, json!({"spec": {"a": 0}}), &[r#"spec.a: Invalid value: "": "spec.a" must not validate the schema (not)"#]);
    schema["properties"]["spec"]["allOf"] = json!([{"properties": {"a": {"maximum": 3}}}]);
    check(
        &schema,
        json!({"spec": {"a": 10}}),
        &[
            r#"spec: Invalid value: "": "spec" must validate all the schemas (allOf). None validated"#,
            "spec.a: Invalid value: 10: spec.a in body should be less than or equal to 3",
        ],
    );
}

#[test]
fn names_in_metadata_can_be_restricted() {
    let schema = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}}});
    check(&schema, json!({"metadata": {"name": "abc"}}), &[]);
    let converted = convert(&schema).unwrap();
    let object = Object::from_value(json!({"metadata": {"name": "abcd"}})).unwrap();
    assert_eq!(validate(&converted, &object).last().unwrap().to_string(), "metadata.name: Too long: may not be longer than 3");
}

#[test]
fn embedded_resources_have_metadata_and_must_name_their_kind() {
    let schema = spec(json!({"template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}));
    check(&schema, json!({"spec": {"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "more": 1}}}), &[]);
    check(
        &schema,
        json!({"spec": {"template": {}}}),
        &["spec.template.apiVersion: Required value: must not be empty", "spec.template.kind: Required value: must not be empty"],
    );
    check(
        &schema,
        json!({"spec": {"template": {"apiVersion": "a/b/c", "kind": "", "metadata": {"name": "a/b", "namespace": "n", "labels": {"a": "b c"}}}}}),
        &[
            "spec.template.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            "spec.template.kind: Invalid value: \"\": must not be empty",
            "spec.template.metadata.name: Invalid value: \"a/b\": may not contain '/'",
            "spec.template.metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ],
    );
    check(&schema, json!({"spec": {"template": {"apiVersion": "v1", "kind": "Pod", "metadata": {}}}}), &[]);
    let converted = convert(&schema).unwrap();
    let outcome = normalise_value(json!({"spec": {"template": {"metadata": {"name": "a", "creationTimestamp": null, "foo": 1}}}}), &converted).unwrap();
    assert_eq!(outcome.problems, [r#"unknown field "spec.template.metadata.foo""#]);
}

#[test]
fn custom_resources_are_pruned_and_defaulted() {
    let schema = spec(json!({
        "size": {"type": "integer", "default": 3},
        "nested": {"type": "object", "default": {}, "properties": {"mode": {"type": "string", "default": "fast"}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "open": {"type": "object", "additionalProperties": true},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"], "items": {
            "type": "object", "required": ["port"], "properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}}},
    }));
    let schema = convert(&schema).unwrap();
    let outcome = normalise_value(
        json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a"}, "spec": {"free": {"a": {"b": 1}}, "open": {"a": [1]}, "ports": [{"port": 1, "x": 1}], "y": 1, "size": null}}),
        &schema,
    )
    .unwrap();
    assert_eq!(outcome.problems, [r#"unknown field "spec.ports[0].x""#, r#"unknown field "spec.y""#]);
    let mut object = outcome.object;
    apply_defaults(&schema, &mut object);
    assert_eq!(
        object.into_value(),
        json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a"}, "spec": {"free": {"a": {"b": 1}}, "open": {"a": [1]},
            "ports": [{"port": 1, "protocol": "TCP"}], "size": 3, "nested": {"mode": "fast"}}})
    );
}

#[track_caller]
fn not_structural(schema: Value, expected: &[&str]) {
    let errors = convert(&schema).map(drop).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected, "{schema}");
}

#[test]
fn schemas_must_be_structural() {
    not_structural(json!({}), &["schema.type: Required value: must not be empty at the root"]);
    not_structural(json!({"type": "string"}), &[r#"schema.type: Invalid value: "string": must be object at the root"#]);
    let of = |property: Value| json!({"type": "object", "properties": {"a": property}});
    not_structural(of(json!({})), &["schema.properties[a].type: Required value: must not be empty for specified object fields"]);
    not_structural(of(json!({"type": "array"})), &["schema.properties[a].items: Required value: must be specified"]);
    not_structural(of(json!({"type": "array", "items": {}})), &["schema.properties[a].items.type: Required value: must not be empty for specified array items"]);
    not_structural(
        of(json!({"type": "text"})),
        &[r#"schema.properties[a].type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string""#],
    );
    not_structural(
        of(json!({"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}})),
        &["schema.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"],
    );
    not_structural(
        of(json!({"type": "integer", "anyOf": [{"type": "string", "minimum": 1}]})),
        &["schema.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"],
    );
    not_structural(
        of(json!({"type": "object", "not": {"properties": {"x": {"minimum": 1}}}})),
        &["schema.properties[a].properties[x]: Required value: because it is defined in schema.properties[a].not.properties[x]"],
    );
    not_structural(
        of(json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n", "m"], "items": {"type": "object", "properties": {"n": {"type": "string"}}}})),
        &[
            "schema.properties[a].items.properties[n].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            r#"schema.properties[a].x-kubernetes-list-map-keys[1]: Invalid value: "m": entries must all be names of item properties"#,
        ],
    );
    not_structural(
        json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
        &["schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"],
    );
    not_structural(of(json!({"type": "integer", "default": "x"})), &[r#"schema.properties[a].default: Invalid value: "string": schema.properties[a].default in body must be of type integer: "string""#]);
    let errors = convert(&of(json!({"type": "string", "pattern": "("}))).map(drop).unwrap_err();
    assert!(errors[0].to_string().starts_with("schema.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression"), "{errors:?}");
    let int_or_string = of(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^[0-9]+%$"}));
    check(&int_or_string, json!({"a": 1}), &[]);
    assert_eq!(validate(&convert(&int_or_string).unwrap(), &Object::from_value(json!({"a": "x"})).unwrap()).len(), 1);
}

proptest! {
    #[test]
    fn any_schema_is_converted_or_refused(
        kind in "(object|array|string|integer|number|boolean|x)?", name in "(allOf|anyOf|not|items|properties|additionalProperties|default|enum|required)",
        value in prop_oneof![Just(json!(null)), Just(json!({})), Just(json!([])), Just(json!([{}])), Just(json!("x")), Just(json!({"x": {"type": "string"}})), Just(json!(true))],
        instance in prop_oneof![Just(json!(null)), Just(json!({"x": 1})), Just(json!([1, "x"])), Just(json!("x")), Just(json!(1.5))],
    ) {
        let schema = json!({"type": "object", "properties": {"a": {"type": kind, name: value}}});
        if let Ok(schema) = convert(&schema) {
            let object = Object::from_value(json!({"a": instance})).unwrap();
            let _ = validate(&schema, &object);
        }
    }
}
