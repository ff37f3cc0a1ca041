//! What the API keys page, and the credential on the Billing page, are made from.

use std::sync::Arc;

use super::directory::{PlatformView, TenantView};
use super::provider_keys::{Holder, undoable};
use super::{ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::scope::Scope;
use crate::domain::account::{Proof, SecondFactorRule, Tenant, TenantRole};
use crate::domain::billing::OnReach;
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::{KeyId, Owner};
use crate::domain::money::Nanos;
use crate::domain::plan::Feature;
use crate::domain::provider_key::{KeyVersion, Provider, ProviderKey};
use crate::domain::resolve::{Ask, Decision, Situation, Spent, chosen_model, resolve};
use crate::domain::usage::bucket_of;
use crate::storage::{keys, usage_report};

/// A key with what it cost in the last 30 days.
#[derive(Clone, Debug)]
pub struct KeyLine {
    pub key: ProviderKey,
    pub cost_30d: Nanos,
}

/// A key with its other versions.
#[derive(Clone, Debug)]
pub struct KeyDetail {
    pub line: KeyLine,
    /// Newest first, the current one among them.
    pub versions: Vec<KeyVersion>,
    /// The version that *Undo* would bring back.
    pub undo: Option<KeyVersion>,
    pub other_keys: usize,
}

/// A tenant and the platform at one moment, ready to resolve against.
pub struct Standing {
    pub tenant: Arc<TenantView>,
    pub platform: Arc<PlatformView>,
    pub now: Moment,
    pub spent: SpentUp,
}

/// What is used up, as far as it was looked at.
#[derive(Clone, Debug, Default)]
pub struct SpentUp {
    pub credits: bool,
    pub budget: bool,
    pub keys: Vec<KeyId>,
}

impl Standing {
    #[must_use]
    pub fn situation(&self) -> Situation<'_> {
        Situation {
            now: self.now,
            tenant_state: self.tenant.tenant.state,
            policy: self.tenant.policy,
            plan: &self.tenant.plan,
            features: &self.platform.features,
            switched_off: &self.tenant.switched_off,
            off_for_all: &self.platform.switched_off,
            exceptions: &self.tenant.exceptions,
            models: &self.tenant.models,
            tripped: self.tenant.tripped,
            spent: Spent { credits: self.spent.credits, budget: self.spent.budget, keys: &self.spent.keys },
            keys: &self.tenant.keys.views,
            shared_keys: &self.platform.keys.views,
        }
    }

    /// What would happen to a provider's request for this feature that names no key.
    #[must_use]
    pub fn decide(&self, provider: Provider, feature: Option<&str>) -> Decision<'_> {
        resolve(&ask(provider, feature), &self.situation())
    }

    /// Features of the platform with the models that the tenant has chosen, each with what would happen
    /// to its requests for that model.
    #[must_use]
    pub fn features(&self) -> Vec<(Feature, Decision<'_>)> {
        let decided = |feature: &Feature| {
            let situation = self.situation();
            let feature = chosen_model(feature, &situation).into_owned();
            let model = feature.default_model.as_deref();
            let asked = Ask { model, ..ask(feature.provider(), Some(&feature.slug)) };
            let decision = resolve(&asked, &situation);
            (feature, decision)
        };
        self.platform.features.iter().map(decided).collect()
    }
}

/// A request that names a provider, and perhaps a feature, and nothing else.
#[must_use]
pub fn ask(provider: Provider, feature: Option<&str>) -> Ask<'_> {
    Ask { dialect: provider.dialect(), feature, key_name: None, provider: Some(provider), model: None }
}

/// Whether somebody came in the way that the tenant asks for. Its own identity provider is a good way; its
/// admins may come with a second factor too, and so do staff.
fn came_as_asked(actor: &Actor, tenant: &Tenant) -> Result<(), ServiceError> {
    let by_sso = actor.proof == Proof::Sso(tenant.id);
    let may_come_besides =
        actor.role_in(tenant.id).is_none_or(|role| role == TenantRole::Admin) || actor.on_behalf.is_some();
    if tenant.sso_required && !by_sso && !(may_come_besides && actor.proof.is_strong()) {
        return Err(if may_come_besides { ServiceError::SecondFactor } else { ServiceError::SsoRequired });
    }
    let asks_second = tenant.second_factor == SecondFactorRule::Required;
    if asks_second && !by_sso && !actor.proof.is_strong() {
        return Err(ServiceError::SecondFactor);
    }
    Ok(())
}

