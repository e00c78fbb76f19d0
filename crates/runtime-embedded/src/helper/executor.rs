//! The last steps before a container's own program runs, in place of libcontainer's (which resolve `PATH` too strictly,
//! let signal state leak in, run scripts without `#!` by a shell, and forget the system call filter of exec).

use std::{
    collections::HashMap,
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use libcontainer::{
    oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, Spec},
    syscall::syscall::create_syscall,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};

/// Runs a container's program. A failure is written to a pipe that closes when the program runs.
#[derive(Clone)]
pub struct DirectExecutor {
    /// The pipe's descriptor, which processes forked from the helper inherit.
    failures: i32,
    /// What is left to do for a command that is run in a container that runs.
    rest: Rest,
}

/// What libcontainer leaves out for commands that are run in a container that runs.
#[derive(Clone, Default)]
pub struct Rest {
    /// The pod's user namespace, which it does not join.
    pub users: Option<JoinedUsers>,
    /// Who gets the terminal, where that is neither root nor one of [`Self::users`].
    pub terminal: Option<u32>,
    /// The system call filter, which it only loads for a container's first process.
    pub filter: Option<LinuxSeccomp>,
    /// Capabilities to drop to afterwards, where this needs more than the process may keep.
    pub capabilities: Option<LinuxCapabilities>,
}

/// Who to become in a pod's user namespace.
#[derive(Clone)]
pub struct JoinedUsers {
    /// The namespace's descriptor, which processes forked from the helper inherit.
    pub namespace: i32,
    /// User, as the pod counts.
    pub user: u32,
    /// Primary group.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The pod's 0 on the node.
    pub first: u32,
}

impl JoinedUsers {
    /// Becomes that user, with all rights over what is the pod's and none over what is not.
    fn join(&self) -> Result<(), String> {
        let done = |doing: &str, result: libc::c_int| if result == 0 { Ok(()) } else { Err(format!("could not {doing}: {}", io::Error::last_os_error())) };
        // SAFETY: plain system calls of a process with one thread; the list of groups outlives its call.
        unsafe {
            // Whoever has rights in that namespace has some over us as soon as we are in it, but our memory is still the node's.
            done("hide from the pod", libc::prctl(libc::PR_SET_DUMPABLE, 0))?;
            // It is ours, and the pod has no number for us: so from in there it could not be given away.
            if libc::isatty(0) == 1 {
                done("give the user the terminal", libc::fchown(0, self.first + self.user, self.first + self.group))?;
            }
            done("join the pod's user namespace", libc::setns(self.namespace, libc::CLONE_NEWUSER))?;
            done("keep capabilities", libc::prctl(libc::PR_SET_KEEPCAPS, 1))?;
            done("become a member of the groups", libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
            done("become a member of the group", libc::setresgid(self.group, self.group, self.group))?;
            done("become the user", libc::setresuid(self.user, self.user, self.user))?;
        }
        // An ordinary user keeps them permitted only.
        let effective = rustix::thread::capabilities(None).and_then(|mut rights| {
            rights.effective = rights.permitted;
            rustix::thread::set_capabilities(None, rights)
        });
        effective.map_err(|error| format!("could not keep capabilities: {error}"))
    }
}

impl DirectExecutor {
    /// Reports failures to this pipe.
    #[must_use]
    pub fn new(failures: &OwnedFd, rest: Rest) -> Self {
        Self { failures: failures.as_raw_fd(), rest }
    }

    fn report(&self, problem: &str) {
        // SAFETY: the buffer is valid for its length; a wrong descriptor is an error, not undefined behaviour.
        unsafe { libc::write(self.failures, problem.as_ptr().cast(), problem.len()) };
    }

    /// Does what libcontainer left out. With no_new_privileges anybody may load a filter, and then it need not allow what becoming
    /// another user takes; without, only a process that still has its rights may.
    fn do_the_rest(&self, no_new_privileges: bool) -> Result<(), String> {
        let load_filter = || match &self.rest.filter {
            Some(filter) => libcontainer::seccomp::initialize_seccomp(filter).map(drop).map_err(|error| format!("could not load the system call filter: {error}")),
            None => Ok(()),
        };
        let drop_rights = || match &self.rest.capabilities {
            Some(capabilities) => {
                libcontainer::capabilities::drop_privileges(capabilities, create_syscall().as_ref()).map_err(|error| format!("could not drop capabilities: {error}"))
            }
            None => Ok(()),
        };
        if let Some(users) = &self.rest.users {
            users.join()?;
        }
        if let Some(owner) = self.rest.terminal {
            std::os::unix::fs::fchown(std::io::stdin(), Some(owner), None).map_err(|error| format!("could not give the user the terminal: {error}"))?;
        }
        if no_new_privileges {
            drop_rights()?;
            load_filter()
        } else {
            load_filter()?;
            drop_rights()
        }
    }

