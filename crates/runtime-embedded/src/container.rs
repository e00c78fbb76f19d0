//! One container: from a record and an image to a running process, and back to nothing.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use container_runtime::{
    ContainerExit, ContainerId, ContainerSpec, ContainerState, ContainerStatus, ContainerUsage, ResourceLimits, RuntimeError, SandboxId, SandboxState,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shim::Message;
use tokio::sync::watch;

use crate::{
    helper::{
        HELPER_ARGUMENT, config,
        plan::{HELPER_VARIABLE, StartPlan},
    },
    images::{configuration::RunConfiguration, layers::Layers},
    records,
    runtime::Inner,
    sandbox::{Sandbox, blocking},
    shim_connection::{self, ShimConnection},
};

/// How long a helper may take to start a container before it is given up. It takes some 20 ms; a machine that thrashes
/// may need far longer, and a mount of a dead network file system never ends.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How long a killed container may take to be gone. Longer means that the kernel cannot end it.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// How long the size of a writable layer is believed: adding it up walks through all its files.
const SIZE_AGE: Duration = Duration::from_secs(30);

/// What is written down of a container. On tmpfs: the environment holds secret values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Which one.
    pub id: ContainerId,
    /// What it was made from.
    pub spec: ContainerSpec,
    /// When.
    pub created_at: Timestamp,
    /// Its log.
    pub log_path: PathBuf,
    /// What its image said when it was made.
    pub image: RunConfiguration,
    /// Chain ids of its layers, lowest first.
    pub chain_ids: Vec<String>,
}

/// A container.
pub struct Container {
    /// Which one.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// Its directory, on tmpfs.
    pub bundle: PathBuf,
    /// What is written down of it.
    pub record: Mutex<ContainerRecord>,
    /// What it does.
    pub state: watch::Sender<ContainerState>,
    user: Mutex<Option<(i64, i64, Vec<i64>)>>,
    size: Mutex<Option<(Instant, (u64, u64))>>,
}

impl Container {
    /// A container that does not run yet.
    pub fn new(sandbox: SandboxId, bundle: PathBuf, record: ContainerRecord) -> Self {
        Self {
            id: record.id.clone(),
            sandbox,
            bundle,
            record: Mutex::new(record),
            state: watch::Sender::new(ContainerState::Created),
            user: Mutex::default(),
            size: Mutex::default(),
        }
    }

    /// Its status.
    pub fn status(&self) -> ContainerStatus {
        let record = self.record.lock();
        ContainerStatus {
            id: record.id.clone(),
            sandbox: self.sandbox.clone(),
            spec: record.spec.clone(),
            state: self.state.borrow().clone(),
            created_at: record.created_at,
            log_path: record.log_path.clone(),
            user: self.user.lock().clone(),
        }
    }

    /// Its cgroup, from the root of the hierarchy.
    pub fn cgroup(&self, sandbox: &Sandbox) -> String {
        format!("{}/{}", sandbox.cgroup, self.id.0)
    }

    /// Where its exit is recorded.
    pub fn exit_record(&self) -> PathBuf {
        self.bundle.join("exit")
    }

