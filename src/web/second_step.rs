//! The second step of signing in: a code, for who has given a password or opened a link.

use actix_session::Session;
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::Posted;
use super::page::{Answer, Page, see_other};
use super::session::Halfway;
use super::viewer::origin;
use super::{Console, assets, csrf, read, session, time};
use crate::crypto::secret::Secret;
use crate::domain::account::Proof;
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/sign-in/second").route(read().to(show)).route(web::post().to(finish)));
}

#[derive(Template)]
#[template(path = "pages/second_step.html")]
struct SecondStepPage {
    title: &'static str,
    assets: &'static str,
    csrf: String,
    has_code: bool,
    has_passkey: bool,
    problems: Problems,
}

impl SecondStepPage {
    fn new(console: &Console, request: &HttpRequest, session: &Session, who: &Halfway) -> Self {
        Self {
            title: "Show that it is you",
            assets: assets::base(),
            csrf: csrf::token(console, request, session),
            has_code: who.has_code(),
            has_passkey: who.has_passkey(),
            problems: Problems::default(),
        }
    }
}

/// Whoever is halfway; anybody else begins at the beginning.
fn halfway(console: &Console, session: &Session) -> Result<Halfway, WebError> {
    session::halfway(session, console.services.clock.now()).ok_or(WebError::SignIn { next: None })
}

async fn show(console: Data<Console>, request: HttpRequest, session: Session) -> Answer {
    let who = halfway(&console, &session)?;
    Page::new(SecondStepPage::new(&console, &request, &session, &who)).answer()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeForm {
    code: Secret,
}

async fn finish(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    posted: Posted<CodeForm>,
) -> Answer {
    let who = halfway(&console, &session)?;
    let from = origin(&console, &request);
    let (status, problem, retry_after) =
        match console.services.second_step(who.user, who.since, posted.fields.code, &from).await {
            Ok(person) => {
                let (address, since) = (Some(from.address), person.since);
                session::begin(&session, &request, person.user.id, Proof::SecondFactor, address, since)?;
                return Ok(see_other(&who.next));
            }
            Err(ServiceError::Denied) => {
                let message =
                    "That code is wrong, or was used already. Enter the one that your app shows now."
                        .to_owned();
                (StatusCode::UNPROCESSABLE_ENTITY, message, None)
            }
            Err(ServiceError::Throttled { seconds }) => {
                let message = format!("Too many attempts. Try again in {}.", time::span(seconds));
                (StatusCode::TOO_MANY_REQUESTS, message, Some(seconds))
            }
            Err(ServiceError::NotFound) => return Err(WebError::SignIn { next: None }),
            Err(error) => return Err(error.into()),
        };
    let mut page = SecondStepPage::new(&console, &request, &session, &who);
    page.problems = Problems::field("code", problem);
    Page::new(page).status(status).retry_after(retry_after).answer()
}
