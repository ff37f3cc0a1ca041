//! Activity → Community manager: what was written waits here for a person.

use actix_web::HttpRequest;
use actix_web::web::{self, Data, Path, Query, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::api_keys::show::status_banners;
use super::banner::Banner;
use super::error::WebError;
use super::features::{GateLine, costs, gate_line};
use super::figures::{count, counted};
use super::form::{Failure, Nothing, Posted};
use super::page::{Answer, Chrome, Page, see_other};
use super::place::Place;
use super::time::When;
use super::{Console, confirm, read, session, spending};
use crate::access::policy::Action;
use crate::domain::generation::{FEATURE, Generation, GenerationState};
use crate::domain::ids::GenerationId;
use crate::domain::money::Nanos;
use crate::services::generations::Ruling;

const ON_A_PAGE: i64 = 20;

pub fn routes(cfg: &mut ServiceConfig) {
    let item = |act: &str| web::resource(format!("/t/{{tenant}}/activity/community-manager/{{id}}/{act}"));
    cfg.service(web::resource("/t/{tenant}/activity/community-manager").route(read().to(show)))
        .service(item("approve").route(web::post().to(approve)))
        .service(item("reject").route(web::post().to(reject)))
        .service(item("retry").route(web::post().to(retry)));
}

fn address(place: &Place) -> String {
    format!("{}/activity/community-manager", place.root())
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Waiting,
    Queued,
    Decided,
    Failed,
}

impl Show {
    const ALL: [Self; 4] = [Self::Waiting, Self::Queued, Self::Decided, Self::Failed];

    fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Decided => "decided",
            Self::Failed => "failed",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting for approval",
            Self::Queued => "In the queue",
            Self::Decided => "Decided",
            Self::Failed => "Failed",
        }
    }

    fn states(self) -> &'static [GenerationState] {
        match self {
            Self::Waiting => &[GenerationState::Waiting],
            Self::Queued => &[GenerationState::Queued, GenerationState::Running],
            Self::Decided => &[GenerationState::Approved, GenerationState::Rejected],
            Self::Failed => &[GenerationState::Failed],
        }
    }
}

#[derive(Template)]
#[template(path = "pages/community.html")]
struct CommunityPage {
    chrome: Chrome,
    here: String,
    banners: Vec<Banner>,
    /// A text that was not approved: why, and what was typed.
    kept: Option<(String, String)>,
    /// Gates that are closed.
    gates: Vec<GateLine>,
    /// Dollars and requests of the last thirty days, for whoever may see them.
    cost: Option<(String, String)>,
    tabs: Vec<Tab>,
    items: Vec<Item>,
    empty: &'static str,
    more: Option<String>,
    may_rule: bool,
}

struct Tab {
    href: String,
    label: &'static str,
    number: String,
    current: bool,
}

struct Item {
    id: String,
    state: GenerationState,
    kind: &'static str,
    title: String,
    source: String,
    draft: String,
    text: String,
    reason: String,
    key: String,
    at: When,
    decided: Option<(String, When)>,
}

impl Item {
    fn of(one: Generation, place: &Place) -> Self {
        Self {
            id: one.id.to_string(),
            state: one.state,
            kind: one.kind.label(),
            title: if one.title.is_empty() { "Without a title".to_owned() } else { one.title },
            source: one.source,
            draft: one.draft,
            text: one.text,
            reason: one.reason,
            key: one.key,
            at: place.times().when(one.created_at),
            decided: one.decided_at.map(|at| (one.decided_by, place.times().when(at))),
        }
    }

    /// Which buttons it has.
    fn can_be_approved(&self) -> bool {
        self.state == GenerationState::Waiting
    }

    fn can_be_rejected(&self) -> bool {
        matches!(self.state, GenerationState::Waiting | GenerationState::Failed | GenerationState::Queued)
    }

