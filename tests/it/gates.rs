//! Gates: what plans, switches, exceptions and keys close is told in the same words by the tenant's page,
//! by the API and by the gateway's refusal.

use std::sync::Arc;

use futures_util::future::join_all;
use keyward::crypto::token::TokenKind;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR};
use keyward::domain::ids::Owner;
use keyward::domain::usage::Dimension;
use keyward::services::directory::Directory;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::console::{cast, sign_in};
use crate::on_both;
use crate::support::{On, Setup, World, error_code, test_key};
use crate::visitor::{Page, Visitor};

const MATRIX: &str = "/platform/plans/matrix";
const TODAY: &str = "2000-01-01";

/// What the page of plans shows, as a browser would send it.
async fn seen(root: &mut Visitor) -> String {
    let page = root.get("/platform/plans").await.body;
    let at = page.find("name=\"seen\" value=\"").unwrap() + 19;
    page[at..].split('"').next().unwrap().to_owned()
}

/// Ticks just these cells, looks at what would change, and saves it.
async fn set_plans(root: &mut Visitor, cells: &[&str]) -> (Page, Page) {
    let seen = seen(root).await;
    let mut fields = vec![("seen", seen.as_str())];
    fields.extend(cells.iter().map(|cell| ("cell", *cell)));
    let preview = root.post(MATRIX, &fields).await;
    fields.push(("save", "yes"));
    (preview, root.post(MATRIX, &fields).await)
}

fn ticked(page: &str, cell: &str) -> bool {
    let box_at = page.find(&format!("value=\"{cell}\"")).unwrap();
    page[box_at..].split('>').next().unwrap().ends_with(" checked")
}

/// The feature as the API tells of it.
async fn told(world: &World, token: &str, feature: &str) -> Value {
    let url = format!("{}/api/v1/features", world.url);
    let answer = world.http.get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let body: Value = answer.json().await.unwrap();
    let all = body["data"].as_array().unwrap();
    all.iter().find(|one| one["slug"] == feature).unwrap().clone()
}

fn closed(feature: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let gates = feature["gates"].as_array().unwrap().iter();
    gates.filter(|gate| gate["open"] == false).map(|gate| (text(&gate["gate"]), text(&gate["why"]))).collect()
}

async fn ask(world: &World, token: &str, feature: &str) -> (u16, Value) {
    let answer = world.message(token).header("x-keyward-feature", feature).send().await.unwrap();
    if answer.status() == 200 {
        world.row_of(&answer).await;
    }
    (answer.status().as_u16(), answer.json().await.unwrap())
}

