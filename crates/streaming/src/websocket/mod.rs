//! WebSocket (RFC 6455) as Kubernetes uses it: messages whose first byte names a channel, or a plain byte stream inside messages.

pub(crate) mod channels;
pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod tunnel;

/// Which end of the connection this is: clients mask what they send, servers do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}
