//! The only HTTP client. Requests to the operator's own provider origins go out as they are; those
//! to URLs that tenants gave are held to public addresses, vetted when the connection is made.

pub mod address;
mod connect;
pub mod exchange;
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
use zeroize::Zeroizing;

use crate::domain::endpoint::{UrlPolicy, UrlRule};
use crate::providers::Outgoing;

use connect::{Client, Names, Refused, Vetting};

pub use connect::{AddressRule, Resolver, SystemResolver};

/// Headers of an answer, in bytes.
const MAX_HEAD: usize = 32 * 1_024;
/// Models think: the first byte may take this long.
pub const FIRST_BYTE: Duration = Duration::from_mins(10);
/// The longest silence between two pieces of an answer.
pub const IDLE: Duration = Duration::from_mins(5);

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
    #[error("the provider took no more requests on this connection")]
    NotTaken,
    #[error("the provider did not answer in time")]
    Timeout,
    #[error("the URL's address is refused by policy")]
    Refused,
    #[error("the answer broke off")]
    Broken,
}

/// What an `Outbound` is made of. `Default` is what production uses.
pub struct Parts {
    pub resolver: Arc<dyn Resolver>,
    pub rule: AddressRule,
    /// More certificates to trust, as PEM.
    pub extra_roots: Vec<Vec<u8>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self { resolver: Arc::new(SystemResolver), rule: address::is_global, extra_roots: Vec::new() }
    }
}

/// The guarded client. Its clones share their connections.
#[derive(Clone)]
pub struct Outbound(Arc<Clients>);

struct Clients {
    operator: Client,
    tenant: Client,
    vetting: Arc<Vetting>,
    tls: Arc<rustls::ClientConfig>,
}

/// An answer whose body is still on its way.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
}

impl Outbound {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(parts: Parts) -> Result<Self, rustls::Error> {
        let vetting = Vetting { resolver: parts.resolver, rule: parts.rule };
        Ok(Self::with(Arc::new(vetting), connect::tls(&parts.extra_roots)?))
    }

    /// One like this with connections of its own. A connection is served by the thread that opened
    /// it; taken by another, every answer has to be handed over.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::with(Arc::clone(&self.0.vetting), Arc::clone(&self.0.tls))
    }

    fn with(vetting: Arc<Vetting>, tls: Arc<rustls::ClientConfig>) -> Self {
        let operator = connect::client(Names::System, &tls);
        let tenant = connect::client(Names::Vetted(Arc::clone(&vetting)), &tls);
        Self(Arc::new(Clients { operator, tenant, vetting, tls }))
    }

    /// Rule 8 of the URL policy, asked ahead of any request: the name leads to public addresses only.
    ///
    /// # Errors
    /// `UrlRule::Address`, whatever was found.
    pub async fn vet(&self, host: &str) -> Result<(), UrlRule> {
        self.0.vetting.addresses(host.to_owned()).await.map(|_| ()).map_err(|_| UrlRule::Address)
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn send(&self, outgoing: Outgoing, trust: Trust, wait: Duration) -> Result<Answer, SendError> {
        let client = match trust {
            Trust::Operator => &self.0.operator,
            Trust::Tenant => &self.0.tenant,
        };
        let request = client.request(request(outgoing)?);
        let answer = tokio::time::timeout(wait, request).await.map_err(|_| SendError::Timeout)?;
        let (head, body) = answer.map_err(|error| classify(&error))?.into_parts();
        let size: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if size > MAX_HEAD {
            return Err(SendError::Broken);
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

impl Answer {
    /// The next piece of the body; `None` at its proper end.
    ///
    /// # Errors
    /// `Broken` when the body ends before its time, `Timeout` after too long a silence.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SendError> {
        loop {
            let frame =
                tokio::time::timeout(IDLE, self.body.frame()).await.map_err(|_| SendError::Timeout)?;
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
    *request.uri_mut() = Uri::try_from(String::from(url)).map_err(|_| SendError::Unreachable)?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Takes name and password out of a URL of the operator's, as the header that they go in.
fn credentials_of(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text| Zeroizing::new(percent_decode_str(text).collect::<Vec<u8>>());
    let mut pair = decoded(url.username());
    pair.push(b':');
    pair.extend_from_slice(&decoded(url.password().unwrap_or_default()));
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    let mut header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(&*pair))).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn causes(error: &legacy::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

/// Whether the other side says that it has not looked at the request, and will not: it closes a connection
/// that is old, or takes no more requests on it (RFC 9113, 8.7).
fn was_not_taken(error: &legacy::Error) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(|error| {
        let closing = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        error.is_remote() && (closing || refused)
    })
}

/// Nothing was sent on a connection that could not be made, whatever kept it.
fn classify(error: &legacy::Error) -> SendError {
    if causes(error).any(<dyn Error>::is::<Refused>) {
        SendError::Refused
    } else if error.is_connect() {
        SendError::Unreachable
    } else if was_not_taken(error) {
        SendError::NotTaken
    } else if causes(error).filter_map(|cause| cause.downcast_ref()).any(is_timeout) {
        SendError::Timeout
    } else {
        SendError::Broken
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::TimedOut
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;

    use http::Method;
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

    /// Takes one request, and resets it for this reason or breaks its connection.
    async fn provider(listener: tokio::net::TcpListener, tls: TlsAcceptor, reason: Option<Reason>) {
        let stream = tls.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        if let Some(reason) = reason {
            respond.send_reset(reason);
            while connection.accept().await.is_some() {}
        }
    }

    /// What was not taken costs nothing; of anything else that is not known.
    #[tokio::test]
    async fn requests_that_were_not_taken_are_told_apart() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_single_cert(vec![made.cert.der().clone()], key.into()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        let parts = Parts { extra_roots: vec![made.cert.pem().into_bytes()], ..Parts::default() };
        let outbound = Outbound::new(parts).unwrap();
        for (reason, told) in [
            (Some(Reason::REFUSED_STREAM), SendError::NotTaken),
            (Some(Reason::INTERNAL_ERROR), SendError::Broken),
            (None, SendError::Broken),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
            let provider = tokio::spawn(provider(listener, tls.clone(), reason));
            let sent = outbound.send(outgoing(&url), Trust::Operator, FIRST_BYTE).await;
            assert_eq!(sent.map(|answer| answer.status), Err(told));
            provider.abort();
        }
    }

    #[tokio::test]
    async fn nothing_goes_to_a_tenants_url_without_tls() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        open.set_nonblocking(true).unwrap();
        let url = format!("http://{}/", open.local_addr().unwrap());
        let outbound = Outbound::new(Parts::default()).unwrap();
        let sent = outbound.send(outgoing(&url), Trust::Tenant, Duration::from_secs(1)).await;
        assert_eq!(sent.err(), Some(SendError::Unreachable));
        assert_eq!(open.accept().map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
}
