//! How much of each ResourceQuota is used, counted from what there is. Refusing what would be too much is admission's, which
//! also charges what is new: this controller counts when a quota changes and when things go, and now and then in any case.
//! What one object uses is told by `kinds::quota`, to both.

mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::content::Content;
use crate::{ControllerContext, pods};
use usage::Counted;

const CONTROLLER: &str = "resourcequota-controller";

/// How often a quota is counted anew where nothing tells to: a write that admission charged can still fail, which nobody
/// hears of, and somebody may have written into the status. Upstream's `--resource-quota-sync-period` is five minutes, which
/// is exactly as long as its conformance suite waits for a status to be set right.
const RECOUNT: Duration = Duration::from_secs(120);

/// Starts the controller. `content` counts objects of kinds that nothing else caches.
pub fn start(context: &ControllerContext, runner: &Runner, content: Content) {
    let controller = QuotaController {
        client: context.client(CONTROLLER),
        quotas: context.informers.of(),
        pods: context.informers.of(),
        services: context.informers.of(),
        claims: context.informers.of(),
        content,
    };
    runner.start(controller, 2);
}

struct QuotaController {
    client: client::Client,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    content: Content,
}

impl QuotaController {
    fn used(&self, quota: &ResourceQuota, namespace: &str, before: &ResourceQuotaStatus) -> BTreeMap<String, Quantity> {
        let counted = Counted {
            pods: &self.pods.list_in(namespace),
            services: &self.services.list_in(namespace),
            claims: &self.claims.list_in(namespace),
            count: &|group, resource| match (group, resource) {
                // What counts the others may not have seen this quota yet.
                ("", "resourcequotas") => Some(self.quotas.list_in(namespace).len()),
                _ => self.content.count(group, resource, namespace),
            },
        };
        usage::used(quota, &counted, &before.used.clone().unwrap_or_default())
    }
}

/// The keys of a namespace's quotas; mostly none, and then a change costs nothing.
fn quotas_of(quotas: &Informer<ResourceQuota>, namespace: Option<&str>) -> Vec<ObjectKey> {
    if quotas.is_empty() {
        return Vec::new();
    }
    quotas.list_in(namespace.unwrap_or_default()).iter().map(|quota| client::key_of(&**quota)).collect()
}

#[async_trait]
impl Reconciler for QuotaController {
    fn name(&self) -> &'static str {
        "resourcequota"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (by_pod, by_service, by_claim, by_content) = (self.quotas.clone(), self.quotas.clone(), self.quotas.clone(), self.quotas.clone());
        let content = self.content.clone();
        vec![
            // Admission charges a quota before the object is there. Counting at once would give the charge back, and let
            // too many in.
            Trigger::on(&self.quotas, |change| {
                let hard = |quota: &Option<Arc<ResourceQuota>>| quota.as_ref().map(|quota| quota.spec.as_ref().and_then(|spec| spec.hard.clone()));
                if hard(&change.old) == hard(&change.new) { Vec::new() } else { vec![change.key.clone()] }
            }),
            // What pods use changes when they go, end or are resized.
            Trigger::on(&self.pods, move |change| {
                let gives_back = change.old.as_ref().is_some_and(|old| {
                    change.new.as_ref().is_none_or(|new| pods::is_finished(old) != pods::is_finished(new) || old.metadata.generation != new.metadata.generation)
                });
                if gives_back { quotas_of(&by_pod, change.key.namespace.as_deref()) } else { Vec::new() }
            }),
            Trigger::on(&self.services, move |change| {
                if change.old.is_some() { quotas_of(&by_service, change.key.namespace.as_deref()) } else { Vec::new() }
            }),
            Trigger::on(&self.claims, move |change| {
                if change.old.is_some() { quotas_of(&by_claim, change.key.namespace.as_deref()) } else { Vec::new() }
            }),
            Trigger::custom(move |queue| {
                content.listen(move |change| {
                    if !change.is_gone {
                        return;
                    }
                    for key in quotas_of(&by_content, Some(change.namespace)) {
                        queue.add(key);
                    }
                });
            }),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(quota) = self.quotas.get(key) else { return Ok(Outcome::Settled) };
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let before = quota.status.clone().unwrap_or_default();
        let used = self.used(&quota, namespace, &before);
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        if same(&status, &before) {
            return Ok(Outcome::CheckAgainIn(RECOUNT));
        }
        let updated = ResourceQuota { status: Some(status), ..(*quota).clone() };
        match Api::<ResourceQuota>::namespaced(self.client.clone(), namespace).replace_status(&key.name, &PostParams::default(), &updated).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::CheckAgainIn(RECOUNT)).doing(|| format!("update the status of quota {key}")),
        }
    }
}

/// Whether two statuses say the same, however their quantities are written.
fn same(one: &ResourceQuotaStatus, other: &ResourceQuotaStatus) -> bool {
    let values = |map: &Option<BTreeMap<String, Quantity>>| -> BTreeMap<String, String> {
        let canonical = |quantity: &Quantity| meta::quantity::canonicalize(&quantity.0).unwrap_or_else(|| quantity.0.clone());
        map.iter().flatten().map(|(name, quantity)| (name.clone(), canonical(quantity))).collect()
    };
    values(&one.hard) == values(&other.hard) && values(&one.used) == values(&other.used)
}
