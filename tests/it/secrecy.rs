//! Canary keys are planted and every path that handles them is walked; then everything that
//! Keyward wrote or said is searched for them, in every encoding that could hide one.

use std::path::Path;

use base64::Engine as _;
use keyward::access::actor::Actor;
use keyward::config::{MailSettings, PaymentKind, PaymentSettings};
use keyward::crypto::secret::Secret;
use keyward::domain::account::{Tenant, TenantRole};
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::DAY;
use keyward::domain::ids::{OrderId, Owner, WebhookId};
use keyward::domain::notice;
use keyward::domain::provider_key::Provider;
use keyward::services::accounts::Origin;
use keyward::services::sso_settings::TypedConnection;
use keyward::storage::notifications;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{On, PAYMENT_SECRET, Setup, World, holder, message, new_key, sha256, test_key};
use crate::visitor::Visitor;

const PASSWORD: &str = "violet ladder 9 reed";

/// The forms in which a secret could lie around.
fn disguises(secret: &str) -> Vec<Needle> {
    let standard = base64::engine::general_purpose::STANDARD_NO_PAD;
    let url: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    // Base64 depends on what stands before; the middle of each of the three shifts is searched.
    let shifted = |shift: usize| {
        let padded = format!("{}{secret}", "x".repeat(shift));
        let text = standard.encode(padded);
        match text.len() {
            // Of a short one, such as a recovery code, no middle is left.
            0..24 => secret.as_bytes().to_vec(),
            length => text.as_bytes()[8..length - 8].to_vec(),
        }
    };
    vec![
        ("raw", secret.as_bytes().to_vec()),
        ("hex", hex::encode(secret).into_bytes()),
        ("HEX", hex::encode_upper(secret).into_bytes()),
        ("URL", url.into_bytes()),
        ("UTF-16", secret.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("base64", shifted(0)),
        ("base64, shifted by one", shifted(1)),
        ("base64, shifted by two", shifted(2)),
        ("reversed", secret.bytes().rev().collect()),
        ("JSON", serde_json::to_string(secret).unwrap().trim_matches('"').as_bytes().to_vec()),
    ]
}

/// What to search for where this key is: the key itself; of a service account, lines from the middle
/// of its private key (by which also a copy in another wrapping is found), and the access token that
/// the sandbox gives for it.
fn canaries(provider: Provider, secret: &str) -> Vec<String> {
    if provider != Provider::Vertex {
        return vec![secret.to_owned()];
    }
    let account: Value = serde_json::from_str(secret).unwrap();
    let lines: Vec<&str> = account["private_key"].as_str().unwrap().lines().collect();
    let inner = &lines[1..lines.len() - 2];
    assert!(inner.len() > 10, "an RSA key in PEM");
    let token = &sha256(account["client_email"].as_str().unwrap())[..24];
    vec![inner[3].to_owned(), inner[inner.len() - 3].to_owned(), format!("-ok-{token}")]
}

/// A form of a secret, by its name.
type Needle = (&'static str, Vec<u8>);

fn search(place: &str, haystack: &[u8], needles: &[Needle]) {
    for (form, needle) in needles {
        let found = memchr::memmem::find(haystack, needle);
        let before =
            found.map(|at| String::from_utf8_lossy(&haystack[at.saturating_sub(120)..at]).into_owned());
        assert!(before.is_none(), "{place} holds a key ({form}) after: {}", before.unwrap_or_default());
    }
}

fn search_files(folder: &Path, needles: &[Needle]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search_files(&path, needles);
        } else {
            search(&path.display().to_string(), &std::fs::read(&path).unwrap(), needles);
        }
    }
}

