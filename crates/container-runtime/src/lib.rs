//! The ContainerRuntime seam: sandboxes, containers, images, exec and logs of one node.
//!
//! The embedded runtime (`runtime-embedded`) and, later, any CRI runtime fill it; `fake` is the scripted one for tests.
//! The node knows only this trait. Promises every filling keeps:
//! * Identifiers are chosen by the runtime, unique for ever, and survive a restart of the agent.
//! * Every verb may be repeated: stopping what is stopped and removing what is gone succeed.
//! * What runs goes on when the agent dies; [`ContainerRuntime::list_sandboxes`] and
//!   [`ContainerRuntime::list_containers`] tell a new agent everything, exits that happened meanwhile included.

pub mod contract;
pub mod fake;
pub mod image_name;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// Identifies one pod sandbox on this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxId(pub String);

/// Identifies one container on this node. Shown to users as `knarr://ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// The digest of an image's configuration (`sha256:…`): what the image *is*, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageId(pub String);

/// Which of a pod's namespaces are the node's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNamespaces {
    /// `spec.hostNetwork`
    pub network: bool,
    /// `spec.hostPID`
    pub pid: bool,
    /// `spec.hostIPC`
    pub ipc: bool,
    /// `spec.shareProcessNamespace`: containers see each other's processes.
    pub share_process: bool,
}

/// Users and groups of a pod's own: the numbers from 0 up to `length` in the pod are those from `first` on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What the pod's 0 is on the node.
    pub first: u32,
    /// How many numbers there are.
    pub length: u32,
}

/// What a sandbox is asked for: the pod's identity, its namespaces and its cgroup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The pod's UID; with `attempt` it makes the sandbox unique.
    pub pod_uid: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// How often a sandbox was made for this pod before.
    pub attempt: u32,
    /// Host name inside the pod, at most 63 characters.
    pub hostname: String,
    /// Namespaces shared with the host.
    pub host: HostNamespaces,
    /// `spec.hostUsers: false`: a user namespace with this range. Files of images and volumes keep their owners: what is owned by
    /// 0 on a disk is owned by 0 in the pod.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// Path of the pod's cgroup below the runtime's root, for example `burstable/pod<UID>`.
    pub cgroup_parent: String,
    /// Limits of the pod's cgroup as a whole.
    pub resources: ResourceLimits,
    /// `name=value` kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Directory of the pod's logs; container logs are `LOG_DIRECTORY/CONTAINER/RESTARTS.log`.
    pub log_directory: PathBuf,
    /// `/etc/resolv.conf` and `/etc/hosts` are mounts of the containers, made by the node.
    pub labels: BTreeMap<String, String>,
}

/// Cgroup limits, for v1 and v2 alike. `None` means unlimited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Relative weight in cgroup v1 units (2 to 262144); 1 CPU is 1024.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period.
    pub cpu_quota_microseconds: Option<i64>,
    /// Length of the period, 100,000 µs unless told.
    pub cpu_period_microseconds: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<i64>,
    /// Bytes of memory that were asked for. No setting of a cgroup follows from it; it is kept, so that the node sees later what
    /// a running container was given.
    #[serde(default)]
    pub memory_request_bytes: Option<i64>,
    /// Number of processes.
    pub pids: Option<i64>,
    /// Huge page limits by page size (`2MB`), in bytes.
    pub huge_page_bytes: BTreeMap<String, u64>,
}

/// Life of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// Its shim and namespaces are there.
    Ready,
    /// Its shim is gone (killed, or the machine restarted): containers in it cannot be trusted.
    NotReady,
}

/// A sandbox as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Which one.
    pub id: SandboxId,
    /// What it was made from.
    pub spec: SandboxSpec,
    /// Alive or not.
    pub state: SandboxState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Path of the network namespace (to `setns` into), none for host-network pods.
    pub network_namespace: Option<PathBuf>,
}

/// How changes of mounts travel between host and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Neither way.
    #[default]
    Private,
    /// From the host into the container (`HostToContainer`).
    HostToContainer,
    /// Both ways (`Bidirectional`), privileged containers only.
    Bidirectional,
}

