//! Unmodified clients against the built binary: kubectl of today and of old, helm, the clients for Python and
//! JavaScript. All share one cluster of one
//! node, each test in a namespace of its own.

mod access;
mod configuration;
mod containers;
mod helm;
mod javascript;
mod kubectl_more;
mod kubectl_objects;
mod kubectl_pods;
mod kubectl_workloads;
mod old_kubectl;
mod python;
mod terminals;
mod trouble;

use std::path::PathBuf;

use testkit::{RealCluster, Scene, image, real_cluster::Settings, registry::Registry};

/// A namespace for a test, in a cluster that has busybox.
fn scene(namespace: &str) -> Scene {
    Scene::open(namespace, || {
        let busybox = image::busybox();
        let registry = Registry::serve(&[("library/busybox", "1", &busybox)]);
        let binary = std::env::var_os("KNARR_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_knarr").into(), PathBuf::from);
        RealCluster::start(&Settings { binary: &binary, registry: Some(&registry), control_plane_only: false })
    })
}

/// A pod whose program listens on port 8080: it is Ready when it does, and has said what it says before.
fn server(name: &str, script: &str) -> String {
    pod(name, script).replace("command:", "readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }, command:")
}

/// A pod that runs a shell script.
fn pod(name: &str, script: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{ name: main, image: "busybox:1", command: [sh, -c, {script:?}] }}]
"#
    )
}
