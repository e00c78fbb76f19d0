//! How fast and how far a workload may change: what was recommended lately steadies it, policies limit each step, and the bounds of the
//! autoscaler come last. Where the autoscaler says nothing of that, it may double at each step, and shrinks as it is told for five minutes.
//! Source: Kubernetes 1.36, `normalizeDesiredReplicasWithBehaviors` and `normalizeDesiredReplicas`.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec};
use meta::quantity::Quantity;

use super::usage::Tolerance;

/// By how much the load may be off where nothing else is said. Source: Kubernetes 1.36, `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;
/// How long a smaller size must have been recommended before it is taken.
const STEADY_BEFORE_SHRINKING: i32 = 300;
/// To how many pods a workload may grow at once although it would more than double.
const SMALL: i32 = 4;
/// No policy looks back further. Source: Kubernetes 1.36, `MaxPeriodSeconds` and `MaxStabilizationWindowSeconds`.
const MEMORY: Duration = Duration::from_secs(3600);

fn rules(spec: &HorizontalPodAutoscalerSpec, up: bool) -> HPAScalingRules {
    let behavior = spec.behavior.clone().unwrap_or_default();
    let mut rules = if up { behavior.scale_up } else { behavior.scale_down }.unwrap_or_default();
    let policy = |type_: &str, value| HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds: 15 };
    let usual = if up { vec![policy("Pods", 4), policy("Percent", 100)] } else { vec![policy("Percent", 100)] };
    rules.policies.get_or_insert(usual);
    rules.stabilization_window_seconds.get_or_insert(if up { 0 } else { STEADY_BEFORE_SHRINKING });
    rules
}

/// By how much the load may be off.
pub(super) fn tolerance(spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
    let of = |up| rules(spec, up).tolerance.and_then(|amount| Quantity::parse(&amount.0).ok()).map_or(TOLERANCE, |amount| amount.approximate());
    Tolerance { up: of(true), down: of(false) }
}

/// What is asked for, and what is allowed.
pub(super) struct Wanted {
    pub current: i32,
    pub wanted: i32,
    pub least: i32,
    pub most: i32,
}

/// What comes of it; reasons and messages for the conditions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub replicas: i32,
    pub stable: (&'static str, &'static str),
    pub is_limited: bool,
    pub limit: (&'static str, &'static str),
}

/// What was recommended and done lately; times by a clock that never jumps.
#[derive(Debug, Default)]
pub(super) struct History {
    recommended: VecDeque<(Duration, i32)>,
    /// Pods added or, below zero, removed.
    changes: VecDeque<(Duration, i32)>,
    /// The size that was found at first stands for what was recommended before: else a new autoscaler, or a new server, would shrink at
    /// once. Source: Kubernetes 1.36, `recordInitialRecommendation`.
    has_begun: bool,
}

impl History {
    /// The target's size was changed by so many pods.
    pub fn changed(&mut self, by: i32, now: Duration) {
        self.changes.push_back((now, by));
    }

    /// Pods added and removed within the last seconds.
    fn changes_within(&self, seconds: i32, now: Duration) -> (i32, i32) {
        let window = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let recent = self.changes.iter().filter(|(at, _)| now.saturating_sub(*at) < window).map(|(_, by)| *by);
        recent.fold((0, 0), |(added, removed), by| (added + by.max(0), removed - by.min(0)))
    }

