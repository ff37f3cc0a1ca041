//! The gateway as a product's backend meets it.

use keyward::domain::billing::{Fallback, LimitPolicy, NoKeyPolicy, UsageMode};
use keyward::domain::clock::DAY;
use keyward::domain::ids::Owner;
use keyward::domain::usage::UsageState;
use serde_json::{Value, json};

use crate::on_both;
use crate::support::{error_code, message, sha256, test_key};

on_both! {
    async fn an_answer_names_the_key_and_leaves_a_row(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let key = test_key("ok");
        world.add_key(&tenant, "production", &key).await.unwrap();
        let token = world.token(&tenant).await;

        let answer = world.message(&token)
            .header("x-keyward-feature", "drafts")
            .header("x-keyward-endpoint", "web-1")
            .header("x-keyward-session", "abc")
            .header("x-keyward-prompt", "greeting")
            .send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("x-keyward-usage-mode").as_deref(), Some("byok"));
        assert_eq!(header("x-keyward-key").as_deref(), Some("production@1"));
        assert_eq!(header("x-keyward-key-fingerprint").unwrap().len(), 12);
        assert_eq!(header("x-keyward-fallback"), None);
        assert!(header("request-id").unwrap().starts_with("req_"), "the provider's own id passes through");
        assert!(header("anthropic-ratelimit-requests-limit").is_some());
        assert_eq!(header("anthropic-organization-id"), None, "the account behind the key is not told");

        let row = world.row_of(&answer).await;
        assert_eq!((row.state, row.status), (UsageState::Final, Some(200)));
        assert_eq!((row.feature.as_str(), row.key_name.as_str(), row.key_version), ("drafts", "production", 1));
        assert_eq!(row.labels.endpoint.as_deref(), Some("web-1"));
        assert_eq!(row.labels.session.as_deref(), Some("abc"));
        assert_eq!(row.labels.prompt.as_deref(), Some("greeting"));
        let body: Value = answer.json().await.unwrap();
        let usage = &body["usage"];
        // Haiku 4.5: one dollar per million tokens in, five out.
        let expected = usage["input_tokens"].as_i64().unwrap() * 1_000 + usage["output_tokens"].as_i64().unwrap() * 5_000;
        assert_eq!(row.cost.0, expected);
        assert_eq!(serde_json::from_str::<Value>(row.raw_usage.as_deref().unwrap()).unwrap(), *usage);

        let arrived = world.arrived().await;
        assert_eq!(arrived[0]["credential_sha256"], sha256(&key));
        let names: Vec<&str> =
            arrived[0]["header_names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert!(!names.iter().any(|name| name.starts_with("x-keyward") || *name == "authorization"), "{names:?}");
    }
}

on_both! {
    async fn streams_arrive_in_pieces_and_are_metered(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("slow")).await.unwrap();
        let token = world.token(&tenant).await;
        let mut body = message("claude-opus-5-5", 40);
        body["stream"] = json!(true);
        let mut answer = world.send(&token, &body).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"].to_str().unwrap().split(';').next(), Some("text/event-stream"));
        let id = answer.headers()["x-keyward-request-id"].to_str().unwrap().to_owned();
        let mut pieces = Vec::new();
        let mut text = String::new();
        while let Some(piece) = answer.chunk().await.unwrap() {
            pieces.push(std::time::Instant::now());
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        // The sandbox pauses between events with this key: a buffered stream would come at once.
        assert!(pieces.len() > 5, "{} pieces", pieces.len());
        assert!(pieces[pieces.len() - 1] - pieces[0] > std::time::Duration::from_millis(80));
        assert!(text.starts_with("event: message_start\n") && text.contains("event: message_stop"));
        let row = world.row(keyward::domain::ids::RequestId::parse(&id).unwrap()).await;
        assert_eq!(row.state, UsageState::Final);
        assert!(row.tokens.output > 1 && row.cost.0 > 0);
        assert!(row.first_byte_us.unwrap() < row.total_us.unwrap());
    }
}

