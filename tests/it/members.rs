//! Members: invited by a link that works once, given roles, removed at once, and what they knew.

use std::time::Duration;

use keyward::domain::account::{Email, TenantRole};
use keyward::domain::audit::AuditActor;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, MINUTE};
use keyward::domain::ids::Owner;
use keyward::storage::{audit, members, sessions};

use crate::console::{Cast, PASSWORD, cast, sign_in};
use crate::on_both;
use crate::support::{World, holder, test_key};
use crate::visitor::{Page, Visitor};

const PAGE: &str = "/t/acme/settings/members";

/// The path of the link that an answer shows.
fn link(page: &Page) -> String {
    let at = page.body.find("/join/").expect("a link");
    page.body[at..].split('<').next().unwrap().to_owned()
}

async fn invite(admin: &mut Visitor, email: &str, role: &str) -> String {
    admin.get(PAGE).await;
    let page = admin.post(PAGE, &[("email", email), ("role", role)]).await;
    assert_eq!(page.status, 200, "{}", page.body);
    link(&page)
}

/// What was done in a tenant, by its names.
async fn audit_of(world: &World, chain: Owner) -> Vec<String> {
    let mut tx = world.services.db.read().await.unwrap();
    let rows = audit::list(&mut tx, chain, 500).await.unwrap();
    rows.into_iter().map(|row| row.action).collect()
}

/// The id of a member, as the page of members has it.
async fn id_of(admin: &mut Visitor, email: &str) -> String {
    let page = admin.get(PAGE).await.body;
    let row = page.split("<tr>").find(|row| row.contains(email)).unwrap_or_else(|| panic!("no {email}"));
    let at = row.find("/settings/members/").unwrap() + "/settings/members/".len();
    row[at..].split('/').next().unwrap().to_owned()
}

on_both! {
    async fn an_invitation_works_once_and_for_its_address_alone(world: World) {
        let Cast { tenant, .. } = cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        admin.get(PAGE).await;
        for (email, role, message) in [
            ("no address", "member", "Enter an e-mail address"),
            ("new@acme.example", "owner", "Choose a role."),
            ("member@acme.example", "member", "That person is a member already."),
        ] {
            let page = admin.post(PAGE, &[("email", email), ("role", role)]).await;
            assert_eq!(page.status, 422);
            page.says(message);
        }
        let link = invite(&mut admin, "New@Acme.example", "billing_admin").await;
        admin.get(PAGE).await.says("new@acme.example").says("Billing admin");
        assert!(!admin.get(PAGE).await.body.contains(&link), "shown only once");

        // Somebody without an account chooses a password, and is in.
        let mut new = Visitor::new(&world.url);
        new.get(&link).await.says("admin@acme.example invites new@acme.example to acme Ltd as billing admin.");
        assert_eq!(new.post(&link, &[("password", "short")]).await.status, 422);
        assert_eq!(new.post(&link, &[("password", PASSWORD), ("role", "admin")]).await.status, 400, "an extra field");
        assert_eq!(new.post(&link, &[("password", PASSWORD)]).await.status, 303);
        assert_eq!(new.get("/t/acme/billing/budgets").await.status, 200);
        assert_eq!(new.get(PAGE).await.status, 403, "a billing admin");
        assert_eq!(Visitor::new(&world.url).get(&link).await.status, 404, "used up");

        // Somebody with an account signs in first; nobody else can use the link.
        let link = invite(&mut admin, "stranger@acme.example", "member").await;
        Visitor::new(&world.url).get(&link).await.says("Sign in to accept");
        let mut blind = Visitor::new(&world.url);
        blind.get(&link).await;
        blind.get("/sign-in").await;
        assert_eq!(blind.post(&link, &[("password", PASSWORD)]).await.status, 422);
        let mut wrong = sign_in(world, "member").await;
        wrong.get(&link).await.says("You are signed in as member@acme.example.");
        assert_eq!(wrong.post(&format!("{link}/accept"), &[]).await.status, 403);
        let mut stranger = sign_in(world, "stranger").await;
        assert_eq!(stranger.get("/t/acme/billing").await.status, 404);
        stranger.get(&link).await.says("Accept invitation");
        let token = stranger.csrf.clone();
        let twice = [("csrf", token.as_str())];
        let again = format!("{link}/accept");
        assert_eq!(stranger.post_exactly(&again, &twice, &[]).await.status, 303);
        assert_eq!(stranger.post_exactly(&again, &twice, &[]).await.status, 404);
        assert_eq!(stranger.get("/t/acme/billing").await.status, 200);

        // Taken back, replaced by a newer one, or too old: dead.
        let taken = invite(&mut admin, "late@acme.example", "member").await;
        let page = admin.get(PAGE).await.body;
        let at = page.find("/invitations/").unwrap();
        let take_back = format!("{PAGE}{}", page[at..].split('"').next().unwrap());
        assert_eq!(admin.post(&take_back, &[]).await.status, 303);
        let older = invite(&mut admin, "late@acme.example", "member").await;
        let newer = invite(&mut admin, "late@acme.example", "member").await;
        for (link, status) in [(&taken, 404), (&older, 404), (&newer, 200)] {
            assert_eq!(Visitor::new(&world.url).get(link).await.status, status);
        }
        world.clock.advance(8 * DAY);
        assert_eq!(Visitor::new(&world.url).get(&newer).await.status, 404);
        let audit = audit_of(world, Owner::Tenant(tenant.id)).await;
        for action in ["member.invited", "member.added", "member.invitation_taken_back"] {
            assert!(audit.iter().any(|done| done == action), "{action}: {audit:?}");
        }
    }
}

