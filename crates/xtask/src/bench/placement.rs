//! Checks placements by the book: every rule is read again from the objects as the API gives them, with nothing of the scheduler's.
//!
//! Pods only come while a benchmark runs, so what holds for all of them at the end held for each when it was placed. Of spreading the
//! end is checked: with every node open to every pod, no order of allowed placements ends unevenly.

use std::collections::BTreeMap;

use serde_json::Value;

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    object.pointer(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Thousandths of what a quantity says; the units that benchmarks use.
fn thousandths(quantity: &str) -> Option<i128> {
    let end = quantity.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(end);
    let factor = match unit {
        "m" => 1,
        "" => 1000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => return None,
    };
    Some(number.parse::<i128>().ok()? * factor)
}

fn has_labels(wanted: Option<&Value>, object: &Value) -> bool {
    let labels = wanted.and_then(Value::as_object);
    labels.is_some_and(|labels| labels.iter().all(|(name, value)| object.pointer("/metadata/labels").and_then(|own| own.get(name)) == Some(value)))
}

/// A node with its pods.
struct Place<'a> {
    node: &'a Value,
    pods: Vec<&'a Value>,
}

fn label<'a>(node: &'a Value, key: &str) -> Option<&'a str> {
    node.pointer("/metadata/labels")?.get(key)?.as_str()
}

/// Looks at every pod; gives how many there were.
///
/// # Errors
/// The first pod that is where it must not be, and why.
pub fn check(nodes: &[Value], pods: &[Value]) -> Result<usize, String> {
    let mut places: BTreeMap<&str, Place<'_>> = nodes.iter().map(|node| (text(node, "/metadata/name"), Place { node, pods: Vec::new() })).collect();
    for pod in pods {
        let (name, node) = (text(pod, "/metadata/name"), text(pod, "/spec/nodeName"));
        places.get_mut(node).ok_or_else(|| format!("{name} is on {node:?}, which is no node"))?.pods.push(pod);
    }
    for (name, place) in &places {
        check_amounts(place).map_err(|why| format!("on {name}: {why}"))?;
        for pod in &place.pods {
            check_pod(pod, place.node).map_err(|why| format!("{} is on {name}: {why}", text(pod, "/metadata/name")))?;
            check_company(pod, place.node, &places).map_err(|why| format!("{} is on {name}: {why}", text(pod, "/metadata/name")))?;
        }
    }
    let mut spread: Vec<&Value> = pods.iter().flat_map(|pod| list(pod, "/spec/topologySpreadConstraints")).collect();
    spread.sort_by_key(|constraint| constraint.to_string());
    spread.dedup();
    spread.into_iter().filter(|constraint| text(constraint, "/whenUnsatisfiable") == "DoNotSchedule").try_for_each(|constraint| check_spread(constraint, &places))?;
    Ok(pods.len())
}

fn check_amounts(place: &Place<'_>) -> Result<(), String> {
    for resource in ["cpu", "memory"] {
        let all = thousandths(text(place.node, &format!("/status/allocatable/{resource}"))).ok_or("its amounts cannot be read")?;
        let mut used = 0;
        for container in place.pods.iter().flat_map(|pod| list(pod, "/spec/containers")) {
            if let Some(request) = container.pointer(&format!("/resources/requests/{resource}")).and_then(Value::as_str) {
                used += thousandths(request).ok_or_else(|| format!("a request of {request} cannot be read"))?;
            }
        }
        if used > all {
            return Err(format!("{used} thousandths of {resource} are asked for, {all} are there"));
        }
    }
    let allowed: usize = text(place.node, "/status/allocatable/pods").parse().map_err(|_| "it allows no number of pods")?;
    if place.pods.len() > allowed {
        return Err(format!("{} pods are there, {allowed} are allowed", place.pods.len()));
    }
    let ports = place.pods.iter().flat_map(|pod| list(pod, "/spec/containers")).flat_map(|container| list(container, "/ports"));
    let mut ports: Vec<String> = ports.filter_map(|port| Some(format!("{}/{}", port.get("hostPort")?, text(port, "/protocol")))).collect();
    ports.sort();
    let all = ports.len();
    ports.dedup();
    if ports.len() < all { Err("a host port is had twice".to_owned()) } else { Ok(()) }
}

