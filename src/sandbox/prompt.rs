//! A request body, checked as the provider checks it and reduced to what an answer depends on.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::models;
use crate::domain::price_list::Model;

/// What was asked. Texts are borrowed from the body.
pub struct Prompt<'a> {
    /// The model's id as the request spells it.
    pub model: &'a str,
    pub listed: &'static Model,
    /// System prompt and messages, block by block.
    pub blocks: Vec<Block<'a>>,
    /// The whole text of the last user message.
    pub question: Cow<'a, str>,
    /// 0 when tokens are only counted.
    pub max_tokens: u64,
    pub stream: bool,
    pub thinking: Thinking,
    pub web_search: bool,
    pub speed: Option<&'a str>,
    pub inference_geo: Option<&'a str>,
}

pub struct Block<'a> {
    pub text: Cow<'a, str>,
    pub cache: Option<Ttl>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    FiveMinutes,
    OneHour,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    Off,
    Summarized,
    /// Paid for, but only its signature is returned.
    Omitted,
}

impl<'a> Prompt<'a> {
    /// The body of `POST /v1/messages`.
    pub fn to_create(body: &'a Value) -> Result<Self, ApiError> {
        let prompt = Self::read(body, &["model", "max_tokens", "messages"])?;
        let most = prompt.listed.max_output;
        if prompt.max_tokens > most {
            return Err(ApiError::invalid(format!(
                "max_tokens: {} > {most}, which is the maximum allowed number of output tokens for {}",
                prompt.max_tokens, prompt.model
            )));
        }
        let (tokens, most) = (prompt.tokens(), prompt.listed.max_input);
        if tokens > most {
            return Err(ApiError::invalid(format!("prompt is too long: {tokens} tokens > {most} maximum")));
        }
        Ok(prompt)
    }

    /// The body of `POST /v1/messages/count_tokens`.
    pub fn to_count(body: &'a Value) -> Result<Self, ApiError> {
        Self::read(body, &["model", "messages"])
    }

    /// All input tokens, cached or not.
    pub fn tokens(&self) -> u64 {
        tokens(self.blocks.iter().map(|block| block.text.len()).sum()).max(1)
    }

    fn read(body: &'a Value, required: &[&str]) -> Result<Self, ApiError> {
        let fields =
            body.as_object().ok_or_else(|| ApiError::invalid("Input should be a valid dictionary"))?;
        if let Some(missing) = required.iter().find(|name| !fields.contains_key(**name)) {
            return Err(ApiError::invalid(format!("{missing}: Field required")));
        }
        let model = fields["model"]
            .as_str()
            .ok_or_else(|| ApiError::invalid("model: Input should be a valid string"))?;
        let max_tokens = match fields.get("max_tokens") {
            None => 0,
            Some(value) => value
                .as_u64()
                .ok_or_else(|| ApiError::invalid("max_tokens: Input should be a valid integer"))?,
        };
        let messages = read_messages(&fields["messages"])?;
        Ok(Self {
            model,
            max_tokens,
            blocks: blocks(fields, &messages),
            question: messages
                .iter()
                .rfind(|message| message.role == "user")
                .map_or(Cow::Borrowed(""), |message| text_of(message.content)),
            stream: fields.get("stream").and_then(Value::as_bool).unwrap_or(false),
            thinking: thinking(fields),
            web_search: has_web_search(fields),
            speed: fields.get("speed").and_then(Value::as_str),
            inference_geo: fields.get("inference_geo").and_then(Value::as_str),
            listed: models::find(model)?,
        })
    }
}

struct Turn<'a> {
    role: &'a str,
    content: &'a Value,
}

fn read_messages(messages: &Value) -> Result<Vec<Turn<'_>>, ApiError> {
    let messages =
        messages.as_array().ok_or_else(|| ApiError::invalid("messages: Input should be a valid list"))?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages: at least one message is required"));
    }
    messages.iter().enumerate().map(|(index, message)| read_message(index, message)).collect()
}

fn read_message(index: usize, message: &Value) -> Result<Turn<'_>, ApiError> {
    let field = |name| {
        message.get(name).ok_or_else(|| ApiError::invalid(format!("messages.{index}.{name}: Field required")))
    };
    let role = field("role")?
        .as_str()
        .filter(|role| ["user", "assistant", "system"].contains(role))
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "messages.{index}.role: Input should be 'user', 'assistant' or 'system'"
            ))
        })?;
    let content = field("content")?;
    if !content.is_string() && !content.is_array() {
        return Err(ApiError::invalid(format!(
            "messages.{index}.content: Input should be a valid string or list"
        )));
    }
    Ok(Turn { role, content })
}

fn blocks<'a>(fields: &'a Map<String, Value>, messages: &[Turn<'a>]) -> Vec<Block<'a>> {
    let contents = fields.get("system").into_iter().chain(messages.iter().map(|message| message.content));
    let mut blocks: Vec<Block<'a>> = contents
        .flat_map(|content| match content {
            Value::Array(parts) => parts.as_slice(),
            whole => std::slice::from_ref(whole),
        })
        .map(|part| Block { text: text_of(part), cache: ttl(part.get("cache_control")) })
        .collect();
    // The request's own marker stands for one on its last block.
    if let (Some(ttl), Some(last)) = (ttl(fields.get("cache_control")), blocks.last_mut()) {
        last.cache = Some(ttl);
    }
    blocks
}

/// The text of a message's content, or of one block of it; images and documents count nothing.
fn text_of(content: &Value) -> Cow<'_, str> {
    match content {
        Value::String(text) => Cow::Borrowed(text),
        Value::Array(parts) => Cow::Owned(parts.iter().map(text_of).collect()),
        Value::Object(block) => match block.get("input") {
            Some(input) => Cow::Owned(input.to_string()),
            None => ["text", "thinking", "content"]
                .iter()
                .find_map(|field| block.get(*field))
                .map_or(Cow::Borrowed(""), text_of),
        },
        _ => Cow::Borrowed(""),
    }
}

