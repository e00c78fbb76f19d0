//! Who somebody is and what he may: reviews of access, and acting as others.

use client::Identity;
use serde_json::{Value, json};
use testkit::{ApiHarness, api_harness::Caller};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";
const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Gives a user rules in the whole cluster, or in one namespace.
async fn grant(administrator: &Caller, name: &str, namespace: Option<&str>, rules: &Value) {
    let (kind, path) = match namespace {
        Some(namespace) => ("Role", format!("{RBAC}/namespaces/{namespace}")),
        None => ("ClusterRole", RBAC.to_owned()),
    };
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "rules": rules });
    administrator.post(&format!("{path}/{}s", kind.to_lowercase()), &role).await.expect(201);
    let binding = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"), "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name }, "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name }] });
    administrator.post(&format!("{path}/{}bindings", kind.to_lowercase()), &binding).await.expect(201);
}

async fn with_jane() -> (ApiHarness, Caller) {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    grant(&administrator, "jane", Some("default"), &json!([
        { "apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"] },
        { "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["web"], "verbs": ["update"] },
    ])).await;
    let jane = api.caller(Identity::user("jane", &["crew"]));
    (api, jane)
}

fn of(verb: &str, group: &str, resource: &str, more: Value) -> Value {
    let mut attributes = json!({ "verb": verb, "group": group, "resource": resource, "namespace": "default" });
    attributes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "resourceAttributes": attributes })
}

#[tokio::test]
async fn everybody_learns_what_he_may_himself_and_those_who_may_ask_what_others_may() {
    let (api, jane) = with_jane().await;
    let administrator = api.administrator();
    let asked = async |caller: &Caller, kind: &str, path: &str, spec: &Value| {
        let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": { "namespace": if kind.starts_with("Local") { json!("default") } else { Value::Null } }, "spec": spec });
        caller.post(path, &review).await
    };
    for (spec, allowed) in [
        (of("get", "", "pods", json!({})), true),
        (of("get", "", "pods", json!({ "subresource": "log" })), true),
        (of("get", "", "pods", json!({ "subresource": "exec" })), false),
        (of("get", "", "pods", json!({ "namespace": "kube-system" })), false),
        (of("update", "apps", "deployments", json!({ "name": "web" })), true),
        (of("update", "apps", "deployments", json!({ "name": "api" })), false),
        (json!({ "nonResourceAttributes": { "verb": "get", "path": "/version" } }), true),
        (json!({ "nonResourceAttributes": { "verb": "get", "path": "/metrics" } }), false),
    ] {
        let own = asked(&jane, "SelfSubjectAccessReview", &format!("{AUTHORIZATION}/selfsubjectaccessreviews"), &spec).await.expect(201);
        assert_eq!(own["status"]["allowed"], allowed, "{spec}: {own}");
        let mut of_jane = spec.clone();
        (of_jane["user"], of_jane["groups"]) = (json!("jane"), json!(["crew", "system:authenticated"]));
        let told = asked(&administrator, "SubjectAccessReview", &format!("{AUTHORIZATION}/subjectaccessreviews"), &of_jane).await.expect(201);
        assert_eq!(told["status"]["allowed"], allowed, "{of_jane}: {told}");
        assert_eq!(told["status"]["reason"].as_str().is_some_and(|reason| reason.starts_with("RBAC: allowed by")), allowed, "{told}");
    }
    let mut local = of("list", "", "pods", json!({}));
    local["user"] = json!("jane");
    let path = format!("{AUTHORIZATION}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(asked(&administrator, "LocalSubjectAccessReview", &path, &local).await.expect(201)["status"]["allowed"], true);
    // It is about its namespace, and about nothing else.
    local["resourceAttributes"]["namespace"] = json!("kube-system");
    asked(&administrator, "LocalSubjectAccessReview", &path, &local).await.refused(400, "BadRequest", "spec.resourceAttributes.namespace must match namespace: default");
    // Who asks about others needs a right to.
    let others = asked(&jane, "SubjectAccessReview", &format!("{AUTHORIZATION}/subjectaccessreviews"), &json!({ "user": "ann", "nonResourceAttributes": { "verb": "get", "path": "/" } })).await;
    others.expect(403);
}

#[tokio::test]
async fn a_list_of_rules_and_a_name_are_told_to_whoever_asks_about_himself() {
    let (_api, jane) = with_jane().await;
    let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": "default" } });
    let status = jane.post(&format!("{AUTHORIZATION}/selfsubjectrulesreviews"), &review).await.expect(201)["status"].clone();
    assert_eq!(status["incomplete"], false, "{status}");
    let rules = status["resourceRules"].as_array().unwrap();
    assert!(rules.contains(&json!({ "apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"] })), "{status}");
    assert!(rules.iter().any(|rule| rule["resourceNames"] == json!(["web"]) && rule["verbs"] == json!(["update"])), "{status}");
    let paths: Vec<&Value> = status["nonResourceRules"].as_array().unwrap().iter().flat_map(|rule| rule["nonResourceURLs"].as_array().unwrap()).collect();
    assert!(paths.contains(&&json!("/version")), "{status}");
    let me = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let user = jane.post(WHO_AM_I, &me).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(user["username"], "jane");
    assert_eq!(user["groups"], json!(["crew", "system:authenticated"]));
}