    /// Its first process, where it runs.
    pub fn pid(&self) -> Option<i32> {
        match *self.state.borrow() {
            ContainerState::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// Its start was asked for, and nobody knows what came of it.
    pub fn is_half_started(&self) -> bool {
        *self.state.borrow() == ContainerState::Created && self.bundle.join("plan.json").exists()
    }

    fn has_ended(&self) -> bool {
        matches!(*self.state.borrow(), ContainerState::Exited { .. })
    }

    /// Takes in what a shim says of it. Gives whether it ended by that.
    pub fn hear(&self, message: &Message) -> bool {
        if let Some(result) = message.bytes("result").and_then(|result| Message::take_from(&mut result.to_vec()).ok().flatten())
            && let (Some(user), Some(group)) = (result.number("user"), result.number("group"))
        {
            let groups = result.text("groups").unwrap_or("").split(',').filter_map(|group| group.parse().ok()).collect();
            *self.user.lock() = Some((user, group, groups));
        }
        let started_at = message.number("started_at").and_then(time);
        if message.flag("ended") {
            let number = |name: &str| message.number(name).and_then(|value| i32::try_from(value).ok()).unwrap_or(0);
            let exit = ContainerExit {
                code: number("code"),
                signal: number("signal"),
                finished_at: message.number("finished_at").and_then(time).unwrap_or_else(Timestamp::now),
                out_of_memory: message.flag("out_of_memory"),
                unknown: message.flag("unknown"),
                message: message.text("message").unwrap_or("").to_owned(),
            };
            return self.end(started_at, exit);
        }
        if let (Some(pid), Some(started_at)) = (message.number("pid").and_then(|pid| i32::try_from(pid).ok()), started_at) {
            self.state.send_if_modified(|state| {
                let news = *state == ContainerState::Created;
                if news {
                    *state = ContainerState::Running { started_at, pid };
                }
                news
            });
        }
        false
    }

    fn end(&self, started_at: Option<Timestamp>, exit: ContainerExit) -> bool {
        self.state.send_if_modified(|state| {
            let started_at = match state {
                ContainerState::Exited { .. } => return false,
                ContainerState::Running { started_at, .. } => Some(*started_at),
                ContainerState::Created => started_at,
            };
            *state = ContainerState::Exited { started_at, exit };
            true
        })
    }

    /// Its shim is gone: what was recorded counts, else nobody knows how it ended. Gives whether it ended by that.
    pub fn lose(&self) -> bool {
        if self.hear_record() {
            return true;
        }
        let started_at = match *self.state.borrow() {
            ContainerState::Running { started_at, .. } => Some(started_at),
            _ => None,
        };
        let now = Timestamp::now();
        let exit = ContainerExit { code: 137, signal: 9, finished_at: now, out_of_memory: false, unknown: true, message: "its shim was lost".to_owned() };
        let ended = self.end(started_at, exit);
        if ended {
            let mut record = Message::new("exited")
                .with("id", &self.id.0)
                .with_number("ended", 1)
                .with_number("unknown", 1)
                .with_number("code", 137)
                .with_number("signal", 9)
                .with_number("finished_at", i64::try_from(now.as_nanosecond()).unwrap_or(0))
                .with("message", "its shim was lost");
            if let Some(started_at) = started_at {
                record = record.with_number("started_at", i64::try_from(started_at.as_nanosecond()).unwrap_or(0));
            }
            if let Err(error) = records::write_bytes(&self.exit_record(), &record.encode()) {
                tracing::warn!(container = %self.id.0, %error, "could not record the end of a lost container");
            }
        }
        ended
    }

    /// In a sandbox that was stopped: what its record says; without one it never ran, or was killed with the sandbox.
    pub fn lose_if_it_ran(&self) {
        if self.bundle.join("plan.json").exists() || self.bundle.join("config.json").exists() {
            self.lose();
        } else {
            self.hear_record();
        }
    }

    /// Takes in the exit record, where there is one.
    pub fn hear_record(&self) -> bool {
        let bytes = std::fs::read(self.exit_record()).ok();
        bytes.and_then(|mut bytes| Message::take_from(&mut bytes).ok().flatten()).is_some_and(|record| self.hear(&record))
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        // The sender is ours, so the channel cannot close.
        let _ = self.state.subscribe().wait_for(|state| matches!(state, ContainerState::Exited { .. })).await;
    }
}

fn time(nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

impl Inner {
    /// The settings under which a shim runs a helper with this plan.
    pub(crate) fn helper_request(&self, verb: &str, helper_verb: &str, plan: &std::path::Path) -> Message {
        let mut message = Message::new(verb).with("argument", self.helper_program.path.as_os_str().as_encoded_bytes());
        for argument in &self.options.helper.arguments {
            message.push("argument", argument);
        }
        for argument in [HELPER_ARGUMENT, helper_verb] {
            message.push("argument", argument);
        }
        message.push("argument", plan.as_os_str().as_encoded_bytes());
        message.push("variable", format!("{HELPER_VARIABLE}=1"));
        message
    }

    /// Prepares a container: a directory and a record. Nothing of it runs, and nothing is mounted.
    pub async fn create_container(&self, sandbox_id: &SandboxId, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        let sandbox = self.sandbox(sandbox_id).ok_or_else(|| RuntimeError::NoSuchSandbox(sandbox_id.clone()))?;
        let failed = |reason: String| RuntimeError::Create { name: spec.name.clone(), reason };
        if *sandbox.state.lock() != SandboxState::Ready {
            return Err(failed(format!("sandbox {} is not ready", sandbox_id.0)));
        }
        let _layers_are_needed = self.images.arriving.read().await;
        let image = self.images.get(&spec.image).ok_or_else(|| RuntimeError::NoSuchImage(spec.image.0.clone()))?;
        check_user(spec, &image.configuration.config.user)?;
        if config::arguments(&spec.command, &spec.args, &image.configuration.config).is_empty() {
            return Err(failed("no command specified".to_owned()));
        }
        crate::capabilities::of(&spec.security, u64::MAX).map_err(failed)?;
        let id = ContainerId(records::new_id());
        let log_path = sandbox.record.lock().spec.log_directory.join(&spec.name).join(format!("{}.log", spec.attempt));
        let record = ContainerRecord {
            id: id.clone(),
            spec: spec.clone(),
            created_at: Timestamp::now(),
            log_path,
            image: image.configuration.config.clone(),
            chain_ids: image.chain_ids.clone(),
        };
        let bundle = sandbox.directory.join("containers").join(&id.0);
        let prepare = || {
            std::fs::create_dir_all(bundle.join("empty"))?;
            records::write(&bundle.join("container.json"), &record)
        };
        if let Err(error) = prepare() {
            // Only a leftover; it goes away with the sandbox.
            let _ = std::fs::remove_dir_all(&bundle);
            return Err(failed(error.to_string()));
        }
        self.containers.lock().insert(id.clone(), Arc::new(Container::new(sandbox_id.clone(), bundle, record)));
        Ok(id)
    }

    /// Runs a created container.
    pub async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        let sandbox = self.sandbox(&container.sandbox).ok_or_else(|| RuntimeError::NoSuchSandbox(container.sandbox.clone()))?;
        let name = container.record.lock().spec.name.clone();
        if *container.state.borrow() != ContainerState::Created {
            return Ok(());
        }
        let started = self.start(&container, &sandbox).await;
        started.map_err(|reason| {
            let now = Timestamp::now();
            let exit = ContainerExit { code: 128, signal: 0, finished_at: now, out_of_memory: false, unknown: false, message: reason.clone() };
            container.end(None, exit);
            RuntimeError::Start { name, reason }
        })
    }

    async fn start(&self, container: &Arc<Container>, sandbox: &Arc<Sandbox>) -> Result<(), String> {
        let _permit = self.permits.acquire().await;
        let record = container.record.lock().clone();
        let sandbox_spec = sandbox.record.lock().spec.clone();
        let writable = self.writable_directory(&container.id);
        let cgroup = container.cgroup(sandbox);
        for part in ["upper", "work"] {
            std::fs::create_dir_all(writable.join(part)).map_err(|error| format!("could not make its writable layer: {error}"))?;
        }
        self.cgroups.create(&cgroup, &record.spec.resources).map_err(|error| format!("could not make its cgroup: {error}"))?;
        self.cgroups.die_together(&cgroup).map_err(|error| error.to_string())?;
        self.cgroups.restrict_devices(&cgroup, &record.spec).map_err(|error| error.to_string())?;
        let process_namespace = match &record.spec.processes_of {
            Some(target) => {
                let pid = self.container(target).ok().filter(|target| target.sandbox == container.sandbox).and_then(|target| target.pid());
                let pid = pid.ok_or_else(|| format!("container {}, whose processes it is to see, does not run", target.0))?;
                Some(PathBuf::from(format!("/proc/{pid}/ns/pid")))
            }
            None => sandbox.process_namespace(),
        };
        let console = record.spec.tty.then(|| container.bundle.join("console.sock"));
        let plan = StartPlan {
            id: container.id.0.clone(),
            hostname: sandbox_spec.hostname.clone(),
            host: sandbox_spec.host,
            users: sandbox_spec.users,
            user_namespace: None,
            process_namespace,
            layers_directory: self.images.layers.directory().to_owned(),
            layers: record.chain_ids.iter().map(|chain_id| Layers::name(chain_id)).collect(),
            upper: writable.join("upper"),
            work: writable.join("work"),
            bundle: container.bundle.clone(),
            shared_memory: Some(sandbox.shared_memory()),
            cgroup: cgroup.clone(),
            cgroup_views: self.cgroups.views(&cgroup),
            console: console.clone(),
            image: record.image.clone(),
            spec: record.spec.clone(),
        };
        let plan_file = container.bundle.join("plan.json");
        records::write(&plan_file, &plan).map_err(|error| format!("could not write its plan: {error}"))?;
        let mut request = self
            .helper_request("start", "start", &plan_file)
            .with("id", &container.id.0)
            .with("log", record.log_path.as_os_str().as_encoded_bytes())
            .with("record", container.exit_record().as_os_str().as_encoded_bytes())
            .with("diagnosis", container.bundle.join("helper.log").as_os_str().as_encoded_bytes())
            .with_number("stdin", i64::from(record.spec.stdin))
            .with_number("stdin_once", i64::from(record.spec.stdin_once))
            .with_number("terminal", i64::from(record.spec.tty));
        if let Some(console) = &console {
            request.push("console", console.as_os_str().as_encoded_bytes());
        }
        if let Some(file) = self.cgroups.out_of_memory_file(&cgroup) {
            request.push("out_of_memory_file", file.as_os_str().as_encoded_bytes());
        }
        // The end of a process namespace kills what is in it; without one of its own, its cgroup has to be emptied.
        if (sandbox_spec.host.pid || sandbox_spec.host.share_process)
            && let Some(directory) = self.cgroups.processes_directory(&cgroup)
        {
            request.push("cgroup_to_kill", directory.as_os_str().as_encoded_bytes());
        }
        let asked = async { ShimConnection::open(&sandbox.directory).await?.ask(&request, &[]).await };
        let answer = match tokio::time::timeout(START_LIMIT, asked).await {
            Ok(answer) => answer.map_err(|error| format!("could not talk to its shim: {error}"))?,
            Err(_) => {
                self.cgroups.kill(&cgroup);
                return Err(format!("it was not started within {START_LIMIT:?}"));
            }
        };
        if answer.verb() != "started" {
            return Err(answer.text("error").unwrap_or("its shim did not say why").to_owned());
        }
        container.hear(&answer);
        Ok(())
    }

    /// Asks a container to stop, and kills it after its grace period.
    pub async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        if container.pid().is_none() {
            return Ok(());
        }
        let Some(sandbox) = self.sandbox(&container.sandbox) else { return Ok(()) };
        if !grace.is_zero() {
            let signal = {
                let record = container.record.lock();
                let image = Some(record.image.stop_signal.clone()).filter(|signal| !signal.is_empty());
                record.spec.stop_signal.clone().or(image).and_then(|name| signal_number(&name)).unwrap_or(libc::SIGTERM)
            };
            self.signal(&sandbox, &container, signal).await;
            if tokio::time::timeout(grace, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(&sandbox, &container, libc::SIGKILL).await;
        if tokio::time::timeout(KILL_LIMIT, container.ended()).await.is_err() {
            return Err(RuntimeError::Internal(format!("container {} was killed {KILL_LIMIT:?} ago and is still there", id.0)));
        }
        Ok(())
    }

    async fn signal(&self, sandbox: &Sandbox, container: &Container, signal: i32) {
        let message = Message::new("kill").with("id", &container.id.0).with_number("signal", i64::from(signal));
        // Where the shim is gone, its loss is heard on its own connection and ends the container.
        if let Err(error) = shim_connection::ask(&sandbox.directory, &message).await {
            tracing::debug!(container = %container.id.0, %error, "could not have a container signalled");
        }
    }

    /// Removes a container; kills it where it runs.
    pub async fn remove_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.stop_container(id, Duration::ZERO).await?;
        if let Some(sandbox) = self.sandbox(&container.sandbox) {
            if *sandbox.state.lock() == SandboxState::Ready && container.has_ended() {
                // Where the shim is gone, it has forgotten everything already.
                let _ = shim_connection::ask(&sandbox.directory, &Message::new("forget").with("id", &id.0)).await;
            }
            let (inner, container, cgroup) = (Arc::clone(self), Arc::clone(&container), container.cgroup(&sandbox));
            blocking(move || {
                let failed = |source: io::Error| RuntimeError::Io { doing: format!("could not remove container {}: {source}", container.id.0), source };
                inner.cgroups.remove(&cgroup).map_err(failed)?;
                for directory in [inner.writable_directory(&container.id), container.bundle.clone()] {
                    match std::fs::remove_dir_all(&directory) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                        _ => {}
                    }
                }
                Ok(())
            })
            .await?;
        }
        self.containers.lock().remove(id);
        // It may have been the last to need the layers of an image that was removed under it.
        let image = container.record.lock().spec.image.clone();
        if self.images.get(&image).is_none() {
            let inner = Arc::clone(self);
            blocking(move || inner.collect_layers()).await;
        }
        Ok(())
    }

    /// Changes a container's limits.
    pub fn update_resources(&self, id: &ContainerId, limits: &ResourceLimits) -> Result<(), RuntimeError> {
        let (container, sandbox) = self.running(id)?;
        let failed = |source: io::Error| RuntimeError::Io { doing: format!("could not change the limits of container {}: {source}", id.0), source };
        self.cgroups.apply(&container.cgroup(&sandbox), limits, true).map_err(failed)?;
        let mut record = container.record.lock();
        record.spec.resources = limits.clone();
        records::write(&container.bundle.join("container.json"), &*record).map_err(failed)
    }

    /// What a container uses.
    pub async fn container_usage(self: &Arc<Self>, id: &ContainerId) -> Result<ContainerUsage, RuntimeError> {
        let (container, sandbox) = self.running(id)?;
        let inner = Arc::clone(self);
        let id = id.clone();
        blocking(move || {
            let mut usage = inner.cgroups.usage(&container.cgroup(&sandbox)).map_err(|source| RuntimeError::Io { doing: format!("could not read the usage of container {}", id.0), source })?;
            let known = container.size.lock().filter(|(at, _)| at.elapsed() < SIZE_AGE);
            let size = known.map_or_else(|| size_of(&inner.writable_directory(&id).join("upper")), |(_, size)| size);
            if known.is_none() {
                *container.size.lock() = Some((Instant::now(), size));
            }
            (usage.root_file_system_bytes, usage.root_file_system_files) = size;
            Ok(usage)
        })
        .await
    }

    /// Has a container's log opened anew.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let (_, sandbox) = self.running(id)?;
        let answer = shim_connection::ask(&sandbox.directory, &Message::new("reopen").with("id", &id.0)).await;
        match answer {
            Ok(answer) if answer.verb() == "done" => Ok(()),
            Ok(_) => Err(RuntimeError::NotRunning(id.clone())),
            Err(source) => Err(RuntimeError::Io { doing: format!("could not have the log of container {} opened anew", id.0), source }),
        }
    }

