//! Reads the load from the metrics APIs, which are served by whoever measures: `metrics.k8s.io` for what pods use, `custom.metrics.k8s.io`
//! and `external.metrics.k8s.io` for everything else.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use client::{GetParams, ListParams, Request};
use meta::quantity::Quantity;
use serde_json::Value;

/// What a pod was measured at, in thousandths.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub milli: i64,
    pub at: Option<Timestamp>,
    pub window: Duration,
}

/// Samples by the name of the pod.
pub(super) type Samples = BTreeMap<String, Sample>;

async fn read(client: &client::Client, path: String, parameters: &ListParams, metric_selector: Option<&str>) -> Result<Vec<Value>, String> {
    let mut request = Request::new(path).list(parameters).map_err(|error| error.to_string())?;
    if let Some(selector) = metric_selector {
        let mut query = request.uri().to_string();
        query.push_str("&metricLabelSelector=");
        query.push_str(&escape(selector));
        *request.uri_mut() = query.parse().map_err(|_| format!("{query} is no path"))?;
    }
    let answer: Value = client.request(request).await.map_err(|error| crate::api_message(&error))?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

/// A text as part of a query.
fn escape(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn milli(value: &Value) -> Option<i64> {
    Quantity::parse(value.as_str()?).ok().map(|quantity| quantity.milli_value())
}

fn selector_text(selector: Option<&LabelSelector>) -> Option<String> {
    let selector = meta::selector::LabelSelector::from_json(&serde_json::to_value(selector?).ok()?).ok()?;
    Some(selector.to_string()).filter(|text| !text.is_empty())
}

/// What pods use of a resource: all their containers together, or one of them. Pods of which a part is unknown are left out.
pub(super) async fn of_resource(client: &client::Client, namespace: &str, selector: &str, resource: &str, container: Option<&str>) -> Result<Samples, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let items = read(client, path, &ListParams::default().labels(selector), None).await;
    let items = items.map_err(|error| format!("unable to fetch metrics from resource metrics API: {error}"))?;
    if items.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    samples_of(&items, namespace, resource, container)
}

fn samples_of(items: &[Value], namespace: &str, resource: &str, container: Option<&str>) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for item in items {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        let has = |container: &str| item["containers"].as_array().is_some_and(|all| all.iter().any(|measured| measured["name"] == container));
        if let Some(container) = container.filter(|container| !has(container)) {
            return Err(format!("failed to get container metrics: container {container} not present in metrics for pod {namespace}/{name}"));
        }
        if let Some(sample) = sample_of(item, resource, container) {
            samples.insert(name.to_owned(), sample);
        }
    }
    Ok(samples)
}

/// The version of the custom metrics API to ask: the newest that is served and known.
async fn custom_version(client: &client::Client) -> &'static str {
    let Ok(request) = Request::new("/apis").get("custom.metrics.k8s.io", &GetParams::default()) else { return "v1beta1" };
    let group: Value = client.request(request).await.unwrap_or_default();
    let mut versions = group["versions"].as_array().into_iter().flatten();
    if versions.any(|one| one["version"] == "v1beta2") { "v1beta2" } else { "v1beta1" }
}

fn sample_of(item: &Value, resource: &str, container: Option<&str>) -> Option<Sample> {
    let containers = item["containers"].as_array()?.iter();
    let counted = containers.filter(|measured| container.is_none_or(|name| measured["name"] == name));
    let parts: Option<Vec<i64>> = counted.map(|measured| milli(&measured["usage"][resource])).collect();
    let parts = parts.filter(|parts| !parts.is_empty())?;
    let window = item["window"].as_str().and_then(|text| text.parse::<jiff::SignedDuration>().ok()).and_then(|window| Duration::try_from(window).ok());
    Some(Sample { milli: parts.iter().sum(), at: item["timestamp"].as_str().and_then(|time| time.parse().ok()), window: window.unwrap_or(Duration::from_secs(60)) })
}

