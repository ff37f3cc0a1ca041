//! One door for every request of every dialect, from the bytes that arrive to the answer.
//!
//! The answer is decided first and written down; only then is it sent, with all the delay and
//! damage that the key asks for.

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde_json::Value;

use super::delivery::{self, Reply};
use super::journal::Record;
use super::state::State;
use super::{anthropic, books, gemini, google, openai};

const LARGEST_BODY: usize = 32 * 1024 * 1024;

/// A request as the dialects see it.
pub struct Call<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub query: &'a str,
    headers: &'a HeaderMap,
    pub json: Option<&'a Value>,
    body: &'a Bytes,
    arrived: usize,
}

impl<'a> Call<'a> {
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The token of `Authorization: Bearer`.
    pub fn bearer(&self) -> Option<&'a str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    pub fn is_too_large(&self) -> bool {
        self.arrived > LARGEST_BODY
    }

    /// A form's body.
    pub fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(self.body).into_owned().collect()
    }
}

/// Answers whatever is not a control of the sandbox's own.
pub async fn exchange(request: HttpRequest, payload: web::Payload, state: web::Data<State>) -> HttpResponse {
    let Some((kept, arrived)) = receive(payload).await else {
        return HttpResponse::BadRequest().finish();
    };
    let mut record = Record::new(state.clock.now(), &request, &kept, arrived);
    let json: Option<Value> = serde_json::from_slice(&kept).ok();
    if let Some(json) = &json {
        record.model = json["model"].as_str().map(str::to_owned);
        record.stream = json["stream"].as_bool().unwrap_or(false);
    }
    if let Some((model, action)) = gemini::model_in(request.path()) {
        record.model = Some(model.to_owned());
        record.stream = action.starts_with("stream");
    }
    let call = Call {
        method: request.method(),
        path: request.path(),
        query: request.query_string(),
        headers: request.headers(),
        json: json.as_ref(),
        body: &kept,
        arrived,
    };
    let reply = answer(&state, &call);
    record.status = reply.told();
    state.journal.write(record);
    delivery::send(reply).await
}

fn answer(state: &State, call: &Call<'_>) -> Reply {
    match call.path {
        "/token" => google::token(state, call),
        path if books::is_admin(path) => books::answer(state, call),
        path if google::is_vertex(path) => google::answer(state, call),
        path if path.starts_with("/openai/") => openai::azure(state, call),
        path if path.starts_with("/custom/v1/") => openai::custom(state, call),
        "/v1/chat/completions" | "/v1/responses" | "/v1/embeddings" => openai::answer(state, call),
        path if path.starts_with("/v1beta/") || gemini::model_in(path).is_some() => {
            gemini::answer(state, call)
        }
        path if path.starts_with("/v1/models") && call.header("anthropic-version").is_none() => {
            if call.header("x-goog-api-key").is_some() {
                gemini::answer(state, call)
            } else if call.header("x-api-key").is_some() {
                anthropic::answer(state, call)
            } else {
                openai::answer(state, call)
            }
        }
        _ => anthropic::answer(state, call),
    }
}

/// Reads a body to its end even when it is too large, so that the client is listening when the
/// refusal comes: its beginning, and how much of it arrived. `None` if the client gave up.
async fn receive(mut payload: web::Payload) -> Option<(Bytes, usize)> {
    let mut kept = BytesMut::new();
    let mut arrived = 0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.ok()?;
        arrived += chunk.len();
        if arrived <= LARGEST_BODY {
            kept.extend_from_slice(&chunk);
        }
    }
    Some((kept.freeze(), arrived))
}
