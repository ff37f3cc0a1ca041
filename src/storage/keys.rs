//! Provider keys, their versions and their sealed secrets.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::account::{ROTATION_DAYS, Slug};
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::{KeyId, Owner, UserId};
use crate::domain::price::Multiplier;
use crate::domain::provider_key::{
    DisabledBy, KeyScope, KeySettings, KeyState, KeyStatus, KeyVersion, Provider, ProviderKey,
};

/// A key and its current version's sealed secret, as the gateway caches it.
#[derive(Clone)]
pub struct SealedKey {
    pub key: ProviderKey,
    pub sealed: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    owner_id: Uuid,
    provider: String,
    name: String,
    label: Option<String>,
    is_default: bool,
    disabled_by: Option<String>,
    for_features: Option<String>,
    for_models: Option<String>,
    rate_permille: i32,
    created_at: i64,
    created_by: Option<Uuid>,
    created_by_name: String,
    last_used_at: Option<i64>,
    #[sqlx(flatten)]
    version: VersionRow,
    sealed: Option<Vec<u8>>,
}

#[derive(sqlx::FromRow)]
struct VersionRow {
    version: i32,
    custom_url: Option<String>,
    settings: Option<String>,
    hint: String,
    fingerprint: String,
    state: String,
    state_since: i64,
    state_until: Option<i64>,
    rejections: i32,
    probe_at: Option<i64>,
    version_created_at: i64,
    version_created_by_name: String,
    checked_at: Option<i64>,
    replaced_at: Option<i64>,
    destroy_at: Option<i64>,
}

impl TryFrom<VersionRow> for KeyVersion {
    type Error = StorageError;

    fn try_from(row: VersionRow) -> Result<Self, StorageError> {
        Ok(Self {
            version: row.version,
            custom_url: row.custom_url,
            settings: read_json(row.settings.as_deref(), "key_version", "settings")?.unwrap_or_default(),
            hint: row.hint,
            fingerprint: row.fingerprint,
            status: KeyStatus {
                state: word!(KeyState, row.state, "key_version", "state")?,
                since: Moment(row.state_since),
                until: row.state_until.map(Moment),
                rejections: row.rejections,
                probe_at: row.probe_at.map(Moment),
            },
            created_at: Moment(row.version_created_at),
            created_by_name: row.version_created_by_name,
            checked_at: row.checked_at.map(Moment),
            replaced_at: row.replaced_at.map(Moment),
            destroy_at: row.destroy_at.map(Moment),
        })
    }
}

impl TryFrom<Row> for SealedKey {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        Ok(Self {
            key: ProviderKey {
                id: KeyId(row.id),
                owner: Owner::from_uuid(row.owner_id),
                provider: word!(Provider, row.provider, "provider_key", "provider")?,
                name: word!(Slug, row.name, "provider_key", "name")?,
                label: row.label,
                is_default: row.is_default,
                disabled: row.disabled_by.as_deref().and_then(DisabledBy::parse),
                scope: KeyScope {
                    features: read_json(row.for_features.as_deref(), "provider_key", "for_features")?,
                    models: read_json(row.for_models.as_deref(), "provider_key", "for_models")?,
                },
                rate: Multiplier(row.rate_permille),
                created_at: Moment(row.created_at),
                created_by: row.created_by.map(UserId),
                created_by_name: row.created_by_name,
                current: row.version.try_into()?,
                last_used_at: row.last_used_at.map(Moment),
            },
            sealed: row.sealed.unwrap_or_default(),
        })
    }
}

fn read_json<T: serde::de::DeserializeOwned>(
    text: Option<&str>,
    table: &'static str,
    column: &'static str,
) -> Result<Option<T>, StorageError> {
    let bad = |_| StorageError::BadRow { table, column };
    text.map(|text| serde_json::from_str(text).map_err(bad)).transpose()
}

fn written<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

