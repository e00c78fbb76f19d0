//! What to do next for one pod: a pure function of the wanted pod and of what is observed.
//!
//! The worker calls [`next_steps`] after everything that may have changed something, applies the steps, and calls it
//! again. Nothing is remembered here: running it twice on the same input gives the same steps, and the worker shows what
//! is already under way (`launching`, `killing`, `volumes`, `sandbox`), so that nothing is begun twice.
//! Source of the rules: Kubernetes 1.36, `pkg/kubelet/kuberuntime`, `computePodActions`, and KEP-753 (sidecars).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use container_runtime::{ContainerId, ContainerState, ContainerStatus, ResourceLimits, SandboxId};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Role, annotations, back_off::{BackOffs, go_duration}, containers, full_name, is_sidecar, resize::{self, Changes}, restart::{restarts_after, restarts_all, round, round_of}, spec};
use crate::clock::{after, until};

/// Something a pod needs once: its volumes, its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need<T> {
    /// Not there.
    Missing,
    /// Being made, or being taken away.
    Busy,
    /// There.
    Ready(T),
    /// There, but broken; must be taken away before a new one is made.
    Broken(T),
}

/// That a pod must stop, and by when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// When its containers are killed if they are still there.
    pub deadline: Timestamp,
    /// The whole time they were given.
    pub grace: Duration,
}

/// What the probes of one container say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeState {
    /// Its startup probe succeeded, or it has none.
    pub started: bool,
    /// Its readiness probe succeeded lately, or it has none.
    pub ready: bool,
    /// A startup or liveness probe failed too often: it must be restarted.
    pub failed: Option<FailedProbe>,
}

/// Which probe asks for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedProbe {
    /// `livenessProbe`
    Liveness,
    /// `startupProbe`
    Startup,
}

/// Why a container could not be started, in upstream's words, and when the next try is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFailure {
    /// Reason of the waiting state (`ErrImagePull`).
    pub reason: String,
    /// Message of the waiting state.
    pub message: String,
    /// When the next try is due.
    pub retry_at: Timestamp,
}

/// Everything the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The wanted pod, with the resources it was granted.
    pub pod: &'a Pod,
    /// Limits its sandbox has.
    pub sandbox_limits: Option<&'a ResourceLimits>,
    /// Limits are being changed now.
    pub is_resizing: bool,
    /// Containers that were stopped to get other resources.
    pub restarting: &'a HashSet<ContainerId>,
    /// The time.
    pub now: Timestamp,
    /// Set once the pod must stop; it never goes back.
    pub termination: Option<Termination>,
    /// Its volumes.
    pub volumes: &'a Need<()>,
    /// Its newest sandbox.
    pub sandbox: &'a Need<SandboxId>,
    /// How many sandboxes were made for it.
    pub sandbox_attempts: u32,
    /// Volumes, sandboxes and kills are not tried again before.
    pub pause_until: Option<Timestamp>,
    /// All its containers in the runtime, ended ones and those of earlier sandboxes too.
    pub containers: &'a [ContainerStatus],
    /// The container being launched now.
    pub launching: Option<&'a str>,
    /// Launches that failed before there was a container.
    pub launch_failures: &'a BTreeMap<String, LaunchFailure>,
    /// Containers being stopped now, with their deadline.
    pub killing: &'a HashMap<ContainerId, Timestamp>,
    /// PreStop hooks of sidecars that were begun ahead of their stop.
    pub hooks: &'a HashMap<ContainerId, HookState>,
    /// What the probes say.
    pub probes: &'a HashMap<ContainerId, ProbeState>,
    /// Waits of crashing containers.
    pub back_offs: &'a BackOffs<String>,
}

/// How far the preStop hook of a sidecar is that was begun ahead of its stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookState {
    /// It runs, until this time at most.
    Running(Timestamp),
    /// It has run, or there is none.
    Done,
}

