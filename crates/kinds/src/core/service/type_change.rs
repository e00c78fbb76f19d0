//! A Service that becomes one of another type: what the new type has no use for goes, where it is as it was before. A client
//! that changes only `type` means that; what it set anew itself is left for validation to refuse.
//!
//! Source: Kubernetes 1.36, `dropTypeDependentFields`.

use api::core::v1::ServiceSpec;

use super::{CLUSTER_IP, kind_of};

fn has_cluster_ip(spec: &ServiceSpec) -> bool {
    kind_of(spec) != "ExternalName"
}

fn has_node_ports(spec: &ServiceSpec) -> bool {
    match kind_of(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// Whether anything outside can reach it.
fn is_external(spec: &ServiceSpec) -> bool {
    let addresses = spec.external_ips.as_ref().is_some_and(|all| !all.is_empty());
    matches!(kind_of(spec), "NodePort" | "LoadBalancer") || kind_of(spec) == CLUSTER_IP && addresses
}

/// Whether balancers ask each node if it has endpoints.
pub(super) fn has_health_check(spec: &ServiceSpec) -> bool {
    kind_of(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn is_balanced(spec: &ServiceSpec) -> bool {
    kind_of(spec) == "LoadBalancer"
}

fn drop_if_same<T: PartialEq>(new: &mut Option<T>, old: &Option<T>) {
    if new == old {
        *new = None;
    }
}

/// Drops what the type has no use for any more.
pub(super) fn drop_unused(new: &mut ServiceSpec, old: &ServiceSpec) {
    let lost = |needs: fn(&ServiceSpec) -> bool, new: &ServiceSpec| needs(old) && !needs(new);
    if lost(has_cluster_ip, new) {
        drop_if_same(&mut new.cluster_ip, &old.cluster_ip);
        drop_if_same(&mut new.cluster_ips, &old.cluster_ips);
        drop_if_same(&mut new.ip_families, &old.ip_families);
        drop_if_same(&mut new.ip_family_policy, &old.ip_family_policy);
        drop_if_same(&mut new.internal_traffic_policy, &old.internal_traffic_policy);
    }
    if lost(has_health_check, new) {
        drop_if_same(&mut new.health_check_node_port, &old.health_check_node_port);
    }
    if lost(has_node_ports, new) {
        let known: Vec<i32> = old.ports.iter().flatten().filter_map(|port| port.node_port).collect();
        for port in new.ports.iter_mut().flatten() {
            if port.node_port.is_some_and(|number| known.contains(&number)) {
                port.node_port = None;
            }
        }
    }
    if lost(is_balanced, new) {
        drop_if_same(&mut new.allocate_load_balancer_node_ports, &old.allocate_load_balancer_node_ports);
        drop_if_same(&mut new.load_balancer_class, &old.load_balancer_class);
        drop_if_same(&mut new.load_balancer_source_ranges, &old.load_balancer_source_ranges);
    }
    if lost(is_external, new) {
        drop_if_same(&mut new.external_traffic_policy, &old.external_traffic_policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ServiceSpec {
        serde_json::from_str(text).unwrap()
    }

    #[track_caller]
    fn check(old: &str, change: &str, wanted: &str) {
        let mut whole: serde_json::Value = serde_json::from_str(old).unwrap();
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        for (key, value) in change.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let mut new = serde_json::from_value(whole).unwrap();
        drop_unused(&mut new, &spec(old));
        assert_eq!(new, spec(wanted));
    }

    const NODE_PORT: &str = r#"{"type":"NodePort","clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],"ipFamilies":["IPv4"],
        "ipFamilyPolicy":"SingleStack","externalTrafficPolicy":"Cluster","internalTrafficPolicy":"Cluster",
        "ports":[{"port":80,"nodePort":30080}]}"#;

    #[test]
    fn a_node_port_service_that_becomes_a_name_keeps_its_port_only() {
        check(NODE_PORT, r#"{"type":"ExternalName","externalName":"a.b"}"#, r#"{"type":"ExternalName","externalName":"a.b","ports":[{"port":80}]}"#);
    }

    #[test]
    fn what_is_set_anew_stays_to_be_refused() {
        check(
            NODE_PORT,
            r#"{"type":"ExternalName","clusterIP":"10.0.0.2","clusterIPs":["10.0.0.2"],"ports":[{"port":80,"nodePort":30081}]}"#,
            r#"{"type":"ExternalName","clusterIP":"10.0.0.2","clusterIPs":["10.0.0.2"],"ports":[{"port":80,"nodePort":30081}]}"#,
        );
    }

    #[test]
    fn a_balanced_service_that_becomes_internal_loses_all_that_was_for_the_outside() {
        check(
            r#"{"type":"LoadBalancer","clusterIP":"10.0.0.1","externalTrafficPolicy":"Local","healthCheckNodePort":31000,
                "allocateLoadBalancerNodePorts":true,"loadBalancerClass":"x/y","loadBalancerSourceRanges":["10.0.0.0/8"],
                "ports":[{"port":80,"nodePort":30080}]}"#,
            r#"{"type":"ClusterIP"}"#,
            r#"{"type":"ClusterIP","clusterIP":"10.0.0.1","ports":[{"port":80}]}"#,
        );
    }
}
