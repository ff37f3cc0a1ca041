//! Providers and dialects through the real gateway and wire: what goes out, what comes back, what is
//! metered, and what is refused without a byte going anywhere.

use keyward::domain::account::Tenant;
use keyward::domain::billing::UsageMode;
use keyward::domain::provider_key::{KeyScope, KeySettings, KeyState, Provider};
use keyward::domain::usage::{ServiceTier, UsageState};
use keyward::services::ServiceError;
use keyward::services::provider_keys::NewKey;
use serde_json::{Value, json};

use crate::on_both;
use crate::support::{World, error_code, holder, message, new_key, sha256};

async fn with_key(world: &World, provider: Provider, word: &str) -> (Tenant, String) {
    let tenant = world.tenant(&format!("{word}-{provider}"), UsageMode::Byok).await;
    let secret = world.key_of(provider, word).await;
    world.add_key_of(holder(&tenant), provider, "production", &secret).await.unwrap();
    let token = world.token(&tenant).await;
    (tenant, token)
}

async fn last(world: &World) -> Value {
    world.arrived().await.remove(0)
}

on_both! {
    /// What each provider says of a key when it is checked, and what becomes of the key.
    async fn keys_are_judged_by_their_providers_own_words(world: World) {
        use Provider::{Azure, Custom, Google, Openai, Vertex};
        let of_openai = [
            ("ok", Some(KeyState::Valid)),
            ("revoked", None),
            ("forbidden", None),
            ("nocredit", Some(KeyState::OutOfCredit)),
            ("spendlimit", Some(KeyState::SpendLimit)),
            ("enforced", Some(KeyState::SpendLimit)),
            ("ratelimited", Some(KeyState::RateLimited)),
            ("overloaded", Some(KeyState::Valid)),
            ("garbage", Some(KeyState::Valid)),
        ];
        let of_google = [
            ("ok", Some(KeyState::Valid)),
            ("revoked", None),
            ("forbidden", None),
            ("nocredit", Some(KeyState::OutOfCredit)),
            ("spendlimit", Some(KeyState::RateLimited)),
            ("ratelimited", Some(KeyState::RateLimited)),
            ("overloaded", Some(KeyState::Valid)),
        ];
        for (provider, words) in [
            (Openai, &of_openai[..]),
            (Azure, &of_openai[..]),
            (Custom, &of_openai[..]),
            (Google, &of_google[..]),
            (Vertex, &of_google[..]),
        ] {
            for (word, expected) in words {
                let tenant = world.tenant(&format!("{word}-{provider}"), UsageMode::Byok).await;
                let secret = world.key_of(provider, word).await;
                let saved = world.add_key_of(holder(&tenant), provider, "production", &secret).await;
                match (saved, expected) {
                    (Ok(saved), Some(state)) => assert_eq!(saved.state, *state, "{provider} {word}"),
                    (Err(ServiceError::Invalid(problems)), None) => {
                        assert!(problems.of("api_key").unwrap().contains("rejected this key"), "{provider} {word}");
                        assert!(world.services.keys(holder(&tenant)).await.unwrap().is_empty());
                    }
                    (saved, expected) => panic!("{provider} {word}: {saved:?}, not {expected:?}"),
                }
            }
        }
    }
}