macro_rules! select_keys {
    ($rest:literal) => {
        concat!(
            "SELECT k.id, k.owner_id, k.provider, k.name, k.label, k.is_default, k.disabled_by, k.for_features, k.for_models, k.rate_permille,
                    k.created_at, k.created_by, k.created_by_name, u.last_used_at,
                    v.version, v.custom_url, v.settings, v.hint, v.fingerprint, v.state, v.state_since, v.state_until, v.rejections,
                    v.probe_at, v.created_at AS version_created_at,
                    v.created_by_name AS version_created_by_name, v.checked_at, v.replaced_at, v.destroy_at,
                    v.sealed
             FROM provider_key k
             JOIN key_version v ON v.key_id = k.id AND v.version = k.current_version
             LEFT JOIN key_use u ON u.key_id = k.id
             WHERE k.removed_at IS NULL AND ",
            $rest
        )
    };
}

/// All keys of an owner: defaults first, then by name.
pub async fn list(tx: &mut Tx, scope: &Scope) -> Result<Vec<SealedKey>, StorageError> {
    let sql = select_keys!("k.owner_id = $1 ORDER BY k.is_default DESC, k.name");
    fetch_all!(tx, Row, sql, scope.owner().as_uuid())?.into_iter().map(SealedKey::try_from).collect()
}

pub async fn find(tx: &mut Tx, scope: &Scope, name: &str) -> Result<Option<SealedKey>, StorageError> {
    let sql = select_keys!("k.owner_id = $1 AND k.name = $2");
    fetch_optional!(tx, Row, sql, scope.owner().as_uuid(), name)?.map(SealedKey::try_from).transpose()
}

pub async fn find_by_id(tx: &mut Tx, id: KeyId) -> Result<Option<SealedKey>, StorageError> {
    let sql = select_keys!("k.id = $1");
    fetch_optional!(tx, Row, sql, id.0)?.map(SealedKey::try_from).transpose()
}

/// All versions of a key that are still known, newest first, with their sealed secrets where
/// these are still kept.
pub async fn versions(
    tx: &mut Tx,
    scope: &Scope,
    id: KeyId,
) -> Result<Vec<(KeyVersion, Option<Vec<u8>>)>, StorageError> {
    #[derive(sqlx::FromRow)]
    struct Both {
        #[sqlx(flatten)]
        version: VersionRow,
        sealed: Option<Vec<u8>>,
    }
    let sql = "SELECT v.version, v.custom_url, v.settings, v.hint, v.fingerprint, v.state, v.state_since, v.state_until, v.rejections,
                      v.probe_at, v.created_at AS version_created_at,
                      v.created_by_name AS version_created_by_name, v.checked_at, v.replaced_at, v.destroy_at,
                      v.sealed
               FROM key_version v JOIN provider_key k ON k.id = v.key_id
               WHERE k.owner_id = $1 AND k.id = $2 ORDER BY v.version DESC";
    fetch_all!(tx, Both, sql, scope.owner().as_uuid(), id.0)?
        .into_iter()
        .map(|row| Ok((KeyVersion::try_from(row.version)?, row.sealed)))
        .collect()
}

pub async fn insert(tx: &mut Tx, key: &ProviderKey, sealed: &[u8]) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO provider_key (id, owner_id, provider, name, label, is_default, current_version,
                                   created_at, created_by, created_by_name)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        key.id.0,
        key.owner.as_uuid(),
        key.provider.as_str(),
        key.name.as_str(),
        key.label.as_deref(),
        key.is_default,
        key.current.version,
        key.created_at.0,
        key.created_by.map(|id| id.0),
        &key.created_by_name
    )?;
    insert_version(tx, key.id, &key.current, sealed).await
}

pub async fn insert_version(
    tx: &mut Tx,
    key: KeyId,
    version: &KeyVersion,
    sealed: &[u8],
) -> Result<(), StorageError> {
    let status = &version.status;
    execute!(
        tx,
        "INSERT INTO key_version (key_id, version, custom_url, sealed, hint, fingerprint, state, state_since,
                                  state_until, rejections, probe_at, created_at, created_by_name, checked_at, settings)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        key.0,
        version.version,
        version.custom_url.as_deref(),
        sealed,
        &version.hint,
        &version.fingerprint,
        status.state.as_str(),
        status.since.0,
        status.until.map(|at| at.0),
        status.rejections,
        status.probe_at.map(|at| at.0),
        version.created_at.0,
        &version.created_by_name,
        version.checked_at.map(|at| at.0),
        (version.settings != KeySettings::default()).then(|| written(&version.settings))
    )?;
    Ok(())
}

