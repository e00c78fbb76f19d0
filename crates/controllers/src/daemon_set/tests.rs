//! The controller on a tiny API in memory.

use client::fake::FakeApi;
use client::{Api, PostParams};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::revisions::REVISION_LABEL;
use crate::tests::{context, within};
use crate::{Settings, start};

#[tokio::test]
async fn a_revision_written_by_hand_that_says_the_same_restarts_no_pod() {
    let fake = FakeApi::new();
    let context = context(&fake);
    let runner = start(&context, &Settings::default());
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
    Api::all(fake.client()).create(&PostParams::default(), &node).await.unwrap();
    let set: DaemonSet = serde_json::from_value(json!({
        "metadata": { "name": "agent", "namespace": "x" },
        "spec": {
            "selector": { "matchLabels": { "app": "agent" } },
            "template": { "metadata": { "labels": { "app": "agent" } }, "spec": {
                // Nobody reports for the node, which is tainted for it.
                "tolerations": [{ "operator": "Exists" }], "containers": [{ "name": "c", "image": "one" }],
            } },
        },
    }))
    .unwrap();
    Api::namespaced(fake.client(), "x").create(&PostParams::default(), &set).await.unwrap();
    let pod = within("a pod", fake.until(|fake| fake.objects::<Pod>().pop())).await;
    let mut revision = within("a revision", fake.until(|fake| fake.objects::<ControllerRevision>().pop())).await;
    revision.metadata.name = Some("agent-byhand".to_owned());
    revision.metadata.uid = None;
    revision.metadata.resource_version = None;
    revision.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), "byhand".to_owned());
    revision.revision += 1;
    Api::namespaced(fake.client(), "x").create(&PostParams::default(), &revision).await.unwrap();
    let relabelled = |fake: &FakeApi| fake.objects::<Pod>().into_iter().find(|pod| pod.metadata.labels.as_ref().is_some_and(|labels| labels[REVISION_LABEL] == "byhand"));
    let after = within("the pod to belong to it", fake.until(relabelled)).await;
    assert_eq!((after.metadata.uid, fake.objects::<Pod>().len()), (pod.metadata.uid, 1));
    assert!(!fake.writes().iter().any(|write| write.starts_with("DELETE")), "{:?}", fake.writes());
    context.informers.stopped().cancel();
    within("the end", runner.finished()).await;
}
