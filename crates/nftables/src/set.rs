//! Sets and maps: what their keys are made of, and their elements.

use std::{fmt, net::IpAddr, time::Duration};

use crate::expression::Verdict;

/// One part of a key or of a value. A key of several parts is a concatenation, each part padded to four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// An IP protocol number.
    Protocol,
    /// A port.
    Port,
    /// A number in this machine's byte order.
    Number,
}

impl Field {
    /// The address field of this family.
    pub fn address(ipv4: bool) -> Self {
        if ipv4 { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Bytes it takes, padding included.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Ipv4 | Self::Protocol | Self::Port | Self::Number => 4,
            Self::Ipv6 => 16,
        }
    }

    /// Bytes it takes where it stands alone.
    fn natural_width(self) -> usize {
        match self {
            Self::Ipv4 | Self::Number => 4,
            Self::Ipv6 => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// The number under which `nft` knows the type, so that it can print the set.
    fn data_type(self) -> u32 {
        match self {
            Self::Number => 4,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::Number => "integer",
        }
    }
}

/// Bytes of fields put together.
pub(crate) fn width(fields: &[Field]) -> u32 {
    let bytes = match fields {
        [alone] => alone.natural_width(),
        many => many.iter().map(|field| field.width()).sum(),
    };
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The number of the type of fields put together: six bits for each.
pub(crate) fn data_type(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |sum, field| (sum << 6) | field.data_type())
}

/// What a set maps its keys to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetData {
    /// Nothing: a plain set.
    None,
    /// A verdict.
    Verdict,
    /// A value of these fields.
    Value(Vec<Field>),
}

/// A named set or map of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name in the table.
    pub name: String,
    /// What its keys are made of.
    pub key: Vec<Field>,
    /// What it maps them to.
    pub data: SetData,
    /// Whether it holds ranges (one field only).
    pub interval: bool,
    /// Whether rules may add elements, which then leave after this time without a packet.
    pub timeout: Option<Duration>,
    /// Largest number of elements that rules may add.
    pub size: Option<u32>,
}

impl Set {
    /// A plain set.
    pub fn new(name: impl Into<String>, key: Vec<Field>) -> Self {
        Self { name: name.into(), key, data: SetData::None, interval: false, timeout: None, size: None }
    }

    /// A map to verdicts.
    pub fn verdict_map(name: impl Into<String>, key: Vec<Field>) -> Self {
        Self { data: SetData::Verdict, ..Self::new(name, key) }
    }

    /// A map to values.
    pub fn map(name: impl Into<String>, key: Vec<Field>, value: Vec<Field>) -> Self {
        Self { data: SetData::Value(value), ..Self::new(name, key) }
    }

    /// A set of ranges of addresses.
    pub fn ranges(name: impl Into<String>, field: Field) -> Self {
        Self { interval: true, ..Self::new(name, vec![field]) }
    }

    /// Lets rules add elements, which leave after this time without a packet.
    pub fn filled_by_rules(mut self, timeout: Duration, size: u32) -> Self {
        self.timeout = Some(timeout);
        self.size = Some(size);
        self
    }
}

impl fmt::Display for Set {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |fields: &[Field]| fields.iter().map(|field| field.name()).collect::<Vec<_>>().join(" . ");
        write!(formatter, "{} {{ type {}", self.name, names(&self.key))?;
        match &self.data {
            SetData::None => {}
            SetData::Verdict => write!(formatter, " : verdict")?,
            SetData::Value(fields) => write!(formatter, " : {}", names(fields))?,
        }
        if self.interval {
            write!(formatter, "; flags interval")?;
        }
        if let Some(timeout) = self.timeout {
            write!(formatter, "; flags dynamic,timeout; timeout {}s", timeout.as_secs())?;
        }
        write!(formatter, " }}")
    }
}

/// A key or value in the kernel's form, with its text for people.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyBytes {
    bytes: Vec<u8>,
    text: String,
    parts: usize,
}

impl KeyBytes {
    /// Begins with an address.
    pub fn address(address: IpAddr) -> Self {
        Self::default().and_address(address)
    }

