//! The cluster's certificate authority, the certificates it signs and the keys that sign tokens.
//!
//! - [`authority`]: the cluster's own CA in its directory, and everything it issues
//! - [`request`]: certificate signing requests, read (with the rules for nodes) and made
//! - [`credential`]: a private key with its certificate chain, as a file and in memory
//! - [`identity`]: which user and groups a client certificate names
//! - [`tls`]: rustls configurations, and a certificate that can be swapped under running listeners
//! - [`join_token`], [`bootstrap`]: the token a new node is given, and how it checks the server before showing it
//! - [`detached_signature`]: what a bootstrap token's secret vouches for
//! - [`service_account_token`]: JWT tokens of service accounts, their keys, JWKS and discovery
//! - [`kubeconfig`]: the file that clients are handed
//! - [`pod_key`]: keys that a node makes for its pods
//! - `der`, `certificate`, `pem`, `private_file`: how bytes are laid out and kept
//!
//! Nothing here reads a clock: the time comes in as `now`, so that renewal and expiry can be tested. (TLS handshakes are the
//! exception; rustls reads the system's clock.)

#![forbid(unsafe_code)]

pub mod authority;
pub mod bootstrap;
mod certificate;
pub mod credential;
mod der;
mod detached_signature;
pub mod identity;
pub mod join_token;
pub mod key;
pub mod kubeconfig;
mod pem;
pub mod pod_key;
pub mod private_file;
pub mod request;
pub mod service_account_token;
pub mod tls;
mod trusted_bundle;
pub mod usage;

pub use authority::ClusterAuthority;
pub use certificate::{AlternativeNames, Subject};
pub use credential::Credential;
pub use detached_signature::detached_signature;
pub use identity::CertificateIdentity;
pub use join_token::{Fingerprint, JoinToken};
pub use key::PrivateKey;
pub use kubeconfig::Kubeconfig;
pub use pod_key::PodKey;
pub use request::CertificateRequest;
pub use service_account_token::{TokenClaims, TokenRequest, TokenSigner, TokenVerifier};
pub use tls::SwappableCertificate;
pub use trusted_bundle::TrustedBundle;
pub use usage::Usage;

use std::path::PathBuf;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the PKI directory could not be read or written.
    #[error("could not {action} {path}", path = path.display())]
    File {
        /// "read", "write", "create" and so on.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of the PKI directory has a content that cannot be used.
    #[error("{path} cannot be used: {problem}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A PEM or DER text is not what it should be.
    #[error("malformed {what}: {problem}")]
    Malformed {
        /// "certificate", "private key", "certificate request" and so on.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate does not prove what it should.
    #[error("certificate not trusted: {0}")]
    NotTrusted(String),
    /// The cryptographic library refused; there is no entropy, or a key is broken.
    #[error("could not {0}")]
    Cryptography(&'static str),
    /// A TLS configuration could not be made.
    #[error("could not set up TLS")]
    Tls(#[from] rustls::Error),
    /// A server could not be reached, or TLS with it failed.
    #[error("could not make a TLS connection to {server}")]
    Connect {
        /// Host and port.
        server: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl PkiError {
    fn malformed(what: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Malformed { what, problem: problem.to_string() }
    }
}
