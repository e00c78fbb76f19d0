//! The cluster's names, answered by every node itself.
//!
//! Every node has the cluster's DNS address on its loopback link, so that its pods reach a server on their own node
//! without translation, and DNS works as long as the node does.
//!
//! - `names.rs`: Services and EndpointSlices as names; what a question gets (pure)
//! - `wire.rs`: questions read, answers written (RFC 1035, 2782, 6891)
//! - `forward.rs`: everything else goes to the servers of the host's `resolv.conf`
//! - `server.rs`: the sockets
//!
//! Names follow the Kubernetes DNS specification 1.1. Answers come straight from the state; nothing is built per change.

#![forbid(unsafe_code)]

mod forward;
mod names;
mod resolv_conf;
mod server;
mod wire;

pub use forward::{Outside, SocketsHere, SocketsIn};
pub use names::Names;
pub use server::{ClusterDns, DnsError, Options};
