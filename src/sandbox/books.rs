//! What each key used, as a provider tells an organisation's administrators: by day, key and model.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use actix_web::http::Method;
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::delivery::Reply;
use super::door::Call;
use super::state::{Hash, State, lock};
use crate::domain::clock::{DAY, Moment, SECOND};
use crate::domain::price::{Multiplier, PriceBook};
use crate::domain::price_list;
use crate::domain::provider_key::Provider;
use crate::domain::usage::{ServedAs, TokenUsage};

/// Administrators' keys begin so; what they do is written in them, as in others.
const ANTHROPIC: &str = "sk-ant-admin01-";
const OPENAI: &str = "sk-admin-";
const PROJECT: &str = "proj_sandbox";

#[derive(Default)]
pub struct Books {
    /// How each key is shown: its beginning and its end.
    hints: Mutex<HashMap<Hash, String>>,
    sums: Mutex<BTreeMap<(Provider, i64, Hash, String), Sums>>,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    tokens: TokenUsage,
    requests: u64,
}

impl Books {
    /// Enters what an answer used.
    pub fn enter(
        &self,
        provider: Provider,
        (key, text): (&Hash, &str),
        model: &str,
        at: Moment,
        used: TokenUsage,
    ) {
        let dots = if provider == Provider::Anthropic { "..." } else { "********" };
        let show = || {
            let start = text.get(..16).unwrap_or_default();
            let end = text.get(text.len().saturating_sub(4)..).unwrap_or_default();
            format!("{start}{dots}{end}")
        };
        lock(&self.hints).entry(*key).or_insert_with(show);
        let day = at.0.div_euclid(DAY) * DAY;
        let mut sums = lock(&self.sums);
        let sum = sums.entry((provider, day, *key, model.to_owned())).or_default();
        sum.requests += 1;
        let tokens = &mut sum.tokens;
        tokens.input += used.input;
        tokens.cache_read += used.cache_read;
        tokens.cache_write_5m += used.cache_write_5m;
        tokens.cache_write_1h += used.cache_write_1h;
        tokens.output += used.output;
    }

    fn of(&self, provider: Provider, from: i64, to: i64) -> Vec<(i64, String, String, Sums)> {
        lock(&self.sums)
            .iter()
            .filter(|((of, day, ..), _)| *of == provider && *day >= from && *day < to)
            .map(|((_, day, key, model), sums)| (*day, id(key), model.clone(), *sums))
            .collect()
    }
}

fn id(key: &Hash) -> String {
    format!("apikey_{}", hex::encode(&key[..12]))
}

/// Whether a request is one of an administrator's.
pub fn is_admin(path: &str) -> bool {
    path.starts_with("/v1/organizations/") || path.starts_with("/v1/organization/")
}

/// Answers an administrator's request.
pub fn answer(state: &State, call: &Call<'_>) -> Reply {
    let anthropic = call.path.starts_with("/v1/organizations/");
    let (key, prefix) =
        if anthropic { (call.header("x-api-key"), ANTHROPIC) } else { (call.bearer(), OPENAI) };
    let behaviour = key.and_then(|key| Behaviour::of_key(key, &[prefix]));
    match behaviour {
        Some(Behaviour::Ok) if *call.method == Method::GET => {}
        Some(Behaviour::RateLimited) => return refused(anthropic, 429, "rate_limit_error"),
        Some(Behaviour::Garbage) => return Reply::json(200, &json!("garbage")),
        _ => return refused(anthropic, 401, "authentication_error"),
    }
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(call.query.as_bytes()).into_owned().collect();
    if anthropic { of_anthropic(state, call.path, &query) } else { of_openai(state, call.path, &query) }
}

fn refused(anthropic: bool, status: u16, kind: &str) -> Reply {
    let message = "Refused by the sandbox.";
    let body = if anthropic {
        json!({ "type": "error", "error": { "type": kind, "message": message } })
    } else {
        json!({ "error": { "message": message, "type": "invalid_request_error", "code": kind } })
    };
    Reply::json(status, &body)
}

fn cost_of(provider: Provider, model: &str, sums: &Sums, day: i64) -> i64 {
    let book = PriceBook::new(price_list::list());
    let rated = book.rate(provider, model, &sums.tokens, ServedAs::default(), Moment(day));
    rated.map_or(0, |rated| rated.cost(Multiplier::LIST).0)
}

