//! Who controls an object. A controller finds its dependents by the owner reference marked as controller; matching objects without
//! one are adopted, own ones that no longer match are released.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use client::{Api, Patch, PatchParams};

use crate::{Doing, ReconcileError};

/// The reference to an object's controller, if it has one.
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|reference| reference.controller == Some(true))
}

/// Whether `owner` controls the object.
pub fn is_controlled_by(metadata: &ObjectMeta, owner: &ObjectMeta) -> bool {
    owner.uid.is_some() && controller_of(metadata).map(|reference| &reference.uid) == owner.uid.as_ref()
}

/// The uid of an object's controller as an index value: none or one.
pub fn controller_uid(metadata: &ObjectMeta) -> Vec<String> {
    controller_of(metadata).map(|reference| reference.uid.clone()).into_iter().collect()
}

/// A reference that makes `owner` the controller of whoever carries it, and keeps `owner` until that one is gone where its removal
/// is done in the foreground.
pub fn controller_reference<K: client::Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference { controller: Some(true), block_owner_deletion: Some(true), ..plain_reference(owner) }
}

/// A reference that only lets the object go when `owner` is gone.
pub fn plain_reference<K: client::Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// What an owner has to do about a possible dependent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours.
    Keep,
    /// It matches and nobody controls it: make it ours.
    Adopt,
    /// It is ours but does not match any more: let it go.
    Release,
    /// It is none of our business.
    Ignore,
}

/// Decides what `owner` has to do about `object`, which it selects or not.
/// Source: Kubernetes 1.36, `BaseControllerRefManager.ClaimObject`.
pub fn claim(owner: &ObjectMeta, object: &ObjectMeta, selected: bool) -> Claim {
    let owner_leaves = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if selected => Claim::Keep,
        // The garbage collector takes care of dependents of an owner that leaves.
        Some(_) if owner_leaves => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_leaves || !selected || object.deletion_timestamp.is_some() => Claim::Ignore,
        None if object.namespace != owner.namespace => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Adopts an object: adds `reference` to it, provided that it was not changed meanwhile. `None` when it is gone.
pub async fn adopt<K>(api: &Api<K>, object: &K, reference: OwnerReference) -> Result<Option<K>, ReconcileError>
where
    K: client::Resource + Clone + api::Json + std::fmt::Debug,
{
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|other| other.uid != reference.uid);
    references.push(reference);
    set_references(api, object, references, "adopt").await
}

/// Releases an object: removes the reference to `owner_uid`, provided that it was not changed meanwhile. `None` when it is gone.
pub async fn release<K>(api: &Api<K>, object: &K, owner_uid: &str) -> Result<Option<K>, ReconcileError>
where
    K: client::Resource + Clone + api::Json + std::fmt::Debug,
{
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|other| other.uid != owner_uid);
    set_references(api, object, references, "release").await
}

async fn set_references<K>(api: &Api<K>, object: &K, references: Vec<OwnerReference>, action: &str) -> Result<Option<K>, ReconcileError>
where
    K: client::Resource + Clone + api::Json + std::fmt::Debug,
{
    let name = object.meta().name.as_deref().unwrap_or_default();
    let patch = serde_json::json!({ "metadata": {
        "ownerReferences": references,
        "resourceVersion": object.meta().resource_version,
        "uid": object.meta().uid,
    } });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(changed) => Ok(Some(changed)),
        Err(error) if client::is_not_found(&error) => Ok(None),
        Err(error) => Err(error).doing(|| format!("{action} {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn owner(uid: &str) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.to_owned()), namespace: Some("x".to_owned()), ..ObjectMeta::default() }
    }

    fn object(controller: Option<&str>) -> ObjectMeta {
        let reference = |uid: &str| OwnerReference { uid: uid.to_owned(), controller: Some(true), ..OwnerReference::default() };
        ObjectMeta { namespace: Some("x".to_owned()), owner_references: controller.map(|uid| vec![reference(uid)]), ..ObjectMeta::default() }
    }

    fn leaving(metadata: ObjectMeta) -> ObjectMeta {
        ObjectMeta { deletion_timestamp: Some(Time(jiff::Timestamp::UNIX_EPOCH)), ..metadata }
    }

    #[test]
    fn claims_follow_reference_selector_and_deletion() {
        let cases = [
            (owner("1"), object(Some("1")), true, Claim::Keep),
            (owner("1"), object(Some("1")), false, Claim::Release),
            (leaving(owner("1")), object(Some("1")), false, Claim::Ignore),
            (owner("1"), object(Some("2")), true, Claim::Ignore),
            (owner("1"), object(None), true, Claim::Adopt),
            (owner("1"), object(None), false, Claim::Ignore),
            (leaving(owner("1")), object(None), true, Claim::Ignore),
            (owner("1"), leaving(object(None)), true, Claim::Ignore),
        ];
        for (number, (owner, object, selected, expected)) in cases.into_iter().enumerate() {
            assert_eq!(claim(&owner, &object, selected), expected, "case {number}");
        }
    }
}