#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_search_finds_what_it_should() {
    let secret = "sk-ant-api03-canary-ok-000000".to_owned();
    for (form, needle) in disguises(&secret) {
        let mut haystack = b"prefix".to_vec();
        haystack.extend_from_slice(&needle);
        let found = std::panic::catch_unwind(|| search("a test", &haystack, &disguises(&secret)));
        assert!(found.is_err(), "{form} was not found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_written_or_said() {
    let log = Log::default();
    let writer = log.clone();
    // Everything, at the most talkative level, of this process.
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    for on in [On::Sqlite, On::Postgres] {
        keys_everywhere(on, &log).await;
    }
}

/// Plants keys, takes them through everything that could go wrong, and searches for them.
async fn keys_everywhere(on: On, log: &Log) {
    let world = World::with(on, with_secret_settings()).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    let (admin, holder) = (world.admin(&tenant), holder(&tenant));
    let words = [
        "ok",
        "revoked",
        "nocredit",
        "spendlimit",
        "ratelimited",
        "overloaded",
        "truncated",
        "garbage",
        "servererror",
    ];
    let mut secrets: Vec<String> = words.iter().map(|word| test_key(word)).collect();
    let mut said = Vec::new();
    for (word, secret) in words.iter().zip(&secrets) {
        said.push(format!("{:?}", world.add_key(&tenant, word, secret).await));
    }
    // Wrong kinds, too long, in the wrong field.
    for wrong in
        ["sk-ant-admin01-canary-canary-canary", "sk-ant-oat01-canary-canary-canary", "canary canary canary"]
    {
        secrets.push(wrong.to_owned());
        said.push(format!("{:?}", world.add_key(&tenant, "wrong", wrong).await));
    }
    let misplaced = test_key("ok");
    secrets.push(misplaced.clone());
    let new = keyward::services::provider_keys::NewKey { custom_url: misplaced.clone(), ..new_key("x", "y") };
    said.push(format!("{:?}", world.services.add_key(&admin, holder, new).await));
    said.push(format!("{:?}", new_key("debug", &misplaced)));

    let token = world.token(&tenant).await;
    secrets.push(token.clone());
    for word in words {
        for streaming in [false, true] {
            let mut body = message("claude-haiku-4-5", 40);
            body["stream"] = json!(streaming);
            let answer = world.send(&token, &body).header("x-keyward-key", word).send().await.unwrap();
            said.push(format!("{:?}", answer.headers()));
            said.push(answer.text().await.unwrap_or_default());
        }
    }
    let others = every_provider(&world, &tenant, &mut said).await;
    secrets.extend(others);
    secrets.extend(by_the_api(&world, &tenant, &mut said).await);
    secrets.extend(by_webhook_mail_and_payment(&world, &tenant, &mut said).await);
    secrets.extend(of_people(&world, &tenant, &mut said).await);
    // The token in the wrong places.
    for request in [
        world.http.post(format!("{}/v1/messages?key={token}", world.url)).body("{}"),
        world.http.get(format!("{}/v1/models/{token}", world.url)),
        world.http.get(format!("{}/t/{token}/billing?x={token}", world.url)),
        world
            .http
            .post(format!("{}/v1/messages", world.url))
            .header("authorization", format!("Digest {token}")),
    ] {
        let answer = request.send().await.unwrap();
        said.push(format!("{:?}", answer.headers()));
        said.push(answer.text().await.unwrap());
    }
    // The console: forms that fail in every way, and the pages afterwards.
    world.user("admin@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
    let mut visitor = Visitor::signed_in(&world.url, "admin@acme.example", PASSWORD).await;
    secrets.push(PASSWORD.to_owned());
    let keys = "/t/acme/settings/api-keys";
    let typed = test_key("revoked");
    secrets.push(typed.clone());
    let token_in_csrf = visitor.csrf.clone();
    for (path, fields) in [
        (format!("{keys}/new"), vec![("api_key", typed.as_str()), ("key_name", "page")]),
        (
            format!("{keys}/new"),
            vec![("api_key", typed.as_str()), ("key_name", "Not A Name"), ("custom_url", "http://x")],
        ),
        (
            format!("{keys}/new"),
            vec![("api_key", typed.as_str()), ("key_name", "page"), ("unknown", "field")],
        ),
        (format!("{keys}/new"), vec![("api_key", typed.as_str()), ("api_key", typed.as_str())]),
        (format!("{keys}/ok/rotate"), vec![("api_key", typed.as_str()), ("custom_url", "https://127.0.0.1")]),
        (format!("{keys}/ok/label"), vec![("label", "x"), ("api_key", typed.as_str())]),
        (format!("{keys}/absent/rotate"), vec![("api_key", typed.as_str())]),
        (
            "/sign-in".to_owned(),
            vec![("email", "admin@acme.example"), ("password", PASSWORD), ("x", typed.as_str())],
        ),
        (format!("/t/acme/{typed}"), vec![]),
    ] {
        let mut sent = fields;
        sent.push(("csrf", &token_in_csrf));
        let page = visitor.post_exactly(&path, &sent, &[]).await;
        said.push(format!("{:?} {}", page.headers, page.body));
        // And with a token that is wrong.
        sent.pop();
        let page = visitor.post_exactly(&path, &sent, &[]).await;
        said.push(format!("{:?} {}", page.headers, page.body));
    }
    for path in [
        keys.to_owned(),
        format!("{keys}/ok"),
        format!("{keys}/spendlimit"),
        "/t/acme/settings/ai".to_owned(),
        "/t/acme/activity/community-manager".to_owned(),
        "/t/acme/activity/questions".to_owned(),
        "/t/acme/activity/audit".to_owned(),
        "/t/acme/activity/audit.csv".to_owned(),
        "/t/acme/billing".to_owned(),
        "/t/acme/billing/usage.csv".to_owned(),
        "/t/acme/settings/tokens".to_owned(),
        "/t/acme/settings/notifications".to_owned(),
        "/t/acme/billing/credits".to_owned(),
        "/t/acme/billing/reconciliation".to_owned(),
        "/account".to_owned(),
        "/account/second-factor".to_owned(),
        "/t/acme/settings/security".to_owned(),
        "/t/acme/settings/single-sign-on".to_owned(),
        "/t/acme/settings/support-access".to_owned(),
    ] {
        let page = visitor.get(&path).await;
        assert_eq!(page.status, 200, "{path}");
        said.push(format!("{:?} {}", page.headers, page.body));
    }
    // Rotate, undo, forget, remove; and what the pages are made from.
    let rotated = test_key("ok");
    secrets.push(rotated.clone());
    world.rotate(&admin, holder, "ok", &rotated).await.unwrap();
    said.push(format!("{:?}", world.services.key_detail(holder, "ok").await.unwrap()));
    world.services.undo_rotation(&admin, holder, "ok").await.unwrap();
    world.services.forget_replaced(&admin, holder, "ok").await.unwrap();
    world.services.remove_key(&admin, holder, "nocredit", "nocredit").await.unwrap();
    world.clock.advance(2 * DAY);
    world.services.probe_due().await.unwrap();
    world.services.tidy().await.unwrap();
    world.services.meter.flush().await;

    let needles: Vec<Needle> = secrets.iter().flat_map(|secret| disguises(secret)).collect();
    search_files(world.dir.path(), &needles);
    search("PostgreSQL", &world.postgres_rows().await, &needles);
    for text in &said {
        search("an answer", text.as_bytes(), &needles);
    }
    // Taken out first: whatever else runs in this process waits for the lock as soon as it logs.
    let logged = std::mem::take(&mut *log.0.lock().unwrap());
    assert!(!logged.is_empty());
    search("the log", &logged, &needles);
    world.end().await;
}

/// A provider that sends the key back as part of its usage: it reaches neither the database nor a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_comes_back_in_usage_is_not_kept() {
    let key = test_key("ok");
    let provider = MockServer::start().await;
    let usage = json!({ "input_tokens": 1, "output_tokens": 1, "billed_to": key });
    let answer = json!({ "data": [], "type": "message", "usage": usage });
    Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_json(answer)).mount(&provider).await;
    let setup = Setup { anthropic_url: Some(provider.uri()), ..Setup::default() };
    let mut world = World::with(On::Sqlite, setup).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &key).await.unwrap();
    let role = Some((tenant.id, TenantRole::Admin));
    world.user("admin@acme.example", PASSWORD, None, role).await;
    let sent = world.message(&world.token(&tenant).await).send().await.unwrap();
    let row = world.row_of(&sent).await;
    assert_eq!((row.tokens.input, row.raw_usage.as_deref()), (1, None));
    let mut admin = Visitor::signed_in(&world.url, "admin@acme.example", PASSWORD).await;
    let page = admin.get(&format!("/t/acme/billing/requests/{}", row.id)).await;
    assert_eq!(page.status, 200);
    let needles = disguises(&key);
    search("the request's page", page.body.as_bytes(), &needles);
    world.stop().await;
    search_files(world.dir.path(), &needles);
    world.end().await;
}

