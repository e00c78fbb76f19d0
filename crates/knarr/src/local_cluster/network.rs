//! The network of a cluster on this machine: one bridge with an address of the host, a link from it to each node, and one table of
//! packet filter rules that lets nodes reach the rest of the world under the host's address.

use std::net::IpAddr;

use anyhow::Context;
use netlink::{AddressScope, IpRange, MacAddress, NetworkNamespace, Route, RouteSocket, VethPair};
use nftables::{BaseChain, ChainKind, Comparison, Hook, KernelRuleset, Rule, Ruleset, Transaction};
use sha2::{Digest, Sha256};

use super::{record::Record, settings::Settings};

/// A node's end of its link.
const NODE_LINK: &str = "eth0";

/// Protocol number of our routes, `static` in iproute2's words.
const ROUTE_PROTOCOL: u8 = 4;

/// Has the kernel forward packets between links.
const FORWARDING: &str = "net/ipv4/ip_forward";

fn digest(parts: &[&str]) -> [u8; 6] {
    let hash: [u8; 32] = Sha256::digest(parts.join("\n")).into();
    let [a, b, c, d, e, f, ..] = hash;
    [a, b, c, d, e, f]
}

fn short(parts: &[&str]) -> String {
    let [a, b, c, d, ..] = digest(parts);
    format!("{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// The bridge of a cluster. Links have at most 15 bytes, so a digest stands for the name, which is the link's alias.
pub fn bridge_name(cluster: &str) -> String {
    format!("knb{}", short(&["bridge", cluster]))
}

/// The host's end of a node's link.
fn link_name(cluster: &str, node: &str) -> String {
    format!("knn{}", short(&["node", cluster, node]))
}

/// Makes the host's side where it is not there: bridge, address, rules, forwarding.
pub fn ensure_host(record: &mut Record, settings: &Settings) -> anyhow::Result<()> {
    let route = RouteSocket::open()?;
    if route.link(&record.bridge)?.is_none() {
        route.add_bridge(&record.bridge).context("does this kernel have bridges (CONFIG_BRIDGE, `modprobe bridge`)?")?;
    }
    let bridge = route.link(&record.bridge)?.context("the bridge is gone")?;
    route.add_address(bridge.index, settings.gateway()?, settings.prefix()?, AddressScope::Global)?;
    route.set_up_with_alias(bridge.index, &format!("knarr cluster {}", record.name))?;
    if netlink::read_sysctl(FORWARDING)? != "1" {
        record.kernel_parameters.insert(FORWARDING.to_owned(), "0".to_owned());
        record.save()?;
        netlink::write_sysctl(FORWARDING, "1")?;
    }
    let nodes: IpRange = settings.node_range.parse()?;
    let mut rules = Transaction::replacing(&record.table);
    rules.base_chain("postrouting", ChainKind::Nat, Hook::Postrouting, BaseChain::SOURCE_NAT).rule(
        "postrouting",
        Rule::new().family(true).source_within(nodes, Comparison::Equal).output_link(&record.bridge, Comparison::NotEqual).masquerade(),
    );
    KernelRuleset::open()?.commit(&rules).context("cannot make packet filter rules: does this kernel have nftables with NAT (CONFIG_NF_TABLES, CONFIG_NFT_MASQ)?")
}

/// Makes a node's link and routes where they are not there.
pub fn ensure_node(record: &Record, settings: &Settings, number: u8, namespace: &NetworkNamespace) -> anyhow::Result<()> {
    use std::os::fd::AsFd;
    let node = settings.node_name(number);
    let route = RouteSocket::open()?;
    let name = link_name(&record.name, &node);
    if route.link(&name)?.is_none() {
        let mtu = leaving_mtu(&route);
        route.add_veth(&VethPair {
            host_name: &name,
            host_address: MacAddress::from_digest(digest(&["host end", &record.name, &node])),
            peer_name: NODE_LINK,
            peer_address: MacAddress::from_digest(digest(&["node end", &record.name, &node])),
            peer_namespace: namespace.as_fd(),
            mtu,
        })?;
    }
    let link = route.link(&name)?.context("the link to the node is gone")?;
    let bridge = route.link(&record.bridge)?.context("the bridge is gone")?;
    route.set_master(link.index, bridge.index)?;
    route.set_up_with_alias(link.index, &format!("knarr node {node}"))?;
    let (address, prefix, gateway) = (settings.node_address(number)?, settings.prefix()?, settings.gateway()?);
    namespace.run(|| -> anyhow::Result<()> {
        let route = RouteSocket::open()?;
        let loopback = route.link("lo")?.context("no loopback link")?;
        route.set_up(loopback.index)?;
        let link = route.link(NODE_LINK)?.context("the node's end of its link is gone")?;
        route.add_address(link.index, address, prefix, AddressScope::Global)?;
        route.set_up(link.index)?;
        Ok(route.replace_route(&Route::via(IpRange::EVERYTHING_V4, gateway, link.index, ROUTE_PROTOCOL))?)
    })?
}

/// The largest packet of the link that packets leave this machine by, where it is smaller than usual.
fn leaving_mtu(route: &RouteSocket) -> Option<u32> {
    let leaving = route.next_hop(IpAddr::from([192, 0, 2, 255])).ok().flatten()?;
    route.link_at(leaving.link).ok().flatten().map(|link| link.mtu).filter(|mtu| *mtu < 1500)
}

/// Takes the host's side away. Kernel parameters that other clusters still need are handed on to the record of one of them.
pub fn remove(record: &Record, others: Vec<Record>) -> anyhow::Result<()> {
    let route = RouteSocket::open()?;
    for node in &record.nodes {
        route.delete_link(&link_name(&record.name, &node.name))?;
    }
    route.delete_link(&record.bridge)?;
    KernelRuleset::open()?.commit(&Transaction::removing(&record.table))?;
    if let Some(mut heir) = others.into_iter().next() {
        for (name, value) in &record.kernel_parameters {
            heir.kernel_parameters.entry(name.clone()).or_insert_with(|| value.clone());
        }
        return heir.save();
    }
    for (name, value) in &record.kernel_parameters {
        match netlink::write_sysctl(name, value) {
            Err(error) if !error.is_unknown() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_names_that_fit_and_differ() {
        let long = "a-name-as-long-as-a-cluster-may-have-one";
        assert!(bridge_name(long).len() <= 15 && link_name(long, &format!("{long}-12")).len() <= 15);
        assert_ne!(bridge_name("a"), bridge_name("b"));
        assert_ne!(link_name("a", "a-1"), link_name("a", "a-2"));
    }
}
