//! What the groups weigh that pods of a class lie in (`burstable`, `besteffort`): as much as their pods ask for together. Without that
//! they would weigh as much as a whole processor that was asked for, the group of those who ask for nothing not less than the others.
//!
//! Source: Kubernetes 1.36, `pkg/kubelet/cm/qos_container_manager_linux.go`.

use std::collections::{BTreeMap, BTreeSet};

use container_runtime::{ResourceLimits, SandboxState};

use crate::runtime::Inner;

/// The least weight that the kernel knows; whoever has it asks for nothing.
const LEAST: u64 = 2;

/// The group above a pod's own, where that lies in one.
fn class_of(cgroup_parent: &str) -> Option<&str> {
    cgroup_parent.trim_matches('/').rsplit_once('/').map(|(class, _)| class)
}

/// The weight of a group of pods that have these.
fn weight(pods: impl IntoIterator<Item = u64>) -> u64 {
    pods.into_iter().filter(|shares| *shares > LEAST).fold(0, u64::saturating_add).max(LEAST)
}

impl Inner {
    /// Gives every class its weight, after a restart.
    pub(crate) fn weigh_all_classes(&self) {
        let parents: Vec<String> = self.sandboxes.lock().values().map(|sandbox| sandbox.record.lock().spec.cgroup_parent.clone()).collect();
        let classes: BTreeSet<&str> = parents.iter().filter_map(|parent| class_of(parent)).collect();
        classes.into_iter().for_each(|class| self.weigh(class));
    }

    /// Gives the class that a pod lies in its weight, after that pod came, went or changed.
    pub(crate) fn weigh_class_of(&self, cgroup_parent: &str) {
        if let Some(class) = class_of(cgroup_parent) {
            self.weigh(class);
        }
    }

    fn weigh(&self, class: &str) {
        // Held until it is written: of two at once the later one must be the one that counts.
        let _turn = self.weighing.lock();
        // A pod may have had sandboxes before, in the same group.
        let mut pods = BTreeMap::new();
        for sandbox in self.sandboxes.lock().values().filter(|sandbox| *sandbox.state.lock() == SandboxState::Ready) {
            let spec = &sandbox.record.lock().spec;
            if class_of(&spec.cgroup_parent) == Some(class) {
                pods.insert(sandbox.cgroup.clone(), spec.resources.cpu_shares.unwrap_or(LEAST));
            }
        }
        let limits = ResourceLimits { cpu_shares: Some(weight(pods.into_values())), ..ResourceLimits::default() };
        if let Err(error) = self.cgroups.apply(&format!("{}/{class}", self.options.cgroup_root), &limits, false) {
            tracing::warn!(class, %error, "could not set the weight of a class of pods");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_weighs_what_its_pods_ask_for_and_never_nothing() {
        assert_eq!(weight([]), 2);
        assert_eq!(weight([2, 2, 2]), 2, "many who ask for nothing ask for nothing");
        assert_eq!(weight([2, 102, 512]), 614);
        assert_eq!(weight([u64::MAX, u64::MAX]), u64::MAX);
    }

    #[test]
    fn pods_of_a_class_lie_one_level_deeper_than_others() {
        assert_eq!((class_of("burstable/pod-a"), class_of("/besteffort/pod-b/"), class_of("pod-c")), (Some("burstable"), Some("besteffort"), None));
    }
}
