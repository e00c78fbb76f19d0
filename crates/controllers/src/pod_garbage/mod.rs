//! Removes pods that nobody else can: bound to a node that is gone, asked to go before they were bound to one, on a node that was
//! declared out of service, or ended and too many. `plan` says which.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, Index, Informer, ObjectKey, Preconditions};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use parking_lot::Mutex;

use crate::{ControllerContext, pods};
use plan::{Verdict, verdict};

const CONTROLLER: &str = "pod-garbage-collector";
/// A node that seems gone is given this long to come back, before its pods go. Source: Kubernetes 1.36, `quarantineTime`.
const QUARANTINE: Duration = Duration::from_secs(40);
/// How many ended pods are kept. Source: Kubernetes 1.36, `--terminated-pod-gc-threshold`.
const ENDED_LIMIT: usize = 12_500;

/// The time between two looks for ended pods that are too many: a look sorts them all. Source: Kubernetes 1.36, `gcCheckPeriod`.
const SWEEP_PAUSE: Duration = Duration::from_secs(20);

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    start_with(context, runner, ENDED_LIMIT);
}

fn start_with(context: &ControllerContext, runner: &Runner, ended_limit: usize) {
    let pods = context.informers.of::<Pod>();
    let controller = PodGarbage {
        client: context.client(CONTROLLER),
        nodes: context.informers.of(),
        ended: pods.index("ended", |pod| if pods::is_finished(pod) { vec!["ended".to_owned()] } else { Vec::new() }),
        ended_limit,
        pods_by_node: pods::by_node(&pods),
        pods,
        missing_since: Mutex::default(),
        swept_at: Mutex::default(),
        clock: context.clock.clone(),
    };
    runner.start(controller, 4);
}

struct PodGarbage {
    client: client::Client,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    ended: Index<Pod>,
    /// How many ended pods are kept.
    ended_limit: usize,
    /// Since when nodes that have pods are not there, by our clock.
    missing_since: Mutex<std::collections::HashMap<String, Duration>>,
    /// When it was last looked for ended pods that are too many, by our clock.
    swept_at: Mutex<Option<Duration>>,
    clock: Arc<dyn client::Clock>,
}

/// The key that stands for all pods that have ended.
fn all_ended() -> ObjectKey {
    ObjectKey::cluster("ended")
}

impl PodGarbage {
    /// Removes the oldest of the ended pods where there are too many.
    /// Source: Kubernetes 1.36, `gcTerminated`.
    async fn sweep(&self) -> Result<Outcome, ReconcileError> {
        let now = self.clock.elapsed();
        let wait = self.swept_at.lock().map_or(Duration::ZERO, |last| (last + SWEEP_PAUSE).saturating_sub(now));
        if !wait.is_zero() {
            return Ok(Outcome::CheckAgainIn(wait));
        }
        *self.swept_at.lock() = Some(now);
        let ended = self.ended.get("ended");
        let surplus = ended.len().saturating_sub(self.ended_limit);
        for pod in plan::oldest(ended, surplus) {
            self.remove(&client::key_of(&*pod), &pod, None).await?;
        }
        Ok(Outcome::Settled)
    }

    /// How long the node has been missing; `None` when it is there.
    fn missing_for(&self, node: &str) -> Option<Duration> {
        let mut missing = self.missing_since.lock();
        if self.nodes.get(&ObjectKey::cluster(node)).is_some() {
            missing.remove(node);
            return None;
        }
        let now = self.clock.elapsed();
        Some(now.saturating_sub(*missing.entry(node.to_owned()).or_insert(now)))
    }

