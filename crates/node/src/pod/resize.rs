//! Changing the resources of a pod that runs: what is left to change, changing it, and telling about it.
//! Source: KEP-1287 and Kubernetes 1.36, `pkg/kubelet/kuberuntime`, `computePodResizeAction` and `doPodResizeAction`.

use std::{collections::BTreeMap, sync::Arc};

use container_runtime::{ContainerId, ContainerState, ContainerStatus, ResourceLimits, SandboxId};
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::json;

use super::{Role, containers, plan::newest, resources};
use crate::{config::Context, quantity::Amount};

/// Why a resize is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `Deferred` (it may fit later) or `Infeasible`.
    pub reason: &'static str,
    /// What is short, in upstream's words.
    pub message: String,
}

/// It may fit later.
pub const DEFERRED: &str = "Deferred";
/// It never fits on this node.
pub const INFEASIBLE: &str = "Infeasible";

/// What a pod's status says of its resize.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What was asked for last is not granted.
    pub pending: Option<Refusal>,
    /// What was granted is not yet what the containers have.
    pub in_progress: bool,
    /// Why the last try to give it to them failed.
    pub error: Option<String>,
}

/// What is left to change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Limits that the pod as a whole must get now.
    pub sandbox: Option<ResourceLimits>,
    /// It must get them before a container may start with more.
    pub sandbox_grows: bool,
    /// Containers whose limits change as they run.
    pub containers: Vec<(ContainerId, ResourceLimits)>,
    /// Containers that must restart to get theirs.
    pub restarts: Vec<ContainerId>,
}

impl Changes {
    /// Whether anything differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sandbox.is_none() && self.containers.is_empty() && self.restarts.is_empty()
    }

    /// Whether there is something that needs no restart.
    #[must_use]
    pub fn has_updates(&self) -> bool {
        self.sandbox.is_some() || !self.containers.is_empty()
    }
}

/// Compares what a pod was granted with what its sandbox and its running containers have. `sandbox` is its sandbox with the limits it
/// has.
#[must_use]
pub fn changes(granted: &Pod, sandbox: Option<(&SandboxId, &ResourceLimits)>, observed: &[ContainerStatus]) -> Changes {
    let mut changes = Changes::default();
    let Some((sandbox, of_sandbox)) = sandbox else { return changes };
    for (_, container) in containers(granted).filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar)) {
        let Some(running) = newest(observed, &container.name) else { continue };
        if running.sandbox != *sandbox || !matches!(running.state, ContainerState::Running { .. }) {
            continue;
        }
        let (wanted, has) = (resources::container_limits(granted, &container), &running.spec.resources);
        let differing = differing(&wanted, has);
        if differing.iter().any(|resource| restarts_for(&container, resource)) {
            changes.restarts.push(running.id.clone());
        } else if !differing.is_empty() {
            changes.containers.push((running.id.clone(), wanted));
        }
    }
    let wanted = resources::pod_limits(granted);
    let grown = larger(of_sandbox, &wanted);
    changes.sandbox_grows = grown != *of_sandbox;
    // What has not restarted yet still has its old limits, which the pod's must not undercut.
    let target = if changes.restarts.is_empty() { wanted } else { grown };
    changes.sandbox = (!differing(&target, of_sandbox).is_empty()).then_some(target);
    changes
}

/// The resources that differ.
fn differing(wanted: &ResourceLimits, has: &ResourceLimits) -> Vec<&'static str> {
    let cpu = (wanted.cpu_shares, wanted.cpu_quota_microseconds) != (has.cpu_shares, has.cpu_quota_microseconds);
    // A container from before requests were kept has none on record.
    let requests = has.memory_request_bytes.is_some() && wanted.memory_request_bytes != has.memory_request_bytes;
    let memory = wanted.memory_bytes != has.memory_bytes || requests;
    [(cpu, "cpu"), (memory, "memory")].into_iter().filter_map(|(differs, name)| differs.then_some(name)).collect()
}

fn restarts_for(container: &Container, resource: &str) -> bool {
    container.resize_policy.iter().flatten().any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
}

/// The wider of two limits in each respect.
fn larger(one: &ResourceLimits, other: &ResourceLimits) -> ResourceLimits {
    fn wider<T: Ord + Copy>(one: Option<T>, other: Option<T>) -> Option<T> {
        Some(one?.max(other?))
    }
    let quota = wider(one.cpu_quota_microseconds, other.cpu_quota_microseconds);
    ResourceLimits {
        cpu_shares: one.cpu_shares.max(other.cpu_shares),
        cpu_quota_microseconds: quota,
        cpu_period_microseconds: quota.and(one.cpu_period_microseconds.or(other.cpu_period_microseconds)),
        memory_bytes: wider(one.memory_bytes, other.memory_bytes),
        ..one.clone()
    }
}

