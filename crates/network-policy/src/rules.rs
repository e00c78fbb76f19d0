//! The table that policies and pods make. Pure.
//!
//! Each local pod that a policy selects has a chain for each of its addresses and directions: the rules return what is allowed,
//! and the end drops. Peers are sets, so that a pod that comes or goes changes elements and no rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use client::ObjectKey;
use meta::selector::LabelSelector;
use nftables::{BaseChain, Chain, ChainKind, Comparison, Contents, ElementData, Field, Hook, KeyBytes, Register, Rule, Set, Verdict};

use crate::{
    pod::PodFacts,
    policy::{Allowed, Numbers, Peer, PolicyFacts, Port},
};

/// Which way a flow goes, seen from the pod that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn name(self) -> &'static str {
        if self == Self::Ingress { "ingress" } else { "egress" }
    }
}

/// Pods, namespaces and policies as they are.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Pods that have addresses.
    pub pods: BTreeMap<ObjectKey, PodFacts>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Policies.
    pub policies: BTreeMap<ObjectKey, PolicyFacts>,
}

fn fits(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.matches(&|key| labels.get(key).map(String::as_str))
}

fn family(ipv4: bool) -> char {
    if ipv4 { '4' } else { '6' }
}

impl Cluster {
    /// What the table of a node must hold; none where no policy selects a pod of it.
    pub fn contents(&self, node: &str) -> Option<Contents> {
        let mut contents = Contents::default();
        let mut isolated: BTreeMap<IpAddr, Vec<(Direction, String)>> = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| pod.node == node) {
            for direction in [Direction::Ingress, Direction::Egress] {
                let policies: Vec<_> = self.policies.values().filter_map(|policy| Some((policy, policy.rules_for(pod, direction)?))).collect();
                if policies.is_empty() {
                    continue;
                }
                for address in &pod.addresses {
                    let chain = format!("{}/{}", direction.name(), address.to_string().replace(':', "."));
                    for (policy, rules) in &policies {
                        for (index, allowed) in rules.iter().enumerate() {
                            let place = format!("{}/{}{index}", policy.uid, direction.name());
                            let writer = Writer { cluster: self, policy, pod, direction, ipv4: address.is_ipv4(), place };
                            writer.write(allowed, &chain, &mut contents);
                        }
                    }
                    contents.rule(&chain, Rule::new().verdict(Verdict::Drop));
                    isolated.entry(*address).or_default().push((direction, chain));
                }
            }
        }
        if isolated.is_empty() {
            return None;
        }
        judge(&isolated, &mut contents);
        Some(contents)
    }

    /// The pods that a peer stands for.
    fn selected<'a>(&'a self, policy: &'a PolicyFacts, namespaces: Option<&'a LabelSelector>, pods: &'a LabelSelector) -> impl Iterator<Item = &'a PodFacts> {
        self.pods.values().filter(move |pod| {
            let in_namespace = match namespaces {
                None => pod.namespace == policy.namespace,
                Some(selector) => self.namespaces.get(&pod.namespace).is_some_and(|labels| fits(selector, labels)),
            };
            in_namespace && fits(pods, &pod.labels)
        })
    }
}

impl PolicyFacts {
    /// Its rules for a pod, where it selects it and speaks of this direction.
    fn rules_for(&self, pod: &PodFacts, direction: Direction) -> Option<&[Allowed]> {
        let rules = if direction == Direction::Ingress { &self.ingress } else { &self.egress };
        (self.namespace == pod.namespace && fits(&self.pods, &pod.labels)).then_some(rules.as_deref()?)
    }
}

/// The hook, and the maps from addresses to chains.
fn judge(isolated: &BTreeMap<IpAddr, Vec<(Direction, String)>>, contents: &mut Contents) {
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: BaseChain::FILTER };
    contents.chains.insert("forward".to_owned(), Chain { base: Some(base), rules: vec![Rule::new().new_flow().verdict(Verdict::Jump("judge".to_owned()))] });
    for ipv4 in [true, false] {
        let own = format!("itself{}", family(ipv4));
        let address = Field::address(ipv4);
        let here = || isolated.keys().filter(|address| address.is_ipv4() == ipv4);
        contents.set(Set::new(own.clone(), vec![address, address]), here().map(|address| KeyBytes::address(*address).and_address(*address)));
        let both = Rule::new().family(ipv4).load_source(ipv4, Register(0)).load_destination(ipv4, Register(if ipv4 { 1 } else { 4 }));
        contents.rule("judge", both.lookup(&own, Register(0), false).verdict(Verdict::Accept));
        for direction in [Direction::Egress, Direction::Ingress] {
            let name = format!("{}{}", direction.name(), family(ipv4));
            let chains = isolated.iter().filter(|(address, _)| address.is_ipv4() == ipv4).flat_map(|(address, chains)| {
                let of_direction = chains.iter().filter(|(known, _)| *known == direction);
                of_direction.map(|(_, chain)| (KeyBytes::address(*address), ElementData::Verdict(Verdict::Jump(chain.clone()))))
            });
            contents.sets.insert(name.clone(), (Set::verdict_map(name.clone(), vec![address]), chains.collect()));
            let rule = Rule::new().family(ipv4);
            let rule = if direction == Direction::Ingress { rule.load_destination(ipv4, Register(0)) } else { rule.load_source(ipv4, Register(0)) };
            contents.rule("judge", rule.verdict_map(&name));
        }
    }
}

