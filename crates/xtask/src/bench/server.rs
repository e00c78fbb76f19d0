//! The server that is measured: what it uses, and what it leaves behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::shell::output;

/// The server being measured, ended with this value.
pub struct Server {
    pub process: Child,
    /// Its name as a cluster, which is in what it leaves behind.
    pub name: &'static str,
    pub kubectl: PathBuf,
    pub kubeconfig: PathBuf,
    pub run_directory: String,
    pub directory: tempfile::TempDir,
    /// How it is started again.
    pub command: Command,
}

/// Port of its API.
pub const PORT: &str = "16543";

/// A server's arguments that differ between what is measured.
pub struct Start<'a> {
    pub binary: &'a Path,
    pub kubectl: &'a Path,
    /// Its name as a cluster.
    pub name: &'static str,
    /// Further arguments.
    pub arguments: &'a [&'a str],
}

impl Server {
    /// Starts a server with an empty data directory, and says when that was; it need not be ready yet.
    pub fn start(start: &Start<'_>) -> Result<(Self, Instant)> {
        let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
        let run_directory = format!("/run/knarr-{}-{}", start.name, std::process::id());
        let log = fs::File::create(directory.path().join("log")).context("cannot write a log")?;
        let mut command = Command::new(start.binary);
        command.arg("server").arg("--data-dir").arg(directory.path().join("data")).args(["--run-dir", &run_directory, "--port", PORT]);
        command.args(["--cluster-name", start.name, "--node-name", "bench", "--cluster-cidr", "10.190.0.0/16", "--service-cidr", "10.191.0.0/16"]);
        command.args(start.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let started = Instant::now();
        let process = command.spawn().with_context(|| format!("cannot start {}", start.binary.display()))?;
        let kubeconfig = directory.path().join("data/admin.kubeconfig");
        let server = Self { process, name: start.name, kubectl: start.kubectl.to_owned(), kubeconfig, run_directory, directory, command };
        Ok((server, started))
    }

    /// Ends the process and starts it anew on what it stored; says when that was.
    pub fn restart(&mut self) -> Result<Instant> {
        self.stop();
        let started = Instant::now();
        self.process = self.command.spawn().context("cannot start the server again")?;
        Ok(started)
    }

    /// Waits until the API is ready.
    pub fn ready(&self) -> Result<()> {
        let probe = format!("https://127.0.0.1:{PORT}/readyz");
        let curl = || output(Command::new("curl").args(["--silent", "--insecure", "--fail", "--noproxy", "*", &probe]));
        eventually("the API is ready", || curl().is_ok())
    }
}

impl Server {
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        output(Command::new(&self.kubectl).args(words).env("KUBECONFIG", &self.kubeconfig).env("NO_PROXY", "*"))
    }

    /// The server and the shims it started, without what serves the measurement.
    pub fn processes(&self) -> Vec<u32> {
        let mark = self.run_directory.clone();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = entries.filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains(&mark).then_some(process)
        });
        ours.filter(|process| *process != std::process::id()).collect()
    }

    /// Memory of the server alone, without shims.
    pub fn own_memory_kibibytes(&self) -> u64 {
        memory_of(self.process.id())
    }

    /// Memory of the server alone that no file is behind.
    pub fn anonymous_kibibytes(&self) -> u64 {
        smaps(self.process.id(), "Anonymous:")
    }

    pub fn memory_kibibytes(&self) -> u64 {
        self.processes().into_iter().map(memory_of).sum()
    }

    /// Clock ticks used so far; a hundred a second.
    pub fn ticks(&self) -> u64 {
        let of = |process: &u32| {
            let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let fields: Vec<&str> = text.rsplit(") ").next()?.split(' ').collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        };
        self.processes().iter().filter_map(of).sum()
    }
}

/// A process's share of memory (PSS) in KiB.
fn memory_of(process: u32) -> u64 {
    smaps(process, "Pss:")
}

/// One of the sums over a process's memory, in KiB.
fn smaps(process: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().split(' ').next()?.parse().ok()).unwrap_or_default()
}

impl Server {
    /// Ends the process; what it stored stays.
    pub fn stop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        // A server that stops leaves what its pods need; here are none, so everything may go.
        for part in ["runtime", "node"] {
            let _ = Command::new("umount").args(["--lazy", &format!("{}/{}/{part}", self.run_directory, self.name)]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.run_directory);
        for table in ["pods", "services"].map(|what| format!("knarr-{}-bench-{what}", self.name)) {
            let _ = Command::new("nft").args(["delete", "table", "inet", &table]).stderr(Stdio::null()).status();
        }
        let _ = Command::new("ip").args(["route", "delete", "unreachable", "10.190.0.0/24"]).stderr(Stdio::null()).status();
        let _ = Command::new("ip").args(["route", "delete", "10.191.0.0/16", "dev", "lo"]).stderr(Stdio::null()).status();
        let _ = Command::new("ip").args(["address", "delete", "10.191.0.10/32", "dev", "lo"]).stderr(Stdio::null()).status();
        let name = self.name;
        let cgroups = format!("for group in /sys/fs/cgroup/*/knarr-{name} /sys/fs/cgroup/knarr-{name}; do [ -d $group ] && find $group -depth -type d -exec rmdir {{}} +; done");
        let _ = Command::new("sh").args(["-c", &cgroups]).stderr(Stdio::null()).status();
    }
}

/// Waits until something is so.
pub fn eventually(what: &str, mut look: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !look() {
        if started.elapsed() > Duration::from_secs(60) {
            bail!("{what}: not within a minute");
        }
        // Short, since this interval is the error of what is measured.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
