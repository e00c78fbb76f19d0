//! Starting a container: root, identity, configuration, and libcontainer's create and start in one go.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use container_runtime::{Mount, MountPropagation};
use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use rustix::pipe::PipeFlags;
use shim::Message;

use super::{
    config,
    diagnosis::Diagnosis,
    executor::{DirectExecutor, Rest},
    plan::StartPlan,
    pod_users::{PodUsers, give_pipes, name_of},
    root_file_system::{mount_root, wants_propagation},
    users,
};
use crate::inside::Root;

/// Where libcontainer keeps its state, in the bundle.
pub const STATE_DIRECTORY: &str = "state";

/// Starts the container that a plan describes; gives the message for the shim.
///
/// # Errors
/// A sentence that says why it does not run.
pub fn start(plan: &Path, streams: [OwnedFd; 3], diagnosis: &Diagnosis) -> Result<Message, String> {
    let text = std::fs::read(plan).map_err(|error| format!("could not read {}: {error}", plan.display()))?;
    let mut plan: StartPlan = serde_json::from_slice(&text).map_err(|error| format!("{} makes no sense: {error}", plan.display()))?;
    let pod_users = plan.users.map(PodUsers::ours).transpose().map_err(|error| format!("could not find the pod's user namespace: {error}"))?;
    plan.user_namespace = pod_users.as_ref().map(PodUsers::path);
    // The pod's root may not look into the directories of processes that are not the pod's, but use what is open already.
    let processes = pod_users.as_ref().and(plan.process_namespace.as_ref()).map(File::open).transpose().map_err(|error| format!("could not open the pod's process namespace: {error}"))?;
    if let Some(processes) = &processes {
        plan.process_namespace = Some(name_of(processes.as_fd()));
    }
    let place = mount_root(&mut plan, pod_users.as_ref()).map_err(|error| format!("could not make the root file system: {error}"))?;
    let root = Root::open(&place).map_err(|error| format!("could not open the root file system: {error}"))?;
    let identity = users::identity(&root, &plan.image.user, &plan.spec.security)?;
    match &pod_users {
        Some(users) => {
            users.give_streams(&identity, &streams)?;
            users.as_their_root(|| make_working_directory(&root, &plan).map_err(io::Error::other)).map_err(|error| error.to_string())?;
        }
        None => {
            give_pipes(&streams, identity.user, None).map_err(|error| format!("could not give the container its streams: {error}"))?;
            make_working_directory(&root, &plan)?;
        }
    }
    let owner = pod_users.as_ref().map_or(Some(identity.user), |users| users.on_the_node(identity.user));
    let volumes = match &pod_users {
        Some(users) => users.as_their_root(|| writable_volumes(&root, &plan).map_err(io::Error::other)).map_err(|error| error.to_string())?,
        None => writable_volumes(&root, &plan)?,
    };
    plan.spec.mounts.extend(volumes);
    if wants_propagation(&plan) {
        write_private(&plan.bundle.join("propagation.json"), &serde_json::to_vec(&(&place, &plan.spec.mounts)).unwrap_or_default())?;
    }
    let score = set_out_of_memory_score(plan.spec.oom_score_adjust);
    // Valid in the container's mount namespace too, and even when the file was replaced by an upgrade.
    let helper = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let mut config = config::build(&plan, &identity, &place, score, &helper)?;
    write_private(&plan.bundle.join("config.json"), &serde_json::to_vec(&config).unwrap_or_default())?;

    let (failures, failures_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("could not make a pipe: {error}"))?;
    let pid = run(&plan, streams, owner, &failures_end, diagnosis)?;
    drop(failures_end);
    if let Some(problem) = wait_for_program(failures) {
        return Err(format!("unable to start container process: {}", problem.1));
    }
    if pod_users.is_some() {
        // Commands that are run in it later read this too, and libcontainer insists that the root is there. Out here it is not.
        config["root"]["path"] = serde_json::json!(plan.bundle.join("empty"));
        write_private(&plan.bundle.join("config.json"), &serde_json::to_vec(&config).unwrap_or_default())?;
    }
    let groups: Vec<String> = identity.groups.iter().map(u32::to_string).collect();
    Ok(Message::new("started")
        .with_number("pid", i64::from(pid))
        .with_number("user", i64::from(identity.user))
        .with_number("group", i64::from(identity.group))
        .with("groups", groups.join(",")))
}

fn run(plan: &StartPlan, streams: [OwnedFd; 3], owner: Option<u32>, failures: &OwnedFd, diagnosis: &Diagnosis) -> Result<i32, String> {
    let explain = |error: libcontainer::error::LibcontainerError| diagnosis.explain(&error);
    let mut builder = ContainerBuilder::new(plan.id.clone(), SyscallType::default())
        .with_root_path(plan.bundle.join(STATE_DIRECTORY))
        .map_err(explain)?
        .with_executor(DirectExecutor::new(failures, Rest::default()));
    if plan.console.is_some() {
        builder = builder.with_console_socket(plan.console.clone());
    } else {
        let [stdin, stdout, stderr] = streams;
        builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
    }
    let mut container = builder.as_init(&plan.bundle).with_systemd(false).with_detach(true).build().map_err(explain)?;
    let pid = container.pid().map(|pid| pid.as_raw()).ok_or("libcontainer told no process id")?;
    // It has its terminal by now, and waits. As with pipes, only the owner may open it anew.
    let given = if plan.console.is_some() { std::os::unix::fs::chown(format!("/proc/{pid}/fd/0"), owner, None) } else { Ok(()) };
    let started = given.map_err(|error| format!("could not give the container its terminal: {error}")).and_then(|()| container.start().map_err(|error| diagnosis.explain(&error)));
    if let Err(problem) = started {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        return Err(problem);
    }
    Ok(pid)
}

