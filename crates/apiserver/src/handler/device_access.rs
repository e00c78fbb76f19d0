//! What of claims of devices depends on who asks and where: access to devices that are others' already is for namespaces of
//! administrators, allocations are for schedulers, and what is reported of devices is for their drivers.
//!
//! Source: Kubernetes 1.36 `pkg/registry/resource/…`, `AuthorizedForAdmin`, `AuthorizedForAdminStatus`, `AuthorizedForBinding` and
//! `AuthorizedForDeviceStatus`.

use std::collections::{BTreeMap, BTreeSet};

use meta::{ApiError, FieldError, FieldPath, GroupVersionKind, Object, names::GroupResource};
use serde_json::Value;

use crate::{
    authorization::{Attributes, Authorizer as _, Decision},
    core::{Core, RequestContext},
    user::User,
};

/// Who runs on a node, of which it says so.
const NODE_OF_USER: &str = "authentication.kubernetes.io/node-name";
const LABEL: &str = "resource.kubernetes.io/admin-access";
const RESULTS: [&str; 4] = ["status", "allocation", "devices", "results"];

/// The first that has such access, in any version.
fn first(all: Option<&Value>) -> Option<usize> {
    let has_access = |one: &Value| one.pointer("/exactly/adminAccess").or_else(|| one.get("adminAccess")) == Some(&Value::Bool(true));
    all?.as_array()?.iter().position(has_access)
}

fn problem(core: &Core, namespace: &str, asked: Option<&Value>, path: &str) -> Option<FieldError> {
    let index = first(asked)?;
    let namespace = core.view_named("namespaces").get(namespace);
    let is_administrators = namespace.is_some_and(|namespace| namespace.label(LABEL) == Some("true"));
    let path = FieldPath::new(path).index(index).child("adminAccess");
    let words = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    (!is_administrators).then(|| FieldError::forbidden(&path, words))
}

/// What is wrong with a claim, or a template of claims, that comes to be. What they ask for never changes.
pub fn of_new(core: &Core, kind: &GroupVersionKind, namespace: &str, new: &Object) -> Option<FieldError> {
    let requests: &[&str] = match (&*kind.group, &*kind.kind) {
        ("resource.k8s.io", "ResourceClaim") => &["spec", "devices", "requests"],
        ("resource.k8s.io", "ResourceClaimTemplate") => &["spec", "spec", "devices", "requests"],
        _ => return None,
    };
    problem(core, namespace, new.get(requests), "spec.devices.requests")
}

/// What is wrong with a claim's new status, and with who reports it. What was given stays given.
pub fn of_status(core: &Core, context: &RequestContext, kind: &GroupVersionKind, new: &Object, old: &Object) -> Vec<FieldError> {
    if (&*kind.group, &*kind.kind) != ("resource.k8s.io", "ResourceClaim") {
        return Vec::new();
    }
    let mut problems = Vec::new();
    if first(old.get(&RESULTS)).is_none() {
        problems.extend(problem(core, &context.info.namespace, new.get(&RESULTS), "status.allocation.devices.results"));
    }
    // An object that is applied is patched.
    let verb = if context.info.verb == "update" { "update" } else { "patch" };
    if ["allocation", "reservedFor"].iter().any(|field| part(new, field) != part(old, field))
        && let Some(why) = refusal(core, context, verb, "binding", "", "")
    {
        let words = format!("changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {why}");
        problems.push(FieldError::forbidden(&FieldPath::new("status"), words));
    }
    let node = allocated_node(new);
    let verbs: &[&str] = match (node.is_some_and(|node| runs_on(&context.user, node)), verb) {
        (true, "update") => &["associated-node:update", "arbitrary-node:update"],
        (true, _) => &["associated-node:patch", "arbitrary-node:patch"],
        (false, "update") => &["arbitrary-node:update"],
        (false, _) => &["arbitrary-node:patch"],
    };
    for driver in reporting_drivers(new, old) {
        let refusals: Option<Vec<String>> = verbs.iter().map(|verb| refusal(core, context, verb, "driver", &context.info.namespace, driver)).collect();
        if let Some(why) = refusals.and_then(|all| all.into_iter().next()) {
            let words = format!("changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {why}", verbs.join(" "));
            problems.push(FieldError::forbidden(&FieldPath::new("status").child("devices"), words));
        }
    }
    problems
}

/// A field of the status; what is empty is not there.
fn part<'a>(claim: &'a Object, field: &str) -> Option<&'a Value> {
    claim.get(&["status", field]).filter(|value| !value.is_null() && value.as_array().is_none_or(|all| !all.is_empty()))
}

/// Why somebody may not do something with a subresource that only permissions know.
fn refusal(core: &Core, context: &RequestContext, verb: &str, subresource: &str, namespace: &str, name: &str) -> Option<String> {
    let attributes = Attributes { verb, subresource, namespace, name, ..Attributes::of(&context.user, &context.info) };
    let reason = match core.authorization.authorize(&attributes) {
        Decision::Allow(_) => return None,
        Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
    };
    let refused = attributes.describe_refusal();
    let why = if reason.is_empty() { refused } else { format!("{refused}: {reason}") };
    Some(ApiError::forbidden(&GroupResource::new(&context.info.group, &context.info.resource), name, why).message)
}

/// The one node that an allocation is of.
fn allocated_node(claim: &Object) -> Option<&str> {
    let [term] = claim.get(&["status", "allocation", "nodeSelector", "nodeSelectorTerms"])?.as_array()?.as_slice() else { return None };
    let list = |field: &str| term.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let ([], [field]) = (list("matchExpressions"), list("matchFields")) else { return None };
    let [node] = field.get("values")?.as_array()?.as_slice() else { return None };
    (field.get("key")? == "metadata.name" && field.get("operator")? == "In").then(|| node.as_str())?
}

/// Whether somebody is an account of services whose pod runs on a node.
fn runs_on(user: &User, node: &str) -> bool {
    user.name.starts_with("system:serviceaccount:") && user.extra.get(NODE_OF_USER).is_some_and(|nodes| matches!(nodes.as_slice(), [one] if one == node))
}

/// The drivers of devices of which something else is reported than before.
fn reporting_drivers<'a>(new: &'a Object, old: &'a Object) -> BTreeSet<&'a str> {
    let devices = |claim: &'a Object| -> BTreeMap<[&'a str; 4], &'a Value> {
        let all = claim.get(&["status", "devices"]).and_then(Value::as_array).into_iter().flatten();
        let key = |device: &'a Value| ["driver", "pool", "device", "shareID"].map(|field| device.get(field).and_then(Value::as_str).unwrap_or_default());
        all.map(|device| (key(device), device)).collect()
    };
    let (new, old) = (devices(new), devices(old));
    new.iter().chain(&old).filter(|(key, _)| new.get(*key) != old.get(*key)).map(|(key, _)| key[0]).collect()
}
