//! Answers to requests that carried an `Idempotency-Key`.

use super::{StorageError, Tx, execute, fetch_optional};
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::TokenId;

/// A request that has not ended by then never will: its process died.
const LOST_AFTER: i64 = 5 * MINUTE;

/// What a request was answered, as far as its repetition is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// Where the thing that was made is found.
    pub location: Option<String>,
}

/// Whether a key is free.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// It was free, and is taken now.
    First,
    /// The same request is being worked on.
    UnderWay,
    /// The key belongs to another request.
    Other,
    Done(Answer),
}

#[derive(sqlx::FromRow)]
struct Row {
    request_hash: Vec<u8>,
    status: Option<i64>,
    body: Option<String>,
    location: Option<String>,
}

/// Takes a key for a request, or tells what became of it.
pub async fn claim(
    tx: &mut Tx,
    token: TokenId,
    key: &str,
    request: &[u8],
    now: Moment,
) -> Result<Claim, StorageError> {
    let sql = "INSERT INTO idempotency (token_id, idempotency_key, request_hash, created_at)
               VALUES ($1, $2, $3, $4)
               ON CONFLICT (token_id, idempotency_key) DO UPDATE SET created_at = excluded.created_at
               WHERE idempotency.status IS NULL AND idempotency.created_at < $5
                 AND idempotency.request_hash = excluded.request_hash";
    if execute!(tx, sql, token.0, key, request, now.0, now.minus(LOST_AFTER).0)? == 1 {
        return Ok(Claim::First);
    }
    let sql = "SELECT request_hash, status, body, location FROM idempotency
               WHERE token_id = $1 AND idempotency_key = $2";
    let found = fetch_optional!(tx, Row, sql, token.0, key)?;
    Ok(match found {
        Some(row) if row.request_hash != request => Claim::Other,
        Some(Row { status: Some(status), body, location, .. }) => Claim::Done(Answer {
            status: u16::try_from(status).unwrap_or(200),
            body: body.unwrap_or_default(),
            location,
        }),
        _ => Claim::UnderWay,
    })
}

/// Keeps the answer.
pub async fn finish(tx: &mut Tx, token: TokenId, key: &str, answer: &Answer) -> Result<(), StorageError> {
    let sql = "UPDATE idempotency SET status = $1, body = $2, location = $3
               WHERE token_id = $4 AND idempotency_key = $5";
    let Answer { status, body, location } = answer;
    execute!(tx, sql, i64::from(*status), body.as_str(), location.as_deref(), token.0, key)?;
    Ok(())
}

/// Frees a key whose request failed in a way that a repetition may mend.
pub async fn release(tx: &mut Tx, token: TokenId, key: &str) -> Result<(), StorageError> {
    let sql = "DELETE FROM idempotency WHERE token_id = $1 AND idempotency_key = $2";
    execute!(tx, sql, token.0, key)?;
    Ok(())
}

pub async fn delete_before(tx: &mut Tx, before: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM idempotency WHERE created_at < $1", before.0)
}
