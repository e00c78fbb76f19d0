//! Everything the proxy knows, and the transaction that leads from what is installed to what should be. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use client::ObjectKey;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use netlink::IpRange;
use nftables::{Element, ElementData, KeyBytes, Operation, Rule, Transaction};

use crate::{
    flows::ChangedFlows,
    health::Health,
    program::{self, EntryKey, Program},
    service::ServiceFacts,
    slice::SliceFacts,
    table,
};

/// What a node's service proxy is told at start.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Name of the cluster; with the node's name it sets our table apart from others in the same namespace.
    pub cluster: String,
    /// Name of this node.
    pub node_name: String,
    /// The zone of this node, where known.
    pub zone: Option<String>,
    /// The cluster's pod ranges: callers from elsewhere are masqueraded when they use an address in the cluster.
    pub cluster_ranges: Vec<IpRange>,
    /// The cluster's service ranges. What is sent into them and is no service's is refused instead of leaving by the
    /// default route, and this node reaches services even if it has no default route (IPv4).
    pub service_ranges: Vec<IpRange>,
    /// Service addresses that this node answers on itself (cluster DNS): no rules are made for them.
    pub served_here: Vec<IpAddr>,
}

impl Options {
    /// Name of the nftables table.
    pub fn table_name(&self) -> String {
        format!("knarr-{}-{}-services", self.cluster, self.node_name).chars().take(100).collect()
    }
}

/// A transaction and the UDP flows to look at once it is in force.
#[derive(Debug)]
pub struct Plan {
    /// The transaction.
    pub transaction: Transaction,
    /// The flows.
    pub flows: ChangedFlows,
}

/// The services and endpoints as they are, and what of them is installed.
#[derive(Debug)]
pub struct State {
    options: Options,
    services: HashMap<ObjectKey, ServiceFacts>,
    /// Services that load balancers ask about, and where.
    health_check_ports: BTreeMap<ObjectKey, u16>,
    slices: HashMap<ObjectKey, BTreeMap<ObjectKey, SliceFacts>>,
    slice_owners: HashMap<ObjectKey, ObjectKey>,
    dirty: BTreeSet<ObjectKey>,
    installed: HashMap<ObjectKey, Program>,
    /// Who wants which entry of the shared maps. Two services can want the same (an external address, a node port that
    /// moves); the first by name has it until it no longer wants it.
    claims: BTreeMap<EntryKey, BTreeMap<ObjectKey, ElementData>>,
    /// Whether the kernel's table is there and as `installed` says.
    in_force: bool,
}

