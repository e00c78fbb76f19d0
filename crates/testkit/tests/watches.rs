//! Watches and the forms objects are shown in.

use std::sync::Arc;

use client::{Identity, Informers, PostParams};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use testkit::ApiHarness;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": { "name": name } }, "data": { "key": "one" } })
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_goes_on_from_the_version_of_a_list() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post(MAPS, &map("before")).await.expect(201);
    let list = administrator.get(MAPS).await.expect(200);
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    administrator.post(MAPS, &map("between")).await.expect(201);
    let mut watch = administrator.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!(watch.next_named().await, event("ADDED", "between"));
    administrator.patch(&format!("{MAPS}/before"), "merge-patch", &json!({ "data": { "key": "two" } })).await.expect(200);
    assert_eq!(watch.next_named().await, event("MODIFIED", "before"));
    administrator.delete(&format!("{MAPS}/between")).await.expect(200);
    assert_eq!(watch.next_named().await, event("DELETED", "between"));
}

/// However much of the history concerns others: nothing new has to happen before the rest of it is told.
#[tokio::test]
async fn a_watch_tells_what_lies_behind_a_long_history_of_others() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post(MAPS, &map("noisy")).await.expect(201);
    let version = administrator.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for change in 0..400 {
        administrator.patch(&format!("{MAPS}/noisy"), "merge-patch", &json!({ "data": { "key": change.to_string() } })).await.expect(200);
    }
    administrator.post(MAPS, &map("quiet")).await.expect(201);
    let quiet = format!("{MAPS}?watch=true&resourceVersion={version}&fieldSelector=metadata.name%3Dquiet");
    for options in ["", "&allowWatchBookmarks=true", "&labelSelector=name%3Dquiet"] {
        let mut watch = administrator.watch(&format!("{quiet}{options}&timeoutSeconds=20")).await;
        assert_eq!(watch.next_named().await, event("ADDED", "quiet"), "{options}");
    }
}

#[tokio::test]
async fn an_object_enters_and_leaves_a_selection_as_its_labels_change() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post(MAPS, &map("a")).await.expect(201);
    let version = administrator.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = administrator.watch(&format!("{MAPS}?watch=true&labelSelector=chosen&resourceVersion={version}")).await;
    let label = async |value: Value| {
        administrator.patch(&format!("{MAPS}/a"), "merge-patch", &json!({ "metadata": { "labels": { "chosen": value } } })).await.expect(200);
    };
    label("yes".into()).await;
    assert_eq!(watch.next_named().await, event("ADDED", "a"));
    label("still".into()).await;
    assert_eq!(watch.next_named().await, event("MODIFIED", "a"));
    label(Value::Null).await;
    assert_eq!(watch.next_named().await, event("DELETED", "a"));
}

#[tokio::test]
async fn a_watch_of_nothing_in_particular_begins_with_what_is_there() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post(MAPS, &map("a")).await.expect(201);
    let mut watch = administrator.watch(&format!("{MAPS}?watch=true&labelSelector=name%3Da")).await;
    assert_eq!(watch.next_named().await, event("ADDED", "a"));
}

#[tokio::test]
async fn a_streamed_list_ends_with_its_bookmark() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post(MAPS, &map("a")).await.expect(201);
    let query = "watch=true&labelSelector=name%3Da&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watch = administrator.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.next_named().await, event("ADDED", "a"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over() {
    let api = ApiHarness::start().await;
    let mut watch = api.administrator().watch(&format!("{MAPS}?watch=true&labelSelector=none&timeoutSeconds=1")).await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_table_has_the_columns_of_its_kind() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    administrator.post(MAPS, &map("a")).await.expect(201);
    let accept = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let table = administrator.send("GET", &format!("{MAPS}?labelSelector=name%3Da"), &[accept], "").await.expect(200);
    assert_eq!(table["kind"], "Table");
    let columns: Vec<&Value> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["cells"][1], 1);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn protobuf_out_and_in_again_is_the_same_object() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let kind = "application/vnd.kubernetes.protobuf";
    administrator.post(MAPS, &map("a")).await.expect(201);
    let path = format!("{MAPS}/a");
    let bytes = administrator.send("GET", &path, &[("accept", kind)], "").await;
    assert_eq!(bytes.status, 200);
    assert!(bytes.body.starts_with(b"k8s\0"), "{:?}", bytes.body);
    assert_eq!(bytes.header("content-type"), kind);
    let json = administrator.get(&path).await.expect(200);
    let again = administrator.send("PUT", &path, &[("content-type", kind), ("accept", "application/json")], bytes.body).await.expect(200);
    assert_eq!(again, json);
}

