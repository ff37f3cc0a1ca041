//! Usage rows and their rollups: what the meter writes.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::OnceLock;

use sqlx::error::ErrorKind;
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::database::BEGIN_TO_WRITE;
use super::{Database, StorageError, Tx, on_backend, word};
use crate::domain::billing::{Fallback, Funding, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::ids::{InstanceId, KeyId, PriceId, RequestId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::provider_key::Provider;
use crate::domain::usage::{
    Dialect, Dimension, Filter, Labels, ServedAs, ServiceTier, Speed, TokenUsage, UsageRow, UsageState,
    bucket_of,
};

const COLUMNS: &str = "id, tenant_id, instance, started_at, ended_at, feature, provider, dialect, key_id, key_name,
    key_version, mode, funding, fallback, model_asked, model_served, endpoint, session, prompt, input_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, web_searches,
    service_tier, speed, us_only, raw_usage, price_id, cost, billed, unpriced, state, status, error_code,
    first_byte_us, total_us, audio_input_tokens, audio_output_tokens, tool_tokens, held";
const WIDTH: usize = 43;

/// What a settlement changes; the rest of a row is fixed when it is opened. One of a row that is
/// settled already would leave it without a state, which the table refuses.
const SETTLED: &str = "state = CASE usage.state WHEN 'pending' THEN excluded.state END, ended_at = excluded.ended_at, model_served = excluded.model_served,
    input_tokens = excluded.input_tokens, cache_read_tokens = excluded.cache_read_tokens,
    cache_write_5m_tokens = excluded.cache_write_5m_tokens, cache_write_1h_tokens = excluded.cache_write_1h_tokens,
    output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens,
    web_searches = excluded.web_searches, service_tier = excluded.service_tier, speed = excluded.speed,
    us_only = excluded.us_only, raw_usage = excluded.raw_usage, price_id = excluded.price_id, cost = excluded.cost,
    billed = excluded.billed, unpriced = excluded.unpriced, status = excluded.status,
    error_code = excluded.error_code, first_byte_us = excluded.first_byte_us, total_us = excluded.total_us,
    audio_input_tokens = excluded.audio_input_tokens, audio_output_tokens = excluded.audio_output_tokens,
    tool_tokens = excluded.tool_tokens";

/// Batches are cut into pieces of these sizes, so that few different statements are prepared.
const PIECES: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];
/// Their texts, written once: the longest is some 20 kB.
type Texts = [OnceLock<String>; PIECES.len()];
static UPSERT: [Texts; 2] = [const { [const { OnceLock::new() }; PIECES.len()] }; 2];
static ROLL_UP: [Texts; 2] = [const { [const { OnceLock::new() }; PIECES.len()] }; 2];
/// For SQLite: rows and, where there are any, rollups in one transaction.
static RECORD: [[OnceLock<String>; PIECES.len() + 1]; PIECES.len()] =
    [const { [const { OnceLock::new() }; PIECES.len() + 1] }; PIECES.len()];

/// The largest piece that so many rows fill: its place in `PIECES`, and its size.
fn piece_of(rows: usize) -> (usize, usize) {
    let index = PIECES.iter().position(|size| *size <= rows).unwrap_or(PIECES.len() - 1);
    (index, PIECES[index])
}

fn upsert_text(index: usize, numbered: bool) -> &'static str {
    UPSERT[usize::from(numbered)][index].get_or_init(|| {
        format!(
            "INSERT INTO usage ({COLUMNS}) VALUES {} ON CONFLICT (id) DO UPDATE SET {SETTLED}",
            placeholders(PIECES[index], WIDTH, numbered)
        )
    })
}

