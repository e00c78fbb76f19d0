//! What the scheduler counts.
//!
//! Names, labels and buckets as upstream's, source: Kubernetes 1.36, `pkg/scheduler/metrics/metrics.go`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::metrics::{MakeHistogram, exponential, histograms};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::queue::Pending;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    profile: Arc<str>,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PointLabels {
    extension_point: &'static str,
    profile: Arc<str>,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IncomingLabels {
    event: &'static str,
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptsLabels {
    attempts: u32,
}

/// How an attempt to schedule a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is bound.
    Scheduled,
    /// It fits nowhere.
    Unschedulable,
    /// Something else went wrong.
    Failed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Failed => "error",
        }
    }
}

/// Parts of an attempt, in upstream's names. What upstream's `Reserve` and `Permit` do has no part of its own here, and a score is
/// prepared where it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Filters read the pod.
    PreFilter,
    /// They judge nodes.
    Filter,
    /// Room is looked for.
    PostFilter,
    /// Nodes are scored.
    Score,
    /// Volumes are bound.
    PreBind,
    /// The pod is.
    Bind,
}

impl Point {
    fn name(self) -> &'static str {
        match self {
            Self::PreFilter => "PreFilter",
            Self::Filter => "Filter",
            Self::PostFilter => "PostFilter",
            Self::Score => "Score",
            Self::PreBind => "PreBind",
            Self::Bind => "Bind",
        }
    }
}

/// How a part of an attempt ended, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Well.
    Success,
    /// The pod does not fit.
    Unschedulable,
    /// It does not fit, whoever leaves.
    Unresolvable,
    /// It could not be done.
    Error,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Unschedulable => "Unschedulable",
            Self::Unresolvable => "UnschedulableAndUnresolvable",
            Self::Error => "Error",
        }
    }
}

/// What the scheduler counts. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    attempts: Family<AttemptLabels, Counter>,
    durations: Family<AttemptLabels, Histogram, MakeHistogram>,
    points: Family<PointLabels, Histogram, MakeHistogram>,
    pending: Family<QueueLabels, Gauge>,
    incoming: Family<IncomingLabels, Counter>,
    attempts_of_a_pod: Histogram,
    waits: Family<AttemptsLabels, Histogram, MakeHistogram>,
    preemptions: Counter,
    victims: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (attempts, pending, incoming, preemptions) = (Family::default(), Family::default(), Family::default(), Counter::default());
        let durations = histograms(exponential(0.001, 2.0, 15));
        let points = histograms(exponential(0.0001, 2.0, 12));
        let waits = histograms(exponential(0.01, 2.0, 20));
        let attempts_of_a_pod = Histogram::new(exponential(1.0, 2.0, 5));
        let victims = Histogram::new(exponential(1.0, 2.0, 7));
        registry.register("scheduler_schedule_attempts", "[STABLE] Attempts to schedule a pod, by how they ended", Family::clone(&attempts));
        registry.register("scheduler_scheduling_attempt_duration_seconds", "[STABLE] How long attempts to schedule a pod took, its binding included, in seconds", Family::clone(&durations));
        registry.register("scheduler_framework_extension_point_duration_seconds", "[STABLE] How long all plug-ins of a part of an attempt took, in seconds", Family::clone(&points));
        registry.register("scheduler_pending_pods", "[STABLE] Pods without node: waiting for their turn (active), for their back-off, for the cluster to change (unschedulable), or for their gates (gated)", Family::clone(&pending));
        registry.register("scheduler_queue_incoming_pods", "[STABLE] Pods that came into a queue, by queue and what moved them", Family::clone(&incoming));
        registry.register("scheduler_pod_scheduling_attempts", "[STABLE] How many attempts pods took until they were bound", attempts_of_a_pod.clone());
        registry.register("scheduler_pod_scheduling_sli_duration_seconds", "[BETA] How long pods waited from their first place in the queue until they were bound, in seconds", Family::clone(&waits));
        registry.register("scheduler_preemption_attempts", "[STABLE] Attempts to make room for a pod by displacing others", preemptions.clone());
        registry.register("scheduler_preemption_victims", "[STABLE] How many pods were displaced at a time", victims.clone());
        Self { registry: Arc::new(registry), attempts, durations, points, pending, incoming, attempts_of_a_pod, waits, preemptions, victims }
    }
}

