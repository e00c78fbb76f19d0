//! The cluster's own certificate authority: made at first start, kept in one directory, signing everything in the cluster.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::{Template, read_subject};
use crate::service_account_token::{KeyId, TokenSigner};
use crate::{
    AlternativeNames, CertificateIdentity, CertificateRequest, Credential, Fingerprint, PkiError, PrivateKey, Subject, Usage, pem,
    private_file,
};

/// How long the authority itself lives: ten years.
pub const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// How long certificates for servers and clients live, where nobody asks for less: one year.
pub const CERTIFICATE_LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Certificates begin this long before now, for peers whose clock is behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

const SERVER_USAGES: &[Usage] = &[Usage::DigitalSignature, Usage::ServerAuth];
const CLIENT_USAGES: &[Usage] = &[Usage::DigitalSignature, Usage::ClientAuth];

/// The certificate authority with its private key.
#[derive(Debug, Clone)]
pub struct ClusterAuthority {
    directory: PathBuf,
    key: PrivateKey,
    der: CertificateDer<'static>,
    pem: String,
    subject: Vec<u8>,
    key_identifier: Vec<u8>,
    not_after: Timestamp,
}

impl ClusterAuthority {
    /// Opens the authority kept in a directory (`ca.key`, `ca.crt`), or makes one there.
    /// # Errors
    /// When the directory cannot be used, or key and certificate do not belong together.
    pub fn open_or_create(directory: &Path, now: Timestamp) -> Result<Self, PkiError> {
        private_file::create_directory(directory)?;
        let (key_path, certificate_path) = (directory.join("ca.key"), directory.join("ca.crt"));
        let unusable = |path: &Path, problem: String| PkiError::Unusable { path: path.to_owned(), problem };
        let (key, text) = match (private_file::read(&key_path)?, private_file::read(&certificate_path)?) {
            (Some(key), Some(certificate)) => {
                (PrivateKey::from_pem(&key).map_err(|error| unusable(&key_path, error.to_string()))?, certificate)
            }
            (None, Some(_)) => {
                return Err(unusable(&certificate_path, format!("its private key {} is missing; restore it", key_path.display())));
            }
            // The key is written first, so a key alone is a first start that was cut short.
            (key, None) => {
                let key = match key {
                    Some(key) => PrivateKey::from_pem(&key).map_err(|error| unusable(&key_path, error.to_string()))?,
                    None => {
                        let key = PrivateKey::generate()?;
                        private_file::write(&key_path, key.to_pem().as_bytes())?;
                        key
                    }
                };
                let text = self_signed(&key, now)?;
                private_file::write(&certificate_path, text.as_bytes())?;
                (key, text)
            }
        };
        Self::new(directory, key, &text).map_err(|error| unusable(&certificate_path, error.to_string()))
    }

