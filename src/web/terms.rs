//! Platform → Tenants → one tenant: how its managed use is paid, and its credits.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Path, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::billing::purchase::OrderLine;
use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::time::{Times, When};
use super::viewer::Viewer;
use super::{Console, confirm, read, session};
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::billing::{Funding, UsageMode};
use crate::domain::ids::{OrderId, Owner};
use crate::services::credits::TypedEntry;
use crate::services::directory::TenantView;
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/platform/tenants/{slug}").route(read().to(show)))
        .service(web::resource("/platform/tenants/{slug}/funding").route(web::post().to(save_funding)))
        .service(web::resource("/platform/tenants/{slug}/rate").route(web::post().to(save_rate)))
        .service(
            web::resource("/platform/tenants/{slug}/orders/{id}/paid").route(web::post().to(confirm_order)),
        )
        .service(web::resource("/platform/tenants/{slug}/credits").route(web::post().to(enter)));
}

#[derive(Template)]
#[template(path = "pages/platform/tenant.html")]
struct TenantPage {
    chrome: Chrome,
    name: String,
    slug: String,
    plan: String,
    mode: UsageMode,
    zone: String,
    created: When,
    funding: Funding,
    /// Percent of the list price of managed use.
    rate: String,
    rate_was: String,
    fundings: [(Funding, &'static str); 3],
    /// How it was paid before, newest first.
    history: Vec<(Funding, When)>,
    balance: String,
    held: String,
    /// Purchases that are paid by hand and wait for word that the payment has arrived.
    waiting: Vec<OrderLine>,
    form: CreditForm,
    asks_password: bool,
    problems: Problems,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CreditForm {
    amount: String,
    note: String,
    form_id: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FundingForm {
    /// What the page showed, so that two people do not overrule each other unseen.
    was: String,
    funding: String,
}

fn address(slug: &str) -> String {
    format!("/platform/tenants/{slug}")
}

/// The tenant, for those who run the platform.
async fn find(
    console: &Console,
    viewer: &Viewer,
    slug: &str,
) -> Result<std::sync::Arc<TenantView>, WebError> {
    let services = &console.services;
    services.permit(&viewer.actor, Action::SeePlatform, None)?;
    let id =
        services.directory.tenant_id(slug).await.map_err(ServiceError::from)?.ok_or(WebError::NotFound)?;
    let scope = Scope::of_system(Owner::Tenant(id));
    let view = services.directory.tenant(&scope).await.map_err(ServiceError::from)?;
    view.ok_or(WebError::NotFound)
}

async fn page(console: &Console, viewer: &Viewer, view: &TenantView) -> Result<TenantPage, WebError> {
    let tenant: &Tenant = &view.tenant;
    let services = &console.services;
    let scope = Scope::of_system(Owner::Tenant(tenant.id));
    let credits = services.spending(&scope, Funding::Credits).await?.credits.unwrap_or_default();
    let times = Times { now: services.clock.now(), zone: jiff::tz::TimeZone::UTC };
    let orders = services.waiting_orders(&viewer.actor, &scope).await?;
    let history = services.funding_history(&viewer.actor, tenant).await?;
    Ok(TenantPage {
        chrome: Chrome::new(viewer, &Here::Platform, &tenant.name, "/platform/tenants"),
        name: tenant.name.clone(),
        slug: tenant.slug.to_string(),
        plan: view.plan.name.clone(),
        mode: view.policy.mode,
        zone: tenant.time_zone.clone(),
        created: times.day(tenant.created_at),
        funding: view.policy.funding,
        rate: view.policy.rate.percent(),
        rate_was: view.policy.rate.percent(),
        fundings: [
            (Funding::Included, "The plan covers it. Nothing is billed for requests on the shared account."),
            (
                Funding::Metered,
                "Each request on the shared account is billed at the rate below, once a month.",
            ),
            (
                Funding::Credits,
                "Each request on the shared account is paid at the rate below from a balance; without enough of it, it is refused.",
            ),
        ],
        history: history.into_iter().map(|(funding, at)| (funding, times.day(at))).collect(),
        balance: credits.balance.dollars(),
        held: credits.held.shown(),
        waiting: orders.iter().map(|order| OrderLine::of(order, &times)).collect(),
        form: CreditForm { form_id: uuid::Uuid::now_v7().to_string(), ..CreditForm::default() },
        asks_password: !viewer.actor.is_confirmed(services.clock.now()),
        problems: Problems::default(),
    })
}

async fn show(console: Data<Console>, viewer: Viewer, slug: Path<String>) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    Page::new(page(&console, &viewer, &view).await?).answer()
}

async fn save_funding(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    slug: Path<String>,
    mut posted: Posted<FundingForm>,
) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    let parse = |word: &str| Funding::parse(word).ok_or(WebError::BadForm);
    let (from, to) = (parse(&posted.fields.was)?, parse(&posted.fields.funding)?);
    let password = posted.current_password.take();
    let saved = confirm::act(&console, &mut viewer, password, async |services, actor| {
        services.set_funding(actor, &view.tenant, from, to).await
    })
    .await;
    match saved {
        Ok(()) => session::notify(
            &viewer.session,
            true,
            "Saved. It holds for new requests; past ones keep how they were paid.",
        ),
        Err(ServiceError::Conflict(message)) => session::notify(&viewer.session, false, message),
        Err(error) => {
            let chrome = Chrome::new(&viewer, &Here::Platform, "Confirm it's you", "/platform/tenants");
            return confirm::ask(error, &request, chrome, "Save funding", address(&slug), &posted);
        }
    }
    Ok(see_other(&address(&slug)))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RateForm {
    /// What the page showed, so that two people do not overrule each other unseen.
    was: String,
    percent: String,
}

async fn save_rate(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    slug: Path<String>,
    mut posted: Posted<RateForm>,
) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    let (password, form) = (posted.current_password.take(), &posted.fields);
    let saved = confirm::act(&console, &mut viewer, password, async |services, actor| {
        services.set_managed_rate(actor, &view.tenant, &form.was, &form.percent).await
    })
    .await;
    match saved {
        Ok(()) => session::notify(
            &viewer.session,
            true,
            "Rate saved. It holds for new requests; past ones keep what they cost.",
        ),
        Err(ServiceError::Conflict(message)) => session::notify(&viewer.session, false, message),
        Err(ServiceError::Invalid(problems)) if problems.of("percent").is_some() => {
            let mut page = page(&console, &viewer, &view).await?;
            page.rate.clone_from(&posted.fields.percent);
            page.problems = problems;
            return Page::new(page).status(StatusCode::UNPROCESSABLE_ENTITY).answer();
        }
        Err(error) => {
            let chrome = Chrome::new(&viewer, &Here::Platform, "Confirm it's you", "/platform/tenants");
            return confirm::ask(error, &request, chrome, "Save rate", address(&slug), &posted);
        }
    }
    Ok(see_other(&address(&slug)))
}

async fn enter(
    console: Data<Console>,
    mut viewer: Viewer,
    slug: Path<String>,
    posted: Posted<CreditForm>,
) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    let form = posted.fields;
    let typed =
        TypedEntry { amount: form.amount.clone(), note: form.note.clone(), form_id: form.form_id.clone() };
    let entered = confirm::act(&console, &mut viewer, posted.current_password, async |services, actor| {
        services.enter_credits(actor, &view.tenant, &typed).await
    })
    .await;
    match entered {
        Ok((amount, balance)) => {
            let what = if amount.0 > 0 { "granted" } else { "taken back" };
            let amount = crate::domain::money::Nanos(amount.0.abs()).dollars();
            let text = format!("{amount} {what}. The balance is {} now.", balance.dollars());
            session::notify(&viewer.session, true, text);
            Ok(see_other(&address(&slug)))
        }
        // Sent twice: the first did it.
        Err(ServiceError::Conflict(message)) => {
            session::notify(&viewer.session, false, message);
            Ok(see_other(&address(&slug)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &viewer, &view).await?;
            page.form = form;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

async fn confirm_order(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    path: Path<(String, String)>,
    mut posted: Posted<Nothing>,
) -> Answer {
    let (slug, id) = path.into_inner();
    let view = find(&console, &viewer, &slug).await?;
    let id = OrderId::parse(&id).ok_or(WebError::NotFound)?;
    let scope = Scope::of_system(Owner::Tenant(view.tenant.id));
    let password = posted.current_password.take();
    let done = confirm::act(&console, &mut viewer, password, async |services, actor| {
        services.confirm_order(actor, &scope, id).await
    })
    .await;
    match done {
        Ok(order) => {
            let text = format!("{} of credits entered for {}.", order.amount.dollars(), order.reference());
            session::notify(&viewer.session, true, text);
        }
        Err(ServiceError::Conflict(message)) => session::notify(&viewer.session, false, message),
        Err(error) => {
            let chrome = Chrome::new(&viewer, &Here::Platform, "Confirm it's you", "/platform/tenants");
            return confirm::ask(error, &request, chrome, "Enter as paid", address(&slug), &posted);
        }
    }
    Ok(see_other(&address(&slug)))
}
