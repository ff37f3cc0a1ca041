//! `keyward demo`: the whole of Keyward on this machine, with sample data and the sandbox as provider.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Failure, demo_data};
use crate::config::{
    AuditSettings, EndpointSettings, LogFormat, MailSettings, PaymentKind, PaymentSettings, Settings,
};
use crate::domain::clock::Clock;
use crate::outbound::{Outbound, Parts, Trust};
use crate::providers::Outgoing;
use crate::sandbox;
use crate::sandbox::payment::Courier;
use crate::services::Services;
use crate::startup::{self, Replacements, Signals};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Address and port of console and gateway [default: 127.0.0.1:8080, or that of the last run]
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Address and port of the sandbox [default: 127.0.0.1:8788, or that of the last run]
    #[arg(long)]
    sandbox_bind: Option<SocketAddr>,
    /// Folder for the sample database
    #[arg(long, default_value = "./data/demo")]
    data_dir: PathBuf,
}

/// What a person or a script needs to use the demo: printed as one line, and kept in `demo.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Card {
    pub url: String,
    pub sandbox_url: String,
    pub users: Vec<CardUser>,
    /// Tenants whose calls are answered, by slug.
    pub tokens: BTreeMap<String, String>,
    pub service_token: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CardUser {
    pub email: String,
    pub password: String,
    pub role: String,
    pub tenant: Option<String>,
}

const FILE: &str = "demo.json";

impl Demo {
    pub async fn run(self) -> Result<(), Failure> {
        telemetry::init(LogFormat::Text);
        let signals = Signals::listen()?;
        let known = read_card(&self.data_dir);
        let listener = listen(self.bind, known.as_ref().map(|card| card.url.as_str()), 8080)?;
        let sandbox_listener =
            listen(self.sandbox_bind, known.as_ref().map(|card| card.sandbox_url.as_str()), 8788)?;
        let sandbox_url = format!("http://localhost:{}", sandbox_listener.local_addr()?.port());
        let sandbox_origin = format!("http://{}", sandbox_listener.local_addr()?);
        let courier = courier(&format!("http://{}", listener.local_addr()?))?;
        let options = sandbox::Options { clock: Clock::system(), workers: 1, courier: Some(courier) };
        let sandbox = sandbox::server(sandbox_listener, options)?;
        let sandbox_handle = sandbox.handle();
        let sandbox = tokio::spawn(sandbox);

        let gateway = listener.local_addr()?;
        let settings = self.settings(&listener, &sandbox_origin)?;
        let services = startup::open(&settings, Replacements::default()).await?;
        let card = match known {
            Some(known) => Card { url: services.options.public_url.clone(), sandbox_url, ..known },
            None => demo_data::plant(&services, sandbox_url).await?,
        };
        write_card(&self.data_dir, &card)?;
        let running = startup::start(Arc::clone(&services), &settings, listener).await?;
        call_gateway(&services, &card, gateway).await?;
        introduce(&card)?;
        running.until_signal(signals).await;
        sandbox_handle.stop(false).await;
        sandbox.await??;
        Ok(())
    }

    /// The settings of an installation that is all here. The environment's are left aside: a demo
    /// must not end up in a real database.
    fn settings(&self, listener: &TcpListener, sandbox_origin: &str) -> Result<Settings, Failure> {
        let address = listener.local_addr()?;
        Ok(Settings {
            bind: address,
            data_dir: self.data_dir.clone(),
            database_url: None,
            database_url_file: None,
            master_keys_file: None,
            anthropic_url: sandbox_origin.to_owned(),
            openai_url: sandbox_origin.to_owned(),
            google_url: sandbox_origin.to_owned(),
            vertex_url: Some(sandbox_origin.to_owned()),
            google_token_url: sandbox_origin.to_owned(),
            endpoints: EndpointSettings {
                public_url: Some(format!("http://localhost:{}", address.port())),
                // Azure and custom endpoints have no origin of their own: theirs is the sandbox too.
                allowed_endpoints: vec![sandbox_origin.to_owned()],
                allowed_webhooks: vec![sandbox_origin.to_owned()],
                allowed_identity_providers: vec![sandbox_origin.to_owned()],
            },
            mail: MailSettings::default(),
            payments: PaymentSettings {
                kind: PaymentKind::Stripe,
                stripe_url: Some(sandbox_origin.to_owned()),
                stripe_secret_key: Some("sk_test_sandbox_demo".to_owned()),
                stripe_webhook_secret: Some(SANDBOX_SECRET.to_owned()),
                ..PaymentSettings::default()
            },
            audit: AuditSettings::default(),
            staff_second_factor: false,
            product_name: "Acme".to_owned(),
            log: LogFormat::Text,
            metrics_bind: None,
            trusted_proxies: Vec::new(),
            generations_at_once: 4,
            shutdown_seconds: 10,
        })
    }
}

