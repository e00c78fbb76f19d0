//! The volume claims of a StatefulSet's pods. They are made with the pod and outlive it, unless the set says otherwise.

use std::sync::Arc;

use client::{Api, EventRecorder, EventType, Informer, Patch, PatchParams, PostParams};
use controller::ownership::controller_reference;
use controller::{Doing, ReconcileError};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use super::identity;
use super::plan::belongs;

/// The claims that a pod of the set should have.
fn claims(set: &StatefulSet, pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let Some(ordinal) = identity::ordinal(set_name, pod) else { return Vec::new() };
    let spec = set.spec.clone().unwrap_or_default();
    let make = |template: PersistentVolumeClaim| {
        let mut claim = template;
        let name = claim.metadata.name.unwrap_or_default();
        claim.metadata.name = Some(identity::claim_name(&name, set_name, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim.metadata.labels.get_or_insert_default().extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        claim
    };
    spec.volume_claim_templates.clone().unwrap_or_default().into_iter().map(make).collect()
}

/// Whether a claim of this name is one of the set's, of whichever number.
pub(super) fn is_of(set: &StatefulSet, claim: &str) -> bool {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let prefixes = templates.filter_map(|template| Some(format!("{}-{set_name}-", template.metadata.name.as_deref()?)));
    prefixes.into_iter().any(|prefix| claim.strip_prefix(&prefix).is_some_and(|number| number.parse::<u32>().is_ok()))
}

/// Whether claims go with the set, and whether they go with a pod that the set needs no more.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.clone()).unwrap_or_default();
    (policy.when_deleted.as_deref() == Some("Delete"), policy.when_scaled.as_deref() == Some("Delete"))
}

/// Whether a reference names an object, be it of this uid or of another that had the name before.
fn names(reference: &OwnerReference, owner: &OwnerReference) -> bool {
    (&reference.api_version, &reference.kind, &reference.name) == (&owner.api_version, &owner.kind, &owner.name)
}

/// The owners that a claim should have, where it has others. A claim of a set or pod that had the name before is left to the garbage
/// collector, and one that something else manages belongs to neither set nor pod.
/// Source: Kubernetes 1.36, `isClaimOwnerUpToDate` and `updateClaimOwnerRefForSetAndPod`.
fn new_owners(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> Option<Vec<OwnerReference>> {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let (set_reference, pod_reference) = (controller_reference(set), controller_reference(pod));
    let is_stale = |owner: &OwnerReference| owners.iter().find(|other| names(other, owner)).is_some_and(|other| other.uid != owner.uid);
    if is_stale(&set_reference) || is_stale(&pod_reference) {
        return None;
    }
    let has = |owner: &OwnerReference| owners.iter().find(|other| other.uid == owner.uid);
    let (of_set, of_pod) = (has(&set_reference), has(&pod_reference));
    let (with_set, with_pod) = policy(set);
    let wanted = match (with_set, with_pod && !belongs(set, pod)) {
        _ if has_foreign_controller(claim, set, pod) => None,
        (_, true) => Some(&pod_reference),
        (true, false) => Some(&set_reference),
        (false, false) => None,
    };
    let is_wanted = |owner: &OwnerReference, found: Option<&OwnerReference>| match wanted {
        Some(wanted) if wanted.uid == owner.uid => found.is_some_and(|found| found.controller == Some(true)),
        _ => found.is_none(),
    };
    if is_wanted(&set_reference, of_set) && is_wanted(&pod_reference, of_pod) {
        return None;
    }
    let others = owners.iter().filter(|other| !names(other, &set_reference) && !names(other, &pod_reference));
    Some(others.chain(wanted).cloned().collect())
}

/// Whether something else manages a claim that the set is to remove one day.
/// Source: Kubernetes 1.36, `hasUnexpectedController`.
fn has_foreign_controller(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    let (set_reference, pod_reference) = (controller_reference(set), controller_reference(pod));
    let is_foreign = |owner: &OwnerReference| {
        let ours = [&set_reference, &pod_reference].into_iter().find(|ours| names(owner, ours));
        ours.map_or(owner.controller == Some(true), |ours| ours.uid != owner.uid)
    };
    policy(set) != (false, false) && claim.metadata.owner_references.iter().flatten().any(is_foreign)
}

/// Where claims are read and written.
pub(super) struct Claims<'a> {
    pub client: &'a client::Client,
    pub known: &'a Informer<PersistentVolumeClaim>,
    pub events: &'a EventRecorder,
}

impl Claims<'_> {
    fn api(&self, set: &StatefulSet) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), set.metadata.namespace.as_deref().unwrap_or_default())
    }

    /// The claims of a pod that are there.
    fn existing(&self, set: &StatefulSet, pod: &Pod) -> Vec<Arc<PersistentVolumeClaim>> {
        claims(set, pod).iter().filter_map(|claim| self.known.get(&client::key_of(claim))).collect()
    }

    /// Whether a claim is still to go with an earlier pod of this name: its data are not for a new one, which waits until it is gone.
    /// Source: Kubernetes 1.36, `PodClaimIsStale`.
    pub fn are_stale(&self, set: &StatefulSet, pod: &Pod) -> bool {
        let pod_reference = controller_reference(pod);
        let is_stale = |owner: &OwnerReference| names(owner, &pod_reference) && owner.uid != pod_reference.uid;
        policy(set).1 && self.existing(set, pod).iter().any(|claim| claim.metadata.owner_references.iter().flatten().any(is_stale))
    }

    /// Makes the claims a pod needs, where they are missing. Tries all of them; the error says what is wrong with each.
    /// Source: Kubernetes 1.36, `createPersistentVolumeClaims`.
    pub async fn ensure(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let (set_name, pod_name) = (set.metadata.name.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
        let mut problems = Vec::new();
        for claim in claims(set, pod) {
            let key = client::key_of(&claim);
            if let Some(existing) = self.known.get(&key) {
                if existing.metadata.deletion_timestamp.is_some() {
                    problems.push(format!("pvc {} is being deleted", key.name));
                }
                continue;
            }
            match self.api(set).create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let message = format!("create Claim {} Pod {pod_name} in StatefulSet {set_name} success", key.name);
                    self.events.record(set, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) if client::is_already_exists(&error) => {}
                Err(error) => {
                    let why = crate::api_message(&error);
                    let message = format!("create Claim {} for Pod {pod_name} in StatefulSet {set_name} failed error: {why}", key.name);
                    self.events.record(set, EventType::Warning, "FailedCreate", message);
                    problems.push(format!("failed to create PVC {}: {why}", key.name));
                }
            }
        }
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(ReconcileError::Unusable(one.clone())),
            several => Err(ReconcileError::Unusable(format!("[{}]", several.join(", ")))),
        }
    }

    /// Gives the claims of a pod the owners that the set's policy asks for now. True when one had others.
    /// Source: Kubernetes 1.36, `ClaimsMatchRetentionPolicy` and `UpdatePodClaimForRetentionPolicy`.
    pub async fn keep(&self, set: &StatefulSet, pod: &Pod) -> Result<bool, ReconcileError> {
        let existing = self.existing(set, pod);
        if existing.iter().all(|claim| new_owners(claim, set, pod).is_none()) {
            return Ok(false);
        }
        for claim in existing {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            if has_foreign_controller(&claim, set, pod) {
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
                );
                self.events.record(set, EventType::Warning, "ConflictingController", message);
            }
            let Some(owners) = new_owners(&claim, set, pod) else { continue };
            let patch = json!({ "metadata": { "ownerReferences": owners, "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version } });
            match self.api(set).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if client::is_not_found(&error) => {}
                other => drop(other.doing(|| format!("update claim {name} for delete policy ownerRefs"))?),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::fake::FakeApi;

    fn set(when_deleted: &str, when_scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": { "name": "db", "namespace": "x", "uid": "uid-db" },
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": { "app": "db" } },
                "serviceName": "db",
                "template": {},
                "persistentVolumeClaimRetentionPolicy": { "whenDeleted": when_deleted, "whenScaled": when_scaled },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
            },
        }))
        .unwrap()
    }

    /// The owners that a claim of pod `db-0` (which stays) or `db-1` (which goes) gets, as `kind uid controls`; `=` where it keeps its own.
    #[track_caller]
    fn check(policy: (&str, &str), pod: &str, owners: &[(&str, &str, &str, bool)], expected: &str) {
        let reference = |(kind, name, uid, controls): &(&str, &str, &str, bool)| OwnerReference {
            api_version: if *kind == "Pod" { "v1" } else { "apps/v1" }.to_owned(),
            kind: (*kind).to_owned(),
            name: (*name).to_owned(),
            uid: (*uid).to_owned(),
            controller: Some(*controls),
            block_owner_deletion: None,
        };
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.owner_references = Some(owners.iter().map(reference).collect());
        let pod = crate::pods::tests::pod(pod, "Running", "n", Some(0));
        let found = new_owners(&claim, &set(policy.0, policy.1), &pod);
        let told = |owner: &OwnerReference| format!("{} {}{}", owner.kind, owner.uid, if owner.controller == Some(true) { " controls" } else { "" });
        let found = found.map_or("=".to_owned(), |owners| owners.iter().map(told).collect::<Vec<_>>().join(", "));
        assert_eq!(found, expected);
    }

    #[test]
    fn claims_belong_to_the_set_to_the_pod_or_to_nobody() {
        let (set, old_set) = (("StatefulSet", "db", "uid-db", true), ("StatefulSet", "db", "uid-old", true));
        let pod = |controls| ("Pod", "db-1", "uid-db-1", controls);
        check(("Retain", "Retain"), "db-0", &[], "=");
        check(("Retain", "Retain"), "db-0", &[set], "");
        check(("Delete", "Retain"), "db-0", &[], "StatefulSet uid-db controls");
        check(("Delete", "Retain"), "db-1", &[], "StatefulSet uid-db controls");
        check(("Delete", "Retain"), "db-0", &[set], "=");
        check(("Retain", "Delete"), "db-0", &[], "=");
        check(("Retain", "Delete"), "db-1", &[], "Pod uid-db-1 controls");
        check(("Delete", "Delete"), "db-1", &[set], "Pod uid-db-1 controls");
        check(("Delete", "Delete"), "db-1", &[pod(true)], "=");
        // Who owned it without controlling it, as older versions had it, does so from now on.
        check(("Retain", "Delete"), "db-1", &[pod(false)], "Pod uid-db-1 controls");
        // What had the name before is the garbage collector's business.
        check(("Delete", "Retain"), "db-0", &[old_set], "=");
        check(("Delete", "Delete"), "db-1", &[("Pod", "db-1", "uid-old", true)], "=");
        // What something else manages belongs to nobody else, and owners that manage nothing stay.
        let (manager, other) = (("Backup", "b", "uid-b", true), ("Backup", "b", "uid-b", false));
        check(("Delete", "Delete"), "db-0", &[manager], "=");
        check(("Delete", "Delete"), "db-0", &[manager, set], "Backup uid-b controls");
        check(("Delete", "Retain"), "db-0", &[other], "Backup uid-b, StatefulSet uid-db controls");
        check(("Retain", "Retain"), "db-0", &[manager], "=");
    }

    #[test]
    fn a_claim_is_of_the_set_by_its_name() {
        let set = set("Retain", "Retain");
        assert_eq!(["data-db-0", "data-db-12", "data-db-x", "logs-db-0", "data-db-1-0"].map(|name| is_of(&set, name)), [true, true, false, false, false]);
    }

    #[tokio::test]
    async fn claims_follow_the_policy_also_when_it_changes_later() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let known = context.informers.of::<PersistentVolumeClaim>();
        let events = context.events("tester");
        let claims = Claims { client: &fake.client(), known: &known, events: &events };
        let pod = crate::pods::tests::pod("db-0", "Running", "n", None);
        let mut changes = known.subscribe();
        let mut until_owned_by = async |count: usize| {
            let owners = |claim: &PersistentVolumeClaim| claim.metadata.owner_references.clone().unwrap_or_default().len();
            while known.get_in("x", "data-db-0").map(|claim| owners(&claim)) != Some(count) {
                changes.recv().await.unwrap();
            }
        };
        claims.ensure(&set("Retain", "Retain"), &pod).await.unwrap();
        within("the claim", until_owned_by(0)).await;
        assert!(claims.keep(&set("Delete", "Retain"), &pod).await.unwrap());
        within("the owner", until_owned_by(1)).await;
        assert!(!claims.keep(&set("Delete", "Retain"), &pod).await.unwrap());
        assert!(claims.keep(&set("Retain", "Retain"), &pod).await.unwrap());
        within("no owner", until_owned_by(0)).await;
    }

    #[tokio::test]
    async fn a_claim_that_goes_with_an_earlier_pod_is_not_for_the_next() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let known = context.informers.of::<PersistentVolumeClaim>();
        let events = context.events("tester");
        let claims = Claims { client: &fake.client(), known: &known, events: &events };
        let (earlier, policy) = (crate::pods::tests::pod("db-1", "Running", "n", None), set("Retain", "Delete"));
        let mut changes = known.subscribe();
        claims.ensure(&policy, &earlier).await.unwrap();
        within("the claim", changes.recv()).await.unwrap();
        assert!(!claims.are_stale(&policy, &earlier));
        assert!(claims.keep(&policy, &earlier).await.unwrap());
        within("the owner", changes.recv()).await.unwrap();
        let mut next = (*earlier).clone();
        next.metadata.uid = None;
        assert!(claims.are_stale(&policy, &next) && !claims.are_stale(&policy, &earlier) && !claims.are_stale(&set("Retain", "Retain"), &next));
    }
}
