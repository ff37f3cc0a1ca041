//! `/join/{token}`: an invitation's link. It works once, for the address that it was made for.

use actix_session::Session;
use actix_web::HttpRequest;
use actix_web::web::{self, Data, Path, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Page, see_other};
use super::viewer::{Viewer, origin};
use super::{Console, assets, csrf, read, session, sign_in};
use crate::crypto::secret::Secret;
use crate::services::members::Invited;
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/join/{token}").route(read().to(show)).route(web::post().to(join_anew)))
        .service(web::resource("/join/{token}/accept").route(web::post().to(accept)));
}

#[derive(Template)]
#[template(path = "pages/join.html")]
struct JoinPage {
    title: String,
    assets: &'static str,
    csrf: String,
    token: String,
    invited: Invited,
    role: String,
    /// Who is signed in.
    viewer: Option<String>,
    problems: Problems,
}

async fn page(
    console: &Console,
    request: &HttpRequest,
    session: &Session,
    token: &str,
) -> Result<JoinPage, WebError> {
    let invited = console.services.invitation(token).await.map_err(dead)?;
    let viewer = match Viewer::of(request).await {
        Ok(viewer) => Some(viewer.actor.email),
        Err(WebError::SignIn { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(JoinPage {
        title: format!("Join {}", invited.tenant.name),
        assets: assets::base(),
        csrf: csrf::token(console, request, session),
        token: token.to_owned(),
        role: invited.role.label().to_lowercase(),
        invited,
        viewer,
        problems: Problems::default(),
    })
}

fn dead(error: ServiceError) -> WebError {
    match error {
        ServiceError::NotFound => WebError::DeadLink,
        error => error.into(),
    }
}

async fn show(console: Data<Console>, request: HttpRequest, session: Session, token: Path<String>) -> Answer {
    Page::new(page(&console, &request, &session, &token).await?).answer()
}

async fn accept(console: Data<Console>, viewer: Viewer, token: Path<String>, _: Posted<Nothing>) -> Answer {
    match console.services.join(&viewer.actor, &token).await {
        Ok(slug) => {
            session::notify(&viewer.session, true, "Welcome. You are a member now.");
            Ok(see_other(&format!("/t/{slug}/settings/api-keys")))
        }
        Err(ServiceError::Conflict(message)) => {
            session::notify(&viewer.session, false, message);
            Ok(see_other("/account"))
        }
        Err(error) => Err(dead(error)),
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct JoinForm {
    password: Secret,
}

impl Default for JoinForm {
    fn default() -> Self {
        Self { password: Secret::new(String::new()) }
    }
}

async fn join_anew(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    token: Path<String>,
    posted: Posted<JoinForm>,
) -> Answer {
    let from = origin(&console, &request);
    match console.services.join_anew(&token, posted.fields.password, &from).await {
        Ok(person) => {
            let next = session::enter(&session, &request, &person, &from, sign_in::start_of(&person))?;
            session::notify(&session, true, "Welcome. Your account is made and you are signed in.");
            Ok(see_other(&next))
        }
        Err(ServiceError::NotFound) => Err(WebError::DeadLink),
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &request, &session, &token).await?;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).answer()
        }
    }
}
