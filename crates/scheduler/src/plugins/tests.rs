//! Tables: a cluster, a pod, and the node it goes to or the reasons why it goes nowhere.

use std::sync::Arc;

use api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::{cluster::Cluster, decision::decide, framework::PodInfo, plugins::default_profile};

fn node(name: &str, extra: Value) -> Node {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    merge(&mut value, extra);
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, extra: Value) -> Arc<PodInfo> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]},
    });
    merge(&mut value, extra);
    Arc::new(PodInfo::of(&serde_json::from_value::<Pod>(value).unwrap()))
}

fn merge(into: &mut Value, from: Value) {
    meta::patch::merge_patch(into, &from);
}

fn cluster(nodes: &[Node], placed: &[(&str, Arc<PodInfo>)]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.apply_node(node);
    }
    for (node, pod) in placed {
        cluster.place(pod.clone(), node);
    }
    cluster
}

#[track_caller]
fn check(cluster: &Cluster, pod: &PodInfo, expected: &str) {
    let answer = decide(&default_profile(), pod, cluster).unwrap_or_else(|refusal| refusal.message());
    assert_eq!(answer, expected);
}

#[test]
fn without_nodes_nothing_can_be_scheduled() {
    check(&cluster(&[], &[]), &pod("p", json!({})), "no nodes available to schedule pods");
}

#[test]
fn a_pod_goes_where_its_requests_fit() {
    let nodes = [node("a", json!({"status": {"allocatable": {"cpu": "1"}}})), node("b", json!({}))];
    let big = pod("big", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}}));
    check(&cluster(&nodes, &[]), &big, "b");
    check(&cluster(&nodes, &[("b", big.clone())]), &pod("p", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1200m"}}}]}})), "0/2 nodes are available: 2 Insufficient cpu.");
}

#[test]
fn an_extended_resource_no_node_has_is_refused() {
    let wants = pod("p", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}}));
    check(&cluster(&[node("a", json!({}))], &[]), &wants, "0/1 nodes are available: 1 Insufficient example.com/gpu.");
}

#[test]
fn cordoned_and_tainted_nodes_are_refused_unless_tolerated() {
    let nodes = [node("a", json!({"spec": {"unschedulable": true}})), node("b", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}))];
    let cluster = cluster(&nodes, &[]);
    check(&cluster, &pod("p", json!({})), "0/2 nodes are available: 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable.");
    check(&cluster, &pod("p", json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}})), "b");
}

#[test]
fn selectors_and_affinity_pick_nodes() {
    let nodes = [node("a", json!({"metadata": {"labels": {"disk": "ssd"}}})), node("b", json!({}))];
    let cluster = cluster(&nodes, &[]);
    check(&cluster, &pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}}})), "a");
    check(&cluster, &pod("p", json!({"spec": {"nodeSelector": {"disk": "tape"}}})), "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.");
    let required = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}]});
    check(&cluster, &pod("p", json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}})), "b");
}

#[test]
fn a_host_port_is_had_once() {
    let with_port = |name: &str| pod(name, json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}}));
    let nodes = [node("a", json!({}))];
    check(&cluster(&nodes, &[("a", with_port("q"))]), &with_port("p"), "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
}

#[test]
fn anti_affinity_works_both_ways() {
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let shy = |name: &str| pod(name, json!({"spec": {"affinity": apart}}));
    check(&cluster(&nodes, &[("a", shy("q"))]), &shy("p"), "b");
    check(&cluster(&nodes, &[("a", shy("q"))]), &pod("p", json!({})), "b");
}

#[test]
fn the_first_of_a_group_that_wants_company_goes_anywhere() {
    let together = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let social = |name: &str| pod(name, json!({"spec": {"affinity": together}}));
    assert!(decide(&default_profile(), &social("p"), &cluster(&nodes, &[])).is_ok());
    check(&cluster(&nodes, &[("b", social("q"))]), &social("p"), "b");
}

#[test]
fn hard_spreading_keeps_the_skew() {
    let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let even = |name: &str| pod(name, json!({"spec": {"topologySpreadConstraints": spread}}));
    check(&cluster(&nodes, &[("a", even("q"))]), &even("p"), "b");
}

#[test]
fn siblings_spread_over_nodes_without_being_told() {
    let owned = |name: &str| pod(name, json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}}));
    let nodes = [node("a", json!({})), node("b", json!({}))];
    check(&cluster(&nodes, &[("a", owned("q"))]), &owned("p"), "b");
}
