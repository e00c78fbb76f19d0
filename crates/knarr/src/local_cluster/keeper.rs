//! The parent of a node's process, as a service manager would be: starts it again when it dies, and passes on the wish to stop.

use std::{
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, kill_process},
};

use super::processes;

/// Before a node that died is started again: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A node that ran this long was well: the next pause is the shortest again.
const WELL: Duration = Duration::from_secs(30);

/// What the keeper heard.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Child,
    Stop,
    Nothing,
}

struct Ears(SignalFd);

impl Ears {
    fn open() -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().for_each(|signal| signals.add(signal));
        // The node inherits this, and receives them again once it has entered its namespaces.
        signals.thread_block().context("cannot block signals")?;
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self).context("cannot receive signals")
    }

    fn wait(&self, patience: Option<Duration>) -> anyhow::Result<Heard> {
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let descriptor = self.0.as_fd();
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Heard::Nothing),
            other => other.context("cannot wait for signals")?,
        };
        let Some(signal) = self.0.read_signal().context("cannot read a signal")? else { return Ok(Heard::Nothing) };
        Ok(if signal.ssi_signo == Signal::SIGCHLD as u32 { Heard::Child } else { Heard::Stop })
    }
}

/// Keeps a node running until it is asked to stop. A node that cannot even start, the first time, is not tried again.
pub fn run(cluster: &str, node: &str, kind: &str, configuration: &Path) -> anyhow::Result<()> {
    // Signals of the terminal that `knarr up` runs on are not for its nodes. It fails for the leader of a session, who needs it not.
    let _ = rustix::process::setsid();
    processes::join_cgroup(cluster, node)?;
    let start = || {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("knarr").arg(kind).arg("--config").arg(configuration).stdin(Stdio::null());
        command.spawn().context("cannot start knarr again as a node")
    };
    let status = keep(&Ears::open()?, start)?;
    std::process::exit(status.code().unwrap_or(1))
}

fn keep(ears: &Ears, start: impl Fn() -> anyhow::Result<Child>) -> anyhow::Result<ExitStatus> {
    let (mut pause, mut first, mut stopping) = (PAUSES.0, true, false);
    loop {
        let started = Instant::now();
        let mut child = start()?;
        let status = loop {
            if ears.wait(None)? == Heard::Stop {
                stopping = true;
                if let Some(process) = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)) {
                    let _ = kill_process(process, rustix::process::Signal::TERM);
                }
            }
            // Signals of the same kind come together as one, so the child is looked at each time.
            if let Some(status) = child.try_wait().context("cannot wait for the node")? {
                break status;
            }
        };
        let well = started.elapsed() > WELL;
        if stopping || status.success() || (first && !well && status.code().is_some()) {
            return Ok(status);
        }
        first = false;
        if well {
            pause = PAUSES.0;
        }
        eprintln!("the node ended with {status}; starting it again in {} ms", pause.as_millis());
        let until = Instant::now() + pause;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if ears.wait(Some(left))? == Heard::Stop {
                return Ok(status);
            }
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}
