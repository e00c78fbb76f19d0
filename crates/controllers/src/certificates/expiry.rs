//! Removes certificate requests that nobody needs any more: answered ones soon, unanswered ones after a day.
//! Source: Kubernetes 1.36, `pkg/controller/certificates/cleaner`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Api, DeleteParams, Informer, ObjectKey};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::CONTROLLER;
use crate::ControllerContext;

/// Approved, denied or failed ones are kept this long.
const ANSWERED: Duration = Duration::from_secs(3600);
/// Others are kept this long.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// Removes.
pub(super) struct Cleaner {
    client: client::Client,
    requests: Informer<CertificateSigningRequest>,
    clock: Arc<dyn client::Clock>,
}

impl Cleaner {
    pub fn new(context: &ControllerContext) -> Self {
        Self { client: context.client(CONTROLLER), requests: context.informers.of(), clock: context.clock.clone() }
    }
}

/// How long a request is still kept.
fn time_left(request: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let answered = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let answered = answered.filter_map(|condition| condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref())).map(|time| time.0).max();
    let (since, limit) = match answered {
        Some(since) => (Some(since), ANSWERED),
        None => (request.metadata.creation_timestamp.as_ref().map(|time| time.0), PENDING),
    };
    let age = since.map(|since| Duration::try_from(now.duration_since(since)).unwrap_or_default()).unwrap_or_default();
    limit.saturating_sub(age)
}

#[async_trait]
impl Reconciler for Cleaner {
    fn name(&self) -> &'static str {
        "certificate-expiry"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.requests)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(request) = self.requests.get(key) else { return Ok(Outcome::Settled) };
        let left = time_left(&request, self.clock.now());
        if !left.is_zero() {
            return Ok(Outcome::CheckAgainIn(left));
        }
        match Api::<CertificateSigningRequest>::all(self.client.clone()).delete(&key.name, &DeleteParams::default()).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("remove old certificate request {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::second;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;

    #[test]
    fn answered_requests_go_sooner() {
        let mut request = CertificateSigningRequest::default();
        request.metadata.creation_timestamp = Some(second(0));
        let now = Timestamp::from_second(600).unwrap();
        assert_eq!(time_left(&request, now), PENDING - Duration::from_secs(600));
        let approved = CertificateSigningRequestCondition { last_update_time: Some(second(300)), ..CertificateSigningRequestCondition::default() };
        request.status.get_or_insert_default().conditions = Some(vec![approved]);
        assert_eq!(time_left(&request, now), ANSWERED - Duration::from_secs(300));
        assert!(time_left(&request, Timestamp::from_second(5000).unwrap()).is_zero());
    }
}
