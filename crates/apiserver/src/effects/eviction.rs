//! `pods/NAME/eviction`: deleting a pod where its disruption budget allows.
//!
//! Source: Kubernetes `pkg/registry/core/pod/storage/eviction.go`.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{ApiError, GroupResource, GroupVersionKind, Object, selector::LabelSelector};
use serde_json::{Value, json};
use store::Expect;

use crate::{
    admission::{Attributes, Operation},
    codec,
    core::{Core, RequestContext},
    effects::Handler,
    handler::{
        delete::delete_object,
        read,
        write::{Part, update_object},
    },
    http_body::{Body, Request, read_all},
    negotiation::negotiate_whole,
    options::DeleteOptions,
    rendering::{encode_meta, respond},
};

/// Evictions not confirmed by the budget's controller yet, at most.
const MOST_DISRUPTED_PODS: usize = 2000;

/// The handler.
pub struct EvictionHandler;

fn too_many(seconds: u32, cause: String) -> ApiError {
    ApiError::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", seconds).with_cause("DisruptionBudget", cause, "")
}

fn condition<'a>(object: &'a Object, kind: &str) -> Option<&'a str> {
    let conditions = object.get(&["status", "conditions"]).and_then(Value::as_array)?;
    conditions.iter().find(|known| known.get("type").and_then(Value::as_str) == Some(kind))?.get("status")?.as_str()
}

/// Whether no budget counts the pod: it has not run yet, has ended, or is leaving anyway.
fn needs_no_budget(pod: &Object) -> bool {
    pod.deletion_timestamp().is_some() || matches!(pod.text(&["status", "phase"]), Some("Succeeded" | "Failed" | "Pending"))
}

fn number(object: &Object, path: &[&str]) -> i64 {
    object.get(path).and_then(Value::as_i64).unwrap_or_default()
}

/// The budget with one disruption taken from it, or why there is none to take.
fn take_one(budget: &Object, pod: &str, now: &str) -> Result<Object, ApiError> {
    let forbidden = |why: &str| ApiError::forbidden(&GroupResource::new("", "poddisruptionbudget"), budget.name(), why);
    if number(budget, &["status", "observedGeneration"]) < budget.generation() {
        return Err(too_many(10, format!("The disruption budget {} is still being processed by the server.", budget.name())));
    }
    let allowed = number(budget, &["status", "disruptionsAllowed"]);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if budget.get(&["status", "disruptedPods"]).and_then(Value::as_object).is_some_and(|pods| pods.len() > MOST_DISRUPTED_PODS) {
        return Err(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        let (needed, present) = (number(budget, &["status", "desiredHealthy"]), number(budget, &["status", "currentHealthy"]));
        return Err(too_many(0, format!("The disruption budget {} needs {needed} healthy pods and has {present} currently", budget.name())));
    }
    let mut taken = budget.clone();
    taken.set(&["status", "disruptionsAllowed"], json!(allowed - 1));
    taken.set(&["status", "disruptedPods", pod], json!(now));
    if allowed == 1 {
        let mut conditions = budget.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
        conditions.retain(|known| known.get("type").and_then(Value::as_str) != Some("DisruptionAllowed"));
        conditions.push(json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "lastTransitionTime": now, "observedGeneration": number(budget, &["status", "observedGeneration"])}));
        taken.set(&["status", "conditions"], Value::Array(conditions));
    }
    taken.metadata_mut().remove("resourceVersion");
    Ok(taken)
}

/// The budget of a pod, where it has one.
fn budget_of(core: &Core, namespace: &str, pod: &Object) -> Result<Option<Object>, ApiError> {
    let label = |name: &str| pod.labels().and_then(|labels| labels.get(name)).and_then(Value::as_str);
    let mut found: Option<Object> = None;
    let view = core.view_named("poddisruptionbudgets.policy");
    for stored in core.view.snapshot(&view).range(&format!("{namespace}/"), None) {
        let budget = stored.object().map_err(ApiError::internal)?;
        // No selector selects nothing, an empty one everything.
        let selector = budget.get(&["spec", "selector"]).filter(|selector| !selector.is_null()).map(LabelSelector::from_json);
        if !matches!(selector, Some(Ok(selector)) if selector.matches(&label)) {
            continue;
        }
        if found.is_some() {
            return Err(ApiError::internal("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."));
        }
        found = Some(budget);
    }
    Ok(found)
}

#[async_trait]
impl Handler for EvictionHandler {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        let negotiated = negotiate_whole(&context.accept, true)?;
        if context.info.verb != "create" {
            return Err(ApiError::method_not_allowed(format!("the server does not allow {} on an eviction", context.info.verb)));
        }
        let bytes = read_all(request.into_body()).await?;
        let mut eviction = codec::read_meta(&context.content_type, &bytes, &GroupVersionKind::new("policy", "v1", "Eviction"))?;
        let (namespace, name) = (context.info.namespace.clone(), context.info.name.clone());
        if !eviction.name().is_empty() && eviction.name() != name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let given = eviction.get(&["deleteOptions"]).filter(|value| !value.is_null()).cloned();
        let given = given.and_then(|value| Object::from_value(value).ok());
        let mut options = DeleteOptions::read(given.as_ref(), &context.query)?;
        let dry_run = options.dry_run || context.query.dry_run;
        let attributes = Attributes { subresource: "eviction", dry_run, ..Attributes::of(Operation::Create, kind, &context) };
        core.admission.admit(core, &attributes, Some(&mut eviction), None).await?;
        core.admission.validate(core, &attributes, Some(&eviction), None).await?;

