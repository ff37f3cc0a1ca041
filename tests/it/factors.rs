//! Second factors over HTTP: the authenticator app, recovery codes, the second step, stepping up by code,
//! and tenants that ask for one. Passkeys are in the browser's journeys.

use keyward::crypto::secret::Secret;
use keyward::domain::account::{Email, PlatformRole, TenantRole};
use keyward::domain::audit::AuditActor;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{MINUTE, SECOND};
use keyward::domain::ids::Owner;
use keyward::services::accounts::Origin;
use keyward::storage::audit;

use crate::on_both;
use crate::support::World;
use crate::visitor::{Page, Visitor};

pub const PASSWORD: &str = "violet ladder 9 reed";
const EMAIL: &str = "ada@acme.example";

/// The code that an app of this secret shows now.
pub fn code(world: &World, secret: &str) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret.replace(' ', "")).unwrap();
    let app = totp_rs::Builder::new()
        .with_secret(secret)
        .with_issuer(Some("Keyward"))
        .with_account_name("account")
        .build()
        .unwrap();
    let seconds = u64::try_from(world.clock.now().0 / SECOND).unwrap();
    app.generate(seconds).to_string()
}

fn between<'a>(page: &'a Page, before: &str, after: &str) -> &'a str {
    page.body.split(before).nth(1).and_then(|rest| rest.split(after).next()).expect(before)
}

/// Sets an app up for whoever is signed in: its secret and the recovery codes.
pub async fn set_up_app(world: &World, visitor: &mut Visitor) -> (String, Vec<String>) {
    assert_eq!(visitor.post("/account/second-factor/app", &[]).await.status, 303);
    let page = visitor.get("/account/second-factor").await;
    assert!(page.body.contains("<svg"), "a picture to scan");
    let secret = between(&page, "<code id=\"secret\">", "</code>").to_owned();
    let wrong = visitor.post("/account/second-factor/app/finish", &[("code", "000000")]).await;
    assert_eq!(wrong.status, 422);
    wrong.says("That code does not fit.");
    let page = visitor.post("/account/second-factor/app/finish", &[("code", &code(world, &secret))]).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let codes: Vec<String> =
        between(&page, "<pre id=\"codes\"><code>", "</code>").lines().map(str::to_owned).collect();
    assert_eq!(codes.len(), 10);
    assert!(!page.body.contains(&secret), "the secret is shown while it is set up, and never again");
    world.clock.advance(30 * SECOND);
    (secret, codes)
}

