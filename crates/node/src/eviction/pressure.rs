//! Shortage of memory or disk on the whole node: when there is one, and whose pod goes first.
//!
//! First go the pods that use more than they asked for; among these the least important ones, then those that use the most
//! beyond their request. Whoever stays within what he asked for goes last.

use std::{cmp::Reverse, path::Path};

use k8s_openapi::api::core::v1::Pod;

use super::{bytes, shown};
use crate::{
    machine,
    pod::{self, resources::pod_request},
    quantity::{Amount, amount_of},
};

/// Less free memory is a shortage. Source: upstream's default `memory.available<100Mi`.
pub const LEAST_MEMORY: u64 = 100 * 1024 * 1024;
/// A smaller free part of the disk, in percent, is a shortage. Source: upstream's default `nodefs.available<10%`, which on
/// large disks is more than is reasonable; it is bounded by [`LEAST_DISK`].
pub const LEAST_DISK_PERCENT: u64 = 10;
/// A smaller free part of the files that the disk may have, in percent, is a shortage. Source: upstream's default
/// `nodefs.inodesFree<5%`.
pub const LEAST_FILES_PERCENT: u64 = 5;
/// Free bytes that are enough on any disk.
const LEAST_DISK: u64 = 2 * 1024 * 1024 * 1024;

/// What runs short, with how much is left and how much there should be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Memory.
    Memory {
        /// Left.
        available: u64,
    },
    /// Numbers of processes.
    ProcessIds {
        /// Left.
        available: u64,
        /// Wanted.
        threshold: u64,
    },
    /// Files that the disk under the data directory may still have.
    Files {
        /// Left.
        available: u64,
        /// Wanted.
        threshold: u64,
    },
    /// The disk under the data directory.
    Disk {
        /// Left.
        available: u64,
        /// Wanted.
        threshold: u64,
    },
}

impl Shortage {
    /// What runs short now. Memory first: it brings a node down faster.
    #[must_use]
    pub fn now(data_directory: &Path, least_process_ids: Option<u64>) -> Option<Self> {
        Self::of_memory().or_else(|| Self::of_disk(data_directory)).or_else(|| Self::of_process_ids(least_process_ids))
    }

    /// A shortage of memory, where there is one.
    #[must_use]
    pub fn of_memory() -> Option<Self> {
        machine::available_memory().filter(|available| *available < LEAST_MEMORY).map(|available| Self::Memory { available })
    }

    /// A shortage of disk, where there is one.
    #[must_use]
    pub fn of_disk(data_directory: &Path) -> Option<Self> {
        let (total, available) = machine::file_system(data_directory)?;
        let threshold = (total / 100 * LEAST_DISK_PERCENT).min(LEAST_DISK);
        (available < threshold).then_some(Self::Disk { available, threshold }).or_else(|| Self::of_files(machine::files(data_directory)?))
    }

    /// A shortage of files, where there are so many at most and so many left.
    fn of_files((total, available): (u64, u64)) -> Option<Self> {
        let threshold = total / 100 * LEAST_FILES_PERCENT;
        (available < threshold).then_some(Self::Files { available, threshold })
    }

    /// A shortage of process numbers, where a least number is set.
    #[must_use]
    pub fn of_process_ids(least: Option<u64>) -> Option<Self> {
        let (least, available) = (least?, machine::available_process_ids()?);
        (available < least).then_some(Self::ProcessIds { available, threshold: least })
    }

    /// It is of the disk.
    #[must_use]
    pub fn is_of_disk(self) -> bool {
        matches!(self, Self::Disk { .. } | Self::Files { .. })
    }

    fn resource(self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::Disk { .. } => "ephemeral-storage",
            Self::Files { .. } => "inodes",
            Self::ProcessIds { .. } => "pids",
        }
    }

    /// The message of a pod's eviction.
    #[must_use]
    pub fn message(self, victim: &Candidate) -> String {
        let (available, threshold) = match self {
            Self::Memory { available } => (available, LEAST_MEMORY),
            Self::Disk { available, threshold } | Self::Files { available, threshold } | Self::ProcessIds { available, threshold } => (available, threshold),
        };
        // Things are counted in thousands, bytes in powers of two.
        let amount = |amount: Amount| if matches!(self, Self::ProcessIds { .. } | Self::Files { .. }) { super::counted(amount) } else { shown(amount) };
        let size = |size: u64| amount(bytes(size));
        let mut message =
            format!("The node was low on resource: {}. Threshold quantity: {}, available: {}. ", self.resource(), size(threshold), size(available));
        // Upstream names nobody for what is counted by the pod only.
        let is_measured = matches!(self, Self::Memory { .. } | Self::Disk { .. });
        for Use { container, used, requested } in victim.containers.iter().filter(|container| is_measured && container.used > container.requested) {
            let (used, requested, resource) = (amount(*used), amount(*requested), self.resource());
            message.push_str(&format!("Container {container} was using {used}, request is {requested}, has larger consumption of {resource}. "));
        }
        message
    }
}

