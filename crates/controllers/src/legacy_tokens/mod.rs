//! Tokens in Secrets that were made for a service account, as its `secrets` says, and that nobody used for a year: they are marked as
//! invalid, and removed when nobody took the mark away for another. The API server notes uses and refuses what is marked.
//!
//! Source: Kubernetes 1.36, `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, Informer, ListParams, ObjectKey, Patch, PatchParams, Preconditions, Selection};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Runner, Trigger};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use serde_json::json;

use crate::ControllerContext;
use plan::{Deed, Facts, INVALID_SINCE, PERIOD_DAYS, plan};

const CONTROLLER: &str = "legacy-service-account-token-cleaner";
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
/// Says since when uses are noted.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// Nothing tells that a day has come. Source: Kubernetes 1.36, `DefaultCleanerSyncInterval`.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Starts the controller.
pub fn start(context: &ControllerContext, runner: &Runner) {
    let cleaner = Cleaner {
        client: context.client(CONTROLLER),
        secrets: context.informers.selected(Selection::fields(&format!("type={TOKEN_TYPE}"))),
        accounts: context.informers.of(),
        reader: context.informers.client().clone(),
        clock: context.clock.clone(),
    };
    runner.start(cleaner, 1);
}

struct Cleaner {
    client: client::Client,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    /// Reads pods.
    reader: client::Client,
    clock: Arc<dyn client::Clock>,
}

impl Cleaner {
    /// The first whole day of which all uses are noted; none while that is not known.
    async fn tracked_since(&self) -> Result<Option<jiff::civil::Date>, ReconcileError> {
        let map = Api::<ConfigMap>::namespaced(self.client.clone(), "kube-system").get_opt(TRACKING).await.doing(|| format!("read {TRACKING}"))?;
        let since = map.and_then(|map| map.data?.get("since")?.parse::<jiff::civil::Date>().ok());
        Ok(since.and_then(|since| since.tomorrow().ok()))
    }

    /// Whether the account that a Secret names has it among its own.
    fn is_made_for_account(&self, secret: &Secret) -> bool {
        let annotation = |name: &str| secret.metadata.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str).unwrap_or_default();
        let (name, uid) = (annotation("kubernetes.io/service-account.name"), annotation("kubernetes.io/service-account.uid"));
        let account = self.accounts.get_in(secret.metadata.namespace.as_deref().unwrap_or_default(), name);
        account.is_some_and(|account| {
            let is_same = uid.is_empty() || account.metadata.uid.as_deref() == Some(uid);
            is_same && account.secrets.iter().flatten().any(|reference| reference.name == secret.metadata.name)
        })
    }
}

#[async_trait]
impl Reconciler for Cleaner {
    fn name(&self) -> &'static str {
        "legacy-serviceaccount-token-cleaner"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.secrets), Trigger::reads(&self.accounts)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let wanted = |secret: &Arc<Secret>| secret.type_.as_deref() == Some(TOKEN_TYPE) && secret.metadata.deletion_timestamp.is_none();
        let Some(secret) = self.secrets.get(key).filter(wanted) else { return Ok(Outcome::Settled) };
        let now = self.clock.now();
        if plan::is_young(&secret, now) {
            return Ok(Outcome::CheckAgainIn(LOOK_AGAIN));
        }
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let mut facts = Facts { tracked_since: self.tracked_since().await?, is_made_for_account: self.is_made_for_account(&secret), is_mounted: false };
        // Informers do not keep of pods what refers to Secrets (`pods::shorten`), and it is seldom asked for.
        if plan(&secret, &facts, now) != Deed::Keep {
            let pods = Api::<Pod>::namespaced(self.reader.clone(), namespace).list(&ListParams::default()).await.doing(|| format!("list pods of {namespace}"))?;
            facts.is_mounted = pods.items.iter().any(|pod| plan::refers_to(pod, &key.name));
        }
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        match plan(&secret, &facts, now) {
            Deed::Keep => {}
            Deed::Mark(day) => {
                tracing::info!(secret = %key, unused_for_days = PERIOD_DAYS, "a token of a service account is marked as invalid, since nobody uses it");
                let patch = json!({ "metadata": { "uid": secret.metadata.uid, "labels": { INVALID_SINCE: day } } });
                match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                    Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
                    other => drop(other.doing(|| format!("mark {key} as invalid"))?),
                }
            }
            Deed::Remove => {
                tracing::info!(secret = %key, "a token of a service account is removed, since nobody uses it");
                let preconditions = Preconditions { uid: None, resource_version: secret.metadata.resource_version.clone() };
                match api.delete(&key.name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
                    Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
                    other => drop(other.doing(|| format!("remove {key}, which nobody uses"))?),
                }
            }
        }
        Ok(Outcome::CheckAgainIn(LOOK_AGAIN))
    }
}
