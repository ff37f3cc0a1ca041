//! Notifications of tenants.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, word};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::TenantId;
use crate::domain::notice::{Notice, NoticeKind};

pub async fn insert(tx: &mut Tx, tenant: TenantId, notice: &Notice) -> Result<(), StorageError> {
    let sql =
        "INSERT INTO notification (id, tenant_id, at, kind, text, page) VALUES ($1, $2, $3, $4, $5, $6)";
    let Notice { at, kind, text, page } = notice;
    execute!(tx, sql, Uuid::now_v7(), tenant.0, at.0, kind.as_str(), text, page)?;
    Ok(())
}

/// The tenant's latest, newest first.
pub async fn latest(tx: &mut Tx, scope: &Scope, limit: i64) -> Result<Vec<Notice>, StorageError> {
    let sql = "SELECT at, kind, text, page FROM notification WHERE tenant_id = $1 ORDER BY at DESC, id DESC LIMIT $2";
    fetch_all!(tx, (i64, String, String, String), sql, scope.owner().as_uuid(), limit)?
        .into_iter()
        .map(|(at, kind, text, page)| {
            Ok(Notice { at: Moment(at), kind: word!(NoticeKind, kind, "notification", "kind")?, text, page })
        })
        .collect()
}

pub async fn delete_before(tx: &mut Tx, before: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM notification WHERE at < $1", before.0)
}
