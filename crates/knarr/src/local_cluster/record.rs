//! What this boot has made of a cluster: everything that `down` has to undo, written before it is done.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use serde::{Deserialize, Serialize};

use super::{RUN, network, node_directory, processes::Process, run_directory};

/// The record of a running cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The cluster.
    pub name: String,
    /// Where its settings and data are.
    pub data: PathBuf,
    /// The bridge.
    pub bridge: String,
    /// The host's table of packet filter rules.
    pub table: String,
    /// The network namespace that all of this is in; another one's clusters are not neighbours.
    #[serde(default)]
    pub network: u64,
    /// Kernel parameters of the host, as they were before.
    #[serde(default)]
    pub kernel_parameters: BTreeMap<String, String>,
    /// Where its context was put.
    #[serde(default)]
    pub kubeconfig: Option<KubeconfigEntry>,
    /// Its nodes.
    #[serde(default)]
    pub nodes: Vec<NodeRecord>,
}

/// A node of a running cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its number, counted from 1.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: std::net::IpAddr,
    /// Its process, as it was started last.
    #[serde(default)]
    pub process: Option<Process>,
}

/// A context in a user's kubeconfig.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KubeconfigEntry {
    /// The file.
    pub path: PathBuf,
    /// The context that was the current one before.
    pub previous: Option<String>,
}

/// What identifies this process's network namespace.
fn own_network() -> anyhow::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net").context("cannot look at this process's network namespace")?.ino())
}

fn file(cluster: &str) -> PathBuf {
    run_directory(cluster).join("cluster.json")
}

impl Record {
    /// The record of a running cluster, none where it is not running.
    pub fn load(cluster: &str) -> anyhow::Result<Option<Self>> {
        let path = file(cluster);
        let Some(text) = pki::private_file::read(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Begins a record: a tmpfs that no other mount namespace gets to see unasked, which pinned namespaces need.
    pub fn begin(cluster: &str, data: &Path) -> anyhow::Result<Self> {
        let directory = run_directory(cluster);
        if fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} is in use by something that `knarr up` did not make, maybe a `knarr server`; choose another --name", directory.display());
        }
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let step = |error: Errno| anyhow::anyhow!("cannot mount a tmpfs on {}: {}", directory.display(), error.desc());
        mount(Some("knarr"), &directory, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700")).map_err(step)?;
        mount(None::<&str>, &directory, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).map_err(step)?;
        let record = Self {
            name: cluster.to_owned(),
            data: data.to_owned(),
            bridge: network::bridge_name(cluster),
            table: format!("knarr-{cluster}"),
            network: own_network()?,
            kernel_parameters: BTreeMap::new(),
            kubeconfig: None,
            nodes: Vec::new(),
        };
        record.save()?;
        Ok(record)
    }

    /// Writes it down.
    pub fn save(&self) -> anyhow::Result<()> {
        Ok(pki::private_file::write(&file(&self.name), &serde_json::to_vec_pretty(self)?)?)
    }

    /// Takes the record away, with everything that lies beside it.
    pub fn end(cluster: &str) -> anyhow::Result<()> {
        let directory = run_directory(cluster);
        loop {
            match umount2(&directory, MntFlags::MNT_DETACH) {
                // There may be one more below, from an `up` that was cut off.
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(error) => bail!("cannot unmount {}: {}", directory.display(), error.desc()),
            }
        }
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("cannot remove {}", directory.display())),
            _ => Ok(()),
        }
    }

    /// The node of this number.
    pub fn node(&mut self, number: u8) -> Option<&mut NodeRecord> {
        self.nodes.iter_mut().find(|node| node.number == number)
    }
}

/// The records of the other clusters in the same network.
pub fn neighbours(record: &Record) -> Vec<Record> {
    let others = running().into_iter().filter(|name| *name != record.name).filter_map(|name| Record::load(&name).ok().flatten());
    others.filter(|other| other.network == record.network).collect()
}

/// The names of all clusters that have a record.
pub fn running() -> Vec<String> {
    let entries = fs::read_dir(RUN).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| file(name).is_file()).collect();
    names.sort();
    names
}

/// The run directories of a running cluster's nodes, for whoever talks to their agents.
pub fn run_directories(cluster: &str) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let Some(record) = Record::load(cluster)? else {
        let others = running();
        let hint = if others.is_empty() { "none is; start one with `knarr up`".to_owned() } else { format!("these are: {}", others.join(", ")) };
        bail!("no cluster {cluster} is running here; {hint}")
    };
    Ok(record.nodes.iter().map(|node| (node.name.clone(), node_directory(cluster, &node.name).join(cluster))).collect())
}
