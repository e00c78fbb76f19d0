//! A private key with its certificate chain: what a party shows to prove who it is.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::read_alternative_names;
use crate::{AlternativeNames, CertificateIdentity, PkiError, PrivateKey, pem, private_file, tls};

/// A private key and its certificate, followed by the certificates that lead to the authority.
#[derive(Clone)]
pub struct Credential {
    key: PrivateKey,
    chain_pem: String,
    chain: Vec<CertificateDer<'static>>,
    not_before: Timestamp,
    not_after: Timestamp,
    names: AlternativeNames,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credential").field("not_after", &self.not_after).field("names", &self.names).finish_non_exhaustive()
    }
}

impl Credential {
    /// Joins a key with its certificate chain (PEM, the key's own certificate first). They must belong together.
    pub fn new(key: PrivateKey, chain_pem: impl Into<String>) -> Result<Self, PkiError> {
        let chain_pem = chain_pem.into();
        let chain = pem::certificates(&chain_pem)?;
        let leaf = chain.first().ok_or_else(|| PkiError::malformed("certificate", "the chain is empty"))?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| PkiError::malformed("certificate", error))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_point() {
            return Err(PkiError::malformed("certificate", "it belongs to another private key"));
        }
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => read_alternative_names(extension.value, "certificate")?,
            Ok(None) => AlternativeNames::default(),
            Err(error) => return Err(PkiError::malformed("certificate", error)),
        };
        let validity = certificate.validity();
        let time = |at: x509_parser::time::ASN1Time| {
            Timestamp::from_second(at.timestamp()).map_err(|error| PkiError::malformed("certificate", error))
        };
        let (not_before, not_after) = (time(validity.not_before)?, time(validity.not_after)?);
        Ok(Self { key, chain_pem, chain, not_before, not_after, names })
    }

    /// Reads a file written by [`Credential::save`]: certificates and key in one PEM text. `None` when there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, PkiError> {
        let Some(text) = private_file::read(path)? else { return Ok(None) };
        let unusable = |error: PkiError| PkiError::Unusable { path: path.to_owned(), problem: error.to_string() };
        let key = PrivateKey::from_pem(&text).map_err(unusable)?;
        let chain = pem::certificates(&text).map_err(unusable)?;
        let chain_pem: String = chain.iter().map(|certificate| pem::encode("CERTIFICATE", certificate)).collect();
        Self::new(key, chain_pem).map(Some).map_err(unusable)
    }

    /// Writes certificates and key into one file, so that they always change together.
    pub fn save(&self, path: &Path) -> Result<(), PkiError> {
        private_file::write(path, format!("{}{}", self.chain_pem, self.key.to_pem()).as_bytes())
    }

    /// The private key. A secret.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The certificates as PEM, the key's own first.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The certificates as DER, the key's own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// When it stops being valid.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The names a server may show it under.
    pub fn names(&self) -> &AlternativeNames {
        &self.names
    }

    /// The user and groups that it proves.
    pub fn identity(&self) -> Result<CertificateIdentity, PkiError> {
        let leaf = self.chain.first().ok_or_else(|| PkiError::malformed("certificate", "the chain is empty"))?;
        CertificateIdentity::from_certificate(leaf)
    }

    /// When to get a new one: after seven tenths of its life, as kubelets do.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.as_second().saturating_sub(self.not_before.as_second());
        Timestamp::from_second(self.not_before.as_second().saturating_add(life / 10 * 7)).unwrap_or(self.not_after)
    }

    /// Whether it is time for a new one.
    pub fn needs_renewal(&self, now: Timestamp) -> bool {
        now >= self.renew_at() || now < self.not_before
    }

    /// As rustls wants it.
    pub fn certified_key(&self) -> Result<Arc<CertifiedKey>, PkiError> {
        let key = tls::provider().key_provider.load_private_key(self.key.to_der())?;
        Ok(Arc::new(CertifiedKey::new(self.chain.clone(), key)))
    }
}
