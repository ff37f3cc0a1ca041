//! Staff look at a tenant's console as one of its people sees it. Nothing can be changed meanwhile: the
//! policy answers every change with no, and the pages take no forms.

use super::{Problems, ServiceError, Services};
use crate::access::actor::{Actor, OnBehalf};
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::{Membership, SecondFactorRule, Tenant};
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{HOUR, MINUTE, Moment};
use crate::domain::ids::{Owner, TenantId, UserId, ViewingId};
use crate::domain::viewing::{CHOICES, LONGEST, Viewing, ViewingConsent, ViewingRule, WINDOWS};
use crate::storage::members::{self, Member};
use crate::storage::{audit, changes, people, tenants, viewings};

/// How many of the past pages list.
const LISTED: i64 = 100;
/// Tenants that a search shows.
const FOUND: i64 = 20;

/// What staff fill in to look at a tenant.
#[derive(Clone, Debug, Default)]
pub struct NewViewing {
    pub slug: String,
    pub user: String,
    pub reason: String,
    pub ticket: String,
    pub minutes: i64,
}

/// A viewing that goes on, with what pages need of it.
pub struct Current {
    pub viewing: Viewing,
    /// The place of the person who is viewed.
    pub place: Membership,
}

impl Current {
    #[must_use]
    pub fn on_behalf(&self) -> OnBehalf {
        OnBehalf {
            viewing: self.viewing.id,
            tenant: self.viewing.tenant,
            user_id: self.viewing.viewed_id,
            email: self.viewing.viewed.clone(),
            role: self.place.role,
        }
    }
}

impl Services {
    /// Tenants that staff may choose among, by name.
    ///
    /// # Errors
    /// `Denied` to all but staff.
    pub async fn tenants_to_view(&self, actor: &Actor, search: &str) -> Result<Vec<Tenant>, ServiceError> {
        self.permit_looking(actor)?;
        let mut tx = self.db.read().await?;
        let found = tenants::list(&mut tx, search, FOUND, 0).await?;
        tx.rollback().await?;
        Ok(found.into_iter().map(|record| record.tenant).collect())
    }

    /// The tenant of a name, and those of its people as whom it may be viewed: none of the staff.
    ///
    /// # Errors
    /// `Denied` to all but staff, `NotFound` when there is no such tenant.
    pub async fn people_to_view(
        &self,
        actor: &Actor,
        slug: &str,
    ) -> Result<(Tenant, Vec<Member>), ServiceError> {
        self.permit_looking(actor)?;
        let mut tx = self.db.read().await?;
        let tenant = tenants::find_by_slug(&mut tx, slug).await?.ok_or(ServiceError::NotFound)?.tenant;
        let mut found = Vec::new();
        for member in members::list(&mut tx, &Scope::of_system(Owner::Tenant(tenant.id))).await? {
            let user = people::find(&mut tx, member.user).await?;
            let is_staff = user.is_none_or(|user| user.platform_role.is_some());
            if !is_staff && !member.disabled {
                found.push(member);
            }
        }
        tx.rollback().await?;
        Ok((tenant, found))
    }

