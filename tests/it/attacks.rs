//! What attackers try at the doors: guessing, flooding, sessions of before, fields that no form has, script
//! in every field. Codes, passkeys and single sign-on have theirs in their own files.

use std::time::{Duration, Instant};

use keyward::crypto::secret::Secret;
use keyward::domain::account::{Email, TenantRole};
use keyward::domain::audit::AuditActor;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::HOUR;
use keyward::domain::ids::Owner;
use keyward::services::ServiceError;
use keyward::services::accounts::Origin;
use keyward::storage::audit;

use crate::console::{PAGES, PASSWORD, POSTS, cast, sign_in};
use crate::factors::{code, set_up_app};
use crate::on_both;
use crate::support::{On, Setup, World, holder, test_key};
use crate::visitor::Visitor;

fn from(address: &str, device: &str) -> Origin {
    Origin { address: address.to_owned(), device: device.to_owned(), request_id: None }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

on_both! {
    async fn a_thousand_guesses_find_nothing_and_the_owner_still_gets_in(world: World) {
        world.user("ada@acme.example", PASSWORD, None, None).await;
        let home = from("192.0.2.1", "home");
        world.services.sign_in("ada@acme.example", secret(PASSWORD), &home).await.unwrap();
        let mut judged = [0, 0];
        for guess in 0..1_000 {
            let origin = from(&format!("198.51.{}.{}", guess / 250, guess % 250), &format!("bot {guess}"));
            for (who, email) in ["ada@acme.example", "nobody@acme.example"].into_iter().enumerate() {
                match world.services.sign_in(email, secret("wrong horse 12345"), &origin).await {
                    Err(ServiceError::Denied) => judged[who] += 1,
                    Err(ServiceError::Throttled { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(judged[0], judged[1], "an account that is none is throttled alike");
        assert!(judged[0] <= 10, "{judged:?} of a thousand were judged at all");
        assert!(world.services.sign_in("ada@acme.example", secret(PASSWORD), &home).await.is_ok());
    }
}

/// How long a refusal takes says nothing of whether there is such an account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_takes_as_long_for_who_is_not_there() {
    let world = World::new(On::Sqlite).await;
    for number in 0..16 {
        world.user(&format!("known{number}@acme.example"), PASSWORD, None, None).await;
    }
    // The median of several tries, each with an account and an address of its own, in turn.
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for round in 0..5 {
        for number in 0..16 {
            for (kind, who) in ["known", "stranger"].into_iter().enumerate() {
                let origin = from(
                    &format!("203.0.{}.{number}", round * 2 + kind),
                    &format!("{round} {kind} {number}"),
                );
                let begun = Instant::now();
                let refused = world
                    .services
                    .sign_in(&format!("{who}{number}@acme.example"), secret("wrong"), &origin)
                    .await;
                times[kind].push(begun.elapsed());
                assert!(matches!(refused, Err(ServiceError::Denied | ServiceError::Throttled { .. })));
            }
        }
        world.clock.advance(13 * HOUR);
    }
    for list in &mut times {
        list.sort_unstable();
    }
    let median = |list: &[Duration]| list[list.len() / 2].as_secs_f64();
    let ratio = median(&times[0]) / median(&times[1]);
    assert!(
        (0.75..1.33).contains(&ratio),
        "known takes {ratio:.2} of unknown: {:?}",
        [times[0][40], times[1][40]]
    );
    world.end().await;
}

/// Passwords are hashed a few at a time, beside what answers pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sign_ins_at_once_leave_the_console_responsive() {
    let world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Managed).await;
    world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
    let mut ada = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
    let flood = (0..200).map(|number| {
        let services = std::sync::Arc::clone(&world.services);
        tokio::spawn(async move {
            let origin = from(&format!("198.51.100.{number}"), &format!("bot {number}"));
            let email = format!("nobody{number}@acme.example");
            services.sign_in(&email, secret("wrong"), &origin).await.err().map(|error| error.to_string())
        })
    });
    let flood: Vec<_> = flood.collect();
    let (mut slowest, mut pages) = (Duration::ZERO, 0);
    while !flood.iter().all(tokio::task::JoinHandle::is_finished) || pages < 5 {
        let begun = Instant::now();
        assert_eq!(ada.get("/t/acme/settings/api-keys").await.status, 200);
        slowest = slowest.max(begun.elapsed());
        pages += 1;
    }
    for one in flood {
        assert_eq!(one.await.unwrap().as_deref(), Some("not permitted"), "each was judged in the end");
    }
    assert!(slowest < Duration::from_secs(3), "a page took {slowest:?} among {pages}");
    world.end().await;
}

on_both! {
    async fn a_session_that_somebody_planted_is_nobodys(world: World) {
        cast(world).await;
        // What a stranger can make: a session that is halfway to a passkey.
        let mut stranger = Visitor::new(&world.url);
        stranger.get("/sign-in").await;
        assert_eq!(stranger.post("/sign-in/passkey/question", &[]).await.status, 200);
        let planted = stranger.cookie("keyward").expect("a session").clone();
        let mut victim = Visitor::new(&world.url);
        victim.set_cookie("keyward", &planted);
        victim.get("/sign-in").await;
        let fields = [("email", "admin@acme.example"), ("password", PASSWORD)];
        assert_eq!(victim.post("/sign-in", &fields).await.status, 303);
        assert_ne!(victim.cookie("keyward"), Some(&planted), "signing in takes a fresh key");
        assert_eq!(victim.get("/account").await.status, 200);
        assert_eq!(stranger.get("/account").await.status, 303, "the planted one is signed in nowhere");
        // A key of one's own invention is no session either.
        let mut inventor = Visitor::new(&world.url);
        inventor.set_cookie("keyward", "0000000000000000000000000000000000000000000");
        assert_eq!(inventor.get("/account").await.status, 303);
    }
}

on_both! {
    async fn sessions_of_before_are_worth_nothing_after(world: World) {
        let cast = cast(world).await;
        let by = AuditActor::system("test");
        let member = Email::parse("member@acme.example").unwrap();
        // A reset.
        let mut before = sign_in(world, "member").await;
        let link = world.services.reset_link(&by, &member).await.unwrap();
        let token = link.rsplit('/').next().unwrap();
        world.services.use_link(token, "", secret("another 12 letters"), &from("192.0.2.1", "x")).await.unwrap();
        assert_eq!(before.get("/account").await.status, 303, "after a reset");
        // A change of role holds for the next request.
        let mut billing = sign_in(world, "billing").await;
        assert_eq!(billing.get("/t/acme/settings/security").await.status, 200);
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get("/t/acme/settings/members").await;
        let row = page.body.split("<tr>").find(|row| row.contains("billing@acme.example")).unwrap().to_owned();
        let id = row.split("/settings/members/").nth(1).unwrap().split('/').next().unwrap().to_owned();
        let role = format!("/t/acme/settings/members/{id}/role");
        assert_eq!(admin.post(&role, &[("role", "member")]).await.status, 303);
        assert_eq!(billing.get("/t/acme/settings/security").await.status, 403, "after a change of role");
        admin.post(&role, &[("role", "super_admin")]).await;
        assert_eq!(billing.get("/platform/tenants").await.status, 403, "no tenant gives what is the platform's");
        assert_eq!(billing.get("/t/acme/settings/security").await.status, 403);
        // Removal.
        assert_eq!(admin.post(&format!("/t/acme/settings/members/{id}/remove"), &[]).await.status, 303);
        assert_eq!(billing.get("/t/acme/billing").await.status, 303, "after removal");
        // Locked out.
        world.services.disable_user(&by, &Email::parse("admin@acme.example").unwrap()).await.unwrap();
        assert_eq!(admin.get("/account").await.status, 303, "after being locked out");
        assert!(cast.tenant.slug.as_str() == "acme");
    }
}

on_both! {
    async fn fields_that_no_form_has_are_refused_everywhere(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let count = async || {
            let mut tx = world.services.db.read().await.unwrap();
            let tenant = audit::list(&mut tx, Owner::Tenant(cast.tenant.id), 5_000).await.unwrap();
            let platform = audit::list(&mut tx, Owner::Platform, 5_000).await.unwrap();
            tenant.iter().chain(&platform).filter(|row| row.action != "policy.refused").count()
        };
        let mut people = [sign_in(world, "admin").await, sign_in(world, "root").await];
        let before = count().await;
        for visitor in &mut people {
            for (path, fields, _) in POSTS {
                for extra in [("role", "super_admin"), ("tenant_id", "01a1fb92-2a86-77d2-84f1-750dabcb3608"), ("csrf2", "x")] {
                    // Where the field is the form's own, twice is as wrong.
                    let mut sent = fields.to_vec();
                    sent.push(extra);
                    let status = visitor.post(path, &sent).await.status.as_u16();
                    let refused = matches!(status, 400 | 403 | 404);
                    assert!(refused, "{path} with {}: {status}", extra.0);
                }
            }
        }
        assert_eq!(count().await, before, "nothing was done");
    }
}

on_both! {
    async fn script_in_every_field_is_text(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let script = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
        let mut people = [sign_in(world, "admin").await, sign_in(world, "root").await];
        let harmless = |body: &str, what: &str| {
            assert!(!body.contains("<script>alert") && !body.contains("<img src=x"), "{what}");
        };
        for visitor in &mut people {
            for (path, fields, _) in POSTS {
                for at in 0..fields.len() {
                    let mut sent = fields.to_vec();
                    sent[at].1 = script;
                    let page = visitor.post(path, &sent).await;
                    harmless(&page.body, &format!("{path} {}", fields[at].0));
                }
            }
            for (path, _) in PAGES {
                let page = visitor.get(path).await;
                let kind = page.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap());
                if kind.starts_with("text/csv") || kind.starts_with("text/markdown") {
                    // A file, and no browser takes it for a page.
                    assert_eq!(page.headers["x-content-type-options"], "nosniff", "{path}");
                } else {
                    harmless(&page.body, path);
                }
            }
            for path in ["/sign-in?next=", "/sign-in/sso?next=", "/platform/viewing?q=", "/t/acme/activity/audit?actor="] {
                let query: String = url::form_urlencoded::byte_serialize(script.as_bytes()).collect();
                harmless(&visitor.get(&format!("{path}{query}")).await.body, path);
            }
        }
    }
}

on_both! {
    async fn no_door_leads_to_another_site(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        let mut ada = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        let (secret, _) = set_up_app(world, &mut ada).await;
        for next in ["https://evil.example/", "//evil.example", "/\\evil.example", "/\t/evil.example", "evil.example"] {
            let mut visitor = Visitor::new(&world.url);
            visitor.get("/sign-in").await;
            let fields = [("email", "ada@acme.example"), ("password", PASSWORD), ("next", next)];
            assert_eq!(visitor.post("/sign-in", &fields).await.location(), "/sign-in/second");
            visitor.get("/sign-in/second").await;
            let page = visitor.post("/sign-in/second", &[("code", &code(world, &secret))]).await;
            assert_eq!((page.status.as_u16(), page.location()), (303, "/t/acme/settings/api-keys"), "{next}");
            world.clock.advance(keyward::domain::clock::MINUTE);
            for door in ["/sign-in", "/sign-in/sso"] {
                let query: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
                let page = Visitor::new(&world.url).get(&format!("{door}?next={query}")).await;
                assert!(!page.body.contains("evil.example"), "{door} {next}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staff_can_be_asked_for_a_second_factor() {
    let world = World::with(On::Sqlite, Setup { staff_second_factor: true, ..Setup::default() }).await;
    let cast = cast(&world).await;
    let mut root = sign_in(&world, "root").await;
    for path in ["/platform/tenants", "/t/acme/billing", "/platform/viewing"] {
        assert_eq!(root.get(path).await.location(), "/account/second-factor?asked=1", "{path}");
    }
    root.get("/account").await;
    set_up_app(&world, &mut root).await;
    assert_eq!(root.get("/platform/tenants").await.status, 200);
    let mut admin = sign_in(&world, "admin").await;
    assert_eq!(admin.get("/t/acme/billing").await.status, 200, "tenants decide for themselves");
    assert!(world.services.key_lines(holder(&cast.tenant)).await.unwrap().is_empty());
    world.end().await;
}