    /// The target was found to have this size.
    pub fn begin(&mut self, current: i32, now: Duration) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.recommended.push_back((now, current));
        }
    }

    /// Decides for an autoscaler that does not say how fast.
    /// Source: Kubernetes 1.36, `normalizeDesiredReplicas` and `convertDesiredReplicasWithRules`.
    fn decide_simply(&mut self, wanted: &Wanted, now: Duration) -> Decision {
        let window = Duration::from_secs(STEADY_BEFORE_SHRINKING as u64);
        let recent = self.recommended.iter().filter(|(at, _)| now.saturating_sub(*at) <= window).map(|(_, replicas)| *replicas);
        let steady = recent.chain([wanted.wanted]).max().unwrap_or(wanted.wanted);
        self.recommended.push_back((now, wanted.wanted));
        let stable = if steady == wanted.wanted { READY } else { SHRINKS_LATER };
        let fastest = wanted.current.saturating_mul(2).max(SMALL);
        let (most, too_many) = if wanted.most > fastest { (fastest, GROWS_TOO_FAST) } else { (wanted.most, TOO_MANY) };
        let (replicas, limit) = match steady {
            _ if steady < wanted.least => (wanted.least, TOO_FEW),
            _ if steady > most => (most, too_many),
            _ => (steady, WITHIN),
        };
        Decision { replicas, stable, is_limited: replicas != steady, limit }
    }

    /// Decides.
    pub fn decide(&mut self, spec: &HorizontalPodAutoscalerSpec, wanted: &Wanted, now: Duration) -> Decision {
        self.recommended.retain(|(at, _)| now.saturating_sub(*at) < MEMORY);
        self.changes.retain(|(at, _)| now.saturating_sub(*at) < MEMORY);
        self.begin(wanted.current, now);
        if spec.behavior.is_none() {
            return self.decide_simply(wanted, now);
        }
        let steady = self.steady(spec, wanted, now);
        let stable = match steady.cmp(&wanted.wanted) {
            std::cmp::Ordering::Less => ("ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"),
            std::cmp::Ordering::Greater => SHRINKS_LATER,
            std::cmp::Ordering::Equal => READY,
        };
        let (replicas, is_limited, limit) = self.limited(spec, wanted, steady, now);
        Decision { replicas, stable, is_limited, limit }
    }

    /// Grows only to what was recommended all through the window, and shrinks likewise.
    fn steady(&mut self, spec: &HorizontalPodAutoscalerSpec, wanted: &Wanted, now: Duration) -> i32 {
        let within = |up: bool| {
            let window = Duration::from_secs(u64::try_from(rules(spec, up).stabilization_window_seconds.unwrap_or(0)).unwrap_or(0));
            let recent = self.recommended.iter().filter(move |(at, _)| now.saturating_sub(*at) < window).map(|(_, replicas)| *replicas);
            recent.chain([wanted.wanted])
        };
        let lowest = within(true).min().unwrap_or(wanted.wanted);
        let highest = within(false).max().unwrap_or(wanted.wanted);
        let steady = wanted.current.max(lowest).min(highest);
        self.recommended.push_back((now, wanted.wanted));
        steady
    }

    fn limited(&self, spec: &HorizontalPodAutoscalerSpec, wanted: &Wanted, steady: i32, now: Duration) -> (i32, bool, (&'static str, &'static str)) {
        if steady > wanted.current {
            let fastest = self.limit(&rules(spec, true), wanted.current, true, now).max(wanted.current);
            let most = wanted.most.min(fastest);
            if steady <= most {
                return (steady, false, WITHIN);
            }
            let why = if wanted.most < fastest || fastest == wanted.most {
                TOO_MANY
            } else {
                GROWS_TOO_FAST
            };
            return (most, true, why);
        }
        if steady < wanted.current {
            let fastest = self.limit(&rules(spec, false), wanted.current, false, now).min(wanted.current);
            let least = wanted.least.max(fastest);
            if steady >= least {
                return (steady, false, WITHIN);
            }
            let why = if wanted.least >= fastest {
                TOO_FEW
            } else {
                ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
            };
            return (least, true, why);
        }
        (steady, false, WITHIN)
    }

    /// The size that the policies allow now.
    fn limit(&self, rules: &HPAScalingRules, current: i32, up: bool, now: Duration) -> i32 {
        if rules.select_policy.as_deref() == Some("Disabled") {
            return current;
        }
        let of_policy = |policy: &HPAScalingPolicy| {
            let (added, removed) = self.changes_within(policy.period_seconds, now);
            let before = current - added + removed;
            let percent = f64::from(policy.value) / 100.0;
            match (policy.type_.as_str(), up) {
                ("Pods", true) => before.saturating_add(policy.value),
                ("Pods", false) => before.saturating_sub(policy.value),
                (_, true) => (f64::from(before) * (1.0 + percent)).ceil() as i32,
                (_, false) => (f64::from(before) * (1.0 - percent)) as i32,
            }
        };
        let sizes = rules.policies.iter().flatten().map(of_policy);
        // The policy of the largest change, unless the smallest is asked for.
        let largest_change = rules.select_policy.as_deref() != Some("Min");
        let size = if up == largest_change { sizes.max() } else { sizes.min() };
        size.unwrap_or(current)
    }
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const SHRINKS_LATER: (&str, &str) =
    ("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation");
