//! Questions in the form of objects, answered in their status and never stored: whose token is this, may somebody do
//! something, what may I do, who am I.
//!
//! Source: Kubernetes `pkg/registry/authentication` and `pkg/registry/authorization`.

use std::{collections::BTreeMap, sync::Arc};

use api::rbac::v1::PolicyRule;
use async_trait::async_trait;
use http::{Response, StatusCode};
use kinds::ServedKind;
use meta::{ApiError, FieldError, FieldPath, Object};
use serde_json::{Map, Value, json};

use crate::{
    authorization::{Attributes, Authorizer, Decision},
    core::{Core, RequestContext},
    effects::Handler,
    handler::write::decode_body,
    http_body::{Body, Request, read_all},
    negotiation::negotiate_whole,
    rendering::{encode_object, respond},
    user::User,
};

async fn read(context: &RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Object, ApiError> {
    let bytes = read_all(request.into_body()).await?;
    decode_body(context, kind.as_ref(), &bytes)
}

fn answered(context: &RequestContext, kind: &Arc<dyn ServedKind>, mut review: Object, status: Value) -> Result<Response<Body>, ApiError> {
    let negotiated = negotiate_whole(&context.accept, true)?;
    // An object without metadata gets an empty one.
    review.metadata_mut();
    review.0.insert("status".to_owned(), status);
    Ok(respond(StatusCode::CREATED, negotiated, encode_object(kind, &review, negotiated.encoding)?))
}

fn texts(object: &Object, path: &[&str]) -> Vec<String> {
    let list = object.get(path).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn user_value(user: &User) -> Value {
    let mut value = Map::new();
    value.insert("username".to_owned(), json!(user.name));
    if !user.uid.is_empty() {
        value.insert("uid".to_owned(), json!(user.uid));
    }
    if !user.groups.is_empty() {
        value.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        value.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(value)
}

/// `tokenreviews`
pub struct TokenReview;

#[async_trait]
impl Handler for TokenReview {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        let review = read(&context, kind, request).await?;
        let Some(token) = review.text(&["spec", "token"]).filter(|token| !token.is_empty()).map(str::to_owned) else {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        };
        let own = &core.facts.audiences;
        let asked = texts(&review, &["spec", "audiences"]);
        let audiences = if asked.is_empty() { own.clone() } else { asked };
        let mut found = None;
        for authenticator in &core.authentication.tokens {
            match authenticator.review(&token, &audiences, own).await {
                Ok(None) => {}
                Ok(some) => {
                    found = some;
                    break;
                }
                // It is this one's token, and not valid.
                Err(_) => break,
            }
        }
        let status = match found {
            Some((user, audiences)) => json!({"authenticated": true, "user": user_value(&user), "audiences": audiences}),
            None => json!({"user": {}, "error": "invalid bearer token"}),
        };
        answered(&context, kind, review, status)
    }
}

/// `selfsubjectreviews`
pub struct SelfReview;

#[async_trait]
impl Handler for SelfReview {
    async fn handle(&self, _core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        let mut review = read(&context, kind, request).await?;
        review.set(&["metadata", "creationTimestamp"], json!(context.timestamp()));
        let status = json!({"userInfo": user_value(&context.user)});
        answered(&context, kind, review, status)
    }
}

/// `subjectaccessreviews`, `localsubjectaccessreviews` and `selfsubjectaccessreviews`
pub struct AccessReview;

fn check(review: &Object, own: bool, local: bool) -> Vec<FieldError> {
    let spec = FieldPath::new("spec");
    let given = |field: &str| review.get(&["spec", field]).is_some_and(|value| !value.is_null());
    let mut problems = Vec::new();
    match (given("resourceAttributes"), given("nonResourceAttributes")) {
        (true, true) => problems.push(FieldError::invalid(
            &spec.child("nonResourceAttributes"),
            "nonResourceAttributes",
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => problems.push(FieldError::invalid(
            &spec.child("resourceAttributes"),
            "null",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        (false, true) if local => {
            problems.push(FieldError::invalid(&spec.child("nonResourceAttributes"), "nonResourceAttributes", "disallowed on this kind of request"));
        }
        _ => {}
    }
    if !own && review.text(&["spec", "user"]).unwrap_or_default().is_empty() && texts(review, &["spec", "groups"]).is_empty() {
        problems.push(FieldError::invalid(&spec.child("user"), "", "at least one of user or group must be specified"));
    }
    problems
}

/// Requirements of a review's field selector in the form of a query.
fn selector_text(review: &Object) -> String {
    if let Some(raw) = review.text(&["spec", "resourceAttributes", "fieldSelector", "rawSelector"]) {
        return raw.to_owned();
    }
    let requirements = review.get(&["spec", "resourceAttributes", "fieldSelector", "requirements"]).and_then(Value::as_array);
    let exact = requirements.into_iter().flatten().filter_map(|requirement| {
        let values = requirement.get("values").and_then(Value::as_array)?;
        match (requirement.get("operator").and_then(Value::as_str)?, values.as_slice()) {
            ("In", [only]) => Some(format!("{}={}", requirement.get("key")?.as_str()?, only.as_str()?)),
            _ => None,
        }
    });
    exact.collect::<Vec<_>>().join(",")
}

fn decide(core: &Core, review: &Object, user: &User) -> Decision {
    let resource = |field: &str| review.text(&["spec", "resourceAttributes", field]).unwrap_or_default();
    let selector = selector_text(review);
    if review.get(&["spec", "resourceAttributes"]).is_some_and(|value| !value.is_null()) {
        return core.authorization.authorize(&Attributes {
            user,
            verb: resource("verb"),
            group: resource("group"),
            version: resource("version"),
            resource: resource("resource"),
            subresource: resource("subresource"),
            namespace: resource("namespace"),
            name: resource("name"),
            is_resource: true,
            path: "",
            field_selector: &selector,
            label_selector: None,
        });
    }
    let path = |field: &str| review.text(&["spec", "nonResourceAttributes", field]).unwrap_or_default();
    core.authorization.authorize(&Attributes {
        user,
        verb: path("verb"),
        group: "",
        version: "",
        resource: "",
        subresource: "",
        namespace: "",
        name: "",
        is_resource: false,
        path: path("path"),
        field_selector: "", label_selector: None,
    })
}

#[async_trait]
impl Handler for AccessReview {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        let mut review = read(&context, kind, request).await?;
        let info = kind.info();
        let own = &*info.plural == "selfsubjectaccessreviews";
        let local = info.namespaced;
        let problems = check(&review, own, local);
        if !problems.is_empty() {
            return Err(ApiError::invalid(&info.group_kind(), "", problems));
        }
        if local {
            let namespace = &context.info.namespace;
            if !review.namespace().is_empty() && review.namespace() != namespace {
                return Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
            }
            let asked = review.text(&["spec", "resourceAttributes", "namespace"]).unwrap_or_default();
            if asked != namespace {
                return Err(ApiError::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {namespace}")));
            }
            review.set(&["metadata", "namespace"], json!(context.info.namespace));
        }
        let asked;
        let user = if own {
            &*context.user
        } else {
            let extra: BTreeMap<String, Vec<String>> =
                review.get(&["spec", "extra"]).and_then(|extra| serde_json::from_value(extra.clone()).ok()).unwrap_or_default();
            asked = User {
                name: review.text(&["spec", "user"]).unwrap_or_default().to_owned(),
                uid: review.text(&["spec", "uid"]).unwrap_or_default().to_owned(),
                groups: texts(&review, &["spec", "groups"]),
                extra,
            };
            &asked
        };
        let (allowed, denied, reason) = match decide(core, &review, user) {
            Decision::Allow(reason) => (true, false, reason),
            Decision::Deny(reason) => (false, true, reason),
            Decision::NoOpinion(reason) => (false, false, reason),
        };
        let mut status = Map::new();
        status.insert("allowed".to_owned(), json!(allowed));
        if denied {
            status.insert("denied".to_owned(), json!(true));
        }
        if !reason.is_empty() {
            status.insert("reason".to_owned(), json!(reason));
        }
        answered(&context, kind, review, Value::Object(status))
    }
}

/// `selfsubjectrulesreviews`
pub struct RulesReview;

fn rules_status(rules: &[PolicyRule]) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in rules {
        if let Some(urls) = rule.non_resource_urls.as_ref().filter(|urls| !urls.is_empty()) {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
            continue;
        }
        let mut entry = Map::new();
        entry.insert("verbs".to_owned(), json!(rule.verbs));
        for (name, list) in [("apiGroups", &rule.api_groups), ("resources", &rule.resources), ("resourceNames", &rule.resource_names)] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                entry.insert(name.to_owned(), json!(list));
            }
        }
        resources.push(Value::Object(entry));
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

#[async_trait]
impl Handler for RulesReview {
    async fn handle(&self, core: &Arc<Core>, context: RequestContext, kind: &Arc<dyn ServedKind>, request: Request) -> Result<Response<Body>, ApiError> {
        let review = read(&context, kind, request).await?;
        let Some(namespace) = review.text(&["spec", "namespace"]).filter(|namespace| !namespace.is_empty()) else {
            return Err(ApiError::bad_request("no namespace on request"));
        };
        let mut status = rules_status(&core.authorization.rules_for(&context.user, namespace));
        if context.user.in_group(crate::authorization::node::NODES) {
            status["incomplete"] = json!(true);
            status["evaluationError"] = json!("node authorizer does not support user rule resolution");
        }
        answered(&context, kind, review, status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_asks_about_exactly_one_thing_and_somebody() {
        let review = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
        assert!(check(&review(json!({"resourceAttributes": {"verb": "get"}, "user": "a"})), false, false).is_empty());
        assert_eq!(check(&review(json!({"resourceAttributes": {"verb": "get"}})), false, false).len(), 1);
        assert_eq!(check(&review(json!({"user": "a"})), false, false).len(), 1);
        assert_eq!(check(&review(json!({"resourceAttributes": {}, "nonResourceAttributes": {}})), true, false).len(), 1);
    }

    #[test]
    fn exact_requirements_of_a_field_selector_count() {
        let attributes = json!({"fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]}});
        let review = Object::from_value(json!({"spec": {"resourceAttributes": attributes}})).unwrap();
        assert_eq!(selector_text(&review), "spec.nodeName=n");
    }

    #[test]
    fn rules_are_told_apart_by_what_they_are_about() {
        let path = PolicyRule { non_resource_urls: Some(vec!["/version".to_owned()]), verbs: vec!["get".to_owned()], ..PolicyRule::default() };
        let status = rules_status(&[path]);
        assert_eq!(status["nonResourceRules"][0]["nonResourceURLs"][0], "/version");
        assert_eq!(status["resourceRules"], json!([]));
    }
}