    /// Begins with a protocol number.
    pub fn protocol(protocol: u8) -> Self {
        Self::default().and_protocol(protocol)
    }

    /// Begins with a port.
    pub fn port(port: u16) -> Self {
        Self::default().and_port(port)
    }

    /// A number in this machine's byte order.
    pub fn number(number: u32) -> Self {
        Self::default().push(&number.to_ne_bytes(), &number.to_string())
    }

    /// Appends an address.
    pub fn and_address(self, address: IpAddr) -> Self {
        let text = address.to_string();
        match address {
            IpAddr::V4(address) => self.push(&address.octets(), &text),
            IpAddr::V6(address) => self.push(&address.octets(), &text),
        }
    }

    /// Appends a protocol number.
    pub fn and_protocol(self, protocol: u8) -> Self {
        let text = match protocol {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        };
        self.push(&[protocol], &text)
    }

    /// Appends a port.
    pub fn and_port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes(), &port.to_string())
    }

    fn push(mut self, bytes: &[u8], text: &str) -> Self {
        if self.parts > 0 {
            self.pad();
            self.text.push_str(" . ");
        }
        self.bytes.extend_from_slice(bytes);
        self.text.push_str(text);
        self.parts += 1;
        if self.parts > 1 {
            self.pad();
        }
        self
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for KeyBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<{}>", self.text)
    }
}

/// What an element maps its key to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementData {
    /// Nothing: an element of a plain set.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// A value.
    Value(KeyBytes),
    /// In a set of ranges: the first address behind the range.
    IntervalEnd,
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Its key.
    pub key: KeyBytes,
    /// What it maps to.
    pub data: ElementData,
}

impl Element {
    /// An element of a plain set.
    pub fn key(key: KeyBytes) -> Self {
        Self { key, data: ElementData::None }
    }

    /// An element of a map to verdicts.
    pub fn verdict(key: KeyBytes, verdict: Verdict) -> Self {
        Self { key, data: ElementData::Verdict(verdict) }
    }

    /// An element of a map to values.
    pub fn value(key: KeyBytes, value: KeyBytes) -> Self {
        Self { key, data: ElementData::Value(value) }
    }

    /// The two elements that stand for a range in a set of ranges.
    pub fn range(range: netlink::IpRange) -> Vec<Self> {
        let mut elements = vec![Self::key(KeyBytes::address(range.base()))];
        let behind = match range.last() {
            IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| IpAddr::V4(next.into())),
            IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| IpAddr::V6(next.into())),
        };
        if let Some(behind) = behind {
            elements.push(Self { key: KeyBytes::address(behind), data: ElementData::IntervalEnd });
        }
        elements
    }
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            ElementData::None => write!(formatter, "{}", self.key),
            ElementData::Verdict(verdict) => write!(formatter, "{} : {verdict}", self.key),
            ElementData::Value(value) => write!(formatter, "{} : {value}", self.key),
            ElementData::IntervalEnd => write!(formatter, "{} (end)", self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_concatenation_are_padded_and_a_lone_part_is_not() {
        let key = KeyBytes::address("10.0.0.1".parse().unwrap()).and_protocol(6).and_port(80);
        assert_eq!(key.bytes(), [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(key.to_string(), "10.0.0.1 . tcp . 80");
        assert_eq!(KeyBytes::protocol(17).bytes(), [17]);
        assert_eq!(KeyBytes::protocol(17).and_port(53).bytes(), [17, 0, 0, 0, 0, 53, 0, 0]);
        assert_eq!(width(&[Field::Protocol]), 1);
        assert_eq!(width(&[Field::Ipv6, Field::Protocol, Field::Port]), 24);
    }

    #[test]
    fn a_range_is_its_first_address_and_the_one_behind_its_last() {
        let shown = |range: &str| {
            Element::range(range.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(shown("10.0.0.0/8"), "10.0.0.0, 11.0.0.0 (end)");
        assert_eq!(shown("255.0.0.0/8"), "255.0.0.0");
    }
}
