//! Whole pods on a scripted runtime and a tiny API: what users see of them from creation to removal.

use std::net::IpAddr;

use async_trait::async_trait;
use client::{Api, DeleteParams, PostParams, fake::FakeApi};
use container_runtime::{ContainerRuntime, fake::FakeRuntime};
use k8s_openapi::api::{
    certificates::v1beta1::PodCertificateRequest,
    core::v1::{ConfigMap, Event, PodStatus, Secret, ServiceAccount},
};
use pod_sandbox_network::{AttachRequest, PodNetworkError, PodSandboxNetwork};
use serde_json::{Value, json};

use crate::{Node, NodeConfig};

/// A network where every pod has the same address.
pub(crate) struct FixedNetwork;

#[async_trait]
impl PodSandboxNetwork for FixedNetwork {
    async fn attach(&self, _: &AttachRequest) -> Result<Vec<IpAddr>, PodNetworkError> {
        Ok(vec!["127.0.0.1".parse().unwrap()])
    }
    async fn detach(&self, _: &str) -> Result<(), PodNetworkError> {
        Ok(())
    }
    async fn retain(&self, _: &[String]) -> Result<(), PodNetworkError> {
        Ok(())
    }
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

use super::*;

/// A node on a scripted runtime.
pub(crate) struct Bench {
    pub(crate) api: FakeApi,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) node: Option<Arc<Node>>,
    directory: tempfile::TempDir,
    stop: CancellationToken,
}

impl Drop for Bench {
    /// The pods' mounts would keep the directory from being removed.
    fn drop(&mut self) {
        self.stop.cancel();
        let left = crate::volume::mounts::unmount_below(self.directory.path());
        // A test that fails anyway says why by itself.
        assert!(left.is_ok() || std::thread::panicking(), "{left:?}");
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut bench = Self { api: FakeApi::new(), runtime: FakeRuntime::new(), node: None, directory, stop: CancellationToken::new() };
        bench.start_agent();
        bench
    }

    fn start_agent(&mut self) {
        let (data, run) = (self.directory.path().join("data"), self.directory.path().join("run"));
        let mut config = NodeConfig::new("n1", self.api.client(), self.runtime.clone(), Arc::new(FixedNetwork), data, run);
        config.static_pod_directory = self.directory.path().join("manifests");
        config.shutdown = vec![crate::shutdown::Group { priority: 0, grace: Duration::from_secs(10) }];
        config.node_ips = vec!["10.0.0.1".parse().unwrap()];
        let node = Arc::new(Node::new(config).unwrap());
        self.node = Some(node.clone());
        let stop = self.stop.clone();
        tokio::spawn(async move { node.run(stop).await.unwrap() });
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.api.client(), "a")
    }

    pub(crate) async fn create(&self, spec: Value) {
        let pod = json!({ "metadata": { "name": "web", "namespace": "a", "finalizers": ["test/hold"] }, "spec": spec });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    async fn until(&self, what: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let looked = self.api.until(|api| {
            let pod = api.objects::<Pod>().into_iter().next()?;
            pod.status.filter(|status| what(status))
        });
        match tokio::time::timeout(Duration::from_secs(60), looked).await {
            Ok(status) => status,
            Err(_) => panic!("it did not come to that; the pods are {:#?}, the writes {:#?}", self.api.objects::<Pod>(), self.api.writes()),
        }
    }

    pub(crate) async fn until_phase(&self, phase: &str) -> PodStatus {
        self.until(|status| status.phase.as_deref() == Some(phase)).await
    }

    fn exit(&self, name: &str, code: i32) {
        let container = self.runtime.find_container("web", name).unwrap();
        assert!(self.runtime.exit_container(&container, code));
    }

    async fn until_event(&self, reason: &str) -> String {
        let looked = self.api.until(|api| api.objects::<Event>().into_iter().find(|event| event.reason.as_deref() == Some(reason)));
        tokio::time::timeout(Duration::from_secs(60), looked).await.unwrap().message.unwrap()
    }
}

pub(crate) fn simple(policy: &str) -> Value {
    json!({ "nodeName": "n1", "restartPolicy": policy, "terminationGracePeriodSeconds": 5, "containers": [{ "name": "c", "image": "nginx" }] })
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a str {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_).map_or("absent", |condition| &condition.status)
}

