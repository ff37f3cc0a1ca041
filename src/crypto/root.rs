//! The root secret: random, sealed by the keyring, never replaced. Its subkeys outlive master keys.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::keyring::Keyring;
use super::sealed::{Binding, OpenError};
use crate::domain::ids::Owner;
use crate::domain::provider_key::Provider;

/// Subkeys for everything that is keyed but not sealed.
pub struct RootKeys {
    fingerprint: Zeroizing<[u8; 32]>,
    audit: Zeroizing<[u8; 32]>,
    csrf: Zeroizing<[u8; 32]>,
    throttle: Zeroizing<[u8; 32]>,
    cookies: Zeroizing<[u8; 64]>,
}

fn binding() -> Binding {
    Binding::new("root secret")
}

impl RootKeys {
    /// Makes a root secret and seals it for storing.
    ///
    /// # Errors
    /// When the cipher refuses.
    pub fn generate(keyring: &Keyring) -> Result<(Self, Vec<u8>), OpenError> {
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        let sealed = keyring.seal(&binding(), &*secret)?;
        Ok((Self::derive(&*secret), sealed))
    }

    /// Opens the stored root secret. Failing here is how a wrong keyring shows.
    ///
    /// # Errors
    /// As `Keyring::open`.
    pub fn open(keyring: &Keyring, sealed: &[u8]) -> Result<Self, OpenError> {
        Ok(Self::derive(&keyring.open(&binding(), sealed)?))
    }

    fn derive(secret: &[u8]) -> Self {
        let hkdf = Hkdf::<Sha256>::new(Some(b"keyward root v1"), secret);
        Self {
            fingerprint: expand(&hkdf, "fingerprint"),
            audit: expand(&hkdf, "audit"),
            csrf: expand(&hkdf, "csrf"),
            throttle: expand(&hkdf, "throttle"),
            cookies: expand(&hkdf, "cookies"),
        }
    }

    /// A keyed hash by which two pastes of one key are seen to be the same: 64 hex digits, of
    /// which pages show 12.
    #[must_use]
    pub fn fingerprint(&self, owner: Owner, provider: Provider, secret: &str) -> String {
        hex::encode(mac(
            &*self.fingerprint,
            &[owner.as_uuid().as_bytes(), provider.as_str().as_bytes(), secret.as_bytes()],
        ))
    }

    /// The link of an audit chain: what was before, and the entry itself.
    #[must_use]
    pub fn audit_link(&self, previous: &[u8], fields: &[&[u8]]) -> [u8; 32] {
        let mut all = Vec::with_capacity(fields.len() + 1);
        all.push(previous);
        all.extend_from_slice(fields);
        mac(&*self.audit, &all)
    }

    /// The token that a form of this browser or session carries.
    #[must_use]
    pub fn csrf_token(&self, binding: &str) -> String {
        hex::encode(mac(&*self.csrf, &[binding.as_bytes()]))
    }

    /// A name for a throttling bucket or a device that says nothing of what it stands for.
    #[must_use]
    pub fn blind(&self, kind: &str, value: &str) -> String {
        hex::encode(mac(&*self.throttle, &[kind.as_bytes(), value.as_bytes()]))
    }

    #[must_use]
    pub fn cookie_key(&self) -> &[u8; 64] {
        &self.cookies
    }
}

fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, label: &str) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    // Fails only above 255 times the hash's length, which no subkey comes near.
    let filled = hkdf.expand(label.as_bytes(), &mut *out);
    debug_assert!(filled.is_ok());
    out
}

/// HMAC-SHA256 over fields, each preceded by its length.
fn mac(key: &[u8], fields: &[&[u8]]) -> [u8; 32] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of any length")
    };
    for field in fields {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TenantId;

    #[test]
    fn fingerprints_differ_by_tenant_and_key_and_survive_reopening() {
        let ring = Keyring::generate();
        let (root, sealed) = RootKeys::generate(&ring).unwrap();
        let (a, b) = (Owner::Tenant(TenantId::new()), Owner::Tenant(TenantId::new()));
        let of = |root: &RootKeys, owner, key| root.fingerprint(owner, Provider::Anthropic, key);
        assert_eq!(of(&root, a, "k"), of(&RootKeys::open(&ring, &sealed).unwrap(), a, "k"));
        assert_ne!(of(&root, a, "k"), of(&root, b, "k"));
        assert_ne!(of(&root, a, "k"), of(&root, a, "l"));
        assert!(RootKeys::open(&Keyring::generate(), &sealed).is_err());
    }

    #[test]
    fn fields_cannot_flow_into_each_other() {
        assert_ne!(mac(b"k", &[b"ab", b"c"]), mac(b"k", &[b"a", b"bc"]));
    }
}
