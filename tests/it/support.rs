//! What every test stands on: its own database, sandbox, server and clock, all on free ports of
//! this machine, and gone when the test ends.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use futures_util::future::BoxFuture;
use keyward::access::actor::Actor;
use keyward::access::scope::Scope;
use keyward::config::{AuditSettings, EndpointSettings, LogFormat, MailSettings, PaymentSettings, Settings};
use keyward::crypto::secret::Secret;
use keyward::domain::account::{
    Email, KeyChangers, PlatformRole, Proof, SecondFactorRule, Slug, Tenant, TenantRole, TenantState, User,
};
use keyward::domain::audit::AuditActor;
use keyward::domain::billing::{Funding, LimitPolicy, NoKeyPolicy, PaymentPolicy, UsageMode};
use keyward::domain::clock::Clock;
use keyward::domain::ids::{Owner, PlanId, RequestId, TenantId, TokenId, UserId};
use keyward::domain::plan::{Feature, Plan};
use keyward::domain::price::Multiplier;
use keyward::domain::provider_key::{KeySettings, Provider};
use keyward::domain::usage::{Dialect, UsageRow};
use keyward::outbound::Parts;
use keyward::sandbox;
use keyward::sandbox::payment::Courier;
use keyward::services::pasted::TypedKey;
use keyward::services::provider_keys::{Holder, NewKey, Saved};
use keyward::services::tokens::NewToken;
use keyward::services::{ServiceError, Services};
use keyward::startup::{self, Replacements, Running};
use keyward::storage::tenants::TenantRecord;
use keyward::storage::{changes, people, plans, tenants, usage};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Which database a test runs on. Every story is told on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Sqlite,
    Postgres,
}

/// Declares a test that runs once on SQLite and once on PostgreSQL.
#[macro_export]
macro_rules! on_both {
    ($(#[$meta:meta])* async fn $name:ident($world:ident: World) $body:block) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn story($world: &mut $crate::support::World) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let mut world = $crate::support::World::new($crate::support::On::Sqlite).await;
                story(&mut world).await;
                world.end().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                let mut world = $crate::support::World::new($crate::support::On::Postgres).await;
                story(&mut world).await;
                world.end().await;
            }
        }
    };
}

pub struct World {
    pub services: Arc<Services>,
    pub clock: Clock,
    /// `http://127.0.0.1:PORT` of console and gateway.
    pub url: String,
    pub sandbox_url: String,
    pub http: reqwest::Client,
    pub dir: tempfile::TempDir,
    pub settings: Settings,
    running: Option<Running>,
    sandbox: ServerHandle,
    postgres: Option<String>,
}

/// What a test may set up differently.
#[derive(Default)]
pub struct Setup {
    pub outbound: Option<Parts>,
    /// Where Anthropic requests go in place of the sandbox.
    pub anthropic_url: Option<String>,
    pub openai_url: Option<String>,
    /// Origins that webhooks may lead to, beside the sandbox's.
    pub allowed: Vec<String>,
    pub mail: MailSettings,
    pub payments: PaymentSettings,
    pub audit: AuditSettings,
    pub staff_second_factor: bool,
}

impl World {
    pub async fn new(on: On) -> Self {
        Self::with(on, Setup::default()).await
    }

