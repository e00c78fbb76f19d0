//! A claim stays while a pod uses it, a volume while a claim has it, a class of volume attributes while claims or volumes name it: all
//! carry a finalizer from the start, which is taken away here once they are to go and nobody needs them.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, Index, Informer, ListParams, ObjectKey, Patch, PatchParams};
use controller::ownership::is_controlled_by;
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use serde_json::json;

use super::{claims_of, pods_by_claim, volume_phase};
use crate::{ControllerContext, pods};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLAIM_CONTROLLER: &str = "pvc-protection-controller";
const VOLUME_CONTROLLER: &str = "pv-protection-controller";
const ATTRIBUTES_FINALIZER: &str = "kubernetes.io/vac-protection";
const ATTRIBUTES_CONTROLLER: &str = "volumeattributesclass-protection-controller";

/// Starts the controllers.
pub(super) fn start(context: &ControllerContext, runner: &Runner) {
    let pods = context.informers.of::<Pod>();
    runner.start(
        ClaimProtection { client: context.client(CLAIM_CONTROLLER), claims: context.informers.of(), pods_by_claim: pods_by_claim(&pods), pods, live: Mutex::default() },
        2,
    );
    runner.start(VolumeProtection { client: context.client(VOLUME_CONTROLLER), volumes: context.informers.of() }, 2);
    let (claims, volumes) = (context.informers.of::<PersistentVolumeClaim>(), context.informers.of::<PersistentVolume>());
    let attributes = AttributesProtection {
        client: context.client(ATTRIBUTES_CONTROLLER),
        classes: context.informers.of(),
        claims_by_class: claims.index("attributes class", classes_of_claim),
        volumes_by_class: volumes.index("attributes class", classes_of_volume),
        claims,
        volumes,
    };
    runner.start(attributes, 1);
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
    live: Mutex<Option<LivePods>>,
}

/// The pods of a namespace that use claims, as the API had them at a revision. Many claims go together, so one list serves them all.
#[derive(Clone)]
struct LivePods {
    namespace: Arc<str>,
    revision: u64,
    pods: Arc<Vec<Pod>>,
}

fn revision(text: Option<&String>) -> Option<u64> {
    text?.parse().ok()
}

/// Whether nothing of a pod runs any more, and nothing will.
fn is_shut_down(pod: &Pod) -> bool {
    pods::is_terminating(pod) && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether a pod uses a claim. One that is on no node yet will not be started with a claim that is going.
/// Source: Kubernetes 1.36, `podUsesPVC`.
fn uses(pod: &Pod, claim: &ObjectMeta) -> bool {
    let (pod_name, claim_name) = (pod.metadata.name.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default());
    let is_own = |volume: &str| claim_name.strip_prefix(pod_name).and_then(|rest| rest.strip_prefix('-')) == Some(volume);
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    !pods::node_name(pod).is_empty()
        && volumes.any(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => source.claim_name == claim_name,
            (None, Some(_)) => !is_shut_down(pod) && is_own(&volume.name) && is_controlled_by(claim, &pod.metadata),
            (None, None) => false,
        })
}

impl ClaimProtection {
    /// The pods of a claim's namespace as they were when the claim was to go, or later: what is cached may be older.
    async fn live_pods(&self, key: &ObjectKey, claim: &ObjectMeta) -> Result<Arc<Vec<Pod>>, ReconcileError> {
        let namespace = key.namespace.clone().unwrap_or_default();
        let wanted = revision(claim.resource_version.as_ref());
        let known = self.live.lock().clone().filter(|known| known.namespace == namespace && wanted.is_some_and(|wanted| known.revision >= wanted));
        if let Some(known) = known {
            return Ok(known.pods);
        }
        let listing = Api::<Pod>::namespaced(self.client.clone(), &namespace).list(&ListParams::default()).await;
        let mut listing = listing.doing(|| format!("list pods of {namespace}"))?;
        listing.items.retain(|pod| !claims_of(pod).is_empty());
        let pods = Arc::new(listing.items);
        if let Some(revision) = revision(listing.metadata.resource_version.as_ref()) {
            *self.live.lock() = Some(LivePods { namespace, revision, pods: pods.clone() });
        }
        Ok(pods)
    }
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
                let has_ended = change.new.as_ref().is_none_or(|new| {
                    change.old.as_ref().is_some_and(|old| old.metadata.uid != new.metadata.uid || is_shut_down(new) && !is_shut_down(old))
                });
                let Some(pod) = change.old.as_ref().filter(|_| has_ended) else { return Vec::new() };
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                claims_of(pod).iter().map(|claim| ObjectKey::namespaced(namespace, claim)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Settled) };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let is_used = || self.pods_by_claim.get(&format!("{namespace}/{}", key.name)).iter().any(|pod| uses(pod, &claim.metadata));
        let Some(finalizers) = wanted_finalizers(&claim.metadata, CLAIM_FINALIZER, is_used) else { return Ok(Outcome::Settled) };
        if claim.metadata.deletion_timestamp.is_some() && self.live_pods(key, &claim.metadata).await?.iter().any(|pod| uses(pod, &claim.metadata)) {
            // The pod's end wakes us, once it is known here.
            return Ok(Outcome::Settled);
        }
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

