//! `metrics.k8s.io`: what nodes and pods use now, for `kubectl top` and autoscalers.
//!
//! Nothing is stored or polled: an answer is put together from the summaries of the nodes that it is about, which measure
//! when they are asked. A node that does not answer is left out, as upstream's metrics server does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use dialer::Target;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use meta::{ApiError, GroupResource};
use serde_json::{Value, json};
use tracing::debug;

use crate::{
    core::{Core, RequestContext},
    effects::forward::whole_story,
    http_body::{Body, json_answer},
    request_info::RequestInfo,
    view::StoredObject,
};

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its only version.
pub const VERSION: &str = "v1beta1";
/// Priorities of both. Source: metrics-server, `manifests/base/apiservice.yaml`.
pub const PRIORITY: (i64, i64) = (100, 100);
/// Its resources: name, kind, whether in a namespace.
pub const RESOURCES: [(&str, &str, bool); 2] = [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)];

/// How long a node may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many nodes are asked at once.
const AT_ONCE: usize = 32;
/// Largest summary that is read, in bytes.
const LARGEST_SUMMARY: usize = 32 * 1024 * 1024;

/// Whether a request is about usage.
pub fn serves(info: &RequestInfo) -> bool {
    let is_resource = RESOURCES.iter().any(|(name, _, namespaced)| *name == info.resource && (*namespaced || info.namespace.is_empty()));
    info.group == GROUP && info.version == VERSION && is_resource && info.subresource.is_empty()
}

/// Answers a get or list.
///
/// # Errors
/// 404 for what does not exist or is not measured yet, 405 for other verbs.
pub async fn answer(core: &Arc<Core>, context: &RequestContext) -> Result<Response<Body>, ApiError> {
    let info = &context.info;
    if !matches!(info.verb, "get" | "list") {
        return Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource"));
    }
    let about_pods = info.resource == "pods";
    let wanted = wanted(core, context, about_pods);
    let asked: std::collections::BTreeSet<String> = wanted.values().map(|(node, _)| node.clone()).collect();
    let mut summaries = futures::stream::iter(asked).map(|node| async move {
        let summary = tokio::time::timeout(PATIENCE, summary_of(core, &node)).await;
        summary.unwrap_or_else(|_| Err("it takes too long".to_owned())).inspect_err(|problem| debug!(node, problem, "no usage of a node"))
    }).buffer_unordered(AT_ONCE);
    let mut items = Vec::new();
    while let Some(summary) = summaries.next().await {
        let Ok(summary) = summary else { continue };
        let found = if about_pods { pods_of(&summary) } else { node_of(&summary).into_iter().collect() };
        items.extend(found.into_iter().filter_map(|(key, mut item)| {
            let (_, object) = wanted.get(&key)?;
            let labels: BTreeMap<&str, &str> = object.labels().collect();
            item["metadata"] = json!({ "name": object.name(), "creationTimestamp": context.timestamp(), "labels": labels });
            if about_pods {
                item["metadata"]["namespace"] = json!(object.namespace());
            }
            Some((key, item))
        }));
    }
    items.sort_by(|(one, _), (other, _)| one.cmp(other));
    let (kind, group_version) = (if about_pods { "PodMetrics" } else { "NodeMetrics" }, format!("{GROUP}/{VERSION}"));
    if info.verb == "list" {
        let items: Vec<Value> = items.into_iter().map(|(_, item)| item).collect();
        return Ok(json_answer(StatusCode::OK, &json!({ "kind": format!("{kind}List"), "apiVersion": group_version, "metadata": {}, "items": items })));
    }
    let (_, mut item) = items.into_iter().next().ok_or_else(|| ApiError::not_found(&GroupResource::new(GROUP, &info.resource), &info.name))?;
    item["kind"] = json!(kind);
    item["apiVersion"] = json!(group_version);
    Ok(json_answer(StatusCode::OK, &item))
}

/// The objects a request is about, by key: each with the node that knows of it.
fn wanted(core: &Core, context: &RequestContext, about_pods: bool) -> BTreeMap<String, (String, Arc<StoredObject>)> {
    let info = &context.info;
    let view = core.view_named(if about_pods { "pods" } else { "nodes" });
    let prefix = if info.namespace.is_empty() { String::new() } else { format!("{}/", info.namespace) };
    let key = format!("{prefix}{}", info.name);
    let snapshot = core.view.snapshot(&view);
    let is_meant = |object: &StoredObject| {
        (info.name.is_empty() || *object.key == *key)
            && context.query.labels.as_ref().is_none_or(|labels| labels.matches(&|name| object.label(name)))
            && context.query.fields.as_ref().is_none_or(|fields| fields.matches(|name| object.field(name).map(str::to_owned)))
    };
    let meant = snapshot.range(&prefix, None).filter(|object| is_meant(object));
    meant
        .filter_map(|object| {
            let node = if about_pods { object.field("spec.nodeName")?.to_owned() } else { object.name().to_owned() };
            (!node.is_empty()).then(|| (object.key.to_string(), (node, Arc::clone(object))))
        })
        .collect()
}

