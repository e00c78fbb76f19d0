//! Subsets of an Endpoints object: brought into the shape upstream gives them, and cut to the size it allows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

/// Most addresses; further ones are cut off. Source: Kubernetes 1.36, `maxCapacity`.
const CAPACITY: usize = 1000;

/// An address of one pod, by which it is sorted.
type AddressKey = (String, String);
/// A port as something to sort by; `None` stands for an endpoint without ports.
type PortKey = Option<(String, String, i32, Option<String>)>;

/// Puts ports together that the same addresses offer, so that each port and each of its addresses is said once. An address that is not
/// ready anywhere on a port is not ready on it.
/// Source: Kubernetes 1.36, `RepackSubsets`.
pub(super) fn repack(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut addresses: BTreeMap<AddressKey, &EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<PortKey, BTreeMap<AddressKey, bool>> = BTreeMap::new();
    for subset in subsets {
        let ports = subset.ports.as_deref().unwrap_or_default();
        let ports: Vec<PortKey> = if ports.is_empty() { vec![None] } else { ports.iter().map(port_key).collect() };
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        for (address, is_ready) in ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false))) {
            let uid = address.target_ref.as_ref().and_then(|reference| reference.uid.clone()).unwrap_or_default();
            let key = (address.ip.clone(), uid);
            addresses.entry(key.clone()).or_insert(address);
            for port in &ports {
                *by_port.entry(port.clone()).or_default().entry(key.clone()).or_insert(true) &= is_ready;
            }
        }
    }
    let mut by_addresses: BTreeMap<BTreeMap<AddressKey, bool>, Vec<PortKey>> = BTreeMap::new();
    for (port, addresses) in by_port {
        by_addresses.entry(addresses).or_default().push(port);
    }
    let mut repacked: Vec<_> = by_addresses.into_iter().map(|(keys, ports)| (ports, keys)).collect();
    repacked.sort();
    let subset = |(ports, keys): (Vec<PortKey>, BTreeMap<AddressKey, bool>)| {
        let of = |wanted: bool| {
            let found: Vec<EndpointAddress> = keys.iter().filter(|(_, is_ready)| **is_ready == wanted).filter_map(|(key, _)| addresses.get(key).map(|address| (*address).clone())).collect();
            Some(found).filter(|found| !found.is_empty())
        };
        let ports: Vec<_> = ports.into_iter().flatten().map(port).collect();
        EndpointSubset { addresses: of(true), not_ready_addresses: of(false), ports: Some(ports).filter(|ports| !ports.is_empty()) }
    };
    repacked.into_iter().map(subset).collect()
}

fn port_key(port: &EndpointPort) -> PortKey {
    Some((port.name.clone().unwrap_or_default(), port.protocol.clone().unwrap_or_default(), port.port, port.app_protocol.clone()))
}

fn port((name, protocol, port, app_protocol): (String, String, i32, Option<String>)) -> EndpointPort {
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    EndpointPort { name: filled(name), protocol: filled(protocol), port, app_protocol }
}

/// Cuts off what is too many, first of addresses that are not ready, from each subset in proportion. Returns whether it had to.
/// Source: Kubernetes 1.36, `truncateEndpoints`.
pub(super) fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let not_ready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + not_ready <= CAPACITY {
        return false;
    }
    let cut_ready = ready > CAPACITY;
    let (room, total) = if cut_ready { (CAPACITY, ready) } else { (CAPACITY - ready, not_ready) };
    let mut left = room;
    for subset in subsets {
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (count(list) * room).div_ceil(total).min(left);
        if let Some(addresses) = list {
            addresses.truncate(share);
        }
        left -= count(list);
        if count(list) == 0 {
            *list = None;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ips: &[&str]) -> Option<Vec<EndpointAddress>> {
        Some(ips.iter().map(|ip| EndpointAddress { ip: (*ip).to_owned(), ..EndpointAddress::default() }).collect()).filter(|list: &Vec<_>| !list.is_empty())
    }

    fn subset(ready: &[&str], not_ready: &[&str], ports: &[(&str, i32)]) -> EndpointSubset {
        let port = |(name, port): &(&str, i32)| EndpointPort { name: Some((*name).to_owned()), port: *port, protocol: Some("TCP".to_owned()), app_protocol: None };
        EndpointSubset {
            addresses: addresses(ready),
            not_ready_addresses: addresses(not_ready),
            ports: Some(ports.iter().map(port).collect()).filter(|ports: &Vec<_>| !ports.is_empty()),
        }
    }

    #[test]
    fn ports_that_the_same_addresses_offer_stand_together() {
        let check = |given: &[EndpointSubset], expected: &[EndpointSubset]| assert_eq!(repack(given), expected);
        let (web, tls) = (("http", 80), ("https", 443));
        check(&[subset(&["b"], &[], &[web, tls]), subset(&["a"], &[], &[tls, web])], &[subset(&["a", "b"], &[], &[web, tls])]);
        // A port whose number differs among the pods is a subset of each.
        check(
            &[subset(&["a"], &[], &[web, tls]), subset(&["b"], &[], &[("http", 81), tls])],
            &[subset(&["a"], &[], &[web]), subset(&["b"], &[], &[("http", 81)]), subset(&["a", "b"], &[], &[tls])],
        );
        check(&[subset(&["a", "b"], &[], &[web]), subset(&[], &["a"], &[web])], &[subset(&["b"], &["a"], &[web])]);
        check(&[subset(&["b"], &[], &[]), subset(&["a"], &[], &[])], &[subset(&["a", "b"], &[], &[])]);
        check(&[subset(&[], &[], &[web])], &[]);
    }

    #[test]
    fn addresses_that_are_not_ready_are_cut_off_first() {
        let many = |count: usize, from: usize| (0..count).map(|number| EndpointAddress { ip: format!("{}", from + number), ..EndpointAddress::default() }).collect::<Vec<_>>();
        let check = |given: &[(usize, usize)], expected: &[(usize, usize)], cut: bool| {
            let mut subsets: Vec<_> = given.iter().map(|(ready, not_ready)| EndpointSubset { addresses: Some(many(*ready, 0)), not_ready_addresses: Some(many(*not_ready, 5000)), ports: None }).collect();
            assert_eq!(truncate(&mut subsets), cut);
            let sizes: Vec<_> = subsets.iter().map(|subset| (subset.addresses.iter().flatten().count(), subset.not_ready_addresses.iter().flatten().count())).collect();
            assert_eq!(sizes, expected);
        };
        check(&[(600, 400)], &[(600, 400)], false);
        check(&[(600, 600)], &[(600, 400)], true);
        check(&[(400, 100), (400, 300)], &[(400, 50), (400, 150)], true);
        check(&[(1500, 10), (500, 0)], &[(750, 0), (250, 0)], true);
    }
}
