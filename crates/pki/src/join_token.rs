//! The token that lets a new node join: `knarr1.<sha256 of the CA>.<bootstrap id>.<secret>`.
//!
//! Its last two parts are a Kubernetes bootstrap token. The first lets the node recognise the cluster before it shows the secret.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::PkiError;

const VERSION: &str = "knarr1";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// 32 characters, so that five random bits choose one without bias; those easily confused are left out.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// SHA-256 of a certificate's DER form. Shown in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = MalformedToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Vec<u8> = text
            .chars()
            .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()
            .ok_or(MalformedToken("the fingerprint must be hexadecimal"))?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |value, digit| value << 4 | digit)).collect();
        if digits.len() != 64 {
            return Err(MalformedToken("the fingerprint must have 64 hexadecimal digits"));
        }
        bytes.try_into().map(Self).map_err(|_| MalformedToken("the fingerprint must have 64 hexadecimal digits"))
    }
}

/// What a new node needs to know to join.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the cluster's CA certificate.
    pub authority: Fingerprint,
    /// The bootstrap token's id: its Secret is `bootstrap-token-<id>` in `kube-system`.
    pub id: String,
    /// The bootstrap token's secret.
    pub secret: String,
}

/// A join token that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed token: {0}; it looks like knarr1.<sha256 of the CA>.<id>.<secret>, as `knarr token create` prints it")]
pub struct MalformedToken(&'static str);

impl JoinToken {
    /// A new token with a random id and secret.
    pub fn generate(authority: Fingerprint) -> Result<Self, PkiError> {
        Ok(Self { authority, id: random_text(ID_LENGTH)?, secret: random_text(SECRET_LENGTH)? })
    }

    /// `<id>.<secret>`: the bearer token that the API server knows.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

fn random_text(length: usize) -> Result<String, PkiError> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Cryptography("read random bytes"))?;
    Ok(bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 31))).map(|letter| char::from(*letter)).collect())
}

impl fmt::Display for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{VERSION}.{}.{}.{}", self.authority, self.id, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = MalformedToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [version, authority, id, secret] = parts.as_slice() else {
            return Err(MalformedToken("it must have four parts separated by dots"));
        };
        if *version != VERSION {
            return Err(MalformedToken("it must begin with knarr1"));
        }
        let proper = |text: &str, length| text.len() == length && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
        if !proper(id, ID_LENGTH) {
            return Err(MalformedToken("the id must be 6 lower-case letters and digits"));
        }
        if !proper(secret, SECRET_LENGTH) {
            return Err(MalformedToken("the secret must be 16 lower-case letters and digits"));
        }
        Ok(Self { authority: authority.parse()?, id: (*id).to_owned(), secret: (*secret).to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_form() {
        let token = JoinToken::generate(Fingerprint::of(b"authority")).unwrap();
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert!(text.ends_with(&token.bearer()));
        assert!(!format!("{token:?}").contains(&token.secret), "the secret must not reach a log");
    }

    #[test]
    fn a_malformed_token_says_what_is_wrong() {
        let fingerprint = Fingerprint::of(b"").to_string();
        for (text, problem) in [
            ("", "four parts"),
            ("abcdef.0123456789abcdef", "four parts"),
            (&format!("knarr2.{fingerprint}.abcdef.0123456789abcdef"), "knarr1"),
            ("knarr1.00.abcdef.0123456789abcdef", "64"),
            (&format!("knarr1.{}.abcdef.0123456789abcdef", "é".repeat(32)), "hexadecimal"),
            (&format!("knarr1.{fingerprint}.abc.0123456789abcdef"), "id"),
            (&format!("knarr1.{fingerprint}.abcdef.0123456789ABCDEF"), "secret"),
        ] {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
