//! Reads usage in `OpenAI`'s shape from a body or a stream as it passes by. Totals include their
//! parts: cached, written and audio tokens are taken out of the prompt's.

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::lines::Lines;
use super::super::{Endpoint, Report, UsageReader};
use crate::domain::usage::{ServedAs, ServiceTier, TokenUsage};

/// Both shapes at once: chat and embeddings say prompt and completion, responses input and output.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u64>,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(alias = "output_tokens_details")]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    audio_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    cache_write_tokens_details: Option<CacheWrites>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheWrites {
    ttl_12h_tokens: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
    audio_tokens: Option<u64>,
}

impl Usage {
    fn tokens(&self) -> Option<TokenUsage> {
        let prompt = self.prompt_tokens?;
        let mut tokens = TokenUsage { output: self.completion_tokens.unwrap_or(0), ..TokenUsage::default() };
        if let Some(details) = &self.prompt_tokens_details {
            let written = details.cache_write_tokens.unwrap_or(0);
            let long = details.cache_write_tokens_details.as_ref().map_or(0, |split| split.ttl_12h_tokens);
            tokens.cache_read = details.cached_tokens.unwrap_or(0);
            tokens.cache_write_1h = long.min(written);
            tokens.cache_write_5m = written - tokens.cache_write_1h;
            tokens.audio_input = details.audio_tokens.unwrap_or(0);
        }
        if let Some(details) = &self.completion_tokens_details {
            tokens.reasoning = details.reasoning_tokens.unwrap_or(0);
            tokens.audio_output = details.audio_tokens.unwrap_or(0);
        }
        let parts = tokens
            .cache_read
            .saturating_add(tokens.cache_write_5m)
            .saturating_add(tokens.cache_write_1h)
            .saturating_add(tokens.audio_input);
        tokens.input = prompt.saturating_sub(parts);
        tokens.output = tokens.output.saturating_sub(tokens.audio_output);
        Some(tokens)
    }
}

/// What answers of every endpoint have at their top, and the response inside of stream events.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer<'a> {
    model: Option<String>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    service_tier: Option<String>,
    /// Of a response: its items, among them calls of the provider's tools.
    output: Vec<Item>,
    error: Option<ErrorObject>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct ErrorObject {
    #[serde(default)]
    code: Option<serde_json::Value>,
    #[serde(rename = "type", default)]
    kind: Option<String>,
}

impl ErrorObject {
    fn code(self) -> String {
        match self.code {
            Some(serde_json::Value::String(code)) => code,
            Some(serde_json::Value::Number(code)) => code.to_string(),
            _ => self.kind.unwrap_or_else(|| "error".to_owned()),
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    report: Report,
}

impl Reading {
    fn take(&mut self, answer: Answer<'_>) {
        let report = &mut self.report;
        if answer.model.is_some() {
            report.model = answer.model;
        }
        match answer.service_tier.as_deref() {
            Some("priority") => report.served_as.tier = ServiceTier::Priority,
            Some("flex") => report.served_as.tier = ServiceTier::Flex,
            Some(_) => report.served_as = ServedAs::default(),
            None => {}
        }
        let raw = answer.usage.map(RawValue::get);
        if let Some(raw) = raw.filter(|raw| raw.starts_with('{'))
            && let Some(mut tokens) = serde_json::from_str::<Usage>(raw).ok().and_then(|usage| usage.tokens())
        {
            let searches = answer.output.iter().filter(|item| item.kind == "web_search_call").count();
            tokens.web_searches = searches as u64;
            report.tokens = Some(tokens);
            report.raw = Some(raw.to_owned());
        }
        if let Some(error) = answer.error {
            report.error_code = Some(error.code());
        }
    }
}

/// Reads a whole JSON answer.
pub fn read(_: &Endpoint, body: &[u8]) -> Report {
    let mut reading = Reading::default();
    reading.report.output_chars = body.len() as u64;
    if let Ok(answer) = serde_json::from_slice::<Answer<'_>>(body) {
        reading.take(answer);
        reading.report.complete = true;
    }
    reading.report
}

pub fn reader(endpoint: &Endpoint) -> Box<dyn UsageReader> {
    match endpoint {
        Endpoint::Responses => Box::new(ResponseStream::default()),
        _ => Box::new(ChatStream::default()),
    }
}

/// Chunks of a chat: one of the last holds the usage, and `[DONE]` ends it.
#[derive(Default)]
struct ChatStream {
    lines: Lines,
    reading: Reading,
}

impl UsageReader for ChatStream {
    fn push(&mut self, chunk: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(chunk, |line| self.line(line));
        self.lines = lines;
    }

