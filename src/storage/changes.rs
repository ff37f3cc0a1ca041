//! What other processes have changed: a version for each owner whose settings are cached, and the
//! heartbeat by which a dead process is known.

use std::time::Duration;

use sqlx::postgres::PgListener;
use uuid::Uuid;

use super::{Database, StorageError, Tx, execute, fetch_all, fetch_optional};
use crate::domain::clock::Moment;
use crate::domain::ids::{InstanceId, Owner};

const CHANNEL: &str = "keyward_config";

/// Says that something cached of this owner has changed. Part of every such write.
pub async fn bump(tx: &mut Tx, owner: Owner, now: Moment) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO config_version (owner_id, version, changed_at) VALUES ($1, 1, $2)
         ON CONFLICT (owner_id) DO UPDATE
         SET version = config_version.version + 1, changed_at = excluded.changed_at",
        owner.as_uuid(),
        now.0
    )?;
    if let Tx::Postgres(tx) = tx {
        sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&mut **tx).await?;
    }
    Ok(())
}

pub async fn version(tx: &mut Tx, owner: Owner) -> Result<i64, StorageError> {
    let sql = "SELECT version FROM config_version WHERE owner_id = $1";
    let row = fetch_optional!(tx, (i64,), sql, owner.as_uuid())?;
    Ok(row.map_or(0, |row| row.0))
}

/// Owners whose settings changed at or after `since`, with their versions.
pub async fn changed(tx: &mut Tx, since: Moment) -> Result<Vec<(Owner, i64)>, StorageError> {
    let sql = "SELECT owner_id, version FROM config_version WHERE changed_at >= $1";
    let rows = fetch_all!(tx, (Uuid, i64), sql, since.0)?;
    Ok(rows.into_iter().map(|(owner, version)| (Owner::from_uuid(owner), version)).collect())
}

/// Waits for a reason to look: a notification where the database sends them, or a second.
pub struct Watch {
    listener: Option<PgListener>,
}

impl Watch {
    pub async fn new(database: &Database) -> Result<Self, StorageError> {
        let listener = match database {
            Database::Sqlite(_) => None,
            Database::Postgres(pool) => {
                let mut listener = PgListener::connect_with(pool).await?;
                listener.listen(CHANNEL).await?;
                Some(listener)
            }
        };
        Ok(Self { listener })
    }

    /// # Errors
    /// When the connection that listens is lost; make a new `Watch` then.
    pub async fn wait(&mut self) -> Result<(), StorageError> {
        let second = tokio::time::sleep(Duration::from_secs(1));
        match &mut self.listener {
            None => second.await,
            Some(listener) => tokio::select! {
                () = second => {}
                heard = listener.recv() => {
                    heard?;
                }
            },
        }
        Ok(())
    }
}

pub async fn beat(tx: &mut Tx, instance: InstanceId, now: Moment) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO instance (id, beat_at) VALUES ($1, $2)
         ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at",
        instance.0,
        now.0
    )?;
    Ok(())
}

/// Forgets a process that ended in good order.
pub async fn end(tx: &mut Tx, instance: InstanceId) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM instance WHERE id = $1", instance.0)?;
    Ok(())
}

/// Forgets all processes but this one: those of a database that has one server.
pub async fn forget_others(tx: &mut Tx, own: InstanceId) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM instance WHERE id <> $1", own.0)?;
    Ok(())
}

/// Forgets processes that died long ago.
pub async fn delete_dead(tx: &mut Tx, before: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM instance WHERE beat_at < $1", before.0)
}
