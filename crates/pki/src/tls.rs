//! rustls configurations for servers and clients of the cluster, and a certificate that can be swapped while they run.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{Credential, Fingerprint, PkiError, pem};

/// The cryptography that all connections use.
pub fn provider() -> Arc<CryptoProvider> {
    // Made once: it is a list of static references, and configurations compare the pointer.
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// A certificate that listeners and connectors look up at every handshake, so that renewal needs no restart.
#[derive(Debug)]
pub struct SwappableCertificate(ArcSwap<CertifiedKey>);

impl SwappableCertificate {
    /// Starts with this credential.
    pub fn new(credential: &Credential) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(Self(ArcSwap::new(credential.certified_key()?))))
    }

    /// Shows this credential from the next handshake on.
    pub fn swap(&self, credential: &Credential) -> Result<(), PkiError> {
        self.0.store(credential.certified_key()?);
        Ok(())
    }
}

impl ResolvesServerCert for SwappableCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for SwappableCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Authorities to trust, from PEM.
pub fn roots_from_pem(text: &str) -> Result<RootCertStore, PkiError> {
    roots(&pem::certificates(text)?)
}

/// Authorities to trust.
pub fn roots(authorities: &[CertificateDer<'_>]) -> Result<RootCertStore, PkiError> {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        store.add(authority.clone().into_owned())?;
    }
    Ok(store)
}

/// The authorities that the machine trusts, for servers outside of the cluster. They are read once, as Go's libraries do, and
/// what cannot be read of them is passed over.
pub fn system_roots() -> RootCertStore {
    static ROOTS: std::sync::LazyLock<RootCertStore> = std::sync::LazyLock::new(|| usable_roots(rustls_native_certs::load_native_certs().certs));
    ROOTS.clone()
}

fn usable_roots(certificates: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates);
    store
}

/// A server's configuration: asks for a client certificate but does without (tokens are the other way to prove who one is); one that
/// is shown must be good. Offers HTTP/2 and HTTP/1.1; resumes sessions with tickets, which cost the server no memory.
pub fn server_config(
    certificate: Arc<SwappableCertificate>,
    client_authorities: &[CertificateDer<'_>],
) -> Result<Arc<ServerConfig>, PkiError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_authorities)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| PkiError::NotTrusted(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// A client's configuration: trusts these authorities only, and shows the certificate where there is one. It offers no protocol
/// (ALPN), which is right for HTTP/1.1; a caller that speaks more adds them.
pub fn client_config(
    authorities: &[CertificateDer<'_>],
    certificate: Option<Arc<SwappableCertificate>>,
) -> Result<ClientConfig, PkiError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(authorities)?);
    Ok(match certificate {
        Some(certificate) => builder.with_client_cert_resolver(certificate),
        None => builder.with_no_client_auth(),
    })
}

/// A client's configuration that trusts only the authority with this fingerprint, which the server must send along.
pub fn pinned_client_config(authority: Fingerprint) -> Result<ClientConfig, PkiError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedAuthority(authority)))
        .with_no_client_auth())
}

/// Finds the pinned authority among the certificates a server sends and then verifies as usual, with it as the only root.
#[derive(Debug)]
struct PinnedAuthority(Fingerprint);

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == self.0)
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut store = RootCertStore::empty();
        store.add(authority.clone().into_owned())?;
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_of_the_machines_authorities_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let authority = crate::authority::ClusterAuthority::open_or_create(directory.path(), jiff::Timestamp::now()).unwrap();
        let mut certificates = pem::certificates(authority.certificate_pem()).unwrap();
        certificates.insert(0, CertificateDer::from(b"no certificate".to_vec()));
        assert_eq!(usable_roots(certificates).len(), 1);
    }
}
