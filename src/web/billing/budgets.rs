//! Billing → Budgets: a month's limit on spend, for all use or for one key.

use actix_web::HttpRequest;
use actix_web::web::{Data, Query};
use askama::Template;
use serde::Deserialize;

use crate::access::policy::Action;
use crate::domain::billing::{Budget, OnReach};
use crate::services::budgets::TypedBudget;
use crate::services::{Problems, ServiceError};
use crate::web::error::WebError;
use crate::web::form::{Failure, Posted};
use crate::web::page::{Answer, Chrome, Page, see_other};
use crate::web::place::Place;
use crate::web::time::When;
use crate::web::{Console, confirm, session};

#[derive(Template)]
#[template(path = "pages/billing/budgets.html")]
struct BudgetsPage {
    chrome: Chrome,
    billing: String,
    action: String,
    may_change: bool,
    lines: Vec<Line>,
    keys: Vec<String>,
    form: BudgetForm,
    asks_password: bool,
    problems: Problems,
}

struct Line {
    /// The key's name; empty for all use.
    key: String,
    tone: &'static str,
    percent: u64,
    spent: String,
    held: Option<String>,
    amount: String,
    reach: &'static str,
    warns: String,
    priced_only: bool,
    renews: When,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetForm {
    key: String,
    amount: String,
    on_reach: String,
    warn_at: String,
    priced_only: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoveForm {
    key: String,
}

/// Which budget is to be changed; none for a new one.
#[derive(Deserialize)]
pub struct Asked {
    edit: Option<String>,
}

fn address(place: &Place) -> String {
    format!("{}/budgets", super::address(place))
}

async fn page(console: &Console, place: &Place, form: BudgetForm) -> Result<BudgetsPage, WebError> {
    let tenant = place.tenant()?;
    let spending = console.services.spending(&place.holder.scope, tenant.policy.funding).await?;
    let keys = console.services.keys(place.holder).await?;
    Ok(BudgetsPage {
        chrome: place.chrome("Budgets", &address(place)),
        billing: super::address(place),
        action: address(place),
        may_change: place.may(Action::ChangeBilling),
        lines: spending.budgets.iter().map(|(budget, key)| line(budget, key.as_deref(), place)).collect(),
        keys: keys.into_iter().map(|key| key.name.to_string()).collect(),
        form,
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

fn line(budget: &Budget, key: Option<&str>, place: &Place) -> Line {
    let percents: Vec<String> = budget.warn_at.iter().map(|percent| format!("{percent}%")).collect();
    let warned = budget.warn_at.iter().any(|percent| budget.percent() >= u64::from(*percent));
    Line {
        key: key.unwrap_or_default().to_owned(),
        tone: match budget.on_reach {
            OnReach::Pause if budget.is_reached() || budget.refused_at.is_some() => "bad",
            _ if warned => "warn",
            _ => "",
        },
        percent: budget.percent(),
        spent: budget.spent.shown(),
        held: (budget.held.0 > 0).then(|| budget.held.shown()),
        amount: budget.amount.dollars(),
        reach: match budget.on_reach {
            OnReach::Pause => "AI pauses when it is used up",
            OnReach::Warn => "Only warns",
        },
        warns: percents.join(", "),
        priced_only: budget.priced_only,
        renews: place.times().day(budget.period.end),
    }
}

pub async fn show(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    place.demand(Action::SeeUsage)?;
    let fresh = BudgetForm { on_reach: "pause".into(), warn_at: "80, 100".into(), ..BudgetForm::default() };
    let mut page = page(&console, &place, fresh).await?;
    if let Some(edited) = asked.into_inner().edit {
        let spending = console.services.budgets(&place.holder.scope).await?;
        let found = spending.into_iter().find(|(_, key)| key.as_deref().unwrap_or_default() == edited);
        if let Some((budget, key)) = found {
            let percents: Vec<String> = budget.warn_at.iter().map(u8::to_string).collect();
            page.form = BudgetForm {
                key: key.unwrap_or_default(),
                amount: budget.amount.typed(),
                on_reach: budget.on_reach.to_string(),
                warn_at: percents.join(", "),
                priced_only: if budget.priced_only { "yes".to_owned() } else { String::new() },
            };
        }
    }
    Page::new(page).answer()
}

pub async fn save(console: Data<Console>, mut place: Place, posted: Posted<BudgetForm>) -> Answer {
    let form = posted.fields;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let typed = TypedBudget {
        key: form.key.clone(),
        amount: form.amount.clone(),
        on_reach: form.on_reach.clone(),
        warn_at: form.warn_at.clone(),
        priced_only: form.priced_only == "yes",
    };
    let saved = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.set_budget(actor, &scope, &tenant, &typed).await
    })
    .await;
    match saved {
        Ok(()) => {
            let whose =
                if form.key.is_empty() { "for all AI use".to_owned() } else { format!("of {}", form.key) };
            session::notify(
                &place.viewer.session,
                true,
                format!("Budget {whose} saved. It counts this whole month."),
            );
            Ok(see_other(&address(&place)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &place, form).await?;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

pub async fn remove(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    mut posted: Posted<RemoveForm>,
) -> Answer {
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let (password, key) = (posted.evidence.take(), posted.fields.key.clone());
    let removed = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.remove_budget(actor, &scope, &tenant, &key).await
    })
    .await;
    match removed {
        Ok(()) => session::notify(&place.viewer.session, true, "Budget removed. It limits nothing any more."),
        Err(ServiceError::NotFound) => {
            session::notify(&place.viewer.session, false, "That budget is gone already.");
        }
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &address(&place));
            return confirm::ask(error, &request, chrome, "Remove budget", address(&place), &posted);
        }
    }
    Ok(see_other(&address(&place)))
}
