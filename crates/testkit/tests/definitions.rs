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

/// Asks until what is asked for has come: no watch tells of what follows from a definition.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(60) {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("not within a minute: {what}");
}

const GADGETS: &str = "/apis/example.com/v1/namespaces/default/gadgets";

fn gadgets() -> Value {
    let schema = json!({ "type": "object", "properties": {
        "spec": { "type": "object", "properties": {
            "size": { "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] },
            "note": { "type": "string", "nullable": true },
            "colour": { "type": "string" },
            "replicas": { "type": "integer" },
            "selector": { "type": "string" },
            "open": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "known": { "type": "integer" } } },
            "template": { "type": "object", "x-kubernetes-embedded-resource": true, "properties": { "data": { "type": "string" } } },
        } },
        "status": { "type": "object", "properties": { "replicas": { "type": "integer" }, "phase": { "type": "string" } } },
    } });
    let version = |name: &str, storage: bool| json!({
        "name": name, "served": true, "storage": storage, "schema": { "openAPIV3Schema": schema },
        "subresources": { "status": {}, "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".spec.selector" } },
        "additionalPrinterColumns": [{ "name": "Colour", "type": "string", "jsonPath": ".spec.colour" }, { "name": "Phase", "type": "string", "jsonPath": ".status.phase", "priority": 1 }],
        "selectableFields": [{ "jsonPath": ".spec.colour" }],
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "gadgets.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList", "shortNames": ["gg"], "categories": ["all", "toys"] },
            "versions": [version("v1", true), version("v1beta1", false)],
        },
    })
}

fn gadget(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "example.com/v1", "kind": "Gadget", "metadata": { "name": name }, "spec": spec })
}

#[tokio::test]
async fn fields_of_every_special_kind_are_kept_pruned_and_judged() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    establish(&caller, &gadgets()).await;
    let template = json!({ "apiVersion": "v1", "kind": "Thing", "metadata": { "name": "t", "labels": { "a": "b" }, "surprise": 1 }, "data": "d", "surprise": 1 });
    let spec = json!({ "size": "50%", "note": null, "colour": "red", "open": { "known": 1, "other": { "deep": [1, null] } }, "template": template, "surprise": true });
    let made = caller.post(GADGETS, &gadget("a", spec)).await.expect(201)["spec"].clone();
    let kept = json!({ "apiVersion": "v1", "kind": "Thing", "metadata": { "name": "t", "labels": { "a": "b" } }, "data": "d" });
    assert_eq!(made, json!({ "size": "50%", "note": null, "colour": "red", "open": { "known": 1, "other": { "deep": [1, null] } }, "template": kept }));
    caller.post(GADGETS, &gadget("b", json!({ "size": 5 }))).await.expect(201);
    for (spec, words) in [
        (json!({ "size": true }), "spec.size: Invalid value"),
        (json!({ "open": { "known": "x" } }), "spec.open.known: Invalid value: \"string\": spec.open.known in body must be of type integer: \"string\""),
        (json!({ "open": 1 }), "spec.open: Invalid value"),
        (json!({ "template": { "kind": "Thing", "metadata": {} } }), "spec.template.apiVersion: Required value: must not be empty"),
        (json!({ "template": { "apiVersion": "v1", "kind": "Thing", "metadata": { "name": "a/b" } } }), "spec.template.metadata.name: Invalid value: \"a/b\": may not contain '/'"),
    ] {
        let message = caller.post(GADGETS, &gadget("c", spec)).await.expect(422)["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{words} is not in {message}");
    }
    // A null where none may be is as if nothing stood there.
    assert_eq!(caller.post(GADGETS, &gadget("d", json!({ "colour": null, "note": "x" }))).await.expect(201)["spec"], json!({ "note": "x" }));
}

