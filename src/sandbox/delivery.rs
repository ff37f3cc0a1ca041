//! How an answer leaves the sandbox: whole, event by event, late, broken, or never.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::time::sleep;

use super::behaviour::Behaviour;
use super::text::FILLER_MARK;

const SLOW_START: Duration = Duration::from_secs(2);
const SLOW_EVENT: Duration = Duration::from_millis(20);

/// Long enough for what was written before a break to reach the socket.
const BEFORE_BREAK: Duration = Duration::from_millis(20);

const GARBAGE: &str = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>\n\
                       <body>data: {\"type\": \"message_start\", \"message\": {{{ \u{0}\u{fffd}</body></html>\n";

const FILLER_CHUNK: usize = 64 * 1024;
const FILLER_CHUNKS: usize = 80 * 1024 * 1024 / FILLER_CHUNK;

/// An answer that is decided.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub payload: Payload,
    /// How it is delivered. Refusals come as they are.
    pub behaviour: Behaviour,
}

pub enum Payload {
    Json(Bytes),
    /// Each piece is sent on its own.
    Stream {
        content_type: &'static str,
        frames: Vec<Bytes>,
    },
}

impl Reply {
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).unwrap_or_default().into();
        Self { status, headers: Vec::new(), payload: Payload::Json(body), behaviour: Behaviour::Ok }
    }

    pub fn events(frames: Vec<Bytes>) -> Self {
        Self::stream("text/event-stream; charset=utf-8", frames)
    }

    pub fn stream(content_type: &'static str, frames: Vec<Bytes>) -> Self {
        let payload = Payload::Stream { content_type, frames };
        Self { status: 200, headers: Vec::new(), payload, behaviour: Behaviour::Ok }
    }

    pub fn with(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn behaving(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }

    /// The status that is written down: none where no answer is ever given.
    pub fn told(&self) -> Option<u16> {
        (self.behaviour != Behaviour::Hang).then_some(self.status)
    }
}

pub async fn send(reply: Reply) -> HttpResponse {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut head = HttpResponseBuilder::new(status);
    for header in reply.headers {
        head.insert_header(header);
    }
    match reply.behaviour {
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Slow => sleep(SLOW_START).await,
        _ => {}
    }
    let (frames, streaming) = match reply.payload {
        Payload::Json(body) => {
            head.content_type("application/json");
            (vec![body], false)
        }
        Payload::Stream { content_type, frames } => {
            head.content_type(content_type).insert_header(("cache-control", "no-cache"));
            (frames, true)
        }
    };
    match reply.behaviour {
        Behaviour::Garbage => head.body(GARBAGE),
        Behaviour::Huge => head.streaming(filled(&frames.concat())),
        Behaviour::Truncated if streaming => head.streaming(broken(&frames)),
        Behaviour::Truncated => {
            // The length of the whole, which the stream will not keep.
            let promised = frames.iter().map(|frame| frame.len() as u64).sum();
            head.body(SizedStream::new(promised, broken(&frames)))
        }
        Behaviour::Slow if streaming => head.streaming(paced(frames, SLOW_EVENT)),
        _ if streaming => head.streaming(paced(frames, Duration::ZERO)),
        _ => head.body(frames.concat()),
    }
}

/// Event by event: the connection is flushed after each, as a real provider's is.
fn paced(frames: Vec<Bytes>, pause: Duration) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::iter(frames).then(move |frame| async move {
        if pause.is_zero() {
            tokio::task::yield_now().await;
        } else {
            sleep(pause).await;
        }
        Ok(frame)
    })
}

/// The first half of the frames and half of the next; then the connection breaks.
fn broken(frames: &[Bytes]) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let (whole, rest) = frames.split_at(frames.len() / 2);
    let mut kept = whole.to_vec();
    kept.extend(rest.first().map(|frame| frame.slice(..frame.len() / 2)));
    let cut = stream::once(async {
        sleep(BEFORE_BREAK).await;
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    stream::iter(kept).map(Ok).chain(cut)
}

/// The text with its mark replaced by the filler, which is never in memory as a whole.
fn filled(text: &[u8]) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
    let mark = FILLER_MARK.as_bytes();
    let at = text.windows(mark.len()).position(|window| window == mark).unwrap_or(text.len());
    let (before, after) = (&text[..at], &text[(at + mark.len()).min(text.len())..]);
    let filler = Bytes::from(vec![b'x'; FILLER_CHUNK]);
    let parts = std::iter::once(Bytes::copy_from_slice(before))
        .chain(std::iter::repeat_n(filler, FILLER_CHUNKS))
        .chain([Bytes::copy_from_slice(after)]);
    stream::iter(parts).map(Ok)
}
