//! IngressClass: a way to serve ingresses.

use api::networking::v1::{IngressClass, IngressClassParametersReference};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object, validation as rules};
use serde_json::Value;

use crate::{
    cells,
    problems::{filled, immutable},
    strategy::{Column, Strategy},
};

/// Behaviour of ingress classes.
pub struct IngressClassStrategy;

fn validate_parameters(parameters: &IngressClassParametersReference, at: &FieldPath, problems: &mut Vec<FieldError>) {
    if let Some(group) = &parameters.api_group {
        problems.extend(rules::invalid_each(&at.child("apiGroup"), group, rules::dns1123_subdomain_problems(group)));
    }
    for (field, text) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        filled(text, &at.child(field), problems);
        problems.extend(rules::invalid_each(&at.child(field), text, rules::path_segment_problems(text)));
    }
    match (parameters.scope.as_deref(), parameters.namespace.as_deref()) {
        (None, _) => problems.push(FieldError::required(&at.child("scope"), "")),
        (Some("Namespace"), None) => problems.push(FieldError::required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'")),
        (Some("Namespace"), Some(name)) => problems.extend(rules::invalid_each(&at.child("namespace"), name, rules::dns1123_label_problems(name))),
        (Some("Cluster"), Some(_)) => problems.push(FieldError::forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'")),
        (Some("Cluster"), None) => {}
        (Some(other), _) => problems.push(FieldError::not_supported(&at.child("scope"), other, &["Cluster", "Namespace"])),
    }
}

impl Strategy for IngressClassStrategy {
    type Kind = IngressClass;

    fn validate(&self, class: &IngressClass) -> Vec<FieldError> {
        let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default();
        let path = FieldPath::new("spec").child("controller");
        if controller.is_empty() {
            return vec![FieldError::required(&path, "")];
        }
        let mut problems = Vec::new();
        if controller.len() > 250 {
            problems.push(FieldError::too_long(&path, 250));
        }
        match controller.split_once('/') {
            None | Some((_, "")) => problems.push(FieldError::invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")")),
            Some((domain, _)) => problems.extend(rules::invalid_each(&path, domain, rules::dns1123_subdomain_problems(domain))),
        }
        if let Some(parameters) = class.spec.as_ref().and_then(|spec| spec.parameters.as_ref()) {
            validate_parameters(parameters, &FieldPath::new("spec").child("parameters"), &mut problems);
        }
        problems
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
