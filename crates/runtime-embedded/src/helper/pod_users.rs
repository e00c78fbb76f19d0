//! Pods with users of their own: how their containers come to a root and to volumes in which files keep their owners.
//!
//! What a container is given is mounted through its pod's user namespace ("idmapped", mount_setattr(2)): what the disk says
//! belongs to 0 belongs to the pod's 0, whatever number that is on the node. Libcontainer works as the pod's root from an early
//! moment on, who may not pass our directories; so everything waits for it in a small file system that this helper lays over a
//! directory which everybody may pass, in a mount namespace of its own.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use container_runtime::{IdRange, Mount, MountPropagation};
use rustix::{
    fs::CWD,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree},
};

use super::{plan::StartPlan, users::Identity};

/// Directories over which the waiting file system may be laid, in this helper's own mount namespace; the first that is there and
/// holds nothing that is still needed by its name.
const STAGES: [&str; 8] = ["/mnt", "/media", "/srv", "/opt", "/home", "/boot", "/usr/local", "/var/lib"];

/// Asks a namespace's file for the user namespace that owns it. Source: ioctl_ns(2).
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// A pod's user namespace, for mounting through it.
pub struct PodUsers {
    namespace: OwnedFd,
    range: IdRange,
}

impl PodUsers {
    /// Those of the pod whose network namespace we live in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ours(range: IdRange) -> io::Result<Self> {
        let network = File::open("/proc/self/ns/net")?;
        // SAFETY: the request takes no argument and gives a new descriptor.
        let descriptor = unsafe { libc::ioctl(network.as_raw_fd(), NS_GET_USERNS) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made it, for us alone.
        let namespace = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // Whoever was promised users of its own must never be run as the node's.
        let (theirs, ours) = (rustix::fs::fstat(&namespace)?, rustix::fs::stat("/proc/self/ns/user")?);
        if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
            return Err(io::Error::other("its network namespace belongs to the node's users"));
        }
        Ok(Self { namespace, range })
    }

    /// A name of the user namespace, for as long as this helper and its children live.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        name_of(self.namespace.as_fd())
    }

    /// The user namespace, for processes that this helper forks.
    #[must_use]
    pub fn descriptor(&self) -> i32 {
        self.namespace.as_raw_fd()
    }

    /// The pod's 0 on the node.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.range.first
    }

    /// Runs something with files made as the pod's root makes them, and otherwise with all of our rights: our own root has no
    /// number in what is mounted through the pod's users, so it could not make any.
    ///
    /// # Errors
    /// What `work` gives, and where the rights cannot be kept.
    pub fn as_their_root<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let rights = rustix::thread::capabilities(None)?;
        // SAFETY: plain system calls; this process has one thread.
        unsafe {
            libc::setfsgid(self.range.first);
            libc::setfsuid(self.range.first);
        }
        // Leaving 0 drops the rights over files.
        let result = rustix::thread::set_capabilities(None, rights).map_err(io::Error::from).and_then(|()| work());
        // SAFETY: as above.
        unsafe {
            libc::setfsuid(0);
            libc::setfsgid(0);
        }
        result
    }

    /// A detached copy of what is mounted at a path and below it, seen through the pod's users.
    ///
    /// # Errors
    /// A sentence; also where a file system cannot be mounted so.
    pub fn copy_of(&self, source: &Path, propagation: MountPropagation, read_only: bool) -> Result<OwnedFd, String> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, source, flags).map_err(|error| format!("could not open {}: {error}", source.display()))?;
        // Nothing that the pod mounts ever reaches the node: its mount namespace belongs to lesser users.
        let propagation = if propagation == MountPropagation::Private { libc::MS_PRIVATE } else { libc::MS_SLAVE };
        let everywhere = libc::AT_RECURSIVE;
        self.change(tree.as_fd(), everywhere, 0, propagation).map_err(|error| format!("could not detach {}: {error}", source.display()))?;
        let mapped = match self.change(tree.as_fd(), everywhere, libc::MOUNT_ATTR_IDMAP, 0) {
            // A file system below it may be one that knows no mapping, such as proc: then its files are nobody's in the pod.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.change(tree.as_fd(), 0, libc::MOUNT_ATTR_IDMAP, 0),
            other => other,
        };
        match mapped {
            // The layers of an image as a volume: everybody may read what is there for everybody.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && read_only && is_overlay(tree.as_fd()) => Ok(tree),
            Err(error) => Err(format!("{} cannot be mounted in a pod with users of its own (hostUsers: false): its file system does not map users: {error}", source.display())),
            Ok(()) => Ok(tree),
        }
    }

    fn change(&self, tree: BorrowedFd<'_>, flags: i32, set: u64, propagation: u64) -> io::Result<()> {
        let namespace = if set & libc::MOUNT_ATTR_IDMAP == 0 { 0 } else { u64::try_from(self.namespace.as_raw_fd()).unwrap_or(0) };
        let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: namespace };
        // SAFETY: the path is a zero-terminated string, and the structure is as long as is said.
        let changed = unsafe {
            libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH | flags, &raw const attributes, size_of::<libc::mount_attr>())
        };
        if changed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The user on the node that is this one in the pod.
    pub fn on_the_node(&self, number: u32) -> Option<u32> {
        self.range.first.checked_add(number).filter(|_| number < self.range.length)
    }

    /// Checks that the pod has such users, and gives its streams to them.
    ///
    /// # Errors
    /// A sentence.
    pub fn give_streams(&self, identity: &Identity, streams: &[OwnedFd; 3]) -> Result<(), String> {
        let number = |what: &str, number: u32| self.on_the_node(number).ok_or_else(|| format!("{what} {number} is not among the {} of the pod's user namespace", self.range.length));
        let (user, group) = (number("user", identity.user)?, number("group", identity.group)?);
        for extra in &identity.groups {
            number("group", *extra)?;
        }
        give_pipes(streams, user, Some(group)).map_err(|error| format!("could not give the container its streams: {error}"))
    }
}

