//! Tables: a cluster, a pod, and the node it goes to or the reasons why it goes nowhere.

use std::sync::Arc;

use api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    decision::{Refusal, decide},
    plugins::default_profile,
    pod_info::PodInfo,
};

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
fn check(cluster: &mut Cluster, pod: &Arc<PodInfo>, expected: &str) {
    assert_eq!(answer(cluster, pod).unwrap_or_else(|refusal| refusal.message()), expected);
}

fn answer(cluster: &mut Cluster, pod: &Arc<PodInfo>) -> Result<String, Refusal> {
    decide(&default_profile(), pod, cluster, &mut 0).map(|slot| cluster.at(slot).unwrap().name.clone())
}

#[test]
fn without_nodes_nothing_can_be_scheduled() {
    check(&mut cluster(&[], &[]), &pod("p", json!({})), "no nodes available to schedule pods");
}

#[test]
fn a_pod_goes_where_its_requests_fit() {
    let nodes = [node("a", json!({"status": {"allocatable": {"cpu": "1"}}})), node("b", json!({}))];
    let big = pod("big", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}}));
    check(&mut cluster(&nodes, &[]), &big, "b");
    check(&mut cluster(&nodes, &[("b", big.clone())]), &pod("p", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1200m"}}}]}})), "0/2 nodes are available: 2 Insufficient cpu.");
}

#[test]
fn an_extended_resource_no_node_has_is_refused() {
    let wants = pod("p", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}}));
    check(&mut cluster(&[node("a", json!({}))], &[]), &wants, "0/1 nodes are available: 1 Insufficient example.com/gpu.");
}

#[test]
fn cordoned_and_tainted_nodes_are_refused_unless_tolerated() {
    let nodes = [node("a", json!({"spec": {"unschedulable": true}})), node("b", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}))];
    let mut cluster = cluster(&nodes, &[]);
    check(&mut cluster, &pod("p", json!({})), "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.");
    check(&mut cluster, &pod("p", json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}})), "b");
}

#[test]
fn selectors_and_affinity_pick_nodes() {
    let nodes = [node("a", json!({"metadata": {"labels": {"disk": "ssd"}}})), node("b", json!({}))];
    let mut cluster = cluster(&nodes, &[]);
    check(&mut cluster, &pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}}})), "a");
    check(&mut cluster, &pod("p", json!({"spec": {"nodeSelector": {"disk": "tape"}}})), "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.");
    let required = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}]});
    check(&mut cluster, &pod("p", json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}})), "b");
}

#[test]
fn a_pod_for_named_nodes_is_not_judged_by_others() {
    let nodes = [node("a", json!({"status": {"allocatable": {"cpu": "1"}}})), node("b", json!({"spec": {"unschedulable": true}})), node("c", json!({}))];
    let mut cluster = cluster(&nodes, &[]);
    let named = |lists: Value, cpu: &str| {
        let terms: Vec<Value> = lists.as_array().unwrap().iter().map(|fields| {
            let fields: Vec<Value> = fields.as_array().unwrap().iter().map(|names| json!({"key": "metadata.name", "operator": "In", "values": names})).collect();
            json!({"matchFields": fields})
        }).collect();
        pod("p", json!({"spec": {
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
        }}))
    };
    check(&mut cluster, &named(json!([[["a"]]]), "500m"), "a");
    check(&mut cluster, &named(json!([[["a"]]]), "1500m"), "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].");
    check(&mut cluster, &named(json!([[["a", "b"], ["b", "c"]]]), "500m"), "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].");
    check(&mut cluster, &named(json!([[["a"]], [["c"]]]), "1500m"), "c");
    check(&mut cluster, &named(json!([[["gone"]]]), "500m"), "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity].");
    check(&mut cluster, &named(json!([[["a"], ["c"]]]), "500m"), "0/3 nodes are available: pod affinity terms conflict.");
}

#[test]
fn a_host_port_is_had_once() {
    let with_port = |name: &str| pod(name, json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}}));
    let nodes = [node("a", json!({}))];
    check(&mut cluster(&nodes, &[("a", with_port("q"))]), &with_port("p"), "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
    let at = |name: &str, ip: &str| pod(name, json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}}));
    for (one, other, fits) in [("0.0.0.0", "10.0.0.1", false), ("", "::", false), ("::", "10.0.0.1", true), ("10.0.0.2", "10.0.0.1", true), ("::", "::", false)] {
        assert_eq!(answer(&mut cluster(&nodes, &[("a", at("q", one))]), &at("p", other)).is_ok(), fits, "{one} {other}");
    }
}

