//! What a namespace may use: quotas, limit ranges, and classes that must exist.

use serde_json::{Value, json};
use testkit::{ApiHarness, Caller};

const NAMESPACE: &str = "/api/v1/namespaces/default";

async fn with_account(api: &ApiHarness) -> Caller {
    let administrator = api.administrator();
    administrator.post(&format!("{NAMESPACE}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await.expect(201);
    administrator
}

/// A quota whose status somebody has counted.
async fn quota(caller: &Caller, hard: Value, used: Value) {
    caller.post(&format!("{NAMESPACE}/resourcequotas"), &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await.expect(201);
    caller.patch(&format!("{NAMESPACE}/resourcequotas/q/status"), "merge-patch", &json!({"status": {"hard": hard, "used": used}})).await.expect(200);
}

async fn used(caller: &Caller) -> Value {
    caller.get(&format!("{NAMESPACE}/resourcequotas/q")).await.expect(200)["status"]["used"].clone()
}

fn pod(name: &str, requests: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}})
}

#[tokio::test]
async fn a_quota_lets_in_what_fits_and_says_what_is_too_much() {
    let api = ApiHarness::start().await;
    let caller = with_account(&api).await;
    quota(&caller, json!({"pods": "2", "requests.cpu": "1", "configmaps": "1"}), json!({"pods": "0", "requests.cpu": "0", "configmaps": "0"})).await;
    let pods = format!("{NAMESPACE}/pods");
    caller.post(&pods, &pod("a", json!({"cpu": "600m"}))).await.expect(201);
    assert_eq!(used(&caller).await, json!({"pods": "1", "requests.cpu": "600m", "configmaps": "0"}));
    let words = "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1";
    let refused = caller.post(&pods, &pod("b", json!({"cpu": "500m"}))).await.refused(403, "Forbidden", &format!("pods \"b\" is forbidden: {words}"));
    assert_eq!(refused["details"]["kind"], "pods");
    let unsaid = caller.post(&pods, &pod("b", json!({}))).await.expect(403);
    assert_eq!(unsaid["message"], "pods \"b\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    // Neither a dry run nor a name that is taken costs anything.
    caller.post(&format!("{pods}?dryRun=All"), &pod("b", json!({"cpu": "400m"}))).await.expect(201);
    caller.post(&pods, &pod("a", json!({"cpu": "400m"}))).await.expect(409);
    assert_eq!(used(&caller).await["requests.cpu"], "600m");
    let map = |name: &str| json!({"metadata": {"name": name}});
    caller.post(&format!("{NAMESPACE}/configmaps"), &map("one")).await.expect(201);
    caller.post(&format!("{NAMESPACE}/configmaps"), &map("two")).await.expect(403);
}

#[tokio::test]
async fn many_creations_at_once_do_not_exceed_a_quota() {
    let api = ApiHarness::start().await;
    let caller = with_account(&api).await;
    quota(&caller, json!({"count/secrets": "5"}), json!({"count/secrets": "0"})).await;
    let create = |number: usize| {
        let caller = caller.clone();
        async move { caller.post(&format!("{NAMESPACE}/secrets"), &json!({"metadata": {"name": format!("s{number}")}})).await.status }
    };
    let answers = futures::future::join_all((0..20).map(create)).await;
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 5, "{answers:?}");
    assert_eq!(used(&caller).await, json!({"count/secrets": "5"}));
}

#[tokio::test]
async fn a_service_of_another_type_is_charged_when_it_is_changed() {
    let api = ApiHarness::start().await;
    let caller = with_account(&api).await;
    quota(&caller, json!({"services": "2", "services.nodeports": "1"}), json!({"services": "0", "services.nodeports": "0"})).await;
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
    caller.post(&format!("{NAMESPACE}/services"), &service("web")).await.expect(201);
    let refused = caller.patch(&format!("{NAMESPACE}/services/web"), "merge-patch", &json!({"spec": {"type": "NodePort"}})).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1"), "{refused}");
    assert_eq!(used(&caller).await, json!({"services": "1", "services.nodeports": "0"}));
}