/// A node's own account of what it and its pods use.
async fn summary_of(core: &Core, node: &str) -> Result<Value, String> {
    let connection = core.dialer.dial(&Target::NodeApi { node: node.to_owned() }).await.map_err(|error| whole_story(&error))?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(|error| whole_story(&error))?;
    let request = http::Request::get("/stats/summary?only_cpu_and_memory=true").header(header::HOST, node).body(Full::new(Bytes::new())).map_err(|error| error.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| whole_story(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), LARGEST_SUMMARY).collect().await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
    };
    let mut talk = std::pin::pin!(talk);
    // The connection lives in this task, and ends with it.
    tokio::select! {
        answer = &mut talk => answer,
        ended = driver => match ended {
            Ok(()) => talk.await,
            Err(error) => Err(whole_story(&error)),
        },
    }
}

/// Quantities out of a summary's entry; none where there is no rate yet.
fn usage(entry: &Value) -> Option<Value> {
    let cpu = entry.pointer("/cpu/usageNanoCores")?.as_u64()?;
    let memory = entry.pointer("/memory/workingSetBytes")?.as_u64()?;
    Some(json!({ "cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024) }))
}

fn timed(summary: &Value, entry: &Value) -> Value {
    json!({ "timestamp": entry.pointer("/cpu/time"), "window": summary.get("window").and_then(Value::as_str).unwrap_or("0s") })
}

/// The node of a summary, with its name.
fn node_of(summary: &Value) -> Option<(String, Value)> {
    let node = summary.get("node")?;
    let mut item = timed(summary, node);
    item["usage"] = usage(node)?;
    Some((node.get("nodeName")?.as_str()?.to_owned(), item))
}

/// The pods of a summary, by `NAMESPACE/NAME`. A pod counts once all of its containers are measured.
fn pods_of(summary: &Value) -> Vec<(String, Value)> {
    let text = |entry: &Value, pointer: &str| entry.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let one = |pod: &Value| {
        let containers = pod.get("containers")?.as_array()?.iter().map(|container| Some(json!({ "name": container.get("name")?, "usage": usage(container)? })));
        let mut item = timed(summary, pod);
        item["containers"] = json!(containers.collect::<Option<Vec<Value>>>()?);
        Some((format!("{}/{}", text(pod, "/podRef/namespace")?, text(pod, "/podRef/name")?), item))
    };
    summary.get("pods").and_then(Value::as_array).into_iter().flatten().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Value {
        let container = |name: &str, nano_cores: Value| json!({ "name": name, "cpu": { "usageNanoCores": nano_cores }, "memory": { "workingSetBytes": 2_097_152 } });
        json!({
            "window": "1.5s",
            "node": { "nodeName": "n1", "cpu": { "time": "2026-01-02T15:04:05Z", "usageNanoCores": 250_000_000 }, "memory": { "workingSetBytes": 1_073_741_824 } },
            "pods": [
                { "podRef": { "name": "web", "namespace": "shop" }, "cpu": { "time": "2026-01-02T15:04:05Z" }, "containers": [container("a", json!(1000)), container("b", json!(0))] },
                { "podRef": { "name": "new", "namespace": "shop" }, "cpu": {}, "containers": [container("a", Value::Null)] },
            ],
        })
    }

    #[test]
    fn a_summary_becomes_quantities() {
        let (name, node) = node_of(&summary()).unwrap();
        assert_eq!((name.as_str(), &node["usage"]), ("n1", &json!({ "cpu": "250000000n", "memory": "1048576Ki" })));
        assert_eq!((&node["timestamp"], &node["window"]), (&json!("2026-01-02T15:04:05Z"), &json!("1.5s")));
        let pods = pods_of(&summary());
        assert_eq!(pods.len(), 1, "what is not measured yet is left out");
        assert_eq!(pods[0].0, "shop/web");
        assert_eq!(pods[0].1["containers"][0], json!({ "name": "a", "usage": { "cpu": "1000n", "memory": "2048Ki" } }));
    }

    #[test]
    fn only_its_own_resources_are_served() {
        let info = |resource: &str, namespace: &str| RequestInfo {
            is_resource: true,
            group: GROUP.to_owned(),
            version: VERSION.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            ..RequestInfo::default()
        };
        assert!(serves(&info("pods", "a")) && serves(&info("pods", "")) && serves(&info("nodes", "")));
        assert!(!serves(&info("nodes", "a")) && !serves(&info("services", "a")));
    }
}
