//! Provider keys: add, check, rotate, undo, forget, remove and the smaller changes.

use super::custody::{self, Seat};
use super::pasted::{Pasted, TypedKey, failed_to_save, read_label, status_or_problem};
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::crypto::secret::Secret;
use crate::domain::account::{KeyChangers, Slug};
use crate::domain::audit::AuditAction;
use crate::domain::billing::UsageMode;
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::KeyId;
use crate::domain::plan::GENERAL;
use crate::domain::price::Multiplier;
use crate::domain::provider_key::{
    DisabledBy, KeyScope, KeySettings, KeyState, KeyStatus, KeyVersion, Provider, ProviderKey,
};
use crate::storage::keys::SealedKey;
use crate::storage::{Tx, changes, keys, tenants};

/// How long a replaced version can be brought back.
pub const UNDO_FOR: i64 = DAY;

const MAX_MODELS: usize = 100;

/// Whose keys, and by whose leave they change.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    pub scope: Scope,
    pub changers: KeyChangers,
}

/// A new key as a person typed it.
#[derive(Debug)]
pub struct NewKey {
    pub provider: Provider,
    pub secret: Secret,
    pub name: String,
    pub label: String,
    pub custom_url: String,
    pub settings: KeySettings,
    /// Also switch the tenant to own keys, where it is in managed mode.
    pub switch_mode: bool,
}

/// A new key that the provider took, on its way into the database.
pub(super) struct ReadyKey {
    provider: Provider,
    name: Slug,
    label: Option<String>,
    pasted: Pasted,
    status: KeyStatus,
    switch_mode: bool,
}

/// A key that was saved, and how the provider answered to it.
#[derive(Clone, Debug)]
pub struct Saved {
    pub name: Slug,
    pub version: i32,
    pub state: KeyState,
    /// Saved, but not used before it is enabled again.
    pub disabled: bool,
    pub switched_mode: bool,
}

