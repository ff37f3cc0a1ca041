//! Signing in, throttling, links and users, as use cases.

use std::sync::Mutex;
use std::time::Duration;

use keyward::crypto::secret::Secret;
use keyward::domain::account::{Email, PlatformRole, TenantRole};
use keyward::domain::audit::AuditActor;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR, SECOND};
use keyward::domain::ids::Owner;
use keyward::services::ServiceError;
use keyward::services::accounts::Origin;
use keyward::services::second_factors::Evidence;
use keyward::storage::audit;

use crate::notifications::{mail_server, mail_to};
use crate::on_both;
use crate::support::{On, Setup, World};
use crate::visitor::Visitor;

const PASSWORD: &str = "violet ladder 9 reed";

fn origin(address: &str, device: &str) -> Origin {
    Origin { address: address.to_owned(), device: device.to_owned(), request_id: None }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

on_both! {
    async fn guessing_is_slowed_down_and_the_owner_still_gets_in(world: World) {
        world.user("ada@acme.example", PASSWORD, None, None).await;
        let home = origin("192.0.2.1", "home");
        let sign_in = async |email: &str, password: &str, from: &Origin| {
            world.services.sign_in(email, secret(password), from).await
        };
        assert_eq!(sign_in(" Ada@Acme.Example ", PASSWORD, &home).await.unwrap().user.email, "ada@acme.example");
        // An attacker guesses: a few tries are free, then each costs twice the wait of the last.
        let mut throttled = 0;
        for i in 0..60 {
            let from = origin(&format!("198.51.100.{i}"), "attacker");
            match sign_in("ada@acme.example", "wrong password!", &from).await {
                Err(ServiceError::Denied) => {}
                Err(ServiceError::Throttled { seconds }) => {
                    assert!(seconds >= 1);
                    throttled += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(throttled >= 55, "{throttled}");
        let from = origin("198.51.100.99", "attacker");
        let right = sign_in("ada@acme.example", PASSWORD, &from).await;
        assert!(matches!(right, Err(ServiceError::Throttled { .. })), "the right password tells a guesser nothing");
        // The owner's own browser is counted apart.
        assert!(sign_in("ada@acme.example", PASSWORD, &home).await.is_ok());
        // An account that does not exist is throttled alike.
        let mut refusals = Vec::new();
        for i in 0..8 {
            let from = origin(&format!("198.51.100.{i}"), "other");
            refusals.push(matches!(sign_in("nobody@acme.example", "x", &from).await, Err(ServiceError::Throttled { .. })));
        }
        assert_eq!(refusals, [false, false, false, false, false, true, true, true]);
        // Waiting helps.
        world.clock.advance(20 * SECOND);
        assert!(matches!(sign_in("nobody@acme.example", "x", &origin("192.0.2.7", "other")).await, Err(ServiceError::Denied)));
    }
}

on_both! {
    async fn many_guesses_at_once_do_not_slip_past_the_count(world: World) {
        world.user("ada@acme.example", PASSWORD, None, None).await;
        let tries = (0..40).map(|i| {
            let services = &world.services;
            async move {
                let from = origin(&format!("203.0.113.{i}"), "swarm");
                services.sign_in("ada@acme.example", secret("wrong"), &from).await
            }
        });
        let outcomes = futures_util::future::join_all(tries).await;
        let judged = outcomes.iter().filter(|outcome| matches!(outcome, Err(ServiceError::Denied))).count();
        assert!(judged <= 6, "{judged} passwords were tried");
    }
}

on_both! {
    async fn the_first_admin_comes_by_a_link_that_works_once(world: World) {
        let link = world.services.first_admin_link().await.unwrap().expect("an empty database has no user");
        let token = link.rsplit('/').next().unwrap().to_owned();
        let from = origin("192.0.2.1", "home");
        for (email, password, field) in [("nonsense", PASSWORD, "email"), ("root@acme.example", "short", "password")] {
            match world.services.use_link(&token, email, secret(password), &from).await {
                Err(ServiceError::Invalid(problems)) => assert!(problems.of(field).is_some()),
                other => panic!("{other:?}"),
            }
        }
        let person = world.services.use_link(&token, "root@acme.example", secret(PASSWORD), &from).await.unwrap();
        assert_eq!(person.user.platform_role, Some(PlatformRole::SuperAdmin));
        let again = world.services.use_link(&token, "other@acme.example", secret(PASSWORD), &from).await;
        assert!(matches!(again, Err(ServiceError::NotFound)));
        assert!(world.services.first_admin_link().await.unwrap().is_none());
        assert!(world.services.sign_in("root@acme.example", secret(PASSWORD), &from).await.is_ok());
    }
}

on_both! {
    async fn a_newer_first_link_makes_the_older_useless(world: World) {
        let token = |link: Option<String>| link.unwrap().rsplit('/').next().unwrap().to_owned();
        let older = token(world.services.first_admin_link().await.unwrap());
        let newer = token(world.services.first_admin_link().await.unwrap());
        assert!(matches!(world.services.link(&older).await, Err(ServiceError::NotFound)));
        assert!(world.services.link(&newer).await.is_ok());
        world.clock.advance(DAY);
        assert!(matches!(world.services.link(&newer).await, Err(ServiceError::NotFound)), "a day is all it has");
    }
}

on_both! {
    async fn users_are_made_reset_and_locked_out(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        let by = AuditActor::system("test");
        let email = Email::parse("bob@acme.example").unwrap();
        let place = Some((tenant.id, TenantRole::Member));
        let link = world.services.create_user(&by, &email, None, place, None).await.unwrap().unwrap();
        let from = origin("192.0.2.1", "home");
        let no_password_yet = world.services.sign_in("bob@acme.example", secret("!"), &from).await;
        assert!(matches!(no_password_yet, Err(ServiceError::Denied)));
        let token = link.rsplit('/').next().unwrap();
        let person = world.services.use_link(token, "ignored", secret(PASSWORD), &from).await.unwrap();
        assert_eq!(person.memberships[0].role, TenantRole::Member);
        let twice = world.services.create_user(&by, &email, None, place, None).await;
        assert!(matches!(twice, Err(ServiceError::Invalid(_))));
        let reset = world.services.reset_link(&by, &email).await.unwrap();
        assert!(world.services.sign_in("bob@acme.example", secret(PASSWORD), &from).await.is_ok(), "the old one still works");
        let token = reset.rsplit('/').next().unwrap();
        world.services.use_link(token, "", secret("another 12 letters"), &from).await.unwrap();
        assert!(matches!(world.services.sign_in("bob@acme.example", secret(PASSWORD), &from).await, Err(ServiceError::Denied)));
        world.services.disable_user(&by, &email).await.unwrap();
        assert!(matches!(world.services.sign_in("bob@acme.example", secret("another 12 letters"), &from).await, Err(ServiceError::Denied)));
        assert!(world.services.person(person.user.id).await.unwrap().is_none());
    }
}

on_both! {
    async fn what_people_do_is_on_record(world: World) {
        world.user("ada@acme.example", PASSWORD, None, None).await;
        let from = origin("192.0.2.1", "home");
        let _ = world.services.sign_in("ada@acme.example", secret("wrong"), &from).await;
        world.services.sign_in("ada@acme.example", secret(PASSWORD), &from).await.unwrap();
        world.clock.advance(HOUR);
        let mut tx = world.services.db.read().await.unwrap();
        let rows = audit::list(&mut tx, Owner::Platform, 10).await.unwrap();
        let told: Vec<(&str, i64)> = rows.iter().map(|row| (row.action.as_str(), row.seq)).collect();
        assert_eq!(told[..2], [("user.signed_in", rows[0].seq), ("user.sign_in_failed", rows[0].seq - 1)]);
        assert_eq!(rows[0].address.as_deref(), Some("192.0.2.1"));
    }
}

on_both! {
    async fn the_confirmation_is_throttled_by_person_whatever_the_browser_says(world: World) {
        let user = world.user("ada@acme.example", PASSWORD, None, None).await;
        let actor = keyward::access::actor::Actor { user_id: user.id, ..world.actor(None, None) };
        let mut denied = 0;
        for _ in 0..12 {
            match world.services.confirm(&actor, Evidence::Password(secret("wrong"))).await {
                Err(ServiceError::Denied) => denied += 1,
                Err(ServiceError::Throttled { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(denied, 5);
        let mut tx = world.services.db.read().await.unwrap();
        let rows = audit::list(&mut tx, Owner::Platform, 50).await.unwrap();
        assert_eq!(rows.iter().filter(|row| row.action == "user.sign_in_failed").count(), 5);
    }
}

on_both! {
    async fn the_last_super_admin_stays_and_a_disabled_user_gets_no_link(world: World) {
        world.user("root@acme.example", PASSWORD, Some(PlatformRole::SuperAdmin), None).await;
        world.user("bob@acme.example", PASSWORD, None, None).await;
        let by = AuditActor::system("test");
        let (root, bob) = (Email::parse("root@acme.example").unwrap(), Email::parse("bob@acme.example").unwrap());
        assert!(matches!(world.services.disable_user(&by, &root).await, Err(ServiceError::Conflict(_))));
        let link = world.services.reset_link(&by, &bob).await.unwrap();
        world.services.disable_user(&by, &bob).await.unwrap();
        assert!(matches!(world.services.link(link.rsplit('/').next().unwrap()).await, Err(ServiceError::NotFound)));
        assert!(matches!(world.services.reset_link(&by, &bob).await, Err(ServiceError::Conflict(_))));
        world.services.enable_user(&by, &bob).await.unwrap();
        assert!(world.services.sign_in("bob@acme.example", secret(PASSWORD), &origin("192.0.2.1", "home")).await.is_ok());
    }
}

/// The first path that begins so in any letter that came after `seen` of them, once there is one.
async fn linked(letters: &Mutex<Vec<String>>, seen: usize, begin: &str) -> String {
    for _ in 0..200 {
        // Long lines are folded with `=` at their end.
        let all = letters.lock().unwrap()[seen..].join("\n").replace("=\n", "");
        if let Some(at) = all.find(begin) {
            return all[at..].split_whitespace().next().unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no letter with {begin}: {:?}", letters.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_password_is_chosen_anew_by_e_mail() {
    for on in [On::Sqlite, On::Postgres] {
        let (url, letters) = mail_server().await;
        let mail = mail_to(url);
        let world = World::with(on, Setup { mail, ..Setup::default() }).await;
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        let mut known = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        assert!(letters.lock().unwrap().is_empty(), "the first browser is no news");

        // The answer is the same for whoever is asked for.
        let mut visitor = Visitor::new(&world.url);
        visitor.get("/sign-in").await.says("Forgot your password?");
        let mut said = Vec::new();
        for email in ["ada@acme.example", "nobody@acme.example"] {
            visitor.get("/forgot").await;
            let page = visitor.post("/forgot", &[("email", email)]).await;
            assert_eq!(page.status, 200);
            said.push(page.body.replace(email, "X"));
        }
        assert_eq!(said[0], said[1]);
        assert_eq!(visitor.post("/forgot", &[("email", "none")]).await.status, 422);
        let link = linked(&letters, 0, "/setup/").await;
        assert_eq!(letters.lock().unwrap().len(), 1);
        visitor.get(&link).await.says("For ada@acme.example.");
        let new = "amber tunnel 4 crane";
        assert_eq!(visitor.post(&link, &[("password", new)]).await.status, 303);
        assert_eq!(visitor.get("/account").await.status, 200);
        // All sessions from before are over, and so is the link.
        assert_eq!(known.get("/account").await.status, 303);
        assert_eq!(Visitor::new(&world.url).get(&link).await.status, 404);

        // A browser that was never seen is news; and all sessions end at once.
        let seen = letters.lock().unwrap().len();
        let mut third = Visitor::signed_in(&world.url, "ada@acme.example", new).await;
        linked(&letters, seen, "/account").await;
        third.get("/account").await;
        assert_eq!(third.post("/account/sign-out-everywhere", &[]).await.status, 303);
        for one in [&mut third, &mut visitor] {
            assert_eq!(one.get("/account").await.status, 303);
        }
        // An invitation goes the same way.
        let seen = letters.lock().unwrap().len();
        let mut admin = Visitor::signed_in(&world.url, "ada@acme.example", new).await;
        linked(&letters, seen, "/account").await;
        let seen = letters.lock().unwrap().len();
        admin.get("/t/acme/settings/members").await;
        let fields = [("email", "mia@acme.example"), ("role", "member")];
        let invited = admin.post("/t/acme/settings/members", &fields).await;
        invited.says("The link went out by e-mail.");
        assert!(!invited.body.contains("/join/"), "shown to nobody else");
        let invitation = linked(&letters, seen, "/join/").await;
        Visitor::new(&world.url).get(&invitation).await.says("as member");
        // Too many letters to one address have to wait.
        let mut again = Visitor::new(&world.url);
        again.get("/forgot").await;
        let seen = letters.lock().unwrap().len();
        for _ in 0..8 {
            assert_eq!(
                again.post("/forgot", &[("email", "ada@acme.example")]).await.status,
                200,
                "it tells nobody"
            );
        }
        let link = linked(&letters, seen, "/setup/").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(letters.lock().unwrap().len(), seen + 5, "five links at a time");
        // Once one is used, or the password changed otherwise, the others are dead.
        admin.get("/account").await;
        let newer = "copper lantern 7 gull";
        let fields = [("current_password", new), ("new_password", newer)];
        assert_eq!(admin.post("/account/password", &fields).await.status, 303);
        assert_eq!(Visitor::new(&world.url).get(&link).await.status, 404);
        assert_eq!(admin.get("/account").await.status, 200);
        // A session that was being begun when all were ended is over with them.
        let late = world
            .services
            .sign_in("ada@acme.example", secret(newer), &origin("192.0.2.9", "late"))
            .await
            .unwrap();
        admin.get("/account").await;
        assert_eq!(admin.post("/account/sign-out-everywhere", &[]).await.status, 303);
        let now = world.services.person(late.user.id).await.unwrap().unwrap();
        assert!(late.since < now.user.sessions_from);
        let mut begun = Visitor::signed_in(&world.url, "ada@acme.example", newer).await;
        assert_eq!(begun.get("/account").await.status, 200);
        world.sql("UPDATE app_user SET sessions_from = 9000000000000000").await;
        assert_eq!(begun.get("/account").await.status, 303, "its row is there, and it is over");
        world.sql("UPDATE app_user SET sessions_from = 0").await;
        world.end().await;
    }
}
