//! One task per pod: observes, asks [`plan`](super::plan) what to do, does it, writes the status, and waits.
//!
//! The worker never waits for a deed: whatever takes time runs in a task of its own, and its outcome wakes the worker.
//! It is woken by changes of the pod, by the runtime, by probes, by changed config maps and secrets, and by the timers
//! that the plan asks for. It ends when the pod is gone from the API and from the node; when the agent stops, it ends at
//! once and leaves the containers running.

mod outcomes;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use client::{Api, Backoff, DeleteParams, EventType, Patch, PatchParams, Preconditions, revision_of};
use container_runtime::{ContainerId, ContainerState, ContainerStatus, RuntimeError, SandboxId, SandboxState, SandboxStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::outcomes::Outcome;
use super::{
    allocation::Allocation,
    back_off::BackOffs,
    full_name, is_terminal,
    launch::{CONFIG_ERROR, Launch},
    name, namespace,
    resize::{self, DEFERRED, INFEASIBLE, Progress, Resize},
    removal::{forget_pod, remove_old_logs, stop_sandbox},
    plan::{EVICTED, Ended, HookState, Input, KillReason, LaunchFailure, Need, PREEMPTED, Plan, Step, Termination, next_steps},
    sandbox,
    spec,
    status::{StatusInput, failed_status, pod_status, status_patch},
    stop::{Stage, Stop},
    termination_message, uid,
};
use crate::{
    clock::{after, until},
    clock_jumps::{Reckoning, moved},
    config::Context,
    metrics::Metrics,
    objects::{Snapshot, Subscriptions},
    probe::ProbeSet,
    volume::{self, Prepared},
};

/// The node cannot keep a pod, or goes away itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// `status.reason`
    pub reason: &'static str,
    /// `status.message`
    pub message: String,
    /// How long its containers may take to stop.
    pub grace: Duration,
}

fn uid_of(pod: &Pod) -> String {
    uid(pod).to_owned()
}

/// How long a container may be away that is started anew for its new description, until the status tells. Source: Kubernetes
/// 1.36, `plegRelistPeriod`.
const REPLACEMENT: Duration = Duration::from_secs(1);

/// What a pod should be.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The pod as the API has it, or last had it.
    pub pod: Arc<Pod>,
    /// The API has it no more.
    pub is_gone: bool,
    /// The node refuses to run it: reason and message.
    pub refused: Option<(String, String)>,
    /// The node cannot keep it.
    pub evicted: Option<Eviction>,
    /// It comes from a file of the node.
    pub is_static: bool,
    /// The API's copy of it, where it comes from a file.
    pub mirror: Option<Arc<Pod>>,
}

/// What others may know of a pod: for the node's own API.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The pod with its newest status.
    pub pod: Arc<Pod>,
    /// The same with the resources that it was granted, whatever it asks for meanwhile.
    pub granted: Arc<Pod>,
    /// It comes from a file of the node.
    pub is_static: bool,
    /// It waits for resources that others hold.
    pub is_deferred: bool,
    /// Nothing of it runs any more, and it holds nothing, whether or not the API knows.
    pub has_stopped: bool,
    /// Its newest sandbox.
    pub sandbox: Option<SandboxId>,
    /// Its containers.
    pub containers: Arc<Vec<ContainerStatus>>,
}

/// How the manager reaches a worker.
pub struct WorkerHandle {
    /// What the pod should be; dropping it ends the worker, not the pod.
    pub desired: watch::Sender<Desired>,
    /// Wakes it.
    pub wake: Arc<Notify>,
    /// It should ask the runtime for its sandboxes anew.
    pub look_again: Arc<AtomicBool>,
    /// What made it pause may be over: it should try again at once.
    pub try_again: Arc<AtomicBool>,
    /// What others may know.
    pub view: Arc<Mutex<View>>,
}

/// What the content of the volumes was made from.
#[derive(Debug, Clone, Default, PartialEq)]
struct VolumeInputs {
    objects: Snapshot,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    pod_ips: Vec<IpAddr>,
}

/// A stop under way.
struct Killing {
    deadline: Timestamp,
    task: AbortHandle,
}

/// The preStop hook of a sidecar, begun ahead of its stop.
struct Hook {
    state: HookState,
    task: AbortHandle,
}

