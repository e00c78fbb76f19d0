//! Admission webhooks, with real servers behind TLS that answer what a test says.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::Engine as _;
use serde_json::{Value, json};
use testkit::{ApiHarness, JsonServer, api_harness::Caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

/// A webhook server of one test.
struct Server {
    server: JsonServer,
    questions: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    /// Answers every review with what `answer` makes of its request.
    async fn start(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let questions = Arc::new(Mutex::new(Vec::new()));
        let asked = questions.clone();
        let server = JsonServer::start(move |review| {
            let question = review["request"].clone();
            let mut response = answer(&question);
            response["uid"] = question["uid"].clone();
            asked.lock().unwrap().push(question);
            json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response})
        });
        Self { server: server.await, questions }
    }

    /// A webhook of this server in a configuration: `rule` is `GROUP VERSION RESOURCE OPERATION`.
    fn webhook(&self, path: &str, rule: &str, more: Value) -> Value {
        let words: Vec<&str> = rule.split(' ').collect();
        let [group, version, resource, operation] = words.as_slice() else { panic!("{rule} has four words") };
        let group = if *group == "core" { "" } else { group };
        let mut webhook = json!({
            "name": "test.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "clientConfig": self.server.client_config(path),
            "rules": [{"apiGroups": [group], "apiVersions": [version], "resources": [resource], "operations": [operation]}],
        });
        for (name, value) in more.as_object().unwrap() {
            webhook[name] = value.clone();
        }
        webhook
    }

    fn questions(&self) -> Vec<Value> {
        self.questions.lock().unwrap().clone()
    }
}

async fn configure(caller: &Caller, path: &str, webhooks: Value) {
    let kind = if path == VALIDATING { "ValidatingWebhookConfiguration" } else { "MutatingWebhookConfiguration" };
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "test"}, "webhooks": webhooks});
    caller.post(path, &configuration).await.expect(201);
}

fn map(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"key": "value"}})
}

fn allowed() -> Value {
    json!({"allowed": true})
}

fn patching(operations: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": base64::engine::general_purpose::STANDARD.encode(operations.to_string())})
}

#[tokio::test]
async fn a_refusal_reaches_the_client_in_the_webhooks_words() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let server = Server::start(|request| match request["name"].as_str() {
        Some("bad") => json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "not this one"}}),
        Some("silent") => json!({"allowed": false}),
        _ => json!({"allowed": true, "warnings": ["be careful"]}),
    })
    .await;
    configure(&administrator, VALIDATING, json!([server.webhook("/", "core v1 configmaps CREATE", json!({}))])).await;
    let refused = "admission webhook \"test.example.com\" denied the request";
    administrator.post(MAPS, &map("bad", json!({}))).await.refused(403, "Forbidden", &format!("{refused}: not this one"));
    let silent = administrator.post(MAPS, &map("silent", json!({}))).await.expect(400);
    assert_eq!(silent["message"], format!("{refused} without explanation"));
    let good = administrator.post(MAPS, &map("good", json!({}))).await;
    good.expect(201);
    assert_eq!(good.header("warning"), "299 - \"be careful\"");
    let question = server.questions().pop().unwrap();
    assert_eq!(question["operation"], "CREATE");
    assert_eq!(question["namespace"], "default");
    assert_eq!(question["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(question["userInfo"]["username"], "test-administrator");
    assert_eq!(question["object"]["data"]["key"], "value");
    assert_eq!(question["options"]["kind"], "CreateOptions");
    assert!(question["oldObject"].is_null());
}

#[tokio::test]
async fn updates_and_deletions_are_judged_with_the_old_object() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let server = Server::start(|request| {
        let keep = request["oldObject"]["metadata"]["labels"]["keep"] == "yes";
        json!({"allowed": !keep, "status": {"code": 403, "message": "it is to be kept"}})
    })
    .await;
    let mut webhook = server.webhook("/", "core v1 configmaps DELETE", json!({}));
    webhook["rules"][0]["operations"] = json!(["UPDATE", "DELETE"]);
    configure(&administrator, VALIDATING, json!([webhook])).await;
    administrator.post(MAPS, &map("kept", json!({"keep": "yes"}))).await.expect(201);
    administrator.post(MAPS, &map("free", json!({}))).await.expect(201);
    administrator.delete(&format!("{MAPS}/kept")).await.expect(403);
    administrator.patch(&format!("{MAPS}/kept"), "merge-patch", &json!({"data": null})).await.expect(403);
    administrator.delete(&format!("{MAPS}/free")).await.expect(200);
    assert_eq!(administrator.send("DELETE", MAPS, &[], "").await.status, 403, "deleting all meets the one that is kept");
    let deletion = server.questions().into_iter().find(|question| question["operation"] == "DELETE").unwrap();
    assert_eq!(deletion["options"]["kind"], "DeleteOptions");
    assert!(deletion["object"].is_null());
}

#[tokio::test]
async fn a_mutation_is_defaulted_pruned_and_seen_by_the_next() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let first = Server::start(|_| {
        patching(&json!([
            {"op": "add", "path": "/spec/initContainers", "value": [{"name": "added", "image": "i"}]},
            {"op": "add", "path": "/spec/nonsense", "value": 1},
        ]))
    })
    .await;
    let second = Server::start(|_| allowed()).await;
    let webhooks = json!([
        first.webhook("/", "core v1 pods CREATE", json!({"name": "first.example.com"})),
        second.webhook("/", "core v1 pods CREATE", json!({"name": "second.example.com", "reinvocationPolicy": "IfNeeded"})),
    ]);
    configure(&administrator, MUTATING, webhooks).await;
    administrator.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = administrator.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    assert_eq!(created["spec"]["initContainers"][0]["terminationMessagePolicy"], "File");
    assert!(created["spec"]["nonsense"].is_null());
    // The server's own plug-in ran again on what the webhook added, which the second webhook is asked about, too.
    assert_eq!(created["spec"]["initContainers"][0]["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(first.questions().len(), 1);
    let seen = second.questions();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0]["object"]["spec"]["initContainers"][0]["name"], "added");
}

