//! Single sign-on, with the sandbox's identity provider: who may come in by it, where, and who may not.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpServer, web};
use keyward::access::scope::Scope;
use keyward::crypto::secret::Secret;
use keyward::domain::account::{Email, PlatformRole, Tenant, TenantRole};
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, MINUTE};
use keyward::domain::ids::Owner;
use keyward::outbound::Parts;
use keyward::services::sso_settings::TypedConnection;
use keyward::storage::{audit, members, people, sso};

use crate::custom_url::{Front, HOST, Script, tls_front};
use crate::factors::{PASSWORD, set_up_app};
use crate::on_both;
use crate::support::{On, Setup, World, holder};
use crate::visitor::{Page, Visitor};

const SECRET: &str = "sandbox-client-secret-of-acme";

fn typed(world: &World, domain: &str) -> TypedConnection {
    TypedConnection {
        issuer: format!("{}/openid", world.sandbox_url),
        client_id: "keyward at acme".to_owned(),
        client_secret: Secret::new(SECRET.to_owned()),
        domain: domain.to_owned(),
        default_role: "member".to_owned(),
    }
}

/// A connection whose domain has shown whose it is.
async fn connect(world: &World, tenant: &Tenant, domain: &str) {
    let (actor, scope) = (world.admin(tenant), holder(tenant).scope);
    world.services.set_sso(&actor, &scope, tenant, typed(world, domain)).await.unwrap();
    let mut tx = world.services.db.write().await.unwrap();
    let proof = sso::find(&mut tx, &scope).await.unwrap().unwrap().domain_proof;
    assert!(sso::verify(&mut tx, &scope, domain, &proof, world.clock.now()).await.unwrap());
    tx.commit().await.unwrap();
}

/// The link to the provider that a page has.
fn way_out(page: &Page) -> String {
    let link = page.body.split("href=\"").find(|part| part.contains("/openid/authorize")).expect(&page.body);
    link.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&")
}

/// Says at the provider that one is somebody, and gives the path back.
async fn say(world: &World, link: &str, email: &str) -> String {
    let form = url::form_urlencoded::Serializer::new(String::new()).append_pair("email", email).finish();
    let request =
        world.http.post(link).header("content-type", "application/x-www-form-urlencoded").body(form);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 303);
    let back = answer.headers()["location"].to_str().unwrap().to_owned();
    back.split_once("/sign-in/").map(|(_, rest)| format!("/sign-in/{rest}")).unwrap()
}

async fn leave(visitor: &mut Visitor, hint: &str) -> String {
    visitor.get("/sign-in/sso").await;
    let page = visitor.post("/sign-in/sso", &[("email", hint)]).await;
    assert_eq!(page.status, 200, "{}", page.body);
    way_out(&page)
}

async fn come(world: &World, visitor: &mut Visitor, email: &str) -> Page {
    let link = leave(visitor, "anybody@acme.example").await;
    let back = say(world, &link, email).await;
    visitor.get(&back).await
}

