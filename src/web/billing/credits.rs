//! Billing → Credits: the balance, what is held, and the ledger.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::{Data, Query};
use askama::Template;
use serde::Deserialize;

use super::purchase::{self, OrderLine};
use crate::access::policy::Action;
use crate::domain::billing::{EntryKind, Funding, LedgerEntry};
use crate::domain::ids::OrderId;
use crate::domain::payment::{LEAST, MOST, OrderState};
use crate::services::{Problems, ServiceError};
use crate::web::error::WebError;
use crate::web::figures::counted;
use crate::web::form::{Failure, Posted};
use crate::web::page::{Answer, Chrome, Page, see_other};
use crate::web::place::Place;
use crate::web::spending;
use crate::web::time::When;
use crate::web::{Console, confirm, session};

#[derive(Template)]
#[template(path = "pages/billing/credits.html")]
struct CreditsPage {
    chrome: Chrome,
    billing: String,
    action: String,
    product: String,
    funding: Funding,
    paid: String,
    balance: String,
    tone: &'static str,
    held: String,
    available: String,
    lines: Vec<Line>,
    older: Option<String>,
    may_change: bool,
    /// Purchases that are not in the ledger, or not for all of their amount.
    orders: Vec<OrderLine>,
    /// Whether credits can be bought here.
    sells: bool,
    least: String,
    most: String,
    amount: String,
    once: OrderId,
    form: NoticeForm,
    asks_password: bool,
    problems: Problems,
}

struct Line {
    at: When,
    what: &'static str,
    note: String,
    by: String,
    amount: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoticeForm {
    notify_below: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BuyForm {
    amount: String,
    /// The id of the purchase that is begun, so that a second click does not begin another.
    once: String,
}

#[derive(Deserialize)]
pub struct Asked {
    before: Option<i64>,
}

fn address(place: &Place) -> String {
    format!("{}/credits", super::address(place))
}

async fn page(console: &Console, place: &Place, before: Option<i64>) -> Result<CreditsPage, WebError> {
    let view = place.tenant()?;
    let (actor, scope) = (&place.viewer.actor, &place.holder.scope);
    let statement = console.services.credit_statement(actor, scope, &view.tenant, before).await?;
    let credits = statement.credits;
    let orders = console.services.orders(actor, scope, &view.tenant).await?;
    let on_credits = view.policy.funding == Funding::Credits;
    Ok(CreditsPage {
        chrome: place.chrome("Credits", &address(place)),
        billing: super::address(place),
        action: address(place),
        product: console.services.options.product.clone(),
        funding: view.policy.funding,
        paid: spending::paid(view.policy.funding, &view.plan.name),
        balance: credits.balance.dollars(),
        tone: match credits.balance.0 {
            _ if credits.refused_at.is_some() && view.policy.funding == Funding::Credits => "bad",
            ..=0 if view.policy.funding == Funding::Credits => "bad",
            _ if credits.is_low() => "warn",
            _ => "",
        },
        held: credits.held.shown(),
        available: credits.available().dollars(),
        lines: statement.entries.into_iter().map(|entry| line(entry, place)).collect(),
        older: statement.older.map(|seq| format!("{}?before={seq}", address(place))),
        may_change: place.may(Action::ChangeBilling),
        orders: orders
            .iter()
            .filter(|order| order.state != OrderState::Paid || order.refunded.0 > 0)
            .map(|order| OrderLine::of(order, place.times()))
            .collect(),
        sells: on_credits && console.services.payments.is_some() && place.may(Action::ChangeBilling),
        least: LEAST.dollars(),
        most: MOST.dollars(),
        amount: String::new(),
        once: OrderId::new(),
        form: NoticeForm { notify_below: credits.notify_below.typed() },
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

fn line(entry: LedgerEntry, place: &Place) -> Line {
    let used = entry.kind == EntryKind::Usage;
    Line {
        at: place.times().when(entry.at),
        what: match entry.kind {
            EntryKind::Purchase => "Purchase",
            EntryKind::Grant => "Grant",
            EntryKind::Usage => "Usage",
            EntryKind::Adjust => "Correction",
            EntryKind::Fee => "Fee",
        },
        note: if used { counted(entry.requests, "request", "requests") } else { entry.note },
        by: if used { String::new() } else { entry.entered_by },
        amount: match entry.amount.0 {
            0.. => format!("+{}", entry.amount.precise()),
            _ => format!("\u{2212}{}", crate::domain::money::Nanos(-entry.amount.0).precise()),
        },
    }
}

pub async fn show(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    Page::new(page(&console, &place, asked.into_inner().before).await?).answer()
}

pub async fn save_notice(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    mut posted: Posted<NoticeForm>,
) -> Answer {
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let (below, password) = (posted.fields.notify_below.clone(), posted.evidence.take());
    let saved = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.set_credit_notice(actor, &scope, &tenant, &below).await
    })
    .await;
    match saved {
        Ok(()) => {
            session::notify(&place.viewer.session, true, "Notice saved.");
            Ok(see_other(&address(&place)))
        }
        Err(ServiceError::Invalid(problems)) if problems.of("notify_below").is_some() => {
            let mut page = page(&console, &place, None).await?;
            page.form = posted.fields;
            page.problems = problems;
            Page::new(page).status(StatusCode::UNPROCESSABLE_ENTITY).answer()
        }
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &address(&place));
            confirm::ask(error, &request, chrome, "Save notice", address(&place), &posted)
        }
    }
}

/// Begins a purchase; its page leads on to the payment provider.
pub async fn buy(console: Data<Console>, mut place: Place, posted: Posted<BuyForm>) -> Answer {
    let form = posted.fields;
    let id = if form.once.is_empty() { Some(OrderId::new()) } else { OrderId::parse(&form.once) };
    let id = id.ok_or(WebError::BadForm)?;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let bought = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.order_credits(actor, &scope, &tenant, id, &form.amount).await
    })
    .await;
    match bought {
        Ok(order) => Ok(see_other(&purchase::address(&place, order.id))),
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &place, None).await?;
            page.amount = form.amount;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}
