//! Random clusters and pods: each decision is compared with rules written down again in the plainest way, which look at every pod
//! each time. What the scheduler keeps count of must never say anything else.

use std::{collections::BTreeMap, sync::Arc};

use api::core::v1::{Node, Pod};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{cluster::Cluster, decision::decide, plugins::default_profile, pod_info::PodInfo};

const HARD_RULES: &str = "requiredDuringSchedulingIgnoredDuringExecution";

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn random_node(random: &mut StdRng, index: usize) -> Value {
    let mut node = json!({
        "metadata": {"name": format!("node-{index}"), "labels": {"host": format!("node-{index}"), "zone": format!("z{}", random.random_range(0..3))}},
        "spec": {}, "status": {"allocatable": {"cpu": format!("{}", random.random_range(1..5)), "memory": "8Gi", "pods": "6"}},
    });
    if random.random_ratio(1, 6) {
        node["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    }
    if random.random_ratio(1, 8) {
        node["metadata"]["labels"].as_object_mut().unwrap().remove("zone");
    }
    node
}

fn random_pod(random: &mut StdRng, index: usize) -> Value {
    let app = format!("app-{}", random.random_range(0..3));
    let key = if random.random() { "zone" } else { "host" };
    let selector = json!({"matchLabels": {"app": format!("app-{}", random.random_range(0..3))}});
    let mut pod = json!({
        "metadata": {"name": format!("pod-{index}"), "namespace": "n", "uid": format!("pod-{index}"), "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{}m", random.random_range(1..10) * 100)}}}]},
    });
    let term = json!([{"topologyKey": key, "labelSelector": selector}]);
    match random.random_range(0..6) {
        0 => pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": random.random_range(1..3), "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]),
        1 => pod["spec"]["affinity"] = json!({"podAntiAffinity": {HARD_RULES: term}}),
        2 => pod["spec"]["affinity"] = json!({"podAffinity": {HARD_RULES: term}}),
        3 => pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]),
        4 => pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": random.random_range(80..83)}]),
        _ => {}
    }
    pod
}

type Placed = BTreeMap<String, (Value, String)>;

fn domain<'a>(nodes: &'a BTreeMap<String, Value>, node: &str, key: &str) -> Option<&'a str> {
    nodes.get(node)?.pointer(&format!("/metadata/labels/{key}"))?.as_str()
}

fn matches(selector: &Value, pod: &Value) -> bool {
    text(selector, "/matchLabels/app") == text(pod, "/metadata/labels/app")
}

fn millis(pod: &Value) -> i64 {
    text(pod, "/spec/containers/0/resources/requests/cpu").trim_end_matches('m').parse().unwrap()
}

/// Whether a pod may be on a node, by the book.
fn fits(pod: &Value, name: &str, nodes: &BTreeMap<String, Value>, placed: &Placed) -> bool {
    let node = &nodes[name];
    let here = || placed.values().filter(|(_, place)| place == name).map(|(other, _)| other);
    let capacity: i64 = text(node, "/status/allocatable/cpu").parse::<i64>().unwrap() * 1000;
    if here().count() >= 6 || here().map(millis).sum::<i64>() + millis(pod) > capacity {
        return false;
    }
    if node.pointer("/spec/taints").is_some() && pod.pointer("/spec/tolerations").is_none() {
        return false;
    }
    let port = "/spec/containers/0/ports/0/hostPort";
    if pod.pointer(port).is_some() && here().any(|other| other.pointer(port) == pod.pointer(port)) {
        return false;
    }
    let together = |key: &str, other: &str| domain(nodes, name, key).is_some() && domain(nodes, name, key) == domain(nodes, other, key);
    let rule = |pod: &Value, kind: &str| pod.pointer(&format!("/spec/affinity/{kind}/{HARD_RULES}/0")).cloned();
    if let Some(term) = rule(pod, "podAntiAffinity")
        && placed.values().any(|(other, place)| matches(&term["labelSelector"], other) && together(text(&term, "/topologyKey"), place))
    {
        return false;
    }
    for (other, place) in placed.values() {
        if let Some(term) = rule(other, "podAntiAffinity")
            && matches(&term["labelSelector"], pod)
            && together(text(&term, "/topologyKey"), place)
        {
            return false;
        }
    }
    if let Some(term) = rule(pod, "podAffinity") {
        let key = text(&term, "/topologyKey");
        let meant = |(other, place): &&(Value, String)| matches(&term["labelSelector"], other) && domain(nodes, place, key).is_some();
        let is_first = matches(&term["labelSelector"], pod) && !placed.values().any(|entry| meant(&entry));
        let has_company = placed.values().filter(meant).any(|(_, place)| together(key, place));
        if domain(nodes, name, key).is_none() || !has_company && !is_first {
            return false;
        }
    }
    if let Some(constraint) = pod.pointer("/spec/topologySpreadConstraints/0") {
        let key = text(constraint, "/topologyKey");
        let Some(own) = domain(nodes, name, key) else { return false };
        let mut amounts: BTreeMap<&str, i64> = nodes.keys().filter_map(|node| domain(nodes, node, key)).map(|domain| (domain, 0)).collect();
        for (other, place) in placed.values() {
            if let Some(domain) = domain(nodes, place, key)
                && matches(&constraint["labelSelector"], other)
            {
                *amounts.get_mut(domain).unwrap() += 1;
            }
        }
        let itself = i64::from(matches(&constraint["labelSelector"], pod));
        if amounts[own] + itself - amounts.values().min().unwrap() > constraint["maxSkew"].as_i64().unwrap() {
            return false;
        }
    }
    true
}

#[test]
fn decisions_agree_with_the_plainest_reading_of_the_rules() {
    let profile = default_profile();
    for seed in 0..40 {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::default();
        let (mut nodes, mut placed): (BTreeMap<String, Value>, Placed) = (BTreeMap::new(), BTreeMap::new());
        for index in 0..150 {
            if index % 10 == 0 {
                // A node comes, or changes its labels and taints under its pods.
                let which = random.random_range(0..12);
                let node = random_node(random, which);
                cluster.apply_node(&serde_json::from_value::<Node>(node.clone()).unwrap());
                nodes.insert(text(&node, "/metadata/name").to_owned(), node);
            }
            if random.random_ratio(1, 4)
                && let Some(gone) = placed.keys().nth(random.random_range(0..placed.len().max(1))).cloned()
            {
                placed.remove(&gone);
                cluster.remove(&gone);
            }
            let pod = random_pod(random, index);
            let info = Arc::new(PodInfo::of(&serde_json::from_value::<Pod>(pod.clone()).unwrap()));
            let allowed: Vec<&String> = nodes.keys().filter(|name| fits(&pod, name, &nodes, &placed)).collect();
            match decide(&profile, &info, &mut cluster, &mut 0) {
                Ok(slot) => {
                    let node = cluster.at(slot).unwrap().name.clone();
                    assert!(allowed.contains(&&node), "seed {seed}, step {index}: {pod} was put on {node}, allowed are {allowed:?}");
                    cluster.place(info, &node);
                    placed.insert(text(&pod, "/metadata/uid").to_owned(), (pod, node));
                }
                Err(refusal) => assert!(allowed.is_empty(), "seed {seed}, step {index}: {pod} was refused ({}), allowed are {allowed:?}", refusal.message()),
            }
        }
    }
}