on_both! {
    async fn roles_hold_at_once_and_the_last_admin_stays(world: World) {
        let Cast { tenant, .. } = cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        let mut member = sign_in(world, "member").await;
        assert_eq!(member.get("/t/acme/settings/tokens").await.status, 403);
        let (own, other) = (id_of_own(world, "admin").await, id_of(&mut admin, "member@acme.example").await);
        assert_eq!(admin.post(&format!("{PAGE}/{own}/role"), &[("role", "member")]).await.status, 403, "never one's own");
        assert_eq!(admin.post(&format!("{PAGE}/{own}/remove"), &[]).await.status, 403);
        admin.get(PAGE).await;
        admin.post(&format!("{PAGE}/{other}/role"), &[("role", "owner")]).await;
        admin.get(PAGE).await.says("Choose a role.");
        assert_eq!(admin.post(&format!("{PAGE}/{other}/role"), &[("role", "admin")]).await.status, 303);
        assert_eq!(member.get("/t/acme/settings/tokens").await.status, 200);
        // Two admins who demote each other at the same moment: one stays.
        member.get(PAGE).await;
        let (first, second) = (format!("{PAGE}/{other}/role"), format!("{PAGE}/{own}/role"));
        let fields = [("role", "member")];
        futures_util::join!(admin.post(&first, &fields), member.post(&second, &fields));
        let scope = holder(&tenant).scope;
        let found = world.services.members(&scope).await.unwrap().members;
        let admins = found.iter().filter(|one| one.role == TenantRole::Admin).count();
        assert_eq!(admins, 1, "{found:?}");
        // Whoever is left cannot leave.
        let last = if found.iter().any(|one| one.email == "admin@acme.example" && one.role == TenantRole::Admin) { &mut admin } else { &mut member };
        last.get("/account").await;
        last.post("/account/leave/acme", &[]).await;
        last.get("/account").await.says("That is the last admin: make somebody else one first.");
        // People of other tenants are nobody here.
        let stranger = id_of_own(world, "stranger").await;
        last.get(PAGE).await;
        assert_eq!(last.post(&format!("{PAGE}/{stranger}/role"), &[("role", "member")]).await.status, 404);
        assert_eq!(last.get(&format!("{PAGE}/{stranger}/remove")).await.status, 404);
    }
}

async fn id_of_own(world: &World, who: &str) -> String {
    let email = keyward::domain::account::Email::parse(&format!("{who}@acme.example")).unwrap();
    let mut tx = world.services.db.read().await.unwrap();
    keyward::storage::people::find_by_email(&mut tx, &email).await.unwrap().unwrap().id.to_string()
}

