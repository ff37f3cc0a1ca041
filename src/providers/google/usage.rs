//! Reads Gemini's usage from a body or a stream as it passes by. In a stream every chunk holds the
//! totals so far, and the last one counts. Output is candidates and thoughts together.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::{Report, UsageReader};
use super::judge;
use crate::domain::usage::{ServedAs, ServiceTier, TokenUsage};

/// A chunk longer than this is passed on but not read.
const MAX_CHUNK: usize = 4 * 1_024 * 1_024;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer<'a> {
    model_version: Option<String>,
    #[serde(borrow)]
    usage_metadata: Option<&'a RawValue>,
    candidates: Vec<Candidate>,
    prompt_feedback: Option<serde::de::IgnoredAny>,
    total_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Candidate {
    finish_reason: Option<String>,
    grounding_metadata: Option<Grounding>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Grounding {
    web_search_queries: Vec<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Usage {
    prompt_token_count: u64,
    candidates_token_count: u64,
    thoughts_token_count: u64,
    cached_content_token_count: u64,
    tool_use_prompt_token_count: u64,
    prompt_tokens_details: Vec<Modality>,
    candidates_tokens_details: Vec<Modality>,
    traffic_type: Option<String>,
    service_tier: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modality {
    modality: String,
    token_count: u64,
}

fn audio(details: &[Modality]) -> u64 {
    details
        .iter()
        .filter(|part| part.modality == "AUDIO")
        .fold(0, |sum, part| sum.saturating_add(part.token_count))
}

impl Usage {
    fn tokens(&self) -> TokenUsage {
        let (audio_input, audio_output) =
            (audio(&self.prompt_tokens_details), audio(&self.candidates_tokens_details));
        let parts = self.cached_content_token_count.saturating_add(audio_input);
        TokenUsage {
            input: self.prompt_token_count.saturating_sub(parts),
            cache_read: self.cached_content_token_count,
            output: self
                .candidates_token_count
                .saturating_sub(audio_output)
                .saturating_add(self.thoughts_token_count),
            reasoning: self.thoughts_token_count,
            tool: self.tool_use_prompt_token_count,
            audio_input,
            audio_output,
            ..TokenUsage::default()
        }
    }

    fn served_as(&self) -> ServedAs {
        let tier = match (self.traffic_type.as_deref(), self.service_tier.as_deref()) {
            (Some("ON_DEMAND_PRIORITY"), _) | (_, Some("priority" | "PRIORITY")) => ServiceTier::Priority,
            (Some("ON_DEMAND_FLEX"), _) | (_, Some("flex" | "FLEX")) => ServiceTier::Flex,
            _ => ServiceTier::Standard,
        };
        ServedAs { tier, ..ServedAs::default() }
    }
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    report: Report,
    searches: u64,
    /// The model said why it stopped, or that it would not begin.
    ended: bool,
}

impl Reading {
    fn take(&mut self, json: &[u8]) -> bool {
        let Ok(answer) = serde_json::from_slice::<Answer<'_>>(json) else { return false };
        let report = &mut self.report;
        self.ended |= answer.prompt_feedback.is_some() || answer.total_tokens.is_some();
        for candidate in &answer.candidates {
            self.ended |= candidate.finish_reason.is_some();
            let queries =
                candidate.grounding_metadata.as_ref().map_or(0, |found| found.web_search_queries.len());
            self.searches = self.searches.max(queries as u64);
        }
        if answer.model_version.is_some() {
            report.model = answer.model_version;
        }
        let usage =
            answer.usage_metadata.and_then(|raw| Some((raw, serde_json::from_str::<Usage>(raw.get()).ok()?)));
        if let Some((raw, usage)) = usage {
            report.tokens = Some(usage.tokens());
            report.served_as = usage.served_as();
            report.raw = Some(raw.get().to_owned());
        }
        if json.starts_with(b"{\"error\"") {
            report.error_code = judge::code(json).map(std::borrow::Cow::into_owned);
        }
        true
    }

    fn finish(mut self) -> Report {
        // Up to Gemini 2.5 a request with searches is charged once, from then on each search is.
        let by_request = self.report.model.as_deref().is_some_and(|model| model.starts_with("gemini-2"));
        if let Some(tokens) = &mut self.report.tokens {
            tokens.web_searches = if by_request { self.searches.min(1) } else { self.searches };
        }
        self.report
    }
}

/// Reads a whole JSON answer.
pub fn read(body: &[u8]) -> Report {
    let mut reading = Reading::default();
    reading.report.output_chars = body.len() as u64;
    reading.report.complete = reading.take(body);
    reading.finish()
}

pub fn reader() -> Box<dyn UsageReader> {
    Box::new(Stream::default())
}

/// A stream of chunks: server-sent events, or one JSON list that grows. Either way the chunks are
/// the objects in it: what a line of an event holds, or else what lies between braces.
///
/// Every chunk repeats the totals, so most are only kept until the next one comes.
#[derive(Default)]
struct Stream {
    /// The beginning of an object whose end has not come yet.
    object: Vec<u8>,
    depth: u32,
    in_text: bool,
    escaped: bool,
    skipping: bool,
    /// The latest chunk with totals and nothing else to tell, not yet read.
    latest: Vec<u8>,
    reading: Reading,
}

impl UsageReader for Stream {
    fn push(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while self.depth == 0
            && let Some((json, after)) = whole_event(rest)
        {
            self.whole(json);
            rest = after;
        }
        self.by_braces(rest);
    }

    fn finish(mut self: Box<Self>) -> Report {
        self.read_latest();
        let mut reading = self.reading;
        reading.report.complete = reading.ended && self.depth == 0;
        reading.finish()
    }
}

/// The object of an event that begins here, if its line ends here too, and what follows it.
fn whole_event(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let line = bytes[blank..].strip_prefix(b"data: ")?;
    let (line, after) = line.split_at(memchr::memchr(b'\n', line)?);
    let json = line.strip_suffix(b"\r").unwrap_or(line);
    (json.starts_with(b"{") && json.ends_with(b"}")).then_some((json, after))
}

impl Stream {
    fn by_braces(&mut self, chunk: &[u8]) {
        let mut from = 0;
        for (at, byte) in chunk.iter().enumerate() {
            if self.depth > 0 && self.in_text {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' if self.depth > 0 => self.in_text = true,
                b'{' => {
                    if self.depth == 0 {
                        from = at;
                    }
                    self.depth += 1;
                }
                b'}' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.object_ends(&chunk[from..=at]);
                        from = at + 1;
                    }
                }
                _ => {}
            }
        }
        if self.depth > 0 {
            self.keep(&chunk[from..]);
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.skipping || self.object.len() + piece.len() > MAX_CHUNK {
            self.skipping = true;
            self.object = Vec::new();
        } else {
            self.object.extend_from_slice(piece);
        }
    }

    fn object_ends(&mut self, last: &[u8]) {
        if std::mem::take(&mut self.skipping) {
            return;
        }
        let mut whole = std::mem::take(&mut self.object);
        let json = if whole.is_empty() {
            last
        } else {
            whole.extend_from_slice(last);
            &whole
        };
        self.whole(json);
    }

    fn whole(&mut self, json: &[u8]) {
        // The envelope of a chunk is some 300 characters; the rest is output.
        self.reading.report.output_chars += (json.len() as u64).saturating_sub(300);
        if TELLING.iter().any(|name| name.find(json).is_some()) {
            self.read_latest();
            self.reading.take(json);
        } else if TOTALS.find(json).is_some() {
            self.latest.clear();
            self.latest.extend_from_slice(json);
        }
    }

    fn read_latest(&mut self) {
        if !self.latest.is_empty() {
            self.reading.take(&self.latest);
            self.latest.clear();
        }
    }
}

/// What a chunk holds that must be read whatever comes after it.
static TELLING: LazyLock<[Finder<'static>; 4]> = LazyLock::new(|| {
    ["\"finishReason\"", "\"groundingMetadata\"", "\"promptFeedback\"", "\"error\""].map(Finder::new)
});
static TOTALS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usageMetadata\""));

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: &str = r#"{"candidates":[{"content":{"parts":[{"text":"}{\"\\"}]},"finishReason":"STOP","groundingMetadata":{"webSearchQueries":["a","b"]}}],
        "usageMetadata":{"promptTokenCount":100,"cachedContentTokenCount":40,"candidatesTokenCount":7,"thoughtsTokenCount":5,
        "toolUsePromptTokenCount":9,"totalTokenCount":121,"promptTokensDetails":[{"modality":"TEXT","tokenCount":70},{"modality":"AUDIO","tokenCount":30}],
        "serviceTier":"flex"},"modelVersion":"gemini-3.8-flash"}"#;

    fn expected() -> TokenUsage {
        TokenUsage {
            input: 30,
            cache_read: 40,
            output: 12,
            reasoning: 5,
            tool: 9,
            audio_input: 30,
            web_searches: 2,
            ..TokenUsage::default()
        }
    }

    #[test]
    fn parts_are_kept_apart() {
        let report = read(LAST.as_bytes());
        assert_eq!(report.tokens, Some(expected()));
        assert_eq!(report.served_as.tier, ServiceTier::Flex);
        assert_eq!(report.model.as_deref(), Some("gemini-3.8-flash"));
        assert!(report.complete);
        let older = LAST.replace("gemini-3.8-flash", "gemini-2.5-flash");
        assert_eq!(read(older.as_bytes()).tokens.unwrap().web_searches, 1);
        assert!(!read(b"<html>").complete);
    }

    #[test]
    fn streams_are_read_in_both_shapes_and_however_they_are_cut() {
        let first = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":100},"modelVersion":"gemini-3.8-flash"}"#;
        let last = LAST.replace('\n', "");
        let events = format!("data: {first}\r\n\r\ndata: {last}\r\n\r\n");
        let list = format!("[{first}\n,\r\n{last}]");
        for text in [events, list] {
            for step in [1, 5, 64, 100_000] {
                let mut reader = reader();
                for chunk in text.as_bytes().chunks(step) {
                    reader.push(chunk);
                }
                let report = reader.finish();
                assert_eq!(report.tokens, Some(expected()), "{step}");
                assert!(report.complete);
            }
        }
        let mut cut = reader();
        cut.push(format!("data: {first}\n\ndata: {{\"cand").as_bytes());
        let report = cut.finish();
        assert_eq!((report.tokens.unwrap().input, report.complete), (100, false));
        let mut failed = reader();
        failed
            .push(b"data: {\"error\": {\"code\": 503, \"message\": \"x\", \"status\": \"UNAVAILABLE\"}}\n\n");
        failed.push(b"data: {\"error\":{\"code\":503,\"status\":\"UNAVAILABLE\"}}\n\n");
        assert_eq!(failed.finish().error_code.as_deref(), Some("UNAVAILABLE"));
    }
}
