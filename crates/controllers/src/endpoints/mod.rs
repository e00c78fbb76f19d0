//! Which pods stand behind a Service: as EndpointSlices, which everything here reads, and as the older Endpoints.
//!
//! [`backends`] finds the pods and their ports, [`pack`] fits endpoints into slices with few changes, [`topology`] says for which zone
//! each is meant, [`trigger_times`] since when it should have been so; [`slices`], [`legacy`] and
//! [`mirror`] are the three controllers: slices from pods, Endpoints from pods, slices from Endpoints somebody else wrote.

mod backends;
mod legacy;
mod mirror;
mod pack;
mod slices;
mod subsets;
mod topology;
mod trigger_times;

use client::{Informer, ObjectKey};
use controller::{Change, Runner, Trigger};
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::{ControllerContext, pods};

const WORKERS: usize = 5;

/// Starts the three controllers.
pub fn start(context: &ControllerContext, runner: &Runner) {
    runner.start(slices::SliceController::new(context), WORKERS);
    runner.start(legacy::EndpointsController::new(context), WORKERS);
    runner.start(mirror::MirrorController::new(context), 2);
}

/// Wakes the Services that select a pod, when something changes that their endpoints show.
fn services_of_pods(pods: &Informer<Pod>, services: &Informer<Service>) -> Trigger {
    let services = services.clone();
    Trigger::on(pods, move |change: &Change<Pod>| {
        let shown = |pod: &Pod| {
            let spec = pod.spec.as_ref();
            (
                (pods::is_ready(pod), pods::is_terminating(pod), pods::is_finished(pod), pod.metadata.uid.clone()),
                pod.status.as_ref().and_then(|status| status.pod_ips.clone()),
                spec.map(|spec| (spec.node_name.clone(), spec.hostname.clone(), spec.subdomain.clone())),
                pod.metadata.labels.clone(),
            )
        };
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && shown(old) == shown(new)
        {
            return Vec::new();
        }
        let selects = |service: &Service| [&change.old, &change.new].into_iter().flatten().any(|pod| backends::selects(service, pod));
        let namespace = change.key.namespace.as_deref().unwrap_or_default();
        services.list_in(namespace).iter().filter(|service| selects(service)).map(|service| client::key_of(&**service)).collect()
    })
}

/// The labels of a Service that its endpoints carry too.
/// Source: Kubernetes 1.36, `setEndpointSliceLabels`.
fn inherited_labels(service: &Service) -> std::collections::BTreeMap<String, String> {
    let reserved = ["endpointslice.kubernetes.io/managed-by", "kubernetes.io/service-name", HEADLESS, "endpoints.kubernetes.io/managed-by"];
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|name, _| !reserved.contains(&name.as_str()));
    if backends::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

const HEADLESS: &str = "service.kubernetes.io/headless";

/// The key that a slice belongs to: the Service it is labelled with.
fn service_of_slice(slice: &k8s_openapi::api::discovery::v1::EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(pack::SERVICE_NAME)?;
    Some(ObjectKey::namespaced(slice.metadata.namespace.as_deref()?, name))
}
