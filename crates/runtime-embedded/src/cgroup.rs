//! Cgroups of pods and containers, in hierarchies of version 1 (also hybrid) and version 2.
//!
//! We write limits, read usage and remove groups ourselves; the helper's library only puts processes into groups that
//! exist and sets the device rules. Paths are relative to the hierarchy's root, for example `knarr/burstable/podUID/ID`.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use container_runtime::{ContainerSpec, ContainerUsage, ResourceLimits};

use crate::device_filter;

/// The hierarchies of this machine.
#[derive(Debug, Clone)]
pub struct Cgroups {
    version: Version,
}

#[derive(Debug, Clone)]
enum Version {
    /// Where each controller is mounted. Named hierarchies are in here by their name.
    One(BTreeMap<String, PathBuf>),
    /// Where the one hierarchy is mounted.
    Two(PathBuf),
}

/// How long what is killed may take to die.
const PATIENCE: Duration = Duration::from_secs(4);

/// Controllers whose files we write; others are only joined.
const CONTROLLERS_OF_TWO: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"];

impl Cgroups {
    /// Finds out what this machine has.
    ///
    /// # Errors
    /// Where no usable hierarchy is mounted.
    pub fn detect() -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        Self::from_mounts(&mounts).ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no cgroup hierarchy with a memory controller is mounted; mount one at /sys/fs/cgroup"))
    }

    /// Reads the hierarchies out of the text of `/proc/self/mountinfo`.
    fn from_mounts(mountinfo: &str) -> Option<Self> {
        let mut one = BTreeMap::new();
        let mut two = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(place), mut kind) = (left.split(' ').nth(4), right.split(' ')) else { continue };
            match kind.next() {
                Some("cgroup2") => {
                    two.get_or_insert_with(|| PathBuf::from(place));
                }
                Some("cgroup") => {
                    for option in kind.nth(1).unwrap_or("").split(',').filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children")) {
                        one.entry(option.to_owned()).or_insert_with(|| PathBuf::from(place));
                    }
                }
                _ => {}
            }
        }
        // A hybrid machine has both; the controllers then are in the old hierarchies.
        let version = if one.contains_key("memory") { Version::One(one) } else { Version::Two(two?) };
        Some(Self { version })
    }

    /// The directories of a group, one in each hierarchy.
    fn directories(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match &self.version {
            Version::One(hierarchies) => {
                // Two controllers in one hierarchy share a directory.
                let mut directories: Vec<PathBuf> = hierarchies.iter().filter(|(name, _)| !name.starts_with("name=")).map(|(_, root)| root.join(path)).collect();
                directories.sort();
                directories.dedup();
                directories
            }
            Version::Two(root) => vec![root.join(path)],
        }
    }

    fn controller(&self, name: &str, path: &str) -> Option<PathBuf> {
        let path = path.trim_start_matches('/');
        match &self.version {
            Version::One(hierarchies) => hierarchies.get(name).map(|root| root.join(path)),
            Version::Two(root) => Some(root.join(path)),
        }
    }

    /// Makes a group, and what is missing above it, and sets its limits.
    ///
    /// # Errors
    /// What the kernel says, with the file that it said it about.
    pub fn create(&self, path: &str, limits: &ResourceLimits) -> io::Result<()> {
        match &self.version {
            Version::One(hierarchies) => {
                for directory in self.directories(path) {
                    std::fs::create_dir_all(&directory).map_err(|error| about(&directory, error))?;
                }
                if let Some(root) = hierarchies.get("cpuset") {
                    inherit_cpuset(root, path)?;
                }
            }
            Version::Two(root) => {
                let mut directory = root.clone();
                for name in path.split('/').filter(|name| !name.is_empty()) {
                    enable_controllers(&directory);
                    directory.push(name);
                    match std::fs::create_dir(&directory) {
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(about(&directory, error)),
                        _ => {}
                    }
                }
            }
        }
        self.apply(path, limits, false)
    }

    /// Sets the limits of a group. `lift` also writes those that are unlimited, to undo earlier ones.
    ///
    /// # Errors
    /// What the kernel says, with the file that it said it about.
    pub fn apply(&self, path: &str, limits: &ResourceLimits, lift: bool) -> io::Result<()> {
        match &self.version {
            Version::One(_) => self.apply_one(path, limits, lift),
            Version::Two(root) => apply_two(&root.join(path.trim_start_matches('/')), limits, lift),
        }
    }

    fn apply_one(&self, path: &str, limits: &ResourceLimits, lift: bool) -> io::Result<()> {
        let set = |controller: &str, file: &str, value: String| match self.controller(controller, path) {
            Some(directory) => write(&directory.join(file), &value),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, format!("the cgroup controller {controller} is not mounted"))),
        };
        if let Some(shares) = limits.cpu_shares {
            set("cpu", "cpu.shares", shares.clamp(2, 262_144).to_string())?;
        }
        let quota = limits.cpu_quota_microseconds.filter(|quota| *quota > 0);
        if quota.is_some() || lift {
            // A quota above the new period's share of the machine is refused, so the old one is lifted first.
            set("cpu", "cpu.cfs_quota_us", "-1".to_owned())?;
            set("cpu", "cpu.cfs_period_us", limits.cpu_period_microseconds.unwrap_or(100_000).to_string())?;
            set("cpu", "cpu.cfs_quota_us", quota.unwrap_or(-1).to_string())?;
        }
        let memory = limits.memory_bytes.filter(|bytes| *bytes > 0);
        if memory.is_some() || lift {
            let value = memory.unwrap_or(-1).to_string();
            // Memory may not exceed memory plus swap, so growing and shrinking need opposite orders.
            let swap = self.controller("memory", path).map(|directory| directory.join("memory.memsw.limit_in_bytes")).filter(|file| file.exists());
            let first = set("memory", "memory.limit_in_bytes", value.clone());
            if let Some(swap) = swap {
                write(&swap, &value)?;
            }
            if first.is_err() {
                set("memory", "memory.limit_in_bytes", value)?;
            }
        }
        if limits.pids.is_some() || lift {
            set("pids", "pids.max", limits.pids.map_or_else(|| "max".to_owned(), |count| count.to_string()))?;
        }
        for (size, bytes) in &limits.huge_page_bytes {
            set("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), bytes.to_string())?;
        }
        Ok(())
    }

    /// The file that counts OOM kills in a group.
    #[must_use]
    pub fn out_of_memory_file(&self, path: &str) -> Option<PathBuf> {
        let file = match &self.version {
            Version::One(_) => "memory.oom_control",
            Version::Two(_) => "memory.events",
        };
        self.controller("memory", path).map(|directory| directory.join(file))
    }

    /// A directory whose `cgroup.procs` lists the processes of a group.
    #[must_use]
    pub fn processes_directory(&self, path: &str) -> Option<PathBuf> {
        ["pids", "memory", "freezer"].iter().find_map(|controller| self.controller(controller, path))
    }

    /// Has the OOM killer end all of a container where it would end one of its processes, as kubelets do on version 2.
    /// Source: Kubernetes 1.28, `singleProcessOOMKill` and its default.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn die_together(&self, path: &str) -> io::Result<()> {
        let Version::Two(root) = &self.version else { return Ok(()) };
        let file = root.join(path.trim_start_matches('/')).join("memory.oom.group");
        if file.exists() { write(&file, "1") } else { Ok(()) }
    }

    /// Restricts which devices a group's processes may use; on version 1 the helper does that.
    ///
    /// # Errors
    /// A sentence, where a device cannot be used or the kernel takes no filter.
    pub fn restrict_devices(&self, path: &str, spec: &ContainerSpec) -> io::Result<()> {
        let Version::Two(root) = &self.version else { return Ok(()) };
        if spec.security.privileged {
            return Ok(());
        }
        let mut rules = Vec::new();
        for device in &spec.devices {
            let metadata = std::fs::metadata(&device.host_path).map_err(|error| about(&device.host_path, error))?;
            let is_block = std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type());
            let number = metadata.rdev();
            rules.push(device_filter::Rule::device(is_block, rustix::fs::major(number), rustix::fs::minor(number), &device.permissions));
        }
        let directory = root.join(path.trim_start_matches('/'));
        device_filter::attach(&directory, &rules).map_err(|error| io::Error::new(error.kind(), format!("could not restrict its devices: {error}")))
    }

    /// The directories of a group that its own programs may want to read, by the names they look for: how much memory and
    /// processor they have. None on version 2, where there is one directory for all.
    #[must_use]
    pub fn views(&self, path: &str) -> Option<Vec<(String, PathBuf)>> {
        let Version::One(_) = &self.version else { return None };
        let names = ["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio"];
        Some(names.iter().filter_map(|name| self.controller(name, path).map(|directory| ((*name).to_owned(), directory))).collect())
    }

    /// What a group uses now.
    ///
    /// # Errors
    /// Where the group is gone.
    pub fn usage(&self, path: &str) -> io::Result<ContainerUsage> {
        let read = |controller: &str, file: &str| match self.controller(controller, path) {
            Some(directory) => std::fs::read_to_string(directory.join(file)),
            None => Ok(String::new()),
        };
        let number = |text: String| text.trim().parse::<u64>().unwrap_or(0);
        let one = matches!(self.version, Version::One(_));
        let statistics = read("memory", "memory.stat")?;
        let memory = |name: &str| field(&statistics, name);
        let usage = number(read("memory", if one { "memory.usage_in_bytes" } else { "memory.current" })?);
        let cpu_nanoseconds =
            if one { number(read("cpuacct", "cpuacct.usage")?) } else { field(&read("cpu", "cpu.stat")?, "usage_usec").saturating_mul(1000) };
        // A kernel without swap has no files about it.
        let about_swap = |file: &str| read("memory", file).ok()?.trim().parse::<u64>().ok();
        let swap_bytes = if one { statistics.contains("total_swap ").then(|| memory("total_swap")) } else { about_swap("memory.swap.current") };
        // "max" is no number, and no limit.
        let most_swap = if one { None } else { about_swap("memory.swap.max") };
        Ok(ContainerUsage {
            swap_bytes,
            swap_available_bytes: most_swap.map(|most| most.saturating_sub(swap_bytes.unwrap_or(0))),
            cpu_nanoseconds,
            memory_working_set_bytes: usage.saturating_sub(memory(if one { "total_inactive_file" } else { "inactive_file" })),
            memory_usage_bytes: usage,
            memory_rss_bytes: memory(if one { "total_rss" } else { "anon" }),
            root_file_system_bytes: 0,
            root_file_system_files: 0,
            processes: number(read("pids", "pids.current")?),
        })
    }

    /// All processes in a group and below it.
    #[must_use]
    pub fn processes(&self, path: &str) -> Vec<i32> {
        let mut found = Vec::new();
        for directory in self.directories(path) {
            collect_processes(&directory, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Kills all processes in a group and below it, and waits until they are gone, for at most a few seconds.
    pub fn kill(&self, path: &str) {
        if let Version::Two(root) = &self.version
            && kill_at_once(&root.join(path.trim_start_matches('/')), PATIENCE).is_ok()
        {
            return;
        }
        // There is no event for an empty group of version 1, and processes need a moment to die: hence the short waits. What is
        // killed may fork before it dies, so everybody is looked for again each time.
        for round in 0..200_u64 {
            let processes = self.processes(path);
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(round.min(20)));
        }
    }

    /// Removes a group and all below it, after killing what is in it.
    ///
    /// # Errors
    /// Where a process in it cannot die.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let mut result = Ok(());
        for attempt in 0..2 {
            result = Ok(());
            for directory in self.directories(path) {
                if let Err(error) = remove_tree(&directory) {
                    result = Err(about(&directory, error));
                }
            }
            if result.is_ok() || attempt == 1 {
                break;
            }
            self.kill(path);
        }
        result
    }

    /// Puts a process into a group of every hierarchy, the service manager's own included: a shim must not be killed
    /// together with the agent's service.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopt(&self, path: &str, pid: u32) -> io::Result<()> {
        let named = match &self.version {
            Version::One(hierarchies) => hierarchies.iter().filter(|(name, _)| name.starts_with("name=")).map(|(_, root)| root.join(path)).collect(),
            Version::Two(_) => Vec::new(),
        };
        for directory in self.directories(path).into_iter().chain(named) {
            std::fs::create_dir_all(&directory).map_err(|error| about(&directory, error))?;
            if let Version::One(hierarchies) = &self.version
                && let Some(root) = hierarchies.get("cpuset")
                && directory.starts_with(root)
            {
                inherit_cpuset(root, path)?;
            }
            write(&directory.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Removes a group also from the hierarchies of [`Self::adopt`].
    ///
    /// # Errors
    /// Where something is left in it.
    pub fn remove_adopted(&self, path: &str) -> io::Result<()> {
        if let Version::One(hierarchies) = &self.version {
            for (_, root) in hierarchies.iter().filter(|(name, _)| name.starts_with("name=")) {
                remove_tree(&root.join(path))?;
            }
        }
        self.remove(path)
    }
}

/// Has the kernel kill everything in a group of version 2 and below it, what forks meanwhile included, and waits until it says that nothing
/// is left.
///
/// # Errors
/// The kernel cannot, as before Linux 5.14, or something does not die within `patience`.
fn kill_at_once(directory: &Path, patience: Duration) -> io::Result<()> {
    let file = directory.join("cgroup.kill");
    match std::fs::OpenOptions::new().write(true).open(&file) {
        Ok(mut kill) => io::Write::write_all(&mut kill, b"1").map_err(|error| about(&file, error))?,
        // A group that is gone has nobody in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => return Ok(()),
        Err(error) => return Err(about(&file, error)),
    }
    let path = directory.join("cgroup.events");
    let events = std::fs::File::open(&path).map_err(|error| about(&path, error))?;
    let end = std::time::Instant::now() + patience;
    loop {
        // Read anew each time: that also arms the next wait.
        let mut text = [0; 256];
        let length = std::os::unix::fs::FileExt::read_at(&events, &mut text, 0)?;
        let is_empty = text.get(..length).is_some_and(|text| String::from_utf8_lossy(text).lines().any(|line| line == "populated 0"));
        if is_empty {
            return Ok(());
        }
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = rustix::event::Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(1), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [rustix::event::PollFd::new(&events, rustix::event::PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn apply_two(directory: &Path, limits: &ResourceLimits, lift: bool) -> io::Result<()> {
    let set = |file: &str, value: String| write(&directory.join(file), &value);
    if let Some(shares) = limits.cpu_shares {
        // 2..=262144 onto 1..=10000. Source: KEP 2254, "Convert from cgroup v1 to v2".
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        set("cpu.weight", weight.to_string())?;
    }
    let quota = limits.cpu_quota_microseconds.filter(|quota| *quota > 0);
    if quota.is_some() || lift {
        let period = limits.cpu_period_microseconds.unwrap_or(100_000);
        set("cpu.max", format!("{} {period}", quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string())))?;
    }
    let memory = limits.memory_bytes.filter(|bytes| *bytes > 0);
    if memory.is_some() || lift {
        set("memory.max", memory.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string()))?;
        if directory.join("memory.swap.max").exists() {
            set("memory.swap.max", if memory.is_some() { "0".to_owned() } else { "max".to_owned() })?;
        }
    }
    if limits.pids.is_some() || lift {
        set("pids.max", limits.pids.map_or_else(|| "max".to_owned(), |count| count.to_string()))?;
    }
    for (size, bytes) in &limits.huge_page_bytes {
        set(&format!("hugetlb.{size}.max"), bytes.to_string())?;
    }
    Ok(())
}

/// Hands controllers down to the groups below. Each for itself: one that cannot be handed down must not stop the others.
fn enable_controllers(directory: &Path) {
    let available = std::fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    for controller in CONTROLLERS_OF_TWO.iter().filter(|controller| available.split_whitespace().any(|name| name == **controller)) {
        if let Err(error) = std::fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(path = %directory.display(), controller, %error, "could not hand a cgroup controller down");
        }
    }
}

/// A new group of the `cpuset` hierarchy has no processors and takes no process until it is given some.
fn inherit_cpuset(root: &Path, path: &str) -> io::Result<()> {
    let mut directory = root.to_owned();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let child = directory.join(name);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if std::fs::read_to_string(child.join(file)).map_err(|error| about(&child, error))?.trim().is_empty() {
                write(&child.join(file), std::fs::read_to_string(directory.join(file))?.trim())?;
            }
        }
        directory = child;
    }
    Ok(())
}

fn collect_processes(directory: &Path, found: &mut Vec<i32>) {
    let listed = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), found);
        }
    }
}

