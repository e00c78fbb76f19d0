//! The Endpoints object of a Service that selects pods, for clients that do not know EndpointSlices.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, DeleteParams, EventRecorder, EventType, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backends::{self, BackendPort};
use super::trigger_times::{LAST_CHANGE, TriggerTimes, note};
use super::{inherited_labels, services_of_pods, subsets};
use crate::{ControllerContext, pods};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// Keeps the Endpoints.
pub(super) struct EndpointsController {
    client: client::Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    trigger_times: TriggerTimes,
    events: EventRecorder,
}

impl EndpointsController {
    pub fn new(context: &ControllerContext) -> Self {
        Self {
            client: context.client("endpoint-controller"),
            services: context.informers.of(),
            pods: context.informers.of(),
            endpoints: context.informers.of(),
            trigger_times: TriggerTimes::default(),
            events: context.events("endpoint-controller"),
        }
    }
}

#[async_trait]
impl Reconciler for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let services = self.services.clone();
        vec![
            Trigger::itself(&self.services),
            services_of_pods(&self.pods, &self.services),
            // Endpoints without a Service are a user's own and left alone; they go when a Service of their name goes.
            Trigger::on(&self.endpoints, move |change| services.get(&change.key).map(|_| change.key.clone()).into_iter().collect()),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let api = Api::<Endpoints>::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        let existing = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            self.trigger_times.forget(key);
            if existing.is_some() {
                match api.delete(&key.name, &DeleteParams::default()).await {
                    Err(error) if client::is_not_found(&error) => {}
                    other => drop(other.doing(|| format!("delete endpoints {key}"))?),
                }
            }
            return Ok(Outcome::Settled);
        };
        if !backends::has_selector(&service) {
            return Ok(Outcome::Settled);
        }
        let pods: Vec<_> =
            self.pods.list_in(key.namespace.as_deref().unwrap_or_default()).into_iter().filter(|pod| backends::selects(&service, pod)).collect();
        let since = self.trigger_times.of(key, &service, &pods);
        let mut wanted = endpoints(&service, &pods, existing.as_deref());
        if existing.as_ref().is_some_and(|existing| same(existing, &wanted)) {
            return Ok(Outcome::Settled);
        }
        note(&mut wanted.metadata.annotations, since);
        let result = match &existing {
            Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        if let Err(error) = &result
            && !client::is_conflict(error)
            && !crate::namespace_is_terminating(error)
        {
            let message = crate::api_message(error);
            let (reason, message) = match &existing {
                Some(_) => ("FailedToUpdateEndpoint", format!("Failed to update endpoint {key}: {message}")),
                None => ("FailedToCreateEndpoint", format!("Failed to create endpoint for service {key}: {message}")),
            };
            self.events.record(&wanted, EventType::Warning, reason, message);
        }
        crate::unless_namespace_terminates(result.map(|_| Outcome::Settled).doing(|| format!("write endpoints {key}")))
    }
}

/// Whether there is nothing to write. Since when it is so may differ.
fn same(one: &Endpoints, other: &Endpoints) -> bool {
    let annotations = |endpoints: &Endpoints| {
        let mut all = endpoints.metadata.annotations.clone().unwrap_or_default();
        all.remove(LAST_CHANGE);
        all
    };
    one.subsets.as_deref().unwrap_or_default() == other.subsets.as_deref().unwrap_or_default()
        && one.metadata.labels == other.metadata.labels
        && annotations(one) == annotations(other)
}

/// What a Service's Endpoints should be. Each set of ports is a subset, with ready addresses apart from the others.
fn endpoints(service: &Service, pods: &[Arc<Pod>], existing: Option<&Endpoints>) -> Endpoints {
    let ipv6 = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref()?.first()).is_some_and(|family| family == "IPv6");
    let headless_without_ports = backends::is_headless(service) && service.spec.as_ref().is_some_and(|spec| spec.ports.as_ref().is_none_or(Vec::is_empty));
    let published = backends::publishes_not_ready(service);
    let mut subsets = Vec::new();
    for pod in pods.iter().filter(|pod| backends::can_serve(pod) && (published || !pods::is_terminating(pod))) {
        let Some(address) = backends::addresses(pod, ipv6).into_iter().next() else { continue };
        let ports: Vec<_> = backends::ports(service, pod).into_iter().map(endpoint_port).collect();
        if ports.is_empty() && !headless_without_ports {
            continue;
        }
        let address = EndpointAddress {
            ip: address,
            hostname: backends::hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(backends::reference(pod)),
        };
        let (addresses, not_ready_addresses) = if published || pods::is_ready(pod) { (Some(vec![address]), None) } else { (None, Some(vec![address])) };
        subsets.push(EndpointSubset { addresses, not_ready_addresses, ports: Some(ports) });
    }
    let mut subsets = subsets::repack(&subsets);
    let over_capacity = subsets::truncate(&mut subsets);
    let mut labels = inherited_labels(service);
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    let base = existing.map(|existing| existing.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    });
    let mut annotations = base.annotations.clone().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if over_capacity {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    Endpoints {
        metadata: ObjectMeta { labels: Some(labels), annotations: Some(annotations).filter(|all| !all.is_empty()), ..base },
        subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
    }
}

fn endpoint_port(port: BackendPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        protocol: Some(port.protocol),
        port: port.port,
        app_protocol: port.app_protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::backends::tests::{backend, service};
    use crate::pods::tests::second;

    #[test]
    fn ready_addresses_stand_apart_and_terminating_pods_are_gone() {
        let mut leaving = (*backend("c", "10.0.0.3", 80, true)).clone();
        leaving.metadata.deletion_timestamp = Some(second(1));
        let pods = [backend("b", "10.0.0.2", 80, true), backend("a", "10.0.0.1", 80, true), backend("d", "10.0.0.4", 80, false), Arc::new(leaving)];
        let made = endpoints(&service(), &pods, None);
        let subsets = made.subsets.clone().unwrap();
        let texts = |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>();
        assert_eq!(subsets.len(), 1);
        assert_eq!(texts(&subsets[0].addresses), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(texts(&subsets[0].not_ready_addresses), ["10.0.0.4"]);
        assert!(same(&made, &endpoints(&service(), &pods, Some(&made))));
    }
}
