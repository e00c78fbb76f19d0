//! Which pods nobody else will remove.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::QUARANTINE;
use crate::{pods, taints};

/// What becomes of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Its node is missing, but not for so long yet.
    KeepUntilMissingFor(Duration),
    RemoveOfMissingNode,
    Remove,
}

/// Decides. `missing_for` says how long the pod's node has been missing.
pub(super) fn verdict(pod: &Pod, node: Option<&Node>, missing_for: Option<Duration>) -> Verdict {
    match missing_for {
        Some(time) if time < QUARANTINE => return Verdict::KeepUntilMissingFor(QUARANTINE),
        Some(_) => return Verdict::RemoveOfMissingNode,
        None => {}
    }
    let nobody_else_will = pods::is_terminating(pod) && (pods::node_name(pod).is_empty() || node.is_some_and(is_out_of_service));
    if nobody_else_will { Verdict::Remove } else { Verdict::Keep }
}

/// Whether somebody declared that a node is off for good, though it is still listed.
pub(super) fn is_out_of_service(node: &Node) -> bool {
    let ready = node.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = ready.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    !ready && taints::of(node).iter().any(|taint| taint.key == taints::OUT_OF_SERVICE)
}

/// The oldest of some pods; evicted ones before all others, which their controllers made and may still want to see.
/// Source: Kubernetes 1.36, `byEvictionAndCreationTimestamp`.
pub(super) fn oldest(mut pods: Vec<Arc<Pod>>, count: usize) -> Vec<Arc<Pod>> {
    let is_evicted = |pod: &Pod| pods::phase(pod) == "Failed" && pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    pods.sort_by_key(|pod| (!is_evicted(pod), pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.metadata.name.clone()));
    pods.truncate(count);
    pods
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::{pod, second};

    fn leaving(node: &str) -> Pod {
        let mut pod = (*pod("a", "Pending", node, None)).clone();
        pod.metadata.deletion_timestamp = Some(second(1));
        pod
    }

    #[test]
    fn pods_without_a_living_node_are_removed() {
        let running = pod("a", "Running", "n", Some(1));
        let seconds = Duration::from_secs;
        assert_eq!(verdict(&running, None, None), Verdict::Keep);
        assert_eq!(verdict(&running, None, Some(seconds(39))), Verdict::KeepUntilMissingFor(QUARANTINE));
        assert_eq!(verdict(&running, None, Some(seconds(40))), Verdict::RemoveOfMissingNode);
        assert_eq!(verdict(&leaving(""), None, None), Verdict::Remove);
        assert_eq!(verdict(&leaving("n"), Some(&Node::default()), None), Verdict::Keep);
    }

    #[test]
    fn evicted_pods_go_before_others_that_ended() {
        let ended = pod("a", "Succeeded", "n", None);
        assert_eq!(verdict(&ended, None, None), Verdict::Keep);
        let mut evicted = (*pod("z", "Failed", "n", None)).clone();
        evicted.metadata.creation_timestamp = Some(second(9));
        evicted.status.as_mut().unwrap().reason = Some("Evicted".to_owned());
        let first = oldest(vec![pod("b", "Failed", "n", None), ended, Arc::new(evicted)], 2);
        let names: Vec<_> = first.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        assert_eq!(names, ["z", "a"]);
    }
}
