//! The helper: this program executed again, for as long as it takes to start one container or one command in it.
//!
//! Only here is libcontainer called: it forks without exec, changes the working directory and the environment, and so
//! needs a process of one thread to itself. The shim starts us (so that the container's first process becomes its child),
//! with the container's streams at descriptors 3 to 5 and a pipe for our one result message at 6.

pub mod config;
pub mod diagnosis;
pub mod exec;
pub mod executor;
pub mod plan;
pub mod pod_users;
pub mod root_file_system;
pub mod start;
pub mod users;

use std::{
    fs::File,
    io::Write,
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
};

use rustix::io::FdFlags;
use shim::{HELPER_RESULT, HELPER_STDIN, Message};

/// First argument that makes the program a helper.
pub const HELPER_ARGUMENT: &str = "runtime-helper";

/// Becomes the helper and does not return, where the program was started as one. To be called first in `main`, before any
/// thread is started.
pub fn run_helper_if_asked() {
    let mut arguments = std::env::args_os().skip(1).skip_while(|argument| argument != HELPER_ARGUMENT);
    if arguments.next().is_some() && std::env::var_os(plan::HELPER_VARIABLE).is_some() {
        let verb = arguments.next().unwrap_or_default();
        let plan = arguments.next().unwrap_or_default();
        helper_main(&verb.to_string_lossy(), Path::new(&plan));
    }
}

/// Does what `verb` (`start` or `exec`) asks for, as written in the plan's file.
fn helper_main(verb: &str, plan: &Path) -> ! {
    if verb == "propagation" {
        // A hook: no shim, no descriptors, only an exit code.
        let outcome = start::set_propagation(plan);
        if let Err(problem) = &outcome {
            eprintln!("{problem}");
        }
        std::process::exit(i32::from(outcome.is_err()));
    }
    let take = |descriptor: i32| {
        // SAFETY: the shim gave us these descriptors, and nobody else in this fresh process owns them.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // Only the first three of what libcontainer hands on may reach the container.
        rustix::io::fcntl_setfd(&owned, FdFlags::CLOEXEC).map(|()| owned)
    };
    let streams = (|| Ok([take(HELPER_STDIN)?, take(HELPER_STDIN + 1)?, take(HELPER_STDIN + 2)?]))();
    let result = take(HELPER_RESULT);
    let (streams, result): ([OwnedFd; 3], OwnedFd) = match (streams, result) {
        (Ok(streams), Ok(result)) => (streams, result),
        (Err::<_, rustix::io::Errno>(error), _) | (_, Err(error)) => {
            eprintln!("the helper was not started by a shim: {error}");
            std::process::exit(64);
        }
    };
    let diagnosis = diagnosis::Diagnosis::start();
    let outcome = match verb {
        "start" => start::start(plan, streams, &diagnosis),
        "exec" => exec::exec(plan, streams, &diagnosis),
        other => Err(format!("the helper does not know \"{other}\"")),
    };
    let message = outcome.unwrap_or_else(|problem| Message::new("failed").with("error", problem));
    // Where the shim is gone, nobody is left to be told.
    let _ = File::from(result).write_all(&message.encode());
    std::process::exit(0);
}
