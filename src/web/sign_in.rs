//! Signing in and out.

use actix_session::Session;
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Data, Query, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Nothing, Posted};
use super::page::{Answer, Page, see_other};
use super::viewer::{Viewer, origin};
use super::{Console, assets, csrf, home, read, session, time};
use crate::crypto::secret::Secret;
use crate::services::accounts::Person;
use crate::services::{Problems, ServiceError};

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/sign-in").route(read().to(show)).route(web::post().to(sign_in)))
        .service(web::resource("/forgot").route(read().to(show_forgot)).route(web::post().to(forgot)))
        .service(web::resource("/sign-out").route(web::post().to(sign_out)));
}

#[derive(Template)]
#[template(path = "pages/sign_in.html")]
struct SignInPage {
    title: &'static str,
    assets: &'static str,
    csrf: String,
    next: Option<String>,
    email: String,
    /// Whether a letter can be sent to who forgot their password.
    has_mail: bool,
    /// Whether there can be passkeys here.
    has_passkeys: bool,
    problems: Problems,
}

#[derive(Deserialize)]
struct Asked {
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SignInForm {
    email: String,
    password: Secret,
    next: Option<String>,
}

impl Default for SignInForm {
    fn default() -> Self {
        Self { email: String::new(), password: Secret::new(String::new()), next: None }
    }
}

async fn show(console: Data<Console>, request: HttpRequest, session: Session, asked: Query<Asked>) -> Answer {
    let next = asked.into_inner().next.filter(|next| is_local(next));
    match Viewer::of(&request).await {
        Ok(viewer) => return Ok(see_other(&next.unwrap_or_else(|| home::of(&viewer)))),
        Err(WebError::SignIn { .. }) => {}
        Err(error) => return Err(error),
    }
    Page::new(SignInPage::new(&console, &request, &session, next)).answer()
}

/// The page anew, after a passkey was refused.
pub fn again(
    console: &Console,
    request: &HttpRequest,
    session: &Session,
    next: Option<String>,
    problems: Problems,
) -> Answer {
    let page = SignInPage { problems, ..SignInPage::new(console, request, session, next) };
    Page::new(page).status(StatusCode::UNPROCESSABLE_ENTITY).answer()
}

impl SignInPage {
    fn new(console: &Console, request: &HttpRequest, session: &Session, next: Option<String>) -> Self {
        Self {
            title: "Sign in",
            assets: assets::base(),
            csrf: csrf::token(console, request, session),
            next,
            email: String::new(),
            has_mail: console.services.mailer.is_some(),
            has_passkeys: console.services.relying_party.is_some(),
            problems: Problems::default(),
        }
    }
}

async fn sign_in(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    posted: Posted<SignInForm>,
) -> Answer {
    let form = posted.fields;
    let next = form.next.filter(|next| is_local(next));
    let from = origin(&console, &request);
    let (status, problem, retry_after) =
        match console.services.sign_in(&form.email, form.password, &from).await {
            Ok(person) => {
                let next = next.unwrap_or_else(|| start_of(&person));
                return Ok(see_other(&session::enter(&session, &request, &person, &from, next)?));
            }
            Err(ServiceError::Denied) => {
                let message = "E-mail address or password is wrong.".to_owned();
                (StatusCode::UNPROCESSABLE_ENTITY, message, None)
            }
            Err(ServiceError::Throttled { seconds }) => {
                let message = format!("Too many attempts. Try again in {}.", time::span(seconds));
                (StatusCode::TOO_MANY_REQUESTS, message, Some(seconds))
            }
            Err(error) => return Err(error.into()),
        };
    let page = SignInPage {
        email: form.email.chars().take(254).collect(),
        // About the form as a whole: which of the two is wrong is nobody's business.
        problems: Problems { summary: Some(problem), fields: Vec::new() },
        ..SignInPage::new(&console, &request, &session, next)
    };
    Page::new(page).status(status).retry_after(retry_after).answer()
}

#[derive(Template)]
#[template(path = "pages/forgot.html")]
struct ForgotPage {
    title: &'static str,
    assets: &'static str,
    csrf: String,
    email: String,
    /// The letter is on its way, if there is anybody to send it to.
    sent: bool,
    problems: Problems,
}

impl ForgotPage {
    fn new(console: &Console, request: &HttpRequest, session: &Session) -> Result<Self, WebError> {
        if console.services.mailer.is_none() {
            return Err(WebError::NotFound);
        }
        Ok(Self {
            title: "Choose a new password",
            assets: assets::base(),
            csrf: csrf::token(console, request, session),
            email: String::new(),
            sent: false,
            problems: Problems::default(),
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ForgotForm {
    email: String,
}

async fn show_forgot(console: Data<Console>, request: HttpRequest, session: Session) -> Answer {
    Page::new(ForgotPage::new(&console, &request, &session)?).answer()
}

async fn forgot(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    posted: Posted<ForgotForm>,
) -> Answer {
    let mut page = ForgotPage::new(&console, &request, &session)?;
    page.email = posted.fields.email.chars().take(254).collect();
    match console.services.ask_reset(&posted.fields.email, &origin(&console, &request)).await {
        Ok(()) => {
            page.sent = true;
            Page::new(page).answer()
        }
        Err(ServiceError::Throttled { seconds }) => {
            let message = format!("Too many attempts. Try again in {}.", time::span(seconds));
            page.problems = Problems::field("email", message);
            Page::new(page).status(StatusCode::TOO_MANY_REQUESTS).retry_after(Some(seconds)).answer()
        }
        Err(ServiceError::Invalid(problems)) => {
            page.problems = problems;
            Page::new(page).status(StatusCode::UNPROCESSABLE_ENTITY).answer()
        }
        Err(error) => Err(error.into()),
    }
}

/// Where a person's work is.
pub fn start_of(person: &Person) -> String {
    home::address(
        person.memberships.first().map(|place| place.tenant_slug.as_str()),
        person.user.platform_role,
    )
}

async fn sign_out(console: Data<Console>, request: HttpRequest, _posted: Posted<Nothing>) -> Answer {
    let viewer = match Viewer::of(&request).await {
        // Its time was over just now: who viewed signs out all the same.
        Err(WebError::ViewingOver) => Viewer::of(&request).await?,
        known => known?,
    };
    if let Some(viewing) = &viewer.viewing {
        console.services.end_viewing(&viewer.actor, viewing.id, &viewing.viewer).await?;
    }
    console.services.signed_out(&viewer.actor).await?;
    viewer.session.purge();
    // What the browser has kept of pages goes too.
    let mut answer = see_other("/sign-in");
    answer.headers_mut().insert(CLEAR_SITE_DATA, HeaderValue::from_static("\"cache\""));
    Ok(answer)
}

/// A path of our own and nothing that a browser could take for another site.
pub fn is_local(next: &str) -> bool {
    next.len() <= 1_024
        && next.starts_with('/')
        && !next.starts_with("//")
        && !next.chars().any(|c| c == '\\' || c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_paths_are_followed() {
        assert!(is_local("/t/acme/billing?show=tokens"));
        for bad in ["", "//evil.example", "https://evil.example", "/\\evil.example", "/a\nb", "/\t/x", "t"] {
            assert!(!is_local(bad), "{bad:?}");
        }
    }
}
