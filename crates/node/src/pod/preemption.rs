//! Making room for a critical pod: pods from files of the node, and those of the system's priorities, are not refused for want of
//! resources while others hold some. What else keeps a pod away is in [`super::admission`].
//! Source: Kubernetes 1.36, `pkg/kubelet/preemption`, and `pkg/kubelet/types`, `Preemptable`.

use k8s_openapi::api::core::v1::Pod;

use super::{
    admission::{Obstacle, Shortage},
    qos::{QosClass, qos_class},
    resources::pod_request,
    spec,
};
use crate::shutdown::CRITICAL;

/// A pod, and where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The pod with what it was granted.
    pub pod: &'a Pod,
    /// It comes from a file of the node.
    pub is_static: bool,
}

impl Candidate<'_> {
    fn is_critical(&self) -> bool {
        self.is_static || spec(self.pod).priority.is_some_and(|priority| priority >= CRITICAL)
    }

    /// Whether another one may be ended for it.
    fn may_end(&self, other: &Self) -> bool {
        let is_higher = matches!((spec(self.pod).priority, spec(other.pod).priority), (Some(own), Some(others)) if own > others);
        self.is_critical() && !other.is_critical() || is_higher
    }

    /// What ending it gives back.
    fn gives(&self, resource: &str) -> i64 {
        if resource == "pods" { 1 } else { Shortage::counted(resource, pod_request(self.pod, resource)) }
    }

    /// What it asks for, in the order in which that counts.
    fn size(&self) -> (i64, i64) {
        (self.gives("memory"), self.gives("cpu"))
    }
}

/// Who has to end for a pod to be admitted; nobody where nothing is in its way.
///
/// # Errors
/// Reason and message for its status: something that no room helps, it is not critical, or too little can be freed.
pub fn make_room<'a>(new: Candidate<'_>, obstacles: Vec<Obstacle>, running: &[Candidate<'a>]) -> Result<Vec<&'a Pod>, (String, String)> {
    let Some(first) = obstacles.first().cloned() else { return Ok(Vec::new()) };
    if !new.is_critical() {
        return Err(first.told());
    }
    if let Some(other) = obstacles.iter().find(|obstacle| matches!(obstacle, Obstacle::Other { .. })) {
        return Err(other.clone().told());
    }
    let short = obstacles.into_iter().filter_map(|obstacle| match obstacle {
        Obstacle::Short(shortage) => Some((shortage.resource, Shortage::counted(shortage.resource, shortage.missing()))),
        Obstacle::Other { .. } => None,
    });
    let endable: Vec<Candidate<'a>> = running.iter().filter(|other| new.may_end(other)).copied().collect();
    let victims = victims(&endable, &Missing(short.collect())).map_err(|problem| {
        let message = format!("Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: {problem}");
        ("UnexpectedAdmissionError".to_owned(), message)
    })?;
    Ok(victims.into_iter().map(|victim| victim.pod).collect())
}

/// As few as possible; no guaranteed pod where burstable ones suffice, and none of those where others do.
fn victims<'a>(endable: &[Candidate<'a>], missing: &Missing) -> Result<Vec<Candidate<'a>>, String> {
    let of = |class: QosClass| endable.iter().filter(|candidate| qos_class(candidate.pod) == class).copied().collect::<Vec<_>>();
    let (best_effort, burstable, guaranteed) = (of(QosClass::BestEffort), of(QosClass::Burstable), of(QosClass::Guaranteed));
    let never = missing.without(endable);
    if !never.0.is_empty() {
        return Err(never.nobody());
    }
    let guaranteed = nearest(guaranteed, missing.without(&best_effort).without(&burstable))?;
    let burstable = nearest(burstable, missing.without(&best_effort).without(&guaranteed))?;
    let best_effort = nearest(best_effort, missing.without(&burstable).without(&guaranteed))?;
    Ok([best_effort, burstable, guaranteed].concat())
}

/// Ends, one after the other, the pod that comes nearest to what is missing; the smaller one of two that are as near.
fn nearest<'a>(mut candidates: Vec<Candidate<'a>>, mut missing: Missing) -> Result<Vec<Candidate<'a>>, String> {
    let mut chosen = Vec::new();
    while !missing.0.is_empty() {
        let mut best: Option<(usize, f64)> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            let distance = missing.distance(candidate);
            let is_better = best.is_none_or(|(best, nearest)| {
                distance < nearest || (distance.total_cmp(&nearest).is_eq() && candidates.get(best).is_none_or(|best| candidate.size() <= best.size()))
            });
            if is_better {
                best = Some((index, distance));
            }
        }
        let Some((index, _)) = best else { return Err(missing.nobody()) };
        let next = candidates.swap_remove(index);
        missing = missing.without(&[next]);
        chosen.push(next);
    }
    Ok(chosen)
}