/// Gives a pod and its containers what was granted.
pub struct Resize {
    /// What everything shares.
    pub context: Arc<Context>,
    /// The pod's sandbox.
    pub sandbox: SandboxId,
    /// The limits the sandbox has.
    pub before: ResourceLimits,
    /// What is to change.
    pub changes: Changes,
    /// The containers as they are.
    pub containers: Arc<Vec<ContainerStatus>>,
}

impl Resize {
    /// First the pod is given room, then the containers change, then the pod is taken in. Gives the sandbox's limits as they are then,
    /// also where something failed.
    pub async fn run(self) -> (ResourceLimits, Result<(), String>) {
        let mut has = self.before.clone();
        let result = self.apply(&mut has).await;
        (has, result)
    }

    async fn apply(&self, has: &mut ResourceLimits) -> Result<(), String> {
        let runtime = &self.context.config.runtime;
        if let Some(target) = &self.changes.sandbox {
            let grown = larger(has, target);
            self.set_sandbox(grown, has).await?;
        }
        for (id, limits) in &self.changes.containers {
            self.check_shrinking(id, limits).await?;
            runtime.update_resources(id, limits).await.map_err(|problem| problem.to_string())?;
        }
        match &self.changes.sandbox {
            Some(target) => self.set_sandbox(target.clone(), has).await,
            None => Ok(()),
        }
    }

    async fn set_sandbox(&self, limits: ResourceLimits, has: &mut ResourceLimits) -> Result<(), String> {
        if limits == *has {
            return Ok(());
        }
        self.context.config.runtime.update_sandbox_resources(&self.sandbox, &limits).await.map_err(|problem| problem.to_string())?;
        *has = limits;
        Ok(())
    }

    /// A limit below what is used would have the kernel kill the container.
    async fn check_shrinking(&self, id: &ContainerId, limits: &ResourceLimits) -> Result<(), String> {
        let Some(container) = self.containers.iter().find(|container| container.id == *id) else { return Ok(()) };
        let Some(wanted) = limits.memory_bytes else { return Ok(()) };
        if container.spec.resources.memory_bytes.is_some_and(|has| has <= wanted) {
            return Ok(());
        }
        let usage = self.context.config.runtime.container_usage(id).await.map_err(|problem| problem.to_string())?.memory_usage_bytes;
        if i64::try_from(usage).is_ok_and(|usage| usage > wanted) {
            return Err(format!("attempting to set container {:?} memory limit ({wanted}) below current usage ({usage})", container.spec.name));
        }
        Ok(())
    }
}

/// What a running container has, in the API's terms: what was granted, but for what it has not yet been given.
#[must_use]
pub fn shown_resources(pod: &Pod, granted: &Container, has: &ResourceLimits) -> ResourceRequirements {
    let mut shown = granted.resources.clone().unwrap_or_default();
    let wanted = resources::container_limits(pod, granted);
    let mut set = |list: fn(&mut ResourceRequirements) -> &mut Option<BTreeMap<String, Quantity>>, name: &str, amount: Option<Amount>| {
        let list = list(&mut shown);
        match amount {
            Some(amount) => drop(list.get_or_insert_default().insert(name.to_owned(), amount.to_quantity())),
            None => drop(list.as_mut().and_then(|list| list.remove(name))),
        }
    };
    if wanted.cpu_quota_microseconds != has.cpu_quota_microseconds {
        let period = i64::try_from(has.cpu_period_microseconds.unwrap_or(100_000).max(1)).unwrap_or(100_000);
        set(|shown| &mut shown.limits, "cpu", has.cpu_quota_microseconds.map(|quota| Amount::thousandths(quota.saturating_mul(1000) / period)));
    }
    if wanted.cpu_shares != has.cpu_shares {
        // Rounded up, since shares were rounded down.
        let millicores = has.cpu_shares.and_then(|shares| i64::try_from(shares.saturating_mul(1000).div_ceil(1024)).ok());
        set(|shown| &mut shown.requests, "cpu", millicores.map(Amount::thousandths));
    }
    if wanted.memory_bytes != has.memory_bytes {
        set(|shown| &mut shown.limits, "memory", has.memory_bytes.map(Amount::units));
    }
    if wanted.memory_request_bytes != has.memory_request_bytes && has.memory_request_bytes.is_some() {
        set(|shown| &mut shown.requests, "memory", has.memory_request_bytes.map(Amount::units));
    }
    shown
}

