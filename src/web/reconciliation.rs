//! Billing → Reconciliation, and Platform → Reconciliation for the shared keys: Keyward's books beside the
//! provider's own report.

use std::cmp::Reverse;

use actix_web::HttpRequest;
use actix_web::web::{self, Data, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::figures::count;
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Page, see_other};
use super::place::Place;
use super::time::When;
use super::{Console, billing, confirm, read, session};
use crate::access::policy::Action;
use crate::crypto::secret::Secret;
use crate::domain::provider_key::Provider;
use crate::domain::reconcile::{Cause, Line, Side};
use crate::providers::reports;
use crate::services::reconcile::Reconciled;
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig, path: &str) {
    cfg.service(web::resource(path).route(read().to(show)).route(web::post().to(add)))
        .service(web::resource(format!("{path}/{{provider}}/remove")).route(web::post().to(remove)));
}

/// Lines that a page lists of each provider.
const SHOWN: usize = 50;

#[derive(Template)]
#[template(path = "pages/reconciliation.html")]
struct ReconciliationPage {
    chrome: Chrome,
    /// Where the page belongs in a tenant's console; `None` on the platform.
    billing: Option<String>,
    action: String,
    may_change: bool,
    reports: Vec<Report>,
    providers: Vec<Choice>,
    provider: String,
    asks_password: bool,
    problems: Problems,
}

struct Choice {
    provider: Provider,
    label: &'static str,
    prefix: &'static str,
}

