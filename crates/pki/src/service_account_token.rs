//! Tokens of service accounts: JWTs (ES256) bound to an audience, an expiry and usually a Pod, and what others need to verify them.
//!
//! Whether the service account and the Pod still exist is the API server's question; here only signatures, times and audiences count.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{PkiError, PrivateKey};

/// How wrong a clock may be, as upstream's JWT library allows.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// No service account token comes near this size; longer ones are not even decoded. In bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Verified tokens remembered in one half of the memory.
const REMEMBERED_TOKENS: usize = 2048;

/// Names a key in a token's header: SHA-256 of the public key, as upstream makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The id of a public key (DER `SubjectPublicKeyInfo`).
    pub fn of(public_key_info: &[u8]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(Sha256::digest(public_key_info)))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An object that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObject {
    /// Its name.
    pub name: String,
    /// Its uid: an object of the same name made later does not count.
    #[serde(default)]
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    /// The service account's namespace.
    pub namespace: String,
    /// The node, of the Pod or bound to directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundObject>,
    /// The Pod it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundObject>,
    /// The Secret it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundObject>,
    /// The service account.
    pub serviceaccount: BoundObject,
    /// Unix seconds after which a use is worth a warning (the client should have asked for a new token).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// Everything a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// For whom it is.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// End, in Unix seconds.
    pub exp: i64,
    /// When it was made, in Unix seconds.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its own id.
    #[serde(default)]
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaims,
    /// Start, in Unix seconds.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`
    pub sub: String,
}

impl TokenClaims {
    /// The user name: `system:serviceaccount:NAMESPACE:NAME`.
    pub fn user(&self) -> &str {
        &self.sub
    }

    /// The user's groups.
    pub fn groups(&self) -> [String; 3] {
        [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", self.kubernetes.namespace),
            "system:authenticated".to_owned(),
        ]
    }
}

/// The audience may be one text or a list of texts.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// What a new token should say.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: BoundObject,
    /// Bind to this Pod.
    pub pod: Option<BoundObject>,
    /// Bind to this node, or name the Pod's.
    pub node: Option<BoundObject>,
    /// Bind to this Secret.
    pub secret: Option<BoundObject>,
    /// For whom.
    pub audiences: Vec<String>,
    /// For how long.
    pub lifetime: SignedDuration,
    /// Warn about uses later than this.
    pub warn_after: Option<SignedDuration>,
}

/// Signs tokens.
#[derive(Debug, Clone)]
pub struct TokenSigner {
    issuer: String,
    key: PrivateKey,
    key_id: KeyId,
}

impl TokenSigner {
    /// A signer for an issuer (`https://kubernetes.default.svc.cluster.local`).
    pub fn new(issuer: &str, key: PrivateKey) -> Self {
        let key_id = KeyId::of(&key.public_key_info());
        Self { issuer: issuer.to_owned(), key, key_id }
    }

    /// The issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key, for [`TokenVerifier::new`].
    pub fn public_key(&self) -> TokenKey {
        TokenKey { id: self.key_id.clone(), point: self.key.public_point().to_vec() }
    }

    /// Makes a token; returns it with what it says (`jti` and `exp` go into the answer and the audit log).
    pub fn sign(&self, request: &TokenRequest, now: Timestamp) -> Result<(String, TokenClaims), PkiError> {
        let start = now.as_second();
        let claims = TokenClaims {
            aud: request.audiences.clone(),
            exp: start.saturating_add(request.lifetime.as_secs()),
            iat: start,
            iss: self.issuer.clone(),
            jti: random_uuid()?,
            kubernetes: KubernetesClaims {
                namespace: request.namespace.clone(),
                node: request.node.clone(),
                pod: request.pod.clone(),
                secret: request.secret.clone(),
                serviceaccount: request.service_account.clone(),
                warnafter: request.warn_after.map(|after| start.saturating_add(after.as_secs())),
            },
            nbf: start,
            sub: format!("system:serviceaccount:{}:{}", request.namespace, request.service_account.name),
        };
        let header = json!({"alg": "ES256", "kid": self.key_id.0});
        let payload = serde_json::to_vec(&claims).map_err(|error| PkiError::malformed("token", error))?;
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign_token(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok((token, claims))
    }
}

/// A random (version 4) UUID.
fn random_uuid() -> Result<String, PkiError> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Cryptography("read random bytes"))?;
    let bits = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let text = format!("{bits:032x}");
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    Ok(format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)))
}

