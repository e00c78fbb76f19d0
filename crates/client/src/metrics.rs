//! What the clients of a process send, and how it is answered, under the names that clients in Go count by.
//!
//! Whoever makes clients shares one [`RequestMetrics`] among them ([`Client::counted_by`](crate::Client::counted_by)), and registers it
//! where a page is made. Names, labels and buckets as upstream's, source: Kubernetes 1.36,
//! `component-base/metrics/prometheus/restclient/metrics.go`.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::Registry;

/// Upper bounds of how long requests take, in seconds.
const DURATIONS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// Upper bounds of bodies, in bytes: from 64 to 16 Mi.
const SIZES: [f64; 11] = [64.0, 256.0, 512.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// The code of an answer; none where none came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Code(Option<u16>);

impl EncodeLabelValue for Code {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self.0 {
            Some(code) => EncodeLabelValue::encode(&code, encoder),
            None => EncodeLabelValue::encode(&"<error>", encoder),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: Code,
    host: Arc<str>,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    host: Arc<str>,
    verb: &'static str,
}

type Histograms = Family<VerbLabels, Histogram, fn() -> Histogram>;

/// The requests of several clients. Clones count together.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    host: Arc<str>,
    requests: Family<RequestLabels, Counter>,
    durations: Histograms,
    request_sizes: Histograms,
    response_sizes: Histograms,
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

impl RequestMetrics {
    /// Of clients of the server at `host`, which is a name or an address with a port.
    pub fn new(host: impl Into<Arc<str>>) -> Self {
        let sizes: fn() -> Histogram = || Histogram::new(SIZES);
        Self {
            host: host.into(),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            request_sizes: Family::new_with_constructor(sizes),
            response_sizes: Family::new_with_constructor(sizes),
        }
    }

    /// Puts everything into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("rest_client_requests", "[ALPHA] Requests that were sent to the API server, by the code of the answer", self.requests.clone());
        registry.register("rest_client_request_duration_seconds", "[ALPHA] How long the API server took to answer, in seconds; streams apart", self.durations.clone());
        registry.register("rest_client_request_size_bytes", "[ALPHA] How large requests to the API server were, in bytes", self.request_sizes.clone());
        registry.register("rest_client_response_size_bytes", "[ALPHA] How large the API server's answers were, in bytes; streams apart", self.response_sizes.clone());
    }

    /// An answer began, or none came.
    pub(crate) fn answered(&self, method: &Method, code: Option<u16>) {
        self.requests.get_or_create(&RequestLabels { code: Code(code), host: self.host.clone(), method: verb(method) }).inc();
    }

    /// An answer was read to its end. Bodies without a byte do not count.
    pub(crate) fn read(&self, method: &Method, took: Duration, request_bytes: usize, response_bytes: Option<usize>) {
        let labels = VerbLabels { host: self.host.clone(), verb: verb(method) };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        if request_bytes > 0 {
            self.request_sizes.get_or_create(&labels).observe(request_bytes as f64);
        }
        if let Some(bytes) = response_bytes.filter(|bytes| *bytes > 0) {
            self.response_sizes.get_or_create(&labels).observe(bytes as f64);
        }
    }
}