    /// Removes a pod at once. One that has not ended has failed, so that whoever counts it does.
    /// Source: Kubernetes 1.36, `markFailedAndDeletePodWithCondition`.
    async fn remove(&self, key: &ObjectKey, pod: &Pod, message: Option<&str>) -> Result<Outcome, ReconcileError> {
        let api = Api::<Pod>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        if !pods::is_finished(pod) {
            let condition = message.map(|message| PodCondition {
                type_: "DisruptionTarget".to_owned(),
                status: "True".to_owned(),
                reason: Some("DeletionByPodGC".to_owned()),
                message: Some(message.to_owned()),
                ..PodCondition::default()
            });
            pods::change_status(&api, pod, condition, Some("Failed"), self.clock.now()).await?;
        }
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let parameters = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&key.name, &parameters).await {
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("remove left-over pod {key}")),
        }
    }
}

#[async_trait]
impl Reconciler for PodGarbage {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (by_node, nodes, ended, limit) = (self.pods_by_node.clone(), self.nodes.clone(), self.ended.clone(), self.ended_limit);
        vec![
            // Cheap tests first: of a well pod on a known node there is nothing to think about.
            Trigger::on(&self.pods, move |change| {
                let Some(pod) = &change.new else { return Vec::new() };
                let node = pods::node_name(pod);
                let lost = if node.is_empty() { pods::is_terminating(pod) } else { nodes.get(&ObjectKey::cluster(node)).is_none() };
                let mut keys = if lost || pods::is_terminating(pod) { vec![change.key.clone()] } else { Vec::new() };
                if pods::is_finished(pod) && ended.count("ended") > limit {
                    keys.push(all_ended());
                }
                keys
            }),
            Trigger::on(&self.nodes, move |change| {
                let tainted = |node: &Arc<Node>| plan::is_out_of_service(node);
                if change.new.as_ref().is_some_and(|new| !tainted(new)) {
                    return Vec::new();
                }
                by_node.get(&change.key.name).iter().map(|pod| client::key_of(&**pod)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        if *key == all_ended() {
            return self.sweep().await;
        }
        let Some(pod) = self.pods.get(key) else { return Ok(Outcome::Settled) };
        let name = pods::node_name(&pod);
        let node = self.nodes.get(&ObjectKey::cluster(name));
        let missing_for = if name.is_empty() { None } else { self.missing_for(name) };
        match verdict(&pod, node.as_deref(), missing_for) {
            Verdict::Keep => Ok(Outcome::Settled),
            Verdict::KeepUntilMissingFor(limit) => Ok(Outcome::CheckAgainIn(limit.saturating_sub(missing_for.unwrap_or_default()))),
            Verdict::RemoveOfMissingNode => {
                // The cache may be behind; a node that exists after all must not lose its pods.
                if Api::<Node>::all(self.client.clone()).get_opt(name).await.doing(|| format!("read node {name}"))?.is_some() {
                    return Ok(Outcome::CheckAgainIn(QUARANTINE));
                }
                self.remove(key, &pod, Some("PodGC: node no longer exists")).await
            }
            Verdict::Remove => self.remove(key, &pod, None).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::fake::FakeApi;
    use client::PostParams;
    use serde_json::json;

    #[tokio::test]
    async fn the_oldest_of_too_many_ended_pods_go() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let node = serde_json::from_value(json!({ "metadata": { "name": "n" } })).unwrap();
        Api::<Node>::all(fake.client()).create(&PostParams::default(), &node).await.unwrap();
        // Of pods of one moment the name decides.
        for (name, phase) in [("1-older", "Failed"), ("2-old", "Succeeded"), ("3-new", "Succeeded"), ("4-runs", "Running")] {
            let pod = json!({ "metadata": { "name": name, "namespace": "x" }, "spec": { "nodeName": "n", "containers": [] }, "status": { "phase": phase } });
            Api::<Pod>::namespaced(fake.client(), "x").create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        }
        let runner = context.runner();
        start_with(&context, &runner, 1);
        let left = |fake: &FakeApi| {
            let mut names: Vec<_> = fake.objects::<Pod>().into_iter().filter_map(|pod| pod.metadata.name).collect();
            names.sort();
            (names == ["3-new", "4-runs"]).then_some(())
        };
        within("the oldest to go", fake.until(left)).await;
        context.informers.stopped().cancel();
        within("the end", runner.finished()).await;
    }
}
