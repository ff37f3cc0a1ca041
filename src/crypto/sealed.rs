//! The envelope: AES-256-GCM under a fresh random nonce, with the format version, the id of the
//! sealing key and the nonce carried in front of the ciphertext.
//!
//! ```text
//! byte 0      format version, 1
//! bytes 1-4   id of the sealing key, big-endian
//! bytes 5-16  nonce
//! rest        ciphertext and 16-byte tag
//! ```

use aes_gcm::aead::{Aead, Generate, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

/// Bytes of a key for AES-256.
pub type KeyBytes = Zeroizing<[u8; 32]>;

const FORMAT: u8 = 1;
const HEADER: usize = 1 + 4 + 12;

/// Why an envelope does not open. Says nothing of its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("sealed data of an unknown format")]
    Format,
    #[error("sealed under key {0}, which the keyring does not hold")]
    UnknownKey(u32),
    #[error("sealed data does not open: wrong key, or moved or edited in the database")]
    Forged,
}

/// What a sealed value is bound to: opening it for anything else fails.
#[derive(Clone, Debug)]
pub struct Binding(Vec<u8>);

impl Binding {
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        Self(Vec::with_capacity(128)).with(purpose.as_bytes())
    }

    /// Adds a field. Each is preceded by its length, so that no two lists of fields look alike.
    #[must_use]
    pub fn with(mut self, field: &[u8]) -> Self {
        self.0.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }
}

/// A fresh random key.
#[must_use]
pub fn random_key() -> KeyBytes {
    Zeroizing::new(rand::random())
}

/// Seals `plain` under `key`.
///
/// # Errors
/// When the cipher refuses, which for inputs of a key's size it does not.
pub fn seal(key_id: u32, key: &KeyBytes, binding: &Binding, plain: &[u8]) -> Result<Vec<u8>, OpenError> {
    let nonce = Nonce::generate();
    let cipher = Aes256Gcm::new((&**key).into());
    let sealed =
        cipher.encrypt(&nonce, Payload { msg: plain, aad: &binding.0 }).map_err(|_| OpenError::Forged)?;
    let mut out = Vec::with_capacity(HEADER + sealed.len());
    out.push(FORMAT);
    out.extend_from_slice(&key_id.to_be_bytes());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// The id of the key that an envelope was sealed under.
///
/// # Errors
/// `Format` when it is no envelope of a known format.
pub fn key_id(envelope: &[u8]) -> Result<u32, OpenError> {
    match envelope {
        [FORMAT, a, b, c, d, rest @ ..] if rest.len() >= 12 + 16 => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Err(OpenError::Format),
    }
}

/// Opens an envelope.
///
/// # Errors
/// `Format` for what is no envelope, `Forged` when key, binding or bytes do not fit.
pub fn open(key: &KeyBytes, binding: &Binding, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    key_id(envelope)?;
    let nonce = Nonce::try_from(&envelope[5..HEADER]).map_err(|_| OpenError::Format)?;
    Aes256Gcm::new((&**key).into())
        .decrypt(&nonce, Payload { msg: &envelope[HEADER..], aad: &binding.0 })
        .map(Zeroizing::new)
        .map_err(|_| OpenError::Forged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn opens_only_with_its_key_and_binding() {
        let key = random_key();
        let binding = Binding::new("test").with(b"a").with(b"bc");
        let sealed = seal(7, &key, &binding, b"hello").unwrap();
        assert_eq!(key_id(&sealed), Ok(7));
        assert_eq!(open(&key, &binding, &sealed).unwrap().as_slice(), b"hello");
        let shifted = Binding::new("test").with(b"ab").with(b"c");
        assert_eq!(open(&key, &shifted, &sealed), Err(OpenError::Forged));
        assert_eq!(open(&random_key(), &binding, &sealed), Err(OpenError::Forged));
        assert_ne!(sealed, seal(7, &key, &binding, b"hello").unwrap());
    }

    proptest! {
        #[test]
        fn no_changed_byte_goes_unnoticed(at in 0_usize..50, flip in 1_u8..) {
            let key = random_key();
            let binding = Binding::new("test");
            let mut sealed = seal(1, &key, &binding, b"a secret of some length").unwrap();
            let at = at % sealed.len();
            // The key id is read before opening; it is checked by which key is then used.
            prop_assume!(!(1..5).contains(&at));
            sealed[at] ^= flip;
            prop_assert!(open(&key, &binding, &sealed).is_err());
        }
    }
}
