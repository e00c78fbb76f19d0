//! Users of a pod's own (`hostUsers: false`): which numbers of the node they are.
//!
//! Each pod gets a block of 65,536 numbers that no other pod of the node has. The block is written down in the pod's directory,
//! and what is written there is all that counts: so a pod keeps its block when the agent or the machine starts again, and it is
//! free once the directory is removed. Other nodes may be on the same machine (`knarr up`): what any process there has for a
//! user namespace is not given either.
//! Source: Kubernetes 1.36, `pkg/kubelet/userns`, and KEP-127.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use container_runtime::IdRange;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{spec, uid};
use crate::config::NodeConfig;

/// Numbers that a pod gets. Source: upstream's default of `idsPerPod`.
const LENGTH: u32 = 65_536;

/// Blocks below 2^31: some programs take numbers from there on for negative ones.
const BLOCKS: u32 = 32_768;

/// Name of the file in a pod's directory.
const FILE: &str = "users.json";

/// In whose name `/etc/subuid` may set aside numbers for pods. Source: KEP-127.
const SUBORDINATE_NAME: &str = "kubelet";

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    first: u32,
    length: u32,
}

/// Gives blocks to pods.
pub struct PodUsers {
    /// Holds a directory for each pod.
    pods: PathBuf,
    first: u32,
    count: u32,
    /// The blocks that are some process's, whosever it is.
    used_elsewhere: fn() -> BTreeSet<u32>,
    /// Held from looking for a free block until it is written down.
    giving: Mutex<()>,
}

impl PodUsers {
    /// For a node: the blocks that `/etc/subuid` and `/etc/subgid` set aside, else as many as it has pods, from a place that
    /// follows from its name, so that several nodes on one machine hardly ever share any.
    #[must_use]
    pub fn of_node(config: &NodeConfig) -> Self {
        let read = |path: &str| subordinate(&std::fs::read_to_string(path).unwrap_or_default());
        let (first, count) = match (read("/etc/subuid"), read("/etc/subgid")) {
            (Some(users), Some(groups)) if users == groups => users,
            (None, None) => {
                // FNV-1a: must be the same in every release.
                let hash = config.name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
                let count = config.max_pods.clamp(1, BLOCKS / 2);
                (1 + hash % (BLOCKS - 1 - count), count)
            }
            _ => {
                tracing::error!("/etc/subuid and /etc/subgid set different numbers aside for {SUBORDINATE_NAME}: pods get no users of their own");
                (0, 0)
            }
        };
        Self::new(config.pod_directory(""), first, count, used_by_processes)
    }

    /// With `count` blocks from `first` on, but for those that are used elsewhere. `pods` holds a directory for each pod.
    #[must_use]
    pub fn new(pods: PathBuf, first: u32, count: u32, used_elsewhere: fn() -> BTreeSet<u32>) -> Self {
        Self { pods, first, count, used_elsewhere, giving: Mutex::new(()) }
    }

    /// Whether there is anything to give.
    #[must_use]
    pub fn gives_any(&self) -> bool {
        self.count > 0
    }

    /// The range of a pod that wants users of its own; gives it one where it has none yet.
    ///
    /// # Errors
    /// A sentence: none is free, or it cannot be written down.
    pub fn range(&self, pod: &Pod) -> Result<Option<IdRange>, String> {
        if spec(pod).host_users != Some(false) {
            return Ok(None);
        }
        let directory = self.pods.join(uid(pod));
        let _giving = self.giving.lock();
        if let Some(range) = read(&directory).filter(|range| self.has(*range)) {
            return Ok(Some(range));
        }
        let all = match std::fs::read_dir(&self.pods) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(problem) if problem.kind() == io::ErrorKind::NotFound => Vec::new(),
            // Whoever cannot be seen might have what we would give.
            Err(problem) => return Err(format!("could not read {}: {problem}", self.pods.display())),
        };
        let mut taken: BTreeSet<u32> = all.iter().filter_map(|directory| read(directory)).map(|range| range.first / LENGTH).collect();
        taken.extend((self.used_elsewhere)());
        let block = (self.first..self.first + self.count).find(|block| !taken.contains(block)).ok_or("could not find an empty slot to allocate a user namespace")?;
        let range = IdRange { first: block * LENGTH, length: LENGTH };
        write(&directory, range).map_err(|problem| format!("could not write down the pod's users in {}: {problem}", directory.display()))?;
        Ok(Some(range))
    }

    fn has(&self, range: IdRange) -> bool {
        range.length == LENGTH && range.first.is_multiple_of(LENGTH) && (self.first..self.first + self.count).contains(&(range.first / LENGTH))
    }
}

/// The blocks of all user namespaces in which a process runs.
fn used_by_processes() -> BTreeSet<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let maps = processes.filter_map(|process| std::fs::read_to_string(process.path().join("uid_map")).ok());
    maps.flat_map(|map| mapped_blocks(&map)).collect()
}