/// One bind mount, or a tmpfs where `host_path` is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: String,
    /// Source on the host; none makes a tmpfs.
    pub host_path: Option<PathBuf>,
    /// No writing through this mount.
    pub read_only: bool,
    /// No writing through mounts below it either.
    pub recursive_read_only: bool,
    /// Mount propagation.
    pub propagation: MountPropagation,
}

/// A device node made available in a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// Which system calls are filtered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// No filter.
    #[default]
    Unconfined,
    /// The runtime's own default profile.
    RuntimeDefault,
    /// A profile file in OCI JSON on this node.
    Localhost(PathBuf),
}

/// Identity and rights of a container's processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// Numeric user; none takes the image's.
    pub run_as_user: Option<i64>,
    /// Numeric group; none takes the image's (or 0 where a user is set).
    pub run_as_group: Option<i64>,
    /// Supplementary groups, beyond those the image's `/etc/group` gives the user (unless `strict_groups`).
    pub supplemental_groups: Vec<i64>,
    /// `supplementalGroupsPolicy: Strict`
    pub strict_groups: bool,
    /// Refuse to start as uid 0.
    pub run_as_non_root: bool,
    /// All capabilities, all devices, no masked paths.
    pub privileged: bool,
    /// Root file system mounted read-only.
    pub read_only_root_file_system: bool,
    /// Set no_new_privileges.
    pub no_new_privileges: bool,
    /// Capabilities added to the default set, without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default set, without `CAP_`; `ALL` for all.
    pub drop_capabilities: Vec<String>,
    /// System call filter.
    pub seccomp: SeccompProfile,
    /// `procMount: Unmasked`
    pub unmasked_proc: bool,
}

/// What a container is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The container's name in its pod.
    pub name: String,
    /// How often it was restarted: the log file is `LOG_DIRECTORY/NAME/ATTEMPT.log`.
    pub attempt: u32,
    /// The image it runs; must be present.
    pub image: ImageId,
    /// Replaces the image's entry point where not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments; the image's are also dropped where `command` is given.
    pub args: Vec<String>,
    /// Replaces the image's working directory.
    pub working_directory: Option<String>,
    /// Environment over the image's, in order, already expanded.
    pub environment: Vec<(String, String)>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Rights.
    pub security: SecurityContext,
    /// Cgroup limits.
    pub resources: ResourceLimits,
    /// Wanted `oom_score_adj`, clamped to what we may set.
    pub oom_score_adjust: i32,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attached client leaves.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Signal that asks it to stop (`SIGTERM` or the image's `StopSignal` where none).
    pub stop_signal: Option<String>,
    /// Joins the process namespace of this container of the same sandbox instead of having one of its own (for debugging).
    #[serde(default)]
    pub processes_of: Option<ContainerId>,
    /// Kept with the container and given back by `list_containers`; the node stores its own facts here (a hash of the
    /// pod's container spec, termination message path and policy).
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExit {
    /// Exit code; 128 + N for signal N. 137 with `unknown` when the shim was lost.
    pub code: i32,
    /// Signal that ended it, 0 for none.
    pub signal: i32,
    /// When.
    pub finished_at: Timestamp,
    /// The kernel's OOM killer struck in its cgroup.
    pub out_of_memory: bool,
    /// Code and time are not known (the shim was lost).
    pub unknown: bool,
    /// Why it never ran, where starting it failed after the fact.
    pub message: String,
}

/// Life of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not yet started.
    Created,
    /// Running since.
    Running {
        /// Start time.
        started_at: Timestamp,
        /// Process id of its first process in the host's process namespace.
        pid: i32,
    },
    /// Ended.
    Exited {
        /// Start time, none where it never ran.
        started_at: Option<Timestamp>,
        /// How it ended.
        exit: ContainerExit,
    },
}

/// A container as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Which one.
    pub id: ContainerId,
    /// Where.
    pub sandbox: SandboxId,
    /// What it was made from.
    pub spec: ContainerSpec,
    /// What it does now.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// File its output goes to.
    pub log_path: PathBuf,
    /// The user, group and groups its first process got.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// Something happened that the node wants to know at once. A hint to look, never the only copy of a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container ended.
    ContainerExited {
        /// UID of its pod.
        pod_uid: String,
        /// Which one.
        container: ContainerId,
    },
    /// A shim was lost.
    SandboxLost {
        /// UID of its pod.
        pod_uid: String,
        /// Which one.
        sandbox: SandboxId,
    },
    /// The runtime itself restarted or events were missed: look at everything.
    LookAgain,
}

