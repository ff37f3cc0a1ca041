//! Sums over usage, read from rollups and sums of days: what the Billing and API keys pages show.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::day_sums::{self, Cover, covered};
use super::{StorageError, Tx, fetch_all, fetch_one, on_backend, word};
use crate::access::scope::Scope;
use crate::domain::billing::UsageMode;
use crate::domain::clock::Moment;
use crate::domain::ids::{KeyId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::usage::{Dimension, Filter};

/// Sums over some part of a tenant's usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Totals {
    pub requests: i64,
    pub failed: i64,
    pub estimated: i64,
    pub unpriced: i64,
    pub input_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_tokens: i64,
    pub output_tokens: i64,
    pub cost: i64,
    pub estimated_cost: i64,
    /// What the operator bills of it.
    pub billed: i64,
    /// At list price, whatever was negotiated.
    pub list_cost: i64,
    /// Requests that ran on the shared account because the own key could not be used.
    pub fallbacks: i64,
}

impl Totals {
    #[must_use]
    pub fn cost(&self) -> Nanos {
        Nanos(self.cost)
    }

    /// All tokens that went in, from cache or not.
    #[must_use]
    pub fn prompt_tokens(&self) -> i64 {
        self.input_tokens + self.cache_read_tokens + self.cache_write_tokens
    }

    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            estimated: self.estimated + other.estimated,
            unpriced: self.unpriced + other.unpriced,
            input_tokens: self.input_tokens + other.input_tokens,
            cache_read_tokens: self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens: self.cache_write_tokens + other.cache_write_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            cost: self.cost + other.cost,
            estimated_cost: self.estimated_cost + other.estimated_cost,
            billed: self.billed + other.billed,
            list_cost: self.list_cost + other.list_cost,
            fallbacks: self.fallbacks + other.fallbacks,
        }
    }
}

const SUMS: &str = "CAST(COALESCE(SUM(r.requests), 0) AS BIGINT) AS requests,
    CAST(COALESCE(SUM(r.failed), 0) AS BIGINT) AS failed,
    CAST(COALESCE(SUM(r.estimated), 0) AS BIGINT) AS estimated,
    CAST(COALESCE(SUM(r.unpriced), 0) AS BIGINT) AS unpriced,
    CAST(COALESCE(SUM(r.input_tokens), 0) AS BIGINT) AS input_tokens,
    CAST(COALESCE(SUM(r.cache_read_tokens), 0) AS BIGINT) AS cache_read_tokens,
    CAST(COALESCE(SUM(r.cache_write_tokens), 0) AS BIGINT) AS cache_write_tokens,
    CAST(COALESCE(SUM(r.output_tokens), 0) AS BIGINT) AS output_tokens,
    CAST(COALESCE(SUM(r.cost), 0) AS BIGINT) AS cost,
    CAST(COALESCE(SUM(r.estimated_cost), 0) AS BIGINT) AS estimated_cost,
    CAST(COALESCE(SUM(r.billed), 0) AS BIGINT) AS billed,
    CAST(COALESCE(SUM(r.list_cost), 0) AS BIGINT) AS list_cost,
    CAST(COALESCE(SUM(CASE WHEN r.fallback <> '' THEN r.requests ELSE 0 END), 0) AS BIGINT) AS fallbacks";

/// Rows in the shape of rollups, for what rollups do not know: sessions and prompts.
const ROWS: &str = "SELECT u.tenant_id, started_at AS bucket, mode, COALESCE(fallback, '') AS fallback, feature, COALESCE(model_served, model_asked) AS model,
        key_id, COALESCE(endpoint, '') AS endpoint, COALESCE(session, '') AS session, COALESCE(prompt, '') AS prompt,
        1 AS requests,
        CASE WHEN status IS NULL OR status >= 400 OR error_code IS NOT NULL THEN 1 ELSE 0 END AS failed,
        CASE WHEN state <> 'final' THEN 1 ELSE 0 END AS estimated, CASE WHEN unpriced IS TRUE AND a.usage_id IS NULL THEN 1 ELSE 0 END AS unpriced,
        input_tokens + audio_input_tokens + tool_tokens AS input_tokens, cache_read_tokens,
        cache_write_5m_tokens + cache_write_1h_tokens AS cache_write_tokens,
        output_tokens + audio_output_tokens AS output_tokens, u.cost + COALESCE(a.cost, 0) AS cost,
        CASE WHEN state <> 'final' THEN u.cost + COALESCE(a.cost, 0) ELSE 0 END AS estimated_cost,
        u.billed + COALESCE(a.billed, 0) AS billed,
        CASE WHEN u.rate_permille = 1000 THEN u.cost + COALESCE(a.cost, 0)
             ELSE (u.cost * 1000 + u.rate_permille / 2) / u.rate_permille
                 + (COALESCE(a.cost, 0) * 1000 + u.rate_permille / 2) / u.rate_permille END AS list_cost
    FROM usage u LEFT JOIN usage_adjustment a ON a.usage_id = u.id WHERE state <> 'pending'";

