//! Counters and histograms under upstream's stable names, in the Prometheus text format.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
    resource: String,
}

/// What a level of PodSecurity said about a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PodSecurityLabels {
    /// `allow` or `deny`
    pub decision: &'static str,
    /// `privileged`, `baseline` or `restricted`
    pub policy_level: &'static str,
    /// `latest`, `v1.N`, or `future` for a version that is not known yet
    pub policy_version: String,
    /// `enforce` or `warn`
    pub mode: &'static str,
    /// `create` or `update`
    pub request_operation: &'static str,
    /// `pod` or `controller`
    pub resource: &'static str,
    /// Empty, or `ephemeralcontainers`
    pub subresource: String,
}

/// The server's metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<VerbLabels, Histogram>,
    in_flight: Gauge,
    pod_security: Family<PodSecurityLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<VerbLabels, Histogram>::new_with_constructor(|| {
            Histogram::new([0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, 60.0])
        });
        let in_flight = Gauge::default();
        registry.register("apiserver_request", "Requests answered, by verb, resource and code.", requests.clone());
        registry.register("apiserver_request_duration_seconds", "How long requests took, watches apart.", durations.clone());
        registry.register("apiserver_current_inflight_requests", "Requests being answered now.", in_flight.clone());
        let pod_security = Family::<PodSecurityLabels, Counter>::default();
        registry.register("pod_security_evaluations", "Pods and templates that were held against a level of PodSecurity.", pod_security.clone());
        Self { registry, requests, durations, in_flight, pod_security }
    }
}

impl Metrics {
    /// A request begins.
    pub fn begin(&self) {
        self.in_flight.inc();
    }
    /// A pod was held against a level of PodSecurity.
    pub fn pod_security(&self, labels: PodSecurityLabels) {
        self.pod_security.get_or_create(&labels).inc();
    }
    /// A request was answered.
    pub fn end(&self, info: &crate::request_info::RequestInfo, code: u16, took: Duration) {
        self.in_flight.dec();
        let labels = RequestLabels {
            verb: info.verb,
            group: info.group.clone(),
            version: info.version.clone(),
            // Names that nobody serves would let clients grow the table without bound.
            resource: if code == 404 && info.name.is_empty() { String::new() } else { info.resource.clone() },
            subresource: if code == 404 { String::new() } else { info.subresource.clone() },
            code,
        };
        if info.verb != "watch" {
            self.durations.get_or_create(&VerbLabels { verb: info.verb, resource: labels.resource.clone() }).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&labels).inc();
    }
    /// Everything in the text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
