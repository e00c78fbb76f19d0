//! Services and EndpointSlices as names, and what a question for one of them gets. Pure.
//!
//! Source: Kubernetes DNS-based service discovery, specification 1.1.0.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use client::ObjectKey;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use netlink::IpRange;

use crate::wire::{Data, kind};

/// How long answers about the cluster may be remembered, in seconds.
pub const TTL_SECONDS: u32 = 5;
/// Share of each target of a service. Source: the specification's examples.
const SRV_WEIGHT: u16 = 100;

/// What a question gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These records, and what may be asked next.
    Records {
        /// Records of the name.
        answers: Vec<Data>,
        /// Records of other names.
        additional: Vec<(String, Data)>,
    },
    /// The name exists, but has no record of this kind.
    NothingOfThisKind,
    /// The name does not exist.
    NoSuchName,
    /// The name stands for another, outside.
    Elsewhere(String),
    /// The name is none of the cluster's.
    NotOurs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    name: String,
    protocol: &'static str,
    number: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Reached by its own addresses.
    Addresses(Vec<IpAddr>),
    /// Reached by those of its endpoints.
    Headless,
    /// Another name.
    External(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ServiceNames {
    kind: Kind,
    ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    /// Its host name, or its address with dashes.
    host: String,
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SliceNames {
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

/// The names of the cluster.
#[derive(Debug)]
pub struct Names {
    /// The cluster's domain, in lower case, without the last dot.
    domain: String,
    /// Addresses of this server, for its own name.
    servers: Vec<IpAddr>,
    /// Ranges whose reverse names are ours, whether in use or not.
    ranges: Vec<IpRange>,
    services: BTreeMap<(String, String), ServiceNames>,
    slices: HashMap<(String, String), BTreeMap<ObjectKey, SliceNames>>,
    slice_owners: HashMap<ObjectKey, (String, String)>,
    reverse: HashMap<IpAddr, BTreeSet<String>>,
    /// Changes so far: the zone's serial number.
    changes: u32,
    /// Turns the order of answers, so that askers who take the first spread.
    turn: AtomicUsize,
}

fn protocol_label(name: Option<&str>) -> Option<&'static str> {
    match name.unwrap_or("TCP") {
        "TCP" => Some("_tcp"),
        "UDP" => Some("_udp"),
        "SCTP" => Some("_sctp"),
        _ => None,
    }
}

impl Names {
    /// Names of a domain such as `cluster.local`.
    pub fn new(domain: &str, servers: Vec<IpAddr>, ranges: Vec<IpRange>) -> Self {
        Self {
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            servers,
            ranges,
            services: BTreeMap::new(),
            slices: HashMap::new(),
            slice_owners: HashMap::new(),
            reverse: HashMap::new(),
            changes: 1,
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes in a Service as it is now.
    pub fn apply_service(&mut self, service: &Service) {
        let Some(key) = names_of(&client::key_of(service)) else { return };
        let names = read_service(service);
        if self.services.get(&key) == Some(&names) {
            return;
        }
        self.change(key, |names_now, key| {
            names_now.services.insert(key.clone(), names);
        });
    }

    /// Forgets a Service.
    pub fn delete_service(&mut self, key: &ObjectKey) {
        let Some(key) = names_of(key) else { return };
        self.change(key, |names, key| {
            names.services.remove(key);
        });
    }

    /// Takes in an EndpointSlice as it is now.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = client::key_of(slice);
        let labels = slice.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
        let (Some(service), Some(namespace)) = (service, slice.metadata.namespace.as_ref()) else {
            return self.delete_slice(&key);
        };
        let owner = (namespace.clone(), service.clone());
        if self.slice_owners.get(&key).is_some_and(|before| *before != owner) {
            self.delete_slice(&key);
        }
        let names = read_slice(slice);
        if self.slices.get(&owner).and_then(|slices| slices.get(&key)) == Some(&names) {
            return;
        }
        self.slice_owners.insert(key.clone(), owner.clone());
        self.change(owner, |all, owner| {
            all.slices.entry(owner.clone()).or_default().insert(key, names);
        });
    }

    /// Forgets an EndpointSlice.
    pub fn delete_slice(&mut self, key: &ObjectKey) {
        let Some(owner) = self.slice_owners.remove(key) else { return };
        self.change(owner, |names, owner| {
            if let Some(slices) = names.slices.get_mut(owner) {
                slices.remove(key);
                if slices.is_empty() {
                    names.slices.remove(owner);
                }
            }
        });
    }

    /// Changes one service and keeps the reverse names in step.
    fn change(&mut self, key: (String, String), deed: impl FnOnce(&mut Self, &(String, String))) {
        for (address, name) in self.reverse_names(&key) {
            if let Some(names) = self.reverse.get_mut(&address) {
                names.remove(&name);
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        deed(self, &key);
        for (address, name) in self.reverse_names(&key) {
            self.reverse.entry(address).or_default().insert(name);
        }
        self.changes = self.changes.wrapping_add(1);
    }

    fn reverse_names(&self, key: &(String, String)) -> Vec<(IpAddr, String)> {
        match self.services.get(key).map(|service| &service.kind) {
            Some(Kind::Addresses(addresses)) => {
                addresses.iter().map(|address| (*address, self.service_name(key))).collect()
            }
            Some(Kind::Headless) => self
                .endpoints(key)
                .flat_map(|(_, endpoint)| {
                    endpoint.addresses.iter().map(|address| (*address, self.endpoint_name(key, endpoint)))
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    fn service_name(&self, (namespace, service): &(String, String)) -> String {
        format!("{service}.{namespace}.svc.{}", self.domain)
    }

    fn endpoint_name(&self, key: &(String, String), endpoint: &Endpoint) -> String {
        format!("{}.{}", endpoint.host, self.service_name(key))
    }

    fn endpoints(&self, key: &(String, String)) -> impl Iterator<Item = (&SliceNames, &Endpoint)> {
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        slices.flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)))
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The start-of-authority record of the domain.
    pub fn authority(&self) -> Data {
        Data::Soa {
            server: format!("ns.dns.{}", self.domain),
            contact: format!("hostmaster.{}", self.domain),
            serial: self.changes,
            negative_ttl: TTL_SECONDS,
        }
    }

    /// Whether a name is one that only the cluster can answer.
    pub fn is_ours(&self, name: &str) -> bool {
        self.below_domain(name).is_some()
            || reverse_address(name).is_some_and(|address| self.ranges.iter().any(|range| range.contains(address)))
    }

    fn below_domain<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_suffix(self.domain.as_str())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
    }

    /// Answers a question for a name in lower case.
    pub fn find(&self, name: &str, wanted: u16) -> Found {
        match self.below_domain(name) {
            Some(rest) => {
                let labels: Vec<&str> = rest.rsplit('.').filter(|label| !label.is_empty()).collect();
                self.find_below(&labels, wanted)
            }
            None => self.find_reverse(name, wanted),
        }
    }

    fn find_reverse(&self, name: &str, wanted: u16) -> Found {
        let Some(address) = reverse_address(name) else { return Found::NotOurs };
        match self.reverse.get(&address) {
            Some(names) if matches!(wanted, kind::PTR | kind::ANY) => records(names.iter().cloned().map(Data::Ptr)),
            Some(_) => Found::NothingOfThisKind,
            None if self.ranges.iter().any(|range| range.contains(address)) => Found::NoSuchName,
            None => Found::NotOurs,
        }
    }

    /// `labels` are below the domain, the outermost first.
    fn find_below(&self, labels: &[&str], wanted: u16) -> Found {
        match labels {
            [] => match wanted {
                kind::SOA => records([self.authority()]),
                kind::NS => records([Data::Ns(format!("ns.dns.{}", self.domain))]),
                _ => Found::NothingOfThisKind,
            },
            ["dns-version"] if matches!(wanted, kind::TXT | kind::ANY) => records([Data::Txt("1.1.0".to_owned())]),
            ["dns-version" | "dns" | "svc" | "pod"] => Found::NothingOfThisKind,
            ["dns", "ns"] => of_kind(&self.servers, wanted),
            ["svc", namespace, rest @ ..] => self.find_service(namespace, rest, wanted),
            ["pod", _] => Found::NothingOfThisKind,
            ["pod", _, address] => match dashed_address(address) {
                Some(address) => of_kind(&[address], wanted),
                None => Found::NoSuchName,
            },
            _ => Found::NoSuchName,
        }
    }

    fn find_service(&self, namespace: &str, rest: &[&str], wanted: u16) -> Found {
        let [service, rest @ ..] = rest else {
            let first = (namespace.to_owned(), String::new());
            let mut of_namespace = self.services.range(first..).take_while(|((found, _), _)| found == namespace);
            return if of_namespace.next().is_some() { Found::NothingOfThisKind } else { Found::NoSuchName };
        };
        let key = (namespace.to_owned(), (*service).to_owned());
        let Some(names) = self.services.get(&key) else { return Found::NoSuchName };
        match (&names.kind, rest) {
            (Kind::External(target), []) if wanted == kind::CNAME => records([Data::Cname(target.clone())]),
            (Kind::External(target), []) => Found::Elsewhere(target.clone()),
            (Kind::External(_), _) => Found::NoSuchName,
            (Kind::Addresses(addresses), []) => of_kind(addresses, wanted),
            (Kind::Headless, []) => {
                let addresses: BTreeSet<IpAddr> =
                    self.endpoints(&key).flat_map(|(_, endpoint)| endpoint.addresses.iter().copied()).collect();
                let mut addresses: Vec<IpAddr> = addresses.into_iter().collect();
                self.rotate(&mut addresses);
                of_kind(&addresses, wanted)
            }
            (_, [protocol]) if protocol.starts_with('_') => {
                let known = self.ports(names, &key).any(|port| port.protocol == *protocol && !port.name.is_empty());
                if known { Found::NothingOfThisKind } else { Found::NoSuchName }
            }
            (_, [protocol, port]) if protocol.starts_with('_') => self.find_port(names, &key, protocol, port, wanted),
            (_, [host]) => {
                let addresses: BTreeSet<IpAddr> = self
                    .endpoints(&key)
                    .filter(|(_, endpoint)| endpoint.host == *host)
                    .flat_map(|(_, endpoint)| endpoint.addresses.iter().copied())
                    .collect();
                if addresses.is_empty() {
                    return Found::NoSuchName;
                }
                of_kind(&addresses.into_iter().collect::<Vec<_>>(), wanted)
            }
            _ => Found::NoSuchName,
        }
    }

    fn ports<'a>(&'a self, names: &'a ServiceNames, key: &(String, String)) -> impl Iterator<Item = &'a Port> {
        let headless = matches!(names.kind, Kind::Headless);
        let of_slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values).flat_map(|slice| &slice.ports);
        names.ports.iter().chain(of_slices.filter(move |_| headless))
    }

    fn find_port(&self, names: &ServiceNames, key: &(String, String), protocol: &str, port: &str, wanted: u16) -> Found {
        let Some(port) = port.strip_prefix('_').filter(|name| !name.is_empty()) else { return Found::NoSuchName };
        let fits = |candidate: &&Port| candidate.protocol == protocol && candidate.name == port;
        if self.ports(names, key).find(fits).is_none() {
            return Found::NoSuchName;
        }
        if !matches!(wanted, kind::SRV | kind::ANY) {
            return Found::NothingOfThisKind;
        }
        let target = |number, target| Data::Srv { priority: 0, weight: SRV_WEIGHT, port: number, target };
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        if let Kind::Addresses(addresses) = &names.kind {
            let name = self.service_name(key);
            answers.extend(names.ports.iter().filter(fits).map(|port| target(port.number, name.clone())));
            additional.extend(addresses.iter().map(|address| (name.clone(), Data::address(*address))));
        } else {
            for (slice, endpoint) in self.endpoints(key) {
                let name = self.endpoint_name(key, endpoint);
                for port in slice.ports.iter().filter(fits) {
                    let answer = target(port.number, name.clone());
                    // A pod of both families is in two slices under one name.
                    if !answers.contains(&answer) {
                        answers.push(answer);
                    }
                    additional.extend(
                        endpoint.addresses.iter().map(|address| (name.clone(), Data::address(*address))),
                    );
                }
            }
        }
        if answers.is_empty() { Found::NothingOfThisKind } else { Found::Records { answers, additional } }
    }

    fn rotate(&self, addresses: &mut [IpAddr]) {
        if !addresses.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
        }
    }
}

fn names_of(key: &ObjectKey) -> Option<(String, String)> {
    Some((key.namespace.as_deref()?.to_owned(), (*key.name).to_owned()))
}

fn read_service(service: &Service) -> ServiceNames {
    let Some(spec) = &service.spec else { return ServiceNames { kind: Kind::Headless, ports: Vec::new() } };
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default().to_ascii_lowercase(),
            protocol: protocol_label(port.protocol.as_deref())?,
            number: u16::try_from(port.port).ok()?,
        })
    });
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.clone().unwrap_or_default();
        Kind::External(target.trim_end_matches('.').to_ascii_lowercase())
    } else {
        let listed = spec.cluster_ips.clone().filter(|texts| !texts.is_empty());
        let texts = listed.unwrap_or_else(|| spec.cluster_ip.iter().cloned().collect());
        let addresses: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        if addresses.is_empty() { Kind::Headless } else { Kind::Addresses(addresses) }
    };
    ServiceNames { kind, ports: ports.collect() }
}

