//! Whether a container that ended is started again, and whether all others are with it.
//!
//! A rule of a container may ask that all containers of its pod start anew, init containers first, in the same sandbox. Which round of the
//! pod a container belongs to is written into its record, so that it holds over restarts of the agent and of the clock: a container of an
//! earlier round is stopped, and the next one of its name begins as if there had been none.

use container_runtime::{ContainerState, ContainerStatus};
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use super::{Role, annotations, containers, find_container, plan::newest, spec};

/// The action of a rule that starts all containers anew. Source: Kubernetes 1.36, KEP-5532.
const RESTART_ALL: &str = "RestartAllContainers";

/// The first rule of a container that its exit code meets.
fn rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| codes.values.iter().flatten().any(|code| *code == exit_code) == (codes.operator == "In"))
    })
}

/// Whether a container that ended with this code is started again. A container's own policy and rules go before the pod's.
/// Source: Kubernetes 1.36, `pkg/kubelet/container`, `ShouldContainerBeRestarted`, and KEP-5307.
#[must_use]
pub fn restarts_after(pod: &Pod, role: Role, container: &Container, exit_code: i32) -> bool {
    match role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::Main => {}
    }
    if rule(container, exit_code).is_some_and(|rule| rule.action == "Restart") {
        return true;
    }
    let pod_policy = spec(pod).restart_policy.as_deref().unwrap_or("Always");
    match (container.restart_policy.as_deref().unwrap_or(pod_policy), role) {
        ("Never", _) => false,
        ("OnFailure", _) | (_, Role::Init) => exit_code != 0,
        _ => true,
    }
}

/// Whether a container that ended with this code has all containers of its pod started anew.
#[must_use]
pub fn restarts_all(container: &Container, exit_code: i32) -> bool {
    rule(container, exit_code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Whether some rule of a pod may have all its containers started anew.
#[must_use]
pub fn could_restart_all(pod: &Pod) -> bool {
    containers(pod).any(|(_, container)| container.restart_policy_rules.iter().flatten().any(|rule| rule.action == RESTART_ALL))
}

/// How often all containers were started anew before this one was made.
#[must_use]
pub fn round_of(container: &ContainerStatus) -> u32 {
    container.spec.annotations.get(annotations::ROUND).and_then(|round| round.parse().ok()).unwrap_or(0)
}

/// How often all containers of a pod were to be started anew.
#[must_use]
pub fn round(pod: &Pod, observed: &[ContainerStatus]) -> u32 {
    if !could_restart_all(pod) {
        return 0;
    }
    let after = |container: &ContainerStatus| {
        let asks = match (&container.state, find_container(pod, &container.spec.name)) {
            (ContainerState::Exited { exit, .. }, Some((role, spec))) => role != Role::Ephemeral && restarts_all(&spec, exit.code),
            _ => false,
        };
        round_of(container).saturating_add(u32::from(asks))
    };
    observed.iter().map(after).max().unwrap_or(0)
}

/// Whether all containers are to be started anew, and none is yet.
#[must_use]
pub fn is_restarting_all(pod: &Pod, observed: &[ContainerStatus]) -> bool {
    let round = round(pod, observed);
    let lasting = containers(pod).filter(|(role, _)| *role != Role::Ephemeral);
    round > 0 && lasting.filter_map(|(_, container)| newest(observed, &container.name)).all(|newest| round_of(newest) < round)
}
