//! The group `scheduling.k8s.io`: PriorityClass, which pods go first.

use api::scheduling::v1::PriorityClass;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::one_of,
    strategy::{Column, Strategy},
};

/// Highest priority of classes that are not the system's.
const HIGHEST_OF_USERS: i32 = 1_000_000_000;

/// Behaviour of priority classes.
pub struct PriorityClassStrategy;

impl Strategy for PriorityClassStrategy {
    type Kind = PriorityClass;

    fn validate(&self, class: &PriorityClass) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let name = class.metadata.name.as_deref().unwrap_or_default();
        let value = class.value.unwrap_or_default();
        if name.starts_with("system-") {
            if !matches!(name, "system-node-critical" | "system-cluster-critical") {
                problems.push(FieldError::forbidden(
                    &FieldPath::new("metadata").child("name"),
                    format!("priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"),
                ));
            }
        } else if value > HIGHEST_OF_USERS {
            problems.push(FieldError::forbidden(&FieldPath::new("value"), format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}")));
        }
        if let Some(policy) = class.preemption_policy.as_deref() {
            one_of(policy, &["PreemptLowerPriority", "Never"], &FieldPath::new("preemptionPolicy"), &mut problems);
        }
        problems
    }
    fn validate_update(&self, class: &PriorityClass, old: &PriorityClass) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if class.value.unwrap_or_default() != old.value.unwrap_or_default() {
            problems.push(FieldError::forbidden(&FieldPath::new("value"), "may not be changed in an update."));
        }
        crate::problems::immutable(&class.preemption_policy, &old.preemption_policy, &FieldPath::new("preemptionPolicy"), &mut problems);
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::integer("Value", "Pods with a larger one go first."),
            Column { kind: "boolean", ..Column::text("Global-Default", "Whether pods without a class have it.") },
            Column::AGE,
            Column::text("PreemptionPolicy", "Whether others must make room."),
        ] }
    }
    fn row(&self, class: &PriorityClass, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![
            raw.name().into(),
            class.value.unwrap_or_default().into(),
            class.global_default.unwrap_or(false).into(),
            cells::created(raw),
            cells::text(class.preemption_policy.as_deref()),
        ]
    }
}
