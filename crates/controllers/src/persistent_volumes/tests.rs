//! Claims and volumes, from the first request to the end, on a tiny API in memory.

use super::*;
use crate::tests::{context, within};
use client::{Api, DeleteParams, Patch, PatchParams, PostParams};
use client::fake::FakeApi;
use controller::Runner;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

fn claim(name: &str, spec: Value) -> PersistentVolumeClaim {
    let mut claim = json!({
        "metadata": { "name": name, "namespace": "x" },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": { "requests": { "storage": "1Gi" } } },
    });
    for (field, value) in spec.as_object().unwrap() {
        claim["spec"][field] = value.clone();
    }
    serde_json::from_value(claim).unwrap()
}

fn volume(name: &str, size: &str, spec: Value) -> PersistentVolume {
    let mut volume = json!({
        "metadata": { "name": name, "labels": { "disk": name } },
        "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size }, "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": "/x" } },
        "status": { "phase": "Available" },
    });
    for (field, value) in spec.as_object().unwrap() {
        volume["spec"][field] = value.clone();
    }
    serde_json::from_value(volume).unwrap()
}

/// Which of these volumes the claim gets.
#[track_caller]
fn check(asked: Value, volumes: &[PersistentVolume], expected: Option<&str>) {
    let volumes: Vec<_> = volumes.iter().cloned().map(Arc::new).collect();
    let found = matching::best(&claim("c", asked), &volumes, false);
    assert_eq!(found.and_then(|volume| volume.metadata.name.clone()).as_deref(), expected);
}

#[test]
fn the_smallest_volume_that_does_is_chosen() {
    let all = [volume("big", "10Gi", json!({})), volume("fit", "2Gi", json!({})), volume("small", "500Mi", json!({}))];
    check(json!({}), &all, Some("fit"));
    check(json!({ "selector": { "matchLabels": { "disk": "big" } } }), &all, Some("big"));
    check(json!({ "accessModes": ["ReadWriteMany"] }), &all, None);
    check(json!({ "storageClassName": "fast" }), &all, None);
    check(json!({ "volumeMode": "Block" }), &all, None);
    check(json!({ "volumeAttributesClassName": "gold" }), &all, None);
    let reserved = volume("mine", "20Gi", json!({ "claimRef": { "namespace": "x", "name": "c" } }));
    check(json!({}), &[all.to_vec(), vec![reserved]].concat(), Some("mine"));
    // What can be used in fewer ways comes first, whatever its size, and even where something else is reserved.
    let versatile = |name: &str, size: &str, reserved: bool| {
        let claim = reserved.then(|| json!({ "namespace": "x", "name": "c" }));
        volume(name, size, json!({ "accessModes": ["ReadWriteOnce", "ReadWriteMany"], "claimRef": claim }))
    };
    check(json!({}), &[versatile("both", "1Gi", false), volume("one", "5Gi", json!({}))], Some("one"));
    check(json!({}), &[versatile("both", "1Gi", true), volume("one", "5Gi", json!({}))], Some("one"));
    check(json!({}), &[versatile("small", "1Gi", false), versatile("mine", "5Gi", true)], Some("mine"));
    let taken = volume("theirs", "1Gi", json!({ "claimRef": { "namespace": "x", "name": "d" } }));
    check(json!({}), &[taken], None);
}

struct World {
    fake: FakeApi,
    context: ControllerContext,
    runner: Runner,
}

impl World {
    fn new() -> Self {
        let fake = FakeApi::new();
        let context = context(&fake);
        let runner = context.runner();
        start(&context, &runner);
        crate::local_volumes::start(&context, &runner);
        Self { fake, context, runner }
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.fake.client(), "x")
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.fake.client())
    }

    async fn claim_until(&self, name: &str, phase: &str) -> PersistentVolumeClaim {
        let found = |fake: &FakeApi| fake.objects::<PersistentVolumeClaim>().into_iter().find(|claim| claim.metadata.name.as_deref() == Some(name) && claim_phase(claim) == phase);
        within(&format!("{name} {phase}"), self.fake.until(found)).await
    }

    async fn volume_until(&self, name: &str, phase: &str) -> PersistentVolume {
        let found = |fake: &FakeApi| fake.objects::<PersistentVolume>().into_iter().find(|volume| volume.metadata.name.as_deref() == Some(name) && volume_phase(volume) == phase);
        within(&format!("{name} {phase}"), self.fake.until(found)).await
    }

    async fn stop(self) {
        self.context.informers.stopped().cancel();
        within("the end", self.runner.finished()).await;
    }
}

