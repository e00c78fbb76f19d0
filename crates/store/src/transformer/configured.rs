//! Encryption as an administrator configured it: for any resource, with several ciphers and keys, of which the first writes and all
//! read.
//!
//! A sealed value is `k8s:enc:CIPHER:v1:KEYNAME:` and what the cipher makes, as upstream writes it: for AES-GCM `nonce | ciphertext |
//! tag` with the object's key authenticated, for AES-CBC `initialization vector | ciphertext` padded by PKCS #7, for secretbox `nonce |
//! tag | ciphertext`. Keys that a service keeps are in [`envelope`]. Resources without a rule are left to the encryption that the store has by itself.
//! Source: Kubernetes 1.36, `apiserver/pkg/storage/value/encrypt`, and the documentation, "Encrypting Confidential Data at Rest".

use std::sync::Arc;

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{AesGcm, KeyInit as _};
use bytes::Bytes;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use parking_lot::RwLock;
use ring::rand::{SecureRandom, SystemRandom};

use super::envelope::{self, Envelope, Trouble};
use super::{Encryption, FORM_PLAIN, Opened, TransformError, ValueTransformer};
use crate::{Revision, StoreKey};

/// How every value that is sealed here begins.
const MARK: &[u8] = b"k8s:enc:";
const VERSION: &[u8] = b":v1:";
pub(super) const GCM_NONCE_BYTES: usize = 12;
const CBC_VECTOR_BYTES: usize = 16;
const SECRETBOX_NONCE_BYTES: usize = 24;

/// Which resources a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resources {
    /// One resource of a group, which is empty for core: `secrets`, `widgets.example.com`.
    One {
        /// Its plural name.
        resource: String,
        /// Its group.
        group: String,
    },
    /// All of a group: `*.apps`, or `*.` for core.
    OfGroup(String),
    /// All: `*.*`.
    All,
}

impl std::fmt::Display for Resources {
    /// As the configuration writes it.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One { resource, group } if group.is_empty() => formatter.write_str(resource),
            Self::One { resource, group } => write!(formatter, "{resource}.{group}"),
            Self::OfGroup(group) => write!(formatter, "*.{group}"),
            Self::All => formatter.write_str("*.*"),
        }
    }
}

impl Resources {
    fn include(&self, resource: &str, group: &str) -> bool {
        match self {
            Self::One { resource: wanted, group: of } => wanted == resource && of == group,
            Self::OfGroup(of) => of == group,
            Self::All => true,
        }
    }
}

/// A cipher of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// AES in Galois/Counter mode, with keys of 16, 24 or 32 bytes.
    AesGcm,
    /// AES in cipher block chaining mode, with keys of 16, 24 or 32 bytes. It hides a value, and does not prove that it is unchanged.
    AesCbc,
    /// XSalsa20 and Poly1305, with keys of 32 bytes.
    Secretbox,
}

impl Cipher {
    /// As it is called in the configuration and on the medium.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::Secretbox => "secretbox",
        }
    }

    /// Bytes that a key may have.
    #[must_use]
    pub fn key_lengths(self) -> &'static [usize] {
        match self {
            Self::AesGcm | Self::AesCbc => &[16, 24, 32],
            Self::Secretbox => &[32],
        }
    }
}

/// A key with its cipher, or none: then values are stored as they are.
#[derive(Clone, PartialEq, Eq)]
pub enum Provider {
    /// `identity`
    Identity,
    /// One key of a cipher.
    Key {
        /// The cipher.
        cipher: Cipher,
        /// The key's name, which is stored beside each value; it has no colon.
        name: String,
        /// Its bytes.
        secret: Vec<u8>,
    },
    /// `kms`: keys that a service keeps.
    Kms(Envelope),
}

impl std::fmt::Debug for Provider {
    /// Without the secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identity => formatter.write_str("identity"),
            Self::Key { cipher, name, .. } => write!(formatter, "{}:{name}", cipher.name()),
            Self::Kms(envelope) => envelope.fmt(formatter),
        }
    }
}

/// What holds for some resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which.
    pub resources: Vec<Resources>,
    /// The first one writes, all of them read.
    pub providers: Vec<Provider>,
}

/// The rules in force, which may be replaced while a store uses them. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Rules(Arc<RwLock<InForce>>);

#[derive(Debug, Default)]
struct InForce {
    now: Arc<[Rule]>,
    /// What was in force before, each with the last revision that was sealed by it; in order.
    before: Vec<(Revision, Arc<[Rule]>)>,
}

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        Self(Arc::new(RwLock::new(InForce { now: rules.into(), before: Vec::new() })))
    }
}

