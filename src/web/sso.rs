//! Single sign-on: the way to the identity provider and back, and the tenant's settings for it. Pages lead
//! there by a link, since forms may go nowhere but here.

use actix_session::Session;
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Path, Query, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Page, see_other};
use super::place::Place;
use super::time::When;
use super::viewer::{Viewer, origin};
use super::{Console, assets, confirm, csrf, read, session, sign_in, time};
use crate::access::policy::Action;
use crate::crypto::secret::Secret;
use crate::domain::account::TenantRole;
use crate::domain::ids::TenantId;
use crate::services::sso::{Arrived, Back, Departing};
use crate::services::sso_settings::{DEFAULT_ROLES, TypedConnection};
use crate::services::{Problems, ServiceError, Services};

pub fn routes(cfg: &mut ServiceConfig) {
    let at = |rest: &str| web::resource(format!("/t/{{tenant}}/settings/single-sign-on{rest}"));
    cfg.service(web::resource("/sign-in/sso").route(read().to(show)).route(web::post().to(depart)))
        .service(web::resource("/sign-in/sso/callback/{tenant}").route(web::get().to(arrive)))
        .service(web::resource("/account/confirm-sso").route(read().to(depart_to_confirm)))
        .service(at("").route(read().to(show_settings)).route(web::post().to(save)))
        .service(at("/verify").route(web::post().to(verify)))
        .service(at("/require").route(web::post().to(require)))
        .service(at("/remove").route(web::post().to(remove)));
}

#[derive(Template)]
#[template(path = "pages/sso.html")]
struct SsoPage {
    title: &'static str,
    assets: &'static str,
    csrf: String,
    email: String,
    next: Option<String>,
    /// Where they go on: the tenant, the provider's host and the address.
    departing: Option<(String, String, String)>,
    /// They only show that it is still them.
    confirms: bool,
    problems: Problems,
}

