//! What the node counts, in the Prometheus text format.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

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
    pub probes: Probes,
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
            ("knarr_node_image_pulls_total", "counter", "Images pulled", &self.pulls),
        ];
        rows.iter()
            .map(|(name, kind, help, value)| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}\n", value.load(Ordering::Relaxed)))
            .collect()
    }
}

/// Which probe, and what it said. Source: Kubernetes 1.36, `pkg/kubelet/prober/prober_manager.go`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    container: String,
    namespace: String,
    pod: String,
    pod_uid: String,
    probe_type: &'static str,
    result: ProbeResult,
}

type ProbeResult = &'static str;

const RESULTS: [ProbeResult; 3] = ["successful", "failed", "unknown"];

/// Probes by container and result, as `/metrics/probes` shows them. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Probes(Family<ProbeLabels, Counter>);

/// The probes of one container of a pod; what was counted of them is forgotten with this.
#[derive(Debug)]
pub struct ContainerProbes {
    probes: Probes,
    container: String,
    namespace: String,
    pod: String,
    pod_uid: String,
}

impl Probes {
    /// Of a container of a pod, by names and the pod's UID.
    #[must_use]
    pub fn of(&self, namespace: &str, pod: &str, pod_uid: &str, container: &str) -> ContainerProbes {
        ContainerProbes { probes: self.clone(), container: container.to_owned(), namespace: namespace.to_owned(), pod: pod.to_owned(), pod_uid: pod_uid.to_owned() }
    }

    /// All of them as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut registry = Registry::default();
        registry.register("prober_probe", "[BETA] Probes of containers, by what they said", self.0.clone());
        ::metrics::text(&registry)
    }
}

impl ContainerProbes {
    fn labels(&self, probe_type: &'static str, result: ProbeResult) -> ProbeLabels {
        ProbeLabels {
            container: self.container.clone(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            pod_uid: self.pod_uid.clone(),
            probe_type,
            result,
        }
    }

    /// A probe said that all is well, or not, or nothing that helps.
    pub fn said(&self, probe_type: &'static str, well: Option<bool>) {
        let [successful, failed, unknown] = RESULTS;
        let result = well.map_or(unknown, |well| if well { successful } else { failed });
        self.probes.0.get_or_create(&self.labels(probe_type, result)).inc();
    }
}

impl Drop for ContainerProbes {
    fn drop(&mut self) {
        for probe_type in ["Startup", "Liveness", "Readiness"] {
            for result in RESULTS {
                self.probes.0.remove(&self.labels(probe_type, result));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_counted_by_what_they_said_and_forgotten_with_their_container() {
        let probes = Probes::default();
        let container = probes.of("a", "p", "uid", "main");
        container.said("Readiness", Some(true));
        container.said("Readiness", Some(true));
        container.said("Liveness", Some(false));
        container.said("Liveness", None);
        let text = probes.text();
        for (kind, result, count) in [("Readiness", "successful", 2), ("Liveness", "failed", 1), ("Liveness", "unknown", 1)] {
            let line = format!("prober_probe_total{{container=\"main\",namespace=\"a\",pod=\"p\",pod_uid=\"uid\",probe_type=\"{kind}\",result=\"{result}\"}} {count}\n");
            assert!(text.contains(&line), "{line}is not in\n{text}");
        }
        drop(container);
        assert!(!probes.text().contains("uid"), "{}", probes.text());
    }
}