    fn finish(self: Box<Self>) -> Report {
        self.reading.report
    }
}

impl ChatStream {
    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { return };
        let report = &mut self.reading.report;
        if data == b"[DONE]" {
            report.complete = true;
        } else if report.model.is_none() || tells_usage(data) || data.starts_with(b"{\"error\"") {
            if let Ok(answer) = serde_json::from_slice::<Answer<'_>>(data) {
                self.reading.take(answer);
            }
        } else {
            // The envelope of a chunk is some 200 characters; the rest is output.
            report.output_chars += (data.len() as u64).saturating_sub(200);
        }
    }
}

/// Whether a chunk has a usage that is not null, without reading all of it.
fn tells_usage(data: &[u8]) -> bool {
    let name = b"\"usage\"";
    memmem::rfind(data, name).is_some_and(|at| {
        let rest = data[at + name.len()..].trim_ascii_start();
        rest.strip_prefix(b":").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"{"))
    })
}

/// Events of a response: the last one holds the response itself with its usage.
#[derive(Default)]
struct ResponseStream {
    lines: Lines,
    event: Event,
    reading: Reading,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Event {
    Created,
    Ended,
    Failed,
    Error,
    Delta,
    #[default]
    Other,
}

#[derive(Deserialize)]
struct ResponseEvent<'a> {
    #[serde(borrow, default)]
    response: Option<Answer<'a>>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

impl UsageReader for ResponseStream {
    fn push(&mut self, chunk: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(chunk, |line| self.line(line));
        self.lines = lines;
    }

    fn finish(self: Box<Self>) -> Report {
        self.reading.report
    }
}

impl ResponseStream {
    fn line(&mut self, line: &[u8]) {
        if let Some(name) = line.strip_prefix(b"event:") {
            self.event = match name.trim_ascii() {
                b"response.created" => Event::Created,
                b"response.completed" | b"response.incomplete" => Event::Ended,
                b"response.failed" => Event::Failed,
                b"error" => Event::Error,
                name if name.ends_with(b".delta") => Event::Delta,
                _ => Event::Other,
            };
        } else if let Some(data) = line.strip_prefix(b"data:") {
            self.data(data);
        }
    }

