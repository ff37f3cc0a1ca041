//! Settings → Webhooks and e-mail: where notifications go beside the console, and what became of
//! those that were sent.

use actix_web::HttpRequest;
use actix_web::web::{self, Data, Path, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Page, see_other};
use super::place::Place;
use super::time::When;
use super::{Console, confirm, read, session};
use crate::access::policy::Action;
use crate::crypto::secret::Secret;
use crate::domain::delivery::{DeliveryState, MAX_WEBHOOKS};
use crate::domain::ids::WebhookId;
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    let base = "/t/{tenant}/settings/notifications";
    cfg.service(web::resource(base).route(read().to(show)).route(web::post().to(add)))
        .service(web::resource(format!("{base}/mail")).route(web::post().to(choose_mail)))
        .service(web::resource(format!("{base}/{{id}}/test")).route(web::post().to(test)))
        .service(web::resource(format!("{base}/{{id}}/remove")).route(web::post().to(remove)));
}

#[derive(Template)]
#[template(path = "pages/destinations.html")]
struct DestinationsPage {
    chrome: Chrome,
    base: String,
    may_change: bool,
    /// `None` where the viewer could not be told by e-mail.
    mail: Option<bool>,
    email: String,
    webhooks: Vec<Line>,
    most: usize,
    log: Vec<Sent>,
    made: Option<(String, Secret)>,
    url: String,
    once: WebhookId,
    asks_password: bool,
    problems: Problems,
}

struct Line {
    id: WebhookId,
    url: String,
    made: When,
    by: String,
}

struct Sent {
    at: When,
    what: &'static str,
    to: String,
    tone: &'static str,
    word: &'static str,
    /// What became of the last attempt; empty before the first.
    outcome: String,
    attempts: i64,
    next: Option<When>,
}

fn base(place: &Place) -> String {
    format!("{}/settings/notifications", place.root())
}

async fn page(console: &Console, place: &Place) -> Result<DestinationsPage, WebError> {
    let tenant = &place.tenant()?.tenant;
    let viewer = &place.viewer;
    let found = console.services.destinations(&viewer.actor, &place.holder.scope, tenant).await?;
    let times = place.times();
    Ok(DestinationsPage {
        chrome: place.chrome("Webhooks and e-mail", &base(place)),
        base: base(place),
        may_change: place.may(Action::ManageWebhooks),
        mail: found.mail,
        email: viewer.actor.email.clone(),
        webhooks: found
            .webhooks
            .into_iter()
            .map(|hook| Line {
                id: hook.id,
                url: hook.url,
                made: times.when(hook.created_at),
                by: hook.created_by,
            })
            .collect(),
        most: MAX_WEBHOOKS,
        log: found
            .log
            .into_iter()
            .map(|(sent, to)| {
                let (tone, word) = match sent.state {
                    DeliveryState::Delivered => ("good", "Delivered"),
                    DeliveryState::GivenUp => ("bad", "Not delivered"),
                    DeliveryState::Waiting if sent.attempts == 0 => ("", "On its way"),
                    DeliveryState::Waiting => ("warn", "Will be tried again"),
                };
                let again = sent.state == DeliveryState::Waiting && sent.attempts > 0;
                Sent {
                    at: times.when(sent.notice.at),
                    what: sent.notice.kind.label(),
                    to,
                    tone,
                    word,
                    outcome: sent.outcome,
                    attempts: sent.attempts,
                    next: again.then(|| times.when(sent.next_at)),
                }
            })
            .collect(),
        made: None,
        url: String::new(),
        once: WebhookId::new(),
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

async fn show(console: Data<Console>, place: Place) -> Answer {
    Page::new(page(&console, &place).await?).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WebhookForm {
    url: String,
    /// The id of the webhook that is made, so that reloading the answer does not make another.
    once: String,
}

async fn add(console: Data<Console>, mut place: Place, posted: Posted<WebhookForm>) -> Answer {
    place.demand(Action::ManageWebhooks)?;
    let form = posted.fields;
    let id = if form.once.is_empty() { Some(WebhookId::new()) } else { WebhookId::parse(&form.once) };
    let id = id.ok_or(WebError::BadForm)?;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let made = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.add_webhook(actor, &scope, &tenant, id, &form.url).await
    })
    .await;
    match made {
        // Answers the form itself, as a new token's page does: a redirect would carry the secret.
        Ok((webhook, secret)) => {
            let mut page = page(&console, &place).await?;
            page.made = Some((webhook.url, secret));
            Page::new(page).answer()
        }
        Err(ServiceError::Conflict(message)) => {
            session::notify(&place.viewer.session, false, message);
            Ok(see_other(&base(&place)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &place).await?;
            page.url = form.url;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

/// The webhook's id in the address; the tenant beside it is the place's business.
#[derive(Deserialize)]
struct WebhookPath {
    id: String,
}

impl WebhookPath {
    fn id(&self) -> Result<WebhookId, WebError> {
        WebhookId::parse(&self.id).ok_or(WebError::NotFound)
    }
}

async fn test(
    console: Data<Console>,
    mut place: Place,
    path: Path<WebhookPath>,
    request: HttpRequest,
    mut posted: Posted<Nothing>,
) -> Answer {
    let id = path.id()?;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let password = posted.evidence.take();
    let tested = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.test_webhook(actor, &scope, &tenant, id).await
    })
    .await;
    match tested {
        Ok(attempt) => {
            let text = if attempt.delivered {
                format!("The test was delivered: {}.", attempt.outcome)
            } else {
                format!("The test was not delivered: {}.", attempt.outcome)
            };
            session::notify(&place.viewer.session, attempt.delivered, text);
            Ok(see_other(&base(&place)))
        }
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &base(&place));
            confirm::ask(error, &request, chrome, "Send a test", base(&place), &posted)
        }
    }
}

async fn remove(
    console: Data<Console>,
    mut place: Place,
    path: Path<WebhookPath>,
    request: HttpRequest,
    mut posted: Posted<Nothing>,
) -> Answer {
    let id = path.id()?;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    let password = posted.evidence.take();
    let removed = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.remove_webhook(actor, &scope, &tenant, id).await
    })
    .await;
    match removed {
        Ok(()) => {
            session::notify(&place.viewer.session, true, "Webhook removed. Nothing more is sent to it.");
            Ok(see_other(&base(&place)))
        }
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &base(&place));
            confirm::ask(error, &request, chrome, "Remove webhook", base(&place), &posted)
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MailForm {
    mail: String,
}

async fn choose_mail(console: Data<Console>, place: Place, posted: Posted<MailForm>) -> Answer {
    let mail = posted.fields.mail == "yes";
    let tenant = &place.tenant()?.tenant;
    console.services.choose_mail(&place.viewer.actor, &place.holder.scope, tenant, mail).await?;
    let text =
        if mail { "Saved. You are told by e-mail too." } else { "Saved. You are told in the console alone." };
    session::notify(&place.viewer.session, true, text);
    Ok(see_other(&base(&place)))
}
