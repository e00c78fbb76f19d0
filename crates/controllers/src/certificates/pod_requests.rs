//! Removes what nodes asked of signers for their pods: a request that is a quarter of an hour old is settled or abandoned.
//! Source: Kubernetes 1.36, `pkg/controller/certificates/cleaner`, `PCRCleanerController`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, Informer, ObjectKey, Preconditions};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1beta1::PodCertificateRequest;

use crate::ControllerContext;

const CONTROLLER: &str = "podcertificaterequestcleaner";
/// Requests are kept this long, whatever became of them. Source: `cmd/kube-controller-manager/app/certificates.go`.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// Removes.
pub(super) struct Cleaner {
    client: client::Client,
    requests: Informer<PodCertificateRequest>,
    clock: Arc<dyn client::Clock>,
}

impl Cleaner {
    pub fn new(context: &ControllerContext) -> Self {
        Self { client: context.client(CONTROLLER), requests: context.informers.of(), clock: context.clock.clone() }
    }
}

/// How long a request made at this time is still kept. One from the future is kept its whole time from now on.
fn time_left(created: Option<Timestamp>, now: Timestamp) -> Duration {
    let age = created.map(|created| Duration::try_from(now.duration_since(created)).unwrap_or_default()).unwrap_or_default();
    KEPT.saturating_sub(age)
}

#[async_trait]
impl Reconciler for Cleaner {
    fn name(&self) -> &'static str {
        "pod-certificate-request-expiry"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.requests)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(request) = self.requests.get(key) else { return Ok(Outcome::Settled) };
        let left = time_left(request.metadata.creation_timestamp.as_ref().map(|time| time.0), self.clock.now());
        if !left.is_zero() {
            return Ok(Outcome::CheckAgainIn(left));
        }
        // Another of the same name may have come meanwhile, and that one is young.
        let preconditions = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), key.namespace.as_deref().unwrap_or_default());
        match api.delete(&key.name, &parameters).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("remove old request for a certificate of a pod {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_kept_for_a_quarter_of_an_hour() {
        let second = |second| Timestamp::from_second(second).unwrap();
        // When it was made, now, and the seconds it is still kept.
        for (created, now, left) in [(Some(0), 0, 900), (Some(100), 400, 600), (Some(0), 899, 1), (Some(0), 900, 0), (Some(0), 1_000_000, 0), (Some(50), 0, 900), (None, 5000, 900)] {
            assert_eq!(time_left(created.map(second), second(now)), Duration::from_secs(left), "made at {created:?}, now {now}");
        }
    }
}
