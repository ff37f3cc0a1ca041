//! Holds: what requests under way keep back from prepaid credits and from budgets. The one place where
//! what is left is checked, whatever route a request came by, and where a settlement replaces its hold.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::credits::{self, NewEntry};
use super::{Database, StorageError, Tx, day_sums, execute, on_backend, usage};
use crate::domain::billing::{EntryKind, Shortage};
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{KeyId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::usage::{UsageRow, UsageState};

/// Writes rows as `usage::record` does, and with them what they hold and what they cost. Rows are
/// opened in the order in which they are given, each if what is left covers its hold.
///
/// Gives for every row of `opening` what it lacked; such a row was not written. Days that end before
/// `may_be_summed` may be in sums already.
///
/// # Errors
/// `Settled` when a row is settled already; nothing of a batch with holds is written then.
pub async fn record<R: Borrow<UsageRow> + Sync>(
    db: &Database,
    opening: &[R],
    settled: &[R],
    may_be_summed: Moment,
) -> Result<Vec<Option<Shortage>>, StorageError> {
    let all = || opening.iter().chain(settled).map(Borrow::borrow);
    let late = |row: &&UsageRow| row.state != UsageState::Pending && row.started_at < may_be_summed;
    let any_late = all().any(|row| late(&row));
    if !any_late && !all().any(touches_money) {
        let rows: Vec<&UsageRow> = all().collect();
        usage::record(db, &rows).await?;
        return Ok(vec![None; opening.len()]);
    }
    let holding = || all().filter(|row| touches_money(row));
    let (mut tx, mut purses) = if let (Database::Sqlite(sqlite), Some(tenant)) = (db, only_tenant(holding()))
    {
        let query = sqlx::query(BEGIN_AND_READ).bind(tenant).bind(tenant);
        let (tx, rows) = sqlite.meter_reading(query).await?;
        (Tx::Sqlite(tx), Purses::read(&rows)?)
    } else {
        let mut tx = db.meter().await?;
        let purses = Purses::lock(&mut tx, holding()).await?;
        (tx, purses)
    };
    // What is settled frees its hold before anything new is held.
    for row in all().filter(|row| row.state != UsageState::Pending) {
        purses.settle(row);
    }
    let mut rows: Vec<&UsageRow> = settled.iter().map(Borrow::borrow).collect();
    let mut shortages = Vec::with_capacity(opening.len());
    for row in opening.iter().map(Borrow::borrow) {
        let shortage = if row.state == UsageState::Pending { purses.hold(row).err() } else { None };
        if shortage.is_none() {
            rows.push(row);
        }
        shortages.push(shortage);
    }
    if rows.is_empty() {
        // Nothing to write but perhaps that something was refused.
        purses.write(&mut tx).await?;
        tx.commit().await?;
        return Ok(shortages);
    }
    tx = match (tx, purses.only_change().filter(|_| !any_late)) {
        (Tx::Sqlite(tx), Some(change)) => {
            usage::record_paid(tx, &rows, &change).await?;
            return Ok(shortages);
        }
        (tx, _) => tx,
    };
    usage::upsert(&mut tx, &rows).await?;
    usage::roll_up(&mut tx, &rows).await?;
    if any_late {
        day_sums::set_back(&mut tx, rows.into_iter().filter(late)).await?;
    }
    purses.write(&mut tx).await?;
    tx.commit().await?;
    Ok(shortages)
}

/// For a batch about one tenant, as those of a hot one are: everything in one turn between threads.
const BEGIN_AND_READ: &str = "BEGIN IMMEDIATE;
    SELECT 0 AS kind, tenant_id, tenant_id AS id, NULL AS key_id, balance AS amount, 0 AS spent, held, last_seq,
           0 AS period_start, 0 AS period_end, 0 AS next_end, refused_at FROM credit_account WHERE tenant_id = ?
    UNION ALL
    SELECT 1, tenant_id, id, key_id, amount, spent, held, 0, period_start, period_end, next_end, refused_at
    FROM budget WHERE on_reach = 'pause' AND tenant_id = ?";

/// The tenant of all these rows, if it is one.
fn only_tenant<'a>(mut rows: impl Iterator<Item = &'a UsageRow>) -> Option<Uuid> {
    let first = rows.next()?.tenant_id;
    rows.all(|row| row.tenant_id == first).then_some(first.0)
}

fn touches_money(row: &UsageRow) -> bool {
    row.held > Nanos::ZERO || row.is_prepaid()
}

#[derive(sqlx::FromRow)]
struct AccountRow {
    tenant_id: Uuid,
    balance: i64,
    held: i64,
    last_seq: i64,
    refused_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct BudgetRow {
    id: Uuid,
    tenant_id: Uuid,
    key_id: Option<Uuid>,
    amount: i64,
    period_start: i64,
    period_end: i64,
    next_end: i64,
    spent: i64,
    held: i64,
    refused_at: Option<i64>,
}

struct Account {
    row: AccountRow,
    changed: bool,
    /// Charged by this batch: how much, for how many requests, and until when.
    charged: i64,
    requests: i64,
    at: Moment,
}

struct BudgetState {
    row: BudgetRow,
    changed: bool,
}

impl BudgetState {
    fn is_for(&self, row: &UsageRow) -> bool {
        self.row.tenant_id == row.tenant_id.0 && self.row.key_id.is_none_or(|key| KeyId(key) == row.key_id)
    }

