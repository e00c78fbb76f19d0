//! EndpointSlices for Endpoints that a user wrote, of a Service without selector.

use async_trait::async_trait;
use client::{Informer, ObjectKey};
use controller::ownership::controller_reference;
use controller::{Outcome, ReconcileError, Reconciler, Trigger, Writes};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::backends;
use super::pack::{Frame, Group, MANAGED_BY, SERVICE_NAME, pack};
use super::slices::SliceWriter;
use crate::ControllerContext;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Marks Endpoints that are no endpoints at all, but old leader election locks.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Most addresses of a subset that are mirrored. Source: Kubernetes 1.36, `--mirroring-max-endpoints-per-subset`.
const MOST_PER_SUBSET: usize = 1000;

/// Keeps the mirrored slices.
pub(super) struct MirrorController {
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: SliceWriter,
}

impl MirrorController {
    pub fn new(context: &ControllerContext) -> Self {
        Self {
            services: context.informers.of(),
            endpoints: context.informers.of(),
            slices: SliceWriter::new(context, "endpointslicemirroring-controller", MANAGER),
        }
    }
}

#[async_trait]
impl Reconciler for MirrorController {
    fn name(&self) -> &'static str {
        "endpointslicemirroring"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.endpoints), Trigger::itself(&self.services), self.slices.trigger()]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        if !self.slices.writes.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<EndpointSlice>::patience()));
        }
        let existing = self.slices.existing(key);
        let service = self.services.get(key).filter(|service| !has_any_selector(service));
        let endpoints = self.endpoints.get(key).filter(|endpoints| service.is_some() && is_mirrored(endpoints));
        let changes = match &endpoints {
            Some(endpoints) => pack(&existing, groups(endpoints), &frame(key, endpoints)),
            None if existing.is_empty() => return Ok(Outcome::Settled),
            None => super::pack::Changes { delete: existing, ..super::pack::Changes::default() },
        };
        crate::unless_namespace_terminates(self.slices.apply(key, changes).await)
    }
}

fn has_any_selector(service: &Service) -> bool {
    backends::has_selector(service) || service.spec.as_ref().is_some_and(|spec| spec.selector.is_some())
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    let skipped = labels.and_then(|labels| labels.get(SKIP)).is_some_and(|value| value == "true");
    let leader = endpoints.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    !skipped && !leader && endpoints.metadata.deletion_timestamp.is_none()
}

fn frame(key: &ObjectKey, endpoints: &Endpoints) -> Frame {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), key.name.to_string());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| name != "kubectl.kubernetes.io/last-applied-configuration" && name != "endpoints.kubernetes.io/last-change-trigger-time");
    Frame {
        namespace: key.namespace.as_deref().unwrap_or_default().to_owned(),
        service: key.name.to_string(),
        labels,
        annotations: Some(annotations).filter(|all| !all.is_empty()),
        owner: controller_reference(endpoints),
    }
}

/// One group per subset and address family.
fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        };
        let ports = subset.ports.as_ref().map(|ports| ports.iter().map(port).collect::<Vec<_>>());
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready).take(MOST_PER_SUBSET) {
            let address_type = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let endpoint = endpoint(address, ready);
            match groups.iter_mut().find(|group| group.address_type == address_type && group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { address_type: address_type.to_owned(), ports: ports.clone(), endpoints: vec![endpoint] }),
            }
        }
    }
    groups
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::EndpointSubset;

    #[test]
    fn subsets_become_groups_by_family() {
        let address = |ip: &str| EndpointAddress { ip: ip.to_owned(), ..EndpointAddress::default() };
        let subset = EndpointSubset {
            addresses: Some(vec![address("10.0.0.1"), address("fd00::1")]),
            not_ready_addresses: Some(vec![address("10.0.0.2")]),
            ports: Some(vec![k8s_openapi::api::core::v1::EndpointPort { port: 80, ..Default::default() }]),
        };
        let endpoints = Endpoints { subsets: Some(vec![subset]), ..Endpoints::default() };
        let shape: Vec<_> = groups(&endpoints).into_iter().map(|group| (group.address_type, group.endpoints.len())).collect();
        assert_eq!(shape, [("IPv4".to_owned(), 2), ("IPv6".to_owned(), 1)]);
    }
}