on_both! {
    /// A limit that live traffic meets pauses the key, with the dialect's own refusal afterwards.
    async fn live_limits_pause_in_every_dialect(world: World) {
        for (provider, word, state) in [
            (Provider::Openai, "nocredit", KeyState::OutOfCredit),
            (Provider::Azure, "spendlimit", KeyState::SpendLimit),
            (Provider::Google, "nocredit", KeyState::OutOfCredit),
        ] {
            let tenant = world.tenant(&format!("live-{provider}"), UsageMode::Byok).await;
            let secret = world.key_of(provider, "ok").await;
            world.add_key_of(holder(&tenant), provider, "production", &secret).await.unwrap();
            let token = world.token(&tenant).await;
            world.impose(&secret, word).await;
            let first = world.ask(provider, &token, false).send().await.unwrap();
            assert!(matches!(first.status().as_u16(), 402 | 429), "{provider}: the provider's own answer");
            assert_eq!(world.row_of(&first).await.cost.0, 0);
            let mut now = KeyState::Valid;
            for _ in 0..100 {
                now = world.services.keys(holder(&tenant)).await.unwrap()[0].current.status.state;
                if now == state {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            assert_eq!(now, state, "{provider}");
            world.forget_arrived().await;
            let refused = world.ask(provider, &token, false).send().await.unwrap();
            assert_eq!(refused.status(), 402, "{provider}");
            assert_eq!(refused.headers()["x-should-retry"], "false");
            let body: Value = refused.json().await.unwrap();
            assert!(body.to_string().contains("keyward_paused"), "{provider}: {body}");
            assert!(world.arrived().await.is_empty());
        }
    }
}

on_both! {
    /// Claude on Vertex: the model moves into the path, the version into the body, nothing else changes.
    async fn claude_runs_on_vertex(world: World) {
        let (_, token) = with_key(world, Provider::Vertex, "ok").await;
        for (stream, action) in [(false, "rawPredict"), (true, "streamRawPredict")] {
            let mut body = message("claude-haiku-4-5@20251001", 32);
            if stream {
                body["stream"] = json!(true);
            }
            let answer = world.send(&token, &body).header("x-keyward-provider", "vertex").send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let row = {
                let id = answer.headers()["x-keyward-request-id"].to_str().unwrap().to_owned();
                let text = answer.text().await.unwrap();
                assert!(text.contains("Name"), "{text}");
                world.row(keyward::domain::ids::RequestId::parse(&id).unwrap()).await
            };
            assert_eq!((row.state, row.unpriced), (UsageState::Final, false));
            assert_eq!(row.provider, Provider::Vertex);
            assert!(row.cost.0 > 0 && row.tokens.output > 1);
            let seen = last(world).await;
            let path = "/v1/projects/sandbox-project/locations/global/publishers/anthropic/models";
            assert_eq!(seen["path"], format!("{path}/claude-haiku-4-5@20251001:{action}"));
            let sent = body.to_string().replace("\"model\":\"claude-haiku-4-5@20251001\",", "");
            let sent = sent.replacen('{', "{\"anthropic_version\":\"vertex-2023-10-16\",", 1);
            assert_eq!(seen["body_sha256"], sha256(&sent), "{sent}");
        }
        let count = world
            .http
            .post(format!("{}/v1/messages/count_tokens", world.url))
            .bearer_auth(&token)
            .header("x-keyward-provider", "vertex")
            .json(&json!({ "model": "claude-haiku-4-5", "messages": [{ "role": "user", "content": "Hi" }] }))
            .send()
            .await
            .unwrap();
        assert_eq!(count.status(), 200);
        assert!(count.json::<Value>().await.unwrap()["input_tokens"].as_u64().unwrap() > 0);
        // Models that could leave their place in the path are refused before anything is sent.
        world.forget_arrived().await;
        for model in ["../x", "a/b", "..", "m?x=1"] {
            let answer = world.send(&token, &message(model, 8)).header("x-keyward-provider", "vertex").send().await.unwrap();
            assert_eq!(answer.status(), 400, "{model}");
            assert_eq!(error_code(&answer.json().await.unwrap()), "keyward_invalid_request");
        }
        assert!(world.arrived().await.is_empty());
    }
}

on_both! {
    /// Deployment URLs with an API version, and the v1 API; the model is the deployment.
    async fn azure_has_two_kinds_of_url(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let classic = KeySettings([("api_version".to_owned(), "2024-10-21".to_owned())].into());
        let fixed = format!("{}/openai/deployments/gpt-4o", world.sandbox_url);
        for (name, custom_url, settings, path) in [
            ("v1", world.sandbox_url.clone(), KeySettings::default(), "/openai/v1/chat/completions"),
            ("classic", world.sandbox_url.clone(), classic.clone(), "/openai/deployments/gpt-5.4-nano/chat/completions"),
            ("fixed", fixed.clone(), classic, "/openai/deployments/gpt-4o/chat/completions"),
        ] {
            let secret = world.key_of(Provider::Azure, "ok").await;
            let new = NewKey { provider: Provider::Azure, custom_url, settings, ..new_key(name, &secret) };
            world.services.add_key(&world.admin(&tenant), holder(&tenant), new).await.unwrap();
            let token = world.token(&tenant).await;
            let answer = world.ask(Provider::Azure, &token, false).header("x-keyward-key", name).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{name}");
            let row = world.row_of(&answer).await;
            assert!(!row.unpriced && row.cost.0 > 0);
            let seen = last(world).await;
            assert_eq!((&seen["path"], &seen["credential_header"]), (&json!(path), &json!("api-key")), "{name}");
        }
        // The URL of a deployment says nothing without a version.
        let secret = world.key_of(Provider::Azure, "ok").await;
        let new = NewKey { provider: Provider::Azure, custom_url: fixed, ..new_key("x", &secret) };
        match world.services.add_key(&world.admin(&tenant), holder(&tenant), new).await {
            Err(ServiceError::Invalid(problems)) => assert!(problems.of("api_version").unwrap().contains("2024-10-21")),
            other => panic!("{other:?}"),
        }
    }
}

on_both! {
    /// Every endpoint is metered from its own report, streams in each of their shapes.
    async fn every_endpoint_is_metered(world: World) {
        let (_, openai) = with_key(world, Provider::Openai, "ok").await;
        let (_, google) = with_key(world, Provider::Google, "ok").await;
        let chat = json!({ "model": "gpt-5.4", "max_completion_tokens": 40, "reasoning_effort": "low",
            "service_tier": "priority", "messages": [{ "role": "user", "content": "Hello" }] });
        let respond = json!({ "model": "gpt-6-sol", "max_output_tokens": 40, "input": "Hello",
            "tools": [{ "type": "web_search" }] });
        let embed = json!({ "model": "text-embedding-3-small", "input": "Hello" });
        let generate = json!({ "contents": [{ "parts": [{ "text": "Hello" }] }],
            "generationConfig": { "maxOutputTokens": 40, "thinkingConfig": { "thinkingBudget": 100 } },
            "tools": [{ "googleSearch": {} }] });
        let gemini = "/v1beta/models/gemini-3.8-flash";
        let streamed = |mut body: Value| {
            body["stream"] = json!(true);
            body
        };
        for (path, token, body) in [
            ("/v1/chat/completions".to_owned(), &openai, chat.clone()),
            ("/v1/chat/completions".to_owned(), &openai, streamed(chat)),
            ("/v1/responses".to_owned(), &openai, respond.clone()),
            ("/v1/responses".to_owned(), &openai, streamed(respond)),
            ("/v1/embeddings".to_owned(), &openai, embed),
            (format!("{gemini}:generateContent"), &google, generate.clone()),
            (format!("{gemini}:streamGenerateContent?alt=sse"), &google, generate.clone()),
            (format!("{gemini}:streamGenerateContent"), &google, generate),
        ] {
            let answer = world.http.post(format!("{}{path}", world.url)).bearer_auth(token).json(&body).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            let id = answer.headers()["x-keyward-request-id"].to_str().unwrap().to_owned();
            let text = answer.text().await.unwrap();
            let row = world.row(keyward::domain::ids::RequestId::parse(&id).unwrap()).await;
            assert_eq!((row.state, row.status, row.unpriced), (UsageState::Final, Some(200), false), "{path}: {row:?}");
            assert!(row.cost.0 > 0 && row.tokens.input > 0 && row.raw_usage.is_some(), "{path}: {row:?}");
            if path.contains("embeddings") {
                assert_eq!(row.tokens.output, 0);
            } else {
                assert_eq!(row.tokens.output, 40, "{path}: {row:?}");
            }
            match path.as_str() {
                "/v1/chat/completions" => {
                    assert_eq!(row.served_as.tier, ServiceTier::Priority);
                    assert!(row.tokens.reasoning > 0);
                    assert!(!text.contains("prompt_tokens") || body["stream"] != true, "{text}");
                }
                "/v1/responses" => assert_eq!(row.tokens.web_searches, 1),
                "/v1/embeddings" => {}
                _ => assert!(row.tokens.reasoning > 0 && row.tokens.web_searches == 1, "{row:?}"),
            }
        }
    }
}

on_both! {
    /// What breaks off is told, in the dialect's way, and settled by what was seen.
    async fn streams_that_break_off_are_told_and_settled(world: World) {
        for provider in [Provider::Openai, Provider::Google, Provider::Custom] {
            let (tenant, token) = with_key(world, provider, "truncated").await;
            let answer = world.ask(provider, &token, true).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let rest = answer.text().await;
            if provider == Provider::Openai {
                // Half an event is held back here until the rest of it comes, so there is room for a last word.
                let rest = rest.unwrap();
                assert!(rest.trim_end().ends_with("}}") && rest.contains(r#""code":"keyward_upstream_unreachable""#), "{rest}");
            } else {
                // It ends in the middle of an event, so the connection breaks.
                assert!(rest.is_err(), "{provider}");
            }
            let whole = world.ask(provider, &token, false).send().await.unwrap();
            assert_eq!(whole.status(), 502, "{provider}");
            assert!(whole.text().await.unwrap().contains("keyward_upstream_unreachable"));
            for _ in 0..100 {
                if world.rows(&tenant).await.iter().all(|row| row.ended_at.is_some()) {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            for row in world.rows(&tenant).await {
                assert!(matches!(row.state, UsageState::Partial | UsageState::Estimated), "{provider}: {row:?}");
                assert_eq!(row.error_code.as_deref(), Some("keyward_upstream_unreachable"), "{provider}");
            }
        }
        for provider in [Provider::Openai, Provider::Google] {
            let (_, token) = with_key(world, provider, "garbage").await;
            let answer = world.ask(provider, &token, false).send().await.unwrap();
            assert_eq!(answer.status(), 502, "{provider}");
        }
    }
}

on_both! {
    /// What is wrong is refused in the dialect's shape, and nothing goes out.
    async fn refusals_have_the_dialects_shape(world: World) {
        let (tenant, token) = with_key(world, Provider::Openai, "ok").await;
        let secret = world.key_of(Provider::Google, "ok").await;
        world.add_key_of(holder(&tenant), Provider::Google, "gem", &secret).await.unwrap();
        world.forget_arrived().await;
        let chat = |body: &Value| world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&token).json(body);
        let good = json!({ "model": "gpt-4o", "messages": [] });
        for (request, status, code) in [
            (chat(&good).header("x-keyward-key", "gem"), 400, "keyward_provider_mismatch"),
            (chat(&good).header("x-keyward-key", "none"), 404, "keyward_key_not_found"),
            (chat(&good).header("x-keyward-provider", "anthropic"), 400, "keyward_provider_mismatch"),
            (chat(&good).header("x-keyward-provider", "nobody"), 400, "keyward_invalid_request"),
            (chat(&good).header("x-goog-api-key", "other"), 401, "keyward_token_invalid"),
            (chat(&json!({ "model": null, "messages": [] })), 400, "keyward_invalid_request"),
            (chat(&json!({ "model": "m", "stream": "yes" })), 400, "keyward_invalid_request"),
            (chat(&json!([])), 400, "keyward_invalid_request"),
            (world.http.get(format!("{}/v1/models?key=x", world.url)).bearer_auth(&token), 400, "keyward_invalid_request"),
            (world.http.get(format!("{}/v1/models?after={}", world.url, "x".repeat(8_192))).bearer_auth(&token), 400, "keyward_invalid_request"),
            (world.http.get(format!("{}/v1/models?oauth_token=x", world.url)).bearer_auth(&token), 400, "keyward_invalid_request"),
            (world.http.get(format!("{}/v1/models?x=ya29.secret", world.url)).bearer_auth(&token), 400, "keyward_invalid_request"),
            (world.http.get(format!("{}/v1/nothing", world.url)), 404, "keyward_invalid_request"),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{code}");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error"]["code"], code, "{body}");
            assert!(body["error"]["message"].is_string() && body["error"]["param"].is_null());
        }
        let gemini = |path: &str| world.http.post(format!("{}{path}", world.url)).header("x-goog-api-key", &token);
        let hello = json!({ "contents": [{ "parts": [{ "text": "Hi" }] }] });
        for (request, status, name, code) in [
            (gemini("/v1beta/models/gemini-3.8-flash:generateContent").header("x-keyward-key", "production").json(&hello), 400, "INVALID_ARGUMENT", "keyward_provider_mismatch"),
            (gemini("/v1beta/models/gemini-3.8-flash:dance").json(&hello), 404, "NOT_FOUND", "keyward_invalid_request"),
            (gemini("/v1beta/models/gemini-3.8-flash").json(&hello), 404, "NOT_FOUND", "keyward_invalid_request"),
            (gemini("/v1/models/..%2Fx:generateContent").json(&hello), 400, "INVALID_ARGUMENT", "keyward_invalid_request"),
            (gemini("/v1beta/models/m:generateContent").header("x-keyward-feature", "no").json(&hello), 400, "INVALID_ARGUMENT", "keyward_feature_unknown"),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{code}");
            let body: Value = answer.json().await.unwrap();
            assert_eq!((&body["error"]["status"], &body["error"]["code"]), (&json!(name), &json!(status)), "{body}");
            assert_eq!(body["error"]["details"][0]["reason"], code);
        }
        assert!(world.arrived().await.is_empty());
    }
}

on_both! {
    /// A body without a model gets one; everything else goes out byte for byte.
    async fn bodies_go_out_byte_for_byte(world: World) {
        let (_, token) = with_key(world, Provider::Openai, "ok").await;
        let post = |path: &str, body: &str| {
            world.http.post(format!("{}{path}", world.url)).bearer_auth(&token)
                .header("content-type", "application/json").body(body.to_owned())
        };
        for (path, sent, arrived) in [
            ("/v1/chat/completions", r#"{ "messages":[{"role":"user","content":"\u0041"}], "model" : "gpt-4o","n":1.0 }"#, None),
            ("/v1/responses", r#"{"input":"x","stream":true ,"model":"gpt-6-sol"}"#, None),
            ("/v1/embeddings", r#"{"input":["x"]}"#, Some(r#"{"model":"gpt-5.4-nano","input":["x"]}"#)),
            (
                "/v1/chat/completions",
                r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"x"}],"stream_options":{"include_obfuscation":false}}"#,
                Some(r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"x"}],"stream_options":{"include_usage":true,"include_obfuscation":false}}"#),
            ),
        ] {
            let answer = post(path, sent).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{sent}");
            answer.bytes().await.unwrap();
            assert_eq!(last(world).await["body_sha256"], sha256(arrived.unwrap_or(sent)), "{sent}");
        }
    }
}

on_both! {
    /// A key that is for some features and models refuses the others; nothing stands in for it.
    async fn a_scope_closes_the_gate(world: World) {
        let shared = keyward::services::provider_keys::Holder {
            scope: keyward::access::scope::Scope::of_system(keyward::domain::ids::Owner::Platform),
            changers: keyward::domain::account::KeyChangers::SuperAdmins,
        };
        world.add_key_of(shared, Provider::Openai, "shared", &world.key_of(Provider::Openai, "ok").await).await.unwrap();
        let (tenant, token) = with_key(world, Provider::Openai, "ok").await;
        let only = |features: &[&str], models: &[&str]| KeyScope {
            features: (!features.is_empty()).then(|| features.iter().map(|slug| (*slug).to_owned()).collect()),
            models: (!models.is_empty()).then(|| models.iter().map(|model| (*model).to_owned()).collect()),
        };
        let admin = world.admin(&tenant);
        let scope = async |scope: KeyScope| world.services.scope_key(&admin, holder(&tenant), "production", scope).await;
        scope(only(&["drafts"], &["gpt-5.4-nano"])).await.unwrap();
        world.forget_arrived().await;
        let ask = || world.ask(Provider::Openai, &token, false);
        let other = json!({ "model": "gpt-4o", "messages": [{ "role": "user", "content": "x" }] });
        for (request, status) in [
            (ask().header("x-keyward-feature", "drafts"), 200),
            (ask(), 403),
            (ask().header("x-keyward-key", "production"), 403),
            (ask().header("x-keyward-feature", "suggestions"), 403),
            (ask().header("x-keyward-feature", "drafts").json(&other), 403),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status);
            let body: Value = answer.json().await.unwrap();
            if status == 403 {
                assert_eq!(error_code(&body), "keyward_gate_closed");
                assert!(body["error"]["message"].as_str().unwrap().contains("may not be used for"), "{body}");
            }
        }
        assert_eq!(world.arrived().await.len(), 1, "only what is in the scope goes out");
        for wrong in [only(&["nothing"], &[]), only(&[], &["a\u{7}b"])] {
            assert!(matches!(scope(wrong).await, Err(ServiceError::Invalid(_))));
        }
        scope(KeyScope::default()).await.unwrap();
        assert_eq!(ask().send().await.unwrap().status(), 200);
    }
}