impl Rules {
    fn now(&self) -> Arc<[Rule]> {
        self.0.read().now.clone()
    }

    /// From now on others hold. `newest` is the last revision that was sealed.
    pub fn replace(&self, rules: Vec<Rule>, newest: Revision) {
        let mut in_force = self.0.write();
        let old = std::mem::replace(&mut in_force.now, rules.into());
        in_force.before.push((newest, old));
    }

    /// Whether a value that was written at a revision would be sealed by another key today, since the rules were replaced after it.
    pub fn make_stale(&self, key: &StoreKey, revision: Revision) -> bool {
        let in_force = self.0.read();
        let Some((_, then)) = in_force.before.iter().find(|(last, _)| revision <= *last) else { return false };
        let first = |rules: &[Rule]| rule_for(rules, key).map(|rule| rule.providers.first().cloned());
        first(then) != first(&in_force.now)
    }
}

/// Of several rules for a resource the first one holds.
fn rule_for<'a>(rules: &'a [Rule], key: &StoreKey) -> Option<&'a Rule> {
    let (resource, group) = resource_of(key);
    rules.iter().find(|rule| rule.resources.iter().any(|resources| resources.include(resource, group)))
}

/// See the module.
pub struct Configured {
    rules: Rules,
    otherwise: Encryption,
    random: SystemRandom,
}

impl Configured {
    /// What has no rule is left to `otherwise`, which also reads what it wrote before.
    pub fn new(rules: Rules, otherwise: Encryption) -> Self {
        Self { rules, otherwise, random: SystemRandom::new() }
    }

    fn random<const LENGTH: usize>(&self) -> Option<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        self.random.fill(&mut bytes).ok()?;
        Some(bytes)
    }

    fn encrypt(&self, cipher: Cipher, secret: &[u8], key: &StoreKey, value: &[u8], sealed: &mut Vec<u8>) -> Option<()> {
        match cipher {
            Cipher::AesGcm => {
                let nonce = self.random::<GCM_NONCE_BYTES>()?;
                sealed.extend_from_slice(&nonce);
                sealed.extend(gcm(secret, &nonce, Direction::Seal, key, value)?);
            }
            Cipher::AesCbc => {
                let vector = self.random::<CBC_VECTOR_BYTES>()?;
                sealed.extend_from_slice(&vector);
                sealed.extend(cbc(secret, &vector, Direction::Seal, value)?);
            }
            Cipher::Secretbox => {
                let nonce = self.random::<SECRETBOX_NONCE_BYTES>()?;
                sealed.extend_from_slice(&nonce);
                sealed.extend(XSalsa20Poly1305::new_from_slice(secret).ok()?.encrypt(&nonce.into(), value).ok()?);
            }
        }
        Some(())
    }

    fn decrypt(&self, key: &StoreKey, sealed: &[u8]) -> Result<Opened, TransformError> {
        let unknown_form = || TransformError::UnknownForm { key: key.as_str().to_owned() };
        let (cipher, rest) = split_at_mark(sealed, VERSION).ok_or_else(unknown_form)?;
        let (name, payload) = split_at_mark(rest, b":").ok_or_else(unknown_form)?;
        let rules = self.rules.now();
        let own = rule_for(&rules, key);
        let is_it = |provider: &&Provider| matches!(provider, Provider::Key { cipher: one, name: known, .. } if one.name().as_bytes() == cipher && known.as_bytes() == name);
        // First its own rule's; a resource may have been moved from one rule to another.
        let providers = own.into_iter().chain(rules.iter()).flat_map(|rule| &rule.providers);
        let key_id = || format!("{}:{}", String::from_utf8_lossy(cipher), String::from_utf8_lossy(name));
        let Some(found @ Provider::Key { cipher, secret, .. }) = providers.into_iter().find(is_it) else {
            return Err(TransformError::UnknownKey { key: key.as_str().to_owned(), key_id: key_id() });
        };
        let value = decrypt(*cipher, secret, key, payload).ok_or_else(|| TransformError::NotAuthentic { key: key.as_str().to_owned(), key_id: key_id() })?;
        let is_first = own.and_then(|rule| rule.providers.first()).is_some_and(|first| first == found);
        Ok(Opened { value: value.into(), stale: !is_first })
    }

    /// `rest` is what follows the mark of values whose keys a service keeps.
    fn decrypt_by_service(&self, key: &StoreKey, rest: &[u8]) -> Result<Opened, TransformError> {
        let shown = key.as_str().to_owned();
        let Some((name, object)) = split_at_mark(rest, b":") else { return Err(TransformError::UnknownForm { key: shown }) };
        let rules = self.rules.now();
        let own = rule_for(&rules, key);
        let mut providers = own.into_iter().chain(rules.iter()).flat_map(|rule| &rule.providers);
        let found = providers.find_map(|provider| match provider {
            Provider::Kms(envelope) if envelope.name().as_bytes() == name => Some(envelope),
            _ => None,
        });
        let key_id = || format!("kms:{}", String::from_utf8_lossy(name));
        let Some(envelope) = found else { return Err(TransformError::UnknownKey { key: shown, key_id: key_id() }) };
        let (value, of_another_key) = envelope.open(key, object).map_err(|trouble| match trouble {
            Trouble::Malformed => TransformError::UnknownForm { key: shown.clone() },
            Trouble::NotAuthentic => TransformError::NotAuthentic { key: shown.clone(), key_id: key_id() },
            Trouble::Service(reason) => TransformError::KeyManagement { key: shown.clone(), provider: envelope.name().to_owned(), reason },
        })?;
        let is_first = matches!(own.and_then(|rule| rule.providers.first()), Some(Provider::Kms(first)) if first.name() == envelope.name());
        Ok(Opened { value: value.into(), stale: of_another_key || !is_first })
    }
}

