//! Binding a pod to a node: `pods/NAME/binding`, and the older `bindings` resource.
//!
//! Source: Kubernetes `pkg/registry/core/pod/storage/storage.go`, `BindingREST`.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{ApiError, FieldError, FieldPath, GroupKind, GroupVersionKind, Object};
use serde_json::{Map, Value, json};
use store::{Change, Expect, StoreError};

use crate::{
    admission::{Attributes, Operation},
    codec,
    core::{Core, RequestContext},
    effects::{Handler, binding_text::PodText},
    handler::write::{MAXIMUM_ATTEMPTS, Part, store_failure, update_object, wait_for_change},
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

/// Binds, where the pod allows it. The usual binding, which says where the pod goes, and at most in which zone that is, changes the pod's text; others go the
/// way of all updates.
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
    let (annotations, labels) = (binding.annotations().cloned().unwrap_or_default(), binding.labels().cloned().unwrap_or_default());
    let now = context.timestamp();
    let name = &context.info.name;
    if annotations.is_empty() && !context.query.dry_run {
        let view = core.view_of(pods);
        let key = pods.info().storage_key(&context.info.namespace, name);
        for _ in 0..MAXIMUM_ATTEMPTS {
            let Some(stored) = core.stored(pods, &context.info.namespace, name) else { return Err(ApiError::not_found(&resource, name)) };
            let is_current = core.is_plain(pods, &stored) && pods.conversion_webhook().is_none() && stored.schema_generation == pods.schema().generation;
            let text = stored.unversioned();
            let Some(text) = PodText::read(&stored, &text).filter(|_| is_current) else { break };
            text.known.check(name, binding.uid())?;
            let change = Change::Put { value: text.bound(&target, &labels, &now).map_err(ApiError::internal)?, expires_after: core.lifetime_of(pods.as_ref()) };
            match core.view.write(&key, Expect::AtRevision(stored.revision), change).await {
                Ok(_) => return Ok(()),
                // Somebody was quicker; his write may not have reached the view yet.
                Err(StoreError::Conflict { .. }) => wait_for_change(&view, &stored).await,
                Err(error) => return Err(store_failure(&error)),
            }
        }
    }
    let compute = |old: Option<&Object>| {
        let Some(old) = old else { return Err(ApiError::not_found(&resource, name)) };
        Known::of(old).check(name, binding.uid())?;
        Ok(bound(old, &target, &annotations, &labels, &now))
    };
    update_object(core, context, pods, Part::Admitted, false, Expect::Absent, &compute).await.map(|_| ())
}

/// What of a pod decides whether it may be bound.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// `metadata.uid`
    pub uid: String,
    /// It is on its way out.
    pub is_deleted: bool,
    /// Where it is bound to already; empty where it is not.
    pub node: String,
    /// It has scheduling gates.
    pub is_gated: bool,
}

impl Known {
    /// Of a pod.
    pub fn of(pod: &Object) -> Self {
        Self {
            uid: pod.uid().to_owned(),
            is_deleted: pod.deletion_timestamp().is_some(),
            node: pod.text(&["spec", "nodeName"]).unwrap_or_default().to_owned(),
            is_gated: pod.get(&["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()),
        }
    }

    fn check(&self, name: &str, wanted_uid: &str) -> Result<(), ApiError> {
        // Upstream names the subresource in conflicts of bindings.
        let refuse = |why: &str| Err(ApiError::conflict(&meta::GroupResource::new("", "pods/binding"), name, why));
        if !wanted_uid.is_empty() && wanted_uid != self.uid {
            return refuse(&format!("Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {}", self.uid));
        }
        if self.is_deleted {
            return refuse(&format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        if !self.node.is_empty() {
            return refuse(&format!("pod {name} is already assigned to node {:?}", self.node));
        }
        if self.is_gated {
            return refuse(&format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        Ok(())
    }
}

/// The condition of a pod that has a node.
pub fn scheduled(generation: i64, now: &str) -> Value {
    let mut condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now});
    if generation != 0 {
        condition["observedGeneration"] = json!(generation);
    }
    condition
}

/// A pod as it is once it is bound.
pub fn bound(old: &Object, node: &str, annotations: &Map<String, Value>, labels: &Map<String, Value>, now: &str) -> Object {
    let mut pod = old.clone();
    pod.set(&["spec", "nodeName"], json!(node));
    for (key, value) in annotations {
        pod.set(&["metadata", "annotations", key], value.clone());
    }
    for (key, value) in labels {
        pod.set(&["metadata", "labels", key], value.clone());
    }
    let mut conditions = old.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    conditions.retain(|known| known.get("type").and_then(Value::as_str) != Some("PodScheduled"));
    conditions.push(scheduled(old.generation(), now));
    pod.set(&["status", "conditions"], Value::Array(conditions));
    pod.metadata_mut().remove("resourceVersion");
    pod
}
