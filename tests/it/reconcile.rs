//! Reconciliation: both sides agree on what went through Keyward, and what did not is told.

use keyward::access::scope::Scope;
use keyward::crypto::secret::Secret;
use keyward::domain::account::{KeyChangers, PlatformRole, Tenant};
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR, MINUTE, Moment, SECOND};
use keyward::domain::ids::Owner;
use keyward::domain::money::Nanos;
use keyward::domain::notice::NoticeKind;
use keyward::domain::provider_key::{Provider, Verdict};
use keyward::domain::reconcile::{Cause, Line};
use keyward::domain::usage::{TokenUsage, UsageRow, UsageState};
use keyward::services::ServiceError;
use keyward::services::key_states::Observation;
use keyward::services::provider_keys::{Holder, NewKey};
use keyward::storage::adjustments::{self, Adjustment};
use keyward::storage::{holds, keys};
use serde_json::json;

use crate::console::{PASSWORD, cast, sign_in};
use crate::metering::sample;
use crate::on_both;
use crate::support::{World, holder, message, new_key, test_key};
use crate::visitor::Visitor;

const ANTHROPIC: &str = "sk-ant-admin01-test-ok-0001-AAAA";
const OPENAI: &str = "sk-admin-test-ok-00000001-AAAA";

async fn add(world: &World, tenant: &Tenant, provider: &str, key: &str) -> Result<bool, ServiceError> {
    let secret = Secret::new(key.to_owned());
    world.services.add_report_key(&world.admin(tenant), holder(tenant), provider, &secret).await
}

