//! APIServices of what this server itself serves: there at once, kept as upstream keeps them, and what discovery is ordered by.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use store::memory::MemoryStore;
use testkit::{ApiHarness, api_harness::Caller};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const KEPT: &str = "kube-aggregator.kubernetes.io/automanaged";

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

async fn names(caller: &Caller) -> Vec<String> {
    let list = caller.get(SERVICES).await.expect(200);
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Waits until an APIService is there and as it should be, or (for null) is not there.
async fn wait_for(caller: &Caller, name: &str, what: impl Fn(&Value) -> bool) {
    let mut watch = caller.watch(&format!("{SERVICES}?watch=true&fieldSelector=metadata.name={name}")).await;
    let work = async {
        loop {
            let answer = caller.get(&format!("{SERVICES}/{name}")).await;
            let found = if answer.status == 404 { Value::Null } else { answer.expect(200) };
            if what(&found) {
                return;
            }
            watch.next().await.expect("the watch goes on");
        }
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{name} does not become what it should be"));
}

fn definition(versions: &[(&str, bool)]) -> Value {
    let storage = versions[0].0;
    let version = |(name, served): &(&str, bool)| {
        json!({ "name": name, "served": served, "storage": *name == storage, "schema": { "openAPIV3Schema": { "type": "object" } } })
    };
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "widgets.example.com" },
        "spec": { "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" }, "versions": versions.iter().map(version).collect::<Vec<_>>() } })
}

/// Groups and versions in the order that discovery tells them.
async fn order(caller: &Caller) -> Vec<String> {
    let groups = caller.get("/apis").await.expect(200);
    let mut all = Vec::new();
    for group in groups["groups"].as_array().unwrap() {
        all.extend(group["versions"].as_array().unwrap().iter().map(|version| version["groupVersion"].as_str().unwrap().to_owned()));
    }
    all
}