on_both! {
    async fn a_closed_gate_is_told_in_the_same_words_everywhere(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&cast.tenant).await;
        let (mut root, mut admin) = (sign_in(world, "root").await, sign_in(world, "admin").await);
        assert_eq!(ask(world, &token, "drafts").await.0, 200);

        // The plan.
        let (preview, saved) = set_plans(&mut root, &["pro/suggestions", "pro/chatbot"]).await;
        preview.says("Pro loses Feature drafts.");
        preview.says("Closes for 2 tenants, 1 of which used it in the last 30 days.");
        assert_eq!(saved.status, 303);
        let words = "The Pro plan does not include Feature drafts.";
        let (status, body) = ask(world, &token, "drafts").await;
        assert_eq!((status, error_code(&body)), (403, "keyward_gate_closed"));
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(words), "{message}");
        assert_eq!(closed(&told(world, &token, "drafts").await), [("plan".to_owned(), words.to_owned())]);
        admin.get("/t/acme/settings/ai").await.says(words);

        // And with it the switch for everybody, and the tenant's own, and the key.
        let off = [("switch", "ai_drafts_enabled"), ("on", "false")];
        assert_eq!(root.post("/platform/features/switch", &off).await.status, 303);
        assert_eq!(admin.post("/t/acme/settings/ai/switch", &off).await.status, 303);
        admin.post("/t/acme/settings/api-keys/production/disable", &[]).await;
        // Saved from a page that had said so all along, it undoes nothing that a colleague did meanwhile.
        admin.post("/t/acme/billing/mode", &[("mode", "byok"), ("was", "byok")]).await;
        admin.get("/t/acme/billing").await.says("Nothing was changed.");
        admin.post("/t/acme/billing/mode", &[("mode", "byok"), ("was", "managed")]).await;
        let all = closed(&told(world, &token, "drafts").await);
        let gates: Vec<&str> = all.iter().map(|(gate, _)| gate.as_str()).collect();
        assert_eq!(gates, ["master_switch", "plan", "key"]);
        let page = admin.get("/t/acme/settings/ai").await;
        for (_, why) in &all {
            page.says(why);
        }
        page.says("3 gates closed");
        let (_, body) = ask(world, &token, "drafts").await;
        let message = body["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(&all[0].1), "{message}");

        // Each opened alone leaves the others closed; the last one lets the request through.
        admin.post("/t/acme/settings/api-keys/production/enable", &[]).await;
        assert_eq!(closed(&told(world, &token, "drafts").await).len(), 2);
        let (preview, _) = set_plans(&mut root, &["pro/suggestions", "pro/chatbot", "pro/drafts"]).await;
        preview.says("Opens for 2 tenants.");
        let on = [("switch", "ai_drafts_enabled"), ("on", "true")];
        root.post("/platform/features/switch", &on).await;
        let words = "Feature drafts is switched off.";
        let (status, body) = ask(world, &token, "drafts").await;
        let message = body["error"]["message"].as_str().unwrap();
        assert_eq!((status, message.contains("/t/acme/settings/ai#")), (403, true), "{message}");
        assert!(message.starts_with(words));
        admin.post("/t/acme/settings/ai/switch", &on).await;
        assert_eq!(ask(world, &token, "drafts").await.0, 200);
        assert_eq!(told(world, &token, "drafts").await["key_slug"], "production");
    }
}

on_both! {
    async fn exceptions_hold_until_their_last_day_is_over(world: World) {
        let cast = cast(world).await;
        let token = world.token(&cast.tenant).await;
        let mut root = sign_in(world, "root").await;
        assert_eq!(ask(world, &token, "extra").await.0, 403, "in no plan");
        let day = world.clock.now().plus(2 * DAY).rfc3339();
        let form = |opens, day, reason| vec![("feature", "extra"), ("opens", opens), ("last_day", day), ("reason", reason)];
        let exceptions = "/platform/tenants/acme/exceptions";
        for bad in [form("true", TODAY, "trial"), form("true", "soon", "trial"), form("true", &day[..10], ""), vec![("feature", "absent"), ("last_day", &day[..10]), ("reason", "x")]] {
            let page = root.post(exceptions, &bad).await;
            assert_eq!(page.status, 422, "{bad:?}\n{}", page.body);
        }
        assert_eq!(root.post(exceptions, &form("true", &day[..10], "trial")).await.status, 303);
        root.get("/platform/tenants/acme").await.says("trial");
        assert_eq!(ask(world, &token, "extra").await.0, 200);
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get("/t/acme/settings/ai").await;
        page.says("By exception, until the end of");
        assert!(!page.body.contains("trial"), "the reason is the operator's own");
        // Its last day is over two days and a bit from now.
        world.clock.advance(3 * DAY);
        assert_eq!(ask(world, &token, "extra").await.0, 403);

        let day = world.clock.now().plus(2 * DAY).rfc3339();
        let mut root = sign_in(world, "root").await;
        let closing = [("feature", "drafts"), ("opens", "false"), ("last_day", &day[..10]), ("reason", "abuse")];
        assert_eq!(root.post(exceptions, &closing).await.status, 303);
        let (_, body) = ask(world, &token, "drafts").await;
        assert!(body["error"]["message"].as_str().unwrap().starts_with("Feature drafts is closed for this account."));
        for _ in 0..2 {
            assert_eq!(root.post(&format!("{exceptions}/end"), &[("feature", "drafts")]).await.status, 303);
        }
        assert_eq!(ask(world, &token, "drafts").await.0, 200);
    }
}

