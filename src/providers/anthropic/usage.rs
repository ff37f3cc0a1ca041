//! Reads Anthropic's usage from a body or a stream as it passes by.
//!
//! In a stream `message_start` holds the input with its cache split, and each `message_delta` the
//! cumulative totals without the split. Only these events are parsed; deltas of content are not.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::lines::Lines;
use super::super::{Report, UsageReader};
use crate::domain::usage::{ServedAs, ServiceTier, Speed, TokenUsage};

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default)]
    model: Option<String>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct MessageStart<'a> {
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct MessageDelta<'a> {
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ErrorEvent {
    error: ErrorObject,
}

#[derive(Deserialize)]
struct ErrorObject {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    details: Option<ErrorDetails>,
}

#[derive(Deserialize)]
struct ErrorDetails {
    #[serde(default)]
    error_code: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    output_tokens_details: Option<OutputDetails>,
    server_tool_use: Option<ServerTools>,
    service_tier: Option<String>,
    speed: Option<String>,
    inference_geo: Option<String>,
    iterations: Option<Vec<Iteration>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    thinking_tokens: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerTools {
    web_search_requests: Option<u64>,
}

/// One sampling inside a request. Tokens of a `compaction` are billed but not in the totals.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Iteration {
    #[serde(rename = "type")]
    kind: String,
    input_tokens: u64,
    output_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation: Option<CacheCreation>,
}

/// Usage as it builds up over an answer.
#[derive(Default)]
struct Reading {
    seen: bool,
    tokens: TokenUsage,
    compaction: TokenUsage,
    served_as: ServedAs,
}

impl Reading {
    /// Takes a usage object; what it does not name stays as it was.
    fn take(&mut self, usage: &Usage) {
        self.seen = true;
        let tokens = &mut self.tokens;
        set(&mut tokens.input, usage.input_tokens);
        set(&mut tokens.output, usage.output_tokens);
        set(&mut tokens.cache_read, usage.cache_read_input_tokens);
        if let Some(split) = &usage.cache_creation {
            tokens.cache_write_5m = split.ephemeral_5m_input_tokens;
            tokens.cache_write_1h = split.ephemeral_1h_input_tokens;
        }
        if let Some(total) = usage.cache_creation_input_tokens {
            // A total that grew since the split was told grew by the default kind.
            tokens.cache_write_1h = tokens.cache_write_1h.min(total);
            tokens.cache_write_5m = total - tokens.cache_write_1h;
        }
        set(
            &mut tokens.reasoning,
            usage.output_tokens_details.as_ref().map(|details| details.thinking_tokens),
        );
        set(
            &mut tokens.web_searches,
            usage.server_tool_use.as_ref().and_then(|tools| tools.web_search_requests),
        );
        if let Some(tier) = usage.service_tier.as_deref().and_then(ServiceTier::parse) {
            self.served_as.tier = tier;
        }
        if let Some(speed) = usage.speed.as_deref().and_then(Speed::parse) {
            self.served_as.speed = speed;
        }
        if let Some(geo) = usage.inference_geo.as_deref() {
            self.served_as.us_only = geo == "us";
        }
        if let Some(iterations) = &usage.iterations {
            self.compaction = compaction(iterations);
        }
    }

    fn tokens(&self) -> Option<TokenUsage> {
        let (a, b) = (&self.tokens, &self.compaction);
        self.seen.then(|| TokenUsage {
            input: a.input.saturating_add(b.input),
            cache_read: a.cache_read.saturating_add(b.cache_read),
            cache_write_5m: a.cache_write_5m.saturating_add(b.cache_write_5m),
            cache_write_1h: a.cache_write_1h.saturating_add(b.cache_write_1h),
            output: a.output.saturating_add(b.output),
            reasoning: a.reasoning,
            web_searches: a.web_searches,
            ..TokenUsage::default()
        })
    }
}

fn set(counter: &mut u64, told: Option<u64>) {
    if let Some(told) = told {
        *counter = told;
    }
}

