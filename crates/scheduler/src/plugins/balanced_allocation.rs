//! NodeResourcesBalancedAllocation: a node whose CPU and memory would be used more alike with the pod is liked better.

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

/// What of a resource is used with the pod, and without it.
type Shares = (f64, f64);

/// A deviation as points.
fn points(deviation: f64) -> i64 {
    ((1.0 - deviation) * 100.0) as i64
}

/// The balance with the pod and without it as a score: 75 where they are alike. Source: Kubernetes 1.36, `balancedResourceScorer`.
fn improvement(with: i64, without: i64) -> i64 {
    50 + (50 + with - without) / 2
}

fn deviation(shares: impl ExactSizeIterator<Item = f64> + Clone) -> f64 {
    let count = shares.len() as f64;
    let mean = shares.clone().sum::<f64>() / count;
    (shares.map(|share| (share - mean).powi(2)).sum::<f64>() / count).sqrt()
}

impl BalancedAllocation {
    fn shares(name: &str, pod: &PodInfo, node: &NodeInfo) -> Option<Shares> {
        let all = node.allocatable.get(name);
        if all <= 0 || !is_compared(name, pod) {
            return None;
        }
        let used = node.requested.get(name);
        let share = |used: i64| (used as f64 / all as f64).min(1.0);
        Some((share(used.saturating_add(pod.requests.get(name))), share(used)))
    }
    fn balance(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let of_two = |one: Shares, other: Shares| improvement(points((one.0 - other.0).abs() / 2.0), points((one.1 - other.1).abs() / 2.0));
        // Nearly everybody compares two.
        if let [one, other] = self.0.as_slice() {
            let both = Self::shares(one, pod, node).zip(Self::shares(other, pod, node));
            return both.map_or(improvement(100, 100), |(one, other)| of_two(one, other));
        }
        let shares: Vec<Shares> = self.0.iter().filter_map(|name| Self::shares(name, pod, node)).collect();
        match shares.as_slice() {
            [] | [_] => improvement(100, 100),
            // The same as below, without the rounding of squares and roots, which could cost a point.
            [one, other] => of_two(*one, *other),
            several => improvement(points(deviation(several.iter().map(|share| share.0))), points(deviation(several.iter().map(|share| share.1)))),
        }
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
