//! EndpointSlices for Endpoints that a user wrote, of a Service without selector.

use async_trait::async_trait;
use client::{EventRecorder, EventType, Informer, ObjectKey};
use controller::ownership::controller_reference;
use controller::{Outcome, ReconcileError, Reconciler, Trigger, Writes};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::{backends, subsets};
use super::pack::{Frame, Group, MANAGED_BY, SERVICE_NAME, pack};
use super::slices::SliceWriter;
use crate::ControllerContext;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Marks Endpoints that are no endpoints at all, but old leader election locks.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Most addresses of a subset that are mirrored. Source: Kubernetes 1.36, `--mirroring-max-endpoints-per-subset`.
const MOST_PER_SUBSET: usize = 1000;
/// All of a subset and a family is in one slice.
const LARGEST_SLICE: usize = MOST_PER_SUBSET;

/// Keeps the mirrored slices.
pub(super) struct MirrorController {
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: SliceWriter,
    events: EventRecorder,
}

impl MirrorController {
    pub fn new(context: &ControllerContext) -> Self {
        Self {
            services: context.informers.of(),
            endpoints: context.informers.of(),
            slices: SliceWriter::new(context, "endpointslicemirroring-controller", MANAGER),
            events: context.events_as("endpointslicemirroring-controller", "endpoint-slice-mirroring-controller"),
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
            Some(endpoints) => {
                let (groups, skipped) = groups(endpoints);
                if skipped > 0 {
                    let message = format!("A max of {MOST_PER_SUBSET} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped");
                    self.events.record(&**endpoints, EventType::Warning, "TooManyAddressesToMirror", message);
                }
                pack(&existing, groups, &frame(key, endpoints), LARGEST_SLICE)
            }
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

/// One group per subset and address family, and how many addresses were too many.
fn groups(endpoints: &Endpoints) -> (Vec<Group>, usize) {
    let mut groups: Vec<Group> = Vec::new();
    let mut skipped = 0;
    for subset in subsets::repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let port = |port: k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
            name: Some(port.name.unwrap_or_default()),
            port: Some(port.port),
            protocol: port.protocol,
            app_protocol: port.app_protocol,
        };
        let ports = subset.ports.map(|ports| ports.into_iter().map(port).collect::<Vec<_>>());
        let ready = subset.addresses.into_iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.into_iter().flatten().map(|address| (address, false));
        for (number, (address, ready)) in ready.chain(not_ready).enumerate() {
            if number >= MOST_PER_SUBSET {
                skipped += 1;
                continue;
            }
            let address_type = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let endpoint = endpoint(address, ready);
            match groups.iter_mut().find(|group| group.address_type == address_type && group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { address_type: address_type.to_owned(), ports: ports.clone(), endpoints: vec![endpoint] }),
            }
        }
    }
    (groups, skipped)
}

fn endpoint(address: EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.filter(|name| !name.is_empty()),
        node_name: address.node_name,
        target_ref: address.target_ref,
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
        let shape: Vec<_> = groups(&endpoints).0.into_iter().map(|group| (group.address_type, group.endpoints.len())).collect();
        assert_eq!(shape, [("IPv4".to_owned(), 2), ("IPv6".to_owned(), 1)]);
    }

    #[test]
    fn what_is_too_many_for_a_subset_is_counted() {
        let addresses = (0..1030).map(|number| EndpointAddress { ip: format!("10.0.{}.{}", number / 250, number % 250), ..EndpointAddress::default() });
        let subset = EndpointSubset { addresses: Some(addresses.collect()), ..EndpointSubset::default() };
        let (groups, skipped) = groups(&Endpoints { subsets: Some(vec![subset]), ..Endpoints::default() });
        assert_eq!((groups[0].endpoints.len(), skipped), (MOST_PER_SUBSET, 30));
        let one = pack(&[], groups, &frame(&ObjectKey::namespaced("x", "web"), &Endpoints::default()), LARGEST_SLICE);
        assert_eq!(one.create.len(), 1, "a subset is one slice");
    }
}