fn column(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Feature => "r.feature",
        Dimension::Model => "r.model",
        Dimension::Key => "COALESCE(k.name, '')",
        Dimension::Endpoint => "r.endpoint",
        Dimension::Session => "r.session",
        Dimension::Prompt => "r.prompt",
        Dimension::Mode => "r.mode",
    }
}

/// Sums over `from..to`. Both ends fall on quarter-hours.
pub async fn totals(tx: &mut Tx, scope: &Scope, from: Moment, to: Moment) -> Result<Totals, StorageError> {
    let sql = format!("SELECT {SUMS} FROM ({}) r", covered());
    let Cover { days_from, days_to, .. } = day_sums::cover(tx, scope, from, to).await?;
    let owner = scope.owner().as_uuid();
    fetch_one!(tx, Totals, AssertSqlSafe(sql), owner, from.0, days_from.0, days_to.0, to.0)
}

#[derive(sqlx::FromRow)]
struct BucketRow {
    bucket: i64,
    mode: String,
    #[sqlx(flatten)]
    totals: Totals,
}

/// Sums by day and mode. `days` are the beginnings of the days and, last, the end of the last one;
/// the result names days by their place in it, and a day in as many parts as it was read in.
pub async fn by_day(
    tx: &mut Tx,
    scope: &Scope,
    days: &[Moment],
) -> Result<Vec<(usize, UsageMode, Totals)>, StorageError> {
    let [from, .., to] = days else { return Ok(Vec::new()) };
    let sql = format!("SELECT r.bucket, r.mode, {SUMS} FROM ({}) r GROUP BY r.bucket, r.mode", covered());
    let Cover { days_from, days_to, .. } = day_sums::cover(tx, scope, *from, *to).await?;
    let owner = scope.owner().as_uuid();
    fetch_all!(tx, BucketRow, AssertSqlSafe(sql), owner, from.0, days_from.0, days_to.0, to.0)?
        .into_iter()
        .map(|row| {
            let mode = word!(UsageMode, row.mode, "usage_rollup", "mode")?;
            let day = days.partition_point(|start| start.0 <= row.bucket) - 1;
            Ok((day, mode, row.totals))
        })
        .collect()
}

#[derive(sqlx::FromRow)]
struct GroupRow {
    name: String,
    second: String,
    mode: String,
    #[sqlx(flatten)]
    totals: Totals,
}

/// What sums are asked for.
#[derive(Clone, Debug)]
pub struct Grouping<'a> {
    pub by: Dimension,
    pub then: Option<Dimension>,
    pub filters: &'a [Filter],
}

/// Sums of a group in one usage mode: by one dimension or two, the second name empty without it.
pub type Grouped = ((String, String), UsageMode, Totals);

/// Sums by one dimension or two, and by mode; the costliest first, at most `limit` of them.
pub async fn by_group(
    tx: &mut Tx,
    scope: &Scope,
    grouping: &Grouping<'_>,
    (from, to): (Moment, Moment),
    limit: i64,
) -> Result<Vec<Grouped>, StorageError> {
    let filtered = grouping.filters.iter().map(|(dimension, _)| *dimension);
    let all: Vec<Dimension> = filtered.chain([grouping.by]).chain(grouping.then).collect();
    let by_row = all.iter().any(|one| matches!(one, Dimension::Session | Dimension::Prompt));
    let source = if by_row { ROWS.to_owned() } else { covered() };
    let join = if all.contains(&Dimension::Key) { "LEFT JOIN provider_key k ON k.id = r.key_id" } else { "" };
    let name = column(grouping.by);
    let second = grouping.then.map_or("''", column);
    let also = grouping.then.map(|then| format!(", {}", column(then))).unwrap_or_default();
    let conditions: Vec<String> =
        (7..).zip(grouping.filters).map(|(at, (of, _))| format!("AND {} = ${at}", column(*of))).collect();
    let conditions = conditions.join(" ");
    let sql = format!(
        "SELECT {name} AS name, {second} AS second, r.mode AS mode, {SUMS} FROM ({source}) r {join}
         WHERE r.tenant_id = $1 AND r.bucket >= $2 AND r.bucket < $5 {conditions}
         GROUP BY {name}{also}, r.mode ORDER BY cost DESC, requests DESC, name LIMIT $6"
    );
    let Cover { days_from, days_to, .. } = day_sums::cover(tx, scope, from, to).await?;
    let rows: Vec<GroupRow> = on_backend!(tx, conn => {
        let mut query = sqlx::query_as(AssertSqlSafe(sql));
        query = query.bind(scope.owner().as_uuid()).bind(from.0).bind(days_from.0).bind(days_to.0);
        query = query.bind(to.0).bind(limit);
        for (_, value) in grouping.filters {
            query = query.bind(value);
        }
        query.fetch_all(conn).await
    })?;
    rows.into_iter()
        .map(|row| {
            Ok(((row.name, row.second), word!(UsageMode, row.mode, "usage_rollup", "mode")?, row.totals))
        })
        .collect()
}

