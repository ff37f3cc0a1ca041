//! Signing in, throttling, links and users, as use cases.

use keyward::crypto::secret::Secret;
use keyward::domain::account::{Email, PlatformRole, TenantRole};
use keyward::domain::audit::AuditActor;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR, SECOND};
use keyward::domain::ids::Owner;
use keyward::services::ServiceError;
use keyward::services::accounts::Origin;
use keyward::storage::audit;

use crate::on_both;

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
            match world.services.confirm(&actor, secret("wrong")).await {
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
