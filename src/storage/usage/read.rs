//! Rows as they are read again.

use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::write::COLUMNS;
use crate::domain::billing::{Fallback, Funding, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::ids::{InstanceId, KeyId, PriceId, RequestId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::price::Multiplier;
use crate::domain::provider_key::Provider;
use crate::domain::usage::{
    Dialect, Dimension, Filter, Labels, ServedAs, ServiceTier, Speed, TokenUsage, UsageRow, UsageState,
};
use crate::storage::{StorageError, Tx, on_backend, word};

/// Reads a row of either database. A macro, since the two row types share no trait to name.
macro_rules! read {
    ($row:expr) => {{
        let row = $row;
        let text = |column: &str| row.try_get::<String, _>(column);
        Ok::<UsageRow, StorageError>(UsageRow {
            id: RequestId(row.try_get("id")?),
            tenant_id: TenantId(row.try_get("tenant_id")?),
            instance: InstanceId(row.try_get("instance")?),
            started_at: Moment(row.try_get("started_at")?),
            ended_at: row.try_get::<Option<i64>, _>("ended_at")?.map(Moment),
            feature: text("feature")?,
            provider: word!(Provider, text("provider")?, "usage", "provider")?,
            dialect: word!(Dialect, text("dialect")?, "usage", "dialect")?,
            key_id: KeyId(row.try_get("key_id")?),
            key_name: text("key_name")?,
            key_version: row.try_get("key_version")?,
            mode: word!(UsageMode, text("mode")?, "usage", "mode")?,
            funding: word!(Funding, text("funding")?, "usage", "funding")?,
            fallback: row.try_get::<Option<String>, _>("fallback")?.and_then(|word| Fallback::parse(&word)),
            model_asked: text("model_asked")?,
            model_served: row.try_get("model_served")?,
            labels: Labels {
                endpoint: row.try_get("endpoint")?,
                session: row.try_get("session")?,
                prompt: row.try_get("prompt")?,
            },
            tokens: TokenUsage {
                input: unsigned(row.try_get("input_tokens")?),
                cache_read: unsigned(row.try_get("cache_read_tokens")?),
                cache_write_5m: unsigned(row.try_get("cache_write_5m_tokens")?),
                cache_write_1h: unsigned(row.try_get("cache_write_1h_tokens")?),
                output: unsigned(row.try_get("output_tokens")?),
                reasoning: unsigned(row.try_get("reasoning_tokens")?),
                web_searches: unsigned(row.try_get("web_searches")?),
                audio_input: unsigned(row.try_get("audio_input_tokens")?),
                audio_output: unsigned(row.try_get("audio_output_tokens")?),
                tool: unsigned(row.try_get("tool_tokens")?),
            },
            served_as: ServedAs {
                tier: word!(ServiceTier, text("service_tier")?, "usage", "service_tier")?,
                speed: word!(Speed, text("speed")?, "usage", "speed")?,
                us_only: row.try_get("us_only")?,
            },
            raw_usage: row.try_get("raw_usage")?,
            price_id: row.try_get::<Option<Uuid>, _>("price_id")?.map(PriceId),
            rate: Multiplier(row.try_get("rate_permille")?),
            cost: Nanos(row.try_get("cost")?),
            billed: Nanos(row.try_get("billed")?),
            held: Nanos(row.try_get("held")?),
            unpriced: row.try_get("unpriced")?,
            state: word!(UsageState, text("state")?, "usage", "state")?,
            status: row.try_get::<Option<i32>, _>("status")?.and_then(|status| u16::try_from(status).ok()),
            error_code: row.try_get("error_code")?,
            first_byte_us: row.try_get("first_byte_us")?,
            total_us: row.try_get("total_us")?,
        })
    }};
}

/// Which of these rows are settled already: for a batch whose commit may or may not have arrived.
pub async fn settled_among(tx: &mut Tx, ids: &[RequestId]) -> Result<Vec<RequestId>, StorageError> {
    let mut settled = Vec::new();
    for chunk in ids.chunks(64) {
        let list: Vec<String> = (1..=chunk.len()).map(|i| format!("${i}")).collect();
        let sql = format!("SELECT id FROM usage WHERE state <> 'pending' AND id IN ({})", list.join(", "));
        let found: Vec<Uuid> = on_backend!(tx, conn => {
            let mut query = sqlx::query_scalar(AssertSqlSafe(sql));
            for id in chunk {
                query = query.bind(id.0);
            }
            query.fetch_all(conn).await
        })?;
        settled.extend(found.into_iter().map(RequestId));
    }
    Ok(settled)
}

/// Pending rows of processes whose heart has not beaten since `dead_before`, `own` aside; and all
/// that have been pending since before `lost_before`.
pub async fn orphans(
    tx: &mut Tx,
    own: InstanceId,
    dead_before: Moment,
    lost_before: Moment,
    limit: i64,
) -> Result<Vec<UsageRow>, StorageError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM usage WHERE state = 'pending' AND (started_at < $3 OR (instance <> $1
         AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.id = usage.instance AND i.beat_at >= $2))) LIMIT $4"
    );
    on_backend!(tx, conn => {
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(own.0).bind(dead_before.0).bind(lost_before.0).bind(limit).fetch_all(conn).await?;
        rows.iter().map(|row| read!(row)).collect()
    })
}

