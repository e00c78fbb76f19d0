//! Binds a pod to the node that was chosen, after its claims got their volumes.

use std::{sync::Arc, time::Duration};

use api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use client::{Api, Clock, Informer, ObjectKey, PostParams};
use thiserror::Error;

use crate::{
    extender::ExtenderError,
    pod_info::PodInfo,
    volumes::{VolumePlan, is_bound},
};

/// A claim has this long to get its volume before the pod is decided anew. Source: upstream's `bindTimeoutSeconds`.
const VOLUMES_WITHIN: Duration = Duration::from_secs(600);

/// Why a pod could not be bound.
#[derive(Debug, Error)]
pub enum BindError {
    /// The API refused, or did not answer.
    #[error(transparent)]
    Api(#[from] client::Error),
    /// The extender that binds did not.
    #[error(transparent)]
    Extender(#[from] ExtenderError),
    /// A claim had no volume in time, or lost the node that was chosen for it.
    #[error("the claim {0} got no volume on the chosen node")]
    NoVolume(ObjectKey),
}

/// Tells the API on which node a pod is.
///
/// # Errors
/// As the API answers.
pub async fn bind(client: &client::Client, pod: &PodInfo, node: &str) -> Result<(), BindError> {
    let binding = Binding {
        metadata: client::ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..Default::default()
        },
        target: ObjectReference { kind: Some("Node".to_owned()), name: Some(node.to_owned()), ..Default::default() },
    };
    let body = api::Json::to_json(&binding).map_err(client::Error::SerdeError)?;
    let request = client::Request::new(<Pod as client::Resource>::url_path(&(), Some(&pod.namespace)));
    let request = request.create_subresource("binding", &pod.name, &PostParams::default(), body).map_err(client::Error::BuildRequest)?;
    client::requests::exchange(client, request).await?;
    Ok(())
}

/// Gives the claims of a pod the volumes that were chosen for them, or asks for volumes on the node, and waits until they have them.
///
/// # Errors
/// Where the API refuses, or a claim stays without volume.
pub async fn bind_volumes(
    client: &client::Client,
    clock: &Arc<dyn Clock>,
    claims: &Informer<PersistentVolumeClaim>,
    volumes: &Informer<PersistentVolume>,
    plan: &VolumePlan,
    node: &str,
) -> Result<(), BindError> {
    for (key, name) in &plan.matches {
        let (Some(claim), Some(volume)) = (claims.get(key), volumes.get(&ObjectKey::cluster(name))) else { return Err(BindError::NoVolume(key.clone())) };
        let mut volume = PersistentVolume::clone(&volume);
        let reference = client::events::reference(&*claim);
        volume.spec.get_or_insert_default().claim_ref = Some(ObjectReference { field_path: None, ..reference });
        volume.metadata.annotations.get_or_insert_default().insert("pv.kubernetes.io/bound-by-controller".to_owned(), "yes".to_owned());
        Api::<PersistentVolume>::all(client.clone()).replace(name, &PostParams::default(), &volume).await?;
    }
    for key in &plan.provision {
        let Some(claim) = claims.get(key) else { return Err(BindError::NoVolume(key.clone())) };
        let mut claim = PersistentVolumeClaim::clone(&claim);
        claim.metadata.annotations.get_or_insert_default().insert("volume.kubernetes.io/selected-node".to_owned(), node.to_owned());
        let namespace = key.namespace.as_deref().unwrap_or_default();
        Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace).replace(&key.name, &PostParams::default(), &claim).await?;
    }
    let mut changes = claims.subscribe();
    let mut missing: Vec<ObjectKey> = plan.matches.iter().map(|(key, _)| key).chain(&plan.provision).cloned().collect();
    let too_late = clock.sleep(VOLUMES_WITHIN);
    tokio::pin!(too_late);
    // The subscription begins with every claim there is, so nothing is missed.
    while !missing.is_empty() {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = &mut too_late => None,
        };
        let Some(change) = change else { break };
        if change.new.as_ref().is_some_and(|claim| is_bound(claim)) {
            missing.retain(|key| *key != change.key);
        }
    }
    missing.into_iter().next().map_or(Ok(()), |key| Err(BindError::NoVolume(key)))
}
