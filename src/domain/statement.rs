//! A tenant's statement of one month: what is due, and what was used whoever paid for it. Pure: made
//! from sums, so that a preview and a closed month cannot differ in how they add up.

use std::fmt::Write as _;

use super::billing::{EntryKind, Fallback, Funding, Period, UsageMode};
use super::clock::Moment;
use super::money::{Nanos, div_half_even};

/// What a plan costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanTerms {
    /// A month.
    pub subscription: Nanos,
    /// Endpoints that the subscription covers, by the distinct labels seen in a month.
    pub endpoints_included: i64,
    /// A month, for each endpoint beyond.
    pub endpoint_fee: Nanos,
    /// Thousandths of the list price of what ran on own keys.
    pub byok_permille: i64,
}

impl PlanTerms {
    /// The fee for what ran on own keys at this list price.
    #[must_use]
    pub fn byok_fee(&self, list: Nanos) -> Nanos {
        fee(list, self.byok_permille)
    }
}

/// Thousandths of a price, rounded half to even.
fn fee(list: Nanos, permille: i64) -> Nanos {
    let exact = i128::from(list.0) * i128::from(permille);
    Nanos(i64::try_from(div_half_even(exact, 1_000)).unwrap_or(i64::MAX))
}

/// Requests of a month that were paid alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub mode: UsageMode,
    pub funding: Funding,
    pub fallback: Option<Fallback>,
    pub requests: i64,
    pub unpriced: i64,
    pub estimated: i64,
    pub cost: Nanos,
    /// At list price, whatever was negotiated.
    pub list: Nanos,
    pub billed: Nanos,
}

impl Used {
    /// Whether two are paid alike.
    fn is_like(&self, other: &Self) -> bool {
        (self.mode, self.funding, self.fallback) == (other.mode, other.funding, other.fallback)
    }

    /// What is in this and in none of those. Requests are settled once and never taken away.
    #[must_use]
    pub fn beyond(&self, accounted: &[Self]) -> Self {
        accounted.iter().filter(|one| one.is_like(self)).fold(*self, |rest, one| Self {
            requests: rest.requests - one.requests,
            unpriced: rest.unpriced - one.unpriced,
            estimated: rest.estimated - one.estimated,
            cost: Nanos(rest.cost.0 - one.cost.0),
            list: Nanos(rest.list.0 - one.list.0),
            billed: Nanos(rest.billed.0 - one.billed.0),
            ..rest
        })
    }
}

/// What was recorded of a month after its statement was closed: by a process that was cut off, or before a
/// clock was set right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// `2026-10`, or `EARLIER`.
    pub month: String,
    pub used: Vec<Used>,
    /// The lowest of that month, for the fee for what ran on own keys.
    pub byok_permille: i64,
}

/// The time before a tenant's first statement, in place of a month.
pub const EARLIER: &str = "earlier times";

impl Late {
    /// How its lines end.
    fn when(&self) -> String {
        format!("; of {}, recorded later", self.month)
    }
}

/// A part of a month on one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub plan: String,
    pub terms: PlanTerms,
    pub period: Period,
    /// How its lines say when it was; empty for a whole month.
    pub when: String,
    /// The list price of what ran on own keys, and of what was added to it.
    pub own: Nanos,
}

impl Part {
    /// Its share of the month's subscription, by time, rounded half to even.
    #[must_use]
    pub fn subscription(&self, month: Period) -> Nanos {
        let length = |period: Period| i128::from(period.end.since(period.start).max(0));
        let exact = i128::from(self.terms.subscription.0) * length(self.period);
        Nanos(i64::try_from(div_half_even(exact, length(month).max(1))).unwrap_or(i64::MAX))
    }
}