on_both! {
    async fn who_is_removed_is_out_at_once_and_what_they_knew_is_listed(world: World) {
        let Cast { tenant, .. } = cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        let id = id_of(&mut admin, "billing@acme.example").await;
        // They paste a key; and as an admin they make two tokens.
        let mut leaver = sign_in(world, "billing").await;
        leaver.get("/t/acme/settings/api-keys/new").await;
        let key = [("api_key", test_key("ok")), ("key_name", "theirs".to_owned())];
        let key: Vec<(&str, &str)> = key.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(leaver.post("/t/acme/settings/api-keys/new", &key).await.status, 303);
        admin.get(PAGE).await;
        admin.post(&format!("{PAGE}/{id}/role"), &[("role", "admin")]).await;
        let mut tokens = Vec::new();
        for name in ["Backend", "CI"] {
            leaver.get("/t/acme/settings/tokens").await;
            let made = leaver.post("/t/acme/settings/tokens", &[("name", name), ("days", "")]).await.body;
            let at = made.find("kwt_").unwrap_or_else(|| panic!("{made}"));
            tokens.push(made[at..].split('<').next().unwrap().to_owned());
        }
        assert_eq!(world.message(&tokens[0]).send().await.unwrap().status(), 200);
        let remove = format!("{PAGE}/{id}/remove");
        admin.get(&remove).await.says("Backend").says("CI").says("theirs");
        assert_eq!(admin.post(&remove, &[]).await.status, 303);
        // Signed out, for they are nowhere else; and their tokens are dead.
        assert_eq!(leaver.get("/t/acme/settings/api-keys").await.status, 303);
        for token in &tokens {
            assert_eq!(world.message(token).send().await.unwrap().status(), 401);
        }
        admin.get(PAGE).await.says("Known to people who have left").says("Provider key theirs").says("billing@acme.example");
        assert!(!admin.get(PAGE).await.body.contains("Access token Backend"));
        // Rotated, it is known to nobody who left.
        admin.get("/t/acme/settings/api-keys/theirs/rotate").await;
        let new = test_key("ok");
        assert_eq!(admin.post("/t/acme/settings/api-keys/theirs/rotate", &[("api_key", &new)]).await.status, 303);
        assert!(!admin.get(PAGE).await.body.contains("Known to people who have left"));

        // Tokens that are kept are listed, until they are revoked; who comes back has not left.
        let id = id_of(&mut admin, "member@acme.example").await;
        admin.post(&format!("{PAGE}/{id}/role"), &[("role", "admin")]).await;
        let mut second = sign_in(world, "member").await;
        second.get("/t/acme/settings/tokens").await;
        second.post("/t/acme/settings/tokens", &[("name", "Kept"), ("days", "")]).await;
        admin.get(PAGE).await;
        assert_eq!(admin.post(&format!("{PAGE}/{id}/remove"), &[("keep_tokens", "true")]).await.status, 303);
        admin.get(PAGE).await.says("Access token Kept");
        let link = invite(&mut admin, "member@acme.example", "member").await;
        let mut back = sign_in(world, "member").await;
        back.get(&link).await;
        assert_eq!(back.post(&format!("{link}/accept"), &[]).await.status, 303);
        let page = admin.get(PAGE).await;
        page.says("no admin any more");
        assert!(!page.body.contains("left <time"));
        // And leaves by themselves.
        back.get("/account").await.says("acme Ltd");
        assert_eq!(back.post("/account/leave/acme", &[]).await.status, 303);
        assert_ne!(back.get("/t/acme/billing").await.status, 200);
        admin.get(PAGE).await.says("Access token Kept");
        let audit = audit_of(world, Owner::Tenant(tenant.id)).await;
        for action in ["member.removed", "member.left", "member.role_changed"] {
            assert!(audit.iter().any(|done| done == action), "{action}");
        }
    }
}

on_both! {
    async fn a_link_that_others_saw_proves_no_address(world: World) {
        cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        // Without a mail server the admin has the link, and makes the account.
        let link = invite(&mut admin, "boss@victim.example", "member").await;
        let mut squatter = Visitor::new(&world.url);
        squatter.get(&link).await;
        assert_eq!(squatter.post(&link, &[("password", PASSWORD)]).await.status, 303);
        assert_eq!(squatter.get("/account").await.status, 200);
        // Then the operator makes that person the first admin of a tenant.
        let victim = world.tenant("victim", keyward::domain::billing::UsageMode::Managed).await;
        let by = AuditActor::system("test");
        let email = Email::parse("boss@victim.example").unwrap();
        let place = Some((victim.id, TenantRole::Admin));
        let given = world.services.create_user(&by, &email, None, place, None).await.unwrap();
        let given = given.expect("a link to choose a password by");
        assert_eq!(squatter.get("/t/victim/billing").await.status, 303, "signed out");
        let from = keyward::services::accounts::Origin { address: "192.0.2.1".into(), device: "x".into(), request_id: None };
        let secret = keyward::crypto::secret::Secret::new(PASSWORD.to_owned());
        assert!(world.services.sign_in("boss@victim.example", secret, &from).await.is_err());
        let path = given.strip_prefix(&world.services.options.public_url).unwrap().to_owned();
        let mut boss = Visitor::new(&world.url);
        boss.get(&path).await;
        assert_eq!(boss.post(&path, &[("password", "amber tunnel 4 crane")]).await.status, 303);
        assert_eq!(boss.get("/t/victim/settings/members").await.status, 200);
        // Proved, further places come by themselves.
        let other = world.tenant("further", keyward::domain::billing::UsageMode::Managed).await;
        let place = Some((other.id, TenantRole::Member));
        assert!(world.services.create_user(&by, &email, None, place, None).await.unwrap().is_none());
        assert_eq!(boss.get("/t/further/billing").await.status, 200);
    }
}

