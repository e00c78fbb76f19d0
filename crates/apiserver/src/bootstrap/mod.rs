//! What a new cluster begins with: namespaces, roles and bindings, priority classes, the `kubernetes` Service.
//!
//! Everything is reconciled at every start through the same write path that clients use: what is missing is made, roles
//! and bindings get what they lack, and what an administrator changed otherwise is left alone.

mod policy;

use std::sync::Arc;

use kinds::ServedKind;
use meta::{ApiError, Object, Reason};
use serde_json::{Value, json};
use store::Expect;

use crate::{
    core::{Core, RequestContext},
    handler::{
        delete::delete_object,
        write::{Part, create_object, update_object},
    },
    options::DeleteOptions,
};

/// Namespaces every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes an object that is not there yet; whether it was made.
pub(crate) async fn ensure(core: &Arc<Core>, value: Value) -> Result<bool, ApiError> {
    let object = Object::from_value(value).map_err(|_| ApiError::internal("a bootstrap object is no JSON object"))?;
    let group_version = meta::GroupVersion::parse(object.api_version());
    let kind: Arc<dyn ServedKind> = core.kind_named(&group_version.group, &group_version.version, object.kind())?;
    if core.stored(&kind, object.namespace(), object.name()).is_some() {
        return Ok(false);
    }
    let mut context = RequestContext::internal(core, "create", object.namespace(), "");
    context.info.resource = kind.info().plural.to_string();
    match create_object(core, &context, &kind, object).await {
        Ok(_) => Ok(true),
        Err(error) if error.reason == Reason::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Changes an object of the server's own, with all retries of an update.
pub(crate) async fn change(core: &Arc<Core>, kind: &Arc<dyn ServedKind>, namespace: &str, name: &str, edit: impl Fn(&mut Object) + Send + Sync) -> Result<(), ApiError> {
    let context = RequestContext::internal(core, "update", namespace, name);
    let compute = |old: Option<&Object>| {
        let mut object = old.cloned().ok_or_else(|| ApiError::not_found(&kind.info().group_resource(), name))?;
        edit(&mut object);
        Ok(object)
    };
    update_object(core, &context, kind, Part::Whole, false, Expect::Absent, &compute).await.map(|_| ())
}

/// Deletes an object of the server's own.
async fn remove(core: &Arc<Core>, kind: &Arc<dyn ServedKind>, namespace: &str, name: &str) -> Result<(), ApiError> {
    remove_if(core, kind, namespace, name, &DeleteOptions::default()).await
}

/// Deletes an object of the server's own, on conditions.
pub(crate) async fn remove_if(core: &Arc<Core>, kind: &Arc<dyn ServedKind>, namespace: &str, name: &str, options: &DeleteOptions) -> Result<(), ApiError> {
    let mut context = RequestContext::internal(core, "delete", namespace, name);
    context.info.resource = kind.info().plural.to_string();
    delete_object(core, &context, kind, options).await.map(|_| ())
}

/// Makes everything a cluster begins with. Safe to repeat.
///
/// # Errors
/// The first write that fails.
pub async fn run(core: &Arc<Core>) -> Result<(), ApiError> {
    for name in NAMESPACES {
        ensure(core, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    policy::reconcile(core).await?;
    for (name, value, words) in [
        ("system-cluster-critical", 2_000_000_000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
    ] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value, "description": words});
        ensure(core, class).await?;
    }
    ensure(
        core,
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": core.facts.service_cidrs}}),
    )
    .await?;
    kubernetes_service(core).await?;
    core.starting.lock().clear();
    Ok(())
}

/// The `kubernetes` Service and the EndpointSlice that names this server.
async fn kubernetes_service(core: &Arc<Core>) -> Result<(), ApiError> {
    let Some(address) = core.facts.advertise else { return Ok(()) };
    let Some(first) = core.facts.service_cidrs.first().and_then(|range| crate::effects::service::first_address(range)) else { return Ok(()) };
    ensure(
        core,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP", "clusterIP": first.to_string(), "clusterIPs": [first.to_string()], "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}],
            },
        }),
    )
    .await?;
    if address.ip().is_loopback() {
        // A server for this machine alone: endpoints of that kind are invalid, since every pod would take them for itself.
        tracing::warn!(%address, "pods cannot reach the API through its Service: name an address that they can with --advertise-address");
        return Ok(());
    }
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let endpoints = json!([{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}]);
    let ports = json!([{"name": "https", "port": address.port(), "protocol": "TCP"}]);
    let metadata = json!({"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": family, "endpoints": endpoints, "ports": ports});
    if !ensure(core, slice).await? {
        let kind = core.kind_named("discovery.k8s.io", "v1", "EndpointSlice")?;
        change(core, &kind, "default", "kubernetes", |object| {
            object.0.insert("endpoints".to_owned(), endpoints.clone());
            object.0.insert("ports".to_owned(), ports.clone());
        })
        .await?;
    }
    let subsets = json!([{"addresses": [{"ip": address.ip().to_string()}], "ports": ports}]);
    let mirror_metadata = json!({"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}});
    if !ensure(core, json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": mirror_metadata, "subsets": subsets})).await? {
        let kind = core.kind_named("", "v1", "Endpoints")?;
        change(core, &kind, "default", "kubernetes", |object| {
            object.0.insert("subsets".to_owned(), subsets.clone());
        })
        .await?;
    }
    Ok(())
}
