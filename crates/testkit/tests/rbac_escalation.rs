//! Nobody grants what he does not hold: `escalate` and `bind`, in every way a role or a binding is written.

use client::Identity;
use serde_json::{Value, json};
use testkit::{ApiHarness, api_harness::Caller};

const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const CLUSTER_ROLE_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const ROLE_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

fn rule(verbs: &[&str], resources: &[&str]) -> Value {
    json!({ "apiGroups": [""], "resources": resources, "verbs": verbs })
}

fn role(kind: &str, name: &str, rules: &[Value]) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "rules": rules })
}

fn binding(kind: &str, name: &str, role_kind: &str, role: &str, subject: Value) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role }, "subjects": [subject] })
}

fn user(name: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name })
}

/// May write all of RBAC, and holds nothing else.
fn writing() -> Value {
    let verbs = ["create", "get", "update", "patch", "delete"];
    json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings", "clusterroles", "clusterrolebindings"], "verbs": verbs })
}

/// A user who may write RBAC, with more rules; in the whole cluster.
async fn writer(api: &ApiHarness, name: &str, more: &[Value]) -> Caller {
    grant(api, name, user(name), more).await;
    api.caller(Identity::user(name, &["crew"]))
}

async fn grant(api: &ApiHarness, name: &str, subject: Value, more: &[Value]) {
    let mut rules = vec![writing()];
    rules.extend_from_slice(more);
    let administrator = api.administrator();
    administrator.post(CLUSTER_ROLES, &role("ClusterRole", &format!("rules-of-{name}"), &rules)).await.expect(201);
    administrator.post(CLUSTER_ROLE_BINDINGS, &binding("ClusterRoleBinding", &format!("rules-of-{name}"), "ClusterRole", &format!("rules-of-{name}"), subject)).await.expect(201);
}

/// What upstream says where jane lacks something.
fn lacks(resource: &str, name: &str, missing: &str) -> String {
    format!(
        "{resource}.rbac.authorization.k8s.io \"{name}\" is forbidden: user \"jane\" (groups=[\"crew\" \"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n{missing}"
    )
}

const PODS: &str = "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}";

#[tokio::test]
async fn a_role_is_written_only_with_rules_that_its_writer_holds_however_it_is_written() {
    let api = ApiHarness::start().await;
    let jane = writer(&api, "jane", &[rule(&["get"], &["configmaps"])]).await;
    let (held, more) = ([rule(&["get"], &["configmaps"])], [rule(&["get"], &["configmaps"]), rule(&["get", "list"], &["pods"])]);
    for (path, kind, resource) in [(ROLES, "Role", "roles"), (CLUSTER_ROLES, "ClusterRole", "clusterroles")] {
        let refused = lacks(resource, "r", PODS);
        jane.post(path, &role(kind, "r", &more)).await.refused(403, "Forbidden", &refused);
        jane.put(&format!("{path}/r"), &role(kind, "r", &more)).await.refused(403, "Forbidden", &refused);
        jane.patch(&format!("{path}/r?fieldManager=m"), "apply-patch", &role(kind, "r", &more)).await.refused(403, "Forbidden", &refused);
        jane.post(path, &role(kind, "r", &held)).await.expect(201);
        jane.put(&format!("{path}/r"), &role(kind, "r", &more)).await.refused(403, "Forbidden", &refused);
        for patch in ["merge-patch", "strategic-merge-patch"] {
            jane.patch(&format!("{path}/r"), patch, &json!({ "rules": more })).await.refused(403, "Forbidden", &refused);
        }
        jane.patch(&format!("{path}/r"), "json-patch", &json!([{ "op": "add", "path": "/rules/-", "value": more[1] }])).await.refused(403, "Forbidden", &refused);
        jane.patch(&format!("{path}/r?fieldManager=m&force=true"), "apply-patch", &role(kind, "r", &more)).await.refused(403, "Forbidden", &refused);
        let dry = jane.put(&format!("{path}/r?dryRun=All"), &role(kind, "r", &more)).await;
        dry.refused(403, "Forbidden", &refused);
        assert_eq!(jane.get(&format!("{path}/r")).await.expect(200)["rules"], json!(held), "nothing of it was stored");
    }
}