/// Why a container is stopped; the words of its `Killing` event follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// The pod stops.
    PodStops,
    /// A probe failed too often.
    Probe(FailedProbe),
    /// Its image in the pod's spec was changed.
    DefinitionChanged,
    /// It was granted other resources, and its policy asks for a restart.
    Resized,
    /// A rule asks that all containers start anew: at once, without hooks.
    AllRestart,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make the volumes.
    PrepareVolumes,
    /// Make a sandbox and connect it.
    MakeSandbox {
        /// How many were made before.
        attempt: u32,
    },
    /// Stop a sandbox and disconnect it; its containers' records stay.
    StopSandbox(SandboxId),
    /// Get the image, create and start a container, run its postStart hook.
    Launch {
        /// Its name.
        container: String,
        /// What it is to the pod.
        role: Role,
        /// How often it was started before.
        attempt: u32,
        /// A container that was created but never started, to be removed first.
        replaces: Option<ContainerId>,
        /// When its last run ended.
        last_end: Option<Timestamp>,
        /// How often all containers of the pod were started anew before.
        round: u32,
    },
    /// Run the preStop hook of a sidecar, which is stopped when its turn comes.
    PreStop {
        /// Which one.
        container: ContainerId,
        /// Its name.
        name: String,
        /// When the hook is cut off.
        deadline: Timestamp,
    },
    /// Run the preStop hook, where it has not run yet, and stop a container.
    Kill {
        /// Which one.
        container: ContainerId,
        /// Its name.
        name: String,
        /// When it is killed if it is still there.
        deadline: Timestamp,
        /// Why.
        reason: KillReason,
    },
    /// Give the pod and its containers the limits they were granted.
    Resize(Changes),
    /// Remove an ended container that nobody asks about any more.
    Remove(ContainerId),
    /// Take the volumes away.
    ReleaseVolumes,
}

/// `status.reason` of a pod that the node could not keep.
pub const EVICTED: &str = "Evicted";

/// `status.reason` of a pod that ended to make room for a critical one. Source: Kubernetes 1.36, `events.PreemptContainer`.
pub const PREEMPTED: &str = "Preempting";

/// `status.reason` of a pod that ended because its node was shut down. Source: Kubernetes 1.36, `nodeShutdownReason`.
pub const SHUT_DOWN: &str = "Terminated";

/// How a pod ended by itself, or was ended by its deadline or the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// `Succeeded` or `Failed`
    pub phase: &'static str,
    /// `status.reason`, where there is one.
    pub reason: Option<String>,
    /// `status.message`, where there is one.
    pub message: Option<String>,
}

/// The decision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// What to do now, in order.
    pub steps: Vec<Step>,
    /// When to decide again if nothing happens before.
    pub wake_at: Option<Timestamp>,
    /// Containers that wait for the end of their back-off: the length of the wait.
    pub crash_loops: BTreeMap<String, Duration>,
    /// The pod is over and must terminate.
    pub ended: Option<Ended>,
    /// Nothing of the pod is left but its records.
    pub is_terminated: bool,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Decides what to do next.
#[must_use]
pub fn next_steps(input: &Input<'_>) -> Plan {
    match input.termination {
        Some(termination) => termination_steps(input, termination),
        None => {
            let sandbox = match input.sandbox {
                Need::Ready(sandbox) => input.sandbox_limits.map(|limits| (sandbox, limits)),
                _ => None,
            };
            let changes = resize::changes(input.pod, sandbox, input.containers);
            Syncing { input, plan: Plan::default(), wants_launch: false, changes, round: round(input.pod, input.containers) }.steps()
        }
    }
}

/// The newest container of a name: the one with the most restarts.
#[must_use]
pub fn newest<'a>(all: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    all.iter().filter(|container| container.spec.name == name).max_by_key(|container| (container.spec.attempt, container.created_at))
}

/// The message of a container in its back-off.
#[must_use]
pub fn crash_loop_message(pod: &Pod, container: &str, delay: Duration) -> String {
    format!("back-off {} restarting failed container={container} pod={}", go_duration(delay), full_name(pod))
}

