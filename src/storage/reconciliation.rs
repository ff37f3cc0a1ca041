//! Keys that read an organisation's usage at a provider, what they read, and Keyward's own books in
//! the same shape. Columns called `tenant_id` hold an owner: the platform is the nil id.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::Owner;
use crate::domain::money::Nanos;
use crate::domain::provider_key::Provider;
use crate::domain::reconcile::{KnownKey, Recorded, Reported};

/// What is known of a report key; its secret is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportKey {
    pub owner: Owner,
    pub provider: Provider,
    pub hint: String,
    pub created_at: Moment,
    pub created_by: String,
    pub fetched_at: Option<Moment>,
    /// Why the last fetch failed; empty if it did not.
    pub failure: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    tenant_id: Uuid,
    provider: String,
    hint: String,
    created_at: i64,
    created_by: String,
    fetched_at: Option<i64>,
    failure: String,
}

const COLUMNS: &str = "tenant_id, provider, hint, created_at, created_by, fetched_at, failure";

impl TryFrom<Row> for ReportKey {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        Ok(Self {
            owner: Owner::from_uuid(row.tenant_id),
            provider: word!(Provider, row.provider, "report_key", "provider")?,
            hint: row.hint,
            created_at: Moment(row.created_at),
            created_by: row.created_by,
            fetched_at: row.fetched_at.map(Moment),
            failure: row.failure,
        })
    }
}

/// Puts a report key in place of the one that was there, to be read from `next_at` on.
pub async fn put_key(
    tx: &mut Tx,
    key: &ReportKey,
    sealed: &[u8],
    next_at: Moment,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO report_key (tenant_id, provider, sealed, hint, created_at, created_by, next_at, failure)
         VALUES ($1, $2, $3, $4, $5, $6, $7, '')
         ON CONFLICT (tenant_id, provider) DO UPDATE SET sealed = excluded.sealed, hint = excluded.hint,
             created_at = excluded.created_at, created_by = excluded.created_by,
             next_at = excluded.next_at, fetched_at = NULL, failure = ''",
        key.owner.as_uuid(),
        key.provider.as_str(),
        sealed,
        &key.hint,
        key.created_at.0,
        &key.created_by,
        next_at.0
    )?;
    Ok(())
}

pub async fn keys(tx: &mut Tx, scope: &Scope) -> Result<Vec<ReportKey>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM report_key WHERE tenant_id = $1 ORDER BY provider");
    let rows = fetch_all!(tx, Row, sqlx::AssertSqlSafe(sql), scope.owner().as_uuid())?;
    rows.into_iter().map(ReportKey::try_from).collect()
}

pub async fn sealed(tx: &mut Tx, scope: &Scope, provider: Provider) -> Result<Option<Vec<u8>>, StorageError> {
    let sql = "SELECT sealed FROM report_key WHERE tenant_id = $1 AND provider = $2";
    let row = fetch_optional!(tx, (Vec<u8>,), sql, scope.owner().as_uuid(), provider.as_str())?;
    Ok(row.map(|(sealed,)| sealed))
}

/// Removes a report key and what it read; false if there was none.
pub async fn delete_key(tx: &mut Tx, scope: &Scope, provider: Provider) -> Result<bool, StorageError> {
    let owner = scope.owner().as_uuid();
    for sql in [
        "DELETE FROM provider_report WHERE tenant_id = $1 AND provider = $2",
        "DELETE FROM recorded_use WHERE tenant_id = $1 AND provider = $2",
    ] {
        execute!(tx, sql, owner, provider.as_str())?;
    }
    let sql = "DELETE FROM report_key WHERE tenant_id = $1 AND provider = $2";
    Ok(execute!(tx, sql, owner, provider.as_str())? > 0)
}

/// Takes a key whose time has come; nobody else takes it before `lease`.
pub async fn take_due(tx: &mut Tx, now: Moment, lease: Moment) -> Result<Option<ReportKey>, StorageError> {
    let sql = format!(
        "UPDATE report_key SET next_at = $1 WHERE next_at <= $2 AND (tenant_id, provider) IN
             (SELECT tenant_id, provider FROM report_key WHERE next_at <= $2 ORDER BY next_at LIMIT 1)
         RETURNING {COLUMNS}"
    );
    let row = fetch_optional!(tx, Row, sqlx::AssertSqlSafe(sql), lease.0, now.0)?;
    row.map(ReportKey::try_from).transpose()
}

/// Notes a fetch: when, why it failed if it did, and when the next is due.
pub async fn note_fetch(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
    fetched_at: Option<Moment>,
    failure: &str,
    next_at: Moment,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "UPDATE report_key SET fetched_at = COALESCE($1, fetched_at), failure = $2, next_at = $3
         WHERE tenant_id = $4 AND provider = $5",
        fetched_at.map(|at| at.0),
        failure,
        next_at.0,
        scope.owner().as_uuid(),
        provider.as_str()
    )?;
    Ok(())
}