#[tokio::test]
async fn a_custom_resource_has_status_scale_columns_fields_and_names_as_it_says() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    establish(&caller, &gadgets()).await;
    let listed = caller.get("/apis/example.com/v1").await.expect(200)["resources"].as_array().unwrap().clone();
    let own = listed.iter().find(|resource| resource["name"] == "gadgets").unwrap();
    assert_eq!((&own["shortNames"], &own["categories"], &own["singularName"]), (&json!(["gg"]), &json!(["all", "toys"]), &json!("gadget")));
    let scale = listed.iter().find(|resource| resource["name"] == "gadgets/scale").unwrap();
    assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
    let mut with_status = gadget("a", json!({ "colour": "red", "replicas": 2, "selector": "a=b" }));
    with_status["status"] = json!({ "phase": "Done" });
    let made = caller.post(GADGETS, &with_status).await.expect(201);
    assert_eq!((made.get("status"), &made["metadata"]["generation"]), (None, &json!(1)), "a status is reported, not asked for");
    let path = format!("{GADGETS}/a");
    let reported = caller.patch(&format!("{path}/status"), "merge-patch", &json!({ "spec": { "colour": "blue" }, "status": { "phase": "Done", "replicas": 1 } })).await.expect(200);
    assert_eq!((&reported["spec"]["colour"], &reported["status"]["phase"], &reported["metadata"]["generation"]), (&json!("red"), &json!("Done"), &json!(1)));
    let changed = caller.patch(&path, "merge-patch", &json!({ "spec": { "colour": "green" }, "status": { "phase": "Lost" } })).await.expect(200);
    assert_eq!((&changed["spec"]["colour"], &changed["status"]["phase"], &changed["metadata"]["generation"]), (&json!("green"), &json!("Done"), &json!(2)));
    let scale = caller.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!((&scale["spec"], &scale["status"]), (&json!({ "replicas": 2 }), &json!({ "replicas": 1, "selector": "a=b" })));
    caller.patch(&format!("{path}/scale"), "merge-patch", &json!({ "spec": { "replicas": 7 } })).await.expect(200);
    assert_eq!(caller.get(&path).await.expect(200)["spec"]["replicas"], 7);
    caller.post(GADGETS, &gadget("b", json!({ "colour": "red" }))).await.expect(201);
    for (field, wanted) in [("spec.colour=green", vec!["a"]), ("spec.colour!=green", vec!["b"]), ("metadata.name=b", vec!["b"])] {
        let list = caller.get(&format!("{GADGETS}?fieldSelector={}", field.replace('=', "%3D"))).await.expect(200);
        let names: Vec<&str> = list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!((list["kind"].as_str().unwrap(), names), ("GadgetList", wanted), "{field}");
    }
    caller.get(&format!("{GADGETS}?fieldSelector=spec.replicas%3D7")).await.expect(400);
    let table = caller.send("GET", GADGETS, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await.expect(200);
    let columns: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Colour", "Phase"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "green", "Done"]));
}

