//! NodeResourcesFit: what a pod asks for must be left; nodes with more left (or, if the profile says so, less) are liked better.

use std::sync::Arc;

use crate::{
    cluster::Cluster,
    framework::{ClusterEvent, Filter, Prepared, Reason, Scale, Score, Verdict},
    node_info::NodeInfo,
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
    /// As these points say: utilization and score, both 0 to 100; between them on a straight line.
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
    /// What is before the slash in the names of more of these.
    pub ignored_groups: Vec<String>,
}

impl Default for NodeResources {
    fn default() -> Self {
        Self { strategy: Strategy::default(), resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)], ignored: Vec::new(), ignored_groups: Vec::new() }
    }
}

/// What would be used of a resource with the pod on the node, and all there is of it. Pods without requests count as usual ones.
fn used(name: &str, pod: &PodInfo, node: &NodeInfo) -> (i64, i64) {
    match name {
        "cpu" => (node.weight.0.saturating_add(pod.weight.0), node.allocatable.cpu_millis),
        "memory" => (node.weight.1.saturating_add(pod.weight.1), node.allocatable.memory_bytes),
        other => (node.requested.get(other).saturating_add(pod.requests.get(other)), node.allocatable.get(other)),
    }
}

/// Whether nodes are compared by a resource for such a pod. What is not measured everywhere counts only where it is asked for.
pub(super) fn is_compared(name: &str, pod: &PodInfo) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || pod.requests.get(name) > 0
}

/// A part in hundredths of all there is, which is more than nothing.
fn hundredths(part: i64, all: i64) -> i64 {
    i64::try_from(i128::from(part) * 100 / i128::from(all)).unwrap_or(i64::MAX)
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
            Strategy::LeastAllocated => if used > all { 0 } else { hundredths(all - used, all) },
            Strategy::MostAllocated => hundredths(used.min(all), all),
            Strategy::RequestedToCapacityRatio(points) => height(points, hundredths(used.min(all), all)),
        }
    }
    fn score_node(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let by_shape = matches!(self.strategy, Strategy::RequestedToCapacityRatio(_));
        let (mut sum, mut weights) = (0, 0);
        for (name, importance) in &self.resources {
            let (used, all) = used(name, pod, node);
            if all > 0 && is_compared(name, pod) {
                let score = self.score_of(used, all);
                sum += importance * score;
                // Where a shape gives nothing, upstream leaves the resource out altogether.
                weights += if by_shape && score <= 0 { 0 } else { *importance };
            }
        }
        match weights {
            0 => 0,
            // Upstream rounds here, and only here.
            _ if by_shape => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }
}

