//! Links, addresses, routes, connection tracking and namespaces over netlink.
//!
//! Start at [`RouteSocket`] for everything about links, addresses, routes and neighbours, at [`NetworkNamespace`] for
//! making a namespace and working inside one, at [`ConntrackSocket`] for forgetting flows, and at [`IpRange`] for
//! address ranges. The crate `nftables` builds on [`Socket`] and [`Message`].
//!
//! Everything here is synchronous: the kernel works on a netlink request while it is being sent, so the answer is there
//! when the send returns (microseconds, a few milliseconds where links are made or taken away). A socket belongs to the
//! network namespace of the thread that opened it, for good.

mod address;
mod conntrack;
pub mod laboratory;
mod link;
mod message;
mod namespace;
mod neighbour;
mod range;
mod route;
mod socket;
mod sysctl;

pub use address::{Address, AddressScope};
pub use conntrack::{ConntrackSocket, Flow};
pub use link::{Link, MacAddress, VethPair, Vxlan};
pub use message::{Attributes, Message, attributes};
pub use namespace::{NamespaceError, NetworkNamespace, enter_namespace};
pub use range::{IpRange, MalformedRange};
pub use route::{NextHop, Route, RouteKind, RouteSocket};
pub use socket::{Answer, NetlinkError, NetlinkProtocol, Socket};
pub use sysctl::{SysctlError, read_sysctl, write_sysctl};
