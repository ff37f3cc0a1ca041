//! The Gemini API, as Google AI Studio has it; Vertex AI gives the same answers.

use actix_web::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, RATE_LIMIT_SECONDS};
use super::delivery::Reply;
use super::door::Call;
use super::prompt::tokens;
use super::state::{Hash, State, sha256};
use super::text::{THOUGHT, pieces, write};
use crate::domain::price_list::{self, Model};
use crate::domain::provider_key::Provider;

const PREFIXES: &[&str] = &["AQ.", "AIza"];
/// Prompts from this many tokens on are cached implicitly.
const CACHED_FROM: u64 = 4_096;
const DEFAULT_OUTPUT: u64 = 65_536;

pub type Refusal = Reply;

/// The model and what it is asked to do, in `…/models/{model}:{action}`.
pub fn model_in(path: &str) -> Option<(&str, &str)> {
    path.rsplit_once("/models/")?.1.rsplit_once(':').filter(|(model, _)| !model.contains('/'))
}

pub fn answer(state: &State, call: &Call<'_>) -> Reply {
    decide(state, call).unwrap_or_else(|refusal| refusal)
}

fn decide(state: &State, call: &Call<'_>) -> Result<Reply, Refusal> {
    let unknown = || {
        let told = "API key not valid. Please pass a valid API key.";
        error(400, "INVALID_ARGUMENT", Some("API_KEY_INVALID"), told)
    };
    let text = call.header("x-goog-api-key").ok_or_else(|| {
        error(
            403,
            "PERMISSION_DENIED",
            None,
            "Method doesn't allow unregistered callers. Please use API Key.",
        )
    })?;
    let key = sha256(text.as_bytes());
    let behaviour = state.behaviour(text, &key, PREFIXES).ok_or_else(unknown)?;
    match behaviour {
        Behaviour::Revoked => return Err(unknown()),
        Behaviour::Forbidden => {
            let told = "Requests to this API are blocked.";
            return Err(error(403, "PERMISSION_DENIED", Some("API_KEY_SERVICE_BLOCKED"), told));
        }
        _ => {}
    }
    if let Some((model, action)) = model_in(call.path).filter(|_| *call.method == Method::POST) {
        return act(state, call, &key, behaviour, model, action);
    }
    let rest = call.path.trim_start_matches("/v1beta").trim_start_matches("/v1");
    match (call.method, rest) {
        (&Method::GET, "/models") => {
            let models: Vec<Value> = listed().map(|model| info(&model.id, model)).collect();
            Ok(Reply::json(200, &json!({ "models": models })))
        }
        (&Method::GET, path) => {
            let id = path.strip_prefix("/models/").unwrap_or_default();
            find(id).map(|model| Reply::json(200, &info(id, model)))
        }
        _ => Err(error(404, "NOT_FOUND", None, "Requested entity was not found.")),
    }
}

/// Answers for a model, whoever was asked.
pub fn act(
    state: &State,
    call: &Call<'_>,
    key: &Hash,
    behaviour: Behaviour,
    model: &str,
    action: &str,
) -> Result<Reply, Refusal> {
    let invalid = |message: &str| error(400, "INVALID_ARGUMENT", None, message);
    if call.is_too_large() {
        return Err(invalid("Request payload size exceeds the limit."));
    }
    let body =
        call.json.filter(|body| body.is_object()).ok_or_else(|| invalid("Invalid JSON payload received."))?;
    let ask = Ask::read(model, body)?;
    match action {
        "countTokens" => Ok(Reply::json(200, &json!({ "totalTokens": ask.input_tokens() }))),
        "generateContent" | "streamGenerateContent" => {
            limit(behaviour)?;
            let behaviour = if ask.max_output == 1 { Behaviour::Ok } else { behaviour };
            fail(behaviour)?;
            let events = url::form_urlencoded::parse(call.query.as_bytes())
                .any(|(name, value)| name == "alt" && value == "sse");
            let chunks = generate(state, key, &ask, behaviour, action == "streamGenerateContent");
            let reply = match (action, events) {
                ("generateContent", _) => Reply::json(200, &chunks[0]),
                (_, true) => Reply::events(
                    chunks.iter().map(|chunk| Bytes::from(format!("data: {chunk}\r\n\r\n"))).collect(),
                ),
                (_, false) => Reply::stream("application/json; charset=UTF-8", list_of(&chunks)),
            };
            Ok(reply.behaving(behaviour))
        }
        _ => Err(error(404, "NOT_FOUND", None, "Requested entity was not found.")),
    }
}

/// The stream of whoever does not ask for events: one JSON list that grows.
fn list_of(chunks: &[Value]) -> Vec<Bytes> {
    let last = chunks.len() - 1;
    chunks
        .iter()
        .enumerate()
        .map(|(at, chunk)| {
            let (open, close) =
                (if at == 0 { "[" } else { "" }, if at == last { "\n]\n" } else { "\n,\r\n" });
            Bytes::from(format!("{open}{chunk}{close}"))
        })
        .collect()
}

pub fn error(status: u16, name: &str, reason: Option<&str>, message: &str) -> Refusal {
    let mut error = json!({ "code": status, "message": message, "status": name });
    if let Some(reason) = reason {
        error["details"] = json!([{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
            "metadata": { "service": "generativelanguage.googleapis.com" },
        }]);
    }
    Reply::json(status, &json!({ "error": error }))
}