#[test]
fn anti_affinity_works_both_ways() {
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let shy = |name: &str| pod(name, json!({"spec": {"affinity": apart}}));
    check(&mut cluster(&nodes, &[("a", shy("q"))]), &shy("p"), "b");
    check(&mut cluster(&nodes, &[("a", shy("q"))]), &pod("p", json!({})), "b");
}

#[test]
fn the_first_of_a_group_that_wants_company_goes_anywhere() {
    let together = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let social = |name: &str| pod(name, json!({"spec": {"affinity": together}}));
    assert!(answer(&mut cluster(&nodes, &[]), &social("p")).is_ok());
    check(&mut cluster(&nodes, &[("b", social("q"))]), &social("p"), "b");
}

#[test]
fn hard_spreading_keeps_the_skew() {
    let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let even = |name: &str| pod(name, json!({"spec": {"topologySpreadConstraints": spread}}));
    check(&mut cluster(&nodes, &[("a", even("q"))]), &even("p"), "b");
}

#[test]
fn siblings_spread_over_nodes_without_being_told() {
    let owned = |name: &str| pod(name, json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}}));
    let nodes = [node("a", json!({})), node("b", json!({}))];
    check(&mut cluster(&nodes, &[("a", owned("q"))]), &owned("p"), "b");
}

#[test]
fn a_host_port_of_one_address_leaves_the_others() {
    let on = |name: &str, ip: &str, protocol: &str| {
        pod(name, json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}}))
    };
    let refusal = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    let mut cluster = cluster(&[node("a", json!({}))], &[("a", on("q", "127.0.0.1", "TCP"))]);
    check(&mut cluster, &on("p", "127.0.0.2", "TCP"), "a");
    check(&mut cluster, &on("p", "127.0.0.1", "UDP"), "a");
    check(&mut cluster, &on("p", "0.0.0.0", "TCP"), refusal);
    check(&mut cluster, &on("p", "", "TCP"), refusal);
}

#[test]
fn every_resource_that_is_short_is_named() {
    let mut cluster = cluster(&[node("a", json!({"status": {"allocatable": {"cpu": "100m", "memory": "1Mi"}}}))], &[]);
    let big = pod("p", json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}}));
    check(&mut cluster, &big, "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.");
}

#[test]
fn sidecars_init_containers_overhead_and_requests_of_the_whole_pod_count() {
    let requests = |extra: Value| pod("p", json!({"spec": extra})).requests.cpu_millis;
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    let containers = json!([{"name": "c", "resources": cpu("500m")}]);
    let init = json!([{"name": "s", "restartPolicy": "Always", "resources": cpu("200m")}, {"name": "i", "resources": cpu("1")}]);
    assert_eq!(requests(json!({"containers": containers, "initContainers": init})), 1200);
    assert_eq!(requests(json!({"containers": containers, "overhead": {"cpu": "50m"}})), 550);
    assert_eq!(requests(json!({"containers": containers, "resources": cpu("2")})), 2000);
}

fn spread(extra: Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
    merge(&mut constraint, extra);
    json!({"spec": {"topologySpreadConstraints": [constraint]}})
}

fn zoned(name: &str, zone: &str, extra: Value) -> Node {
    let mut value = json!({"metadata": {"labels": {"zone": zone}}});
    merge(&mut value, extra);
    node(name, value)
}

const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";

#[test]
fn too_few_domains_count_as_if_one_were_empty() {
    let nodes = [zoned("a", "x", json!({})), zoned("b", "y", json!({}))];
    let placed = [("a", pod("q", json!({}))), ("b", pod("r", json!({})))];
    check(&mut cluster(&nodes, &placed), &pod("p", spread(json!({"minDomains": 3}))), &format!("0/2 nodes are available: 2 {UNEVEN}."));
    assert!(answer(&mut cluster(&nodes, &placed), &pod("p", spread(json!({"minDomains": 2})))).is_ok());
}