/// Makes `to` the key's version if `from` still is; false if somebody else was first. The
/// version that it replaces stays sealed until `destroy_at` and is not probed any more.
pub async fn replace_version(
    tx: &mut Tx,
    key: KeyId,
    from: i32,
    to: i32,
    now: Moment,
    destroy_at: Moment,
) -> Result<bool, StorageError> {
    let sql = "UPDATE provider_key SET current_version = $1
               WHERE id = $2 AND current_version = $3 AND removed_at IS NULL";
    if execute!(tx, sql, to, key.0, from)? == 0 {
        return Ok(false);
    }
    execute!(
        tx,
        "UPDATE key_version SET replaced_at = $1, destroy_at = $2, probe_at = NULL
         WHERE key_id = $3 AND version = $4",
        now.0,
        destroy_at.0,
        key.0,
        from
    )?;
    // A version that was destroyed meanwhile cannot come back.
    let sql = "UPDATE key_version SET replaced_at = NULL, destroy_at = NULL
               WHERE key_id = $1 AND version = $2 AND sealed IS NOT NULL";
    Ok(execute!(tx, sql, key.0, to)? == 1)
}

/// Writes a version's state. `checked_at` is set where a check found it, not live traffic.
pub async fn set_status(
    tx: &mut Tx,
    key: KeyId,
    version: i32,
    status: &KeyStatus,
    checked_at: Option<Moment>,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "UPDATE key_version SET state = $1, state_since = $2, state_until = $3, rejections = $4, probe_at = $5,
                checked_at = COALESCE($6, checked_at)
         WHERE key_id = $7 AND version = $8",
        status.state.as_str(),
        status.since.0,
        status.until.map(|at| at.0),
        status.rejections,
        status.probe_at.map(|at| at.0),
        checked_at.map(|at| at.0),
        key.0,
        version
    )?;
    Ok(())
}

/// Destroys sealed secrets of replaced versions: one version, or those whose time has come.
pub async fn destroy_version(tx: &mut Tx, key: KeyId, version: i32) -> Result<bool, StorageError> {
    let sql = "UPDATE key_version SET sealed = NULL, destroy_at = NULL
               WHERE key_id = $1 AND version = $2 AND replaced_at IS NOT NULL AND sealed IS NOT NULL";
    Ok(execute!(tx, sql, key.0, version)? == 1)
}

pub async fn destroy_due(tx: &mut Tx, now: Moment) -> Result<u64, StorageError> {
    let sql = "UPDATE key_version SET sealed = NULL, destroy_at = NULL WHERE destroy_at <= $1";
    execute!(tx, sql, now.0)
}

/// Removes a key: its sealed secrets are deleted, its name and usage stay for the record.
pub async fn remove(tx: &mut Tx, key: KeyId, now: Moment) -> Result<bool, StorageError> {
    let sql = "UPDATE provider_key SET removed_at = $1, is_default = $2 WHERE id = $3 AND removed_at IS NULL";
    if execute!(tx, sql, now.0, false, key.0)? == 0 {
        return Ok(false);
    }
    let sql = "UPDATE key_version SET sealed = NULL, destroy_at = NULL, probe_at = NULL, state = $1
               WHERE key_id = $2";
    execute!(tx, sql, KeyState::Removed.as_str(), key.0)?;
    Ok(true)
}

/// Makes one key the default of its provider, and no other.
pub async fn set_default(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
    key: KeyId,
) -> Result<(), StorageError> {
    let sql = "UPDATE provider_key SET is_default = (id = $1)
               WHERE owner_id = $2 AND provider = $3 AND removed_at IS NULL";
    execute!(tx, sql, key.0, scope.owner().as_uuid(), provider.as_str())?;
    Ok(())
}

