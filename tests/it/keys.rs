//! Provider keys from paste to removal, as use cases.

use keyward::domain::account::TenantRole;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR, MINUTE, Moment};
use keyward::domain::ids::Owner;
use keyward::domain::notice::NoticeKind;
use keyward::domain::provider_key::{KeyState, Provider, Verdict};
use keyward::services::ServiceError;
use keyward::services::key_states::Observation;
use keyward::services::provider_keys::NewKey;
use keyward::storage::{Tx, plans};
use serde_json::json;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::console::{Cast, cast, sign_in};
use crate::on_both;
use crate::support::{On, Setup, World, holder, new_key, sha256, test_key};

/// The versions of the keys of a name as the database has them, removed or not, and whether each is still
/// sealed in it.
pub async fn sealed(world: &World, name: &str) -> Vec<(i32, bool)> {
    type Row = (i32, Option<Vec<u8>>);
    let sql = "SELECT v.version, v.sealed FROM key_version v JOIN provider_key k ON k.id = v.key_id
               WHERE k.name = $1 ORDER BY v.version";
    let mut tx = world.services.db.read().await.unwrap();
    let rows = match &mut tx {
        Tx::Sqlite(tx) => sqlx::query_as::<_, Row>(sql).bind(name).fetch_all(&mut **tx).await,
        Tx::Postgres(tx) => sqlx::query_as::<_, Row>(sql).bind(name).fetch_all(&mut **tx).await,
    };
    tx.rollback().await.unwrap();
    rows.unwrap().into_iter().map(|(version, sealed)| (version, sealed.is_some())).collect()
}

fn problem(result: Result<impl std::fmt::Debug, ServiceError>, field: &str) -> String {
    match result {
        Err(ServiceError::Invalid(problems)) => {
            assert_eq!(problems.summary.as_deref(), Some("Failed to save Anthropic key."));
            problems.of(field).unwrap_or_else(|| panic!("no problem at {field}: {problems:?}")).to_owned()
        }
        other => panic!("expected a problem at {field}, got {other:?}"),
    }
}

on_both! {
    async fn only_what_the_provider_takes_is_stored(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        for (secret, told) in [
            ("", "Paste your Anthropic API key."),
            ("sk-ant-admin01-xxxxxxxxxxxxxxxx", "This is an Admin key."),
            ("sk-ant-oat01-xxxxxxxxxxxxxxxxx", "This is an OAuth token."),
            ("sk-proj-xxxxxxxxxxxxxxxxxxxxxx", "OpenAI"),
            ("hello", "This is not an Anthropic API key"),
            (&*"sk-ant-api03-".repeat(50), "too long"),
            (&*test_key("revoked"), "Anthropic rejected this key."),
            (&*test_key("forbidden"), "Anthropic rejected this key."),
        ] {
            let message = problem(world.add_key(&tenant, "production", secret).await, "api_key");
            assert!(message.contains(told), "{message}");
        }
        for (name, secret) in [("", test_key("ok")), ("Has Spaces", test_key("ok")), ("ok_no", test_key("ok"))] {
            problem(world.add_key(&tenant, name, &secret).await, "key_name");
        }
        let lines = world.services.key_lines(holder(&tenant)).await.unwrap();
        assert!(lines.is_empty(), "nothing is stored");
    }
}

on_both! {
    async fn a_key_at_its_limit_is_stored_and_said_to_be(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        for (word, state) in [
            ("ok", KeyState::Valid),
            ("nocredit", KeyState::OutOfCredit),
            ("spendlimit", KeyState::SpendLimit),
            ("enforced", KeyState::SpendLimit),
            ("ratelimited", KeyState::RateLimited),
            ("overloaded", KeyState::Valid),
            ("truncated", KeyState::Valid),
        ] {
            let saved = world.add_key(&tenant, word, &test_key(word)).await.unwrap();
            assert_eq!(saved.state, state, "{word}");
        }
        let lines = world.services.key_lines(holder(&tenant)).await.unwrap();
        assert_eq!(lines.iter().filter(|line| line.key.is_default).count(), 1);
        assert_eq!(lines[0].key.name.as_str(), "ok", "the first key is the default, and comes first");
        let spent = lines.iter().find(|line| line.key.name.as_str() == "spendlimit").unwrap();
        assert!(spent.key.current.status.until.unwrap() > world.clock.now());
    }
}

