//! The promise: whenever a tenant's own key is configured for a request, that key and no other is
//! in the outgoing credential header. Checked through the real server, client and wire, for every
//! provider and every way of choosing a key. If this fails, nothing may ship.

use keyward::access::scope::Scope;
use keyward::cli::demo_samples;
use keyward::domain::account::KeyChangers;
use keyward::domain::billing::UsageMode;
use keyward::domain::ids::Owner;
use keyward::domain::plan::Feature;
use keyward::domain::provider_key::Provider;
use keyward::domain::usage::Dialect;
use keyward::providers;
use keyward::services::provider_keys::Holder;
use keyward::storage::{changes, plans};
use serde_json::Value;

use crate::on_both;
use crate::support::{World, holder, sha256, test_key};

/// The header that must carry the tenant's key. A provider without a line here does not compile
/// into this test's `match`, and so fails the build.
fn credential_header(provider: Provider) -> &'static str {
    match provider {
        Provider::Anthropic => "x-api-key",
        Provider::Openai | Provider::Vertex | Provider::Custom => "authorization",
        Provider::Google => "x-goog-api-key",
        Provider::Azure => "api-key",
    }
}

/// What must be in that header for a key: the key itself, or the token that the sandbox gives to
/// its service account.
fn credential(provider: Provider, secret: &str) -> String {
    if provider != Provider::Vertex {
        return sha256(secret);
    }
    let account: Value = serde_json::from_str(secret).unwrap();
    let email = account["client_email"].as_str().unwrap();
    sha256(&format!("ya29.sandbox-ok-{}", &sha256(email)[..24]))
}

/// The requests that went to the provider, token exchanges aside.
async fn went_out(world: &World) -> Vec<Value> {
    let arrived = world.arrived().await;
    arrived.into_iter().filter(|request| request["path"] != "/token").collect()
}

on_both! {
    async fn the_tenants_key_and_no_other_goes_out(world: World) {
        let platform = Holder { scope: Scope::of_system(Owner::Platform), changers: KeyChangers::SuperAdmins };
        let service = world.make_token(Owner::Platform).await;
        for provider in providers::ALL {
            let kind = provider.spec().kind;
            let shared = world.key_of(kind, "ok").await;
            world.add_key_of(platform, kind, &format!("shared-{kind}"), &shared).await.unwrap();
            let neighbour = world.tenant(&format!("neighbour-{kind}"), UsageMode::Byok).await;
            world.add_key_of(holder(&neighbour), kind, "production", &world.key_of(kind, "ok").await).await.unwrap();
            let byok = world.tenant(&format!("byok-{kind}"), UsageMode::Byok).await;
            let managed = world.tenant(&format!("managed-{kind}"), UsageMode::Managed).await;
            let (default, named, own) =
                (world.key_of(kind, "ok").await, world.key_of(kind, "ok").await, world.key_of(kind, "ok").await);
            world.add_key_of(holder(&byok), kind, "production", &default).await.unwrap();
            world.add_key_of(holder(&byok), kind, "batch", &named).await.unwrap();
            world.add_key_of(holder(&managed), kind, "own", &own).await.unwrap();
            let (byok_token, managed_token) = (world.token(&byok).await, world.token(&managed).await);
            let ask = |token: &str| world.ask(kind, token, false);

            let mut ways: Vec<(&str, reqwest::RequestBuilder, &String)> = vec![
                ("the default key", ask(&byok_token), &default),
                ("a covered feature", ask(&byok_token).header("x-keyward-feature", "drafts"), &default),
                ("a named key", ask(&byok_token).header("x-keyward-key", "batch"), &named),
                ("a named key in managed mode", ask(&managed_token).header("x-keyward-key", "own"), &own),
                (
                    "a named key on a feature that is not covered",
                    ask(&byok_token).header("x-keyward-feature", "chatbot").header("x-keyward-key", "batch"),
                    &named,
                ),
                ("a service token", ask(&service).header("x-keyward-tenant", byok.slug.as_str()), &default),
                ("a stream", world.ask(kind, &byok_token, true), &default),
                ("a stream on a named key", world.ask(kind, &byok_token, true).header("x-keyward-key", "batch"), &named),
            ];
            if kind.dialect().own_provider() == kind {
                // Elsewhere the provider is named by every request.
                let by_name = ask(&byok_token).header("x-keyward-provider", kind.as_str());
                ways.push(("the provider named", by_name, &default));
            }
            if kind.dialect() == Dialect::Anthropic {
                ways.push(("a bearer token", bearer(world, &byok_token), &default));
            }
            for (way, request, expected) in ways {
                world.forget_arrived().await;
                // Whose account pays is for the key to say, not for the caller.
                let request = request.header("openai-organization", "org-other").header("openai-project", "proj-other");
                let answer = request.send().await.unwrap();
                let (status, mode) = (answer.status(), answer.headers().get("x-keyward-usage-mode").cloned());
                let body = answer.text().await.unwrap();
                assert_eq!(status, 200, "{kind}: {way}: {body}");
                assert_eq!(mode.unwrap(), "byok", "{kind}: {way}");
                let arrived = went_out(world).await;
                assert_eq!(arrived.len(), 1, "{kind}: {way}: one request goes out");
                assert_eq!(arrived[0]["credential_sha256"], credential(kind, expected), "{kind}: {way}: the key");
                assert_eq!(arrived[0]["credential_header"], credential_header(kind), "{kind}: {way}: its header");
                let names = arrived[0]["header_names"].to_string();
                let others = ["\"authorization\"", "\"x-api-key\"", "\"x-goog-api-key\"", "\"api-key\"", "keyward", "organization", "openai-project"];
                for other in others.into_iter().filter(|other| other.trim_matches('"') != credential_header(kind)) {
                    assert!(!names.contains(other), "{kind}: {way}: {names}");
                }
            }

            // After a rotation it is the new one, at the very next request.
            let rotated = world.key_of(kind, "ok").await;
            let admin = world.admin(&byok);
            world.rotate(&admin, holder(&byok), "production", &rotated).await.unwrap();
            world.forget_arrived().await;
            assert_eq!(ask(&byok_token).send().await.unwrap().status(), 200);
            assert_eq!(went_out(world).await[0]["credential_sha256"], credential(kind, &rotated));

            // And without any own key it is the shared one.
            world.services.remove_key(&admin, holder(&byok), "production", "production").await.unwrap();
            world.forget_arrived().await;
            assert_eq!(ask(&byok_token).send().await.unwrap().status(), 200);
            assert_eq!(went_out(world).await[0]["credential_sha256"], credential(kind, &shared));
        }
    }
}

