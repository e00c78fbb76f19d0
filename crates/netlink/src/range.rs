//! Ranges of addresses in CIDR notation.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// A range of addresses such as `10.244.1.0/24`; bits beyond the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpRange {
    base: IpAddr,
    prefix: u8,
}

/// A text that is not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.244.0.0/16 or fd00::/64")]
pub struct MalformedRange(pub String);

impl IpRange {
    /// The range of this prefix length (in bits) that contains the address; none when the prefix is too long.
    pub fn containing(address: IpAddr, prefix: u8) -> Option<Self> {
        let base = match address {
            IpAddr::V4(address) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(address) & mask))
            }
            IpAddr::V6(address) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
            }
            _ => return None,
        };
        Some(Self { base, prefix })
    }

    /// The range of just this address.
    pub fn host(address: IpAddr) -> Self {
        Self { base: address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// All addresses of IPv4.
    pub const EVERYTHING_V4: Self = Self { base: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 };
    /// All addresses of IPv6.
    pub const EVERYTHING_V6: Self = Self { base: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 };

    /// The first address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Length of the prefix, in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is a range of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_ipv4() == address.is_ipv4() && Self::containing(address, self.prefix) == Some(*self)
    }

    /// How many addresses it has, at most `u64::MAX`.
    pub fn size(&self) -> u64 {
        let bits = if self.is_ipv4() { 32 } else { 128 } - u32::from(self.prefix);
        1_u64.checked_shl(bits).unwrap_or(u64::MAX)
    }

    /// The address at a distance from the first, none beyond the end.
    pub fn nth(&self, distance: u64) -> Option<IpAddr> {
        if distance >= self.size() {
            return None;
        }
        Some(match self.base {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).checked_add(u32::try_from(distance).ok()?)?)),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).checked_add(u128::from(distance))?)),
        })
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        match self.base {
            IpAddr::V4(base) => {
                let host = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(base) | host))
            }
            IpAddr::V6(base) => {
                let host = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(base) | host))
            }
        }
    }
}

impl FromStr for IpRange {
    type Err = MalformedRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedRange(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address = address.parse().map_err(|_| malformed())?;
        let prefix = prefix.parse().map_err(|_| malformed())?;
        Self::containing(address, prefix).ok_or_else(malformed)
    }
}

impl TryFrom<String> for IpRange {
    type Error = MalformedRange;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<IpRange> for String {
    fn from(range: IpRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        text.parse().expect("a range")
    }

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!(range("10.244.1.7/24").to_string(), "10.244.1.0/24");
        assert_eq!(range("fd00::17/112").to_string(), "fd00::/112");
        assert_eq!(range("1.2.3.4/0"), IpRange::EVERYTHING_V4);
    }

    #[test]
    fn membership_and_ends() {
        assert!(range("10.244.1.0/24").contains("10.244.1.255".parse().unwrap()));
        assert!(!range("10.244.1.0/24").contains("10.244.2.0".parse().unwrap()));
        assert!(!range("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert_eq!(range("10.244.1.0/24").last().to_string(), "10.244.1.255");
        assert_eq!(range("10.244.1.0/24").nth(5).unwrap().to_string(), "10.244.1.5");
        assert_eq!(range("10.244.1.0/24").nth(256), None);
        assert_eq!(range("1.2.3.4/32").size(), 1);
        assert_eq!(range("fd00::/48").size(), u64::MAX);
        assert_eq!(range("::/0").last().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    }

    #[test]
    fn malformed_ranges_are_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "a/8", "10.0.0.0/-1"] {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }
}
