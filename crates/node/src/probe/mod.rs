//! Probes: one small task per probe of a running container, and what they all say together.
//!
//! * [`http`], [`tcp`], [`grpc`]: the ways to ask (exec goes straight to the runtime)
//! * this module: when to ask, how answers are counted, and whom a change wakes
//!
//! Source of the rules: Kubernetes 1.36, `pkg/kubelet/prober`.

pub mod grpc;
pub mod http;
pub mod tcp;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use client::EventType;
use container_runtime::{ContainerId, ContainerState, ContainerStatus, RuntimeError};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, Pod, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

use crate::{
    clock::{after, until},
    config::Context,
    metrics::ContainerProbes,
    pod::{self, Role, plan::{FailedProbe, ProbeState}},
};

/// The port a probe or hook names.
#[must_use]
pub fn port(wanted: &IntOrString, container: &Container) -> Option<u16> {
    match wanted {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port != 0),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    }
}

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Startup,
    Liveness,
    Readiness,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// How a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All is well.
    Success,
    /// All is well, with a remark for the user.
    Warning(String),
    /// Something is wrong.
    Failure(String),
    /// The probe itself could not be made; nothing follows from it.
    Unknown(String),
}

type States = Arc<Mutex<HashMap<ContainerId, ProbeState>>>;

/// The probes of one pod.
pub struct ProbeSet {
    states: States,
    tasks: HashMap<ContainerId, Tasks>,
    /// By container name: what is counted goes on over restarts, and ends with the pod.
    counts: HashMap<String, Arc<ContainerProbes>>,
    wake: Arc<Notify>,
}

/// The tasks of one container's probes; they end with it.
#[derive(Default)]
struct Tasks {
    restarting: Option<AbortHandle>,
    readiness: Option<AbortHandle>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.restarting.iter().chain(&self.readiness).for_each(AbortHandle::abort);
    }
}

impl ProbeSet {
    /// No probes yet; changes of what they say wake this.
    #[must_use]
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { states: Arc::default(), tasks: HashMap::new(), counts: HashMap::new(), wake }
    }

    /// What the probes say.
    #[must_use]
    pub fn states(&self) -> HashMap<ContainerId, ProbeState> {
        self.states.lock().clone()
    }

    /// Ends the probes of containers that do not run, and starts those of containers that do, once the pod's addresses are
    /// known.
    pub fn follow(&mut self, context: &Arc<Context>, pod: &Arc<Pod>, containers: &[ContainerStatus], pod_ips: Option<&[IpAddr]>) {
        let running: Vec<_> = containers.iter().filter(|container| matches!(container.state, ContainerState::Running { .. })).collect();
        self.tasks.retain(|id, _| running.iter().any(|container| container.id == *id));
        self.states.lock().retain(|id, _| running.iter().any(|container| container.id == *id));
        let Some(pod_ips) = pod_ips else { return };
        for status in running {
            if self.tasks.contains_key(&status.id) {
                continue;
            }
            let Some((role, container)) = pod::find_container(pod, &status.spec.name) else { continue };
            if !matches!(role, Role::Main | Role::Sidecar) {
                continue;
            }
            self.begin(context, pod, &container, status, pod_ips);
        }
    }

    /// Ends the probes that ask for restarts, since the pod stops. Readiness goes on, so that traffic leaves a pod as soon
    /// as it says so.
    pub fn stop_restarts(&mut self) {
        for tasks in self.tasks.values_mut() {
            if let Some(task) = tasks.restarting.take() {
                task.abort();
            }
        }
    }

    fn begin(&mut self, context: &Arc<Context>, pod: &Arc<Pod>, container: &Container, status: &ContainerStatus, pod_ips: &[IpAddr]) {
        let known = known_before(pod, status);
        let state = ProbeState {
            started: container.startup_probe.is_none() || known.is_some_and(|(started, _)| started),
            ready: container.readiness_probe.is_none() || known.is_some_and(|(_, ready)| ready),
            failed: None,
        };
        self.states.lock().insert(status.id.clone(), state);
        let new = || Arc::new(context.metrics.probes.of(pod::namespace(pod), pod::name(pod), pod::uid(pod), &container.name));
        let counts = self.counts.entry(container.name.clone()).or_insert_with(new).clone();
        let subject = Arc::new(Subject {
            context: context.clone(),
            pod: pod.clone(),
            container: container.clone(),
            id: status.id.clone(),
            started_at: match status.state {
                ContainerState::Running { started_at, .. } => started_at,
                _ => status.created_at,
            },
            pod_ips: pod_ips.to_vec(),
            states: self.states.clone(),
            wake: self.wake.clone(),
            started: watch::channel(state.started).0,
            counts,
        });
        let mut tasks = Tasks::default();
        if container.startup_probe.is_some() || container.liveness_probe.is_some() {
            let subject = subject.clone();
            tasks.restarting = Some(tokio::spawn(async move { subject.startup_and_liveness().await }).abort_handle());
        }
        if container.readiness_probe.is_some() {
            tasks.readiness = Some(tokio::spawn(async move { subject.readiness().await }).abort_handle());
        }
        self.tasks.insert(status.id.clone(), tasks);
    }
}

