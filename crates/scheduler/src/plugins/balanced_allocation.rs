//! NodeResourcesBalancedAllocation: a node whose CPU and memory are used alike is liked better.

use crate::{
    cluster::Cluster,
    framework::{NodeInfo, PodInfo, Score},
    plugins::node_resources::used_shares,
};

/// The plug-in.
pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
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
            .map(|node| match used_shares(pod, node) {
                // Half the difference is the standard deviation of two values.
                [Some(cpu), Some(memory)] => 100 - (cpu - memory).abs() / 2,
                _ => 100,
            })
            .collect()
    }
}
