//! Billing → Rates: what is paid of the list price, by key and on the shared account.

use actix_web::web::Data;
use askama::Template;
use serde::Deserialize;

use crate::access::policy::Action;
use crate::domain::price::Multiplier;
use crate::services::{Problems, ServiceError};
use crate::web::error::WebError;
use crate::web::form::{Failure, Posted};
use crate::web::page::{Answer, Chrome, Page, see_other};
use crate::web::place::Place;
use crate::web::{Console, confirm, session};

#[derive(Template)]
#[template(path = "pages/billing/rates.html")]
struct RatesPage {
    chrome: Chrome,
    billing: String,
    action: String,
    product: String,
    may_change: bool,
    keys: Vec<Line>,
    managed: String,
    form: RateForm,
    asks_password: bool,
    problems: Problems,
}

struct Line {
    name: String,
    provider: &'static str,
    rate: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateForm {
    key: String,
    percent: String,
}

fn address(place: &Place) -> String {
    format!("{}/rates", super::address(place))
}

/// "List price", or "85% of the list price".
pub fn worded(rate: Multiplier) -> String {
    match rate {
        Multiplier::LIST => "List price".to_owned(),
        rate => format!("{}% of the list price", rate.percent()),
    }
}

async fn page(console: &Console, place: &Place) -> Result<RatesPage, WebError> {
    let policy = place.tenant()?.policy;
    let keys = console.services.keys(place.holder).await?;
    Ok(RatesPage {
        chrome: place.chrome("Rates", &super::address(place)),
        billing: super::address(place),
        action: address(place),
        product: console.services.options.product.clone(),
        may_change: place.may(Action::ChangeBilling),
        keys: keys
            .into_iter()
            .map(|key| Line {
                name: key.name.to_string(),
                provider: key.provider.label(),
                rate: worded(key.rate),
            })
            .collect(),
        managed: worded(policy.rate),
        form: RateForm::default(),
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

pub async fn show(console: Data<Console>, place: Place) -> Answer {
    place.demand(Action::SeeUsage)?;
    Page::new(page(&console, &place).await?).answer()
}

pub async fn save(console: Data<Console>, mut place: Place, posted: Posted<RateForm>) -> Answer {
    let form = posted.fields;
    let (holder, tenant) = (place.holder, place.tenant()?.tenant.clone());
    let saved = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.set_key_rate(actor, holder, &tenant, &form.key, &form.percent).await
    })
    .await;
    match saved {
        Ok(()) => {
            let text = format!("Rate of {} saved. It holds for new requests.", form.key);
            session::notify(&place.viewer.session, true, text);
            Ok(see_other(&address(&place)))
        }
        Err(ServiceError::Conflict(message)) => {
            session::notify(&place.viewer.session, false, message);
            Ok(see_other(&address(&place)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &place).await?;
            page.form = form;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}
