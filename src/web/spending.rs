//! Banners on what is left to spend: credits and budgets. They stand under the one on keys.

use super::Console;
use super::banner::Banner;
use super::error::WebError;
use super::place::Place;
use super::prose::{Link, Prose, Tone};
use super::time::Times;
use crate::access::policy::Action;
use crate::domain::billing::{Budget, Credits, Funding, OnReach, UsageMode};
use crate::domain::breaker::Breaker;
use crate::domain::money::Nanos;
use crate::services::budgets::Spending;

/// The banners of a tenant's page, none where there is enough of everything.
///
/// # Errors
/// When the database fails.
pub async fn banners(console: &Console, place: &Place) -> Result<Vec<Banner>, WebError> {
    let policy = place.tenant()?.policy;
    let spending = console.services.spending(&place.holder.scope, policy.funding).await?;
    Ok(of(&spending, policy.mode, place))
}

fn of(spending: &Spending, mode: UsageMode, place: &Place) -> Vec<Banner> {
    let root = place.root();
    let credits = spending.credits.and_then(|credits| {
        let link =
            place.may(Action::SeeUsage).then(|| Link::to(format!("{root}/billing/credits"), "Credits"));
        about_credits(&credits, mode, place.times(), link)
    });
    let budgets = spending.budgets.iter().filter_map(|(budget, key)| {
        let to = format!("{root}/billing/budgets");
        let link = place.may(Action::ChangeBilling).then(|| Link::to(to, "Change budget"));
        about_budget(budget, key.as_deref(), place.times(), link)
    });
    let breaker = spending.breaker.and_then(|breaker| {
        let to = format!("{root}/billing/breaker");
        let link = place.may(Action::SeeUsage).then(|| Link::to(to, "Look at it"));
        about_breaker(&breaker, place.times(), link)
    });
    breaker.into_iter().chain(credits).chain(budgets).collect()
}

fn about_breaker(breaker: &Breaker, times: &Times, link: Option<Link>) -> Option<Banner> {
    let tripped = breaker.tripped.filter(|_| breaker.pauses())?;
    let beside = match tripped.usual {
        Nanos::ZERO => String::new(),
        usual => format!("; the busiest hour of a usual day costs {}", usual.dollars()),
    };
    Some(Banner {
        tone: Tone::Bad,
        sentence: "AI is paused: spend was unusual.".to_owned(),
        detail: Prose::of(format!("An hour cost {}{beside}. Paused ", tripped.spent.dollars()))
            .when(&times.when(tripped.at))
            .text(", until somebody resumes it."),
        link,
    })
}

fn about_credits(credits: &Credits, mode: UsageMode, times: &Times, link: Option<Link>) -> Option<Banner> {
    let whom = match mode {
        UsageMode::Managed => "Requests that are paid from credits are refused",
        UsageMode::Byok => "Requests that would run on the shared account are refused",
    };
    if credits.balance <= Nanos::ZERO {
        let sentence = match mode {
            UsageMode::Managed => "AI is paused: your credits are used up.",
            UsageMode::Byok => "Your credits are used up.",
        };
        return Some(Banner {
            tone: if mode == UsageMode::Managed { Tone::Bad } else { Tone::Warn },
            sentence: sentence.to_owned(),
            detail: Prose::of(format!(
                "{whom} until there are more. Own keys that a request names still work."
            )),
            link,
        });
    }
    if let Some(at) = credits.refused_at {
        return Some(Banner {
            tone: if mode == UsageMode::Managed { Tone::Bad } else { Tone::Warn },
            sentence: "Requests are refused: your credits do not cover them.".to_owned(),
            detail: Prose::of(format!("{} are left. The last refusal was ", credits.available().dollars()))
                .when(&times.when(at))
                .text(". Requests that fit into what is left still run."),
            link,
        });
    }
    credits.is_low().then(|| Banner {
        tone: Tone::Warn,
        sentence: format!("Your credits run low: {} left.", credits.balance.dollars()),
        detail: Prose::of(format!("{whom} when what is left does not cover them.")),
        link,
    })
}