#[tokio::test]
async fn a_role_can_be_cut_down_to_what_its_editor_holds_and_to_nothing_else() {
    let api = ApiHarness::start().await;
    let jane = writer(&api, "jane", &[rule(&["get"], &["configmaps"])]).await;
    let path = format!("{ROLES}/r");
    let all = [rule(&["get"], &["configmaps"]), rule(&["get", "list"], &["pods"]), rule(&["delete"], &["secrets"])];
    api.administrator().post(ROLES, &role("Role", "r", &all)).await.expect(201);
    // What stays counts, not what changes.
    jane.put(&path, &role("Role", "r", &all[..2])).await.refused(403, "Forbidden", &lacks("roles", "r", PODS));
    let everything = "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"delete\"]}";
    jane.patch(&path, "merge-patch", &json!({ "metadata": { "labels": { "a": "b" } } })).await.refused(403, "Forbidden", &lacks("roles", "r", everything));
    // What garbage collection needs is no grant.
    jane.patch(&path, "merge-patch", &json!({ "metadata": { "finalizers": ["example.com/f"] } })).await.expect(200);
    jane.patch(&path, "merge-patch", &json!({ "metadata": { "finalizers": null } })).await.expect(200);
    jane.put(&path, &role("Role", "r", &all[..1])).await.expect(200);
    jane.patch(&path, "merge-patch", &json!({ "rules": [] })).await.expect(200);
    jane.delete(&path).await.expect(200);
}

#[tokio::test]
async fn whoever_may_escalate_a_role_by_name_may_do_so_with_that_one_and_not_with_a_new_one() {
    let api = ApiHarness::start().await;
    let escalate = json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "clusterroles"], "verbs": ["escalate"], "resourceNames": ["mine"] });
    let jane = writer(&api, "jane", &[escalate]).await;
    let pods = [rule(&["get", "list"], &["pods"])];
    for (path, kind, resource) in [(ROLES, "Role", "roles"), (CLUSTER_ROLES, "ClusterRole", "clusterroles")] {
        // Of a POST, no name is known.
        jane.post(path, &role(kind, "mine", &pods)).await.refused(403, "Forbidden", &lacks(resource, "mine", PODS));
        jane.put(&format!("{path}/mine"), &role(kind, "mine", &pods)).await.expect(201);
        jane.patch(&format!("{path}/mine"), "merge-patch", &json!({ "rules": [rule(&["*"], &["*"])] })).await.expect(200);
        jane.put(&format!("{path}/other"), &role(kind, "other", &pods)).await.refused(403, "Forbidden", &lacks(resource, "other", PODS));
    }
    let anything = json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"] });
    let joe = writer(&api, "joe", &[anything]).await;
    joe.post(ROLES, &role("Role", "new", &pods)).await.expect(201);
    joe.post(CLUSTER_ROLES, &role("ClusterRole", "new", &pods)).await.expect(403);
}

#[tokio::test]
async fn a_role_is_bound_by_who_holds_its_rules_or_may_bind_it() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    for name in ["reader", "other"] {
        let pods = [rule(&["get", "list"], &["pods"])];
        administrator.post(ROLES, &role("Role", name, &pods)).await.expect(201);
        administrator.post(CLUSTER_ROLES, &role("ClusterRole", name, &pods)).await.expect(201);
    }
    let bind = json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "clusterroles"], "verbs": ["bind"], "resourceNames": ["reader", "absent"] });
    let jane = writer(&api, "jane", &[bind]).await;
    let holder = writer(&api, "holder", &[rule(&["*"], &["pods"])]).await;
    for (path, kind, resource, roles) in [
        (ROLE_BINDINGS, "RoleBinding", "rolebindings", &["Role", "ClusterRole"][..]),
        (CLUSTER_ROLE_BINDINGS, "ClusterRoleBinding", "clusterrolebindings", &["ClusterRole"][..]),
    ] {
        for role_kind in roles {
            let name = |of: &str| format!("{}-{of}", role_kind.to_lowercase());
            let of = |of: &str| binding(kind, &name(of), role_kind, of, user("joe"));
            let refused = lacks(resource, &name("other"), PODS);
            jane.post(path, &of("other")).await.refused(403, "Forbidden", &refused);
            jane.put(&format!("{path}/{}", name("other")), &of("other")).await.refused(403, "Forbidden", &refused);
            jane.patch(&format!("{path}/{}?fieldManager=m", name("other")), "apply-patch", &of("other")).await.refused(403, "Forbidden", &refused);
            jane.post(path, &of("reader")).await.expect(201);
            // A role that is not there can be bound by who may bind it, and else is told to be missing.
            jane.post(path, &of("absent")).await.expect(201);
            let plural = if *role_kind == "Role" { "roles" } else { "clusterroles" };
            holder.post(path, &of("missing")).await.refused(404, "NotFound", &format!("{plural}.rbac.authorization.k8s.io \"missing\" not found"));
            holder.post(path, &of("other")).await.expect(201);
            // Somebody more would be granted what jane does not hold.
            let more = json!({ "subjects": [user("joe"), user("mary")] });
            jane.patch(&format!("{path}/{}", name("other")), "merge-patch", &more).await.refused(403, "Forbidden", &refused);
            holder.patch(&format!("{path}/{}", name("other")), "merge-patch", &more).await.expect(200);
            jane.delete(&format!("{path}/{}", name("other"))).await.expect(200);
        }
    }
}

