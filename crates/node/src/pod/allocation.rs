//! What a pod was granted of the node: its containers run with this, whatever its spec asks for meanwhile.
//!
//! A change of the spec's resources becomes the grant when the node agrees (see [`super::resize`]). A grant that differs from what
//! the pod was made with is written down, so that a new agent does not take a wish for a grant.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::{is_sidecar, spec};

/// The file, in the pod's directory on disk.
const FILE: &str = "allocation.json";

/// What a pod was granted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// Of the pod as a whole.
    whole: Option<ResourceRequirements>,
    /// Of its main containers and sidecars, by name.
    containers: BTreeMap<String, ResourceRequirements>,
}

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    super::init_containers(pod).iter().filter(|container| is_sidecar(container)).chain(&spec(pod).containers)
}

impl Allocation {
    /// What a pod's spec asks for.
    #[must_use]
    pub fn wanted_by(pod: &Pod) -> Self {
        let containers = resizable(pod).map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default()));
        Self { whole: spec(pod).resources.clone(), containers: containers.collect() }
    }

    /// What a pod was granted before this agent's start: what was written down, else what its status says its containers have, else
    /// what it asks for.
    #[must_use]
    pub fn of_known_pod(pod: &Pod, directory: &Path) -> Self {
        if let Some(written) = Self::read(directory) {
            return written;
        }
        let mut allocation = Self::wanted_by(pod);
        let Some(status) = &pod.status else { return allocation };
        for status in [&status.container_statuses, &status.init_container_statuses].into_iter().flatten().flatten() {
            if let (Some(granted), Some(shown)) = (allocation.containers.get_mut(&status.name), &status.resources)
                && status.state.as_ref().is_some_and(|state| state.running.is_some())
            {
                granted.requests.clone_from(&shown.requests);
                granted.limits.clone_from(&shown.limits);
            }
        }
        allocation
    }

    fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(directory.join(FILE)).ok()?).ok()
    }

    /// Writes it down.
    ///
    /// # Errors
    /// The disk is full or read-only.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let new = directory.join(format!("{FILE}.new"));
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, directory.join(FILE))
    }

    /// The pod with what it was granted in place of what it asks for.
    #[must_use]
    pub fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if *self == Self::wanted_by(pod) {
            return pod.clone();
        }
        let mut granted = Pod::clone(pod);
        if let Some(spec) = &mut granted.spec {
            spec.resources.clone_from(&self.whole);
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                if let Some(resources) = self.containers.get(&container.name) {
                    container.resources = Some(resources.clone());
                }
            }
        }
        Arc::new(granted)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str) -> Arc<Pod> {
        let spec = json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }, { "name": "d" }] });
        Arc::new(serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": spec })).unwrap())
    }

    #[test]
    fn a_grant_stands_until_it_is_changed_and_outlives_the_agent() {
        let granted = Allocation::wanted_by(&pod("1"));
        assert!(Arc::ptr_eq(&granted.apply(&pod("1")), &granted.apply(&pod("1"))) || *granted.apply(&pod("1")) == *pod("1"));
        let shown = granted.apply(&pod("2"));
        assert_eq!(shown.spec.as_ref().unwrap().containers[0].resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"].0, "1");
        let directory = tempfile::tempdir().unwrap();
        granted.write(directory.path()).unwrap();
        assert_eq!(Allocation::of_known_pod(&pod("2"), directory.path()), granted);
    }

    #[test]
    fn without_a_file_what_runs_counts() {
        let mut known = Pod::clone(&pod("2"));
        known.status = serde_json::from_value(json!({ "containerStatuses": [{ "name": "c", "ready": true, "restartCount": 0, "image": "", "imageID": "",
            "state": { "running": {} }, "resources": { "requests": { "cpu": "1" } } }] }))
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Allocation::of_known_pod(&known, directory.path()), Allocation::wanted_by(&pod("1")));
    }
}
