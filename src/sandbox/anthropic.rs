//! Anthropic's API: one door for every request, from the bytes that arrive to the answer's head.
//!
//! The answer is decided first and written down; only then is it sent, with all the delay and
//! damage that the key asks for.

use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::delivery;
use super::error::ApiError;
use super::journal::Record;
use super::message::{Message, compose};
use super::models;
use super::prompt::Prompt;
use super::state::{Hash, State};
use crate::domain::clock::SECOND;

const ORGANIZATION: &str = "00000000-0000-4000-8000-5a4db0c50000";
const LARGEST_BODY: usize = 32 * 1024 * 1024;
const REQUESTS_PER_MINUTE: u64 = 4_000;
const TOKENS_PER_MINUTE: u64 = 2_000_000;
const RESET_AFTER: i64 = 30 * SECOND;

/// Answers whatever is not a control of the sandbox's own.
pub async fn exchange(request: HttpRequest, payload: web::Payload, state: web::Data<State>) -> HttpResponse {
    let Some(body) = receive(payload).await else {
        return HttpResponse::BadRequest().finish();
    };
    let mut record = Record::new(state.clock.now(), &request, &body.kept, body.arrived);
    let json: Option<Value> = serde_json::from_slice(&body.kept).ok();
    if let Some(json) = &json {
        record.model = json["model"].as_str().map(str::to_owned);
        record.stream = json["stream"].as_bool().unwrap_or(false);
    }
    let answer = decide(&state, &request, record.key_hash(), &body, json.as_ref());
    record.status = status(&answer);
    state.journal.write(record);
    respond(&state, answer).await
}

struct Body {
    /// The beginning, up to the limit.
    kept: Bytes,
    arrived: usize,
}

/// Reads a body to its end even when it is too large, so that the client is listening when the
/// refusal comes. `None` if the client gave up.
async fn receive(mut payload: web::Payload) -> Option<Body> {
    let mut kept = BytesMut::new();
    let mut arrived = 0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.ok()?;
        arrived += chunk.len();
        if arrived <= LARGEST_BODY {
            kept.extend_from_slice(&chunk);
        }
    }
    Some(Body { kept: kept.freeze(), arrived })
}

enum Answer {
    Json(Value),
    Message { message: Box<Message>, stream: bool, behaviour: Behaviour },
}

fn decide(
    state: &State,
    request: &HttpRequest,
    key: Option<Hash>,
    body: &Body,
    json: Option<&Value>,
) -> Result<Answer, ApiError> {
    let route = Route::of(request).ok_or_else(|| ApiError::not_found("Not found"))?;
    let key = key.ok_or_else(|| ApiError::authentication("x-api-key header is required"))?;
    let behaviour = header(request, "x-api-key")
        .and_then(|text| state.behaviour(text, &key))
        .ok_or_else(|| ApiError::authentication("invalid x-api-key"))?;
    refuse(behaviour.refusal())?;
    check_version(header(request, "anthropic-version"))?;
    if body.arrived > LARGEST_BODY {
        return Err(ApiError::too_large());
    }
    let json = || json.ok_or_else(|| ApiError::invalid("The request body is not valid JSON."));
    match route {
        Route::Models => {
            let page = web::Query::from_query(request.query_string())
                .map_err(|error| ApiError::invalid(error.to_string()))?;
            models::list(&page).map(Answer::Json)
        }
        Route::Model(id) => models::show(id).map(Answer::Json),
        Route::CountTokens => {
            Prompt::to_count(json()?).map(|prompt| Answer::Json(json!({ "input_tokens": prompt.tokens() })))
        }
        Route::Messages => create(state, &key, behaviour, json()?),
    }
}

enum Route<'a> {
    Messages,
    CountTokens,
    Models,
    Model(&'a str),
}

impl<'a> Route<'a> {
    fn of(request: &'a HttpRequest) -> Option<Self> {
        let path = request.path();
        match *request.method() {
            Method::POST if path == "/v1/messages" => Some(Self::Messages),
            Method::POST if path == "/v1/messages/count_tokens" => Some(Self::CountTokens),
            Method::GET if path == "/v1/models" => Some(Self::Models),
            Method::GET => path.strip_prefix("/v1/models/").map(Self::Model),
            _ => None,
        }
    }
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn refuse(refusal: Option<ApiError>) -> Result<(), ApiError> {
    refusal.map_or(Ok(()), Err)
}

/// Any date is a version: the official libraries send a newer one each year, and the wire format
/// spoken here is the same in all.
fn check_version(version: Option<&str>) -> Result<(), ApiError> {
    let version = version.ok_or_else(|| ApiError::invalid("anthropic-version: header is required"))?;
    match version.parse::<jiff::civil::Date>() {
        Ok(_) => Ok(()),
        Err(_) => Err(ApiError::invalid(format!("anthropic-version: \"{version}\" is not a valid version"))),
    }
}

/// Limits hold even for the one-token probe, as the provider's do. Faults spare it, so that such a
/// key can be verified and stored, and fails when it is used.
fn create(state: &State, key: &Hash, behaviour: Behaviour, body: &Value) -> Result<Answer, ApiError> {
    let prompt = Prompt::to_create(body)?;
    refuse(behaviour.limit(state.clock.now()))?;
    let behaviour = if prompt.max_tokens == 1 { Behaviour::Ok } else { behaviour };
    refuse(behaviour.failure())?;
    let message = Box::new(compose(state, key, &prompt, behaviour));
    Ok(Answer::Message { message, stream: prompt.stream, behaviour })
}

fn status(answer: &Result<Answer, ApiError>) -> Option<u16> {
    match answer {
        Ok(Answer::Message { behaviour: Behaviour::Hang, .. }) => None,
        Ok(_) => Some(200),
        Err(error) => Some(error.status),
    }
}

async fn respond(state: &State, answer: Result<Answer, ApiError>) -> HttpResponse {
    let request_id = state.id("req");
    let status = answer.as_ref().map_or_else(|error| error.status, |_| 200);
    let mut head =
        HttpResponseBuilder::new(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    head.insert_header(("request-id", request_id.as_str()))
        .insert_header(("anthropic-organization-id", ORGANIZATION));
    match answer {
        Ok(Answer::Json(body)) => head.json(body),
        Ok(Answer::Message { message, stream, behaviour }) => {
            let used = message.usage.input_tokens + message.usage.output_tokens;
            rate_limit(&mut head, state, REQUESTS_PER_MINUTE - 1, TOKENS_PER_MINUTE.saturating_sub(used));
            delivery::send(head, &message, stream, behaviour).await
        }
        Err(error) => {
            if let Some(seconds) = error.retry_after {
                head.insert_header(("retry-after", seconds.to_string()));
                rate_limit(&mut head, state, 0, 0);
            }
            head.json(error.body(&request_id))
        }
    }
}

/// The headers are real, the numbers are not: every request stands alone.
fn rate_limit(head: &mut HttpResponseBuilder, state: &State, requests: u64, tokens: u64) {
    let reset = state.clock.now().plus(RESET_AFTER).rfc3339();
    head.insert_header(("anthropic-ratelimit-requests-limit", REQUESTS_PER_MINUTE))
        .insert_header(("anthropic-ratelimit-requests-remaining", requests))
        .insert_header(("anthropic-ratelimit-requests-reset", reset.as_str()))
        .insert_header(("anthropic-ratelimit-tokens-limit", TOKENS_PER_MINUTE))
        .insert_header(("anthropic-ratelimit-tokens-remaining", tokens))
        .insert_header(("anthropic-ratelimit-tokens-reset", reset));
}
