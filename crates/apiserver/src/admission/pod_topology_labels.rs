//! PodTopologyLabels: a pod carries the zone and the region of its node, from its binding on, unless it says something else itself.
//! So its containers can be told of them (downward API).
//!
//! Source: Kubernetes 1.36, `plugin/pkg/admission/podtopologylabels`.

use async_trait::async_trait;
use meta::{ApiError, Object};
use serde_json::json;

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    core::Core,
};

const COPIED: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plug-in.
pub struct PodTopologyLabels;

#[async_trait]
impl AdmissionPlugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Admit]
    }
    async fn admit(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&mut Object>, _old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        let concerns = attributes.operation == Operation::Create && info.kind.group.is_empty() && &*info.plural == "pods";
        let Some(object) = object.filter(|_| concerns) else { return Ok(()) };
        let node = match attributes.subresource {
            "" => object.text(&["spec", "nodeName"]),
            // Labels of a binding become the pod's.
            "binding" if object.text(&["target", "kind"]).is_none_or(|kind| matches!(kind, "" | "Node")) => object.text(&["target", "name"]),
            _ => None,
        };
        let Some(node) = node.filter(|node| !node.is_empty()).and_then(|node| core.view_named("nodes").get(node)) else { return Ok(()) };
        for label in COPIED {
            if let Some(value) = node.label(label)
                && object.labels().is_none_or(|labels| !labels.contains_key(label))
            {
                object.set(&["metadata", "labels", label], json!(value));
            }
        }
        Ok(())
    }
}
