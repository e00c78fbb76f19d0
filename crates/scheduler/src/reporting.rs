//! Tells users that a pod fits nowhere, or where room is made for it: in the pod's status, and as events.

use std::sync::Arc;

use api::core::v1::Pod;
use client::{Api, Clock, Patch, PatchParams};
use serde_json::json;
use tracing::debug;

use crate::pod_info::PodInfo;

/// What is to be written into a pod's status.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Why it fits nowhere.
    pub unschedulable: Option<String>,
    /// The node where room is made for it; an empty name where none is any more.
    pub nominated: Option<String>,
}

/// Writes a report, where the pod does not say the same already.
pub async fn write(client: client::Client, clock: Arc<dyn Clock>, pod: Arc<PodInfo>, known: Arc<Pod>, report: Report) {
    let status = known.status.as_ref();
    let mut patch = serde_json::Map::new();
    if let Some(message) = &report.unschedulable {
        let old = status.into_iter().flat_map(|status| status.conditions.iter().flatten()).find(|condition| condition.type_ == "PodScheduled");
        let refused = old.filter(|condition| condition.status == "False");
        if refused.is_none_or(|condition| condition.message.as_ref() != Some(message) || condition.reason.as_deref() != Some("Unschedulable")) {
            let mut condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
            if let Some(generation) = known.metadata.generation {
                condition["observedGeneration"] = json!(generation);
            }
            if refused.is_none() {
                condition["lastTransitionTime"] = json!(clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            }
            patch.insert("conditions".to_owned(), json!([condition]));
        }
    }
    if let Some(node) = &report.nominated
        && status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default() != node
    {
        patch.insert("nominatedNodeName".to_owned(), if node.is_empty() { serde_json::Value::Null } else { json!(node) });
    }
    if patch.is_empty() {
        return;
    }
    let patch = json!({"metadata": {"uid": pod.uid}, "status": patch});
    let pods = Api::<Pod>::namespaced(client, &pod.namespace);
    if let Err(error) = pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        debug!(pod = pod.name, %error, "the status of a pod that fits nowhere could not be written");
    }
}
