//! One exchange with a provider, from the request that goes out to the settled usage row. Runs on
//! the worker that took the request; when the client leaves, the process's runtime carries it on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};

use super::error::GatewayError;
use super::in_flight::Ticket;
use super::{began, microseconds_since};
use crate::domain::ids::TokenId;
use crate::domain::money::Nanos;
use crate::domain::provider_key::{KeyView, Verdict};
use crate::domain::usage::{TokenUsage, UsageRow};
use crate::outbound::{Answer, Outbound, Patience, SendError, Trust};
use crate::providers::openai::UsageFilter;
use crate::providers::{self, Endpoint, Outgoing, Report, UsageReader};
use crate::services::Services;
use crate::services::directory::PlatformView;
use crate::services::meter::{self, Ending, NotRecorded, Opened};

/// A JSON answer comes whole; a longer one is no answer of a model.
const MAX_JSON: usize = 16 * 1_024 * 1_024;
/// Error answers are short.
const MAX_ERROR: usize = 1_024 * 1_024;
/// The code of what ended because its client had left.
const CLIENT_LEFT: &str = "keyward_client_left";

pub struct Exchange {
    pub services: Arc<Services>,
    pub outbound: Outbound,
    pub platform: Arc<PlatformView>,
    pub key: KeyView,
    pub endpoint: Endpoint,
    pub trust: Trust,
    /// Whether its pending row must be committed before anything goes out, held back or not.
    pub recorded_first: bool,
    pub row: UsageRow,
    /// Held to the end, so that a shutdown waits for it.
    pub ticket: Ticket,
}

/// The beginning of an answer, ready for the client.
pub struct Head {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: AnswerBody,
    /// What it says of the key.
    pub verdict: Verdict,
}

pub enum AnswerBody {
    Whole(Bytes),
    Stream(Chunks),
}

/// The rest of a streamed answer. Dropping it tells the exchange that the client has left.
pub struct Chunks {
    pieces: mpsc::Receiver<Piece>,
    is_over: bool,
}

/// What goes to the client of a stream.
enum Piece {
    Next(Bytes),
    /// Without it the stream broke off. May be empty.
    Last(Bytes),
}

/// A stream that ends before its time, which its client learns by the connection's break.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub struct BrokenOff;

impl Stream for Chunks {
    type Item = Result<Bytes, BrokenOff>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let piece = std::task::ready!(self.pieces.poll_recv(cx));
        self.is_over = !matches!(piece, Some(Piece::Next(_)));
        Poll::Ready(match piece {
            Some(Piece::Last(bytes)) if bytes.is_empty() => None,
            Some(Piece::Next(bytes) | Piece::Last(bytes)) => Some(Ok(bytes)),
            None => Some(Err(BrokenOff)),
        })
    }
}

/// Where the head of the answer is handed over.
struct ToClient {
    head: oneshot::Sender<Result<Head, GatewayError>>,
    /// When the client was seen to have left.
    left_at: Option<tokio::time::Instant>,
}

impl ToClient {
    /// Gives whether there is still somebody to take it.
    fn send(self, head: Result<Head, GatewayError>) -> bool {
        self.head.send(head).is_ok()
    }

    /// Runs on until the work is done, or for as long as is drained after the client has left.
    async fn while_wanted<T>(&mut self, drain: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = self.head.closed() => {}
        }
        let left_at = *self.left_at.get_or_insert_with(tokio::time::Instant::now);
        tokio::time::timeout_at(left_at + drain, work).await.ok()
    }
}

/// Work that nobody's leaving ends: dropped before it is done, it goes on on the process's runtime.
struct Carried {
    work: Option<BoxFuture<'static, ()>>,
    runtime: tokio::runtime::Handle,
}

impl Future for Carried {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let done = self.work.as_mut().is_none_or(|work| work.as_mut().poll(cx).is_ready());
        if done {
            self.work = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.runtime.spawn(work);
        }
    }
}

/// The request is not recorded, so it does not go out.
fn refuse(to_client: ToClient, why: NotRecorded) {
    to_client.send(Err(why.into()));
}

impl Exchange {
    /// Starts the exchange and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is no answer that could be passed on.
    pub async fn start(
        self: Box<Self>,
        outgoing: Outgoing,
        token: Option<TokenId>,
    ) -> Result<Head, GatewayError> {
        let runtime = self.services.runtime.clone();
        let (to_client, mut head) = oneshot::channel();
        let to_client = ToClient { head: to_client, left_at: None };
        let mut work = Carried { work: Some(Box::pin(self.run(outgoing, token, to_client))), runtime };
        let early = tokio::select! {
            biased;
            () = &mut work => head.try_recv().ok(),
            head = &mut head => {
                // The head of a stream; the rest of it goes on beside the client's connection.
                tokio::spawn(work);
                head.ok()
            }
        };
        early.unwrap_or_else(|| Err(GatewayError::unavailable()))
    }

