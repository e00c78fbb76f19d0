//! The taints that follow from a node's conditions. Taints that somebody else set stay.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use crate::taints::{self, NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, UNSCHEDULABLE};

/// Condition, the status of it that is bad, and the taint it leads to. Source: Kubernetes 1.36, `nodeConditionToTaintKeyStatusMap`.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// Whether the pods of a node are being driven away for what its conditions say.
pub(super) fn drives_away(node: &Node) -> bool {
    taints::of(node).iter().any(executes)
}

fn executes(taint: &Taint) -> bool {
    taint.effect == NO_EXECUTE && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str())
}

/// The taints a node should have; `None` when it has them. With `drive_away`, pods are driven away (`NoExecute`) where it is not well.
pub(super) fn wanted(node: &Node, drive_away: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let mut needed: Vec<(&str, &str)> = Vec::new();
    for (kind, bad, taint) in BY_CONDITION {
        if conditions::get(node, kind).is_some_and(|condition| condition.status == bad) {
            needed.push((taint, NO_SCHEDULE));
            if kind == "Ready" && drive_away {
                needed.push((taint, NO_EXECUTE));
            }
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        needed.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let ours = |taint: &Taint| {
        let known = BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        known && taint.effect == NO_SCHEDULE || executes(taint)
    };
    let before = taints::of(node);
    let mut after: Vec<Taint> = before.iter().filter(|taint| !ours(taint) || needed.contains(&(&taint.key, &taint.effect))).cloned().collect();
    for (key, effect) in needed {
        if !after.iter().any(|taint| taint.key == key && taint.effect == effect) {
            after.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added: Some(Time(now)) });
        }
    }
    (after != before).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, NodeStatus};

    fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
        let taint = |(key, effect): &(&str, &str)| Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), ..Taint::default() };
        let condition = NodeCondition { type_: "Ready".to_owned(), status: ready.to_owned(), ..NodeCondition::default() };
        Node {
            spec: Some(NodeSpec { taints: Some(taints.iter().map(taint).collect()), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() }),
            ..Node::default()
        }
    }

    #[track_caller]
    fn check(node: &Node, drive_away: bool, expected: Option<&[&str]>) {
        let taints = wanted(node, drive_away, Timestamp::UNIX_EPOCH);
        let texts = taints.map(|taints| taints.iter().map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)).collect::<Vec<_>>());
        assert_eq!(texts.as_deref(), expected.map(|expected| expected.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).as_deref());
    }

    #[test]
    fn taints_follow_readiness_and_leave_others_alone() {
        check(&node("True", &[]), true, None);
        check(&node("True", &[("mine", "NoSchedule"), (NOT_READY, "NoSchedule")]), true, Some(&["mine:NoSchedule"]));
        check(&node("False", &[]), true, Some(&["not-ready:NoSchedule", "not-ready:NoExecute"]));
        check(&node("Unknown", &[(NOT_READY, "NoExecute")]), true, Some(&["unreachable:NoSchedule", "unreachable:NoExecute"]));
    }

    #[test]
    fn a_node_that_says_nothing_of_itself_has_no_taints_for_it() {
        let mut silent = node("True", &[(NOT_READY, "NoSchedule"), ("mine", "NoSchedule")]);
        silent.status = None;
        check(&silent, true, Some(&["mine:NoSchedule"]));
    }

    #[test]
    fn nobody_is_driven_away_where_that_is_not_wanted() {
        check(&node("Unknown", &[]), false, Some(&["unreachable:NoSchedule"]));
        check(&node("Unknown", &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]), false, Some(&["unreachable:NoSchedule"]));
    }

    #[test]
    fn a_cordoned_node_says_so() {
        let mut cordoned = node("True", &[]);
        cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
        check(&cordoned, true, Some(&["unschedulable:NoSchedule"]));
    }
}
