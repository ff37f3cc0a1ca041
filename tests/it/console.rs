//! The console over HTTP: who may open and send what, form tokens, headers, step-up, and what the
//! pages say.

use keyward::domain::account::{PlatformRole, Tenant, TenantRole};
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR, MINUTE};
use keyward::domain::ids::Owner;
use keyward::storage::audit;

use crate::on_both;
use crate::support::{World, holder, test_key};
use crate::visitor::{Page, Visitor};

pub const PASSWORD: &str = "violet ladder 9 reed";

/// A tenant with people in every role, a neighbour, and platform staff.
pub struct Cast {
    pub tenant: Tenant,
    /// The secret of the shared key.
    pub shared: String,
}

pub async fn cast(world: &World) -> Cast {
    let tenant = world.tenant("acme", UsageMode::Managed).await;
    let neighbour = world.tenant("neighbour", UsageMode::Managed).await;
    let shared = test_key("ok");
    world.add_shared_key(&shared).await;
    for (email, platform, place) in [
        ("root@acme.example", Some(PlatformRole::SuperAdmin), None),
        ("support@acme.example", Some(PlatformRole::Support), None),
        ("admin@acme.example", None, Some((tenant.id, TenantRole::Admin))),
        ("billing@acme.example", None, Some((tenant.id, TenantRole::BillingAdmin))),
        ("member@acme.example", None, Some((tenant.id, TenantRole::Member))),
        ("stranger@acme.example", None, Some((neighbour.id, TenantRole::Admin))),
    ] {
        world.user(email, PASSWORD, platform, place).await;
    }
    Cast { tenant, shared }
}

pub async fn sign_in(world: &World, who: &str) -> Visitor {
    Visitor::signed_in(&world.url, &format!("{who}@acme.example"), PASSWORD).await
}

/// What a page says of a key under a term.
pub fn fact<'a>(page: &'a Page, term: &str) -> &'a str {
    let open = format!("<dt>{term}</dt><dd");
    let (_, rest) = page.body.split_once(&open).unwrap_or_else(|| panic!("no {term}:\n{}", page.body));
    let (_, rest) = rest.split_once('>').unwrap();
    rest.split("</dd>").next().unwrap()
}

/// Every page, and the status that root, support, admin, billing admin, member and a stranger get.
pub const PAGES: &[(&str, &str)] = &[
    ("/account", "200 200 200 200 200 200"),
    ("/t/acme/settings/api-keys", "200 404 200 200 200 404"),
    ("/t/acme/settings/api-keys/new", "403 404 200 200 403 404"),
    ("/t/acme/settings/api-keys/production", "200 404 200 200 403 404"),
    ("/t/acme/settings/api-keys/production/rotate", "403 404 200 200 403 404"),
    ("/t/acme/settings/api-keys/production/remove", "403 404 200 200 403 404"),
    ("/t/acme/settings/api-keys/absent", "404 404 404 404 403 404"),
    ("/t/acme/settings/ai", "200 404 200 200 200 404"),
    ("/t/acme/activity/community-manager", "200 404 200 200 200 404"),
    ("/t/acme/activity/community-manager?show=failed&before=x", "200 404 200 200 200 404"),
    ("/t/acme/activity/questions", "200 404 200 200 200 404"),
    ("/t/acme/activity/questions?show=answered&after=x", "200 404 200 200 200 404"),
    ("/t/acme/activity/questions/01a1fb92-2a86-77d2-84f1-750dabcb3608", "404 404 404 404 404 404"),
    ("/t/acme/activity/questions/01a1fb92-2a86-77d2-84f1-750dabcb3608/article.md", "404 404 404 404 404 404"),
    ("/t/acme/activity/audit", "200 404 200 200 403 404"),
    ("/t/acme/activity/audit?action=key.added&actor=x&from=2026-01-01&before=9", "200 404 200 200 403 404"),
    ("/t/acme/activity/audit.csv", "200 404 200 200 403 404"),
    ("/platform/audit", "200 403 403 403 403 403"),
    ("/platform/audit.csv", "200 403 403 403 403 403"),
    ("/t/acme/settings/tokens", "403 404 200 403 403 404"),
    ("/t/acme/settings/members", "403 404 200 403 403 404"),
    ("/t/acme/settings/members/01a1fb92-2a86-77d2-84f1-750dabcb3608/remove", "403 404 404 403 403 404"),
    ("/t/acme/settings/single-sign-on", "403 404 200 403 403 404"),
    ("/account/confirm-sso", "404 404 404 404 404 404"),
    ("/t/acme/settings/security", "200 404 200 200 403 404"),
    ("/t/acme/settings/support-access", "200 404 200 403 403 404"),
    ("/account/second-factor", "200 200 200 200 200 200"),
    ("/account/passkeys/new", "200 200 200 200 200 200"),
    ("/t/acme/billing", "200 404 200 200 200 404"),
    ("/t/acme/billing/budgets", "200 404 200 200 403 404"),
    ("/t/acme/settings/notifications", "200 404 200 200 403 404"),
    ("/t/acme/billing/reconciliation", "200 404 200 200 403 404"),
    ("/t/acme/billing/rates", "200 404 200 200 403 404"),
    ("/t/acme/billing/breaker", "200 404 200 200 403 404"),
    ("/t/acme/billing/credits", "200 404 200 200 403 404"),
    ("/t/acme/billing/credits/orders/01a1fb92-2a86-77d2-84f1-750dabcb3608", "404 404 404 404 403 404"),
    ("/t/acme/billing/usage", "200 404 200 200 403 404"),
    ("/t/acme/billing/usage?by=prompt&then=session&mode=byok&from=2026-01-01", "200 404 200 200 403 404"),
    ("/t/acme/billing/requests", "200 404 200 200 403 404"),
    ("/t/acme/billing/requests/01a1fb92-2a86-77d2-84f1-750dabcb3608", "404 404 404 404 403 404"),
    ("/t/acme/billing/usage-groups.csv", "200 404 200 200 403 404"),
    ("/t/acme/billing/statements", "200 404 200 200 403 404"),
    ("/t/acme/billing/statements/2020-01", "404 404 404 404 403 404"),
    ("/t/acme/activity/notifications", "200 404 200 200 403 404"),
    ("/t/acme/billing/compare", "200 404 200 200 403 404"),
    ("/t/acme/billing/usage.csv", "200 404 200 200 403 404"),
    ("/t/absent/billing", "404 404 404 404 404 404"),
    ("/platform/tenants", "200 403 403 403 403 403"),
    ("/platform/tenants/new", "200 403 403 403 403 403"),
    ("/platform/tenants/acme", "200 403 403 403 403 403"),
    ("/platform/tenants/absent", "404 403 403 403 403 403"),
    ("/platform/plans", "200 403 403 403 403 403"),
    ("/platform/plans?edit=pro", "200 403 403 403 403 403"),
    ("/platform/plans?edit=absent", "404 403 403 403 403 403"),
    ("/platform/features", "200 403 403 403 403 403"),
    ("/platform/features?edit=drafts", "200 403 403 403 403 403"),
    ("/platform/prices", "200 403 403 403 403 403"),
    ("/platform/viewing", "200 200 403 403 403 403"),
    ("/platform/viewing?q=acme&tenant=acme", "200 200 403 403 403 403"),
    ("/platform/viewing?tenant=absent", "404 404 403 403 403 403"),
    ("/platform/users", "200 403 403 403 403 403"),
    ("/platform/tokens", "200 403 403 403 403 403"),
    ("/platform/status", "200 403 403 403 403 403"),
    ("/platform/shared-keys", "200 403 403 403 403 403"),
    ("/platform/shared-keys/new", "200 403 403 403 403 403"),
    ("/platform/reconciliation", "200 403 403 403 403 403"),
    ("/platform/shared-keys/shared", "200 403 403 403 403 403"),
    ("/nothing", "404 404 404 404 404 404"),
];

