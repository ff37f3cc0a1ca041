//! Who pays: usage mode, funding and the tenant's two fallback policies.

use super::clock::Moment;
use super::words;

words! {
    /// `byok`: the provider bills the tenant. `managed`: the platform's shared account pays.
    pub enum UsageMode { Byok = "byok", Managed = "managed" }
}

words! {
    /// How managed use is paid.
    pub enum Funding { Included = "included" }
}

words! {
    /// What happens in mode `byok` when the tenant has no key for the provider.
    pub enum NoKeyPolicy { Managed = "managed", Block = "block" }
}

words! {
    /// What happens in mode `byok` when the own key hits a rate, spend or credit limit.
    pub enum LimitPolicy { Pause = "pause", Managed = "managed" }
}

words! {
    /// Why a request of a tenant in mode `byok` ran on the shared account after all.
    pub enum Fallback { NoKey = "no_key", Limit = "limit" }
}

impl UsageMode {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Byok => "Your own key",
            Self::Managed => "Managed",
        }
    }
}

/// What a tenant has decided about paying. Changes are dated and touch no past row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaymentPolicy {
    pub mode: UsageMode,
    pub funding: Funding,
    pub no_key: NoKeyPolicy,
    pub on_limit: LimitPolicy,
}

/// A dated change of usage mode, as drawn on the chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeChange {
    pub mode: UsageMode,
    pub at: Moment,
}
