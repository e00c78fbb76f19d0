//! What the scheduler keeps of a large cluster, measured in a process of its own: the growth of its resident memory.

use std::sync::Arc;

use api::core::v1::{Node, Pod};
use scheduler::{cluster::Cluster, pod_info::PodInfo};
use serde_json::json;

const NODES: usize = 5_000;
const PODS: usize = 30_000;
/// Pods of one controller.
const GROUP: usize = 100;

fn resident_kibibytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// A pod as the API server gives it back: with what admission and defaults add, and bound to a node.
fn bound_pod(number: usize) -> Pod {
    let group = number / GROUP;
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("web-{group:06}-{number:06}"), "namespace": "default", "uid": format!("2b1d2c1e-0000-4000-8000-{number:012}"),
            "labels": {"app": format!("web-{group}"), "pod-template-hash": format!("{group:010}"), "app.kubernetes.io/part-of": "bench"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("web-{group}"), "uid": format!("7f1d2c1e-0000-4000-8000-{group:012}"), "controller": true}],
        },
        "spec": {
            "nodeName": format!("node-{}", number % NODES), "schedulerName": "default-scheduler", "priority": 0, "nodeSelector": {"kubernetes.io/os": "linux"},
            "containers": [{"name": "main", "image": "registry.example/web:1.0", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}],
            "tolerations": [toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": format!("web-{group}")}}}],
        },
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"},
    }))
    .expect("a pod")
}

#[test]
fn a_pod_that_has_its_node_costs_about_a_kibibyte() {
    let mut cluster = Cluster::default();
    let before = resident_kibibytes();
    for number in 0..NODES {
        let labels = json!({"kubernetes.io/hostname": format!("node-{number}"), "topology.kubernetes.io/zone": format!("zone-{}", number % 3)});
        let node = json!({"metadata": {"name": format!("node-{number}"), "labels": labels}, "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}}});
        cluster.apply_node(&serde_json::from_value::<Node>(node).expect("a node"));
    }
    let nodes = resident_kibibytes().saturating_sub(before);
    for number in 0..PODS {
        let mut info = PodInfo::of(&bound_pod(number));
        cluster.share_labels(&mut info);
        let name = info.node_name.clone();
        cluster.place(Arc::new(info), &name);
    }
    let pods = resident_kibibytes().saturating_sub(before + nodes);
    let each = pods * 1024 / PODS;
    println!("{NODES} nodes: {} KiB; {PODS} pods: {pods} KiB, {each} bytes each; 150,000 would be {} MiB", nodes, each * 150_000 / 1024 / 1024);
    assert_eq!(cluster.nodes().map(|node| node.pods.len()).sum::<usize>(), PODS);
    assert!(each <= 1280, "{each} bytes a pod");
}