/// A metric that every pod has.
pub(super) async fn of_pods(client: &client::Client, namespace: &str, selector: &str, metric: &str, filter: Option<&LabelSelector>) -> Result<Samples, String> {
    let version = custom_version(client).await;
    let path = format!("/apis/custom.metrics.k8s.io/{version}/namespaces/{namespace}/pods/*/{metric}");
    let items = read(client, path, &ListParams::default().labels(selector), selector_text(filter).as_deref()).await;
    let items = items.map_err(|error| format!("unable to fetch metrics from custom metrics API: {error}"))?;
    let sample = |item: &Value| {
        let window = Duration::from_secs(item["windowSeconds"].as_u64().unwrap_or(60));
        let sample = Sample { milli: milli(&item["value"])?, at: item["timestamp"].as_str().and_then(|time| time.parse().ok()), window };
        Some((item["describedObject"]["name"].as_str()?.to_owned(), sample))
    };
    let samples: Samples = items.iter().filter_map(sample).collect();
    if samples.is_empty() { Err("no metrics returned from custom metrics API".to_owned()) } else { Ok(samples) }
}

/// A metric of some other object; `resource` as in `ingresses.networking.k8s.io`.
pub(super) async fn of_object(client: &client::Client, namespace: &str, resource: &str, name: &str, metric: &str, filter: Option<&LabelSelector>) -> Result<i64, String> {
    let version = custom_version(client).await;
    let path = if resource == "namespaces" {
        format!("/apis/custom.metrics.k8s.io/{version}/namespaces/{name}/metrics/{metric}")
    } else {
        format!("/apis/custom.metrics.k8s.io/{version}/namespaces/{namespace}/{resource}/{name}/{metric}")
    };
    let items = read(client, path, &ListParams::default(), selector_text(filter).as_deref()).await;
    let items = items.map_err(|error| format!("unable to fetch metrics from custom metrics API: {error}"))?;
    items.first().and_then(|item| milli(&item["value"])).ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
}

/// A metric of something outside the cluster: the sum of all its series.
pub(super) async fn external(client: &client::Client, namespace: &str, metric: &str, filter: Option<&LabelSelector>) -> Result<i64, String> {
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}");
    let parameters = selector_text(filter).map_or_else(ListParams::default, |selector| ListParams::default().labels(&selector));
    let items = read(client, path, &parameters, None).await.map_err(|error| format!("unable to fetch metrics from external metrics API: {error}"))?;
    if items.is_empty() {
        return Err("no metrics returned from external metrics API".to_owned());
    }
    Ok(items.iter().filter_map(|item| milli(&item["value"])).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_added_up_and_pods_with_gaps_left_out() {
        let item = json!({
            "timestamp": "2026-01-01T00:00:00Z", "window": "15s",
            "containers": [{ "name": "a", "usage": { "cpu": "250m" } }, { "name": "b", "usage": { "cpu": "1", "memory": "1Ki" } }],
        });
        let sample = sample_of(&item, "cpu", None).unwrap();
        assert_eq!((sample.milli, sample.window), (1250, Duration::from_secs(15)));
        assert_eq!(sample_of(&item, "cpu", Some("a")).unwrap().milli, 250);
        assert_eq!(sample_of(&item, "memory", None), None);
        assert_eq!(sample_of(&item, "cpu", Some("c")), None);
    }

    #[test]
    fn a_container_that_was_not_measured_is_named() {
        let item = |name: &str, cpu: Value| json!({ "metadata": { "name": name }, "containers": [{ "name": "a", "usage": { "cpu": cpu } }] });
        let samples = samples_of(&[item("p", json!("1")), item("q", json!(null))], "x", "cpu", Some("a")).unwrap();
        assert_eq!(samples.keys().collect::<Vec<_>>(), ["p"]);
        let missing = samples_of(&[item("p", json!("1"))], "x", "cpu", Some("b"));
        assert_eq!(missing, Err("failed to get container metrics: container b not present in metrics for pod x/p".to_owned()));
    }

    #[test]
    fn a_selector_is_escaped_in_a_query() {
        assert_eq!(escape("a in (b,c)"), "a%20in%20%28b%2Cc%29");
    }
}