#[test]
fn domains_a_pod_cannot_go_to_do_not_count_unless_it_says_so() {
    let nodes = [zoned("a", "x", json!({"metadata": {"labels": {"disk": "ssd"}}})), zoned("b", "y", json!({}))];
    let placed = [("a", pod("q", json!({})))];
    let mut picky = spread(json!({}));
    merge(&mut picky, json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    check(&mut cluster(&nodes, &placed), &pod("p", picky), "a");
    let mut blind = spread(json!({"nodeAffinityPolicy": "Ignore"}));
    merge(&mut blind, json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    check(&mut cluster(&nodes, &placed), &pod("p", blind), &format!("0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 {UNEVEN}."));
}

#[test]
fn tainted_domains_count_unless_the_pod_says_otherwise() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let nodes = [zoned("a", "x", json!({})), zoned("b", "y", tainted)];
    let placed = [("a", pod("q", json!({})))];
    check(&mut cluster(&nodes, &placed), &pod("p", spread(json!({}))), &format!("0/2 nodes are available: 1 {UNEVEN}, 1 node(s) had untolerated taint(s)."));
    check(&mut cluster(&nodes, &placed), &pod("p", spread(json!({"nodeTaintsPolicy": "Honor"}))), "a");
}

#[test]
fn match_label_keys_spread_each_revision_for_itself() {
    let nodes = [zoned("a", "x", json!({})), zoned("b", "y", json!({}))];
    let old = pod("q", json!({"metadata": {"labels": {"revision": "1"}}}));
    let both = [("a", old), ("b", pod("r", json!({"metadata": {"labels": {"revision": "2"}}})))];
    let mut new = spread(json!({"matchLabelKeys": ["revision"]}));
    merge(&mut new, json!({"metadata": {"labels": {"revision": "2"}}}));
    check(&mut cluster(&nodes, &both), &pod("p", new), "a");
}

#[test]
fn a_namespace_selector_reaches_pods_of_other_namespaces() {
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": {"matchLabels": {"team": "red"}}}]}});
    let nodes = [node("a", json!({}))];
    let mut cluster = cluster(&nodes, &[("a", pod("q", json!({"metadata": {"namespace": "other"}})))]);
    let shy = pod("p", json!({"spec": {"affinity": apart}}));
    check(&mut cluster, &shy, "a");
    cluster.apply_namespace("other", Some(&[("team".to_owned(), "red".to_owned())].into()));
    check(&mut cluster, &shy, "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.");
}

#[test]
fn counts_follow_nodes_that_change_their_labels() {
    let mut cluster = cluster(&[zoned("a", "x", json!({})), zoned("b", "y", json!({}))], &[("a", pod("q", json!({})))]);
    check(&mut cluster, &pod("p", spread(json!({}))), "b");
    cluster.apply_node(&zoned("b", "x", json!({})));
    cluster.apply_node(&zoned("c", "y", json!({"spec": {"unschedulable": true}})));
    check(&mut cluster, &pod("p", spread(json!({}))), &format!("0/3 nodes are available: 1 node(s) were unschedulable, 2 {UNEVEN}."));
    cluster.delete_node("c");
    assert!(answer(&mut cluster, &pod("p", spread(json!({})))).is_ok());
}

#[test]
fn preferred_company_is_sought_and_shunned() {
    let preferred = |kind: &str| {
        let term = json!({"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}});
        pod("p", json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}}))
    };
    let nodes = [node("a", json!({})), node("b", json!({}))];
    check(&mut cluster(&nodes, &[("a", pod("q", json!({})))]), &preferred("podAffinity"), "a");
    check(&mut cluster(&nodes, &[("a", pod("q", json!({})))]), &preferred("podAntiAffinity"), "b");
    // What pods there prefer counts for newcomers too.
    let fond = Arc::new(PodInfo { uid: "fond".to_owned(), ..PodInfo::clone(&preferred("podAffinity")) });
    check(&mut cluster(&nodes, &[("a", fond)]), &pod("new", json!({})), "a");
}

#[test]
fn large_images_draw_pods_to_nodes_that_have_them() {
    let with_image = json!({"status": {"images": [{"names": ["big:1"], "sizeBytes": 900_000_000}]}});
    let nodes = [node("a", json!({})), node("b", with_image)];
    check(&mut cluster(&nodes, &[]), &pod("p", json!({"spec": {"containers": [{"name": "c", "image": "big:1"}]}})), "b");
}