#[tokio::test]
async fn a_pod_runs_and_is_removed() {
    let bench = Bench::new().await;
    let mut spec = simple("Always");
    spec["nodeSelector"] = json!({ "kubernetes.io/os": "linux" });
    bench.create(spec).await;
    let status = bench.until(|status| condition(status, "Ready") == "True").await;
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("Running"), Some("127.0.0.1"), Some("10.0.0.1")));
    for type_ in ["PodReadyToStartContainers", "Initialized", "ContainersReady"] {
        assert_eq!(condition(&status, type_), "True", "{type_}");
    }
    let container = &status.container_statuses.unwrap()[0];
    assert!(container.ready && container.container_id.as_ref().unwrap().starts_with("knarr://") && container.image_id.contains("@sha256:"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    bench.pods().delete("web", &DeleteParams::default()).await.unwrap();
    bench.api.until(|api| api.writes().contains(&"DELETE /api/v1/namespaces/a/pods/web".to_owned()).then_some(())).await;
    let status = bench.until_phase("Succeeded").await;
    assert!(status.container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.is_some());
    for reason in ["Pulling", "Pulled", "Created", "Started", "Killing"] {
        bench.until_event(reason).await;
    }
    // What the node held is gone before the API is told.
    bench.api.until(|api| (api.writes().iter().filter(|write| write.starts_with("DELETE")).count() == 2).then_some(())).await;
    assert!(bench.runtime.list_sandboxes().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(bench.directory.path().join("data/pods")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_container_that_ends_is_restarted_and_then_backs_off() {
    let bench = Bench::new().await;
    bench.create(simple("Always")).await;
    bench.until_phase("Running").await;
    bench.exit("c", 3);
    let status = bench.until(|status| status.container_statuses.as_ref().unwrap()[0].restart_count == 1 && condition(status, "Ready") == "True").await;
    let last = status.container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    bench.exit("c", 4);
    let status = bench.until(|status| status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap().waiting.is_some()).await;
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert!(waiting.message.unwrap().starts_with("back-off 10s restarting failed container=c pod=web_a("));
    assert!(bench.until_event("BackOff").await.starts_with("Back-off restarting failed container c in pod web_a("));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[tokio::test]
async fn a_job_like_pod_succeeds_or_fails() {
    for (code, phase, reason) in [(0, "Succeeded", "PodCompleted"), (1, "Failed", "PodFailed")] {
        let bench = Bench::new().await;
        bench.create(simple("Never")).await;
        bench.until_phase("Running").await;
        bench.exit("c", code);
        let status = bench.until_phase(phase).await;
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap().clone();
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some(reason)));
        // Its record stays until it is deleted, so that its logs can be read.
        assert!(bench.runtime.find_container("web", "c").is_some());
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_explained_and_tried_again() {
    let bench = Bench::new().await;
    bench.runtime.fail_pull("nginx", "not found");
    bench.create(simple("Always")).await;
    let waits = |status: &PodStatus, reason: &str| {
        status.container_statuses.as_ref().and_then(|list| list[0].state.clone()?.waiting?.reason).as_deref() == Some(reason)
    };
    bench.until(|status| waits(status, "ErrImagePull")).await;
    let status = bench.until(|status| waits(status, "ImagePullBackOff")).await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert!(bench.until_event("BackOff").await.starts_with("Back-off pulling image \"nginx\""));
    bench.runtime.allow_pull("nginx");
}

#[tokio::test]
async fn a_pod_without_the_credentials_does_not_get_an_image_that_another_one_brought() {
    let bench = Bench::new().await;
    bench.runtime.make_private("reg.example/app", "secret");
    let configuration = json!({ "auths": { "reg.example": { "username": "me", "password": "secret" } } }).to_string();
    let secret = json!({ "metadata": { "name": "right", "namespace": "a" }, "type": "kubernetes.io/dockerconfigjson", "data": { ".dockerconfigjson": k8s_openapi::ByteString(configuration.into_bytes()) } });
    Api::<Secret>::namespaced(bench.api.client(), "a").create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let make = async |name: &str, secrets: &[&str], policy: &str| {
        let mut spec = simple("Always");
        spec["imagePullSecrets"] = secrets.iter().map(|secret| json!({ "name": secret })).collect();
        spec["containers"][0]["image"] = json!("reg.example/app:1");
        spec["containers"][0]["imagePullPolicy"] = json!(policy);
        let pod = json!({ "metadata": { "name": name, "namespace": "a" }, "spec": spec });
        bench.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    };
    let shows = async |name: &str, expected: &str| {
        let looked = bench.api.until(|api| {
            let pod = api.objects::<Pod>().into_iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
            let state = pod.status?.container_statuses?.first()?.state.clone()?;
            let shown = state.waiting.and_then(|waiting| waiting.reason).or_else(|| state.running.map(|_| "Running".to_owned()))?;
            (shown == expected).then_some(())
        });
        tokio::time::timeout(Duration::from_secs(60), looked).await.unwrap_or_else(|_| panic!("{name} does not become {expected}: {:#?}", bench.api.objects::<Pod>()));
    };
    make("owner", &["right"], "IfNotPresent").await;
    shows("owner", "Running").await;
    make("thief", &[], "IfNotPresent").await;
    shows("thief", "ErrImagePull").await;
    make("lurker", &[], "Never").await;
    shows("lurker", "ErrImageNeverPull").await;
    make("friend", &["right"], "Never").await;
    shows("friend", "Running").await;
    assert!(!std::fs::read_to_string(bench.directory.path().join("data/image-access.json")).unwrap().contains("secret"));
}

#[tokio::test]
async fn a_missing_config_map_holds_the_container_back_until_it_is_there() {
    let bench = Bench::new().await;
    let mut spec = simple("Always");
    spec["containers"][0]["env"] = json!([{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "k" } } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    spec["volumes"] = json!([{ "name": "v", "configMap": { "name": "settings" } }]);
    bench.create(spec).await;
    assert!(bench.until_event("FailedMount").await.ends_with("configmap \"settings\" not found"));
    let settings: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "settings", "namespace": "a" }, "data": { "k": "one" } })).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(bench.api.client(), "a");
    maps.create(&PostParams::default(), &settings).await.unwrap();
    bench.until_phase("Running").await;
    let container = bench.runtime.find_container("web", "c").unwrap();
    let container = bench.runtime.container_status(&container).await.unwrap();
    assert!(container.spec.environment.contains(&("A".to_owned(), "one".to_owned())));
    let mounted = container.spec.mounts.iter().find(|mount| mount.container_path == "/v").unwrap().host_path.clone().unwrap();
    assert!(mounted.starts_with(bench.directory.path().join("run")), "content lives in memory");
    assert_eq!(std::fs::read_to_string(mounted.join("k")).unwrap(), "one");
    let change = client::Patch::Merge(json!({ "data": { "k": "two" } }));
    maps.patch("settings", &client::PatchParams::default(), &change).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        while std::fs::read_to_string(mounted.join("k")).unwrap() != "two" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_pod_starts_with_a_certificate_for_a_key_that_only_it_has() {
    let bench = Bench::new().await;
    let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": "default" } })).unwrap();
    Api::namespaced(bench.api.client(), "a").create(&PostParams::default(), &account).await.unwrap();
    let mut spec = simple("Always");
    let source = json!({ "signerName": "example.com/s", "keyType": "ED25519", "credentialBundlePath": "both.pem", "keyPath": "key.pem", "certificateChainPath": "chain.pem" });
    spec["volumes"] = json!([{ "name": "identity", "projected": { "sources": [{ "podCertificate": source }] } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "identity", "mountPath": "/identity" }]);
    bench.create(spec).await;
    let asked = bench.api.until(|api| api.objects::<PodCertificateRequest>().into_iter().next());
    let asked = tokio::time::timeout(Duration::from_secs(10), asked).await.unwrap();
    let pod = bench.pods().get("web").await.unwrap();
    assert_eq!((asked.spec.pod_name.as_str(), Some(&asked.spec.pod_uid), asked.spec.node_name.as_str()), ("web", pod.metadata.uid.as_ref(), "n1"));
    assert!(!asked.spec.node_uid.is_empty() && !asked.spec.service_account_uid.is_empty() && asked.spec.signer_name == "example.com/s");
    pki::CertificateRequest::from_der(&asked.spec.stub_pkc_s10_request.0.as_slice().into()).unwrap();
    bench.until_event("FailedMount").await;
    let chain = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    let status = json!({ "status": {
        "conditions": [{ "type": "Issued", "status": "True", "reason": "Signed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        "certificateChain": chain, "notBefore": "2026-01-01T00:00:00Z", "beginRefreshAt": "2096-01-01T00:00:00Z", "notAfter": "2099-01-01T00:00:00Z",
    } });
    let requests: Api<PodCertificateRequest> = Api::namespaced(bench.api.client(), "a");
    requests.patch_status(asked.metadata.name.as_deref().unwrap(), &client::PatchParams::default(), &client::Patch::Merge(status)).await.unwrap();
    bench.until_phase("Running").await;
    let volume = bench.directory.path().join("run/pods").join(uid(&pod)).join("volumes/projected/identity");
    let read = |file: &str| std::fs::read_to_string(volume.join(file)).unwrap();
    assert!(read("key.pem").starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!((read("chain.pem").as_str(), read("both.pem")), (chain, format!("{}{chain}", read("key.pem"))));
    assert_eq!(bench.api.objects::<PodCertificateRequest>().len(), 1, "one request is enough");
}

#[tokio::test]
async fn a_secret_never_reaches_the_data_directory() {
    let bench = Bench::new().await;
    let secret: Secret = serde_json::from_value(json!({ "metadata": { "name": "s", "namespace": "a" }, "data": { "k": "aHVzaC1odXNo" } })).unwrap();
    Api::<Secret>::namespaced(bench.api.client(), "a").create(&PostParams::default(), &secret).await.unwrap();
    let mut spec = simple("Always");
    spec["containers"][0]["env"] = json!([{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    spec["volumes"] = json!([{ "name": "v", "secret": { "secretName": "s" } }]);
    bench.create(spec).await;
    bench.until_phase("Running").await;
    let found = std::process::Command::new("grep").args(["-r", "hush-hush"]).arg(bench.directory.path().join("data")).output().unwrap();
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    let found = std::process::Command::new("grep").args(["-rl", "hush-hush"]).arg(bench.directory.path().join("run")).output().unwrap();
    assert!(!found.stdout.is_empty(), "the volume is there");
}

#[tokio::test]
async fn pods_go_on_when_the_agent_restarts() {
    let mut bench = Bench::new().await;
    bench.create(simple("Always")).await;
    bench.until_phase("Running").await;
    bench.exit("c", 1);
    let before = bench.until(|status| status.container_statuses.as_ref().unwrap()[0].restart_count == 1 && condition(status, "Ready") == "True").await;
    bench.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let container = bench.runtime.find_container("web", "c").unwrap();
    assert!(matches!(bench.runtime.container_status(&container).await.unwrap().state, container_runtime::ContainerState::Running { .. }));
    let status_writes = |bench: &Bench| bench.api.writes().iter().filter(|write| write.ends_with("/pods/web/status")).count();
    let written = status_writes(&bench);
    bench.stop = CancellationToken::new();
    bench.start_agent();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.until_phase("Running").await, before, "nothing has changed");
    assert_eq!(status_writes(&bench), written, "so nothing is written");
    assert_eq!(bench.runtime.calls("run_sandbox"), 1);
    bench.exit("c", 1);
    bench.until(|status| status.container_statuses.as_ref().unwrap()[0].restart_count == 2).await;
}

#[tokio::test]
async fn what_the_api_does_not_know_is_removed_after_the_list() {
    let mut bench = Bench::new().await;
    bench.create(simple("Always")).await;
    bench.until_phase("Running").await;
    bench.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let forget = client::Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    bench.pods().patch("web", &client::PatchParams::default(), &forget).await.unwrap();
    bench.pods().delete("web", &DeleteParams::default()).await.unwrap();
    bench.stop = CancellationToken::new();
    bench.start_agent();
    tokio::time::timeout(Duration::from_secs(60), async {
        while !bench.runtime.list_sandboxes().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_lost_sandbox_is_replaced() {
    let bench = Bench::new().await;
    bench.create(simple("Always")).await;
    bench.until_phase("Running").await;
    let sandbox = bench.runtime.list_sandboxes().await.unwrap().remove(0).id;
    bench.runtime.lose_sandbox(&sandbox);
    bench.until(|status| status.container_statuses.as_ref().unwrap()[0].restart_count == 1 && condition(status, "Ready") == "True").await;
    assert_eq!(bench.runtime.calls("run_sandbox"), 2);
}

#[tokio::test]
async fn all_containers_start_anew_in_the_same_sandbox_where_a_rule_of_one_asks_for_it() {
    let bench = Bench::new().await;
    let rule = json!({ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } });
    bench
        .create(json!({ "nodeName": "n1", "restartPolicy": "Never",
            "initContainers": [{ "name": "i", "image": "nginx", "command": ["sh", "-c", "exit 0"] }],
            "containers": [{ "name": "c", "image": "nginx", "restartPolicyRules": [rule] }, { "name": "d", "image": "nginx" }] }))
        .await;
    bench.until(|status| condition(status, "Ready") == "True").await;
    bench.exit("c", 42);
    let counts = |status: &PodStatus| status.init_container_statuses.iter().chain(&status.container_statuses).flatten().map(|container| container.restart_count).collect::<Vec<_>>();
    let status = bench.until(|status| counts(status) == [1, 1, 1] && condition(status, "Ready") == "True").await;
    assert_eq!((status.phase.as_deref(), condition(&status, "AllContainersRestarting")), (Some("Running"), "False"));
    let last = |name: &str| status.container_statuses.iter().flatten().find(|container| container.name == name).unwrap().last_state.clone().unwrap().terminated.unwrap().exit_code;
    assert_eq!((last("c"), last("d") != 0), (42, true), "the other was killed");
    assert_eq!(bench.runtime.calls("run_sandbox"), 1);
}

#[tokio::test]
async fn the_worker_of_a_pod_that_panics_is_started_again_and_goes_on_with_the_pod() {
    let bench = Bench::new().await;
    bench.create(simple("Always")).await;
    bench.until(|status| condition(status, "Ready") == "True").await;
    bench.runtime.panic_in("list_containers", 2);
    bench.exit("c", 1);
    bench.until(|status| status.container_statuses.as_ref().unwrap()[0].restart_count == 1 && condition(status, "Ready") == "True").await;
    assert_eq!((bench.runtime.panics_left("list_containers"), bench.runtime.calls("run_sandbox")), (0, 1));
    // What the node decided meanwhile reaches the next worker.
    bench.runtime.panic_in("list_containers", 1);
    bench.node.as_ref().unwrap().context.pods.wake_all();
    while bench.runtime.panics_left("list_containers") > 0 {
        tokio::task::yield_now().await;
    }
    let uid = bench.api.objects::<Pod>()[0].metadata.uid.clone().unwrap();
    bench.node.as_ref().unwrap().context.pods.evict(&uid, "no room".to_owned());
    let status = bench.until_phase("Failed").await;
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some("no room")));
}

#[tokio::test]
async fn a_pod_that_goes_while_its_worker_is_not_there_is_taken_down_by_the_next() {
    let bench = Bench::new().await;
    bench.create(simple("Always")).await;
    bench.until_phase("Running").await;
    bench.runtime.panic_in("list_containers", 1);
    bench.node.as_ref().unwrap().context.pods.wake_all();
    while bench.runtime.panics_left("list_containers") > 0 {
        tokio::task::yield_now().await;
    }
    let forget = client::Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    bench.pods().patch("web", &client::PatchParams::default(), &forget).await.unwrap();
    bench.pods().delete("web", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        // The runtime does not tell when a sandbox is removed.
        while !bench.runtime.list_sandboxes().await.unwrap().is_empty() || !bench.node.as_ref().unwrap().context.pods.views().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_its_container() {
    let bench = Bench::new().await;
    bench.runtime.set_exec(|_, command| {
        (command == ["check"]).then(|| container_runtime::ExecOutput { code: 1, output: b"sick".to_vec() })
    });
    let mut spec = simple("Always");
    spec["containers"][0]["livenessProbe"] = json!({ "exec": { "command": ["check"] }, "periodSeconds": 1, "failureThreshold": 1 });
    bench.create(spec).await;
    bench.until(|status| status.container_statuses.as_ref().is_some_and(|list| list[0].restart_count >= 1)).await;
    assert_eq!(bench.until_event("Unhealthy").await, "Liveness probe failed: sick");
}

/// Its hook runs while the others still stop, and it is asked to stop, rather than killed, even where they used up all the time.
#[tokio::test]
async fn a_sidecar_says_farewell_at_once_and_stops_in_its_turn_with_some_time_of_its_own() {
    let bench = Bench::new().await;
    let (send, mut farewells) = tokio::sync::mpsc::unbounded_channel();
    bench.runtime.set_exec(move |container, command| {
        (command == ["farewell"]).then(|| {
            send.send(container.spec.name.clone()).unwrap();
            container_runtime::ExecOutput { code: 0, output: Vec::new() }
        })
    });
    bench.runtime.ignore_stop_signal("c");
    let mut spec = simple("Always");
    spec["terminationGracePeriodSeconds"] = json!(2);
    let hook = json!({ "preStop": { "exec": { "command": ["farewell"] } } });
    spec["initContainers"] = json!([{ "name": "s", "image": "nginx", "restartPolicy": "Always", "lifecycle": hook }]);
    bench.create(spec).await;
    bench.until(|status| condition(status, "Ready") == "True").await;
    let main = bench.runtime.find_container("web", "c").unwrap();
    bench.pods().delete("web", &DeleteParams::default()).await.unwrap();
    assert_eq!(farewells.recv().await.unwrap(), "s");
    let state = bench.runtime.container_status(&main).await.unwrap().state;
    assert!(matches!(state, container_runtime::ContainerState::Running { .. }), "the hook did not wait for the others: {state:?}");
    let status = bench.until_phase("Failed").await;
    let code = |statuses: Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap().exit_code;
    assert_eq!((code(status.container_statuses), code(status.init_container_statuses)), (137, 0));
    assert!(farewells.try_recv().is_err(), "the hook runs once");
}

/// Answers HTTP requests with this status, for as long as somebody listens to what was asked.
async fn http_server(status: u16) -> (u16, mpsc::UnboundedReceiver<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await.unwrap_or(0);
            let first = String::from_utf8_lossy(&buffer[..count]).lines().next().unwrap_or_default().to_owned();
            drop(stream.write_all(format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes()).await);
            if tell.send(first).is_err() {
                return;
            }
        }
    });
    (port, told)
}

#[tokio::test]
async fn hooks_of_each_kind_run_after_the_start_and_before_the_stop() {
    let bench = Bench::new().await;
    let commands = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = commands.clone();
    bench.runtime.set_exec(move |container, command| {
        seen.lock().push(format!("{} {}", container.spec.name, command.join(" ")));
        Some(container_runtime::ExecOutput { code: 0, output: Vec::new() })
    });
    // What it answers does not matter: it was asked.
    let (port, mut asked) = http_server(503).await;
    let get = |path: &str, scheme: &str| json!({ "httpGet": { "path": path, "port": "web", "scheme": scheme } });
    let container = |name: &str, post_start: Value, pre_stop: Value| {
        json!({ "name": name, "image": "nginx", "ports": [{ "name": "web", "containerPort": port }], "lifecycle": { "postStart": post_start, "preStop": pre_stop, "stopSignal": "SIGUSR1" } })
    };
    let mut spec = simple("Never");
    spec["os"] = json!({ "name": "linux" });
    spec["containers"] = json!([
        container("a", json!({ "exec": { "command": ["begin"] } }), get("/end", "HTTP")),
        container("b", get("/begin", "HTTPS"), json!({ "exec": { "command": ["end"] } })),
        container("c", json!({ "sleep": { "seconds": 0 } }), json!({ "sleep": { "seconds": 1 } })),
    ]);
    bench.create(spec).await;
    let status = bench.until(|status| condition(status, "Ready") == "True").await;
    let fallback = "request to HTTPS lifecycle hook got HTTP response, retry with HTTP succeeded";
    assert_eq!(bench.until_event("LifecycleHTTPFallback").await, fallback);
    assert_eq!(*commands.lock(), ["a begin"]);
    assert!(status.container_statuses.iter().flatten().all(|container| container.stop_signal.as_deref() == Some("SIGUSR1")));
    let id = bench.runtime.find_container("web", "a").unwrap();
    assert_eq!(bench.runtime.container_status(&id).await.unwrap().spec.stop_signal.as_deref(), Some("SIGUSR1"), "the runtime is told");
    let started = std::time::Instant::now();
    bench.pods().delete("web", &DeleteParams::default()).await.unwrap();
    bench.until_phase("Succeeded").await;
    assert!(started.elapsed() >= Duration::from_secs(1), "the pause is waited for");
    assert_eq!(*commands.lock(), ["a begin", "b end"]);
    let mut requests = Vec::new();
    while let Ok(request) = asked.try_recv() {
        requests.extend(request.starts_with("GET").then_some(request));
    }
    assert_eq!(requests, ["GET /begin HTTP/1.1", "GET /end HTTP/1.1"]);
}

#[tokio::test]
async fn a_container_whose_hook_fails_at_its_start_is_killed_and_says_so() {
    let bench = Bench::new().await;
    bench.runtime.set_exec(|_, _| Some(container_runtime::ExecOutput { code: 1, output: Vec::new() }));
    let mut spec = simple("Never");
    spec["containers"][0]["lifecycle"] = json!({ "postStart": { "exec": { "command": ["false"] } } });
    bench.create(spec).await;
    assert_eq!(bench.until_event("FailedPostStartHook").await, "PostStartHook failed");
    let id = bench.runtime.find_container("web", "c").unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        // Nothing but the runtime knows, and it is asked for all of them.
        while matches!(bench.runtime.container_status(&id).await.unwrap().state, container_runtime::ContainerState::Running { .. }) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn probes_find_their_port_by_name_and_keep_their_thresholds() {
    let bench = Bench::new().await;
    let (port, mut asked) = http_server(200).await;
    let mut spec = simple("Always");
    spec["containers"][0]["ports"] = json!([{ "name": "web", "containerPort": port }]);
    spec["containers"][0]["startupProbe"] = json!({ "tcpSocket": { "port": "web" }, "periodSeconds": 1, "failureThreshold": 5 });
    spec["containers"][0]["readinessProbe"] = json!({ "httpGet": { "path": "/ready", "port": "web" }, "periodSeconds": 1, "successThreshold": 2 });
    bench.create(spec).await;
    bench.until(|status| condition(status, "Ready") == "True").await;
    let mut questions = 0;
    while let Ok(question) = asked.try_recv() {
        questions += usize::from(question == "GET /ready HTTP/1.1");
    }
    assert!(questions >= 2, "one success is not enough");
}

#[tokio::test]
async fn a_liveness_probe_that_hangs_fails_with_its_time_and_gives_its_own_grace_period() {
    let bench = Bench::new().await;
    bench.runtime.ignore_stop_signal("c");
    let mut spec = simple("Always");
    spec["terminationGracePeriodSeconds"] = json!(600);
    let probe = json!({ "exec": { "command": ["sleep", "1000"] }, "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 1 });
    spec["containers"][0]["livenessProbe"] = probe;
    bench.create(spec).await;
    let message = bench.until_event("Unhealthy").await;
    assert_eq!(message, "Liveness probe failed: command timed out: \"sleep 1000\" timed out after 1s");
    // Ten minutes were the pod's.
    bench.until(|status| status.container_statuses.iter().flatten().any(|container| container.restart_count == 1)).await;
}

#[tokio::test]
async fn a_readiness_probe_decides_about_ready() {
    let bench = Bench::new().await;
    let healthy = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = healthy.clone();
    bench.runtime.set_exec(move |_, command| {
        let code = i32::from(!seen.load(std::sync::atomic::Ordering::Relaxed));
        (command == ["check"]).then(|| container_runtime::ExecOutput { code, output: Vec::new() })
    });
    let mut spec = simple("Always");
    spec["containers"][0]["readinessProbe"] = json!({ "exec": { "command": ["check"] }, "periodSeconds": 1, "failureThreshold": 1 });
    bench.create(spec).await;
    let status = bench.until_phase("Running").await;
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap().clone();
    assert_eq!((ready.status.as_str(), ready.message.as_deref()), ("False", Some("containers with unready status: [c]")));
    healthy.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.until(|status| condition(status, "Ready") == "True").await;
    healthy.store(false, std::sync::atomic::Ordering::Relaxed);
    bench.until(|status| condition(status, "Ready") == "False").await;
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_refused() {
    let bench = Bench::new().await;
    let mut spec = simple("Always");
    spec["containers"][0]["resources"] = json!({ "requests": { "cpu": "9999" } });
    bench.create(spec).await;
    let status = bench.until_phase("Failed").await;
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(bench.runtime.calls("run_sandbox"), 0);
}

#[tokio::test]
async fn a_pod_that_has_stopped_makes_room_before_the_api_knows() {
    let bench = Bench::new().await;
    let mut spec = simple("Always");
    spec["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 8080 }]);
    bench.create(spec.clone()).await;
    bench.until_phase("Running").await;
    let create = async |name: &str| {
        let pod = json!({ "metadata": { "name": name, "namespace": "a" }, "spec": spec.clone() });
        bench.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    };
    let phase_of = |api: &FakeApi, name: &str| {
        let pod = api.objects::<Pod>().into_iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
        pod.status?.phase.filter(|phase| phase == "Running" || phase == "Failed")
    };
    create("early").await;
    assert_eq!(bench.api.until(|api| phase_of(api, "early")).await, "Failed");
    bench.api.fail("pods/web/status", 500);
    bench.pods().delete("web", &DeleteParams::default()).await.unwrap();
    // Nothing tells of it: the status cannot be written.
    let pods = bench.node.as_ref().unwrap().pods.clone();
    while !pods.views().iter().any(|view| view.has_stopped && view.pod.metadata.name.as_deref() == Some("web")) {
        tokio::task::yield_now().await;
    }
    create("next").await;
    assert_eq!(bench.api.until(|api| phase_of(api, "next")).await, "Running");
}

#[tokio::test]
async fn a_pod_takes_the_port_of_one_that_was_deleted_by_force_once_that_has_stopped() {
    let bench = Bench::new().await;
    let mut spec = simple("Always");
    spec["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 80 }]);
    let pod = |name: &str| serde_json::from_value::<Pod>(json!({ "metadata": { "name": name, "namespace": "a" }, "spec": spec })).unwrap();
    bench.pods().create(&PostParams::default(), &pod("web")).await.unwrap();
    bench.until_phase("Running").await;
    // Nothing holds it: the API has forgotten it before the node has heard of it.
    bench.pods().delete("web", &DeleteParams::default()).await.unwrap();
    bench.pods().create(&PostParams::default(), &pod("next")).await.unwrap();
    let status = bench.until(|status| matches!(status.phase.as_deref(), Some("Running" | "Failed"))).await;
    assert_eq!((status.phase.as_deref(), status.reason), (Some("Running"), None));
    assert!(bench.runtime.find_container("web", "c").is_none(), "it started after the other had stopped");
}

#[tokio::test]
async fn the_node_is_registered_ready_with_a_lease() {
    let bench = Bench::new().await;
    let node = bench
        .api
        .until(|api| {
            let node = api.objects::<k8s_openapi::api::core::v1::Node>().into_iter().next()?;
            let ready = node.status.as_ref()?.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            ready.then_some(node)
        })
        .await;
    assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], "n1");
    let lease = bench.api.until(|api| api.objects::<k8s_openapi::api::coordination::v1::Lease>().into_iter().next()).await;
    assert_eq!(lease.metadata.name.as_deref(), Some("n1"));
}

#[tokio::test]
async fn a_pod_that_the_node_cannot_keep_fails_as_evicted_and_says_that_it_was_not_its_fault() {
    let bench = Bench::new().await;
    bench.create(simple("Always")).await;
    let running = bench.until_phase("Running").await;
    assert_eq!(condition(&running, "DisruptionTarget"), "absent");
    let pods = bench.node.as_ref().unwrap().pods.clone();
    let uid = uid(&pods.views()[0].pod).to_owned();
    pods.evict(&uid, "The node was low on resource: memory. ".to_owned());
    let status = bench.until_phase("Failed").await;
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some("The node was low on resource: memory. ")));
    assert_eq!(condition(&status, "DisruptionTarget"), "True");
    assert_eq!(bench.until_event("Evicted").await, "The node was low on resource: memory. ");
    assert!(!pods.is_evicting(&uid), "it is over");
}

#[tokio::test]
async fn a_changed_annotation_heals_a_sub_path_at_once() {
    let bench = Bench::new().await;
    let mut spec = simple("Always");
    spec["volumes"] = json!([{ "name": "e", "emptyDir": {} }]);
    spec["containers"][0]["env"] = json!([{ "name": "PART", "valueFrom": { "fieldRef": { "fieldPath": "metadata.annotations['part']" } } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "e", "mountPath": "/e", "subPathExpr": "$(PART)" }]);
    bench.create(spec).await;
    let waits = |status: &PodStatus| {
        let container = status.container_statuses.iter().flatten().next().and_then(|container| container.state.clone());
        container.and_then(|state| state.waiting).and_then(|waiting| waiting.reason)
    };
    let status = bench.until(|status| waits(status).as_deref() == Some("CreateContainerConfigError")).await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let patch = client::Patch::Merge(json!({ "metadata": { "annotations": { "part": "one" } } }));
    bench.pods().patch("web", &client::PatchParams::default(), &patch).await.unwrap();
    // Far sooner than the next try that the failure itself would have brought.
    tokio::time::timeout(Duration::from_secs(60), bench.until_phase("Running")).await.unwrap();
}

/// A pod with one container that has these resources, and restarts for other memory.
fn resizable(cpu: &str, memory: &str) -> Value {
    let amounts = json!({ "cpu": cpu, "memory": memory });
    let mut spec = simple("Always");
    spec["containers"][0]["resources"] = json!({ "requests": amounts, "limits": amounts });
    spec["containers"][0]["resizePolicy"] = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
    spec
}

impl Bench {
    async fn ask_for(&self, cpu: &str, memory: &str) {
        let amounts = json!({ "cpu": cpu, "memory": memory });
        let mut pod = self.pods().get("web").await.unwrap();
        let resources = json!({ "requests": amounts, "limits": amounts });
        pod.spec.as_mut().unwrap().containers[0].resources = serde_json::from_value(resources).unwrap();
        self.pods().replace("web", &PostParams::default(), &pod).await.unwrap();
    }

    async fn limits(&self) -> container_runtime::ResourceLimits {
        let container = self.runtime.find_container("web", "c").unwrap();
        self.runtime.container_status(&container).await.unwrap().spec.resources
    }
}

fn shown_limit(status: &PodStatus, resource: &str) -> Option<String> {
    Some(status.container_statuses.as_ref()?.first()?.resources.as_ref()?.limits.as_ref()?.get(resource)?.0.clone())
}

#[tokio::test]
async fn a_running_pod_gets_other_limits_in_place() {
    let bench = Bench::new().await;
    bench.create(resizable("100m", "64Mi")).await;
    let status = bench.until(|status| condition(status, "Ready") == "True").await;
    assert_eq!(shown_limit(&status, "cpu").as_deref(), Some("100m"));
    bench.ask_for("200m", "64Mi").await;
    let status = bench.until(|status| shown_limit(status, "cpu").as_deref() == Some("200m") && condition(status, "PodResizeInProgress") == "absent").await;
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!((container.restart_count, container.allocated_resources.as_ref().unwrap()["cpu"].0.as_str()), (0, "200m"));
    let limits = bench.limits().await;
    assert_eq!((limits.cpu_quota_microseconds, limits.memory_bytes), (Some(20_000), Some(64 << 20)));
    assert_eq!(bench.runtime.list_sandboxes().await.unwrap()[0].spec.resources.cpu_quota_microseconds, Some(20_000));
    assert!(bench.until_event("ResizeStarted").await.starts_with("Pod resize started: {\"containers\":[{\"name\":\"c\""));
    bench.until_event("ResizeCompleted").await;
}

#[tokio::test]
async fn a_container_restarts_for_what_its_policy_says() {
    let bench = Bench::new().await;
    bench.create(resizable("100m", "64Mi")).await;
    bench.until(|status| condition(status, "Ready") == "True").await;
    bench.ask_for("100m", "128Mi").await;
    let status = bench.until(|status| shown_limit(status, "memory").as_deref() == Some("128Mi") && condition(status, "Ready") == "True").await;
    assert_eq!(status.container_statuses.unwrap()[0].restart_count, 1);
    assert_eq!(bench.limits().await.memory_bytes, Some(128 << 20));
}

#[tokio::test]
async fn what_does_not_fit_is_not_granted() {
    let bench = Bench::new().await;
    bench.create(resizable("100m", "64Mi")).await;
    bench.until(|status| condition(status, "Ready") == "True").await;
    bench.ask_for("10000", "64Mi").await;
    let status = bench.until(|status| condition(status, "PodResizePending") == "True").await;
    let pending = status.conditions.unwrap().into_iter().find(|condition| condition.type_ == "PodResizePending").unwrap();
    assert_eq!(pending.reason.as_deref(), Some("Infeasible"));
    assert!(pending.message.unwrap().starts_with("Node didn't have enough capacity: cpu, requested: 10000000, capacity: "));
    assert_eq!(shown_limit(&bench.until(|_| true).await, "cpu").as_deref(), Some("100m"));
    assert_eq!(bench.limits().await.cpu_quota_microseconds, Some(10_000), "what was granted stands");
    // Asking for what it has takes the wish back.
    bench.ask_for("100m", "64Mi").await;
    bench.until(|status| condition(status, "PodResizePending") == "absent").await;
}

#[tokio::test]
async fn what_becomes_free_goes_to_the_waiting_pod_of_the_higher_priority_though_the_other_asked_first() {
    let bench = Bench::new().await;
    let processors = bench.node.as_ref().unwrap().context.machine.allocatable(&std::collections::BTreeMap::new()).cpu.as_thousandths();
    let spec = |millicores: i64, priority: i32| {
        let mut spec = resizable(&format!("{millicores}m"), "1Mi");
        spec["priority"] = json!(priority);
        spec
    };
    let (api, pods) = (&bench.api, bench.pods());
    let is = |name: &'static str, what: fn(&PodStatus, &str) -> bool, wanted: String| async move {
        let looked = api.until(|api| {
            let status = api.objects::<Pod>().into_iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?.status?;
            what(&status, &wanted).then_some(())
        });
        tokio::time::timeout(Duration::from_secs(60), looked).await.unwrap_or_else(|_| panic!("{name} is not {wanted}: {:#?}", api.objects::<Pod>()));
    };
    let is_granted = |status: &PodStatus, cpu: &str| shown_limit(status, "cpu").as_deref() == Some(cpu) && condition(status, "PodResizePending") == "absent" && condition(status, "Ready") == "True";
    let is_waiting = |status: &PodStatus, reason: &str| status.conditions.iter().flatten().any(|condition| condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some(reason));
    let ask = async |name: &str, millicores: i64, priority: i32| {
        let patch = client::Patch::Merge(json!({ "spec": { "containers": spec(millicores, priority)["containers"] } }));
        pods.patch(name, &client::PatchParams::default(), &patch).await.unwrap();
    };
    for (name, millicores, priority) in [("holder", processors - 300, 0), ("low", 100, 0), ("high", 100, 10)] {
        let pod = json!({ "metadata": { "name": name, "namespace": "a" }, "spec": spec(millicores, priority) });
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        is(name, is_granted, format!("{millicores}m")).await;
    }
    for (name, priority) in [("low", 0), ("high", 10)] {
        ask(name, 250, priority).await;
        is(name, is_waiting, "Deferred".to_owned()).await;
    }
    // Enough for one of them.
    ask("holder", processors - 450, 0).await;
    is("high", is_granted, "250m".to_owned()).await;
    is("low", is_waiting, "Deferred".to_owned()).await;
    // One that waits no more makes way as one that ends does.
    ask("high", 100, 10).await;
    is("low", is_granted, "250m".to_owned()).await;
}

#[tokio::test]
async fn a_container_with_a_new_image_is_replaced_without_an_outage_whatever_its_policy() {
    for policy in ["Always", "Never"] {
        let bench = Bench::new().await;
        bench.create(simple(policy)).await;
        let before = bench.until(|status| condition(status, "Ready") == "True").await;
        let outage = bench.api.until(|api| {
            let status = api.objects::<Pod>().into_iter().next()?.status?;
            (condition(&status, "Ready") == "False").then_some(status)
        });
        let patch = client::Patch::Merge(json!({ "spec": { "containers": [{ "name": "c", "image": "other" }] } }));
        bench.pods().patch("web", &client::PatchParams::default(), &patch).await.unwrap();
        let replaced = bench.until(|status| status.container_statuses.iter().flatten().any(|container| container.restart_count == 1));
        tokio::select! {
            biased;
            status = outage => panic!("{policy}: {status:#?}"),
            after = replaced => {
                let container = |status: &PodStatus| status.container_statuses.as_ref().unwrap()[0].clone();
                assert_ne!(container(&after).container_id, container(&before).container_id);
                assert!(container(&after).state.unwrap().running.is_some(), "{policy}");
                assert_eq!((condition(&after, "Ready"), after.phase.as_deref()), ("True", Some("Running")), "{policy}");
            }
        }
    }
}

#[tokio::test]
async fn a_new_image_that_cannot_be_had_is_told() {
    let bench = Bench::new().await;
    bench.create(simple("Never")).await;
    bench.until(|status| condition(status, "Ready") == "True").await;
    bench.runtime.fail_pull("other", "it is not there");
    let patch = client::Patch::Merge(json!({ "spec": { "containers": [{ "name": "c", "image": "other" }] } }));
    bench.pods().patch("web", &client::PatchParams::default(), &patch).await.unwrap();
    let status = bench.until(|status| condition(status, "Ready") == "False").await;
    assert_eq!(status.phase.as_deref(), Some("Running"), "it is tried again");
}

#[tokio::test]
async fn a_file_of_the_node_is_a_pod_with_a_mirror() {
    let bench = Bench::new().await;
    let file = bench.directory.path().join("manifests/web.yaml");
    bench.api.until(|_| file.parent().unwrap().is_dir().then_some(())).await;
    let write = |image: &str| {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: a}}\nspec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: {image}}}]}}\n");
        std::fs::write(&file, text).unwrap();
    };
    write("nginx");
    let mirror_of = |image: &'static str, other: Option<String>| {
        bench.api.until(move |api| {
            let found = api.objects::<Pod>().into_iter().next()?;
            let runs = found.status.as_ref().is_some_and(|status| condition(status, "Ready") == "True");
            (runs && found.spec.as_ref()?.containers[0].image.as_deref() == Some(image) && found.metadata.uid != other).then_some(found)
        })
    };
    let mirror = tokio::time::timeout(Duration::from_secs(60), mirror_of("nginx", None)).await.unwrap();
    assert_eq!(mirror.metadata.name.as_deref(), Some("web-n1"));
    let annotations = mirror.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(mirror.metadata.owner_references.as_ref().unwrap()[0].kind, "Node");
    let sandbox = bench.runtime.list_sandboxes().await.unwrap()[0].id.clone();
    // Deleting the mirror changes nothing but the mirror.
    bench.pods().delete("web-n1", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    let mirror = tokio::time::timeout(Duration::from_secs(60), mirror_of("nginx", mirror.metadata.uid)).await.unwrap();
    assert_eq!(bench.runtime.list_sandboxes().await.unwrap()[0].id, sandbox);
    // Another content is another pod; no file is none.
    write("other");
    tokio::time::timeout(Duration::from_secs(60), mirror_of("other", mirror.metadata.uid)).await.unwrap();
    assert_eq!(bench.runtime.list_sandboxes().await.unwrap().len(), 1);
    std::fs::remove_file(&file).unwrap();
    tokio::time::timeout(Duration::from_secs(60), bench.api.until(|api| api.objects::<Pod>().is_empty().then_some(()))).await.unwrap();
    assert!(bench.runtime.list_sandboxes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_critical_file_of_the_node_ends_a_pod_that_is_in_its_way_and_another_one_is_refused() {
    let bench = Bench::new().await;
    let manifests = bench.directory.path().join("manifests");
    bench.api.until(|_| manifests.is_dir().then_some(())).await;
    let allocatable = bench.node.as_ref().unwrap().context.machine.allocatable(&std::collections::BTreeMap::new());
    let most = allocatable.cpu.as_thousandths() - 100;
    let asking = |millicores: i64| json!({ "requests": { "cpu": format!("{millicores}m") } });
    let mut spec = simple("Always");
    spec["containers"][0]["resources"] = asking(most);
    bench.create(spec).await;
    bench.until_phase("Running").await;
    let api = &bench.api;
    let pod_named = |name: &'static str, phase: &'static str| {
        let looked = api.until(move |api| {
            let found = api.objects::<Pod>().into_iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
            found.status.clone().filter(|status| status.phase.as_deref() == Some(phase))
        });
        async move { tokio::time::timeout(Duration::from_secs(60), looked).await.unwrap_or_else(|_| panic!("{name} does not become {phase}: {:#?}", api.objects::<Pod>())) }
    };
    let file = |name: &str, millicores: i64| {
        let container = json!({ "name": "c", "image": "nginx", "resources": asking(millicores) });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "a" }, "spec": { "terminationGracePeriodSeconds": 1, "containers": [container] } });
        std::fs::write(manifests.join(format!("{name}.yaml")), pod.to_string()).unwrap();
    };
    file("fits", 100);
    pod_named("fits-n1", "Running").await;
    assert_eq!(pod_named("web", "Running").await.reason, None);
    file("needs-room", 500);
    let ended = pod_named("web", "Failed").await;
    assert_eq!((ended.reason.as_deref(), ended.message.as_deref()), (Some("Preempting"), Some("Preempted in order to admit critical pod")));
    let condition = ended.conditions.iter().flatten().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    assert_eq!((condition.reason.as_deref(), condition.message.as_deref()), (Some("TerminationByKubelet"), Some("Pod was preempted by Kubelet to accommodate a critical pod.")));
    assert_eq!(bench.until_event("Preempting").await, "Preempted in order to admit critical pod");
    pod_named("needs-room-n1", "Running").await;
    // Those from files are not ended for one another.
    file("too-large", most + 100);
    let refused = pod_named("too-large-n1", "Failed").await;
    assert_eq!(refused.reason.as_deref(), Some("UnexpectedAdmissionError"));
    assert!(refused.message.unwrap().contains("no set of running pods found to reclaim resources: [(res: cpu, q: 600), ]"));
    pod_named("needs-room-n1", "Running").await;
    pod_named("fits-n1", "Running").await;
}

#[tokio::test]
async fn a_node_that_is_shut_down_ends_its_pods_and_takes_no_more() {
    let bench = Bench::new().await;
    bench.create(simple("Always")).await;
    bench.until_phase("Running").await;
    let node = bench.node.clone().unwrap();
    node.shut_down().await;
    let status = bench.until_phase("Failed").await;
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Terminated"), Some("Pod was terminated in response to imminent node shutdown.")));
    assert_eq!(condition(&status, "DisruptionTarget"), "True");
    bench
        .api
        .until(|api| {
            let node = api.objects::<k8s_openapi::api::core::v1::Node>().into_iter().next()?;
            let ready = node.status?.conditions?.into_iter().find(|condition| condition.type_ == "Ready")?;
            (ready.status == "False" && ready.message.as_deref() == Some("node is shutting down")).then_some(())
        })
        .await;
}
