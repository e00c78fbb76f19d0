//! The chains and map entries of one service.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use client::ObjectKey;
use nftables::{DynamicUpdate, ElementData, Field, KeyBytes, Register, Rule, Set, Verdict};

use crate::{
    endpoints::{self, Endpoints, Place},
    service::{Policy, ServiceFacts, ServicePort},
    slice::SliceFacts,
    state::Options,
    table::{self, of_family},
};

/// How many clients a service port remembers at most for each endpoint.
const AFFINITY_SIZE: u32 = 65536;

/// The element of a shared map: the map's name and the key.
pub type EntryKey = (String, KeyBytes);

/// What the table must hold for one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// Chains of its own.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Sets of its own.
    pub sets: BTreeMap<String, Set>,
    /// Its entries in the maps that all services share.
    pub entries: BTreeMap<EntryKey, ElementData>,
    /// For each UDP address and port it answers on, where flows to it may lead now.
    pub udp: BTreeMap<SocketAddr, Vec<SocketAddr>>,
    /// The same for UDP node ports.
    pub udp_node_ports: BTreeMap<u16, Vec<SocketAddr>>,
}

/// Writes the program of a service.
pub fn program<'a>(
    key: &ObjectKey,
    service: &ServiceFacts,
    slices: impl Iterator<Item = &'a SliceFacts> + Clone,
    options: &Options,
) -> Program {
    let mut program = Program::default();
    for port in &service.ports {
        for ipv4 in [true, false] {
            let writer = Writer { key, service, port, ipv4, options };
            if writer.is_needed() {
                let place = Place { node: &options.node_name, zone: options.zone.as_deref() };
                let endpoints = endpoints::choose(port, ipv4, slices.clone(), place);
                writer.write(&endpoints, &mut program);
            }
        }
    }
    program
}

struct Writer<'a> {
    key: &'a ObjectKey,
    service: &'a ServiceFacts,
    port: &'a ServicePort,
    ipv4: bool,
    options: &'a Options,
}

