//! IngressClass: a way to serve ingresses.

use api::networking::v1::IngressClass;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    problems::immutable,
    strategy::{Column, Strategy},
};

/// Behaviour of ingress classes.
pub struct IngressClassStrategy;

impl Strategy for IngressClassStrategy {
    type Kind = IngressClass;

    fn validate(&self, class: &IngressClass) -> Vec<FieldError> {
        let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default();
        let path = FieldPath::new("spec").child("controller");
        if controller.is_empty() {
            return vec![FieldError::required(&path, "")];
        }
        if controller.len() > 250 {
            return vec![FieldError::too_long(&path, 250)];
        }
        if controller.contains('/') { Vec::new() } else { vec![FieldError::invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")")] }
    }
    fn validate_update(&self, class: &IngressClass, old: &IngressClass) -> Vec<FieldError> {
        let mut problems = self.validate(class);
        let controller = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.clone());
        immutable(&controller(class), &controller(old), &FieldPath::new("spec").child("controller"), &mut problems);
        problems
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Controller", "Who serves it."), Column::text("Parameters", "What that is told."), Column::AGE] }
    }
    fn row(&self, class: &IngressClass, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = class.spec.as_ref();
        let parameters = spec.and_then(|spec| spec.parameters.as_ref()).map(|parameters| {
            let group = parameters.api_group.as_deref().map(|group| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", parameters.kind, parameters.name)
        });
        vec![
            raw.name().into(),
            cells::text(spec.and_then(|spec| spec.controller.as_deref())),
            cells::or_none(parameters.as_deref()),
            cells::created(raw),
        ]
    }
}