/// The worker of one pod.
pub struct Worker {
    context: Arc<Context>,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    look_again: Arc<AtomicBool>,
    try_again: Arc<AtomicBool>,
    view: Arc<Mutex<View>>,
    pod: Arc<Pod>,
    is_static: bool,
    /// The API's copy of a static pod: there its status is written.
    mirror: Option<Arc<Pod>>,
    allocation: Allocation,
    granted: Arc<Pod>,
    progress: Progress,
    is_resizing: bool,
    /// Containers that were stopped to get other resources.
    restarting: HashSet<ContainerId>,
    is_gone: bool,
    refused: Option<(String, String)>,
    objects: Subscriptions,
    sandboxes: Vec<SandboxStatus>,
    sandbox: Need<SandboxId>,
    pod_ips: Vec<IpAddr>,
    volumes: Need<()>,
    prepared: Arc<Prepared>,
    volume_inputs: VolumeInputs,
    refreshing: bool,
    /// A sandbox from before the agent's start is being looked up in the network.
    adopting: bool,
    containers: Vec<ContainerStatus>,
    messages: HashMap<ContainerId, String>,
    termination: Option<Termination>,
    ended: Option<Ended>,
    tasks: JoinSet<Outcome>,
    launching: Option<(String, CancellationToken)>,
    killing: HashMap<ContainerId, Killing>,
    hooks: HashMap<ContainerId, Hook>,
    launch_failures: BTreeMap<String, LaunchFailure>,
    /// What the last launch that failed was made from.
    failed_with: VolumeInputs,
    back_offs: BackOffs<String>,
    crash_loops: BTreeMap<String, Duration>,
    probes: ProbeSet,
    pause: Backoff,
    pause_until: Option<Timestamp>,
    writing: bool,
    write_pause: Backoff,
    write_pause_until: Option<Timestamp>,
    reckoning: Reckoning,
    /// The clock jumped: tokens may be of another time.
    tokens_are_doubtful: bool,
    is_released: bool,
    deleting: bool,
    is_deleted: bool,
}

impl Worker {
    /// A worker for a pod, which may have sandboxes from before.
    #[must_use]
    pub fn new(context: Arc<Context>, desired: Desired, sandboxes: Vec<SandboxStatus>) -> (Self, WorkerHandle) {
        let wake = Arc::new(Notify::new());
        let (look_again, try_again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (send_desired, receive_desired) = watch::channel(desired.clone());
        let allocation = Allocation::of_known_pod(&desired.pod, &context.config.pod_directory(uid(&desired.pod)));
        let granted = allocation.apply(&desired.pod);
        let view = View { pod: desired.pod.clone(), granted: granted.clone(), is_static: desired.is_static, ..View::default() };
        let view = Arc::new(Mutex::new(view));
        let pause = || Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut worker = Self {
            reckoning: Reckoning::new(&*context.config.clock),
            context,
            desired: receive_desired,
            wake: wake.clone(),
            look_again: look_again.clone(),
            try_again: try_again.clone(),
            view: view.clone(),
            pod: desired.pod,
            is_static: desired.is_static,
            mirror: None,
            allocation,
            granted,
            progress: Progress::default(),
            is_resizing: false,
            restarting: HashSet::new(),
            is_gone: desired.is_gone,
            refused: desired.refused,
            objects: Subscriptions::default(),
            sandboxes: Vec::new(),
            sandbox: Need::Missing,
            pod_ips: Vec::new(),
            volumes: Need::Missing,
            prepared: Arc::default(),
            volume_inputs: VolumeInputs::default(),
            refreshing: false,
            adopting: false,
            containers: Vec::new(),
            messages: HashMap::new(),
            termination: None,
            ended: None,
            tasks: JoinSet::new(),
            launching: None,
            killing: HashMap::new(),
            hooks: HashMap::new(),
            launch_failures: BTreeMap::new(),
            failed_with: VolumeInputs::default(),
            back_offs: BackOffs::default(),
            crash_loops: BTreeMap::new(),
            probes: ProbeSet::new(wake.clone()),
            pause: pause(),
            pause_until: None,
            writing: false,
            write_pause: pause(),
            write_pause_until: None,
            tokens_are_doubtful: false,
            is_released: false,
            deleting: false,
            is_deleted: false,
        };
        worker.take_sandboxes(sandboxes);
        (worker, WorkerHandle { desired: send_desired, wake, look_again, try_again, view })
    }

    /// Works until the pod is gone, or the agent stops. Begins when the pods have ended that make room for this one.
    pub async fn run(mut self, room_makers: Vec<String>) {
        if !self.wait_for_room(&room_makers).await {
            return;
        }
        loop {
            if self.is_done() {
                return;
            }
            self.observe().await;
            let wake_at = self.step();
            if self.is_done() {
                return;
            }
            let clock = self.context.config.clock.clone();
            let now = clock.now();
            let timer = async {
                match wake_at {
                    // At least a millisecond, so that rounding cannot make it spin.
                    Some(at) => clock.sleep(until(at, now).max(Duration::from_millis(1))).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_desired();
                }
                () = self.wake.notified() => {}
                Some(outcome) = self.tasks.join_next() => self.take_joined(outcome),
                () = timer => {}
            }
            while let Some(outcome) = self.tasks.try_join_next() {
                self.take_joined(outcome);
            }
        }
    }

    /// Waits for others to end, as long as the pod is wanted; false where the agent stops.
    async fn wait_for_room(&mut self, room_makers: &[String]) -> bool {
        let pods = self.context.pods.clone();
        let ended = pods.all_ended(room_makers);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => return true,
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    self.take_desired();
                    if self.is_gone || self.ended.is_some() || self.pod.metadata.deletion_timestamp.is_some() {
                        return true;
                    }
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.is_released && (self.is_gone || self.is_deleted) && self.tasks.is_empty()
    }

    fn now(&self) -> Timestamp {
        self.context.config.clock.now()
    }

    fn take_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        self.is_gone |= desired.is_gone;
        self.refused = self.refused.take().or(desired.refused);
        if let Some(Eviction { reason, message, grace }) = desired.evicted.filter(|_| self.termination.is_none() && self.ended.is_none()) {
            if matches!(reason, EVICTED | PREEMPTED) {
                self.context.events.pod(&self.pod, EventType::Warning, reason, message.clone());
            }
            self.ended = Some(Ended { phase: "Failed", reason: Some(reason.to_owned()), message: Some(message) });
            self.terminate(self.now(), grace);
        }
        if self.is_static {
            return self.take_mirror(desired.mirror);
        }
        // Our own write may have brought a newer one.
        if revision_of(&*desired.pod) >= revision_of(&*self.pod) || revision_of(&*desired.pod) == 0 {
            self.pod = desired.pod;
        }
    }