fn ttl(cache_control: Option<&Value>) -> Option<Ttl> {
    let control = cache_control?.as_object()?;
    let one_hour = control.get("ttl").and_then(Value::as_str) == Some("1h");
    Some(if one_hour { Ttl::OneHour } else { Ttl::FiveMinutes })
}

fn thinking(fields: &Map<String, Value>) -> Thinking {
    let Some(config) = fields.get("thinking") else { return Thinking::Off };
    match (config["type"].as_str(), config["display"].as_str()) {
        (Some("enabled" | "adaptive"), Some("omitted")) => Thinking::Omitted,
        (Some("enabled" | "adaptive"), _) => Thinking::Summarized,
        _ => Thinking::Off,
    }
}

fn has_web_search(fields: &Map<String, Value>) -> bool {
    fields.get("tools").and_then(Value::as_array).is_some_and(|tools| {
        tools.iter().any(|tool| tool["type"].as_str().is_some_and(|kind| kind.starts_with("web_search_")))
    })
}

/// The sandbox's tokeniser: four bytes are one token.
pub fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The message of the refusal that a body meets, if it meets one.
    fn refusal(body: &Value) -> Option<String> {
        let refusal = Prompt::to_create(body).err()?.body("req")["error"]["message"].take();
        refusal.as_str().map(str::to_owned)
    }

    #[test]
    fn bodies_are_checked_field_by_field() {
        let hello = json!([{ "role": "user", "content": "Hello" }]);
        let body = |model: Value, max_tokens: Value, messages: &Value| json!({ "model": model, "max_tokens": max_tokens, "messages": messages });
        let model = || json!("claude-haiku-4-5");
        assert_eq!(refusal(&body(model(), json!(64_000), &hello)), None);
        for (body, says) in [
            (json!([]), "Input should be a valid dictionary"),
            (json!({ "max_tokens": 1, "messages": hello }), "model: Field required"),
            (json!({ "model": "claude-x", "messages": hello }), "max_tokens: Field required"),
            (json!({ "model": "claude-x", "max_tokens": 1 }), "messages: Field required"),
            (body(json!(5), json!(1), &hello), "model: Input should be a valid string"),
            (body(model(), json!("1"), &hello), "max_tokens: Input should be a valid integer"),
            (
                body(model(), json!(64_001), &hello),
                "max_tokens: 64001 > 64000, which is the maximum allowed number of output tokens for claude-haiku-4-5",
            ),
            (body(model(), json!(1), &json!("Hello")), "messages: Input should be a valid list"),
            (body(model(), json!(1), &json!([])), "messages: at least one message is required"),
            (body(model(), json!(1), &json!([{ "role": "user" }])), "messages.0.content: Field required"),
            (
                body(model(), json!(1), &json!([{ "role": "tool", "content": "" }])),
                "messages.0.role: Input should be 'user', 'assistant' or 'system'",
            ),
            (
                body(model(), json!(1), &json!([{ "role": "user", "content": 5 }])),
                "messages.0.content: Input should be a valid string or list",
            ),
            (
                body(model(), json!(1), &json!([{ "role": "user", "content": "x".repeat(800_001) }])),
                "prompt is too long: 200001 tokens > 200000 maximum",
            ),
            (body(json!("claude-x"), json!(1), &hello), "model: claude-x"),
        ] {
            assert_eq!(refusal(&body).as_deref(), Some(says));
        }
    }

    #[test]
    fn all_text_counts_and_nothing_else() {
        let body = json!({
            "model": "claude-opus-5-5",
            "system": "four",
            "messages": [
                { "role": "user", "content": [
                    { "type": "text", "text": "five+" },
                    { "type": "image", "source": { "type": "base64", "data": "AAAA" } },
                    { "type": "tool_result", "content": [{ "type": "text", "text": "six..." }] },
                ] },
                { "role": "assistant", "content": [{ "type": "tool_use", "name": "t", "input": { "a": 1 } }] },
            ],
        });
        let prompt = Prompt::to_count(&body).ok().unwrap();
        assert_eq!(prompt.tokens(), (4u64 + 5 + 6 + r#"{"a":1}"#.len() as u64).div_ceil(4));
        assert_eq!(prompt.question, "five+six...");
    }

    #[test]
    fn a_marker_on_the_request_is_one_on_its_last_block() {
        let body = json!({
            "model": "claude-opus-5-5",
            "cache_control": { "type": "ephemeral", "ttl": "1h" },
            "messages": [{ "role": "user", "content": "one" }, { "role": "user", "content": "two" }],
        });
        let prompt = Prompt::to_count(&body).ok().unwrap();
        let marked: Vec<&str> =
            prompt.blocks.iter().filter(|block| block.cache.is_some()).map(|block| &*block.text).collect();
        assert_eq!(marked, ["two"]);
    }
}
