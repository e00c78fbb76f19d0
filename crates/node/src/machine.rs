//! What the machine has: CPUs, memory, disk, and how it names itself.

use std::{collections::BTreeMap, fs, path::Path};

use crate::quantity::Amount;

/// Facts of the machine, read once at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Number of CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of the file system under the data directory.
    pub storage_bytes: u64,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// `/etc/machine-id`
    pub machine_id: String,
    /// `/sys/class/dmi/id/product_uuid`
    pub system_uuid: String,
    /// `uname -r`
    pub kernel: String,
    /// `PRETTY_NAME` of `/etc/os-release`
    pub os_image: String,
}

/// Amounts that pods share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// CPUs.
    pub cpu: Amount,
    /// Bytes of memory.
    pub memory: Amount,
    /// Bytes on disk.
    pub ephemeral_storage: Amount,
}

impl Machine {
    /// Reads the machine's facts; what cannot be read is zero or empty.
    #[must_use]
    pub fn read(data_directory: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let memory_kibibytes = text("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        let os_release = text("/etc/os-release");
        let machine_id = Some(text("/etc/machine-id")).filter(|id| !id.is_empty()).unwrap_or_else(|| text("/var/lib/dbus/machine-id"));
        let product = text("/sys/class/dmi/id/product_uuid");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
            memory_bytes: memory_limit().map_or(memory_kibibytes * 1024, |limit| limit.min(memory_kibibytes * 1024)),
            storage_bytes: file_system(data_directory).map_or(0, |(total, _)| total),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            system_uuid: if product.is_empty() { machine_id.clone() } else { product },
            machine_id,
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned(),
        }
    }

    /// What pods may use.
    #[must_use]
    pub fn allocatable(&self, reserved: &BTreeMap<String, Amount>) -> Allocatable {
        let without = |total: Amount, name: &str| {
            let kept = reserved.get(name).copied().unwrap_or_default();
            if kept > total { Amount::default() } else { total - kept }
        };
        let bytes = |bytes: u64| Amount::units(i64::try_from(bytes).unwrap_or(i64::MAX));
        Allocatable {
            cpu: without(Amount::units(i64::from(self.cpus)), "cpu"),
            memory: without(bytes(self.memory_bytes), "memory"),
            ephemeral_storage: without(bytes(self.storage_bytes), "ephemeral-storage"),
        }
    }
}

/// The memory limit of the cgroup we run in, where it is below the machine's memory (a node inside a container).
fn memory_limit() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
}

/// Bytes of the file system that holds a path: all, and those free to us.
#[must_use]
pub fn file_system(path: &Path) -> Option<(u64, u64)> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let facts = rustix::fs::statvfs(existing).ok()?;
    Some((facts.f_blocks.saturating_mul(facts.f_frsize), facts.f_bavail.saturating_mul(facts.f_frsize)))
}

/// Files that the file system which holds a path may have, and those that it still may. Nothing where it sets no limit.
#[must_use]
pub fn files(path: &Path) -> Option<(u64, u64)> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let facts = rustix::fs::statvfs(existing).ok()?;
    (facts.f_files > 0).then_some((facts.f_files, facts.f_favail))
}

/// Whether the kernel enforces profiles of AppArmor.
#[must_use]
pub fn has_app_armor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// How many processes and threads more there could be.
#[must_use]
pub fn available_process_ids() -> Option<u64> {
    process_ids().map(|(most, now)| most.saturating_sub(now))
}

/// How many processes and threads there can be, and how many there are.
#[must_use]
pub fn process_ids() -> Option<(u64, u64)> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let now: u64 = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((most, now))
}

/// Bytes of memory that programs could still get.
#[must_use]
pub fn available_memory() -> Option<u64> {
    memory_fact(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}

/// Bytes of swap: in use, and free.
#[must_use]
pub fn swap() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let (all, free) = (memory_fact(&text, "SwapTotal")?, memory_fact(&text, "SwapFree")?);
    Some((all.saturating_sub(free), free))
}

/// Bytes that a line of `/proc/meminfo` tells.
fn memory_fact(text: &str, name: &str) -> Option<u64> {
    let kibibytes = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse::<u64>().ok();
    text.lines().find_map(kibibytes)?.checked_mul(1024)
}