on_both! {
    async fn the_second_of_two_who_edit_plans_sees_the_conflict(world: World) {
        cast(world).await;
        let (mut first, mut second) = (sign_in(world, "root").await, sign_in(world, "root").await);
        let stale = seen(&mut second).await;
        set_plans(&mut first, &["pro/drafts"]).await;
        for save in [None, Some(("save", "yes"))] {
            let fields: Vec<_> = [("seen", stale.as_str()), ("cell", "pro/extra")].into_iter().chain(save).collect();
            assert_eq!(second.post(MATRIX, &fields).await.status, 303);
            second.get("/platform/plans").await.says("Somebody changed plans in the meantime.");
        }
        let page = second.get("/platform/plans").await.body;
        assert!(ticked(&page, "pro/drafts") && !ticked(&page, "pro/extra"));
        // At the same moment: one of them is told.
        let fresh = seen(&mut first).await;
        let fields = |cell| [("seen", fresh.as_str()), ("cell", cell), ("save", "yes")];
        let (one, other) = (fields("pro/extra"), fields("pro/chatbot"));
        tokio::join!(first.post(MATRIX, &one), second.post(MATRIX, &other));
        let page = first.get("/platform/plans").await.body;
        assert!(ticked(&page, "pro/extra") != ticked(&page, "pro/chatbot"));
    }
}

on_both! {
    async fn a_plan_with_tenants_is_removed_only_with_a_move(world: World) {
        let cast = cast(world).await;
        let token = world.token(&cast.tenant).await;
        let mut root = sign_in(world, "root").await;
        for (name, slug, status) in [("", "basic", 422), ("Basic", "No Slug", 422), ("Pro again", "pro", 422), ("Basic", "basic", 303)] {
            let page = root.post("/platform/plans/new", &[("name", name), ("slug", slug), ("like", "")]).await;
            assert_eq!(page.status.as_u16(), status, "{name} {slug}\n{}", page.body);
        }
        root.get("/platform/plans?edit=pro").await.says("Its tenants move to");
        for to in ["", "absent", "pro"] {
            assert_eq!(root.post("/platform/plans/pro/remove", &[("to", to)]).await.status, 303);
            root.get("/platform/plans").await.says("Choose the plan that its tenants move to.");
        }
        assert_eq!(ask(world, &token, "drafts").await.0, 200);
        root.post("/platform/plans/pro/remove", &[("to", "basic")]).await;
        root.get("/platform/plans").await.says("2 tenants moved.");
        let (_, body) = ask(world, &token, "drafts").await;
        assert!(body["error"]["message"].as_str().unwrap().starts_with("The Basic plan does not include Feature drafts."));
        root.post("/platform/plans/basic/remove", &[("to", "")]).await;
        root.get("/platform/plans").await.says("Choose the plan that its tenants move to.");
        // A tenant can be moved alone, by whoever saw where it was.
        root.post("/platform/plans/new", &[("name", "Other"), ("slug", "other"), ("like", "basic")]).await;
        let moved = |was, plan| [("was", was), ("plan", plan)];
        root.post("/platform/tenants/acme/plan", &moved("other", "basic")).await;
        root.get("/platform/tenants/acme").await.says("Somebody changed the plan in the meantime.");
        root.post("/platform/tenants/acme/plan", &moved("basic", "other")).await;
        root.get("/platform/tenants/acme").await.says("Other plan");
        root.post("/platform/tenants/acme/state", &[("state", "suspended")]).await;
        assert_eq!(ask(world, &token, "general").await.0, 403);
        root.post("/platform/tenants/acme/state", &[("state", "active")]).await;
        assert_eq!(ask(world, &token, "general").await.0, 200);
    }
}

