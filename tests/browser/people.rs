//! How people show that it is them, in Chromium with a virtual authenticator in place of a finger.

use keyward::domain::clock::{MINUTE, SECOND};
use serde_json::{Value, json};
use thirtyfour::By;

use crate::browser::{Browser, DESKTOP, Look};
use crate::journeys::{PASSWORD, open, world};
use crate::support::{World, test_key};

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
