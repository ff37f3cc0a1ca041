//! Sessions of people, kept by the hash of the key in their cookie.

use std::collections::HashMap;

use sqlx::{FromRow as _, Row as _};
use uuid::Uuid;

use super::people::{self, PersonRow, Placed};
use super::{Database, StorageError, Tx, execute, fetch_all};
use crate::domain::account::Proof;
use crate::domain::clock::Moment;
use crate::domain::ids::{SessionId, UserId};

/// A session as stored. `state` is JSON. It holds no key of anybody's; for the minutes of a sign-in it may
/// hold what has to come back from an identity provider, or the link that was opened.
#[derive(Clone, Debug)]
pub struct StoredSession {
    pub id: SessionId,
    pub user_id: Option<UserId>,
    pub state: String,
    pub address: Option<String>,
    pub agent: Option<String>,
    pub created_at: Moment,
    pub seen_at: Moment,
    pub expires_at: Moment,
}

type Row = (Uuid, Option<Uuid>, String, Option<String>, Option<String>, i64, i64, i64);

impl StoredSession {
    /// How whoever has it proved who they are. The state is a map of JSON texts, of which the person is one.
    pub fn proof(&self) -> Proof {
        #[derive(serde::Deserialize)]
        struct Person {
            #[serde(default)]
            proof: Proof,
        }
        let state: HashMap<String, String> = serde_json::from_str(&self.state).unwrap_or_default();
        let person = state.get("person").and_then(|text| serde_json::from_str::<Person>(text).ok());
        person.map(|person| person.proof).unwrap_or_default()
    }
}

fn session(row: Row) -> StoredSession {
    StoredSession {
        id: SessionId(row.0),
        user_id: row.1.map(UserId),
        state: row.2,
        address: row.3,
        agent: row.4,
        created_at: Moment(row.5),
        seen_at: Moment(row.6),
        expires_at: Moment(row.7),
    }
}

pub async fn insert(tx: &mut Tx, key_hash: &[u8; 32], session: &StoredSession) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO session (id, key_hash, user_id, state, address, agent, created_at, seen_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        session.id.0,
        &key_hash[..],
        session.user_id.map(|id| id.0),
        &session.state,
        session.address.as_deref(),
        session.agent.as_deref(),
        session.created_at.0,
        session.seen_at.0,
        session.expires_at.0
    )?;
    Ok(())
}

/// A session that has not run out, with the person who has it, if anybody has. Every page asks for both.
pub async fn find(
    db: &Database,
    key_hash: &[u8; 32],
    now: Moment,
) -> Result<Option<(StoredSession, Option<Placed>)>, StorageError> {
    let sql = concat!(
        "SELECT ",
        people::columns_with_place!(),
        ", s.id AS session, s.user_id, s.state, s.address, s.agent, s.created_at AS begun, s.seen_at, s.expires_at
         FROM session s LEFT JOIN app_user u ON u.id = s.user_id ",
        people::with_place!(),
        "WHERE s.key_hash = $1 AND s.expires_at > $2"
    );
    match db {
        Database::Sqlite(sqlite) => {
            let mut found = None;
            let rows = sqlite.look(sql, (&key_hash[..], now.0), |row| {
                if found.is_none() {
                    let id = |at| row.get::<_, Option<[u8; 16]>>(at).map(|id| id.map(Uuid::from_bytes));
                    let (own, user) = (id(14)?.unwrap_or_default(), id(15)?);
                    let (state, address, agent) = (row.get(16)?, row.get(17)?, row.get(18)?);
                    found =
                        Some((own, user, state, address, agent, row.get(19)?, row.get(20)?, row.get(21)?));
                }
                PersonRow::read(row)
            })?;
            let Some(found) = found else { return Ok(None) };
            Ok(Some((session(found), people::gather(rows.into_iter().flatten())?)))
        }
        Database::Postgres(pool) => {
            let rows = sqlx::query(sql).bind(&key_hash[..]).bind(now.0).fetch_all(pool).await?;
            let Some(first) = rows.first() else { return Ok(None) };
            let own: Row = (
                first.try_get(14)?,
                first.try_get(15)?,
                first.try_get(16)?,
                first.try_get(17)?,
                first.try_get(18)?,
                first.try_get(19)?,
                first.try_get(20)?,
                first.try_get(21)?,
            );
            let mut lines = Vec::with_capacity(rows.len());
            for row in &rows {
                if row.try_get::<Option<Uuid>, _>(0)?.is_some() {
                    lines.push(PersonRow::from_row(row)?);
                }
            }
            Ok(Some((session(own), people::gather(lines)?)))
        }
    }
}

/// Writes a session's new state; false if it is gone.
pub async fn update(
    tx: &mut Tx,
    key_hash: &[u8; 32],
    user_id: Option<UserId>,
    state: &str,
    seen_at: Moment,
    expires_at: Moment,
) -> Result<bool, StorageError> {
    let rows = execute!(
        tx,
        "UPDATE session SET user_id = $1, state = $2, seen_at = $3, expires_at = $4 WHERE key_hash = $5",
        user_id.map(|id| id.0),
        state,
        seen_at.0,
        expires_at.0,
        &key_hash[..]
    )?;
    Ok(rows == 1)
}

/// Notes that a session is in use; false if it is gone.
pub async fn touch(
    tx: &mut Tx,
    key_hash: &[u8; 32],
    seen_at: Moment,
    expires_at: Moment,
) -> Result<bool, StorageError> {
    let sql = "UPDATE session SET seen_at = $1, expires_at = $2 WHERE key_hash = $3";
    Ok(execute!(tx, sql, seen_at.0, expires_at.0, &key_hash[..])? == 1)
}

pub async fn delete(tx: &mut Tx, key_hash: &[u8; 32]) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM session WHERE key_hash = $1", &key_hash[..])?;
    Ok(())
}

pub async fn list(tx: &mut Tx, user: UserId, now: Moment) -> Result<Vec<StoredSession>, StorageError> {
    let sql = "SELECT id, user_id, state, address, agent, created_at, seen_at, expires_at
               FROM session WHERE user_id = $1 AND expires_at > $2 ORDER BY seen_at DESC";
    Ok(fetch_all!(tx, Row, sql, user.0, now.0)?.into_iter().map(session).collect())
}

/// Ends one of the user's sessions; false if it was not theirs or is gone.
pub async fn revoke(tx: &mut Tx, user: UserId, id: SessionId) -> Result<bool, StorageError> {
    Ok(execute!(tx, "DELETE FROM session WHERE id = $1 AND user_id = $2", id.0, user.0)? == 1)
}

/// Ends all of the user's sessions.
pub async fn revoke_all(tx: &mut Tx, user: UserId, now: Moment) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM session WHERE user_id = $1", user.0)?;
    // What is being begun or renewed at this moment comes too late.
    execute!(tx, "UPDATE app_user SET sessions_from = $1 WHERE id = $2", now.0, user.0)?;
    Ok(())
}

pub async fn delete_expired(tx: &mut Tx, now: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM session WHERE expires_at <= $1", now.0)
}