    /// The API's copy of a static pod holds the status that was written last.
    pub(super) fn take_mirror(&mut self, mirror: Option<Arc<Pod>>) {
        if let Some(mirror) = &mirror {
            let mut pod = Pod::clone(&self.pod);
            pod.status.clone_from(&mirror.status);
            self.pod = Arc::new(pod);
        }
        self.mirror = mirror;
    }

    /// Takes over what the runtime says of the pod's sandboxes.
    fn take_sandboxes(&mut self, mut sandboxes: Vec<SandboxStatus>) {
        sandboxes.sort_by_key(|sandbox| (sandbox.spec.attempt, sandbox.created_at));
        self.sandboxes = sandboxes;
        if matches!(self.sandbox, Need::Busy) {
            // Something is being done to it: looked at again when that is done.
            self.look_again.store(true, Ordering::Release);
            return;
        }
        let current = match &self.sandbox {
            Need::Ready(id) | Need::Broken(id) => Some(id.clone()),
            Need::Missing | Need::Busy => None,
        };
        let Some(newest) = self.sandboxes.last().cloned() else {
            self.sandbox = Need::Missing;
            return;
        };
        match (newest.state, current) {
            (SandboxState::Ready, Some(current)) if current == newest.id => {}
            (SandboxState::Ready, _) => {
                // Its addresses are asked for again, which the network answers from what it knows.
                self.sandbox = Need::Busy;
                self.adopting = true;
                let (context, pod) = (self.context.clone(), self.pod.clone());
                self.tasks.spawn(async move {
                    let attached = sandbox::attach(&context, &pod, &newest).await;
                    Outcome::Sandbox(attached.map(|addresses| (Box::new(newest), addresses)))
                });
            }
            (SandboxState::NotReady, current) => {
                let is_ours = current.as_ref() == Some(&newest.id);
                self.sandbox = if is_ours || current.is_none() { Need::Broken(newest.id) } else { Need::Missing };
            }
        }
    }

