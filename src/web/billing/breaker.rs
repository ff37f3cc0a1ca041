//! Billing → Unusual spend: stop, or warn, when an hour costs several times the usual.

use actix_web::HttpRequest;
use actix_web::web::Data;
use askama::Template;
use serde::Deserialize;

use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::domain::billing::OnReach;
use crate::domain::money::Nanos;
use crate::services::breaker::TypedBreaker;
use crate::services::{Problems, ServiceError, Services};
use crate::web::error::WebError;
use crate::web::form::{Failure, Nothing, Posted};
use crate::web::page::{Answer, Chrome, Page, see_other};
use crate::web::place::Place;
use crate::web::time::When;
use crate::web::{Console, confirm, session};

#[derive(Template)]
#[template(path = "pages/billing/breaker.html")]
struct BreakerPage {
    chrome: Chrome,
    budgets: String,
    usage: String,
    action: String,
    may_change: bool,
    on: bool,
    tripped: Option<Unusual>,
    form: BreakerForm,
    asks_password: bool,
    problems: Problems,
}

struct Unusual {
    at: When,
    spent: String,
    /// The usual busiest hour; `None` where too few days tell.
    usual: Option<String>,
    pauses: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerForm {
    factor: String,
    least: String,
    on_trip: String,
}

fn address(place: &Place) -> String {
    format!("{}/breaker", super::address(place))
}

async fn page(console: &Console, place: &Place) -> Result<BreakerPage, WebError> {
    let funding = place.tenant()?.policy.funding;
    let breaker = console.services.spending(&place.holder.scope, funding).await?.breaker;
    let form = breaker.map_or_else(
        || BreakerForm { factor: "5".into(), least: "25".into(), on_trip: "pause".into() },
        |breaker| BreakerForm {
            factor: breaker.factor.to_string(),
            least: breaker.least.typed(),
            on_trip: breaker.on_trip.to_string(),
        },
    );
    let tripped = breaker.and_then(|breaker| {
        let tripped = breaker.tripped?;
        Some(Unusual {
            at: place.times().when(tripped.at),
            spent: tripped.spent.dollars(),
            usual: (tripped.usual > Nanos::ZERO).then(|| tripped.usual.dollars()),
            pauses: breaker.on_trip == OnReach::Pause,
        })
    });
    Ok(BreakerPage {
        chrome: place.chrome("Unusual spend", &format!("{}/budgets", super::address(place))),
        budgets: format!("{}/budgets", super::address(place)),
        usage: format!("{}/requests", super::address(place)),
        action: address(place),
        may_change: place.may(Action::ChangeBilling),
        on: breaker.is_some(),
        tripped,
        form,
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

pub async fn show(console: Data<Console>, place: Place) -> Answer {
    place.demand(Action::SeeUsage)?;
    Page::new(page(&console, &place).await?).answer()
}

pub async fn save(console: Data<Console>, mut place: Place, posted: Posted<BreakerForm>) -> Answer {
    let form = posted.fields;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let typed = TypedBreaker {
        factor: form.factor.clone(),
        least: form.least.clone(),
        on_trip: form.on_trip.clone(),
    };
    let saved = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.set_breaker(actor, &scope, &tenant, &typed).await
    })
    .await;
    match saved {
        Ok(()) => {
            session::notify(&place.viewer.session, true, "Saved. It watches from now on.");
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

pub async fn reset(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    posted: Posted<Nothing>,
) -> Answer {
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    press(&console, place, &request, "Resume AI", posted, async |services, actor| {
        services.reset_breaker(actor, &scope, &tenant).await.map(|()| "Resumed. It watches from now on.")
    })
    .await
}

pub async fn remove(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    posted: Posted<Nothing>,
) -> Answer {
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    press(&console, place, &request, "Switch off", posted, async |services, actor| {
        services.remove_breaker(actor, &scope, &tenant).await.map(|()| "Unusual spend is no longer watched.")
    })
    .await
}

async fn press(
    console: &Console,
    mut place: Place,
    request: &HttpRequest,
    intent: &str,
    mut posted: Posted<Nothing>,
    work: impl AsyncFnOnce(&Services, &Actor) -> Result<&'static str, ServiceError>,
) -> Answer {
    let password = posted.evidence.take();
    match confirm::act(console, &mut place.viewer, password, work).await {
        Ok(text) => session::notify(&place.viewer.session, true, text),
        Err(ServiceError::Conflict(message)) => session::notify(&place.viewer.session, false, message),
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &address(&place));
            return confirm::ask(error, request, chrome, intent, address(&place), &posted);
        }
    }
    Ok(see_other(&address(&place)))
}
