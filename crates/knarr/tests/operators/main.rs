//! Operators as people write them, with kopf and with kube: each runs in the cluster, serves admission webhooks there, and manages a kind
//! of its own. And what a program with kube does from outside.

use std::path::PathBuf;

use testkit::{RealCluster, Scene, image, kubectl::client_program, real_cluster::Settings, registry::Registry};

/// A namespace for a test, in a cluster that has busybox.
fn scene(namespace: &str) -> Scene {
    Scene::open(namespace, || {
        let busybox = image::busybox();
        let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
        let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
        RealCluster::start(&Settings { binary: &binary, registry: Some(&registry), control_plane_only: false })
    })
}

/// A certificate that signed itself, as most webhooks show: Go's clients take it where it is in the bundle.
fn certificate(scene: &Scene, service: &str) {
    let alternative = format!("subjectAltName=DNS:{service}.{}.svc", scene.namespace);
    let mut openssl = scene.program("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=webhooks", "-keyout", "tls.key", "-out", "tls.crt", "-addext", &alternative]);
    scene.output(&mut openssl);
    scene.k("create secret tls certificates --cert=tls.crt --key=tls.key");
}

/// Starts an operator, whose program is in a folder of this machine.
fn deploy(scene: &Scene, name: &str, objects: &str, program: &str) {
    let folder = client_program(program).display().to_string();
    scene.apply(&objects.replace("NAMESPACE }", &format!("{} }}", scene.namespace)).replace("PROGRAM", &folder));
    let rolled = scene.try_kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=180s"]);
    assert!(rolled.is_some(), "{}\n{}", scene.k(&format!("logs deployment/{name} --tail=50")), scene.k("get pods -o wide"));
}

