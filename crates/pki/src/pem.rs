//! PEM, the text form of keys and certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::PkiError;

/// Wraps DER in a PEM block with lines of 64 characters.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// All certificates of a PEM text; at least one.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let all = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PkiError::malformed("certificate", error))?;
    if all.is_empty() {
        return Err(PkiError::malformed("certificate", "no CERTIFICATE block"));
    }
    Ok(all)
}

/// The certificate request of a PEM text.
pub(crate) fn certificate_request(text: &[u8]) -> Result<CertificateSigningRequestDer<'static>, PkiError> {
    CertificateSigningRequestDer::from_pem_slice(text).map_err(|error| PkiError::malformed("certificate request", error))
}
