//! What a failed pod means to its Job, by the rules the user gave.

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::pods;

/// What to do about a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It counts as a failure.
    Counts,
    /// It does not count.
    Ignored,
    /// Its index has failed for good.
    FailsIndex,
    /// The whole Job has failed, for this reason.
    FailsJob(String),
}

/// The meaning of a pod's failure: that of the first rule that matches.
/// Source: Kubernetes 1.36, `matchPodFailurePolicy`.
pub(super) fn meaning(job: &Job, pod: &Pod) -> Meaning {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    let Some(policy) = policy.filter(|_| pods::phase(pod) == "Failed") else { return Meaning::Counts };
    let per_index = job.spec.as_ref().is_some_and(|spec| spec.backoff_limit_per_index.is_some());
    for (number, rule) in policy.rules.iter().enumerate() {
        let Some(what) = matching(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Meaning::Ignored,
            "FailIndex" if per_index => Meaning::FailsIndex,
            "FailJob" => Meaning::FailsJob(format!("{what} matching FailJob rule at index {number}")),
            _ => Meaning::Counts,
        };
    }
    Meaning::Counts
}

/// What of a pod matches a rule, in words.
fn matching(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(requirement) = &rule.on_exit_codes {
        let status = pod.status.as_ref()?;
        let statuses = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let (container, code) = statuses.into_iter().find_map(|status| Some((&status.name, exit_code(requirement, status)?)))?;
        return Some(format!("Container {container} for pod {namespace}/{name} failed with exit code {code}"));
    }
    let conditions = rule.on_pod_conditions.iter().flatten();
    let found = conditions.into_iter().find(|pattern| {
        let status = pattern.status.as_deref().unwrap_or("True");
        pods::condition(pod, &pattern.type_).is_some_and(|condition| condition.status == status)
    })?;
    Some(format!("Pod {namespace}/{name} has condition {}", found.type_))
}

/// The exit code of a container, if the requirement wants it. Zero is no failure, so it never matches.
fn exit_code(requirement: &PodFailurePolicyOnExitCodesRequirement, status: &ContainerStatus) -> Option<i32> {
    if requirement.container_name.as_ref().is_some_and(|name| *name != status.name) {
        return None;
    }
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = requirement.values.contains(&code);
    let wanted = match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (code != 0 && wanted).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(rules: serde_json::Value, expected: &str) {
        let job: Job = serde_json::from_value(json!({ "spec": { "podFailurePolicy": { "rules": rules }, "backoffLimitPerIndex": 1, "template": {} } })).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "x" },
            "status": {
                "phase": "Failed",
                "conditions": [{ "type": "DisruptionTarget", "status": "True" }],
                "containerStatuses": [{ "name": "main", "state": { "terminated": { "exitCode": 42 } }, "image": "", "imageID": "", "ready": false, "restartCount": 0 }],
            },
        }))
        .unwrap();
        assert_eq!(format!("{:?}", meaning(&job, &pod)), expected);
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let codes = |action: &str, operator: &str, values: &[i32]| json!({ "action": action, "onExitCodes": { "operator": operator, "values": values } });
        let disrupted = json!({ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] });
        check(json!([disrupted.clone()]), "Ignored");
        check(json!([codes("FailJob", "In", &[42]), disrupted.clone()]), r#"FailsJob("Container main for pod x/p failed with exit code 42 matching FailJob rule at index 0")"#);
        check(json!([codes("FailJob", "NotIn", &[42])]), "Counts");
        check(json!([codes("FailIndex", "NotIn", &[1])]), "FailsIndex");
        check(json!([codes("Count", "In", &[42]), disrupted]), "Counts");
        check(json!([{ "action": "Ignore", "onExitCodes": { "containerName": "other", "operator": "In", "values": [42] } }]), "Counts");
        check(json!([]), "Counts");
    }
}