/// A path, the fields that are sent there, and what each role gets.
pub type Post = (&'static str, &'static [(&'static str, &'static str)], &'static str);

/// Every POST with harmless fields, and what those who may not send it get. `-` is a role that may.
pub const POSTS: &[Post] = &[
    ("/t/acme/settings/api-keys/new", &[("api_key", "x"), ("key_name", "x")], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/rotate", &[("api_key", "x")], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/remove", &[("confirm_name", "x")], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/check", &[], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/undo", &[], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/forget", &[], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/default", &[], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/label", &[("label", "x")], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/resume", &[], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/scope", &[("features", "drafts")], "403 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/disable", &[], "- 404 - - 403 404"),
    ("/t/acme/settings/api-keys/production/enable", &[], "- 404 - - 403 404"),
    ("/t/acme/settings/tokens", &[("name", "x"), ("days", "")], "403 404 - 403 403 404"),
    ("/t/acme/settings/tokens/01a1fb92-2a86-77d2-84f1-750dabcb3608/revoke", &[], "403 404 - 403 403 404"),
    (
        "/t/acme/settings/tokens/01a1fb92-2a86-77d2-84f1-750dabcb3608/rotate",
        &[("hours", "1"), ("once", "01a1fb92-2a86-77d2-84f1-750dabcb3609")],
        "403 404 404 403 403 404",
    ),
    ("/t/acme/settings/security", &[("key_changers", "admins")], "403 404 - 403 403 404"),
    ("/t/acme/settings/security/second-factor", &[("second_factor", "optional")], "403 404 - 403 403 404"),
    ("/t/acme/settings/support-access", &[("consent", "always"), ("hours", "0")], "403 404 - 403 403 404"),
    (
        "/t/acme/settings/support-access/01a1fb92-2a86-77d2-84f1-750dabcb3608/end",
        &[],
        "403 404 - 403 403 404",
    ),
    ("/t/acme/settings/single-sign-on", &[("issuer", "x"), ("domain", "x")], "403 404 - 403 403 404"),
    ("/t/acme/settings/single-sign-on/verify", &[], "403 404 404 403 403 404"),
    ("/t/acme/settings/single-sign-on/require", &[("required", "yes")], "403 404 - 403 403 404"),
    ("/t/acme/settings/single-sign-on/remove", &[], "403 404 404 403 403 404"),
    ("/platform/viewing", &[("tenant", "acme"), ("minutes", "10")], "- - 403 403 403 403"),
    ("/t/acme/settings/members", &[("email", "x"), ("role", "member")], "403 404 - 403 403 404"),
    (
        "/t/acme/settings/members/01a1fb92-2a86-77d2-84f1-750dabcb3608/role",
        &[("role", "member")],
        "403 404 404 403 403 404",
    ),
    ("/t/acme/settings/members/01a1fb92-2a86-77d2-84f1-750dabcb3608/remove", &[], "403 404 404 403 403 404"),
    (
        "/t/acme/settings/members/invitations/01a1fb92-2a86-77d2-84f1-750dabcb3608/take-back",
        &[],
        "403 404 - 403 403 404",
    ),
    ("/account/leave/neighbour", &[], "404 404 404 404 404 -"),
    ("/forgot", &[("email", "x@acme.example")], "404 404 404 404 404 404"),
    (
        "/t/acme/settings/ai/switch",
        &[("switch", "ai_drafts_enabled"), ("on", "false")],
        "- 404 - 403 403 404",
    ),
    ("/t/acme/settings/ai/model", &[("feature", "drafts"), ("model", "")], "- 404 - 403 403 404"),
    (
        "/t/acme/activity/community-manager/00000000-0000-7000-8000-000000000000/approve",
        &[("text", "x")],
        "403 404 404 403 404 404",
    ),
    (
        "/t/acme/activity/community-manager/00000000-0000-7000-8000-000000000000/reject",
        &[],
        "403 404 404 403 404 404",
    ),
    (
        "/t/acme/activity/community-manager/00000000-0000-7000-8000-000000000000/retry",
        &[],
        "403 404 404 403 404 404",
    ),
    ("/t/acme/activity/questions/import", &[("list", "")], "403 404 - 403 - 404"),
    (
        "/t/acme/activity/questions/01a1fb92-2a86-77d2-84f1-750dabcb3608/suggest",
        &[],
        "403 404 404 403 404 404",
    ),
    ("/t/acme/activity/questions/01a1fb92-2a86-77d2-84f1-750dabcb3608/draft", &[], "403 404 404 403 404 404"),
    (
        "/t/acme/activity/questions/01a1fb92-2a86-77d2-84f1-750dabcb3608/article",
        &[("article", "x")],
        "403 404 404 403 404 404",
    ),
    (
        "/t/acme/activity/questions/01a1fb92-2a86-77d2-84f1-750dabcb3608/decide",
        &[("state", "answered")],
        "403 404 404 403 404 404",
    ),
    ("/t/acme/settings/security/rotation", &[("days", "30")], "403 404 - 403 403 404"),
    ("/t/acme/billing/mode", &[("mode", "managed")], "403 404 - - 403 404"),
    ("/t/acme/billing/policies", &[("no_key", "managed"), ("on_limit", "pause")], "403 404 - - 403 404"),
    ("/t/acme/billing/budgets", &[("amount", "5"), ("on_reach", "warn")], "403 404 - - 403 404"),
    ("/t/acme/billing/budgets/remove", &[("key", "")], "403 404 - - 403 404"),
    ("/t/acme/settings/notifications", &[("url", "https://hooks.example.com/k")], "403 404 - 403 403 404"),
    ("/t/acme/settings/notifications/mail", &[("mail", "yes")], "403 404 - - 403 404"),
    (
        "/t/acme/settings/notifications/00000000-0000-7000-8000-000000000000/test",
        &[],
        "403 404 404 403 403 404",
    ),
    (
        "/t/acme/settings/notifications/00000000-0000-7000-8000-000000000000/remove",
        &[],
        "403 404 404 403 403 404",
    ),
    (
        "/t/acme/billing/breaker",
        &[("factor", "5"), ("least", "5"), ("on_trip", "pause")],
        "403 404 - - 403 404",
    ),
    ("/t/acme/billing/reconciliation", &[("provider", "anthropic"), ("api_key", "x")], "403 404 - - 403 404"),
    ("/t/acme/billing/reconciliation/anthropic/remove", &[], "403 404 - - 403 404"),
    ("/t/acme/billing/rates", &[("key", "production"), ("percent", "85")], "403 404 - - 403 404"),
    ("/t/acme/billing/breaker/reset", &[], "403 404 - - 403 404"),
    ("/t/acme/billing/breaker/remove", &[], "403 404 - - 403 404"),
    ("/t/acme/billing/credits/orders", &[("amount", "5")], "403 404 - - 403 404"),
    (
        "/t/acme/billing/credits/orders/01a1fb92-2a86-77d2-84f1-750dabcb3608/cancel",
        &[],
        "403 404 - - 403 404",
    ),
    ("/t/acme/billing/credits/notice", &[("notify_below", "5")], "403 404 - - 403 404"),
    (
        "/platform/tenants/acme/funding",
        &[("was", "included"), ("funding", "credits")],
        "- 403 403 403 403 403",
    ),
    ("/platform/tenants/acme/rate", &[("was", "100"), ("percent", "85")], "- 403 403 403 403 403"),
    ("/platform/tenants/acme/credits", &[("amount", "5"), ("note", "x")], "- 403 403 403 403 403"),
    ("/platform/tenants/acme/orders/01a1fb92-2a86-77d2-84f1-750dabcb3608/paid", &[], "- 403 403 403 403 403"),
    ("/platform/tenants/acme/plan", &[("was", "pro"), ("plan", "pro")], "- 403 403 403 403 403"),
    ("/platform/tenants/acme/state", &[("state", "suspended")], "- 403 403 403 403 403"),
    ("/platform/tenants/acme/exceptions", &[("feature", "drafts"), ("reason", "x")], "- 403 403 403 403 403"),
    ("/platform/tenants/acme/exceptions/end", &[("feature", "drafts")], "- 403 403 403 403 403"),
    ("/platform/plans/matrix", &[("cell", "pro/drafts"), ("save", "yes")], "- 403 403 403 403 403"),
    ("/platform/plans/matrix", &[("cell", "pro/drafts")], "- 403 403 403 403 403"),
    ("/platform/plans/new", &[("name", "x"), ("slug", "x")], "- 403 403 403 403 403"),
    ("/platform/plans/pro/models", &[("name", "x"), ("model", "claude-opus-5")], "- 403 403 403 403 403"),
    ("/platform/plans/pro/remove", &[("to", "")], "- 403 403 403 403 403"),
    ("/platform/features", &[("name", "x"), ("slug", "x")], "- 403 403 403 403 403"),
    (
        "/platform/features/switch",
        &[("switch", "ai_drafts_enabled"), ("on", "false")],
        "- 403 403 403 403 403",
    ),
    ("/platform/plans", &[("plan", "pro")], "- 403 403 403 403 403"),
    ("/platform/prices", &[("model", "x")], "- 403 403 403 403 403"),
    ("/platform/tenants/new", &[("name", "x")], "- 403 403 403 403 403"),
    ("/platform/tokens", &[("name", "x"), ("days", "")], "- 403 403 403 403 403"),
    ("/platform/shared-keys/new", &[("api_key", "x"), ("key_name", "x")], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/check", &[], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/rotate", &[("api_key", "x")], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/remove", &[("confirm_name", "x")], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/undo", &[], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/forget", &[], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/default", &[], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/label", &[("label", "x")], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/resume", &[], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/disable", &[], "- 403 403 403 403 403"),
    ("/platform/shared-keys/shared/enable", &[], "- 403 403 403 403 403"),
    ("/platform/tokens/01a1fb92-2a86-77d2-84f1-750dabcb3608/revoke", &[], "- 403 403 403 403 403"),
    (
        "/platform/tokens/01a1fb92-2a86-77d2-84f1-750dabcb3608/rotate",
        &[("hours", "1"), ("once", "01a1fb92-2a86-77d2-84f1-750dabcb3609")],
        "- 403 403 403 403 403",
    ),
    ("/platform/reconciliation", &[("provider", "anthropic"), ("api_key", "x")], "- 403 403 403 403 403"),
    ("/platform/reconciliation/anthropic/remove", &[], "404 403 403 403 403 403"),
];

const ROLES: [&str; 6] = ["root", "support", "admin", "billing", "member", "stranger"];

on_both! {
    async fn every_page_opens_for_whom_it_should(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        for (column, role) in ROLES.iter().enumerate() {
            let mut visitor = sign_in(world, role).await;
            for (path, row) in PAGES {
                let expected = row.split(' ').nth(column).unwrap();
                let page = visitor.get(path).await;
                assert_eq!(page.status.as_str(), expected, "{role} {path}\n{}", page.body);
                if page.status == 200 && !path.contains(".csv") {
                    assert!(page.body.contains("<main"), "{role} {path}");
                }
            }
        }
        // Nobody who is not signed in gets further than the door.
        let mut nobody = Visitor::new(&world.url);
        for (path, _) in PAGES {
            let page = nobody.get(path).await;
            assert!(page.status == 303 || *path == "/nothing", "{path}: {}", page.status);
            if page.status == 303 {
                assert!(page.location().starts_with("/sign-in"), "{path}: {}", page.location());
            }
        }
    }
}

on_both! {
    async fn every_post_is_refused_to_whom_it_should_be(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        for (column, role) in ROLES.iter().enumerate() {
            let mut visitor = sign_in(world, role).await;
            for (path, fields, row) in POSTS {
                let expected = row.split(' ').nth(column).unwrap();
                if expected == "-" {
                    continue;
                }
                let page = visitor.post(path, fields).await;
                assert_eq!(page.status.as_str(), expected, "{role} {path}\n{}", page.body);
            }
        }
        let keys = world.services.key_lines(holder(&cast.tenant)).await.unwrap();
        assert_eq!((keys.len(), keys[0].key.current.version, keys[0].key.label.as_deref()), (1, 1, None));
        // Refusals inside the tenant are on its record.
        let mut tx = world.services.db.read().await.unwrap();
        let rows = audit::list(&mut tx, Owner::Tenant(cast.tenant.id), 500).await.unwrap();
        let refused_to_members = |row: &str| row.split(' ').nth(4) == Some("403");
        let inside = POSTS.iter().filter(|(path, _, row)| path.starts_with("/t/acme/") && refused_to_members(row)).count();
        let refused: Vec<&str> = rows.iter().filter(|row| row.action == "policy.refused").map(|row| row.actor.as_str()).collect();
        assert_eq!(refused.iter().filter(|actor| **actor == "member@acme.example").count(), inside, "{refused:?}");
    }
}

on_both! {
    async fn posts_without_the_right_token_change_nothing(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let mut admin = sign_in(world, "admin").await;
        let own = admin.csrf.clone();
        let billing = sign_in(world, "billing").await;
        // The same person's, of a session that has ended.
        let mut ended = sign_in(world, "admin").await;
        assert_eq!(ended.post("/sign-out", &[]).await.status, 303);
        let expired = ended.csrf.clone();
        let posts = POSTS.iter().map(|(path, fields, _)| (*path, *fields)).chain([
            ("/sign-out", &[][..]),
            ("/viewing/stop", &[][..]),
            ("/account/second-factor/app", &[][..]),
            ("/account/second-factor/app/finish", &[("code", "123456")][..]),
            ("/account/second-factor/app/remove", &[][..]),
            ("/account/second-factor/codes", &[][..]),
            ("/account/passkeys/new", &[][..]),
            ("/account/passkeys/add", &[("name", "x"), ("credential", "{}")][..]),
            ("/account/passkeys/01a1fb92-2a86-77d2-84f1-750dabcb3608/remove", &[][..]),
            ("/account/sign-out-everywhere", &[][..]),
            ("/sign-in/passkey/question", &[][..]),
            ("/sign-in/passkey", &[("credential", "{}")][..]),
            ("/sign-in/sso", &[("email", "max@acme.example")][..]),
            ("/sign-in/second", &[("code", "123456")][..]),
            ("/setup/x", &[("email", "x@acme.example"), ("password", "another 12 letters")][..]),
            ("/claim/x", &[][..]),
            ("/claim/x/accept", &[][..]),
            ("/join/x", &[][..]),
            ("/join/x/accept", &[][..]),
            ("/account/password", &[("current_password", PASSWORD), ("new_password", "another 12 letters")][..]),
            ("/account/sessions/01a1fb92-2a86-77d2-84f1-750dabcb3608/revoke", &[][..]),
        ]);
        for (path, fields) in posts {
            for token in ["", "0000", billing.csrf.as_str(), expired.as_str()] {
                let mut sent = fields.to_vec();
                if !token.is_empty() {
                    sent.push(("csrf", token));
                }
                let page = admin.post_exactly(path, &sent, &[]).await;
                assert_eq!(page.status, 403, "{path} with {token:?}: {}", page.body);
            }
            // With the right one, but sent by another site.
            for header in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")] {
                let mut sent = fields.to_vec();
                sent.push(("csrf", &own));
                let page = admin.post_exactly(path, &sent, &[header]).await;
                assert_eq!(page.status, 403, "{path} from {header:?}");
            }
        }
        // The sign-in form has its own, bound to the browser.
        let mut nobody = Visitor::new(&world.url);
        let fields = [("email", "admin@acme.example"), ("password", PASSWORD), ("csrf", own.as_str())];
        assert_eq!(nobody.post_exactly("/sign-in", &fields, &[]).await.status, 403);
        assert_eq!(admin.get("/account").await.status, 200, "still signed in");
    }
}

on_both! {
    async fn bad_forms_are_refused_and_write_nothing(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let mut admin = sign_in(world, "admin").await;
        let keys = "/t/acme/settings/api-keys";
        for (path, fields, status) in [
            // Unknown fields, repeated fields, words that are none.
            (format!("{keys}/production/label"), vec![("label", "x"), ("tenant_id", "y")], 400),
            (format!("{keys}/production/label"), vec![("label", "x"), ("label", "y")], 400),
            (format!("{keys}/production/default"), vec![("role", "super_admin")], 400),
            ("/t/acme/billing/mode".into(), vec![("mode", "free")], 400),
            ("/t/acme/billing/mode".into(), vec![], 400),
            ("/t/acme/settings/security".into(), vec![("key_changers", "everyone")], 400),
            // Values that do not fit.
            (format!("{keys}/production/label"), vec![("label", &*"x".repeat(81))], 422),
            (format!("{keys}/new"), vec![("api_key", "hello"), ("key_name", "x")], 422),
            (format!("{keys}/production/remove"), vec![("confirm_name", "other")], 422),
            ("/t/acme/settings/tokens".into(), vec![("name", ""), ("days", "x")], 422),
            ("/t/acme/billing/reconciliation".into(), vec![("provider", "anthropic"), ("api_key", "sk-ant-api03-x")], 422),
            ("/t/acme/billing/reconciliation".into(), vec![("provider", "google"), ("api_key", "x")], 422),
            ("/t/acme/billing/rates".into(), vec![("key", "production"), ("percent", "0")], 422),
            ("/t/acme/billing/rates".into(), vec![("key", "absent"), ("percent", "85")], 422),
            ("/t/acme/billing/breaker".into(), vec![("factor", "1"), ("least", "5"), ("on_trip", "pause")], 422),
            ("/t/acme/billing/breaker".into(), vec![("factor", "3.5"), ("least", "-1"), ("on_trip", "x")], 422),
            ("/t/acme/billing/budgets".into(), vec![("amount", "-5"), ("on_reach", "pause")], 422),
            ("/t/acme/billing/budgets".into(), vec![("amount", "5"), ("on_reach", "pause"), ("warn_at", "NaN")], 422),
            ("/t/acme/billing/credits/notice".into(), vec![("notify_below", "1e9")], 422),
            // Things of others, and things that are not there.
            (format!("{keys}/absent/default"), vec![], 404),
            (format!("{keys}/production/undo"), vec![], 404),
            ("/t/neighbour/settings/api-keys/production/default".into(), vec![], 404),
            ("/t/acme/settings/tokens/not-an-id/revoke".into(), vec![], 404),
        ] {
            let page = admin.post(&path, &fields).await;
            assert_eq!(page.status.as_u16(), status, "{path} {fields:?}\n{}", page.body);
        }
        let huge = "x".repeat(70 * 1024);
        assert_eq!(admin.post(&format!("{keys}/production/label"), &[("label", &huge)]).await.status, 413);
        let lines = world.services.key_lines(holder(&cast.tenant)).await.unwrap();
        assert_eq!((lines.len(), lines[0].key.label.as_deref()), (1, None));
        assert!(world.services.tokens(&world.admin(&cast.tenant), holder(&cast.tenant)).await.unwrap().is_empty());
    }
}

on_both! {
    async fn a_key_goes_from_paste_to_removal(world: World) {
        let cast = cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        let keys = "/t/acme/settings/api-keys";
        admin.get(keys).await.says("Using Acme's shared Anthropic infrastructure.");

        let refused = admin.post(&format!("{keys}/new"), &[("api_key", "sk-ant-admin01-SECRETSECRET"), ("key_name", "production"), ("label", "Ops & Co"), ("custom_url", "")]).await;
        assert_eq!(refused.status, 422);
        refused.says("Failed to save Anthropic key.");
        refused.says("This is an Admin key. Paste an API key: it starts with sk-ant-api03-.");
        refused.says("Ops & Co");
        assert!(!refused.body.contains("SECRETSECRET"), "a secret is never put back");
        assert!(refused.body.contains("href=\"#api_key\"") && refused.body.contains("aria-invalid=\"true\""));

        let key = test_key("ok");
        let fields = [("api_key", key.as_str()), ("key_name", "production"), ("label", "Ops & Co"), ("switch_mode", "yes")];
        let saved = admin.post(&format!("{keys}/new"), &fields).await;
        assert_eq!((saved.status.as_u16(), saved.location()), (303, keys));
        let page = admin.get(keys).await;
        page.says("Using your own Anthropic key.");
        page.says("sk-ant-api03-…Zz9y");
        page.says("Feature drafts");
        assert_eq!(fact(&page, "Last used"), "Not yet");
        assert!(!page.body.contains(&key));
        // The notice is said once.
        assert!(page.body.contains("class=\"notice") && !admin.get(keys).await.body.contains("class=\"notice"));

        let token = world.token(&cast.tenant).await;
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.headers()["x-keyward-key"], "production@1");
        let row = world.row_of(&answer).await;
        let page = admin.get(keys).await;
        let used = fact(&page, "Last used");
        assert!(used.starts_with(&format!("<time datetime=\"{}\"", row.started_at.rfc3339())), "{used}");
        admin.get("/t/acme/billing").await.says("Switched to own key");

        let second = test_key("ok");
        let rotated = admin.post(&format!("{keys}/production/rotate"), &[("api_key", &second), ("custom_url", "")]).await;
        assert_eq!(rotated.status, 303, "{}", rotated.body);
        let detail = admin.get(&format!("{keys}/production")).await;
        detail.says("Version 2 replaced version 1");
        detail.says("Undo rotation");
        assert_eq!(admin.post(&format!("{keys}/production/undo"), &[]).await.status, 303);
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.headers()["x-keyward-key"], "production@1");

        admin.get(&format!("{keys}/production/remove")).await.says("go back to managed use");
        let removed = admin.post(&format!("{keys}/production/remove"), &[("confirm_name", "production")]).await;
        assert_eq!((removed.status.as_u16(), removed.location()), (303, keys));
        admin.get(keys).await.says("Using Acme's shared Anthropic infrastructure.");
        let gone = admin.get(&format!("{keys}/production")).await;
        assert_eq!(gone.status, 404);
        gone.says("This key is not here any more");
        assert!(gone.body.contains(&format!("href=\"{keys}\"")), "the way out leads to the keys");
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.headers()["x-keyward-usage-mode"], "managed");
    }
}

