//! Users, their places in tenants, the browsers they are known by, and one-time links.

use uuid::Uuid;

use super::{Database, StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional, word};
use crate::domain::account::{Email, Membership, PlatformRole, TenantRole, User, Ways};
use crate::domain::clock::Moment;
use crate::domain::ids::{TenantId, UserId};
use crate::domain::words;

#[derive(sqlx::FromRow)]
struct UserRow {
    id: Uuid,
    email: String,
    platform_role: Option<String>,
    disabled_at: Option<i64>,
    created_at: i64,
    proved_at: Option<i64>,
    sessions_from: i64,
    has_password: bool,
    has_code: bool,
    has_passkey: bool,
}

impl TryFrom<UserRow> for User {
    type Error = StorageError;

    fn try_from(row: UserRow) -> Result<Self, StorageError> {
        let platform_role = match row.platform_role {
            Some(role) => Some(word!(PlatformRole, role, "app_user", "platform_role")?),
            None => None,
        };
        Ok(Self {
            id: UserId(row.id),
            email: row.email,
            platform_role,
            disabled_at: row.disabled_at.map(Moment),
            created_at: Moment(row.created_at),
            proved_at: row.proved_at.map(Moment),
            sessions_from: Moment(row.sessions_from),
            ways: Ways {
                password: row.has_password,
                code: row.has_code,
                passkey: row.has_passkey,
                sso: false,
            },
        })
    }
}

/// Stands for a password that is not chosen yet; no password hashes to it.
pub const NO_PASSWORD: &str = "!";

/// A person as queries read them from `app_user u`, in the order of `UserRow`.
macro_rules! columns {
    () => {
        "u.id, u.email, u.platform_role, u.disabled_at, u.created_at, u.proved_at, u.sessions_from,
         u.password_hash <> '!' AS has_password,
         EXISTS (SELECT 1 FROM authenticator f
                 WHERE f.user_id = u.id AND f.confirmed_at IS NOT NULL) AS has_code,
         EXISTS (SELECT 1 FROM passkey f WHERE f.user_id = u.id) AS has_passkey"
    };
}

/// The same with one of their places, in the order of `PersonRow`, and what that is joined to.
macro_rules! columns_with_place {
    () => {
        concat!($crate::storage::people::columns!(), ", t.id AS tenant, t.slug, t.name, m.role")
    };
}
macro_rules! with_place {
    () => {
        " LEFT JOIN membership m ON m.user_id = u.id LEFT JOIN tenant t ON t.id = m.tenant_id "
    };
}
pub(super) use {columns, columns_with_place, with_place};

macro_rules! select {
    () => {
        concat!("SELECT ", columns!(), " FROM app_user u ")
    };
}

pub async fn find(tx: &mut Tx, id: UserId) -> Result<Option<User>, StorageError> {
    let sql = concat!(select!(), "WHERE u.id = $1");
    fetch_optional!(tx, UserRow, sql, id.0)?.map(User::try_from).transpose()
}

pub async fn find_by_email(tx: &mut Tx, email: &Email) -> Result<Option<User>, StorageError> {
    let sql = concat!(select!(), "WHERE u.email = $1");
    fetch_optional!(tx, UserRow, sql, email.as_str())?.map(User::try_from).transpose()
}

pub async fn list(tx: &mut Tx) -> Result<Vec<User>, StorageError> {
    let sql = concat!(select!(), "ORDER BY u.email");
    fetch_all!(tx, UserRow, sql)?.into_iter().map(User::try_from).collect()
}

pub async fn count(tx: &mut Tx) -> Result<i64, StorageError> {
    Ok(fetch_one!(tx, (i64,), "SELECT COUNT(*) FROM app_user")?.0)
}

pub async fn password_hash(tx: &mut Tx, id: UserId) -> Result<Option<String>, StorageError> {
    let sql = "SELECT password_hash FROM app_user WHERE id = $1 AND disabled_at IS NULL";
    Ok(fetch_optional!(tx, (String,), sql, id.0)?.map(|row| row.0))
}

pub async fn insert(tx: &mut Tx, user: &User, password_hash: &str) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO app_user (id, email, platform_role, password_hash, disabled_at, created_at, proved_at, sessions_from)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        user.id.0,
        &user.email,
        user.platform_role.map(PlatformRole::as_str),
        password_hash,
        user.disabled_at.map(|at| at.0),
        user.created_at.0,
        user.proved_at.map(|at| at.0),
        user.sessions_from.0
    )?;
    Ok(())
}

