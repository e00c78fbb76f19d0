//! Values whose keys a key management service keeps: version 2 of Kubernetes' protocol.
//!
//! The service encrypts one seed for each of its keys and each start of a server; what is sealed is sealed by keys derived from the seed,
//! without asking the service. A sealed value is `k8s:enc:kms:v2:PROVIDER:` and an [`EncryptedObject`], in which the encrypted seed lies
//! beside the data, so the service is asked once for every seed that is met again. Who asks it, and when, is not known here: see
//! [`KeyManagement`] and [`Wrapped`]. Messages are written and read in [`wire`].
//! Source: Kubernetes 1.36, `apiserver/pkg/storage/value/encrypt/envelope/kmsv2`.

pub mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hkdf};

use super::configured::{Direction, GCM_NONCE_BYTES, gcm};
use crate::StoreKey;

/// How a value begins that is sealed here; the provider's name and a colon follow.
pub(super) const MARK: &[u8] = b"k8s:enc:kms:v2:";
/// Bytes of a seed, of a key derived from it, and of what makes each derived key another.
pub const SEED_BYTES: usize = 32;
/// Seeds are used for this long after the service was last known to use their key. Reading has no such limit.
/// Source: Kubernetes 1.36, `kmsv2PluginWriteDEKSourceMaxTTL`.
pub const WRITES_FOR: Duration = Duration::from_secs(180);

const MOST_KEY_ID_BYTES: usize = 1024;
const MOST_ENCRYPTED_SEED_BYTES: usize = 1024;
const MOST_ANNOTATION_BYTES: usize = 32 * 1024;

/// A service that keeps keys, as values are read with it.
pub trait KeyManagement: Send + Sync + 'static {
    /// The seed that was encrypted. Blocks until the service answers, or long enough for one that is just starting.
    ///
    /// # Errors
    /// Why there is none, as a sentence without an end: `is away: …`
    fn decrypt(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String>;
}

/// How a value's key comes from what the service decrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// It is the key. Read, never written.
    Key,
    /// It is a seed: the first bytes of the data say which of its keys.
    Seed,
}

/// A seed as the service encrypted it, with all that is needed to have it decrypted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wrapped {
    /// What the service's answer is.
    pub source_type: SourceType,
    /// The encrypted seed.
    pub ciphertext: Vec<u8>,
    /// By which of the service's keys.
    pub key_id: String,
    /// What the service wants to be told again.
    pub annotations: BTreeMap<String, Vec<u8>>,
}

impl Wrapped {
    /// What is wrong with it.
    ///
    /// # Errors
    /// Sizes and names that may not be stored.
    pub fn validate(&self) -> Result<(), String> {
        match self.ciphertext.len() {
            0 => return Err("failed to validate encrypted DEK source: encrypted DEK source is empty".to_owned()),
            size if size > MOST_ENCRYPTED_SEED_BYTES => {
                return Err(format!(
                    "failed to validate encrypted DEK source: encrypted DEK source is {size} bytes, which exceeds the max size of {MOST_ENCRYPTED_SEED_BYTES}"
                ));
            }
            _ => {}
        }
        validate_key_id(&self.key_id).map_err(|problem| format!("failed to validate key id: {problem}"))?;
        if let Some(name) = self.annotations.keys().find(|name| !is_domain(name)) {
            return Err(format!("failed to validate annotations: annotations: Invalid value: {name:?}: should be a domain with at least two segments separated by dots"));
        }
        let size: usize = self.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > MOST_ANNOTATION_BYTES {
            return Err(format!("failed to validate annotations: total size of annotations is {size}, which exceeds the max size of {MOST_ANNOTATION_BYTES}"));
        }
        Ok(())
    }
}

/// Whether a service's name for a key can be stored.
///
/// # Errors
/// It is empty, or too long.
pub fn validate_key_id(key_id: &str) -> Result<(), String> {
    match key_id.len() {
        0 => Err("keyID is empty".to_owned()),
        size if size > MOST_KEY_ID_BYTES => Err(format!("keyID is {size} bytes, which exceeds the max size of {MOST_KEY_ID_BYTES}")),
        _ => Ok(()),
    }
}

