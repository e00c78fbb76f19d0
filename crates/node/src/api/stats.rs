//! What pods and the node use: `/stats/summary` and `/metrics/resource`, which `kubectl top` and autoscaling are fed from.

use container_runtime::{ContainerState, ContainerUsage};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{config::Context, machine, pod, pods::Pods};

/// Usage of one container.
struct Row {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    started: Timestamp,
    usage: ContainerUsage,
}

async fn rows(context: &Context, pods: &Pods) -> Vec<Row> {
    let mut rows = Vec::new();
    for view in pods.views() {
        for container in view.containers.iter() {
            let ContainerState::Running { started_at, .. } = container.state else { continue };
            // It may end at any moment, which is no error.
            let Ok(usage) = context.config.runtime.container_usage(&container.id).await else { continue };
            rows.push(Row {
                namespace: pod::namespace(&view.pod).to_owned(),
                pod: pod::name(&view.pod).to_owned(),
                uid: pod::uid(&view.pod).to_owned(),
                container: container.spec.name.clone(),
                started: started_at,
                usage,
            });
        }
    }
    rows.sort_by(|one, other| (&one.namespace, &one.pod, &one.container).cmp(&(&other.namespace, &other.pod, &other.container)));
    rows
}

/// CPU time of the whole machine in nanoseconds, idle time excepted.
fn node_cpu_nanoseconds() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(line) = text.lines().next() else { return 0 };
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let busy: u64 = ticks.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks).sum();
    // The kernel counts in hundredths of a second whatever its own tick is.
    busy.saturating_mul(10_000_000)
}

fn node_memory(context: &Context) -> u64 {
    context.machine.memory_bytes.saturating_sub(machine::available_memory().unwrap_or(0))
}

/// Prometheus text, in upstream's names.
pub async fn resource_metrics(context: &Context, pods: &Pods) -> String {
    let rows = rows(context, pods).await;
    let millis = context.config.clock.now().as_millisecond();
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let labels = |row: &Row| format!("{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}", row.container, row.namespace, row.pod);
    let mut text = String::new();
    let head = |text: &mut String, name: &str, kind: &str, help: &str| text.push_str(&format!("# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}\n"));
    head(&mut text, "container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds");
    for row in &rows {
        text.push_str(&format!("container_cpu_usage_seconds_total{} {} {millis}\n", labels(row), seconds(row.usage.cpu_nanoseconds)));
    }
    head(&mut text, "container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for row in &rows {
        text.push_str(&format!("container_memory_working_set_bytes{} {} {millis}\n", labels(row), row.usage.memory_working_set_bytes));
    }
    head(&mut text, "container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
    for row in &rows {
        text.push_str(&format!("container_start_time_seconds{} {} {millis}\n", labels(row), row.started.as_millisecond() as f64 / 1e3));
    }
    head(&mut text, "node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
    text.push_str(&format!("node_cpu_usage_seconds_total {} {millis}\n", seconds(node_cpu_nanoseconds())));
    head(&mut text, "node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    text.push_str(&format!("node_memory_working_set_bytes {} {millis}\n", node_memory(context)));
    for (name, value) in [
        ("pod_cpu_usage_seconds_total", (|usage| usage.cpu_nanoseconds as f64 / 1e9) as fn(&ContainerUsage) -> f64),
        ("pod_memory_working_set_bytes", |usage| usage.memory_working_set_bytes as f64),
    ] {
        head(&mut text, name, if name.ends_with("total") { "counter" } else { "gauge" }, "The same, of all containers of a pod");
        for group in rows.chunk_by(|one, other| one.uid == other.uid) {
            let Some(first) = group.first() else { continue };
            let sum: f64 = group.iter().map(|row| value(&row.usage)).sum();
            text.push_str(&format!("{name}{{namespace=\"{}\",pod=\"{}\"}} {sum} {millis}\n", first.namespace, first.pod));
        }
    }
    head(&mut text, "resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
    text.push_str("resource_scrape_error 0\n");
    text
}

/// The summary, in upstream's shape.
pub async fn summary(context: &Context, pods: &Pods) -> Value {
    let rows = rows(context, pods).await;
    let now = context.config.clock.now();
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let cpu = |nanoseconds: u64| json!({ "time": time, "usageCoreNanoSeconds": nanoseconds });
    let memory = |usage: &ContainerUsage| {
        json!({ "time": time, "workingSetBytes": usage.memory_working_set_bytes, "usageBytes": usage.memory_usage_bytes, "rssBytes": usage.memory_rss_bytes })
    };
    let list: Vec<Value> = rows
        .chunk_by(|one, other| one.uid == other.uid)
        .filter_map(|group| {
            let first = group.first()?;
            let containers: Vec<Value> = group
                .iter()
                .map(|row| {
                    json!({ "name": row.container, "startTime": row.started, "cpu": cpu(row.usage.cpu_nanoseconds), "memory": memory(&row.usage),
                        "rootfs": { "time": time, "usedBytes": row.usage.root_file_system_bytes } })
                })
                .collect();
            let total = group.iter().fold(ContainerUsage::default(), |sum, row| ContainerUsage {
                cpu_nanoseconds: sum.cpu_nanoseconds.saturating_add(row.usage.cpu_nanoseconds),
                memory_working_set_bytes: sum.memory_working_set_bytes.saturating_add(row.usage.memory_working_set_bytes),
                memory_usage_bytes: sum.memory_usage_bytes.saturating_add(row.usage.memory_usage_bytes),
                memory_rss_bytes: sum.memory_rss_bytes.saturating_add(row.usage.memory_rss_bytes),
                root_file_system_bytes: 0,
                processes: sum.processes.saturating_add(row.usage.processes),
            });
            Some(json!({ "podRef": { "name": first.pod, "namespace": first.namespace, "uid": first.uid }, "startTime": first.started,
                "containers": containers, "cpu": cpu(total.cpu_nanoseconds), "memory": memory(&total), "process_stats": { "process_count": total.processes } }))
        })
        .collect();
    let disk = machine::file_system(&context.config.data_directory).unwrap_or_default();
    json!({
        "node": {
            "nodeName": context.config.name,
            "cpu": cpu(node_cpu_nanoseconds()),
            "memory": { "time": time, "availableBytes": machine::available_memory(), "workingSetBytes": node_memory(context) },
            "fs": { "time": time, "capacityBytes": disk.0, "availableBytes": disk.1, "usedBytes": disk.0.saturating_sub(disk.1) },
        },
        "pods": list,
    })
}
