//! Follows the cluster, decides one pod after the other, and binds them, many at a time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
    storage::v1::{CSINode, StorageClass},
};
use client::{Change, Clock, EventRecorder, EventType, Informer, Informers, ObjectKey, Watchable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    binding::{BindError, bind, bind_volumes},
    cluster::Cluster,
    configuration::SchedulerOptions,
    decision::{Happened, Profile, Refusal, decide, may_help, note},
    displacing::displace,
    extender::{self, Extender},
    framework::ClusterEvent,
    metrics::{Metrics, Outcome, Point, Status},
    plugins::volume_binding::waiting_claims,
    pod_info::PodInfo,
    preemption::{self, Budget, Plan},
    queue::Queue,
    reporting::{self, Report},
    volumes::{VolumePlan, claims_of, is_bound},
};

/// Bindings under way at once.
const BINDINGS: usize = 256;

/// Decisions in a row before changes of the cluster are taken in again.
const DECISIONS_IN_A_ROW: usize = 64;

enum Message {
    Pod(Change<Pod>),
    Node(Change<Node>),
    Namespace(Change<Namespace>),
    Service(Change<Service>),
    Claim(Change<PersistentVolumeClaim>),
    Volume(Change<PersistentVolume>),
    Class(Change<StorageClass>),
    Attachable(Change<CSINode>),
    /// A binding is done, or was not possible.
    Bound { pod: Arc<PodInfo>, failed: bool },
    /// Pods could not be displaced for this one.
    NotDisplaced { uid: String },
}

/// The scheduler. [`Scheduler::run`] works until it is stopped.
pub struct Scheduler {
    client: client::Client,
    informers: Informers,
    clock: Arc<dyn Clock>,
    profiles: Vec<Profile>,
    extenders: Vec<Arc<Extender>>,
    /// Events are told in the name of the profile.
    events: Vec<EventRecorder>,
    cluster: Cluster,
    queue: Queue,
    budgets: Informer<PodDisruptionBudget>,
    /// Pods as they were last seen, for events and conditions.
    seen: HashMap<String, Arc<Pod>>,
    /// Pods whose node is decided and not yet seen in the watch.
    assumed: HashSet<String>,
    /// Where the next decision begins to look, in a large cluster.
    start: usize,
    /// Pods whose gates are closed.
    gated: HashSet<String>,
    metrics: Metrics,
    sender: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
}

fn forward<K: Watchable>(informer: &Informer<K>, sender: &mpsc::UnboundedSender<Message>, wrap: fn(Change<K>) -> Message) {
    let sender = sender.clone();
    informer.on_change(move |change| {
        // Where nobody receives any more, the scheduler has stopped.
        let _ = sender.send(wrap(change.clone()));
    });
}

