//! `OpenAI`'s API, and what speaks like it: Azure under `/openai`, any other server under `/custom/v1`.

use actix_web::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, RATE_LIMIT_SECONDS};
use super::delivery::Reply;
use super::door::Call;
use super::prompt::tokens;
use super::state::{Hash, State, sha256};
use super::text::{THOUGHT, Written, pieces, write};
use crate::domain::price_list::{self, Model};
use crate::domain::provider_key::Provider;
use crate::domain::usage::TokenUsage;

/// Prompts from this many tokens on are cached, in steps of `CACHE_STEP`.
const CACHED_FROM: u64 = 1_024;
const CACHE_STEP: u64 = 128;
const DEFAULT_OUTPUT: u64 = 4_096;

/// Who is spoken to: it decides keys, models and the shape of some errors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Openai,
    Azure,
    Custom,
}

type Refusal = Reply;

pub fn answer(state: &State, call: &Call<'_>) -> Reply {
    reply(state, call, Host::Openai, call.path.trim_start_matches("/v1"), None)
}

pub fn custom(state: &State, call: &Call<'_>) -> Reply {
    reply(state, call, Host::Custom, call.path.trim_start_matches("/custom/v1"), None)
}

/// The v1 API, and deployment URLs, which need an `api-version`.
pub fn azure(state: &State, call: &Call<'_>) -> Reply {
    let path = call.path.trim_start_matches("/openai");
    if let Some(path) = path.strip_prefix("/v1") {
        return reply(state, call, Host::Azure, path, None);
    }
    let version = url::form_urlencoded::parse(call.query.as_bytes()).any(|(name, _)| name == "api-version");
    if !version {
        return error(404, None, "404", "Resource not found");
    }
    match path.strip_prefix("/deployments/").and_then(|rest| rest.split_once('/')) {
        Some((deployment, rest)) => reply(state, call, Host::Azure, &format!("/{rest}"), Some(deployment)),
        None => reply(state, call, Host::Azure, path, None),
    }
}

fn reply(state: &State, call: &Call<'_>, host: Host, path: &str, deployment: Option<&str>) -> Reply {
    let reply = decide(state, call, host, path, deployment).unwrap_or_else(|refusal| refusal);
    let id = if host == Host::Azure { "apim-request-id" } else { "x-request-id" };
    reply
        .with(id, state.id("req"))
        .with("x-ratelimit-limit-requests", 10_000)
        .with("x-ratelimit-remaining-requests", 9_999)
}

fn decide(
    state: &State,
    call: &Call<'_>,
    host: Host,
    path: &str,
    deployment: Option<&str>,
) -> Result<Reply, Refusal> {
    let (text, prefixes): (_, &[&str]) = match host {
        Host::Openai => (call.bearer(), &["sk-proj-", "sk-svcacct-", "sk-"]),
        Host::Custom => (call.bearer(), &[""]),
        Host::Azure => (call.header("api-key"), &[""]),
    };
    let unknown = || match host {
        Host::Azure => error(
            401,
            None,
            "401",
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.",
        ),
        _ => error(
            401,
            Some("invalid_request_error"),
            "invalid_api_key",
            "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
        ),
    };
    let text = text.filter(|text| !text.starts_with("sk-ant-")).ok_or_else(unknown)?;
    let key = sha256(text.as_bytes());
    let behaviour = state.behaviour(text, &key, prefixes).ok_or_else(unknown)?;
    match behaviour {
        Behaviour::Revoked => return Err(unknown()),
        Behaviour::Forbidden => {
            let told = "Your access was terminated due to violation of our policies.";
            return Err(error(403, Some("access_terminated"), "account_deactivated", told));
        }
        _ => {}
    }
    if call.is_too_large() {
        return Err(error(413, Some("invalid_request_error"), "request_too_large", "Request is too large."));
    }
    let invalid = |message: &str| error(400, Some("invalid_request_error"), "invalid_value", message);
    let json = || {
        call.json
            .filter(|json| json.is_object())
            .ok_or_else(|| invalid("We could not parse the JSON body of your request."))
    };
    match (call.method, path) {
        (&Method::GET, "/models") => Ok(Reply::json(200, &list())),
        (&Method::GET, path) => {
            let id = path.strip_prefix("/models/").unwrap_or_default();
            find(host, id).map(|_| Reply::json(200, &info(id)))
        }
        (&Method::POST, "/chat/completions" | "/responses" | "/embeddings") => {
            let body = json()?;
            let model = deployment.or(body["model"].as_str());
            let model = model.ok_or_else(|| invalid("you must provide a model parameter"))?;
            let ask = Ask::read(host, model, body, &invalid)?;
            limit(host, behaviour)?;
            let behaviour = if ask.max_output == 1 { Behaviour::Ok } else { behaviour };
            fail(behaviour)?;
            let answered = ask.answer(state, &key, behaviour, path != "/embeddings");
            let reply = match path {
                "/chat/completions" => chat(state, &ask, &answered),
                "/responses" => response(state, &ask, &answered),
                _ => embeddings(&ask),
            };
            if host == Host::Openai {
                let used = answered.tokens();
                state.books.enter(Provider::Openai, (&key, text), model, state.clock.now(), used);
            }
            Ok(reply.behaving(behaviour))
        }
        _ => Err(error(404, Some("invalid_request_error"), "404", "Resource not found")),
    }
}

