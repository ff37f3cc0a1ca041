//! The REST API: who may do what, what comes back, and what never does.

use std::time::Duration;

use keyward::domain::account::{KeyChangers, Tenant};
use keyward::domain::billing::UsageMode;
use keyward::domain::ids::Owner;
use keyward::domain::provider_key::Provider;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::on_both;
use crate::support::{On, Setup, World, holder, message, test_key};

const ALL: &[&str] = &["gateway", "usage:read", "keys:read", "keys:write"];

struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    text: String,
    body: Value,
}

async fn call(world: &World, method: Method, path: &str, token: &str, body: Option<&Value>) -> Answer {
    send(world.http.request(method, format!("{}/api/v1{path}", world.url)).bearer_auth(token), body).await
}

async fn send(request: reqwest::RequestBuilder, body: Option<&Value>) -> Answer {
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    if status.is_client_error() {
        assert_eq!(headers["content-type"], "application/problem+json", "{text}");
    }
    let body = serde_json::from_str(&text).unwrap_or_default();
    Answer { status, headers, text, body }
}

async fn acme(world: &World, scopes: &[&str]) -> (Tenant, String) {
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    let token = world.token_for(Owner::Tenant(tenant.id), scopes).await;
    (tenant, token)
}

on_both! {
    async fn keys_live_and_die_by_the_api(world: World) {
        let (tenant, token) = acme(world, ALL).await;
        let (first, second) = (test_key("ok"), test_key("ok"));
        let new = json!({ "key_name": "production", "provider": "anthropic", "api_key": first, "label": "Support" });
        let made = call(world, Method::POST, "/keys", &token, Some(&new)).await;
        assert_eq!(made.status, 201, "{}", made.text);
        assert_eq!(made.headers["location"], "/api/v1/keys/production");
        assert_eq!(made.body, json!({ "key_name": "production", "version": 1, "state": "valid", "disabled": false }));
        assert_eq!(made.headers["ratelimit-limit"], "600");

        let azure = json!({ "key_name": "eu", "provider": "azure", "api_key": world.key_of(Provider::Azure, "ok").await,
            "base_url": world.sandbox_url, "api_version": "2024-10-21" });
        assert_eq!(call(world, Method::POST, "/keys", &token, Some(&azure)).await.status, 201);
        let account: Value = serde_json::from_str(&world.key_of(Provider::Vertex, "ok").await).unwrap();
        let vertex = json!({ "key_name": "cloud", "provider": "vertex", "credentials": account, "location": "eu" });
        assert_eq!(call(world, Method::POST, "/keys", &token, Some(&vertex)).await.status, 201);

        let listed = call(world, Method::GET, "/keys", &token, None).await;
        assert_eq!(listed.status, 200);
        let keys = listed.body["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 3);
        assert!(!listed.text.contains(&first) && !listed.text.contains("PRIVATE KEY"), "no key ever comes back");
        let eu = call(world, Method::GET, "/keys/eu", &token, None).await.body;
        assert_eq!((&eu["provider"], &eu["settings"]), (&json!("azure"), &json!({ "api_version": "2024-10-21" })));
        assert_eq!(eu["base_url"], format!("{}/", world.sandbox_url));
        // Rotated without them, it keeps its URL and settings.
        let next = json!({ "api_key": world.key_of(Provider::Azure, "ok").await });
        let rotated = call(world, Method::POST, "/keys/eu/rotate", &token, Some(&next)).await;
        assert_eq!(rotated.status, 200, "{}", rotated.text);
        let kept = call(world, Method::GET, "/keys/eu", &token, None).await.body;
        assert_eq!((&kept["base_url"], &kept["settings"]), (&eu["base_url"], &eu["settings"]));
        let shown = call(world, Method::GET, "/keys/production", &token, None).await.body;
        assert_eq!((&shown["is_default"], &shown["label"], &shown["state"]), (&json!(true), &json!("Support"), &json!("valid")));
        assert_eq!(shown["fingerprint"].as_str().unwrap().len(), 12);
        assert!(shown["hint"].as_str().unwrap().ends_with(&first[first.len() - 4..]));

        let rotated = call(world, Method::POST, "/keys/production/rotate", &token, Some(&json!({ "api_key": second }))).await;
        assert_eq!((rotated.status.as_u16(), &rotated.body["version"]), (200, &json!(2)), "{}", rotated.text);
        let undone = call(world, Method::POST, "/keys/production/undo", &token, None).await;
        assert_eq!((undone.status.as_u16(), &undone.body["version"]), (200, &json!(1)), "{}", undone.text);
        world.impose(&first, "nocredit").await;
        let checked = call(world, Method::POST, "/keys/production/check", &token, None).await;
        assert_eq!((checked.status.as_u16(), &checked.body["state"]), (200, &json!("out_of_credit")));
        world.impose(&first, "ok").await;
        call(world, Method::POST, "/keys/production/check", &token, None).await;

        let other = json!({ "key_name": "batch", "provider": "anthropic", "api_key": test_key("ok") });
        assert_eq!(call(world, Method::POST, "/keys", &token, Some(&other)).await.status, 201);
        let default = call(world, Method::POST, "/keys/batch/default", &token, None).await;
        assert_eq!(default.body["is_default"], true);
        let scoped = json!({ "features": ["drafts"], "models": ["claude-haiku-4-5"] });
        let scoped = call(world, Method::POST, "/keys/batch/scope", &token, Some(&scoped)).await;
        assert_eq!(scoped.body["scope"], json!({ "features": ["drafts"], "models": ["claude-haiku-4-5"] }));
        assert_eq!(call(world, Method::DELETE, "/keys/batch", &token, None).await.status, 204);
        assert_eq!(call(world, Method::GET, "/keys/batch", &token, None).await.status, 404);

        // The record names the token that did it.
        let mut tx = world.services.db.read().await.unwrap();
        let key = &keyward::storage::keys::list(&mut tx, &holder(&tenant).scope).await.unwrap()[0].key;
        assert_eq!(key.created_by_name, "token Test");
    }
}

on_both! {
    async fn what_is_wrong_is_told_and_nothing_is_stored(world: World) {
        let (tenant, token) = acme(world, ALL).await;
        let secret = test_key("ok");
        let with = |changes: Value| {
            let mut body = json!({ "key_name": "production", "provider": "anthropic", "api_key": secret });
            body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            body
        };
        for (body, status, field) in [
            (with(json!({ "provider": "nobody" })), 422, "provider"),
            (with(json!({ "key_name": "No Name" })), 422, "key_name"),
            (with(json!({ "api_key": test_key("revoked") })), 422, "api_key"),
            (with(json!({ "api_key": "sk-ant-admin01-x" })), 422, "api_key"),
            (with(json!({ "api_key": null })), 422, "api_key"),
            (with(json!({ "credentials": {} })), 422, "credentials"),
            (with(json!({ "base_url": "https://10.0.0.1/" })), 422, "base_url"),
            (with(json!({ "location": "eu" })), 422, "location"),
            (json!({ "key_name": "cloud", "provider": "vertex", "credentials": {} }), 422, "credentials"),
            (with(json!({ "provider": "azure" })), 422, "base_url"),
            (with(json!({ "surprise": 1 })), 400, ""),
            (with(json!({ "api_key": 7 })), 400, ""),
            (json!({}), 400, ""),
            (json!([secret]), 400, ""),
        ] {
            let answer = call(world, Method::POST, "/keys", &token, Some(&body)).await;
            assert_eq!(answer.status, status, "{body}: {}", answer.text);
            assert!(answer.body["type"].as_str().unwrap().starts_with("urn:keyward:"));
            if status == 422 {
                let fields: Vec<&str> = answer.body["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect();
                assert!(fields.contains(&field), "{field}: {}", answer.text);
            }
            assert!(!answer.text.contains(&secret), "{}", answer.text);
        }
        let post = || world.http.post(format!("{}/api/v1/keys", world.url)).bearer_auth(&token);
        let json = "application/json";
        for (request, status) in [
            (post().body("{}"), 415),
            (post().header("content-type", json).body(format!("{{\"api_key\":\"{secret}\"")), 400),
            (post().header("content-type", json).body(vec![b' '; 300 * 1_024]), 413),
            (world.http.put(format!("{}/api/v1/keys", world.url)).bearer_auth(&token), 405),
            (world.http.get(format!("{}/api/v1/nothing", world.url)).bearer_auth(&token), 404),
        ] {
            let answer = send(request, None).await;
            assert_eq!(answer.status, status, "{}", answer.text);
            assert!(!answer.text.contains(&secret));
        }
        assert!(world.services.keys(holder(&tenant)).await.unwrap().is_empty());
    }
}

on_both! {
    async fn a_token_may_do_what_its_scopes_say(world: World) {
        let (tenant, _) = acme(world, ALL).await;
        let owner = Owner::Tenant(tenant.id);
        let new = json!({ "key_name": "x", "provider": "anthropic", "api_key": test_key("ok") });
        let calls = [
            (Method::GET, "/keys", None, "keys:read"),
            (Method::GET, "/keys/none", None, "keys:read"),
            (Method::POST, "/keys", Some(&new), "keys:write"),
            (Method::POST, "/keys/none/rotate", None, "keys:write"),
            (Method::POST, "/keys/none/undo", None, "keys:write"),
            (Method::POST, "/keys/none/check", None, "keys:write"),
            (Method::POST, "/keys/none/default", None, "keys:write"),
            (Method::POST, "/keys/none/scope", None, "keys:write"),
            (Method::DELETE, "/keys/none", None, "keys:write"),
            (Method::GET, "/usage", None, "usage:read"),
            (Method::GET, "/usage/summary", None, "usage:read"),
            (Method::GET, "/features", None, "gateway"),
            (Method::GET, "/generations", None, "gateway"),
            (Method::POST, "/generations", None, "gateway"),
            (Method::GET, "/generations/01a1fb92-2a86-77d2-84f1-750dabcb3608", None, "gateway"),
            (Method::GET, "/questions", None, "gateway"),
            (Method::POST, "/questions", None, "gateway"),
            (Method::GET, "/questions/01a1fb92-2a86-77d2-84f1-750dabcb3608", None, "gateway"),
            (Method::POST, "/sessions", None, "gateway"),
            (Method::GET, "/sessions/ses_x", None, "gateway"),
            (Method::DELETE, "/sessions/ses_x", None, "gateway"),
            (Method::GET, "/tenants", None, "keys:read"),
            (Method::GET, "/tenants/acme", None, "keys:read"),
            (Method::POST, "/tenants", None, "keys:write"),
        ];
        for (method, path, body, scope) in calls {
            for one in ALL {
                let token = world.token_for(owner, &[one]).await;
                let answer = call(world, method.clone(), path, &token, body).await;
                let refused = answer.status == 403;
                let expected = one != &scope || path.starts_with("/tenants");
                assert_eq!(refused, expected, "{method} {path} with {one}: {}", answer.text);
            }
            let nobody = call(world, method.clone(), path, "kwt_nonsense", body).await;
            assert_eq!((nobody.status.as_u16(), nobody.headers["www-authenticate"].to_str().unwrap()), (401, "Bearer"));
            let bare = world.http.request(method, format!("{}/api/v1{path}", world.url));
            assert_eq!(send(bare, None).await.status, 401);
        }
        // A token without `gateway` sends no AI request.
        let reader = world.token_for(owner, &["keys:read"]).await;
        assert_eq!(world.message(&reader).send().await.unwrap().status(), 401);
    }
}

on_both! {
    async fn who_may_change_keys_holds_for_tokens_too(world: World) {
        let (tenant, token) = acme(world, ALL).await;
        let service = world.token_for(Owner::Platform, ALL).await;
        let admin = world.admin(&tenant);
        world.services.set_key_changers(&admin, &holder(&tenant).scope, &tenant, KeyChangers::SuperAdmins).await.unwrap();
        let new = |name: &str| json!({ "key_name": name, "provider": "anthropic", "api_key": test_key("ok") });
        assert_eq!(call(world, Method::POST, "/keys", &token, Some(&new("a"))).await.status, 403);
        let mut tx = world.services.db.read().await.unwrap();
        let rows = keyward::storage::audit::list(&mut tx, Owner::Tenant(tenant.id), 50).await.unwrap();
        drop(tx);
        let refused = rows.iter().find(|row| row.action == "policy.refused").expect("the refusal is on record");
        assert_eq!((refused.actor.as_str(), refused.target.as_str()), ("token Test", "POST /api/v1/keys"));
        assert_eq!(call(world, Method::GET, "/keys", &token, None).await.status, 200);
        let by_service = |method: Method, path: &str, tenant: &str| {
            world.http.request(method, format!("{}/api/v1{path}", world.url)).bearer_auth(&service).header("x-keyward-tenant", tenant)
        };
        assert_eq!(send(by_service(Method::POST, "/keys", "acme"), Some(&new("b"))).await.status, 201);
        assert_eq!(send(by_service(Method::GET, "/keys", "nobody"), None).await.status, 404);
        assert_eq!(call(world, Method::GET, "/keys", &service, None).await.status, 400, "a service token names the tenant");
        let wrong = world.http.get(format!("{}/api/v1/keys", world.url)).bearer_auth(&token).header("x-keyward-tenant", "acme");
        assert_eq!(send(wrong, None).await.status, 403);
        // Another tenant's keys do not exist.
        let stranger = world.tenant("stranger", UsageMode::Byok).await;
        let stranger = world.token_for(Owner::Tenant(stranger.id), ALL).await;
        assert_eq!(call(world, Method::GET, "/keys/b", &stranger, None).await.status, 404);
        assert_eq!(call(world, Method::DELETE, "/keys/b", &stranger, None).await.status, 404);
        assert_eq!(send(by_service(Method::GET, "/keys/b", "acme"), None).await.status, 200);
    }
}

on_both! {
    async fn a_post_that_is_sent_again_is_done_once(world: World) {
        let (tenant, token) = acme(world, ALL).await;
        let new = json!({ "key_name": "production", "provider": "anthropic", "api_key": test_key("ok") });
        let again = |key: &str, path: &str, body: &Value| {
            let request = world.http.post(format!("{}/api/v1{path}", world.url)).bearer_auth(&token);
            let (request, body) = (request.header("idempotency-key", key), body.clone());
            async move { send(request, Some(&body)).await }
        };
        let first = again("one", "/keys", &new).await;
        let second = again("one", "/keys", &new).await;
        assert_eq!((first.status, second.status), (StatusCode::CREATED, StatusCode::CREATED));
        assert_eq!(first.text, second.text);
        assert!(!first.headers.contains_key("idempotency-replayed"));
        assert_eq!(second.headers["idempotency-replayed"], "true");
        assert_eq!(second.headers["location"], first.headers["location"]);
        let other = json!({ "key_name": "other", "provider": "anthropic", "api_key": test_key("ok") });
        let reused = again("one", "/keys", &other).await;
        assert_eq!((reused.status.as_u16(), &reused.body["code"]), (422, &json!("idempotency_key_reused")));
        assert_eq!(world.services.keys(holder(&tenant)).await.unwrap().len(), 1);
        // What was refused is refused again in the same words, without another live check.
        let bad = json!({ "key_name": "bad", "provider": "anthropic", "api_key": test_key("revoked") });
        let refused = again("two", "/keys", &bad).await;
        world.forget_arrived().await;
        let repeated = again("two", "/keys", &bad).await;
        assert_eq!((refused.status.as_u16(), &refused.text), (422, &repeated.text));
        assert!(world.arrived().await.is_empty());
        assert_eq!(again("a b", "/keys", &new).await.status, 400);
        // Sent twice at once, it is done once.
        let session = json!({ "expires_in": 60 });
        let (a, b) = tokio::join!(again("three", "/sessions", &session), again("three", "/sessions", &session));
        let made = [&a, &b].iter().filter(|answer| answer.status == 201).map(|answer| answer.body["id"].clone()).collect::<std::collections::HashSet<_>>();
        assert_eq!(made.len(), 1, "{} {}", a.text, b.text);
        assert!([&a, &b].iter().all(|answer| matches!(answer.status.as_u16(), 201 | 409)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_finished_though_its_client_left() {
    let provider = MockServer::start().await;
    let answer = json!({ "type": "message", "data": [], "usage": { "input_tokens": 1, "output_tokens": 1 } });
    let slowly = ResponseTemplate::new(200).set_body_json(answer).set_delay(Duration::from_millis(500));
    Mock::given(any()).respond_with(slowly).mount(&provider).await;
    let setup = Setup { anthropic_url: Some(provider.uri()), ..Setup::default() };
    let world = World::with(On::Sqlite, setup).await;
    let (tenant, token) = acme(&world, ALL).await;
    let new = json!({ "key_name": "production", "provider": "anthropic", "api_key": test_key("ok") });
    let send_once = || {
        let request = world.http.post(format!("{}/api/v1/keys", world.url)).bearer_auth(&token);
        send(request.header("idempotency-key", "left"), Some(&new))
    };
    let mut waiting = Box::pin(send_once());
    while provider.received_requests().await.unwrap().is_empty() {
        let answered = tokio::time::timeout(Duration::from_millis(10), &mut waiting).await;
        assert!(answered.is_err(), "the provider is asked first");
    }
    drop(waiting);
    let answer = loop {
        let answer = send_once().await;
        if answer.status != 409 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((answer.status.as_u16(), &answer.body["version"]), (201, &json!(1)), "{}", answer.text);
    assert_eq!(answer.headers["idempotency-replayed"], "true");
    assert_eq!(answer.headers["location"], "/api/v1/keys/production");
    assert_eq!(world.services.keys(holder(&tenant)).await.unwrap().len(), 1);
    world.end().await;
}

on_both! {
    async fn sessions_pin_key_and_model(world: World) {
        let (tenant, token) = acme(world, ALL).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        world.add_key(&tenant, "batch", &test_key("ok")).await.unwrap();
        let openai = world.key_of(Provider::Openai, "ok").await;
        world.add_key_of(holder(&tenant), Provider::Openai, "gpt", &openai).await.unwrap();
        let new = json!({ "key_slug": "batch", "model": "claude-opus-5-5", "feature": "drafts", "expires_in": 600 });
        let made = call(world, Method::POST, "/sessions", &token, Some(&new)).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let id = made.body["id"].as_str().unwrap().to_owned();
        assert!(id.starts_with("ses_"));
        let within = || world.message(&token).header("x-keyward-session", &id);
        let answer = within().send().await.unwrap();
        assert_eq!(answer.headers()["x-keyward-key"], "batch@1");
        let row = world.row_of(&answer).await;
        assert_eq!((row.model_asked.as_str(), row.feature.as_str()), ("claude-opus-5-5", "drafts"));
        assert_eq!(row.labels.session.as_deref(), Some(id.as_str()));
        assert_eq!(answer.json::<Value>().await.unwrap()["model"], "claude-opus-5-5");
        // A key named on the request wins for that request alone.
        let other = within().header("x-keyward-key", "production").send().await.unwrap();
        assert_eq!(other.headers()["x-keyward-key"], "production@1");
        assert_eq!(within().send().await.unwrap().headers()["x-keyward-key"], "batch@1");
        assert_eq!(call(world, Method::GET, &format!("/sessions/{id}"), &token, None).await.body["key_slug"], "batch");
        // The pinned key speaks no other dialect.
        let wrong = world.ask(Provider::Openai, &token, false).header("x-keyward-session", &id).send().await.unwrap();
        assert_eq!(wrong.status(), 400);
        assert!(wrong.text().await.unwrap().contains("keyward_provider_mismatch"));
        // Gemini's model is in the path.
        let gemini = world.key_of(Provider::Google, "ok").await;
        world.add_key_of(holder(&tenant), Provider::Google, "gem", &gemini).await.unwrap();
        let new = json!({ "provider": "google", "model": "gemini-3.8-flash" });
        let pinned = call(world, Method::POST, "/sessions", &token, Some(&new)).await.body["id"].as_str().unwrap().to_owned();
        let answer = world.ask(Provider::Google, &token, false).header("x-keyward-session", &pinned).send().await.unwrap();
        assert_eq!(world.row_of(&answer).await.model_asked, "gemini-3.8-flash");

        for (body, field) in [
            (json!({ "key_slug": "none" }), "key_slug"),
            (json!({ "provider": "nobody" }), "provider"),
            (json!({ "provider": "openai", "key_slug": "batch" }), "provider"),
            (json!({ "feature": "none" }), "feature"),
            (json!({ "model": "a b" }), "model"),
            (json!({ "expires_in": 1 }), "expires_in"),
        ] {
            let refused = call(world, Method::POST, "/sessions", &token, Some(&body)).await;
            assert_eq!((refused.status.as_u16(), &refused.body["errors"][0]["field"]), (422, &json!(field)), "{body}");
        }
        // Another tenant's session does not exist, and neither does one that has ended.
        let stranger = world.tenant("stranger", UsageMode::Managed).await;
        let stranger = world.token_for(Owner::Tenant(stranger.id), ALL).await;
        assert_eq!(call(world, Method::GET, &format!("/sessions/{id}"), &stranger, None).await.status, 404);
        assert_eq!(world.message(&stranger).header("x-keyward-session", &id).send().await.unwrap().status(), 400);
        assert_eq!(call(world, Method::DELETE, &format!("/sessions/{id}"), &token, None).await.status, 204);
        assert_eq!(call(world, Method::DELETE, &format!("/sessions/{id}"), &token, None).await.status, 404);
        world.forget_arrived().await;
        let ended = within().send().await.unwrap();
        assert_eq!(ended.status(), 400);
        assert!(ended.text().await.unwrap().contains("keyward_invalid_request"));
        world.clock.advance(2 * keyward::domain::clock::DAY);
        let late = world.ask(Provider::Google, &token, false).header("x-keyward-session", &pinned).send().await.unwrap();
        assert_eq!(late.status(), 400, "its time is over");
        assert!(world.arrived().await.is_empty());
    }
}

on_both! {
    async fn usage_is_paged_and_summed(world: World) {
        let (tenant, token) = acme(world, ALL).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        for _ in 0..5 {
            let answer = world.send(&token, &message("claude-haiku-4-5", 16)).send().await.unwrap();
            world.row_of(&answer).await;
            world.clock.advance(1_000_000);
        }
        let mut seen = Vec::new();
        let mut path = "/usage?limit=2".to_owned();
        loop {
            let page = call(world, Method::GET, &path, &token, None).await;
            assert_eq!(page.status, 200, "{}", page.text);
            let rows = page.body["rows"].as_array().unwrap();
            assert!(rows.len() <= 2);
            seen.extend(rows.iter().map(|row| (row["request_id"].clone(), row["cost_usd"].as_str().unwrap().to_owned())));
            match page.body["next_cursor"].as_str() {
                Some(cursor) => path = format!("/usage?limit=2&cursor={cursor}"),
                None => break,
            }
        }
        let ids: std::collections::HashSet<String> = seen.iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!((seen.len(), ids.len()), (5, 5));
        let one: f64 = seen[0].1.parse().unwrap();
        for group in ["feature", "model", "key"] {
            let summary = call(world, Method::GET, &format!("/usage/summary?group_by={group}"), &token, None).await.body;
            assert_eq!(summary["total"]["requests"], 5, "{summary}");
            let total: f64 = summary["total"]["cost_usd"].as_str().unwrap().parse().unwrap();
            assert!((total - 5.0 * one).abs() < 1e-12);
            assert_eq!(summary["groups"][0]["byok"]["requests"], 5);
        }
        for wrong in ["limit=0", "limit=1001", "limit=x", "cursor=x", "from=yesterday", "from=2026-12-01T00:00:00Z&to=2026-11-01T00:00:00Z", "surprise=1"] {
            let answer = call(world, Method::GET, &format!("/usage?{wrong}"), &token, None).await;
            assert!(matches!(answer.status.as_u16(), 400 | 422), "{wrong}: {}", answer.text);
        }
        assert_eq!(call(world, Method::GET, "/usage/summary?group_by=moon", &token, None).await.status, 422);
    }
}

on_both! {
    async fn a_backend_makes_tenants_with_their_keys(world: World) {
        let service = world.token_for(Owner::Platform, ALL).await;
        let with = |model: Value| json!({ "slug": "fresh", "name": "Fresh Ltd", "plan": "pro", "model": model });
        for (body, field) in [
            (with(json!({ "provider": "anthropic", "api_key": test_key("revoked") })), "model.api_key"),
            (with(json!({ "provider": "vertex", "credentials": { "type": "none" } })), "model.credentials"),
            (with(json!({ "provider": "nobody", "api_key": "x" })), "model.provider"),
            (with(json!({ "provider": "anthropic", "api_key": test_key("ok"), "key_slug": "Not a name" })), "model.key_slug"),
            (json!({ "slug": "fresh", "name": "", "plan": "pro" }), "name"),
            (json!({ "slug": "fresh", "name": "Fresh", "plan": "none" }), "plan"),
        ] {
            let refused = call(world, Method::POST, "/tenants", &service, Some(&body)).await;
            assert_eq!((refused.status.as_u16(), &refused.body["errors"][0]["field"]), (422, &json!(field)), "{}", refused.text);
        }
        assert_eq!(call(world, Method::GET, "/tenants/fresh", &service, None).await.status, 404, "nothing is half made");
        let body = with(json!({ "provider": "custom", "api_key": world.key_of(Provider::Custom, "ok").await,
            "base_url": format!("{}/custom/v1", world.sandbox_url), "key_slug": "own", "stream_usage": true }));
        let made = call(world, Method::POST, "/tenants", &service, Some(&body)).await;
        assert_eq!(made.status, 201, "{}", made.text);
        assert_eq!((&made.body["tenant"]["usage_mode"], &made.body["key"]["key_name"]), (&json!("byok"), &json!("own")));
        assert_eq!(call(world, Method::POST, "/tenants", &service, Some(&body)).await.status, 422, "the slug is taken");
        let answer = world.ask(Provider::Custom, &service, true).header("x-keyward-tenant", "fresh").send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["x-keyward-key"].to_str().unwrap()), (200, "own@1"));
        let id = answer.headers()["x-keyward-request-id"].to_str().unwrap().to_owned();
        answer.bytes().await.unwrap();
        let row = world.row(keyward::domain::ids::RequestId::parse(&id).unwrap()).await;
        assert_eq!(row.state, keyward::domain::usage::UsageState::Final, "the stream was asked for its usage");
        let all = call(world, Method::GET, "/tenants", &service, None).await.body;
        assert_eq!(all["tenants"][0]["slug"], "fresh");
        let named = world.http.get(format!("{}/api/v1/tenants", world.url)).bearer_auth(&service).header("x-keyward-tenant", "fresh");
        assert_eq!(send(named, None).await.status, 400);
    }
}

on_both! {
    async fn the_description_names_every_route(world: World) {
        let get = |path: &str| world.http.get(format!("{}{path}", world.url)).send();
        let openapi: Value = get("/api/v1/openapi.json").await.unwrap().json().await.unwrap();
        assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"));
        let mut operations = 0;
        for (path, methods) in openapi["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                operations += 1;
                // Without a token each is there, and closed.
                let url = format!("{}{}", world.url, path.replace("{name}", "x").replace("{id}", "x").replace("{slug}", "x"));
                let answer = world.http.request(method.to_uppercase().parse().unwrap(), url).send().await.unwrap();
                assert_eq!(answer.status(), 401, "{method} {path}");
                assert!(operation["responses"]["default"].is_object() && operation["security"].is_array());
            }
        }
        assert_eq!(operations, 25);
        let page = get("/api/v1/docs").await.unwrap();
        let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
        let html = page.text().await.unwrap();
        assert!(policy.starts_with("default-src 'none'") && !html.contains("<script"));
        assert!(html.contains("POST /api/v1/keys/{name}/rotate") && html.contains("keys:write"));
    }
}

on_both! {
    async fn a_token_has_a_limit(world: World) {
        let (_, token) = acme(world, ALL).await;
        let mut refused = None;
        for _ in 0..700 {
            let answer = call(world, Method::GET, "/sessions/x", &token, None).await;
            if answer.status == 429 {
                refused = Some(answer);
                break;
            }
            assert_eq!(answer.status, 404);
        }
        let refused = refused.expect("600 in a minute are enough");
        assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        assert_eq!((&refused.headers["ratelimit-limit"], &refused.headers["ratelimit-remaining"]), (&"600".parse().unwrap(), &"0".parse().unwrap()));
    }
}
