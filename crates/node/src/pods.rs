//! All pods of this node: follows them in the API, admits them, and keeps one worker for each.
//!
//! The key is a pod's UID: a new pod of an old name is another pod. Sandboxes that no pod of the API belongs to are
//! removed, once the API has been listed and never before.

use std::{
    any::Any,
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use client::{Backoff, EventType, FeedEvent, Selection, Source, feed, revision_of};
use container_runtime::{RuntimeEvent, SandboxStatus};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::RwLock;
use tokio::{sync::{mpsc, watch}, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    NodeError,
    clock::after,
    config::Context,
    machine,
    pod::{
        self,
        admission::{Offer, obstacles},
        is_terminal,
        plan::{EVICTED, PREEMPTED},
        preemption::{Candidate, make_room},
        removal::remove_orphan,
        resize::{DEFERRED, INFEASIBLE, Refusal},
        resize_order::{Waiting, fits_in_turn},
        resources::pod_request,
        uid,
        worker::{Desired, Eviction, View, Worker, WorkerHandle},
    },
    quantity::Amount,
    static_pods::{self, mirror::{self, Known}, mirrored_hash},
};

/// The workers by pod UID, for the node's own API too.
#[derive(Clone, Default)]
pub struct Pods {
    workers: Arc<RwLock<HashMap<String, WorkerHandle>>>,
    /// Counts ends of pods, for those who wait for one.
    ended: Arc<watch::Sender<u64>>,
}

/// How long the containers of a pod may take that is evicted at once. Source: Kubernetes 1.36,
/// `immediateEvictionGracePeriodSeconds`.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

impl Pods {
    /// What is known of all pods.
    #[must_use]
    pub fn views(&self) -> Vec<View> {
        self.workers.read().values().map(|worker| worker.view.lock().clone()).collect()
    }

    /// What is known of the pod of a name; the one that still runs, where an earlier one of that name is being removed.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<View> {
        let is_wanted = |view: &View| pod::name(&view.pod) == name && pod::namespace(&view.pod) == namespace;
        self.views().into_iter().filter(is_wanted).max_by_key(|view| revision_of(&*view.pod))
    }

    /// Grants a pod the resources that its spec asks for, if they fit on this node beside what others were granted, and beside what
    /// those get who wait for more and come first.
    ///
    /// # Errors
    /// What is short, and whether waiting may help.
    pub fn grant(&self, context: &Context, pod: &Arc<Pod>) -> Result<(), Refusal> {
        let allocatable = context.machine.allocatable(&context.config.reserved);
        for (resource, capacity, in_thousandths) in [("memory", allocatable.memory, false), ("cpu", allocatable.cpu, true)] {
            let requested = pod_request(pod, resource);
            if requested > capacity {
                let shown = |amount: Amount| if in_thousandths { amount.as_thousandths() } else { amount.as_units() };
                let message = format!("Node didn't have enough capacity: {resource}, requested: {}, capacity: {}", shown(requested), shown(capacity));
                return Err(Refusal { reason: INFEASIBLE, message });
            }
        }
        // Held for all of it: two pods must not be granted the same.
        let workers = self.workers.write();
        let mut steady = granted(&workers);
        let own = steady.iter().position(|other| uid(other) == uid(pod)).map(|own| steady.swap_remove(own));
        let deferred = workers.iter().filter(|(other, _)| *other != uid(pod)).map(|(_, worker)| worker.view.lock().clone());
        let deferred: Vec<View> = deferred.filter(|view| view.is_deferred && !is_terminal(&view.pod)).collect();
        steady.retain(|other| !deferred.iter().any(|view| uid(&view.pod) == uid(other)));
        let waiting: Vec<Waiting<'_>> = deferred.iter().map(|view| Waiting { wanted: &view.pod, granted: &view.granted }).collect();
        let steady: Vec<&Pod> = steady.iter().map(|pod| &**pod).collect();
        let one = Waiting { wanted: pod, granted: own.as_deref().unwrap_or(pod) };
        fits_in_turn(one, &waiting, &steady, &allocatable).map_err(|(_, message)| Refusal { reason: DEFERRED, message })?;
        if let Some(worker) = workers.get(uid(pod)) {
            worker.view.lock().granted = pod.clone();
        }
        Ok(())
    }

    /// Resources may have become free: whoever waits for some looks again, but for `except`, who frees them.
    pub fn wake_deferred(&self, except: &str) {
        for (_, worker) in self.workers.read().iter().filter(|(uid, _)| *uid != except) {
            if worker.view.lock().is_deferred {
                worker.wake.notify_one();
            }
        }
    }

    /// Every worker looks again.
    pub fn wake_all(&self) {
        self.workers.read().values().for_each(|worker| worker.wake.notify_one());
    }

    /// Takes a pod off this node, for the reason that the message tells.
    pub fn evict(&self, uid: &str, message: String) {
        self.end(uid, Eviction { reason: EVICTED, message, grace: EVICTION_GRACE });
    }

    /// Ends a pod so that a critical one has room.
    fn preempt(&self, uid: &str) {
        let seconds = self.workers.read().get(uid).and_then(|worker| pod::spec(&worker.view.lock().pod).termination_grace_period_seconds);
        let grace = Duration::from_secs(u64::try_from(seconds.unwrap_or(30)).unwrap_or(0));
        self.end(uid, Eviction { reason: PREEMPTED, message: "Preempted in order to admit critical pod".to_owned(), grace });
    }

    /// Ends a pod for the node's sake.
    pub fn end(&self, uid: &str, eviction: Eviction) {
        if let Some(worker) = self.workers.read().get(uid) {
            worker.desired.send_modify(|desired| {
                desired.evicted.get_or_insert(eviction);
            });
        }
    }

    /// Something of a pod has stopped: whoever waits for resources, or for its end, looks again.
    pub fn tell_ended(&self, uid: &str) {
        self.wake_deferred(uid);
        self.ended.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until these pods have ended, and the API knows it: what it does not know would start again.
    pub async fn all_ended(&self, uids: &[String]) {
        let mut ended = self.ended.subscribe();
        let lives = |uid: &String| self.workers.read().get(uid).is_some_and(|worker| !is_terminal(&worker.view.lock().pod));
        while uids.iter().any(lives) {
            // The sender is ours, so the channel cannot close.
            let _ = ended.changed().await;
        }
    }

    /// Whether a pod was told to go and is still there.
    #[must_use]
    pub fn is_evicting(&self, uid: &str) -> bool {
        self.workers.read().get(uid).is_some_and(|worker| {
            let desired = worker.desired.borrow();
            desired.evicted.is_some() && !is_terminal(&worker.view.lock().pod)
        })
    }
}

/// A pod that holds resources of this node.
struct Holder {
    /// With what it was granted.
    pod: Arc<Pod>,
    is_static: bool,
    /// Nobody wants it any more: it only has to end.
    is_gone: bool,
}

fn holders(workers: &HashMap<String, WorkerHandle>) -> Vec<Holder> {
    let all = workers.values().filter_map(|worker| {
        let desired = worker.desired.borrow();
        let view = worker.view.lock();
        // The scheduler may know sooner than a pod's worker that the pod is gone, and send another in its place.
        (desired.refused.is_none() && !view.has_stopped).then(|| Holder { pod: view.granted.clone(), is_static: view.is_static, is_gone: desired.is_gone })
    });
    all.filter(|holder| !is_terminal(&holder.pod)).collect()
}

fn granted(workers: &HashMap<String, WorkerHandle>) -> Vec<Arc<Pod>> {
    holders(workers).into_iter().map(|holder| holder.pod).collect()
}

/// Who has to end before a pod that is admitted may start.
#[derive(Default)]
struct Room {
    /// These have to be ended for it.
    victims: Vec<String>,
    /// These end anyway, and have what it needs until then.
    leaving: Vec<String>,
}

/// What a task of the manager came to; always with the pod's UID.
enum Ended {
    /// A worker has done its work, or the agent stops.
    Finished(String),
    /// A worker panicked: it did not finish, and whom it waited for.
    Panicked { uid: String, words: String, room_makers: Vec<String> },
    /// It is time to start a worker again that panicked.
    Due(String),
}

/// A worker that panicked, until one finishes for the same pod.
struct Failure {
    pause: Backoff,
    /// When its pod's worker was started last.
    started_at: Timestamp,
    room_makers: Vec<String>,
}

/// A worker that ran this long before it panicked begins with the shortest pause again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// What a panic says.
fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    words.unwrap_or_else(|| "it does not say why".to_owned())
}

