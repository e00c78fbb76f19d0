//! Follows the cluster, decides one pod after the other, and binds them, many at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::core::v1::{Binding, Node, ObjectReference, Pod};
use client::{Change, Clock, EventRecorder, EventType, Informers};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    cluster::Cluster,
    decision::{Profile, Refusal, decide},
    framework::{ClusterEvent, PodInfo},
    plugins::default_profile,
    queue::Queue,
};

/// Bindings under way at once.
const BINDINGS: usize = 128;

/// Decisions in a row before changes of the cluster are taken in again.
const DECISIONS_IN_A_ROW: usize = 64;

/// What a scheduler is told at start.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// Pods with this `spec.schedulerName` are ours.
    pub name: String,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { name: "default-scheduler".to_owned() }
    }
}

enum Message {
    Pod(Change<Pod>),
    Node(Change<Node>),
    Bound { uid: String, failed: bool },
}

/// The scheduler. [`Scheduler::run`] works until it is stopped.
pub struct Scheduler {
    options: SchedulerOptions,
    client: kube::Client,
    informers: Informers,
    clock: Arc<dyn Clock>,
    profile: Profile,
    cluster: Cluster,
    queue: Queue,
    events: EventRecorder,
    /// Pods as they were last seen, for events and conditions.
    seen: HashMap<String, Arc<Pod>>,
}

impl Scheduler {
    /// A scheduler that acts through these clients.
    pub fn new(options: SchedulerOptions, client: kube::Client, informers: Informers, clock: Arc<dyn Clock>) -> Self {
        let events = EventRecorder::new(client.clone(), &options.name, None, clock.clone());
        Self {
            options,
            client,
            informers,
            clock,
            profile: default_profile(),
            cluster: Cluster::default(),
            queue: Queue::default(),
            events,
            seen: HashMap::new(),
        }
    }