fn read_slice(slice: &EndpointSlice) -> SliceNames {
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default().to_ascii_lowercase(),
            protocol: protocol_label(port.protocol.as_deref())?,
            number: u16::try_from(port.port?).ok()?,
        })
    });
    let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
        // What is not known counts as ready; the controller says "ready" where unready ones are to be published.
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let addresses: Vec<IpAddr> = endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let first = *addresses.first().filter(|_| ready)?;
        let named = endpoint.hostname.clone().filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase());
        Some(Endpoint { host: named.unwrap_or_else(|| dashed(first)), addresses })
    });
    SliceNames { ports: ports.collect(), endpoints: endpoints.collect() }
}

fn records(answers: impl IntoIterator<Item = Data>) -> Found {
    let answers: Vec<Data> = answers.into_iter().collect();
    if answers.is_empty() { Found::NothingOfThisKind } else { Found::Records { answers, additional: Vec::new() } }
}

fn of_kind(addresses: &[IpAddr], wanted: u16) -> Found {
    let fits = |address: &&IpAddr| match wanted {
        kind::A => address.is_ipv4(),
        kind::AAAA => address.is_ipv6(),
        kind::ANY => true,
        _ => false,
    };
    records(addresses.iter().filter(fits).map(|address| Data::address(*address)))
}

