//! How many pods a set is short of, or which it has too many.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

/// Most pods created or removed in one go, so that one big set does not hold up all others.
/// Source: Kubernetes 1.36, `BurstReplicas`.
const BURST: usize = 500;

/// What has to be done to a set's pods.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// So many pods are to be created.
    pub create: usize,
    /// These are to go.
    pub delete: Vec<Arc<Pod>>,
}

/// Compares the pods that run, or are going to, with the number wanted. `related` are all pods of the same workload, asked for only
/// where some must go.
pub(super) fn plan(desired: i32, active: &[Arc<Pod>], related: impl FnOnce() -> Vec<Arc<Pod>>, now: Timestamp) -> Plan {
    let desired = usize::try_from(desired).unwrap_or(0);
    if active.len() <= desired {
        return Plan { create: (desired - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = (active.len() - desired).min(BURST);
    let mut delete = active.to_vec();
    if surplus < active.len() {
        pods::sort_by_loss(&mut delete, &related(), now);
    }
    delete.truncate(surplus);
    Plan { create: 0, delete }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;

    fn check(desired: i32, active: &[Arc<Pod>], create: usize, delete: &[&str]) {
        let plan = plan(desired, active, Vec::new, Timestamp::from_second(1000).unwrap());
        let names: Vec<_> = plan.delete.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        assert_eq!((plan.create, names.as_slice()), (create, delete));
    }

    #[test]
    fn missing_pods_are_created_and_surplus_ones_go() {
        let pods = [pod("a", "Running", "n", Some(1)), pod("b", "Pending", "", None)];
        check(2, &pods, 0, &[]);
        check(5, &pods, 3, &[]);
        check(1, &pods, 0, &["b"]);
        check(0, &pods, 0, &["a", "b"]);
        check(-1, &pods, 0, &["a", "b"]);
        check(10_000, &[], 500, &[]);
    }
}
