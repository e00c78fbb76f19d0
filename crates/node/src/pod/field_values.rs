//! The downward API: what `fieldRef` and `resourceFieldRef` give.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::{find_container, resources::{container_limit, container_request}, spec, uses_host_network};
use crate::quantity::Amount;

/// What the node adds to what the pod says of itself.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// What the node can give to pods: stands in for a missing limit. CPU.
    pub allocatable_cpu: Amount,
    /// The same for memory.
    pub allocatable_memory: Amount,
    /// The same for ephemeral storage.
    pub allocatable_storage: Amount,
}

/// The value of a field of the pod, for an environment variable or a file. `None` for a field that is not offered.
#[must_use]
pub fn field_value(pod: &Pod, path: &str, facts: &NodeFacts) -> Option<String> {
    let first = |list: &[IpAddr]| list.first().map(ToString::to_string).unwrap_or_default();
    let all = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let pod_ips = if uses_host_network(pod) { &facts.host_ips } else { &facts.pod_ips };
    if let Some((map, key)) = path.split_once("['").and_then(|(map, rest)| Some((map, rest.strip_suffix("']")?))) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => super::name(pod).to_owned(),
        "metadata.namespace" => super::namespace(pod).to_owned(),
        "metadata.uid" => super::uid(pod).to_owned(),
        "metadata.labels" => listing(pod.metadata.labels.as_ref()),
        "metadata.annotations" => listing(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => all(&facts.host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => all(pod_ips),
        _ => return None,
    })
}

/// `key="value"` lines in the order of their keys, values escaped as Go's `%q` does.
fn listing(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect::<Vec<_>>().join("\n")
}

fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            other if other.is_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(other))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// The value of a container's resource, in units of the selector's divisor. `own` is the container whose environment or
/// volume asks, for selectors that name none.
#[must_use]
pub fn resource_value(pod: &Pod, own: Option<&Container>, selector: &ResourceFieldSelector, facts: &NodeFacts) -> Option<String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty()).and_then(|name| find_container(pod, name));
    let container = match (&named, own) {
        (Some((_, container)), _) => container.as_ref(),
        (None, Some(own)) if selector.container_name.as_deref().unwrap_or_default().is_empty() => own,
        _ => return None,
    };
    let (kind, resource) = selector.resource.split_once('.')?;
    let allocatable = match resource {
        "cpu" => facts.allocatable_cpu,
        "memory" => facts.allocatable_memory,
        "ephemeral-storage" => facts.allocatable_storage,
        _ => Amount::default(),
    };
    let amount = match kind {
        "limits" => container_limit(pod, container, resource).unwrap_or(allocatable),
        "requests" => container_request(container, resource),
        _ => return None,
    };
    let divisor = selector.divisor.as_ref().and_then(|divisor| Amount::parse(&divisor.0)).unwrap_or_default();
    Some(amount.divided_by(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_and_resources_are_found() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "a", "labels": { "app": "x", "b": "say \"hi\"" } },
            "spec": { "containers": [{ "name": "c", "resources": { "limits": { "cpu": "1500m" } } }] } }))
        .unwrap();
        let facts = NodeFacts { allocatable_memory: Amount::units(1 << 30), ..NodeFacts::default() };
        assert_eq!(field_value(&pod, "metadata.labels['app']", &facts).as_deref(), Some("x"));
        assert_eq!(field_value(&pod, "metadata.labels", &facts).as_deref(), Some("app=\"x\"\nb=\"say \\\"hi\\\"\""));
        assert_eq!(field_value(&pod, "spec.secret", &facts), None);
        let select = |resource: &str, divisor: &str| serde_json::from_value(json!({ "resource": resource, "divisor": divisor })).unwrap();
        let own = &spec(&pod).containers[0];
        assert_eq!(resource_value(&pod, Some(own), &select("limits.cpu", "0"), &facts).as_deref(), Some("2"));
        assert_eq!(resource_value(&pod, Some(own), &select("limits.cpu", "1m"), &facts).as_deref(), Some("1500"));
        assert_eq!(resource_value(&pod, Some(own), &select("limits.memory", "1Mi"), &facts).as_deref(), Some("1024"));
        assert_eq!(resource_value(&pod, Some(own), &select("requests.memory", "1"), &facts).as_deref(), Some("0"));
        let mut whole = pod.clone();
        whole.spec.as_mut().unwrap().resources = serde_json::from_value(json!({ "limits": { "cpu": "4", "memory": "64Mi" } })).unwrap();
        assert_eq!(resource_value(&whole, Some(own), &select("limits.cpu", "0"), &facts).as_deref(), Some("2"));
        assert_eq!(resource_value(&whole, Some(own), &select("limits.memory", "1Mi"), &facts).as_deref(), Some("64"));
    }
}
