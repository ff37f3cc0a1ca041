//! Tenants, their payment policy and the history of their usage mode.

use uuid::Uuid;

use super::{StorageError, Tx, containing, execute, fetch_all, fetch_one, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::account::{KeyChangers, SecondFactorRule, Slug, Tenant, TenantState};
use crate::domain::billing::{Funding, LimitPolicy, ModeChange, NoKeyPolicy, PaymentPolicy, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::ids::{PlanId, TenantId};
use crate::domain::price::Multiplier;
use crate::domain::viewing::{ViewingConsent, ViewingRule};

/// A tenant and how it pays.
#[derive(Clone, Debug)]
pub struct TenantRecord {
    pub tenant: Tenant,
    pub policy: PaymentPolicy,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    slug: String,
    name: String,
    plan_id: Uuid,
    state: String,
    key_changers: String,
    second_factor: String,
    sso_required: i64,
    sso_sessions_from: i64,
    viewing_consent: String,
    viewing_until: i64,
    rotation_days: i64,
    time_zone: String,
    mode: String,
    funding: String,
    no_key_policy: String,
    limit_policy: String,
    rate_permille: i32,
    created_at: i64,
}

impl TryFrom<Row> for TenantRecord {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        Ok(Self {
            tenant: Tenant {
                id: TenantId(row.id),
                slug: word!(Slug, row.slug, "tenant", "slug")?,
                name: row.name,
                plan_id: PlanId(row.plan_id),
                state: word!(TenantState, row.state, "tenant", "state")?,
                key_changers: word!(KeyChangers, row.key_changers, "tenant", "key_changers")?,
                second_factor: word!(SecondFactorRule, row.second_factor, "tenant", "second_factor")?,
                sso_required: row.sso_required != 0,
                sso_sessions_from: Moment(row.sso_sessions_from),
                viewing: ViewingRule {
                    consent: word!(ViewingConsent, row.viewing_consent, "tenant", "viewing_consent")?,
                    until: Moment(row.viewing_until),
                },
                rotation_days: row.rotation_days,
                time_zone: row.time_zone,
                created_at: Moment(row.created_at),
            },
            policy: PaymentPolicy {
                mode: word!(UsageMode, row.mode, "tenant", "mode")?,
                funding: word!(Funding, row.funding, "tenant", "funding")?,
                no_key: word!(NoKeyPolicy, row.no_key_policy, "tenant", "no_key_policy")?,
                on_limit: word!(LimitPolicy, row.limit_policy, "tenant", "limit_policy")?,
                rate: Multiplier(row.rate_permille),
            },
        })
    }
}

pub async fn find(tx: &mut Tx, id: TenantId) -> Result<Option<TenantRecord>, StorageError> {
    let sql = "SELECT * FROM tenant WHERE id = $1";
    fetch_optional!(tx, Row, sql, id.0)?.map(TenantRecord::try_from).transpose()
}

pub async fn find_by_slug(tx: &mut Tx, slug: &str) -> Result<Option<TenantRecord>, StorageError> {
    let sql = "SELECT * FROM tenant WHERE slug = $1";
    fetch_optional!(tx, Row, sql, slug)?.map(TenantRecord::try_from).transpose()
}

/// Tenants whose name or slug holds `search`, by name: at most `limit` of them, `skip` left out before.
pub async fn list(
    tx: &mut Tx,
    search: &str,
    limit: i64,
    skip: i64,
) -> Result<Vec<TenantRecord>, StorageError> {
    let rows = if search.is_empty() {
        let sql = "SELECT * FROM tenant ORDER BY name, id LIMIT $1 OFFSET $2";
        fetch_all!(tx, Row, sql, limit, skip)?
    } else {
        let pattern = containing(search);
        let sql = "SELECT * FROM tenant
                   WHERE LOWER(name) LIKE $1 ESCAPE '\\' OR slug LIKE $1 ESCAPE '\\'
                   ORDER BY name, id LIMIT $2 OFFSET $3";
        fetch_all!(tx, Row, sql, &pattern, limit, skip)?
    };
    rows.into_iter().map(TenantRecord::try_from).collect()
}

/// How many tenants `list` would find without a limit.
pub async fn count(tx: &mut Tx, search: &str) -> Result<i64, StorageError> {
    let sql = "SELECT COUNT(*) FROM tenant WHERE LOWER(name) LIKE $1 ESCAPE '\\' OR slug LIKE $1 ESCAPE '\\'";
    Ok(fetch_one!(tx, (i64,), sql, &containing(search))?.0)
}

/// Every tenant, for jobs.
pub async fn all(tx: &mut Tx) -> Result<Vec<TenantRecord>, StorageError> {
    let sql = "SELECT * FROM tenant ORDER BY id";
    fetch_all!(tx, Row, sql)?.into_iter().map(TenantRecord::try_from).collect()
}

pub async fn insert(tx: &mut Tx, record: &TenantRecord) -> Result<(), StorageError> {
    let TenantRecord { tenant, policy } = record;
    execute!(
        tx,
        "INSERT INTO tenant (id, slug, name, plan_id, state, key_changers, time_zone,
                             mode, funding, no_key_policy, limit_policy, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        tenant.id.0,
        tenant.slug.as_str(),
        &tenant.name,
        tenant.plan_id.0,
        tenant.state.as_str(),
        tenant.key_changers.as_str(),
        &tenant.time_zone,
        policy.mode.as_str(),
        policy.funding.as_str(),
        policy.no_key.as_str(),
        policy.on_limit.as_str(),
        tenant.created_at.0
    )?;
    insert_plan_change(tx, tenant.id.0, tenant.plan_id, tenant.created_at).await?;
    insert_funding_change(tx, tenant.id.0, policy.funding, tenant.created_at).await?;
    insert_mode_change(tx, tenant.id, policy.mode, tenant.created_at).await
}

async fn insert_funding_change(
    tx: &mut Tx,
    tenant: Uuid,
    funding: Funding,
    at: Moment,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO funding_change (id, tenant_id, funding, at) VALUES ($1, $2, $3, $4)";
    execute!(tx, sql, Uuid::now_v7(), tenant, funding.as_str(), at.0)?;
    Ok(())
}

/// How managed use was paid and since when, newest first.
pub async fn funding_changes(tx: &mut Tx, scope: &Scope) -> Result<Vec<(Funding, Moment)>, StorageError> {
    let sql = "SELECT funding, at FROM funding_change WHERE tenant_id = $1 ORDER BY at DESC";
    fetch_all!(tx, (String, i64), sql, scope.owner().as_uuid())?
        .into_iter()
        .map(|(funding, at)| Ok((word!(Funding, funding, "funding_change", "funding")?, Moment(at))))
        .collect()
}

/// Changes the mode from now on, if it still is `from`; false if somebody else was first.
pub async fn set_mode(
    tx: &mut Tx,
    scope: &Scope,
    from: UsageMode,
    to: UsageMode,
    now: Moment,
) -> Result<bool, StorageError> {
    let Some(tenant) = scope.tenant() else { return Ok(false) };
    let sql = "UPDATE tenant SET mode = $1 WHERE id = $2 AND mode = $3";
    if execute!(tx, sql, to.as_str(), tenant.0, from.as_str())? == 0 {
        return Ok(false);
    }
    insert_mode_change(tx, tenant, to, now).await?;
    Ok(true)
}

/// Adds a dated entry. Also for sample data, whose history begins before the tenant's row.
pub async fn insert_mode_change(
    tx: &mut Tx,
    tenant: TenantId,
    mode: UsageMode,
    at: Moment,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO mode_change (id, tenant_id, mode, at) VALUES ($1, $2, $3, $4)";
    execute!(tx, sql, Uuid::now_v7(), tenant.0, mode.as_str(), at.0)?;
    Ok(())
}

/// Changes of mode from `since` on, oldest first.
pub async fn mode_changes(
    tx: &mut Tx,
    scope: &Scope,
    since: Moment,
) -> Result<Vec<ModeChange>, StorageError> {
    let sql = "SELECT mode, at FROM mode_change WHERE tenant_id = $1 AND at >= $2 ORDER BY at";
    fetch_all!(tx, (String, i64), sql, scope.owner().as_uuid(), since.0)?
        .into_iter()
        .map(|(mode, at)| {
            Ok(ModeChange { mode: word!(UsageMode, mode, "mode_change", "mode")?, at: Moment(at) })
        })
        .collect()
}

/// Changes how managed use is paid from now on, if it still is `from`; false if somebody else was first.
pub async fn set_funding(
    tx: &mut Tx,
    scope: &Scope,
    from: Funding,
    to: Funding,
    now: Moment,
) -> Result<bool, StorageError> {
    let owner = scope.owner().as_uuid();
    let sql = "UPDATE tenant SET funding = $1 WHERE id = $2 AND funding = $3";
    if execute!(tx, sql, to.as_str(), owner, from.as_str())? == 0 {
        return Ok(false);
    }
    insert_funding_change(tx, owner, to, now).await?;
    Ok(true)
}

pub async fn set_policies(
    tx: &mut Tx,
    scope: &Scope,
    no_key: NoKeyPolicy,
    on_limit: LimitPolicy,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "UPDATE tenant SET no_key_policy = $1, limit_policy = $2 WHERE id = $3",
        no_key.as_str(),
        on_limit.as_str(),
        scope.owner().as_uuid()
    )?;
    Ok(())
}

