//! The message that answers a prompt, and what it costs. The same prompt gets the same words.

use serde::Serialize;
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::prompt::{Prompt, Thinking, Ttl, tokens};
use super::state::{Hash, State};
use super::text::{THOUGHT, Written, echo, write};
use crate::domain::usage::TokenUsage;

const SIGNATURE: &str = "U2lnbmVkIGJ5IHRoZSBLZXl3YXJkIHNhbmRib3g=";

#[derive(Clone, Serialize)]
pub struct Message {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: String,
    pub content: Vec<Block>,
    pub stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
    stop_details: Option<Value>,
    container: Option<Value>,
    pub usage: Usage,
}

#[derive(Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    Text { text: String },
    Thinking { thinking: String, signature: String },
    ServerToolUse { id: String, name: &'static str, input: Value },
    WebSearchToolResult { tool_use_id: String, content: Vec<Value> },
}

/// What a message used; what is `None` is left out.
#[derive(Clone, Default, Serialize)]
pub struct Usage {
    pub input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_creation: Option<CacheCreation>,
    pub output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<OutputTokensDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_tool_use: Option<ServerToolUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_geo: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<String>,
}

#[derive(Clone, Default, Serialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

#[derive(Clone, Serialize)]
struct OutputTokensDetails {
    thinking_tokens: u64,
}

#[derive(Clone, Serialize)]
struct ServerToolUsage {
    web_fetch_requests: u64,
    web_search_requests: u64,
}

impl Message {
    /// The message as a stream begins it: all of the input's usage, and the first token of output.
    pub fn opening(&self) -> Self {
        Self {
            content: Vec::new(),
            stop_reason: None,
            usage: Usage {
                output_tokens: self.usage.output_tokens.min(1),
                output_tokens_details: None,
                server_tool_use: None,
                ..self.usage.clone()
            },
            ..self.clone()
        }
    }
}

impl Usage {
    pub fn tokens(&self) -> TokenUsage {
        let created = self.cache_creation.clone().unwrap_or_default();
        TokenUsage {
            input: self.input_tokens,
            cache_read: self.cache_read_input_tokens,
            cache_write_5m: created.ephemeral_5m_input_tokens,
            cache_write_1h: created.ephemeral_1h_input_tokens,
            output: self.output_tokens,
            ..TokenUsage::default()
        }
    }

    /// The totals at a stream's end, without what only its beginning tells: the cache's split, the
    /// tier, the place and the speed.
    pub fn cumulative(&self) -> Self {
        Self { cache_creation: None, service_tier: None, inference_geo: None, speed: None, ..self.clone() }
    }
}

/// Answers a prompt for a key. The prompt's cached blocks are remembered for that key.
pub fn compose(state: &State, key: &Hash, prompt: &Prompt<'_>, behaviour: Behaviour) -> Message {
    let mut usage = input_usage(state, key, prompt);
    let mut content = Vec::new();
    let mut budget = prompt.max_tokens;

    let thought = tokens(THOUGHT.len());
    if prompt.thinking != Thinking::Off && budget > thought {
        budget -= thought;
        usage.output_tokens_details = Some(OutputTokensDetails { thinking_tokens: thought });
        content.push(think(prompt.thinking));
    }
    if prompt.web_search && budget > 1 {
        usage.server_tool_use = Some(ServerToolUsage { web_fetch_requests: 0, web_search_requests: 1 });
        content.extend(search(state.id("srvtoolu"), echo(&prompt.question)));
    }
    let Written { text, spent, cut } = write(&prompt.question, &prompt.listed.name, behaviour, budget);
    usage.output_tokens = prompt.max_tokens - budget + spent;
    if !text.is_empty() {
        content.push(Block::Text { text });
    }

    Message {
        id: state.id("msg"),
        kind: "message",
        role: "assistant",
        model: prompt.model.to_owned(),
        content,
        stop_reason: Some(if cut { "max_tokens" } else { "end_turn" }),
        stop_sequence: None,
        stop_details: None,
        container: None,
        usage,
    }
}

