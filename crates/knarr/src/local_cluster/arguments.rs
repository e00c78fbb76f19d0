//! What `knarr up`, `down` and `status` can be told.

use std::path::PathBuf;

use clap::Args;

/// What `knarr up` can be told.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// How many nodes; more than there are adds some [default: as many as before, at first one].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub nodes: Option<u8>,
    /// Name of the cluster.
    #[arg(long, default_value = "local", value_name = "NAME")]
    pub name: String,
    /// Directory for everything that must outlive a reboot; the cluster has a directory of its name below it.
    #[arg(long, default_value = "/var/lib/knarr/clusters", value_name = "DIRECTORY")]
    pub data_dir: PathBuf,
    /// The kubeconfig to put the cluster's context in [default: $KUBECONFIG or ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A registries.yaml with mirrors and credentials, for every node.
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// A further setting of the server, as its configuration file has it; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub server_option: Vec<String>,
}

/// What `knarr down` can be told.
#[derive(Debug, Clone, Args)]
pub struct DownArgs {
    /// Name of the cluster.
    #[arg(long, default_value = "local", value_name = "NAME")]
    pub name: String,
    /// Delete its data too: objects, images and volumes.
    #[arg(long)]
    pub purge: bool,
    /// Where its data are, if the cluster is not running.
    #[arg(long, default_value = "/var/lib/knarr/clusters", value_name = "DIRECTORY")]
    pub data_dir: PathBuf,
}

/// What `knarr status` can be told.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Only this cluster.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// `json` for scripts.
    #[arg(short, long)]
    pub output: Option<String>,
}
