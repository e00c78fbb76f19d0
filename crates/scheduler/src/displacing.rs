//! Displaces pods to make room for a more important one: says why in their status, and deletes them with the time they ask for.

use std::sync::Arc;

use api::core::v1::Pod;
use client::{Api, Clock, DeleteParams, Patch, PatchParams, Preconditions};
use futures::future::join_all;
use serde_json::json;

use crate::pod_info::PodInfo;

/// Displaces all of them.
///
/// # Errors
/// The first failure but that of a pod that is gone already.
pub async fn displace(client: &client::Client, clock: &Arc<dyn Clock>, scheduler: &str, victims: &[Arc<PodInfo>]) -> client::Result<()> {
    let all = join_all(victims.iter().map(|victim| displace_one(client, clock, scheduler, victim))).await;
    all.into_iter().find(|result| result.as_ref().is_err_and(|error| !client::is_not_found(error))).unwrap_or(Ok(()))
}

async fn displace_one(client: &client::Client, clock: &Arc<dyn Clock>, scheduler: &str, victim: &PodInfo) -> client::Result<()> {
    if victim.terminating {
        return Ok(());
    }
    let pods = Api::<Pod>::namespaced(client.clone(), &victim.namespace);
    let mut condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    if let Some(generation) = victim.generation {
        condition["observedGeneration"] = json!(generation);
    }
    let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
    pods.patch_status(&victim.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    let same = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
    pods.delete(&victim.name, &DeleteParams { preconditions: Some(same), ..DeleteParams::default() }).await
}