#[tokio::test]
async fn every_served_version_has_one_that_is_available_from_the_first_answer_on() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let mut expected: Vec<String> = order(&caller)
        .await
        .iter()
        .map(|version| version.split_once('/').map(|(group, version)| format!("{version}.{group}")).unwrap())
        // Neither the aggregator itself nor a metrics-server is among them upstream.
        .filter(|name| !name.ends_with(".apiregistration.k8s.io") && !name.ends_with(".metrics.k8s.io"))
        .chain(["v1.".to_owned()])
        .collect();
    expected.sort();
    assert_eq!(names(&caller).await, expected);
    for item in caller.get(SERVICES).await.expect(200)["items"].as_array().unwrap() {
        assert_eq!(item["metadata"]["labels"][KEPT], "onstart");
        let condition = &item["status"]["conditions"][0];
        let told = (&condition["type"], &condition["status"], &condition["reason"], &condition["message"]);
        assert_eq!(told, (&json!("Available"), &json!("True"), &json!("Local"), &json!("Local APIServices are always available")));
        assert!(item["spec"].get("service").is_none(), "{item}");
    }
    let apps = caller.get(&format!("{SERVICES}/v1.apps")).await.expect(200);
    assert_eq!(apps["spec"], json!({ "group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15 }));
    let core = caller.get(&format!("{SERVICES}/v1.")).await.expect(200);
    assert_eq!(core["spec"], json!({ "version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1 }));
    let accept = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table = caller.send("GET", SERVICES, &[accept], "").await.expect(200);
    let row = &table["rows"][0]["cells"];
    assert_eq!((&row[0], &row[1], &row[2]), (&json!("v1."), &json!("Local"), &json!("True")));
}

#[tokio::test]
async fn discovery_is_ordered_by_the_priorities_of_group_and_version() {
    let all = kinds::RuntimeConfig::parse("api/all=true").unwrap();
    let api = ApiHarness::start_with(|parts| parts.runtime_config = all).await;
    let caller = api.administrator();
    let found = order(&caller).await;
    assert_eq!(found[..5], ["apiregistration.k8s.io/v1", "apps/v1", "events.k8s.io/v1", "authentication.k8s.io/v1", "authorization.k8s.io/v1"]);
    let of = |group: &str| -> Vec<&str> { found.iter().filter_map(|version| version.strip_prefix(&format!("{group}/"))).collect() };
    assert_eq!(of("autoscaling"), ["v2", "v1"]);
    assert_eq!(of("resource.k8s.io"), ["v1", "v1beta2", "v1beta1", "v1alpha3"]);
    assert_eq!(found.last().unwrap(), "metrics.k8s.io/v1beta1");
    // Aggregated discovery has the same order.
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let aggregated = caller.send("GET", "/apis", &[accept], "").await.expect(200);
    let mut again = Vec::new();
    for group in aggregated["items"].as_array().unwrap() {
        let versions = group["versions"].as_array().unwrap().iter();
        again.extend(versions.map(|version| format!("{}/{}", group["metadata"]["name"].as_str().unwrap(), version["version"].as_str().unwrap())));
    }
    assert_eq!(again, found);

    caller.post(DEFINITIONS, &definition(&[("v1", true), ("v2beta1", true)])).await.expect(201);
    wait_for(&caller, "v1.example.com", |found| !found.is_null()).await;
    let found = order(&caller).await;
    assert_eq!(found[found.len() - 3..], ["example.com/v1", "example.com/v2beta1", "metrics.k8s.io/v1beta1"]);
    // Somebody who keeps it himself may say otherwise.
    let own = json!({ "metadata": { "labels": { KEPT: null } }, "spec": { "groupPriorityMinimum": 17900, "versionPriority": 200 } });
    caller.patch(&format!("{SERVICES}/v2beta1.example.com"), "merge-patch", &own).await.expect(200);
    let moved = async {
        while order(&caller).await[1..3] != ["example.com/v2beta1", "example.com/v1"] {
            // Nothing tells when discovery has followed.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.expect("discovery follows the APIService");
}

#[tokio::test]
async fn those_of_custom_resources_follow_their_definition() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    caller.post(DEFINITIONS, &definition(&[("v1", true), ("v2", true), ("v3", false)])).await.expect(201);
    for name in ["v1.example.com", "v2.example.com"] {
        wait_for(&caller, name, |found| {
            found["metadata"]["labels"][KEPT] == "true" && found["spec"]["groupPriorityMinimum"] == 1000 && found["spec"]["versionPriority"] == 100
        })
        .await;
    }
    assert!(!names(&caller).await.contains(&"v3.example.com".to_owned()), "a version that is not served has none");
    // Deleted, it comes again; changed, it is put right.
    let uid = caller.get(&format!("{SERVICES}/v1.example.com")).await.expect(200)["metadata"]["uid"].clone();
    caller.delete(&format!("{SERVICES}/v1.example.com")).await.expect(200);
    wait_for(&caller, "v1.example.com", |found| !found.is_null() && found["metadata"]["uid"] != uid).await;
    caller.patch(&format!("{SERVICES}/v1.example.com"), "merge-patch", &json!({ "spec": { "versionPriority": 7 } })).await.expect(200);
    wait_for(&caller, "v1.example.com", |found| found["spec"]["versionPriority"] == 100).await;
    // One that somebody else keeps is left alone.
    let own = json!({ "metadata": { "labels": { KEPT: null } }, "spec": { "versionPriority": 9 } });
    caller.patch(&format!("{SERVICES}/v2.example.com"), "merge-patch", &own).await.expect(200);
    let mut other = caller.get(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    other["spec"]["versions"][1]["served"] = json!(false);
    other["spec"]["versions"][2]["served"] = json!(true);
    caller.put(&format!("{DEFINITIONS}/widgets.example.com"), &other).await.expect(200);
    wait_for(&caller, "v3.example.com", |found| !found.is_null()).await;
    assert_eq!(caller.get(&format!("{SERVICES}/v2.example.com")).await.expect(200)["spec"]["versionPriority"], 9);
    caller.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    for name in ["v1.example.com", "v3.example.com"] {
        wait_for(&caller, name, Value::is_null).await;
    }
    assert!(names(&caller).await.contains(&"v2.example.com".to_owned()));
}

#[tokio::test]
async fn those_of_built_in_versions_are_put_in_order_at_the_next_start() {
    let store = Arc::new(MemoryStore::new());
    let start = async |config: &str| {
        let (store, config) = (store.clone(), kinds::RuntimeConfig::parse(config).unwrap());
        ApiHarness::start_with(|parts| (parts.store, parts.runtime_config) = (store, config)).await
    };
    let first = start("certificates.k8s.io/v1beta1=true").await;
    let caller = first.administrator();
    assert!(names(&caller).await.contains(&"v1beta1.certificates.k8s.io".to_owned()));
    caller.delete(&format!("{SERVICES}/v1.batch")).await.expect(200);
    caller.patch(&format!("{SERVICES}/v1.apps"), "merge-patch", &json!({ "spec": { "versionPriority": 7 } })).await.expect(200);
    let own = json!({ "metadata": { "labels": { KEPT: null } }, "spec": { "versionPriority": 8 } });
    caller.patch(&format!("{SERVICES}/v1.policy"), "merge-patch", &own).await.expect(200);
    // What was deleted is served as before, and its APIService stays away.
    caller.post(DEFINITIONS, &definition(&[("v1", true)])).await.expect(201);
    wait_for(&caller, "v1.example.com", |found| !found.is_null()).await;
    caller.get("/apis/batch/v1/jobs").await.expect(200);
    assert!(!names(&caller).await.contains(&"v1.batch".to_owned()));
    assert_eq!(caller.get(&format!("{SERVICES}/v1.apps")).await.expect(200)["spec"]["versionPriority"], 7);
    drop((first, caller));

    let second = start("").await;
    let caller = second.administrator();
    let found = names(&caller).await;
    for (name, there) in [("v1.batch", true), ("v1.example.com", true), ("v1beta1.certificates.k8s.io", false)] {
        assert_eq!(found.contains(&name.to_owned()), there, "{name}");
    }
    assert_eq!(caller.get(&format!("{SERVICES}/v1.apps")).await.expect(200)["spec"]["versionPriority"], 15);
    assert_eq!(caller.get(&format!("{SERVICES}/v1.policy")).await.expect(200)["spec"]["versionPriority"], 8);
}