/// Removes a group and those below it. Their files need no removing, and cannot be removed.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    std::fs::write(file, value).map_err(|error| io::Error::new(error.kind(), format!("could not write \"{value}\" to {}: {error}", file.display())))
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The number behind a name in a file of `name number` lines.
fn field(text: &str, name: &str) -> u64 {
    text.lines().filter_map(|line| line.split_once(' ')).find(|(field, _)| *field == name).and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
";

    fn limits() -> ResourceLimits {
        ResourceLimits {
            cpu_shares: Some(1024),
            cpu_quota_microseconds: Some(50_000),
            cpu_period_microseconds: None,
            memory_bytes: Some(64 << 20),
            memory_request_bytes: None,
            pids: Some(100),
            huge_page_bytes: BTreeMap::new(),
        }
    }

    /// The files of a group that limits processes, memory and processor time, as a kernel shows them (Documentation/admin-guide/cgroup-v2.rst
    /// has them all), with neighbours whose names are like those that we look for.
    const GROUP: [(&str, &str); 17] = [
        ("cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n"),
        ("cgroup.subtree_control", ""),
        ("cgroup.procs", "41\n42\n"),
        ("cgroup.events", "populated 1\nfrozen 0\n"),
        ("cpu.max", "max 100000\n"),
        ("cpu.weight", "100\n"),
        ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnice_usec 0\nnr_periods 7\nnr_throttled 1\nthrottled_usec 90\nnr_bursts 0\nburst_usec 0\n"),
        ("memory.max", "max\n"),
        ("memory.swap.max", "max\n"),
        ("memory.swap.current", "700\n"),
        ("memory.oom.group", "0\n"),
        ("memory.current", "10000\n"),
        ("memory.peak", "20000\n"),
        (
            "memory.stat",
            "anon 3000\nfile 6000\nkernel 800\nkernel_stack 16\npagetables 40\nsec_pagetables 0\npercpu 0\nsock 0\nvmalloc 0\nshmem 0\nzswap 0\nzswapped 0\nfile_mapped 2000\nfile_dirty 0\n\
             file_writeback 0\nswapcached 0\nanon_thp 1\nfile_thp 2\nshmem_thp 0\ninactive_anon 5\nactive_anon 2995\ninactive_file 4000\nactive_file 2000\nunevictable 0\nslab_reclaimable 300\n",
        ),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n"),
        ("pids.current", "2\n"),
        ("pids.max", "max\n"),
    ];

    fn record_group(directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        for (file, text) in GROUP {
            std::fs::write(directory.join(file), text).unwrap();
        }
    }

    /// A machine of version 2 with a pod that has two containers.
    fn recorded_tree() -> (tempfile::TempDir, Cgroups) {
        let directory = tempfile::tempdir().unwrap();
        for group in ["", "knarr", "knarr/pod", "knarr/pod/one", "knarr/pod/two"] {
            record_group(&directory.path().join(group));
        }
        let cgroups = Cgroups { version: Version::Two(directory.path().to_owned()) };
        (directory, cgroups)
    }

    #[test]
    fn a_hybrid_machine_uses_the_old_controllers() {
        let cgroups = Cgroups::from_mounts(HYBRID).unwrap();
        assert_eq!(cgroups.directories("knarr/a"), [PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/knarr/a"), PathBuf::from("/sys/fs/cgroup/memory/knarr/a")]);
        assert_eq!(cgroups.out_of_memory_file("knarr/a").unwrap(), Path::new("/sys/fs/cgroup/memory/knarr/a/memory.oom_control"));
    }

    #[test]
    fn a_machine_without_old_hierarchies_is_version_two() {
        let cgroups = Cgroups::from_mounts("31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw").unwrap();
        assert_eq!(cgroups.directories("/knarr"), [PathBuf::from("/sys/fs/cgroup/knarr")]);
        assert!(Cgroups::from_mounts("30 25 0:26 / / rw - ext4 /dev/vda rw").is_none());
    }

    #[test]
    fn limits_are_written_as_version_two_wants_them() {
        let directory = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { version: Version::Two(directory.path().to_owned()) };
        record_group(directory.path());
        record_group(&directory.path().join("knarr/pod"));
        cgroups.create("knarr/pod", &limits()).unwrap();
        let read = |file: &str| std::fs::read_to_string(directory.path().join("knarr/pod").join(file)).unwrap();
        assert_eq!(read("cpu.weight"), "39");
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("memory.max"), (64 << 20).to_string());
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("pids.max"), "100");
        assert_eq!(std::fs::read_to_string(directory.path().join("cgroup.subtree_control")).unwrap(), "+hugetlb");
        cgroups.apply("knarr/pod", &ResourceLimits::default(), true).unwrap();
        assert_eq!((read("memory.max").as_str(), read("cpu.max").as_str(), read("pids.max").as_str()), ("max", "max 100000", "max"));
    }

    #[test]
    fn usage_is_read_as_version_two_tells_it() {
        let directory = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { version: Version::Two(directory.path().to_owned()) };
        record_group(&directory.path().join("knarr/pod"));
        let usage = cgroups.usage("knarr/pod").unwrap();
        assert_eq!(usage.cpu_nanoseconds, 1_500_000);
        assert_eq!((usage.memory_usage_bytes, usage.memory_working_set_bytes, usage.memory_rss_bytes), (10_000, 6_000, 3_000));
        assert_eq!((usage.processes, usage.swap_bytes, usage.swap_available_bytes), (2, Some(700), None));
        std::fs::write(directory.path().join("knarr/pod/memory.swap.max"), "1000\n").unwrap();
        assert_eq!(cgroups.usage("knarr/pod").unwrap().swap_available_bytes, Some(300));
        assert_eq!(cgroups.processes("knarr"), [41, 42]);
        assert!(cgroups.out_of_memory_file("knarr/pod").unwrap().ends_with("knarr/pod/memory.events"));
    }

    #[test]
    fn a_new_group_of_version_two_gets_the_controllers_of_all_above_it_and_touches_nobody_elses_files() {
        let (directory, cgroups) = recorded_tree();
        let path = |file: &str| directory.path().join(file);
        cgroups.create("/knarr/pod/new", &ResourceLimits::default()).unwrap();
        // A file keeps the last of what was written to it, a kernel all.
        for group in ["", "knarr", "knarr/pod"] {
            assert_eq!(std::fs::read_to_string(path(group).join("cgroup.subtree_control")).unwrap(), "+hugetlb", "{group}");
        }
        assert_eq!(std::fs::read_dir(path("knarr/pod/new")).unwrap().count(), 0, "a group without limits has none written");
        cgroups.apply("knarr/pod/one", &limits(), false).unwrap();
        cgroups.die_together("knarr/pod/one").unwrap();
        assert_eq!(std::fs::read_to_string(path("knarr/pod/one/memory.oom.group")).unwrap(), "1");
        for (file, text) in GROUP {
            assert_eq!(std::fs::read_to_string(path("knarr/pod/two").join(file)).unwrap(), text, "{file}");
        }
        cgroups.die_together("knarr/pod/new").unwrap();
        assert!(!path("knarr/pod/new/memory.oom.group").exists(), "kernels before 4.19 do not have it");
    }

    #[test]
    fn without_swap_accounting_nothing_is_written_about_swap() {
        let (directory, cgroups) = recorded_tree();
        std::fs::remove_file(directory.path().join("knarr/pod/one/memory.swap.max")).unwrap();
        cgroups.apply("knarr/pod/one", &limits(), false).unwrap();
        assert!(!directory.path().join("knarr/pod/one/memory.swap.max").exists());
        assert_eq!(std::fs::read_to_string(directory.path().join("knarr/pod/one/memory.max")).unwrap(), (64 << 20).to_string());
    }

    #[test]
    fn huge_pages_are_limited_by_size_on_version_two() {
        let (directory, cgroups) = recorded_tree();
        let limits = ResourceLimits { huge_page_bytes: BTreeMap::from([("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)]), ..ResourceLimits::default() };
        cgroups.apply("knarr/pod/one", &limits, false).unwrap();
        let read = |size: &str| std::fs::read_to_string(directory.path().join(format!("knarr/pod/one/hugetlb.{size}.max"))).unwrap();
        assert_eq!((read("2MB"), read("1GB")), ("4194304".to_owned(), "0".to_owned()));
    }

    #[test]
    fn a_group_that_is_gone_has_no_usage_no_processes_and_is_removed_already() {
        let (_directory, cgroups) = recorded_tree();
        assert_eq!(cgroups.usage("knarr/pod/none").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(cgroups.processes("knarr/pod/none").is_empty());
        cgroups.remove("knarr/pod/none").unwrap();
        let error = cgroups.apply("knarr/pod/none", &limits(), false).unwrap_err();
        assert!(error.kind() == io::ErrorKind::NotFound && error.to_string().contains("knarr/pod/none/cpu.weight"), "{error}");
    }

    #[test]
    fn a_file_that_says_something_else_counts_as_nothing() {
        let (directory, cgroups) = recorded_tree();
        for file in ["memory.stat", "memory.current", "memory.swap.current", "cpu.stat", "pids.current"] {
            std::fs::write(directory.path().join("knarr/pod/one").join(file), "max\n\u{fffd} x\ninactive_file\nusage_usec -3\nanon 99999999999999999999999\n").unwrap();
        }
        let usage = cgroups.usage("knarr/pod/one").unwrap();
        assert_eq!(usage, ContainerUsage::default());
    }

    #[test]
    fn every_weight_of_version_one_has_one_of_version_two() {
        let directory = tempfile::tempdir().unwrap();
        for (shares, weight) in [(0, "1"), (2, "1"), (262_144, "10000"), (u64::MAX, "10000")] {
            apply_two(directory.path(), &ResourceLimits { cpu_shares: Some(shares), ..ResourceLimits::default() }, false).unwrap();
            assert_eq!(std::fs::read_to_string(directory.path().join("cpu.weight")).unwrap(), weight, "{shares}");
        }
    }
}
