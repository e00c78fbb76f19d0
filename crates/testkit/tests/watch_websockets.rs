//! Watches over WebSocket, as browsers and old clients open them: a message for each event, of built-in and of custom kinds.

use std::time::Duration;

use client::Identity;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::ApiHarness;
use tokio::io::DuplexStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

fn administrator() -> Identity {
    Identity::user("test-administrator", &["system:masters"])
}

/// Opens a watch, and says which sub-protocol was agreed on.
async fn open(api: &ApiHarness, identity: Identity, path: &str, headers: &[(&'static str, &str)]) -> Result<(WebSocketStream<DuplexStream>, Option<String>), Error> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    // As a browser says it.
    request.headers_mut().insert("origin", "https://page.example".parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let (socket, answer) = client_async(request, api.connect(identity)).await?;
    let protocol = answer.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap().to_owned());
    Ok((socket, protocol))
}

async fn watch(api: &ApiHarness, path: &str) -> WebSocketStream<DuplexStream> {
    open(api, administrator(), path, &[]).await.unwrap().0
}

async fn message(socket: &mut WebSocketStream<DuplexStream>) -> Message {
    tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message in time").expect("the watch goes on").unwrap()
}

/// The next event, which must be one message of text.
async fn event(socket: &mut WebSocketStream<DuplexStream>) -> Value {
    let Message::Text(text) = message(socket).await else { panic!("an event in JSON is text") };
    serde_json::from_str(&text).unwrap()
}

async fn next_named(socket: &mut WebSocketStream<DuplexStream>) -> (String, String) {
    let event = event(socket).await;
    (event["type"].as_str().unwrap().to_owned(), event["object"]["metadata"]["name"].as_str().unwrap().to_owned())
}

fn named(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

/// What is answered to one who asks for a WebSocket and gets none. Sent as plain HTTP: a client of WebSockets reads of such an answer only
/// what came together with its head.
async fn refused(api: &ApiHarness, identity: Identity, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let handshake =
        [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
    let origin: &[_] = if headers.iter().any(|(name, _)| *name == "origin") { &[] } else { &[("origin", "https://page.example")] };
    let answer = api.caller(identity).send("GET", path, &[&handshake[..], origin, headers].concat(), "").await;
    assert_ne!(answer.status, 101, "{path} must be refused");
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

#[tokio::test]
async fn every_event_is_a_message_of_text() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    for name in ["a", "b"] {
        caller.post(MAPS, &map(name)).await.expect(201);
    }
    let mut socket = watch(&api, &format!("{MAPS}?watch=true&labelSelector=!kube-root-ca")).await;
    // What is there already comes at once, and even so each in a message of its own.
    assert_eq!(next_named(&mut socket).await, named("ADDED", "a"));
    assert_eq!(next_named(&mut socket).await, named("ADDED", "b"));
    caller.patch(&format!("{MAPS}/a"), "merge-patch", &json!({ "data": { "key": "two" } })).await.expect(200);
    assert_eq!(next_named(&mut socket).await, named("MODIFIED", "a"));
    caller.delete(&format!("{MAPS}/b")).await.expect(200);
    assert_eq!(next_named(&mut socket).await, named("DELETED", "b"));
}

#[tokio::test]
async fn one_object_and_the_old_path_of_watches_are_watched_too() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    for name in ["a", "b"] {
        caller.post(MAPS, &map(name)).await.expect(201);
    }
    for path in [format!("{MAPS}/b?watch=1"), "/api/v1/watch/namespaces/default/configmaps/b".to_owned()] {
        assert_eq!(next_named(&mut watch(&api, &path).await).await, named("ADDED", "b"), "{path}");
    }
}

#[tokio::test]
async fn custom_resources_are_watched_too() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let definition = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "widgets.example.com" },
        "spec": { "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }] } });
    caller.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.expect(201);
    let mut socket = watch(&api, &format!("{WIDGETS}?watch=true")).await;
    caller.post(WIDGETS, &json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "w" } })).await.expect(201);
    assert_eq!(next_named(&mut socket).await, named("ADDED", "w"));
}

#[tokio::test]
async fn a_sub_protocol_is_agreed_to_and_changes_nothing() {
    let api = ApiHarness::start().await;
    api.administrator().post(MAPS, &map("a")).await.expect(201);
    for name in ["binary.k8s.io", "base64.binary.k8s.io", "anything"] {
        let (mut socket, agreed) = open(&api, administrator(), &format!("{MAPS}?watch=true"), &[("sec-websocket-protocol", name)]).await.unwrap();
        assert_eq!(agreed.as_deref(), Some(name));
        assert_eq!(next_named(&mut socket).await, named("ADDED", "a"), "{name}");
    }
    let (status, _) = refused(&api, administrator(), &format!("{MAPS}?watch=true"), &[("sec-websocket-protocol", "binary.k8s.io, base64.binary.k8s.io")]).await;
    assert_eq!(status, 400, "several are refused, as upstream does");
}

#[tokio::test]
async fn whoever_does_not_say_where_it_comes_from_is_refused() {
    let api = ApiHarness::start().await;
    for origin in ["", "null", "page.example"] {
        let (status, _) = refused(&api, administrator(), &format!("{MAPS}?watch=true"), &[("origin", origin)]).await;
        assert_eq!(status, 403, "{origin:?}");
    }
}

