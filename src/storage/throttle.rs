//! Failed sign-ins, counted by bucket: an account, an address, or an account on a known browser.

use super::{StorageError, Tx, execute, fetch_optional};
use crate::domain::clock::Moment;

/// How often a bucket failed, and when last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    pub count: i32,
    pub last_at: Moment,
}

pub async fn find(tx: &mut Tx, bucket: &str) -> Result<Option<Failures>, StorageError> {
    let sql = "SELECT failures, last_at FROM sign_in_failure WHERE bucket = $1";
    let row = fetch_optional!(tx, (i32, i64), sql, bucket)?;
    Ok(row.map(|(count, last_at)| Failures { count, last_at: Moment(last_at) }))
}

/// Holds a bucket until the transaction ends, so that attempts at once are judged one by one.
pub async fn lock(tx: &mut Tx, bucket: &str) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO sign_in_failure (bucket, failures, last_at) VALUES ($1, 0, 0)
         ON CONFLICT (bucket) DO UPDATE SET failures = sign_in_failure.failures",
        bucket
    )?;
    Ok(())
}

/// Counts a failure; a bucket quiet since before `forget_before` starts again at one.
pub async fn record(
    tx: &mut Tx,
    bucket: &str,
    now: Moment,
    forget_before: Moment,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO sign_in_failure (bucket, failures, last_at) VALUES ($1, 1, $2)
         ON CONFLICT (bucket) DO UPDATE SET
            failures = CASE WHEN sign_in_failure.last_at < $3 THEN 1 ELSE sign_in_failure.failures + 1 END,
            last_at = excluded.last_at",
        bucket,
        now.0,
        forget_before.0
    )?;
    Ok(())
}

pub async fn clear(tx: &mut Tx, bucket: &str) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM sign_in_failure WHERE bucket = $1", bucket)?;
    Ok(())
}

pub async fn delete_before(tx: &mut Tx, at: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM sign_in_failure WHERE last_at < $1", at.0)
}
