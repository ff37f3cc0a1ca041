//! Second factors of people: authenticator apps, recovery codes and passkeys.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional};
use crate::domain::clock::Moment;
use crate::domain::ids::UserId;

/// An authenticator app, its secret still sealed.
pub struct StoredAuthenticator {
    pub sealed: Vec<u8>,
    pub created_at: Moment,
    pub confirmed: bool,
}

/// Keeps the secret of an app that was not set up yet, in place of one that never was.
pub async fn begin_authenticator(
    tx: &mut Tx,
    user: UserId,
    sealed: &[u8],
    now: Moment,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM authenticator WHERE user_id = $1 AND confirmed_at IS NULL";
    execute!(tx, sql, user.0)?;
    execute!(
        tx,
        "INSERT INTO authenticator (user_id, sealed, created_at, confirmed_at, last_step) VALUES ($1, $2, $3, NULL, 0)",
        user.0,
        sealed,
        now.0
    )?;
    Ok(())
}

pub async fn authenticator(tx: &mut Tx, user: UserId) -> Result<Option<StoredAuthenticator>, StorageError> {
    let sql = "SELECT sealed, created_at, confirmed_at FROM authenticator WHERE user_id = $1";
    let row = fetch_optional!(tx, (Vec<u8>, i64, Option<i64>), sql, user.0)?;
    Ok(row.map(|(sealed, created_at, at)| StoredAuthenticator {
        sealed,
        created_at: Moment(created_at),
        confirmed: at.is_some(),
    }))
}

/// From now on the app counts.
pub async fn confirm_authenticator(tx: &mut Tx, user: UserId, now: Moment) -> Result<bool, StorageError> {
    let sql = "UPDATE authenticator SET confirmed_at = $1 WHERE user_id = $2 AND confirmed_at IS NULL";
    Ok(execute!(tx, sql, now.0, user.0)? == 1)
}

/// Uses a code up, that of this step of time; false when it or a later one was used before.
pub async fn use_step(tx: &mut Tx, user: UserId, step: i64) -> Result<bool, StorageError> {
    let sql = "UPDATE authenticator SET last_step = $1 WHERE user_id = $2 AND last_step < $1";
    Ok(execute!(tx, sql, step, user.0)? == 1)
}

pub async fn delete_authenticator(tx: &mut Tx, user: UserId) -> Result<bool, StorageError> {
    Ok(execute!(tx, "DELETE FROM authenticator WHERE user_id = $1", user.0)? == 1)
}

/// Puts these codes, as their hashes, in place of those that there were.
pub async fn set_recovery_codes(tx: &mut Tx, user: UserId, codes: &[String]) -> Result<(), StorageError> {
    // One at a time for each person: two at once would leave the codes of both.
    execute!(tx, "UPDATE app_user SET email = email WHERE id = $1", user.0)?;
    execute!(tx, "DELETE FROM recovery_code WHERE user_id = $1", user.0)?;
    for code in codes {
        execute!(
            tx,
            "INSERT INTO recovery_code (user_id, code, used_at) VALUES ($1, $2, NULL)",
            user.0,
            code
        )?;
    }
    Ok(())
}

/// Uses a code up; false when there is no such code that was not used.
pub async fn use_recovery_code(
    tx: &mut Tx,
    user: UserId,
    code: &str,
    now: Moment,
) -> Result<bool, StorageError> {
    let sql = "UPDATE recovery_code SET used_at = $1 WHERE user_id = $2 AND code = $3 AND used_at IS NULL";
    Ok(execute!(tx, sql, now.0, user.0, code)? == 1)
}

/// How many recovery codes are left.
pub async fn recovery_codes_left(tx: &mut Tx, user: UserId) -> Result<i64, StorageError> {
    let sql = "SELECT COUNT(*) FROM recovery_code WHERE user_id = $1 AND used_at IS NULL";
    Ok(fetch_one!(tx, (i64,), sql, user.0)?.0)
}

/// A passkey as stored: the library's own text of it, and what people know of it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct StoredPasskey {
    pub id: Uuid,
    pub user_id: Uuid,
    pub credential: String,
    pub name: String,
    pub created_at: i64,
    pub last_used_at: Option<i64>,
}

const PASSKEY: &str = "id, user_id, credential, name, created_at, last_used_at";

pub async fn insert_passkey(
    tx: &mut Tx,
    passkey: &StoredPasskey,
    credential_id: &[u8],
) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO passkey (id, user_id, credential_id, credential, name, created_at, last_used_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        passkey.id,
        passkey.user_id,
        credential_id,
        &passkey.credential,
        &passkey.name,
        passkey.created_at,
        passkey.last_used_at
    )?;
    Ok(())
}

pub async fn passkeys(tx: &mut Tx, user: UserId) -> Result<Vec<StoredPasskey>, StorageError> {
    let sql =
        sqlx::AssertSqlSafe(format!("SELECT {PASSKEY} FROM passkey WHERE user_id = $1 ORDER BY created_at"));
    fetch_all!(tx, StoredPasskey, sql, user.0)
}

/// The passkey with this id of its authenticator's.
pub async fn passkey_of(tx: &mut Tx, credential_id: &[u8]) -> Result<Option<StoredPasskey>, StorageError> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {PASSKEY} FROM passkey WHERE credential_id = $1"));
    fetch_optional!(tx, StoredPasskey, sql, credential_id)
}

/// Notes that a passkey was used; false when it is gone.
pub async fn use_passkey(tx: &mut Tx, id: Uuid, credential: &str, now: Moment) -> Result<bool, StorageError> {
    let sql = "UPDATE passkey SET credential = $1, last_used_at = $2 WHERE id = $3";
    Ok(execute!(tx, sql, credential, now.0, id)? == 1)
}

/// The name of the passkey that was deleted, if it was this person's.
pub async fn delete_passkey(tx: &mut Tx, user: UserId, id: Uuid) -> Result<Option<String>, StorageError> {
    let sql = "DELETE FROM passkey WHERE id = $1 AND user_id = $2 RETURNING name";
    Ok(fetch_optional!(tx, (String,), sql, id, user.0)?.map(|row| row.0))
}

/// Takes every second factor of a person away.
pub async fn delete_all(tx: &mut Tx, user: UserId) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM authenticator WHERE user_id = $1", user.0)?;
    execute!(tx, "DELETE FROM recovery_code WHERE user_id = $1", user.0)?;
    execute!(tx, "DELETE FROM passkey WHERE user_id = $1", user.0)?;
    Ok(())
}
