//! Which addresses, and which other ranges, a range contains.

use std::net::IpAddr;

/// A range of addresses, as `10.96.0.0/16` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    base: IpAddr,
    prefix: u32,
}

/// An address as a number, and of how many bits.
fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

impl Range {
    /// Reads one; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, prefix) = text.split_once('/')?;
        let (base, prefix): (IpAddr, u32) = (base.parse().ok()?, prefix.parse().ok()?);
        (prefix <= number(base).1).then_some(Self { base, prefix })
    }

    /// Whether it contains an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let ((own, bits), (other, other_bits)) = (number(self.base), number(address));
        let network = |address: u128| address.checked_shr(bits - self.prefix).unwrap_or(0);
        bits == other_bits && network(own) == network(other)
    }

    /// Whether it contains all of another one.
    pub fn contains_range(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containment_is_of_one_family() {
        let range = |text| Range::parse(text).unwrap();
        assert!(range("10.0.0.0/8").contains("10.255.0.1".parse().unwrap()));
        assert!(!range("10.0.0.0/8").contains("11.0.0.1".parse().unwrap()));
        assert!(!range("::/0").contains("10.0.0.1".parse().unwrap()));
        assert!(range("0.0.0.0/0").contains_range(&range("10.0.0.0/8")));
        assert!(!range("10.0.0.0/16").contains_range(&range("10.0.0.0/8")));
        assert_eq!(Range::parse("10.0.0.0/33"), None);
        assert_eq!(Range::parse("nonsense"), None);
    }
}
