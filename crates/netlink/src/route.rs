//! Routes, and the socket through which links, addresses, routes and neighbours are reached.

use std::{net::IpAddr, sync::Mutex};

use nix::errno::Errno;

use crate::{
    address::read_ip,
    message::{self, Message, attributes},
    range::IpRange,
    socket::{Answer, NetlinkError, NetlinkProtocol, Socket},
};

pub(crate) const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
pub(crate) const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTN_UNREACHABLE: u8 = 7;
const RTNH_F_ONLINK: u32 = 4;

/// Reaches links, addresses, routes and neighbours of one network namespace: that of the thread which opened it.
#[derive(Debug)]
pub struct RouteSocket {
    socket: Mutex<Socket>,
}

/// What a route does with its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Sends them on.
    Unicast,
    /// Answers that the destination cannot be reached.
    Unreachable,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub destination: IpRange,
    /// What happens with the packets.
    pub kind: RouteKind,
    /// Over which next hop; none for neighbours on the link.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway is taken to be on the link even if no address says so.
    pub gateway_on_link: bool,
    /// Number of the link.
    pub link: Option<u32>,
    /// Source address for packets of this host.
    pub preferred_source: Option<IpAddr>,
    /// Who made it: marks our own routes.
    pub protocol: u8,
    /// Among routes to the same place, the lowest wins.
    pub metric: Option<u32>,
}

impl Route {
    /// A route to neighbours on a link.
    pub fn to_link(destination: IpRange, link: u32, protocol: u8) -> Self {
        Self {
            destination,
            kind: RouteKind::Unicast,
            gateway: None,
            gateway_on_link: false,
            link: Some(link),
            preferred_source: None,
            protocol,
            metric: None,
        }
    }

    /// A route over a gateway on a link.
    pub fn via(destination: IpRange, gateway: IpAddr, link: u32, protocol: u8) -> Self {
        Self { gateway: Some(gateway), ..Self::to_link(destination, link, protocol) }
    }

    /// A route that answers "unreachable".
    pub fn unreachable(destination: IpRange, protocol: u8) -> Self {
        Self { kind: RouteKind::Unreachable, link: None, ..Self::to_link(destination, 0, protocol) }
    }
}

