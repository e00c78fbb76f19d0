//! Trust in the certificates of a bundle, as Go has it: authorities, and single servers whose own certificate is in it.
//!
//! Webhooks and aggregated servers mostly show a certificate that signed itself and says that it is an authority, as `openssl req -x509`
//! makes it. Go's clients take it where it is in the bundle, so it works with upstream; webpki refuses an authority as a server.
//! Source: Go's `crypto/x509`, `Certificate.Verify`, which takes a leaf that is one of the roots for a chain of its own.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{PkiError, pem, tls};

/// Verifies servers by a bundle. An empty one trusts nobody.
#[derive(Debug)]
pub struct TrustedBundle {
    certificates: Vec<CertificateDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

impl TrustedBundle {
    /// From PEM.
    ///
    /// # Errors
    /// Where the text holds no certificate, unless it is empty, or one that cannot be read.
    pub fn from_pem(text: &str) -> Result<Self, PkiError> {
        if text.trim().is_empty() {
            return Ok(Self { certificates: Vec::new(), authorities: None });
        }
        let certificates = pem::certificates(text)?;
        let roots: RootCertStore = tls::roots(&certificates)?;
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
            .build()
            .map_err(|error| PkiError::NotTrusted(error.to_string()))?;
        Ok(Self { certificates, authorities: Some(authorities) })
    }

    /// From PEM. An empty text means the authorities that the machine trusts, as it does to Go's clients.
    ///
    /// # Errors
    /// As [`Self::from_pem`].
    pub fn from_pem_or_system(text: &str) -> Result<Self, PkiError> {
        if !text.trim().is_empty() {
            return Self::from_pem(text);
        }
        // A machine that trusts nobody leaves nothing to build a verifier of.
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(tls::system_roots()), tls::provider()).build().ok();
        Ok(Self { certificates: Vec::new(), authorities })
    }

    /// Checks a certificate that is itself in the bundle: its time and its names.
    fn verify_as_itself(certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<ServerCertVerified, rustls::Error> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if seconds < parsed.validity().not_before.timestamp() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYet));
        }
        if seconds > parsed.validity().not_after.timestamp() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Expired));
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for TrustedBundle {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authorities) = &self.authorities else { return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) };
        if self.certificates.contains(end_entity) {
            return Self::verify_as_itself(end_entity, server_name, now);
        }
        authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &tls::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What `openssl req -x509` makes: it signed itself, says that it is an authority, and names `hook.example`.
    fn self_signed() -> (String, CertificateDer<'static>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("certificate.pem");
        let words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hook -addext subjectAltName=DNS:hook.example -keyout /dev/null -out";
        let output = std::process::Command::new("openssl").args(words.split(' ')).arg(&path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = std::fs::read_to_string(path).unwrap();
        let certificate = pem::certificates(&text).unwrap().remove(0);
        (text, certificate)
    }

    fn verify(bundle: &TrustedBundle, certificate: &CertificateDer<'_>, name: &str, now: UnixTime) -> Result<(), rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        bundle.verify_server_cert(certificate, &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_certificate_in_the_bundle_is_trusted_for_its_names_and_its_time() {
        let ((text, certificate), (_, other)) = (self_signed(), self_signed());
        let bundle = TrustedBundle::from_pem(&text).unwrap();
        let now = UnixTime::now();
        assert_eq!(verify(&bundle, &certificate, "hook.example", now), Ok(()));
        assert!(verify(&bundle, &certificate, "other.example", now).is_err(), "of another name");
        let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 3 * 24 * 3600));
        assert_eq!(verify(&bundle, &certificate, "hook.example", later), Err(rustls::Error::InvalidCertificate(CertificateError::Expired)));
        let before = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() - 24 * 3600));
        assert_eq!(verify(&bundle, &certificate, "hook.example", before), Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYet)));
        assert!(verify(&bundle, &other, "hook.example", now).is_err(), "one that is not in the bundle");
        assert!(verify(&TrustedBundle::from_pem("").unwrap(), &certificate, "hook.example", now).is_err(), "an empty bundle trusts nobody");
        assert!(TrustedBundle::from_pem("nonsense").is_err());
    }
}
