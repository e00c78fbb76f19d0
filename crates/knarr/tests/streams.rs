//! Commands in containers, forwarded ports and logs through the whole of a server: the API's socket, the node's API, the shim. In every
//! dialect that clients speak: SPDY/3.1 (Go clients before 1.31) and WebSockets in their three forms. As root.

use std::{path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_yaml_ng::Value;
use streaming::{
    Outcome,
    client::{self, Protocol},
    remote_command::{StreamOptions, TerminalSize},
};
use testkit::{RealCluster, image, real_cluster::Settings, registry::Registry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{client_async, tungstenite::{Message, client::IntoClientRequest}};

const EVERY: [Protocol; 4] = [Protocol::Spdy, Protocol::WebSocket, Protocol::WebSocket4, Protocol::WebSocketBase64];

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: host }
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: host
    image: busybox:1
    command: ["sh", "-c", "echo container is alive; mkdir -p /www; echo welcome > /www/index.html; exec httpd -f -p 8080 -h /www"]
    readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }
"#;

/// The API as the administrator reaches it.
struct Api {
    port: u16,
    tls: TlsConnector,
}

impl Api {
    fn of(cluster: &RealCluster) -> Self {
        let text = std::fs::read_to_string(cluster.data_directory().join("admin.kubeconfig")).expect("a kubeconfig");
        let config: Value = serde_yaml_ng::from_str(&text).expect("YAML");
        let decoded = |place: &Value, name: &str| STANDARD.decode(place[name].as_str().expect("inlined data")).expect("base64");
        let (user, server) = (&config["users"][0]["user"], &config["clusters"][0]["cluster"]);
        let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).map(|one| one.expect("a certificate")).collect::<Vec<_>>();
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&decoded(server, "certificate-authority-data")));
        let key = PrivateKeyDer::from_pem_slice(&decoded(user, "client-key-data")).expect("a key");
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&decoded(user, "client-certificate-data")), key)
            .expect("a client certificate");
        Self { port: cluster.port(), tls: Arc::new(tls).into() }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection");
        self.tls.connect(ServerName::try_from("127.0.0.1").expect("a name"), stream).await.expect("TLS")
    }

    async fn exec(&self, protocol: Protocol, options: StreamOptions, command: &[&str]) -> client::RunningCommand {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, wanted) in [("stdin", options.stdin), ("stdout", options.stdout), ("stderr", options.stderr), ("tty", options.tty)] {
            query.append_pair(name, if wanted { "true" } else { "false" });
        }
        for word in command {
            query.append_pair("command", word);
        }
        let path = format!("/api/v1/namespaces/default/pods/host/exec?{}", query.finish());
        client::remote_command(self.connect().await, &path, HeaderMap::new(), protocol, options).await.expect("the command starts")
    }
}

const PLAIN: StreamOptions = StreamOptions { stdin: false, stdout: true, stderr: true, tty: false };