on_both! {
    async fn keys_show_a_hint_and_names_are_unique_while_they_last(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let other = world.tenant("other", UsageMode::Byok).await;
        let key = test_key("ok");
        world.add_key(&tenant, "production", &key).await.unwrap();
        let line = &world.services.key_lines(holder(&tenant)).await.unwrap()[0];
        assert_eq!(line.key.current.hint, "sk-ant-api03-…Zz9y");
        assert_eq!(line.key.current.fingerprint.len(), 64);
        problem(world.add_key(&tenant, "production", &test_key("ok")).await, "key_name");
        assert!(problem(world.add_key(&tenant, "again", &key).await, "api_key").contains("in use already, as production"));
        // Another tenant may use the same name, and even the same key, under another fingerprint.
        world.add_key(&other, "production", &key).await.unwrap();
        let theirs = &world.services.key_lines(holder(&other)).await.unwrap()[0];
        assert_ne!(theirs.key.current.fingerprint, line.key.current.fingerprint);
        world.services.remove_key(&world.admin(&tenant), holder(&tenant), "production", "production").await.unwrap();
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    }
}

on_both! {
    async fn rotation_can_be_undone_for_a_day(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (admin, holder) = (world.admin(&tenant), holder(&tenant));
        let (first, second) = (test_key("ok"), test_key("ok"));
        world.add_key(&tenant, "production", &first).await.unwrap();
        let token = world.token(&tenant).await;
        let rotate = async |secret: &str| world.rotate(&admin, holder, "production", secret).await;
        assert!(problem(rotate(&first).await, "api_key").contains("in use already"));
        assert!(problem(rotate(&test_key("revoked")).await, "api_key").contains("rejected"));
        let rotated = rotate(&second).await.unwrap();
        assert_eq!(rotated.version, 2);
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.headers()["x-keyward-key"], "production@2");

        let detail = world.services.key_detail(holder, "production").await.unwrap();
        assert_eq!(detail.undo.unwrap().version, 1);
        let undone = world.services.undo_rotation(&admin, holder, "production").await.unwrap();
        assert_eq!(undone.version, 1, "it comes back under its own number");
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.headers()["x-keyward-key"], "production@1");
        assert_eq!(world.arrived().await[0]["credential_sha256"], sha256(&first));

        // The next rotation takes a number that was never used.
        let third = rotate(&test_key("ok")).await.unwrap();
        assert_eq!(third.version, 3);
        // Undo brings back what was replaced last; a day later there is nothing to bring back.
        world.clock.advance(DAY);
        let admin = world.admin(&tenant);
        let late = world.services.undo_rotation(&admin, holder, "production").await;
        assert!(matches!(late, Err(ServiceError::NotFound)), "{late:?}");
        world.services.tidy().await.unwrap();
        let detail = world.services.key_detail(holder, "production").await.unwrap();
        assert!(detail.undo.is_none());
        assert_eq!(detail.versions.len(), 3, "what is known of old versions stays");
    }
}

