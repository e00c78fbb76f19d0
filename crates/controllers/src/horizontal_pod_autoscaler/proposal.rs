//! One metric of an autoscaler, as a number of pods.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource,
    ObjectMetricStatus, PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meta::quantity::Quantity as Amount;

use super::metrics;
use super::usage::{self, Target, Tolerance, Usage};
use crate::discovery::served_resources;
use crate::pods;
use crate::selector::in_go;

/// The workload that is measured.
pub(super) struct Workload<'a> {
    pub namespace: &'a str,
    /// Selects its pods, as in a URL.
    pub selector: &'a str,
    pub pods: &'a [Arc<Pod>],
    /// How many it should have now.
    pub replicas: i32,
    /// How many it has, as its scale says.
    pub observed: i32,
    pub tolerance: Tolerance,
    pub now: Timestamp,
}

/// What a metric asks for.
#[derive(Debug)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// The metric, in words.
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric says nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub reason: &'static str,
    /// As events and conditions tell it.
    pub message: String,
    /// As it is told where it stands for all that failed.
    pub whole: String,
}

fn milli(amount: Option<&Quantity>) -> Option<i64> {
    Amount::parse(&amount?.0).ok().map(|amount| amount.milli_value())
}

fn quantity(milli: i64) -> Option<Quantity> {
    Some(Quantity(Amount::from_milli(milli).to_string()))
}

fn current(usage: &Usage) -> MetricValueStatus {
    MetricValueStatus { average_utilization: usage.utilization, average_value: quantity(usage.average_milli), value: None }
}

/// Asks one metric.
/// Source: Kubernetes 1.36, `computeReplicasForMetric`.
pub(super) async fn propose(client: &client::Client, metric: &MetricSpec, workload: &Workload<'_>) -> Result<Proposal, Failure> {
    let (reason, kind, result) = match (metric.type_.as_str(), metric) {
        ("Resource", MetricSpec { resource: Some(source), .. }) => {
            let result = resource(client, metric, &source.name, None, &source.target, workload).await;
            ("FailedGetResourceMetric", format!("{} resource", source.name), result)
        }
        ("ContainerResource", MetricSpec { container_resource: Some(source), .. }) => {
            let result = resource(client, metric, &source.name, Some(&source.container), &source.target, workload).await;
            ("FailedGetContainerResourceMetric", format!("{} container", source.container), result)
        }
        ("Pods", MetricSpec { pods: Some(source), .. }) => ("FailedGetPodsMetric", "pods".to_owned(), of_pods(client, source, workload).await),
        ("Object", MetricSpec { object: Some(source), .. }) => ("FailedGetObjectMetric", "object".to_owned(), of_object(client, source, workload).await),
        ("External", MetricSpec { external: Some(source), .. }) => {
            ("FailedGetExternalMetric", format!("{} external", source.metric.name), external(client, source, workload).await)
        }
        (other, _) => {
            let message = format!("unknown metric source type \"{other}\"");
            return Err(Failure { reason: "InvalidMetricSourceType", whole: message.clone(), message });
        }
    };
    result.map_err(|problem| Failure { reason, whole: format!("failed to get {kind} metric value: {}{}", problem.about, problem.message), message: problem.message })
}

/// What went wrong, and what is said before that where it stands for all that failed.
struct Problem {
    about: String,
    message: String,
}

impl From<String> for Problem {
    fn from(message: String) -> Self {
        Self { about: String::new(), message }
    }
}

/// What pods, or their containers, use of a resource.
/// Source: Kubernetes 1.36, `computeStatusForResourceMetricGeneric`.
async fn resource(
    client: &client::Client,
    metric: &MetricSpec,
    name: &str,
    container: Option<&str>,
    wanted: &MetricTarget,
    workload: &Workload<'_>,
) -> Result<Proposal, Problem> {
    let is_relative = wanted.average_value.is_none();
    if is_relative && wanted.average_utilization.is_none() {
        return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned().into());
    }
    let measure = if is_relative { "utilization" } else { "usage" };
    let found = resource_replicas(client, name, container, wanted, workload).await;
    let (replicas, seen) = found.map_err(|problem| format!("failed to get {name} {measure}: {problem}"))?;
    let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
    let words = match (is_relative, container) {
        (false, _) => format!("{name} resource"),
        (true, None) => format!("{name} resource utilization (percentage of request)"),
        (true, Some(_)) => format!("{name} container resource utilization (percentage of request)"),
    };
    match container {
        Some(container) => {
            status.container_resource = Some(ContainerResourceMetricStatus { container: container.to_owned(), name: name.to_owned(), current: current(&seen) });
        }
        None => status.resource = Some(ResourceMetricStatus { name: name.to_owned(), current: current(&seen) }),
    }
    Ok(Proposal { replicas, name: words, status })
}