    async fn observe(&mut self) {
        if self.try_again.swap(false, Ordering::AcqRel) {
            self.pause_until = None;
            self.pause.reset();
        }
        let runtime = self.context.config.runtime.clone();
        if self.look_again.swap(false, Ordering::AcqRel) {
            match runtime.list_sandboxes().await {
                Ok(all) => {
                    let own = all.into_iter().filter(|sandbox| sandbox.spec.pod_uid == uid(&self.pod)).collect();
                    self.take_sandboxes(own);
                }
                Err(problem) => {
                    tracing::warn!(pod = full_name(&self.pod), %problem, "could not list sandboxes");
                    self.look_again.store(true, Ordering::Release);
                    self.pause_now();
                }
            }
        }
        let mut containers = Vec::new();
        for sandbox in &self.sandboxes {
            match runtime.list_containers(Some(&sandbox.id)).await {
                Ok(found) => containers.extend(found),
                Err(RuntimeError::NoSuchSandbox(_)) => {}
                Err(problem) => {
                    tracing::warn!(pod = full_name(&self.pod), %problem, "could not list containers");
                    containers.extend(self.containers.iter().filter(|container| container.sandbox == sandbox.id).cloned());
                    self.pause_until = Some(after(self.context.config.clock.now(), Duration::from_secs(1)));
                }
            }
        }
        self.containers = containers;
        self.restarting.retain(|id| self.containers.iter().any(|container| container.id == *id));
        self.messages.retain(|id, _| self.containers.iter().any(|container| container.id == *id));
        for container in &self.containers {
            if matches!(container.state, ContainerState::Exited { .. }) && !self.messages.contains_key(&container.id) {
                let message = termination_message::read(container).await;
                self.messages.insert(container.id.clone(), message);
            }
        }
        self.objects.wake_for(&self.context.objects, volume::references(&self.pod), &self.wake);
        self.retry_what_a_change_may_heal();
    }

    /// A container whose description could not be met is tried again as soon as the pod or what it refers to has changed.
    fn retry_what_a_change_may_heal(&mut self) {
        if self.launch_failures.values().all(|failure| failure.reason != CONFIG_ERROR) {
            return;
        }
        let inputs = self.inputs(self.objects.now());
        if inputs != self.failed_with {
            self.failed_with = inputs;
            let now = self.now();
            self.launch_failures.values_mut().filter(|failure| failure.reason == CONFIG_ERROR).for_each(|failure| failure.retry_at = now);
        }
    }

    fn pause_now(&mut self) {
        let delay = self.pause.next_delay();
        self.pause_until = Some(after(self.now(), delay));
    }

    /// What waits for a time of day waits as long as it was meant to, however the clock was set.
    fn follow_clock(&mut self) {
        let Some(jump) = self.reckoning.jump(&*self.context.config.clock) else { return };
        self.tokens_are_doubtful = true;
        let deadlines = self.termination.iter_mut().map(|termination| &mut termination.deadline);
        let deadlines = deadlines.chain(self.killing.values_mut().map(|killing| &mut killing.deadline));
        let deadlines = deadlines.chain(self.hooks.values_mut().filter_map(|hook| match &mut hook.state {
            HookState::Running(until) => Some(until),
            HookState::Done => None,
        }));
        let retries = self.launch_failures.values_mut().map(|failure| &mut failure.retry_at);
        let pauses = self.pause_until.iter_mut().chain(self.write_pause_until.iter_mut());
        for time in deadlines.chain(retries).chain(pauses) {
            *time = moved(*time, jump);
        }
    }