/// Follows the pods until it is cancelled.
pub struct PodManager {
    context: Arc<Context>,
    pods: Pods,
    tasks: JoinSet<Ended>,
    /// Workers that panicked, by pod UID: each is started again after a while.
    failures: HashMap<String, Failure>,
    /// Sandboxes found at the start, by pod UID, until their pods turn up.
    found: HashMap<String, Vec<SandboxStatus>>,
    /// Pods from files of this node, by UID.
    statics: HashMap<String, StaticPod>,
    /// Those whose name an older one still has, by namespace and name.
    waiting: HashMap<(String, String), Arc<Pod>>,
    /// The API's copies of such pods, also of those that are gone.
    mirrors: HashMap<(String, String), Arc<Pod>>,
    /// The API was listed once.
    is_listed: bool,
    stop: CancellationToken,
}

/// A pod from a file of this node.
struct StaticPod {
    key: (String, String),
    /// Tells its keeper what the API has of it; dropping it ends the keeper.
    mirror: watch::Sender<Known>,
    /// Its file is gone.
    is_removed: bool,
}

fn key(pod: &Pod) -> (String, String) {
    (pod::namespace(pod).to_owned(), pod::name(pod).to_owned())
}

impl PodManager {
    /// A manager of no pods.
    #[must_use]
    pub fn new(context: Arc<Context>, pods: Pods, stop: CancellationToken) -> Self {
        Self { context, pods, tasks: JoinSet::new(), failures: HashMap::new(), found: HashMap::new(), statics: HashMap::new(), waiting: HashMap::new(), mirrors: HashMap::new(), is_listed: false, stop }
    }

