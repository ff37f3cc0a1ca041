//! The sealed root secret and each owner's sealed key.

use super::{StorageError, Tx, execute, fetch_optional};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;

pub async fn find_root(tx: &mut Tx) -> Result<Option<Vec<u8>>, StorageError> {
    let row = fetch_optional!(tx, (Vec<u8>,), "SELECT sealed FROM root_secret WHERE id = 1")?;
    Ok(row.map(|row| row.0))
}

/// Stores the root secret unless there is one; it is never replaced. True if it was stored.
pub async fn insert_root(tx: &mut Tx, sealed: &[u8]) -> Result<bool, StorageError> {
    let rows = execute!(
        tx,
        "INSERT INTO root_secret (id, sealed) VALUES (1, $1) ON CONFLICT (id) DO NOTHING",
        sealed
    )?;
    Ok(rows == 1)
}

pub async fn find_owner_key(tx: &mut Tx, scope: &Scope) -> Result<Option<Vec<u8>>, StorageError> {
    let sql = "SELECT sealed FROM owner_key WHERE owner_id = $1";
    let row = fetch_optional!(tx, (Vec<u8>,), sql, scope.owner().as_uuid())?;
    Ok(row.map(|row| row.0))
}

/// Stores an owner's key unless there is one. True if it was stored.
pub async fn insert_owner_key(
    tx: &mut Tx,
    scope: &Scope,
    sealed: &[u8],
    now: Moment,
) -> Result<bool, StorageError> {
    let rows = execute!(
        tx,
        "INSERT INTO owner_key (owner_id, sealed, created_at) VALUES ($1, $2, $3)
         ON CONFLICT (owner_id) DO NOTHING",
        scope.owner().as_uuid(),
        sealed,
        now.0
    )?;
    Ok(rows == 1)
}