/// The grace period of a container that a failed probe restarts.
fn probe_grace(pod: &Pod, container: &Container, probe: FailedProbe) -> Duration {
    let probe = match probe {
        FailedProbe::Liveness => container.liveness_probe.as_ref(),
        FailedProbe::Startup => container.startup_probe.as_ref(),
    };
    let seconds = probe.and_then(|probe| probe.termination_grace_period_seconds).or(spec(pod).termination_grace_period_seconds).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The grace period of a container that is restarted for a change.
fn pod_grace(pod: &Pod) -> Duration {
    Duration::from_secs(u64::try_from(spec(pod).termination_grace_period_seconds.unwrap_or(30)).unwrap_or(0))
}

/// What one container calls for.
enum Call {
    /// Runs as it should.
    Running(ContainerId),
    /// Is being launched, or must wait.
    Wait,
    /// Ended for good.
    Done(i32),
    /// Must be started.
    Launch { attempt: u32, replaces: Option<ContainerId>, last_end: Option<Timestamp> },
}

struct Syncing<'a> {
    input: &'a Input<'a>,
    plan: Plan,
    /// A launch was decided on: they go one after another, since a postStart hook may hold back the next container.
    wants_launch: bool,
    /// What is left to change of its limits.
    changes: Changes,
    /// How often all containers were to be started anew: those of earlier rounds are of the past.
    round: u32,
}