impl Writer<'_> {
    fn of_family<'b>(&self, addresses: &'b [IpAddr]) -> impl Iterator<Item = IpAddr> + use<'b> {
        let (ipv4, served_here) = (self.ipv4, self.options.served_here.clone());
        addresses
            .iter()
            .copied()
            .filter(move |address| address.is_ipv4() == ipv4 && !served_here.contains(address))
    }

    /// A service is of a family when its cluster addresses are.
    fn is_needed(&self) -> bool {
        self.of_family(&self.service.cluster_addresses).next().is_some()
    }

    fn chain(&self, kind: &str) -> String {
        let namespace = self.key.namespace.as_deref().unwrap_or_default();
        let protocol = match self.port.protocol {
            17 => "udp",
            132 => "sctp",
            _ => "tcp",
        };
        let family = if self.ipv4 { 4 } else { 6 };
        format!("{kind}{family}/{namespace}/{}/{protocol}/{}", self.key.name, self.port.port)
    }

    fn write(&self, endpoints: &Endpoints, program: &mut Program) {
        let service = self.service;
        for address in self.of_family(&service.cluster_addresses) {
            let place = (of_family(table::CLUSTER_ADDRESSES, self.ipv4), KeyBytes::address(address));
            program.entries.insert(place, ElementData::None);
        }
        for address in &endpoints.own {
            let place = (of_family(table::HAIRPIN, self.ipv4), KeyBytes::address(*address).and_address(*address));
            program.entries.insert(place, ElementData::None);
        }
        let external: Vec<IpAddr> = self.of_family(&service.external_addresses).collect();
        let balancer: Vec<IpAddr> = self.of_family(&service.balancer_addresses).collect();
        let from_outside = !external.is_empty() || !balancer.is_empty() || self.port.node_port.is_some();
        if endpoints.everywhere.is_empty() && endpoints.here.is_empty() {
            self.refuse(external.into_iter().chain(balancer), program);
            return;
        }
        // Chains are written when something leads to them.
        let mut everywhere_used = false;
        let mut here_used = false;
        let internal = match service.internal_policy {
            Policy::Cluster => {
                everywhere_used = true;
                self.chain("service")
            }
            Policy::Local => {
                here_used = true;
                self.chain("local")
            }
        };
        for address in self.of_family(&service.cluster_addresses) {
            self.lead(address, &internal, program);
        }
        if from_outside {
            self.write_outside(&external, &balancer, program);
            everywhere_used = true;
            here_used |= service.external_policy == Policy::Local;
        }
        if everywhere_used {
            self.write_choice(&self.chain("service"), &endpoints.everywhere, program);
        }
        if here_used {
            self.write_choice(&self.chain("local"), &endpoints.here, program);
        }
        if self.port.protocol == 17 {
            self.note_udp(endpoints, &external, &balancer, program);
        }
    }

    fn destination(&self, address: IpAddr) -> KeyBytes {
        KeyBytes::address(address).and_protocol(self.port.protocol).and_port(self.port.port)
    }

    fn lead(&self, address: IpAddr, chain: &str, program: &mut Program) {
        let place = (of_family(table::SERVICES, self.ipv4), self.destination(address));
        program.entries.insert(place, ElementData::Verdict(Verdict::Goto(chain.to_owned())));
    }

    /// Nobody is there: what comes from outside is refused port by port, since its address may be used for other things.
    fn refuse(&self, addresses: impl Iterator<Item = IpAddr>, program: &mut Program) {
        for address in addresses {
            let place = (of_family(table::REFUSED, self.ipv4), self.destination(address));
            program.entries.insert(place, ElementData::None);
        }
        if let Some(port) = self.port.node_port {
            let key = KeyBytes::protocol(self.port.protocol).and_port(port);
            program.entries.insert((of_family(table::REFUSED_PORTS, self.ipv4), key), ElementData::None);
        }
    }

    fn write_outside(&self, external: &[IpAddr], balancer: &[IpAddr], program: &mut Program) {
        let outside = self.chain("external");
        let everywhere = || Verdict::Goto(self.chain("service"));
        let rules = match self.service.external_policy {
            Policy::Cluster => {
                vec![Rule::new().mark_flow(table::MASQUERADE), Rule::new().verdict(everywhere())]
            }
            // The caller's address is kept. Pods and this node itself are not outside: they may go anywhere.
            Policy::Local => vec![
                Rule::new().source_in(self.ipv4, &of_family(table::PODS, self.ipv4), false).verdict(everywhere()),
                Rule::new().from_this_host().mark_flow(table::MASQUERADE).verdict(everywhere()),
                Rule::new().verdict(Verdict::Goto(self.chain("local"))),
            ],
        };
        let rules = rules.into_iter().map(|rule| self.in_family(rule)).collect();
        program.chains.insert(outside.clone(), rules);
        for address in external {
            self.lead(*address, &outside, program);
        }
        if let Some(port) = self.port.node_port {
            let key = KeyBytes::protocol(self.port.protocol).and_port(port);
            let place = (of_family(table::NODE_PORTS, self.ipv4), key);
            program.entries.insert(place, ElementData::Verdict(Verdict::Goto(outside.clone())));
        }
        let mut gate = outside.clone();
        if !balancer.is_empty() && !self.service.balancer_sources.is_empty() {
            gate = self.chain("firewall");
            let allowed = self.service.balancer_sources.iter().filter(|range| range.is_ipv4() == self.ipv4);
            let mut rules: Vec<Rule> = allowed
                .map(|range| {
                    let from = Rule::new().family(self.ipv4).source_within(*range, nftables::Comparison::Equal);
                    from.verdict(Verdict::Goto(outside.clone()))
                })
                .collect();
            rules.push(Rule::new().verdict(Verdict::Drop));
            program.chains.insert(gate.clone(), rules);
        }
        for address in balancer {
            self.lead(*address, &gate, program);
        }
    }

    /// Says the family first, which `nft` needs to know to print addresses as such.
    fn in_family(&self, rule: Rule) -> Rule {
        let mut whole = Rule::new().family(self.ipv4);
        whole.expressions.extend(rule.expressions);
        whole
    }

    /// A chain that picks one of these endpoints, or drops where there is none: others elsewhere could answer, but must
    /// not be asked.
    fn write_choice(&self, chain: &str, endpoints: &[SocketAddr], program: &mut Program) {
        let fields = [Field::address(self.ipv4), Field::Port];
        let port_register = Register(if self.ipv4 { 1 } else { 4 });
        let translate = |rule: Rule| rule.destination_nat(self.ipv4, Register(0), Some(port_register));
        let target = |endpoint: &SocketAddr| KeyBytes::address(endpoint.ip()).and_port(endpoint.port());
        let protocol = || Rule::new().family(self.ipv4).protocol(self.port.protocol);
        let one = |endpoint: &SocketAddr| {
            let address = protocol().load(&KeyBytes::address(endpoint.ip()), Register(0));
            translate(address.load(&KeyBytes::port(endpoint.port()), port_register))
        };
        let rules = match (endpoints, self.service.affinity) {
            ([], _) => vec![Rule::new().verdict(Verdict::Drop)],
            ([only], _) => vec![one(only)],
            (many, None) => {
                let targets: Vec<KeyBytes> = many.iter().map(target).collect();
                vec![translate(protocol().random_of(&targets, &fields, Register(0)))]
            }
            (many, Some(timeout)) => {
                let mut rules = Vec::new();
                let mut verdicts = Vec::new();
                for endpoint in many {
                    let name = format!("{chain}/{}", endpoint.to_string().replace(':', "."));
                    let clients = format!("clients/{name}");
                    let set = Set::new(clients.clone(), vec![Field::address(self.ipv4)]);
                    program.sets.insert(clients.clone(), set.filled_by_rules(timeout, AFFINITY_SIZE));
                    let verdict = Verdict::Goto(name.clone());
                    rules.push(
                        Rule::new().family(self.ipv4).source_in(self.ipv4, &clients, false).verdict(verdict.clone()),
                    );
                    verdicts.push(verdict);
                    let remember =
                        DynamicUpdate { set: clients, key: Register(0), value: None, timeout: None };
                    let remember = Rule::new().family(self.ipv4).load_source(self.ipv4, Register(0)).update(remember);
                    program.chains.insert(name, vec![remember, one(endpoint)]);
                }
                rules.push(Rule::new().random_verdict(verdicts));
                rules
            }
        };
        program.chains.insert(chain.to_owned(), rules);
    }

    fn note_udp(&self, endpoints: &Endpoints, external: &[IpAddr], balancer: &[IpAddr], program: &mut Program) {
        let mut everywhere = endpoints.everywhere.clone();
        everywhere.extend(&endpoints.here);
        let internal = match self.service.internal_policy {
            Policy::Cluster => &everywhere,
            Policy::Local => &endpoints.here,
        };
        let at = |address: IpAddr| SocketAddr::new(address, self.port.port);
        for address in self.of_family(&self.service.cluster_addresses) {
            program.udp.insert(at(address), internal.clone());
        }
        for address in external.iter().chain(balancer) {
            program.udp.insert(at(*address), everywhere.clone());
        }
        if let Some(port) = self.port.node_port {
            program.udp_node_ports.entry(port).or_default().extend(everywhere);
        }
    }
}
