//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use crate::{
    message::{self, Message, attributes},
    range::IpRange,
    route::{DUMP, REPLACE, RouteSocket, family_of},
    socket::NetlinkError,
};

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// Use the address at once, without asking the neighbours whether somebody has it (IPv6).
const IFA_F_NODAD: u32 = 2;

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressScope {
    /// Anywhere.
    Global,
    /// On its link.
    Link,
    /// On this host: never chosen as the source of packets that leave.
    Host,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Number of the link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length, in bits.
    pub prefix: u8,
    /// Whether it is valid everywhere.
    pub global: bool,
}

impl Address {
    /// The range on the link.
    pub fn range(&self) -> Option<IpRange> {
        IpRange::containing(self.address, self.prefix)
    }
}

impl RouteSocket {
    /// Gives a link an address; it may have it already.
    pub fn add_address(&self, link: u32, address: IpAddr, prefix: u8, scope: AddressScope) -> Result<(), NetlinkError> {
        let scope = match scope {
            AddressScope::Global => libc::RT_SCOPE_UNIVERSE,
            AddressScope::Link => libc::RT_SCOPE_LINK,
            AddressScope::Host => libc::RT_SCOPE_HOST,
        };
        let header = address_header(address, prefix, scope, link);
        let mut message = Message::new(libc::RTM_NEWADDR, REPLACE, &header);
        write_address(&mut message, address);
        if address.is_ipv6() {
            message.number(IFA_FLAGS, IFA_F_NODAD);
        }
        self.request(message, &|| format!("give link number {link} the address {address}/{prefix}"))?;
        Ok(())
    }

    /// Takes an address from a link; an address that is gone is fine.
    pub fn delete_address(&self, link: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_DELADDR, 0, &address_header(address, prefix, 0, link));
        write_address(&mut message, address);
        match self.request(message, &|| format!("take the address {address}/{prefix} from link number {link}")) {
            Err(error) if matches!(error.errno(), Errno::EADDRNOTAVAIL | Errno::ENODEV) => Ok(()),
            other => other.map(drop),
        }
    }

    /// All addresses of all links of the namespace.
    pub fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let message = Message::new(libc::RTM_GETADDR, DUMP, &[0; 8]);
        let answers = self.request(message, &|| "list the addresses".to_owned())?;
        Ok(answers.iter().filter_map(|answer| read_address(&answer.payload)).collect())
    }
}

/// `struct ifaddrmsg`.
fn address_header(address: IpAddr, prefix: u8, scope: u8, link: u32) -> [u8; 8] {
    let [a, b, c, d] = link.to_ne_bytes();
    [family_of(address), prefix, 0, scope, a, b, c, d]
}

fn write_address(message: &mut Message, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            message.attribute(IFA_LOCAL, &address.octets()).attribute(IFA_ADDRESS, &address.octets());
        }
        IpAddr::V6(address) => {
            message.attribute(IFA_LOCAL, &address.octets()).attribute(IFA_ADDRESS, &address.octets());
        }
    }
}

fn read_address(payload: &[u8]) -> Option<Address> {
    let prefix = *payload.get(1)?;
    let scope = *payload.get(3)?;
    let found = attributes(payload.get(8..)?);
    let bytes = found.find(IFA_LOCAL).or_else(|| found.find(IFA_ADDRESS))?;
    Some(Address {
        link: message::number(payload.get(4..8)?)?,
        address: read_ip(bytes)?,
        prefix,
        global: scope == libc::RT_SCOPE_UNIVERSE,
    })
}

/// An address of four or sixteen bytes.
pub(crate) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    }
}