impl Syncing<'_> {
    fn steps(mut self) -> Plan {
        let input = self.input;
        if self.is_over_deadline() {
            return self.plan;
        }
        self.wants_launch = input.launching.is_some();
        if self.waits_for_new_round() {
            return self.plan;
        }
        let mains_started = spec(input.pod).containers.iter().any(|container| {
            input.launching == Some(container.name.as_str())
                || newest(input.containers, &container.name).is_some_and(|newest| self.is_current(newest) && newest.state != ContainerState::Created)
        });
        let initialized = if mains_started {
            for sidecar in super::init_containers(input.pod).iter().filter(|container| is_sidecar(container)) {
                self.container(Role::Sidecar, sidecar);
            }
            true
        } else {
            self.initialize()
        };
        if self.plan.ended.is_some() {
            return self.plan;
        }
        if initialized {
            let mut codes = Vec::new();
            for container in &spec(input.pod).containers {
                if let Some(Call::Done(code)) = self.container(Role::Main, container) {
                    codes.push(code);
                }
            }
            let all_done = codes.len() == spec(input.pod).containers.len() && !codes.is_empty();
            if all_done && input.launching.is_none() {
                let phase = if codes.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" };
                self.plan.steps.clear();
                self.plan.ended = Some(Ended { phase, reason: None, message: None });
                return self.plan;
            }
        }
        if matches!(input.sandbox, Need::Ready(_)) {
            for (role, container) in containers(input.pod).filter(|(role, _)| *role == Role::Ephemeral) {
                self.container(role, &container);
            }
        }
        self.resize();
        self.ground();
        self.remove_old();
        self.plan
    }

    /// Limits follow what was granted. A container that starts with more must find the pod's own limits grown.
    fn resize(&mut self) {
        let input = self.input;
        if self.changes.sandbox_grows {
            self.plan.steps.retain(|step| !matches!(step, Step::Launch { .. }));
        }
        if input.is_resizing || !self.changes.has_updates() {
            return;
        }
        match input.pause_until.filter(|until| *until > input.now) {
            Some(until) => self.plan.wake(until),
            None => self.plan.steps.push(Step::Resize(std::mem::take(&mut self.changes))),
        }
    }

    /// Volumes and sandbox come before any container; launches are held back until they are there.
    fn ground(&mut self) {
        let input = self.input;
        let paused = input.pause_until.filter(|until| *until > input.now);
        let launches = self.plan.steps.iter().any(|step| matches!(step, Step::Launch { .. }));
        if let Need::Broken(sandbox) = input.sandbox {
            self.plan.steps.retain(|step| !matches!(step, Step::Launch { .. }));
            match paused {
                Some(until) => self.plan.wake(until),
                None => self.plan.steps.push(Step::StopSandbox(sandbox.clone())),
            }
            return;
        }
        if !matches!((input.volumes, input.sandbox), (Need::Ready(()), Need::Ready(_))) {
            self.plan.steps.retain(|step| !matches!(step, Step::Launch { .. }));
        }
        let mut steps = Vec::new();
        // Also where all containers run already: after a restart of the agent their volumes must be followed again.
        if matches!(input.volumes, Need::Missing | Need::Broken(())) {
            steps.push(Step::PrepareVolumes);
        }
        // Beside the volumes, unless these have failed: then the pod may wait long, and needs no address meanwhile.
        if launches && matches!(input.sandbox, Need::Missing) && !matches!(input.volumes, Need::Broken(())) {
            steps.push(Step::MakeSandbox { attempt: input.sandbox_attempts });
        }
        match paused {
            Some(until) if !steps.is_empty() => self.plan.wake(until),
            _ => self.plan.steps.extend(steps),
        }
    }

    fn is_over_deadline(&mut self) -> bool {
        let input = self.input;
        let Some(seconds) = spec(input.pod).active_deadline_seconds else { return false };
        let Some(start) = input.pod.status.as_ref().and_then(|status| status.start_time.as_ref()) else { return false };
        let deadline = after(start.0, Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        if input.now < deadline {
            self.plan.wake(deadline);
            return false;
        }
        self.plan.ended = Some(Ended {
            phase: "Failed",
            reason: Some("DeadlineExceeded".to_owned()),
            message: Some("Pod was active on the node longer than the specified deadline".to_owned()),
        });
        true
    }

    fn is_current(&self, container: &ContainerStatus) -> bool {
        match self.input.sandbox {
            Need::Ready(sandbox) => container.sandbox == *sandbox && !self.is_past(container),
            _ => false,
        }
    }

    /// Whether a container is of an earlier round.
    fn is_past(&self, container: &ContainerStatus) -> bool {
        let is_ephemeral = || spec(self.input.pod).ephemeral_containers.iter().flatten().any(|ephemeral| ephemeral.name == container.spec.name);
        round_of(container) < self.round && !is_ephemeral()
    }

    /// Where all containers are to be started anew: what still runs is killed, whatever its grace period, and nothing starts before it is
    /// gone and the one that asked for it has waited as one that crashes. Gives whether it is so.
    fn waits_for_new_round(&mut self) -> bool {
        let input = self.input;
        let running = |container: &&ContainerStatus| matches!(container.state, ContainerState::Running { .. });
        let past: Vec<&ContainerStatus> = input.containers.iter().filter(running).filter(|container| self.is_past(container)).collect();
        if !past.is_empty() {
            let paused = input.pause_until.filter(|until| *until > input.now);
            if let Some(until) = paused {
                self.plan.wake(until);
            }
            let to_kill = past.into_iter().filter(|container| paused.is_none() && input.killing.get(&container.id).is_none_or(|deadline| *deadline > input.now));
            self.plan.steps.extend(to_kill.map(|container| Step::Kill {
                container: container.id.clone(),
                name: container.spec.name.clone(),
                deadline: input.now,
                reason: KillReason::AllRestart,
            }));
            return true;
        }
        for (_, container) in containers(input.pod).filter(|(role, _)| *role != Role::Ephemeral) {
            let Some(newest) = newest(input.containers, &container.name).filter(|newest| self.is_past(newest)) else { continue };
            if let ContainerState::Exited { exit, .. } = &newest.state
                && restarts_all(&container, exit.code)
                && let Some((due, delay)) = input.back_offs.waiting_until(&container.name, exit.finished_at, input.now)
            {
                self.plan.wake(due);
                self.plan.crash_loops.insert(container.name.clone(), delay);
                return true;
            }
        }
        false
    }

    /// Goes through the init containers; gives whether the main ones may start.
    fn initialize(&mut self) -> bool {
        let input = self.input;
        let init = super::init_containers(input.pod);
        let reached = init.iter().rposition(|container| {
            input.launching == Some(container.name.as_str())
                || newest(input.containers, &container.name).is_some_and(|newest| self.is_current(newest) && newest.state != ContainerState::Created)
        });
        for (index, container) in init.iter().enumerate() {
            let is_past = reached.is_some_and(|reached| index < reached);
            if is_sidecar(container) {
                let is_started = match self.container(Role::Sidecar, container) {
                    Some(Call::Running(id)) => input.probes.get(&id).map_or(container.startup_probe.is_none(), |probes| probes.started),
                    _ => false,
                };
                if !is_started && !is_past {
                    return false;
                }
            } else if !is_past {
                match self.container(Role::Init, container) {
                    Some(Call::Done(0)) => {}
                    Some(Call::Done(_)) => {
                        self.plan.steps.clear();
                        self.plan.ended = Some(Ended { phase: "Failed", reason: None, message: None });
                        return false;
                    }
                    _ => return false,
                }
            }
        }
        true
    }

    /// Looks at one container, and adds the step it calls for.
    fn container(&mut self, role: Role, container: &Container) -> Option<Call> {
        let call = self.examine(role, container);
        match &call {
            Call::Running(id) => self.check_running(container, id),
            Call::Launch { attempt, replaces, last_end } if !self.wants_launch => {
                self.wants_launch = true;
                self.plan.steps.push(Step::Launch {
                    container: container.name.clone(),
                    role,
                    attempt: *attempt,
                    replaces: replaces.clone(),
                    last_end: *last_end,
                    round: self.round,
                });
            }
            _ => {}
        }
        Some(call)
    }

    fn check_running(&mut self, container: &Container, id: &ContainerId) {
        let input = self.input;
        if input.killing.contains_key(id) {
            return;
        }
        let paused = input.pause_until.filter(|until| *until > input.now);
        let newest = newest(input.containers, &container.name);
        let made_from = newest.and_then(|newest| newest.spec.annotations.get(annotations::IMAGE));
        let is_changed = made_from.is_some() && made_from != container.image.as_ref();
        let (reason, grace) = match input.probes.get(id).and_then(|probes| probes.failed) {
            Some(probe) => (KillReason::Probe(probe), probe_grace(input.pod, container, probe)),
            None if is_changed => (KillReason::DefinitionChanged, pod_grace(input.pod)),
            None if self.changes.restarts.contains(id) => (KillReason::Resized, pod_grace(input.pod)),
            None => return,
        };
        match paused {
            Some(until) => self.plan.wake(until),
            None => self.plan.steps.push(Step::Kill {
                container: id.clone(),
                name: container.name.clone(),
                deadline: after(input.now, grace),
                reason,
            }),
        }
    }

    fn examine(&mut self, role: Role, container: &Container) -> Call {
        let input = self.input;
        let name = &container.name;
        if input.launching == Some(name.as_str()) {
            return Call::Wait;
        }
        if let Some(failure) = input.launch_failures.get(name)
            && failure.retry_at > input.now
        {
            self.plan.wake(failure.retry_at);
            return Call::Wait;
        }
        let Some(newest) = newest(input.containers, name) else { return self.examine_lost(role, container) };
        let is_current = self.is_current(newest);
        let next = newest.spec.attempt.saturating_add(1);
        let (code, ended_at) = match &newest.state {
            ContainerState::Created if is_current => {
                return Call::Launch { attempt: newest.spec.attempt, replaces: Some(newest.id.clone()), last_end: None };
            }
            ContainerState::Created => return Call::Launch { attempt: next, replaces: None, last_end: None },
            ContainerState::Running { .. } if is_current => return Call::Running(newest.id.clone()),
            // It runs in a sandbox that is about to be stopped: it will have ended by then.
            ContainerState::Running { .. } => (137, input.now),
            ContainerState::Exited { exit, .. } => (exit.code, exit.finished_at),
        };
        if self.is_past(newest) {
            // Only the one that asked for it is slowed down.
            return Call::Launch { attempt: next, replaces: None, last_end: restarts_all(container, code).then_some(ended_at) };
        }
        if role == Role::Init && !is_current {
            return Call::Launch { attempt: next, replaces: None, last_end: None };
        }
        if input.restarting.contains(&newest.id) {
            // It did not end by itself: whatever its restart policy, and without a wait.
            return Call::Launch { attempt: next, replaces: None, last_end: None };
        }
        if (role == Role::Init && code == 0) || !restarts_after(input.pod, role, container, code) {
            return Call::Done(code);
        }
        match input.back_offs.waiting_until(name, ended_at, input.now) {
            Some((due, delay)) => {
                self.plan.wake(due);
                self.plan.crash_loops.insert(name.clone(), delay);
                Call::Wait
            }
            None => Call::Launch { attempt: next, replaces: None, last_end: Some(ended_at) },
        }
    }

    /// A container that the runtime does not know: new, or lost with the machine's last boot.
    fn examine_lost(&self, role: Role, container: &Container) -> Call {
        let status = self.input.pod.status.as_ref().and_then(|status| {
            let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
            all.into_iter().flatten().flatten().find(|status| status.name == container.name)
        });
        let Some(status) = status.filter(|status| status.container_id.is_some()) else {
            return Call::Launch { attempt: 0, replaces: None, last_end: None };
        };
        let code = status.state.as_ref().and_then(|state| state.terminated.as_ref()).map_or(137, |terminated| terminated.exit_code);
        if role == Role::Ephemeral || (role == Role::Main && !restarts_after(self.input.pod, role, container, code)) {
            return Call::Done(code);
        }
        Call::Launch { attempt: u32::try_from(status.restart_count).unwrap_or(0).saturating_add(1), replaces: None, last_end: None }
    }

    /// Of each name the newest container and the one before it (for `lastState` and `logs --previous`) are kept.
    fn remove_old(&mut self) {
        let mut by_name: BTreeMap<&str, Vec<&ContainerStatus>> = BTreeMap::new();
        for container in self.input.containers {
            by_name.entry(&container.spec.name).or_default().push(container);
        }
        for mut group in by_name.into_values() {
            group.sort_by_key(|container| std::cmp::Reverse((container.spec.attempt, container.created_at)));
            let old = group.into_iter().skip(2).filter(|container| matches!(container.state, ContainerState::Exited { .. }));
            self.plan.steps.extend(old.map(|container| Step::Remove(container.id.clone())));
        }
    }
}