on_both! {
    async fn a_replaced_version_is_destroyed_after_a_day_and_the_current_one_is_not(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (admin, holder) = (world.admin(&tenant), holder(&tenant));
        for name in ["production", "batch"] {
            world.add_key(&tenant, name, &test_key("ok")).await.unwrap();
            world.rotate(&admin, holder, name, &test_key("ok")).await.unwrap();
        }
        // Which one is current is no matter of its number.
        world.services.undo_rotation(&admin, holder, "batch").await.unwrap();
        world.clock.advance(DAY - HOUR);
        world.services.tidy().await.unwrap();
        for name in ["production", "batch"] {
            assert_eq!(sealed(world, name).await, [(1, true), (2, true)], "{name}: before its time");
        }
        world.clock.advance(HOUR);
        world.services.tidy().await.unwrap();
        assert_eq!(sealed(world, "production").await, [(1, false), (2, true)]);
        assert_eq!(sealed(world, "batch").await, [(1, true), (2, false)]);
        let token = world.token(&tenant).await;
        for (name, used) in [("production", "production@2"), ("batch", "batch@1")] {
            let answer = world.message(&token).header("x-keyward-key", name).send().await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.headers()["x-keyward-key"].to_str().unwrap()), (200, used));
        }
    }
}

on_both! {
    async fn an_undo_checks_the_old_key_first(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (admin, holder) = (world.admin(&tenant), holder(&tenant));
        let first = test_key("ok");
        world.add_key(&tenant, "production", &first).await.unwrap();
        world.rotate(&admin, holder, "production", &test_key("ok")).await.unwrap();
        world.impose(&first, "revoked").await;
        assert!(problem(world.services.undo_rotation(&admin, holder, "production").await, "api_key").contains("rejected"));
        let detail = world.services.key_detail(holder, "production").await.unwrap();
        assert_eq!(detail.line.key.current.version, 2);
        world.services.forget_replaced(&admin, holder, "production").await.unwrap();
        let gone = world.services.undo_rotation(&admin, holder, "production").await;
        assert!(matches!(gone, Err(ServiceError::NotFound)));
        let again = world.services.forget_replaced(&admin, holder, "production").await;
        assert!(matches!(again, Err(ServiceError::NotFound)));
    }
}

on_both! {
    async fn a_request_in_flight_ends_on_the_version_it_began_with(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (admin, holder) = (world.admin(&tenant), holder(&tenant));
        world.add_key(&tenant, "production", &test_key("slow")).await.unwrap();
        let token = world.token(&tenant).await;
        world.forget_arrived().await;
        let running = tokio::spawn(world.message(&token).send());
        // The sandbox holds this one back for two seconds; wait until it is there.
        while world.arrived().await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        world.rotate(&admin, holder, "production", &test_key("ok")).await.unwrap();
        let next = world.message(&token).send().await.unwrap();
        assert_eq!(next.headers()["x-keyward-key"], "production@2");
        let earlier = running.await.unwrap().unwrap();
        assert_eq!(earlier.status(), 200);
        assert_eq!(earlier.headers()["x-keyward-key"], "production@1");
        assert_eq!(world.row_of(&earlier).await.key_version, 1);
    }
}

on_both! {
    async fn a_late_word_about_an_old_version_changes_nothing(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (admin, holder) = (world.admin(&tenant), holder(&tenant));
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let before = world.services.key_detail(holder, "production").await.unwrap().line.key;
        world.rotate(&admin, holder, "production", &test_key("ok")).await.unwrap();
        for _ in 0..3 {
            let late = Observation { key: before.id, version: 1, verdict: Verdict::Rejected, started: world.clock.now() };
            world.services.apply(late).await.unwrap();
        }
        let after = world.services.key_detail(holder, "production").await.unwrap().line.key;
        assert_eq!((after.current.version, after.state_at(world.clock.now())), (2, KeyState::Valid));
    }
}

