//! `pods/NAME/eviction`: deleting a pod where its disruption budget allows.
//!
//! Source: Kubernetes `pkg/registry/core/pod/storage/eviction.go`.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{ApiError, Reason, GroupResource, GroupVersionKind, Object, selector::LabelSelector};
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

/// How often a pod that needs no budget is looked at anew because it was changed meanwhile. Source: Kubernetes 1.36, `EvictionsRetry`.
const TRIES: usize = 20;
/// Evictions not confirmed by the budget's controller yet, at most.
const MOST_DISRUPTED_PODS: usize = 2000;

/// The handler.
pub struct EvictionHandler;

fn too_many(seconds: u32, cause: String) -> ApiError {
    ApiError::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", seconds).with_cause("DisruptionBudget", cause, "")
}

fn still_processed(budget: &str) -> ApiError {
    too_many(10, format!("The disruption budget {budget} is still being processed by the server."))
}

fn condition<'a>(object: &'a Object, kind: &str) -> Option<&'a str> {
    let conditions = object.get(&["status", "conditions"]).and_then(Value::as_array)?;
    conditions.iter().find(|known| known.get("type").and_then(Value::as_str) == Some(kind))?.get("status")?.as_str()
}

/// Whether no budget counts the pod: it has not run yet, has ended, or is leaving anyway.
fn needs_no_budget(pod: &Object) -> bool {
    is_over(pod) || pod.text(&["status", "phase"]) == Some("Pending")
}

/// Whether it has ended or is leaving: it will never count again.
fn is_over(pod: &Object) -> bool {
    pod.deletion_timestamp().is_some() || matches!(pod.text(&["status", "phase"]), Some("Succeeded" | "Failed"))
}