    /// Works until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let (sender, mut messages) = mpsc::unbounded_channel::<Message>();
        let (pods, nodes) = (self.informers.of::<Pod>(), self.informers.of::<Node>());
        let to = sender.clone();
        nodes.on_change(move |change| {
            // Where nobody receives any more, the scheduler has stopped.
            let _ = to.send(Message::Node(change.clone()));
        });
        let to = sender.clone();
        pods.on_change(move |change| {
            let _ = to.send(Message::Pod(change.clone()));
        });
        tokio::select! {
            ((), ()) = async { tokio::join!(pods.has_synced(), nodes.has_synced()) } => {}
            () = stop.cancelled() => return,
        }
        let slots = Arc::new(Semaphore::new(BINDINGS));
        loop {
            while let Ok(message) = messages.try_recv() {
                self.take_in(message);
            }
            let mut decided = 0;
            while decided < DECISIONS_IN_A_ROW {
                let Ok(slot) = slots.clone().try_acquire_owned() else { break };
                let Some(pod) = self.queue.pop(self.clock.elapsed()) else { break };
                decided += 1;
                self.schedule_one(pod, slot, &sender);
            }
            if decided == DECISIONS_IN_A_ROW {
                tokio::task::yield_now().await;
                continue;
            }
            let now = self.clock.elapsed();
            let wake = self.queue.next_wake().map(|until| until.saturating_sub(now));
            let clock = self.clock.clone();
            let until_wake = async move {
                match wake {
                    Some(wait) => clock.sleep(wait.max(Duration::from_millis(1))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take_in(message),
                    None => return,
                },
                () = until_wake => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn take_in(&mut self, message: Message) {
        let now = self.clock.elapsed();
        match message {
            Message::Node(change) => match &change.new {
                Some(node) => {
                    let (changed, is_new) = self.cluster.apply_node(node);
                    if is_new {
                        self.queue.happened(ClusterEvent::NodeAdded, now);
                    } else if changed {
                        self.queue.happened(ClusterEvent::NodeChanged, now);
                    }
                }
                None => self.cluster.delete_node(&change.key.name),
            },
            Message::Pod(change) => self.take_in_pod(&change, now),
            Message::Bound { uid, failed } => {
                if failed {
                    self.cluster.remove(&uid);
                    self.queue.failed(&uid, now);
                    self.queue.happened(ClusterEvent::AssignedPodGone, now);
                }
            }
        }
    }

    fn take_in_pod(&mut self, change: &Change<Pod>, now: Duration) {
        let uid_of = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap_or_default();
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|new| uid_of(new) != uid_of(old))
        {
            self.forget(&uid_of(old), now);
        }
        let Some(new) = &change.new else { return };
        let info = Arc::new(PodInfo::of(new));
        let uid = info.uid.clone();
        if info.finished {
            return self.forget(&uid, now);
        }
        if !info.node_name.is_empty() {
            self.queue.remove(&uid);
            self.seen.remove(&uid);
            let node = info.node_name.clone();
            let changed = self.cluster.node(&node).and_then(|known| known.pods.get(&uid)).is_none_or(|known| known.labels != info.labels || known.terminating != info.terminating);
            self.cluster.place(info, &node);
            if changed {
                self.queue.happened(ClusterEvent::AssignedPodChanged, now);
            }
            return;
        }
        if info.scheduler_name != self.options.name || info.terminating || info.gated {
            self.queue.remove(&uid);
            self.seen.remove(&uid);
            return;
        }
        // A pod that is about to be bound is not taken up again for its own condition.
        if self.cluster.place_of(&uid).is_some() {
            self.seen.insert(uid, new.clone());
            return;
        }
        let same = self.seen.insert(uid.clone(), new.clone()).is_some_and(|old| old.spec == new.spec && old.metadata.labels == new.metadata.labels);
        if !same || !self.queue.contains(&uid) {
            self.queue.add(info, now);
        }
    }

    fn forget(&mut self, uid: &str, now: Duration) {
        self.queue.remove(uid);
        self.seen.remove(uid);
        if self.cluster.remove(uid) {
            self.queue.happened(ClusterEvent::AssignedPodGone, now);
        }
    }

    fn schedule_one(&mut self, pod: Arc<PodInfo>, slot: tokio::sync::OwnedSemaphorePermit, done: &mpsc::UnboundedSender<Message>) {
        match decide(&self.profile, &pod, &self.cluster) {
            Ok(node) => {
                self.cluster.place(pod.clone(), &node);
                let (client, events, done) = (self.client.clone(), self.events.clone(), done.clone());
                let seen = self.seen.get(&pod.uid).cloned();
                tokio::spawn(async move {
                    let failed = match bind(&client, &pod, &node).await {
                        Ok(()) => {
                            if let Some(object) = seen {
                                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                                events.record(&*object, EventType::Normal, "Scheduled", message);
                            }
                            false
                        }
                        Err(error) if client::is_not_found(&error) => {
                            debug!(pod = pod.name, "the pod went before it was bound");
                            true
                        }
                        Err(error) => {
                            warn!(pod = pod.name, node, %error, "a pod could not be bound; it is tried again");
                            true
                        }
                    };
                    // Where nobody receives any more, the scheduler has stopped.
                    let _ = done.send(Message::Bound { uid: pod.uid.clone(), failed });
                    drop(slot);
                });
            }
            Err(refusal) => self.refuse(&pod, refusal),
        }
    }

    fn refuse(&mut self, pod: &PodInfo, refusal: Refusal) {
        let now = self.clock.elapsed();
        let message = refusal.message();
        self.queue.refused(&pod.uid, refusal.retry_on, now);
        let Some(object) = self.seen.get(&pod.uid).cloned() else { return };
        self.events.record(&*object, EventType::Warning, "FailedScheduling", message.clone());
        let told = object.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|condition| {
            condition.type_ == "PodScheduled" && condition.status == "False" && condition.message.as_deref() == Some(&message)
        });
        if told {
            return;
        }
        let (client, pod, time) = (self.client.clone(), pod.clone(), self.clock.now());
        tokio::spawn(async move {
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            });
            let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
            let api: Api<Pod> = Api::namespaced(client, &pod.namespace);
            if let Err(error) = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                debug!(pod = pod.name, %error, "the condition of a pod that fits nowhere could not be written");
            }
        });
    }
}

async fn bind(client: &kube::Client, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
    let binding = Binding {
        metadata: kube::api::ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..Default::default()
        },
        target: ObjectReference { kind: Some("Node".to_owned()), name: Some(node.to_owned()), ..Default::default() },
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let _: serde_json::Value = api.create_subresource("binding", &pod.name, &PostParams::default(), &binding).await?;
    Ok(())
}
