//! The group `policy`: PodDisruptionBudget, how many pods must stay.

use api::policy::v1::PodDisruptionBudget;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::{int_or_percent, label_selector, one_of},
    status_rules::{conditions, counts},
    strategy::{Column, Strategy},
};

/// Behaviour of budgets.
pub struct PodDisruptionBudgetStrategy;

impl Strategy for PodDisruptionBudgetStrategy {
    type Kind = PodDisruptionBudget;

    fn has_defaults(&self) -> bool {
        false
    }
    fn validate(&self, budget: &PodDisruptionBudget) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let Some(spec) = &budget.spec else { return problems };
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            problems.push(FieldError::invalid(
                &path,
                serde_json::to_value(spec).unwrap_or_default(),
                "minAvailable and maxUnavailable cannot be both set",
            ));
        }
        int_or_percent(spec.min_available.as_ref(), &path.child("minAvailable"), &mut problems);
        int_or_percent(spec.max_unavailable.as_ref(), &path.child("maxUnavailable"), &mut problems);
        if let Some(selector) = &spec.selector {
            problems.extend(label_selector(selector, &path.child("selector")));
        }
        if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref() {
            one_of(policy, &["AlwaysAllow", "IfHealthyBudget"], &path.child("unhealthyPodEvictionPolicy"), &mut problems);
        }
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn validate_status_update(&self, budget: &PodDisruptionBudget, _old: &PodDisruptionBudget) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let Some(status) = &budget.status else { return problems };
        conditions(status.conditions.as_ref(), &FieldPath::new("status").child("conditions"), &mut problems);
        let numbers = [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ];
        counts(&numbers, &mut problems);
        problems
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Min Available", "Pods that must stay."),
            Column::text("Max Unavailable", "Pods that may be missing."),
            Column::integer("Allowed Disruptions", "Pods that may go now."),
            Column::AGE,
        ] }
    }
    fn row(&self, budget: &PodDisruptionBudget, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = budget.spec.as_ref();
        let or_absent = |value: Option<&_>| value.map_or_else(|| "N/A".to_owned(), cells::int_or_string);
        vec![
            raw.name().into(),
            or_absent(spec.and_then(|spec| spec.min_available.as_ref())).into(),
            or_absent(spec.and_then(|spec| spec.max_unavailable.as_ref())).into(),
            budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or_default().into(),
            cells::created(raw),
        ]
    }
}
