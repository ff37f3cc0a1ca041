//! Plans and the AI features that they include.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::clock::Moment;
use super::ids::PlanId;
use super::price_list::{self, Model};
use super::provider_key::Provider;
use super::usage::TokenUsage;

/// The feature of requests that name none: in every plan, covered, without a master switch.
pub const GENERAL: &str = "general";

/// A named AI capability of the operator's product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub slug: String,
    pub name: String,
    pub description: String,
    /// Whether tenants' own keys are used for it yet.
    pub covered: bool,
    /// The model for requests that name none.
    pub default_model: Option<String>,
    /// The master switch that it hangs on, with the others of its group.
    pub switch: String,
    /// The most that one request of it may use.
    pub budget: Option<TokenBudget>,
}

/// Tokens that one request may take in and give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBudget {
    pub input: u64,
    pub output: u64,
}

impl TokenBudget {
    /// Whether a request that may use this much fits.
    #[must_use]
    pub fn covers(self, ceiling: &TokenUsage) -> bool {
        ceiling.input <= self.input && ceiling.output <= self.output
    }

    /// All of it, as tokens that are rated.
    #[must_use]
    pub fn tokens(self) -> TokenUsage {
        TokenUsage { input: self.input, output: self.output, ..TokenUsage::default() }
    }
}

impl Feature {
    /// The built-in feature of requests that name none.
    #[must_use]
    pub fn general() -> &'static Self {
        static ONE: LazyLock<Feature> = LazyLock::new(|| Feature {
            slug: GENERAL.to_owned(),
            name: "General".to_owned(),
            description: "Requests that name no feature".to_owned(),
            covered: true,
            default_model: None,
            switch: String::new(),
            budget: None,
        });
        &ONE
    }

    /// The provider that its requests go to where they follow its own model.
    #[must_use]
    pub fn provider(&self) -> Provider {
        let listed = self.default_model.as_deref().and_then(price_list::find);
        listed.map_or(Provider::Anthropic, Model::maker)
    }
}

/// What one tenant may do for a while although its plan or the platform's switch says otherwise, or
/// may not although they allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    pub feature: String,
    /// False: it closes the feature.
    pub opens: bool,
    pub until: Moment,
    /// For those who run the platform, and for the record.
    pub reason: String,
    pub created_at: Moment,
    pub created_by: String,
}

/// What a tenant subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub id: PlanId,
    pub slug: String,
    pub name: String,
    pub features: BTreeSet<String>,
    /// Models that its tenants may choose for a feature; none: all current ones of the list.
    pub models: BTreeSet<String>,
}

impl Plan {
    #[must_use]
    pub fn includes(&self, feature: &str) -> bool {
        feature == GENERAL || self.features.contains(feature)
    }

    /// The models that its tenants may choose from for features of a provider, newest first.
    pub fn choices(&self, provider: Provider) -> impl Iterator<Item = &'static Model> {
        price_list::models().iter().filter(move |model| {
            model.maker() == provider
                && model.max_output > 0
                && if self.models.is_empty() { is_current(model) } else { self.models.contains(&model.id) }
        })
    }
}

/// Whether a model is offered where nobody said which ones are: those of Anthropic since Claude 4.5, and
/// whatever of the others is not about to be retired.
fn is_current(model: &Model) -> bool {
    const OLDER: [&str; 3] = ["claude-3", "claude-opus-4-1", "claude-opus-4-0"];
    model.retires.is_none() && !OLDER.iter().any(|older| model.id.starts_with(older))
}