on_both! {
    async fn what_somebody_invited_others_by_goes_with_them(world: World) {
        cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        let id = id_of(&mut admin, "member@acme.example").await;
        admin.post(&format!("{PAGE}/{id}/role"), &[("role", "admin")]).await;
        let mut second = sign_in(world, "member").await;
        let back_door = invite(&mut second, "second@member.example", "admin").await;
        second.get("/t/acme/settings/tokens").await;
        second.post("/t/acme/settings/tokens", &[("name", "Theirs"), ("days", "")]).await;
        // Demoted, the invitation is dead, and the token is to be looked at.
        admin.get(PAGE).await;
        admin.post(&format!("{PAGE}/{id}/role"), &[("role", "member")]).await;
        assert_eq!(Visitor::new(&world.url).get(&back_door).await.status, 404);
        admin.get(PAGE).await.says("Access token Theirs").says("no admin any more");
        // Removed, so are the others; and who was invited under their own address stays out.
        admin.post(&format!("{PAGE}/{id}/role"), &[("role", "admin")]).await;
        let back_door = invite(&mut second, "second@member.example", "admin").await;
        admin.get(PAGE).await;
        assert_eq!(admin.post(&format!("{PAGE}/{id}/remove"), &[]).await.status, 303);
        assert_eq!(Visitor::new(&world.url).get(&back_door).await.status, 404);
        // Many letters to one address have to wait.
        let mut last = 200;
        for _ in 0..9 {
            admin.get(PAGE).await;
            last = admin.post(PAGE, &[("email", "often@acme.example"), ("role", "member")]).await.status.as_u16();
        }
        assert_eq!(last, 429);
    }
}

on_both! {
    async fn a_tenant_that_a_backend_made_is_claimed_by_link(world: World) {
        let service = world.token_for(Owner::Platform, &["keys:write", "keys:read"]).await;
        let own = world.tenant("owned", UsageMode::Managed).await;
        world.user("boss@owned.example", PASSWORD, None, Some((own.id, TenantRole::Admin))).await;
        let tenant = world.tenant("fresh", UsageMode::Managed).await;
        let ask = async |slug: &str, token: &str| {
            let url = format!("{}/api/v1/tenants/{slug}/claim-link", world.url);
            let answer = world.http.post(url).bearer_auth(token).send().await.unwrap();
            let status = answer.status().as_u16();
            (status, answer.json::<serde_json::Value>().await.unwrap())
        };
        let of_tenant = world.token_for(Owner::Tenant(tenant.id), &["keys:write"]).await;
        assert_eq!(ask("fresh", &of_tenant).await.0, 403, "a tenant's own token may not");
        assert_eq!(ask("absent", &service).await.0, 404);
        assert_eq!(ask("owned", &service).await.0, 409, "it has an admin");
        let path = |body: &serde_json::Value| {
            let url = body["url"].as_str().unwrap();
            format!("/claim/{}", url.rsplit('/').next().unwrap())
        };
        let (status, first) = ask("fresh", &service).await;
        assert_eq!(status, 201);
        let (_, second) = ask("fresh", &service).await;
        let mut ada = Visitor::new(&world.url);
        assert_eq!(ada.get(&path(&first)).await.status, 404, "a newer link takes its place");
        let link = path(&second);
        ada.get(&link).await.says("You become the first admin of fresh Ltd.");
        for (email, password, field) in [
            ("nonsense", PASSWORD, "email"),
            ("ada@fresh.example", "short", "password"),
            ("boss@owned.example", PASSWORD, "email"),
        ] {
            let page = ada.post(&link, &[("email", email), ("password", password)]).await;
            assert_eq!(page.status, 422, "{email}");
            page.says(&format!("id=\"{field}-error\""));
        }
        assert_eq!(ada.post(&link, &[("email", "ada@fresh.example"), ("password", PASSWORD), ("role", "super_admin")]).await.status, 400);
        let done = ada.post(&link, &[("email", "ada@fresh.example"), ("password", PASSWORD)]).await;
        assert_eq!((done.status.as_u16(), done.location()), (303, "/t/fresh/settings/api-keys"));
        assert_eq!(ada.get("/t/fresh/settings/members").await.status, 200);
        let mut late = Visitor::new(&world.url);
        assert_eq!(late.get(&link).await.status, 404, "it works once");
        assert_eq!(ask("fresh", &service).await.0, 409);

        // By somebody who has an account already; and not after a week.
        world.tenant("second", UsageMode::Managed).await;
        let link = path(&ask("second", &service).await.1);
        let mut boss = Visitor::signed_in(&world.url, "boss@owned.example", PASSWORD).await;
        boss.get(&link).await.says("Go on as boss@owned.example");
        assert_eq!(boss.post(&format!("{link}/accept"), &[]).await.location(), "/t/second/settings/api-keys");
        assert_eq!(boss.get("/t/second/settings/members").await.status, 200);
        world.tenant("third", UsageMode::Managed).await;
        let link = path(&ask("third", &service).await.1);
        world.clock.advance(7 * DAY);
        assert_eq!(late.get(&link).await.status, 404);
    }
}

