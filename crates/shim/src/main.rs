//! The process that owns one pod's containers: stdio, logs and exit codes. A small static program, embedded in knarr.
//!
//! The agent starts it in the sandbox's directory with a configuration on standard input; it answers with one message
//! on standard output and from then on serves its socket (`serve.rs`), whoever the agent is and however often it dies.
//! It has one thread and few pages, because there is one of it per pod.

mod clients;
mod container;
mod log_file;
mod namespaces;
mod process;
mod serve;
mod timestamp;

use std::{
    io::{Read, Write},
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
    process::ExitCode,
};

use shim::{Message, PROTOCOL_VERSION, SOCKET_NAME, terminals};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("first-process") {
        namespaces::be_first_process();
    }
    let ready = prepare();
    let answer = match &ready {
        Ok((_, first_process)) => {
            let pid = i64::from(rustix::process::getpid().as_raw_nonzero().get());
            let answer = Message::new("ready").with_number("version", PROTOCOL_VERSION).with_number("pid", pid);
            match first_process {
                Some(first) => answer.with_number("first_process", i64::from(*first)),
                None => answer,
            }
        }
        Err(problem) => Message::new("failed").with("error", problem),
    };
    // An agent that is gone already will find us by our socket.
    drop(std::io::stdout().write_all(&answer.encode()));
    drop(std::io::stdout().flush());
    let Ok((shim, _)) = ready else { return ExitCode::FAILURE };
    forget_the_caller();
    shim.run();
    ExitCode::SUCCESS
}

fn prepare() -> Result<(serve::Shim, Option<i32>), String> {
    // SAFETY: close_range touches no memory; nothing above standard error was opened by us yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    process::keep_low_descriptors().map_err(|error| format!("could not open /dev/null: {error}"))?;
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(|error| format!("could not read the configuration: {error}"))?;
    let configuration = Message::take_from(&mut bytes).ok().flatten().ok_or("the configuration is not a message")?;

    // Fails where we lead a session already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| format!("could not become a subreaper: {error}"))?;
    let signals = watch_children().map_err(|error| format!("could not watch for ended children: {error}"))?;
    let first_process = namespaces::enter(&configuration)?.and_then(|pid| i32::try_from(pid).ok());
    let listener = terminals::listen(Path::new(SOCKET_NAME), terminals::MANY_AGENTS).map_err(|error| format!("could not listen on {SOCKET_NAME}: {error}"))?;
    let shim = serve::Shim::new(listener, signals, first_process).map_err(|error| format!("could not set up the event loop: {error}"))?;
    Ok((shim, first_process))
}

/// Blocks SIGCHLD and gives a descriptor to read it from; the polite signals are ignored, since only `end` ends a shim.
fn watch_children() -> std::io::Result<OwnedFd> {
    // SAFETY: the signal set is initialised by sigemptyset before use, and ignoring a signal runs no code of ours.
    // Children get default dispositions and an empty mask from the standard library and from the helper.
    unsafe {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE, libc::SIGTTOU, libc::SIGTTIN] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let descriptor = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Lets go of the agent's streams, so that it sees our answer end.
fn forget_the_caller() {
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        for target in 0..3 {
            // SAFETY: dup2 touches no memory; the standard streams are ours to replace.
            unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), target) };
        }
    }
}