/// What the API says of this very container: after a restart of the agent its pods stay as ready as they were.
fn known_before(pod: &Pod, status: &ContainerStatus) -> Option<(bool, bool)> {
    let shown = pod::container_status::shown_id(&status.id);
    let api = pod.status.as_ref()?;
    let all = [&api.init_container_statuses, &api.container_statuses];
    let old = all.into_iter().flatten().flatten().find(|old| old.container_id.as_deref() == Some(shown.as_str()))?;
    Some((old.started.unwrap_or(false), old.ready))
}

/// One container under probes.
struct Subject {
    context: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    id: ContainerId,
    /// When the container was started: delays count from there, also over a restart of the agent.
    started_at: Timestamp,
    pod_ips: Vec<IpAddr>,
    states: States,
    wake: Arc<Notify>,
    /// Readiness waits for the startup probe.
    started: watch::Sender<bool>,
    counts: Arc<ContainerProbes>,
}

/// A probe's numbers.
struct Schedule {
    delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: i32,
    failures: i32,
}

impl Schedule {
    fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default));
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds.filter(|period| *period > 0), 10),
            timeout: seconds(probe.timeout_seconds.filter(|timeout| *timeout > 0), 1),
            successes: probe.success_threshold.unwrap_or(1).max(1),
            failures: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }

    /// What is left of the delay of a container that was started at this time. A clock that was set back makes nobody wait longer than the
    /// whole delay.
    fn delay_left(&self, started_at: Timestamp, now: Timestamp) -> Duration {
        until(after(started_at, self.delay), now).min(self.delay)
    }
}

impl Subject {
    fn state(&self) -> Option<ProbeState> {
        self.states.lock().get(&self.id).copied()
    }

    /// Changes what is known, and wakes the pod's worker where that differs.
    fn change(&self, change: impl FnOnce(&mut ProbeState)) {
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(&self.id) else { return };
        let old = *state;
        change(state);
        if *state != old {
            self.wake.notify_one();
        }
    }

    async fn startup_and_liveness(&self) {
        if let Some(probe) = self.container.startup_probe.clone()
            && self.state().is_some_and(|state| !state.started)
        {
            if !self.watch(Purpose::Startup, &probe, false).await {
                self.change(|state| state.failed = Some(FailedProbe::Startup));
                return;
            }
            self.change(|state| state.started = true);
            self.started.send_replace(true);
        }
        if let Some(probe) = self.container.liveness_probe.clone() {
            self.watch(Purpose::Liveness, &probe, true).await;
            self.change(|state| state.failed = Some(FailedProbe::Liveness));
        }
    }

    /// Asks until the failure threshold is reached (gives false) or, unless it goes on for ever, the success threshold.
    async fn watch(&self, purpose: Purpose, probe: &Probe, for_ever: bool) -> bool {
        let schedule = Schedule::of(probe);
        self.wait_for_first(&schedule).await;
        let (mut successes, mut failures) = (0, 0);
        loop {
            match self.ask(purpose, probe, &schedule).await {
                Some(true) => (successes, failures) = (successes + 1, 0),
                Some(false) => (successes, failures) = (0, failures + 1),
                None => {}
            }
            if failures >= schedule.failures {
                return false;
            }
            if !for_ever && successes >= schedule.successes {
                return true;
            }
            self.sleep(schedule.period).await;
        }
    }

    async fn readiness(&self) {
        let Some(probe) = self.container.readiness_probe.clone() else { return };
        let schedule = Schedule::of(&probe);
        self.wait_for_first(&schedule).await;
        // It cannot fail: we hold the sender ourselves.
        drop(self.started.subscribe().wait_for(|started| *started).await);
        let (mut successes, mut failures) = (0, 0);
        loop {
            match self.ask(Purpose::Readiness, &probe, &schedule).await {
                Some(true) => (successes, failures) = (successes + 1, 0),
                Some(false) => (successes, failures) = (0, failures + 1),
                None => {}
            }
            if successes >= schedule.successes {
                self.change(|state| state.ready = true);
            } else if failures >= schedule.failures {
                self.change(|state| state.ready = false);
            }
            let is_ready = self.state().is_some_and(|state| state.ready);
            // A container that comes up is asked more often than its period, so that it is not kept waiting; as long as
            // it fails it costs a tenth of a period, at least 100 ms and at most a second.
            let eager = (schedule.period / 10).clamp(Duration::from_millis(100), Duration::from_secs(1));
            let never_ready = !is_ready && successes == 0 && failures > 0 && failures < 10;
            self.sleep(if never_ready && schedule.delay.is_zero() && schedule.failures > 1 { eager } else { schedule.period }).await;
        }
    }

