//! One sandbox: its directory, its shim, and the task that hears what the shim has to say.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use container_runtime::{ResourceLimits, RuntimeError, SandboxId, SandboxSpec, SandboxState, SandboxStatus};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shim::Message;

use crate::{
    memory_backed, records,
    runtime::Inner,
    shim_connection::{self, ShimConnection},
    shim_program,
};

/// Size of a pod's `/dev/shm`. Source: containerd's CRI plug-in, 64 MiB.
const SHARED_MEMORY_OPTIONS: &std::ffi::CStr = c"mode=1777,size=67108864";

/// What is written down of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Which one.
    pub id: SandboxId,
    /// What it was made from.
    pub spec: SandboxSpec,
    /// When.
    pub created_at: Timestamp,
    /// Its shim, once it runs.
    pub shim: Option<ProcessIdentity>,
    /// Pid 1 of the pod, where its containers share a process namespace.
    pub first_process: Option<i32>,
    /// It was stopped on purpose.
    pub stopped: bool,
}

/// A process, told from later ones of the same number by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: i32,
    /// Clock ticks after boot at which it started.
    pub started: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so fields are counted from behind it; the start is the 22nd of all.
        let started = text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether it still runs, and is the same.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Kills it, if it is still the same.
    pub fn kill(&self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return };
        // The descriptor pins the number: what is checked afterwards is what is killed.
        if let Ok(descriptor) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            && self.is_alive()
        {
            let _ = rustix::process::pidfd_send_signal(&descriptor, rustix::process::Signal::KILL);
        }
    }
}

/// A sandbox.
pub struct Sandbox {
    /// Its directory, on tmpfs.
    pub directory: PathBuf,
    /// Its cgroup, from the root of the hierarchy.
    pub cgroup: String,
    /// What is written down of it.
    pub record: Mutex<SandboxRecord>,
    /// Alive or not.
    pub state: Mutex<SandboxState>,
}

impl Sandbox {
    /// Its status.
    pub fn status(&self) -> SandboxStatus {
        let record = self.record.lock();
        let network_namespace = record.shim.filter(|_| !record.spec.host.network).map(|shim| PathBuf::from(format!("/proc/{}/ns/net", shim.pid)));
        SandboxStatus { id: record.id.clone(), spec: record.spec.clone(), state: *self.state.lock(), created_at: record.created_at, network_namespace }
    }

    /// Which one.
    pub fn id(&self) -> SandboxId {
        self.record.lock().id.clone()
    }

    /// The pod's UID.
    pub fn pod_uid(&self) -> String {
        self.record.lock().spec.pod_uid.clone()
    }

    /// Its `/dev/shm`, where that is not the host's.
    pub fn shared_memory(&self) -> PathBuf {
        if self.record.lock().spec.host.ipc { PathBuf::from("/dev/shm") } else { self.directory.join("shm") }
    }

    /// The process namespace that its containers share.
    pub fn process_namespace(&self) -> Option<PathBuf> {
        self.record.lock().first_process.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/pid")))
    }

    fn write_record(&self) -> io::Result<()> {
        records::write(&record_path(&self.directory), &*self.record.lock())
    }

    fn mark_stopped(&self) {
        self.record.lock().stopped = true;
        *self.state.lock() = SandboxState::NotReady;
        if let Err(error) = self.write_record() {
            tracing::warn!(path = %self.directory.display(), %error, "could not write down that a sandbox was stopped");
        }
    }
}

/// Kernel parameters of a pod that has its own network, before those it asks for: its users may open the low ports, which are
/// nobody's but the pod's, and ping. The range of those who may ping cannot be written where the kernel knows no such groups.
/// Source: containerd 2, `enable_unprivileged_ports` and `enable_unprivileged_icmp`, which are on by default.
fn default_sysctls(spec: &SandboxSpec) -> &'static [&'static str] {
    match (spec.host.network, spec.users) {
        (true, _) => &[],
        (false, Some(_)) => &["net.ipv4.ip_unprivileged_port_start=0"],
        (false, None) => &["net.ipv4.ip_unprivileged_port_start=0", "net.ipv4.ping_group_range=0 2147483647"],
    }
}

