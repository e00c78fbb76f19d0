//! Which addresses of one range are in use, and which one is next.

use std::{collections::HashSet, net::IpAddr};

use netlink::IpRange;

/// Addresses at the start of a range that no pod gets: the network's own and the node's (see `peers.rs`).
const RESERVED_AT_START: u64 = 2;

/// The address of a node in its own pod range; the end of its tunnels.
pub fn node_address(range: IpRange) -> Option<IpAddr> {
    range.nth(1)
}

/// The addresses of one range. An address that was given back is used again as late as possible, so that what others
/// remember about it has time to be forgotten.
#[derive(Debug)]
pub struct AddressPool {
    range: IpRange,
    used: HashSet<IpAddr>,
    /// Distance from the range's first address where the search goes on.
    next: u64,
}

impl AddressPool {
    /// A pool in which nothing is used.
    pub fn new(range: IpRange) -> Self {
        Self { range, used: HashSet::new(), next: RESERVED_AT_START }
    }

    /// The range.
    pub fn range(&self) -> IpRange {
        self.range
    }

    /// Marks an address that a pod has from before; the search goes on behind it.
    pub fn mark_used(&mut self, address: IpAddr) {
        if !self.range.contains(address) || !self.used.insert(address) {
            return;
        }
        if let Some(distance) = distance(self.range.base(), address) {
            self.next = self.next.max(distance.saturating_add(1));
        }
    }

    /// Takes a free address; none when all are in use.
    pub fn take(&mut self) -> Option<IpAddr> {
        // The last address is the broadcast address of IPv4.
        let end = self.range.size().saturating_sub(1);
        let places = end.checked_sub(RESERVED_AT_START).filter(|places| *places > self.used.len() as u64)?;
        // Among one more place than are in use there is a free one.
        for _ in 0..=self.used.len().min(usize::try_from(places).unwrap_or(usize::MAX)) {
            if self.next < RESERVED_AT_START || self.next >= end {
                self.next = RESERVED_AT_START;
            }
            let address = self.range.nth(self.next)?;
            self.next += 1;
            if self.used.insert(address) {
                return Some(address);
            }
        }
        None
    }

    /// Gives an address back.
    pub fn give_back(&mut self, address: IpAddr) {
        self.used.remove(&address);
    }
}

fn distance(from: IpAddr, to: IpAddr) -> Option<u64> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => u32::from(to).checked_sub(u32::from(from)).map(u64::from),
        (IpAddr::V6(from), IpAddr::V6(to)) => u64::try_from(u128::from(to).checked_sub(u128::from(from))?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(range: &str) -> AddressPool {
        AddressPool::new(range.parse().expect("a range"))
    }

    fn take(pool: &mut AddressPool) -> String {
        pool.take().map_or_else(|| "none".to_owned(), |address| address.to_string())
    }

    #[test]
    fn addresses_come_in_order_and_the_ends_stay_free() {
        let mut pool = pool("10.1.0.0/29");
        let taken: Vec<_> = (0..6).map(|_| take(&mut pool)).collect();
        assert_eq!(taken, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "none"]);
    }

    #[test]
    fn an_address_given_back_is_used_again_last() {
        let mut pool = pool("10.1.0.0/29");
        let first = pool.take().unwrap();
        pool.give_back(first);
        assert_eq!(take(&mut pool), "10.1.0.3");
        let rest: Vec<_> = (0..4).map(|_| take(&mut pool)).collect();
        assert_eq!(rest, ["10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2"]);
        assert_eq!(take(&mut pool), "none");
    }

    #[test]
    fn addresses_from_before_are_not_given_twice() {
        let mut pool = pool("10.1.0.0/29");
        pool.mark_used("10.1.0.5".parse().unwrap());
        pool.mark_used("10.9.0.5".parse().unwrap());
        let taken: Vec<_> = (0..5).map(|_| take(&mut pool)).collect();
        assert_eq!(taken, ["10.1.0.6", "10.1.0.2", "10.1.0.3", "10.1.0.4", "none"]);
    }

    #[test]
    fn large_and_tiny_ranges_work() {
        assert_eq!(take(&mut pool("fd00::/64")), "fd00::2");
        assert_eq!(take(&mut pool("10.1.0.0/32")), "none");
        assert_eq!(take(&mut pool("10.1.0.0/31")), "none");
        assert_eq!(take(&mut pool("10.1.0.0/30")), "10.1.0.2");
    }
}
