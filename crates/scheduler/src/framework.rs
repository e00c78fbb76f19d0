//! What plug-ins see (a pod, a node, the cluster) and say (a verdict, a score).

use std::{collections::BTreeMap, sync::Arc};

use api::core::v1::{Affinity, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration, TopologySpreadConstraint};
use meta::{quantity::Quantity, selector::LabelSelector};

use crate::cluster::Cluster;

/// Something that happened and may let a refused pod fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterEvent {
    /// A node appeared.
    NodeAdded,
    /// A node's labels, taints, resources or schedulability changed.
    NodeChanged,
    /// A pod that was on a node ended or went.
    AssignedPodGone,
    /// A pod came onto a node, or one there changed its labels.
    AssignedPodChanged,
}

/// What a filter thinks of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may go there.
    Fits,
    /// Not while the pods there stay; upstream's reason.
    NotNow(String),
    /// Not even if every pod there left.
    Never(String),
}

/// A reason not to schedule. Filters are asked in order, and the first refusal stands.
pub trait Filter: Send + Sync + 'static {
    /// Upstream's name of the plug-in.
    fn name(&self) -> &'static str;
    /// Whether the pod may go to the node.
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, cluster: &Cluster) -> Verdict;
    /// What could make a refused pod fit.
    fn retry_on(&self) -> &'static [ClusterEvent];
    /// Whether the filter has anything to say about this pod at all.
    fn concerns(&self, _pod: &PodInfo) -> bool {
        true
    }
}

/// A preference among the nodes that are left.
pub trait Score: Send + Sync + 'static {
    /// Upstream's name of the plug-in.
    fn name(&self) -> &'static str;
    /// How much its scores count.
    fn weight(&self) -> i64;
    /// Raw scores of the nodes, in their order; [`Score::higher_is_better`] tells how to read them.
    fn score(&self, pod: &PodInfo, nodes: &[&NodeInfo], cluster: &Cluster) -> Vec<i64>;
    /// False where a low raw score is the better one.
    fn higher_is_better(&self) -> bool {
        true
    }
    /// True where raw scores are 0 to 100 already; otherwise they are stretched over that range.
    fn is_normalized(&self) -> bool {
        false
    }
    /// Whether it has anything to say about this pod at all.
    fn concerns(&self, _pod: &PodInfo) -> bool {
        true
    }
}

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

/// A term of pod affinity with its selector read once.
#[derive(Debug, Clone)]
pub struct AffinityTerm {
    /// Which pods.
    pub selector: LabelSelector,
    /// In which namespaces; empty with `all_namespaces` for every one.
    pub namespaces: Vec<String>,
    /// An empty namespace selector: every namespace.
    pub all_namespaces: bool,
    /// The node label that says what "together" means.
    pub topology_key: String,
}

impl AffinityTerm {
    fn of(term: &PodAffinityTerm, own_namespace: &str) -> Self {
        let selector = selector_of(term.label_selector.as_ref());
        let namespaces = term.namespaces.clone().unwrap_or_default();
        let all_namespaces = term.namespace_selector.is_some();
        let namespaces = if namespaces.is_empty() && !all_namespaces { vec![own_namespace.to_owned()] } else { namespaces };
        Self { selector, namespaces, all_namespaces, topology_key: term.topology_key.clone() }
    }
    /// Whether a pod is meant.
    pub fn matches(&self, pod: &PodInfo) -> bool {
        (self.all_namespaces || self.namespaces.iter().any(|namespace| *namespace == pod.namespace)) && self.selector.matches_map(&pod.labels)
    }
}

/// A selector of the API, read; one that is absent selects nothing, one that cannot be read neither.
pub fn selector_of(selector: Option<&api::apimachinery::pkg::apis::meta::v1::LabelSelector>) -> LabelSelector {
    selector
        .and_then(|selector| serde_json::to_value(selector).ok())
        .and_then(|value| LabelSelector::from_json(&value).ok())
        .unwrap_or_else(LabelSelector::nothing)
}

