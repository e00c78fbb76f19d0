//! The part of the table that is the same whatever services there are: maps, the chains that look things up in them, and
//! the hooks.

use std::net::{IpAddr, Ipv4Addr};

use netlink::IpRange;
use nftables::{
    BaseChain, ChainKind, Comparison, Element, Field, Hook, Register, RejectWith, Rule, Set, Transaction, Verdict,
};

use crate::state::Options;

/// The bit of a flow's mark that asks for masquerading.
pub const MASQUERADE: u32 = 0x4000;

/// After destinations are translated: whoever still has a service's address was not.
const AFTER_DESTINATION_NAT: i32 = BaseChain::DESTINATION_NAT + 10;

/// Name of a set of one family.
pub fn of_family(base: &str, ipv4: bool) -> String {
    format!("{base}{}", if ipv4 { 4 } else { 6 })
}

/// Map: address, protocol, port → chain of the service.
pub const SERVICES: &str = "services";
/// Map: protocol, port → chain of the service.
pub const NODE_PORTS: &str = "node-ports";
/// Set: addresses in the cluster. What is sent to one and not translated is refused.
pub const CLUSTER_ADDRESSES: &str = "cluster-addresses";
/// Set: other addresses with protocol and port that have no endpoints.
pub const REFUSED: &str = "refused";
/// Set: protocol and port of node ports without endpoints.
pub const REFUSED_PORTS: &str = "refused-ports";
/// Set: pairs of a pod's address with itself.
pub const HAIRPIN: &str = "hairpin";
/// Set: the cluster's pod ranges.
pub const PODS: &str = "pods";

/// Set: the cluster's service ranges.
pub const SERVICE_RANGES: &str = "service-ranges";

/// An empty table, in place of whatever was there.
pub fn empty_table(options: &Options) -> Transaction {
    let mut transaction = Transaction::replacing(options.table_name());
    for ipv4 in [true, false] {
        let address = Field::address(ipv4);
        let pods = options.cluster_ranges.iter().filter(|range| range.is_ipv4() == ipv4);
        let services = options.service_ranges.iter().filter(|range| range.is_ipv4() == ipv4);
        transaction
            .set(Set::verdict_map(of_family(SERVICES, ipv4), vec![address, Field::Protocol, Field::Port]))
            .set(Set::verdict_map(of_family(NODE_PORTS, ipv4), vec![Field::Protocol, Field::Port]))
            .set(Set::new(of_family(CLUSTER_ADDRESSES, ipv4), vec![address]))
            .set(Set::new(of_family(REFUSED, ipv4), vec![address, Field::Protocol, Field::Port]))
            .set(Set::new(of_family(REFUSED_PORTS, ipv4), vec![Field::Protocol, Field::Port]))
            .set(Set::new(of_family(HAIRPIN, ipv4), vec![address, address]))
            .set(Set::ranges(of_family(PODS, ipv4), address))
            .set(Set::ranges(of_family(SERVICE_RANGES, ipv4), address))
            .elements(&of_family(PODS, ipv4), pods.flat_map(|range| Element::range(*range)).collect())
            .elements(&of_family(SERVICE_RANGES, ipv4), services.flat_map(|range| Element::range(*range)).collect());
    }
    for chain in [SERVICES, NODE_PORTS, "refuse", "check"] {
        transaction.chain(chain);
    }
    services_chain(&mut transaction, options);
    node_ports_chain(&mut transaction);
    check_chain(&mut transaction);
    transaction
        .rule("refuse", Rule::new().protocol(6).reject(RejectWith::TcpReset))
        .rule("refuse", Rule::new().reject(RejectWith::PortUnreachable));
    postrouting_chain(&mut transaction);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let translate = format!("translate-{name}");
        let check = format!("check-{name}");
        transaction
            .base_chain(&translate, ChainKind::Nat, hook, BaseChain::DESTINATION_NAT)
            .rule(&translate, Rule::new().verdict(Verdict::Jump(SERVICES.to_owned())))
            .base_chain(&check, ChainKind::Filter, hook, AFTER_DESTINATION_NAT)
            .rule(&check, Rule::new().new_flow().verdict(Verdict::Jump("check".to_owned())));
    }
    transaction
}