/// Source: Kubernetes 1.36, `GetResourceReplicas` and `GetRawResourceReplicas`.
async fn resource_replicas(client: &client::Client, name: &str, container: Option<&str>, wanted: &MetricTarget, workload: &Workload<'_>) -> Result<(i32, Usage), String> {
    let samples = metrics::of_resource(client, workload.namespace, workload.selector, name, container).await;
    let samples = samples.map_err(|error| format!("unable to get metrics for resource {name}: {error}"))?;
    let target = match (milli(wanted.average_value.as_ref()), wanted.average_utilization) {
        (Some(average), _) => Target::Average(average),
        (None, percent) => Target::Utilization { percent: percent.unwrap_or(0), requests: usage::requests(workload.pods, name, container)? },
    };
    usage::replicas(workload.replicas, workload.pods, samples, &target, name == "cpu", workload.tolerance, workload.now)
}

/// Source: Kubernetes 1.36, `computeStatusForPodsMetric`.
async fn of_pods(client: &client::Client, source: &PodsMetricSource, workload: &Workload<'_>) -> Result<Proposal, Problem> {
    let metric = source.metric.clone();
    let samples = metrics::of_pods(client, workload.namespace, workload.selector, &metric.name, metric.selector.as_ref()).await;
    let samples = samples.map_err(|error| format!("unable to get metric {}: {error}", metric.name))?;
    let wanted = milli(source.target.average_value.as_ref()).ok_or_else(|| "a pods metric needs an average value".to_owned())?;
    let (replicas, seen) = usage::replicas(workload.replicas, workload.pods, samples, &Target::Average(wanted), false, workload.tolerance, workload.now)?;
    let name = format!("pods metric {}", metric.name);
    let status = MetricStatus { type_: "Pods".to_owned(), pods: Some(PodsMetricStatus { current: current(&seen), metric }), ..MetricStatus::default() };
    Ok(Proposal { replicas, name, status })
}

/// Pods for a value that belongs to no single pod: in relation to the target for the whole, or shared by all pods.
/// Source: Kubernetes 1.36, `GetObjectMetricReplicas`, `GetObjectPerPodMetricReplicas`, `GetExternalMetricReplicas` and
/// `GetExternalPerPodMetricReplicas`.
fn for_value(milli_value: i64, target: &MetricTarget, workload: &Workload<'_>) -> Result<(i32, MetricValueStatus), String> {
    let up = |pods: f64| pods.ceil().clamp(0.0, f64::from(i32::MAX)) as i32;
    if let Some(wanted) = milli(target.average_value.as_ref()) {
        let observed = f64::from(workload.observed);
        let ratio = milli_value as f64 / (wanted as f64 * observed);
        let replicas = if workload.tolerance.covers(ratio) { workload.observed } else { up(milli_value as f64 / wanted as f64) };
        let average = if workload.observed > 0 { (milli_value as f64 / observed).ceil() as i64 } else { milli_value };
        return Ok((replicas, MetricValueStatus { average_value: quantity(average), ..MetricValueStatus::default() }));
    }
    let wanted = milli(target.value.as_ref()).unwrap_or(0);
    let ratio = milli_value as f64 / wanted as f64;
    let replicas = match workload.replicas {
        0 => up(ratio),
        replicas if workload.tolerance.covers(ratio) => replicas,
        _ if workload.pods.is_empty() => {
            return Err("unable to calculate ready pods: no pods returned by selector while calculating replica count".to_owned());
        }
        _ => {
            let ready = workload.pods.iter().filter(|pod| pods::is_ready(pod) && pods::phase(pod) == "Running").count();
            up(ratio * ready as f64)
        }
    };
    Ok((replicas, MetricValueStatus { value: quantity(milli_value), ..MetricValueStatus::default() }))
}

