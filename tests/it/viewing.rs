//! Staff view a tenant: as one of its people, read-only, on record, and only as far as the tenant allows.

use keyward::domain::account::TenantRole;
use keyward::domain::clock::{HOUR, MINUTE};
use keyward::domain::ids::Owner;
use keyward::storage::audit::{self, AuditRow};

use crate::console::{Cast, PAGES, PASSWORD, POSTS, cast, sign_in};
use crate::on_both;
use crate::support::{World, holder, new_key, test_key};
use crate::visitor::Visitor;

async fn id_of(world: &World, email: &str) -> String {
    let mut tx = world.services.db.read().await.unwrap();
    let email = keyward::domain::account::Email::parse(email).unwrap();
    keyward::storage::people::find_by_email(&mut tx, &email).await.unwrap().unwrap().id.to_string()
}

async fn log(world: &World, cast: &Cast) -> Vec<AuditRow> {
    let mut tx = world.services.db.read().await.unwrap();
    audit::list(&mut tx, Owner::Tenant(cast.tenant.id), 10_000).await.unwrap()
}

async fn start(world: &World, support: &mut Visitor, whom: &str) -> crate::visitor::Page {
    let user = id_of(world, whom).await;
    support.get("/platform/viewing?tenant=acme").await;
    let fields = [
        ("tenant", "acme"),
        ("user", user.as_str()),
        ("reason", "Chart <b>looks</b> wrong"),
        ("ticket", "4821"),
        ("minutes", "20"),
    ];
    support.post("/platform/viewing", &fields).await
}

on_both! {
    async fn support_sees_what_the_person_sees_changes_nothing_and_all_of_it_is_on_record(world: World) {
        let cast = cast(world).await;
        let admin = world.admin(&cast.tenant);
        world.services.add_key(&admin, holder(&cast.tenant), new_key("production", &test_key("ok"))).await.unwrap();
        let mut support = sign_in(world, "support").await;
        assert_eq!(support.get("/t/acme/settings/api-keys").await.status, 404, "not before it was started");
        let before = support.cookie("keyward").cloned();
        let page = start(world, &mut support, "admin@acme.example").await;
        assert_eq!((page.status.as_u16(), page.location()), (303, "/t/acme/settings/api-keys"), "{}", page.body);
        assert_ne!(support.cookie("keyward").cloned(), before, "a fresh key for the session");

        let page = support.get("/t/acme/settings/api-keys").await;
        assert_eq!(page.status, 200);
        page.says("Viewing acme Ltd as admin@acme.example, read-only, by support@acme.example. Ends in 20 minutes.")
            .says("Ticket 4821: Chart &#60;b&#62;looks&#60;/b&#62; wrong");
        assert!(!support.get("/t/acme/billing").await.body.contains("Download CSV"));
        for button in ["Add key", "Check now", "/rotate"] {
            assert!(!page.body.contains(button), "{button}");
        }
        // What the person sees, but for what is a change or a file.
        for (path, statuses) in PAGES {
            let of_admin = statuses.split(' ').nth(2).unwrap();
            let name = path.split('?').next().unwrap().rsplit('/').next().unwrap();
            let status = support.get(path).await.status.as_u16();
            let leads_to_change = path.ends_with("/new") || path.ends_with("/rotate") || path.contains("/remove")
                || ["/tokens", "/members", "/single-sign-on"].iter().any(|end| path.ends_with(end));
            let expected = match of_admin {
                _ if !path.starts_with("/t/") => 403,
                _ if name.contains('.') => 403,
                "200" | "404" if leads_to_change => 403,
                status => status.parse().unwrap(),
            };
            assert_eq!(status, expected, "{path}");
        }
        assert_eq!(support.get("/t/neighbour/billing").await.status, 404, "another tenant");

        for path in ["/t/acme/nothing", "/t/acme/activity/questions/1/article%2Emd"] {
            let page = support.get(path).await;
            assert!(page.status.is_client_error() && page.body.contains("Stop viewing"), "{path} {}", page.status);
        }
        // No form does anything, and each try is on record.
        let count = log(world, &cast).await.len();
        for (path, fields, _) in POSTS {
            let page = support.post(path, fields).await;
            assert_eq!(page.status, 403, "{path}");
            page.says("You are only looking").says("Stop viewing");
        }
        let rows = log(world, &cast).await;
        let tried = &rows[..rows.len() - count];
        assert_eq!(tried.len(), POSTS.len());
        assert!(tried.iter().all(|row| row.action == "policy.refused"), "nothing was changed");

        // Each page is in the tenant's log, with both ids.
        let (viewer, viewed) = (id_of(world, "support@acme.example").await, id_of(world, "admin@acme.example").await);
        for path in ["/t/acme/settings/api-keys", "/t/acme/billing", "/t/acme/activity/audit"] {
            let row = rows.iter().find(|row| row.action == "page.viewed" && row.target == path).expect(path);
            assert_eq!(row.actor, "support@acme.example as admin@acme.example");
            assert_eq!(row.actor_id.unwrap().to_string(), viewer);
            assert_eq!(row.behalf_id.unwrap().to_string(), viewed);
            assert_eq!(row.address.as_deref(), Some("127.0.0.1"));
        }
        support.get("/t/acme/billing").await;
        let page = support.post("/viewing/stop", &[]).await;
        assert_eq!((page.status.as_u16(), page.location()), (303, "/platform/viewing"));
        assert_eq!(support.get("/t/acme/billing").await.status, 404);
        support.get("/platform/viewing").await.says("Viewed before").says("4821");

        // The tenant's admin finds all of it.
        let mut ada = sign_in(world, "admin").await;
        ada.get("/t/acme/settings/support-access").await.says("support@acme.example").says("4821").says("by support@acme.example");
        ada.get("/t/acme/activity/audit?action=page.viewed").await.says("/t/acme/billing");
        let mut tx = world.services.db.snapshot().await.unwrap();
        let (_, damaged) = audit::verify(&mut tx, &world.services.root).await.unwrap();
        assert_eq!(damaged, []);
    }
}