fn error(status: u16, kind: Option<&str>, code: &str, message: &str) -> Refusal {
    let error = match kind {
        Some(kind) => json!({ "message": message, "type": kind, "param": null, "code": code }),
        // Azure's gateway has no more to say.
        None => json!({ "code": code, "message": message }),
    };
    Reply::json(status, &json!({ "error": error }))
}

/// Limits hold even for the one-token probe.
fn limit(host: Host, behaviour: Behaviour) -> Result<(), Refusal> {
    let quota = |code, message: &str| Err(error(429, Some("insufficient_quota"), code, message));
    match behaviour {
        Behaviour::NoCredit => {
            quota("credit_balance_exhausted", "Your organization has no API credits remaining.")
        }
        Behaviour::SpendLimit => {
            quota("project_spend_limit_exceeded", "Your project has reached its spend limit.")
        }
        Behaviour::Enforced => {
            quota("organization_usage_limit_exceeded", "Your organization has reached its usage limit.")
        }
        Behaviour::RateLimited => {
            let refusal = match host {
                Host::Azure => {
                    error(429, None, "429", "Requests to this deployment have exceeded its rate limit.")
                }
                _ => error(429, Some("requests"), "rate_limit_exceeded", "Rate limit reached for requests."),
            };
            Err(refusal.with("retry-after", RATE_LIMIT_SECONDS))
        }
        _ => Ok(()),
    }
}

fn fail(behaviour: Behaviour) -> Result<(), Refusal> {
    match behaviour {
        Behaviour::Overloaded => {
            Err(error(503, Some("server_error"), "overloaded", "The engine is currently overloaded."))
        }
        Behaviour::ServerError => {
            Err(error(500, Some("server_error"), "server_error", "The server had an error."))
        }
        _ => Ok(()),
    }
}

fn listed() -> impl Iterator<Item = &'static Model> {
    price_list::models().iter().filter(|model| model.maker() == Provider::Openai)
}

fn find(host: Host, id: &str) -> Result<&'static Model, Refusal> {
    let known =
        price_list::find(id).filter(|model| host == Host::Custom || model.maker() == Provider::Openai);
    // A server of one's own has whatever models it has.
    let known = known.or_else(|| listed().next().filter(|_| host == Host::Custom));
    known.ok_or_else(|| {
        if host == Host::Azure {
            let told = "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again.";
            return error(404, None, "DeploymentNotFound", told);
        }
        let message = format!("The model `{id}` does not exist or you do not have access to it.");
        error(404, Some("invalid_request_error"), "model_not_found", &message)
    })
}

fn info(id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": 1_767_225_600, "owned_by": "openai" })
}

fn list() -> Value {
    let models: Vec<Value> = listed().map(|model| info(&model.id)).collect();
    json!({ "object": "list", "data": models })
}

/// A request body, reduced to what an answer depends on.
struct Ask<'a> {
    model: &'a str,
    listed: &'static Model,
    text: String,
    question: String,
    inputs: Vec<String>,
    max_output: u64,
    stream: bool,
    include_usage: bool,
    thinks: bool,
    searches: bool,
    service_tier: &'a str,
    base64: bool,
}