/// Removes what was reported of these days. Until it is noted that the report was read again, none was.
pub async fn clear_report(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
    (from, to): (Moment, Moment),
) -> Result<(), StorageError> {
    let owner = scope.owner().as_uuid();
    let sql = "DELETE FROM provider_report WHERE tenant_id = $1 AND provider = $2 AND day >= $3 AND day < $4";
    execute!(tx, sql, owner, provider.as_str(), from.0, to.0)?;
    let sql = "UPDATE report_key SET fetched_at = NULL WHERE tenant_id = $1 AND provider = $2";
    execute!(tx, sql, owner, provider.as_str())?;
    Ok(())
}

/// Adds to a report, or replaces what is there of the same key, model and day.
pub async fn insert_report(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
    report: &[Reported],
) -> Result<(), StorageError> {
    let owner = scope.owner().as_uuid();
    for one in report {
        execute!(
            tx,
            "INSERT INTO provider_report (tenant_id, provider, day, api_key, model, key_name, key_hint,
                                          requests, tokens, cost, fetched_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (tenant_id, provider, day, api_key, model) DO UPDATE SET key_name = excluded.key_name,
                 key_hint = excluded.key_hint, requests = excluded.requests, tokens = excluded.tokens,
                 cost = excluded.cost, fetched_at = excluded.fetched_at",
            owner,
            provider.as_str(),
            one.day.0,
            &one.api_key,
            &one.model,
            &one.key_name,
            &one.key_hint,
            one.requests,
            one.tokens,
            one.cost.map(|cost| cost.0),
            one.fetched_at.0
        )?;
    }
    Ok(())
}

type ReportRow = (i64, String, String, String, String, Option<i64>, i64, Option<i64>, i64);

/// What a provider reported of the days from `from` up to `to`.
pub async fn report(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
    (from, to): (Moment, Moment),
) -> Result<Vec<Reported>, StorageError> {
    let sql = "SELECT day, api_key, model, key_name, key_hint, requests, tokens, cost, fetched_at
               FROM provider_report WHERE tenant_id = $1 AND provider = $2 AND day >= $3 AND day < $4";
    let rows = fetch_all!(tx, ReportRow, sql, scope.owner().as_uuid(), provider.as_str(), from.0, to.0)?;
    let read = |(day, api_key, model, key_name, key_hint, requests, tokens, cost, fetched_at): ReportRow| {
        let (day, cost, fetched_at) = (Moment(day), cost.map(Nanos), Moment(fetched_at));
        Reported { day, api_key, model, key_name, key_hint, requests, tokens, cost, fetched_at }
    };
    Ok(rows.into_iter().map(read).collect())
}

type UseRow = (i64, String, i32, String, i64, i64, i64, i64, i64);

fn used((day, key_name, version, model, requests, tokens, cost, estimated, unpriced): UseRow) -> Recorded {
    let (day, cost) = (Moment(day), Nanos(cost));
    Recorded { day, key_name, version, model, requests, tokens, cost, estimated, unpriced }
}

/// What there is to add up of one UTC day, by key version and model.
macro_rules! ledger {
    ($rows:literal, $mode:literal) => {
        concat!(
            "SELECT CAST($2 AS BIGINT) AS day, u.key_name, u.key_version,
                    COALESCE(u.model_served, u.model_asked) AS model, COUNT(*) AS requests,
                    CAST(COALESCE(SUM(u.input_tokens + u.cache_read_tokens + u.cache_write_5m_tokens
                        + u.cache_write_1h_tokens + u.output_tokens + u.audio_input_tokens
                        + u.audio_output_tokens + u.tool_tokens), 0) AS BIGINT) AS tokens,
                    CAST(COALESCE(SUM(u.cost + COALESCE(a.cost, 0)), 0) AS BIGINT) AS cost,
                    CAST(SUM(CASE WHEN u.state <> 'final' THEN 1 ELSE 0 END) AS BIGINT) AS estimated,
                    CAST(SUM(CASE WHEN u.unpriced IS TRUE AND a.usage_id IS NULL THEN 1 ELSE 0 END) AS BIGINT) AS unpriced
             FROM ",
            $rows,
            " LEFT JOIN usage_adjustment a ON a.usage_id = u.id
             WHERE u.tenant_id = t.id AND u.started_at >= $2 AND u.started_at < $3 AND u.mode = '",
            $mode,
            "' AND u.provider = $4 AND u.state <> 'pending'
             GROUP BY u.key_name, u.key_version, COALESCE(u.model_served, u.model_asked)"
        )
    };
}