    pub async fn with(on: On, setup: Setup) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let clock = Clock::adjustable();
        let dir = tempfile::tempdir().expect("a folder");
        let listener = free_port();
        let address = listener.local_addr().expect("an address");
        let (sandbox, sandbox_url) = start_sandbox(&clock, &format!("http://{address}"));
        let postgres = match on {
            On::Sqlite => None,
            On::Postgres => Some(fresh_postgres().await),
        };
        let settings = Settings {
            bind: address,
            data_dir: dir.path().to_owned(),
            database_url: postgres.clone(),
            database_url_file: None,
            master_keys_file: None,
            anthropic_url: setup.anthropic_url.unwrap_or_else(|| sandbox_url.clone()),
            openai_url: setup.openai_url.unwrap_or_else(|| sandbox_url.clone()),
            google_url: sandbox_url.clone(),
            vertex_url: Some(sandbox_url.clone()),
            google_token_url: sandbox_url.clone(),
            endpoints: EndpointSettings {
                public_url: Some(format!("http://localhost:{}", address.port())),
                allowed_endpoints: vec![sandbox_url.clone()],
                allowed_webhooks: [vec![sandbox_url.clone()], setup.allowed].concat(),
                allowed_identity_providers: vec![sandbox_url.clone()],
            },
            mail: setup.mail,
            payments: PaymentSettings {
                stripe_url: setup.payments.stripe_url.or_else(|| Some(sandbox_url.clone())),
                ..setup.payments
            },
            audit: setup.audit,
            staff_second_factor: setup.staff_second_factor,
            product_name: "Acme".to_owned(),
            log: LogFormat::Text,
            metrics_bind: None,
            trusted_proxies: Vec::new(),
            generations_at_once: 4,
            shutdown_seconds: 5,
        };
        let replace = Replacements { clock: clock.clone(), outbound: setup.outbound.unwrap_or_default() };
        let services = startup::open(&settings, replace).await.expect("services");
        plant(&services).await;
        let running = startup::start(Arc::clone(&services), &settings, listener).await.expect("a server");
        Self {
            services,
            clock,
            url: format!("http://{address}"),
            sandbox_url,
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                // A test that waits in vain fails, and says where.
                .read_timeout(Duration::from_mins(1))
                .build()
                .expect("a client"),
            dir,
            settings,
            running: Some(running),
            sandbox,
            postgres,
        }
    }

    /// Stops everything in good order, and waits for it.
    pub async fn end(mut self) {
        self.stop().await;
        self.sandbox.stop(false).await;
        if let Some(url) = self.postgres.take() {
            drop_postgres(&url).await;
        }
    }

    /// Stops the server alone; its database stays.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    /// A tenant on the plan `pro`, with default policies.
    pub async fn tenant(&self, slug: &str, mode: UsageMode) -> Tenant {
        self.tenant_with(slug, mode, NoKeyPolicy::Managed, LimitPolicy::Pause).await
    }

    pub async fn tenant_with(
        &self,
        slug: &str,
        mode: UsageMode,
        no_key: NoKeyPolicy,
        on_limit: LimitPolicy,
    ) -> Tenant {
        let mut tx = self.services.db.write().await.expect("a transaction");
        let plan = plans::list(&mut tx).await.unwrap().into_iter().find(|plan| plan.slug == "pro").unwrap();
        let record = TenantRecord {
            tenant: Tenant {
                id: TenantId::new(),
                slug: Slug::parse(slug).unwrap(),
                name: format!("{slug} Ltd"),
                plan_id: plan.id,
                state: TenantState::Active,
                key_changers: KeyChangers::Admins,
                second_factor: SecondFactorRule::Optional,
                sso_required: false,
                sso_sessions_from: keyward::domain::clock::Moment(0),
                viewing: keyward::domain::viewing::ViewingRule::default(),
                rotation_days: keyward::domain::account::ROTATION_DAYS,
                time_zone: "UTC".to_owned(),
                created_at: self.clock.now(),
            },
            policy: PaymentPolicy {
                mode,
                funding: Funding::Included,
                no_key,
                on_limit,
                rate: Multiplier::LIST,
            },
        };
        tenants::insert(&mut tx, &record).await.unwrap();
        tx.commit().await.unwrap();
        record.tenant
    }

    /// An access token of the tenant.
    pub async fn token(&self, tenant: &Tenant) -> String {
        self.make_token(Owner::Tenant(tenant.id)).await
    }

    pub async fn make_token(&self, owner: Owner) -> String {
        self.token_for(owner, &["gateway"]).await
    }

    /// A token with scopes of one's choice.
    pub async fn token_for(&self, owner: Owner, scopes: &[&str]) -> String {
        let holder = Holder { scope: Scope::of_system(owner), changers: KeyChangers::Admins };
        let new = NewToken {
            id: TokenId::new(),
            name: "Test".to_owned(),
            days: String::new(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        };
        let made = self.services.make_token(&AuditActor::system("test"), holder, &new).await.unwrap();
        made.secret.expose().to_owned()
    }

    /// Adds a key as the tenant's admin would, with its live check.
    pub async fn add_key(&self, tenant: &Tenant, name: &str, secret: &str) -> Result<Saved, ServiceError> {
        self.services.add_key(&self.admin(tenant), holder(tenant), new_key(name, secret)).await
    }

    /// Adds a key of any provider, at the sandbox where it needs a URL.
    pub async fn add_key_of(
        &self,
        holder: Holder,
        provider: Provider,
        name: &str,
        secret: &str,
    ) -> Result<Saved, ServiceError> {
        let custom_url = match provider {
            Provider::Azure => self.sandbox_url.clone(),
            Provider::Custom => format!("{}/custom/v1", self.sandbox_url),
            _ => String::new(),
        };
        let new = NewKey { provider, custom_url, ..new_key(name, secret) };
        self.services.add_key(&self.super_admin_of(holder), holder, new).await
    }

    /// Somebody who may change the keys of a holder.
    fn super_admin_of(&self, holder: Holder) -> Actor {
        match holder.scope.tenant() {
            Some(tenant) => self.actor(None, Some((tenant, TenantRole::Admin))),
            None => self.super_admin(),
        }
    }

    /// A sandbox key of any provider, a different one at every call.
    pub async fn key_of(&self, provider: Provider, word: &str) -> String {
        let anthropic = test_key(word);
        let body = anthropic.trim_start_matches("sk-ant-api03-");
        match provider {
            Provider::Anthropic => anthropic,
            Provider::Openai => format!("sk-proj-{body}"),
            Provider::Google => format!("AQ.{body}"),
            Provider::Azure | Provider::Custom => body.to_owned(),
            Provider::Vertex => {
                let url = format!("{}/sandbox/service-account/{word}", self.sandbox_url);
                let mut account: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
                account["client_email"] = json!(format!("{body}@project.iam.gserviceaccount.com"));
                account.to_string()
            }
        }
    }

    pub async fn rotate(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
        secret: &str,
    ) -> Result<Saved, ServiceError> {
        let secret = Secret::new(secret.to_owned());
        let lines = self.services.keys(holder).await?;
        let known = lines.iter().find(|key| key.name.as_str() == name);
        let settings = known.map(|key| key.current.settings.clone()).unwrap_or_default();
        let custom_url = known.and_then(|key| key.current.custom_url.clone()).unwrap_or_default();
        let typed = TypedKey { secret: &secret, custom_url: &custom_url, settings: &settings };
        self.services.rotate_key(actor, holder, name, &typed).await
    }

    /// A request that this provider can answer, without any header of Keyward's but the provider's
    /// name where the dialect is another's.
    pub fn ask(&self, provider: Provider, token: &str, stream: bool) -> reqwest::RequestBuilder {
        let post = |path: &str| self.http.post(format!("{}{path}", self.url));
        let request = match provider.dialect() {
            Dialect::Anthropic => {
                let mut body = message("claude-haiku-4-5", 64);
                body["stream"] = json!(stream);
                post("/v1/messages")
                    .header("x-api-key", token)
                    .header("anthropic-version", "2023-06-01")
                    .json(&body)
            }
            Dialect::Openai => post("/v1/chat/completions").bearer_auth(token).json(&json!({
                "model": "gpt-5.4-nano",
                "max_completion_tokens": 64,
                "stream": stream,
                "messages": [{ "role": "user", "content": "Name three rivers." }],
            })),
            Dialect::Gemini => {
                let action = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
                post(&format!("/v1beta/models/gemini-3.1-flash-lite:{action}"))
                    .header("x-goog-api-key", token)
                    .json(&json!({
                        "contents": [{ "role": "user", "parts": [{ "text": "Name three rivers." }] }],
                        "generationConfig": { "maxOutputTokens": 64 },
                    }))
            }
        };
        if provider.dialect().own_provider() == provider {
            request
        } else {
            request.header("x-keyward-provider", provider.as_str())
        }
    }

    /// The platform's shared key.
    pub async fn add_shared_key(&self, secret: &str) {
        let holder = Holder { scope: Scope::of_system(Owner::Platform), changers: KeyChangers::SuperAdmins };
        self.services
            .add_key(&self.super_admin(), holder, new_key("shared", secret))
            .await
            .expect("a shared key");
    }

    pub fn admin(&self, tenant: &Tenant) -> Actor {
        self.actor(None, Some((tenant.id, TenantRole::Admin)))
    }

    pub fn super_admin(&self) -> Actor {
        self.actor(Some(PlatformRole::SuperAdmin), None)
    }

    pub fn actor(&self, platform_role: Option<PlatformRole>, role: Option<(TenantId, TenantRole)>) -> Actor {
        Actor {
            user_id: UserId::new(),
            email: "ada@acme.example".to_owned(),
            platform_role,
            memberships: role.into_iter().collect(),
            confirmed_at: self.clock.now(),
            strong_at: self.clock.now(),
            address: None,
            request_id: None,
            by_token: false,
            on_behalf: None,
            proof: Proof::default(),
        }
    }

    /// A user who can sign in.
    pub async fn user(
        &self,
        email: &str,
        password: &str,
        platform_role: Option<PlatformRole>,
        place: Option<(TenantId, TenantRole)>,
    ) -> User {
        let address = Email::parse(email).unwrap();
        let secret = Some(Secret::new(password.to_owned()));
        self.services
            .create_user(&AuditActor::system("test"), &address, platform_role, place, secret)
            .await
            .expect("a user");
        let mut tx = self.services.db.read().await.unwrap();
        people::find_by_email(&mut tx, &address).await.unwrap().unwrap()
    }

    /// The feature that generations run as, in the tenant's plan.
    pub async fn add_community_manager(&self, tenant: &Tenant) {
        self.add_feature(tenant, "community-manager").await;
    }

    /// A feature in the tenant's plan, under a switch of its own.
    pub async fn add_feature(&self, tenant: &Tenant, slug: &str) {
        let feature = Feature {
            slug: slug.into(),
            name: format!("{}{}", slug[..1].to_uppercase(), slug[1..].replace('-', " ")),
            default_model: Some("claude-haiku-4-5".into()),
            switch: format!("ai_{}_enabled", slug.replace('-', "_")),
            ..Feature::general().clone()
        };
        let mut tx = self.services.db.write().await.unwrap();
        plans::insert_feature(&mut tx, &feature).await.unwrap();
        plans::set_included(&mut tx, tenant.plan_id, &feature.slug, true).await.unwrap();
        changes::bump(&mut tx, Owner::Platform, self.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        self.services.directory.forget(Owner::Platform);
    }

    /// Sends a message through the gateway.
    pub fn message(&self, token: &str) -> reqwest::RequestBuilder {
        self.send(token, &message("claude-haiku-4-5", 64))
    }

    pub fn send(&self, token: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}/v1/messages", self.url))
            .header("x-api-key", token)
            .header("anthropic-version", "2023-06-01")
            .json(body)
    }

    /// Does behind Keyward's back what no code of it does.
    pub async fn sql(&self, sql: &'static str) {
        match &self.services.db {
            keyward::storage::Database::Sqlite(_) => {
                let path = self.dir.path().join("keyward.db");
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
                sqlx::query(sql).execute(&mut connection).await.unwrap();
                sqlx::Connection::close(connection).await.unwrap();
            }
            keyward::storage::Database::Postgres(pool) => {
                sqlx::query(sql).execute(pool).await.unwrap();
            }
        }
    }

    /// Every row of every table on PostgreSQL as text, bytes in hex; nothing on SQLite, whose file can be read.
    pub async fn postgres_rows(&self) -> Vec<u8> {
        let keyward::storage::Database::Postgres(pool) = &self.services.db else { return Vec::new() };
        let tables = "SELECT relname::text FROM pg_stat_user_tables ORDER BY relname";
        let tables: Vec<(String,)> = sqlx::query_as(tables).fetch_all(pool).await.unwrap();
        let mut all = Vec::new();
        for (table,) in tables {
            let sql = sqlx::AssertSqlSafe(format!("SELECT row_to_json(t)::text FROM {table} t"));
            let rows: Vec<(String,)> = sqlx::query_as(sql).fetch_all(pool).await.unwrap();
            all.extend(rows.into_iter().flat_map(|(row,)| row.into_bytes()));
        }
        assert!(!all.is_empty(), "the tables can be read");
        all
    }

    /// The usage row of an answer, once it is settled.
    pub async fn row_of(&self, response: &reqwest::Response) -> UsageRow {
        let id = response.headers()["x-keyward-request-id"].to_str().unwrap().to_owned();
        self.row(RequestId::parse(&id).unwrap()).await
    }

    pub async fn row(&self, id: RequestId) -> UsageRow {
        // The exchange hands its row over after the last byte has gone out.
        for _ in 0..200 {
            self.services.meter.flush().await;
            let mut tx = self.services.db.read().await.unwrap();
            if let Some(row) = usage::find(&mut tx, id).await.unwrap().filter(|row| row.ended_at.is_some()) {
                return row;
            }
            drop(tx);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the row of request {id} was never settled");
    }

    /// All usage rows of a tenant, oldest first.
    pub async fn rows(&self, tenant: &Tenant) -> Vec<UsageRow> {
        self.services.meter.flush().await;
        let mut tx = self.services.db.read().await.unwrap();
        let everything = (keyward::domain::clock::Moment(0), keyward::domain::clock::Moment(i64::MAX));
        usage::page(&mut tx, tenant.id, everything.0, everything.1, &[], None, 10_000).await.unwrap()
    }

    /// What the sandbox saw, newest first.
    pub async fn arrived(&self) -> Vec<Value> {
        let answer: Value = self
            .http
            .get(format!("{}/sandbox/requests?limit=1000", self.sandbox_url))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        answer["requests"].as_array().unwrap().clone()
    }

    pub async fn forget_arrived(&self) {
        self.http.delete(format!("{}/sandbox/requests", self.sandbox_url)).send().await.unwrap();
    }

    /// Makes the sandbox treat a key differently from now on.
    pub async fn impose(&self, secret: &str, behaviour: &str) {
        let body = json!({ "sha256": sha256(secret), "behaviour": behaviour });
        let answer =
            self.http.post(format!("{}/sandbox/impose", self.sandbox_url)).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }
}

pub fn holder(tenant: &Tenant) -> Holder {
    Holder { scope: Scope::of_system(Owner::Tenant(tenant.id)), changers: tenant.key_changers }
}

pub fn new_key(name: &str, secret: &str) -> NewKey {
    NewKey {
        provider: Provider::Anthropic,
        secret: Secret::new(secret.to_owned()),
        name: name.to_owned(),
        label: String::new(),
        custom_url: String::new(),
        settings: KeySettings::default(),
        switch_mode: false,
    }
}

/// A sandbox key that behaves as `word` says; a different one at every call.
pub fn test_key(word: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("sk-ant-api03-test-{word}-{:08}-Zz9y", COUNT.fetch_add(1, Ordering::SeqCst))
}

pub fn message(model: &str, max_tokens: u32) -> Value {
    json!({
        "model": model,
        "max_tokens": max_tokens,
        "messages": [{ "role": "user", "content": "Name three rivers." }],
    })
}

pub fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// Keyward's or the provider's code, wherever the dialect has it.
pub fn error_code(body: &Value) -> &str {
    let error = &body["error"];
    let places = [&error["details"]["error_code"], &error["code"], &error["details"][0]["reason"]];
    places.into_iter().find_map(Value::as_str).unwrap_or_default()
}

pub fn free_port() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).expect("a free port")
}