on_both! {
    async fn people_of_the_domain_come_in_as_members_of_that_tenant_alone(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        let beta = world.tenant("beta", UsageMode::Managed).await;
        connect(world, &tenant, "acme.example").await;
        let mut visitor = Visitor::new(&world.url);
        visitor.get("/sign-in/sso").await;
        let nobody = visitor.post("/sign-in/sso", &[("email", "max@elsewhere.example")]).await;
        assert_eq!(nobody.status, 422);
        nobody.says("No single sign-on is set up for that address.");
        let page = come(world, &mut visitor, "Max@Acme.example").await;
        assert_eq!((page.status.as_u16(), page.location()), (303, "/"));
        assert_eq!(visitor.get("/").await.location(), "/t/acme/settings/api-keys");
        assert_eq!(visitor.get("/t/acme/settings/api-keys").await.status, 200);
        assert_eq!(visitor.get("/t/acme/settings/members").await.status, 403, "a member, not an admin");
        visitor.get("/account").await.says("your organisation").says("Member");
        // Another provider, another domain, or none: whoever came by the old one is out.
        let mut early = Visitor::new(&world.url);
        assert_eq!(come(world, &mut early, "max@acme.example").await.status, 303);
        assert_eq!(early.get("/t/acme/settings/api-keys").await.status, 200);
        world.clock.advance(1);
        let (actor, scope) = (world.admin(&tenant), holder(&tenant).scope);
        world.services.remove_sso(&actor, &scope, &tenant).await.unwrap();
        assert_eq!(early.get("/t/acme/settings/api-keys").await.status, 303);
        connect(world, &tenant, "acme.example").await;
        assert_eq!(early.get("/t/acme/settings/api-keys").await.status, 303, "and stays out");
        // The second time it is the same person.
        let again = come(world, &mut Visitor::new(&world.url), "max@acme.example").await;
        assert_eq!(again.status, 303);
        let mut tx = world.services.db.read().await.unwrap();
        let found = members::list(&mut tx, &holder(&tenant).scope).await.unwrap();
        assert_eq!(found.iter().map(|one| (one.email.as_str(), one.role)).collect::<Vec<_>>(), [("max@acme.example", TenantRole::Member)]);
        let rows = audit::list(&mut tx, Owner::Platform, 20).await.unwrap();
        assert!(rows.iter().any(|row| row.action == "user.signed_in" && row.detail.contains("single sign-on")));
        tx.rollback().await.unwrap();

        // Somebody with a password who is in two tenants: the provider of one opens that one.
        let ada = world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        let mut tx = world.services.db.write().await.unwrap();
        people::add_member(&mut tx, ada.id, beta.id, TenantRole::Admin, world.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        let mut by_sso = Visitor::new(&world.url);
        assert_eq!(come(world, &mut by_sso, "ada@acme.example").await.status, 303);
        assert_eq!(by_sso.get("/t/acme/settings/members").await.status, 200);
        assert_eq!(by_sso.get("/t/beta/settings/api-keys").await.status, 404);
        by_sso.get("/account").await;
        let factor = by_sso.post("/account/second-factor/app", &[]).await;
        assert_eq!(factor.status, 303, "what opens every tenant is not set up from there");
        assert_eq!(by_sso.get("/account/second-factor").await.location(), "/account");
        let mut by_password = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        assert_eq!(by_password.get("/t/beta/settings/api-keys").await.status, 200);
    }
}

on_both! {
    async fn nobody_comes_in_by_what_is_not_theirs(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        connect(world, &tenant, "acme.example").await;
        world.user("root@acme.example", PASSWORD, Some(PlatformRole::SuperAdmin), None).await;
        let count = async || {
            let mut tx = world.services.db.read().await.unwrap();
            people::count(&mut tx).await.unwrap()
        };
        for (email, sentence) in [
            ("max@elsewhere.example", "gave no address of your organisation"),
            ("doubtful@acme.example", "gave no address of your organisation"),
            ("silent@acme.example", "gave no address of your organisation"),
            ("forged@acme.example", "did not sign you in"),
            ("root@acme.example", "Staff sign in with a password"),
            ("max@acme.example.evil.example", "gave no address of your organisation"),
        ] {
            let mut visitor = Visitor::new(&world.url);
            let page = come(world, &mut visitor, email).await;
            assert_eq!(page.status, 422, "{email}");
            page.says(sentence);
            assert_eq!(visitor.get("/account").await.status, 303, "{email}");
        }
        assert_eq!(count().await, 1, "no account was made");

        // What came back is good once, in the browser that left, with the state that it left with.
        let mut max = Visitor::new(&world.url);
        let back = say(world, &leave(&mut max, "max@acme.example").await, "max@acme.example").await;
        let mut thief = Visitor::new(&world.url);
        assert_eq!(thief.get(&back).await.status, 422, "another browser");
        let mut mallory = Visitor::new(&world.url);
        let own = say(world, &leave(&mut mallory, "x@acme.example").await, "mallory@acme.example").await;
        let own_code = own.split("code=").nth(1).unwrap().split('&').next().unwrap();
        let state = back.split("state=").nth(1).unwrap();
        let mixed = format!("/sign-in/sso/callback/{}?code={own_code}&state={state}", tenant.id);
        assert_eq!(max.get(&mixed).await.status, 422, "somebody else's code: the verifier does not fit");
        assert_eq!(max.get(&back).await.status, 422, "and that was the one try");
        let mut max = Visitor::new(&world.url);
        let back = say(world, &leave(&mut max, "max@acme.example").await, "max@acme.example").await;
        let forged = back.replace("state=", "state=x");
        assert_eq!(max.get(&forged).await.status, 422, "another state");
        let mut max = Visitor::new(&world.url);
        let link = leave(&mut max, "max@acme.example").await;
        world.clock.advance(10 * MINUTE);
        let back = say(world, &link, "max@acme.example").await;
        assert_eq!(max.get(&back).await.status, 422, "ten minutes");
        let mut max = Visitor::new(&world.url);
        let back = say(world, &leave(&mut max, "max@acme.example").await, "max@acme.example").await;
        assert_eq!(max.get(&back).await.status, 303);
        max.get("/account").await;
        max.post("/sign-out", &[]).await;
        assert_eq!(max.get(&back).await.status, 422, "a second time");

        // Back at another tenant's address, or by another's word.
        let beta = world.tenant("beta", UsageMode::Managed).await;
        for change in [(tenant.id.to_string(), beta.id.to_string()), ("state=".to_owned(), "iss=https%3A%2F%2Fevil.example&state=".to_owned())] {
            let mut max = Visitor::new(&world.url);
            let back = say(world, &leave(&mut max, "max@acme.example").await, "max@acme.example").await;
            assert_eq!(max.get(&back.replace(&change.0, &change.1)).await.status, 422, "{change:?}");
        }
        // Another subject with the address of somebody who is known.
        world.sql("UPDATE sso_identity SET subject = 'somebody else'").await;
        let page = come(world, &mut Visitor::new(&world.url), "max@acme.example").await;
        assert_eq!(page.status, 422);
        page.says("knows somebody else by this address");
        world.sql("DELETE FROM sso_identity").await;
        assert_eq!(come(world, &mut Visitor::new(&world.url), "max@acme.example").await.status, 303);

        // Whoever was removed does not come back by it.
        let mut tx = world.services.db.write().await.unwrap();
        let scope = holder(&tenant).scope;
        let member = members::list(&mut tx, &scope).await.unwrap().into_iter().find(|one| one.email == "max@acme.example").unwrap();
        members::remove(&mut tx, &scope, &member, world.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        let page = come(world, &mut Visitor::new(&world.url), "max@acme.example").await;
        assert_eq!(page.status, 422);
        page.says("You were removed from this account.");
    }
}

on_both! {
    async fn a_tenant_can_ask_for_it_and_a_change_asks_the_provider_again(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        world.user("bill@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::BillingAdmin))).await;
        let here = "/t/acme/settings/single-sign-on";
        let mut ada = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        assert_eq!(ada.post(&format!("{here}/require"), &[("required", "yes")]).await.status, 303);
        ada.get(here).await.says("Show first that the domain is yours");
        connect(world, &tenant, "acme.example").await;
        ada.get(here).await;
        ada.post(&format!("{here}/require"), &[("required", "yes")]).await;
        ada.get(here).await.says("you would be locked out");
        let mut ada = Visitor::new(&world.url);
        assert_eq!(come(world, &mut ada, "ada@acme.example").await.status, 303);
        ada.get(here).await;
        assert_eq!(ada.post(&format!("{here}/require"), &[("required", "yes")]).await.status, 303);
        ada.get(here).await.says("Everybody but admins comes by single sign-on");

        let mut bill = Visitor::signed_in(&world.url, "bill@acme.example", PASSWORD).await;
        let page = bill.get("/t/acme/billing").await;
        assert_eq!(page.status, 403);
        page.says("This account asks for single sign-on").says("/sign-in/sso");
        let mut password = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        assert_eq!(password.get("/t/acme/billing").await.location(), "/account/second-factor?asked=1");
        set_up_app(world, &mut password).await;
        assert_eq!(password.get("/t/acme/billing").await.status, 200, "an admin with two factors");

        let mut bill = Visitor::new(&world.url);
        assert_eq!(come(world, &mut bill, "bill@acme.example").await.status, 303);
        world.clock.advance(11 * MINUTE);
        let form = bill.get("/t/acme/settings/api-keys/new").await;
        form.says("Confirm with single sign-on");
        assert!(!form.body.contains("current_password\" name"), "there is no password to ask for");
        let key = crate::support::test_key("ok");
        let fields = [("api_key", key.as_str()), ("key_name", "production"), ("label", "Main")];
        let asked = bill.post("/t/acme/settings/api-keys/new", &fields).await;
        assert_eq!(asked.status, 422);
        asked.says("value=\"Main\"");
        // Somebody else at the provider confirms nothing.
        let link = way_out(&bill.get("/account/confirm-sso").await);
        assert!(link.contains("prompt=login") && link.contains("max_age=0"), "{link}");
        let back = say(world, &link, "ada@acme.example").await;
        assert_eq!(bill.get(&back).await.status, 422);
        let link = way_out(&bill.get("/account/confirm-sso").await);
        let back = say(world, &link, "bill@acme.example").await;
        bill.get(&back).await.says("send its form again");
        bill.get("/t/acme/settings/api-keys/new").await;
        assert_eq!(bill.post("/t/acme/settings/api-keys/new", &fields).await.status, 303);
        assert_eq!(bill.get("/t/acme/settings/api-keys/production").await.status, 200);
    }
}

on_both! {
    async fn a_connection_is_checked_before_it_is_kept_and_its_secret_is_never_shown(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        let mut ada = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        let here = "/t/acme/settings/single-sign-on";
        let issuer = format!("{}/openid", world.sandbox_url);
        let send = async |ada: &mut Visitor, change: (&str, &str)| {
            let mut fields = vec![
                ("issuer", issuer.as_str()),
                ("client_id", "keyward"),
                ("client_secret", SECRET),
                ("domain", "acme.example"),
                ("default_role", "member"),
            ];
            for field in &mut fields {
                if field.0 == change.0 {
                    field.1 = change.1;
                }
            }
            ada.get(here).await;
            ada.post(here, &fields).await
        };
        let nowhere = format!("{}/nowhere", world.sandbox_url);
        for (field, value) in [
            ("issuer", "http://169.254.169.254/latest"),
            ("issuer", "https://localhost/openid"),
            ("issuer", "https://10.0.0.1"),
            ("issuer", ""),
            ("issuer", nowhere.as_str()),
            ("client_id", " "),
            ("client_secret", ""),
            ("domain", "acme"),
            ("domain", "https://acme.example"),
            ("default_role", "admin"),
            ("default_role", "super_admin"),
        ] {
            let page = send(&mut ada, (field, value)).await;
            assert_eq!(page.status, 422, "{field}={value}");
            page.says(&format!("id=\"{field}-error\""));
            assert!(!page.body.contains(SECRET), "{field}={value}");
        }
        assert_eq!(send(&mut ada, ("", "")).await.status, 303);
        let page = ada.get(here).await;
        page.says("Nobody can come in until the domain has shown").says("/.well-known/keyward-domain.txt");
        assert!(!page.body.contains(SECRET));
        // Not before that.
        let mut visitor = Visitor::new(&world.url);
        visitor.get("/sign-in/sso").await;
        assert_eq!(visitor.post("/sign-in/sso", &[("email", "ada@acme.example")]).await.status, 422);
        // The secret stays while its provider does, and goes to no other.
        assert_eq!(send(&mut ada, ("client_secret", "")).await.status, 303);
        let moved = [("issuer", issuer.as_str()), ("client_id", "other"), ("client_secret", ""), ("domain", "acme.example"), ("default_role", "member")];
        assert_eq!(ada.post(here, &moved).await.status, 422);
        // A domain that another tenant has shown to be theirs.
        let beta = world.tenant("beta", UsageMode::Managed).await;
        connect(world, &beta, "acme.example").await;
        let (scope, mut tx) = (Scope::of_system(Owner::Tenant(tenant.id)), world.services.db.write().await.unwrap());
        let proof = sso::find(&mut tx, &scope).await.unwrap().unwrap().domain_proof;
        let taken = sso::verify(&mut tx, &scope, "acme.example", &proof, world.clock.now()).await;
        assert!(taken.is_err_and(|error| error.is_conflict()));
        tx.rollback().await.unwrap();
        // Another domain has to show it anew.
        connect(world, &tenant, "acme2.example").await;
        assert_eq!(send(&mut ada, ("domain", "acme3.example")).await.status, 303);
        ada.get(here).await.says("Not verified");
        assert_eq!(ada.post(&format!("{here}/remove"), &[]).await.status, 303);
        ada.get(here).await.says("Identity provider");
        world.clock.advance(DAY);
        let mut tx = world.services.db.read().await.unwrap();
        assert!(sso::find(&mut tx, &scope).await.unwrap().is_none());
        let rows = audit::list(&mut tx, Owner::Tenant(tenant.id), 50).await.unwrap();
        for action in ["settings.sso_set", "settings.sso_removed"] {
            assert!(rows.iter().any(|row| row.action == action), "{action}");
        }
        assert!(rows.iter().all(|row| !row.detail.contains(SECRET)));
        assert!(Email::parse("ada@acme.example").is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_shows_whose_it_is_over_tls() {
    let said = Arc::new(Mutex::new("something else\n".to_owned()));
    let listener = crate::support::free_port();
    let address = listener.local_addr().unwrap();
    let text = Arc::clone(&said);
    let server = HttpServer::new(move || {
        let text = Arc::clone(&text);
        App::new().route(
            "/.well-known/keyward-domain.txt",
            web::get().to(move || {
                let text = text.lock().unwrap().clone();
                async move { text }
            }),
        )
    })
    .workers(1)
    .disable_signals()
    .listen(listener)
    .unwrap()
    .run();
    let site = server.handle();
    tokio::spawn(server);
    let Front { port, pem, .. } = tls_front(address).await;
    let answers = vec![vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]];
    let resolver = Arc::new(Script::new(answers, port));
    let outbound = Parts { resolver, rule: |_| true, extra_roots: vec![pem], ..Parts::default() };
    let world = World::with(On::Sqlite, Setup { outbound: Some(outbound), ..Setup::default() }).await;
    let tenant = world.tenant("acme", UsageMode::Managed).await;
    let (actor, scope) = (world.admin(&tenant), holder(&tenant).scope);
    world.services.set_sso(&actor, &scope, &tenant, typed(&world, HOST)).await.unwrap();
    let verify = || world.services.verify_sso_domain(&actor, &scope, &tenant);
    let error = verify().await.unwrap_err();
    assert!(format!("{error:?}").contains("does not hold the line"), "{error:?}");
    let mut tx = world.services.db.read().await.unwrap();
    let proof = sso::find(&mut tx, &scope).await.unwrap().unwrap().domain_proof;
    tx.rollback().await.unwrap();
    *said.lock().unwrap() = format!("v=1\n{proof}\n");
    verify().await.unwrap();
    let mut visitor = Visitor::new(&world.url);
    visitor.get("/sign-in/sso").await;
    let page = visitor.post("/sign-in/sso", &[("email", &format!("max@{HOST}"))]).await;
    assert_eq!(page.status, 200);
    site.stop(false).await;
    world.end().await;
}

on_both! {
    async fn an_account_that_a_stranger_made_on_the_address_is_taken_from_them(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        connect(world, &tenant, "acme.example").await;
        // By a claim link, which proves no address.
        let own = world.tenant("mallory", UsageMode::Managed).await;
        let (url, _) = world.services.make_claim_link(&world.super_admin(), own.slug.as_str()).await.unwrap();
        let path = format!("/claim/{}", url.rsplit('/').next().unwrap());
        let mut mallory = Visitor::new(&world.url);
        mallory.get(&path).await;
        let made = mallory.post(&path, &[("email", "victim@acme.example"), ("password", PASSWORD)]).await;
        assert_eq!(made.status, 303, "{}", made.body);
        mallory.get("/account").await;
        set_up_app(world, &mut mallory).await;

        let mut victim = Visitor::new(&world.url);
        assert_eq!(come(world, &mut victim, "victim@acme.example").await.status, 303);
        assert_eq!(victim.get("/t/acme/settings/api-keys").await.status, 200);
        for path in ["/t/acme/settings/api-keys", "/account"] {
            assert_eq!(mallory.get(path).await.status, 303, "{path}: the stranger is out");
        }
        let mut again = Visitor::new(&world.url);
        again.get("/sign-in").await;
        let refused = again.post("/sign-in", &[("email", "victim@acme.example"), ("password", PASSWORD)]).await;
        assert_eq!(refused.status, 422, "and their password is no good");
    }
}

on_both! {
    async fn what_came_by_single_sign_on_stays_what_it_is(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        let beta = world.tenant("beta", UsageMode::Managed).await;
        connect(world, &tenant, "acme.example").await;
        let ada = world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        world.user("bob@acme.example", PASSWORD, None, Some((beta.id, TenantRole::Admin))).await;
        let mut tx = world.services.db.write().await.unwrap();
        people::add_member(&mut tx, ada.id, beta.id, TenantRole::Admin, world.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        let mut password = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        let (_, codes) = set_up_app(world, &mut password).await;
        let mut by_sso = Visitor::new(&world.url);
        assert_eq!(come(world, &mut by_sso, "ada@acme.example").await.status, 303);
        by_sso.get("/account").await;
        // A code of hers, whoever has it, makes no more of the session.
        let tokens = "/t/acme/settings/tokens";
        let fields = [("name", "x"), ("days", ""), ("current_code", codes[0].as_str())];
        assert_eq!(by_sso.post(tokens, &fields).await.status, 422);
        assert_eq!(by_sso.get("/t/beta/settings/api-keys").await.status, 404);
        by_sso.get("/account").await;
        // Nothing of other tenants is hers to leave, and no other session hers to end.
        assert_eq!(by_sso.post("/account/leave/beta", &[]).await.status, 404);
        let page = by_sso.get("/account").await;
        assert!(!page.body.contains("/revoke"), "only those that came the same way are listed");
        assert_eq!(by_sso.post("/account/sign-out-everywhere", &[]).await.status, 303);
        assert_eq!(by_sso.get("/account").await.status, 303);
        assert_eq!(password.get("/t/beta/settings/api-keys").await.status, 200, "the other session goes on");
        // A secret that is being set up is not shown to it.
        let mut early = Visitor::signed_in(&world.url, "bob@acme.example", PASSWORD).await;
        assert_eq!(early.post("/account/second-factor/app", &[]).await.status, 303);
        let mut bob = Visitor::new(&world.url);
        assert_eq!(come(world, &mut bob, "bob@acme.example").await.status, 303);
        bob.get("/account").await;
        let page = bob.post("/account/second-factor/app/finish", &[("code", "1"), ("current_password", "x")]).await;
        assert!(!page.body.contains("id=\"secret\""), "{}", page.body);
    }
}