pub async fn set_password(tx: &mut Tx, id: UserId, password_hash: &str) -> Result<(), StorageError> {
    execute!(tx, "UPDATE app_user SET password_hash = $1 WHERE id = $2", password_hash, id.0)?;
    Ok(())
}

/// It is known now that whoever has the account has the address.
pub async fn prove(tx: &mut Tx, id: UserId, now: Moment) -> Result<(), StorageError> {
    let sql = "UPDATE app_user SET proved_at = $1 WHERE id = $2 AND proved_at IS NULL";
    execute!(tx, sql, now.0, id.0)?;
    Ok(())
}

/// Locks a user out since a moment, or lets them in again.
pub async fn set_disabled(tx: &mut Tx, id: UserId, since: Option<Moment>) -> Result<(), StorageError> {
    execute!(tx, "UPDATE app_user SET disabled_at = $1 WHERE id = $2", since.map(|at| at.0), id.0)?;
    Ok(())
}

pub async fn add_member(
    tx: &mut Tx,
    user: UserId,
    tenant: TenantId,
    role: TenantRole,
    now: Moment,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO membership (user_id, tenant_id, role, created_at) VALUES ($1, $2, $3, $4)",
        user.0,
        tenant.0,
        role.as_str(),
        now.0
    )?;
    Ok(())
}

/// A person's place in a tenant, as a row has it: tenant, slug, name, role.
type PlaceRow = (Uuid, String, String, String);

fn place((tenant, tenant_slug, tenant_name, role): PlaceRow) -> Result<Membership, StorageError> {
    let role = word!(TenantRole, role, "membership", "role")?;
    Ok(Membership { tenant_id: TenantId(tenant), tenant_slug, tenant_name, role })
}

/// A person's places, the strongest role first and then by name.
pub async fn memberships(tx: &mut Tx, user: UserId) -> Result<Vec<Membership>, StorageError> {
    let rows = fetch_all!(
        tx,
        PlaceRow,
        "SELECT t.id, t.slug, t.name, m.role FROM membership m JOIN tenant t ON t.id = m.tenant_id
         WHERE m.user_id = $1 ORDER BY t.name",
        user.0
    )?;
    let mut places: Vec<Membership> = rows.into_iter().map(place).collect::<Result<_, _>>()?;
    places.sort_by_key(|place| place.role);
    Ok(places)
}

/// A person and one of their places; a person without any has one line without a place.
#[derive(sqlx::FromRow)]
pub(super) struct PersonRow {
    #[sqlx(flatten)]
    user: UserRow,
    tenant: Option<Uuid>,
    slug: Option<String>,
    name: Option<String>,
    role: Option<String>,
}

impl PersonRow {
    /// Those of `columns_with_place`, which come first. By place: names would be looked for in every row.
    /// `None` where nobody was joined.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Self>> {
        let id = |at| row.get::<_, Option<[u8; 16]>>(at).map(|id| id.map(Uuid::from_bytes));
        let Some(own) = id(0)? else { return Ok(None) };
        Ok(Some(Self {
            user: UserRow {
                id: own,
                email: row.get(1)?,
                platform_role: row.get(2)?,
                disabled_at: row.get(3)?,
                created_at: row.get(4)?,
                proved_at: row.get(5)?,
                sessions_from: row.get(6)?,
                has_password: row.get(7)?,
                has_code: row.get(8)?,
                has_passkey: row.get(9)?,
            },
            tenant: id(10)?,
            slug: row.get(11)?,
            name: row.get(12)?,
            role: row.get(13)?,
        }))
    }
}

/// A person and their places, the strongest role first and then by name.
pub type Placed = (User, Vec<Membership>);

/// Puts the lines of one person together.
pub(super) fn gather(rows: impl IntoIterator<Item = PersonRow>) -> Result<Option<Placed>, StorageError> {
    let mut user = None;
    let mut places = Vec::new();
    for row in rows {
        if let (Some(tenant), Some(slug), Some(name), Some(role)) = (row.tenant, row.slug, row.name, row.role)
        {
            places.push(place((tenant, slug, name, role))?);
        }
        user = Some(row.user);
    }
    places.sort_by(|a, b| a.role.cmp(&b.role).then_with(|| a.tenant_name.cmp(&b.tenant_name)));
    Ok(user.map(User::try_from).transpose()?.map(|user| (user, places)))
}

