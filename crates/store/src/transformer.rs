//! What stands between a value in memory and its bytes on a medium: encryption, or nothing.
//!
//! The embedded store and the etcd one both call a [`ValueTransformer`], so the same bytes lie on either medium. The
//! first byte of a sealed value says its form. [`Plain`] encrypts nothing; [`encryption`] does where a key's prefix asks
//! for it; [`key_file`] is where its keys live; [`configured`] does as an administrator says.

pub mod configured;
pub mod encryption;
pub mod envelope;
pub mod key_file;

use bytes::Bytes;

use crate::StoreKey;

pub use encryption::{Encryption, EncryptionKey};

/// Turns values into what is written to a medium, and back. Cheap enough to call on the writing thread.
pub trait ValueTransformer: Send + Sync + 'static {
    /// Appends the bytes for the medium to `sealed`. They can only be opened under the same key again.
    fn seal(&self, key: &StoreKey, value: &[u8], sealed: &mut Vec<u8>) -> Result<(), TransformError>;
    /// The value of bytes from the medium.
    fn open(&self, key: &StoreKey, sealed: &[u8]) -> Result<Opened, TransformError>;
}

/// A value that came back from the medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The value as it was handed to [`ValueTransformer::seal`].
    pub value: Bytes,
    /// `seal` would use another key today (or one at all, or none): write the value again when convenient.
    pub stale: bool,
}

/// Why a value cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    /// The medium's bytes do not say how they were made.
    #[error("the stored value of {key} does not begin as any stored value does")]
    UnknownForm {
        /// Whose value.
        key: String,
    },
    /// The encryption key is not among those known.
    #[error("the value of {key} is encrypted with key {key_id}, which is not among those known: put that key back")]
    UnknownKey {
        /// Whose value.
        key: String,
        /// Which encryption key.
        key_id: String,
    },
    /// The bytes were changed, moved from another key, or encrypted with another key of the same name.
    #[error("the value of {key} does not decrypt with key {key_id}: it was changed, or belongs to another object")]
    NotAuthentic {
        /// Whose value.
        key: String,
        /// Which encryption key.
        key_id: String,
    },
    /// The service that keeps the key does not decrypt it.
    #[error("the value of {key} cannot be read: the key management service {provider} {reason}")]
    KeyManagement {
        /// Whose value.
        key: String,
        /// Which service.
        provider: String,
        /// What it does.
        reason: String,
    },
    /// There is no key that may be used now.
    #[error("the value of {key} cannot be encrypted: {reason}")]
    KeyUnavailable {
        /// Whose value.
        key: String,
        /// Why there is none.
        reason: String,
    },
    /// The value cannot be encrypted, for example because the system gives no random numbers.
    #[error("the value of {key} cannot be encrypted")]
    CannotSeal {
        /// Whose value.
        key: String,
    },
}

/// First byte of a value that is stored as it is.
const FORM_PLAIN: u8 = 0;

/// Stores every value as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl ValueTransformer for Plain {
    fn seal(&self, _key: &StoreKey, value: &[u8], sealed: &mut Vec<u8>) -> Result<(), TransformError> {
        sealed.push(FORM_PLAIN);
        sealed.extend_from_slice(value);
        Ok(())
    }

    fn open(&self, key: &StoreKey, sealed: &[u8]) -> Result<Opened, TransformError> {
        match sealed.split_first() {
            Some((&FORM_PLAIN, value)) => Ok(Opened { value: Bytes::copy_from_slice(value), stale: false }),
            _ => Err(TransformError::UnknownForm { key: key.as_str().to_owned() }),
        }
    }
}
