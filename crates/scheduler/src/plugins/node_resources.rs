//! NodeResourcesFit: what a pod asks for must be left; nodes with more left are liked better.

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, NodeInfo, PodInfo, Score, Verdict},
};

/// What a pod without requests counts as in scores, so that such pods spread too.
/// Source: Kubernetes `scheduler/util/pod_resources.go`.
const USUAL_CPU_MILLIS: i64 = 100;
const USUAL_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// The plug-in.
pub struct NodeResources;

/// Share of CPU and memory asked for with the pod on the node, in hundredths, none where the node has none of it.
pub fn used_shares(pod: &PodInfo, node: &NodeInfo) -> [Option<i64>; 2] {
    let or = |value: i64, usual: i64| if value == 0 { usual } else { value };
    let others = node.pods.values().fold((0_i64, 0_i64), |(cpu, memory), other| {
        (cpu + or(other.requests.cpu_millis, USUAL_CPU_MILLIS), memory + or(other.requests.memory_bytes, USUAL_MEMORY_BYTES))
    });
    let share = |used: i64, all: i64| (all > 0).then(|| (used.saturating_mul(100) / all).min(100));
    [
        share(others.0 + or(pod.requests.cpu_millis, USUAL_CPU_MILLIS), node.allocatable.cpu_millis),
        share(others.1 + or(pod.requests.memory_bytes, USUAL_MEMORY_BYTES), node.allocatable.memory_bytes),
    ]
}

impl Filter for NodeResources {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _cluster: &Cluster) -> Verdict {
        if node.pods.len() >= node.allowed_pods {
            return Verdict::NotNow("Too many pods".to_owned());
        }
        let (wanted, has, used) = (&pod.requests, &node.allocatable, &node.requested);
        let refuse = |name: &str, wanted: i64, all: i64| {
            let reason = format!("Insufficient {name}");
            if wanted > all { Verdict::Never(reason) } else { Verdict::NotNow(reason) }
        };
        let short = |wanted: i64, all: i64, used: i64| wanted > 0 && wanted > all.saturating_sub(used);
        if short(wanted.cpu_millis, has.cpu_millis, used.cpu_millis) {
            return refuse("cpu", wanted.cpu_millis, has.cpu_millis);
        }
        if short(wanted.memory_bytes, has.memory_bytes, used.memory_bytes) {
            return refuse("memory", wanted.memory_bytes, has.memory_bytes);
        }
        if short(wanted.ephemeral_storage_bytes, has.ephemeral_storage_bytes, used.ephemeral_storage_bytes) {
            return refuse("ephemeral-storage", wanted.ephemeral_storage_bytes, has.ephemeral_storage_bytes);
        }
        for (name, amount) in &wanted.others {
            let all = has.others.get(name).copied().unwrap_or_default();
            if short(*amount, all, used.others.get(name).copied().unwrap_or_default()) {
                return refuse(name, *amount, all);
            }
        }
        Verdict::Fits
    }
    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::AssignedPodGone]
    }
}

impl Score for NodeResources {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn weight(&self) -> i64 {
        1
    }
    fn is_normalized(&self) -> bool {
        true
    }
    fn score(&self, pod: &PodInfo, nodes: &[&NodeInfo], _cluster: &Cluster) -> Vec<i64> {
        nodes
            .iter()
            .map(|node| {
                let shares: Vec<i64> = used_shares(pod, node).into_iter().flatten().collect();
                let left: i64 = shares.iter().map(|share| 100 - share).sum();
                left / i64::try_from(shares.len().max(1)).unwrap_or(1)
            })
            .collect()
    }
}
