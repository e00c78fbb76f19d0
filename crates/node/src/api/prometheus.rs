//! Usage in the Prometheus text format: `/metrics/resource`, and `/metrics/cadvisor` for dashboards that were made for it.

use std::fmt::Write;

use container_runtime::ContainerUsage;
use prometheus_client::registry::Registry;

use super::usage::{Row, counted};
use crate::{config::Context, pods::Pods};

/// What `/metrics` says of the node agent itself: what it is, whose, and what it asks of the API.
pub fn own_metrics(context: &Context) -> String {
    let mut registry = Registry::default();
    context.requests.register(&mut registry);
    let mut text = ::metrics::text(&registry);
    let (major, minor) = context.config.version.trim_start_matches('v').split_once('.').unwrap_or_default();
    let minor = minor.split('.').next().unwrap_or_default();
    let mut always_one = |name: &str, labels: &str, help: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {name} [ALPHA] {help}\n# TYPE {name} gauge\n{name}{{{labels}}} 1");
    };
    let version = &context.config.version;
    always_one("kubernetes_build_info", &format!("git_version=\"{version}\",major=\"{major}\",minor=\"{minor}\""), "Always 1; the labels say what this is");
    always_one("kubelet_node_name", &format!("node=\"{}\"", context.config.name), "Always 1; the label says which node this is");
    text
}

/// `/metrics/resource`, in upstream's names.
pub async fn resource_metrics(context: &Context, pods: &Pods) -> String {
    let usage = counted(context, pods).await;
    let rows = &usage.rows;
    let millis = context.config.clock.now().as_millisecond();
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let labels = |row: &Row| format!("{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}", row.container, row.namespace, row.pod);
    let mut text = String::new();
    let head = |text: &mut String, name: &str, kind: &str, help: &str| text.push_str(&format!("# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}\n"));
    head(&mut text, "container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds");
    for row in rows {
        text.push_str(&format!("container_cpu_usage_seconds_total{} {} {millis}\n", labels(row), seconds(row.usage.cpu_nanoseconds)));
    }
    head(&mut text, "container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for row in rows {
        text.push_str(&format!("container_memory_working_set_bytes{} {} {millis}\n", labels(row), row.usage.memory_working_set_bytes));
    }
    head(&mut text, "container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
    for row in rows {
        text.push_str(&format!("container_start_time_seconds{} {} {millis}\n", labels(row), row.started.as_millisecond() as f64 / 1e3));
    }
    head(&mut text, "node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
    text.push_str(&format!("node_cpu_usage_seconds_total {} {millis}\n", seconds(usage.node_cpu_nanoseconds)));
    head(&mut text, "node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    text.push_str(&format!("node_memory_working_set_bytes {} {millis}\n", usage.node_memory_bytes));
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
    text.push_str(if usage.is_incomplete { "resource_scrape_error 1\n" } else { "resource_scrape_error 0\n" });
    text
}


/// `/metrics/cadvisor`: the measures that most dashboards read, in cAdvisor's names.
pub async fn cadvisor_metrics(context: &Context, pods: &Pods) -> String {
    let usage = counted(context, pods).await;
    let millis = context.config.clock.now().as_millisecond();
    let labels = |row: &Row| {
        format!(
            "{{container=\"{}\",id=\"/pod{}/{}\",image=\"{}\",name=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
            row.container, row.uid, row.id.0, row.image, row.id.0, row.namespace, row.pod
        )
    };
    let measures: [(&str, &str, &str, fn(&Row) -> f64); 8] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |row| row.usage.cpu_nanoseconds as f64 / 1e9),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |row| row.usage.memory_working_set_bytes as f64),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, whenever it was accessed.", |row| row.usage.memory_usage_bytes as f64),
        ("container_memory_rss", "gauge", "Size of anonymous memory in bytes.", |row| row.usage.memory_rss_bytes as f64),
        ("container_fs_usage_bytes", "gauge", "Bytes of the writable layer.", |row| row.usage.root_file_system_bytes as f64),
        ("container_processes", "gauge", "Number of processes in the container.", |row| row.usage.processes as f64),
        ("container_start_time_seconds", "gauge", "Start time since the Unix epoch in seconds.", |row| row.started.as_second() as f64),
        ("container_last_seen", "gauge", "Last time that the container was seen.", |_| 0.0),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in measures {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for row in &usage.rows {
            let value = if name == "container_last_seen" { (millis / 1000) as f64 } else { value(row) };
            text.push_str(&format!("{name}{} {value} {millis}\n", labels(row)));
        }
    }
    text.push_str(&format!("# HELP machine_cpu_cores Number of CPUs.\n# TYPE machine_cpu_cores gauge\nmachine_cpu_cores {}\n", context.machine.cpus));
    text.push_str(&format!("# HELP machine_memory_bytes Memory of the machine.\n# TYPE machine_memory_bytes gauge\nmachine_memory_bytes {}\n", context.machine.memory_bytes));
    text
}
