//! Pod addresses and links of one node, and its routes to the others.
//!
//! [`RoutedPodNetwork`] fills the seam `pod-sandbox-network`. Pods are routed, not bridged:
//!
//! - each pod has a veth pair (`attachment.rs`) and addresses out of the node's pod ranges (`address_pool.rs`),
//!   recorded on tmpfs (`record.rs`), so that restarts of the agent change nothing;
//! - the pods of other nodes are reached by a route over the node where it is on the same link, else through one VXLAN
//!   device (`peers.rs` decides, `tunnel.rs` builds);
//! - one nftables table holds host ports and masquerades what leaves the cluster (`host_rules.rs`);
//! - kernel parameters are recorded before they are changed (`kernel_parameters.rs`), and
//!   [`RoutedPodNetwork::teardown`] leaves nothing behind.
//!
//! Services are not known here; they are the business of the service proxy.

#![forbid(unsafe_code)]

mod address_pool;
mod attachment;
mod host_rules;
mod kernel_parameters;
mod names;
mod peers;
mod record;
mod routed;
mod tunnel;

pub use attachment::LinkError;
pub use kernel_parameters::ParameterError;
pub use netlink::IpRange;
pub use peers::NodeFacts;
pub use routed::{OpenError, Options, RoutedPodNetwork};

/// Marks our routes in the kernel's tables (`proto 75`).
pub(crate) const ROUTE_PROTOCOL: u8 = 75;