#[tokio::test]
async fn who_is_asked_follows_from_labels() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let server = Server::start(|_| json!({"allowed": false})).await;
    let webhooks = json!([server.webhook(
        "/",
        "* * * *",
        json!({"namespaceSelector": {"matchLabels": {"judged": "yes"}}, "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}})
    )]);
    configure(&administrator, VALIDATING, webhooks).await;
    let namespace = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    administrator.post("/api/v1/namespaces", &namespace("free", json!({}))).await.expect(201);
    administrator.post("/api/v1/namespaces", &namespace("judged", json!({"judged": "yes"}))).await.expect(400);
    administrator.post("/api/v1/namespaces", &namespace("judged", json!({"judged": "yes", "skip": ""}))).await.expect(201);
    administrator.post("/api/v1/namespaces/free/configmaps", &map("a", json!({}))).await.expect(201);
    administrator.post("/api/v1/namespaces/judged/configmaps", &map("a", json!({}))).await.expect(400);
    administrator.post("/api/v1/namespaces/judged/configmaps", &map("a", json!({"skip": ""}))).await.expect(201);
    administrator.delete(&format!("{VALIDATING}/test")).await.expect(200);
}

#[tokio::test]
async fn an_equivalent_version_is_asked_about_in_its_own_shape() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let server = Server::start(|request| {
        if request["object"]["kind"] == "HorizontalPodAutoscaler" && request["object"]["apiVersion"] == "autoscaling/v1" {
            patching(&json!([{"op": "add", "path": "/spec/targetCPUUtilizationPercentage", "value": 55}]))
        } else {
            json!({"allowed": false})
        }
    })
    .await;
    configure(&administrator, MUTATING, json!([server.webhook("/", "autoscaling v1 horizontalpodautoscalers CREATE", json!({}))])).await;
    let scaler = json!({"metadata": {"name": "s"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let created = administrator.post("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", &scaler).await.expect(201);
    assert_eq!(created["apiVersion"], "autoscaling/v2");
    assert_eq!(created["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 55);
    let question = server.questions().pop().unwrap();
    assert_eq!((&question["resource"]["version"], &question["requestResource"]["version"]), (&json!("v1"), &json!("v2")));
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_fails_the_request_unless_it_may() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let server = Server::start(|_| allowed()).await;
    let slow = |more: Value| server.webhook("/slow", "core v1 configmaps CREATE", more);
    configure(&administrator, VALIDATING, json!([slow(json!({"timeoutSeconds": 1}))])).await;
    let url = format!("https://{}/slow?timeout=1s", server.server.address);
    let started = std::time::Instant::now();
    let words = format!("Internal error occurred: failed calling webhook \"test.example.com\": failed to call webhook: Post \"{url}\": context deadline exceeded");
    administrator.post(MAPS, &map("late", json!({}))).await.refused(500, "InternalError", &words);
    // Without it the wait would end after ten seconds.
    assert!(started.elapsed() < Duration::from_secs(9), "the webhook's own timeout ends the wait");
    let ignoring = json!({"webhooks": [slow(json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"}))]});
    administrator.patch(&format!("{VALIDATING}/test"), "merge-patch", &ignoring).await.expect(200);
    administrator.post(MAPS, &map("late", json!({}))).await.expect(201);
    // Nobody's certificate is trusted without an authority.
    let mut untrusted = server.webhook("/", "core v1 configmaps CREATE", json!({}));
    untrusted["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    administrator.patch(&format!("{VALIDATING}/test"), "merge-patch", &json!({"webhooks": [untrusted]})).await.expect(200);
    let refused = administrator.post(MAPS, &map("other", json!({}))).await.expect(500);
    assert!(refused["message"].as_str().unwrap().contains("failed to verify certificate"), "{refused}");
}

#[tokio::test]
async fn connecting_to_a_pod_can_be_refused() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let server = Server::start(|request| json!({"allowed": request["name"] != "closed", "status": {"code": 403, "message": "no attaching here"}})).await;
    configure(&administrator, VALIDATING, json!([server.webhook("/", "core v1 pods/attach CONNECT", json!({}))])).await;
    administrator.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let pod = json!({"metadata": {"name": "closed"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    administrator.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let refused = administrator.send("POST", "/api/v1/namespaces/default/pods/closed/attach?stdin=true&container=c", &[], "").await.expect(403);
    assert_eq!(refused["message"], "admission webhook \"test.example.com\" denied the request: no attaching here");
    let question = server.questions().pop().unwrap();
    assert_eq!(question["object"], json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "container": "c"}));
    assert_eq!((&question["subResource"], &question["kind"]["kind"]), (&json!("attach"), &json!("PodAttachOptions")));
}

#[tokio::test]
async fn a_dry_run_is_told_to_webhooks() {
    let api = ApiHarness::start().await;
    let administrator = api.administrator();
    let server = Server::start(|_| allowed()).await;
    configure(&administrator, VALIDATING, json!([server.webhook("/", "core v1 configmaps CREATE", json!({}))])).await;
    administrator.post(&format!("{MAPS}?dryRun=All&fieldManager=me"), &map("a", json!({}))).await.expect(201);
    let question = server.questions().pop().unwrap();
    assert_eq!(question["dryRun"], true);
    assert_eq!(question["options"]["dryRun"], json!(["All"]));
    assert_eq!(question["options"]["fieldManager"], "me");
}
