//! Viewing a tenant as one of its people: the start page for staff, what the tenant allows and its history,
//! and the middleware that lets nobody do more than look meanwhile.

use actix_session::SessionExt;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::web::{self, Data, Path, Query, ServiceConfig};
use actix_web::{Error, HttpMessage, HttpRequest};
use askama::Template;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Bar, Chrome, Here, Page, see_other};
use super::place::Place;
use super::time::{Times, When};
use super::viewer::Viewer;
use super::{Console, confirm, read, session};
use crate::access::policy::Action;
use crate::domain::account::TenantRole;
use crate::domain::ids::ViewingId;
use crate::domain::viewing::{CHOICES, Viewing, ViewingConsent, WINDOWS};
use crate::services::Problems;
use crate::services::viewings::NewViewing;

const START: &str = "/platform/viewing";
const STOP: &str = "/viewing/stop";

pub fn routes(cfg: &mut ServiceConfig) {
    let at = |rest: &str| web::resource(format!("/t/{{tenant}}/settings/support-access{rest}"));
    cfg.service(web::resource(START).route(read().to(show_start)).route(web::post().to(start)))
        .service(web::resource(STOP).route(web::post().to(stop)))
        .service(at("").route(read().to(show_rule)).route(web::post().to(save_rule)))
        .service(at("/{id}/end").route(web::post().to(end)));
}

/// Lets whoever views a tenant look at its pages, stop, sign out, and nothing else. The policy says the
/// same of every action; this says it of every request.
pub async fn only_look(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let is_viewing = session::signed_in(&request.get_session()).is_some_and(|who| who.viewing.is_some());
    if is_viewing && !is_open(request.method(), request.path()) {
        // Puts who it was into the request, for the log and for the bar of the page.
        let why = Viewer::of(request.request()).await.err().unwrap_or(WebError::OnlyLooking);
        return Ok(request.error_response(why).map_into_right_body());
    }
    let answer = next.call(request).await?;
    let is_error = answer.status().is_client_error() || answer.status().is_server_error();
    let known = answer.request().extensions().get::<Bar>().is_some();
    if is_viewing && is_error && !known {
        // Nobody had asked who looks: the page of the error has the bar all the same.
        let _ = Viewer::of(answer.request()).await;
    }
    Ok(answer.map_into_left_body())
}

fn is_open(method: &Method, path: &str) -> bool {
    match *method {
        Method::GET | Method::HEAD => {
            // No page of a tenant has an encoded letter in its path: routes are found by what it decodes to.
            let is_file =
                path.contains('%') || path.rsplit('/').next().is_some_and(|name| name.contains('.'));
            path == "/" || (path.starts_with("/t/") && !is_file)
        }
        Method::POST => [STOP, "/sign-out"].contains(&path),
        _ => false,
    }
}

struct ViewingRow {
    id: ViewingId,
    tenant: String,
    viewer: String,
    viewed: String,
    reason: String,
    ticket: String,
    started: When,
    over: When,
    goes_on: bool,
    ended_by: String,
}

fn row(viewing: Viewing, tenant: String, times: &Times) -> ViewingRow {
    let goes_on = viewing.goes_on(times.now);
    ViewingRow {
        id: viewing.id,
        tenant,
        started: times.when(viewing.started_at),
        over: times.when(viewing.over_at()),
        goes_on,
        ended_by: viewing.ended_by.unwrap_or_else(|| "its time".to_owned()),
        viewer: viewing.viewer,
        viewed: viewing.viewed,
        reason: viewing.reason,
        ticket: viewing.ticket,
    }
}

#[derive(Template)]
#[template(path = "pages/platform/viewing.html")]
struct StartPage {
    chrome: Chrome,
    q: String,
    searched: bool,
    found: Vec<(String, String)>,
    chosen: Option<Chosen>,
    choices: Vec<i64>,
    new: NewViewing,
    rows: Vec<ViewingRow>,
    asks_password: bool,
    problems: Problems,
}

