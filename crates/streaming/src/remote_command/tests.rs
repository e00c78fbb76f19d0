use std::convert::Infallible;

use http::{HeaderMap, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, DuplexStream};

use super::*;
use crate::client::{self, Protocol};
use crate::proxy_upgrade;

const ALL: [Protocol; 4] = [Protocol::WebSocket, Protocol::WebSocket4, Protocol::WebSocketBase64, Protocol::Spdy];

/// A connection to a server that runs one command for every request, with its options from the query.
fn node<H, F>(handler: H) -> DuplexStream
where
    H: Fn(RemoteCommand) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let (client, server) = tokio::io::duplex(10_000);
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let handler = handler.clone();
            async move {
                let options = StreamOptions::from_query(request.uri().query().unwrap_or_default()).unwrap();
                Ok::<_, Infallible>(serve_remote_command(request, options, handler).map(Full::new))
            }
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).with_upgrades().await
    });
    client
}

/// An API server in front of a node.
fn through_proxy(node: DuplexStream) -> DuplexStream {
    let (client, server) = tokio::io::duplex(10_000);
    let node = std::sync::Arc::new(parking_lot::Mutex::new(Some(node)));
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let node = node.lock().take().unwrap();
            async move {
                let path = request.uri().to_string().replace("/exec", "/node/exec");
                proxy_upgrade(request, &path, node).await
            }
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).with_upgrades().await
    });
    client
}

async fn run(connection: DuplexStream, protocol: Protocol, options: StreamOptions) -> client::RunningCommand {
    let path = format!("/exec?{}", options.to_query());
    client::remote_command(connection, &path, HeaderMap::new(), protocol, options).await.unwrap()
}

const IN_OUT: StreamOptions = StreamOptions { stdin: true, stdout: true, stderr: false, tty: false };

/// Copies `length` bytes of standard input to standard output, then exits with 3.
async fn cat(mut command: RemoteCommand, length: u64) -> Outcome {
    let mut stdin = command.stdin.take().unwrap().take(length);
    let mut stdout = command.stdout.take().unwrap();
    tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    Outcome::ExitCode(3)
}

#[tokio::test]
async fn large_data_goes_through_every_dialect_and_the_proxy() {
    const LENGTH: usize = 2_000_000;
    for protocol in ALL {
        let node = node(|command| cat(command, LENGTH as u64));
        let mut running = run(through_proxy(node), protocol, IN_OUT).await;
        let content: Vec<u8> = (0..LENGTH).map(|number| (number % 253) as u8).collect();
        let mut stdin = running.stdin.take().unwrap();
        let sent = content.clone();
        tokio::spawn(async move { stdin.write_all(&sent).await.unwrap() });
        let mut received = vec![0; LENGTH];
        running.stdout.as_mut().unwrap().read_exact(&mut received).await.unwrap();
        assert!(received == content, "{protocol:?}");
        assert_eq!(running.outcome().await.unwrap(), Outcome::ExitCode(3), "{protocol:?}");
    }
}

#[tokio::test]
async fn the_end_of_input_is_seen_where_the_dialect_can_say_it() {
    for protocol in [Protocol::WebSocket, Protocol::Spdy] {
        let node = node(|command| cat(command, u64::MAX));
        let mut running = run(node, protocol, IN_OUT).await;
        let mut stdin = running.stdin.take().unwrap();
        stdin.write_all(b"some input").await.unwrap();
        stdin.shutdown().await.unwrap();
        let mut output = String::new();
        running.stdout.as_mut().unwrap().read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "some input", "{protocol:?}");
        assert_eq!(running.outcome().await.unwrap(), Outcome::ExitCode(3), "{protocol:?}");
    }
}

