//! Prepaid credits: the account of a tenant and its ledger, which only grows.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::billing::{Credits, EntryKind, LedgerEntry};
use crate::domain::clock::Moment;
use crate::domain::ids::TenantId;
use crate::domain::money::Nanos;

/// A line to be entered.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'a> {
    pub at: Moment,
    pub kind: EntryKind,
    pub amount: Nanos,
    /// Entered once: a second line with the same reference is a conflict.
    pub reference: Option<&'a str>,
    pub note: &'a str,
    pub entered_by: &'a str,
}

/// The tenant's account; all zero where there is none yet.
pub async fn find(tx: &mut Tx, tenant: TenantId) -> Result<Credits, StorageError> {
    let sql = "SELECT balance, held, notify_below, refused_at FROM credit_account WHERE tenant_id = $1";
    let found = fetch_optional!(tx, (i64, i64, i64, Option<i64>), sql, tenant.0)?;
    Ok(found.map_or_else(Credits::default, |(balance, held, notify_below, refused_at)| Credits {
        balance: Nanos(balance),
        held: Nanos(held),
        notify_below: Nanos(notify_below),
        refused_at: refused_at.map(Moment),
    }))
}

/// Opens the account, if there is none.
pub async fn open(tx: &mut Tx, tenant: TenantId) -> Result<(), StorageError> {
    let sql = "INSERT INTO credit_account (tenant_id, balance, held, last_seq, notify_below)
               VALUES ($1, 0, 0, 0, 0) ON CONFLICT (tenant_id) DO NOTHING";
    execute!(tx, sql, tenant.0)?;
    Ok(())
}

/// Enters a line and gives the balance after it; the account stays locked until the commit.
pub async fn enter(tx: &mut Tx, tenant: TenantId, entry: &NewEntry<'_>) -> Result<Nanos, StorageError> {
    open(tx, tenant).await?;
    let sql = "UPDATE credit_account SET balance = balance + $1, last_seq = last_seq + 1,
                      refused_at = CASE WHEN $2 THEN NULL ELSE refused_at END
               WHERE tenant_id = $3 RETURNING balance, last_seq";
    let grows = entry.amount > Nanos::ZERO;
    let (balance, seq) = fetch_one!(tx, (i64, i64), sql, entry.amount.0, grows, tenant.0)?;
    insert(tx, tenant, seq, 0, entry).await?;
    Ok(Nanos(balance))
}

pub(super) const INSERT: &str =
    "INSERT INTO ledger_entry (tenant_id, seq, at, kind, amount, requests, reference, note, entered_by)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Writes a line under a number that was taken from the account.
pub(super) async fn insert(
    tx: &mut Tx,
    tenant: TenantId,
    seq: i64,
    requests: i64,
    entry: &NewEntry<'_>,
) -> Result<(), StorageError> {
    execute!(
        tx,
        INSERT,
        tenant.0,
        seq,
        entry.at.0,
        entry.kind.as_str(),
        entry.amount.0,
        requests,
        entry.reference,
        entry.note,
        entry.entered_by
    )?;
    Ok(())
}

/// Below which balance people are told.
pub async fn set_notify_below(tx: &mut Tx, scope: &Scope, below: Nanos) -> Result<(), StorageError> {
    let sql = "UPDATE credit_account SET notify_below = $1 WHERE tenant_id = $2";
    execute!(tx, sql, below.0, scope.owner().as_uuid())?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    at: i64,
    kind: String,
    amount: i64,
    requests: i64,
    note: String,
    entered_by: String,
}

/// The ledger's lines below a number, newest first.
pub async fn entries(
    tx: &mut Tx,
    scope: &Scope,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<LedgerEntry>, StorageError> {
    let sql = "SELECT seq, at, kind, amount, requests, note, entered_by FROM ledger_entry
               WHERE tenant_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3";
    let before = before.unwrap_or(i64::MAX);
    fetch_all!(tx, Row, sql, scope.owner().as_uuid(), before, limit)?
        .into_iter()
        .map(|row| {
            Ok(LedgerEntry {
                seq: row.seq,
                at: Moment(row.at),
                kind: word!(EntryKind, row.kind, "ledger_entry", "kind")?,
                amount: Nanos(row.amount),
                requests: row.requests,
                note: row.note,
                entered_by: row.entered_by,
            })
        })
        .collect()
}

/// Every account whose balance is not the sum of its ledger: there is none, or something is broken.
pub async fn unbalanced(tx: &mut Tx) -> Result<Vec<TenantId>, StorageError> {
    let sql = "SELECT a.tenant_id FROM credit_account a WHERE a.balance <>
               (SELECT CAST(COALESCE(SUM(l.amount), 0) AS BIGINT) FROM ledger_entry l WHERE l.tenant_id = a.tenant_id)";
    let rows = fetch_all!(tx, (Uuid,), sql)?;
    Ok(rows.into_iter().map(|(id,)| TenantId(id)).collect())
}

/// Accounts whose holds are not those of the rows that are pending.
pub async fn with_stray_holds(tx: &mut Tx) -> Result<Vec<TenantId>, StorageError> {
    let sql =
        format!("SELECT a.tenant_id FROM credit_account a WHERE a.held <> {PENDING} ORDER BY a.tenant_id");
    let rows = fetch_all!(tx, (Uuid,), sqlx::AssertSqlSafe(sql))?;
    Ok(rows.into_iter().map(|(id,)| TenantId(id)).collect())
}

/// Counts what an account holds anew. It is locked first, so that no hold is missed.
pub async fn true_up_holds(tx: &mut Tx, tenant: TenantId) -> Result<(), StorageError> {
    execute!(tx, "UPDATE credit_account SET held = held WHERE tenant_id = $1", tenant.0)?;
    let sql = format!("UPDATE credit_account AS a SET held = {PENDING} WHERE tenant_id = $1");
    execute!(tx, sqlx::AssertSqlSafe(sql), tenant.0)?;
    Ok(())
}

/// What the account `a` should hold.
const PENDING: &str = "(SELECT CAST(COALESCE(SUM(u.held), 0) AS BIGINT) FROM usage u
    WHERE u.state = 'pending' AND u.tenant_id = a.tenant_id AND u.mode = 'managed' AND u.funding = 'credits')";

/// Every account with what was told of it last, for the job that tells.
pub async fn told(tx: &mut Tx) -> Result<Vec<(TenantId, Credits, String)>, StorageError> {
    let sql =
        "SELECT a.tenant_id, a.balance, a.held, a.notify_below, a.refused_at, a.told FROM credit_account a
               JOIN tenant t ON t.id = a.tenant_id WHERE t.funding = 'credits' ORDER BY a.tenant_id";
    let rows = fetch_all!(tx, (Uuid, i64, i64, i64, Option<i64>, String), sql)?;
    Ok(rows
        .into_iter()
        .map(|(tenant, balance, held, notify_below, refused_at, told)| {
            let (balance, held, notify_below) = (Nanos(balance), Nanos(held), Nanos(notify_below));
            let refused_at = refused_at.map(Moment);
            (TenantId(tenant), Credits { balance, held, notify_below, refused_at }, told)
        })
        .collect())
}

/// Notes what was told; false if another process was first.
pub async fn set_told(tx: &mut Tx, tenant: TenantId, from: &str, to: &str) -> Result<bool, StorageError> {
    let sql = "UPDATE credit_account SET told = $1 WHERE tenant_id = $2 AND told = $3";
    Ok(execute!(tx, sql, to, tenant.0, from)? > 0)
}
