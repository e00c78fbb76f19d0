use std::convert::Infallible;

use http::{HeaderMap, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, DuplexStream};

use super::*;
use crate::client::{self, Protocol};

/// A connection to a server that forwards port 80 to an echo, port 81 to a greeting, and refuses others.
fn node() -> DuplexStream {
    let (client, server) = tokio::io::duplex(10_000);
    tokio::spawn(async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(serve_port_forward(request, connect).map(Full::new))
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).with_upgrades().await
    });
    client
}

async fn connect(port: u16) -> io::Result<DuplexStream> {
    let (near, mut far) = tokio::io::duplex(5_000);
    match port {
        80 => {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(far);
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            });
        }
        81 => {
            tokio::spawn(async move { far.write_all(b"hello").await });
        }
        82 => {
            // Longer than the client may go on talking once the pod is silent.
            tokio::spawn(async move {
                far.read_to_end(&mut Vec::new()).await.unwrap();
                tokio::time::sleep(LAST_WORDS + Duration::from_millis(200)).await;
                far.write_all(b"late").await
            });
        }
        _ => return Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
    }
    Ok(near)
}

#[tokio::test]
async fn connections_run_side_by_side() {
    for protocol in [Protocol::WebSocket, Protocol::Spdy] {
        let forward = client::port_forward(node(), "/portForward", HeaderMap::new(), protocol).await.unwrap();
        let mut tasks = Vec::new();
        for number in 0..10u8 {
            let connection = forward.connect(80).await.unwrap();
            tasks.push(tokio::spawn(async move {
                let client::ForwardedConnection { mut reader, mut writer, .. } = connection;
                let content = vec![number; 300_000];
                let sent = content.clone();
                tokio::spawn(async move {
                    writer.write_all(&sent).await.unwrap();
                    writer.shutdown().await.unwrap();
                });
                let mut received = Vec::new();
                reader.read_to_end(&mut received).await.unwrap();
                assert!(received == content);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_refused_port_is_told_and_the_others_go_on() {
    for protocol in [Protocol::WebSocket, Protocol::Spdy] {
        let forward = client::port_forward(node(), "/portForward", HeaderMap::new(), protocol).await.unwrap();
        let failure = forward.connect(9).await.unwrap().failure().await.unwrap().unwrap();
        assert!(failure.contains("port 9") && failure.contains("refused"), "{failure}");
        let mut connection = forward.connect(81).await.unwrap();
        let mut text = String::new();
        connection.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        assert_eq!(connection.failure().await.unwrap(), None);
    }
}

#[tokio::test]
async fn all_streams_of_a_connection_end_when_the_pod_ends_it() {
    for protocol in [Protocol::WebSocket, Protocol::Spdy] {
        let forward = client::port_forward(node(), "/portForward", HeaderMap::new(), protocol).await.unwrap();
        let client::ForwardedConnection { mut reader, writer, mut errors, .. } = forward.connect(81).await.unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        // Clients before Kubernetes 1.29 wait for this before they close their own end.
        text.clear();
        errors.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "");
        drop(writer);
    }
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_the_whole_answer() {
    let forward = client::port_forward(node(), "/portForward", HeaderMap::new(), Protocol::Spdy).await.unwrap();
    let client::ForwardedConnection { mut reader, mut writer, .. } = forward.connect(82).await.unwrap();
    writer.shutdown().await.unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "late");
}

#[tokio::test]
async fn plain_websocket_clients_get_two_channels_a_port() {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    let mut request = "ws://node/portForward?ports=80,9".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, node()).await.unwrap();
    let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
    socket.send(Message::binary(b"\0ping".to_vec())).await.unwrap();
    while channels.get(&0).is_none_or(|data| data.len() < 6) || channels.get(&3).is_none_or(|data| data.len() < 10) {
        let message = socket.next().await.unwrap().unwrap().into_data();
        channels.entry(message[0]).or_default().extend_from_slice(&message[1..]);
    }
    assert_eq!(channels[&0], b"\x50\0ping");
    assert_eq!(channels[&1], b"\x50\0");
    assert_eq!(channels[&2], b"\x09\0");
    assert!(channels[&3].starts_with(b"\x09\0error forwarding port 9"));
    socket.close(None).await.unwrap();
    assert!(socket.next().await.is_none_or(|last| last.is_ok_and(|message| message.is_close())));
}

#[tokio::test]
async fn a_plain_websocket_closes_soon_after_the_pods_side_has() {
    use futures::StreamExt;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    let mut request = "ws://node/portForward?ports=81".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, node()).await.unwrap();
    let mut data = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Some((0, rest)) = message.into_data().split_first() {
            data.extend_from_slice(rest);
        }
    }
    assert_eq!(data, b"\x51\0hello");
}

#[test]
fn ports_are_read_from_the_query() {
    assert_eq!(ports_of_query("ports=80&ports=443,8080"), Ok(vec![80, 443, 8080]));
    assert_eq!(ports_of_query("port=1"), Ok(vec![1]));
    assert_eq!(ports_of_query(""), Ok(vec![]));
    for wrong in ["ports=0", "ports=", "ports=65536", "ports=x"] {
        assert_eq!(ports_of_query(wrong), Err(UpgradeError::Ports), "{wrong}");
    }
}
