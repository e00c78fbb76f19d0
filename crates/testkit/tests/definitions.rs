//! Custom resources as clients see them: what is published about them, and how they are read and written.

use serde_json::{Value, json};
use testkit::{ApiHarness, api_harness::Caller};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn schema() -> Value {
    json!({
        "description": "Foo CRD for Testing",
        "type": "object",
        "properties": {
            "spec": {
                "type": "object", "description": "Specification of Foo",
                "properties": {
                    "bars": {
                        "description": "List of Bars and their specs.", "type": "array",
                        "items": {"type": "object", "required": ["name"], "properties": {
                            "name": {"description": "Name of Bar.", "type": "string"},
                            "age": {"description": "Age of Bar.", "type": "string"},
                            "feeling": {"description": "Whether Bar is feeling great.", "type": "string", "enum": ["Great", "Down"]},
                            "bazs": {"description": "List of Bazs.", "type": "array", "items": {"type": "string"}},
                        }},
                    },
                },
            },
            "status": {"description": "Status of Foo", "type": "object", "properties": {"size": {"type": "integer", "format": "int64", "minimum": 1}}},
        },
    })
}

fn definition(schema: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}],
        },
    })
}

/// Makes a definition and waits until it is established.
async fn establish(caller: &Caller, definition: &Value) {
    let created = caller.post(DEFINITIONS, definition).await.expect(201);
    let (name, revision) = (&created["metadata"]["name"], &created["metadata"]["resourceVersion"]);
    let mut watch = caller.watch(&format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name={}&resourceVersion={}", name.as_str().unwrap(), revision.as_str().unwrap())).await;
    loop {
        let event = watch.next().await.expect("the watch goes on");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True") {
            return;
        }
    }
}

/// A published schema without what the server adds to every one.
fn as_written(mut published: Value) -> Value {
    for name in ["apiVersion", "kind", "metadata"] {
        published["properties"].as_object_mut().unwrap().remove(name);
    }
    published.as_object_mut().unwrap().remove("x-kubernetes-group-version-kind");
    published
}

#[tokio::test]
async fn a_schema_is_published_as_it_is_written() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    establish(&caller, &definition(&schema())).await;
    let second = caller.get("/openapi/v2").await.expect(200);
    assert_eq!(as_written(second["definitions"]["com.example.v1.Widget"].clone()), schema());
    let third = caller.get("/openapi/v3/apis/example.com/v1").await.expect(200);
    assert_eq!(as_written(third["components"]["schemas"]["com.example.v1.Widget"].clone()), schema());
}

/// kubectl of old takes every property that version 2 does not name for a mistake, so an open schema names none.
#[tokio::test]
async fn an_open_schema_names_no_properties_in_version_2() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    let mut open = schema();
    open["x-kubernetes-preserve-unknown-fields"] = true.into();
    establish(&caller, &definition(&open)).await;
    let mut second = caller.get("/openapi/v2").await.expect(200)["definitions"]["com.example.v1.Widget"].take();
    second.as_object_mut().unwrap().remove("x-kubernetes-group-version-kind");
    assert_eq!(second, json!({"type": "object"}));
    let third = caller.get("/openapi/v3/apis/example.com/v1").await.expect(200);
    let published = &third["components"]["schemas"]["com.example.v1.Widget"]["properties"];
    assert_eq!(published["spec"]["description"], "Specification of Foo");
    assert!(published["apiVersion"]["description"].as_str().unwrap().starts_with("APIVersion defines"));
    assert!(published["metadata"]["description"].as_str().unwrap().starts_with("Standard object's metadata"));
}

