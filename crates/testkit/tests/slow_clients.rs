//! Clients that are slow on purpose, over a socket: each loses its connection in good time, and nobody else notices.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use apiserver::connection::Patience;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use pki::{AlternativeNames, ClusterAuthority, SwappableCertificate};
use rustls::pki_types::ServerName;
use serde_json::json;
use testkit::ApiHarness;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// Short enough for a test, and far longer than anything here takes on a busy machine.
const SHORT: Duration = Duration::from_millis(2000);

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(120);

struct Served {
    harness: ApiHarness,
    address: SocketAddr,
    tls: TlsConnector,
    http2: TlsConnector,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Served {
    /// One that does not wait for handshakes and heads either. Whatever else is tested, a busy machine may take its time for those.
    async fn start_hasty() -> Self {
        Self::start_as(Patience { handshake: SHORT, head: SHORT, answer: SHORT, ping: SHORT }, |_| {}).await
    }

    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(edit: impl FnOnce(&mut apiserver::setup::Parts)) -> Self {
        Self::start_as(Patience { handshake: PATIENCE, head: PATIENCE, answer: SHORT, ping: PATIENCE }, edit).await
    }

    async fn start_as(patience: Patience, edit: impl FnOnce(&mut apiserver::setup::Parts)) -> Self {
        let harness = ApiHarness::start_with(edit).await;
        let directory = tempfile::tempdir().unwrap();
        let authority = ClusterAuthority::open_or_create(directory.path(), Timestamp::now()).unwrap();
        let credential = authority.issue_server("test", &AlternativeNames::from_hosts(["127.0.0.1"]), Timestamp::now()).unwrap();
        let roots = [authority.certificate().clone()];
        let server_config = pki::tls::server_config(SwappableCertificate::new(&credential).unwrap(), &roots).unwrap();
        let administrator = SwappableCertificate::new(&authority.issue_admin(Timestamp::now()).unwrap()).unwrap();
        let mut config = pki::tls::client_config(&roots, Some(administrator)).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http2 = config.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(harness.server().clone().with_patience(patience).serve(listener, server_config, stop.clone()));
        Self { harness, address, tls: Arc::new(config).into(), http2: Arc::new(http2).into(), stop, _directory: directory }
    }

    async fn connect_by(&self, tls: &TlsConnector) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        tls.connect(ServerName::from(self.address.ip()), stream).await.unwrap()
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_by(&self.tls).await
    }

