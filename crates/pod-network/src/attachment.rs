//! One pod's link: the veth pair, the pod's side of it and the host's route to it.
//!
//! Inside, the pod sees one link with addresses of full length and a gateway that exists only as a permanent neighbour
//! entry: 169.254.1.1 and fe80::1 stand for the host's end. The host in turn has a route and a permanent neighbour entry
//! for each address of the pod. So nobody ever has to ask who has an address, and no bridge is needed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
};

use netlink::{
    AddressScope, IpRange, MacAddress, NamespaceError, NetlinkError, NetworkNamespace, Route, RouteSocket, VethPair,
};

use crate::{ROUTE_PROTOCOL, names, record::Attachment};

/// The link's name inside the pod.
const POD_LINK: &str = "eth0";
/// The gateway that pods see.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The gateway that pods see.
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// The hardware address of the host's end of every pair: the links are all separate, so it need not differ.
const HOST_ADDRESS: MacAddress = MacAddress([0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
/// Routes inside a pod count as set up at start (`RTPROT_BOOT`).
const POD_ROUTE_PROTOCOL: u8 = 3;


/// Why a link could not be set up: the step, and the kernel's answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The pod's namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A request over netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A parameter of the link.
    #[error(transparent)]
    Parameter(#[from] netlink::SysctlError),
    /// A link vanished while it was set up.
    #[error("link {0} vanished while it was being set up")]
    Vanished(String),
}

/// Makes the pair and everything on both sides. Repeating it completes what is missing.
pub fn connect(route: &RouteSocket, host_link: &str, attachment: &Attachment, mtu: u32) -> Result<(), LinkError> {
    let request = &attachment.request;
    let namespace = NetworkNamespace::open(&request.network_namespace)?;
    let pair = VethPair {
        host_name: host_link,
        host_address: HOST_ADDRESS,
        peer_name: POD_LINK,
        peer_address: names::pod_address(&request.sandbox),
        peer_namespace: namespace.as_fd(),
        mtu: Some(mtu),
    };
    match route.add_veth(&pair) {
        Err(error) if error.already_exists() => {}
        other => other?,
    }
    let host = route.link(host_link)?.ok_or_else(|| LinkError::Vanished(host_link.to_owned()))?;
    route.set_up_with_alias(host.index, &format!("pod {}/{}", request.pod_namespace, request.pod_name))?;
    if attachment.request.host_ports.iter().any(|port| port.host_ip.is_none_or(|address| address.is_ipv4())) {
        // Connections to a host port on 127.0.0.1 come by this link; `host_rules` keeps all others out.
        netlink::write_sysctl(&format!("net/ipv4/conf/{host_link}/route_localnet"), "1")?;
    }
    namespace.run(|| configure_inside(&attachment.addresses))??;
    for address in &attachment.addresses {
        route.set_neighbour(host.index, *address, names::pod_address(&request.sandbox))?;
        route.replace_route(&Route::to_link(IpRange::host(*address), host.index, ROUTE_PROTOCOL))?;
    }
    Ok(())
}

fn configure_inside(addresses: &[IpAddr]) -> Result<(), LinkError> {
    let route = RouteSocket::open()?;
    let find = |name: &str| -> Result<_, LinkError> {
        Ok(route.link(name)?.ok_or_else(|| LinkError::Vanished(name.to_owned()))?.index)
    };
    route.set_up(find("lo")?)?;
    let link = find(POD_LINK)?;
    route.set_up(link)?;
    for address in addresses {
        route.add_address(link, *address, IpRange::host(*address).prefix(), AddressScope::Global)?;
        let (gateway, everything) = match address {
            IpAddr::V4(_) => (GATEWAY_V4, IpRange::EVERYTHING_V4),
            IpAddr::V6(_) => (GATEWAY_V6, IpRange::EVERYTHING_V6),
        };
        route.set_neighbour(link, gateway, HOST_ADDRESS)?;
        if gateway.is_ipv4() {
            route.replace_route(&Route::to_link(IpRange::host(gateway), link, POD_ROUTE_PROTOCOL))?;
        }
        route.replace_route(&Route::via(everything, gateway, link, POD_ROUTE_PROTOCOL))?;
    }
    Ok(())
}