const GROWS_TOO_FAST: (&str, &str) = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(behavior: Value) -> HorizontalPodAutoscalerSpec {
        serde_json::from_value(json!({ "maxReplicas": 10, "scaleTargetRef": { "kind": "Deployment", "name": "web" }, "behavior": behavior })).unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(10_000 + seconds)
    }

    #[track_caller]
    fn check(history: &mut History, behavior: Value, current: i32, wanted: i32, second: u64, expected: (i32, &str)) {
        let decision = history.decide(&spec(behavior), &Wanted { current, wanted, least: 1, most: 10 }, at(second));
        assert_eq!((decision.replicas, decision.limit.0), expected);
    }

    #[test]
    fn growth_is_bounded_by_policies_and_the_maximum() {
        check(&mut History::default(), json!({}), 2, 9, 0, (6, "ScaleUpLimit"));
        check(&mut History::default(), json!({}), 8, 20, 0, (10, "TooManyReplicas"));
        check(&mut History::default(), json!({ "scaleUp": { "selectPolicy": "Disabled" } }), 2, 9, 0, (2, "ScaleUpLimit"));
        let one_a_minute = json!({ "scaleUp": { "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 60 }] } });
        let mut history = History::default();
        check(&mut history, one_a_minute.clone(), 2, 9, 0, (3, "ScaleUpLimit"));
        history.changed(1, at(0));
        check(&mut history, one_a_minute.clone(), 3, 9, 15, (3, "ScaleUpLimit"));
        check(&mut history, one_a_minute, 3, 9, 61, (4, "ScaleUpLimit"));
    }

    #[test]
    fn without_a_behavior_a_workload_at_most_doubles() {
        check(&mut History::default(), json!(null), 1, 9, 0, (4, "ScaleUpLimit"));
        check(&mut History::default(), json!(null), 2, 9, 0, (4, "ScaleUpLimit"));
        check(&mut History::default(), json!(null), 3, 9, 0, (6, "ScaleUpLimit"));
        check(&mut History::default(), json!(null), 3, 6, 0, (6, "DesiredWithinRange"));
        check(&mut History::default(), json!(null), 5, 20, 0, (10, "TooManyReplicas"));
        // Growing again is not held up by what was done before.
        let mut history = History::default();
        check(&mut history, json!(null), 2, 9, 0, (4, "ScaleUpLimit"));
        history.changed(2, at(0));
        check(&mut history, json!(null), 4, 8, 1, (8, "ScaleUpLimit"));
        // Five minutes later it shrinks, at once.
        check(&mut history, json!(null), 8, 0, 301, (8, "DesiredWithinRange"));
        check(&mut history, json!(null), 8, 0, 302, (1, "TooFewReplicas"));
    }

    #[test]
    fn what_was_found_first_counts_from_when_it_was_found() {
        let mut history = History::default();
        history.begin(5, at(0));
        check(&mut history, json!(null), 5, 2, 301, (2, "DesiredWithinRange"));
    }

    #[test]
    fn shrinking_waits_until_nothing_larger_was_recommended_for_a_while() {
        let mut history = History::default();
        check(&mut history, json!(null), 5, 5, 0, (5, "DesiredWithinRange"));
        check(&mut history, json!(null), 5, 2, 15, (5, "DesiredWithinRange"));
        check(&mut history, json!(null), 5, 2, 301, (2, "DesiredWithinRange"));
        // The size that is found counts as recommended, also after a restart.
        check(&mut History::default(), json!(null), 5, 2, 0, (5, "DesiredWithinRange"));
        let at_once = json!({ "scaleDown": { "stabilizationWindowSeconds": 0 } });
        check(&mut History::default(), at_once.clone(), 5, 0, 0, (1, "TooFewReplicas"));
        let slowly = json!({ "scaleDown": { "stabilizationWindowSeconds": 0, "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 60 }, { "type": "Percent", "value": 50, "periodSeconds": 60 }] } });
        check(&mut History::default(), slowly, 8, 1, 0, (4, "ScaleDownLimit"));
    }

    #[test]
    fn tolerances_of_both_directions_are_their_own() {
        let tolerance = tolerance(&spec(json!({ "scaleUp": { "tolerance": "50m" } })));
        assert!(!tolerance.covers(1.06) && tolerance.covers(0.91) && !tolerance.covers(0.89));
    }
}
