//! Controllers together, on a tiny API in memory.

use super::*;
use client::fake::FakeApi;
use client::{Api, Informers, Patch, PatchParams, PostParams, SystemClock};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) fn context(fake: &FakeApi) -> ControllerContext {
    let api = fake.clone();
    ControllerContext {
        informers: Informers::new(fake.client(), CancellationToken::new()).shortened(pods::shorten),
        client_for: Arc::new(move |_| api.client()),
        clock: SystemClock::shared(),
    }
}

/// Plays the node: pods run and are ready as soon as they are there.
fn play_node(fake: &FakeApi, context: &ControllerContext) {
    let mut pods = context.informers.of::<Pod>().subscribe();
    let client = fake.client();
    tokio::spawn(async move {
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": "here" } })).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
        let mut number = 0;
        while let Some(change) = pods.recv().await {
            let (Some(pod), None) = (change.new, change.old) else { continue };
            number += 1;
            let status = json!({ "status": {
                "phase": "Running",
                "podIPs": [{ "ip": format!("10.0.0.{number}") }],
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
            } });
            let api = Api::<Pod>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap());
            let bound = json!({ "spec": { "nodeName": "here" } });
            let _ = api.patch(pod.metadata.name.as_deref().unwrap(), &PatchParams::default(), &Patch::Merge(bound)).await;
            let _ = api.patch_status(pod.metadata.name.as_deref().unwrap(), &PatchParams::default(), &Patch::Merge(status)).await;
        }
    });
}

fn versions(fake: &FakeApi) -> Vec<String> {
    let version = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let mut versions: Vec<_> = fake.objects::<Pod>().iter().filter(|pod| pods::is_ready(pod)).map(version).collect();
    versions.sort();
    versions
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

#[tokio::test]
async fn a_deployment_becomes_pods_behind_a_service_and_rolls() {
    let fake = FakeApi::new();
    let context = context(&fake);
    let runner = start(&context, &Settings::default());
    play_node(&fake, &context);
    let web = |image: &str| -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "x" },
            "spec": {
                "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "progressDeadlineSeconds": 600,
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "a", "image": image }] } },
            },
        })).unwrap()
    };
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "x" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }], "ipFamilies": ["IPv4"] },
    })).unwrap();
    Api::namespaced(fake.client(), "x").create(&PostParams::default(), &service).await.unwrap();
    let deployments = Api::<Deployment>::namespaced(fake.client(), "x");
    deployments.create(&PostParams::default(), &web("one")).await.unwrap();
    within("three pods", fake.until(|fake| (versions(fake) == ["one"; 3]).then_some(()))).await;
    let complete = |fake: &FakeApi| {
        let deployment = fake.objects::<Deployment>().pop()?;
        let status = deployment.status?;
        let progressing = status.conditions?.into_iter().find(|condition| condition.type_ == "Progressing")?;
        (progressing.reason.as_deref() == Some("NewReplicaSetAvailable") && status.observed_generation == deployment.metadata.generation
            && status.available_replicas == Some(3) && status.replicas == Some(3)).then_some(())
    };
    within("a complete rollout", fake.until(complete)).await;
    let ready = |fake: &FakeApi| {
        let slices = fake.objects::<EndpointSlice>();
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        (slices.len() == 1 && endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|all| all.ready) == Some(true)).count() == 3).then_some(())
    };
    within("three endpoints", fake.until(ready)).await;

    let patch = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "a", "image": "two" }] } } } });
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    within("the second version", fake.until(|fake| (versions(fake) == ["two"; 3] && fake.objects::<Pod>().len() == 3).then_some(()))).await;
    within("a complete rollout", fake.until(complete)).await;
    within("three endpoints", fake.until(ready)).await;
    assert_eq!(fake.objects::<ReplicaSet>().len(), 2);
    // Every pod was created once, although caches lag behind.
    assert_eq!(fake.writes().iter().filter(|write| write.starts_with("POST") && write.ends_with("/pods")).count(), 6);
    context.informers.stopped().cancel();
    within("the end", runner.finished()).await;
}
