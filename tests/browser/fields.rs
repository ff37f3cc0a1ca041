//! Script in every text field of every form, in a browser that would run it.

use std::time::Duration;

use serde_json::json;

use crate::browser::{Browser, DESKTOP};
use crate::journeys::{PASSWORD, open, world};
use crate::support::{holder, test_key};

const SCRIPT: &str = "<script>ran = 1</script>\"'><img src=x onerror='ran = 2'>{{7*7}}";

const OF_ADMIN: [&str; 24] = [
    "/account",
    "/account/second-factor",
    "/t/northwind/settings/api-keys",
    "/t/northwind/settings/api-keys/new",
    "/t/northwind/settings/api-keys/production",
    "/t/northwind/settings/api-keys/production/rotate",
    "/t/northwind/settings/api-keys/production/remove",
    "/t/northwind/settings/tokens",
    "/t/northwind/settings/members",
    "/t/northwind/settings/security",
    "/t/northwind/settings/support-access",
    "/t/northwind/settings/single-sign-on",
    "/t/northwind/settings/notifications",
    "/t/northwind/settings/ai",
    "/t/northwind/activity/audit",
    "/t/northwind/activity/notifications",
    "/t/northwind/activity/questions",
    "/t/northwind/billing",
    "/t/northwind/billing/usage",
    "/t/northwind/billing/requests",
    "/t/northwind/billing/budgets",
    "/t/northwind/billing/credits",
    "/t/northwind/billing/breaker",
    "/t/northwind/billing/reconciliation",
];

const OF_ROOT: [&str; 10] = [
    "/platform/tenants",
    "/platform/tenants/new",
    "/platform/tenants/northwind",
    "/platform/plans",
    "/platform/features",
    "/platform/prices",
    "/platform/users",
    "/platform/tokens",
    "/platform/shared-keys",
    "/platform/viewing",
];

/// Types the script into every text of the page's form of that number and sends it, past what the
/// browser would say; the password is the right one. Gives how many texts there were.
async fn send(browser: &Browser, form: usize) -> u64 {
    let script = format!(
        "const form = document.forms[{form}];
         const texts = [...form.elements].filter(field => field.name && !field.disabled && !field.readOnly
             && (field.tagName === 'TEXTAREA' || ['text', 'search', 'email', 'url', 'tel'].includes(field.type)));
         for (const field of texts) {{ field.removeAttribute('maxlength'); field.type = 'text'; field.value = {text}; }}
         for (const field of form.elements) if (field.type === 'password') field.value = {password};
         if (texts.length === 0 || (form.getAttribute('action') ?? '').includes('sign-out')) return 0;
         window.before = true;
         form.noValidate = true;
         form.requestSubmit();
         return texts.length;",
        text = json!(SCRIPT),
        password = json!(PASSWORD),
    );
    let texts = browser.run(&script).await.as_u64().unwrap();
    for _ in 0..200 {
        let there = "return !window.before && document.readyState === 'complete'";
        if texts == 0 || browser.run(there).await == json!(true) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    texts
}

async fn is_harmless(browser: &Browser, what: &str) {
    assert_eq!(browser.run("return window.ran ?? 0").await, json!(0), "script of {what} ran");
    let planted = "return document.querySelectorAll('img[src=x], script:not([src])').length";
    assert_eq!(browser.run(planted).await, json!(0), "{what} has an element that was typed");
    assert_eq!(browser.reports().await, json!([]), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn script_in_every_field_is_shown_and_tries_nothing() {
    let (world, tenant) = world().await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let hook = format!("{}/hooks/a", world.sandbox_url);
    let (admin, scope) = (world.admin(&tenant), holder(&tenant).scope);
    let id = keyward::domain::ids::WebhookId::new();
    world.services.add_webhook(&admin, &scope, &tenant, id, &hook).await.unwrap();
    let browser = open(&world, DESKTOP).await;

    // What would be seen if a page had let something through.
    browser.go("/sign-in").await;
    let plant = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"ran = 1\">')";
    browser.run(plant).await;
    for _ in 0..100 {
        if browser.reports().await != json!([]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(browser.reports().await.to_string().contains("script-src-attr"), "the listener hears nothing");
    assert_eq!(browser.run("return window.ran ?? 0").await, json!(0), "the policy stops what gets through");

    let mut texts = 0;
    for (email, pages) in [("admin@northwind.example", &OF_ADMIN[..]), ("root@acme.example", &OF_ROOT[..])] {
        browser.sign_in(email, PASSWORD).await;
        for path in pages {
            browser.go(path).await;
            assert!(!browser.text().await.contains("Not found"), "{path}");
            let forms = browser.run("return document.forms.length").await.as_u64().unwrap();
            for form in 0..usize::try_from(forms).unwrap() {
                browser.go(path).await;
                texts += send(&browser, form).await;
                is_harmless(&browser, &format!("{path}, form {form}")).await;
            }
        }
        for path in pages {
            browser.go(path).await;
            is_harmless(&browser, path).await;
        }
        browser.go("/account").await;
        browser.press("Sign out").await;
        browser.sees("E-mail address").await;
    }
    assert!(texts > 40, "only {texts} fields were found");
    browser.close().await;
    world.end().await;
}