/// Source: Kubernetes 1.36, `computeStatusForObjectMetric`.
async fn of_object(client: &client::Client, source: &ObjectMetricSource, workload: &Workload<'_>) -> Result<Proposal, Problem> {
    let (object, metric, target) = (source.described_object.clone(), source.metric.clone(), &source.target);
    let is_shared = target.type_ == "AverageValue" && target.average_value.is_some();
    if !is_shared && target.value.is_none() {
        return Err("invalid object metric source: neither a value target nor an average value target was set".to_owned().into());
    }
    let about = if is_shared { format!("failed to get {} object metric: ", metric.name) } else { String::new() };
    let value = match object_value(client, source, workload.namespace).await {
        Ok(value) => value,
        // In this order upstream says it.
        Err(error) => {
            let message = format!("unable to get metric {}: {} on {} {}/{error}", metric.name, object.kind, workload.namespace, object.name);
            return Err(Problem { about, message });
        }
    };
    let (replicas, current) = for_value(value, target, workload)?;
    let name = if is_shared {
        format!("external metric {}({})", metric.name, in_go(metric.selector.as_ref()))
    } else {
        format!("{} metric {}", object.kind, metric.name)
    };
    let status = ObjectMetricStatus { current, described_object: object, metric };
    Ok(Proposal { replicas, name, status: MetricStatus { type_: "Object".to_owned(), object: Some(status), ..MetricStatus::default() } })
}

async fn object_value(client: &client::Client, source: &ObjectMetricSource, namespace: &str) -> Result<i64, String> {
    let object = &source.described_object;
    let group = object.api_version.as_deref().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
    let served = served_resources(client).await.map_err(|error| error.to_string())?;
    let resource = served.into_iter().find(|resource| resource.group == group && resource.kind == object.kind);
    let resource = resource.ok_or_else(|| format!("no matches for kind \"{}\" in group \"{group}\"", object.kind))?;
    metrics::of_object(client, namespace, &resource.name(), &object.name, &source.metric.name, source.metric.selector.as_ref()).await
}

