//! One's own second factors: the authenticator app and the recovery codes.

use actix_web::HttpRequest;
use actix_web::web::{self, Data, Query, ServiceConfig};
use askama::Template;
use jiff::tz::TimeZone;
use qrcode::QrCode;
use qrcode::render::svg;
use serde::Deserialize;

use super::account::begin_anew;
use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::time::{Times, When};
use super::viewer::Viewer;
use super::{Console, confirm, read, session};
use crate::access::actor::Actor;
use crate::crypto::secret::Secret;
use crate::domain::account::{Proof, Ways};
use crate::services::second_factors::NewAuthenticator;
use crate::services::{Problems, ServiceError, Services};

pub const HERE: &str = "/account/second-factor";

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource(HERE).route(read().to(show)))
        .service(web::resource("/account/second-factor/app").route(web::post().to(begin)))
        .service(web::resource("/account/second-factor/app/finish").route(web::post().to(finish)))
        .service(web::resource("/account/second-factor/app/remove").route(web::post().to(remove)))
        .service(web::resource("/account/second-factor/codes").route(web::post().to(make_codes)));
}

#[derive(Template)]
#[template(path = "pages/second_factor.html")]
struct SecondFactorPage {
    chrome: Chrome,
    /// They came here because a tenant asks for a second factor.
    asked: bool,
    ways: Ways,
    is_pending: bool,
    being_set_up: Option<SetUp>,
    recovery_codes: i64,
    /// Whether there can be passkeys here.
    has_passkeys: bool,
    passkeys: Vec<PasskeyRow>,
    /// Shown this once.
    codes: Vec<Secret>,
    asks_password: bool,
    problems: Problems,
}

struct PasskeyRow {
    id: uuid::Uuid,
    name: String,
    made: When,
    used: Option<When>,
}

struct SetUp {
    /// The picture that apps read, as SVG.
    picture: String,
    /// The secret, in groups of four.
    secret: Secret,
}

impl SetUp {
    fn of(new: &NewAuthenticator) -> Option<Self> {
        let code = QrCode::new(new.address.expose()).ok()?;
        let picture = code.render::<svg::Color<'_>>().min_dimensions(192, 192).build();
        // As a part of a page it has no declaration of its own.
        let picture = picture.split_once("?>").map_or(picture.as_str(), |(_, svg)| svg).to_owned();
        let letters: Vec<char> = new.secret.expose().chars().collect();
        let groups: Vec<String> = letters.chunks(4).map(|group| group.iter().collect()).collect();
        Some(Self { picture, secret: Secret::new(groups.join(" ")) })
    }
}

