//! An API server in the test's own process, over a store in memory: everything of a request but the socket.
//!
//! No controllers run, so nothing changes that the test does not change.

use std::{sync::Arc, time::Duration};

use apiserver::{ApiServer, ClusterFacts, setup};
use bytes::{Bytes, BytesMut};
use client::Identity;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

/// How long a test waits for an event that must come; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// An API server for one test.
pub struct ApiHarness {
    server: ApiServer,
}

impl ApiHarness {
    /// A new cluster with nothing but what every cluster begins with.
    ///
    /// # Panics
    /// Where the server does not open; a test can do nothing about it.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A new cluster with something else in it than the others have.
    ///
    /// # Panics
    /// Where the server does not open.
    pub async fn start_with(edit: impl FnOnce(&mut setup::Parts)) -> Self {
        let facts = ClusterFacts {
            service_cidrs: vec!["10.96.0.0/16".to_owned()],
            node_ports: (30_000, 32_767),
            cluster_domain: "cluster.local".to_owned(),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            audiences: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            extend_token_expiration: true,
            event_lifetime: Duration::from_secs(3600),
            advertise: None,
            own_node: None,
        };
        let mut parts = setup::Parts {
            store: Arc::new(store::memory::MemoryStore::new()),
            facts,
            tokens: None,
            dialer: Arc::new(dialer::ClusterDialer::default()),
            tunnels: None,
            front_proxy: None,
            runtime_config: kinds::RuntimeConfig::default(),
            admission: Default::default(),
            clock: setup::system_clock(),
        };
        edit(&mut parts);
        Self { server: setup::open(parts).await.expect("an API server over a store in memory") }
    }

    /// The server itself.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// A kube client that acts as somebody.
    pub fn client(&self, identity: Identity) -> client::Client {
        client::in_process(self.server.clone(), identity)
    }

    /// Somebody who may do everything.
    pub fn administrator(&self) -> Caller {
        self.caller(Identity::user("test-administrator", &["system:masters"]))
    }

    /// A connection in HTTP/1.1 without TLS, whose requests are those of somebody: for what upgrades its connection.
    pub fn connect(&self, identity: Identity) -> tokio::io::DuplexStream {
        let (outside, inside) = tokio::io::duplex(64 * 1024);
        let server = self.server.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            request.extensions_mut().insert(identity.clone());
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        let stream = hyper_util::rt::TokioIo::new(inside);
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service).with_upgrades());
        outside
    }

    /// Somebody in particular.
    pub fn caller(&self, identity: Identity) -> Caller {
        Caller { server: self.server.clone(), identity: Some(identity) }
    }

    /// Somebody without credentials.
    pub fn stranger(&self) -> Caller {
        Caller { server: self.server.clone(), identity: None }
    }
}

/// Sends requests as somebody, and shows answers as they are on the wire.
#[derive(Clone)]
pub struct Caller {
    server: ApiServer,
    identity: Option<Identity>,
}

impl Caller {
    async fn answer(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> http::Response<apiserver::http_body::Body> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::new(body).map_err(Into::into).boxed_unsync()).expect("a request that HTTP allows");
        if let Some(identity) = &self.identity {
            request.extensions_mut().insert(identity.clone());
        }
        self.server.answer(request).await
    }

    /// Sends anything.
    ///
    /// # Panics
    /// Where the answer breaks off, or method, path or headers are none.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let (head, body) = self.answer(method, path, headers, body.into()).await.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("an answer that ends").expect("a whole answer").to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// Sends a request whose answer may never end, and takes of it what is there at once.
    ///
    /// # Panics
    /// As [`Caller::send`].
    pub async fn first_of(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let (head, mut body) = self.answer(method, path, headers, Bytes::new()).await.into_parts();
        let body = if head.status.is_success() {
            let frame = futures::FutureExt::now_or_never(body.frame());
            frame.flatten().and_then(Result::ok).and_then(|frame| frame.into_data().ok()).unwrap_or_default()
        } else {
            tokio::time::timeout(PATIENCE, body.collect()).await.expect("an answer that ends").expect("a whole answer").to_bytes()
        };
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// GET, as JSON.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[("accept", "application/json")], Bytes::new()).await
    }

    /// DELETE without options.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], Bytes::new()).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// PATCH; `kind` is `json-patch`, `merge-patch`, `strategic-merge-patch` or `apply-patch` (in YAML, of which JSON is a part).
    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let kind = if kind == "apply-patch" { "application/apply-patch+yaml".to_owned() } else { format!("application/{kind}+json") };
        self.send("PATCH", path, &[("content-type", &kind)], body.to_string()).await
    }

    /// Opens a watch.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    /// Opens a watch that accepts something else.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let (head, body) = self.answer("GET", path, &[("accept", accept)], Bytes::new()).await.into_parts();
        assert_eq!(head.status.as_u16(), 200, "a watch of {path} must be allowed");
        Watch { body, rest: BytesMut::new() }
    }
}

/// An answer as it is on the wire.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's text; empty where it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body of an answer that must have this status.
    ///
    /// # Panics
    /// Where it has another one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "the server said: {}", self.text());
        self.json()
    }

    /// Looks at a refusal: its status code, its reason, and its message.
    ///
    /// # Panics
    /// Where something else was answered.
    #[track_caller]
    pub fn refused(&self, status: u16, reason: &str, message: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(body["kind"], "Status", "{body}");
        assert_eq!(body["apiVersion"], "v1", "{body}");
        assert_eq!(body["status"], "Failure", "{body}");
        assert_eq!(body["code"], status, "{body}");
        assert_eq!(body["reason"], reason, "{body}");
        assert_eq!(body["message"], message);
        body
    }
}

/// An open watch.
pub struct Watch {
    body: apiserver::http_body::Body,
    rest: BytesMut,
}

impl Watch {
    /// The next event; none where the watch ended.
    ///
    /// # Panics
    /// Where nothing comes for long, or it is no JSON.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return Some(serde_json::from_slice(&line).expect("an event in JSON"));
            }
            self.take().await?;
        }
    }

    /// The next frame in protobuf, without its length; none where the watch ended.
    ///
    /// # Panics
    /// Where nothing comes for long.
    pub async fn next_protobuf(&mut self) -> Option<Bytes> {
        loop {
            if let Some(length) = self.rest.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize)
                && self.rest.len() >= length + 4
            {
                return Some(self.rest.split_to(length + 4).freeze().slice(4..));
            }
            self.take().await?;
        }
    }

    async fn take(&mut self) -> Option<()> {
        let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event within a minute")?.expect("a whole event");
        if let Some(data) = frame.data_ref() {
            self.rest.extend_from_slice(data);
        }
        Some(())
    }

    /// The next event's type and its object's name.
    ///
    /// # Panics
    /// As [`Watch::next`], and where the watch ended.
    pub async fn next_named(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}
