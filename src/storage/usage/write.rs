//! Rows and rollups as the meter writes them.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::sync::OnceLock;

use rusqlite::{CachedStatement, Connection, ToSql};
use sqlx::error::ErrorKind;

use crate::domain::billing::{Fallback, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::ids::{KeyId, TenantId};
use crate::domain::provider_key::Provider;
use crate::domain::usage::{UsageRow, UsageState, bucket_of};
use crate::storage::{StorageError, Tx, on_backend};

pub(super) const COLUMNS: &str = "id, tenant_id, instance, started_at, ended_at, feature, provider, dialect, key_id, key_name,
    key_version, mode, funding, fallback, model_asked, model_served, endpoint, session, prompt, input_tokens,
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, web_searches,
    service_tier, speed, us_only, raw_usage, price_id, cost, billed, unpriced, state, status, error_code,
    first_byte_us, total_us, audio_input_tokens, audio_output_tokens, tool_tokens, held, rate_permille";
const WIDTH: usize = 44;

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
            .bind(row.rate.0)
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
            .bind(sum.list_cost)
    }};
}

/// A statement of SQLite's, run on this thread.
struct AtOnceQuery<'s, 'c> {
    statement: &'s mut CachedStatement<'c>,
    next: usize,
    bound: rusqlite::Result<()>,
}

impl<'s, 'c> AtOnceQuery<'s, 'c> {
    fn of(statement: &'s mut CachedStatement<'c>) -> Self {
        Self { statement, next: 1, bound: Ok(()) }
    }

    fn bind(mut self, value: impl ToSql) -> Self {
        self.bound = self.bound.and_then(|()| self.statement.raw_bind_parameter(self.next, value));
        self.next += 1;
        self
    }

    fn run(self) -> rusqlite::Result<()> {
        self.bound?;
        self.statement.raw_execute().map(|_| ())
    }
}

/// Writes rows and their rollups as `upsert` and `roll_up` do, on this thread.
pub fn write_at_once(connection: &Connection, rows: &[&UsageRow]) -> Result<(), StorageError> {
    let single = PIECES.len() - 1;
    let mut upsert = connection.prepare_cached(upsert_text(single, false))?;
    for row in rows {
        bind_row!(AtOnceQuery::of(&mut upsert), row).run()?;
    }
    let mut roll_up = connection.prepare_cached(roll_up_text(single, false))?;
    for (key, sum) in sums_of(rows) {
        bind_sums!(AtOnceQuery::of(&mut roll_up), &key, &sum).run()?;
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
    list_cost: i64,
}

const ROLLUP_WIDTH: usize = 22;

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
        sum.list_cost = sum.list_cost.saturating_add(row.rate.list_of(row.cost).0);
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
            web_searches, cost, estimated_cost, billed, list_cost)
         VALUES {}
         ON CONFLICT (tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint) DO UPDATE SET
            requests = r.requests + excluded.requests, failed = r.failed + excluded.failed,
            estimated = r.estimated + excluded.estimated, unpriced = r.unpriced + excluded.unpriced,
            input_tokens = r.input_tokens + excluded.input_tokens,
            cache_read_tokens = r.cache_read_tokens + excluded.cache_read_tokens,
            cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
            output_tokens = r.output_tokens + excluded.output_tokens,
            web_searches = r.web_searches + excluded.web_searches, cost = r.cost + excluded.cost,
            estimated_cost = r.estimated_cost + excluded.estimated_cost, billed = r.billed + excluded.billed,
            list_cost = r.list_cost + excluded.list_cost",
            placeholders(PIECES[index], ROLLUP_WIDTH, numbered)
        )
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