/// Where a sandbox's record is.
pub fn record_path(directory: &Path) -> PathBuf {
    directory.join("sandbox.json")
}

impl Inner {
    /// Makes a sandbox.
    pub async fn run_sandbox(self: &Arc<Self>, spec: &SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        let _permit = self.permits.acquire().await;
        let id = SandboxId(records::new_id());
        let directory = self.sandboxes_directory().join(&id.0);
        let cgroup = format!("{}/{}", self.options.cgroup_root, spec.cgroup_parent.trim_matches('/'));
        let record = SandboxRecord { id: id.clone(), spec: spec.clone(), created_at: Timestamp::now(), shim: None, first_process: None, stopped: false };
        let sandbox = Arc::new(Sandbox { directory, cgroup, record: Mutex::new(record), state: Mutex::new(SandboxState::Ready) });
        let made = self.make_sandbox(&sandbox).await;
        if let Err(error) = made {
            sandbox.mark_stopped();
            if let Err(leftover) = self.remove_files(&sandbox).await {
                tracing::warn!(sandbox = %id.0, error = %leftover, "could not clean up after a sandbox that failed");
            }
            return Err(error);
        }
        self.sandboxes.lock().insert(id, Arc::clone(&sandbox));
        self.weigh_class_of(&spec.cgroup_parent);
        Ok(sandbox.status())
    }