async fn page(console: &Console, viewer: &Viewer) -> Result<SecondFactorPage, WebError> {
    let own = console.services.own_factors(&viewer.actor).await?;
    let mut chrome = Chrome::new(viewer, &Here::Account, "Second factor", "/account");
    let times = Times { now: console.services.clock.now(), zone: TimeZone::UTC };
    let passkeys: Vec<PasskeyRow> = console
        .services
        .own_passkeys(&viewer.actor)
        .await?
        .into_iter()
        .map(|own| PasskeyRow {
            id: own.id,
            name: own.name,
            made: times.when(own.created_at),
            used: own.last_used_at.map(|at| times.when(at)),
        })
        .collect();
    // As it is now, not as it was when the request came.
    chrome.ways = Ways { code: own.authenticator, passkey: !passkeys.is_empty(), ..chrome.ways };
    Ok(SecondFactorPage {
        ways: chrome.ways,
        chrome,
        asked: false,
        is_pending: own.is_pending,
        being_set_up: own.being_set_up.as_ref().and_then(SetUp::of),
        recovery_codes: own.recovery_codes,
        has_passkeys: console.services.relying_party.is_some(),
        passkeys,
        codes: Vec::new(),
        asks_password: !viewer.actor.is_confirmed(console.services.clock.now()),
        problems: Problems::default(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    asked: Option<String>,
}

async fn show(console: Data<Console>, viewer: Viewer, query: Query<Asked>) -> Answer {
    if viewer.person.user.ways.sso {
        return Ok(see_other("/account"));
    }
    let mut page = page(&console, &viewer).await?;
    page.asked = query.asked.is_some() && !viewer.actor.proof.is_strong();
    Page::new(page).answer()
}

/// The page with recovery codes that were just made: a redirect would have to carry them. Without any,
/// word of what was done.
pub async fn show_codes(console: &Console, request: &HttpRequest, codes: Vec<Secret>, done: &str) -> Answer {
    let viewer = Viewer::of(request).await?;
    if codes.is_empty() {
        session::notify(&viewer.session, true, format!("{done} All other sessions were ended."));
        return Ok(see_other(HERE));
    }
    let mut page = page(console, &viewer).await?;
    page.codes = codes;
    Page::new(page).answer()
}

/// Does what a button about one's own factors says; otherwise the answer to give: the page that asks whether
/// it is them, or the one with the buttons and word of why not.
pub async fn press<T>(
    console: &Console,
    viewer: &mut Viewer,
    request: &HttpRequest,
    intent: &str,
    mut posted: Posted<Nothing>,
    work: impl AsyncFnOnce(&Services, &Actor) -> Result<T, ServiceError>,
) -> Result<T, Answer> {
    let evidence = posted.evidence.take();
    confirm::act(console, viewer, evidence, work).await.map_err(|error| match error {
        ServiceError::Conflict(message) => {
            session::notify(&viewer.session, false, message);
            Ok(see_other(HERE))
        }
        error => {
            let chrome = Chrome::new(viewer, &Here::Account, "Confirm it's you", "/account");
            confirm::ask(error, request, chrome, intent, HERE, &posted)
        }
    })
}

/// Goes on after a factor was removed, which ended all sessions. Without another one, the session is one of
/// a password alone from now on.
pub async fn after_removal(
    console: &Console,
    viewer: &Viewer,
    request: &HttpRequest,
    removed: &str,
) -> Answer {
    let person = console.services.person(viewer.actor.user_id).await?;
    let has_second = person.is_some_and(|person| person.user.ways.has_second());
    let proof = if has_second { viewer.actor.proof } else { Proof::Password };
    begin_anew(console, viewer, request, (proof, viewer.actor.strong_at))?;
    let text = format!("{removed} is removed. All other sessions were ended.");
    session::notify(&viewer.session, true, text);
    Ok(see_other(HERE))
}

async fn begin(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    posted: Posted<Nothing>,
) -> Answer {
    let intent = "Set up an authenticator app";
    let begun = press(&console, &mut viewer, &request, intent, posted, async |services, actor| {
        services.begin_authenticator(actor).await
    });
    match begun.await {
        Ok(()) => Ok(see_other("/account/second-factor#app")),
        Err(answer) => answer,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeForm {
    code: String,
}

async fn finish(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    posted: Posted<CodeForm>,
) -> Answer {
    let code = posted.fields.code;
    let done = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
        services.finish_authenticator(actor, &code).await
    })
    .await;
    match done {
        Ok(codes) => {
            begin_anew(&console, &viewer, &request, (Proof::SecondFactor, console.services.clock.now()))?;
            show_codes(&console, &request, codes, "The authenticator app is set up.").await
        }
        Err(ServiceError::Conflict(message)) => {
            session::notify(&viewer.session, false, message);
            Ok(see_other(HERE))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &viewer).await?;
            page.asks_password |= confirm::is_about_evidence(&failure.problems);
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

async fn remove(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    posted: Posted<Nothing>,
) -> Answer {
    let intent = "Remove authenticator app";
    let done = press(&console, &mut viewer, &request, intent, posted, async |services, actor| {
        services.remove_authenticator(actor).await
    });
    match done.await {
        Ok(()) => after_removal(&console, &viewer, &request, "The authenticator app").await,
        Err(answer) => answer,
    }
}

async fn make_codes(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    posted: Posted<Nothing>,
) -> Answer {
    let intent = "Make new recovery codes";
    let made = press(&console, &mut viewer, &request, intent, posted, async |services, actor| {
        services.make_recovery_codes(actor).await
    });
    match made.await {
        Ok(codes) => {
            let mut page = page(&console, &viewer).await?;
            page.codes = codes;
            Page::new(page).answer()
        }
        Err(answer) => answer,
    }
}
