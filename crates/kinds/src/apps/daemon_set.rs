//! DaemonSet: one pod on every node.

use api::{
    apimachinery::pkg::util::intstr::IntOrString,
    apps::v1::{DaemonSet, DaemonSetSpec},
};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    core::pod,
    problems::{always_restarts, immutable, int_or_percent, is_zero, not_negative, one_hundred_percent, one_of, only_grows, status_counts, workload_selector},
    strategy::{Column, Strategy, WriteContext},
};

/// Behaviour of daemon sets.
pub struct DaemonSetStrategy;

impl Strategy for DaemonSetStrategy {
    type Kind = DaemonSet;

    fn default(&self, set: &mut DaemonSet) {
        let Some(spec) = &mut set.spec else { return };
        pod::defaults::template(&mut spec.template);
        if let Some(strategy) = &mut spec.update_strategy
            && strategy.type_.as_deref() == Some("RollingUpdate")
        {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
    }
    fn prepare_create(&self, _context: &WriteContext, set: &mut DaemonSet) {
        // Older clients count versions of the template in this annotation; it starts at one.
        set.metadata.annotations.get_or_insert_default().entry("deprecated.daemonset.template.generation".to_owned()).or_insert_with(|| "1".to_owned());
    }
    fn prepare_update(&self, _context: &WriteContext, set: &mut DaemonSet, old: &DaemonSet) {
        let key = "deprecated.daemonset.template.generation";
        let before = old.metadata.annotations.as_ref().and_then(|all| all.get(key)).and_then(|text| text.parse::<i64>().ok()).unwrap_or(1);
        let changed = set.spec.as_ref().map(|spec| &spec.template) != old.spec.as_ref().map(|spec| &spec.template);
        let now = if changed { before.saturating_add(1) } else { before };
        set.metadata.annotations.get_or_insert_default().insert(key.to_owned(), now.to_string());
    }
    fn prepare_status_update(&self, context: &WriteContext, set: &mut DaemonSet, old: &DaemonSet) {
        self.prepare_update(context, set, old);
    }
    fn validate(&self, set: &DaemonSet) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let empty = DaemonSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        workload_selector(&spec.selector, &spec.template, &path, &mut problems);
        problems.extend(pod::validation::template(&spec.template, &path.child("template")));
        always_restarts(&spec.template, "DaemonSet", &path.child("template"), &mut problems);
        not_negative(spec.min_ready_seconds.map(i64::from), &path.child("minReadySeconds"), &mut problems);
        not_negative(spec.revision_history_limit.map(i64::from), &path.child("revisionHistoryLimit"), &mut problems);
        if let Some(strategy) = &spec.update_strategy {
            let at = path.child("updateStrategy");
            one_of(strategy.type_.as_deref().unwrap_or_default(), &["RollingUpdate", "OnDelete"], &at.child("type"), &mut problems);
            if let (Some("RollingUpdate"), Some(rolling)) = (strategy.type_.as_deref(), &strategy.rolling_update) {
                let at = at.child("rollingUpdate");
                int_or_percent(rolling.max_unavailable.as_ref(), &at.child("maxUnavailable"), &mut problems);
                one_hundred_percent(rolling.max_unavailable.as_ref(), &at.child("maxUnavailable"), &mut problems);
                one_hundred_percent(rolling.max_surge.as_ref(), &at.child("maxSurge"), &mut problems);
                int_or_percent(rolling.max_surge.as_ref(), &at.child("maxSurge"), &mut problems);
                match (is_zero(rolling.max_unavailable.as_ref()), is_zero(rolling.max_surge.as_ref())) {
                    (true, true) => problems.push(FieldError::invalid(&at.child("maxUnavailable"), 0, "cannot be 0 when maxSurge is 0")),
                    (false, false) => problems.push(FieldError::invalid(
                        &at.child("maxSurge"),
                        serde_json::json!(rolling.max_surge),
                        "may not be set when maxUnavailable is non-zero",
                    )),
                    _ => {}
                }
            }
        }
        problems
    }
    fn validate_update(&self, set: &DaemonSet, old: &DaemonSet) -> Vec<FieldError> {
        let mut problems = self.validate(set);
        if let (Some(new), Some(old)) = (&set.spec, &old.spec) {
            immutable(&new.selector, &old.selector, &FieldPath::new("spec").child("selector"), &mut problems);
        }
        problems
    }
    fn validate_status_update(&self, set: &DaemonSet, old: &DaemonSet) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let Some(status) = &set.status else { return problems };
        let wide = |count: Option<i32>| count.map(i64::from);
        let counts = [
            ("currentNumberScheduled", Some(i64::from(status.current_number_scheduled))),
            ("numberMisscheduled", Some(i64::from(status.number_misscheduled))),
            ("desiredNumberScheduled", Some(i64::from(status.desired_number_scheduled))),
            ("numberReady", Some(i64::from(status.number_ready))),
            ("observedGeneration", status.observed_generation),
            ("updatedNumberScheduled", wide(status.updated_number_scheduled)),
            ("numberAvailable", wide(status.number_available)),
            ("numberUnavailable", wide(status.number_unavailable)),
            ("collisionCount", wide(status.collision_count)),
        ];
        status_counts(&counts, &[], &mut problems);
        let known = old.status.as_ref().and_then(|status| status.collision_count);
        only_grows(status.collision_count, known, &FieldPath::new("status").child("collisionCount"), &mut problems);
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, set: &DaemonSet, old: Option<&DaemonSet>) -> Vec<String> {
        let Some(spec) = &set.spec else { return Vec::new() };
        let old = old.and_then(|old| old.spec.as_ref()).map(|spec| &spec.template);
        pod::warnings::of_changed_template(&spec.template, old, &FieldPath::new("spec").child("template"))
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::NAME,
            Column::integer("Desired", "Nodes that should have one."),
            Column::integer("Current", "Nodes that have one."),
            Column::integer("Ready", "Nodes where it is ready."),
            Column::integer("Up-to-date", "Nodes that have the present one."),
            Column::integer("Available", "Nodes where it has been ready for long enough."),
            Column::text("Node Selector", "Which nodes should have one."),
            Column::AGE,
            Column::text("Containers", "Names of their containers.").wide(),
            Column::text("Images", "Images of their containers.").wide(),
            Column::text("Selector", "Which pods are its own.").wide(),
        ];
        COLUMNS
    }
    fn row(&self, set: &DaemonSet, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let empty = api::apps::v1::DaemonSetStatus::default();
        let status = set.status.as_ref().unwrap_or(&empty);
        let spec = set.spec.as_ref();
        let pod_spec = spec.and_then(|spec| spec.template.spec.as_ref());
        let [names, images] = cells::containers(pod_spec);
        vec![
            raw.name().into(),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or_default().into(),
            status.number_available.unwrap_or_default().into(),
            cells::labels(pod_spec.and_then(|spec| spec.node_selector.as_ref())),
            cells::created(raw),
            names,
            images,
            cells::selector(spec.map(|spec| &spec.selector)),
        ]
    }
}
