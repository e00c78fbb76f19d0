//! Custom resources in several versions, converted by a webhook: what is stored in one version is read, listed, watched, changed,
//! applied and deleted in another.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use testkit::{ApiHarness, JsonServer, api_harness::Caller};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/e2e-tests";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/e2e-tests";

/// Version 1 has `hostPort: "h:p"`, version 2 `host` and `port`.
fn converted(object: &Value, wanted: &Value) -> Value {
    let mut object = object.clone();
    if object["apiVersion"] == *wanted {
        return object;
    }
    object["apiVersion"] = wanted.clone();
    let fields = object.as_object_mut().unwrap();
    if wanted == "stable.example.com/v2" {
        if let Some(both) = fields.remove("hostPort") {
            let (host, port) = both.as_str().unwrap_or_default().split_once(':').unwrap_or_default();
            fields.insert("host".to_owned(), json!(host));
            fields.insert("port".to_owned(), json!(port));
        }
    } else {
        let (host, port) = (fields.remove("host"), fields.remove("port"));
        if host.is_some() || port.is_some() {
            let text = |part: &Option<Value>| part.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
            fields.insert("hostPort".to_owned(), json!(format!("{}:{}", text(&host), text(&port))));
        }
    }
    object
}

struct Converter {
    server: JsonServer,
    asked: Arc<AtomicUsize>,
}

async fn converter() -> Converter {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let server = JsonServer::start(move |review| {
        counter.fetch_add(1, Ordering::Relaxed);
        let (uid, wanted) = (&review["request"]["uid"], &review["request"]["desiredAPIVersion"]);
        let objects: Vec<Value> = review["request"]["objects"].as_array().unwrap().iter().map(|object| converted(object, wanted)).collect();
        let poison = objects.iter().any(|object| object["metadata"]["name"] == "poison");
        let result = if poison { json!({"status": "Failed", "message": "this one cannot be converted"}) } else { json!({"status": "Success"}) };
        json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": {"uid": uid, "convertedObjects": objects, "result": result}})
    });
    Converter { server: server.await, asked }
}

fn definition(converter: &Converter, storage: &str) -> Value {
    let version = |name: &str, fields: Value| {
        json!({"name": name, "served": true, "storage": name == storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}})
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "e2e-tests.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "e2e-tests", "singular": "e2e-test", "kind": "E2eTest", "listKind": "E2eTestList"},
            "versions": [version("v1", json!({"hostPort": {"type": "string"}})), version("v2", json!({"host": {"type": "string"}, "port": {"type": "string"}}))],
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": converter.server.client_config("/convert")}},
        },
    })
}

async fn define(caller: &Caller, converter: &Converter) {
    caller.post(DEFINITIONS, &definition(converter, "v1")).await.expect(201);
    let is_served = |answer: testkit::Answer| answer.status == 200;
    for path in [V1, V2] {
        while !is_served(caller.get(path).await) {
            tokio::task::yield_now().await;
        }
    }
}

fn first(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "E2eTest", "metadata": {"name": name}, "hostPort": "localhost:8080"})
}

fn second(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v2", "kind": "E2eTest", "metadata": {"name": name}, "host": "example.com", "port": "443"})
}

#[tokio::test]
async fn an_object_is_read_and_changed_in_either_version() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let converter = converter().await;
    define(&administrator, &converter).await;
    administrator.post(V1, &first("a")).await.expect(201);
    let read = administrator.get(&format!("{V2}/a")).await.expect(200);
    assert_eq!((&read["host"], &read["port"], &read["hostPort"]), (&json!("localhost"), &json!("8080"), &Value::Null));
    assert_eq!(read["apiVersion"], "stable.example.com/v2");
    let made = administrator.post(V2, &second("b")).await.expect(201);
    assert_eq!((&made["host"], &made["apiVersion"]), (&json!("example.com"), &json!("stable.example.com/v2")));
    assert_eq!(administrator.get(&format!("{V1}/b")).await.expect(200)["hostPort"], "example.com:443");
    let mut changed = administrator.get(&format!("{V2}/a")).await.expect(200);
    changed["port"] = json!("81");
    assert_eq!(administrator.put(&format!("{V2}/a"), &changed).await.expect(200)["port"], "81");
    assert_eq!(administrator.get(&format!("{V1}/a")).await.expect(200)["hostPort"], "localhost:81");
    administrator.delete(&format!("{V2}/a")).await.expect(200);
    administrator.get(&format!("{V1}/a")).await.expect(404);
}