/// Why a budget allows nothing.
/// Source: Kubernetes 1.36, `checkAndDecrement`.
fn refusal(budget: &Object) -> String {
    let name = budget.name();
    let conditions = budget.get(&["status", "conditions"]).and_then(Value::as_array);
    let text = |known: &Value, field: &str| known.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let told = conditions.and_then(|all| all.iter().find(|known| text(known, "type") == "DisruptionAllowed"));
    let told = told.filter(|known| text(known, "status") == "False" && !text(known, "message").is_empty()).map(|known| (text(known, "reason"), text(known, "message")));
    let (needed, present) = (number(budget, &["status", "desiredHealthy"]), number(budget, &["status", "currentHealthy"]));
    match told {
        // The numbers are not to be trusted then.
        Some((reason, why)) if reason == "SyncFailed" => {
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}")
        }
        _ if present <= needed => format!("The disruption budget {name} needs {needed} healthy pods and has {present} currently"),
        Some((reason, why)) => format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {why}"),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

fn number(object: &Object, path: &[&str]) -> i64 {
    object.get(path).and_then(Value::as_i64).unwrap_or_default()
}

/// The budget with one disruption taken from it, or why there is none to take.
fn take_one(budget: &Object, pod: &str, now: &str) -> Result<Object, ApiError> {
    let forbidden = |why: &str| ApiError::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), budget.name(), why);
    if number(budget, &["status", "observedGeneration"]) < budget.generation() {
        return Err(still_processed(budget.name()));
    }
    let allowed = number(budget, &["status", "disruptionsAllowed"]);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if budget.get(&["status", "disruptedPods"]).and_then(Value::as_object).is_some_and(|pods| pods.len() > MOST_DISRUPTED_PODS) {
        return Err(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        return Err(too_many(0, refusal(budget)));
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
        if eviction.name() != name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let given = eviction.get(&["deleteOptions"]).filter(|value| !value.is_null()).cloned();
        let given = given.and_then(|value| Object::from_value(value).ok());
        let options = DeleteOptions::read(given.as_ref(), &context.query)?;
        let dry_run = options.dry_run || context.query.dry_run;
        let attributes = Attributes { subresource: "eviction", dry_run, ..Attributes::of(Operation::Create, kind, &context) };
        core.admission.admit(core, &attributes, Some(&mut eviction), None).await?;
        core.admission.validate(core, &attributes, Some(&eviction), None).await?;

        let is_pinned = options.resource_version.is_some();
        for attempt in 1.. {
            let stored = read::find(core, kind, &namespace, &name)?;
            let pod = core.served_object(kind, &stored)?;
            let budget = if needs_no_budget(&pod) { None } else { budget_of(core, &namespace, &pod)? };
            let mut options = options.clone();
            let mut needs_nothing = needs_no_budget(&pod);
            if needs_nothing && !is_over(&pod) && !is_pinned {
                // It must not have become ready meanwhile.
                options.resource_version = Some(pod.resource_version().to_owned());
            }
            if let Some(budget) = &budget {
                let ready = condition(&pod, "Ready") == Some("True");
                let healthy = number(budget, &["status", "currentHealthy"]);
                let desired = number(budget, &["status", "desiredHealthy"]);
                let always = budget.text(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
                if !ready && (always || (healthy >= desired && desired > 0)) {
                    // A pod that does not count costs nothing, as long as it does not become ready meanwhile.
                    options.resource_version = Some(pod.resource_version().to_owned());
                    needs_nothing = true;
                } else {
                    spend(core, &namespace, budget.name(), &name, dry_run).await?;
                }
            }
            match go(core, kind, &context, &mut options, dry_run).await {
                Err(error) if error.reason == Reason::Conflict && needs_nothing && !is_pinned => match &budget {
                    // Clients try again then.
                    Some(budget) => return Err(still_processed(budget.name())),
                    None if attempt < TRIES => {}
                    None => return Err(error),
                },
                other => {
                    other?;
                    break;
                }
            }
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(respond(StatusCode::CREATED, negotiated, encode_meta(&status, negotiated.encoding)?))
    }
}

/// Takes one disruption from a budget for a pod, or only tries to.
async fn spend(core: &Arc<Core>, namespace: &str, budget: &str, pod: &str, dry_run: bool) -> Result<(), ApiError> {
    let budgets = core.kind_named("policy", "v1", "PodDisruptionBudget")?;
    let resource = budgets.info().group_resource();
    let mut own = RequestContext::internal(core, "update", namespace, budget);
    own.info.subresource = "status".to_owned();
    let now = own.timestamp();
    let compute = |found: Option<&Object>| match found {
        Some(found) => take_one(found, pod, &now),
        None => Err(ApiError::not_found(&resource, budget)),
    };
    if dry_run {
        let stored = read::find(core, &budgets, namespace, budget)?;
        return compute(Some(&core.served_object(&budgets, &stored)?)).map(drop);
    }
    update_object(core, &own, &budgets, Part::Status, false, Expect::Absent, &compute).await.map(drop)
}

/// Tells in the pod's conditions why it goes, and deletes it.
/// Source: Kubernetes 1.36, `addConditionAndDeletePod`.
async fn go(core: &Arc<Core>, kind: &Arc<dyn ServedKind>, context: &RequestContext, options: &mut DeleteOptions, dry_run: bool) -> Result<(), ApiError> {
    if !dry_run {
        let version = mark(core, kind, context, options).await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(version);
        }
    }
    let mut deletion = context.clone();
    deletion.info.subresource = String::new();
    deletion.info.verb = "delete";
    delete_object(core, &deletion, kind, options).await.map(drop)
}

/// The pod that is said to be evicted, where it is the one that is meant.
fn marked(pod: &Object, options: &DeleteOptions, now: &str) -> Result<Object, ApiError> {
    let conflict = |why: String| ApiError::conflict(&GroupResource::new("", "Pod"), pod.name(), &why);
    if let Some(uid) = options.uid.as_deref().filter(|uid| !uid.is_empty() && *uid != pod.uid()) {
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            pod.uid()
        )));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|version| !version.is_empty() && *version != pod.resource_version()) {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            pod.resource_version()
        )));
    }
    let mut marked = pod.clone();
    let mut conditions = pod.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let place = conditions.iter().position(|known| known.get("type").and_then(Value::as_str) == Some("DisruptionTarget"));
    let before = place.and_then(|place| conditions.get(place)).filter(|known| known.get("status").and_then(Value::as_str) == Some("True"));
    let since = before.and_then(|known| known.get("lastTransitionTime").cloned()).unwrap_or_else(|| json!(now));
    let mut condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting", "lastTransitionTime": since});
    if pod.generation() > 0 {
        condition["observedGeneration"] = json!(pod.generation());
    }
    match place.and_then(|place| conditions.get_mut(place)) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
    marked.set(&["status", "conditions"], Value::Array(conditions));
    marked.metadata_mut().remove("resourceVersion");
    Ok(marked)
}

