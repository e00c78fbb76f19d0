//! What directories of pods take of their file systems: volumes and logs.
//!
//! Adding up files is work, so a sum is kept for a while and made only when somebody asks. A file system on the network may not answer at
//! all: whoever asks does not wait for it, and it is not asked again before it has answered.
//!
//! Source of which volumes are measured, and how: Kubernetes 1.36, `pkg/volume/metrics_du.go`, `metrics_statfs.go` and their uses.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{config::NodeConfig, eviction, pod};

/// How long a measure is kept. Source: Kubernetes 1.36, `volumeStatsAggPeriod`.
const KEPT: Duration = Duration::from_secs(60);
/// How long somebody who asks waits for measures; what is late is in a later answer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How a directory is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Its files are added up: it shares a file system with others.
    Files,
    /// All that its file system holds.
    FileSystem,
}

/// What a directory takes, and what there is. Bytes and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileUsage {
    capacity_bytes: u64,
    available_bytes: u64,
    /// Bytes that it takes.
    pub used_bytes: u64,
    most_files: u64,
    free_files: u64,
    /// Files and directories that it takes.
    pub used_files: u64,
}

impl FileUsage {
    /// Measures now, for as long as that takes; nothing where the directory is not there.
    fn now(path: &Path, measure: Measure) -> Option<Self> {
        let facts = rustix::fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
        let (used_bytes, used_files) = match measure {
            Measure::Files => eviction::size_of_all(path),
            Measure::FileSystem => (bytes(facts.f_blocks.saturating_sub(facts.f_bfree)), facts.f_files.saturating_sub(facts.f_ffree)),
        };
        Some(Self {
            capacity_bytes: bytes(facts.f_blocks),
            available_bytes: bytes(facts.f_bavail),
            used_bytes,
            most_files: facts.f_files,
            free_files: facts.f_ffree,
            used_files,
        })
    }

    /// In the shape of a summary.
    pub fn shown(&self, time: &str) -> Value {
        json!({ "time": time, "availableBytes": self.available_bytes, "capacityBytes": self.capacity_bytes, "usedBytes": self.used_bytes,
            "inodesFree": self.free_files, "inodes": self.most_files, "inodesUsed": self.used_files })
    }
}

#[derive(Default)]
struct Known {
    began: Option<Duration>,
    is_running: bool,
    usage: Option<FileUsage>,
}

/// Measures directories, and knows what it measured lately.
#[derive(Default)]
pub struct Measurer {
    known: Arc<Mutex<HashMap<PathBuf, Known>>>,
}