impl Services {
    /// A tenant that the person may open. Others' tenants do not exist for them.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant, or none for this person.
    pub async fn open_tenant(
        &self,
        actor: &Actor,
        slug: &str,
    ) -> Result<(Scope, Arc<TenantView>), ServiceError> {
        let id = self.directory.tenant_id(slug).await?.ok_or(ServiceError::NotFound)?;
        let system = Scope::of_system(Owner::Tenant(id));
        let view = self.directory.tenant(&system).await?.ok_or(ServiceError::NotFound)?;
        let scope = Scope::of_person(actor, &view.tenant).ok_or(ServiceError::NotFound)?;
        if !actor.by_token {
            came_as_asked(actor, &view.tenant)?;
        }
        Ok((scope, view))
    }

    /// The tenant as the gateway sees it now.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant.
    pub async fn standing(&self, scope: &Scope) -> Result<Standing, ServiceError> {
        // The platform first: a change of plans makes tenants be read anew.
        let platform = self.directory.platform().await?;
        let tenant = self.directory.tenant(scope).await?.ok_or(ServiceError::NotFound)?;
        Ok(Standing { tenant, platform, now: self.clock.now(), spent: SpentUp::default() })
    }

    /// The tenant as pages tell of it: with what is used up, for which the gateway asks at every hold.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant.
    pub async fn standing_with_money(&self, scope: &Scope) -> Result<Standing, ServiceError> {
        let standing = self.standing(scope).await?;
        let spending = self.spending(scope, standing.tenant.policy.funding).await?;
        let reached = || {
            let pausing = spending.budgets.iter().map(|(budget, _)| budget);
            pausing.filter(|budget| budget.on_reach == OnReach::Pause && budget.is_reached())
        };
        let spent = SpentUp {
            credits: spending.credits.is_some_and(|credits| credits.balance <= Nanos::ZERO),
            budget: reached().any(|budget| budget.key.is_none()),
            keys: reached().filter_map(|budget| budget.key).collect(),
        };
        Ok(Standing { spent, ..standing })
    }

    /// The owner's keys, read from the database so that what they did last is as fresh as can be.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keys(&self, holder: Holder) -> Result<Vec<ProviderKey>, ServiceError> {
        let mut tx = self.db.read().await?;
        let found = keys::list(&mut tx, &holder.scope).await?;
        tx.rollback().await?;
        Ok(found.into_iter().map(|sealed| sealed.key).collect())
    }

    /// The owner's keys with what each cost.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn key_lines(&self, holder: Holder) -> Result<Vec<KeyLine>, ServiceError> {
        let now = self.clock.now();
        let range = (bucket_of(now.minus(30 * DAY)), now.plus(DAY));
        let mut tx = self.db.read().await?;
        let found = keys::list(&mut tx, &holder.scope).await?;
        let costs = usage_report::cost_by_key(&mut tx, &holder.scope, range).await?;
        tx.rollback().await?;
        Ok(found
            .into_iter()
            .map(|sealed| {
                let cost = costs.iter().find(|(key, _)| *key == sealed.key.id).map(|(_, cost)| *cost);
                KeyLine { key: sealed.key, cost_30d: cost.unwrap_or_default() }
            })
            .collect())
    }

    /// One key with its versions.
    ///
    /// # Errors
    /// `NotFound` when there is no such key.
    pub async fn key_detail(&self, holder: Holder, name: &str) -> Result<KeyDetail, ServiceError> {
        let lines = self.key_lines(holder).await?;
        let other_keys = lines.len().saturating_sub(1);
        let line =
            lines.into_iter().find(|line| line.key.name.as_str() == name).ok_or(ServiceError::NotFound)?;
        let mut tx = self.db.read().await?;
        let versions = keys::versions(&mut tx, &holder.scope, line.key.id).await?;
        tx.rollback().await?;
        Ok(KeyDetail {
            versions: versions.iter().map(|(version, _)| version.clone()).collect(),
            undo: undoable(versions, self.clock.now()).map(|(version, _)| version),
            line,
            other_keys,
        })
    }
}
