//! The pod's namespaces: made by the shim for itself, so that they live as long as it does and need no pause container.
//!
//! Helpers inherit them. Only a shared process namespace needs a process of its own, its pid 1.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use shim::Message;

/// Makes the namespaces that the configuration asks for; gives the pid of the pod's pid 1 where there is one.
pub fn enter(configuration: &Message) -> Result<Option<u32>, String> {
    let mut flags = UnshareFlags::empty();
    for (name, flag) in [("network", UnshareFlags::NEWNET), ("ipc", UnshareFlags::NEWIPC), ("uts", UnshareFlags::NEWUTS)] {
        if configuration.flag(name) {
            flags |= flag;
        }
    }
    if !flags.is_empty() {
        // SAFETY: no file descriptor table is unshared, and this process has one thread.
        unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|error| format!("could not make the pod's namespaces: {error}"))?;
    }
    if configuration.flag("uts")
        && let Some(name) = configuration.text("hostname")
    {
        rustix::system::sethostname(name.as_bytes()).map_err(|error| format!("could not set the host name {name}: {error}"))?;
    }
    if configuration.flag("network") {
        raise_loopback().map_err(|error| format!("could not raise the loopback interface: {error}"))?;
    }
    for parameter in configuration.all("sysctl") {
        set_kernel_parameter(parameter)?;
    }
    if configuration.flag("pid") { start_first_process().map(Some).map_err(|error| format!("could not make the pod's process namespace: {error}")) } else { Ok(None) }
}

/// Writes `name=value` below `/proc/sys`; dots and slashes both separate, as in sysctl(8).
fn set_kernel_parameter(parameter: &str) -> Result<(), String> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    // Whichever of the two comes first is the separator, and the other one stands for itself.
    let path = match name.find(['.', '/']).and_then(|place| name.as_bytes().get(place)) {
        Some(b'.') => name.chars().map(|character| match character {
            '.' => '/',
            '/' => '.',
            other => other,
        }).collect(),
        _ => name.to_owned(),
    };
    if path.split('/').any(|part| part == ".." || part.is_empty()) {
        return Err(format!("\"{name}\" is not the name of a kernel parameter"));
    }
    std::fs::write(format!("/proc/sys/{path}"), value).map_err(|error| format!("could not set the kernel parameter {name} to \"{value}\": {error}"))
}

fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is a valid value of that plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(1);
    // SAFETY: the socket is open and the request outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Starts this program again as pid 1 of a new process namespace, and stays outside of it.
fn start_first_process() -> io::Result<u32> {
    let own = std::fs::File::open("/proc/self/ns/pid")?;
    // SAFETY: as above; a new process namespace only concerns children.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }?;
    let child = Command::new("/proc/self/exe").arg0("pod-init").arg("first-process").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    // Children to come belong to our own process namespace again.
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    Ok(child?.id())
}

/// What pid 1 of a pod does: nothing. The kernel reaps for it, and it dies with the shim.
pub fn be_first_process() -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // SAFETY: ignoring a signal runs no code of ours; children of a process that ignores SIGCHLD leave no zombies.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    loop {
        // SAFETY: pause takes no arguments and touches no memory.
        unsafe { libc::pause() };
    }
}
