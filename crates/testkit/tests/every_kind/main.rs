//! Every verb of every kind that is served, driven through a smallest valid object: a kind cannot be forgotten, since the test
//! walks the Scheme, and fails where it finds one without such an object.

mod go_client;
mod invalid_objects;

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Value, json};
use testkit::{ApiHarness, api_harness::{Answer, Caller}};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What the test knows of one kind.
struct Subject {
    api_version: String,
    kind: String,
    collection: String,
    verbs: Vec<String>,
    has_status: bool,
    subresources: Vec<String>,
    object: Value,
}

impl Subject {
    fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
    fn path(&self) -> String {
        format!("{}/{}", self.collection, self.name())
    }
    /// Whether the server itself writes its status at any time.
    fn changes_by_itself(&self) -> bool {
        matches!(&*self.kind, "APIService" | "CustomResourceDefinition")
    }
    fn has(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

/// A request for a certificate, which no text file can hold as a smallest object.
fn certificate_request() -> String {
    let key = pki::PrivateKey::generate().unwrap();
    let request = pki::CertificateRequest::create(&pki::Subject::new("a", ["b"]), &pki::AlternativeNames::default(), &[], &key).unwrap();
    base64::engine::general_purpose::STANDARD.encode(request)
}

/// The same in the form that nodes send it in.
fn stub_request() -> String {
    let pem = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(certificate_request()).unwrap()).unwrap();
    pem.lines().filter(|line| !line.starts_with("-----")).collect()
}

/// The certificate of an authority.
fn trust_bundle() -> String {
    let directory = tempfile::tempdir().unwrap();
    pki::ClusterAuthority::open_or_create(directory.path(), jiff::Timestamp::now()).unwrap().certificate_pem().to_owned()
}

/// A server with every version on.
async fn with_betas() -> ApiHarness {
    let all = kinds::RuntimeConfig::parse("api/all=true").unwrap();
    ApiHarness::start_with(|parts| parts.runtime_config = all).await
}

fn subjects(harness: &ApiHarness) -> Vec<Subject> {
    let text = include_str!("minimal.yaml")
        .replace("request: REQUEST", &format!("request: {}", certificate_request()))
        .replace("stubPKCS10Request: STUB", &format!("stubPKCS10Request: {}", stub_request()))
        .replace("trustBundle: BUNDLE", &format!("trustBundle: {}", json!(trust_bundle())));
    let objects: BTreeMap<String, Value> = serde_json::from_value(meta::read::parse_untyped_yaml(text.as_bytes()).unwrap()).unwrap();
    let scheme = harness.server().core().scheme.load();
    let mut subjects = Vec::new();
    for info in scheme.kinds().map(|kind| kind.info()).filter(|info| info.has_verb("create") && info.has_verb("get")) {
        let name = format!("{}.{}", info.kind.kind, info.kind.group);
        let mut object = objects.get(&name).unwrap_or_else(|| panic!("minimal.yaml has no {name}")).clone();
        let api_version = info.kind.group_version().to_string();
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(&*info.kind.kind);
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = json!("minimal");
        }
        object["metadata"]["labels"] = json!({"test": "minimal"});
        let root = if info.kind.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{api_version}") };
        let inside = if info.namespaced { "/namespaces/default" } else { "" };
        subjects.push(Subject {
            api_version,
            kind: info.kind.kind.to_string(),
            collection: format!("{root}{inside}/{}", info.plural),
            verbs: info.verbs.clone(),
            has_status: info.subresource("status").is_some(),
            subresources: info.subresources.iter().map(|subresource| subresource.name.to_string()).collect(),
            object,
        });
    }
    subjects
}

/// An object without what the server may change at any time by itself, as it does in APIServices and definitions.
fn without_status(object: &Value) -> Value {
    let mut object = object.clone();
    object["status"].take();
    for name in ["resourceVersion", "managedFields"] {
        object["metadata"][name].take();
    }
    object
}

#[track_caller]
fn expect(subject: &Subject, deed: &str, answer: &Answer, codes: &[u16], failures: &mut Vec<String>) -> Option<Value> {
    if codes.contains(&answer.status) {
        return Some(answer.json());
    }
    failures.push(format!("{} {}: {deed}: {} {}", subject.api_version, subject.kind, answer.status, answer.text()));
    None
}

