//! What the runtime's tests share: a runtime in directories of its own, images made of busybox, pods to run, and a look at
//! what is left behind.
#![allow(dead_code, reason = "each test program uses another part")]

pub mod image;
pub mod registry;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use container_runtime::{
    ContainerId, ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, HostNamespaces, ImageId, ResourceLimits, SandboxId, SandboxSpec,
    SecurityContext,
};
use runtime_embedded::{EmbeddedRuntime, Helper, Options};

/// A runtime in directories of its own, which leaves nothing behind.
pub struct Node {
    pub runtime: Option<EmbeddedRuntime>,
    pub directory: tempfile::TempDir,
    pub options: Options,
}

impl Node {
    /// An empty node.
    pub async fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("knarr-runtime-").tempdir().unwrap();
        let mut options = Options::new(directory.path().join("data"), directory.path().join("run"));
        options.cgroup_root = directory.path().file_name().unwrap().to_string_lossy().into_owned();
        options.helper = Helper { program: env!("CARGO_BIN_EXE_runtime-embedded-helper").into(), arguments: Vec::new() };
        options.registries_file = Some(directory.path().join("registries.yaml"));
        let runtime = EmbeddedRuntime::open(options.clone()).await.unwrap();
        Self { runtime: Some(runtime), directory, options }
    }

    /// A node that has an image called `busybox`.
    pub async fn with_busybox() -> (Self, ImageId) {
        let node = Self::new().await;
        let archive = node.directory.path().join("busybox.tar");
        std::fs::write(&archive, image::Image::busybox().docker_archive("busybox:latest")).unwrap();
        assert_eq!(node.runtime().import_image(&archive).await.unwrap(), ["docker.io/library/busybox:latest"]);
        let id = node.runtime().image_status("busybox").await.unwrap().unwrap().id;
        (node, id)
    }

    pub fn runtime(&self) -> &EmbeddedRuntime {
        self.runtime.as_ref().unwrap()
    }

    /// Ends the agent and starts another one; what runs goes on.
    pub async fn restart(&mut self) {
        drop(self.runtime.take());
        self.runtime = Some(EmbeddedRuntime::open(self.options.clone()).await.unwrap());
    }

    /// A sandbox for a pod of that name.
    pub async fn sandbox(&self, name: &str) -> SandboxId {
        self.runtime().run_sandbox(&self.sandbox_spec(name)).await.unwrap().id
    }

    pub fn sandbox_spec(&self, name: &str) -> SandboxSpec {
        sandbox_spec(self.directory.path(), name)
    }

    /// Creates and starts a container.
    pub async fn run(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> ContainerId {
        let id = self.runtime().create_container(sandbox, spec).await.unwrap();
        self.runtime().start_container(&id).await.unwrap();
        id
    }

    /// Runs a shell script in a container of its own to its end; gives its exit code and log.
    pub async fn run_script(&self, sandbox: &SandboxId, image: &ImageId, script: &str, change: impl FnOnce(&mut ContainerSpec)) -> (i32, String) {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let mut spec = container(&format!("script-{}", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed)), image, &["/bin/sh", "-c", script]);
        change(&mut spec);
        let id = self.run(sandbox, &spec).await;
        let status = self.wait_for_exit(&id).await;
        let ContainerState::Exited { exit, .. } = &status.state else { panic!("{status:?}") };
        let result = (exit.code, log_text(&status));
        self.runtime().remove_container(&id).await.unwrap();
        result
    }

    /// Runs a command in a running container; gives its exit code and output.
    pub async fn exec(&self, container: &ContainerId, script: &str) -> (i32, String) {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        let output = self.runtime().exec_sync(container, &command, Duration::from_secs(60)).await.unwrap();
        (output.code, String::from_utf8_lossy(&output.output).into_owned())
    }

    pub async fn wait_for_exit(&self, container: &ContainerId) -> ContainerStatus {
        // Tests may look again and again: what they test is that events arrive, elsewhere.
        for _ in 0..6000 {
            let status = self.runtime().container_status(container).await.unwrap();
            if matches!(status.state, ContainerState::Exited { .. }) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("container {container:?} does not end")
    }

    pub async fn pid(&self, container: &ContainerId) -> i32 {
        match self.runtime().container_status(container).await.unwrap().state {
            ContainerState::Running { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    /// The directory of a sandbox on tmpfs.
    pub fn sandbox_directory(&self, sandbox: &SandboxId) -> PathBuf {
        self.options.run_directory.join("sandboxes").join(&sandbox.0)
    }

    /// Removes everything, and checks that it is gone.
    pub async fn finish(mut self) {
        self.runtime.take().unwrap().destroy().await.unwrap();
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Mounts, cgroups and processes that belong to this node.
    pub fn leftovers(&self) -> Vec<String> {
        let name = self.directory.path().file_name().unwrap().to_string_lossy().into_owned();
        let mut left = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount {line}")));
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let path = hierarchy.path().join(&name);
            if path.exists() {
                left.push(format!("cgroup {}", path.display()));
            }
        }
        // With version 2 there is one hierarchy, and it is mounted right there.
        if Path::new("/sys/fs/cgroup").join(&name).exists() {
            left.push("cgroup".to_owned());
        }
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let path = process.path();
            let Some(pid) = path.file_name().and_then(|pid| pid.to_str()).and_then(|pid| pid.parse::<u32>().ok()) else { continue };
            let command = std::fs::read_link(path.join("cwd")).map(|path| path.display().to_string()).unwrap_or_default();
            if pid != std::process::id() && command.contains(&name) {
                left.push(format!("process {pid} in {command}"));
            }
        }
        left
    }
}

impl Drop for Node {
    /// A test that failed half-way must not leave containers running.
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let removed = std::thread::spawn(move || {
            let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let options = runtime_embedded_options(&runtime);
            drop(runtime);
            reactor.block_on(async move { EmbeddedRuntime::open(options).await?.destroy().await })
        });
        if let Ok(Err(error)) = removed.join() {
            eprintln!("could not clean up: {error}");
        }
    }
}

/// What a sandbox for a pod of that name is asked for, with logs below a node's directory.
pub fn sandbox_spec(node: &Path, name: &str) -> SandboxSpec {
    SandboxSpec {
        pod_uid: format!("uid-{name}"),
        pod_name: name.to_owned(),
        pod_namespace: "default".to_owned(),
        attempt: 0,
        hostname: name.to_owned(),
        users: None,
        host: HostNamespaces::default(),
        cgroup_parent: format!("burstable/pod-{name}"),
        resources: ResourceLimits::default(),
        sysctls: BTreeMap::new(),
        log_directory: node.join("logs").join(name),
        labels: BTreeMap::new(),
    }
}

fn runtime_embedded_options(runtime: &EmbeddedRuntime) -> Options {
    runtime.options().clone()
}

/// A container that runs a command.
pub fn container(name: &str, image: &ImageId, command: &[&str]) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        attempt: 0,
        image: image.clone(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        args: Vec::new(),
        working_directory: None,
        environment: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        security: SecurityContext::default(),
        resources: ResourceLimits::default(),
        oom_score_adjust: 0,
        stdin: false,
        stdin_once: false,
        tty: false,
        stop_signal: None,
        processes_of: None,
        annotations: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

/// What a container printed: each line as `stream text`.
pub fn log_lines(status: &ContainerStatus) -> Vec<String> {
    let text = std::fs::read_to_string(&status.log_path).unwrap_or_default();
    text.lines().map(|line| line.splitn(4, ' ').collect::<Vec<_>>()).map(|parts| format!("{} {}", parts[1], parts.get(3).unwrap_or(&""))).collect()
}

/// What a container printed, without times and streams.
pub fn log_text(status: &ContainerStatus) -> String {
    log_lines(status).iter().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
}

/// Whether a process is there.
pub fn is_alive(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

/// Waits until something is true, for a minute or so at most.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

/// All files below a directory that hold some text.
pub fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_with(&path, text)),
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
    found
}
