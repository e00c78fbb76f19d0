//! The volume claims of a StatefulSet's pods. They are made with the pod and outlive it, unless the set says otherwise.

use std::sync::Arc;

use client::{Api, EventRecorder, EventType, Informer, Patch, PatchParams, PostParams};
use controller::ownership::plain_reference;
use controller::{Doing, ReconcileError};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use super::identity;

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
        if goes_with_set(set) {
            claim.metadata.owner_references = Some(vec![plain_reference(set)]);
        }
        claim.status = None;
        claim
    };
    spec.volume_claim_templates.clone().unwrap_or_default().into_iter().map(make).collect()
}

fn policy(set: &StatefulSet) -> (Option<String>, Option<String>) {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.clone()).unwrap_or_default();
    (policy.when_deleted, policy.when_scaled)
}

fn goes_with_set(set: &StatefulSet) -> bool {
    policy(set).0.as_deref() == Some("Delete")
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

    fn existing(&self, claim: &PersistentVolumeClaim) -> Option<Arc<PersistentVolumeClaim>> {
        self.known.get(&client::key_of(claim))
    }

    /// Makes the claims a pod needs, where they are missing. A claim that was to go with an earlier pod of this name is kept.
    pub async fn ensure(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let (set_name, pod_name) = (set.metadata.name.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
        for claim in claims(set, pod) {
            let key = client::key_of(&claim);
            if let Some(existing) = self.existing(&claim) {
                if existing.metadata.deletion_timestamp.is_some() {
                    return Err(ReconcileError::Unusable(format!("volume claim {key} of an earlier pod is still being deleted")));
                }
                self.own(set, &existing, claim.metadata.owner_references.unwrap_or_default()).await?;
                continue;
            }
            match self.api(set).create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let message = format!("create Claim {} Pod {pod_name} in StatefulSet {set_name} success", key.name);
                    self.events.record(set, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) if client::is_already_exists(&error) => {}
                Err(error) => {
                    let message = format!("create Claim {} for Pod {pod_name} in StatefulSet {set_name} failed error: {}", key.name, crate::api_message(&error));
                    self.events.record(set, EventType::Warning, "FailedCreate", message);
                    return Err(error).doing(|| format!("create volume claim {key}"));
                }
            }
        }
        Ok(())
    }

    /// Gives the claims of a pod that stays the owners that the set's policy asks for now.
    /// Source: Kubernetes 1.36, `UpdatePodClaimForRetentionPolicy`.
    pub async fn keep(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        for claim in claims(set, pod) {
            if let Some(existing) = self.existing(&claim).filter(|existing| existing.metadata.deletion_timestamp.is_none()) {
                self.own(set, &existing, claim.metadata.owner_references.unwrap_or_default()).await?;
            }
        }
        Ok(())
    }

    /// A pod goes because the set shrinks: its claims go with it where the set wants that.
    pub async fn let_go_with(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        if policy(set).1.as_deref() != Some("Delete") {
            return Ok(());
        }
        for claim in claims(set, pod) {
            if let Some(existing) = self.existing(&claim) {
                self.own(set, &existing, vec![plain_reference(pod)]).await?;
            }
        }
        Ok(())
    }

    /// Makes these the owners that this file sets. A claim that something else manages is left alone.
    async fn own(&self, set: &StatefulSet, claim: &PersistentVolumeClaim, wanted: Vec<OwnerReference>) -> Result<(), ReconcileError> {
        let others = claim.metadata.owner_references.iter().flatten().filter(|owner| !is_ours(owner, set));
        let owners: Vec<OwnerReference> = others.clone().cloned().chain(wanted).collect();
        if claim.metadata.owner_references.as_deref().unwrap_or_default() == owners {
            return Ok(());
        }
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        if others.into_iter().any(|owner| owner.controller == Some(true)) {
            let message =
                format!("PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a managing controller, the retention policy is ignored for this claim");
            self.events.record(set, EventType::Warning, "ConflictingController", message);
            return Ok(());
        }
        let patch = json!({ "metadata": { "ownerReferences": owners, "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version } });
        match self.api(set).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if client::is_not_found(&error) => Ok(()),
            other => other.map(drop).doing(|| format!("change the owners of volume claim {name}")),
        }
    }
}

/// Whether a reference is one that this file sets.
fn is_ours(owner: &OwnerReference, set: &StatefulSet) -> bool {
    owner.kind == "Pod" && owner.api_version == "v1" || Some(&owner.uid) == set.metadata.uid.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::fake::FakeApi;

    #[tokio::test]
    async fn claims_follow_the_policy_also_when_it_changes_later() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let known = context.informers.of::<PersistentVolumeClaim>();
        let events = context.events("tester");
        let claims = Claims { client: &fake.client(), known: &known, events: &events };
        let set = |when_deleted: &str| -> StatefulSet {
            serde_json::from_value(json!({
                "metadata": { "name": "db", "namespace": "x", "uid": "uid-db" },
                "spec": {
                    "selector": { "matchLabels": { "app": "db" } },
                    "serviceName": "db",
                    "template": {},
                    "persistentVolumeClaimRetentionPolicy": { "whenDeleted": when_deleted },
                    "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
                },
            }))
            .unwrap()
        };
        let pod = crate::pods::tests::pod("db-0", "Running", "n", None);
        let mut changes = known.subscribe();
        let mut until_owned_by = async |count: usize| {
            let owners = |claim: &PersistentVolumeClaim| claim.metadata.owner_references.clone().unwrap_or_default().len();
            while known.get_in("x", "data-db-0").map(|claim| owners(&claim)) != Some(count) {
                changes.recv().await.unwrap();
            }
        };
        claims.ensure(&set("Retain"), &pod).await.unwrap();
        within("the claim", until_owned_by(0)).await;
        claims.keep(&set("Delete"), &pod).await.unwrap();
        within("the owner", until_owned_by(1)).await;
        claims.keep(&set("Retain"), &pod).await.unwrap();
        within("no owner", until_owned_by(0)).await;
    }
}