    /// Whether somebody may look for tenants at all, confirmed or not.
    fn permit_looking(&self, actor: &Actor) -> Result<(), ServiceError> {
        match self.permit(actor, Action::ViewTenants, None) {
            Ok(()) | Err(ServiceError::Confirm) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Begins to view a tenant.
    ///
    /// # Errors
    /// `Invalid` with what is wrong at its field, `Conflict` where the tenant does not allow it.
    pub async fn start_viewing(&self, actor: &Actor, new: &NewViewing) -> Result<Viewing, ServiceError> {
        self.permit(actor, Action::ViewTenants, None)?;
        let now = self.clock.now();
        let (tenant, people) = self.people_to_view(actor, &new.slug).await?;
        let asks = tenant.second_factor == SecondFactorRule::Required || tenant.sso_required;
        if asks && !actor.proof.is_strong() {
            return Err(ServiceError::SecondFactor);
        }
        let mut problems = Problems::default();
        let plain = |text: &str, most: usize| {
            let text = text.trim();
            let fits =
                !text.is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control);
            fits.then(|| text.to_owned())
        };
        let viewed = UserId::parse(&new.user).and_then(|id| people.into_iter().find(|one| one.user == id));
        if viewed.is_none() {
            problems.add("user", "Choose one of the people of this tenant.");
        }
        let reason = plain(&new.reason, 300);
        if reason.is_none() {
            problems.add("reason", "Say in a line of at most 300 characters why. The tenant reads it.");
        }
        let ticket = plain(&new.ticket, 60);
        if ticket.is_none() {
            problems.add("ticket", "Name the ticket, in at most 60 characters.");
        }
        if !CHOICES.contains(&new.minutes) {
            problems.add("minutes", "Choose one of these.");
        }
        problems.or_ok()?;
        let (Some(viewed), Some(reason), Some(ticket)) = (viewed, reason, ticket) else {
            return Err(ServiceError::NotFound);
        };
        let mut tx = self.db.write().await?;
        // As it is now: the tenant may have said no a moment ago.
        let fresh = tenants::find(&mut tx, tenant.id).await?.ok_or(ServiceError::NotFound)?.tenant;
        let until = fresh.viewing.allowed_until(now).ok_or(ServiceError::Conflict(
            "This tenant does not allow that now. One of its admins can, under Settings, Support access.",
        ))?;
        let viewing = Viewing {
            id: ViewingId::new(),
            tenant: tenant.id,
            viewer_id: actor.user_id,
            viewer: actor.email.clone(),
            viewed_id: viewed.user,
            viewed: viewed.email,
            reason,
            ticket,
            started_at: now,
            ends_at: now.plus((new.minutes * MINUTE).min(LONGEST)).min(until),
            ended_at: None,
            ended_by: None,
        };
        viewings::insert(&mut tx, &viewing).await?;
        let detail = serde_json::json!({
            "viewing": viewing.id, "as": viewing.viewed, "reason": viewing.reason, "ticket": viewing.ticket,
            "until": viewing.ends_at.rfc3339(),
        });
        let target = tenant.slug.as_str();
        for chain in [Owner::Tenant(tenant.id), Owner::Platform] {
            let action = AuditAction::ViewingStarted;
            self.record(&mut tx, chain, actor, action, target, detail.clone()).await?;
        }
        tx.commit().await?;
        Ok(viewing)
    }

    /// The viewing of a session, while it goes on: its time is not over, the tenant allows it, and both
    /// people are still what they were.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn current_viewing(
        &self,
        viewer: UserId,
        id: ViewingId,
    ) -> Result<Option<Current>, ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.read().await?;
        let Some(viewing) = viewings::find(&mut tx, id).await? else { return Ok(None) };
        let allowed = match tenants::find(&mut tx, viewing.tenant).await? {
            Some(record) => record.tenant.viewing.allowed_until(now).is_some(),
            None => false,
        };
        let viewed = people::find(&mut tx, viewing.viewed_id).await?;
        let is_person = viewed.is_some_and(|user| user.disabled_at.is_none() && user.platform_role.is_none());
        let places = people::memberships(&mut tx, viewing.viewed_id).await?;
        tx.rollback().await?;
        let place = places.into_iter().find(|place| place.tenant_id == viewing.tenant);
        let goes_on = allowed && is_person && viewing.viewer_id == viewer && viewing.goes_on(now);
        Ok(place.filter(|_| goes_on).map(|place| Current { viewing, place }))
    }

    /// Ends a viewing: by who views, by the tenant's admin, or because its time is over. False when it was
    /// over.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub async fn end_viewing(&self, actor: &Actor, id: ViewingId, by: &str) -> Result<bool, ServiceError> {
        self.end_viewing_by(&actor.for_audit(), id, by).await
    }

    /// Puts the end of viewings on record whose viewers never came back.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub async fn end_old_viewings(&self) -> Result<(), ServiceError> {
        let mut tx = self.db.read().await?;
        let over = viewings::over(&mut tx, self.clock.now(), LISTED).await?;
        tx.rollback().await?;
        for viewing in over {
            self.end_viewing_by(&AuditActor::system("viewing"), viewing.id, "its time").await?;
        }
        Ok(())
    }

    async fn end_viewing_by(
        &self,
        actor: &AuditActor,
        id: ViewingId,
        by: &str,
    ) -> Result<bool, ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let Some(viewing) = viewings::find(&mut tx, id).await? else { return Ok(false) };
        let at = now.min(viewing.ends_at);
        if !viewings::end(&mut tx, id, at, by).await? {
            return Ok(false);
        }
        let detail =
            serde_json::json!({ "viewing": id, "viewer": viewing.viewer, "as": viewing.viewed, "by": by });
        for chain in [Owner::Tenant(viewing.tenant), Owner::Platform] {
            let event = AuditEvent {
                at: now,
                actor: actor.clone(),
                action: AuditAction::ViewingEnded,
                target: viewing.ticket.clone(),
                detail: detail.clone(),
            };
            audit::append(&mut tx, &self.root, chain, &event).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Has the tenant's admin end a viewing of their tenant. False when it was over.
    ///
    /// # Errors
    /// `NotFound` for another tenant's.
    pub async fn stop_viewing_of(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        id: ViewingId,
    ) -> Result<bool, ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::AllowViewing, Some(about))?;
        let mut tx = self.db.read().await?;
        let found = viewings::find(&mut tx, id).await?;
        tx.rollback().await?;
        found.filter(|viewing| Some(viewing.tenant) == scope.tenant()).ok_or(ServiceError::NotFound)?;
        self.end_viewing(actor, id, &actor.email).await
    }

    /// Puts on record which page was viewed. Called before the page is made: what cannot be put on
    /// record is not shown.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn record_viewed(&self, actor: &Actor, chain: Owner, page: &str) -> Result<(), ServiceError> {
        let Some(behalf) = &actor.on_behalf else { return Ok(()) };
        let mut tx = self.db.write().await?;
        let detail = serde_json::json!({ "viewing": behalf.viewing });
        self.record(&mut tx, chain, actor, AuditAction::PageViewed, page, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The newest viewings of a tenant, for its people.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn viewings_of(&self, scope: &Scope) -> Result<Vec<Viewing>, ServiceError> {
        let mut tx = self.db.read().await?;
        Ok(viewings::of_tenant(&mut tx, scope, LISTED).await?)
    }

    /// What the tenant of a viewing is called now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenant_name(&self, id: TenantId) -> Result<String, ServiceError> {
        let view = self.directory.tenant(&Scope::of_system(Owner::Tenant(id))).await?;
        Ok(view.map(|view| view.tenant.name.clone()).unwrap_or_default())
    }

    /// The newest viewings: one's own, or everybody's to a super admin.
    ///
    /// # Errors
    /// `Denied` to all but staff.
    pub async fn viewings(&self, actor: &Actor) -> Result<Vec<Viewing>, ServiceError> {
        self.permit_looking(actor)?;
        let mut tx = self.db.read().await?;
        let whose = (!actor.is_super_admin()).then_some(actor.user_id);
        Ok(viewings::newest(&mut tx, whose, LISTED).await?)
    }

    /// Sets what the tenant allows. `hours` opens the window for so long, and closes it with 0.
    ///
    /// # Errors
    /// `Denied` to all but the tenant's admins.
    pub async fn set_viewing_rule(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        consent: ViewingConsent,
        hours: i64,
    ) -> Result<ViewingRule, ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::AllowViewing, Some(about))?;
        if hours != 0 && !WINDOWS.contains(&hours) {
            return Err(ServiceError::Invalid(Problems::field("hours", "Choose one of these.")));
        }
        let now = self.clock.now();
        let until =
            if consent == ViewingConsent::Window && hours > 0 { now.plus(hours * HOUR) } else { Moment(0) };
        let rule = ViewingRule { consent, until };
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), now).await?;
        tenants::set_viewing(&mut tx, scope, rule).await?;
        let detail = serde_json::json!({
            "before": tenant.viewing.consent, "after": consent,
            "until": (until > now).then(|| until.rfc3339()),
        });
        let (action, target) = (AuditAction::ViewingRuleChanged, tenant.slug.as_str());
        self.record(&mut tx, scope.owner(), actor, action, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        if rule.allowed_until(now).is_none() {
            // Whoever is looking is out, whatever is allowed again later.
            for viewing in self.viewings_of(scope).await?.into_iter().filter(|one| one.goes_on(now)) {
                self.end_viewing(actor, viewing.id, &actor.email).await?;
            }
        }
        Ok(rule)
    }
}