fn check_pod(pod: &Value, node: &Value) -> Result<(), String> {
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        return Err("which takes no pods".to_owned());
    }
    if list(node, "/spec/taints").iter().any(|taint| text(taint, "/effect") != "PreferNoSchedule") && list(pod, "/spec/tolerations").is_empty() {
        return Err("whose taint it does not tolerate".to_owned());
    }
    let selector = pod.pointer("/spec/nodeSelector");
    if selector.is_some() && !has_labels(selector, node) {
        return Err("which its node selector does not select".to_owned());
    }
    Ok(())
}

fn check_company(pod: &Value, node: &Value, places: &BTreeMap<&str, Place<'_>>) -> Result<(), String> {
    for term in list(pod, "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution") {
        let key = text(term, "/topologyKey");
        let together = places.values().filter(|place| label(place.node, key).is_some() && label(place.node, key) == label(node, key));
        let others = together.flat_map(|place| &place.pods).filter(|other| text(other, "/metadata/uid") != text(pod, "/metadata/uid"));
        let mut same_namespace = others.filter(|other| text(other, "/metadata/namespace") == text(pod, "/metadata/namespace"));
        if let Some(other) = same_namespace.find(|other| has_labels(term.pointer("/labelSelector/matchLabels"), other)) {
            return Err(format!("so is {}, which it must be apart from", text(other, "/metadata/name")));
        }
    }
    Ok(())
}

fn check_spread(constraint: &Value, places: &BTreeMap<&str, Place<'_>>) -> Result<(), String> {
    let (key, skew) = (text(constraint, "/topologyKey"), constraint.get("maxSkew").and_then(Value::as_u64).unwrap_or_default());
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for place in places.values() {
        let Some(domain) = label(place.node, key) else { continue };
        let selected = place.pods.iter().filter(|pod| has_labels(constraint.pointer("/labelSelector/matchLabels"), pod)).count();
        *counts.entry(domain).or_default() += selected as u64;
    }
    let (least, most) = (counts.values().min().copied().unwrap_or_default(), counts.values().max().copied().unwrap_or_default());
    if most - least > skew { Err(format!("pods are spread unevenly, by more than {skew}: {counts:?}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, zone: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"host": name, "zone": zone}}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "3"}}})
    }

    fn pod(name: &str, node: &str, spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": name, "uid": name, "namespace": "n", "labels": {"app": "a"}}, "spec": {"containers": [{"resources": {"requests": {"cpu": "400m"}}}]}});
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        pod["spec"]["nodeName"] = node.into();
        pod
    }

    fn said(pods: &[Value]) -> String {
        let mut closed = node("closed", "x");
        closed["spec"] = json!({"unschedulable": true});
        let mut tainted = node("tainted", "x");
        tainted["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        check(&[node("a", "x"), node("b", "y"), closed, tainted], pods).map_or_else(|why| why, |count| format!("{count} are right"))
    }

    #[test]
    fn each_broken_rule_is_found() {
        let plain = json!({});
        assert_eq!(said(&[pod("p", "a", plain.clone()), pod("q", "a", plain.clone())]), "2 are right");
        assert_eq!(said(&[pod("p", "", plain.clone())]), "p is on \"\", which is no node");
        assert_eq!(said(&[pod("p", "closed", plain.clone())]), "p is on closed: which takes no pods");
        assert_eq!(said(&[pod("p", "tainted", plain.clone())]), "p is on tainted: whose taint it does not tolerate");
        assert_eq!(said(&[pod("p", "a", json!({"nodeSelector": {"zone": "y"}}))]), "p is on a: which its node selector does not select");
        assert_eq!(said(&["p", "q", "r"].map(|name| pod(name, "a", plain.clone()))), "on a: 1200 thousandths of cpu are asked for, 1000 are there");
        let small = json!({"containers": []});
        assert_eq!(said(&["p", "q", "r", "s"].map(|name| pod(name, "a", small.clone()))), "on a: 4 pods are there, 3 are allowed");
        let port = json!({"containers": [{"ports": [{"hostPort": 80, "protocol": "TCP"}]}]});
        assert_eq!(said(&["p", "q"].map(|name| pod(name, "a", port.clone()))), "on a: a host port is had twice");
        let term = json!([{"topologyKey": "host", "labelSelector": {"matchLabels": {"app": "a"}}}]);
        let shy = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
        assert_eq!(said(&[pod("p", "a", plain.clone()), pod("q", "a", shy.clone())]), "q is on a: so is p, which it must be apart from");
        assert_eq!(said(&[pod("p", "b", plain), pod("q", "a", shy)]), "2 are right");
        let even = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]});
        assert!(said(&["p", "q"].map(|name| pod(name, "a", even.clone()))).starts_with("pods are spread unevenly"));
    }
}