#[tokio::test]
async fn custom_resources_have_no_protobuf() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let definition = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "widgets.example.com" },
        "spec": { "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }] } });
    administrator.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.expect(201);
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let mut watch = administrator.watch("/apis/apiextensions.k8s.io/v1/customresourcedefinitions?watch=true").await;
    while administrator.get(widgets).await.status == 404 {
        watch.next().await.unwrap();
    }
    let widget = json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "w" } });
    administrator.post(widgets, &widget).await.expect(201);
    let (kind, one) = ("application/vnd.kubernetes.protobuf", format!("{widgets}/w"));
    let only = "only the following media types are accepted: application/json, application/yaml";
    for (method, path) in [("GET", widgets.to_owned()), ("GET", one.clone()), ("GET", format!("{widgets}?watch=true")), ("DELETE", one.clone())] {
        administrator.send(method, &path, &[("accept", kind)], "").await.refused(406, "NotAcceptable", only);
    }
    // As Go's clients ask: in protobuf first, and in JSON where there is none.
    let both = format!("{kind},application/json");
    assert_eq!(administrator.send("GET", &one, &[("accept", &both)], "").await.expect(200)["kind"], "Widget");
    let unknown = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml";
    let content = [("content-type", kind), ("accept", "application/json")];
    administrator.send("POST", widgets, &content, "k8s\0anything").await.refused(415, "UnsupportedMediaType", unknown);
    administrator.send("PUT", &one, &content, "k8s\0anything").await.refused(415, "UnsupportedMediaType", unknown);
    administrator.get(&one).await.expect(200);
}

#[tokio::test]
async fn yaml_goes_in_and_comes_out() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let kind = ("content-type", "application/yaml");
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  key: \"yes\"\n";
    let created = administrator.send("POST", MAPS, &[kind, ("accept", "application/yaml")], body).await;
    assert_eq!(created.status, 201, "{}", created.text());
    assert!(created.text().contains("kind: ConfigMap"), "{}", created.text());
}

#[tokio::test]
async fn a_client_in_process_sees_the_same_server() {
    let api = ApiHarness::start().await;
    let client = api.client(Identity::user("test-administrator", &["system:masters"]));
    let maps = client::Api::<ConfigMap>::namespaced(client, "default");
    let map: ConfigMap = serde_json::from_value(map("a")).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    assert_eq!(maps.get("a").await.unwrap().data, map.data);
}

#[tokio::test]
async fn discovery_lists_every_kind_in_both_forms() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let resources = administrator.get("/api/v1").await.expect(200);
    let names: Vec<&Value> = resources["resources"].as_array().unwrap().iter().map(|resource| &resource["name"]).collect();
    for name in ["pods", "pods/log", "services", "configmaps", "nodes"] {
        assert!(names.contains(&&json!(name)), "{name} in {names:?}");
    }
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    assert_eq!(administrator.send("GET", "/apis", &[accept], "").await.expect(200)["kind"], "APIGroupDiscoveryList");
}

/// Parts of the server's process follow the same objects, each with a watch of its own and as somebody else.
#[tokio::test]
async fn informers_of_one_process_keep_the_same_object_and_nobody_is_handed_what_he_may_not_watch() {
    let api = ApiHarness::start().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let following = |user: &str, groups: &[&str]| Informers::new(api.client(Identity::user(user, groups)), stop.clone()).of::<ConfigMap>();
    let informers = [following("one", &["system:masters"]), following("other", &["system:masters"])];
    let stranger = following("stranger", &[]);
    for informer in &informers {
        informer.has_synced().await;
    }
    let administrator = api.administrator();
    let one = format!("{MAPS}/shared");
    administrator.post(MAPS, &map("shared")).await.expect(201);
    for value in ["two", "three"] {
        let written = administrator.patch(&one, "merge-patch", &json!({ "data": { "key": value } })).await.expect(200);
        let revision = written["metadata"]["resourceVersion"].as_str().and_then(|revision| revision.parse().ok()).unwrap();
        for informer in &informers {
            informer.caught_up_with(revision).await;
        }
        let [first, second] = [&informers[0], &informers[1]].map(|informer| informer.get_in("default", "shared").unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((&first.data.as_ref().unwrap()["key"], &first.metadata.managed_fields), (&value.to_owned(), &None));
    }
    administrator.delete(&one).await.expect(200);
    let last = administrator.post(MAPS, &map("last")).await.expect(201);
    let revision = last["metadata"]["resourceVersion"].as_str().and_then(|revision| revision.parse().ok()).unwrap();
    for informer in &informers {
        informer.caught_up_with(revision).await;
        assert!(informer.get_in("default", "shared").is_none());
    }
    assert!(!stranger.is_synced() && stranger.is_empty());
    stop.cancel();
}
