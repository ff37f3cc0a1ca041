//! One-time links: the first super admin chooses an address and a password, anybody else a new
//! password. Using the link signs in.

use actix_session::Session;
use actix_web::HttpRequest;
use actix_web::web::{self, Data, Path, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Posted};
use super::page::{Answer, Page, see_other};
use super::viewer::origin;
use super::{Console, assets, csrf, read, session, sign_in};
use crate::crypto::secret::Secret;
use crate::domain::account::User;
use crate::services::{Problems, ServiceError};
use crate::storage::people::LinkPurpose;

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/setup/{token}").route(read().to(show)).route(web::post().to(save)));
}

#[derive(Template)]
#[template(path = "pages/setup.html")]
struct SetupPage {
    title: &'static str,
    assets: &'static str,
    csrf: String,
    lead: String,
    button: &'static str,
    token: String,
    /// Whose password is chosen; `None` for the first super admin, who also gives an address.
    owner: Option<String>,
    email: String,
    problems: Problems,
}

impl SetupPage {
    fn new(csrf: String, token: String, purpose: LinkPurpose, user: Option<User>) -> Self {
        let owner = user.map(|user| user.email);
        let (title, lead, button) = match purpose {
            LinkPurpose::FirstAdmin => (
                "Set up Keyward",
                "This makes the first super admin of this installation.".to_owned(),
                "Create super admin",
            ),
            LinkPurpose::ResetPassword => (
                "Choose a password",
                format!("For {}.", owner.as_deref().unwrap_or("your account")),
                "Save and sign in",
            ),
        };
        let (email, problems) = (String::new(), Problems::default());
        Self { title, assets: assets::base(), csrf, lead, button, token, owner, email, problems }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SetupForm {
    email: String,
    password: Secret,
}

impl Default for SetupForm {
    fn default() -> Self {
        Self { email: String::new(), password: Secret::new(String::new()) }
    }
}

async fn show(console: Data<Console>, request: HttpRequest, session: Session, token: Path<String>) -> Answer {
    let (purpose, user) = console.services.link(&token).await.map_err(dead)?;
    let csrf = csrf::token(&console, &request, &session);
    Page::new(SetupPage::new(csrf, token.into_inner(), purpose, user)).answer()
}

async fn save(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    token: Path<String>,
    posted: Posted<SetupForm>,
) -> Answer {
    let form = posted.fields;
    let from = origin(&console, &request);
    match console.services.use_link(&token, &form.email, form.password, &from).await {
        Ok(person) => {
            let next = session::enter(&session, &request, &person, &from, sign_in::start_of(&person))?;
            if !person.user.ways.has_second() {
                session::notify(&session, true, "Your password is saved and you are signed in.");
            }
            Ok(see_other(&next))
        }
        Err(ServiceError::NotFound) => Err(WebError::DeadLink),
        Err(error) => {
            let failure = Failure::of(error)?;
            let (purpose, user) = console.services.link(&token).await.map_err(dead)?;
            let csrf = csrf::token(&console, &request, &session);
            let mut page = SetupPage::new(csrf, token.into_inner(), purpose, user);
            page.email = form.email.chars().take(254).collect();
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

fn dead(error: ServiceError) -> WebError {
    match error {
        ServiceError::NotFound => WebError::DeadLink,
        error => error.into(),
    }
}
