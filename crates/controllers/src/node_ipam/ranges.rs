//! Cutting a cluster's range of addresses into ranges of nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Prefix lengths of a node's range. Source: Kubernetes 1.36, `--node-cidr-mask-size-ipv4` and `-ipv6`.
const NODE_PREFIX_V4: u8 = 24;
const NODE_PREFIX_V6: u8 = 64;

/// A cluster's range of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClusterRange {
    /// The first address, as the upper bits of 128.
    first: u128,
    is_v4: bool,
    prefix: u8,
    node_prefix: u8,
}

impl ClusterRange {
    /// Reads `address/prefix`. A cluster range smaller than a usual node's range is one node's.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.trim().split_once('/')?;
        let prefix: u8 = prefix.parse().ok()?;
        let (bits, is_v4, node_prefix, longest) = match address.parse().ok()? {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, true, NODE_PREFIX_V4, 32),
            IpAddr::V6(address) => (u128::from(address), false, NODE_PREFIX_V6, 128),
        };
        if prefix > longest {
            return None;
        }
        let mask = if prefix == 0 { 0 } else { u128::MAX << (128 - prefix) };
        Some(Self { first: bits & mask, is_v4, prefix, node_prefix: node_prefix.max(prefix) })
    }

    /// The first node range that overlaps none of `used`.
    pub fn first_free(&self, used: &BTreeSet<String>) -> Option<String> {
        let used: Vec<Self> = used.iter().filter_map(|text| Self::parse(text)).filter(|range| range.is_v4 == self.is_v4).collect();
        let count = 1u128.checked_shl(u32::from(self.node_prefix - self.prefix))?;
        let step = 1u128.checked_shl(u32::from(128 - self.node_prefix)).unwrap_or(0);
        // Among one more than there are used ones, one is free, if there are so many.
        let candidates = (0..count).map(|index| self.first + index * step);
        let free = candidates.take(used.len() * 2 + 1 + 65_536).find(|first| {
            let last = first.saturating_add(step.saturating_sub(1));
            used.iter().all(|other| other.last() < *first || other.first > last)
        })?;
        let address = if self.is_v4 { IpAddr::V4(Ipv4Addr::from((free >> 96) as u32)) } else { IpAddr::V6(Ipv6Addr::from(free)) };
        Some(format!("{address}/{}", self.node_prefix))
    }

    fn last(&self) -> u128 {
        let rest = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
        self.first | rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(range: &str, used: &[&str]) -> Option<String> {
        ClusterRange::parse(range).unwrap().first_free(&used.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn nodes_get_the_first_free_range() {
        assert_eq!(free("10.42.0.0/16", &[]).as_deref(), Some("10.42.0.0/24"));
        assert_eq!(free("10.42.0.0/16", &["10.42.0.0/24", "10.42.2.0/24"]).as_deref(), Some("10.42.1.0/24"));
        assert_eq!(free("10.42.0.0/16", &["10.42.0.0/23"]).as_deref(), Some("10.42.2.0/24"));
        assert_eq!(free("10.42.0.0/23", &["10.42.0.0/24", "10.42.1.0/24"]), None);
        assert_eq!(free("10.42.3.0/28", &[]).as_deref(), Some("10.42.3.0/28"));
        assert_eq!(free("fd00:42::/56", &["fd00:42::/64", "10.0.0.0/8"]).as_deref(), Some("fd00:42:0:1::/64"));
        assert!(ClusterRange::parse("10.42.0.0").is_none());
        assert!(ClusterRange::parse("10.42.0.0/40").is_none());
    }
}