fn of_anthropic(state: &State, path: &str, query: &HashMap<String, String>) -> Reply {
    let moment = |name: &str| query.get(name)?.parse().ok().map(|at| Moment::from_timestamp(at).0);
    let page = |data: Vec<Value>| {
        Reply::json(200, &json!({ "data": data, "has_more": false, "next_page": null, "last_id": null }))
    };
    if path == "/v1/organizations/api_keys" {
        let hints = lock(&state.books.hints);
        let keys = hints.iter().filter(|(_, hint)| hint.starts_with("sk-ant-")).map(|(key, hint)| {
            json!({ "id": id(key), "type": "api_key", "name": "Sandbox key", "status": "active", "partial_key_hint": hint })
        });
        return page(keys.collect());
    }
    let (Some(from), Some(to)) = (moment("starting_at"), moment("ending_at")) else {
        return refused(true, 400, "invalid_request_error");
    };
    if to - from > 31 * DAY {
        return refused(true, 400, "invalid_request_error");
    }
    let rows = state.books.of(Provider::Anthropic, from, to).into_iter().map(|(day, key, model, sums)| {
        let mut row = json!({
            "starting_at": Moment(day).rfc3339(), "ending_at": Moment(day + DAY).rfc3339(),
            "group": { "api_key_id": key, "model": model },
        });
        let tokens = sums.tokens;
        if path.ends_with("/cost") {
            let nanos = cost_of(Provider::Anthropic, &model, &sums, day);
            let cents = format!("{}.{:07}", nanos / 10_000_000, nanos % 10_000_000);
            row["cost"] =
                json!({ "amount": cents, "list_amount": cents, "currency": "USD", "requests": null });
        } else {
            row["usage"] = json!({
                "uncached_input_tokens": tokens.input, "cache_read_input_tokens": tokens.cache_read,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": tokens.cache_write_5m,
                    "ephemeral_1h_input_tokens": tokens.cache_write_1h,
                },
                "output_tokens": tokens.output, "requests": sums.requests,
                "server_tool_use": { "web_search_requests": 0 },
            });
        }
        row
    });
    page(rows.collect())
}

fn of_openai(state: &State, path: &str, query: &HashMap<String, String>) -> Reply {
    let list = |data: Vec<Value>| {
        Reply::json(
            200,
            &json!({ "object": "list", "data": data, "has_more": false, "last_id": null, "next_page": null }),
        )
    };
    if path == "/v1/organization/projects" {
        return list(vec![json!({ "id": PROJECT, "object": "organization.project", "name": "Sandbox" })]);
    }
    if path == format!("/v1/organization/projects/{PROJECT}/api_keys") {
        let hints = lock(&state.books.hints);
        let keys = hints.iter().filter(|(_, hint)| !hint.starts_with("sk-ant-")).map(|(key, hint)| {
            json!({ "id": id(key), "object": "organization.project.api_key", "name": "Sandbox key", "redacted_value": hint })
        });
        return list(keys.collect());
    }
    let seconds = |name: &str| query.get(name)?.parse::<i64>().ok()?.checked_mul(SECOND);
    let (Some(from), Some(to)) = (seconds("start_time"), seconds("end_time")) else {
        return refused(false, 400, "invalid_request_error");
    };
    let costs = path == "/v1/organization/costs";
    // Everything is told with the completions.
    let rows = match path {
        "/v1/organization/usage/embeddings" => Vec::new(),
        _ => state.books.of(Provider::Openai, from, to),
    };
    let buckets = rows.into_iter().map(|(day, key, model, sums)| {
        let tokens = sums.tokens;
        let result = if costs {
            let nanos = cost_of(Provider::Openai, &model, &sums, day);
            let dollars = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
            json!({
                "object": "organization.costs.result", "amount": { "value": dollars, "currency": "usd" },
                "line_item": format!("{model}, all tokens"), "api_key_id": key,
            })
        } else {
            json!({
                "object": "organization.usage.completions.result", "api_key_id": key, "model": model,
                "input_tokens": tokens.input + tokens.cache_read, "input_cached_tokens": tokens.cache_read,
                "output_tokens": tokens.output, "num_model_requests": sums.requests,
            })
        };
        json!({ "object": "bucket", "start_time": day / SECOND, "end_time": (day + DAY) / SECOND, "results": [result] })
    });
    list(buckets.collect())
}
