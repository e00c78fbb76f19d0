//! The volume claims of a StatefulSet's pods. They are made with the pod and outlive it, unless the set says otherwise.

use client::{Api, Informer, ObjectKey, Patch, PatchParams, PostParams};
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

/// Makes the claims a pod needs, where they are missing. A claim that was to go with an earlier pod of this name is kept.
pub(super) async fn ensure(client: &client::Client, known: &Informer<PersistentVolumeClaim>, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    for claim in claims(set, pod) {
        let name = claim.metadata.name.clone().unwrap_or_default();
        if let Some(existing) = known.get(&ObjectKey::namespaced(namespace, &name)) {
            if existing.metadata.deletion_timestamp.is_some() {
                return Err(ReconcileError::Unusable(format!("volume claim {namespace}/{name} of an earlier pod is still being deleted")));
            }
            let wanted = claim.metadata.owner_references.unwrap_or_default();
            let others = existing.metadata.owner_references.iter().flatten().filter(|owner| !is_ours(owner, set));
            own(&api, &existing, others.cloned().chain(wanted).collect()).await?;
            continue;
        }
        match api.create(&PostParams::default(), &claim).await {
            Err(error) if client::is_already_exists(&error) => {}
            other => drop(other.doing(|| format!("create volume claim {namespace}/{name}"))?),
        }
    }
    Ok(())
}

/// A pod goes because the set shrinks: its claims go with it where the set wants that.
pub(super) async fn let_go_with(client: &client::Client, known: &Informer<PersistentVolumeClaim>, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
    if policy(set).1.as_deref() != Some("Delete") {
        return Ok(());
    }
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    for claim in claims(set, pod) {
        if let Some(existing) = known.get(&ObjectKey::namespaced(namespace, claim.metadata.name.as_deref().unwrap_or_default())) {
            let others = existing.metadata.owner_references.iter().flatten().filter(|owner| !is_ours(owner, set));
            own(&api, &existing, others.cloned().chain([plain_reference(pod)]).collect()).await?;
        }
    }
    Ok(())
}

/// Whether a reference is one that this file sets.
fn is_ours(owner: &OwnerReference, set: &StatefulSet) -> bool {
    owner.kind == "Pod" && owner.api_version == "v1" || Some(&owner.uid) == set.metadata.uid.as_ref()
}

async fn own(api: &Api<PersistentVolumeClaim>, claim: &PersistentVolumeClaim, owners: Vec<OwnerReference>) -> Result<(), ReconcileError> {
    if claim.metadata.owner_references.as_deref().unwrap_or_default() == owners {
        return Ok(());
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({ "metadata": { "ownerReferences": owners, "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version } });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if client::is_not_found(&error) => Ok(()),
        other => other.map(drop).doing(|| format!("change the owners of volume claim {name}")),
    }
}
