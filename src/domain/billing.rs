//! Who pays: usage mode, funding, the tenant's two fallback policies, credits and budgets.

use jiff::ToSpan as _;
use jiff::tz::TimeZone;

use super::clock::Moment;
use super::ids::{BudgetId, KeyId};
use super::money::Nanos;
use super::price::Multiplier;
use super::words;

words! {
    /// `byok`: the provider bills the tenant. `managed`: the platform's shared account pays.
    pub enum UsageMode { Byok = "byok", Managed = "managed" }
}

words! {
    /// How managed use is paid.
    pub enum Funding {
        /// By the plan.
        Included = "included",
        /// On the invoice.
        Metered = "metered",
        /// From a prepaid balance.
        Credits = "credits",
    }
}

impl Funding {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Included => "Included in the plan",
            Self::Metered => "On the invoice",
            Self::Credits => "Prepaid credits",
        }
    }
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
    /// What the tenant pays of the list price of managed use.
    pub rate: Multiplier,
}

/// A dated change of usage mode, as drawn on the chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeChange {
    pub mode: UsageMode,
    pub at: Moment,
}

words! {
    /// Why a tenant's credits changed.
    pub enum EntryKind {
        Purchase = "purchase",
        Grant = "grant",
        Usage = "usage",
        Adjust = "adjust",
        Fee = "fee",
    }
}

/// One line of a tenant's ledger. Lines are never changed: a correction is another line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    pub seq: i64,
    pub at: Moment,
    pub kind: EntryKind,
    /// Positive where the balance grew.
    pub amount: Nanos,
    /// How many requests a line of usage is for.
    pub requests: i64,
    pub note: String,
    pub entered_by: String,
}

/// A tenant's prepaid credits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credits {
    /// The sum of the ledger.
    pub balance: Nanos,
    /// Kept back for requests that are under way.
    pub held: Nanos,
    /// A balance below this is low.
    pub notify_below: Nanos,
    /// When a request last did not fit into what was left, since the balance last grew.
    pub refused_at: Option<Moment>,
}

impl Credits {
    /// What the next request can be paid from.
    #[must_use]
    pub fn available(&self) -> Nanos {
        Nanos(self.balance.0.saturating_sub(self.held.0))
    }

    #[must_use]
    pub fn is_low(&self) -> bool {
        self.balance < self.notify_below
    }
}

words! {
    /// What happens when a budget is reached.
    pub enum OnReach { Pause = "pause", Warn = "warn" }
}

/// A month's limit on spend, at the providers' list prices in either mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub id: BudgetId,
    /// The key whose use it limits; `None` for all of the tenant's use.
    pub key: Option<KeyId>,
    pub amount: Nanos,
    pub on_reach: OnReach,
    /// Percentages at which to warn, ascending.
    pub warn_at: Vec<u8>,
    /// Refuse models without a price, whose spend nobody can know.
    pub priced_only: bool,
    /// Settled in the present period, and held by requests under way.
    pub spent: Nanos,
    pub held: Nanos,
    pub period: Period,
    /// When a request last did not fit into what was left of the period.
    pub refused_at: Option<Moment>,
}

impl Budget {
    /// Whether use of this key counts against it.
    #[must_use]
    pub fn limits(&self, key: KeyId) -> bool {
        self.key.is_none_or(|own| own == key)
    }

    /// Spent of the amount, in whole percent rounded down.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let spent = i128::from(self.spent.0.max(0)) * 100;
        u64::try_from(spent / i128::from(self.amount.0.max(1))).unwrap_or(u64::MAX)
    }

    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.spent >= self.amount
    }
}

/// A month in a tenant's time zone, from its first moment to the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub start: Moment,
    pub end: Moment,
}

impl Period {
    /// The month that a moment falls into.
    #[must_use]
    pub fn month(at: Moment, zone: &TimeZone) -> Self {
        Self::of(at.date(zone).first_of_month(), zone)
    }

    /// The month after this one.
    #[must_use]
    pub fn next(self, zone: &TimeZone) -> Self {
        Self::of(self.end.date(zone).first_of_month(), zone)
    }

    fn of(first: jiff::civil::Date, zone: &TimeZone) -> Self {
        let next = first.checked_add(1.month()).unwrap_or(first);
        Self { start: Moment::start_of(first, zone), end: Moment::start_of(next, zone) }
    }

    #[must_use]
    pub fn has(self, at: Moment) -> bool {
        self.start <= at && at < self.end
    }
}

/// What a request could not be paid from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    Credits,
    TenantBudget,
    KeyBudget,
}

impl Shortage {
    /// In a sentence, as gates and refusals say it.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Credits => "The credits that are left do not cover this.",
            Self::TenantBudget => "What is left of this month's budget does not cover this.",
            Self::KeyBudget => "What is left of this key's budget for the month does not cover this.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_the_zone_over_a_change_of_clocks() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let at = Moment::from_timestamp("2026-10-31T23:30:00Z".parse().unwrap());
        // Half past midnight on the first of November there.
        let month = Period::month(at, &zone);
        assert_eq!(
            (month.start.rfc3339(), month.end.rfc3339()),
            ("2026-10-31T23:00:00Z".into(), "2026-11-30T23:00:00Z".into())
        );
        assert!(month.has(at) && !month.has(month.end));
        let october = Period::month(at.minus(crate::domain::clock::HOUR), &zone);
        assert_eq!(
            october.end.since(october.start),
            31 * crate::domain::clock::DAY + crate::domain::clock::HOUR
        );
        assert_eq!(october.next(&zone), month);
    }

    #[test]
    fn a_budget_counts_whole_percents() {
        let budget = |amount, spent| Budget {
            id: BudgetId::new(),
            key: None,
            amount: Nanos(amount),
            on_reach: OnReach::Pause,
            warn_at: vec![80],
            priced_only: false,
            spent: Nanos(spent),
            held: Nanos::ZERO,
            period: Period { start: Moment(0), end: Moment(1) },
            refused_at: None,
        };
        assert_eq!(budget(1_000, 799).percent(), 79);
        assert_eq!(budget(1_000, 1_000).percent(), 100);
        assert!(budget(1_000, 1_000).is_reached() && !budget(1_000, 999).is_reached());
        assert_eq!(budget(i64::MAX, i64::MAX).percent(), 100);
    }
}
