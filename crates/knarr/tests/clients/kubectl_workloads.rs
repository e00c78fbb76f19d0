//! kubectl with what makes pods: rollouts, scaling, exposing, deleting, and a node's maintenance.

use testkit::Scene;

use crate::{pod, scene};

fn deployment(name: &str, replicas: usize) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{ name: main, image: "busybox:1", command: [sleep, "1000"] }}]
"#
    )
}

fn rolled_out(scene: &Scene, name: &str) {
    scene.kubectl(["rollout", "status", &format!("deployment/{name}"), "--timeout=180s"]);
}

#[test]
fn a_rollout_is_watched_undone_paused_and_restarted() {
    let scene = scene("rollout");
    scene.apply(&deployment("web", 2));
    rolled_out(&scene, "web");
    scene.k("set env deployment/web STEP=two");
    rolled_out(&scene, "web");
    let history = scene.k("rollout history deployment/web");
    assert!(history.lines().any(|line| line.starts_with("1 ")) && history.lines().any(|line| line.starts_with("2 ")), "{history}");
    assert!(scene.k("rollout history deployment/web --revision=2").contains("STEP:\ttwo"));
    scene.k("rollout undo deployment/web");
    rolled_out(&scene, "web");
    assert_eq!(scene.at("deployment/web", ".spec.template.spec.containers[0].env"), "");
    assert_eq!(scene.at("deployment/web", r".metadata.annotations.deployment\.kubernetes\.io/revision"), "3");

    scene.k("rollout pause deployment/web");
    scene.k("set env deployment/web STEP=paused");
    assert!(scene.refused("rollout undo deployment/web").contains("paused"));
    scene.k("rollout resume deployment/web");
    rolled_out(&scene, "web");
    let before = scene.k("get pods -l app=web -o name");
    scene.k("rollout restart deployment/web");
    rolled_out(&scene, "web");
    assert_ne!(scene.k("get pods -l app=web -o name"), before);
    let described = scene.k("describe deployment web");
    assert!(described.contains("NewReplicaSetAvailable") && described.contains("ScalingReplicaSet"), "{described}");
}

#[test]
fn workloads_are_scaled_exposed_and_described() {
    let scene = scene("scale");
    scene.apply(
        r#"
apiVersion: v1
kind: ReplicationController
metadata: { name: primary, labels: { app: primary } }
spec:
  replicas: 1
  selector: { app: primary }
  template:
    metadata: { labels: { app: primary } }
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{ name: main, image: "busybox:1", command: [sleep, "1000"], ports: [{ name: door, containerPort: 6379 }] }]
"#,
    );
    scene.k("wait --for=create pod -l app=primary --timeout=180s");
    scene.k("wait --for=condition=Ready pod -l app=primary --timeout=180s");
    scene.k("expose rc primary --name=second --port=1234 --target-port=door");
    scene.k("expose service second --name=third --port=2345 --target-port=6379");
    for service in ["second", "third"] {
        scene.cluster.eventually("the service has its end point", || {
            (scene.at(&format!("endpoints/{service}"), ".subsets[0].ports[0].port") == "6379").then_some(())
        });
    }
    let described = scene.k("describe rc primary");
    for words in ["Replicas:     1 current / 1 desired", "1 Running / 0 Waiting / 0 Succeeded / 0 Failed", "SuccessfulCreate"] {
        assert!(described.contains(words), "{described}");
    }
    let described = scene.k("describe pod -l app=primary");
    for words in ["Controlled By:  ReplicationController/primary", "QoS Class:", "State:          Running", "Started container main"] {
        assert!(described.contains(words), "{described}");
    }
    scene.k("scale rc primary --replicas=3 --timeout=180s");
    scene.becomes("rc/primary", ".status.readyReplicas", "3");
    assert!(scene.refused("scale rc primary --current-replicas=7 --replicas=1").contains("7"));
    scene.k("autoscale rc primary --min=1 --max=5 --cpu=50%");
    assert_eq!(scene.at("hpa/primary", ".spec.scaleTargetRef.kind"), "ReplicationController");
}

#[test]
fn what_an_object_owns_goes_with_it_or_stays_as_asked() {
    let scene = scene("cascade");
    scene.apply(&deployment("kept", 1));
    rolled_out(&scene, "kept");
    scene.k("delete deployment kept --cascade=orphan");
    assert_eq!(scene.k("get replicasets -l app=kept -o name").lines().count(), 1);
    assert_eq!(scene.k("get replicasets -l app=kept -o jsonpath={.items[0].metadata.ownerReferences}"), "");
    for (name, cascade) in [("first", "foreground"), ("last", "background")] {
        scene.apply(&deployment(name, 1));
        rolled_out(&scene, name);
        scene.kubectl(["delete", "deployment", name, &format!("--cascade={cascade}"), "--timeout=180s"]);
        scene.kubectl(["wait", "--for=delete", "pod", "-l", &format!("app={name}"), "--timeout=180s"]);
    }
    // This one ignores SIGTERM and would take its five minutes.
    scene.apply(&pod("slow", "exec sleep 1000").replace("terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds: 300"));
    scene.ready("slow");
    scene.k("delete pod slow --grace-period=0 --force --timeout=120s");
    scene.refused("get pod slow");
}

#[test]
fn a_node_is_tainted_cordoned_and_drained_of_some_pods() {
    let scene = scene("drain");
    scene.apply(&deployment("moving", 1));
    rolled_out(&scene, "moving");
    scene.k("taint nodes node-1 key=value:PreferNoSchedule");
    assert!(scene.k("describe node node-1").contains("key=value:PreferNoSchedule"));
    scene.k("taint nodes node-1 key-");
    // Other tests' pods wait for as long as this node is closed.
    let drained = scene.k("drain node-1 --pod-selector=app=moving --timeout=180s");
    let shown = scene.k("get node node-1");
    scene.k("uncordon node-1");
    assert!(drained.contains("node/node-1 cordoned") && drained.contains("node/node-1 drained"), "{drained}");
    assert!(shown.contains("SchedulingDisabled"), "{shown}");
    rolled_out(&scene, "moving");
}

#[test]
fn jobs_run_and_are_made_from_cron_jobs() {
    let scene = scene("jobs");
    scene.k("create job one --image=busybox:1 -- echo done");
    scene.kubectl(["create", "cronjob", "beat", "--image=busybox:1", "--schedule=0 0 1 1 *", "--", "echo", "beaten"]);
    scene.k("create job two --from=cronjob/beat");
    scene.k("wait --for=condition=Complete job/one job/two --timeout=180s");
    assert_eq!(scene.k("logs job/two"), "beaten\n");
}