/// What each of the tenant's keys cost over `from..to`.
pub async fn cost_by_key(
    tx: &mut Tx,
    scope: &Scope,
    (from, to): (Moment, Moment),
) -> Result<Vec<(KeyId, Nanos)>, StorageError> {
    let sql = format!(
        "SELECT r.key_id, CAST(COALESCE(SUM(r.cost), 0) AS BIGINT) FROM ({}) r GROUP BY r.key_id",
        covered()
    );
    let Cover { days_from, days_to, .. } = day_sums::cover(tx, scope, from, to).await?;
    let owner = scope.owner().as_uuid();
    let rows = fetch_all!(tx, (Uuid, i64), AssertSqlSafe(sql), owner, from.0, days_from.0, days_to.0, to.0)?;
    Ok(rows.into_iter().map(|(key, cost)| (KeyId(key), Nanos(cost))).collect())
}

/// Models without a price that were used over `from..to`, with the number of their requests.
pub async fn unpriced_models(
    tx: &mut Tx,
    scope: &Scope,
    (from, to): (Moment, Moment),
) -> Result<Vec<(String, i64)>, StorageError> {
    let sql = format!(
        "SELECT r.model, CAST(SUM(r.unpriced) AS BIGINT) FROM ({}) r
         WHERE r.unpriced > 0 GROUP BY r.model ORDER BY r.model",
        covered()
    );
    let Cover { days_from, days_to, .. } = day_sums::cover(tx, scope, from, to).await?;
    let owner = scope.owner().as_uuid();
    fetch_all!(tx, (String, i64), AssertSqlSafe(sql), owner, from.0, days_from.0, days_to.0, to.0)
}

/// When each of some tenants last sent a request, to the quarter-hour, and what its requests since `from`
/// cost. By sums of days where there are any, as `day_sums::cover` has it for one tenant.
pub async fn latest_of_each(
    tx: &mut Tx,
    tenants: &[TenantId],
    from: Moment,
) -> Result<HashMap<TenantId, (Option<Moment>, Nanos)>, StorageError> {
    if tenants.is_empty() {
        return Ok(HashMap::new());
    }
    let list: Vec<String> = (2..).take(tenants.len()).map(|at| format!("${at}")).collect();
    let rollup = |from: &str, to: &str| {
        format!(
            "COALESCE((SELECT SUM(r.cost) FROM usage_rollup r
                       WHERE r.tenant_id = t.id AND r.bucket >= {from} AND r.bucket < {to}), 0)"
        )
    };
    let sql = format!(
        "SELECT t.id, (SELECT MAX(r.bucket) FROM usage_rollup r WHERE r.tenant_id = t.id),
             CAST({} + {} + COALESCE((SELECT SUM(d.cost) FROM usage_day d WHERE d.tenant_id = t.id AND d.bucket >= $1
                                          AND d.day_end <= t.summed_through), 0) AS BIGINT)
         FROM (SELECT t.id, t.summed_through,
                   (SELECT MIN(d.bucket) FROM usage_day d WHERE d.tenant_id = t.id AND d.bucket >= $1
                        AND d.day_end <= t.summed_through) AS first,
                   (SELECT MAX(d.day_end) FROM usage_day d WHERE d.tenant_id = t.id AND d.bucket >= $1
                        AND d.day_end <= t.summed_through) AS last
               FROM tenant t WHERE t.id IN ({})) t",
        rollup("$1", "t.first"),
        rollup("COALESCE(t.last, $1)", &i64::MAX.to_string()),
        list.join(", ")
    );
    let rows: Vec<(Uuid, Option<i64>, i64)> = on_backend!(tx, conn => {
        let mut query = sqlx::query_as(AssertSqlSafe(sql)).bind(from.0);
        for tenant in tenants {
            query = query.bind(tenant.0);
        }
        query.fetch_all(conn).await
    })?;
    Ok(rows
        .into_iter()
        .map(|(tenant, last, cost)| (TenantId(tenant), (last.map(Moment), Nanos(cost))))
        .collect())
}
