//! Everything about a pod that plug-ins look at, read once. Of a pod that has its node only what matters to others is read, since a
//! large cluster has many of these.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, LazyLock},
};

use api::core::v1::{Pod, PodAffinityTerm, PreferredSchedulingTerm, Toleration, TopologySpreadConstraint, Volume};
use meta::selector::{LabelSelector, Operator};

use crate::{
    census::{Counted, Eligibility},
    resources::{HostPort, Resources, host_ports_of, requests_of},
    terms::{AffinityTerm, NodeRequirement, requirements_of_own_labels, selector_of, with},
};

/// A constraint of `spec.topologySpreadConstraints`.
#[derive(Debug, Clone)]
pub struct Spread {
    /// How uneven it may be.
    pub max_skew: i64,
    /// Fewer domains than this count as if one were empty.
    pub min_domains: Option<usize>,
    /// The pods that count, and where.
    pub counted: Counted,
    /// Whether the pod is one of those itself.
    pub counts_itself: bool,
    /// `DoNotSchedule`; otherwise it is a preference.
    pub is_hard: bool,
}

/// Controllers whose pods are spread by default. Source: Kubernetes 1.36, `pkg/scheduler/framework/plugins/helper`, `DefaultSelector`.
const SPREAD_KINDS: [(&str, &str); 3] = [("v1", "ReplicationController"), ("apps/v1", "ReplicaSet"), ("apps/v1", "StatefulSet")];

/// What plug-ins see of a pod.
#[derive(Debug, Clone, Default)]
pub struct PodInfo {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels; pods of one controller share theirs, see [`crate::cluster::Cluster::share_labels`].
    pub labels: Arc<BTreeMap<String, String>>,
    /// What it asks for.
    pub requests: Resources,
    /// What it counts as in scores: thousandths of a CPU and bytes of memory.
    pub weight: (i64, i64),
    /// Host ports it asks for.
    pub host_ports: Vec<HostPort>,
    /// Tolerations. Empty once it has a node, as is whatever else says where it may go or would like to.
    pub tolerations: Vec<Toleration>,
    /// Node selector and required node affinity.
    pub node_requirement: Arc<NodeRequirement>,
    /// Preferred node affinity.
    pub preferred_nodes: Vec<PreferredSchedulingTerm>,
    /// `spec.nodeName`, empty for none.
    pub node_name: String,
    /// Priority.
    pub priority: i32,
    /// It displaces nobody.
    pub never_preempts: bool,
    /// Must be together with these.
    pub required_affinity: Vec<AffinityTerm>,
    /// Must not be together with these.
    pub required_anti_affinity: Vec<AffinityTerm>,
    /// Would rather (or, with a weight below 0, rather not) be together with these.
    pub preferred_affinity: Vec<(i32, AffinityTerm)>,
    /// Spreading.
    pub spread: Vec<Spread>,
    /// UID of its controller, empty for none.
    pub controller: String,
    /// Its controller is of a kind whose pods are spread unless they say otherwise.
    pub spreads_by_default: bool,
    /// `metadata.generation`
    pub generation: Option<i64>,
    /// Images of its containers.
    pub images: Vec<String>,
    /// Volumes that live outside the pod.
    pub volumes: Vec<Volume>,
    /// `spec.schedulerName`
    pub scheduler_name: String,
    /// `status.nominatedNodeName`, empty for none.
    pub nominated_node: String,
    /// Has scheduling gates.
    pub gated: bool,
    /// Being deleted.
    pub terminating: bool,
    /// Being deleted to make room.
    pub displaced: bool,
    /// Succeeded or failed.
    pub finished: bool,
    /// When it was created, for the queue's order.
    pub created: Option<jiff::Timestamp>,
    /// When it was started.
    pub started: Option<jiff::Timestamp>,
}

