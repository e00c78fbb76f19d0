//! DefaultPreemption: makes room for a pod that fits nowhere by displacing less important ones, as few and as unimportant as
//! possible, and without breaking disruption budgets where there is a choice. Only decides; [`crate::displacing`] acts.
//!
//! Source: Kubernetes `scheduler/framework/preemption` and `plugins/defaultpreemption`.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use api::policy::v1::PodDisruptionBudget;
use rand::Rng;
use meta::selector::LabelSelector;

use crate::{
    cluster::Cluster,
    decision::{Checks, Profile, Refusal, counted_reasons, judge_with_nominated, prepare},
    framework::{Reason, Verdict},
    pod_info::PodInfo,
    terms::selector_of,
};

/// So many nodes are tried at least, where there are more. Source: upstream's `MinCandidateNodesAbsolute`.
const CANDIDATES: usize = 100;

/// A disruption budget, read.
#[derive(Debug, Clone)]
pub struct Budget {
    namespace: String,
    selector: LabelSelector,
    allowed: i32,
    disrupted: Vec<String>,
}

impl Budget {
    /// Reads one.
    pub fn of(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector: Some(selector_of(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())))
                // One that would cover all pods covers none here. Source: Kubernetes 1.36, `filterPodsWithPDBViolation`.
                .filter(|selector| !selector.is_everything())
                .unwrap_or_else(LabelSelector::nothing),
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or_default(),
            disrupted: status.and_then(|status| status.disrupted_pods.as_ref()).into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// Who is to go from where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The node's slot.
    pub slot: usize,
    /// Pods to displace, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

impl Plan {
    /// These leave this slot, which breaks so many budgets.
    pub fn new(slot: usize, mut victims: Vec<Arc<PodInfo>>, violations: usize) -> Self {
        victims.sort_by_key(|pod| importance(pod));
        Self { slot, victims, violations }
    }
    /// How many victims break a budget.
    pub fn violations(&self) -> usize {
        self.violations
    }
}

/// More important pods come first: by priority, then who runs longer.
fn importance(pod: &PodInfo) -> (Reverse<i32>, jiff::Timestamp) {
    (Reverse(pod.priority), pod.started.unwrap_or(jiff::Timestamp::MAX))
}

/// Finds room for a pod: the best of its [`candidates`].
///
/// # Errors
/// Why there is none to be made, as the pod's condition says it.
pub fn plan(profile: &Profile, pod: &Arc<PodInfo>, cluster: &mut Cluster, refusal: &Refusal, budgets: &[Budget]) -> Result<Plan, String> {
    let all = cluster.len();
    best(candidates(profile, pod, cluster, refusal, budgets)?).ok_or_else(|| format!("0/{all} nodes are available."))
}

/// Ways to make room for a pod, at least one; at most one for each node.
///
/// # Errors
/// Why there is none, as the pod's condition says it.
pub fn candidates(profile: &Profile, pod: &Arc<PodInfo>, cluster: &mut Cluster, refusal: &Refusal, budgets: &[Budget]) -> Result<Vec<Plan>, String> {
    if pod.never_preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    // Unless the node became hopeless meanwhile, the pod waits until those who make room for it have left.
    if let Some(node) = cluster.nomination_of(&pod.uid).filter(|slot| refusal.not_now.contains(slot)).and_then(|slot| cluster.at(slot))
        && node.pods.values().any(|other| other.terminating && other.displaced && other.priority < pod.priority)
    {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let all = cluster.len();
    let mut reasons: HashMap<Reason, usize> = HashMap::new();
    let hopeless = all - refusal.not_now.len();
    if hopeless > 0 {
        reasons.insert("Preemption is not helpful for scheduling".into(), hopeless);
    }
    let Ok(checks) = prepare(profile, pod, cluster) else {
        return Err(format!("0/{all} nodes are available: {}.", counted_reasons(&reasons)));
    };
    let mut plans: Vec<Plan> = Vec::new();
    let potential = refusal.not_now.len();
    let wanted = CANDIDATES.max(potential / 10);
    // Not always the same nodes are tried where not all are.
    let first = if potential > wanted { rand::rng().random_range(0..potential) } else { 0 };
    let (before, after) = refusal.not_now.split_at(first.min(potential));
    let mut keeps_budgets = false;
    for slot in after.iter().chain(before) {
        match victims_on(&checks, pod, *slot, cluster, budgets) {
            Ok(plan) => {
                keeps_budgets |= plan.violations == 0;
                plans.push(plan);
            }
            Err(why) => {
                for reason in why {
                    *reasons.entry(reason).or_default() += 1;
                }
            }
        }
        if keeps_budgets && plans.len() >= wanted {
            break;
        }
    }
    if plans.is_empty() { Err(format!("0/{all} nodes are available: {}.", counted_reasons(&reasons))) } else { Ok(plans) }
}

/// The way that costs least.
pub fn best(plans: Vec<Plan>) -> Option<Plan> {
    // Fewest broken budgets; then the least important first victim; then the least importance altogether; then the fewest victims;
    // then where the first victim runs shortest.
    let cost = |plan: &Plan| {
        let first = plan.victims.first();
        let highest = first.map_or(i32::MIN, |victim| victim.priority);
        let sum: i64 = plan.victims.iter().map(|victim| i64::from(victim.priority) - i64::from(i32::MIN)).sum();
        // Who has not started yet is as if it did now.
        let started = |victim: &Arc<PodInfo>| victim.started.unwrap_or(jiff::Timestamp::MAX);
        let earliest = plan.victims.iter().filter(|victim| victim.priority == highest).map(started).min();
        (plan.violations, highest, sum, plan.victims.len(), Reverse(earliest))
    };
    plans.into_iter().min_by_key(cost)
}

/// The pods that must leave a node for `pod` to fit there.
fn victims_on(checks: &Checks, pod: &Arc<PodInfo>, slot: usize, cluster: &mut Cluster, budgets: &[Budget]) -> Result<Plan, Vec<Reason>> {
    let none = || vec![Reason::from("No preemption victims found for incoming pod")];
    let node = cluster.at(slot).ok_or_else(none)?;
    let mut lesser: Vec<Arc<PodInfo>> = node.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(none());
    }
    lesser.sort_by_key(|pod| importance(pod));
    for other in &lesser {
        cluster.remove(&other.uid);
    }
    let judge = |cluster: &mut Cluster| judge_with_nominated(checks, pod, slot, cluster).1;
    let mut plan = Plan { slot, victims: Vec::new(), violations: 0 };
    let without_all = judge(cluster);
    if without_all == Verdict::Fits {
        // As many as possible stay, first those whose budget would break, the more important first.
        let (breaking, harmless) = by_budget(&lesser, budgets);
        for (other, breaks) in breaking.into_iter().map(|pod| (pod, true)).chain(harmless.into_iter().map(|pod| (pod, false))) {
            cluster.place_at(other.clone(), slot);
            if judge(cluster) != Verdict::Fits {
                cluster.remove(&other.uid);
                plan.violations += usize::from(breaks);
                plan.victims.push(other);
            }
        }
    }
    // What was tried is undone: whatever is not there goes back.
    for other in lesser {
        if cluster.place_of(&other.uid).is_none() {
            cluster.place_at(other, slot);
        }
    }
    plan.victims.sort_by_key(|pod| importance(pod));
    // It fitting once nobody had to leave means that something changed meanwhile; the pod is simply tried again.
    match without_all {
        Verdict::Fits => Ok(plan),
        Verdict::NotNow(reasons) | Verdict::Never(reasons) => Err(reasons),
    }
}

/// Pods whose displacement would break a budget, and the others; each budget allows some before it breaks.
fn by_budget(pods: &[Arc<PodInfo>], budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.iter().cloned().partition(|pod| {
        let mut breaks = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            let covers = budget.namespace == pod.namespace && budget.selector.matches_map(&pod.labels);
            if covers && !pod.labels.is_empty() && !budget.disrupted.contains(&pod.name) {
                *allowed -= 1;
                breaks |= *allowed < 0;
            }
        }
        breaks
    })
}