#[test]
fn a_node_asked_for_by_name_is_the_only_one() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    check(&mut cluster(&nodes, &[]), &pod("p", json!({"spec": {"nodeName": "b"}})), "b");
    check(&mut cluster(&nodes, &[]), &pod("p", json!({"spec": {"nodeName": "c"}})), "0/2 nodes are available: 2 node(s) didn't match the requested node name.");
}

#[test]
fn a_node_takes_so_many_pods() {
    let nodes = [node("a", json!({"status": {"allocatable": {"pods": "1"}}}))];
    check(&mut cluster(&nodes, &[("a", pod("q", json!({})))]), &pod("p", json!({})), "0/1 nodes are available: 1 Too many pods.");
}

#[test]
fn taints_that_are_no_order_are_avoided() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let nodes = [node("a", tainted.clone()), node("b", json!({}))];
    check(&mut cluster(&nodes, &[]), &pod("p", json!({})), "b");
    // Where every node has one, the pod goes anyway.
    check(&mut cluster(&[node("a", tainted)], &[]), &pod("p", json!({})), "a");
}

#[test]
fn no_execute_keeps_pods_away_and_a_toleration_of_one_effect_is_not_one_of_another() {
    let nodes = [node("a", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}}))];
    let refusal = "0/1 nodes are available: 1 node(s) had untolerated taint(s).";
    let tolerating = |toleration: Value| pod("p", json!({"spec": {"tolerations": [toleration]}}));
    check(&mut cluster(&nodes, &[]), &pod("p", json!({})), refusal);
    check(&mut cluster(&nodes, &[]), &tolerating(json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"})), refusal);
    check(&mut cluster(&nodes, &[]), &tolerating(json!({"key": "k", "operator": "Equal", "value": "w"})), refusal);
    check(&mut cluster(&nodes, &[]), &tolerating(json!({"key": "k", "operator": "Equal", "value": "v"})), "a");
}

#[test]
fn preferred_nodes_are_preferred_by_weight() {
    let nodes = [node("a", json!({"metadata": {"labels": {"disk": "ssd"}}})), node("b", json!({"metadata": {"labels": {"zone": "x"}}}))];
    let wish = |weight: i32, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
    let wishing = |wishes: Value| pod("p", json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wishes}}}}));
    check(&mut cluster(&nodes, &[]), &wishing(json!([wish(10, "disk"), wish(1, "zone")])), "a");
    check(&mut cluster(&nodes, &[]), &wishing(json!([wish(1, "disk"), wish(10, "zone")])), "b");
}

#[test]
fn every_operator_of_a_node_selector_is_understood() {
    let nodes = [node("a", json!({"metadata": {"labels": {"size": "5", "disk": "ssd"}}}))];
    let asking = |expression: Value| {
        let required = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
        pod("p", json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}}))
    };
    let refusal = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    let expression = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
    for (fits, expression) in [
        (true, expression("disk", "In", &["hdd", "ssd"])),
        (false, expression("disk", "NotIn", &["ssd"])),
        (true, expression("tape", "NotIn", &["ssd"])),
        (false, expression("tape", "Exists", &[])),
        (true, expression("tape", "DoesNotExist", &[])),
        (true, expression("size", "Gt", &["4"])),
        (false, expression("size", "Gt", &["5"])),
        (true, expression("size", "Lt", &["6"])),
        (false, expression("disk", "Lt", &["6"])),
    ] {
        check(&mut cluster(&nodes, &[]), &asking(expression), if fits { "a" } else { refusal });
    }
}

#[test]
fn emptier_nodes_are_liked_and_the_resources_of_a_node_are_used_evenly() {
    let used = |name: &str, cpu: &str, memory: &str| pod(name, json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}}));
    let nodes = [node("a", json!({})), node("b", json!({}))];
    check(&mut cluster(&nodes, &[("a", used("q", "1", "2Gi"))]), &pod("p", json!({})), "b");
    // As much is left of both together, but the pod would bring `a` further out of balance, and `b` into it.
    let placed = [("a", used("q", "1", "410Mi")), ("b", used("r", "200m", "2Gi"))];
    check(&mut cluster(&nodes, &placed), &used("p", "800m", "4Mi"), "b");
}

