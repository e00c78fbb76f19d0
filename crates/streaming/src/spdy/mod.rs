//! SPDY/3.1, as Go clients before 1.31 speak it, and newer ones inside WebSocket for port-forward.
//!
//! Only what Kubernetes needs is acted upon: streams with headers, data, half-closing, resets, pings and going away. Flow control is
//! not: the Go library sends no window updates and waits for none, so a window would only stop the connection for good.

pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod headers;

/// Which end of the connection this is: clients open odd streams, servers even ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}
