//! ReplicationController: ReplicaSet's elder.

use api::core::v1::ReplicationController;
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use super::pod;
use crate::{
    apps::replica_set::COLUMNS,
    cells,
    problems::{always_restarts, not_negative},
    strategy::{Column, Strategy},
};

/// Behaviour of replication controllers.
pub struct ReplicationControllerStrategy;

impl Strategy for ReplicationControllerStrategy {
    type Kind = ReplicationController;

    fn default(&self, controller: &mut ReplicationController) {
        let Some(spec) = &mut controller.spec else { return };
        let Some(template) = &mut spec.template else { return };
        pod::defaults::template(template);
        // What the template's pods are called is what the controller selects and is called.
        if let Some(labels) = template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref()).filter(|labels| !labels.is_empty()) {
            if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if controller.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
                controller.metadata.labels = Some(labels.clone());
            }
        }
    }
    fn validate(&self, controller: &ReplicationController) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let empty = api::core::v1::ReplicationControllerSpec::default();
        let spec = controller.spec.as_ref().unwrap_or(&empty);
        not_negative(spec.min_ready_seconds.map(i64::from), &path.child("minReadySeconds"), &mut problems);
        let selector = spec.selector.clone().unwrap_or_default();
        if selector.is_empty() {
            problems.push(FieldError::required(&path.child("selector"), ""));
        }
        not_negative(spec.replicas.map(i64::from), &path.child("replicas"), &mut problems);
        match &spec.template {
            None => problems.push(FieldError::required(&path.child("template"), "")),
            Some(template) => {
                let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
                if !selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value)) {
                    problems.push(FieldError::invalid(
                        &path.child("template").child("metadata").child("labels"),
                        serde_json::json!(labels),
                        "`selector` does not match template `labels`",
                    ));
                }
                problems.extend(pod::validation::template(template, &path.child("template")));
                always_restarts(template, "ReplicationController", &path.child("template"), &mut problems);
            }
        }
        problems
    }
    fn validate_status_update(&self, controller: &ReplicationController, _old: &ReplicationController) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let Some(status) = &controller.status else { return problems };
        let wide = |count: Option<i32>| count.map(i64::from);
        let counts = [
            ("replicas", Some(i64::from(status.replicas))),
            ("fullyLabeledReplicas", wide(status.fully_labeled_replicas)),
            ("readyReplicas", wide(status.ready_replicas)),
            ("availableReplicas", wide(status.available_replicas)),
            ("observedGeneration", status.observed_generation),
        ];
        crate::problems::status_counts(&counts, crate::apps::replica_set::STATUS_BOUNDS, &mut problems);
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, controller: &ReplicationController, old: Option<&ReplicationController>) -> Vec<String> {
        let Some(template) = controller.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return Vec::new() };
        let old = old.and_then(|old| old.spec.as_ref()).and_then(|spec| spec.template.as_ref());
        pod::warnings::of_owner(&controller.metadata, template, old, &FieldPath::new("spec").child("template"))
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }
    fn selectable_fields(&self, controller: &ReplicationController) -> Vec<(&'static str, String)> {
        vec![("status.replicas", controller.status.as_ref().map_or(0, |status| status.replicas).to_string())]
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, controller: &ReplicationController, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = controller.spec.as_ref();
        let status = controller.status.as_ref();
        let [names, images] = cells::containers(spec.and_then(|spec| spec.template.as_ref()).and_then(|template| template.spec.as_ref()));
        vec![
            raw.name().into(),
            spec.and_then(|spec| spec.replicas).unwrap_or_default().into(),
            status.map_or(0, |status| status.replicas).into(),
            status.and_then(|status| status.ready_replicas).unwrap_or_default().into(),
            cells::created(raw),
            names,
            images,
            cells::labels(spec.and_then(|spec| spec.selector.as_ref())),
        ]
    }
}