#[tokio::test]
async fn it_is_counted_as_under_way_for_as_long_as_it_lasts() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let labels = r#"component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1""#;
    let mut under_way = 0;
    let counted = async |line: &str| {
        let page = caller.get("/metrics").await;
        String::from_utf8_lossy(&page.body).lines().any(|one| one == line)
    };
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = watch(&api, &format!("{MAPS}?watch=true")).await;
        caller.post(MAPS, &map(&format!("map-{under_way}"))).await.expect(201);
        next_named(&mut socket).await;
        under_way += 1;
        sockets.push(socket);
        assert!(counted(&format!("apiserver_longrunning_requests{{{labels}}} {under_way}")).await);
    }
    for mut socket in sockets {
        socket.close(None).await.unwrap();
        while tokio::time::timeout(PATIENCE, socket.next()).await.expect("the connection ends").is_some() {}
    }
    let none = format!("apiserver_longrunning_requests{{{labels}}} 0");
    // Nothing tells a client when the server has put its end away.
    let gone = async {
        while !counted(&none).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("watches that are over are not counted");
}

#[tokio::test]
async fn events_in_protobuf_are_binary_and_without_a_length() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    caller.post(MAPS, &map("a")).await.expect(201);
    let kind = "application/vnd.kubernetes.protobuf";
    let (mut socket, _) = open(&api, administrator(), &format!("{MAPS}?watch=true"), &[("accept", kind)]).await.unwrap();
    let Message::Binary(over_websocket) = message(&mut socket).await else { panic!("protobuf is binary") };
    let streamed = caller.watch_as(&format!("{MAPS}?watch=true"), &format!("{kind};stream=watch")).await.next_protobuf().await.unwrap();
    assert_eq!(over_websocket, streamed);
}

#[tokio::test]
async fn tables_and_bookmarks_come_over_it() {
    let api = ApiHarness::start().await;
    api.administrator().post(MAPS, &map("a")).await.expect(201);
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (mut socket, _) = open(&api, administrator(), &format!("{MAPS}?{query}"), &[("accept", table)]).await.unwrap();
    let first = event(&mut socket).await;
    assert_eq!((&first["type"], &first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]), (&json!("ADDED"), &json!("Table"), &json!("a")));
    let mut socket = watch(&api, &format!("{MAPS}?{query}")).await;
    assert_eq!(next_named(&mut socket).await, named("ADDED", "a"));
    assert_eq!(event(&mut socket).await["type"], "BOOKMARK");
}

#[tokio::test]
async fn a_revision_that_is_gone_is_told_in_a_message_and_then_it_closes() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let first = caller.post(MAPS, &map("a")).await.expect(201)["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    // More than a history keeps, which keeps text packed: this does not shrink.
    let noise = testkit::noise(900_000);
    for number in 0..20 {
        let data = json!({ "data": { "key": format!("{number}{noise}") } });
        caller.patch(&format!("{MAPS}/a"), "merge-patch", &data).await.expect(200);
    }
    let mut socket = watch(&api, &format!("{MAPS}?watch=true&resourceVersion={first}")).await;
    let told = event(&mut socket).await;
    assert_eq!((&told["type"], &told["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(matches!(message(&mut socket).await, Message::Close(Some(close)) if u16::from(close.code) == 1000));
}

#[tokio::test]
async fn a_watch_closes_when_its_time_is_over_or_its_client_does() {
    let api = ApiHarness::start().await;
    let mut socket = watch(&api, &format!("{MAPS}?watch=true&timeoutSeconds=1")).await;
    assert!(matches!(message(&mut socket).await, Message::Close(Some(close)) if u16::from(close.code) == 1000));
    let mut socket = watch(&api, &format!("{MAPS}?watch=true")).await;
    socket.send(Message::text("nobody reads this")).await.unwrap();
    socket.send(Message::Ping("still there".into())).await.unwrap();
    assert_eq!(message(&mut socket).await, Message::Pong("still there".into()));
    socket.close(None).await.unwrap();
    assert!(matches!(message(&mut socket).await, Message::Close(_)));
    assert!(tokio::time::timeout(PATIENCE, socket.next()).await.expect("the connection ends").is_none());
}

#[tokio::test]
async fn what_is_refused_is_refused_in_plain_http() {
    let api = ApiHarness::start().await;
    let (status, body) = refused(&api, Identity::user("jane", &["system:authenticated"]), &format!("{MAPS}?watch=true"), &[]).await;
    assert_eq!((status, &body["reason"]), (403, &json!("Forbidden")));
    let (status, body) = refused(&api, administrator(), &format!("{MAPS}?watch=true&fieldSelector=data.key=x"), &[]).await;
    assert_eq!((status, &body["reason"]), (400, &json!("BadRequest")));
    let (status, _) = refused(&api, administrator(), "/api/v1/namespaces/default/nonsense?watch=true", &[]).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_list_that_asks_for_websocket_is_a_plain_list() {
    let api = ApiHarness::start().await;
    let (status, body) = refused(&api, administrator(), MAPS, &[]).await;
    assert_eq!((status, &body["kind"]), (200, &json!("ConfigMapList")));
}
