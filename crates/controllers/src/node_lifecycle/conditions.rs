//! What is said of a node that does not report, and of its pods.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pods;

/// The conditions that a node reports. Source: Kubernetes 1.36, `tryUpdateNodeHealth`.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(super) fn get<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The node's conditions with those that it reports set to unknown; `None` when its readiness is already, whatever the others say.
pub(super) fn unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    if get(node, "Ready").is_some_and(|ready| ready.status == "Unknown") {
        return None;
    }
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    Some(conditions)
}

/// A pod's conditions with Ready set to false; `None` when it is not true.
pub(super) fn not_ready(pod: &Pod, now: Timestamp) -> Option<Vec<PodCondition>> {
    if !pods::is_ready(pod) {
        return None;
    }
    let mut conditions = pod.status.as_ref()?.conditions.clone()?;
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = "False".to_owned();
        condition.last_transition_time = Some(Time(now));
        condition.observed_generation = pod.metadata.generation;
    }
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::NodeStatus;

    #[test]
    fn a_silent_nodes_conditions_become_unknown_once() {
        let mut node = Node::default();
        let ready = NodeCondition { type_: "Ready".to_owned(), status: "True".to_owned(), ..NodeCondition::default() };
        node.status = Some(NodeStatus { conditions: Some(vec![ready]), ..NodeStatus::default() });
        let conditions = unknown(&node, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(conditions.len(), 4);
        assert!(conditions.iter().all(|condition| condition.status == "Unknown"));
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        node.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(unknown(&node, Timestamp::MAX), None);
    }

    #[test]
    fn only_ready_pods_are_marked() {
        assert!(not_ready(&pods::tests::pod("a", "Running", "n", Some(1)), Timestamp::UNIX_EPOCH).is_some());
        assert!(not_ready(&pods::tests::pod("a", "Running", "n", None), Timestamp::UNIX_EPOCH).is_none());
    }
}