    async fn run(self: Box<Self>, outgoing: Outgoing, token: Option<TokenId>, mut to_client: ToClient) {
        let outbound = self.outbound.clone();
        let Patience { first_byte, drain, .. } = outbound.patience();
        let hides_usage = outgoing.hides_usage;
        let mut opened = match self.services.meter.open(self.row.clone(), token) {
            Ok(opened) => opened,
            Err(refusal) => return refuse(to_client, refusal),
        };
        // What it holds back must be committed before the request goes out.
        if (self.row.held > Nanos::ZERO || self.recorded_first)
            && let Err(refusal) = opened.recorded().await
        {
            return refuse(to_client, refusal);
        }
        let started = Instant::now();
        let sent = outbound.send(outgoing, self.trust, first_byte);
        let sent = to_client.while_wanted(drain, sent).await;
        let first_byte_us = Some(microseconds_since(started));
        match sent {
            None => self.abandoned(Ending::default(), &mut opened),
            Some(Err(error)) => self.failed(error, opened, to_client).await,
            Some(Ok(answer)) if (200..300).contains(&answer.status) => {
                self.succeeded(answer, first_byte_us, hides_usage, opened, to_client).await;
            }
            Some(Ok(answer)) => self.refused(answer, first_byte_us, opened, to_client).await,
        }
    }

    async fn failed(self: Box<Self>, error: SendError, opened: Opened, to_client: ToClient) {
        if error == SendError::Unreachable {
            self.services.key_states.observe(&self.key, Verdict::Unreachable, began(&self.row));
        }
        let answer = GatewayError::upstream(error, self.key.provider.label());
        let unsent = matches!(error, SendError::Unreachable | SendError::NotTaken | SendError::Refused);
        let ending = Ending { error_code: Some(answer.code().to_owned()), unsent, ..Ending::default() };
        self.finish(Report::default(), ending, Err(answer), opened, to_client).await;
    }

    /// The provider refused: what it says goes on to the client, and tells something of the key.
    async fn refused(
        self: Box<Self>,
        mut answer: Answer,
        first_byte_us: Option<i64>,
        opened: Opened,
        mut to_client: ToClient,
    ) {
        let provider = self.key.provider;
        let drain = self.outbound.patience().drain;
        let body = to_client.while_wanted(drain, answer.body(MAX_ERROR)).await;
        let body = body.and_then(Result::ok).flatten();
        let judged = providers::of(provider).judge(
            &self.endpoint,
            answer.status,
            &answer.headers,
            body.as_deref().unwrap_or_default(),
            self.services.clock.now(),
        );
        if answer.status == 401 {
            self.services.bearers.forget(self.key.id, self.key.version);
        }
        self.services.key_states.observe(&self.key, judged.verdict, began(&self.row));
        // A redirect, or an error that cannot be read, is nothing that an SDK could use.
        let usable = body.filter(|_| answer.status >= 400);
        let (head, code) = if let Some(body) = usable {
            let code = judged.code.unwrap_or_else(|| format!("http_{}", answer.status));
            let (status, headers) = (answer.status, answer.headers);
            (Ok(Head { status, headers, body: AnswerBody::Whole(body), verdict: judged.verdict }), code)
        } else {
            let error = GatewayError::unreadable(provider.label());
            let code = error.code().to_owned();
            (Err(error), code)
        };
        let status = Some(answer.status);
        let ending = Ending { status, error_code: Some(code), first_byte_us, ..Ending::default() };
        self.finish(Report::default(), ending, head, opened, to_client).await;
    }

    async fn succeeded(
        self: Box<Self>,
        answer: Answer,
        first_byte_us: Option<i64>,
        hides_usage: bool,
        opened: Opened,
        to_client: ToClient,
    ) {
        self.services.key_states.observe(&self.key, Verdict::Works, began(&self.row));
        let kind = answer
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        let ending = Ending { status: Some(answer.status), first_byte_us, ..Ending::default() };
        // Gemini streams a JSON list to whoever does not ask for events.
        let streams = matches!(self.endpoint, Endpoint::Generate { stream: true, .. });
        if kind.starts_with("text/event-stream") || (streams && kind.starts_with("application/json")) {
            let filter = hides_usage.then(UsageFilter::default);
            self.stream(answer, filter, ending, opened, to_client).await;
        } else if kind.starts_with("application/json") {
            self.whole(answer, ending, opened, to_client).await;
        } else {
            let error = GatewayError::unreadable(self.key.provider.label());
            self.unusable(ending, error, opened, to_client).await;
        }
    }