    /// Config maps whose list is far larger than what sockets and buffers hold.
    async fn fill(&self) {
        let caller = self.harness.administrator();
        for number in 0..40 {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("large-{number}")}, "data": {"filling": "x".repeat(900_000)}});
            assert_eq!(caller.post("/api/v1/namespaces/default/configmaps", &map).await.status, 201);
        }
    }

    /// Everybody else is answered.
    async fn answers_others(&self) {
        let mut connection = self.connect().await;
        connection.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Waits until the server has closed a connection, and says what it sent before.
async fn closed(what: &str, mut connection: impl AsyncReadExt + Unpin) -> String {
    let mut answer = Vec::new();
    // A connection may end with an error too: what matters is that it ends.
    let _ = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await.unwrap_or_else(|_| panic!("the server does not close the connection of {what}"));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_never_comes_is_not_waited_for() {
    let served = Served::start_hasty().await;
    assert_eq!(closed("one who says nothing", TcpStream::connect(served.address).await.unwrap()).await, "");
    let mut half = TcpStream::connect(served.address).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    assert_eq!(closed("half a handshake", half).await, "");
    served.answers_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_comes_letter_by_letter_is_not_waited_for() {
    let served = Served::start_hasty().await;
    let started = Instant::now();
    let (reader, mut writer) = tokio::io::split(served.connect().await);
    let trickle = tokio::spawn(async move {
        for letter in b"GET /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nX-Filling: ".iter().chain(std::iter::repeat(&b'x')) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if writer.write_all(&[*letter]).await.is_err() {
                break;
            }
        }
    });
    closed("half a head", reader).await;
    assert!(started.elapsed() >= SHORT, "not before its time");
    trickle.await.unwrap();
    // Nothing at all after the handshake, in either version of HTTP; and nothing more after an answer.
    closed("one who asks nothing", served.connect().await).await;
    let mut idle = served.connect().await;
    idle.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(closed("one who asks nothing more", idle).await.starts_with("HTTP/1.1 200"));
    closed("one who asks nothing in HTTP/2", served.connect_by(&served.http2).await).await;
    served.answers_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_head_is_read_and_one_without_measure_is_refused() {
    let served = Served::start().await;
    for length in [40_000, 2_000_000] {
        let filling = "x".repeat(length);
        for line in [format!("GET /version?{filling} HTTP/1.1\r\nHost: x\r\n"), format!("GET /version HTTP/1.1\r\nHost: x\r\nX-Filling: {filling}\r\n")] {
            let (reader, mut writer) = tokio::io::split(served.connect().await);
            // The server may hang up before it has taken all of it, and its words may be lost then.
            let sending = tokio::spawn(async move { writer.write_all(format!("{line}Connection: close\r\n\r\n").as_bytes()).await });
            let answer = closed("one with a long head", reader).await;
            drop(sending.await);
            let status = answer.split(' ').nth(1).unwrap_or_default();
            let expected: &[&str] = if length < 64 * 1024 { &["200"] } else { &["", "414", "431"] };
            assert!(expected.contains(&status), "{length}: {answer:.200}");
        }
        let stream = TokioIo::new(served.connect_by(&served.http2).await);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("https://{}/version", served.address)).header("x-filling", filling).body(Empty::<Bytes>::new()).unwrap();
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap();
        let status = answer.map_or(0, |answer| answer.status().as_u16());
        assert!(if length < 64 * 1024 { status == 200 } else { matches!(status, 0 | 431) }, "{length}: {status}");
    }
    served.answers_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_nothing_of_an_answer_loses_it() {
    let served = Served::start().await;
    served.fill().await;
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://x\r\n";
    for (path, headers) in [("/api/v1/configmaps", ""), ("/api/v1/configmaps?watch=true", ""), ("/api/v1/configmaps?watch=true", websocket)] {
        let mut connection = served.connect().await;
        connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await.unwrap();
        // The client takes nothing until the server has long lost its patience.
        tokio::time::sleep(SHORT * 4).await;
        let taken = closed("one who takes nothing", connection).await;
        assert!(taken.starts_with(if headers.is_empty() { "HTTP/1.1 200" } else { "HTTP/1.1 101" }), "{path}: {taken:.200}");
        let taken = taken.len();
        assert!(taken < 36_000_000, "{path}: {taken} bytes although the client was away");
    }
    served.answers_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_who_reads_gets_everything() {
    let served = Served::start().await;
    served.fill().await;
    let mut connection = served.connect().await;
    connection.write_all(b"GET /api/v1/configmaps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut total, mut buffer) = (0, vec![0; 3_000_000]);
    loop {
        // Three megabytes now and then: altogether longer than the server waits for any of them.
        let mut part = 0;
        while part < buffer.len() {
            match tokio::time::timeout(PATIENCE, connection.read(&mut buffer[part..])).await.unwrap().unwrap() {
                0 => break,
                read => part += read,
            }
        }
        if part == 0 {
            break;
        }
        total += part;
        tokio::time::sleep(SHORT / 5).await;
    }
    assert!(total > 36_000_000, "{total} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_quiet_goes_on() {
    let served = Served::start().await;
    let mut connection = served.connect().await;
    connection.write_all(b"GET /api/v1/namespaces/default/configmaps?watch=true HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(SHORT * 3).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}});
    assert_eq!(served.harness.administrator().post("/api/v1/namespaces/default/configmaps", &map).await.status, 201);
    let mut seen = String::new();
    while !seen.contains("\"late\"") {
        let mut part = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, connection.read(&mut part)).await.unwrap().unwrap();
        assert!(read > 0, "the watch ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&part[..read]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_client_takes_nothing_ends_and_its_connection_goes_on() {
    let served = Served::start().await;
    served.fill().await;
    let stream = TokioIo::new(served.connect_by(&served.http2).await);
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.initial_stream_window_size(64 * 1024).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let ask = |path: &str| {
        let request = http::Request::get(format!("https://127.0.0.1{path}")).body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.clone().send_request(request);
        async { answer.await.unwrap().into_body() }
    };
    let mut stalled = Vec::new();
    for path in ["/api/v1/configmaps", "/api/v1/configmaps?watch=true"] {
        stalled.push((path, ask(path).await));
    }
    let mut quiet = ask("/api/v1/namespaces/default/secrets?watch=true").await;
    // One that takes its time, longer than the server's patience altogether, but takes something now and then.
    let mut slow = ask("/api/v1/namespaces/default/configmaps/large-1").await;
    let slow = tokio::spawn(async move {
        let (started, mut taken, mut paused) = (Instant::now(), 0, 0);
        while let Some(frame) = slow.frame().await {
            taken += frame.unwrap().into_data().unwrap().len();
            if taken / 80_000 > paused {
                paused = taken / 80_000;
                tokio::time::sleep(SHORT / 4).await;
            }
        }
        assert!(started.elapsed() > SHORT * 2, "not slow enough to show anything");
        taken
    });
    let started = Instant::now();
    while started.elapsed() < SHORT * 4 {
        // The connection itself is never idle, so no limit of connections is met.
        let ready = ask("/readyz").await.collect().await.unwrap().to_bytes();
        assert_eq!(ready, "ok");
        tokio::time::sleep(SHORT / 8).await;
    }
    for (path, mut body) in stalled {
        let mut taken = 0;
        let ended = loop {
            match tokio::time::timeout(PATIENCE, body.frame()).await.unwrap() {
                Some(Ok(frame)) => taken += frame.into_data().unwrap().len(),
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            }
        };
        assert!(ended.is_err(), "{path}: the stream must be reset, not go on after {taken} bytes");
        assert!(taken <= 1_000_000, "{path}: {taken} bytes although the client was away");
    }
    assert!(tokio::time::timeout(PATIENCE, slow).await.unwrap().unwrap() > 900_000);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}});
    assert_eq!(served.harness.administrator().post("/api/v1/namespaces/default/secrets", &secret).await.status, 201);
    let event = tokio::time::timeout(PATIENCE, quiet.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&event).contains("\"late\""));
}

/// A node whose only container says so much, in pieces of this many bytes.
const PIECE: usize = 16 * 1024;

/// The node's API: it counts the pieces of a log that somebody took from it.
struct LogOfNode {
    pieces: usize,
    taken: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl dialer::Dialer for LogOfNode {
    async fn dial(&self, _: &dialer::Target) -> Result<Box<dyn dialer::Connection>, dialer::DialError> {
        let (outside, inside) = tokio::io::duplex(PIECE);
        let (pieces, taken) = (self.pieces, self.taken.clone());
        let service = hyper::service::service_fn(move |_: http::Request<hyper::body::Incoming>| {
            let taken = taken.clone();
            let log = futures::stream::iter(0..pieces).map(move |_| {
                taken.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(vec![b'x'; PIECE])))
            });
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::StreamBody::new(log))) }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().max_buf_size(PIECE).serve_connection(TokioIo::new(inside), service));
        Ok(Box::new(outside))
    }
}

/// A server that passes a log of so many pieces on, and how many of them it has taken so far.
async fn with_a_log(pieces: usize) -> (Served, Arc<AtomicUsize>) {
    let taken = Arc::<AtomicUsize>::default();
    let node = LogOfNode { pieces, taken: taken.clone() };
    let served = Served::start_with(|parts| parts.dialer = Arc::new(node)).await;
    let caller = served.harness.administrator();
    caller.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    caller.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    (served, taken)
}

const LOG: &str = "/api/v1/namespaces/default/pods/p/log";

/// Pieces that may be on their way, in the buffers of sockets and of both servers.
const ON_THE_WAY: usize = 8 * 1024 * 1024 / PIECE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_waits_for_its_reader_and_is_not_taken_ahead_of_him() {
    let pieces = 4 * ON_THE_WAY;
    let (served, taken) = with_a_log(pieces).await;
    let mut connection = served.connect().await;
    connection.write_all(format!("GET {LOG}?follow=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let stream = TokioIo::new(served.connect_by(&served.http2).await);
    let (mut sender, http2) = hyper::client::conn::http2::Builder::new(TokioExecutor::new()).initial_stream_window_size(64 * 1024).handshake(stream).await.unwrap();
    tokio::spawn(http2);
    let request = http::Request::get(format!("https://127.0.0.1{LOG}?follow=true")).body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    // Somebody reads the first page, for far longer than any other answer waits.
    tokio::time::sleep(SHORT * 4).await;
    let ahead = taken.load(Ordering::Relaxed);
    assert!(ahead <= 2 * ON_THE_WAY, "{ahead} pieces were taken for two readers who took none");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.iter().filter(|byte| **byte == b'x').count() >= pieces * PIECE, "the log must come to its end");
    let mut length = 0;
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap() {
        length += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(length, pieces * PIECE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_log_waits_too_and_what_is_asked_after_it_does_not() {
    // Little enough for the server to be done with it while the last of it is not sent: sockets hold some megabytes.
    let (served, taken) = with_a_log(ON_THE_WAY).await;
    served.fill().await;
    let mut connection = served.connect().await;
    connection.write_all(format!("GET {LOG} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(SHORT * 3).await;
    let mut length = 0;
    let mut part = vec![0; PIECE];
    while length < ON_THE_WAY * PIECE {
        let read = tokio::time::timeout(PATIENCE, connection.read(&mut part)).await.unwrap().unwrap();
        assert!(read > 0, "cut after {length} bytes");
        length += part[..read].iter().filter(|byte| **byte == b'x').count();
    }
    assert_eq!(taken.load(Ordering::Relaxed), ON_THE_WAY);
    // The same connection, now for a list that nobody takes.
    connection.write_all(b"GET /api/v1/configmaps HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(SHORT * 4).await;
    assert!(closed("one who takes nothing of a list", connection).await.len() < 36_000_000);
}
