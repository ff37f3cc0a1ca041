//! Keys with a custom URL: over real TLS to a name of the test's own, and never to an address that
//! the policy refuses, whatever a resolver says and when.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use keyward::domain::billing::UsageMode;
use keyward::domain::money::Nanos;
use keyward::domain::provider_key::{KeyState, Provider};
use keyward::domain::usage::{TokenUsage, UsageState};
use keyward::outbound::{Parts, Resolver, address};
use keyward::providers::{self, Need};
use keyward::services::provider_keys::NewKey;
use keyward::services::{ServiceError, provider_keys::Saved};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::{On, Setup, World, error_code, holder, new_key};

pub const HOST: &str = "llm.example.com";

/// In place of an answer: the resolver gives none.
const SILENCE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Answers with each list in turn, and with the last one from then on.
pub struct Script {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
    port: u16,
}

impl Script {
    pub fn new(answers: Vec<Vec<IpAddr>>, port: u16) -> Self {
        Self { answers, asked: AtomicUsize::new(0), port }
    }
}

impl Resolver for Script {
    fn resolve(&self, host: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        assert_eq!(host, HOST);
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers[turn.min(self.answers.len() - 1)].clone();
        Box::pin(async move {
            if answer == [SILENCE] { Err(std::io::Error::other("try again")) } else { Ok(answer) }
        })
    }

    fn port(&self) -> u16 {
        self.port
    }
}

/// A TLS front for the sandbox: a certificate for `HOST`, and everything inside passed on.
pub struct Front {
    pub port: u16,
    pub pem: Vec<u8>,
    connections: Arc<AtomicUsize>,
    /// New connections speak HTTP/2, on which no request is taken.
    refuses: Arc<AtomicBool>,
}

pub async fn tls_front(sandbox: SocketAddr) -> Front {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut refusing = config.clone();
    refusing.alpn_protocols = vec![b"h2".to_vec()];
    let (acceptor, refusing) = (TlsAcceptor::from(Arc::new(config)), TlsAcceptor::from(Arc::new(refusing)));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let refuses = Arc::new(AtomicBool::new(false));
    let refuse = Arc::clone(&refuses);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            if refuse.load(Ordering::SeqCst) {
                let refusing = refusing.clone();
                tokio::spawn(async move {
                    let stream = refusing.accept(stream).await.unwrap();
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    }
                });
                continue;
            }
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let (Ok(mut inside), Ok(mut outside)) =
                    (acceptor.accept(stream).await, TcpStream::connect(sandbox).await)
                {
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                }
            });
        }
    });
    Front { port, pem: made.cert.pem().into_bytes(), connections, refuses }
}

async fn add(
    world: &World,
    tenant: &keyward::domain::account::Tenant,
    provider: Provider,
) -> Result<Saved, ServiceError> {
    let secret = world.key_of(provider, "ok").await;
    let new = NewKey { provider, custom_url: format!("https://{HOST}"), ..new_key("custom", &secret) };
    world.services.add_key(&world.admin(tenant), holder(tenant), new).await
}

/// Every provider whose keys may carry a URL of their own.
fn providers_with_urls() -> impl Iterator<Item = Provider> {
    providers::ALL
        .iter()
        .map(|provider| provider.spec())
        .filter(|spec| spec.base_url.need != Need::None)
        .map(|spec| spec.kind)
}

/// A sandbox of its own, so that its address is known before the world is made.
fn sandbox() -> (SocketAddr, actix_web::dev::ServerHandle) {
    let listener = crate::support::free_port();
    let address = listener.local_addr().unwrap();
    let server = keyward::sandbox::server(listener, keyward::sandbox::Options::default()).unwrap();
    let handle = server.handle();
    tokio::spawn(server);
    (address, handle)
}

async fn world(
    answers: Vec<Vec<IpAddr>>,
    rule: fn(IpAddr) -> bool,
) -> (World, Arc<AtomicUsize>, actix_web::dev::ServerHandle) {
    let (world, front, handle) = fronted(answers, rule).await;
    (world, front.connections, handle)
}