/// Binds a row's columns to a query of either database.
macro_rules! bind_row {
    ($query:expr, $row:expr) => {{
        let row: &UsageRow = $row;
        let tokens = &row.tokens;
        $query
            .bind(row.id.0)
            .bind(row.tenant_id.0)
            .bind(row.instance.0)
            .bind(row.started_at.0)
            .bind(row.ended_at.map(|at| at.0))
            .bind(&row.feature)
            .bind(row.provider.as_str())
            .bind(row.dialect.as_str())
            .bind(row.key_id.0)
            .bind(&row.key_name)
            .bind(row.key_version)
            .bind(row.mode.as_str())
            .bind(row.funding.as_str())
            .bind(row.fallback.map(Fallback::as_str))
            .bind(&row.model_asked)
            .bind(row.model_served.as_deref())
            .bind(row.labels.endpoint.as_deref())
            .bind(row.labels.session.as_deref())
            .bind(row.labels.prompt.as_deref())
            .bind(signed(tokens.input))
            .bind(signed(tokens.cache_read))
            .bind(signed(tokens.cache_write_5m))
            .bind(signed(tokens.cache_write_1h))
            .bind(signed(tokens.output))
            .bind(signed(tokens.reasoning))
            .bind(signed(tokens.web_searches))
            .bind(row.served_as.tier.as_str())
            .bind(row.served_as.speed.as_str())
            .bind(row.served_as.us_only)
            .bind(row.raw_usage.as_deref())
            .bind(row.price_id.map(|id| id.0))
            .bind(row.cost.0)
            .bind(row.billed.0)
            .bind(row.unpriced)
            .bind(row.state.as_str())
            .bind(row.status.map(i32::from))
            .bind(row.error_code.as_deref())
            .bind(row.first_byte_us)
            .bind(row.total_us)
            .bind(signed(tokens.audio_input))
            .bind(signed(tokens.audio_output))
            .bind(signed(tokens.tool))
            .bind(row.held.0)
    }};
}

/// Binds a rollup's columns to a query of either database.
macro_rules! bind_sums {
    ($query:expr, $key:expr, $sum:expr) => {{
        let (key, sum) = ($key, $sum);
        $query
            .bind(key.tenant.0)
            .bind(key.bucket.0)
            .bind(key.mode.as_str())
            .bind(key.fallback.map_or("", Fallback::as_str))
            .bind(key.feature)
            .bind(key.provider.as_str())
            .bind(key.model)
            .bind(key.key.0)
            .bind(key.endpoint)
            .bind(sum.requests)
            .bind(sum.failed)
            .bind(sum.estimated)
            .bind(sum.unpriced)
            .bind(sum.input)
            .bind(sum.cache_read)
            .bind(sum.cache_write)
            .bind(sum.output)
            .bind(sum.web_searches)
            .bind(sum.cost)
            .bind(sum.estimated_cost)
            .bind(sum.billed)
    }};
}

