//! Quality of service classes: whose memory is taken first when a node runs short.
//! Source: Kubernetes documentation, "Pod Quality of Service Classes"; scores from `pkg/kubelet/qos/policy.go`.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Role, containers};
use crate::quantity::{Amount, amount_of};

/// A pod's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits for CPU and memory, equal to its requests.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl QosClass {
    /// As in `status.qosClass`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod.
#[must_use]
pub fn qos_class(pod: &Pod) -> QosClass {
    let amount = |list: Option<&std::collections::BTreeMap<_, _>>, name| amount_of(list, name).filter(|amount| !amount.is_zero());
    let mut guaranteed = true;
    let mut any = false;
    let pod_level = super::spec(pod).resources.as_ref();
    let judged: Vec<_> = match pod_level.filter(|resources| resources.requests.is_some() || resources.limits.is_some()) {
        Some(resources) => vec![resources.clone()],
        None => containers(pod)
            .filter(|(role, _)| *role != Role::Ephemeral)
            .map(|(_, container)| container.resources.clone().unwrap_or_default())
            .collect(),
    };
    for resources in &judged {
        for name in ["cpu", "memory"] {
            let limit = amount(resources.limits.as_ref(), name);
            let request = amount(resources.requests.as_ref(), name).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// How readily the kernel kills a container's processes when memory runs out: -997 (last) to 1000 (first).
#[must_use]
pub fn oom_score_adjust(pod: &Pod, container: &Container, memory_capacity_bytes: u64) -> i32 {
    if super::spec(pod).priority.unwrap_or(0) >= 2_000_000_000 {
        return -997;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = container.resources.as_ref().and_then(|resources| amount_of(resources.requests.as_ref(), "memory")).unwrap_or_default();
            let capacity = i64::try_from(memory_capacity_bytes.max(1)).unwrap_or(i64::MAX);
            let share = i128::from(Amount::as_units(request)) * 1000 / i128::from(capacity);
            let score = 1000 - i32::try_from(share).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}
