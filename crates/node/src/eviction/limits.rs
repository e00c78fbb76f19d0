//! Limits of what one pod may write to the node's disk: of a container, of the whole pod, and of its `emptyDir` volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::{bytes, shown};
use crate::{
    pod::{self, resources::pod_limit},
    quantity::{Amount, amount_of},
};

const RESOURCE: &str = "ephemeral-storage";

/// What a pod's files take, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageUse {
    /// Writable layer and logs of each container.
    pub containers: BTreeMap<String, u64>,
    /// Each `emptyDir`, and whether it is in memory, which takes nothing of the disk.
    pub volumes: BTreeMap<String, (u64, bool)>,
    /// Files and directories of all that on disk.
    pub files: u64,
}

impl StorageUse {
    /// What it takes of the disk altogether.
    #[must_use]
    pub fn total(&self) -> u64 {
        let volumes: u64 = self.volumes.values().filter(|(_, in_memory)| !in_memory).map(|(used, _)| used).sum();
        volumes + self.containers.values().sum::<u64>()
    }
}

/// Whether anything of a pod is limited.
#[must_use]
pub fn has_limits(pod: &Pod) -> bool {
    let spec = pod::spec(pod);
    let of_volumes = spec.volumes.iter().flatten().any(|volume| volume.empty_dir.as_ref().is_some_and(|source| source.size_limit.is_some()));
    of_volumes || pod_limit(pod, RESOURCE).is_some() || pod::containers(pod).any(|(_, container)| container_limit(&container).is_some())
}

fn container_limit(container: &k8s_openapi::api::core::v1::Container) -> Option<Amount> {
    container.resources.as_ref().and_then(|resources| amount_of(resources.limits.as_ref(), RESOURCE)).filter(|limit| !limit.is_zero())
}

/// The message of a pod's eviction, where it uses more than it may; upstream's words.
#[must_use]
pub fn exceeded(pod: &Pod, used: &StorageUse) -> Option<String> {
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()) else { continue };
        let (Some(allowed), Some((taken, _))) = (Amount::parse(&limit.0), used.volumes.get(&volume.name)) else { continue };
        if !allowed.is_zero() && bytes(*taken) > allowed {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0));
        }
    }
    if let Some(limit) = pod_limit(pod, RESOURCE).filter(|limit| bytes(used.total()) > *limit) {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", shown(limit)));
    }
    for (_, container) in pod::containers(pod) {
        let (Some(limit), Some(taken)) = (container_limit(&container), used.containers.get(&container.name)) else { continue };
        if bytes(*taken) > limit {
            return Some(format!("Container {} exceeded its local ephemeral storage limit \"{}\". ", container.name, shown(limit)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(limit: Option<&str>, volume_limit: Option<&str>) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": {
            "volumes": [{ "name": "cache", "emptyDir": { "sizeLimit": volume_limit } }],
            "containers": [{ "name": "c", "resources": { "limits": limit.map(|limit| json!({ "ephemeral-storage": limit })) } }] } }))
        .unwrap()
    }

    #[track_caller]
    fn check(limit: Option<&str>, volume_limit: Option<&str>, container: u64, volume: u64, expected: Option<&str>) {
        let used = StorageUse { containers: [("c".to_owned(), container)].into(), volumes: [("cache".to_owned(), (volume, false))].into(), files: 0 };
        assert_eq!(exceeded(&pod(limit, volume_limit), &used).as_deref(), expected);
    }

    #[test]
    fn each_limit_is_kept_and_named() {
        check(None, None, 1 << 40, 1 << 40, None);
        check(None, Some("1Mi"), 0, 1 << 20, None);
        check(None, Some("1Mi"), 0, (1 << 20) + 1, Some("Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". "));
        check(Some("1Mi"), None, 1 << 19, 1 << 20, Some("Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "));
        check(Some("1Mi"), None, 1 << 19, 1 << 18, None);
    }

    #[test]
    fn only_pods_with_limits_are_measured() {
        assert!(!has_limits(&pod(None, None)));
        assert!(has_limits(&pod(Some("1"), None)) && has_limits(&pod(None, Some("1"))));
    }
}
