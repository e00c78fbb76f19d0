//! EndpointSlices of a Service that selects pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, EventRecorder, EventType, Index, Informer, ObjectKey, PostParams};
use controller::ownership::controller_reference;
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger, Writes};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone};
use parking_lot::Mutex;

use super::backends::{self, BackendPort};
use super::pack::{Changes, Frame, Group, LARGEST_SLICE, MANAGED_BY, SERVICE_NAME, pack};
use super::topology::{self, ZONE};
use super::trigger_times::{TriggerTimes, note};
use super::{inherited_labels, service_of_slice, services_of_pods};
use crate::{ControllerContext, pods};

const MANAGER: &str = "endpointslice-controller.k8s.io";
/// How soon pods are looked at again whose node is not known. Source: Kubernetes 1.36, `defaultSyncBackOff`.
const UNKNOWN_NODE_WAIT: Duration = Duration::from_secs(1);

/// Keeps the slices.
pub(super) struct SliceController {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: SliceWriter,
    events: EventRecorder,
    trigger_times: TriggerTimes,
    /// The Services with hints by the CPUs of zones: told of when that begins and when it ends.
    hinted: Mutex<BTreeSet<ObjectKey>>,
}

impl SliceController {
    pub fn new(context: &ControllerContext) -> Self {
        Self {
            services: context.informers.of(),
            pods: context.informers.of(),
            nodes: context.informers.of(),
            slices: SliceWriter::new(context, "endpointslice-controller", MANAGER),
            events: context.events_as("endpointslice-controller", "endpoint-slice-controller"),
            trigger_times: TriggerTimes::default(),
            hinted: Mutex::default(),
        }
    }

    fn zone(&self, node: Option<&str>) -> Option<String> {
        self.nodes.get(&ObjectKey::cluster(node?))?.metadata.labels.as_ref()?.get(ZONE).filter(|zone| !zone.is_empty()).cloned()
    }

    /// Hints by the CPUs of zones, where the Service asks for them, and what the Service is told of them.
    fn distribute(&self, key: &ObjectKey, service: &Service, changes: &mut Changes, existing: &[Arc<EndpointSlice>]) {
        let tell = |kind, reason: &str, message: &str, family: &str| self.events.record(service, kind, reason, format!("{message}, addressType: {family}"));
        let mut hinted = self.hinted.lock();
        for family in families(service) {
            if !topology::is_asked_for(service) {
                if hinted.remove(key) {
                    tell(EventType::Warning, "TopologyAwareHintsDisabled", topology::DISABLED, &family);
                }
                continue;
            }
            let shares = topology::shares(&self.nodes.list());
            match topology::distribute(changes, existing, &family, shares.as_ref()) {
                Ok(_) => {
                    if hinted.insert(key.clone()) {
                        tell(EventType::Normal, "TopologyAwareHintsEnabled", topology::ENABLED, &family);
                    }
                }
                Err(why) => {
                    hinted.remove(key);
                    tell(EventType::Warning, "TopologyAwareHintsDisabled", &why, &family);
                }
            }
        }
    }
}

/// Wakes the Services that want hints by the CPUs of zones, when those change.
fn hinted_services(nodes: &Informer<Node>, services: &Informer<Service>) -> Trigger {
    let services = services.clone();
    Trigger::on(nodes, move |change| {
        let counted = |node: &Option<Arc<Node>>| node.as_ref().and_then(|node| topology::counted(node).map(|(zone, cpu)| (zone.map(str::to_owned), cpu)));
        if counted(&change.old) == counted(&change.new) {
            return Vec::new();
        }
        services.list().iter().filter(|service| topology::is_asked_for(service)).map(|service| client::key_of(&**service)).collect()
    })
}