    /// Works until it is cancelled. What runs then goes on.
    ///
    /// # Errors
    /// The runtime cannot even be asked what runs.
    pub async fn run(mut self) -> Result<(), NodeError> {
        let runtime = self.context.config.runtime.clone();
        let mut events = runtime.events();
        for sandbox in runtime.list_sandboxes().await.map_err(NodeError::Runtime)? {
            self.found.entry(sandbox.spec.pod_uid.clone()).or_default().push(sandbox);
        }
        let selection = Selection::fields(&format!("spec.nodeName={}", self.context.config.name));
        let source = Source::new::<Pod>(self.context.config.client.clone(), &(), selection);
        let (send, mut changes) = mpsc::unbounded_channel();
        let (send_static, mut static_changes) = mpsc::unbounded_channel();
        let (directory, node_name) = (self.context.config.static_pod_directory.clone(), self.context.config.name.clone());
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            if let Err(problem) = static_pods::follow(&directory, &node_name, send_static).await {
                tracing::warn!(path = %directory.display(), %problem, "static pods are not followed: the directory cannot be watched");
            }
        }));
        // Before the API is listed, so that what they run in is nobody's orphan.
        if let Some(pods) = static_changes.recv().await {
            self.take_static_pods(pods);
        }
        let stop = self.stop.clone();
        let mut network_ready = self.context.network_ready.subscribe();
        let mut labels = self.context.node_labels.subscribe();
        let mut knows_labels = labels.borrow_and_update().is_some();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            feed::run(source, |event: FeedEvent<Pod>| {
                // An error means that the manager is gone: then the feed is stopped too.
                drop(send.send(event));
            })
            .await;
        }));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(change) = changes.recv(), if knows_labels => self.take_change(change).await,
                // A pod that selects this node by a label must not be refused for our not having read it yet.
                Ok(()) = labels.changed(), if !knows_labels => knows_labels = labels.borrow_and_update().is_some(),
                Some(pods) = static_changes.recv() => self.take_static_pods(pods),
                Some(event) = events.next() => self.take_runtime_event(event),
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(Ended::Finished(uid)) => self.take_finished(&uid),
                    Ok(Ended::Panicked { uid, words, room_makers }) => self.take_panic(uid, &words, room_makers),
                    Ok(Ended::Due(uid)) => self.start_again(&uid).await,
                    Err(problem) => tracing::error!(%problem, "a task of the pod manager failed"),
                },
                // The sender is in the context, which we hold.
                Ok(()) = network_ready.changed() => self.try_again(),
            }
        }
        // Dropping the handles ends the workers, not their pods.
        self.pods.workers.write().clear();
        self.statics.clear();
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    async fn take_change(&mut self, change: FeedEvent<Pod>) {
        match change {
            FeedEvent::Replaced { mut objects, .. } => {
                let mirrors: Vec<Pod> = objects.extract_if(.., |pod| mirrored_hash(pod).is_some()).collect();
                self.mirrors = mirrors.into_iter().map(|mirror| (key(&mirror), Arc::new(mirror))).collect();
                self.is_listed = true;
                self.tell_mirrors();
                let listed: std::collections::HashSet<String> = objects.iter().map(|pod| uid(pod).to_owned()).collect();
                // Those that run already come first: they keep their place.
                objects.sort_by_key(|pod| (!self.found.contains_key(uid(pod)), pod.metadata.creation_timestamp.clone()));
                for pod in objects {
                    self.put(pod);
                }
                let gone: Vec<String> = self.pods.workers.read().keys().filter(|uid| !listed.contains(*uid) && !self.statics.contains_key(*uid)).cloned().collect();
                for uid in gone {
                    self.forget(&uid, None);
                }
                self.remove_orphans().await;
            }
            FeedEvent::Put(pod) if mirrored_hash(&pod).is_some() => {
                self.mirrors.insert(key(&pod), Arc::new(pod));
                self.tell_mirrors();
            }
            FeedEvent::Deleted(pod) if mirrored_hash(&pod).is_some() => {
                if self.mirrors.get(&key(&pod)).is_some_and(|mirror| mirror.metadata.uid == pod.metadata.uid) {
                    self.mirrors.remove(&key(&pod));
                }
                self.tell_mirrors();
            }
            FeedEvent::Put(pod) => self.put(pod),
            FeedEvent::Deleted(pod) => {
                let pod = Arc::new(pod);
                self.forget(uid(&pod), Some(pod.clone()));
            }
            FeedEvent::Progress(_) => {}
        }
        self.context.metrics.running_pods.store(u64::try_from(self.pods.workers.read().len()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Tells static pods and their keepers what the API has of them; a mirror of nothing is deleted.
    fn tell_mirrors(&mut self) {
        if !self.is_listed {
            return;
        }
        let workers = self.pods.workers.read();
        for (uid, known) in &self.statics {
            let mirror = self.mirrors.get(&known.key).cloned();
            let state = mirror.map_or(Known::Absent, Known::Present);
            if let Some(worker) = workers.get(uid) {
                let shown = state.of(uid).cloned();
                worker.desired.send_if_modified(|desired| std::mem::replace(&mut desired.mirror, shown.clone()) != shown);
            }
            // While an older one of its name stops, the mirror shows that one.
            if !known.is_removed {
                known.mirror.send_replace(state);
            }
        }
        drop(workers);
        let named: std::collections::HashSet<&(String, String)> = self.statics.values().map(|known| &known.key).chain(self.waiting.keys()).collect();
        for mirror in self.mirrors.iter().filter(|(key, _)| !named.contains(key)).map(|(_, mirror)| mirror.clone()) {
            let context = self.context.clone();
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
                if let Err(problem) = mirror::delete(&context, &mirror).await {
                    tracing::warn!(pod = pod::full_name(&mirror), problem = crate::api_error::words(&problem), "could not delete the mirror of a static pod that is gone");
                }
            }));
        }
    }

    /// The files of this node have changed: pods whose file is gone or says something else stop, new ones start.
    fn take_static_pods(&mut self, pods: static_pods::StaticPods) {
        for (uid, known) in self.statics.iter_mut().filter(|(uid, _)| !pods.contains_key(*uid)) {
            known.is_removed = true;
            if let Some(worker) = self.pods.workers.read().get(uid) {
                worker.desired.send_modify(|desired| desired.is_gone = true);
            }
        }
        self.waiting.retain(|_, pod| pods.contains_key(uid(pod)));
        for (uid, pod) in pods {
            if self.statics.get(&uid).is_some_and(|known| !known.is_removed) {
                continue;
            }
            let key = key(&pod);
            if self.statics.values().any(|known| known.key == key) {
                self.waiting.insert(key, pod);
            } else {
                self.start_static(uid, key, pod);
            }
        }
        self.tell_mirrors();
    }

    fn start_static(&mut self, uid: String, key: (String, String), pod: Arc<Pod>) {
        let (tell, known) = watch::channel(Known::Unknown);
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(mirror::keep(self.context.clone(), pod.clone(), known)));
        self.statics.insert(uid.clone(), StaticPod { key, mirror: tell, is_removed: false });
        self.begin(pod, true);
    }

    /// Starts the worker of a pod that is new to this agent: one that ran before goes on, another one must be admitted.
    fn begin(&mut self, pod: Arc<Pod>, is_static: bool) {
        let sandboxes = self.found.remove(uid(&pod)).unwrap_or_default();
        let is_new = sandboxes.is_empty() && !is_terminal(&pod) && pod.metadata.deletion_timestamp.is_none();
        let (room, refused) = match if is_new { self.admit(&pod, is_static) } else { Ok(Room::default()) } {
            Ok(room) => (room, None),
            Err(refusal) => (Room::default(), Some(refusal)),
        };
        if let Some((reason, message)) = &refused {
            self.context.events.pod(&pod, EventType::Warning, reason, message.clone());
        }
        for uid in &room.victims {
            self.pods.preempt(uid);
        }
        let room_makers = [room.victims, room.leaving].concat();
        let uid = uid(&pod).to_owned();
        let (worker, handle) = Worker::new(self.context.clone(), Desired { pod, is_gone: false, refused, evicted: None, is_static, mirror: None }, sandboxes);
        self.pods.workers.write().insert(uid.clone(), handle);
        self.run_worker(uid, worker, room_makers);
    }

    fn run_worker(&mut self, uid: String, worker: Worker, room_makers: Vec<String>) {
        self.tasks.spawn(async move {
            // The worker is gone after a panic: nobody sees what it left half done.
            match AssertUnwindSafe(worker.run(room_makers.clone())).catch_unwind().await {
                Ok(()) => Ended::Finished(uid),
                Err(panic) => Ended::Panicked { uid, words: panic_words(&*panic), room_makers },
            }
        });
    }

    /// A worker panicked: that is a defect, but its pod must not be left alone for it. Another one starts after a while.
    fn take_panic(&mut self, uid: String, words: &str, room_makers: Vec<String>) {
        let now = self.context.config.clock.now();
        let new = || Failure { pause: Backoff::new(Duration::from_millis(200), Duration::from_secs(60)), started_at: now, room_makers };
        let failure = self.failures.entry(uid.clone()).or_insert_with(new);
        if after(failure.started_at, FORGIVEN_AFTER) < now {
            failure.pause.reset();
        }
        let delay = failure.pause.next_delay();
        let pod = self.pods.workers.read().get(&uid).map(|worker| pod::full_name(&worker.desired.borrow().pod));
        tracing::error!(pod, uid, panic = words, ?delay, "the worker of a pod panicked; it is started again after the delay");
        let (clock, stop) = (self.context.config.clock.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(clock.sleep(delay)).await;
            Ended::Due(uid)
        });
    }

    /// Starts another worker for a pod whose worker panicked, with what the runtime has of the pod: as after the agent's start.
    async fn start_again(&mut self, uid: &str) {
        let sandboxes = match self.context.config.runtime.list_sandboxes().await {
            Ok(all) => all.into_iter().filter(|sandbox| sandbox.spec.pod_uid == uid).collect(),
            Err(problem) => return self.take_panic(uid.to_owned(), &format!("the runtime cannot be asked: {problem}"), Vec::new()),
        };
        let mut workers = self.pods.workers.write();
        let Some(desired) = workers.get(uid).map(|worker| worker.desired.borrow().clone()) else { return };
        let Some(failure) = self.failures.get_mut(uid) else { return };
        failure.started_at = self.context.config.clock.now();
        let room_makers = failure.room_makers.clone();
        let (worker, handle) = Worker::new(self.context.clone(), desired, sandboxes);
        // It takes in all of it, also that the pod is to be ended.
        handle.desired.send_modify(|_| {});
        workers.insert(uid.to_owned(), handle);
        drop(workers);
        self.run_worker(uid.to_owned(), worker, room_makers);
    }

    /// A static pod whose file is gone has stopped: one that waited for its name starts.
    fn take_ended_static(&mut self, uid: &str) {
        let Some(ended) = self.statics.remove(uid) else { return };
        if let Some(next) = self.waiting.remove(&ended.key) {
            self.start_static(pod::uid(&next).to_owned(), ended.key, next);
        }
        self.tell_mirrors();
    }

    /// The API has a pod no more: its worker takes it down, or is forgotten where it has ended.
    fn forget(&self, uid: &str, last: Option<Arc<Pod>>) {
        let mut workers = self.pods.workers.write();
        let Some(worker) = workers.get(uid) else { return };
        worker.desired.send_modify(|desired| {
            desired.pod = last.unwrap_or_else(|| desired.pod.clone());
            desired.is_gone = true;
        });
        // One that panicked has not ended: it is started again, and takes the pod down.
        if worker.desired.is_closed() && !self.failures.contains_key(uid) {
            workers.remove(uid);
        }
    }

    fn put(&mut self, pod: Pod) {
        let pod = Arc::new(pod);
        if let Some(worker) = self.pods.workers.read().get(uid(&pod)) {
            worker.desired.send_modify(|desired| desired.pod = pod);
            return;
        }
        self.begin(pod, false);
    }

    /// Admits a pod; gives the pods that must end before it starts.
    fn admit(&self, pod: &Pod, is_static: bool) -> Result<Room, (String, String)> {
        if self.context.is_shutting_down.load(Ordering::Acquire) {
            return Err(("NodeShutdown".to_owned(), "Pod was rejected as the node is shutting down.".to_owned()));
        }
        // A pod that ran before on this node is never refused, whatever the agent has forgotten.
        if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running") {
            return Ok(Room::default());
        }
        let config = &self.context.config;
        if let Some(refusal) = self.context.shortages.look(config).refuse(pod, is_static) {
            return Err(refusal);
        }
        // A pod that the API has no more, as after a deletion by force, does not count: whoever placed this one did not count it either.
        let (leaving, others): (Vec<Holder>, Vec<Holder>) = holders(&self.pods.workers.read()).into_iter().partition(|holder| holder.is_gone);
        let running: Vec<&Pod> = others.iter().map(|holder| &*holder.pod).collect();
        let labels = self.context.node_labels.borrow().clone();
        let allocatable = self.context.machine.allocatable(&config.reserved);
        let offer = Offer { allocatable: &allocatable, max_pods: config.max_pods, labels: labels.as_ref(), node_name: &config.name, allowed_sysctls: &config.allowed_sysctls, has_app_armor: machine::has_app_armor() };
        let candidates: Vec<Candidate<'_>> = others.iter().map(|holder| Candidate { pod: &holder.pod, is_static: holder.is_static }).collect();
        let victims = make_room(Candidate { pod, is_static }, obstacles(pod, &running, &offer), &candidates)?;
        let uids = |pods: Vec<&Pod>| pods.into_iter().map(|pod| uid(pod).to_owned()).collect::<Vec<_>>();
        // It still runs, though, and this one starts when it has let go of what both need.
        let until_then: Vec<&Pod> = others.iter().chain(&leaving).map(|holder| &*holder.pod).collect();
        let waits = !leaving.is_empty() && !obstacles(pod, &until_then, &offer).is_empty();
        Ok(Room { victims: uids(victims), leaving: if waits { uids(leaving.iter().map(|holder| &*holder.pod).collect()) } else { Vec::new() } })
    }

    async fn remove_orphans(&mut self) {
        let orphans = std::mem::take(&mut self.found);
        self.remove_orphaned_directories(&orphans);
        for (uid, sandboxes) in orphans {
            let context = self.context.clone();
            tracing::info!(pod = uid, "removing a pod that the API does not know any more");
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
                for sandbox in sandboxes {
                    if let Err(problem) = remove_orphan(&context, &sandbox).await {
                        tracing::warn!(sandbox = sandbox.id.0, problem, "could not remove an orphaned sandbox; the next start of the agent tries again");
                    }
                }
            }));
        }
        let runtime = &self.context.config.runtime;
        match runtime.list_sandboxes().await {
            Ok(sandboxes) => {
                let ids: Vec<String> = sandboxes.into_iter().map(|sandbox| sandbox.id.0).collect();
                if let Err(problem) = self.context.config.network.retain(&ids).await {
                    tracing::warn!(%problem, "could not tidy the pod network");
                }
            }
            Err(problem) => tracing::warn!(%problem, "could not list sandboxes"),
        }
    }

    /// Directories of pods that ended while the agent was away. Those of orphans that are still stopping go with them.
    fn remove_orphaned_directories(&self, stopping: &HashMap<String, Vec<SandboxStatus>>) {
        let config = &self.context.config;
        let known: std::collections::HashSet<String> = self.pods.workers.read().keys().cloned().collect();
        let directories = [config.data_directory.join("pods"), config.run_directory.join("pods")];
        let entries = directories.iter().flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten());
        let orphans: std::collections::HashSet<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|uid| !known.contains(uid) && !stopping.contains_key(uid)).collect();
        for uid in orphans {
            let context = self.context.clone();
            tokio::spawn(async move {
                if let Err(problem) = crate::volume::release(&context, &uid).await {
                    tracing::warn!(pod = uid, problem, "could not remove the directory of a pod that is gone");
                }
            });
        }
    }

    /// Sandboxes that could not be connected are tried again at once, not when their back-off ends.
    fn try_again(&self) {
        for worker in self.pods.workers.read().values() {
            worker.try_again.store(true, Ordering::Release);
            worker.wake.notify_one();
        }
    }

    fn take_runtime_event(&self, event: RuntimeEvent) {
        let workers = self.pods.workers.read();
        match event {
            RuntimeEvent::ContainerExited { pod_uid, .. } => {
                if let Some(worker) = workers.get(&pod_uid) {
                    worker.wake.notify_one();
                }
            }
            RuntimeEvent::SandboxLost { pod_uid, .. } => {
                if let Some(worker) = workers.get(&pod_uid) {
                    worker.look_again.store(true, Ordering::Release);
                    worker.wake.notify_one();
                }
            }
            RuntimeEvent::LookAgain => {
                for worker in workers.values() {
                    worker.look_again.store(true, Ordering::Release);
                    worker.wake.notify_one();
                }
            }
        }
    }

    /// It stays known until the API has forgotten the pod, so that a pod held by a finalizer is not begun anew.
    fn take_finished(&mut self, uid: &str) {
        self.failures.remove(uid);
        let mut workers = self.pods.workers.write();
        if workers.get(uid).is_some_and(|worker| worker.desired.borrow().is_gone) {
            workers.remove(uid);
        }
        drop(workers);
        self.take_ended_static(uid);
        self.pods.tell_ended(uid);
    }
}

#[cfg(test)]
pub(crate) mod tests;
