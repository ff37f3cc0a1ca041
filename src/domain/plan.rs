//! Plans and the AI features that they include.

use std::collections::BTreeSet;

use super::ids::PlanId;

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
}

impl Feature {
    /// The built-in feature of requests that name none.
    #[must_use]
    pub fn general() -> Self {
        Self {
            slug: GENERAL.to_owned(),
            name: "General".to_owned(),
            description: "Requests that name no feature".to_owned(),
            covered: true,
            default_model: None,
        }
    }
}

/// What a tenant subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub id: PlanId,
    pub slug: String,
    pub name: String,
    pub features: BTreeSet<String>,
}

impl Plan {
    #[must_use]
    pub fn includes(&self, feature: &str) -> bool {
        feature == GENERAL || self.features.contains(feature)
    }
}
