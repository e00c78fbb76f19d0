//! Tells load balancers whether this node has endpoints of a Service: they ask over HTTP on its `healthCheckNodePort`, and send packets only
//! to nodes that have, since with `externalTrafficPolicy: Local` the others drop them.
//! Source: Kubernetes 1.36, `pkg/proxy/healthcheck/service_health.go`.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use client::ObjectKey;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::AbortHandle,
};

/// How long to wait before a port that could not be had is tried again: nothing tells when whoever holds it lets go.
pub const RETRY: Duration = Duration::from_secs(5);
/// Longest time that one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest head of a request, in bytes.
const HEAD_LIMIT: usize = 8192;
/// Questions to one port that are answered at the same time; more wait.
const AT_ONCE: usize = 32;

/// What is said about one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The Service.
    pub service: ObjectKey,
    /// How many of its ready endpoints are on this node.
    pub local_endpoints: usize,
}

/// The ports that are answered on.
#[derive(Debug, Default)]
pub struct HealthServers {
    servers: BTreeMap<u16, Server>,
}

#[derive(Debug)]
struct Server {
    health: watch::Sender<Health>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthServers {
    /// Answers on these ports from now on, and on no others. Must be called within a tokio runtime.
    pub fn answer(&mut self, wanted: BTreeMap<u16, Health>) {
        self.servers.retain(|port, _| wanted.contains_key(port));
        for (port, health) in wanted {
            match self.servers.get(&port) {
                Some(server) => {
                    server.health.send_if_modified(|known| std::mem::replace(known, health.clone()) != health);
                }
                None => {
                    let (sender, receiver) = watch::channel(health);
                    let task = tokio::spawn(serve(port, receiver)).abort_handle();
                    self.servers.insert(port, Server { health: sender, task });
                }
            }
        }
    }
}

async fn serve(port: u16, health: watch::Receiver<Health>) {
    let listener = loop {
        match everywhere(port).await {
            Ok(listener) => break listener,
            Err(error) => {
                let service = health.borrow().service.clone();
                tracing::warn!(%service, port, %error, "load balancers cannot ask about a service; trying again in {RETRY:?}");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    // Whatever is asked, the answer is the same.
    serve_on(listener, Arc::new(move |_: &str| answer(&health.borrow()))).await;
}

/// Answers every question on a port with what `answer` says of its path.
pub async fn serve_on(listener: TcpListener, answer: Arc<impl Fn(&str) -> String + Send + Sync + 'static>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for one: nothing tells when there are some again.
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            // Who does not listen to the answer asks again.
            let _ = tokio::time::timeout(PATIENCE, converse(stream, &*answer)).await;
            drop(permit);
        });
    }
}

/// Listens on a port in both families where the kernel has both.
pub async fn everywhere(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

async fn converse(mut stream: TcpStream, answer: &(impl Fn(&str) -> String + Sync)) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") && head.len() < HEAD_LIMIT {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split_ascii_whitespace().nth(1).and_then(|target| target.split('?').next()).unwrap_or_default();
    stream.write_all(answer(path).as_bytes()).await?;
    stream.shutdown().await
}

fn answer(health: &Health) -> String {
    let ObjectKey { namespace, name } = &health.service;
    let count = health.local_endpoints;
    let status = if count > 0 { "200 OK" } else { "503 Service Unavailable" };
    let (namespace, name) = (namespace.as_deref().unwrap_or_default(), &**name);
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\nX-Load-Balancing-Endpoint-Weight: {count}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(local_endpoints: usize) -> Health {
        Health { service: ObjectKey::namespaced("a", "web"), local_endpoints }
    }

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /anything HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    #[tokio::test]
    async fn a_port_is_answered_on_as_long_as_it_is_wanted() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut servers = HealthServers::default();
        servers.answer(BTreeMap::from([(port, health(0))]));
        // Nothing tells when the port is open.
        let first = loop {
            match ask(port).await {
                Some(answer) => break answer,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert!(first.starts_with("HTTP/1.1 503 ") && first.contains("\"localEndpoints\": 0,"), "{first}");
        servers.answer(BTreeMap::from([(port, health(2))]));
        let second = ask(port).await.unwrap();
        assert!(second.starts_with("HTTP/1.1 200 ") && second.contains("\r\nX-Load-Balancing-Endpoint-Weight: 2\r\n"), "{second}");
        let (_, body) = second.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body, serde_json::json!({ "service": { "namespace": "a", "name": "web" }, "localEndpoints": 2, "serviceProxyHealthy": true }));
        servers.answer(BTreeMap::new());
        while ask(port).await.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
