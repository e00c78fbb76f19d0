//! A scripted runtime in memory: containers "run" until they are told to end, and tests say what fails.
//!
//! It passes the same contract suite as the real one, so it may be trusted in its place: by the node's tests and by the
//! benchmark of hundreds of simulated nodes. What its processes understand is in `program.rs`.

mod program;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{broadcast, oneshot, watch},
};

use self::program::Step;
use crate::{
    ContainerExit, ContainerId, ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, ContainerUsage, ExecOutput, ExecRequest, ExecSession,
    ImageId, ImageStatus, PulledImage, RegistryCredential, ResourceLimits, RuntimeError, RuntimeEvent, SandboxId, SandboxSpec, SandboxState, SandboxStatus,
    image_name::{ImageName, is_image_id},
};

/// Answers an exec in a container: which container, which command, and what it should give.
pub type ExecScript = Arc<dyn Fn(&ContainerStatus, &[String]) -> Option<ExecOutput> + Send + Sync>;

/// The scripted runtime. Cheap: no thread, no file, and no task for a container that simply runs.
pub struct FakeRuntime {
    state: Mutex<State>,
    events: broadcast::Sender<RuntimeEvent>,
    /// Ourselves, for the tasks of processes that end by themselves.
    this: Weak<FakeRuntime>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    sandboxes: BTreeMap<SandboxId, SandboxStatus>,
    containers: BTreeMap<ContainerId, FakeContainer>,
    images: BTreeMap<ImageId, ImageStatus>,
    failing_pulls: HashMap<String, String>,
    /// Passwords of repositories that ask for one.
    private_images: HashMap<String, String>,
    failing_creates: HashMap<String, String>,
    failing_starts: HashMap<String, String>,
    failing_sandboxes: Option<String>,
    stop_code: Option<i32>,
    calls: BTreeMap<&'static str, usize>,
    panicking_calls: HashMap<&'static str, usize>,
    ports: HashMap<u16, std::net::SocketAddr>,
    ignore_stop: HashSet<String>,
    exec: Option<ExecScript>,
}

struct FakeContainer {
    status: ContainerStatus,
    /// What was printed so far, in order, with `true` for standard error.
    printed: Vec<(bool, String)>,
    ended: watch::Sender<Option<i32>>,
}

