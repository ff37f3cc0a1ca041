//! Who of the staff looked at which tenant, as whom, why and how long.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_optional};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::{TenantId, UserId, ViewingId};
use crate::domain::viewing::Viewing;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    viewer_id: Uuid,
    viewer: String,
    viewed_id: Uuid,
    viewed: String,
    reason: String,
    ticket: String,
    started_at: i64,
    ends_at: i64,
    ended_at: Option<i64>,
    ended_by: Option<String>,
}

impl From<Row> for Viewing {
    fn from(row: Row) -> Self {
        Self {
            id: ViewingId(row.id),
            tenant: TenantId(row.tenant_id),
            viewer_id: UserId(row.viewer_id),
            viewer: row.viewer,
            viewed_id: UserId(row.viewed_id),
            viewed: row.viewed,
            reason: row.reason,
            ticket: row.ticket,
            started_at: Moment(row.started_at),
            ends_at: Moment(row.ends_at),
            ended_at: row.ended_at.map(Moment),
            ended_by: row.ended_by,
        }
    }
}

pub async fn insert(tx: &mut Tx, viewing: &Viewing) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO viewing (id, tenant_id, viewer_id, viewer, viewed_id, viewed, reason, ticket,
                              started_at, ends_at, ended_at, ended_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL, NULL)",
        viewing.id.0,
        viewing.tenant.0,
        viewing.viewer_id.0,
        &viewing.viewer,
        viewing.viewed_id.0,
        &viewing.viewed,
        &viewing.reason,
        &viewing.ticket,
        viewing.started_at.0,
        viewing.ends_at.0
    )?;
    Ok(())
}

pub async fn find(tx: &mut Tx, id: ViewingId) -> Result<Option<Viewing>, StorageError> {
    Ok(fetch_optional!(tx, Row, "SELECT * FROM viewing WHERE id = $1", id.0)?.map(Viewing::from))
}

/// The newest of a tenant.
pub async fn of_tenant(tx: &mut Tx, scope: &Scope, limit: i64) -> Result<Vec<Viewing>, StorageError> {
    let sql = "SELECT * FROM viewing WHERE tenant_id = $1 ORDER BY started_at DESC LIMIT $2";
    Ok(fetch_all!(tx, Row, sql, scope.owner().as_uuid(), limit)?.into_iter().map(Viewing::from).collect())
}

/// The newest of a person, or of everybody.
pub async fn newest(tx: &mut Tx, viewer: Option<UserId>, limit: i64) -> Result<Vec<Viewing>, StorageError> {
    let rows = match viewer {
        Some(viewer) => {
            let sql = "SELECT * FROM viewing WHERE viewer_id = $1 ORDER BY started_at DESC LIMIT $2";
            fetch_all!(tx, Row, sql, viewer.0, limit)?
        }
        None => fetch_all!(tx, Row, "SELECT * FROM viewing ORDER BY started_at DESC LIMIT $1", limit)?,
    };
    Ok(rows.into_iter().map(Viewing::from).collect())
}

/// Those whose time is over, and whose end nobody has noted.
pub async fn over(tx: &mut Tx, now: Moment, limit: i64) -> Result<Vec<Viewing>, StorageError> {
    let sql = "SELECT * FROM viewing WHERE ended_at IS NULL AND ends_at <= $1 ORDER BY started_at LIMIT $2";
    Ok(fetch_all!(tx, Row, sql, now.0, limit)?.into_iter().map(Viewing::from).collect())
}

/// Ends one that goes on; false when it is over.
pub async fn end(tx: &mut Tx, id: ViewingId, at: Moment, by: &str) -> Result<bool, StorageError> {
    let sql = "UPDATE viewing SET ended_at = $1, ended_by = $2 WHERE id = $3 AND ended_at IS NULL";
    Ok(execute!(tx, sql, at.0, by, id.0)? == 1)
}
