//! Starting helpers, and what the kernel says when a process ends.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, WaitOptions, WaitStatus};
use shim::{HELPER_RESULT, HELPER_STDIN, Message};

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Exit code, 128 + N for signal N.
    pub code: i32,
    /// The signal that ended it, else 0.
    pub signal: i32,
    /// When, since 1970.
    pub at: Duration,
}

impl Ended {
    fn from_status(status: WaitStatus) -> Self {
        let signal = status.terminating_signal().unwrap_or(0);
        let code = status.exit_status().unwrap_or(128 + signal);
        Self { code, signal, at: crate::timestamp::now() }
    }
}

/// Reaps one ended child, none where there is none.
pub fn reap() -> Option<(i32, Ended)> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if status.exited() || status.signaled() => return Some((pid.as_raw_nonzero().get(), Ended::from_status(status))),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Sends a signal to a child that was not reaped yet, so that its pid cannot mean anybody else.
pub fn signal(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill touches no memory.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs the helper that a request describes. It finds the three streams at descriptors 3 to 5, and writes its result to 6.
pub fn start_helper(request: &Message, streams: [BorrowedFd<'_>; 3], result: BorrowedFd<'_>, diagnosis: &Path) -> io::Result<u32> {
    let mut arguments = request.all("argument");
    let program = arguments.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let variables = request.all("variable").filter_map(|variable| variable.split_once('='));
    let diagnosis = File::create(diagnosis)?;
    let mut command = Command::new(program);
    command
        .args(arguments.map(OsStr::new))
        .env_clear()
        .envs(variables)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(diagnosis.try_clone()?)
        .stderr(diagnosis);
    let sources = [streams[0].as_raw_fd(), streams[1].as_raw_fd(), streams[2].as_raw_fd(), result.as_raw_fd()];
    // SAFETY: dup2 and signal are async-signal-safe. All sources are above 9 (see `keep_low_descriptors`), so none is overwritten
    // by an earlier copy, and neither is the pipe over which the standard library reports a failed exec.
    unsafe {
        command.pre_exec(move || {
            for (source, target) in sources.into_iter().zip([HELPER_STDIN, HELPER_STDIN + 1, HELPER_STDIN + 2, HELPER_RESULT]) {
                if libc::dup2(source, target) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // What the shim ignores must not be ignored in containers.
            for signal in 1..=31 {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    // Children are reaped by `reap`, whoever they are.
    Ok(command.spawn()?.id())
}

/// Occupies the descriptors up to 9, so that whatever is opened later lies above those that helpers are given.
pub fn keep_low_descriptors() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut kept: Vec<OwnedFd> = Vec::new();
    loop {
        let copy = null.try_clone()?;
        if copy.as_raw_fd() > 9 {
            break;
        }
        kept.push(copy.into());
    }
    if null.as_raw_fd() <= 9 {
        std::mem::forget(null);
    }
    std::mem::forget(kept);
    Ok(())
}

/// Kills every process in a cgroup. Needed where a container has no process namespace of its own, whose end would do it.
pub fn kill_cgroup(directory: &Path) {
    // What is killed may have forked meanwhile, so this is repeated until nobody is left; a few rounds suffice, and the
    // agent removes the cgroup later in any case.
    for _ in 0..16 {
        let Ok(processes) = std::fs::read_to_string(directory.join("cgroup.procs")) else { return };
        let own = Pid::as_raw(Some(rustix::process::getpid()));
        let mut anyone = false;
        for pid in processes.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid != own) {
            anyone |= signal(pid, libc::SIGKILL).is_ok();
        }
        if !anyone {
            return;
        }
    }
}

/// How often the kernel's OOM killer struck in a cgroup: `oom_kill N` in `memory.oom_control` (v1) or `memory.events` (v2).
pub fn out_of_memory_kills(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).find_map(|count| count.trim().parse().ok()).unwrap_or(0)
}
