//! Images from Debian's docker-registry, through a mirror of `registries.yaml`: by tag and by digest, with right and with wrong
//! credentials, while the registry is slow or breaks off.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use testkit::{
    RealCluster,
    debian_registry::{DebianRegistry, Manner, Relay, USER},
    image,
    real_cluster::Settings,
    registry::Registry,
};

/// A registry that exists in `registries.yaml` only.
const HOST: &str = "registry.example";

fn pod(name: &str, image: &str, secret: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{{ name: {secret} }}]
  containers: [{{ name: main, image: "{HOST}/{image}", command: [sleep, "1000"] }}]
"#
    )
}

/// Reason and message of a container that waits with one of these reasons.
fn waits(cluster: &RealCluster, pod: &str, reasons: &[&str]) -> String {
    cluster.eventually(&format!("{pod} waits with one of {reasons:?}"), || {
        let waiting = ["reason", "message"].map(|field| cluster.kubectl(["get", "pod", pod, "-o", &format!("jsonpath={{.status.containerStatuses[0].state.waiting.{field}}}")]));
        reasons.contains(&waiting[0].as_str()).then(|| waiting.join(": "))
    })
}

fn events(cluster: &RealCluster, pod: &str) -> String {
    cluster.kubectl(["get", "events", "--field-selector", &format!("involvedObject.name={pod}"), "-o", "jsonpath={range .items[*]}{.type} {.reason} {.message}{\"\\n\"}{end}"])
}

fn event(cluster: &RealCluster, pod: &str, line: &str) {
    cluster.eventually(&format!("an event of {pod}: {line}"), || events(cluster, pod).lines().any(|event| event.starts_with(line)).then_some(()));
}

#[test]
fn images_come_from_a_registry_that_asks_for_credentials_and_is_slow_or_breaks_off() {
    let registry = DebianRegistry::start();
    let relay = Relay::before(&registry);
    let digest = registry.push("team/app", "1", &image::busybox());
    for name in ["cut", "slow"] {
        registry.push(&format!("team/{name}"), "1", &image::busybox_with(&[(name, name.as_bytes())]));
    }
    let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
    let cluster = RealCluster::start(&Settings { binary: &binary, registry: Some(&Registry::at(&relay.address)), control_plane_only: false });
    let secret = |name: &str, password: &str| {
        cluster.kubectl(["create", "secret", "docker-registry", name, &format!("--docker-server={HOST}"), &format!("--docker-username={}", USER.0), &format!("--docker-password={password}")]);
    };
    let ready = |pod: &str| cluster.kubectl(["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=180s"]);

    // Without credentials, and with wrong ones, in upstream's words.
    secret("wrong", "guessed");
    for (name, secret) in [("stranger", "none"), ("guesser", "wrong")] {
        cluster.apply(&pod(name, "team/app:1", secret));
        event(&cluster, name, &format!("Normal Pulling Pulling image \"{HOST}/team/app:1\""));
        event(&cluster, name, &format!("Warning Failed Failed to pull image \"{HOST}/team/app:1\": "));
        event(&cluster, name, "Warning Failed Error: ErrImagePull");
        let message = waits(&cluster, name, &["ErrImagePull", "ImagePullBackOff"]);
        assert!(message.contains("pull access denied, repository does not exist or may require authorization: "), "{message}");
        let message = waits(&cluster, name, &["ImagePullBackOff"]);
        assert!(message.contains(&format!("Back-off pulling image \"{HOST}/team/app:1\": ErrImagePull: ")), "{message}");
        event(&cluster, name, &format!("Normal BackOff Back-off pulling image \"{HOST}/team/app:1\""));
        event(&cluster, name, "Warning Failed Error: ImagePullBackOff");
    }

    // With the right ones by tag, and by digest. What nobody has is told apart from what one may not see.
    secret("right", USER.1);
    cluster.apply(&pod("by-tag", "team/app:1", "right"));
    cluster.apply(&pod("by-digest", &format!("team/app@{digest}"), "right"));
    for name in ["by-tag", "by-digest"] {
        ready(name);
        let id = cluster.kubectl(["get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].imageID}"]);
        assert_eq!(id, format!("{HOST}/team/app@{digest}"), "{name}");
        event(&cluster, name, "Normal Pulled ");
    }
    // That it is on the node now is nothing for those who may not have it.
    cluster.apply(&pod("thief", "team/app:1", "none"));
    let message = waits(&cluster, "thief", &["ErrImagePull", "ImagePullBackOff"]);
    assert!(message.contains("pull access denied"), "{message}");
    cluster.apply(&pod("missing", "team/nothing:1", "right"));
    let message = waits(&cluster, "missing", &["ErrImagePull", "ImagePullBackOff"]);
    assert!(message.contains("not found"), "{message}");

    // A secret that is put right is enough for a pod that waits.
    cluster.kubectl(["delete", "secret", "wrong"]);
    secret("wrong", USER.1);
    ready("guesser");

    // A registry that breaks off, until it does not.
    relay.behave(Manner::CutAfter(300_000));
    cluster.apply(&pod("cut", "team/cut:1", "right"));
    let message = waits(&cluster, "cut", &["ErrImagePull", "ImagePullBackOff"]);
    println!("a registry that breaks off: {message}");
    event(&cluster, "cut", &format!("Warning Failed Failed to pull image \"{HOST}/team/cut:1\": "));
    relay.behave(Manner::Well);
    ready("cut");

    // A slow one holds up its own pod only.
    relay.behave(Manner::BytesPerTenth(16 * 1024));
    cluster.apply(&pod("slow", "team/slow:1", "right"));
    event(&cluster, "slow", "Normal Pulling ");
    let started = Instant::now();
    cluster.apply(&pod("quick", "team/app:1", "right").replace("command:", "imagePullPolicy: IfNotPresent, command:"));
    ready("quick");
    let quick = started.elapsed();
    assert_eq!(cluster.kubectl(["get", "pod", "slow", "-o", "jsonpath={.status.phase}"]), "Pending");
    cluster.kubectl(["delete", "pod", "quick", "--timeout=180s"]);
    ready("slow");
    assert!(started.elapsed() > Duration::from_secs(5), "the registry was not slow");
    println!("while an image came in {:.1} s, another pod was ready after {:.1} s", started.elapsed().as_secs_f64(), quick.as_secs_f64());
    assert_eq!(cluster.kubectl(["exec", "slow", "--", "cat", "/slow"]), "slow");
}