fn compaction(iterations: &[Iteration]) -> TokenUsage {
    let mut sum = TokenUsage::default();
    for iteration in iterations.iter().filter(|iteration| iteration.kind == "compaction") {
        let hour = iteration.cache_creation.as_ref().map_or(0, |split| split.ephemeral_1h_input_tokens);
        sum.input = sum.input.saturating_add(iteration.input_tokens);
        sum.output = sum.output.saturating_add(iteration.output_tokens);
        sum.cache_read = sum.cache_read.saturating_add(iteration.cache_read_input_tokens);
        sum.cache_write_1h = sum.cache_write_1h.saturating_add(hour);
        sum.cache_write_5m =
            sum.cache_write_5m.saturating_add(iteration.cache_creation_input_tokens.saturating_sub(hour));
    }
    sum
}

/// Reads a whole JSON message.
pub(super) fn read(body: &[u8]) -> Report {
    let mut report = Report { output_chars: body.len() as u64, ..Report::default() };
    let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else { return report };
    report.complete = true;
    report.model = message.model;
    if let Some((raw, usage)) = message.usage.and_then(parsed) {
        let mut reading = Reading::default();
        reading.take(&usage);
        report.tokens = reading.tokens();
        report.served_as = reading.served_as;
        report.raw = Some(raw.to_owned());
    }
    report
}