struct AttributesProtection {
    client: client::Client,
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    claims_by_class: Index<PersistentVolumeClaim>,
    volumes_by_class: Index<PersistentVolume>,
}

/// The attributes classes that a claim asks for, has, or is being given.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let given = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    let mut names: Vec<String> = [asked, has, given].into_iter().flatten().filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    names
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

/// Wakes the classes that an object named and names no more.
fn freed_by<K: client::Watchable>(informer: &Informer<K>, classes: fn(&K) -> Vec<String>) -> Trigger {
    Trigger::on(informer, move |change| {
        let still = change.new.as_ref().map(|new| classes(new)).unwrap_or_default();
        let before = change.old.as_ref().map(|old| classes(old)).unwrap_or_default();
        before.iter().filter(|name| !still.contains(name)).map(|name| ObjectKey::cluster(name)).collect()
    })
}

#[async_trait]
impl Reconciler for AttributesProtection {
    fn name(&self) -> &'static str {
        ATTRIBUTES_CONTROLLER
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.classes), freed_by(&self.claims, classes_of_claim), freed_by(&self.volumes, classes_of_volume)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(class) = self.classes.get(key) else { return Ok(Outcome::Settled) };
        let is_used = || self.claims_by_class.count(&key.name) + self.volumes_by_class.count(&key.name) > 0;
        let Some(finalizers) = wanted_finalizers(&class.metadata, ATTRIBUTES_FINALIZER, is_used) else { return Ok(Outcome::Settled) };
        set_finalizers(Api::<VolumeAttributesClass>::all(self.client.clone()), key, &class.metadata, finalizers).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::second;

    #[test]
    fn a_claim_holds_every_attributes_class_it_has_to_do_with() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": { "volumeAttributesClassName": "wanted" },
            "status": {
                "currentVolumeAttributesClassName": "present",
                "modifyVolumeStatus": { "status": "InProgress", "targetVolumeAttributesClassName": "target" },
            },
        }))
        .unwrap();
        assert_eq!(classes_of_claim(&claim), ["present", "target", "wanted"]);
        assert!(classes_of_claim(&PersistentVolumeClaim::default()).is_empty());
    }

    #[test]
    fn a_claim_is_used_by_pods_on_nodes_and_an_ephemeral_one_by_its_own_until_that_is_shut_down() {
        let pod = |node: &str, volume: serde_json::Value, grace: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p", "uid": "1", "deletionTimestamp": if grace.is_null() { json!(null) } else { json!("2026-01-01T00:00:00Z") }, "deletionGracePeriodSeconds": grace },
                "spec": { "nodeName": node, "containers": [], "volumes": [volume] },
            }))
            .unwrap()
        };
        let claim = |name: &str, owner: &str| -> ObjectMeta {
            serde_json::from_value(json!({ "name": name, "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true }] })).unwrap()
        };
        let (named, own) = (json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }), json!({ "name": "v", "ephemeral": {} }));
        for (node, volume, grace, claim, expected) in [
            ("n", &named, json!(null), claim("c", "2"), true),
            ("n", &named, json!(0), claim("c", "2"), true),
            ("n", &named, json!(null), claim("d", "2"), false),
            ("", &named, json!(null), claim("c", "2"), false),
            ("n", &own, json!(null), claim("p-v", "1"), true),
            ("n", &own, json!(30), claim("p-v", "1"), true),
            ("n", &own, json!(0), claim("p-v", "1"), false),
            ("n", &own, json!(null), claim("p-v", "2"), false),
            ("n", &own, json!(null), claim("p-w", "1"), false),
        ] {
            assert_eq!(uses(&pod(node, volume.clone(), grace.clone()), &claim), expected, "{node} {volume} {grace}");
        }
    }

    #[tokio::test]
    async fn a_claim_stays_for_a_pod_that_is_not_known_here_yet() {
        let fake = client::fake::FakeApi::new();
        let context = crate::tests::context(&fake);
        let pods = client::Informers::new(fake.client(), tokio_util::sync::CancellationToken::new()).of::<Pod>();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "x" },
            "spec": { "nodeName": "n", "containers": [], "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] },
        }))
        .unwrap();
        Api::<Pod>::namespaced(fake.client(), "x").create(&client::PostParams::default(), &pod).await.unwrap();
        let controller = ClaimProtection { client: fake.client(), claims: context.informers.of(), pods_by_claim: pods_by_claim(&pods), pods, live: Mutex::default() };
        let going = |name: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "x", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [CLAIM_FINALIZER] } })).unwrap()
        };
        for name in ["c", "free"] {
            let claims = Api::<PersistentVolumeClaim>::namespaced(fake.client(), "x");
            let made = claims.create(&client::PostParams::default(), &going(name)).await.unwrap();
            controller.claims.apply(client::FeedEvent::Put(made));
            controller.reconcile(&ObjectKey::namespaced("x", name)).await.unwrap();
        }
        let writes = fake.writes();
        let frees = |name: &str| writes.iter().any(|write| write.starts_with(&format!("PATCH /api/v1/namespaces/x/persistentvolumeclaims/{name}")));
        assert!(frees("free") && !frees("c"), "{writes:?}");
    }

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
