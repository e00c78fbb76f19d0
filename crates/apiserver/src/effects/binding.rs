//! Binding a pod to a node: `pods/NAME/binding`, and the older `bindings` resource.
//!
//! Source: Kubernetes `pkg/registry/core/pod/storage/storage.go`, `BindingREST`.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{ApiError, FieldError, FieldPath, GroupKind, GroupVersionKind, Object};
use serde_json::{Value, json};
use store::Expect;

use crate::{
    admission::{Attributes, Operation},
    codec,
    core::{Core, RequestContext},
    effects::Handler,
    handler::write::{Part, update_object},
    http_body::{Body, Request, read_all},
    negotiation::negotiate_whole,
    rendering::{encode_meta, respond},
};

/// Answers both forms.
pub struct BindingHandler;

#[async_trait]
impl Handler for BindingHandler {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, _kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        let negotiated = negotiate_whole(&context.accept, true)?;
        if context.info.verb != "create" {
            return Err(ApiError::method_not_allowed(format!("the server does not allow {} on a binding", context.info.verb)));
        }
        let bytes = read_all(request.into_body()).await?;
        let binding = codec::read_meta(&context.content_type, &bytes, &GroupVersionKind::new("", "v1", "Binding"))?;
        let mut context = context;
        if context.info.name.is_empty() {
            context.info.name = binding.name().to_owned();
        } else if !binding.name().is_empty() && binding.name() != context.info.name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        if context.info.name.is_empty() {
            return Err(ApiError::bad_request("name must be provided"));
        }
        let mut binding = binding;
        context.info.subresource = "binding".to_owned();
        let pods = core.kind_named("", "v1", "Pod")?;
        let attributes = Attributes::of(Operation::Create, &pods, &context);
        core.admission.admit(core, &attributes, Some(&mut binding), None).await?;
        core.admission.validate(core, &attributes, Some(&binding), None).await?;
        drop(attributes);
        bind(core, &context, &pods, &binding).await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(respond(StatusCode::CREATED, negotiated, encode_meta(&status, negotiated.encoding)?))
    }
}

async fn bind(core: &Arc<Core>, context: &RequestContext, pods: &Arc<dyn ServedKind>, binding: &Object) -> Result<(), ApiError> {
    let kind_name = || GroupKind { group: "".into(), kind: "Binding".into() };
    let target = binding.text(&["target", "name"]).unwrap_or_default().to_owned();
    if target.is_empty() {
        let error = FieldError::required(&FieldPath::new("target").child("name"), "");
        return Err(ApiError::invalid(&kind_name(), &context.info.name, vec![error]));
    }
    if let Some(kind) = binding.text(&["target", "kind"])
        && !matches!(kind, "" | "Node")
    {
        let error = FieldError::not_supported(&FieldPath::new("target").child("kind"), kind, &["Node", "<empty>"]);
        return Err(ApiError::invalid(&kind_name(), &context.info.name, vec![error]));
    }
    let resource = pods.info().group_resource();
    let annotations = binding.annotations().cloned().unwrap_or_default();
    let labels = binding.labels().cloned().unwrap_or_default();
    // Upstream names the subresource in conflicts of bindings.
    let conflict_subject = meta::GroupResource::new("", "pods/binding");
    let compute = |old: Option<&Object>| {
        let name = &context.info.name;
        let Some(old) = old else { return Err(ApiError::not_found(&resource, name)) };
        let refuse = |why: &str| Err(ApiError::conflict(&conflict_subject, name, why));
        if !binding.uid().is_empty() && binding.uid() != old.uid() {
            return refuse(&format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", binding.uid(), old.uid()));
        }
        if old.deletion_timestamp().is_some() {
            return refuse(&format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        if let Some(node) = old.text(&["spec", "nodeName"]).filter(|node| !node.is_empty()) {
            return refuse(&format!("pod {name} is already assigned to node {node:?}"));
        }
        if old.get(&["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
            return refuse(&format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut pod = old.clone();
        pod.set(&["spec", "nodeName"], json!(target));
        for (key, value) in &annotations {
            pod.set(&["metadata", "annotations", key], value.clone());
        }
        for (key, value) in &labels {
            pod.set(&["metadata", "labels", key], value.clone());
        }
        let now = context.timestamp();
        let mut condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now, "observedGeneration": old.generation()});
        let mut conditions = old.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
        conditions.retain(|known| known.get("type").and_then(Value::as_str) != Some("PodScheduled"));
        if old.generation() == 0
            && let Some(fields) = condition.as_object_mut()
        {
            fields.remove("observedGeneration");
        }
        conditions.push(condition);
        pod.set(&["status", "conditions"], Value::Array(conditions));
        pod.metadata_mut().remove("resourceVersion");
        Ok(pod)
    };
    update_object(core, context, pods, Part::Admitted, false, Expect::Absent, &compute).await.map(|_| ())
}
