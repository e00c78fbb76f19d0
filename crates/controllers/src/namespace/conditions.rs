//! What holds up a namespace that is to go, as conditions.
//! Source of reasons and messages: Kubernetes 1.36, `namespace/deletion/status_condition_utils.go`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Remaining;

/// The status of a namespace in which this is left.
pub(super) fn status(namespace: &Namespace, remaining: &Remaining, now: Timestamp) -> NamespaceStatus {
    let list = |counts: &BTreeMap<String, usize>, link: &str| {
        counts.iter().map(|(name, count)| format!("{name} {link} {count} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions = old.clone();
    let mut set = |kind: &str, trouble: Option<(&str, String)>, fine: (&str, &str)| {
        let (status, (reason, message)) = match trouble {
            Some(trouble) => ("True", trouble),
            None => ("False", (fine.0, fine.1.to_owned())),
        };
        let before = old.iter().find(|condition| condition.type_ == kind);
        let since = before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(now))),
        });
    };
    let undiscovered = remaining.discovery_failure.clone().map(|why| ("DiscoveryFailed", why));
    set("NamespaceDeletionDiscoveryFailure", undiscovered, ("ResourcesDiscovered", "All resources successfully discovered"));
    set("NamespaceDeletionGroupVersionParsingFailure", None, ("ParsedGroupVersions", "All legacy kube types successfully parsed"));
    let mut failures = remaining.failures.clone();
    failures.sort();
    let failed = || format!("Failed to delete all resource types, {} remaining: {}", failures.len(), failures.join(", "));
    set(
        "NamespaceDeletionContentFailure",
        (!failures.is_empty()).then(|| ("ContentDeletionFailed", failed())),
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    );
    let objects = &remaining.objects;
    set(
        "NamespaceContentRemaining",
        (!objects.is_empty()).then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {}", list(objects, "has")))),
        ("ContentRemoved", "All content successfully removed"),
    );
    let finalizers = &remaining.finalizers;
    let held = || format!("Some content in the namespace has finalizers remaining: {}", list(finalizers, "in"));
    set(
        "NamespaceFinalizersRemaining",
        (!finalizers.is_empty()).then(|| ("SomeFinalizersRemain", held())),
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    );
    NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) }
}