/// A public key that tokens are verified with.
#[derive(Debug, Clone)]
pub struct TokenKey {
    id: KeyId,
    point: Vec<u8>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no service account token of this cluster: another authenticator may know it.
    #[error("not a service account token of this cluster")]
    Foreign,
    /// It claims to be one, but is malformed or forged.
    #[error("invalid service account token: {0}")]
    Invalid(&'static str),
    /// Too late.
    #[error("service account token has expired")]
    Expired,
    /// Too early.
    #[error("service account token is not valid yet")]
    NotYetValid,
    /// For somebody else.
    #[error("service account token is for other audiences: {0:?}")]
    OtherAudience(Vec<String>),
}

/// Verifies tokens with one or more keys (several while a key is being replaced) and one or more issuers.
///
/// A verified signature is remembered under the token's hash, in bounded memory; times and audiences are checked at every use.
#[derive(Debug)]
pub struct TokenVerifier {
    issuers: Vec<String>,
    keys: Vec<TokenKey>,
    remembered: Mutex<Generations>,
}

/// Two generations of remembered tokens: when the young one is full it becomes the old one, and the old one is forgotten. What is used
/// stays, at constant cost.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<[u8; 32], Arc<TokenClaims>>,
    old: HashMap<[u8; 32], Arc<TokenClaims>>,
}

impl Generations {
    fn get(&mut self, hash: &[u8; 32]) -> Option<Arc<TokenClaims>> {
        if let Some(claims) = self.young.get(hash) {
            return Some(Arc::clone(claims));
        }
        let claims = self.old.remove(hash)?;
        self.insert(*hash, Arc::clone(&claims));
        Some(claims)
    }

    fn insert(&mut self, hash: [u8; 32], claims: Arc<TokenClaims>) {
        if self.young.len() >= REMEMBERED_TOKENS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, claims);
    }
}

impl TokenVerifier {
    /// A verifier for these issuers and keys.
    pub fn new(issuers: impl IntoIterator<Item = impl Into<String>>, keys: impl IntoIterator<Item = TokenKey>) -> Self {
        Self {
            issuers: issuers.into_iter().map(Into::into).collect(),
            keys: keys.into_iter().collect(),
            remembered: Mutex::default(),
        }
    }

    /// Verifies a token for any of these audiences. Which of them it is for: intersect with [`TokenClaims::aud`].
    pub fn verify(&self, token: &str, audiences: &[impl AsRef<str>], now: Timestamp) -> Result<Arc<TokenClaims>, TokenError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let remembered = self.remembered.lock().get(&hash);
        let claims = match remembered {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.verify_signature(token)?);
                self.remembered.lock().insert(hash, Arc::clone(&claims));
                claims
            }
        };
        let second = now.as_second();
        if second > claims.exp.saturating_add(LEEWAY.as_secs()) {
            return Err(TokenError::Expired);
        }
        if second.saturating_add(LEEWAY.as_secs()) < claims.nbf {
            return Err(TokenError::NotYetValid);
        }
        if !claims.aud.iter().any(|audience| audiences.iter().any(|accepted| accepted.as_ref() == audience)) {
            return Err(TokenError::OtherAudience(claims.aud.clone()));
        }
        Ok(claims)
    }

    fn verify_signature(&self, token: &str) -> Result<TokenClaims, TokenError> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            #[serde(default)]
            kid: Option<String>,
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Foreign);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Foreign)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Foreign)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Foreign);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Foreign)?;
        let payload = decode(payload)?;
        let issuer = serde_json::from_slice::<Value>(&payload).map_err(|_| TokenError::Foreign)?;
        let issuer = issuer.get("iss").and_then(Value::as_str).ok_or(TokenError::Foreign)?;
        if !self.issuers.iter().any(|known| known == issuer) {
            return Err(TokenError::Foreign);
        }
        if header.alg != "ES256" {
            return Err(TokenError::Invalid("it must be signed with ES256"));
        }
        let signature = decode(signature)?;
        let candidates = self.keys.iter().filter(|key| header.kid.as_ref().is_none_or(|id| *id == key.id.0));
        let genuine = candidates
            .into_iter()
            .any(|key| UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point).verify(signed.as_bytes(), &signature).is_ok());
        if !genuine {
            return Err(TokenError::Invalid("its signature is wrong"));
        }
        let claims: TokenClaims = serde_json::from_slice(&payload).map_err(|_| TokenError::Invalid("a claim is missing or malformed"))?;
        let expected = format!("system:serviceaccount:{}:{}", claims.kubernetes.namespace, claims.kubernetes.serviceaccount.name);
        if claims.sub != expected {
            return Err(TokenError::Invalid("its subject differs from its service account"));
        }
        Ok(claims)
    }

    /// The JSON Web Key Set, served at `/openid/v1/jwks`.
    pub fn json_web_key_set(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .filter_map(|key| {
                let (x, y) = key.point.get(1..)?.split_at_checked(32)?;
                Some(json!({
                    "use": "sig",
                    "kty": "EC",
                    "kid": key.id.0,
                    "crv": "P-256",
                    "alg": "ES256",
                    "x": URL_SAFE_NO_PAD.encode(x),
                    "y": URL_SAFE_NO_PAD.encode(y),
                }))
            })
            .collect();
        json!({"keys": keys})
    }

    /// The OpenID discovery document, served at `/.well-known/openid-configuration`; `keys_address` is where the key set is found.
    pub fn discovery_document(&self, keys_address: &str) -> Value {
        json!({
            "issuer": self.issuers.first().map(String::as_str).unwrap_or_default(),
            "jwks_uri": keys_address,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

#[cfg(test)]
mod tests;