on_both! {
    async fn bodies_pass_byte_for_byte(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        let odd = "{ \"max_tokens\":16,\n  \"messages\" : [{\"role\":\"user\",\"content\":\"\\u00e9\\ud83d\\ude00 1.50\"}], \"model\" :\"claude-haiku-4-5\" }";
        let answer = world.http.post(format!("{}/v1/messages?beta=true", world.url))
            .bearer_auth(&token).header("anthropic-version", "2023-06-01").header("content-type", "application/json")
            .body(odd).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let through = answer.bytes().await.unwrap();
        let arrived = world.arrived().await;
        assert_eq!(arrived[0]["body_sha256"], sha256(odd));
        assert!(arrived[0]["path"].as_str().unwrap().starts_with("/v1/messages"));
        // A body without a model gets the feature's; the rest stays as it was.
        let answer = world.http.post(format!("{}/v1/messages", world.url))
            .bearer_auth(&token).header("x-keyward-feature", "drafts")
            .body("{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}").send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert_eq!(world.arrived().await[0]["model"], "claude-opus-4-5");
        assert!(!through.is_empty());
    }
}

on_both! {
    async fn counting_and_listing_cost_nothing(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        let get = |path: &str| world.http.get(format!("{}{path}", world.url)).bearer_auth(&token).header("anthropic-version", "2023-06-01");
        let counted = world.http.post(format!("{}/v1/messages/count_tokens", world.url))
            .bearer_auth(&token).header("anthropic-version", "2023-06-01")
            .json(&json!({ "model": "claude-haiku-4-5", "messages": [{ "role": "user", "content": "x" }] }))
            .send().await.unwrap();
        assert_eq!(counted.status(), 200);
        let row = world.row_of(&counted).await;
        assert_eq!((row.state, row.cost.0, row.unpriced), (UsageState::Final, 0, false));
        assert!(counted.json::<Value>().await.unwrap()["input_tokens"].is_u64());
        let list: Value = get("/v1/models?limit=2").send().await.unwrap().json().await.unwrap();
        assert_eq!(list["data"].as_array().unwrap().len(), 2);
        let one: Value = get("/v1/models/claude-haiku-4-5").send().await.unwrap().json().await.unwrap();
        assert_eq!(one["id"], "claude-haiku-4-5");
        assert_eq!(get("/v1/models/a%2Fb").send().await.unwrap().status(), 400);
        let long = get(&format!("/v1/models/{}", "x".repeat(257))).send().await.unwrap();
        assert_eq!(long.status(), 400);
        assert_eq!(error_code(&long.json().await.unwrap()), "keyward_invalid_request");
    }
}

on_both! {
    async fn callers_are_told_what_is_wrong_with_their_token(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let other = world.tenant("other", UsageMode::Byok).await;
        let token = world.token(&tenant).await;
        let service = world.make_token(Owner::Platform).await;
        let post = || world.http.post(format!("{}/v1/messages", world.url)).json(&message("claude-haiku-4-5", 1));
        let mut typo = token.clone();
        typo.pop();
        for (request, status, code) in [
            (post(), 401, "keyward_token_invalid"),
            (post().header("x-api-key", "sk-ant-api03-x"), 401, "keyward_token_invalid"),
            (post().header("x-api-key", &typo), 401, "keyward_token_invalid"),
            (post().header("authorization", "Basic abc"), 401, "keyward_token_invalid"),
            (post().header("x-api-key", &token).bearer_auth(&service), 401, "keyward_token_invalid"),
            (post().header("x-api-key", &service), 400, "keyward_invalid_request"),
            (post().header("x-api-key", &service).header("x-keyward-tenant", "nobody"), 404, "keyward_tenant_not_found"),
            (post().header("x-api-key", &token).header("x-keyward-tenant", "other"), 400, "keyward_invalid_request"),
            (post().header("x-api-key", &token).header("x-keyward-tenant", "acme"), 400, "keyward_invalid_request"),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["x-should-retry"], "false");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(error_code(&body), code, "{body}");
            assert_eq!(body["type"], "error");
        }
        // The same token twice is one token.
        assert_eq!(post().header("x-api-key", &token).bearer_auth(&token).send().await.unwrap().status(), 200);
        let answer = post().header("x-api-key", &service).header("x-keyward-tenant", "acme").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(world.rows(&other).await.is_empty());

        // A revoked token is refused at once.
        let admin = world.admin(&tenant);
        let holder = crate::support::holder(&tenant);
        let listed = world.services.tokens(&admin, holder).await.unwrap();
        world.services.revoke_token(&admin, holder, listed[0].id).await.unwrap();
        assert_eq!(post().header("x-api-key", &token).send().await.unwrap().status(), 401);
    }
}