impl PodInfo {
    /// Reads a pod.
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let (meta, status) = (&pod.metadata, pod.status.as_ref());
        let namespace = meta.namespace.clone().unwrap_or_default();
        let labels = meta.labels.clone().unwrap_or_default();
        let terms = |list: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            list.into_iter().flatten().map(|term| AffinityTerm::of(term, &namespace, &labels)).collect()
        };
        let node_name = spec.node_name.clone().unwrap_or_default();
        // What says where it may go is of no interest any more once it is there.
        let placeless = Some(spec).filter(|_| node_name.is_empty());
        let affinity = spec.affinity.as_ref();
        let near_nodes = affinity.filter(|_| placeless.is_some()).and_then(|affinity| affinity.node_affinity.as_ref());
        let together = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let liked = together.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
        let disliked = apart.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
        let preferences = liked.into_iter().flatten().map(|term| (term.weight, term)).chain(disliked.into_iter().flatten().map(|term| (-term.weight, term)));
        let preferred_affinity = preferences.map(|(weight, term)| (weight, AffinityTerm::of(&term.pod_affinity_term, &namespace, &labels))).collect();
        let required = NodeRequirement {
            labels: placeless.and_then(|spec| spec.node_selector.clone()).unwrap_or_default(),
            selector: near_nodes.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.clone()),
        };
        static NOTHING: LazyLock<Arc<NodeRequirement>> = LazyLock::new(Arc::default);
        let node_requirement = if required.is_empty() { NOTHING.clone() } else { Arc::new(required) };
        let tolerations = placeless.and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        let constraints = placeless.and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
        let containers = placeless.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let reader = SpreadReader { namespace: &namespace, labels: &labels, node_requirement: &node_requirement, tolerations: &tolerations, constraints };
        let spread = constraints.iter().map(|constraint| reader.read(constraint)).collect();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let displaced = conditions.into_iter().any(|condition| condition.type_ == "DisruptionTarget" && condition.reason.as_deref() == Some("PreemptionByScheduler"));
        let (requests, weight) = requests_of(pod);
        let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            requests,
            weight,
            host_ports: host_ports_of(pod),
            preferred_nodes: near_nodes.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.clone()).unwrap_or_default(),
            node_name,
            priority: spec.priority.unwrap_or_default(),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            required_affinity: terms(together.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())),
            required_anti_affinity: terms(apart.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())),
            preferred_affinity,
            spread,
            spreads_by_default: controller.is_some_and(|owner| SPREAD_KINDS.contains(&(owner.api_version.as_str(), owner.kind.as_str()))),
            controller: controller.map(|owner| owner.uid.clone()).unwrap_or_default(),
            generation: meta.generation,
            images: containers.filter_map(|container| container.image.clone()).collect(),
            volumes: spec.volumes.iter().flatten().filter(|volume| lives_outside(volume)).cloned().collect(),
            scheduler_name: placeless.and_then(|spec| spec.scheduler_name.clone()).unwrap_or_default(),
            nominated_node: status.and_then(|status| status.nominated_node_name.clone()).unwrap_or_default(),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            terminating: meta.deletion_timestamp.is_some(),
            displaced: displaced && meta.deletion_timestamp.is_some(),
            finished: matches!(phase, "Succeeded" | "Failed"),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            node_requirement,
            tolerations,
            labels: Arc::new(labels),
            namespace,
        }
    }
    /// Whether it counts on its node as `other` does, so that one may stand for the other there.
    pub fn weighs_like(&self, other: &Self) -> bool {
        (&self.labels, self.terminating, &self.requests, self.weight) == (&other.labels, other.terminating, &other.requests, other.weight)
    }
}

/// Most volumes are part of the pod and of no interest to the scheduler.
fn lives_outside(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.csi.is_some()
        || volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.iscsi.is_some()
        || volume.rbd.is_some()
}

struct SpreadReader<'a> {
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    node_requirement: &'a Arc<NodeRequirement>,
    tolerations: &'a [Toleration],
    constraints: &'a [TopologySpreadConstraint],
}

impl SpreadReader<'_> {
    fn read(&self, constraint: &TopologySpreadConstraint) -> Spread {
        let own = requirements_of_own_labels(constraint.match_label_keys.as_ref(), self.labels, Operator::In);
        let selector = with(selector_of(constraint.label_selector.as_ref()), own);
        let counts_itself = selector.matches_map(self.labels);
        let is_hard = constraint.when_unsatisfiable == "DoNotSchedule";
        let term = AffinityTerm::new(selector, vec![self.namespace.to_owned()], LabelSelector::nothing(), constraint.topology_key.clone());
        let honors = |policy: Option<&String>, usual: bool| policy.map_or(usual, |policy| policy == "Honor");
        // A node counts only where it has the labels of all constraints that are alike in hardness.
        let alike = self.constraints.iter().filter(|other| other.when_unsatisfiable == constraint.when_unsatisfiable);
        let mut eligible = Eligibility { keys: alike.map(|other| other.topology_key.clone()).collect(), ..Eligibility::default() };
        let mut id = format!("living|{}|{}", term.id, eligible.keys.join(","));
        if honors(constraint.node_affinity_policy.as_ref(), true) && !self.node_requirement.is_empty() {
            // Writing into a `String` cannot fail.
            let _ = write!(id, "|{:?}", self.node_requirement);
            eligible.requirement = Some(self.node_requirement.clone());
        }
        if honors(constraint.node_taints_policy.as_ref(), false) {
            let _ = write!(id, "|{:?}", self.tolerations);
            eligible.tolerations = Some(self.tolerations.to_vec());
        }
        Spread {
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.and_then(|count| usize::try_from(count).ok()),
            counted: Counted { id: id.into(), topology_key: term.topology_key.clone(), terms: vec![term], controller: String::new(), living_only: true, eligible },
            counts_itself,
            is_hard,
        }
    }
}
