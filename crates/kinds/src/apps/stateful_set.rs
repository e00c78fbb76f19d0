//! StatefulSet: pods with names and storage of their own.

use api::apps::v1::{StatefulSet, StatefulSetSpec};
use jiff::Timestamp;
use meta::{FieldError, FieldPath, Object};
use serde_json::Value;

use crate::{
    cells,
    core::{persistent_volume_claim::fractions, pod},
    problems::{ABOVE_REPLICAS, always_restarts, int_or_percent, is_zero, not_negative, one_of, only_grows, status_counts, workload_selector},
    strategy::{Column, Strategy},
};

/// Behaviour of stateful sets.
pub struct StatefulSetStrategy;

impl Strategy for StatefulSetStrategy {
    type Kind = StatefulSet;

    fn default(&self, set: &mut StatefulSet) {
        let Some(spec) = &mut set.spec else { return };
        pod::defaults::template(&mut spec.template);
        if let Some(strategy) = &mut spec.update_strategy
            && strategy.type_.as_deref() == Some("RollingUpdate")
        {
            strategy.rolling_update.get_or_insert_default().partition.get_or_insert(0);
        }
    }
    fn validate(&self, set: &StatefulSet) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let path = FieldPath::new("spec");
        let empty = StatefulSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        match spec.pod_management_policy.as_deref().unwrap_or_default() {
            "" => problems.push(FieldError::required(&path.child("podManagementPolicy"), "")),
            "OrderedReady" | "Parallel" => {}
            other => problems.push(FieldError::invalid(&path.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'")),
        }
        if let Some(strategy) = &spec.update_strategy {
            let at = path.child("updateStrategy");
            match strategy.type_.as_deref().unwrap_or_default() {
                "" => problems.push(FieldError::required(&at, "")),
                "OnDelete" => {
                    if strategy.rolling_update.is_some() {
                        problems.push(FieldError::invalid(
                            &at.child("rollingUpdate"),
                            serde_json::to_value(&strategy.rolling_update).unwrap_or_default(),
                            "only allowed for updateStrategy 'RollingUpdate'",
                        ));
                    }
                }
                "RollingUpdate" => {
                    let partition = strategy.rolling_update.as_ref().and_then(|rolling| rolling.partition);
                    not_negative(partition.map(i64::from), &at.child("rollingUpdate").child("partition"), &mut problems);
                    let most = strategy.rolling_update.as_ref().and_then(|rolling| rolling.max_unavailable.as_ref());
                    if most.is_some_and(|most| is_zero(Some(most))) {
                        let shown = serde_json::json!(most);
                        problems.push(FieldError::invalid(&at.child("rollingUpdate").child("maxUnavailable"), shown, "cannot be 0"));
                    }
                    int_or_percent(most, &at.child("rollingUpdate").child("maxUnavailable"), &mut problems);
                }
                _ => {
                    let shown = serde_json::to_value(strategy).unwrap_or_default();
                    problems.push(FieldError::invalid(&at, shown, "must be 'RollingUpdate' or 'OnDelete'"));
                }
            }
        }
        if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
            let at = path.child("persistentVolumeClaimRetentionPolicy");
            one_of(policy.when_deleted.as_deref().unwrap_or_default(), &["Delete", "Retain"], &at.child("whenDeleted"), &mut problems);
            one_of(policy.when_scaled.as_deref().unwrap_or_default(), &["Delete", "Retain"], &at.child("whenScaled"), &mut problems);
        }
        not_negative(spec.replicas.map(i64::from), &path.child("replicas"), &mut problems);
        not_negative(spec.min_ready_seconds.map(i64::from), &path.child("minReadySeconds"), &mut problems);
        not_negative(spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).map(i64::from), &path.child("ordinals").child("start"), &mut problems);
        workload_selector(&spec.selector, &spec.template, &path, &mut problems);
        // Volumes named by claim templates are added to each pod, so that mounts of them are no mistake here.
        let mut template = std::borrow::Cow::Borrowed(&spec.template);
        if let Some(claims) = spec.volume_claim_templates.as_ref().filter(|claims| !claims.is_empty()) {
            if let Some(pod_spec) = template.to_mut().spec.as_mut() {
                let volumes = pod_spec.volumes.get_or_insert_default();
                for name in claims.iter().filter_map(|claim| claim.metadata.name.clone()) {
                    volumes.retain(|volume| volume.name != name);
                    volumes.push(api::core::v1::Volume {
                        name: name.clone(),
                        persistent_volume_claim: Some(api::core::v1::PersistentVolumeClaimVolumeSource { claim_name: name, read_only: None }),
                        ..api::core::v1::Volume::default()
                    });
                }
            }
        }
        problems.extend(pod::validation::template(&template, &path.child("template")));
        always_restarts(&spec.template, "StatefulSet", &path.child("template"), &mut problems);
        problems
    }
    fn validate_update(&self, set: &StatefulSet, old: &StatefulSet) -> Vec<FieldError> {
        let mut problems = self.validate(set);
        let (Some(new), Some(old)) = (&set.spec, &old.spec) else { return problems };
        let fixed = |spec: &StatefulSetSpec| {
            (spec.selector.clone(), spec.service_name.clone(), spec.pod_management_policy.clone(), spec.volume_claim_templates.clone())
        };
        if fixed(new) != fixed(old) {
            problems.push(FieldError::forbidden(
                &FieldPath::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            ));
        }
        problems
    }
    fn validate_status_update(&self, set: &StatefulSet, old: &StatefulSet) -> Vec<FieldError> {
        let mut problems = Vec::new();
        let Some(status) = &set.status else { return problems };
        let wide = |count: Option<i32>| count.map(i64::from);
        let counts = [
            ("replicas", Some(i64::from(status.replicas))),
            ("readyReplicas", wide(status.ready_replicas)),
            ("currentReplicas", wide(status.current_replicas)),
            ("updatedReplicas", wide(status.updated_replicas)),
            ("availableReplicas", wide(status.available_replicas)),
            ("observedGeneration", status.observed_generation),
            ("collisionCount", wide(status.collision_count)),
        ];
        let bounds = [
            ("readyReplicas", "replicas", ABOVE_REPLICAS),
            ("currentReplicas", "replicas", ABOVE_REPLICAS),
            ("updatedReplicas", "replicas", ABOVE_REPLICAS),
            ("availableReplicas", "replicas", ABOVE_REPLICAS),
            ("availableReplicas", "readyReplicas", "cannot be greater than status.readyReplicas"),
        ];
        status_counts(&counts, &bounds, &mut problems);
        let known = old.status.as_ref().and_then(|status| status.collision_count);
        only_grows(status.collision_count, known, &FieldPath::new("status").child("collisionCount"), &mut problems);
        problems
    }
    fn has_warnings(&self) -> bool {
        true
    }
    fn warnings(&self, set: &StatefulSet, old: Option<&StatefulSet>) -> Vec<String> {
        let Some(spec) = &set.spec else { return Vec::new() };
        let (path, old) = (FieldPath::new("spec"), old.and_then(|old| old.spec.as_ref()).map(|spec| &spec.template));
        let mut warnings = pod::warnings::of_changed_template(&spec.template, old, &path.child("template"));
        for (index, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            warnings.extend(fractions(claim.spec.as_ref(), &path.child("volumeClaimTemplates").index(index)));
        }
        if spec.revision_history_limit.is_some_and(|limit| limit < 0) {
            let at = path.child("revisionHistoryLimit");
            warnings.push(format!("{at}: a negative value retains all historical revisions; a value >= 0 is recommended"));
        }
        warnings
    }
    fn tracks_generation(&self) -> bool {
        true
    }
    fn columns(&self) -> &'static [Column] {
        const { &[
            Column::NAME,
            Column::text("Ready", "Pods that are ready, of those wanted."),
            Column::AGE,
            Column::text("Containers", "Names of their containers.").wide(),
            Column::text("Images", "Images of their containers.").wide(),
        ] }
    }
    fn row(&self, set: &StatefulSet, raw: &Object, _now: Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        let [names, images] = cells::containers(spec.and_then(|spec| spec.template.spec.as_ref()));
        let wanted = spec.and_then(|spec| spec.replicas).unwrap_or_default();
        vec![raw.name().into(), format!("{ready}/{wanted}").into(), cells::created(raw), names, images]
    }
}