async fn fronted(
    answers: Vec<Vec<IpAddr>>,
    rule: fn(IpAddr) -> bool,
) -> (World, Front, actix_web::dev::ServerHandle) {
    let (address, handle) = sandbox();
    let front = tls_front(address).await;
    let resolver = Arc::new(Script::new(answers, front.port));
    let outbound = Parts { resolver, rule, extra_roots: vec![front.pem.clone()], ..Parts::default() };
    let world = World::with(On::Sqlite, Setup { outbound: Some(outbound), ..Setup::default() }).await;
    (world, front, handle)
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_url_is_reached_over_tls_and_sealed_with_its_key() {
    let (mut world, connections, handle) = world(vec![vec![LOOPBACK]], |_| true).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    add(&world, &tenant, Provider::Anthropic).await.unwrap();
    let line = &world.services.key_lines(holder(&tenant)).await.unwrap()[0];
    assert_eq!(line.key.current.custom_url.as_deref(), Some("https://llm.example.com/v1/messages"));
    let token = world.token(&tenant).await;
    let answer = world.message(&token).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    assert_eq!(world.row_of(&answer).await.state, UsageState::Final);
    assert!(connections.load(Ordering::SeqCst) > 0);
    assert!(world.arrived().await.is_empty(), "the operator's own origin saw nothing");

    // A URL changed in the database behind Keyward's back makes the key fail to open.
    let before = connections.load(Ordering::SeqCst);
    let url = format!("sqlite://{}", world.dir.path().join("keyward.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let sql = "UPDATE key_version SET custom_url = 'https://evil.example.com/v1/messages'";
    sqlx::query(sql).execute(&pool).await.unwrap();
    pool.close().await;
    world.services.directory.forget(tenant.id.into());
    let answer = world.message(&token).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["x-should-retry"], "false", "no retry opens it");
    assert_eq!(error_code(&answer.json::<Value>().await.unwrap()), "keyward_unavailable");
    assert_eq!(connections.load(Ordering::SeqCst), before);
    world.stop().await;
    handle.stop(false).await;
    world.end().await;
}

/// A provider that takes no more requests on a connection says so, and has not begun on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_not_taken_costs_nothing() {
    let (world, front, handle) = fronted(vec![vec![LOOPBACK]], |_| true).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    add(&world, &tenant, Provider::Anthropic).await.unwrap();
    let token = world.token(&tenant).await;
    front.refuses.store(true, Ordering::SeqCst);
    let answer = world.message(&token).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers().get("x-should-retry"), None, "a retry helps");
    let row = world.row_of(&answer).await;
    assert_eq!((row.state, row.tokens, row.cost), (UsageState::Final, TokenUsage::default(), Nanos::ZERO));
    let told = answer.json::<Value>().await.unwrap();
    assert_eq!(error_code(&told), "keyward_upstream_unreachable");
    let line = &world.services.key_lines(holder(&tenant)).await.unwrap()[0];
    assert_eq!(line.key.view().state_at(world.clock.now()), KeyState::Valid);
    handle.stop(false).await;
    world.end().await;
}

/// A resolver that gives no answer says nothing of the URL: the next request may be sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_cannot_be_looked_up_is_no_refusal() {
    // Asked twice while saving: once to vet, once to connect.
    let answers = vec![vec![LOOPBACK], vec![LOOPBACK], vec![SILENCE], vec![LOOPBACK]];
    let (world, _, handle) = world(answers, |_| true).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    add(&world, &tenant, Provider::Anthropic).await.unwrap();
    let token = world.token(&tenant).await;
    let answer = world.message(&token).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers().get("x-should-retry"), None, "a retry helps");
    let row = world.row_of(&answer).await;
    assert_eq!((row.state, row.tokens, row.cost), (UsageState::Final, TokenUsage::default(), Nanos::ZERO));
    assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
    handle.stop(false).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_inside_is_refused_when_saved() {
    for inside in [
        vec![LOOPBACK],
        vec![PUBLIC, LOOPBACK],
        vec![],
        vec![SILENCE],
        vec!["169.254.169.254".parse().unwrap()],
    ] {
        let (world, connections, handle) = world(vec![inside], address::is_global).await;
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        for provider in providers_with_urls() {
            match add(&world, &tenant, provider).await {
                Err(ServiceError::Invalid(problems)) => {
                    let told = problems.of("custom_url");
                    assert_eq!(told, Some("That name does not lead to a public address."), "{provider}");
                }
                other => panic!("{provider}: {other:?}"),
            }
        }
        assert_eq!(connections.load(Ordering::SeqCst), 0);
        handle.stop(false).await;
        world.end().await;
    }
}

/// The name is public when it is vetted and private when it is connected to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_changes_between_vetting_and_connecting_is_refused() {
    for provider in providers_with_urls() {
        let (world, connections, handle) =
            world(vec![vec![PUBLIC], vec![LOOPBACK]], address::is_global).await;
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        match add(&world, &tenant, provider).await {
            Err(ServiceError::Invalid(problems)) => {
                let told = problems.of("custom_url").unwrap();
                assert!(
                    told.ends_with("API answered at this URL. Nothing was stored."),
                    "{provider}: {told}"
                );
            }
            other => panic!("{provider}: {other:?}"),
        }
        assert_eq!(connections.load(Ordering::SeqCst), 0, "no byte went to the private address");
        handle.stop(false).await;
        world.end().await;
    }
}

/// The key is saved while its name leads to an address that the rule allows; from the first call on
/// the same name leads to another form of that address, which the rule does not allow but which
/// would reach the same server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_changes_between_check_and_call_is_refused() {
    let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    // Asked twice while saving: once to vet, once to connect.
    let answers = vec![vec![LOOPBACK], vec![LOOPBACK], vec![mapped]];
    let (world, connections, handle) = world(answers, |address| address == LOOPBACK).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    add(&world, &tenant, Provider::Custom).await.unwrap();
    let before = connections.load(Ordering::SeqCst);
    assert!(before > 0);
    let token = world.token(&tenant).await;
    let answer = world.ask(Provider::Custom, &token, false).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["x-should-retry"], "false");
    assert_eq!(connections.load(Ordering::SeqCst), before, "no byte went to the other address");
    handle.stop(false).await;
    world.end().await;
}
