//! Amounts of resources, and host ports: what pods ask for and nodes have.

use std::collections::BTreeMap;

use api::core::v1::{Container, Pod};
use meta::quantity::Quantity;

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub ephemeral_storage_bytes: i64,
    /// Anything else, by name, in whole units.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// From a list of quantities. What cannot be read counts as nothing; the API server lets no such thing in.
    pub fn of<'a>(list: impl IntoIterator<Item = (&'a String, &'a api::apimachinery::pkg::api::resource::Quantity)>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            let Ok(quantity) = quantity.0.parse::<Quantity>() else { continue };
            let whole = i64::try_from(quantity.value()).unwrap_or(i64::MAX);
            match name.as_str() {
                "cpu" => resources.cpu_millis = i64::try_from(quantity.milli_value()).unwrap_or(i64::MAX),
                "memory" => resources.memory_bytes = whole,
                "ephemeral-storage" => resources.ephemeral_storage_bytes = whole,
                "pods" => {}
                other => {
                    resources.others.insert(other.to_owned(), whole);
                }
            }
        }
        resources
    }
    /// Adds, or takes away with `sign` -1.
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.cpu_millis = self.cpu_millis.saturating_add(sign * other.cpu_millis);
        self.memory_bytes = self.memory_bytes.saturating_add(sign * other.memory_bytes);
        self.ephemeral_storage_bytes = self.ephemeral_storage_bytes.saturating_add(sign * other.ephemeral_storage_bytes);
        for (name, amount) in &other.others {
            let entry = self.others.entry(name.clone()).or_default();
            *entry = entry.saturating_add(sign * amount);
        }
    }
    /// The amount of one resource, by its name in the API.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu_millis,
            "memory" => self.memory_bytes,
            "ephemeral-storage" => self.ephemeral_storage_bytes,
            other => self.others.get(other).copied().unwrap_or_default(),
        }
    }
    /// The larger of both, resource by resource.
    pub fn raise_to(&mut self, other: &Self) {
        self.cpu_millis = self.cpu_millis.max(other.cpu_millis);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.ephemeral_storage_bytes = self.ephemeral_storage_bytes.max(other.ephemeral_storage_bytes);
        for (name, amount) in &other.others {
            let entry = self.others.entry(name.clone()).or_default();
            *entry = (*entry).max(*amount);
        }
    }
}

/// One host port a pod wants or has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Empty or `0.0.0.0` for every address.
    pub ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had at once.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port && self.protocol == other.protocol && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// What a pod asks for: its containers together, or the most that its init containers ask for at one time, or what it says as a
/// whole; and its overhead.
pub fn requests_of(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let of = |container: &Container| Resources::of(container.resources.iter().flat_map(|resources| resources.requests.iter().flatten()));
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&of(container), 1);
    }
    // Init containers run before, sidecars among them beside what follows.
    // Source: the Kubernetes page "Sidecar Containers", section on resource sharing.
    let mut sidecars = Resources::default();
    let mut highest_init = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sum.add(&now, 1);
            sidecars.add(&now, 1);
            highest_init.raise_to(&sidecars);
        } else {
            now.add(&sidecars, 1);
            highest_init.raise_to(&now);
        }
    }
    sum.raise_to(&highest_init);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let whole = Resources::of(requests);
        if requests.contains_key("cpu") {
            sum.cpu_millis = whole.cpu_millis;
        }
        if requests.contains_key("memory") {
            sum.memory_bytes = whole.memory_bytes;
        }
        sum.others.extend(whole.others);
    }
    if let Some(overhead) = &spec.overhead {
        sum.add(&Resources::of(overhead), 1);
    }
    sum
}

/// The host ports that containers and sidecars of a pod ask for.
pub fn host_ports_of(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|port| port.host_port.unwrap_or_default() > 0)
        .map(|port| HostPort {
            ip: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.host_port.unwrap_or_default(),
        })
        .collect()
}
