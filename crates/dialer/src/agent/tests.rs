use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;

use super::*;
use crate::{ClusterDialer, DialError, Dialer, Target, TunnelRegistry};

/// A connection to an API server that accepts tunnels of node `a`.
fn server(registry: &TunnelRegistry) -> DuplexStream {
    let (client, server) = tokio::io::duplex(10_000);
    let registry = registry.clone();
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let response = registry.accept("a", request).map(Full::new);
            async move { Ok::<_, Infallible>(response) }
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).with_upgrades().await
    });
    client
}

/// A node API that sends back what it gets.
fn echo() -> Arc<dyn NodeApi> {
    Arc::new(|connection: Box<dyn Connection>| {
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(connection);
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await
        });
    })
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A dialer whose only way to node `a` is a tunnel; cancelled and dropped with the guard.
async fn connected() -> (ClusterDialer, tokio_util::sync::DropGuard) {
    let dialer = ClusterDialer::default();
    let cancel = CancellationToken::new();
    let (registry, cancelled) = (dialer.tunnels.clone(), cancel.clone());
    tokio::spawn(async move {
        let connect = || std::future::ready(Ok(server(&registry)));
        maintain_tunnel("test", connect, echo(), cancelled).await;
    });
    until(|| dialer.tunnels.is_connected("a")).await;
    (dialer, cancel.drop_guard())
}

async fn round_trip(dialer: &ClusterDialer, target: &Target, content: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(dialer.dial(target).await.unwrap());
    tokio::spawn(async move {
        writer.write_all(&content).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    received
}

fn node_api() -> Target {
    Target::NodeApi { node: "a".to_owned() }
}

#[tokio::test]
async fn node_apis_are_reached_through_the_tunnel_side_by_side() {
    let (dialer, _guard) = connected().await;
    let mut tasks = Vec::new();
    for number in 0..20u8 {
        let dialer = dialer.clone();
        tasks.push(tokio::spawn(async move {
            let content = vec![number; 500_000];
            assert!(round_trip(&dialer, &node_api(), content.clone()).await == content);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn pods_are_reached_through_the_tunnel_and_a_refusal_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    });
    let (dialer, _guard) = connected().await;
    let pod = |port| Target::Pod { node: "a".to_owned(), address: [127, 0, 0, 1].into(), port };
    assert_eq!(round_trip(&dialer, &pod(port), b"hello".to_vec()).await, b"hello");
    match dialer.dial(&pod(1)).await {
        Err(DialError::Connect { source, .. }) => assert!(source.to_string().contains("refused"), "{source}"),
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test]
async fn a_broken_tunnel_is_made_again_and_a_cancelled_one_is_not() {
    let registry = TunnelRegistry::default();
    let cancel = CancellationToken::new();
    let attempts = Arc::new(AtomicUsize::new(0));
    let (serving, cancelled, counter) = (registry.clone(), cancel.clone(), Arc::clone(&attempts));
    let agent = tokio::spawn(async move {
        let connect = || {
            let attempt = counter.fetch_add(1, Ordering::Relaxed);
            let server = (attempt >= 3).then(|| server(&serving));
            async move { server.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused)) }
        };
        maintain_tunnel("test", connect, echo(), cancelled).await;
    });
    until(|| registry.is_connected("a")).await;
    assert_eq!(attempts.load(Ordering::Relaxed), 4);
    cancel.cancel();
    agent.await.unwrap();
    until(|| !registry.is_connected("a")).await;
    assert!(matches!(registry.dial(&node_api()).await, Err(DialError::NodeUnreachable(_))));
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_given_up() {
    let registry = TunnelRegistry::default();
    let (_silent, server) = tokio::io::duplex(1000);
    let serving = registry.clone();
    tokio::spawn(async move { serving.serve("a", server).await });
    until(|| registry.is_connected("a")).await;
    assert!(matches!(registry.dial(&node_api()).await, Err(DialError::NodeUnreachable(_))));
    assert!(!registry.is_connected("a"));
}

#[tokio::test]
async fn the_newest_tunnel_of_a_node_is_used() {
    let registry = TunnelRegistry::default();
    let mut old_ends = Vec::new();
    for reply in ["old", "new"] {
        let (agent, server) = tokio::io::duplex(1000);
        let serving = registry.clone();
        let session = tokio::spawn(async move { serving.serve("a", server).await });
        let api = move |mut connection: Box<dyn Connection>| {
            tokio::spawn(async move { connection.write_all(reply.as_bytes()).await });
        };
        let agent = tokio::spawn(async move { serve(agent, Arc::new(api)).await });
        let mut text = String::new();
        // The session's task needs its turn first.
        while text != reply {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if let Ok(connection) = registry.dial(&node_api()).await {
                text.clear();
                connection.take(3).read_to_string(&mut text).await.unwrap();
            }
        }
        old_ends.push((agent, session));
    }
    let (agent, session) = old_ends.remove(0);
    agent.abort();
    let _ = session.await.unwrap();
    assert!(registry.is_connected("a"), "the end of the old tunnel leaves the new one alone");
}

#[tokio::test]
async fn garbage_ends_a_tunnel_without_harm() {
    let registry = TunnelRegistry::default();
    let (mut agent, server) = tokio::io::duplex(1000);
    agent.write_all(&[0xff; 500]).await.unwrap();
    assert!(registry.serve("a", server).await.is_err());
    assert!(!registry.is_connected("a"));
}
