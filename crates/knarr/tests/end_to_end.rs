//! The built binary with real pods and the real kubectl, as root. Each test has a cluster of its own; one at a time, since a node
//! has the machine's names and ports.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard},
};

use testkit::{RealCluster, image, real_cluster::Settings, registry::Registry};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A failed test says so itself; the next one may go on.
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

fn cluster_with_busybox() -> RealCluster {
    let busybox = image::busybox();
    let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
    RealCluster::start(&Settings { binary: &binary(), registry: Some(&registry), control_plane_only: false })
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:1
        command: ["sh", "-c", "echo started; mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        ports: [{ containerPort: 8080 }]
        readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: visitor }
spec:
  terminationGracePeriodSeconds: 1
  containers: [{ name: visitor, image: "busybox:1", command: ["sleep", "100000"] }]
"#;

#[test]
fn a_deployment_is_served_under_its_services_name_and_outlives_a_killed_server() {
    let _alone = alone();
    let mut cluster = cluster_with_busybox();
    cluster.apply(WEB);
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=180s"]);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/visitor", "--timeout=180s"]);

    let ask = r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 web 80 | tail -n 1 | grep web-";
    let visit = |cluster: &RealCluster| cluster.eventually("the page is served", || cluster.try_kubectl(["exec", "visitor", "--", "sh", "-c", ask]));
    assert!(visit(&cluster).starts_with("web-"));
    assert_eq!(cluster.kubectl(["logs", "deployment/web"]).trim(), "started");
    assert_eq!(cluster.kubectl(["exec", "visitor", "--", "sh", "-c", "echo out; exit 0"]).trim(), "out");
    let failed = cluster.kubectl_refused(["exec", "visitor", "--", "sh", "-c", "exit 3"]);
    assert!(failed.contains("exit code 3"), "{failed}");

    let look = ["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}"];
    let before = cluster.kubectl(look);
    cluster.kill_server();
    cluster.start_server();
    assert!(visit(&cluster).starts_with("web-"));
    assert_eq!(cluster.kubectl(look), before, "the same containers run on");

    cluster.kubectl(["scale", "deployment/web", "--replicas=1"]);
    cluster.kubectl(["rollout", "status", "deployment/web", "--timeout=180s"]);
    cluster.kubectl(["delete", "pod/visitor", "deployment/web", "service/web", "--timeout=180s"]);
}

#[test]
fn an_image_that_nobody_has_is_named_in_the_pods_status() {
    let _alone = alone();
    let cluster = cluster_with_busybox();
    cluster.kubectl(["run", "nobody", "--image=nobody-has-this:1", "--restart=Never"]);
    cluster.eventually("the pod says why it does not start", || {
        let reason = cluster.kubectl(["get", "pod", "nobody", "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}"]);
        matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff").then_some(())
    });
}

#[test]
fn a_control_plane_alone_keeps_what_it_acknowledged_when_it_is_killed() {
    let _alone = alone();
    let mut cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    cluster.kubectl(["create", "configmap", "kept", "--from-literal=key=value"]);
    cluster.kubectl(["create", "namespace", "gone"]);
    cluster.kubectl(["delete", "namespace", "gone", "--timeout=180s"]);
    cluster.kill_server();
    cluster.start_server();
    assert_eq!(cluster.kubectl(["get", "configmap", "kept", "-o", "jsonpath={.data.key}"]), "value");
    cluster.kubectl_refused(["get", "namespace", "gone"]);
    let (_, ended_well) = cluster.stop_server();
    assert!(ended_well, "SIGTERM ends a server well");
}

#[test]
fn kubectl_finds_its_way_around() {
    let _alone = alone();
    let cluster = RealCluster::start(&Settings { binary: &binary(), registry: None, control_plane_only: true });
    assert!(cluster.kubectl(["version", "-o", "json"]).contains("serverVersion"));
    assert!(cluster.kubectl(["api-resources"]).contains("deployments"));
    assert!(cluster.kubectl(["explain", "deployment.spec.strategy"]).contains("rollingUpdate"));
    assert_eq!(cluster.kubectl(["auth", "can-i", "create", "pods"]).trim(), "yes");
    cluster.kubectl(["create", "configmap", "a", "--from-literal=key=one"]);
    cluster.kubectl(["label", "configmap", "a", "tier=web"]);
    cluster.kubectl(["annotate", "configmap", "a", "note=here"]);
    cluster.kubectl(["patch", "configmap", "a", "-p", r#"{"data":{"key":"two"}}"#]);
    assert_eq!(cluster.kubectl(["get", "configmap", "-l", "tier=web", "-o", "custom-columns=N:.metadata.name,K:.data.key", "--no-headers"]).split_whitespace().collect::<Vec<_>>(), ["a", "two"]);
    let applied = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: b }\ndata: { key: one }\n";
    assert!(cluster.apply(applied).contains("configmap/b created"));
    assert!(cluster.apply(applied).contains("configmap/b unchanged"));
    assert!(cluster.apply(&applied.replace("one", "two")).contains("configmap/b configured"));
    let refused = cluster.kubectl_refused(["get", "configmap", "none"]);
    assert_eq!(refused.trim(), "Error from server (NotFound): configmaps \"none\" not found");
}

#[test]
fn a_port_in_use_is_said_in_a_sentence() {
    let _alone = alone();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let output = Command::new(binary())
        .args(["server", "--disable-agent", "--bind", "127.0.0.1", "--port", &port, "--data-dir", &path("data"), "--run-dir", &path("run")])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot listen on") && said.contains("--port"), "{said}");
    assert!(!Path::new(&path("data")).join("admin.kubeconfig").exists());
}
