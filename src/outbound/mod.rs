//! The only HTTP client. Requests to the operator's own provider origins go out as they are; those
//! to URLs that tenants gave are held to public addresses, vetted when the connection is made.

pub mod address;
mod connect;
pub mod exchange;
mod lanes;
pub mod mail;
pub mod openid;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::Reason;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::domain::endpoint::{UrlPolicy, UrlRule};
use crate::providers::Outgoing;

use connect::{Names, Refused, Vetting};
use lanes::{Lanes, Place};

pub use connect::{AddressRule, Resolver, SystemResolver};

/// Headers of an answer, in bytes.
const MAX_HEAD: usize = 32 * 1_024;

/// Whose URL a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Set by the operator; may be on loopback.
    Operator,
    /// Given by a tenant; must be public.
    Tenant,
}

impl Trust {
    /// Whose URL a webhook's is, likewise.
    #[must_use]
    pub fn of_webhook(url: &str, policy: &UrlPolicy) -> Self {
        if policy.allowed_webhook(url).is_some() { Self::Operator } else { Self::Tenant }
    }

    /// Whose URL an identity provider's is, likewise.
    #[must_use]
    pub fn of_identity_provider(url: &str, policy: &UrlPolicy) -> Self {
        if policy.allowed_identity_provider(url).is_some() { Self::Operator } else { Self::Tenant }
    }

    /// Whose URL a key's is: an origin that the operator has allowed counts as the operator's.
    #[must_use]
    pub fn of(custom_url: Option<&str>, policy: &UrlPolicy) -> Self {
        match custom_url {
            Some(url) if policy.allowed_origin(url).is_none() => Self::Tenant,
            _ => Self::Operator,
        }
    }
}

/// Why no answer could be had. Never says what was found at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the provider could not be reached")]
    Unreachable,
    /// For this time; nothing is wrong with the provider.
    #[error("the request was not taken")]
    NotTaken,
    #[error("the provider did not answer in time")]
    Timeout,
    #[error("the URL's address is refused by policy")]
    Refused,
    #[error("the answer broke off")]
    Broken,
}

/// How long is waited for an answer that the gateway passes on.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For its head.
    pub first_byte: Duration,
    /// For its next piece, and for the client to take one. For the pieces of every other answer too: those of
    /// checks and webhooks.
    pub idle: Duration,
    /// For the rest of it, when the client has left.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // Models think.
            first_byte: Duration::from_mins(10),
            idle: Duration::from_mins(5),
            drain: Duration::from_mins(1),
        }
    }
}

/// What an `Outbound` is made of. `Default` is what production uses.
pub struct Parts {
    pub resolver: Arc<dyn Resolver>,
    pub rule: AddressRule,
    pub patience: Patience,
    /// More certificates to trust, as PEM.
    pub extra_roots: Vec<Vec<u8>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            resolver: Arc::new(SystemResolver),
            rule: address::is_global,
            patience: Patience::default(),
            extra_roots: Vec::new(),
        }
    }
}

/// The guarded client. Its clones share their connections.
#[derive(Clone)]
pub struct Outbound(Arc<Clients>);

struct Clients {
    operator: Arc<Lanes>,
    tenant: Arc<Lanes>,
    vetting: Arc<Vetting>,
    tls: Arc<rustls::ClientConfig>,
    patience: Patience,
}

/// An answer whose body is still on its way.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    idle: Duration,
    /// Held until the answer is over.
    _place: Place,
}

impl Outbound {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(parts: Parts) -> Result<Self, rustls::Error> {
        let vetting = Vetting { resolver: parts.resolver, rule: parts.rule };
        Ok(Self::with(Arc::new(vetting), connect::tls(&parts.extra_roots)?, parts.patience))
    }

