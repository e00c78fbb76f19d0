//! Whether a container that ended is started again.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Role, spec};

/// Whether a container that ended with this code is started again. A container's own policy and rules go before the pod's.
/// Source: Kubernetes 1.36, `pkg/kubelet/container`, `ShouldContainerBeRestarted`, and KEP-5307.
#[must_use]
pub fn restarts_after(pod: &Pod, role: Role, container: &Container, exit_code: i32) -> bool {
    match role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::Main => {}
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        if rule.action == "Restart" && listed == (codes.operator == "In") {
            return true;
        }
    }
    let pod_policy = spec(pod).restart_policy.as_deref().unwrap_or("Always");
    match (container.restart_policy.as_deref().unwrap_or(pod_policy), role) {
        ("Never", _) => false,
        ("OnFailure", _) | (_, Role::Init) => exit_code != 0,
        _ => true,
    }
}