impl<'a> Ask<'a> {
    fn read(
        host: Host,
        model: &'a str,
        body: &'a Value,
        invalid: &dyn Fn(&str) -> Refusal,
    ) -> Result<Self, Refusal> {
        let listed = find(host, model)?;
        let turns = [&body["messages"], &body["input"]].into_iter().find(|turns| !turns.is_null());
        let turns = turns.ok_or_else(|| invalid("Missing required parameter: 'messages' or 'input'."))?;
        let mut texts = vec![text_of(&body["instructions"])];
        let mut inputs = Vec::new();
        match turns {
            Value::Array(turns) if !turns.is_empty() => inputs.extend(turns.iter().map(text_of)),
            Value::String(text) => inputs.push(text.clone()),
            _ => return Err(invalid("Expected a string or a list of at least one item.")),
        }
        texts.extend(inputs.iter().cloned());
        let asked = ["max_completion_tokens", "max_output_tokens", "max_tokens"];
        let max_output = asked.iter().find_map(|name| body[*name].as_u64());
        let effort = body["reasoning_effort"].as_str().or(body["reasoning"]["effort"].as_str());
        let tools = body["tools"].as_array();
        Ok(Self {
            model,
            listed,
            text: texts.concat(),
            question: inputs.last().cloned().unwrap_or_default(),
            inputs,
            max_output: max_output.unwrap_or(DEFAULT_OUTPUT).min(listed.max_output.max(1)),
            stream: body["stream"].as_bool().unwrap_or(false),
            include_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            thinks: effort.is_some_and(|effort| effort != "none"),
            searches: tools.is_some_and(|tools| tools.iter().any(|tool| tool["type"] == "web_search")),
            service_tier: match body["service_tier"].as_str() {
                Some(tier @ ("priority" | "flex")) => tier,
                _ => "default",
            },
            base64: body["encoding_format"] == "base64",
        })
    }

    fn input_tokens(&self) -> u64 {
        tokens(self.text.len()).max(1)
    }

    /// Tokens of the prompt that this key has sent before.
    fn cached_tokens(&self, state: &State, key: &Hash) -> u64 {
        let all = self.input_tokens();
        if all >= CACHED_FROM && state.recall(key, &self.text) { all / CACHE_STEP * CACHE_STEP } else { 0 }
    }

    /// Tokens of thought, what is said, and why it ends; embeddings say nothing.
    fn answer(&self, state: &State, key: &Hash, behaviour: Behaviour, speaks: bool) -> Answered {
        let thought = if self.thinks && speaks {
            tokens(THOUGHT.len()).min(self.max_output.saturating_sub(1))
        } else {
            0
        };
        let written = if speaks {
            write(&self.question, &self.listed.name, behaviour, self.max_output - thought)
        } else {
            Written::default()
        };
        let (input, cached) = (self.input_tokens(), if speaks { self.cached_tokens(state, key) } else { 0 });
        Answered { input, cached, thought, written }
    }
}