    /// A JSON answer: it comes in one go when the model is done, so it is read before it is passed
    /// on. One that breaks off, makes no sense or never ends becomes a clear error.
    async fn whole(
        self: Box<Self>,
        mut answer: Answer,
        ending: Ending,
        mut opened: Opened,
        mut to_client: ToClient,
    ) {
        let provider = self.key.provider;
        let drain = self.outbound.patience().drain;
        let body = match to_client.while_wanted(drain, answer.body(MAX_JSON)).await {
            None => return self.abandoned(ending, &mut opened),
            Some(Err(error)) => {
                let error = GatewayError::upstream(error, provider.label());
                return self.unusable(ending, error, opened, to_client).await;
            }
            Some(Ok(None)) => {
                let error = GatewayError::too_long(provider.label(), MAX_JSON);
                return self.unusable(ending, error, opened, to_client).await;
            }
            Some(Ok(Some(body))) => body,
        };
        let report = if self.endpoint.is_metered() {
            providers::of(provider).read_usage(&self.endpoint, &body)
        } else {
            free_of_charge(serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok())
        };
        if !report.complete {
            let error = GatewayError::unreadable(provider.label());
            return self.unusable(ending, error, opened, to_client).await;
        }
        let (status, headers) = (answer.status, answer.headers);
        let head = Head { status, headers, body: AnswerBody::Whole(body), verdict: Verdict::Works };
        self.finish(report, ending, Ok(head), opened, to_client).await;
    }

    /// An answer of status 200 that is none. What it cost cannot be known.
    async fn unusable(
        self: Box<Self>,
        ending: Ending,
        error: GatewayError,
        opened: Opened,
        to_client: ToClient,
    ) {
        let ending = Ending { error_code: Some(error.code().to_owned()), ..ending };
        self.finish(Report::default(), ending, Err(error), opened, to_client).await;
    }

    /// A stream: every chunk goes on as it comes, and past the reader of usage.
    async fn stream(
        self: Box<Self>,
        mut answer: Answer,
        filter: Option<UsageFilter>,
        mut ending: Ending,
        mut opened: Opened,
        to_client: ToClient,
    ) {
        if opened.recorded().await.is_err() {
            // Without its row nothing is answered. What was sent may cost all the same, so it is
            // settled like a call that was cut, as soon as the database is back.
            let error = GatewayError::unavailable();
            let ending = Ending { cut: true, ..ending };
            return self.unusable(ending, error, opened, to_client).await;
        }
        let (sender, pieces) = mpsc::channel(32);
        let mut client = Some(sender);
        let headers = std::mem::take(&mut answer.headers);
        let body = AnswerBody::Stream(Chunks { pieces, is_over: false });
        let left_at = to_client.left_at;
        if !to_client.send(Ok(Head { status: answer.status, headers, body, verdict: Verdict::Works })) {
            client = None;
        }
        let mut past = Past {
            reader: providers::of(self.key.provider).stream_reader(&self.endpoint),
            filter,
            tail: [0; 2],
        };
        let patience = self.outbound.patience();
        let cut = pump(&mut answer, &mut past, &mut client, left_at, patience).await.err();
        let whole = past.is_whole();
        let report = past.reader.finish();
        ending.cut = cut.is_some();
        let broken = match cut {
            Some(Cut::ByProvider(how)) => Some(how),
            // What the provider itself told inside its stream was passed on.
            None if !report.complete && report.error_code.is_none() => Some(SendError::Broken),
            None | Some(Cut::ClientLeft) => None,
        };
        let last = match broken {
            Some(how) => {
                let error = GatewayError::upstream(how, self.key.provider.label());
                ending.error_code = Some(error.code().to_owned());
                error.last_words(self.row.dialect, &self.endpoint, whole, self.row.id).map(Bytes::from)
            }
            None if ending.cut => {
                ending.error_code = Some(CLIENT_LEFT.to_owned());
                None
            }
            None => Some(Bytes::new()),
        };
        let _ticket = self.settle(report, ending, &mut opened);
        drop((answer, opened));
        if let (Some(client), Some(words)) = (client, last) {
            let _ = client.send_timeout(Piece::Last(words), patience.idle).await;
        }
    }

