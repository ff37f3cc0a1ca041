//! The platform's own business: tenants, settings of a tenant, and what a fresh database begins with.

use std::collections::{BTreeSet, HashSet};

use super::provider_keys::{Holder, NewKey, Saved};
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::{
    Email, KeyChangers, ROTATION_CHOICES, ROTATION_DAYS, SecondFactorRule, Slug, Tenant, TenantRole,
    TenantState, User,
};
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::billing::{Funding, LimitPolicy, NoKeyPolicy, PaymentPolicy, UsageMode};
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::{Owner, PlanId, PriceId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::plan::Plan;
use crate::domain::price::Multiplier;
use crate::domain::price_list;
use crate::domain::usage::bucket_of;
use crate::storage::tenants::TenantRecord;
use crate::storage::{Database, StorageError, audit, changes, people, plans, prices, tenants, usage_report};

/// A tenant as it was asked for.
#[derive(Debug, Default)]
pub struct NewTenant {
    pub name: String,
    pub slug: String,
    pub plan: String,
    pub time_zone: String,
    /// The first admin; gets a one-time link to choose a password if there is no such user yet.
    /// `None`: there is no person yet, as when a backend makes the tenant.
    pub admin_email: Option<String>,
    /// The tenant's own key; checked with a live call before anything is written.
    pub first_key: Option<NewKey>,
}

pub const TENANTS_ON_A_PAGE: i64 = 100;

/// A tenant as the platform's list shows it.
#[derive(Clone, Debug)]
pub struct TenantLine {
    pub record: TenantRecord,
    /// The quarter-hour of its latest request.
    pub last_used: Option<Moment>,
    /// At list price, in the last thirty days.
    pub spent: Nanos,
}

/// A tenant that was made.
#[derive(Debug)]
pub struct MadeTenant {
    pub slug: Slug,
    /// The first admin's one-time link, if one was made.
    pub link: Option<String>,
    pub key: Option<Saved>,
}

/// Puts in what every database holds: the price list and a plan to put tenants on.
///
/// # Errors
/// When the database fails.
pub async fn seed(db: &Database, now: crate::domain::clock::Moment) -> Result<(), StorageError> {
    let mut tx = db.write().await?;
    let mut changed = false;
    let known: HashSet<PriceId> = prices::list(&mut tx).await?.iter().map(|row| row.id).collect();
    for row in price_list::list().iter().filter(|row| !known.contains(&row.id)) {
        changed |= prices::insert(&mut tx, row).await?;
    }
    if plans::list(&mut tx).await?.is_empty() {
        let plan = Plan {
            id: PlanId::new(),
            slug: "standard".to_owned(),
            name: "Standard".to_owned(),
            features: BTreeSet::new(),
            models: BTreeSet::new(),
        };
        plans::insert(&mut tx, &plan).await?;
        changed = true;
    }
    if changed {
        changes::bump(&mut tx, Owner::Platform, now).await?;
        tx.commit().await?;
    }
    Ok(())
}

impl Services {
    /// Writes down which endpoints the operator allows beside the public ones.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn record_allowed_endpoints(&self) -> Result<(), ServiceError> {
        let allowed = &self.options.urls.allowed;
        if allowed.is_empty() {
            return Ok(());
        }
        let event = AuditEvent {
            at: self.clock.now(),
            actor: AuditActor::system("keyward"),
            action: AuditAction::EndpointsAllowed,
            target: "KEYWARD_ALLOWED_ENDPOINTS".to_owned(),
            detail: serde_json::json!({ "origins": allowed }),
        };
        let mut tx = self.db.write().await?;
        audit::append(&mut tx, &self.root, Owner::Platform, &event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Whoever holds the platform's shared keys and service tokens.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub fn platform_holder(&self, actor: &Actor) -> Result<Holder, ServiceError> {
        let scope = Scope::of_platform(actor).ok_or(ServiceError::Denied)?;
        Ok(Holder { scope, changers: KeyChangers::SuperAdmins })
    }

    /// Tenants by name, at most 200.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn list_tenants(
        &self,
        actor: &Actor,
        search: &str,
    ) -> Result<(Vec<TenantRecord>, Vec<Plan>), ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let mut tx = self.db.read().await?;
        Ok((tenants::list(&mut tx, search.trim(), 200, 0).await?, plans::list(&mut tx).await?))
    }

    /// A page of the tenants whose name or slug holds `search`, by name, each with its last use and what
    /// its last thirty days cost; and how many there are in all. Pages count from 1.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn tenants_page(
        &self,
        actor: &Actor,
        search: &str,
        page: i64,
    ) -> Result<(Vec<TenantLine>, i64), ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let since = bucket_of(self.clock.now().minus(30 * DAY));
        let search = search.trim();
        let mut tx = self.db.read().await?;
        let total = tenants::count(&mut tx, search).await?;
        let skip = page.saturating_sub(1).saturating_mul(TENANTS_ON_A_PAGE);
        let records = tenants::list(&mut tx, search, TENANTS_ON_A_PAGE, skip).await?;
        let ids: Vec<TenantId> = records.iter().map(|record| record.tenant.id).collect();
        let mut used = usage_report::latest_of_each(&mut tx, &ids, since).await?;
        let lines = records.into_iter().map(|record| {
            let (last_used, spent) = used.remove(&record.tenant.id).unwrap_or_default();
            TenantLine { record, last_used, spent }
        });
        Ok((lines.collect(), total))
    }

    /// Users of the platform, by address.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn list_users(&self, actor: &Actor) -> Result<Vec<User>, ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let mut tx = self.db.read().await?;
        Ok(people::list(&mut tx).await?)
    }

    /// Makes a tenant, with its first admin and its first key where they are given: all or nothing.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn create_tenant(&self, actor: &Actor, new: NewTenant) -> Result<MadeTenant, ServiceError> {
        let (slug, plan, admin) = self.judge_tenant(actor, &new).await?;
        let now = self.clock.now();
        let id = TenantId::new();
        let record = TenantRecord {
            tenant: Tenant {
                id,
                slug: slug.clone(),
                name: new.name.trim().to_owned(),
                plan_id: plan.id,
                state: TenantState::Active,
                key_changers: KeyChangers::Admins,
                second_factor: SecondFactorRule::Optional,
                sso_required: false,
                sso_sessions_from: crate::domain::clock::Moment(0),
                viewing: crate::domain::viewing::ViewingRule::default(),
                rotation_days: ROTATION_DAYS,
                time_zone: new.time_zone.trim().to_owned(),
                created_at: now,
            },
            policy: PaymentPolicy {
                mode: UsageMode::Managed,
                funding: Funding::Included,
                no_key: NoKeyPolicy::Managed,
                on_limit: LimitPolicy::Pause,
                rate: Multiplier::LIST,
            },
        };
        let scope = Scope::of_system(Owner::Tenant(id));
        let ready = match new.first_key {
            Some(key) => {
                let holder = Holder { scope, changers: KeyChangers::Admins };
                Some(self.ready_key(&holder, key).await?)
            }
            None => None,
        };
        let mut tx = self.db.write().await?;
        if !plans::hold(&mut tx, plan.id).await? {
            return Err(ServiceError::Invalid(Problems::field("plan", "Choose a plan.")));
        }
        match tenants::insert(&mut tx, &record).await {
            Err(error) if error.is_conflict() => return Err(ServiceError::Invalid(taken_slug())),
            done => done?,
        }
        let link = match &admin {
            Some(admin) => {
                let place = Some((id, TenantRole::Admin));
                self.make_user(&mut tx, &actor.for_audit(), admin, None, place, None).await?
            }
            None => None,
        };
        let key = match ready {
            Some(ready) => Some(self.insert_key(&mut tx, actor, &scope, ready).await?),
            None => None,
        };
        let detail = serde_json::json!({ "plan": plan.slug, "admin": admin.as_ref().map(Email::as_str) });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::TenantCreated, slug.as_str(), detail)
            .await?;
        tx.commit().await?;
        Ok(MadeTenant { slug, link, key })
    }

    /// What a new tenant would be, if all of it is right. Writes nothing.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    async fn judge_tenant(
        &self,
        actor: &Actor,
        new: &NewTenant,
    ) -> Result<(Slug, Plan, Option<Email>), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let mut problems = Problems::default();
        let name = new.name.trim();
        if name.is_empty() || name.chars().count() > 80 || name.chars().any(char::is_control) {
            problems.add("name", "Give the tenant a name of at most 80 characters.");
        }
        let slug = Slug::parse(new.slug.trim());
        if slug.is_none() {
            problems.add("slug", Slug::RULE);
        }
        let zone = new.time_zone.trim();
        if jiff::tz::TimeZone::get(zone).is_err() {
            problems.add("time_zone", "Use an IANA time zone, such as Europe/Berlin or UTC.");
        }
        let admin = new.admin_email.as_deref().map(Email::parse);
        if admin == Some(None) {
            problems.add("admin_email", "Enter an e-mail address, such as ada@example.com.");
        }
        let mut tx = self.db.read().await?;
        let plan = plans::list(&mut tx).await?.into_iter().find(|plan| plan.slug == new.plan);
        let taken = match &slug {
            Some(slug) => tenants::find_by_slug(&mut tx, slug.as_str()).await?.is_some(),
            None => false,
        };
        tx.rollback().await?;
        if plan.is_none() {
            problems.add("plan", "Choose a plan.");
        }
        if taken {
            problems.fields.extend(taken_slug().fields);
        }
        match (slug, plan, problems.is_empty()) {
            (Some(slug), Some(plan), true) => Ok((slug, plan, admin.flatten())),
            _ => Err(ServiceError::Invalid(problems)),
        }
    }

    /// Sets who may change the tenant's provider keys.
    ///
    /// # Errors
    /// `Denied` to all but the tenant's admins.
    pub async fn set_key_changers(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        to: KeyChangers,
    ) -> Result<(), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::ChangeKeyChangers, Some(about))?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), now).await?;
        tenants::set_key_changers(&mut tx, scope, to).await?;
        let detail = serde_json::json!({ "before": tenant.key_changers, "after": to });
        let target = tenant.slug.as_str();
        self.record(&mut tx, scope.owner(), actor, AuditAction::KeyChangersChanged, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }
}

impl Services {
    /// Sets after how many days the tenant's keys are due for rotation; 0 for never.
    ///
    /// # Errors
    /// `Denied` to all but the tenant's admins.
    pub async fn set_rotation_days(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        days: i64,
    ) -> Result<(), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::ChangeKeyChangers, Some(about))?;
        if !ROTATION_CHOICES.contains(&days) {
            return Err(ServiceError::Invalid(Problems::field("days", "Choose one of these.")));
        }
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        tenants::set_rotation_days(&mut tx, scope, days).await?;
        let detail = serde_json::json!({ "before": tenant.rotation_days, "after": days });
        let target = tenant.slug.as_str();
        self.record(&mut tx, scope.owner(), actor, AuditAction::RotationDaysSet, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }
}

fn taken_slug() -> Problems {
    Problems::field("slug", "There is a tenant of that name already.")
}
