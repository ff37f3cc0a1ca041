//! Passkeys: signing in with one, and one's own. What the browser answers is put into the form by a script,
//! so that these are the only pages that need one; every other way of signing in does not.

use actix_session::Session;
use actix_web::web::{self, Data, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use serde::Deserialize;
use uuid::Uuid;

use super::account::begin_anew;
use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::second_factor::{self, HERE};
use super::viewer::{Viewer, origin};
use super::{Console, confirm, read, session, sign_in};
use crate::domain::account::Proof;
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/sign-in/passkey/question").route(web::post().to(ask)))
        .service(web::resource("/sign-in/passkey").route(web::post().to(sign_in_by)))
        .service(web::resource(NEW).route(read().to(show_new)).route(web::post().to(begin)))
        .service(web::resource("/account/passkeys/add").route(web::post().to(add)))
        .service(web::resource("/account/passkeys/{id}/remove").route(web::post().to(remove)));
}

const NEW: &str = "/account/passkeys/new";

/// A question for any passkey, to sign in or to confirm with.
async fn ask(console: Data<Console>, request: HttpRequest, session: Session, _: Posted<Nothing>) -> Answer {
    let asked = console.services.ask_for_passkey(&origin(&console, &request)).await?;
    session::keep_ceremony(&session, &asked.ceremony)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(asked.options))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignInForm {
    credential: String,
    #[serde(default)]
    next: Option<String>,
}

async fn sign_in_by(
    console: Data<Console>,
    request: HttpRequest,
    session: Session,
    posted: Posted<SignInForm>,
) -> Answer {
    let SignInForm { credential, next } = posted.fields;
    // Halfway there, they go where they wanted to when they began.
    let halfway = session::halfway(&session, console.services.clock.now()).map(|who| who.next);
    let next = next.filter(|next| sign_in::is_local(next)).or(halfway);
    let from = origin(&console, &request);
    let outcome = match session::take_ceremony(&session) {
        Some(ceremony) => console.services.sign_in_by_passkey(ceremony, &credential, &from).await,
        None => Err(ServiceError::Denied),
    };
    match outcome {
        Ok(person) => {
            let (address, since) = (Some(from.address), person.since);
            session::begin(&session, &request, person.user.id, Proof::Passkey, address, since)?;
            Ok(see_other(&next.unwrap_or_else(|| sign_in::start_of(&person))))
        }
        Err(ServiceError::Denied) => {
            let message =
                "That passkey is not known here, or took too long. Try again, or use your password.";
            let problems = Problems { summary: Some(message.to_owned()), fields: Vec::new() };
            sign_in::again(&console, &request, &session, next, problems)
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Template)]
#[template(path = "pages/new_passkey.html")]
struct NewPasskeyPage {
    chrome: Chrome,
    /// What the browser is to make, as JSON.
    options: String,
    name: String,
    problems: Problems,
}

async fn new_page(
    console: &Console,
    viewer: &Viewer,
    name: String,
    problems: Problems,
) -> Result<Page<NewPasskeyPage>, ServiceError> {
    let asked = console.services.begin_passkey(&viewer.actor).await?;
    if session::keep_ceremony(&viewer.session, &asked.ceremony).is_err() {
        return Err(ServiceError::Conflict("Passkeys do not work just now."));
    }
    let chrome = Chrome::new(viewer, &Here::Account, "New passkey", "/account");
    Ok(Page::new(NewPasskeyPage { chrome, options: asked.options, name, problems }))
}

/// Whoever comes back to this page by its address begins where the button is.
async fn show_new(console: Data<Console>, viewer: Viewer) -> Answer {
    match new_page(&console, &viewer, String::new(), Problems::default()).await {
        Ok(page) => page.answer(),
        Err(ServiceError::Confirm | ServiceError::ConfirmStrongly | ServiceError::Conflict(_)) => {
            Ok(see_other(HERE))
        }
        Err(error) => Err(error.into()),
    }
}

async fn begin(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    posted: Posted<Nothing>,
) -> Answer {
    // Asked for once here, so that the form behind it does not ask again.
    let intent = "Add a passkey";
    let may =
        second_factor::press(&console, &mut viewer, &request, intent, posted, async |services, actor| {
            services.begin_passkey(actor).await
        });
    match may.await {
        Ok(_) => Ok(see_other(NEW)),
        Err(answer) => answer,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewForm {
    name: String,
    credential: String,
}

async fn add(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    posted: Posted<NewForm>,
) -> Answer {
    let NewForm { name, credential } = posted.fields;
    let ceremony = session::take_ceremony(&viewer.session);
    let done = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
        services.finish_passkey(actor, ceremony, &name, &credential).await
    })
    .await;
    match done {
        Ok(codes) => {
            begin_anew(&console, &viewer, &request, (Proof::Passkey, console.services.clock.now()))?;
            second_factor::show_codes(&console, &request, codes, "The passkey is added.").await
        }
        Err(ServiceError::Conflict(message)) => {
            session::notify(&viewer.session, false, message);
            Ok(see_other(HERE))
        }
        Err(ServiceError::Confirm | ServiceError::ConfirmStrongly) => {
            let message = "That took too long, so the passkey was not kept. Add it again.";
            session::notify(&viewer.session, false, message);
            Ok(see_other(HERE))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let page = new_page(&console, &viewer, name, failure.problems).await?;
            page.status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

async fn remove(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    id: Path<String>,
    posted: Posted<Nothing>,
) -> Answer {
    let id = Uuid::parse_str(&id).map_err(|_| WebError::NotFound)?;
    let intent = "Remove passkey";
    let done =
        second_factor::press(&console, &mut viewer, &request, intent, posted, async |services, actor| {
            services.remove_passkey(actor, id).await
        });
    match done.await {
        Ok(name) => {
            let what = format!("The passkey {name}");
            second_factor::after_removal(&console, &viewer, &request, &what).await
        }
        Err(answer) => answer,
    }
}
