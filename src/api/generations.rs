//! `/api/v1/generations`: posts to greet, threads to sum up and replies to draft go in; what people have
//! approved comes out.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::usage::query;
use super::{Api, Asked, read, write};
use crate::access::scope::Scope;
use crate::domain::generation::{Generation, GenerationState};
use crate::domain::ids::GenerationId;
use crate::services::generations::NewGeneration;
use crate::services::tokens::TokenScope;
use crate::services::{Problems, ServiceError};

const USUAL_PAGE: i64 = 50;
const LARGEST_PAGE: i64 = 200;

/// Something to write.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateGeneration {
    /// `greeting`, `summary` or `reply`.
    #[schema(value_type = GenerationKindName)]
    kind: String,
    /// Your own name for it. Sent again with the same one, it stays one.
    #[serde(default)]
    #[schema(example = "post-4711", min_length = 1, max_length = 128, pattern = "^[!-~]+$")]
    reference: Option<String>,
    #[serde(default)]
    #[schema(example = "Sourdough that does not rise", max_length = 200)]
    title: String,
    /// The post or thread, at most 64 KiB.
    #[schema(min_length = 1, max_length = 65536)]
    text: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "stands for the word in the description")]
pub enum GenerationKindName {
    Greeting,
    Summary,
    Reply,
}

#[derive(Serialize, ToSchema)]
pub struct GenerationView {
    id: String,
    kind: &'static str,
    /// `queued`, `running`, `waiting`, `approved`, `rejected` or `failed`.
    #[schema(example = "approved")]
    state: &'static str,
    reference: Option<String>,
    title: String,
    /// What the model wrote.
    draft: Option<String>,
    /// What is to be posted, once it is approved.
    text: Option<String>,
    /// Why it waits for its turn, or has failed.
    reason: Option<String>,
    /// The request that wrote it, as usage has it.
    request_id: Option<String>,
    /// The key that it ran on, and its version.
    #[schema(example = "production@2")]
    key: Option<String>,
    created_at: String,
    decided_at: Option<String>,
}

impl GenerationView {
    fn of(one: Generation) -> Self {
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            id: one.id.to_string(),
            kind: one.kind.as_str(),
            state: one.state.as_str(),
            reference: one.reference,
            title: one.title,
            draft: filled(one.draft),
            text: filled(one.text),
            reason: filled(one.reason),
            request_id: one.request.map(|request| request.to_string()),
            key: filled(one.key),
            created_at: one.created_at.rfc3339(),
            decided_at: one.decided_at.map(crate::domain::clock::Moment::rfc3339),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Generations {
    data: Vec<GenerationView>,
    /// For the next page; absent on the last one.
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GenerationsQuery {
    /// Only those in this state.
    #[param(example = "approved")]
    state: Option<String>,
    /// Items on a page.
    #[param(minimum = 1, maximum = 200, example = 50)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    #[param(pattern = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    cursor: Option<String>,
}

/// Puts something into the queue. It is written when its turn comes, and waits for a person then.
#[utoipa::path(post,
    operation_id = "createGeneration", path = "/api/v1/generations", tag = "generations", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader), request_body = CreateGeneration,
    responses((status = 201, description = "It is in the queue", body = GenerationView),
        (status = 200, description = "It was there already", body = GenerationView),
        (status = "default", response = super::docs::Failed)))]
pub async fn create(api: web::Data<Api>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    write(api, request, payload, TokenScope::Gateway, async |asked, body| {
        let caller = asked.caller().await?;
        let form: CreateGeneration = read(&asked.request, body)?;
        let new =
            NewGeneration { kind: form.kind, reference: form.reference, title: form.title, text: form.text };
        let (one, is_new) = asked.services().queue_generation(caller.tenant, new).await?;
        let place = format!("/api/v1/generations/{}", one.id);
        let mut answer = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
        Ok(answer.insert_header(("location", place)).json(GenerationView::of(one)))
    })
    .await
}

/// Lists what is in the queue and what came of it, newest first.
#[utoipa::path(get,
    operation_id = "listGenerations", path = "/api/v1/generations", tag = "generations", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, GenerationsQuery),
    responses((status = 200, description = "Here they are", body = Generations), (status = "default", response = super::docs::Failed)))]
pub async fn list(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::Gateway).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let query: GenerationsQuery = query(&asked.request)?;
        let (states, before, limit) = judge(&query)?;
        let scope = Scope::of_token(caller.tenant);
        let (mut found, _) = asked.services().list_generations(&scope, &states, before, limit + 1).await?;
        let more = i64::try_from(found.len()).unwrap_or(i64::MAX) > limit;
        if more {
            found.pop();
        }
        let next_cursor = found.last().filter(|_| more).map(|last| last.id.to_string());
        let data = found.into_iter().map(GenerationView::of).collect();
        Ok(HttpResponse::Ok().json(Generations { data, next_cursor }))
    };
    asked.answer(work.await)
}

type Judged = (Vec<GenerationState>, Option<GenerationId>, i64);

fn judge(query: &GenerationsQuery) -> Result<Judged, ServiceError> {
    let mut problems = Problems::default();
    let states = match query.state.as_deref().map(GenerationState::parse) {
        None => GenerationState::ALL.to_vec(),
        Some(Some(state)) => vec![state],
        Some(None) => {
            problems.add("state", "Use queued, running, waiting, approved, rejected or failed.");
            Vec::new()
        }
    };
    let before = query.cursor.as_deref().map(GenerationId::parse);
    if before == Some(None) {
        problems.add("cursor", "Use the next_cursor of the page before.");
    }
    let limit = query.limit.unwrap_or(USUAL_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        problems.add("limit", "Use a number from 1 to 200.");
    }
    problems.or_ok()?;
    Ok((states, before.flatten(), limit))
}

/// Shows one.
#[utoipa::path(get,
    operation_id = "getGeneration", path = "/api/v1/generations/{id}", tag = "generations", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, ("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "Here it is", body = GenerationView), (status = "default", response = super::docs::Failed)))]
pub async fn show(api: web::Data<Api>, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::Gateway).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let id = GenerationId::parse(&id).ok_or(ServiceError::NotFound)?;
        let one = asked.services().generation(&Scope::of_token(caller.tenant), id).await?;
        Ok(HttpResponse::Ok().json(GenerationView::of(one)))
    };
    asked.answer(work.await)
}