/// Plants a key of every provider, calls with it plain and streaming, refused and answered, then
/// rotates it; returns what must not be found.
async fn every_provider(
    world: &World,
    tenant: &keyward::domain::account::Tenant,
    said: &mut Vec<String>,
) -> Vec<String> {
    let mut secrets = Vec::new();
    let token = world.token(tenant).await;
    for &kind in Provider::ALL {
        for word in ["ok", "revoked", "ratelimited"] {
            let secret = world.key_of(kind, word).await;
            secrets.extend(canaries(kind, &secret));
            let name = format!("{kind}-{word}");
            said.push(format!("{:?}", world.add_key_of(holder(tenant), kind, &name, &secret).await));
            if word == "ok" {
                // Later refused, as a key is that its owner has revoked.
                for stream in [false, true] {
                    let asked = world.ask(kind, &token, stream).header("x-keyward-key", &name);
                    let answer = asked.send().await.unwrap();
                    assert_eq!(answer.status(), 200, "{kind}");
                    said.push(format!("{:?}", answer.headers()));
                    said.push(answer.text().await.unwrap());
                }
                let rotated = world.key_of(kind, "ok").await;
                secrets.extend(canaries(kind, &rotated));
                said.push(format!(
                    "{:?}",
                    world.rotate(&world.admin(tenant), holder(tenant), &name, &rotated).await
                ));
                world.impose(&impostor(kind, &rotated), "revoked").await;
                let answer =
                    world.ask(kind, &token, false).header("x-keyward-key", &name).send().await.unwrap();
                said.push(format!("{:?}", answer.headers()));
                said.push(answer.text().await.unwrap());
            }
        }
        // A key of one provider in the field of another, and one that is cut short.
        let stray = world.key_of(kind, "ok").await;
        secrets.extend(canaries(kind, &stray));
        for &other in Provider::ALL {
            if other != kind {
                let saved = world.add_key_of(holder(tenant), other, "stray", &stray).await;
                said.push(format!("{saved:?}"));
                let _ =
                    world.services.remove_key(&world.admin(tenant), holder(tenant), "stray", "stray").await;
            }
        }
        let cut = &stray[..stray.len() - 9];
        said.push(format!("{:?}", world.add_key_of(holder(tenant), kind, "cut", cut).await));
        let _ = world.services.remove_key(&world.admin(tenant), holder(tenant), "cut", "cut").await;
    }
    secrets
}