on_both! {
    async fn notices_say_whether_the_key_is_used(world: World) {
        cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        let keys = "/t/acme/settings/api-keys";
        let (key, second) = (test_key("ok"), test_key("ok"));
        admin.post(&format!("{keys}/new"), &[("api_key", &key), ("key_name", "production")]).await;
        admin.get(keys).await.says("The usage mode is managed: only requests that name it use it.");
        admin.post(&format!("{keys}/production/disable"), &[]).await;
        admin.post(&format!("{keys}/production/rotate"), &[("api_key", &second), ("custom_url", "")]).await;
        admin.get(keys).await.says("It stays disabled: no request uses it until it is enabled.");

        let page = admin.get(&format!("{keys}/production")).await;
        assert!(!page.body.contains("In use"), "no version of it is");
        // Where the state is said stands what to do about it, for whoever may.
        let enable = format!("action=\"{keys}/production/enable\"");
        assert_eq!(page.body.matches(&enable).count(), 1);
        assert_eq!(admin.get(keys).await.body.matches(&enable).count(), 1);
        // What the tenant disabled, the operator can keep disabled.
        let mut root = sign_in(world, "root").await;
        assert_eq!(root.get("/platform").await.location(), "/platform/tenants");
        root.get(&format!("{keys}/production")).await.says("Keep it disabled");
        assert_eq!(root.post(&format!("{keys}/production/disable"), &[]).await.status, 303);
        assert_eq!(admin.post(&format!("{keys}/production/enable"), &[]).await.status, 403);
        let page = admin.get(keys).await;
        page.says("Ask Acme to enable it again.");
        assert!(!page.body.contains(&enable) && !admin.get(&format!("{keys}/production")).await.body.contains(&enable));
        let page = root.get(keys).await;
        page.says("the tenant cannot enable it.");
        assert_eq!(page.body.matches(&enable).count(), 1);
    }
}