#[async_trait]
impl Reconciler for SliceController {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself(&self.services),
            services_of_pods(&self.pods, &self.services),
            self.slices.trigger(),
            hinted_services(&self.nodes, &self.services),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(service) = self.services.get(key).filter(|service| service.metadata.deletion_timestamp.is_none()) else {
            // The garbage collector removes what a Service leaves behind.
            self.slices.writes.forget(key);
            self.trigger_times.forget(key);
            self.hinted.lock().remove(key);
            return Ok(Outcome::Settled);
        };
        if !self.slices.writes.are_visible(key) {
            return Ok(Outcome::CheckAgainIn(Writes::<EndpointSlice>::patience()));
        }
        let existing = self.slices.existing(key);
        if !backends::has_selector(&service) {
            return Ok(Outcome::Settled);
        }
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let mut pods: Vec<_> = self.pods.list_in(namespace).into_iter().filter(|pod| backends::selects(&service, pod)).collect();
        // Asked each time, so that what needs no write counts as seen.
        let since = self.trigger_times.of(key, &service, &pods);
        let mut lost = Vec::new();
        if !backends::publishes_not_ready(&service) {
            let is_known = |pod: &Arc<Pod>| !backends::can_serve(pod) || self.nodes.get(&ObjectKey::cluster(pods::node_name(pod))).is_some();
            (pods, lost) = pods.into_iter().partition(is_known);
        }
        let mut wanted = groups(&service, &pods, |node| self.zone(node));
        if topology::is_asked_for(&service) {
            topology::carry_over(&existing, &mut wanted);
        }
        let mut labels = inherited_labels(&service);
        labels.insert(SERVICE_NAME.to_owned(), key.name.to_string());
        labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        let frame = Frame {
            namespace: namespace.to_owned(),
            service: key.name.to_string(),
            labels,
            annotations: None,
            owner: controller_reference(&*service),
        };
        let mut changes = pack(&existing, wanted, &frame, LARGEST_SLICE);
        self.distribute(key, &service, &mut changes, &existing);
        for slice in changes.create.iter_mut().chain(&mut changes.update) {
            note(&mut slice.metadata.annotations, since);
        }
        let result = self.slices.apply(key, changes).await;
        if let Err(ReconcileError::Api { source, .. }) = &result
            && !client::is_conflict(source)
            && !crate::namespace_is_terminating(source)
        {
            let message = format!("Error updating Endpoint Slices for Service {key}: {}", crate::api_message(source));
            self.events.record(&*service, EventType::Warning, "FailedToUpdateEndpointSlices", message);
        }
        let outcome = crate::unless_namespace_terminates(result)?;
        let Some(pod) = lost.first() else { return Ok(outcome) };
        // The pod is not served to anybody while nobody knows where it is; soon it is removed, or its node is known.
        let (pod, node) = (pod.metadata.name.as_deref().unwrap_or_default(), pods::node_name(pod));
        let why = format!("skipping Pod {pod} for Service {key}: Node {node} Not Found");
        self.events.record(&*service, EventType::Warning, "FailedToUpdateEndpointSlices", format!("Error updating Endpoint Slices for Service {key}: {why}"));
        Ok(Outcome::CheckAgainIn(UNKNOWN_NODE_WAIT))
    }
}

/// The families of addresses a Service has.
fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).filter(|families| !families.is_empty());
    families.unwrap_or_else(|| vec!["IPv4".to_owned()])
}

/// The endpoints a Service should have, those with the same ports together.
fn groups(service: &Service, pods: &[Arc<Pod>], zone: impl Fn(Option<&str>) -> Option<String>) -> Vec<Group> {
    let mut all = Vec::new();
    for family in families(service) {
        let mut by_ports: BTreeMap<Vec<BackendPort>, Vec<Endpoint>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| backends::can_serve(pod)) {
            let addresses = backends::addresses(pod, family == "IPv6");
            if !addresses.is_empty() {
                by_ports.entry(backends::ports(service, pod)).or_default().push(endpoint(service, pod, addresses, &zone));
            }
        }
        if by_ports.is_empty() {
            all.push(Group { address_type: family, ports: None, endpoints: Vec::new() });
            continue;
        }
        all.extend(by_ports.into_iter().map(|(ports, endpoints)| Group {
            address_type: family.clone(),
            ports: Some(ports.into_iter().map(slice_port).collect()).filter(|ports: &Vec<_>| !ports.is_empty()),
            endpoints,
        }));
    }
    all
}

