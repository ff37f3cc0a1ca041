//! Activity → Unanswered questions: what the bot could not answer, suggested answers, and articles.

use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_ENCODING};
use actix_web::web::{self, Bytes, Data, Path, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::api_keys::show::status_banners;
use super::banner::Banner;
use super::error::WebError;
use super::features::{GateLine, costs, gate_line};
use super::figures::{count, counted};
use super::form::{Failure, Limit, Nothing, Posted};
use super::page::{Answer, Chrome, Page, see_other};
use super::place::Place;
use super::prose::Link;
use super::time::When;
use super::{Console, read, session, spending};
use crate::access::policy::Action;
use crate::domain::clock::Moment;
use crate::domain::ids::QuestionId;
use crate::domain::money::Nanos;
use crate::domain::question::{Question, QuestionState, Writing, file_name};
use crate::services::questions::Piece;
use crate::services::{Problems, ServiceError};

const ON_A_PAGE: i64 = 50;

pub fn routes(cfg: &mut ServiceConfig) {
    let at = |rest: &str| web::resource(format!("/t/{{tenant}}/activity/questions{rest}"));
    cfg.service(at("").route(read().to(index)))
        .service(at("/import").app_data(Limit(640 * 1_024)).route(web::post().to(import)))
        .service(at("/{id}").route(read().to(show)))
        .service(at("/{id}/suggest").route(web::post().to(suggest)))
        .service(at("/{id}/draft").route(web::post().to(draft)))
        .service(at("/{id}/article").app_data(Limit(320 * 1_024)).route(web::post().to(save)))
        .service(at("/{id}/article.md").route(read().to(export)))
        .service(at("/{id}/decide").route(web::post().to(decide)));
}

fn address(place: &Place) -> String {
    format!("{}/activity/questions", place.root())
}

fn label(state: QuestionState) -> &'static str {
    match state {
        QuestionState::Open => "Open",
        QuestionState::Answered => "Answered",
        QuestionState::Dismissed => "Dismissed",
    }
}

#[derive(Template)]
#[template(path = "pages/questions/index.html")]
struct IndexPage {
    chrome: Chrome,
    here: String,
    banners: Vec<Banner>,
    cost: Option<(String, String)>,
    tabs: Vec<Tab>,
    rows: Vec<Row>,
    empty: &'static str,
    more: Option<String>,
    may_answer: bool,
    list: String,
    problems: Problems,
}

struct Tab {
    href: String,
    label: &'static str,
    number: String,
    current: bool,
}

struct Row {
    href: String,
    text: String,
    asked: String,
    at: When,
    has_suggestion: bool,
    has_article: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    show: String,
    after: String,
}

async fn index(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    Page::new(index_page(&console, &place, &asked).await?).answer()
}