/// What the sandbox knows a key by: the key, or a service account's address.
fn impostor(provider: Provider, secret: &str) -> String {
    match provider {
        Provider::Vertex => {
            let account: Value = serde_json::from_str(secret).unwrap();
            account["client_email"].as_str().unwrap().to_owned()
        }
        _ => secret.to_owned(),
    }
}

/// Keys through the REST API, well and wrongly given, repeated by `Idempotency-Key`; returns what
/// must not be found. The answers and the table of remembered answers are searched with the rest.
async fn by_the_api(
    world: &World,
    tenant: &keyward::domain::account::Tenant,
    said: &mut Vec<String>,
) -> Vec<String> {
    const SCOPES: &[&str] = &["gateway", "usage:read", "keys:read", "keys:write"];
    let token = world.token_for(Owner::Tenant(tenant.id), SCOPES).await;
    let service = world.token_for(Owner::Platform, SCOPES).await;
    let mut secrets = vec![token.clone(), service.clone()];
    let calls: Vec<(&str, &str, Value, bool)> = {
        let mut fresh = |word: &str| {
            let secret = test_key(word);
            secrets.push(secret.clone());
            secret
        };
        vec![
            (
                "/keys",
                &token,
                json!({ "key_name": "api", "provider": "anthropic", "api_key": fresh("ok") }),
                true,
            ),
            (
                "/keys",
                &token,
                json!({ "key_name": "api", "provider": "anthropic", "api_key": fresh("ok") }),
                false,
            ),
            (
                "/keys",
                &token,
                json!({ "key_name": "x", "provider": "anthropic", "api_key": fresh("revoked") }),
                false,
            ),
            (
                "/keys",
                &token,
                json!({ "key_name": fresh("ok"), "provider": fresh("ok"), "api_key": 1 }),
                false,
            ),
            ("/keys", &token, json!([fresh("ok")]), false),
            ("/keys/api/rotate", &token, json!({ "api_key": fresh("ok") }), true),
            ("/keys/api/rotate", &token, json!({ "api_key": fresh("revoked") }), false),
            ("/keys/api/check", &token, json!({}), true),
            ("/sessions", &token, json!({ "key_slug": "api" }), true),
            ("/sessions", &token, json!({ "key_slug": fresh("ok") }), false),
            (
                "/tenants",
                &service,
                json!({ "slug": "by-api", "name": "By API", "plan": "pro",
                    "model": { "provider": "anthropic", "api_key": fresh("ok") } }),
                true,
            ),
        ]
    };
    for (number, (path, token, body, works)) in calls.iter().enumerate() {
        for _ in 0..2 {
            let answer = world
                .http
                .post(format!("{}/api/v1{path}", world.url))
                .bearer_auth(token)
                .header("idempotency-key", format!("canary-{number}"))
                .json(body)
                .send()
                .await
                .unwrap();
            let status = answer.status();
            said.push(format!("{:?}", answer.headers()));
            let text = answer.text().await.unwrap();
            assert_eq!(status.is_success(), *works, "{path}: {text}");
            said.push(text);
        }
    }
    for path in ["/keys", "/keys/api", "/usage", "/usage/summary", "/features", "/openapi.json", "/docs"] {
        let url = format!("{}/api/v1{path}", world.url);
        let answer = world.http.get(url).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        said.push(format!("{:?}", answer.headers()));
        said.push(answer.text().await.unwrap());
    }
    secrets
}

