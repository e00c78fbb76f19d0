//! Network links: veth pairs, VXLAN devices, dummies and bridges; finding, raising and deleting them.

use std::{
    fmt,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::errno::Errno;

use crate::{
    message::{self, Message, attributes},
    route::{CREATE, DUMP, RouteSocket},
    socket::NetlinkError,
};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// The hardware address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// A locally administered unicast address made from the first six bytes of a digest.
    pub fn from_digest(digest: [u8; 6]) -> Self {
        let [first, rest @ ..] = digest;
        let [a, b, c, d, e] = rest;
        Self([(first & 0xfc) | 0x02, a, b, c, d, e])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Its hardware address, where it has one of six bytes.
    pub address: Option<MacAddress>,
    /// The free text of `ip link set … alias`.
    pub alias: String,
    /// What made it (`veth`, `vxlan`, …), empty for hardware.
    pub kind: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether packets can pass: both ends are up.
    pub running: bool,
    /// The lower or peer link's number, where the kernel tells.
    pub parent: Option<u32>,
}

/// A veth pair to make: one end here, one in another namespace.
#[derive(Debug, Clone)]
pub struct VethPair<'a> {
    /// Name of the end that stays here, at most 15 bytes.
    pub host_name: &'a str,
    /// Its hardware address.
    pub host_address: MacAddress,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Its hardware address.
    pub peer_address: MacAddress,
    /// Namespace of the other end.
    pub peer_namespace: BorrowedFd<'a>,
    /// Largest packet of both, in bytes; the kernel's default where none.
    pub mtu: Option<u32>,
}

/// A VXLAN device to make: it learns nothing, every peer is entered.
#[derive(Debug, Clone)]
pub struct Vxlan<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// The network identifier, 24 bits.
    pub identifier: u32,
    /// The UDP port that all nodes use.
    pub port: u16,
    /// Its hardware address.
    pub address: MacAddress,
    /// Largest inner packet, in bytes.
    pub mtu: Option<u32>,
    /// Source address of the outer packets.
    pub local: Option<IpAddr>,
}