#[tokio::test]
async fn a_limit_range_fills_in_and_refuses() {
    let api = ApiHarness::start().await;
    let caller = with_account(&api).await;
    let limits = json!([{
        "type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m"}, "default": {"cpu": "300m"}, "defaultRequest": {"cpu": "100m"},
    }]);
    caller.post(&format!("{NAMESPACE}/limitranges"), &json!({"metadata": {"name": "r"}, "spec": {"limits": limits}})).await.expect(201);
    let pods = format!("{NAMESPACE}/pods");
    let created = caller.post(&pods, &json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})).await.expect(201);
    assert_eq!(created["spec"]["containers"][0]["resources"], json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}));
    let refused = caller.post(&pods, &pod("b", json!({"cpu": "10m"}))).await.expect(403);
    assert_eq!(refused["message"], "pods \"b\" is forbidden: minimum cpu usage per Container is 50m, but request is 10m");
}

#[tokio::test]
async fn a_pod_of_a_class_that_is_not_there_is_refused() {
    let api = ApiHarness::start().await;
    let caller = with_account(&api).await;
    let of_class = |name: &str| json!({"metadata": {"name": name}, "spec": {"runtimeClassName": "fast", "containers": [{"name": "c", "image": "i"}]}});
    let refused = caller.post(&format!("{NAMESPACE}/pods"), &of_class("a")).await.expect(403);
    assert_eq!(refused["message"], "pods \"a\" is forbidden: pod rejected: RuntimeClass \"fast\" not found");
    let class = json!({"metadata": {"name": "fast"}, "handler": "fast", "overhead": {"podFixed": {"cpu": "10m"}}});
    caller.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.expect(201);
    assert_eq!(caller.post(&format!("{NAMESPACE}/pods"), &of_class("a")).await.expect(201)["spec"]["overhead"], json!({"cpu": "10m"}));
}

#[tokio::test]
async fn claims_and_ingresses_get_their_default_class() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let class = |name: &str, annotation: &str| json!({"metadata": {"name": name, "annotations": {annotation: "true"}}});
    let mut storage = class("disk", "storageclass.kubernetes.io/is-default-class");
    storage["provisioner"] = json!("example.com/disk");
    caller.post("/apis/storage.k8s.io/v1/storageclasses", &storage).await.expect(201);
    let mut ingress = class("door", "ingressclass.kubernetes.io/is-default-class");
    ingress["spec"] = json!({"controller": "example.com/door"});
    caller.post("/apis/networking.k8s.io/v1/ingressclasses", &ingress).await.expect(201);
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let created = caller.post(&format!("{NAMESPACE}/persistentvolumeclaims"), &claim).await.expect(201);
    assert_eq!(created["spec"]["storageClassName"], "disk");
    assert_eq!(created["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let back_end = json!({"service": {"name": "web", "port": {"number": 80}}});
    let created = caller.post("/apis/networking.k8s.io/v1/namespaces/default/ingresses", &json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": back_end}})).await.expect(201);
    assert_eq!(created["spec"]["ingressClassName"], "door");
}

#[tokio::test]
async fn a_namespace_says_how_much_pods_may_do() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"});
    caller.post("/api/v1/namespaces", &json!({"metadata": {"name": "strict", "labels": labels}})).await.expect(201);
    caller.post("/api/v1/namespaces/strict/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let pod = |more: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": "p"}, "spec": spec})
    };
    let words = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    caller.post("/api/v1/namespaces/strict/pods", &pod(json!({"hostNetwork": true}))).await.refused(403, "Forbidden", words);
    let created = caller.post("/api/v1/namespaces/strict/pods", &pod(json!({}))).await;
    created.expect(201);
    assert!(created.header("warning").contains("would violate PodSecurity \\\"restricted:latest\\\": allowPrivilegeEscalation != false"), "{}", created.header("warning"));
}

