//! Private keys: ECDSA on P-256, which every TLS and JWT library knows and `ring` can make.

use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{PkiError, der, pem};

pub(crate) const ECDSA_WITH_SHA256: &[u32] = &[1, 2, 840, 10045, 4, 3, 2];
const EC_PUBLIC_KEY: &[u32] = &[1, 2, 840, 10045, 2, 1];
const PRIME256V1: &[u32] = &[1, 2, 840, 10045, 3, 1, 7];

/// An ECDSA P-256 private key. Cloning shares it.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Arc<[u8]>,
    for_certificates: Arc<EcdsaKeyPair>,
    for_tokens: Arc<EcdsaKeyPair>,
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, PkiError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| PkiError::Cryptography("generate a private key"))?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads the first private key of a PEM text (PKCS#8, P-256).
    pub fn from_pem(text: &str) -> Result<Self, PkiError> {
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| PkiError::malformed("private key", error))?;
        match key {
            PrivateKeyDer::Pkcs8(key) => Self::from_pkcs8(key.secret_pkcs8_der()),
            _ => Err(PkiError::malformed("private key", "it must be in PKCS#8 form (BEGIN PRIVATE KEY)")),
        }
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, PkiError> {
        let read = |algorithm| {
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &SystemRandom::new())
                .map(Arc::new)
                .map_err(|error| PkiError::malformed("private key", format!("not an ECDSA P-256 key ({error})")))
        };
        Ok(Self {
            pkcs8: pkcs8.into(),
            for_certificates: read(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
            for_tokens: read(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
        })
    }

    /// The key as PEM (PKCS#8). A secret.
    pub fn to_pem(&self) -> String {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// The key as rustls wants it. A secret.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    /// The public key as an uncompressed point: `0x04`, x, y (65 bytes).
    pub fn public_point(&self) -> &[u8] {
        self.for_certificates.public_key().as_ref()
    }

    /// The public key as DER `SubjectPublicKeyInfo`.
    pub fn public_key_info(&self) -> Vec<u8> {
        let algorithm = der::sequence(&[&der::object_identifier(EC_PUBLIC_KEY), &der::object_identifier(PRIME256V1)]);
        der::sequence(&[&algorithm, &der::bit_string(self.public_point())])
    }

    /// An ECDSA signature in the form X.509 uses.
    pub(crate) fn sign_certificate(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        Self::sign(&self.for_certificates, message)
    }

    /// An ECDSA signature in the form JWT uses: r and s, 32 bytes each.
    pub(crate) fn sign_token(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        Self::sign(&self.for_tokens, message)
    }

    fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        key.sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| PkiError::Cryptography("sign"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem_form() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.public_point(), again.public_point());
        assert_eq!(key.public_point().len(), 65);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(PrivateKey::from_pem("").is_err());
        assert!(PrivateKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
    }
}
