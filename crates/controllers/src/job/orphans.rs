//! Pods that carry a Job's finalizer and belong to no Job any more: nobody will count them, and they could never go.
//! Source: Kubernetes 1.36, `syncOrphanPod`.

use std::sync::Arc;

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, Patch, PatchParams};
use controller::ownership::controller_of;
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{TRACKING, is_tracked};
use crate::selector::Selector;

/// Takes the finalizers away.
pub(super) struct Orphans {
    pub client: client::Client,
    pub jobs: Informer<Job>,
    pub pods: Informer<Pod>,
}

/// Whether a pod waits for a Job that will not come: none controls it, and none of its namespace selects it.
fn is_forsaken(pod: &Pod, jobs: &[Arc<Job>]) -> bool {
    let selects = |job: &Job| {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        job.metadata.deletion_timestamp.is_none() && selector.is_some_and(|selector| Selector::new(selector).selects_object(&pod.metadata))
    };
    is_tracked(pod) && controller_of(&pod.metadata).is_none() && !jobs.iter().any(|job| selects(job))
}

#[async_trait]
impl Reconciler for Orphans {
    fn name(&self) -> &'static str {
        "job-orphans"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let pods = self.pods.clone();
        vec![
            Trigger::on(&self.pods, |change| {
                let concerns = change.new.as_ref().is_some_and(|pod| is_tracked(pod) && controller_of(&pod.metadata).is_none());
                if concerns { vec![change.key.clone()] } else { Vec::new() }
            }),
            // One that would have adopted them is gone.
            Trigger::on(&self.jobs, move |change| {
                if change.new.as_ref().is_some_and(|job| job.metadata.deletion_timestamp.is_none()) {
                    return Vec::new();
                }
                let all = pods.list_in(change.key.namespace.as_deref().unwrap_or_default());
                let orphans = all.into_iter().filter(|pod| is_tracked(pod) && controller_of(&pod.metadata).is_none());
                orphans.map(|pod| client::key_of(&*pod)).collect()
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let Some(pod) = self.pods.get(key).filter(|pod| is_forsaken(pod, &self.jobs.list_in(namespace))) else { return Ok(Outcome::Settled) };
        let finalizers: Vec<_> = pod.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != TRACKING).collect();
        let patch = json!({ "metadata": { "finalizers": finalizers, "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version } });
        match Api::<Pod>::namespaced(self.client.clone(), namespace).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if client::is_not_found(&error) => {}
            other => drop(other.doing(|| format!("take the finalizer from pod {key}"))?),
        }
        Ok(Outcome::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_forsaken_when_no_job_has_it_or_would_have_it() {
        let pod = |finalizers: &[&str], owned: bool| -> Pod {
            let owners = if owned { json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": "sum", "uid": "u", "controller": true }]) } else { json!([]) };
            serde_json::from_value(json!({ "metadata": { "name": "p", "labels": { "a": "b" }, "finalizers": finalizers, "ownerReferences": owners } })).unwrap()
        };
        let job = |label: &str, leaves: bool| -> Arc<Job> {
            let metadata = if leaves { json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }) } else { json!({}) };
            Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": { "selector": { "matchLabels": { "a": label } }, "template": {} } })).unwrap())
        };
        assert!(is_forsaken(&pod(&[TRACKING], false), &[job("c", false), job("b", true)]));
        assert!(!is_forsaken(&pod(&[TRACKING], false), &[job("b", false)]));
        assert!(!is_forsaken(&pod(&[TRACKING], true), &[]) && !is_forsaken(&pod(&[], false), &[]));
    }
}
