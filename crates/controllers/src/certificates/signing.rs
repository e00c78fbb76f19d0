//! Signs what is approved, with the cluster's authority. What an approved request must not contain is still checked: who approves may
//! overlook something.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use client::{Api, Informer, ObjectKey, PostParams};
use controller::{Doing, Outcome, ReconcileError, Reconciler, Trigger};
use jiff::SignedDuration;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pki::{CertificateRequest, ClusterAuthority, Usage};

use super::{CLIENT, CONTROLLER, NODE_CLIENT, NODE_SERVING, has, is_issued, usages};
use crate::ControllerContext;

/// The shortest that can be asked for. Source: Kubernetes 1.36, `ValidateCertificateSigningRequest`.
const SHORTEST: SignedDuration = SignedDuration::from_secs(600);

/// Signs.
pub(super) struct Signer {
    client: client::Client,
    requests: Informer<CertificateSigningRequest>,
    authority: Arc<ClusterAuthority>,
    longest: SignedDuration,
    clock: Arc<dyn client::Clock>,
}

impl Signer {
    pub fn new(context: &ControllerContext, authority: Arc<ClusterAuthority>, longest: Duration) -> Self {
        let longest = SignedDuration::try_from(longest).unwrap_or(SignedDuration::MAX);
        Self { client: context.client(CONTROLLER), requests: context.informers.of(), authority, longest, clock: context.clock.clone() }
    }

    fn sign(&self, request: &CertificateSigningRequest) -> Result<String, String> {
        let (asked, usages) = check(request)?;
        let lifetime = lifetime(request.spec.expiration_seconds, self.longest);
        self.authority.sign_request(&asked, &usages, lifetime, self.clock.now()).map_err(|error| error.to_string())
    }
}

/// How long a certificate lives: as long as is asked for, within bounds. Source: Kubernetes 1.36, `certificates/signer`, `duration`.
fn lifetime(asked_seconds: Option<i32>, longest: SignedDuration) -> SignedDuration {
    asked_seconds.map_or(longest, |seconds| SignedDuration::from_secs(seconds.into()).max(SHORTEST).min(longest))
}

/// Reads a request and checks that its signer signs such a thing.
fn check(request: &CertificateSigningRequest) -> Result<(CertificateRequest, Vec<Usage>), String> {
    let asked = CertificateRequest::from_pem(&request.spec.request.0).map_err(|error| error.to_string())?;
    let usages = usages(request)?;
    match request.spec.signer_name.as_str() {
        NODE_CLIENT => asked.check_node_client(&usages)?,
        NODE_SERVING => asked.check_node_serving(&usages)?,
        _ => check_client(&usages)?,
    }
    Ok((asked, usages))
}

/// Source: Kubernetes 1.36, `isClientAuth`-like checks of `kube-apiserver-client`.
fn check_client(usages: &[Usage]) -> Result<(), String> {
    let allowed = [Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ClientAuth];
    if usages.contains(&Usage::ClientAuth) && usages.iter().all(|usage| allowed.contains(usage)) {
        Ok(())
    } else {
        Err("usages must be client auth, with or without digital signature and key encipherment".to_owned())
    }
}

#[async_trait]
impl Reconciler for Signer {
    fn name(&self) -> &'static str {
        "certificate-signing"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(&self.requests)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(request) = self.requests.get(key) else { return Ok(Outcome::Settled) };
        let is_ours = [NODE_CLIENT, NODE_SERVING, CLIENT].contains(&request.spec.signer_name.as_str());
        if !is_ours || !has(&request, "Approved") || has(&request, "Denied") || has(&request, "Failed") || is_issued(&request) {
            return Ok(Outcome::Settled);
        }
        let mut signed = (*request).clone();
        let status = signed.status.get_or_insert_default();
        match self.sign(&request) {
            Ok(certificate) => status.certificate = Some(ByteString(certificate.into_bytes())),
            Err(problem) => {
                tracing::warn!(request = %key, problem, "an approved certificate request cannot be signed");
                let now = Some(Time(self.clock.now()));
                status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(problem),
                    last_update_time: now.clone(),
                    last_transition_time: now,
                });
            }
        }
        let api = Api::<CertificateSigningRequest>::all(self.client.clone());
        match api.replace_status(&key.name, &PostParams::default(), &signed).await {
            Err(error) if client::is_not_found(&error) => Ok(Outcome::Settled),
            other => other.map(|_| Outcome::Settled).doing(|| format!("hand out the certificate of request {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::approval::tests::request;

    #[test]
    fn an_approved_request_is_checked_again_before_it_is_signed() {
        let node = "system:node:a";
        assert!(check(&request(NODE_CLIENT, "any", node, &[], &["digital signature", "client auth"])).is_ok());
        assert!(check(&request(NODE_CLIENT, "any", "root", &[], &["digital signature", "client auth"])).is_err());
        assert!(check(&request(NODE_SERVING, "any", node, &["a"], &["digital signature", "server auth"])).is_ok());
        assert!(check(&request(CLIENT, "any", "olga", &[], &["client auth"])).is_ok());
        assert!(check(&request(CLIENT, "any", "olga", &[], &["client auth", "server auth"])).is_err());
    }

    #[test]
    fn certificates_live_as_long_as_is_asked_for_within_bounds() {
        let seconds = SignedDuration::from_secs;
        assert_eq!(lifetime(None, seconds(3600)), seconds(3600));
        assert_eq!(lifetime(Some(1200), seconds(3600)), seconds(1200));
        assert_eq!(lifetime(Some(7200), seconds(3600)), seconds(3600));
        assert_eq!(lifetime(Some(1), seconds(3600)), SHORTEST);
        assert_eq!(lifetime(Some(1200), seconds(60)), seconds(60), "the cluster's own bound is the last word");
    }
}
