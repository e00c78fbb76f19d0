//! One metric of an autoscaler, as a number of pods.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meta::quantity::Quantity as Amount;

use super::metrics;
use super::usage::{self, Target, Tolerance, Usage};
use crate::discovery::served_resources;
use crate::pods;

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
#[derive(Debug)]
pub(super) struct Failure {
    pub reason: &'static str,
    pub message: String,
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
pub(super) async fn propose(client: &client::Client, metric: &MetricSpec, workload: &Workload<'_>) -> Result<Proposal, Failure> {
    let (reason, kind) = match metric.type_.as_str() {
        "Resource" => ("FailedGetResourceMetric", "resource"),
        "ContainerResource" => ("FailedGetContainerResourceMetric", "container resource"),
        "Pods" => ("FailedGetPodsMetric", "pods"),
        "Object" => ("FailedGetObjectMetric", "object"),
        "External" => ("FailedGetExternalMetric", "external"),
        other => return Err(Failure { reason: "InvalidMetricSourceType", message: format!("unknown metric source type \"{other}\"") }),
    };
    let result = match (&metric.resource, &metric.container_resource, &metric.pods, &metric.object, &metric.external) {
        (Some(_), ..) | (_, Some(_), ..) => resource(client, metric, workload).await,
        (_, _, Some(_), ..) => of_pods(client, metric, workload).await,
        (_, _, _, Some(_), _) => of_object(client, metric, workload).await,
        (_, _, _, _, Some(_)) => external(client, metric, workload).await,
        _ => Err("the metric has no source".to_owned()),
    };
    result.map_err(|message| Failure { reason, message: format!("failed to get {kind} metric value: {message}") })
}

/// What pods, or their containers, use of a resource.
async fn resource(client: &client::Client, metric: &MetricSpec, workload: &Workload<'_>) -> Result<Proposal, String> {
    let whole = metric.resource.as_ref().map(|source| (source.name.clone(), None, source.target.clone()));
    let part = metric.container_resource.as_ref().map(|source| (source.name.clone(), Some(source.container.clone()), source.target.clone()));
    let (name, container, wanted) = whole.or(part).ok_or("the metric has no source")?;
    let samples = metrics::of_resource(client, workload.namespace, workload.selector, &name, container.as_deref()).await;
    let samples = samples.map_err(|error| format!("failed to get {name} utilization: {error}"))?;
    let target = match (milli(wanted.average_value.as_ref()), wanted.average_utilization) {
        (Some(average), _) => Target::Average(average),
        (None, Some(percent)) => Target::Utilization { percent, requests: usage::requests(workload.pods, &name, container.as_deref())? },
        (None, None) => return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned()),
    };
    let is_relative = matches!(target, Target::Utilization { .. });
    let (replicas, seen) = usage::replicas(workload.replicas, workload.pods, samples, &target, name == "cpu", workload.tolerance, workload.now)?;
    let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
    let kind = if container.is_some() { "container resource" } else { "resource" };
    let words = if is_relative { format!("{name} {kind} utilization (percentage of request)") } else { format!("{name} {kind}") };
    match container {
        Some(container) => status.container_resource = Some(ContainerResourceMetricStatus { container, name, current: current(&seen) }),
        None => status.resource = Some(ResourceMetricStatus { name, current: current(&seen) }),
    }
    Ok(Proposal { replicas, name: words, status })
}

async fn of_pods(client: &client::Client, metric: &MetricSpec, workload: &Workload<'_>) -> Result<Proposal, String> {
    let source = metric.pods.clone().unwrap_or_default();
    let samples = metrics::of_pods(client, workload.namespace, workload.selector, &source.metric.name, source.metric.selector.as_ref()).await?;
    let wanted = milli(source.target.average_value.as_ref()).ok_or("a pods metric needs an average value")?;
    let (replicas, seen) = usage::replicas(workload.replicas, workload.pods, samples, &Target::Average(wanted), false, workload.tolerance, workload.now)?;
    let name = format!("pods metric {}", source.metric.name);
    let status = MetricStatus { type_: metric.type_.clone(), pods: Some(PodsMetricStatus { current: current(&seen), metric: source.metric }), ..MetricStatus::default() };
    Ok(Proposal { replicas, name, status })
}

