//! Billing → Credits → a purchase: what was ordered, where to pay it, and what became of it.

use actix_web::HttpRequest;
use actix_web::web::{Data, Path};
use askama::Template;
use serde::Deserialize;

use crate::access::policy::Action;
use crate::domain::ids::OrderId;
use crate::domain::payment::{Order, OrderState};
use crate::services::ServiceError;
use crate::web::error::WebError;
use crate::web::form::{Nothing, Posted};
use crate::web::page::{Answer, Chrome, Page, see_other};
use crate::web::place::Place;
use crate::web::time::When;
use crate::web::{Console, confirm, session};

#[derive(Template)]
#[template(path = "pages/billing/purchase.html")]
struct PurchasePage {
    chrome: Chrome,
    credits: String,
    action: String,
    product: String,
    line: OrderLine,
    /// Where to pay, while it can be paid.
    url: Option<String>,
    /// How to pay by hand.
    instructions: Option<String>,
    may_change: bool,
}

/// A purchase as lists and its own page show it.
pub struct OrderLine {
    pub id: OrderId,
    pub reference: String,
    pub amount: String,
    pub tone: &'static str,
    pub word: &'static str,
    pub at: When,
    pub by: String,
    pub settled: Option<When>,
    pub is_open: bool,
    /// What was given back of it.
    pub refunded: Option<String>,
}

impl OrderLine {
    pub fn of(order: &Order, times: &crate::web::time::Times) -> Self {
        let (tone, word) = match order.state {
            OrderState::Open => ("warn", "Not paid yet"),
            OrderState::Processing => ("", "Payment under way"),
            OrderState::Paid if order.refunded == order.amount => ("", "Refunded"),
            OrderState::Paid => ("good", "Paid"),
            OrderState::Failed => ("bad", "Payment failed"),
            OrderState::Expired => ("", "Not paid in time"),
            OrderState::Cancelled => ("", "Cancelled"),
        };
        Self {
            id: order.id,
            reference: order.reference(),
            amount: order.amount.dollars(),
            tone,
            word,
            at: times.when(order.created_at),
            by: order.created_by.clone(),
            settled: order.settled_at.map(|at| times.when(at)),
            is_open: order.state == OrderState::Open,
            refunded: (order.refunded.0 > 0).then(|| order.refunded.dollars()),
        }
    }
}

#[derive(Deserialize)]
pub struct OrderPath {
    id: String,
}

impl OrderPath {
    fn id(&self) -> Result<OrderId, WebError> {
        OrderId::parse(&self.id).ok_or(WebError::NotFound)
    }
}

pub fn address(place: &Place, id: OrderId) -> String {
    format!("{}/credits/orders/{id}", super::address(place))
}

pub async fn show(console: Data<Console>, place: Place, path: Path<OrderPath>) -> Answer {
    let services = &console.services;
    let tenant = &place.tenant()?.tenant;
    let order = services.order(&place.viewer.actor, &place.holder.scope, tenant, path.id()?).await?;
    let is_open = order.state == OrderState::Open;
    let payments = services.payments.as_ref().filter(|payments| payments.method() == order.method);
    let credits = format!("{}/credits", super::address(&place));
    let page = PurchasePage {
        chrome: place.chrome("Purchase", &credits),
        action: address(&place, order.id),
        credits,
        product: services.options.product.clone(),
        line: OrderLine::of(&order, place.times()),
        instructions: payments
            .filter(|_| is_open)
            .and_then(|payments| payments.instructions())
            .map(str::to_owned),
        url: order.url.filter(|_| is_open),
        may_change: place.may(Action::ChangeBilling),
    };
    Page::new(page).answer()
}

pub async fn cancel(
    console: Data<Console>,
    mut place: Place,
    path: Path<OrderPath>,
    request: HttpRequest,
    mut posted: Posted<Nothing>,
) -> Answer {
    let id = path.id()?;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let password = posted.evidence.take();
    let done = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.cancel_order(actor, &scope, &tenant, id).await
    })
    .await;
    match done {
        Ok(()) => session::notify(&place.viewer.session, true, "Purchase cancelled. Nothing is owed for it."),
        Err(ServiceError::Conflict(message)) => session::notify(&place.viewer.session, false, message),
        Err(error) => {
            let back = address(&place, id);
            let chrome = place.chrome("Confirm it's you", &back);
            return confirm::ask(error, &request, chrome, "Cancel purchase", back, &posted);
        }
    }
    Ok(see_other(&address(&place, id)))
}