/// Tells in the pod's conditions why it goes, and returns the version that says so.
async fn mark(core: &Arc<Core>, kind: &Arc<dyn ServedKind>, context: &RequestContext, options: &DeleteOptions) -> Result<String, ApiError> {
    let mut own = RequestContext::internal(core, "update", &context.info.namespace, &context.info.name);
    own.info.subresource = "status".to_owned();
    let now = own.timestamp();
    let resource = kind.info().group_resource();
    let compute = |pod: Option<&Object>| match pod {
        Some(pod) => marked(pod, options, &now),
        None => Err(ApiError::not_found(&resource, &own.info.name)),
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

    /// What is said where nothing is allowed, of so many wanted and healthy pods and a condition's reason and message.
    #[track_caller]
    fn check_refusal(desired: i64, healthy: i64, condition: Option<(&str, &str)>, expected: &str) {
        let mut budget = budget(0);
        budget.set(&["status", "desiredHealthy"], json!(desired));
        budget.set(&["status", "currentHealthy"], json!(healthy));
        if let Some((reason, message)) = condition {
            budget.set(&["status", "conditions"], json!([{"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": message}]));
        }
        assert_eq!(refusal(&budget), format!("The disruption budget b {expected}"));
    }

    #[test]
    fn a_refusal_says_why() {
        check_refusal(3, 3, None, "needs 3 healthy pods and has 3 currently");
        check_refusal(3, 3, Some(("InsufficientPods", "")), "needs 3 healthy pods and has 3 currently");
        check_refusal(3, 3, Some(("SyncFailed", "no scale")), "does not allow evicting pods currently because it failed sync: no scale");
        check_refusal(3, 4, Some(("Other", "why")), "does not allow evicting pods currently (Other): why");
        check_refusal(3, 4, Some(("InsufficientPods", "")), "does not allow evicting pods currently");
    }

    #[test]
    fn a_pod_is_marked_only_where_it_is_the_one_that_is_meant() {
        let pod = Object::from_value(json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7", "generation": 2}, "status": {"conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "x", "lastTransitionTime": "2025-01-01T00:00:00Z"},
            {"type": "Ready", "status": "True"},
        ]}}))
        .unwrap();
        let with = |uid: Option<&str>, version: Option<&str>| DeleteOptions { uid: uid.map(str::to_owned), resource_version: version.map(str::to_owned), ..DeleteOptions::default() };
        let now = "2026-01-01T00:00:00Z";
        let condition = marked(&pod, &with(Some("u"), Some("7")), now).unwrap().get(&["status", "conditions"]).unwrap()[0].clone();
        let said = |field: &str| condition[field].clone();
        assert_eq!((said("reason"), said("lastTransitionTime"), said("observedGeneration")), (json!("EvictionByEvictionAPI"), json!("2025-01-01T00:00:00Z"), json!(2)));
        let wrong_uid = marked(&pod, &with(Some("v"), None), now).unwrap_err();
        assert!(wrong_uid.code == 409 && wrong_uid.message.starts_with("Operation cannot be fulfilled on Pod \"p\": the UID in the precondition (v)"), "{}", wrong_uid.message);
        let wrong_version = marked(&pod, &with(None, Some("6")), now).unwrap_err();
        assert!(wrong_version.message.contains("the ResourceVersion in the precondition (6) does not match the ResourceVersion in record (7)"), "{}", wrong_version.message);
    }

    #[test]
    fn a_budget_nobody_has_looked_at_yet_refuses_for_a_while() {
        let mut stale = budget(1);
        stale.set(&["metadata", "generation"], json!(3));
        assert_eq!(take_one(&stale, "p", "").unwrap_err().retry_after_seconds, 10);
    }
}
