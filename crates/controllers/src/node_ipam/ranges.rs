//! Cutting a cluster's range of addresses into ranges of nodes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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

    /// A node range that overlaps none that is taken: the next one after that which was given away last, so that one that became free
    /// is not another node's at once. Source: Kubernetes 1.36, `cidrset`, `AllocateNext`.
    pub fn next_free(&self, taken: &Taken) -> Option<NodeRange> {
        let after = taken.next.get(&(self.is_v4, self.first)).copied().filter(|next| (self.first..=self.last()).contains(next));
        let first = after.and_then(|after| self.free_from(after, taken)).or_else(|| self.free_from(self.first, taken))?;
        Some(NodeRange { cluster: (self.is_v4, self.first), first, next: first.saturating_add(self.step()), prefix: self.node_prefix })
    }

    /// How many addresses a node's range has, less what a `u128` cannot hold: all of them.
    fn step(&self) -> u128 {
        1u128.checked_shl(u32::from(128 - self.node_prefix)).unwrap_or(u128::MAX)
    }

    fn free_from(&self, from: u128, taken: &Taken) -> Option<u128> {
        let step = 1u128.checked_shl(u32::from(128 - self.node_prefix))?;
        let mut candidate = from;
        for (first, last) in taken.of_family(self.is_v4) {
            if last < candidate {
                continue;
            }
            if first > candidate.saturating_add(step - 1) {
                break;
            }
            // They overlap, so the next one comes after it.
            candidate = (last & !(step - 1)).checked_add(step)?;
        }
        (candidate <= self.last()).then_some(candidate)
    }

    fn last(&self) -> u128 {
        let rest = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
        self.first | rest
    }
}

/// A range for a node, not given away yet.
pub(super) struct NodeRange {
    /// Family and first address of the cluster's range.
    cluster: (bool, u128),
    first: u128,
    next: u128,
    prefix: u8,
}

impl NodeRange {
    /// As `10.42.0.0/24`.
    pub fn text(&self) -> String {
        let address = if self.cluster.0 { IpAddr::V4(Ipv4Addr::from((self.first >> 96) as u32)) } else { IpAddr::V6(Ipv6Addr::from(self.first)) };
        format!("{address}/{}", self.prefix)
    }
}

/// The ranges that nodes have, in order: with thousands of nodes it matters that the first free one is found in one pass.
#[derive(Debug, Default)]
pub(super) struct Taken {
    of_node: BTreeMap<String, Vec<String>>,
    /// Family, first and last address, and how many nodes have that: two may, by somebody's mistake.
    in_order: BTreeMap<(bool, u128, u128), usize>,
    /// For each of the cluster's ranges, by family and first address, where the next search begins.
    next: BTreeMap<(bool, u128), u128>,
}

impl Taken {
    /// A node has these ranges, and no others.
    pub fn set(&mut self, node: &str, ranges: Vec<String>) {
        let read = |text: &String| ClusterRange::parse(text).map(|range| (range.is_v4, range.first, range.last()));
        for place in self.of_node.remove(node).iter().flatten().filter_map(read) {
            if let Entry::Occupied(mut nodes) = self.in_order.entry(place) {
                *nodes.get_mut() -= 1;
                if *nodes.get() == 0 {
                    nodes.remove();
                }
            }
        }
        for place in ranges.iter().filter_map(read) {
            *self.in_order.entry(place).or_default() += 1;
        }
        if !ranges.is_empty() {
            self.of_node.insert(node.to_owned(), ranges);
        }
    }

    /// A node gets these ranges.
    pub fn give(&mut self, node: &str, ranges: &[NodeRange]) -> Vec<String> {
        let texts: Vec<String> = ranges.iter().map(NodeRange::text).collect();
        self.next.extend(ranges.iter().map(|range| (range.cluster, range.next)));
        self.set(node, texts.clone());
        texts
    }

    /// A node's ranges.
    pub fn of_node(&self, node: &str) -> Option<&Vec<String>> {
        self.of_node.get(node)
    }