const MAIL_PASSWORD: &str = "canary-mail-password-81c2";
const PAYMENT_KEY: &str = "sk_test_sandbox_canary_5d01b7";

/// Settings that hold secrets of the operator's own.
fn with_secret_settings() -> Setup {
    Setup {
        mail: MailSettings {
            // Nobody listens there: what goes wrong is logged.
            smtp_url: Some(format!("smtp://keyward:{MAIL_PASSWORD}@127.0.0.1:1")),
            smtp_url_file: None,
            mail_from: Some("keyward@operator.example".to_owned()),
        },
        payments: PaymentSettings {
            kind: PaymentKind::Stripe,
            stripe_secret_key: Some(PAYMENT_KEY.to_owned()),
            stripe_webhook_secret: Some(PAYMENT_SECRET.to_owned()),
            ..PaymentSettings::default()
        },
        ..Setup::default()
    }
}

/// Sets up single sign-on, refused and kept, and somebody's authenticator app with its recovery codes;
/// returns what must not be found.
async fn of_people(world: &World, tenant: &Tenant, said: &mut Vec<String>) -> Vec<String> {
    let (admin, scope) = (world.admin(tenant), holder(tenant).scope);
    let client_secret = "sandbox-canary-client-secret-0001";
    for (issuer, domain) in
        [("/nowhere", "acme.example"), ("/openid", "no domain"), ("/openid", "acme.example")]
    {
        let typed = TypedConnection {
            issuer: format!("{}{issuer}", world.sandbox_url),
            client_id: "keyward".to_owned(),
            client_secret: Secret::new(client_secret.to_owned()),
            domain: domain.to_owned(),
            default_role: "member".to_owned(),
        };
        said.push(format!("{:?}", world.services.set_sso(&admin, &scope, tenant, typed).await));
    }
    said.push(format!("{:?}", world.services.sso_connection(&scope, tenant.id).await.unwrap()));
    said.push(format!("{:?}", world.services.verify_sso_domain(&admin, &scope, tenant).await));

    let user = world.user("tina@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Member))).await;
    let tina = Actor { user_id: user.id, email: user.email, ..world.actor(None, None) };
    world.services.begin_authenticator(&tina).await.unwrap();
    let app = world.services.own_factors(&tina).await.unwrap().being_set_up.expect("a secret to scan").secret;
    said.push(format!("{:?}", world.services.finish_authenticator(&tina, "000000").await));
    let code = crate::factors::code(world, app.expose());
    let codes = world.services.finish_authenticator(&tina, &code).await.unwrap();
    let from = Origin { address: "192.0.2.9".to_owned(), device: "canary".to_owned(), request_id: None };
    let first = Secret::new(codes[0].expose().to_owned());
    let person = world.services.second_step(user.id, world.clock.now(), first, &from).await.unwrap();
    said.push(format!("{person:?}"));
    let mut secrets = vec![client_secret.to_owned(), app.expose().to_owned()];
    for code in &codes {
        secrets.push(code.expose().to_owned());
        secrets.push(code.expose().replace('-', ""));
    }
    secrets
}

/// Signs a webhook, fails to send a letter, begins a checkout and takes messages of payments, good
/// and forged; returns what must not be found.
async fn by_webhook_mail_and_payment(world: &World, tenant: &Tenant, said: &mut Vec<String>) -> Vec<String> {
    let (admin, scope) = (world.admin(tenant), holder(tenant).scope);
    world.user("bill@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::BillingAdmin))).await;
    let (url, id) = (format!("{}/hooks", world.sandbox_url), WebhookId::new());
    let (_, secret) = world.services.add_webhook(&admin, &scope, tenant, id, &url).await.unwrap();
    said.push(format!("{:?}", world.services.test_webhook(&admin, &scope, tenant, id).await));
    let mut tx = world.services.db.write().await.unwrap();
    let news = notice::of_age("ok", 91, world.clock.now());
    notifications::insert(&mut tx, tenant.id, &news).await.unwrap();
    tx.commit().await.unwrap();
    let mut log = Vec::new();
    for _ in 0..200 {
        world.services.deliver_due().await.unwrap();
        log = world.services.destinations(&admin, &scope, tenant).await.unwrap().log;
        if log.iter().all(|(sent, _)| sent.attempts > 0) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert!(log.iter().any(|(sent, _)| sent.outcome.contains("mail server")), "a letter was tried");
    said.push(format!("{log:?}"));
    let order = world.services.order_credits(&admin, &scope, tenant, OrderId::new(), "50").await.unwrap();
    said.push(format!("{order:?}"));
    let page = order.url.clone().unwrap();
    world
        .http
        .post(page)
        .header("content-type", "application/x-www-form-urlencoded")
        .body("do=pay")
        .send()
        .await
        .unwrap();
    let report_key = "sk-ant-admin01-canary-ok-00000001-AAAA";
    for key in [report_key, "sk-ant-admin01-canary-revoked-0000-AAAA"] {
        let secret = Secret::new(key.to_owned());
        let added = world.services.add_report_key(&admin, holder(tenant), "anthropic", &secret).await;
        said.push(format!("{added:?}"));
    }
    let forged =
        world.http.post(format!("{}/webhooks/stripe", world.url)).header("stripe-signature", "t=1,v1=00");
    said.push(forged.body("{}").send().await.unwrap().text().await.unwrap());
    vec![
        secret.expose().to_owned(),
        report_key.to_owned(),
        "sk-ant-admin01-canary-revoked-0000-AAAA".to_owned(),
        MAIL_PASSWORD.to_owned(),
        PAYMENT_KEY.to_owned(),
        PAYMENT_SECRET.to_owned(),
    ]
}