    /// One like this with connections of its own. A connection is served by the thread that opened
    /// it; taken by another, every answer has to be handed over.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::with(Arc::clone(&self.0.vetting), Arc::clone(&self.0.tls), self.0.patience)
    }

    fn with(vetting: Arc<Vetting>, tls: Arc<rustls::ClientConfig>, patience: Patience) -> Self {
        let lanes = |names: Names| {
            let tls = Arc::clone(&tls);
            Lanes::new(move || connect::client(names.clone(), &tls))
        };
        let operator = lanes(Names::System);
        let tenant = lanes(Names::Vetted(Arc::clone(&vetting)));
        Self(Arc::new(Clients { operator, tenant, vetting, tls, patience }))
    }

    #[must_use]
    pub fn patience(&self) -> Patience {
        self.0.patience
    }

    /// Rule 8 of the URL policy, asked ahead of any request: the name leads to public addresses only.
    ///
    /// # Errors
    /// `UrlRule::Address`, whatever was found.
    pub async fn vet(&self, host: &str) -> Result<(), UrlRule> {
        self.0.vetting.addresses(host.to_owned()).await.map(|_| ()).map_err(|_| UrlRule::Address)
    }

    /// As `send`; once more if it was not taken the first time.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, outgoing: Outgoing, trust: Trust, wait: Duration) -> Result<Answer, SendError> {
        match self.send(outgoing.clone(), trust, wait).await {
            Err(SendError::NotTaken) => self.send(outgoing, trust, wait).await,
            sent => sent,
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn send(&self, outgoing: Outgoing, trust: Trust, wait: Duration) -> Result<Answer, SendError> {
        let lanes = match trust {
            Trust::Operator => &self.0.operator,
            Trust::Tenant => &self.0.tenant,
        };
        let place = lanes.place();
        let request = place.client().request(request(outgoing)?);
        let answer = tokio::time::timeout(wait, request).await.map_err(|_| SendError::Timeout)?;
        let (head, body) = answer.map_err(|error| classify(&error))?.into_parts();
        let size: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if size > MAX_HEAD {
            return Err(SendError::Broken);
        }
        let (status, headers, idle) = (head.status.as_u16(), head.headers, self.0.patience.idle);
        Ok(Answer { status, headers, body, idle, _place: place })
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// `Broken` when the body ends before its time, `Timeout` after too long a silence.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SendError> {
        loop {
            let frame =
                tokio::time::timeout(self.idle, self.body.frame()).await.map_err(|_| SendError::Timeout)?;
            let Some(frame) = frame else { return Ok(None) };
            // Trailers tell nothing that is passed on.
            if let Ok(piece) = frame.map_err(|_| SendError::Broken)?.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// The whole body, if it is not longer than `limit`; `Ok(None)` if it is.
    ///
    /// # Errors
    /// As `chunk`.
    pub async fn body(&mut self, limit: usize) -> Result<Option<Bytes>, SendError> {
        let Some(first) = self.chunk().await? else { return Ok(Some(Bytes::new())) };
        // Most bodies come in one piece, which then need not be copied.
        if self.body.is_end_stream() {
            return Ok((first.len() <= limit).then_some(first));
        }
        let mut whole = first.to_vec();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok((whole.len() <= limit).then(|| whole.into()))
    }
}

fn request(outgoing: Outgoing) -> Result<Request<Full<Bytes>>, SendError> {
    let Outgoing { method, mut url, mut headers, body, .. } = outgoing;
    if let Some(credentials) = credentials_of(&mut url) {
        headers.entry(AUTHORIZATION).or_insert(credentials);
    }
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(concat!("keyward/", env!("CARGO_PKG_VERSION"))));
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(String::from(url)).map_err(|_| SendError::NotTaken)?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Takes name and password out of a URL of the operator's, as the header that they go in.
fn credentials_of(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let (name, password) = (url.username(), url.password().unwrap_or_default());
    let pair: Vec<u8> = percent_decode_str(name).chain([b':']).chain(percent_decode_str(password)).collect();
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    let mut header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn causes(error: &legacy::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

/// Whether the connection ended before the request was written to it, or the other side says that it has not
/// looked at it and will not: the connection is old, or takes no more requests (RFC 9113, 8.7).
fn was_not_taken(error: &legacy::Error) -> bool {
    let said = |error: &h2::Error| {
        let closing = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        error.is_remote() && (closing || refused)
    };
    causes(error).any(|cause| {
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || cause.downcast_ref().is_some_and(said)
    })
}

fn classify(error: &legacy::Error) -> SendError {
    if causes(error).any(<dyn Error>::is::<Refused>) {
        SendError::Refused
    } else if error.connect_info().is_none() {
        // There was no connection to send it on, whatever kept it: its handshakes are part of it.
        SendError::Unreachable
    } else if was_not_taken(error) {
        SendError::NotTaken
    } else if causes(error).any(is_timeout) {
        SendError::Timeout
    } else {
        SendError::Broken
    }
}

fn is_timeout(cause: &(dyn Error + 'static)) -> bool {
    let by_http2 = || cause.downcast_ref().and_then(h2::Error::get_io);
    let io: Option<&std::io::Error> = cause.downcast_ref().or_else(by_http2);
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;

    use http::Method;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn outgoing(url: &str) -> Outgoing {
        let url = Url::parse(url).unwrap();
        Outgoing {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            hides_usage: false,
        }
    }

    #[test]
    fn credentials_of_a_url_go_in_a_header() {
        let sent = request(outgoing("https://us%40er:p%3Ass@llm.example.com:8443/v1?a=b")).unwrap();
        assert_eq!(sent.uri(), "https://llm.example.com:8443/v1?a=b");
        assert_eq!(sent.headers()[AUTHORIZATION], "Basic dXNAZXI6cDpzcw==");
        assert!(sent.headers()[AUTHORIZATION].is_sensitive());
        let mut own = outgoing("https://user@llm.example.com/");
        own.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer own"));
        assert_eq!(request(own).unwrap().headers()[AUTHORIZATION], "Bearer own");
    }

    /// A frame of HTTP/2 (RFC 9113, 4.1).
    fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, stream][..], payload].concat()
    }

    /// TLS of a server of this name, and the certificate to be trusted for it.
    fn server(name: &str, protocol: &str) -> (TlsAcceptor, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(crypto);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![made.cert.der().clone()], key.into()).unwrap();
        config.alpn_protocols = vec![protocol.into()];
        (TlsAcceptor::from(Arc::new(config)), made.cert.pem().into_bytes())
    }

    fn trusting(certificate: &[u8]) -> Outbound {
        Outbound::new(Parts { extra_roots: vec![certificate.to_vec()], ..Parts::default() }).unwrap()
    }

    async fn listen() -> (tokio::net::TcpListener, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        (listener, url)
    }

    /// Reads up to the head of a request by HTTP/2, answers with these bytes and hangs up.
    async fn provider(listener: &tokio::net::TcpListener, tls: TlsAcceptor, answer: Vec<u8>) {
        const PREFACE: usize = 24;
        const HEADERS: u8 = 1;
        let mut stream = tls.accept(listener.accept().await.unwrap().0).await.unwrap();
        stream.write_all(&frame(4, 0, &[])).await.unwrap();
        stream.read_exact(&mut [0; PREFACE]).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; (usize::from(head[1]) << 8) | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == HEADERS {
                break;
            }
        }
        stream.write_all(&answer).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    /// What was not taken costs nothing; of anything else that is not known.
    #[tokio::test]
    async fn requests_that_were_not_taken_are_told_apart() {
        let (tls, certificate) = server("localhost", "h2");
        let outbound = trusting(&certificate);
        let reset = |reason: u8| frame(3, 1, &[0, 0, 0, reason]);
        let go_away = |last: u8, reason: u8| frame(7, 0, &[0, 0, 0, last, 0, 0, 0, reason]);
        for (what, answer, told) in [
            ("refused", reset(7), SendError::NotTaken),
            ("failed", reset(2), SendError::Broken),
            ("closing, the request not among the last", go_away(0, 0), SendError::NotTaken),
            ("closing, the request among the last", go_away(1, 0), SendError::Broken),
            ("closing for an error", go_away(0, 1), SendError::Broken),
            ("gone", Vec::new(), SendError::Broken),
        ] {
            let (listener, url) = listen().await;
            let sent = outbound.send(outgoing(&url), Trust::Operator, Duration::from_secs(5));
            let (sent, ()) = tokio::join!(sent, provider(&listener, tls.clone(), answer));
            assert_eq!(sent.map(|answer| answer.status), Err(told), "{what}");
        }
    }

    #[tokio::test]
    async fn what_was_not_taken_is_asked_once_more() {
        let (tls, certificate) = server("localhost", "h2");
        let outbound = trusting(&certificate);
        let (listener, url) = listen().await;
        let refuse = async || provider(&listener, tls.clone(), frame(3, 1, &[0, 0, 0, 7])).await;
        let asked = outbound.ask(outgoing(&url), Trust::Operator, Duration::from_secs(5));
        let (asked, ()) = tokio::join!(asked, async {
            refuse().await;
            refuse().await;
        });
        assert_eq!(asked.map(|answer| answer.status), Err(SendError::NotTaken), "and not a third time");
        let asked = async {
            let asked = outbound.ask(outgoing(&url), Trust::Operator, Duration::from_secs(5)).await;
            drop(outbound);
            asked.map(|answer| answer.status)
        };
        let (asked, ()) = tokio::join!(asked, async {
            refuse().await;
            provider_2(&listener, tls.clone(), 0).await;
        });
        assert_eq!(asked, Ok(204));
    }

    /// More than a server takes at a time on one connection.
    #[tokio::test]
    async fn many_requests_are_under_way_at_once() {
        const MANY: usize = 250;
        let (tls, certificate) = server("localhost", "h2");
        let outbound = trusting(&certificate);
        let (listener, url) = listen().await;
        let arrived = Arc::new(tokio::sync::Barrier::new(MANY));
        let provider = tokio::spawn(async move {
            loop {
                let (tls, stream) = (tls.clone(), listener.accept().await.unwrap().0);
                let arrived = Arc::clone(&arrived);
                tokio::spawn(async move {
                    let limited = h2::server::Builder::new().max_concurrent_streams(100).clone();
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let Ok(mut connection) = limited.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok((_, mut answer))) = connection.accept().await {
                        let arrived = Arc::clone(&arrived);
                        tokio::spawn(async move {
                            // Nobody is answered before all are there.
                            arrived.wait().await;
                            let _ = answer.send_response(http::Response::new(()), true);
                        });
                    }
                });
            }
        });
        let send = || outbound.send(outgoing(&url), Trust::Operator, Duration::from_secs(20));
        let sent = futures_util::future::join_all((0..MANY).map(|_| send())).await;
        assert!(sent.iter().all(Result::is_ok), "not all of them arrived");
        provider.abort();
        drop(sent);
        assert!(outbound.0.operator.place().is_in_first_lane(), "answers that are over hold no places");
    }

    /// Takes one request by HTTP/1.1 and answers with a head whose fields make up so many bytes; with nothing
    /// if there are none.
    async fn provider_1(listener: &tokio::net::TcpListener, tls: TlsAcceptor, head: usize) {
        let mut stream = tls.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await.unwrap());
        }
        if head > 0 {
            let lines = fields(head).map(|(name, value)| format!("{name}: {value}\r\n"));
            let lines: String = lines.collect();
            stream.write_all(format!("HTTP/1.1 204 No Content\r\n{lines}\r\n").as_bytes()).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    }

    /// Header fields of a thousand bytes each.
    fn fields(bytes: usize) -> impl Iterator<Item = (String, String)> {
        (0..bytes / 1_000).map(|at| (format!("x-{at:04}"), "v".repeat(990)))
    }

    /// The same by HTTP/2.
    async fn provider_2(listener: &tokio::net::TcpListener, tls: TlsAcceptor, head: usize) {
        let stream = tls.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_, mut answer) = connection.accept().await.unwrap().unwrap();
        let mut response = http::Response::builder().status(204);
        for (name, value) in fields(head) {
            response = response.header(name, value);
        }
        answer.send_response(response.body(()).unwrap(), true).unwrap();
        while connection.accept().await.is_some() {}
    }

    #[tokio::test]
    async fn heads_are_taken_up_to_their_limit_by_both_protocols() {
        for (protocol, head, told) in [
            ("http/1.1", 0, Err(SendError::Broken)),
            ("http/1.1", MAX_HEAD - 1_000, Ok(204)),
            ("http/1.1", MAX_HEAD + 1_000, Err(SendError::Broken)),
            ("h2", MAX_HEAD - 1_000, Ok(204)),
            ("h2", MAX_HEAD + 1_000, Err(SendError::Broken)),
        ] {
            let (tls, certificate) = server("localhost", protocol);
            let outbound = trusting(&certificate);
            let (listener, url) = listen().await;
            let sent = async {
                let sent = outbound.send(outgoing(&url), Trust::Operator, Duration::from_secs(5)).await;
                drop(outbound);
                sent.map(|answer| answer.status)
            };
            let answering = async {
                match protocol {
                    "h2" => provider_2(&listener, tls, head).await,
                    _ => provider_1(&listener, tls, head).await,
                }
            };
            let (sent, ()) = tokio::join!(sent, answering);
            assert_eq!(sent, told, "{protocol}, {head} bytes");
        }
    }

    /// Nothing is sent to a server that cannot prove whose it is.
    #[tokio::test]
    async fn certificates_that_do_not_prove_the_name_are_refused() {
        let (tls, certificate) = server("localhost", "http/1.1");
        let (others, of_others) = server("llm.example.com", "http/1.1");
        let nothing = Outbound::new(Parts::default()).unwrap();
        for (what, tls, outbound, told) in [
            ("trusted", &tls, &trusting(&certificate), Ok(204)),
            ("nobody's", &tls, &nothing, Err(SendError::Unreachable)),
            ("trusted for another name", &others, &trusting(&of_others), Err(SendError::Unreachable)),
        ] {
            let (listener, url) = listen().await;
            let tls = tls.clone();
            let provider = tokio::spawn(async move {
                let mut stream = tls.accept(listener.accept().await.unwrap().0).await?;
                let mut first = [0; 512];
                let read = stream.read(&mut first).await?;
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
                std::io::Result::Ok(read)
            });
            let sent = outbound.send(outgoing(&url), Trust::Operator, Duration::from_secs(5)).await;
            assert_eq!(sent.map(|answer| answer.status), told, "{what}");
            assert_eq!(provider.await.unwrap().is_ok_and(|read| read > 0), told.is_ok(), "{what}");
        }
    }

    /// Such URLs are not taken from tenants; should one come so far, it leads nowhere.
    #[tokio::test]
    async fn a_tenants_url_leads_to_names_alone_and_by_tls_alone() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        open.set_nonblocking(true).unwrap();
        let port = open.local_addr().unwrap().port();
        let outbound = Outbound::new(Parts { rule: |_| true, ..Parts::default() }).unwrap();
        for (url, told) in [
            (format!("http://localhost:{port}/"), SendError::Unreachable),
            (format!("https://127.0.0.1:{port}/"), SendError::Refused),
            (format!("https://[::ffff:127.0.0.1]:{port}/"), SendError::Refused),
        ] {
            let sent = outbound.send(outgoing(&url), Trust::Tenant, Duration::from_secs(1)).await;
            assert_eq!(sent.map(|answer| answer.status), Err(told), "{url}");
            assert_eq!(open.accept().map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
        }
    }
}
