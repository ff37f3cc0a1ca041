//! Notifications: what a tenant's people should know without having asked.

use super::billing::{Budget, Credits, OnReach};
use super::breaker::{Breaker, Tripped};
use super::clock::Moment;
use super::money::{Nanos, grouped};
use super::provider_key::{KeyState, Provider};
use super::reconcile::{Cause, Line};
use super::words;

words! {
    pub enum NoticeKind {
        KeyRejected = "key.rejected",
        KeyPaused = "key.paused",
        KeyResumed = "key.resumed",
        BudgetWarning = "budget.warning",
        BudgetReached = "budget.reached",
        CreditsLow = "credits.low",
        CreditsExhausted = "credits.exhausted",
        UnusualSpend = "spend.unusual",
        UsageDrift = "usage.drift",
        RotationDue = "key.rotation_due",
        Test = "test",
    }
}

impl NoticeKind {
    /// A few words for a table or a subject line.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::KeyRejected => "Key rejected",
            Self::KeyPaused => "Paused",
            Self::KeyResumed => "Resumed",
            Self::BudgetWarning => "Budget",
            Self::BudgetReached => "Budget used up",
            Self::CreditsLow => "Credits low",
            Self::CreditsExhausted => "Credits used up",
            Self::UnusualSpend => "Unusual spend",
            Self::UsageDrift => "Differs from the provider",
            Self::RotationDue => "Rotation due",
            Self::Test => "Test",
        }
    }
}

/// One notification. `page` is where to go on, within the console of the tenant or that of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub at: Moment,
    pub kind: NoticeKind,
    pub text: String,
    pub page: String,
}

/// What a change of a key's state is worth saying.
#[must_use]
pub fn of_key(
    name: &str,
    provider: Provider,
    before: KeyState,
    after: KeyState,
    at: Moment,
) -> Option<Notice> {
    let label = provider.label();
    let (kind, text) = match after {
        KeyState::Rejected => (
            NoticeKind::KeyRejected,
            format!("{label} rejected the key {name}. Requests that need it are refused."),
        ),
        KeyState::OutOfCredit => (
            NoticeKind::KeyPaused,
            format!("The key {name} is paused: its {label} account is out of credit."),
        ),
        KeyState::SpendLimit => {
            (NoticeKind::KeyPaused, format!("The key {name} is paused: its {label} spend limit is reached."))
        }
        KeyState::Valid if before == KeyState::Rejected || is_lasting(before) => {
            (NoticeKind::KeyResumed, format!("The key {name} works again."))
        }
        // A rate limit is over before anybody has read of it.
        _ => return None,
    };
    Some(Notice { at, kind, text, page: format!("settings/api-keys/{name}") })
}

/// When an hour was unusual.
#[must_use]
pub fn of_breaker(breaker: &Breaker, tripped: &Tripped) -> Notice {
    let spent = tripped.spent.dollars();
    let beside = match tripped.usual {
        Nanos::ZERO => String::new(),
        usual => format!(", where the busiest hour of a usual day costs {}", usual.dollars()),
    };
    let follows = match breaker.on_trip {
        OnReach::Pause => "AI is paused until somebody resumes it.",
        OnReach::Warn => "Nothing is paused.",
    };
    Notice {
        at: tripped.at,
        kind: NoticeKind::UnusualSpend,
        text: format!("The last hour cost {spent}{beside}. {follows}"),
        page: "billing/breaker".to_owned(),
    }
}

/// When the provider's own report differs from Keyward's books.
#[must_use]
pub fn of_drift(line: &Line, provider: &str, at: Moment) -> Notice {
    let (key, model) = (&line.key, &line.model);
    let day = line.day.date(&jiff::tz::TimeZone::UTC);
    let text = match line.cause {
        Cause::Price => format!(
            "{provider} charged {} for {model} with the key {key} on {day}, where Keyward counts {}. A negotiated rate or a price may have changed.",
            line.there.cost.unwrap_or_default().dollars(),
            line.here.cost.unwrap_or_default().dollars(),
        ),
        Cause::LessThere => format!(
            "{provider} reports {} tokens of {model} with the key {key} on {day}, where Keyward counts {}. The key may be of another account than the Admin key.",
            grouped(line.there.tokens.unsigned_abs()),
            grouped(line.here.tokens.unsigned_abs()),
        ),
        _ => format!(
            "This key is used elsewhere: {provider} reports {} tokens of {model} with the key {key} on {day} that Keyward never sent. If nobody knows of it, rotate the key.",
            grouped(line.tokens_apart().unsigned_abs()),
        ),
    };
    Notice { at, kind: NoticeKind::UsageDrift, text, page: "billing/reconciliation".to_owned() }
}

/// Once a key version has been in use for long.
#[must_use]
pub fn of_age(name: &str, days: i64, at: Moment) -> Notice {
    Notice {
        at,
        kind: NoticeKind::RotationDue,
        text: format!("The key {name} has been in use for {days} days. Paste a new one and retire it."),
        page: format!("settings/api-keys/{name}/rotate"),
    }
}

/// What the test button sends.
#[must_use]
pub fn of_test(at: Moment) -> Notice {
    Notice {
        at,
        kind: NoticeKind::Test,
        text: "This is a test. Notifications will arrive here.".to_owned(),
        page: "settings/notifications".to_owned(),
    }
}

fn is_lasting(state: KeyState) -> bool {
    matches!(state, KeyState::OutOfCredit | KeyState::SpendLimit)
}