on_both! {
    async fn an_expired_token_is_refused(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let new = keyward::services::tokens::NewToken { id: keyward::domain::ids::TokenId::new(), name: "Short".into(), days: "2".into(), scopes: Vec::new() };
        let made = world.services.create_token(&world.admin(&tenant), crate::support::holder(&tenant), &new).await.unwrap();
        let secret = made.secret.expose().to_owned();
        assert_eq!(world.message(&secret).send().await.unwrap().status(), 200);
        world.clock.advance(2 * DAY);
        assert_eq!(world.message(&secret).send().await.unwrap().status(), 401);
    }
}

on_both! {
    async fn bad_requests_are_refused_and_leave_no_row(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        world.forget_arrived().await;
        let url = format!("{}/v1/messages", world.url);
        let post = |body: &'static str| world.http.post(&url).header("x-api-key", &token).body(body);
        let fine = r#"{"model":"claude-haiku-4-5","max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#;
        let long = "x".repeat(200);
        for (request, status, code) in [
            (post(""), 400, "keyward_invalid_request"),
            (post("not json"), 400, "keyward_invalid_request"),
            (post("[]"), 400, "keyward_invalid_request"),
            (post(r#"{"model":5}"#), 400, "keyward_invalid_request"),
            (post(fine).header("content-encoding", "gzip"), 400, "keyward_invalid_request"),
            (post(fine).header("x-keyward-feature", "unknown"), 400, "keyward_feature_unknown"),
            (post(fine).header("x-keyward-feature", &long), 400, "keyward_invalid_request"),
            (post(fine).header("x-keyward-feature", "extra"), 403, "keyward_gate_closed"),
            (post(fine).header("x-keyward-key", "absent"), 404, "keyward_key_not_found"),
            (post(fine).header("x-keyward-provider", "acme"), 400, "keyward_invalid_request"),
            (post(fine).header("x-keyward-session", "ses_none"), 400, "keyward_invalid_request"),
            (post(fine).header("x-keyward-featrue", "drafts"), 400, "keyward_invalid_request"),
            (world.http.post(format!("{url}?api_key={token}")).header("x-api-key", &token).body(fine), 400, "keyward_invalid_request"),
            (world.http.get(&url).header("x-api-key", &token), 404, "keyward_invalid_request"),
            (world.http.post(format!("{}/v1/nothing", world.url)), 404, "keyward_invalid_request"),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status);
            let body: Value = answer.json().await.unwrap();
            assert_eq!(error_code(&body), code, "{body}");
        }
        assert!(world.rows(&tenant).await.is_empty());
        assert!(world.arrived().await.is_empty(), "nothing went out");
    }
}

on_both! {
    async fn a_body_over_the_limit_is_refused(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        let body = vec![b' '; 32 * 1024 * 1024 + 1];
        let chunks = body.chunks(1 << 20).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>();
        let streamed = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        let answer = world.http.post(format!("{}/v1/messages", world.url)).header("x-api-key", &token).body(streamed).send().await;
        // The server may answer and close before it has read everything.
        if let Ok(answer) = answer {
            assert_eq!(answer.status(), 413);
            assert_eq!(error_code(&answer.json::<Value>().await.unwrap()), "keyward_too_large");
        }
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
        assert_eq!(world.rows(&tenant).await.len(), 1);
    }
}

on_both! {
    async fn an_unknown_model_is_the_providers_to_refuse(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        let answer = world.send(&token, &message("claude-none", 5)).send().await.unwrap();
        assert_eq!(answer.status(), 404);
        let row = world.row_of(&answer).await;
        assert_eq!((row.state, row.status, row.cost.0), (UsageState::Final, Some(404), 0));
        assert_eq!(row.error_code.as_deref(), Some("not_found_error"));
        assert_eq!(answer.json::<Value>().await.unwrap()["error"]["type"], "not_found_error");
    }
}

on_both! {
    async fn managed_use_and_fallbacks_are_marked(world: World) {
        world.add_shared_key(&test_key("ok")).await;
        let managed = world.tenant("managed", UsageMode::Managed).await;
        let keyless = world.tenant("keyless", UsageMode::Byok).await;
        let blocked = world.tenant_with("blocked", UsageMode::Byok, NoKeyPolicy::Block, LimitPolicy::Pause).await;
        let limited = world.tenant_with("limited", UsageMode::Byok, NoKeyPolicy::Block, LimitPolicy::Managed).await;
        world.add_key(&limited, "production", &test_key("nocredit")).await.unwrap();

        for (tenant, fallback) in [(&managed, None), (&keyless, Some(Fallback::NoKey)), (&limited, Some(Fallback::Limit))] {
            let answer = world.message(&world.token(tenant).await).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["x-keyward-usage-mode"], "managed");
            assert_eq!(answer.headers()["x-keyward-key"], "shared@1");
            let told = answer.headers().get("x-keyward-fallback").map(|value| value.to_str().unwrap());
            assert_eq!(told, fallback.map(Fallback::as_str));
            let row = world.row_of(&answer).await;
            assert_eq!((row.mode, row.fallback, row.billed.0), (UsageMode::Managed, fallback, 0));
            assert!(row.cost.0 > 0);
        }
        let answer = world.message(&world.token(&blocked).await).send().await.unwrap();
        assert_eq!(answer.status(), 403);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(error_code(&body), "keyward_gate_closed");
        assert!(body["error"]["message"].as_str().unwrap().contains("/t/blocked/settings/api-keys"), "{body}");
    }
}

