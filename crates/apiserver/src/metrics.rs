//! Counters and histograms under upstream's stable names, in the Prometheus text format.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::request_info::RequestInfo;

/// Content type of the text format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Which request. Names and values as upstream's, source: Kubernetes 1.36, `apiserver/pkg/endpoints/metrics/metrics.go`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    component: &'static str,
    dry_run: &'static str,
    group: String,
    resource: String,
    scope: &'static str,
    subresource: String,
    verb: &'static str,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: u16,
    component: &'static str,
    dry_run: &'static str,
    group: String,
    resource: String,
    scope: &'static str,
    subresource: String,
    verb: &'static str,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: &'static str,
}

fn shown_verb(verb: &'static str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        "options" => "OPTIONS",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match info {
        info if !info.name.is_empty() || info.verb == "create" => "resource",
        info if !info.namespace.is_empty() => "namespace",
        info if info.is_resource => "cluster",
        _ => "",
    }
}

fn request_kind(verb: &str) -> InFlightLabels {
    let reads = matches!(verb, "get" | "list" | "watch" | "head" | "options");
    InFlightLabels { request_kind: if reads { "readOnly" } else { "mutating" } }
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
    durations: Family<DurationLabels, Histogram>,
    in_flight: Family<InFlightLabels, Gauge>,
    pod_security: Family<PodSecurityLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(|| {
            Histogram::new([0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, 60.0])
        });
        let in_flight = Family::<InFlightLabels, Gauge>::default();
        registry.register("apiserver_request", "Requests answered, by verb, resource and code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "How long requests took, watches apart", durations.clone());
        registry.register("apiserver_current_inflight_requests", "Requests being answered now", in_flight.clone());
        let pod_security = Family::<PodSecurityLabels, Counter>::default();
        registry.register("pod_security_evaluations", "Pods and templates that were held against a level of PodSecurity", pod_security.clone());
        let started = Gauge::<f64, AtomicU64>::default();
        started.set(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        registry.register("process_start_time_seconds", "When the process started, in seconds since 1970", started);
        Self { registry, requests, durations, in_flight, pod_security }
    }
}

impl Metrics {
    /// A request begins.
    pub fn begin(&self, info: &RequestInfo) {
        self.in_flight.get_or_create(&request_kind(info.verb)).inc();
    }
    /// A pod was held against a level of PodSecurity.
    pub fn pod_security(&self, labels: PodSecurityLabels) {
        self.pod_security.get_or_create(&labels).inc();
    }
    /// A request was answered.
    pub fn end(&self, info: &RequestInfo, dry_run: bool, code: u16, took: Duration) {
        self.in_flight.get_or_create(&request_kind(info.verb)).dec();
        // Names that nobody serves would let clients grow the table without bound.
        let named = |name: &String| if code == 404 { String::new() } else { name.clone() };
        let labels = DurationLabels {
            component: "apiserver",
            dry_run: if dry_run { "All" } else { "" },
            group: named(&info.group),
            resource: if code == 404 && info.name.is_empty() { String::new() } else { info.resource.clone() },
            scope: scope(info),
            subresource: named(&info.subresource),
            verb: shown_verb(info.verb),
            version: named(&info.version),
        };
        if info.verb != "watch" {
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        let DurationLabels { component, dry_run, group, resource, scope, subresource, verb, version } = labels;
        self.requests.get_or_create(&RequestLabels { code, component, dry_run, group, resource, scope, subresource, verb, version }).inc();
    }
    /// Everything in the text format, with how many objects there are of each resource.
    pub fn text(&self, objects: impl Iterator<Item = (String, usize)>) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        let mut text = prometheus_text(&text);
        text.push_str("# HELP apiserver_storage_objects Objects that are stored, by resource\n# TYPE apiserver_storage_objects gauge\n");
        for (resource, count) in objects {
            let _ = writeln!(text, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
        }
        text
    }
}

/// The older text format, which everybody reads: in it a counter's name has its `_total` in the comments too, and nothing tells the end.
/// Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {}", words.trim_end_matches('.'));
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn requests_are_counted_as_upstream_counts_them() {
        let metrics = Metrics::default();
        for (method, path, dry_run, code) in [
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments", true, 201),
            (Method::GET, "/api/v1/namespaces/a/pods", false, 200),
            (Method::GET, "/apis/nobody.example/v1/inventions", false, 404),
        ] {
            let info = RequestInfo::parse(&method, path, false);
            metrics.begin(&info);
            metrics.end(&info, dry_run, code, Duration::from_millis(30));
        }
        let text = metrics.text([("pods".to_owned(), 3)].into_iter());
        let lines = [
            "# TYPE apiserver_request_total counter",
            r#"apiserver_request_total{code="201",component="apiserver",dry_run="All",group="apps",resource="deployments",scope="resource",subresource="",verb="POST",version="v1"} 1"#,
            r#"apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_request_duration_seconds_count{component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_current_inflight_requests{request_kind="mutating"} 0"#,
            "# HELP apiserver_storage_objects Objects that are stored, by resource",
            r#"apiserver_storage_objects{resource="pods"} 3"#,
        ];
        for line in lines {
            assert!(text.lines().any(|one| one == line), "{line}\n\nis not in\n\n{text}");
        }
        assert!(!text.contains("nobody.example") && !text.contains("# EOF") && !text.contains(".."), "{text}");
    }
}