/// Takes in an object as it is, or that it is gone.
fn keep<Key: Ord, Value>(map: &mut BTreeMap<Key, Value>, key: Key, value: Option<Value>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Scheduler {
    /// A scheduler that acts through these clients.
    pub fn new(options: SchedulerOptions, client: client::Client, informers: Informers, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        let recorder = |profile: &Profile| EventRecorder::new(client.clone(), &profile.name, None, clock.clone());
        let events = options.profiles.iter().map(recorder).collect();
        let (sender, messages) = mpsc::unbounded_channel();
        Self {
            budgets: informers.of::<PodDisruptionBudget>(),
            queue: Queue::new(options.backoff).counted_by(metrics.clone()),
            profiles: options.profiles.into_iter().map(|profile| Profile { metrics: metrics.of_profile(&profile.name), ..profile }).collect(),
            metrics,
            gated: HashSet::new(),
            extenders: options.extenders,
            events,
            client,
            informers,
            clock,
            cluster: Cluster::default(),
            seen: HashMap::new(),
            assumed: HashSet::new(),
            start: 0,
            sender,
            messages,
        }
    }

    /// Works until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.follow() => {}
            () = stop.cancelled() => return,
        }
        let slots = Arc::new(Semaphore::new(BINDINGS));
        loop {
            while let Ok(message) = self.messages.try_recv() {
                self.take_in(message);
            }
            let mut decided = 0;
            while decided < DECISIONS_IN_A_ROW {
                let Ok(slot) = slots.clone().try_acquire_owned() else { break };
                let Some(pod) = self.queue.pop(self.clock.elapsed()) else { break };
                decided += 1;
                tokio::select! {
                    () = self.schedule_one(pod, slot) => {}
                    // An extender may be waited for.
                    () = stop.cancelled() => return,
                }
            }
            if decided == DECISIONS_IN_A_ROW {
                tokio::task::yield_now().await;
                continue;
            }
            self.metrics.pending(self.queue.pending(), self.gated.len());
            let wake = self.queue.next_wake().map(|until| until.saturating_sub(self.clock.elapsed()));
            let clock = self.clock.clone();
            let until_wake = async move {
                match wake {
                    Some(wait) => clock.sleep(wait.max(Duration::from_millis(1))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(message) => self.take_in(message),
                    None => return,
                },
                () = until_wake => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Follows everything, and waits until it is known. What pods are judged by comes before the pods.
    async fn follow(&mut self) {
        let (pods, nodes, namespaces) = (self.informers.of::<Pod>(), self.informers.of::<Node>(), self.informers.of::<Namespace>());
        let (claims, volumes) = (self.informers.of::<PersistentVolumeClaim>(), self.informers.of::<PersistentVolume>());
        let (classes, attachable) = (self.informers.of::<StorageClass>(), self.informers.of::<CSINode>());
        let services = self.informers.of::<Service>();
        forward(&namespaces, &self.sender, Message::Namespace);
        forward(&services, &self.sender, Message::Service);
        forward(&classes, &self.sender, Message::Class);
        forward(&attachable, &self.sender, Message::Attachable);
        forward(&volumes, &self.sender, Message::Volume);
        forward(&claims, &self.sender, Message::Claim);
        forward(&nodes, &self.sender, Message::Node);
        forward(&pods, &self.sender, Message::Pod);
        tokio::join!(pods.has_synced(), nodes.has_synced(), namespaces.has_synced(), claims.has_synced(), volumes.has_synced());
        tokio::join!(classes.has_synced(), attachable.has_synced(), services.has_synced(), self.budgets.has_synced());
    }

    fn profile_of(&self, pod: &PodInfo) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.name == pod.scheduler_name)
    }

    /// Wakes refused pods that may fit after what happened, on the node of a slot where it was one.
    fn happened(&mut self, event: ClusterEvent, slot: Option<usize>) {
        self.happened_to(event, slot, &[]);
    }

    /// The same, for what happened to a pod on a node: as it is, and as it was.
    fn happened_to(&mut self, event: ClusterEvent, slot: Option<usize>, pods: &[Arc<PodInfo>]) {
        if !self.queue.has_waiting() {
            return;
        }
        let (profiles, cluster) = (&self.profiles, &mut self.cluster);
        self.queue.happened(event.name(), self.clock.elapsed(), |pod, refused_by| {
            let profile = profiles.iter().find(|profile| profile.name == pod.scheduler_name);
            profile.is_some_and(|profile| may_help(profile, refused_by, Happened { event, slot, pods }, pod, cluster))
        });
    }

    fn take_in(&mut self, message: Message) {
        match message {
            Message::Pod(change) => self.take_in_pod(&change),
            Message::Node(change) => match &change.new {
                Some(node) => {
                    let known = self.cluster.apply_node(node);
                    let slot = self.cluster.node(&change.key.name).map(|node| node.slot);
                    if known.is_new {
                        self.happened(ClusterEvent::NodeAdded, slot);
                    } else if known.matters {
                        self.happened(ClusterEvent::NodeChanged, slot);
                    }
                }
                None => {
                    self.cluster.delete_node(&change.key.name);
                    self.happened(ClusterEvent::NodeGone, None);
                }
            },
            Message::Namespace(change) => {
                let labels = change.new.as_ref().map(|namespace| namespace.metadata.labels.clone().unwrap_or_default());
                if self.cluster.apply_namespace(&change.key.name, labels.as_ref()) {
                    self.happened(ClusterEvent::NamespaceChanged, None);
                }
            }
            // Wakes nobody, as upstream: it is a matter of taste, unless default constraints are rules.
            Message::Service(change) => {
                let selector = change.new.as_ref().and_then(|service| service.spec.as_ref()?.selector.as_ref());
                self.cluster.apply_service(change.key.namespace.as_deref().unwrap_or_default(), &change.key.name, selector);
            }
            Message::Claim(change) => {
                if change.new.as_ref().is_none_or(|claim| is_bound(claim)) {
                    self.cluster.volumes.reserved.retain(|_, holder| *holder != change.key);
                }
                keep(&mut self.cluster.volumes.claims, change.key, change.new);
                self.happened(ClusterEvent::StorageChanged, None);
            }
            Message::Volume(change) => {
                keep(&mut self.cluster.volumes.volumes, change.key.name.to_string(), change.new);
                self.happened(ClusterEvent::StorageChanged, None);
            }
            Message::Class(change) => {
                keep(&mut self.cluster.volumes.classes, change.key.name.to_string(), change.new);
                self.happened(ClusterEvent::StorageChanged, None);
            }
            Message::Attachable(change) => {
                keep(&mut self.cluster.volumes.attachable, change.key.name.to_string(), change.new);
                self.happened(ClusterEvent::StorageChanged, None);
            }
            Message::Bound { pod, failed } => {
                if !failed {
                    return;
                }
                // Also where the pod has gone meanwhile: nobody else would ever get these volumes.
                self.cluster.volumes.reserved.retain(|_, holder| !claims_of(&pod).any(|claim| claim == *holder));
                if self.assumed.remove(&pod.uid) {
                    let place = self.cluster.remove(&pod.uid);
                    self.queue.failed(&pod.uid, self.clock.elapsed());
                    self.happened_to(ClusterEvent::AssignedPodGone, place.as_ref().map(|(_, slot)| *slot), std::slice::from_ref(&pod));
                }
            }
            Message::NotDisplaced { uid } => {
                self.cluster.forget_nomination(&uid);
                self.queue.failed(&uid, self.clock.elapsed());
            }
        }
    }

    fn take_in_pod(&mut self, change: &Change<Pod>) {
        let uid_of = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap_or_default();
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|new| uid_of(new) != uid_of(old))
        {
            self.forget(&uid_of(old));
        }
        let Some(new) = &change.new else { return };
        let mut info = PodInfo::of(new);
        self.cluster.share_labels(&mut info);
        let info = Arc::new(info);
        if info.finished {
            return self.forget(&info.uid);
        }
        if !info.node_name.is_empty() {
            return self.take_in_placed(info);
        }
        let uid = info.uid.clone();
        if info.gated && !info.terminating && self.profile_of(&info).is_some() {
            self.gated.insert(uid.clone());
        } else {
            self.gated.remove(&uid);
        }
        if self.profile_of(&info).is_none() || info.terminating || info.gated {
            self.queue.remove(&uid);
            self.seen.remove(&uid);
            self.cluster.forget_nomination(&uid);
            return;
        }
        // A pod that is about to be bound is not taken up again for its own condition.
        if self.cluster.place_of(&uid).is_some() {
            self.seen.insert(uid, new.clone());
            return;
        }
        // After a restart, room may still be being made.
        if !info.nominated_node.is_empty() && change.old.is_none() {
            self.cluster.nominate(&info, Some(&info.nominated_node));
        }
        let same = self.seen.insert(uid.clone(), new.clone()).is_some_and(|old| old.spec == new.spec && old.metadata.labels == new.metadata.labels);
        if !same || !self.queue.contains(&uid) {
            self.queue.add(info, self.clock.elapsed());
        }
    }

    fn take_in_placed(&mut self, info: Arc<PodInfo>) {
        self.queue.remove(&info.uid);
        self.seen.remove(&info.uid);
        self.cluster.forget_nomination(&info.uid);
        let known = self.cluster.node(&info.node_name).and_then(|node| node.pods.get(&info.uid)).cloned();
        let is_first_sight = self.assumed.remove(&info.uid) || known.is_none();
        let changed = known.as_ref().is_none_or(|known| known.labels != info.labels || known.terminating != info.terminating);
        let shrank = known.as_ref().is_some_and(|known| known.requests != info.requests);
        let node = info.node_name.clone();
        let states: Vec<Arc<PodInfo>> = known.into_iter().chain([info.clone()]).collect();
        self.cluster.place(info, &node);
        let slot = self.cluster.node(&node).map(|node| node.slot);
        if is_first_sight || changed {
            self.happened_to(ClusterEvent::AssignedPodChanged, slot, &states);
        }
        // A pod that was resized may leave room, as one that went does.
        if shrank {
            self.happened_to(ClusterEvent::AssignedPodGone, slot, &states);
        }
    }

    fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.seen.remove(uid);
        self.assumed.remove(uid);
        self.gated.remove(uid);
        let nominated = self.cluster.nomination_of(uid);
        self.cluster.forget_nomination(uid);
        match self.cluster.remove(uid) {
            Some((pod, slot)) => self.happened_to(ClusterEvent::AssignedPodGone, Some(slot), &[pod]),
            None if nominated.is_some() => self.happened(ClusterEvent::AssignedPodGone, nominated),
            None => {}
        }
    }

    async fn schedule_one(&mut self, pod: Arc<PodInfo>, permit: OwnedSemaphorePermit) {
        let Some(index) = self.profile_of(&pod) else { return self.queue.remove(&pod.uid) };
        let Some(profile) = self.profiles.get(index) else { return };
        let began = Instant::now();
        let object = self.seen.get(&pod.uid).cloned().unwrap_or_default();
        let asked: Vec<Arc<Extender>> = self.extenders.iter().filter(|extender| extender.cares_for(&object)).cloned().collect();
        let answer = if asked.is_empty() {
            decide(profile, &pod, &mut self.cluster, &mut self.start)
        } else {
            let nodes = self.informers.of::<Node>();
            let node = |name: &str| nodes.get(&ObjectKey::cluster(name));
            extender::decide(&asked, profile, &pod, &object, &mut self.cluster, &mut self.start, node).await
        };
        match answer {
            Ok(slot) => self.assume(index, pod, slot, permit, began, asked.into_iter().find(|extender| extender.binds())),
            Err(refusal) => {
                let counted = profile.metrics.clone();
                let outcome = if refusal.failed { Outcome::Failed } else { Outcome::Unschedulable };
                self.refuse(index, &pod, refusal, &asked).await;
                counted.attempt(outcome, began);
            }
        }
    }

    /// Counts the pod as being on the node, and binds it in the background, or has it bound.
    fn assume(&mut self, profile: usize, pod: Arc<PodInfo>, slot: usize, permit: OwnedSemaphorePermit, began: Instant, binder: Option<Arc<Extender>>) {
        let Some(counted) = self.profiles.get(profile).map(|profile| profile.metrics.clone()) else { return };
        let Some(node) = self.cluster.at(slot) else { return };
        let node_name = node.name.clone();
        let claims = waiting_claims(&pod, &self.cluster);
        let plan = if claims.is_empty() { VolumePlan::default() } else { self.cluster.volumes.plan(&claims, node).unwrap_or_default() };
        self.cluster.volumes.reserved.extend(plan.matches.iter().map(|(claim, volume)| (volume.clone(), claim.clone())));
        self.cluster.place_at(pod.clone(), slot);
        self.cluster.forget_nomination(&pod.uid);
        self.assumed.insert(pod.uid.clone());
        let (client, clock, done, seen) = (self.client.clone(), self.clock.clone(), self.sender.clone(), self.seen.get(&pod.uid).cloned());
        let events = self.events.get(profile).cloned();
        let (metrics, history) = (self.metrics.clone(), self.queue.history(&pod.uid));
        let storage = (!plan.is_empty()).then(|| (self.informers.of::<PersistentVolumeClaim>(), self.informers.of::<PersistentVolume>()));
        tokio::spawn(async move {
            let attempt = async {
                let told = |result: &Result<(), BindError>| if result.is_ok() { Status::Success } else { Status::Error };
                if let Some((claims, volumes)) = storage {
                    let began = Instant::now();
                    let bound = bind_volumes(&client, &clock, &claims, &volumes, &plan, &node_name).await;
                    counted.point(Point::PreBind, told(&bound), began);
                    bound?;
                }
                let began = Instant::now();
                let bound = match binder {
                    Some(binder) => binder.bind(&pod, &node_name).await.map_err(BindError::from),
                    None => bind(&client, &pod, &node_name).await,
                };
                counted.point(Point::Bind, told(&bound), began);
                bound
            };
            let failed = match attempt.await {
                Ok(()) => {
                    if let (Some(object), Some(events)) = (seen, events) {
                        let message = format!("Successfully assigned {}/{} to {node_name}", pod.namespace, pod.name);
                        events.record(&*object, EventType::Normal, "Scheduled", message);
                    }
                    false
                }
                Err(BindError::Api(error)) if client::is_not_found(&error) => {
                    debug!(pod = pod.name, "the pod went before it was bound");
                    true
                }
                Err(error) => {
                    warn!(pod = pod.name, node = node_name, %error, "a pod could not be bound; it is tried again");
                    true
                }
            };
            drop(permit);
            counted.attempt(if failed { Outcome::Failed } else { Outcome::Scheduled }, began);
            if let Some((attempts, since)) = history.filter(|_| !failed) {
                metrics.bound(attempts, clock.elapsed().saturating_sub(since));
            }
            // Where nobody receives any more, the scheduler has stopped.
            let _ = done.send(Message::Bound { pod, failed });
        });
    }

    async fn refuse(&mut self, index: usize, pod: &Arc<PodInfo>, mut refusal: Refusal, asked: &[Arc<Extender>]) {
        let Some(profile) = self.profiles.get(index) else { return };
        let mut report = Report::default();
        let mut room = None;
        if profile.preempts && refusal.nodes > 0 && !refusal.failed {
            let began = Instant::now();
            self.metrics.preemption();
            let budgets: Vec<Budget> = self.budgets.list().iter().map(|budget| Budget::of(budget)).collect();
            let found = match preemption::candidates(profile, pod, &mut self.cluster, &refusal, &budgets) {
                Ok(plans) if asked.is_empty() => Ok(plans),
                Ok(plans) => {
                    let (object, pods) = (self.seen.get(&pod.uid).cloned().unwrap_or_default(), self.informers.of::<Pod>());
                    let whole = |victim: &PodInfo| pods.get(&ObjectKey::namespaced(&victim.namespace, &victim.name));
                    extender::narrow_plans(asked, &object, plans, &self.cluster, whole).await
                }
                Err(why) => Err(why),
            };
            let none = || format!("0/{} nodes are available: no extender allows to displace pods.", refusal.nodes);
            let found = found.and_then(|plans| preemption::best(plans).ok_or_else(none));
            profile.metrics.point(Point::PostFilter, if found.is_ok() { Status::Success } else { Status::Unschedulable }, began);
            match found {
                Ok(plan) => {
                    self.metrics.victims(plan.victims.len());
                    report.nominated = self.cluster.at(plan.slot).map(|node| node.name.clone());
                    room = Some(plan);
                }
                Err(why) => {
                    // While those who make room are still leaving, the node stays promised.
                    if !why.contains("terminating pod") {
                        self.cluster.forget_nomination(&pod.uid);
                        report.nominated = Some(String::new());
                    }
                    refusal.preemption = Some(why);
                }
            }
        }
        let message = refusal.message();
        self.queue.refused(&pod.uid, std::mem::take(&mut refusal.refused_by), self.clock.elapsed());
        if refusal.failed {
            self.queue.failed(&pod.uid, self.clock.elapsed());
        }
        if let Some(object) = self.seen.get(&pod.uid).cloned() {
            if let Some(events) = self.events.get(index) {
                events.record(&*object, EventType::Warning, "FailedScheduling", note(&message));
            }
            report.unschedulable = Some(message);
            tokio::spawn(reporting::write(self.client.clone(), self.clock.clone(), pod.clone(), object, report));
        }
        if let Some(plan) = room {
            self.make_room(index, pod, plan);
        }
    }

    /// Promises a node to a pod, and displaces who is in its way.
    fn make_room(&mut self, index: usize, pod: &Arc<PodInfo>, plan: Plan) {
        let Some(node) = self.cluster.at(plan.slot).map(|node| node.name.clone()) else { return };
        // Who was promised the same room and is less important looks again.
        let lesser = self.cluster.nominated_on(plan.slot).filter(|other| other.priority < pod.priority && other.uid != pod.uid);
        for other in lesser.cloned().collect::<Vec<_>>() {
            self.cluster.forget_nomination(&other.uid);
            if let Some(object) = self.seen.get(&other.uid).cloned() {
                let report = Report { nominated: Some(String::new()), ..Report::default() };
                tokio::spawn(reporting::write(self.client.clone(), self.clock.clone(), other.clone(), object, report));
            }
        }
        self.cluster.nominate(pod, Some(&node));
        let (client, clock, done, events) = (self.client.clone(), self.clock.clone(), self.sender.clone(), self.events.get(index).cloned());
        let (pod, scheduler) = (pod.clone(), pod.scheduler_name.clone());
        tokio::spawn(async move {
            if let Err(error) = displace(&client, &clock, &scheduler, &plan.victims).await {
                warn!(pod = pod.name, node, %error, "room could not be made for a pod");
                // Where nobody receives any more, the scheduler has stopped.
                let _ = done.send(Message::NotDisplaced { uid: pod.uid.clone() });
                return;
            }
            for victim in plan.victims.iter().filter(|victim| !victim.terminating) {
                let about = api::core::v1::ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    namespace: Some(victim.namespace.clone()),
                    name: Some(victim.name.clone()),
                    uid: Some(victim.uid.clone()),
                    ..Default::default()
                };
                if let Some(events) = &events {
                    events.record_about(about, EventType::Normal, "Preempted", format!("Preempted by pod {} on node {node}", pod.uid));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use client::{FakeClock, fake::FakeApi};

    use super::*;

    #[tokio::test]
    async fn a_volume_is_not_reserved_for_who_is_gone() {
        let client = FakeApi::new().client();
        let informers = Informers::new(client.clone(), CancellationToken::new());
        let clock = Arc::new(FakeClock::new(jiff::Timestamp::UNIX_EPOCH));
        let mut scheduler = Scheduler::new(SchedulerOptions::default(), client, informers, clock, Metrics::default());
        let claim = ObjectKey::namespaced("n", "data");
        let reserve = |scheduler: &mut Scheduler| drop(scheduler.cluster.volumes.reserved.insert("disk".to_owned(), claim.clone()));

        reserve(&mut scheduler);
        scheduler.take_in(Message::Claim(Change { key: claim.clone(), old: None, new: Some(Arc::default()) }));
        assert_eq!(scheduler.cluster.volumes.reserved.len(), 1, "it is not bound yet");
        scheduler.take_in(Message::Claim(Change { key: claim.clone(), old: Some(Arc::default()), new: None }));
        assert!(scheduler.cluster.volumes.reserved.is_empty(), "the claim is gone");

        // The pod was deleted while it was bound.
        reserve(&mut scheduler);
        let pod = serde_json::json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [], "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }] },
        });
        let pod = Arc::new(PodInfo::of(&Arc::new(serde_json::from_value(pod).unwrap())));
        scheduler.take_in(Message::Bound { pod, failed: true });
        assert!(scheduler.cluster.volumes.reserved.is_empty(), "the pod is gone");
    }
}