/// Limits hold even for the one-token probe.
fn limit(behaviour: Behaviour) -> Result<(), Refusal> {
    match behaviour {
        Behaviour::NoCredit => Err(error(
            402,
            "RESOURCE_EXHAUSTED",
            None,
            "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage your project and billing.",
        )),
        Behaviour::SpendLimit | Behaviour::Enforced => {
            let told = "You exceeded your current quota, please check your plan and billing details.";
            Err(error(429, "RESOURCE_EXHAUSTED", None, told))
        }
        Behaviour::RateLimited => Err(Reply::json(
            429,
            &json!({ "error": {
                "code": 429,
                "message": "You exceeded your current quota, please check your plan and billing details.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [{
                    "@type": "type.googleapis.com/google.rpc.RetryInfo",
                    "retryDelay": format!("{RATE_LIMIT_SECONDS}s"),
                }],
            } }),
        )),
        _ => Ok(()),
    }
}

fn fail(behaviour: Behaviour) -> Result<(), Refusal> {
    match behaviour {
        Behaviour::Overloaded => {
            Err(error(503, "UNAVAILABLE", None, "The model is overloaded. Please try again later."))
        }
        Behaviour::ServerError => Err(error(500, "INTERNAL", None, "An internal error has occurred.")),
        _ => Ok(()),
    }
}

fn listed() -> impl Iterator<Item = &'static Model> {
    price_list::models().iter().filter(|model| model.maker() == Provider::Google)
}

fn find(id: &str) -> Result<&'static Model, Refusal> {
    price_list::find(id).filter(|model| model.maker() == Provider::Google).ok_or_else(|| {
        let told = format!("models/{id} is not found for API version v1beta, or is not supported.");
        error(404, "NOT_FOUND", None, &told)
    })
}

fn info(id: &str, model: &Model) -> Value {
    json!({
        "name": format!("models/{id}"),
        "version": "001",
        "displayName": model.name,
        "inputTokenLimit": model.max_input,
        "outputTokenLimit": model.max_output,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    })
}

/// A request body, reduced to what an answer depends on.
struct Ask<'a> {
    model: &'a str,
    listed: &'static Model,
    text: String,
    question: String,
    max_output: u64,
    thinks: bool,
    searches: bool,
}

impl<'a> Ask<'a> {
    fn read(model: &'a str, body: &Value) -> Result<Self, Refusal> {
        let listed = find(model)?;
        let field = |camel: &str, snake: &str| {
            if body[camel].is_null() { body[snake].clone() } else { body[camel].clone() }
        };
        let contents = body["contents"].as_array().filter(|contents| !contents.is_empty());
        let contents = contents.ok_or_else(|| {
            error(
                400,
                "INVALID_ARGUMENT",
                None,
                "* GenerateContentRequest.contents: contents is not specified",
            )
        })?;
        let turns: Vec<String> = contents.iter().map(text_of).collect();
        let config = field("generationConfig", "generation_config");
        let thinking = &config["thinkingConfig"];
        let budget = thinking["thinkingBudget"].as_i64();
        let tools = body["tools"].as_array();
        Ok(Self {
            model,
            listed,
            question: turns.last().cloned().unwrap_or_default(),
            text: text_of(&field("systemInstruction", "system_instruction")) + turns.concat().as_str(),
            max_output: config["maxOutputTokens"]
                .as_u64()
                .unwrap_or(DEFAULT_OUTPUT)
                .min(listed.max_output.max(1)),
            thinks: budget.map_or_else(|| thinking["thinkingLevel"].is_string(), |budget| budget != 0),
            searches: tools.is_some_and(|tools| tools.iter().any(|tool| tool["googleSearch"].is_object())),
        })
    }

    fn input_tokens(&self) -> u64 {
        tokens(self.text.len()).max(1)
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Array(parts) => parts.iter().map(text_of).collect(),
        Value::Object(part) => match (part.get("text"), part.get("parts")) {
            (Some(Value::String(text)), _) => text.clone(),
            (_, Some(parts)) => text_of(parts),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// The answer in one chunk, or in as many as it has words. Each holds the totals so far.
fn generate(state: &State, key: &Hash, ask: &Ask<'_>, behaviour: Behaviour, streams: bool) -> Vec<Value> {
    let thought = if ask.thinks { tokens(THOUGHT.len()).min(ask.max_output.saturating_sub(1)) } else { 0 };
    let written = write(&ask.question, &ask.listed.name, behaviour, ask.max_output - thought);
    let input = ask.input_tokens();
    let cached = if input >= CACHED_FROM && state.recall(key, &ask.text) { input / 2 } else { 0 };
    let id = state.id("resp");
    let usage = |output: u64| {
        let mut usage = json!({
            "promptTokenCount": input,
            "candidatesTokenCount": output,
            "totalTokenCount": input + output + thought,
            "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": input }],
        });
        if thought > 0 {
            usage["thoughtsTokenCount"] = json!(thought);
        }
        if cached > 0 {
            usage["cachedContentTokenCount"] = json!(cached);
        }
        usage
    };
    let chunk = |text: &str, last: bool, output: u64| {
        let mut candidate =
            json!({ "content": { "parts": [{ "text": text }], "role": "model" }, "index": 0 });
        if last {
            candidate["finishReason"] = json!(if written.cut { "MAX_TOKENS" } else { "STOP" });
            if ask.searches {
                candidate["groundingMetadata"] = json!({ "webSearchQueries": [ask.question] });
            }
        }
        json!({
            "candidates": [candidate], "usageMetadata": usage(output),
            "modelVersion": ask.model, "responseId": id,
        })
    };
    if !streams {
        return vec![chunk(&written.text, true, written.spent)];
    }
    let words: Vec<&str> = pieces(&written.text).collect();
    let mut sent = 0;
    let mut chunks: Vec<Value> = Vec::with_capacity(words.len() + 1);
    for word in words {
        sent += word.len();
        chunks.push(chunk(word, false, tokens(sent).min(written.spent)));
    }
    chunks.push(chunk("", true, written.spent));
    chunks
}
