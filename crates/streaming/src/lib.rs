//! Multiplexed byte streams for exec, attach and port-forward: WebSocket v5/v4 and SPDY/3.1.
//!
//! A client upgrades an HTTP/1.1 request and then runs several streams over the one connection. Which of the dialects below it
//! speaks depends on its age; a server written against this crate does not notice.
//!
//! | client | exec, attach | port-forward |
//! |---|---|---|
//! | Go since 1.31 | WebSocket `v5.channel.k8s.io` | SPDY frames inside WebSocket (`SPDY/3.1+portforward.k8s.io`) |
//! | Go before | SPDY/3.1, `v4.channel.k8s.io` and older | SPDY/3.1, `portforward.k8s.io` |
//! | other languages, browsers | WebSocket `v4.channel.k8s.io` and older, also base64 | WebSocket, two channels a port |
//!
//! - [`handshake`]: which dialect a request asks for, and the answer to it
//! - [`remote_command`]: the serving side of exec and attach
//! - [`port_forward`]: the serving side of port-forward
//! - [`download`]: a body that is sent over WebSocket, as for logs and watches
//! - [`proxy`]: passing an upgraded connection on, byte for byte, as the API server does towards nodes
//! - [`client`]: the calling side, for tests and Rust callers
//! - [`grpc`]: one call of gRPC, for those who need no more of it
//! - [`channel`]: one stream of a connection, as a reader and a writer
//! - `websocket`, `spdy`: the two wire formats, each as a pure frame codec and a connection above it
//!
//! Memory per connection is bounded: each stream holds a few pieces of at most [`channel::PIECE_BYTES`], and a reader that does not
//! keep up stops the whole connection, as neither format (as Kubernetes uses it) has flow control of its own.

#![forbid(unsafe_code)]

pub mod channel;
pub mod client;
pub mod download;
pub mod grpc;
pub mod handshake;
pub mod port_forward;
pub mod proxy;
pub mod remote_command;
mod spdy;
pub mod status;
mod websocket;

pub use channel::{ChannelReader, ChannelWriter};
pub use download::{serve_download, serve_messages};
pub use handshake::{Upgrade, UpgradeError};
pub use port_forward::serve_port_forward;
pub use proxy::proxy_upgrade;
pub use remote_command::{RemoteCommand, StreamOptions, TerminalSize, serve_remote_command};
pub use status::Outcome;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connected byte stream.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The bytes are not what the protocol allows.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    /// The connection broke.
    #[error("the connection broke")]
    Connection(#[from] std::io::Error),
    /// The client did not open its streams in time.
    #[error("timed out waiting for the client to open its streams")]
    StreamsMissing,
}
