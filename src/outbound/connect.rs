//! How connections are made: where names lead, which addresses are allowed, TLS, and how long it may take.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tower_service::Service;

/// Everything up to the end of the handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// For how long a connection is kept that nothing uses.
const IDLE_CONNECTION: Duration = Duration::from_mins(1);
/// Headers of an answer by HTTP/2, in bytes as it counts them: more than are taken in the end, so that both
/// protocols take as many.
const HEAD_LIMIT: u32 = 64 * 1_024;
/// How often a connection in use is probed, and for how long what was sent may go unacknowledged.
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 3;
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Speaks HTTP/1.1 and HTTP/2, follows no redirect and knows no proxy.
pub type Client = legacy::Client<Connector, Full<Bytes>>;
type Connector = Patient<HttpsConnector<HttpConnector<Names>>>;

/// A client with connections of its own.
pub fn client(names: Names, tls: &Arc<ClientConfig>) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_CONNECTION)
        .http2_max_header_list_size(HEAD_LIMIT)
        .build(connector(names, tls, CONNECT))
}

/// One whose names are vetted connects to names alone, and by TLS alone.
fn connector(names: Names, tls: &Arc<ClientConfig>, patience: Duration) -> Connector {
    let vetted = matches!(names, Names::Vetted(_));
    let mut tcp = HttpConnector::new_with_resolver(names);
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(patience));
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PROBE_EVERY));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(PROBES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut connector = HttpsConnector::from((tcp, Arc::clone(tls)));
    if vetted {
        connector.enforce_https();
    }
    Patient { connector, patience, names_only: vetted }
}

/// TLS that trusts the system's certificates, and these.
pub fn tls(extra_roots: &[Vec<u8>]) -> Result<Arc<ClientConfig>, rustls::Error> {
    let extra: Result<Vec<_>, _> =
        extra_roots.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem)).collect();
    let extra = extra.map_err(|error| rustls::Error::General(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
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

/// Resolves for the client of tenants' URLs, and lets only vetted addresses through.
pub struct Vetting {
    pub resolver: Arc<dyn Resolver>,
    pub rule: AddressRule,
}

#[derive(Debug, thiserror::Error)]
#[error("no public address")]
pub struct Refused;

impl Vetting {
    /// All addresses of a host. One that is not public spoils them all: which one a connection
    /// takes is not ours to say.
    ///
    /// # Errors
    /// `Refused`, or why the resolver gave no answer, which says nothing of the host.
    pub async fn addresses(&self, host: String) -> Result<Vec<IpAddr>, BoxError> {
        let found = tokio::time::timeout(CONNECT, self.resolver.resolve(host)).await??;
        if found.is_empty() || !found.iter().all(|address| (self.rule)(*address)) {
            return Err(Refused.into());
        }
        Ok(found)
    }
}

/// Where a client's names lead. Hosts that are addresses are never asked for here.
#[derive(Clone)]
pub enum Names {
    System,
    Vetted(Arc<Vetting>),
}

impl Names {
    async fn sockets(self, host: String) -> Result<Vec<SocketAddr>, BoxError> {
        let (found, port) = match self {
            Self::System => (SystemResolver.resolve(host).await?, SystemResolver.port()),
            Self::Vetted(vetting) => (vetting.addresses(host).await?, vetting.resolver.port()),
        };
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let sockets = self.clone().sockets(name.as_str().to_owned());
        Box::pin(async move { Ok(sockets.await?.into_iter()) })
    }
}

/// Gives up a connection that takes too long, its handshake included. The URL policy takes no addresses from
/// tenants; should one come so far, it is refused here.
#[derive(Clone)]
pub struct Patient<C> {
    connector: C,
    patience: Duration,
    names_only: bool,
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<IpAddr>().is_ok()
}

impl<C> Service<Uri> for Patient<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        if self.names_only && to.host().is_some_and(is_address) {
            return Box::pin(async { Err(Refused.into()) });
        }
        let connecting = tokio::time::timeout(self.patience, self.connector.call(to));
        Box::pin(async move { connecting.await?.map_err(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The connection is taken, and nothing is ever said on it.
    #[tokio::test]
    async fn a_handshake_that_does_not_end_is_given_up() {
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("https://{}/", deaf.local_addr().unwrap()).parse().unwrap();
        let mut connector = connector(Names::System, &tls(&[]).unwrap(), Duration::from_millis(100));
        let connecting = tokio::time::timeout(CONNECT, connector.call(to));
        let gave_up = connecting.await.expect("it is not given up").err().unwrap();
        assert!(gave_up.is::<tokio::time::error::Elapsed>(), "{gave_up}");
    }
}
