//! The only HTTP client. Requests to the operator's own provider origins go out as they are; those
//! to URLs that tenants gave are held to public addresses, vetted when the connection is made.

pub mod address;
pub mod exchange;
pub mod mail;
pub mod openid;

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use reqwest::dns::{Name, Resolve, Resolving};

use crate::domain::endpoint::{UrlPolicy, UrlRule};
use crate::providers::Outgoing;

const CONNECT: Duration = Duration::from_secs(5);
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
    #[error("the provider did not answer in time")]
    Timeout,
    #[error("the URL's address is refused by policy")]
    Refused,
    #[error("the answer broke off")]
    Broken,
}

/// Turns a name into addresses.
pub trait Resolver: Send + Sync + 'static {
    fn resolve(&self, host: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>>;

    /// The port to connect to in place of the scheme's own: for tests, whose servers cannot have it.
    fn port(&self) -> u16 {
        0
    }
}

/// The system's resolver.
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, host: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Which addresses a tenant's URL may lead to.
pub type AddressRule = fn(IpAddr) -> bool;

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

#[derive(Clone)]
pub struct Outbound {
    operator: reqwest::Client,
    tenant: reqwest::Client,
    vetting: Arc<Vetting>,
    extra_roots: Arc<[Vec<u8>]>,
}

/// An answer whose body is still on its way.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    response: reqwest::Response,
}

impl Outbound {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(parts: Parts) -> Result<Self, reqwest::Error> {
        let vetting = Vetting { resolver: parts.resolver, rule: parts.rule };
        Self::with(Arc::new(vetting), parts.extra_roots.into())
    }

    /// One like this with connections of its own. A connection is served by the thread that opened
    /// it; taken by another, every answer has to be handed over.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::with(Arc::clone(&self.vetting), Arc::clone(&self.extra_roots)).unwrap_or_else(|_| self.clone())
    }

    fn with(vetting: Arc<Vetting>, extra_roots: Arc<[Vec<u8>]>) -> Result<Self, reqwest::Error> {
        let base = || {
            let mut builder = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .referer(false)
                .retry(reqwest::retry::never())
                .connect_timeout(CONNECT)
                .tcp_nodelay(true)
                .pool_idle_timeout(Duration::from_mins(1))
                .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")));
            for pem in &*extra_roots {
                builder = builder.add_root_certificate(reqwest::Certificate::from_pem(pem)?);
            }
            Ok::<_, reqwest::Error>(builder)
        };
        Ok(Self {
            operator: base()?.build()?,
            tenant: base()?.https_only(true).dns_resolver(Arc::clone(&vetting)).build()?,
            vetting,
            extra_roots,
        })
    }

    /// Rule 8 of the URL policy, asked ahead of any request: the name leads to public addresses only.
    ///
    /// # Errors
    /// `UrlRule::Address`, whatever was found.
    pub async fn vet(&self, host: &str) -> Result<(), UrlRule> {
        self.vetting.addresses(host.to_owned()).await.map(|_| ()).map_err(|_| UrlRule::Address)
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn send(&self, outgoing: Outgoing, trust: Trust, wait: Duration) -> Result<Answer, SendError> {
        let client = match trust {
            Trust::Operator => &self.operator,
            Trust::Tenant => &self.tenant,
        };
        let request = client
            .request(outgoing.method, outgoing.url)
            .headers(outgoing.headers)
            .body(outgoing.body)
            .send();
        let mut response = tokio::time::timeout(wait, request)
            .await
            .map_err(|_| SendError::Timeout)?
            .map_err(|error| classify(&error))?;
        let headers = std::mem::take(response.headers_mut());
        let head: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if head > MAX_HEAD {
            return Err(SendError::Broken);
        }
        Ok(Answer { status: response.status().as_u16(), headers, response })
    }
}

impl Answer {
    /// The next piece of the body; `None` at its proper end.
    ///
    /// # Errors
    /// `Broken` when the body ends before its time, `Timeout` after too long a silence.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SendError> {
        match tokio::time::timeout(IDLE, self.response.chunk()).await {
            Err(_) => Err(SendError::Timeout),
            Ok(Err(_)) => Err(SendError::Broken),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }

    /// The length that the answer promises.
    #[must_use]
    pub fn promised_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The whole body, if it is not longer than `limit`; `Ok(None)` if it is.
    ///
    /// # Errors
    /// As `chunk`.
    pub async fn body(&mut self, limit: usize) -> Result<Option<Bytes>, SendError> {
        let Some(first) = self.chunk().await? else { return Ok(Some(Bytes::new())) };
        if self.promised_length() == Some(first.len() as u64) && first.len() <= limit {
            return Ok(Some(first));
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

fn classify(error: &reqwest::Error) -> SendError {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<Refused>() {
            return SendError::Refused;
        }
        source = cause.source();
    }
    // A connection that takes too long is a timeout too, but nothing was sent on it.
    if error.is_connect() {
        SendError::Unreachable
    } else if error.is_timeout() {
        SendError::Timeout
    } else {
        SendError::Broken
    }
}

/// Resolves for the client of tenants' URLs, and lets only vetted addresses through.
struct Vetting {
    resolver: Arc<dyn Resolver>,
    rule: AddressRule,
}

#[derive(Debug, thiserror::Error)]
#[error("no public address")]
struct Refused;

impl Vetting {
    /// All addresses of a host. One that is not public spoils them all: which one a connection
    /// takes is not ours to say.
    async fn addresses(&self, host: String) -> Result<Vec<IpAddr>, Refused> {
        let found = tokio::time::timeout(CONNECT, self.resolver.resolve(host))
            .await
            .map_err(|_| Refused)?
            .map_err(|_| Refused)?;
        if found.is_empty() || !found.iter().all(|address| (self.rule)(*address)) {
            return Err(Refused);
        }
        Ok(found)
    }
}

impl Resolve for Vetting {
    fn resolve(&self, name: Name) -> Resolving {
        let vetting = Self { resolver: Arc::clone(&self.resolver), rule: self.rule };
        Box::pin(async move {
            let port = vetting.resolver.port();
            let addresses = vetting.addresses(name.as_str().to_owned()).await?;
            let sockets = addresses.into_iter().map(move |ip| SocketAddr::new(ip, port));
            Ok(Box::new(sockets) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}