/// `/registry/widgets.example.com/…` as `widgets` and `example.com`.
fn resource_of(key: &StoreKey) -> (&str, &str) {
    let prefix = key.as_str().strip_prefix("/registry/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    prefix.split_once('.').unwrap_or((prefix, ""))
}

fn split_at_mark<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let place = bytes.windows(mark.len()).position(|window| window == mark)?;
    let (before, rest) = bytes.split_at_checked(place)?;
    Some((before, rest.get(mark.len()..)?))
}

#[derive(Clone, Copy)]
pub(super) enum Direction {
    Seal,
    Open,
}

fn decrypt(cipher: Cipher, secret: &[u8], key: &StoreKey, payload: &[u8]) -> Option<Vec<u8>> {
    match cipher {
        Cipher::AesGcm => {
            let (nonce, rest) = payload.split_first_chunk::<GCM_NONCE_BYTES>()?;
            gcm(secret, nonce, Direction::Open, key, rest)
        }
        Cipher::AesCbc => {
            let (vector, rest) = payload.split_first_chunk::<CBC_VECTOR_BYTES>()?;
            cbc(secret, vector, Direction::Open, rest)
        }
        Cipher::Secretbox => {
            let (nonce, rest) = payload.split_first_chunk::<SECRETBOX_NONCE_BYTES>()?;
            XSalsa20Poly1305::new_from_slice(secret).ok()?.decrypt(nonce.into(), rest).ok()
        }
    }
}

pub(super) fn gcm(secret: &[u8], nonce: &[u8; GCM_NONCE_BYTES], direction: Direction, key: &StoreKey, bytes: &[u8]) -> Option<Vec<u8>> {
    let payload = Payload { msg: bytes, aad: key.as_str().as_bytes() };
    macro_rules! with {
        ($cipher:ty) => {{
            let cipher = AesGcm::<$cipher, U12>::new_from_slice(secret).ok()?;
            match direction {
                Direction::Seal => cipher.encrypt(&(*nonce).into(), payload).ok(),
                Direction::Open => cipher.decrypt(&(*nonce).into(), payload).ok(),
            }
        }};
    }
    match secret.len() {
        16 => with!(Aes128),
        24 => with!(Aes192),
        _ => with!(Aes256),
    }
}

fn cbc(secret: &[u8], vector: &[u8; CBC_VECTOR_BYTES], direction: Direction, bytes: &[u8]) -> Option<Vec<u8>> {
    macro_rules! with {
        ($cipher:ty) => {
            match direction {
                Direction::Seal => Some(cbc::Encryptor::<$cipher>::new_from_slices(secret, vector).ok()?.encrypt_padded_vec::<Pkcs7>(bytes)),
                Direction::Open => cbc::Decryptor::<$cipher>::new_from_slices(secret, vector).ok()?.decrypt_padded_vec::<Pkcs7>(bytes).ok(),
            }
        };
    }
    match secret.len() {
        16 => with!(Aes128),
        24 => with!(Aes192),
        _ => with!(Aes256),
    }
}

