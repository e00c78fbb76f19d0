//! Running one more command in a container that runs, with everything its first process has: identity, capabilities,
//! environment, and the system call filter, which libcontainer forgets for such commands.

use std::{
    os::{fd::OwnedFd, unix::fs::symlink},
    path::Path,
};

use container_runtime::IdRange;
use libcontainer::{
    container::builder::ContainerBuilder,
    oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, Spec},
    syscall::syscall::SyscallType,
};
use rustix::pipe::PipeFlags;
use shim::Message;

use super::{
    diagnosis::Diagnosis,
    executor::{DirectExecutor, JoinedUsers, Rest},
    plan::ExecPlan,
    pod_users::{PodUsers, give_pipes},
    start::{STATE_DIRECTORY, set_out_of_memory_score, wait_for_program},
};

/// Starts the command that a plan describes; gives the message for the shim.
///
/// # Errors
/// A sentence that says why it does not run.
pub fn exec(plan: &Path, streams: [OwnedFd; 3], diagnosis: &Diagnosis) -> Result<Message, String> {
    let plan_file = plan;
    let text = std::fs::read(plan).map_err(|error| format!("could not read {}: {error}", plan.display()))?;
    let plan: ExecPlan = serde_json::from_slice(&text).map_err(|error| format!("{} makes no sense: {error}", plan.display()))?;
    let spec = Spec::load(plan.bundle.join("config.json")).map_err(|error| format!("could not read the container's configuration: {error}"))?;
    let mut process = spec.process().clone().ok_or("the container's configuration names no process")?;
    process.set_args(Some(plan.command.clone())).set_terminal(Some(plan.console.is_some())).set_console_size(None);
    if let Some(score) = process.oom_score_adj() {
        process.set_oom_score_adj(set_out_of_memory_score(score));
    }
    // In a pod with users of its own, as for the container's first program.
    let mapping = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_ref()?.first().cloned());
    let pod_users = mapping.map(|mapping| PodUsers::ours(IdRange { first: mapping.host_id(), length: mapping.size() })).transpose();
    let pod_users = pod_users.map_err(|error| format!("could not find the pod's user namespace: {error}"))?;
    let users = pod_users.as_ref().map(|users| {
        // libcontainer would make it that user of the node: it stays the node's root until it has joined the pod's users.
        let identity = std::mem::take(process.user_mut());
        let groups = identity.additional_gids().clone().unwrap_or_default();
        JoinedUsers { namespace: users.descriptor(), user: identity.uid(), group: identity.gid(), groups, first: users.first() }
    });
    let (owner, group) = match &users {
        Some(users) => (users.first + users.user, Some(users.first + users.group)),
        None => (process.user().uid(), None),
    };
    give_pipes(&streams, owner, group).map_err(|error| format!("could not give the command its streams: {error}"))?;
    // Root has it already.
    let terminal = (plan.console.is_some() && users.is_none() && owner != 0).then_some(owner);
    let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    // Without no_new_privileges, loading a filter is privileged, but happens after capabilities were dropped.
    let needs_rights = users.is_some() || terminal.is_some() || (filter.is_some() && process.no_new_privileges() != Some(true));
    let rest = Rest { users, terminal, filter, capabilities: needs_rights.then(|| with_more_rights(&mut process)) };

    // A state directory of its own for each command: libcontainer leaves a socket in it each time, and they would pile up
    // under a probe. It goes away with the command's files.
    let directory = plan_file.with_extension("d");
    let state = directory.join(&plan.id);
    let result = (|| {
        std::fs::create_dir_all(&state).map_err(|error| format!("could not make {}: {error}", state.display()))?;
        let original = plan.bundle.join(STATE_DIRECTORY).join(&plan.id);
        for name in ["state.json", "youki_config.json"] {
            symlink(original.join(name), state.join(name)).map_err(|error| format!("could not prepare {}: {error}", state.display()))?;
        }
        let process_file = directory.join("process.json");
        let text = serde_json::to_vec(&process).map_err(|error| format!("could not describe the process: {error}"))?;
        std::fs::write(&process_file, text).map_err(|error| format!("could not write {}: {error}", process_file.display()))?;

        let (failures, failures_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("could not make a pipe: {error}"))?;
        let pid = run(&plan, &directory, &process_file, streams, DirectExecutor::new(&failures_end, rest), diagnosis);
        drop(failures_end);
        // The program's own problem says more than what libcontainer makes of it.
        if let Some((code, problem)) = wait_for_program(failures) {
            return Ok(Message::new("failed").with("error", problem).with_number("exit_code", i64::from(code)));
        }
        Ok(Message::new("started").with_number("pid", i64::from(pid?)))
    })();
    // Only leftovers; they go away with the container at the latest.
    let _ = std::fs::remove_dir_all(&directory);
    let _ = std::fs::remove_file(plan_file);
    result
}

fn run(plan: &ExecPlan, root: &Path, process: &Path, streams: [OwnedFd; 3], executor: DirectExecutor, diagnosis: &Diagnosis) -> Result<i32, String> {
    let explain = |error: libcontainer::error::LibcontainerError| diagnosis.explain(&error);
    let mut builder = ContainerBuilder::new(plan.id.clone(), SyscallType::default()).with_root_path(root).map_err(explain)?.with_executor(executor);
    if plan.console.is_some() {
        builder = builder.with_console_socket(plan.console.clone());
    } else {
        let [stdin, stdout, stderr] = streams;
        builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
    }
    let pid = builder.as_tenant().with_detach(true).with_process(Some(process)).build().map_err(explain)?;
    Ok(pid.as_raw())
}

/// Lets a process keep a few more capabilities until the executor has used them; gives the real set, to drop to afterwards.
fn with_more_rights(process: &mut Process) -> LinuxCapabilities {
    let real = process.capabilities().clone().unwrap_or_default();
    let mut wider = real.clone();
    let extended = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend([Capability::SysAdmin, Capability::Setpcap, Capability::Chown]);
        Some(set)
    };
    wider.set_bounding(extended(real.bounding())).set_effective(extended(real.effective())).set_permitted(extended(real.permitted()));
    process.set_capabilities(Some(wider));
    real
}