async fn first_step(world: &World) -> Visitor {
    let mut visitor = Visitor::new(&world.url);
    visitor.get("/sign-in").await;
    let page = visitor.post("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).await;
    assert_eq!((page.status.as_u16(), page.location()), (303, "/sign-in/second"));
    visitor.get("/sign-in/second").await;
    visitor
}

on_both! {
    async fn an_app_is_asked_for_after_the_password_and_each_code_works_once(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.user(EMAIL, PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        let mut elsewhere = Visitor::signed_in(&world.url, EMAIL, PASSWORD).await;
        let mut ada = Visitor::signed_in(&world.url, EMAIL, PASSWORD).await;
        let before = ada.cookie("keyward").cloned();
        let (secret, codes) = set_up_app(world, &mut ada).await;
        assert_ne!(ada.cookie("keyward").cloned(), before, "a fresh key for the session");
        assert_eq!(ada.get("/account").await.status, 200, "the session that set it up goes on");
        assert_eq!(elsewhere.get("/account").await.status, 303, "all others are over");

        // The password alone opens nothing.
        let mut visitor = first_step(world).await;
        for path in ["/account", "/t/acme/settings/api-keys", "/account/second-factor"] {
            assert_eq!(visitor.get(path).await.status, 303, "{path}");
        }
        visitor.get("/sign-in/second").await;
        let wrong = visitor.post("/sign-in/second", &[("code", "123456")]).await;
        assert_eq!(wrong.status, 422);
        let now = code(world, &secret);
        let page = visitor.post("/sign-in/second", &[("code", &format!("{} {}", &now[..3], &now[3..]))]).await;
        assert_eq!((page.status.as_u16(), page.location()), (303, "/t/acme/settings/api-keys"));
        assert_eq!(visitor.get("/t/acme/settings/api-keys").await.status, 200);

        // The same code again, in the same thirty seconds, from somebody who looked over a shoulder.
        let mut thief = first_step(world).await;
        assert_eq!(thief.post("/sign-in/second", &[("code", &now)]).await.status, 422, "a code works once");
        world.clock.advance(2 * MINUTE);
        assert_eq!(thief.post("/sign-in/second", &[("code", &now)]).await.status, 422);

        // A recovery code, once, however it is typed.
        world.clock.advance(2 * MINUTE);
        let typed = codes[0].to_uppercase().replace('-', " ");
        let mut lost = first_step(world).await;
        assert_eq!(lost.post("/sign-in/second", &[("code", &typed)]).await.status, 303);
        lost.get("/account/second-factor").await.says("9 are left.");
        let mut again = first_step(world).await;
        assert_eq!(again.post("/sign-in/second", &[("code", &codes[0])]).await.status, 422, "it is used up");

        // Ten minutes after the password it begins anew.
        let mut slow = first_step(world).await;
        world.clock.advance(10 * MINUTE);
        let page = slow.post("/sign-in/second", &[("code", &code(world, &secret))]).await;
        assert_eq!((page.status.as_u16(), page.location()), (303, "/sign-in"));
    }
}

on_both! {
    async fn codes_cannot_be_guessed_and_whoever_guesses_keeps_nobody_out(world: World) {
        world.user(EMAIL, PASSWORD, None, None).await;
        let mut ada = Visitor::signed_in(&world.url, EMAIL, PASSWORD).await;
        let (secret, _) = set_up_app(world, &mut ada).await;
        let mut guesser = first_step(world).await;
        let mut told = Vec::new();
        for guess in 0..20 {
            let page = guesser.post("/sign-in/second", &[("code", &format!("{guess:06}"))]).await;
            told.push(page.status.as_u16());
        }
        assert_eq!(told.iter().filter(|status| **status == 422).count(), 5, "{told:?}");
        assert!(told[5..].iter().all(|status| *status == 429), "{told:?}");
        // The browser that Ada signed in from before is counted apart.
        ada.post("/sign-out", &[]).await;
        ada.get("/sign-in").await;
        let page = ada.post("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).await;
        assert_eq!(page.location(), "/sign-in/second");
        ada.get("/sign-in/second").await;
        assert_eq!(ada.post("/sign-in/second", &[("code", &code(world, &secret))]).await.status, 303);
        let mut tx = world.services.db.read().await.unwrap();
        let rows = audit::list(&mut tx, Owner::Platform, 60).await.unwrap();
        let failed = rows.iter().filter(|row| row.detail.contains("\"step\":\"second\"")).count();
        assert_eq!(failed, 5, "each wrong code is on record");
    }
}

on_both! {
    async fn a_code_confirms_a_change_and_the_form_is_not_lost(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.user(EMAIL, PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        let mut ada = Visitor::signed_in(&world.url, EMAIL, PASSWORD).await;
        let (secret, codes) = set_up_app(world, &mut ada).await;
        world.clock.advance(11 * MINUTE);
        let form = ada.get("/t/acme/settings/tokens").await;
        assert!(form.body.contains("name=\"current_code\"") && form.body.contains("name=\"current_password\""));
        let fields = [("name", "Nightly jobs"), ("days", "30"), ("scopes", "gateway")];
        let asked = ada.post("/t/acme/settings/tokens", &fields).await;
        assert_eq!(asked.status, 422);
        asked.says("value=\"Nightly jobs\"");
        let wrong = ada.post("/t/acme/settings/tokens", &[&fields[..], &[("current_code", "000000")]].concat()).await;
        assert_eq!(wrong.status, 422);
        wrong.says("That code is wrong").says("value=\"Nightly jobs\"");
        let now = code(world, &secret);
        let made = ada.post("/t/acme/settings/tokens", &[&fields[..], &[("current_code", &now)]].concat()).await;
        assert_eq!(made.status, 200, "{}", made.body);
        made.says("Token Nightly jobs is ready");
        // A button of another page, by recovery code; and a code that was used for one thing is used for all.
        world.clock.advance(11 * MINUTE);
        ada.get("/account/second-factor").await;
        let asked = ada.post("/account/second-factor/codes", &[]).await;
        asked.says("Confirm it's you");
        let page = ada.post("/account/second-factor/codes", &[("current_code", &codes[3])]).await;
        assert_eq!(page.status, 200, "{}", page.body);
        page.says("Your recovery codes");
        world.clock.advance(11 * MINUTE);
        let old = ada.post("/account/second-factor/app/remove", &[("current_code", &codes[4])]).await;
        assert_eq!(old.status, 422, "codes of before are replaced");
        // A password that the browser filled in does not get in the way of the code, nor a new one around it.
        let filled = [("current_password", "wrong"), ("current_code", "000000"), ("current_password", "wrong")];
        ada.post("/account/second-factor/app/remove", &filled[..2]).await.says("That code is wrong");
        ada.get("/account").await;
        let changed = ada.post("/account/password", &[("current_password", PASSWORD), ("new_password", PASSWORD)]).await;
        assert_eq!(changed.status, 303, "{}", changed.body);
        ada.get("/account/second-factor").await;
        // The password alone does not take away what guards against a stolen password.
        let weak = ada.post("/account/second-factor/app/remove", &[("current_password", PASSWORD)]).await;
        assert_eq!(weak.status, 422);
        weak.says("Here only a code or a passkey will do");
        let gone = ada.post("/account/second-factor/app/remove", &[("current_code", &code(world, &secret))]).await;
        assert_eq!(gone.status, 303);
        ada.get("/account/second-factor").await.says("Set up an authenticator app");
        ada.post("/t/acme/settings/security/second-factor", &[("second_factor", "required")]).await;
        ada.get("/t/acme/settings/security").await.says("Set up a second factor for yourself first");
        Visitor::signed_in(&world.url, EMAIL, PASSWORD).await;
    }
}

on_both! {
    async fn a_tenant_can_ask_for_a_second_factor(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.tenant("beta", UsageMode::Managed).await;
        world.user(EMAIL, PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        world.user("max@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Member))).await;
        world.user("root@acme.example", PASSWORD, Some(PlatformRole::SuperAdmin), None).await;
        let rule = "/t/acme/settings/security/second-factor";
        let mut ada = Visitor::signed_in(&world.url, EMAIL, PASSWORD).await;
        let refused = ada.post(rule, &[("second_factor", "required")]).await;
        assert_eq!(refused.status, 303);
        ada.get("/t/acme/settings/security").await.says("Set up a second factor for yourself first");
        assert_eq!(ada.post(rule, &[("second_factor", "always")]).await.status, 400);
        set_up_app(world, &mut ada).await;
        ada.get("/account").await;
        assert_eq!(ada.post(rule, &[("second_factor", "required")]).await.status, 303);
        ada.get("/t/acme/settings/security").await.says("needs a second factor from now on");
        for email in ["max@acme.example", "root@acme.example"] {
            let mut other = Visitor::signed_in(&world.url, email, PASSWORD).await;
            for path in ["/t/acme/settings/api-keys", "/t/acme/billing"] {
                let page = other.get(path).await;
                assert_eq!((page.status.as_u16(), page.location()), (303, "/account/second-factor?asked=1"), "{email}");
            }
            let page = other.post("/t/acme/settings/ai/switch", &[]).await;
            assert_eq!(page.status, 303, "{email}: a change is not made either");
            other.get("/account/second-factor?asked=1").await.says("This account asks for a second factor.");
            set_up_app(world, &mut other).await;
            assert_eq!(other.get("/t/acme/settings/api-keys").await.status, 200, "{email}");
        }
        // A tenant that does not ask is open to who has none.
        world.user("new@acme.example", PASSWORD, Some(PlatformRole::SuperAdmin), None).await;
        let mut plain = Visitor::signed_in(&world.url, "new@acme.example", PASSWORD).await;
        assert_eq!(plain.get("/t/beta/settings/api-keys").await.status, 200);
        assert_eq!(plain.get("/t/acme/settings/api-keys").await.status, 303);
    }
}

on_both! {
    async fn a_link_is_not_a_way_around_and_the_operator_is(world: World) {
        world.user(EMAIL, PASSWORD, None, None).await;
        let mut ada = Visitor::signed_in(&world.url, EMAIL, PASSWORD).await;
        let (secret, codes) = set_up_app(world, &mut ada).await;
        let by = AuditActor::system("test");
        let email = Email::parse(EMAIL).unwrap();
        let link = world.services.reset_link(&by, &email).await.unwrap();
        let path = link.split("/setup/").nth(1).map(|token| format!("/setup/{token}")).unwrap();
        let mut thief = Visitor::new(&world.url);
        thief.get(&path).await;
        let page = thief.post(&path, &[("password", "another 12 letters")]).await;
        assert_eq!((page.status.as_u16(), page.location()), (303, "/sign-in/second"));
        assert_eq!(thief.get("/account").await.status, 303);
        thief.get("/sign-in/second").await;
        assert_eq!(thief.post("/sign-in/second", &[("code", &code(world, &secret))]).await.status, 303);
        world.services.remove_second_factors(&by, &email).await.unwrap();
        assert_eq!(thief.get("/account").await.status, 303, "its sessions are over");
        Visitor::signed_in(&world.url, EMAIL, "another 12 letters").await;
        let from = Origin { address: "192.0.2.1".to_owned(), device: "x".to_owned(), request_id: None };
        let user = world.services.sign_in(EMAIL, Secret::new("another 12 letters".to_owned()), &from).await.unwrap().user;
        let used = world.services.second_step(user.id, world.clock.now(), Secret::new(codes[5].clone()), &from).await;
        assert!(used.is_err(), "recovery codes went with it");
    }
}