/// Waits until an object's value at a JSON path is wanted; the object may not be there yet.
fn becomes(scene: &Scene, name: &str, object: &str, path: &str, wanted: &str) {
    let words = ["get", object, "-o", &format!("jsonpath={{{path}}}")];
    let mut last = None;
    for _ in 0..1800 {
        last = scene.try_kubectl(&words);
        if last.as_deref() == Some(wanted) {
            return;
        }
        // What an operator does next is told by nobody.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{object} at {path} is {last:?}, not {wanted}\n{}", scene.k(&format!("logs -l app={name} --tail=50")));
}

fn garden(name: &str, size: usize) -> String {
    format!("apiVersion: kopf.example/v1\nkind: Garden\nmetadata: {{ name: {name} }}\nspec: {{ size: {size} }}\n")
}

#[test]
fn an_operator_written_with_kopf_manages_gardens_and_admits_them() {
    let scene = scene("gardens");
    certificate(&scene, "gardener");
    let code = scene.file("operator.py", include_str!("gardener.py"));
    scene.kubectl(["create", "configmap", "code", &format!("--from-file={}", code.display())]);
    deploy(&scene, "gardener", include_str!("gardener.yaml"), "kopf");
    // kopf registers its webhooks once its server listens.
    for kind in ["mutating", "validating"] {
        let configuration = format!("{kind}webhookconfiguration/gardens.kopf.example");
        becomes(&scene, "gardener", &configuration, ".webhooks[0].clientConfig.service.name", "gardener");
    }

    scene.apply(&garden("small", 2));
    assert_eq!(scene.at("garden/small", ".spec.color"), "green", "the mutating webhook chose it");
    becomes(&scene, "gardener", "configmap/small", ".data", r#"{"bed-0":"green","bed-1":"green"}"#);
    becomes(&scene, "gardener", "garden/small", ".status.beds", "2");
    let refused = scene.feed(["apply", "-f", "-"], garden("large", 11).as_bytes());
    assert!(refused.error.contains("admission webhook \"limit-the-size.gardens.kopf.example\" denied the request: a garden has at most 10 beds"), "{refused:?}");
    let warned = scene.feed(["apply", "-f", "-"], garden("ten", 10).as_bytes());
    assert!(warned.success && warned.error.contains("Warning: this garden is as large as can be"), "{warned:?}");
    scene.kubectl(["patch", "garden", "small", "--type=merge", "-p", r#"{"spec":{"size":1,"color":"red"}}"#]);
    becomes(&scene, "gardener", "configmap/small", ".data", r#"{"bed-0":"red"}"#);
    assert!(scene.k("get gardens").contains("BEDS"));

    // It looks after what it missed.
    scene.k("scale deployment/gardener --replicas=0");
    scene.k("wait --for=delete pod -l app=gardener --timeout=180s");
    scene.kubectl(["delete", "garden", "small", "--wait=false"]);
    scene.k("scale deployment/gardener --replicas=1");
    scene.k("wait --for=delete garden/small --timeout=180s");
    scene.k("get configmap small-is-gone");
    scene.k("wait --for=delete configmap/small --timeout=180s");
    scene.k("delete garden ten --timeout=180s");
    scene.k("delete customresourcedefinition gardens.kopf.example --timeout=180s");
}

fn hive(name: &str, bees: usize) -> String {
    format!("apiVersion: kube.example/v1\nkind: Hive\nmetadata: {{ name: {name} }}\nspec: {{ bees: {bees} }}\n")
}

#[test]
fn an_operator_written_with_kube_elects_a_leader_manages_hives_and_admits_them() {
    let scene = scene("hives");
    certificate(&scene, "beekeeper");
    deploy(&scene, "beekeeper", include_str!("beekeeper.yaml"), "rust");
    scene.apply(&hive("one", 42));
    assert_eq!(scene.at("hive/one", ".spec.keeper"), "system:admin", "the mutating webhook knows who asks");
    becomes(&scene, "beekeeper", "configmap/one", ".data", r#"{"jars":"4","keeper":"system:admin"}"#);
    becomes(&scene, "beekeeper", "hive/one", ".status.jars", "4");
    let refused = scene.feed(["apply", "-f", "-"], hive("many", 1001).as_bytes());
    assert!(refused.error.contains("admission webhook \"validate.kube.example\" denied the request: a hive has at most 1000 bees"), "{refused:?}");
    let refused = scene.feed(["apply", "-f", "-"], hive("none", 0).replace("bees: 0", "bees: -1").as_bytes());
    assert!(refused.error.contains("spec.bees") && refused.error.contains("should be greater than or equal to 0"), "{refused:?}");
    assert!(scene.k("explain hive.spec").contains("Who looks after them."));
    assert!(scene.k("describe hive one").contains("there are 4 jars"), "it has an event");

    // What it owns comes back; and where the leader dies, the other one goes on.
    scene.k("delete configmap one");
    becomes(&scene, "beekeeper", "configmap/one", ".data.jars", "4");
    let leader = scene.at("lease/beekeeper", ".spec.holderIdentity");
    scene.kubectl(["delete", "pod", &leader, "--grace-period=0", "--force"]);
    scene.kubectl(["patch", "hive", "one", "--type=merge", "-p", r#"{"spec":{"bees":70}}"#]);
    becomes(&scene, "beekeeper", "configmap/one", ".data.jars", "7");
    assert_ne!(scene.at("lease/beekeeper", ".spec.holderIdentity"), leader);
    scene.k("delete hive one --timeout=180s");
    scene.k("get configmap one-is-gone");
    scene.k("wait --for=delete configmap/one --timeout=180s");
    scene.k("delete customresourcedefinition hives.kube.example --timeout=180s");
    scene.k("delete mutatingwebhookconfiguration,validatingwebhookconfiguration beekeeper");
}

#[test]
fn a_program_with_kube_does_what_such_programs_do() {
    let scene = scene("rust");
    scene.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: { name: web }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: main, image: "busybox:1", readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }, command: [sh, -c, "mkdir /page; echo hello > /page/index.html; echo started; exec httpd -f -p 8080 -h /page"] }]
"#,
    );
    scene.ready("web");
    let said = scene.output(scene.program(client_program("rust").join("rust-client")).arg("client"));
    assert!(said.ends_with("all is well\n"), "{said}");
}
