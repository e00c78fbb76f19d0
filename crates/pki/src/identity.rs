//! Which user a client certificate names.

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::PkiError;
use crate::certificate::read_subject;

/// Kubernetes' extension for a user's uid. Source: Kubernetes 1.36, `authentication/request/x509`.
const USER_ID: &[u64] = &[1, 3, 6, 1, 4, 1, 57683, 2];

/// The user behind a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// CN.
    pub user: String,
    /// O, one per group, in the certificate's order.
    pub groups: Vec<String>,
    /// The uid, where the certificate carries one.
    pub uid: Option<String>,
    /// When the certificate ends. A long connection outlives the handshake's check, so whoever keeps one should look.
    pub not_after: Timestamp,
    /// SHA-256 of the certificate in lower-case hexadecimal: `X509SHA256` of the user's credential id.
    pub fingerprint: String,
}

impl CertificateIdentity {
    /// Reads the identity out of a certificate that the TLS handshake has verified. It verifies nothing itself.
    /// # Errors
    /// [`PkiError::NotTrusted`] when the certificate names no user.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| PkiError::malformed("certificate", error))?;
        let subject = read_subject(parsed.subject(), "certificate")?;
        if subject.common_name.is_empty() {
            return Err(PkiError::NotTrusted("its subject has no common name (CN), which would be the user".to_owned()));
        }
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp())
            .map_err(|error| PkiError::malformed("certificate", error))?;
        let uid = parsed
            .subject()
            .iter_attributes()
            .find(|attribute| attribute.attr_type().iter().is_some_and(|numbers| numbers.eq(USER_ID.iter().copied())))
            .and_then(|attribute| attribute.as_str().ok())
            .map(str::to_owned);
        Ok(Self {
            user: subject.common_name,
            groups: subject.organizations,
            uid,
            not_after,
            fingerprint: crate::Fingerprint::of(certificate).to_string(),
        })
    }

    /// The identity of a connection's peer: of the first certificate it showed, if any.
    pub fn of_peer(certificates: Option<&[CertificateDer<'_>]>) -> Result<Option<Self>, PkiError> {
        certificates.and_then(<[_]>::first).map(Self::from_certificate).transpose()
    }
}