fn slice_port(port: BackendPort) -> EndpointPort {
    EndpointPort { name: Some(port.name), protocol: Some(port.protocol), port: Some(port.port), app_protocol: port.app_protocol }
}

fn endpoint(service: &Service, pod: &Pod, addresses: Vec<String>, zone: &impl Fn(Option<&str>) -> Option<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let zone = zone(node_name.as_deref());
    let ready = backends::publishes_not_ready(service) || serving && !terminating;
    let hints = if ready { hints(service, zone.as_deref(), node_name.as_deref()) } else { None };
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: backends::hostname(service, pod),
        zone,
        node_name,
        target_ref: Some(backends::reference(pod)),
        hints,
        ..Endpoint::default()
    }
}

/// For whom an endpoint is meant first, where the Service wants its traffic to stay near.
/// Source: Kubernetes 1.36, `trafficdist.ReconcileHints`.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    if topology::is_asked_for(service) {
        return None;
    }
    let by_node = match service.spec.as_ref()?.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let for_nodes = node.filter(|_| by_node).map(|node| vec![ForNode { name: node.to_owned() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

/// Reads and writes the slices that one of the two slice controllers manages.
pub(super) struct SliceWriter {
    client: client::Client,
    slices: Informer<EndpointSlice>,
    by_service: Index<EndpointSlice>,
    pub writes: Writes<EndpointSlice>,
    manager: &'static str,
}

impl SliceWriter {
    pub fn new(context: &ControllerContext, account: &str, manager: &'static str) -> Self {
        let slices = context.informers.of::<EndpointSlice>();
        Self {
            client: context.client(account),
            by_service: slices.index("service", |slice| service_of_slice(slice).iter().map(ToString::to_string).collect()),
            writes: Writes::new(slices.clone(), context.clock.clone()),
            slices,
            manager,
        }
    }

    /// The managed slices of a Service.
    pub fn existing(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let mut slices = self.by_service.get(&service.to_string());
        slices.retain(|slice| self.manages(slice) && slice.metadata.deletion_timestamp.is_none());
        slices
    }

    fn manages(&self, slice: &EndpointSlice) -> bool {
        slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).map(String::as_str) == Some(self.manager)
    }

    /// Wakes a Service whose managed slices somebody changed.
    pub fn trigger(&self) -> Trigger {
        let manager = self.manager;
        Trigger::on(&self.slices, move |change| {
            let is_ours = |slice: &&Arc<EndpointSlice>| slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).map(String::as_str) == Some(manager);
            [&change.old, &change.new].into_iter().flatten().filter(is_ours).filter_map(|slice| service_of_slice(slice)).collect()
        })
    }

    pub async fn apply(&self, service: &ObjectKey, changes: Changes) -> Result<Outcome, ReconcileError> {
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), service.namespace.as_deref().unwrap_or_default());
        for slice in &changes.create {
            let created = api.create(&PostParams::default(), slice).await.doing(|| format!("create an endpoint slice for {service}"))?;
            self.writes.wrote(service, &created);
        }
        // All at once: nodes must not send requests to an endpoint that ends because another slice waits for the disk first.
        let updates = changes.update.iter().map(|slice| async {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            match api.replace(name, &PostParams::default(), slice).await {
                Ok(updated) => self.writes.wrote(service, &updated),
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => return Err(error).doing(|| format!("update endpoint slice {name}")),
            }
            Ok(())
        });
        join_all(updates).await.into_iter().collect::<Result<(), ReconcileError>>()?;
        for slice in &changes.delete {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => self.writes.deleted(service, slice),
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => return Err(error).doing(|| format!("delete endpoint slice {name}")),
            }
        }
        Ok(Outcome::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::backends::tests::{backend, service};
    use crate::pods::tests::second;

    fn conditions(groups: &[Group]) -> Vec<(String, bool, bool, bool)> {
        let endpoints = groups.iter().flat_map(|group| &group.endpoints);
        let line = |endpoint: &Endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            (endpoint.addresses[0].clone(), conditions.ready == Some(true), conditions.serving == Some(true), conditions.terminating == Some(true))
        };
        endpoints.map(line).collect()
    }

    #[test]
    fn pods_with_the_same_ports_share_a_group() {
        let pods = [backend("a", "10.0.0.1", 80, true), backend("b", "10.0.0.2", 80, false), backend("c", "10.0.0.3", 81, true)];
        let groups = groups(&service(), &pods, |_| Some("here".to_owned()));
        let ports: Vec<_> = groups.iter().map(|group| group.ports.as_ref().unwrap()[0].port.unwrap()).collect();
        assert_eq!(ports, [80, 81]);
        assert_eq!(groups[0].endpoints[0].zone.as_deref(), Some("here"));
        let ready: Vec<_> = conditions(&groups).into_iter().map(|(address, ready, _, _)| (address, ready)).collect();
        assert_eq!(ready, [("10.0.0.1".to_owned(), true), ("10.0.0.2".to_owned(), false), ("10.0.0.3".to_owned(), true)]);
    }

    #[test]
    fn traffic_that_should_stay_near_is_told_where() {
        let check = |wish: Option<&str>, ready: bool, zone: Option<&str>, expected: Option<(bool, bool)>| {
            let mut service = service();
            service.spec.get_or_insert_default().traffic_distribution = wish.map(str::to_owned);
            let groups = groups(&service, &[backend("a", "10.0.0.1", 80, ready)], |_| zone.map(str::to_owned));
            let hints = groups[0].endpoints[0].hints.clone();
            let shape = hints.map(|hints| {
                let zone = hints.for_zones.map(|zones| zones[0].name == "here");
                let node = hints.for_nodes.map(|nodes| nodes[0].name == "node");
                (zone == Some(true), node == Some(true))
            });
            assert_eq!(shape, expected, "{wish:?}");
        };
        check(None, true, Some("here"), None);
        check(Some("PreferClose"), true, Some("here"), Some((true, false)));
        check(Some("PreferSameZone"), true, None, None);
        check(Some("PreferSameNode"), true, Some("here"), Some((true, true)));
        check(Some("PreferSameNode"), false, Some("here"), None);
    }

    #[test]
    fn a_terminating_pod_still_serves_but_is_not_ready() {
        let mut pod = (*backend("a", "10.0.0.1", 80, true)).clone();
        pod.metadata.deletion_timestamp = Some(second(1));
        assert_eq!(conditions(&groups(&service(), &[Arc::new(pod)], |_| None)), [("10.0.0.1".to_owned(), false, true, true)]);
    }

    #[test]
    fn not_ready_pods_can_be_published_and_ended_ones_never() {
        let mut eager = service();
        eager.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
        let mut ended = (*backend("b", "10.0.0.2", 80, true)).clone();
        ended.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        let pods = [backend("a", "10.0.0.1", 80, false), Arc::new(ended)];
        assert_eq!(conditions(&groups(&eager, &pods, |_| None)), [("10.0.0.1".to_owned(), true, false, false)]);
    }

    #[test]
    fn a_dual_stack_service_has_groups_of_both_families() {
        let mut both = service();
        both.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".to_owned(), "IPv6".to_owned()]);
        let groups = groups(&both, &[backend("a", "10.0.0.1", 80, true)], |_| None);
        let shape: Vec<_> = groups.iter().map(|group| (group.address_type.as_str(), group.endpoints.len())).collect();
        assert_eq!(shape, [("IPv4", 1), ("IPv6", 0)]);
    }
}
