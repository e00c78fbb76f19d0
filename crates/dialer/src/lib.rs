//! The Dialer seam: how the API server reaches node APIs, pods and webhook back ends.
//!
//! Two fillings: [`direct`] connects over the server's own network; the tunnel goes through the connection that each
//! agent keeps open to every server, so that agents behind NAT, and a server without an agent, work too.

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

/// Opens connections inwards.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to a target.
    async fn dial(&self, target: &Target) -> Result<Box<dyn Connection>, DialError>;
}