#[test]
fn pods_of_jobs_and_of_daemons_are_not_spread_of_themselves() {
    for (api_version, kind, expected) in [("apps/v1", "ReplicaSet", true), ("apps/v1", "StatefulSet", true), ("v1", "ReplicationController", true), ("batch/v1", "Job", false), ("apps/v1", "DaemonSet", false), ("example.com/v1", "ReplicaSet", false)] {
        let owner = json!([{"apiVersion": api_version, "kind": kind, "name": "r", "uid": "r", "controller": true}]);
        assert_eq!(pod("p", json!({"metadata": {"ownerReferences": owner}})).spreads_by_default, expected, "{kind}");
    }
}

#[test]
fn pods_of_the_same_services_are_spread_of_themselves() {
    use crate::{framework::Score, plugins::spreading::TopologySpread};
    let owned = |api_version: &str, kind: &str| json!({"metadata": {"ownerReferences": [{"apiVersion": api_version, "kind": kind, "name": "r", "uid": "r", "controller": true}]}});
    let (set, job) = (owned("apps/v1", "ReplicaSet"), owned("batch/v1", "Job"));
    let (nobody, tiered) = (json!({}), json!({"metadata": {"labels": {"tier": "front"}}}));
    let (uneven, even) = (Some(vec![66, 100]), Some(vec![100, 100]));
    // Selectors of Services with their namespaces, the newcomer, the pod that is on the first node, and scores: none where no pods count.
    type Case<'a> = (&'a [(&'a str, Value)], &'a Value, &'a Value, Option<Vec<i64>>);
    let table: [Case; 12] = [
        (&[], &nobody, &nobody, None),
        (&[("n", json!({"app": "web"}))], &nobody, &nobody, uneven.clone()),
        (&[("n", json!({"app": "db"}))], &nobody, &nobody, None),
        (&[("n", json!({"app": "web", "tier": "front"}))], &nobody, &nobody, None),
        (&[("n", json!({}))], &nobody, &nobody, None),
        (&[("other", json!({"app": "web"}))], &nobody, &nobody, None),
        (&[("n", json!({"app": "web"})), ("n", json!({"tier": "front"}))], &tiered, &nobody, even.clone()),
        (&[("n", json!({"app": "web"})), ("n", json!({"tier": "front"}))], &tiered, &tiered, uneven.clone()),
        (&[("n", json!({"app": "web"}))], &job, &nobody, uneven.clone()),
        (&[("n", json!({"app": "web"}))], &set, &nobody, even.clone()),
        (&[("n", json!({"app": "web"}))], &set, &set, uneven.clone()),
        (&[], &set, &set, uneven),
    ];
    let nodes = ["a", "b"].map(|name| node(name, json!({"metadata": {"labels": {"kubernetes.io/hostname": name}}})));
    for (services, newcomer, placed, expected) in table {
        let mut cluster = cluster(&nodes, &[("a", pod("q", placed.clone()))]);
        let slots = ["a", "b"].map(|name| cluster.node(name).unwrap().slot);
        let newcomer = pod("p", newcomer.clone());
        for (number, (namespace, selector)) in services.iter().enumerate() {
            cluster.apply_service(namespace, &format!("s{number}"), Some(&serde_json::from_value(selector.clone()).unwrap()));
        }
        let scores = |cluster: &mut Cluster| TopologySpread::default().score(&newcomer, &slots, cluster).map(|(_, scores)| scores);
        assert_eq!(scores(&mut cluster), expected, "{services:?}");
        for (number, (namespace, _)) in services.iter().enumerate() {
            cluster.apply_service(namespace, &format!("s{number}"), None);
        }
        assert_eq!(scores(&mut cluster).is_some(), newcomer.spreads_by_default, "Services that are gone select nobody");
    }
}

#[test]
fn a_label_weighs_as_much_as_it_has_values_among_the_nodes_to_choose_from() {
    use crate::{framework::{Scale, Score}, plugins::spreading::TopologySpread};
    // Nine zones, but only two of them to choose from: each pod counts ln(2 + 2).
    let names: Vec<String> = (0..9).map(|number| format!("n{number}")).collect();
    let nodes: Vec<Node> = names.iter().map(|name| node(name, json!({"metadata": {"labels": {"zone": name}}}))).collect();
    let placed: Vec<(&str, Arc<PodInfo>)> = (0..5).map(|number| ("n0", pod(&format!("q{number}"), json!({})))).chain([("n1", pod("r", json!({})))]).collect();
    let mut cluster = cluster(&nodes, &placed);
    let constraint = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let newcomer = pod("p", json!({"spec": {"topologySpreadConstraints": constraint}}));
    let slots = [0, 1].map(|number| cluster.node(&names[number]).unwrap().slot);
    // 5 · 1.386 = 7 and 1 · 1.386 = 1, so 100 · (7 + 1 - x) / 7. With ln(9 + 2) it would be 12 and 2, and 16 for the first.
    assert_eq!(TopologySpread::default().score(&newcomer, &slots, &mut cluster), Some((Scale::Done, vec![14, 100])));
}

#[test]
fn soft_spreading_prefers_and_does_not_refuse() {
    let nodes = [zoned("a", "x", json!({})), zoned("b", "y", json!({}))];
    let soft = || pod("p", spread(json!({"whenUnsatisfiable": "ScheduleAnyway"})));
    check(&mut cluster(&nodes, &[("a", pod("q", json!({})))]), &soft(), "b");
    check(&mut cluster(&nodes[..1], &[("a", pod("q", json!({})))]), &soft(), "a");
}

#[test]
fn a_node_without_the_topology_of_a_hard_constraint_is_refused() {
    let nodes = [node("a", json!({}))];
    check(&mut cluster(&nodes, &[]), &pod("p", spread(json!({}))), &format!("0/1 nodes are available: 1 {UNEVEN} (missing required label)."));
}

#[test]
fn company_that_is_nowhere_is_waited_for() {
    let together = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}});
    let social = pod("p", json!({"spec": {"affinity": together}}));
    check(&mut cluster(&[node("a", json!({}))], &[]), &social, "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.");
    let db = pod("db", json!({"metadata": {"labels": {"app": "db"}}}));
    check(&mut cluster(&[node("a", json!({})), node("b", json!({}))], &[("b", db)]), &social, "b");
}