    /// Decides, begins what is decided, and begins to write the status. Gives when to look again.
    fn step(&mut self) -> Option<Timestamp> {
        self.follow_clock();
        let now = self.now();
        self.consider_termination(now);
        self.consider_resize();
        if self.termination.is_none() {
            // Without an address nobody can be asked, as for a moment after the agent's start.
            let addresses = matches!(self.sandbox, Need::Ready(_)).then_some(self.pod_ips.as_slice());
            self.probes.follow(&self.context, &self.pod, &self.containers, addresses);
        } else {
            self.probes.stop_restarts();
        }
        let mut plan = self.plan(now);
        if let Some(ended) = plan.ended.take()
            && self.termination.is_none()
        {
            if let (Some(reason), Some(message)) = (&ended.reason, &ended.message) {
                self.context.events.pod(&self.pod, EventType::Normal, reason, message.clone());
            }
            self.ended = Some(ended);
            self.terminate(now, Duration::from_secs(u64::try_from(spec(&self.pod).termination_grace_period_seconds.unwrap_or(30)).unwrap_or(0)));
            plan = self.plan(now);
        }
        let crash_loops = std::mem::take(&mut plan.crash_loops);
        for (name, delay) in &crash_loops {
            self.launch_failures.remove(name);
            if self.crash_loops.get(name) != Some(delay) {
                let message = format!("Back-off restarting failed container {name} in pod {}", full_name(&self.pod));
                self.context.events.container(&self.pod, name, EventType::Warning, "BackOff", message);
            }
        }
        self.crash_loops = crash_loops;
        let mut wake_at = plan.wake_at;
        let is_terminated = plan.is_terminated;
        for step in plan.steps {
            self.begin(step, now);
        }
        if self.termination.is_none()
            && let Some(refresh_at) = self.refresh_volumes(now)
        {
            wake_at = Some(wake_at.map_or(refresh_at, |at| at.min(refresh_at)));
        }
        // Before the status is written: who has read there that a container ended may ask for its log at once.
        let is_deferred = self.progress.pending.as_ref().is_some_and(|refusal| refusal.reason == DEFERRED);
        let view = View {
            pod: self.pod.clone(),
            granted: self.granted.clone(),
            is_static: self.is_static,
            is_deferred,
            has_stopped: is_terminated,
            sandbox: match &self.sandbox {
                Need::Ready(id) => Some(id.clone()),
                _ => None,
            },
            containers: Arc::new(self.containers.clone()),
        };
        let was_deferred = std::mem::replace(&mut *self.view.lock(), view).is_deferred;
        if was_deferred && !is_deferred {
            // Whoever came after it may have its turn.
            self.context.pods.wake_deferred(uid(&self.pod));
        }
        let is_settled = self.write_status(now, is_terminated, &mut wake_at);
        if is_terminated && is_settled {
            self.finish();
        }
        if is_terminated {
            self.context.pods.tell_ended(uid(&self.pod));
        }
        wake_at
    }

    fn plan(&self, now: Timestamp) -> Plan {
        let killing: HashMap<ContainerId, Timestamp> = self.killing.iter().map(|(id, killing)| (id.clone(), killing.deadline)).collect();
        let hooks: HashMap<ContainerId, HookState> = self.hooks.iter().map(|(id, hook)| (id.clone(), hook.state)).collect();
        next_steps(&Input {
            pod: &self.granted,
            sandbox_limits: self.sandboxes.last().map(|sandbox| &sandbox.spec.resources),
            is_resizing: self.is_resizing,
            restarting: &self.restarting,
            now,
            termination: self.termination,
            volumes: &self.volumes,
            sandbox: &self.sandbox,
            sandbox_attempts: self.sandboxes.last().map_or(0, |sandbox| sandbox.spec.attempt.saturating_add(1)),
            pause_until: self.pause_until,
            containers: &self.containers,
            launching: self.launching.as_ref().map(|(name, _)| name.as_str()),
            launch_failures: &self.launch_failures,
            killing: &killing,
            hooks: &hooks,
            probes: &self.probes.states(),
            back_offs: &self.back_offs,
        })
    }

    /// Asks the node for what the pod's spec asks for, where it was granted something else, and notes how far that has come.
    fn consider_resize(&mut self) {
        let wanted = Allocation::wanted_by(&self.pod);
        let runs = !self.is_static && self.termination.is_none() && self.ended.is_none() && self.refused.is_none() && !is_terminal(&self.pod);
        if runs && wanted != self.allocation {
            self.ask_for(wanted);
        } else {
            self.progress.pending = None;
        }
        self.granted = self.allocation.apply(&self.pod);
        let was_in_progress = self.progress.in_progress;
        let sandbox = match &self.sandbox {
            Need::Ready(id) => self.sandboxes.iter().find(|sandbox| sandbox.id == *id).map(|sandbox| (id, &sandbox.spec.resources)),
            _ => None,
        };
        let changes = resize::changes(&self.granted, sandbox, &self.containers);
        self.progress.in_progress = runs && (self.is_resizing || !changes.is_empty());
        if was_in_progress && !self.progress.in_progress {
            self.progress.error = None;
            if runs {
                self.tell(EventType::Normal, "ResizeCompleted", "Pod resize completed", None);
            }
        }
    }

    fn ask_for(&mut self, wanted: Allocation) {
        let refusal = match self.context.pods.grant(&self.context, &self.pod) {
            Ok(()) => {
                if let Err(problem) = wanted.write(&self.context.config.pod_directory(uid(&self.pod))) {
                    tracing::warn!(pod = full_name(&self.pod), %problem, "could not write down what a pod was granted");
                }
                self.allocation = wanted;
                self.granted = self.pod.clone();
                self.progress = Progress { in_progress: self.progress.in_progress, ..Progress::default() };
                // Others may have waited for what this one gives back.
                self.context.pods.wake_deferred(uid(&self.pod));
                return self.tell(EventType::Normal, "ResizeStarted", "Pod resize started", None);
            }
            Err(refusal) => refusal,
        };
        if self.progress.pending.as_ref() != Some(&refusal) {
            let reason = if refusal.reason == INFEASIBLE { "ResizeInfeasible" } else { "ResizeDeferred" };
            self.tell(EventType::Warning, reason, &format!("Pod resize {}", refusal.reason), Some(&refusal.message));
            self.progress.pending = Some(refusal);
        }
    }