on_both! {
    /// Cause, since when, until when, and where to end it: on every page that has the banner.
    async fn a_pause_is_told_of_with_all_that_is_known_of_it(world: World) {
        let Cast { tenant, .. } = cast(world).await;
        world.services.set_mode(&world.admin(&tenant), &holder(&tenant).scope, &tenant, UsageMode::Byok).await.unwrap();
        world.add_key(&tenant, "production", &test_key("spendlimit")).await.unwrap();
        world.add_key(&tenant, "batch", &test_key("nocredit")).await.unwrap();
        let found = async |name: &str| {
            let line = world.services.key_detail(holder(&tenant), name).await.unwrap().line;
            line.key.current.status
        };
        let (production, batch) = (found("production").await, found("batch").await);
        let until = production.until.expect("the provider tells when it ends");
        let stamp = |at: Moment| format!("datetime=\"{}\"", at.rfc3339());
        let mut admin = sign_in(world, "admin").await;
        for path in ["/t/acme/settings/api-keys", "/t/acme/billing", "/t/acme/activity/community-manager"] {
            let page = admin.get(path).await;
            page.says("AI is paused: your Anthropic spend limit is reached.").says("https://platform.claude.com/settings/limits");
            page.says(&stamp(production.since)).says(&stamp(until)).says("resumes by itself");
            // One that only some requests name pauses only those.
            page.says("The key batch is paused: its Anthropic account is out of credit.");
            page.says("https://platform.claude.com/settings/billing").says(&stamp(batch.since));
            page.says("Requests that name it are refused.");
        }
        // A page with more of them than it has room for says how many; the list has them all.
        for name in ["c1", "c2", "c3"] {
            world.add_key(&tenant, name, &test_key("nocredit")).await.unwrap();
        }
        admin.get("/t/acme/billing").await.says("The key c2 is paused").says("1 more key cannot be used.");
        for name in ["c1", "c2", "c3"] {
            admin.get(&format!("/t/acme/settings/api-keys/{name}/remove")).await;
            let removed = admin.post(&format!("/t/acme/settings/api-keys/{name}/remove"), &[("confirm_name", name)]).await;
            assert_eq!(removed.status, 303, "{}", removed.body);
        }
        // By hand, before the provider says so; the next request finds out.
        assert_eq!(admin.post("/t/acme/settings/api-keys/batch/resume", &[]).await.status, 303);
        let page = admin.get("/t/acme/billing").await;
        assert!(!page.body.contains("The key batch is paused"));
    }
}