impl ValueTransformer for Configured {
    fn seal(&self, key: &StoreKey, value: &[u8], sealed: &mut Vec<u8>) -> Result<(), TransformError> {
        let begin = sealed.len();
        let rules = self.rules.now();
        match rule_for(&rules, key).map(|rule| rule.providers.first()) {
            None => self.otherwise.seal(key, value, sealed),
            Some(Some(Provider::Identity)) => {
                sealed.push(FORM_PLAIN);
                sealed.extend_from_slice(value);
                Ok(())
            }
            Some(Some(Provider::Key { cipher, name, secret })) => {
                for part in [MARK, cipher.name().as_bytes(), VERSION, name.as_bytes(), b":"] {
                    sealed.extend_from_slice(part);
                }
                self.encrypt(*cipher, secret, key, value, sealed).ok_or_else(|| {
                    // What could not be encrypted must not reach the medium.
                    sealed.truncate(begin);
                    TransformError::CannotSeal { key: key.as_str().to_owned() }
                })
            }
            Some(Some(Provider::Kms(envelope))) => envelope.seal(key, value, sealed).map_err(|reason| {
                sealed.truncate(begin);
                TransformError::KeyUnavailable { key: key.as_str().to_owned(), reason }
            }),
            Some(None) => Err(TransformError::CannotSeal { key: key.as_str().to_owned() }),
        }
    }

    fn open(&self, key: &StoreKey, sealed: &[u8]) -> Result<Opened, TransformError> {
        if let Some(rest) = sealed.strip_prefix(envelope::MARK) {
            return self.decrypt_by_service(key, rest);
        }
        if let Some(rest) = sealed.strip_prefix(MARK) {
            return self.decrypt(key, rest);
        }
        let opened = self.otherwise.open(key, sealed)?;
        let rules = self.rules.now();
        let stale = match rule_for(&rules, key) {
            None => opened.stale,
            Some(rule) => !(sealed.first() == Some(&FORM_PLAIN) && rule.providers.first() == Some(&Provider::Identity)),
        };
        Ok(Opened { value: Bytes::clone(&opened.value), stale })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transformer::{EncryptionKey, encryption::KEY_BYTES};

    const SECRET: &str = "/registry/secrets/default/password";
    const WIDGET: &str = "/registry/widgets.example.com/default/one";

    fn key(cipher: Cipher, name: &str, length: usize) -> Provider {
        Provider::Key { cipher, name: name.to_owned(), secret: vec![name.len() as u8; length] }
    }

    fn of(resource: &str, group: &str) -> Resources {
        Resources::One { resource: resource.to_owned(), group: group.to_owned() }
    }

    fn configured(rules: Vec<(Vec<Resources>, Vec<Provider>)>) -> Configured {
        let rules: Vec<Rule> = rules.into_iter().map(|(resources, providers)| Rule { resources, providers }).collect();
        let own = EncryptionKey::new("own", &[9; KEY_BYTES]).unwrap();
        Configured::new(rules.into(), Encryption::new(vec![own], ["/registry/secrets/"]))
    }

    fn sealed(with: &Configured, key: &str) -> Vec<u8> {
        let mut sealed = Vec::new();
        with.seal(&StoreKey::new(key), b"correct horse", &mut sealed).unwrap();
        sealed
    }

    fn opened(with: &Configured, key: &str, bytes: &[u8]) -> Result<bool, TransformError> {
        let opened = with.open(&StoreKey::new(key), bytes)?;
        assert_eq!(&*opened.value, b"correct horse");
        Ok(opened.stale)
    }

    fn is_readable(bytes: &[u8]) -> bool {
        bytes.windows(5).any(|window| window == b"horse")
    }

    #[test]
    fn what_was_sealed_before_the_rules_changed_is_stale_where_they_would_seal_it_otherwise() {
        let rule = |resource: &str, name: &str| Rule {
            resources: vec![Resources::One { resource: resource.to_owned(), group: String::new() }],
            providers: vec![Provider::Key { cipher: Cipher::AesGcm, name: name.to_owned(), secret: vec![1; 32] }],
        };
        let rules = Rules::from(vec![rule("secrets", "old"), rule("configmaps", "same")]);
        let stale = |resource: &str, revision: u64| rules.make_stale(&StoreKey::new(format!("/registry/{resource}/default/a")), Revision(revision));
        assert!(!stale("secrets", 5));
        rules.replace(vec![rule("secrets", "new"), rule("configmaps", "same"), rule("pods", "new")], Revision(10));
        assert_eq!(["secrets", "configmaps", "pods", "services"].map(|resource| stale(resource, 10)), [true, false, true, false]);
        assert!(!stale("secrets", 11) && !stale("pods", 11));
        // Back again: what lies from the first days is as it should be, and what came between is not.
        rules.replace(vec![rule("secrets", "old"), rule("configmaps", "same")], Revision(20));
        assert_eq!([5, 15, 25].map(|revision| stale("secrets", revision)), [false, true, false]);
    }

    #[test]
    fn every_cipher_and_length_of_key_hides_a_value_and_gives_it_back() {
        for cipher in [Cipher::AesGcm, Cipher::AesCbc, Cipher::Secretbox] {
            for length in cipher.key_lengths() {
                let with = configured(vec![(vec![of("secrets", "")], vec![key(cipher, "one", *length)])]);
                let bytes = sealed(&with, SECRET);
                assert!(bytes.starts_with(format!("k8s:enc:{}:v1:one:", cipher.name()).as_bytes()) && !is_readable(&bytes));
                assert_ne!(bytes, sealed(&with, SECRET), "no two are alike");
                assert_eq!(opened(&with, SECRET, &bytes), Ok(false));
            }
        }
    }

    #[test]
    fn changed_bytes_do_not_open_and_nothing_panics() {
        for cipher in [Cipher::AesGcm, Cipher::AesCbc, Cipher::Secretbox] {
            let with = configured(vec![(vec![Resources::All], vec![key(cipher, "one", 32)])]);
            let bytes = sealed(&with, SECRET);
            for position in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[position] ^= 0x40;
                for damaged in [&changed, &bytes[..position].to_vec()] {
                    let value = with.open(&StoreKey::new(SECRET), damaged);
                    // CBC does not prove that a value is unchanged.
                    assert!(value.is_err() || cipher == Cipher::AesCbc, "{cipher:?}, byte {position}");
                }
            }
        }
        let with = configured(vec![(vec![Resources::All], vec![key(Cipher::AesGcm, "one", 32)])]);
        let moved = with.open(&StoreKey::new(WIDGET), &sealed(&with, SECRET));
        assert!(matches!(moved, Err(TransformError::NotAuthentic { .. })), "a value of another object: {moved:?}");
    }

