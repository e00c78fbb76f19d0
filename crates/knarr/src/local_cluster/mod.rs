//! `knarr up`, `down` and `status`: a cluster of several nodes on this machine, in the background.
//!
//! Each node is a `knarr server` or `knarr agent` in a network and a mount namespace of its own, pinned under `/run/knarr/NAME`, with
//! a cgroup subtree of its own. One bridge joins the nodes to each other and to the host.
//!
//! - `settings.rs`: what outlives a reboot: ranges, token, how many nodes; beside the nodes' data
//! - `record.rs`: what this boot has made of it, on a tmpfs; `down` works from it alone
//! - `ranges.rs`: address ranges that nobody else on this machine uses
//! - `namespaces.rs`: making a node's namespaces, and entering them from the node's process
//! - `network.rs`: bridge, links, masquerading
//! - `keeper.rs`: the parent of a node's process, which starts it again when it dies
//! - `processes.rs`: starting keepers, finding them again, ending everything
//! - `kubeconfig.rs`: the cluster's context in the user's kubeconfig
//! - `up.rs`, `ready.rs`, `down.rs`, `status.rs`: the commands
//!
//! Everything that `up` does, it does only where it is not done yet: so it also repairs, adds nodes and starts again after a reboot.

mod arguments;
mod down;
mod keeper;
mod kubeconfig;
mod namespaces;
mod network;
mod processes;
mod ranges;
mod ready;
mod record;
mod settings;
mod status;
mod up;

use std::{
    fs::File,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::output::tell;

pub use arguments::{DownArgs, StatusArgs, UpArgs};
pub use down::run as down;
pub use keeper::run as keep;
pub use namespaces::{HostSide, enter};
pub use record::run_directories;
pub use status::run as status;
pub use up::run as up;

/// Below this, each running cluster has a tmpfs of its name.
const RUN: &str = "/run/knarr";

/// The record's directory of a cluster.
fn run_directory(cluster: &str) -> PathBuf {
    Path::new(RUN).join(cluster)
}

/// Where a node's namespaces are pinned and its files of this boot lie.
fn node_directory(cluster: &str, node: &str) -> PathBuf {
    run_directory(cluster).join(node)
}

/// Refuses names that cannot be part of a Node's name, a link's or a path's.
fn check_name(name: &str) -> anyhow::Result<()> {
    let good = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    if name.is_empty() || name.len() > 40 || !name.chars().all(good) || name.starts_with('-') || name.ends_with('-') {
        bail!("--name {name:?} cannot be a cluster's name: use at most 40 lower-case letters, digits and dashes, such as `local`");
    }
    Ok(())
}

fn require_root(what: &str) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("`knarr {what}` needs root, to make namespaces, mounts and routes: run it with sudo, or as root");
    }
    Ok(())
}

/// One `up` or `down` at a time, since they choose ranges and share kernel parameters. Held until dropped.
fn lock() -> anyhow::Result<File> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(RUN).with_context(|| format!("cannot make the directory {RUN}"))?;
    let path = Path::new(RUN).join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// A line of progress, with what it is about in the first column.
fn say(about: &str, what: &str) {
    tell!("{about:<12} {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_fit_elsewhere_are_refused() {
        for good in ["local", "a", "test-2"] {
            check_name(good).unwrap();
        }
        for bad in ["", "../etc", "Upper", "-a", "a-", "a b", "a.b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