    fn run(&self, spec: &Spec) -> String {
        reset_signals();
        let no_new_privileges = spec.process().as_ref().is_some_and(|process| process.no_new_privileges() == Some(true));
        if let Err(problem) = self.do_the_rest(no_new_privileges) {
            return format!("126 {problem}");
        }
        let process = spec.process().as_ref();
        let Some(arguments) = process.and_then(|process| process.args().as_ref()).filter(|arguments| !arguments.is_empty()) else {
            return "126 no command specified".to_owned();
        };
        // libcontainer has put what the process gets into our own environment.
        let search = std::env::var_os("PATH").unwrap_or_default();
        let name = arguments.first().map(String::as_str).unwrap_or_default();
        let Ok(argument_pointers) = arguments.iter().map(|argument| CString::new(argument.as_bytes())).collect::<Result<Vec<_>, _>>() else {
            return format!("126 exec: \"{name}\": an argument holds a zero byte");
        };
        let mut refused = None;
        for candidate in candidates(name, &search) {
            let Ok(path) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
            let error = execute(&path, &argument_pointers);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) if candidate.is_file() => {
                    // The file is there, so it is its interpreter or loader that is not.
                    refused = Some((127, error));
                }
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                _ => refused = Some((126, error)),
            }
        }
        match refused {
            Some((code, error)) => format!("{code} exec: \"{name}\": {}", words(&error)),
            None if name.contains('/') => format!("127 exec: \"{name}\": stat {name}: no such file or directory"),
            None => format!("127 exec: \"{name}\": executable file not found in $PATH"),
        }
    }
}

impl Executor for DirectExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let problem = self.run(spec);
        self.report(&problem);
        Err(ExecutorError::Other(problem))
    }

    /// Nothing is checked beforehand: only the kernel knows what may be executed.
    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, variables: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        for (name, _) in std::env::vars_os() {
            // SAFETY: this process has one thread.
            unsafe { std::env::remove_var(name) };
        }
        for (name, value) in variables {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                continue;
            }
            // SAFETY: this process has one thread, and the name is one that the library accepts.
            unsafe { std::env::set_var(name, value) };
        }
        Ok(())
    }
}

/// Replaces this process; returns only where that fails.
fn execute(path: &CString, arguments: &[CString]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: path and arguments are zero-terminated and live until the call returns; execv, unlike execvp, does not hand
    // a file without an interpreter line to a shell.
    unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Default dispositions and an empty mask: what the shim or our caller ignored or blocked is none of the container's business.
fn reset_signals() {
    // The kernel's own structure, all zero: the default. The C library refuses to touch two signals that it keeps for
    // itself, and ignores them in what it spawns.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the structure is as long as the kernel's and outlives the call; default dispositions run no code of ours,
        // and signals that cannot be changed are refused.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8_usize) };
    }
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Where a program may be: at its path, or in a directory of the search path.
fn candidates(name: &str, search: &OsStr) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    if name.is_empty() {
        return Vec::new();
    }
    std::env::split_paths(search).map(|directory| if directory.as_os_str().is_empty() { Path::new(".").join(name) } else { directory.join(name) }).collect()
}

/// The kernel's reason in the words that upstream's runtimes use.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        Some(libc::EISDIR) => "is a directory".to_owned(),
        Some(libc::E2BIG) => "argument list too long".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_and_a_path_is_taken() {
        assert_eq!(candidates("/bin/sh", OsStr::new("/usr/bin")), [PathBuf::from("/bin/sh")]);
        assert_eq!(candidates("sh", OsStr::new("/usr/bin:/bin")), [PathBuf::from("/usr/bin/sh"), PathBuf::from("/bin/sh")]);
        assert!(candidates("", OsStr::new("/bin")).is_empty());
    }
}
