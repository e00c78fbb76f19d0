//! Controllers together, on a tiny API in memory.

use super::*;
use client::fake::FakeApi;
use client::{Api, Informers, Patch, PatchParams, PostParams, SystemClock};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
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

/// What was told of the object of this name: the reasons and messages, sorted.
fn told(fake: &FakeApi, name: &str) -> Vec<(String, String)> {
    let events = fake.objects::<Event>().into_iter().filter(|event| event.involved_object.name.as_deref() == Some(name));
    let mut told: Vec<_> = events.map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default())).collect();
    told.sort();
    told
}

#[tokio::test]
async fn an_autoscaler_that_cannot_compute_says_so_and_keeps_what_was_wanted() {
    let fake = FakeApi::new();
    let context = context(&fake);
    fake.serve::<Deployment>();
    let deployments = Api::<Deployment>::namespaced(fake.client(), "x");
    let autoscalers = Api::<HorizontalPodAutoscaler>::namespaced(fake.client(), "x");
    // One whose pods nobody measured, one that does not say which pods it has, and one whose autoscaler's status cannot be written.
    for (name, selector) in [("unmeasured", Some("app=a")), ("unselective", None), ("unwritable", None)] {
        let deployment = json!({ "metadata": { "name": name, "namespace": "x" }, "spec": { "replicas": 2, "selector": {}, "template": {} } });
        deployments.create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
        let status = json!({ "status": { "replicas": 2, "selector": selector } });
        deployments.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        let autoscaler = json!({
            "metadata": { "name": name, "namespace": "x" },
            "spec": {
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": name }, "maxReplicas": 5,
                "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } }],
            },
            "status": { "desiredReplicas": 4, "currentReplicas": 4, "conditions": [], "currentMetrics": [{ "type": "Pods" }] },
        });
        autoscalers.create(&PostParams::default(), &serde_json::from_value(autoscaler).unwrap()).await.unwrap();
    }
    fake.fail("PUT /apis/autoscaling/v2/namespaces/x/horizontalpodautoscalers/unwritable/status", 500);
    let runner = context.runner();
    horizontal_pod_autoscaler::start(&context, &runner);

    let check = async |name: &str, metrics: Option<Vec<&str>>, active: &str, events: &[(&str, &str)]| {
        within("the events", fake.until(|fake| (told(fake, name).len() == events.len()).then_some(()))).await;
        let told = told(&fake, name);
        assert_eq!(told.iter().map(|(reason, message)| (reason.as_str(), message.as_str())).collect::<Vec<_>>(), events);
        let status = autoscalers.get(name).await.unwrap().status.unwrap();
        assert_eq!((status.current_replicas, status.desired_replicas), (Some(2), 4), "{name}");
        let kinds = status.current_metrics.map(|all| all.into_iter().map(|metric| metric.type_).collect::<Vec<_>>());
        assert_eq!(kinds, metrics.map(|all| all.into_iter().map(str::to_owned).collect()), "{name}");
        let conditions: Vec<_> = status.conditions.into_iter().flatten().map(|condition| (condition.type_, condition.status, condition.reason.unwrap_or_default())).collect();
        let expected = [("AbleToScale", "True", "SucceededGetScale"), ("ScalingActive", "False", active)].map(|(kind, status, reason)| (kind.to_owned(), status.to_owned(), reason.to_owned()));
        assert_eq!(conditions, expected, "{name}");
    };
    let none = "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API";
    let first = format!("invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {none}");
    check("unmeasured", Some(vec![""]), "FailedGetResourceMetric", &[("FailedComputeMetricsReplicas", &first), ("FailedGetResourceMetric", none)]).await;
    let missing = [("FailedComputeMetricsReplicas", "selector is required"), ("SelectorRequired", "selector is required")];
    check("unselective", None, "InvalidSelector", &missing).await;
    let reasons = |fake: &FakeApi| told(fake, "unwritable").into_iter().map(|(reason, _)| reason).collect::<Vec<_>>();
    let all = ["FailedComputeMetricsReplicas", "FailedUpdateStatus", "SelectorRequired"];
    within("three events", fake.until(|fake| (reasons(fake) == all).then_some(()))).await;
    context.informers.stopped().cancel();
    within("the end", runner.finished()).await;
}

#[tokio::test]
async fn a_pod_of_two_budgets_is_told_so() {
    let fake = FakeApi::new();
    let context = context(&fake);
    let runner = context.runner();
    disruption::start(&context, &runner);
    for name in ["a", "b"] {
        let budget = json!({ "metadata": { "name": name, "namespace": "x" }, "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } } });
        let budget: PodDisruptionBudget = serde_json::from_value(budget).unwrap();
        Api::namespaced(fake.client(), "x").create(&PostParams::default(), &budget).await.unwrap();
    }
    let both_seen = |fake: &FakeApi| (fake.objects::<PodDisruptionBudget>().iter().filter(|budget| budget.status.is_some()).count() == 2).then_some(());
    within("both budgets to be counted", fake.until(both_seen)).await;
    let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "x", "labels": { "app": "web" } } })).unwrap();
    Api::namespaced(fake.client(), "x").create(&PostParams::default(), &pod).await.unwrap();
    let expected = "Pod \"x\"/\"web\" matches multiple PodDisruptionBudgets.  Chose \"a\" arbitrarily.";
    within("an event", fake.until(|fake| (told(fake, "web") == [("MultiplePodDisruptionBudgets".to_owned(), expected.to_owned())]).then_some(()))).await;
    context.informers.stopped().cancel();
    within("the end", runner.finished()).await;
}

#[tokio::test]
async fn a_cron_job_starts_its_job_also_where_an_old_one_cannot_be_removed() {
    let fake = FakeApi::new();
    let context = context(&fake);
    let ago = |minutes: i64| jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
    let every_minute = json!({
        "metadata": { "name": "beat", "namespace": "x" },
        "spec": { "schedule": "* * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 0, "jobTemplate": { "spec": { "template": {} } } },
        "status": { "lastScheduleTime": ago(2).to_string() },
    });
    let every_minute: CronJob = serde_json::from_value(every_minute).unwrap();
    fake.fail("DELETE /apis/batch/v1/namespaces/x/jobs/old", 500);
    let beat = Api::namespaced(fake.client(), "x").create(&PostParams::default(), &every_minute).await.unwrap();
    let owner = json!({ "apiVersion": "batch/v1", "kind": "CronJob", "name": "beat", "uid": beat.metadata.uid, "controller": true });
    let old = json!({
        "metadata": { "name": "old", "namespace": "x", "ownerReferences": [owner] },
        "spec": { "template": {} },
        "status": { "startTime": ago(2).to_string(), "completionTime": ago(1).to_string(), "conditions": [{ "type": "Complete", "status": "True", "lastTransitionTime": ago(1).to_string() }] },
    });
    let old: Job = serde_json::from_value(old).unwrap();
    Api::namespaced(fake.client(), "x").create(&PostParams::default(), &old).await.unwrap();
    let runner = context.runner();
    cron_job::start(&context, &runner);
    within("a new job beside the old one", fake.until(|fake| (fake.objects::<Job>().len() >= 2).then_some(()))).await;
    within("both events", fake.until(|fake| {
        let told = told(fake, "beat");
        let has = |reason: &str, start: &str| told.iter().any(|(other, message)| other == reason && message.starts_with(start));
        (has("FailedDelete", "Deleted job: ") && has("SuccessfulCreate", "Created job beat-")).then_some(())
    }))
    .await;
    context.informers.stopped().cancel();
    within("the end", runner.finished()).await;
}
