//! AES-256-GCM for the values below certain prefixes, with as many keys as a rotation needs.
//!
//! A sealed value is `form | length of key id | key id | nonce | ciphertext | tag`. The object's key is authenticated
//! with it, so a Secret's bytes cannot be passed off as another's. Nonces are random: at 2³² values per key the chance
//! that two are equal is still below 2⁻³² (NIST SP 800-38D, section 8.3), far more Secrets than one key will see.

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::{FORM_PLAIN, Opened, TransformError, ValueTransformer};
use crate::StoreKey;

/// First byte of an encrypted value.
const FORM_AES_256_GCM: u8 = 1;

/// Bytes of a key's secret.
pub const KEY_BYTES: usize = 32;

/// One key: its name, which is stored beside each value, and its secret.
#[derive(Clone)]
pub struct EncryptionKey {
    id: String,
    cipher: LessSafeKey,
}

impl EncryptionKey {
    /// A key of this name; none when the name is empty or over 255 bytes.
    pub fn new(id: impl Into<String>, secret: &[u8; KEY_BYTES]) -> Option<Self> {
        let id = id.into();
        if id.is_empty() || id.len() > usize::from(u8::MAX) {
            return None;
        }
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?);
        Some(Self { id, cipher })
    }

    /// The name.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl std::fmt::Debug for EncryptionKey {
    /// The name only.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("EncryptionKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Encrypts what lies below its prefixes with its first key, and reads what any of its keys wrote.
pub struct Encryption {
    keys: Vec<EncryptionKey>,
    prefixes: Vec<String>,
    random: SystemRandom,
}

impl Encryption {
    /// The first key writes; all of them read. With no keys, nothing can be written below the prefixes.
    pub fn new(keys: Vec<EncryptionKey>, prefixes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { keys, prefixes: prefixes.into_iter().map(Into::into).collect(), random: SystemRandom::new() }
    }

    fn applies_to(&self, key: &StoreKey) -> bool {
        self.prefixes.iter().any(|prefix| key.as_str().starts_with(prefix))
    }

    fn encrypt(&self, key: &StoreKey, value: &[u8], sealed: &mut Vec<u8>) -> Option<()> {
        let first = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        sealed.push(FORM_AES_256_GCM);
        sealed.push(u8::try_from(first.id.len()).ok()?);
        sealed.extend_from_slice(first.id.as_bytes());
        sealed.extend_from_slice(&nonce);
        let begin = sealed.len();
        sealed.extend_from_slice(value);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(key.as_str().as_bytes());
        let tag = first.cipher.seal_in_place_separate_tag(nonce, aad, sealed.get_mut(begin..)?).ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(())
    }

    fn decrypt(&self, key: &StoreKey, sealed: &[u8]) -> Result<Opened, TransformError> {
        let unknown_form = || TransformError::UnknownForm { key: key.as_str().to_owned() };
        let (&id_length, rest) = sealed.split_first().ok_or_else(unknown_form)?;
        let (id, rest) = rest.split_at_checked(usize::from(id_length)).ok_or_else(unknown_form)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(unknown_form)?;
        let Some(position) = self.keys.iter().position(|known| known.id.as_bytes() == id) else {
            let key_id = String::from_utf8_lossy(id).into_owned();
            return Err(TransformError::UnknownKey { key: key.as_str().to_owned(), key_id });
        };
        let mut buffer = ciphertext.to_vec();
        let opened = self.keys.get(position).and_then(|known| {
            let nonce = Nonce::assume_unique_for_key(*nonce);
            known.cipher.open_in_place(nonce, Aad::from(key.as_str().as_bytes()), &mut buffer).ok()
        });
        match opened {
            Some(value) => Ok(Opened {
                value: Bytes::copy_from_slice(value),
                stale: position != 0 || !self.applies_to(key),
            }),
            None => Err(TransformError::NotAuthentic {
                key: key.as_str().to_owned(),
                key_id: String::from_utf8_lossy(id).into_owned(),
            }),
        }
    }
}

impl ValueTransformer for Encryption {
    fn seal(&self, key: &StoreKey, value: &[u8], sealed: &mut Vec<u8>) -> Result<(), TransformError> {
        if !self.applies_to(key) {
            sealed.push(FORM_PLAIN);
            sealed.extend_from_slice(value);
            return Ok(());
        }
        let begin = sealed.len();
        self.encrypt(key, value, sealed).ok_or_else(|| {
            // What could not be encrypted must not reach the medium.
            sealed.truncate(begin);
            TransformError::CannotSeal { key: key.as_str().to_owned() }
        })
    }