impl State {
    /// Knows nothing yet; the first plan makes the table.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            services: HashMap::new(),
            health_check_ports: BTreeMap::new(),
            slices: HashMap::new(),
            slice_owners: HashMap::new(),
            dirty: BTreeSet::new(),
            installed: HashMap::new(),
            claims: BTreeMap::new(),
            in_force: false,
        }
    }

    /// What it was told at start.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Takes in a Service as it is now.
    pub fn apply_service(&mut self, service: &Service) {
        let key = client::key_of(service);
        match ServiceFacts::of(service) {
            Some(facts) => {
                if self.services.get(&key) != Some(&facts) {
                    match facts.health_check_port {
                        Some(port) => self.health_check_ports.insert(key.clone(), port),
                        None => self.health_check_ports.remove(&key),
                    };
                    self.services.insert(key.clone(), facts);
                    self.dirty.insert(key);
                }
            }
            None => self.delete_service(&key),
        }
    }

    /// Forgets a Service.
    pub fn delete_service(&mut self, key: &ObjectKey) {
        if self.services.remove(key).is_some() {
            self.health_check_ports.remove(key);
            self.dirty.insert(key.clone());
        }
    }

    /// Takes in an EndpointSlice as it is now.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = client::key_of(slice);
        let Some((service, facts)) = SliceFacts::of(slice) else { return self.delete_slice(&key) };
        if self.slice_owners.get(&key).is_some_and(|owner| *owner != service) {
            self.delete_slice(&key);
        }
        let slices = self.slices.entry(service.clone()).or_default();
        if slices.get(&key) != Some(&facts) {
            slices.insert(key.clone(), facts);
            self.slice_owners.insert(key, service.clone());
            self.dirty.insert(service);
        }
    }

    /// Forgets an EndpointSlice.
    pub fn delete_slice(&mut self, key: &ObjectKey) {
        let Some(service) = self.slice_owners.remove(key) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.dirty.insert(service);
    }

    /// Sets the zone of this node, which hints in slices speak of.
    pub fn set_zone(&mut self, zone: Option<String>) {
        if self.options.zone != zone {
            self.options.zone = zone;
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// What load balancers are told, by the port that they ask on.
    pub fn health(&self) -> BTreeMap<u16, Health> {
        let health = |service: &ObjectKey| {
            let backends = self.slices.get(service).into_iter().flat_map(BTreeMap::values).flat_map(|slice| &slice.backends);
            let here = backends.filter(|backend| backend.ready && backend.node.as_deref() == Some(self.options.node_name.as_str()));
            let addresses: BTreeSet<IpAddr> = here.map(|backend| backend.address).collect();
            Health { service: service.clone(), local_endpoints: addresses.len() }
        };
        self.health_check_ports.iter().map(|(service, port)| (*port, health(service))).collect()
    }

    /// Says that a transaction was not taken: the next plan makes the whole table anew.
    pub fn distrust(&mut self) {
        self.in_force = false;
    }

    /// The transaction from what is installed to what should be, which counts as installed from now on
    /// (see [`Self::distrust`]). Empty where nothing changed.
    pub fn plan(&mut self) -> Plan {
        let mut flows = ChangedFlows::default();
        let mut edit = Edit::default();
        if !self.in_force {
            edit.base = table::empty_table(&self.options).operations;
            self.claims.clear();
            let before = std::mem::take(&mut self.installed);
            self.dirty.extend(before.keys().cloned());
            self.dirty.extend(self.services.keys().cloned());
            self.in_force = true;
        }
        for key in std::mem::take(&mut self.dirty) {
            let new = self.services.get(&key).map(|service| {
                let slices = self.slices.get(&key).into_iter().flat_map(BTreeMap::values);
                program::program(&key, service, slices, &self.options)
            });
            let old = self.installed.remove(&key);
            flows.note(old.as_ref(), new.as_ref());
            edit.chains_and_sets(old.as_ref(), new.as_ref());
            edit.claim(&mut self.claims, &key, old.as_ref(), new.as_ref());
            if let Some(new) = new {
                self.installed.insert(key, new);
            }
        }
        let transaction = Transaction { table: self.options.table_name(), operations: edit.finish(&self.claims) };
        Plan { transaction, flows }
    }
}

/// The changes of one transaction, kept apart by kind because their order matters.
#[derive(Default)]
struct Edit {
    base: Vec<Operation>,
    added: Vec<Operation>,
    rules: Vec<Operation>,
    removed_first: Vec<Operation>,
    removed_last: Vec<Operation>,
    /// Entries that somebody claimed or let go, with what was installed.
    touched: BTreeMap<EntryKey, Option<ElementData>>,
}

impl Edit {
    fn chains_and_sets(&mut self, old: Option<&Program>, new: Option<&Program>) {
        let none = Program::default();
        let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
        for (name, set) in &new.sets {
            if !old.sets.contains_key(name) {
                self.added.push(Operation::AddSet(set.clone()));
            } else if old.sets.get(name) != Some(set) {
                // Another timeout: the set is made anew under its name, after the rules that use it are gone.
                self.removed_first.extend(flush_users(old, name));
                self.removed_first.push(Operation::DeleteSet(name.clone()));
                self.removed_first.push(Operation::AddSet(set.clone()));
                self.rules.extend(refill_users(old, new, name));
            }
        }
        for (name, rules) in &new.chains {
            match old.chains.get(name) {
                Some(before) if before == rules => continue,
                Some(_) => self.rules.push(Operation::FlushChain(name.clone())),
                None => self.added.push(Operation::AddChain { name: name.clone(), base: None }),
            }
            self.rules.extend(rules_of(name, rules));
        }
        for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
            self.removed_last.push(Operation::FlushChain(name.clone()));
        }
        for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
            self.removed_last.push(Operation::DeleteChain(name.clone()));
        }
        for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
            self.removed_last.push(Operation::DeleteSet(name.clone()));
        }
    }

    fn claim(
        &mut self,
        claims: &mut BTreeMap<EntryKey, BTreeMap<ObjectKey, ElementData>>,
        key: &ObjectKey,
        old: Option<&Program>,
        new: Option<&Program>,
    ) {
        let entries = |program: Option<&Program>| program.map(|program| program.entries.clone()).unwrap_or_default();
        let (old, new) = (entries(old), entries(new));
        for (place, data) in &new {
            if old.get(place) != Some(data) {
                let owners = claims.entry(place.clone()).or_default();
                self.touched.entry(place.clone()).or_insert_with(|| first(owners));
                owners.insert(key.clone(), data.clone());
            }
        }
        for place in old.keys().filter(|place| !new.contains_key(*place)) {
            if let Some(owners) = claims.get_mut(place) {
                self.touched.entry(place.clone()).or_insert_with(|| first(owners));
                owners.remove(key);
                if owners.is_empty() {
                    claims.remove(place);
                }
            }
        }
    }

    fn finish(self, claims: &BTreeMap<EntryKey, BTreeMap<ObjectKey, ElementData>>) -> Vec<Operation> {
        let mut deleted: BTreeMap<String, Vec<Element>> = BTreeMap::new();
        let mut added: BTreeMap<String, Vec<Element>> = BTreeMap::new();
        for ((set, key), installed) in self.touched {
            let wanted = claims.get(&(set.clone(), key.clone())).and_then(first);
            if installed == wanted {
                continue;
            }
            let element = |key: &KeyBytes, data| Element { key: key.clone(), data };
            if let Some(data) = installed {
                deleted.entry(set.clone()).or_default().push(element(&key, data));
            }
            if let Some(data) = wanted {
                added.entry(set).or_default().push(element(&key, data));
            }
        }
        let mut operations = self.base;
        operations.extend(self.added);
        operations.extend(self.removed_first);
        operations.extend(self.rules);
        operations.extend(deleted.into_iter().map(|(set, elements)| Operation::DeleteElements { set, elements }));
        operations.extend(added.into_iter().map(|(set, elements)| Operation::AddElements { set, elements }));
        operations.extend(self.removed_last);
        operations
    }
}

