//! Pods that cannot start say why, in their status and in events, in upstream's words.

use testkit::Scene;

use crate::scene;

fn waits_with(scene: &Scene, pod: &str, reasons: &[&str]) -> String {
    let statuses = [".status.containerStatuses[0].state.waiting", ".status.initContainerStatuses[0].state.waiting"];
    scene.cluster.eventually(&format!("{pod} waits with {reasons:?}"), || {
        statuses.iter().find_map(|path| {
            let reason = scene.at(&format!("pod/{pod}"), &format!("{path}.reason"));
            reasons.contains(&reason.as_str()).then(|| scene.at(&format!("pod/{pod}"), &format!("{path}.message")))
        })
    })
}

fn event(scene: &Scene, pod: &str, reason: &str, words: &str) {
    scene.cluster.eventually(&format!("an event {reason} that says {words:?}"), || {
        let listed = scene.kubectl(["get", "events", "--field-selector", &format!("involvedObject.name={pod},reason={reason}"), "-o", "custom-columns=M:.message", "--no-headers"]);
        listed.contains(words).then_some(())
    });
}

fn start(scene: &Scene, name: &str, container: &str) {
    scene.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec: {{ terminationGracePeriodSeconds: 0, containers: [{{ name: main, {container} }}] }}\n"
    ));
}

#[test]
fn images_that_cannot_be_had_are_named() {
    let scene = scene("images");
    start(&scene, "missing", "image: nobody-has-this:1");
    waits_with(&scene, "missing", &["ErrImagePull", "ImagePullBackOff"]);
    event(&scene, "missing", "Failed", "Failed to pull image \"nobody-has-this:1\"");
    event(&scene, "missing", "Failed", "Error: ErrImagePull");
    waits_with(&scene, "missing", &["ImagePullBackOff"]);
    event(&scene, "missing", "BackOff", "Back-off pulling image \"nobody-has-this:1\"");
    event(&scene, "missing", "Failed", "Error: ImagePullBackOff");
    assert!(scene.k("get pod missing").contains("ImagePullBackOff"));

    start(&scene, "misspelt", "image: 'Not An Image'");
    let message = waits_with(&scene, "misspelt", &["InvalidImageName"]);
    assert!(message.contains("couldn't parse image name \"Not An Image\""), "{message}");
    event(&scene, "misspelt", "InspectFailed", "Failed to apply default image tag \"Not An Image\"");

    start(&scene, "never", "image: 'busybox:never-pulled', imagePullPolicy: Never");
    waits_with(&scene, "never", &["ErrImageNeverPull"]);
    event(&scene, "never", "ErrImageNeverPull", "Container image \"busybox:never-pulled\" is not present with pull policy of Never");
}

#[test]
fn containers_that_cannot_be_made_or_started_say_why() {
    let scene = scene("starts");
    start(&scene, "no-map", "image: 'busybox:1', env: [{ name: A, valueFrom: { configMapKeyRef: { name: none, key: a } } }]");
    assert_eq!(waits_with(&scene, "no-map", &["CreateContainerConfigError"]), "configmap \"none\" not found");
    event(&scene, "no-map", "Failed", "Error: configmap \"none\" not found");
    scene.k("create configmap none --from-literal=b=c");
    scene.cluster.eventually("the key is missed", || {
        (scene.at("pod/no-map", ".status.containerStatuses[0].state.waiting.message") == "couldn't find key a in ConfigMap starts/none").then_some(())
    });
    scene.kubectl(["patch", "configmap", "none", "-p", r#"{"data":{"a":"here"}}"#]);
    start(&scene, "no-secret", "image: 'busybox:1', envFrom: [{ secretRef: { name: none } }]");
    assert_eq!(waits_with(&scene, "no-secret", &["CreateContainerConfigError"]), "secret \"none\" not found");
    start(&scene, "root", "image: 'busybox:1', securityContext: { runAsNonRoot: true }");
    let message = waits_with(&scene, "root", &["CreateContainerConfigError"]);
    assert!(message.contains("container has runAsNonRoot and image will run as root"), "{message}");

    start(&scene, "no-program", "image: 'busybox:1', command: [no-such-program]");
    waits_with(&scene, "no-program", &["RunContainerError", "CrashLoopBackOff"]);
    assert_eq!(scene.at("pod/no-program", ".status.containerStatuses[0].lastState.terminated.reason"), "StartError");
    assert_eq!(scene.at("pod/no-program", ".status.containerStatuses[0].lastState.terminated.exitCode"), "128");
    event(&scene, "no-program", "Failed", "no-such-program");
}

#[test]
fn containers_that_end_are_restarted_ever_later() {
    let scene = scene("ends");
    start(&scene, "crashes", "image: 'busybox:1', command: [sh, -c, 'echo why > /dev/termination-log; exit 7']");
    let message = waits_with(&scene, "crashes", &["CrashLoopBackOff"]);
    assert!(message.starts_with("back-off 10s restarting failed container=main pod=crashes_ends("), "{message}");
    assert_eq!(scene.at("pod/crashes", ".status.containerStatuses[0].lastState.terminated.exitCode"), "7");
    assert_eq!(scene.at("pod/crashes", ".status.containerStatuses[0].lastState.terminated.message"), "why\n");
    event(&scene, "crashes", "BackOff", "Back-off restarting failed container main in pod crashes_ends(");
    assert!(scene.k("get pod crashes").contains("CrashLoopBackOff"));
}

#[test]
fn pods_that_fit_nowhere_and_volumes_that_are_not_there_say_so() {
    let scene = scene("waits");
    scene.apply("apiVersion: v1\nkind: Pod\nmetadata: { name: nowhere }\nspec: { nodeSelector: { no: where }, containers: [{ name: main, image: 'busybox:1' }] }\n");
    event(&scene, "nowhere", "FailedScheduling", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector");
    assert_eq!(scene.at("pod/nowhere", ".status.conditions[?(@.type=='PodScheduled')].reason"), "Unschedulable");
    scene.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: no-volume }\nspec: { terminationGracePeriodSeconds: 0, containers: [{ name: main, image: 'busybox:1', command: [sleep, '1000'], volumeMounts: [{ name: v, mountPath: /v }] }], volumes: [{ name: v, configMap: { name: late } }] }\n",
    );
    event(&scene, "no-volume", "FailedMount", "MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found");
    scene.k("create configmap late --from-literal=a=b");
    scene.ready("no-volume");
}
