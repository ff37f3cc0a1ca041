//! Negotiated rates: what is paid of the list price, for a tenant's own key or for its managed use.
//! A request is rated by the one in force when it began, and keeps it.

use super::budgets::about;
use super::provider_keys::Holder;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::ids::Owner;
use crate::domain::price::Multiplier;
use crate::storage::{changes, keys, tenants};

fn read(percent: &str) -> Result<Multiplier, ServiceError> {
    let wrong = "Use a percentage from 0.1 to 1,000 with at most one decimal place, such as 85 or 92.5.";
    Multiplier::parse_percent(percent).ok_or_else(|| ServiceError::Invalid(Problems::field("percent", wrong)))
}

impl Services {
    /// Sets what the tenant pays its provider of the list price, for one of its own keys.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn set_key_rate(
        &self,
        actor: &Actor,
        holder: Holder,
        tenant: &Tenant,
        key: &str,
        percent: &str,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ChangeBilling, Some(about(tenant)))?;
        let rate = read(percent)?;
        let mut tx = self.db.read().await?;
        let found = keys::find(&mut tx, &holder.scope, key).await?;
        tx.rollback().await?;
        let found = found
            .ok_or_else(|| ServiceError::Invalid(Problems::field("key", "There is no key of that name.")))?
            .key;
        let detail = serde_json::json!({ "before": found.rate.percent(), "after": rate.percent() });
        self.change(actor, &holder, &found, AuditAction::RateSet, detail, async |tx, _| {
            Ok(keys::set_rate(tx, found.id, rate).await?)
        })
        .await
    }

    /// Sets what the tenant pays the operator of the list price of managed use.
    ///
    /// # Errors
    /// `Denied` to all but super admins, `Conflict` when it was set meanwhile.
    pub async fn set_managed_rate(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        from: &str,
        percent: &str,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let (from, to) = (read(from)?, read(percent)?);
        let owner = Owner::Tenant(tenant.id);
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, owner, self.clock.now()).await?;
        if !tenants::set_rate(&mut tx, &Scope::of_system(owner), from, to).await? {
            return Err(ServiceError::Conflict("The rate was changed meanwhile. Look at it again."));
        }
        let detail = serde_json::json!({ "before": from.percent(), "after": to.percent() });
        self.record(&mut tx, owner, actor, AuditAction::RateSet, tenant.slug.as_str(), detail).await?;
        tx.commit().await?;
        self.directory.forget(owner);
        Ok(())
    }
}
