//! Signatures of a text that travels apart from them, made with the secret of a bootstrap token: whoever knows the token can tell
//! that the text comes from the cluster, before it trusts any certificate.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

/// The signature of `content` with a token's secret, as a JSON Web Signature (HS256) whose middle part, the content, is left out.
/// Source: Kubernetes 1.36, `ComputeDetachedSignature`; RFC 7515, appendix F.
pub fn detached_signature(content: &str, token_id: &str, token_secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "kid": token_id }).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token_secret.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of upstream's own test.
    #[test]
    fn a_signature_is_what_others_compute() {
        let content = "Hello from the other side. I must have called a thousand times.";
        let expected = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert_eq!(detached_signature(content, "joshua", "my voice is my passcode"), expected);
    }
}
