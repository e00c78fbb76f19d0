//! What a set reports of its pods.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::owner::ReplicaOwner;
use crate::pods;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Pods could not be created or removed.
#[derive(Debug)]
pub(super) struct Failure {
    pub reason: &'static str,
    pub error: client::Error,
}

/// The status of a set with these pods. `terminating` counts those that are asked to go and have not ended.
pub(super) fn status_of<K: ReplicaOwner>(owner: &K, active: &[Arc<Pod>], terminating: usize, failure: Option<&Failure>, now: Timestamp) -> ReplicaSetStatus {
    let old = owner.status();
    let template_labels = owner.template().and_then(|template| template.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let fully_labeled = |pod: &Arc<Pod>| {
        let labels = pod.metadata.labels.as_ref();
        template_labels.iter().all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
    };
    let count = |wanted: &dyn Fn(&Arc<Pod>) -> bool| active.iter().filter(|pod| wanted(pod)).count() as i32;
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: some_if_any(count(&fully_labeled)),
        ready_replicas: some_if_any(count(&|pod| pods::is_ready(pod))),
        available_replicas: some_if_any(count(&|pod| pods::is_available(pod, owner.min_ready_seconds(), now))),
        terminating_replicas: K::COUNTS_TERMINATING.then_some(terminating as i32),
        observed_generation: owner.meta().generation,
        conditions: conditions(old.conditions.unwrap_or_default(), failure, now),
    }
}

/// Counts that are zero are left out, as upstream's encoding does.
fn some_if_any(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn conditions(mut conditions: Vec<ReplicaSetCondition>, failure: Option<&Failure>, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    match failure {
        // The first failure is kept until it is over, so that its time stays true.
        Some(_) if conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE) => {}
        Some(failure) => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(crate::api_message(&failure.error)),
            last_transition_time: Some(Time(now)),
        }),
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};

    #[test]
    fn ready_and_available_pods_are_counted_apart() {
        let mut set = ReplicaSet::default();
        set.metadata.generation = Some(3);
        set.spec = Some(ReplicaSetSpec { min_ready_seconds: Some(10), ..ReplicaSetSpec::default() });
        let pods = [pod("a", "Running", "n", Some(1)), pod("b", "Running", "n", Some(95)), pod("c", "Running", "n", None)];
        let status = status_of(&set, &pods, 1, None, Timestamp::from_second(100).unwrap());
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(2), Some(1)));
        assert_eq!((status.observed_generation, status.terminating_replicas), (Some(3), Some(1)));
    }

    #[test]
    fn a_failure_is_reported_once_and_withdrawn_when_it_is_over() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let failure = || Failure { reason: "FailedCreate", error: client::Error::Service("away".into()) };
        let first = conditions(Vec::new(), Some(&failure()), at(1)).unwrap();
        let second = conditions(first.clone(), Some(&failure()), at(2)).unwrap();
        assert_eq!(first, second);
        assert_eq!(conditions(second, None, at(3)), None);
    }
}
