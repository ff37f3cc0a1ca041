//! Holds: what requests under way keep back from prepaid credits and from budgets. The one place where
//! what is left is checked, whatever route a request came by, and where a settlement replaces its hold.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use rusqlite::Connection;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::credits::{self, NewEntry};
use super::{AtOnce, Database, StorageError, Tx, day_sums, execute, keys, on_backend, tokens, usage};
use crate::domain::billing::{EntryKind, Shortage};
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{KeyId, TenantId, TokenId};
use crate::domain::money::Nanos;
use crate::domain::usage::{UsageRow, UsageState};

/// Writes rows and their rollups for the meter, and with them what they hold and what they cost: new
/// rows as they are, pending ones by their settlement. Rows are opened in the order in which they are
/// given, each if what is left covers its hold. A batch names a row once.
///
/// Gives for every row of `opening` what it lacked; such a row was not written. Days that end before
/// `may_be_summed` may be in sums already.
///
/// # Errors
/// `Settled` when a row is settled already; nothing of the batch is written then.
pub async fn record<R: Borrow<UsageRow> + Sync>(
    db: &Database,
    opening: &[R],
    settled: &[R],
    may_be_summed: Moment,
) -> Result<Vec<Option<Shortage>>, StorageError> {
    let mut tx = db.meter().await?;
    let mut purses = Purses::lock(&mut tx, &Parties::of(opening, settled)).await?;
    let (rows, shortages) = purses.admit(opening, settled);
    if !rows.is_empty() {
        usage::upsert(&mut tx, &rows).await?;
        usage::roll_up(&mut tx, &rows).await?;
        day_sums::set_back(&mut tx, rows.into_iter().filter(|row| is_late(row, may_be_summed))).await?;
    }
    purses.write(&mut tx).await?;
    tx.commit().await?;
    Ok(shortages)
}

/// The same on this thread, with what was used; for rows of which none is late.
///
/// # Errors
/// Whatever keeps it from being written; nothing of the batch is written then.
pub fn record_at_once<R: Borrow<UsageRow>>(
    turn: AtOnce,
    opening: &[R],
    settled: &[R],
    used: &Used,
) -> Result<Vec<Option<Shortage>>, StorageError> {
    turn.write(opening.len() + settled.len(), |connection| {
        let mut purses = Purses::read(connection, &Parties::of(opening, settled))?;
        let (rows, shortages) = purses.admit(opening, settled);
        usage::write_at_once(connection, &rows)?;
        purses.write_at_once(connection)?;
        for (key, at) in &used.keys {
            connection.prepare_cached(keys::TOUCH)?.execute((key.0, at.0))?;
        }
        for (token, at) in &used.tokens {
            connection.prepare_cached(tokens::TOUCH)?.execute((at.0, token.0))?;
        }
        Ok(shortages)
    })
}

/// What is to be noted as used last, and when.
#[derive(Debug, Default)]
pub struct Used {
    pub keys: Vec<(KeyId, Moment)>,
    pub tokens: Vec<(TokenId, Moment)>,
}

/// Whether a row is settled on a day that may be summed already.
#[must_use]
pub fn is_late(row: &UsageRow, may_be_summed: Moment) -> bool {
    row.state != UsageState::Pending && row.started_at < may_be_summed
}

/// The tenants of a batch that pay from credits, and those whose budgets may be touched.
struct Parties {
    prepaid: Vec<Uuid>,
    holding: Vec<Uuid>,
}

impl Parties {
    fn of<R: Borrow<UsageRow>>(opening: &[R], settled: &[R]) -> Self {
        let of = |what: fn(&UsageRow) -> bool| {
            let rows = opening.iter().chain(settled).map(Borrow::borrow).filter(|row| what(row));
            let mut tenants: Vec<Uuid> = rows.map(|row| row.tenant_id.0).collect();
            tenants.sort_unstable();
            tenants.dedup();
            tenants
        };
        Self { prepaid: of(UsageRow::is_prepaid), holding: of(|row| row.held > Nanos::ZERO) }
    }
}

/// Accounts of one tenant or of several: which is said behind it. `AccountRow::read` goes by its order.
macro_rules! accounts {
    () => {
        "SELECT tenant_id, balance, held, last_seq, refused_at FROM credit_account WHERE tenant_id "
    };
}

/// Budgets that pause, in the same way for `BudgetRow::read`.
macro_rules! budgets {
    () => {
        "SELECT id, tenant_id, key_id, amount, period_start, period_end, next_end, spent, held, refused_at
         FROM budget WHERE on_reach = 'pause' AND tenant_id "
    };
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

impl AccountRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            tenant_id: row.get(0)?,
            balance: row.get(1)?,
            held: row.get(2)?,
            last_seq: row.get(3)?,
            refused_at: row.get(4)?,
        })
    }
}

impl BudgetRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            tenant_id: row.get(1)?,
            key_id: row.get(2)?,
            amount: row.get(3)?,
            period_start: row.get(4)?,
            period_end: row.get(5)?,
            next_end: row.get(6)?,
            spent: row.get(7)?,
            held: row.get(8)?,
            refused_at: row.get(9)?,
        })
    }
}

impl Account {
    /// The number of the last line of the ledger, after this batch.
    fn seq(&self) -> i64 {
        self.row.last_seq + i64::from(self.charged != 0)
    }