/// How much of which resource must become free.
#[derive(Debug, Clone)]
struct Missing(Vec<(&'static str, i64)>);

impl Missing {
    fn without(&self, ended: &[Candidate<'_>]) -> Self {
        let left = self.0.iter().map(|(resource, amount)| (*resource, ended.iter().fold(*amount, |left, one| left.saturating_sub(one.gives(resource)))));
        Self(left.filter(|(_, amount)| *amount > 0).collect())
    }

    /// The squares of the parts that would still be missing, so that each resource weighs the same.
    #[expect(clippy::cast_precision_loss, reason = "a comparison of parts")]
    fn distance(&self, candidate: &Candidate<'_>) -> f64 {
        let parts = self.0.iter().map(|(resource, amount)| (amount.saturating_sub(candidate.gives(resource)).max(0) as f64 / *amount as f64).powi(2));
        parts.sum()
    }

    fn nobody(&self) -> String {
        let list: String = self.0.iter().map(|(resource, amount)| format!("(res: {resource}, q: {amount}), ")).collect();
        format!("no set of running pods found to reclaim resources: [{list}]")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::quantity::Amount;

    fn pod(name: &str, resources: Value, priority: Option<i32>) -> Pod {
        let spec = json!({ "priority": priority, "containers": [{ "name": "c", "resources": resources }] });
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
    }

    fn burstable(name: &str, cpu: &str, memory: &str) -> Pod {
        pod(name, json!({ "requests": { "cpu": cpu, "memory": memory } }), Some(0))
    }

    fn guaranteed(name: &str, cpu: &str, memory: &str) -> Pod {
        let amounts = json!({ "cpu": cpu, "memory": memory });
        pod(name, json!({ "requests": amounts, "limits": amounts }), Some(0))
    }

    fn best_effort(name: &str) -> Pod {
        pod(name, json!({}), Some(0))
    }

    /// So much is missing of processors (in thousandths), of memory and of places for pods.
    fn obstacles(cpu: i64, memory: i64, pods: i64) -> Vec<Obstacle> {
        let short = [("cpu", Amount::thousandths(cpu)), ("memory", Amount::units(memory)), ("pods", Amount::units(pods))];
        let short = short.into_iter().filter(|(_, missing)| !missing.is_zero());
        short.map(|(resource, requested)| Obstacle::Short(Shortage { resource, requested, used: Amount::units(9), capacity: Amount::units(9) })).collect()
    }

    /// Who ends for a pod from a file.
    #[track_caller]
    fn check(missing: (i64, i64, i64), running: &[Pod], expected: Result<&[&str], &str>) {
        let new = pod("critical", json!({}), None);
        let candidates: Vec<Candidate<'_>> = running.iter().map(|pod| Candidate { pod, is_static: false }).collect();
        let victims = make_room(Candidate { pod: &new, is_static: true }, obstacles(missing.0, missing.1, missing.2), &candidates);
        let names = victims.as_ref().map(|victims| victims.iter().map(|pod| super::super::name(pod)).collect::<Vec<_>>());
        assert_eq!(names.map_err(|(_, message)| message.as_str()), expected.map(<[&str]>::to_vec));
    }

    #[test]
    fn as_little_as_possible_is_ended() {
        let running = || vec![burstable("small", "1", "100"), burstable("middle", "2", "200"), burstable("large", "4", "400")];
        check((0, 0, 0), &running(), Ok(&[]));
        check((500, 0, 0), &running(), Ok(&["small"]));
        check((2000, 0, 0), &running(), Ok(&["middle"]));
        check((2500, 0, 0), &running(), Ok(&["large"]));
        check((4500, 0, 0), &running(), Ok(&["large", "small"]));
        check((1000, 300, 0), &running(), Ok(&["large"]));
        check((0, 0, 1), &running(), Ok(&["small"]));
        check((7000, 0, 0), &running(), Ok(&["large", "middle", "small"]));
    }

    #[test]
    fn the_lesser_class_goes_first() {
        let running = || vec![guaranteed("guaranteed", "2", "200"), burstable("burstable", "2", "200"), best_effort("best-effort")];
        check((1000, 0, 0), &running(), Ok(&["burstable"]));
        check((3000, 0, 0), &running(), Ok(&["burstable", "guaranteed"]));
        check((0, 0, 1), &running(), Ok(&["best-effort"]));
        check((0, 0, 2), &running(), Ok(&["best-effort", "burstable"]));
    }

    #[test]
    fn where_it_is_not_enough_nobody_ends() {
        let words = "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 500), ]";
        check((2500, 0, 0), &[burstable("one", "2", "200")], Err(words));
    }

    #[test]
    fn only_lesser_pods_are_ended_and_only_for_resources() {
        let (critical, high, low) = (pod("critical", json!({}), Some(CRITICAL)), pod("high", json!({}), Some(7)), pod("low", json!({}), Some(5)));
        fn plain(pod: &Pod) -> Candidate<'_> {
            Candidate { pod, is_static: false }
        }
        let ends = |new: &Pod, running: &[Candidate<'_>], obstacles: Vec<Obstacle>| make_room(plain(new), obstacles, running).map(|victims| victims.len()).map_err(|(reason, _)| reason);
        assert_eq!(ends(&critical, &[plain(&low)], obstacles(0, 0, 1)), Ok(1));
        assert_eq!(ends(&critical, &[plain(&critical)], obstacles(0, 0, 1)), Err("UnexpectedAdmissionError".to_owned()));
        assert_eq!(ends(&critical, &[Candidate { pod: &low, is_static: true }], obstacles(0, 0, 1)), Ok(1), "its priority is lower");
        assert_eq!(ends(&high, &[plain(&low)], obstacles(0, 0, 1)), Err("OutOfpods".to_owned()), "it is not critical itself");
        let other = Obstacle::Other { reason: "NodePorts", message: String::new() };
        assert_eq!(ends(&critical, &[plain(&low)], [obstacles(0, 0, 1), vec![other]].concat()), Err("NodePorts".to_owned()));
    }
}
