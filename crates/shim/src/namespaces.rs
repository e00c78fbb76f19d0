//! The pod's namespaces: made by the shim for itself, so that they live as long as it does and need no pause container.
//!
//! Helpers inherit them. Only a shared process namespace needs a process of its own, its pid 1.
//!
//! A pod with users of its own has its namespaces made by a child in the pod's user namespace, which thereby owns them; the
//! shim joins all but the user namespace, since it and its helpers need the rights of the host's root.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, waitpid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use shim::Message;

/// Makes the namespaces that the configuration asks for; gives the pid of the pod's pid 1 where there is one.
pub fn enter(configuration: &Message) -> Result<Option<u32>, String> {
    if let (Some(first), Some(count)) = (configuration.number("first_id"), configuration.number("id_count")) {
        return enter_with_users(configuration, first, count);
    }
    prepare(configuration)?;
    if configuration.flag("pid") { start_first_process().map(Some).map_err(|error| format!("could not make the pod's process namespace: {error}")) } else { Ok(None) }
}

/// The namespaces that the configuration asks for, apart from those of users and processes.
fn wanted(configuration: &Message) -> impl Iterator<Item = (&'static str, UnshareFlags)> + '_ {
    let all = [("network", "net", UnshareFlags::NEWNET), ("ipc", "ipc", UnshareFlags::NEWIPC), ("uts", "uts", UnshareFlags::NEWUTS)];
    all.into_iter().filter(|(name, _, _)| configuration.flag(name)).map(|(_, file, flag)| (file, flag))
}

/// Makes namespaces for the calling process and sets them up.
fn prepare(configuration: &Message) -> Result<(), String> {
    let flags = wanted(configuration).fold(UnshareFlags::empty(), |flags, (_, flag)| flags | flag);
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
    Ok(())
}

/// Has the pod's namespaces made in a user namespace of its own, where `count` numbers from 0 are those from `first` out here.
fn enter_with_users(configuration: &Message, first: i64, count: i64) -> Result<Option<u32>, String> {
    let failed = |doing: &'static str| move |error: io::Error| format!("could not {doing}: {error}");
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("could not make a pipe: {error}"));
    let ((words_in, words_out), (steps_in, steps_out)) = (pipe()?, pipe()?);
    // SAFETY: this process has one thread, so the child may do whatever we may; it ends by `_exit` and runs no destructors of ours.
    let child = match unsafe { libc::fork() } {
        ..=-1 => return Err(failed("make the pod's user namespace")(io::Error::last_os_error())),
        0 => {
            drop((words_in, steps_out));
            let mut words = File::from(words_out);
            let (mapped, mut steps) = (words.try_clone(), File::from(steps_in));
            let made = mapped.map_err(|error| error.to_string()).and_then(|mapped| make_inside(configuration, &mapped, &mut steps));
            let text = match made {
                Ok(pid) => format!("+{}", pid.unwrap_or(0)),
                Err(problem) => format!("-{problem}"),
            };
            // Whoever does not hear us is gone. The last step: the namespaces live until they were joined.
            let _ = words.write_all(text.as_bytes());
            drop(words);
            let _ = steps.read(&mut [0]);
            // SAFETY: ends the child without running anything.
            unsafe { libc::_exit(0) }
        }
        child => child,
    };
    drop((words_out, steps_in));
    let (mut words, mut steps) = (File::from(words_in), File::from(steps_out));
    let made = (|| {
        let mut text = String::new();
        let mut byte = [0];
        // It says "." once its user namespace is there, and a whole sentence in the end.
        if words.read(&mut byte).map_err(failed("hear of the pod's user namespace"))? == 1 && byte == *b"." {
            for file in ["gid_map", "uid_map"] {
                std::fs::write(format!("/proc/{child}/{file}"), format!("0 {first} {count}\n")).map_err(failed("map the pod's users"))?;
            }
            steps.write_all(b".").map_err(failed("go on in the pod's user namespace"))?;
        } else {
            text.push(char::from(byte[0]));
        }
        words.read_to_string(&mut text).map_err(failed("hear of the pod's namespaces"))?;
        let pid = text.strip_prefix('+').and_then(|pid| pid.parse().ok());
        let pid: u32 = pid.ok_or_else(|| text.strip_prefix('-').map_or_else(|| "the process that makes the pod's namespaces died".to_owned(), str::to_owned))?;
        for (name, _) in wanted(configuration) {
            let namespace = File::open(format!("/proc/{child}/ns/{name}")).map_err(failed("open the pod's namespaces"))?;
            move_into_link_name_space(namespace.as_fd(), None).map_err(|error| failed("join the pod's namespaces")(error.into()))?;
        }
        Ok(Some(pid).filter(|pid| *pid != 0))
    })();
    drop(steps);
    if let Some(child) = Pid::from_raw(child) {
        let _ = waitpid(Some(child), WaitOptions::empty());
    }
    made
}