    #[test]
    fn the_first_rule_for_a_resource_holds_and_others_keep_what_they_had() {
        let with = configured(vec![
            (vec![of("widgets", "example.com")], vec![key(Cipher::AesGcm, "one", 32)]),
            (vec![Resources::OfGroup("example.com".to_owned())], vec![Provider::Identity]),
        ]);
        assert!(!is_readable(&sealed(&with, WIDGET)));
        assert!(is_readable(&sealed(&with, "/registry/gadgets.example.com/default/one")));
        assert!(is_readable(&sealed(&with, "/registry/configmaps/default/one")));
        let secret = sealed(&with, SECRET);
        assert!(!is_readable(&secret) && !secret.starts_with(MARK), "secrets are encrypted without a rule too");
        assert_eq!(opened(&with, SECRET, &secret), Ok(false));
        let core = configured(vec![(vec![Resources::OfGroup(String::new())], vec![key(Cipher::Secretbox, "one", 32)])]);
        assert!(!is_readable(&sealed(&core, "/registry/configmaps/default/one")) && is_readable(&sealed(&core, WIDGET)));
    }

    #[test]
    fn keys_are_rotated() {
        let (old, new) = (key(Cipher::AesCbc, "old", 32), key(Cipher::AesGcm, "newer", 32));
        let rule = |providers: &[Provider]| configured(vec![(vec![of("secrets", "")], providers.to_vec())]);
        let bytes = sealed(&rule(std::slice::from_ref(&old)), SECRET);
        assert_eq!(opened(&rule(&[old.clone(), new.clone()]), SECRET, &bytes), Ok(false));
        assert_eq!(opened(&rule(&[new.clone(), old.clone()]), SECRET, &bytes), Ok(true), "to be written again");
        let error = rule(&[new.clone()]).open(&StoreKey::new(SECRET), &bytes).unwrap_err();
        assert!(matches!(&error, TransformError::UnknownKey { key_id, .. } if key_id == "aescbc:old"), "{error}");
        // Encryption is switched off: what was encrypted is read, and to be written again as it is.
        let off = rule(&[Provider::Identity, new.clone()]);
        assert_eq!(opened(&off, SECRET, &sealed(&rule(&[new]), SECRET)), Ok(true));
        let plain = sealed(&off, SECRET);
        assert!(is_readable(&plain));
        assert_eq!(opened(&off, SECRET, &plain), Ok(false));
        // And what the store encrypted by itself is read, whatever is configured later.
        assert_eq!(opened(&rule(&[old]), SECRET, &sealed(&configured(Vec::new()), SECRET)), Ok(true));
    }
}