/// Adds up what went out on the owner's own keys on one UTC day: a tenant's from its rows, the
/// platform's from those of every tenant that used a shared key.
pub async fn add_up(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
    day: Moment,
) -> Result<Vec<Recorded>, StorageError> {
    let sql = match scope.tenant() {
        Some(_) => ledger!("(SELECT id FROM tenant WHERE id = $1) t CROSS JOIN usage u", "byok"),
        // Tenant by tenant, since that is how rows are found by their time; none has the nil id.
        None => ledger!("(SELECT id FROM tenant WHERE id <> $1) t CROSS JOIN usage u", "managed"),
    };
    let (owner, to) = (scope.owner().as_uuid(), day.plus(DAY));
    let rows = fetch_all!(tx, UseRow, sql, owner, day.0, to.0, provider.as_str())?;
    Ok(rows.into_iter().map(used).collect())
}

/// The UTC days of the owner's requests that were rated again since a moment.
pub async fn days_rated_again(
    tx: &mut Tx,
    scope: &Scope,
    since: Moment,
) -> Result<Vec<Moment>, StorageError> {
    let of_tenant = if scope.tenant().is_some() { "a.tenant_id = $3" } else { "a.tenant_id <> $3" };
    let sql = format!(
        "SELECT DISTINCT (u.started_at / $1) * $1 FROM usage_adjustment a JOIN usage u ON u.id = a.usage_id
         WHERE a.at >= $2 AND {of_tenant}"
    );
    let owner = scope.owner().as_uuid();
    let days = fetch_all!(tx, (i64,), sqlx::AssertSqlSafe(sql), DAY, since.0, owner)?;
    Ok(days.into_iter().map(|(day,)| Moment(day)).collect())
}

/// Keeps what was added up of these days, in place of what was kept of them before.
pub async fn keep_use(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
    days: &[Moment],
    uses: &[Recorded],
) -> Result<(), StorageError> {
    let owner = scope.owner().as_uuid();
    for day in days {
        let sql = "DELETE FROM recorded_use WHERE tenant_id = $1 AND provider = $2 AND day = $3";
        execute!(tx, sql, owner, provider.as_str(), day.0)?;
    }
    for one in uses {
        execute!(
            tx,
            "INSERT INTO recorded_use (tenant_id, provider, day, key_name, key_version, model, requests, tokens,
                                       cost, estimated, unpriced)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (tenant_id, provider, day, key_name, key_version, model) DO UPDATE SET
                 requests = excluded.requests, tokens = excluded.tokens, cost = excluded.cost,
                 estimated = excluded.estimated, unpriced = excluded.unpriced",
            owner,
            provider.as_str(),
            one.day.0,
            &one.key_name,
            one.version,
            &one.model,
            one.requests,
            one.tokens,
            one.cost.0,
            one.estimated,
            one.unpriced
        )?;
    }
    Ok(())
}

/// What Keyward had recorded of the days from `from` up to `to` when the report was last read.
pub async fn recorded(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
    (from, to): (Moment, Moment),
) -> Result<Vec<Recorded>, StorageError> {
    let sql = "SELECT day, key_name, key_version, model, requests, tokens, cost, estimated, unpriced
               FROM recorded_use WHERE tenant_id = $1 AND provider = $2 AND day >= $3 AND day < $4";
    let owner = scope.owner().as_uuid();
    Ok(fetch_all!(tx, UseRow, sql, owner, provider.as_str(), from.0, to.0)?.into_iter().map(used).collect())
}

type KnownRow = (String, i32, String, String, i64, String);

/// Every version of the owner's keys at a provider, removed ones too, the newest first.
pub async fn known_keys(
    tx: &mut Tx,
    scope: &Scope,
    provider: Provider,
) -> Result<Vec<KnownKey>, StorageError> {
    let sql = "SELECT k.name, v.version, v.hint, v.fingerprint, v.created_at, COALESCE(v.custom_url, '') FROM provider_key k JOIN key_version v ON v.key_id = k.id
               WHERE k.owner_id = $1 AND k.provider = $2 ORDER BY v.created_at DESC";
    let rows = fetch_all!(tx, KnownRow, sql, scope.owner().as_uuid(), provider.as_str())?;
    let read = |(name, version, hint, fingerprint, since, url): KnownRow| KnownKey {
        name,
        version,
        hint,
        fingerprint,
        since: Moment(since),
        is_elsewhere: !url.is_empty(),
    };
    Ok(rows.into_iter().map(read).collect())
}

pub async fn delete_before(tx: &mut Tx, before: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM recorded_use WHERE day < $1", before.0)?;
    execute!(tx, "DELETE FROM provider_report WHERE day < $1", before.0)
}
