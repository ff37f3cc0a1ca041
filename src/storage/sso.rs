//! Identity providers of tenants, and whom they mean.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::account::TenantRole;
use crate::domain::clock::Moment;
use crate::domain::ids::{TenantId, UserId};

/// A tenant's identity provider; the client's secret is sealed.
#[derive(Clone, Debug)]
pub struct Connection {
    pub tenant: TenantId,
    pub issuer: String,
    pub client_id: String,
    pub sealed: Vec<u8>,
    pub domain: String,
    /// What the domain has to say to show that it is the tenant's.
    pub domain_proof: String,
    pub verified_at: Option<Moment>,
    pub default_role: TenantRole,
    pub updated_at: Moment,
    pub updated_by: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    tenant_id: Uuid,
    issuer: String,
    client_id: String,
    sealed: Vec<u8>,
    domain: String,
    domain_proof: String,
    verified_at: Option<i64>,
    default_role: String,
    updated_at: i64,
    updated_by: String,
}

impl TryFrom<Row> for Connection {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        Ok(Self {
            tenant: TenantId(row.tenant_id),
            issuer: row.issuer,
            client_id: row.client_id,
            sealed: row.sealed,
            domain: row.domain,
            domain_proof: row.domain_proof,
            verified_at: row.verified_at.map(Moment),
            default_role: word!(TenantRole, row.default_role, "sso_connection", "default_role")?,
            updated_at: Moment(row.updated_at),
            updated_by: row.updated_by,
        })
    }
}

pub async fn find(tx: &mut Tx, scope: &Scope) -> Result<Option<Connection>, StorageError> {
    let sql = "SELECT * FROM sso_connection WHERE tenant_id = $1";
    fetch_optional!(tx, Row, sql, scope.owner().as_uuid())?.map(Connection::try_from).transpose()
}

/// The connection of a domain that has shown whose it is.
pub async fn of_domain(tx: &mut Tx, domain: &str) -> Result<Option<Connection>, StorageError> {
    let sql = "SELECT * FROM sso_connection WHERE domain = $1 AND verified_at IS NOT NULL";
    fetch_optional!(tx, Row, sql, domain)?.map(Connection::try_from).transpose()
}

/// Writes a connection, in place of the one that there was.
pub async fn put(tx: &mut Tx, connection: &Connection) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO sso_connection (tenant_id, issuer, client_id, sealed, domain, domain_proof, verified_at,
                                     default_role, updated_at, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (tenant_id) DO UPDATE SET issuer = excluded.issuer, client_id = excluded.client_id,
            sealed = excluded.sealed, domain = excluded.domain, domain_proof = excluded.domain_proof,
            verified_at = excluded.verified_at, default_role = excluded.default_role,
            updated_at = excluded.updated_at, updated_by = excluded.updated_by",
        connection.tenant.0,
        &connection.issuer,
        &connection.client_id,
        &connection.sealed[..],
        &connection.domain,
        &connection.domain_proof,
        connection.verified_at.map(|at| at.0),
        connection.default_role.as_str(),
        connection.updated_at.0,
        &connection.updated_by
    )?;
    Ok(())
}

/// The domain has shown whose it is: a conflict where another tenant's has shown it too. False when it was
/// changed meanwhile.
pub async fn verify(
    tx: &mut Tx,
    scope: &Scope,
    domain: &str,
    proof: &str,
    now: Moment,
) -> Result<bool, StorageError> {
    let sql = "UPDATE sso_connection SET verified_at = $1
               WHERE tenant_id = $2 AND domain = $3 AND domain_proof = $4";
    Ok(execute!(tx, sql, now.0, scope.owner().as_uuid(), domain, proof)? == 1)
}

pub async fn delete(tx: &mut Tx, scope: &Scope) -> Result<bool, StorageError> {
    forget_identities(tx, scope).await?;
    Ok(execute!(tx, "DELETE FROM sso_connection WHERE tenant_id = $1", scope.owner().as_uuid())? == 1)
}

/// Whom the provider means by a subject.
pub async fn identity(
    tx: &mut Tx,
    tenant: TenantId,
    issuer: &str,
    subject: &str,
) -> Result<Option<UserId>, StorageError> {
    let sql = "SELECT user_id FROM sso_identity WHERE tenant_id = $1 AND issuer = $2 AND subject = $3";
    Ok(fetch_optional!(tx, (Uuid,), sql, tenant.0, issuer, subject)?.map(|row| UserId(row.0)))
}

/// Whether the provider means this person by some subject already.
pub async fn is_linked(
    tx: &mut Tx,
    tenant: TenantId,
    issuer: &str,
    user: UserId,
) -> Result<bool, StorageError> {
    let sql = "SELECT subject FROM sso_identity WHERE tenant_id = $1 AND issuer = $2 AND user_id = $3";
    Ok(fetch_optional!(tx, (String,), sql, tenant.0, issuer, user.0)?.is_some())
}

/// Forgets whom a tenant's provider means: another one, or another client of it, has other subjects.
pub async fn forget_identities(tx: &mut Tx, scope: &Scope) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM sso_identity WHERE tenant_id = $1", scope.owner().as_uuid())?;
    Ok(())
}

pub async fn insert_identity(
    tx: &mut Tx,
    tenant: TenantId,
    issuer: &str,
    subject: &str,
    user: UserId,
    now: Moment,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO sso_identity (tenant_id, issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4, $5)";
    execute!(tx, sql, tenant.0, issuer, subject, user.0, now.0)?;
    Ok(())
}