    /// Begins the next period, if a request has come from it.
    fn follow(&mut self, at: Moment) {
        if at.0 >= self.row.period_end && self.row.next_end > self.row.period_end {
            self.row.period_start = self.row.period_end;
            self.row.period_end = self.row.next_end;
            self.row.spent = 0;
            self.row.refused_at = None;
            self.changed = true;
        }
    }
}

/// The accounts and budgets that a batch is about, locked.
struct Purses {
    accounts: BTreeMap<Uuid, Account>,
    budgets: Vec<BudgetState>,
}

impl Purses {
    /// In one order in every process, so that two of them wait for each other instead of locking each
    /// other out.
    async fn lock(tx: &mut Tx, rows: impl Iterator<Item = &UsageRow>) -> Result<Self, StorageError> {
        let mut prepaid = Vec::new();
        let mut holding = Vec::new();
        for row in rows {
            if row.is_prepaid() {
                prepaid.push(row.tenant_id.0);
            }
            if row.held > Nanos::ZERO {
                holding.push(row.tenant_id.0);
            }
        }
        let mut accounts = BTreeMap::new();
        for row in accounts_of(tx, &distinct(prepaid)).await? {
            let account = Account { row, changed: false, charged: 0, requests: 0, at: Moment(0) };
            accounts.insert(account.row.tenant_id, account);
        }
        let budgets = budgets_of(tx, &distinct(holding)).await?;
        let budgets = budgets.into_iter().map(|row| BudgetState { row, changed: false }).collect();
        Ok(Self { accounts, budgets })
    }

    /// From what `BEGIN_AND_READ` gives.
    fn read(rows: &[SqliteRow]) -> Result<Self, StorageError> {
        let mut purses = Self { accounts: BTreeMap::new(), budgets: Vec::new() };
        for row in rows {
            let tenant_id = row.try_get("tenant_id")?;
            let held = row.try_get("held")?;
            if row.try_get::<i64, _>("kind")? == 0 {
                let row = AccountRow {
                    tenant_id,
                    balance: row.try_get("amount")?,
                    held,
                    last_seq: row.try_get("last_seq")?,
                    refused_at: row.try_get("refused_at")?,
                };
                let account = Account { row, changed: false, charged: 0, requests: 0, at: Moment(0) };
                purses.accounts.insert(tenant_id, account);
            } else {
                let row = BudgetRow {
                    id: row.try_get("id")?,
                    tenant_id,
                    key_id: row.try_get("key_id")?,
                    amount: row.try_get("amount")?,
                    period_start: row.try_get("period_start")?,
                    period_end: row.try_get("period_end")?,
                    next_end: row.try_get("next_end")?,
                    spent: row.try_get("spent")?,
                    held,
                    refused_at: row.try_get("refused_at")?,
                };
                purses.budgets.push(BudgetState { row, changed: false });
            }
        }
        Ok(purses)
    }

    /// The change of one account, if that is all there is to write.
    fn only_change(&self) -> Option<usage::AccountChange> {
        let mut changed = self.accounts.values().filter(|account| account.changed);
        let account = changed.next()?;
        if changed.next().is_some() || self.budgets.iter().any(|budget| budget.changed) {
            return None;
        }
        let charge = usage::Charge { amount: -account.charged, requests: account.requests, at: account.at };
        Some(usage::AccountChange {
            tenant: TenantId(account.row.tenant_id),
            balance: account.row.balance,
            held: account.row.held,
            refused_at: account.row.refused_at,
            last_seq: account.row.last_seq + i64::from(account.charged != 0),
            charged: (account.charged != 0).then_some(charge),
        })
    }

    /// Keeps back what a row holds, from everything that it is paid from or counted against, or from
    /// nothing.
    fn hold(&mut self, row: &UsageRow) -> Result<(), Shortage> {
        let hold = row.held.0;
        if hold == 0 {
            return Ok(());
        }
        let account = if row.is_prepaid() {
            let account = self.accounts.get_mut(&row.tenant_id.0).ok_or(Shortage::Credits)?;
            if account.row.balance.saturating_sub(account.row.held) < hold {
                account.changed |= note(&mut account.row.refused_at, row.started_at);
                return Err(Shortage::Credits);
            }
            Some(account)
        } else {
            None
        };
        let mut budgets: Vec<&mut BudgetState> = Vec::new();
        for budget in self.budgets.iter_mut().filter(|budget| budget.is_for(row)) {
            budget.follow(row.started_at);
            let BudgetRow { amount, spent, held, key_id, .. } = budget.row;
            if amount.saturating_sub(spent).saturating_sub(held) < hold {
                budget.changed |= note(&mut budget.row.refused_at, row.started_at);
                return Err(if key_id.is_some() { Shortage::KeyBudget } else { Shortage::TenantBudget });
            }
            budgets.push(budget);
        }
        for budget in budgets {
            budget.row.held += hold;
            budget.changed = true;
        }
        if let Some(account) = account {
            account.row.held += hold;
            account.changed = true;
        }
        Ok(())
    }

