//! Tells each node, in an annotation, how many seconds it may keep what it once read of Secrets and ConfigMaps: the more nodes there are,
//! the longer. Our own nodes watch what they mount; kubelets that do not, read the annotation.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, Patch, PatchParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

use crate::ControllerContext;

const CONTROLLER: &str = "ttl-controller";
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Least and most nodes of a size of cluster, and the seconds. The sizes overlap, so that a node more or less does not change them all.
/// Source: Kubernetes 1.36, `ttlBoundaries`.
const SIZES: [(usize, usize, u32); 5] = [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    runner.start(NodeTtl { client: context.client(CONTROLLER), nodes: context.informers.of(), size: Arc::default() }, 2);
}

struct NodeTtl {
    client: client::Client,
    nodes: Informer<Node>,
    /// Which of the sizes the cluster has.
    size: Arc<Mutex<usize>>,
}

/// The size of a cluster of so many nodes, which had the size `size` before.
fn resized(mut size: usize, nodes: usize) -> usize {
    while SIZES.get(size).is_some_and(|(_, most, _)| nodes > *most) {
        size += 1;
    }
    while SIZES.get(size).is_some_and(|(least, _, _)| nodes < *least) {
        size -= 1;
    }
    size
}

fn wanted(size: usize) -> String {
    SIZES.get(size).map_or(0, |(_, _, seconds)| *seconds).to_string()
}

fn annotation(node: &Node) -> Option<&str> {
    node.metadata.annotations.as_ref()?.get(ANNOTATION).map(String::as_str)
}

#[async_trait]
impl Reconciler for NodeTtl {
    fn name(&self) -> &'static str {
        "node-ttl"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (nodes, size) = (self.nodes.clone(), self.size.clone());
        vec![Trigger::on(&self.nodes, move |change| {
            let mut size = size.lock();
            let now = resized(*size, nodes.len());
            if std::mem::replace(&mut *size, now) != now {
                return nodes.list().iter().map(|node| client::key_of(&**node)).collect();
            }
            let lacks = change.new.as_ref().is_some_and(|node| annotation(node) != Some(&wanted(now)));
            if lacks { vec![change.key.clone()] } else { Vec::new() }
        })]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(node) = self.nodes.get(key) else { return Ok(Outcome::Settled) };
        let wanted = wanted(*self.size.lock());
        if annotation(&node) == Some(&wanted) {
            return Ok(Outcome::Settled);
        }
        let patch = json!({ "metadata": { "uid": node.metadata.uid, "annotations": { ANNOTATION: wanted } } });
        match Api::<Node>::all(self.client.clone()).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            // Gone, or another node of that name.
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("tell node {key} how long it may keep what it read")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::PostParams;
    use client::fake::FakeApi;

    #[test]
    fn the_size_follows_the_number_of_nodes_reluctantly() {
        let sizes = [(0, 100, 0), (0, 101, 1), (1, 95, 1), (1, 89, 0), (1, 501, 2), (0, 5000, 4), (4, 1799, 3), (4, 1, 0)];
        for (before, nodes, after) in sizes {
            assert_eq!(resized(before, nodes), after, "{nodes} nodes after size {before}");
        }
        assert_eq!((wanted(0), wanted(4)), ("0".to_owned(), "300".to_owned()));
    }

    #[tokio::test]
    async fn nodes_are_told_and_told_again() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let runner = context.runner();
        start(&context, &runner);
        let mut node = Node::default();
        node.metadata.name = Some("a".to_owned());
        let api = Api::<Node>::all(fake.client());
        api.create(&PostParams::default(), &node).await.unwrap();
        let told = |fake: &FakeApi| fake.objects::<Node>().iter().any(|node| annotation(node) == Some("0")).then_some(());
        within("the annotation", fake.until(told)).await;
        let spoil = Patch::Merge(json!({ "metadata": { "annotations": { ANNOTATION: "many" } } }));
        api.patch("a", &PatchParams::default(), &spoil).await.unwrap();
        within("the annotation again", fake.until(told)).await;
        context.informers.stopped().cancel();
        within("the end", runner.finished()).await;
    }
}