/// What the child does in the pod's user namespace; gives the pod's pid 1, as the host counts, where there is one.
fn make_inside(configuration: &Message, mut words: &File, steps: &mut File) -> Result<Option<i32>, String> {
    let failed = |doing: &'static str| move |error: io::Error| format!("could not {doing}: {error}");
    // SAFETY: no file descriptor table is unshared, and this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(|error| failed("make the pod's user namespace")(error.into()))?;
    words.write_all(b".").map_err(failed("tell of the pod's user namespace"))?;
    steps.read_exact(&mut [0]).map_err(failed("wait for the pod's users"))?;
    // The kernel parameters of a namespace belong to its owner's root; and no process of the pod is to have a user of the host.
    // SAFETY: plain system calls of a process with one thread.
    let became = unsafe { libc::setgroups(0, std::ptr::null()) == 0 && libc::setresgid(0, 0, 0) == 0 && libc::setresuid(0, 0, 0) == 0 };
    if !became {
        return Err(failed("become the pod's root")(io::Error::last_os_error()));
    }
    prepare(configuration)?;
    if !configuration.flag("pid") {
        return Ok(None);
    }
    // SAFETY: as above; a new process namespace only concerns children.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }.map_err(|error| failed("make the pod's process namespace")(error.into()))?;
    // Its parent is to be the shim, so it is made as a sibling. It does not execute this program again, since the pod's root may
    // not be able to reach it.
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: without CLONE_VM this is fork, and this process has one thread.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        ..=-1 => Err(failed("start the pod's first process")(io::Error::last_os_error())),
        0 => be_first_process(),
        pid => Ok(i32::try_from(pid).ok()),
    }
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
///
/// The pod's containers see it, and one with CAP_SYS_PTRACE may look at what it has open and make it run what it likes. So it
/// keeps nothing of the node: no file, no rights, and no system calls but those for reading and writing.
pub fn be_first_process() -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // SAFETY: ignoring a signal runs no code of ours; children of a process that ignores SIGCHLD leave no zombies. The name is a
    // zero-terminated string, nothing that is open will be used again, and the pipe is ours.
    let waits_at = unsafe {
        libc::prctl(libc::PR_SET_NAME, c"pod-init".as_ptr());
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        let mut ends = [0; 2];
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 || leave_the_node().is_err() {
            // The shim sees it end, and the pod fails: better than one whose first process is a way out.
            libc::_exit(1);
        }
        // A kernel without this has no filters for the containers either.
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT);
        ends[0]
    };
    loop {
        // Nobody writes, and we hold the other end ourselves.
        // SAFETY: the byte outlives the call.
        unsafe { libc::read(waits_at, [0_u8].as_mut_ptr().cast(), 1) };
    }
}

/// Gives up the file system and all rights.
fn leave_the_node() -> rustix::io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    const EMPTY: &str = "/proc";
    // SAFETY: no file descriptor table is unshared, and this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("pod-init", EMPTY, "tmpfs", flags, Some(c"mode=0555,size=4k"))?;
    rustix::process::chdir(EMPTY)?;
    // The very first root of a machine cannot be put away, only hidden.
    if rustix::process::pivot_root(".", ".").is_ok() {
        unmount(".", UnmountFlags::DETACH)?;
    } else {
        rustix::process::chroot(".")?;
    }
    rustix::process::chdir("/")?;

    // Agents without that right look at us as our equals.
    let is_found_anyway = capabilities(None)?.effective.contains(CapabilitySet::SYS_PTRACE);
    // SAFETY: plain system calls that touch no memory. The first number that is no capability ends the loop.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let _ = (0..=63).find(|number: &libc::c_ulong| libc::prctl(libc::PR_CAPBSET_DROP, *number, 0, 0, 0) != 0);
    }
    let nothing = CapabilitySets { effective: CapabilitySet::empty(), permitted: CapabilitySet::empty(), inheritable: CapabilitySet::empty() };
    set_capabilities(None, nothing)?;
    if is_found_anyway {
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    }
    Ok(())
}