/// Everything that a statement is made from.
#[derive(Clone, Debug)]
pub struct Sums {
    pub month: Period,
    /// The plans that the tenant was on, one after the other.
    pub parts: Vec<Part>,
    pub used: Vec<Used>,
    pub late: Vec<Late>,
    /// Distinct endpoint labels.
    pub endpoints: i64,
    /// Billed in this month for requests that ran without a price.
    pub adjusted_billed: Nanos,
    /// The balance of credits before the month, what of it was entered after the statement before was closed,
    /// and the month's entries by kind.
    pub credits_before: Nanos,
    pub credits_late: Nanos,
    pub credits: Vec<(EntryKind, Nanos)>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Line {
    pub section: Section,
    pub text: String,
    /// Requests or endpoints; `None` where there is nothing to count.
    pub count: Option<i64>,
    /// At the providers' list prices, for information.
    pub list: Option<Nanos>,
    /// What is due, or in the section of credits what the balance changed by.
    pub amount: Nanos,
}

impl Line {
    /// Whether it stands for requests.
    #[must_use]
    pub fn is_use(&self) -> bool {
        self.list.is_some() && self.count.is_some()
    }
}

/// Where a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// Adds up to what is due.
    Due,
    /// Used and not due here: included in the plan, paid from credits, or billed by the provider.
    Used,
    /// The balance of credits.
    Credits,
}

/// A month's statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// `2026-11`.
    pub month: String,
    pub period: Period,
    pub plan: String,
    pub lines: Vec<Line>,
    pub due: Nanos,
    /// `None`: the month is running, or something of it is still pending.
    pub closed_at: Option<Moment>,
}

/// The lines of a month.
#[must_use]
pub fn lines(sums: &Sums) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut due = |text: String, count, list, amount: Nanos| {
        lines.push(Line { section: Section::Due, text, count, list, amount });
    };
    for part in &sums.parts {
        let text = format!("Subscription, {} plan{}", part.plan, part.when);
        due(text, None, None, part.subscription(sums.month));
    }
    // Endpoints are counted over the whole month, by the plan of it that included most of them.
    let terms = sums.parts.iter().map(|part| part.terms).max_by_key(|terms| terms.endpoints_included);
    let terms = terms.unwrap_or_default();
    let over = (sums.endpoints - terms.endpoints_included).max(0);
    if over > 0 && terms.endpoint_fee.0 > 0 {
        let text = format!("Endpoints beyond the {} that are included", terms.endpoints_included);
        due(text, Some(over), None, Nanos(terms.endpoint_fee.0.saturating_mul(over)));
    }
    for used in sums.used.iter().filter(|used| is_due(used)) {
        due(described(used), Some(used.requests), Some(used.list), used.billed);
    }
    for Part { terms, when, own, .. } in sums.parts.iter().filter(|part| part.terms.byok_permille > 0) {
        due(fee_text(terms.byok_permille, when), None, Some(*own), terms.byok_fee(*own));
    }
    for late in &sums.late {
        let when = late.when();
        for used in late.used.iter().filter(|used| is_due(used)) {
            due(format!("{}{when}", described(used)), Some(used.requests), Some(used.list), used.billed);
        }
        let own = late.used.iter().filter(|used| used.mode == UsageMode::Byok).map(|used| used.list);
        let own: Nanos = own.sum();
        if late.byok_permille > 0 && own.0 != 0 {
            let text = fee_text(late.byok_permille, &when);
            due(text, None, Some(own), fee(own, late.byok_permille));
        }
    }
    if sums.adjusted_billed.0 != 0 {
        due(
            "Corrections: requests that had no price when they ran".to_owned(),
            None,
            None,
            sums.adjusted_billed,
        );
    }
    let mut not_due = |text: String, used: &Used| {
        let (count, list) = (Some(used.requests), Some(used.list));
        lines.push(Line { section: Section::Used, text, count, list, amount: Nanos::ZERO });
    };
    for used in sums.used.iter().filter(|used| !is_due(used)) {
        not_due(described(used), used);
    }
    for late in &sums.late {
        for used in late.used.iter().filter(|used| !is_due(used)) {
            not_due(format!("{}{}", described(used), late.when()), used);
        }
    }
    if sums.credits_before.0 != 0 || sums.credits_late.0 != 0 || !sums.credits.is_empty() {
        let mut balance = sums.credits_before;
        let mut credit = |text: &str, amount| {
            let text = text.to_owned();
            lines.push(Line { section: Section::Credits, text, count: None, list: None, amount });
        };
        credit("Balance before", Nanos(balance.0 - sums.credits_late.0));
        if sums.credits_late.0 != 0 {
            credit("Entered after the month before was closed", sums.credits_late);
        }
        for (kind, amount) in &sums.credits {
            let text = match kind {
                EntryKind::Purchase => "Bought",
                EntryKind::Grant => "Granted",
                EntryKind::Usage => "Used",
                EntryKind::Adjust => "Corrected",
                EntryKind::Fee => "Fees",
            };
            credit(text, *amount);
            balance = balance.saturating_add(*amount);
        }
        credit("Balance after", balance);
    }
    lines
}

