//! The wire form of netlink: messages made of a header and nested attributes. Sending them is in `socket.rs`.

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER_BYTES: usize = 16;
/// Set on an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// The bits of an attribute's kind that are flags.
const KIND_MASK: u16 = 0x3fff;

/// A request being written: `nlmsghdr`, the family's own header, attributes.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of a kind (`RTM_NEWLINK`, …) with flags (`NLM_F_…`) and the header of its family.
    pub fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(family_header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a text that ends with a zero byte.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends a number in the byte order of this machine (rtnetlink's habit).
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a number in network byte order (netfilter's habit).
    pub fn network_number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an attribute holding the attributes that `fill` writes. At most 64 KiB fit into one.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nested_with_header(kind | NESTED, &[], fill)
    }

    /// As [`Self::nested`] without the mark and with a header before the attributes (`VETH_INFO_PEER` wants that).
    pub fn nested_with_header(&mut self, kind: u16, header: &[u8], fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        self.pad();
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self
    }

    /// How many bytes the message has so far.
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the message asks the kernel for an acknowledgement.
    pub fn with_flags(mut self, more: u16) -> Self {
        if let Some(place) = self.bytes.get_mut(6..8) {
            let flags = u16::from_ne_bytes([place[0], place[1]]) | more;
            place.copy_from_slice(&flags.to_ne_bytes());
        }
        self
    }

    /// The bytes as sent, under a sequence number.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(0..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some(place) = self.bytes.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        self.bytes
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// One message as received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// Splits a datagram into messages; stops at the first that is not well formed.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = number(header.get(0..4)?)? as usize;
        let payload = bytes.get(HEADER_BYTES..length)?;
        let received = Received {
            kind: short(header.get(4..6)?)?,
            flags: short(header.get(6..8)?)?,
            sequence: number(header.get(8..12)?)?,
            payload,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// Attributes of a received message, in order.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(&'a [u8]);

/// Reads attributes out of these bytes; what is not well formed ends the walk.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a kind.
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find_map(|(found, value)| (found == kind).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(short(self.0.get(0..2)?)?);
        let kind = short(self.0.get(2..4)?)? & KIND_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A number in this machine's byte order.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A short number in this machine's byte order.
pub(crate) fn short(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// A text up to its zero byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_come_back_as_written() {
        let mut message = Message::new(16, 5, &[0; 16]);
        message.text(3, "eth0").nested(18, |inner| {
            inner.number(1, 7);
        });
        let bytes = message.finish(9);
        let received = messages(&bytes).next().expect("one message");
        assert_eq!((received.kind, received.flags, received.sequence), (16, 5, 9));
        let found = attributes(&received.payload[16..]);
        assert_eq!(text(found.find(3).expect("name")), "eth0");
        assert_eq!(number(attributes(found.find(18).expect("nest")).find(1).expect("inner")), Some(7));
    }

    #[test]
    fn broken_bytes_end_the_walk_without_a_panic() {
        for length in 0..40 {
            let bytes = vec![0xff; length];
            assert_eq!(messages(&bytes).count(), 0);
            assert_eq!(attributes(&bytes).count(), 0);
            let zeroes = vec![0; length];
            assert_eq!(messages(&zeroes).take(100).count(), 0);
            assert_eq!(attributes(&zeroes).take(100).count(), 0);
        }
    }
}