/// An address as one label of a name.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn dashed_address(label: &str) -> Option<IpAddr> {
    let ipv4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    ipv4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The address whose reverse name this is.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<u8> = labels.rsplit('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        return Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(parts).ok()?)));
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let mut number: u128 = 0;
    let mut count = 0;
    for label in labels.rsplit('.') {
        let digit = u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1)?;
        number = number << 4 | digit;
        count += 1;
    }
    (count == 32).then_some(IpAddr::V6(Ipv6Addr::from(number)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn names() -> Names {
        let ranges = ["10.96.0.0/16", "10.244.0.0/16", "fd96::/108"].map(|text| text.parse().unwrap()).to_vec();
        let mut names = Names::new("cluster.local", vec!["10.96.0.10".parse().unwrap()], ranges);
        let mut service = |name: &str, spec: Value| {
            let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
            names.apply_service(&serde_json::from_value(object).unwrap());
        };
        service("web", json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd96::7"],
            "ports": [{"name": "http", "port": 80}, {"name": "quic", "port": 443, "protocol": "UDP"}]}));
        service("db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}));
        service("empty", json!({"clusterIP": "None"}));
        service("out", json!({"type": "ExternalName", "externalName": "www.Example.com."}));
        let mut slice = |family: &str, endpoints: Value| {
            let object = json!({"metadata": {"name": format!("db-{family}"), "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": "db"}}, "addressType": family,
                    "ports": [{"name": "sql", "port": 15432}], "endpoints": endpoints});
            names.apply_slice(&serde_json::from_value(object).unwrap());
        };
        slice("IPv4", json!([{"addresses": ["10.244.0.5"], "hostname": "db-0"}, {"addresses": ["10.244.1.6"]},
            {"addresses": ["10.244.1.7"], "hostname": "db-2", "conditions": {"ready": false}}]));
        slice("IPv6", json!([{"addresses": ["fd02::5"], "hostname": "db-0"}]));
        names
    }

    fn shown(data: &Data) -> String {
        match data {
            Data::A(address) => address.to_string(),
            Data::Aaaa(address) => address.to_string(),
            Data::Srv { port, target, .. } => format!("{target}:{port}"),
            Data::Cname(name) | Data::Ptr(name) | Data::Ns(name) => name.clone(),
            Data::Txt(text) => text.clone(),
            Data::Soa { .. } => "soa".to_owned(),
        }
    }

    fn ask(names: &Names, question: &str) -> String {
        let (name, wanted) = question.split_once(' ').expect("name and kind");
        let wanted = match wanted {
            "A" => kind::A,
            "AAAA" => kind::AAAA,
            "SRV" => kind::SRV,
            "PTR" => kind::PTR,
            "TXT" => kind::TXT,
            "CNAME" => kind::CNAME,
            "SOA" => kind::SOA,
            "NS" => kind::NS,
            _ => kind::ANY,
        };
        match names.find(name, wanted) {
            Found::Records { answers, .. } => {
                let mut shown: Vec<String> = answers.iter().map(shown).collect();
                shown.sort();
                shown.join(", ")
            }
            Found::NothingOfThisKind => "nothing".to_owned(),
            Found::NoSuchName => "no such name".to_owned(),
            Found::Elsewhere(name) => format!("→ {name}"),
            Found::NotOurs => "not ours".to_owned(),
        }
    }

    #[track_caller]
    fn check(question: &str, expected: &str) {
        assert_eq!(ask(&names(), question), expected, "{question}");
    }

    #[test]
    fn a_service_with_addresses() {
        check("web.shop.svc.cluster.local A", "10.96.0.7");
        check("web.shop.svc.cluster.local AAAA", "fd96::7");
        check("web.shop.svc.cluster.local TXT", "nothing");
        check("_http._tcp.web.shop.svc.cluster.local SRV", "web.shop.svc.cluster.local:80");
        check("_quic._udp.web.shop.svc.cluster.local SRV", "web.shop.svc.cluster.local:443");
        check("_quic._tcp.web.shop.svc.cluster.local SRV", "no such name");
        check("_http._tcp.web.shop.svc.cluster.local A", "nothing");
        check("_tcp.web.shop.svc.cluster.local SRV", "nothing");
        check("_sctp.web.shop.svc.cluster.local SRV", "no such name");
        check("7.0.96.10.in-addr.arpa PTR", "web.shop.svc.cluster.local");
        let reverse = format!("7.{}6.9.d.f.ip6.arpa PTR", "0.".repeat(27));
        check(&reverse, "web.shop.svc.cluster.local");
    }

    #[test]
    fn a_headless_service_and_its_pods() {
        check("db.shop.svc.cluster.local A", "10.244.0.5, 10.244.1.6");
        check("db.shop.svc.cluster.local AAAA", "fd02::5");
        check("db-0.db.shop.svc.cluster.local A", "10.244.0.5");
        check("db-0.db.shop.svc.cluster.local AAAA", "fd02::5");
        check("10-244-1-6.db.shop.svc.cluster.local A", "10.244.1.6");
        check("db-2.db.shop.svc.cluster.local A", "no such name");
        check(
            "_sql._tcp.db.shop.svc.cluster.local SRV",
            "10-244-1-6.db.shop.svc.cluster.local:15432, db-0.db.shop.svc.cluster.local:15432",
        );
        check("5.0.244.10.in-addr.arpa PTR", "db-0.db.shop.svc.cluster.local");
        check("7.1.244.10.in-addr.arpa PTR", "no such name");
        check("empty.shop.svc.cluster.local A", "nothing");
    }

    #[test]
    fn names_that_are_there_and_names_that_are_not() {
        check("cluster.local SOA", "soa");
        check("cluster.local NS", "ns.dns.cluster.local");
        check("ns.dns.cluster.local A", "10.96.0.10");
        check("dns-version.cluster.local TXT", "1.1.0");
        check("svc.cluster.local A", "nothing");
        check("shop.svc.cluster.local A", "nothing");
        check("nowhere.svc.cluster.local A", "no such name");
        check("none.shop.svc.cluster.local A", "no such name");
        check("a.b.c.d.svc.cluster.local A", "no such name");
        check("example.com.cluster.local A", "no such name");
        check("example.com A", "not ours");
        check("notcluster.local A", "not ours");
        check("1.0.0.127.in-addr.arpa PTR", "not ours");
        check("10.in-addr.arpa PTR", "not ours");
    }

    #[test]
    fn external_names_and_pods_by_address() {
        check("out.shop.svc.cluster.local A", "→ www.example.com");
        check("out.shop.svc.cluster.local CNAME", "www.example.com");
        check("10-244-3-4.shop.pod.cluster.local A", "10.244.3.4");
        check("10-244-3-4.shop.pod.cluster.local AAAA", "nothing");
        check("fd02--9.shop.pod.cluster.local AAAA", "fd02::9");
        check("nonsense.shop.pod.cluster.local A", "no such name");
    }

    #[test]
    fn what_is_deleted_is_gone_in_both_directions() {
        let mut names = names();
        names.delete_service(&ObjectKey::namespaced("shop", "web"));
        names.delete_slice(&ObjectKey::namespaced("shop", "db-IPv4"));
        assert_eq!(ask(&names, "web.shop.svc.cluster.local A"), "no such name");
        assert_eq!(ask(&names, "7.0.96.10.in-addr.arpa PTR"), "no such name");
        assert_eq!(ask(&names, "db.shop.svc.cluster.local A"), "nothing");
        assert_eq!(ask(&names, "5.0.244.10.in-addr.arpa PTR"), "no such name");
        assert_eq!(ask(&names, "db-0.db.shop.svc.cluster.local AAAA"), "fd02::5");
    }

    #[test]
    fn endpoints_take_turns_at_being_first() {
        let names = names();
        let first = |names: &Names| match names.find("db.shop.svc.cluster.local", kind::A) {
            Found::Records { answers, .. } => shown(&answers[0]),
            other => panic!("{other:?}"),
        };
        let firsts: BTreeSet<String> = (0..6).map(|_| first(&names)).collect();
        assert_eq!(firsts.len(), 2);
    }
}
