//! Every kind as clients written in Go drive it: protobuf in both directions, with every zero that Go's types cannot leave out.
//!
//! Whatever a client in Go sends must mean what the same object means in plain JSON, and what it reads and writes back unchanged must
//! change nothing, although empty texts and messages stand in it that nobody has set.

use serde_json::{Value, json};
use testkit::{
    ApiHarness, GoShapes,
    api_harness::{Answer, Caller},
    go_shape::{difference, essence},
};

use crate::{PROTOBUF, Subject, invalid_objects, subjects};

/// As client-go asks.
const ACCEPT: &str = "application/vnd.kubernetes.protobuf, */*";

/// Sends an object and takes the answer as a client in Go does.
async fn send(caller: &Caller, shapes: &GoShapes, method: &str, path: &str, object: Option<&Value>) -> Answer {
    let body = object.map(|object| shapes.encode(object)).unwrap_or_default();
    caller.send(method, path, &[("content-type", PROTOBUF), ("accept", ACCEPT)], body).await
}

/// What an answer holds, of whichever encoding it is.
fn tree(answer: &Answer) -> Value {
    if answer.header("content-type") == PROTOBUF {
        return api::protobuf::decode_document(&answer.body).unwrap_or_else(|error| json!(format!("no document: {error}")));
    }
    answer.json()
}

#[tokio::test]
async fn what_go_cannot_leave_out_means_nothing() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let shapes = GoShapes::new();
    let (mut failures, mut compared) = (Vec::new(), 0);
    for subject in subjects(&harness) {
        for object in invalid_objects::objects_of(&subject) {
            let path = format!("{}?dryRun=All&fieldManager=test", subject.collection);
            let plain = caller.post(&path, &object).await;
            let wanted = essence(&shapes, plain.status, plain.json());
            let whole = caller.post(&path, &shapes.complete(&object)).await;
            let binary = send(&caller, &shapes, "POST", &path, Some(&object)).await;
            for (form, answer) in [("JSON", whole), ("protobuf", binary)] {
                compared += 1;
                if let Some(words) = difference(&wanted, &essence(&shapes, answer.status, tree(&answer)), "") {
                    failures.push(format!("{} {} in {form}: {words}\n  {object}", subject.api_version, subject.kind));
                }
            }
        }
    }
    assert!(compared > 500, "{compared}");
    assert!(failures.is_empty(), "{} of {compared} differ:\n{}", failures.len(), failures.join("\n"));
}