fn bearer(world: &World, token: &str) -> reqwest::RequestBuilder {
    let body = crate::support::message("claude-haiku-4-5", 16);
    world
        .http
        .post(format!("{}/v1/messages", world.url))
        .bearer_auth(token)
        .header("anthropic-version", "2023-06-01")
        .json(&body)
}

/// Whether own keys are to be used for a feature that the demo ships. One without a line here fails the
/// test below, as does one that does what its line does not say.
fn is_covered(feature: &str) -> Option<bool> {
    match feature {
        "question-suggestions"
        | "community-manager"
        | "kb-drafts"
        | "quick-scan"
        | "code-review"
        | "deep-analysis" => Some(true),
        "main-chatbot" | "workflow-nodes" => Some(false),
        _ => None,
    }
}

on_both! {
    async fn each_shipped_feature_runs_on_whose_key_it_should(world: World) {
        let (shared, own) = (test_key("ok"), test_key("ok"));
        world.add_shared_key(&shared).await;
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &own).await.unwrap();
        let token = world.token(&tenant).await;
        for (slug, name, description, covered, model, _) in demo_samples::FEATURES {
            assert_eq!(is_covered(slug), Some(*covered), "{slug} needs a line above");
            let feature = Feature {
                slug: (*slug).to_owned(),
                name: (*name).to_owned(),
                description: (*description).to_owned(),
                covered: *covered,
                default_model: Some((*model).to_owned()),
                switch: String::new(),
                budget: None,
            };
            let mut tx = world.services.db.write().await.unwrap();
            plans::insert_feature(&mut tx, &feature).await.unwrap();
            plans::set_included(&mut tx, tenant.plan_id, slug, true).await.unwrap();
            changes::bump(&mut tx, Owner::Platform, world.clock.now()).await.unwrap();
            tx.commit().await.unwrap();
            world.services.directory.forget(Owner::Platform);
            world.forget_arrived().await;
            let answer = world.message(&token).header("x-keyward-feature", *slug).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{slug}");
            let arrived = went_out(world).await;
            let expected = sha256(if *covered { &own } else { &shared });
            assert_eq!(arrived.len(), 1, "{slug}");
            assert_eq!(arrived[0]["credential_sha256"], expected.as_str(), "{slug}");
        }
    }
}
