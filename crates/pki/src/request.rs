//! Certificate signing requests (PKCS#10): reading them, the rules for those of nodes, and making them.

use rustls_pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::certificate::{read_alternative_names, read_subject, sign_request};
use crate::{AlternativeNames, PkiError, PrivateKey, Subject, Usage, pem};

const WHAT: &str = "certificate request";
const MINIMUM_RSA_BITS: usize = 2048;

/// A request whose signature proves that the sender holds the private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Who is asking to be named.
    pub subject: Subject,
    /// The names asked for.
    pub names: AlternativeNames,
    /// Whether it asks to become an authority, which nobody may.
    pub wants_authority: bool,
    pub(crate) subject_der: Vec<u8>,
    pub(crate) public_key_info: Vec<u8>,
}

impl CertificateRequest {
    /// Reads a request from PEM and checks its signature.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        Self::from_der(&pem::certificate_request(text)?)
    }

    /// Reads a request and checks its signature.
    pub fn from_der(request: &CertificateSigningRequestDer<'_>) -> Result<Self, PkiError> {
        let (rest, parsed) =
            X509CertificationRequest::from_der(request.as_ref()).map_err(|error| PkiError::malformed(WHAT, error))?;
        if !rest.is_empty() {
            return Err(PkiError::malformed(WHAT, "there are bytes behind its end"));
        }
        let information = &parsed.certification_request_info;
        match information.subject_pki.parsed() {
            Ok(PublicKey::RSA(key)) if key.key_size() < MINIMUM_RSA_BITS => {
                return Err(PkiError::malformed(WHAT, format!("an RSA key must have at least {MINIMUM_RSA_BITS} bits")));
            }
            Ok(_) => {}
            Err(error) => return Err(PkiError::malformed(WHAT, format!("its public key cannot be read: {error}"))),
        }
        parsed.verify_signature().map_err(|error| PkiError::malformed(WHAT, format!("its signature is wrong ({error})")))?;
        let mut names = AlternativeNames::default();
        let mut wants_authority = false;
        for extension in parsed.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(extension) => names = read_alternative_names(extension, WHAT)?,
                ParsedExtension::BasicConstraints(constraints) => wants_authority |= constraints.ca,
                // Usages are taken from the CertificateSigningRequest's spec; the rest is left out of the certificate.
                _ => {}
            }
        }
        Ok(Self {
            subject: read_subject(&information.subject, WHAT)?,
            names,
            wants_authority,
            subject_der: information.subject.as_raw().to_vec(),
            public_key_info: information.subject_pki.raw.to_vec(),
        })
    }

    /// Makes a request for a key, as PEM.
    pub fn create(subject: &Subject, names: &AlternativeNames, usages: &[Usage], key: &PrivateKey) -> Result<String, PkiError> {
        Ok(pem::encode("CERTIFICATE REQUEST", &sign_request(subject, names, usages, key)?))
    }

    /// Whether it is a proper request of signer `kubernetes.io/kube-apiserver-client-kubelet`: the client certificate of a node. The
    /// error says what is not.
    /// Source: Kubernetes 1.36, `pkg/apis/certificates`, `ValidateKubeletClientCSR`.
    pub fn check_node_client(&self, usages: &[Usage]) -> Result<(), String> {
        self.check_node_subject()?;
        if !self.names.is_empty() {
            return Err("subject alternative names are not allowed".to_owned());
        }
        check_usages(usages, Usage::ClientAuth)
    }

    /// Whether it is a proper request of signer `kubernetes.io/kubelet-serving`: the server certificate of a node. The error says
    /// what is not.
    /// Source: Kubernetes 1.36, `pkg/apis/certificates`, `ValidateKubeletServingCSR`.
    pub fn check_node_serving(&self, usages: &[Usage]) -> Result<(), String> {
        self.check_node_subject()?;
        if !self.names.emails.is_empty() || !self.names.uris.is_empty() {
            return Err("only DNS and IP subject alternative names are allowed".to_owned());
        }
        if self.names.is_empty() {
            return Err("DNS or IP subject alternative name is required".to_owned());
        }
        check_usages(usages, Usage::ServerAuth)
    }

    fn check_node_subject(&self) -> Result<(), String> {
        if self.subject.organizations != ["system:nodes"] {
            return Err("subject organization is not system:nodes".to_owned());
        }
        if !self.subject.common_name.starts_with("system:node:") {
            return Err("subject common name does not begin with system:node:".to_owned());
        }
        Ok(())
    }
}

fn check_usages(usages: &[Usage], needed: Usage) -> Result<(), String> {
    let allowed = [Usage::DigitalSignature, Usage::KeyEncipherment, needed];
    let has = |usage| usages.contains(&usage);
    if usages.iter().all(|usage| allowed.contains(usage)) && has(needed) && has(Usage::DigitalSignature) {
        Ok(())
    } else {
        Err(format!("usages must be [digital signature, {needed}], with or without key encipherment"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(subject: Subject, hosts: &[&str]) -> CertificateRequest {
        let key = PrivateKey::generate().unwrap();
        let names = AlternativeNames::from_hosts(hosts);
        let text = CertificateRequest::create(&subject, &names, &[Usage::DigitalSignature], &key).unwrap();
        let read = CertificateRequest::from_pem(text.as_bytes()).unwrap();
        assert_eq!(read.subject, subject);
        assert_eq!(read.names, names);
        assert_eq!(read.public_key_info, key.public_key_info());
        read
    }

    #[test]
    fn a_nodes_requests_are_told_from_others() {
        let node = || Subject::new("system:node:a", ["system:nodes"]);
        let client = [Usage::DigitalSignature, Usage::ClientAuth];
        let serving = [Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ServerAuth];
        assert_eq!(request(node(), &[]).check_node_client(&client), Ok(()));
        assert!(request(node(), &[]).check_node_client(&serving).is_err());
        assert!(request(node(), &["a.example"]).check_node_client(&client).is_err());
        assert!(request(Subject::new("system:node:a", ["system:nodes", "system:masters"]), &[]).check_node_client(&client).is_err());
        assert!(request(Subject::new("root", ["system:nodes"]), &[]).check_node_client(&client).is_err());
        assert_eq!(request(node(), &["a", "10.0.0.1", "fd00::1"]).check_node_serving(&serving), Ok(()));
        assert!(request(node(), &[]).check_node_serving(&serving).is_err());
        assert!(request(node(), &["a"]).check_node_serving(&client).is_err());
        assert!(request(node(), &["a"]).check_node_serving(&[]).is_err());
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let subject = Subject::new("a", ["b"]);
        let key = PrivateKey::generate().unwrap();
        let mut der = sign_request(&subject, &AlternativeNames::default(), &[], &key).unwrap();
        let middle = der.windows(1).position(|byte| byte == b"a").unwrap();
        der[middle] = b'x';
        assert!(CertificateRequest::from_der(&der.into()).is_err());
    }

    #[test]
    fn garbage_is_refused() {
        for garbage in [&b""[..], b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", b"\xff\xfe", b"{}"] {
            assert!(CertificateRequest::from_pem(garbage).is_err());
        }
    }
}
