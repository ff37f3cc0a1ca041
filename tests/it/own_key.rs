//! The promise: whenever a tenant's own key is configured for a request, that key and no other is
//! in the outgoing credential header. Checked through the real server, client and wire, for every
//! provider and every way of choosing a key. If this fails, nothing may ship.

use keyward::domain::billing::UsageMode;
use keyward::domain::ids::Owner;
use keyward::domain::provider_key::Provider;
use keyward::providers;
use serde_json::json;

use crate::on_both;
use crate::support::{World, holder, message, sha256, test_key};

/// The header that must carry the tenant's key. A provider without a line here does not compile
/// into this test's `match`, and so fails the build.
fn credential_header(provider: Provider) -> &'static str {
    match provider {
        Provider::Anthropic => "x-api-key",
    }
}

on_both! {
    async fn the_tenants_key_and_no_other_goes_out(world: World) {
        let shared = test_key("ok");
        world.add_shared_key(&shared).await;
        let service = world.make_token(Owner::Platform).await;
        for provider in providers::ALL {
            let kind = provider.spec().kind;
            let neighbour = world.tenant(&format!("neighbour-{kind}"), UsageMode::Byok).await;
            world.add_key(&neighbour, "production", &test_key("ok")).await.unwrap();
            let byok = world.tenant(&format!("byok-{kind}"), UsageMode::Byok).await;
            let managed = world.tenant(&format!("managed-{kind}"), UsageMode::Managed).await;
            let (default, named, own) = (test_key("ok"), test_key("ok"), test_key("ok"));
            world.add_key(&byok, "production", &default).await.unwrap();
            world.add_key(&byok, "batch", &named).await.unwrap();
            world.add_key(&managed, "own", &own).await.unwrap();
            let (byok_token, managed_token) = (world.token(&byok).await, world.token(&managed).await);

            let ways: Vec<(&str, reqwest::RequestBuilder, &String)> = vec![
                ("the default key", world.message(&byok_token), &default),
                ("a covered feature", world.message(&byok_token).header("x-keyward-feature", "drafts"), &default),
                ("the provider named", world.message(&byok_token).header("x-keyward-provider", kind.as_str()), &default),
                ("a named key", world.message(&byok_token).header("x-keyward-key", "batch"), &named),
                ("a named key in managed mode", world.message(&managed_token).header("x-keyward-key", "own"), &own),
                (
                    "a named key on a feature that is not covered",
                    world.message(&byok_token).header("x-keyward-feature", "chatbot").header("x-keyward-key", "batch"),
                    &named,
                ),
                ("a service token", world.message(&service).header("x-keyward-tenant", byok.slug.as_str()), &default),
                ("a stream", world.send(&byok_token, &streamed()), &default),
                ("a bearer token", bearer(world, &byok_token), &default),
            ];
            for (way, request, expected) in ways {
                world.forget_arrived().await;
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), 200, "{kind}: {way}");
                assert_eq!(answer.headers()["x-keyward-usage-mode"], "byok", "{kind}: {way}");
                answer.bytes().await.unwrap();
                let arrived = world.arrived().await;
                assert_eq!(arrived.len(), 1, "{kind}: {way}: one request goes out");
                assert_eq!(arrived[0]["credential_sha256"], sha256(expected), "{kind}: {way}: the key");
                assert_eq!(arrived[0]["credential_header"], credential_header(kind), "{kind}: {way}: its header");
                let names = arrived[0]["header_names"].to_string();
                assert!(!names.contains("authorization") && !names.contains("keyward"), "{kind}: {way}: {names}");
            }

            // After a rotation it is the new one, at the very next request.
            let rotated = test_key("ok");
            let admin = world.admin(&byok);
            let secret = keyward::crypto::secret::Secret::new(rotated.clone());
            world.services.rotate_key(&admin, holder(&byok), "production", secret, "").await.unwrap();
            world.forget_arrived().await;
            assert_eq!(world.message(&byok_token).send().await.unwrap().status(), 200);
            assert_eq!(world.arrived().await[0]["credential_sha256"], sha256(&rotated));

            // And without any own key it is the shared one.
            world.services.remove_key(&admin, holder(&byok), "production", "production").await.unwrap();
            world.forget_arrived().await;
            assert_eq!(world.message(&byok_token).send().await.unwrap().status(), 200);
            assert_eq!(world.arrived().await[0]["credential_sha256"], sha256(&shared));
        }
    }
}

fn streamed() -> serde_json::Value {
    let mut body = message("claude-haiku-4-5", 16);
    body["stream"] = json!(true);
    body
}

fn bearer(world: &World, token: &str) -> reqwest::RequestBuilder {
    world
        .http
        .post(format!("{}/v1/messages", world.url))
        .bearer_auth(token)
        .header("anthropic-version", "2023-06-01")
        .json(&message("claude-haiku-4-5", 16))
}