on_both! {
    async fn members_see_states_and_nothing_that_they_could_not_do(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("nocredit")).await.unwrap();
        let mut member = sign_in(world, "member").await;
        let page = member.get("/t/acme/settings/api-keys").await;
        page.says("Out of credit");
        page.says("Ask an admin of acme Ltd to add credit in the Anthropic console.");
        for hidden in ["Zz9y", "Rotate", "Remove", "Check now", "Add key", "Fingerprint"] {
            assert!(!page.body.contains(hidden), "a member sees {hidden}");
        }
        let page = member.get("/t/acme/billing").await;
        for hidden in ["Download CSV", "Save usage mode", "By feature"] {
            assert!(!page.body.contains(hidden), "a member sees {hidden}");
        }
    }
}

on_both! {
    async fn a_stale_confirmation_asks_for_the_password_and_loses_nothing(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let mut admin = sign_in(world, "admin").await;
        let cookie = admin.cookie("keyward").unwrap().clone();
        world.clock.advance(11 * MINUTE);
        let label = "/t/acme/settings/api-keys/production/label";
        let asked = admin.post(label, &[("label", "Kept text")]).await;
        assert_eq!(asked.status, 422);
        asked.says("Confirm it's you");
        asked.says("Kept text");
        let wrong = admin.post(label, &[("label", "Kept text"), ("current_password", "nonsense")]).await;
        assert_eq!(wrong.status, 422);
        wrong.says("That password is wrong.");
        let done = admin.post(label, &[("label", "Kept text"), ("current_password", PASSWORD)]).await;
        assert_eq!(done.status, 303, "{}", done.body);
        assert_ne!(admin.cookie("keyward").unwrap(), &cookie, "the session's id is renewed");
        let lines = world.services.key_lines(holder(&cast.tenant)).await.unwrap();
        assert_eq!(lines[0].key.label.as_deref(), Some("Kept text"));
        // Confirmed once is confirmed for ten minutes.
        admin.get("/account").await;
        assert_eq!(admin.post(label, &[("label", "Again")]).await.status, 303);
        // The old cookie is worth nothing.
        let mut old = Visitor::new(&world.url);
        old.set_cookie("keyward", &cookie);
        assert_eq!(old.get("/account").await.status, 303);
    }
}