/// An image on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// What it is.
    pub id: ImageId,
    /// Names with tags (`docker.io/library/nginx:1.25`).
    pub tags: Vec<String>,
    /// Names with digests (`docker.io/library/nginx@sha256:…`).
    pub digests: Vec<String>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// `USER` of its configuration, as written.
    pub user: String,
    /// Never collected.
    pub pinned: bool,
}

/// User name and password for a registry.
#[derive(Debug, Clone, Default)]
pub struct RegistryCredential {
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// What exec and attach give their caller: the process's streams and its end.
pub struct ExecSession {
    /// Writes to the process's standard input; dropping it closes the input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its standard output (and everything where there is a terminal).
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Changes the terminal's size: columns, rows.
    pub resize: Option<tokio::sync::mpsc::Sender<(u16, u16)>>,
    /// Resolves to the exit code when the process ended (for attach: when the container ended).
    pub exit: tokio::sync::oneshot::Receiver<Result<i32, RuntimeError>>,
}

/// What to run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
    /// Wanted streams.
    pub stdout: bool,
    /// Wanted streams.
    pub stderr: bool,
}

/// Output of a command that was run to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i32,
    /// Standard output and error, at most 64 KiB (probes and hooks need no more).
    pub output: Vec<u8>,
}

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// The image.
    pub id: ImageId,
    /// The number of the credential that was enough; nothing where it was had without any of them.
    pub credential: Option<usize>,
}

/// Usage of one container, from its cgroup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// CPU time used since its start, in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory that cannot be reclaimed easily, in bytes.
    pub memory_working_set_bytes: u64,
    /// All memory charged, in bytes.
    pub memory_usage_bytes: u64,
    /// Anonymous memory, in bytes.
    pub memory_rss_bytes: u64,
    /// Bytes of its writable layer.
    pub root_file_system_bytes: u64,
    /// Files and directories of its writable layer.
    pub root_file_system_files: u64,
    /// Number of processes.
    pub processes: u64,
    /// Bytes of it that are in swap, where the kernel counts them.
    pub swap_bytes: Option<u64>,
    /// Bytes of swap that it could still get, where that is limited.
    pub swap_available_bytes: Option<u64>,
}