/// Pods for a value that belongs to no single pod: in relation to the target for the whole, or shared by all pods.
/// Source: Kubernetes 1.36, `GetObjectMetricReplicas` and `GetObjectPerPodMetricReplicas`.
fn for_value(milli_value: i64, target: &MetricTarget, workload: &Workload<'_>) -> Result<(i32, MetricValueStatus), String> {
    let up = |pods: f64| pods.ceil().clamp(0.0, f64::from(i32::MAX)) as i32;
    if let Some(wanted) = milli(target.average_value.as_ref()) {
        let observed = workload.observed.max(1);
        let ratio = milli_value as f64 / (wanted as f64 * f64::from(observed));
        let replicas = if workload.tolerance.covers(ratio) { workload.replicas } else { up(milli_value as f64 / wanted as f64) };
        let average = milli_value / i64::from(observed);
        return Ok((replicas, MetricValueStatus { average_value: quantity(average), ..MetricValueStatus::default() }));
    }
    let wanted = milli(target.value.as_ref()).ok_or("neither a value nor an average value target was set")?;
    let ratio = milli_value as f64 / wanted as f64;
    let ready = workload.pods.iter().filter(|pod| pods::is_ready(pod) && pods::phase(pod) == "Running").count();
    let replicas = match workload.replicas {
        0 => up(ratio),
        replicas if workload.tolerance.covers(ratio) => replicas,
        _ => up(ratio * ready as f64),
    };
    Ok((replicas, MetricValueStatus { value: quantity(milli_value), ..MetricValueStatus::default() }))
}

async fn of_object(client: &client::Client, metric: &MetricSpec, workload: &Workload<'_>) -> Result<Proposal, String> {
    let source = metric.object.clone().ok_or("the metric has no source")?;
    let object = source.described_object;
    let group = object.api_version.as_deref().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
    let served = served_resources(client).await.map_err(|error| error.to_string())?;
    let resource = served.into_iter().find(|resource| resource.group == group && resource.kind == object.kind);
    let resource = resource.ok_or_else(|| format!("no matches for kind \"{}\" in group \"{group}\"", object.kind))?;
    let value = metrics::of_object(client, workload.namespace, &resource.name(), &object.name, &source.metric.name, source.metric.selector.as_ref()).await?;
    let (replicas, current) = for_value(value, &source.target, workload)?;
    let name = format!("{} metric {}", object.kind, source.metric.name);
    let status = ObjectMetricStatus { current, described_object: object, metric: source.metric };
    Ok(Proposal { replicas, name, status: MetricStatus { type_: metric.type_.clone(), object: Some(status), ..MetricStatus::default() } })
}

async fn external(client: &client::Client, metric: &MetricSpec, workload: &Workload<'_>) -> Result<Proposal, String> {
    let source = metric.external.clone().unwrap_or_default();
    let value = metrics::external(client, workload.namespace, &source.metric.name, source.metric.selector.as_ref()).await?;
    let (replicas, current) = for_value(value, &source.target, workload)?;
    let name = format!("external metric {}({})", source.metric.name, source.metric.selector.as_ref().map_or_else(String::new, |selector| format!("{selector:?}")));
    let status = MetricStatus { type_: metric.type_.clone(), external: Some(ExternalMetricStatus { current, metric: source.metric }), ..MetricStatus::default() };
    Ok(Proposal { replicas, name, status })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;

    #[track_caller]
    fn check(value: i64, target: MetricTarget, expected: i32) {
        let pods = [pod("a", "Running", "n", Some(1)), pod("b", "Running", "n", Some(1))];
        let workload = Workload {
            namespace: "x",
            selector: "a=b",
            pods: &pods,
            replicas: 2,
            observed: 2,
            tolerance: Tolerance { up: 0.1, down: 0.1 },
            now: Timestamp::from_second(10_000).unwrap(),
        };
        assert_eq!(for_value(value, &target, &workload).unwrap().0, expected);
    }

    #[test]
    fn a_value_is_compared_as_a_whole_or_shared_out() {
        let whole = |value: &str| MetricTarget { value: Some(Quantity(value.to_owned())), ..MetricTarget::default() };
        let shared = |value: &str| MetricTarget { average_value: Some(Quantity(value.to_owned())), ..MetricTarget::default() };
        check(30_000, whole("10"), 6);
        check(10_500, whole("10"), 2);
        check(30_000, shared("10"), 3);
        check(20_500, shared("10"), 2);
        check(5_000, shared("10"), 1);
    }
}
