//! How people show that it is them, in Chromium with a virtual authenticator in place of a finger.

use keyward::domain::account::PlatformRole;
use keyward::domain::clock::{MINUTE, SECOND};
use keyward::storage::sso;
use serde_json::{Value, json};
use thirtyfour::By;

use crate::browser::{Browser, DESKTOP, Look};
use crate::journeys::{PASSWORD, open, world};
use crate::support::{World, holder, test_key};

const ADMIN: &str = "admin@northwind.example";

/// The code that the app shows now whose secret is on the page.
fn code(world: &World, secret: &str) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret.replace(' ', "")).unwrap();
    let app = totp_rs::Builder::new()
        .with_secret(secret)
        .with_issuer(Some("Keyward"))
        .with_account_name("account")
        .build()
        .unwrap();
    app.generate(u64::try_from(world.clock.now().0 / SECOND).unwrap()).to_string()
}

async fn plug_in(browser: &Browser) -> Value {
    let tools = browser.driver.cdp();
    tools.send_raw("WebAuthn.enable", json!({})).await.unwrap();
    let options = json!({ "options": {
        "protocol": "ctap2", "ctap2Version": "ctap2_1", "transport": "internal", "hasResidentKey": true,
        "hasUserVerification": true, "isUserVerified": true, "automaticPresenceSimulation": true,
    } });
    tools.send_raw("WebAuthn.addVirtualAuthenticator", options).await.unwrap()
}

