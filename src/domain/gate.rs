//! Gates: the conditions that a feature needs, each open or closed, and who can open it.

use super::clock::Moment;
use super::provider_key::Provider;

/// One condition that a feature needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    Tenant,
    MasterSwitch,
    Plan,
    Key,
    Pause,
    Budget,
}

impl GateKind {
    /// As pages name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Tenant => "Account",
            Self::MasterSwitch => "Master switch",
            Self::Plan => "Plan",
            Self::Key => "Key",
            Self::Pause => "No pause",
            Self::Budget => "Budget and credits",
        }
    }

    /// As the API names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "account",
            Self::MasterSwitch => "master_switch",
            Self::Plan => "plan",
            Self::Key => "key",
            Self::Pause => "pause",
            Self::Budget => "budget",
        }
    }
}

/// Who can open a closed gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// A super admin of the platform.
    Platform,
    /// An admin of the tenant, on its API keys page.
    KeysPage,
    /// An admin of the tenant, on its AI features page.
    FeaturesPage,
    /// An admin of the tenant, by raising a budget.
    BudgetsPage,
    /// An admin of the tenant, by getting credits.
    CreditsPage,
    /// An admin of the tenant, by looking at unusual spend and resuming.
    BreakerPage,
    /// Whoever pays the provider, by adding credit in its console.
    ProviderBilling(Provider),
    /// Whoever pays the provider, by raising the limit in its console.
    ProviderLimits(Provider),
    /// Nobody needs to: it opens by itself.
    Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    pub kind: GateKind,
    /// Why it is closed, in a sentence, and who can open it; `None` while it is open.
    pub closed: Option<Closed>,
    /// The end of an exception that opens or closes it.
    pub until: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub why: String,
    pub opener: Opener,
}
