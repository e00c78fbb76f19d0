//! Services as nftables verdict maps, updated in one transaction per change.
//!
//! One table per node. A packet's destination (address, protocol, port) is looked up once, in a map from which it goes to
//! the chain of its service; how many services there are makes no difference. That chain picks an endpoint at random and
//! translates the destination; connection tracking does the rest of the flow.
//!
//! - `service.rs`, `slice.rs`: what matters of Services and EndpointSlices
//! - `endpoints.rs`: which endpoints a service has on this node
//! - `program.rs`: the chains and map entries of one service
//! - `state.rs`: everything together, and the transaction from what is installed to what should be (pure)
//! - `table.rs`: the part of the table that is the same whatever services there are
//! - `flows.rs`: which tracked UDP flows must be forgotten
//! - `health.rs`: what load balancers are told that ask for a node with endpoints
//! - `own_health.rs`: what anybody is told who asks whether the proxy does its work
//! - `proxy.rs`: follows the cluster and applies transactions
//!
//! Masquerading uses a bit of the flow's mark, not of the packet's, so that policy routing never sees it and tunnels do
//! not inherit it. What the proxy needs no part in: headless Services (names only), ExternalName, and addresses that the
//! node serves itself ([`Options::served_here`]).

#![forbid(unsafe_code)]

mod endpoints;
mod flows;
mod health;
mod own_health;
mod program;
mod proxy;
mod service;
mod slice;
mod state;
mod table;

pub use proxy::{ProxyError, ServiceProxy};
pub use state::{Options, State};
