//! Reading a kubeconfig: the server and the user of its current context.
//!
//! Source: <https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>. Users that a program or a provider makes up (`exec`,
//! `auth-provider`) are not for a part of the cluster, and refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use crate::AnyCertificate;

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The kubeconfig, or a file that it names.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no kubeconfig.
    #[error("{path} is not a kubeconfig")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_yaml_ng::Error,
    },
    /// An entry is not there.
    #[error("the kubeconfig has no {kind} named {name:?}")]
    Missing {
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// The name that is looked for.
        name: String,
    },
    /// A value is not what its field must hold.
    #[error("{field} of the kubeconfig is not {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// Certificate, key and authority do not work together.
    #[error("the kubeconfig's certificates cannot be used")]
    Tls(#[from] rustls::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Deserialize)]
struct ContextEntry {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

/// What a kubeconfig's current context says.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    /// The server's address.
    pub server: Uri,
    /// Whom the client trusts, and how it proves itself with a certificate, if so.
    pub tls: Arc<rustls::ClientConfig>,
    /// The bearer token that the client shows, if one.
    pub token: Option<String>,
}

/// The bytes of a field that holds them in base64, or else of the file that another field names, relative to the kubeconfig.
fn content(field: &'static str, data: Option<&String>, file: Option<&PathBuf>, directory: &Path) -> Result<Option<Vec<u8>>, KubeconfigError> {
    use base64::Engine;
    if let Some(data) = data {
        let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim());
        return bytes.map(Some).map_err(|_| KubeconfigError::Value { field, expected: "base64" });
    }
    let Some(file) = file else { return Ok(None) };
    let path = directory.join(file);
    std::fs::read(&path).map(Some).map_err(|source| KubeconfigError::Read { path, source })
}

fn certificates(field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, KubeconfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(KubeconfigError::Value { field, expected: "a certificate in PEM form" })
}

impl Kubeconfig {
    /// Reads the file at `path`, and the files that it names.
    ///
    /// # Errors
    /// Each says what is wrong with which field or file.
    pub fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
        let file: File = serde_yaml_ng::from_str(&text).map_err(|source| KubeconfigError::Syntax { path: path.to_owned(), source })?;
        let missing = |kind, name: &str| KubeconfigError::Missing { kind, name: name.to_owned() };
        let context = file.contexts.iter().find(|named| named.name == file.current_context);
        let context = &context.ok_or_else(|| missing("context", &file.current_context))?.context;
        let cluster = file.clusters.iter().find(|named| named.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
        let user = file.users.iter().find(|named| named.name == context.user);
        let user = &user.ok_or_else(|| missing("user", &context.user))?.user;
        let directory = path.parent().unwrap_or(Path::new("."));
        let server = cluster.server.parse().map_err(|_| KubeconfigError::Value { field: "server", expected: "an address" })?;
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Err(KubeconfigError::Value { field: "user", expected: "one with a certificate or a token" });
        }
        let token = match (&user.token, &user.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, file) => content("tokenFile", None, file.as_ref(), directory)?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()),
        };
        Ok(Self { server, tls: Arc::new(tls(cluster, user, directory)?), token })
    }
}

fn tls(cluster: &Cluster, user: &User, directory: &Path) -> Result<rustls::ClientConfig, KubeconfigError> {
    let files = TlsFiles {
        authority: cluster.certificate_authority.clone(),
        authority_data: cluster.certificate_authority_data.clone(),
        certificate: user.client_certificate.clone(),
        certificate_data: user.client_certificate_data.clone(),
        key: user.client_key.clone(),
        key_data: user.client_key_data.clone(),
        ..TlsFiles::default()
    };
    files.configuration(directory)
}

/// By what a client knows a server, and proves itself where it has a certificate: in files, or in base64, which wins.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Who vouches for the server.
    pub authority: Option<PathBuf>,
    /// See there.
    pub authority_data: Option<String>,
    /// The client's certificate.
    pub certificate: Option<PathBuf>,
    /// See there.
    pub certificate_data: Option<String>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// See there.
    pub key_data: Option<String>,
    /// The server need not prove who it is; no authority may be given then.
    pub insecure: bool,
    /// Who the server proves to be, and is asked for, where that is not the host of its address.
    pub server_name: Option<String>,
}

impl TlsFiles {
    /// Reads the files; relative names are relative to `directory`.
    ///
    /// # Errors
    /// Which of them cannot be read or used; an authority there must be, unless the server need not prove who it is.
    pub fn configuration(&self, directory: &Path) -> Result<rustls::ClientConfig, KubeconfigError> {
        const AUTHORITY: &str = "certificate-authority";
        let authority = content(AUTHORITY, self.authority_data.as_ref(), self.authority.as_ref(), directory)?;
        let config = if self.insecure {
            if authority.is_some() {
                return Err(KubeconfigError::Value { field: AUTHORITY, expected: "to be given where the server need not prove who it is" });
            }
            trusting_anybody()?
        } else {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(AUTHORITY, &authority.unwrap_or_default())? {
                roots.add(certificate)?;
            }
            trusting(roots)?
        };
        const CERTIFICATE: &str = "client-certificate";
        let Some(certificate) = content(CERTIFICATE, self.certificate_data.as_ref(), self.certificate.as_ref(), directory)? else {
            return Ok(config.with_no_client_auth());
        };
        let key = content("client-key", self.key_data.as_ref(), self.key.as_ref(), directory)?.unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(&key);
        let key = key.map_err(|_| KubeconfigError::Value { field: "client-key", expected: "a private key in PEM form" })?;
        Ok(config.with_client_auth_cert(certificates(CERTIFICATE, &certificate)?, key)?)
    }
}

/// A configuration but for the client's own certificate.
type Trusting = rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>;

/// A configuration that trusts whom these vouch for.
pub(crate) fn trusting(roots: rustls::RootCertStore) -> Result<Trusting, rustls::Error> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots))
}

/// A configuration that trusts whoever answers.
fn trusting_anybody() -> Result<Trusting, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(AnyCertificate::new(provider)))
}
