//! How the installation is: its schema, its size, its processes, and what waits.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one};
use crate::domain::clock::Moment;
use crate::domain::ids::InstanceId;
use crate::domain::process::Process;

/// The number of the newest migration that was applied.
pub async fn schema(tx: &mut Tx) -> Result<i64, StorageError> {
    Ok(fetch_one!(tx, (i64,), "SELECT CAST(MAX(version) AS BIGINT) FROM _sqlx_migrations")?.0)
}

/// The size of the database in bytes.
pub async fn size(tx: &mut Tx) -> Result<i64, StorageError> {
    let sql = match tx {
        Tx::Sqlite(_) => "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        Tx::Postgres(_) => "SELECT pg_database_size(current_database())",
    };
    Ok(fetch_one!(tx, (i64,), sql)?.0)
}

/// What waits, and since when the longest of it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub count: i64,
    pub since: Option<Moment>,
}

async fn waiting(tx: &mut Tx, sql: &'static str, now: Moment) -> Result<Waiting, StorageError> {
    let (count, since) = fetch_one!(tx, (i64, Option<i64>), sql, now.0)?;
    Ok(Waiting { count, since: since.map(Moment) })
}

/// Rows of usage that are not settled.
pub async fn pending(tx: &mut Tx, now: Moment) -> Result<Waiting, StorageError> {
    let sql = "SELECT COUNT(*), MIN(started_at) FROM usage WHERE state = 'pending' AND started_at <= $1";
    waiting(tx, sql, now).await
}

/// Generations whose turn has come.
pub async fn generations(tx: &mut Tx, now: Moment) -> Result<Waiting, StorageError> {
    let sql = "SELECT COUNT(*), MIN(next_at) FROM generation WHERE state = 'queued' AND next_at <= $1";
    waiting(tx, sql, now).await
}

/// Messages to webhooks and people that are due.
pub async fn deliveries(tx: &mut Tx, now: Moment) -> Result<Waiting, StorageError> {
    let sql = "SELECT COUNT(*), MIN(next_at) FROM delivery WHERE state = 'waiting' AND next_at <= $1";
    waiting(tx, sql, now).await
}

/// Keeps what a process says of itself. Its heart has beaten before.
pub async fn report(tx: &mut Tx, process: &Process) -> Result<(), StorageError> {
    let jobs = serde_json::to_string(&process.jobs).unwrap_or_else(|_| "[]".to_owned());
    let sql = "UPDATE instance SET version = $1, started_at = $2, followed_at = $3, under_way = $4, jobs = $5
               WHERE id = $6";
    let followed = process.followed_at.map(|at| at.0);
    let (started, under_way) = (process.started_at.0, process.under_way);
    execute!(tx, sql, &process.version, started, followed, under_way, jobs, process.id.0)?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    beat_at: i64,
    version: String,
    started_at: i64,
    followed_at: Option<i64>,
    under_way: i64,
    jobs: String,
}

/// Every process that is known, the oldest first.
pub async fn processes(tx: &mut Tx) -> Result<Vec<Process>, StorageError> {
    let sql =
        "SELECT id, beat_at, version, started_at, followed_at, under_way, jobs FROM instance ORDER BY id";
    let rows = fetch_all!(tx, Row, sql)?;
    Ok(rows
        .into_iter()
        .map(|row| Process {
            id: InstanceId(row.id),
            version: row.version,
            started_at: Moment(row.started_at),
            beat_at: Moment(row.beat_at),
            followed_at: row.followed_at.map(Moment),
            under_way: row.under_way,
            jobs: serde_json::from_str(&row.jobs).unwrap_or_default(),
        })
        .collect())
}