/// Source: Kubernetes 1.36, `computeStatusForExternalMetric`.
async fn external(client: &client::Client, source: &ExternalMetricSource, workload: &Workload<'_>) -> Result<Proposal, Problem> {
    let (metric, target) = (source.metric.clone(), &source.target);
    let selector = in_go(metric.selector.as_ref());
    let about = match (&target.average_value, &target.value) {
        (Some(_), _) => format!("failed to get {} external metric: ", metric.name),
        (None, Some(_)) => format!("failed to get external metric {}: ", metric.name),
        (None, None) => return Err("invalid external metric source: neither a value target nor an average value target was set".to_owned().into()),
    };
    let value = match metrics::external(client, workload.namespace, &metric.name, metric.selector.as_ref()).await {
        Ok(value) => value,
        Err(error) => {
            let message = format!("unable to get external metric {}/{}/{selector}: {error}", workload.namespace, metric.name);
            return Err(Problem { about, message });
        }
    };
    let (replicas, current) = for_value(value, target, workload).map_err(|message| Problem { about, message })?;
    let name = format!("external metric {}({selector})", metric.name);
    let status = MetricStatus { type_: "External".to_owned(), external: Some(ExternalMetricStatus { current, metric }), ..MetricStatus::default() };
    Ok(Proposal { replicas, name, status })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;

    fn workload<'a>(pods: &'a [Arc<Pod>], replicas: i32, observed: i32) -> Workload<'a> {
        let (tolerance, now) = (Tolerance { up: 0.1, down: 0.1 }, Timestamp::from_second(10_000).unwrap());
        Workload { namespace: "x", selector: "a=b", pods, replicas, observed, tolerance, now }
    }

    fn whole(value: &str) -> MetricTarget {
        MetricTarget { type_: "Value".to_owned(), value: Some(Quantity(value.to_owned())), ..MetricTarget::default() }
    }

    fn shared(value: &str) -> MetricTarget {
        MetricTarget { type_: "AverageValue".to_owned(), average_value: Some(Quantity(value.to_owned())), ..MetricTarget::default() }
    }

    /// Of two wanted pods, `observed` are there; what is wanted then, and what is told of the value.
    #[track_caller]
    fn check(value: i64, target: MetricTarget, observed: i32, expected: (i32, &str)) {
        let pods = [pod("a", "Running", "n", Some(1)), pod("b", "Running", "n", Some(1))];
        let (replicas, seen) = for_value(value, &target, &workload(&pods, 2, observed)).unwrap();
        assert_eq!((replicas, seen.value.or(seen.average_value).unwrap().0.as_str()), expected);
    }

    #[test]
    fn a_value_is_compared_as_a_whole_or_shared_out() {
        check(30_000, whole("10"), 2, (6, "30"));
        check(10_500, whole("10"), 2, (2, "10500m"));
        check(30_000, shared("10"), 2, (3, "15"));
        check(20_500, shared("10"), 2, (2, "10250m"));
        check(5_000, shared("10"), 2, (1, "2500m"));
        // Shares are of the pods that are there, and rounded up.
        check(31_000, shared("10"), 3, (3, "10334m"));
        check(10_000, shared("10"), 0, (1, "10"));
        assert!(for_value(5, &whole("10"), &workload(&[], 2, 0)).unwrap_err().starts_with("unable to calculate ready pods: no pods returned"));
        assert_eq!(for_value(25_000, &whole("10"), &workload(&[], 0, 0)).unwrap().0, 3);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_metric_is_told_in_upstreams_words() {
        let fake = client::fake::FakeApi::new();
        let client = fake.client();
        let pods = [pod("a", "Running", "n", Some(1))];
        let check = async |metric: serde_json::Value, message: &str, whole: &str| {
            let metric: MetricSpec = serde_json::from_value(metric).unwrap();
            let failure = propose(&client, &metric, &workload(&pods, 1, 1)).await.unwrap_err();
            assert_eq!((failure.message.as_str(), failure.whole.as_str()), (message, whole));
        };
        let none = "no metrics returned from resource metrics API";
        check(
            serde_json::json!({ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } }),
            &format!("failed to get cpu utilization: unable to get metrics for resource cpu: {none}"),
            &format!("failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: {none}"),
        )
        .await;
        check(
            serde_json::json!({ "type": "ContainerResource", "containerResource": { "name": "cpu", "container": "web", "target": { "type": "AverageValue", "averageValue": "1" } } }),
            &format!("failed to get cpu usage: unable to get metrics for resource cpu: {none}"),
            &format!("failed to get web container metric value: failed to get cpu usage: unable to get metrics for resource cpu: {none}"),
        )
        .await;
        let none = "unable to fetch metrics from custom metrics API: no such object";
        check(
            serde_json::json!({ "type": "Pods", "pods": { "metric": { "name": "qps" }, "target": { "type": "AverageValue", "averageValue": "1" } } }),
            &format!("unable to get metric qps: {none}"),
            &format!("failed to get pods metric value: unable to get metric qps: {none}"),
        )
        .await;
        let none = "no metrics returned from external metrics API";
        check(
            serde_json::json!({ "type": "External", "external": { "metric": { "name": "depth" }, "target": { "type": "Value", "value": "1" } } }),
            &format!("unable to get external metric x/depth/nil: {none}"),
            &format!("failed to get depth external metric value: failed to get external metric depth: unable to get external metric x/depth/nil: {none}"),
        )
        .await;
        let object = |target: serde_json::Value| {
            let about = serde_json::json!({ "kind": "Ingress", "name": "main", "apiVersion": "networking.k8s.io/v1" });
            serde_json::json!({ "type": "Object", "object": { "metric": { "name": "qps" }, "describedObject": about, "target": target } })
        };
        let none = "no matches for kind \"Ingress\" in group \"networking.k8s.io\"";
        check(
            object(serde_json::json!({ "type": "AverageValue", "averageValue": "1" })),
            &format!("unable to get metric qps: Ingress on x main/{none}"),
            &format!("failed to get object metric value: failed to get qps object metric: unable to get metric qps: Ingress on x main/{none}"),
        )
        .await;
    }
}
