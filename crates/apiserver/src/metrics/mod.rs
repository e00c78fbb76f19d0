//! What the server counts, under upstream's names.
//!
//! - [`requests`]: requests, and streams under way
//! - [`admission`]: plug-ins and webhooks
//! - this module: the rest, and the pages `/metrics` and `/metrics/slis`

pub mod admission;
pub mod requests;

use std::fmt::Write;

use ::metrics::Pages;
use jiff::SignedDuration;
use meta::GroupResource;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::request_info::RequestInfo;

use admission::AdmissionMetrics;
pub use requests::{Answered, Requests};

/// Upper bounds of how long certificates will still last, in seconds: from half an hour to a year.
/// Source: Kubernetes 1.36, `apiserver/pkg/authentication/request/x509/x509.go`.
const REMAINING_LIFETIMES: [f64; 14] =
    [0.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 345_600.0, 604_800.0, 2_592_000.0, 7_776_000.0, 15_552_000.0, 31_104_000.0];

/// What a level of PodSecurity said about a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PodSecurityLabels {
    /// `allow` or `deny`
    pub decision: &'static str,
    /// `privileged`, `baseline` or `restricted`
    pub policy_level: &'static str,
    /// `latest`, `v1.N`, or `future` for a version that is not known yet
    pub policy_version: String,
    /// `enforce`, `audit` or `warn`
    pub mode: &'static str,
    /// `create` or `update`
    pub request_operation: &'static str,
    /// `pod` or `controller`
    pub resource: &'static str,
    /// Empty, or `ephemeralcontainers`
    pub subresource: String,
}

/// A request that PodSecurity had to do with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PodSecurityRequest {
    /// `create` or `update`
    pub request_operation: &'static str,
    /// `pod` or `controller`
    pub resource: &'static str,
    /// Empty, or `ephemeralcontainers`
    pub subresource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodSecurityErrorLabels {
    fatal: &'static str,
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
}

/// What is counted of PodSecurity.
#[derive(Default)]
pub struct PodSecurityMetrics {
    evaluations: Family<PodSecurityLabels, Counter>,
    exemptions: Family<PodSecurityRequest, Counter>,
    errors: Family<PodSecurityErrorLabels, Counter>,
}

impl PodSecurityMetrics {
    fn new(registry: &mut Registry) -> Self {
        let new = Self::default();
        registry.register("pod_security_evaluations", "[ALPHA] Pods and templates that were held against a level of PodSecurity", new.evaluations.clone());
        registry.register("pod_security_exemptions", "[ALPHA] Pods and templates that are exempt from PodSecurity", new.exemptions.clone());
        registry.register("pod_security_errors", "[ALPHA] Labels of PodSecurity that could not be read when they were needed", new.errors.clone());
        new
    }
    /// A pod was held against a level.
    pub fn evaluated(&self, labels: PodSecurityLabels) {
        self.evaluations.get_or_create(&labels).inc();
    }
    /// A pod was not looked at.
    pub fn exempt(&self, request: PodSecurityRequest) {
        self.exemptions.get_or_create(&request).inc();
    }
    /// The labels of its namespace could not be read.
    pub fn failed(&self, request: PodSecurityRequest) {
        let PodSecurityRequest { request_operation, resource, subresource } = request;
        self.errors.get_or_create(&PodSecurityErrorLabels { fatal: "false", request_operation, resource, subresource }).inc();
    }
}

/// A version that is not to be used any more, and was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeprecatedLabels {
    group: String,
    removed_release: &'static str,
    resource: String,
    subresource: String,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    name: String,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckedLabels {
    name: String,
    status: &'static str,
    r#type: &'static str,
}

/// Uses of service accounts' tokens that live for longer than they were asked for. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct TokenUses {
    valid: Counter,
    stale: Counter,
}

impl TokenUses {
    /// One was used; a stale one should have been replaced by then.
    pub fn used(&self, is_stale: bool) {
        if is_stale { &self.stale } else { &self.valid }.inc();
    }
}

