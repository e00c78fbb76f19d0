//! What is counted of Jobs.
//!
//! Names, labels and buckets as upstream's, source: Kubernetes 1.36, `pkg/controller/job/metrics/metrics.go`.

use std::time::Duration;

use ::metrics::{MakeHistogram, exponential, histograms};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use super::plan::finished_as;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SyncLabels {
    action: &'static str,
    completion_mode: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishedLabels {
    completion_mode: &'static str,
    reason: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodLabels {
    completion_mode: &'static str,
    result: &'static str,
}

/// What a look at a Job led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It is over, or suspended: its pods were not to be managed.
    Reconciling,
    /// Nothing was missing.
    Tracking,
    /// Pods were created.
    PodsCreated,
    /// Pods were removed.
    PodsDeleted,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Reconciling => "reconciling",
            Self::Tracking => "tracking",
            Self::PodsCreated => "pods_created",
            Self::PodsDeleted => "pods_deleted",
        }
    }
}

/// What is counted of Jobs.
pub(super) struct Counts {
    syncs: Family<SyncLabels, Counter>,
    durations: Family<SyncLabels, Histogram, MakeHistogram>,
    finished: Family<FinishedLabels, Counter>,
    pods: Family<PodLabels, Counter>,
}

fn completion_mode(job: &Job) -> &'static str {
    match job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) {
        Some("Indexed") => "Indexed",
        _ => "NonIndexed",
    }
}

impl Counts {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let counts = Self { syncs: Family::default(), durations: histograms(exponential(0.004, 2.0, 15)), finished: Family::default(), pods: Family::default() };
        registry.register("job_controller_job_syncs", "[STABLE] Looks at Jobs, by what they led to", counts.syncs.clone());
        registry.register("job_controller_job_sync_duration_seconds", "[STABLE] How long looks at Jobs took, in seconds", counts.durations.clone());
        registry.register("job_controller_jobs_finished", "[STABLE] Jobs that came to their end", counts.finished.clone());
        registry.register("job_controller_job_pods_finished", "[STABLE] Pods of Jobs that ended and are counted in the Job's status", counts.pods.clone());
        counts
    }

    /// A Job was looked at.
    pub(super) fn looked(&self, job: &Job, action: Action, succeeded: bool, took: Duration) {
        let labels = SyncLabels { action: action.name(), completion_mode: completion_mode(job), result: if succeeded { "success" } else { "error" } };
        self.syncs.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A Job got another status.
    pub(super) fn changed(&self, job: &Job, status: &JobStatus) {
        let completion_mode = completion_mode(job);
        let before = job.status.clone().unwrap_or_default();
        for (result, before, after) in [("succeeded", before.succeeded, status.succeeded), ("failed", before.failed, status.failed)] {
            let more = after.unwrap_or(0).saturating_sub(before.unwrap_or(0));
            if let Ok(more @ 1..) = u64::try_from(more) {
                self.pods.get_or_create(&PodLabels { completion_mode, result }).inc_by(more);
            }
        }
        if finished_as(&before).is_some() {
            return;
        }
        if let Some((succeeded, reason)) = finished_as(status) {
            let result = if succeeded { "succeeded" } else { "failed" };
            self.finished.get_or_create(&FinishedLabels { completion_mode, reason: reason.to_owned(), result }).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_and_ends_are_counted_once() {
        let mut registry = Registry::default();
        let counts = Counts::new(&mut registry);
        let job = |status: serde_json::Value| -> Job { serde_json::from_value(json!({"spec": {"completionMode": "Indexed", "template": {}}, "status": status})).unwrap() };
        let done = json!({"succeeded": 3, "failed": 1, "conditions": [{"type": "Complete", "status": "True", "reason": "CompletionsReached"}]});
        let status = job(done.clone()).status.unwrap();
        counts.changed(&job(json!({"succeeded": 1})), &status);
        counts.changed(&job(done), &status);
        counts.looked(&job(json!({})), Action::PodsCreated, true, Duration::from_millis(5));
        let text = ::metrics::text(&registry);
        for line in [
            r#"job_controller_job_pods_finished_total{completion_mode="Indexed",result="succeeded"} 2"#,
            r#"job_controller_job_pods_finished_total{completion_mode="Indexed",result="failed"} 1"#,
            r#"job_controller_jobs_finished_total{completion_mode="Indexed",reason="CompletionsReached",result="succeeded"} 1"#,
            r#"job_controller_job_syncs_total{action="pods_created",completion_mode="Indexed",result="success"} 1"#,
            r#"job_controller_job_sync_duration_seconds_bucket{le="0.004",action="pods_created",completion_mode="Indexed",result="success"} 0"#,
            r#"job_controller_job_sync_duration_seconds_bucket{le="65.536",action="pods_created",completion_mode="Indexed",result="success"} 1"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n\nis not in\n\n{text}");
        }
    }
}
