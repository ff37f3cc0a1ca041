//! Webhooks of tenants, and notifications on their way to them and to people's mailboxes.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::delivery::{Delivery, DeliveryState, Destination, Webhook};
use crate::domain::ids::{DeliveryId, TenantId, UserId, WebhookId};
use crate::domain::notice::{Notice, NoticeKind};

/// A webhook with its sealed signing secret and its tenant.
pub struct SealedWebhook {
    pub tenant: TenantId,
    pub webhook: Webhook,
    pub sealed: Vec<u8>,
}

pub async fn insert_webhook(
    tx: &mut Tx,
    scope: &Scope,
    webhook: &Webhook,
    sealed: &[u8],
) -> Result<(), StorageError> {
    let sql = "INSERT INTO webhook (id, tenant_id, url, sealed, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6)";
    let Webhook { id, url, created_at, created_by } = webhook;
    execute!(tx, sql, id.0, scope.owner().as_uuid(), url, sealed, created_at.0, created_by)?;
    Ok(())
}

type WebhookRow = (Uuid, String, i64, String);

fn webhook((id, url, created_at, created_by): WebhookRow) -> Webhook {
    Webhook { id: WebhookId(id), url, created_at: Moment(created_at), created_by }
}

/// The tenant's webhooks, oldest first.
pub async fn webhooks(tx: &mut Tx, scope: &Scope) -> Result<Vec<Webhook>, StorageError> {
    let sql = "SELECT id, url, created_at, created_by FROM webhook WHERE tenant_id = $1 ORDER BY id";
    let rows = fetch_all!(tx, WebhookRow, sql, scope.owner().as_uuid())?;
    Ok(rows.into_iter().map(webhook).collect())
}

pub async fn find_webhook(tx: &mut Tx, id: WebhookId) -> Result<Option<SealedWebhook>, StorageError> {
    let sql = "SELECT tenant_id, sealed, id, url, created_at, created_by FROM webhook WHERE id = $1";
    let row = fetch_optional!(tx, (Uuid, Vec<u8>, Uuid, String, i64, String), sql, id.0)?;
    Ok(row.map(|(tenant, sealed, id, url, at, by)| SealedWebhook {
        tenant: TenantId(tenant),
        webhook: webhook((id, url, at, by)),
        sealed,
    }))
}

/// Removes a webhook and what was on its way to it. Gives its URL.
pub async fn delete_webhook(
    tx: &mut Tx,
    scope: &Scope,
    id: WebhookId,
) -> Result<Option<String>, StorageError> {
    let sql = "DELETE FROM webhook WHERE id = $1 AND tenant_id = $2 RETURNING url";
    let row = fetch_optional!(tx, (String,), sql, id.0, scope.owner().as_uuid())?;
    Ok(row.map(|(url,)| url))
}

/// Whether a member is told by e-mail; `None` for who is no member that could be.
pub async fn mail_choice(tx: &mut Tx, scope: &Scope, user: UserId) -> Result<Option<bool>, StorageError> {
    let sql = "SELECT mail FROM membership WHERE tenant_id = $1 AND user_id = $2 AND role <> 'member'";
    let row = fetch_optional!(tx, (bool,), sql, scope.owner().as_uuid(), user.0)?;
    Ok(row.map(|(mail,)| mail))
}

pub async fn set_mail_choice(
    tx: &mut Tx,
    scope: &Scope,
    user: UserId,
    mail: bool,
) -> Result<bool, StorageError> {
    let sql = "UPDATE membership SET mail = $1 WHERE tenant_id = $2 AND user_id = $3 AND role <> 'member'";
    Ok(execute!(tx, sql, mail, scope.owner().as_uuid(), user.0)? > 0)
}

/// Sends a notification on its way to every destination of the tenant, in the transaction that
/// made it.
pub async fn queue(
    tx: &mut Tx,
    tenant: TenantId,
    message: Uuid,
    notice: &Notice,
) -> Result<(), StorageError> {
    // Locked: one that is removed meanwhile would fail the change that is told of.
    let sql = "UPDATE webhook SET url = url WHERE tenant_id = $1 RETURNING id";
    let hooks = fetch_all!(tx, (Uuid,), sql, tenant.0)?;
    let sql = "SELECT m.user_id FROM membership m JOIN app_user u ON u.id = m.user_id
               WHERE m.tenant_id = $1 AND m.role <> 'member' AND m.mail IS TRUE AND u.disabled_at IS NULL";
    let people = fetch_all!(tx, (Uuid,), sql, tenant.0)?;
    let hooks = hooks.into_iter().map(|(id,)| Destination::Webhook(WebhookId(id)));
    let people = people.into_iter().map(|(id,)| Destination::Mail(UserId(id)));
    for to in hooks.chain(people) {
        insert(tx, tenant, to, message, notice, notice.at).await?;
    }
    Ok(())
}

