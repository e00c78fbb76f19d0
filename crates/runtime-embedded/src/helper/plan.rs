//! What the agent wants a helper to do, written to a file on tmpfs that only root can read: it holds secret values.

use std::path::PathBuf;

use container_runtime::{ContainerSpec, ExecRequest, HostNamespaces, IdRange};
use serde::{Deserialize, Serialize};

use crate::images::configuration::RunConfiguration;

/// Environment variable that tells a helper that it was started on purpose.
pub const HELPER_VARIABLE: &str = "KNARR_RUNTIME_HELPER";

/// A container to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartPlan {
    /// The container's identifier.
    pub id: String,
    /// What it is made from.
    pub spec: ContainerSpec,
    /// What its image says.
    pub image: RunConfiguration,
    /// Host name in its environment.
    pub hostname: String,
    /// Namespaces of its pod that are the host's.
    pub host: HostNamespaces,
    /// Users of its pod's own, in the user namespace that owns the network namespace which this helper lives in.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// A name of that user namespace, once the helper has one.
    #[serde(skip)]
    pub user_namespace: Option<PathBuf>,
    /// Process namespace to join, where its pod shares one.
    pub process_namespace: Option<PathBuf>,
    /// Directory that all layers are in.
    pub layers_directory: PathBuf,
    /// Its layers, relative to that, lowest first.
    pub layers: Vec<String>,
    /// Its writable layer.
    pub upper: PathBuf,
    /// The overlay's scratch directory.
    pub work: PathBuf,
    /// Its bundle: configuration, mount point, state. On tmpfs.
    pub bundle: PathBuf,
    /// The pod's `/dev/shm`.
    pub shared_memory: Option<PathBuf>,
    /// Its cgroup, from the root of the hierarchy.
    pub cgroup: String,
    /// Its groups in the hierarchies of version 1, with the names under which programs look for them; none on a machine
    /// that has version 2.
    pub cgroup_views: Option<Vec<(String, PathBuf)>>,
    /// Where a terminal is to be sent.
    pub console: Option<PathBuf>,
}

/// A command to run in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecPlan {
    /// The container's identifier.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Give it a terminal, and send it there.
    pub console: Option<PathBuf>,
}

impl ExecPlan {
    /// The plan for a request.
    #[must_use]
    pub fn new(id: &str, bundle: PathBuf, request: &ExecRequest, console: Option<PathBuf>) -> Self {
        Self { id: id.to_owned(), bundle, command: request.command.clone(), console }
    }
}