    /// A running container and its sandbox.
    pub(crate) fn running(&self, id: &ContainerId) -> Result<(Arc<Container>, Arc<Sandbox>), RuntimeError> {
        let container = self.container(id)?;
        if container.pid().is_none() {
            return Err(RuntimeError::NotRunning(id.clone()));
        }
        let sandbox = self.sandbox(&container.sandbox).ok_or_else(|| RuntimeError::NoSuchSandbox(container.sandbox.clone()))?;
        Ok((container, sandbox))
    }
}

/// `runAsNonRoot` against what the image says. Source: Kubernetes 1.36, `verifyRunAsNonRoot`.
fn check_user(spec: &ContainerSpec, image_user: &str) -> Result<(), RuntimeError> {
    if !spec.security.run_as_non_root {
        return Ok(());
    }
    let user = image_user.split(':').next().unwrap_or("");
    match (spec.security.run_as_user, user.parse::<u32>()) {
        (Some(0), _) => Err(RuntimeError::InvalidSpec("container's runAsUser breaks non-root policy".to_owned())),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => Err(RuntimeError::InvalidSpec("container has runAsNonRoot and image will run as root".to_owned())),
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if user.is_empty() => Err(RuntimeError::InvalidSpec("container has runAsNonRoot and image will run as root".to_owned())),
        (None, Err(_)) => {
            Err(RuntimeError::InvalidSpec(format!("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root")))
        }
    }
}