pub async fn with_places(db: &Database, id: UserId) -> Result<Option<Placed>, StorageError> {
    let sql =
        concat!("SELECT ", columns_with_place!(), " FROM app_user u ", with_place!(), "WHERE u.id = $1");
    match db {
        Database::Sqlite(sqlite) => {
            gather(sqlite.look(sql, [id.0.as_bytes()], PersonRow::read)?.into_iter().flatten())
        }
        Database::Postgres(pool) => {
            gather(sqlx::query_as::<_, PersonRow>(sql).bind(id.0).fetch_all(pool).await?)
        }
    }
}

/// Whether the account has signed in from this browser before.
pub async fn is_known_device(tx: &mut Tx, user: UserId, device: &str) -> Result<bool, StorageError> {
    let sql = "SELECT seen_at FROM known_device WHERE user_id = $1 AND device = $2";
    Ok(fetch_optional!(tx, (i64,), sql, user.0, device)?.is_some())
}

/// Whether the account has signed in from any other browser before.
pub async fn has_devices(tx: &mut Tx, user: UserId, but: &str) -> Result<bool, StorageError> {
    let sql = "SELECT seen_at FROM known_device WHERE user_id = $1 AND device <> $2 LIMIT 1";
    Ok(fetch_optional!(tx, (i64,), sql, user.0, but)?.is_some())
}

pub async fn remember_device(
    tx: &mut Tx,
    user: UserId,
    device: &str,
    now: Moment,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO known_device (user_id, device, seen_at) VALUES ($1, $2, $3)
         ON CONFLICT (user_id, device) DO UPDATE SET seen_at = excluded.seen_at",
        user.0,
        device,
        now.0
    )?;
    Ok(())
}

words! {
    pub enum LinkPurpose { FirstAdmin = "first_admin", ResetPassword = "reset_password" }
}

/// A one-time link: what it is for and whom.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub purpose: LinkPurpose,
    pub user_id: Option<UserId>,
    pub expires_at: Moment,
}

pub async fn insert_link(tx: &mut Tx, hash: &[u8; 32], link: Link) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO one_time_link (token_hash, purpose, user_id, expires_at) VALUES ($1, $2, $3, $4)",
        &hash[..],
        link.purpose.as_str(),
        link.user_id.map(|id| id.0),
        link.expires_at.0
    )?;
    Ok(())
}

pub async fn find_link(tx: &mut Tx, hash: &[u8; 32]) -> Result<Option<Link>, StorageError> {
    let row = fetch_optional!(
        tx,
        (String, Option<Uuid>, i64),
        "SELECT purpose, user_id, expires_at FROM one_time_link WHERE token_hash = $1",
        &hash[..]
    )?;
    row.map(|(purpose, user, expires_at)| {
        Ok(Link {
            purpose: word!(LinkPurpose, purpose, "one_time_link", "purpose")?,
            user_id: user.map(UserId),
            expires_at: Moment(expires_at),
        })
    })
    .transpose()
}

/// Uses a link up. False if somebody else was first.
pub async fn take_link(tx: &mut Tx, hash: &[u8; 32]) -> Result<bool, StorageError> {
    Ok(execute!(tx, "DELETE FROM one_time_link WHERE token_hash = $1", &hash[..])? == 1)
}

/// Makes older links of the same purpose and person useless.
pub async fn drop_links(tx: &mut Tx, purpose: LinkPurpose, user: Option<UserId>) -> Result<(), StorageError> {
    let user = user.map(|id| id.0);
    execute!(
        tx,
        "DELETE FROM one_time_link WHERE purpose = $1
         AND (user_id = $2 OR (user_id IS NULL AND CAST($3 AS INTEGER) = 1))",
        purpose.as_str(),
        user,
        i32::from(user.is_none())
    )?;
    Ok(())
}

/// How many links of a purpose a person has that still work.
pub async fn count_links(
    tx: &mut Tx,
    purpose: LinkPurpose,
    user: UserId,
    now: Moment,
) -> Result<i64, StorageError> {
    let sql = "SELECT COUNT(*) FROM one_time_link WHERE purpose = $1 AND user_id = $2 AND expires_at > $3";
    Ok(fetch_one!(tx, (i64,), sql, purpose.as_str(), user.0, now.0)?.0)
}

pub async fn delete_expired_links(tx: &mut Tx, now: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM one_time_link WHERE expires_at <= $1", now.0)
}

pub async fn forget_devices(tx: &mut Tx, before: Moment) -> Result<u64, StorageError> {
    execute!(tx, "DELETE FROM known_device WHERE seen_at < $1", before.0)
}
