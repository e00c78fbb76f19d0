//! When a pod has to leave its node.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Toleration};

use crate::taints::{self, NO_EXECUTE, tolerates};

/// What becomes of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    GoesIn(Duration),
}

/// Compares a node's `NoExecute` taints with a pod's tolerations. Each taint is tolerated for the longest time that any toleration of it
/// gives, counted from when it was set; the pod goes when the first of them is over.
/// Source: Kubernetes 1.36, `processPodOnNode`.
pub(super) fn fate(node: &Node, pod: &Pod, now: Timestamp) -> Fate {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut fate = Fate::Stays;
    for taint in taints::of(node).iter().filter(|taint| taint.effect == NO_EXECUTE) {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Fate::GoesIn(Duration::ZERO);
        }
        // Of several tolerations the shortest counts; those without a time do not limit.
        let Some(seconds) = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min() else { continue };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let tainted_for = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(tainted_for);
        fate = match fate {
            Fate::GoesIn(earlier) => Fate::GoesIn(earlier.min(left)),
            Fate::Stays => Fate::GoesIn(left),
        };
    }
    fate
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};

    fn check(taints: &[&str], tolerations: &[(&str, Option<i64>)], expected: Fate) {
        let taint = |key: &&str| Taint { key: (*key).to_owned(), effect: NO_EXECUTE.to_owned(), time_added: Some(crate::pods::tests::second(100)), value: None };
        let node = Node { spec: Some(NodeSpec { taints: Some(taints.iter().map(taint).collect()), ..NodeSpec::default() }), ..Node::default() };
        let toleration = |(key, seconds): &(&str, Option<i64>)| Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            toleration_seconds: *seconds,
            ..Toleration::default()
        };
        let mut pod = Pod::default();
        pod.spec.get_or_insert_default().tolerations = Some(tolerations.iter().map(toleration).collect());
        assert_eq!(fate(&node, &pod, Timestamp::from_second(130).unwrap()), expected);
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let in_seconds = |seconds| Fate::GoesIn(Duration::from_secs(seconds));
        check(&[], &[], Fate::Stays);
        check(&["a"], &[], in_seconds(0));
        check(&["a"], &[("a", None)], Fate::Stays);
        check(&["a"], &[("a", Some(300))], in_seconds(270));
        check(&["a"], &[("a", Some(20))], in_seconds(0));
        check(&["a"], &[("a", Some(-1))], in_seconds(0));
        check(&["a", "b"], &[("a", Some(300)), ("b", Some(60))], in_seconds(30));
        check(&["a", "b"], &[("a", Some(300))], in_seconds(0));
    }
}
