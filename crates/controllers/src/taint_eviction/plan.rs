//! When a pod has to leave its node.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::taints::{self, NO_EXECUTE, tolerates};

/// What becomes of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// It does not tolerate a taint.
    Goes,
    /// It tolerates all taints, but not for ever.
    GoesIn(Duration),
}

/// Compares a node's `NoExecute` taints with a pod's tolerations. Each taint is tolerated for as long as the first toleration of it
/// says, counted from when both were there; the pod goes when the first of these times is over. `seen_for` says for how long a taint
/// has been seen, as few of those who set one note the time.
/// Source: Kubernetes 1.36, `processPodOnNode`, `GetMatchingTolerations`.
pub(super) fn fate(node: &Node, pod: &Pod, seen_for: impl Fn(&Taint) -> Duration, now: Timestamp) -> Fate {
    let age = |time: Option<&Time>| time.map(|time| Duration::try_from(now.duration_since(time.0)).unwrap_or_default());
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).or(pod.metadata.creation_timestamp.as_ref());
    let pod_age = age(started).unwrap_or(Duration::MAX);
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut fate = Fate::Stays;
    for taint in taints::of(node).iter().filter(|taint| taint.effect == NO_EXECUTE) {
        let Some(first) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else { return Fate::Goes };
        let Some(seconds) = first.toleration_seconds else { continue };
        let together_for = seen_for(taint).max(age(taint.time_added.as_ref()).unwrap_or_default()).min(pod_age);
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(together_for);
        fate = match fate {
            Fate::GoesIn(earlier) => Fate::GoesIn(earlier.min(left)),
            _ => Fate::GoesIn(left),
        };
    }
    fate
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, Toleration};

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
        assert_eq!(fate(&node, &pod, |_| Duration::ZERO, Timestamp::from_second(130).unwrap()), expected);
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let in_seconds = |seconds| Fate::GoesIn(Duration::from_secs(seconds));
        check(&[], &[], Fate::Stays);
        check(&["a"], &[], Fate::Goes);
        check(&["a"], &[("a", None)], Fate::Stays);
        check(&["a"], &[("a", Some(300))], in_seconds(270));
        check(&["a"], &[("a", Some(20))], in_seconds(0));
        check(&["a"], &[("a", Some(-1))], in_seconds(0));
        check(&["a", "b"], &[("a", Some(300)), ("b", Some(60))], in_seconds(30));
        check(&["a", "b"], &[("a", Some(300))], Fate::Goes);
        // The first toleration of a taint counts, however long it is.
        check(&["a"], &[("a", None), ("a", Some(60))], Fate::Stays);
        check(&["a"], &[("a", Some(300)), ("a", Some(60))], in_seconds(270));
    }

    #[test]
    fn a_taint_without_a_time_counts_from_when_it_was_seen_and_the_pod_was_there() {
        let taint = Taint { key: "a".to_owned(), effect: NO_EXECUTE.to_owned(), ..Taint::default() };
        let node = Node { spec: Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() }), ..Node::default() };
        let toleration = Toleration { operator: Some("Exists".to_owned()), toleration_seconds: Some(60), ..Toleration::default() };
        let mut pod = Pod::default();
        pod.spec.get_or_insert_default().tolerations = Some(vec![toleration]);
        let left = |pod: &Pod| fate(&node, pod, |_| Duration::from_secs(40), Timestamp::from_second(130).unwrap());
        assert_eq!(left(&pod), Fate::GoesIn(Duration::from_secs(20)));
        pod.status.get_or_insert_default().start_time = Some(crate::pods::tests::second(120));
        assert_eq!(left(&pod), Fate::GoesIn(Duration::from_secs(50)));
    }
}
