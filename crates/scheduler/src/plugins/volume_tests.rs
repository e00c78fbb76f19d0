//! Tables of claims, volumes and nodes.

use std::sync::Arc;

use api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use client::ObjectKey;
use serde_json::{Value, json};

use crate::{cluster::Cluster, decision::decide, plugins::default_profile, pod_info::PodInfo};

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": name}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
        cluster.apply_node(&serde_json::from_value(node).unwrap());
    }
    for (name, mode, provisioner) in [("now", "Immediate", "x"), ("later", "WaitForFirstConsumer", "x"), ("local", "WaitForFirstConsumer", "kubernetes.io/no-provisioner")] {
        let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
        cluster.volumes.classes.insert(name.to_owned(), Arc::new(serde_json::from_value(class).unwrap()));
    }
    cluster
}

fn claim(cluster: &mut Cluster, class: &str, volume: &str, mode: &str) {
    let claim = json!({
        "metadata": {"name": "data", "namespace": "n"},
        "spec": {"storageClassName": class, "volumeName": volume, "accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": if volume.is_empty() { "Pending" } else { "Bound" }},
    });
    cluster.volumes.claims.insert(ObjectKey::namespaced("n", "data"), Arc::new(serde_json::from_value::<PersistentVolumeClaim>(claim).unwrap()));
}

fn volume(cluster: &mut Cluster, name: &str, node: &str, extra: Value) {
    let mut volume = json!({
        "metadata": {"name": name},
        "spec": {"storageClassName": "local", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "nodeAffinity": {"required": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}},
        "status": {"phase": "Available"},
    });
    meta::patch::merge_patch(&mut volume, &extra);
    cluster.volumes.volumes.insert(name.to_owned(), Arc::new(serde_json::from_value::<PersistentVolume>(volume).unwrap()));
}

fn pod(name: &str) -> Arc<PodInfo> {
    let pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    Arc::new(PodInfo::of(&serde_json::from_value::<Pod>(pod).unwrap()))
}

#[track_caller]
fn check(cluster: &mut Cluster, expected: &str) {
    let answer = decide(&default_profile(), &pod("p"), cluster, &mut 0).map(|slot| cluster.at(slot).unwrap().name.clone());
    assert_eq!(answer.unwrap_or_else(|refusal| refusal.message()), expected);
}

#[test]
fn a_claim_that_is_missing_or_has_no_volume_yet_holds_its_pod_back() {
    let mut cluster = cluster();
    check(&mut cluster, "0/2 nodes are available: persistentvolumeclaim \"data\" not found.");
    claim(&mut cluster, "now", "", "ReadWriteOnce");
    check(&mut cluster, "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.");
}

#[test]
fn a_pod_goes_where_its_volume_is() {
    let mut cluster = cluster();
    claim(&mut cluster, "local", "disk", "ReadWriteOnce");
    volume(&mut cluster, "disk", "b", json!({}));
    check(&mut cluster, "b");
    volume(&mut cluster, "disk", "c", json!({}));
    check(&mut cluster, "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.");
    volume(&mut cluster, "disk", "b", json!({"spec": {"nodeAffinity": null}, "metadata": {"labels": {"topology.kubernetes.io/zone": "a"}}}));
    check(&mut cluster, "a");
}

#[test]
fn a_claim_that_waits_gets_a_volume_where_there_is_one() {
    let mut cluster = cluster();
    claim(&mut cluster, "local", "", "ReadWriteOnce");
    check(&mut cluster, "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.");
    volume(&mut cluster, "small", "a", json!({"spec": {"capacity": {"storage": "1Mi"}}}));
    volume(&mut cluster, "disk", "b", json!({}));
    check(&mut cluster, "b");
    cluster.volumes.reserved.insert("disk".to_owned(), ObjectKey::namespaced("n", "other"));
    check(&mut cluster, "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.");
}

