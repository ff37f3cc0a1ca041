//! Writes what pages ask for, the way of any request.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use super::error::GatewayError;
use super::exchange::{AnswerBody, Chunks, Head};
use super::in_flight::{Ticket, Tickets};
use super::inbound::{Asked, Caller};
use super::{Call, Gateway, Route, Used, body, send};
use crate::access::scope::Scope;
use crate::domain::generation::text_of;
use crate::domain::ids::{RequestId, TenantId};
use crate::domain::provider_key::Verdict;
use crate::domain::usage::{Dialect, Labels};
use crate::providers::{self, Endpoint, Lines};
use crate::services::Services;
use crate::services::assistant::{Assignment, Assistant, Draft, NotWritten};

/// A request of Keyward's own for a tenant, in the Anthropic dialect.
pub(super) struct OwnRequest {
    pub id: RequestId,
    pub tenant: TenantId,
    pub feature: &'static str,
    pub prompt: &'static str,
    pub body: Value,
    pub recorded_first: bool,
}

/// Sends a request of Keyward's own through the resolver and the meter.
pub(super) async fn send_own(
    gateway: &Gateway,
    own: OwnRequest,
    ticket: Ticket,
) -> Result<(Head, Used), GatewayError> {
    let endpoint = Endpoint::Messages;
    let bytes = Bytes::from(own.body.to_string());
    let call = Call {
        id: own.id,
        caller: Caller { scope: Scope::of_token(own.tenant), tenant: own.tenant, token: None },
        asked: Asked {
            feature: Some(own.feature.to_owned()),
            labels: Labels { prompt: Some(own.prompt.to_owned()), ..Labels::default() },
            ..Asked::default()
        },
        envelope: body::envelope(&endpoint, &bytes)?,
        route: Route::new(Dialect::Anthropic, endpoint),
        query: None,
        bytes,
        recorded_first: own.recorded_first,
        ticket,
    };
    let passing = |_: &'static dyn providers::Provider| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers
    };
    send(gateway, call, passing).await
}

/// The assistant of this process.
#[must_use]
pub fn assistant(services: &Arc<Services>, tickets: Tickets) -> Arc<dyn Assistant> {
    let outbound = services.outbound.apart();
    Arc::new(Writer(Gateway { services: Arc::clone(services), outbound, tickets }))
}

struct Writer(Gateway);

impl Assistant for Writer {
    fn write(&self, assignment: Assignment) -> BoxFuture<'static, Result<Draft, NotWritten>> {
        let gateway = self.0.clone();
        Box::pin(async move {
            let Assignment { id, tenant, feature, prompt, body } = assignment;
            let own = OwnRequest { id, tenant, feature, prompt, body, recorded_first: false };
            let failed = |error: GatewayError| NotWritten::of(error.message());
            let ticket = gateway.tickets.take().ok_or_else(GatewayError::unavailable).map_err(failed)?;
            let (head, used) = send_own(&gateway, own, ticket.clone()).await.map_err(failed)?;
            if !(200..300).contains(&head.status) {
                return Err(refused(&head, &used, &gateway.services.options.product));
            }
            let broken = NotWritten::of(format!("The answer of {} broke off.", used.provider.label()));
            let pieces = match head.body {
                AnswerBody::Whole(bytes) => stream::iter(whole(&bytes)).boxed(),
                AnswerBody::Stream(chunks) => pieces(chunks, broken),
            };
            Ok(Draft { key: used.key, pieces, ticket })
        })
    }
}