on_both! {
    async fn a_feature_is_added_changed_and_given_a_model(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&cast.tenant).await;
        let (mut root, mut admin) = (sign_in(world, "root").await, sign_in(world, "admin").await);
        let features = "/platform/features";
        let long = "x".repeat(61);
        for bad in [
            [("name", ""), ("slug", "scans"), ("default_model", ""), ("switch", "")],
            [("name", &long), ("slug", "scans"), ("default_model", ""), ("switch", "")],
            [("name", "Scans"), ("slug", "General Scans"), ("default_model", ""), ("switch", "")],
            [("name", "Scans"), ("slug", "general"), ("default_model", ""), ("switch", "")],
            [("name", "Scans"), ("slug", "drafts"), ("default_model", ""), ("switch", "")],
            [("name", "Scans"), ("slug", "scans"), ("default_model", "gpt-none"), ("switch", "")],
            [("name", "Scans"), ("slug", "scans"), ("default_model", ""), ("switch", "No Switch")],
        ] {
            let page = root.post(features, &bad).await;
            assert_eq!(page.status, 422, "{bad:?}\n{}", page.body);
        }
        let script = "<script>alert(1)</script>";
        let good = [("name", script), ("slug", "scans"), ("covered", "true"), ("default_model", "claude-haiku-4-5"), ("switch", "")];
        assert_eq!(root.post(features, &good).await.status, 303);
        set_plans(&mut root, &["pro/scans", "pro/drafts"]).await;
        let page = admin.get("/t/acme/settings/ai").await;
        assert!(!page.body.contains(script) && page.body.contains("&#60;script&#62;"), "shown as text");
        page.says("ai_scans_enabled");

        // The tenant's model takes the place of the feature's, where a request names none.
        let models = "/t/acme/settings/ai/model";
        assert_eq!(admin.post(models, &[("feature", "scans"), ("model", "claude-sonnet-5")]).await.status, 303);
        for bad in ["gpt-5", "claude-none"] {
            admin.post(models, &[("feature", "scans"), ("model", bad)]).await;
            admin.get("/t/acme/settings/ai").await.says("Choose a model that your plan offers.");
        }
        assert_eq!(admin.post(models, &[("feature", "absent"), ("model", "")]).await.status, 404);
        assert_eq!(told(world, &token, "scans").await["model"], "claude-sonnet-5");
        let body = serde_json::json!({ "max_tokens": 8, "messages": [{ "role": "user", "content": "hi" }] });
        let answer = world.send(&token, &body).header("x-keyward-feature", "scans").send().await.unwrap();
        assert_eq!(world.row_of(&answer).await.model_asked, "claude-sonnet-5");
        admin.post(models, &[("feature", "scans"), ("model", "claude-haiku-4-5")]).await;
        assert_eq!(told(world, &token, "scans").await["model"], "claude-haiku-4-5");

        // A plan may offer less.
        let offer = [("name", "Pro"), ("model", "claude-haiku-4-5"), ("model", "claude-opus-5")];
        assert_eq!(root.post("/platform/plans/pro/models", &offer).await.status, 303);
        admin.post(models, &[("feature", "scans"), ("model", "claude-sonnet-5")]).await;
        admin.get("/t/acme/settings/ai").await.says("Choose a model that your plan offers.");
        admin.post(models, &[("feature", "scans"), ("model", "claude-opus-5")]).await;
        assert_eq!(told(world, &token, "scans").await["model"], "claude-opus-5");
        // A choice holds for as long as the plan offers it, and then the feature's own model.
        root.post("/platform/plans/pro/models", &[("name", "Pro"), ("model", "claude-haiku-4-5")]).await;
        assert_eq!(told(world, &token, "scans").await["model"], "claude-haiku-4-5");

        // Under another switch a feature would be on that somebody has turned off.
        let switch = |on| [("switch", "ai_scans_enabled"), ("on", on)];
        admin.post("/t/acme/settings/ai/switch", &switch("false")).await;
        let moved = [("was", "scans"), ("slug", "scans"), ("name", "Scans"), ("default_model", "claude-haiku-4-5"), ("switch", "ai_other_enabled")];
        let refused = root.post(features, &moved).await;
        assert_eq!(refused.status, 422, "{}", refused.body);
        refused.says("ai_scans_enabled is off somewhere: under another switch the feature would be on.");
        assert_eq!(closed(&told(world, &token, "scans").await).len(), 1);
        admin.post("/t/acme/settings/ai/switch", &switch("true")).await;
        assert_eq!(root.post(features, &moved).await.status, 303);
        let report = world.services.billing_report(&world.admin(&cast.tenant), &crate::support::holder(&cast.tenant).scope, &cast.tenant, Dimension::Feature).await.unwrap();
        assert_eq!(report.totals.requests, 1);
        admin.get("/t/acme/settings/ai").await.says("1 request");
    }
}

