//! Statements: a preview of the running month, closed months, and the job that closes them.

use std::collections::HashMap;

use super::billing::zone_of;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::billing::Period;
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{Owner, TenantId};
use crate::domain::money::Nanos;
use crate::domain::plan::Plan;
use crate::domain::statement::{self, PlanTerms, Statement, Sums};
use crate::storage::{Tx, audit, plans, statements, tenants};

/// How long after its end a month is closed: settlements of its last moments have arrived by then.
const GRACE: i64 = 5 * MINUTE;
/// Months that are shown before they are closed: after a long stop there may be several.
const OPEN_SHOWN: usize = 24;

/// A plan's price as a super admin typed it.
#[derive(Clone, Debug, Default)]
pub struct TypedTerms {
    pub subscription: String,
    pub endpoints_included: String,
    pub endpoint_fee: String,
    /// Percent with at most one place.
    pub byok_percent: String,
}

fn month_name(period: Period, zone: &jiff::tz::TimeZone) -> String {
    period.start.date(zone).strftime("%Y-%m").to_string()
}

impl Services {
    /// Months that are not closed, as they stand, and the closed ones, newest first.
    ///
    /// # Errors
    /// `Denied` to whoever may not see the tenant's usage.
    pub async fn statements(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<(Vec<Statement>, Vec<Statement>), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::SeeUsage, Some(about))?;
        let now = self.clock.now();
        let zone = zone_of(tenant);
        let mut tx = self.db.snapshot().await?;
        let closed = statements::list(&mut tx, scope).await?;
        let running = Period::month(now, &zone);
        let mut period = first_open(tenant, closed.first().map(|last| last.period.end), &zone);
        // What came late is in the first that will be closed.
        let mut drafts = vec![draft(&mut tx, scope, tenant, period, &closed).await?.0];
        while period.end <= running.start && drafts.len() < OPEN_SHOWN {
            period = period.next(&zone);
            drafts.insert(0, draft(&mut tx, scope, tenant, period, &[]).await?.0);
        }
        Ok((drafts, closed))
    }

    /// A month that is closed.
    ///
    /// # Errors
    /// `Denied` to whoever may not see the tenant's usage.
    pub async fn closed_statement(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        month: &str,
    ) -> Result<Option<Statement>, ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::SeeUsage, Some(about))?;
        let mut tx = self.db.read().await?;
        Ok(statements::list(&mut tx, scope).await?.into_iter().find(|one| one.month == month))
    }

    /// Closes every month that is over and of which nothing is pending. A closed month never changes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn close_months(&self) -> Result<usize, ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.read().await?;
        let all = tenants::all(&mut tx).await?;
        let last: HashMap<TenantId, Moment> = statements::last_ends(&mut tx).await?.into_iter().collect();
        tx.rollback().await?;
        let mut closed = 0;
        for record in all {
            let tenant = &record.tenant;
            let zone = zone_of(tenant);
            let mut period = first_open(tenant, last.get(&tenant.id).copied(), &zone);
            // Where something is pending, its turn comes when that is settled; later months wait for it.
            while period.end.plus(GRACE) <= now && self.close_month(tenant, period).await? {
                closed += 1;
                period = period.next(&zone);
            }
        }
        Ok(closed)
    }

    async fn close_month(&self, tenant: &Tenant, period: Period) -> Result<bool, ServiceError> {
        let scope = Scope::of_system(Owner::Tenant(tenant.id));
        // Nothing begins in a month that is over: what is settled now stays as it is.
        let mut tx = self.db.snapshot().await?;
        if statements::is_pending(&mut tx, tenant.id, period).await? {
            return Ok(false);
        }
        let closed = statements::list(&mut tx, &scope).await?;
        let (draft, sums) = draft(&mut tx, &scope, tenant, period, &closed).await?;
        tx.rollback().await?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        if statements::close(&mut tx, tenant.id, &draft, &sums, now).await? {
            let event = AuditEvent {
                at: now,
                actor: AuditActor::system("keyward"),
                action: AuditAction::StatementClosed,
                target: draft.month,
                detail: serde_json::json!({ "plan": draft.plan, "due": draft.due.exact() }),
            };
            audit::append(&mut tx, &self.root, scope.owner(), &event).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Plans with what they cost, in the order in which they were made.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn list_plan_terms(&self, actor: &Actor) -> Result<Vec<(Plan, PlanTerms)>, ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let mut tx = self.db.read().await?;
        let mut all = Vec::new();
        for plan in plans::list(&mut tx).await? {
            let terms = statements::terms(&mut tx, plan.id, self.clock.now()).await?;
            all.push((plan, terms));
        }
        Ok(all)
    }

    /// Sets what a plan costs. It holds for the running month and for later ones.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn set_plan_terms(
        &self,
        actor: &Actor,
        plan: &str,
        typed: &TypedTerms,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let mut problems = Problems::default();
        let dollars = "Enter dollars a month, such as 49 or 0.";
        let subscription = Nanos::parse_dollars(&typed.subscription);
        if subscription.is_none() {
            problems.add("subscription", dollars);
        }
        let endpoint_fee = Nanos::parse_dollars(&typed.endpoint_fee);
        if endpoint_fee.is_none() {
            problems.add("endpoint_fee", dollars);
        }
        let endpoints_included =
            typed.endpoints_included.trim().parse::<u32>().ok().filter(|n| *n <= 1_000_000);
        if endpoints_included.is_none() {
            problems.add("endpoints_included", "Enter a number up to a million.");
        }
        let byok_permille = permille(&typed.byok_percent);
        if byok_permille.is_none() {
            problems.add("byok_percent", "Enter a percentage from 0 to 100, with at most one decimal place.");
        }
        let (Some(subscription), Some(endpoint_fee), Some(included), Some(byok_permille), true) =
            (subscription, endpoint_fee, endpoints_included, byok_permille, problems.is_empty())
        else {
            return Err(ServiceError::Invalid(problems));
        };
        let terms =
            PlanTerms { subscription, endpoints_included: i64::from(included), endpoint_fee, byok_permille };
        let mut tx = self.db.write().await?;
        let found = plans::list(&mut tx).await?.into_iter().find(|known| known.slug == plan);
        let found = found.ok_or(ServiceError::NotFound)?;
        let now = self.clock.now();
        let before = statements::terms(&mut tx, found.id, now).await?;
        statements::set_terms(&mut tx, found.id, &terms, now).await?;
        let told = |terms: &PlanTerms| {
            serde_json::json!({
                "subscription": terms.subscription.exact(), "endpoints_included": terms.endpoints_included,
                "endpoint_fee": terms.endpoint_fee.exact(), "byok_permille": terms.byok_permille,
            })
        };
        let detail = serde_json::json!({ "before": told(&before), "after": told(&terms) });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::PlanTermsSet, plan, detail).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The month after those that are closed; without any, that in which the tenant was made.