impl Metrics {
    /// All of them as text.
    pub fn text(&self) -> String {
        ::metrics::text(&self.registry)
    }
    /// Those of one profile.
    pub fn of_profile(&self, name: &str) -> ProfileMetrics {
        ProfileMetrics { metrics: self.clone(), profile: name.into() }
    }
    /// How many pods wait.
    pub(crate) fn pending(&self, pending: Pending, gated: usize) {
        for (queue, count) in [("active", pending.active), ("backoff", pending.backing_off), ("unschedulable", pending.waiting), ("gated", gated)] {
            self.pending.get_or_create(&QueueLabels { queue }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    /// A pod came into a queue.
    pub(crate) fn incoming(&self, queue: &'static str, event: &'static str) {
        self.incoming.get_or_create(&IncomingLabels { event, queue }).inc();
    }
    /// Room is looked for.
    pub(crate) fn preemption(&self) {
        self.preemptions.inc();
    }
    /// So many pods are to leave.
    pub(crate) fn victims(&self, count: usize) {
        self.victims.observe(count as f64);
    }
    /// A pod was bound after so many attempts and this time.
    pub(crate) fn bound(&self, attempts: u32, waited: Duration) {
        self.attempts_of_a_pod.observe(f64::from(attempts));
        // As upstream: many attempts are counted together, so that there are not too many rows.
        self.waits.get_or_create(&AttemptsLabels { attempts: attempts.min(15) }).observe(waited.as_secs_f64());
    }
}

/// What is counted of attempts by one profile.
#[derive(Clone)]
pub struct ProfileMetrics {
    metrics: Metrics,
    profile: Arc<str>,
}

impl ProfileMetrics {
    /// An attempt that began then has ended.
    pub fn attempt(&self, outcome: Outcome, began: Instant) {
        let labels = AttemptLabels { profile: self.profile.clone(), result: outcome.name() };
        self.metrics.attempts.get_or_create(&labels).inc();
        self.metrics.durations.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
    }
    /// A part of an attempt that began then has ended.
    pub fn point(&self, point: Point, status: Status, began: Instant) {
        let labels = PointLabels { extension_point: point.name(), profile: self.profile.clone(), status: status.name() };
        self.metrics.points.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_upstreams_names_labels_and_buckets() {
        let metrics = Metrics::default();
        let profile = metrics.of_profile("default-scheduler");
        profile.attempt(Outcome::Scheduled, Instant::now());
        profile.attempt(Outcome::Unschedulable, Instant::now());
        profile.point(Point::Filter, Status::Unresolvable, Instant::now());
        metrics.pending(Pending { active: 1, backing_off: 2, waiting: 3 }, 4);
        metrics.incoming("active", "UnschedulablePodAdd");
        metrics.preemption();
        metrics.victims(3);
        metrics.bound(2, Duration::from_millis(30));
        let text = metrics.text();
        for line in [
            r#"scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 1"#,
            r#"scheduler_schedule_attempts_total{profile="default-scheduler",result="unschedulable"} 1"#,
            r#"scheduler_scheduling_attempt_duration_seconds_bucket{le="16.384",profile="default-scheduler",result="scheduled"} 1"#,
            r#"scheduler_framework_extension_point_duration_seconds_bucket{le="0.2048",extension_point="Filter",profile="default-scheduler",status="UnschedulableAndUnresolvable"} 1"#,
            r#"scheduler_pending_pods{queue="active"} 1"#,
            r#"scheduler_pending_pods{queue="backoff"} 2"#,
            r#"scheduler_pending_pods{queue="unschedulable"} 3"#,
            r#"scheduler_pending_pods{queue="gated"} 4"#,
            r#"scheduler_queue_incoming_pods_total{event="UnschedulablePodAdd",queue="active"} 1"#,
            r#"scheduler_pod_scheduling_attempts_bucket{le="1"} 0"#,
            r#"scheduler_pod_scheduling_attempts_bucket{le="16"} 1"#,
            r#"scheduler_pod_scheduling_sli_duration_seconds_bucket{le="5242.88",attempts="2"} 1"#,
            "scheduler_preemption_attempts_total 1",
            r#"scheduler_preemption_victims_bucket{le="4"} 1"#,
            r#"scheduler_preemption_victims_bucket{le="64"} 1"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n\nis not in\n\n{text}");
        }
    }
}