#[tokio::test]
async fn a_claim_gets_a_volume_keeps_it_and_leaves_it_released() {
    let world = World::new();
    world.claims().create(&PostParams::default(), &claim("c", json!({}))).await.unwrap();
    world.claim_until("c", "Pending").await;
    world.volumes().create(&PostParams::default(), &volume("v", "2Gi", json!({}))).await.unwrap();
    let bound = world.claim_until("c", "Bound").await;
    assert_eq!((volume_of(&bound), granted(&bound).map(|amount| amount.to_string()).as_deref()), (Some("v"), Some("2Gi")));
    let taken = world.volume_until("v", "Bound").await;
    assert_eq!(claim_reference(&taken).and_then(|reference| reference.uid.clone()), bound.metadata.uid);
    // A volume in use stays although it was asked to go.
    world.volumes().delete("v", &DeleteParams::default()).await.unwrap();
    world.claims().delete("c", &DeleteParams::default()).await.unwrap();
    within("both gone", world.fake.until(|fake| (fake.objects::<PersistentVolume>().is_empty() && fake.objects::<PersistentVolumeClaim>().is_empty()).then_some(()))).await;
    world.stop().await;
}

#[tokio::test]
async fn a_retained_volume_is_released_and_a_lost_one_is_missed() {
    let world = World::new();
    world.volumes().create(&PostParams::default(), &volume("v", "2Gi", json!({}))).await.unwrap();
    world.claims().create(&PostParams::default(), &claim("c", json!({ "volumeName": "v" }))).await.unwrap();
    world.claim_until("c", "Bound").await;
    world.claims().delete("c", &DeleteParams::default()).await.unwrap();
    world.volume_until("v", "Released").await;

    world.volumes().create(&PostParams::default(), &volume("w", "2Gi", json!({}))).await.unwrap();
    world.claims().create(&PostParams::default(), &claim("d", json!({ "volumeName": "w" }))).await.unwrap();
    world.claim_until("d", "Bound").await;
    world.volume_until("w", "Bound").await;
    world.volumes().delete("w", &DeleteParams::default()).await.unwrap();
    let patch = json!({ "metadata": { "finalizers": null } });
    world.volumes().patch("w", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    world.claim_until("d", "Lost").await;
    world.stop().await;
}

#[tokio::test]
async fn a_local_volume_is_made_for_the_node_of_the_first_pod_grows_and_goes_with_its_claim() {
    let world = World::new();
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": "a", "labels": { "kubernetes.io/hostname": "a" } } })).unwrap();
    Api::<Node>::all(world.fake.client()).create(&PostParams::default(), &node).await.unwrap();
    within("the class", world.fake.until(|fake| fake.objects::<StorageClass>().pop())).await;
    world.claims().create(&PostParams::default(), &claim("c", json!({ "storageClassName": null }))).await.unwrap();
    let waiting = world.claim_until("c", "Pending").await;
    assert!(world.fake.objects::<PersistentVolume>().is_empty());
    let patch = json!({ "metadata": { "annotations": { SELECTED_NODE: "a" } } });
    world.claims().patch("c", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let bound = world.claim_until("c", "Bound").await;
    assert_eq!(bound.spec.as_ref().unwrap().storage_class_name.as_deref(), Some("local-path"), "the default class was filled in");
    let name = format!("pvc-{}", waiting.metadata.uid.unwrap());
    assert_eq!(volume_of(&bound), Some(name.as_str()));

    let patch = json!({ "spec": { "resources": { "requests": { "storage": "3Gi" } } } });
    world.claims().patch("c", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let grown = |fake: &FakeApi| fake.objects::<PersistentVolumeClaim>().pop().filter(|claim| granted(claim).is_some_and(|amount| amount.to_string() == "3Gi"));
    within("growth", world.fake.until(grown)).await;
    let said = |fake: &FakeApi| {
        let events = fake.objects::<k8s_openapi::api::core::v1::Event>();
        events.iter().any(|event| event.reason.as_deref() == Some("ExternalExpanding") && event.source.as_ref().and_then(|source| source.component.as_deref()) == Some("volume_expand")).then_some(())
    };
    within("the event that it is to grow", world.fake.until(said)).await;
    assert_eq!(capacity(&world.volumes().get(&name).await.unwrap()).unwrap().to_string(), "3Gi");

    // A pod on a node keeps the claim.
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "x" },
        "spec": { "nodeName": "a", "containers": [], "volumes": [{ "name": "d", "persistentVolumeClaim": { "claimName": "c" } }] },
    })).unwrap();
    let pods = Api::<Pod>::namespaced(world.fake.client(), "x");
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let seen = world.context.informers.of::<Pod>();
    within("the pod", async { while seen.get_in("x", "p").is_none() { tokio::task::yield_now().await } }).await;
    world.claims().delete("c", &DeleteParams::default()).await.unwrap();
    assert!(world.claims().get_opt("c").await.unwrap().is_some());
    pods.delete("p", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    within("all gone", world.fake.until(|fake| (fake.objects::<PersistentVolume>().is_empty() && fake.objects::<PersistentVolumeClaim>().is_empty()).then_some(()))).await;
    world.stop().await;
}