/// Upstream's events of each plug-in, as far as knarr tells events apart.
#[test]
fn filters_ask_again_after_what_may_change_their_mind() {
    use crate::decision::{Happened, may_help};
    use crate::framework::ClusterEvent::{self, AssignedPodChanged, AssignedPodGone, NodeAdded, NodeChanged, NodeGone, StorageChanged};
    let profile = default_profile();
    let everything = [NodeAdded, NodeChanged, NodeGone, AssignedPodGone, AssignedPodChanged, StorageChanged];
    let table: [(&str, &[ClusterEvent]); 12] = [
        ("NodeUnschedulable", &[NodeAdded, NodeChanged]),
        ("NodeName", &[NodeAdded]),
        ("TaintToleration", &[NodeAdded, NodeChanged]),
        ("NodeAffinity", &[NodeAdded, NodeChanged]),
        ("NodePorts", &[NodeAdded, AssignedPodGone]),
        ("NodeResourcesFit", &[NodeAdded, NodeChanged, AssignedPodGone]),
        ("VolumeRestrictions", &[NodeAdded, AssignedPodGone, StorageChanged]),
        ("NodeVolumeLimits", &[NodeAdded, AssignedPodGone, StorageChanged]),
        ("VolumeBinding", &[NodeAdded, NodeChanged, StorageChanged]),
        ("VolumeZone", &[NodeAdded, NodeChanged, StorageChanged]),
        ("PodTopologySpread", &[NodeAdded, NodeChanged, NodeGone, AssignedPodGone, AssignedPodChanged]),
        ("InterPodAffinity", &[NodeAdded, NodeChanged, AssignedPodGone, AssignedPodChanged]),
    ];
    for (name, expected) in table {
        let index = profile.filters.iter().position(|filter| filter.name() == name).expect(name);
        let helpful: Vec<_> = everything.into_iter().filter(|event| may_help(&profile, &[index], Happened::new(*event, None), &pod("p", json!({})), &mut cluster(&[], &[]))).collect();
        assert_eq!(helpful, expected, "{name}");
    }
}

