//! Notifications of tenants, and of the operator.

use uuid::Uuid;

use super::{StorageError, Tx, deliveries, execute, fetch_all, fetch_one, word};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::{Owner, TenantId};
use crate::domain::notice::{Notice, NoticeKind};

/// Notes it for the console and sends it on its way to wherever else the tenant wants it.
pub async fn insert(tx: &mut Tx, tenant: TenantId, notice: &Notice) -> Result<(), StorageError> {
    insert_once(tx, tenant, notice, None).await.map(|_| ())
}

/// The same for what is told once for ever: false when this reference was told of before.
pub async fn insert_once(
    tx: &mut Tx,
    tenant: TenantId,
    notice: &Notice,
    reference: Option<&str>,
) -> Result<bool, StorageError> {
    let sql = "INSERT INTO notification (id, tenant_id, at, kind, text, page, reference)
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant_id, reference) DO NOTHING";
    let Notice { at, kind, text, page } = notice;
    let id = Uuid::now_v7();
    if execute!(tx, sql, id, tenant.0, at.0, kind.as_str(), text, page, reference)? == 0 {
        return Ok(false);
    }
    deliveries::queue(tx, tenant, id, notice).await?;
    Ok(true)
}

/// Whether a tenant or the operator was told since a moment of what has a reference like this.
pub async fn was_told_of(
    tx: &mut Tx,
    owner: Owner,
    pattern: &str,
    since: Moment,
) -> Result<bool, StorageError> {
    let count = match owner {
        Owner::Tenant(tenant) => {
            let sql =
                "SELECT COUNT(*) FROM notification WHERE tenant_id = $1 AND at >= $2 AND reference LIKE $3";
            fetch_one!(tx, (i64,), sql, tenant.0, since.0, pattern)?
        }
        Owner::Platform => {
            let sql = "SELECT COUNT(*) FROM platform_notice WHERE at >= $1 AND reference LIKE $2";
            fetch_one!(tx, (i64,), sql, since.0, pattern)?
        }
    };
    Ok(count.0 > 0)
}

type Row = (i64, String, String, String);

fn notice((at, kind, text, page): Row) -> Result<Notice, StorageError> {
    Ok(Notice { at: Moment(at), kind: word!(NoticeKind, kind, "notification", "kind")?, text, page })
}

/// The tenant's latest, newest first.
pub async fn latest(tx: &mut Tx, scope: &Scope, limit: i64) -> Result<Vec<Notice>, StorageError> {
    let sql = "SELECT at, kind, text, page FROM notification WHERE tenant_id = $1 ORDER BY at DESC, id DESC LIMIT $2";
    fetch_all!(tx, Row, sql, scope.owner().as_uuid(), limit)?.into_iter().map(notice).collect()
}

/// Notes something for the operator; false when this reference was told of before, which is news again.
pub async fn insert_for_operator(
    tx: &mut Tx,
    notice: &Notice,
    reference: Option<&str>,
) -> Result<bool, StorageError> {
    let sql = "INSERT INTO platform_notice (id, at, kind, text, page, reference)
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (reference) DO NOTHING";
    let Notice { at, kind, text, page } = notice;
    if execute!(tx, sql, Uuid::now_v7(), at.0, kind.as_str(), text, page, reference)? > 0 {
        return Ok(true);
    }
    execute!(
        tx,
        "UPDATE platform_notice SET at = $1, text = $2 WHERE reference = $3",
        at.0,
        text,
        reference
    )?;
    Ok(false)
}

/// The operator's latest since a moment, newest first.
pub async fn for_operator(tx: &mut Tx, since: Moment, limit: i64) -> Result<Vec<Notice>, StorageError> {
    let sql =
        "SELECT at, kind, text, page FROM platform_notice WHERE at >= $1 ORDER BY at DESC, id DESC LIMIT $2";
    fetch_all!(tx, Row, sql, since.0, limit)?.into_iter().map(notice).collect()
}

pub async fn delete_before(tx: &mut Tx, before: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM platform_notice WHERE at < $1", before.0)?;
    execute!(tx, "DELETE FROM notification WHERE at < $1", before.0)
}
