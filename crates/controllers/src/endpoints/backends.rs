//! The pods behind a Service and the ports they listen on.

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

/// One port of a Service as a pod listens on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BackendPort {
    /// The Service port's name; empty for an only port without one.
    pub name: String,
    pub protocol: String,
    pub port: i32,
    pub app_protocol: Option<String>,
}

/// Whether a Service is resolved to its pods' addresses instead of having one of its own.
pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether a Service finds its pods by labels. Others get their endpoints from somebody else, or have none.
pub(super) fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()) && spec.type_.as_deref() != Some("ExternalName")
    })
}

/// Whether a Service selects a pod.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty()) else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
}

/// Whether pods count as ready whatever they say.
pub(super) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// A pod's addresses of one family.
pub(super) fn addresses(pod: &Pod, ipv6: bool) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|address| &address.ip);
    let mut addresses: Vec<String> = all.filter(|address| address.contains(':') == ipv6).cloned().collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.iter().filter(|address| !address.is_empty() && address.contains(':') == ipv6).cloned());
    }
    addresses.truncate(1);
    addresses
}

/// Whether a pod can be behind a Service at all. Terminating ones can until they have ended: they may still serve.
pub(super) fn can_serve(pod: &Pod) -> bool {
    !pods::is_finished(pod) && (!addresses(pod, false).is_empty() || !addresses(pod, true).is_empty())
}

/// The ports of a Service on this pod; those whose name the pod does not know are left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<BackendPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| Some(backend_port(port, target(port, pod)?))).collect()
}

fn backend_port(port: &ServicePort, number: i32) -> BackendPort {
    BackendPort {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port).to_owned(),
        port: number,
        app_protocol: port.app_protocol.clone(),
    }
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The number a Service port has on a pod. Source: Kubernetes 1.36, `FindPort`.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let restarting = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let named = spec.containers.iter().chain(restarting).flat_map(|container| container.ports.iter().flatten());
            let mut named = named.filter(|found| found.name.as_deref() == Some(name) && found.protocol.as_deref().unwrap_or("TCP") == protocol(port));
            named.next().map(|found| found.container_port)
        }
    }
}

/// A pod's own name below a headless Service.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let same = spec.subdomain == service.metadata.name && spec.subdomain.as_ref().is_some_and(|name| !name.is_empty());
    spec.hostname.clone().filter(|hostname| same && !hostname.is_empty())
}

pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, ContainerPort, PodIP, ServiceSpec};
    use std::sync::Arc;

    /// Port 80 of Service `web` goes to port `http` of pods labelled `app=web`.
    pub(crate) fn service() -> Service {
        let mut service = Service::default();
        service.metadata.name = Some("web".to_owned());
        service.metadata.namespace = Some("x".to_owned());
        service.metadata.uid = Some("uid-web".to_owned());
        let port = ServicePort { port: 80, target_port: Some(IntOrString::String("http".to_owned())), ..ServicePort::default() };
        service.spec = Some(ServiceSpec {
            selector: Some([("app".to_owned(), "web".to_owned())].into()),
            ports: Some(vec![port]),
            ip_families: Some(vec!["IPv4".to_owned()]),
            ..ServiceSpec::default()
        });
        service
    }

    /// A running pod of that Service, with an address and `http` on `port`.
    pub(crate) fn backend(name: &str, address: &str, port: i32, ready: bool) -> Arc<Pod> {
        let mut pod = (*crate::pods::tests::pod(name, "Running", "node", ready.then_some(1))).clone();
        pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        pod.status.get_or_insert_default().pod_ips = Some(vec![PodIP { ip: address.to_owned() }]);
        let http = ContainerPort { name: Some("http".to_owned()), container_port: port, ..ContainerPort::default() };
        pod.spec.get_or_insert_default().containers = vec![Container { ports: Some(vec![http]), ..Container::default() }];
        Arc::new(pod)
    }

    #[test]
    fn a_named_port_is_looked_up_in_each_pod() {
        let service = service();
        let numbers = |pod: &Pod| ports(&service, pod).into_iter().map(|port| port.port).collect::<Vec<_>>();
        assert_eq!(numbers(&backend("a", "10.0.0.1", 8080, true)), [8080]);
        assert_eq!(numbers(&backend("b", "10.0.0.2", 9090, true)), [9090]);
        assert!(selects(&service, &backend("a", "10.0.0.1", 1, true)));
        let mut strange = (*backend("c", "10.0.0.3", 1, true)).clone();
        strange.spec.as_mut().unwrap().containers.clear();
        assert!(numbers(&strange).is_empty());
    }
}