impl FakeRuntime {
    /// An empty node: every image can be pulled, every container runs.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|this| Self { state: Mutex::default(), events: broadcast::channel(1024).0, this: this.clone() })
    }

    /// Pulls of this image fail with these words until [`Self::allow_pull`].
    pub fn fail_pull(&self, reference: &str, reason: &str) {
        self.state.lock().failing_pulls.insert(full_name(reference), reason.to_owned());
    }

    /// Undoes [`Self::fail_pull`].
    pub fn allow_pull(&self, reference: &str) {
        self.state.lock().failing_pulls.remove(&full_name(reference));
    }

    /// Images of this repository can only be pulled with this password.
    pub fn make_private(&self, repository: &str, password: &str) {
        let name = ImageName::parse(repository).map_or_else(|_| repository.to_owned(), |name| name.without_version());
        self.state.lock().private_images.insert(name, password.to_owned());
    }

    /// Creating containers of this name fails with these words.
    pub fn fail_create(&self, container_name: &str, reason: &str) {
        self.state.lock().failing_creates.insert(container_name.to_owned(), reason.to_owned());
    }

    /// Starting containers of this name fails with these words.
    pub fn fail_start(&self, container_name: &str, reason: &str) {
        self.state.lock().failing_starts.insert(container_name.to_owned(), reason.to_owned());
    }

    /// Making sandboxes fails with these words; `None` lets it work again.
    pub fn fail_sandboxes(&self, reason: Option<&str>) {
        self.state.lock().failing_sandboxes = reason.map(str::to_owned);
    }

    /// Undoes [`Self::fail_create`] and [`Self::fail_start`].
    pub fn let_container_work(&self, container_name: &str) {
        let mut state = self.state.lock();
        state.failing_creates.remove(container_name);
        state.failing_starts.remove(container_name);
    }

    /// Code that containers end with when they are stopped (0 where not told: a well-behaved program).
    pub fn set_stop_code(&self, code: i32) {
        self.state.lock().stop_code = Some(code);
    }

    /// Containers of this name ignore their stop signal and are killed after their grace period.
    pub fn ignore_stop_signal(&self, container_name: &str) {
        self.state.lock().ignore_stop.insert(container_name.to_owned());
    }

    /// Answers exec calls; where it gives `None`, the fake's own small shell runs the command.
    pub fn set_exec(&self, script: impl Fn(&ContainerStatus, &[String]) -> Option<ExecOutput> + Send + Sync + 'static) {
        self.state.lock().exec = Some(Arc::new(script));
    }

    /// Where connections to this port of any sandbox lead.
    pub fn set_port(&self, port: u16, address: std::net::SocketAddr) {
        self.state.lock().ports.insert(port, address);
    }

    /// How often a verb of the trait was called, by its name (`"start_container"`).
    #[must_use]
    pub fn calls(&self, verb: &str) -> usize {
        self.state.lock().calls.get(verb).copied().unwrap_or(0)
    }

    /// So many of the next calls of a verb panic: whoever calls has a defect.
    pub fn panic_in(&self, verb: &'static str, times: usize) {
        self.state.lock().panicking_calls.insert(verb, times);
    }

    /// How many calls of a verb are still to panic.
    #[must_use]
    pub fn panics_left(&self, verb: &str) -> usize {
        self.state.lock().panicking_calls.get(verb).copied().unwrap_or(0)
    }

    /// The newest container of that name in the pod of that name.
    #[must_use]
    pub fn find_container(&self, pod_name: &str, container_name: &str) -> Option<ContainerId> {
        let state = self.state.lock();
        let in_pod = |container: &&FakeContainer| {
            container.status.spec.name == container_name
                && state.sandboxes.get(&container.status.sandbox).is_some_and(|sandbox| sandbox.spec.pod_name == pod_name)
        };
        state.containers.values().filter(in_pod).max_by_key(|container| container.status.created_at).map(|container| container.status.id.clone())
    }

    /// A container's process ends by itself. Gives false where it is not running.
    pub fn exit_container(&self, container: &ContainerId, code: i32) -> bool {
        self.end(container, code, false, "")
    }

    /// A container's process is killed because memory ran out.
    pub fn kill_out_of_memory(&self, container: &ContainerId) -> bool {
        self.end(container, 137, true, "")
    }

    /// The shim of a sandbox dies, and all its containers with it.
    pub fn lose_sandbox(&self, sandbox: &SandboxId) {
        let (pod_uid, containers) = {
            let mut state = self.state.lock();
            let Some(status) = state.sandboxes.get_mut(sandbox) else { return };
            status.state = SandboxState::NotReady;
            let pod_uid = status.spec.pod_uid.clone();
            (pod_uid, state.containers_of(sandbox))
        };
        for container in containers {
            self.end_with(&container, |exit| {
                exit.code = 137;
                exit.unknown = true;
            });
        }
        drop(self.events.send(RuntimeEvent::SandboxLost { pod_uid, sandbox: sandbox.clone() }));
    }

    /// Tells the node to look at everything, as after a restart.
    pub fn look_again(&self) {
        drop(self.events.send(RuntimeEvent::LookAgain));
    }

    fn end(&self, container: &ContainerId, code: i32, out_of_memory: bool, message: &str) -> bool {
        self.end_with(container, |exit| {
            exit.code = code;
            exit.signal = if code > 128 { code - 128 } else { 0 };
            exit.out_of_memory = out_of_memory;
            exit.message = message.to_owned();
        })
    }

    fn end_with(&self, container: &ContainerId, fill: impl FnOnce(&mut ContainerExit)) -> bool {
        let pod_uid = {
            let mut state = self.state.lock();
            let Some(found) = state.containers.get_mut(container) else { return false };
            let started_at = match &found.status.state {
                ContainerState::Running { started_at, .. } => Some(*started_at),
                ContainerState::Created => None,
                ContainerState::Exited { .. } => return false,
            };
            let mut exit =
                ContainerExit { code: 0, signal: 0, finished_at: Timestamp::now(), out_of_memory: false, unknown: false, message: String::new() };
            fill(&mut exit);
            let code = exit.code;
            found.status.state = ContainerState::Exited { started_at, exit };
            found.ended.send_replace(Some(code));
            let sandbox = found.status.sandbox.clone();
            state.sandboxes.get(&sandbox).map(|sandbox| sandbox.spec.pod_uid.clone()).unwrap_or_default()
        };
        drop(self.events.send(RuntimeEvent::ContainerExited { pod_uid, container: container.clone() }));
        true
    }

    fn print(&self, container: &ContainerId, error: bool, line: &str) {
        let mut state = self.state.lock();
        let Some(found) = state.containers.get_mut(container) else { return };
        found.printed.push((error, line.to_owned()));
        let stream = if error { "stderr" } else { "stdout" };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&found.status.log_path);
        if let Ok(mut log) = log
            && let Err(problem) = writeln!(log, "{} {stream} F {line}", Timestamp::now())
        {
            tracing::warn!(path = %found.status.log_path.display(), %problem, "could not write a log line");
        }
    }

    /// Plays the steps of a started container that does not simply run for ever.
    fn play(&self, container: ContainerId, steps: Vec<Step>) {
        let Some(this) = self.this.upgrade() else { return };
        tokio::spawn(async move {
            for step in steps {
                match step {
                    Step::Print { line, error } => this.print(&container, error, &line),
                    Step::Sleep(duration) => tokio::time::sleep(duration).await,
                    Step::Exit(code) => {
                        this.exit_container(&container, code);
                    }
                    Step::CopyInput | Step::RunForever => return,
                }
            }
        });
    }

    fn count(&self, verb: &'static str) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.state.lock();
        *state.calls.entry(verb).or_default() += 1;
        if let Some(left) = state.panicking_calls.get_mut(verb).filter(|left| **left > 0) {
            *left -= 1;
            drop(state);
            panic!("{verb} panics, as it was told to");
        }
        state
    }
}