/// Why the runtime could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox.
    #[error("sandbox {0:?} is not on this node")]
    NoSuchSandbox(SandboxId),
    /// No such container.
    #[error("container {0:?} is not on this node")]
    NoSuchContainer(ContainerId),
    /// No such image.
    #[error("image {0} is not on this node")]
    NoSuchImage(String),
    /// The name of an image cannot be read.
    #[error("couldn't parse image name \"{name}\": {reason}")]
    InvalidImageName {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image could not be fetched.
    #[error("failed to pull image \"{image}\": {reason}")]
    Pull {
        /// Which one.
        image: String,
        /// Cause in words.
        reason: String,
    },
    /// A container was asked for something that cannot be (upstream's `CreateContainerConfigError`).
    #[error("{0}")]
    InvalidSpec(String),
    /// Creating a container failed (upstream's `CreateContainerError`).
    #[error("failed to create container {name}: {reason}")]
    Create {
        /// The container's name.
        name: String,
        /// Cause in words.
        reason: String,
    },
    /// Starting a container failed (upstream's `RunContainerError`, exit code 128).
    #[error("failed to start container {name}: {reason}")]
    Start {
        /// The container's name.
        name: String,
        /// Cause in words.
        reason: String,
    },
    /// A command could not be run in a container; upstream reports exit code 126 or 127 for these.
    #[error("failed to exec in container: {reason}")]
    Exec {
        /// Cause in words.
        reason: String,
        /// 126 (cannot be executed) or 127 (not found) where that is known.
        exit_code: Option<i32>,
    },
    /// A command took too long.
    #[error("command timed out after {0:?}")]
    Timeout(Duration),
    /// The container is not running.
    #[error("container {0:?} is not running")]
    NotRunning(ContainerId),
    /// Anything else below the runtime.
    #[error("{doing}")]
    Io {
        /// What was being done, and to what.
        doing: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Internal(String),
}

/// The containers of one node. See the module's promises.
#[async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Name and version, for `Node.status.nodeInfo.containerRuntimeVersion` (`knarr://0.1.0`).
    fn version(&self) -> String;

    /// Names of the handlers that a RuntimeClass may ask for; all of them mean this runtime.
    fn handlers(&self) -> Vec<String>;

    /// Makes a sandbox: cgroup, namespaces, shim. The pod network is plugged in by the caller afterwards.
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus, RuntimeError>;
    /// Kills what runs in it and ends its shim and namespaces; exit records of its containers stay readable.
    async fn stop_sandbox(&self, sandbox: &SandboxId) -> Result<(), RuntimeError>;
    /// Changes the limits of a pod as a whole (in-place resize).
    async fn update_sandbox_resources(&self, sandbox: &SandboxId, limits: &ResourceLimits) -> Result<(), RuntimeError>;
    /// Removes it and its containers without a trace, logs excepted.
    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<(), RuntimeError>;
    /// All sandboxes.
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError>;

    /// Prepares a container (root file system, bundle) without running anything of it.
    async fn create_container(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError>;
    /// Runs a created container.
    async fn start_container(&self, container: &ContainerId) -> Result<(), RuntimeError>;
    /// Sends the stop signal, waits for at most `grace`, then kills. Returns when it has ended.
    async fn stop_container(&self, container: &ContainerId, grace: Duration) -> Result<(), RuntimeError>;
    /// Removes an ended container (kills a running one) and its writable layer; its logs stay.
    async fn remove_container(&self, container: &ContainerId) -> Result<(), RuntimeError>;
    /// One container.
    async fn container_status(&self, container: &ContainerId) -> Result<ContainerStatus, RuntimeError>;
    /// All containers, of one sandbox where given.
    async fn list_containers(&self, sandbox: Option<&SandboxId>) -> Result<Vec<ContainerStatus>, RuntimeError>;
    /// Changes limits of a running container (in-place resize).
    async fn update_resources(&self, container: &ContainerId, limits: &ResourceLimits) -> Result<(), RuntimeError>;
    /// What it uses now.
    async fn container_usage(&self, container: &ContainerId) -> Result<ContainerUsage, RuntimeError>;
    /// Starts a new log file after the old one was renamed away (log rotation).
    async fn reopen_log(&self, container: &ContainerId) -> Result<(), RuntimeError>;

    /// Runs a command in a container and gives its streams.
    async fn exec(&self, container: &ContainerId, request: &ExecRequest) -> Result<ExecSession, RuntimeError>;
    /// Runs a command to its end, for probes and hooks.
    async fn exec_sync(&self, container: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError>;
    /// Joins the streams of a running container's first process.
    async fn attach(&self, container: &ContainerId, request: &ExecRequest) -> Result<ExecSession, RuntimeError>;
    /// Connects to a TCP port inside a sandbox (its loopback address, as upstream's port-forward).
    async fn connect_port(&self, sandbox: &SandboxId, port: u16) -> Result<tokio::net::TcpStream, RuntimeError>;

    /// The image of that name, digest or id, where it is on this node.
    async fn image_status(&self, reference: &str) -> Result<Option<ImageStatus>, RuntimeError>;
    /// Fetches an image, or asks anew whether it may be had where it is there; credentials are tried in order, then none.
    async fn pull_image(&self, reference: &str, credentials: &[RegistryCredential]) -> Result<PulledImage, RuntimeError>;
    /// Brings in a `docker save` or OCI archive; gives the names it brought.
    async fn import_image(&self, archive: &std::path::Path) -> Result<Vec<String>, RuntimeError>;
    /// All images.
    async fn list_images(&self) -> Result<Vec<ImageStatus>, RuntimeError>;
    /// Shows the files of an image, which must be present, at a directory of the host, for reading only: for image volumes. Whoever
    /// asked takes it away by unmounting it. Where it is mounted already, nothing happens.
    async fn mount_image(&self, image: &ImageId, target: &std::path::Path) -> Result<(), RuntimeError>;
    /// Removes a name, and the image with its last one.
    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError>;

    /// Events from now on. The stream ends only with the runtime.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}
