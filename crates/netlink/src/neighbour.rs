//! Permanent entries: who has which address on a link, and behind which tunnel end a VXLAN hardware address lives.

use std::net::IpAddr;

use nix::errno::Errno;

use crate::{
    link::MacAddress,
    message::Message,
    route::{REPLACE, RouteSocket, family_of, octets},
    socket::NetlinkError,
};

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
/// The entry belongs to the device itself, not to a bridge above it.
const NTF_SELF: u8 = 2;

impl RouteSocket {
    /// Enters a neighbour for good, so that nobody has to ask for it.
    pub fn set_neighbour(&self, link: u32, address: IpAddr, hardware: MacAddress) -> Result<(), NetlinkError> {
        let header = neighbour_header(family_of(address), link, NUD_PERMANENT, 0);
        let mut message = Message::new(libc::RTM_NEWNEIGH, REPLACE, &header);
        message.attribute(NDA_DST, &octets(address)).attribute(NDA_LLADDR, &hardware.0);
        self.request(message, &|| format!("enter neighbour {address} on link number {link}"))?;
        Ok(())
    }

    /// Removes a neighbour; one that is gone is fine.
    pub fn delete_neighbour(&self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message =
            Message::new(libc::RTM_DELNEIGH, 0, &neighbour_header(family_of(address), link, NUD_PERMANENT, 0));
        message.attribute(NDA_DST, &octets(address));
        gone_is_fine(self.request(message, &|| format!("remove neighbour {address} from link number {link}")).map(drop))
    }

    /// Sends frames for a hardware address on a VXLAN device to the tunnel end at an address.
    pub fn set_forwarding(&self, link: u32, hardware: MacAddress, remote: IpAddr) -> Result<(), NetlinkError> {
        let header = neighbour_header(libc::AF_BRIDGE as u8, link, NUD_PERMANENT, NTF_SELF);
        let mut message = Message::new(libc::RTM_NEWNEIGH, REPLACE, &header);
        message.attribute(NDA_LLADDR, &hardware.0).attribute(NDA_DST, &octets(remote));
        self.request(message, &|| format!("forward {hardware} on link number {link} to {remote}"))?;
        Ok(())
    }

    /// Removes what [`Self::set_forwarding`] entered; an entry that is gone is fine.
    pub fn delete_forwarding(&self, link: u32, hardware: MacAddress, remote: IpAddr) -> Result<(), NetlinkError> {
        let header = neighbour_header(libc::AF_BRIDGE as u8, link, NUD_PERMANENT, NTF_SELF);
        let mut message = Message::new(libc::RTM_DELNEIGH, 0, &header);
        message.attribute(NDA_LLADDR, &hardware.0).attribute(NDA_DST, &octets(remote));
        gone_is_fine(self.request(message, &|| format!("stop forwarding {hardware} to {remote}")).map(drop))
    }
}

fn gone_is_fine(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::ENXIO) => Ok(()),
        other => other,
    }
}

/// `struct ndmsg`.
fn neighbour_header(family: u8, link: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}