    /// An event about the pod's resize.
    fn tell(&self, kind: EventType, reason: &str, words: &str, error: Option<&str>) {
        self.context.events.pod(&self.pod, kind, reason, format!("{words}: {}", resize::details(&self.pod, error)));
    }

    fn consider_termination(&mut self, now: Timestamp) {
        let metadata = &self.pod.metadata;
        let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if metadata.deletion_timestamp.is_some() || self.is_gone {
            let grace = metadata.deletion_grace_period_seconds.or(spec(&self.pod).termination_grace_period_seconds).unwrap_or(30);
            // Also a forced deletion leaves a second, so that programs can at least close what they hold.
            self.terminate(now, seconds(grace).max(Duration::from_secs(1)));
        } else if (self.refused.is_some() || is_terminal(&self.pod)) && self.termination.is_none() {
            self.terminate(now, seconds(spec(&self.pod).termination_grace_period_seconds.unwrap_or(30)));
        }
    }

    /// The pod must stop within a time; a grace period can only become shorter.
    fn terminate(&mut self, now: Timestamp, grace: Duration) {
        match &mut self.termination {
            None => self.termination = Some(Termination { deadline: after(now, grace), grace }),
            Some(termination) if grace < termination.grace => {
                termination.grace = grace;
                termination.deadline = termination.deadline.min(after(now, grace));
            }
            Some(_) => return,
        }
        if let Some((_, cancel)) = &self.launching {
            cancel.cancel();
        }
    }

    fn begin(&mut self, step: Step, now: Timestamp) {
        let (context, pod) = (self.context.clone(), self.granted.clone());
        match step {
            Step::Resize(changes) => {
                let Some(sandbox) = self.sandboxes.last() else { return };
                self.is_resizing = true;
                let resize =
                    Resize { context, sandbox: sandbox.id.clone(), before: sandbox.spec.resources.clone(), changes, containers: Arc::new(self.containers.clone()) };
                let id = sandbox.id.clone();
                self.tasks.spawn(async move {
                    let (limits, result) = resize.run().await;
                    Outcome::Resized(id, limits, result)
                });
            }
            Step::PrepareVolumes => {
                self.volumes = Need::Busy;
                self.prepare_volumes();
            }
            Step::MakeSandbox { attempt } => {
                self.sandbox = Need::Busy;
                self.tasks.spawn(async move {
                    let made = sandbox::make_sandbox(&context, &pod, attempt).await;
                    Outcome::Sandbox(made.map(|(sandbox, addresses)| (Box::new(sandbox), addresses)))
                });
            }
            Step::StopSandbox(id) => {
                self.sandbox = Need::Busy;
                self.tasks.spawn(async move {
                    let result = stop_sandbox(&context, &id).await;
                    Outcome::SandboxStopped(id, result)
                });
            }
            Step::Launch { container, role, attempt, replaces, last_end, round } => {
                let Need::Ready(sandbox) = self.sandbox.clone() else { return };
                if let Some(last_end) = last_end {
                    self.back_offs.raise(&container, last_end, now);
                }
                let cancel = CancellationToken::new();
                self.launching = Some((container.clone(), cancel.clone()));
                let launch = Launch {
                    context,
                    pod,
                    container: container.clone(),
                    role,
                    attempt,
                    round,
                    replaces,
                    sandbox,
                    pod_ips: self.pod_ips.clone(),
                    volumes: self.prepared.clone(),
                    objects: self.objects.share(),
                    cancel,
                };
                self.tasks.spawn(async move { Outcome::Launched(container, launch.run().await) });
            }
            Step::PreStop { container, name, deadline } => {
                let (id, reason, pod_ips) = (container.clone(), KillReason::PodStops, self.pod_ips.clone());
                let stop = Stop { context, pod, name, id: container.clone(), deadline, reason, pod_ips, stage: Stage::First };
                let task = self.tasks.spawn(async move {
                    stop.say_farewell().await;
                    Outcome::HookRan(id)
                });
                self.hooks.insert(container, Hook { state: HookState::Running(deadline), task });
            }
            Step::Kill { container, name, deadline, reason } => {
                if matches!(reason, KillReason::Resized | KillReason::DefinitionChanged) {
                    self.restarting.insert(container.clone());
                }
                let earlier = self.killing.remove(&container);
                if let Some(earlier) = &earlier {
                    earlier.task.abort();
                }
                let hook = self.hooks.get_mut(&container);
                let stage = match (&earlier, &hook) {
                    (Some(_), _) => Stage::Repeated,
                    (None, Some(_)) => Stage::HookHasRun,
                    (None, None) => Stage::First,
                };
                if let Some(hook) = hook {
                    hook.task.abort();
                    hook.state = HookState::Done;
                }
                let stop = Stop { context, pod, name, id: container.clone(), deadline, reason, pod_ips: self.pod_ips.clone(), stage };
                let id = container.clone();
                let task = self.tasks.spawn(async move { Outcome::Killed(id, deadline, stop.run().await) });
                self.killing.insert(container, Killing { deadline, task });
            }
            Step::Remove(container) => {
                if let Some(status) = self.containers.iter().find(|status| status.id == container) {
                    remove_old_logs(status);
                }
                self.tasks.spawn(async move {
                    if let Err(problem) = context.config.runtime.remove_container(&container).await {
                        tracing::warn!(container = container.0, %problem, "could not remove an old container");
                    }
                    Outcome::Tidied
                });
            }
            Step::ReleaseVolumes => {
                self.volumes = Need::Busy;
                let uid = uid(&self.pod).to_owned();
                self.tasks.spawn(async move { Outcome::Released(volume::release(&context, &uid).await) });
            }
        }
    }

