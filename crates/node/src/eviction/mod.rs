//! Taking pods off the node so that the others, and the node itself, can go on.
//!
//! * [`limits`]: a pod that writes more to the disk than it was given goes
//! * [`pressure`]: when memory or disk runs short, who goes first
//! * [`recent`]: what the node's conditions and new pods hear of it
//! * [`images`]: images that no container needs go before any pod does
//! * this module: looking, and telling the pods' workers
//!
//! Source of rules and words: Kubernetes 1.36, `pkg/kubelet/eviction`, and the documentation, "Node-pressure Eviction".

pub mod images;
pub mod limits;
pub mod pressure;
pub mod recent;

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use container_runtime::{ContainerState, ContainerUsage};

use self::{
    limits::StorageUse,
    pressure::{Candidate, Shortage},
};
use crate::{config::Context, pod, pods::Pods, quantity::Amount};

/// How often the node looks. A timer, since neither the kernel nor a file system tells when little is left; as upstream's
/// housekeeping.
const PERIOD: Duration = Duration::from_secs(10);

/// Evicts until it is dropped.
pub async fn run(context: Arc<Context>, pods: Pods) {
    let mut images = images::ImageCollector::default();
    loop {
        context.config.clock.sleep(PERIOD).await;
        for (uid, message) in over_their_limits(&context, &pods).await {
            pods.evict(&uid, message);
        }
        images.note_use(&pods, context.config.clock.now());
        let mut shortage = Shortage::now(&context.config.data_directory, context.config.least_process_ids);
        let fills_up = images::fills_up(&context.config.data_directory);
        if fills_up || shortage.is_some_and(|shortage| shortage.is_of_disk()) {
            images.collect(&context).await;
            shortage = Shortage::now(&context.config.data_directory, context.config.least_process_ids);
        }
        // One that is over before the node's status is written next counts too.
        context.shortages.look(&context.config);
        if let Some(shortage) = shortage {
            relieve(&context, &pods, shortage).await;
        }
    }
}

/// Evicts one pod: what it frees shows only after it is gone, so the next one waits for the next look.
async fn relieve(context: &Context, pods: &Pods, shortage: Shortage) {
    let mut candidates = Vec::new();
    for view in pods.views() {
        if view.is_static || !is_evictable(&view.pod) {
            continue;
        }
        let (mut memory, mut processes, mut disk, mut uses) = (0, 0, StorageUse::default(), Vec::new());
        for container in view.containers.iter().filter(|container| matches!(container.state, ContainerState::Running { .. })) {
            // It may end at any moment, which is no error.
            let Ok(usage) = context.config.runtime.container_usage(&container.id).await else { continue };
            memory += usage.memory_working_set_bytes;
            processes += usage.processes;
            uses.push((container.spec.name.clone(), usage.memory_working_set_bytes));
        }
        if shortage.is_of_disk() {
            disk = storage_of(context, &view).await;
            uses = disk.containers.iter().map(|(name, bytes)| (name.clone(), *bytes)).collect();
        }
        let used = match shortage {
            Shortage::Memory { .. } => memory,
            Shortage::Disk { .. } => disk.total(),
            Shortage::Files { .. } => disk.files,
            Shortage::ProcessIds { .. } => processes,
        };
        candidates.push(Candidate::new(&view.pod, shortage, used, &uses));
    }
    // Who is being evicted already is on its way: more only after that.
    if pods.views().iter().any(|view| pods.is_evicting(pod::uid(&view.pod))) {
        return;
    }
    if let Some(victim) = pressure::first_to_go(candidates) {
        tracing::warn!(pod = victim.uid, shortage = ?shortage, "evicting a pod: the node runs short");
        pods.evict(&victim.uid, shortage.message(&victim));
    }
}

