//! The group `node.k8s.io`: RuntimeClass, a way to run containers.

use api::node::v1::RuntimeClass;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    core::pod::{resources, validation::tolerations},
    problems::{immutable, labels},
    strategy::{Column, Strategy},
    warnings,
};

/// Behaviour of runtime classes.
pub struct RuntimeClassStrategy;

impl Strategy for RuntimeClassStrategy {
    type Kind = RuntimeClass;

    fn validate(&self, class: &RuntimeClass) -> Vec<FieldError> {
        let mut problems = rules::invalid_each(&FieldPath::new("handler"), &class.handler, rules::dns1123_label_problems(&class.handler));
        if let Some(found) = class.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.as_ref()) {
            resources::overhead(found, &FieldPath::new("overhead").child("podFixed"), &mut problems);
        }
        if let Some(scheduling) = &class.scheduling {
            let at = FieldPath::new("scheduling");
            problems.extend(labels(scheduling.node_selector.as_ref(), &at.child("nodeSelector")));
            problems.extend(tolerations(scheduling.tolerations.as_deref().unwrap_or_default(), &at.child("tolerations")));
        }
        problems
    }
    fn validate_update(&self, class: &RuntimeClass, old: &RuntimeClass) -> Vec<FieldError> {
        let mut problems = Vec::new();
        immutable(&class.handler, &old.handler, &FieldPath::new("handler"), &mut problems);
        problems
    }
    fn allows_unconditional_update(&self) -> bool {
        false
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, class: &RuntimeClass, _old: Option<&RuntimeClass>) -> Vec<String> {
        let selector = class.scheduling.iter().flat_map(|scheduling| scheduling.node_selector.iter().flatten());
        selector.filter_map(|(label, _)| warnings::node_label(label)).map(|words| format!("scheduling.nodeSelector: {words}")).collect()
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Handler", "What runs its containers."), Column::AGE] }
    }
    fn row(&self, class: &RuntimeClass, raw: &Object, _now: Timestamp) -> Vec<Value> {
        vec![raw.name().into(), class.handler.as_str().into(), cells::created(raw)]
    }
}
