//! A key management service for tests: version 2 of Kubernetes' protocol over a Unix socket. Its keys hide nothing from anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use store::transformer::envelope::wire;
use streaming::grpc;

/// A running service, with a thread of its own. It leaves when it is dropped.
pub struct KeyService {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    running: Mutex<Option<(tokio_util::sync::CancellationToken, std::thread::JoinHandle<()>)>>,
}

struct State {
    key: String,
    /// What it says its key is, where that is another.
    says: Option<String>,
    health: String,
    version: String,
    known: BTreeSet<String>,
    calls: BTreeMap<String, usize>,
}

impl KeyService {
    /// Listens, with the key `key-1`.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub fn start(socket: &Path) -> Self {
        let state = State {
            key: "key-1".to_owned(),
            says: None,
            health: "ok".to_owned(),
            version: "v2".to_owned(),
            known: BTreeSet::from(["key-1".to_owned()]),
            calls: BTreeMap::new(),
        };
        let service = Self { socket: socket.to_owned(), state: Arc::new(Mutex::new(state)), running: Mutex::default() };
        service.come_back();
        service
    }

    /// Encrypts with another key from now on, and knows the ones before.
    pub fn rotate(&self, key: &str) {
        let mut state = self.state.lock();
        state.known.insert(key.to_owned());
        key.clone_into(&mut state.key);
        state.says = None;
    }

    /// Says that its key is another, and encrypts with the one of before.
    pub fn rotate_in_word_only(&self, key: &str) {
        self.state.lock().says = Some(key.to_owned());
    }

    /// Loses a key.
    pub fn forget(&self, key: &str) {
        self.state.lock().known.remove(key);
    }

    /// What it says of its health, and which version it says it speaks.
    pub fn say(&self, health: &str, version: &str) {
        let mut state = self.state.lock();
        health.clone_into(&mut state.health);
        version.clone_into(&mut state.version);
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> usize {
        self.state.lock().calls.get(method).copied().unwrap_or_default()
    }

    /// Stops listening.
    ///
    /// # Panics
    /// Where its thread did.
    pub fn leave(&self) {
        if let Some((stop, thread)) = self.running.lock().take() {
            stop.cancel();
            thread.join().expect("the thread of the service");
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// Listens again, and knows what it knew.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub fn come_back(&self) {
        let listener = std::os::unix::net::UnixListener::bind(&self.socket).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let stop = tokio_util::sync::CancellationToken::new();
        let (state, stopped) = (self.state.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).expect("a socket");
                while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                    let state = state.clone();
                    tokio::spawn(async move {
                        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                            let state = state.clone();
                            async move { Ok::<_, Infallible>(answer(&state, request).await) }
                        });
                        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            });
        });
        *self.running.lock() = Some((stop, thread));
    }
}

impl Drop for KeyService {
    fn drop(&mut self) {
        self.leave();
    }
}

type Answer = http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn answer(state: &Mutex<State>, request: http::Request<hyper::body::Incoming>) -> Answer {
    let method = request.uri().path().trim_start_matches("/v2.KeyManagementService/").to_owned();
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let outcome = match grpc::unframed(&body) {
        Some(message) => called(&mut state.lock(), &method, &message),
        None => Err((3, "malformed".to_owned())),
    };
    let (message, code, said) = match outcome {
        Ok(message) => (grpc::framed(&message), 0, String::new()),
        Err((code, said)) => (Bytes::new(), code, said),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("grpc-message", HeaderValue::from_str(&said.replace(' ', "%20")).expect("simple words"));
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    http::Response::builder().header("content-type", "application/grpc").body(body.boxed()).expect("an answer")
}

fn called(state: &mut State, method: &str, message: &[u8]) -> Result<Vec<u8>, (u32, String)> {
    *state.calls.entry(method.to_owned()).or_default() += 1;
    let field = |number: u64| {
        wire::fields(message).flatten().find_map(|field| match field {
            (found, wire::Field::Bytes(bytes)) if found == number => Some(bytes.to_vec()),
            _ => None,
        })
    };
    let mut answer = Vec::new();
    match method {
        "Status" => {
            wire::put_bytes(&mut answer, 1, state.version.as_bytes());
            wire::put_bytes(&mut answer, 2, state.health.as_bytes());
            wire::put_bytes(&mut answer, 3, state.says.as_ref().unwrap_or(&state.key).as_bytes());
        }
        "Encrypt" => {
            let plain = field(1).unwrap_or_default();
            wire::put_bytes(&mut answer, 1, &turned(&state.key, &plain));
            wire::put_bytes(&mut answer, 2, state.key.as_bytes());
            wire::put_map(&mut answer, 3, &BTreeMap::from([("made-by.key-service.test".to_owned(), state.key.clone().into_bytes())]));
        }
        "Decrypt" => {
            let key = String::from_utf8(field(3).unwrap_or_default()).unwrap_or_default();
            let annotation = field(4).and_then(|entry| wire::map_entry(&entry));
            if !state.known.contains(&key) {
                return Err((5, format!("no such key: {key}")));
            }
            if annotation != Some(("made-by.key-service.test".to_owned(), key.clone().into_bytes())) {
                return Err((3, "the annotation is not mine".to_owned()));
            }
            wire::put_bytes(&mut answer, 1, &turned(&key, &field(1).unwrap_or_default()));
        }
        _ => return Err((12, "unknown method".to_owned())),
    }
    Ok(answer)
}

/// Its own inverse.
fn turned(key: &str, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().zip(key.bytes().cycle()).map(|(byte, key)| byte ^ key ^ 0xa5).collect()
}