/// Writes rows and their rollups for the meter: new rows as they are, pending ones by their
/// settlement. On SQLite in a few short transactions, elsewhere in one; each row is in one with
/// its rollup. A batch names a row once.
///
/// # Errors
/// `Settled` when a row is settled already; some of the others may be written then.
pub async fn record<R: Borrow<UsageRow> + Sync>(db: &Database, rows: &[R]) -> Result<(), StorageError> {
    let Database::Sqlite(sqlite) = db else {
        let mut tx = db.meter().await?;
        upsert(&mut tx, rows).await?;
        roll_up(&mut tx, rows).await?;
        return tx.commit().await;
    };
    let mut rest = rows;
    while !rest.is_empty() {
        let (index, size) = piece_of(rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        let sums = sums_of(piece);
        // Lines that add nothing fill up to the next size: a few texts then do for all batches.
        let lines = sums.len().next_power_of_two();
        let roll_up = PIECES.iter().position(|size| *size == lines).filter(|_| !sums.is_empty());
        let text = RECORD[index][roll_up.unwrap_or(PIECES.len())].get_or_init(|| {
            let mut text = format!("{BEGIN_TO_WRITE}; {}", upsert_text(index, false));
            if let Some(roll_up) = roll_up {
                text.push_str("; ");
                text.push_str(roll_up_text(roll_up, false));
            }
            text.push_str("; COMMIT");
            text
        });
        let mut query = sqlx::query(text.as_str());
        for row in piece {
            query = bind_row!(query, row.borrow());
        }
        for (key, sum) in &sums {
            query = bind_sums!(query, key, sum);
        }
        if let Some((key, _)) = sums.last() {
            let nothing = Sums::default();
            for _ in sums.len()..lines {
                query = bind_sums!(query, key, &nothing);
            }
        }
        sqlite.meter_at_once(query).await.map_err(settled_already)?;
    }
    Ok(())
}

/// Writes rows: new ones as they are, pending ones by their settlement. A batch names a row once.
///
/// # Errors
/// `Settled` when a row is settled already.
pub async fn upsert<R: Borrow<UsageRow> + Sync>(tx: &mut Tx, rows: &[R]) -> Result<(), StorageError> {
    let mut rest = rows;
    while !rest.is_empty() {
        let (index, size) = piece_of(rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        let sql = upsert_text(index, numbered(tx));
        on_backend!(tx, conn => {
            let mut query = sqlx::query(sql);
            for row in piece {
                query = bind_row!(query, row.borrow());
            }
            query.execute(conn).await.map(|_| ())
        })
        .map_err(|error| settled_already(error.into()))?;
    }
    Ok(())
}

fn settled_already(error: StorageError) -> StorageError {
    match &error {
        StorageError::Database(sqlx::Error::Database(cause))
            if cause.kind() == ErrorKind::NotNullViolation =>
        {
            StorageError::Settled
        }
        _ => error,
    }
}

#[derive(PartialEq, Eq, Hash)]
struct RollupKey<'a> {
    tenant: TenantId,
    bucket: Moment,
    mode: UsageMode,
    fallback: Option<Fallback>,
    feature: &'a str,
    provider: Provider,
    model: &'a str,
    key: KeyId,
    endpoint: &'a str,
}

#[derive(Default)]
struct Sums {
    requests: i64,
    failed: i64,
    estimated: i64,
    unpriced: i64,
    input: i64,
    cache_read: i64,
    cache_write: i64,
    output: i64,
    web_searches: i64,
    cost: i64,
    estimated_cost: i64,
    billed: i64,
}

const ROLLUP_WIDTH: usize = 21;

/// What settled rows add to their rollups. In one order in every process: two that settle the same
/// buckets wait for each other instead of locking each other out.
fn sums_of<R: Borrow<UsageRow>>(rows: &[R]) -> Vec<(RollupKey<'_>, Sums)> {
    let mut sums: HashMap<RollupKey<'_>, Sums> = HashMap::new();
    for row in rows.iter().map(R::borrow).filter(|row| row.state != UsageState::Pending) {
        let key = RollupKey {
            tenant: row.tenant_id,
            bucket: bucket_of(row.started_at),
            mode: row.mode,
            fallback: row.fallback,
            feature: &row.feature,
            provider: row.provider,
            model: row.model(),
            key: row.key_id,
            endpoint: row.labels.endpoint.as_deref().unwrap_or_default(),
        };
        let sum = sums.entry(key).or_default();
        let guessed = row.state != UsageState::Final;
        sum.requests = sum.requests.saturating_add(1);
        sum.failed = sum.failed.saturating_add(i64::from(row.failed()));
        sum.estimated = sum.estimated.saturating_add(i64::from(guessed));
        sum.unpriced = sum.unpriced.saturating_add(i64::from(row.unpriced));
        sum.input = sum.input.saturating_add(
            signed(row.tokens.input) + signed(row.tokens.audio_input) + signed(row.tokens.tool),
        );
        sum.cache_read = sum.cache_read.saturating_add(signed(row.tokens.cache_read));
        sum.cache_write = sum
            .cache_write
            .saturating_add(signed(row.tokens.cache_write_5m) + signed(row.tokens.cache_write_1h));
        sum.output = sum.output.saturating_add(signed(row.tokens.output) + signed(row.tokens.audio_output));
        sum.web_searches = sum.web_searches.saturating_add(signed(row.tokens.web_searches));
        sum.cost = sum.cost.saturating_add(row.cost.0);
        sum.estimated_cost = sum.estimated_cost.saturating_add(if guessed { row.cost.0 } else { 0 });
        sum.billed = sum.billed.saturating_add(row.billed.0);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|(a, _), (b, _)| {
        (a.tenant, a.bucket, a.feature, a.model, a.key, a.endpoint, a.mode, a.fallback)
            .cmp(&(b.tenant, b.bucket, b.feature, b.model, b.key, b.endpoint, b.mode, b.fallback))
    });
    sums
}

/// Adds settled rows to their rollups. Belongs in the transaction that settles them.
pub async fn roll_up<R: Borrow<UsageRow> + Sync>(tx: &mut Tx, rows: &[R]) -> Result<(), StorageError> {
    let sums = sums_of(rows);
    let mut rest = sums.as_slice();
    while !rest.is_empty() {
        let (index, size) = piece_of(rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        let sql = roll_up_text(index, numbered(tx));
        on_backend!(tx, conn => {
            let mut query = sqlx::query(sql);
            for (key, sum) in piece {
                query = bind_sums!(query, key, sum);
            }
            query.execute(conn).await.map(|_| ())
        })?;
    }
    Ok(())
}

fn roll_up_text(index: usize, numbered: bool) -> &'static str {
    ROLL_UP[usize::from(numbered)][index].get_or_init(|| {
        format!(
            "INSERT INTO usage_rollup AS r (tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint,
            requests, failed, estimated, unpriced, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
            web_searches, cost, estimated_cost, billed)
         VALUES {}
         ON CONFLICT (tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint) DO UPDATE SET
            requests = r.requests + excluded.requests, failed = r.failed + excluded.failed,
            estimated = r.estimated + excluded.estimated, unpriced = r.unpriced + excluded.unpriced,
            input_tokens = r.input_tokens + excluded.input_tokens,
            cache_read_tokens = r.cache_read_tokens + excluded.cache_read_tokens,
            cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
            output_tokens = r.output_tokens + excluded.output_tokens,
            web_searches = r.web_searches + excluded.web_searches, cost = r.cost + excluded.cost,
            estimated_cost = r.estimated_cost + excluded.estimated_cost, billed = r.billed + excluded.billed",
            placeholders(PIECES[index], ROLLUP_WIDTH, numbered)
        )
    })
}

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