#[tokio::test]
async fn a_list_of_objects_stored_in_both_versions_is_one_question() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let converter = converter().await;
    define(&administrator, &converter).await;
    for name in ["a", "b", "c"] {
        administrator.post(V1, &first(name)).await.expect(201);
    }
    let current = administrator.get(&format!("{DEFINITIONS}/e2e-tests.stable.example.com")).await.expect(200);
    let mut next = definition(&converter, "v2");
    next["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
    administrator.put(&format!("{DEFINITIONS}/e2e-tests.stable.example.com"), &next).await.expect(200);
    administrator.post(V2, &second("d")).await.expect(201);
    let before = converter.asked.load(Ordering::Relaxed);
    let list = administrator.get(V2).await.expect(200);
    let hosts: Vec<&str> = list["items"].as_array().unwrap().iter().filter_map(|item| item["host"].as_str()).collect();
    assert_eq!(hosts, ["localhost", "localhost", "localhost", "example.com"]);
    assert_eq!(converter.asked.load(Ordering::Relaxed), before + 1);
    let list = administrator.get(V1).await.expect(200);
    assert_eq!(list["items"][3]["hostPort"], "example.com:443");
}

#[tokio::test]
async fn a_failing_converter_is_told_to_the_client() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let converter = converter().await;
    define(&administrator, &converter).await;
    administrator.post(V1, &first("poison")).await.expect(201);
    let refused = administrator.get(&format!("{V2}/poison")).await.expect(500);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("conversion webhook for stable.example.com/v1, Kind=E2eTest failed: this one cannot be converted"), "{message}");
    administrator.get(&format!("{V1}/poison")).await.expect(200);
}

/// Who takes everything away may take the converter first.
#[tokio::test]
async fn a_definition_goes_with_its_objects_although_its_converter_is_gone() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let converter = converter().await;
    define(&administrator, &converter).await;
    administrator.post(V1, &first("a")).await.expect(201);
    let path = format!("{DEFINITIONS}/e2e-tests.stable.example.com");
    let current = administrator.get(&path).await.expect(200);
    let mut next = definition(&converter, "v2");
    next["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
    let nowhere = json!({"service": {"namespace": "default", "name": "gone", "path": "/convert"}});
    next["spec"]["conversion"]["webhook"]["clientConfig"] = nowhere;
    let changed = administrator.put(&path, &next).await.expect(200);
    while administrator.get(V2).await.status != 500 {
        tokio::task::yield_now().await;
    }
    administrator.post(V2, &second("b")).await.expect(201);
    let version = changed["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = administrator.watch(&format!("{DEFINITIONS}?watch=true&resourceVersion={version}")).await;
    administrator.delete(&path).await.expect(200);
    while watch.next_named().await.0 != "DELETED" {}
    administrator.get(V1).await.expect(404);
}

/// Names of managers with the version and the fields that each owns.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let mut owners: Vec<String> =
        entries.map(|entry| format!("{} {} {}", text(entry, "manager"), text(entry, "apiVersion"), entry["fieldsV1"])).collect();
    owners.sort();
    owners
}