fn parsed(raw: &RawValue) -> Option<(&str, Usage)> {
    serde_json::from_str(raw.get()).ok().map(|usage| (raw.get(), usage))
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Event {
    Start,
    Delta,
    Stop,
    Error,
    Content,
    #[default]
    Other,
}

/// A stream of server-sent events, read line by line.
#[derive(Default)]
pub(super) struct Stream {
    lines: Lines,
    event: Event,
    reading: Reading,
    model: Option<String>,
    raw_start: Option<String>,
    raw_delta: Option<String>,
    complete: bool,
    error_code: Option<String>,
    output_chars: u64,
}

impl UsageReader for Stream {
    fn push(&mut self, chunk: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(chunk, |line| self.line(line));
        self.lines = lines;
    }

    fn finish(self: Box<Self>) -> Report {
        let raw = match (self.raw_start, self.raw_delta) {
            (Some(start), Some(delta)) => {
                Some(format!(r#"{{"message_start":{start},"message_delta":{delta}}}"#))
            }
            (start, delta) => start.or(delta),
        };
        Report {
            tokens: self.reading.tokens(),
            served_as: self.reading.served_as,
            model: self.model,
            raw,
            complete: self.complete,
            error_code: self.error_code,
            output_chars: self.output_chars,
        }
    }
}

impl Stream {
    fn line(&mut self, line: &[u8]) {
        if let Some(name) = line.strip_prefix(b"event:") {
            self.event = match name.trim_ascii() {
                b"message_start" => Event::Start,
                b"message_delta" => Event::Delta,
                b"message_stop" => Event::Stop,
                b"error" => Event::Error,
                b"content_block_delta" => Event::Content,
                _ => Event::Other,
            };
            self.complete |= self.event == Event::Stop;
        } else if let Some(data) = line.strip_prefix(b"data:") {
            self.data(data);
        }
    }

    fn data(&mut self, data: &[u8]) {
        match self.event {
            Event::Start => {
                if let Ok(start) = serde_json::from_slice::<MessageStart<'_>>(data) {
                    self.model = start.message.model;
                    if let Some((raw, usage)) = start.message.usage.and_then(parsed) {
                        self.reading.take(&usage);
                        self.raw_start = Some(raw.to_owned());
                    }
                }
            }
            Event::Delta => {
                let delta = serde_json::from_slice::<MessageDelta<'_>>(data).ok();
                if let Some((raw, usage)) = delta.and_then(|delta| delta.usage).and_then(parsed) {
                    self.reading.take(&usage);
                    self.raw_delta = Some(raw.to_owned());
                }
            }
            Event::Error => {
                if let Ok(event) = serde_json::from_slice::<ErrorEvent>(data) {
                    let code = event.error.details.and_then(|details| details.error_code);
                    self.error_code = Some(code.unwrap_or(event.error.kind));
                }
            }
            // The envelope of a delta is some 80 characters; the rest is output.
            Event::Content => self.output_chars += (data.len() as u64).saturating_sub(80),
            Event::Stop | Event::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        "event: message_start\n",
        r#"data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5","content":[],"stop_reason":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":300,"cache_read_input_tokens":40,"cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":1,"service_tier":"standard","inference_geo":"us"}}}"#,
        "\n\nevent: content_block_start\n",
        r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        "\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n",
        "event: content_block_delta\n",
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
        "\n\nevent: message_delta\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":9}}"#,
        "\n\nevent: message_delta\r\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":26,"cache_creation_input_tokens":310,"cache_read_input_tokens":40,"output_tokens":15,"output_tokens_details":{"thinking_tokens":4},"server_tool_use":{"web_search_requests":2,"web_fetch_requests":0}}}"#,
        "\r\n\r\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );

    fn read_stream(pieces: &[&[u8]]) -> Report {
        let mut reader = Box::new(Stream::default());
        for piece in pieces {
            reader.push(piece);
        }
        reader.finish()
    }

    fn expected() -> TokenUsage {
        TokenUsage {
            input: 26,
            cache_read: 40,
            cache_write_5m: 110,
            cache_write_1h: 200,
            output: 15,
            reasoning: 4,
            web_searches: 2,
            ..TokenUsage::default()
        }
    }

    #[test]
    fn a_stream_is_read_to_its_last_word() {
        let report = read_stream(&[STREAM.as_bytes()]);
        assert_eq!(report.tokens, Some(expected()));
        assert!(report.complete && report.served_as.us_only);
        assert_eq!(report.model.as_deref(), Some("claude-opus-5"));
        assert!(serde_json::from_str::<serde_json::Value>(&report.raw.unwrap()).is_ok());
    }

    #[test]
    fn a_cut_stream_is_incomplete_and_keeps_what_was_told() {
        let cut = STREAM.find("event: message_delta").unwrap();
        let report = read_stream(&[&STREAM.as_bytes()[..cut + 10]]);
        assert!(!report.complete);
        assert_eq!(report.tokens.unwrap().input, 25);
        assert!(report.output_chars > 0);
    }

    #[test]
    fn an_error_inside_a_stream_is_told() {
        let text = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n";
        assert_eq!(read_stream(&[text.as_bytes()]).error_code.as_deref(), Some("overloaded_error"));
    }

    #[test]
    fn a_body_is_read_and_a_compaction_added() {
        let report = read(br#"{"id":"msg_1","type":"message","model":"claude-haiku-4-5","content":[],"usage":{"input_tokens":10,"output_tokens":20,"speed":"fast","iterations":[{"type":"message","input_tokens":10,"output_tokens":20},{"type":"compaction","input_tokens":5,"output_tokens":7,"cache_creation_input_tokens":3,"cache_read_input_tokens":2}]}}"#);
        let tokens = report.tokens.unwrap();
        assert_eq!((tokens.input, tokens.output, tokens.cache_write_5m, tokens.cache_read), (15, 27, 3, 2));
        assert_eq!(report.served_as.speed, Speed::Fast);
        assert!(report.complete);
    }

    #[test]
    fn garbage_reports_nothing() {
        let report = read(b"<html>not json</html>");
        assert!(report.tokens.is_none() && !report.complete);
    }

    proptest! {
        /// Where the network cuts a stream makes no difference.
        #[test]
        fn chunking_changes_nothing(mut cuts in proptest::collection::vec(0..STREAM.len(), 0..12)) {
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            pieces.push(&STREAM.as_bytes()[from..]);
            let report = read_stream(&pieces);
            prop_assert_eq!(report.tokens, Some(expected()));
            prop_assert!(report.complete);
        }
    }
}