/// Everything about a pod that plug-ins look at, read once.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it asks for.
    pub requests: Resources,
    /// Host ports it asks for.
    pub host_ports: Vec<HostPort>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// `spec.nodeSelector`
    pub node_selector: BTreeMap<String, String>,
    /// Node affinity and the like, as written.
    pub affinity: Option<Affinity>,
    /// `spec.nodeName`, empty for none.
    pub node_name: String,
    /// Priority.
    pub priority: i32,
    /// Must be together with these.
    pub required_affinity: Vec<AffinityTerm>,
    /// Must not be together with these.
    pub required_anti_affinity: Vec<AffinityTerm>,
    /// Would rather be together with these, by weight.
    pub preferred_affinity: Vec<(i32, AffinityTerm)>,
    /// Would rather not be together with these, by weight.
    pub preferred_anti_affinity: Vec<(i32, AffinityTerm)>,
    /// Spreading.
    pub spread: Vec<(TopologySpreadConstraint, LabelSelector)>,
    /// UID of its controller, empty for none.
    pub controller: String,
    /// `spec.schedulerName`
    pub scheduler_name: String,
    /// Names of scheduling gates.
    pub gated: bool,
    /// Being deleted.
    pub terminating: bool,
    /// Succeeded or failed.
    pub finished: bool,
    /// When it was created, for the queue's order.
    pub created: Option<jiff::Timestamp>,
}

fn requests_of(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let of = |container: &api::core::v1::Container| {
        Resources::of(container.resources.iter().flat_map(|resources| resources.requests.iter().flatten()))
    };
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
    }
    if let Some(overhead) = &spec.overhead {
        sum.add(&Resources::of(overhead), 1);
    }
    sum
}

impl PodInfo {
    /// Reads a pod.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let host_ports = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always")))
            .flat_map(|container| container.ports.iter().flatten())
            .filter(|port| port.host_port.unwrap_or_default() > 0)
            .map(|port| HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.unwrap_or_default(),
            })
            .collect();
        let affinity = spec.affinity.clone();
        let terms = |list: Option<&Vec<PodAffinityTerm>>| list.into_iter().flatten().map(|term| AffinityTerm::of(term, &namespace)).collect::<Vec<_>>();
        let together = affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
        let apart = affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            requests: requests_of(pod),
            host_ports,
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_name: spec.node_name.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or_default(),
            required_affinity: terms(together.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())),
            required_anti_affinity: terms(apart.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred_affinity: together
                .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|term| (term.weight, AffinityTerm::of(&term.pod_affinity_term, &namespace)))
                .collect(),
            preferred_anti_affinity: apart
                .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|term| (term.weight, AffinityTerm::of(&term.pod_affinity_term, &namespace)))
                .collect(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|constraint| (constraint.clone(), selector_of(constraint.label_selector.as_ref())))
                .collect(),
            controller: pod
                .metadata
                .owner_references
                .iter()
                .flatten()
                .find(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.clone())
                .unwrap_or_default(),
            scheduler_name: spec.scheduler_name.clone().unwrap_or_default(),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(phase, "Succeeded" | "Failed"),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            affinity,
            namespace,
        }
    }
}

/// A node and what is on it.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: usize,
    /// What its pods ask for.
    pub requested: Resources,
    /// Its pods, by UID.
    pub pods: BTreeMap<String, Arc<PodInfo>>,
}

impl NodeInfo {
    /// Whether a node selector term holds for this node. Source: Kubernetes `component-helpers/scheduling/corev1/nodeaffinity`.
    pub fn matches_term(&self, term: &NodeSelectorTerm) -> bool {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        if expressions.is_empty() && fields.is_empty() {
            return false;
        }
        let holds = |operator: &str, values: &[String], value: Option<&str>| match operator {
            "In" => value.is_some_and(|value| values.iter().any(|known| known == value)),
            "NotIn" => value.is_none_or(|value| values.iter().all(|known| known != value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" | "Lt" => {
                let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
                match (number(value), number(values.first().map(String::as_str))) {
                    (Some(value), Some(bound)) => (operator == "Gt" && value > bound) || (operator == "Lt" && value < bound),
                    _ => false,
                }
            }
            _ => false,
        };
        expressions.iter().all(|expression| {
            let value = self.labels.get(&expression.key).map(String::as_str);
            holds(&expression.operator, expression.values.as_deref().unwrap_or_default(), value)
        }) && fields.iter().all(|field| {
            let value = (field.key == "metadata.name").then_some(self.name.as_str());
            holds(&field.operator, field.values.as_deref().unwrap_or_default(), value)
        })
    }
}

/// Whether a toleration takes a taint. Source: Kubernetes `api/core/v1/toleration.go`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) || given(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => given(&toleration.key).is_some() && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        _ => false,
    }
}
