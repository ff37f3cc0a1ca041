//! Budgets: a month's limit on spend, of a tenant or of one of its keys, and the job that looks after
//! what was spent of them.

use super::billing::zone_of;
use super::credits::NOT_DOLLARS;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::billing::{Budget, Credits, Funding, OnReach, Period};
use crate::domain::breaker::Breaker;
use crate::domain::ids::{BudgetId, KeyId};
use crate::domain::money::Nanos;
use crate::domain::notice::{self, Notice};
use crate::storage::budgets::Watched;
use crate::storage::{breakers, budgets, changes, credits, keys, notifications, tenants};

/// What the policy asks about a tenant.
pub(super) fn about(tenant: &Tenant) -> About {
    About { tenant: tenant.id, key_changers: tenant.key_changers }
}

/// A budget as it was typed.
#[derive(Clone, Debug, Default)]
pub struct TypedBudget {
    /// The key's name; empty for all of the tenant's use.
    pub key: String,
    /// Dollars a month.
    pub amount: String,
    pub on_reach: String,
    /// Percentages, separated by commas.
    pub warn_at: String,
    pub priced_only: bool,
}

/// What a tenant has left to spend.
#[derive(Clone, Debug, Default)]
pub struct Spending {
    /// With the names of their keys, the tenant's own first.
    pub budgets: Vec<(Budget, Option<String>)>,
    /// `None` where managed use is not paid from credits.
    pub credits: Option<Credits>,
    /// `None` where it is off.
    pub breaker: Option<Breaker>,
}

impl Services {
    /// What pages say of the tenant's budgets and credits.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn spending(&self, scope: &Scope, funding: Funding) -> Result<Spending, ServiceError> {
        let budgets = self.budgets(scope).await?;
        let mut tx = self.db.read().await?;
        let breaker = breakers::find(&mut tx, scope).await?;
        let credits = match scope.tenant() {
            Some(tenant) if funding == Funding::Credits => Some(credits::find(&mut tx, tenant).await?),
            _ => None,
        };
        Ok(Spending { budgets, credits, breaker })
    }

    /// The tenant's budgets with the names of their keys, its own first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn budgets(&self, scope: &Scope) -> Result<Vec<(Budget, Option<String>)>, ServiceError> {
        let mut tx = self.db.read().await?;
        let found = budgets::list(&mut tx, scope).await?;
        let known = keys::list(&mut tx, scope).await?;
        let name_of =
            |id: KeyId| known.iter().find(|known| known.key.id == id).map(|known| known.key.name.to_string());
        // The budget of a key that was removed limits nothing.
        Ok(found
            .into_iter()
            .map(|budget| {
                let name = budget.key.and_then(name_of);
                (budget, name)
            })
            .filter(|(budget, name)| budget.key.is_some() == name.is_some())
            .collect())
    }

    /// Sets the budget of the tenant or of a key. It counts the whole of the present month.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn set_budget(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        typed: &TypedBudget,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ChangeBilling, Some(about(tenant)))?;
        let mut problems = Problems::default();
        let amount = Nanos::parse_dollars(&typed.amount).filter(|amount| amount.0 > 0);
        if amount.is_none() {
            problems.add("amount", NOT_DOLLARS);
        }
        let on_reach = OnReach::parse(&typed.on_reach);
        if on_reach.is_none() {
            problems.add("on_reach", "Choose what happens when the budget is reached.");
        }
        let warn_at = percentages(&typed.warn_at);
        if warn_at.is_none() {
            problems.add("warn_at", "Use whole percentages from 1 to 100, such as 50, 80, 100.");
        }
        let mut tx = self.db.write().await?;
        let key = if typed.key.is_empty() {
            None
        } else {
            let found = keys::find(&mut tx, scope, &typed.key).await?.map(|found| found.key.id);
            if found.is_none() {
                problems.add("key", "There is no key of that name.");
            }
            found
        };
        let (Some(amount), Some(on_reach), Some(warn_at), true) =
            (amount, on_reach, warn_at, problems.is_empty())
        else {
            return Err(ServiceError::Invalid(problems));
        };
        let now = self.clock.now();
        let zone = zone_of(tenant);
        let period = Period::month(now, &zone);
        let mut budget = Budget {
            id: BudgetId::new(),
            key,
            amount,
            on_reach,
            warn_at,
            priced_only: typed.priced_only,
            spent: Nanos::ZERO,
            held: Nanos::ZERO,
            period,
            refused_at: None,
        };
        changes::bump(&mut tx, scope.owner(), now).await?;
        let next_end = period.next(&zone).end;
        budget.id = budgets::put(&mut tx, scope, &budget, next_end).await?;
        budgets::true_up(&mut tx, tenant.id, &budget, next_end).await?;
        let detail = serde_json::json!({
            "amount": amount.exact(), "on_reach": on_reach, "warn_at": budget.warn_at,
            "priced_only": budget.priced_only,
        });
        let target = if typed.key.is_empty() { tenant.slug.as_str() } else { &typed.key };
        self.record(&mut tx, scope.owner(), actor, AuditAction::BudgetSet, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Removes the budget of the tenant (`key` empty) or of a key.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn remove_budget(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        key: &str,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ChangeBilling, Some(about(tenant)))?;
        let mut tx = self.db.write().await?;
        let id = if key.is_empty() {
            None
        } else {
            let found = keys::find(&mut tx, scope, key).await?.ok_or(ServiceError::NotFound)?;
            Some(found.key.id)
        };
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        if !budgets::delete(&mut tx, scope, id).await? {
            return Err(ServiceError::NotFound);
        }
        let target = if key.is_empty() { tenant.slug.as_str() } else { key };
        let detail = serde_json::json!({});
        self.record(&mut tx, scope.owner(), actor, AuditAction::BudgetRemoved, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Counts every budget anew from what is recorded, in the month that it is now where the tenant
    /// is; and what credits are held. What settlements add in between is exact already, save for
    /// requests that began before their budget was there.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn true_up_money(&self) -> Result<(), ServiceError> {
        let mut tx = self.db.read().await?;
        let all = budgets::all(&mut tx).await?;
        let stray = credits::with_stray_holds(&mut tx).await?;
        tx.rollback().await?;
        for watched in all {
            self.look_after(watched).await?;
        }
        for tenant in stray {
            let mut tx = self.db.write().await?;
            credits::true_up_holds(&mut tx, tenant).await?;
            tx.commit().await?;
        }
        self.tell_of_credits().await?;
        Ok(())
    }
}