fn about_budget(budget: &Budget, key: Option<&str>, times: &Times, link: Option<Link>) -> Option<Banner> {
    let whose =
        key.map_or_else(|| "your monthly budget".to_owned(), |key| format!("the monthly budget of {key}"));
    let sums = format!("{} of {}.", budget.spent.dollars(), budget.amount.dollars());
    if budget.on_reach == OnReach::Pause && (budget.is_reached() || budget.refused_at.is_some()) {
        let (what, refused) = match key {
            Some(key) => (format!("The key {key} is paused"), "Requests with it that do not fit are refused"),
            None => ("AI is paused".to_owned(), "AI requests that do not fit are refused"),
        };
        let last = match budget.refused_at {
            Some(at) => Prose::of(" The last refusal was ").when(&times.when(at)).text("."),
            None => Prose::default(),
        };
        return Some(Banner {
            tone: Tone::Bad,
            sentence: format!("{what}: {whose} is used up."),
            detail: Prose::of(format!("{sums} {refused} until next month, or until the budget is raised."))
                .then(&last),
            link,
        });
    }
    let warned = budget.warn_at.iter().any(|percent| budget.percent() >= u64::from(*percent));
    warned.then(|| Banner {
        tone: Tone::Warn,
        sentence: format!("{}% of {whose} is used.", budget.percent()),
        detail: Prose::of(match budget.on_reach {
            OnReach::Pause => format!("{sums} AI pauses when a request no longer fits."),
            OnReach::Warn => format!("{sums} Nothing is paused: this budget only warns."),
        }),
        link,
    })
}

/// How managed use is paid, as the end of a sentence about it.
pub fn paid(funding: Funding, plan: &str) -> String {
    match funding {
        Funding::Included => format!("included in your {plan} plan"),
        Funding::Metered => "billed on your invoice".to_owned(),
        Funding::Credits => "paid from your credits".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::billing::Period;
    use crate::domain::clock::Moment;
    use crate::domain::ids::BudgetId;

    fn times() -> Times {
        Times { now: Moment(0), zone: jiff::tz::TimeZone::UTC }
    }

    fn budget(spent: i64, on_reach: OnReach) -> Budget {
        Budget {
            id: BudgetId::new(),
            key: None,
            amount: Nanos(250_000_000_000),
            on_reach,
            warn_at: vec![80],
            priced_only: false,
            spent: Nanos(spent),
            held: Nanos::ZERO,
            period: Period { start: Moment(0), end: Moment(1) },
            refused_at: None,
        }
    }

    #[test]
    fn budgets_are_told_from_their_percentage_on() {
        let told = |spent, on_reach| {
            about_budget(&budget(spent, on_reach), None, &times(), None).map(|b| (b.tone, b.sentence))
        };
        assert_eq!(told(199_000_000_000, OnReach::Pause), None);
        let warned = (Tone::Warn, "82% of your monthly budget is used.".to_owned());
        assert_eq!(told(205_940_000_000, OnReach::Pause), Some(warned));
        let paused = (Tone::Bad, "AI is paused: your monthly budget is used up.".to_owned());
        assert_eq!(told(250_000_000_000, OnReach::Pause), Some(paused));
        let over = (Tone::Warn, "100% of your monthly budget is used.".to_owned());
        assert_eq!(told(250_000_000_000, OnReach::Warn), Some(over));
    }

    #[test]
    fn credits_are_told_when_they_are_low_or_gone() {
        let told = |balance, mode| {
            let credits =
                Credits { balance: Nanos(balance), notify_below: Nanos(5_000_000_000), ..Credits::default() };
            about_credits(&credits, mode, &times(), None).map(|b| (b.tone, b.sentence))
        };
        assert_eq!(told(5_000_000_000, UsageMode::Managed), None);
        let low = (Tone::Warn, "Your credits run low: $4.99 left.".to_owned());
        assert_eq!(told(4_990_000_000, UsageMode::Managed), Some(low));
        let gone = (Tone::Bad, "AI is paused: your credits are used up.".to_owned());
        assert_eq!(told(-1, UsageMode::Managed), Some(gone));
        assert_eq!(told(0, UsageMode::Byok).map(|(tone, _)| tone), Some(Tone::Warn));
    }
}