/// What the lines of the first section add up to.
#[must_use]
pub fn due(lines: &[Line]) -> Nanos {
    lines.iter().filter(|line| line.section == Section::Due).map(|line| line.amount).sum()
}

/// The balance of credits that a statement ends with.
#[must_use]
pub fn balance_after(lines: &[Line]) -> Nanos {
    lines.iter().rfind(|line| line.section == Section::Credits).map_or(Nanos::ZERO, |line| line.amount)
}

fn fee_text(permille: i64, when: &str) -> String {
    format!("Fee for own keys, {}.{}% of list price{when}", permille / 10, permille % 10)
}

fn is_due(used: &Used) -> bool {
    used.mode == UsageMode::Managed && used.funding == Funding::Metered
}

fn described(used: &Used) -> String {
    let what = match (used.mode, used.funding) {
        (UsageMode::Byok, _) => "Own keys, billed by the provider",
        (UsageMode::Managed, Funding::Included) => "Managed use, included in the plan",
        (UsageMode::Managed, Funding::Metered) => "Managed use",
        (UsageMode::Managed, Funding::Credits) => "Managed use, paid from credits",
    };
    let why = match used.fallback {
        None => "",
        Some(Fallback::NoKey) => ", as there was no key",
        Some(Fallback::Limit) => ", as the own key was at a limit",
    };
    let mut text = format!("{what}{why}");
    if used.unpriced > 0 {
        let _ = write!(text, "; {} without a price", used.unpriced);
    }
    if used.estimated > 0 {
        let _ = write!(text, "; {} by estimate", used.estimated);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(mode: UsageMode, funding: Funding, fallback: Option<Fallback>, cost: i64) -> Used {
        let billed = if mode == UsageMode::Managed && funding != Funding::Included { cost } else { 0 };
        let (cost, billed) = (Nanos(cost), Nanos(billed));
        Used { mode, funding, fallback, requests: 3, unpriced: 0, estimated: 0, cost, list: cost, billed }
    }

    #[test]
    fn what_is_due_is_the_sum_of_its_lines() {
        let terms = PlanTerms {
            subscription: Nanos(49_000_000_000),
            endpoints_included: 2,
            endpoint_fee: Nanos(5_000_000_000),
            byok_permille: 25,
        };
        let sums = Sums {
            month: MONTH,
            parts: vec![Part { own: Nanos(1_000_000_060), ..part("Pro", terms, MONTH) }],
            used: vec![
                used(UsageMode::Byok, Funding::Metered, None, 1_000_000_020),
                used(UsageMode::Managed, Funding::Metered, None, 7),
                used(UsageMode::Managed, Funding::Metered, Some(Fallback::Limit), 11),
                used(UsageMode::Managed, Funding::Included, None, 500),
                used(UsageMode::Managed, Funding::Credits, None, 900),
            ],
            endpoints: 5,
            adjusted_billed: Nanos(13),
            late: Vec::new(),
            credits_late: Nanos::ZERO,
            credits_before: Nanos(1_000),
            credits: vec![(EntryKind::Grant, Nanos(500)), (EntryKind::Usage, Nanos(-900))],
        };
        let lines = lines(&sums);
        // 2.5 % of 1,000,000,060 is 25,000,001.5: to even.
        let expected = 49_000_000_000 + 3 * 5_000_000_000 + 7 + 11 + 25_000_002 + 13;
        assert_eq!(due(&lines), Nanos(expected));
        let text = |section: Section| {
            lines
                .iter()
                .filter(|line| line.section == section)
                .map(|line| line.text.as_str())
                .collect::<Vec<_>>()
        };
        assert!(text(Section::Due).contains(&"Managed use, as the own key was at a limit"));
        assert_eq!(text(Section::Used).len(), 3);
        let credits: Vec<i64> =
            lines.iter().filter(|line| line.section == Section::Credits).map(|line| line.amount.0).collect();
        assert_eq!(credits, [1_000, 500, -900, 600]);
        // Every request is in one line, whoever pays for it.
        assert_eq!(lines.iter().filter_map(|line| line.list.and(line.count)).sum::<i64>(), 15);
    }

    const MONTH: Period = Period { start: Moment(1_000), end: Moment(4_000) };

    fn part(plan: &str, terms: PlanTerms, period: Period) -> Part {
        Part { plan: plan.to_owned(), terms, period, when: String::new(), own: Nanos::ZERO }
    }

    fn sums(parts: Vec<Part>) -> Sums {
        Sums {
            month: MONTH,
            parts,
            used: Vec::new(),
            endpoints: 5,
            adjusted_billed: Nanos::ZERO,
            late: Vec::new(),
            credits_late: Nanos::ZERO,
            credits_before: Nanos::ZERO,
            credits: Vec::new(),
        }
    }

    #[test]
    fn a_plan_that_costs_nothing_owes_nothing() {
        let lines = lines(&sums(vec![part("Free", PlanTerms::default(), MONTH)]));
        assert_eq!((lines.len(), due(&lines)), (1, Nanos::ZERO));
    }

    #[test]
    fn what_comes_late_is_named_and_charged_once() {
        let before = used(UsageMode::Managed, Funding::Metered, None, 40);
        let all = Used { requests: 5, cost: Nanos(47), list: Nanos(47), billed: Nanos(47), ..before };
        let rest = all.beyond(&[before, used(UsageMode::Byok, Funding::Metered, None, 1)]);
        assert_eq!((rest.requests, rest.billed), (2, Nanos(7)));
        assert_eq!(rest.beyond(&[rest]).requests, 0);
        let own = used(UsageMode::Byok, Funding::Included, None, 1_000);
        let late = Late { month: "2026-10".to_owned(), used: vec![rest, own], byok_permille: 25 };
        let sums = Sums {
            late: vec![late],
            credits_before: Nanos(-30),
            credits_late: Nanos(-30),
            ..sums(vec![part("Free", PlanTerms::default(), MONTH)])
        };
        let lines = lines(&sums);
        assert_eq!(due(&lines), Nanos(7 + 25));
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts[1], "Managed use; of 2026-10, recorded later");
        assert!(texts[3].starts_with("Own keys, billed by the provider; of 2026-10"), "{texts:?}");
        assert_eq!(lines[4..].iter().map(|line| line.amount.0).collect::<Vec<_>>(), [0, -30, -30]);
        assert_eq!(balance_after(&lines), Nanos(-30));
    }

    #[test]
    fn a_month_on_two_plans_is_charged_by_its_parts() {
        let terms = |subscription, endpoint_fee, byok_permille| PlanTerms {
            subscription: Nanos(subscription),
            endpoints_included: i64::from(endpoint_fee == 7) * 2,
            endpoint_fee: Nanos(endpoint_fee),
            byok_permille,
        };
        let first = Period { start: MONTH.start, end: Moment(2_000) };
        let rest = Period { start: Moment(2_000), end: MONTH.end };
        let pro = Part { own: Nanos(1_000), ..part("Pro", terms(300, 7, 100), first) };
        let free = Part { own: Nanos(50_000), ..part("Free", terms(31, 5, 0), rest) };
        let lines = lines(&sums(vec![pro, free]));
        let amounts: Vec<i64> = lines.iter().map(|line| line.amount.0).collect();
        // A third of 300; two thirds of 31; three endpoints by the plan that includes most; 10 % of what ran on Pro.
        assert_eq!(amounts, [100, 21, 21, 100]);
    }
}
