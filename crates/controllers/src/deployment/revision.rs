//! Revision numbers: each template a Deployment returns to gets the next one. `kubectl rollout history` and `undo` read them from the
//! sets' annotations.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::progress::{self, PROGRESSING};
use super::rollout::{Rollout, desired, max_surge};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that say nothing about its sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Longest list of earlier revisions, in characters. Source: Kubernetes 1.36, `maxRevHistoryLengthInChars`.
const HISTORY_LIMIT: usize = 2000;

/// The revision a set has, 0 for none.
pub(super) fn of(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn annotation<'a>(set: &'a ReplicaSet, name: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Gives the new set the newest revision and the Deployment's annotations, and the Deployment the new set's revision.
/// Source: Kubernetes 1.36, `getNewReplicaSet` and `SetNewReplicaSetAnnotations`.
pub(super) fn sync(rollout: &mut Rollout) {
    let newest_old = rollout.old.iter().map(of).max().unwrap_or(0);
    let deployment = &mut rollout.deployment;
    let Some(set) = &mut rollout.new else { return };
    let copied = deployment.metadata.annotations.clone().unwrap_or_default();
    let current = of(set);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.extend(copied.into_iter().filter(|(name, _)| !NOT_COPIED.contains(&name.as_str())));
    if current < newest_old.saturating_add(1) {
        let earlier = annotations.insert(REVISION.to_owned(), newest_old.saturating_add(1).to_string());
        if let Some(earlier) = earlier.filter(|earlier| !earlier.is_empty()) {
            let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
            remember(history, &earlier);
        }
    }
    if rollout.created {
        note_sizes(deployment, set);
    }
    let spec = set.spec.get_or_insert_default();
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    if spec.min_ready_seconds.unwrap_or(0) != wanted {
        spec.min_ready_seconds = Some(wanted);
    }
    if let Some(revision) = annotation(set, REVISION) {
        let annotations = deployment.metadata.annotations.get_or_insert_default();
        if annotations.get(REVISION).map(String::as_str) != Some(revision) {
            annotations.insert(REVISION.to_owned(), revision.to_owned());
        }
    }
    if progress::has_deadline(deployment) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        if rollout.created {
            rollout.conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""));
        } else if rollout.conditions.get(PROGRESSING).is_none() {
            rollout.conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\""));
        }
    }
}

/// Adds a revision to a list of them, dropping the oldest where it gets too long.
fn remember(history: &mut String, revision: &str) {
    if revision.len() > HISTORY_LIMIT {
        return;
    }
    while !history.is_empty() && history.len() + 1 + revision.len() > HISTORY_LIMIT {
        *history = history.split_once(',').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    }
    if !history.is_empty() {
        history.push(',');
    }
    history.push_str(revision);
}

/// Notes in a set for which size of the Deployment it was sized, so that a later change of that size is seen.
pub(super) fn note_sizes(deployment: &Deployment, set: &mut ReplicaSet) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired(deployment).to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), (desired(deployment) + max_surge(deployment)).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_drops_its_oldest_entries() {
        let mut history = "1,2".to_owned();
        remember(&mut history, "5");
        assert_eq!(history, "1,2,5");
        for revision in 6..2000 {
            remember(&mut history, &revision.to_string());
        }
        assert!(history.len() <= HISTORY_LIMIT && history.ends_with(",1999") && !history.starts_with("1,"));
    }
}