#[tokio::test]
async fn what_is_held_in_a_namespace_is_granted_there_only() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let pods = rule(&["get", "list"], &["pods"]);
    administrator.post(ROLES, &role("Role", "janes", &[writing(), pods.clone()])).await.expect(201);
    administrator.post(ROLE_BINDINGS, &binding("RoleBinding", "janes", "Role", "janes", user("jane"))).await.expect(201);
    let jane = writer(&api, "jane", &[]).await;
    jane.post(ROLES, &role("Role", "r", &[pods.clone()])).await.expect(201);
    let elsewhere = ROLES.replace("default", "kube-public");
    jane.post(&elsewhere, &role("Role", "r", &[pods.clone()])).await.refused(403, "Forbidden", &lacks("roles", "r", PODS));
    jane.post(CLUSTER_ROLES, &role("ClusterRole", "r", &[pods.clone()])).await.refused(403, "Forbidden", &lacks("clusterroles", "r", PODS));
    administrator.post(CLUSTER_ROLES, &role("ClusterRole", "readers", &[pods])).await.expect(201);
    jane.post(ROLE_BINDINGS, &binding("RoleBinding", "b", "ClusterRole", "readers", user("joe"))).await.expect(201);
    let everywhere = binding("ClusterRoleBinding", "b", "ClusterRole", "readers", user("joe"));
    jane.post(CLUSTER_ROLE_BINDINGS, &everywhere).await.refused(403, "Forbidden", &lacks("clusterrolebindings", "b", PODS));
}

#[tokio::test]
async fn paths_are_held_by_prefix() {
    let api = ApiHarness::start().await;
    let paths = |paths: &[&str]| json!({ "nonResourceURLs": paths, "verbs": ["get"] });
    let jane = writer(&api, "jane", &[paths(&["/logs/*", "/healthz"])]).await;
    jane.post(CLUSTER_ROLES, &role("ClusterRole", "a", &[paths(&["/logs/kubelet", "/healthz"])])).await.expect(201);
    let missing = "{NonResourceURLs:[\"*\"], Verbs:[\"get\"]}\n{NonResourceURLs:[\"/logs\"], Verbs:[\"get\"]}";
    jane.post(CLUSTER_ROLES, &role("ClusterRole", "b", &[paths(&["/logs", "*", "/healthz"])])).await.refused(403, "Forbidden", &lacks("clusterroles", "b", missing));
}

