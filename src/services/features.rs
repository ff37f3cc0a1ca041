//! AI features as a tenant has them: which gates are open, on whose key and model each runs, and its
//! own switches and models. The page, the API and the gateway's refusals all tell of gates from here.

use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::gate::Opener;
use crate::providers;
use crate::storage::{changes, plans};

/// What opens a closed gate, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayOut {
    pub words: &'static str,
    /// A path of the console, or an address at the provider.
    pub to: Option<String>,
    /// Who can follow the link: whoever may do this. `None`: whoever has an account there.
    pub needs: Option<Action>,
}

impl WayOut {
    /// As one sentence for those who are not looking at a page. What only the platform's people could
    /// follow is left out.
    #[must_use]
    pub fn sentence(&self, base: &str) -> String {
        match (&self.to, self.needs) {
            (Some(to), None) => format!("{} at {to}.", self.words),
            (Some(to), Some(needs)) if needs != Action::ManagePlatform => {
                format!("{} at {base}{to}.", self.words)
            }
            _ => format!("{}.", self.words),
        }
    }
}

/// Who can open a closed gate, and where; nothing for what ends by itself.
#[must_use]
pub fn way_out(opener: Opener, slug: &str) -> Option<WayOut> {
    let here = |words, page: &str, needs| {
        Some(WayOut { words, to: Some(format!("/t/{slug}{page}")), needs: Some(needs) })
    };
    match opener {
        Opener::Platform => Some(WayOut {
            words: "The operator can change that",
            to: Some(format!("/platform/tenants/{slug}")),
            needs: Some(Action::ManagePlatform),
        }),
        Opener::KeysPage => here("An admin can change that", "/settings/api-keys", Action::ChangeKeys),
        Opener::FeaturesPage => {
            here("An admin can switch it on", "/settings/ai#switches", Action::ChangeFeatures)
        }
        Opener::BreakerPage => here("An admin can resume it", "/billing/breaker", Action::ChangeBilling),
        Opener::BudgetsPage => here("An admin can raise it", "/billing/budgets", Action::ChangeBilling),
        Opener::CreditsPage => here("An admin can see to more", "/billing/credits", Action::ChangeBilling),
        Opener::ProviderBilling(provider) => {
            let console = providers::of(provider).spec().console?;
            Some(WayOut { words: "Add credit", to: Some(console.billing.to_owned()), needs: None })
        }
        Opener::ProviderLimits(provider) => {
            let console = providers::of(provider).spec().console?;
            Some(WayOut { words: "Raise the limit", to: Some(console.limits.to_owned()), needs: None })
        }
        Opener::Time => None,
    }
}

impl Services {
    /// Turns one of the tenant's master switches on or off. False if it was so already.
    ///
    /// # Errors
    /// `NotFound` when no feature hangs on a switch of that name.
    pub async fn switch_features(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        switch: &str,
        on: bool,
    ) -> Result<bool, ServiceError> {
        self.permit_features(actor, tenant)?;
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        if !plans::features(&mut tx).await?.iter().any(|feature| feature.switch == switch) {
            return Err(ServiceError::NotFound);
        }
        if !plans::set_switch(&mut tx, scope, switch, on).await? {
            return Ok(false);
        }
        let detail = serde_json::json!({ "on": on });
        self.record(&mut tx, scope.owner(), actor, AuditAction::SwitchChanged, switch, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(true)
    }

    /// Chooses the model for a feature's requests that name none; empty goes back to the feature's own.
    ///
    /// # Errors
    /// `Invalid` for a model that the tenant's plan does not offer.
    pub async fn choose_model(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        feature: &str,
        model: &str,
    ) -> Result<(), ServiceError> {
        self.permit_features(actor, tenant)?;
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        let known = plans::features(&mut tx).await?.into_iter().find(|known| known.slug == feature);
        let known = known.ok_or(ServiceError::NotFound)?;
        let plan = plans::find(&mut tx, tenant.plan_id).await?.ok_or(ServiceError::NotFound)?;
        let model =
            Some(model).filter(|model| !model.is_empty() && Some(*model) != known.default_model.as_deref());
        if model.is_some_and(|model| !plan.choices(known.provider()).any(|choice| choice.id == model)) {
            return Err(ServiceError::Invalid(Problems::field(
                "model",
                "Choose a model that your plan offers.",
            )));
        }
        let before = plans::chosen_models(&mut tx, scope).await?;
        let before = before.into_iter().find(|(slug, _)| slug == feature).map(|(_, model)| model);
        plans::choose_model(&mut tx, scope, feature, model).await?;
        let detail = serde_json::json!({ "before": before, "after": model });
        self.record(&mut tx, scope.owner(), actor, AuditAction::ModelChosen, feature, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    fn permit_features(&self, actor: &Actor, tenant: &Tenant) -> Result<(), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::ChangeFeatures, Some(about))
    }
}