    fn data(&mut self, data: &[u8]) {
        match self.event {
            Event::Created | Event::Ended | Event::Failed | Event::Error => {
                let Ok(event) = serde_json::from_slice::<ResponseEvent<'_>>(data) else { return };
                if let Some(response) = event.response {
                    self.reading.take(response);
                }
                let report = &mut self.reading.report;
                report.complete |= matches!(self.event, Event::Ended | Event::Failed);
                if self.event == Event::Error {
                    report.error_code = event.code.or(event.error.map(ErrorObject::code));
                }
            }
            // The envelope of a delta is some 150 characters; the rest is output.
            Event::Delta => {
                self.reading.report.output_chars += (data.len() as u64).saturating_sub(150);
            }
            Event::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_out_of_totals() {
        let chat = r#"{"id":"chatcmpl-1","model":"gpt-5.4-2026-03-05","service_tier":"priority","choices":[],
            "usage":{"prompt_tokens":1000,"completion_tokens":90,"total_tokens":1090,
            "prompt_tokens_details":{"cached_tokens":600,"audio_tokens":50,"cache_write_tokens":100},
            "completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":20}}}"#;
        let report = read(&Endpoint::ChatCompletions, chat.as_bytes());
        let expected = TokenUsage {
            input: 250,
            cache_read: 600,
            cache_write_5m: 100,
            audio_input: 50,
            output: 70,
            audio_output: 20,
            reasoning: 30,
            ..TokenUsage::default()
        };
        assert_eq!(report.tokens, Some(expected));
        assert_eq!(report.tokens.unwrap().prompt(), 1_000);
        assert_eq!(report.model.as_deref(), Some("gpt-5.4-2026-03-05"));
        assert_eq!(report.served_as.tier, ServiceTier::Priority);
        assert!(report.complete && report.raw.unwrap().starts_with(r#"{"prompt_tokens":1000"#));

        let response = r#"{"object":"response","model":"gpt-6-sol","output":[{"type":"web_search_call"},{"type":"message"}],
            "usage":{"input_tokens":80,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":60,
            "cache_write_tokens_details":{"ttl_12h_tokens":40,"ttl_30m_tokens":20}},"output_tokens":9,
            "output_tokens_details":{"reasoning_tokens":4},"total_tokens":89}}"#;
        let tokens = read(&Endpoint::Responses, response.as_bytes()).tokens.unwrap();
        assert_eq!((tokens.input, tokens.cache_write_5m, tokens.cache_write_1h), (20, 20, 40));
        assert_eq!((tokens.output, tokens.reasoning, tokens.web_searches), (9, 4, 1));

        let embedding = r#"{"object":"list","data":[],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
        let tokens = read(&Endpoint::Embeddings, embedding.as_bytes()).tokens.unwrap();
        assert_eq!((tokens.input, tokens.output), (8, 0));
        assert!(!read(&Endpoint::ChatCompletions, b"<html>").complete);
        assert_eq!(read(&Endpoint::ChatCompletions, br#"{"choices":[]}"#).tokens, None);
    }

    fn streamed(endpoint: &Endpoint, text: &str, step: usize) -> Report {
        let mut reader = reader(endpoint);
        for chunk in text.as_bytes().chunks(step) {
            reader.push(chunk);
        }
        reader.finish()
    }

    #[test]
    fn streams_of_chat_are_read_however_they_are_cut() {
        let text = "data: {\"id\":\"1\",\"model\":\"gpt-5.4\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{\"}}],\"usage\":null}\n\n\
                    data: {\"id\":\"1\",\"model\":\"gpt-5.4\",\"choices\":[{\"delta\":{\"content\":\"b\"}}],\"usage\":null}\n\n\
                    data: {\"id\":\"1\",\"model\":\"gpt-5.4\",\"service_tier\":\"default\",\"choices\":[],\"usage\": {\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n\
                    data: [DONE]\n\n";
        for step in [1, 3, 50, 10_000] {
            let report = streamed(&Endpoint::ChatCompletions, text, step);
            let tokens = report.tokens.unwrap();
            assert_eq!((tokens.input, tokens.output, report.complete), (5, 2, true), "{step}");
        }
        let cut = streamed(&Endpoint::ChatCompletions, &text[..text.len() / 2], 7);
        assert!(cut.tokens.is_none() && !cut.complete);
        let failed = "data: {\"error\":{\"message\":\"x\",\"type\":\"server_error\",\"code\":null}}\n\n";
        let failed = streamed(&Endpoint::ChatCompletions, failed, 9);
        assert_eq!(failed.error_code.as_deref(), Some("server_error"));
    }

    #[test]
    fn streams_of_responses_are_read() {
        let text = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-6-sol\",\"usage\":null,\"output\":[]}}\n\n\
                    event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n\
                    event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-6-sol-2026-09-22\",\"service_tier\":\"flex\",\"output\":[],\"usage\":{\"input_tokens\":7,\"output_tokens\":3,\"input_tokens_details\":{\"cached_tokens\":2,\"cache_write_tokens\":0}}}}\n\n";
        let report = streamed(&Endpoint::Responses, text, 11);
        let tokens = report.tokens.unwrap();
        assert_eq!((tokens.input, tokens.cache_read, tokens.output), (5, 2, 3));
        assert_eq!(report.model.as_deref(), Some("gpt-6-sol-2026-09-22"));
        assert_eq!(report.served_as.tier, ServiceTier::Flex);
        assert!(report.complete);
        let failed =
            "event: error\ndata: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"x\"}\n\n";
        assert_eq!(
            streamed(&Endpoint::Responses, failed, 11).error_code.as_deref(),
            Some("rate_limit_exceeded")
        );
    }
}