async fn both_outputs_and_the_exit_code_arrive(api: &Api, protocol: Protocol) {
    let mut command = api.exec(protocol, PLAIN, &["sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    let (mut out, mut err) = (String::new(), String::new());
    command.stdout.as_mut().expect("asked for").read_to_string(&mut out).await.expect("output");
    command.stderr.as_mut().expect("asked for").read_to_string(&mut err).await.expect("output");
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"), "{protocol:?}");
    assert_eq!(command.outcome().await.expect("an outcome"), Outcome::ExitCode(7), "{protocol:?}");
}

/// Half a megabyte there and back. `head` ends by itself, since not every dialect can end standard input on its own.
async fn input_comes_back_whole(api: &Api, protocol: Protocol) {
    let sent: Vec<u8> = (0..500_000_u32).map(|number| (number % 251) as u8).collect();
    let mut command = api.exec(protocol, StreamOptions { stdin: true, ..PLAIN }, &["head", "-c", "500000"]).await;
    let mut input = command.stdin.take().expect("asked for");
    let content = sent.clone();
    let writing = tokio::spawn(async move {
        input.write_all(&content).await.expect("input");
        input
    });
    let mut received = Vec::new();
    command.stdout.as_mut().expect("asked for").read_to_end(&mut received).await.expect("output");
    assert!(received == sent, "{protocol:?}: {} bytes came back", received.len());
    assert_eq!(command.outcome().await.expect("an outcome"), Outcome::Success, "{protocol:?}");
    drop(writing.await);
}

async fn the_end_of_input_is_seen(api: &Api, protocol: Protocol) {
    let mut command = api.exec(protocol, StreamOptions { stdin: true, ..PLAIN }, &["wc", "-c"]).await;
    let mut input = command.stdin.take().expect("asked for");
    input.write_all(b"12345").await.expect("input");
    input.shutdown().await.expect("the end of input");
    let mut text = String::new();
    command.stdout.as_mut().expect("asked for").read_to_string(&mut text).await.expect("output");
    assert_eq!(text.trim(), "5", "{protocol:?}");
}

async fn a_terminal_has_the_clients_size(api: &Api, protocol: Protocol) {
    let options = StreamOptions { stdin: true, stdout: true, stderr: false, tty: true };
    // The size comes by a stream of its own, some time after the command has started.
    let patient = "for i in $(seq 600); do [ \"$(stty size 2>&1)\" = '43 132' ] && echo fits && exit; sleep 0.1; done; stty size";
    let mut command = api.exec(protocol, options, &["sh", "-c", patient]).await;
    command.resize(TerminalSize { width: 132, height: 43 }).await.expect("a size");
    let mut text = String::new();
    command.stdout.as_mut().expect("asked for").read_to_string(&mut text).await.expect("output");
    assert_eq!(text, "fits\r\n", "{protocol:?}");
}

async fn ports_are_forwarded(api: &Api, protocol: Protocol) {
    let path = "/api/v1/namespaces/default/pods/host/portforward?ports=8080";
    let forward = client::port_forward(api.connect().await, path, HeaderMap::new(), protocol).await.expect("a port-forward");
    for _ in 0..20 {
        let mut connection = forward.connect(8080).await.expect("a connection");
        connection.writer.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("a request");
        let (mut answer, mut problem) = (String::new(), String::new());
        connection.reader.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.ends_with("welcome\n"), "{protocol:?}: {answer:?}");
        connection.errors.read_to_string(&mut problem).await.expect("an end");
        assert_eq!(problem, "", "{protocol:?}");
    }
    let failure = forward.connect(9).await.expect("a connection").failure().await.expect("an end");
    assert!(failure.is_some_and(|sentence| sentence.contains("port 9")), "{protocol:?}");
}

/// As browsers follow a log.
async fn a_log_comes_over_websocket(api: &Api) {
    let mut request = "ws://127.0.0.1/api/v1/namespaces/default/pods/host/log?container=host".into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("binary.k8s.io"));
    let (mut socket, _) = client_async(request, api.connect().await).await.expect("a WebSocket");
    let mut log = Vec::new();
    while let Some(message) = socket.next().await {
        match message.expect("a message") {
            Message::Binary(piece) => log.extend_from_slice(&piece),
            Message::Close(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(log, b"container is alive\n");
}

#[test]
fn streams_run_through_the_whole_server_in_every_dialect() {
    let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
    let busybox = image::busybox();
    let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
    let cluster = RealCluster::start(&Settings { binary: &binary, registry: Some(&registry), control_plane_only: false });
    cluster.apply(POD);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/host", "--timeout=180s"]);
    let api = Api::of(&cluster);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        for protocol in EVERY {
            both_outputs_and_the_exit_code_arrive(&api, protocol).await;
            input_comes_back_whole(&api, protocol).await;
            a_terminal_has_the_clients_size(&api, protocol).await;
        }
        for protocol in [Protocol::Spdy, Protocol::WebSocket] {
            the_end_of_input_is_seen(&api, protocol).await;
            ports_are_forwarded(&api, protocol).await;
        }
        a_log_comes_over_websocket(&api).await;
        // Many at once, on connections of their own.
        let all = (0..40).map(|number| both_outputs_and_the_exit_code_arrive(&api, EVERY[number % EVERY.len()]));
        futures::future::join_all(all).await;
    });
}