on_both! {
    /// What is found with the session is as old as the question: whoever had to wait to write asks again.
    async fn a_page_that_waits_for_the_database_shows_nothing_to_who_is_gone_by_then(world: World) {
        let Cast { tenant, .. } = cast(world).await;
        let (mut admin, mut billing) = (sign_in(world, "admin").await, sign_in(world, "billing").await);
        world.clock.advance(2 * MINUTE);
        let mut tx = world.services.db.write().await.unwrap();
        let scope = holder(&tenant).scope;
        let all = members::list(&mut tx, &scope).await.unwrap();
        let member = |email: &str| all.iter().find(|member| member.email == email).unwrap();
        sessions::revoke_all(&mut tx, member("admin@acme.example").user, world.clock.now()).await.unwrap();
        members::remove(&mut tx, &scope, member("billing@acme.example"), world.clock.now()).await.unwrap();
        let mut pages = vec![tokio::spawn(async move { admin.get("/t/acme/billing").await })];
        // Only SQLite makes everybody wait for one who writes.
        if world.services.db.kind() == "SQLite" {
            pages.push(tokio::spawn(async move { billing.get("/t/acme/billing").await }));
        }
        for page in &mut pages {
            assert!(tokio::time::timeout(Duration::from_millis(500), page).await.is_err(), "it does not wait");
        }
        tx.commit().await.unwrap();
        for (page, status) in pages.into_iter().zip([303, 404]) {
            assert_eq!(page.await.unwrap().status, status);
        }
    }
}

on_both! {
    async fn a_token_is_rotated_and_both_work_for_a_while(world: World) {
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.add_shared_key(&crate::support::test_key("ok")).await;
        world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        let mut ada = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        let base = "/t/acme/settings/tokens";
        ada.get(base).await;
        let made = ada.post(base, &[("name", "Backend"), ("days", "90"), ("scopes", "gateway"), ("scopes", "usage:read")]).await;
        let secret = |page: &crate::visitor::Page| page.body.split("id=\"secret\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
        let old = secret(&made);
        let page = ada.get(base).await;
        let rotate = page.body.split("href=\"").find(|part| part.contains("/rotate\"")).unwrap().split('"').next().unwrap().to_owned();
        let form = ada.get(&rotate).await;
        let once = form.body.split("name=\"once\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let bad = ada.post(&rotate, &[("hours", "5000"), ("once", &once)]).await;
        assert_eq!(bad.status, 422);
        let page = ada.post(&rotate, &[("hours", "24"), ("once", &once)]).await;
        assert_eq!(page.status, 200, "{}", page.body);
        let new = secret(&page);
        assert!(new != old && keyward::crypto::token::recognise(&new).is_some());
        let again = ada.post(&rotate, &[("hours", "24"), ("once", &once)]).await;
        assert_eq!(again.status, 303, "a double click makes one");
        ada.get(base).await.says("rotated already");
        assert_eq!(ada.get(&rotate).await.status, 404, "the one that took its place is rotated next");
        let works = async |token: &str| world.message(token).send().await.unwrap().status() == 200;
        assert!(works(&old).await && works(&new).await, "both, for a day");
        world.clock.advance(DAY);
        assert!(!works(&old).await && works(&new).await);
        let mut tx = world.services.db.read().await.unwrap();
        let known = keyward::storage::tokens::list(&mut tx, &holder(&tenant).scope).await.unwrap();
        assert_eq!(known[0].scopes, ["gateway", "usage:read"]);
        assert_eq!(known[0].expires_at.unwrap().since(known[0].created_at), 90 * DAY, "as long as the one before");
    }
}
