//! Purchases of credits, and the messages of payment providers that were taken.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::{OrderId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::payment::{Order, OrderState, PaymentMethod};

const COLUMNS: &str = "id, tenant_id, method, amount, state, checkout, url, payment, refunded, created_at, created_by, settled_at, settled_by";

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    method: String,
    amount: i64,
    state: String,
    checkout: Option<String>,
    url: Option<String>,
    payment: Option<String>,
    refunded: i64,
    created_at: i64,
    created_by: String,
    settled_at: Option<i64>,
    settled_by: Option<String>,
}

impl TryFrom<Row> for Order {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        Ok(Self {
            id: OrderId(row.id),
            tenant: TenantId(row.tenant_id),
            method: word!(PaymentMethod, row.method, "credit_order", "method")?,
            amount: Nanos(row.amount),
            state: word!(OrderState, row.state, "credit_order", "state")?,
            checkout: row.checkout,
            url: row.url,
            payment: row.payment,
            refunded: Nanos(row.refunded),
            created_at: Moment(row.created_at),
            created_by: row.created_by,
            settled_at: row.settled_at.map(Moment),
            settled_by: row.settled_by,
        })
    }
}

pub async fn insert(tx: &mut Tx, order: &Order) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO credit_order (id, tenant_id, method, amount, state, refunded, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, 0, $6, $7)",
        order.id.0,
        order.tenant.0,
        order.method.as_str(),
        order.amount.0,
        order.state.as_str(),
        order.created_at.0,
        &order.created_by
    )?;
    Ok(())
}

pub async fn find(tx: &mut Tx, scope: &Scope, id: OrderId) -> Result<Option<Order>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM credit_order WHERE id = $1 AND tenant_id = $2");
    let row = fetch_optional!(tx, Row, sqlx::AssertSqlSafe(sql), id.0, scope.owner().as_uuid())?;
    row.map(Order::try_from).transpose()
}

/// The order, locked until the commit: two messages about it take their turns.
pub async fn lock(tx: &mut Tx, id: OrderId) -> Result<Option<Order>, StorageError> {
    let sql = format!("UPDATE credit_order SET state = state WHERE id = $1 RETURNING {COLUMNS}");
    fetch_optional!(tx, Row, sqlx::AssertSqlSafe(sql), id.0)?.map(Order::try_from).transpose()
}

/// The order that a payment was for, locked likewise.
pub async fn lock_by_payment(tx: &mut Tx, payment: &str) -> Result<Option<Order>, StorageError> {
    let sql = format!("UPDATE credit_order SET state = state WHERE payment = $1 RETURNING {COLUMNS}");
    fetch_optional!(tx, Row, sqlx::AssertSqlSafe(sql), payment)?.map(Order::try_from).transpose()
}

/// The tenant's latest orders, newest first.
pub async fn latest(tx: &mut Tx, scope: &Scope, limit: i64) -> Result<Vec<Order>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM credit_order WHERE tenant_id = $1 ORDER BY id DESC LIMIT $2");
    let rows = fetch_all!(tx, Row, sqlx::AssertSqlSafe(sql), scope.owner().as_uuid(), limit)?;
    rows.into_iter().map(Order::try_from).collect()
}

/// How many orders of the tenant are unpaid.
pub async fn count_open(tx: &mut Tx, tenant: TenantId) -> Result<i64, StorageError> {
    let sql = "SELECT COUNT(*) FROM credit_order WHERE tenant_id = $1 AND state = 'open'";
    Ok(fetch_one!(tx, (i64,), sql, tenant.0)?.0)
}

/// Writes what may change of an order.
pub async fn update(tx: &mut Tx, order: &Order) -> Result<(), StorageError> {
    execute!(
        tx,
        "UPDATE credit_order SET state = $1, checkout = $2, url = $3, payment = $4, refunded = $5,
                settled_at = $6, settled_by = $7 WHERE id = $8",
        order.state.as_str(),
        &order.checkout,
        &order.url,
        &order.payment,
        order.refunded.0,
        order.settled_at.map(|at| at.0),
        &order.settled_by,
        order.id.0
    )?;
    Ok(())
}

/// Takes a message of a payment provider; false if it was taken before.
pub async fn take_event(
    tx: &mut Tx,
    method: PaymentMethod,
    id: &str,
    at: Moment,
    refund: Option<(&str, i64)>,
) -> Result<bool, StorageError> {
    let sql =
        "INSERT INTO payment_event (method, id, at, payment, refunded_cents) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (method, id) DO NOTHING";
    let (payment, cents) = refund.unzip();
    Ok(execute!(tx, sql, method.as_str(), id, at.0, payment, cents)? > 0)
}

/// Locks a payment until the commit, whether or not an order is known to be paid by it: what is said of
/// it by two messages at once is taken one after the other.
pub async fn lock_payment(
    tx: &mut Tx,
    method: PaymentMethod,
    payment: &str,
    now: Moment,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO payment_event (method, id, at) VALUES ($1, $2, $3)
               ON CONFLICT (method, id) DO UPDATE SET at = payment_event.at";
    execute!(tx, sql, method.as_str(), format!("payment:{payment}"), now.0)?;
    Ok(())
}

/// Ends what can no longer be paid at a payment provider: its checkouts last a day. A payment that is
/// told of later settles an order all the same.
pub async fn expire(tx: &mut Tx, begun_before: Moment, now: Moment) -> Result<u64, StorageError> {
    let sql = "UPDATE credit_order SET state = 'expired', settled_at = $1
               WHERE state = 'open' AND method <> 'manual' AND created_at < $2";
    execute!(tx, sql, now.0, begun_before.0)
}

/// The tenant's orders that are paid by hand and are not settled, oldest first.
pub async fn waiting(tx: &mut Tx, scope: &Scope) -> Result<Vec<Order>, StorageError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM credit_order
         WHERE tenant_id = $1 AND state = 'open' AND method = 'manual' ORDER BY id LIMIT 100"
    );
    let rows = fetch_all!(tx, Row, sqlx::AssertSqlSafe(sql), scope.owner().as_uuid())?;
    rows.into_iter().map(Order::try_from).collect()
}

/// Tenants with orders that are paid by hand and are not settled: slug, name, and how many.
pub async fn tenants_waiting(tx: &mut Tx) -> Result<Vec<(String, String, i64)>, StorageError> {
    fetch_all!(
        tx,
        (String, String, i64),
        "SELECT t.slug, t.name, COUNT(*) FROM credit_order o JOIN tenant t ON t.id = o.tenant_id
         WHERE o.state = 'open' AND o.method = 'manual' GROUP BY t.slug, t.name ORDER BY MIN(o.created_at) LIMIT 50"
    )
}

/// What was refunded of a payment in all, as far as messages have said.
pub async fn refunded_of(tx: &mut Tx, payment: &str) -> Result<i64, StorageError> {
    let sql = "SELECT CAST(COALESCE(MAX(refunded_cents), 0) AS BIGINT) FROM payment_event WHERE payment = $1";
    Ok(fetch_one!(tx, (i64,), sql, payment)?.0)
}