fn services_chain(transaction: &mut Transaction, options: &Options) {
    for ipv4 in [true, false] {
        // Whoever is no pod may not be reached by the way that a pod's answer takes, so the node speaks for it.
        if options.cluster_ranges.iter().any(|range| range.is_ipv4() == ipv4) {
            transaction.rule(
                SERVICES,
                Rule::new()
                    .family(ipv4)
                    .destination_in(ipv4, &of_family(CLUSTER_ADDRESSES, ipv4), false)
                    .source_in(ipv4, &of_family(PODS, ipv4), true)
                    .mark_flow(MASQUERADE),
            );
        }
        let lookup = Rule::new().family(ipv4).load_destination_key(ipv4).verdict_map(&of_family(SERVICES, ipv4));
        transaction.rule(SERVICES, lookup);
    }
    transaction.rule(SERVICES, Rule::new().to_this_host().verdict(Verdict::Jump(NODE_PORTS.to_owned())));
}

fn node_ports_chain(transaction: &mut Transaction) {
    let loopback = IpRange::containing(IpAddr::V4(Ipv4Addr::LOCALHOST), 8).unwrap_or(IpRange::EVERYTHING_V4);
    // A packet from 127.0.0.1 could not leave by a link anyway.
    transaction.rule(
        NODE_PORTS,
        Rule::new().family(true).destination_within(loopback, Comparison::Equal).verdict(Verdict::Return),
    );
    for ipv4 in [true, false] {
        transaction.rule(
            NODE_PORTS,
            Rule::new()
                .family(ipv4)
                .load_protocol(Register(0))
                .load_destination_port(Register(1))
                .verdict_map(&of_family(NODE_PORTS, ipv4)),
        );
    }
}

/// Refuses what is meant for a service and has nowhere to go. It comes after translation, so only that is left.
fn check_chain(transaction: &mut Transaction) {
    let refuse = || Verdict::Goto("refuse".to_owned());
    for ipv4 in [true, false] {
        transaction
            .rule(
                "check",
                Rule::new()
                    .family(ipv4)
                    .destination_in(ipv4, &of_family(CLUSTER_ADDRESSES, ipv4), false)
                    .verdict(refuse()),
            )
            .rule(
                "check",
                Rule::new()
                    .family(ipv4)
                    .load_destination_key(ipv4)
                    .lookup(&of_family(REFUSED, ipv4), Register(0), false)
                    .verdict(refuse()),
            )
            .rule(
                "check",
                Rule::new()
                    .family(ipv4)
                    .load_protocol(Register(0))
                    .load_destination_port(Register(1))
                    .lookup(&of_family(REFUSED_PORTS, ipv4), Register(0), false)
                    .to_this_host()
                    .verdict(refuse()),
            );
    }
    // Addresses of services that this node serves itself (DNS) are in the ranges, too.
    transaction.rule("check", Rule::new().to_this_host().verdict(Verdict::Return));
    for ipv4 in [true, false] {
        let ranges = of_family(SERVICE_RANGES, ipv4);
        transaction
            .rule("check", Rule::new().family(ipv4).destination_in(ipv4, &ranges, false).verdict(refuse()));
    }
}

fn postrouting_chain(transaction: &mut Transaction) {
    let name = "masquerade";
    transaction
        .base_chain(name, ChainKind::Nat, Hook::Postrouting, BaseChain::SOURCE_NAT)
        .rule(name, Rule::new().flow_marked(MASQUERADE).masquerade());
    for ipv4 in [true, false] {
        // A pod that was led to itself would answer itself directly, under the wrong address, if it saw its own.
        transaction.rule(
            name,
            Rule::new()
                .family(ipv4)
                .load_source(ipv4, Register(0))
                .load_destination(ipv4, Register(if ipv4 { 1 } else { 4 }))
                .lookup(&of_family(HAIRPIN, ipv4), Register(0), false)
                .masquerade(),
        );
    }
}
