//! What people do, from sign-in to the bill.

use keyward::config::{PaymentKind, PaymentSettings};
use keyward::crypto::secret::Secret;
use keyward::domain::account::{PlatformRole, Tenant, TenantRole};
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::MINUTE;
use keyward::domain::ids::{OrderId, WebhookId};
use keyward::domain::provider_key::Provider;
use keyward::services::budgets::TypedBudget;
use keyward::services::credits::TypedEntry;
use thirtyfour::By;

use crate::browser::{Browser, DESKTOP, Look};
use crate::support::{On, PAYMENT_SECRET, Setup, World, test_key};

pub const PASSWORD: &str = "violet ladder 9 reed";

pub async fn world() -> (World, Tenant) {
    let payments = PaymentSettings {
        kind: PaymentKind::Stripe,
        stripe_secret_key: Some("sk_test_sandbox_browser".to_owned()),
        stripe_webhook_secret: Some(PAYMENT_SECRET.to_owned()),
        ..PaymentSettings::default()
    };
    let world = World::with(On::Sqlite, Setup { payments, ..Setup::default() }).await;
    world.add_shared_key(&test_key("ok")).await;
    let tenant = world.tenant("northwind", UsageMode::Managed).await;
    world.user("admin@northwind.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
    world.user("member@northwind.example", PASSWORD, None, Some((tenant.id, TenantRole::Member))).await;
    world.user("root@acme.example", PASSWORD, Some(PlatformRole::SuperAdmin), None).await;
    (world, tenant)
}

pub async fn open(world: &World, look: Look) -> Browser {
    Browser::open(&world.services.options.public_url, look).await
}

/// What the page says under "Last used": the time, or the words in place of one.
const LAST_USED: &str = "const fact = [...document.querySelectorAll('.facts div')]
        .find(fact => fact.querySelector('dt').textContent === 'Last used');
    return fact.querySelector('time')?.dateTime ?? fact.querySelector('dd').textContent";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_admin_takes_a_key_from_paste_to_removal() {
    let (world, tenant) = world().await;
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("admin@northwind.example", PASSWORD).await;
    browser.sees("Using Acme's shared Anthropic infrastructure.").await;
    browser.check_page("API keys, managed").await;

    browser.go("/t/northwind/settings/api-keys/new").await;
    browser.check_page("Add key").await;
    browser.fill("api_key", &test_key("revoked")).await;
    browser.press("Verify and save").await;
    browser.sees("Failed to save Anthropic key.").await;
    browser.sees("Anthropic rejected this key.").await;
    browser.check_page("Add key, refused").await;
    let kept = browser.run("return document.getElementById('api_key').value").await;
    assert_eq!(kept, "", "a refused key is not put back");
    let focus = browser.run("return document.activeElement.className").await;
    assert_eq!(focus, "error-summary", "the summary has the focus");

    let first = test_key("ok");
    browser.fill("api_key", &first).await;
    browser.press("Verify and save").await;
    browser.sees("Using your own Anthropic key.").await;
    browser.sees("Not yet").await;
    assert_eq!(browser.run(LAST_USED).await, "Not yet");
    browser.check_page("API keys, own key").await;

    let token = world.token(&tenant).await;
    let answer = world.message(&token).send().await.unwrap();
    assert_eq!(answer.headers()["x-keyward-key"], "production@1");
    let row = world.row_of(&answer).await;
    browser.go("/t/northwind/settings/api-keys").await;
    assert_eq!(browser.run(LAST_USED).await, row.started_at.rfc3339());
    browser.go("/t/northwind/billing").await;
    browser.sees("Switched to own key").await;
    let bars = browser.run("return document.querySelectorAll('.chart .bar.byok').length").await;
    assert_eq!(bars, 1, "today's call is on the chart");
    browser.check_page("Billing").await;
    // The chart is read by keyboard.
    browser.run("document.querySelector('svg.chart').focus()").await;
    browser.driver.active_element().await.unwrap().send_keys(thirtyfour::Key::End).await.unwrap();
    let read = browser.run("return document.querySelector('.chart-read').textContent").await;
    assert!(read.as_str().unwrap().contains(&row.cost.precise()), "{read}: the cost to the nanodollar");
    // And by pointer, for as long as it is there.
    browser.run("document.activeElement.blur()").await;
    let read = async || browser.run("return document.querySelector('.chart-read').textContent").await;
    let hint = read().await;
    assert!(hint.as_str().unwrap().starts_with("Point at a day"), "{hint}");
    browser.point_at("svg.chart .day:last-of-type .hit").await;
    assert!(read().await.as_str().unwrap().contains(&row.cost.precise()));
    browser.point_at("h1").await;
    assert_eq!(read().await, hint);
    browser.press("Show as table").await;
    browser.check_page("Billing, table").await;

    browser.go("/t/northwind/settings/api-keys/production").await;
    browser.check_page("Key").await;
    browser.press("Rotate").await;
    browser.sees("Rotate production").await;
    browser.fill("api_key", &test_key("ok")).await;
    browser.press("Verify and rotate").await;
    browser.sees("Version 2 replaced version 1").await;
    assert_eq!(world.message(&token).send().await.unwrap().headers()["x-keyward-key"], "production@2");
    browser.press("Undo rotation").await;
    browser.sees("Version 1 replaced version 2").await;
    assert_eq!(world.message(&token).send().await.unwrap().headers()["x-keyward-key"], "production@1");

    browser.press("Remove").await;
    browser.sees("go back to managed use").await;
    browser.check_page("Remove").await;
    browser.fill("confirm_name", "production").await;
    browser.press("Remove key").await;
    browser.sees("Key production removed.").await;
    browser.sees("Using Acme's shared Anthropic infrastructure.").await;
    // The back button leads to a page that says so too.
    browser.driver.back().await.unwrap();
    browser.driver.refresh().await.unwrap();
    assert!(!browser.text().await.contains("sk-ant-api03-"));
    browser.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_sees_states_and_no_buttons() {
    let (world, tenant) = world().await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("member@northwind.example", PASSWORD).await;
    browser.sees("Valid").await;
    for button in ["Add key", "Check now", "Rotate", "Remove", "Details"] {
        assert!(!browser.has(button).await, "a member has {button}");
    }
    browser.check_page("API keys as a member").await;
    // A form of one's own making, with a token that is right, is refused all the same.
    let script = "const done = arguments[arguments.length - 1];
        const csrf = document.querySelector('input[name=csrf]').value;
        fetch('/t/northwind/settings/api-keys/production/remove', { method: 'POST',
            headers: { 'content-type': 'application/x-www-form-urlencoded' },
            body: new URLSearchParams({ csrf, confirm_name: 'production' }) }).then(answer => done(answer.status));";
    let status = browser.driver.execute_async(script, Vec::new()).await.unwrap().json().clone();
    assert_eq!(status, 403);
    browser.go("/t/northwind/settings/api-keys/new").await;
    browser.sees("not").await;
    let lines = world.services.key_lines(crate::support::holder(&tenant)).await.unwrap();
    assert_eq!(lines.len(), 1);
    browser.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_scripts_everything_still_works() {
    let (world, tenant) = world().await;
    let answer = world.message(&world.token(&tenant).await).send().await.unwrap();
    world.row_of(&answer).await;
    let browser = open(&world, Look { scripts: false, ..DESKTOP }).await;
    browser.sign_in("admin@northwind.example", PASSWORD).await;
    browser.go("/t/northwind/settings/api-keys/new").await;
    let reveal = browser.driver.find(By::Css("[data-reveal]")).await.unwrap();
    assert!(!reveal.is_displayed().await.unwrap(), "scripts are off, and what needs them is hidden");
    browser.fill("api_key", &test_key("ok")).await;
    browser.press("Verify and save").await;
    browser.sees("Using your own Anthropic key.").await;
    browser.press("Check now").await;
    browser.sees("Valid").await;
    browser.go("/t/northwind/billing").await;
    browser.press("Show as table").await;
    browser.sees("Requests").await;
    browser.press("Sign out").await;
    browser.sees("E-mail address").await;
    browser.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensitive_button_asks_for_the_password_after_a_while() {
    let (world, tenant) = world().await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("admin@northwind.example", PASSWORD).await;
    world.clock.advance(11 * MINUTE);
    browser.go("/t/northwind/settings/api-keys/production").await;
    browser.press("Check now").await;
    browser.sees("Confirm it's you").await;
    browser.check_page("Confirm").await;
    browser.fill("current_password", PASSWORD).await;
    browser.press("Check now").await;
    browser.sees("Last check").await;
    browser.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_fit_a_phone_and_read_well_in_the_dark() {
    let (world, tenant) = world().await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    world.add_key(&tenant, "batch", &test_key("spendlimit")).await.unwrap();
    let answer = world.message(&world.token(&tenant).await).send().await.unwrap();
    let row = world.row_of(&answer).await;
    let request = format!("/t/northwind/billing/requests/{}", row.id);
    let month = row.started_at.date(&jiff::tz::TimeZone::UTC).strftime("%Y-%m");
    let statement = format!("/t/northwind/billing/statements/{month}");
    let operator = world.super_admin();
    let grant = TypedEntry { amount: "12".into(), note: "Welcome".into(), form_id: String::new() };
    world.services.enter_credits(&operator, &tenant, &grant).await.unwrap();
    let (admin, scope) = (world.admin(&tenant), crate::support::holder(&tenant).scope);
    let order = OrderId::new();
    world.services.order_credits(&admin, &scope, &tenant, order, "1250.50").await.unwrap();
    let order = format!("/t/northwind/billing/credits/orders/{order}");
    let report_key = Secret::new("sk-ant-admin01-test-ok-0001-AAAA".to_owned());
    let holder = crate::support::holder(&tenant);
    world.services.add_report_key(&admin, holder, "anthropic", &report_key).await.unwrap();
    let hook = format!("{}/hooks/a-rather-long-path-for-a-webhook", world.sandbox_url);
    let hook_id = WebhookId::new();
    world.services.add_webhook(&admin, &scope, &tenant, hook_id, &hook).await.unwrap();
    world.services.test_webhook(&admin, &scope, &tenant, hook_id).await.unwrap();
    let budget = TypedBudget {
        amount: "250".into(),
        on_reach: "pause".into(),
        warn_at: "80".into(),
        ..TypedBudget::default()
    };
    world.services.set_budget(&world.admin(&tenant), &scope, &tenant, &budget).await.unwrap();
    for look in [
        Look { width: 360, ..DESKTOP },
        Look { dark: true, ..DESKTOP },
        Look { width: 360, dark: true, ..DESKTOP },
    ] {
        let browser = open(&world, look).await;
        browser.go("/sign-in").await;
        browser.check_page("Sign in").await;
        browser.sign_in("admin@northwind.example", PASSWORD).await;
        for path in [
            "/account",
            "/t/northwind/settings/api-keys",
            "/t/northwind/settings/api-keys/new",
            "/t/northwind/settings/api-keys/batch",
            "/t/northwind/settings/api-keys/production/remove",
            "/t/northwind/settings/tokens",
            "/t/northwind/settings/security",
            "/t/northwind/settings/notifications",
            &order,
            "/t/northwind/billing?by=model&show=tokens",
            "/t/northwind/billing/usage?by=model&then=endpoint&mode=byok",
            "/t/northwind/billing/requests",
            &request,
            "/t/northwind/billing/budgets",
            "/t/northwind/billing/credits",
            "/t/northwind/billing/breaker",
            "/t/northwind/billing/rates",
            "/t/northwind/billing/reconciliation",
            "/t/northwind/billing/compare",
            "/t/northwind/activity/notifications",
            "/t/northwind/billing/statements",
            &statement,
            "/nothing",
        ] {
            browser.go(path).await;
            browser
                .check_page(&format!("{path} at {} {}", look.width, if look.dark { "dark" } else { "light" }))
                .await;
        }
        browser.close().await;
        let root = open(&world, look).await;
        root.sign_in("root@acme.example", PASSWORD).await;
        for path in [
            "/platform/tenants",
            "/platform/tenants/new",
            "/platform/tenants/northwind",
            "/platform/plans?edit=pro",
            "/platform/prices",
            "/platform/users",
            "/platform/tokens",
            "/platform/shared-keys",
            "/platform/reconciliation",
            "/platform/status",
        ] {
            root.go(path).await;
            root.check_page(&format!("{path} at {}", look.width)).await;
        }
        root.close().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spend_limit_pauses_and_its_end_resumes() {
    let (world, tenant) = world().await;
    let key = test_key("ok");
    world.add_key(&tenant, "production", &key).await.unwrap();
    let (admin, scope) = (world.admin(&tenant), crate::support::holder(&tenant).scope);
    world.services.set_mode(&admin, &scope, &tenant, UsageMode::Byok).await.unwrap();
    let token = world.token(&tenant).await;
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("admin@northwind.example", PASSWORD).await;
    for empty in ["billing/budgets", "billing/requests", "billing/usage", "activity/notifications"] {
        browser.go(&format!("/t/northwind/{empty}")).await;
        browser.check_page(&format!("{empty}, empty")).await;
    }
    browser.go("/t/northwind/settings/api-keys").await;
    browser.sees("Using your own Anthropic key.").await;
    world.impose(&key, "spendlimit").await;
    // The request that meets the limit gets the provider's own answer; those after it are refused.
    assert_eq!(world.message(&token).send().await.unwrap().status(), 400);
    for _ in 0..200 {
        if world.message(&token).send().await.unwrap().status() == 402 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for page in ["settings/api-keys", "billing"] {
        browser.go(&format!("/t/northwind/{page}")).await;
        browser.sees("AI is paused: your Anthropic spend limit is reached.").await;
        browser.sees("Raise the limit").await;
        browser.check_page(&format!("{page}, paused")).await;
    }
    // Raised in the provider's console: the next probe finds out.
    world.impose(&key, "ok").await;
    world.clock.advance(6 * MINUTE);
    world.services.probe_due().await.unwrap();
    browser.go("/t/northwind/billing").await;
    browser.sees("Using your own Anthropic key.").await;
    assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
    browser.go("/t/northwind/activity/notifications").await;
    browser.sees("The key production works again.").await;
    browser.sees("spend limit is reached").await;
    browser.check_page("Notifications").await;
    browser.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_are_granted_spent_and_run_out() {
    let (world, tenant) = world().await;
    let token = world.token(&tenant).await;
    let root = open(&world, DESKTOP).await;
    root.sign_in("root@acme.example", PASSWORD).await;
    root.go("/platform/tenants").await;
    root.press(&tenant.name).await;
    root.sees("How managed use is paid").await;
    root.run("document.querySelector('input[value=credits]').click()").await;
    root.press("Save funding").await;
    root.sees("It holds for new requests").await;
    assert_eq!(world.message(&token).send().await.unwrap().status(), 402);
    root.fill("amount", "NaN").await;
    root.fill("note", "First month").await;
    root.press("Enter credits").await;
    root.sees("Enter dollars, such as 250 or 1,250.50.").await;
    root.check_page("Tenant, a wrong amount").await;
    root.fill("amount", "0.05").await;
    root.press("Enter credits").await;
    root.sees("$0.05 granted. The balance is $0.05 now.").await;
    root.close().await;

    let browser = open(&world, DESKTOP).await;
    browser.sign_in("admin@northwind.example", PASSWORD).await;
    browser.go("/t/northwind/billing/credits").await;
    browser.sees("First month").await;
    // More is bought at the payment provider, on a page of its own, and there when one is back.
    browser.fill("amount", "4").await;
    browser.press("Go on to payment").await;
    browser.sees("Buy at least $5.00").await;
    browser.check_page("Credits, too little").await;
    browser.fill("amount", "5").await;
    browser.press("Go on to payment").await;
    browser.sees("Not paid yet").await;
    browser.check_page("Purchase").await;
    browser.press("Pay $5.00").await;
    browser.sees("Sandbox checkout").await;
    browser.press("Pay").await;
    browser.sees("The credits are in the balance").await;
    browser.check_page("Purchase, paid").await;
    browser.press("Balance and ledger").await;
    browser.sees("+$5.00").await;
    browser.fill("notify_below", "10").await;
    browser.press("Save notice").await;
    browser.sees("Notice saved.").await;
    let answer = world.message(&token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let spent = world.row_of(&answer).await.billed;
    browser.go("/t/northwind/billing").await;
    browser.sees("Your credits run low").await;
    browser.press("Credits").await;
    browser.sees(&spent.precise()).await;
    browser.check_page("Credits, low").await;
    // Switched in mid-month: what ran before stays managed, and the chart shows both and a marker.
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    browser.go("/t/northwind/billing").await;
    browser.run("document.querySelector('input[name=mode][value=byok]').click()").await;
    browser.press("Save usage mode").await;
    browser.sees("new requests use your own key").await;
    let own = world.message(&token).send().await.unwrap();
    assert_eq!(own.headers()["x-keyward-key"], "production@1");
    world.row_of(&own).await;
    browser.go("/t/northwind/billing?show=requests").await;
    let bars =
        "return ['byok', 'managed'].map(mode => document.querySelectorAll(`.chart .bar.${mode}`).length)";
    assert_eq!(browser.run(bars).await, serde_json::json!([1, 1]));
    browser.sees("Switched to own key").await;
    assert_eq!(world.row_of(&answer).await.mode, UsageMode::Managed);
    browser.check_page("Billing after the switch").await;
    browser.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_other_providers_defaults_and_scopes() {
    let (world, tenant) = world().await;
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("admin@northwind.example", PASSWORD).await;

    // An Azure key: its form asks for the endpoint, and a wrong one is told at its field.
    browser.go("/t/northwind/settings/api-keys/new").await;
    browser.press("Azure OpenAI").await;
    browser.sees("Add an Azure OpenAI key").await;
    browser.check_page("Add an Azure key").await;
    let first = world.key_of(Provider::Azure, "ok").await;
    browser.fill("api_key", &first).await;
    browser.fill("custom_url", "https://10.0.0.1/").await;
    browser.fill("api_version", "2024-10-21").await;
    browser.fill("key_name", "azure-one").await;
    browser.press("Verify and save").await;
    browser.sees("Failed to save Azure OpenAI key.").await;
    browser.sees("Give a public host name such as llm.example.com").await;
    browser.check_page("Add an Azure key, refused").await;
    assert_eq!(browser.run("return document.getElementById('api_key').value").await, "");
    assert_eq!(browser.run("return document.getElementById('api_version').value").await, "2024-10-21");
    browser.fill("api_key", &first).await;
    browser.fill("custom_url", &world.sandbox_url).await;
    browser.press("Verify and save").await;
    browser.sees("Using your own Azure OpenAI key.").await;
    browser.check_page("API keys, Azure").await;

    // A second one beside it takes the default by a button.
    let second = world.key_of(Provider::Azure, "ok").await;
    world.add_key_of(crate::support::holder(&tenant), Provider::Azure, "azure-two", &second).await.unwrap();
    let token = world.token(&tenant).await;
    let used = async || {
        let answer = world.ask(Provider::Azure, &token, false).send().await.unwrap();
        answer.headers()["x-keyward-key"].to_str().unwrap().to_owned()
    };
    assert_eq!(used().await, "azure-one@1");
    browser.go("/t/northwind/settings/api-keys").await;
    browser.press("Make default").await;
    browser.sees("azure-two").await;
    assert_eq!(used().await, "azure-two@1");

    // A key that is for one feature stops the others, and both pages say so.
    world.add_key(&tenant, "claude", &test_key("ok")).await.unwrap();
    browser.go("/t/northwind/settings/api-keys/claude").await;
    browser.run("document.getElementById('all_features').click(); document.getElementById('features-drafts').click()").await;
    browser.press("Save use").await;
    browser.sees("requests outside of what claude is for are refused").await;
    browser.sees("features drafts").await;
    browser.check_page("Key with a scope").await;
    browser.go("/t/northwind/settings/api-keys").await;
    browser.sees("The key claude may not be used for Feature suggestions.").await;
    let refused = world.message(&token).header("x-keyward-feature", "suggestions").send().await.unwrap();
    assert_eq!(refused.status(), 403);
    assert_eq!(
        world.message(&token).header("x-keyward-feature", "drafts").send().await.unwrap().status(),
        200
    );

    // Vertex AI takes a key file.
    browser.go("/t/northwind/settings/api-keys/new?provider=vertex").await;
    browser.check_page("Add a Vertex key").await;
    browser.fill("api_key", "{ \"type\": \"authorized_user\" }").await;
    browser.press("Verify and save").await;
    browser.sees("These are a person's own credentials.").await;
    browser.go("/api/v1/docs").await;
    browser.sees("Keyward's API").await;
    browser.check_page("API documentation").await;
    browser.close().await;
    world.end().await;
}

/// Presses a button in the row or panel that names something.
pub async fn press_in(browser: &Browser, what: &str, button: &str) {
    let script = format!(
        "const row = [...document.querySelectorAll('tr, section')].reverse().find(row => row.innerText.includes('{what}'));
         [...row.querySelectorAll('button')].find(found => found.innerText.includes('{button}')).click()"
    );
    browser.run(&script).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feature_is_closed_for_a_plan_told_and_opened_again() {
    let (world, tenant) = world().await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let token = world.token(&tenant).await;
    let ask = async || {
        let answer = world.message(&token).header("x-keyward-feature", "drafts").send().await.unwrap();
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.unwrap();
        (status, body["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let admin = open(&world, DESKTOP).await;
    admin.sign_in("admin@northwind.example", PASSWORD).await;
    admin.press("AI features").await;
    admin.sees("Feature drafts").await;
    admin.check_page("AI features").await;
    assert_eq!(ask().await.0, 200);

    let root = open(&world, DESKTOP).await;
    root.sign_in("root@acme.example", PASSWORD).await;
    root.press("Plans").await;
    root.sees("What plans include").await;
    root.check_page("Plans").await;
    root.run("document.querySelector('input[value=\"pro/drafts\"]').click()").await;
    root.press("Review changes").await;
    root.sees("Pro loses Feature drafts.").await;
    root.check_page("Review changes").await;
    root.press("Save changes").await;
    root.sees("Saved: 1 change.").await;
    let saved = std::time::Instant::now();
    let words = "The Pro plan does not include Feature drafts.";
    admin.go("/t/northwind/settings/ai").await;
    admin.sees(words).await;
    assert!(saved.elapsed() < std::time::Duration::from_secs(2), "{:?}", saved.elapsed());
    let (status, message) = ask().await;
    assert!(status == 403 && message.starts_with(words), "{status} {message}");

    // The switch is the tenant's own to turn, and stays off whatever the plan says.
    press_in(&admin, "ai_drafts_enabled", "Switch off").await;
    admin.sees("2 gates closed").await;
    admin.check_page("AI features, two gates closed").await;
    root.run("document.querySelector('input[value=\"pro/drafts\"]').click()").await;
    root.press("Review changes").await;
    root.sees("Pro gains Feature drafts.").await;
    root.press("Save changes").await;
    root.sees("Saved: 1 change.").await;
    let (status, message) = ask().await;
    assert!(status == 403 && message.starts_with("Feature drafts is switched off."), "{status} {message}");
    admin.go("/t/northwind/settings/ai").await;
    press_in(&admin, "ai_drafts_enabled", "Switch on").await;
    admin.sees("ai_drafts_enabled is on.").await;
    assert_eq!(ask().await.0, 200);

    // Other pages of the operator's, and a tenant with an exception.
    root.press("Features").await;
    root.sees("Master switches").await;
    root.check_page("Features").await;
    root.go("/platform/plans?edit=pro").await;
    root.check_page("A plan").await;
    root.go("/platform/tenants/northwind").await;
    let day = world.clock.now().plus(86_400_000_000).rfc3339();
    root.run(&format!("document.getElementById('last_day').value = '{}'", &day[..10])).await;
    root.run("document.getElementById('feature').value = 'extra'").await;
    root.fill("reason", "Trial").await;
    root.press("Save exception").await;
    root.sees("Exception saved. It ends by itself.").await;
    root.check_page("Tenant with an exception").await;
    admin.go("/t/northwind/settings/ai").await;
    admin.sees("By exception, until the end of").await;
    admin.close().await;
    root.close().await;
    let narrow = open(&world, Look { width: 360, ..DESKTOP }).await;
    narrow.sign_in("root@acme.example", PASSWORD).await;
    for page in [
        "/platform/plans",
        "/platform/plans?edit=pro",
        "/platform/features",
        "/platform/tenants/northwind",
        "/t/northwind/settings/ai",
    ] {
        narrow.go(page).await;
        narrow.check_page(page).await;
    }
    narrow.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_is_invited_joins_and_is_removed() {
    let (world, _) = world().await;
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("admin@northwind.example", PASSWORD).await;
    browser.press("Members").await;
    browser.sees("Who may sign in to northwind Ltd").await;
    browser.fill("email", "nova@northwind.example").await;
    browser.press("Invite").await;
    browser.sees("nova@northwind.example is invited").await;
    browser.check_page("Members, with a link").await;
    let link = browser.run("return document.querySelector('#link').textContent").await;
    let link = link.as_str().unwrap().rsplit_once("/join/").unwrap().1.to_owned();

    let guest = open(&world, Look { width: 360, dark: true, ..DESKTOP }).await;
    guest.go(&format!("/join/{link}")).await;
    guest.sees("invites nova@northwind.example to northwind Ltd as member.").await;
    guest.check_page("An invitation, 360").await;
    guest.fill("password", "amber tunnel 4 crane").await;
    guest.press("Create account and join").await;
    guest.sees("Welcome. Your account is made and you are signed in.").await;

    browser.go("/t/northwind/settings/members").await;
    browser.press("Remove nova@northwind.example").await;
    browser.sees("What happens when you remove them").await;
    browser.check_page("Remove member").await;
    browser.press("Remove member").await;
    browser.sees("They see nothing of this account any more.").await;
    guest.go("/t/northwind/settings/api-keys").await;
    guest.sees("Sign in").await;
    guest.close().await;

    browser.go("/t/northwind/activity/audit").await;
    browser.sees("member.removed").await;
    browser.check_page("Audit log").await;
    browser.go("/account").await;
    browser.check_page("Account").await;
    browser.close().await;
    let narrow = open(&world, Look { width: 360, ..DESKTOP }).await;
    narrow.sign_in("root@acme.example", PASSWORD).await;
    for page in ["/platform/status", "/platform/audit"] {
        narrow.go(page).await;
        narrow.check_page(page).await;
    }
    narrow.close().await;
    world.end().await;
}
