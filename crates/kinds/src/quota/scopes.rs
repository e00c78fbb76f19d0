//! Which pods and claims a quota is about: its scopes and its scope selector.

use api::core::v1::{PersistentVolumeClaim, Pod, PodAffinityTerm, ResourceQuota, ScopedResourceSelectorRequirement};

use crate::core::pod::quality;

/// Whether a quota is about some pods only.
pub fn is_scoped(quota: &ResourceQuota) -> bool {
    quota.spec.as_ref().is_some_and(|spec| {
        let selects = |selector: &api::core::v1::ScopeSelector| selector.match_expressions.as_ref().is_some_and(|list| !list.is_empty());
        spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty()) || spec.scope_selector.as_ref().is_some_and(selects)
    })
}

/// Whether all scopes of a quota match.
fn all_match(quota: &ResourceQuota, matches: impl Fn(&ScopedResourceSelectorRequirement) -> bool) -> bool {
    let Some(spec) = &quota.spec else { return true };
    let by_name = spec.scopes.iter().flatten().all(|scope| {
        let requirement = ScopedResourceSelectorRequirement { scope_name: scope.clone(), operator: "Exists".to_owned(), values: None };
        matches(&requirement)
    });
    let selector = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    by_name && selector.into_iter().all(matches)
}

/// Whether a quota is about a pod.
pub fn selects(quota: &ResourceQuota, pod: &Pod) -> bool {
    all_match(quota, |requirement| matches(requirement, pod))
}

/// Whether a quota is about a claim: of scopes, only that of the class of its volume's attributes is one of claims.
pub fn selects_claim(quota: &ResourceQuota, claim: &PersistentVolumeClaim) -> bool {
    all_match(quota, |requirement| requirement.scope_name == "VolumeAttributesClass" && attributes_match(requirement, claim))
}

/// A claim is of every class that it asks for, has, or is being given.
/// Source: Kubernetes 1.36, `pvcMatchesScopeFunc`.
pub fn attributes_match(requirement: &ScopedResourceSelectorRequirement, claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let has = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let given = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref());
    let classes: Vec<&str> = [asked, has, given].into_iter().flatten().filter(|class| !class.is_empty()).collect();
    let is_listed = |class: &&str| requirement.values.iter().flatten().any(|value| value == class);
    match requirement.operator.as_str() {
        "Exists" => !classes.is_empty(),
        "DoesNotExist" => classes.is_empty(),
        "In" => classes.iter().any(is_listed),
        "NotIn" => classes.is_empty() || classes.iter().any(|class| !is_listed(class)),
        _ => false,
    }
}

/// Whether a pod is of a scope.
pub fn matches(requirement: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let is_terminating = spec.active_deadline_seconds.is_some();
    let is_best_effort = || quality::class_of(spec) == "BestEffort";
    match requirement.scope_name.as_str() {
        "Terminating" => is_terminating,
        "NotTerminating" => !is_terminating,
        "BestEffort" => is_best_effort(),
        "NotBestEffort" => !is_best_effort(),
        "CrossNamespacePodAffinity" => reaches_other_namespaces(pod),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().filter(|class| !class.is_empty());
            let listed = class.is_some_and(|class| requirement.values.iter().flatten().any(|value| value == class));
            match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => class.is_some(),
                "DoesNotExist" => class.is_none(),
                _ => false,
            }
        }
        _ => false,
    }
}

fn reaches_other_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return false };
    let affine = affinity.pod_affinity.iter().flat_map(|affinity| {
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().map(|term| &term.pod_affinity_term);
        affinity.required_during_scheduling_ignored_during_execution.iter().flatten().chain(preferred)
    });
    let averse = affinity.pod_anti_affinity.iter().flat_map(|affinity| {
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().map(|term| &term.pod_affinity_term);
        affinity.required_during_scheduling_ignored_during_execution.iter().flatten().chain(preferred)
    });
    let reaches = |term: &PodAffinityTerm| term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some();
    affine.chain(averse).any(reaches)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(quota: Value, pod: Value, expected: bool) {
        let quota: ResourceQuota = serde_json::from_value(json!({"spec": quota})).unwrap();
        let pod: Pod = serde_json::from_value(json!({"spec": pod})).unwrap();
        assert_eq!(selects(&quota, &pod), expected, "{quota:?}");
    }

    #[test]
    fn claims_are_told_apart_by_the_class_of_their_attributes() {
        let about = |selector: Value, claim: Value| {
            let quota: ResourceQuota = serde_json::from_value(json!({"spec": {"scopeSelector": {"matchExpressions": [selector]}}})).unwrap();
            selects_claim(&quota, &serde_json::from_value(claim).unwrap())
        };
        let gold = || json!({"spec": {"volumeAttributesClassName": "gold"}, "status": {"currentVolumeAttributesClassName": "silver"}});
        let of = |operator: &str, values: &[&str]| json!({"scopeName": "VolumeAttributesClass", "operator": operator, "values": values});
        assert!(about(of("In", &["gold"]), gold()) && about(of("In", &["silver"]), gold()) && !about(of("In", &["lead"]), gold()));
        assert!(about(of("Exists", &[]), gold()) && !about(of("Exists", &[]), json!({})));
        assert!(about(of("NotIn", &["gold"]), json!({})) && about(of("DoesNotExist", &[]), json!({})));
        assert!(!about(json!({"scopeName": "BestEffort", "operator": "Exists"}), gold()), "that is a scope of pods");
    }

    #[test]
    fn scopes_leave_pods_out() {
        let idle = || json!({"containers": [{"name": "a"}]});
        let busy = || json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}], "activeDeadlineSeconds": 5, "priorityClassName": "high"});
        check(json!({"scopes": ["BestEffort"]}), idle(), true);
        check(json!({"scopes": ["BestEffort"]}), busy(), false);
        check(json!({"scopes": ["Terminating"]}), busy(), true);
        check(json!({"scopes": ["NotTerminating", "NotBestEffort"]}), busy(), false);
        let high = json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        check(high.clone(), busy(), true);
        check(high, idle(), false);
        let elsewhere = json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a", "namespaces": ["b"]}]});
        check(json!({"scopes": ["CrossNamespacePodAffinity"]}), json!({"containers": [], "affinity": {"podAffinity": elsewhere}}), true);
    }
}
