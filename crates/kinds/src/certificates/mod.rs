//! The group `certificates.k8s.io`: CertificateSigningRequest, and the betas beside it.

pub mod cluster_trust_bundle;
mod pem;
pub mod pod_certificate_request;
pub mod signing_request;

use meta::{FieldError, FieldPath, validation as rules};

pub use signing_request::CertificateSigningRequestStrategy;

/// What is wrong with a signer's name, such as `example.com/signer`. Source: Kubernetes `pkg/apis/core/validation/validation.go`,
/// `ValidateSignerName`.
fn signer_name(name: &str, path: &FieldPath, problems: &mut Vec<FieldError>) {
    const LONGEST_DOMAIN: usize = 253;
    const LONGEST: usize = 253 + 253 + 63 + 2;
    if name.is_empty() {
        problems.push(FieldError::required(path, ""));
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        problems.push(FieldError::invalid(path, name, detail));
        return;
    };
    if domain.len() > LONGEST_DOMAIN {
        problems.push(FieldError::too_long(path, LONGEST_DOMAIN));
    }
    let mut label = |whole: &str, label: &str, wrong: Vec<String>| {
        problems.extend(wrong.into_iter().map(|wrong| FieldError::invalid(path, whole, format!("validating label {label:?}: {wrong}"))));
    };
    for part in domain.split('.') {
        label(domain, part, rules::dns1123_label_problems(part));
    }
    for part in rest.split('.') {
        label(rest, part, rules::dns1123_subdomain_problems(part));
    }
    if !domain.contains('.') {
        problems.push(FieldError::invalid(path, domain, "should be a domain with at least two segments separated by dots"));
    }
    if name.len() > LONGEST {
        problems.push(FieldError::too_long(path, LONGEST));
    }
}