async fn sign_out(browser: &Browser) {
    browser.press("Sign out").await;
    browser.sees("E-mail address").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_a_passkey_and_a_key_change_that_asks_for_one() {
    let (world, _) = world().await;
    let browser = open(&world, DESKTOP).await;
    plug_in(&browser).await;
    browser.sign_in(ADMIN, PASSWORD).await;
    browser.go("/account").await;
    browser.sees("Your password alone signs you in.").await;
    browser.press("Set up").await;
    browser.check_page("Second factor, none").await;
    browser.press("Set up an authenticator app").await;
    browser.sees("Scan this picture").await;
    browser.check_page("Second factor, being set up").await;
    let secret = browser.driver.find(By::Id("secret")).await.unwrap().text().await.unwrap();
    browser.fill("code", &code(&world, &secret)).await;
    browser.press("Turn on").await;
    browser.sees("Your recovery codes").await;
    browser.check_page("Recovery codes").await;

    // The app at the next sign-in.
    sign_out(&browser).await;
    world.clock.advance(30 * SECOND);
    browser.sign_in(ADMIN, PASSWORD).await;
    browser.sees("Code from your authenticator app").await;
    browser.check_page("Second step").await;
    browser.fill("code", &code(&world, &secret)).await;
    browser.press("Sign in").await;
    browser.sees("Using Acme's shared Anthropic infrastructure.").await;

    // A passkey, from the same page.
    browser.go("/account/second-factor").await;
    browser.press("Add a passkey").await;
    browser.sees("New passkey").await;
    browser.check_page("New passkey").await;
    browser.fill("name", "Laptop").await;
    browser.press("Make passkey").await;
    browser.sees("The passkey is added.").await;
    browser.sees("Laptop").await;
    browser.check_page("Second factor, with a passkey").await;
    sign_out(&browser).await;
    browser.check_page("Sign in, with passkeys").await;
    browser.press("Sign in with a passkey").await;
    browser.sees("Using Acme's shared Anthropic infrastructure.").await;

    // A change of a key asks again, and takes the passkey; what was typed stays in the form.
    world.clock.advance(11 * MINUTE);
    browser.go("/t/northwind/settings/api-keys/new").await;
    browser.sees("Show that it is you").await;
    browser.check_page("Add key, with step-up").await;
    browser.fill("api_key", &test_key("ok")).await;
    browser.press("Verify and save").await;
    browser.sees("Confirm that it is you to go on.").await;
    browser.fill("api_key", &test_key("ok")).await;
    browser.press("Use a passkey").await;
    browser.sees("Using your own Anthropic key.").await;

    // On the record, with how.
    let tx = &mut world.services.db.read().await.unwrap();
    let platform = keyward::domain::ids::Owner::Platform;
    let rows = keyward::storage::audit::list(tx, platform, 40).await.unwrap();
    for (action, by) in [
        ("user.confirmed", "passkey"),
        ("user.signed_in", "\"by\":\"passkey\""),
        ("user.passkey_added", "Laptop"),
        ("user.signed_in", "\"by\":\"code\""),
        ("user.authenticator_added", ""),
    ] {
        assert!(rows.iter().any(|row| row.action == action && row.detail.contains(by)), "{action} by {by}");
    }
    browser.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_of_nobody_here_is_refused_and_a_phone_shows_it_all() {
    let (world, _) = world().await;
    let browser = open(&world, Look { width: 360, dark: true, ..DESKTOP }).await;
    let plugged = plug_in(&browser).await;
    browser.go("/sign-in").await;
    browser.check_page("Sign in, 360").await;
    // A passkey for this site that Keyward does not know, as after its owner removed it.
    let tools = browser.driver.cdp();
    let key = rcgen::KeyPair::generate().unwrap();
    let private = base64(&key.serialize_der());
    let credential = json!({
        "authenticatorId": plugged["authenticatorId"],
        "credential": { "credentialId": "AAECAwQFBgcICQoLDA0ODw==", "isResidentCredential": true,
            "rpId": "localhost", "privateKey": private, "userHandle": "AAECAwQFBgcICQoLDA0ODw==", "signCount": 1 },
    });
    tools.send_raw("WebAuthn.addCredential", credential).await.unwrap();
    browser.press("Sign in with a passkey").await;
    browser.sees("That passkey is not known here").await;
    browser.check_page("Sign in, passkey refused, 360").await;
    browser.sign_in(ADMIN, PASSWORD).await;
    browser.go("/account/second-factor").await;
    browser.press("Set up an authenticator app").await;
    browser.sees("Scan this picture").await;
    browser.check_page("Second factor, 360").await;
    browser.close().await;
    world.end().await;
}

/// Base64, as the protocol takes keys.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn support_looks_at_a_tenant_tries_to_change_something_and_stops() {
    let (world, tenant) = world().await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    world.user("sam@acme.example", PASSWORD, Some(PlatformRole::Support), None).await;
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("sam@acme.example", PASSWORD).await;
    browser.sees("View a tenant").await;
    browser.check_page("View a tenant").await;
    browser.fill("q", "north").await;
    browser.press("Find").await;
    browser.press("northwind Ltd").await;
    browser.sees("It ends by itself after half an hour at most.").await;
    browser.check_page("View a tenant, chosen").await;
    browser.fill("reason", "The chart looks wrong").await;
    browser.fill("ticket", "4821").await;
    browser.press("Start viewing").await;
    let bar = "Viewing northwind Ltd as admin@northwind.example, read-only, by sam@acme.example.";
    browser.sees(bar).await;
    browser.sees("Ticket 4821: The chart looks wrong").await;
    browser.check_page("API keys, viewed").await;
    assert!(!browser.has("Add key").await && !browser.has("Rotate").await);
    browser.go("/t/northwind/billing").await;
    browser.sees(bar).await;
    browser.check_page("Billing, viewed").await;

    // A button that is there all the same, as a page of before it began would have.
    let sent = "const form = document.createElement('form'); form.method = 'post'; \
                form.action = '/t/northwind/settings/api-keys/production/disable'; \
                form.append(document.querySelector('input[name=csrf]').cloneNode()); \
                document.body.append(form); form.submit();";
    browser.run(sent).await;
    browser.sees("You are only looking").await;
    browser.sees(bar).await;
    browser.check_page("Refused while viewing").await;
    browser.press("Stop viewing").await;
    browser.sees("You have stopped viewing the tenant.").await;
    browser.check_page("View a tenant, with history").await;
    sign_out(&browser).await;

    // The tenant's admin finds all of it.
    browser.sign_in(ADMIN, PASSWORD).await;
    browser.go("/t/northwind/settings/support-access").await;
    browser.sees("sam@acme.example").await;
    browser.sees("4821: The chart looks wrong").await;
    browser.check_page("Support access").await;
    browser.go("/t/northwind/activity/audit").await;
    for told in ["viewing.started", "page.viewed", "/t/northwind/billing", "policy.refused", "viewing.ended"]
    {
        browser.sees(told).await;
    }
    browser.sees("sam@acme.example as admin@northwind.example").await;
    let token = world.token(&tenant).await;
    assert_eq!(world.message(&token).send().await.unwrap().status(), 200, "nothing was changed");
    browser.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_sets_single_sign_on_up_and_a_colleague_comes_in_on_a_phone() {
    let (world, tenant) = world().await;
    let browser = open(&world, DESKTOP).await;
    browser.sign_in(ADMIN, PASSWORD).await;
    browser.go("/t/northwind/settings/single-sign-on").await;
    browser.check_page("Single sign-on, none").await;
    browser.fill("issuer", &format!("{}/openid", world.sandbox_url)).await;
    browser.fill("client_id", "keyward").await;
    browser.fill("client_secret", "sandbox-secret").await;
    browser.fill("domain", "northwind.example").await;
    browser.press("Save").await;
    browser.sees("Nobody can come in until the domain has shown that it is yours.").await;
    browser.check_page("Single sign-on, not verified").await;
    browser.press("Check the domain").await;
    browser.sees("could not be read").await;
    // The domain of the sample people exists nowhere: it is taken as shown.
    let scope = holder(&tenant).scope;
    let mut tx = world.services.db.write().await.unwrap();
    let proof = sso::find(&mut tx, &scope).await.unwrap().unwrap().domain_proof;
    sso::verify(&mut tx, &scope, "northwind.example", &proof, world.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    browser.go("/t/northwind/settings/single-sign-on").await;
    browser.sees("Verified").await;
    browser.check_page("Single sign-on, verified").await;
    browser.close().await;

    let phone = open(&world, Look { width: 360, dark: true, scripts: true }).await;
    phone.sign_in(ADMIN, PASSWORD).await;
    phone.go("/t/northwind/settings/single-sign-on").await;
    phone.check_page("Single sign-on, verified, 360").await;
    phone.go("/t/northwind/settings/support-access").await;
    phone.check_page("Support access, 360").await;
    sign_out(&phone).await;
    phone.go("/t/northwind/billing").await;
    phone.press("Sign in with single sign-on").await;
    phone.check_page("Single sign-on, sign in, 360").await;
    phone.fill("email", "max@northwind.example").await;
    phone.press("Go on").await;
    phone.sees("You sign in to northwind Ltd at 127.0.0.1.").await;
    phone.check_page("Single sign-on, leaving, 360").await;
    phone.press("Continue to 127.0.0.1").await;
    phone.sees("Identity provider").await;
    phone.press("Sign in").await;
    phone.sees("Plan and usage").await;
    phone.check_page("Billing of who came by single sign-on, 360").await;
    phone.go("/account").await;
    phone.sees("You signed in with your organisation's identity provider").await;
    phone.check_page("Account of who came by single sign-on, 360").await;
    phone.close().await;
    world.end().await;
}