async fn index_page(console: &Console, place: &Place, asked: &Asked) -> Result<IndexPage, WebError> {
    let services = &console.services;
    let state = QuestionState::parse(&asked.show).unwrap_or(QuestionState::Open);
    let scope = &place.holder.scope;
    let after = QuestionId::parse(&asked.after);
    let (mut found, counts) = services.list_questions(scope, state, after, ON_A_PAGE + 1).await?;
    let more = i64::try_from(found.len()).unwrap_or(i64::MAX) > ON_A_PAGE;
    if more {
        found.pop();
    }
    let here = address(place);
    let next = found.last().filter(|_| more);
    let more = next.map(|last| format!("{here}?show={state}&after={}", last.id));
    let number = |of: QuestionState| {
        count(counts.iter().find(|(state, _)| *state == of).map_or(0, |(_, count)| *count))
    };
    let cost = if place.may(Action::SeeUsage) {
        let costs = costs(console, place).await?;
        let of = |what: &Writing| costs.get(what.feature()).copied().unwrap_or_default();
        let (cost, requests) =
            Writing::ALL.iter().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Some((Nanos(cost).shown(), counted(requests, "request", "requests")))
    } else {
        None
    };
    Ok(IndexPage {
        chrome: place.chrome("Unanswered questions", &here),
        banners: banners(console, place).await?,
        cost,
        tabs: QuestionState::ALL
            .iter()
            .map(|tab| Tab {
                href: format!("{here}?show={tab}"),
                label: label(*tab),
                number: number(*tab),
                current: *tab == state,
            })
            .collect(),
        rows: found
            .into_iter()
            .map(|one| Row {
                href: format!("{here}/{}", one.id),
                has_suggestion: !one.suggestion.text.is_empty(),
                has_article: !one.article.text.is_empty(),
                asked: count(one.asked),
                at: place.times().when(one.created_at),
                text: beginning(&one.text, 140),
            })
            .collect(),
        empty: match state {
            QuestionState::Open => {
                "No question is open. What your bot could not answer comes in by the API, or as a list that you paste here."
            }
            QuestionState::Answered => "No question was marked as answered yet.",
            QuestionState::Dismissed => "No question was dismissed.",
        },
        more,
        may_answer: place.may(Action::AnswerQuestions),
        list: String::new(),
        problems: Problems::default(),
        here,
    })
}

/// The first characters of a text, on one line.
fn beginning(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut begin: String = line.chars().take(most).collect();
    if begin.len() < line.len() {
        begin.push('…');
    }
    begin
}

async fn banners(console: &Console, place: &Place) -> Result<Vec<Banner>, WebError> {
    let standing = console.services.standing_with_money(&place.holder.scope).await?;
    let keys = console.services.keys(place.holder).await?;
    let mut banners = status_banners(console, place, &standing, keys.iter());
    banners.extend(spending::banners(console, place).await?);
    Ok(banners)
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ImportForm {
    list: String,
}

async fn import(console: Data<Console>, place: Place, posted: Posted<ImportForm>) -> Answer {
    place.demand(Action::AnswerQuestions)?;
    let (tenant, scope) = (place.tenant()?.tenant.clone(), place.holder.scope);
    let list = posted.fields.list;
    match console.services.import_questions(&place.viewer.actor, &scope, &tenant, &list).await {
        Ok((new, known)) => {
            let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            let mut text = format!("{} taken in.", counted(number(new), "question", "questions"));
            if known > 0 {
                text = format!("{text} {} known already.", counted(number(known), "was", "were"));
            }
            session::notify(&place.viewer.session, true, text);
            Ok(see_other(&address(&place)))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = index_page(&console, &place, &Asked::default()).await?;
            page.list = list;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).answer()
        }
    }
}

#[derive(Template)]
#[template(path = "pages/questions/show.html")]
struct ShowPage {
    chrome: Chrome,
    back: String,
    here: String,
    banners: Vec<Banner>,
    question: Question,
    title: String,
    state: &'static str,
    asked: String,
    at: When,
    decided: Option<(String, When)>,
    /// What is being written at this moment.
    writing: Option<&'static str>,
    failure: Option<(String, Option<Link>)>,
    suggestion: Part,
    article: Part,
    /// When the article was last changed, as its form says it.
    seen: String,
    /// The article as it stands in its form.
    text: String,
    may_answer: bool,
    problems: Problems,
}

/// One of the two texts.
struct Part {
    gates: Vec<GateLine>,
    /// "written on production@2"
    written: Option<(String, When)>,
}

#[derive(Deserialize)]
struct QuestionPath {
    id: String,
}

async fn show(console: Data<Console>, place: Place, path: Path<QuestionPath>) -> Answer {
    Page::new(show_page(&console, &place, &path.id).await?).answer()
}