impl Filter for NodeResources {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn prepare(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Prepared {
        let (pod, ignored, groups) = (pod.clone(), self.ignored.clone(), self.ignored_groups.clone());
        let is_ignored = move |name: &String| ignored.contains(name) || !groups.is_empty() && name.split_once('/').is_some_and(|(group, _)| groups.iter().any(|other| other == group));
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
            for (name, amount) in wanted.others.iter().filter(|(name, _)| !is_ignored(name)) {
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
        Some((Scale::Done, slots.iter().map(|slot| cluster.at(*slot).map_or(0, |node| self.score_node(pod, node))).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::balanced_allocation::BalancedAllocation;
    use api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    #[test]
    fn a_shape_is_followed_on_straight_lines() {
        let points = [(0, 0), (50, 100), (100, 0)];
        assert_eq!([-5, 0, 25, 37, 50, 75, 100, 110].map(|place| height(&points, place)), [0, 0, 50, 74, 100, 50, 0, 0]);
    }

    fn pod(requests: Value) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": "p", "uid": requests.to_string()}, "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}});
        Arc::new(PodInfo::of(&serde_json::from_value::<Pod>(pod).unwrap()))
    }

    /// The score of a node of this size with pods that ask for `placed` on it, for a pod that asks for `wanted`.
    fn score(plugin: &dyn Score, size: Value, placed: Value, wanted: Value) -> Option<i64> {
        let mut cluster = Cluster::default();
        cluster.apply_node(&serde_json::from_value::<Node>(json!({"metadata": {"name": "n"}, "status": {"allocatable": size}})).unwrap());
        cluster.place(pod(placed), "n");
        let slots = cluster.order().to_vec();
        plugin.score(&pod(wanted), &slots, &mut cluster).and_then(|(_, scores)| scores.first().copied())
    }

    fn fit(strategy: Strategy, resources: &[(&str, i64)]) -> NodeResources {
        NodeResources { strategy, resources: resources.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(), ..NodeResources::default() }
    }

    #[test]
    fn resources_that_somebody_else_looks_after_are_not_missed() {
        let plugin = NodeResources { ignored: vec!["a.example/x".to_owned()], ignored_groups: vec!["b.example".to_owned()], ..NodeResources::default() };
        for (resource, fits) in [("a.example/x", true), ("a.example/y", false), ("b.example/x", true), ("c.b.example/x", false)] {
            let mut cluster = Cluster::default();
            cluster.apply_node(&serde_json::from_value::<Node>(json!({"metadata": {"name": "n"}, "status": {"allocatable": {"pods": "1"}}})).unwrap());
            let Prepared::Each(check) = plugin.prepare(&pod(json!({resource: "1"})), &mut cluster) else { panic!("it has something to say") };
            assert_eq!(check(cluster.node("n").unwrap(), &cluster) == Verdict::Fits, fits, "{resource}");
        }
    }

    #[test]
    fn nodes_with_more_left_or_with_less_left_score_higher() {
        let (size, placed) = (json!({"cpu": "10", "memory": "1000"}), json!({"cpu": "2", "memory": "100"}));
        // cpu, memory: placed 20 % and 10 %, with the pod 50 % and 20 %.
        let wanted = json!({"cpu": "3", "memory": "100"});
        let both = [("cpu", 1), ("memory", 1)];
        let of = |plugin: NodeResources| score(&plugin, size.clone(), placed.clone(), wanted.clone()).unwrap();
        assert_eq!(of(fit(Strategy::LeastAllocated, &both)), (50 + 80) / 2);
        assert_eq!(of(fit(Strategy::MostAllocated, &both)), (50 + 20) / 2);
        assert_eq!(of(fit(Strategy::LeastAllocated, &[("cpu", 3), ("memory", 1)])), (3 * 50 + 80) / 4);
        assert_eq!(of(fit(Strategy::MostAllocated, &[("cpu", 1)])), 50);
        // Rounded down, each resource and the mean.
        let thirds = score(&fit(Strategy::LeastAllocated, &both), json!({"cpu": "3", "memory": "7"}), json!({"cpu": "1", "memory": "1"}), json!({"cpu": "1", "memory": "1"}));
        assert_eq!(thirds, Some((33 + 71) / 2));
    }

    #[test]
    fn more_than_there_is_scores_nothing_or_all() {
        let of = |strategy| score(&fit(strategy, &[("cpu", 1)]), json!({"cpu": "1"}), json!({"cpu": "1"}), json!({"cpu": "1"}));
        assert_eq!(of(Strategy::LeastAllocated), Some(0));
        assert_eq!(of(Strategy::MostAllocated), Some(100));
        let vast = || json!({"memory": "9223372036854775807"});
        assert_eq!(score(&fit(Strategy::MostAllocated, &[("memory", 1)]), vast(), vast(), vast()), Some(100), "no number is too large");
    }

    #[test]
    fn an_extended_resource_counts_only_for_who_asks_for_it() {
        let plugin = fit(Strategy::MostAllocated, &[("cpu", 1), ("example.com/gpu", 1)]);
        let size = json!({"cpu": "10", "example.com/gpu": "4"});
        assert_eq!(score(&plugin, size.clone(), json!({"cpu": "1", "example.com/gpu": "1"}), json!({"cpu": "1"})), Some(20));
        assert_eq!(score(&plugin, size, json!({"cpu": "1", "example.com/gpu": "1"}), json!({"cpu": "1", "example.com/gpu": "2"})), Some((20 + 75) / 2));
        assert_eq!(score(&plugin, json!({"cpu": "10"}), json!({"cpu": "1"}), json!({"cpu": "1", "example.com/gpu": "2"})), Some(20), "a node without it");
        let disk = fit(Strategy::LeastAllocated, &[("ephemeral-storage", 1)]);
        assert_eq!(score(&disk, json!({"ephemeral-storage": "100"}), json!({"ephemeral-storage": "25"}), json!({})), Some(75), "measured for everybody");
    }

    #[test]
    fn a_shape_says_what_a_utilization_is_worth() {
        let shape = |points: &[(i64, i64)]| Strategy::RequestedToCapacityRatio(points.to_vec());
        let of = |strategy, resources: &[(&str, i64)]| {
            score(&fit(strategy, resources), json!({"cpu": "100", "memory": "1000"}), json!({"cpu": "30", "memory": "0"}), json!({"cpu": "7", "memory": "0"}))
        };
        let rising = [(0, 0), (100, 100)];
        assert_eq!(of(shape(&rising), &[("cpu", 1)]), Some(37), "in hundredths, not in tenths");
        assert_eq!(of(shape(&rising), &[("cpu", 1), ("memory", 1)]), Some(37), "memory, which is worth nothing, is left out");
        assert_eq!(of(shape(&[(0, 100), (100, 0)]), &[("cpu", 1), ("memory", 1)]), Some(82), "81.5 rounded");
    }

    #[test]
    fn resources_that_are_used_alike_score_higher() {
        let of = |names: &[&str], size: Value, wanted: Value| {
            score(&BalancedAllocation(names.iter().map(|name| (*name).to_owned()).collect()), size, json!({"cpu": "1", "memory": "100"}), wanted)
        };
        let size = json!({"cpu": "10", "memory": "1000"});
        assert_eq!(of(&["cpu", "memory"], size.clone(), json!({"cpu": "2", "memory": "200"})), Some(75), "as alike as before");
        // 50 % and 20 %: 15 hundredths from their mean, where there were none.
        assert_eq!(of(&["cpu", "memory"], size.clone(), json!({"cpu": "4", "memory": "100"})), Some(50 + (50 - 15) / 2));
        assert_eq!(of(&["cpu"], size.clone(), json!({"cpu": "4"})), Some(75), "one is always alike");
        assert_eq!(of(&["cpu", "memory"], size.clone(), json!({})), None, "who asks for nothing changes no balance");
        let gpu = json!({"cpu": "10", "memory": "1000", "example.com/gpu": "4"});
        assert_eq!(of(&["cpu", "memory", "example.com/gpu"], gpu.clone(), json!({"cpu": "4", "memory": "100"})), Some(67), "nobody asked for a gpu");
        // 50, 20 and 75 %: the standard deviation is 22.5 hundredths; 4.7 before, with 10, 10 and 0 %.
        assert_eq!(of(&["cpu", "memory", "example.com/gpu"], gpu, json!({"cpu": "4", "memory": "100", "example.com/gpu": "3"})), Some(50 + (50 + 77 - 95) / 2));
        // 100 % at most: 100 and 20 %.
        assert_eq!(of(&["cpu", "memory"], size, json!({"cpu": "40", "memory": "100"})), Some(50 + (50 + 60 - 100) / 2));
        // What was used unalike, 50 and 0 %, is used alike with the pod.
        let uneven = score(&BalancedAllocation::default(), json!({"cpu": "10", "memory": "1000"}), json!({"cpu": "5"}), json!({"memory": "500"}));
        assert_eq!(uneven, Some(50 + (50 + 100 - 75) / 2));
    }
}
