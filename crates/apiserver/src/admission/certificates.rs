//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction: who may approve, sign
//! and attest for a signer, and that nobody asks for a certificate of a cluster's administrator.
//!
//! Source: Kubernetes `plugin/pkg/admission/certificates`.

use async_trait::async_trait;
use meta::{ApiError, Object};

use crate::{
    admission::{AdmissionPlugin, Attributes, Operation, Step},
    authorization::{self, Authorizer, Decision},
    core::Core,
    user::{MASTERS, User},
};

/// The plug-ins, in one.
pub struct Certificates;

/// Whether a user may do something for a signer: for it by name, or for its whole domain.
fn may(core: &Core, user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*")).unwrap_or_default();
    [signer, &domain].into_iter().any(|name| {
        let attributes = authorization::Attributes {
            user,
            verb,
            group: "certificates.k8s.io",
            version: "*",
            resource: "signers",
            subresource: "",
            namespace: "",
            name,
            is_resource: true,
            path: "",
            field_selector: "", label_selector: None,
        };
        matches!(core.authorization.authorize(&attributes), Decision::Allow(_))
    })
}

/// Whether a PEM request's subject is in the group of administrators.
fn asks_for_masters(object: &Object) -> bool {
    use base64::Engine as _;
    use x509_parser::prelude::FromDer as _;
    let Some(text) = object.text(&["spec", "request"]) else { return false };
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text) else { return false };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&bytes) else { return false };
    let Ok((_, request)) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents) else { return false };
    request.certification_request_info.subject.iter_organization().any(|name| name.as_str() == Ok(MASTERS))
}

#[async_trait]
impl AdmissionPlugin for Certificates {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }
    fn steps(&self) -> &'static [Step] {
        &[Step::Validate]
    }
    async fn validate(&self, core: &Core, attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<(), ApiError> {
        let info = attributes.kind.info();
        let Some(new) = object.filter(|_| &*info.kind.group == "certificates.k8s.io") else { return Ok(()) };
        let refuse = |why: String| Err(ApiError::forbidden(&info.group_resource(), attributes.name, why));
        if &*info.plural == "clustertrustbundles" && matches!(attributes.operation, Operation::Create | Operation::Update) {
            let signer = new.text(&["spec", "signerName"]).unwrap_or_default();
            // What is stored as it was (a migration, a finalizer taken off) attests to nothing.
            let unchanged = old.is_some_and(|old| old.get(&["spec"]) == new.get(&["spec"]));
            if !signer.is_empty() && !unchanged && !may(core, attributes.user, "attest", signer) {
                return refuse(format!("user not permitted to attest for signerName {signer:?}"));
            }
            return Ok(());
        }
        if &*info.plural != "certificatesigningrequests" {
            return Ok(());
        }
        match (attributes.operation, attributes.subresource, old) {
            (Operation::Create, "", _) => {
                if new.text(&["spec", "signerName"]) == Some("kubernetes.io/kube-apiserver-client") && asks_for_masters(new) {
                    return refuse(format!("use of kubernetes.io/kube-apiserver-client signer with {MASTERS} group is not allowed"));
                }
            }
            (Operation::Update, "approval", Some(old)) => {
                let signer = old.text(&["spec", "signerName"]).unwrap_or_default();
                if !may(core, attributes.user, "approve", signer) {
                    return refuse(format!("user not permitted to approve requests with signerName {signer:?}"));
                }
            }
            (Operation::Update, "status", Some(old)) if new.get(&["status", "certificate"]) != old.get(&["status", "certificate"]) => {
                let signer = old.text(&["spec", "signerName"]).unwrap_or_default();
                if !may(core, attributes.user, "sign", signer) {
                    return refuse(format!("user not permitted to sign requests with signerName {signer:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