on_both! {
    async fn limits_of_the_own_key_pause_it(world: World) {
        world.add_shared_key(&test_key("ok")).await;
        for (word, status, code) in [
            ("nocredit", 402, "keyward_paused"),
            ("spendlimit", 402, "keyward_paused"),
            ("enforced", 402, "keyward_paused"),
            ("ratelimited", 429, "keyward_too_many_requests"),
        ] {
            let tenant = world.tenant(word, UsageMode::Byok).await;
            let key = test_key("ok");
            world.add_key(&tenant, "production", &key).await.unwrap();
            let token = world.token(&tenant).await;
            world.impose(&key, word).await;
            // The first answer is the provider's own, and tells Keyward.
            let first = world.message(&token).send().await.unwrap();
            assert!(first.status().is_client_error());
            let row = world.row_of(&first).await;
            assert_eq!((row.mode, row.state, row.cost.0), (UsageMode::Byok, UsageState::Final, 0));
            let answer = until(|| world.message(&token), |answer| {
                answer.headers().get("x-keyward-key").is_none()
            }).await;
            assert_eq!(answer.status(), status, "{word}");
            assert_eq!(answer.headers().get("retry-after").is_some(), word == "ratelimited");
            assert_eq!(error_code(&answer.json::<Value>().await.unwrap()), code);
        }
    }
}

on_both! {
    async fn a_key_revoked_at_the_provider_is_rejected_after_two_answers(world: World) {
        world.add_shared_key(&test_key("ok")).await;
        let tenant = world.tenant_with("acme", UsageMode::Byok, NoKeyPolicy::Managed, LimitPolicy::Managed).await;
        let key = test_key("ok");
        world.add_key(&tenant, "production", &key).await.unwrap();
        let token = world.token(&tenant).await;
        world.impose(&key, "revoked").await;
        let first = world.message(&token).send().await.unwrap();
        assert_eq!(first.status(), 401);
        assert_eq!(first.headers()["x-keyward-key"], "production@1");
        let answer = until(|| world.message(&token), |answer| answer.status() == 403).await;
        // Even where limits fall back, a rejected key never does.
        assert_eq!(error_code(&answer.json::<Value>().await.unwrap()), "keyward_key_rejected");
        let modes: Vec<UsageMode> = world.rows(&tenant).await.iter().map(|row| row.mode).collect();
        assert!(modes.len() >= 2 && modes.iter().all(|mode| *mode == UsageMode::Byok), "{modes:?}");
    }
}

/// Sends until an answer is as wished: what the last answer said of a key is written off the path.
async fn until(
    request: impl Fn() -> reqwest::RequestBuilder,
    wished: impl Fn(&reqwest::Response) -> bool,
) -> reqwest::Response {
    for _ in 0..100 {
        let answer = request().send().await.unwrap();
        if wished(&answer) {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the wished answer never came");
}
