//! Where the runtime keeps things, and how it runs its helper.

use std::path::PathBuf;

use container_runtime::ResourceLimits;

/// Settings of [`crate::EmbeddedRuntime`].
#[derive(Debug, Clone)]
pub struct Options {
    /// For all boots: images, layers, writable layers. On a file system that an overlay can write to (ext4, XFS, btrfs).
    pub data_directory: PathBuf,
    /// For this boot: sandboxes, bundles (which hold secret values), sockets. Becomes a tmpfs where it is not on one.
    pub run_directory: PathBuf,
    /// Cgroup below which all pods are, relative to the hierarchy's root: `knarr`, or `knarr-NAME/NODE`.
    pub cgroup_root: String,
    /// Limits of all pods together, where something is kept back for others.
    pub limits: ResourceLimits,
    /// How this program is run again as a helper.
    pub helper: Helper,
    /// Mirrors and credentials of registries; a missing file means none.
    pub registries_file: Option<PathBuf>,
    /// Largest uncompressed layer that is accepted, in bytes.
    pub layer_limit_bytes: u64,
}

/// A program whose `main` calls [`crate::run_helper_if_asked`] first.
#[derive(Debug, Clone)]
pub struct Helper {
    /// The executable. `/proc/self/exe` is this program, even after its file was replaced.
    pub program: PathBuf,
    /// Arguments before `runtime-helper`.
    pub arguments: Vec<String>,
}

impl Options {
    /// The usual settings for a node's two directories.
    #[must_use]
    pub fn new(data_directory: impl Into<PathBuf>, run_directory: impl Into<PathBuf>) -> Self {
        Self {
            data_directory: data_directory.into(),
            run_directory: run_directory.into(),
            cgroup_root: "knarr".to_owned(),
            limits: ResourceLimits::default(),
            helper: Helper { program: "/proc/self/exe".into(), arguments: Vec::new() },
            registries_file: None,
            layer_limit_bytes: 64 * 1024 * 1024 * 1024,
        }
    }
}