on_both! {
    async fn a_token_budget_bounds_each_request(world: World) {
        let cast = cast(world).await;
        let token = world.token(&cast.tenant).await;
        let mut root = sign_in(world, "root").await;
        let features = "/platform/features";
        let form = |input, output| {
            vec![("was", "drafts"), ("slug", "drafts"), ("name", "Drafts"), ("covered", "true"), ("default_model", "claude-haiku-4-5"), ("switch", ""), ("budget_input", input), ("budget_output", output)]
        };
        for (input, output) in [("100", ""), ("-1", "5"), ("1.5", "5"), ("0", "5"), ("NaN", "5"), ("99999999", "5")] {
            let page = root.post(features, &form(input, output)).await;
            assert_eq!(page.status, 422, "{input} {output}");
        }
        assert_eq!(root.post(features, &form("1,000", "64")).await.status, 303);
        let ask = async |text: &str, most: u32| {
            let body = serde_json::json!({ "model": "claude-haiku-4-5", "max_tokens": most, "messages": [{ "role": "user", "content": text }] });
            let answer = world.send(&token, &body).header("x-keyward-feature", "drafts").send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        };
        assert_eq!(ask("hi", 64).await.0, 200);
        let (status, body) = ask("hi", 65).await;
        assert_eq!((status, error_code(&body)), (400, "keyward_invalid_request"));
        assert!(body["error"]["message"].as_str().unwrap().starts_with("A request of Drafts has at most 1,000 tokens in and 64 out;"));
        assert_eq!(ask(&"x".repeat(4_000), 64).await.0, 400);
        assert_eq!(ask(&"x".repeat(3_000), 64).await.0, 200);
        // What it costs at the most: 1,000 tokens at $1 and 64 at $5 a million.
        let page = sign_in(world, "admin").await.get("/t/acme/billing/compare").await;
        page.says("One request, at the most");
        page.says("$0.0013");
    }
}

on_both! {
    async fn what_is_used_up_is_a_closed_gate_too(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&cast.tenant).await;
        let mut root = sign_in(world, "root").await;
        root.post("/platform/tenants/acme/funding", &[("was", "included"), ("funding", "credits")]).await;
        let words = "The credits that are left do not cover this.";
        assert_eq!(closed(&told(world, &token, "drafts").await), [("budget".to_owned(), words.to_owned())]);
        let (status, body) = ask(world, &token, "drafts").await;
        assert_eq!((status, error_code(&body)), (402, "keyward_credits_exhausted"));
        assert!(body["error"]["message"].as_str().unwrap().starts_with(words));
        let scope = crate::support::holder(&cast.tenant).scope;
        world.services.set_mode(&world.admin(&cast.tenant), &scope, &cast.tenant, UsageMode::Byok).await.unwrap();
        assert_eq!(closed(&told(world, &token, "drafts").await), []);
        assert_eq!(ask(world, &token, "drafts").await.0, 200);
    }
}

on_both! {
    async fn tenants_are_listed_a_hundred_at_a_time(world: World) {
        cast(world).await;
        for number in 0..103 {
            world.tenant(&format!("branch-{number:03}"), UsageMode::Managed).await;
        }
        let mut root = sign_in(world, "root").await;
        let first = root.get("/platform/tenants").await;
        first.says("105 tenants");
        first.says("1 to 100");
        let second = root.get("/platform/tenants?q=&page=2").await;
        second.says("101 to 105");
        let named = |page: &Page| page.body.matches("href=\"/platform/tenants/branch-").count();
        assert_eq!(named(&first) + named(&second), 103);
        root.get("/platform/tenants?q=BRANCH-01").await.says("10 tenants with");
        root.get("/platform/tenants?q=%25").await.says("Nothing found");
        assert_eq!(root.get("/platform/tenants?page=99").await.status, 200);
        assert_eq!(root.get("/platform/tenants?page=-1").await.status, 200);
        assert_eq!(root.get("/platform/tenants?page=x").await.status, 400);
    }
}

