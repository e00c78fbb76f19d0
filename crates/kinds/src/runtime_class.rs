//! The group `node.k8s.io`: RuntimeClass, a way to run containers.

use api::node::v1::RuntimeClass;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::immutable,
    strategy::{Column, Strategy},
};

/// Behaviour of runtime classes.
pub struct RuntimeClassStrategy;

impl Strategy for RuntimeClassStrategy {
    type Kind = RuntimeClass;

    fn validate(&self, class: &RuntimeClass) -> Vec<FieldError> {
        rules::invalid_each(&FieldPath::new("handler"), &class.handler, rules::dns1123_label_problems(&class.handler))
    }
    fn validate_update(&self, class: &RuntimeClass, old: &RuntimeClass) -> Vec<FieldError> {
        let mut problems = Vec::new();
        immutable(&class.handler, &old.handler, &FieldPath::new("handler"), &mut problems);
        problems
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Handler", "What runs its containers."), Column::AGE] }
    }
    fn row(&self, class: &RuntimeClass, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), class.handler.as_str().into(), cells::created(raw)]
    }
}
