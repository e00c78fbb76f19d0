//! PodTemplate: a pod to make copies of.

use api::core::v1::PodTemplate;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use super::pod;
use crate::{
    cells,
    strategy::{Column, Strategy},
};

/// Behaviour of pod templates.
pub struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    type Kind = PodTemplate;

    fn default(&self, object: &mut PodTemplate) {
        if let Some(template) = &mut object.template {
            pod::defaults::template(template);
        }
    }
    fn validate(&self, object: &PodTemplate) -> Vec<FieldError> {
        object.template.as_ref().map(|template| pod::validation::template(template, &FieldPath::new("template"))).unwrap_or_default()
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, object: &PodTemplate, old: Option<&PodTemplate>) -> Vec<String> {
        let Some(template) = &object.template else { return Vec::new() };
        pod::warnings::of_changed_template(template, old.and_then(|old| old.template.as_ref()), &FieldPath::new("template"))
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Containers", "Names of its containers."),
            Column::text("Images", "Their images."),
            Column::text("Pod Labels", "Labels of its pods."),
        ] }
    }
    fn row(&self, object: &PodTemplate, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let template = object.template.as_ref();
        let [names, images] = cells::containers(template.and_then(|template| template.spec.as_ref()));
        let labels = template.and_then(|template| template.metadata.as_ref()).and_then(|metadata| metadata.labels.as_ref());
        vec![raw.name().into(), names, images, cells::labels(labels)]
    }
}
