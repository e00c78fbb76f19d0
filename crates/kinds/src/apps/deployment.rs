//! Deployment: rolls out changes of a set of equal pods.

use api::{
    apimachinery::pkg::util::intstr::IntOrString,
    apps::v1::{Deployment, DeploymentSpec},
};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    core::pod,
    problems::{ABOVE_REPLICAS, always_restarts, immutable, int_or_percent, is_zero, not_negative, one_hundred_percent, only_grows, status_counts, workload_selector},
    strategy::{Column, Strategy, WriteContext},
};

/// Behaviour of deployments.
pub struct DeploymentStrategy;

impl Strategy for DeploymentStrategy {
    type Kind = Deployment;

    fn default(&self, deployment: &mut Deployment) {
        let Some(spec) = &mut deployment.spec else { return };
        pod::defaults::template(&mut spec.template);
        if let Some(strategy) = &mut spec.strategy
            && strategy.type_.as_deref() == Some("RollingUpdate")
        {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
            rolling.max_surge.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
        }
    }
    fn validate(&self, deployment: &Deployment) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let empty = DeploymentSpec::default();
        let spec = deployment.spec.as_ref().unwrap_or(&empty);
        not_negative(spec.replicas.map(i64::from), &path.child("replicas"), &mut problems);
        workload_selector(&spec.selector, &spec.template, &path, &mut problems);
        problems.extend(pod::validation::template(&spec.template, &path.child("template")));
        always_restarts(&spec.template, "ReplicaSet", &path.child("template"), &mut problems);
        if let Some(strategy) = &spec.strategy {
            let at = path.child("strategy");
            match strategy.type_.as_deref().unwrap_or_default() {
                "Recreate" if strategy.rolling_update.is_some() => problems.push(FieldError::forbidden(
                    &at.child("rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                )),
                "Recreate" => {}
                "RollingUpdate" => match &strategy.rolling_update {
                    None => problems.push(FieldError::required(&at.child("rollingUpdate"), "this should be defaulted and never be nil")),
                    Some(rolling) => {
                        let at = at.child("rollingUpdate");
                        int_or_percent(rolling.max_unavailable.as_ref(), &at.child("maxUnavailable"), &mut problems);
                        int_or_percent(rolling.max_surge.as_ref(), &at.child("maxSurge"), &mut problems);
                        one_hundred_percent(rolling.max_unavailable.as_ref(), &at.child("maxUnavailable"), &mut problems);
                        if is_zero(rolling.max_unavailable.as_ref()) && is_zero(rolling.max_surge.as_ref()) {
                            problems.push(FieldError::invalid(
                                &at.child("maxUnavailable"),
                                serde_json::json!(rolling.max_unavailable),
                                "may not be 0 when `maxSurge` is 0",
                            ));
                        }
                    }
                },
                other => problems.push(FieldError::not_supported(&at.child("type"), other, &["Recreate", "RollingUpdate"])),
            }
        }
        not_negative(spec.min_ready_seconds.map(i64::from), &path.child("minReadySeconds"), &mut problems);
        not_negative(spec.revision_history_limit.map(i64::from), &path.child("revisionHistoryLimit"), &mut problems);
        if let Some(seconds) = spec.progress_deadline_seconds {
            not_negative(Some(i64::from(seconds)), &path.child("progressDeadlineSeconds"), &mut problems);
            if seconds <= spec.min_ready_seconds.unwrap_or_default() {
                problems.push(FieldError::invalid(&path.child("progressDeadlineSeconds"), seconds, "must be greater than minReadySeconds"));
            }
        }
        problems
    }
    fn validate_update(&self, deployment: &Deployment, old: &Deployment) -> Vec<FieldError> {
        let mut problems = self.validate(deployment);
        if let (Some(new), Some(old)) = (&deployment.spec, &old.spec) {
            immutable(&new.selector, &old.selector, &FieldPath::new("spec").child("selector"), &mut problems);
        }
        problems
    }
    /// Labels are not a status's business. Source: Kubernetes, `deploymentStatusStrategy.PrepareForUpdate`.
    fn prepare_status_update(&self, _context: &WriteContext, deployment: &mut Deployment, old: &Deployment) {
        deployment.metadata.labels.clone_from(&old.metadata.labels);
    }
    fn validate_status_update(&self, deployment: &Deployment, old: &Deployment) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let Some(status) = &deployment.status else { return problems };
        let wide = |count: Option<i32>| count.map(i64::from);
        let counts = [
            ("observedGeneration", status.observed_generation),
            ("replicas", wide(status.replicas)),
            ("updatedReplicas", wide(status.updated_replicas)),
            ("readyReplicas", wide(status.ready_replicas)),
            ("availableReplicas", wide(status.available_replicas)),
            ("unavailableReplicas", wide(status.unavailable_replicas)),
            ("collisionCount", wide(status.collision_count)),
        ];
        let bounds = [
            ("updatedReplicas", "replicas", ABOVE_REPLICAS),
            ("readyReplicas", "replicas", ABOVE_REPLICAS),
            ("availableReplicas", "replicas", ABOVE_REPLICAS),
            ("availableReplicas", "readyReplicas", "cannot be greater than readyReplicas"),
        ];
        status_counts(&counts, &bounds, &mut problems);
        let known = old.status.as_ref().and_then(|status| status.collision_count);
        only_grows(status.collision_count, known, &FieldPath::new("status").child("collisionCount"), &mut problems);
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, deployment: &Deployment, old: Option<&Deployment>) -> Vec<String> {
        let Some(spec) = &deployment.spec else { return Vec::new() };
        let old = old.and_then(|old| old.spec.as_ref()).map(|spec| &spec.template);
        pod::warnings::of_owner(&deployment.metadata, &spec.template, old, &FieldPath::new("spec").child("template"))
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::NAME,
            Column::text("Ready", "Pods that are ready, of those wanted."),
            Column::text("Up-to-date", "Pods made from the present template."),
            Column::text("Available", "Pods that have been ready for long enough."),
            Column::AGE,
            Column::text("Containers", "Names of their containers.").wide(),
            Column::text("Images", "Images of their containers.").wide(),
            Column::text("Selector", "Which pods are its own.").wide(),
        ];
        COLUMNS
    }
    fn row(&self, deployment: &Deployment, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = deployment.spec.as_ref();
        let status = deployment.status.as_ref();
        let ready = status.and_then(|status| status.ready_replicas).unwrap_or_default();
        let wanted = spec.and_then(|spec| spec.replicas).unwrap_or_default();
        let [names, images] = cells::containers(spec.and_then(|spec| spec.template.spec.as_ref()));
        vec![
            raw.name().into(),
            format!("{ready}/{wanted}").into(),
            status.and_then(|status| status.updated_replicas).unwrap_or_default().into(),
            status.and_then(|status| status.available_replicas).unwrap_or_default().into(),
            cells::created(raw),
            names,
            images,
            cells::selector(spec.map(|spec| &spec.selector)),
        ]
    }
}