#[tokio::test]
async fn an_administrator_says_how_much_pods_may_do_where_a_namespace_does_not_and_who_is_exempt() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("admission.yaml");
    let text = r#"{
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [
            {"name": "PodSecurity", "configuration": {
                "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
                "defaults": {"enforce": "baseline", "audit": "restricted", "warn": "restricted"},
                "exemptions": {"usernames": ["trusted"], "namespaces": ["kube-system"], "runtimeClasses": ["isolated"]}}},
            {"name": "ResourceQuota", "configuration": {
                "apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
                "limitedResources": [{"resource": "services", "matchContains": ["loadbalancers"]}]}}]}"#;
    std::fs::write(&file, text).unwrap();
    let api = ApiHarness::start_with(|parts| parts.admission = apiserver::admission::configuration::Settings::read(&file).unwrap()).await;
    let caller = api.administrator();
    for namespace in ["default", "kube-system"] {
        caller.post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await.expect(201);
    }
    let isolated = json!({"metadata": {"name": "isolated"}, "handler": "isolated"});
    caller.post("/apis/node.k8s.io/v1/runtimeclasses", &isolated).await.expect(201);
    let pod = |name: &str, more: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let host = |name: &str| pod(name, json!({"hostPID": true}));
    let words = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    caller.post("/api/v1/namespaces/default/pods", &host("p")).await.refused(403, "Forbidden", words);
    let created = caller.post("/api/v1/namespaces/default/pods", &pod("plain", json!({}))).await;
    created.expect(201);
    assert!(created.header("warning").contains("would violate PodSecurity \\\"restricted:latest\\\""), "{}", created.header("warning"));

    // The exempt: a namespace, a user, a runtime class.
    let silent = caller.post("/api/v1/namespaces/kube-system/pods", &host("p")).await;
    silent.expect(201);
    assert_eq!(silent.header("warning"), "");
    api.caller(client::Identity::user("trusted", &["system:masters"])).post("/api/v1/namespaces/default/pods", &host("by-trusted")).await.expect(201);
    let mut of_class = host("of-class");
    of_class["spec"]["runtimeClassName"] = json!("isolated");
    caller.post("/api/v1/namespaces/default/pods", &of_class).await.expect(201);
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let told = caller.patch("/api/v1/namespaces/kube-system", "merge-patch", &labels).await;
    told.expect(200);
    assert!(told.header("warning").contains("is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored"), "{}", told.header("warning"));

    let page = caller.get("/metrics").await;
    let page = String::from_utf8_lossy(&page.body);
    for line in [
        r#"pod_security_exemptions_total{request_operation="create",resource="pod",subresource=""} 3"#,
        r#"pod_security_evaluations_total{decision="deny",policy_level="baseline",policy_version="latest",mode="enforce",request_operation="create",resource="pod",subresource=""} 1"#,
        r#"pod_security_evaluations_total{decision="deny",policy_level="restricted",policy_version="latest",mode="audit",request_operation="create",resource="pod",subresource=""} 2"#,
    ] {
        assert!(page.lines().any(|one| one == line), "{line} is not in {}", page.lines().filter(|line| line.starts_with("pod_security")).collect::<Vec<_>>().join("\n"));
    }

    let service = |kind: &str| json!({"metadata": {"generateName": "s-"}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    caller.post("/api/v1/namespaces/default/services", &service("ClusterIP")).await.expect(201);
    let refused = caller.post("/api/v1/namespaces/default/services", &service("LoadBalancer")).await;
    assert!(refused.expect(403)["message"].as_str().unwrap().ends_with("insufficient quota to consume: services.loadbalancers"), "{refused:?}");
}

#[tokio::test]
async fn a_pod_from_before_its_namespace_became_strict_is_updated_like_others_but_not_with_other_images() {
    let api = ApiHarness::start().await;
    let caller = api.administrator();
    caller.post("/api/v1/namespaces", &json!({"metadata": {"name": "stricter"}})).await.expect(201);
    caller.post("/api/v1/namespaces/stricter/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": "i"}]}});
    caller.post("/api/v1/namespaces/stricter/pods", &pod).await.expect(201);
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let told = caller.patch("/api/v1/namespaces/stricter", "merge-patch", &labels).await;
    let warnings: Vec<_> = told.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(warnings.iter().any(|warning| warning.contains("p: host namespaces")), "{warnings:?}");
    let path = "/api/v1/namespaces/stricter/pods/p";
    caller.patch(path, "merge-patch", &json!({"spec": {"activeDeadlineSeconds": 600}})).await.expect(200);
    caller.patch(path, "strategic-merge-patch", &json!({"spec": {"containers": [{"name": "c", "image": "j"}]}})).await.expect(403);
    let debugging = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    caller.patch(&format!("{path}/ephemeralcontainers"), "strategic-merge-patch", &debugging).await.expect(403);
}