/// Gives pipes to a user, and to a group where one is named; other things, such as `/dev/null`, are everybody's. A program may open its
/// standard output anew, by `/dev/stdout`, and only who owns a pipe may do that.
///
/// # Errors
/// What the kernel says.
pub fn give_pipes(streams: &[OwnedFd; 3], user: u32, group: Option<u32>) -> io::Result<()> {
    for stream in streams {
        if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(stream)?.st_mode) == rustix::fs::FileType::Fifo {
            rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(user)), group.map(rustix::fs::Gid::from_raw))?;
        }
    }
    Ok(())
}

/// A name of an open file, for this process and those that it forks.
pub fn name_of(descriptor: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn is_overlay(tree: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(tree).is_ok_and(|about| about.f_type == libc::OVERLAYFS_SUPER_MAGIC)
}

/// Where a container waits for its start.
pub struct Stage {
    /// Where its root is to be mounted.
    pub root: PathBuf,
    directory: PathBuf,
    layers: OwnedFd,
    writable: OwnedFd,
    volumes: Vec<(Option<usize>, OwnedFd)>,
}

impl Stage {
    /// Takes copies of everything that the container needs of the node's file systems; while mounts are shared with the node.
    ///
    /// # Errors
    /// A sentence.
    pub fn gather(users: &PodUsers, plan: &StartPlan) -> Result<Self, String> {
        let usable = |stage: &&str| !plan.bundle.starts_with(stage) && Path::new(stage).is_dir() && std::fs::canonicalize(stage).is_ok_and(|real| real == Path::new(stage));
        let directory = STAGES.iter().copied().find(usable).map(PathBuf::from).ok_or("no directory is there over which the root of a pod with users of its own could be laid")?;
        let writable = plan.upper.parent().ok_or("the writable layer lies nowhere")?;
        let mut volumes = Vec::new();
        for (index, Mount { host_path, propagation, read_only, .. }) in plan.spec.mounts.iter().enumerate() {
            if let Some(source) = host_path {
                volumes.push((Some(index), users.copy_of(source, *propagation, *read_only)?));
            }
        }
        if let Some(source) = &plan.shared_memory {
            volumes.push((None, users.copy_of(source, MountPropagation::Private, false)?));
        }
        Ok(Self {
            root: directory.join("root"),
            layers: users.copy_of(&plan.layers_directory, MountPropagation::Private, false)?,
            writable: users.copy_of(writable, MountPropagation::Private, false)?,
            directory,
            volumes,
        })
    }

    /// Lays the stage and puts everything on it; from here on the plan's sources are those on the stage. Only in a mount
    /// namespace that shows the node nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lay(&self, plan: &mut StartPlan) -> io::Result<()> {
        let (layers, writable) = (plan.bundle.join("layers"), plan.bundle.join("writable"));
        for (tree, place) in [(&self.layers, &layers), (&self.writable, &writable)] {
            std::fs::create_dir_all(place)?;
            attach(tree, place)?;
        }
        plan.layers_directory = layers;
        for part in [&mut plan.upper, &mut plan.work] {
            *part = writable.join(part.file_name().unwrap_or_default());
        }
        mount("stage", &self.directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0711,size=1m"))?;
        std::fs::create_dir(&self.root)?;
        for (number, (index, tree)) in self.volumes.iter().enumerate() {
            let place = self.directory.join(number.to_string());
            if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode) == rustix::fs::FileType::Directory {
                std::fs::create_dir(&place)?;
            } else {
                File::create(&place)?;
            }
            attach(tree, &place)?;
            match index.map(|index| plan.spec.mounts.get_mut(index)) {
                Some(Some(mount)) => mount.host_path = Some(place),
                Some(None) => {}
                None => plan.shared_memory = Some(place),
            }
        }
        Ok(())
    }
}

fn attach(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    Ok(move_mount(tree, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