/// The server's metrics.
pub struct Metrics {
    /// Of requests.
    pub requests: Requests,
    /// Of admission.
    pub admission: AdmissionMetrics,
    /// What other parts of the process count, by path: parts that share the server's port.
    pub pages: Pages,
    /// Of PodSecurity.
    pub pod_security: PodSecurityMetrics,
    /// Of tokens.
    pub token_uses: TokenUses,
    registry: Registry,
    certificates: Histogram,
    deprecated: Family<DeprecatedLabels, Gauge>,
    /// What `/metrics/slis` shows.
    health: Registry,
    checks: Family<CheckLabels, Gauge>,
    checked: Family<CheckedLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Requests::default();
        registry.register_collector(Box::new(requests.clone()));
        let admission = AdmissionMetrics::new(&mut registry);
        let deprecated = Family::<DeprecatedLabels, Gauge>::default();
        registry.register("apiserver_requested_deprecated_apis", "[STABLE] Versions that are not to be used any more and were", deprecated.clone());
        let pod_security = PodSecurityMetrics::new(&mut registry);
        let certificates = Histogram::new(REMAINING_LIFETIMES);
        registry.register("apiserver_client_certificate_expiration_seconds", "[ALPHA] How long clients' certificates will still last, at each request, in seconds", certificates.clone());
        let token_uses = TokenUses::default();
        registry.register("serviceaccount_valid_tokens", "[ALPHA] Uses of tokens with an extended life within the time they were asked for", token_uses.valid.clone());
        registry.register("serviceaccount_stale_tokens", "[ALPHA] Uses of tokens with an extended life that should have been replaced by then", token_uses.stale.clone());
        registry.register("kubernetes_build_info", "[ALPHA] Always 1; the labels say what this is", crate::version::build_info());
        let mut health = Registry::default();
        let (checks, checked) = (Family::<CheckLabels, Gauge>::default(), Family::<CheckedLabels, Counter>::default());
        health.register("kubernetes_healthcheck", "[STABLE] What a check said last: 1 where all is well", checks.clone());
        health.register("kubernetes_healthchecks", "[STABLE] Checks that were made, by what they said", checked.clone());
        Self { requests, admission, pages: Pages::default(), token_uses, registry, certificates, pod_security, deprecated, health, checks, checked }
    }
}

impl Metrics {
    /// A request came with a certificate that lasts for so long yet.
    pub fn certificate_shown(&self, remaining: SignedDuration) {
        self.certificates.observe(remaining.as_secs_f64().max(0.0));
    }
    /// A version was asked for that is not to be used any more.
    pub fn deprecated(&self, info: &RequestInfo) {
        let labels = DeprecatedLabels {
            group: info.group.clone(),
            // None of what is served has a release that it is to be gone in.
            removed_release: "",
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            version: info.version.clone(),
        };
        self.deprecated.get_or_create(&labels).set(1);
    }
    /// A check of the server's health was made.
    pub fn checked(&self, name: &str, kind: &'static str, passed: bool) {
        self.checks.get_or_create(&CheckLabels { name: name.to_owned(), r#type: kind }).set(passed.into());
        let status = if passed { "success" } else { "error" };
        self.checked.get_or_create(&CheckedLabels { name: name.to_owned(), status, r#type: kind }).inc();
    }
    /// The page at a path; none where there is no such. `objects` tells how many there are of each resource, by group and name.
    pub fn page(&self, path: &str, objects: impl Fn() -> Vec<(GroupResource, usize)>) -> Option<String> {
        let others = self.pages.page(path);
        match path {
            "/metrics" => {
                let mut text = ::metrics::text(&self.registry);
                text.push_str(&others.unwrap_or_default());
                stored(&mut text, &objects());
                Some(text)
            }
            "/metrics/slis" => Some(::metrics::text(&self.health) + &others.unwrap_or_default()),
            _ => others,
        }
    }
}

/// How many objects there are, under the name that is stable and the one that follows it.
fn stored(text: &mut String, objects: &[(GroupResource, usize)]) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "# HELP apiserver_storage_objects [STABLE] Objects that are stored, by resource\n# TYPE apiserver_storage_objects gauge");
    for (resource, count) in objects {
        let _ = writeln!(text, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
    }
    let _ = writeln!(text, "# HELP apiserver_resource_objects [ALPHA] Objects that are stored, by group and resource\n# TYPE apiserver_resource_objects gauge");
    for (resource, count) in objects {
        let _ = writeln!(text, "apiserver_resource_objects{{group=\"{}\",resource=\"{}\"}} {count}", resource.group, resource.resource);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;

    use super::*;

    #[track_caller]
    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|one| one == *line), "{line}\n\nis not in\n\n{text}");
        }
    }

