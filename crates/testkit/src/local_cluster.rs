//! A cluster of several nodes by `knarr up`, taken down when the test ends.

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::IpAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use crate::{kubectl::Kubectl, machine::Machine, real_cluster};

/// Numbers of this process's clusters.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// A cluster of `knarr up`; what kubectl does is in [`Kubectl`].
pub struct LocalCluster {
    binary: PathBuf,
    name: String,
    kubectl: Kubectl,
    _directory: tempfile::TempDir,
}

impl Deref for LocalCluster {
    type Target = Kubectl;
    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl LocalCluster {
    /// A cluster that is not there yet, on this machine or on a machine of its own.
    pub fn new(binary: &Path, machine: Option<&Machine>) -> Self {
        // Not as `RealCluster` names its own, whose end takes everything of that name with it.
        let name = format!("nodes-{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix("knarr-test-").tempdir().expect("a temporary directory");
        let place = directory.path().to_owned();
        let kubectl = Kubectl {
            prefix: machine.map(Machine::prefix).unwrap_or_default(),
            kubeconfig: place.join("kubeconfig"),
            directory: place.clone(),
            logs: (1..=3).map(|number| place.join(format!("data/{name}/{name}-{number}/node.log"))).collect(),
        };
        Self { binary: binary.to_owned(), name, kubectl, _directory: directory }
    }

    /// A cluster of so many nodes.
    ///
    /// # Panics
    /// Where it does not get ready.
    pub fn up(binary: &Path, nodes: u8, options: &[&str]) -> Self {
        let cluster = Self::new(binary, None);
        cluster.start(nodes, options);
        cluster
    }

    /// `knarr up`.
    ///
    /// # Panics
    /// Where it does not get ready.
    #[track_caller]
    pub fn start(&self, nodes: u8, options: &[&str]) -> String {
        let output = self.start_command(nodes, options).output().expect("knarr starts");
        assert!(output.status.success(), "knarr up failed: {}\n{}", String::from_utf8_lossy(&output.stderr), self.report());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The command of `knarr up`.
    pub fn start_command(&self, nodes: u8, options: &[&str]) -> Command {
        let mut command = self.command(["up", "--name", &self.name, "--nodes", &nodes.to_string()]);
        command.arg("--data-dir").arg(self.directory().join("data")).arg("--kubeconfig").arg(&self.kubeconfig).args(options);
        command
    }

    /// knarr, with words.
    pub fn command<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> Command {
        let mut all = self.kubectl.prefix.iter().map(OsString::as_os_str).chain([self.binary.as_os_str()]);
        let mut command = Command::new(all.next().unwrap_or(OsStr::new("knarr")));
        command.args(all).args(words).stdin(Stdio::null());
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        command
    }

    /// What knarr answers to words and this cluster's name.
    pub fn knarr<I: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = I>) -> Output {
        self.command(words).args(["--name", &self.name]).output().expect("knarr starts")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of a node, counted from 1.
    pub fn node(&self, number: u8) -> String {
        format!("{}-{number}", self.name)
    }

    /// Brings an image archive to all nodes.
    ///
    /// # Panics
    /// Where it is refused.
    #[track_caller]
    pub fn import(&self, archive: &Path) {
        let output = self.knarr([OsStr::new("image"), OsStr::new("import"), archive.as_os_str()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What `knarr status` says of the nodes.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn nodes(&self) -> Vec<Value> {
        let output = self.knarr(["status", "-o", "json"]);
        let clusters: Value = serde_json::from_slice(&output.stdout).expect("status is JSON");
        clusters.pointer("/0/nodes").and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// A node's address.
    ///
    /// # Panics
    /// Where there is no such node.
    pub fn address(&self, number: u8) -> IpAddr {
        let nodes = self.nodes();
        let node = nodes.iter().find(|node| node["name"] == *self.node(number)).expect("a node of the cluster");
        node["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    /// Kills the process of a node without a word; its pods must go on.
    ///
    /// # Panics
    /// Where there is no such node.
    pub fn kill_agent(&self, number: u8) {
        let nodes = self.nodes();
        let node = nodes.iter().find(|node| node["name"] == *self.node(number)).expect("a node of the cluster");
        let process = node["process"].as_i64().and_then(|id| i32::try_from(id).ok()).expect("a running node");
        real_cluster::end(&[process]);
    }

    /// Kills everything of a node at once, as when a machine loses its power.
    pub fn kill_node(&self, number: u8) {
        let mark = format!("/knarr-{}/{}/", self.name, self.node(number));
        loop {
            let processes = real_cluster::processes_of(std::slice::from_ref(&mark));
            if processes.is_empty() {
                return;
            }
            real_cluster::end(&processes);
        }
    }

    /// Kills everything of the cluster.
    pub fn kill_all(&self) {
        (1..=9).for_each(|number| self.kill_node(number));
    }

    /// `knarr down`, with the data.
    ///
    /// # Panics
    /// Where it fails.
    #[track_caller]
    pub fn down(&self) -> String {
        let output = self.knarr([OsStr::new("down"), OsStr::new("--purge"), OsStr::new("--data-dir"), self.directory().join("data").as_os_str()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        let output = self.knarr(["down"]);
        if !output.status.success() {
            eprintln!("knarr down failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let _ = fs::remove_file(&self.kubectl.kubeconfig);
    }
}