#[tokio::test]
async fn an_object_is_the_same_in_every_version_and_is_stored_in_the_new_one_when_it_is_written_again() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    establish(&caller, &gadgets()).await;
    let path = |version: &str| format!("/apis/example.com/{version}/namespaces/default/gadgets/a");
    let made = caller.post(GADGETS, &gadget("a", json!({ "colour": "red" }))).await.expect(201);
    let older = caller.get(&path("v1beta1")).await.expect(200);
    assert_eq!((&older["apiVersion"], &older["spec"], &older["metadata"]["uid"]), (&json!("example.com/v1beta1"), &made["spec"], &made["metadata"]["uid"]));
    let definition = format!("{DEFINITIONS}/gadgets.example.com");
    assert_eq!(caller.get(&definition).await.expect(200)["status"]["storedVersions"], json!(["v1"]));
    let swapped = json!([{ "op": "replace", "path": "/spec/versions/0/storage", "value": false }, { "op": "replace", "path": "/spec/versions/1/storage", "value": true }]);
    caller.patch(&definition, "json-patch", &swapped).await.expect(200);
    assert_eq!(caller.get(&definition).await.expect(200)["status"]["storedVersions"], json!(["v1", "v1beta1"]), "some are stored in the one, some in the other");
    let without = json!([{ "op": "remove", "path": "/spec/versions/0" }]);
    let message = caller.patch(&definition, "json-patch", &without).await.expect(422)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"), "{message}");
    // Written again as it is, an object moves once.
    let before = caller.get(&path("v1")).await.expect(200);
    let moved = eventually("the object is written in the new version", async || {
        let written = caller.put(&path("v1"), &before).await.expect(200);
        (written["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]).then_some(written)
    })
    .await;
    let again = caller.put(&path("v1"), &moved).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], moved["metadata"]["resourceVersion"], "it is stored as it should be");
    assert_eq!((&moved["spec"], &moved["metadata"]["generation"]), (&made["spec"], &made["metadata"]["generation"]));
    caller.patch(&format!("{definition}/status"), "merge-patch", &json!({ "status": { "storedVersions": ["v1beta1"] } })).await.expect(200);
    caller.patch(&definition, "json-patch", &without).await.expect(200);
    eventually("the removed version is not found", async || (caller.get(&path("v1")).await.status == 404).then_some(())).await;
    assert_eq!(caller.get(&path("v1beta1")).await.expect(200)["spec"]["colour"], "red");
}

#[tokio::test]
async fn what_is_applied_in_one_version_is_owned_in_every_version() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    establish(&caller, &gadgets()).await;
    let apply = async |version: &str, manager: &str, spec: Value, force: bool| {
        let body = json!({ "apiVersion": format!("example.com/{version}"), "kind": "Gadget", "metadata": { "name": "a" }, "spec": spec });
        caller.patch(&format!("/apis/example.com/{version}/namespaces/default/gadgets/a?fieldManager={manager}&force={force}"), "apply-patch", &body).await
    };
    apply("v1", "one", json!({ "colour": "red", "note": "n" }), false).await.expect(201);
    let refused = apply("v1beta1", "two", json!({ "colour": "blue" }), false).await.expect(409);
    assert_eq!(refused["details"]["causes"][0]["message"], "conflict with \"one\"");
    let taken = apply("v1beta1", "two", json!({ "colour": "blue" }), true).await.expect(200);
    assert_eq!((&taken["apiVersion"], &taken["spec"]), (&json!("example.com/v1beta1"), &json!({ "colour": "blue", "note": "n" })));
    // Who applies in another version from now on is still the same, and lets go of what he applies no more.
    let moved = apply("v1beta1", "one", json!({ "replicas": 2 }), false).await.expect(200);
    assert_eq!(moved["spec"], json!({ "colour": "blue", "replicas": 2 }));
    let versions: Vec<(&str, &str)> = moved["metadata"]["managedFields"].as_array().unwrap().iter().map(|entry| (entry["manager"].as_str().unwrap(), entry["apiVersion"].as_str().unwrap())).collect();
    assert_eq!(versions, [("one", "example.com/v1beta1"), ("two", "example.com/v1beta1")]);
}

#[tokio::test]
async fn a_changed_default_shows_in_objects_that_were_stored_before() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    establish(&caller, &gadgets()).await;
    caller.post(GADGETS, &gadget("a", json!({ "note": "n" }))).await.expect(201);
    let definition = format!("{DEFINITIONS}/gadgets.example.com");
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/colour/default";
    for (op, colour) in [("add", "grey"), ("replace", "white")] {
        caller.patch(&definition, "json-patch", &json!([{ "op": op, "path": at, "value": colour }])).await.expect(200);
        eventually("the default shows", async || (caller.get(&format!("{GADGETS}/a")).await.expect(200)["spec"]["colour"] == colour).then_some(())).await;
        let list = caller.get(GADGETS).await.expect(200);
        assert_eq!(list["items"][0]["spec"], json!({ "note": "n", "colour": colour }), "in lists too");
    }
    caller.patch(&definition, "json-patch", &json!([{ "op": "replace", "path": at, "value": 5 }])).await.expect(422);
    // Once written it is the object's own.
    caller.patch(&format!("{GADGETS}/a"), "merge-patch", &json!({ "spec": { "note": "m" } })).await.expect(200);
    caller.patch(&definition, "json-patch", &json!([{ "op": "replace", "path": at, "value": "black" }])).await.expect(200);
    eventually("new objects get the new default", async || {
        let made = caller.post(&format!("{GADGETS}?dryRun=All"), &gadget("b", json!({}))).await.expect(201);
        (made["spec"]["colour"] == "black").then_some(())
    })
    .await;
    assert_eq!(caller.get(&format!("{GADGETS}/a")).await.expect(200)["spec"]["colour"], "white");
}