/// Stops the containers (sidecars after all others, the last one first), then the sandbox, then takes the volumes away. PreStop hooks wait
/// for no turn: those of sidecars run at once too. Source: Kubernetes 1.36, `pkg/kubelet/kuberuntime`, `killContainer` and
/// `kuberuntime_termination_order.go`.
fn termination_steps(input: &Input<'_>, termination: Termination) -> Plan {
    let mut plan = Plan::default();
    let paused = input.pause_until.filter(|until| *until > input.now);
    let is_running = |container: &&ContainerStatus| matches!(container.state, ContainerState::Running { .. });
    let sidecar_index = |container: &ContainerStatus| {
        super::init_containers(input.pod).iter().position(|init| is_sidecar(init) && init.name == container.spec.name)
    };
    let (mut sidecars, others): (Vec<_>, Vec<_>) = input.containers.iter().filter(is_running).partition(|container| sidecar_index(container).is_some());
    sidecars.sort_by_key(|container| std::cmp::Reverse(sidecar_index(container)));
    let is_late = until(termination.deadline, input.now).is_zero();
    let has_no_hook_left = |sidecar: &&&ContainerStatus| match input.hooks.get(&sidecar.id) {
        Some(HookState::Done) => true,
        // The grace period became shorter meanwhile.
        Some(HookState::Running(until)) => is_late && *until > termination.deadline,
        // Where it is being stopped for another reason, its hook belongs to that.
        None => input.killing.contains_key(&sidecar.id),
    };
    let victims: Vec<&ContainerStatus> = match (others.is_empty(), is_late) {
        (_, true) => others.iter().chain(sidecars.iter().filter(has_no_hook_left)).copied().collect(),
        (false, false) => others.clone(),
        (true, false) => sidecars.iter().take(1).filter(has_no_hook_left).copied().collect(),
    };
    for sidecar in sidecars.iter().filter(|sidecar| !input.hooks.contains_key(&sidecar.id) && !input.killing.contains_key(&sidecar.id)) {
        plan.steps.push(Step::PreStop { container: sidecar.id.clone(), name: sidecar.spec.name.clone(), deadline: termination.deadline });
    }
    for container in victims {
        if input.killing.get(&container.id).is_some_and(|deadline| *deadline <= termination.deadline) {
            continue;
        }
        plan.steps.push(Step::Kill {
            container: container.id.clone(),
            name: container.spec.name.clone(),
            deadline: termination.deadline,
            reason: KillReason::PodStops,
        });
    }
    if !sidecars.is_empty() && !is_late {
        plan.wake(termination.deadline);
    }
    let is_quiet = others.is_empty() && sidecars.is_empty() && input.launching.is_none() && input.killing.is_empty();
    if is_quiet {
        match (input.sandbox, input.volumes) {
            (Need::Ready(sandbox) | Need::Broken(sandbox), _) => plan.steps.push(Step::StopSandbox(sandbox.clone())),
            (Need::Busy, _) | (_, Need::Busy) => {}
            (Need::Missing, Need::Ready(()) | Need::Broken(())) => plan.steps.push(Step::ReleaseVolumes),
            (Need::Missing, Need::Missing) => plan.is_terminated = true,
        }
    }
    if let Some(until) = paused
        && !plan.steps.is_empty()
    {
        plan.steps.clear();
        plan.wake(until);
    }
    plan
}

#[cfg(test)]
pub(super) mod tests;
