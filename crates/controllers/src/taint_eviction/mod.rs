//! Drives pods away from nodes with `NoExecute` taints that they do not tolerate, or no longer. `plan` says when.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, Preconditions};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint};
use parking_lot::Mutex;

use crate::{ControllerContext, pods, taints};
use plan::{Fate, fate};

const CONTROLLER: &str = "taint-eviction-controller";

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let pods = context.informers.of::<Pod>();
    let controller = TaintEviction {
        client: context.client(CONTROLLER),
        nodes: context.informers.of(),
        pods_by_node: pods::by_node(&pods),
        pods,
        events: context.events(CONTROLLER),
        clock: context.clock.clone(),
        first_seen: FirstSeen::default(),
        condemned: Arc::default(),
    };
    runner.start(controller, 8);
}

struct TaintEviction {
    client: client::Client,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    events: EventRecorder,
    clock: Arc<dyn client::Clock>,
    first_seen: FirstSeen,
    /// Pods that will have to go, and when by our clock. What changes meanwhile does not put that off, unless they may stay.
    condemned: Arc<Mutex<HashMap<ObjectKey, Sentence>>>,
}

/// The uid of a pod, and when it has to go.
type Sentence = (Option<String>, Duration);

impl TaintEviction {
    /// A pod that was to go after a while need not, or has gone by itself.
    fn reprieve(&self, key: &ObjectKey, pod: &Pod) {
        if self.condemned.lock().remove(key).is_some() {
            self.events.record(pod, EventType::Normal, "TaintManagerEviction", format!("Cancelling deletion of Pod {key}"));
        }
    }

    /// Until when a pod may stay that tolerates its node's taints for `wait`: if it was told before, until then.
    fn condemn(&self, key: &ObjectKey, pod: &Pod, wait: Duration) -> Duration {
        let now = self.clock.elapsed();
        let mut condemned = self.condemned.lock();
        let sentence = condemned.entry(key.clone()).or_insert_with(|| (pod.metadata.uid.clone(), now + wait));
        if sentence.0 != pod.metadata.uid {
            *sentence = (pod.metadata.uid.clone(), now + wait);
        }
        sentence.1.saturating_sub(now)
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<Outcome, ReconcileError> {
        self.events.record(pod, EventType::Normal, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let api = Api::<Pod>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        let condition = PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("DeletionByTaintManager".to_owned()),
            message: Some("Taint manager: deleting due to NoExecute taint".to_owned()),
            ..PodCondition::default()
        };
        crate::pods::add_condition(&api, pod, condition, None, self.clock.now()).await?;
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match api.delete(&key.name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("evict pod {key} from its tainted node")),
        }
    }
}

/// Since when each taint (node, key, value) is seen, by our clock.
type FirstSeen = Arc<Mutex<HashMap<TaintOfNode, Duration>>>;
type TaintOfNode = (ObjectKey, String, Option<String>);

/// Notes taints that are new on a node, and forgets those that are not there any more.
fn note(first_seen: &FirstSeen, key: &ObjectKey, node: Option<&Node>, now: Duration) {
    let taints = node.map(taints::of).unwrap_or_default();
    let names: Vec<TaintOfNode> = taints.iter().map(|taint| (key.clone(), taint.key.clone(), taint.value.clone())).collect();
    let mut seen = first_seen.lock();
    seen.retain(|name, _| name.0 != *key || names.contains(name));
    for name in names {
        seen.entry(name).or_insert(now);
    }
}