on_both! {
    async fn a_change_of_plans_reaches_what_another_process_remembers(world: World) {
        let cast = cast(world).await;
        let scope = crate::support::holder(&cast.tenant).scope;
        let other = Directory::new(world.services.db.clone());
        let included = async || {
            other.platform().await.unwrap();
            other.tenant(&scope).await.unwrap().unwrap().plan.includes("drafts")
        };
        other.refresh(world.clock.now()).await.unwrap();
        assert!(included().await);
        let mut root = sign_in(world, "root").await;
        set_plans(&mut root, &["pro/suggestions"]).await;
        assert!(included().await, "it has not looked yet");
        other.refresh(world.clock.now()).await.unwrap();
        assert!(!included().await);
    }
}

on_both! {
    async fn what_many_want_at_once_is_read_once(world: World) {
        let cast = cast(world).await;
        let token = world.token(&cast.tenant).await;
        let scope = crate::support::holder(&cast.tenant).scope;
        let directory = Directory::new(world.services.db.clone());
        let ask = async || {
            let (kind, token) = directory.token(&token).await.unwrap().unwrap();
            assert_eq!(kind, TokenKind::Tenant);
            let tenant = directory.tenant(&scope).await.unwrap().unwrap();
            (token, directory.platform().await.unwrap(), tenant)
        };
        let first = ask().await;
        for forgotten in [cast.tenant.id.into(), Owner::Platform] {
            directory.forget(forgotten);
            directory.forget_tokens();
            let answers = join_all((0..50).map(|_| ask())).await;
            for (token, platform, tenant) in &answers {
                assert!(Arc::ptr_eq(token, &answers[0].0), "a token was read twice");
                assert!(Arc::ptr_eq(platform, &answers[0].1), "the platform was read twice");
                assert!(Arc::ptr_eq(tenant, &answers[0].2), "a tenant was read twice");
            }
            assert!(!Arc::ptr_eq(&first.0, &answers[0].0));
            assert_eq!(Arc::ptr_eq(&first.1, &answers[0].1), forgotten != Owner::Platform);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_its_provider_lists_no_longer_is_said_to_be_gone() {
    for on in [On::Sqlite, On::Postgres] {
        let provider = MockServer::start().await;
        let lists = async |status: u16, model: &str| {
            provider.reset().await;
            let body = json!({ "data": [{ "id": model }], "type": "message", "usage": { "input_tokens": 1, "output_tokens": 1 } });
            let answer = ResponseTemplate::new(status).set_body_json(&body);
            Mock::given(any()).respond_with(answer).mount(&provider).await;
        };
        lists(200, "claude-haiku-4-5-20251001").await;
        let world = World::with(on, Setup { anthropic_url: Some(provider.uri()), ..Setup::default() }).await;
        let cast = cast(&world).await;
        world.add_feature(&cast.tenant, "drafting").await;
        let mut admin = sign_in(&world, "admin").await;
        let gone = "Anthropic does not list Claude Haiku 4.5 any more: choose another.";
        for (status, listed, is_gone) in [
            (200, "claude-haiku-4-5-20251001", false),
            (200, "claude-opus-4-5", true),
            // What cannot be read changes nothing.
            (500, "claude-haiku-4-5", true),
            (200, "claude-haiku-4-5", false),
        ] {
            lists(status, listed).await;
            for _ in 0..3 {
                world.services.list_models_due().await.unwrap();
            }
            let asked = provider.received_requests().await.unwrap();
            assert_eq!(asked.len(), 1, "once a day, and not at once after a failure");
            assert!(
                asked[0].headers.contains_key("x-api-key")
                    && asked[0].headers.contains_key("anthropic-version")
            );
            let page = admin.get("/t/acme/settings/ai").await;
            assert_eq!(page.body.contains(gone), is_gone, "{status} {listed}");
            world.clock.advance(25 * HOUR);
            admin = sign_in(&world, "admin").await;
        }
        world.end().await;
    }
}
