//! What stands between a value in memory and its bytes on a medium: encryption, or nothing.
//!
//! The embedded store and the etcd one both call a [`ValueTransformer`], so the same bytes lie on either medium.

use bytes::Bytes;

use crate::StoreKey;

/// Turns values into what is written to a medium, and back. Cheap enough to call on the writing thread.
pub trait ValueTransformer: Send + Sync + 'static {
    /// The bytes for the medium. Bound to the key: they can only be opened under the same one.
    fn seal(&self, key: &StoreKey, value: &Bytes) -> Result<Bytes, TransformError>;
    /// The value of bytes from the medium.
    fn open(&self, key: &StoreKey, sealed: Bytes) -> Result<Opened, TransformError>;
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
    #[error("the value of {key} is encrypted with key {key_id}, which the key file does not hold: put it back")]
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
    /// The system gives no random numbers.
    #[error("the value of {key} cannot be encrypted: {reason}")]
    CannotSeal {
        /// Whose value.
        key: String,
        /// What failed.
        reason: String,
    },
}

/// First byte of a value that is stored as it is.
const FORM_PLAIN: u8 = 0;

/// Stores every value as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl ValueTransformer for Plain {
    fn seal(&self, _key: &StoreKey, value: &Bytes) -> Result<Bytes, TransformError> {
        let mut sealed = Vec::with_capacity(value.len() + 1);
        sealed.push(FORM_PLAIN);
        sealed.extend_from_slice(value);
        Ok(sealed.into())
    }

    fn open(&self, key: &StoreKey, mut sealed: Bytes) -> Result<Opened, TransformError> {
        match sealed.first() {
            Some(&FORM_PLAIN) => Ok(Opened { value: sealed.split_off(1), stale: false }),
            _ => Err(TransformError::UnknownForm { key: key.as_str().to_owned() }),
        }
    }
}
