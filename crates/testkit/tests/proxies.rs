//! The proxy subresources of pods, services and nodes: plain requests and connections that are upgraded go to where the object says.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use client::Identity;
use futures::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::json;
use testkit::{ApiHarness, Caller};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, handshake::derive_accept_key, protocol::Role},
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stands for everything that can be reached: says who was asked for what, and echoes what comes over WebSocket.
struct Mirror;

#[async_trait]
impl dialer::Dialer for Mirror {
    async fn dial(&self, target: &dialer::Target) -> Result<Box<dyn dialer::Connection>, dialer::DialError> {
        let (outside, inside) = tokio::io::duplex(64 * 1024);
        let target = target.to_string();
        let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            let said = format!("{} {} at {target}", request.method(), request.uri());
            async move {
                let Some(key) = request.headers().get("sec-websocket-key") else { return Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(said)))) };
                let accept = derive_accept_key(key.as_bytes());
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let Ok(upgraded) = upgrade.await else { return };
                    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
                    let _ = socket.send(Message::text(said)).await;
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_close() || socket.send(message).await.is_err() {
                            break;
                        }
                    }
                });
                let answer = http::Response::builder().status(101).header("upgrade", "websocket").header("connection", "Upgrade").header("sec-websocket-accept", accept);
                Ok(answer.body(Full::default()).expect("an answer"))
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(inside), service).with_upgrades());
        Ok(Box::new(outside))
    }
}

async fn cluster() -> (ApiHarness, Caller) {
    let api = ApiHarness::start_with(|parts| parts.dialer = Arc::new(Mirror)).await;
    let caller = api.administrator();
    let default = "/api/v1/namespaces/default";
    caller.post(&format!("{default}/serviceaccounts"), &json!({ "metadata": { "name": "default" } })).await.expect(201);
    caller.post("/api/v1/nodes", &json!({ "metadata": { "name": "n" }, "status": { "addresses": [{ "type": "InternalIP", "address": "10.9.0.1" }] } })).await.expect(201);
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "i", "ports": [{ "name": "web", "containerPort": 8080 }] }] } });
    caller.post(&format!("{default}/pods"), &pod).await.expect(201);
    let status = json!({ "status": { "podIP": "10.9.1.1", "podIPs": [{ "ip": "10.9.1.1" }] } });
    caller.patch(&format!("{default}/pods/p/status"), "merge-patch", &status).await.expect(200);
    caller.post(&format!("{default}/services"), &json!({ "metadata": { "name": "s" }, "spec": { "ports": [{ "name": "web", "port": 80 }] } })).await.expect(201);
    let slice = json!({ "metadata": { "name": "s-1", "labels": { "kubernetes.io/service-name": "s" } }, "addressType": "IPv4", "ports": [{ "name": "web", "port": 8080 }],
        "endpoints": [{ "addresses": ["10.9.1.1"], "nodeName": "n", "conditions": { "ready": true } }] });
    caller.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.expect(201);
    (api, caller)
}

/// Paths, and where they lead.
const WAYS: [(&str, &str); 5] = [
    ("/api/v1/namespaces/default/pods/p:web/proxy", "10.9.1.1:8080 on n"),
    ("/api/v1/namespaces/default/pods/p:9000/proxy", "10.9.1.1:9000 on n"),
    ("/api/v1/namespaces/default/services/http:s:web/proxy", "10.9.1.1:8080 on n"),
    ("/api/v1/nodes/n/proxy", "the node API of n"),
    ("/api/v1/nodes/n:9100/proxy", "10.9.0.1:9100 on n"),
];

#[tokio::test]
async fn requests_go_where_the_object_says_with_their_method_path_and_query() {
    let (api, caller) = cluster().await;
    for (path, target) in WAYS {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = caller.send(method, &format!("{path}/a/b?c=d"), &[], "").await;
            answer.expect(200);
            assert_eq!(answer.text(), format!("{method} /a/b?c=d at {target}"));
        }
        let led = caller.get(path).await;
        assert_eq!((led.status, led.header("location")), (301, format!("{path}/").as_str()));
    }
    caller.get("/api/v1/namespaces/default/pods/none/proxy/").await.expect(404);
    caller.get("/api/v1/namespaces/default/pods/p:nothing/proxy/").await.expect(400);
    // It is a right of its own.
    let jane = api.caller(Identity::user("jane", &["system:authenticated"]));
    jane.get("/api/v1/namespaces/default/pods/p:web/proxy/").await.expect(403);
}

#[tokio::test]
async fn connections_are_upgraded_through_every_proxy() {
    let (api, _) = cluster().await;
    let administrator = || Identity::user("test-administrator", &["system:masters"]);
    for (path, target) in WAYS {
        let request = format!("ws://localhost{path}/talk?to=me").into_client_request().unwrap();
        let (mut socket, _) = client_async(request, api.connect(administrator())).await.unwrap();
        let next = async |socket: &mut WebSocketStream<_>| tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message in time").expect("the connection goes on").unwrap();
        assert_eq!(next(&mut socket).await, Message::text(format!("GET /talk?to=me at {target}")));
        let long = "x".repeat(200_000);
        for word in ["one", &long] {
            socket.send(Message::text(word)).await.unwrap();
            assert_eq!(next(&mut socket).await, Message::text(word));
        }
        socket.close(None).await.unwrap();
    }
}