on_both! {
    async fn paused_keys_are_probed_and_resume_by_themselves(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let holder = holder(&tenant);
        let key = test_key("nocredit");
        world.add_key(&tenant, "production", &key).await.unwrap();
        let state = async || {
            let detail = world.services.key_detail(holder, "production").await.unwrap();
            detail.line.key.state_at(world.clock.now())
        };
        world.forget_arrived().await;
        world.services.probe_due().await.unwrap();
        assert!(world.arrived().await.is_empty(), "not before its time");
        world.clock.advance(5 * MINUTE);
        world.services.probe_due().await.unwrap();
        assert_eq!(state().await, KeyState::OutOfCredit);
        assert!(!world.arrived().await.is_empty());

        let body = serde_json::json!({ "sha256": sha256(&key) });
        world.http.post(format!("{}/sandbox/lift", world.sandbox_url)).json(&body).send().await.unwrap();
        world.clock.advance(5 * MINUTE);
        world.services.probe_due().await.unwrap();
        assert_eq!(state().await, KeyState::Valid);
        let token = world.token(&tenant).await;
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_let_do_nothing_is_told_from_one_that_was_not_reached() {
    let provider = MockServer::start().await;
    let served = ResponseTemplate::new(200).set_body_json(json!({ "data": [], "choices": [] }));
    Mock::given(any()).respond_with(served).mount(&provider).await;
    let world = World::with(On::Sqlite, Setup { openai_url: Some(provider.uri()), ..Setup::default() }).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    let (admin, holder) = (world.admin(&tenant), holder(&tenant));
    let secret = world.key_of(Provider::Openai, "ok").await;
    world.add_key_of(holder, Provider::Openai, "restricted", &secret).await.unwrap();
    let checked_at = async |world: &World| {
        world.services.key_detail(holder, "restricted").await.unwrap().line.key.current.checked_at
    };
    let saved_at = checked_at(&world).await;
    world.clock.advance(MINUTE);
    provider.reset().await;
    let error = json!({ "error": { "type": "request_forbidden", "code": "unsupported_country_region_territory", "message": "No." } });
    let refusal = ResponseTemplate::new(403).set_body_json(error);
    Mock::given(any()).respond_with(refusal).mount(&provider).await;
    let (_, state, found) = world.services.check_key(&admin, holder, "restricted").await.unwrap();
    assert_eq!((state, found.told()), (KeyState::Valid, "not_permitted"), "{found:?}");
    assert!(checked_at(&world).await >= saved_at.map(|at| at.plus(MINUTE)), "it was a check all the same");
    let other = world.key_of(Provider::Openai, "ok").await;
    let Err(ServiceError::Invalid(problems)) =
        world.add_key_of(holder, Provider::Openai, "other", &other).await
    else {
        panic!("a key that may do nothing was saved");
    };
    assert!(problems.of("api_key").unwrap().contains("unsupported_country_region_territory"), "{problems:?}");
    world.end().await;
}

on_both! {
    async fn a_check_asks_the_model_that_the_tenant_has_chosen(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (admin, holder) = (world.admin(&tenant), holder(&tenant));
        let asked = async || {
            let arrived = world.arrived().await;
            world.forget_arrived().await;
            let models: Vec<String> = arrived.iter().filter_map(|call| call["model"].as_str()).map(str::to_owned).collect();
            models
        };
        world.forget_arrived().await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        assert_eq!(asked().await, ["claude-haiku-4-5"]);
        let mut tx = world.services.db.write().await.unwrap();
        // The first is none of this provider's, the second none that the plan offers.
        let chosen = [("chatbot", "gpt-5.4"), ("drafts", "claude-opus-4-1"), ("suggestions", "claude-opus-5-5")];
        for (feature, model) in chosen {
            plans::choose_model(&mut tx, &holder.scope, feature, Some(model)).await.unwrap();
        }
        tx.commit().await.unwrap();
        world.services.directory.forget(Owner::Tenant(tenant.id));
        world.services.check_key(&admin, holder, "production").await.unwrap();
        assert_eq!(asked().await, ["claude-opus-5-5"]);
        world.rotate(&admin, holder, "production", &test_key("ok")).await.unwrap();
        assert_eq!(asked().await, ["claude-opus-5-5"]);
    }
}

on_both! {
    async fn an_admin_can_resume_check_and_choose_the_default(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (admin, holder) = (world.admin(&tenant), holder(&tenant));
        let key = test_key("spendlimit");
        world.add_key(&tenant, "first", &key).await.unwrap();
        world.add_key(&tenant, "second", &test_key("ok")).await.unwrap();
        assert_eq!(world.services.check_key(&admin, holder, "first").await.unwrap().1, KeyState::SpendLimit);
        world.services.resume_key(&admin, holder, "first").await.unwrap();
        let detail = world.services.key_detail(holder, "first").await.unwrap();
        assert_eq!(detail.line.key.state_at(world.clock.now()), KeyState::Valid);
        let twice = world.services.resume_key(&admin, holder, "first").await;
        assert!(matches!(twice, Err(ServiceError::NotFound)));
        world.impose(&key, "revoked").await;
        assert_eq!(world.services.check_key(&admin, holder, "first").await.unwrap().1, KeyState::Rejected);
        // Found by hand or by traffic, everybody else hears of it alike.
        let told = world.services.notifications(&admin, &holder.scope, &tenant).await.unwrap();
        let told: Vec<NoticeKind> = told.iter().map(|one| one.kind).collect();
        assert_eq!(told, [NoticeKind::KeyRejected, NoticeKind::KeyResumed]);

        world.services.set_default_key(&admin, holder, "second").await.unwrap();
        let lines = world.services.key_lines(holder).await.unwrap();
        let defaults: Vec<&str> = lines.iter().filter(|line| line.key.is_default).map(|line| line.key.name.as_str()).collect();
        assert_eq!(defaults, ["second"]);
        world.services.label_key(&admin, holder, "second", "  Batch jobs ").await.unwrap();
        let detail = world.services.key_detail(holder, "second").await.unwrap();
        assert_eq!(detail.line.key.label.as_deref(), Some("Batch jobs"));
        let long = world.services.label_key(&admin, holder, "second", &"x".repeat(81)).await;
        assert!(matches!(long, Err(ServiceError::Invalid(_))));
    }
}

on_both! {
    async fn removal_needs_the_name_and_deletes_the_sealed_rows(world: World) {
        world.add_shared_key(&test_key("ok")).await;
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (admin, holder) = (world.admin(&tenant), holder(&tenant));
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        world.rotate(&admin, holder, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        let wrong = world.services.remove_key(&admin, holder, "production", "prod").await;
        assert!(matches!(wrong, Err(ServiceError::Invalid(_))));
        assert_eq!(sealed(world, "production").await, [(1, true), (2, true)]);
        world.services.remove_key(&admin, holder, "production", "production").await.unwrap();
        assert_eq!(sealed(world, "production").await, [(1, false), (2, false)], "the replaced one too");
        assert!(world.services.key_lines(holder).await.unwrap().is_empty());
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.headers()["x-keyward-usage-mode"], "managed");
        let answer = world.message(&token).header("x-keyward-key", "production").send().await.unwrap();
        assert_eq!(answer.status(), 404, "a named key never falls back");
    }
}

on_both! {
    async fn keys_change_only_by_those_who_may(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let other = world.tenant("other", UsageMode::Byok).await;
        let holder = holder(&tenant);
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let member = world.actor(None, Some((tenant.id, TenantRole::Member)));
        let stranger = world.admin(&other);
        let root = world.super_admin();
        for person in [&member, &stranger, &root] {
            let tries = [
                world.services.add_key(person, holder, new_key("x", &test_key("ok"))).await.map(|_| ()),
                world.rotate(person, holder, "production", &test_key("ok")).await.map(|_| ()),
                world.services.undo_rotation(person, holder, "production").await.map(|_| ()),
                world.services.forget_replaced(person, holder, "production").await,
                world.services.remove_key(person, holder, "production", "production").await,
                world.services.check_key(person, holder, "production").await.map(|_| ()),
                world.services.resume_key(person, holder, "production").await,
                world.services.set_default_key(person, holder, "production").await,
                world.services.label_key(person, holder, "production", "x").await,
            ];
            for done in tries {
                assert!(matches!(done, Err(ServiceError::Denied)), "{done:?}");
            }
        }
        let admin = world.admin(&tenant);
        for person in [&member, &stranger] {
            let disabled = world.services.set_key_disabled(person, holder, "production", true).await;
            assert!(matches!(disabled, Err(ServiceError::Denied)));
        }
        world.services.set_key_disabled(&admin, holder, "production", true).await.unwrap();
        world.services.set_key_disabled(&admin, holder, "production", false).await.unwrap();
        world.services.set_key_disabled(&root, holder, "production", true).await.unwrap();
        let answer = world.message(&world.token(&tenant).await).send().await.unwrap();
        assert_eq!(answer.status(), 403);
        let undone = world.services.set_key_disabled(&admin, holder, "production", false).await;
        assert!(matches!(undone, Err(ServiceError::Denied)), "what the operator stopped, the tenant cannot start");
        world.services.set_key_disabled(&root, holder, "production", false).await.unwrap();

        // An hour after the password was entered, it is asked for again.
        world.clock.advance(HOUR);
        let stale = world.services.label_key(&admin, holder, "production", "x").await;
        assert!(matches!(stale, Err(ServiceError::Confirm)), "{stale:?}");
    }
}

on_both! {
    async fn a_custom_url_is_held_to_the_policy(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        for url in ["http://llm.example.com", "https://127.0.0.1", "https://user@llm.example.com", "https://db.internal", "https://llm.example.com:8443"] {
            let person = world.admin(&tenant);
            let new = NewKey { custom_url: url.to_owned(), ..new_key("custom", &test_key("ok")) };
            problem(world.services.add_key(&person, holder(&tenant), new).await, "custom_url");
        }
    }
}