async fn lines(world: &World, tenant: &Tenant, provider: Provider) -> Vec<Line> {
    let all = world.services.reconciled(&world.admin(tenant), holder(tenant)).await.unwrap();
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

fn shared() -> Holder {
    Holder { scope: Scope::of_system(Owner::Platform), changers: KeyChangers::SuperAdmins }
}

on_both! {
    /// What all tenants used of the shared keys is one side; nobody's own keys are in it.
    async fn the_operator_reconciles_the_shared_keys(world: World) {
        let shared_key = test_key("ok");
        world.add_shared_key(&shared_key).await;
        let root = world.super_admin();
        let mut cost = 0;
        for (slug, mode) in [("acme", UsageMode::Managed), ("globex", UsageMode::Managed), ("own", UsageMode::Byok)] {
            let tenant = world.tenant(slug, mode).await;
            if mode == UsageMode::Byok {
                world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
            }
            let answer = world.message(&world.token(&tenant).await).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let row = world.row_of(&answer).await;
            if mode == UsageMode::Managed {
                cost += row.cost.0;
            }
        }
        let secret = Secret::new(ANTHROPIC.to_owned());
        assert!(world.services.add_report_key(&root, shared(), "anthropic", &secret).await.unwrap());
        let lines = async || {
            let all = world.services.reconciled(&root, shared()).await.unwrap();
            all.into_iter().next().unwrap().lines
        };
        let found = lines().await;
        let ours: Vec<&Line> = found.iter().filter(|line| line.here.tokens > 0).collect();
        assert_eq!(ours.len(), 1, "{found:#?}");
        assert_eq!((ours[0].key.as_str(), ours[0].cause), ("shared@1", Cause::Same));
        assert_eq!((ours[0].here.requests, ours[0].here.cost.unwrap().0), (Some(2), cost));

        // The page says how the books stood when the report was read.
        let tenant = world.services.open_tenant(&root, "acme").await.unwrap().1.tenant.clone();
        let answer = world.message(&world.token(&tenant).await).send().await.unwrap();
        let more = world.row_of(&answer).await.cost.0;
        assert_eq!(lines().await, found);
        world.clock.advance(DAY + HOUR);
        world.services.reconcile_due().await.unwrap();
        let counted = lines().await;
        let ours = counted.iter().find(|line| line.key == "shared@1").unwrap();
        assert_eq!((ours.cause, ours.here.requests), (Cause::Same, Some(3)));
        assert_eq!(ours.here.cost.unwrap().0, cost + more);

        // Used where Keyward knows nothing of it: the operator is told, once.
        use_elsewhere(world, Provider::Anthropic, &shared_key).await;
        for _ in 0..2 {
            world.clock.advance(DAY);
            world.services.reconcile_due().await.unwrap();
        }
        let news = world.services.status(&root).await.unwrap().news;
        let drift: Vec<_> = news.iter().filter(|one| one.kind == NoticeKind::UsageDrift).collect();
        assert_eq!(drift.len(), 1, "{news:?}");
        assert!(drift[0].text.starts_with("This key is used elsewhere: "), "{}", drift[0].text);
        assert_eq!(drift[0].page, "reconciliation");

        // Nobody else sees or changes it.
        let admin = world.admin(&tenant);
        assert!(matches!(world.services.reconciled(&admin, shared()).await, Err(ServiceError::Denied)));
        let added = world.services.add_report_key(&admin, shared(), "anthropic", &secret).await;
        assert!(matches!(added, Err(ServiceError::Denied)));
        assert!(world.services.reconciled(&admin, holder(&tenant)).await.unwrap().is_empty());
    }
}

on_both! {
    /// A request of long ago that is rated later is in the next reading.
    async fn what_is_rated_later_is_added_up_again(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let answer = world.message(&world.token(&tenant).await).send().await.unwrap();
        let row = world.row_of(&answer).await;
        assert!(add(world, &tenant, "anthropic", ANTHROPIC).await.unwrap());
        for _ in 0..10 {
            world.clock.advance(DAY);
            world.services.reconcile_due().await.unwrap();
        }
        let here = async || {
            let found = lines(world, &tenant, Provider::Anthropic).await;
            found.iter().find(|line| line.here.tokens > 0).unwrap().here.cost.unwrap().0
        };
        assert_eq!(here().await, row.cost.0);
        let (at, price) = (world.clock.now(), row.price_id.unwrap());
        let more = Adjustment { at, price, cost: Nanos(12_345), billed: Nanos::ZERO };
        let mut tx = world.services.db.meter().await.unwrap();
        assert_eq!(adjustments::append(&mut tx, &[(row.clone(), more)]).await.unwrap(), 1);
        tx.commit().await.unwrap();
        assert_eq!(here().await, row.cost.0, "not before the next reading");
        world.clock.advance(DAY);
        world.services.reconcile_due().await.unwrap();
        assert_eq!(here().await, row.cost.0 + 12_345);
    }
}

on_both! {
    /// The Admin key may be of another account than the key that works.
    async fn a_provider_that_counts_less_is_told_of_once(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        assert!(add(world, &tenant, "anthropic", ANTHROPIC).await.unwrap());
        // A key with a URL of its own is in no report of Anthropic's.
        let own = NewKey { custom_url: world.sandbox_url.clone(), ..new_key("elsewhere", &test_key("ok")) };
        world.services.add_key(&world.admin(&tenant), holder(&tenant), own).await.unwrap();
        world.clock.advance(DAY - world.clock.now().0 % DAY);
        for day in 0..40 {
            let now = world.clock.now();
            let tokens = TokenUsage { input: 50_000, ..TokenUsage::default() };
            let row = |key: &str, model| UsageRow {
                key_name: key.into(), tokens, state: UsageState::Final, status: Some(200), ended_at: Some(now),
                ..sample(world, &tenant, now, model, 50_000_000)
            };
            let rows = [row("production", "claude-haiku-4-5"), row("production", "claude-sonnet-4-6"), row("elsewhere", "claude-haiku-4-5")];
            holds::record(&world.services.db, &[], &rows, Moment(0)).await.unwrap();
            world.clock.advance(DAY + 2 * MINUTE);
            world.services.reconcile_due().await.unwrap();
            let told = told(world, &tenant).await;
            // What a day's report lacks may still come. Then once in thirty days, whichever they are.
            let times = usize::from(day > 0) + usize::from(day > 30);
            assert_eq!(told.len(), times, "{day}: {told:?}");
            if day > 0 {
                assert!(told[0].starts_with("Anthropic reports ") && told[0].contains("where Keyward counts 50,000"), "{told:?}");
            }
        }
    }
}

on_both! {
    async fn the_operator_is_told_when_a_shared_key_stops_working(world: World) {
        let key = test_key("ok");
        world.add_shared_key(&key).await;
        let token = world.token(&world.tenant("acme", UsageMode::Managed).await).await;
        world.impose(&key, "revoked").await;
        // What an answer said of a key is written off its path.
        for _ in 0..200 {
            if world.message(&token).send().await.unwrap().status() != 401 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let root = world.super_admin();
        let news = async || world.services.status(&root).await.unwrap().news;
        let (told, is) = (news().await, &NoticeKind::KeyRejected);
        assert_eq!((told.len(), &told[0].kind), (1, is));
        // However often it comes and goes, the last word holds.
        let mut tx = world.services.db.read().await.unwrap();
        let id = keys::find(&mut tx, &shared().scope, "shared").await.unwrap().unwrap().key.id;
        tx.rollback().await.unwrap();
        for (verdict, kinds) in [
            (Verdict::Works, vec!["key.resumed", "key.rejected"]),
            (Verdict::Rejected, vec!["key.rejected", "key.resumed"]),
        ] {
            for _ in 0..2 {
                world.clock.advance(SECOND);
                let started = world.clock.now();
                let seen = Observation { key: id, version: 1, verdict, started };
                world.services.apply(seen).await.unwrap();
            }
            let told: Vec<_> = news().await.iter().map(|one| one.kind.as_str()).collect();
            assert_eq!(told, kinds);
        }
        let news = news().await;
        assert_eq!(news[0].page, "shared-keys/shared");
        world.user("root@acme.example", PASSWORD, Some(PlatformRole::SuperAdmin), None).await;
        let mut root = Visitor::signed_in(&world.url, "root@acme.example", PASSWORD).await;
        root.get("/platform/status").await.says("Anthropic rejected the key shared.").says("/platform/shared-keys/shared");
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
        for (provider, key) in [(Provider::Anthropic, ANTHROPIC), (Provider::Openai, OPENAI)] {
            let Err(ServiceError::Invalid(problems)) = world.add_key_of(holder(tenant), provider, "admin", key).await else {
                panic!("{provider} took it");
            };
            assert!(problems.of("api_key").unwrap().contains("Admin key"), "{problems:?}");
        }

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
