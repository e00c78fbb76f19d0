//! The node's nftables table for pods: host ports, and masquerading of what leaves the cluster.
//!
//! A host port answers on loopback addresses too, as it does where a container engine binds it. For that, the link of a pod
//! with host ports lets packets with loopback addresses pass (`route_localnet`, set in `attachment.rs`), and the node's
//! own loopback services would be open to the pod if what comes from outside with such an address were not dropped here.
//!
//! Nothing else is dropped here. Other software may (Docker sets the policy of iptables' FORWARD chain to DROP): an
//! "accept" of ours could not overrule that, so the administrator has to allow the pod ranges there.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use netlink::IpRange;
use nftables::{
    BaseChain, ChainKind, Comparison, Element, Field, Hook, KeyBytes, Operation, Register, Rule, Set, Transaction,
    Verdict,
};
use pod_sandbox_network::{HostPort, Protocol};

use crate::record::Attachment;

/// IP protocol number of a transport protocol.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn name(base: &str, ipv4: bool) -> String {
    format!("{base}{}", if ipv4 { 4 } else { 6 })
}

/// The whole table. `local` are the node's own pod ranges, `inside` the ranges whose traffic keeps its source.
pub fn whole_table<'a>(
    table: &str,
    local: &[IpRange],
    inside: &[IpRange],
    attachments: impl IntoIterator<Item = &'a Attachment>,
) -> Transaction {
    let loopback = IpRange::containing(IpAddr::V4(Ipv4Addr::LOCALHOST), 8).unwrap_or(IpRange::EVERYTHING_V4);
    let mut transaction = Transaction::replacing(table);
    transaction
        .chain("host-ports")
        .base_chain("loopback", ChainKind::Filter, Hook::Prerouting, BaseChain::BEFORE_TRACKING)
        .base_chain("prerouting", ChainKind::Nat, Hook::Prerouting, BaseChain::DESTINATION_NAT)
        .base_chain("output", ChainKind::Nat, Hook::Output, BaseChain::DESTINATION_NAT)
        .base_chain("postrouting", ChainKind::Nat, Hook::Postrouting, BaseChain::SOURCE_NAT);
    for hook in ["prerouting", "output"] {
        transaction.rule(hook, Rule::new().to_this_host().verdict(Verdict::Jump("host-ports".to_owned())));
    }
    for ipv4 in [true, false] {
        let address = Field::address(ipv4);
        let target = vec![address, Field::Port];
        let wide = if ipv4 { 1 } else { 4 };
        transaction
            .set(Set::map(name("ports-of-address", ipv4), vec![address, Field::Protocol, Field::Port], target.clone()))
            .set(Set::map(name("ports", ipv4), vec![Field::Protocol, Field::Port], target))
            .set(Set::new(name("hairpin", ipv4), vec![address, address]))
            .set(Set::ranges(name("inside", ipv4), address));
        if ipv4 {
            for rule in [Rule::new().family(true).destination_within(loopback, Comparison::Equal), Rule::new().family(true).source_within(loopback, Comparison::Equal)] {
                transaction.rule("loopback", rule.input_link("lo", Comparison::NotEqual).verdict(Verdict::Drop));
            }
            // A pod could not answer 127.0.0.1.
            transaction.rule(
                "postrouting",
                Rule::new()
                    .family(true)
                    .source_within(loopback, Comparison::Equal)
                    .output_link("lo", Comparison::NotEqual)
                    .masquerade(),
            );
        }
        transaction
            .rule(
                "host-ports",
                Rule::new()
                    .family(ipv4)
                    .load_destination_key(ipv4)
                    .map(&name("ports-of-address", ipv4), Register(0), Register(0))
                    .destination_nat(ipv4, Register(0), Some(Register(wide))),
            )
            .rule(
                "host-ports",
                Rule::new()
                    .family(ipv4)
                    .load_protocol(Register(0))
                    .load_destination_port(Register(1))
                    .map(&name("ports", ipv4), Register(0), Register(0))
                    .destination_nat(ipv4, Register(0), Some(Register(wide))),
            )
            .rule(
                "postrouting",
                Rule::new()
                    .family(ipv4)
                    .load_source(ipv4, Register(0))
                    .load_destination(ipv4, Register(wide))
                    .lookup(&name("hairpin", ipv4), Register(0), false)
                    .masquerade(),
            );
        for range in local.iter().filter(|range| range.is_ipv4() == ipv4) {
            transaction.rule(
                "postrouting",
                Rule::new()
                    .family(ipv4)
                    .source_within(*range, Comparison::Equal)
                    .destination_in(ipv4, &name("inside", ipv4), true)
                    .masquerade(),
            );
        }
        transaction.elements(&name("inside", ipv4), inside_elements(inside, ipv4));
    }
    let mut taken = HashSet::new();
    for attachment in attachments {
        for change in host_port_elements(attachment) {
            // Two sandboxes can hold the same port for a moment while a pod is replaced; the whole table must not fail.
            if taken.insert((change.set.clone(), change.element.key.clone())) {
                transaction.push(change.add());
            }
        }
    }
    transaction
}

