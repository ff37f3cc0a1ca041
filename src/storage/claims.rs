//! Links by which tenants without people get their first admin.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_optional};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::TenantId;

/// Keeps a tenant's link, in place of the one before.
pub async fn put(
    tx: &mut Tx,
    scope: &Scope,
    hash: &[u8; 32],
    made_by: &str,
    expires_at: Moment,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO claim_link (tenant_id, token_hash, made_by, expires_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant_id) DO UPDATE SET token_hash = excluded.token_hash, made_by = excluded.made_by,
            expires_at = excluded.expires_at",
        scope.owner().as_uuid(),
        &hash[..],
        made_by,
        expires_at.0
    )?;
    Ok(())
}

/// The tenant that a link is for, while it works.
pub async fn find(tx: &mut Tx, hash: &[u8; 32], now: Moment) -> Result<Option<TenantId>, StorageError> {
    let sql = "SELECT tenant_id FROM claim_link WHERE token_hash = $1 AND expires_at > $2";
    Ok(fetch_optional!(tx, (Uuid,), sql, &hash[..], now.0)?.map(|row| TenantId(row.0)))
}

/// Forgets links that work no more.
pub async fn delete_expired(tx: &mut Tx, now: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM claim_link WHERE expires_at <= $1", now.0)
}

/// Uses a link up; false if somebody else was first.
pub async fn take(tx: &mut Tx, hash: &[u8; 32]) -> Result<bool, StorageError> {
    Ok(execute!(tx, "DELETE FROM claim_link WHERE token_hash = $1", &hash[..])? == 1)
}
