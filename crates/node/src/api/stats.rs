//! `/stats/summary`: what pods and the node use, as `kubectl top` and autoscaling are fed from it.
//!
//! Source of the shape and of what is left out: Kubernetes 1.36, `k8s.io/kubelet/pkg/apis/stats/v1alpha1` and
//! `pkg/kubelet/stats/cri_stats_provider.go`.

use std::{collections::HashMap, path::PathBuf};

use container_runtime::ContainerUsage;
use serde_json::{Value, json};

use super::{
    about,
    file_usage::{self, FileUsage, Measure, Place},
    network_usage,
    usage::{Row, Sampler},
};
use crate::{
    config::Context,
    machine, pod,
    pod::worker::View,
    pods::Pods,
};

/// What of a summary is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// All of it.
    All,
    /// What is had without reading directories.
    CpuAndMemory,
}

impl Fields {
    /// What a query asks for.
    pub fn of(query: &str) -> Self {
        let mut asked = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "only_cpu_and_memory").map(|(_, value)| value);
        if asked.next().as_deref() == Some("true") && asked.next().is_none() { Self::CpuAndMemory } else { Self::All }
    }
}

/// The file system of the node, of which pods have parts.
struct Disk {
    bytes: (u64, u64),
    files: Option<(u64, u64)>,
}

impl Disk {
    fn shown(&self, time: &str, used_bytes: u64, used_files: Option<u64>) -> Value {
        json!({ "time": time, "capacityBytes": self.bytes.0, "availableBytes": self.bytes.1, "usedBytes": used_bytes,
            "inodes": self.files.map(|files| files.0), "inodesFree": self.files.map(|files| files.1), "inodesUsed": used_files })
    }

    /// Of the whole file system, where no part of it is meant.
    fn whole(&self, time: &str) -> Value {
        let used_files = self.files.map(|(most, free)| most.saturating_sub(free));
        self.shown(time, self.bytes.0.saturating_sub(self.bytes.1), used_files)
    }
}

/// A pod's directories.
struct Directories {
    volumes: Vec<Place>,
    /// Logs of each container.
    logs: HashMap<String, PathBuf>,
}

impl Directories {
    fn of(context: &Context, view: &View) -> Self {
        let mounts = |container: &str, path: &str| {
            let of_container = view.containers.iter().filter(|one| one.spec.name == container).flat_map(|one| &one.spec.mounts);
            of_container.filter(|mount| mount.container_path == path).find_map(|mount| mount.host_path.clone())
        };
        let logs = view.containers.iter().filter_map(|one| Some((one.spec.name.clone(), one.log_path.parent()?.to_owned()))).collect();
        Self { volumes: file_usage::places(&context.config, &view.pod, &mounts), logs }
    }

    fn wanted(&self) -> impl Iterator<Item = (PathBuf, Measure)> {
        let volumes = self.volumes.iter().map(|place| (place.path.clone(), place.measure));
        volumes.chain(self.logs.values().map(|path| (path.clone(), Measure::Files)))
    }
}

/// The summary, in upstream's shape.
pub async fn summary(context: &Context, pods: &Pods, sampler: &Sampler, fields: Fields) -> Value {
    let usage = sampler.usage(context, pods).await;
    let mut directories: HashMap<String, Directories> = HashMap::new();
    if fields == Fields::All {
        directories.extend(pods.views().iter().map(|view| (pod::uid(&view.pod).to_owned(), Directories::of(context, view))));
    }
    let wanted: HashMap<PathBuf, Measure> = directories.values().flat_map(Directories::wanted).collect();
    let files = if wanted.is_empty() { HashMap::new() } else { sampler.files.usage(wanted, context.config.clock.elapsed()).await };
    let time = context.config.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let disk = Disk { bytes: machine::file_system(&context.config.data_directory).unwrap_or_default(), files: machine::files(&context.config.data_directory) };
    let pod = |group: &[Row]| {
        let mut shown = cpu_and_memory_of_pod(group, &time)?;
        if let Some(directories) = group.first().and_then(|first| directories.get(&first.uid)) {
            add_more(&mut shown, group, directories, &files, &disk, &time);
        }
        Some(shown)
    };
    let list: Vec<Value> = usage.rows.chunk_by(|one, other| one.uid == other.uid).filter_map(pod).collect();
    let mut node = json!({
        "nodeName": context.config.name,
        "startTime": about::started().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "cpu": cpu(&time, usage.node_nano_cores, usage.node_cpu_nanoseconds),
        "memory": { "time": time, "availableBytes": machine::available_memory(), "workingSetBytes": usage.node_memory_bytes },
    });
    if fields == Fields::All {
        let (most_processes, processes) = machine::process_ids().unzip();
        let (used_swap, free_swap) = machine::swap().unzip();
        insert(&mut node, "network", network_usage::of_node(&time));
        node["fs"] = disk.whole(&time);
        // Images, containers and volumes lie on one file system.
        node["runtime"] = json!({ "imageFs": disk.whole(&time), "containerFs": disk.whole(&time) });
        node["rlimit"] = json!({ "time": time, "maxpid": most_processes, "curproc": processes });
        node["swap"] = swap(&time, used_swap, free_swap);
    }
    json!({
        "node": node,
        "pods": list,
        // Ours: the time that the rates were measured over, which the metrics API tells.
        "window": pod::back_off::go_duration(std::time::Duration::from_millis(u64::try_from(usage.window.as_millis()).unwrap_or(0))),
    })
}