impl RouteSocket {
    /// The link of this name, none where it does not exist.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        self.one_link(message, &|| format!("look up link {name}"))
    }

    /// The link of this number, none where it does not exist.
    pub fn link_at(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let message = Message::new(libc::RTM_GETLINK, 0, &link_header(index, 0, 0));
        self.one_link(message, &|| format!("look up link number {index}"))
    }

    fn one_link(&self, message: Message, doing: &dyn Fn() -> String) -> Result<Option<Link>, NetlinkError> {
        match self.request(message, doing) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| read_link(&answer.payload))),
            Err(error) if matches!(error.errno(), Errno::ENODEV | Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links of the namespace.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let message = Message::new(libc::RTM_GETLINK, DUMP, &link_header(0, 0, 0));
        let answers = self.request(message, &|| "list the links".to_owned())?;
        Ok(answers.iter().filter_map(|answer| read_link(&answer.payload)).collect())
    }

    /// Makes a veth pair with both ends down.
    pub fn add_veth(&self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, pair.host_name).attribute(IFLA_ADDRESS, &pair.host_address.0);
        if let Some(mtu) = pair.mtu {
            message.number(IFLA_MTU, mtu);
        }
        message.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |data| {
                data.nested_with_header(VETH_INFO_PEER, &link_header(0, 0, 0), |peer| {
                    peer.text(IFLA_IFNAME, pair.peer_name).attribute(IFLA_ADDRESS, &pair.peer_address.0);
                    peer.number(IFLA_NET_NS_FD, pair.peer_namespace.as_raw_fd() as u32);
                    if let Some(mtu) = pair.mtu {
                        peer.number(IFLA_MTU, mtu);
                    }
                });
            });
        });
        self.request(message, &|| format!("make the link pair {} and {}", pair.host_name, pair.peer_name))?;
        Ok(())
    }

    /// Makes a VXLAN device, down.
    pub fn add_vxlan(&self, vxlan: &Vxlan<'_>) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, vxlan.name).attribute(IFLA_ADDRESS, &vxlan.address.0);
        if let Some(mtu) = vxlan.mtu {
            message.number(IFLA_MTU, mtu);
        }
        message.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "vxlan").nested(IFLA_INFO_DATA, |data| {
                data.number(IFLA_VXLAN_ID, vxlan.identifier);
                data.attribute(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
                data.attribute(IFLA_VXLAN_LEARNING, &[0]);
                match vxlan.local {
                    Some(IpAddr::V4(local)) => {
                        data.attribute(IFLA_VXLAN_LOCAL, &local.octets());
                    }
                    Some(IpAddr::V6(local)) => {
                        data.attribute(IFLA_VXLAN_LOCAL6, &local.octets());
                    }
                    None => {}
                }
            });
        });
        self.request(message, &|| format!("make the VXLAN device {}", vxlan.name))?;
        Ok(())
    }

    /// Makes a dummy device, down: a place for addresses.
    pub fn add_dummy(&self, name: &str) -> Result<(), NetlinkError> {
        self.add_plain(name, "dummy")
    }

    /// Makes a bridge, down.
    pub fn add_bridge(&self, name: &str) -> Result<(), NetlinkError> {
        self.add_plain(name, "bridge")
    }

    fn add_plain(&self, name: &str, kind: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name).nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, kind);
        });
        self.request(message, &|| format!("make the {kind} {name}"))?;
        Ok(())
    }

    /// Raises a link.
    pub fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let up = libc::IFF_UP as u32;
        let message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, up, up));
        self.request(message, &|| format!("raise link number {index}"))?;
        Ok(())
    }

    /// Raises a link and gives it an alias: a note for people, at most 255 bytes.
    pub fn set_up_with_alias(&self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        let up = libc::IFF_UP as u32;
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, up, up));
        message.attribute(IFLA_IFALIAS, alias.as_bytes().get(..255).unwrap_or(alias.as_bytes()));
        self.request(message, &|| format!("raise link number {index}"))?;
        Ok(())
    }

    /// Puts a link under a bridge.
    pub fn set_master(&self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0, 0));
        message.number(IFLA_MASTER, bridge);
        self.request(message, &|| format!("put link number {index} under bridge number {bridge}"))?;
        Ok(())
    }

    /// Changes a link's largest packet, in bytes.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0, 0));
        message.number(IFLA_MTU, mtu);
        self.request(message, &|| format!("give link number {index} an MTU of {mtu}"))?;
        Ok(())
    }

    /// Deletes a link by name, the other end of a pair with it; a link that is gone is fine.
    pub fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0, 0));
        message.text(IFLA_IFNAME, name);
        match self.request(message, &|| format!("delete link {name}")) {
            Err(error) if matches!(error.errno(), Errno::ENODEV | Errno::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn read_link(payload: &[u8]) -> Option<Link> {
    let index = message::number(payload.get(4..8)?)?;
    let flags = message::number(payload.get(8..12)?)?;
    let found = attributes(payload.get(16..)?);
    let kind = found.find(IFLA_LINKINFO).and_then(|info| attributes(info).find(IFLA_INFO_KIND)).map(message::text);
    Some(Link {
        index,
        name: message::text(found.find(IFLA_IFNAME)?),
        mtu: found.find(IFLA_MTU).and_then(message::number).unwrap_or_default(),
        address: found.find(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(MacAddress),
        alias: found.find(IFLA_IFALIAS).map(message::text).unwrap_or_default(),
        kind: kind.unwrap_or_default(),
        up: flags & libc::IFF_UP as u32 != 0,
        running: flags & libc::IFF_RUNNING as u32 != 0,
        parent: found.find(IFLA_LINK).and_then(message::number),
    })
}
