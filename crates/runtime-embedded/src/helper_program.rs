//! The helper's executable, such that no container can write to it.
//!
//! A helper that enters a container runs this very program there. A container that gets it executed on its own behalf (by
//! a script whose interpreter is `/proc/self/exe`) holds our file, and could overwrite it once nobody runs it any more
//! (CVE-2019-5736). So helpers are executed by way of a read-only mount of that one file, which is attached nowhere and
//! lives as long as our descriptor of it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

/// `MOUNT_ATTR_RDONLY`
const READ_ONLY: u64 = 1;

/// A program that cannot be overwritten by whom it runs for.
pub struct HelperProgram {
    /// A path by which the shims can execute it, for as long as this value lives.
    pub path: PathBuf,
    _mount: Option<OwnedFd>,
}

impl HelperProgram {
    /// Protects a program. Where the kernel is too old for it (before 5.12), the program is used as it is.
    #[must_use]
    pub fn protect(program: &Path) -> Self {
        // A process that moved to another mount namespace finds its own file there only by name.
        let by_name = || std::fs::read_link(program).and_then(|path| read_only_mount(&path));
        match read_only_mount(program).or_else(|error| by_name().map_err(|_| error)) {
            Ok(mount) => Self { path: PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd())), _mount: Some(mount) },
            Err(error) => {
                tracing::warn!(program = %program.display(), %error, "the helper's program cannot be mounted read-only");
                // The shim executes it, so "this program" has to be told from its point of view.
                let path = if program == Path::new("/proc/self/exe") { PathBuf::from(format!("/proc/{}/exe", std::process::id())) } else { program.to_owned() };
                Self { path, _mount: None }
            }
        }
    }
}

fn read_only_mount(program: &Path) -> io::Result<OwnedFd> {
    let mount = open_tree(CWD, program, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    // Flags to set, flags to clear, propagation, user namespace.
    let attributes: [u64; 4] = [READ_ONLY, 0, 0, 0];
    // SAFETY: path and attributes outlive the call, and the attributes are as long as told.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, attributes.as_ptr(), size_of_val(&attributes)) };
    if result == 0 { Ok(mount) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn a_process_cannot_write_to_the_program_it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("busybox");
        std::fs::copy("/bin/busybox", &copy).unwrap();
        let program = HelperProgram::protect(&copy);
        let mut process = std::process::Command::new(&program.path).arg0("sleep").arg("100").spawn().unwrap();
        let held = std::fs::File::open(format!("/proc/{}/exe", process.id())).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(held.metadata().unwrap().len(), copy.metadata().unwrap().len());
        // While it runs it is busy anyway; what counts is afterwards.
        let refused = std::fs::File::options().write(true).open(crate::inside::path_of(std::os::fd::AsFd::as_fd(&held))).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    }
}
