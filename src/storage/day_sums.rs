//! Sums of whole days beside those of quarter-hours, so that pages over many days read few rows.
//! They hold for every day that ends by the tenant's `summed_through`; whatever is written into an
//! earlier quarter-hour sets that back, and the day is summed anew. How far days may be summed is
//! announced first, so that no writer has to trust a clock.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional, on_backend};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::TenantId;
use crate::domain::usage::{UsageRow, bucket_of};

/// Which sums cover a range: those of days from `days_from` to `days_to`, those of quarter-hours
/// before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    pub from: Moment,
    pub days_from: Moment,
    pub days_to: Moment,
    pub to: Moment,
}

/// The rollups of a range by way of a `Cover`, whose moments are parameters 2 to 5; the tenant is
/// parameter 1.
pub fn covered() -> String {
    const COLUMNS: &str =
        "tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint, requests,
        failed, estimated, unpriced, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, cost,
        estimated_cost, billed, list_cost";
    let part = |table: &str, from: u8, to: u8| {
        format!("SELECT {COLUMNS} FROM {table} WHERE tenant_id = $1 AND bucket >= ${from} AND bucket < ${to}")
    };
    [part("usage_rollup", 2, 3), part("usage_day", 3, 4), part("usage_rollup", 4, 5)].join(" UNION ALL ")
}

/// How `from..to` is best read. Both ends fall on quarter-hours.
pub async fn cover(tx: &mut Tx, scope: &Scope, from: Moment, to: Moment) -> Result<Cover, StorageError> {
    // A day without a sum had no use: only one that is cut must be read by its quarter-hours.
    let sql = "SELECT t.upto, (SELECT day_end FROM usage_day d WHERE d.tenant_id = $1 AND d.bucket < $2
                              ORDER BY d.bucket DESC LIMIT 1),
                      (SELECT CASE WHEN d.day_end > t.upto THEN d.bucket ELSE t.upto END FROM usage_day d
                       WHERE d.tenant_id = $1 AND d.bucket < t.upto ORDER BY d.bucket DESC LIMIT 1)
               FROM (SELECT CASE WHEN summed_through < $3 THEN summed_through ELSE $3 END AS upto
                     FROM tenant WHERE id = $1) t";
    let found: Option<(i64, Option<i64>, Option<i64>)> =
        fetch_optional!(tx, (i64, Option<i64>, Option<i64>), sql, scope.owner().as_uuid(), from.0, to.0)?;
    let (end, before, last) = found.unwrap_or_default();
    let days_from = Moment(before.unwrap_or(from.0).max(from.0));
    let days_to = Moment(last.unwrap_or(end));
    Ok(if days_from < days_to {
        Cover { from, days_from, days_to, to }
    } else {
        Cover { from, days_from: from, days_to: from, to }
    })
}

/// Through when days may be summed: what is written into an earlier one sets its sums back.
pub async fn horizon(tx: &mut Tx) -> Result<Moment, StorageError> {
    Ok(Moment(fetch_one!(tx, (i64,), "SELECT announced FROM summing")?.0))
}

/// Says that days through `to` may be summed from the next time on, and gives through when they may.
pub async fn announce(tx: &mut Tx, to: Moment) -> Result<Moment, StorageError> {
    let sql = "UPDATE summing SET announced = CASE WHEN announced < $1 THEN $1 ELSE announced END RETURNING announced";
    Ok(Moment(fetch_one!(tx, (i64,), sql, to.0)?.0))
}

/// Tenants with use before `end` that is in no sum of a day yet: each with its time zone, and through
/// when its days are summed.
pub async fn due(tx: &mut Tx, end: Moment) -> Result<Vec<(TenantId, String, Moment)>, StorageError> {
    let sql = "SELECT id, time_zone, summed_through FROM tenant t WHERE EXISTS (
                   SELECT 1 FROM usage_rollup r
                   WHERE r.tenant_id = t.id AND r.bucket >= t.summed_through AND r.bucket < $1)
               ORDER BY id";
    let rows = fetch_all!(tx, (Uuid, String, i64), sql, end.0)?;
    Ok(rows.into_iter().map(|(id, zone, through)| (TenantId(id), zone, Moment(through))).collect())
}