    /// Frees what a row held, and charges what it cost.
    fn settle(&mut self, row: &UsageRow) {
        if let Some(account) = self.accounts.get_mut(&row.tenant_id.0).filter(|_| row.is_prepaid()) {
            account.row.held = account.row.held.saturating_sub(row.held.0);
            account.row.balance = account.row.balance.saturating_sub(row.billed.0);
            account.charged = account.charged.saturating_add(row.billed.0);
            account.requests += 1;
            account.at = account.at.max(row.ended_at.unwrap_or(row.started_at));
            account.changed = true;
        }
        if row.held == Nanos::ZERO {
            return;
        }
        for budget in self.budgets.iter_mut().filter(|budget| budget.is_for(row)) {
            budget.follow(row.started_at);
            // A budget that was made while the request ran does not know of its hold.
            budget.row.held = (budget.row.held - row.held.0).max(0);
            if (budget.row.period_start..budget.row.period_end).contains(&row.started_at.0) {
                budget.row.spent = budget.row.spent.saturating_add(row.cost.0);
            }
            budget.changed = true;
        }
    }

    async fn write(self, tx: &mut Tx) -> Result<(), StorageError> {
        for account in self.accounts.into_values().filter(|account| account.changed) {
            let tenant = TenantId(account.row.tenant_id);
            let seq = account.row.last_seq + i64::from(account.charged != 0);
            let sql = "UPDATE credit_account SET balance = $1, held = $2, last_seq = $3, refused_at = $4
                       WHERE tenant_id = $5";
            let AccountRow { balance, held, refused_at, .. } = account.row;
            execute!(tx, sql, balance, held, seq, refused_at, tenant.0)?;
            if account.charged != 0 {
                let entry = NewEntry {
                    at: account.at,
                    kind: EntryKind::Usage,
                    amount: Nanos(-account.charged),
                    reference: None,
                    note: "",
                    entered_by: "keyward",
                };
                credits::insert(tx, tenant, seq, account.requests, &entry).await?;
            }
        }
        for BudgetState { row, .. } in self.budgets.into_iter().filter(|budget| budget.changed) {
            // What was told belongs to the month that it was told in.
            let sql = "UPDATE budget SET spent = $1, held = $2,
                           warned = CASE WHEN period_start = $3 THEN warned ELSE 0 END,
                           period_start = $3, period_end = $4, refused_at = $5 WHERE id = $6";
            let (from, to) = (row.period_start, row.period_end);
            execute!(tx, sql, row.spent, row.held, from, to, row.refused_at, row.id)?;
        }
        Ok(())
    }
}

/// Notes that something did not fit, once a minute at most: under a storm of refusals nothing else would
/// be written.
fn note(refused_at: &mut Option<i64>, at: Moment) -> bool {
    let stale = refused_at.is_none_or(|before| at.0.saturating_sub(before) >= MINUTE);
    if stale {
        *refused_at = Some(at.0);
    }
    stale
}

fn distinct(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// `$1, $2, …`, and what keeps the rows from others until the commit.
fn list_and_lock(tx: &Tx, count: usize) -> (String, &'static str) {
    let list: Vec<String> = (1..=count).map(|i| format!("${i}")).collect();
    // SQLite's transaction is the only one that writes.
    (list.join(", "), if matches!(tx, Tx::Postgres(_)) { "FOR UPDATE" } else { "" })
}

async fn accounts_of(tx: &mut Tx, tenants: &[Uuid]) -> Result<Vec<AccountRow>, StorageError> {
    if tenants.is_empty() {
        return Ok(Vec::new());
    }
    let (list, lock) = list_and_lock(tx, tenants.len());
    let sql = format!(
        "SELECT tenant_id, balance, held, last_seq, refused_at FROM credit_account
         WHERE tenant_id IN ({list}) ORDER BY tenant_id {lock}"
    );
    on_backend!(tx, conn => {
        let mut query = sqlx::query_as(AssertSqlSafe(sql));
        for tenant in tenants {
            query = query.bind(*tenant);
        }
        Ok(query.fetch_all(conn).await?)
    })
}

async fn budgets_of(tx: &mut Tx, tenants: &[Uuid]) -> Result<Vec<BudgetRow>, StorageError> {
    if tenants.is_empty() {
        return Ok(Vec::new());
    }
    let (list, lock) = list_and_lock(tx, tenants.len());
    let sql = format!(
        "SELECT id, tenant_id, key_id, amount, period_start, period_end, next_end, spent, held, refused_at
         FROM budget WHERE on_reach = 'pause' AND tenant_id IN ({list}) ORDER BY id {lock}"
    );
    on_backend!(tx, conn => {
        let mut query = sqlx::query_as(AssertSqlSafe(sql));
        for tenant in tenants {
            query = query.bind(*tenant);
        }
        Ok(query.fetch_all(conn).await?)
    })
}