/// Names of annotations are domains of several labels.
fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| {
        let ends_well = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        bytes.len() <= 63 && ends_well(bytes.first()) && ends_well(bytes.last()) && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.contains('.') && name.split('.').all(is_label)
}

/// The name of a key without telling it.
pub fn hash_of(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    let hash = digest::digest(&digest::SHA256, key_id.as_bytes());
    format!("sha256:{}", hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A new seed, to be encrypted by a service.
pub fn new_seed() -> Option<[u8; SEED_BYTES]> {
    random()
}

fn random<const LENGTH: usize>() -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// What a service decrypted.
struct Source {
    source_type: SourceType,
    secret: Vec<u8>,
}

impl Source {
    fn new(source_type: SourceType, secret: Vec<u8>) -> Option<Self> {
        let fits = match source_type {
            SourceType::Key => [16, 24, 32].contains(&secret.len()),
            SourceType::Seed => secret.len() >= SEED_BYTES,
        };
        fits.then_some(Self { source_type, secret })
    }

    fn derived(&self, which: &[u8]) -> Option<[u8; SEED_BYTES]> {
        let mut key = [0; SEED_BYTES];
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.secret).expand(&[which], hkdf::HKDF_SHA256).ok()?.fill(&mut key).ok()?;
        Some(key)
    }

    fn seal(&self, key: &StoreKey, value: &[u8]) -> Option<Vec<u8>> {
        let (which, nonce) = (random::<SEED_BYTES>()?, random::<GCM_NONCE_BYTES>()?);
        let encrypted = gcm(&self.derived(&which)?, &nonce, Direction::Seal, key, value)?;
        Some([&which[..], &nonce, &encrypted].concat())
    }

    fn open(&self, key: &StoreKey, data: &[u8]) -> Option<Vec<u8>> {
        let (secret, rest) = match self.source_type {
            SourceType::Key => (self.secret.clone(), data),
            SourceType::Seed => {
                let (which, rest) = data.split_first_chunk::<SEED_BYTES>()?;
                (self.derived(which)?.to_vec(), rest)
            }
        };
        let (nonce, rest) = rest.split_first_chunk::<GCM_NONCE_BYTES>()?;
        gcm(&secret, nonce, Direction::Open, key, rest)
    }
}

/// A seed in use: what is written is sealed by keys derived from it.
pub struct Seed {
    wrapped: Wrapped,
    source: Source,
    /// Nothing is sealed after this.
    until: Mutex<Instant>,
}

impl Seed {
    /// # Errors
    /// What the service says cannot be stored.
    pub fn new(wrapped: Wrapped, seed: [u8; SEED_BYTES], until: Instant) -> Result<Self, String> {
        wrapped.validate()?;
        let source = Source { source_type: SourceType::Seed, secret: seed.to_vec() };
        Ok(Self { wrapped, source, until: Mutex::new(until) })
    }

    /// By which of the service's keys it is encrypted.
    pub fn key_id(&self) -> &str {
        &self.wrapped.key_id
    }

    /// Until when it may seal.
    pub fn until(&self) -> Instant {
        *self.until.lock()
    }

    /// The service said that the key is still the one it uses.
    pub fn extend(&self, until: Instant) {
        *self.until.lock() = until;
    }
}

/// What time it is.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// A provider with a key management service. Two are equal where they seal by the same key of the same provider.
#[derive(Clone)]
pub struct Envelope {
    name: Arc<str>,
    management: Arc<dyn KeyManagement>,
    /// None until the service was there for the first time.
    seed: Option<Arc<Seed>>,
    /// Those decrypted. There is one for each key of the service and each start since values were last written again.
    decrypted: Arc<Mutex<HashMap<Wrapped, Arc<Source>>>>,
    clock: Clock,
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "kms:{}", self.name)
    }
}

impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.key_id() == other.key_id()
    }
}

impl Eq for Envelope {}

/// Why a value cannot be sealed or opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is no [`EncryptedObject`].
    Malformed,
    /// The service does not help; why.
    Service(String),
    /// It was changed, or is another object's.
    NotAuthentic,
}