/// Takes a tenant's sums for oneself until the transaction ends, and gives the first quarter-hour
/// with any use that is in none of them.
pub async fn lock(tx: &mut Tx, tenant: TenantId) -> Result<Option<Moment>, StorageError> {
    let sql = "UPDATE tenant SET summed_through = summed_through WHERE id = $1 RETURNING summed_through";
    let (through,) = fetch_one!(tx, (i64,), sql, tenant.0)?;
    let sql = "SELECT MIN(bucket) FROM usage_rollup WHERE tenant_id = $1 AND bucket >= $2";
    let (first,): (Option<i64>,) = fetch_one!(tx, (Option<i64>,), sql, tenant.0, through)?;
    Ok(first.map(Moment))
}

/// Sums days anew, whose beginnings are given and, last, the end of the last one; and says so.
pub async fn sum(tx: &mut Tx, tenant: TenantId, days: &[Moment]) -> Result<(), StorageError> {
    let [first, .., last] = days else { return Ok(()) };
    let sql = "DELETE FROM usage_day WHERE tenant_id = $1 AND bucket >= $2 AND bucket < $3";
    execute!(tx, sql, tenant.0, first.0, last.0)?;
    let values: Vec<String> =
        (2..=days.len()).map(|at| format!("(CAST(${at} AS BIGINT), CAST(${} AS BIGINT))", at + 1)).collect();
    let sql = format!(
        "WITH day (day_start, day_end) AS (VALUES {})
         INSERT INTO usage_day (tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint, day_end,
             requests, failed, estimated, unpriced, input_tokens, cache_read_tokens, cache_write_tokens,
             output_tokens, web_searches, cost, estimated_cost, billed, list_cost)
         SELECT r.tenant_id, d.day_start, r.mode, r.fallback, r.feature, r.provider, r.model, r.key_id, r.endpoint, d.day_end,
             SUM(r.requests), SUM(r.failed), SUM(r.estimated), SUM(r.unpriced), SUM(r.input_tokens),
             SUM(r.cache_read_tokens), SUM(r.cache_write_tokens), SUM(r.output_tokens), SUM(r.web_searches),
             SUM(r.cost), SUM(r.estimated_cost), SUM(r.billed), SUM(r.list_cost)
         FROM day d CROSS JOIN usage_rollup r
         WHERE r.tenant_id = $1 AND r.bucket >= d.day_start AND r.bucket < d.day_end
         GROUP BY r.tenant_id, d.day_start, d.day_end, r.mode, r.fallback, r.feature, r.provider, r.model, r.key_id,
             r.endpoint",
        values.join(", ")
    );
    on_backend!(tx, conn => {
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(tenant.0);
        for day in days {
            query = query.bind(day.0);
        }
        query.execute(conn).await.map(|_| ())
    })?;
    execute!(tx, "UPDATE tenant SET summed_through = $1 WHERE id = $2", last.0, tenant.0)?;
    Ok(())
}

/// Sets sums back to before these rows. Belongs in the transaction that rolls them up: whoever sums
/// has either seen them, or sums them after it.
pub async fn set_back<'a>(tx: &mut Tx, rows: impl Iterator<Item = &'a UsageRow>) -> Result<(), StorageError> {
    let mut earliest: BTreeMap<TenantId, Moment> = BTreeMap::new();
    for row in rows {
        let bucket = bucket_of(row.started_at);
        earliest.entry(row.tenant_id).and_modify(|first| *first = bucket.min(*first)).or_insert(bucket);
    }
    for (tenant, first) in earliest {
        // Unconditionally: what is summed at this moment is waited for.
        let sql =
            "UPDATE tenant SET summed_through = CASE WHEN summed_through > $1 THEN $1 ELSE summed_through END
                   WHERE id = $2";
        execute!(tx, sql, first.0, tenant.0)?;
    }
    Ok(())
}