#[tokio::test]
async fn what_is_open_within_a_schema_has_no_type_in_version_2() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    let open = json!({
        "type": "object", "description": "anything", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"known": {"type": "string"}},
    });
    let schema = json!({"type": "object", "properties": {
        "spec": open,
        "list": {"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        "status": {"type": "object", "required": ["absent", "present"], "properties": {"absent": {"type": "string", "nullable": true}, "present": {"type": "string"}}},
    }});
    establish(&caller, &definition(&schema)).await;
    let second = caller.get("/openapi/v2").await.expect(200);
    let properties = &second["definitions"]["com.example.v1.Widget"]["properties"];
    assert_eq!(properties["spec"], json!({"description": "anything", "x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(properties["list"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(properties["status"], json!({"type": "object", "required": ["present"], "properties": {"absent": {}, "present": {"type": "string"}}}));
    let third = caller.get("/openapi/v3/apis/example.com/v1").await.expect(200);
    assert_eq!(third["components"]["schemas"]["com.example.v1.Widget"]["properties"]["spec"], open);
}

#[tokio::test]
async fn an_object_within_an_object_is_published_as_one() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    let embedded = |open: bool| json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": open});
    let mut closed = embedded(false);
    closed["properties"] = json!({"data": {"type": "string"}});
    closed.as_object_mut().unwrap().remove("x-kubernetes-preserve-unknown-fields");
    let schema = json!({"type": "object", "properties": {"closed": closed, "several": {"type": "array", "items": embedded(true)}}});
    establish(&caller, &definition(&schema)).await;
    let second = caller.get("/openapi/v2").await.expect(200)["definitions"]["com.example.v1.Widget"]["properties"].take();
    let third = caller.get("/openapi/v3/apis/example.com/v1").await.expect(200)["components"]["schemas"]["com.example.v1.Widget"]["properties"].take();
    let names = |schema: &Value| schema["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for published in [&second["closed"], &third["closed"]] {
        assert_eq!(names(published), ["apiVersion", "data", "kind", "metadata"]);
        assert_eq!(published["required"], json!(["kind", "apiVersion"]));
    }
    assert_eq!(second["several"]["items"], json!({"x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(names(&third["several"]["items"]), ["apiVersion", "kind", "metadata"]);
}

#[tokio::test]
async fn a_changed_schema_is_published_at_once_and_a_withdrawn_version_no_more() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    let mut with_two = definition(&schema());
    let mut other = with_two["spec"]["versions"][0].clone();
    (other["name"], other["storage"]) = (json!("v2"), json!(false));
    with_two["spec"]["versions"].as_array_mut().unwrap().push(other);
    establish(&caller, &with_two).await;
    let before = caller.get("/openapi/v2").await.expect(200);
    assert!(before["definitions"]["com.example.v2.Widget"].is_object());
    let patch = json!([
        {"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "changed"},
        {"op": "replace", "path": "/spec/versions/1/served", "value": false},
    ]);
    caller.patch(&format!("{DEFINITIONS}/widgets.example.com"), "json-patch", &patch).await.expect(200);
    // The definition's watch of its own tells nothing of the document, so this asks again until it is there; it must be soon.
    for _ in 0..3000 {
        let document = caller.get("/openapi/v2").await.expect(200);
        if document["definitions"]["com.example.v1.Widget"]["description"] == "changed" {
            assert!(document["definitions"]["com.example.v2.Widget"].is_null());
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the changed schema is not published");
}

#[tokio::test]
async fn strict_reading_names_every_field_that_is_not_there_or_twice() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    establish(&caller, &definition(&schema())).await;
    let text = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","unknownMeta":"x"},"spec":{"foo":1,"bars":[{"name":"b","age":"1","age":"2"}]}}"#;
    let strict = caller.send("POST", &format!("{WIDGETS}?fieldValidation=Strict"), &[("content-type", "application/json")], text).await;
    let message = strict.expect(400)["message"].as_str().unwrap_or_default().to_owned();
    for part in ["strict decoding error: ", r#"unknown field "spec.foo""#, r#"duplicate field "spec.bars[0].age""#, r#"unknown field "metadata.unknownMeta""#] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let warned = caller.send("POST", &format!("{WIDGETS}?fieldValidation=Warn"), &[("content-type", "application/json")], text).await;
    warned.expect(201);
    let warnings: Vec<&str> = warned.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let refused = caller.post(WIDGETS, &json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "b"}, "spec": {"bars": [{"age": "1", "feeling": "So-so"}]}})).await;
    let message = refused.expect(422)["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("spec.bars[0].name: Required value") && message.contains(r#"spec.bars[0].feeling: Unsupported value: "So-so""#), "{message}");
}

/// The words are those that upstream's conformance suite looks for.
#[tokio::test]
async fn server_side_apply_says_which_field_is_not_declared_and_which_line_says_a_key_twice() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    establish(&caller, &definition(&schema())).await;
    let apply = async |text: &str, validation: &str| {
        let path = format!("{WIDGETS}/a?fieldManager=m&fieldValidation={validation}");
        caller.send("PATCH", &path, &[("content-type", "application/apply-patch+yaml")], text.to_owned()).await
    };
    let head = "\napiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\n";
    for validation in ["Strict", "Ignore"] {
        let refused = apply(&format!("{head}extra: 1\nspec:\n  bars:\n  - name: b\n"), validation).await;
        let message = refused.expect(500)["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.starts_with("failed to create typed patch object ("), "{message}");
        assert!(message.ends_with("/a; example.com/v1, Kind=Widget): .extra: field not declared in schema"), "{message}");
    }
    let twice = format!("{head}spec:\n  bars:\n  - name: b\n    name: c\n");
    let message = apply(&twice, "Strict").await.expect(400)["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(message, "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 9: key \"name\" already set in map");
    let warned = apply(&twice, "Warn").await;
    assert_eq!(warned.expect(201)["spec"]["bars"][0]["name"], "c");
    assert_eq!(warned.headers.get_all("warning").iter().count(), 1, "{:?}", warned.headers);
}

#[tokio::test]
async fn a_field_applied_by_two_is_a_conflict_in_custom_resources_too() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    establish(&caller, &definition(&schema())).await;
    let applied = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"bars": [{"name": "b"}]}});
    caller.patch(&format!("{WIDGETS}/a?fieldManager=one"), "apply-patch", &applied).await.expect(201);
    let other = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"bars": [{"name": "c"}]}});
    let conflict = caller.patch(&format!("{WIDGETS}/a?fieldManager=two"), "apply-patch", &other).await.expect(409);
    assert!(conflict["message"].as_str().unwrap().contains(r#"conflict with "one": .spec.bars"#), "{conflict}");
    caller.patch(&format!("{WIDGETS}/a?fieldManager=two&force=true"), "apply-patch", &other).await.expect(200);
    let status = caller.patch(&format!("{WIDGETS}/a/status"), "merge-patch", &json!({"status": {"size": 4}, "spec": {"bars": []}})).await.expect(200);
    assert_eq!((&status["status"]["size"], &status["spec"]["bars"][0]["name"]), (&json!(4), &json!("c")));
}

#[tokio::test]
async fn a_custom_resource_says_what_it_is() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    establish(&caller, &definition(&schema())).await;
    let body = r#"{"metadata":{"name":"a"}}"#;
    let words = format!("the object provided is unrecognized (must be of type Widget): Object 'Kind' is missing in '{body}' ({body})");
    caller.post(WIDGETS, &serde_json::from_str(body).unwrap()).await.refused(400, "BadRequest", &words);
    let words = "the API version in the data () does not match the expected API version (example.com/v1)";
    caller.post(WIDGETS, &json!({"kind": "Widget", "metadata": {"name": "a"}})).await.refused(400, "BadRequest", words);
}
