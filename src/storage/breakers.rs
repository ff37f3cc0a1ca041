//! Breakers for unusual spend, and the sums that they go by.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::billing::OnReach;
use crate::domain::breaker::{Breaker, Tripped};
use crate::domain::clock::{HOUR, Moment};
use crate::domain::ids::TenantId;
use crate::domain::money::Nanos;

type Row = (Uuid, i64, i64, String, i64, Option<i64>, i64, i64);

fn read(row: Row) -> Result<(TenantId, Breaker), StorageError> {
    let (tenant, factor, least, on_trip, since, tripped_at, spent, usual) = row;
    let tripped = tripped_at.map(|at| Tripped { at: Moment(at), spent: Nanos(spent), usual: Nanos(usual) });
    let on_trip = word!(OnReach, on_trip, "spend_breaker", "on_trip")?;
    Ok((TenantId(tenant), Breaker { factor, least: Nanos(least), on_trip, since: Moment(since), tripped }))
}

pub async fn find(tx: &mut Tx, scope: &Scope) -> Result<Option<Breaker>, StorageError> {
    let sql = "SELECT tenant_id, factor, least, on_trip, since, tripped_at, spent, usual
               FROM spend_breaker WHERE tenant_id = $1";
    let row = fetch_optional!(tx, Row, sql, scope.owner().as_uuid())?;
    Ok(row.map(read).transpose()?.map(|(_, breaker)| breaker))
}

/// Every breaker that has not tripped, or has only warned and did so before `warned_before`.
pub async fn armed(tx: &mut Tx, warned_before: Moment) -> Result<Vec<(TenantId, Breaker)>, StorageError> {
    let sql = "SELECT tenant_id, factor, least, on_trip, since, tripped_at, spent, usual
               FROM spend_breaker
               WHERE tripped_at IS NULL OR (on_trip = 'warn' AND tripped_at < $1) ORDER BY tenant_id";
    fetch_all!(tx, Row, sql, warned_before.0)?.into_iter().map(read).collect()
}

/// Sets a breaker, armed.
pub async fn put(tx: &mut Tx, scope: &Scope, breaker: &Breaker) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO spend_breaker (tenant_id, factor, least, on_trip, since, spent, usual)
         VALUES ($1, $2, $3, $4, $5, 0, 0)
         ON CONFLICT (tenant_id) DO UPDATE SET factor = excluded.factor, least = excluded.least,
             on_trip = excluded.on_trip, since = excluded.since, tripped_at = NULL, spent = 0, usual = 0",
        scope.owner().as_uuid(),
        breaker.factor,
        breaker.least.0,
        breaker.on_trip.as_str(),
        breaker.since.0
    )?;
    Ok(())
}

/// False if there was none.
pub async fn delete(tx: &mut Tx, scope: &Scope) -> Result<bool, StorageError> {
    let sql = "DELETE FROM spend_breaker WHERE tenant_id = $1";
    Ok(execute!(tx, sql, scope.owner().as_uuid())? > 0)
}

/// Trips a breaker that is still as it was seen; false if somebody else was first.
pub async fn trip(
    tx: &mut Tx,
    tenant: TenantId,
    seen: &Breaker,
    tripped: Tripped,
) -> Result<bool, StorageError> {
    let sql = "UPDATE spend_breaker SET tripped_at = $1, spent = $2, usual = $3
               WHERE tenant_id = $4 AND COALESCE(tripped_at, 0) = $5 AND since = $6";
    let (at, before) = (tripped.at.0, seen.tripped.map_or(0, |before| before.at.0));
    Ok(execute!(tx, sql, at, tripped.spent.0, tripped.usual.0, tenant.0, before, seen.since.0)? > 0)
}

/// Arms a breaker that has tripped; false if it has not.
pub async fn reset(tx: &mut Tx, scope: &Scope, now: Moment) -> Result<bool, StorageError> {
    let sql = "UPDATE spend_breaker SET tripped_at = NULL, since = $1 WHERE tenant_id = $2 AND tripped_at IS NOT NULL";
    Ok(execute!(tx, sql, now.0, scope.owner().as_uuid())? > 0)
}

/// What was spent from a moment on. Read from rows, since it need not fall on a quarter-hour.
pub async fn spent_since(tx: &mut Tx, scope: &Scope, from: Moment) -> Result<Nanos, StorageError> {
    let sql =
        "SELECT CAST(COALESCE(SUM(cost), 0) AS BIGINT) FROM usage WHERE tenant_id = $1 AND started_at >= $2";
    Ok(Nanos(fetch_one!(tx, (i64,), sql, scope.owner().as_uuid(), from.0)?.0))
}

/// What each hour with any use cost, from `from` up to `to`.
pub async fn by_hour(
    tx: &mut Tx,
    scope: &Scope,
    from: Moment,
    to: Moment,
) -> Result<Vec<(Moment, Nanos)>, StorageError> {
    let sql = "SELECT (bucket / $1) * $1 AS hour, CAST(SUM(cost) AS BIGINT) FROM usage_rollup
               WHERE tenant_id = $2 AND bucket >= $3 AND bucket < $4 GROUP BY hour";
    let rows = fetch_all!(tx, (i64, i64), sql, HOUR, scope.owner().as_uuid(), from.0, to.0)?;
    Ok(rows.into_iter().map(|(hour, spent)| (Moment(hour), Nanos(spent))).collect())
}