/// What filters ask of a row; their values are parameters from 7 on.
fn conditions(filters: &[Filter]) -> String {
    let column = |dimension| match dimension {
        Dimension::Feature => "feature",
        Dimension::Model => "COALESCE(model_served, model_asked)",
        Dimension::Key => "key_name",
        Dimension::Endpoint => "COALESCE(endpoint, '')",
        Dimension::Session => "COALESCE(session, '')",
        Dimension::Prompt => "COALESCE(prompt, '')",
        Dimension::Mode => "mode",
    };
    let all: Vec<String> =
        (7..).zip(filters).map(|(at, (of, _))| format!("AND {} = ${at}", column(*of))).collect();
    all.join(" ")
}

/// A tenant's rows that started in `from..to` and after `after`, oldest first: one page of a download.
pub async fn page(
    tx: &mut Tx,
    tenant: TenantId,
    from: Moment,
    to: Moment,
    filters: &[Filter],
    after: Option<(Moment, RequestId)>,
    limit: i64,
) -> Result<Vec<UsageRow>, StorageError> {
    let (after_at, after_id) = after.unwrap_or((Moment(i64::MIN), RequestId(Uuid::nil())));
    let sql = format!(
        "SELECT {COLUMNS} FROM usage WHERE tenant_id = $1 AND started_at >= $2 AND started_at < $3
         AND (started_at > $4 OR (started_at = $4 AND id > $5)) {}
         ORDER BY started_at, id LIMIT $6",
        conditions(filters)
    );
    let from = from.max(after_at);
    on_backend!(tx, conn => {
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant.0).bind(from.0).bind(to.0).bind(after_at.0).bind(after_id.0).bind(limit);
        for (_, value) in filters {
            query = query.bind(value);
        }
        let rows = query.fetch_all(conn).await?;
        rows.iter().map(|row| read!(row)).collect()
    })
}

/// A tenant's settled rows that started in `from..to` and before `before`, newest first.
pub async fn latest(
    tx: &mut Tx,
    tenant: TenantId,
    (from, to): (Moment, Moment),
    filters: &[Filter],
    before: Option<(Moment, RequestId)>,
    limit: i64,
) -> Result<Vec<UsageRow>, StorageError> {
    let (before_at, before_id) = before.unwrap_or((Moment(i64::MAX), RequestId(Uuid::max())));
    let sql = format!(
        "SELECT {COLUMNS} FROM usage WHERE tenant_id = $1 AND started_at >= $2 AND started_at < $3
         AND (started_at < $4 OR (started_at = $4 AND id < $5)) AND state <> 'pending' {}
         ORDER BY started_at DESC, id DESC LIMIT $6",
        conditions(filters)
    );
    let to = Moment(to.0.min(before_at.0.saturating_add(1)));
    on_backend!(tx, conn => {
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant.0).bind(from.0).bind(to.0).bind(before_at.0).bind(before_id.0).bind(limit);
        for (_, value) in filters {
            query = query.bind(value);
        }
        let rows = query.fetch_all(conn).await?;
        rows.iter().map(|row| read!(row)).collect()
    })
}

/// Settled rows without a price and without an adjustment, by tenant and time, after one of them.
pub async fn unpriced(
    tx: &mut Tx,
    after: Option<(TenantId, Moment, RequestId)>,
    limit: i64,
) -> Result<Vec<UsageRow>, StorageError> {
    let (tenant, at, id) = after.unwrap_or((TenantId(Uuid::nil()), Moment(i64::MIN), RequestId(Uuid::nil())));
    let sql = format!(
        "SELECT {COLUMNS} FROM usage WHERE unpriced IS TRUE AND state <> 'pending'
         AND (tenant_id > $1 OR (tenant_id = $1 AND (started_at > $2 OR (started_at = $2 AND id > $3))))
         AND NOT EXISTS (SELECT 1 FROM usage_adjustment a WHERE a.usage_id = usage.id)
         ORDER BY tenant_id, started_at, id LIMIT $4"
    );
    on_backend!(tx, conn => {
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(tenant.0).bind(at.0).bind(id.0).bind(limit).fetch_all(conn).await?;
        rows.iter().map(|row| read!(row)).collect()
    })
}

/// The row of one request.
pub async fn find(tx: &mut Tx, id: RequestId) -> Result<Option<UsageRow>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM usage WHERE id = $1");
    on_backend!(tx, conn => {
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id.0).fetch_optional(conn).await?;
        row.map(|row| read!(&row)).transpose()
    })
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
