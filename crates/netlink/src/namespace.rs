//! Network namespaces: opening, making and pinning them, and doing work inside one.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The file of the namespace could not be opened or made.
    #[error("could not {doing} network namespace {path}")]
    File {
        /// The step.
        doing: &'static str,
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to make or enter it.
    #[error("could not {doing} a network namespace: {}", errno.desc())]
    Kernel {
        /// The step.
        doing: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// An open network namespace.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl NetworkNamespace {
    /// Opens the namespace behind a file such as `/proc/PID/ns/net` or one that was pinned.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let file = File::open(path).map_err(|source| NamespaceError::File {
            doing: "open",
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self { file })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Makes a new, empty namespace and pins it at a path, where it lives until [`Self::remove_pin`].
    pub fn create_pinned(path: &Path) -> Result<Self, NamespaceError> {
        let failed = |doing| {
            move |source| NamespaceError::File { doing, path: path.display().to_string(), source }
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("make a directory for"))?;
        }
        File::create(path).map_err(failed("make a file for"))?;
        let made = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NamespaceError::Kernel { doing: "make", errno })?;
            mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|errno| failed("pin")(errno.into()))?;
            Self::current()
        });
        if made.is_err() {
            let _ = fs::remove_file(path);
        }
        made
    }

    /// Takes a pin away; the namespace ends when nothing else holds it. A pin that is gone is fine.
    pub fn remove_pin(path: &Path) -> Result<(), NamespaceError> {
        let failed = |source| NamespaceError::File { doing: "unpin", path: path.display().to_string(), source };
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// Moves the calling thread into the namespace for good. Only for threads that are thrown away afterwards.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        enter_namespace(self.file.as_fd())
    }

    /// Does work inside the namespace, on a thread of its own that is thrown away afterwards: sockets opened there and
    /// files under `/proc/sys/net` are those of the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }
}

/// Moves the calling thread into the network namespace behind a descriptor for good.
pub fn enter_namespace(namespace: BorrowedFd<'_>) -> Result<(), NamespaceError> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| NamespaceError::Kernel { doing: "enter", errno })
}

fn on_own_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NamespaceError> + Send,
) -> Result<T, NamespaceError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("namespace".to_owned())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, work)
            .map_err(|source| NamespaceError::File { doing: "start a thread for", path: String::new(), source })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
