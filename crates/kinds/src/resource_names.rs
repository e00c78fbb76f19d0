//! Names of resources: which are standard, where each may stand, and how much of it there can be.
//!
//! Source: Kubernetes `pkg/apis/core/helper/helpers.go` and `pkg/apis/core/validation/validation.go`, `validateResourceName`,
//! `validateContainerResourceName`, `ValidateResourceQuotaResourceName`, `ValidateResourceQuantityValue`.

use meta::{FieldError, FieldPath, quantity::Quantity, validation as rules};

const OF_CONTAINERS: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const OF_QUOTAS: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// Counted in whole pieces.
const WHOLE: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// `hugepages-2Mi` and the like.
pub fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether it is a name that quotas know without a prefix.
pub fn is_quota_name(name: &str) -> bool {
    OF_QUOTAS.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-")
}

fn is_standard(name: &str) -> bool {
    is_quota_name(name) || matches!(name, "storage" | "requests.storage") || OF_CONTAINERS.contains(&name)
}

/// Kubernetes' own: without a prefix, or with its prefix.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is one that nodes lend beside those of Kubernetes itself.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && rules::qualified_name_problems(&format!("requests.{name}")).is_empty()
}

/// Whether more of it may be promised than there is.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// Problems of a name that may stand anywhere.
pub fn problems(name: &str, path: &FieldPath) -> Vec<FieldError> {
    let malformed = rules::invalid_each(path, name, rules::qualified_name_problems(name));
    if malformed.is_empty() && !name.contains('/') && !is_standard(name) {
        return vec![FieldError::invalid(path, name, "must be a standard resource type or fully qualified")];
    }
    malformed
}

/// Problems of a name in a container.
pub fn container_problems(name: &str, path: &FieldPath) -> Vec<FieldError> {
    let mut found = problems(name, path);
    if !name.contains('/') {
        if !OF_CONTAINERS.contains(&name) && !is_huge_pages(name) {
            found.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        found.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
    found
}

/// Problems of a name in a quota.
pub fn quota_problems(name: &str, path: &FieldPath) -> Vec<FieldError> {
    let mut found = problems(name, path);
    if !name.contains('/') && !is_quota_name(name) {
        found.push(FieldError::invalid(path, name, "must be a standard resource for quota"));
    }
    found
}

/// Problems of an amount; one that cannot be read was refused before.
pub fn amount_problems(name: &str, amount: &str, path: &FieldPath) -> Vec<FieldError> {
    let Ok(amount) = Quantity::parse(amount) else { return Vec::new() };
    let mut found = Vec::new();
    if amount.signum() < 0 {
        found.push(FieldError::invalid(path, amount.to_string(), "must be greater than or equal to 0"));
    }
    if (WHOLE.contains(&name) || is_extended(name)) && amount.milli_value() % 1000 != 0 {
        found.push(FieldError::invalid(path, amount.to_string(), "must be an integer"));
    }
    found
}