#[tokio::test]
async fn an_aggregated_role_takes_everything_to_write_and_what_is_in_it_to_bind() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let pods = rule(&["get", "list"], &["pods"]);
    let aggregated = |name: &str, rules: &[Value]| {
        let mut role = role("ClusterRole", name, rules);
        role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { "to": "sum" } }] });
        role
    };
    let jane = writer(&api, "jane", &[pods.clone()]).await;
    let words = |name: &str| format!("clusterroles.rbac.authorization.k8s.io \"{name}\" is forbidden: must have cluster-admin privileges to use the aggregationRule");
    jane.post(CLUSTER_ROLES, &aggregated("sum", &[])).await.refused(403, "Forbidden", &words("sum"));
    administrator.post(CLUSTER_ROLES, &aggregated("sum", &[pods.clone()])).await.expect(201);
    // An end of the aggregation would keep others from making the role smaller.
    jane.put(&format!("{CLUSTER_ROLES}/sum"), &role("ClusterRole", "sum", &[])).await.refused(403, "Forbidden", &words("sum"));
    jane.post(CLUSTER_ROLE_BINDINGS, &binding("ClusterRoleBinding", "b", "ClusterRole", "sum", user("joe"))).await.expect(201);
    // Who holds a sum holds its parts.
    let joe = api.caller(Identity::user("joe", &[]));
    grant(&api, "joe", user("joe"), &[]).await;
    joe.post(CLUSTER_ROLES, &role("ClusterRole", "part", &[pods])).await.expect(201);
    let everything = [json!({ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }), json!({ "nonResourceURLs": ["*"], "verbs": ["*"] })];
    let mary = writer(&api, "mary", &everything).await;
    mary.post(CLUSTER_ROLES, &aggregated("another", &[])).await.expect(201);
}

#[tokio::test]
async fn masters_groups_and_service_accounts_are_told_apart_and_so_are_those_that_are_impersonated() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let pods = [rule(&["get", "list"], &["pods"])];
    administrator.post(CLUSTER_ROLES, &role("ClusterRole", "by-master", &[json!({ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] })])).await.expect(201);

    grant(&api, "robot", json!({ "kind": "ServiceAccount", "name": "robot", "namespace": "default" }), &[]).await;
    let groups = ["system:serviceaccounts", "system:serviceaccounts:default"];
    let robot = api.caller(Identity::user("system:serviceaccount:default:robot", &groups));
    let words = "clusterroles.rbac.authorization.k8s.io \"r\" is forbidden: user \"system:serviceaccount:default:robot\" \
        (groups=[\"system:serviceaccounts\" \"system:serviceaccounts:default\" \"system:authenticated\"]) \
        is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}";
    robot.post(CLUSTER_ROLES, &role("ClusterRole", "r", &pods)).await.refused(403, "Forbidden", words);
    let all_of_namespace = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:serviceaccounts:default" });
    administrator.post(CLUSTER_ROLES, &role("ClusterRole", "pods", &pods)).await.expect(201);
    administrator.post(CLUSTER_ROLE_BINDINGS, &binding("ClusterRoleBinding", "pods", "ClusterRole", "pods", all_of_namespace)).await.expect(201);
    robot.post(CLUSTER_ROLES, &role("ClusterRole", "r", &pods)).await.expect(201);

    // A master who acts as somebody is that somebody; who acts as a master is one.
    let _ = writer(&api, "jane", &[]).await;
    let send = async |headers: &[(&str, &str)], name: &str| {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        administrator.send("POST", CLUSTER_ROLES, &all, role("ClusterRole", name, &pods).to_string()).await
    };
    send(&[("impersonate-user", "jane"), ("impersonate-group", "crew")], "i").await.refused(403, "Forbidden", &lacks("clusterroles", "i", PODS));
    send(&[("impersonate-user", "jane"), ("impersonate-group", "system:masters")], "i").await.expect(201);
}

#[tokio::test]
async fn who_acts_as_nobody_in_particular_is_not_taken_for_somebody() {
    let api = ApiHarness::start().await;
    let asks = json!({ "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"] });
    for (name, group) in [("known", "system:authenticated"), ("unknown", "system:unauthenticated")] {
        grant(&api, name, json!({ "kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group }), std::slice::from_ref(&asks)).await;
    }
    let groups = async |user: &str, group: &str| {
        let headers = [("content-type", "application/json"), ("impersonate-user", user), ("impersonate-group", group)];
        let headers = if group.is_empty() { &headers[..2] } else { &headers[..] };
        let answer = api.administrator().send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", headers, "{}").await.expect(201);
        answer["status"]["userInfo"]["groups"].clone()
    };
    assert_eq!(groups("olga", "").await, json!(["system:authenticated"]));
    assert_eq!(groups("olga", "system:unauthenticated").await, json!(["system:unauthenticated"]));
    assert_eq!(groups("system:anonymous", "").await, json!(["system:unauthenticated"]));
}
