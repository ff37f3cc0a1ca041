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