    async fn make_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), RuntimeError> {
        let spec = sandbox.record.lock().spec.clone();
        let failed = |doing: String| move |source: io::Error| RuntimeError::Io { doing: format!("{doing}: {source}"), source };
        std::fs::create_dir_all(sandbox.directory.join("containers")).map_err(failed(format!("could not make {}", sandbox.directory.display())))?;
        // Written first, so that whatever is made from here on is found and removed, however we end.
        sandbox.write_record().map_err(failed("could not write the sandbox's record".to_owned()))?;
        self.cgroups.create(&sandbox.cgroup, &spec.resources).map_err(failed(format!("could not make the cgroup {}", sandbox.cgroup)))?;
        if !spec.host.ipc {
            let place = sandbox.directory.join("shm");
            std::fs::create_dir_all(&place).map_err(failed(format!("could not make {}", place.display())))?;
            let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOEXEC;
            rustix::mount::mount("shm", &place, "tmpfs", flags, Some(SHARED_MEMORY_OPTIONS)).map_err(|error| failed("could not mount the pod's /dev/shm".to_owned())(error.into()))?;
        }
        let mut configuration = Message::new("configuration")
            .with_number("network", i64::from(!spec.host.network))
            .with_number("ipc", i64::from(!spec.host.ipc))
            .with_number("uts", i64::from(!spec.host.network))
            .with_number("pid", i64::from(spec.host.share_process && !spec.host.pid))
            .with("hostname", &spec.hostname);
        if let Some(users) = spec.users {
            configuration = configuration.with_number("first_id", i64::from(users.first)).with_number("id_count", i64::from(users.length));
        }
        for parameter in default_sysctls(&spec) {
            configuration.push("sysctl", (*parameter).to_owned());
        }
        // Later ones win, however their names are written.
        for (name, value) in &spec.sysctls {
            configuration.push("sysctl", format!("{name}={value}"));
        }
        let answer = shim_program::start(&self.shim_program, &sandbox.directory, &configuration)
            .await
            .map_err(|problem| RuntimeError::Internal(format!("failed to create pod sandbox: {problem}")))?;
        let number = |name: &str| answer.number(name).and_then(|pid| i32::try_from(pid).ok());
        let pid = number("pid").unwrap_or(0);
        let first_process = number("first_process");
        {
            let mut record = sandbox.record.lock();
            record.shim = ProcessIdentity::of(pid);
            record.first_process = first_process;
        }
        sandbox.write_record().map_err(failed("could not write the sandbox's record".to_owned()))?;
        // The pod lives no longer than either.
        for process in [Some(pid), first_process].into_iter().flatten() {
            self.settle_shim(process);
        }
        let connection = self.watch_shim(sandbox).await.map_err(failed("could not talk to the new shim".to_owned()))?;
        self.follow_shim(sandbox, connection);
        Ok(())
    }

    /// Puts a shim where neither the service manager nor the OOM killer looks for victims.
    fn settle_shim(&self, pid: i32) {
        let Ok(number) = u32::try_from(pid) else { return };
        if let Err(error) = self.cgroups.adopt(&self.shims_cgroup(), number) {
            tracing::warn!(pid, %error, "could not move a shim into its own cgroup; stopping the agent's service may stop it too");
        }
        // Without CAP_SYS_RESOURCE this is refused, and the shim is as safe as we are.
        if let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "-998") {
            tracing::debug!(pid, %error, "could not protect a shim from the OOM killer");
        }
    }

    /// Opens the connection that carries news, and takes in the state of all containers.
    pub(crate) async fn watch_shim(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> io::Result<ShimConnection> {
        let watching = async {
            let mut connection = ShimConnection::open(&sandbox.directory).await?;
            connection.send(&Message::new("watch"), &[]).await?;
            loop {
                let message = connection.receive().await?;
                if message.verb() == "watching" {
                    return Ok(connection);
                }
                self.hear(sandbox, &message);
            }
        };
        tokio::time::timeout(shim_connection::PROMPT, watching).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }

    /// Listens to a shim until it is gone.
    pub(crate) fn follow_shim(self: &Arc<Self>, sandbox: &Arc<Sandbox>, mut connection: ShimConnection) {
        // Holding the runtime weakly: the last user's drop ends this task by closing the channel of `closing`.
        let (inner, sandbox, mut closing) = (Arc::downgrade(self), Arc::clone(sandbox), self.closing.subscribe());
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = connection.receive() => message,
                    _ = closing.wait_for(|closed| *closed) => return,
                };
                let Some(inner) = inner.upgrade() else { return };
                match message {
                    Ok(message) => inner.hear(&sandbox, &message),
                    Err(_) if sandbox.record.lock().stopped => return,
                    // It drops connections that do not keep up, so this need not be the end.
                    Err(error) => match inner.watch_shim(&sandbox).await {
                        Ok(again) => connection = again,
                        Err(_) if sandbox.record.lock().stopped => return,
                        Err(_) => {
                            tracing::warn!(sandbox = %sandbox.id().0, %error, "the shim is gone");
                            blocking(move || inner.lose(&sandbox, true)).await;
                            return;
                        }
                    },
                }
            }
        });
    }

    /// Takes in one message of a shim.
    fn hear(&self, sandbox: &Sandbox, message: &Message) {
        let Some(container) = message.text("id").and_then(|id| self.container_by_id(id)) else { return };
        if container.hear(message) {
            let event = container_runtime::RuntimeEvent::ContainerExited { pod_uid: sandbox.pod_uid(), container: container.id.clone() };
            // Nobody listening is fine: an event is only a hint.
            let _ = self.events.send(event);
        }
    }

    /// A sandbox without a shim: kills what is left in it, and gives up its containers.
    pub(crate) fn lose(&self, sandbox: &Arc<Sandbox>, tell: bool) {
        *sandbox.state.lock() = SandboxState::NotReady;
        if let Some(shim) = sandbox.record.lock().shim {
            shim.kill();
        }
        // Its helpers have nobody to tell of what they make.
        crate::strays::kill_all_in(&sandbox.directory);
        let mut events = Vec::new();
        for container in self.containers_of(&sandbox.id()) {
            self.cgroups.kill(&container.cgroup(sandbox));
            if container.lose() {
                events.push(container_runtime::RuntimeEvent::ContainerExited { pod_uid: sandbox.pod_uid(), container: container.id.clone() });
            }
        }
        events.push(container_runtime::RuntimeEvent::SandboxLost { pod_uid: sandbox.pod_uid(), sandbox: sandbox.id() });
        if tell {
            for event in events {
                let _ = self.events.send(event);
            }
        }
    }

    /// Kills what runs in a sandbox and ends its shim.
    pub async fn stop_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), RuntimeError> {
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        if *sandbox.state.lock() == SandboxState::Ready {
            let stops = self.containers_of(id).into_iter().map(|container| {
                let inner = Arc::clone(self);
                async move { inner.stop_container(&container.id, Duration::ZERO).await }
            });
            for stopped in futures::future::join_all(stops).await {
                stopped?;
            }
        }
        sandbox.mark_stopped();
        let parent = sandbox.record.lock().spec.cgroup_parent.clone();
        self.weigh_class_of(&parent);
        self.end_shim(&sandbox).await;
        // Commands that were run in containers without a process namespace of their own may be left.
        let (inner, cgroups) = (Arc::clone(self), self.containers_of(id).into_iter().map(|container| container.cgroup(&sandbox)).collect::<Vec<_>>());
        blocking(move || cgroups.iter().for_each(|cgroup| inner.cgroups.kill(cgroup))).await;
        Ok(())
    }

    /// Changes the limits of a pod as a whole.
    pub fn update_sandbox_resources(&self, id: &SandboxId, limits: &ResourceLimits) -> Result<(), RuntimeError> {
        let sandbox = self.sandbox(id).ok_or_else(|| RuntimeError::NoSuchSandbox(id.clone()))?;
        let failed = |source: io::Error| RuntimeError::Io { doing: format!("could not change the limits of sandbox {}: {source}", id.0), source };
        self.cgroups.apply(&sandbox.cgroup, limits, true).map_err(failed)?;
        let parent = {
            let spec = &mut sandbox.record.lock().spec;
            spec.resources = limits.clone();
            spec.cgroup_parent.clone()
        };
        self.weigh_class_of(&parent);
        sandbox.write_record().map_err(failed)
    }

    async fn end_shim(&self, sandbox: &Sandbox) {
        let Some(shim) = sandbox.record.lock().shim else { return };
        let asked = shim_connection::ask(&sandbox.directory, &Message::new("end")).await;
        let gone = async {
            let descriptor = rustix::process::Pid::from_raw(shim.pid).and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
            if let Some(descriptor) = descriptor.filter(|_| shim.is_alive())
                && let Ok(descriptor) = crate::streams::watch_descriptor(descriptor)
            {
                let _ = descriptor.readable().await;
            }
        };
        let was_killed = asked.is_err() || tokio::time::timeout(Duration::from_secs(5), gone).await.is_err();
        if was_killed {
            shim.kill();
        }
        // A start that an earlier agent asked for, and did not live to see, may still be under way.
        if was_killed || self.containers_of(&sandbox.id()).iter().any(|container| container.is_half_started()) {
            let directory = sandbox.directory.clone();
            blocking(move || crate::strays::kill_all_in(&directory)).await;
        }
    }

    /// Removes a sandbox and its containers.
    pub async fn remove_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), RuntimeError> {
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(id).await?;
        for container in self.containers_of(id) {
            self.remove_container(&container.id).await?;
        }
        self.remove_files(&sandbox).await?;
        self.sandboxes.lock().remove(id);
        Ok(())
    }

    /// Removes what a sandbox left behind: shim, mount, cgroup, directory.
    pub(crate) async fn remove_files(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), RuntimeError> {
        self.end_shim(sandbox).await;
        let (inner, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        blocking(move || {
            let failed = |doing: &'static str| move |source: io::Error| RuntimeError::Io { doing: format!("could not remove {doing}: {source}"), source };
            memory_backed::remove_mount(&sandbox.directory.join("shm")).map_err(failed("the pod's /dev/shm"))?;
            // A later sandbox of the same pod has the same cgroup.
            let id = sandbox.id();
            let shared = inner.sandboxes.lock().values().any(|other| other.cgroup == sandbox.cgroup && other.id() != id);
            if !shared {
                inner.cgroups.remove(&sandbox.cgroup).map_err(failed("the pod's cgroup"))?;
            }
            match std::fs::remove_dir_all(&sandbox.directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("the sandbox's directory")(error)),
                _ => Ok(()),
            }
        })
        .await
    }
}

/// Runs something that waits for the kernel on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