fn first_open(tenant: &Tenant, closed_until: Option<Moment>, zone: &jiff::tz::TimeZone) -> Period {
    Period::month(closed_until.unwrap_or(tenant.created_at), zone)
}

/// A month's statement as it stands, after those that are closed, and what it is made from.
async fn draft(
    tx: &mut Tx,
    scope: &Scope,
    tenant: &Tenant,
    period: Period,
    closed: &[Statement],
) -> Result<(Statement, Sums), ServiceError> {
    let zone = zone_of(tenant);
    let at = |at: Moment| at.timestamp().to_zoned(zone.clone()).strftime("%-d %b %H:%M").to_string();
    let when = |part: Period| format!(", {} to {}", at(part.start), at(part.end));
    let sums = statements::sums(tx, scope, period, closed, when).await?;
    let plan = sums.parts.last().map(|part| part.plan.clone()).unwrap_or_default();
    let lines = statement::lines(&sums);
    let due = statement::due(&lines);
    let month = month_name(period, &zone);
    Ok((Statement { month, period, plan, lines, due, closed_at: None }, sums))
}

fn permille(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches('%').trim_end();
    let (whole, place) = text.split_once('.').unwrap_or((text, "0"));
    let digits =
        |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole, 3) || !digits(place, 1) {
        return None;
    }
    let value = whole.parse::<i64>().ok()? * 10 + place.parse::<i64>().ok()?;
    (value <= 1_000).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_thousandths() {
        for (text, value) in [("0", Some(0)), ("2.5", Some(25)), (" 10 %", Some(100)), ("100", Some(1_000))] {
            assert_eq!(permille(text), value, "{text}");
        }
        for text in ["", "-1", "100.1", "2.55", "1e1", "NaN", ".5"] {
            assert_eq!(permille(text), None, "{text}");
        }
    }
}
