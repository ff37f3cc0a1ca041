//! One's own account: the password, and where one is signed in.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Path, ServiceConfig};
use askama::Template;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::time::{Times, When};
use super::viewer::Viewer;
use super::{Console, read, session};
use crate::crypto::secret::Secret;
use crate::domain::account::{Membership, PlatformRole, Proof};
use crate::domain::clock::Moment;
use crate::domain::ids::SessionId;
use crate::services::second_factors::Evidence;
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/account").route(read().to(show)))
        .service(web::resource("/account/password").route(web::post().to(change_password)))
        .service(web::resource("/account/sessions/{id}/revoke").route(web::post().to(revoke)))
        .service(web::resource("/account/sign-out-everywhere").route(web::post().to(sign_out_everywhere)))
        .service(web::resource("/account/leave/{slug}").route(web::post().to(leave)));
}

#[derive(Template)]
#[template(path = "pages/account.html")]
struct AccountPage {
    chrome: Chrome,
    is_support: bool,
    places: Vec<Membership>,
    sessions: Vec<SessionRow>,
    problems: Problems,
}

struct SessionRow {
    id: SessionId,
    browser: String,
    address: String,
    created: When,
    seen: When,
    current: bool,
}

async fn show(console: Data<Console>, viewer: Viewer) -> Answer {
    Page::new(page(&console, &viewer, Problems::default()).await?).answer()
}

async fn page(console: &Console, viewer: &Viewer, problems: Problems) -> Result<AccountPage, WebError> {
    let times = Times { now: console.services.clock.now(), zone: TimeZone::UTC };
    let sessions = console.services.sessions(&viewer.actor).await?;
    let sessions = sessions
        .into_iter()
        .map(|stored| SessionRow {
            id: stored.id,
            browser: browser(stored.agent.as_deref().unwrap_or_default()),
            address: stored.address.unwrap_or_else(|| "unknown".to_owned()),
            created: times.when(stored.created_at),
            seen: times.when(stored.seen_at),
            current: stored.id == viewer.session_id,
        })
        .collect();
    Ok(AccountPage {
        chrome: Chrome::new(viewer, &Here::Account, "Account", "/account"),
        is_support: viewer.actor.platform_role == Some(PlatformRole::Support),
        places: viewer.person.memberships.clone(),
        sessions,
        problems,
    })
}

/// A browser's name for people, as far as its user agent tells one.
fn browser(agent: &str) -> String {
    let named = |names: &[(&str, &'static str)]| {
        names.iter().find(|(mark, _)| agent.contains(mark)).map(|(_, name)| *name)
    };
    // In the order in which they pretend to be each other.
    let program = named(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = named(&[
        ("Windows", "Windows"),
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (program, system) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) => "Unknown browser".to_owned(),
    }
}

async fn sign_out_everywhere(console: Data<Console>, viewer: Viewer, _: Posted<Nothing>) -> Answer {
    console.services.sign_out_everywhere(&viewer.actor).await?;
    viewer.session.purge();
    Ok(see_other("/sign-in"))
}

/// Leaves a tenant.
async fn leave(console: Data<Console>, viewer: Viewer, slug: Path<String>, _: Posted<Nothing>) -> Answer {
    match console.services.leave(&viewer.actor, &slug).await {
        // Who is nowhere else is signed out by that.
        Ok(()) if viewer.person.memberships.len() == 1 && viewer.actor.platform_role.is_none() => {
            viewer.session.purge();
            return Ok(see_other("/sign-in"));
        }
        Ok(()) => session::notify(&viewer.session, true, format!("You have left {slug}.")),
        Err(ServiceError::Conflict(message)) => session::notify(&viewer.session, false, message),
        Err(error) => return Err(error.into()),
    }
    Ok(see_other("/account"))
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PasswordForm {
    new_password: Secret,
}

impl Default for PasswordForm {
    fn default() -> Self {
        Self { new_password: Secret::new(String::new()) }
    }
}

async fn change_password(
    console: Data<Console>,
    viewer: Viewer,
    request: HttpRequest,
    posted: Posted<PasswordForm>,
) -> Answer {
    let services = &console.services;
    let present = match posted.evidence {
        Some(Evidence::Password(typed)) => typed,
        _ => Secret::new(String::new()),
    };
    let new = posted.fields.new_password;
    match services.change_password(&viewer.actor, present, new).await {
        Ok(()) => {
            // All sessions are gone, this one too: it begins anew.
            begin_anew(&console, &viewer, &request, (viewer.actor.proof, viewer.actor.strong_at))?;
            session::notify(&viewer.session, true, "Password changed. All other sessions were ended.");
            Ok(see_other("/account"))
        }
        Err(error) => {
            let failure = match error {
                ServiceError::Denied => Failure {
                    status: StatusCode::UNPROCESSABLE_ENTITY,
                    problems: Problems::field("current_password", "That is not your present password."),
                    retry_after: None,
                },
                error => Failure::of(error)?,
            };
            let page = page(&console, &viewer, failure.problems).await?;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

/// Signs in again who has just ended all of their own sessions by what they did.
pub fn begin_anew(
    console: &Console,
    viewer: &Viewer,
    request: &HttpRequest,
    (proof, strong_at): (Proof, Moment),
) -> Result<(), WebError> {
    let (address, now) = (Some(viewer.origin.address.clone()), console.services.clock.now());
    session::begin(&viewer.session, request, viewer.actor.user_id, proof, address, now)?;
    // What they have not shown just now does not count as shown.
    session::confirm(&viewer.session, now, strong_at, proof)
}

async fn revoke(
    console: Data<Console>,
    viewer: Viewer,
    id: Path<String>,
    _posted: Posted<Nothing>,
) -> Answer {
    let id = SessionId::parse(&id).ok_or(WebError::NotFound)?;
    console.services.revoke_session(&viewer.actor, id).await?;
    if id == viewer.session_id {
        viewer.session.purge();
        return Ok(see_other("/sign-in"));
    }
    session::notify(&viewer.session, true, "Session ended.");
    Ok(see_other("/account"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_named_in_the_order_in_which_they_pretend() {
        let edge = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/120.0 Safari/537.36 Edg/120.0";
        assert_eq!(browser(edge), "Edge on Windows");
        assert_eq!(browser("curl/8.5"), "curl");
        assert_eq!(browser(""), "Unknown browser");
    }
}