/// A tenant, and the people as whom it may be viewed.
struct Chosen {
    slug: String,
    name: String,
    allowed: bool,
    people: Vec<(String, String, TenantRole)>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Search {
    q: String,
    tenant: String,
}

async fn start_page(console: &Console, viewer: &Viewer, q: &str, slug: &str) -> Result<StartPage, WebError> {
    let services = &console.services;
    let times = Times { now: services.clock.now(), zone: TimeZone::UTC };
    let q: String = q.trim().chars().take(80).collect();
    let mut found = Vec::new();
    if !q.is_empty() {
        found = services.tenants_to_view(&viewer.actor, &q).await?;
    }
    let chosen = match slug {
        "" => None,
        slug => {
            let (tenant, people) = services.people_to_view(&viewer.actor, slug).await?;
            Some(Chosen {
                slug: tenant.slug.to_string(),
                name: tenant.name,
                allowed: tenant.viewing.allowed_until(times.now).is_some(),
                people: people.into_iter().map(|one| (one.user.to_string(), one.email, one.role)).collect(),
            })
        }
    };
    let mut rows = Vec::new();
    for viewing in services.viewings(&viewer.actor).await? {
        let name = services.tenant_name(viewing.tenant).await?;
        rows.push(row(viewing, name, &times));
    }
    Ok(StartPage {
        chrome: Chrome::new(viewer, &Here::Platform, "View a tenant", START),
        searched: !q.is_empty(),
        q,
        found: found.into_iter().map(|tenant| (tenant.slug.to_string(), tenant.name)).collect(),
        chosen,
        choices: CHOICES.to_vec(),
        new: NewViewing { minutes: CHOICES[1], ..NewViewing::default() },
        rows,
        asks_password: !viewer.actor.is_confirmed(times.now),
        problems: Problems::default(),
    })
}

async fn show_start(console: Data<Console>, viewer: Viewer, search: Query<Search>) -> Answer {
    Page::new(start_page(&console, &viewer, &search.q, &search.tenant).await?).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StartForm {
    tenant: String,
    user: String,
    reason: String,
    ticket: String,
    minutes: i64,
}

async fn start(console: Data<Console>, mut viewer: Viewer, posted: Posted<StartForm>) -> Answer {
    let form = posted.fields;
    let new = NewViewing {
        slug: form.tenant,
        user: form.user,
        reason: form.reason,
        ticket: form.ticket,
        minutes: form.minutes,
    };
    let started = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
        services.start_viewing(actor, &new).await
    })
    .await;
    match started {
        Ok(viewing) => {
            session::set_viewing(&viewer.session, Some(viewing.id))?;
            Ok(see_other(&format!("/t/{}/settings/api-keys", new.slug)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = start_page(&console, &viewer, "", &new.slug).await?;
            page.new = new;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

async fn stop(console: Data<Console>, viewer: Viewer, _: Posted<Nothing>) -> Answer {
    if let Some(viewing) = &viewer.viewing {
        console.services.end_viewing(&viewer.actor, viewing.id, &viewing.viewer).await?;
        session::set_viewing(&viewer.session, None)?;
        session::notify(&viewer.session, true, "You have stopped viewing the tenant.");
    }
    Ok(see_other(START))
}

#[derive(Template)]
#[template(path = "pages/support_access.html")]
struct RulePage {
    chrome: Chrome,
    here: String,
    tenant: String,
    product: String,
    consent: ViewingConsent,
    /// Until when the window is open.
    until: Option<When>,
    windows: Vec<i64>,
    rows: Vec<ViewingRow>,
    may_change: bool,
}

fn address(place: &Place) -> String {
    format!("{}/settings/support-access", place.root())
}

async fn show_rule(console: Data<Console>, place: Place) -> Answer {
    place.demand(Action::SeeAudit)?;
    let tenant = &place.tenant()?.tenant;
    let rule = tenant.viewing;
    let viewings = console.services.viewings_of(&place.holder.scope).await?;
    let page = RulePage {
        chrome: place.chrome("Support access", &address(&place)),
        here: address(&place),
        tenant: tenant.name.clone(),
        product: console.services.options.product.clone(),
        consent: rule.consent,
        until: rule
            .allowed_until(place.times().now)
            .filter(|_| rule.consent == ViewingConsent::Window)
            .map(|at| place.times().when(at)),
        windows: WINDOWS.to_vec(),
        rows: viewings.into_iter().map(|one| row(one, String::new(), place.times())).collect(),
        may_change: place.may(Action::AllowViewing),
    };
    Page::new(page).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RuleForm {
    consent: String,
    hours: i64,
}

async fn save_rule(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    posted: Posted<RuleForm>,
) -> Answer {
    let (form, posted) = posted.split();
    let consent = ViewingConsent::parse(&form.consent).ok_or(WebError::BadForm)?;
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Save", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.set_viewing_rule(actor, &scope, &tenant, consent, form.hours).await?;
        let text = match consent {
            ViewingConsent::Always => "Support may view this account, each time on record.",
            ViewingConsent::Window if form.hours > 0 => "The window is open.",
            ViewingConsent::Window => "Support may view this account only in a window that you open.",
            ViewingConsent::Never => "Support may not view this account. Whoever did is out.",
        };
        Ok((true, text.to_owned()))
    })
    .await
}

#[derive(Deserialize)]
struct ViewingPath {
    id: String,
}

async fn end(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    path: Path<ViewingPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let id = ViewingId::parse(&path.id).ok_or(WebError::NotFound)?;
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "End it now", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        let ended = services.stop_viewing_of(actor, &scope, &tenant, id).await?;
        Ok((true, if ended { "Ended." } else { "It was over already." }.to_owned()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_the_tenant_are_open() {
        let open = |method, path| is_open(&method, path);
        for path in ["/", "/t/acme/billing", "/t/acme/settings/api-keys/production"] {
            assert!(open(Method::GET, path) && open(Method::HEAD, path), "{path}");
            assert!(!open(Method::POST, path) && !open(Method::PUT, path), "{path}");
        }
        for path in [
            "/t/acme/billing/usage.csv",
            "/t/acme/billing/statements/2026-10.csv",
            "/t/acme/activity/questions/1/article%2Emd",
            "/account",
            "/platform/users",
        ] {
            assert!(!open(Method::GET, path), "{path}");
        }
        assert!(open(Method::POST, "/viewing/stop") && open(Method::POST, "/sign-out"));
    }
}