/// The text of a message, an item, or a part of one.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect(),
        Value::Object(part) => {
            ["text", "content"].iter().find_map(|name| part.get(*name)).map(text_of).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// What was written to a request, and what it used.
struct Answered {
    input: u64,
    /// Of the input, read from cache.
    cached: u64,
    thought: u64,
    written: Written,
}

impl Answered {
    fn tokens(&self) -> TokenUsage {
        TokenUsage {
            input: self.input - self.cached.min(self.input),
            cache_read: self.cached,
            output: self.thought + self.written.spent,
            ..TokenUsage::default()
        }
    }
}

fn chat(state: &State, ask: &Ask<'_>, answered: &Answered) -> Reply {
    let Answered { input, cached, thought, written } = answered;
    let output = thought + written.spent;
    let usage = json!({
        "prompt_tokens": input,
        "completion_tokens": output,
        "total_tokens": input + output,
        "prompt_tokens_details": { "cached_tokens": cached, "audio_tokens": 0 },
        "completion_tokens_details": {
            "reasoning_tokens": thought,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    });
    let (id, created) = (state.id("chatcmpl"), state.clock.now().0 / 1_000_000);
    let finish = if written.cut { "length" } else { "stop" };
    if !ask.stream {
        return Reply::json(
            200,
            &json!({
                "id": id, "object": "chat.completion", "created": created, "model": ask.model,
                "choices": [{
                    "index": 0,
                    "message": { "role": "assistant", "content": written.text, "refusal": null, "annotations": [] },
                    "logprobs": null,
                    "finish_reason": finish,
                }],
                "usage": usage, "service_tier": ask.service_tier, "system_fingerprint": null,
            }),
        );
    }
    let chunk = |choices: Value, usage: Option<&Value>| {
        let mut chunk = json!({
            "id": id, "object": "chat.completion.chunk", "created": created, "model": ask.model,
            "service_tier": ask.service_tier, "system_fingerprint": null, "choices": choices,
        });
        if ask.include_usage {
            chunk["usage"] = usage.cloned().unwrap_or_default();
        }
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let choice = |delta: Value, finish: Option<&str>| json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
    let mut frames =
        vec![chunk(choice(json!({ "role": "assistant", "content": "", "refusal": null }), None), None)];
    frames.extend(pieces(&written.text).map(|piece| chunk(choice(json!({ "content": piece }), None), None)));
    frames.push(chunk(choice(json!({}), Some(finish)), None));
    if ask.include_usage {
        frames.push(chunk(json!([]), Some(&usage)));
    }
    frames.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Reply::events(frames)
}

fn response(state: &State, ask: &Ask<'_>, answered: &Answered) -> Reply {
    let Answered { input, cached, thought, written } = answered;
    let output = thought + written.spent;
    let part = |text: &str| json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
    let message_id = state.id("msg");
    let message = |status: &str, content: Vec<Value>| json!({ "id": message_id, "type": "message", "status": status, "role": "assistant", "content": content });
    let search = json!({
        "id": state.id("ws"), "type": "web_search_call", "status": "completed",
        "action": { "type": "search", "query": ask.question, "queries": [ask.question] },
    });
    let mut items: Vec<Value> = if ask.searches { vec![search] } else { Vec::new() };
    items.push(message("completed", vec![part(&written.text)]));
    let base = json!({
        "id": state.id("resp"), "object": "response", "created_at": state.clock.now().0 / 1_000_000,
        "model": ask.model, "service_tier": ask.service_tier, "error": null, "incomplete_details": null,
        "instructions": null, "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0,
        "tool_choice": "auto", "tools": [], "top_p": 1.0, "status": "in_progress", "output": [], "usage": null,
    });
    let mut done = base.clone();
    done["status"] = json!(if written.cut { "incomplete" } else { "completed" });
    if written.cut {
        done["incomplete_details"] = json!({ "reason": "max_output_tokens" });
    }
    done["output"] = json!(items);
    done["usage"] = json!({
        "input_tokens": input,
        "input_tokens_details": { "cached_tokens": cached, "cache_write_tokens": 0 },
        "output_tokens": output,
        "output_tokens_details": { "reasoning_tokens": thought },
        "total_tokens": input + output,
    });
    if !ask.stream {
        return Reply::json(200, &done);
    }
    let mut frames = Vec::new();
    let mut event = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(frames.len());
        frames.push(Bytes::from(format!("event: {kind}\ndata: {data}\n\n")));
    };
    event("response.created", json!({ "response": base }));
    event("response.in_progress", json!({ "response": base }));
    let last = items.len() - 1;
    for (index, item) in items.iter().enumerate().take(last) {
        event("response.output_item.added", json!({ "output_index": index, "item": item }));
        event("response.output_item.done", json!({ "output_index": index, "item": item }));
    }
    let at = json!({ "output_index": last, "item_id": message_id, "content_index": 0 });
    let with = |fields: Value| {
        let mut all = at.clone();
        if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
            all.extend(fields);
        }
        all
    };
    event(
        "response.output_item.added",
        json!({ "output_index": last, "item": message("in_progress", Vec::new()) }),
    );
    event("response.content_part.added", with(json!({ "part": part("") })));
    for piece in pieces(&written.text) {
        event("response.output_text.delta", with(json!({ "delta": piece, "logprobs": [] })));
    }
    event("response.output_text.done", with(json!({ "text": written.text, "logprobs": [] })));
    event("response.content_part.done", with(json!({ "part": part(&written.text) })));
    event("response.output_item.done", json!({ "output_index": last, "item": items[last] }));
    let end = if written.cut { "response.incomplete" } else { "response.completed" };
    event(end, json!({ "response": done }));
    Reply::events(frames)
}

/// Eight numbers for each text, made from its hash.
fn embeddings(ask: &Ask<'_>) -> Reply {
    use base64::Engine as _;
    let vector = |text: &str| -> Vec<f32> {
        sha256(text.as_bytes())[..8].iter().map(|byte| f32::from(*byte) / 255.0 - 0.5).collect()
    };
    let data: Vec<Value> = (0..)
        .zip(&ask.inputs)
        .map(|(index, text): (u64, _)| {
            let numbers = vector(text);
            let embedding = if ask.base64 {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                json!(base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                json!(numbers)
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let used = ask.input_tokens();
    Reply::json(
        200,
        &json!({
            "object": "list", "data": data, "model": ask.model,
            "usage": { "prompt_tokens": used, "total_tokens": used },
        }),
    )
}
