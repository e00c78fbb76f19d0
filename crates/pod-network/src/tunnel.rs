//! The VXLAN device, made when the first node behind a router appears. It learns and floods nothing: each far end has
//! a permanent neighbour entry and a forwarding entry, so that no packet ever waits for an answer.

use std::net::IpAddr;

use netlink::{AddressScope, IpRange, NetlinkError, Route, RouteSocket, Vxlan};

use crate::{ROUTE_PROTOCOL, address_pool::node_address, attachment::LinkError, names::Names, peers::Path};

/// Bytes that the outer headers take: Ethernet, IPv4, UDP, VXLAN.
const OVERHEAD_V4: u32 = 50;
/// The same over IPv6.
const OVERHEAD_V6: u32 = 70;

/// What the device needs to know of its node.
pub struct Settings<'a> {
    /// Names.
    pub names: &'a Names,
    /// Name of this node.
    pub node: &'a str,
    /// UDP port.
    pub port: u16,
    /// Largest packet of the links below, in bytes.
    pub underlay_mtu: u32,
    /// Address of this node outside the tunnel.
    pub local: Option<IpAddr>,
    /// Pod ranges of this node.
    pub ranges: &'a [IpRange],
}

/// Makes the device, unless it is there, and gives it the node's addresses in its pod ranges; returns its number.
pub fn ensure(route: &RouteSocket, settings: &Settings<'_>) -> Result<u32, LinkError> {
    let name = &settings.names.tunnel;
    if route.link(name)?.is_none() {
        let overhead = if settings.local.is_some_and(|local| local.is_ipv6()) { OVERHEAD_V6 } else { OVERHEAD_V4 };
        route.add_vxlan(&Vxlan {
            name,
            identifier: settings.names.vxlan_identifier,
            port: settings.port,
            address: settings.names.tunnel_address(settings.node),
            mtu: Some(settings.underlay_mtu.saturating_sub(overhead).max(1280)),
            local: settings.local,
        })?;
    }
    let link = route.link(name)?.ok_or_else(|| LinkError::Vanished(name.clone()))?.index;
    route.set_up(link)?;
    for address in settings.ranges.iter().filter_map(|range| node_address(*range)) {
        route.add_address(link, address, IpRange::host(address).prefix(), AddressScope::Global)?;
    }
    Ok(link)
}

/// The route that leads a range along its path.
pub fn route_along(range: IpRange, path: Path, tunnel: Option<u32>) -> Option<Route> {
    match path {
        Path::Direct { gateway, link } => Some(Route::via(range, gateway, link, ROUTE_PROTOCOL)),
        Path::Tunnel { gateway, .. } => {
            Some(Route { gateway_on_link: true, ..Route::via(range, gateway, tunnel?, ROUTE_PROTOCOL) })
        }
    }
}

/// Enters a far end and the route to its pods.
pub fn add_path(route: &RouteSocket, range: IpRange, path: Path, tunnel: Option<u32>) -> Result<(), NetlinkError> {
    if let (Path::Tunnel { gateway, hardware, remote }, Some(tunnel)) = (path, tunnel) {
        route.set_forwarding(tunnel, hardware, remote)?;
        route.set_neighbour(tunnel, gateway, hardware)?;
    }
    route_along(range, path, tunnel).map_or(Ok(()), |along| route.replace_route(&along))
}

/// Takes a route away, and its far end unless another range still uses it.
pub fn remove_path(
    route: &RouteSocket,
    range: IpRange,
    path: Path,
    tunnel: Option<u32>,
    end_is_used: bool,
) -> Result<(), NetlinkError> {
    if let Some(along) = route_along(range, path, tunnel) {
        route.delete_route(&along)?;
    }
    if let (Path::Tunnel { gateway, hardware, remote }, Some(tunnel)) = (path, tunnel) {
        route.delete_neighbour(tunnel, gateway)?;
        if !end_is_used {
            route.delete_forwarding(tunnel, hardware, remote)?;
        }
    }
    Ok(())
}
