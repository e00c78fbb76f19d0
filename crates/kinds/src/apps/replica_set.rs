//! ReplicaSet: so many equal pods.

use api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    core::pod,
    problems::{ABOVE_REPLICAS, always_restarts, immutable, not_negative, status_counts, workload_selector},
    strategy::{Column, Strategy},
};

/// Behaviour of replica sets.
pub struct ReplicaSetStrategy;

/// Which counts of replica sets and replication controllers bound which.
pub const STATUS_BOUNDS: &[(&str, &str, &str)] = &[
    ("fullyLabeledReplicas", "replicas", ABOVE_REPLICAS),
    ("readyReplicas", "replicas", ABOVE_REPLICAS),
    ("availableReplicas", "replicas", ABOVE_REPLICAS),
    ("availableReplicas", "readyReplicas", "cannot be greater than readyReplicas"),
];

/// Columns of replica sets and replication controllers.
pub const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Desired", "Pods wanted."),
    Column::integer("Current", "Pods there are."),
    Column::integer("Ready", "Pods that are ready."),
    Column::AGE,
    Column::text("Containers", "Names of their containers.").wide(),
    Column::text("Images", "Images of their containers.").wide(),
    Column::text("Selector", "Which pods are its own.").wide(),
];

impl Strategy for ReplicaSetStrategy {
    type Kind = ReplicaSet;

    fn default(&self, set: &mut ReplicaSet) {
        if let Some(template) = set.spec.as_mut().and_then(|spec| spec.template.as_mut()) {
            pod::defaults::template(template);
        }
    }
    fn validate(&self, set: &ReplicaSet) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let empty = ReplicaSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        not_negative(spec.replicas.map(i64::from), &path.child("replicas"), &mut problems);
        not_negative(spec.min_ready_seconds.map(i64::from), &path.child("minReadySeconds"), &mut problems);
        match &spec.template {
            None => problems.push(FieldError::required(&path.child("template"), "")),
            Some(template) => {
                workload_selector(&spec.selector, template, &path, &mut problems);
                problems.extend(pod::validation::template(template, &path.child("template")));
                always_restarts(template, "ReplicaSet", &path.child("template"), &mut problems);
            }
        }
        problems
    }
    fn validate_update(&self, set: &ReplicaSet, old: &ReplicaSet) -> Vec<FieldError> {
        let mut problems = self.validate(set);
        if let (Some(new), Some(old)) = (&set.spec, &old.spec) {
            immutable(&new.selector, &old.selector, &FieldPath::new("spec").child("selector"), &mut problems);
        }
        problems
    }
    fn validate_status_update(&self, set: &ReplicaSet, _old: &ReplicaSet) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let Some(status) = &set.status else { return problems };
        let wide = |count: Option<i32>| count.map(i64::from);
        let counts = [
            ("replicas", Some(i64::from(status.replicas))),
            ("fullyLabeledReplicas", wide(status.fully_labeled_replicas)),
            ("readyReplicas", wide(status.ready_replicas)),
            ("availableReplicas", wide(status.available_replicas)),
            ("observedGeneration", status.observed_generation),
        ];
        status_counts(&counts, STATUS_BOUNDS, &mut problems);
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, set: &ReplicaSet, old: Option<&ReplicaSet>) -> Vec<String> {
        let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return Vec::new() };
        let old = old.and_then(|old| old.spec.as_ref()).and_then(|spec| spec.template.as_ref());
        pod::warnings::of_owner(&set.metadata, template, old, &FieldPath::new("spec").child("template"))
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn selectable_field_names(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }
    fn selectable_fields(&self, set: &ReplicaSet) -> Vec<(&'static str, String)> {
        vec![("status.replicas", set.status.as_ref().map_or(0, |status| status.replicas).to_string())]
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, set: &ReplicaSet, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let status = set.status.as_ref();
        let [names, images] = cells::containers(spec.and_then(|spec| spec.template.as_ref()).and_then(|template| template.spec.as_ref()));
        vec![
            raw.name().into(),
            spec.and_then(|spec| spec.replicas).unwrap_or_default().into(),
            status.map_or(0, |status| status.replicas).into(),
            status.and_then(|status| status.ready_replicas).unwrap_or_default().into(),
            cells::created(raw),
            names,
            images,
            cells::selector(spec.map(|spec| &spec.selector)),
        ]
    }
}
