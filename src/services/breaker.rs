//! The breaker for unusual spend: set by people, watched by a job, reset by people.

use super::budgets::about;
use super::credits::NOT_DOLLARS;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::billing::OnReach;
use crate::domain::breaker::{self, Breaker, FACTORS, LOOKS_BACK, Tripped};
use crate::domain::clock::{DAY, HOUR, Moment};
use crate::domain::ids::{Owner, TenantId};
use crate::domain::money::Nanos;
use crate::domain::notice;
use crate::storage::{audit, breakers, changes, notifications};

/// A breaker as it was typed.
#[derive(Clone, Debug, Default)]
pub struct TypedBreaker {
    pub factor: String,
    /// Dollars in an hour.
    pub least: String,
    pub on_trip: String,
}

impl Services {
    /// Sets the tenant's breaker, armed from now on.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn set_breaker(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        typed: &TypedBreaker,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ChangeBilling, Some(about(tenant)))?;
        let mut problems = Problems::default();
        let factor = typed.factor.trim().parse().ok().filter(|factor| FACTORS.contains(factor));
        if factor.is_none() {
            let (least, most) = (FACTORS.start(), FACTORS.end());
            problems.add("factor", format!("Use a whole number from {least} to {most}."));
        }
        let least = Nanos::parse_dollars(&typed.least).filter(|least| least.0 > 0);
        if least.is_none() {
            problems.add("least", NOT_DOLLARS);
        }
        let on_trip = OnReach::parse(&typed.on_trip);
        if on_trip.is_none() {
            problems.add("on_trip", "Choose what happens at an unusual hour.");
        }
        let (Some(factor), Some(least), Some(on_trip)) = (factor, least, on_trip) else {
            return Err(ServiceError::Invalid(problems));
        };
        let since = self.clock.now();
        let set = Breaker { factor, least, on_trip, since, tripped: None };
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), since).await?;
        breakers::put(&mut tx, scope, &set).await?;
        let detail = serde_json::json!({ "factor": factor, "least": least.exact(), "on_trip": on_trip });
        let target = tenant.slug.as_str();
        self.record(&mut tx, scope.owner(), actor, AuditAction::BreakerSet, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// # Errors
    /// `NotFound` when there is none.
    pub async fn remove_breaker(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ChangeBilling, Some(about(tenant)))?;
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        if !breakers::delete(&mut tx, scope).await? {
            return Err(ServiceError::NotFound);
        }
        let (target, detail) = (tenant.slug.as_str(), serde_json::json!({}));
        self.record(&mut tx, scope.owner(), actor, AuditAction::BreakerRemoved, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Arms a breaker that has tripped: requests go on, and the hour is counted anew.
    ///
    /// # Errors
    /// `Conflict` when it has not tripped, or was reset meanwhile.
    pub async fn reset_breaker(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ChangeBilling, Some(about(tenant)))?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), now).await?;
        if !breakers::reset(&mut tx, scope, now).await? {
            return Err(ServiceError::Conflict("Nothing is paused for unusual spend."));
        }
        let (target, detail) = (tenant.slug.as_str(), serde_json::json!({}));
        self.record(&mut tx, scope.owner(), actor, AuditAction::BreakerReset, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Trips every breaker whose last hour was unusual.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn watch_spend(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.read().await?;
        let armed = breakers::armed(&mut tx, now.minus(DAY)).await?;
        tx.rollback().await?;
        for (tenant, breaker) in armed {
            // One tenant's trouble must not leave the others unwatched.
            if let Err(error) = self.watch_one(tenant, &breaker).await {
                tracing::error!(error = &error as &dyn std::error::Error, %tenant, "spend could not be watched");
            }
        }
        Ok(())
    }

    async fn watch_one(&self, tenant: TenantId, breaker: &Breaker) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let scope = Scope::of_system(Owner::Tenant(tenant));
        let mut tx = self.db.read().await?;
        let from = breaker.counts_from(now);
        let spent = breakers::spent_since(&mut tx, &scope, from).await?;
        if spent < breaker.least {
            return Ok(());
        }
        let hours = breakers::by_hour(&mut tx, &scope, now.minus(LOOKS_BACK), from.minus(HOUR)).await?;
        tx.rollback().await?;
        // Without days to tell by, the least that was set is all there is to go by.
        let usual = breaker::usual(&hours).unwrap_or_default();
        if breaker.trips(spent, usual) {
            self.trip(tenant, breaker, Tripped { at: now, spent, usual }).await?;
        }
        Ok(())
    }

    async fn trip(&self, tenant: TenantId, breaker: &Breaker, tripped: Tripped) -> Result<(), ServiceError> {
        let now: Moment = tripped.at;
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, Owner::Tenant(tenant), now).await?;
        if !breakers::trip(&mut tx, tenant, breaker, tripped).await? {
            return Ok(());
        }
        let news = notice::of_breaker(breaker, &tripped);
        notifications::insert(&mut tx, tenant, &news).await?;
        let event = AuditEvent {
            at: now,
            actor: AuditActor::system("keyward"),
            action: AuditAction::BreakerTripped,
            target: "spend".to_owned(),
            detail: serde_json::json!({
                "spent": tripped.spent.exact(), "usual": tripped.usual.exact(), "on_trip": breaker.on_trip,
            }),
        };
        audit::append(&mut tx, &self.root, Owner::Tenant(tenant), &event).await?;
        tx.commit().await?;
        self.directory.forget(Owner::Tenant(tenant));
        Ok(())
    }
}