    /// First and last addresses.
    fn of_family(&self, is_v4: bool) -> impl Iterator<Item = (u128, u128)> {
        self.in_order.range((is_v4, 0, 0)..=(is_v4, u128::MAX, u128::MAX)).map(|((_, first, last), _)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(range: &str, used: &[&str]) -> Option<String> {
        let mut taken = Taken::default();
        for (number, text) in used.iter().enumerate() {
            taken.set(&number.to_string(), vec![(*text).to_owned()]);
        }
        ClusterRange::parse(range).unwrap().next_free(&taken).map(|range| range.text())
    }

    #[test]
    fn nodes_get_the_first_free_range() {
        assert_eq!(free("10.42.0.0/16", &[]).as_deref(), Some("10.42.0.0/24"));
        assert_eq!(free("10.42.0.0/16", &["10.42.0.0/24", "10.42.2.0/24"]).as_deref(), Some("10.42.1.0/24"));
        assert_eq!(free("10.42.0.0/16", &["10.42.0.0/23"]).as_deref(), Some("10.42.2.0/24"));
        assert_eq!(free("10.42.0.0/23", &["10.42.0.0/24", "10.42.1.0/24"]), None);
        assert_eq!(free("10.42.3.0/28", &[]).as_deref(), Some("10.42.3.0/28"));
        assert_eq!(free("fd00:42::/56", &["fd00:42::/64", "10.0.0.0/8"]).as_deref(), Some("fd00:42:0:1::/64"));
        assert_eq!(free("10.42.0.0/22", &["10.0.0.0/8"]), None);
        assert_eq!(free("10.42.0.0/22", &["10.41.0.0/16", "10.42.0.128/25", "10.42.1.0/28", "10.43.0.0/16"]).as_deref(), Some("10.42.2.0/24"));
        assert_eq!(free("255.255.255.0/24", &["255.255.255.0/24"]), None);
        assert_eq!(free("0.0.0.0/0", &["0.0.0.0/8"]).as_deref(), Some("1.0.0.0/24"));
        assert!(ClusterRange::parse("10.42.0.0").is_none());
        assert!(ClusterRange::parse("10.42.0.0/40").is_none());
    }

    #[test]
    fn a_range_that_became_free_is_given_away_last() {
        let range = ClusterRange::parse("10.42.0.0/22").unwrap();
        let mut taken = Taken::default();
        let give = |taken: &mut Taken, node: &str| range.next_free(taken).map(|free| taken.give(node, &[free]).remove(0));
        assert_eq!(give(&mut taken, "a").as_deref(), Some("10.42.0.0/24"));
        assert_eq!(give(&mut taken, "b").as_deref(), Some("10.42.1.0/24"));
        taken.set("a", Vec::new());
        assert_eq!(give(&mut taken, "c").as_deref(), Some("10.42.2.0/24"));
        assert_eq!(give(&mut taken, "d").as_deref(), Some("10.42.3.0/24"));
        assert_eq!(give(&mut taken, "e").as_deref(), Some("10.42.0.0/24"));
        assert_eq!(give(&mut taken, "f"), None);
        taken.set("d", Vec::new());
        assert_eq!(give(&mut taken, "f").as_deref(), Some("10.42.3.0/24"));
    }

    #[test]
    fn a_range_is_taken_as_long_as_a_node_has_it() {
        let range = ClusterRange::parse("10.42.0.0/16").unwrap();
        let mut taken = Taken::default();
        let first = vec!["10.42.0.0/24".to_owned(), "fd00::/64".to_owned()];
        taken.set("a", first.clone());
        taken.set("b", first.clone());
        taken.set("a", Vec::new());
        assert_eq!((taken.of_node("a"), taken.of_node("b")), (None, Some(&first)));
        assert_eq!(range.next_free(&taken).map(|range| range.text()).as_deref(), Some("10.42.1.0/24"));
        taken.set("b", vec!["10.42.1.0/24".to_owned()]);
        assert_eq!(range.next_free(&taken).map(|range| range.text()).as_deref(), Some("10.42.0.0/24"));
        taken.set("b", vec!["no range".to_owned()]);
        assert!(taken.in_order.is_empty());
    }
}
