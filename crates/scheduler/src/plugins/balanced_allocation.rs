//! NodeResourcesBalancedAllocation: a node whose CPU and memory are used alike is liked better.

use crate::{
    cluster::Cluster,
    framework::{Scale, Score},
    node_info::NodeInfo,
    plugins::node_resources::is_compared,
    pod_info::PodInfo,
};

/// The plug-in, with what is compared.
#[derive(Debug, Clone)]
pub struct BalancedAllocation(pub Vec<String>);

impl Default for BalancedAllocation {
    fn default() -> Self {
        Self(vec!["cpu".to_owned(), "memory".to_owned()])
    }
}

impl BalancedAllocation {
    fn balance(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let mut shares = Vec::with_capacity(self.0.len());
        for name in self.0.iter().filter(|name| is_compared(name, pod)) {
            let all = node.allocatable.get(name);
            if all > 0 {
                shares.push((node.requested.get(name).saturating_add(pod.requests.get(name)) as f64 / all as f64).min(1.0));
            }
        }
        let deviation = match shares.as_slice() {
            [] | [_] => 0.0,
            // The same as below, without the rounding of squares and roots, which could cost a point.
            [one, other] => (one - other).abs() / 2.0,
            several => {
                let count = several.len() as f64;
                let mean = several.iter().sum::<f64>() / count;
                (several.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count).sqrt()
            }
        };
        ((1.0 - deviation) * 100.0) as i64
    }
}

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn weight(&self) -> i64 {
        1
    }
    fn score(&self, pod: &PodInfo, slots: &[usize], cluster: &mut Cluster) -> Option<(Scale, Vec<i64>)> {
        // A pod that asks for nothing changes no balance.
        if self.0.iter().all(|name| pod.requests.get(name) == 0) {
            return None;
        }
        Some((Scale::Done, slots.iter().map(|slot| cluster.at(*slot).map_or(0, |node| self.balance(pod, node))).collect()))
    }
}
