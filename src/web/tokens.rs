//! Access tokens of a tenant, and service tokens of the platform. A token's secret is in the
//! answer to the form that made it, and nowhere else.

use actix_web::web::{self, Data, Path, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Page, see_other};
use super::place::Place;
use super::prose::{Prose, Tone};
use super::time::When;
use super::{Console, confirm, read, session};
use crate::access::policy::Action;
use crate::crypto::secret::Secret;
use crate::domain::ids::TokenId;
use crate::services::tokens::{MadeToken, NewToken, OVERLAPS, TokenScope};
use crate::services::{Problems, ServiceError};
use crate::storage::tokens::AccessToken;

pub fn routes(cfg: &mut ServiceConfig, base: &str) {
    let of = |what: &str| web::resource(format!("{base}/{{id}}/{what}"));
    cfg.service(web::resource(base).route(read().to(show)).route(web::post().to(create)))
        .service(of("rotate").route(read().to(rotation)).route(web::post().to(rotate)))
        .service(of("revoke").route(read().to(revocation)).route(web::post().to(revoke)));
}

fn base(place: &Place) -> String {
    match place.view() {
        Some(_) => format!("{}/settings/tokens", place.root()),
        None => "/platform/tokens".to_owned(),
    }
}

fn title(place: &Place) -> &'static str {
    if place.view().is_some() { "Access tokens" } else { "Service tokens" }
}

#[derive(Template)]
#[template(path = "pages/tokens/show.html")]
struct TokensPage {
    chrome: Chrome,
    base: String,
    heading: &'static str,
    lead: String,
    empty: &'static str,
    create_lead: &'static str,
    is_service: bool,
    public_url: String,
    rows: Vec<TokenRow>,
    made: Option<Made>,
    name: String,
    days: String,
    scopes: Vec<ScopeBox>,
    once: TokenId,
    asks_password: bool,
    problems: Problems,
}

struct ScopeBox {
    scope: TokenScope,
    ticked: bool,
}

fn scope_boxes(chosen: &[String]) -> Vec<ScopeBox> {
    let ticked = |scope: TokenScope| chosen.iter().any(|word| word == scope.as_str());
    TokenScope::ALL.iter().map(|scope| ScopeBox { scope: *scope, ticked: ticked(*scope) }).collect()
}

struct Made {
    name: String,
    secret: Secret,
}

struct TokenRow {
    id: TokenId,
    name: String,
    hint: String,
    scopes: String,
    tone: Tone,
    status: &'static str,
    expires: Option<Prose>,
    last_used: Option<When>,
    made: When,
    by: String,
    live: bool,
    /// Another one took its place.
    rotated: bool,
}

