//! Anthropic's API.

use actix_web::http::Method;
use actix_web::web;
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::delivery::Reply;
use super::door::Call;
use super::error::ApiError;
use super::message::compose;
use super::models;
use super::prompt::Prompt;
use super::state::{Hash, State, sha256};
use super::stream::frames;
use crate::domain::clock::SECOND;
use crate::domain::provider_key::Provider;
use crate::domain::usage::TokenUsage;

const ORGANIZATION: &str = "00000000-0000-4000-8000-5a4db0c50000";
const REQUESTS_PER_MINUTE: u64 = 4_000;
const TOKENS_PER_MINUTE: u64 = 2_000_000;
const RESET_AFTER: i64 = 30 * SECOND;

/// Test keys begin with this.
pub const PREFIXES: &[&str] = &["sk-ant-api03-"];

/// Answers a request of Anthropic's dialect.
pub fn answer(state: &State, call: &Call<'_>) -> Reply {
    let request_id = state.id("req");
    let reply = match decide(state, call) {
        Ok(reply) => reply,
        Err(error) => {
            let reply = Reply::json(error.status, &error.body(&request_id));
            match error.retry_after {
                Some(seconds) => rate_limit(reply.with("retry-after", seconds), state, 0, 0),
                None => reply,
            }
        }
    };
    reply.with("request-id", request_id).with("anthropic-organization-id", ORGANIZATION)
}

fn decide(state: &State, call: &Call<'_>) -> Result<Reply, ApiError> {
    let route = Route::of(call).ok_or_else(|| ApiError::not_found("Not found"))?;
    let text =
        call.header("x-api-key").ok_or_else(|| ApiError::authentication("x-api-key header is required"))?;
    let key = sha256(text.as_bytes());
    let behaviour =
        state.behaviour(text, &key, PREFIXES).ok_or_else(|| ApiError::authentication("invalid x-api-key"))?;
    refuse(behaviour.refusal())?;
    check_version(call.header("anthropic-version"))?;
    if call.is_too_large() {
        return Err(ApiError::too_large());
    }
    let json = || call.json.ok_or_else(|| ApiError::invalid("The request body is not valid JSON."));
    let whole = |body: Value| Reply::json(200, &body);
    match route {
        Route::Models => {
            let page =
                web::Query::from_query(call.query).map_err(|error| ApiError::invalid(error.to_string()))?;
            models::list(&page).map(whole)
        }
        Route::Model(id) => models::show(id).map(whole),
        Route::CountTokens => {
            Prompt::to_count(json()?).map(|prompt| whole(json!({ "input_tokens": prompt.tokens() })))
        }
        Route::Messages => {
            let (reply, model, used) = create(state, &key, behaviour, json()?)?;
            state.books.enter(Provider::Anthropic, (&key, text), &model, state.clock.now(), used);
            Ok(reply)
        }
    }
}

enum Route<'a> {
    Messages,
    CountTokens,
    Models,
    Model(&'a str),
}

impl<'a> Route<'a> {
    fn of(call: &Call<'a>) -> Option<Self> {
        let path = call.path;
        match *call.method {
            Method::POST if path == "/v1/messages" => Some(Self::Messages),
            Method::POST if path == "/v1/messages/count_tokens" => Some(Self::CountTokens),
            Method::GET if path == "/v1/models" => Some(Self::Models),
            Method::GET => path.strip_prefix("/v1/models/").map(Self::Model),
            _ => None,
        }
    }
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
pub fn create(
    state: &State,
    key: &Hash,
    behaviour: Behaviour,
    body: &Value,
) -> Result<(Reply, String, TokenUsage), ApiError> {
    let prompt = Prompt::to_create(body)?;
    refuse(behaviour.limit(state.clock.now()))?;
    let behaviour = if prompt.max_tokens == 1 { Behaviour::Ok } else { behaviour };
    refuse(behaviour.failure())?;
    let message = compose(state, key, &prompt, behaviour);
    let used = message.usage.input_tokens + message.usage.output_tokens;
    let reply = if prompt.stream { Reply::events(frames(&message)) } else { Reply::json(200, &message) };
    let left = TOKENS_PER_MINUTE.saturating_sub(used);
    let reply = rate_limit(reply.behaving(behaviour), state, REQUESTS_PER_MINUTE - 1, left);
    Ok((reply, prompt.model.to_owned(), message.usage.tokens()))
}

/// The headers are real, the numbers are not: every request stands alone.
fn rate_limit(reply: Reply, state: &State, requests: u64, tokens: u64) -> Reply {
    let reset = state.clock.now().plus(RESET_AFTER).rfc3339();
    reply
        .with("anthropic-ratelimit-requests-limit", REQUESTS_PER_MINUTE)
        .with("anthropic-ratelimit-requests-remaining", requests)
        .with("anthropic-ratelimit-requests-reset", &reset)
        .with("anthropic-ratelimit-tokens-limit", TOKENS_PER_MINUTE)
        .with("anthropic-ratelimit-tokens-remaining", tokens)
        .with("anthropic-ratelimit-tokens-reset", reset)
}