    fn inputs(&self, objects: Snapshot) -> VolumeInputs {
        VolumeInputs {
            objects,
            labels: self.pod.metadata.labels.clone(),
            annotations: self.pod.metadata.annotations.clone(),
            pod_ips: self.pod_ips.clone(),
        }
    }

    fn prepare_volumes(&mut self) {
        let (context, pod, objects) = (self.context.clone(), self.granted.clone(), self.objects.share());
        let mut inputs = self.inputs(Snapshot::default());
        self.tasks.spawn(async move {
            inputs.objects = objects.snapshot().await;
            let prepared = volume::prepare(&context, &pod, &inputs.objects, &inputs.pod_ips).await;
            Outcome::Volumes(prepared, Box::new(inputs))
        });
    }

    /// Begins to bring volumes up to date where what they are made from has changed. Gives when a token must be renewed.
    fn refresh_volumes(&mut self, now: Timestamp) -> Option<Timestamp> {
        let refresh_at = self.prepared.refresh_at;
        if self.refreshing || !matches!(self.volumes, Need::Ready(())) {
            return refresh_at;
        }
        let paused = self.pause_until.is_some_and(|until| until > now);
        let is_due = refresh_at.is_some_and(|at| at <= now || self.tokens_are_doubtful);
        let changed = spec(&self.pod).volumes.as_ref().is_some_and(|volumes| !volumes.is_empty()) && self.inputs(self.objects.now()) != self.volume_inputs;
        if (is_due || changed) && !paused {
            self.refreshing = true;
            self.tokens_are_doubtful = false;
            self.prepare_volumes();
            return None;
        }
        if is_due { self.pause_until } else { refresh_at }
    }

    /// Earlier sandboxes but the last are removed with their containers, whose logs nobody can ask for any more.
    fn remove_old_sandboxes(&mut self) {
        while self.sandboxes.len() > 2 {
            let old = self.sandboxes.remove(0);
            let context = self.context.clone();
            self.tasks.spawn(async move {
                if let Err(problem) = context.config.runtime.remove_sandbox(&old.id).await {
                    tracing::warn!(sandbox = old.id.0, %problem, "could not remove an old sandbox");
                }
                Outcome::Tidied
            });
        }
    }

    /// When the last of those containers ended that were killed to be started anew, and are not yet.
    fn replaced_at(&self) -> Option<Timestamp> {
        let mut newest: HashMap<&str, &ContainerStatus> = HashMap::new();
        for container in self.containers.iter().filter(|container| container.state != ContainerState::Created) {
            let known = newest.entry(&container.spec.name).or_insert(container);
            if container.spec.attempt > known.spec.attempt {
                *known = container;
            }
        }
        let ends = newest.into_values().filter_map(|container| match &container.state {
            ContainerState::Exited { exit, .. } if self.restarting.contains(&container.id) => Some(exit.finished_at),
            _ => None,
        });
        ends.max()
    }

