//! What pods ask for and may use at most, as metrics: `/metrics/resources` of upstream's scheduler. Put together when it is asked for.
//!
//! Source of names, labels and units: Kubernetes 1.36, `pkg/scheduler/metrics/resources/resources.go`.

use std::fmt::Write;

use api::core::v1::Pod;
use client::Informer;

use crate::resources::{Resources, limits_of, requests_of};

/// A pod's labels and amounts.
struct Row {
    labels: String,
    requests: Resources,
    limits: Resources,
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn row(pod: &Pod) -> Option<Row> {
    let spec = pod.spec.as_ref()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let text = |value: Option<&String>| escaped(value.map(String::as_str).unwrap_or_default());
    let labels = format!(
        "namespace=\"{}\",pod=\"{}\",node=\"{}\",scheduler=\"{}\",priority=\"{}\"",
        text(pod.metadata.namespace.as_ref()),
        text(pod.metadata.name.as_ref()),
        text(spec.node_name.as_ref()),
        text(spec.scheduler_name.as_ref()),
        spec.priority.map(|priority| priority.to_string()).unwrap_or_default(),
    );
    Some(Row { labels, requests: requests_of(pod).0, limits: limits_of(pod) })
}

fn write(text: &mut String, name: &str, labels: &str, resources: &Resources) {
    let is_bytes = |name: &str| name == "storage" || name.starts_with("hugepages-");
    let others = resources.others.iter().map(|(name, amount)| (name.as_str(), if is_bytes(name) { "bytes" } else { "integer" }, *amount as f64));
    let known = [
        ("cpu", "cores", resources.cpu_millis as f64 / 1000.0),
        ("memory", "bytes", resources.memory_bytes as f64),
        ("ephemeral-storage", "bytes", resources.ephemeral_storage_bytes as f64),
    ];
    for (resource, unit, amount) in known.into_iter().chain(others).filter(|(_, _, amount)| *amount != 0.0) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name}{{{labels},resource=\"{}\",unit=\"{unit}\"}} {amount}", escaped(resource));
    }
}

/// The metrics of these pods as text.
pub fn text_of<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> String {
    let rows: Vec<Row> = pods.into_iter().filter_map(row).collect();
    let mut text = String::new();
    for (name, words, amounts) in [
        ("kube_pod_resource_limit", "What a pod may use of a resource at most", (|row| &row.limits) as fn(&Row) -> &Resources),
        ("kube_pod_resource_request", "What a pod asks for of a resource", |row| &row.requests),
    ] {
        let _ = writeln!(text, "# HELP {name} [STABLE] {words}\n# TYPE {name} gauge");
        rows.iter().for_each(|row| write(&mut text, name, &row.labels, amounts(row)));
    }
    text
}

/// The metrics of all pods as text.
pub fn text(pods: &Informer<Pod>) -> String {
    text_of(pods.list().iter().map(|pod| &**pod))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods_are_shown_with_what_they_ask_for_and_may_use() {
        let resources = json!({"requests": {"cpu": "250m", "memory": "64Mi", "example.com/thing": "2"}, "limits": {"memory": "128Mi"}});
        let running = pod(json!({
            "metadata": {"namespace": "a", "name": "p"},
            "spec": {
                "nodeName": "n", "schedulerName": "default-scheduler", "priority": 7,
                "containers": [{"name": "one", "resources": resources}, {"name": "two", "resources": {"limits": {"memory": "1Mi"}}}],
                "initContainers": [{"name": "first", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}],
            },
        }));
        let done = pod(json!({
            "metadata": {"namespace": "a", "name": "done"}, "status": {"phase": "Succeeded"},
            "spec": {"containers": [{"name": "one", "resources": {"requests": {"cpu": "1"}}}]},
        }));
        let labels = r#"namespace="a",pod="p",node="n",scheduler="default-scheduler",priority="7""#;
        let text = text_of([&running, &done]);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples, [
            format!("kube_pod_resource_limit{{{labels},resource=\"cpu\",unit=\"cores\"}} 2"),
            format!("kube_pod_resource_limit{{{labels},resource=\"memory\",unit=\"bytes\"}} 135266304"),
            format!("kube_pod_resource_request{{{labels},resource=\"cpu\",unit=\"cores\"}} 1"),
            format!("kube_pod_resource_request{{{labels},resource=\"memory\",unit=\"bytes\"}} 67108864"),
            format!("kube_pod_resource_request{{{labels},resource=\"example.com/thing\",unit=\"integer\"}} 2"),
        ]);
    }
}