#[async_trait]
impl Reconciler for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let by_node = self.pods_by_node.clone();
        let nodes = self.nodes.clone();
        let (first_seen, clock) = (self.first_seen.clone(), self.clock.clone());
        let (condemned, events) = (self.condemned.clone(), self.events.clone());
        let executes = |node: &Node| taints::of(node).iter().any(|taint| taint.effect == taints::NO_EXECUTE);
        vec![
            // Only pods on a tainted node matter: elsewhere, a pod's changes cost nothing.
            Trigger::on(&self.pods, move |change| {
                let Some(pod) = &change.new else {
                    if let Some(gone) = change.old.as_ref().filter(|_| condemned.lock().remove(&change.key).is_some()) {
                        let message = format!("Cancelling deletion of Pod {}", change.key);
                        events.record(&**gone, EventType::Normal, "TaintManagerEviction", message);
                    }
                    return Vec::new();
                };
                let node = pods::node_name(pod);
                let tainted = !node.is_empty() && nodes.get(&ObjectKey::cluster(node)).is_some_and(|node| executes(&node));
                if tainted { vec![change.key.clone()] } else { Vec::new() }
            }),
            Trigger::on(&self.nodes, move |change| {
                note(&first_seen, &change.key, change.new.as_deref(), clock.elapsed());
                let Some(new) = &change.new else { return Vec::new() };
                let before = change.old.as_ref().map(|old| taints::of(old)).unwrap_or_default();
                if before == taints::of(new) {
                    return Vec::new();
                }
                by_node.get(&change.key.name).iter().map(|pod| client::key_of(&**pod)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pods::is_terminating(pod)) else { return Ok(Outcome::Settled) };
        let Some(node) = self.nodes.get(&ObjectKey::cluster(pods::node_name(&pod))) else { return Ok(Outcome::Settled) };
        let seen_for = |taint: &Taint| {
            let name = (client::key_of(&*node), taint.key.clone(), taint.value.clone());
            let since = self.first_seen.lock().get(&name).copied();
            since.map(|since| self.clock.elapsed().saturating_sub(since)).unwrap_or_default()
        };
        match fate(&node, &pod, seen_for, self.clock.now()) {
            Fate::Stays => {
                self.reprieve(key, &pod);
                Ok(Outcome::Settled)
            }
            Fate::Goes => {
                self.reprieve(key, &pod);
                self.evict(key, &pod).await
            }
            Fate::GoesIn(wait) => {
                let left = self.condemn(key, &pod, wait);
                if !left.is_zero() {
                    return Ok(Outcome::CheckAgainIn(left));
                }
                self.condemned.lock().remove(key);
                self.evict(key, &pod).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{context, within};
    use client::fake::FakeApi;
    use client::{Patch, PatchParams, PostParams};
    use k8s_openapi::api::core::v1::Event;
    use serde_json::json;

    fn controller(context: &ControllerContext) -> TaintEviction {
        TaintEviction {
            client: context.client(CONTROLLER),
            nodes: context.informers.of(),
            pods: context.informers.of(),
            pods_by_node: pods::by_node(&context.informers.of()),
            events: context.events(CONTROLLER),
            clock: context.clock.clone(),
            first_seen: FirstSeen::default(),
            condemned: Arc::default(),
        }
    }

    #[tokio::test]
    async fn a_pods_time_does_not_start_anew_with_another_taint() {
        let fake = FakeApi::new();
        let clock = client::FakeClock::new(jiff::Timestamp::UNIX_EPOCH);
        let context = ControllerContext { clock: Arc::new(clock.clone()), ..context(&fake) };
        let controller = controller(&context);
        let seconds = Duration::from_secs;
        let (key, pod) = (ObjectKey::namespaced("x", "p"), |uid: &str| {
            let mut pod = Pod::default();
            pod.metadata.uid = Some(uid.to_owned());
            pod
        });
        assert_eq!(controller.condemn(&key, &pod("1"), seconds(300)), seconds(300));
        clock.advance(seconds(100));
        assert_eq!(controller.condemn(&key, &pod("1"), seconds(300)), seconds(200));
        assert_eq!(controller.condemn(&key, &pod("1"), seconds(10)), seconds(200));
        assert_eq!(controller.condemn(&key, &pod("2"), seconds(300)), seconds(300), "another pod of that name");
        clock.advance(seconds(400));
        assert_eq!(controller.condemn(&key, &pod("2"), seconds(300)), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_pod_that_need_not_go_after_all_is_told() {
        let fake = FakeApi::new();
        let context = context(&fake);
        let nodes = Api::<Node>::all(fake.client());
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": "n" }, "spec": { "taints": [{ "key": "x", "effect": "NoExecute" }] } })).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "x", "uid": "u" },
            "spec": { "containers": [], "nodeName": "n", "tolerations": [{ "key": "x", "operator": "Exists", "tolerationSeconds": 3600 }] },
        }))
        .unwrap();
        Api::<Pod>::namespaced(fake.client(), "x").create(&PostParams::default(), &pod).await.unwrap();
        let runner = context.runner();
        let controller = controller(&context);
        let condemned = controller.condemned.clone();
        runner.start(controller, 1);
        let waits = async {
            // Nothing tells when the controller has thought about it.
            while condemned.lock().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("the pod to be condemned", waits).await;
        nodes.patch("n", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "taints": null } }))).await.unwrap();
        let told = |fake: &FakeApi| {
            let events = fake.objects::<Event>();
            events.iter().any(|event| event.message.as_deref() == Some("Cancelling deletion of Pod x/p")).then_some(())
        };
        within("the event", fake.until(told)).await;
        context.informers.stopped().cancel();
        within("the end", runner.finished()).await;
    }
}
