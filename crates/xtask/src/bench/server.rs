//! The server that is measured: what it uses, and what it leaves behind.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::shell::output;

/// The server being measured, ended with this value.
pub struct Server {
    pub process: Child,
    pub kubectl: PathBuf,
    pub kubeconfig: PathBuf,
    pub run_directory: String,
    pub _directory: tempfile::TempDir,
}

/// Port of its API.
pub const PORT: &str = "16543";

impl Server {
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        output(Command::new(&self.kubectl).args(words).env("KUBECONFIG", &self.kubeconfig).env("NO_PROXY", "*"))
    }

    /// The server and the shims it started, without what serves the measurement.
    fn processes(&self) -> Vec<u32> {
        let mark = self.run_directory.clone();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = entries.filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains(&mark).then_some(process)
        });
        ours.filter(|process| *process != std::process::id()).collect()
    }

    pub fn memory_kibibytes(&self) -> u64 {
        let of = |process: &u32| {
            let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().split(' ').next()?.parse::<u64>().ok())
        };
        self.processes().iter().filter_map(of).sum()
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
            let _ = Command::new("umount").args(["--lazy", &format!("{}/bench/{part}", self.run_directory)]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.run_directory);
        for table in ["knarr-bench-bench-pods", "knarr-bench-bench-services"] {
            let _ = Command::new("nft").args(["delete", "table", "inet", table]).stderr(Stdio::null()).status();
        }
        let _ = Command::new("ip").args(["route", "delete", "unreachable", "10.190.0.0/24"]).stderr(Stdio::null()).status();
        let cgroups = "for group in /sys/fs/cgroup/*/knarr-bench /sys/fs/cgroup/knarr-bench; do [ -d $group ] && find $group -depth -type d -exec rmdir {} +; done";
        let _ = Command::new("sh").args(["-c", cgroups]).stderr(Stdio::null()).status();
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
