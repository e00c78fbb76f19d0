//! The server's end of the tunnels: agents connect, and the server opens streams to their nodes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use crate::wire::{self, HEADER_TIMEOUT, Header, Opening};
use crate::{Connection, DialError, Target};

/// Where agents connect: a GET that asks for an upgrade to [`PROTOCOL`]. The server must know the caller as user `system:node:NAME`
/// in group `system:nodes`, and takes the node's name from there.
pub const PATH: &str = "/knarr/v1/tunnel";
/// The protocol that agents ask for in `Upgrade`.
pub const PROTOCOL: &str = "knarr-tunnel/1";
/// Streams that may wait to be opened in one tunnel.
const WAITING_OPENINGS: usize = 64;

/// The tunnels of all connected agents. Cloning shares them.
#[derive(Clone, Default)]
pub struct TunnelRegistry(Arc<Registry>);

#[derive(Default)]
struct Registry {
    sessions: RwLock<HashMap<String, Session>>,
    next_id: AtomicU64,
}

#[derive(Clone)]
struct Session {
    id: u64,
    openings: mpsc::Sender<Opening>,
}

impl TunnelRegistry {
    /// Answers an agent's request to [`PATH`] and serves its tunnel once the connection has switched. `node` is the name that its
    /// certificate proves.
    pub fn accept<B>(&self, node: &str, mut request: Request<B>) -> Response<Bytes> {
        let asked = request.headers().get(UPGRADE).is_some_and(|protocol| protocol == PROTOCOL);
        if !asked {
            let mut response = Response::new(Bytes::from(format!("the request must ask for an upgrade to {PROTOCOL}\n")));
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
            return response;
        }
        let upgraded = hyper::upgrade::on(&mut request);
        let (registry, node) = (self.clone(), node.to_owned());
        tokio::spawn(async move {
            let served = async { registry.serve(&node, TokioIo::new(upgraded.await.map_err(io::Error::other)?)).await };
            match served.await {
                Ok(()) => tracing::info!(%node, "the agent's tunnel closed"),
                Err(error) => tracing::info!(%node, %error, "the agent's tunnel broke"),
            }
        });
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        response
    }

    /// Serves an agent's connection until it ends. A later one of the same node takes over new connections at once; streams of the
    /// earlier one go on as long as it lasts.
    pub async fn serve<C: Connection>(&self, node: &str, connection: C) -> io::Result<()> {
        let (openings, waiting) = mpsc::channel(WAITING_OPENINGS);
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        self.0.sessions.write().insert(node.to_owned(), Session { id, openings });
        tracing::info!(%node, "the agent's tunnel is open");
        let _registered = Registered { registry: self.clone(), node: node.to_owned(), id };
        // Agents open nothing towards the server; what they try is dropped, which resets it.
        wire::drive(connection, yamux::Mode::Server, waiting, drop).await
    }

    /// Whether the node's agent is connected.
    pub fn is_connected(&self, node: &str) -> bool {
        self.0.sessions.read().contains_key(node)
    }

    /// The nodes whose agents are connected.
    pub fn nodes(&self) -> Vec<String> {
        self.0.sessions.read().keys().cloned().collect()
    }

    /// Opens a connection through the tunnel of the target's node.
    /// # Errors
    /// [`DialError::NodeUnreachable`] when there is no tunnel, or it does not work any more; [`DialError::Connect`] when the node
    /// itself could not connect, which no other way will change.
    pub async fn dial(&self, target: &Target) -> Result<Box<dyn Connection>, DialError> {
        let (node, header) = match target {
            Target::NodeApi { node } => (node, Header::NodeApi),
            Target::Pod { node, address, port } => (node, Header::Pod(SocketAddr::new(*address, *port))),
            Target::Address { host, .. } => return Err(DialError::NodeUnreachable(host.clone())),
        };
        let session = self.0.sessions.read().get(node).cloned().ok_or_else(|| DialError::NodeUnreachable(node.clone()))?;
        match tokio::time::timeout(HEADER_TIMEOUT, open(&session, header)).await {
            Ok(Ok(Ok(stream))) => Ok(Box::new(stream)),
            Ok(Ok(Err(reason))) => Err(DialError::connect(target, io::Error::other(reason))),
            Ok(Err(error)) => {
                tracing::debug!(%node, %error, "a tunnel does not work");
                Err(DialError::NodeUnreachable(node.clone()))
            }
            Err(_) => {
                // An agent that does not answer in time may be gone without a word; the next dial must not wait for it again.
                tracing::info!(%node, "the agent does not answer through its tunnel");
                self.remove(node, session.id);
                Err(DialError::NodeUnreachable(node.clone()))
            }
        }
    }

    fn remove(&self, node: &str, id: u64) {
        let mut sessions = self.0.sessions.write();
        if sessions.get(node).is_some_and(|session| session.id == id) {
            sessions.remove(node);
        }
    }
}

async fn open(session: &Session, header: Header) -> io::Result<Result<wire::Stream, String>> {
    let broken = || io::Error::new(io::ErrorKind::BrokenPipe, "the tunnel is closed");
    let (sender, receiver) = oneshot::channel();
    session.openings.send(sender).await.map_err(|_| broken())?;
    let mut stream = receiver.await.map_err(|_| broken())??;
    header.write(&mut stream).await?;
    Ok(wire::read_answer(&mut stream).await?.map(|()| stream))
}

/// Takes a session out of the registry when its connection ends, however it ends.
struct Registered {
    registry: TunnelRegistry,
    node: String,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.remove(&self.node, self.id);
    }
}