impl SsoPage {
    fn new(console: &Console, request: &HttpRequest, session: &Session, next: Option<String>) -> Self {
        Self {
            title: "Single sign-on",
            assets: assets::base(),
            csrf: csrf::token(console, request, session),
            email: String::new(),
            next,
            departing: None,
            confirms: false,
            problems: Problems::default(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    next: Option<String>,
}

async fn show(console: Data<Console>, request: HttpRequest, session: Session, asked: Query<Asked>) -> Answer {
    let next = asked.into_inner().next.filter(|next| sign_in::is_local(next));
    Page::new(SsoPage::new(&console, &request, &session, next)).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DepartForm {
    email: String,
    next: Option<String>,
}

async fn depart(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    posted: Posted<DepartForm>,
) -> Answer {
    let form = posted.fields;
    let next = form.next.filter(|next| sign_in::is_local(next));
    let from = origin(&console, &request);
    let (status, message) = match console.services.depart_for_sso(&form.email, next.clone(), &from).await {
        Ok(departing) => {
            let mut page = SsoPage::new(&console, &request, &session, None);
            page.departing = Some(leave(&session, departing)?);
            return Page::new(page).answer();
        }
        Err(ServiceError::NotFound) => {
            let message = "No single sign-on is set up for that address. Sign in with your password.";
            (StatusCode::UNPROCESSABLE_ENTITY, message.to_owned())
        }
        Err(ServiceError::Conflict(message)) => (StatusCode::BAD_GATEWAY, message.to_owned()),
        Err(ServiceError::Throttled { seconds }) => {
            let message = format!("Too many attempts. Try again in {}.", time::span(seconds));
            (StatusCode::TOO_MANY_REQUESTS, message)
        }
        Err(error) => return Err(error.into()),
    };
    let mut page = SsoPage::new(&console, &request, &session, next);
    page.email = form.email.chars().take(254).collect();
    page.problems = Problems::field("email", message);
    Page::new(page).status(status).answer()
}

/// Keeps in mind who leaves; gives what the page says of where to.
fn leave(session: &Session, departing: Departing) -> Result<(String, String, String), WebError> {
    session::keep_away(session, &departing.away)?;
    Ok((departing.tenant, departing.host, departing.url))
}

async fn depart_to_confirm(console: Data<Console>, viewer: Viewer, request: HttpRequest) -> Answer {
    let mut page = SsoPage::new(&console, &request, &viewer.session, None);
    page.title = "Confirm it's you";
    page.confirms = true;
    match console.services.depart_to_confirm(&viewer.actor).await {
        Ok(departing) => {
            page.departing = Some(leave(&viewer.session, departing)?);
            Page::new(page).answer()
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Brought {
    code: String,
    state: String,
    iss: Option<String>,
}

/// Whoever comes back from their provider. Nothing happens without what was kept when they left.
async fn arrive(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    tenant: Path<String>,
    brought: Query<Brought>,
) -> Answer {
    let tenant = TenantId::parse(&tenant).ok_or(WebError::NotFound)?;
    let Brought { code, state, iss: issuer } = brought.into_inner();
    let back = Back { tenant, code, state, issuer };
    let away = session::take_away(&session);
    let (next, confirms) = away.as_ref().map(|away| (away.next.clone(), away.confirms)).unwrap_or_default();
    let from = origin(&console, &request);
    let outcome = match away {
        Some(away) if !back.code.is_empty() => console.services.arrive_by_sso(away, &back, &from).await,
        _ => Err(ServiceError::Denied),
    };
    let message = match outcome {
        Ok(Arrived { person, proof }) if confirms.is_some() => {
            let is_them = session::signed_in(&session).is_some_and(|known| known.user == person.user.id);
            if !is_them {
                return Err(WebError::SignIn { next: None });
            }
            session::confirm(&session, person.since, person.since, proof)?;
            let mut page = SsoPage::new(&console, &request, &session, None);
            page.title = "Confirmed";
            page.confirms = true;
            return Page::new(page).answer();
        }
        Ok(Arrived { person, proof }) => {
            session::begin(&session, &request, person.user.id, proof, Some(from.address), person.since)?;
            return Ok(see_other(&next.unwrap_or_else(|| "/".to_owned())));
        }
        Err(ServiceError::Denied) => {
            "Your identity provider did not sign you in, or it took too long. Try again."
        }
        Err(ServiceError::Conflict(message)) => message,
        Err(error) => return Err(error.into()),
    };
    let mut page = SsoPage::new(&console, &request, &session, next);
    page.problems = Problems { summary: Some(message.to_owned()), fields: Vec::new() };
    Page::new(page).status(StatusCode::UNPROCESSABLE_ENTITY).answer()
}

#[derive(Template)]
#[template(path = "pages/single_sign_on.html")]
struct SettingsPage {
    chrome: Chrome,
    here: String,
    tenant: String,
    redirect: String,
    /// There is one, and its domain has or has not shown whose it is.
    exists: bool,
    verified: Option<When>,
    required: bool,
    issuer: String,
    client_id: String,
    domain: String,
    proof: String,
    proof_url: String,
    roles: [TenantRole; 2],
    role: String,
    asks_password: bool,
    problems: Problems,
}

fn address(place: &Place) -> String {
    format!("{}/settings/single-sign-on", place.root())
}

async fn settings(console: &Console, place: &Place) -> Result<SettingsPage, WebError> {
    place.demand(Action::ManageSso)?;
    let (found, redirect) =
        console.services.sso_connection(&place.holder.scope, place.tenant()?.tenant.id).await?;
    let of =
        |read: fn(&crate::storage::sso::Connection) -> String| found.as_ref().map(read).unwrap_or_default();
    Ok(SettingsPage {
        chrome: place.chrome("Single sign-on", &address(place)),
        here: address(place),
        tenant: place.tenant()?.tenant.name.clone(),
        redirect,
        exists: found.is_some(),
        verified: found.as_ref().and_then(|one| one.verified_at).map(|at| place.times().when(at)),
        required: place.tenant()?.tenant.sso_required,
        issuer: of(|one| one.issuer.clone()),
        client_id: of(|one| one.client_id.clone()),
        domain: of(|one| one.domain.clone()),
        proof: of(|one| one.domain_proof.clone()),
        proof_url: of(|one| Services::proof_url(&one.domain)),
        roles: DEFAULT_ROLES,
        role: found.as_ref().map_or(TenantRole::Member, |one| one.default_role).to_string(),
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

async fn show_settings(console: Data<Console>, place: Place) -> Answer {
    Page::new(settings(&console, &place).await?).answer()
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConnectionForm {
    issuer: String,
    client_id: String,
    client_secret: Secret,
    domain: String,
    default_role: String,
}

impl Default for ConnectionForm {
    fn default() -> Self {
        let (issuer, client_id, domain, default_role) = Default::default();
        Self { issuer, client_id, client_secret: Secret::new(String::new()), domain, default_role }
    }
}

async fn save(console: Data<Console>, mut place: Place, posted: Posted<ConnectionForm>) -> Answer {
    place.demand(Action::ManageSso)?;
    let form = posted.fields;
    let (tenant, scope) = (place.tenant()?.tenant.clone(), place.holder.scope);
    let typed = TypedConnection {
        issuer: form.issuer.clone(),
        client_id: form.client_id.clone(),
        client_secret: form.client_secret,
        domain: form.domain.clone(),
        default_role: form.default_role.clone(),
    };
    let saved = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.set_sso(actor, &scope, &tenant, typed).await
    })
    .await;
    match saved {
        Ok(()) => {
            session::notify(&place.viewer.session, true, "Saved.");
            Ok(see_other(&address(&place)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = settings(&console, &place).await?;
            page.issuer = form.issuer;
            page.client_id = form.client_id;
            page.domain = form.domain;
            page.role = form.default_role;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

async fn verify(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    posted: Posted<Nothing>,
) -> Answer {
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Check the domain", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.verify_sso_domain(actor, &scope, &tenant).await?;
        Ok((true, "The domain is yours. Your people can sign in now.".to_owned()))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RequireForm {
    required: String,
}

async fn require(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    posted: Posted<RequireForm>,
) -> Answer {
    let (form, posted) = posted.split();
    let required = match form.required.as_str() {
        "yes" => true,
        "no" => false,
        _ => return Err(WebError::BadForm),
    };
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Save", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.require_sso(actor, &scope, &tenant, required).await?;
        let text = if required {
            "Everybody but admins comes by single sign-on now."
        } else {
            "Passwords do again."
        };
        Ok((true, text.to_owned()))
    })
    .await
}

async fn remove(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    posted: Posted<Nothing>,
) -> Answer {
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Remove single sign-on", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.remove_sso(actor, &scope, &tenant).await?;
        Ok((true, "Removed. Who came by it chooses a password by the link on the sign-in page.".to_owned()))
    })
    .await
}