#[test]
fn a_domain_that_goes_with_its_last_node_is_no_longer_waited_for() {
    use crate::{decision::{Happened, may_help}, framework::ClusterEvent::NodeGone};
    let full = json!({"status": {"allocatable": {"pods": "0"}}});
    let mut cluster = cluster(&[zoned("a", "x", json!({})), zoned("b", "y", full)], &[("a", pod("q", json!({})))]);
    let even = pod("p", spread(json!({})));
    let refusal = answer(&mut cluster, &even).unwrap_err();
    cluster.delete_node("b");
    assert!(may_help(&default_profile(), &refusal.refused_by, Happened::new(NodeGone, None), &even, &mut cluster));
    check(&mut cluster, &even, "a");
}

/// What happens on the node `a` of a cluster.
enum Deed {
    Changes(Value),
    Comes(Value),
    Goes(Value),
}

/// Whether a pod that fits nowhere is tried again after a deed, and whether it then fits.
#[track_caller]
fn check_wakes(nodes: &[Node], placed: &[(&str, Arc<PodInfo>)], waiting: Value, deed: Deed, wakes: bool) {
    use crate::{
        decision::{Happened, may_help},
        framework::ClusterEvent::{AssignedPodChanged, AssignedPodGone, NodeChanged},
    };
    let mut cluster = cluster(nodes, placed);
    let waiting = pod("waiting", waiting);
    let refusal = answer(&mut cluster, &waiting).expect_err("it fits");
    let slot = cluster.node("a").map(|node| node.slot);
    let (event, pods) = match deed {
        Deed::Changes(extra) => {
            cluster.apply_node(&node("a", extra));
            (NodeChanged, Vec::new())
        }
        Deed::Comes(extra) => {
            let other = pod("other", extra);
            cluster.place(other.clone(), "a");
            (AssignedPodChanged, vec![other])
        }
        Deed::Goes(name) => {
            let (other, _) = cluster.remove(name.as_str().unwrap()).expect("it is there");
            (AssignedPodGone, vec![other])
        }
    };
    let happened = Happened { event, slot, pods: &pods };
    assert_eq!(may_help(&default_profile(), &refusal.refused_by, happened, &waiting, &mut cluster), wakes, "{}", refusal.message());
    if !wakes {
        assert!(answer(&mut cluster, &waiting).is_err(), "it was left asleep although it fits");
    }
}