impl Services {
    /// Counts one budget, and tells what there is to tell of it. Writes only what is another now.
    async fn look_after(&self, mut watched: Watched) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.read().await?;
        let Some(record) = tenants::find(&mut tx, watched.tenant).await? else { return Ok(()) };
        let zone = zone_of(&record.tenant);
        let (before, period) = (watched.budget.clone(), Period::month(now, &zone));
        let counted = budgets::count(&mut tx, watched.tenant, before.key, period).await?;
        let key = match before.key {
            Some(id) => match keys::find_by_id(&mut tx, id).await? {
                Some(found) => Some(found.key.name.to_string()),
                None => return Ok(()),
            },
            None => None,
        };
        tx.rollback().await?;
        watched.budget.period = period;
        let same_month = before.period == period;
        if !same_month {
            (watched.warned, watched.budget.refused_at) = (0, None);
        }
        if !same_month || counted != (before.spent, before.held) {
            let mut tx = self.db.write().await?;
            let next_end = period.next(&zone).end;
            watched.budget.spent =
                budgets::true_up(&mut tx, watched.tenant, &watched.budget, next_end).await?;
            tx.commit().await?;
        }
        let news = notice::of_budget(&watched.budget, key.as_deref(), watched.warned, now);
        let Some((percent, news)) = news else { return Ok(()) };
        let mut tx = self.db.write().await?;
        if budgets::set_warned(&mut tx, watched.budget.id, watched.warned, percent).await? {
            notifications::insert(&mut tx, watched.tenant, &news).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    async fn tell_of_credits(&self) -> Result<(), ServiceError> {
        let mut tx = self.db.read().await?;
        let all = credits::told(&mut tx).await?;
        tx.rollback().await?;
        for (tenant, account, before) in all {
            let (word, news) = notice::of_credits(&account, &before, self.clock.now());
            if word == before {
                continue;
            }
            let mut tx = self.db.write().await?;
            if credits::set_told(&mut tx, tenant, &before, word).await? {
                if let Some(news) = news {
                    notifications::insert(&mut tx, tenant, &news).await?;
                }
                tx.commit().await?;
            }
        }
        Ok(())
    }

    /// The tenant's latest notifications, newest first.
    ///
    /// # Errors
    /// `Denied` to whoever may not see the tenant's keys and usage.
    pub async fn notifications(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<Vec<Notice>, ServiceError> {
        self.permit(actor, Action::SeeUsage, Some(about(tenant)))?;
        let mut tx = self.db.read().await?;
        Ok(notifications::latest(&mut tx, scope, 200).await?)
    }
}

/// Ascending and distinct; `None` for anything but percentages.
fn percentages(text: &str) -> Option<Vec<u8>> {
    let parts = text.split(',').map(|part| part.trim().trim_end_matches('%').trim_end());
    let mut all = Vec::new();
    for part in parts.filter(|part| !part.is_empty()) {
        all.push(part.parse::<u8>().ok().filter(|percent| (1..=100).contains(percent))?);
    }
    all.sort_unstable();
    all.dedup();
    (all.len() <= 8).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::percentages;

    #[test]
    fn percentages_are_read_or_refused() {
        assert_eq!(percentages(" 80, 50%,100,80 "), Some(vec![50, 80, 100]));
        assert_eq!(percentages(""), Some(vec![]));
        for bad in ["0", "101", "-5", "x", "50 80", "1,2,3,4,5,6,7,8,9"] {
            assert_eq!(percentages(bad), None, "{bad}");
        }
    }
}