fn cpu(time: &str, nano_cores: Option<u64>, nanoseconds: u64) -> Value {
    json!({ "time": time, "usageNanoCores": nano_cores, "usageCoreNanoSeconds": nanoseconds })
}

fn memory(time: &str, usage: &ContainerUsage) -> Value {
    json!({ "time": time, "workingSetBytes": usage.memory_working_set_bytes, "usageBytes": usage.memory_usage_bytes, "rssBytes": usage.memory_rss_bytes })
}

/// What is not known is left out, as upstream does.
fn swap(time: &str, used: Option<u64>, available: Option<u64>) -> Value {
    let mut shown = json!({ "time": time });
    insert(&mut shown, "swapAvailableBytes", available.map(Value::from));
    insert(&mut shown, "swapUsageBytes", used.map(Value::from));
    shown
}

fn insert(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(value) = value {
        object[field] = value;
    }
}

/// Sums where both are known, or whichever is.
fn plus(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).reduce(u64::saturating_add)
}

fn total(group: &[Row]) -> ContainerUsage {
    group.iter().fold(ContainerUsage::default(), |sum, row| ContainerUsage {
        cpu_nanoseconds: sum.cpu_nanoseconds.saturating_add(row.usage.cpu_nanoseconds),
        memory_working_set_bytes: sum.memory_working_set_bytes.saturating_add(row.usage.memory_working_set_bytes),
        memory_usage_bytes: sum.memory_usage_bytes.saturating_add(row.usage.memory_usage_bytes),
        memory_rss_bytes: sum.memory_rss_bytes.saturating_add(row.usage.memory_rss_bytes),
        root_file_system_bytes: sum.root_file_system_bytes.saturating_add(row.usage.root_file_system_bytes),
        root_file_system_files: sum.root_file_system_files.saturating_add(row.usage.root_file_system_files),
        processes: sum.processes.saturating_add(row.usage.processes),
        swap_bytes: plus(sum.swap_bytes, row.usage.swap_bytes),
        swap_available_bytes: plus(sum.swap_available_bytes, row.usage.swap_available_bytes),
    })
}

fn cpu_and_memory_of_pod(group: &[Row], time: &str) -> Option<Value> {
    let first = group.first()?;
    let container = |row: &Row| {
        json!({ "name": row.container, "startTime": row.started, "cpu": cpu(time, row.nano_cores, row.usage.cpu_nanoseconds), "memory": memory(time, &row.usage) })
    };
    let (total, nano_cores) = (total(group), group.iter().map(|row| row.nano_cores).sum());
    Some(json!({ "podRef": { "name": first.pod, "namespace": first.namespace, "uid": first.uid }, "startTime": first.started,
        "containers": group.iter().map(container).collect::<Vec<_>>(), "cpu": cpu(time, nano_cores, total.cpu_nanoseconds), "memory": memory(time, &total) }))
}

/// Adds the network, files, processes and swap to a pod's entry.
fn add_more(shown: &mut Value, group: &[Row], directories: &Directories, files: &HashMap<PathBuf, FileUsage>, disk: &Disk, time: &str) {
    let total = total(group);
    let (mut used_bytes, mut used_files) = (total.root_file_system_bytes, total.root_file_system_files);
    for (number, row) in group.iter().enumerate() {
        let container = &mut shown["containers"][number];
        container["rootfs"] = disk.shown(time, row.usage.root_file_system_bytes, Some(row.usage.root_file_system_files));
        container["swap"] = swap(time, row.usage.swap_bytes, row.usage.swap_available_bytes);
        if let Some(logs) = directories.logs.get(&row.container).and_then(|path| files.get(path)) {
            container["logs"] = disk.shown(time, logs.used_bytes, Some(logs.used_files));
            (used_bytes, used_files) = (used_bytes.saturating_add(logs.used_bytes), used_files.saturating_add(logs.used_files));
        }
    }
    let namespace = group.first().map(|first| first.namespace.as_str()).unwrap_or_default();
    let mut volumes = Vec::new();
    for place in &directories.volumes {
        let Some(usage) = files.get(&place.path) else { continue };
        let mut volume = usage.shown(time);
        volume["name"] = place.name.as_str().into();
        insert(&mut volume, "pvcRef", place.claim.as_ref().map(|claim| json!({ "name": claim, "namespace": namespace })));
        volumes.push(volume);
        if place.is_on_node_disk {
            (used_bytes, used_files) = (used_bytes.saturating_add(usage.used_bytes), used_files.saturating_add(usage.used_files));
        }
    }
    // All containers of a pod have one network, and a first process that is there knows it.
    insert(shown, "network", group.iter().filter(|row| row.pid > 0).find_map(|row| network_usage::of_process(row.pid, time)));
    insert(shown, "volume", (!volumes.is_empty()).then(|| volumes.into()));
    shown["ephemeral-storage"] = disk.shown(time, used_bytes, Some(used_files));
    shown["process_stats"] = json!({ "process_count": total.processes });
    shown["swap"] = swap(time, total.swap_bytes, total.swap_available_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_ask_for_less() {
        let table = [
            ("", Fields::All),
            ("only_cpu_and_memory=true", Fields::CpuAndMemory),
            ("a=b&only_cpu_and_memory=true", Fields::CpuAndMemory),
            ("only_cpu_and_memory=false", Fields::All),
            ("only_cpu_and_memory=True", Fields::All),
            ("only_cpu_and_memory", Fields::All),
            ("only_cpu_and_memory=true&only_cpu_and_memory=true", Fields::All),
        ];
        for (query, expected) in table {
            assert_eq!(Fields::of(query), expected, "{query}");
        }
    }
}