/// A pod that may have to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its UID.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// What it uses.
    pub used: Amount,
    /// What it asked for.
    pub requested: Amount,
    /// What each of its containers uses.
    pub containers: Vec<Use>,
}

/// What a container uses of what runs short, and what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Its name.
    pub container: String,
    /// What it uses.
    pub used: Amount,
    /// What it asked for.
    pub requested: Amount,
}

impl Candidate {
    /// A pod with what it uses of what runs short, and what each of its containers does.
    #[must_use]
    pub fn new(pod: &Pod, shortage: Shortage, used: u64, containers: &[(String, u64)]) -> Self {
        let uses = containers.iter().filter_map(|(name, used)| {
            let container = pod::spec(pod).containers.iter().find(|container| container.name == *name)?;
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            Some(Use { container: name.clone(), used: bytes(*used), requested: amount_of(requests, shortage.resource()).unwrap_or_default() })
        });
        Self {
            uid: pod::uid(pod).to_owned(),
            priority: pod::spec(pod).priority.unwrap_or(0),
            used: bytes(used),
            requested: pod_request(pod, shortage.resource()),
            containers: uses.collect(),
        }
    }

    fn excess(&self) -> Amount {
        if self.used > self.requested { self.used - self.requested } else { Amount::default() }
    }
}

/// Whose turn it is.
#[must_use]
pub fn first_to_go(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|candidate| (candidate.used <= candidate.requested, candidate.priority, Reverse(candidate.excess()), candidate.uid.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(uid: &str, priority: i32, used: i64, requested: i64) -> Candidate {
        Candidate { uid: uid.to_owned(), priority, used: Amount::units(used), requested: Amount::units(requested), containers: Vec::new() }
    }

    #[track_caller]
    fn check(candidates: &[Candidate], expected: &str) {
        assert_eq!(first_to_go(candidates.to_vec()).unwrap().uid, expected);
    }

    #[test]
    fn who_takes_more_than_asked_goes_first_then_the_least_important() {
        check(&[candidate("modest", 0, 50, 100), candidate("greedy", 1000, 10, 5)], "greedy");
        check(&[candidate("important", 10, 100, 0), candidate("humble", 0, 20, 0)], "humble");
        check(&[candidate("some", 0, 20, 10), candidate("much", 0, 100, 10)], "much");
        check(&[candidate("low", 0, 1, 10), candidate("high", 5, 9, 10)], "low");
        assert_eq!(first_to_go(Vec::new()), None);
    }

    #[test]
    fn the_message_names_the_shortage_and_containers_that_use_more_than_they_asked_for() {
        let pod: Pod = serde_json::from_value(serde_json::json!({ "metadata": {}, "spec": { "containers": [
            { "name": "web" }, { "name": "modest", "resources": { "requests": { "memory": "1Gi" } } }, { "name": "log", "resources": { "requests": { "memory": "1Mi" } } }] } }))
        .unwrap();
        let uses = [("web".to_owned(), 1 << 20), ("modest".to_owned(), 1 << 25), ("log".to_owned(), 3 << 20)];
        let message = |shortage: Shortage| shortage.message(&Candidate::new(&pod, shortage, 1 << 20, &uses));
        assert_eq!(
            message(Shortage::Memory { available: 1 << 20 }),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 1Mi. \
             Container web was using 1Mi, request is 0, has larger consumption of memory. \
             Container log was using 3Mi, request is 1Mi, has larger consumption of memory. "
        );
        assert_eq!(Shortage::of_files((1000, 50)), None);
        let few = Shortage::of_files((1000, 49)).unwrap();
        assert!(few.is_of_disk());
        assert_eq!(message(few), "The node was low on resource: inodes. Threshold quantity: 50, available: 49. ");
        let few = Shortage::ProcessIds { available: 1024, threshold: 32_000 };
        assert_eq!(message(few), "The node was low on resource: pids. Threshold quantity: 32k, available: 1024. ");
    }
}