/// Puts one notification on its way to one destination, to be tried from `next_at` on.
pub async fn insert(
    tx: &mut Tx,
    tenant: TenantId,
    to: Destination,
    message: Uuid,
    notice: &Notice,
    next_at: Moment,
) -> Result<DeliveryId, StorageError> {
    let (webhook, user) = match to {
        Destination::Webhook(id) => (Some(id.0), None),
        Destination::Mail(id) => (None, Some(id.0)),
    };
    let id = DeliveryId::new();
    execute!(
        tx,
        "INSERT INTO delivery (id, tenant_id, webhook_id, user_id, message_id, at, kind, text, page,
                               state, attempts, next_at, outcome)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'waiting', 0, $10, '')",
        id.0,
        tenant.0,
        webhook,
        user,
        message,
        notice.at.0,
        notice.kind.as_str(),
        &notice.text,
        &notice.page,
        next_at.0
    )?;
    Ok(id)
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    webhook_id: Option<Uuid>,
    user_id: Option<Uuid>,
    message_id: Uuid,
    at: i64,
    kind: String,
    text: String,
    page: String,
    state: String,
    attempts: i64,
    next_at: i64,
    outcome: String,
    tried_at: Option<i64>,
}

const COLUMNS: &str = "id, tenant_id, webhook_id, user_id, message_id, at, kind, text, page, state, attempts, next_at, outcome, tried_at";

impl TryFrom<Row> for Delivery {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        let to = match (row.webhook_id, row.user_id) {
            (Some(id), _) => Destination::Webhook(WebhookId(id)),
            (None, Some(id)) => Destination::Mail(UserId(id)),
            (None, None) => return Err(StorageError::BadRow { table: "delivery", column: "webhook_id" }),
        };
        Ok(Self {
            id: DeliveryId(row.id),
            tenant: TenantId(row.tenant_id),
            to,
            message: row.message_id,
            notice: Notice {
                at: Moment(row.at),
                kind: word!(NoticeKind, row.kind, "delivery", "kind")?,
                text: row.text,
                page: row.page,
            },
            state: word!(DeliveryState, row.state, "delivery", "state")?,
            attempts: row.attempts,
            next_at: Moment(row.next_at),
            outcome: row.outcome,
            tried_at: row.tried_at.map(Moment),
        })
    }
}

/// Takes what is due, a few for each destination so that a slow one holds up no other. Nobody
/// else takes them before `lease`.
pub async fn take_due(tx: &mut Tx, now: Moment, lease: Moment) -> Result<Vec<Delivery>, StorageError> {
    let sql = format!(
        "UPDATE delivery SET next_at = $1 WHERE id IN (
             SELECT id FROM (
                 SELECT id, next_at, ROW_NUMBER() OVER
                     (PARTITION BY webhook_id, user_id ORDER BY next_at, id) AS nth
                 FROM delivery WHERE state = 'waiting' AND next_at <= $2) due
             WHERE nth <= 4 ORDER BY next_at LIMIT 64)
         AND state = 'waiting' AND next_at <= $2 RETURNING {COLUMNS}"
    );
    let rows = fetch_all!(tx, Row, sqlx::AssertSqlSafe(sql), lease.0, now.0)?;
    // One of another version of Keyward must not keep the others.
    Ok(rows.into_iter().filter_map(|row| Delivery::try_from(row).ok()).collect())
}

pub async fn find(tx: &mut Tx, id: DeliveryId) -> Result<Option<Delivery>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM delivery WHERE id = $1");
    fetch_optional!(tx, Row, sqlx::AssertSqlSafe(sql), id.0)?.map(Delivery::try_from).transpose()
}

/// The tenant's latest deliveries, newest first.
pub async fn latest(tx: &mut Tx, scope: &Scope, limit: i64) -> Result<Vec<Delivery>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM delivery WHERE tenant_id = $1 ORDER BY id DESC LIMIT $2");
    let rows = fetch_all!(tx, Row, sqlx::AssertSqlSafe(sql), scope.owner().as_uuid(), limit)?;
    rows.into_iter().map(Delivery::try_from).collect()
}

/// Notes what an attempt came to.
pub async fn note(tx: &mut Tx, delivery: &Delivery) -> Result<(), StorageError> {
    execute!(
        tx,
        "UPDATE delivery SET state = $1, attempts = $2, next_at = $3, outcome = $4, tried_at = $5 WHERE id = $6",
        delivery.state.as_str(),
        delivery.attempts,
        delivery.next_at.0,
        &delivery.outcome,
        delivery.tried_at.map(|at| at.0),
        delivery.id.0
    )?;
    Ok(())
}

/// Forgets a delivery that nobody can make.
pub async fn delete(tx: &mut Tx, id: DeliveryId) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM delivery WHERE id = $1", id.0)?;
    Ok(())
}

pub async fn delete_before(tx: &mut Tx, before: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM delivery WHERE at < $1", before.0)
}