    fn new(directory: &Path, key: PrivateKey, text: &str) -> Result<Self, PkiError> {
        let der = pem::certificates(text)?.into_iter().next().ok_or_else(|| PkiError::malformed("certificate", "none found"))?;
        let (subject, not_after, key_identifier) = {
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| PkiError::malformed("certificate", error))?;
            if parsed.public_key().subject_public_key.data.as_ref() != key.public_point() {
                return Err(PkiError::malformed("certificate", "it belongs to another private key"));
            }
            if !parsed.is_ca() {
                return Err(PkiError::malformed("certificate", "it is not that of an authority"));
            }
            let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp())
                .map_err(|error| PkiError::malformed("certificate", error))?;
            let key_identifier = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
                _ => None,
            });
            (parsed.subject().as_raw().to_vec(), not_after, key_identifier.unwrap_or_else(|| key_identifier_of(&key)))
        };
        let pem = pem::encode("CERTIFICATE", &der);
        Ok(Self { directory: directory.to_owned(), key, der, pem, subject, key_identifier, not_after })
    }

    /// The directory it lives in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The authority's certificate as PEM: `ca.crt` of every service account, `certificate-authority-data` of a kubeconfig.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate as DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the authority's certificate, the one that a [`crate::JoinToken`] carries.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Issues a server's certificate for these names. The chain ends with the authority itself, so that a node that knows nothing but
    /// the authority's fingerprint can find it there.
    pub fn issue_server(&self, common_name: &str, names: &AlternativeNames, now: Timestamp) -> Result<Credential, PkiError> {
        let subject = Subject { common_name: common_name.to_owned(), organizations: Vec::new() };
        self.issue(&subject, names, SERVER_USAGES, CERTIFICATE_LIFETIME, now)
    }

    /// Issues a client's certificate for a user and its groups.
    pub fn issue_client(&self, subject: &Subject, lifetime: SignedDuration, now: Timestamp) -> Result<Credential, PkiError> {
        self.issue(subject, &AlternativeNames::default(), CLIENT_USAGES, lifetime, now)
    }

    /// The administrator's client certificate: user `system:admin` in group `system:masters`, who may do everything.
    pub fn issue_admin(&self, now: Timestamp) -> Result<Credential, PkiError> {
        self.issue_client(&Subject::new("system:admin", ["system:masters"]), CERTIFICATE_LIFETIME, now)
    }

    /// The server certificate kept in the directory as `NAME.pem`; issued anew when it is missing, due for renewal, of another
    /// authority or without one of the names.
    pub fn ensure_server(&self, name: &str, common_name: &str, names: &AlternativeNames, now: Timestamp) -> Result<Credential, PkiError> {
        self.ensure(name, now, |kept| kept.names().covers(names), || self.issue_server(common_name, names, now))
    }

    /// The client certificate kept in the directory as `NAME.pem`; issued anew when it is missing, due for renewal, of another
    /// authority or for somebody else.
    pub fn ensure_client(&self, name: &str, subject: &Subject, now: Timestamp) -> Result<Credential, PkiError> {
        let fits = |kept: &Credential| {
            kept.identity().is_ok_and(|identity| identity.user == subject.common_name && identity.groups == subject.organizations)
        };
        self.ensure(name, now, fits, || self.issue_client(subject, CERTIFICATE_LIFETIME, now))
    }

    fn ensure(
        &self,
        name: &str,
        now: Timestamp,
        fits: impl Fn(&Credential) -> bool,
        issue: impl FnOnce() -> Result<Credential, PkiError>,
    ) -> Result<Credential, PkiError> {
        let path = self.directory.join(format!("{name}.pem"));
        match Credential::load(&path) {
            Ok(Some(kept)) if !kept.needs_renewal(now) && fits(&kept) && self.has_signed(kept.chain().first(), now) => return Ok(kept),
            // A file that cannot be read is an error; one with a broken content is only a certificate to be replaced.
            Ok(_) | Err(PkiError::Unusable { .. }) => {}
            Err(error) => return Err(error),
        }
        let credential = issue()?;
        credential.save(&path)?;
        Ok(credential)
    }

    fn has_signed(&self, certificate: Option<&CertificateDer<'_>>, now: Timestamp) -> bool {
        certificate.is_some_and(|certificate| self.verify(certificate, now).is_ok())
    }

    fn issue(
        &self,
        subject: &Subject,
        names: &AlternativeNames,
        usages: &[Usage],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Credential, PkiError> {
        let key = PrivateKey::generate()?;
        let certificate = self.sign(&subject.to_der(), &key.public_key_info(), names, usages, lifetime, now)?;
        let mut chain = pem::encode("CERTIFICATE", &certificate);
        if usages.contains(&Usage::ServerAuth) {
            chain.push_str(&self.pem);
        }
        Credential::new(key, chain)
    }

    /// Signs a request that was approved: its subject, key and names, for these usages. Returns the certificate as PEM.
    /// # Errors
    /// [`PkiError::NotTrusted`] when it asks to become an authority, or for usages only an authority has.
    pub fn sign_request(
        &self,
        request: &CertificateRequest,
        usages: &[Usage],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        if request.wants_authority || usages.iter().any(|usage| matches!(usage, Usage::CertSign | Usage::CrlSign)) {
            return Err(PkiError::NotTrusted("a request may not ask to become an authority".to_owned()));
        }
        let certificate = self.sign(&request.subject_der, &request.public_key_info, &request.names, usages, lifetime, now)?;
        Ok(pem::encode("CERTIFICATE", &certificate))
    }

    fn sign(
        &self,
        subject: &[u8],
        public_key_info: &[u8],
        names: &AlternativeNames,
        usages: &[Usage],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<u8>, PkiError> {
        // Nothing outlives the authority: a certificate that did would fail on the day the authority ends, unforeseen.
        let not_after = later(now, lifetime)?.min(self.not_after);
        Template {
            subject,
            issuer: &self.subject,
            public_key_info,
            issuer_key_identifier: &self.key_identifier,
            names,
            usages,
            is_authority: false,
            not_before: earlier(now, lifetime)?,
            not_after,
        }
        .sign(&self.key)
    }

    /// Checks that this authority signed a certificate which is valid now, and reads whom it names. Usages are not looked at.
    /// # Errors
    /// [`PkiError::NotTrusted`] says what is missing.
    pub fn verify(&self, certificate: &CertificateDer<'_>, now: Timestamp) -> Result<CertificateIdentity, PkiError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| PkiError::malformed("certificate", error))?;
        let (_, authority) = X509Certificate::from_der(&self.der).map_err(|error| PkiError::malformed("certificate", error))?;
        if parsed.issuer().as_raw() != self.subject.as_slice() {
            return Err(PkiError::NotTrusted("another authority issued it".to_owned()));
        }
        parsed
            .verify_signature(Some(authority.public_key()))
            .map_err(|_| PkiError::NotTrusted("its signature is not this authority's".to_owned()))?;
        let second = now.as_second();
        let validity = parsed.validity();
        if second < validity.not_before.timestamp() || second > validity.not_after.timestamp() {
            return Err(PkiError::NotTrusted(format!("it is not valid at {now}")));
        }
        CertificateIdentity::from_certificate(certificate)
    }

    /// The key that signs service account tokens, kept in the directory as `service-account.key`, made at first use.
    pub fn token_signer(&self, issuer: &str) -> Result<TokenSigner, PkiError> {
        let path = self.directory.join("service-account.key");
        let key = match private_file::read(&path)? {
            Some(text) => PrivateKey::from_pem(&text)
                .map_err(|error| PkiError::Unusable { path: path.clone(), problem: error.to_string() })?,
            None => {
                let key = PrivateKey::generate()?;
                private_file::write(&path, key.to_pem().as_bytes())?;
                key
            }
        };
        Ok(TokenSigner::new(issuer, key))
    }
}

/// The authority's certificate. Its name carries part of the key's hash, so that two clusters' authorities are told apart.
fn self_signed(key: &PrivateKey, now: Timestamp) -> Result<String, PkiError> {
    let identity = KeyId::of(&key.public_key_info()).to_string();
    let subject = Subject::new(format!("knarr-ca@{}", identity.get(..8).unwrap_or_default()), [""; 0]).to_der();
    let template = Template {
        subject: &subject,
        issuer: &subject,
        public_key_info: &key.public_key_info(),
        issuer_key_identifier: &key_identifier_of(key),
        names: &AlternativeNames::default(),
        usages: &[Usage::DigitalSignature, Usage::KeyEncipherment, Usage::CertSign],
        is_authority: true,
        not_before: earlier(now, AUTHORITY_LIFETIME)?,
        not_after: later(now, AUTHORITY_LIFETIME)?,
    };
    Ok(pem::encode("CERTIFICATE", &template.sign(key)?))
}

fn key_identifier_of(key: &PrivateKey) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(key.public_point()).iter().take(20).copied().collect()
}

/// Somewhat before now, for machines whose clocks are behind; never by more than half of a short life, lest the certificate were due for
/// renewal as soon as it is made.
fn earlier(now: Timestamp, lifetime: SignedDuration) -> Result<Timestamp, PkiError> {
    now.checked_sub(BACKDATE.min(lifetime / 2)).map_err(|error| PkiError::malformed("time", error))
}

fn later(now: Timestamp, lifetime: SignedDuration) -> Result<Timestamp, PkiError> {
    now.checked_add(lifetime).map_err(|error| PkiError::malformed("time", error))
}

/// The subject of a certificate, for whoever shows certificates to people.
pub fn subject_of(certificate: &CertificateDer<'_>) -> Result<Subject, PkiError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| PkiError::malformed("certificate", error))?;
    read_subject(parsed.subject(), "certificate")
}

#[cfg(test)]
mod tests;
