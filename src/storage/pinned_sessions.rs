//! Sessions that the API makes: what they pin, until when.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_optional};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::TenantId;
use crate::domain::provider_key::Provider;

/// What a session pins for every request that names it.
#[derive(Clone, Debug)]
pub struct PinnedSession {
    /// `ses_` and random text.
    pub id: String,
    pub tenant_id: TenantId,
    pub key_name: Option<String>,
    pub provider: Option<Provider>,
    pub model: Option<String>,
    pub feature: Option<String>,
    pub created_at: Moment,
    pub expires_at: Moment,
    /// When it was ended before its time.
    pub ended_at: Option<Moment>,
}

impl PinnedSession {
    #[must_use]
    pub fn is_over(&self, now: Moment) -> bool {
        self.ended_at.is_some() || self.expires_at <= now
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    tenant_id: Uuid,
    key_name: Option<String>,
    provider: Option<String>,
    model: Option<String>,
    feature: Option<String>,
    created_at: i64,
    expires_at: i64,
    ended_at: Option<i64>,
}

impl From<Row> for PinnedSession {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            tenant_id: TenantId(row.tenant_id),
            key_name: row.key_name,
            provider: row.provider.as_deref().and_then(Provider::parse),
            model: row.model,
            feature: row.feature,
            created_at: Moment(row.created_at),
            expires_at: Moment(row.expires_at),
            ended_at: row.ended_at.map(Moment),
        }
    }
}

pub async fn insert(tx: &mut Tx, session: &PinnedSession) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO pinned_session (id, tenant_id, key_name, provider, model, feature, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &session.id,
        session.tenant_id.0,
        session.key_name.as_deref(),
        session.provider.map(Provider::as_str),
        session.model.as_deref(),
        session.feature.as_deref(),
        session.created_at.0,
        session.expires_at.0
    )?;
    Ok(())
}

/// A session of this tenant, over or not.
pub async fn find(tx: &mut Tx, scope: &Scope, id: &str) -> Result<Option<PinnedSession>, StorageError> {
    let sql = "SELECT * FROM pinned_session WHERE id = $1 AND tenant_id = $2";
    Ok(fetch_optional!(tx, Row, sql, id, scope.owner().as_uuid())?.map(PinnedSession::from))
}

/// Ends a session; false if there is none such, or it was over already.
pub async fn end(tx: &mut Tx, scope: &Scope, id: &str, now: Moment) -> Result<bool, StorageError> {
    let sql = "UPDATE pinned_session SET ended_at = $1
               WHERE id = $2 AND tenant_id = $3 AND ended_at IS NULL AND expires_at > $1";
    Ok(execute!(tx, sql, now.0, id, scope.owner().as_uuid())? == 1)
}

/// Deletes what has been over for long.
pub async fn delete_expired(tx: &mut Tx, before: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM pinned_session WHERE expires_at < $1", before.0)
}
