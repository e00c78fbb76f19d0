//! NodeResourcesFit: what a pod asks for must be left; nodes with more left (or, if the profile says so, less) are liked better.

use std::sync::Arc;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Reason, Scale, Score, Verdict},
    node_info::{NodeInfo, weight_of},
    pod_info::PodInfo,
};

/// Which nodes are liked better.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Those with most left.
    #[default]
    LeastAllocated,
    /// Those with least left.
    MostAllocated,
    /// As these points say: utilization in hundredths, score 0 to 10; between them on a straight line.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// The plug-in.
#[derive(Debug, Clone)]
pub struct NodeResources {
    /// Which nodes are liked better.
    pub strategy: Strategy,
    /// What counts, and how much.
    pub resources: Vec<(String, i64)>,
    /// Extended resources that somebody else looks after.
    pub ignored: Vec<String>,
}

impl Default for NodeResources {
    fn default() -> Self {
        Self { strategy: Strategy::default(), resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)], ignored: Vec::new() }
    }
}

/// What would be used of a resource with the pod on the node, and all there is of it. Pods without requests count as usual ones.
fn used(name: &str, pod: &PodInfo, weight: (i64, i64), node: &NodeInfo) -> (i64, i64) {
    match name {
        "cpu" => (node.weight.0 + weight.0, node.allocatable.cpu_millis),
        "memory" => (node.weight.1 + weight.1, node.allocatable.memory_bytes),
        other => (node.requested.get(other) + pod.requests.get(other), node.allocatable.get(other)),
    }
}

/// The height of a line through points at a place.
fn height(points: &[(i64, i64)], place: i64) -> i64 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0 };
    if place <= first.0 {
        return first.1;
    }
    let pair = points.windows(2).find_map(|pair| match pair {
        [left, right] if place <= right.0 => Some((*left, *right)),
        _ => None,
    });
    pair.map_or(last.1, |(left, right)| left.1 + (right.1 - left.1) * (place - left.0) / (right.0 - left.0).max(1))
}

impl NodeResources {
    fn score_of(&self, used: i64, all: i64) -> i64 {
        match &self.strategy {
            Strategy::LeastAllocated => if used > all { 0 } else { (all - used) * 100 / all },
            Strategy::MostAllocated => used.min(all) * 100 / all,
            Strategy::RequestedToCapacityRatio(points) => 10 * height(points, (used.min(all)) * 100 / all),
        }
    }
    fn score_node(&self, pod: &PodInfo, weight: (i64, i64), node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (name, importance) in &self.resources {
            let (used, all) = used(name, pod, weight, node);
            if all > 0 && (matches!(name.as_str(), "cpu" | "memory") || pod.requests.get(name) > 0) {
                sum += importance * self.score_of(used, all);
                weights += importance;
            }
        }
        if weights == 0 { 0 } else { sum / weights }
    }
}

impl Filter for NodeResources {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Prepared {
        let (pod, ignored) = (pod.clone(), self.ignored.clone());
        Prepared::each(move |node, _| {
            let (wanted, has, used) = (&pod.requests, &node.allocatable, &node.requested);
            // Most nodes fit, and are told so without a list.
            let mut reasons: Vec<Reason> = Vec::new();
            let mut never = false;
            if node.pods.len() >= node.allowed_pods {
                reasons.push("Too many pods".into());
            }
            let mut check = |name: &str, wanted: i64, all: i64, used: i64| {
                if wanted > 0 && wanted > all.saturating_sub(used) {
                    never |= wanted > all;
                    reasons.push(format!("Insufficient {name}").into());
                }
            };
            check("cpu", wanted.cpu_millis, has.cpu_millis, used.cpu_millis);
            check("memory", wanted.memory_bytes, has.memory_bytes, used.memory_bytes);
            check("ephemeral-storage", wanted.ephemeral_storage_bytes, has.ephemeral_storage_bytes, used.ephemeral_storage_bytes);
            for (name, amount) in wanted.others.iter().filter(|(name, _)| !ignored.contains(name)) {
                check(name, *amount, has.get(name), used.get(name));
            }
            match (reasons.is_empty(), never) {
                (true, _) => Verdict::Fits,
                (false, true) => Verdict::Never(reasons),
                (false, false) => Verdict::NotNow(reasons),
            }
        })
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
    fn score(&self, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster) -> Option<(Scale, Vec<i64>)> {
        let weight = weight_of(&pod.requests);
        Some((Scale::Done, slots.iter().map(|slot| cluster.at(*slot).map_or(0, |node| self.score_node(pod, weight, node))).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_followed_on_straight_lines() {
        let points = [(0, 0), (50, 10), (100, 0)];
        assert_eq!([-5, 0, 25, 50, 75, 100, 110].map(|place| height(&points, place)), [0, 0, 5, 10, 5, 0, 0]);
    }
}
