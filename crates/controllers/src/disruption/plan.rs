//! Counts the healthy pods of a budget and how many of them may go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::pods;

/// A pod that was let go but is not going counts as healthy again after this time. Source: Kubernetes 1.36, `DeletionTimeout`.
const LET_GO: Duration = Duration::from_secs(120);
const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// The status, and when a pod that was let go has to be looked at again. `expected` is how many pods there should be and how many have to
/// stay, or why that is not known.
/// Source: Kubernetes 1.36, `trySync`.
pub(super) fn plan(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], expected: Result<(i32, i32), String>, now: Timestamp) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let old = budget.status.clone().unwrap_or_default();
    let generation = budget.metadata.generation;
    let (expected, desired) = match expected {
        Ok(numbers) => numbers,
        // Nothing may go while the number is not known.
        Err(problem) => {
            let conditions = condition(&old, "False", "SyncFailed", problem, old.observed_generation, now);
            return (PodDisruptionBudgetStatus { disruptions_allowed: Some(0), conditions, ..old }, None);
        }
    };
    let mut disrupted: BTreeMap<String, Time> = BTreeMap::new();
    let mut check_after: Option<Duration> = None;
    let mut healthy = 0;
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pods::is_terminating(pod) {
            continue;
        }
        if let Some(since) = old.disrupted_pods.as_ref().and_then(|disrupted| disrupted.get(&name)) {
            let waited = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
            if waited < LET_GO {
                let wait = LET_GO - waited;
                check_after = Some(check_after.map_or(wait, |other| other.min(wait)));
                disrupted.insert(name, since.clone());
                continue;
            }
        }
        if pods::is_ready(pod) {
            healthy += 1;
        }
    }
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|disrupted| !disrupted.is_empty()),
        observed_generation: generation,
        conditions: condition(&old, status, reason, String::new(), generation, now),
    };
    (status, check_after)
}

/// Pods that were let go so long ago that they count again.
pub(super) fn not_gone<'a>(budget: &PodDisruptionBudget, pods: &'a [Arc<Pod>], now: Timestamp) -> Vec<&'a Arc<Pod>> {
    let Some(disrupted) = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref()) else { return Vec::new() };
    let is_overdue = |pod: &&Arc<Pod>| {
        let since = disrupted.get(pod.metadata.name.as_deref().unwrap_or_default());
        !pods::is_terminating(pod) && since.is_some_and(|since| Duration::try_from(now.duration_since(since.0)).is_ok_and(|waited| waited >= LET_GO))
    };
    pods.iter().filter(is_overdue).collect()
}

fn condition(old: &PodDisruptionBudgetStatus, status: &str, reason: &str, message: String, generation: Option<i64>, now: Timestamp) -> Option<Vec<Condition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let place = conditions.iter().position(|condition| condition.type_ == DISRUPTION_ALLOWED);
    let before = place.and_then(|place| conditions.get(place)).filter(|condition| condition.status == status);
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation.filter(|generation| *generation != 0),
        last_transition_time: before.map_or(Time(now), |condition| condition.last_transition_time.clone()),
    };
    match place.and_then(|place| conditions.get_mut(place)) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::{pod, second};

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let make = |number: usize| pod(&format!("p{number}"), "Running", "n", (number < ready).then_some(1));
        (0..ready + unready).map(make).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn as_many_may_go_as_are_healthy_beyond_the_wanted() {
        let allowed = |ready, unready, expected, desired| {
            plan(&PodDisruptionBudget::default(), &pods(ready, unready), Ok((expected, desired)), at(1)).0.disruptions_allowed.unwrap()
        };
        assert_eq!(allowed(3, 0, 3, 2), 1);
        assert_eq!(allowed(2, 1, 3, 2), 0);
        assert_eq!(allowed(1, 2, 3, 2), 0);
        assert_eq!(allowed(3, 0, 0, 0), 0);
    }

    #[test]
    fn a_pod_that_was_let_go_counts_again_when_it_does_not_go() {
        let mut budget = PodDisruptionBudget::default();
        budget.status.get_or_insert_default().disrupted_pods = Some([("p0".to_owned(), second(100))].into());
        let (status, check_after) = plan(&budget, &pods(3, 0), Ok((3, 1)), at(130));
        assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(2), Some(1)));
        assert!(not_gone(&budget, &pods(3, 0), at(130)).is_empty());
        assert_eq!(not_gone(&budget, &pods(3, 0), at(230)).len(), 1);
        assert_eq!(check_after, Some(Duration::from_secs(90)));
        let (status, check_after) = plan(&budget, &pods(3, 0), Ok((3, 1)), at(230));
        assert_eq!((status.current_healthy, status.disrupted_pods, check_after), (Some(3), None, None));
    }

    #[test]
    fn nothing_may_go_while_the_number_is_unknown() {
        let mut budget = PodDisruptionBudget::default();
        budget.metadata.generation = Some(4);
        let old = PodDisruptionBudgetStatus { observed_generation: Some(3), current_healthy: Some(3), disruptions_allowed: Some(1), ..PodDisruptionBudgetStatus::default() };
        budget.status = Some(old);
        let (status, _) = plan(&budget, &pods(3, 0), Err("no controller".to_owned()), at(1));
        let condition = &status.conditions.as_ref().unwrap()[0];
        assert_eq!((status.disruptions_allowed, condition.reason.as_str(), condition.message.as_str()), (Some(0), "SyncFailed", "no controller"));
        // It has not come to an end with this generation.
        assert_eq!((status.observed_generation, condition.observed_generation, status.current_healthy), (Some(3), Some(3), Some(3)));
    }
}
