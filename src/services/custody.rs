//! Sealing provider keys and opening them: the only code that turns one into the other. Opened
//! keys are not cached; opening takes two AES-GCM passes over a few hundred bytes.

use zeroize::Zeroizing;

use super::Services;
use crate::access::scope::Scope;
use crate::crypto::keyring::Keyring;
use crate::crypto::sealed::{self, Binding, KeyBytes, OpenError};
use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::ids::{KeyId, Owner};
use crate::domain::provider_key::{KeySettings, Provider};
use crate::storage::{StorageError, Tx, root};

/// Owners have one key each for now; the envelope carries its number for the day they have more.
const OWNER_KEY_ID: u32 = 1;

/// What a sealed secret is bound to: a row moved to another owner, key, version, provider, URL or
/// setting does not open.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    pub owner: Owner,
    pub key: KeyId,
    pub version: i32,
    pub provider: Provider,
    pub custom_url: Option<&'a str>,
    pub settings: &'a KeySettings,
}

impl Seat<'_> {
    fn binding(&self) -> Binding {
        let binding = Binding::new("provider key")
            .with(self.owner.as_uuid().as_bytes())
            .with(self.key.0.as_bytes())
            .with(&self.version.to_be_bytes())
            .with(self.provider.as_str().as_bytes())
            .with(self.custom_url.unwrap_or_default().as_bytes());
        if self.settings.0.is_empty() {
            return binding;
        }
        self.settings
            .0
            .iter()
            .fold(binding, |binding, (name, value)| binding.with(name.as_bytes()).with(value.as_bytes()))
    }
}

fn owner_binding(owner: Owner) -> Binding {
    Binding::new("owner key").with(owner.as_uuid().as_bytes())
}

/// Opens a sealed provider key.
///
/// # Errors
/// When the keyring is the wrong one, or a row was moved or edited.
pub fn open(
    keyring: &Keyring,
    sealed_owner_key: &[u8],
    sealed: &[u8],
    seat: &Seat<'_>,
) -> Result<Secret, OpenError> {
    let owner_key = open_owner_key(keyring, seat.owner, sealed_owner_key)?;
    open_text(&owner_key, &seat.binding(), sealed)
}

fn open_text(owner_key: &KeyBytes, binding: &Binding, sealed: &[u8]) -> Result<Secret, OpenError> {
    let mut opened = sealed::open(owner_key, binding, sealed)?;
    String::from_utf8(std::mem::take(&mut *opened)).map(Secret::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        OpenError::Forged
    })
}

fn open_owner_key(keyring: &Keyring, owner: Owner, sealed_key: &[u8]) -> Result<KeyBytes, OpenError> {
    let bytes = keyring.open(&owner_binding(owner), sealed_key)?;
    <[u8; 32]>::try_from(bytes.as_slice()).map(Zeroizing::new).map_err(|_| OpenError::Format)
}

impl Services {
    /// Seals a provider key for its seat, making the owner's key on its first use.
    ///
    /// # Errors
    /// When the database fails or the owner's key does not open.
    pub(super) async fn seal(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        seat: &Seat<'_>,
        secret: &Secret,
        now: Moment,
    ) -> Result<Vec<u8>, super::ServiceError> {
        self.seal_bound(tx, scope, &seat.binding(), secret, now).await
    }

    /// Seals another secret of the owner's for the one place where it may be opened.
    ///
    /// # Errors
    /// As `seal`.
    pub(super) async fn seal_bound(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        binding: &Binding,
        secret: &Secret,
        now: Moment,
    ) -> Result<Vec<u8>, super::ServiceError> {
        let owner_key = self.owner_key(tx, scope, now).await?;
        let owner_key = open_owner_key(&self.keyring, scope.owner(), &owner_key)?;
        Ok(sealed::seal(OWNER_KEY_ID, &owner_key, binding, secret.expose().as_bytes())?)
    }

    /// Opens what `seal_bound` sealed.
    ///
    /// # Errors
    /// When the keyring is the wrong one, or a row was moved or edited.
    pub(super) async fn open_bound(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        binding: &Binding,
        sealed: &[u8],
    ) -> Result<Secret, super::ServiceError> {
        let owner_key = root::find_owner_key(tx, scope).await?.ok_or(OpenError::Forged)?;
        let owner_key = open_owner_key(&self.keyring, scope.owner(), &owner_key)?;
        Ok(open_text(&owner_key, binding, sealed)?)
    }

    async fn owner_key(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        now: Moment,
    ) -> Result<Vec<u8>, super::ServiceError> {
        if let Some(found) = root::find_owner_key(tx, scope).await? {
            return Ok(found);
        }
        let fresh = self.keyring.seal(&owner_binding(scope.owner()), &*sealed::random_key())?;
        root::insert_owner_key(tx, scope, &fresh, now).await?;
        // Read again: another process may have been first.
        let found = root::find_owner_key(tx, scope).await?;
        found.ok_or(super::ServiceError::Storage(StorageError::BadRow {
            table: "owner_key",
            column: "sealed",
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TenantId;

    #[test]
    fn a_sealed_key_opens_only_in_its_own_seat() {
        let ring = Keyring::generate();
        let owner = Owner::Tenant(TenantId::new());
        let plain = sealed::random_key();
        let owner_key = ring.seal(&owner_binding(owner), &*plain).unwrap();
        let settings = KeySettings([("location".to_owned(), "eu".to_owned())].into());
        let moved_to = KeySettings([("location".to_owned(), "us".to_owned())].into());
        let none = KeySettings::default();
        let seat = Seat {
            owner,
            key: KeyId::new(),
            version: 3,
            provider: Provider::Anthropic,
            custom_url: Some("https://llm.example.com/v1/messages"),
            settings: &settings,
        };
        let sealed = sealed::seal(OWNER_KEY_ID, &plain, &seat.binding(), b"sk-ant-api03-x").unwrap();
        assert_eq!(open(&ring, &owner_key, &sealed, &seat).unwrap().expose(), "sk-ant-api03-x");
        let moved = [
            Seat { owner: Owner::Tenant(TenantId::new()), ..seat },
            Seat { owner: Owner::Platform, ..seat },
            Seat { key: KeyId::new(), ..seat },
            Seat { version: 2, ..seat },
            Seat { custom_url: None, ..seat },
            Seat { settings: &moved_to, ..seat },
            Seat { settings: &none, ..seat },
            Seat { custom_url: Some("https://evil.example.com/v1/messages"), ..seat },
        ];
        for seat in moved {
            assert!(open(&ring, &owner_key, &sealed, &seat).is_err(), "{seat:?}");
        }
        assert!(open(&Keyring::generate(), &owner_key, &sealed, &seat).is_err());
    }
}