/// A pod that waits for something is tried again when that comes, and sleeps through the rest.
#[test]
fn a_waiting_pod_is_woken_by_what_it_waits_for_and_by_nothing_else() {
    use Deed::{Changes, Comes, Goes};
    let asks = |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    let with_port = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let labels = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    let tainted = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
    let term = |app: &str| json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]);
    let wishing = |kind: &str, app: &str| {
        let mut wish = json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}}});
        merge(&mut wish, labels("wishing"));
        wish
    };
    let plain = [node("a", json!({}))];

    // NodeResourcesFit: what makes room enough.
    let full = [("a", pod("large", asks("1500m"))), ("a", pod("small", asks("100m")))];
    check_wakes(&plain, &full, asks("1"), Goes(json!("large")), true);
    check_wakes(&plain, &full, asks("1"), Goes(json!("small")), false);
    check_wakes(&plain, &full, asks("1"), Changes(json!({"status": {"allocatable": {"cpu": "4"}}})), true);
    check_wakes(&plain, &full, asks("1"), Changes(json!({"metadata": {"labels": {"new": "label"}}})), false);
    check_wakes(&plain, &full, asks("1"), Comes(asks("100m")), false);
    // An extended resource that a node's status is patched with.
    let fake = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/fakecpu": "500"}}}]}});
    check_wakes(&plain, &[], fake.clone(), Changes(json!({"status": {"allocatable": {"example.com/fakecpu": "1000"}}})), true);
    check_wakes(&plain, &[], fake.clone(), Changes(json!({"status": {"allocatable": {"example.com/fakecpu": "499"}}})), false);
    check_wakes(&plain, &[], fake, Changes(json!({"status": {"allocatable": {"example.com/other": "1000"}}})), false);

    // TaintToleration and NodeUnschedulable: the taint that is not tolerated, and no other.
    let kept_off = [node("a", tainted("k"))];
    check_wakes(&kept_off, &[], json!({}), Changes(json!({})), true);
    check_wakes(&kept_off, &[], json!({}), Changes(tainted("other")), false);
    check_wakes(&kept_off, &[], json!({"spec": {"tolerations": [{"key": "other", "operator": "Exists"}]}}), Changes(tainted("other")), true);
    check_wakes(&[node("a", json!({"spec": {"unschedulable": true}}))], &[], json!({}), Changes(json!({})), true);
    check_wakes(&[node("a", json!({"spec": {"unschedulable": true}}))], &[], json!({}), Changes(json!({"spec": {"unschedulable": true}, "metadata": {"labels": {"x": "y"}}})), false);

    // NodeAffinity: the label that is asked for.
    let picky = json!({"spec": {"nodeSelector": {"disk": "ssd"}}});
    check_wakes(&plain, &[], picky.clone(), Changes(json!({"metadata": {"labels": {"disk": "ssd"}}})), true);
    check_wakes(&plain, &[], picky.clone(), Changes(json!({"metadata": {"labels": {"disk": "tape"}}})), false);
    check_wakes(&plain, &[], picky, Changes(json!({"status": {"allocatable": {"cpu": "64"}}})), false);

    // NodePorts: who holds the port.
    let held = [("a", pod("holder", with_port.clone())), ("a", pod("bystander", json!({})))];
    check_wakes(&plain, &held, with_port.clone(), Goes(json!("holder")), true);
    check_wakes(&plain, &held, with_port, Goes(json!("bystander")), false);

    // InterPodAffinity: company that is wanted comes, company that is not goes, or who objects does.
    check_wakes(&plain, &[], wishing("podAffinity", "db"), Comes(labels("db")), true);
    check_wakes(&plain, &[], wishing("podAffinity", "db"), Comes(labels("cache")), false);
    let neighbours = [("a", pod("db", labels("db"))), ("a", pod("cache", labels("cache")))];
    check_wakes(&plain, &neighbours, wishing("podAntiAffinity", "db"), Goes(json!("db")), true);
    check_wakes(&plain, &neighbours, wishing("podAntiAffinity", "db"), Goes(json!("cache")), false);
    let mut objects = wishing("podAntiAffinity", "web");
    merge(&mut objects, labels("hermit"));
    let hermit = [("a", pod("hermit", objects)), ("a", pod("cache", labels("cache")))];
    check_wakes(&plain, &hermit, json!({}), Goes(json!("hermit")), true);
    check_wakes(&plain, &hermit, json!({}), Goes(json!("cache")), false);

    // PodTopologySpread: pods that the constraint counts.
    let zones = [zoned("a", "x", json!({"status": {"allocatable": {"cpu": "500m"}}})), zoned("b", "y", json!({}))];
    let lopsided = [("b", pod("one", asks("0"))), ("a", pod("filler", json!({"metadata": {"labels": {"app": "filler"}}})))];
    check_wakes(&zones, &lopsided, spread(json!({})), Comes(json!({"spec": {"containers": [{"name": "c"}]}})), true);
    check_wakes(&zones, &lopsided, spread(json!({})), Comes(labels("cache")), false);
}

#[test]
fn a_toleration_for_a_time_lets_a_pod_come_as_one_for_ever_does() {
    let no_execute = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoExecute"}]}});
    let tolerating = |extra: Value| {
        let mut toleration = json!({"key": "k", "operator": "Exists", "effect": "NoExecute"});
        merge(&mut toleration, extra);
        pod("p", json!({"spec": {"tolerations": [toleration]}}))
    };
    let refusal = "0/1 nodes are available: 1 node(s) had untolerated taint(s).";
    for (taint, pod, expected) in [
        ("k", tolerating(json!({"tolerationSeconds": 5})), "a"),
        ("k", tolerating(json!({"tolerationSeconds": 0})), "a"),
        ("k", tolerating(json!({"tolerationSeconds": null})), "a"),
        ("k", tolerating(json!({"effect": "NoSchedule"})), refusal),
        ("k", tolerating(json!({"key": "other", "tolerationSeconds": 5})), refusal),
        // An empty key with Exists tolerates everything.
        ("k", tolerating(json!({"key": "", "effect": ""})), "a"),
        ("any", tolerating(json!({"key": null, "effect": null})), "a"),
    ] {
        check(&mut cluster(&[node("a", no_execute(taint))], &[]), &pod, expected);
    }
}