impl State {
    fn new_id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}{:060x}", self.next_id)
    }

    fn containers_of(&self, sandbox: &SandboxId) -> Vec<ContainerId> {
        self.containers.values().filter(|container| container.status.sandbox == *sandbox).map(|container| container.status.id.clone()).collect()
    }

    fn running(&self, container: &ContainerId) -> Result<&FakeContainer, RuntimeError> {
        let found = self.containers.get(container).ok_or_else(|| RuntimeError::NoSuchContainer(container.clone()))?;
        match found.status.state {
            ContainerState::Running { .. } => Ok(found),
            _ => Err(RuntimeError::NotRunning(container.clone())),
        }
    }

    fn find_image(&self, reference: &str) -> Result<Option<ImageStatus>, RuntimeError> {
        if is_image_id(reference) {
            let id = if reference.starts_with("sha256:") { reference.to_owned() } else { format!("sha256:{reference}") };
            return Ok(self.images.get(&ImageId(id)).cloned());
        }
        let name = ImageName::parse(reference)?;
        let matches = |image: &&ImageStatus| match &name.digest {
            Some(digest) => image.digests.contains(&name.at_digest(digest)),
            None => name.tagged().is_some_and(|tagged| image.tags.contains(&tagged)),
        };
        Ok(self.images.values().find(matches).cloned())
    }
}

fn full_name(reference: &str) -> String {
    ImageName::parse(reference).map_or_else(|_| reference.to_owned(), |name| name.to_string())
}