impl Measurer {
    /// What all these directories take. Those that are not there, or did not answer in time, are missing. `now` is any steady clock's.
    pub async fn usage(&self, wanted: HashMap<PathBuf, Measure>, now: Duration) -> HashMap<PathBuf, FileUsage> {
        let (mut added_up, mut asked) = (Vec::new(), Vec::new());
        {
            let mut known = self.known.lock();
            known.retain(|path, one| one.is_running || wanted.contains_key(path));
            for (path, measure) in &wanted {
                let one = known.entry(path.clone()).or_default();
                if one.is_running || one.began.is_some_and(|began| now.saturating_sub(began) < KEPT) {
                    continue;
                }
                (one.began, one.is_running) = (Some(now), true);
                match measure {
                    Measure::Files => added_up.push(path.clone()),
                    Measure::FileSystem => asked.push(path.clone()),
                }
            }
        }
        // What is on this machine is read by one thread; each of the others may be the one that does not answer.
        let mut tasks = vec![self.measure(added_up, Measure::Files)];
        tasks.extend(asked.into_iter().map(|path| self.measure(vec![path], Measure::FileSystem)));
        let all = async {
            for task in tasks {
                // One that failed has measured nothing.
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(LONGEST_WAIT, all).await;
        let known = self.known.lock();
        wanted.into_keys().filter_map(|path| known.get(&path)?.usage.map(|usage| (path, usage))).collect()
    }

    fn measure(&self, paths: Vec<PathBuf>, measure: Measure) -> tokio::task::JoinHandle<()> {
        let known = self.known.clone();
        tokio::task::spawn_blocking(move || {
            for path in paths {
                let usage = FileUsage::now(&path, measure);
                if let Some(one) = known.lock().get_mut(&path) {
                    (one.is_running, one.usage) = (false, usage);
                }
            }
        })
    }
}

/// A volume that can be measured.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name in the pod.
    pub name: String,
    /// The claim it is of, in the pod's namespace.
    pub claim: Option<String>,
    /// Where it lies.
    pub path: PathBuf,
    /// How it is measured.
    pub measure: Measure,
    /// It counts as a part of what the pod takes of the node's disk.
    pub is_on_node_disk: bool,
}

/// Volumes of a pod that can be measured, those on the node's disk first. Not among them, as upstream: directories of the host, and images.
/// `mounts` tells what of the host a container sees at a path.
pub fn places(config: &NodeConfig, pod: &Pod, mounts: &dyn Fn(&str, &str) -> Option<PathBuf>) -> Vec<Place> {
    let in_memory = |plugin: &str, volume: &Volume| config.pod_run_directory(pod::uid(pod)).join("volumes").join(plugin).join(&volume.name);
    let on_disk = |plugin: &str, volume: &Volume| config.pod_directory(pod::uid(pod)).join("volumes").join(plugin).join(&volume.name);
    let mounted = |volume: &Volume| {
        pod::containers(pod).find_map(|(_, container)| {
            let mut of_volume = container.volume_mounts.iter().flatten().filter(|mount| mount.name == volume.name);
            of_volume.find_map(|mount| mounts(&container.name, &mount.mount_path))
        })
    };
    let place = |volume: &Volume| {
        let (path, measure, is_on_node_disk) = if let Some(source) = &volume.empty_dir {
            let is_in_memory = source.medium.as_deref().is_some_and(|medium| !medium.is_empty());
            (if is_in_memory { in_memory("empty-dir", volume) } else { on_disk("empty-dir", volume) }, Measure::Files, !is_in_memory)
        } else if volume.config_map.is_some() {
            (in_memory("config-map", volume), Measure::Files, false)
        } else if volume.secret.is_some() {
            (in_memory("secret", volume), Measure::Files, false)
        } else if volume.downward_api.is_some() {
            (in_memory("downward-api", volume), Measure::Files, false)
        } else if volume.projected.is_some() {
            (in_memory("projected", volume), Measure::Files, false)
        } else if volume.nfs.is_some() {
            (on_disk("nfs", volume), Measure::FileSystem, false)
        } else if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
            // Where it lies is known to the containers that have it.
            (mounted(volume)?, Measure::FileSystem, false)
        } else {
            return None;
        };
        let of_ephemeral = || volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod::name(pod), volume.name));
        let claim = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone()).or_else(of_ephemeral);
        Some(Place { name: volume.name.clone(), claim, path, measure, is_on_node_disk })
    };
    let mut places: Vec<Place> = pod::spec(pod).volumes.iter().flatten().filter_map(place).collect();
    places.sort_by_key(|place| !place.is_on_node_disk);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_added_up_and_sums_are_kept_for_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let (path, gone) = (directory.path().join("cache"), directory.path().join("gone"));
        std::fs::create_dir(&path).unwrap();
        let measurer = Measurer::default();
        let used = async |seconds| {
            let wanted = HashMap::from([(path.clone(), Measure::Files), (directory.path().to_owned(), Measure::FileSystem), (gone.clone(), Measure::Files)]);
            let usage = measurer.usage(wanted, Duration::from_secs(seconds)).await;
            assert_eq!((usage.len(), usage.contains_key(&gone)), (2, false));
            let whole = usage[directory.path()];
            assert!(whole.capacity_bytes >= whole.used_bytes && whole.used_bytes > 0, "{whole:?}");
            (usage[&path].used_bytes, usage[&path].used_files)
        };
        let (bytes, files) = used(100).await;
        assert_eq!(files, 1, "the directory itself");
        std::fs::write(path.join("file"), vec![7; 1 << 20]).unwrap();
        assert_eq!(used(159).await, (bytes, 1));
        let (more, files) = used(160).await;
        assert!(more >= bytes + (1 << 20) && files == 2, "{more} {files}");
        assert_eq!(measurer.usage(HashMap::new(), Duration::from_secs(161)).await, HashMap::new());
        assert!(measurer.known.lock().is_empty(), "nothing is known of what nobody asks for");
    }

    #[test]
    fn a_measure_that_is_late_is_not_begun_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let path = PathBuf::from("/");
        let measurer = Measurer::default();
        measurer.known.lock().insert(path.clone(), Known { began: Some(Duration::ZERO), is_running: true, usage: None });
        let usage = runtime.block_on(measurer.usage(HashMap::from([(path.clone(), Measure::FileSystem)]), Duration::from_secs(1000)));
        assert!(usage.is_empty() && measurer.known.lock()[&path].began == Some(Duration::ZERO));
    }
}