    /// Waits for what is left of the delay before the first question.
    async fn wait_for_first(&self, schedule: &Schedule) {
        self.sleep(schedule.delay_left(self.started_at, self.context.config.clock.now())).await;
    }

    async fn sleep(&self, duration: Duration) {
        self.context.config.clock.sleep(duration).await;
    }

    /// Asks once. `None` where nothing follows from the answer.
    async fn ask(&self, purpose: Purpose, probe: &Probe, schedule: &Schedule) -> Option<bool> {
        let asking = self.answer(probe, schedule.timeout);
        let answer = if probe.exec.is_some() {
            // The runtime keeps the time, and ends the command with it.
            asking.await
        } else {
            let late = || Answer::Failure(format!("probe timed out after {}", pod::back_off::go_duration(schedule.timeout)));
            tokio::time::timeout(schedule.timeout, asking).await.unwrap_or_else(|_| late())
        };
        let tell = |reason: &str, message: String| {
            self.context.events.container(&self.pod, &self.container.name, EventType::Warning, reason, message);
        };
        let well = match answer {
            Answer::Success => Some(true),
            Answer::Warning(text) => {
                tell("ProbeWarning", format!("{} probe warning: {text}", purpose.name()));
                Some(true)
            }
            Answer::Failure(text) => {
                tell("Unhealthy", format!("{} probe failed: {text}", purpose.name()));
                Some(false)
            }
            Answer::Unknown(text) => {
                tell("Unhealthy", format!("{} probe errored: {text}", purpose.name()));
                None
            }
        };
        self.counts.said(purpose.name(), well);
        well
    }

    async fn answer(&self, probe: &Probe, timeout: Duration) -> Answer {
        if let Some(exec) = &probe.exec {
            let command: Vec<String> = exec.command.clone().unwrap_or_default();
            return match self.context.config.runtime.exec_sync(&self.id, &command, timeout).await {
                Ok(output) if output.code == 0 => Answer::Success,
                Ok(output) => Answer::Failure(String::from_utf8_lossy(&output.output).trim_end().to_owned()),
                Err(RuntimeError::Timeout(_)) => {
                    let command = command.join(" ");
                    Answer::Failure(format!("command timed out: \"{command}\" timed out after {}", pod::back_off::go_duration(timeout)))
                }
                Err(RuntimeError::NotRunning(_) | RuntimeError::NoSuchContainer(_)) => Answer::Unknown("the container does not run".to_owned()),
                Err(RuntimeError::Exec { reason, exit_code: Some(_) }) => Answer::Failure(reason),
                Err(problem) => Answer::Unknown(problem.to_string()),
            };
        }
        let own = self.pod_ips.first().map(ToString::to_string);
        let host = |wanted: Option<&String>| wanted.filter(|host| !host.is_empty()).cloned().or_else(|| own.clone());
        if let Some(get) = &probe.http_get {
            let (Some(host), Some(port)) = (host(get.host.as_ref()), port(&get.port, &self.container)) else {
                return Answer::Unknown("the probe's host or port is not known".to_owned());
            };
            let request = http::Get {
                https: get.scheme.as_deref() == Some("HTTPS"),
                host,
                port,
                path: get.path.clone().unwrap_or_default(),
                headers: get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect(),
            };
            return http::probe(&request).await;
        }
        if let Some(socket) = &probe.tcp_socket {
            let (Some(host), Some(port)) = (host(socket.host.as_ref()), port(&socket.port, &self.container)) else {
                return Answer::Unknown("the probe's host or port is not known".to_owned());
            };
            return tcp::probe(&host, port).await;
        }
        if let Some(call) = &probe.grpc {
            let (Some(host), Ok(port)) = (own, u16::try_from(call.port)) else {
                return Answer::Unknown("the probe's port is not known".to_owned());
            };
            return grpc::probe(&host, port, call.service.as_deref().unwrap_or_default()).await;
        }
        Answer::Unknown("missing probe handler".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_counts_from_the_start_of_the_container_whoever_came_between() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let schedule = Schedule::of(&Probe { initial_delay_seconds: Some(30), ..Probe::default() });
        let left = |now| schedule.delay_left(at(0), at(now)).as_secs();
        assert_eq!((left(0), left(20), left(30), left(500)), (30, 10, 0, 0), "a startup probe, or a restart of the agent, takes a part of it");
        assert_eq!(left(-100), 30, "the clock was set back");
    }
}