        let stored = read::find(core, kind, &namespace, &name)?;
        let pod = core.served_object(kind, &stored)?;
        let version_matters = options.resource_version.is_none() && pod.text(&["status", "phase"]) != Some("Pending");
        let mut pin = needs_no_budget(&pod) && version_matters;
        let mut version = pod.resource_version().to_owned();
        if !needs_no_budget(&pod)
            && let Some(budget) = budget_of(core, &namespace, &pod)?
        {
            let ready = condition(&pod, "Ready") == Some("True");
            let healthy = number(&budget, &["status", "currentHealthy"]);
            let desired = number(&budget, &["status", "desiredHealthy"]);
            let always = budget.text(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
            if !ready && (always || (healthy >= desired && desired > 0)) {
                // A pod that does not count costs nothing, as long as it does not become ready meanwhile.
                pin = options.resource_version.is_none();
            } else {
                let budgets = core.kind_named("policy", "v1", "PodDisruptionBudget")?;
                let resource = budgets.info().group_resource();
                let mut own = RequestContext::internal(core, "update", &namespace, budget.name());
                own.info.subresource = "status".to_owned();
                let now = own.timestamp();
                if dry_run {
                    take_one(&budget, &name, &now)?;
                } else {
                    let compute = |budget: Option<&Object>| match budget {
                        Some(budget) => take_one(budget, &name, &now),
                        None => Err(ApiError::not_found(&resource, own.info.name.as_str())),
                    };
                    update_object(core, &own, &budgets, Part::Status, false, Expect::Absent, &compute).await?;
                }
            }
        }
        if !dry_run && pod.deletion_timestamp().is_none() {
            version = mark(core, kind, &context, pin.then_some(version)).await?;
        }
        if pin {
            options.resource_version = Some(version);
        }
        let mut deletion = context.clone();
        deletion.info.subresource = String::new();
        deletion.info.verb = "delete";
        delete_object(core, &deletion, kind, &options).await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(respond(StatusCode::CREATED, negotiated, encode_meta(&status, negotiated.encoding)?))
    }
}

/// Tells in the pod's conditions why it goes, and returns the version that says so.
async fn mark(core: &Arc<Core>, kind: &Arc<dyn ServedKind>, context: &RequestContext, version: Option<String>) -> Result<String, ApiError> {
    let mut own = RequestContext::internal(core, "update", &context.info.namespace, &context.info.name);
    own.info.subresource = "status".to_owned();
    let now = own.timestamp();
    let resource = kind.info().group_resource();
    let compute = |pod: Option<&Object>| {
        let Some(pod) = pod else { return Err(ApiError::not_found(&resource, &own.info.name)) };
        let mut marked = pod.clone();
        if condition(pod, "DisruptionTarget") != Some("True") {
            let mut conditions = pod.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
            conditions.retain(|known| known.get("type").and_then(Value::as_str) != Some("DisruptionTarget"));
            conditions.push(json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting", "lastTransitionTime": now}));
            marked.set(&["status", "conditions"], Value::Array(conditions));
        }
        match &version {
            // Bound to what was judged.
            Some(version) => marked.set(&["metadata", "resourceVersion"], json!(version)),
            None => {
                marked.metadata_mut().remove("resourceVersion");
            }
        }
        Ok(marked)
    };
    let written = update_object(core, &own, kind, Part::Status, false, Expect::Absent, &compute).await?;
    Ok(written.stored.revision.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Object {
        Object::from_value(json!({"metadata": {"name": "b", "generation": 2, "resourceVersion": "7"},
            "status": {"observedGeneration": 2, "disruptionsAllowed": allowed, "desiredHealthy": 3, "currentHealthy": 3}}))
        .unwrap()
    }

    #[test]
    fn a_budget_is_spent_one_by_one_and_then_refuses() {
        let taken = take_one(&budget(1), "p", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(number(&taken, &["status", "disruptionsAllowed"]), 0);
        assert_eq!(taken.text(&["status", "disruptedPods", "p"]), Some("2026-01-01T00:00:00Z"));
        assert_eq!(condition(&taken, "DisruptionAllowed"), Some("False"));
        let refused = take_one(&budget(0), "p", "").unwrap_err();
        assert_eq!(refused.code, 429);
        assert_eq!(refused.causes[0].message, "The disruption budget b needs 3 healthy pods and has 3 currently");
    }

    #[test]
    fn a_budget_nobody_has_looked_at_yet_refuses_for_a_while() {
        let mut stale = budget(1);
        stale.set(&["metadata", "generation"], json!(3));
        assert_eq!(take_one(&stale, "p", "").unwrap_err().retry_after_seconds, 10);
    }
}