    fn can_be_retried(&self) -> bool {
        matches!(self.state, GenerationState::Waiting | GenerationState::Failed | GenerationState::Rejected)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    show: String,
    before: String,
}

async fn show(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    Page::new(page(&console, &place, &asked).await?).answer()
}

async fn page(console: &Console, place: &Place, asked: &Asked) -> Result<CommunityPage, WebError> {
    let services = &console.services;
    let show = Show::ALL.into_iter().find(|show| show.word() == asked.show).unwrap_or(Show::Waiting);
    let scope = &place.holder.scope;
    let before = GenerationId::parse(&asked.before);
    let (mut found, counts) = services.list_generations(scope, show.states(), before, ON_A_PAGE + 1).await?;
    let more = i64::try_from(found.len()).unwrap_or(i64::MAX) > ON_A_PAGE;
    if more {
        found.pop();
    }
    let here = address(place);
    let next = found.last().filter(|_| more);
    let more = next.map(|last| format!("{here}?show={}&before={}", show.word(), last.id));
    let standing = services.standing_with_money(scope).await?;
    let gates = match standing.features().into_iter().find(|(feature, _)| feature.slug == FEATURE) {
        Some((_, decision)) => {
            let closed = decision.gates.iter().filter(|gate| gate.closed.is_some());
            closed.map(|gate| gate_line(gate, &standing, place)).collect()
        }
        None => vec![GateLine::closed(format!(
            "{} has no feature named {FEATURE} yet. What comes in waits for it.",
            services.options.product
        ))],
    };
    let keys = services.keys(place.holder).await?;
    let mut banners = status_banners(console, place, &standing, keys.iter());
    banners.extend(spending::banners(console, place).await?);
    let cost = if place.may(Action::SeeUsage) {
        Some(costs(console, place).await?.get(FEATURE).copied().unwrap_or_default())
    } else {
        None
    };
    let number = |show: Show| {
        let of = counts.iter().filter(|(state, _)| show.states().contains(state));
        count(of.map(|(_, count)| *count).sum())
    };
    Ok(CommunityPage {
        chrome: place.chrome("Community manager", &here),
        kept: None,
        banners,
        gates,
        cost: cost.map(|(cost, requests)| (Nanos(cost).shown(), counted(requests, "request", "requests"))),
        tabs: Show::ALL
            .into_iter()
            .map(|tab| Tab {
                href: format!("{here}?show={}", tab.word()),
                label: tab.label(),
                number: number(tab),
                current: tab == show,
            })
            .collect(),
        items: found.into_iter().map(|one| Item::of(one, place)).collect(),
        empty: match show {
            Show::Waiting => {
                "Nothing waits for you. Posts and threads come in by the API, are written about, and wait here until you approve them."
            }
            Show::Queued => "Nothing is in the queue.",
            Show::Decided => "Nothing was decided yet.",
            Show::Failed => "Nothing failed.",
        },
        more,
        may_rule: place.may(Action::RuleGenerations),
        here,
    })
}

#[derive(Deserialize)]
struct ItemPath {
    id: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ApproveForm {
    text: String,
}

async fn approve(
    console: Data<Console>,
    place: Place,
    path: Path<ItemPath>,
    posted: Posted<ApproveForm>,
) -> Answer {
    place.demand(Action::RuleGenerations)?;
    let id = GenerationId::parse(&path.id).ok_or(WebError::NotFound)?;
    let (tenant, scope, text) = (&place.tenant()?.tenant, place.holder.scope, posted.fields.text);
    let ruling = Ruling::Approve(text.clone());
    let ruled = console.services.rule_generation(&place.viewer.actor, &scope, tenant, id, &ruling).await;
    let Err(error) = ruled else {
        let told = "Approved. Your product can take it from the API now.";
        session::notify(&place.viewer.session, true, told);
        return Ok(see_other(&address(&place)));
    };
    // What was typed is not lost.
    let failure = Failure::of(error)?;
    let why = failure.problems.fields.into_iter().map(|(_, message)| message).chain(failure.problems.summary);
    let mut page = page(&console, &place, &Asked::default()).await?;
    page.kept = Some((why.collect::<Vec<_>>().join(" "), text));
    Page::new(page).status(failure.status).answer()
}

async fn reject(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<ItemPath>,
    posted: Posted<Nothing>,
) -> Answer {
    rule(&console, place, &request, &path.id, posted, Ruling::Reject).await
}

async fn retry(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<ItemPath>,
    posted: Posted<Nothing>,
) -> Answer {
    rule(&console, place, &request, &path.id, posted, Ruling::Retry).await
}

async fn rule(
    console: &Console,
    mut place: Place,
    request: &HttpRequest,
    id: &str,
    posted: Posted<Nothing>,
    ruling: Ruling,
) -> Answer {
    place.demand(Action::RuleGenerations)?;
    let id = GenerationId::parse(id).ok_or(WebError::NotFound)?;
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let told = match ruling {
        Ruling::Reject => "Rejected.",
        Ruling::Retry | Ruling::Approve(_) => "It is in the queue again.",
    };
    let asking = (place.chrome("Confirm it's you", &back), "Save", back.as_str());
    confirm::press(console, &mut place.viewer, request, asking, posted, async |services, actor| {
        services.rule_generation(actor, &scope, &tenant, id, &ruling).await?;
        Ok((true, told.to_owned()))
    })
    .await
}