    /// Begins to write the status where it differs; gives whether the API has it all.
    fn write_status(&mut self, now: Timestamp, is_terminated: bool, wake_at: &mut Option<Timestamp>) -> bool {
        if self.is_gone || self.is_deleted || self.is_released {
            return true;
        }
        // What was written before the agent's start stays until the pod's address is known again.
        if self.adopting {
            return false;
        }
        // Between the end of the last container and the end of the pod there is nothing worth a write of its own.
        let stands = self.pause_until.is_some_and(|until| until > now);
        let is_running = |container: &ContainerStatus| matches!(container.state, ContainerState::Running { .. });
        if self.termination.is_some() && !is_terminated && !stands && self.launching.is_none() && !self.containers.iter().any(is_running) {
            return false;
        }
        let replaced_at = self.replaced_at();
        // What is replaced at once is not told as an outage: as long as upstream, which looks once a second, may not see it.
        if let Some(until) = replaced_at.map(|ended| after(ended, REPLACEMENT)).filter(|until| self.termination.is_none() && *until > now) {
            *wake_at = Some(wake_at.map_or(until, |at| at.min(until)));
            return false;
        }
        let wanted = match (&self.refused, is_terminal(&self.pod)) {
            (Some((reason, message)), false) => failed_status(&self.pod, reason, &format!("Pod was rejected: {message}"), now),
            (Some(_), true) => return true,
            (None, _) => pod_status(&StatusInput {
                pod: &self.pod,
                granted: &self.granted,
                progress: &self.progress,
                now,
                containers: &self.containers,
                has_sandbox: matches!(self.sandbox, Need::Ready(_)),
                pod_ips: &self.pod_ips,
                host_ips: &self.context.config.node_ips,
                probes: &self.probes.states(),
                launch_failures: &self.launch_failures,
                crash_loops: &self.crash_loops,
                messages: &self.messages,
                ended: self.ended.as_ref(),
                is_replacing: replaced_at.is_some(),
                is_terminated,
            }),
        };
        let Some(mut patch) = status_patch(&self.pod, &wanted) else { return !self.writing };
        if self.writing {
            return false;
        }
        if self.is_static {
            // What nobody shows yet is at least not forgotten.
            let Some(mirror) = &self.mirror else {
                let mut pod = Pod::clone(&self.pod);
                pod.status = Some(wanted);
                self.pod = Arc::new(pod);
                return true;
            };
            if let Some(uid) = patch.pointer_mut("/metadata/uid") {
                *uid = serde_json::Value::String(uid_of(mirror));
            }
        }
        if let Some(until) = self.write_pause_until.filter(|until| *until > now) {
            *wake_at = Some(wake_at.map_or(until, |at| at.min(until)));
            return false;
        }
        self.writing = true;
        Metrics::count(&self.context.metrics.status_writes);
        let api: Api<Pod> = Api::namespaced(self.context.config.client.clone(), namespace(&self.pod));
        let name = name(&self.pod).to_owned();
        self.tasks.spawn(async move {
            let result = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            Outcome::Written(result.map(Box::new))
        });
        false
    }

    /// Nothing runs and nothing is held: once the API wants the pod gone, its last traces go too.
    fn finish(&mut self) {
        let is_wanted = self.pod.metadata.deletion_timestamp.is_none() && !self.is_gone;
        if is_wanted || self.deleting || !self.tasks.is_empty() {
            return;
        }
        if self.is_deleted && self.is_released {
            return;
        }
        if self.write_pause_until.is_some_and(|until| until > self.now()) && !self.is_gone && !self.is_deleted {
            return;
        }
        self.is_released = true;
        self.deleting = true;
        let (context, pod, is_gone) = (self.context.clone(), self.pod.clone(), self.is_gone);
        let sandboxes: Vec<SandboxId> = self.sandboxes.drain(..).map(|sandbox| sandbox.id).collect();
        self.containers.clear();
        self.tasks.spawn(async move {
            forget_pod(&context, &pod, sandboxes).await;
            if is_gone {
                return Outcome::Deleted(Ok(()));
            }
            let api: Api<Pod> = Api::namespaced(context.config.client.clone(), namespace(&pod));
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            let parameters = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
            Outcome::Deleted(api.delete(name(&pod), &parameters).await.map(|_| ()))
        });
    }
}