/// Through the verbs, as client-go sends them; what goes wrong is added to `failures`.
async fn drive(caller: &Caller, shapes: &GoShapes, subject: &Subject, failures: &mut Vec<String>) {
    let path = subject.path();
    let fail =
        |deed: &str, answer: &Answer| format!("{} {}: {deed}: {} {}", subject.api_version, subject.kind, answer.status, tree(answer));
    // Made from plain JSON, read and written back by Go: nothing changes.
    let made = caller.post(&subject.collection, &subject.object).await;
    if made.status != 201 {
        return failures.push(fail("create in JSON", &made));
    }
    for place in ["", "/status", "/scale"] {
        let there = if place.is_empty() { true } else { subject.subresources.iter().any(|name| *name == place[1..]) };
        if !there {
            continue;
        }
        let read = send(caller, shapes, "GET", &format!("{path}{place}"), None).await;
        let written = send(caller, shapes, "PUT", &format!("{path}{place}"), Some(&tree(&read))).await;
        if read.header("content-type") != PROTOBUF || written.header("content-type") != PROTOBUF {
            failures.push(fail("no protobuf", &written));
            continue;
        }
        if written.status != 200 {
            failures.push(fail("written back as it was read, it is refused", &written));
            continue;
        }
        let (before, after) = (tree(&read), tree(&written));
        let old = caller.get(&path).await.json();
        if let Some(words) = difference(&before, &after, "").filter(|_| !subject.changes_by_itself()) {
            failures.push(format!("{}{place}: written back as it was read, it is another: {words}\n  {old}", subject.kind));
        }
    }
    let same = json!({"uid": made.json()["metadata"]["uid"]});
    let options =
        json!({"apiVersion": subject.api_version, "kind": "DeleteOptions", "preconditions": same, "propagationPolicy": "Background"});
    let deleted = send(caller, shapes, "DELETE", &path, Some(&options)).await;
    if !matches!(deleted.status, 200 | 202) {
        failures.push(fail("delete", &deleted));
    }
    // A namespace and a claim stay until their finalizers are gone.
    let mut object = subject.object.clone();
    if caller.get(&path).await.status == 200 {
        object["metadata"]["name"] = json!("second");
    }
    let made = send(caller, shapes, "POST", &subject.collection, Some(&object)).await;
    if made.status != 201 {
        return failures.push(fail("create", &made));
    }
    let path = format!("{}/{}", subject.collection, object["metadata"]["name"].as_str().unwrap_or_default());
    let revision = tree(&made)["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let list = send(caller, shapes, "GET", &format!("{}?labelSelector=test%3Dminimal", subject.collection), None).await;
    if list.status != 200 || tree(&list)["items"].as_array().is_none_or(Vec::is_empty) {
        failures.push(fail("list", &list));
    }
    let mut changed = tree(&made);
    changed["metadata"]["annotations"]["go"] = json!("yes");
    let updated = send(caller, shapes, "PUT", &path, Some(&changed)).await;
    if updated.status != 200 && !(subject.changes_by_itself() && updated.status == 409) {
        failures.push(fail("update", &updated));
    }
    let patched = caller
        .send(
            "PATCH",
            &path,
            &[("content-type", "application/strategic-merge-patch+json"), ("accept", ACCEPT)],
            json!({"metadata": {"labels": {"go": "yes"}}}).to_string(),
        )
        .await;
    if patched.status != 200 || tree(&patched)["metadata"]["labels"]["go"] != "yes" {
        failures.push(fail("patch", &patched));
    }
    let watch = caller
        .first_of(
            "GET",
            &format!("{}?watch=true&resourceVersion={revision}&labelSelector=test%3Dminimal", subject.collection),
            &[("accept", ACCEPT)],
        )
        .await;
    if watch.header("content-type") != "application/vnd.kubernetes.protobuf;stream=watch" {
        failures.push(format!("{}: a watch of type {:?}", subject.kind, watch.header("content-type")));
    }
    match events(&watch.body) {
        Ok(events)
            if events
                .iter()
                .any(|event| event["type"] == "MODIFIED" && event["object"]["metadata"]["name"] == object["metadata"]["name"]) => {}
        other => failures.push(format!("{}: the watch shows {other:?}", subject.kind)),
    }
    if subject.has("deletecollection") {
        let options = json!({"apiVersion": subject.api_version, "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        let deleted = send(caller, shapes, "DELETE", &format!("{}?labelSelector=test%3Dminimal", subject.collection), Some(&options)).await;
        if deleted.status != 200 {
            failures.push(fail("deletecollection", &deleted));
        }
    }
    let missing = send(caller, shapes, "GET", &format!("{}/missing", subject.collection), None).await;
    if missing.status != 404
        || missing.header("content-type") != PROTOBUF
        || tree(&missing)["reason"] != "NotFound"
        || tree(&missing)["details"]["name"] != "missing"
    {
        failures.push(fail("get of nothing", &missing));
    }
}

/// Frames of a watch, each a length and a `WatchEvent` around a document.
fn events(mut rest: &[u8]) -> Result<Vec<Value>, String> {
    let schema = api::schema(&meta::GroupVersionKind::new("", "v1", "WatchEvent")).ok_or("no WatchEvent")?;
    let mut events = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (event, behind) = after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or("a frame that is cut off")?;
        events.push(api::protobuf::decode_object(&schema, event).map_err(|error| error.to_string())?);
        rest = behind;
    }
    Ok(events)
}

#[tokio::test]
async fn a_client_in_go_drives_every_kind_in_protobuf() {
    let harness = crate::with_betas().await;
    let caller = harness.administrator();
    caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let shapes = GoShapes::new();
    let mut failures = Vec::new();
    for subject in subjects(&harness) {
        drive(&caller, &shapes, &subject, &mut failures).await;
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Found by the generator: a dry run was shown to everybody who asked for the same version in another encoding than plain JSON.
#[tokio::test]
async fn what_a_dry_run_answers_is_seen_by_nobody_else() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    let shapes = GoShapes::new();
    let maps = "/api/v1/namespaces/default/configmaps";
    let object = |text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": text}});
    for text in ["first", "second"] {
        let tried = send(&caller, &shapes, "POST", &format!("{maps}?dryRun=All"), Some(&object(text))).await;
        assert_eq!(tree(&tried)["data"]["a"], text);
    }
    send(&caller, &shapes, "POST", maps, Some(&object("stored"))).await;
    let tried = send(&caller, &shapes, "PUT", &format!("{maps}/a?dryRun=All"), Some(&object("tried"))).await;
    assert_eq!(tree(&tried)["data"]["a"], "tried");
    let read = send(&caller, &shapes, "GET", &format!("{maps}/a"), None).await;
    assert_eq!(tree(&read)["data"]["a"], "stored");
}

/// Clients of client-go ask for protobuf first wherever they go, and take what comes.
#[tokio::test]
async fn what_has_no_protobuf_comes_in_json_to_clients_in_go() {
    let harness = ApiHarness::start().await;
    let caller = harness.administrator();
    for path in ["/api", "/apis", "/api/v1", "/apis/apps/v1", "/apis/apps"] {
        let answer = caller.send("GET", path, &[("accept", ACCEPT)], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, PROTOBUF), "{path}");
        assert!(tree(&answer)["kind"].as_str().is_some_and(|kind| kind.starts_with("API")), "{path}: {}", tree(&answer));
    }
    for path in ["/version", "/openapi/v3", "/apis/apps/v1/deployments?limit=1"] {
        let answer = caller.send("GET", path, &[("accept", "application/vnd.kubernetes.protobuf;q=0.5, application/json")], "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.json().is_object(), "{path}");
    }
    for path in ["/healthz", "/livez", "/readyz", "/metrics", "/version"] {
        assert_eq!(caller.send("GET", path, &[("accept", ACCEPT)], "").await.status, 200, "{path}");
    }
    let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
    assert_eq!(caller.send("GET", "/api/v1/pods", &[("accept", table)], "").await.status, 406);
    let either = format!("{table},application/json;as=Table;v=v1;g=meta.k8s.io");
    let answer = caller.send("GET", "/api/v1/pods", &[("accept", &either)], "").await;
    assert_eq!((answer.status, answer.json()["kind"].as_str()), (200, Some("Table")));
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
    let answer = caller.send("GET", "/api/v1/namespaces", &[("accept", metadata)], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, PROTOBUF));
    assert_eq!(tree(&answer)["kind"], "PartialObjectMetadataList");
}