on_both! {
    async fn sessions_end_when_they_should(world: World) {
        cast(world).await;
        let mut member = sign_in(world, "member").await;
        let mut replay = Visitor::new(&world.url);
        replay.set_cookie("keyward", member.cookie("keyward").unwrap());
        assert_eq!(replay.get("/account").await.status, 200);
        assert_eq!(member.post("/sign-out", &[]).await.status, 303);
        assert_eq!(replay.get("/account").await.status, 303, "a replay after sign-out");

        let mut idle = sign_in(world, "member").await;
        world.clock.advance(11 * HOUR);
        assert_eq!(idle.get("/account").await.status, 200);
        world.clock.advance(11 * HOUR);
        assert_eq!(idle.get("/account").await.status, 200, "use keeps a session alive");
        world.clock.advance(13 * HOUR);
        assert_eq!(idle.get("/account").await.status, 303);
        let mut busy = sign_in(world, "member").await;
        for _ in 0..16 {
            world.clock.advance(11 * HOUR);
            busy.get("/account").await;
        }
        assert_eq!(busy.get("/account").await.status, 303, "not beyond {} days", 7 * DAY);

        let (mut here, mut there) = (sign_in(world, "member").await, sign_in(world, "member").await);
        let changed = here.post("/account/password", &[("current_password", PASSWORD), ("new_password", "another 12 letters")]).await;
        assert_eq!(changed.status, 303, "{}", changed.body);
        assert_eq!(there.get("/account").await.status, 303, "a new password ends the other sessions");
    }
}

