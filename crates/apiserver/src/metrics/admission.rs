//! How long admission took: each plug-in, both steps as a whole, and webhooks.
//!
//! Names, labels and buckets as upstream's, source: Kubernetes 1.36, `apiserver/pkg/admission/metrics/metrics.go`.

use std::{sync::Arc, time::Duration};

use ::metrics::{MakeHistogram, histograms};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::admission::Operation;

/// Upper bounds of what plug-ins take, in seconds.
const DURATIONS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
/// The same for webhooks, which have up to 30 seconds.
const WEBHOOK_DURATIONS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

/// Which of the two steps of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Objects may be changed.
    Admit,
    /// They may only be refused.
    Validate,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }
    /// As the labels of webhooks have it.
    fn webhook_name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validating",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    name: &'static str,
    operation: &'static str,
    rejected: Flag,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    operation: &'static str,
    rejected: Flag,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    name: Arc<str>,
    operation: &'static str,
    rejected: Flag,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookRequestLabels {
    code: u16,
    name: Arc<str>,
    operation: &'static str,
    rejected: Flag,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabels {
    error_type: &'static str,
    name: Arc<str>,
    operation: &'static str,
    rejection_code: u16,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailOpenLabels {
    name: Arc<str>,
    r#type: &'static str,
}

/// `true` or `false`.
type Flag = &'static str;

fn flag(is: bool) -> Flag {
    if is { "true" } else { "false" }
}

/// How asking a webhook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It agreed.
    Allowed,
    /// It refused, with this code.
    Refused(u16),
    /// It could not be asked, and the request was refused for that.
    Failed,
    /// It could not be asked, which does not matter.
    FailedOpen,
}

/// What is counted of admission.
pub struct AdmissionMetrics {
    plugins: Family<PluginLabels, Histogram, MakeHistogram>,
    steps: Family<StepLabels, Histogram, MakeHistogram>,
    webhooks: Family<WebhookLabels, Histogram, MakeHistogram>,
    webhook_requests: Family<WebhookRequestLabels, Counter>,
    rejections: Family<RejectionLabels, Counter>,
    fail_open: Family<FailOpenLabels, Counter>,
}

impl AdmissionMetrics {
    /// Nothing is counted yet.
    pub fn new(registry: &mut Registry) -> Self {
        let new = Self {
            plugins: histograms(DURATIONS),
            steps: histograms(DURATIONS),
            webhooks: histograms(WEBHOOK_DURATIONS),
            webhook_requests: Family::default(),
            rejections: Family::default(),
            fail_open: Family::default(),
        };
        registry.register("apiserver_admission_controller_admission_duration_seconds", "[STABLE] How long an admission plug-in took, in seconds", new.plugins.clone());
        registry.register("apiserver_admission_step_admission_duration_seconds", "[STABLE] How long all admission plug-ins of a step took, in seconds", new.steps.clone());
        registry.register("apiserver_admission_webhook_admission_duration_seconds", "[STABLE] How long an admission webhook took, in seconds", new.webhooks.clone());
        registry.register("apiserver_admission_webhook_request", "[ALPHA] Requests that admission webhooks were asked about", new.webhook_requests.clone());
        registry.register("apiserver_admission_webhook_rejection_count", "[ALPHA] Requests that were refused by an admission webhook, or since it could not be asked", new.rejections.clone());
        registry.register("apiserver_admission_webhook_fail_open_count", "[ALPHA] Requests that were let through since an admission webhook could not be asked", new.fail_open.clone());
        new
    }
    /// A plug-in looked at a request.
    pub fn plugin(&self, name: &'static str, step: Step, operation: Operation, rejected: bool, took: Duration) {
        let labels = PluginLabels { name, operation: operation.as_str(), rejected: flag(rejected), r#type: step.name() };
        self.plugins.get_or_create(&labels).observe(took.as_secs_f64());
    }
    /// All plug-ins did.
    pub fn step(&self, step: Step, operation: Operation, rejected: bool, took: Duration) {
        let labels = StepLabels { operation: operation.as_str(), rejected: flag(rejected), r#type: step.name() };
        self.steps.get_or_create(&labels).observe(took.as_secs_f64());
    }
    /// A webhook was asked, and answered or not.
    pub fn webhook(&self, name: &str, step: Step, operation: Operation, outcome: Outcome, took: Duration) {
        let (name, operation, kind): (Arc<str>, _, _) = (name.into(), operation.as_str(), step.webhook_name());
        // Source: upstream's dispatchers: 0 where nothing answered, 600 for what is no code.
        let (code, rejected) = match outcome {
            Outcome::Allowed => (200, false),
            Outcome::Refused(code) => (code.min(600), true),
            Outcome::Failed => (0, true),
            Outcome::FailedOpen => (0, false),
        };
        let labels = WebhookLabels { name: name.clone(), operation, rejected: flag(rejected), r#type: kind };
        self.webhooks.get_or_create(&labels).observe(took.as_secs_f64());
        self.webhook_requests.get_or_create(&WebhookRequestLabels { code, name: name.clone(), operation, rejected: flag(rejected), r#type: kind }).inc();
        match outcome {
            Outcome::Allowed => {}
            Outcome::FailedOpen => drop(self.fail_open.get_or_create(&FailOpenLabels { name, r#type: kind }).inc()),
            Outcome::Refused(_) | Outcome::Failed => {
                let error_type = if outcome == Outcome::Failed { "calling_webhook_error" } else { "no_error" };
                self.rejections.get_or_create(&RejectionLabels { error_type, name, operation, rejection_code: code, r#type: kind }).inc();
            }
        }
    }
}
