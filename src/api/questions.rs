//! `/api/v1/questions`: what the product's bot could not answer goes in; what people made of it comes out.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::usage::query;
use super::{Api, Asked, read, write};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::QuestionId;
use crate::domain::question::{Question, QuestionState};
use crate::services::questions::NewQuestion;
use crate::services::tokens::TokenScope;
use crate::services::{Problems, ServiceError};

const USUAL_PAGE: i64 = 50;
const LARGEST_PAGE: i64 = 200;

/// A question that was not answered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateQuestion {
    /// At most 4 KiB.
    #[schema(example = "Does the webhook retry?", min_length = 1, max_length = 4096)]
    text: String,
    /// Your own name for it. Sent again with the same one, it stays one, and `asked` may grow.
    #[serde(default)]
    #[schema(example = "intent-4711", min_length = 1, max_length = 128, pattern = "^[!-~]+$")]
    reference: Option<String>,
    /// What else is known: the page that it was asked on, what the bot said. At most 16 KiB.
    #[serde(default)]
    #[schema(max_length = 16384)]
    context: String,
    /// How often it was asked so far.
    #[serde(default = "once")]
    #[schema(minimum = 1, maximum = 1_000_000_000, default = 1)]
    asked: i64,
}

fn once() -> i64 {
    1
}

#[derive(Serialize, ToSchema)]
pub struct QuestionView {
    id: String,
    /// `open`, `answered` or `dismissed`.
    #[schema(example = "open")]
    state: &'static str,
    reference: Option<String>,
    text: String,
    context: Option<String>,
    asked: i64,
    /// What a model has suggested.
    suggestion: Option<String>,
    /// The article for the knowledge base, in Markdown.
    article: Option<String>,
    created_at: String,
    decided_at: Option<String>,
}

impl QuestionView {
    fn of(one: Question) -> Self {
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            id: one.id.to_string(),
            state: one.state.as_str(),
            reference: one.reference,
            text: one.text,
            context: filled(one.context),
            asked: one.asked,
            suggestion: filled(one.suggestion.text),
            article: filled(one.article.text),
            created_at: one.created_at.rfc3339(),
            decided_at: one.decided_at.map(Moment::rfc3339),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Questions {
    data: Vec<QuestionView>,
    /// For the next page; absent on the last one.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QuestionsQuery {
    /// Those in this state; the open ones where none is named.
    #[param(example = "answered")]
    state: Option<String>,
    /// Questions on a page.
    #[param(minimum = 1, maximum = 200, example = 50)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    #[param(pattern = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    cursor: Option<String>,
}

/// Takes a question in. It waits on Activity → Unanswered questions.
#[utoipa::path(post,
    operation_id = "createQuestion", path = "/api/v1/questions", tag = "questions", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader), request_body = CreateQuestion,
    responses((status = 201, description = "It is kept", body = QuestionView),
        (status = 200, description = "It was known already", body = QuestionView),
        (status = "default", response = super::docs::Failed)))]
pub async fn create(api: web::Data<Api>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    write(api, request, payload, TokenScope::Gateway, async |asked, body| {
        let caller = asked.caller().await?;
        let CreateQuestion { text, reference, context, asked: times } = read(&asked.request, body)?;
        let new = NewQuestion { reference, text, context, asked: times };
        let kept = asked.services().add_questions(caller.tenant, vec![new]).await?;
        let (one, is_new) = kept.into_iter().next().ok_or(ServiceError::NotFound)?;
        let place = format!("/api/v1/questions/{}", one.id);
        let mut answer = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
        Ok(answer.insert_header(("location", place)).json(QuestionView::of(one)))
    })
    .await
}

/// Lists questions, those asked most first.
#[utoipa::path(get,
    operation_id = "listQuestions", path = "/api/v1/questions", tag = "questions", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, QuestionsQuery),
    responses((status = 200, description = "Here they are", body = Questions), (status = "default", response = super::docs::Failed)))]
pub async fn list(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::Gateway).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let query: QuestionsQuery = query(&asked.request)?;
        let (state, after, limit) = judge(&query)?;
        let scope = Scope::of_token(caller.tenant);
        let (mut found, _) = asked.services().list_questions(&scope, state, after, limit + 1).await?;
        let more = i64::try_from(found.len()).unwrap_or(i64::MAX) > limit;
        if more {
            found.pop();
        }
        let next_cursor = found.last().filter(|_| more).map(|last| last.id.to_string());
        let data = found.into_iter().map(QuestionView::of).collect();
        Ok(HttpResponse::Ok().json(Questions { data, next_cursor }))
    };
    asked.answer(work.await)
}

type Judged = (QuestionState, Option<QuestionId>, i64);

fn judge(query: &QuestionsQuery) -> Result<Judged, ServiceError> {
    let mut problems = Problems::default();
    let state = query.state.as_deref().map_or(Some(QuestionState::Open), QuestionState::parse);
    if state.is_none() {
        problems.add("state", "Use open, answered or dismissed.");
    }
    let after = query.cursor.as_deref().map(QuestionId::parse);
    if after == Some(None) {
        problems.add("cursor", "Use the next_cursor of the page before.");
    }
    let limit = query.limit.unwrap_or(USUAL_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        problems.add("limit", "Use a number from 1 to 200.");
    }
    problems.or_ok()?;
    Ok((state.unwrap_or(QuestionState::Open), after.flatten(), limit))
}

/// Shows one.
#[utoipa::path(get,
    operation_id = "getQuestion", path = "/api/v1/questions/{id}", tag = "questions", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, ("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "Here it is", body = QuestionView), (status = "default", response = super::docs::Failed)))]
pub async fn show(api: web::Data<Api>, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::Gateway).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let id = QuestionId::parse(&id).ok_or(ServiceError::NotFound)?;
        let one = asked.services().question(&Scope::of_token(caller.tenant), id).await?;
        Ok(HttpResponse::Ok().json(QuestionView::of(one)))
    };
    asked.answer(work.await)
}