on_both! {
    async fn signing_in_tells_nothing_and_goes_nowhere_else(world: World) {
        cast(world).await;
        let mut visitor = Visitor::new(&world.url);
        visitor.get("/sign-in").await;
        let known = visitor.post("/sign-in", &[("email", "admin@acme.example"), ("password", "wrong")]).await;
        let unknown = visitor.post("/sign-in", &[("email", "nobody@acme.example"), ("password", "wrong")]).await;
        assert_eq!((known.status, unknown.status), (422.try_into().unwrap(), 422.try_into().unwrap()));
        let plain = |page: &crate::visitor::Page| page.body.replace("admin@", "").replace("nobody@", "");
        assert_eq!(plain(&known), plain(&unknown));
        known.says("E-mail address or password is wrong.");
        for next in ["https://evil.example/", "//evil.example", "/\\evil.example", "/t/acme/billing"] {
            let mut visitor = Visitor::new(&world.url);
            visitor.get("/sign-in").await;
            let page = visitor.post("/sign-in", &[("email", "member@acme.example"), ("password", PASSWORD), ("next", next)]).await;
            assert_eq!(page.status, 303, "{}", page.body);
            assert_eq!(page.location() == next, next == "/t/acme/billing", "{next} → {}", page.location());
            assert!(page.location().starts_with('/') && !page.location().contains("evil"), "{}", page.location());
        }
        // Too many guesses.
        let mut last = 0;
        for _ in 0..12 {
            let page = visitor.post("/sign-in", &[("email", "nobody@acme.example"), ("password", "wrong")]).await;
            last = page.status.as_u16();
            if last == 429 {
                page.says("Too many attempts.");
                assert!(page.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
            }
        }
        assert_eq!(last, 429);
    }
}

on_both! {
    async fn every_answer_carries_the_security_headers(world: World) {
        cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        for path in ["/t/acme/settings/api-keys", "/t/acme/billing", "/nothing", "/account", "/t/neighbour/billing"] {
            let page = admin.get(path).await;
            let header = |name: &str| page.headers.get(name).map_or("", |value| value.to_str().unwrap());
            let policy = header("content-security-policy");
            for part in ["default-src 'none'", "style-src 'self'", "script-src 'self'", "form-action 'self'", "frame-ancestors 'none'"] {
                assert!(policy.contains(part), "{path}: {policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("cache-control"), "no-store", "{path}");
            for inline in [" style=\"", "<style", "<script>", " onclick=", " onsubmit="] {
                assert!(!page.body.contains(inline), "{path} has {inline}");
            }
        }
        let cookie = admin.send(reqwest::Method::GET, "/sign-in", None, &[]).await;
        assert!(cookie.status.is_success() || cookie.status.is_redirection());
        let mut nobody = Visitor::new(&world.url);
        let page = nobody.get("/sign-in").await;
        let cookies: Vec<&str> = page.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
        assert!(!cookies.is_empty());
        for cookie in cookies {
            assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        }
    }
}

on_both! {
    async fn what_people_type_is_shown_as_text(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let mut admin = sign_in(world, "admin").await;
        let script = "<script>alert(1)</script>\"'";
        assert_eq!(admin.post("/t/acme/settings/api-keys/production/label", &[("label", script)]).await.status, 303);
        let made = admin.post("/t/acme/settings/tokens", &[("name", script), ("days", "")]).await;
        assert_eq!(made.status, 200);
        for path in ["/t/acme/settings/api-keys", "/t/acme/settings/api-keys/production", "/t/acme/settings/tokens"] {
            let page = admin.get(path).await;
            assert!(!page.body.contains("<script>alert"), "{path}");
            assert!(page.body.contains("alert(1)"), "{path} shows it as text");
        }
    }
}

on_both! {
    async fn a_token_is_shown_once_and_works(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let mut admin = sign_in(world, "admin").await;
        let made = admin.post("/t/acme/settings/tokens", &[("name", "Backend"), ("days", "30")]).await;
        assert_eq!(made.status, 200);
        let token: String = made.body.split("kwt_").nth(1).unwrap().chars().take_while(char::is_ascii_alphanumeric).collect();
        let token = format!("kwt_{token}");
        // Sent once more, as a reload does, the same form makes nothing.
        let once = made.body.split("name=\"once\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        assert_eq!(admin.post("/t/acme/settings/tokens", &[("name", "Second"), ("days", ""), ("once", &once)]).await.status, 200);
        assert_eq!(admin.post("/t/acme/settings/tokens", &[("name", "Second"), ("days", ""), ("once", &once)]).await.status, 303);
        let garbled = admin.post("/t/acme/settings/tokens", &[("name", "Third"), ("days", ""), ("once", "1")]).await;
        assert_eq!(garbled.status, 400);
        let listed = world.services.tokens(&world.admin(&cast.tenant), holder(&cast.tenant)).await.unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
        let page = admin.get("/t/acme/settings/tokens").await;
        page.says("Backend");
        assert!(!page.body.contains(&token), "it is shown once");
        let id = listed.iter().find(|token| token.name == "Backend").unwrap().id;
        assert_eq!(admin.post(&format!("/t/acme/settings/tokens/{id}/revoke"), &[]).await.status, 303);
        assert_eq!(world.message(&token).send().await.unwrap().status(), 401);
    }
}

on_both! {
    async fn usage_downloads_as_csv_without_formulas(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&cast.tenant).await;
        for endpoint in ["web-1", "=1+1", "@x", "-2"] {
            let answer = world.message(&token).header("x-keyward-endpoint", endpoint).send().await.unwrap();
            world.row_of(&answer).await;
        }
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get("/t/acme/billing/usage.csv").await;
        assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
        let mut reader = csv::Reader::from_reader(page.body.as_bytes());
        let headers = reader.headers().unwrap().clone();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 4);
        let column = |name: &str| headers.iter().position(|one| one == name).unwrap_or_else(|| panic!("no column {name}"));
        let sent = &world.rows(&cast.tenant).await[0].tokens;
        for (name, tokens) in [("input_tokens", sent.input), ("output_tokens", sent.output), ("tool_tokens", 0), ("audio_output_tokens", 0)] {
            assert!(rows.iter().all(|row| row[column(name)] == tokens.to_string()), "{name}");
        }
        let column = headers.iter().position(|name| name == "endpoint").expect("an endpoint column");
        let mut endpoints: Vec<&str> = rows.iter().map(|row| &row[column]).collect();
        endpoints.sort_unstable();
        assert_eq!(endpoints, ["'-2", "'=1+1", "'@x", "web-1"]);
        // What the page was narrowed to is what is downloaded.
        let narrowed = admin.get("/t/acme/billing/usage.csv?endpoint=web-1").await.body;
        assert_eq!(narrowed.lines().count(), 2, "{narrowed}");
        assert!(narrowed.contains("web-1") && !narrowed.contains("@x"));
        let total: f64 = {
            let column = headers.iter().position(|name| name.starts_with("cost")).expect("a cost column");
            rows.iter().map(|row| row[column].parse::<f64>().unwrap()).sum()
        };
        let ledger: i64 = world.rows(&cast.tenant).await.iter().map(|row| row.cost.0).sum();
        assert!((total * 1e9 - ledger as f64).abs() < 0.5, "{total} and {ledger}");
    }
}

on_both! {
    async fn endpoints_that_the_operator_allows_are_on_record(world: World) {
        cast(world).await;
        let shown = sign_in(world, "root").await.get("/platform/shared-keys").await;
        shown.says("Allowed endpoints");
        shown.says(&world.sandbox_url);
        let mut tx = world.services.db.read().await.unwrap();
        let rows = audit::list(&mut tx, Owner::Platform, 500).await.unwrap();
        let row = rows.iter().find(|row| row.action == "platform.endpoints_allowed").expect("a row of the record");
        assert!(row.detail.contains(&world.sandbox_url), "{}", row.detail);
    }
}

on_both! {
    async fn an_operator_starts_from_nothing(world: World) {
        // As on a first start: no user, no tenant, no shared key.
        let link = world.services.first_admin_link().await.unwrap().unwrap();
        let path = format!("/setup/{}", link.rsplit('/').next().unwrap());
        let mut root = Visitor::new(&world.url);
        root.get(&path).await.says("super admin");
        let weak = root.post(&path, &[("email", "root@acme.example"), ("password", "short")]).await;
        assert_eq!(weak.status, 422);
        let done = root.post(&path, &[("email", "root@acme.example"), ("password", PASSWORD)]).await;
        assert_eq!(done.status, 303, "{}", done.body);
        assert_eq!(root.get(&path).await.status, 404, "the link works once");
        root.get("/platform/shared-keys").await;
        let shared = root.post("/platform/shared-keys/new", &[("api_key", &test_key("ok")), ("key_name", "shared")]).await;
        assert_eq!(shared.status, 303, "{}", shared.body);
        root.get("/platform/tenants/new").await;
        let tenant = [("name", "Globex"), ("slug", "globex"), ("plan", "pro"), ("time_zone", "Europe/Berlin"), ("admin_email", "ada@globex.example")];
        let made = root.post("/platform/tenants/new", &tenant).await;
        assert_eq!(made.status, 200, "{}", made.body);
        made.says("/setup/");
        let twice = root.post("/platform/tenants/new", &tenant).await;
        assert_eq!(twice.status, 422);
        let path = format!("/setup/{}", made.body.split("/setup/").nth(1).unwrap().chars().take_while(char::is_ascii_alphanumeric).collect::<String>());
        let mut ada = Visitor::new(&world.url);
        ada.get(&path).await;
        let done = ada.post(&path, &[("password", "another 12 letters")]).await;
        assert_eq!(done.status, 303, "{}", done.body);
        ada.get("/t/globex/settings/api-keys").await.says("Using Acme's shared Anthropic infrastructure.");
        root.get("/platform/tokens").await;
        let made = root.post("/platform/tokens", &[("name", "Backend"), ("days", "")]).await;
        made.says("kws_");
        let token: String = made.body.split("kws_").nth(1).unwrap().chars().take_while(char::is_ascii_alphanumeric).collect();
        let answer = world.message(&format!("kws_{token}")).header("x-keyward-tenant", "globex").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-keyward-usage-mode"], "managed");
    }
}
