//! Canary keys are planted and every path that handles them is walked; then everything that
//! Keyward wrote or said is searched for them, in every encoding that could hide one.

use std::path::Path;

use base64::Engine as _;
use keyward::domain::account::TenantRole;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::DAY;
use serde_json::json;

use crate::support::{On, World, holder, message, new_key, test_key};
use crate::visitor::Visitor;

const PASSWORD: &str = "violet ladder 9 reed";

/// The forms in which a secret could lie around.
fn disguises(secret: &str) -> Vec<(&'static str, Vec<u8>)> {
    let standard = base64::engine::general_purpose::STANDARD_NO_PAD;
    let url: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    // Base64 depends on what stands before; the middle of each of the three shifts is searched.
    let shifted = |shift: usize| {
        let padded = format!("{}{secret}", "x".repeat(shift));
        let text = standard.encode(padded);
        text.as_bytes()[8..text.len() - 8].to_vec()
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
    ]
}

fn search(place: &str, haystack: &[u8], secrets: &[String]) {
    for secret in secrets {
        for (form, needle) in disguises(secret) {
            let found = memchr::memmem::find(haystack, &needle);
            let before =
                found.map(|at| String::from_utf8_lossy(&haystack[at.saturating_sub(120)..at]).into_owned());
            assert!(before.is_none(), "{place} holds a key ({form}) after: {}", before.unwrap_or_default());
        }
    }
}

fn search_files(folder: &Path, secrets: &[String]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search_files(&path, secrets);
        } else {
            search(&path.display().to_string(), &std::fs::read(&path).unwrap(), secrets);
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
        let found = std::panic::catch_unwind(|| search("a test", &haystack, std::slice::from_ref(&secret)));
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

    let world = World::new(On::Sqlite).await;
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
        "/t/acme/billing".to_owned(),
        "/t/acme/billing/usage.csv".to_owned(),
        "/t/acme/settings/tokens".to_owned(),
        "/account".to_owned(),
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

    search_files(world.dir.path(), &secrets);
    for text in &said {
        search("an answer", text.as_bytes(), &secrets);
    }
    search("the log", &log.0.lock().unwrap(), &secrets);
    world.end().await;
}
