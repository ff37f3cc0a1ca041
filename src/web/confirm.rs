//! Stepping up: sensitive changes want somebody who has shown in the last ten minutes that it is them, by
//! password, code or passkey. Forms of their own page have fields for it; a form that is nothing but a
//! button is answered by a page that asks for it and sends the same form again.

use actix_web::HttpRequest;
use askama::Template;

use super::Console;
use super::error::WebError;
use super::form::{EVIDENCE, Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Page, see_other};
use super::session;
use super::viewer::Viewer;
use crate::access::actor::Actor;
use crate::domain::account::Proof;
use crate::services::second_factors::Evidence;
use crate::services::{Problems, ServiceError, Services};

/// Does something that may ask whether it is them, judging what came with the form first.
///
/// # Errors
/// Those of the work, and `Invalid` at the field of what was wrong.
pub async fn act<T>(
    console: &Console,
    viewer: &mut Viewer,
    evidence: Option<Evidence>,
    work: impl AsyncFnOnce(&Services, &Actor) -> Result<T, ServiceError>,
) -> Result<T, ServiceError> {
    let services = &console.services;
    if evidence.is_some() && matches!(viewer.actor.proof, Proof::Sso(_)) {
        // Whatever a person has of us besides: who came by their tenant's provider is confirmed there alone.
        return Err(ServiceError::Confirm);
    }
    if let Some(mut evidence) = evidence {
        if let Evidence::Passkey { ceremony, .. } = &mut evidence {
            *ceremony = session::take_ceremony(&viewer.session);
        }
        let is_strong = !matches!(evidence, Evidence::Password(_));
        let (wrong, proof) = match &evidence {
            Evidence::Password(_) => {
                (Problems::field("current_password", "That password is wrong."), viewer.actor.proof)
            }
            Evidence::Code(_) => {
                let message =
                    "That code is wrong, or was used already. Enter the one that your app shows now.";
                (Problems::field("current_code", message), Proof::SecondFactor)
            }
            Evidence::Passkey { .. } => {
                let message = "That passkey is not one of yours, or took too long. Try again.";
                (Problems::field("current_passkey", message), Proof::Passkey)
            }
        };
        match services.confirm(&viewer.actor, evidence).await {
            // Here it is the evidence that is wrong, which says nothing of what they may do.
            Err(ServiceError::Denied) => return Err(ServiceError::Invalid(wrong)),
            done => done?,
        }
        viewer.actor.confirmed_at = services.clock.now();
        if !viewer.actor.proof.is_strong() {
            viewer.actor.proof = proof;
        }
        if is_strong {
            viewer.actor.strong_at = viewer.actor.confirmed_at;
        }
        let Actor { confirmed_at, strong_at, proof, .. } = viewer.actor;
        if session::confirm(&viewer.session, confirmed_at, strong_at, proof).is_err() {
            return Err(ServiceError::Confirm);
        }
    }
    work(services, &viewer.actor).await
}

/// Does what a button says, and goes back with word of it. What is missing to show that it is them
/// is asked for, and the button pressed again with it. `chrome` frames that page, and `intent` is what the button says.
///
/// # Errors
/// What no notice can tell.
pub async fn press(
    console: &Console,
    viewer: &mut Viewer,
    request: &HttpRequest,
    (chrome, intent, back): (Chrome, &str, &str),
    mut posted: Posted<Nothing>,
    work: impl AsyncFnOnce(&Services, &Actor) -> Result<(bool, String), ServiceError>,
) -> Answer {
    let evidence = posted.evidence.take();
    match act(console, viewer, evidence, work).await {
        Ok((good, text)) => {
            session::notify(&viewer.session, good, text);
            Ok(see_other(back))
        }
        // Somebody or something said no: that is told where the button was.
        Err(ServiceError::Invalid(problems)) if !is_about_evidence(&problems) => {
            let messages: Vec<&str> = problems.fields.iter().map(|(_, message)| message.as_str()).collect();
            session::notify(&viewer.session, false, messages.join(" "));
            Ok(see_other(back))
        }
        Err(ServiceError::Conflict(message)) => {
            session::notify(&viewer.session, false, message);
            Ok(see_other(back))
        }
        Err(error) => ask(error, request, chrome, intent, back, &posted),
    }
}

#[derive(Template)]
#[template(path = "pages/confirm.html")]
struct ConfirmPage {
    chrome: Chrome,
    /// What is about to be done, as its button says it.
    intent: String,
    action: String,
    back: String,
    carried: Vec<(String, String)>,
    problems: Problems,
}

/// Whether what somebody gave to show that it is them is what was wrong.
pub fn is_about_evidence(problems: &Problems) -> bool {
    EVIDENCE.iter().any(|name| problems.of(name).is_some())
}

/// Answers a button whose work failed: with the page that asks whether it is them, where that is
/// what is missing.
///
/// # Errors
/// Every other failure.
pub fn ask<T>(
    error: ServiceError,
    request: &HttpRequest,
    chrome: Chrome,
    intent: impl Into<String>,
    back: impl Into<String>,
    posted: &Posted<T>,
) -> Answer {
    let asked = match &error {
        ServiceError::Confirm | ServiceError::ConfirmStrongly | ServiceError::Throttled { .. } => true,
        ServiceError::Invalid(problems) => is_about_evidence(problems),
        _ => false,
    };
    if !asked {
        return Err(WebError::from(error));
    }
    let first = matches!(error, ServiceError::Confirm);
    let failure = Failure::of(error)?;
    let page = ConfirmPage {
        chrome,
        intent: intent.into(),
        action: request.path().to_owned(),
        back: back.into(),
        carried: posted.carried.clone(),
        // The first time there is nothing wrong yet: the page asks, it does not complain.
        problems: if first { Problems::default() } else { failure.problems },
    };
    Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
}