/// A digest that is always the same for the same name.
fn digest_of(name: &str, salt: u8) -> String {
    let part = |round: u8| {
        let mut hasher = DefaultHasher::new();
        (name, salt, round).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    format!("sha256:{}{}{}{}", part(0), part(1), part(2), part(3))
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    fn handlers(&self) -> Vec<String> {
        vec!["fake".to_owned()]
    }

    fn version(&self) -> String {
        "fake://0.1.0".to_owned()
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        let mut state = self.count("run_sandbox");
        if let Some(reason) = &state.failing_sandboxes {
            return Err(RuntimeError::Internal(reason.clone()));
        }
        let id = SandboxId(state.new_id("5a"));
        let status =
            SandboxStatus { id: id.clone(), spec: spec.clone(), state: SandboxState::Ready, created_at: Timestamp::now(), network_namespace: None };
        state.sandboxes.insert(id, status.clone());
        Ok(status)
    }

    async fn stop_sandbox(&self, sandbox: &SandboxId) -> Result<(), RuntimeError> {
        let containers = {
            let mut state = self.count("stop_sandbox");
            if let Some(found) = state.sandboxes.get_mut(sandbox) {
                found.state = SandboxState::NotReady;
            }
            state.containers_of(sandbox)
        };
        for container in containers {
            self.end(&container, 137, false, "");
        }
        Ok(())
    }

    async fn update_sandbox_resources(&self, sandbox: &SandboxId, limits: &ResourceLimits) -> Result<(), RuntimeError> {
        let mut state = self.count("update_sandbox_resources");
        let found = state.sandboxes.get_mut(sandbox).ok_or_else(|| RuntimeError::NoSuchSandbox(sandbox.clone()))?;
        found.spec.resources = limits.clone();
        Ok(())
    }

    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<(), RuntimeError> {
        self.stop_sandbox(sandbox).await?;
        let mut state = self.count("remove_sandbox");
        for container in state.containers_of(sandbox) {
            state.containers.remove(&container);
        }
        state.sandboxes.remove(sandbox);
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(self.count("list_sandboxes").sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        let mut state = self.count("create_container");
        let found = state.sandboxes.get(sandbox).ok_or_else(|| RuntimeError::NoSuchSandbox(sandbox.clone()))?;
        let log_path = found.spec.log_directory.join(&spec.name).join(format!("{}.log", spec.attempt));
        if !state.images.contains_key(&spec.image) {
            return Err(RuntimeError::NoSuchImage(spec.image.0.clone()));
        }
        if let Some(reason) = state.failing_creates.get(&spec.name) {
            return Err(RuntimeError::Create { name: spec.name.clone(), reason: reason.clone() });
        }
        let id = ContainerId(state.new_id("c0"));
        let status = ContainerStatus {
            id: id.clone(),
            sandbox: sandbox.clone(),
            spec: spec.clone(),
            state: ContainerState::Created,
            created_at: Timestamp::now(),
            log_path,
            user: Some((spec.security.run_as_user.unwrap_or(0), spec.security.run_as_group.unwrap_or(0), spec.security.supplemental_groups.clone())),
        };
        state.containers.insert(id.clone(), FakeContainer { status, printed: Vec::new(), ended: watch::channel(None).0 });
        Ok(id)
    }

    async fn start_container(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        let (steps, failure) = {
            let mut state = self.count("start_container");
            let State { containers, failing_starts, next_id, .. } = &mut *state;
            let found = containers.get_mut(container).ok_or_else(|| RuntimeError::NoSuchContainer(container.clone()))?;
            if found.status.state != ContainerState::Created {
                return Ok(());
            }
            *next_id += 1;
            let pid = i32::try_from(*next_id % 4_000_000).unwrap_or(1);
            let spec = &found.status.spec;
            let failure = failing_starts.get(&spec.name).cloned();
            let name = spec.name.clone();
            let command: Vec<String> = spec.command.iter().chain(&spec.args).cloned().collect();
            let steps = program::read(&command, &spec.environment);
            if failure.is_none() {
                found.status.state = ContainerState::Running { started_at: Timestamp::now(), pid };
                if steps != [Step::RunForever]
                    && let Some(directory) = found.status.log_path.parent()
                    && let Err(problem) = std::fs::create_dir_all(directory)
                {
                    tracing::warn!(path = %directory.display(), %problem, "could not make a log directory");
                }
            }
            (steps, failure.map(|reason| (name, reason)))
        };
        if let Some((name, reason)) = failure {
            self.end(container, 128, false, &reason);
            return Err(RuntimeError::Start { name, reason });
        }
        if steps != [Step::RunForever] {
            self.play(container.clone(), steps);
        }
        Ok(())
    }

    async fn stop_container(&self, container: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let (code, stubborn) = {
            let state = self.count("stop_container");
            let Ok(found) = state.running(container) else { return Ok(()) };
            (state.stop_code.unwrap_or(0), state.ignore_stop.contains(&found.status.spec.name))
        };
        if stubborn {
            tokio::time::sleep(grace).await;
        }
        self.end(container, if stubborn || grace.is_zero() { 137 } else { code }, false, "");
        Ok(())
    }

    async fn remove_container(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        self.end(container, 137, false, "");
        self.count("remove_container").containers.remove(container);
        Ok(())
    }

    async fn container_status(&self, container: &ContainerId) -> Result<ContainerStatus, RuntimeError> {
        let state = self.count("container_status");
        state.containers.get(container).map(|found| found.status.clone()).ok_or_else(|| RuntimeError::NoSuchContainer(container.clone()))
    }

    async fn list_containers(&self, sandbox: Option<&SandboxId>) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let state = self.count("list_containers");
        let wanted = |found: &&FakeContainer| sandbox.is_none_or(|sandbox| found.status.sandbox == *sandbox);
        Ok(state.containers.values().filter(wanted).map(|found| found.status.clone()).collect())
    }

    async fn update_resources(&self, container: &ContainerId, limits: &ResourceLimits) -> Result<(), RuntimeError> {
        let mut state = self.count("update_resources");
        state.running(container)?;
        if let Some(found) = state.containers.get_mut(container) {
            found.status.spec.resources = limits.clone();
        }
        Ok(())
    }

    async fn container_usage(&self, container: &ContainerId) -> Result<ContainerUsage, RuntimeError> {
        let state = self.count("container_usage");
        state.running(container)?;
        Ok(ContainerUsage { processes: 1, ..ContainerUsage::default() })
    }

    async fn reopen_log(&self, container: &ContainerId) -> Result<(), RuntimeError> {
        let state = self.count("reopen_log");
        let found = state.running(container)?;
        let path = &found.status.log_path;
        let io = |source| RuntimeError::Io { doing: format!("could not open the log {}", path.display()), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(io)?;
        }
        std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        Ok(())
    }

    async fn exec(&self, container: &ContainerId, request: &ExecRequest) -> Result<ExecSession, RuntimeError> {
        let (status, script) = {
            let state = self.count("exec");
            (state.running(container)?.status.clone(), state.exec.clone())
        };
        let scripted = script.and_then(|script| script(&status, &request.command));
        let steps = match scripted {
            Some(answer) => vec![Step::Print { line: String::from_utf8_lossy(&answer.output).trim_end_matches('\n').to_owned(), error: false }, Step::Exit(answer.code)],
            None => program::read(&request.command, &status.spec.environment),
        };
        let (stdin, mut input) = tokio::io::duplex(64 * 1024);
        let (mut output, stdout) = tokio::io::duplex(64 * 1024);
        let (mut error_output, stderr) = tokio::io::duplex(64 * 1024);
        let (exit, ended) = oneshot::channel();
        tokio::spawn(async move {
            let mut code = 0;
            for step in steps {
                let written = match step {
                    Step::Print { line, error } => {
                        let target = if error { &mut error_output } else { &mut output };
                        if line.is_empty() { Ok(()) } else { target.write_all(format!("{line}\n").as_bytes()).await }
                    }
                    Step::Sleep(duration) => {
                        tokio::time::sleep(duration).await;
                        Ok(())
                    }
                    Step::CopyInput => tokio::io::copy(&mut input, &mut output).await.map(|_| ()),
                    Step::Exit(wanted) => {
                        code = wanted;
                        break;
                    }
                    Step::RunForever => {
                        code = 127;
                        break;
                    }
                };
                if written.is_err() {
                    // The reader is gone: as a real process it dies of SIGPIPE.
                    code = 141;
                    break;
                }
            }
            drop((output, error_output));
            drop(exit.send(Ok(code)));
        });
        Ok(session(request, stdin, stdout, stderr, ended))
    }

    async fn exec_sync(&self, container: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        let request = ExecRequest { command: command.to_vec(), stdout: true, stderr: true, ..ExecRequest::default() };
        let mut session = self.exec(container, &request).await?;
        drop(self.count("exec_sync"));
        let run = async move {
            let mut output = Vec::new();
            for stream in [session.stdout.take(), session.stderr.take()].into_iter().flatten() {
                drop(stream.take(64 * 1024).read_to_end(&mut output).await);
            }
            let code = session.exit.await.map_err(|_| RuntimeError::Internal("the process went away".to_owned()))??;
            Ok(ExecOutput { code, output })
        };
        tokio::time::timeout(timeout, run).await.unwrap_or(Err(RuntimeError::Timeout(timeout)))
    }

    async fn attach(&self, container: &ContainerId, request: &ExecRequest) -> Result<ExecSession, RuntimeError> {
        let mut ended = {
            let state = self.count("attach");
            state.running(container)?.ended.subscribe()
        };
        let (stdin, mut input) = tokio::io::duplex(64 * 1024);
        let (mut output, stdout) = tokio::io::duplex(64 * 1024);
        let (error_output, stderr) = tokio::io::duplex(64 * 1024);
        let (exit, exited) = oneshot::channel();
        // An attached client sees its own input again, as from a container that runs `cat`.
        tokio::spawn(async move {
            tokio::select! {
                _ = async {
                    drop(tokio::io::copy(&mut input, &mut output).await);
                    std::future::pending::<()>().await
                } => {}
                _ = ended.wait_for(Option::is_some) => {}
            }
            drop(error_output);
            let code = ended.borrow().unwrap_or(137);
            drop(exit.send(Ok(code)));
        });
        Ok(session(request, stdin, stdout, stderr, exited))
    }

    async fn connect_port(&self, sandbox: &SandboxId, port: u16) -> Result<tokio::net::TcpStream, RuntimeError> {
        let address = {
            let state = self.count("connect_port");
            if !state.sandboxes.contains_key(sandbox) {
                return Err(RuntimeError::NoSuchSandbox(sandbox.clone()));
            }
            state.ports.get(&port).copied().unwrap_or_else(|| std::net::SocketAddr::from(([127, 0, 0, 1], port)))
        };
        tokio::net::TcpStream::connect(address)
            .await
            .map_err(|source| RuntimeError::Io { doing: format!("could not connect to port {port} of sandbox {}", sandbox.0), source })
    }

    async fn image_status(&self, reference: &str) -> Result<Option<ImageStatus>, RuntimeError> {
        self.count("image_status").find_image(reference)
    }

    async fn pull_image(&self, reference: &str, credentials: &[RegistryCredential]) -> Result<PulledImage, RuntimeError> {
        let mut state = self.count("pull_image");
        let name = ImageName::parse(reference)?;
        let private = state.private_images.get(&name.without_version());
        let credential = private.and_then(|password| credentials.iter().position(|credential| credential.password == *password));
        if private.is_some() && credential.is_none() {
            return Err(RuntimeError::Pull { image: reference.to_owned(), reason: "pull access denied".to_owned() });
        }
        if let Some(reason) = state.failing_pulls.get(&name.to_string()) {
            return Err(RuntimeError::Pull { image: reference.to_owned(), reason: reason.clone() });
        }
        let id = ImageId(digest_of(&name.without_version(), 0));
        let digest = name.digest.clone().unwrap_or_else(|| digest_of(&name.to_string(), 1));
        let id = if name.tag.is_some() { ImageId(digest_of(&name.to_string(), 0)) } else { id };
        let image = state.images.entry(id.clone()).or_insert_with(|| ImageStatus {
            id: id.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            size_bytes: 1024 * 1024,
            user: String::new(),
            pinned: false,
        });
        for (list, entry) in [(&mut image.tags, name.tagged()), (&mut image.digests, Some(name.at_digest(&digest)))] {
            if let Some(entry) = entry.filter(|entry| !list.contains(entry)) {
                list.push(entry);
            }
        }
        Ok(PulledImage { id, credential })
    }

    async fn import_image(&self, archive: &Path) -> Result<Vec<String>, RuntimeError> {
        drop(self.count("import_image"));
        let name = archive.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
        self.pull_image(&name, &[]).await?;
        Ok(vec![full_name(&name)])
    }

    async fn list_images(&self) -> Result<Vec<ImageStatus>, RuntimeError> {
        Ok(self.count("list_images").images.values().cloned().collect())
    }

    async fn mount_image(&self, image: &ImageId, _target: &std::path::Path) -> Result<(), RuntimeError> {
        let state = self.count("mount_image");
        if state.images.values().any(|known| known.id == *image) { Ok(()) } else { Err(RuntimeError::NoSuchImage(image.0.clone())) }
    }

    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError> {
        let mut state = self.count("remove_image");
        let Some(image) = state.find_image(reference)? else { return Ok(()) };
        let name = full_name(reference);
        let Some(kept) = state.images.get_mut(&image.id) else { return Ok(()) };
        kept.tags.retain(|tag| *tag != name);
        kept.digests.retain(|digest| *digest != name);
        if kept.tags.is_empty() || is_image_id(reference) {
            state.images.remove(&image.id);
        }
        Ok(())
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        events_of(self.events.subscribe())
    }
}

/// A receiver as a stream: a subscriber that was too slow is told to look at everything.
pub fn events_of(receiver: broadcast::Receiver<RuntimeEvent>) -> BoxStream<'static, RuntimeEvent> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(event) => Some((event, receiver)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((RuntimeEvent::LookAgain, receiver)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    })
    .boxed()
}

fn session(
    request: &ExecRequest,
    stdin: DuplexStream,
    stdout: DuplexStream,
    stderr: DuplexStream,
    exit: oneshot::Receiver<Result<i32, RuntimeError>>,
) -> ExecSession {
    let resize = request.tty.then(|| {
        let (resize, mut sizes) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move { while sizes.recv().await.is_some() {} });
        resize
    });
    ExecSession {
        stdin: request.stdin.then(|| Box::new(stdin) as _),
        stdout: request.stdout.then(|| Box::new(stdout) as _),
        stderr: (request.stderr && !request.tty).then(|| Box::new(stderr) as _),
        resize,
        exit,
    }
}

/// Where a container's log lies, for tests that look.
#[must_use]
pub fn log_path(spec: &SandboxSpec, container: &ContainerSpec) -> PathBuf {
    spec.log_directory.join(&container.name).join(format!("{}.log", container.attempt))
}
