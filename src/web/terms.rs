//! Platform → Tenants → one tenant: its plan and exceptions, how its managed use is paid, its credits.

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
use crate::domain::account::{Tenant, TenantState};
use crate::domain::billing::{Funding, UsageMode};
use crate::domain::ids::{OrderId, Owner};
use crate::services::billing::zone_of;
use crate::services::credits::TypedEntry;
use crate::services::directory::TenantView;
use crate::services::plans::TypedException;
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/platform/tenants/{slug}").route(read().to(show)))
        .service(web::resource("/platform/tenants/{slug}/funding").route(web::post().to(save_funding)))
        .service(web::resource("/platform/tenants/{slug}/rate").route(web::post().to(save_rate)))
        .service(
            web::resource("/platform/tenants/{slug}/orders/{id}/paid").route(web::post().to(confirm_order)),
        )
        .service(web::resource("/platform/tenants/{slug}/plan").route(web::post().to(save_plan)))
        .service(web::resource("/platform/tenants/{slug}/state").route(web::post().to(save_state)))
        .service(web::resource("/platform/tenants/{slug}/exceptions").route(web::post().to(make_exception)))
        .service(
            web::resource("/platform/tenants/{slug}/exceptions/end").route(web::post().to(end_exception)),
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
    suspended: bool,
    plan_slug: String,
    /// Slug and name.
    plans: Vec<(String, String)>,
    features: Vec<(String, String)>,
    exceptions: Vec<ExceptionRow>,
    exception: ExceptionForm,
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

fn confirming(viewer: &Viewer) -> Chrome {
    Chrome::new(viewer, &Here::Platform, "Confirm it's you", "/platform/tenants")
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ExceptionForm {
    feature: String,
    opens: bool,
    last_day: String,
    reason: String,
}

impl Default for ExceptionForm {
    fn default() -> Self {
        Self { feature: String::new(), opens: true, last_day: String::new(), reason: String::new() }
    }
}

struct ExceptionRow {
    feature: String,
    name: String,
    opens: bool,
    /// Its last day.
    until: When,
    reason: String,
    by: String,
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
    let zoned = Times { now: times.now, zone: zone_of(tenant) };
    let platform = services.directory.platform().await.map_err(ServiceError::from)?;
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
        suspended: tenant.state == TenantState::Suspended,
        plan_slug: view.plan.slug.clone(),
        plans: platform.plans.iter().map(|plan| (plan.slug.clone(), plan.name.clone())).collect(),
        exceptions: view
            .exceptions
            .iter()
            .filter(|exception| times.now < exception.until)
            .map(|exception| ExceptionRow {
                feature: exception.feature.clone(),
                name: platform
                    .features
                    .iter()
                    .find(|feature| feature.slug == exception.feature)
                    .map_or_else(|| exception.feature.clone(), |feature| feature.name.clone()),
                opens: exception.opens,
                until: zoned.day(exception.until.minus(1)),
                reason: exception.reason.clone(),
                by: exception.created_by.clone(),
            })
            .collect(),
        features: platform.features.iter().map(|one| (one.slug.clone(), one.name.clone())).collect(),
        exception: ExceptionForm::default(),
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
    posted: Posted<FundingForm>,
) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    let (form, posted) = posted.split();
    let parse = |word: &str| Funding::parse(word).ok_or(WebError::BadForm);
    let (from, to) = (parse(&form.was)?, parse(&form.funding)?);
    let (chrome, back) = (confirming(&viewer), address(&slug));
    let asking = (chrome, "Save funding", back.as_str());
    confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
        services.set_funding(actor, &view.tenant, from, to).await?;
        Ok((true, "Saved. It holds for new requests; past ones keep how they were paid.".to_owned()))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PlanForm {
    /// What the page showed, so that two people do not overrule each other unseen.
    was: String,
    plan: String,
}

async fn save_plan(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    slug: Path<String>,
    posted: Posted<PlanForm>,
) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    let (form, posted) = posted.split();
    let (chrome, back) = (confirming(&viewer), address(&slug));
    let asking = (chrome, "Save plan", back.as_str());
    confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
        services.set_tenant_plan(actor, &view.tenant, &form.was, &form.plan).await?;
        Ok((true, "Plan saved. It holds for the next request.".to_owned()))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StateForm {
    state: String,
}

async fn save_state(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    slug: Path<String>,
    posted: Posted<StateForm>,
) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    let (form, posted) = posted.split();
    let to = TenantState::parse(&form.state).ok_or(WebError::BadForm)?;
    let (chrome, back) = (confirming(&viewer), address(&slug));
    let intent = if to == TenantState::Suspended { "Suspend account" } else { "Lift suspension" };
    let asking = (chrome, intent, back.as_str());
    confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
        services.set_tenant_state(actor, &view.tenant, to).await?;
        let told = match to {
            TenantState::Suspended => "Suspended: its requests are refused from now on.",
            TenantState::Active => "The suspension is lifted.",
        };
        Ok((true, told.to_owned()))
    })
    .await
}

async fn make_exception(
    console: Data<Console>,
    mut viewer: Viewer,
    slug: Path<String>,
    posted: Posted<ExceptionForm>,
) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    let form = posted.fields;
    let typed = TypedException {
        feature: form.feature.clone(),
        opens: form.opens,
        last_day: form.last_day.clone(),
        reason: form.reason.clone(),
    };
    let made = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
        services.set_exception(actor, &view.tenant, &typed).await
    })
    .await;
    match made {
        Ok(()) => {
            session::notify(&viewer.session, true, "Exception saved. It ends by itself.");
            Ok(see_other(&address(&slug)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &viewer, &view).await?;
            page.exception = form;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EndForm {
    feature: String,
}

async fn end_exception(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    slug: Path<String>,
    posted: Posted<EndForm>,
) -> Answer {
    let view = find(&console, &viewer, &slug).await?;
    let (form, posted) = posted.split();
    let (chrome, back) = (confirming(&viewer), address(&slug));
    let asking = (chrome, "End exception", back.as_str());
    confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
        services.end_exception(actor, &view.tenant, &form.feature).await?;
        Ok((true, "Exception ended.".to_owned()))
    })
    .await
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
    let (password, form) = (posted.evidence.take(), &posted.fields);
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
    let entered = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
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
    posted: Posted<Nothing>,
) -> Answer {
    let (slug, id) = path.into_inner();
    let view = find(&console, &viewer, &slug).await?;
    let id = OrderId::parse(&id).ok_or(WebError::NotFound)?;
    let scope = Scope::of_system(Owner::Tenant(view.tenant.id));
    let (chrome, back) = (confirming(&viewer), address(&slug));
    let asking = (chrome, "Enter as paid", back.as_str());
    confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
        let order = services.confirm_order(actor, &scope, id).await?;
        Ok((true, format!("{} of credits entered for {}.", order.amount.dollars(), order.reference())))
    })
    .await
}