on_both! {
    /// Key files that are none are told what they are, and nothing is sent anywhere.
    async fn key_files_of_the_wrong_kind_are_refused(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let good: Value = serde_json::from_str(&world.key_of(Provider::Vertex, "ok").await).unwrap();
        let with = |name: &str, value: Value| {
            let mut account = good.clone();
            account[name] = value;
            account.to_string()
        };
        world.forget_arrived().await;
        for (typed, told) in [
            ("{".to_owned(), "not the JSON key file"),
            ("[]".to_owned(), "not the JSON key file"),
            ("AIzaSyNotAJsonFile0123456789".to_owned(), "This is a Google API key."),
            (with("type", json!("authorized_user")), "a person's own credentials"),
            (with("type", json!("external_account")), "workload identity"),
            (with("type", json!(7)), "not the JSON key file"),
            (with("token_uri", json!("https://evil.example.com/token")), "token_uri"),
            (with("token_uri", json!("https://oauth2.googleapis.com.evil.example.com/token")), "token_uri"),
            (with("private_key", json!("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")), "private key in this file is broken"),
            (with("project_id", json!("../../x")), "not one that Google could have given"),
            (with("client_email", Value::Null), "not complete"),
        ] {
            match world.add_key_of(holder(&tenant), Provider::Vertex, "production", &typed).await {
                Err(ServiceError::Invalid(problems)) => {
                    let problem = problems.of("api_key").unwrap();
                    assert!(problem.contains(told), "{told}: {problem}");
                }
                other => panic!("{told}: {other:?}"),
            }
        }
        assert!(world.arrived().await.is_empty(), "nothing went anywhere");
        // A location could lead to another host or path.
        for location in ["evil.example.com/", "a b", "../x", "us-central1?x"] {
            let settings = KeySettings([("location".to_owned(), location.to_owned())].into());
            let new = NewKey { provider: Provider::Vertex, settings, ..new_key("x", &good.to_string()) };
            match world.services.add_key(&world.admin(&tenant), holder(&tenant), new).await {
                Err(ServiceError::Invalid(problems)) => assert!(problems.of("location").is_some()),
                other => panic!("{location}: {other:?}"),
            }
        }
        assert!(world.arrived().await.is_empty());
        world.add_key_of(holder(&tenant), Provider::Vertex, "production", &good.to_string()).await.unwrap();
        let key = &world.services.keys(holder(&tenant)).await.unwrap()[0];
        let id = good["private_key_id"].as_str().unwrap();
        assert_eq!(key.current.hint, format!("…{}", &id[id.len() - 4..]));
    }
}

on_both! {
    /// A service account whose key Google takes back is found out by the next exchange.
    async fn a_service_account_that_loses_its_key_is_rejected(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let secret = world.key_of(Provider::Vertex, "ok").await;
        world.add_key_of(holder(&tenant), Provider::Vertex, "production", &secret).await.unwrap();
        let token = world.token(&tenant).await;
        let ask = || world.ask(Provider::Vertex, &token, false);
        assert_eq!(ask().send().await.unwrap().status(), 200);
        world.forget_arrived().await;
        assert_eq!(ask().send().await.unwrap().status(), 200);
        assert_eq!(world.arrived().await.len(), 1, "the token is kept while it holds");
        let account: Value = serde_json::from_str(&secret).unwrap();
        world.impose(account["client_email"].as_str().unwrap(), "revoked").await;
        world.clock.advance(keyward::domain::clock::HOUR);
        for _ in 0..2 {
            let answer = ask().send().await.unwrap();
            assert_eq!(answer.status(), 403);
            assert!(answer.text().await.unwrap().contains("keyward_key_rejected"));
        }
        for _ in 0..100 {
            let key = &world.services.keys(holder(&tenant)).await.unwrap()[0];
            if key.current.status.state == KeyState::Rejected {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the key was never found out");
    }
}