async fn page(console: &Console, place: &Place) -> Result<TokensPage, WebError> {
    let tokens = console.services.tokens(&place.viewer.actor, place.holder).await?;
    let is_service = place.view().is_none();
    let (lead, empty, create_lead) = match place.view() {
        Some(view) => (
            format!(
                "Your backend sends one of these to Keyward in place of a provider key. It acts for {}.",
                view.tenant.name
            ),
            "Create one for each service that calls AI, so that you can revoke it alone.",
            "Its secret is shown once, with the lines to paste into your code.",
        ),
        None => (
            "For your own backend, which calls for many tenants. Each request names the tenant that it acts for in the x-keyward-tenant header.".to_owned(),
            "Create one for the backend of your product. Tenants make their own on their pages.",
            "It can act for every tenant: keep it where only your backend can read it.",
        ),
    };
    Ok(TokensPage {
        chrome: place.chrome(title(place), &base(place)),
        base: base(place),
        heading: title(place),
        lead,
        empty,
        create_lead,
        is_service,
        public_url: console.services.options.public_url.clone(),
        rows: tokens.into_iter().map(|token| row(place, token)).collect(),
        made: None,
        name: String::new(),
        days: String::new(),
        scopes: scope_boxes(&[TokenScope::Gateway.to_string()]),
        once: TokenId::new(),
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

fn row(place: &Place, token: AccessToken) -> TokenRow {
    let times = place.times();
    let expired = token.expires_at.is_some_and(|at| at <= times.now);
    let (tone, status, expires) = match (token.revoked_at, token.expires_at) {
        (Some(at), _) => (Tone::Plain, "Revoked", Some(Prose::default().when(&times.when(at)))),
        (None, Some(at)) if expired => (Tone::Plain, "Expired", Some(Prose::default().when(&times.when(at)))),
        (None, Some(at)) => (Tone::Good, "Active", Some(Prose::of("expires ").when(&times.when(at)))),
        (None, None) => (Tone::Good, "Active", None),
    };
    TokenRow {
        id: token.id,
        name: token.name,
        hint: token.hint,
        scopes: token.scopes.join(", "),
        tone,
        status,
        expires,
        last_used: token.last_used_at.map(|at| times.when(at)),
        made: times.when(token.created_at),
        by: token.created_by,
        live: token.revoked_at.is_none() && !expired,
        rotated: token.rotated_at.is_some(),
    }
}

async fn show(console: Data<Console>, place: Place) -> Answer {
    Page::new(page(&console, &place).await?).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TokenForm {
    name: String,
    days: String,
    scopes: Vec<String>,
    /// The id of the token that is made, so that reloading the answer does not make another.
    once: String,
}

async fn create(console: Data<Console>, mut place: Place, posted: Posted<TokenForm>) -> Answer {
    place.demand(Action::ManageTokens)?;
    let (form, holder) = (posted.fields, place.holder);
    let id = if form.once.is_empty() { Some(TokenId::new()) } else { TokenId::parse(&form.once) };
    let id = id.ok_or(WebError::BadForm)?;
    let new = NewToken { id, name: form.name.clone(), days: form.days.clone(), scopes: form.scopes.clone() };
    let made = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.create_token(actor, holder, &new).await
    })
    .await;
    match made {
        Ok(made) => shown(&console, &place, made).await,
        Err(ServiceError::Conflict(message)) => {
            session::notify(&place.viewer.session, false, message);
            Ok(see_other(&base(&place)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &place).await?;
            page.name = form.name;
            page.days = form.days;
            page.scopes = scope_boxes(&form.scopes);
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

/// The token's id in the address; the tenant beside it is the place's business.
#[derive(Deserialize)]
struct TokenPath {
    id: String,
}

impl TokenPath {
    fn id(&self) -> Result<TokenId, WebError> {
        TokenId::parse(&self.id).ok_or(WebError::NotFound)
    }
}

#[derive(Template)]
#[template(path = "pages/tokens/revoke.html")]
struct RevokePage {
    chrome: Chrome,
    base: String,
    section: &'static str,
    id: TokenId,
    name: String,
    hint: String,
    asks_password: bool,
    problems: Problems,
}

async fn revoke_page(console: &Console, place: &Place, id: TokenId) -> Result<RevokePage, WebError> {
    let tokens = console.services.tokens(&place.viewer.actor, place.holder).await?;
    let token = tokens.into_iter().find(|token| token.id == id && token.revoked_at.is_none());
    let token = token.ok_or(WebError::NotFound)?;
    Ok(RevokePage {
        chrome: place.chrome(&format!("Revoke {}", token.name), &base(place)),
        base: base(place),
        section: title(place),
        id,
        name: token.name,
        hint: token.hint,
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

#[derive(Template)]
#[template(path = "pages/tokens/rotate.html")]
struct RotatePage {
    chrome: Chrome,
    base: String,
    section: &'static str,
    id: TokenId,
    name: String,
    hint: String,
    /// The id of the token that is made, so that sending the form twice does not make another.
    once: TokenId,
    overlaps: Vec<(i64, &'static str)>,
    hours: i64,
    asks_password: bool,
    problems: Problems,
}

async fn rotate_page(console: &Console, place: &Place, id: TokenId) -> Result<RotatePage, WebError> {
    let tokens = console.services.tokens(&place.viewer.actor, place.holder).await?;
    let works = |token: &AccessToken| {
        token.rotated_at.is_none() && token.expires_at.is_none_or(|at| at > place.times().now)
    };
    let token = tokens.into_iter().find(|token| token.id == id && works(token)).ok_or(WebError::NotFound)?;
    let label = |hours: &i64| match hours {
        0 => "Not at all",
        1 => "An hour",
        24 => "A day",
        _ => "A week",
    };
    Ok(RotatePage {
        chrome: place.chrome(&format!("Rotate {}", token.name), &base(place)),
        base: base(place),
        section: title(place),
        id,
        name: token.name,
        hint: token.hint,
        once: TokenId::new(),
        overlaps: OVERLAPS.iter().map(|hours| (*hours, label(hours))).collect(),
        hours: 24,
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

async fn rotation(console: Data<Console>, place: Place, path: Path<TokenPath>) -> Answer {
    Page::new(rotate_page(&console, &place, path.id()?).await?).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotateForm {
    hours: i64,
    once: String,
}

async fn rotate(
    console: Data<Console>,
    mut place: Place,
    path: Path<TokenPath>,
    posted: Posted<RotateForm>,
) -> Answer {
    place.demand(Action::ManageTokens)?;
    let (id, holder, hours) = (path.id()?, place.holder, posted.fields.hours);
    let once = TokenId::parse(&posted.fields.once).ok_or(WebError::BadForm)?;
    let made = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.rotate_token(actor, holder, id, once, hours).await
    })
    .await;
    match made {
        Ok(made) => shown(&console, &place, made).await,
        Err(ServiceError::Conflict(message)) => {
            session::notify(&place.viewer.session, false, message);
            Ok(see_other(&base(&place)))
        }
        Err(ServiceError::NotFound) => Err(WebError::NotFound),
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = rotate_page(&console, &place, id).await?;
            page.hours = hours;
            page.once = once;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

/// The page with a token that was just made. No other page of tokens answers a change itself: a redirect
/// would have to carry the secret.
async fn shown(console: &Console, place: &Place, MadeToken { token, secret }: MadeToken) -> Answer {
    let mut page = page(console, place).await?;
    page.made = Some(Made { name: token.name, secret });
    Page::new(page).answer()
}

async fn revocation(console: Data<Console>, place: Place, path: Path<TokenPath>) -> Answer {
    Page::new(revoke_page(&console, &place, path.id()?).await?).answer()
}

async fn revoke(
    console: Data<Console>,
    mut place: Place,
    path: Path<TokenPath>,
    posted: Posted<Nothing>,
) -> Answer {
    let (id, holder) = (path.id()?, place.holder);
    let done = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.revoke_token(actor, holder, id).await
    })
    .await;
    match done {
        Ok(()) => {
            session::notify(&place.viewer.session, true, "Token revoked.");
            Ok(see_other(&base(&place)))
        }
        Err(ServiceError::NotFound) => Err(WebError::NotFound),
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = revoke_page(&console, &place, id).await?;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}