fn input_usage(state: &State, key: &Hash, prompt: &Prompt<'_>) -> Usage {
    let mut usage = Usage {
        service_tier: Some("standard"),
        inference_geo: Some(prompt.inference_geo.unwrap_or("global").to_owned()),
        speed: prompt.speed.map(str::to_owned),
        ..Usage::default()
    };
    let mut created = CacheCreation::default();
    let mut fresh_bytes = 0;
    for block in &prompt.blocks {
        match block.cache {
            None => fresh_bytes += block.text.len(),
            Some(_) if state.recall(key, &block.text) => {
                usage.cache_read_input_tokens += tokens(block.text.len());
            }
            Some(Ttl::FiveMinutes) => created.ephemeral_5m_input_tokens += tokens(block.text.len()),
            Some(Ttl::OneHour) => created.ephemeral_1h_input_tokens += tokens(block.text.len()),
        }
    }
    usage.input_tokens = tokens(fresh_bytes).max(1);
    usage.cache_creation_input_tokens = created.ephemeral_5m_input_tokens + created.ephemeral_1h_input_tokens;
    usage.cache_creation = Some(created);
    usage
}

fn think(thinking: Thinking) -> Block {
    let shown = if thinking == Thinking::Omitted { "" } else { THOUGHT };
    Block::Thinking { thinking: shown.to_owned(), signature: SIGNATURE.to_owned() }
}

/// A search that found nothing, which is all that a provider without a network can find.
fn search(id: String, query: &str) -> [Block; 2] {
    let result = Block::WebSearchToolResult { tool_use_id: id.clone(), content: Vec::new() };
    [Block::ServerToolUse { id, name: "web_search", input: json!({ "query": query }) }, result]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Clock;

    fn answer(state: &State, key: u8, body: &Value) -> Value {
        let prompt = Prompt::to_create(body).ok().unwrap();
        serde_json::to_value(compose(state, &[key; 32], &prompt, Behaviour::Ok)).unwrap()
    }

    fn body(content: &Value, changes: &Value) -> Value {
        let mut body = json!({
            "model": "claude-opus-5-5",
            "max_tokens": 1024,
            "messages": [{ "role": "user", "content": content }],
        });
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        body
    }

    #[test]
    fn cached_text_is_written_once_per_key_and_then_read() {
        let state = State::new(Clock::system(), None);
        let body = body(
            &json!([
                { "type": "text", "text": "eight by", "cache_control": { "type": "ephemeral" } },
                { "type": "text", "text": "twelve bytes", "cache_control": { "type": "ephemeral", "ttl": "1h" } },
                { "type": "text", "text": "Hello" },
            ]),
            &json!({}),
        );
        let usage = |key| answer(&state, key, &body)["usage"].take();
        let first = usage(1);
        assert_eq!(first["input_tokens"], 2);
        assert_eq!(first["cache_creation_input_tokens"], 5);
        assert_eq!(
            first["cache_creation"],
            json!({ "ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3 })
        );
        assert_eq!(first["cache_read_input_tokens"], 0);
        let second = usage(1);
        assert_eq!(
            (&second["cache_creation_input_tokens"], &second["cache_read_input_tokens"]),
            (&json!(0), &json!(5))
        );
        assert_eq!(usage(2)["cache_creation_input_tokens"], 5, "a cache belongs to its key");
    }

    #[test]
    fn thinking_search_speed_and_place_show() {
        let state = State::new(Clock::system(), None);
        let changes = json!({
            "thinking": { "type": "enabled", "budget_tokens": 1024, "display": "omitted" },
            "tools": [{ "type": "web_search_20260209", "name": "web_search" }],
            "speed": "fast",
            "inference_geo": "us",
        });
        let message = answer(&state, 1, &body(&json!("Hello"), &changes));
        let kinds: Vec<&Value> =
            message["content"].as_array().unwrap().iter().map(|block| &block["type"]).collect();
        assert_eq!(kinds, ["thinking", "server_tool_use", "web_search_tool_result", "text"]);
        assert_eq!(message["content"][0]["thinking"], "");
        let usage = &message["usage"];
        let text = message["content"][3]["text"].as_str().unwrap();
        assert_eq!(usage["output_tokens_details"]["thinking_tokens"], tokens(THOUGHT.len()));
        assert_eq!(usage["output_tokens"], tokens(THOUGHT.len()) + tokens(text.len()));
        assert_eq!(usage["server_tool_use"]["web_search_requests"], 1);
        assert_eq!((&usage["speed"], &usage["inference_geo"]), (&json!("fast"), &json!("us")));
    }

    #[test]
    fn an_answer_is_cut_between_characters() {
        let state = State::new(Clock::system(), None);
        let message = answer(&state, 1, &body(&json!("\u{2713}\u{2713}"), &json!({ "max_tokens": 4 })));
        assert_eq!(message["content"][0]["text"], "You wrote: \"\u{2713}");
        assert_eq!(message["usage"]["output_tokens"], 4);
        assert_eq!(message["stop_reason"], "max_tokens");
    }
}