    /// The client has left, and the answer did not come in the time that was left for it.
    fn abandoned(self: Box<Self>, mut ending: Ending, opened: &mut Opened) {
        ending.cut = true;
        ending.error_code = Some(CLIENT_LEFT.to_owned());
        self.settle(Report::default(), ending, opened);
    }

    /// The end of a call that is not streamed: settled first, so that a quick one is written once,
    /// and answered when that is committed.
    async fn finish(
        self: Box<Self>,
        report: Report,
        ending: Ending,
        answer: Result<Head, GatewayError>,
        mut opened: Opened,
        to_client: ToClient,
    ) {
        let ticket = self.settle(report, ending, &mut opened);
        let recorded = opened.recorded().await;
        to_client.send(recorded.map_err(GatewayError::from).and(answer));
        drop(ticket);
    }

    fn settle(self: Box<Self>, report: Report, ending: Ending, opened: &mut Opened) -> Ticket {
        let now = self.services.clock.now();
        opened.settle(meter::settle(self.row, report, ending, &self.platform.prices, now));
        self.ticket
    }
}

/// What every piece of a stream goes past on its way.
struct Past {
    reader: Box<dyn UsageReader>,
    filter: Option<UsageFilter>,
    /// The last two bytes that went on.
    tail: [u8; 2],
}

impl Past {
    /// What goes on of a piece.
    fn push(&mut self, chunk: Bytes) -> Bytes {
        self.reader.push(&chunk);
        let out = match &mut self.filter {
            Some(filter) => filter.push(chunk),
            None => chunk,
        };
        self.note(&out);
        out
    }

    /// What was held back, when the stream has come to its end.
    fn rest(&mut self) -> Bytes {
        let rest = self.filter.take().map(UsageFilter::finish).unwrap_or_default();
        self.note(&rest);
        rest
    }

    fn note(&mut self, out: &[u8]) {
        match out {
            [.., a, b] => self.tail = [*a, *b],
            [b] => self.tail = [self.tail[1], *b],
            [] => {}
        }
    }

    /// Whether what went on so far ends with a whole event, or is nothing yet.
    fn is_whole(&self) -> bool {
        matches!(self.tail, [0, 0] | [b'\n' | b'\r', b'\n'])
    }
}

/// What ended a stream before its time.
enum Cut {
    ClientLeft,
    ByProvider(SendError),
}

/// Passes a stream on to its end. A client that has left does not end it before its time.
async fn pump(
    answer: &mut Answer,
    past: &mut Past,
    client: &mut Option<mpsc::Sender<Piece>>,
    left_at: Option<tokio::time::Instant>,
    Patience { idle, drain, .. }: Patience,
) -> Result<(), Cut> {
    let mut left_at = left_at.or_else(|| client.is_none().then(tokio::time::Instant::now));
    loop {
        let gone = async {
            match (&*client, left_at) {
                (Some(client), _) => client.closed().await,
                (None, Some(left)) => tokio::time::sleep_until(left + drain).await,
                (None, None) => std::future::pending().await,
            }
        };
        let chunk = tokio::select! {
            biased;
            chunk = answer.chunk() => chunk,
            () = gone => {
                if client.take().is_none() {
                    return Err(Cut::ClientLeft);
                }
                left_at = Some(tokio::time::Instant::now());
                continue;
            }
        };
        match chunk {
            Ok(Some(chunk)) => {
                let chunk = past.push(chunk);
                if let Some(open) = client {
                    // A client that does not read is as good as gone.
                    if !chunk.is_empty() && open.send_timeout(Piece::Next(chunk), idle).await.is_err() {
                        *client = None;
                        left_at = Some(tokio::time::Instant::now());
                    }
                } else if left_at.is_some_and(|left| left.elapsed() >= drain) {
                    return Err(Cut::ClientLeft);
                }
            }
            Ok(None) => {
                let rest = past.rest();
                if let (false, Some(open)) = (rest.is_empty(), &*client)
                    && open.send_timeout(Piece::Next(rest), idle).await.is_err()
                {
                    *client = None;
                }
                return Ok(());
            }
            Err(error) => return Err(Cut::ByProvider(error)),
        }
    }
}

/// Counting tokens and listing models cost nothing.
fn free_of_charge(readable: bool) -> Report {
    Report { tokens: Some(TokenUsage::default()), complete: readable, ..Report::default() }
}
