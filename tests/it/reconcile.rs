//! Reconciliation: both sides agree on what went through Keyward, and what did not is told.

use keyward::crypto::secret::Secret;
use keyward::domain::account::Tenant;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR};
use keyward::domain::notice::NoticeKind;
use keyward::domain::provider_key::Provider;
use keyward::domain::reconcile::{Cause, Line};
use keyward::services::ServiceError;
use serde_json::json;

use crate::console::{cast, sign_in};
use crate::on_both;
use crate::support::{World, holder, message, test_key};

const ANTHROPIC: &str = "sk-ant-admin01-test-ok-0001-AAAA";
const OPENAI: &str = "sk-admin-test-ok-00000001-AAAA";

async fn add(world: &World, tenant: &Tenant, provider: &str, key: &str) -> Result<bool, ServiceError> {
    let secret = Secret::new(key.to_owned());
    world.services.add_report_key(&world.admin(tenant), holder(tenant), tenant, provider, &secret).await
}

async fn lines(world: &World, tenant: &Tenant, provider: Provider) -> Vec<Line> {
    let (admin, scope) = (world.admin(tenant), holder(tenant).scope);
    let all = world.services.reconciled(&admin, &scope, tenant).await.unwrap();
    all.into_iter().find(|one| one.key.provider == provider).unwrap().lines
}

async fn told(world: &World, tenant: &Tenant) -> Vec<String> {
    let (admin, scope) = (world.admin(tenant), holder(tenant).scope);
    let all = world.services.notifications(&admin, &scope, tenant).await.unwrap();
    all.into_iter().filter(|one| one.kind == NoticeKind::UsageDrift).map(|one| one.text).collect()
}

/// Uses a key at the provider without Keyward, for some thousands of tokens.
async fn use_elsewhere(world: &World, provider: Provider, key: &str) {
    let long = "river ".repeat(2_000);
    let request = match provider {
        Provider::Anthropic => {
            let mut body = message("claude-haiku-4-5", 16);
            body["messages"][0]["content"] = json!(long);
            world
                .http
                .post(format!("{}/v1/messages", world.sandbox_url))
                .header("x-api-key", key)
                .header("anthropic-version", "2023-06-01")
                .json(&body)
        }
        _ => world.http.post(format!("{}/v1/chat/completions", world.sandbox_url)).bearer_auth(key).json(
            &json!({
                "model": "gpt-5.4-nano", "max_completion_tokens": 16,
                "messages": [{ "role": "user", "content": long }],
            }),
        ),
    };
    assert_eq!(request.send().await.unwrap().status(), 200);
}

