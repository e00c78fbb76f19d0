//! Amounts of resources, and host ports: what pods ask for and nodes have.

use std::collections::BTreeMap;

use api::core::v1::{Container, ContainerStatus, Pod};
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
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// What a pod without requests counts as in scores, so that such pods spread too.
/// Source: Kubernetes `scheduler/util/pod_resources.go`.
pub const USUAL_CPU_MILLIS: i64 = 100;
/// As [`USUAL_CPU_MILLIS`], of memory.
pub const USUAL_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// What one container asks for.
struct Part {
    resources: Resources,
    says_cpu: bool,
    says_memory: bool,
    runs_first: bool,
    stays: bool,
}

/// What a container counts as: the most of what it shall have, what the node keeps for it and what it has, so that neither the room
/// a resize gives up nor the room it takes is given away before the node has acted. What a node cannot do at all does not count.
/// Source: Kubernetes `component-helpers/resource/helpers.go`.
fn part_of(container: &Container, status: Option<&ContainerStatus>, is_infeasible: bool, runs_first: bool) -> Part {
    let wanted = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let kept = status.and_then(|status| status.allocated_resources.as_ref());
    let had = status.and_then(|status| status.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    let wanted = wanted.filter(|_| !is_infeasible || (kept.is_none() && had.is_none()));
    let mut resources = Resources::of(wanted.into_iter().flatten());
    for list in [kept, had].into_iter().flatten() {
        resources.raise_to(&Resources::of(list));
    }
    let says = |name: &str| [wanted, kept, had].into_iter().flatten().any(|list| list.contains_key(name));
    let (says_cpu, says_memory) = (says("cpu"), says("memory"));
    Part { resources, says_cpu, says_memory, runs_first, stays: !runs_first || container.restart_policy.as_deref() == Some("Always") }
}

/// Containers together, or the most that init containers ask for at one time.
fn together(parts: &[Part]) -> Resources {
    let mut sum = Resources::default();
    // Init containers run before, sidecars among them beside what follows.
    // Source: the Kubernetes page "Sidecar Containers", section on resource sharing.
    let mut sidecars = Resources::default();
    let mut highest_init = Resources::default();
    for part in parts {
        if part.stays {
            sum.add(&part.resources, 1);
        }
        if part.runs_first && part.stays {
            sidecars.add(&part.resources, 1);
            highest_init.raise_to(&sidecars);
        } else if part.runs_first {
            let mut now = part.resources.clone();
            now.add(&sidecars, 1);
            highest_init.raise_to(&now);
        }
    }
    sum.raise_to(&highest_init);
    sum
}

/// What a pod says as a whole: it replaces what its containers say.
fn whole_of(pod: &Pod, is_infeasible: bool, overhead: Option<&Resources>) -> Option<(Resources, Vec<String>)> {
    let wanted = pod.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    let counts = |name: &&String| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
    let names: Vec<String> = wanted.keys().filter(counts).cloned().collect();
    let status = pod.status.as_ref();
    let kept = status.and_then(|status| status.allocated_resources.as_ref());
    let had = status.and_then(|status| status.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    let reported = [kept, had];
    let mut whole = if is_infeasible && reported.iter().any(Option::is_some) { Resources::default() } else { Resources::of(wanted) };
    for list in reported.into_iter().flatten() {
        let mut resources = Resources::of(list);
        // The node reports what it keeps for the pod with its overhead.
        if let Some(overhead) = overhead {
            resources.add(overhead, -1);
        }
        whole.raise_to(&resources);
    }
    Some((whole, names))
}

/// What a pod may use at most: its containers together, or the most that its init containers may at one time, or what it says as a whole;
/// and its overhead, where there is a limit.
pub fn limits_of(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let part = |container: &Container, runs_first: bool| Part {
        resources: Resources::of(container.resources.iter().flat_map(|resources| resources.limits.iter().flatten())),
        says_cpu: true,
        says_memory: true,
        runs_first,
        stays: !runs_first || container.restart_policy.as_deref() == Some("Always"),
    };
    let init = spec.init_containers.iter().flatten().map(|container| part(container, true));
    let parts: Vec<Part> = spec.containers.iter().map(|container| part(container, false)).chain(init).collect();
    let mut sum = together(&parts);
    if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref()) {
        let whole_of = Resources::of(whole);
        for (name, own, said) in [("cpu", &mut sum.cpu_millis, whole_of.cpu_millis), ("memory", &mut sum.memory_bytes, whole_of.memory_bytes)] {
            if whole.contains_key(name) {
                *own = said;
            }
        }
        sum.others.extend(whole_of.others);
    }
    let mut overhead = spec.overhead.as_ref().map(Resources::of).unwrap_or_default();
    let zero_without = |amount: &mut i64, limit: i64| if limit == 0 { *amount = 0 };
    zero_without(&mut overhead.cpu_millis, sum.cpu_millis);
    zero_without(&mut overhead.memory_bytes, sum.memory_bytes);
    zero_without(&mut overhead.ephemeral_storage_bytes, sum.ephemeral_storage_bytes);
    overhead.others.retain(|name, _| sum.others.contains_key(name));
    sum.add(&overhead, 1);
    sum
}

/// What a pod asks for: its containers together, or the most that its init containers ask for at one time, or what it says as a
/// whole; and its overhead. And what it counts as in scores, CPU in thousandths and bytes of memory, where each container that asks
/// for none counts as a usual one.
pub fn requests_of(pod: &Pod) -> (Resources, (i64, i64)) {
    let Some(spec) = &pod.spec else { return (Resources::default(), (USUAL_CPU_MILLIS, USUAL_MEMORY_BYTES)) };
    let status = pod.status.as_ref();
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let pending = conditions.find(|condition| condition.type_ == "PodResizePending");
    let is_infeasible = pending.is_some_and(|condition| condition.reason.as_deref() == Some("Infeasible"));
    let status_of = |name: &str| {
        let status = status?;
        let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        all.into_iter().find(|status| status.name == name)
    };
    let init = spec.init_containers.iter().flatten().map(|container| (container, true));
    let all = spec.containers.iter().map(|container| (container, false)).chain(init);
    let mut parts: Vec<Part> = all.map(|(container, first)| part_of(container, status_of(&container.name), is_infeasible, first)).collect();
    let mut sum = together(&parts);
    let mut counted = (sum.cpu_millis, sum.memory_bytes);
    if parts.iter().any(|part| !part.says_cpu || !part.says_memory) {
        for part in &mut parts {
            if !part.says_cpu {
                part.resources.cpu_millis = USUAL_CPU_MILLIS;
            }
            if !part.says_memory {
                part.resources.memory_bytes = USUAL_MEMORY_BYTES;
            }
        }
        let usual = together(&parts);
        counted = (usual.cpu_millis, usual.memory_bytes);
    }
    let overhead = spec.overhead.as_ref().map(Resources::of);
    if let Some((whole, names)) = whole_of(pod, is_infeasible, overhead.as_ref()) {
        for name in names {
            match name.as_str() {
                "cpu" => (sum.cpu_millis, counted.0) = (whole.cpu_millis, whole.cpu_millis),
                "memory" => (sum.memory_bytes, counted.1) = (whole.memory_bytes, whole.memory_bytes),
                _ => drop(sum.others.insert(name.clone(), whole.get(&name))),
            }
        }
    }
    if let Some(overhead) = overhead {
        sum.add(&overhead, 1);
        counted = (counted.0.saturating_add(overhead.cpu_millis), counted.1.saturating_add(overhead.memory_bytes));
    }
    (sum, counted)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn asked(spec: Value, status: Value) -> (i64, i64, (i64, i64)) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap();
        let (requests, counted) = requests_of(&pod);
        (requests.cpu_millis, requests.memory_bytes, counted)
    }

    fn container(name: &str, requests: Value) -> Value {
        json!({"name": name, "resources": {"requests": requests}})
    }

    const USUAL: i64 = USUAL_MEMORY_BYTES;

    #[test]
    fn each_container_that_asks_for_nothing_counts_as_a_usual_one() {
        let none = json!({});
        assert_eq!(asked(json!({"containers": [{"name": "a"}]}), none.clone()), (0, 0, (100, USUAL)));
        let two = json!({"containers": [container("a", json!({"cpu": "1", "memory": "5"})), {"name": "b"}]});
        assert_eq!(asked(two, none.clone()), (1000, 5, (1100, 5 + USUAL)));
        // Nothing was asked for expressly.
        assert_eq!(asked(json!({"containers": [container("a", json!({"cpu": "0", "memory": "0"}))]}), none.clone()), (0, 0, (0, 0)));
        let overhead = json!({"containers": [container("a", json!({"cpu": "1"}))], "overhead": {"cpu": "250m", "memory": "7"}});
        assert_eq!(asked(overhead, none), (1250, 7, (1250, 7 + USUAL)));
    }

    #[test]
    fn init_containers_and_sidecars_count_where_they_need_more_at_one_time() {
        let cpu = |name: &str, cpu: &str| container(name, json!({"cpu": cpu, "memory": "1"}));
        let sidecar = |name: &str, amount: &str| {
            let mut sidecar = cpu(name, amount);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        let sum = |init: Value| asked(json!({"containers": [cpu("a", "1"), cpu("b", "1")], "initContainers": init}), json!({})).0;
        assert_eq!(sum(json!([cpu("i", "1500m")])), 2000);
        assert_eq!(sum(json!([cpu("i", "3")])), 3000);
        assert_eq!(sum(json!([sidecar("s", "1"), cpu("i", "1")])), 3000);
        assert_eq!(sum(json!([sidecar("s", "1"), cpu("i", "3")])), 4000);
        assert_eq!(sum(json!([cpu("i", "3"), sidecar("s", "1")])), 3000);
    }

    #[test]
    fn what_a_pod_says_as_a_whole_replaces_what_its_containers_say() {
        let spec = |whole: Value| json!({"resources": {"requests": whole}, "containers": [container("a", json!({"cpu": "1", "memory": "5"}))]});
        assert_eq!(asked(spec(json!({"cpu": "300m"})), json!({})), (300, 5, (300, 5)));
        assert_eq!(asked(spec(json!({"cpu": "3", "memory": "9"})), json!({})), (3000, 9, (3000, 9)));
        let with_pages = json!({"resources": {"requests": {"hugepages-2Mi": "4Mi"}}, "containers": [{"name": "a"}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": with_pages})).unwrap();
        assert_eq!(requests_of(&pod).0.get("hugepages-2Mi"), 4 * 1024 * 1024);
    }

    #[test]
    fn a_pod_that_is_resized_counts_as_the_most_of_what_it_wants_may_have_and_has() {
        let spec = |cpu: &str| json!({"containers": [container("a", json!({"cpu": cpu, "memory": "1"})), container("b", json!({"cpu": "1", "memory": "1"}))]});
        let status = |kept: &str, had: &str, conditions: Value| {
            let resources = json!({"requests": {"cpu": had, "memory": "1"}});
            json!({"conditions": conditions, "containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "allocatedResources": {"cpu": kept, "memory": "1"}, "resources": resources},
            ]})
        };
        let pending = |reason: &str| json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
        let cpu = |wanted: &str, kept: &str, had: &str, conditions: Value| asked(spec(wanted), status(kept, had, conditions)).0;
        assert_eq!(cpu("3", "1", "1", json!([])), 4000, "it grows");
        assert_eq!(cpu("1", "3", "2", json!([])), 4000, "it shrinks, and the node has not looked yet");
        assert_eq!(cpu("1", "1", "2", json!([])), 3000, "it shrinks, and the node is about to");
        assert_eq!(cpu("3", "1", "1", pending("Deferred")), 4000);
        assert_eq!(cpu("3", "1", "1", pending("Infeasible")), 2000, "that will never be");
        assert_eq!(asked(spec("3"), json!({"conditions": pending("Infeasible")})).0, 1000 + 3000, "without a word of the node");
    }

    #[test]
    fn a_pod_resized_as_a_whole_counts_as_the_most_too() {
        let spec = json!({"resources": {"requests": {"cpu": "1"}}, "overhead": {"cpu": "250m"}, "containers": [{"name": "a"}]});
        let status = |cpu: &str| json!({"allocatedResources": {"cpu": cpu}, "resources": {"requests": {"cpu": "500m"}}});
        assert_eq!(asked(spec.clone(), status("2250m")).0, 2250);
        assert_eq!(asked(spec, status("750m")).0, 1250);
    }
}