/// Changes what may change without the key being pasted again.
pub async fn set_label(tx: &mut Tx, key: KeyId, label: Option<&str>) -> Result<(), StorageError> {
    execute!(tx, "UPDATE provider_key SET label = $1 WHERE id = $2", label, key.0)?;
    Ok(())
}

/// Changes what a key may be used for.
pub async fn set_scope(tx: &mut Tx, key: KeyId, scope: &KeyScope) -> Result<(), StorageError> {
    execute!(
        tx,
        "UPDATE provider_key SET for_features = $1, for_models = $2 WHERE id = $3",
        scope.features.as_ref().map(written),
        scope.models.as_ref().map(written),
        key.0
    )?;
    Ok(())
}

/// Changes what its owner pays of the list price.
pub async fn set_rate(tx: &mut Tx, key: KeyId, rate: Multiplier) -> Result<(), StorageError> {
    execute!(tx, "UPDATE provider_key SET rate_permille = $1 WHERE id = $2", rate.0, key.0)?;
    Ok(())
}

/// Stops or starts a key: who stopped it, and when.
pub async fn set_disabled(
    tx: &mut Tx,
    key: KeyId,
    by: Option<(DisabledBy, Moment)>,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "UPDATE provider_key SET disabled_at = $1, disabled_by = $2 WHERE id = $3",
        by.map(|(_, at)| at.0),
        by.map(|(who, _)| who.as_str()),
        key.0
    )?;
    Ok(())
}

/// Takes the keys whose probe is due, moving their next one, so that no two processes probe one key.
pub async fn take_due_probes(tx: &mut Tx, now: Moment, next: Moment) -> Result<Vec<KeyId>, StorageError> {
    let rows = fetch_all!(
        tx,
        (Uuid,),
        "UPDATE key_version SET probe_at = $1 WHERE probe_at <= $2 AND replaced_at IS NULL RETURNING key_id",
        next.0,
        now.0
    )?;
    Ok(rows.into_iter().map(|row| KeyId(row.0)).collect())
}

/// Records that a key was used; the newest time wins.
pub async fn touch(tx: &mut Tx, key: KeyId, at: Moment) -> Result<(), StorageError> {
    execute!(tx, TOUCH, key.0, at.0)?;
    Ok(())
}

pub(super) const TOUCH: &str = "INSERT INTO key_use (key_id, last_used_at) VALUES ($1, $2)
    ON CONFLICT (key_id) DO UPDATE SET last_used_at = excluded.last_used_at
    WHERE key_use.last_used_at < excluded.last_used_at";

/// Keys in use whose current version has been in use for as long as the tenant wants none to be; shared ones
/// for as long as tenants begin with.
pub async fn due_for_rotation(tx: &mut Tx, now: Moment) -> Result<Vec<OldKey>, StorageError> {
    let sql = "SELECT k.owner_id, k.id, k.name, v.version, v.created_at FROM provider_key k
               JOIN key_version v ON v.key_id = k.id AND v.version = k.current_version
               LEFT JOIN tenant t ON t.id = k.owner_id
               WHERE k.removed_at IS NULL AND k.disabled_at IS NULL AND COALESCE(t.rotation_days, $3) > 0
                 AND v.created_at < $1 - COALESCE(t.rotation_days, $3) * $2 ORDER BY k.id";
    let rows = fetch_all!(tx, (Uuid, Uuid, String, i32, i64), sql, now.0, DAY, ROTATION_DAYS)?;
    let old = rows.into_iter().map(|(owner, key, name, version, at)| {
        let owner = Owner::from_uuid(owner);
        OldKey { owner, key: KeyId(key), name, version, pasted_at: Moment(at) }
    });
    Ok(old.collect())
}

/// A key whose secret has been in use for long.
#[derive(Clone, Debug)]
pub struct OldKey {
    pub owner: Owner,
    pub key: KeyId,
    pub name: String,
    pub version: i32,
    pub pasted_at: Moment,
}