on_both! {
    async fn both_sides_agree_until_the_key_is_used_elsewhere(world: World) {
        for (provider, admin_key) in [(Provider::Anthropic, ANTHROPIC), (Provider::Openai, OPENAI)] {
            let tenant = world.tenant(&format!("tenant-{provider}"), UsageMode::Byok).await;
            let key = world.key_of(provider, "ok").await;
            world.add_key_of(holder(&tenant), provider, "production", &key).await.unwrap();
            let token = world.token(&tenant).await;
            let mut cost = 0;
            for stream in [false, true, true] {
                let answer = world.ask(provider, &token, stream).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                let id = answer.headers()["x-keyward-request-id"].to_str().unwrap().to_owned();
                answer.bytes().await.unwrap();
                cost += world.row(keyward::domain::ids::RequestId::parse(&id).unwrap()).await.cost.0;
            }
            assert!(add(world, &tenant, provider.as_str(), admin_key).await.unwrap());
            let found = lines(world, &tenant, provider).await;
            let ours: Vec<&Line> = found.iter().filter(|line| line.key == "production@1" && line.here.tokens > 0).collect();
            assert_eq!(ours.len(), 1, "{found:#?}");
            let line = ours[0];
            assert_eq!((line.cause, line.here.requests, line.here.cost.unwrap().0), (Cause::Same, Some(3), cost));
            // The check of the key at its adding is there too; no more than that.
            assert!((0..200).contains(&line.tokens_apart()), "{line:?}");
            assert!(told(world, &tenant).await.is_empty());

            // On the day on which it was pasted, it may have been used before.
            use_elsewhere(world, provider, &key).await;
            world.clock.advance(DAY + HOUR);
            world.services.reconcile_due().await.unwrap();
            assert!(told(world, &tenant).await.is_empty());
            use_elsewhere(world, provider, &key).await;
            // Read again once a day, not before.
            world.clock.advance(DAY - 2 * HOUR);
            world.services.reconcile_due().await.unwrap();
            assert!(told(world, &tenant).await.is_empty());
            world.clock.advance(3 * HOUR);
            world.services.reconcile_due().await.unwrap();
            let texts = told(world, &tenant).await;
            assert_eq!(texts.len(), 1, "{texts:?}");
            assert!(texts[0].starts_with("This key is used elsewhere: "), "{}", texts[0]);
            assert!(texts[0].contains("with the key production@1"), "{}", texts[0]);
            let found = lines(world, &tenant, provider).await;
            assert_eq!(found.iter().filter(|line| line.cause == Cause::Elsewhere).count(), 1);
            // Told once, however often it is read; and of another tenant's keys it says no more than that.
            world.clock.advance(DAY);
            world.services.reconcile_due().await.unwrap();
            assert_eq!(told(world, &tenant).await.len(), 1);
        }
    }
}

on_both! {
    async fn report_keys_are_checked_sealed_and_removed(world: World) {
        let cast = cast(world).await;
        let tenant = &cast.tenant;
        world.add_key(tenant, "production", &test_key("ok")).await.unwrap();
        let mut admin = sign_in(world, "admin").await;
        let page = "/t/acme/billing/reconciliation";
        admin.get(page).await.says("Nothing is compared yet");
        for (provider, key, reason) in [
            ("anthropic", "sk-ant-api03-test-ok-0001-AAAA", "Paste an Admin key of Anthropic"),
            ("anthropic", OPENAI, "Paste an Admin key of Anthropic"),
            ("openai", "sk-proj-test-ok-0001-AAAA", "Paste an Admin key of OpenAI"),
            ("anthropic", "sk-ant-admin01-test-revoked-0001-AAAA", "Anthropic rejected this key."),
            ("anthropic", "sk-ant-admin01-test-garbage-0001-AAAA", "could not be asked just now"),
            ("custom", ANTHROPIC, "Choose Anthropic or OpenAI."),
        ] {
            let refused = admin.post(page, &[("provider", provider), ("api_key", key)]).await;
            assert_eq!(refused.status, 422, "{key}");
            refused.says(reason);
            assert!(!refused.body.contains(key), "a key is never put back");
        }
        let form = [("provider", "anthropic"), ("api_key", ANTHROPIC)];
        assert_eq!(admin.post(page, &form).await.status, 303);
        admin.get(page).await.says("Saved and read.").says("sk-ant-admin01-…AAAA");
        // Nor is it taken as a key for requests.
        let taken = world.add_key(tenant, "admin", ANTHROPIC).await;
        assert!(matches!(taken, Err(ServiceError::Invalid(_))));

        // On the day of its pasting it is no alarm; a day later it would be.
        world.sql("UPDATE provider_report SET tokens = tokens + 5000000").await;
        admin.get(page).await.says("Before it was here");
        world.sql("UPDATE key_version SET created_at = created_at - 172800000000").await;
        admin.get(page).await.says("Used elsewhere");
        assert_eq!(admin.post(&format!("{page}/anthropic/remove"), &[]).await.status, 303);
        admin.get(page).await.says("removed").says("Nothing is compared yet");
        assert_eq!(admin.post(&format!("{page}/anthropic/remove"), &[]).await.status, 404);
    }
}
