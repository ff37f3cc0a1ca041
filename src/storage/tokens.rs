//! Access tokens, kept as hashes.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_optional};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::{Owner, TenantId, TokenId};

/// What is known of an access token. Its secret was shown once and is not kept.
#[derive(Clone, Debug)]
pub struct AccessToken {
    pub id: TokenId,
    /// `None` for a service token, which acts for the tenant that a request names.
    pub tenant_id: Option<TenantId>,
    pub name: String,
    /// The beginning of the token, by which people tell tokens apart.
    pub hint: String,
    pub scopes: Vec<String>,
    pub created_by: String,
    pub created_at: Moment,
    pub expires_at: Option<Moment>,
    pub last_used_at: Option<Moment>,
    pub revoked_at: Option<Moment>,
    /// When another one took its place.
    pub rotated_at: Option<Moment>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    tenant_id: Option<Uuid>,
    name: String,
    hint: String,
    scopes: String,
    created_by: String,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
    revoked_at: Option<i64>,
    rotated_at: Option<i64>,
}

impl From<Row> for AccessToken {
    fn from(row: Row) -> Self {
        Self {
            id: TokenId(row.id),
            tenant_id: row.tenant_id.map(TenantId),
            name: row.name,
            hint: row.hint,
            scopes: row.scopes.split_whitespace().map(str::to_owned).collect(),
            created_by: row.created_by,
            created_at: Moment(row.created_at),
            expires_at: row.expires_at.map(Moment),
            last_used_at: row.last_used_at.map(Moment),
            revoked_at: row.revoked_at.map(Moment),
            rotated_at: row.rotated_at.map(Moment),
        }
    }
}

pub async fn insert(tx: &mut Tx, hash: &[u8; 32], token: &AccessToken) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO access_token (id, tenant_id, name, token_hash, hint, scopes, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        token.id.0,
        token.tenant_id.map(|id| id.0),
        &token.name,
        &hash[..],
        &token.hint,
        token.scopes.join(" "),
        &token.created_by,
        token.created_at.0,
        token.expires_at.map(|at| at.0)
    )?;
    Ok(())
}

/// Tokens of the tenant, or service tokens for the platform's scope, newest first.
pub async fn list(tx: &mut Tx, scope: &Scope) -> Result<Vec<AccessToken>, StorageError> {
    let rows = match scope.owner() {
        Owner::Tenant(id) => {
            let sql = "SELECT * FROM access_token WHERE tenant_id = $1 AND revoked_at IS NULL ORDER BY created_at DESC";
            fetch_all!(tx, Row, sql, id.0)?
        }
        Owner::Platform => {
            let sql = "SELECT * FROM access_token WHERE tenant_id IS NULL AND revoked_at IS NULL ORDER BY created_at DESC";
            fetch_all!(tx, Row, sql)?
        }
    };
    Ok(rows.into_iter().map(AccessToken::from).collect())
}

/// The token of this hash, unless it was revoked. Expiry is for the caller to judge.
pub async fn find_by_hash(tx: &mut Tx, hash: &[u8; 32]) -> Result<Option<AccessToken>, StorageError> {
    let sql = "SELECT * FROM access_token WHERE token_hash = $1 AND revoked_at IS NULL";
    Ok(fetch_optional!(tx, Row, sql, &hash[..])?.map(AccessToken::from))
}

/// Revokes a token of this owner and gives its name; `None` if there is none such.
pub async fn revoke(
    tx: &mut Tx,
    scope: &Scope,
    id: TokenId,
    now: Moment,
) -> Result<Option<String>, StorageError> {
    let sql = match scope.owner() {
        Owner::Tenant(_) => {
            "UPDATE access_token SET revoked_at = $1
             WHERE id = $2 AND tenant_id = $3 AND revoked_at IS NULL RETURNING name"
        }
        Owner::Platform => {
            "UPDATE access_token SET revoked_at = $1
             WHERE id = $2 AND tenant_id IS NULL AND $3 = $3 AND revoked_at IS NULL RETURNING name"
        }
    };
    let row = fetch_optional!(tx, (String,), sql, now.0, id.0, scope.owner().as_uuid())?;
    Ok(row.map(|row| row.0))
}

/// Has a token whose place another one took work until then; false if it was rotated before.
pub async fn rotate(tx: &mut Tx, id: TokenId, now: Moment, until: Moment) -> Result<bool, StorageError> {
    let sql = "UPDATE access_token SET rotated_at = $1, expires_at = $2 WHERE id = $3 AND rotated_at IS NULL";
    Ok(execute!(tx, sql, now.0, until.0, id.0)? == 1)
}

pub async fn touch(tx: &mut Tx, id: TokenId, at: Moment) -> Result<(), StorageError> {
    execute!(tx, TOUCH, at.0, id.0)?;
    Ok(())
}

pub(super) const TOUCH: &str = "UPDATE access_token SET last_used_at = $1 WHERE id = $2";