#[tokio::test]
async fn a_definition_goes_when_its_objects_have_gone_and_says_what_holds_it_up() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    establish(&caller, &gadgets()).await;
    let definition = format!("{DEFINITIONS}/gadgets.example.com");
    let condition = |object: &Value, kind: &str| object["status"]["conditions"].as_array().cloned().unwrap_or_default().into_iter().find(|condition| condition["type"] == kind);
    let established = caller.get(&definition).await.expect(200);
    assert_eq!(condition(&established, "NamesAccepted").unwrap()["reason"], "NoConflicts");
    // Another that wants a name of it gets none of its own served.
    let mut rival = gadgets();
    (rival["metadata"]["name"], rival["spec"]["names"]["plural"], rival["spec"]["names"]["singular"]) = (json!("gizmos.example.com"), json!("gizmos"), json!("gizmo"));
    caller.post(DEFINITIONS, &rival).await.expect(201);
    let refused = eventually("the rival is told", async || {
        let rival = caller.get(&format!("{DEFINITIONS}/gizmos.example.com")).await.expect(200);
        condition(&rival, "NamesAccepted").map(|accepted| (accepted, condition(&rival, "Established")))
    })
    .await;
    assert_eq!((&refused.0["status"], refused.0["reason"].as_str().unwrap().ends_with("Conflict")), (&json!("False"), true), "{}", refused.0);
    assert!(refused.1.is_none_or(|established| established["status"] == "False"));
    caller.get("/apis/example.com/v1/namespaces/default/gizmos").await.expect(404);
    caller.post(GADGETS, &gadget("free", json!({}))).await.expect(201);
    let mut held = gadget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    caller.post(GADGETS, &held).await.expect(201);
    caller.delete(&definition).await.expect(200);
    let going = eventually("what can go has gone", async || {
        let list = caller.get(GADGETS).await.expect(200);
        let names: Vec<String> = list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        (names == ["held"]).then_some(caller.get(&definition).await.expect(200))
    })
    .await;
    assert!(going["metadata"]["deletionTimestamp"].is_string() && going["metadata"]["finalizers"] == json!(["customresourcecleanup.apiextensions.k8s.io"]), "{going}");
    eventually("it says that it is going", async || condition(&caller.get(&definition).await.expect(200), "Terminating").filter(|condition| condition["status"] == "True")).await;
    let late = caller.post(GADGETS, &gadget("late", json!({}))).await.expect(405);
    assert_eq!(late["message"], "create not allowed while custom resource definition is terminating");
    caller.patch(&format!("{GADGETS}/held"), "merge-patch", &json!({ "metadata": { "finalizers": null } })).await.expect(200);
    eventually("the definition has gone", async || (caller.get(&definition).await.status == 404).then_some(())).await;
    eventually("nothing is found any more", async || (caller.get(GADGETS).await.status == 404).then_some(())).await;
    eventually("the rival gets the names", async || {
        let rival = caller.get(&format!("{DEFINITIONS}/gizmos.example.com")).await.expect(200);
        condition(&rival, "Established").filter(|established| established["status"] == "True")
    })
    .await;
}
