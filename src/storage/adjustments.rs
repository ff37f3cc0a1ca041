//! Adjustments: what requests of models without a price cost after all. One for a row, which itself is
//! never rewritten; rollups hold both.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{StorageError, Tx, day_sums, execute, fetch_all, on_backend};
use crate::domain::clock::Moment;
use crate::domain::ids::{PriceId, RequestId};
use crate::domain::money::Nanos;
use crate::domain::usage::{UsageRow, bucket_of};

/// What is added to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjustment {
    pub at: Moment,
    pub price: PriceId,
    pub cost: Nanos,
    pub billed: Nanos,
}

/// Appends adjustments to settled rows and to their rollups, and gives how many: a row has one.
pub async fn append(tx: &mut Tx, adjusted: &[(UsageRow, Adjustment)]) -> Result<usize, StorageError> {
    let mut appended = 0;
    for (row, adjustment) in adjusted {
        appended += usize::from(append_one(tx, row, adjustment).await?);
    }
    day_sums::set_back(tx, adjusted.iter().map(|(row, _)| row)).await?;
    Ok(appended)
}

async fn append_one(tx: &mut Tx, row: &UsageRow, adjustment: &Adjustment) -> Result<bool, StorageError> {
    // A month that a wrong clock closed early takes none any more.
    let sql = "INSERT INTO usage_adjustment (usage_id, tenant_id, at, price_id, cost, billed)
               SELECT $1, $2, CASE WHEN s.closed > $3 THEN s.closed ELSE $3 END, $4, $5, $6
               FROM (SELECT COALESCE(MAX(period_end), 0) AS closed FROM statement WHERE tenant_id = $2) s
               WHERE TRUE ON CONFLICT (usage_id) DO NOTHING";
    let Adjustment { at, price, cost, billed } = *adjustment;
    if execute!(tx, sql, row.id.0, row.tenant_id.0, at.0, price.0, cost.0, billed.0)? == 0 {
        return Ok(false);
    }
    let guessed = if row.state == crate::domain::usage::UsageState::Final { 0 } else { cost.0 };
    let sql = "UPDATE usage_rollup SET unpriced = unpriced - 1, cost = cost + $1, estimated_cost = estimated_cost + $2,
                      billed = billed + $3, list_cost = list_cost + $4
               WHERE tenant_id = $5 AND bucket = $6 AND mode = $7 AND fallback = $8 AND feature = $9
                 AND provider = $10 AND model = $11 AND key_id = $12 AND endpoint = $13";
    execute!(
        tx,
        sql,
        cost.0,
        guessed,
        billed.0,
        row.rate.list_of(cost).0,
        row.tenant_id.0,
        bucket_of(row.started_at).0,
        row.mode.as_str(),
        row.fallback.map_or("", crate::domain::billing::Fallback::as_str),
        &row.feature,
        row.provider.as_str(),
        row.model(),
        row.key_id.0,
        row.labels.endpoint.as_deref().unwrap_or_default()
    )?;
    Ok(true)
}

#[derive(sqlx::FromRow)]
struct Row {
    usage_id: Uuid,
    at: i64,
    price_id: Uuid,
    cost: i64,
    billed: i64,
}

/// The adjustments of these rows, by row.
pub async fn of(tx: &mut Tx, rows: &[UsageRow]) -> Result<HashMap<RequestId, Adjustment>, StorageError> {
    let unpriced: Vec<RequestId> = rows.iter().filter(|row| row.unpriced).map(|row| row.id).collect();
    let mut found = HashMap::new();
    for chunk in unpriced.chunks(256) {
        let list: Vec<String> = (1..=chunk.len()).map(|i| format!("${i}")).collect();
        let sql = format!(
            "SELECT usage_id, at, price_id, cost, billed FROM usage_adjustment WHERE usage_id IN ({})",
            list.join(", ")
        );
        let rows: Vec<Row> = on_backend!(tx, conn => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql));
            for id in chunk {
                query = query.bind(id.0);
            }
            query.fetch_all(conn).await
        })?;
        found.extend(rows.into_iter().map(|row| {
            let (price, cost, billed) = (PriceId(row.price_id), Nanos(row.cost), Nanos(row.billed));
            (RequestId(row.usage_id), Adjustment { at: Moment(row.at), price, cost, billed })
        }));
    }
    Ok(found)
}

/// Models of all tenants that ran without a price since `since` and still have none: provider, model,
/// and how many requests.
pub async fn unpriced_models(tx: &mut Tx, since: Moment) -> Result<Vec<(String, String, i64)>, StorageError> {
    fetch_all!(
        tx,
        (String, String, i64),
        "SELECT provider, model, CAST(SUM(unpriced) AS BIGINT) FROM usage_rollup
         WHERE bucket >= $1 AND unpriced > 0 GROUP BY provider, model ORDER BY 3 DESC, 2 LIMIT 50",
        since.0
    )
}
