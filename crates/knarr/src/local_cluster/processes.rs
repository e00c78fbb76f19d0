//! The processes of nodes, of which each has a keeper as its parent: known again by number and start time, so that a number that somebody else got meanwhile is left alone.

use std::{
    fs::{self, OpenOptions},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// A process that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub id: i32,
    /// When it started, in the kernel's ticks since the boot.
    pub started: u64,
}

/// The start time in a process's `stat`; the name before it may hold anything, so what counts is after the last bracket.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

impl Process {
    /// The process of this number, where there is one.
    pub fn of(id: u32) -> Option<Self> {
        let started = start_time(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?;
        Some(Self { id: i32::try_from(id).ok()?, started })
    }

    /// A descriptor of it, where it still runs.
    fn open(self) -> Option<OwnedFd> {
        let descriptor = pidfd_open(Pid::from_raw(self.id)?, PidfdFlags::empty()).ok()?;
        // Looked at after it is held: the number cannot change hands any more.
        (Self::of(u32::try_from(self.id).ok()?) == Some(self) && !ended(&descriptor, Duration::ZERO)).then_some(descriptor)
    }

    /// Whether it runs.
    pub fn is_running(self) -> bool {
        self.open().is_some()
    }

    /// Its first child: the node, where this is its keeper.
    pub fn child(self) -> Option<i32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.id)).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }
}

/// Asks processes to stop, all at once, and kills those that have not after a while.
pub fn stop(processes: impl IntoIterator<Item = Process>, patience: Duration) {
    let running: Vec<OwnedFd> = processes.into_iter().filter_map(Process::open).collect();
    for descriptor in &running {
        let _ = pidfd_send_signal(descriptor, Signal::TERM);
    }
    let until = Instant::now() + patience;
    for descriptor in &running {
        if !ended(descriptor, until.saturating_duration_since(Instant::now())) {
            let _ = pidfd_send_signal(descriptor, Signal::KILL);
            ended(descriptor, Duration::from_secs(5));
        }
    }
}

/// Processes that were told to run with a configuration in a directory: also those that an `up` had no time to write down, or that
/// have not joined their cgroup yet.
pub fn with_configuration_in(directory: &Path) -> Vec<Process> {
    let mark = format!("{}/", directory.display());
    let is_one = |id: u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.windows(2).any(|pair| matches!(pair, [b"--config" | b"--settings", value] if value.starts_with(mark.as_bytes())))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.filter(|id| is_one(*id)).filter_map(Process::of).collect()
}

/// Waits for the end of a process; a descriptor becomes readable then.
fn ended(descriptor: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).ok();
    poll(&mut [PollFd::new(descriptor, PollFlags::IN)], timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Starts the keeper of a node in the background. What the node logs goes to a file; that of the run before is kept beside it.
pub fn start(cluster: &str, node: &str, kind: &str, configuration: &Path, log: &Path, ranges: &[&str]) -> anyhow::Result<Child> {
    let _ = fs::rename(log, log.with_extension("log.1"));
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("knarr").args(["keep", "--cluster", cluster, "--node", node, kind, "--settings"]).arg(configuration).current_dir("/");
    for name in ["NO_PROXY", "no_proxy"] {
        // What is in the cluster is not behind the proxy that images are fetched through.
        let given = std::env::var(name).unwrap_or_default();
        let all: Vec<&str> = given.split(',').filter(|part| !part.is_empty()).chain(ranges.iter().copied()).collect();
        command.env(name, all.join(","));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().context("cannot start knarr again as a node")
}

/// The end of a log, to say why a node stopped.
pub fn end_of_log(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}

/// A cgroup's path below each hierarchy's root: everything of a cluster, or of one of its nodes, is in it.
pub fn cgroup(cluster: &str, node: Option<&str>) -> String {
    node.map_or_else(|| format!("knarr-{cluster}"), |node| format!("knarr-{cluster}/{node}"))
}

/// Moves this process, and what it starts from now on, out of the session it was started from and under its node.
pub fn join_cgroup(cluster: &str, node: &str) -> anyhow::Result<()> {
    let cgroups = runtime_embedded::Cgroups::detect()?;
    cgroups.adopt(&format!("{}/agent", cgroup(cluster, Some(node))), std::process::id()).context("cannot join the node's cgroup")
}

/// Ends every process of a cluster and removes its cgroups.
pub fn end_all(cluster: &str) -> anyhow::Result<()> {
    let cgroups = runtime_embedded::Cgroups::detect()?;
    let path = cgroup(cluster, None);
    cgroups.kill(&path);
    cgroups.remove_adopted(&path).with_context(|| format!("cannot remove the cgroup {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2 3";
        assert_eq!(start_time(stat), Some(4711));
    }

    #[test]
    fn a_process_is_known_by_its_start_as_well_as_its_number() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_running());
        assert!(!Process { started: process.started + 1, ..process }.is_running());
        stop([process], Duration::from_secs(5));
        assert!(!process.is_running());
        child.wait().unwrap();
    }
}