/// Puts other ranges into the sets of those whose traffic keeps its source.
pub fn replace_inside(table: &str, inside: &[IpRange]) -> Transaction {
    let mut transaction = Transaction::new(table);
    for ipv4 in [true, false] {
        transaction.push(Operation::FlushSet(name("inside", ipv4)));
        transaction.elements(&name("inside", ipv4), inside_elements(inside, ipv4));
    }
    transaction
}

/// Opens the host ports of a sandbox.
pub fn open_host_ports(table: &str, attachment: &Attachment) -> Transaction {
    let operations = host_port_elements(attachment).into_iter().map(Change::add).collect();
    Transaction { table: table.to_owned(), operations }
}

/// Closes the host ports of a sandbox.
pub fn close_host_ports(table: &str, attachment: &Attachment) -> Transaction {
    let operations = host_port_elements(attachment).into_iter().map(Change::delete).collect();
    Transaction { table: table.to_owned(), operations }
}

struct Change {
    set: String,
    element: Element,
}

impl Change {
    fn add(self) -> Operation {
        Operation::AddElements { set: self.set, elements: vec![self.element] }
    }

    fn delete(self) -> Operation {
        Operation::DeleteElements { set: self.set, elements: vec![self.element] }
    }
}

/// The elements that stand for a sandbox's host ports; one for each port, protocol and host address.
fn host_port_elements(attachment: &Attachment) -> Vec<Change> {
    let mut changes = Vec::new();
    let ports = &attachment.request.host_ports;
    let primary = |ipv4: bool| attachment.addresses.iter().copied().find(|address| address.is_ipv4() == ipv4);
    for ipv4 in [true, false] {
        let Some(pod) = primary(ipv4) else { continue };
        let mut seen = Vec::new();
        for port in ports {
            let host = port.host_ip.filter(|address| !address.is_unspecified());
            let other_family = port.host_ip.is_some_and(|address| address.is_ipv4() != ipv4);
            let key = (host, port.protocol, port.host_port);
            if other_family || port.host_port == 0 || seen.contains(&key) {
                continue;
            }
            seen.push(key);
            changes.push(host_port_element(port, host, pod));
        }
        if !seen.is_empty() {
            let key = KeyBytes::address(pod).and_address(pod);
            changes.push(Change { set: name("hairpin", ipv4), element: Element::key(key) });
        }
    }
    changes
}

fn host_port_element(port: &HostPort, host: Option<IpAddr>, pod: IpAddr) -> Change {
    let target = KeyBytes::address(pod).and_port(port.container_port);
    let protocol = protocol_number(port.protocol);
    match host {
        Some(host) => Change {
            set: name("ports-of-address", pod.is_ipv4()),
            element: Element::value(
                KeyBytes::address(host).and_protocol(protocol).and_port(port.host_port),
                target,
            ),
        },
        None => Change {
            set: name("ports", pod.is_ipv4()),
            element: Element::value(KeyBytes::protocol(protocol).and_port(port.host_port), target),
        },
    }
}

/// Ranges either nest or are apart, and the kernel refuses those that nest.
fn inside_elements(inside: &[IpRange], ipv4: bool) -> Vec<Element> {
    let mut ranges: Vec<IpRange> = inside.iter().copied().filter(|range| range.is_ipv4() == ipv4).collect();
    ranges.sort_by_key(|range| (range.prefix(), range.base()));
    let mut outermost: Vec<IpRange> = Vec::new();
    for range in ranges {
        if !outermost.iter().any(|outer| outer.contains(range.base())) {
            outermost.push(range);
        }
    }
    outermost.into_iter().flat_map(Element::range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_ranges_are_entered_once() {
        let ranges: Vec<IpRange> =
            ["10.0.0.5/32", "10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec();
        let shown: Vec<_> = inside_elements(&ranges, true).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0", "11.0.0.0 (end)", "11.0.0.0", "12.0.0.0 (end)"]);
    }
}
