//! Who belongs to a tenant, who is invited, and who has left.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::account::TenantRole;
use crate::domain::clock::Moment;
use crate::domain::ids::{InvitationId, TenantId, UserId};

/// A person in a tenant.
#[derive(Clone, Debug)]
pub struct Member {
    pub user: UserId,
    pub email: String,
    pub role: TenantRole,
    pub since: Moment,
    /// When they last signed in.
    pub seen_at: Option<Moment>,
    pub disabled: bool,
}

#[derive(sqlx::FromRow)]
struct MemberRow {
    user_id: Uuid,
    email: String,
    role: String,
    created_at: i64,
    seen_at: Option<i64>,
    disabled_at: Option<i64>,
}

impl TryFrom<MemberRow> for Member {
    type Error = StorageError;

    fn try_from(row: MemberRow) -> Result<Self, StorageError> {
        Ok(Self {
            user: UserId(row.user_id),
            email: row.email,
            role: word!(TenantRole, row.role, "membership", "role")?,
            since: Moment(row.created_at),
            seen_at: row.seen_at.map(Moment),
            disabled: row.disabled_at.is_some(),
        })
    }
}

/// A tenant's members by their addresses.
pub async fn list(tx: &mut Tx, scope: &Scope) -> Result<Vec<Member>, StorageError> {
    let sql = "SELECT m.user_id, u.email, m.role, m.created_at, u.disabled_at,
                      (SELECT MAX(d.seen_at) FROM known_device d WHERE d.user_id = m.user_id) AS seen_at
               FROM membership m JOIN app_user u ON u.id = m.user_id WHERE m.tenant_id = $1 ORDER BY u.email";
    let rows = fetch_all!(tx, MemberRow, sql, scope.owner().as_uuid())?;
    rows.into_iter().map(Member::try_from).collect()
}

/// Takes the tenant's members for oneself until the transaction ends, so that the last admin is the
/// last for everybody.
pub async fn lock(tx: &mut Tx, scope: &Scope) -> Result<(), StorageError> {
    execute!(tx, "UPDATE tenant SET name = name WHERE id = $1", scope.owner().as_uuid())?;
    Ok(())
}

pub async fn set_role(
    tx: &mut Tx,
    scope: &Scope,
    user: UserId,
    role: TenantRole,
) -> Result<(), StorageError> {
    let sql = "UPDATE membership SET role = $1 WHERE tenant_id = $2 AND user_id = $3";
    execute!(tx, sql, role.as_str(), scope.owner().as_uuid(), user.0)?;
    Ok(())
}

/// Takes a person out of a tenant, and remembers that they were in it.
pub async fn remove(tx: &mut Tx, scope: &Scope, member: &Member, now: Moment) -> Result<(), StorageError> {
    let owner = scope.owner().as_uuid();
    let sql = "DELETE FROM membership WHERE tenant_id = $1 AND user_id = $2";
    execute!(tx, sql, owner, member.user.0)?;
    let sql = "INSERT INTO former_member (tenant_id, email, left_at) VALUES ($1, $2, $3)
               ON CONFLICT (tenant_id, email) DO UPDATE SET left_at = excluded.left_at";
    execute!(tx, sql, owner, &member.email, now.0)?;
    Ok(())
}

/// How many tenants a person is in.
pub async fn places(tx: &mut Tx, user: UserId) -> Result<i64, StorageError> {
    Ok(fetch_one!(tx, (i64,), "SELECT COUNT(*) FROM membership WHERE user_id = $1", user.0)?.0)
}

/// Who has left: address and when.
pub async fn former(tx: &mut Tx, scope: &Scope) -> Result<Vec<(String, Moment)>, StorageError> {
    let sql = "SELECT email, left_at FROM former_member WHERE tenant_id = $1";
    let rows = fetch_all!(tx, (String, i64), sql, scope.owner().as_uuid())?;
    Ok(rows.into_iter().map(|(email, at)| (email, Moment(at))).collect())
}

/// Somebody who left is back.
pub async fn forget_former(tx: &mut Tx, tenant: TenantId, email: &str) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM former_member WHERE tenant_id = $1 AND email = $2", tenant.0, email)?;
    Ok(())
}