/// Pods that use more of the disk than they may, with the message of their eviction.
async fn over_their_limits(context: &Context, pods: &Pods) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for view in pods.views() {
        // Adding up files is work: only where there is a limit to compare with.
        if !limits::has_limits(&view.pod) || !is_evictable(&view.pod) {
            continue;
        }
        let used = storage_of(context, &view).await;
        if let Some(message) = limits::exceeded(&view.pod, &used) {
            found.push((pod::uid(&view.pod).to_owned(), message));
        }
    }
    found
}

fn is_evictable(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    let is_critical = pod::spec(pod).priority.unwrap_or(0) >= recent::CRITICAL_PRIORITY;
    !is_critical && !pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// What a pod's files on this node take.
async fn storage_of(context: &Context, view: &pod::worker::View) -> StorageUse {
    let mut used = StorageUse::default();
    for container in view.containers.iter() {
        let written = match container.state {
            ContainerState::Running { .. } => context.config.runtime.container_usage(&container.id).await.unwrap_or_default(),
            _ => ContainerUsage::default(),
        };
        let logs = container.log_path.parent().map(Path::to_owned);
        let logs = match logs {
            Some(directory) => size_below(directory).await,
            None => (0, 0),
        };
        // Earlier runs of a container have their logs in the same directory.
        if used.containers.insert(container.spec.name.clone(), written.root_file_system_bytes + logs.0).is_none() {
            used.files += logs.1;
        }
        used.files += written.root_file_system_files;
    }
    let directory = context.config.pod_directory(pod::uid(&view.pod)).join("volumes/empty-dir");
    let in_memory = context.config.pod_run_directory(pod::uid(&view.pod)).join("volumes/empty-dir");
    let mut volumes = BTreeMap::new();
    for volume in pod::spec(&view.pod).volumes.iter().flatten() {
        let Some(source) = &volume.empty_dir else { continue };
        let is_in_memory = source.medium.as_deref() == Some("Memory");
        let place = if is_in_memory { &in_memory } else { &directory };
        let (bytes, files) = size_below(place.join(&volume.name)).await;
        used.files += if is_in_memory { 0 } else { files };
        volumes.insert(volume.name.clone(), (bytes, is_in_memory));
    }
    used.volumes = volumes;
    used
}

/// Bytes on disk of everything below a directory, and how many files that is.
async fn size_below(directory: std::path::PathBuf) -> (u64, u64) {
    tokio::task::spawn_blocking(move || walk(directory)).await.unwrap_or((0, 0))
}

/// Bytes on disk of a directory with everything below it, and how many files that is. Takes as long as reading all of its directories.
pub fn size_of_all(directory: &Path) -> (u64, u64) {
    let own = std::fs::symlink_metadata(directory).map_or(0, |facts| facts.blocks() * 512);
    let (bytes, files) = walk(directory.to_owned());
    (bytes.saturating_add(own), files.saturating_add(1))
}

fn walk(directory: std::path::PathBuf) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    let mut open = vec![directory];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            // What vanishes meanwhile takes nothing.
            let Ok(facts) = entry.metadata() else { continue };
            bytes += facts.blocks() * 512;
            files += 1;
            if facts.is_dir() {
                open.push(entry.path());
            }
        }
    }
    (bytes, files)
}

/// Bytes as an amount.
fn bytes(bytes: u64) -> Amount {
    Amount::units(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// An amount of bytes as quantities are written: in the largest binary unit that leaves no fraction.
fn shown(amount: Amount) -> String {
    in_units(amount, 1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi"])
}

/// A number of things as quantities are written.
fn counted(amount: Amount) -> String {
    in_units(amount, 1000, ["", "k", "M", "G", "T", "P"])
}

fn in_units(amount: Amount, step: i64, units: [&str; 6]) -> String {
    let (mut rest, mut unit) = (amount.as_units(), 0);
    while rest != 0 && rest % step == 0 && unit + 1 < units.len() {
        rest /= step;
        unit += 1;
    }
    format!("{rest}{}", units.get(unit).copied().unwrap_or_default())
}