impl Services {
    /// Checks a new key with a live call and stores it only if the provider takes it.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field; nothing is stored then.
    pub async fn add_key(&self, actor: &Actor, holder: Holder, new: NewKey) -> Result<Saved, ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let ready = self.ready_key(&holder, new).await?;
        let mut tx = self.db.write().await?;
        let saved = self.insert_key(&mut tx, actor, &holder.scope, ready).await?;
        tx.commit().await?;
        self.directory.forget(holder.scope.owner());
        Ok(saved)
    }

    /// A new key by its form and by a live check. Stores nothing.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub(super) async fn ready_key(&self, holder: &Holder, new: NewKey) -> Result<ReadyKey, ServiceError> {
        let provider = new.provider;
        let mut problems = Problems::default();
        let name = Slug::parse(new.name.trim());
        match &name {
            None => problems.add("key_name", Slug::RULE),
            Some(name) if self.find_key(&holder.scope, name.as_str()).await?.is_some() => {
                problems.add(
                    "key_name",
                    "There is a key of that name already. Rotate it, or choose another name.",
                );
            }
            Some(_) => {}
        }
        let label = read_label(&new.label, &mut problems);
        let typed = TypedKey { secret: &new.secret, custom_url: &new.custom_url, settings: &new.settings };
        let pasted = self.read_pasted(holder, provider, &typed, &mut problems).await?;
        let (Some(name), Some(pasted), true) = (name, pasted, problems.is_empty()) else {
            return Err(failed_to_save(provider, problems));
        };
        let status = self.check_pasted(&holder.scope, provider, &pasted).await?;
        Ok(ReadyKey { provider, name, label, pasted, status, switch_mode: new.switch_mode })
    }

    pub(super) async fn insert_key(
        &self,
        tx: &mut Tx,
        actor: &Actor,
        scope: &Scope,
        ready: ReadyKey,
    ) -> Result<Saved, ServiceError> {
        let ReadyKey { provider, name, label, pasted, status, switch_mode } = ready;
        let now = self.clock.now();
        changes::bump(tx, scope.owner(), now).await?;
        let has_default = keys::list(tx, scope)
            .await?
            .iter()
            .any(|known| known.key.provider == provider && known.key.is_default);
        let key = ProviderKey {
            id: KeyId::new(),
            owner: scope.owner(),
            provider,
            name: name.clone(),
            label,
            is_default: !has_default,
            disabled: None,
            scope: KeyScope::default(),
            rate: Multiplier::LIST,
            created_at: now,
            created_by: Some(actor.user_id),
            created_by_name: actor.email.clone(),
            current: pasted.version(1, status, actor, now),
            last_used_at: None,
        };
        let sealed = self.seal(tx, scope, &seat(&key, &key.current), &pasted.secret, now).await?;
        match keys::insert(tx, &key, &sealed).await {
            Err(error) if error.is_conflict() => {
                let taken = Problems::field("key_name", "There is a key of that name already.");
                return Err(failed_to_save(provider, taken));
            }
            done => done?,
        }
        let switched_mode = switch_mode && self.switch_to_byok(tx, scope, now).await?;
        let detail = serde_json::json!({
            "provider": provider, "hint": key.current.hint, "fingerprint": short(&key.current.fingerprint),
            "version": 1, "state": status.state, "custom_url": key.current.custom_url,
            "settings": key.current.settings,
            "switched_to_own_key": switched_mode,
        });
        self.record(tx, scope.owner(), actor, AuditAction::KeyAdded, name.as_str(), detail).await?;
        Ok(Saved { name, version: 1, state: status.state, disabled: false, switched_mode })
    }

    async fn switch_to_byok(&self, tx: &mut Tx, scope: &Scope, now: Moment) -> Result<bool, ServiceError> {
        Ok(tenants::set_mode(tx, scope, UsageMode::Managed, UsageMode::Byok, now).await?)
    }

    /// Checks a new secret for a key and makes it the current version. Requests in flight end on
    /// the old one, which stays sealed for a day.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field; `Conflict` if somebody else rotated meanwhile.
    pub async fn rotate_key(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
        typed: &TypedKey<'_>,
    ) -> Result<Saved, ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let found = self.find_key(&holder.scope, name).await?.ok_or(ServiceError::NotFound)?;
        let provider = found.key.provider;
        let mut problems = Problems::default();
        let pasted = self.read_pasted(&holder, provider, typed, &mut problems).await?;
        let (Some(pasted), true) = (pasted, problems.is_empty()) else {
            return Err(failed_to_save(provider, problems));
        };
        let status = self.check_pasted(&holder.scope, provider, &pasted).await?;

        let now = self.clock.now();
        let scope = &holder.scope;
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), now).await?;
        let newest = keys::versions(&mut tx, scope, found.key.id).await?;
        let number = newest.iter().map(|(version, _)| version.version).max().unwrap_or(0) + 1;
        let version = pasted.version(number, status, actor, now);
        let sealed = self.seal(&mut tx, scope, &seat(&found.key, &version), &pasted.secret, now).await?;
        keys::insert_version(&mut tx, found.key.id, &version, &sealed).await?;
        self.put_in_place(&mut tx, &found, number, now).await?;
        let detail = serde_json::json!({
            "before": { "version": found.key.current.version, "hint": found.key.current.hint },
            "after": { "version": number, "hint": version.hint, "fingerprint": short(&version.fingerprint),
                       "state": status.state, "custom_url": version.custom_url, "settings": version.settings },
        });
        self.record(&mut tx, scope.owner(), actor, AuditAction::KeyRotated, name, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        let disabled = found.key.disabled.is_some();
        Ok(Saved {
            name: found.key.name,
            version: number,
            state: status.state,
            disabled,
            switched_mode: false,
        })
    }

    /// Brings the version that was replaced last back under its own number, after a live check.
    ///
    /// # Errors
    /// `NotFound` when there is none to bring back; `Invalid` when the provider refuses it now.
    pub async fn undo_rotation(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
    ) -> Result<Saved, ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let scope = &holder.scope;
        let mut tx = self.db.read().await?;
        let found = keys::find(&mut tx, scope, name).await?.ok_or(ServiceError::NotFound)?;
        let versions = keys::versions(&mut tx, scope, found.key.id).await?;
        let now = self.clock.now();
        let (previous, sealed) = undoable(versions, now).ok_or(ServiceError::NotFound)?;
        let secret = self.open(&mut tx, scope, &found.key, &previous, &sealed).await?;
        tx.rollback().await?;

        let provider = found.key.provider;
        let url = previous.custom_url.as_deref();
        let checked = self.check(scope, provider, &secret, url, &previous.settings).await?;
        let status = status_or_problem(provider, &checked, previous.custom_url.is_some(), self.clock.now())?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), now).await?;
        self.put_in_place(&mut tx, &found, previous.version, now).await?;
        keys::set_status(&mut tx, found.key.id, previous.version, &status, Some(now)).await?;
        let detail = serde_json::json!({
            "before": { "version": found.key.current.version },
            "after": { "version": previous.version, "state": status.state },
        });
        self.record(&mut tx, scope.owner(), actor, AuditAction::KeyRotationUndone, name, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(Saved {
            name: found.key.name,
            version: previous.version,
            state: status.state,
            disabled: found.key.disabled.is_some(),
            switched_mode: false,
        })
    }

    async fn put_in_place(
        &self,
        tx: &mut Tx,
        found: &SealedKey,
        to: i32,
        now: Moment,
    ) -> Result<(), ServiceError> {
        let from = found.key.current.version;
        if keys::replace_version(tx, found.key.id, from, to, now, now.plus(UNDO_FOR)).await? {
            Ok(())
        } else {
            Err(ServiceError::Conflict("Somebody else changed this key a moment ago. Look at it again."))
        }
    }

    /// Destroys replaced versions at once, in place of a day later.
    ///
    /// # Errors
    /// `NotFound` when none is kept.
    pub async fn forget_replaced(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
    ) -> Result<(), ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let scope = &holder.scope;
        let mut tx = self.db.write().await?;
        let found = keys::find(&mut tx, scope, name).await?.ok_or(ServiceError::NotFound)?;
        let mut forgotten = Vec::new();
        for (version, _) in keys::versions(&mut tx, scope, found.key.id).await? {
            if keys::destroy_version(&mut tx, found.key.id, version.version).await? {
                forgotten.push(version.version);
            }
        }
        if forgotten.is_empty() {
            return Err(ServiceError::NotFound);
        }
        let detail = serde_json::json!({ "versions": forgotten });
        self.record(&mut tx, scope.owner(), actor, AuditAction::KeyVersionForgotten, name, detail).await?;
        tx.commit().await?;
        self.db.sweep().await;
        Ok(())
    }

    /// Removes a key for good. The person types its name to confirm.
    ///
    /// # Errors
    /// `Invalid` when the typed name is another one.
    pub async fn remove_key(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
        typed: &str,
    ) -> Result<(), ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let found = self.find_key(&holder.scope, name).await?.ok_or(ServiceError::NotFound)?;
        if typed.trim() != name {
            let message = format!("Type the key's name, {name}, to confirm.");
            return Err(ServiceError::Invalid(Problems::field("confirm_name", message)));
        }
        let detail = serde_json::json!({
            "provider": found.key.provider, "hint": found.key.current.hint,
            "version": found.key.current.version, "was_default": found.key.is_default,
        });
        self.change(actor, &holder, &found.key, AuditAction::KeyRemoved, detail, async |tx, now| {
            if keys::remove(tx, found.key.id, now).await? { Ok(()) } else { Err(ServiceError::NotFound) }
        })
        .await?;
        self.db.sweep().await;
        Ok(())
    }

    /// Makes a key the one that requests use which name none.
    ///
    /// # Errors
    /// `NotFound` when there is no such key.
    pub async fn set_default_key(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
    ) -> Result<(), ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let found = self.find_key(&holder.scope, name).await?.ok_or(ServiceError::NotFound)?;
        let detail = serde_json::json!({ "provider": found.key.provider });
        self.change(actor, &holder, &found.key, AuditAction::KeyMadeDefault, detail, async |tx, _| {
            self.unchanged(tx, &holder.scope, &found).await?;
            Ok(keys::set_default(tx, &holder.scope, found.key.provider, found.key.id).await?)
        })
        .await
    }

    /// Changes a key's label.
    ///
    /// # Errors
    /// `Invalid` when the label is too long.
    pub async fn label_key(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
        label: &str,
    ) -> Result<(), ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let found = self.find_key(&holder.scope, name).await?.ok_or(ServiceError::NotFound)?;
        let mut problems = Problems::default();
        let label = read_label(label, &mut problems);
        problems.or_ok()?;
        let detail = serde_json::json!({ "before": found.key.label, "after": label });
        self.change(actor, &holder, &found.key, AuditAction::KeyEdited, detail, async |tx, _| {
            Ok(keys::set_label(tx, found.key.id, label.as_deref()).await?)
        })
        .await
    }

    /// Changes what a key may be used for: features and models, each all or a list.
    ///
    /// # Errors
    /// `Invalid` when a feature does not exist or a model's name is none.
    pub async fn scope_key(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
        scope: KeyScope,
    ) -> Result<(), ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let found = self.find_key(&holder.scope, name).await?.ok_or(ServiceError::NotFound)?;
        self.judge_scope(&scope).await?.or_ok()?;
        let detail = serde_json::json!({ "before": found.key.scope, "after": scope });
        self.change(actor, &holder, &found.key, AuditAction::KeyScoped, detail, async |tx, _| {
            Ok(keys::set_scope(tx, found.key.id, &scope).await?)
        })
        .await
    }

    async fn judge_scope(&self, scope: &KeyScope) -> Result<Problems, ServiceError> {
        let mut problems = Problems::default();
        let platform = self.directory.platform().await?;
        let known =
            |slug: &str| slug == GENERAL || platform.features.iter().any(|feature| feature.slug == slug);
        if let Some(features) = &scope.features {
            if let Some(unknown) = features.iter().find(|slug| !known(slug)) {
                problems.add("features", format!("There is no feature named {unknown}."));
            }
            if features.is_empty() {
                problems.add("features", "Choose at least one feature, or all. To stop the key, disable it.");
            }
        }
        if let Some(models) = &scope.models {
            if models.is_empty() || models.len() > MAX_MODELS {
                problems.add("models", format!("Name 1 to {MAX_MODELS} models, or leave the choice at all."));
            }
            if !models.iter().all(|model| is_model_name(model)) {
                problems.add("models", "Write one model's name on each line, as requests name it.");
            }
        }
        Ok(problems)
    }

    /// Stops or starts a key. What the operator has stopped, only the operator can start.
    ///
    /// # Errors
    /// `Denied` to whoever may not.
    pub async fn set_key_disabled(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
        disabled: bool,
    ) -> Result<(), ServiceError> {
        let about = holder.scope.about(holder.changers);
        self.permit(actor, Action::DisableKeys, about)?;
        let found = self.find_key(&holder.scope, name).await?.ok_or(ServiceError::NotFound)?;
        let who = if actor.is_super_admin() { DisabledBy::Operator } else { DisabledBy::Tenant };
        if found.key.disabled == Some(DisabledBy::Operator) && who == DisabledBy::Tenant {
            return Err(ServiceError::Denied);
        }
        let action = if disabled { AuditAction::KeyDisabled } else { AuditAction::KeyEnabled };
        let detail = serde_json::json!({ "by": who });
        self.change(actor, &holder, &found.key, action, detail, async |tx, now| {
            Ok(keys::set_disabled(tx, found.key.id, disabled.then_some((who, now))).await?)
        })
        .await
    }

    /// One change to one key: bumped, audited, committed, and forgotten by the caches.
    pub(super) async fn change(
        &self,
        actor: &Actor,
        holder: &Holder,
        key: &ProviderKey,
        action: AuditAction,
        detail: serde_json::Value,
        work: impl AsyncFnOnce(&mut Tx, Moment) -> Result<(), ServiceError>,
    ) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, key.owner, now).await?;
        work(&mut tx, now).await?;
        self.record(&mut tx, holder.scope.owner(), actor, action, key.name.as_str(), detail).await?;
        tx.commit().await?;
        self.directory.forget(key.owner);
        Ok(())
    }

    pub(super) async fn find_key(
        &self,
        scope: &Scope,
        name: &str,
    ) -> Result<Option<SealedKey>, ServiceError> {
        let mut tx = self.db.read().await?;
        let found = keys::find(&mut tx, scope, name).await?;
        tx.rollback().await?;
        Ok(found)
    }

    pub(super) async fn open_current(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        found: &SealedKey,
    ) -> Result<Secret, ServiceError> {
        self.open(tx, scope, &found.key, &found.key.current, &found.sealed).await
    }

    async fn open(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        key: &ProviderKey,
        version: &KeyVersion,
        sealed: &[u8],
    ) -> Result<Secret, ServiceError> {
        let owner_key =
            crate::storage::root::find_owner_key(tx, scope).await?.ok_or(ServiceError::NotFound)?;
        Ok(custody::open(&self.keyring, &owner_key, sealed, &seat(key, version))?)
    }
}

/// Whether requests could name a model so.
#[must_use]
pub fn is_model_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn seat<'a>(key: &ProviderKey, version: &'a KeyVersion) -> Seat<'a> {
    Seat {
        owner: key.owner,
        key: key.id,
        version: version.version,
        provider: key.provider,
        custom_url: version.custom_url.as_deref(),
        settings: &version.settings,
    }
}

/// The first 12 digits of a fingerprint: what is shown and written down of it.
#[must_use]
pub fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

/// The version that *Undo* would bring back, with its sealed secret.
#[must_use]
pub fn undoable(versions: Vec<(KeyVersion, Option<Vec<u8>>)>, now: Moment) -> Option<(KeyVersion, Vec<u8>)> {
    versions
        .into_iter()
        .filter(|(version, _)| version.destroy_at.is_some_and(|at| at > now))
        .filter_map(|(version, sealed)| sealed.map(|sealed| (version, sealed)))
        .max_by_key(|(version, _)| version.replaced_at)
}
