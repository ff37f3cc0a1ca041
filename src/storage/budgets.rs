//! Budgets: a month's limit on the spend of a tenant, or of one of its keys.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, word};
use crate::access::scope::Scope;
use crate::domain::billing::{Budget, OnReach, Period};
use crate::domain::clock::Moment;
use crate::domain::ids::{BudgetId, KeyId, TenantId};
use crate::domain::money::Nanos;

const COLUMNS: &str =
    "id, tenant_id, key_id, amount, on_reach, warn_at, priced_only, period_start, period_end,
    spent, held, warned, refused_at";

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    key_id: Option<Uuid>,
    amount: i64,
    on_reach: String,
    warn_at: String,
    priced_only: bool,
    period_start: i64,
    period_end: i64,
    spent: i64,
    held: i64,
    warned: i64,
    refused_at: Option<i64>,
}

/// A budget with whose it is, and the highest percentage that was told in its period.
#[derive(Clone, Debug)]
pub struct Watched {
    pub tenant: TenantId,
    pub budget: Budget,
    pub warned: u8,
}

impl TryFrom<Row> for Watched {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        let bad = StorageError::BadRow { table: "budget", column: "warn_at" };
        Ok(Self {
            tenant: TenantId(row.tenant_id),
            budget: Budget {
                id: BudgetId(row.id),
                key: row.key_id.map(KeyId),
                amount: Nanos(row.amount),
                on_reach: word!(OnReach, row.on_reach, "budget", "on_reach")?,
                warn_at: serde_json::from_str(&row.warn_at).map_err(|_| bad)?,
                priced_only: row.priced_only,
                spent: Nanos(row.spent),
                held: Nanos(row.held),
                period: Period { start: Moment(row.period_start), end: Moment(row.period_end) },
                refused_at: row.refused_at.map(Moment),
            },
            warned: u8::try_from(row.warned).unwrap_or(u8::MAX),
        })
    }
}

/// The tenant's budgets, its own first.
pub async fn list(tx: &mut Tx, scope: &Scope) -> Result<Vec<Budget>, StorageError> {
    let sql = select(" WHERE tenant_id = $1 ORDER BY key_id IS NOT NULL, id");
    let rows = fetch_all!(tx, Row, sqlx::AssertSqlSafe(sql), scope.owner().as_uuid())?;
    rows.into_iter().map(|row| Watched::try_from(row).map(|watched| watched.budget)).collect()
}

/// Every budget, for the job that looks after them.
pub async fn all(tx: &mut Tx) -> Result<Vec<Watched>, StorageError> {
    let rows = fetch_all!(tx, Row, sqlx::AssertSqlSafe(select(" ORDER BY id")))?;
    rows.into_iter().map(Watched::try_from).collect()
}

fn select(rest: &str) -> String {
    format!("SELECT {COLUMNS} FROM budget{rest}")
}

/// Writes a budget, in place of the one that the tenant, or the key, had: that one's row stays, since
/// settlements may be waiting for it.
pub async fn put(
    tx: &mut Tx,
    scope: &Scope,
    budget: &Budget,
    next_end: Moment,
) -> Result<BudgetId, StorageError> {
    let target = if budget.key.is_some() {
        "(tenant_id, key_id) WHERE key_id IS NOT NULL"
    } else {
        "(tenant_id) WHERE key_id IS NULL"
    };
    let sql = format!(
        "INSERT INTO budget (id, tenant_id, key_id, amount, on_reach, warn_at, priced_only, period_start,
                             period_end, next_end, spent, held, warned)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, 0, 0)
         ON CONFLICT {target} DO UPDATE SET amount = excluded.amount, on_reach = excluded.on_reach,
            warn_at = excluded.warn_at, priced_only = excluded.priced_only, warned = 0, refused_at = NULL
         RETURNING id"
    );
    let warn_at = serde_json::to_string(&budget.warn_at).unwrap_or_default();
    let (id,) = fetch_one!(
        tx,
        (Uuid,),
        sqlx::AssertSqlSafe(sql),
        budget.id.0,
        scope.owner().as_uuid(),
        budget.key.map(|key| key.0),
        budget.amount.0,
        budget.on_reach.as_str(),
        &warn_at,
        budget.priced_only,
        budget.period.start.0,
        budget.period.end.0,
        next_end.0
    )?;
    Ok(BudgetId(id))
}

/// Removes the budget of the tenant, or of a key; false if there was none.
pub async fn delete(tx: &mut Tx, scope: &Scope, key: Option<KeyId>) -> Result<bool, StorageError> {
    let owner = scope.owner().as_uuid();
    let gone = match key {
        Some(key) => execute!(tx, "DELETE FROM budget WHERE tenant_id = $1 AND key_id = $2", owner, key.0)?,
        None => execute!(tx, "DELETE FROM budget WHERE tenant_id = $1 AND key_id IS NULL", owner)?,
    };
    Ok(gone > 0)
}

/// What is recorded of a budget: what was spent in a period, and what pending rows hold.
pub async fn count(
    tx: &mut Tx,
    tenant: TenantId,
    key: Option<KeyId>,
    period: Period,
) -> Result<(Nanos, Nanos), StorageError> {
    let (tenant, key) = (tenant.0, key.map(|key| key.0));
    let sql = "SELECT CAST(COALESCE(SUM(cost), 0) AS BIGINT) FROM usage_rollup
               WHERE tenant_id = $1 AND bucket >= $2 AND bucket < $3 AND (key_id = $4 OR $5 IS NULL)";
    let (spent,): (i64,) = fetch_one!(tx, (i64,), sql, tenant, period.start.0, period.end.0, key, key)?;
    let sql = "SELECT CAST(COALESCE(SUM(held), 0) AS BIGINT) FROM usage
               WHERE state = 'pending' AND tenant_id = $1 AND (key_id = $2 OR $3 IS NULL)";
    let (held,): (i64,) = fetch_one!(tx, (i64,), sql, tenant, key, key)?;
    Ok((Nanos(spent), Nanos(held)))
}

/// Counts a budget anew from what is recorded, in its period, and gives what was spent. The row is
/// locked first, so that no settlement is missed or counted twice.
pub async fn true_up(
    tx: &mut Tx,
    tenant: TenantId,
    budget: &Budget,
    next_end: Moment,
) -> Result<Nanos, StorageError> {
    let (period, id) = (budget.period, budget.id.0);
    // What was told and refused belongs to the period that it was in.
    let sql = "UPDATE budget SET warned = CASE WHEN period_start = $1 THEN warned ELSE 0 END,
                      refused_at = CASE WHEN period_start = $1 THEN refused_at END,
                      period_start = $1, period_end = $2, next_end = $3 WHERE id = $4";
    execute!(tx, sql, period.start.0, period.end.0, next_end.0, id)?;
    let (spent, held) = count(tx, tenant, budget.key, period).await?;
    let sql = "UPDATE budget SET spent = $1, held = $2 WHERE id = $3";
    execute!(tx, sql, spent.0, held.0, id)?;
    Ok(spent)
}

/// Notes the percentage that people were told of; false if another process was first.
pub async fn set_warned(tx: &mut Tx, id: BudgetId, from: u8, to: u8) -> Result<bool, StorageError> {
    let sql = "UPDATE budget SET warned = $1 WHERE id = $2 AND warned = $3";
    Ok(execute!(tx, sql, i64::from(to), id.0, i64::from(from))? > 0)
}
