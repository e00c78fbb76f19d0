//! Data that outlive their pods: the built binary, real pods and the real kubectl, as root.

use std::path::PathBuf;

use testkit::{RealCluster, image, real_cluster::Settings, registry::Registry};

/// The binary under test: cargo's, or another build that `KNARR_BINARY` names.
fn binary() -> PathBuf {
    std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from)
}

/// Each start of a pod adds a line to a file in the volume.
const JOURNAL: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: journal }
spec:
  serviceName: journal
  replicas: 2
  selector: { matchLabels: { app: journal } }
  persistentVolumeClaimRetentionPolicy: { whenScaled: Delete, whenDeleted: Retain }
  template:
    metadata: { labels: { app: journal } }
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: { runAsUser: 1000, fsGroup: 2000 }
      containers:
      - name: writer
        image: busybox:1
        command: ["sh", "-c", "echo $HOSTNAME >> /data/starts; exec sleep 100000"]
        volumeMounts: [{ name: data, mountPath: /data }]
  volumeClaimTemplates:
  - metadata: { name: data }
    spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 10Mi } } }
"#;

#[test]
fn a_stateful_set_finds_its_data_again_and_leaves_them_until_its_claims_go() {
    let busybox = image::busybox();
    let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
    let mut cluster = RealCluster::start(&Settings { binary: &binary(), registry: Some(&registry), control_plane_only: false });
    cluster.apply(JOURNAL);
    cluster.kubectl(["rollout", "status", "statefulset/journal", "--timeout=180s"]);
    let starts = |cluster: &RealCluster, pod: &str| cluster.kubectl(["exec", pod, "--", "cat", "/data/starts"]);
    assert_eq!(starts(&cluster, "journal-1"), "journal-1\n");

    // A new pod of the same name, after the old one went and while the server was away.
    cluster.kubectl(["delete", "pod", "journal-1"]);
    cluster.kubectl(["wait", "--for=condition=Ready", "pod/journal-1", "--timeout=180s"]);
    assert_eq!(starts(&cluster, "journal-1"), "journal-1\njournal-1\n");
    cluster.kill_server();
    cluster.start_server();
    assert_eq!(starts(&cluster, "journal-0"), "journal-0\n");

    // The claim of a pod that is not wanted any more goes, as the set says; the others stay even without the set.
    cluster.kubectl(["scale", "statefulset/journal", "--replicas=1"]);
    cluster.kubectl(["wait", "--for=delete", "pvc/data-journal-1", "--timeout=180s"]);
    cluster.kubectl(["delete", "statefulset/journal"]);
    assert_eq!(cluster.kubectl(["get", "pvc", "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.phase}"]), "data-journal-0 Bound");
    cluster.apply(JOURNAL);
    cluster.kubectl(["rollout", "status", "statefulset/journal", "--timeout=180s"]);
    assert_eq!(starts(&cluster, "journal-0"), "journal-0\njournal-0\n");
    assert_eq!(starts(&cluster, "journal-1"), "journal-1\n", "its data went with its claim");
    cluster.kubectl(["delete", "statefulset/journal"]);
    cluster.kubectl(["delete", "pvc", "--all"]);
    cluster.eventually("the volumes go with their claims", || cluster.try_kubectl(["get", "pv", "-o", "name"]).filter(String::is_empty));
}