/// How packets to an address would leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The gateway; none where the address is on the link.
    pub gateway: Option<IpAddr>,
    /// Number of the link.
    pub link: u32,
    /// Source address that would be used.
    pub source: Option<IpAddr>,
    /// Whether the address is one of this host.
    pub local: bool,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Mutex::new(Socket::open(NetlinkProtocol::Route)?) })
    }

    pub(crate) fn request(
        &self,
        message: Message,
        doing: &dyn Fn() -> String,
    ) -> Result<Vec<Answer>, NetlinkError> {
        // A thread that panicked inside left at most unread answers, which are told apart by their sequence number.
        let mut socket = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        socket.request(message, doing)
    }

    /// Adds a route or replaces the one with the same destination and metric.
    pub fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = write_route(libc::RTM_NEWROUTE, REPLACE, route);
        self.request(message, &|| format!("add the route to {}", route.destination))?;
        Ok(())
    }

    /// Deletes a route; a route that is gone is fine.
    pub fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = write_route(libc::RTM_DELROUTE, 0, route);
        match self.request(message, &|| format!("delete the route to {}", route.destination)) {
            Err(error) if matches!(error.errno(), Errno::ESRCH | Errno::ENOENT | Errno::ENODEV) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The routes of the main table with this protocol number.
    pub fn routes(&self, protocol: u8) -> Result<Vec<Route>, NetlinkError> {
        Ok(self.all_routes()?.into_iter().filter(|route| route.protocol == protocol).collect())
    }

    /// The routes of the main table, whoever made them.
    pub fn all_routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let message = Message::new(libc::RTM_GETROUTE, DUMP, &[0; 12]);
        let answers = self.request(message, &|| "list the routes".to_owned())?;
        Ok(answers.iter().filter_map(|answer| read_route(&answer.payload)).collect())
    }

    /// How packets to this address would leave; none where no route leads there.
    pub fn next_hop(&self, address: IpAddr) -> Result<Option<NextHop>, NetlinkError> {
        let mut header = [0; 12];
        header[0] = family_of(address);
        header[1] = if address.is_ipv4() { 32 } else { 128 };
        let mut message = Message::new(libc::RTM_GETROUTE, 0, &header);
        message.attribute(RTA_DST, &octets(address));
        let answers = match self.request(message, &|| format!("find the route to {address}")) {
            Err(error) if matches!(error.errno(), Errno::ENETUNREACH | Errno::EHOSTUNREACH) => return Ok(None),
            other => other?,
        };
        Ok(answers.iter().find_map(|answer| {
            let found = attributes(answer.payload.get(12..)?);
            let kind = *answer.payload.get(7)?;
            let unicast = kind == libc::RTN_UNICAST;
            let local = kind == libc::RTN_LOCAL;
            Some(NextHop {
                gateway: found.find(RTA_GATEWAY).and_then(read_ip),
                link: message::number(found.find(RTA_OIF)?)?,
                source: found.find(RTA_PREFSRC).and_then(read_ip),
                local,
            })
            .filter(|_| unicast || local)
        }))
    }
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// The address's bytes in network order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn write_route(kind: u16, flags: u16, route: &Route) -> Message {
    let scope = match (route.kind, route.gateway) {
        (RouteKind::Unicast, None) if route.destination.is_ipv4() => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    let route_kind = match route.kind {
        RouteKind::Unicast => libc::RTN_UNICAST,
        RouteKind::Unreachable => RTN_UNREACHABLE,
    };
    let mut header = [0; 12];
    header[0] = family_of(route.destination.base());
    header[1] = route.destination.prefix();
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = route.protocol;
    header[6] = scope;
    header[7] = route_kind;
    if route.gateway_on_link {
        header[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    }
    let mut message = Message::new(kind, flags, &header);
    message.attribute(RTA_DST, &octets(route.destination.base()));
    if let Some(gateway) = route.gateway {
        message.attribute(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(link) = route.link {
        message.number(RTA_OIF, link);
    }
    if let Some(source) = route.preferred_source {
        message.attribute(RTA_PREFSRC, &octets(source));
    }
    if let Some(metric) = route.metric {
        message.number(RTA_PRIORITY, metric);
    }
    message
}

fn read_route(payload: &[u8]) -> Option<Route> {
    let family = i32::from(*payload.first()?);
    let found = attributes(payload.get(12..)?);
    let table = found.find(RTA_TABLE).and_then(message::number).unwrap_or(u32::from(*payload.get(4)?));
    if table != u32::from(libc::RT_TABLE_MAIN) {
        return None;
    }
    let kind = match *payload.get(7)? {
        libc::RTN_UNICAST => RouteKind::Unicast,
        RTN_UNREACHABLE => RouteKind::Unreachable,
        _ => return None,
    };
    let everything = match family {
        libc::AF_INET => IpRange::EVERYTHING_V4.base(),
        libc::AF_INET6 => IpRange::EVERYTHING_V6.base(),
        _ => return None,
    };
    let base = found.find(RTA_DST).and_then(read_ip).unwrap_or(everything);
    let flags = message::number(payload.get(8..12)?)?;
    Some(Route {
        destination: IpRange::containing(base, *payload.get(1)?)?,
        kind,
        gateway: found.find(RTA_GATEWAY).and_then(read_ip),
        gateway_on_link: flags & RTNH_F_ONLINK != 0,
        // IPv6 hangs its unreachable routes on the loopback link, which nobody asked for.
        link: found.find(RTA_OIF).and_then(message::number).filter(|_| kind == RouteKind::Unicast),
        preferred_source: found.find(RTA_PREFSRC).and_then(read_ip),
        protocol: *payload.get(5)?,
        // IPv6 gives every route a metric; 1024 is what it gives when none was asked for.
        metric: found
            .find(RTA_PRIORITY)
            .and_then(message::number)
            .filter(|metric| family != libc::AF_INET6 || *metric != 1024),
    })
}