/// Waits until the program runs (the pipe closes) or could not be run: its exit code as shells give it, and why.
pub fn wait_for_program(failures: OwnedFd) -> Option<(i32, String)> {
    let mut text = String::new();
    // An unreadable pipe tells nothing, which is what a program that runs tells.
    let _ = File::from(failures).read_to_string(&mut text);
    let (code, problem) = text.split_once(' ')?;
    Some((code.parse().unwrap_or(126), problem.to_owned()))
}

/// What an image calls its `VOLUME`s, where the root is read-only: they can be written to all the same, unless the pod mounts something
/// there. In a root that can be written to they are directories like any other. Source: containerd's CRI, which binds a directory of the
/// container's own to each.
fn writable_volumes(root: &Root, plan: &StartPlan) -> Result<Vec<Mount>, String> {
    if !plan.spec.security.read_only_root_file_system {
        return Ok(Vec::new());
    }
    let is_mounted = |place: &Path| plan.spec.mounts.iter().any(|mount| place.starts_with(&mount.container_path));
    let places = plan.image.volumes.keys().filter(|place| !is_mounted(Path::new(place)));
    let bind = |place: &String| {
        let directory = root.make_directories(Path::new(place), 0o755, None)?;
        // Where the image's links lead to, which is inside the root.
        let host_path = std::fs::read_link(crate::inside::path_of(directory.as_fd()))?;
        Ok(Mount { container_path: place.clone(), host_path: Some(host_path), read_only: false, recursive_read_only: false, propagation: MountPropagation::Private })
    };
    places.map(|place| bind(place).map_err(|error: io::Error| format!("could not make the image's volume {place}: {error}"))).collect()
}

/// Makes the working directory, in the root or in the volume that covers it. libcontainer would only fail without it.
fn make_working_directory(root: &Root, plan: &StartPlan) -> Result<(), String> {
    let directory = config::working_directory(plan);
    let path = Path::new(&directory);
    let covering = plan.spec.mounts.iter().filter(|mount| path.starts_with(&mount.container_path)).max_by_key(|mount| Path::new(&mount.container_path).components().count());
    let made = match covering {
        None => root.make_directories(path, 0o755, None).map(drop),
        Some(Mount { host_path: Some(host), container_path, read_only: false, .. }) if host.is_dir() => {
            let below = path.strip_prefix(container_path).unwrap_or(Path::new(""));
            Root::open(host).and_then(|volume| volume.make_directories(below, 0o755, None)).map(drop)
        }
        Some(_) => Ok(()),
    };
    made.map_err(|error| format!("could not make the working directory {directory}: {error}"))
}

/// Sets the score for ourselves, from whom the container inherits it, and gives what it is then: without CAP_SYS_RESOURCE
/// nobody gets below what he has.
pub fn set_out_of_memory_score(wanted: i32) -> Option<i32> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let current = || std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let wanted = wanted.clamp(-1000, 1000);
    match std::fs::write(FILE, wanted.to_string()) {
        Ok(()) => Some(wanted),
        Err(_) => current().map(|current| current.max(wanted)),
    }
}

/// Writes a file that only root may read: it holds the environment, and so secret values.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), String> {
    use std::io::Write;
    File::options().create(true).truncate(true).write(true).mode(0o600).open(path).and_then(|mut file| file.write_all(bytes)).map_err(|error| format!("could not write {}: {error}", path.display()))
}

/// Sets how far each mount reaches; runs as a hook in the container's mount namespace, before its root becomes the root.
/// libcontainer ignores what the mounts themselves ask for.
///
/// # Errors
/// A sentence, for the hook's standard error.
pub fn set_propagation(list: &Path) -> Result<(), String> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    let text = std::fs::read(list).map_err(|error| format!("could not read {}: {error}", list.display()))?;
    let (root, mounts): (PathBuf, Vec<Mount>) = serde_json::from_slice(&text).map_err(|error| format!("{} makes no sense: {error}", list.display()))?;
    let root = Root::open(&root).map_err(|error| format!("could not open the root: {error}"))?;
    for mount in mounts {
        let place = root
            .open_at(Path::new(&mount.container_path), rustix::fs::OFlags::PATH)
            .map_err(|error| format!("could not find the mount at {}: {error}", mount.container_path))?;
        let flags = match mount.propagation {
            MountPropagation::Private => MountPropagationFlags::PRIVATE,
            MountPropagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
            MountPropagation::Bidirectional => MountPropagationFlags::SHARED,
        };
        let path = crate::inside::path_of(std::os::fd::AsFd::as_fd(&place));
        mount_change(path.as_path(), flags | MountPropagationFlags::REC).map_err(|error| format!("could not set the propagation of {}: {error}", mount.container_path))?;
    }
    Ok(())
}
