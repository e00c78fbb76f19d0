//! What the node counts, in the Prometheus text format.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters and gauges of one node. Names as upstream's, where upstream has them.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Pods this node works on.
    pub running_pods: AtomicU64,
    /// Containers started.
    pub started_containers: AtomicU64,
    /// Containers that could not be started.
    pub failed_starts: AtomicU64,
    /// Sandboxes made.
    pub started_pods: AtomicU64,
    /// Status patches written.
    pub status_writes: AtomicU64,
    /// Probes run.
    pub probes: AtomicU64,
    /// Images pulled.
    pub pulls: AtomicU64,
}

impl Metrics {
    /// Counts one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them as text.
    #[must_use]
    pub fn render(&self) -> String {
        let rows = [
            ("kubelet_running_pods", "gauge", "Number of pods this node works on", &self.running_pods),
            ("kubelet_started_containers_total", "counter", "Cumulative number of containers started", &self.started_containers),
            ("kubelet_started_containers_errors_total", "counter", "Cumulative number of errors when starting containers", &self.failed_starts),
            ("kubelet_started_pods_total", "counter", "Cumulative number of pods started", &self.started_pods),
            ("knarr_node_status_writes_total", "counter", "Pod status patches written", &self.status_writes),
            ("prober_probe_total", "counter", "Probes run", &self.probes),
            ("knarr_node_image_pulls_total", "counter", "Images pulled", &self.pulls),
        ];
        rows.iter()
            .map(|(name, kind, help, value)| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}\n", value.load(Ordering::Relaxed)))
            .collect()
    }
}