/// A free port that nobody is given who asks for any, for what binds it later or again.
pub fn port_to_come_back_to() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Below the ephemeral ports, and apart from where another test run begins.
        let number = std::process::id() * 7 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(number % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What the sandbox signs its messages of payments with.
pub const PAYMENT_SECRET: &str = "whsec_of_the_tests";

fn start_sandbox(clock: &Clock, keyward: &str) -> (ServerHandle, String) {
    let listener = free_port();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let options = sandbox::Options { clock: clock.clone(), workers: 1, courier: Some(courier(keyward)) };
    let server = sandbox::server(listener, options).expect("a sandbox");
    let handle = server.handle();
    tokio::spawn(server);
    (handle, url)
}

fn courier(keyward: &str) -> Courier {
    let http = reqwest::Client::new();
    let send = move |url: String, signature: String, body: String| -> BoxFuture<'static, Option<u16>> {
        let sent = http.post(url).header("stripe-signature", signature).body(body).send();
        Box::pin(async move { sent.await.ok().map(|answer| answer.status().as_u16()) })
    };
    Courier {
        url: format!("{keyward}/webhooks/stripe"),
        secret: PAYMENT_SECRET.to_owned(),
        send: Arc::new(send),
    }
}

async fn plant(services: &Services) {
    let mut tx = services.db.write().await.unwrap();
    let features = [("drafts", true), ("suggestions", true), ("chatbot", false), ("extra", true)];
    for (slug, covered) in features {
        let feature = Feature {
            slug: slug.to_owned(),
            name: format!("Feature {slug}"),
            description: String::new(),
            covered,
            default_model: Some("claude-opus-4-5".to_owned()),
            switch: format!("ai_{slug}_enabled"),
            budget: None,
        };
        plans::insert_feature(&mut tx, &feature).await.unwrap();
    }
    let plan = Plan {
        id: PlanId::new(),
        slug: "pro".to_owned(),
        name: "Pro".to_owned(),
        features: ["drafts", "suggestions", "chatbot"].map(str::to_owned).into(),
        models: std::collections::BTreeSet::new(),
    };
    plans::insert(&mut tx, &plan).await.unwrap();
    changes::bump(&mut tx, Owner::Platform, services.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
}

/// The private PostgreSQL that `tests/run` has started.
fn postgres_url() -> String {
    std::env::var("KEYWARD_TEST_POSTGRES_URL")
        .expect("KEYWARD_TEST_POSTGRES_URL is not set: run the tests with tests/run")
}

async fn fresh_postgres() -> String {
    let admin = postgres_url();
    let name = format!("t{}", uuid::Uuid::now_v7().simple());
    let pool = sqlx::PgPool::connect(&admin).await.expect("the private PostgreSQL answers");
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&pool).await.unwrap();
    pool.close().await;
    let mut url = url::Url::parse(&admin).unwrap();
    url.set_path(&name);
    url.to_string()
}

async fn drop_postgres(url: &str) {
    let name = url::Url::parse(url).unwrap().path().trim_start_matches('/').to_owned();
    let pool = sqlx::PgPool::connect(&postgres_url()).await.unwrap();
    let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    pool.close().await;
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