/// What an answer that refuses means to the tenant.
fn refused(head: &Head, used: &Used, product: &str) -> NotWritten {
    let provider = used.provider.label();
    let console = providers::of(used.provider).spec().console.filter(|_| !used.shared);
    let whose = if used.shared { format!("{product}'s shared") } else { "your".to_owned() };
    let name = used.key.split('@').next().unwrap_or_default();
    let (reason, link) = match head.verdict {
        Verdict::Rejected if used.shared => (format!("{provider} rejected {product}'s shared key."), None),
        Verdict::Rejected => (
            format!(
                "{provider} rejected your key {name}: it was revoked or replaced there. Paste a new one."
            ),
            console.map(|console| console.keys),
        ),
        Verdict::OutOfCredit => (
            format!("The {provider} account of {whose} key is out of credit."),
            console.map(|console| console.billing),
        ),
        Verdict::SpendLimit { .. } => (
            format!("The {provider} account of {whose} key has reached its spend limit."),
            console.map(|console| console.limits),
        ),
        Verdict::RateLimited { .. } => (
            format!("{provider} limits the rate of {whose} key. Try again in a minute."),
            console.map(|console| console.limits),
        ),
        _ => (format!("{provider} answered with status {}. Try again in a moment.", head.status), None),
    };
    NotWritten { reason, link: link.unwrap_or("") }
}

/// What an answer that came in one piece holds of text.
fn whole(answer: &[u8]) -> Option<Result<String, NotWritten>> {
    let mut text = text_of(answer)?;
    let stopped = serde_json::from_slice::<Value>(answer).ok()?;
    if stopped["stop_reason"] == CUT_SHORT {
        text.push_str(CUT);
    }
    Some(Ok(text))
}

/// Why a model stopped that had more to say.
const CUT_SHORT: &str = "max_tokens";
/// What then stands at the end of its text.
const CUT: &str = "\n\n[The model stopped here: it had reached its limit of length.]";

/// What a stream holds of text, and whether it has come to its end.
#[derive(Default)]
struct Reading {
    lines: Lines,
    texts: VecDeque<String>,
    over: bool,
    failed: bool,
}

impl Reading {
    fn push(&mut self, chunk: &[u8]) {
        let Self { lines, texts, over, failed } = self;
        lines.push(chunk, |line| {
            let Some(data) = line.strip_prefix(b"data:") else { return };
            let Ok(event) = serde_json::from_slice::<Value>(data) else { return };
            match event["type"].as_str() {
                Some("content_block_delta") => {
                    texts.extend(event["delta"]["text"].as_str().map(str::to_owned));
                }
                Some("message_delta") if event["delta"]["stop_reason"] == CUT_SHORT => {
                    texts.push_back(CUT.to_owned());
                }
                Some("message_stop") => *over = true,
                Some("error") => *failed = true,
                _ => {}
            }
        });
    }
}

fn pieces(chunks: Chunks, broken: NotWritten) -> stream::BoxStream<'static, Result<String, NotWritten>> {
    stream::unfold(Some((chunks, Reading::default(), broken)), |state| async {
        let (mut chunks, mut reading, broken) = state?;
        loop {
            if let Some(text) = reading.texts.pop_front() {
                return Some((Ok(text), Some((chunks, reading, broken))));
            }
            if reading.failed {
                return Some((Err(broken), None));
            }
            match chunks.next().await {
                Some(Ok(chunk)) => reading.push(&chunk),
                None if reading.over => return None,
                None | Some(Err(_)) => return Some((Err(broken), None)),
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_the_end_are_read_however_the_stream_is_cut() {
        let stream = concat!(
            "event: message_start\ndata: {\"type\":\"message_start\"}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"One \"}}\n\n",
            "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"tw\\u00f6\"}}\r\n\r\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"x\"}}\n\n",
            "data: nonsense\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        );
        for size in [1, 7, 64, 4_096] {
            let mut reading = Reading::default();
            for piece in stream.as_bytes().chunks(size) {
                reading.push(piece);
            }
            assert_eq!(Vec::from(reading.texts), ["One ", "twö"]);
            assert!(reading.over && !reading.failed);
        }
        let cut = r#"{"type":"message","stop_reason":"max_tokens","content":[{"type":"text","text":"One"}]}"#;
        assert_eq!(whole(cut.as_bytes()), Some(Ok(format!("One{CUT}"))));
        let mut reading = Reading::default();
        reading.push(b"data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"}}\n");
        assert_eq!(Vec::from(reading.texts), [CUT]);
        let mut reading = Reading::default();
        reading.push(b"data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n");
        assert!(reading.failed && !reading.over);
    }
}