/// Changes what the tenant pays of the list price of managed use, if it still is `from`; false if
/// somebody else was first.
pub async fn set_rate(
    tx: &mut Tx,
    scope: &Scope,
    from: Multiplier,
    to: Multiplier,
) -> Result<bool, StorageError> {
    let sql = "UPDATE tenant SET rate_permille = $1 WHERE id = $2 AND rate_permille = $3";
    Ok(execute!(tx, sql, to.0, scope.owner().as_uuid(), from.0)? > 0)
}

pub async fn set_key_changers(
    tx: &mut Tx,
    scope: &Scope,
    key_changers: KeyChangers,
) -> Result<(), StorageError> {
    let sql = "UPDATE tenant SET key_changers = $1 WHERE id = $2";
    execute!(tx, sql, key_changers.as_str(), scope.owner().as_uuid())?;
    Ok(())
}

pub async fn set_second_factor(
    tx: &mut Tx,
    scope: &Scope,
    rule: SecondFactorRule,
) -> Result<(), StorageError> {
    let sql = "UPDATE tenant SET second_factor = $1 WHERE id = $2";
    execute!(tx, sql, rule.as_str(), scope.owner().as_uuid())?;
    Ok(())
}

pub async fn set_viewing(tx: &mut Tx, scope: &Scope, rule: ViewingRule) -> Result<(), StorageError> {
    let sql = "UPDATE tenant SET viewing_consent = $1, viewing_until = $2 WHERE id = $3";
    execute!(tx, sql, rule.consent.as_str(), rule.until.0, scope.owner().as_uuid())?;
    Ok(())
}