/// The blocks that are touched by a user namespace; none by that of the machine itself, which has every number.
fn mapped_blocks(map: &str) -> Vec<u32> {
    let ranges = map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u32>);
        let (_, Some(Ok(first)), Some(Ok(length))) = (fields.next()?, fields.next(), fields.next()) else { return None };
        (length < u32::MAX).then(|| first / LENGTH..=first.saturating_add(length.saturating_sub(1)) / LENGTH)
    });
    ranges.flatten().collect()
}

/// What a list of subordinate numbers sets aside for pods, in blocks; none where it says nothing usable.
fn subordinate(list: &str) -> Option<(u32, u32)> {
    list.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
        let usable = name == SUBORDINATE_NAME && first >= LENGTH && first.is_multiple_of(LENGTH) && count >= LENGTH && first.checked_add(count).is_some();
        usable.then_some((first / LENGTH, count / LENGTH))
    })
}

fn read(directory: &Path) -> Option<IdRange> {
    let text = std::fs::read(directory.join(FILE)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    Some(IdRange { first: record.first, length: record.length })
}

fn write(directory: &Path, range: IdRange) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let new = directory.join("users.json.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(&Record { first: range.first, length: range.length })?)?;
    // Two pods with the same users after a power cut would be worse than a late pod.
    file.sync_all()?;
    std::fs::rename(new, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, host_users: Option<bool>) -> Pod {
        serde_json::from_value(serde_json::json!({ "metadata": { "uid": uid }, "spec": { "containers": [], "hostUsers": host_users } })).unwrap()
    }

    #[test]
    fn pods_never_share_users_and_keep_them_until_they_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let users = || PodUsers::new(directory.path().join("pods"), 7, 3, BTreeSet::new);
        assert_eq!(users().range(&pod("host", None)), Ok(None));
        assert_eq!(users().range(&pod("host", Some(true))), Ok(None));
        let first = |users: &PodUsers, uid: &str| users.range(&pod(uid, Some(false))).map(|range| range.unwrap().first / LENGTH);
        let before = users();
        assert_eq!(["one", "two", "three"].map(|uid| first(&before, uid).unwrap()), [7, 8, 9]);
        assert!(first(&before, "four").unwrap_err().contains("empty slot"));
        // After a start of the agent or of the machine.
        let after = users();
        assert_eq!(first(&after, "two"), Ok(8));
        assert!(first(&after, "four").is_err());
        std::fs::remove_dir_all(directory.path().join("pods/two")).unwrap();
        assert_eq!(first(&after, "four"), Ok(8));
    }

    #[test]
    fn what_another_node_of_the_machine_gave_to_its_pods_is_not_given_again() {
        let directory = tempfile::tempdir().unwrap();
        let first = |users: &PodUsers, uid: &str| users.range(&pod(uid, Some(false))).map(|range| range.unwrap().first / LENGTH);
        let users = PodUsers::new(directory.path().to_owned(), 7, 3, || BTreeSet::from([7, 9]));
        assert_eq!(first(&users, "one"), Ok(8));
        assert!(first(&users, "two").unwrap_err().contains("empty slot"));
        // Its own processes have the pod's block too, later.
        let users = PodUsers::new(directory.path().to_owned(), 7, 3, || BTreeSet::from([7, 8, 9]));
        assert_eq!(first(&users, "one"), Ok(8));
    }

    #[test]
    fn the_blocks_of_a_user_namespace_are_those_of_its_map() {
        for (map, blocks) in [
            ("         0          0 4294967295\n", vec![]),
            ("         0 1477967872      65536\n", vec![22_552]),
            ("0 65536 65537\n", vec![1, 2]),
            ("0 1000 1\n1 131072 65536\n", vec![0, 2]),
            ("0 4294901760 4294967294\n", vec![65_535]),
            ("", vec![]),
            ("x y z\n0 1\n", vec![]),
        ] {
            assert_eq!(mapped_blocks(map), blocks, "{map}");
        }
    }

    #[test]
    fn a_record_that_makes_no_sense_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let users = PodUsers::new(directory.path().to_owned(), 7, 3, BTreeSet::new);
        for nonsense in ["", "{\"first\":0,\"length\":65536}", "{\"first\":458753,\"length\":65536}", "{\"first\":458752,\"length\":1}"] {
            std::fs::create_dir_all(directory.path().join("one")).unwrap();
            std::fs::write(directory.path().join("one").join(FILE), nonsense).unwrap();
            let range = users.range(&pod("one", Some(false))).unwrap().unwrap();
            assert!((7..10).contains(&(range.first / LENGTH)) && range.length == LENGTH, "{nonsense}: {range:?}");
        }
    }

    #[test]
    fn subordinate_numbers_are_whole_blocks() {
        assert_eq!(subordinate("root:65536:65536\nkubelet:131072:7208960\n"), Some((2, 110)));
        for unusable in ["", "kubelet", "kubelet:0:65536", "kubelet:65537:65536", "kubelet:65536:10", "kubelet:4294901760:4294901760", "other:65536:65536"] {
            assert_eq!(subordinate(unusable), None, "{unusable}");
        }
    }
}