#[test]
fn a_reserved_volume_decides_and_a_volume_that_is_being_made_too() {
    let mut cluster = cluster();
    claim(&mut cluster, "local", "", "ReadWriteOnce");
    let nothing = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    volume(&mut cluster, "disk", "a", json!({"status": {"phase": "Released"}}));
    check(&mut cluster, nothing);
    volume(&mut cluster, "disk", "a", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    check(&mut cluster, nothing);
    volume(&mut cluster, "disk", "a", json!({"spec": {"volumeAttributesClassName": "gold"}}));
    check(&mut cluster, nothing);
    volume(&mut cluster, "disk", "a", json!({}));
    check(&mut cluster, "a");
    // One that is reserved for the claim is taken though another one would do, and decides where the pod goes.
    volume(&mut cluster, "mine", "b", json!({"spec": {"claimRef": {"namespace": "n", "name": "data"}, "capacity": {"storage": "9Gi"}}}));
    check(&mut cluster, "b");
    // Of another claim of that name it is not.
    volume(&mut cluster, "mine", "b", json!({"spec": {"claimRef": {"namespace": "n", "name": "data", "uid": "other"}}}));
    check(&mut cluster, "a");
    claim(&mut cluster, "later", "", "ReadWriteOnce");
    let key = ObjectKey::namespaced("n", "data");
    let mut selected = PersistentVolumeClaim::clone(&cluster.volumes.claims[&key]);
    selected.metadata.annotations = Some([("volume.kubernetes.io/selected-node".to_owned(), "b".to_owned())].into());
    cluster.volumes.claims.insert(key, Arc::new(selected));
    check(&mut cluster, "b");
    cluster.delete_node("b");
    check(&mut cluster, "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.");
}

#[test]
fn a_claim_of_an_ephemeral_volume_is_the_pods_own() {
    let mut cluster = cluster();
    let own = json!({"metadata": {"name": "p", "namespace": "n", "uid": "p"}, "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "ephemeral": {}}]}});
    let own = Arc::new(PodInfo::of(&serde_json::from_value::<Pod>(own).unwrap()));
    let why = |cluster: &mut Cluster| decide(&default_profile(), &own, cluster, &mut 0).map_or_else(|refusal| refusal.message(), |_| "it fits".to_owned());
    assert_eq!(why(&mut cluster), "0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\".");
    for (owner, phase, going, expected) in [
        ("q", "Pending", false, "0/2 nodes are available: PVC n/p-v was not created for pod n/p (pod is not owner)."),
        ("p", "Pending", false, "it fits"),
        ("p", "Pending", true, "0/2 nodes are available: persistentvolumeclaim \"p-v\" is being deleted."),
        ("p", "Lost", true, "0/2 nodes are available: persistentvolumeclaim \"p-v\" bound to non-existent persistentvolume \"w\"."),
    ] {
        let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
        let claim = json!({
            "metadata": {"name": "p-v", "namespace": "n", "ownerReferences": owners, "deletionTimestamp": if going { json!("2026-01-01T00:00:00Z") } else { json!(null) }},
            "spec": {"storageClassName": "later", "volumeName": if phase == "Lost" { "w" } else { "" }, "accessModes": ["ReadWriteOnce"]},
            "status": {"phase": phase},
        });
        cluster.volumes.claims.insert(ObjectKey::namespaced("n", "p-v"), Arc::new(serde_json::from_value(claim).unwrap()));
        assert_eq!(why(&mut cluster), expected);
    }
}

#[test]
fn a_node_that_says_nothing_of_its_zone_is_in_any() {
    let mut cluster = cluster();
    claim(&mut cluster, "local", "disk", "ReadWriteOnce");
    let in_zone = |label: &str, value: &str| json!({"spec": {"nodeAffinity": null}, "metadata": {"labels": {label: value}}});
    volume(&mut cluster, "disk", "a", in_zone("failure-domain.beta.kubernetes.io/zone", "x__ b"));
    check(&mut cluster, "b");
    volume(&mut cluster, "disk", "a", in_zone("topology.kubernetes.io/zone", "x"));
    check(&mut cluster, "0/2 nodes are available: 2 node(s) had no available volume zone.");
    cluster.apply_node(&serde_json::from_value(json!({"metadata": {"name": "c"}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}})).unwrap());
    check(&mut cluster, "c");
}

#[test]
fn a_claim_of_one_pod_serves_one_pod() {
    let mut cluster = cluster();
    claim(&mut cluster, "local", "disk", "ReadWriteOncePod");
    volume(&mut cluster, "disk", "a", json!({"spec": {"nodeAffinity": null}}));
    cluster.place(pod("q"), "a");
    check(&mut cluster, "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.");
    cluster.remove("q");
    assert!(decide(&default_profile(), &pod("p"), &mut cluster, &mut 0).is_ok());
}

#[test]
fn a_node_attaches_only_so_many_volumes_of_a_driver() {
    let mut cluster = cluster();
    claim(&mut cluster, "later", "disk", "ReadWriteOnce");
    volume(&mut cluster, "disk", "a", json!({"spec": {"csi": {"driver": "d", "volumeHandle": "h"}}}));
    let attachable = json!({"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "d", "nodeID": "a", "allocatable": {"count": 0}}]}});
    check(&mut cluster, "a");
    cluster.volumes.attachable.insert("a".to_owned(), Arc::new(serde_json::from_value(attachable).unwrap()));
    check(&mut cluster, "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) exceed max volume count.");
}