#[tokio::test]
async fn output_and_errors_stay_apart_and_a_failure_is_told() {
    for protocol in ALL {
        let node = node(|mut command: RemoteCommand| async move {
            assert!(command.stdin.is_none());
            command.stdout.take().unwrap().write_all(b"out").await.unwrap();
            command.stderr.take().unwrap().write_all(b"err").await.unwrap();
            Outcome::Failure("no such container".to_owned())
        });
        let mut running = run(node, protocol, StreamOptions { stdin: false, stdout: true, stderr: true, tty: false }).await;
        let (mut output, mut errors) = (String::new(), String::new());
        running.stdout.as_mut().unwrap().read_to_string(&mut output).await.unwrap();
        running.stderr.as_mut().unwrap().read_to_string(&mut errors).await.unwrap();
        assert_eq!((output.as_str(), errors.as_str()), ("out", "err"), "{protocol:?}");
        let outcome = running.outcome().await.unwrap();
        assert_eq!(outcome, Outcome::Failure("Internal error occurred: no such container".to_owned()), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_terminal_gets_its_sizes() {
    for protocol in ALL {
        let node = node(|mut command: RemoteCommand| async move {
            assert!(command.tty);
            let size = command.sizes.as_mut().unwrap().next().await.unwrap();
            let text = format!("{}x{}", size.width, size.height);
            command.stdout.take().unwrap().write_all(text.as_bytes()).await.unwrap();
            Outcome::Success
        });
        let mut running = run(node, protocol, StreamOptions { stdin: true, stdout: true, stderr: false, tty: true }).await;
        running.resize(TerminalSize { width: 120, height: 40 }).await.unwrap();
        let mut output = String::new();
        running.stdout.as_mut().unwrap().read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "120x40", "{protocol:?}");
        assert_eq!(running.outcome().await.unwrap(), Outcome::Success, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed() {
    for protocol in ALL {
        let (told, noticed) = tokio::sync::oneshot::channel();
        let told = std::sync::Arc::new(parking_lot::Mutex::new(Some(told)));
        let node = node(move |mut command: RemoteCommand| {
            let told = told.lock().take().unwrap();
            async move {
                command.stdout.as_mut().unwrap().write_all(b"x").await.unwrap();
                command.disconnected.cancelled().await;
                while command.stdout.as_mut().unwrap().write_all(b"x").await.is_ok() {
                    tokio::task::yield_now().await;
                }
                let _ = told.send(());
                Outcome::Success
            }
        });
        let mut running = run(through_proxy(node), protocol, IN_OUT).await;
        running.stdout.as_mut().unwrap().read_u8().await.unwrap();
        drop(running);
        noticed.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_stops_the_command_instead_of_filling_memory() {
    for protocol in ALL {
        let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = std::sync::Arc::clone(&written);
        let node = node(move |mut command: RemoteCommand| {
            let counter = std::sync::Arc::clone(&counter);
            async move {
                let mut stdout = command.stdout.take().unwrap();
                while stdout.write_all(&[0; 8192]).await.is_ok() {
                    counter.fetch_add(8192, std::sync::atomic::Ordering::Relaxed);
                }
                Outcome::Success
            }
        });
        let running = run(node, protocol, IN_OUT).await;
        // Real time: there is no event for "nothing happens any more".
        let mut before = usize::MAX;
        while before != written.load(std::sync::atomic::Ordering::Relaxed) {
            before = written.load(std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!((1..3_000_000).contains(&before), "{protocol:?}: {before}");
        drop(running);
    }
}

#[tokio::test]
async fn an_unknown_protocol_is_refused_with_a_reason() {
    let node = node(|_| async { Outcome::Success });
    let headers = [(http::header::SEC_WEBSOCKET_PROTOCOL, "mqtt".parse().unwrap())].into_iter().collect();
    let error = client::remote_command(node, "/exec?stdout=1", headers, Protocol::WebSocket, IN_OUT).await.unwrap_err();
    assert!(error.to_string().contains("403"), "{error}");
    assert!(error.to_string().contains("v5.channel.k8s.io"), "{error}");
}

#[test]
fn queries_of_clients_and_of_the_api_server_are_read() {
    assert_eq!(StreamOptions::from_query("command=sh&stdin=true&stdout=1"), Ok(IN_OUT));
    assert_eq!(StreamOptions::from_query("input=1&output=1"), Ok(IN_OUT));
    let terminal = StreamOptions { stdin: false, stdout: true, stderr: false, tty: true };
    assert_eq!(StreamOptions::from_query("stdout=true&stderr=true&tty=true"), Ok(terminal));
    assert_eq!(StreamOptions::from_query("stdout=false"), Err(UpgradeError::NoStream));
}

#[tokio::test]
async fn a_spdy_client_is_not_told_that_its_input_has_ended_while_the_command_runs() {
    // Go clients stop sending standard input as soon as the server ends its side of that stream.
    let headers = [("connection", "upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")]
        .into_iter()
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    let upgrade = Upgrade::remote_command(&headers).unwrap();
    let (client, server) = tokio::io::duplex(1000);
    let accepting = tokio::spawn(async move { accept(server, &upgrade, IN_OUT).await });
    let client = Connection::start(client, spdy::Role::Client);
    let mut streams = Vec::new();
    for kind in ["error", "stdin", "stdout"] {
        streams.push(client.opener().open(vec![("streamtype".to_owned(), kind.to_owned())]).await.unwrap());
    }
    let (mut command, completion) = accepting.await.unwrap().unwrap();
    let mut stdout = command.stdout.take().unwrap();
    stdout.write_all(b"running").await.unwrap();
    let [_, stdin, output] = streams.as_mut_slice() else { panic!("three streams") };
    // What was written later has arrived, so an end written earlier would have, too.
    assert_eq!(output.reader.next_piece().await.unwrap().unwrap(), "running");
    assert!(futures::poll!(Box::pin(stdin.reader.next_piece())).is_pending());
    drop((command, stdout));
    completion.finish(&Outcome::Success).await.unwrap();
    assert_eq!(stdin.reader.next_piece().await.unwrap(), None);
}
