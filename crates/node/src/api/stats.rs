//! `/stats/summary`: what pods and the node use, as `kubectl top` and autoscaling are fed from it.

use container_runtime::ContainerUsage;
use serde_json::{Value, json};

use super::usage::Sampler;
use crate::{config::Context, machine, pod, pods::Pods};

/// The summary, in upstream's shape.
pub async fn summary(context: &Context, pods: &Pods, sampler: &Sampler) -> Value {
    let usage = sampler.usage(context, pods).await;
    let now = context.config.clock.now();
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let cpu = |nano_cores: Option<u64>, nanoseconds: u64| json!({ "time": time, "usageNanoCores": nano_cores, "usageCoreNanoSeconds": nanoseconds });
    let memory = |usage: &ContainerUsage| {
        json!({ "time": time, "workingSetBytes": usage.memory_working_set_bytes, "usageBytes": usage.memory_usage_bytes, "rssBytes": usage.memory_rss_bytes })
    };
    let (disk, files) = (machine::file_system(&context.config.data_directory).unwrap_or_default(), machine::files(&context.config.data_directory));
    let (most_processes, processes) = machine::process_ids().unzip();
    // Of the whole file system, where no part of it is meant.
    let on_disk = |bytes: Option<u64>, part: Option<u64>| {
        let used_files = part.or_else(|| files.map(|(most, free)| most.saturating_sub(free)));
        json!({ "time": time, "capacityBytes": disk.0, "availableBytes": disk.1, "usedBytes": bytes.unwrap_or(disk.0.saturating_sub(disk.1)),
            "inodes": files.map(|files| files.0), "inodesFree": files.map(|files| files.1), "inodesUsed": used_files })
    };
    let list: Vec<Value> = usage
        .rows
        .chunk_by(|one, other| one.uid == other.uid)
        .filter_map(|group| {
            let first = group.first()?;
            let containers: Vec<Value> = group
                .iter()
                .map(|row| {
                    json!({ "name": row.container, "startTime": row.started, "cpu": cpu(row.nano_cores, row.usage.cpu_nanoseconds), "memory": memory(&row.usage),
                        "rootfs": on_disk(Some(row.usage.root_file_system_bytes), Some(row.usage.root_file_system_files)) })
                })
                .collect();
            let total = group.iter().fold(ContainerUsage::default(), |sum, row| ContainerUsage {
                cpu_nanoseconds: sum.cpu_nanoseconds.saturating_add(row.usage.cpu_nanoseconds),
                memory_working_set_bytes: sum.memory_working_set_bytes.saturating_add(row.usage.memory_working_set_bytes),
                memory_usage_bytes: sum.memory_usage_bytes.saturating_add(row.usage.memory_usage_bytes),
                memory_rss_bytes: sum.memory_rss_bytes.saturating_add(row.usage.memory_rss_bytes),
                root_file_system_bytes: 0,
                root_file_system_files: 0,
                processes: sum.processes.saturating_add(row.usage.processes),
            });
            let nano_cores = group.iter().map(|row| row.nano_cores).sum();
            Some(json!({ "podRef": { "name": first.pod, "namespace": first.namespace, "uid": first.uid }, "startTime": first.started,
                "containers": containers, "cpu": cpu(nano_cores, total.cpu_nanoseconds), "memory": memory(&total), "process_stats": { "process_count": total.processes } }))
        })
        .collect();
    json!({
        "node": {
            "nodeName": context.config.name,
            "cpu": cpu(usage.node_nano_cores, usage.node_cpu_nanoseconds),
            "memory": { "time": time, "availableBytes": machine::available_memory(), "workingSetBytes": usage.node_memory_bytes },
            "fs": on_disk(None, None),
            // Images, containers and volumes lie on one file system.
            "runtime": { "imageFs": on_disk(None, None), "containerFs": on_disk(None, None) },
            "rlimit": { "time": time, "maxpid": most_processes, "curproc": processes },
        },
        "pods": list,
        // Ours: the time that the rates were measured over, which the metrics API tells.
        "window": pod::back_off::go_duration(std::time::Duration::from_millis(u64::try_from(usage.window.as_millis()).unwrap_or(0))),
    })
}
