//! Keys that a node makes for its pods, and the request that proves that it has them.

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair};

use crate::key::ECDSA_WITH_SHA256;
use crate::{PkiError, der, pem};

const ECDSA_WITH_SHA384: &[u32] = &[1, 2, 840, 10045, 4, 3, 3];
const EC_PUBLIC_KEY: &[u32] = &[1, 2, 840, 10045, 2, 1];
const PRIME256V1: &[u32] = &[1, 2, 840, 10045, 3, 1, 7];
const SECP384R1: &[u32] = &[1, 3, 132, 0, 34];
const ED25519: &[u32] = &[1, 3, 101, 112];

/// A key that was just made. It is shown as PEM once, and kept nowhere.
pub struct PodKey {
    pem: String,
    request: Vec<u8>,
}

impl std::fmt::Debug for PodKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PodKey")
    }
}

impl PodKey {
    /// The kinds of keys that can be made, by the names that pods call them by. `ring` makes no others.
    pub const KINDS: [&str; 3] = ["ECDSAP256", "ECDSAP384", "ED25519"];

    /// Makes a key of a kind.
    ///
    /// # Errors
    /// There is no such kind, or no randomness.
    pub fn generate(kind: &str) -> Result<Self, PkiError> {
        match kind {
            "ECDSAP256" => Self::elliptic(&ECDSA_P256_SHA256_ASN1_SIGNING, PRIME256V1, ECDSA_WITH_SHA256),
            "ECDSAP384" => Self::elliptic(&ECDSA_P384_SHA384_ASN1_SIGNING, SECP384R1, ECDSA_WITH_SHA384),
            "ED25519" => Self::edwards(),
            other => Err(PkiError::malformed("kind of key", format!("{other:?} cannot be made here, only {}", Self::KINDS.join(", ")))),
        }
    }

    fn elliptic(algorithm: &'static EcdsaSigningAlgorithm, curve: &[u32], signature: &[u32]) -> Result<Self, PkiError> {
        let random = SystemRandom::new();
        let failed = |_| PkiError::Cryptography("generate a private key");
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(failed)?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).map_err(|error| PkiError::malformed("private key", error))?;
        let parameters = der::sequence(&[&der::object_identifier(EC_PUBLIC_KEY), &der::object_identifier(curve)]);
        let sign = |message: &[u8]| key.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(|_| PkiError::Cryptography("sign"));
        Ok(Self { pem: pem::encode("PRIVATE KEY", document.as_ref()), request: request(&parameters, key.public_key().as_ref(), signature, sign)? })
    }

    fn edwards() -> Result<Self, PkiError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| PkiError::Cryptography("generate a private key"))?;
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| PkiError::malformed("private key", error))?;
        let parameters = der::sequence(&[&der::object_identifier(ED25519)]);
        // Without the public key, which not every reader expects. Source: RFC 8410, section 7.
        let pkcs8 = der::sequence(&[&der::unsigned_integer(&[0]), &parameters, &der::octet_string(&der::octet_string(&seed))]);
        let request = request(&parameters, key.public_key().as_ref(), ED25519, |message| Ok(key.sign(message).as_ref().to_vec()))?;
        Ok(Self { pem: pem::encode("PRIVATE KEY", &pkcs8), request })
    }

    /// The key as PEM (PKCS#8). A secret.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate request (PKCS#10, DER) that asks for nothing: only that its sender has the key can be read from it.
    #[must_use]
    pub fn stub_request(&self) -> &[u8] {
        &self.request
    }
}

fn request(parameters: &[u8], public_key: &[u8], signature: &[u32], sign: impl Fn(&[u8]) -> Result<Vec<u8>, PkiError>) -> Result<Vec<u8>, PkiError> {
    let public_key_info = der::sequence(&[parameters, &der::bit_string(public_key)]);
    let information = der::sequence(&[&der::unsigned_integer(&[0]), &der::sequence(&[]), &public_key_info, &der::value(0xa0, &[])]);
    let signed = sign(&information)?;
    Ok(der::sequence(&[&information, &der::sequence(&[&der::object_identifier(signature)]), &der::bit_string(&signed)]))
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject};

    use super::*;
    use crate::CertificateRequest;

    #[test]
    fn a_request_proves_that_the_key_is_there_and_asks_for_nothing() {
        for kind in PodKey::KINDS {
            let key = PodKey::generate(kind).unwrap();
            let request = CertificateRequest::from_der(&CertificateSigningRequestDer::from(key.stub_request().to_vec())).unwrap_or_else(|problem| panic!("{kind}: {problem}"));
            assert!(request.subject.common_name.is_empty() && request.names.is_empty(), "{kind}: {request:?}");
            // What reads keys elsewhere reads this one.
            let read = PrivateKeyDer::from_pem_slice(key.pem().as_bytes()).unwrap();
            rustls::crypto::ring::sign::any_supported_type(&read).unwrap_or_else(|problem| panic!("{kind}: {problem}"));
            assert_ne!(key.pem(), PodKey::generate(kind).unwrap().pem());
        }
        assert!(PodKey::generate("RSA3072").unwrap_err().to_string().contains("ECDSAP256, ECDSAP384, ED25519"));
    }
}