#[tokio::test]
async fn who_acts_as_others_needs_a_right_for_each_part_of_them() {
    let (api, jane) = with_jane().await;
    let administrator = api.administrator();
    let as_others = async |headers: &[(&str, &str)]| {
        let all: Vec<(&str, &str)> = [("content-type", "application/json")].iter().chain(headers).copied().collect();
        jane.send("POST", WHO_AM_I, &all, r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#).await
    };
    let refused = as_others(&[("impersonate-user", "ann")]).await.expect(403)["message"].as_str().unwrap().to_owned();
    assert_eq!(refused, "users \"ann\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope");
    grant(&administrator, "jane", None, &json!([
        { "apiGroups": [""], "resources": ["users"], "resourceNames": ["ann"], "verbs": ["impersonate"] },
        { "apiGroups": [""], "resources": ["groups"], "resourceNames": ["readers"], "verbs": ["impersonate"] },
        { "apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "resourceNames": ["17"], "verbs": ["impersonate"] },
        { "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "resourceNames": ["read"], "verbs": ["impersonate"] },
        { "apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["robot"], "verbs": ["impersonate"] },
    ])).await;
    let whole = [("impersonate-user", "ann"), ("impersonate-group", "readers"), ("impersonate-uid", "17"), ("impersonate-extra-scopes", "read")];
    let ann = as_others(&whole).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(ann, json!({ "username": "ann", "uid": "17", "groups": ["readers", "system:authenticated"], "extra": { "scopes": ["read"] } }));
    for changed in [("impersonate-user", "bob"), ("impersonate-group", "writers"), ("impersonate-uid", "18"), ("impersonate-extra-scopes", "write"), ("impersonate-extra-teams", "read")] {
        let mut headers: Vec<(&str, &str)> = whole.iter().filter(|(name, _)| *name != changed.0).copied().collect();
        headers.push(changed);
        as_others(&headers).await.expect(403);
    }
    let robot = as_others(&[("impersonate-user", "system:serviceaccount:default:robot")]).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(robot["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]));
    as_others(&[("impersonate-group", "readers")]).await.expect(400);
    // What is done is done with the rights of the other.
    jane.get("/api/v1/namespaces/default/pods").await.expect(200);
    jane.send("GET", "/api/v1/namespaces/default/pods", &[("impersonate-user", "ann")], "").await.expect(403);
}

#[tokio::test]
async fn strangers_are_told_health_and_version_and_refused_everything_else() {
    let api = ApiHarness::start().await;
    let stranger = api.stranger();
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        stranger.get(path).await.expect(200);
    }
    for path in ["/api", "/apis", "/openapi/v2", "/metrics", "/api/v1/namespaces", "/api/v1/namespaces/default/pods"] {
        assert_eq!(stranger.get(path).await.expect(403)["message"].as_str().unwrap().split(':').next().unwrap_or_default().contains("forbidden"), true, "{path}");
    }
    stranger.send("GET", "/version", &[("authorization", "Bearer nonsense")], "").await.expect(401);
}