/// A tenant's rows that started in `from..to` and after `after`, oldest first: one page of a download.
pub async fn page(
    tx: &mut Tx,
    tenant: TenantId,
    from: Moment,
    to: Moment,
    after: Option<(Moment, RequestId)>,
    limit: i64,
) -> Result<Vec<UsageRow>, StorageError> {
    let (after_at, after_id) = after.unwrap_or((Moment(i64::MIN), RequestId(Uuid::nil())));
    let sql = format!(
        "SELECT {COLUMNS} FROM usage WHERE tenant_id = $1 AND started_at >= $2 AND started_at < $3
         AND (started_at > $4 OR (started_at = $4 AND id > $5)) ORDER BY started_at, id LIMIT $6"
    );
    let from = from.max(after_at);
    on_backend!(tx, conn => {
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant.0).bind(from.0).bind(to.0).bind(after_at.0).bind(after_id.0).bind(limit)
            .fetch_all(conn).await?;
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
    let column = |dimension| match dimension {
        Dimension::Feature => "feature",
        Dimension::Model => "COALESCE(model_served, model_asked)",
        Dimension::Key => "key_name",
        Dimension::Endpoint => "COALESCE(endpoint, '')",
        Dimension::Session => "COALESCE(session, '')",
        Dimension::Prompt => "COALESCE(prompt, '')",
        Dimension::Mode => "mode",
    };
    let conditions: Vec<String> =
        (7..).zip(filters).map(|(at, (of, _))| format!("AND {} = ${at}", column(*of))).collect();
    let sql = format!(
        "SELECT {COLUMNS} FROM usage WHERE tenant_id = $1 AND started_at >= $2 AND started_at < $3
         AND (started_at < $4 OR (started_at = $4 AND id < $5)) AND state <> 'pending' {}
         ORDER BY started_at DESC, id DESC LIMIT $6",
        conditions.join(" ")
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

/// Whether parameters have numbers. SQLite takes `$1` for a name and looks each one up in a list:
/// with thousands of them that takes most of the time that a batch has.
fn numbered(tx: &Tx) -> bool {
    matches!(tx, Tx::Postgres(_))
}

/// `($1, $2), ($3, $4)` or `(?, ?), (?, ?)` for two rows of two.
fn placeholders(rows: usize, width: usize, numbered: bool) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(rows * width * 6);
    for row in 0..rows {
        out.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..width {
            out.push_str(if column == 0 { "" } else { ", " });
            if numbered {
                let _ = write!(out, "${}", row * width + column + 1);
            } else {
                out.push('?');
            }
        }
        out.push(')');
    }
    out
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