#[tokio::test]
async fn a_field_that_somebody_applied_is_his_in_the_other_version_too() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let converter = converter().await;
    define(&administrator, &converter).await;
    let apply = async |version: &str, manager: &str, fields: Value, force: bool| {
        let mut body = json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "E2eTest", "metadata": {"name": "a"}});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let path = if version == "v1" { V1 } else { V2 };
        administrator.patch(&format!("{path}/a?fieldManager={manager}&force={force}"), "apply-patch", &body).await
    };
    apply("v1", "one", json!({"hostPort": "a:1"}), false).await.expect(201);
    let refused = apply("v2", "two", json!({"host": "b"}), false).await.expect(409);
    let cause = json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".hostPort"}]);
    assert_eq!(refused["details"]["causes"], cause, "in the version of the one it is with");
    let shared = apply("v2", "two", json!({"host": "a"}), false).await.expect(200);
    let both = ["one stable.example.com/v1 {\"f:hostPort\":{}}", "two stable.example.com/v2 {\"f:host\":{}}"];
    assert_eq!(owners(&shared), both, "who wants what is there shares it");
    let before = converter.asked.load(Ordering::Relaxed);
    apply("v1", "one", json!({"hostPort": "a:1"}), false).await.expect(200);
    assert_eq!(converter.asked.load(Ordering::Relaxed), before, "to apply again in the stored version asks nobody");
    let taken = apply("v2", "two", json!({"host": "b"}), true).await.expect(200);
    assert_eq!((&taken["host"], &taken["port"]), (&json!("b"), &json!("1")));
    assert_eq!(owners(&taken), ["two stable.example.com/v2 {\"f:host\":{}}"]);
    // Of one who is not asked for force either: an update.
    let mut first = administrator.get(&format!("{V1}/a")).await.expect(200);
    first["hostPort"] = json!("b:2");
    let written = administrator.put(&format!("{V1}/a?fieldManager=three"), &first).await.expect(200);
    assert_eq!(owners(&written), ["three stable.example.com/v1 {\"f:hostPort\":{}}", "two stable.example.com/v2 {\"f:host\":{}}"]);
    let moved = apply("v1", "two", json!({"hostPort": "c:3"}), true).await.expect(200);
    assert_eq!(owners(&moved), ["two stable.example.com/v1 {\"f:hostPort\":{}}"]);
    let gone = apply("v2", "two", json!({}), false).await.expect(200);
    assert_eq!((&gone["host"], &gone["port"]), (&Value::Null, &Value::Null), "what was applied in the other version is let go of: {gone}");
    assert_eq!(administrator.get(&format!("{V1}/a")).await.expect(200)["hostPort"], Value::Null);
}

#[tokio::test]
async fn an_object_that_cannot_be_converted_for_its_owners_is_written_without_them() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let converter = converter().await;
    define(&administrator, &converter).await;
    let mut object = administrator.post(V1, &first("poison")).await.expect(201);
    let entry = json!({"manager": "m", "operation": "Update", "apiVersion": "stable.example.com/v2", "fieldsType": "FieldsV1", "fieldsV1": {"f:host": {}}});
    object["metadata"]["managedFields"] = json!([entry]);
    let owned = administrator.put(&format!("{V1}/poison?fieldManager=m"), &object).await.expect(200);
    assert_eq!(owners(&owned), ["m stable.example.com/v2 {\"f:host\":{}}"]);
    let mut changed = owned;
    changed["hostPort"] = json!("h:2");
    let written = administrator.put(&format!("{V1}/poison?fieldManager=m"), &changed).await.expect(200);
    assert_eq!((&written["hostPort"], &written["metadata"]["managedFields"]), (&json!("h:2"), &Value::Null));
}

#[tokio::test]
async fn who_applied_in_a_version_owns_his_fields_until_the_definition_lacks_it() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let converter = converter().await;
    define(&administrator, &converter).await;
    administrator.patch(&format!("{V2}/b?fieldManager=one"), "apply-patch", &second("b")).await.expect(201);
    let definition = format!("{DEFINITIONS}/e2e-tests.stable.example.com");
    let other = async || administrator.patch(&format!("{V1}/b?fieldManager=two&dryRun=All"), "apply-patch", &first("b")).await;
    let is_refused = |answer: testkit::Answer| {
        let fields: Vec<Value> = answer.expect(409)["details"]["causes"].as_array().unwrap().iter().map(|cause| cause["field"].clone()).collect();
        assert_eq!(fields, [".host", ".port"]);
    };
    is_refused(other().await);
    administrator.patch(&definition, "json-patch", &json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}])).await.expect(200);
    while administrator.get(V2).await.status != 404 {
        tokio::task::yield_now().await;
    }
    is_refused(other().await);
    let removed = json!([{"op": "remove", "path": "/spec/versions/1"}]);
    let changed = administrator.patch(&definition, "json-patch", &removed).await.expect(200);
    assert_eq!(changed["spec"]["versions"].as_array().unwrap().len(), 1);
    let owned = loop {
        let answer = other().await;
        if answer.status == 200 {
            break answer.json();
        }
        is_refused(answer);
        tokio::task::yield_now().await;
    };
    assert_eq!(owners(&owned), ["two stable.example.com/v1 {\"f:hostPort\":{}}"]);
}