#[derive(Clone, Debug)]
pub struct Invitation {
    pub id: InvitationId,
    pub tenant: TenantId,
    pub email: String,
    pub role: TenantRole,
    pub invited_by: String,
    pub created_at: Moment,
    pub expires_at: Moment,
    /// Whether whoever has the link reads the address's letters.
    pub mailed: bool,
}

#[derive(sqlx::FromRow)]
struct InvitationRow {
    id: Uuid,
    tenant_id: Uuid,
    email: String,
    role: String,
    invited_by: String,
    created_at: i64,
    expires_at: i64,
    mailed: i64,
}

impl TryFrom<InvitationRow> for Invitation {
    type Error = StorageError;

    fn try_from(row: InvitationRow) -> Result<Self, StorageError> {
        Ok(Self {
            id: InvitationId(row.id),
            tenant: TenantId(row.tenant_id),
            email: row.email,
            role: word!(TenantRole, row.role, "invitation", "role")?,
            invited_by: row.invited_by,
            created_at: Moment(row.created_at),
            expires_at: Moment(row.expires_at),
            mailed: row.mailed != 0,
        })
    }
}

/// Keeps an invitation; one of the same address gives way to it, and its link works no more.
pub async fn invite(tx: &mut Tx, one: &Invitation, hash: &[u8; 32]) -> Result<(), StorageError> {
    let sql = "DELETE FROM invitation WHERE tenant_id = $1 AND email = $2";
    execute!(tx, sql, one.tenant.0, &one.email)?;
    execute!(
        tx,
        "INSERT INTO invitation (id, tenant_id, token_hash, email, role, invited_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        one.id.0,
        one.tenant.0,
        &hash[..],
        &one.email,
        one.role.as_str(),
        &one.invited_by,
        one.created_at.0,
        one.expires_at.0
    )?;
    Ok(())
}

/// Invitations that still hold, the newest first.
pub async fn invitations(tx: &mut Tx, scope: &Scope, now: Moment) -> Result<Vec<Invitation>, StorageError> {
    let sql = "SELECT id, tenant_id, email, role, invited_by, created_at, expires_at, mailed FROM invitation
               WHERE tenant_id = $1 AND expires_at > $2 ORDER BY id DESC";
    let rows = fetch_all!(tx, InvitationRow, sql, scope.owner().as_uuid(), now.0)?;
    rows.into_iter().map(Invitation::try_from).collect()
}

pub async fn find_invitation(
    tx: &mut Tx,
    hash: &[u8; 32],
    now: Moment,
) -> Result<Option<Invitation>, StorageError> {
    let sql = "SELECT id, tenant_id, email, role, invited_by, created_at, expires_at, mailed FROM invitation
               WHERE token_hash = $1 AND expires_at > $2";
    fetch_optional!(tx, InvitationRow, sql, &hash[..], now.0)?.map(Invitation::try_from).transpose()
}

/// Uses an invitation up, or takes it back. False if somebody else was first.
pub async fn delete_invitation(
    tx: &mut Tx,
    tenant: TenantId,
    id: InvitationId,
) -> Result<bool, StorageError> {
    Ok(execute!(tx, "DELETE FROM invitation WHERE tenant_id = $1 AND id = $2", tenant.0, id.0)? > 0)
}

/// Takes back whatever invites an address into a tenant.
pub async fn drop_invitations(tx: &mut Tx, tenant: TenantId, email: &str) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM invitation WHERE tenant_id = $1 AND email = $2", tenant.0, email)
}

/// Takes back what somebody has invited others by, who may no longer.
pub async fn drop_invitations_by(tx: &mut Tx, scope: &Scope, email: &str) -> Result<u64, StorageError> {
    let sql = "DELETE FROM invitation WHERE tenant_id = $1 AND (invited_by = $2 OR email = $2)";
    execute!(tx, sql, scope.owner().as_uuid(), email)
}

/// Says that an invitation's link went out by e-mail, and was shown to nobody.
pub async fn mark_mailed(tx: &mut Tx, id: InvitationId) -> Result<(), StorageError> {
    execute!(tx, "UPDATE invitation SET mailed = 1 WHERE id = $1", id.0)?;
    Ok(())
}

pub async fn delete_expired(tx: &mut Tx, now: Moment) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM invitation WHERE expires_at <= $1", now.0)?;
    Ok(())
}