/// Writes one rule of a policy into the chain of one address.
struct Writer<'a> {
    cluster: &'a Cluster,
    policy: &'a PolicyFacts,
    pod: &'a PodFacts,
    direction: Direction,
    ipv4: bool,
    /// Begins the names of the rule's sets.
    place: String,
}

impl Writer<'_> {
    fn write(&self, allowed: &Allowed, chain: &str, contents: &mut Contents) {
        for peer in self.peers(allowed, contents) {
            if allowed.ports.is_empty() {
                contents.rule(chain, peer.clone().verdict(Verdict::Return));
            }
            for port in &allowed.ports {
                for rule in self.on_port(&peer, port, contents) {
                    contents.rule(chain, rule.verdict(Verdict::Return));
                }
            }
        }
    }

    /// Beginnings of rules, for each kind of peer one.
    fn peers(&self, allowed: &Allowed, contents: &mut Contents) -> Vec<Rule> {
        let start = || Rule::new().family(self.ipv4);
        if allowed.peers.is_empty() {
            return vec![start()];
        }
        let mut rules = Vec::new();
        let mut addresses = BTreeSet::new();
        let mut by_set = false;
        for peer in &allowed.peers {
            match peer {
                Peer::Block(range, except) if range.is_ipv4() == self.ipv4 => {
                    let mut rule = start();
                    for (range, comparison) in std::iter::once((range, Comparison::Equal)).chain(except.iter().map(|range| (range, Comparison::NotEqual))) {
                        rule = match self.direction {
                            Direction::Ingress => rule.source_within(*range, comparison),
                            Direction::Egress => rule.destination_within(*range, comparison),
                        };
                    }
                    rules.push(rule);
                }
                Peer::Block(..) => {}
                Peer::Pods { namespaces, pods } => {
                    by_set = true;
                    let selected = self.cluster.selected(self.policy, namespaces.as_ref(), pods);
                    addresses.extend(selected.flat_map(|pod| &pod.addresses).filter(|address| address.is_ipv4() == self.ipv4).copied());
                }
            }
        }
        if by_set {
            let name = format!("{}/{}", self.place, family(self.ipv4));
            contents.set(Set::new(name.clone(), vec![Field::address(self.ipv4)]), addresses.into_iter().map(KeyBytes::address));
            rules.push(match self.direction {
                Direction::Ingress => start().source_in(self.ipv4, &name, false),
                Direction::Egress => start().destination_in(self.ipv4, &name, false),
            });
        }
        rules
    }

    fn on_port(&self, peer: &Rule, port: &Port, contents: &mut Contents) -> Vec<Rule> {
        let of_protocol = || peer.clone().protocol(port.protocol);
        let named = |pod: &PodFacts, name: &str| -> Vec<u16> {
            let fitting = pod.ports.iter().filter(|(known, protocol, _)| known == name && *protocol == port.protocol);
            fitting.map(|(_, _, number)| *number).collect()
        };
        match (&port.numbers, self.direction) {
            (Numbers::All, _) => vec![of_protocol()],
            (Numbers::Range(first, last), _) => vec![of_protocol().to_ports(*first, *last)],
            (Numbers::Named(name), Direction::Ingress) => named(self.pod, name).into_iter().map(|number| of_protocol().to_ports(number, number)).collect(),
            // Each receiver may mean another number.
            (Numbers::Named(name), Direction::Egress) => {
                let set = format!("named/{}/{name}/{}", port.protocol, family(self.ipv4));
                let keys = self.cluster.pods.values().flat_map(|pod| {
                    let numbers = named(pod, name);
                    let addresses = pod.addresses.iter().filter(|address| address.is_ipv4() == self.ipv4);
                    addresses.flat_map(move |address| numbers.clone().into_iter().map(|number| KeyBytes::address(*address).and_protocol(port.protocol).and_port(number)))
                });
                let keys: BTreeSet<KeyBytes> = keys.collect();
                contents.set(Set::new(set.clone(), vec![Field::address(self.ipv4), Field::Protocol, Field::Port]), keys);
                vec![of_protocol().load_destination_key(self.ipv4).lookup(&set, Register(0), false)]
            }
        }
    }
}
