//! `/claim/{token}`: whoever opens it becomes the first admin of a tenant that has none.

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
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/claim/{token}").route(read().to(show)).route(web::post().to(claim_anew)))
        .service(web::resource("/claim/{token}/accept").route(web::post().to(accept)));
}

#[derive(Template)]
#[template(path = "pages/claim.html")]
struct ClaimPage {
    title: String,
    assets: &'static str,
    csrf: String,
    token: String,
    tenant: String,
    /// Who is signed in.
    viewer: Option<String>,
    email: String,
    problems: Problems,
}

async fn page(
    console: &Console,
    request: &HttpRequest,
    session: &Session,
    token: &str,
) -> Result<ClaimPage, WebError> {
    let tenant = console.services.claimed_tenant(token).await.map_err(dead)?;
    let viewer = match Viewer::of(request).await {
        Ok(viewer) => Some(viewer.actor.email),
        Err(WebError::SignIn { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(ClaimPage {
        title: format!("Take over {}", tenant.name),
        assets: assets::base(),
        csrf: csrf::token(console, request, session),
        token: token.to_owned(),
        tenant: tenant.name,
        viewer,
        email: String::new(),
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
    let slug = console.services.claim(&viewer.actor, &token).await.map_err(dead)?;
    session::notify(&viewer.session, true, "Welcome. You are its admin now.");
    Ok(see_other(&format!("/t/{slug}/settings/api-keys")))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClaimForm {
    email: String,
    password: Secret,
}

impl Default for ClaimForm {
    fn default() -> Self {
        Self { email: String::new(), password: Secret::new(String::new()) }
    }
}

async fn claim_anew(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    token: Path<String>,
    posted: Posted<ClaimForm>,
) -> Answer {
    let form = posted.fields;
    let from = origin(&console, &request);
    match console.services.claim_anew(&token, &form.email, form.password, &from).await {
        Ok(person) => {
            let next = session::enter(&session, &request, &person, &from, sign_in::start_of(&person))?;
            session::notify(&session, true, "Welcome. Your account is made and you are its admin.");
            Ok(see_other(&next))
        }
        Err(ServiceError::NotFound) => Err(WebError::DeadLink),
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &request, &session, &token).await?;
            page.email = form.email.chars().take(254).collect();
            page.problems = failure.problems;
            Page::new(page).status(failure.status).answer()
        }
    }
}