on_both! {
    async fn it_ends_with_its_time_the_tenants_word_or_the_persons_role(world: World) {
        let cast = cast(world).await;
        let mut ada = sign_in(world, "admin").await;
        let over = async |support: &mut Visitor, why: &str| {
            let page = support.get("/t/acme/billing").await;
            assert_eq!((page.status.as_u16(), page.location()), (303, "/platform/viewing"), "{why}");
            support.get("/platform/viewing").await.says("You have stopped viewing the tenant");
            assert_eq!(support.get("/t/acme/billing").await.status, 404, "{why}");
        };
        let mut support = sign_in(world, "support").await;
        assert_eq!(start(world, &mut support, "member@acme.example").await.status, 303);
        assert_eq!(support.get("/t/acme/billing").await.status, 200);
        assert_eq!(support.get("/t/acme/activity/audit").await.status, 403, "a member sees no log, and nor does who views one");
        world.clock.advance(20 * MINUTE);
        over(&mut support, "twenty minutes").await;

        // The admin says never, while somebody looks.
        let mut support = sign_in(world, "support").await;
        assert_eq!(start(world, &mut support, "member@acme.example").await.status, 303);
        ada.get("/account").await;
        let rule = "/t/acme/settings/support-access";
        world.clock.advance(-20 * MINUTE);
        assert_eq!(ada.post(rule, &[("consent", "never"), ("hours", "0")]).await.status, 303);
        over(&mut support, "never").await;
        let refused = start(world, &mut support, "member@acme.example").await;
        assert_eq!(refused.status, 409);
        refused.says("does not allow");

        // A window, which closes before the minutes are over.
        assert_eq!(ada.post(rule, &[("consent", "window"), ("hours", "1")]).await.status, 303);
        world.clock.advance(HOUR - 5 * MINUTE);
        let mut support = sign_in(world, "support").await;
        assert_eq!(start(world, &mut support, "member@acme.example").await.status, 303);
        support.get("/t/acme/billing").await.says("Ends in 5 minutes.");
        world.clock.advance(5 * MINUTE);
        over(&mut support, "the window").await;

        // Ended by the admin, by hand.
        let mut ada = sign_in(world, "admin").await;
        assert_eq!(ada.post(rule, &[("consent", "always"), ("hours", "0")]).await.status, 303);
        assert_eq!(start(world, &mut support, "member@acme.example").await.status, 303);
        let page = ada.get(rule).await;
        let end = page.body.split("action=\"").find(|part| part.contains("/end\"")).unwrap().split('"').next().unwrap().to_owned();
        assert_eq!(ada.post(&end, &[]).await.status, 303);
        over(&mut support, "ended by the admin").await;
        ada.get(rule).await.says("by admin@acme.example");

        // The person who is viewed loses their place.
        assert_eq!(start(world, &mut support, "member@acme.example").await.status, 303);
        let mut tx = world.services.db.read().await.unwrap();
        let members = keyward::storage::members::list(&mut tx, &holder(&cast.tenant).scope).await.unwrap();
        let member = members.iter().find(|one| one.role == TenantRole::Member).unwrap().clone();
        tx.rollback().await.unwrap();
        let mut tx = world.services.db.write().await.unwrap();
        keyward::storage::members::remove(&mut tx, &holder(&cast.tenant).scope, &member, world.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        over(&mut support, "the person is gone").await;
    }
}

on_both! {
    async fn who_may_start_and_as_whom(world: World) {
        let cast = cast(world).await;
        // Somebody of the staff who is a member too.
        let place = Some((cast.tenant.id, TenantRole::Admin));
        world.user("both@acme.example", PASSWORD, Some(keyward::domain::account::PlatformRole::Support), place).await;
        let mut support = sign_in(world, "support").await;
        let page = support.get("/platform/viewing?tenant=acme").await;
        assert!(!page.body.contains("both@acme.example"), "never staff");
        for (whom, why) in [("both@acme.example", "staff"), ("stranger@acme.example", "of another tenant")] {
            assert_eq!(start(world, &mut support, whom).await.status, 422, "{why}");
        }
        let user = id_of(world, "admin@acme.example").await;
        for (reason, ticket, minutes, field) in [
            ("", "4821", "20", "reason"),
            ("why", " ", "20", "ticket"),
            ("why", "4821", "31", "minutes"),
            (&"x".repeat(301), "4821", "20", "reason"),
        ] {
            let fields = [("tenant", "acme"), ("user", &user), ("reason", reason), ("ticket", ticket), ("minutes", minutes)];
            let page = support.post("/platform/viewing", &fields).await;
            assert_eq!(page.status, 422, "{field}");
            page.says(&format!("id=\"{field}-error\""));
        }
        // It asks whether it is them.
        world.clock.advance(11 * MINUTE);
        let asked = start(world, &mut support, "admin@acme.example").await;
        assert_eq!(asked.status, 422);
        asked.says("value=\"4821\"");
        let mut support = sign_in(world, "support").await;
        assert_eq!(start(world, &mut support, "admin@acme.example").await.status, 303);
        // Never nested: the page to start another is closed, and the policy says no as well.
        assert_eq!(support.get("/platform/viewing").await.status, 403);
        // A super admin views like anybody else, and is no super admin meanwhile.
        let mut root = sign_in(world, "root").await;
        assert_eq!(start(world, &mut root, "member@acme.example").await.status, 303);
        assert_eq!(root.get("/platform/tenants").await.status, 403);
        assert_eq!(root.get("/t/neighbour/billing").await.status, 404);
        // Signing out ends it all, and the record says so; so it does of who never came back.
        root.get("/t/acme/billing").await;
        assert_eq!(root.post("/sign-out", &[]).await.status, 303);
        let ended = async || log(world, &cast).await.iter().filter(|row| row.action == "viewing.ended").count();
        assert_eq!(ended().await, 1);
        world.clock.advance(30 * MINUTE);
        world.services.end_old_viewings().await.unwrap();
        assert_eq!(ended().await, 2);
        assert_eq!(support.post("/sign-out", &[]).await.location(), "/sign-in", "also when its time is over");
        let mut root = sign_in(world, "root").await;
        assert_eq!(root.get("/platform/tenants").await.status, 200);
        // A token of the form from before it began is no good any more.
        let mut other = sign_in(world, "root").await;
        let stale = other.csrf.clone();
        assert_eq!(start(world, &mut other, "member@acme.example").await.status, 303);
        other.csrf = stale;
        assert_eq!(other.post("/viewing/stop", &[]).await.status, 403);
    }
}
