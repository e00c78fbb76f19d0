//! The Dialer seam: how the API server reaches node APIs, pods and webhook back ends.
//!
//! Fillings: [`direct`] connects over the server's own network; [`tunnel`] goes through the connection that each agent keeps open to
//! every server ([`agent`] is its other end), so that agents behind NAT, and a server without an agent, work too; [`local`] hands
//! connections to a node in the same process. [`ClusterDialer`] tries them in the order local, tunnel, direct.

#![forbid(unsafe_code)]

pub mod agent;
pub mod cluster;
pub mod direct;
pub mod local;
pub mod tunnel;
mod two_tasks;
mod wire;

pub use agent::maintain_tunnel;
pub use cluster::ClusterDialer;
pub use direct::DirectDialer;
pub use local::LocalNodes;
pub use tunnel::TunnelRegistry;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected byte stream.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// What to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The node API (kubelet port) of a node, TLS included: bytes on the connection are plain HTTP.
    NodeApi {
        /// The node's name.
        node: String,
    },
    /// A TCP port of a pod address, seen from the node it runs on.
    Pod {
        /// The node it runs on.
        node: String,
        /// Its address.
        address: std::net::IpAddr,
        /// Port.
        port: u16,
    },
    /// Any address, as the server's own network sees it (webhook URLs, endpoints without a node).
    Address {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NodeApi { node } => write!(formatter, "the node API of {node}"),
            Self::Pod { node, address, port } => write!(formatter, "{} on {node}", std::net::SocketAddr::new(*address, *port)),
            Self::Address { host, port } => write!(formatter, "{host}:{port}"),
        }
    }
}

/// Why a target could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection of that node, and no address to try.
    #[error("node {0} is not connected to this server")]
    NodeUnreachable(String),
    /// The connection was refused, or failed.
    #[error("could not connect to {target}")]
    Connect {
        /// What was dialled.
        target: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl DialError {
    fn connect(target: &Target, source: std::io::Error) -> Self {
        Self::Connect { target: target.to_string(), source }
    }
}

/// Opens connections inwards.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to a target.
    async fn dial(&self, target: &Target) -> Result<Box<dyn Connection>, DialError>;
}

/// Serves the connections that arrive at a node API: plain HTTP, from a caller who has been authenticated as an API server.
pub trait NodeApi: Send + Sync + 'static {
    /// Takes a connection over; must not block.
    fn serve(&self, connection: Box<dyn Connection>);
}

impl<F: Fn(Box<dyn Connection>) + Send + Sync + 'static> NodeApi for F {
    fn serve(&self, connection: Box<dyn Connection>) {
        self(connection);
    }
}