pub async fn set_sso_required(tx: &mut Tx, scope: &Scope, required: bool) -> Result<(), StorageError> {
    let sql = "UPDATE tenant SET sso_required = $1 WHERE id = $2";
    execute!(tx, sql, i64::from(required), scope.owner().as_uuid())?;
    Ok(())
}

/// Ends the sessions that came by single sign-on.
pub async fn end_sso_sessions(tx: &mut Tx, scope: &Scope, now: Moment) -> Result<(), StorageError> {
    let sql = "UPDATE tenant SET sso_sessions_from = $1 WHERE id = $2";
    execute!(tx, sql, now.0, scope.owner().as_uuid())?;
    Ok(())
}

pub async fn set_state(tx: &mut Tx, scope: &Scope, state: TenantState) -> Result<(), StorageError> {
    let sql = "UPDATE tenant SET state = $1 WHERE id = $2";
    execute!(tx, sql, state.as_str(), scope.owner().as_uuid())?;
    Ok(())
}

/// Puts a tenant on another plan from now on; false if it is not on `from` any more.
pub async fn set_plan(
    tx: &mut Tx,
    scope: &Scope,
    (from, to): (PlanId, PlanId),
    now: Moment,
) -> Result<bool, StorageError> {
    let owner = scope.owner().as_uuid();
    let sql = "UPDATE tenant SET plan_id = $1 WHERE id = $2 AND plan_id = $3";
    if execute!(tx, sql, to.0, owner, from.0)? == 0 {
        return Ok(false);
    }
    insert_plan_change(tx, owner, to, now).await?;
    Ok(true)
}

async fn insert_plan_change(tx: &mut Tx, tenant: Uuid, plan: PlanId, at: Moment) -> Result<(), StorageError> {
    let sql = "INSERT INTO plan_change (tenant_id, at, plan_id) VALUES ($1, $2, $3)
               ON CONFLICT (tenant_id, at) DO UPDATE SET plan_id = excluded.plan_id";
    execute!(tx, sql, tenant, at.0, plan.0)?;
    Ok(())
}

/// How many tenants of a plan have used a feature since a quarter-hour.
pub async fn count_using(
    tx: &mut Tx,
    plan: PlanId,
    feature: &str,
    since: Moment,
) -> Result<i64, StorageError> {
    let sql = "SELECT COUNT(*) FROM tenant t WHERE t.plan_id = $1 AND EXISTS (
                   SELECT 1 FROM usage_rollup r WHERE r.tenant_id = t.id AND r.bucket >= $2 AND r.feature = $3)";
    Ok(fetch_one!(tx, (i64,), sql, plan.0, since.0, feature)?.0)
}

pub async fn set_rotation_days(tx: &mut Tx, scope: &Scope, days: i64) -> Result<(), StorageError> {
    execute!(tx, "UPDATE tenant SET rotation_days = $1 WHERE id = $2", days, scope.owner().as_uuid())?;
    Ok(())
}
