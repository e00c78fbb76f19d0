//! A claim stays while a pod uses it, a volume while a claim has it: both carry a finalizer from the start, which is taken away here
//! once they are to go and nobody needs them.

use async_trait::async_trait;
use client::{Api, Index, Informer, ObjectKey, Patch, PatchParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::{claims_of, pods_by_claim, volume_phase};
use crate::{ControllerContext, pods};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLAIM_CONTROLLER: &str = "pvc-protection-controller";
const VOLUME_CONTROLLER: &str = "pv-protection-controller";

/// Starts both controllers.
pub(super) fn start(context: &ControllerContext, runner: &Runner) {
    let pods = context.informers.of::<Pod>();
    runner.start(
        ClaimProtection { client: context.client(CLAIM_CONTROLLER), claims: context.informers.of(), pods_by_claim: pods_by_claim(&pods), pods },
        2,
    );
    runner.start(VolumeProtection { client: context.client(VOLUME_CONTROLLER), volumes: context.informers.of() }, 2);
}

/// The finalizers an object should have: with the protection until it is to go and nobody uses it. `None` when it has them.
fn wanted_finalizers(metadata: &ObjectMeta, protection: &str, is_used: impl FnOnce() -> bool) -> Option<Vec<String>> {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    let is_protected = finalizers.iter().any(|finalizer| finalizer == protection);
    match (metadata.deletion_timestamp.is_some(), is_protected) {
        (false, false) => finalizers.push(protection.to_owned()),
        (true, true) if !is_used() => finalizers.retain(|finalizer| finalizer != protection),
        _ => return None,
    }
    Some(finalizers)
}

async fn set_finalizers<K>(api: Api<K>, key: &ObjectKey, metadata: &ObjectMeta, finalizers: Vec<String>) -> Result<Outcome, ReconcileError>
where
    K: client::Watchable,
{
    let patch = json!({ "metadata": { "finalizers": finalizers, "uid": metadata.uid, "resourceVersion": metadata.resource_version } });
    match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
        other => other.map(|_| Outcome::Settled).doing(|| format!("change the finalizers of {key}")),
    }
}

struct ClaimProtection {
    client: client::Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
    pods_by_claim: Index<Pod>,
}

#[async_trait]
impl Reconciler for ClaimProtection {
    fn name(&self) -> &'static str {
        CLAIM_CONTROLLER
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself(&self.claims),
            Trigger::on(&self.pods, |change| {
                // Only the end of a pod can free a claim.
                let Some(pod) = change.old.as_ref().filter(|_| change.new.is_none()) else { return Vec::new() };
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                claims_of(pod).iter().map(|claim| ObjectKey::namespaced(namespace, claim)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Settled) };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        // A pod that is on no node yet will not be started with a claim that is going.
        let is_used = || self.pods_by_claim.get(&format!("{namespace}/{}", key.name)).iter().any(|pod| !pods::node_name(pod).is_empty());
        let Some(finalizers) = wanted_finalizers(&claim.metadata, CLAIM_FINALIZER, is_used) else { return Ok(Outcome::Settled) };
        set_finalizers(Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace), key, &claim.metadata, finalizers).await
    }
}

struct VolumeProtection {
    client: client::Client,
    volumes: Informer<PersistentVolume>,
}

#[async_trait]
impl Reconciler for VolumeProtection {
    fn name(&self) -> &'static str {
        VOLUME_CONTROLLER
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.volumes)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Outcome::Settled) };
        let is_used = || volume_phase(&volume) == "Bound";
        let Some(finalizers) = wanted_finalizers(&volume.metadata, VOLUME_FINALIZER, is_used) else { return Ok(Outcome::Settled) };
        set_finalizers(Api::<PersistentVolume>::all(self.client.clone()), key, &volume.metadata, finalizers).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::second;

    #[test]
    fn protection_ends_when_an_object_is_to_go_and_nobody_uses_it() {
        let mut metadata = ObjectMeta::default();
        assert_eq!(wanted_finalizers(&metadata, "p", || true), Some(vec!["p".to_owned()]));
        metadata.finalizers = Some(vec!["p".to_owned(), "other".to_owned()]);
        assert_eq!(wanted_finalizers(&metadata, "p", || true), None);
        metadata.deletion_timestamp = Some(second(1));
        assert_eq!(wanted_finalizers(&metadata, "p", || true), None);
        assert_eq!(wanted_finalizers(&metadata, "p", || false), Some(vec!["other".to_owned()]));
        metadata.finalizers = None;
        assert_eq!(wanted_finalizers(&metadata, "p", || true), None, "nothing is added to what is going");
    }
}
