//! The quality-of-service class of a pod: which pods go first when memory runs out.
//!
//! Source: Kubernetes `pkg/apis/core/helper/qos`.

use api::core::v1::{PodSpec, ResourceRequirements};
use meta::quantity::Quantity;

fn amount(list: Option<&std::collections::BTreeMap<String, api::apimachinery::pkg::api::resource::Quantity>>, name: &str) -> Option<Quantity> {
    list?.get(name).and_then(|text| Quantity::parse(&text.0).ok()).filter(|amount| amount.signum() > 0)
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class_of(spec: &PodSpec) -> &'static str {
    let empty = ResourceRequirements::default();
    let of_pod = spec.resources.as_ref().filter(|resources| resources.requests.is_some() || resources.limits.is_some());
    let all: Vec<&ResourceRequirements> = match of_pod {
        Some(resources) => vec![resources],
        None => spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .map(|container| container.resources.as_ref().unwrap_or(&empty))
            .collect(),
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(resources.requests.as_ref(), name), amount(resources.limits.as_ref(), name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= match (&request, &limit) {
                (Some(request), Some(limit)) => request == limit,
                (None, Some(_)) => true,
                _ => false,
            };
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