    fn open(&self, key: &StoreKey, sealed: &[u8]) -> Result<Opened, TransformError> {
        match sealed.split_first() {
            Some((&FORM_PLAIN, value)) => {
                Ok(Opened { value: Bytes::copy_from_slice(value), stale: self.applies_to(key) })
            }
            Some((&FORM_AES_256_GCM, rest)) => self.decrypt(key, rest),
            _ => Err(TransformError::UnknownForm { key: key.as_str().to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encryption(ids: &[(&str, u8)]) -> Encryption {
        let keys = ids.iter().map(|(id, fill)| EncryptionKey::new(*id, &[*fill; KEY_BYTES]).unwrap()).collect();
        Encryption::new(keys, ["/registry/secrets/"])
    }

    fn sealed(encryption: &Encryption, key: &str, value: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        encryption.seal(&StoreKey::new(key), value, &mut sealed).unwrap();
        sealed
    }

    fn contains(haystack: &[u8], needle: &[u8]) -> bool {
        haystack.windows(needle.len()).any(|window| window == needle)
    }

    const SECRET: &str = "/registry/secrets/default/password";

    #[test]
    fn a_secret_is_encrypted_and_comes_back() {
        let encryption = encryption(&[("one", 1)]);
        let bytes = sealed(&encryption, SECRET, b"correct horse");
        assert!(!contains(&bytes, b"horse"));
        assert_ne!(bytes, sealed(&encryption, SECRET, b"correct horse"), "every sealing has its own nonce");
        let opened = encryption.open(&StoreKey::new(SECRET), &bytes).unwrap();
        assert_eq!(opened, Opened { value: Bytes::from("correct horse"), stale: false });
    }

    #[test]
    fn other_prefixes_are_stored_as_they_are() {
        let encryption = encryption(&[("one", 1)]);
        assert!(contains(&sealed(&encryption, "/registry/configmaps/default/a", b"public"), b"public"));
    }

    #[test]
    fn a_value_of_another_object_does_not_open() {
        let encryption = encryption(&[("one", 1)]);
        let bytes = sealed(&encryption, SECRET, b"correct horse");
        let moved = encryption.open(&StoreKey::new("/registry/secrets/default/other"), &bytes);
        assert!(matches!(moved, Err(TransformError::NotAuthentic { .. })), "{moved:?}");
    }

    #[test]
    fn no_changed_or_shortened_bytes_open() {
        let encryption = encryption(&[("one", 1)]);
        let bytes = sealed(&encryption, SECRET, b"correct horse");
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x40;
            assert!(encryption.open(&StoreKey::new(SECRET), &changed).is_err(), "byte {position} changed");
            assert!(encryption.open(&StoreKey::new(SECRET), &bytes[..position]).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn an_old_key_still_reads_and_its_values_are_stale() {
        let old = sealed(&encryption(&[("one", 1)]), SECRET, b"correct horse");
        let rotated = encryption(&[("two", 2), ("one", 1)]);
        assert!(rotated.open(&StoreKey::new(SECRET), &old).unwrap().stale);
        let new = sealed(&rotated, SECRET, b"correct horse");
        assert!(!rotated.open(&StoreKey::new(SECRET), &new).unwrap().stale);
        let without = encryption(&[("two", 2)]).open(&StoreKey::new(SECRET), &old);
        assert!(matches!(without, Err(TransformError::UnknownKey { key_id, .. }) if key_id == "one"));
    }

    #[test]
    fn a_plain_value_where_encryption_is_due_is_stale() {
        let mut plain = Vec::new();
        super::super::Plain.seal(&StoreKey::new(SECRET), b"x", &mut plain).unwrap();
        assert!(encryption(&[("one", 1)]).open(&StoreKey::new(SECRET), &plain).unwrap().stale);
    }

    #[test]
    fn without_a_key_nothing_secret_is_written() {
        let mut bytes = Vec::new();
        assert!(encryption(&[]).seal(&StoreKey::new(SECRET), b"x", &mut bytes).is_err());
        assert!(bytes.is_empty());
    }
}