impl Envelope {
    /// Without a seed, which comes with [`Self::with`].
    pub fn new(name: &str, management: Arc<dyn KeyManagement>, clock: Clock) -> Self {
        Self { name: name.into(), management, seed: None, decrypted: Arc::default(), clock }
    }

    /// As it is called in the configuration, and on the medium.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with a seed.
    #[must_use]
    pub fn with(&self, seed: Arc<Seed>) -> Self {
        Self { seed: Some(seed), ..self.clone() }
    }

    fn key_id(&self) -> Option<&str> {
        self.seed.as_ref().map(|seed| seed.key_id())
    }

    /// Appends what goes on the medium.
    pub(super) fn seal(&self, key: &StoreKey, value: &[u8], sealed: &mut Vec<u8>) -> Result<(), String> {
        let seed = self.seed.as_ref().ok_or_else(|| format!("the key management service {} was not there yet", self.name))?;
        let (now, until) = ((self.clock)(), seed.until());
        if now > until {
            return Err(format!(
                "encryptedDEKSource with keyID hash {:?} expired {} s ago: the key management service {} is away, or does not settle on a key",
                hash_of(seed.key_id()),
                now.duration_since(until).as_secs(),
                self.name
            ));
        }
        let data = seed.source.seal(key, value).ok_or("the system gives no random numbers")?;
        for part in [MARK, self.name.as_bytes(), b":"] {
            sealed.extend_from_slice(part);
        }
        write(&seed.wrapped, &data, sealed);
        Ok(())
    }

    /// The value, and whether it would be sealed by another key today.
    pub(super) fn open(&self, key: &StoreKey, object: &[u8]) -> Result<(Vec<u8>, bool), Trouble> {
        let (wrapped, data) = read(object).ok_or(Trouble::Malformed)?;
        let known = self.decrypted.lock().get(&wrapped).cloned();
        let source = match known {
            Some(source) => source,
            None => {
                let secret = self.management.decrypt(&wrapped).map_err(Trouble::Service)?;
                let source = Source::new(wrapped.source_type, secret);
                let source = Arc::new(source.ok_or_else(|| Trouble::Service("decrypts to something else than a key".to_owned()))?);
                self.decrypted.lock().insert(wrapped.clone(), source.clone());
                source
            }
        };
        let value = source.open(key, data).ok_or(Trouble::NotAuthentic)?;
        Ok((value, self.key_id() != Some(wrapped.key_id.as_str()) || wrapped.source_type != SourceType::Seed))
    }
}

/// `EncryptedObject`: data (1), key id (2), encrypted seed (3), annotations (4), type of the source (5).
fn write(wrapped: &Wrapped, data: &[u8], out: &mut Vec<u8>) {
    wire::put_bytes(out, 1, data);
    wire::put_bytes(out, 2, wrapped.key_id.as_bytes());
    wire::put_bytes(out, 3, &wrapped.ciphertext);
    wire::put_map(out, 4, &wrapped.annotations);
    wire::put_number(out, 5, u64::from(wrapped.source_type == SourceType::Seed));
}

fn read(object: &[u8]) -> Option<(Wrapped, &[u8])> {
    let mut wrapped = Wrapped { source_type: SourceType::Key, ciphertext: Vec::new(), key_id: String::new(), annotations: BTreeMap::new() };
    let mut data: &[u8] = &[];
    for field in wire::fields(object) {
        match field? {
            (1, wire::Field::Bytes(bytes)) => data = bytes,
            (2, wire::Field::Bytes(bytes)) => wrapped.key_id = std::str::from_utf8(bytes).ok()?.to_owned(),
            (3, wire::Field::Bytes(bytes)) => wrapped.ciphertext = bytes.to_vec(),
            (4, wire::Field::Bytes(bytes)) => wrapped.annotations.extend([wire::map_entry(bytes)?]),
            (5, wire::Field::Number(number)) => {
                wrapped.source_type = match number {
                    0 => SourceType::Key,
                    1 => SourceType::Seed,
                    _ => return None,
                }
            }
            _ => {}
        }
    }
    (!data.is_empty() && wrapped.validate().is_ok()).then_some((wrapped, data))
}

#[cfg(test)]
mod tests;