    /// The line that this batch adds.
    fn entry(&self) -> Option<NewEntry<'static>> {
        (self.charged != 0).then_some(NewEntry {
            at: self.at,
            kind: EntryKind::Usage,
            amount: Nanos(-self.charged),
            reference: None,
            note: "",
            entered_by: "keyward",
        })
    }
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
    async fn lock(tx: &mut Tx, parties: &Parties) -> Result<Self, StorageError> {
        Ok(Self::of(accounts_of(tx, &parties.prepaid).await?, budgets_of(tx, &parties.holding).await?))
    }

    /// On this thread, in a transaction that is the only one that writes.
    fn read(connection: &Connection, parties: &Parties) -> Result<Self, StorageError> {
        let (mut accounts, mut budgets) = (Vec::new(), Vec::new());
        for tenant in &parties.prepaid {
            let mut question = connection.prepare_cached(concat!(accounts!(), "= $1"))?;
            for row in question.query_map([tenant], AccountRow::read)? {
                accounts.push(row?);
            }
        }
        for tenant in &parties.holding {
            // In two parts, for each of which there is an index.
            let mut question = connection.prepare_cached(concat!(
                budgets!(),
                "= $1 AND key_id IS NULL UNION ALL ",
                budgets!(),
                "= $1 AND key_id IS NOT NULL ORDER BY id"
            ))?;
            for row in question.query_map([tenant], BudgetRow::read)? {
                budgets.push(row?);
            }
        }
        Ok(Self::of(accounts, budgets))
    }

    fn of(accounts: Vec<AccountRow>, budgets: Vec<BudgetRow>) -> Self {
        let account = |row: AccountRow| {
            (row.tenant_id, Account { row, changed: false, charged: 0, requests: 0, at: Moment(0) })
        };
        Self {
            accounts: accounts.into_iter().map(account).collect(),
            budgets: budgets.into_iter().map(|row| BudgetState { row, changed: false }).collect(),
        }
    }

    /// What of a batch is to be written, and for every row of `opening` what it lacked.
    fn admit<'a, R: Borrow<UsageRow>>(
        &mut self,
        opening: &'a [R],
        settled: &'a [R],
    ) -> (Vec<&'a UsageRow>, Vec<Option<Shortage>>) {
        // What is settled frees its hold before anything new is held.
        let over = |row: &&UsageRow| row.state != UsageState::Pending;
        for row in opening.iter().chain(settled).map(Borrow::borrow).filter(over) {
            self.settle(row);
        }
        let mut rows: Vec<&UsageRow> = settled.iter().map(Borrow::borrow).collect();
        let mut shortages = Vec::with_capacity(opening.len());
        for row in opening.iter().map(Borrow::borrow) {
            let shortage = if over(&row) { None } else { self.hold(row).err() };
            if shortage.is_none() {
                rows.push(row);
            }
            shortages.push(shortage);
        }
        (rows, shortages)
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

    async fn write(&self, tx: &mut Tx) -> Result<(), StorageError> {
        for account in self.accounts.values().filter(|account| account.changed) {
            let AccountRow { balance, held, refused_at, tenant_id, .. } = account.row;
            execute!(tx, CHANGE_ACCOUNT, balance, held, account.seq(), refused_at, tenant_id)?;
            if let Some(entry) = account.entry() {
                credits::insert(tx, TenantId(tenant_id), account.seq(), account.requests, &entry).await?;
            }
        }
        for BudgetState { row, .. } in self.budgets.iter().filter(|budget| budget.changed) {
            let (from, to) = (row.period_start, row.period_end);
            execute!(tx, CHANGE_BUDGET, row.spent, row.held, from, to, row.refused_at, row.id)?;
        }
        Ok(())
    }

    fn write_at_once(&self, connection: &Connection) -> Result<(), StorageError> {
        for account in self.accounts.values().filter(|account| account.changed) {
            let AccountRow { balance, held, refused_at, tenant_id, .. } = account.row;
            let change = (balance, held, account.seq(), refused_at, tenant_id);
            connection.prepare_cached(CHANGE_ACCOUNT)?.execute(change)?;
            if let Some(entry) = account.entry() {
                let (kind, amount) = (entry.kind.as_str(), entry.amount.0);
                let NewEntry { at, reference, note, entered_by, .. } = entry;
                let (seq, requests) = (account.seq(), account.requests);
                let line = (tenant_id, seq, at.0, kind, amount, requests, reference, note, entered_by);
                connection.prepare_cached(credits::INSERT)?.execute(line)?;
            }
        }
        for BudgetState { row, .. } in self.budgets.iter().filter(|budget| budget.changed) {
            let (from, to) = (row.period_start, row.period_end);
            let change = (row.spent, row.held, from, to, row.refused_at, row.id);
            connection.prepare_cached(CHANGE_BUDGET)?.execute(change)?;
        }
        Ok(())
    }
}

const CHANGE_ACCOUNT: &str =
    "UPDATE credit_account SET balance = $1, held = $2, last_seq = $3, refused_at = $4 WHERE tenant_id = $5";

/// What was told belongs to the month that it was told in.
const CHANGE_BUDGET: &str = "UPDATE budget SET spent = $1, held = $2,
    warned = CASE WHEN period_start = $3 THEN warned ELSE 0 END,
    period_start = $3, period_end = $4, refused_at = $5 WHERE id = $6";

/// Notes that something did not fit, once a minute at most: under a storm of refusals nothing else would
/// be written.
fn note(refused_at: &mut Option<i64>, at: Moment) -> bool {
    let stale = refused_at.is_none_or(|before| at.0.saturating_sub(before) >= MINUTE);
    if stale {
        *refused_at = Some(at.0);
    }
    stale
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
    let sql = format!("{} IN ({list}) ORDER BY tenant_id {lock}", accounts!());
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
    let sql = format!("{} IN ({list}) ORDER BY id {lock}", budgets!());
    on_backend!(tx, conn => {
        let mut query = sqlx::query_as(AssertSqlSafe(sql));
        for tenant in tenants {
            query = query.bind(*tenant);
        }
        Ok(query.fetch_all(conn).await?)
    })
}