/// Through create, get, list, watch, the patches, update, status and the deletions; what goes wrong is added to `failures`.
async fn drive(caller: &Caller, subject: &Subject, failures: &mut Vec<String>) {
    let path = subject.path();
    let created = caller.post(&subject.collection, &subject.object).await;
    let Some(created) = expect(subject, "create", &created, &[201], failures) else { return };
    let got = caller.get(&path).await;
    let got = expect(subject, "get", &got, &[200], failures).unwrap_or_default();
    if without_status(&got) != without_status(&created) || got["kind"] != *subject.kind || got["apiVersion"] != *subject.api_version || got["metadata"]["uid"].is_null() {
        failures.push(format!("{}: get shows something else than create: {got}\n{created}", subject.kind));
    }
    let list = caller.get(&format!("{}?labelSelector=test=minimal", subject.collection)).await;
    if let Some(list) = expect(subject, "list", &list, &[200], failures)
        && list["items"].as_array().map(Vec::len) != Some(1)
    {
        failures.push(format!("{}: the list has not exactly the one object: {list}", subject.kind));
    }
    let table = caller.send("GET", &subject.collection, &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")], "").await;
    if let Some(table) = expect(subject, "table", &table, &[200], failures)
        && (table["kind"] != "Table" || table["columnDefinitions"][0]["name"].is_null())
    {
        failures.push(format!("{}: no table: {table}", subject.kind));
    }
    let revision = created["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut watch = caller.watch(&format!("{}?watch=true&resourceVersion={revision}&labelSelector=test=minimal", subject.collection)).await;
    for (kind, name) in [("merge-patch", "merged"), ("strategic-merge-patch", "strategic"), ("apply-patch", "applied")] {
        let mut patch = json!({"metadata": {"annotations": {name: "yes"}}});
        let mut target = path.clone();
        if kind == "apply-patch" {
            target.push_str("?fieldManager=test&force=true");
            patch["apiVersion"] = json!(subject.api_version);
            patch["kind"] = json!(subject.kind);
        }
        let answer = caller.patch(&target, kind, &patch).await;
        let Some(patched) = expect(subject, kind, &answer, &[200], failures) else { continue };
        if patched["metadata"]["annotations"][name] != "yes" {
            failures.push(format!("{}: {kind} changed nothing: {patched}", subject.kind));
        }
        let seen = watch.next_named().await;
        if seen != ("MODIFIED".to_owned(), subject.name().to_owned()) {
            failures.push(format!("{}: {kind}: the watch shows {seen:?}", subject.kind));
        }
    }
    let mut whole = caller.get(&path).await.json();
    whole["metadata"]["annotations"]["updated"] = json!("yes");
    let updated = caller.put(&path, &whole).await;
    if let Some(updated) = expect(subject, "update", &updated, &[200], failures) {
        if updated["metadata"]["annotations"]["updated"] != "yes" {
            failures.push(format!("{}: the update changed nothing", subject.kind));
        }
        watch.next_named().await;
    }
    protobuf(caller, subject, failures).await;
    if subject.has_status {
        status(caller, subject, failures).await;
    }
    if subject.has("deletecollection") {
        let deleted = caller.delete(&format!("{}?labelSelector=test=minimal", subject.collection)).await;
        expect(subject, "deletecollection", &deleted, &[200], failures);
    } else {
        let deleted = caller.delete(&path).await;
        expect(subject, "delete", &deleted, &[200, 202], failures);
    }
    // Finalizers of the server's own keep some, since no controllers run here.
    let gone = caller.get(&path).await;
    if let Some(object) = expect(subject, "get after the deletion", &gone, &[404, 200], failures)
        && gone.status == 200
        && (object["metadata"]["deletionTimestamp"].is_null() || object["metadata"]["finalizers"].is_null() && object["spec"]["finalizers"].is_null())
    {
        failures.push(format!("{}: it is still there, and nothing says why: {object}", subject.kind));
    }
}

/// As Go clients do: reads the object in protobuf and writes it back as it came, which changes nothing.
async fn protobuf(caller: &Caller, subject: &Subject, failures: &mut Vec<String>) {
    let path = subject.path();
    let before = caller.get(&path).await.json();
    let read = caller.send("GET", &path, &[("accept", PROTOBUF)], "").await;
    if read.status != 200 || read.header("content-type") != PROTOBUF {
        // CustomResourceDefinitions and APIServices speak it as well.
        failures.push(format!("{}: no protobuf: {} {}", subject.kind, read.status, read.header("content-type")));
        return;
    }
    let written = caller.send("PUT", &path, &[("content-type", PROTOBUF), ("accept", "application/json")], read.body.clone()).await;
    if let Some(written) = expect(subject, "update in protobuf", &written, &[200], failures)
        && written != before
    {
        failures.push(format!("{}: protobuf there and back is something else:\n{before}\n{written}", subject.kind));
    }
}

async fn status(caller: &Caller, subject: &Subject, failures: &mut Vec<String>) {
    let path = format!("{}/status", subject.path());
    let got = caller.get(&path).await;
    let Some(mut whole) = expect(subject, "get status", &got, &[200], failures) else { return };
    let patch = json!({"metadata": {"annotations": {"of-status": "patched"}}});
    for kind in ["merge-patch", "strategic-merge-patch"] {
        let patched = caller.patch(&path, kind, &patch).await;
        if let Some(patched) = expect(subject, "patch status", &patched, &[200], failures) {
            whole = patched;
        }
    }
    let updated = caller.put(&path, &whole).await;
    expect(subject, "update status", &updated, &[200], failures);
}

#[tokio::test]
async fn every_verb_of_every_kind_works() {
    let harness = with_betas().await;
    let caller = harness.administrator();
    // Pods need it, and its controller does not run here.
    caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let mut failures = Vec::new();
    for subject in subjects(&harness) {
        drive(&caller, &subject, &mut failures).await;
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
