//! A pod that was said to be going, and then did not go, is said not to be going any more.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey};
use controller::{Outcome, ReconcileError, Reconciler, Trigger};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::pods;

const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// How long a pod may be said to be going. Source: Kubernetes 1.36, `stalePodDisruptionTimeout`.
const PATIENCE: Duration = Duration::from_secs(120);
/// Nodes say so long before the pod really ends. Source: Kubernetes 1.36, `PodReasonTerminationByKubelet`.
const BY_NODE: &str = "TerminationByKubelet";

/// Takes conditions back.
pub(super) struct StaleConditions {
    pub client: client::Client,
    pub pods: Informer<Pod>,
    pub clock: Arc<dyn client::Clock>,
}

/// How long the pod's condition may still stand; `None` where there is nothing to take back.
/// Source: Kubernetes 1.36, `nonTerminatingPodHasStaleDisruptionCondition`.
fn time_left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = pods::condition(pod, DISRUPTION_TARGET).filter(|condition| condition.status == "True" && condition.reason.as_deref() != Some(BY_NODE))?;
    if !pods::is_active(pod) {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(now, |time| time.0);
    Some(PATIENCE.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default()))
}

#[async_trait]
impl Reconciler for StaleConditions {
    fn name(&self) -> &'static str {
        "stale-disruption"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::on(&self.pods, |change| {
            let is_said = |pod: &Pod| pods::condition(pod, DISRUPTION_TARGET).is_some_and(|condition| condition.status == "True");
            let concerns = change.new.as_ref().is_some_and(|pod| is_said(pod) && pods::is_active(pod));
            if concerns { vec![change.key.clone()] } else { Vec::new() }
        })]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let now = self.clock.now();
        let Some(pod) = self.pods.get(key) else { return Ok(Outcome::Settled) };
        let Some(left) = time_left(&pod, now) else { return Ok(Outcome::Settled) };
        if !left.is_zero() {
            return Ok(Outcome::CheckAgainIn(left));
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        let condition = PodCondition { type_: DISRUPTION_TARGET.to_owned(), status: "False".to_owned(), observed_generation: pod.metadata.generation, ..PodCondition::default() };
        pods::add_condition(&api, &pod, condition, None, now).await?;
        Ok(Outcome::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::{pod, second};

    #[test]
    fn only_a_pod_that_stays_is_said_to_stay() {
        let said = |reason: &str| {
            let mut pod = (*pod("a", "Running", "n", Some(1))).clone();
            let condition = PodCondition {
                type_: DISRUPTION_TARGET.to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                last_transition_time: Some(second(100)),
                ..PodCondition::default()
            };
            pod.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
            pod
        };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(time_left(&said("EvictionByEvictionAPI"), at(130)), Some(Duration::from_secs(90)));
        assert_eq!(time_left(&said("EvictionByEvictionAPI"), at(220)), Some(Duration::ZERO));
        assert_eq!(time_left(&said(BY_NODE), at(900)), None);
        assert_eq!(time_left(&pod("b", "Running", "n", None), at(900)), None);
        let mut going = said("EvictionByEvictionAPI");
        going.metadata.deletion_timestamp = Some(second(110));
        assert_eq!(time_left(&going, at(900)), None);
    }
}