/// Bytes on disk below a directory, and how many files and directories there are.
fn size_of(directory: &std::path::Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let all = walkdir::WalkDir::new(directory).into_iter().flatten().filter_map(|entry| entry.metadata().ok());
    all.fold((0, 0), |(bytes, files), metadata| (bytes + metadata.blocks() * 512, files + 1))
}

/// The number of a signal by name (`SIGTERM`, `TERM`, `SIGRTMIN+3`) or as digits.
#[must_use]
pub fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP",
        "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = name.trim().to_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == bare) {
        return i32::try_from(index + 1).ok();
    }
    let real_time = |prefix: &str, base: i32, sign: i32| -> Option<i32> {
        let rest = bare.strip_prefix(prefix)?;
        let offset: i32 = if rest.is_empty() { 0 } else { rest.get(1..)?.parse().ok()? };
        sign.checked_mul(offset).and_then(|offset| base.checked_add(offset)).filter(|number| (34..=64).contains(number))
    };
    match bare {
        "IOT" => Some(libc::SIGABRT),
        "POLL" => Some(libc::SIGIO),
        _ => real_time("RTMIN", 34, 1).or_else(|| real_time("RTMAX", 64, -1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_all_their_names() {
        for (name, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGQUIT", 3), ("SIGWINCH", 28), ("SIGSYS", 31)] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        for name in ["", "SIGNOTHING", "0", "65", "RTMIN+40", "RTMIN+2147483647", "RTMINä"] {
            assert_eq!(signal_number(name), None, "{name}");
        }
    }
}
