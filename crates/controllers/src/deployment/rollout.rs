//! A Deployment with copies of its sets, on which a plan is worked out.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::progress::Conditions;
use super::revision;
use crate::template_hash::template_hash;
use controller::ownership::controller_reference;

/// The label that tells the pods of different sets apart.
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// The working copy.
pub(super) struct Rollout {
    pub deployment: Deployment,
    /// The set of the current template, if there is one.
    pub new: Option<ReplicaSet>,
    /// `new` does not exist yet.
    pub created: bool,
    /// All others, oldest first.
    pub old: Vec<ReplicaSet>,
    pub conditions: Conditions,
    pub now: Timestamp,
}

impl Rollout {
    pub fn new(deployment: &Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Self {
        let mut sets: Vec<ReplicaSet> = sets.iter().map(|set| (**set).clone()).collect();
        sets.sort_by(|one, other| {
            let age = |set: &ReplicaSet| (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone());
            age(one).cmp(&age(other))
        });
        let new = sets.iter().position(|set| same_template(set, deployment)).map(|position| sets.remove(position));
        let conditions = deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        Self { deployment: deployment.clone(), new, created: false, old: sets, conditions: Conditions::new(conditions, now), now }
    }

    /// All sets, the new one last.
    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    /// How many pods are wanted.
    pub fn desired(&self) -> i32 {
        desired(&self.deployment)
    }

    /// The sum of all sets' wanted pods.
    pub fn total(&self) -> i32 {
        self.all().map(size).sum()
    }

    /// Makes sure that there is a set for the current template.
    pub fn ensure_new(&mut self) {
        if self.new.is_none() {
            let set = self.fresh_set();
            self.new = Some(set);
            self.created = true;
            // Sized as the strategy allows next to the sets that are there.
            let size = self.new_size();
            if let Some(spec) = self.new.as_mut().and_then(|set| set.spec.as_mut()) {
                spec.replicas = Some(size);
            }
        }
        revision::sync(self);
    }

    /// How large the new set may be now.
    /// Source: Kubernetes 1.36, `NewRSNewReplicas`.
    pub fn new_size(&self) -> i32 {
        let current = self.new.as_ref().map_or(0, size);
        if is_recreate(&self.deployment) {
            return self.desired();
        }
        let room = self.desired() + max_surge(&self.deployment) - self.total();
        if room <= 0 { current } else { current + room.min(self.desired() - current) }
    }

    /// The set for the current template, with no pods.
    fn fresh_set(&self) -> ReplicaSet {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template_hash(&spec.template, collisions);
        let mut template = spec.template;
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.deployment.metadata.name.as_deref().unwrap_or_default())),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference(&self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec { replicas: Some(0), min_ready_seconds: spec.min_ready_seconds, selector, template: Some(template) }),
            status: None,
        }
    }

    /// Gives one of the sets another size, and notes in it what the sizes were meant for.
    pub fn resize(deployment: &Deployment, set: &mut ReplicaSet, to: i32) {
        set.spec.get_or_insert_default().replicas = Some(to);
        revision::note_sizes(deployment, set);
    }

    /// The existing sets that differ from what they were, with the size they had.
    pub fn changed_sets(&self, before: &[Arc<ReplicaSet>]) -> Vec<(ReplicaSet, i32)> {
        let existing = self.old.iter().chain(self.new.iter().filter(|_| !self.created));
        let changed = existing.filter_map(|set| {
            let old = before.iter().find(|old| old.metadata.uid == set.metadata.uid && old.metadata.name == set.metadata.name)?;
            (**old != *set).then(|| (set.clone(), size(old)))
        });
        changed.collect()
    }
}

/// How many pods a set wants.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How many pods a Deployment wants.
pub(super) fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How many of a set's pods are available.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Whether all old pods go before new ones come.
pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.type_.as_deref()) == Some("Recreate")
}

/// Whether a set has the Deployment's template, the hash label aside.
pub(super) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let without_hash = |template: Option<&PodTemplateSpec>| {
        let mut template = template.cloned().unwrap_or_default();
        let metadata = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH_LABEL);
        }
        metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
        metadata.annotations = metadata.annotations.take().filter(|annotations| !annotations.is_empty());
        template
    };
    without_hash(set.spec.as_ref().and_then(|spec| spec.template.as_ref())) == without_hash(deployment.spec.as_ref().map(|spec| &spec.template))
}

/// Pods a rollout may add and may miss. Percentages are of the wanted pods: surge rounds up, unavailable rounds down. When both come
/// to zero, one pod may be unavailable, since quota can make surge impossible.
/// Source: Kubernetes 1.36, `ResolveFenceposts`.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.rolling_update.clone()).unwrap_or_default();
    let percent = |value: &Option<IntOrString>, round_up| crate::scaled_value(value.as_ref(), desired(deployment), round_up).unwrap_or(0).max(0);
    match (percent(&rolling.max_surge, true), percent(&rolling.max_unavailable, false)) {
        (0, 0) => (0, 1),
        other => other,
    }
}

/// How many pods more than wanted there may be.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { fenceposts(deployment).0 }
}

/// How many of the wanted pods may be unavailable.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) || desired(deployment) == 0 { 0 } else { fenceposts(deployment).1.min(desired(deployment)) }
}