    #[test]
    fn requests_are_counted_as_upstream_counts_them() {
        let metrics = Metrics::default();
        for (method, path, applies, dry_run, code, size) in [
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments", false, true, 201, 700),
            (Method::GET, "/api/v1/namespaces/a/pods", false, false, 200, 20_000),
            (Method::PATCH, "/api/v1/namespaces/a/pods/b", true, false, 200, 700),
            (Method::GET, "/apis/nobody.example/v1/inventions/one", false, false, 404, 100),
            (Method::GET, "/api/v1/namespaces/a/pods/gone", false, false, 404, 100),
            (Method::GET, "/readyz", false, false, 200, 2),
        ] {
            let info = RequestInfo::parse(&method, path, false);
            let served = || !path.contains("nobody");
            let begun = metrics.requests.begin(&info, applies, dry_run, served);
            begun.end(&info, Answered { code, size: Some(size), waited: Duration::ZERO }, served);
        }
        let text = metrics.page("/metrics", || vec![(GroupResource::new("apps", "deployments"), 3)]).unwrap();
        has(&text, &[
            "# TYPE apiserver_request_total counter",
            r#"apiserver_request_total{code="201",component="apiserver",dry_run="All",group="apps",resource="deployments",scope="resource",subresource="",verb="POST",version="v1"} 1"#,
            r#"apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="APPLY",version="v1"} 1"#,
            r#"apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="GET",version="v1"} 1"#,
            r#"apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="",scope="resource",subresource="",verb="GET",version=""} 1"#,
            r#"apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="",scope="",subresource="/readyz",verb="GET",version=""} 1"#,
            r#"apiserver_request_duration_seconds_count{component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{le="60",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_response_sizes_bucket{le="10000",component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 0"#,
            r#"apiserver_response_sizes_bucket{le="100000",component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_current_inflight_requests{request_kind="readOnly"} 1"#,
            r#"apiserver_storage_objects{resource="deployments.apps"} 3"#,
            r#"apiserver_resource_objects{group="apps",resource="deployments"} 3"#,
        ]);
        assert!(!text.contains("nobody.example") && !text.contains("inventions") && !text.contains("# EOF"), "{text}");
    }

    #[test]
    fn a_stream_is_under_way_as_long_as_somebody_holds_it_and_counted_when_it_ends() {
        let metrics = Metrics::default();
        let info = RequestInfo::parse(&Method::GET, "/api/v1/pods", true);
        let begun = metrics.requests.begin(&info, false, false, || true);
        let body = begun.stream().cloned();
        begun.end(&info, Answered { code: 200, size: None, waited: Duration::ZERO }, || true);
        drop(begun);
        let labels = r#"component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1""#;
        let text = || metrics.page("/metrics", Vec::new).unwrap();
        has(&text(), &[&format!("apiserver_longrunning_requests{{{labels}}} 1"), r#"apiserver_current_inflight_requests{request_kind="readOnly"} 0"#]);
        assert!(!text().contains("apiserver_request_total{"), "{}", text());
        drop(body);
        has(&text(), &[&format!("apiserver_longrunning_requests{{{labels}}} 0")]);
        assert!(text().contains(r#"verb="WATCH",version="v1"} 1"#), "{}", text());
    }

    #[test]
    fn requests_that_webhooks_hold_up_are_as_fast_as_promised() {
        let metrics = Metrics::default();
        let info = RequestInfo::parse(&Method::POST, "/api/v1/namespaces/a/pods", false);
        let begun = metrics.requests.begin(&info, false, false, || true);
        begun.end(&info, Answered { code: 201, size: None, waited: Duration::from_secs(5) }, || true);
        has(&metrics.page("/metrics", Vec::new).unwrap(), &[
            r#"apiserver_request_sli_duration_seconds_sum{component="apiserver",group="",resource="pods",scope="resource",subresource="",verb="POST",version="v1"} 0.0"#,
        ]);
    }

    #[test]
    fn health_has_a_page_of_its_own_and_others_may_add_some() {
        let metrics = Metrics::default();
        metrics.checked("etcd", "livez", true);
        metrics.checked("etcd", "livez", false);
        has(&metrics.page("/metrics/slis", Vec::new).unwrap(), &[
            r#"kubernetes_healthcheck{name="etcd",type="livez"} 0"#,
            r#"kubernetes_healthchecks_total{name="etcd",status="success",type="livez"} 1"#,
            r#"kubernetes_healthchecks_total{name="etcd",status="error",type="livez"} 1"#,
        ]);
        assert_eq!(metrics.page("/metrics/resources", Vec::new), None);
        metrics.pages.add("/metrics/resources", || "x 1\n".to_owned());
        assert_eq!(metrics.page("/metrics/resources", Vec::new).as_deref(), Some("x 1\n"));
    }
}