/// What an event about a resize tells: what the containers get, of which generation, and what went wrong.
#[must_use]
pub fn details(pod: &Pod, error: Option<&str>) -> String {
    let list = |role: Role| {
        let of_role = containers(pod).filter(|(known, _)| *known == role);
        of_role.map(|(_, container)| json!({ "name": container.name, "resources": container.resources })).collect::<Vec<_>>()
    };
    let mut told = serde_json::Map::new();
    let sidecars = list(Role::Sidecar);
    if !sidecars.is_empty() {
        told.insert("initContainers".to_owned(), json!(sidecars));
    }
    told.insert("containers".to_owned(), json!(list(Role::Main)));
    told.insert("generation".to_owned(), json!(pod.metadata.generation));
    if let Some(error) = error {
        told.insert("error".to_owned(), json!(error));
    }
    serde_json::Value::Object(told).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::plan::tests::status;

    fn pod(resources: Value, policy: Value) -> Pod {
        let container = json!({ "name": "c", "resources": resources, "resizePolicy": policy });
        serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": { "containers": [container] } })).unwrap()
    }

    fn amounts(cpu: &str, memory: &str) -> Value {
        json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": { "cpu": cpu, "memory": memory } })
    }

    /// What changes from one grant to another for a container that runs with the first.
    fn changed(from: Value, to: Value, policy: Value) -> Changes {
        let (before, after) = (pod(from, policy.clone()), pod(to, policy));
        let sandbox = SandboxId("s1".to_owned());
        let limits = resources::pod_limits(&before);
        let mut running = status("s1", "c", 0, ContainerState::Running { started_at: jiff::Timestamp::UNIX_EPOCH, pid: 1 });
        running.spec.resources = resources::container_limits(&before, &before.spec.as_ref().unwrap().containers[0]);
        changes(&after, Some((&sandbox, &limits)), &[running])
    }

    #[test]
    fn nothing_is_left_where_a_container_has_what_was_granted() {
        assert!(changed(amounts("1", "1Gi"), amounts("1", "1Gi"), json!([])).is_empty());
    }

    #[test]
    fn limits_change_in_place_unless_the_policy_of_that_resource_asks_for_a_restart() {
        let policy = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }, { "resourceName": "cpu", "restartPolicy": "NotRequired" }]);
        let changes = changed(amounts("1", "1Gi"), amounts("2", "1Gi"), policy.clone());
        assert_eq!((changes.containers.len(), changes.restarts.len(), changes.sandbox_grows), (1, 0, true));
        assert_eq!(changes.containers[0].1.cpu_quota_microseconds, Some(200_000));
        let changes = changed(amounts("1", "1Gi"), amounts("1", "2Gi"), policy.clone());
        assert_eq!((changes.containers.len(), changes.restarts.len()), (0, 1));
        // The pod keeps its room until the container has restarted.
        let changes = changed(amounts("1", "2Gi"), amounts("1", "1Gi"), policy);
        assert_eq!((changes.sandbox, changes.sandbox_grows, changes.restarts.len()), (None, false, 1));
    }

    #[test]
    fn a_pod_that_shrinks_is_taken_in() {
        let changes = changed(amounts("2", "2Gi"), amounts("1", "1Gi"), json!([]));
        assert!(!changes.sandbox_grows);
        assert_eq!(changes.sandbox.unwrap().memory_bytes, Some(1 << 30));
    }

    #[test]
    fn the_status_shows_what_a_container_has_not_what_it_will_have() {
        let of_first = |pod: &Pod| resources::container_limits(pod, &pod.spec.as_ref().unwrap().containers[0]);
        let before = of_first(&pod(amounts("500m", "1Gi"), json!([])));
        let after = pod(amounts("1", "2Gi"), json!([]));
        let granted = &after.spec.as_ref().unwrap().containers[0];
        let shown = shown_resources(&after, granted, &before);
        let of = |list: Option<BTreeMap<String, Quantity>>| list.unwrap().into_values().map(|amount| amount.0).collect::<Vec<_>>();
        assert_eq!((of(shown.requests), of(shown.limits)), (vec!["500m".to_owned(), "1073741824".to_owned()], vec!["500m".to_owned(), "1073741824".to_owned()]));
        assert_eq!(Some(shown_resources(&after, granted, &of_first(&after))), granted.resources);
    }
}
