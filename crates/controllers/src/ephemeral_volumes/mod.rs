//! A pod's generic ephemeral volumes are claims that live as long as the pod: made here from the templates in the pod, removed with it by
//! the garbage collector.

use async_trait::async_trait;
use client::{Api, EventRecorder, EventType, Index, Informer, ObjectKey, PostParams};
use controller::ownership::{controller_reference, is_controlled_by};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::persistent_volumes::pods_by_claim;
use crate::{ControllerContext, pods};

const CONTROLLER: &str = "ephemeral-volume-controller";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let pods = context.informers.of::<Pod>();
    let controller = EphemeralVolumes {
        client: context.client(CONTROLLER),
        pods_by_claim: pods_by_claim(&pods),
        pods,
        claims: context.informers.of(),
        events: context.events_as(CONTROLLER, "ephemeral_volume"),
    };
    runner.start(controller, 3);
}

struct EphemeralVolumes {
    client: client::Client,
    pods: Informer<Pod>,
    pods_by_claim: Index<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    events: EventRecorder,
}

fn ephemeral_volumes(pod: &Pod) -> impl Iterator<Item = (&Volume, &PersistentVolumeClaimTemplate)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume, volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?)))
}

/// The claim of a pod's ephemeral volume.
fn claim(pod: &Pod, volume: &Volume, template: &PersistentVolumeClaimTemplate) -> PersistentVolumeClaim {
    let metadata = template.metadata.clone().unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    }
}

#[async_trait]
impl Reconciler for EphemeralVolumes {
    fn name(&self) -> &'static str {
        "ephemeral-volume"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let by_claim = self.pods_by_claim.clone();
        vec![
            Trigger::on(&self.pods, |change| {
                let needs_claims = change.new.as_ref().is_some_and(|pod| change.old.is_none() && ephemeral_volumes(pod).next().is_some());
                if needs_claims { vec![change.key.clone()] } else { Vec::new() }
            }),
            // A claim that was in the way, or was removed, may have to be made.
            Trigger::on(&self.claims, move |change| {
                let Some(gone) = change.old.as_ref().filter(|_| change.new.is_none()) else { return Vec::new() };
                let users = by_claim.get(&client::key_of(&**gone).to_string()).into_iter();
                users.filter(|pod| ephemeral_volumes(pod).next().is_some()).map(|pod| client::key_of(&*pod)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pods::is_terminating(pod)) else { return Ok(Outcome::Settled) };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let failed = |volume: &Volume, why: String| self.events.record(&*pod, EventType::Warning, "FailedBinding", format!("ephemeral volume {}: {why}", volume.name));
        for (volume, template) in ephemeral_volumes(&pod) {
            let claim = claim(&pod, volume, template);
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            if let Some(existing) = self.claims.get_in(namespace, name) {
                if is_controlled_by(&existing.metadata, &pod.metadata) {
                    continue;
                }
                // Its removal wakes us.
                failed(volume, format!("PVC {namespace}/{name} was not created for pod {key} (pod is not owner)"));
                return Ok(Outcome::Settled);
            }
            match api.create(&PostParams::default(), &claim).await {
                Err(error) if crate::namespace_is_terminating(&error) => {}
                other => {
                    if let Err(error) = &other {
                        failed(volume, format!("create PVC {name}: {}", crate::api_message(error)));
                    }
                    other.doing(|| format!("create claim {namespace}/{name} of an ephemeral volume"))?;
                }
            }
        }
        Ok(Outcome::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::fake::FakeApi;
    use serde_json::json;

    #[tokio::test]
    async fn a_pod_gets_a_claim_for_each_ephemeral_volume() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let runner = context.runner();
        start(&context, &runner);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "x" },
            "spec": { "containers": [], "volumes": [{ "name": "scratch", "ephemeral": { "volumeClaimTemplate": {
                "metadata": { "labels": { "a": "b" } }, "spec": { "accessModes": ["ReadWriteOnce"] },
            } } }] },
        })).unwrap();
        let pod = Api::<Pod>::namespaced(fake.client(), "x").create(&PostParams::default(), &pod).await.unwrap();
        let claim = within("a claim", fake.until(|fake| fake.objects::<PersistentVolumeClaim>().pop())).await;
        assert_eq!(claim.metadata.name.as_deref(), Some("p-scratch"));
        assert!(is_controlled_by(&claim.metadata, &pod.metadata));
        assert_eq!(claim.metadata.labels.unwrap()["a"], "b");
        context.informers.stopped().cancel();
        within("the end", runner.finished()).await;
    }

    #[tokio::test]
    async fn a_claim_that_cannot_be_made_is_told() {
        let fake = FakeApi::new();
        fake.fail("POST /api/v1/namespaces/x/persistentvolumeclaims", 403);
        let context = context(&fake);
        let runner = context.runner();
        start(&context, &runner);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "x" },
            "spec": { "containers": [], "volumes": [{ "name": "scratch", "ephemeral": { "volumeClaimTemplate": { "spec": {} } } }] },
        })).unwrap();
        Api::<Pod>::namespaced(fake.client(), "x").create(&PostParams::default(), &pod).await.unwrap();
        let said = |fake: &FakeApi| {
            let events = fake.objects::<k8s_openapi::api::core::v1::Event>();
            let is_it = |text: &str| text.starts_with("ephemeral volume scratch: create PVC p-scratch: ");
            events.iter().any(|event| event.reason.as_deref() == Some("FailedBinding") && event.message.as_deref().is_some_and(is_it)).then_some(())
        };
        within("the event", fake.until(said)).await;
        context.informers.stopped().cancel();
        within("the end", runner.finished()).await;
    }
}