async fn show_page(console: &Console, place: &Place, id: &str) -> Result<ShowPage, WebError> {
    let services = &console.services;
    let id = QuestionId::parse(id).ok_or(WebError::NotFound)?;
    let question = services.question(&place.holder.scope, id).await?;
    let standing = services.standing_with_money(&place.holder.scope).await?;
    let part = |what: Writing, written: &crate::domain::question::Written| Part {
        gates: match standing.features().into_iter().find(|(feature, _)| feature.slug == what.feature()) {
            Some((_, decision)) => {
                let closed = decision.gates.iter().filter(|gate| gate.closed.is_some());
                closed.map(|gate| gate_line(gate, &standing, place)).collect()
            }
            None => vec![GateLine::closed(format!(
                "{} has no feature named {} yet.",
                services.options.product,
                what.feature()
            ))],
        },
        written: written.at.map(|at| (written.key.clone(), place.times().when(at))),
    };
    let (suggestion, article) =
        (part(Writing::Suggestion, &question.suggestion), part(Writing::Article, &question.article));
    let link =
        Some(question.reason_link.clone()).filter(|link| !link.is_empty() && place.may(Action::ChangeKeys));
    let failure = Some(question.reason.clone()).filter(|reason| !reason.is_empty());
    let back = address(place);
    Ok(ShowPage {
        chrome: place.chrome("Unanswered question", &back),
        here: format!("{back}/{id}"),
        back,
        banners: banners(console, place).await?,
        title: beginning(&question.text, 80),
        state: label(question.state),
        asked: match question.asked {
            1 => "asked once".to_owned(),
            times => format!("asked {} times", count(times)),
        },
        at: place.times().when(question.created_at),
        decided: question.decided_at.map(|at| (question.decided_by.clone(), place.times().when(at))),
        writing: question.is_being_written(place.times().now).map(|what| match what {
            Writing::Suggestion => "An answer is being written.",
            Writing::Article => "An article is being written.",
        }),
        failure: failure.map(|reason| (reason, link.map(|link| Link::out(link, "Open the provider's page")))),
        suggestion,
        article,
        seen: question.article.at.map(|at| at.0.to_string()).unwrap_or_default(),
        text: question.article.text.clone(),
        may_answer: place.may(Action::AnswerQuestions),
        problems: Problems::default(),
        question,
    })
}

