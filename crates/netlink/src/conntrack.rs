//! Forgetting tracked flows, so that the next packet is judged by the rules of now.
//!
//! TCP notices by itself when its other end is gone; a UDP client that keeps its port would otherwise go on talking to
//! an address where nobody listens, for as long as it sends.

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use crate::{
    address::read_ip,
    message::{Attributes, Message, attributes},
    route::octets,
    socket::{NetlinkError, NetlinkProtocol, Socket},
};

const CONNTRACK: u16 = 1 << 8;
const GET: u16 = CONNTRACK | 1;
const DELETE: u16 = CONNTRACK | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// One tracked flow of UDP, TCP or SCTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Who started it.
    pub original_source: SocketAddr,
    /// Whom it was meant for: the service.
    pub original_destination: SocketAddr,
    /// Who answers: the endpoint, where the destination was translated.
    pub reply_source: SocketAddr,
}

/// Reaches the connection tracking of one network namespace: that of the thread which opened it.
#[derive(Debug)]
pub struct ConntrackSocket {
    socket: Socket,
}

impl ConntrackSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(NetlinkProtocol::Netfilter)? })
    }

    /// The flows that are tracked now.
    pub fn flows(&mut self) -> Result<Vec<Flow>, NetlinkError> {
        Ok(self.entries()?.into_iter().map(|(flow, _)| flow).collect())
    }

    /// Forgets the flows that `doomed` picks; says how many.
    pub fn forget(&mut self, doomed: impl Fn(&Flow) -> bool) -> Result<usize, NetlinkError> {
        let mut count = 0;
        for (flow, original) in self.entries()? {
            if !doomed(&flow) {
                continue;
            }
            let family = if flow.original_source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let mut message = Message::new(DELETE, 0, &[family as u8, 0, 0, 0]);
            message.nested(CTA_TUPLE_ORIG, |tuple| {
                tuple.nested(CTA_TUPLE_IP, |ip| match flow.original_source.ip() {
                    IpAddr::V4(_) => {
                        ip.attribute(CTA_IP_V4_SRC, &octets(flow.original_source.ip()));
                        ip.attribute(CTA_IP_V4_DST, &octets(flow.original_destination.ip()));
                    }
                    IpAddr::V6(_) => {
                        ip.attribute(CTA_IP_V6_SRC, &octets(flow.original_source.ip()));
                        ip.attribute(CTA_IP_V6_DST, &octets(flow.original_destination.ip()));
                    }
                });
                tuple.nested(CTA_TUPLE_PROTO, |ports| {
                    ports.attribute(CTA_PROTO_NUM, &[flow.protocol]);
                    ports.attribute(CTA_PROTO_SRC_PORT, &flow.original_source.port().to_be_bytes());
                    ports.attribute(CTA_PROTO_DST_PORT, &flow.original_destination.port().to_be_bytes());
                });
            });
            if let Some(zone) = original {
                message.attribute(CTA_ZONE, &zone.to_be_bytes());
            }
            let doing = || format!("forget the flow to {}", flow.original_destination);
            match self.socket.request(message, &doing) {
                Ok(_) => count += 1,
                // It ended by itself in the meantime.
                Err(error) if error.errno() == Errno::ENOENT => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    fn entries(&mut self) -> Result<Vec<(Flow, Option<u16>)>, NetlinkError> {
        let message = Message::new(GET, libc::NLM_F_DUMP as u16, &[libc::AF_UNSPEC as u8, 0, 0, 0]);
        let answers = self.socket.request(message, &|| "list the tracked flows".to_owned())?;
        Ok(answers.iter().filter_map(|answer| read_flow(&answer.payload)).collect())
    }
}

fn read_flow(payload: &[u8]) -> Option<(Flow, Option<u16>)> {
    let found = attributes(payload.get(4..)?);
    let (protocol, original_source, original_destination) = read_tuple(attributes(found.find(CTA_TUPLE_ORIG)?))?;
    let (_, reply_source, _) = read_tuple(attributes(found.find(CTA_TUPLE_REPLY)?))?;
    let zone = found.find(CTA_ZONE).and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)));
    Some((Flow { protocol, original_source, original_destination, reply_source }, zone))
}

fn read_tuple(tuple: Attributes<'_>) -> Option<(u8, SocketAddr, SocketAddr)> {
    let addresses = attributes(tuple.find(CTA_TUPLE_IP)?);
    let source = addresses.find(CTA_IP_V4_SRC).or_else(|| addresses.find(CTA_IP_V6_SRC)).and_then(read_ip)?;
    let destination = addresses.find(CTA_IP_V4_DST).or_else(|| addresses.find(CTA_IP_V6_DST)).and_then(read_ip)?;
    let ports = attributes(tuple.find(CTA_TUPLE_PROTO)?);
    let port = |kind| Some(u16::from_be_bytes(ports.find(kind)?.try_into().ok()?));
    Some((
        *ports.find(CTA_PROTO_NUM)?.first()?,
        SocketAddr::new(source, port(CTA_PROTO_SRC_PORT)?),
        SocketAddr::new(destination, port(CTA_PROTO_DST_PORT)?),
    ))
}