/// What the sandbox signs its messages of payments with. No money moves, so it guards nothing.
const SANDBOX_SECRET: &str = "whsec_sandbox";

/// Carries the sandbox's messages of payments to Keyward.
fn courier(keyward: &str) -> Result<Courier, Failure> {
    let outbound = Outbound::new(Parts::default())?;
    let url = format!("{keyward}/webhooks/stripe");
    let send = move |url: String, signature: String, body: String| -> BoxFuture<'static, Option<u16>> {
        let outbound = outbound.clone();
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static("application/json"));
            headers.insert("stripe-signature", HeaderValue::from_str(&signature).ok()?);
            let url = Url::parse(&url).ok()?;
            let outgoing =
                Outgoing { method: Method::POST, url, headers, body: body.into(), hides_usage: false };
            let sent = outbound.send(outgoing, Trust::Operator, Duration::from_secs(10)).await;
            sent.ok().map(|answer| answer.status)
        })
    };
    Ok(Courier { url, secret: SANDBOX_SECRET.to_owned(), send: Arc::new(send) })
}

/// Binds what was asked for; or the port of the last run, or the usual one, or any that is free.
fn listen(asked: Option<SocketAddr>, last: Option<&str>, usual: u16) -> Result<TcpListener, Failure> {
    if let Some(address) = asked {
        return Ok(startup::bind(address)?);
    }
    let last = last.and_then(|url| url::Url::parse(url).ok()?.port());
    let local = |port| TcpListener::bind(("127.0.0.1", port));
    if let Some(port) = last {
        return local(port).map_err(|error| {
            format!("port {port} of the last run is taken ({error}); choose another with --bind and --sandbox-bind").into()
        });
    }
    Ok(local(usual).or_else(|_| local(0))?)
}

fn read_card(folder: &Path) -> Option<Card> {
    serde_json::from_str(&std::fs::read_to_string(folder.join(FILE)).ok()?).ok()
}

fn write_card(folder: &Path, card: &Card) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(folder.join(FILE))?;
    writeln!(file, "{}", serde_json::to_string(card)?)?;
    Ok(())
}

/// One real call through the gateway, so that a demo that does not work says so at once.
async fn call_gateway(services: &Services, card: &Card, gateway: SocketAddr) -> Result<(), Failure> {
    let token = card.tokens.get(demo_data::FIRST_CALLER).ok_or("the demo has no token")?;
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", http::HeaderValue::from_str(token)?);
    headers.insert("anthropic-version", http::HeaderValue::from_static("2023-06-01"));
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    let body = serde_json::json!({
        "model": "claude-haiku-4-5",
        "max_tokens": 64,
        "messages": [{ "role": "user", "content": "Say hello to whoever is trying Keyward." }],
    });
    let outgoing = Outgoing {
        method: http::Method::POST,
        url: Url::parse(&format!("http://{}/v1/messages", reachable(gateway)))?,
        headers,
        body: body.to_string().into(),
        hides_usage: false,
    };
    let mut answer = services.outbound.send(outgoing, Trust::Operator, Duration::from_secs(20)).await?;
    let status = answer.status;
    let body = answer.body(1_024 * 1_024).await?.unwrap_or_default();
    if status != 200 {
        return Err(
            format!("the first gateway call failed: {status} {}", String::from_utf8_lossy(&body)).into()
        );
    }
    Ok(())
}

/// Where to reach what is bound to this address: to all of them, it is on the loopback one too.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn introduce(card: &Card) -> Result<(), Failure> {
    use std::fmt::Write as _;
    use std::io::Write as _;
    let mut text = format!("Keyward's demo is up at {}\n", card.url);
    writeln!(text, "The sandbox provider is at {}\n\nSign in as:", card.sandbox_url)?;
    for user in &card.users {
        let place = user.tenant.as_deref().unwrap_or("the platform");
        writeln!(text, "  {:<28} {:<22} {} of {place}", user.email, user.password, user.role)?;
    }
    writeln!(text, "\nCtrl-C ends it; the next run carries on. The same for scripts:")?;
    writeln!(text, "{}", serde_json::to_string(card)?)?;
    // A script that has read its line may close the pipe; the demo goes on for it all the same.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