/// The highest percentage that a budget has reached and that was not told in its period yet.
#[must_use]
pub fn of_budget(budget: &Budget, key: Option<&str>, told: u8, at: Moment) -> Option<(u8, Notice)> {
    let used = budget.percent();
    let reached = |percent: u8| used >= u64::from(percent) && percent > told;
    // What no longer fits is as good as used up.
    let full = budget.refused_at.filter(|_| told < 100).map(|_| 100);
    let percent =
        budget.warn_at.iter().copied().chain([100]).filter(|percent| reached(*percent)).chain(full).max()?;
    let whose = key.map_or_else(
        || "the monthly budget".to_owned(),
        |key| format!("the monthly budget of the key {key}"),
    );
    let sums = format!("{} of {}", budget.spent.dollars(), budget.amount.dollars());
    let (kind, text) = match (percent, budget.on_reach) {
        (100, OnReach::Pause) => (
            NoticeKind::BudgetReached,
            format!(
                "{} is used up ({sums}). AI is paused until next month, or until it is raised.",
                capital(&whose)
            ),
        ),
        (100, OnReach::Warn) => (
            NoticeKind::BudgetReached,
            format!("{} is used up ({sums}). Nothing is paused.", capital(&whose)),
        ),
        _ => (NoticeKind::BudgetWarning, format!("{used}% of {whose} is used ({sums}).")),
    };
    Some((percent, Notice { at, kind, text, page: "billing/budgets".to_owned() }))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// What is to be told of a balance: the word to remember, and the notification if it is news.
#[must_use]
pub fn of_credits(credits: &Credits, told: &str, at: Moment) -> (&'static str, Option<Notice>) {
    let page = "billing/credits".to_owned();
    let left = credits.balance.dollars();
    if credits.balance <= Nanos::ZERO || credits.refused_at.is_some() {
        let text = format!(
            "The credits no longer cover every request ({left} left). Those that do not fit are refused."
        );
        let notice = Notice { at, kind: NoticeKind::CreditsExhausted, text, page };
        return ("gone", (told != "gone").then_some(notice));
    }
    if credits.is_low() {
        let notice = Notice {
            at,
            kind: NoticeKind::CreditsLow,
            text: format!("The credits run low: {left} left."),
            page,
        };
        return ("low", told.is_empty().then_some(notice));
    }
    ("", None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::billing::Period;
    use crate::domain::ids::BudgetId;

    const NOW: Moment = Moment(7);

    #[test]
    fn states_that_last_are_told_and_so_is_their_end() {
        use KeyState::{OutOfCredit, RateLimited, Rejected, SpendLimit, Unreachable, Valid};
        let kind =
            |before, after| of_key("k", Provider::Anthropic, before, after, NOW).map(|notice| notice.kind);
        assert_eq!(kind(Valid, Rejected), Some(NoticeKind::KeyRejected));
        assert_eq!(kind(Valid, SpendLimit), Some(NoticeKind::KeyPaused));
        assert_eq!(kind(OutOfCredit, Valid), Some(NoticeKind::KeyResumed));
        for quiet in [(Valid, RateLimited), (RateLimited, Valid), (Valid, Unreachable), (Unreachable, Valid)]
        {
            assert_eq!(kind(quiet.0, quiet.1), None);
        }
    }

    #[test]
    fn a_budget_tells_each_percentage_once() {
        let budget = |spent| Budget {
            id: BudgetId::new(),
            key: None,
            amount: Nanos(1_000),
            on_reach: OnReach::Pause,
            warn_at: vec![50, 80],
            priced_only: false,
            spent: Nanos(spent),
            held: Nanos::ZERO,
            period: Period { start: Moment(0), end: Moment(10) },
            refused_at: None,
        };
        let told = |spent, told| {
            of_budget(&budget(spent), None, told, NOW).map(|(percent, notice)| (percent, notice.kind))
        };
        assert_eq!(told(499, 0), None);
        assert_eq!(told(500, 0), Some((50, NoticeKind::BudgetWarning)));
        assert_eq!(told(799, 50), None);
        assert_eq!(told(810, 0), Some((80, NoticeKind::BudgetWarning)));
        assert_eq!(told(1_000, 80), Some((100, NoticeKind::BudgetReached)));
        assert_eq!(told(5_000, 100), None);
        let refused = Budget { refused_at: Some(NOW), ..budget(970) };
        let news =
            |told| of_budget(&refused, None, told, NOW).map(|(percent, notice)| (percent, notice.kind));
        assert_eq!(news(80), Some((100, NoticeKind::BudgetReached)));
        assert_eq!(news(100), None);
    }

    #[test]
    fn a_balance_is_told_when_it_falls_and_again_when_it_is_gone() {
        let credits =
            |balance| Credits { balance: Nanos(balance), notify_below: Nanos(100), ..Credits::default() };
        let told = |balance, before| {
            let (word, notice) = of_credits(&credits(balance), before, NOW);
            (word, notice.map(|notice| notice.kind))
        };
        assert_eq!(told(100, ""), ("", None));
        assert_eq!(told(99, ""), ("low", Some(NoticeKind::CreditsLow)));
        assert_eq!(told(50, "low"), ("low", None));
        assert_eq!(told(0, "low"), ("gone", Some(NoticeKind::CreditsExhausted)));
        assert_eq!(told(-5, "gone"), ("gone", None));
        // Something did not fit, though there is some left.
        let refused = Credits { refused_at: Some(NOW), ..credits(500) };
        assert_eq!(
            of_credits(&refused, "", NOW).1.map(|notice| notice.kind),
            Some(NoticeKind::CreditsExhausted)
        );
        // Filled up and down again, it is news again; back to low after it was gone is none.
        assert_eq!(told(500, "gone"), ("", None));
        assert_eq!(told(50, "gone"), ("low", None));
    }
}