struct Report {
    provider: Provider,
    label: &'static str,
    hint: String,
    by: String,
    fetched: Option<When>,
    failure: Option<&'static str>,
    /// What there is to say of all lines together.
    tone: &'static str,
    word: &'static str,
    here: Figures,
    there: Figures,
    differing: usize,
    more: usize,
    rows: Vec<Row>,
    /// What the causes among them mean.
    legend: Vec<(&'static str, &'static str, &'static str)>,
}

struct Figures {
    tokens: String,
    cost: String,
}

struct Row {
    day: String,
    key: String,
    model: String,
    here: Figures,
    there: Figures,
    tone: &'static str,
    cause: &'static str,
}

fn figures(side: Side) -> Figures {
    let cost = match side.cost {
        Some(cost) => cost.shown(),
        None if side.tokens == 0 => "Nothing".to_owned(),
        None => "Not told".to_owned(),
    };
    Figures { tokens: count(side.tokens), cost }
}

fn sum(lines: &[Line], of: fn(&Line) -> Side) -> Side {
    lines.iter().map(of).fold(Side::default(), |sum, side| Side {
        requests: None,
        tokens: sum.tokens + side.tokens,
        cost: side.cost.map_or(sum.cost, |cost| Some(sum.cost.unwrap_or_default().saturating_add(cost))),
    })
}

/// How bad it is, what it is, and what to do.
fn told(cause: Cause) -> (&'static str, &'static str, &'static str) {
    match cause {
        Cause::Elsewhere => (
            "bad",
            "Used elsewhere",
            "The provider counts use of this key that Keyward never sent. If nobody knows of it, rotate the key.",
        ),
        Cause::LessThere => (
            "warn",
            "Less at the provider",
            "Keyward sent more than the report of this organisation shows. The key may belong to another one.",
        ),
        Cause::Price => (
            "warn",
            "Another price",
            "The tokens agree and the cost does not. Set the negotiated rate under Rates, or ask for the price to be updated.",
        ),
        Cause::Unpriced => ("warn", "No price here", "Keyward knows no price for the model."),
        Cause::Estimated => {
            ("", "Estimated here", "Some answers broke off, and Keyward counted what it saw of them.")
        }
        Cause::Shifted => {
            ("", "Over midnight", "Some requests are counted on the day before or after by the provider.")
        }
        Cause::Before => ("", "Before it was here", "The key was used before it was pasted into Keyward."),
        Cause::Extra => {
            ("", "Other charges", "The provider charges for something that is not counted in tokens.")
        }
        Cause::Incomplete => ("", "Not complete yet", "The provider's report of this day is still growing."),
        Cause::NotHere => {
            ("", "Not a key of Keyward's", "A key of the same organisation that is used without Keyward.")
        }
        Cause::Same => ("good", "Agrees", ""),
    }
}

fn report(found: Reconciled, place: &Place) -> Report {
    let Reconciled { key, mut lines } = found;
    // What is none of Keyward's is listed, but not held against it.
    let ours: Vec<Line> = lines.iter().filter(|line| line.cause != Cause::NotHere).cloned().collect();
    let worst = ours.iter().map(|line| line.cause).min();
    let (tone, word) = match worst {
        _ if key.fetched_at.is_none() => ("", "Not read yet"),
        None | Some(Cause::Same) => ("good", "Both agree"),
        Some(cause) => (told(cause).0, told(cause).1),
    };
    let differing = lines.iter().filter(|line| line.cause != Cause::Same).count();
    lines.sort_by_key(|line| (line.cause == Cause::Same, line.cause, Reverse(line.day)));
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    let mut causes: Vec<Cause> = lines.iter().map(|line| line.cause).collect();
    causes.sort_unstable();
    causes.dedup();
    causes.retain(|cause| *cause != Cause::Same);
    Report {
        provider: key.provider,
        label: key.provider.label(),
        hint: key.hint,
        by: key.created_by,
        fetched: key.fetched_at.map(|at| place.times().when(at)),
        failure: match key.failure.as_str() {
            "" => None,
            "rejected" => Some("The provider rejects this Admin key. Paste a new one."),
            "limited" => {
                Some("The provider asks for fewer questions. It will be asked again within the hour.")
            }
            "unreadable" => {
                Some("The provider's answer could not be read. It will be asked again within the hour.")
            }
            "internal" => Some(
                "Something went wrong here while it was read; the log says what. It is tried again within the hour.",
            ),
            _ => Some("The provider could not be reached. It will be asked again within the hour."),
        },
        tone,
        word,
        here: figures(sum(&ours, |line| line.here)),
        there: figures(sum(&ours, |line| line.there)),
        differing,
        more,
        legend: causes.into_iter().map(told).collect(),
        rows: lines
            .into_iter()
            .map(|line| {
                let (tone, cause, _) = told(line.cause);
                Row {
                    day: line.day.date(&jiff::tz::TimeZone::UTC).strftime("%-d %b %Y").to_string(),
                    key: if line.key.is_empty() { "No key".to_owned() } else { line.key },
                    model: line.model,
                    here: figures(line.here),
                    there: figures(line.there),
                    tone,
                    cause,
                }
            })
            .collect(),
    }
}

fn address(place: &Place) -> String {
    match place.view() {
        Some(_) => format!("{}/reconciliation", billing::address(place)),
        None => format!("{}/reconciliation", place.root()),
    }
}

async fn page(console: &Console, place: &Place) -> Result<ReconciliationPage, WebError> {
    let found = console.services.reconciled(&place.viewer.actor, place.holder).await?;
    let billing = place.view().map(|_| billing::address(place));
    let current = billing.as_ref().map_or_else(|| address(place), |billing| format!("{billing}/usage"));
    Ok(ReconciliationPage {
        chrome: place.chrome("Reconciliation", &current),
        billing,
        action: address(place),
        may_change: place.may(Action::ChangeKeys),
        reports: found.into_iter().map(|found| report(found, place)).collect(),
        providers: reports::PROVIDERS
            .into_iter()
            .map(|provider| Choice {
                provider,
                label: provider.label(),
                prefix: reports::prefix(provider).unwrap_or_default(),
            })
            .collect(),
        provider: String::new(),
        asks_password: place.asks_password(),
        problems: Problems::default(),
    })
}

async fn show(console: Data<Console>, place: Place) -> Answer {
    Page::new(page(&console, &place).await?).answer()
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportForm {
    provider: String,
    api_key: Secret,
}

impl Default for ReportForm {
    fn default() -> Self {
        Self { provider: String::new(), api_key: Secret::new(String::new()) }
    }
}

async fn add(console: Data<Console>, mut place: Place, posted: Posted<ReportForm>) -> Answer {
    place.demand(Action::ChangeKeys)?;
    let form = posted.fields;
    let holder = place.holder;
    let added = confirm::act(&console, &mut place.viewer, posted.evidence, async |services, actor| {
        services.add_report_key(actor, holder, &form.provider, &form.api_key).await
    })
    .await;
    match added {
        Ok(read) => {
            let text = if read {
                "Saved and read. It is read again every day."
            } else {
                "Saved, but its report could not be read yet. It will be tried again."
            };
            session::notify(&place.viewer.session, read, text);
            Ok(see_other(&address(&place)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &place).await?;
            page.provider = form.provider;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

async fn remove(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    mut posted: Posted<Nothing>,
) -> Answer {
    let holder = place.holder;
    let provider = request.match_info().get("provider").unwrap_or_default().to_owned();
    let password = posted.evidence.take();
    let removed = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.remove_report_key(actor, holder, &provider).await
    })
    .await;
    match removed {
        Ok(()) => session::notify(&place.viewer.session, true, "Admin key and report removed."),
        Err(ServiceError::NotFound) => return Err(WebError::NotFound),
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &address(&place));
            return confirm::ask(error, &request, chrome, "Remove Admin key", address(&place), &posted);
        }
    }
    Ok(see_other(&address(&place)))
}