async fn suggest(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<QuestionPath>,
    _: Posted<Nothing>,
) -> Answer {
    write(&console, &place, &request, &path.id, (Writing::Suggestion, None)).await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DraftForm {
    /// When the article was last changed that this one puts itself in the place of.
    seen: String,
}

async fn draft(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    path: Path<QuestionPath>,
    posted: Posted<DraftForm>,
) -> Answer {
    let seen = posted.fields.seen.parse().ok().map(Moment);
    write(&console, &place, &request, &path.id, (Writing::Article, seen)).await
}

const NOT_KEPT: &str = "What was written could not be kept. Try again in a moment.";

/// Has something written. A script that asks for events is shown it as it comes; others wait for it.
async fn write(
    console: &Console,
    place: &Place,
    request: &HttpRequest,
    id: &str,
    (what, seen): (Writing, Option<Moment>),
) -> Answer {
    place.demand(Action::AnswerQuestions)?;
    let id = QuestionId::parse(id).ok_or(WebError::NotFound)?;
    let (tenant, scope) = (&place.tenant()?.tenant, place.holder.scope);
    let here = format!("{}/{id}", address(place));
    let (actor, session) = (&place.viewer.actor, &place.viewer.session);
    let accepted = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_script = accepted.starts_with("text/event-stream");
    let services = &console.services;
    let mut pieces =
        match services.write_about(&console.assistant, actor, (&scope, tenant), id, (what, seen)).await {
            Ok(pieces) => pieces,
            Err(ServiceError::Conflict(message)) => {
                session::notify(session, false, message);
                // A script would follow the redirect, and so use the notice up.
                return Ok(if is_script { HttpResponse::NoContent().finish() } else { see_other(&here) });
            }
            Err(error) => return Err(error.into()),
        };
    if is_script {
        return Ok(HttpResponse::Ok()
            .content_type("text/event-stream")
            // Compressed, it would come in one piece.
            .insert_header((CONTENT_ENCODING, "identity"))
            .streaming(events(pieces)));
    }
    while let Some(piece) = pieces.recv().await {
        match (piece, what) {
            (Piece::Done, Writing::Suggestion) => session::notify(session, true, "Here is a suggestion."),
            (Piece::Done, Writing::Article) => session::notify(session, true, "Here is a draft."),
            (Piece::NotKept, _) => session::notify(session, false, NOT_KEPT),
            // Told by the question itself.
            (Piece::Text(_) | Piece::Failed(_), _) => {}
        }
    }
    Ok(see_other(&here))
}

fn events(
    pieces: mpsc::UnboundedReceiver<Piece>,
) -> impl futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    stream::unfold(pieces, |mut pieces| async move {
        let event = match pieces.recv().await? {
            Piece::Text(text) => serde_json::json!({ "text": text }),
            Piece::Done => serde_json::json!({ "done": true }),
            Piece::Failed(reason) => serde_json::json!({ "failed": reason }),
            Piece::NotKept => serde_json::json!({ "failed": NOT_KEPT }),
        };
        Some((Ok(Bytes::from(format!("data: {event}\n\n"))), pieces))
    })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ArticleForm {
    article: String,
    seen: String,
}

async fn save(
    console: Data<Console>,
    place: Place,
    path: Path<QuestionPath>,
    posted: Posted<ArticleForm>,
) -> Answer {
    place.demand(Action::AnswerQuestions)?;
    let id = QuestionId::parse(&path.id).ok_or(WebError::NotFound)?;
    let (tenant, scope) = (&place.tenant()?.tenant, place.holder.scope);
    let ArticleForm { article, seen } = posted.fields;
    let seen = seen.parse().ok().map(Moment);
    let actor = &place.viewer.actor;
    match console.services.save_article(actor, (&scope, tenant), id, &article, seen).await {
        Ok(()) => {
            session::notify(&place.viewer.session, true, "Article saved.");
            Ok(see_other(&format!("{}/{id}#article", address(&place))))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = show_page(&console, &place, &path.id).await?;
            page.text = article;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).answer()
        }
    }
}

async fn export(console: Data<Console>, place: Place, path: Path<QuestionPath>) -> Answer {
    place.demand(Action::Export)?;
    let id = QuestionId::parse(&path.id).ok_or(WebError::NotFound)?;
    let question = console.services.question(&place.holder.scope, id).await?;
    if question.article.text.is_empty() {
        return Err(WebError::NotFound);
    }
    let name = file_name(&question.article.text);
    Ok(HttpResponse::build(StatusCode::OK)
        .content_type("text/markdown; charset=utf-8")
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")))
        .body(format!("{}\n", question.article.text)))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DecideForm {
    state: String,
}

async fn decide(
    console: Data<Console>,
    place: Place,
    path: Path<QuestionPath>,
    posted: Posted<DecideForm>,
) -> Answer {
    place.demand(Action::AnswerQuestions)?;
    let id = QuestionId::parse(&path.id).ok_or(WebError::NotFound)?;
    let to = QuestionState::parse(&posted.fields.state).ok_or(WebError::BadForm)?;
    let (tenant, scope) = (&place.tenant()?.tenant, place.holder.scope);
    let back = address(&place);
    let (good, text, to_page) =
        match console.services.rule_question(&place.viewer.actor, (&scope, tenant), id, to).await {
            Ok(()) => match to {
                QuestionState::Open => (true, "It is open again.", format!("{back}/{id}")),
                QuestionState::Answered => (true, "Marked as answered.", back),
                QuestionState::Dismissed => (true, "Dismissed.", back),
            },
            Err(ServiceError::Conflict(message)) => (false, message, format!("{back}/{id}")),
            Err(error) => return Err(error.into()),
        };
    session::notify(&place.viewer.session, good, text);
    Ok(see_other(&to_page))
}
