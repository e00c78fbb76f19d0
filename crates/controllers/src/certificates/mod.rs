//! Certificates of nodes, and of whoever else asks and is approved: approving what nodes ask for ([`approval`]), signing what is approved
//! ([`signing`]), and removing what was asked long ago ([`expiry`]), also for a pod ([`pod_requests`]).

mod approval;
mod expiry;
mod pod_requests;
mod signing;

use std::collections::BTreeMap;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use controller::Runner;

use crate::{ControllerContext, Settings};

const CONTROLLER: &str = "certificate-controller";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Starts the controllers; signing only where this process holds the authority's key, and what concerns pods only where their requests
/// are served.
pub fn start(context: &ControllerContext, runner: &Runner, settings: &Settings) {
    runner.start(approval::Approver::new(context), 2);
    if let Some(authority) = &settings.authority {
        runner.start(signing::Signer::new(context, authority.clone(), settings.signing_duration), 2);
    }
    runner.start(expiry::Cleaner::new(context), 1);
    if settings.pod_certificate_requests {
        runner.start(pod_requests::Cleaner::new(context), 1);
    }
}

/// Whether a request has a condition that holds.
fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether the certificate is there.
fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|certificate| !certificate.0.is_empty())
}

/// The usages a request asks for; one that nobody knows is an error.
fn usages(request: &CertificateSigningRequest) -> Result<Vec<pki::Usage>, String> {
    let texts = request.spec.usages.iter().flatten();
    texts.map(|text| text.parse::<pki::Usage>().map_err(|_| format!("usage {text:?} is not known"))).collect()
}

/// The extra attributes of whoever asks, as a review wants them.
type Extra = Option<BTreeMap<String, Vec<String>>>;