fn first(owners: &BTreeMap<ObjectKey, ElementData>) -> Option<ElementData> {
    owners.values().next().cloned()
}

fn rules_of(chain: &str, rules: &[Rule]) -> Vec<Operation> {
    rules.iter().map(|rule| Operation::AddRule { chain: chain.to_owned(), rule: rule.clone() }).collect()
}

fn uses(rules: &[Rule], set: &str) -> bool {
    rules.iter().flat_map(|rule| &rule.expressions).any(|expression| match expression {
        nftables::Expression::Lookup { set: used, .. } => used == set,
        nftables::Expression::Update(update) => update.set == set,
        _ => false,
    })
}

fn flush_users(program: &Program, set: &str) -> Vec<Operation> {
    let users = program.chains.iter().filter(|(_, rules)| uses(rules, set));
    users.map(|(name, _)| Operation::FlushChain(name.clone())).collect()
}

/// Rules of chains that were flushed for the sake of a set and would otherwise count as unchanged.
fn refill_users(old: &Program, new: &Program, set: &str) -> Vec<Operation> {
    let users = new.chains.iter().filter(|(name, rules)| uses(rules, set) && old.chains.get(*name) == Some(*rules));
    users.flat_map(|(name, rules)| {
        let mut operations = vec![Operation::FlushChain(name.clone())];
        operations.extend(rules_of(name, rules));
        operations
    }).collect()
}

#[cfg(test)]
mod tests;
